//! Full builds in two steps: the migrations before an edit are kept as a base for the next edit.

use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::examples::django_venv;
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
        .stdout_has(", not used yet; ")
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
    Pgstencil::new(&project)
        .arg("stats")
        .success()
        .stdout_has("one waypoint was built as the base of later builds");
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
    // Two hits, and no build for these files.
    assert_eq!(row["rebuild"]["uses"], 2, "{row}");
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

/// A project whose migrate command cannot stop, with migrations in two directories, `a` and `b`. It runs in copies of
/// the tree.
fn copying() -> Project<'static> {
    let project = Project::extending(server(), "waypoints = \"copy\"");
    let config = project.read("pgstencil.toml");
    let config = config
        .replace("\"migrations/*.sql\"", "\"*/migrations/*.sql\"")
        .replace("[template.app]", "[clone]\nbackground = \"off\"\n\n[template.app]");
    project.write(
        "pgstencil.toml",
        &format!("{config}\n[template.app.env]\nROOT = \"{{root}}\"\n\n[template.app.build_env]\nLIB = \"{{root}}/lib\"\n"),
    );
    std::fs::remove_dir_all(project.path().join("migrations")).unwrap();
    for n in 1..=3 {
        put(&project, "a", n, 0);
        put(&project, "b", n, 0);
    }
    project.write(".gitignore", "builds.log\nfast\ngo\nfirst\nsecond\nnode_modules/\n");
    project.write("node_modules/pad/index.js", "pad");
    all(&project, "all");
    project
}

fn put(project: &Project<'_>, app: &str, n: u32, edition: u32) {
    project.write(
        &format!("{app}/migrations/000{n}_{app}{n}.sql"),
        &format!("create table {app}{n} (e{edition} int);\n"),
    );
}

/// What the migrate command does; `all` runs all migrations below the working directory, or below `$1`.
fn all(project: &Project<'_>, text: &str) {
    project.build(&Build::Script(format!(
        r#"all() {{
               sql -d "$DATABASE_URL" -c 'create table if not exists schema_migrations (name text primary key)'
               for file in "${{1:-.}}"/*/migrations/*.sql; do
                   name=$(basename "$file" .sql)
                   [ -z "$(sql -d "$DATABASE_URL" -c "select 1 from schema_migrations where name = '$name'")" ] || continue
                   sql -d "$DATABASE_URL" --single-transaction -f "$file" \
                       -c "insert into schema_migrations values ('$name')"
               done
           }}
           [ -e fast ] || sleep 2
           pwd >>builds.log
           {text}"#
    )));
}

/// The first template, and an edit of the last migration of both directories.
fn both_edited(project: &Project<'_>) {
    outcome(project, "miss");
    put(project, "a", 3, 1);
    put(project, "b", 3, 1);
    project.write("fast", "");
}

/// The tables of the template of these inputs, each with its column.
fn tables(project: &Project<'_>) -> String {
    let query = "select string_agg(relname || '.' || attname, ' ' order by relname)
                 from pg_class c join pg_attribute a on attrelid = c.oid and attnum > 0
                 where relkind = 'r' and relname ~ '^[ab][0-9]$'";
    let run = Pgstencil::new(project).args(["run", "--", "psql", "-XAtc", query]).success();
    run.stdout.trim_end().to_owned()
}

/// The copies of trees, and their locks.
fn copies(project: &Project<'_>) -> usize {
    std::fs::read_dir(project.home().join(".cache/pgstencil/trees")).map_or(0, Iterator::count)
}

#[test]
fn a_command_that_cannot_stop_runs_in_a_copy() {
    let project = copying();
    both_edited(&project);
    assert_eq!(explain(&project)["waypoint"], json!({"copy": true, "migrations": 4, "of": 6}));
    Pgstencil::new(&project).arg("explain").success().stdout_has(
        "\nit would run in two steps, and keep the first one as a base: 4 of 6 migrations (in a copy of the tree)\n",
    );
    let file = project.path().join("a/migrations/0001_a1.sql");
    let stat = |path: &std::path::Path| {
        let found = std::fs::metadata(path).unwrap();
        (found.ctime(), found.ctime_nsec(), found.nlink())
    };
    let before = stat(&file);
    all(
        &project,
        r#"printf '%s\n' "$PWD" "$ROOT" "$LIB" "$(stat -c %a .. . 2>/dev/null | tr '\n' ' ')" \
               "$(readlink node_modules)" "$(ls -d .git 2>/dev/null)" >>builds.log; all"#,
    );
    project.write("builds.log", "");
    let miss = outcome(&project, "miss");
    let found = waypoints(&project);
    let [waypoint] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(miss["provisional"], true);
    assert_eq!(
        miss["extends"],
        json!({
            "base": waypoint["fingerprint"],
            "added": ["a/migrations/0003_a3.sql", "b/migrations/0003_b3.sql"]
        })
    );
    assert_eq!(stat(&file), before);
    assert_eq!(copies(&project), 0);
    // The log is ignored, so it is the same file in the copy.
    let log = project.read("builds.log");
    let lines: Vec<&str> = log.lines().collect();
    let (root, home) = (project.path().canonicalize().unwrap(), project.home().canonicalize().unwrap());
    assert_eq!(lines.len(), 16, "{log}");
    let copy = lines[1];
    assert!(copy.starts_with(home.to_str().unwrap()) && copy.ends_with("/project"), "{log}");
    assert_eq!(lines[2..5], [copy, copy, &format!("{copy}/lib")]);
    if cfg!(target_os = "linux") {
        assert_eq!(lines[5], "700 700 ");
    }
    assert_eq!(lines[6], root.join("node_modules").to_str().unwrap());
    assert_eq!(lines[9], root.to_str().unwrap());
    assert_eq!(tables(&project), "a1.e0 a2.e0 a3.e1 b1.e0 b2.e0 b3.e1");
    for edition in 2..=3 {
        put(&project, "b", 3, edition);
        assert_eq!(outcome(&project, "extended")["extends"]["base"], waypoint["fingerprint"]);
    }
    assert_eq!(tables(&project), "a1.e0 a2.e0 a3.e1 b1.e0 b2.e0 b3.e3");
    Pgstencil::new(&project).arg("verify").success();
    for app in ["a", "b"] {
        std::fs::remove_file(project.path().join(format!("{app}/migrations/0003_{app}3.sql"))).unwrap();
    }
    assert_eq!(outcome(&project, "hit")["fingerprint"], waypoint["fingerprint"]);
    assert_eq!(tables(&project), "a1.e0 a2.e0 b1.e0 b2.e0");
    Pgstencil::new(&project).arg("verify").success();
}

#[test]
fn a_command_that_reads_the_original_tree_ends_copies() {
    let project = copying();
    // As an editable install does it.
    all(&project, &format!("all '{}'", project.path().display()));
    both_edited(&project);
    let answer = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    answer
        .stderr_has("no waypoints are built any more, since one failed")
        .stderr_has("in a copy of the tree, `build` ran migrations that the copy lacks")
        .stderr_has("table public.schema_migrations has a row with the name of a later migration");
    let answer = answer.json();
    assert_eq!((&answer["outcome"], &answer["provisional"]), (&json!("miss"), &json!(false)));
    assert_eq!((templates(&project).len(), project.databases().len(), copies(&project)), (2, 2, 0));
    assert_eq!(tables(&project), "a1.e0 a2.e0 a3.e1 b1.e0 b2.e0 b3.e1");
    put(&project, "a", 3, 2);
    let now = explain(&project);
    assert_eq!(now["no_waypoints"], "in a copy of the tree, `build` ran migrations that the copy lacks");
    assert_eq!(now["waypoint"], Value::Null);
    project.write("builds.log", "");
    outcome(&project, "miss");
    assert_eq!(project.read("builds.log").lines().count(), 2);
    // Another command is another attempt.
    all(&project, "all");
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("sh migrate.sh", "sh ./migrate.sh"));
    std::fs::remove_file(project.path().join("fast")).unwrap();
    for edition in 3..=4 {
        put(&project, "a", 3, edition);
        ensure(&project);
    }
    assert_eq!(waypoints(&project).len(), 1);
}

#[test]
fn a_command_that_reads_a_part_of_the_original_tree_leaves_no_waypoint() {
    let project = copying();
    // As if one of two packages were installed from the original: the second step changes something.
    let original = project.path();
    all(
        &project,
        &format!(
            "case $PWD in
             */trees/*) mkdir ../mix; ln -s \"$PWD/a\" ../mix/a; ln -s '{}/b' ../mix/b; all ../mix;;
             *) all;;
             esac",
            original.display()
        ),
    );
    both_edited(&project);
    let answer = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    answer
        .stderr_has("no waypoints are built any more, since one failed")
        .stderr_has("in a copy of the tree, `build` ran migrations that the copy lacks")
        .stderr_has("table public.schema_migrations has a row with the name of a later migration");
    assert_eq!(waypoints(&project).len(), 0);
    assert_eq!(answer.json()["provisional"], false);
    assert_eq!(tables(&project), "a1.e0 a2.e0 a3.e1 b1.e0 b2.e0 b3.e1");
}

#[test]
fn a_failure_in_a_copy_is_followed_by_one_step() {
    let project = copying();
    // It needs its repository.
    project.write(".git/HEAD", "ref: refs/heads/main\n");
    all(&project, "[ -e .git/HEAD ] || { echo 'not a repository' >&2; exit 9; }; all");
    both_edited(&project);
    let answer = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    answer
        .stderr_has("no waypoints are built any more, since one failed")
        .stderr_has("failed (exit code 9")
        .stderr_has("not a repository")
        .stderr_has("set `waypoints = \"auto\"` in [template.app]");
    let answer = answer.json();
    assert_eq!((&answer["outcome"], &answer["provisional"]), (&json!("miss"), &json!(false)));
    assert_eq!((project.databases().len(), copies(&project)), (2, 0));
    put(&project, "a", 3, 2);
    Pgstencil::new(&project).arg("ensure").success().lacks("waypoint");
}

#[test]
fn a_project_that_cannot_be_built_keeps_its_waypoints() {
    let project = copying();
    both_edited(&project);
    all(&project, "echo 'settings are broken' >&2; exit 9");
    Pgstencil::new(&project).arg("ensure").fails(4).stderr_has("settings are broken").lacks("any more");
    assert_eq!(copies(&project), 0);
    all(&project, "all");
    outcome(&project, "miss");
    assert_eq!(waypoints(&project).len(), 1);
}

#[test]
fn a_copy_of_a_killed_builder_is_removed() {
    let project = copying();
    both_edited(&project);
    all(
        &project,
        "[ \"$PWD\" = \"$ROOT\" ] && case $PWD in */trees/*)
             echo $$ >first; chmod 500 a; while [ -e pgstencil.toml ] && [ ! -e go ]; do sleep 0.05; done;; esac
         all",
    );
    project.write("first", "");
    project.write("node_modules/pad/index.js", "pad");
    let mut running = Pgstencil::new(&project).arg("ensure").spawn();
    assert!(eventually(PATIENCE, || !project.read("first").is_empty()));
    assert_eq!(copies(&project), 2);
    // A cleanup leaves what is in use.
    Pgstencil::new(&project).arg("evict").success();
    assert_eq!(copies(&project), 2);
    running.kill9();
    project.write("go", "");
    assert!(eventually(PATIENCE, || {
        Pgstencil::new(&project).arg("evict").success();
        copies(&project) == 0
    }));
    assert_eq!(project.read("node_modules/pad/index.js"), "pad");
    ensure(&project);
    assert_eq!((waypoints(&project).len(), copies(&project)), (1, 0));
}

#[test]
fn a_tree_that_is_too_large_is_not_copied() {
    let project = copying();
    both_edited(&project);
    let large = std::fs::File::create(project.path().join("large")).unwrap();
    large.set_len(1_000_000_001).unwrap();
    let now = explain(&project);
    let why = now["no_waypoints"].as_str().unwrap().to_owned();
    assert!(why.ends_with("is too large to copy"), "{why}");
    // The build in one step would be too short for a waypoint later.
    std::fs::remove_file(project.path().join("fast")).unwrap();
    Pgstencil::new(&project).arg("explain").success().stdout_has("\nno waypoint is built: the tree ");
    Pgstencil::new(&project)
        .arg("ensure")
        .success()
        .stderr_has("no waypoint is built this time")
        .stderr_has("is too large to copy")
        .stderr_has("list in .gitignore what the build does not need");
    assert_eq!((waypoints(&project).len(), copies(&project)), (0, 0));
    // What is ignored is not copied.
    project.append(".gitignore", "large\n");
    put(&project, "a", 3, 2);
    ensure(&project);
    assert_eq!(waypoints(&project).len(), 1);
}

#[test]
fn migrations_that_depend_on_an_edited_one_are_in_the_second_step() {
    let project = copying();
    project.write(
        "b/migrations/0002_b2.sql",
        "-- needs 0003_a3\ncreate table b2 (e0 int); alter table a3 add column b2 int;\n",
    );
    // By the name of the file, as many tools do it, it would come too early.
    all(&project, "all . 2>/dev/null || all .");
    outcome(&project, "miss");
    put(&project, "a", 3, 1);
    project.write("fast", "");
    assert_eq!(explain(&project)["waypoint"], json!({"copy": true, "migrations": 3, "of": 6}));
    let miss = outcome(&project, "miss");
    let added = ["a/migrations/0003_a3.sql", "b/migrations/0002_b2.sql", "b/migrations/0003_b3.sql"];
    assert_eq!(miss["extends"]["added"], json!(added));
    put(&project, "a", 3, 2);
    outcome(&project, "extended");
}

#[test]
fn names_without_an_order_are_no_obstacle_for_a_copy() {
    let project = copying();
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("[template.app]", "[template.app]\nextend = \"always\""));
    both_edited(&project);
    put(&project, "a", 3, 0);
    put(&project, "a", 1, 1);
    put(&project, "b", 3, 0);
    assert_eq!(explain(&project)["waypoint"], json!({"copy": true, "migrations": 3, "of": 6}));
    project.write("a/migrations/0002_a2.sql", "create table a2 (e1 int);\n");
    // In order, too little is left.
    put(&project, "b", 1, 1);
    assert_eq!(explain(&project)["waypoint"], json!({"copy": true, "migrations": 3, "of": 6}));
    outcome(&project, "miss");
    put(&project, "b", 1, 2);
    outcome(&project, "extended");
    assert_eq!(tables(&project), "a1.e1 a2.e1 a3.e0 b1.e2 b2.e0 b3.e0");
}

/// A Django project of two apps, in `shop` the migrations 1 to 4, in `news` 1 to 3, of which 2 and 3 depend on the
/// newest of `shop`, which is to be edited.
fn django(project: &Project<'_>) {
    for app in ["shop", "news"] {
        project.write(&format!("{app}/__init__.py"), "");
        project.write(&format!("{app}/migrations/__init__.py"), "");
        for n in 1..=4 {
            django_migration(project, app, n, "e0");
        }
    }
    std::fs::remove_file(project.path().join("news/migrations/0004_news4.py")).unwrap();
    std::fs::remove_dir_all(project.path().join("migrations")).unwrap();
    project.write(
        "manage.py",
        r#"import os, sys
from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(
    INSTALLED_APPS=["shop", "news"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"} | {
        key: os.environ["PG" + variable] for key, variable in
        {"NAME": "DATABASE", "HOST": "HOST", "PORT": "PORT", "USER": "USER", "PASSWORD": "PASSWORD"}.items()}},
)
execute_from_command_line(sys.argv)
"#,
    );
    let config = project.read("pgstencil.toml");
    let config = config
        .replace("\"migrations/*.sql\"", "\"*/migrations/*.py\", \"!**/__init__.py\"")
        .replace("[template.app]", "[clone]\nbackground = \"off\"\n\n[template.app]");
    project.write("pgstencil.toml", &config);
}

fn django_migration(project: &Project<'_>, app: &str, n: u32, column: &str) {
    let mut after = Vec::new();
    if n > 1 {
        after.push(format!("('{app}', '000{0}_{app}{0}')", n - 1));
    }
    if (app, n) == ("news", 2) {
        after.push("('shop', '0004_shop4')".to_owned());
    }
    project.write(
        &format!("{app}/migrations/000{n}_{app}{n}.py"),
        &format!(
            "from django.db import migrations, models\n\n\n\
             class Migration(migrations.Migration):\n    \
                 dependencies = [{}]\n    \
                 operations = [migrations.CreateModel('{app}{n}', [('{column}', models.IntegerField(primary_key=True))])]\n",
            after.join(", ")
        ),
    );
}

#[test]
fn django_goes_on_from_a_waypoint() {
    let Some(venv) = django_venv() else { return };
    let project = Project::extending(server(), "waypoints = \"copy\"");
    django(&project);
    let python = venv.join("bin/python");
    project.build(&Build::Script(format!(
        "[ -e fast ] || sleep 2; {} -B manage.py migrate --verbosity 0",
        python.display()
    )));
    assert_eq!(outcome(&project, "miss")["provisional"], false);
    project.write("fast", "");
    django_migration(&project, "shop", 4, "e1");
    // Those of the other app that come after it are no part of it: without them Django could not start.
    assert_eq!(explain(&project)["waypoint"], json!({"copy": true, "migrations": 4, "of": 7}));
    let miss = outcome(&project, "miss");
    let later =
        ["news/migrations/0002_news2.py", "news/migrations/0003_news3.py", "shop/migrations/0004_shop4.py"];
    assert_eq!(miss["extends"]["added"], json!(later));
    django_migration(&project, "shop", 4, "e2");
    let extended = outcome(&project, "extended");
    assert_eq!(extended["extends"]["added"], json!(later));
    assert_eq!((waypoints(&project).len(), copies(&project)), (1, 0));
    let query = "select string_agg(attname, ' ' order by relname)
                 from pg_class c join pg_attribute a on attrelid = c.oid and attnum > 0
                 where relkind = 'r' and relname ~ '[34]$'";
    let run = Pgstencil::new(&project).args(["run", "--", "psql", "-XAtc", query]).success();
    assert_eq!(run.stdout.trim_end(), "e0 e0 e2");
    Pgstencil::new(&project).arg("verify").success();
}
