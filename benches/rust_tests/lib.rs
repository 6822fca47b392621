//! What each test does.

use sqlx::PgPool;

include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// Writes a row and reads the table.
pub async fn work(pool: &PgPool, n: i32) {
    sqlx::query("insert into table_7a (name) values ($1)").bind(n.to_string()).execute(pool).await.unwrap();
    let rows: i64 = sqlx::query_scalar("select count(*) from table_7a").fetch_one(pool).await.unwrap();
    assert_eq!(rows, 2);
}
