//! Files that somebody writes to while a build runs, also if they hold again what they held.

use serde_json::Value;

use crate::support::extension::{ensure, items, outcome, templates};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, TestServer, eventually, server};

/// A build during whose runs of these numbers the second migration is another one for a while.
fn stash_and_pop(project: &Project<'_>, runs: &str) {
    project.build(&Build::Script(format!(
        r#"run=$(($(wc -l <builds.log)))
           case " {runs} " in *" $run "*)
               cp -p migrations/0002_orders.sql ../kept
               echo 'create table orders (id int primary key); create table wrong ();' >migrations/0002_orders.sql
           esac
           migrate
           case " {runs} " in *" $run "*)
               cp -p ../kept migrations/0002_orders.sql
           esac"#
    )));
}

const EXCLUDE: &str = "exclude them from the globs, or switch that output off in the tool";

#[test]
fn a_change_that_was_taken_back_lets_the_build_start_over() {
    let project = Project::with_migrations(server());
    stash_and_pop(&project, "1");
    let output = Pgstencil::new(&project).args(["clone", "--json"]).success();
    output
        .stderr_has("files changed during the build, so it starts over")
        .stderr_has("`migrations/0002_orders.sql` was written to")
        .stderr_has(EXCLUDE);
    let clone = output.json();
    assert_eq!(clone["outcome"], "miss");
    assert_eq!(project.builds(), 2);
    let name = clone["clone"]["name"].as_str().unwrap();
    assert_eq!(server().psql(name, "select to_regclass('wrong')"), "");
    outcome(&project, "hit");
    assert_eq!(project.databases().len(), 2);
}

#[test]
fn a_tool_that_writes_to_its_migrations_is_named() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(
        "migrate; cp -p migrations/0002_orders.sql x; cp x migrations/0002_orders.sql".into(),
    ));
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(4)
        .stderr_has("changed during two builds in a row")
        .stderr_has("  `migrations/0002_orders.sql` was written to")
        .stderr_has(EXCLUDE);
    assert!(templates(&project).is_empty());
}

#[test]
fn what_passes_through_a_folder_counts_and_what_a_tool_leaves_beside_does_not() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(
        "mkdir -p migrations/__pycache__; echo x >>migrations/__pycache__/0001.pyc; migrate".into(),
    ));
    outcome(&project, "miss");
    assert_eq!(project.builds(), 1);
    items(&project);
    project.build(&Build::Script(
        "echo 'create table wrong ();' >migrations/0004_wrong.sql; migrate; rm migrations/0004_wrong.sql"
            .into(),
    ));
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(4)
        .stderr_has("something was created in directory `migrations` and removed again");
}

#[test]
fn a_settle_is_not_sealed_either() {
    let project = Project::extending(server(), "rebuild = \"always\"");
    ensure(&project);
    items(&project);
    stash_and_pop(&project, "3");
    let extended = outcome(&project, "extended");
    let over = || project.builds() >= 3 && templates(&project).iter().all(|t| t["state"] == "ready");
    assert!(eventually(PATIENCE, over));
    let row = |project: &Project<'_>| -> Value {
        let all = templates(project);
        let found = all.iter().find(|t| t["fingerprint"] == extended["fingerprint"]);
        found.unwrap().clone()
    };
    // It was an attempt in vain, but no failure that is told.
    assert_eq!(row(&project)["provisional"], true);
    assert!(row(&project)["rebuild_failure"].is_null());
    stash_and_pop(&project, "4");
    Pgstencil::new(&project)
        .args(["ensure", "--rebuild"])
        .fails(4)
        .stderr_has("changed during the full build");
    let settled = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).success().json();
    assert_eq!(settled["provisional"], false);
    let verified = Pgstencil::new(&project).arg("verify").run();
    assert!(verified.status.code().is_some_and(|code| code < 2), "{verified}");
    stash_and_pop(&project, &project.builds().saturating_add(1).to_string());
    Pgstencil::new(&project)
        .arg("verify")
        .fails(4)
        .stderr_has("changed during the full build")
        .stderr_has("`migrations/0002_orders.sql` was written to");
}

#[test]
fn a_build_straight_on_the_clone_starts_over_too() {
    let private = TestServer::private();
    let project = Project::with_migrations(&private);
    project.build(&Build::Script(
        r#"run=$(($(wc -l <builds.log)))
           [ $run != 3 ] || cp -p migrations/0002_orders.sql ../kept
           [ $run != 3 ] || echo 'create table orders (id int primary key); create table wrong ();' \
               >migrations/0002_orders.sql
           migrate
           [ $run != 3 ] || cp -p ../kept migrations/0002_orders.sql
           oid=$(sql -d "$DATABASE_URL" -c 'select oid from pg_database where datname = current_database()')
           sql -d "$DATABASE_URL" -c "copy (select 1) to program 'cat >base/$oid/unreadable; chmod 0 base/$oid/unreadable'"
           "#
        .into(),
    ));
    let output = Pgstencil::new(&project).args(["clone", "--json"]).success();
    output
        .stderr_has("the build command runs directly in the clone")
        .stderr_has("files changed during the build, so it starts over");
    let clone = output.json();
    assert_eq!(clone["outcome"], "fallback");
    // Template, template, clone; then that second template, another one, and the clone.
    assert_eq!(project.builds(), 5);
    let name = clone["clone"]["name"].as_str().unwrap();
    assert_eq!(private.psql(name, "select to_regclass('wrong')"), "");
    assert_eq!(private.psql(name, "select count(*) from orders"), "1");
}

#[test]
fn a_script_that_the_build_command_names_is_an_input() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml");
    let counts = config.replace("build_inputs = false\n", "");
    assert_ne!(config, counts);
    project.write("pgstencil.toml", &counts);
    outcome(&project, "miss");
    outcome(&project, "hit");
    project.append("migrate.sh", "# edited\n");
    let explained = Pgstencil::new(&project).arg("explain").success();
    explained
        .stdout_has("  build_inputs  migrate.sh, named by `build`\n")
        .stdout_has("  input changed: migrate.sh\n");
    let json = Pgstencil::new(&project).args(["explain", "--json"]).success();
    assert_eq!(json.json()["inputs"]["named"], serde_json::json!(["migrate.sh"]));
    outcome(&project, "miss");
    // Hidden, it is not.
    project.write(".gitignore", "migrate.sh\n");
    outcome(&project, "miss");
    project.append("migrate.sh", "# edited again\n");
    outcome(&project, "hit");
    std::fs::remove_file(project.path().join(".gitignore")).unwrap();
    project.write("pgstencil.toml", &config);
    outcome(&project, "hit");
    project.append("migrate.sh", "# and again\n");
    outcome(&project, "hit");
}
