//! `pgstencil stats`

use std::time::Duration;

use crate::wire::{Counts, StatsAnswer};
use crate::{Result, Stencil};

use super::{list, prune};
use crate::cli::App;
use crate::cli::output::RED;
use crate::cli::table::{Cell, Column, Look, table};
use crate::quantity::{count, seconds};
use clap::Args;

/// Show hits, builds, and the time that they took and saved
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  pgstencil stats --last 7d\n  pgstencil stats -t app --json")]
pub(crate) struct Stats {
    /// Show only definitions of this name, of any project that shares the registry
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// Count only the last DURATION, such as `7d` [default: everything]
    #[arg(long, value_name = "DURATION", value_parser = last)]
    pub(crate) last: Option<Duration>,
}

fn last(text: &str) -> Result<Duration, String> {
    // The server's calendar ends some thousand years ago.
    let longest = humantime::parse_duration("1000y").map_err(|e| e.to_string())?;
    match humantime::parse_duration(text) {
        Ok(time) if time > longest => Err("the maximum is `1000y`".into()),
        Ok(time) => Ok(time),
        Err(e) => Err(e.to_string()),
    }
}

pub(crate) async fn stats(app: &App, args: Stats) -> Result<u8> {
    let stencil = app.stencil_for_reading().await?;
    let tallies = match &stencil {
        Some(stencil) => {
            let name = args.template.as_deref();
            stencil.stats(name, args.last, &app.deadline).await?
        }
        None => Vec::new(),
    };
    let answer = StatsAnswer::from(tallies.as_slice());
    if app.printer.json() {
        app.printer.object(&answer)?;
    } else if stencil.is_none() {
        // There is a message about it already.
    } else if answer.templates.is_empty() {
        app.printer.say("no events yet");
    } else {
        let look = app.printer.look();
        let mut text = tables(&answer, look);
        if let Some(stencil) = &stencil {
            text += &look.wrap(&provisional(app, stencil, args.template.as_deref()).await?);
        }
        app.printer.table(&text)?;
    }
    if let Some(stencil) = &stencil {
        prune::look(app, stencil).await;
    }
    Ok(0)
}

/// Describes the provisional templates, in one line each.
async fn provisional(app: &App, stencil: &Stencil, name: Option<&str>) -> Result<String> {
    let listing = stencil.list(false, &app.deadline).await?;
    let background_off = list::background_off(app)?;
    let shown = listing.templates.iter().filter(|template| {
        template.row.provisional && name.is_none_or(|name| template.row.definition == name)
    });
    Ok(shown.filter_map(|template| list::outlook(template, background_off)).collect())
}

const fn columns(first: &'static str, least: usize) -> [Column; 11] {
    [
        Column::broken(first, least),
        Column::whole("HITS"),
        Column::whole("EXTENSIONS"),
        Column::whole("PULLS").spare(5),
        Column::whole("MISSES"),
        Column::whole("FALLBACKS").spare(2),
        Column::whole("EVICTIONS").spare(3),
        Column::broken("WAITED", 7).spare(1),
        Column::broken("SAVED", 7),
        Column::broken("IN THE BACKGROUND", 10).spare(4),
        Column::broken("FAILED", 6),
    ]
}

const TEMPLATES: [Column; 11] = columns("TEMPLATE", 8);
const DAYS: [Column; 11] = columns("DAY", 10);

fn tables(answer: &StatsAnswer, look: Look) -> String {
    let mut rows: Vec<_> =
        answer.templates.iter().map(|t| row(format!("{}/{}", t.project, t.template), &t.counts)).collect();
    if rows.len() > 1 {
        rows.push(row("all".into(), &answer.total));
    }
    let days: Vec<_> = answer.days.iter().map(|d| row(d.day.clone(), &d.counts)).collect();
    let templates = table(&TEMPLATES, &rows, look);
    format!("{templates}\n{}\n{}", table(&DAYS, &days, look), look.wrap(&net(&answer.total)))
}

/// Describes the time saved: for commands, and for machines, which also do the work in the background.
fn net(total: &Counts) -> String {
    let time = |ms: i64| seconds(Duration::from_millis(ms.unsigned_abs()));
    let machine = match total.net_ms {
        net if net < 0 => format!("{} more", time(net)),
        net => format!("{} less", time(net)),
    };
    let waypoints = match usize::try_from(total.waypoints).unwrap_or_default() {
        0 => String::new(),
        1 => "one waypoint was built as the base of later builds\n".to_owned(),
        n => format!("{} were built as bases of later builds\n", count(n, "waypoint")),
    };
    let compared = match total.comparisons {
        0 => String::new(),
        n => format!("{} of {n} comparisons with full builds found no difference\n", n - total.differences),
    };
    waypoints
        + &compared
        + &format!(
            "commands waited {} less than for full builds; machines worked {machine} (rebuilds and comparisons took {})\n",
            time(total.saved_ms),
            time(total.compared_ms)
        )
}

fn row(first: String, counts: &Counts) -> [Cell; 11] {
    let time = |ms: i64| seconds(Duration::from_millis(ms.unsigned_abs()));
    let cell = |ms: i64| match ms {
        0 => Cell::from("-"),
        ms => time(ms).into(),
    };
    [
        first.into(),
        counts.hits.to_string().into(),
        counts.extensions.to_string().into(),
        counts.pulls.to_string().into(),
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
