//! Servers broken on purpose, each found; and that a check-up writes nothing.

use std::time::Duration;

use serde_json::Value;
use sqlx::Connection;

use crate::support::extension::{database_of, ensure, outcome, templates};
use crate::support::hold::{Held, no_clones_left};
use crate::support::role::Role;
use crate::support::server::{PATIENCE, quote_ident, quote_literal};
use crate::support::{Pgstencil, Project, TestServer, eventually, server};

fn doctor(project: &Project<'_>, code: i32, args: &[&str]) -> Value {
    let answer = Pgstencil::new(project).args(["doctor", "--json"]).args(args).fails(code).json();
    assert_eq!(answer["version"], 1);
    answer
}

/// The one check that says this.
#[track_caller]
fn check(answer: &Value, name: &str, words: &str) -> Value {
    let checks = answer["checks"].as_array().unwrap();
    let found: Vec<_> =
        checks.iter().filter(|c| c["name"] == name && c["words"].as_str().unwrap().contains(words)).collect();
    assert_eq!(found.len(), 1, "{name}, {words}: {checks:#?}");
    found[0].clone()
}

#[track_caller]
fn status(answer: &Value, name: &str, words: &str) -> String {
    check(answer, name, words)["status"].as_str().unwrap().to_owned()
}

fn built<'s>() -> (Project<'s>, String) {
    let project = Project::with_migrations(server());
    let answer = ensure(&project);
    let database = database_of(&project, &answer["fingerprint"]);
    (project, database)
}

fn admin(sql: &str) -> String {
    server().psql("postgres", sql)
}

/// `doctor` reads the databases of the server, and after them the rows of the registry. Here a clone is dropped in
/// between, as a background drop may do it.
#[tokio::test]
async fn a_clone_that_is_dropped_meanwhile_belongs_to_no_other_registry() {
    let project = Project::with_migrations(server());
    project.append_config("\n[clone]\nwarm = 0\n");
    let answer = Pgstencil::new(&project).args(["clone", "--json"]).success().json();
    let name = answer["clone"]["name"].as_str().unwrap().to_owned();
    let registry = project.registry();
    let mut session = server().connect(&registry).await;
    let lock = "begin; lock table pgstencil.template in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut session).await.unwrap();
    let doctor = Pgstencil::new(&project).arg("doctor").spawn();
    let waits = format!(
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database
         where d.datname = {} and not l.granted",
        quote_literal(&registry)
    );
    assert!(eventually(PATIENCE, || admin(&waits) == "1"));
    admin(&format!("drop database {}", quote_ident(&name)));
    let forget =
        "delete from pgstencil.database where clone_id is not null; delete from pgstencil.clone; commit";
    sqlx::raw_sql(forget).execute(&mut session).await.unwrap();
    let output = doctor.wait();
    output.code(0);
    assert!(!output.stdout.contains(&name), "{output}");
}

#[test]
fn a_healthy_server_has_no_problem_and_stays_as_it_is() {
    let fresh = Project::with_migrations(server());
    let answer = doctor(&fresh, 0, &[]);
    assert_eq!(status(&answer, "registry", "does not exist yet"), "ok");
    assert!(!server().has_database(&fresh.registry()));
    let (project, _) = built();
    Pgstencil::new(&project).args(["run", "--", "true"]).success();
    no_clones_left(&project);
    let before = state(&project);
    let answer = doctor(&project, 0, &[]);
    assert_eq!(answer["problems"], 0, "{answer:#}");
    assert_eq!(status(&answer, "templates", "1 ready"), "ok");
    assert_eq!(status(&answer, "leftovers", "none"), "ok");
    assert_eq!(status(&answer, "server version", "PostgreSQL"), "ok");
    Pgstencil::new(&project).arg("doctor").success().stdout_has("ok       rights: ").stderr_has("no problem");
    Pgstencil::new(&project).args(["doctor", "-q"]).success().lacks("ok       ");
    assert_eq!(state(&project), before);
}

/// Every row of the registry, and this project's databases with their flags.
fn state(project: &Project<'_>) -> String {
    let tables = ["template", "clone", "database", "event", "project", "meta"];
    let rows = tables.map(|table| {
        let sql = format!("select t from pgstencil.{table} t order by 1");
        server().psql(&project.registry(), &sql)
    });
    let databases = format!(
        "select oid, datname, datallowconn, datistemplate, datconnlimit from pg_database where datname like '%{}%' order by 1",
        project.id
    );
    rows.join("\n") + &admin(&databases)
}

#[test]
fn a_missing_right_is_a_problem() {
    let mut project = Project::with_migrations(server());
    let role = Role::with(server(), "nocreatedb", "secret-word");
    project.connect_as(&role);
    let answer = doctor(&project, 1, &[]);
    let rights = check(&answer, "rights", "may not create databases");
    assert_eq!(rights["status"], "problem");
    let hint = rights["hint"].as_str().unwrap();
    assert!(hint.contains(&format!("ALTER ROLE \"{}\" CREATEDB;", role.name)));
}

#[test]
fn a_server_that_is_not_there_is_a_problem() {
    let mut project = Project::with_migrations(server());
    project.connect_to("postgresql://nobody@127.0.0.1:9/postgres");
    let answer = doctor(&project, 1, &["--wait", "5s"]);
    assert_eq!(answer["checks"].as_array().unwrap().len(), 1);
    assert_eq!(status(&answer, "connection", "127.0.0.1:9"), "problem");
    assert!(check(&answer, "connection", "")["hint"].is_string());
    Pgstencil::new(&project)
        .args(["doctor", "--wait", "5s"])
        .fails(1)
        .stdout_has("problem  connection: ")
        .stdout_has("         hint: ");
}

#[test]
fn a_newer_registry_is_a_problem() {
    let (project, _) = built();
    let set = |version: &str| {
        let sql = format!("update pgstencil.meta set version = {version}");
        server().psql(&project.registry(), &sql);
    };
    let now = server().psql(&project.registry(), "select version from pgstencil.meta");
    set("99");
    let answer = doctor(&project, 1, &["--fix"]);
    assert_eq!(status(&answer, "registry", "requires a newer version of pgstencil"), "problem");
    set(&now);
}

#[tokio::test]
async fn an_opened_template_and_who_is_in_it_are_found() {
    let (project, database) = built();
    admin(&format!("alter database {} allow_connections true", quote_ident(&database)));
    let session = server().connect(&database).await;
    let answer = doctor(&project, 1, &[]);
    assert_eq!(status(&answer, "templates", "accepts connections"), "warning");
    let inside = check(&answer, "templates", "cannot be copied while a session is connected to it");
    assert_eq!(inside["status"], "problem");
    assert!(inside["words"].as_str().unwrap().contains("pid "));
    session.close().await.unwrap();
    let fixed = doctor(&project, 0, &["--fix"]);
    let opened = check(&fixed, "templates", "accepts connections");
    assert!(opened["fixed"].as_str().unwrap().contains("discarded"));
    outcome(&project, "miss");
    assert_eq!(doctor(&project, 0, &[])["problems"], 0);
    outcome(&project, "hit");
}

/// Of a set, so that each database is fixed for itself.
#[test]
fn templates_that_were_unmarked_are_marked_again() {
    let project = Project::with_migrations(server());
    project.append_config("databases = [\"main\", \"side\"]");
    let databases = database_of(&project, &ensure(&project)["fingerprint"]);
    let names: Vec<_> = databases.lines().map(quote_literal).collect();
    assert_eq!(names.len(), 2);
    for name in databases.lines() {
        let name = quote_ident(name);
        admin(&format!("alter database {name} is_template false"));
    }
    // Other tests' databases may give rise to warnings, too.
    let left = |args: &[&str]| -> Vec<Value> {
        let answer = doctor(&project, 0, args);
        let checks = answer["checks"].as_array().unwrap().iter();
        checks
            .filter(|c| c["name"] == "templates" && c["status"] == "warning" && c["fixed"].is_null())
            .cloned()
            .collect()
    };
    let found = left(&[]);
    assert_eq!(found.len(), 2, "{found:#?}");
    for name in databases.lines() {
        let words = format!("`{name}` of template");
        let unmarked = found.iter().filter(|c| {
            let is = c["words"].as_str().unwrap();
            is.contains(&words) && is.contains("no longer marked IS_TEMPLATE")
        });
        assert_eq!(unmarked.count(), 1, "{found:#?}");
    }
    assert_eq!(left(&["--fix"]), [Value::Null; 0]);
    let sealed = format!(
        "select count(*) from pg_database where datistemplate and not datallowconn and datname in ({})",
        names.join(", ")
    );
    assert_eq!(admin(&sealed), "2");
    assert_eq!(left(&[]), [Value::Null; 0]);
    outcome(&project, "hit");
}

#[test]
fn a_template_that_is_gone_is_found_and_given_up() {
    let (project, database) = built();
    admin(&format!("alter database {} is_template false", quote_ident(&database)));
    admin(&format!("drop database {}", quote_ident(&database)));
    let answer = doctor(&project, 1, &[]);
    assert_eq!(status(&answer, "templates", "is gone"), "problem");
    let fixed = doctor(&project, 0, &["--fix"]);
    assert!(check(&fixed, "templates", "is gone")["fixed"].is_string());
    assert_eq!(doctor(&project, 0, &[])["problems"], 0);
    outcome(&project, "miss");
}

#[test]
fn a_half_dropped_template_is_found() {
    let (project, database) = built();
    let name = quote_literal(&database);
    admin(&format!("update pg_database set datconnlimit = -2 where datname = {name}"));
    let answer = doctor(&project, 1, &[]);
    assert_eq!(status(&answer, "templates", "was half dropped"), "problem");
    doctor(&project, 0, &["--fix"]);
    outcome(&project, "miss");
}

#[test]
fn a_collation_mismatch_is_found() {
    if server().version_major() < 15 {
        return;
    }
    let (project, database) = built();
    let name = quote_literal(&database);
    // The C locale has no version, so the provider has to be one that has.
    admin(&format!(
        "update pg_database set datcollversion = '0.0', datcollate = 'C.UTF-8' where datname = {name}"
    ));
    let answer = doctor(&project, 1, &[]);
    let found = check(&answer, "templates", "another version of the collation library");
    assert_eq!(found["status"], "problem");
    assert!(found["hint"].as_str().unwrap().contains("REFRESH COLLATION VERSION"));
    let fixed = doctor(&project, 0, &["--fix"]);
    assert!(check(&fixed, "templates", "collation library")["fixed"].is_string());
    outcome(&project, "miss");
}

#[test]
fn leftovers_of_a_killed_run_are_found_and_swept() {
    let (project, _) = built();
    project.append_config("[clone]\norphan_grace = \"1s\"");
    let mut held = Held::idle(&project, &[]);
    held.run.kill9();
    held.end();
    let noted = || {
        // A background process of another command may sweep, too; here there is none.
        Pgstencil::new(&project).arg("evict").success();
        doctor(&project, 0, &[])["warnings"].as_i64().unwrap() > 0
    };
    assert!(eventually(PATIENCE, || {
        let found = noted();
        std::thread::sleep(Duration::from_millis(1100));
        found || project.databases().len() == 1
    }));
    doctor(&project, 0, &["--fix"]);
    assert!(eventually(PATIENCE, || {
        doctor(&project, 0, &["--fix"]);
        project.databases().len() == 1
    }));
}

#[test]
fn unlogged_tables_with_rows_are_told() {
    let project = Project::with_migrations(server());
    project.add_migration(
        "0003_cache",
        "create unlogged table cache as select 1 as id; create unlogged table empty (id int);",
    );
    ensure(&project);
    let answer = doctor(&project, 0, &[]);
    let found = check(&answer, "templates", "unlogged");
    assert_eq!(found["status"], "warning");
    assert!(found["words"].as_str().unwrap().contains("(public.cache)"));
    assert!(found["hint"].as_str().unwrap().contains("SET LOGGED"));
}

#[test]
fn login_triggers_are_told() {
    if server().version_major() < 17 {
        return;
    }
    let project = Project::with_migrations(server());
    project.add_migration(
        "0003_login",
        "create function hello() returns event_trigger language plpgsql as 'begin perform 1; end';
         create event trigger greet on login execute function hello();",
    );
    ensure(&project);
    let answer = doctor(&project, 0, &[]);
    let found = check(&answer, "templates", "login event triggers (greet)");
    assert_eq!(found["status"], "warning");
}

#[test]
fn another_registrys_databases_are_told_and_left_alone() {
    let (project, _) = built();
    let other = Project::with_migrations(server());
    ensure(&other);
    let before = state(&other);
    let answer = doctor(&project, 0, &["--fix"]);
    assert_eq!(
        status(&answer, "other registries", "databases of another registry, which this one does not drop"),
        "ok"
    );
    assert_eq!(state(&other), before);
}

/// Settings that slow copies down, too few sessions and locks, and fsync for nothing.
#[test]
fn a_badly_set_server_is_told() {
    let Some(_) = server().bindir() else {
        // Settings of a server that is not ours stay as they are.
        return;
    };
    let private = TestServer::private_with(
        "fsync = on\nwal_level = minimal\nmax_wal_senders = 0\nmax_connections = 12\nmax_locks_per_transaction = 10\nwal_compression = on\n",
    );
    let project = Project::with_migrations(&private);
    Pgstencil::new(&project).arg("ensure").success();
    let answer = Pgstencil::new(&project).args(["doctor", "--json"]).run().json();
    let slow = check(&answer, "settings", "wal_level = minimal");
    assert_eq!(slow["status"], "warning");
    assert!(slow["words"].as_str().unwrap().contains("wal_compression"));
    assert_eq!(status(&answer, "fsync", "appears to have only pgstencil's databases"), "warning");
    assert_eq!(status(&answer, "max_locks_per_transaction", "the server has room for 120 locks"), "warning");
    // Somebody else's data: nobody should be told to risk it.
    private.psql("postgres", "create database precious");
    let answer = Pgstencil::new(&project).args(["doctor", "--json"]).run().json();
    assert_eq!(status(&answer, "fsync", "also has other databases than pgstencil's"), "ok");
    assert_eq!(templates_of(&project), 1);
}

fn templates_of(project: &Project<'_>) -> usize {
    templates(project).len()
}

#[test]
fn databases_of_a_lost_registry_get_statements_that_nobody_runs() {
    let private = TestServer::private();
    let project = Project::with_migrations(&private);
    let name = format!("left_{}", project.id);
    Pgstencil::new(&project).args(["clone", "--name", &name]).success();
    let statements = |answer: &Value| -> Vec<String> {
        let found = check(answer, "lost registry", "is not on this server");
        assert_eq!(found["status"], "warning");
        let all = found["statements"].as_array().unwrap().iter();
        all.map(|s| s.as_str().unwrap().to_owned()).collect()
    };
    private.drop_database(&project.registry());
    let left = private.databases();
    // Without any registry, and with a new one; also where everything is to be fixed.
    let without = statements(&doctor(&project, 0, &["--fix"]));
    assert!(without.contains(&format!("DROP DATABASE \"{name}\";")), "{without:?}");
    let other = Project::with_migrations(&private);
    ensure(&other);
    // That one may be theirs, as far as this registry can tell; for that one itself it is not.
    let with = statements(&doctor(&other, 0, &["--fix"]));
    assert_eq!(with, without);
    let text = Pgstencil::new(&other).arg("doctor").success();
    text.stdout_has(&format!("\n           DROP DATABASE \"{name}\";\n"));
    assert!(left.iter().all(|name| private.has_database(name)), "{left:?}");
    private.drop_database(&other.registry());
    let template = with.iter().find(|s| s.contains("IS_TEMPLATE false"));
    assert!(template.is_some(), "{with:?}");
    for statement in &with {
        private.psql("postgres", statement);
    }
    assert!(!private.has_database(&name));
}

#[test]
fn a_registry_in_another_database_is_a_problem_as_for_run() {
    let project = Project::with_migrations(server());
    let theirs = format!("theirs_{}", project.id);
    admin(&format!("create database {theirs}"));
    server().psql(&theirs, "create table precious (id int)");
    let config = project.read("pgstencil.toml");
    let config = config.replace(&project.registry(), &theirs);
    project.write("pgstencil.toml", &config);
    let words = "is not a pgstencil registry";
    let answer = doctor(&project, 1, &[]);
    assert_eq!(status(&answer, "registry", words), "problem");
    for args in [&["list"][..], &["stats"], &["explain"], &["run", "--", "true"]] {
        Pgstencil::new(&project).args(args).fails(2).stderr_has(words);
    }
}
