//! Tests with a database each, by `pgstencil::test`.

include!(concat!(env!("OUT_DIR"), "/ours.rs"));

async fn one(n: i32) {
    let db = pgstencil::test::database("app").migrations(&rust_tests::MIGRATIONS).await;
    rust_tests::work(&db.pool().await, n).await;
}
