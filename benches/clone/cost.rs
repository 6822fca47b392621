//! What a hand-out costs the machine: the processor time of all processes, in loops without a pause.
//!
//! A clone with one row written to it, by `psql`, and its drop. Everything counts until the last database is dropped,
//! as many clones are warm as before, and no process in the background has anything left to do.

use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::commands::{execute, name};
use crate::place::{Place, close, load, tell};
use crate::project::{Generated, markdown};
use crate::samples::{Samples, median, ms, times};
use crate::subject::{Config, Subject, database};

/// Hand-outs of a loop.
const LOOP: usize = 50;
const WRITE: &str = "insert into t1 (a) values ('x')";

const CREATEDB: &str = "`createdb -T`, `psql`, `dropdb`";
const RAW: &str =
    "`CREATE DATABASE ... STRATEGY FILE_COPY`, `psql`, `DROP DATABASE`, over an open connection";
const RUN: &str = "`pgstencil run -- psql`";
const CLONE: &str = "`pgstencil clone`, `psql`, `pgstencil release`";
const PSQL: &str = "`psql` alone";
const THINGS: [&str; 5] = [CREATEDB, RAW, RUN, CLONE, PSQL];

/// Processor time in ms.
#[derive(Clone, Copy)]
struct Cpu {
    client: f64,
    background: f64,
    server: f64,
}

impl Cpu {
    fn all(self) -> f64 {
        self.client + self.background + self.server
    }
}

/// Prints the table of a template of 100 tables.
pub(crate) fn measure(place: &Place, rounds: usize) {
    let Some(server) = place.postmaster() else {
        println!("\nThe cost of a hand-out is measured on a private server only.");
        return;
    };
    let rounds = rounds.div_ceil(4);
    tell(&format!("cost: {rounds} rounds of {LOOP} hand-outs"));
    // Processes in the background become ours when their starter ends, and their time is told when they end: those that
    // stay until warm clones are taken or spare are ended.
    prctl::set_child_subreaper(true).unwrap();
    let project = Generated::tables(100);
    let subject = Subject::new(place, &project.folder());
    let mut walls: Vec<(&str, Vec<f64>)> = THINGS.iter().map(|thing| (*thing, Vec::new())).collect();
    let mut costs: Vec<Vec<Cpu>> = vec![Vec::new(); THINGS.len()];
    let mut before_all = String::new();
    // The first one warms up.
    for round in 0..=rounds {
        for turn in 0..THINGS.len() {
            let nth = (turn + round) % THINGS.len();
            subject.settle();
            subject.end_background();
            reap();
            let (server_before, client_before) = (cpu_of(server), children());
            let took = one_loop(&subject, THINGS[nth]);
            let client = children() - client_before;
            subject.settle();
            subject.end_background();
            reap();
            let all = children() - client_before;
            let each = |ms: f64| ms / LOOP as f64;
            if round > 0 {
                walls[nth].1.extend(took.iter().map(|t| t.as_secs_f64() * 1e3));
                costs[nth].push(Cpu {
                    client: each(client),
                    background: each(all - client),
                    server: each(cpu_of(server) - server_before),
                });
            } else if before_all.is_empty() {
                before_all = load();
            }
        }
    }
    let base: Vec<f64> = costs[0].iter().map(|cpu| cpu.all()).collect();
    let rows: Vec<Vec<String>> = THINGS
        .iter()
        .enumerate()
        .map(|(nth, thing)| {
            let of = |part: fn(&Cpu) -> f64| median(&costs[nth].iter().map(part).collect::<Vec<_>>());
            let ratios: Vec<f64> = costs[nth].iter().zip(&base).map(|(cpu, base)| cpu.all() / base).collect();
            let mut row = vec![(*thing).to_owned()];
            row.extend(
                [of(|c| c.client), of(|c| c.background), of(|c| c.server), of(|c| c.all())]
                    .map(|v| ms(Some(v))),
            );
            row.push(times(Some(median(&ratios))));
            let mut walls = walls[nth].1.clone();
            walls.sort_by(f64::total_cmp);
            for share in [0.5, 0.95, 0.99] {
                row.push(ms(walls.get((walls.len() as f64 * share) as usize).copied()));
            }
            row
        })
        .collect();
    let head = [
        "per hand-out, in ms",
        "CPU: clients",
        "background",
        "server",
        "all",
        "÷ `createdb`",
        "time: p50",
        "p95",
        "p99",
    ];
    println!(
        "\n## Cost: {rounds} rounds of loops of {LOOP} without a pause, 100 tables, authentication {}, load {before_all} to {}\n{}",
        place.authentication(),
        load(),
        markdown(&head.map(str::to_owned), &rows)
    );
    let mut samples = Samples::default();
    for (thing, walls) in &walls {
        for ms in walls {
            samples.add(thing, Duration::from_secs_f64(ms / 1e3));
        }
    }
    let share = |whole: &str| Some(samples.median(whole)? - samples.median(PSQL)?);
    let ratio = |ms: Option<f64>| times(ms.zip(samples.median(CREATEDB)).map(|(ms, base)| ms / base));
    println!(
        "Of the time of `createdb -T`, `psql` and `dropdb`: `run -- psql` {}; without the time of `psql`, {}.",
        ratio(samples.median(RUN)),
        ratio(share(RUN))
    );
}

/// Runs a loop, and returns the time of each hand-out.
fn one_loop(subject: &Subject<'_>, thing: &'static str) -> Vec<Duration> {
    let psql = |database: &str| {
        subject.client("psql", &["-Xq", "-d", database, "-c", WRITE]);
    };
    let template = &subject.template;
    match thing {
        CREATEDB => repeat(|| {
            let name = name();
            subject.client("createdb", &["-T", template, &name]);
            psql(&name);
            subject.client("dropdb", &[&name]);
        }),
        // One runtime, since the session belongs to it.
        RAW => tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut session = subject.place.server.admin().await;
            let strategy =
                if subject.place.server.version_major() >= 15 { " strategy file_copy" } else { "" };
            let mut took = Vec::new();
            for _ in 0..LOOP {
                let (name, started) = (name(), Instant::now());
                let create = format!("create database {name} template \"{template}\"{strategy}");
                execute(&mut session, create).await;
                psql(&name);
                execute(&mut session, format!("drop database {name}")).await;
                took.push(started.elapsed());
            }
            close(session).await;
            took
        }),
        RUN => {
            let client = subject.place.client("psql");
            let client = client.to_str().unwrap();
            repeat(|| {
                subject.pgstencil(Config::Warm, &["run", "-q", "--", client, "-Xqc", WRITE]);
            })
        }
        CLONE => repeat(|| {
            let (_, url) = subject.pgstencil(Config::Warm, &["clone", "-q"]);
            psql(&database(&url));
            subject.pgstencil(Config::Warm, &["release", "-q", &database(&url)]);
        }),
        _ => {
            let name = name();
            subject.client("createdb", &["-T", template, &name]);
            let took = repeat(|| psql(&name));
            subject.client("dropdb", &[&name]);
            took
        }
    }
}

fn repeat(mut hand_out: impl FnMut()) -> Vec<Duration> {
    let once = |_| {
        let started = Instant::now();
        hand_out();
        started.elapsed()
    };
    (0..LOOP).map(once).collect()
}

/// Ends of processes that became ours.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

/// Processor time of all children that have ended, in ms.
fn children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e3
}

/// Processor time of a process and all its children, in ms, in steps of the kernel's clock.
pub(crate) fn cpu_of(process: u32) -> f64 {
    // Fields 14 to 17 of proc_pid_stat(5): its own time and that of children that have ended, in hundredths of a second.
    let stat = |pid: u32| -> Option<(u32, [f64; 4])> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |n: usize| fields.get(n)?.parse::<f64>().ok();
        Some((fields.get(1)?.parse().ok()?, [ticks(11)?, ticks(12)?, ticks(13)?, ticks(14)?]))
    };
    let mut ticks: f64 = stat(process).map_or(0.0, |(_, all)| all.iter().sum());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some((parent, times)) = pid.and_then(stat)
            && parent == process
        {
            ticks += times[0] + times[1];
        }
    }
    ticks * 10.0
}
