//! `pgstencil clone` and `release`: leases that outlive the command, and what runs on each clone.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::hold::{Held, goes, list, oid, only_templates_left, stays};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, eventually, gives_up, server};

fn clone(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).arg("clone").args(args)
}

fn database(url: &str) -> String {
    url.rsplit_once('/').unwrap().1.to_owned()
}

#[test]
fn clone_prints_a_url_that_works() {
    let project = Project::with_migrations(server());
    let url = clone(&project, &[]).success().line().to_owned();
    assert_eq!(url, server().url(&database(&url)));
    assert_eq!(server().psql(&database(&url), "select name from users"), "ann");

    let json = clone(&project, &["--json", "--ttl", "never"]).success().json();
    assert_eq!(json["outcome"], "hit");
    assert_eq!(json["clone"]["expires_at"], Value::Null);
    let json = clone(&project, &["--json", "--clones", "2", "--ttl", "90s"]).success().json();
    assert_eq!(json["clones"].as_array().unwrap().len(), 2);
    assert_eq!(json["clone"], json["clones"][0]);
    let expires = json["clone"]["expires_at"].as_str().unwrap();
    let left = format!("select extract(epoch from '{expires}'::timestamptz - now()) between 60 and 90");
    assert_eq!(server().psql("postgres", &left), "t", "{expires}");

    let listed = list(&project);
    let clones = listed["clones"].as_array().unwrap();
    assert_eq!(clones.len(), 4);
    assert!(clones.iter().all(|c| c["state"] == "leased"), "{listed}");
    for clone in clones {
        let key = if clone["expires_at"].is_null() { "id" } else { "name" };
        Pgstencil::new(&project).args(["release", clone[key].as_str().unwrap()]).success();
    }
    only_templates_left(&project);
    assert_eq!(project.builds(), 1);
}

#[test]
fn a_live_clone_of_the_name_is_given_back() {
    let project = Project::with_migrations(server());
    let name = format!("mine_{}", project.id);
    let first = clone(&project, &["--name", &name]).success().line().to_owned();
    assert_eq!(database(&first), name);
    let before = oid(&project, &name);
    server().psql(&name, "create table mine ()");

    let json = clone(&project, &["--name", &name, "--json"]).success().json();
    assert_eq!(json["outcome"], "reused");
    assert_eq!(json["clone"]["databases"]["app"]["url"], first);
    assert_eq!(oid(&project, &name), before);

    // The migrations move on: the clone stays, and that is said.
    project.add_migration("0003_more", "create table more ()");
    let output = clone(&project, &["--name", &name]).success();
    output.stderr_has("older migrations").stderr_has("--fresh");
    assert_eq!(output.line(), first);
    assert_eq!(oid(&project, &name), before);
    assert_eq!(project.builds(), 1);

    // Fresh: another database of that name, although somebody is in the old one.
    let json = clone(&project, &["--name", &name, "--fresh", "--json"]).success().json();
    assert_eq!(json["outcome"], "miss");
    assert_ne!(oid(&project, &name), before);
    let tables = "select to_regclass('mine') is null, to_regclass('more') is not null";
    assert_eq!(server().psql(&name, tables), "t|t");
    clone(&project, &["--name", &name]).success().lacks("older migrations");
    Pgstencil::new(&project).args(["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn those_who_want_a_name_at_once_get_one_clone() {
    let project = Project::with_migrations(server());
    let name = format!("mine_{}", project.id);
    let all: Vec<_> = (0..6).map(|_| clone(&project, &["--name", &name]).spawn()).collect();
    for one in all {
        let output = one.wait();
        assert_eq!(database(output.code(0).line()), name);
    }
    assert_eq!(project.builds(), 1);
    Pgstencil::new(&project).args(["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn a_lease_ends_by_the_clock_and_the_clone_goes_after_the_grace() {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\norphan_grace = \"1h\"");
    let later = |column: &str, interval: &str| {
        let sql = format!("update pgstencil.clone set {column} = {column} - interval '{interval}'");
        server().psql(&project.registry(), &sql);
    };
    let short = database(clone(&project, &["--ttl", "30m"]).success().line());
    let long = database(clone(&project, &["--ttl", "never"]).success().line());
    later("expires_at", "31 minutes");
    // Over, but only noted by the first command that sees it.
    clone(&project, &["--ttl", "1h"]).success();
    let orphaned = || {
        let listed = list(&project);
        let clones = listed["clones"].as_array().unwrap().clone();
        clones.iter().any(|c| c["name"] == *short && c["state"] == "orphaned")
    };
    assert!(eventually(PATIENCE, orphaned));
    let noted = "select count(orphaned_at) from pgstencil.clone";
    let one = || server().psql(&project.registry(), noted) == "1";
    assert!(eventually(PATIENCE, one));
    later("orphaned_at", "30 minutes");
    clone(&project, &["--ttl", "1h"]).success();
    stays(&project, &short, Duration::from_millis(500));
    later("orphaned_at", "31 minutes");
    clone(&project, &["--ttl", "1h"]).success();
    goes(&project, &short);
    assert!(server().has_database(&long));
}

#[test]
fn release_says_what_it_does_not_know_and_what_is_held() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).args(["release", "nothing"]).fails(6).stderr_has("no clone `nothing`");
    assert!(!server().has_database(&project.registry()));

    let held = Held::idle(&project, &[]);
    Pgstencil::new(&project)
        .args(["release", &held.database])
        .fails(7)
        .stderr_has(&format!("pid {}", held.run.id()));
    Pgstencil::new(&project).args(["release", "nothing"]).fails(6);
    let mine = database(clone(&project, &[]).success().line());
    let other = database(clone(&project, &[]).success().line());
    // Those beside the wrong ones are released.
    Pgstencil::new(&project)
        .args(["release", &mine, "nothing", "nobody", &other])
        .fails(6)
        .stderr_has("no clone `nothing`")
        .stderr_has("no clone `nobody`")
        .stderr_has(&format!("released nevertheless: {mine}, {other}"));
    goes(&project, &mine);
    goes(&project, &other);
    assert!(server().has_database(&held.database));
    held.end();
    held.run.wait().code(0);
    only_templates_left(&project);
}

#[test]
fn reading_commands_make_no_registry() {
    let project = Project::with_migrations(server());
    let before = server().databases();
    Pgstencil::new(&project).arg("list").success().stdout("");
    assert_eq!(list(&project)["clones"].as_array().unwrap().len(), 0);
    Pgstencil::new(&project).args(["release", "x"]).fails(6);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!server().has_database(&project.registry()));
    let mine = |names: Vec<String>| -> Vec<String> {
        names.into_iter().filter(|n| n.contains(&project.id)).collect()
    };
    assert_eq!(mine(server().databases()), mine(before));
}

const SET: &str = r#"
project = "{project}"
[server]
registry = "{registry}"
[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
databases = ["default", "proxy"]
"#;

#[test]
fn after_clone_sql_tells_the_databases_of_a_set_of_each_other() {
    let fdw = server()
        .psql("postgres", "select count(*) from pg_available_extensions where name = 'postgres_fdw'")
        == "1";
    let project = Project::with_migrations(server());
    project.config(SET);
    // The set has a search_path of its own, where the statements must find their table.
    project.add_migration(
        "0003_own",
        "create schema own; create table own.peers (role text, name text, url text);
         do $$ begin execute format('alter database %I set search_path = own, public', current_database()); end $$;",
    );
    let mut proxy = "insert into peers values ('default', '{default.name}', '{default.url}');".to_owned();
    if fdw {
        proxy.push_str(
            "create extension postgres_fdw schema public;
             create server peer foreign data wrapper postgres_fdw
                 options (host '{host}', port '{port}', dbname '{default.name}');
             create user mapping for current_user server peer options (user '{user}', password '{password}');
             import foreign schema public limit to (users) from server peer into own;",
        );
    }
    project.append_config(&format!(
        "after_clone_sql.proxy = \"\"\"{proxy}\"\"\"\nafter_clone_sql.default = \"insert into peers values ('proxy', '{{proxy.name}}', '')\"\n"
    ));
    let mut seen = Vec::new();
    for outcome in ["miss", "hit"] {
        let json = clone(&project, &["--json"]).success().json();
        assert_eq!(json["outcome"], outcome);
        let name = |role: &str| json["clone"]["databases"][role]["name"].as_str().unwrap().to_owned();
        let (default, proxy) = (name("default"), name("proxy"));
        assert_eq!(server().psql(&proxy, "select name from own.peers"), default);
        assert_eq!(server().psql(&default, "select name from own.peers"), proxy);
        if fdw {
            server().psql(&default, "update public.users set name = 'from here'");
            assert_eq!(server().psql(&proxy, "select name from own.users"), "from here");
        }
        seen.extend([default, proxy]);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);

    project.config(&format!("{SET}after_clone_sql.proxy = \"select 1; select 1/0\"\n"));
    let before = project.databases().len();
    clone(&project, &[])
        .fails(4)
        .stdout("")
        .stderr_has("after_clone_sql of alias `proxy`")
        .stderr_has("division by zero");
    let gone = || project.databases().len() == before;
    assert!(eventually(PATIENCE, gone), "{:?}", project.databases());
}

#[test]
fn what_ends_after_clone_sql_decides_the_exit_code() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    let config = project.read("pgstencil.toml");
    let with = |sql: &str| {
        project.config(&format!("{config}\nafter_clone_sql.app = \"{sql}\"\n"));
    };
    with("select pg_terminate_backend(pg_backend_pid())");
    clone(&project, &[]).fails(3).stdout("").stderr_has("after_clone_sql of alias `app`");
    with("select pg_sleep(600)");
    clone(&project, &["--wait", "1s"]).fails(5).stdout("");
    let running = clone(&project, &[]).spawn();
    let sleeps = format!(
        "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%' and datname like '%{}%'",
        project.id
    );
    let asleep = |count: &str| eventually(PATIENCE, || server().psql("postgres", &sleeps) == count);
    assert!(asleep("1"));
    running.signal(Signal::SIGINT);
    running.wait().code(130).stdout("");
    // The statement does not run on.
    assert!(asleep("0"));
    let gone = || project.databases().iter().all(|name| name.starts_with("tpl_"));
    assert!(eventually(PATIENCE, gone), "{:?}", project.databases());
}

/// As test runners do that want a database of their own making.
#[test]
fn a_database_in_the_place_of_a_clone_is_told_until_it_is_gone() {
    let project = Project::with_migrations(server());
    let name = format!("{}_test", project.name());
    let again = format!(
        "psql -Xq -d \"$PGSTENCIL_SERVER_URL\" -c 'drop database {name}' -c 'create database {name}'"
    );
    let run =
        |command: &str| Pgstencil::new(&project).args(["run", "--name", &name, "--", "sh", "-c", command]);
    let statement = format!("DROP DATABASE \"{name}\"");
    run(&again).success().stderr_has("it created another database of that name").stderr_has(&statement);
    let noted = || {
        let noted = "select count(*) from pgstencil.replaced";
        server().psql(&project.registry(), noted) == "1"
    };
    assert!(eventually(PATIENCE, noted));
    run("true")
        .fails(7)
        .stderr_has("a command dropped its clone of this name and created this database instead")
        .stderr_has(&statement)
        .stderr_has("--keepdb");
    let doctor = || Pgstencil::new(&project).arg("doctor").success();
    doctor().stdout_has("replaced clones").stdout_has(&statement);
    server().psql("postgres", &statement);
    doctor().lacks("replaced clones");
    run("true").success();
}

#[test]
fn after_clone_runs_on_every_clone() {
    let project = Project::with_migrations(server());
    project.append_config(
        r#"after_clone = "echo \"$PGSTENCIL_PHASE $PGSTENCIL_OUTCOME $PGDATABASE $X\" >>after.log; pwd >>after.log; psql -X -q -c 'create table after ()'"
[template.app.env]
X = "{name}"
"#,
    );
    for outcome in ["miss", "hit"] {
        let name = database(clone(&project, &[]).success().line());
        let expected = format!("after_clone {outcome} {name} {name}\n{}\n", project.path().display());
        assert_eq!(project.read("after.log"), expected);
        assert_eq!(server().psql(&name, "select count(*) from after"), "0");
        project.write("after.log", "");
        Pgstencil::new(&project).args(["release", &name]).success();
    }
    // It does not touch the template.
    let name = database(clone(&project, &["--name", "{id}_x"]).success().line());
    Pgstencil::new(&project).args(["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn a_failing_after_clone_gives_the_clone_up() {
    let project = Project::with_migrations(server());
    project.append_config("after_clone = \"echo couch is down; echo $DATABASE_URL; exit 7\"");
    for command in [&["clone"][..], &["run", "--", "true"]] {
        Pgstencil::new(&project)
            .args(command)
            .fails(4)
            .stdout("")
            .stderr_has("after_clone of `app` failed (exit code 7, after ")
            .stderr_has("couch is down")
            .stderr_has("is discarded\n")
            .stderr_has("fix after_clone of [template.app]")
            .lacks(&server().password());
        only_templates_left(&project);
    }
}

#[test]
fn an_after_clone_that_is_ended_says_by_what() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    project.append_config("after_clone = \"sleep 600\"");
    let name = format!("dev_{}", project.id);
    let ended = "after_clone of `app` was ended by `--wait` after ";
    gives_up(|wait| clone(&project, &["--name", &name, "--wait", wait]), ended)
        .stderr_has("command: sleep 600")
        .stderr_has(&format!("clone `{name}` is discarded"))
        .stderr_has("raise `--wait`")
        .lacks("last output");
    only_templates_left(&project);
}

#[test]
fn wait_bounds_the_wait_for_another_build() {
    let project = Project::with_migrations(server());
    project.build(&Build::Hang);
    let mut builder = clone(&project, &[]).spawn();
    assert!(eventually(PATIENCE, || project.builds() == 1));
    let output = clone(&project, &["--wait", "1s"]).fails(5);
    output.stdout("").stderr_has("timed out waiting");
    assert!(!builder.wait_timeout(Duration::ZERO));
    drop(builder);

    let project = Project::with_migrations(server());
    project.build(&Build::Hang);
    clone(&project, &["--wait", "1s"]).fails(5);
    assert!(eventually(PATIENCE, || project.databases().is_empty()), "{:?}", project.databases());
}

#[test]
fn wait_bounds_the_wait_for_the_server() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgresql://x@{}/x", silent.local_addr().unwrap());
    let project = Project::with_migrations(server());
    let clone = |wait: &str| clone(&project, &["--wait", wait, "--server-url", &url]);
    gives_up(clone, "timed out waiting for the server").stdout("");
}

#[cfg(target_os = "linux")]
#[test]
fn a_clone_of_which_nobody_learns_is_given_back() {
    let project = Project::with_migrations(server());
    let unheard = |args: &str| {
        let script = format!("exec \"$0\" clone {args} >/dev/full");
        Pgstencil::with_program(&project, "sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_pgstencil")])
            .fails(1)
            .stderr_has("cannot write to standard output");
    };
    unheard("");
    only_templates_left(&project);

    // One that was there before stays.
    let first = clone(&project, &["--name", "kept_{project}"]).success();
    unheard("--name 'kept_{project}'");
    stays(&project, &database(first.line()), Duration::from_millis(500));
}

#[test]
fn numbers_of_names_begin_where_the_test_runner_wants() {
    let project = Project::with_migrations(server());
    let id = project.name();
    for (pattern, names) in
        [("{-n}", ["", "-0", "-1"]), ("_{n1}", ["_1", "_2", "_3"]), ("{_n1}", ["", "_1", "_2"])]
    {
        let pattern = format!("{id}r{pattern}");
        // The variables count from 0, whatever the names do.
        let print = "echo $PGSTENCIL_NAME_0 $PGSTENCIL_NAME_1 $PGSTENCIL_NAME_2 ${PGSTENCIL_NAME_3-none}";
        let names = names.map(|number| format!("{id}r{number}")).join(" ");
        Pgstencil::new(&project)
            .args(["run", "--clones", "3", "--name", &pattern, "--", "sh", "-c", print])
            .success()
            .stdout(&format!("{names} none\n"));
    }
}
