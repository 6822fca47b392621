//! The proof: a build from nothing beside a template.

use std::time::Duration;

use serde_json::Value;

use crate::support::extension::{KEEP, ensure, items, outcome, templates};
use crate::support::hold::only_templates_left;
use crate::support::{Build, Pgstencil, Project, Role, server, until_done};

fn verify(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).arg("verify").args(args)
}

fn extended(keys: &str) -> Project<'static> {
    let project = Project::extending(server(), keys);
    ensure(&project);
    items(&project);
    project
}

#[test]
fn an_extension_equals_a_build_from_nothing() {
    let project = extended(KEEP);
    outcome(&project, "extended");
    verify(&project, &[]).success().stderr_has("equals template app");
    let answer = verify(&project, &["--json"]).success().json();
    let one = &answer["verified"][0];
    assert_eq!(answer["version"], 1);
    assert_eq!(one["equal"], true);
    assert_eq!(one["fate"], "kept");
    assert_eq!(one["differences"], serde_json::json!({}));
    assert!(one["build_ms"].as_f64().unwrap() > 0.0);
    outcome(&project, "hit");
    only_templates_left(&project);
}

#[test]
fn a_command_that_ignores_what_is_applied_is_found() {
    let project = extended(KEEP);
    project.build(&Build::Script(
        "migrate; sql -d \"$DATABASE_URL\" -c 'create table if not exists seeds (n int)' -c 'insert into seeds values (1)'".into(),
    ));
    outcome(&project, "extended");
    // The base was built by another command, so the seed is in both only once.
    verify(&project, &[]).success();
    project.add_migration("0004_more", "create table more ();");
    outcome(&project, "extended");
    verify(&project, &[])
        .fails(1)
        .stdout_has("table public.seeds\n-  rows 2\n+  rows 1\n")
        .stderr_has("marked broken");
    // Another extension would come to the same end.
    let answer = Pgstencil::new(&project).args(["ensure", "--json"]).success().json();
    assert_eq!(answer["outcome"], "miss");
    assert!(answer["note"].as_str().unwrap().contains("differed from a full build"));
    verify(&project, &[]).success();
    only_templates_left(&project);
}

#[test]
fn replace_keeps_what_was_built() {
    let project = extended(KEEP);
    project.build(&Build::Script(
        "migrate; sql -d \"$DATABASE_URL\" -c \"create table how_$PGSTENCIL_OUTCOME ()\"".into(),
    ));
    outcome(&project, "extended");
    let answer = verify(&project, &["--replace", "--json"]).fails(1).json();
    let one = &answer["verified"][0];
    assert_eq!(one["fate"], "replaced");
    let changes = one["differences"]["app"]["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2, "{changes:?}");
    outcome(&project, "hit");
    let clone = Pgstencil::new(&project).arg("clone").success();
    let name = clone.line().rsplit_once('/').unwrap().1.to_owned();
    assert_eq!(
        server().psql(&name, "select to_regclass('how_miss'), to_regclass('how_extended')"),
        "how_miss|"
    );
    verify(&project, &[]).success();
}

#[test]
fn a_build_that_never_yields_the_same_is_told_and_stays() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(
        "migrate; sql -d \"$DATABASE_URL\" -c \"alter table users add c$(wc -l <builds.log) int\"".into(),
    ));
    outcome(&project, "miss");
    verify(&project, &[])
        .fails(1)
        .stdout_has("table public.users\n-  column 3 c1 integer\n+  column 3 c2 integer\n");
    outcome(&project, "hit");
    only_templates_left(&project);
}

#[test]
fn a_broken_build_command_is_found_behind_a_template() {
    let project = Project::with_migrations(server());
    ensure(&project);
    project.build(&Build::Fail);
    outcome(&project, "hit");
    verify(&project, &[]).fails(4).stderr_has("migration 7 is broken");
    outcome(&project, "hit");
    only_templates_left(&project);
}

#[test]
fn without_a_template_there_is_nothing_to_verify() {
    let project = Project::with_migrations(server());
    verify(&project, &[]).fails(6).stderr_has("build it: `pgstencil ensure`");
    verify(&project, &["--all"]).fails(6);
    assert_eq!(project.builds(), 0);
}

#[test]
fn all_takes_every_definition_that_has_one() {
    let project = Project::with_migrations(server());
    project.append_config(
        "[template.b]\nmigrations = [\"migrations/*.sql\"]\nbuild = \"sh migrate.sh\"\n\
         [template.c]\nmigrations = [\"migrations/*.sql\"]\nbuild = \"sh migrate.sh\"",
    );
    for name in ["app", "b"] {
        Pgstencil::new(&project).args(["ensure", "-t", name]).success();
    }
    let output = verify(&project, &["--all", "--json"]).success();
    output.stderr_has("no template of `c`");
    let names: Vec<Value> =
        output.json()["verified"].as_array().unwrap().iter().map(|v| v["template"].clone()).collect();
    assert_eq!(names, ["app", "b"]);
}

#[test]
fn two_at_once_take_turns() {
    let project = extended(KEEP);
    outcome(&project, "extended");
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| verify(&project, &["--replace", "--json"]).success().json()))
            .collect();
        threads.into_iter().map(|t| i32::from(t.join().unwrap()["verified"][0]["equal"] == true)).collect()
    });
    assert_eq!(codes, [1, 1]);
    assert_eq!(project.builds(), 4);
    outcome(&project, "hit");
    let rows = templates(&project).len();
    assert!(rows >= 2, "{rows}");
}

#[test]
fn sets_hold_each_others_names() {
    let project = Project::extending(server(), "rebuild = \"never\"\ndatabases = [\"main\", \"side\"]");
    project.build(&Build::Script(
        "migrate; sql -d \"$DATABASE_URL\" -c \"create or replace view names as select '$PGSTENCIL_NAME_SIDE' as side\"".into(),
    ));
    ensure(&project);
    verify(&project, &[]).success();
    project.add_migration("0003_items", "create table items ();");
    outcome(&project, "extended");
    verify(&project, &[]).success();
}

#[test]
fn an_ordinary_role_may_extend_settle_and_verify() {
    let role = Role::new(server());
    let mut project = Project::extending(server(), "databases = [\"main\", \"side\"]");
    project.connect_as(&role);
    outcome(&project, "miss");
    items(&project);
    let settled = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).success();
    settled.stderr_has("equals template app").lacks("could not re-apply");
    assert_eq!(settled.json()["outcome"], "extended");
    verify(&project, &["--replace"]).success();
    only_templates_left(&project);
}

#[test]
fn killed_at_any_moment_it_leaves_the_template_and_is_swept() {
    let project = extended("rebuild = \"never\"\ndatabases = [\"main\", \"side\"]");
    project.append_config("[clone]\norphan_grace = \"1s\"");
    let answer = outcome(&project, "extended");
    project.build(&Build::Slow(Duration::from_millis(300)));
    for millis in [50, 250, 500, 600, 700, 800, 900, 1100] {
        let mut running = verify(&project, &["--replace"]).spawn();
        std::thread::sleep(Duration::from_millis(millis));
        running.kill9();
        running.wait();
        let again = outcome(&project, "hit");
        assert_eq!(again["fingerprint"], answer["fingerprint"]);
    }
    let run = || drop(Pgstencil::new(&project).args(["run", "--", "true"]).success());
    let swept = until_done(run, || project.databases().len() == 4);
    assert!(swept, "{:?}", project.databases());
    verify(&project, &[]).success();
}
