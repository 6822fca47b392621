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
use crate::cost::cpu_of;
use crate::place::{Place, close, load, tell};
use crate::project::{Generated, markdown};
use crate::samples::{median, times};
use crate::subject::{Config, Subject};

/// How many databases a loop asks for, if `CYCLES` does not say.
const DATABASES: usize = 200;
/// How often each loop runs, in turn with the others.
const REPEATS: usize = 3;

/// What the users of a loop's databases do, and what becomes of those that were released.
struct Use {
    name: &'static str,
    writes: bool,
    /// `[clone] recycle`.
    recycle: &'static str,
}

const USES: [Use; 3] = [
    Use { name: "DDL", writes: true, recycle: "auto" },
    Use { name: "only reading", writes: false, recycle: "clean" },
    Use { name: "only reading, recycle = \"never\"", writes: false, recycle: "never" },
];

fn databases() -> usize {
    std::env::var("CYCLES").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(DATABASES)
}

/// Prints throughputs with 1 to 16 clients.
pub(crate) fn measure(place: &Place) {
    let project = Generated::tables(100);
    let subject = Subject::new(place, &project.folder());
    let files = place.server.version_major() >= 15;
    let strategy = if files { " strategy file_copy" } else { "" };
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let mut seen = Seen::default();
    let mut rows = Vec::new();
    let load_before = load();
    let floor = runtime.block_on(floor(&subject, strategy));
    for clients in [1, 2, 4, 8, 16] {
        let mut raw = Vec::new();
        let mut ours = USES.map(|_| Vec::new());
        for repeat in 0..REPEATS {
            tell(&format!("library: {clients} clients, {}/{REPEATS}", repeat + 1));
            subject.settle();
            raw.push(per_second(runtime.block_on(raw_loop(&subject, clients, strategy))));
            for (nth, of_use) in USES.iter().enumerate() {
                subject.settle();
                ours[nth].push(runtime.block_on(our_loop(&subject, clients, of_use, &mut seen)));
            }
        }
        for (of_use, looped) in USES.iter().zip(&ours) {
            let column = |value: fn(&Looped) -> f64| looped.iter().map(value).collect::<Vec<_>>();
            let over_raw = |over: &[f64]| {
                let ratios: Vec<_> = over.iter().zip(&raw).map(|(a, b)| a / b).collect();
                median(&ratios)
            };
            let (rate, dropped) = (column(|l| per_second(l.took)), column(|l| per_second(l.until_dropped)));
            rows.push(vec![
                clients.to_string(),
                of_use.name.to_owned(),
                format!("{:.1}", median(&raw)),
                format!("{:.1}", median(&rate)),
                format!("{:.1}", median(&dropped)),
                times(Some(over_raw(&rate))),
                times(Some(over_raw(&dropped))),
                looped.iter().map(|l| l.waiting).max().unwrap_or_default().to_string(),
                match over_raw(&rate) >= 1.3 && over_raw(&dropped) >= 1.0 {
                    true => "met".into(),
                    false => "missed".into(),
                },
            ]);
        }
    }
    let head = [
        "clients",
        "use",
        "raw SQL, each second",
        "pgstencil, the loop",
        "pgstencil, until all are dropped",
        "loop ÷ raw",
        "until dropped ÷ raw",
        "most that waited for their drop",
        "≥ 1.3 and ≥ 1",
    ];
    let mb = subject.bytes / 1e6;
    println!(
        "\n## Library: {} × (clone, connect, query, release), 100 tables, {mb:.0} MB, medians of {REPEATS} loops, load {load_before} to {}\n{}",
        databases(),
        load(),
        markdown(&head.map(str::to_owned), &rows)
    );
    println!(
        "Raw: `CREATE DATABASE ... TEMPLATE{}` and `DROP DATABASE` over one open connection for each \
         client, a new one for the query; the drop waits in steps of 1 ms until that has left, since \
         Postgres would wait in steps of 100. Ours makes warm clones ahead and drops in the same \
         process, beside the loop. Of \
         {} clones {} were missing, {} handed out twice, {} dirty.",
        strategy.to_uppercase(),
        seen.asked,
        seen.missing,
        seen.twice,
        seen.dirty
    );
    if let Some((create, drop)) = floor {
        println!(
            "CREATE and DROP alone take {create:.1} and {drop:.1} ms of the server's processor time, so a core does \
             {:.1} each second.",
            1000.0 / (create + drop)
        );
    }
    if !subject.fills() {
        println!("\n**No warm clones came: all of these are cold.**");
    }
}

/// Processor time of the server for one CREATE and one DROP, in ms; `None` if it cannot be seen.
async fn floor(subject: &Subject<'_>, strategy: &'static str) -> Option<(f64, f64)> {
    const NUMBER: usize = 50;
    let server = subject.place.postmaster()?;
    let mut admin = subject.place.server.admin().await;
    let names: Vec<String> = (0..NUMBER).map(|_| name()).collect();
    let start = cpu_of(server);
    for name in &names {
        let create = format!("create database {name} template \"{}\"{strategy}", subject.template);
        execute(&mut admin, create).await;
    }
    let created = cpu_of(server);
    for name in &names {
        execute(&mut admin, format!("drop database {name}")).await;
    }
    let dropped = cpu_of(server);
    close(admin).await;
    Some(((created - start) / NUMBER as f64, (dropped - created) / NUMBER as f64))
}

/// Result of one loop.
struct Looped {
    took: Duration,
    /// The same until all of its databases are dropped, or warm again.
    until_dropped: Duration,
    /// Most released clones that were seen at a time.
    waiting: usize,
}

fn per_second(took: Duration) -> f64 {
    databases() as f64 / took.as_secs_f64()
}

/// What is wrong with clones, over all loops.
#[derive(Default)]
struct Seen {
    asked: usize,
    missing: usize,
    twice: usize,
    dirty: usize,
    /// Names of all, and oids of those that were written to. A server counts oids up.
    names: HashSet<String>,
    oids: HashSet<u32>,
}

/// The use of a database: it must be fresh and whole, and if the use writes, it is not fresh any more then. Also returns
/// its oid.
async fn is_fresh(session: &mut PgConnection, writes: bool) -> (bool, u32) {
    const LOOK: &str = "select to_regclass('public.bench_marker') is null and \
                        (select count(*) = 20 from t99) as fresh, \
                        (select oid::int8 from pg_database where datname = current_database()) as oid";
    let fresh = sqlx::query(LOOK).fetch_one(&mut *session).await.unwrap();
    if writes {
        execute(session, "create table bench_marker (a int)".into()).await;
    }
    (fresh.get("fresh"), u32::try_from(fresh.get::<i64, _>("oid")).unwrap())
}

async fn raw_loop(subject: &Subject<'_>, clients: usize, strategy: &'static str) -> Duration {
    let server = subject.place.server;
    let left = Arc::new(AtomicUsize::new(databases()));
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
                assert!(is_fresh(&mut session, true).await.0);
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

async fn our_loop(subject: &Subject<'_>, clients: usize, of_use: &Use, seen: &mut Seen) -> Looped {
    let stencil = stencil(subject, of_use.recycle).await;
    let writes = of_use.writes;
    let left = Arc::new(AtomicUsize::new(databases()));
    let shared = Arc::new(Mutex::new(std::mem::take(seen)));
    let fingerprint = stencil.ensure(None).await.unwrap().fingerprint;
    let started = Instant::now();
    let enough = Arc::new(AtomicBool::new(false));
    let waiting = tokio::spawn(most_waiting(
        subject.place.server.connect(&subject.place.registry).await,
        Arc::clone(&enough),
    ));
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
                        let (fresh, oid) = is_fresh(&mut session, writes).await;
                        {
                            let mut seen = shared.lock().unwrap();
                            seen.dirty += usize::from(!fresh);
                            // One that was only read comes again.
                            let twice = seen.oids.contains(&oid);
                            seen.twice += usize::from(twice);
                            if writes {
                                seen.oids.insert(oid);
                            }
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
    let until_dropped = started.elapsed();
    // As many as before each other loop.
    enough.store(true, Ordering::Relaxed);
    filler.await.unwrap();
    stencil.close().await;
    *seen = std::mem::take(&mut *shared.lock().unwrap());
    Looped { took, until_dropped, waiting: waiting.await.unwrap() }
}

async fn stencil(subject: &Subject<'_>, recycle: &str) -> Stencil {
    let warm = subject.config(Config::Warm);
    let mut config: toml::Table = toml::from_str(&std::fs::read_to_string(&warm).unwrap()).unwrap();
    config["clone"].as_table_mut().unwrap().insert("recycle".into(), recycle.into());
    let file = warm.with_file_name(format!("{recycle}.toml"));
    std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
    Stencil::open(file).server_url(subject.place.url("postgres")).await.unwrap()
}

/// Counts the released clones now and then.
async fn most_waiting(mut session: PgConnection, enough: Arc<AtomicBool>) -> usize {
    let mut most = 0;
    while !enough.load(Ordering::Relaxed) {
        let count = "select count(*) as waiting from pgstencil.clone where state = 'released'";
        let row = sqlx::query(count).fetch_one(&mut session).await.unwrap();
        most = most.max(usize::try_from(row.get::<i64, _>("waiting")).unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    close(session).await;
    most
}

/// What the detached process of the command line does after each hand-out, over and over.
async fn fill(stencil: Stencil, fingerprint: Fingerprint, enough: Arc<AtomicBool>) {
    loop {
        let made = stencil.fill_template("app", &fingerprint, true, &[], &Deadline::default()).await;
        if made.unwrap() == 0 {
            if enough.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
