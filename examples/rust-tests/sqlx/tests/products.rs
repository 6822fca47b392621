//! Each test has a database of its own, a copy of one on which the migrations ran once.

use shop_sqlx::{MIGRATIONS, total};

#[tokio::test]
async fn the_first_products_have_prices() {
    let db = pgstencil::test::database("shop_sqlx").migrations(&MIGRATIONS).await;
    assert_eq!(total(&db.pool().await).await.unwrap(), 570);
}

#[tokio::test]
async fn a_new_product_counts() {
    let db = pgstencil::test::database("shop_sqlx").migrations(&MIGRATIONS).await;
    let pool = db.pool().await;
    sqlx::query("insert into products (name, cents) values ('cake', 2000)").execute(&pool).await.unwrap();
    assert_eq!(total(&pool).await.unwrap(), 2570);
}
