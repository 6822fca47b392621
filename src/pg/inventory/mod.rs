//! [`Inventory`]: everything in one database that a migrate command decides, as lines of text that
//! two builds of the same thing share.
//!
//! Nothing in it depends on chance: no oids, no generated names that hold some, no order that the
//! server is free to choose. It covers schemas, tables with all that hangs on them, sequences,
//! views, routines, types, operators, text search, extensions (as a whole: their members are not
//! listed, only the rows of their tables and what others hung on these), foreign servers,
//! publications, settings, owners, grants, comments, and how many rows each table has.
//!
//! Not in it: what the rows say; the positions of sequences; gaps that dropped columns leave in
//! `attnum` (positions count live columns); options of tables, columns and indexes that the server
//! writes by itself (of a column only what a person can set counts, elsewhere names that begin with
//! `pg_` do not); changes to objects that initdb made, other than schema
//! `public`; roles, tablespaces and whatever else belongs to the server; the database's own owner,
//! rights and comment, which lie outside it. Where something holds the name of the database that it
//! was built in, [`Inventory::replace`] makes builds comparable: only the caller knows that name, since
//! a template is renamed when it is sealed. Values of a user mapping's options, and of others
//! with a name like a password's, are hidden.
//!
//! The catalogs are described in <https://www.postgresql.org/docs/current/catalogs.html>. Each
//! `.sql` file here is one query that answers with (heading, rank, number, line).

mod difference;
mod shape;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;

use super::{Doing as _, Session, sql};
use crate::error::Result;

pub use difference::{Change, ChangeKind, Difference, Edit, Side, diff};
pub use shape::{Rows, digests, shape};

/// What is in one database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inventory {
    /// What a person calls the object (`table public.users`), and what there is to say of it. A
    /// line that begins with two blanks continues the one before.
    pub entries: BTreeMap<String, Vec<String>>,
}

impl Inventory {
    /// How many objects it lists.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in the database.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts `stand_in` wherever `name` stands, in headings too. For names that differ by build and
    /// cannot be mistaken for anything else: the private names that a set's databases had while they
    /// were built, in a foreign server's options or a comment.
    pub fn replace(&mut self, name: &str, stand_in: &str) {
        let entries = std::mem::take(&mut self.entries);
        for (heading, lines) in entries {
            let lines = lines.into_iter().map(|l| l.replace(name, stand_in));
            self.entries
                .entry(heading.replace(name, stand_in))
                .or_default()
                .extend(lines);
        }
    }
}

macro_rules! query {
    ($file:literal) => {
        concat!(include_str!("prelude.sql"), include_str!($file))
    };
}

const QUERIES: [&str; 10] = [
    query!("relations.sql"),
    query!("columns.sql"),
    query!("attached.sql"),
    query!("routines.sql"),
    query!("types.sql"),
    query!("operators.sql"),
    query!("text_search.sql"),
    query!("database.sql"),
    query!("rights.sql"),
    query!("comments.sql"),
];
const PUBLICATION_SCHEMAS: &str = query!("publication_schemas.sql");
const COUNTABLE: &str = query!("countable.sql");

/// After all other lines of a table.
const ROWS: i32 = 10;

/// How many tables are counted in one statement: few round trips, and a plan of moderate size.
const BATCH: usize = 64;

/// One line with what it is sorted by, after its heading.
type Line = (i32, i64, String);

/// A line as the queries give it: heading, rank, number, text.
type Row = (Option<String>, i32, i64, Option<String>);

/// A table whose rows count.
#[derive(FromRow)]
struct Table {
    heading: String,
    schema: String,
    name: String,
    /// Why our role cannot count them.
    refusal: Option<String>,
}

/// Reads the inventory of the session's database: the catalogs in one snapshot, then the rows.
///
/// Works for any role. What the role may not read it cannot count: such a table says `rows unknown`
/// and why. Counting locks each table as any SELECT does, so one that somebody alters is waited for.
///
/// # Errors
/// The driver's. The session is usable afterwards, unless it is lost.
///
/// # Cancel safety
/// If the future is dropped, a transaction that only reads stays open: close the session.
pub async fn read(session: &mut Session) -> Result<Inventory> {
    let database = session.database().to_owned();
    let doing = || format!("read what is in database `{database}`");
    begin(session).await.doing(doing)?;
    let found = describe(session).await;
    let (mut found, tables) = session.end(found).await.doing(doing)?;
    let (known, unknown): (Vec<_>, Vec<_>) = tables.into_iter().partition(|t| t.refusal.is_none());
    for Table {
        heading, refusal, ..
    } in unknown
    {
        let line = format!("rows unknown: {}", refusal.unwrap_or_default());
        found.entry(heading).or_default().push((ROWS, 0, line));
    }
    // A transaction for each batch: a single one would hold a lock on every table and index of the
    // database, more than the server may have.
    for batch in known.chunks(BATCH) {
        begin(session).await.doing(doing)?;
        let counts = count(session, batch).await;
        let counts = session.end(counts).await.doing(doing)?;
        for (table, rows) in batch.iter().zip(counts) {
            if rows > 0 {
                let lines = found.entry(table.heading.clone()).or_default();
                lines.push((ROWS, 0, format!("rows {rows}")));
            }
        }
    }
    let entries = found
        .into_iter()
        .map(|(heading, mut lines)| {
            lines.sort();
            (heading, lines.into_iter().flat_map(split).collect())
        })
        .collect();
    Ok(Inventory { entries })
}

/// Begins a transaction that reads, under the settings that decide how the server prints
/// expressions: a database may have its own. Compiling these queries would take longer than running
/// them.
async fn begin(session: &mut Session) -> Result<(), sqlx::Error> {
    let text = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                SET LOCAL search_path = pg_catalog; SET LOCAL datestyle = ISO; \
                SET LOCAL intervalstyle = postgres; SET LOCAL timezone = UTC; \
                SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = hex; \
                SET LOCAL xmlbinary = base64; SET LOCAL quote_all_identifiers = off; \
                SET LOCAL jit = off";
    session.run(sql::user_statements(text.into())).await
}

/// What the catalogs say, by heading, and the tables whose rows count.
async fn describe(
    session: &mut Session,
) -> Result<(BTreeMap<String, Vec<Line>>, Vec<Table>), sqlx::Error> {
    let mut found: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    let latest = (session.facts().major() >= 15).then_some(PUBLICATION_SCHEMAS);
    for query in QUERIES.into_iter().chain(latest) {
        let rows: Vec<Row> = session.rows(sql::fill(query, &[])).await?;
        for (heading, rank, number, line) in rows {
            // Without heading is only what was dropped since the snapshot.
            if let (Some(heading), Some(line)) = (heading, line) {
                found.entry(heading).or_default().push((rank, number, line));
            }
        }
    }
    let tables = session.rows(sql::fill(COUNTABLE, &[])).await?;
    Ok((found, tables))
}

async fn count(session: &mut Session, tables: &[Table]) -> Result<Vec<i64>, sqlx::Error> {
    let names = tables.iter().map(|t| (t.schema.as_str(), t.name.as_str()));
    session.scalars(sql::count_rows(names)).await
}

/// A definition of several lines, the later ones indented. A carriage return is part of it, and would
/// not be seen as what it is.
fn split((_, _, text): Line) -> Vec<String> {
    let text = text.replace('\r', "\\r");
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default().to_owned();
    std::iter::once(first)
        .chain(lines.map(|l| format!("  {l}")))
        .collect()
}
