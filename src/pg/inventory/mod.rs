//! [`Inventory`]: everything in one database that a migrate command decides, as lines of text that
//! two builds of the same thing share.
//!
//! Nothing in it depends on chance: no oids, no generated names that hold some, no order that the
//! server is free to choose. It covers everything that `pg_dump --create` prints of a database. Each line
//! belongs to a [`Class`]:
//!
//! - schema: schemas, tables with all that hangs on them, sequences, views, routines, types, operators,
//!   text search, foreign servers, publications, subscriptions, large objects; extensions with their
//!   members and what depends on them; comments and security labels; the database's encoding, locale and
//!   tablespace;
//! - grants: owners, grants, default privileges, and what became of the rights of what initdb and
//!   extensions made;
//! - settings of the database;
//! - row counts: how many rows each table has, and how many large objects there are;
//! - sequences: their positions;
//! - row contents: a digest of each large object, and, if they are asked for, of the rows of each table.
//!
//! Not in it: the definitions of extensions' members (only their names, their rights, the rows of their
//! tables, and what others hung on these); gaps that dropped columns leave in `attnum` (positions count
//! live columns); options of tables, columns and indexes that the server writes by itself (of a column
//! only what a person can set counts, elsewhere names that begin with `pg_` do not); rows of foreign
//! tables; the numbers of large objects; changes to objects that initdb made, other than their rights and
//! schema `public`; planner statistics; roles, tablespaces and whatever else belongs to the server; the
//! database's own owner, rights and comment, which lie outside it. Where something holds the name of the
//! database that it was built in, [`Inventory::replace`] makes builds comparable: only the caller knows
//! that name, since a template is renamed when it is sealed. Values of a user mapping's options, of a
//! subscription's connection, and of others with a name like a password's, are hidden: a digest with a
//! secret word stands for each.
//!
//! The catalogs are described in <https://www.postgresql.org/docs/current/catalogs.html>. Each
//! `.sql` file here is one query that answers with (heading, rank, number, line).

mod class;
mod contents;
mod difference;
mod rows;
mod shape;

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::{Doing as _, Session, sql};
use crate::error::Result;

pub use class::Class;
pub use contents::{Contents, Held, Ignored};
pub use difference::{Change, ChangeKind, Difference, Edit, Side, diff};
pub use rows::{Look, RowComparison, RowDifference, Sight, Window};
pub use shape::{Rows, digests, shape};

/// What is in one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// What a person calls the object (`table public.users`), and what there is to say of it. A
    /// line that begins with two blanks continues the one before.
    pub entries: BTreeMap<String, Vec<Line>>,
    /// Digests of the rows of its tables, by heading; empty if none were asked for.
    pub contents: Contents,
}

/// One line of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is about.
    pub class: Class,
    /// The line.
    pub text: String,
}

/// What is to be read of a database.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading<'a> {
    /// A word that hides secrets: the digests that stand for them can only be compared with digests that were
    /// made with the same word, and nobody can try passwords who does not know it.
    pub veil: &'a str,
    /// Whether to read row contents, and which columns do not count.
    pub rows: Option<&'a Ignored>,
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

    /// What the role could not read, and why, a line each.
    pub fn unread(&self) -> Vec<String> {
        const UNREAD: [&str; 3] = ["rows unknown: ", "contents unknown", "position unknown: "];
        let all = self.entries.iter();
        let lines = all.flat_map(|(heading, lines)| lines.iter().map(move |line| (heading, line)));
        let unread = lines.filter(|(_, line)| UNREAD.iter().any(|word| line.text.starts_with(word)));
        let told = unread.map(|(heading, line)| format!("{heading}: {}", line.text));
        told.collect()
    }

    /// Puts `stand_in` wherever `name` stands, in headings too. For names that differ by build and
    /// cannot be mistaken for anything else: the private names that a set's databases had while they
    /// were built, in a foreign server's options or a comment.
    pub fn replace(&mut self, name: &str, stand_in: &str) {
        let entries = std::mem::take(&mut self.entries);
        for (heading, lines) in entries {
            let lines =
                lines.into_iter().map(|line| Line { text: line.text.replace(name, stand_in), ..line });
            self.entries.entry(heading.replace(name, stand_in)).or_default().extend(lines);
        }
    }
}

macro_rules! query {
    ($file:literal) => {
        concat!(include_str!("prelude.sql"), include_str!($file))
    };
}

const QUERIES: [&str; 11] = [
    query!("relations.sql"),
    query!("columns.sql"),
    query!("attached.sql"),
    query!("routines.sql"),
    query!("types.sql"),
    query!("operators.sql"),
    query!("text_search.sql"),
    query!("database.sql"),
    query!("large_objects.sql"),
    query!("rights.sql"),
    query!("comments.sql"),
];
const PUBLICATION_SCHEMAS: &str = query!("publication_schemas.sql");
const SUBSCRIPTIONS: &str = include_str!("subscriptions.sql");
const LARGE_CONTENTS: &str = include_str!("large_contents.sql");
const COUNTABLE: &str = query!("countable.sql");
const SEQUENCES: &str = query!("sequences.sql");

/// How many rows a table has, after all other lines of it.
const ROWS: i32 = 10;
/// The position of a sequence.
const POSITION: i32 = 11;
/// What rows say.
const CONTENTS: i32 = 13;

/// How many tables are counted in one statement: few round trips, and a plan of moderate size.
const BATCH: usize = 64;

/// One line with what it is sorted by, after its heading.
type Found = (i32, i64, String);

/// A line as the queries give it: heading, rank, number, text.
type Row = (Option<String>, i32, i64, Option<String>);

/// A table whose rows count, or a sequence.
#[derive(FromRow)]
struct Table {
    heading: String,
    schema: String,
    name: String,
    /// Why our role cannot read it.
    refusal: Option<String>,
}

/// Reads the inventory of the session's database: the catalogs in one snapshot, then sequences and rows.
///
/// Works for any role. What the role may not read it cannot count: such a table says `rows unknown`
/// and why. Counting locks each table as any SELECT does, so one that somebody alters is waited for.
///
/// # Errors
/// The driver's. The session is usable afterwards, unless it is lost.
///
/// # Cancel safety
/// If the future is dropped, a transaction that only reads stays open: close the session.
pub async fn read(session: &mut Session, reading: &Reading<'_>) -> Result<Inventory> {
    let database = session.database().to_owned();
    let doing = || format!("read what is in database `{database}`");
    begin(session).await.doing(doing)?;
    let found = describe(session, reading).await;
    let (mut found, tables, sequences) = session.end(found).await.doing(doing)?;
    let contents = match reading.rows {
        Some(ignored) => {
            let contents = contents::read(session, &tables, ignored).await?;
            for (heading, held) in &contents {
                let rows = held.rows.filter(|rows| *rows > 0);
                let rows = rows.map(|rows| (ROWS, 0, format!("rows {rows}")));
                let refusal = held.refusal.as_ref();
                let refusal = refusal.map(|why| (CONTENTS, 0, format!("contents unknown: {why}")));
                for line in rows.into_iter().chain(refusal) {
                    found.entry(heading.clone()).or_default().push(line);
                }
            }
            contents
        }
        None => Contents::new(),
    };
    let counted = |table: &Table| contents.get(&table.heading).is_some_and(|c| c.rows.is_some());
    let (known, unknown): (Vec<_>, Vec<_>) =
        tables.into_iter().filter(|table| !counted(table)).partition(|t| t.refusal.is_none());
    for table in unknown {
        let line = format!("rows unknown: {}", table.refusal.unwrap_or_default());
        found.entry(table.heading).or_default().push((ROWS, 0, line));
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
    let (known, unknown): (Vec<_>, Vec<_>) = sequences.into_iter().partition(|s| s.refusal.is_none());
    for sequence in unknown {
        let line = format!("position unknown: {}", sequence.refusal.unwrap_or_default());
        found.entry(sequence.heading).or_default().push((POSITION, 0, line));
    }
    for batch in known.chunks(BATCH) {
        begin(session).await.doing(doing)?;
        let names = batch.iter().map(|s| (s.schema.as_str(), s.name.as_str()));
        let positions: std::result::Result<Vec<(i64, bool)>, _> = session.rows(sql::positions(names)).await;
        let positions = session.end(positions).await.doing(doing)?;
        for (sequence, (position, used)) in batch.iter().zip(positions) {
            let unused = if used { "" } else { ", not used" };
            let line = format!("position {position}{unused}");
            found.entry(sequence.heading.clone()).or_default().push((POSITION, 0, line));
        }
    }
    let entries = found
        .into_iter()
        .map(|(heading, mut lines)| {
            lines.sort();
            (heading, lines.into_iter().flat_map(split).collect())
        })
        .collect();
    Ok(Inventory { entries, contents })
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
                SET LOCAL lc_monetary = 'C'; SET LOCAL jit = off";
    session.run(sql::user_statements(text.into())).await
}

/// What the catalogs say, by heading; the tables whose rows count; the sequences.
async fn describe(
    session: &mut Session,
    reading: &Reading<'_>,
) -> Result<(BTreeMap<String, Vec<Found>>, Vec<Table>, Vec<Table>), sqlx::Error> {
    let veil = "SELECT set_config('pgstencil.veil', $1, true)";
    session.run(sql::fill(veil, &[&reading.veil])).await?;
    let mut found: BTreeMap<String, Vec<Found>> = BTreeMap::new();
    let schemas = (session.facts().major() >= 15).then_some(PUBLICATION_SCHEMAS);
    let all = "SELECT has_table_privilege('pg_subscription', 'SELECT')";
    let subscriptions: bool = session.scalar(sql::fill(all, &[])).await?;
    let subscriptions = subscriptions.then_some(SUBSCRIPTIONS);
    for query in QUERIES.into_iter().chain(schemas).chain(subscriptions).chain([LARGE_CONTENTS]) {
        let rows: Vec<Row> = session.rows(sql::fill(query, &[])).await?;
        for (heading, rank, number, line) in rows {
            // Without heading is only what was dropped since the snapshot.
            if let (Some(heading), Some(line)) = (heading, line) {
                found.entry(heading).or_default().push((rank, number, line));
            }
        }
    }
    let tables = session.rows(sql::fill(COUNTABLE, &[])).await?;
    let sequences = session.rows(sql::fill(SEQUENCES, &[])).await?;
    Ok((found, tables, sequences))
}

async fn count(session: &mut Session, tables: &[Table]) -> Result<Vec<i64>, sqlx::Error> {
    let names = tables.iter().map(|t| (t.schema.as_str(), t.name.as_str()));
    session.scalars(sql::count_rows(names)).await
}

/// A definition of several lines, the later ones indented. A carriage return is part of it, and would
/// not be seen as what it is.
fn split((rank, _, text): Found) -> Vec<Line> {
    let class = Class::of_rank(rank);
    let text = text.replace('\r', "\\r");
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default().to_owned();
    std::iter::once(first).chain(lines.map(|l| format!("  {l}"))).map(|text| Line { class, text }).collect()
}
