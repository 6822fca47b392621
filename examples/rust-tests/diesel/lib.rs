//! A shop on diesel.

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};

/// The migrations in `migrations/`.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!();

#[derive(QueryableByName)]
struct Total {
    #[diesel(sql_type = BigInt)]
    total: i64,
}

/// Returns the sum of the prices of all products.
///
/// # Errors
/// The database's.
pub fn total(session: &mut PgConnection) -> QueryResult<i64> {
    let total = diesel::sql_query("select coalesce(sum(cents), 0)::bigint as total from products");
    Ok(total.get_result::<Total>(session)?.total)
}
