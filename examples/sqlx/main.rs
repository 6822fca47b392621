//! A library (of books) with sqlx: `migrate` updates the database in `DATABASE_URL`, `migrate VERSION` up to that
//! migration; without an argument the program uses it as a test would.

#![allow(clippy::print_stdout, reason = "what a program prints is its answer")]

use std::error::Error;
use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection, Row};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let mut db = PgConnection::connect(&url).await?;
    match std::env::args().nth(1).as_deref() {
        Some("migrate") => {
            let migrator = Migrator::new(Path::new("migrations")).await?;
            match std::env::args().nth(2) {
                Some(version) => migrator.run_to(version.parse()?, &mut db).await?,
                None => migrator.run(&mut db).await?,
            }
        }
        None => lend(&mut db).await?,
        Some(other) => return Err(format!("unknown argument `{other}`").into()),
    }
    db.close().await?;
    Ok(())
}

/// Lends a book, which works only once in each database.
async fn lend(db: &mut PgConnection) -> Result<(), Box<dyn Error>> {
    sqlx::query("insert into loans (book_id, reader) select id, 'Ada' from books where published < 1970")
        .execute(&mut *db)
        .await?;
    let rows = sqlx::query(
        "select title, name, coalesce(reader, 'nobody') as reader
         from books join authors on authors.id = author_id left join loans on book_id = books.id
         order by published",
    )
    .fetch_all(&mut *db)
    .await?;
    for row in rows {
        let (title, author): (String, String) = (row.try_get("title")?, row.try_get("name")?);
        println!("{title}, by {author}, lent to {}", row.try_get::<String, _>("reader")?);
    }
    Ok(())
}
