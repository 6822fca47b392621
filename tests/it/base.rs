//! Which template a missing one is extended from, and what is built from nothing.

use std::time::Duration;

use serde_json::json;

use crate::support::extension::{KEEP, database_of, ensure, items, outcome, registry, templates};
use crate::support::{Pgstencil, Project, eventually, server};

#[test]
fn the_largest_base_wins_whatever_came_last() {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    items(&project);
    let three = outcome(&project, "extended");
    // Another branch, which lacks the third and has another one.
    std::fs::remove_file(project.path().join("migrations/0003_items.sql")).unwrap();
    project.add_migration("0003_other", "create table other ();");
    outcome(&project, "extended");
    // Both are merged: two bases of three files, and each lacks one.
    items(&project);
    project.add_migration("0004_last", "create table last ();");
    let merged = outcome(&project, "extended");
    assert_eq!(merged["extends"]["base"], three["fingerprint"]);
    assert_eq!(
        merged["extends"]["added"],
        json!(["migrations/0003_other.sql", "migrations/0004_last.sql"])
    );
}

#[test]
fn what_is_edited_gone_or_squeezed_in_is_built_from_nothing() {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    let users = project.read("migrations/0001_users.sql");
    project.add_migration("0001_users", &format!("{users} create table more ();"));
    outcome(&project, "miss");
    std::fs::remove_file(project.path().join("migrations/0002_orders.sql")).unwrap();
    outcome(&project, "miss");
    project.add_migration("0002_orders", "create table orders ();");
    outcome(&project, "extended");
    // Behind the first one, so what has only that one is a base.
    project.add_migration("0001a_between", "create table between_ ();");
    let answer = outcome(&project, "extended");
    assert_eq!(answer["extends"]["added"].as_array().unwrap().len(), 2);
    project.add_migration("0000_first", "create table first ();");
    outcome(&project, "miss");
}

#[test]
fn always_takes_what_sorts_earlier_and_never_takes_nothing() {
    let project = Project::extending(server(), "after_extend = \"keep\"\nextend = \"always\"");
    ensure(&project);
    project.add_migration("0000_first", "create table first ();");
    outcome(&project, "extended");
    let config = project.read("pgstencil.toml").replace("always", "never");
    project.write("pgstencil.toml", &config);
    items(&project);
    outcome(&project, "miss");
}

#[test]
fn inputs_force_a_build_and_rerun_inputs_only_a_rerun() {
    let project = Project::extending(
        server(),
        "after_extend = \"keep\"\ninputs = [\"seed.sql\"]\nrerun_inputs = [\"lock\"]\nenv_inputs = [\"PGST_X\"]",
    );
    project.write("seed.sql", "1");
    project.write("lock", "1");
    outcome(&project, "miss");
    project.write("lock", "2");
    let answer = outcome(&project, "extended");
    assert_eq!(answer["extends"]["added"], json!([]));
    project.write("seed.sql", "2");
    outcome(&project, "miss");
    let other = Pgstencil::new(&project)
        .args(["ensure", "--json"])
        .env("PGST_X", "1")
        .success()
        .json();
    assert_eq!(other["outcome"], "miss");
}

#[test]
fn a_full_build_is_due_after_so_many_extensions() {
    let project = Project::extending(server(), "after_extend = \"keep\"\nmax_extensions = 2");
    // What does not fit is no base: only the newest, with the longest chain, is left to extend.
    let only_newest = || {
        registry(
            &project,
            "update pgstencil.template set state = 'broken' where state = 'ready' \
             and id < (select max(id) from pgstencil.template)",
        )
    };
    for (n, expected) in ["miss", "extended", "extended", "miss", "extended"]
        .into_iter()
        .enumerate()
    {
        project.add_migration(&format!("1{n}_t"), &format!("create table t{n} ();"));
        outcome(&project, expected);
        only_newest();
    }
}

#[test]
fn a_base_that_somebody_dropped_is_told_and_not_found_again() {
    let project = Project::extending(server(), KEEP);
    let first = ensure(&project);
    let base = database_of(&project, &first["fingerprint"]);
    server().drop_database(&base);
    items(&project);
    let output = Pgstencil::new(&project)
        .args(["ensure", "--json"])
        .success();
    output
        .stderr_has("cannot be extended")
        .stderr_has("is gone");
    assert_eq!(output.json()["outcome"], "miss");
    let left = eventually(Duration::from_secs(20), || templates(&project).len() == 1);
    assert!(left, "{:?}", templates(&project));
}
