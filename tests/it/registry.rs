//! The registry of an older version: told by commands that read, upgraded by those that write.

use crate::support::hold::list;
use crate::support::server::quote_ident;
use crate::support::{Pgstencil, Project, server};

#[test]
fn a_registry_of_version_one_is_upgraded_with_what_is_in_it() {
    let project = Project::with_migrations(server());
    let registry = project.registry();
    let create = format!(
        "create database {} template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'",
        quote_ident(&registry)
    );
    server().psql("postgres", &create);
    server().psql(&registry, include_str!("../../src/registry/schema/001.sql"));
    let fingerprint = "ab".repeat(32);
    server().psql(
        &registry,
        &format!(
            "insert into pgstencil.template (project, definition, fingerprint, state, recipe, builder, sealed_at, created_at) \
             values ('{}', 'app', '{fingerprint}', 'ready', '{{}}', '{{\"host\": \"h\", \"pid\": 1}}', now(), now() - interval '3 days')",
            project.name()
        ),
    );
    Pgstencil::new(&project)
        .arg("list")
        .fails(2)
        .stderr_has("is of an older version of pgstencil")
        .stderr_has("`pgstencil ensure`");
    // What has a recipe that cannot be read is no base, and in nobody's way.
    Pgstencil::new(&project).arg("ensure").success();
    let version = "select version from pgstencil.meta";
    assert_eq!(server().psql(&registry, version), "5");
    let rows = list(&project)["templates"].as_array().unwrap().clone();
    let old = rows
        .iter()
        .find(|t| t["fingerprint"] == *fingerprint)
        .unwrap();
    assert_eq!(old["chain"], 0);
    assert_eq!(old["provisional"], false);
    assert_eq!(rows.len(), 2);
    let age =
        "select now() - fresh_at > interval '2 days' from pgstencil.template order by id limit 1";
    assert_eq!(server().psql(&registry, age), "t");
}

#[test]
fn a_newer_one_is_left_alone() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    server().psql(
        &project.registry(),
        "update pgstencil.meta set version = 99",
    );
    for command in ["ensure", "list", "explain", "verify"] {
        Pgstencil::new(&project)
            .arg(command)
            .fails(2)
            .stderr_has("has version 99");
    }
    server().psql(&project.registry(), "update pgstencil.meta set version = 5");
    Pgstencil::new(&project)
        .arg("ensure")
        .success()
        .stderr_has("hit app");
}
