//! `pgstencil bench`

use crate::Result;
use crate::config::Strategy;
use crate::wire::{BenchAnswer, CostAnswer};

use super::prune;
use crate::cli::App;
use crate::cli::background::{Background, Task};
use crate::cli::escape;
use crate::cli::table::{Cell, Column, Look, table};
use crate::quantity::{count, size};
use clap::Args;

/// Measure the copy strategies on this server
///
/// `strategy = "auto"` then uses the fastest for copies of this size.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  pgstencil bench --rounds 15")]
pub(crate) struct Bench {
    /// Template definition to use [default: the only one]
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// How often each strategy is measured
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) rounds: u8,
}

pub(crate) async fn bench(app: &App, args: Bench) -> Result<u8> {
    let stencil = app.stencil().await?;
    let name = stencil.definition(args.template.as_deref())?.name.clone();
    let printer = app.printer.clone();
    let measured = stencil
        .bench(&name, usize::from(args.rounds), &app.deadline, &|event| {
            printer.tell(&event);
        })
        .await;
    app.printer.finish();
    if measured.is_err() {
        // Incomplete copies are dropped.
        Background::new(&stencil).finish(Task::CleanUp).await;
    }
    let (fingerprint, measured) = measured?;
    let answer = BenchAnswer::new(&name, &fingerprint.to_string(), &measured);
    if app.printer.json() {
        app.printer.object(&answer)?;
    } else {
        let look = app.printer.look();
        app.printer.table(&words(&answer, look))?;
    }
    prune::look(app, &stencil).await;
    Ok(0)
}

const COLUMNS: [Column; 4] = [
    Column::whole("STRATEGY"),
    Column::whole("CREATE"),
    Column::broken("FIRST CONNECTION", 10),
    Column::whole("DROP"),
];

fn words(answer: &BenchAnswer, look: Look) -> String {
    let head = format!(
        "template {} ({}): {}, about {}; PostgreSQL {}, fsync {}; medians of {}, in ms\n\n",
        answer.template,
        &answer.fingerprint[..12],
        size(answer.bytes),
        count(usize::try_from(answer.files).unwrap_or_default(), "file"),
        answer.server_version / 10_000,
        if answer.fsync { "on" } else { "off" },
        count(answer.rounds, "round")
    );
    let rows: Vec<_> = answer.strategies.iter().map(cells).collect();
    let mut text = look.wrap(&head) + &table(&COLUMNS, &rows, look);
    let mut remarks = String::new();
    for cost in &answer.strategies {
        if let Some(why) = &cost.refused {
            let why = escape::block(why);
            remarks += &format!("{}: not supported by this server: {why}\n", cost.strategy);
        }
    }
    remarks += &match answer.recommended {
        "only" => "\nbefore PostgreSQL 15 there is only one copy strategy\n".to_owned(),
        best if answer.could_be_better() => format!(
            "\nrecommended: {best}, but the config sets `strategy = \"{}\"`\nhint: {}\n",
            answer.configured,
            Strategy::USE_AUTO
        ),
        best => {
            format!("\nrecommended: {best}; pgstencil now uses it for copies of about this size\n")
        }
    };
    text += &look.wrap(&remarks);
    text
}

fn cells(cost: &CostAnswer) -> [Cell; 4] {
    let ms = |value: Option<f64>| {
        let text = value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
        Cell::from(text)
    };
    [cost.strategy.into(), ms(cost.create_ms), ms(cost.connect_ms), ms(cost.drop_ms)]
}
