//! Statements that digest rows: a number for each row, and their sum for each table, so that the order of
//! rows does not matter.

use super::{Statement, in_order, quote_ident, quote_literal};

/// The part of a row that goes into its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// A column, as its type prints it.
    Plain(String),
    /// A column that holds text, without the times in it.
    Timeless(String),
    /// The row that a number refers to, in place of the number.
    Referred(Reference),
}

/// The row of a table that some columns of another row name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Schema of the referenced table.
    pub(crate) schema: String,
    /// Name of the referenced table.
    pub(crate) table: String,
    /// Referring columns, each with the column that it refers to.
    pub(crate) on: Vec<(String, String)>,
    /// Cells of the row that count.
    pub(crate) cells: Vec<Cell>,
}

/// A table, and the cells of its rows that count.
#[derive(Clone, Debug)]
pub(crate) struct Digested {
    /// Schema of the table.
    pub(crate) schema: String,
    /// Name of the table.
    pub(crate) table: String,
    /// Cells that count.
    pub(crate) cells: Vec<Cell>,
}

/// Returns a query with one row for each table: `rows`, and a `digest` of them.
pub(crate) fn count_and_digest(tables: &[Digested]) -> Statement {
    let queries = tables.iter().enumerate().map(|(n, table)| {
        format!("SELECT {n} AS n, count(*) AS rows, {} AS digest FROM {}", sum(&table.cells), from(table))
    });
    in_order(queries, "rows, c.digest")
}

/// Returns a query with one row: `full` and `idless`, the digests of a table's rows by two lists of cells, and
/// `columns`, a digest for each of further lists.
pub(crate) fn digest_columns(full: &Digested, idless: &[Cell], columns: &[Vec<Cell>]) -> Statement {
    let columns: Vec<String> = columns.iter().map(|cells| sum(cells)).collect();
    Statement::new(format!(
        "SELECT {} AS full, {} AS idless, ARRAY[{}]::text[] AS columns FROM {}",
        sum(&full.cells),
        sum(idless),
        columns.join(", "),
        from(full)
    ))
}

/// Returns a query with one row for each row of a table: its digests by two lists of cells.
pub(crate) fn digest_each(full: &Digested, idless: &[Cell]) -> Statement {
    Statement::new(format!(
        "SELECT {} AS full, {} AS idless FROM {}",
        digest(&full.cells, 0),
        digest(idless, 0),
        from(full)
    ))
}

/// Type of a value that may contain the time of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Time {
    /// `timestamptz`
    Instant,
    /// `timestamp`, in whatever time zone.
    Local,
    /// `date`, in whatever time zone.
    Day,
    /// A range of the three above.
    Range,
    /// Seconds since 1970, or thousandths, millionths, billionths of them.
    Number,
    /// ISO 8601 within a text.
    Text,
}

/// Returns a query with one row: for each column whether one of its values lies between two times, which are
/// `timestamptz` as text.
pub(crate) fn holds_time(
    schema: &str,
    table: &str,
    columns: &[(&str, Time)],
    (since, until): (&str, &str),
) -> Statement {
    let [a, b] = [since, until].map(|t| format!("{}::timestamptz", quote_literal(t)));
    let tests: Vec<String> = columns
        .iter()
        .map(|(name, time)| {
            let c = format!("t0.{}", quote_ident(name));
            let instant = format!("BETWEEN {a} AND {b}");
            // The furthest zones are 14 hours east and 12 west.
            let local = format!(
                "BETWEEN ({a} AT TIME ZONE 'UTC') - interval '12 hours' \
                 AND ({b} AT TIME ZONE 'UTC') + interval '14 hours'"
            );
            let test = match time {
                Time::Instant => format!("{c} {instant}"),
                Time::Local => format!("{c} {local}"),
                Time::Day => format!("{c} >= ({a} - interval '12 hours')::date AND {c} <= ({b} + interval '14 hours')::date"),
                // As text, a range shows its ends in quotes.
                Time::Range | Time::Text => format!(
                    "{c}::text ~ (SELECT '(' || string_agg(to_char(d, 'YYYY-MM-DD'), '|') || ')[T ][0-9]{{2}}:[0-9]{{2}}' \
                     FROM generate_series(date_trunc('day', {a} - interval '12 hours'), {b} + interval '14 hours', interval '1 day') d)"
                ),
                Time::Number => format!(
                    "EXISTS (SELECT FROM (VALUES (1), (1000), (1000000), (1000000000)) f(n) WHERE {c} BETWEEN \
                     f.n * extract(epoch FROM {a})::numeric AND f.n * extract(epoch FROM {b})::numeric)"
                ),
            };
            format!("coalesce(bool_or({test}), false)")
        })
        .collect();
    Statement::new(format!(
        "SELECT ARRAY[{}]::bool[] FROM ONLY {}.{} t0",
        tests.join(", "),
        quote_ident(schema),
        quote_ident(table)
    ))
}

/// Returns a query with one row for each sequence: the last value that it gave, or the first that it will give;
/// and which of these.
pub(crate) fn positions<'a>(sequences: impl Iterator<Item = (&'a str, &'a str)>) -> Statement {
    let queries = sequences.enumerate().map(|(n, (schema, name))| {
        format!("SELECT {n} AS n, last_value, is_called FROM {}.{}", quote_ident(schema), quote_ident(name))
    });
    in_order(queries, "last_value, c.is_called")
}

fn from(table: &Digested) -> String {
    let (schema, name) = (quote_ident(&table.schema), quote_ident(&table.table));
    format!("ONLY {schema}.{name} t0")
}

fn sum(cells: &[Cell]) -> String {
    format!("coalesce(sum({}), 0)::text", digest(cells, 0))
}

/// Returns the digest of one row, which has the name `t<depth>`.
fn digest(cells: &[Cell], depth: usize) -> String {
    const TIME: &str = "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?([.,][0-9]+)? ?(Z|[+-][0-9]{2}:?([0-9]{2})?)?";
    let cells: Vec<String> = cells
        .iter()
        .map(|cell| match cell {
            Cell::Plain(name) => format!("t{depth}.{}", quote_ident(name)),
            Cell::Timeless(name) => format!(
                "regexp_replace(t{depth}.{}::text, {}, '', 'g')",
                quote_ident(name),
                quote_literal(TIME)
            ),
            Cell::Referred(to) => {
                let inner = depth + 1;
                let on = to.on.iter().map(|(from, at)| {
                    format!("t{inner}.{} = t{depth}.{}", quote_ident(at), quote_ident(from))
                });
                format!(
                    "(SELECT sum({}) FROM {}.{} t{inner} WHERE {})",
                    digest(&to.cells, inner),
                    quote_ident(&to.schema),
                    quote_ident(&to.table),
                    on.collect::<Vec<_>>().join(" AND ")
                )
            }
        })
        .collect();
    format!("hashtextextended(ROW({})::text COLLATE \"C\", 0)", cells.join(", "))
}
