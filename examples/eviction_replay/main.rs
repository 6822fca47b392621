//! Replays real histories against eviction policies: which templates each would have kept, and what its
//! misses would have cost.
//!
//! ```sh
//! cargo run --release --example eviction_replay -- TRACES          all traces of the directory
//! cargo run --release --example eviction_replay -- TRACES zulip    some
//! ```
//!
//! A full build costs one unit per migration file; an extension costs one unit per added file, plus a share
//! of a full build for starting the migrate command (`--fixed 0.05`). The first line of a table is the cost
//! of LRU without extension, to which all others are compared.

#![allow(clippy::print_stdout, reason = "a table on standard output is all that it makes")]

mod replay;
mod trace;

use std::collections::HashMap;
use std::path::PathBuf;

use replay::{Policy, Replay};
use trace::Trace;

const SIZES: [usize; 4] = [3, 6, 12, 24];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut fixed = 0.05;
    let mut years = 4.0;
    let mut plain = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<f64, Box<dyn std::error::Error>> {
            Ok(arguments.next().ok_or("a number is missing")?.parse()?)
        };
        match argument.as_str() {
            "--fixed" => fixed = number()?,
            "--years" => years = number()?,
            _ => plain.push(argument),
        }
    }
    let mut plain = plain.into_iter();
    let Some(directory) = plain.next().map(PathBuf::from) else {
        return Err("name the directory of the traces".into());
    };
    let mut names: Vec<String> = plain.collect();
    if names.is_empty() {
        names = trace::names(&directory)?;
    }
    for name in names {
        let trace = Trace::read(&directory, &name)?.last_years(years);
        print_table(&trace, fixed);
    }
    Ok(())
}

fn print_table(trace: &Trace, fixed: f64) {
    println!(
        "\n{}: {} runs, {} sets; an extension starts at {:.0} % of a full build\n",
        trace.name,
        trace.runs.len(),
        trace.distinct(),
        fixed * 100.0
    );
    println!("| templates | policy | hits % | misses | extended % | work % | worst day |");
    println!("|---|---|---|---|---|---|---|");
    let mut known = HashMap::new();
    for size in SIZES {
        let mut replay = Replay::new(trace, fixed, size, &mut known);
        let all = replay.run(Policy::Lru { extend: false });
        for policy in Policy::ALL {
            let sum = replay.run(policy);
            println!(
                "| {size} | {} | {:.2} | {} | {:.0} | {:.1} | {:.1} |",
                policy.name(),
                sum.hits as f64 / trace.runs.len() as f64 * 100.0,
                sum.misses,
                sum.extended as f64 / sum.misses.max(1) as f64 * 100.0,
                sum.work / all.work * 100.0,
                sum.worst_day,
            );
        }
    }
}
