//! Promises under faults: crashes that take back commits, transactions of others that hold what we need, and
//! networks that break off or fall silent.

use std::time::Duration;

use pgstencil::internals::LockKey;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

use crate::support::hold::{Held, list, only_templates_left};
use crate::support::server::{PATIENCE, Stop};
use crate::support::{
    Build, Fault, Pgstencil, Project, Proxy, TestServer, block_on, eventually, gives_up, server,
};

fn ensure(project: &Project<'_>) {
    Pgstencil::new(project).arg("ensure").success();
}

fn name_in(url: &str) -> String {
    let path = url.rsplit('/').next().unwrap();
    path.split('?').next().unwrap().to_owned()
}

fn warm_clones(project: &Project<'_>) -> usize {
    let clones = list(project)["clones"].clone();
    let all = clones.as_array().unwrap().iter();
    all.filter(|c| c["state"] == "warm").count()
}

/// A server whose commits do not wait for the disk.
fn asynchronous() -> TestServer {
    TestServer::private_with("synchronous_commit = off\nwal_writer_delay = 10s\n")
}

#[test]
fn what_was_handed_out_survives_a_crash_right_behind_it() {
    let server = asynchronous();
    let project = Project::with_migrations(&server);
    for round in 0..3 {
        project.add_migration(&format!("0{round}10_more"), "select 1;");
        ensure(&project);
        server.restart(Stop::Immediate);
        let hit = Pgstencil::new(&project).args(["ensure", "--json"]).success();
        assert_eq!(hit.json()["outcome"], "hit", "round {round}");
        let url = Pgstencil::new(&project).arg("clone").success();
        server.restart(Stop::Immediate);
        let name = name_in(url.line());
        assert_eq!(server.psql(&name, "select count(*) from users"), "1");
    }
}

#[test]
fn a_warm_clone_survives_it_too() {
    let server = asynchronous();
    let project = Project::with_migrations(&server);
    project.append_config("\n[clone]\nwarm = 2\n");
    ensure(&project);
    assert!(eventually(PATIENCE, || warm_clones(&project) == 2));
    let url = Pgstencil::new(&project).arg("clone").success();
    server.restart(Stop::Immediate);
    let name = name_in(url.line());
    assert_eq!(server.psql(&name, "select count(*) from users"), "1");
}

#[test]
fn a_run_keeps_its_clone_through_a_crash_of_the_server() {
    let server = asynchronous();
    let project = Project::with_migrations(&server);
    ensure(&project);
    let held = Held::idle(&project, &[]);
    server.restart(Stop::Immediate);
    assert_eq!(server.psql(&held.database, "select count(*) from users"), "1");
    held.end();
    let output = held.run.wait();
    output.code(0);
    assert!(!output.stderr.contains("dropped"), "{output}");
}

/// Holds a lock on the registry's tables, or on the databases of the server, until it is dropped.
fn blocker(project: &Project<'_>, sql: &str) -> PgConnection {
    let server = project.server();
    let options = server.options(&server.user(), &server.password(), &project.registry());
    block_on(async {
        let mut session = options.application_name("a person's tool").connect().await.unwrap();
        let text = sqlx::AssertSqlSafe(format!("begin; {sql}"));
        sqlx::raw_sql(text).execute(&mut session).await.unwrap();
        session
    })
}

fn unblock(session: PgConnection) {
    block_on(session.close()).unwrap();
}

/// A command ends about when `--wait` says, whatever is in its way.
fn ends(project: &Project<'_>, args: &[&str]) -> crate::support::cli::Output {
    // Without a bound it would last as long as the fault.
    Pgstencil::new(project).args(["--wait", "2s"]).args(args).limit(PATIENCE).run()
}

const COMMANDS: [&[&str]; 8] = [
    &["clone"],
    &["run", "--", "true"],
    &["ensure"],
    &["list"],
    &["stats"],
    &["explain"],
    &["evict", "--all", "--yes"],
    &["release", "NAME"],
];

#[test]
fn wait_bounds_every_command_behind_the_transaction_of_another() {
    let project = Project::with_migrations(server());
    let url = Pgstencil::new(&project).arg("clone").success();
    let name = name_in(url.line());
    let tables = "lock table pgstencil.meta, pgstencil.template, pgstencil.clone, pgstencil.database, \
                  pgstencil.event, pgstencil.project in access exclusive mode";
    let session = blocker(&project, tables);
    for command in COMMANDS {
        let command: Vec<&str> =
            command.iter().map(|word| if *word == "NAME" { name.as_str() } else { word }).collect();
        let waits =
            |wait: &str| Pgstencil::new(&project).args(["--wait", wait]).args(&command).limit(PATIENCE);
        let output = gives_up(waits, "a person's tool");
        assert!(output.stderr.contains("pg_terminate_backend"), "{command:?}: {output}");
    }
    unblock(session);
    Pgstencil::new(&project).args(["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn a_warm_hand_out_ends_behind_a_lock_on_its_row() {
    let project = Project::with_migrations(server());
    project.append_config("\n[clone]\nwarm = 1\nwarm_max = 1\n");
    ensure(&project);
    assert!(eventually(PATIENCE, || warm_clones(&project) == 1));
    let session = blocker(&project, "update pgstencil.template set hits = hits");
    ends(&project, &["clone"]).code(5);
    unblock(session);
    Pgstencil::new(&project).arg("clone").success();
}

#[test]
fn every_command_ends_on_a_network_that_falls_silent() {
    let mut project = Project::with_migrations(server());
    ensure(&project);
    let proxy = Proxy::new(server());
    project.connect_to(proxy.url(server()));
    for command in
        [&["clone"] as &[&str], &["run", "--", "true"], &["list"], &["ensure"], &["evict", "--all", "--yes"]]
    {
        proxy.plan(usize::MAX, Fault::Silent);
        Pgstencil::new(&project).args(command).success();
        let questions = proxy.heal();
        assert!(questions > 0);
        // Every third, as each of them takes the seconds of `--wait`.
        for at in (1..=questions.min(16)).step_by(3) {
            proxy.plan(at, Fault::Silent);
            let output = ends(&project, command);
            proxy.heal();
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 3 | 5)), "{command:?}, question {at}: {output}");
        }
    }
    // Also what they left running.
    let registry = project.registry();
    let quoted = crate::support::server::quote_literal(&registry);
    let sessions = format!(
        "select count(*) from pg_stat_activity where datname = {quoted} and application_name = 'pgstencil'"
    );
    let gone = || server().psql("postgres", &sessions) == "0";
    assert!(eventually(Duration::from_secs(120), gone));
}

#[test]
fn nothing_after_the_answer_changes_the_exit_code() {
    let mut project = Project::with_migrations(server());
    ensure(&project);
    let proxy = Proxy::new(server());
    project.connect_to(proxy.url(server()));
    for command in ["clone", "ensure"] {
        proxy.plan(usize::MAX, Fault::CutAfter);
        Pgstencil::new(&project).arg(command).success();
        let questions = proxy.heal();
        for fault in [Fault::CutBefore, Fault::CutAfter] {
            for at in 1..=questions {
                proxy.plan(at, fault);
                let output = Pgstencil::new(&project).arg(command).run();
                proxy.heal();
                let answered = !output.stdout.is_empty();
                let code = output.status.code();
                assert_eq!(answered, code == Some(0), "{command}, {fault:?} {at}: {output}");
            }
        }
    }
}

/// The names of the clones that somebody has, by the registry.
fn leased(project: &Project<'_>) -> Vec<String> {
    let clones = list(project)["clones"].clone();
    let mut names: Vec<String> = clones
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["state"] == "leased")
        .map(|c| c["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Sweeps until only these clones are left.
#[track_caller]
fn only_these_stay(project: &Project<'_>, names: &mut Vec<String>) {
    names.sort();
    let mut seen = Vec::new();
    let clean = eventually(PATIENCE, || {
        Pgstencil::new(project).arg("evict").success();
        seen = leased(project);
        seen == *names
    });
    assert!(clean, "left: {seen:?}, known: {names:?}");
    for name in names {
        assert!(project.server().has_database(name), "{name}");
    }
}

/// A clone that stays until somebody releases it.
const CLONE: [&str; 3] = ["clone", "--ttl", "never"];

/// A project whose server is reached by a relay, how many questions [`CLONE`] asks there, and the name of the
/// clone that it made.
fn behind_a_relay() -> (Project<'static>, Proxy, usize, String) {
    let mut project = Project::with_migrations(server());
    project.append_config(SHORT_GRACE);
    ensure(&project);
    let proxy = Proxy::new(server());
    project.connect_to(proxy.url(server()));
    proxy.plan(usize::MAX, Fault::Silent);
    let url = Pgstencil::new(&project).args(CLONE).success();
    let questions = proxy.heal();
    (project, proxy, questions, name_in(url.line()))
}

const SHORT_GRACE: &str = "\n[clone]\norphan_grace = \"1s\"\n";

#[test]
fn a_clone_whose_url_nobody_got_is_dropped() {
    let (mut project, proxy, questions, first) = behind_a_relay();
    let mut known = vec![first];
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        for at in 1..=questions {
            proxy.plan(at, fault);
            let output = Pgstencil::new(&project).args(CLONE).run();
            proxy.heal();
            if !output.stdout.is_empty() {
                known.push(name_in(output.line()));
            }
        }
    }
    project.connect_to(server().url("postgres"));
    only_these_stay(&project, &mut known);
}

#[test]
fn a_clone_whose_maker_was_killed_before_it_told_is_dropped() {
    let (mut project, proxy, questions, first) = behind_a_relay();
    let mut known = vec![first];
    for at in 1..=questions {
        proxy.plan(at, Fault::Silent);
        let mut running = Pgstencil::new(&project).args(CLONE).spawn();
        eventually(Duration::from_millis(500), || !running.stdout_so_far().is_empty());
        let told = running.stdout_so_far();
        running.kill9();
        proxy.heal();
        if !told.is_empty() {
            known.push(name_in(told.trim()));
        }
    }
    project.connect_to(server().url("postgres"));
    // One that was told, and killed before it noted so, may be there or not.
    let clean = eventually(PATIENCE, || {
        Pgstencil::new(&project).arg("evict").success();
        leased(&project).iter().all(|name| known.contains(name))
    });
    assert!(clean, "left: {:?}, known: {known:?}", leased(&project));
    assert!(server().has_database(&known[0]));
}

#[test]
fn a_lease_begins_when_the_hooks_have_ended() {
    let project = Project::with_migrations(server());
    project.append_config(
        "after_clone = \"psql -XAtqc 'create table hooked ()' && touch hooked && [ ! -e wait ] || sleep 600\"\n",
    );
    for warm in [false, true] {
        if warm {
            project.append_config("\n[clone]\nwarm = 1\nwarm_max = 1\n");
            Pgstencil::new(&project).arg("clone").success();
            assert!(eventually(PATIENCE, || warm_clones(&project) == 1));
        }
        let name = format!("{}_hook_{warm}", project.name());
        let _ = std::fs::remove_file(project.path().join("hooked"));
        project.write("wait", "");
        let mut running = Pgstencil::new(&project).args(["clone", "--name", &name]).spawn();
        let there = || project.path().join("hooked").exists();
        assert!(eventually(PATIENCE, there));
        // Another one waits for it.
        let other = Pgstencil::new(&project).args(["--wait", "1s", "clone", "--name", &name]).run();
        other.code(5);
        running.kill9();
        std::fs::remove_file(project.path().join("wait")).unwrap();
        let again = Pgstencil::new(&project).args(["clone", "--json", "--name", &name]).success();
        assert_eq!(again.json()["outcome"], "hit", "warm: {warm}");
        let hooked = server().psql(&name, "select count(*) from pg_class where relname = 'hooked'");
        assert_eq!(hooked, "1");
        let reused = Pgstencil::new(&project).args(["clone", "--json", "--name", &name]).success();
        assert_eq!(reused.json()["outcome"], "reused");
    }
}

/// As long as a session is in it, it keeps its name.
#[tokio::test]
async fn a_name_whose_drop_has_begun_is_waited_for() {
    let project = Project::with_migrations(server());
    let name = format!("{}_dropping", project.name());
    Pgstencil::new(&project).args(["clone", "--name", &name]).success();
    let of = format!("select id from pgstencil.clone where name = '{name}'");
    let id = server().psql(&project.registry(), &of);
    let mut session = server().connect(&project.registry()).await;
    let lock = format!("select pg_advisory_lock({})", LockKey::clone(&id).value());
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut session).await.unwrap();
    // Its maker was killed before the lease began, and a sweep has come so far.
    server().psql(
        &project.registry(),
        "update pgstencil.clone set state = 'creating', name = ''; \
         update pgstencil.database set state = 'dropping' where clone_id is not null",
    );
    Pgstencil::new(&project).args(["--wait", "1s", "clone", "--name", &name]).fails(5);
    session.close().await.unwrap();
    let again = Pgstencil::new(&project).args(["clone", "--json", "--name", &name]).success();
    assert_eq!(again.json()["outcome"], "hit");
    assert!(server().has_database(&name));
}

/// The server ends all sessions when one of its processes dies.
#[test]
fn why_a_server_of_this_machine_ended_is_told_by_its_log() {
    let server = TestServer::private_with("logging_collector = on\n");
    let project = Project::with_migrations(&server);
    project.build(&Build::Script(
        "psql -XAtq -c 'select pg_backend_pid()' -c 'select pg_sleep(600)' >backend &
         until [ -s backend ]; do sleep 0.02; done
         kill -9 $(cat backend)
         sleep 600"
            .into(),
    ));
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(3)
        .stderr_has("the server's log, ")
        .stderr_has("was terminated by signal 9")
        .stderr_has("are free");
}

#[test]
fn a_first_command_that_dies_leaves_no_part_of_a_registry() {
    let proxy = Proxy::new(server());
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        for at in 1.. {
            let mut project = Project::with_migrations(server());
            let direct = project.server_url().to_owned();
            project.connect_to(proxy.url(server()));
            proxy.plan(at, fault);
            Pgstencil::new(&project).args(["pin", "0123"]).run();
            let ensured = Pgstencil::new(&project).args(["ensure", "--json"]).run().status.code();
            let reached = proxy.heal() >= at;
            project.connect_to(direct);
            for command in
                [&["list"] as &[&str], &["stats"], &["explain"], &["evict", "--dry-run"], &["doctor"]]
            {
                Pgstencil::new(&project).args(command).success();
            }
            // What comes after the seal is another test's.
            if ensured == Some(0) || !reached || at > 20 {
                break;
            }
        }
    }
}
