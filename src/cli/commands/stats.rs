//! `pgstencil stats`

use std::time::Duration;

use pgstencil::Result;
use pgstencil::wire::{Counts, StatsAnswer};

use super::list::columns;
use super::prune;
use crate::cli::Session;
use crate::cli::args::Stats;
use crate::cli::output::seconds;

pub(crate) async fn stats(session: &Session, args: Stats) -> Result<u8> {
    let stencil = session.stencil_for_reading().await?;
    let tallies = match &stencil {
        Some(stencil) => {
            let name = args.template.as_deref();
            stencil.stats(name, args.last, &session.limit).await?
        }
        None => Vec::new(),
    };
    let answer = StatsAnswer::from(tallies.as_slice());
    if session.printer.json() {
        session.printer.object(&answer)?;
    } else if answer.templates.is_empty() {
        session.printer.say("nothing has happened yet");
    } else {
        session.printer.data(&table(&answer))?;
    }
    if let Some(stencil) = &stencil {
        prune::look(session, stencil).await;
    }
    Ok(0)
}

const HEAD: [&str; 8] = [
    "HITS",
    "EXTENSIONS",
    "MISSES",
    "FALLBACKS",
    "EVICTIONS",
    "WAITED",
    "SAVED",
    "IN THE BACKGROUND",
];

fn table(answer: &StatsAnswer) -> String {
    let mut text = String::new();
    let head = |first| std::iter::once(first).chain(HEAD).collect::<Vec<_>>();
    let mut rows: Vec<Vec<String>> = answer
        .templates
        .iter()
        .map(|t| row(format!("{}/{}", t.project, t.template), &t.counts))
        .collect();
    if rows.len() > 1 {
        rows.push(row("all".into(), &answer.total));
    }
    columns(&mut text, &head("TEMPLATE"), &rows);
    text.push('\n');
    let rows: Vec<Vec<String>> = answer
        .days
        .iter()
        .map(|d| row(d.day.clone(), &d.counts))
        .collect();
    columns(&mut text, &head("DAY"), &rows);
    text
}

fn row(first: String, counts: &Counts) -> Vec<String> {
    let time = |ms: i64| match ms {
        0 => "-".to_owned(),
        ms => seconds(Duration::from_millis(ms.unsigned_abs())),
    };
    vec![
        first,
        counts.hits.to_string(),
        counts.extensions.to_string(),
        counts.misses.to_string(),
        counts.fallbacks.to_string(),
        counts.evictions.to_string(),
        time(counts.spent_ms),
        time(counts.saved_ms),
        time(counts.compared_ms),
    ]
}
