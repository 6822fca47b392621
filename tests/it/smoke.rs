//! Tests of the harness itself: what the other tests stand on must hold.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sqlx::{ConnectOptions, Connection};

use crate::support::server::{PATIENCE, Stop};
use crate::support::{Build, Pgstencil, Project, Role, TestServer, alive, ends, eventually, server};

#[tokio::test]
async fn the_shared_server_answers() {
    let mut admin = server().admin().await;
    let (user, encoding): (String, String) =
        sqlx::query_as("select session_user::text, current_setting('server_encoding')")
            .fetch_one(&mut admin)
            .await
            .unwrap();
    assert_eq!(user, server().user());
    assert_eq!(encoding, "UTF8");
    admin.close().await.unwrap();
    assert!((13..=18).contains(&server().version_major()));
    let rows = server().psql("postgres", "values (1, null, 'x'), (2, 'ü', '')");
    assert_eq!(rows, "1||x\n2|ü|");
}

#[tokio::test]
async fn roles_have_passwords_that_count() {
    for role in [Role::new(server()), Role::with_odd_password(server())] {
        let mut session = role.options("postgres").connect().await.unwrap();
        let database = format!("db_{}", role.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {database}")))
            .execute(&mut session)
            .await
            .unwrap();
        drop(session);
        let wrong = role.options("postgres").password("wrong");
        assert!(wrong.connect().await.is_err());

        // libpq must read the URL as we wrote it.
        let output = Command::new("psql")
            .args(["-X", "-At", "-c", "select current_user", "-d"])
            .arg(role.url(&database))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), role.name, "{output:?}");
        assert!(server().has_database(&database));
        let name = role.name.clone();
        drop(role);
        assert!(!server().has_database(&database));
        let left = format!("select count(*) from pg_roles where rolname = '{name}'");
        assert_eq!(server().psql("postgres", &left), "0");
    }
}

#[test]
fn a_private_server_can_be_stopped_killed_and_configured() {
    let private = TestServer::private_with("work_mem = 5MB");
    private.psql("postgres", "create table kept as select 1 as n");
    assert_eq!(private.psql("postgres", "show work_mem"), "5MB");
    private.psql("postgres", "checkpoint");
    let first = private.postmaster().unwrap();

    private.restart(Stop::Fast);
    private.restart(Stop::Immediate);
    private.kill9();
    assert_eq!(private.postmaster(), None);
    assert!(private.try_psql("postgres", "select 1").is_err());
    private.start();
    assert_ne!(private.postmaster().unwrap(), first);
    assert_eq!(private.psql("postgres", "select n from kept"), "1");
    assert!(private.log().contains("was not properly shut down"));

    let (pid, dir) = (private.postmaster().unwrap(), private.dir());
    drop(private);
    assert!(ends(pid));
    assert!(!dir.exists());
}

/// Starts a server for `nothing_outlives_a_killed_test_run` and waits to be killed.
#[test]
#[ignore = "run by another test"]
fn holds_a_server_until_killed() {
    if std::env::var_os("PGSTENCIL_TEST_HOLD").is_some() {
        let private = TestServer::private();
        println!("\nholding {} {}", private.postmaster().unwrap(), private.dir().display());
        std::thread::sleep(PATIENCE);
    }
}

#[test]
fn nothing_outlives_a_killed_test_run() {
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "smoke::holds_a_server_until_killed"])
        .args(["--ignored", "--nocapture"])
        .env("PGSTENCIL_TEST_HOLD", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let held = BufReader::new(run.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| Some(line.strip_prefix("holding ")?.to_owned()))
        .expect("the run holds a server");
    let (pid, dir) = held.split_once(' ').unwrap();
    let (pid, dir) = (pid.parse().unwrap(), Path::new(dir));
    assert!(alive(pid) && dir.join("data").exists());

    run.kill().unwrap();
    run.wait().unwrap();
    assert!(ends(pid), "Postgres lives on");
    assert!(eventually(PATIENCE, || !dir.exists()), "{dir:?} is left");
}

/// Runs the project's build script against a database, as pgstencil would.
fn build_into(project: &Project<'_>, database: &str) -> crate::support::cli::Output {
    let server = project.server();
    Pgstencil::with_program(project, "sh")
        .arg("migrate.sh")
        .env("DATABASE_URL", server.url(database))
        .env("PGHOST", server.host())
        .env("PGPORT", server.port().to_string())
        .env("PGUSER", server.user())
        .env("PGPASSWORD", server.password())
        .env("PGDATABASE", database)
        .run()
}

#[test]
fn the_build_script_applies_what_is_new() {
    let project = Project::with_migrations(server());
    let database = format!("{}_x", project.name());
    server().psql("postgres", &format!("create database {database}"));

    build_into(&project, &database).code(0).stdout("").stderr("");
    project.add_migration("0003_more", "insert into users values (2, 'bob');");
    build_into(&project, &database).code(0);
    build_into(&project, &database).code(0);
    assert_eq!(project.builds(), 3);
    let users = server().psql(&database, "select string_agg(name, ' ' order by id) from users");
    assert_eq!(users, "ann bob");
    assert_eq!(project.databases(), [&*database]);

    server().psql("postgres", &format!("alter database {database} is_template true"));
    let registry = project.registry();
    server().psql("postgres", &format!("create database {registry}"));
    let named = format!("pgst_{}", crate::support::random_id());
    server().psql("postgres", &format!("create database {named}"));
    let row = format!("create table rows as select jsonb_build_object('name', '{named}') as data");
    server().psql(&registry, &row);
    assert_eq!(project.databases(), [&*named, &*database]);
    let folder = project.path();
    drop(project);
    for name in [database, registry, named] {
        assert!(!server().has_database(&name), "{name}");
    }
    assert!(!folder.exists());
}

#[test]
fn the_build_script_misbehaves_as_told() {
    let project = Project::with_migrations(server());
    let fresh = || {
        let name = format!("{}_{}", project.name(), crate::support::random_id());
        server().psql("postgres", &format!("create database {name}"));
        name
    };
    let has_users = |database: &str| {
        let sql = "select to_regclass('public.users') is not null";
        server().psql(database, sql) == "t"
    };

    project.build(&Build::Fail);
    build_into(&project, &fresh()).code(3).stderr_has("migration 7 is broken");

    project.build(&Build::Nothing);
    let database = fresh();
    build_into(&project, &database).code(0);
    assert!(!has_users(&database));

    project.build(&Build::Noise);
    let output = build_into(&project, &fresh());
    output.code(0);
    assert!(output.stdout.len() == 10_000_000 && output.stderr.len() >= 10_000_000);

    project.build(&Build::LeaveSession);
    let database = fresh();
    build_into(&project, &database).code(0);
    let sessions = format!(
        "select count(*) from pg_stat_activity
         where datname = '{database}' and application_name = 'left-behind'"
    );
    assert_eq!(server().psql("postgres", &sessions), "1");

    project.build(&Build::Reset);
    let database = fresh();
    let oid = format!("select oid from pg_database where datname = '{database}'");
    let before = server().psql("postgres", &oid);
    build_into(&project, &database).code(0);
    assert_ne!(server().psql("postgres", &oid), before);
    assert!(has_users(&database));

    project.build(&Build::ExtraDatabase);
    let database = fresh();
    build_into(&project, &database).code(0);
    assert!(server().has_database(&format!("{database}_extra")));

    let builds = u32::try_from(project.builds()).unwrap();
    project.build(&Build::Edit(builds + 1));
    for changes in [1, 1] {
        build_into(&project, &fresh()).code(0);
        let text = project.read("migrations/0002_orders.sql");
        assert_eq!(text.matches("-- changed").count(), changes);
    }

    project.build(&Build::Hang);
    let mut hanging = Pgstencil::with_program(&project, "sh").arg("migrate.sh").spawn();
    assert!(!hanging.wait_timeout(Duration::from_millis(100)));
    hanging.kill9();

    project.build(&Build::Fork);
    let database = fresh();
    let mut forking = Pgstencil::with_program(&project, "sh")
        .arg("migrate.sh")
        .env("DATABASE_URL", server().url(&database))
        .spawn();
    assert!(forking.wait_timeout(PATIENCE));
    let grandchild = project.grandchild().unwrap();
    assert!(alive(grandchild));
    drop(forking);
    assert!(ends(grandchild));
}
