//! The library in a loop: clone, connect, query, release, beside create, connect, query, drop in SQL.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgstencil::Fingerprint;
use pgstencil::Stencil;
use pgstencil::internals::Deadline;
use sqlx::{PgConnection, Row as _};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::commands::{execute, name};
use crate::place::{Place, close, tell};
use crate::project::{Generated, markdown};
use crate::samples::{median, times};
use crate::subject::{Config, Subject};

/// How many databases a loop asks for.
const DATABASES: usize = 200;
/// How often each loop runs, in turn with the others.
const REPEATS: usize = 3;

/// Prints throughputs with one and with eight clients.
pub(crate) fn measure(place: &Place) {
    let project = Generated::tables(100);
    let subject = Subject::new(place, &project.folder());
    let files = place.server.version_major() >= 15;
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let mut seen = Seen::default();
    let mut rows = Vec::new();
    for clients in [1, 8] {
        let [mut raw, mut raw_files, mut ours, mut ours_all] = [const { Vec::new() }; 4];
        for repeat in 0..REPEATS {
            tell(&format!("library: {clients} clients, {}/{REPEATS}", repeat + 1));
            subject.settle();
            raw.push(per_second(runtime.block_on(raw_loop(&subject, clients, ""))));
            if files {
                let strategy = " strategy file_copy";
                let took = runtime.block_on(raw_loop(&subject, clients, strategy));
                raw_files.push(per_second(took));
            }
            subject.settle();
            let (took, with_drops) = runtime.block_on(our_loop(&subject, clients, &mut seen));
            ours.push(per_second(took));
            ours_all.push(per_second(with_drops));
        }
        let ratio = |over: &[f64]| {
            let ratios: Vec<_> = over.iter().zip(&raw).map(|(a, b)| a / b).collect();
            times(Some(median(&ratios)))
        };
        let number = |values: &[f64]| match values {
            [] => "-".into(),
            values => format!("{:.1}", median(values)),
        };
        rows.push(vec![
            clients.to_string(),
            number(&raw),
            number(&raw_files),
            number(&ours),
            number(&ours_all),
            ratio(&ours),
            ratio(&ours_all),
        ]);
    }
    let head = [
        "clients",
        "raw SQL, each second",
        "raw SQL with `STRATEGY FILE_COPY`",
        "pgstencil, the loop",
        "pgstencil, until all are dropped",
        "loop ÷ raw",
        "until dropped ÷ raw",
    ];
    let mb = subject.bytes / 1e6;
    println!(
        "\n## Library: {DATABASES} × (clone, connect, query, release), 100 tables, {mb:.0} MB, medians of {REPEATS} loops\n{}",
        markdown(&head.map(str::to_owned), &rows)
    );
    println!(
        "Raw: `CREATE DATABASE ... TEMPLATE` and `DROP DATABASE` over one open connection for each \
         client, a new one for the query; the drop waits in steps of 1 ms until that has left, since \
         Postgres would wait in steps of 100. Ours makes warm clones ahead and drops in the same \
         process, beside the loop. Of \
         {} clones {} were missing, {} handed out twice, {} dirty.",
        seen.asked, seen.missing, seen.twice, seen.dirty
    );
    if !subject.fills() {
        println!("\n**No warm clones came: all of these are cold.**");
    }
}

fn per_second(took: Duration) -> f64 {
    DATABASES as f64 / took.as_secs_f64()
}

/// What is wrong with clones, over all loops.
#[derive(Default)]
struct Seen {
    asked: usize,
    missing: usize,
    twice: usize,
    dirty: usize,
    /// Names and oids of all that there were. A server counts oids up.
    names: HashSet<String>,
    oids: HashSet<u32>,
}

/// The same use of a database in all loops: it must be fresh and whole, and is not fresh any more then. Also
/// returns its oid.
async fn is_fresh(session: &mut PgConnection) -> (bool, u32) {
    const LOOK: &str = "select to_regclass('public.bench_marker') is null and \
                        (select count(*) = 20 from t99) as fresh, \
                        (select oid::int8 from pg_database where datname = current_database()) as oid";
    let fresh = sqlx::query(LOOK).fetch_one(&mut *session).await.unwrap();
    execute(session, "create table bench_marker (a int)".into()).await;
    (fresh.get("fresh"), u32::try_from(fresh.get::<i64, _>("oid")).unwrap())
}

async fn raw_loop(subject: &Subject<'_>, clients: usize, strategy: &'static str) -> Duration {
    let server = subject.place.server;
    let left = Arc::new(AtomicUsize::new(DATABASES));
    let mut admins = Vec::new();
    for _ in 0..clients {
        admins.push(server.admin().await);
    }
    let started = Instant::now();
    let mut work = JoinSet::new();
    for mut admin in admins {
        let (left, template) = (Arc::clone(&left), subject.template.clone());
        work.spawn(async move {
            while take(&left) {
                let name = name();
                let create = format!("create database {name} template \"{template}\"{strategy}");
                execute(&mut admin, create).await;
                let mut session = server.connect(&name).await;
                assert!(is_fresh(&mut session).await.0);
                close(session).await;
                wait_until_left(&mut admin, &name).await;
                execute(&mut admin, format!("drop database {name}")).await;
            }
            admin
        });
    }
    let admins = work.join_all().await;
    let took = started.elapsed();
    for admin in admins {
        close(admin).await;
    }
    took
}

pub(crate) async fn wait_until_left(admin: &mut PgConnection, name: &str) {
    const LOOK: &str = "select exists (select from pg_stat_activity where datname = $1) as there";
    loop {
        let row = sqlx::query(LOOK).bind(name).fetch_one(&mut *admin).await;
        if !row.unwrap().get::<bool, _>("there") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

/// The time of the loop, and until all of its databases are dropped.
async fn our_loop(subject: &Subject<'_>, clients: usize, seen: &mut Seen) -> (Duration, Duration) {
    let stencil = stencil(subject).await;
    let left = Arc::new(AtomicUsize::new(DATABASES));
    let shared = Arc::new(Mutex::new(std::mem::take(seen)));
    let fingerprint = stencil.ensure(None).await.unwrap().fingerprint;
    let started = Instant::now();
    let enough = Arc::new(AtomicBool::new(false));
    let filler = tokio::spawn(fill(stencil.clone(), fingerprint, Arc::clone(&enough)));
    let mut work = JoinSet::new();
    for _ in 0..clients {
        let (stencil, left, shared) = (stencil.clone(), Arc::clone(&left), Arc::clone(&shared));
        let server = subject.place.server;
        work.spawn(async move {
            while take(&left) {
                let lease = stencil.database().await.unwrap();
                {
                    let mut seen = shared.lock().unwrap();
                    seen.asked += 1;
                    let name = seen.names.insert(lease.name().to_owned());
                    seen.twice += usize::from(!name);
                }
                let options = server.options(&server.user(), &server.password(), lease.name());
                match sqlx::ConnectOptions::connect(&options).await {
                    Err(_) => shared.lock().unwrap().missing += 1,
                    Ok(mut session) => {
                        let (fresh, oid) = is_fresh(&mut session).await;
                        {
                            let mut seen = shared.lock().unwrap();
                            seen.dirty += usize::from(!fresh);
                            seen.twice += usize::from(!seen.oids.insert(oid));
                        }
                        close(session).await;
                    }
                }
                assert_eq!(lease.release().await.unwrap(), []);
            }
        });
    }
    work.join_all().await;
    let took = started.elapsed();
    stencil.close().await;
    let with_drops = started.elapsed();
    // As many as before each other loop.
    enough.store(true, Ordering::Relaxed);
    filler.await.unwrap();
    stencil.close().await;
    *seen = std::mem::take(&mut *shared.lock().unwrap());
    (took, with_drops)
}

async fn stencil(subject: &Subject<'_>) -> Stencil {
    Stencil::open(subject.config(Config::Warm)).server_url(subject.place.url("postgres")).await.unwrap()
}

/// What the detached process of the command line does after each hand-out, over and over.
async fn fill(stencil: Stencil, fingerprint: Fingerprint, enough: Arc<AtomicBool>) {
    loop {
        let made = stencil.fill_template("app", &fingerprint, true, &[], &Deadline::default()).await;
        if made.unwrap() == 0 {
            if enough.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
