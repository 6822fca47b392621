//! Released clones that become warm again: the server's processor time for each hand-out, and the throughput.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use pgstencil::Stencil;
use sqlx::PgConnection;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::commands::{execute, name};
use crate::cost::cpu_of;
use crate::library::{take, wait_until_left};
use crate::place::{Place, close, load, tell};
use crate::project::{Generated, WARM, markdown, write_config};
use crate::samples::{median, ms, times};

/// How many databases a loop asks for.
const DATABASES: usize = 60;

const READ: &str = "select count(*) from t1 join t0 on t0.id = t1.b";
/// Three tables, to which no other refers.
const WRITE: &str =
    "insert into t1 (a) values ('x'); insert into t12 (a) values ('y'); insert into t23 (a) values ('z')";

/// Prints the tables, for 100 and for 400 tables.
pub(crate) fn measure(place: &Place, rounds: usize) {
    let Some(server) = place.postmaster().filter(|_| place.server.version_major() >= 15) else {
        println!("\nRecycled clones are measured on a private server of version 15 or later only.");
        return;
    };
    let repeats = rounds.div_ceil(7);
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let mut rows = Vec::new();
    let before = load();
    for tables in [100, 400] {
        let project = Generated::empty_tables(tables);
        for (what, recycle, sql) in [("reads", "clean", READ), ("writes three", "wash", WRITE)] {
            for clients in [1, 8] {
                tell(&format!("recycled: {tables} tables, {what}, {clients} clients"));
                let [mut raw, mut ours] = [const { Vec::new() }; 2];
                let config = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
                let of = format!("recycled_{tables}_{recycle}");
                write_config(&project.folder(), &place.registry, &of, WARM, config.path());
                let text = std::fs::read_to_string(config.path()).unwrap();
                let keys = format!("[clone]\nrecycle = \"{recycle}\"\n");
                std::fs::write(config.path(), text.replace("[clone]\n", &keys)).unwrap();
                let stencil = runtime.block_on(async {
                    Stencil::open(config.path()).server_url(place.url("postgres")).await.unwrap()
                });
                let fingerprint = runtime.block_on(stencil.ensure(None)).unwrap().fingerprint;
                let template = place.server.psql(
                    &place.registry,
                    &format!(
                        "select d.name from pgstencil.database d join pgstencil.template t on t.id = d.template_id \
                         where t.state = 'ready' and t.fingerprint = '{fingerprint}' and t.project = '{of}'"
                    ),
                );
                // The first one warms up.
                for repeat in 0..=repeats {
                    let measured = |took: Duration, cpu: f64| {
                        (took.as_secs_f64() * 1e3 / DATABASES as f64, cpu / DATABASES as f64)
                    };
                    let cpu = settled(server);
                    let took = runtime.block_on(raw_loop(place, &template, clients, sql));
                    let of_raw = measured(took, settled(server) - cpu);
                    let cpu = settled(server);
                    let took = runtime.block_on(our_loop(place, &stencil, clients, sql));
                    let of_ours = measured(took, settled(server) - cpu);
                    if repeat > 0 {
                        raw.push(of_raw);
                        ours.push(of_ours);
                    }
                }
                let of = |all: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
                    median(&all.iter().map(part).collect::<Vec<_>>())
                };
                let ratio = |part: fn(&(f64, f64)) -> f64| {
                    let both = ours.iter().zip(&raw).map(|(ours, raw)| part(ours) / part(raw));
                    median(&both.collect::<Vec<_>>())
                };
                let met = |value: f64, goal: f64| if value <= goal { "met" } else { "missed" };
                let goals: Vec<String> = goals(tables, recycle, clients)
                    .map(|(cpu, throughput)| {
                        let cpu = cpu.map(|most| format!("CPU ≤ {most}: {}", met(ratio(|r| r.1), most)));
                        let throughput = throughput.map(|least| {
                            format!("throughput ≥ {least}: {}", met(ratio(|r| r.0), 1.0 / least))
                        });
                        cpu.into_iter().chain(throughput).collect::<Vec<_>>()
                    })
                    .unwrap_or_default();
                rows.push(vec![
                    format!("{tables} tables, {what}"),
                    clients.to_string(),
                    ms(Some(of(&raw, |r| r.1))),
                    ms(Some(of(&ours, |r| r.1))),
                    times(Some(ratio(|r| r.1))),
                    ms(Some(of(&raw, |r| r.0))),
                    ms(Some(of(&ours, |r| r.0))),
                    times(Some(1.0 / ratio(|r| r.0))),
                    goals.join(", "),
                ]);
                runtime.block_on(stencil.close());
                tell(&rows.last().map(|row| row.join(" | ")).unwrap_or_default());
            }
        }
    }
    let head = [
        "per hand-out",
        "clients",
        "server's CPU, raw",
        "recycled",
        "÷ raw",
        "time, raw",
        "recycled, until settled",
        "throughput ÷ raw",
        "goal",
    ];
    println!(
        "\n## Recycled: {DATABASES} hand-outs a loop by the library, medians of {repeats} loops, in ms, load {before} to {}\n{}",
        load(),
        markdown(&head.map(str::to_owned), &rows)
    );
}

/// The goals for the server's processor time and the throughput, as multiples of raw SQL.
fn goals(tables: usize, recycle: &str, clients: usize) -> Option<(Option<f64>, Option<f64>)> {
    let throughput = |goal| (clients == 8).then_some(goal);
    match (tables, recycle) {
        (_, "clean") => Some((None, throughput(5.0))),
        (100, "wash") => Some((Some(0.5), throughput(2.0))),
        (400, "wash") => Some((Some(0.15), throughput(2.0))),
        _ => None,
    }
}

/// Processor time of the server when the sessions that were closed have ended.
fn settled(server: u32) -> f64 {
    std::thread::sleep(Duration::from_millis(300));
    cpu_of(server)
}

async fn use_it(place: &Place, database: &str, sql: &'static str) {
    let mut session: PgConnection = place.server.connect(database).await;
    execute(&mut session, sql.into()).await;
    close(session).await;
}

async fn raw_loop(place: &Place, template: &str, clients: usize, sql: &'static str) -> Duration {
    let left = AtomicUsize::new(DATABASES);
    let mut admins = Vec::new();
    for _ in 0..clients {
        admins.push(place.server.admin().await);
    }
    let started = Instant::now();
    let client = async |mut admin: PgConnection| {
        while take(&left) {
            let name = name();
            execute(&mut admin, format!("create database {name} template \"{template}\" strategy file_copy"))
                .await;
            use_it(place, &name, sql).await;
            wait_until_left(&mut admin, &name).await;
            execute(&mut admin, format!("drop database {name}")).await;
        }
        admin
    };
    let admins = futures_util::future::join_all(admins.into_iter().map(client)).await;
    let took = started.elapsed();
    for admin in admins {
        close(admin).await;
    }
    took
}

/// Until the last clone is warm again, or dropped.
async fn our_loop(place: &Place, stencil: &Stencil, clients: usize, sql: &'static str) -> Duration {
    let left = Arc::new(AtomicUsize::new(DATABASES));
    let started = Instant::now();
    let mut work = JoinSet::new();
    for _ in 0..clients {
        let (stencil, left) = (stencil.clone(), Arc::clone(&left));
        let server = place.server;
        work.spawn(async move {
            while take(&left) {
                let lease = stencil.database().await.unwrap();
                let mut session: PgConnection = server.connect(lease.name()).await;
                execute(&mut session, sql.into()).await;
                close(session).await;
                lease.release().await.unwrap();
            }
        });
    }
    work.join_all().await;
    stencil.close().await;
    started.elapsed()
}
