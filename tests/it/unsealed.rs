//! A build command that does not see its new migrations, as a program that they are compiled into.

use serde_json::Value;

use crate::support::cli::Output;
use crate::support::extension::{KEEP, ensure, items, outcome, templates};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, eventually, server};

/// A program with the migrations in it that are there now.
fn compile(project: &Project<'_>, then: &str) {
    let copied = std::process::Command::new("cp")
        .args(["-rT", "migrations", "../compiled"])
        .current_dir(project.path())
        .status();
    assert!(copied.unwrap().success());
    project.build(&Build::Script(format!(
        "cd ../compiled/..; mkdir -p cwd; cd cwd; ln -sfn ../compiled migrations; migrate; {then}"
    )));
}

/// A template that such a program made, and a migration that the program lacks.
fn stale(keys: &str, then: &str) -> Project<'static> {
    let project = Project::extending(server(), keys);
    compile(&project, then);
    assert_eq!(ensure(&project)["outcome"], "miss");
    items(&project);
    project
}

fn tables(clone: &Value) -> String {
    let name = clone["name"].as_str().unwrap();
    server().psql(name, "select count(*) from pg_tables where schemaname = 'public'")
}

#[track_caller]
fn explains(output: &Output) {
    output
        .stderr_has(
            "the build command of `app` changed nothing, although a migration is new: `migrations/0003_items.sql`",
        )
        .stderr_has("let `build` compile it first")
        .stderr_has("`allow_unchanged = true` in [template.app]");
}

/// Nothing of the new files is a template, and nothing is left but what was there.
#[track_caller]
fn nothing_sealed(project: &Project<'_>) {
    let of_base = || templates(project).iter().filter(|t| t["state"] == "ready").count() == 1;
    assert!(of_base(), "{:?}", templates(project));
}

#[test]
fn what_a_stale_program_extends_is_handed_out_and_not_sealed() {
    let project = stale("", "");
    let answer = Pgstencil::new(&project).args(["clone", "--clones", "3", "--json"]).success();
    explains(&answer);
    answer.stderr_has("you get this result, but it is not kept as a template");
    let answer = answer.json();
    assert_eq!(answer["outcome"], "unsealed");
    assert!(answer["note"].as_str().unwrap().contains("changed nothing"), "{answer}");
    assert_eq!(answer["extends"], Value::Null);
    for clone in answer["clones"].as_array().unwrap() {
        assert_eq!(tables(clone), "3");
    }
    nothing_sealed(&project);
    let run = Pgstencil::new(&project)
        .args(["run", "--", "sh", "-c", "echo $PGSTENCIL_OUTCOME; psql -At -c 'select count(*) from orders'"])
        .success();
    run.stdout("unsealed\n1\n");
    let refused = Pgstencil::new(&project).arg("ensure").fails(4);
    explains(&refused);
    refused.stdout("");
    nothing_sealed(&project);
    // Compiled again, it is a template like any other.
    compile(&project, "");
    let built = ensure(&project);
    assert_eq!(built["outcome"], "extended");
    let clone = Pgstencil::new(&project).args(["clone", "--json"]).success().json();
    assert_eq!(tables(&clone["clone"]), "4");
}

#[test]
fn what_was_not_sealed_is_dropped() {
    let project = stale(KEEP, "");
    project.append_config("[clone]\norphan_grace = \"1s\"");
    Pgstencil::new(&project).args(["run", "--", "true"]).success();
    let minute =
        "update pgstencil.template set kept_until = kept_until - interval '1 minute' where state = 'broken'";
    server().psql(&project.registry(), minute);
    let swept = eventually(PATIENCE, || {
        Pgstencil::new(&project).args(["evict"]).success();
        project.databases().len() == 1 && templates(&project).len() == 1
    });
    assert!(swept, "{:?} {:?}", project.databases(), templates(&project));
}

#[test]
fn those_who_wait_for_it_get_it_too() {
    let project = stale(KEEP, "");
    project.build(&Build::Script(
        "cd ../compiled/..; cd cwd; while [ -e ../hold ]; do sleep 0.1; done; migrate".into(),
    ));
    project.write("../hold", "");
    let command = |args: &[&str]| Pgstencil::new(&project).args(args).spawn();
    let first = command(&["clone", "--json"]);
    assert!(eventually(PATIENCE, || project.builds() == 2));
    let others = [
        command(&["clone", "--json"]),
        command(&["clone", "--clones", "2", "--json"]),
        command(&["run", "--", "sh", "-c", "echo $PGSTENCIL_OUTCOME"]),
    ];
    let asking = command(&["ensure"]);
    for waiting in others.iter().chain([&asking]) {
        waiting.wait_for_text("waiting for");
    }
    std::fs::remove_file(project.path().join("../hold")).unwrap();
    let first = first.wait();
    assert_eq!(first.json()["outcome"], "unsealed");
    let [one, two, run] = others.map(crate::support::cli::Running::wait);
    for output in [&one, &two] {
        output.code(0);
        explains(output);
        assert_eq!(output.json()["outcome"], "unsealed");
    }
    assert_eq!(tables(&two.json()["clones"][1]), "3");
    run.code(0).stdout("unsealed\n");
    let refused = asking.wait();
    refused.code(4);
    explains(&refused);
    // They all had the one that they waited for.
    assert_eq!(project.builds(), 2);
    // Whoever comes later gets a build of their own: the program may be another one by then.
    Pgstencil::new(&project).arg("clone").success();
    assert_eq!(project.builds(), 3);
}

#[test]
fn a_full_build_that_equals_what_has_fewer_migrations_is_not_sealed() {
    let project = stale("extend = \"never\"", "");
    let answer = Pgstencil::new(&project).args(["clone", "--json"]).success();
    explains(&answer);
    assert_eq!(answer.json()["outcome"], "unsealed");
    assert_eq!(tables(&answer.json()["clone"]), "3");
    Pgstencil::new(&project).arg("ensure").fails(4);
    nothing_sealed(&project);
    compile(&project, "");
    assert_eq!(ensure(&project)["outcome"], "miss");
}

#[test]
fn allow_unchanged_is_for_files_that_do_nothing() {
    for keys in [KEEP, "extend = \"never\""] {
        let project = stale(&format!("{keys}\nallow_unchanged = true"), "");
        let sealed = ensure(&project);
        assert_ne!(sealed["outcome"], "unsealed");
        outcome(&project, "hit");
    }
}

#[test]
fn a_clone_of_it_is_known_to_be_of_older_files() {
    let project = stale(KEEP, "");
    let named = || Pgstencil::new(&project).args(["clone", "--name", "dev_{project}", "--json"]).success();
    assert_eq!(named().json()["outcome"], "unsealed");
    let again = named();
    again.stderr_has("was created from older migrations");
    assert_eq!(again.json()["outcome"], "reused");
}

#[test]
fn a_rebuild_by_a_stale_program_replaces_nothing() {
    let project = stale("", "");
    // The program that extended was a new one; then somebody checks another branch out and compiles there.
    let old = project.read("migrate.sh");
    compile(&project, "");
    project.build(&Build::Script(
        "cd ../compiled/..; cd cwd
         [ $PGSTENCIL_OUTCOME = extended ] || rm -f migrations/0003_items.sql
         migrate"
            .into(),
    ));
    drop(old);
    let extended = outcome(&project, "extended");
    let failed = || {
        templates(&project).iter().any(|t| {
            t["rebuild_failure"]
                .as_str()
                .is_some_and(|why| why.contains("changed nothing, although a migration is new"))
        })
    };
    assert!(eventually(PATIENCE, failed), "{:?}", templates(&project));
    let hit = outcome(&project, "hit");
    assert_eq!(hit["fingerprint"], extended["fingerprint"]);
    let clone = Pgstencil::new(&project).args(["clone", "--json"]).success().json();
    assert_eq!(tables(&clone["clone"]), "4");
    Pgstencil::new(&project)
        .arg("verify")
        .fails(4)
        .stderr_has("changed nothing, although a migration is new");
}

#[test]
fn what_a_tool_notes_counts_however_it_notes_it() {
    // One row that says which version it is, as Alembic and golang-migrate write it, and a migration that only
    // changes rows.
    for (keys, expected) in [(KEEP, "extended"), ("extend = \"never\"", "miss")] {
        let project = Project::extending(server(), keys);
        project.build(&Build::Script(
            r#"sql -d "$DATABASE_URL" -c 'create table if not exists version (num text)'
               for file in migrations/*.sql; do
                   name=$(basename "$file" .sql)
                   done=$(sql -d "$DATABASE_URL" -c 'select num from version')
                   if [ "$name" \> "$done" ]; then
                       sql -d "$DATABASE_URL" -f "$file" -c 'truncate version' -c "insert into version values ('$name')"
                   fi
               done"#
                .into(),
        ));
        outcome(&project, "miss");
        project.add_migration("0003_data", "update users set name = 'bob';");
        outcome(&project, expected);
    }
}

#[test]
fn what_is_written_and_written_back_is_no_change() {
    // A lock as Liquibase takes one, and rows that are seeded every time.
    let project = stale(
        KEEP,
        r#"sql -d "$DATABASE_URL" -c 'create table if not exists lock (held bool); ' \
             -c 'insert into lock select false where not exists (select from lock)' \
             -c 'update lock set held = true' -c 'update lock set held = false' \
             -c 'create table if not exists seed (id int, at timestamptz)' \
             -c 'truncate seed' -c "insert into seed select 1, '2020-01-01'" \
             -c 'create temp table scratch (id int)'"#,
    );
    let answer = Pgstencil::new(&project).args(["clone", "--json"]).success();
    explains(&answer);
    assert_eq!(answer.json()["outcome"], "unsealed");
}

#[test]
fn files_that_are_no_migrations_need_not_change_anything() {
    let project = Project::extending(server(), "rebuild = \"never\"");
    let config = project.read("pgstencil.toml");
    let all = config.replace("\"migrations/*.sql\"", "\"migrations/*\", \"more/*\"");
    project.write("pgstencil.toml", &all);
    project.write("more/readme.md", "x");
    outcome(&project, "miss");
    // In a group of its own, without an order; and the way back of one that is there.
    project.write("migrations/__init__.py", "");
    assert_ne!(ensure(&project)["outcome"], "unsealed");
    project.write("migrations/0002_orders.down.txt", "drop table orders;");
    assert_ne!(ensure(&project)["outcome"], "unsealed");
}

#[test]
fn only_all_databases_of_a_set_together_may_be_unchanged() {
    let project = Project::extending(server(), "rebuild = \"never\"\ndatabases = [\"main\", \"side\"]");
    project.build(&Build::Script(
        "migrate_one \"$PGSTENCIL_URL_SIDE\"
         sql -d \"$DATABASE_URL\" -c 'create table if not exists t ()'"
            .into(),
    ));
    outcome(&project, "miss");
    items(&project);
    outcome(&project, "extended");
    project.build(&Build::Script("true".into()));
    project.add_migration("0004_more", "create table more ();");
    Pgstencil::new(&project).arg("ensure").fails(4);
    let answer = Pgstencil::new(&project).args(["clone", "--json"]).success().json();
    assert_eq!(answer["outcome"], "unsealed");
}
