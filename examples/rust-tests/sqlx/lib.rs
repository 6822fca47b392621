//! A shop on sqlx.

/// The migrations in `migrations/`.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Returns the sum of the prices of all products.
///
/// # Errors
/// The database's.
pub async fn total(pool: &sqlx::PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar("select coalesce(sum(cents), 0)::bigint from products").fetch_one(pool).await
}
