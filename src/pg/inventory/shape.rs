//! The shape of a database, and digests of its rows: a cheaper check than an [`Inventory`](super::Inventory)
//! of whether two databases may be equal.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::{BATCH, COUNTABLE, Table, begin, count};
use crate::error::Result;
use crate::pg::{Doing as _, Session, sql};

/// Query for the number of objects of each kind. Equal databases have equal numbers.
const OBJECTS: &str = include_str!("objects.sql");
/// Query for tables in which a migration tool may record a few rows: the tables of `countable.sql` without a
/// column for a time, which a log would have.
const TIMELESS: &str =
    concat!(include_str!("prelude.sql"), include_str!("countable.sql"), include_str!("timeless.sql"));

/// Maximum number of rows that are read of such a table: a tool that records one state, instead of a row for
/// each migration, needs no more.
const FEW: usize = 10;

/// The rows that a digest covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All rows.
    All,
    /// The rows of small tables without a column for a time, without times in them: two builds of the same
    /// inputs write the same rows there.
    Few,
}

/// Returns a hash that is equal for two databases with the same number of objects of each kind and the same
/// number of rows in each table. It shows nothing else.
///
/// # Errors
/// Errors of the driver. The session can be used afterwards, unless it is lost.
pub async fn shape(session: &mut Session) -> Result<String> {
    let database = session.database().to_owned();
    let doing = || format!("count the objects of database `{database}`");
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

/// Returns a digest of the rows of each table, by the table's name for display.
///
/// # Errors
/// Errors of the driver. The session can be used afterwards, unless it is lost.
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

#[derive(FromRow)]
struct Match {
    found: bool,
}

/// Returns the name for display of a table with a row that has some values in neighbouring columns.
///
/// # Errors
/// As for [`digests`].
pub async fn recorded_in(session: &mut Session, records: &[Vec<String>]) -> Result<Option<String>> {
    let database = session.database().to_owned();
    let doing = || format!("search the rows of database `{database}`");
    begin(session).await.doing(doing)?;
    let tables = session.rows::<Table>(sql::fill(COUNTABLE, &[])).await;
    let tables = session.end(tables).await.doing(doing)?;
    for batch in readable(tables).chunks(BATCH) {
        begin(session).await.doing(doing)?;
        let names = batch.iter().map(|t| (t.schema.as_str(), t.name.as_str()));
        let found = session.rows::<Match>(sql::rows_with(names, records)).await;
        let found = session.end(found).await.doing(doing)?;
        if let Some((table, _)) = batch.iter().zip(found).find(|(_, row)| row.found) {
            return Ok(Some(table.heading.clone()));
        }
    }
    Ok(None)
}

fn readable(mut tables: Vec<Table>) -> Vec<Table> {
    tables.retain(|table| table.refusal.is_none());
    tables
}
