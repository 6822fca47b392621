//! A build command that does not yield the same on a copy of what it built before: who is told, and when
//! extending ends.

use serde_json::json;

use crate::support::cli::Output;
use crate::support::extension::{ensure, items, outcome, templates};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, eventually, server};

/// Each run of its build adds a row, so that an extended template has one too many.
fn doubling(keys: &str) -> Project<'static> {
    let keys = match keys.contains("rebuild") {
        true => keys.to_owned(),
        false => format!("rebuild = \"always\"\n{keys}"),
    };
    let project = Project::extending(server(), &keys);
    project.build(&Build::Script(
        "migrate; sql -d \"$DATABASE_URL\" -c \"insert into users select count(*) + 1, 'seed' from users\""
            .into(),
    ));
    project.write("seed", "1");
    ensure(&project);
    items(&project);
    project
}

/// Waits until full builds have replaced all incrementally built templates.
#[track_caller]
fn settled(project: &Project<'_>) {
    let exact = || templates(project).iter().all(|t| t["chain"] == 0 && t["state"] == "ready");
    assert!(eventually(PATIENCE, exact), "{:?}", templates(project));
}

fn says(output: &Output) -> bool {
    output.stderr.contains(" was built incrementally, and differs from a full build:")
}

#[test]
fn the_next_hand_out_tells_what_a_settle_found_once() {
    for handing_out in
        [&["ensure"][..], &["clone"], &["run", "--", "true"], &["clone", "--name", "kept_{project}"]]
    {
        let project = doubling("");
        if handing_out.contains(&"--name") {
            // It is there already, so nothing is looked up.
            Pgstencil::new(&project).args(handing_out).success();
        } else {
            outcome(&project, "extended");
        }
        settled(&project);
        // Who only looks is not told in its place.
        Pgstencil::new(&project).arg("list").success();
        Pgstencil::new(&project).arg("explain").success();
        let told = Pgstencil::new(&project).args(handing_out).success();
        told.stderr_has("was built incrementally, and differs from a full build:")
            .stderr_has("table public.users\n")
            .stderr_has("-  rows 3\n")
            .stderr_has("+  rows 2\n")
            .stderr_has("set `extend = \"never\"` in [template.app]");
        assert!(!says(&Pgstencil::new(&project).args(handing_out).success()));
    }
}

#[test]
fn it_is_told_with_a_warm_clone_too() {
    let project = doubling("");
    project.append_config("[clone]\nwarm = 1");
    outcome(&project, "extended");
    settled(&project);
    let stocked = || {
        let warm = "select count(*) from pgstencil.clone c join pgstencil.template t on t.id = c.template_id \
                    where c.state = 'warm' and t.chain = 0";
        server().psql(&project.registry(), warm) != "0"
    };
    assert!(eventually(PATIENCE, stocked));
    assert!(says(&Pgstencil::new(&project).arg("clone").success()));
    assert!(!says(&Pgstencil::new(&project).arg("clone").success()));
}

#[test]
fn whoever_compares_is_not_told_again() {
    let project = doubling("rebuild = \"never\"");
    outcome(&project, "extended");
    Pgstencil::new(&project).arg("verify").fails(1);
    assert!(!says(&Pgstencil::new(&project).arg("ensure").success()));
}

#[test]
fn after_two_differences_in_a_row_nothing_is_extended_until_the_command_changes() {
    let project = doubling("inputs = [\"seed\"]");
    outcome(&project, "extended");
    settled(&project);
    let first = Pgstencil::new(&project).arg("ensure").success();
    assert!(says(&first) && !first.stderr.contains("only full builds"), "{first}");
    project.add_migration("0004_more", "create table more ();");
    outcome(&project, "extended");
    settled(&project);
    Pgstencil::new(&project)
        .arg("ensure")
        .success()
        .stderr_has("differed, too: only full builds of `app` run until `build` or its inputs change");
    project.add_migration("0005_more", "create table more5 ();");
    let why = "the last two incrementally built templates differed from full builds";
    Pgstencil::new(&project).arg("explain").success().stdout_has(why);
    let answer = outcome(&project, "miss");
    assert!(answer["note"].as_str().unwrap().contains(why), "{answer}");
    project.add_migration("0006_more", "create table more6 ();");
    outcome(&project, "miss");
    // An input changes.
    project.write("seed", "2");
    outcome(&project, "miss");
    project.add_migration("0007_more", "create table more7 ();");
    let answer = outcome(&project, "extended");
    assert_eq!(answer["extends"]["added"], json!(["migrations/0007_more.sql"]));
}

#[test]
fn one_that_was_equal_in_between_begins_the_row_again() {
    let project = Project::extending(server(), "rebuild = \"always\"");
    project.build(&Build::Script(
        "migrate; [ $PGSTENCIL_OUTCOME = miss ] || [ ! -e ../doubling ] \\
             || sql -d \"$DATABASE_URL\" -c \"insert into users select count(*) + 1, 'seed' from users\""
            .into(),
    ));
    ensure(&project);
    for (n, doubles) in [(3, true), (4, false), (5, true)] {
        match doubles {
            true => project.write("../doubling", ""),
            false => std::fs::remove_file(project.path().join("../doubling")).unwrap(),
        }
        project.add_migration(&format!("000{n}_t"), &format!("create table t{n} ();"));
        outcome(&project, "extended");
        settled(&project);
    }
    project.add_migration("0006_t", "create table t6 ();");
    outcome(&project, "extended");
}
