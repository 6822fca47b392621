//! Each test has a database of its own, a copy of one on which the embedded migrations ran once. No runtime is needed.

use diesel::prelude::*;
use diesel_migrations::MigrationHarness as _;
use pgstencil::test::blocking::{self, Database};
use pgstencil::{FillError, Filler, Unfilled};
use shop_diesel::{MIGRATIONS, total};

/// Diesel's migrations have no checksums, so their text is the key.
const KEY: &str = include_str!("../migrations/2026-11-01-000000_products/up.sql");

fn migrate(databases: Vec<Unfilled>) -> Result<(), FillError> {
    let mut session = PgConnection::establish(&databases[0].url.reveal())?;
    session.run_pending_migrations(MIGRATIONS)?;
    Ok(())
}

fn database() -> (Database, PgConnection) {
    let db = blocking::request("shop_diesel").filled_by(Filler::blocking(KEY, migrate)).get();
    let session = PgConnection::establish(db.url()).unwrap();
    (db, session)
}

#[test]
fn the_first_products_have_prices() {
    let (_db, mut session) = database();
    assert_eq!(total(&mut session).unwrap(), 570);
}

#[test]
fn a_new_product_counts() {
    let (_db, mut session) = database();
    diesel::sql_query("insert into products (name, cents) values ('cake', 2000)")
        .execute(&mut session)
        .unwrap();
    assert_eq!(total(&mut session).unwrap(), 2570);
}
