//! What is in a built database, or belongs to it, when it is sealed: sessions, slots, subscriptions.

use crate::support::hold::goes;
use crate::support::{Build, Pgstencil, Project, Role, TestServer, server};

fn ensure(project: &Project<'_>) -> Pgstencil {
    Pgstencil::new(project).arg("ensure")
}

/// A build after which another role, whose URL `WATCHER` begins, is in its database.
const WATCHED: &str = "migrate
    PGAPPNAME=watcher $(command -v setsid) psql -X -d \"$WATCHER/$PGDATABASE\" \
        -c 'select pg_sleep(60)' </dev/null >/dev/null 2>&1 &
    until [ \"$(sql -d \"$DATABASE_URL\" -c \"select count(*) from pg_stat_activity
        where datname = current_database() and application_name = 'watcher'\")\" = 1 ]
    do sleep 0.02; done";

/// Processes that the build command starts and does not wait for.
#[test]
fn what_a_build_leaves_running_is_waited_for_or_fails_it() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(
        "migrate
         (sleep 3; psql -XAtqc 'create table late ()') &"
            .into(),
    ));
    let seen = Pgstencil::new(&project)
        .args(["run", "--", "psql", "-XAtqc"])
        .arg("select count(*) from pg_class where relname = 'late'")
        .success();
    seen.stdout("1\n");
    project.build(&Build::Script("migrate\n(sleep 600; true) &".into()));
    project.add_migration("0003_more", "create table more ()");
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(4)
        .stderr_has("left processes running, and they did not end within 10.0 s")
        .stderr_has("`wait` at the end of a shell script");
}

#[test]
fn a_session_of_another_role_is_ended_where_pgstencil_may() {
    let (me, watcher) = (Role::new(server()), Role::new(server()));
    let url = watcher.url("");
    let url = url.trim_end_matches('/');
    let mut project = Project::with_migrations(server());
    project.connect_as(&me);
    project.build(&Build::Script(WATCHED.into()));
    let waited = ensure(&project).env("WATCHER", url).fails(4);
    waited
        .stderr_has("sessions of other roles are still connected to database")
        .stderr_has(&format!("role {} application `watcher`", watcher.name))
        .stderr_has(&format!("GRANT pg_signal_backend TO \"{}\"", me.name));
    let grant = format!("grant pg_signal_backend to {}", me.name);
    server().psql("postgres", &grant);
    let output = ensure(&project).env("WATCHER", url).success();
    assert!(output.time < waited.time, "{output}\n{waited}");
    // A superuser's session is out of that right's reach.
    project.add_migration("0003_items", "create table items ();");
    let admin = server().url("");
    let admin = admin.trim_end_matches('/');
    let output = ensure(&project).env("WATCHER", admin).fails(4);
    output.stderr_has("end the session as a superuser: SELECT pg_terminate_backend(");
    let mut project = Project::with_migrations(server());
    project.connect_to(server().url("postgres"));
    project.build(&Build::Script(WATCHED.into()));
    let output = ensure(&project).env("WATCHER", url).success();
    assert!(output.time < waited.time, "{output}\n{waited}");
}

#[test]
fn a_prepared_transaction_is_named_with_what_ends_it() {
    let Some(_) = server().bindir() else {
        return;
    };
    let private = TestServer::private_with("max_prepared_transactions = 2");
    let project = Project::with_migrations(&private);
    project.build(&Build::Script(
        "migrate
         sql -d \"$DATABASE_URL\" -c \"begin; insert into users values (7, 'half'); prepare transaction 'it''s half'\""
            .into(),
    ));
    ensure(&project)
        .fails(4)
        .stderr_has("prepared transaction `it's half` of role postgres")
        .stderr_has("COMMIT PREPARED 'it''s half' or ROLLBACK PREPARED 'it''s half'");
    private.psql("postgres", "select 1");
    for name in private.psql("postgres", "select gid from pg_prepared_xacts").lines() {
        assert_eq!(name, "it's half");
    }
}

/// A worker runs for the subscription, as an extension's would, in the building role's own name.
#[test]
fn slots_and_subscriptions_are_dropped_and_told() {
    let Some(_) = server().bindir() else {
        return;
    };
    let private = TestServer::private_with("wal_level = logical");
    private.psql("postgres", "create publication pub for all tables");
    private.psql("postgres", "select pg_create_logical_replication_slot('others', 'pgoutput')");
    let mut project = Project::extending(&private, "rebuild = \"never\"");
    project.build(&Build::Script(
        "migrate
         sql -d \"$DATABASE_URL\" -c \"select pg_create_logical_replication_slot('orders', 'test_decoding')\"
         sql -d \"$DATABASE_URL\" -c \"create subscription sub connection '$PUBLISHER'
             publication pub with (connect = false, slot_name = 'theirs')\"
         sql -d \"$DATABASE_URL\" -c 'alter subscription sub enable'
         sleep 0.5"
            .into(),
    ));
    let publisher = private.url("postgres");
    let run = |args: &[&str]| {
        let command = Pgstencil::new(&project).args(args);
        command.env("PUBLISHER", &publisher)
    };
    let output = run(&["clone"]).success();
    output
        .stderr_has("dropped replication slot `orders`, which the build command created in database")
        .stderr_has("dropped subscription `sub`, which the build command created in database")
        .stderr_has("slot `theirs` at its publisher is kept");
    let slots = || private.psql("postgres", "select slot_name from pg_replication_slots");
    let subscriptions = "select count(*) from pg_subscription";
    assert_eq!(slots(), "others");
    assert_eq!(private.psql("postgres", subscriptions), "0");
    // What the warning says works as it stands.
    let hint = output.stderr.split_once("hint: give each clone a slot:\n").unwrap().1;
    let lines: Vec<&str> = hint.lines().take(2).map(str::trim).collect();
    assert_eq!(lines[0], "[template.app.after_clone_sql]");
    project.append_config(&lines.join("\n"));
    let output = run(&["clone"]).success();
    let name = output.line().rsplit_once('/').unwrap().1.to_owned();
    let own = private
        .psql("postgres", &format!("select plugin from pg_replication_slots where database = '{name}'"));
    assert_eq!(own, "test_decoding");
    run(&["release", &name]).success();
    goes(&project, &name);
    // A template can be dropped, and so can a clone with a slot.
    run(&["evict", "--all", "--yes"]).success();
    // Without the right, the statement is named.
    let me = Role::new(&private);
    project.connect_as(&me);
    project.build(&Build::Script(
        "migrate; sql -d \"$ADMIN/$PGDATABASE\" -c \"select pg_create_logical_replication_slot('orders', 'test_decoding')\""
            .into(),
    ));
    project.write("pgstencil.toml", &project.read("pgstencil.toml").replace("pgst_reg_", "pgst_reg_me_"));
    let admin = private.url("");
    Pgstencil::new(&project)
        .arg("ensure")
        .env("ADMIN", admin.trim_end_matches('/'))
        .fails(3)
        .stderr_has("cannot drop replication slot `orders`, which ")
        .stderr_has("at the end of the build command");
}

#[test]
fn a_plain_role_leaves_no_warnings_in_the_servers_log() {
    if server().bindir().is_none() {
        return;
    }
    let private = TestServer::private();
    let role = Role::new(&private);
    let mut project = Project::with_migrations(&private);
    project.connect_as(&role);
    project.add_migration(
        "0003_parts",
        "create table parts (n int) partition by list (n);
         create table part partition of parts default;
         insert into parts select n from generate_series(1, 50) n",
    );
    let output = Pgstencil::new(&project).arg("clone").success();
    let name = output.line().rsplit_once('/').unwrap().1.to_owned();
    // Where it may not make statistics, the server warns, once for each catalog and build.
    let log = private.log();
    let warnings: Vec<&str> = log.lines().filter(|l| l.contains("WARNING")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    let made = "select string_agg(distinct tablename, ',' order by tablename) from pg_stats \
         where schemaname = 'public' and tablename in ('part', 'parts', 'users')";
    assert_eq!(private.psql(&name, made), "part,parts,users");
}
