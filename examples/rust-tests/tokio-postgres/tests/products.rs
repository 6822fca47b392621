//! The template `shop` comes from `pgstencil.toml`, in the directory above.

use shop_tokio_postgres::total;
use tokio_postgres::{Client, NoTls};

async fn connect(db: &pgstencil::test::Database) -> Client {
    let (client, connection) = tokio_postgres::connect(db.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn the_first_products_have_prices() {
    let db = pgstencil::test::database("shop").await;
    assert_eq!(total(&connect(&db).await).await.unwrap(), 570);
}

#[tokio::test]
async fn a_new_product_counts() {
    let db = pgstencil::test::database("shop").await;
    let client = connect(&db).await;
    client.execute("insert into products (name, cents) values ('cake', 2000)", &[]).await.unwrap();
    assert_eq!(total(&client).await.unwrap(), 2570);
}
