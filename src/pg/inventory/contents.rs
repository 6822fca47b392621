//! The contents of tables: a digest for each table, independent of the order of its rows.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use sqlx::FromRow;
use sqlx::types::Json;

use super::{BATCH, Table, begin};
use crate::error::Result;
use crate::pg::failure::words;
use crate::pg::sql::{self, Cell, Digested, Time};
use crate::pg::sqlstate::SqlState;
use crate::pg::{Doing as _, Session};

/// The tables of a database, by heading.
pub type Contents = BTreeMap<String, Held>;

const CELLS: &str = concat!(include_str!("prelude.sql"), include_str!("cells.sql"));

/// The contents of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    pub(super) refers: Vec<Refers>,
    /// Number of its rows; `None` if they were not read.
    pub(super) rows: Option<i64>,
    pub(super) digest: String,
    /// The reason why its rows could not be read.
    pub(super) refusal: Option<String>,
}

/// A column whose values count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Whether it is a number or UUID that identifies the row.
    pub(super) id: bool,
    readable: bool,
    /// Whether the config excludes it.
    #[serde(default)]
    ignored: bool,
}

impl Column {
    /// Returns whether its values are in the digest of a row.
    pub(super) fn counts(&self) -> bool {
        !self.ignored && !matches!(self.kind, Kind::Server | Kind::Clock)
    }

    /// Returns the form in which it may contain the time of the build.
    pub(super) fn time(&self) -> Option<Time> {
        match self.kind {
            Kind::Timestamptz => Some(Time::Instant),
            Kind::Timestamp => Some(Time::Local),
            Kind::Date => Some(Time::Day),
            Kind::Range => Some(Time::Range),
            Kind::Number => Some(Time::Number),
            Kind::Text => Some(Time::Text),
            Kind::Clock | Kind::Server | Kind::Other => None,
        }
    }
}

/// The kinds of columns that may contain the time of the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Timestamptz,
    Timestamp,
    Date,
    Range,
    /// A time of day whose default is a clock.
    Clock,
    Number,
    Text,
    /// A value that the server counts, or a duration: never the same twice.
    Server,
    Other,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Refers {
    pub(super) columns: Vec<String>,
    /// Heading of the table to which it refers.
    pub(super) table: String,
    pub(super) referred: Vec<String>,
}

#[derive(FromRow)]
struct Cells {
    heading: String,
    schema: String,
    name: String,
    columns: Json<Vec<Column>>,
    refers: Option<Json<Vec<Refers>>>,
}

/// Columns that do not count, as `table.column` or `schema.table.column`; `*` means every column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// The entries, as written in the config.
    pub names: Vec<String>,
}

impl Ignored {
    fn has(&self, schema: &str, table: &str, column: &str) -> bool {
        self.names.iter().any(|name| names(name, schema, table, column))
    }

    /// Returns the entries that name no column of these databases.
    pub fn unknown(&self, databases: &[Contents]) -> Vec<String> {
        let tables = || databases.iter().flat_map(|contents| contents.values());
        let known = |name: &&String| {
            tables().any(|t| t.columns.iter().any(|c| names(name, &t.schema, &t.name, &c.name)))
        };
        self.names.iter().filter(|name| !known(name)).cloned().collect()
    }
}

fn names(entry: &str, schema: &str, table: &str, column: &str) -> bool {
    [column, "*"]
        .into_iter()
        .any(|column| entry == format!("{table}.{column}") || entry == format!("{schema}.{table}.{column}"))
}

/// Computes a digest of the rows of each table. For a table whose rows the server cannot convert to text it
/// returns the reason instead.
pub(super) async fn read(session: &mut Session, tables: &[Table], ignored: &Ignored) -> Result<Contents> {
    let database = session.database().to_owned();
    let doing = || format!("read the rows of database `{database}`");
    begin(session).await.doing(doing)?;
    let cells = session.rows::<Cells>(sql::fill(CELLS, &[])).await;
    let cells = session.end(cells).await.doing(doing)?;
    let mut cells: HashMap<String, Cells> = cells.into_iter().map(|c| (c.heading.clone(), c)).collect();
    let mut contents = Contents::new();
    for table in tables {
        let mut held = Held {
            schema: table.schema.clone(),
            name: table.name.clone(),
            refusal: table.refusal.clone(),
            ..Held::default()
        };
        if let Some(found) = cells.remove(&table.heading) {
            held.fill(found, ignored);
        }
        contents.insert(table.heading.clone(), held);
    }
    // Partitioned tables have no rows of their own, but others may refer to them.
    for (heading, found) in cells {
        let mut held = Held { schema: found.schema.clone(), name: found.name.clone(), ..Held::default() };
        held.fill(found, ignored);
        contents.insert(heading, held);
    }
    let readable: Vec<String> = tables
        .iter()
        .filter(|table| contents[&table.heading].refusal.is_none())
        .map(|table| table.heading.clone())
        .collect();
    for batch in readable.chunks(BATCH) {
        if digest(session, &mut contents, batch).await?.is_err() {
            for heading in batch {
                let one = std::slice::from_ref(heading);
                if let Err(why) = digest(session, &mut contents, one).await? {
                    contents.entry(heading.clone()).or_default().refusal = Some(why);
                }
            }
        }
    }
    Ok(contents)
}

impl Held {
    fn fill(&mut self, found: Cells, ignored: &Ignored) {
        self.columns = found.columns.0;
        self.refers = found.refers.map(|refers| refers.0).unwrap_or_default();
        for column in &mut self.columns {
            column.ignored = ignored.has(&self.schema, &self.name, &column.name);
        }
        if self.columns.iter().any(|c| c.counts() && !c.readable) {
            self.refusal.get_or_insert("permission denied for a column".into());
        }
    }

    pub(super) fn digested(&self, cells: Vec<Cell>) -> Digested {
        Digested { schema: self.schema.clone(), table: self.name.clone(), cells }
    }
}

/// Computes the digests of some tables in one statement, or returns the reason why the server cannot.
async fn digest(
    session: &mut Session,
    contents: &mut Contents,
    headings: &[String],
) -> Result<std::result::Result<(), String>> {
    let tables: Vec<Digested> = headings
        .iter()
        .map(|heading| {
            let held = &contents[heading];
            let columns = held.columns.iter().filter(|c| c.counts());
            held.digested(columns.map(|c| Cell::Plain(c.name.clone())).collect())
        })
        .collect();
    let found = ask(session, sql::count_and_digest(&tables)).await?;
    Ok(found.map(|found: Vec<(i64, String)>| {
        for (heading, (rows, digest)) in headings.iter().zip(found) {
            let held = contents.entry(heading.clone()).or_default();
            held.rows = Some(rows);
            held.digest = digest;
        }
    }))
}

/// Returns the answer to a statement, in its own transaction; or the reason why the server cannot process the
/// rows.
pub(super) async fn ask<T>(
    session: &mut Session,
    statement: sql::Statement,
) -> Result<std::result::Result<Vec<T>, String>>
where
    T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    let doing = || "read the rows of a database".to_owned();
    begin(session).await.doing(doing)?;
    let found = session.rows::<T>(statement).await;
    match session.end(found).await {
        Ok(found) => Ok(Ok(found)),
        // Cancelled, out of time, ended by an operator, without a connection.
        Err(error) => match SqlState::of(&error) {
            Some(state) if !state.is_intervention() => Ok(Err(words(&error))),
            _ => Err(error).doing(doing),
        },
    }
}
