//! Builds: one per fingerprint whatever happens, nothing but whole ones sealed, nothing left behind.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use crate::support::cli::Output;
use crate::support::server::{PATIENCE, quote_ident};
use crate::support::{Build, Pgstencil, Project, Role, ends, eventually, gives_up, server};

fn ensure(project: &Project<'_>) -> Pgstencil {
    Pgstencil::new(project).arg("ensure")
}

fn clone(project: &Project<'_>) -> Pgstencil {
    Pgstencil::new(project).arg("clone")
}

/// `[state, …]` of the project's templates.
fn states(project: &Project<'_>) -> Vec<String> {
    let list = Pgstencil::new(project).args(["list", "--json"]).success().json();
    let rows = list["templates"].as_array().unwrap();
    let state = |row: &serde_json::Value| row["state"].as_str().unwrap().to_owned();
    rows.iter().map(state).collect()
}

/// The databases that the build command was given, one a build.
fn built_in(project: &Project<'_>) -> Vec<String> {
    let log = project.read("builds.log");
    let name = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
    log.lines().map(name).collect()
}

/// The database that a URL on stdout names.
fn database(output: &Output) -> String {
    output.line().rsplit_once('/').unwrap().1.to_owned()
}

fn users(database: &str) -> String {
    server().psql(database, "select count(*) from users")
}

/// Nothing is there of what the project's builds made.
#[track_caller]
fn assert_nothing_left(project: &Project<'_>) {
    assert_eq!(project.databases(), [""; 0]);
    for name in built_in(project) {
        assert!(!server().has_database(&name), "{name} is left");
    }
}

#[test]
fn sixteen_at_once_build_once() {
    let project = Project::with_migrations(server());
    project.build(&Build::Slow(Duration::from_secs(2)));
    let done: Vec<(Output, SystemTime)> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..16).map(|_| scope.spawn(|| (clone(&project).run(), SystemTime::now()))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(project.builds(), 1);
    let mut names = BTreeSet::new();
    let (mut misses, mut waited) = (0, 0);
    for (output, _) in &done {
        output.code(0);
        let name = database(output);
        assert_eq!(users(&name), "1");
        names.insert(name);
        misses += usize::from(output.stderr.contains("miss app"));
        if output.stderr.contains("waiting for") {
            waited += 1;
            output.stderr_has("to build template `app`").stderr_has("pid ").stderr_has("so far");
        }
    }
    assert_eq!((names.len(), misses), (16, 1));
    assert!(waited > 0);
    let sealed =
        server().psql(&project.registry(), "select extract(epoch from sealed_at) from pgstencil.template");
    let sealed = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(sealed.parse().unwrap());
    let after = |t: &SystemTime| t.duration_since(sealed).unwrap_or_default();
    let last = done.iter().map(|(_, t)| after(t)).max().unwrap();
    eprintln!("{waited} of 16 waited; the last had its clone {last:.2?} after the seal");
}

/// A build that ends only if another one runs at the same time.
fn rendezvous(folder: &std::path::Path) -> Build {
    Build::Script(format!(
        "touch {0}/here_$PGDATABASE
         for i in $(seq 300); do
             [ $(ls {0} | grep -c ^here_) = 2 ] && {{ migrate; exit; }}
             sleep 0.1
         done
         exit 9",
        folder.display()
    ))
}

#[test]
fn different_sets_are_built_side_by_side() {
    let here = Project::with_migrations(server());
    let there = Project::with_migrations(server());
    let config = here.read("pgstencil.toml");
    there.write("pgstencil.toml", &config);
    there.add_migration("0003_more", "create table more ()");
    for project in [&here, &there] {
        project.build(&rendezvous(&here.path()));
    }
    let (a, b) = (ensure(&here).spawn(), ensure(&there).spawn());
    a.wait().code(0);
    b.wait().code(0);
    assert_eq!(states(&here), ["ready", "ready"]);

    // The same set in another project is another template.
    let config = config.replace(&here.name(), &there.name());
    let other = Project::with_migrations(server());
    other.write("pgstencil.toml", &config);
    ensure(&other).success().stderr_has("miss app");
    ensure(&other).success().stderr_has("hit app");
    assert_eq!(states(&here), ["ready"; 3]);
}

#[test]
fn two_definitions_are_built_side_by_side() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml");
    let app = config.find("[template.app]").unwrap();
    let second = config[app..].replace("template.app", "template.second");
    project.append_config(&second);
    project.build(&rendezvous(&project.path()));
    ensure(&project).fails(2).stderr_has("definitions: app, second");
    let spawn = |name| ensure(&project).args(["-t", name]).spawn();
    let (a, b) = (spawn("app"), spawn("second"));
    a.wait().code(0);
    b.wait().code(0);
    assert_eq!(project.builds(), 2);
    assert_eq!(states(&project), ["ready", "ready"]);
}

#[test]
fn a_failed_build_leaves_nothing() {
    let project = Project::with_migrations(server());
    project.build(&Build::Fail);
    clone(&project)
        .fails(4)
        .stdout("")
        .stderr_has("error: the build command of `app` failed (exit code 3")
        .stderr_has("command: sh migrate.sh")
        .stderr_has("migration 7 is broken")
        .stderr_has("dropped; nothing was registered")
        .stderr_has("hint: to inspect the half-built database, add `--keep-failed-build`");
    assert_nothing_left(&project);
    assert_eq!(states(&project), [""; 0]);

    project.build(&Build::Migrate);
    clone(&project).success();
    assert_eq!(project.builds(), 2);
}

#[test]
fn keep_failed_leaves_the_database_to_a_person() {
    let project = Project::with_migrations(server());
    project.build(&Build::Fail);
    let output = clone(&project).arg("--keep-failed-build").fails(4);
    let kept = built_in(&project).remove(0);
    output
        .stderr_has(&format!("left for inspection, for a day: database `{kept}`"))
        .lacks("nothing was registered");
    assert_eq!(users(&kept), "1");
    assert_eq!(states(&project), ["broken"]);
    let list = || Pgstencil::new(&project).arg("list").success();
    list().stdout_has("broken").stdout_has(&kept);

    project.build(&Build::Migrate);
    clone(&project).success().stderr_has("miss app");
    clone(&project).success().stderr_has("hit app");
    assert_eq!(project.builds(), 2);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(users(&kept), "1");

    // A day later.
    server().psql(
        &project.registry(),
        "update pgstencil.template set kept_until = now() where kept_until is not null",
    );
    clone(&project).success();
    assert!(eventually(PATIENCE, || !server().has_database(&kept)));
}

const HANG: &str = "sleep 300 & echo $! >grandchild.pid; wait";

#[test]
fn a_build_that_takes_too_long_is_ended_with_all_its_children() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(HANG.into()));
    let config = project.read("pgstencil.toml");
    // On a busy machine the shell may not have got that far when the first one is over.
    let had_children = ["1s", "5s", "25s"].iter().any(|timeout| {
        let line = format!("build_timeout = \"{timeout}\"\n");
        project.write("pgstencil.toml", &format!("{config}{line}"));
        ensure(&project)
            .fails(5)
            .stderr_has(&format!("raise `build_timeout` of [template.app] (now {timeout})"))
            .stderr_has("dropped; nothing was registered");
        project.grandchild().is_some()
    });
    assert!(had_children);
    assert!(ends(project.grandchild().unwrap()));
    assert_nothing_left(&project);

    project.write("pgstencil.toml", &config);
    let left = "left for inspection, for a day: database `";
    let output = gives_up(|wait| ensure(&project).args(["--keep-failed-build", "--wait", wait]), left);
    output.stderr_has("by `--wait`");
    assert!(ends(project.grandchild().unwrap()));
    // Not from the project's log: the command may have been ended before it wrote there.
    let (_, name) = output.stderr.split_once(left).unwrap();
    let (name, _) = name.split_once('`').unwrap();
    assert!(server().has_database(name));
}

#[test]
fn those_who_wait_for_a_build_may_give_up() {
    let project = Project::with_migrations(server());
    project.build(&Build::Gate);
    let builder = ensure(&project).spawn();
    assert!(eventually(PATIENCE, || project.builds() == 1));
    gives_up(|wait| ensure(&project).args(["--wait", wait]), "to build template `app`")
        .stderr_has("error: timed out waiting for");
    project.write("go", "");
    builder.wait().code(0);
    assert_eq!(project.builds(), 1);
}

#[test]
fn much_output_is_drained_and_shown_only_when_asked_for() {
    let project = Project::with_migrations(server());
    project.build(&Build::Noise);
    let quiet = ensure(&project).success();
    quiet.lacks("a line that nobody reads");

    project.add_migration("0003_more", "create table more ()");
    project.build(&Build::Script(
        "echo early; until [ -e go ]; do sleep 0.05; done; migrate; echo late >&2".into(),
    ));
    let loud = ensure(&project).arg("-v").spawn();
    loud.wait_for_text("  early\n");
    assert!(!loud.stderr_so_far().contains("  late\n"));
    project.write("go", "");
    let loud = loud.wait();
    loud.code(0).stderr_has("  late\n");
    assert_eq!(loud.stdout.trim().len(), 64);
}

#[test]
fn the_password_gets_into_no_error_and_no_registry() {
    let role = Role::with_odd_password(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    let url = role.url("x");
    let encoded = url.split(['@', ':']).nth(2).unwrap().to_owned();
    let tell = r#"printf 'secrets %s %s\n' "$DATABASE_URL" "$PGPASSWORD""#;
    let absent = |output: &Output| {
        assert!(!output.stderr.contains(&role.password), "{output}");
        assert!(!output.stderr.contains(&encoded), "{output}");
        for text in project.strings_in_registry() {
            assert!(!text.contains(&role.password), "{text}");
            assert!(!text.contains(&encoded), "{text}");
        }
    };
    let wait = "until [ -e go ]; do sleep 0.05; done";
    project.build(&Build::Script(format!("migrate; {tell}; {wait}; exit 3")));
    let builder = clone(&project).arg("--keep-failed-build").spawn();
    // Where those who wait for the build find its last line.
    let told = || {
        let there = server().has_database(&project.registry());
        let texts = || project.strings_in_registry();
        there && texts().iter().any(|text| text.starts_with("secrets "))
    };
    assert!(eventually(PATIENCE, told));
    project.write("go", "");
    let output = builder.wait();
    output.code(4).stderr_has("secrets postgresql://").stderr_has(":***@");
    absent(&output);

    project.build(&Build::Script(format!("migrate; {tell}")));
    let output = ensure(&project).arg("-v").success();
    output.stderr_has("  secrets postgresql://");
    absent(&output);
    absent(&clone(&project).success());
    absent(&Pgstencil::new(&project).args(["list", "--json"]).success());
}

#[test]
fn an_empty_build_is_refused() {
    let project = Project::with_migrations(server());
    project.build(&Build::Nothing);
    clone(&project)
        .fails(4)
        .stderr_has("the build command changed nothing in database")
        .stderr_has("hint: does it read DATABASE_URL")
        .stderr_has("allow_empty = true");
    assert_nothing_left(&project);
    project.append_config("allow_empty = true");
    let url = clone(&project).success();
    assert_eq!(server().psql(&database(&url), "select 1"), "1");
}

#[test]
fn the_role_that_stayed_empty_is_named() {
    let project = Project::with_migrations(server());
    project.append_config("databases = [\"main\", \"side\"]");
    project.build(&Build::Script("migrate_one \"$PGSTENCIL_URL_MAIN\"".into()));
    clone(&project).fails(4).stderr_has("(alias `side`)").lacks("(alias `main`)");
    assert_nothing_left(&project);
    project.build(&Build::Migrate);
    let both = clone(&project).success();
    let roles: Vec<_> = both.stdout.lines().map(|l| l.split_once('=').unwrap().0).collect();
    assert_eq!(roles, ["main", "side"]);
}

#[test]
fn sessions_left_open_fail_the_build() {
    let project = Project::with_migrations(server());
    project.build(&Build::LeaveSession);
    let output = clone(&project).fails(4);
    output
        .stderr_has("sessions of the build are still connected to database")
        .stderr_has("application `left-behind`")
        .stderr_has("pid ");
    assert!(output.time >= Duration::from_secs(10), "{output}");
    assert_nothing_left(&project);
}

#[test]
fn a_session_that_leaves_in_time_is_fine() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(
        "migrate
         PGAPPNAME=leaves setsid psql -X -d \"$DATABASE_URL\" -c 'select pg_sleep(2)' </dev/null >/dev/null 2>&1 &
         until [ \"$(sql -d \"$DATABASE_URL\" -c \"select count(*) from pg_stat_activity
             where datname = current_database() and application_name = 'leaves'\")\" = 1 ]
         do kill -0 $! || exit 9; sleep 0.02; done"
            .into(),
    ));
    let output = clone(&project).success();
    assert_eq!(users(&database(&output)), "1");
}

#[test]
fn autovacuum_is_no_session_that_the_build_left() {
    let private = crate::support::TestServer::private_with(
        "autovacuum_naptime = 1s\nautovacuum_vacuum_cost_delay = 100ms\nautovacuum_vacuum_cost_limit = 1\n\
         autovacuum_vacuum_threshold = 1\nautovacuum_analyze_threshold = 1",
    );
    let role = Role::new(&private);
    let mut project = Project::new(&private);
    project.connect_as(&role);
    project.add_migration(
        "0001_big",
        "create table big as select n, repeat('x', 500) as t from generate_series(1, 60000) n; delete from big where n % 2 = 0;",
    );
    // An ordinary role does not see what the worker is; the build waits until it is there.
    project.build(&Build::Script(
        "migrate
         for i in $(seq 600); do
             [ $(sql -d \"$DATABASE_URL\" -c \"select count(*) from pg_stat_activity
                 where datname = current_database() and usesysid is null\") != 0 ] && exit
             sleep 0.1
         done
         echo 'no autovacuum came'; exit 9"
            .into(),
    ));
    // It is there for minutes, longer than anything is waited for.
    ensure(&project).success();
}

const RESET: &str = "sql -d postgres -c \"drop database \\\"$PGDATABASE\\\"\" -c \"create database \\\"$PGDATABASE\\\"\" \
     -c \"comment on database \\\"$PGDATABASE\\\" is 'made anew'\"";

#[test]
fn a_database_that_the_build_made_anew_is_adopted() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(format!("{RESET}\nmigrate")));
    let name = database(&clone(&project).success());
    assert_eq!(users(&name), "1");
    let comment =
        format!("select shobj_description(oid, 'pg_database') from pg_database where datname = '{name}'");
    let comment = server().psql("postgres", &comment);
    assert!(comment.starts_with("made anew\npgstencil clone: app of "), "{comment}");
    assert!(comment.contains("[pgstencil "), "{comment}");
    assert_eq!(comment.lines().count(), 2, "{comment}");
}

#[test]
fn a_database_that_a_failed_build_made_anew_is_dropped() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(format!("{RESET}\nmigrate; exit 3")));
    ensure(&project).fails(4);
    assert_nothing_left(&project);

    project.build(&Build::Script(format!("{RESET}\nmigrate\n{HANG}")));
    let mut builder = ensure(&project).spawn();
    assert!(eventually(PATIENCE, || project.grandchild().is_some()));
    builder.kill9();
    let dead = built_in(&project).pop().unwrap();
    project.build(&Build::Migrate);
    clone(&project).success();
    assert!(eventually(PATIENCE, || !server().has_database(&dead)));
}

#[test]
fn a_database_made_anew_for_another_role_is_refused_and_left_alone() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    project.build(&Build::Script(RESET.replace("-d postgres", "-d \"$ADMIN_URL\"")));
    let output = ensure(&project).env("ADMIN_URL", server().url("postgres")).fails(4);
    let name = built_in(&project).pop().unwrap();
    output
        .stderr_has(&format!("owner `{}`; pgstencil's role", server().user()))
        .stderr_has(&format!("database `{name}` is not dropped: it belongs to role"))
        .lacks("nothing was registered");
    assert!(server().has_database(&name));
    server().drop_database(&name);
}

#[test]
fn a_build_that_lost_its_database_fails() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script("sql -d postgres -c \"drop database \\\"$PGDATABASE\\\"\"".into()));
    ensure(&project).fails(4).stderr_has("dropped or renamed");
    assert_nothing_left(&project);
}

#[test]
fn further_databases_are_reported_and_left_alone() {
    let project = Project::with_migrations(server());
    project.build(&Build::ExtraDatabase);
    let output = ensure(&project).success();
    let extra = format!("{}_extra", built_in(&project)[0]);
    output.stderr_has(&format!("created a further database: `{extra}`"));
    assert!(server().has_database(&extra));
    server().drop_database(&extra);
}

#[test]
fn files_edited_during_a_build_start_it_over_once() {
    let project = Project::with_migrations(server());
    project.build(&Build::Edit(1));
    ensure(&project).success().stderr_has("warning: files changed during the build, so it starts over");
    assert_eq!(project.builds(), 2);
    assert_eq!(states(&project), ["ready"]);
    ensure(&project).success().stderr_has("hit app");
    assert!(!server().has_database(&built_in(&project)[0]));

    let project = Project::with_migrations(server());
    project.build(&Build::Edit(99));
    ensure(&project).fails(4).stderr_has("changed during two builds in a row");
    assert_eq!(project.builds(), 2);
    assert_nothing_left(&project);
    assert_eq!(states(&project), [""; 0]);
}

#[test]
fn a_killed_builder_is_replaced_by_the_next_command() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(format!("migrate\n{HANG}")));
    let mut builder = ensure(&project).spawn();
    assert!(eventually(PATIENCE, || project.grandchild().is_some()));
    assert_eq!(states(&project), ["building"]);
    builder.kill9();
    let grandchild = project.grandchild().unwrap();
    project.build(&Build::Migrate);
    let name = database(&clone(&project).success());
    assert_eq!(users(&name), "1");
    assert_eq!(project.builds(), 2);
    assert!(ends(grandchild));
    let dead = built_in(&project).remove(0);
    assert!(eventually(PATIENCE, || !server().has_database(&dead)));
    assert_eq!(states(&project), ["ready"]);
}

#[test]
fn an_interrupted_builder_cleans_up() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(format!("migrate\n{HANG}")));
    let builder = ensure(&project).spawn();
    assert!(eventually(PATIENCE, || project.grandchild().is_some()));
    builder.signal(Signal::SIGINT);
    builder.wait().code(130).stdout("");
    assert!(ends(project.grandchild().unwrap()));
    assert_nothing_left(&project);
}

#[test]
fn a_builder_that_loses_its_session_ends_its_command() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(format!("migrate\n{HANG}")));
    let builder = ensure(&project).spawn();
    assert!(eventually(PATIENCE, || project.grandchild().is_some()));
    let cut = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = '{}' and backend_type = 'client backend'",
        project.registry()
    );
    assert_eq!(server().psql("postgres", &cut), "1");
    builder.wait().code(3).stderr_has("pgstencil ended the build, since its lock was lost with the session");
    assert!(ends(project.grandchild().unwrap()));
    project.build(&Build::Migrate);
    clone(&project).success();
    let dead = built_in(&project).remove(0);
    assert!(eventually(PATIENCE, || !server().has_database(&dead)));
}

#[test]
fn a_build_command_that_asks_for_its_own_template_is_told() {
    let project = Project::with_migrations(server());
    let url = project.server_url().to_owned();
    let program = env!("CARGO_BIN_EXE_pgstencil");
    for command in ["ensure", "run true", "clone"] {
        project.build(&Build::Script(format!("echo try >>tries; {program} --server-url '{url}' {command}")));
        ensure(&project)
            .fails(4)
            .stderr_has("the build command of `app` asks for the template that it is to build")
            .stderr_has("`pgstencil run CMD`");
    }
    assert_eq!(project.read("tries").lines().count(), 3);
    assert_nothing_left(&project);
    // The template of another definition is no trouble.
    project
        .append_config("[template.base]\nmigrations = [\"migrations/0001*.sql\"]\nbuild = \"sh base.sh\"\n");
    project.write("base.sh", "psql -XAtqc 'create table base ()'");
    project.build(&Build::Script(format!("{program} --server-url '{url}' run -t base true; migrate")));
    ensure(&project).args(["-t", "app"]).success();
}

/// Its command is killed at once then, and the next builder waits for the end of that command.
#[test]
fn two_build_commands_do_not_run_at_once_after_a_lost_session() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(
        "if [ -e former ]; then
             kill -0 \"$(cat former)\" 2>/dev/null && touch both
         else
             trap '' TERM
             echo $$ >former.new; mv former.new former
             while [ -e pgstencil.toml ]; do sleep 0.01; done
         fi
         migrate"
            .into(),
    ));
    let former = ensure(&project).spawn();
    assert!(eventually(PATIENCE, || project.path().join("former").exists()));
    let holder = format!(
        "select pid from pg_locks l join pg_database d on d.oid = l.database
         where locktype = 'advisory' and mode = 'ExclusiveLock' and granted and datname = '{}'",
        project.registry()
    );
    let holder = server().psql("postgres", &holder);
    let next = ensure(&project).spawn();
    assert!(eventually(PATIENCE, || next.stderr_so_far().contains("waiting")));
    server().psql("postgres", &format!("select pg_terminate_backend({holder})"));
    former.wait().code(3);
    next.wait().code(0);
    assert!(!project.path().join("both").exists());
}

#[test]
fn only_a_seal_makes_a_template() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script("migrate; touch built; until [ -e go ]; do sleep 0.05; done".into()));
    let builder = ensure(&project).spawn();
    assert!(eventually(PATIENCE, || project.path().join("built").exists()));
    let templates = format!(
        "select datallowconn, datistemplate, shobj_description(oid, 'pg_database') like '%[pgstencil %]'
         from pg_database where datname like 'tpl\\_{}%'",
        project.name()
    );
    assert_eq!(server().psql("postgres", &templates), "");
    let private = built_in(&project).remove(0);
    assert!(server().has_database(&private));
    project.write("go", "");
    builder.wait().code(0);
    assert_eq!(server().psql("postgres", &templates), "f|t|t");
    assert!(!server().has_database(&private));
    // A careless drop is refused.
    let name = project.databases().remove(0);
    let drop = format!("drop database {}", quote_ident(&name));
    assert!(server().try_psql("postgres", &drop).is_err());
}
