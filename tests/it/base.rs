//! Which template a missing one is extended from, and what is built from nothing.

use serde_json::json;

use crate::support::extension::{KEEP, database_of, ensure, items, outcome, registry, templates};
use crate::support::server::{PATIENCE, quote_literal};
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
    assert_eq!(merged["extends"]["added"], json!(["migrations/0003_other.sql", "migrations/0004_last.sql"]));
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
    let project = Project::extending(server(), "rebuild = \"never\"\nextend = \"always\"");
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
        "rebuild = \"never\"\ninputs = [\"seed.sql\"]\nrerun_inputs = [\"lock\"]\nenv_inputs = [\"PGST_X\"]",
    );
    project.write("seed.sql", "1");
    project.write("lock", "1");
    outcome(&project, "miss");
    project.write("lock", "2");
    let answer = outcome(&project, "extended");
    assert_eq!(answer["extends"]["added"], json!([]));
    project.write("seed.sql", "2");
    outcome(&project, "miss");
    let other = Pgstencil::new(&project).args(["ensure", "--json"]).env("PGST_X", "1").success().json();
    assert_eq!(other["outcome"], "miss");
}

#[test]
fn a_full_build_is_due_after_so_many_extensions() {
    let project = Project::extending(server(), "rebuild = \"never\"\nmax_extensions = 2");
    // The older templates stay: the one before the limit must not be extended for ever.
    for (n, expected) in ["miss", "extended", "extended", "miss", "extended"].into_iter().enumerate() {
        project.add_migration(&format!("1{n}_t"), &format!("create table t{n} ();"));
        if n == 3 {
            let answer = Pgstencil::new(&project).args(["explain", "--json"]).success().json();
            assert_eq!(answer["now"]["what"], "build");
            let why = answer["now"]["why"].as_str().unwrap();
            assert!(why.contains("the result of 2 incremental builds in a row"), "{why}");
        }
        let answer = outcome(&project, expected);
        if n == 3 {
            let note = answer["note"].as_str().unwrap();
            assert!(note.contains("`max_extensions` is 2"), "{note}");
        }
    }
}

/// The config says something else from now on.
fn say(project: &Project<'_>, old: &str, new: &str) {
    let config = project.read("pgstencil.toml");
    assert!(config.contains(old), "{config}");
    project.write("pgstencil.toml", &config.replace(old, new));
}

#[test]
fn never_hands_out_nothing_that_was_extended() {
    let project = Project::extending(server(), "rebuild = \"never\"\nextend = \"append\"");
    project.append_config("[clone]\nwarm = 2");
    ensure(&project);
    items(&project);
    let extended = outcome(&project, "extended");
    let stocked = || {
        let warm = "select count(*) from pgstencil.clone where state = 'warm' and fingerprint = ";
        let of = quote_literal(extended["fingerprint"].as_str().unwrap());
        registry(&project, &format!("{warm}{of}")) == "2"
    };
    assert!(eventually(PATIENCE, stocked));
    say(&project, "extend = \"append\"", "extend = \"never\"");
    let now = Pgstencil::new(&project).args(["explain", "--json"]).success();
    assert_eq!(now.json()["now"]["what"], "build");
    let output = Pgstencil::new(&project).args(["clone", "--json"]).success();
    output.stderr_has("it was built incrementally, and `extend` is \"never\"");
    let fresh = output.json();
    assert_eq!(fresh["outcome"], "miss");
    assert_eq!(fresh["fingerprint"], extended["fingerprint"]);
    assert_eq!(fresh["extends"], json!(null));
    outcome(&project, "hit");
    // What was built from nothing is good for all.
    say(&project, "extend = \"never\"", "extend = \"append\"");
    assert_eq!(outcome(&project, "hit")["extends"], json!(null));
}

#[test]
fn append_hands_out_nothing_that_was_extended_under_always() {
    let project = Project::extending(server(), "rebuild = \"never\"\nextend = \"always\"");
    ensure(&project);
    project.add_migration("0000_first", "create table first ();");
    outcome(&project, "extended");
    outcome(&project, "hit");
    say(&project, "\"always\"", "\"append\"");
    let fresh = outcome(&project, "miss");
    assert_eq!(fresh["extends"], json!(null));
    outcome(&project, "hit");
}

#[test]
fn what_was_kept_is_settled_when_somebody_asks_or_the_config_does() {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    items(&project);
    let kept = outcome(&project, "extended");
    outcome(&project, "hit");
    let settled = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).success().json();
    assert_eq!(settled["outcome"], "miss");
    assert_eq!(settled["fingerprint"], kept["fingerprint"]);
    assert_eq!(settled["extends"], json!(null));
    assert_eq!(project.builds(), 3);
    // What is exact is not built once more.
    let again = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).success().json();
    assert_eq!(again["outcome"], "hit");
    assert_eq!(project.builds(), 3);
    project.add_migration("0004_more", "create table more ();");
    outcome(&project, "extended");
    say(&project, KEEP, "rebuild = \"always\"");
    assert_eq!(outcome(&project, "hit")["provisional"], true);
    let exact = || templates(&project).iter().all(|t| t["chain"] == 0);
    assert!(eventually(PATIENCE, exact), "{:?}", templates(&project));
}

#[test]
fn a_base_that_somebody_dropped_is_told_and_not_found_again() {
    let project = Project::extending(server(), KEEP);
    let first = ensure(&project);
    let base = database_of(&project, &first["fingerprint"]);
    server().drop_database(&base);
    items(&project);
    let output = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    output.stderr_has("can no longer be used and is discarded\n").stderr_has("is gone");
    assert_eq!(output.json()["outcome"], "miss");
    let left = eventually(PATIENCE, || templates(&project).len() == 1);
    assert!(left, "{:?}", templates(&project));
}
