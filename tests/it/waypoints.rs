//! Full builds in two steps: the migrations before an edit are kept as a base for the next edit.

use serde_json::{Value, json};

use crate::support::extension::{ensure, outcome, templates};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, eventually, server};

/// A project with six migrations, the last of which creates table `last`, and a migrate command that stops at a
/// version. Its full builds take long enough for a waypoint.
fn project(keys: &str) -> Project<'static> {
    let project =
        Project::extending(server(), &format!("build_until = \"sh migrate.sh {{version}}\"\n{keys}"));
    let config = project.read("pgstencil.toml");
    project.write(
        "pgstencil.toml",
        &config.replace("[template.app]", "[clone]\nbackground = \"off\"\n\n[template.app]"),
    );
    for n in 3..=6 {
        project.add_migration(&format!("000{n}_t{n}"), &format!("create table t{n} ();"));
    }
    script(&project, "until_version ${1:-9999}");
    project
}

/// What the migrate command does; `until_version N` is there.
fn script(project: &Project<'_>, text: &str) {
    project.build(&Build::Script(format!(
        r#"until_version() {{
               sql -d "$DATABASE_URL" -c 'create table if not exists schema_migrations (name text primary key)'
               for file in migrations/*.sql; do
                   name=$(basename "$file" .sql)
                   [ "${{name%%_*}}" -le "$1" ] || continue
                   [ -z "$(sql -d "$DATABASE_URL" -c "select 1 from schema_migrations where name = '$name'")" ] || continue
                   sql -d "$DATABASE_URL" --single-transaction -f "$file" \
                       -c "insert into schema_migrations values ('$name')"
               done
           }}
           [ -e fast ] || sleep 2
           {text}"#
    )));
}

/// The first template, and an edit of the newest migration.
fn edited(project: &Project<'_>) {
    outcome(project, "miss");
    edit(project, 1);
    project.write("fast", "");
}

fn edit(project: &Project<'_>, n: u32) {
    project.add_migration("0006_t6", &format!("create table t6 (n{n} int);"));
}

fn waypoints(project: &Project<'_>) -> Vec<Value> {
    templates(project).into_iter().filter(|t| t["waypoint"] == true).collect()
}

fn explain(project: &Project<'_>) -> Value {
    Pgstencil::new(project).args(["explain", "--json"]).success().json()["now"].clone()
}

/// A column of table `t6` in the template of these inputs.
fn column(project: &Project<'_>, name: &str) -> String {
    let run = Pgstencil::new(project).args([
        "run",
        "--",
        "psql",
        "-XAtc",
        "select string_agg(attname, ' ' order by attname) from pg_attribute
         where attrelid = to_regclass('t6') and attnum > 0",
    ]);
    let found = run.success().stdout.trim_end().to_owned();
    assert_eq!(found, name);
    found
}

#[test]
fn an_edit_of_the_newest_migration_leaves_a_base_for_the_next_edit() {
    let project = project("");
    edited(&project);
    assert_eq!(explain(&project)["waypoint"], json!({"version": "0005", "migrations": 5, "of": 6}));
    Pgstencil::new(&project).arg("explain").success().stdout_has(
        "\nit would run in two steps, and keep the first one as a base: 5 of 6 migrations (version 0005)\n",
    );
    let miss = outcome(&project, "miss");
    assert_eq!(project.builds(), 3);
    let found = waypoints(&project);
    let [waypoint] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(miss["provisional"], true);
    assert_eq!(
        miss["extends"],
        json!({"base": waypoint["fingerprint"], "added": ["migrations/0006_t6.sql"]})
    );
    assert_eq!(
        (&waypoint["provisional"], &waypoint["base"], &waypoint["state"]),
        (&json!(true), &Value::Null, &json!("ready"))
    );
    Pgstencil::new(&project)
        .arg("list")
        .success()
        .stdout_has("waypoint")
        .stdout_has("no command starts a full build, since background work is off")
        .lacks("the next command");
    column(&project, "n1");
    edit(&project, 2);
    let extended = outcome(&project, "extended");
    assert_eq!(extended["extends"]["base"], waypoint["fingerprint"]);
    assert_eq!(project.builds(), 4);
    column(&project, "n2");
    let stats = Pgstencil::new(&project).args(["stats", "--json"]).success().json();
    assert_eq!((&stats["total"]["misses"], &stats["total"]["waypoints"]), (&json!(2), &json!(1)));
    Pgstencil::new(&project).arg("stats").success().stdout_has("one waypoint as bases of later builds");
    // A proof is a build in one step.
    Pgstencil::new(&project).arg("verify").success();
    assert_eq!(project.builds(), 5);
    let rebuilt = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).success().json();
    assert_eq!(rebuilt["provisional"], false);
    assert_eq!(project.builds(), 6);
    assert_eq!(waypoints(&project).len(), 1);
}

#[test]
fn a_waypoint_is_a_provisional_template_of_its_files() {
    let project = project("");
    edited(&project);
    ensure(&project);
    std::fs::remove_file(project.path().join("migrations/0006_t6.sql")).unwrap();
    let hit = outcome(&project, "hit");
    assert_eq!(hit["fingerprint"], waypoints(&project)[0]["fingerprint"]);
    assert_eq!(hit["provisional"], true);
    column(&project, "");
    let list = templates(&project);
    let row = list.iter().find(|t| t["waypoint"] == true).unwrap();
    assert_eq!(row["rebuild"]["next"], "rebuild", "{row}");
    let rebuilt = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).success().json();
    assert_eq!(rebuilt["provisional"], false);
    assert_eq!(waypoints(&project).len(), 0);
}

#[test]
fn a_first_step_that_does_not_stop_is_dropped_with_the_second_one() {
    let project = project("");
    script(&project, "until_version 9999");
    edited(&project);
    let answer = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    answer
        .stderr_has("no waypoints are built any more, since one failed")
        .stderr_has("`build_until` did not stop at version 0005")
        .stderr_has("the build command changed nothing after it");
    let answer = answer.json();
    assert_eq!((&answer["outcome"], &answer["provisional"]), (&json!("miss"), &json!(false)));
    assert_eq!(project.builds(), 4);
    assert_eq!(templates(&project).len(), 2);
    assert_eq!(project.databases().len(), 2);
    column(&project, "n1");
    edit(&project, 2);
    let now = explain(&project);
    assert_eq!(now["no_waypoints"], "`build_until` did not stop at version 0005");
    assert_eq!(now["waypoint"], Value::Null);
    outcome(&project, "miss");
    assert_eq!(project.builds(), 5);
    // Another command is another attempt.
    script(&project, "until_version ${2:-9999}");
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("migrate.sh {version}", "migrate.sh to {version}"));
    std::fs::remove_file(project.path().join("fast")).unwrap();
    // The second build has a waypoint at the latest, since the first one took long enough.
    for n in 3..=4 {
        edit(&project, n);
        ensure(&project);
    }
    assert_eq!(waypoints(&project).len(), 1);
}

#[test]
fn a_first_step_that_fails_is_followed_by_one_step() {
    let project = project("");
    script(&project, "[ $# = 0 ] || { echo 'no such option' >&2; exit 9; }; until_version 9999");
    edited(&project);
    let answer = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    answer
        .stderr_has("no waypoints are built any more, since one failed")
        .stderr_has("failed (exit code 9")
        .stderr_has("no such option");
    let answer = answer.json();
    assert_eq!((&answer["outcome"], &answer["provisional"]), (&json!("miss"), &json!(false)));
    assert_eq!(project.databases().len(), 2);
    edit(&project, 2);
    Pgstencil::new(&project).arg("ensure").success().lacks("waypoint");
}

#[test]
fn a_broken_migration_leaves_the_base() {
    let project = project("");
    edited(&project);
    project.add_migration("0006_t6", "create table t6 (oops);");
    Pgstencil::new(&project).arg("ensure").fails(4).stderr_has("the second step of the full build failed");
    assert_eq!(waypoints(&project).len(), 1);
    assert_eq!(project.databases().len(), 2);
    edit(&project, 2);
    outcome(&project, "extended");
    column(&project, "n2");
}

#[test]
fn a_command_that_cannot_go_on_ends_waypoints() {
    let project = project("");
    // It refuses a database that has migrations.
    script(
        &project,
        "[ -z \"$(sql -d \"$DATABASE_URL\" -c \"select to_regclass('schema_migrations')\")\" ] || exit 8
         until_version ${1:-9999}",
    );
    edited(&project);
    let answer = ensure(&project);
    assert_eq!((&answer["outcome"], &answer["provisional"]), (&json!("miss"), &json!(false)));
    assert_eq!(waypoints(&project).len(), 0);
    assert_eq!(project.databases().len(), 2);
    edit(&project, 2);
    assert_eq!(explain(&project)["no_waypoints"], "the build command failed on a waypoint");
}

#[test]
fn a_builder_that_is_killed_between_the_steps_leaves_nothing() {
    let project = project("");
    edited(&project);
    script(
        &project,
        "[ $# = 1 ] || { echo $$ >second; while [ -e pgstencil.toml ] && [ ! -e go ]; do sleep 0.05; done; }
         until_version ${1:-9999}",
    );
    let mut running = Pgstencil::new(&project).arg("ensure").spawn();
    assert!(eventually(PATIENCE, || !project.read("second").is_empty()));
    assert!(project.databases().len() >= 3);
    running.kill9();
    project.write("go", "");
    ensure(&project);
    assert_eq!(waypoints(&project).len(), 1);
    let left = || {
        ensure(&project);
        let rows = templates(&project);
        rows.iter().all(|t| t["state"] == "ready") && project.databases().len() == rows.len()
    };
    assert!(eventually(PATIENCE, left), "{:?}", project.databases());
}

/// sqlx keeps the checksums of its migrations, and refuses those that changed.
#[test]
fn sqlx_goes_on_from_a_waypoint() {
    let program = std::env::current_exe().unwrap();
    let program = program.ancestors().nth(2).unwrap().join("examples/sqlx");
    // Only some of the ways to run the tests build it.
    if !program.exists() {
        eprintln!("skipped: {} was not built", program.display());
        return;
    }
    let project = project("");
    let config = project
        .read("pgstencil.toml")
        .replace("sh migrate.sh", &format!("sh migrate.sh {}", program.display()));
    project.write("pgstencil.toml", &config);
    project.build(&Build::Script(
        "[ -e fast ] || sleep 2; program=$1; shift; \"$program\" migrate \"$@\"".into(),
    ));
    edited(&project);
    let miss = outcome(&project, "miss");
    let waypoint = waypoints(&project)[0]["fingerprint"].clone();
    assert_eq!(miss["extends"]["base"], waypoint);
    column(&project, "n1");
    edit(&project, 2);
    assert_eq!(outcome(&project, "extended")["extends"]["base"], waypoint);
    column(&project, "n2");
    Pgstencil::new(&project).arg("verify").success();
    std::fs::remove_file(project.path().join("migrations/0006_t6.sql")).unwrap();
    assert_eq!(outcome(&project, "hit")["fingerprint"], waypoint);
    let applied = ["run", "--", "psql", "-XAtc", "select count(*), max(version) from _sqlx_migrations"];
    Pgstencil::new(&project).args(applied).success().stdout_has("5|5\n");
}

#[test]
fn without_gain_there_is_one_step() {
    // Short builds. A busy machine may need longer.
    let short = project("");
    short.write("fast", "");
    edited(&short);
    let costs =
        Pgstencil::new(&short).args(["explain", "--json"]).success().json()["costs_ms"]["build"].as_f64();
    ensure(&short);
    let pays = costs.unwrap() >= 2000.0;
    assert_eq!((short.builds(), waypoints(&short).len()), if pays { (3, 1) } else { (2, 0) });
    // Switched off.
    let off = project("waypoints = \"never\"");
    edited(&off);
    ensure(&off);
    assert_eq!((off.builds(), waypoints(&off).len()), (2, 0));
    // Most of the set is new.
    let early = project("");
    edited(&early);
    early.add_migration("0002_orders", "create table orders ();");
    ensure(&early);
    assert_eq!((early.builds(), waypoints(&early).len()), (2, 0));
    // Few migrations.
    let few = project("");
    for n in 3..=4 {
        std::fs::remove_file(few.path().join(format!("migrations/000{n}_t{n}.sql"))).unwrap();
    }
    edited(&few);
    ensure(&few);
    assert_eq!((few.builds(), waypoints(&few).len()), (2, 0));
}
