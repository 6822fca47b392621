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
//! `attnum` (positions count live columns); changes to objects that initdb made, other than schema
//! `public`; roles, tablespaces and whatever else belongs to the server; the database's own owner,
//! rights and comment, which pgstencil decides. Values of a user mapping's options, and of others
//! with a name like a password's, are hidden.
//!
//! The catalogs are described in <https://www.postgresql.org/docs/current/catalogs.html>. Each
//! `.sql` file here is one query that answers with (heading, rank, number, line).

mod difference;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::sql::{self, Statement};
use super::{Doing as _, Session};
use crate::error::Result;

pub use difference::{Change, ChangeKind, Difference, Edit, Side, diff};

/// Stands for the database's own name where an option or a setting is exactly that.
pub const OWN_NAME: &str = "{database}";

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

/// Reads the inventory of the session's database, in one snapshot.
///
/// Works for any role. What the role may not read it cannot count: such a table says `rows unknown`
/// and why. Counting locks every table as any SELECT does, so a table that somebody alters is waited
/// for.
///
/// # Errors
/// The driver's. The session is usable afterwards, unless it is lost.
///
/// # Cancel safety
/// If the future is dropped, a transaction that only reads stays open: close the session.
pub async fn read(session: &mut Session) -> Result<Inventory> {
    let database = session.database().to_owned();
    let doing = || format!("read what is in database `{database}`");
    session.begin().await.doing(doing)?;
    let found = collect(session).await;
    let found = session.end(found).await.doing(doing)?;
    let entries = found
        .into_iter()
        .map(|(heading, mut lines)| {
            lines.sort();
            (heading, lines.into_iter().flat_map(split).collect())
        })
        .collect();
    Ok(Inventory { entries })
}

async fn collect(session: &mut Session) -> Result<BTreeMap<String, Vec<Line>>, sqlx::Error> {
    // The settings decide how the server prints expressions, and a database may have its own.
    // Compiling these queries would take longer than running them.
    session
        .run(sql::user_statements(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; \
             SET LOCAL search_path = pg_catalog; SET LOCAL datestyle = ISO; \
             SET LOCAL intervalstyle = postgres; SET LOCAL timezone = UTC; \
             SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = hex; \
             SET LOCAL jit = off; SET LOCAL xmlbinary = base64; SET LOCAL quote_all_identifiers = off"
                .into(),
        ))
        .await?;
    let mut found: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    let latest = (session.facts().major() >= 15).then_some(PUBLICATION_SCHEMAS);
    for query in QUERIES.into_iter().chain(latest) {
        let rows: Vec<Row> = sqlx::query_as(query)
            .fetch_all(session.connection())
            .await?;
        for (heading, rank, number, line) in rows {
            // Nothing has no heading but what was dropped since the snapshot.
            if let (Some(heading), Some(line)) = (heading, line) {
                found.entry(heading).or_default().push((rank, number, line));
            }
        }
    }
    for (heading, line) in rows(session).await? {
        found.entry(heading).or_default().push((ROWS, 0, line));
    }
    Ok(found)
}

/// What there is to say of the tables' rows. Of an empty table, nothing.
async fn rows(session: &mut Session) -> Result<Vec<(String, String)>, sqlx::Error> {
    let tables: Vec<(String, String, String, Option<String>)> = sqlx::query_as(COUNTABLE)
        .fetch_all(session.connection())
        .await?;
    let mut lines = Vec::new();
    let mut countable = Vec::new();
    for (heading, schema, name, refusal) in tables {
        match refusal {
            Some(why) => lines.push((heading, format!("rows unknown: {why}"))),
            None => countable.push((heading, schema, name)),
        }
    }
    for batch in countable.chunks(BATCH) {
        let names = batch.iter().map(|(_, s, n)| (s.as_str(), n.as_str()));
        let statement: Statement = sql::count_rows(names);
        let counts: Vec<i64> = sqlx::query_scalar(statement)
            .persistent(false)
            .fetch_all(session.connection())
            .await?;
        for ((heading, ..), count) in batch.iter().zip(counts) {
            if count > 0 {
                lines.push((heading.clone(), format!("rows {count}")));
            }
        }
    }
    Ok(lines)
}

/// A definition of several lines, the later ones indented.
fn split((_, _, text): Line) -> Vec<String> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    std::iter::once(first)
        .chain(lines.map(|l| format!("  {l}")))
        .collect()
}
