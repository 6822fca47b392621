//! A missing template is built on a copy of the nearest older one.

use serde_json::Value;

use crate::support::{Build, Pgstencil, Project, server};

fn ensure(project: &Project<'_>) -> Value {
    Pgstencil::new(project)
        .args(["ensure", "--json"])
        .success()
        .json()
}

fn templates(project: &Project<'_>) -> Vec<Value> {
    let list = Pgstencil::new(project)
        .args(["list", "--json"])
        .success()
        .json();
    list["templates"].as_array().unwrap().clone()
}

const KEEP: &str = "after_extend = \"keep\"";

#[test]
fn an_appended_migration_extends() {
    let project = Project::extending(server(), KEEP);
    let first = ensure(&project);
    assert_eq!(first["outcome"], "miss");
    project.add_migration("0003_items", "create table items (id int primary key);");
    let second = ensure(&project);
    assert_eq!(second["outcome"], "extended", "{second}");
    assert_eq!(second["provisional"], false);
    assert_eq!(second["extends"]["base"], first["fingerprint"]);
    assert_eq!(
        second["extends"]["added"],
        serde_json::json!(["migrations/0003_items.sql"])
    );
    assert_eq!(project.builds(), 2);
    assert_eq!(ensure(&project)["outcome"], "hit");
    let rows = templates(&project);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1]["base"], first["fingerprint"]);
    assert_eq!(rows[1]["chain"], 1);
}

#[test]
fn settling_puts_a_build_from_nothing_in_its_place() {
    let project = Project::extending(server(), "");
    ensure(&project);
    project.add_migration("0003_items", "create table items (id int primary key);");
    let output = Pgstencil::new(&project)
        .args(["ensure", "--settle", "--json"])
        .success();
    output.stderr_has("equals template app");
    let answer = output.json();
    assert_eq!(answer["outcome"], "extended");
    assert_eq!(answer["provisional"], false);
    let verified = Pgstencil::new(&project)
        .args(["verify", "--json"])
        .success();
    assert_eq!(verified.json()["verified"][0]["equal"], true);
    let _ = Build::Migrate;
}
