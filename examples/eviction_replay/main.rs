//! Replays real histories against eviction policies: which templates each would have kept, and what its
//! misses would have cost.
//!
//! ```sh
//! cargo run --release --example eviction_replay -- TRACES          all traces of the directory
//! cargo run --release --example eviction_replay -- TRACES zulip    some
//! cargo run --release --example eviction_replay -- TRACES --rebuilds    when provisional templates are rebuilt
//! cargo run --release --example eviction_replay -- TRACES --rebuilds --seed 7    with another random sample
//! cargo run --release --example eviction_replay -- TRACES --differ 0.05    with incremental builds that differ
//! ```
//!
//! A full build costs one unit per migration file; an extension costs one unit per added file, plus a share
//! of a full build for starting the migrate command (`--fixed 0.05`). The first line of a table is the cost
//! of LRU without extension, to which all others are compared.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a table on standard output is all that it makes"
)]

mod rebuild;
mod replay;
mod trace;

use std::collections::HashMap;
use std::path::PathBuf;

use rebuild::{Chance, Rule};
use replay::{Policy, Replay, Waypoints};
use trace::Trace;

const SIZES: [usize; 4] = [3, 6, 12, 24];

fn main() -> std::process::ExitCode {
    match replay() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn replay() -> Result<(), Box<dyn std::error::Error>> {
    let mut fixed = 0.05;
    let mut years = 4.0;
    let mut rebuilds = false;
    let mut seed = 0;
    let mut differ = None;
    let mut plain = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<f64, Box<dyn std::error::Error>> {
            let text = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            Ok(text.parse().map_err(|_| format!("{argument} needs a number, and `{text}` is none"))?)
        };
        match argument.as_str() {
            "--fixed" => fixed = number()?,
            "--years" => years = number()?,
            "--rebuilds" => rebuilds = true,
            "--seed" => seed = number()? as u64,
            "--differ" => differ = Some(number()?),
            option if option.starts_with('-') => return Err(format!("there is no option `{option}`").into()),
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
    let read =
        |name: &str| Ok::<_, Box<dyn std::error::Error>>(Trace::read(&directory, name)?.last_years(years));
    if let Some(differ) = differ {
        let mut traces = names.iter().map(|name| read(name)).collect::<Result<Vec<_>, _>>()?;
        print_differences(&mut traces, fixed, differ);
        return Ok(());
    }
    if rebuilds {
        for waypoints in Waypoints::ALL {
            for size in [20, 100] {
                let mut traces = names.iter().map(|name| read(name)).collect::<Result<Vec<_>, _>>()?;
                print_rebuilds(&mut traces, fixed, size, waypoints, seed);
            }
        }
        return Ok(());
    }
    for name in names {
        print_table(&mut read(&name)?, fixed);
    }
    Ok(())
}

/// Prints the work with each rule for rebuilds, in percent of a full build on each miss, and the uses of
/// provisional templates, in percent of all uses.
fn print_rebuilds(traces: &mut [Trace], fixed: f64, size: usize, waypoints: Waypoints, seed: u64) {
    println!("\n{size} templates, {}\n", waypoints.name());
    println!(
        "| trace | rule | waited | background | sum | rebuilds | accepted | links | provisional % | a day old % |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut sums: Vec<Vec<[f64; 5]>> = vec![Vec::new(); Rule::ALL.len()];
    for trace in traces {
        let name = trace.name.clone();
        let mut known = HashMap::new();
        let mut replay = Replay::new(trace, fixed, size, &mut known).with_waypoints(waypoints);
        let all = replay.run(Policy::Lru { extend: false }).work;
        let waited = replay.run(Policy::Pgstencil).work / all * 100.0;
        let steps = replay.into_steps();
        for (rule, sums) in Rule::ALL.into_iter().zip(&mut sums) {
            let sum = rebuild::run(&steps, rule, Chance { seed, differ: 0.0 });
            let background = sum.background / all * 100.0;
            let share = |uses: usize| uses as f64 / sum.uses as f64 * 100.0;
            let (provisional, late) = (share(sum.provisional), share(sum.late));
            println!(
                "| {name} | {} | {waited:.1} | {background:.1} | {:.1} | {} | {} | {} | {provisional:.1} | {late:.2} |",
                rule.name(),
                waited + background,
                sum.rebuilds,
                sum.accepted,
                sum.links,
            );
            sums.push([waited, background, waited + background, provisional, late]);
        }
    }
    for (rule, sums) in Rule::ALL.into_iter().zip(&sums) {
        let mean = |at: usize| sums.iter().map(|sum| sum[at]).sum::<f64>() / sums.len() as f64;
        let most = sums.iter().map(|sum| sum[2]).fold(0.0, f64::max);
        println!(
            "| mean | {} | {:.1} | {:.1} | {:.1} (at most {most:.1}) | | | | {:.1} | {:.2} |",
            rule.name(),
            mean(0),
            mean(1),
            mean(2),
            mean(3),
            mean(4)
        );
    }
}

/// Prints what the policy of pgstencil notices if a share of the incremental builds differs: means of many seeds, with
/// 20 templates and waypoints in copies.
fn print_differences(traces: &mut [Trace], fixed: f64, differ: f64) {
    const SEEDS: u64 = 200;
    println!(
        "\n{:.1} % of the incremental builds differ; 20 templates, {}, seeds 0 to {}\n",
        differ * 100.0,
        Waypoints::Copy.name(),
        SEEDS - 1
    );
    println!("| trace | sum | most | rebuilds | differing | accepted | unnoticed uses % | wrong bound % |");
    println!("|---|---|---|---|---|---|---|---|");
    for trace in traces {
        let name = trace.name.clone();
        let mut known = HashMap::new();
        let mut replay = Replay::new(trace, fixed, 20, &mut known).with_waypoints(Waypoints::Copy);
        let all = replay.run(Policy::Lru { extend: false }).work;
        let waited = replay.run(Policy::Pgstencil).work;
        let steps = replay.into_steps();
        let rule = Rule::Pgstencil { build: 200.0 };
        let runs: Vec<rebuild::Sum> =
            (0..SEEDS).map(|seed| rebuild::run(&steps, rule, Chance { seed, differ })).collect();
        let mean = |of: &dyn Fn(&rebuild::Sum) -> f64| runs.iter().map(of).sum::<f64>() / SEEDS as f64;
        let sum = |run: &rebuild::Sum| (waited + run.background) / all * 100.0;
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.1} |",
            mean(&sum),
            runs.iter().map(sum).fold(0.0, f64::max),
            mean(&|run| run.rebuilds as f64),
            mean(&|run| run.differing as f64),
            mean(&|run| run.accepted as f64),
            mean(&|run| run.unnoticed as f64 / run.uses as f64 * 100.0),
            mean(&|run| f64::from(u8::from(run.wrong_bounds > 0)) * 100.0),
        );
    }
}

fn print_table(trace: &mut Trace, fixed: f64) {
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
    let runs = trace.runs.len();
    for size in SIZES {
        let mut replay = Replay::new(trace, fixed, size, &mut known);
        let all = replay.run(Policy::Lru { extend: false });
        for policy in Policy::ALL {
            let sum = replay.run(policy);
            println!(
                "| {size} | {} | {:.2} | {} | {:.0} | {:.1} | {:.1} |",
                policy.name(),
                sum.hits as f64 / runs as f64 * 100.0,
                sum.misses,
                sum.extended as f64 / sum.misses.max(1) as f64 * 100.0,
                sum.work / all.work * 100.0,
                sum.worst_day,
            );
        }
    }
}
