//! A shop on tokio-postgres.

use tokio_postgres::{Client, Error};

/// Returns the sum of the prices of all products.
///
/// # Errors
/// The database's.
pub async fn total(client: &Client) -> Result<i64, Error> {
    Ok(client.query_one("select coalesce(sum(cents), 0)::bigint from products", &[]).await?.get(0))
}
