//! `pgstencil stats`

use std::time::Duration;

use crate::Result;
use crate::wire::{Counts, StatsAnswer};

use super::prune;
use crate::cli::Session;
use crate::cli::args::Stats;
use crate::cli::output::RED;
use crate::cli::table::{Cell, Column, Look, table};
use crate::quantity::seconds;

pub(crate) async fn stats(session: &Session, args: Stats) -> Result<u8> {
    let stencil = session.stencil_for_reading().await?;
    let tallies = match &stencil {
        Some(stencil) => {
            let name = args.template.as_deref();
            stencil.stats(name, args.last, &session.deadline).await?
        }
        None => Vec::new(),
    };
    let answer = StatsAnswer::from(tallies.as_slice());
    if session.printer.json() {
        session.printer.object(&answer)?;
    } else if answer.templates.is_empty() {
        session.printer.say("nothing has happened yet");
    } else {
        let look = session.printer.look();
        session.printer.table(&tables(&answer, look))?;
    }
    if let Some(stencil) = &stencil {
        prune::look(session, stencil).await;
    }
    Ok(0)
}

const fn columns(first: &'static str, least: usize) -> [Column; 10] {
    [
        Column::broken(first, least),
        Column::whole("HITS"),
        Column::whole("EXTENSIONS"),
        Column::whole("MISSES"),
        Column::whole("FALLBACKS").spare(2),
        Column::whole("EVICTIONS").spare(3),
        Column::broken("WAITED", 7).spare(1),
        Column::broken("SAVED", 7),
        Column::broken("IN THE BACKGROUND", 10).spare(4),
        Column::broken("FAILED", 6),
    ]
}

const TEMPLATES: [Column; 10] = columns("TEMPLATE", 8);
const DAYS: [Column; 10] = columns("DAY", 10);

fn tables(answer: &StatsAnswer, look: Look) -> String {
    let mut rows: Vec<_> =
        answer.templates.iter().map(|t| row(format!("{}/{}", t.project, t.template), &t.counts)).collect();
    if rows.len() > 1 {
        rows.push(row("all".into(), &answer.total));
    }
    let days: Vec<_> = answer.days.iter().map(|d| row(d.day.clone(), &d.counts)).collect();
    let templates = table(&TEMPLATES, &rows, look);
    format!("{templates}\n{}", table(&DAYS, &days, look))
}

fn row(first: String, counts: &Counts) -> [Cell; 10] {
    let time = |ms: i64| seconds(Duration::from_millis(ms.unsigned_abs()));
    let cell = |ms: i64| match ms {
        0 => Cell::from("-"),
        ms => time(ms).into(),
    };
    [
        first.into(),
        counts.hits.to_string().into(),
        counts.extensions.to_string().into(),
        counts.misses.to_string().into(),
        counts.fallbacks.to_string().into(),
        counts.evictions.to_string().into(),
        cell(counts.spent_ms),
        cell(counts.saved_ms),
        cell(counts.compared_ms),
        match (counts.failures, counts.failed_ms) {
            (0, _) => Cell::from("0"),
            (n, 0) => Cell::painted(n.to_string(), RED),
            (n, ms) => Cell::painted(format!("{n} ({})", time(ms)), RED),
        },
    ]
}
