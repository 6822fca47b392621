//! [`Inventory`]: everything in one database that a migrate command decides, as lines of text that are equal
//! for two builds of the same inputs.
//!
//! An inventory does not depend on chance: it contains no oids, no generated names with oids in them, and no
//! order that the server may choose. It covers everything that `pg_dump --create` prints of a database. Each
//! line belongs to a [`Class`]:
//!
//! - schema: schemas, tables with everything that depends on them, sequences, views, routines, types,
//!   operators, text search, foreign servers, publications, subscriptions, large objects; extensions with
//!   their members and what depends on them; comments and security labels; the database's encoding, locale
//!   and tablespace;
//! - grants: owners, grants, default privileges, and changed privileges of objects that initdb and extensions
//!   made;
//! - settings of the database;
//! - row counts: the number of rows of each table, and the number of large objects;
//! - sequences: their positions;
//! - row contents: a digest of each large object and, on request, of the rows of each table.
//!
//! It does not cover: the definitions of extensions' members (only their names, their privileges, the rows of
//! their tables, and objects that others attached to them); gaps that dropped columns leave in `attnum`
//! (positions count live columns); options of tables, columns and indexes that the server writes by itself
//! (for a column only options that a person can set count, elsewhere names that begin with `pg_` do not);
//! rows of foreign tables; the numbers of large objects; changes to objects that initdb made, except their
//! privileges and the schema `public`; planner statistics; roles, tablespaces and other objects of the
//! server; and the database's own owner, privileges and comment, which are stored outside it. If an object
//! contains the name of the database in which it was built, [`Inventory::replace`] makes builds comparable:
//! only the caller knows that name, since a template is renamed when it is sealed. The values of a user
//! mapping's options, of a subscription's connection, and of others with a name like that of a password, are
//! hidden: each is replaced by a digest with a secret word.
//!
//! <https://www.postgresql.org/docs/current/catalogs.html> describes the catalogs. Each `.sql` file here is
//! one query that returns (heading, rank, number, line).

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
pub use shape::{Rows, digests, recorded_in, shape};

/// The contents of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The lines of each object, by its name for display (`table public.users`). A line that begins with two
    /// blanks continues the line before it.
    pub entries: BTreeMap<String, Vec<Line>>,
    /// Digests of the rows of its tables, by heading; empty if they were not requested.
    pub contents: Contents,
}

/// One line of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The class of the line.
    pub class: Class,
    /// Whether the line has a meaning beyond its text.
    pub kind: LineKind,
    /// The text of the line.
    pub text: String,
}

/// Meaning of a line beyond its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// None.
    Plain,
    /// It names the owner: everything that has one is an object.
    Owner,
    /// It states the reason why the role could not read a part of the object.
    Unread,
}

impl LineKind {
    /// Returns the kind of lines with this rank.
    fn of_rank(rank: i32) -> Self {
        match rank {
            OWNER => LineKind::Owner,
            ROWS_UNREAD | POSITION_UNREAD | CONTENTS_UNREAD => LineKind::Unread,
            _ => LineKind::Plain,
        }
    }
}

/// The parts of a database to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading<'a> {
    /// A word that hides secrets. Digests of secrets can only be compared with digests made with the same
    /// word, and an attacker who does not know it cannot try passwords.
    pub veil: &'a str,
    /// The columns that do not count; `None` means that row contents are not read.
    pub rows: Option<&'a Ignored>,
}

impl Inventory {
    /// Returns the number of objects.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the database is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns a line for each object that the role could not read, with the reason.
    pub fn unread(&self) -> Vec<String> {
        let all = self.entries.iter();
        let lines = all.flat_map(|(heading, lines)| lines.iter().map(move |line| (heading, line)));
        let unread = lines.filter(|(_, line)| line.kind == LineKind::Unread);
        let told = unread.map(|(heading, line)| format!("{heading}: {}", line.text));
        told.collect()
    }

    /// Replaces `name` by `stand_in` everywhere, in headings too. For names that differ by build and cannot
    /// be mistaken for anything else: the private names that the databases of a template had while they were
    /// built, in a foreign server's options or a comment.
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

/// Rank of the owner of an object, as in `rights.sql`.
const OWNER: i32 = 6;
/// Rank of the number of rows of a table, after all its other lines.
const ROWS: i32 = 10;
/// Rank of the position of a sequence.
const POSITION: i32 = 11;
/// Rank of the reason why the rows of a table could not be counted.
const ROWS_UNREAD: i32 = 14;
/// Rank of the reason why the position of a sequence could not be read.
const POSITION_UNREAD: i32 = 15;
/// Rank of the reason why contents could not be read, also in `large_contents.sql`.
const CONTENTS_UNREAD: i32 = 16;

/// Number of tables that are counted in one statement: few round trips, and a plan of moderate size.
const BATCH: usize = 64;

/// One line with its sort keys, after its heading.
type Found = (i32, i64, String);

/// A line as the queries return it: heading, rank, number, text.
type Row = (Option<String>, i32, i64, Option<String>);

/// A table whose rows count, or a sequence.
#[derive(FromRow)]
struct Table {
    heading: String,
    schema: String,
    name: String,
    /// The reason why pgstencil's role cannot read it.
    refusal: Option<String>,
}

/// Reads the inventory of the session's database: the catalogs in one snapshot, then sequences and rows.
///
/// Works for any role. It cannot count tables that the role may not read: their line is `rows unknown`, with
/// the reason. Counting locks each table as any SELECT does, so it waits while a table is being altered.
///
/// # Errors
/// Errors of the driver. The session can be used afterwards, unless it is lost.
///
/// # Cancel safety
/// If the future is dropped, a transaction that only reads stays open: close the session.
pub async fn read(session: &mut Session, reading: &Reading<'_>) -> Result<Inventory> {
    let database = session.database().to_owned();
    let doing = || format!("read the contents of database `{database}`");
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
                let refusal = refusal.map(|why| (CONTENTS_UNREAD, 0, format!("contents unknown: {why}")));
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
        found.entry(table.heading).or_default().push((ROWS_UNREAD, 0, line));
    }
    // One transaction per batch: a single transaction would hold a lock on every table and index of the
    // database, possibly more than the server allows.
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
        found.entry(sequence.heading).or_default().push((POSITION_UNREAD, 0, line));
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

/// Begins a read-only transaction, with the settings that decide how the server prints expressions: a
/// database may have its own. Compiling these queries would take longer than running them.
async fn begin(session: &mut Session) -> Result<(), sqlx::Error> {
    let text = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                SET LOCAL search_path = pg_catalog; SET LOCAL datestyle = ISO; \
                SET LOCAL intervalstyle = postgres; SET LOCAL timezone = UTC; \
                SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = hex; \
                SET LOCAL xmlbinary = base64; SET LOCAL quote_all_identifiers = off; \
                SET LOCAL lc_monetary = 'C'; SET LOCAL jit = off";
    session.run(sql::text(text)).await
}

/// Reads the catalogs: lines by heading; the tables whose rows count; the sequences.
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
            // Only objects that were dropped since the snapshot have no heading.
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

/// Splits a definition of several lines and indents the later ones. A carriage return is part of the
/// definition, but would not be visible.
fn split((rank, _, text): Found) -> Vec<Line> {
    let (class, kind) = (Class::of_rank(rank), LineKind::of_rank(rank));
    let text = text.replace('\r', "\\r");
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default().to_owned();
    std::iter::once(first)
        .chain(lines.map(|l| format!("  {l}")))
        .map(|text| Line { class, kind, text })
        .collect()
}
