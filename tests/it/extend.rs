//! A missing template is built on a copy of the nearest older one.

use std::time::Duration;

use serde_json::json;

use crate::support::extension::{KEEP, database_of, ensure, items, outcome, templates};
use crate::support::hold::goes;
use crate::support::server::{PATIENCE, quote_ident, quote_literal};
use crate::support::{Build, Pgstencil, Project, eventually, server, until_done};

#[test]
fn an_appended_migration_extends() {
    let project = Project::extending(server(), KEEP);
    let first = outcome(&project, "miss");
    items(&project);
    let second = outcome(&project, "extended");
    assert_eq!(second["provisional"], false);
    assert_eq!(second["extends"]["base"], first["fingerprint"]);
    assert_eq!(second["extends"]["added"], json!(["migrations/0003_items.sql"]));
    assert_eq!(project.builds(), 2);
    outcome(&project, "hit");
    let rows = templates(&project);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1]["base"], first["fingerprint"]);
    assert_eq!(rows[1]["chain"], 1);
    // The base is as it was.
    let base = database_of(&project, &first["fingerprint"]);
    let open = format!("alter database {} allow_connections true", quote_ident(&base));
    server().psql("postgres", &open);
    assert_eq!(server().psql(&base, "select to_regclass('items')"), "");
}

#[test]
fn the_command_sees_that_it_extends() {
    let project = Project::extending(server(), KEEP);
    project.build(&Build::Script("echo \"$PGSTENCIL_OUTCOME\" >>outcomes; migrate".into()));
    ensure(&project);
    items(&project);
    Pgstencil::new(&project)
        .args(["run", "--", "sh", "-c", "echo $PGSTENCIL_OUTCOME"])
        .success()
        .stdout("extended\n");
    assert_eq!(project.read("outcomes"), "miss\nextended\n");
}

#[test]
fn sets_are_extended_whole_with_what_a_copy_lacks() {
    let project = Project::extending(server(), "rebuild = \"never\"\ndatabases = [\"main\", \"side\"]");
    project.build(&Build::Script(
        "migrate
         if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then
             sql -d \"$DATABASE_URL\" -c \"alter database \\\"$PGSTENCIL_NAME_SIDE\\\" set search_path = x, public\" \\
                 -c \"revoke connect on database \\\"$PGSTENCIL_NAME_MAIN\\\" from public\" \\
                 -c \"comment on database \\\"$PGSTENCIL_NAME_MAIN\\\" is 'the builder''s own'\" \\
                 -c \"alter database \\\"$PGSTENCIL_NAME_SIDE\\\" connection limit 17\"
         fi"
        .into(),
    ));
    ensure(&project);
    items(&project);
    let answer = Pgstencil::new(&project).args(["clone", "--json"]).success().json();
    assert_eq!(answer["outcome"], "extended");
    let name = |role: &str| answer["clone"]["databases"][role]["name"].as_str().unwrap().to_owned();
    let (main, side) = (name("main"), name("side"));
    for database in [&main, &side] {
        assert_eq!(server().psql(database, "select count(*) from items"), "0");
    }
    let ask = |sql: &str, database: &str| {
        let of = quote_literal(database);
        server().psql("postgres", &sql.replace("$1", &of))
    };
    assert_eq!(
        ask(
            "select array_to_string(setconfig, ';') from pg_db_role_setting s \
             join pg_database d on d.oid = s.setdatabase where datname = $1",
            &side
        ),
        "search_path=x, public"
    );
    assert_eq!(ask("select datconnlimit from pg_database where datname = $1", &side), "17");
    assert_eq!(ask("select has_database_privilege('public', $1, 'connect')", &main), "f");
    let comment =
        ask("select shobj_description(oid, 'pg_database') from pg_database where datname = $1", &main);
    assert!(comment.starts_with("the builder's own\n"), "{comment}");
    assert_eq!(comment.matches("builder's").count(), 1, "{comment}");
}

#[test]
fn an_extension_that_fails_becomes_a_build_and_says_so() {
    let project = Project::extending(server(), KEEP);
    let first = ensure(&project);
    project.build(&Build::Script(
        "if [ \"$PGSTENCIL_OUTCOME\" = extended ]; then echo 'cannot upgrade' >&2; exit 3; fi; migrate"
            .into(),
    ));
    items(&project);
    let output = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    let short = &first["fingerprint"].as_str().unwrap()[..12];
    output.stderr_has(&format!(
        "the incremental build failed, so a full build follows\n  base: template {short}\n  \
         the build command of `app` failed (exit code 3"
    ));
    output.stderr_has("already has, set `extend = \"never\"` in [template.app]");
    let answer = output.json();
    assert_eq!(answer["outcome"], "miss");
    assert!(answer["extends"].is_null());
    assert!(answer["note"].as_str().unwrap().starts_with("the incremental build on template "));
    assert_eq!(templates(&project).len(), 2);
    assert_eq!(project.databases().len(), 2);
}

#[test]
fn if_the_build_fails_too_both_are_told() {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    project.build(&Build::Fail);
    items(&project);
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(4)
        .stderr_has("migration 7 is broken")
        .stderr_has("the incremental build on template ");
    assert_eq!(templates(&project).len(), 1);
    assert_eq!(project.databases().len(), 1);
}

#[test]
fn a_command_that_starts_over_in_its_database_is_adopted() {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    project.build(&Build::Reset);
    items(&project);
    outcome(&project, "extended");
    let clone = Pgstencil::new(&project).arg("clone").success();
    let name = clone.line().rsplit_once('/').unwrap().1.to_owned();
    assert_eq!(server().psql(&name, "select count(*) from items"), "0");
}

#[test]
fn files_that_change_meanwhile_let_it_start_over() {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    // The first one was the build of the base.
    project.build(&Build::Edit(2));
    items(&project);
    let output = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    output.stderr_has("files changed during the build");
    assert_eq!(output.json()["outcome"], "extended");
    assert_eq!(project.builds(), 3);
    assert_eq!(templates(&project).len(), 2);
}

#[test]
fn killed_at_any_moment_it_leaves_the_base_and_nothing_half_done() {
    let project = Project::extending(server(), KEEP);
    project.append_config("[clone]\norphan_grace = \"1s\"");
    let first = ensure(&project);
    project.build(&Build::Slow(Duration::from_millis(600)));
    items(&project);
    for millis in [5, 60, 110, 200, 500, 720] {
        let mut running = Pgstencil::new(&project).arg("ensure").spawn();
        std::thread::sleep(Duration::from_millis(millis));
        running.kill9();
        running.wait();
        let ready = templates(&project);
        assert!(ready.iter().any(|t| t["fingerprint"] == first["fingerprint"] && t["state"] == "ready"));
    }
    project.build(&Build::Migrate);
    let clone = Pgstencil::new(&project).args(["clone", "--json"]).success().json();
    let name = clone["clone"]["name"].as_str().unwrap();
    assert_eq!(server().psql(name, "select count(*) from items"), "0");
    Pgstencil::new(&project).args(["release", name]).success();
    goes(&project, name);
    let run = || drop(Pgstencil::new(&project).args(["run", "--", "true"]).success());
    let swept = until_done(run, || project.databases().len() == 2);
    assert!(swept, "{:?}", project.databases());
}

#[test]
fn different_sets_are_extended_side_by_side_and_equal_ones_once() {
    let project = Project::extending(server(), KEEP);
    let first = ensure(&project);
    // The gate is one for all.
    project.build(&Build::Script(
        "while [ -e pgstencil.toml ] && [ ! -e ../go ]; do sleep 0.05; done; migrate".into(),
    ));
    // Four checkouts of the same project, of which two are on the same commit.
    let folders = ["a", "b", "c", "c2"].map(|branch| {
        let copy = project.path().join(format!("../{branch}"));
        let from = project.path();
        let done = std::process::Command::new("cp").arg("-r").arg(&from).arg(&copy).status();
        assert!(done.unwrap().success());
        let content = &branch[..1];
        std::fs::write(
            copy.join(format!("migrations/0003_{content}.sql")),
            format!("create table {content} ();"),
        )
        .unwrap();
        copy
    });
    let all = folders
        .each_ref()
        .map(|folder| Pgstencil::new(&project).args(["ensure", "--json"]).current_dir(folder).spawn());
    // Each directory has the log of the first build.
    let begun = || {
        let log = |f: &std::path::PathBuf| std::fs::read_to_string(f.join("builds.log"));
        let lines = folders.iter().map(|f| log(f).unwrap_or_default());
        lines.map(|text| text.lines().count()).sum::<usize>()
    };
    let waits = || all[2..].iter().any(|run| run.stderr_so_far().contains("waiting for"));
    // Three build at the same time, and one of the last two waits for the other.
    assert!(eventually(PATIENCE, || begun() == 4 + 3 && waits()));
    project.write("../go", "");
    let outputs = all.map(|run| run.wait());
    let mut outcomes: Vec<String> =
        outputs.iter().map(|o| o.code(0).json()["outcome"].as_str().unwrap().to_owned()).collect();
    outcomes[2..].sort();
    assert_eq!(outcomes, ["extended", "extended", "extended", "hit"]);
    for output in &outputs {
        if output.json()["outcome"] == "extended" {
            assert_eq!(output.json()["extends"]["base"], first["fingerprint"]);
        } else {
            output.stderr_has("waiting for");
        }
    }
    assert_eq!(begun(), 4 + 3);
}
