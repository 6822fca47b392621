//! Templates that are too old, or no longer fit the server, are rebuilt; serial builds wait for each
//! other; who waits sees what happens.

use std::time::Duration;

use serde_json::Value;

use crate::support::extension::database_of;
use crate::support::hold::list;
use crate::support::server::{PATIENCE, quote_ident};
use crate::support::{Build, Pgstencil, Project, server};

fn ensure(project: &Project<'_>) -> (Value, String) {
    let output = Pgstencil::new(project).args(["ensure", "--json"]).success();
    (output.json(), output.stderr.clone())
}

/// Lets all templates be built that long ago.
fn age(project: &Project<'_>, interval: &str) {
    let sql = format!("update pgstencil.template set fresh_at = fresh_at - interval '{interval}'");
    server().psql(&project.registry(), &sql);
}

#[test]
fn an_old_template_is_rebuilt() {
    let project = Project::extending(server(), "after_extend = \"keep\"\nstale_after = \"7d\"");
    assert_eq!(ensure(&project).0["outcome"], "miss");
    age(&project, "6 days");
    assert_eq!(ensure(&project).0["outcome"], "hit");
    // What is extended is as old as its base.
    project.add_migration("0003_items", "create table items ();");
    assert_eq!(ensure(&project).0["outcome"], "extended");
    age(&project, "2 days");
    let (answer, said) = ensure(&project);
    assert!(said.contains("`stale_after` is 7d"), "{said}");
    // Nor is the old one of two migrations a base any more.
    assert_eq!(answer["outcome"], "miss");
    assert_eq!(ensure(&project).0["outcome"], "hit");
}

#[test]
fn one_that_no_longer_fits_the_server_is_rebuilt() {
    let project = Project::with_migrations(server());
    project.add_migration("0003_ext", "create extension if not exists plpgsql;");
    ensure(&project);
    // As if an update of the server's packages had brought another version.
    server().psql(
        &project.registry(),
        "update pgstencil.template set built_with = built_with || '{\"available\": {\"plpgsql\": \"0.9\"}}'",
    );
    let (answer, said) = ensure(&project);
    assert_eq!(answer["outcome"], "miss");
    assert!(
        said.contains("extension `plpgsql` was 0.9 when it was built"),
        "{said}"
    );
}

/// Of a set, one of whose databases a person opened and changed. It is no base, either, and is discarded
/// also if the next one to ask takes a warm clone.
#[test]
fn one_that_somebody_opened_is_rebuilt() {
    let project = Project::extending(server(), "after_extend = \"keep\"");
    project.append_config("databases = [\"main\", \"side\"]\n[clone]\nwarm = 1");
    let open = |answer: &Value| {
        let databases = database_of(&project, &answer["fingerprint"]);
        let side = databases.lines().nth(1).unwrap().to_owned();
        let alter = format!(
            "alter database {} allow_connections true",
            quote_ident(&side)
        );
        server().psql("postgres", &alter);
        server().psql(&side, "insert into users values (2, 'mallory')");
        side
    };
    let (answer, _) = ensure(&project);
    let side = open(&answer);
    let (answer, said) = ensure(&project);
    assert_eq!(answer["outcome"], "miss");
    let why = format!(
        "its database `{side}` was opened to connections, so its contents may have changed"
    );
    assert!(said.contains(&why), "{said}");
    open(&answer);
    project.add_migration("0003_items", "create table items ();");
    let (answer, said) = ensure(&project);
    assert_eq!(answer["outcome"], "miss");
    assert!(said.contains("cannot be extended"), "{said}");
    // A clone makes a warm one behind it.
    Pgstencil::new(&project).arg("clone").success();
    let warm = || {
        let clones = list(&project)["clones"].as_array().unwrap().clone();
        clones.iter().any(|clone| clone["state"] == "warm")
    };
    assert!(crate::support::eventually(PATIENCE, warm));
    open(&answer);
    let clone = Pgstencil::new(&project).args(["clone", "--json"]).success();
    assert_eq!(clone.json()["outcome"], "miss");
    let name = &clone.json()["clone"]["databases"]["side"]["name"];
    let users = server().psql(name.as_str().unwrap(), "select name from users");
    assert_eq!(users, "ann");
}

#[test]
fn serial_builds_wait_for_each_other() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(
        "echo start >>order; sleep 1; migrate; echo end >>order".into(),
    ));
    project.append_config(
        "serial_builds = true\n[template.other]\nmigrations = [\"migrations/*.sql\"]\n\
         build = \"sh migrate.sh\"\nserial_builds = true",
    );
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = ["app", "other"]
            .map(|name| {
                let command = Pgstencil::new(&project).args(["ensure", "-t", name]);
                scope.spawn(move || command.success())
            })
            .into();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(project.read("order"), "start\nend\nstart\nend\n");
    let waited = outputs
        .iter()
        .filter(|o| o.stderr.contains("serial build"))
        .count();
    assert_eq!(waited, 1);
}

#[test]
fn patience_ends_before_a_serial_build() {
    let project = Project::with_migrations(server());
    project.build(&Build::Slow(Duration::from_secs(4)));
    project.append_config(
        "serial_builds = true\n[template.other]\nmigrations = [\"migrations/*.sql\"]\n\
         build = \"sh migrate.sh\"\nserial_builds = true",
    );
    let first = Pgstencil::new(&project)
        .args(["ensure", "-t", "app"])
        .spawn();
    first.wait_for_text("building");
    Pgstencil::new(&project)
        .args(["ensure", "-t", "other", "--wait", "1s"])
        .fails(5)
        .stderr_has("serial build");
    first.wait().code(0);
}

#[test]
fn who_waits_sees_the_last_lines_and_the_expected_time() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    project.build(&Build::Script(
        "migrate; echo applying one; echo applying two; sleep 4".into(),
    ));
    project.add_migration("0003_items", "create table items ();");
    let builder = Pgstencil::new(&project).arg("ensure").spawn();
    let seen = crate::support::eventually(Duration::from_secs(20), || {
        server()
            .psql(
                &project.registry(),
                "select log_tail from pgstencil.template where state = 'building'",
            )
            .contains("applying two")
    });
    assert!(seen);
    Pgstencil::new(&project)
        .arg("ensure")
        .success()
        .stderr_has("waiting for")
        .stderr_has("(last time: ")
        .stderr_has("  applying one\n  applying two\n");
    builder.wait().code(0);
    assert_eq!(list(&project)["templates"].as_array().unwrap().len(), 2);
}
