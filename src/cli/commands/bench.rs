//! `pgstencil bench`

use pgstencil::Result;
use pgstencil::wire::{BenchAnswer, CostAnswer};

use super::list::columns;
use super::prune;
use crate::cli::args::Bench;
use crate::cli::escape;
use crate::cli::output::size;
use crate::cli::{Session, background};

pub(crate) async fn bench(session: &Session, args: Bench) -> Result<u8> {
    let stencil = session.stencil().await?;
    let name = stencil.definition(args.template.as_deref())?.name.clone();
    let printer = session.printer.clone();
    let measured = stencil
        .bench(&name, usize::from(args.rounds), &session.limit, &|event| {
            printer.tell(&event);
        })
        .await;
    session.printer.finish();
    if measured.is_err() {
        // What was half made is dropped.
        background::start(&stencil);
    }
    let (fingerprint, measured) = measured?;
    let answer = BenchAnswer::new(&name, &fingerprint.to_string(), &measured);
    if session.printer.json() {
        session.printer.object(&answer)?;
    } else {
        session.printer.data(&words(&answer))?;
    }
    prune::look(session, &stencil).await;
    Ok(0)
}

fn words(answer: &BenchAnswer) -> String {
    let mut text = format!(
        "template {} ({}): {}, about {} files; PostgreSQL {}, fsync {}; medians of {} rounds, in ms\n\n",
        answer.template,
        &answer.fingerprint[..12],
        size(answer.bytes),
        answer.files,
        answer.server_version / 10_000,
        if answer.fsync { "on" } else { "off" },
        answer.rounds
    );
    let rows: Vec<_> = answer.strategies.iter().map(cells).collect();
    let head = ["STRATEGY", "CREATE", "FIRST CONNECTION", "DROP"];
    columns(&mut text, &head, &rows);
    for cost in &answer.strategies {
        if let Some(why) = &cost.refused {
            let why = escape::block(why);
            text += &format!("{}: the server cannot do that: {why}\n", cost.strategy);
        }
    }
    text += &match answer.recommended {
        "only" => "\nbefore PostgreSQL 15 there is one way to copy\n".to_owned(),
        best if answer.could_be_better() => format!(
            "\nrecommended: {best}; the config says `strategy = \"{}\"`: take that line out, `auto` goes by what was measured\n",
            answer.configured
        ),
        best => format!(
            "\nrecommended: {best}; that is what copies of about this size are made by from now on\n"
        ),
    };
    text
}

fn cells(cost: &CostAnswer) -> Vec<String> {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".into(), |ms| format!("{ms:.1}"));
    vec![
        cost.strategy.to_owned(),
        ms(cost.create_ms),
        ms(cost.connect_ms),
        ms(cost.drop_ms),
    ]
}
