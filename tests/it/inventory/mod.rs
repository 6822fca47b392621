//! What an inventory sees, and what it is blind to.

use std::time::{Duration, Instant};

use pgstencil::pg::Session;
use pgstencil::pg::inventory::{self, ChangeKind, Difference, Inventory};
use pgstencil::stencil::{Defaults, Endpoint, Limit};
use pgstencil::url::ServerUrl;

use crate::support::{Role, TestServer, block_on, random_id, server};

const ORDINARY: &str = include_str!("ordinary.sql");
const SUPERUSER: &str = include_str!("superuser.sql");
const SETTINGS: &str = include_str!("settings.sql");

/// A database of this test's own, dropped at its end.
struct Database {
    name: String,
}

impl Database {
    fn new(template: &str) -> Self {
        let name = format!("inv_{}", random_id());
        server().psql(
            "postgres",
            &format!("create database {name} template {template}"),
        );
        Database { name }
    }

    /// One with everything.
    fn full(reader: &Role<'_>) -> Self {
        let database = Database::new("template0");
        for sql in [ORDINARY, SUPERUSER, SETTINGS] {
            database.run(reader, sql);
        }
        database
    }

    /// As the superuser.
    fn run(&self, reader: &Role<'_>, sql: &str) {
        server().psql(&self.name, &self.fill(reader, sql));
    }

    fn fill(&self, reader: &Role<'_>, sql: &str) -> String {
        sql.replace("{reader}", &reader.name)
            .replace("{database}", &self.name)
    }

    fn inventory(&self) -> Inventory {
        read(&server().url(&self.name), &self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        server().drop_database(&self.name);
    }
}

fn read(url: &str, database: &str) -> Inventory {
    block_on(async {
        let mut session = open(url, database).await;
        inventory::read(&mut session).await.unwrap()
    })
}

async fn open(url: &str, database: &str) -> Session {
    let url = ServerUrl::parse(url).unwrap();
    let endpoint = Endpoint::new(url, &Defaults::default()).unwrap();
    Session::open(&endpoint, database, &Limit::default())
        .await
        .unwrap()
}

fn diff(old: &Inventory, new: &Inventory) -> Difference {
    inventory::diff(old, new, "old", "new")
}

#[test]
fn dump() {
    let reader = Role::new(server());
    let one = Database::full(&reader);
    let found = one.inventory();
    print!(
        "{}",
        inventory::diff(&Inventory::default(), &found, "a", "b")
    );
    let two = Database::full(&reader);
    assert_eq!(diff(&found, &two.inventory()).to_string(), "");
}
