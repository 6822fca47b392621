//! What tests of extensions have in common.

use serde_json::Value;

use super::hold::list;
use super::server::quote_literal;
use super::{Pgstencil, Project, server};

/// So that no build follows in the background and builds can be counted.
pub(crate) const KEEP: &str = "rebuild = \"never\"";

/// What `ensure` answers.
pub(crate) fn ensure(project: &Project<'_>) -> Value {
    Pgstencil::new(project).args(["ensure", "--json"]).success().json()
}

/// What `ensure` answers, with this outcome.
#[track_caller]
pub(crate) fn outcome(project: &Project<'_>, expected: &str) -> Value {
    let answer = ensure(project);
    assert_eq!(answer["outcome"], expected, "{answer}");
    answer
}

/// The templates that `list` shows.
pub(crate) fn templates(project: &Project<'_>) -> Vec<Value> {
    list(project)["templates"].as_array().unwrap().clone()
}

/// What a registry query answers, by superuser.
pub(crate) fn registry(project: &Project<'_>, sql: &str) -> String {
    server().psql(&project.registry(), sql)
}

/// The databases of the ready template, one a line.
pub(crate) fn database_of(project: &Project<'_>, fingerprint: &Value) -> String {
    let of = quote_literal(fingerprint.as_str().unwrap());
    registry(
        project,
        &format!(
            "select d.name from pgstencil.database d join pgstencil.template t on t.id = d.template_id \
             where t.fingerprint = {of} and t.state = 'ready' order by d.ordinal"
        ),
    )
}

/// Adds a third migration.
pub(crate) fn items(project: &Project<'_>) {
    project.add_migration("0003_items", "create table items (id int primary key);");
}
