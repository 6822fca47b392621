//! The lease of `run`: whatever happens to its session, a clone stays its holder's.

use std::time::{Duration, Instant};

use crate::support::hold::{Held, goes, oid, only_templates_left};
use crate::support::server::{PATIENCE, Stop, quote_literal};
use crate::support::{Pgstencil, Project, Proxy, Role, TestServer, eventually, server};

/// The backends that hold exclusive advisory locks in the project's registry.
fn lock_holders(project: &Project<'_>) -> Vec<i32> {
    let sql = format!(
        "select pid from pg_locks l join pg_database d on d.oid = l.database
         where locktype = 'advisory' and mode = 'ExclusiveLock' and granted and datname = {}",
        quote_literal(&project.registry())
    );
    let rows = project.server().try_psql("postgres", &sql).unwrap_or_default();
    rows.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits until there is only one, and returns it.
#[track_caller]
fn is_held(project: &Project<'_>) -> i32 {
    let mut holders = Vec::new();
    let held = || {
        holders = lock_holders(project);
        holders.len() == 1
    };
    assert!(eventually(PATIENCE, held), "{:?}", lock_holders(project));
    holders[0]
}

#[test]
fn a_restarted_server_still_knows_the_holder() {
    let private = TestServer::private();
    let project = Project::with_migrations(&private);
    project.append_config("[clone]\norphan_grace = \"2s\"");
    let held = Held::idle(&project, &[]);
    let before = oid(&project, &held.database);
    is_held(&project);
    for how in [Some(Stop::Fast), None] {
        match how {
            Some(how) => private.restart(how),
            None => {
                private.psql("postgres", "checkpoint");
                private.kill9();
                private.start();
            }
        }
        is_held(&project);
        // Others sweep meanwhile, for longer than the grace.
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            Pgstencil::new(&project).args(["run", "--", "true"]).success();
        }
        assert_eq!(oid(&project, &held.database), before);
    }
    held.end();
    held.run.wait().code(0).lacks("warning");
    only_templates_left(&project);
}

#[test]
fn a_command_that_ends_while_the_session_is_lost_gives_its_clone_back() {
    let private = TestServer::private();
    let project = Project::with_migrations(&private);
    // The keeper looks each five seconds only.
    let held = Held::idle(&project, &[]);
    private.restart(Stop::Fast);
    held.end();
    held.run.wait().code(0).lacks("warning");
    only_templates_left(&project);

    let held = Held::idle(&project, &["--keep"]);
    let database = held.database.clone();
    private.restart(Stop::Fast);
    held.end();
    held.run.wait().code(0).lacks("warning").stderr_has("release");
    Pgstencil::new(&project).args(["release", &database]).success();
    only_templates_left(&project);

    // Nor does a server that is gone for good take the exit code away.
    for args in [&[][..], &["--keep"]] {
        let held = Held::idle(&project, args);
        private.stop(Stop::Fast);
        held.end();
        held.run.wait().code(0).stderr_has("warning");
        private.start();
    }
}

#[test]
fn a_lost_session_is_replaced() {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\norphan_grace = \"1h\"");
    let held = Held::idle(&project, &[]);
    let before = oid(&project, &held.database);
    let noted = "select count(orphaned_at) from pgstencil.clone";
    // Orphaned as often as that, while others sweep. A note that stayed would be older than the grace next time.
    for _ in 0..4 {
        let old = is_held(&project);
        server().psql("postgres", &format!("select pg_terminate_backend({old})"));
        Pgstencil::new(&project).args(["run", "--", "true"]).success();
        let another = || lock_holders(&project).iter().any(|pid| *pid != old);
        assert!(eventually(PATIENCE, another));
        let forgotten = || server().psql(&project.registry(), noted) == "0";
        assert!(eventually(PATIENCE, forgotten));
    }
    Pgstencil::new(&project).args(["run", "--", "true"]).success();
    assert_eq!(oid(&project, &held.database), before);
    held.end();
    held.run.wait().code(0).lacks("warning");
    only_templates_left(&project);
}

/// The server has ended the session, and the client waits for answers that never come.
#[test]
fn a_half_open_connection_is_noticed_within_the_grace() {
    let mut project = Project::with_migrations(server());
    let proxy = Proxy::new(server());
    project.connect_to(proxy.url(server()));
    project.append_config("[clone]\norphan_grace = \"3s\"");
    let held = Held::idle(&project, &[]);
    let before = oid(&project, &held.database);
    let holder = is_held(&project);
    proxy.stall();
    let end = format!("select pg_terminate_backend({holder})");
    server().psql("postgres", &end);
    // Other commands sweep, for longer than the grace.
    let deadline = Instant::now() + Duration::from_secs(7);
    while Instant::now() < deadline {
        Pgstencil::new(&project).arg("evict").success();
    }
    assert_eq!(oid(&project, &held.database), before);
    assert_ne!(is_held(&project), holder);
    held.end();
    held.run.wait().code(0).lacks("warning");
    only_templates_left(&project);
}

#[test]
fn time_outs_of_the_role_do_not_end_the_lease() {
    let role = Role::new(server());
    let mut timeouts = vec!["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];
    if server().version_major() >= 14 {
        timeouts.push("idle_session_timeout");
    }
    if server().version_major() >= 17 {
        timeouts.push("transaction_timeout");
    }
    for name in timeouts {
        server().psql("postgres", &format!("alter role {} set {name} = '1s'", role.name));
    }
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    // The keeper would look after five seconds only, so it does not help here.
    let held = Held::idle(&project, &[]);
    is_held(&project);
    let before = lock_holders(&project);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(lock_holders(&project), before);
    held.end();
    held.run.wait().code(0).lacks("warning");
    goes(&project, &held.database);
}

#[test]
fn a_clone_that_somebody_dropped_is_told_and_nothing_else_is_touched() {
    let project = Project::with_migrations(server());
    let held = Held::idle(&project, &[]);
    let name = held.database.clone();
    server().psql("postgres", &format!("drop database {name}"));
    server().psql("postgres", &format!("create database {name}"));
    let before = oid(&project, &name);
    held.end();
    held.run.wait().code(0).stderr_has("warning").stderr_has(&name);
    Pgstencil::new(&project).args(["run", "--", "true"]).success();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(oid(&project, &name), before);
}

#[test]
fn a_clone_that_the_registry_forgot_is_told() {
    let private = TestServer::private();
    let project = Project::with_migrations(&private);
    let held = Held::idle(&project, &[]);
    let text = "truncate pgstencil.clone, pgstencil.database, pgstencil.template cascade";
    private.psql(&project.registry(), text);
    held.end();
    let name = held.database.clone();
    let output = held.run.wait();
    output
        .code(0)
        .stderr_has("is not in the registry any more, so no cleanup drops its databases")
        .stderr_has(&format!("left: `{name}`"));
    assert!(private.has_database(&name));
}
