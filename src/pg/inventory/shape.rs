//! The shape of a database, and digests of its rows: whether two databases may hold the same, at less cost
//! than an [`Inventory`](super::Inventory) of both.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::{BATCH, COUNTABLE, Table, begin, count};
use crate::error::Result;
use crate::pg::{Doing as _, Session, sql};

/// How many objects of each kind there are. Equal databases have equal counts.
const OBJECTS: &str = include_str!("objects.sql");
/// Tables that may hold what a migration tool notes in few rows: `countable.sql` of those without a column
/// for a time, which a log has.
const TIMELESS: &str =
    concat!(include_str!("prelude.sql"), include_str!("countable.sql"), include_str!("timeless.sql"));

/// So few rows are read of such a table: a tool that notes one state, rather than a row for each migration,
/// needs no more.
const FEW: usize = 10;

/// Which rows a digest is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All.
    All,
    /// Those of small tables without a column for a time, and in them no times: two builds of the same
    /// thing write the same there.
    Few,
}

/// A hash that two databases share if they have as many objects of each kind and as many rows in each
/// table. It says nothing else of them.
///
/// # Errors
/// The driver's. The session is usable afterwards, unless it is lost.
pub async fn shape(session: &mut Session) -> Result<String> {
    let database = session.database().to_owned();
    let doing = || format!("count what is in database `{database}`");
    begin(session).await.doing(doing)?;
    let found = async {
        let objects: String = session.scalar(sql::fill(OBJECTS, &[])).await?;
        let tables: Vec<Table> = session.rows(sql::fill(COUNTABLE, &[])).await?;
        Ok((objects, tables))
    }
    .await;
    let (objects, tables) = session.end(found).await.doing(doing)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(objects.as_bytes());
    let mut lines = Vec::new();
    for batch in readable(tables).chunks(BATCH) {
        begin(session).await.doing(doing)?;
        let counts = count(session, batch).await;
        let counts = session.end(counts).await.doing(doing)?;
        let rows = batch.iter().zip(counts);
        lines.extend(rows.map(|(table, rows)| format!("{} {rows}", table.heading)));
    }
    lines.sort();
    for line in lines {
        hasher.update(b"\n").update(line.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[derive(FromRow)]
struct Digest {
    digest: Option<String>,
}

/// A digest of the rows of each table, by what a person calls the table.
///
/// # Errors
/// The driver's. The session is usable afterwards, unless it is lost.
pub async fn digests(session: &mut Session, which: Rows) -> Result<BTreeMap<String, String>> {
    let database = session.database().to_owned();
    let doing = || format!("read the rows of database `{database}`");
    let query = match which {
        Rows::All => COUNTABLE,
        Rows::Few => TIMELESS,
    };
    begin(session).await.doing(doing)?;
    let tables = session.rows::<Table>(sql::fill(query, &[])).await;
    let tables = session.end(tables).await.doing(doing)?;
    let mut digests = BTreeMap::new();
    for batch in readable(tables).chunks(BATCH) {
        begin(session).await.doing(doing)?;
        let names = batch.iter().map(|t| (t.schema.as_str(), t.name.as_str()));
        let statement = match which {
            Rows::All => sql::digest_rows(names),
            Rows::Few => sql::digest_few_rows(names, FEW),
        };
        let found = session.rows::<Digest>(statement).await;
        let found = session.end(found).await.doing(doing)?;
        for (table, found) in batch.iter().zip(found) {
            digests.extend(found.digest.map(|digest| (table.heading.clone(), digest)));
        }
    }
    Ok(digests)
}

fn readable(mut tables: Vec<Table>) -> Vec<Table> {
    tables.retain(|table| table.refusal.is_none());
    tables
}
