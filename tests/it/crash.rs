//! pgstencil and Postgres killed at any moment: no ready template is half built, nothing is lost
//! that the next commands do not find, and nobody's database is touched.
//!
//! `PGSTENCIL_TEST_KILLS=30` kills as often in each phase as the project's first issue asks for
//! (default: 5), `PGSTENCIL_TEST_SEED=N` repeats the moments of a run, which prints its seed.

use std::time::{Duration, Instant};

use crate::support::hold::{Held, oid, only_templates_left, sessions};
use crate::support::server::{PATIENCE, quote_ident};
use crate::support::{Build, Pgstencil, Project, TestServer, eventually, server, until_done};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn kills() -> u64 {
    number("PGSTENCIL_TEST_KILLS").unwrap_or(5)
}

/// Moments that can be had again.
struct Moments(u64);

impl Moments {
    fn new(phase: &str) -> Self {
        let seed = number("PGSTENCIL_TEST_SEED").unwrap_or_else(|| {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes).unwrap();
            u64::from(u32::from_le_bytes(bytes))
        });
        eprintln!("{phase}: PGSTENCIL_TEST_SEED={seed}");
        Moments(seed)
    }

    /// A moment before `end`.
    fn before(&mut self, end: Duration) -> Duration {
        // Knuth's MMIX; the upper bits are the random ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        end.mul_f64((self.0 >> 33) as f64 / (1_u64 << 31) as f64)
    }
}

fn project<'s>(server: &'s TestServer, databases: &str) -> Project<'s> {
    let project = Project::with_migrations(server);
    project.append_config(&format!("databases = {databases}\n[clone]\norphan_grace = \"1s\""));
    project
}

/// A database that nobody but its maker may touch, named as if it were ours.
struct Alike {
    name: String,
    oid: String,
}

impl Alike {
    fn all(project: &Project<'_>) -> Vec<Alike> {
        [
            format!("pgstencil_{}abcdef", project.id),
            format!("{}_app_abcdefgh", project.name()),
            format!("tpl_{}_app_app_0123456789ab_abcd", project.name()),
        ]
        .into_iter()
        .map(|name| {
            let create = format!("create database {}", quote_ident(&name));
            project.server().psql("postgres", &create);
            let oid = oid(project, &name);
            Alike { name, oid }
        })
        .collect()
    }
}

fn sweep(project: &Project<'_>) {
    Pgstencil::new(project).args(["run", "--", "true"]).success();
}

/// What is there but templates and what never was ours.
fn left(project: &Project<'_>, alike: &[Alike]) -> Vec<String> {
    let mut left = project.databases();
    left.retain(|name| !name.starts_with("tpl_"));
    left.retain(|name| !alike.iter().any(|a| a.name == *name));
    left
}

/// Commands sweep until so many are left. Two do, with the grace in between, unless the background is late.
#[track_caller]
fn commands_leave(project: &Project<'_>, alike: &[Alike], count: usize) {
    let swept = until_done(|| sweep(project), || left(project, alike).len() == count);
    assert!(swept, "{:?}", left(project, alike));
}

/// Only whole templates are there then, and what never was ours.
#[track_caller]
fn commands_clean_up(project: &Project<'_>, alike: &[Alike]) {
    commands_leave(project, alike, 0);
    for a in alike {
        assert_eq!(oid(project, &a.name), a.oid, "{}", a.name);
        project.server().drop_database(&a.name);
    }
    only_templates_left(project);
    whole_templates(project);
}

/// Every template database is one of a `ready` row and has all that its migrations make; every
/// `ready` row has its databases.
#[track_caller]
fn whole_templates(project: &Project<'_>) {
    let server = project.server();
    let mut there = project.databases();
    there.retain(|name| name.starts_with("tpl_"));
    let ready = "select d.name from pgstencil.database d join pgstencil.template t
         on t.id = d.template_id where t.state = 'ready' and d.state = 'present' order by 1";
    let ready = server.psql(&project.registry(), ready);
    assert_eq!(there, ready.lines().collect::<Vec<_>>());
    assert!(!there.is_empty());
    for name in there {
        let ident = quote_ident(&name);
        let door = |open| format!("alter database {ident} allow_connections {open}");
        server.psql("postgres", &door(true));
        let seen = server.psql(
            &name,
            "select (select count(*) from users), (select count(*) from orders),
                    (select max(n) from progress), (select count(*) from schema_migrations)",
        );
        server.psql("postgres", &door(false));
        assert_eq!(seen, "1|1|8|3", "{name} is half built");
    }
}

/// A migration in several small steps, each committed on its own by the build below.
fn slow_migrations(project: &Project<'_>, n: u64) {
    project.add_migration("0003_progress", &format!("create table progress as select 0 as n; -- {n}"));
    project.build(&Build::Script(
        r#"migrate
for url in $DATABASE_URL $(env | sed -n 's/^PGSTENCIL_URL_[^=]*=//p'); do
    sql -d "$url" -f steps.sql
done
"#
        .into(),
    ));
    let steps: Vec<String> = (1..=8).map(|n| format!("update progress set n = {n};\n")).collect();
    project.write("steps.sql", &steps.join("select pg_sleep(0.005);\n"));
}

#[test]
fn killed_while_it_builds() {
    let project = project(server(), "[\"app\"]");
    let alike = Alike::all(&project);
    let mut moments = Moments::new("build");
    slow_migrations(&project, 0);
    let whole = Pgstencil::new(&project).args(["run", "--", "true"]).success().time;
    let mut late = 0;
    for n in 1..=kills() {
        slow_migrations(&project, n);
        let mut run = Pgstencil::new(&project).args(["run", "--", "true"]).spawn();
        late += u64::from(run.wait_timeout(moments.before(whole)));
        run.kill9();
        if n % 2 == 0 {
            // The same once more, while the killed one's command may not have ended yet.
            sweep(&project);
        }
    }
    eprintln!("build: a whole run took {whole:.1?}; {late} had ended before they were killed");
    commands_clean_up(&project, &alike);
}

#[test]
fn killed_while_it_clones() {
    // Three databases: copied by three sessions at once.
    let project = project(server(), "[\"a\", \"b\", \"c\"]");
    let alike = Alike::all(&project);
    let mut moments = Moments::new("clone");
    slow_migrations(&project, 0);
    sweep(&project);
    let whole = Pgstencil::new(&project).args(["run", "--", "true"]).success().time;
    let mut late = 0;
    for n in 1..=kills() {
        let command = if n % 3 == 0 { &["clone", "--ttl", "1s"][..] } else { &["run", "--", "true"] };
        let mut run = Pgstencil::new(&project).args(command).spawn();
        late += u64::from(run.wait_timeout(moments.before(whole)));
        run.kill9();
        if n % 2 == 0 {
            sweep(&project);
        }
    }
    eprintln!("clone: a whole run took {whole:.1?}; {late} had ended before they were killed");
    // Those that a lease by the clock still holds.
    std::thread::sleep(Duration::from_secs(1));
    commands_clean_up(&project, &alike);
    assert_eq!(project.builds(), 1);
}

#[test]
fn killed_while_its_command_runs() {
    let project = project(server(), "[\"app\"]");
    let alike = Alike::all(&project);
    let mut moments = Moments::new("command");
    slow_migrations(&project, 0);
    sweep(&project);
    let mut in_use = Vec::new();
    for n in 1..=kills() {
        let mut held = match n % 3 {
            0 => Held::inside(&project, &[]),
            _ => Held::idle(&project, &[]),
        };
        std::thread::sleep(moments.before(Duration::from_millis(100)));
        match n % 3 {
            0 => {
                let oid = oid(&project, &held.database);
                held.run.kill9();
                in_use.push((held, oid));
            }
            // The command ends first, so that the clone is being released.
            1 => {
                held.end();
                std::thread::sleep(moments.before(Duration::from_millis(100)));
                held.run.kill9();
            }
            _ => {
                held.run.kill9();
                held.end();
            }
        }
    }
    for _ in 0..3 {
        sweep(&project);
        std::thread::sleep(Duration::from_millis(1300));
    }
    for (held, before) in &in_use {
        assert_eq!(oid(&project, &held.database), *before, "it is in use");
        assert!(sessions(&project, &held.database) > 0);
    }
    commands_leave(&project, &alike, in_use.len());
    for (held, _) in &in_use {
        held.end();
        assert!(eventually(PATIENCE, || sessions(&project, &held.database) == 0));
    }
    drop(in_use);
    commands_clean_up(&project, &alike);
}

/// Waits until the server takes connections again.
#[track_caller]
fn recovered(server: &TestServer) {
    let up = || server.try_psql("postgres", "select 1").is_ok();
    assert!(eventually(PATIENCE, up), "the server does not come back");
}

/// The backend that runs a statement that begins so.
fn backend(server: &TestServer, statement: &str) -> Option<i32> {
    let sql =
        format!("select pid from pg_stat_activity where state = 'active' and query like '{statement}%'");
    let pids = server.try_psql("postgres", &sql).ok()?;
    pids.lines().next()?.parse().ok()
}

#[test]
fn postgres_killed_under_a_build_and_a_clone() {
    let private = TestServer::private();
    let project = project(&private, "[\"a\", \"b\"]");
    let mut moments = Moments::new("postgres");
    let checkpoint = || private.psql("postgres", "checkpoint");
    slow_migrations(&project, 0);
    sweep(&project);
    let rounds = kills().div_ceil(2);
    for n in 1..=rounds {
        // A backend dies: the postmaster ends all sessions and recovers.
        slow_migrations(&project, n);
        let steps = project.read("steps.sql");
        project.write("steps.sql", &steps.replace("0.005", "0.2"));
        let run = Pgstencil::new(&project).args(["run", "--", "true"]).spawn();
        let mut pid = None;
        let found = eventually(PATIENCE, || {
            pid = backend(&private, "select pg_sleep");
            pid.is_some()
        });
        assert!(found);
        let pid = nix::unistd::Pid::from_raw(pid.unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let output = run.wait();
        assert!(!output.status.success(), "{output}");
        recovered(&private);
        sweep(&project);
        checkpoint();

        // The postmaster dies at any moment of a build, then of a clone.
        for build in [true, false] {
            if build {
                slow_migrations(&project, 1000 + n);
            }
            let started = Instant::now();
            let run = Pgstencil::new(&project).args(["run", "--", "true"]).spawn();
            std::thread::sleep(moments.before(Duration::from_millis(400)));
            private.kill9();
            private.start();
            recovered(&private);
            let output = run.wait();
            eprintln!("{} after {:.1?}", output.status, started.elapsed());
            checkpoint();
        }
    }
    commands_clean_up(&project, &[]);
}
