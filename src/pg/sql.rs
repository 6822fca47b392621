//! Statements whose identifiers cannot be bound: built only here, every identifier quoted by [`quote_ident`],
//! every literal by [`quote_literal`].

mod rows;

use std::borrow::Cow;

use serde::Serialize;
use sqlx::postgres::types::Oid;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

pub(crate) use rows::{
    Cell, Digested, Reference, Time, count_and_digest, digest_columns, digest_each, holds_time, positions,
};

/// A finished statement, safe to send. Its literals may be secrets: a stored setting, a password within the
/// user's own statements. So `Debug` and traces show its [`Statement::outline`] only.
#[derive(Clone)]
pub struct Statement {
    text: String,
    plan: Option<Plan>,
}

/// How a session has the server keep a statement; see [`planned()`].
#[derive(Clone)]
pub(super) struct Plan {
    /// Name of the text in the server, for the session.
    pub(super) name: &'static str,
    /// The text, with numbers for values.
    pub(super) text: Cow<'static, str>,
    /// The values, as the arguments of EXECUTE.
    values: String,
}

impl Plan {
    /// Returns the statement that has the server keep the text.
    pub(super) fn prepare(&self) -> Statement {
        Statement::new(format!("PREPARE {} AS {}", self.name, self.text))
    }

    /// Returns the statement that runs the text that the server keeps.
    pub(super) fn execute(&self) -> Statement {
        Statement::new(format!("EXECUTE {}{}", self.name, self.values))
    }
}

impl Statement {
    fn new(text: String) -> Self {
        Statement { text, plan: None }
    }

    /// Returns the text, to be sent, or pasted by the user.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the statement as one that a session has planned once, as [`planned()`] does. It has no values, or the
    /// same ones whenever it is sent. `name`: of this text alone.
    pub(crate) fn planned_as(self, name: &'static str) -> Self {
        let plan = Plan { name, text: self.text.clone().into(), values: String::new() };
        Statement { plan: Some(plan), ..self }
    }

    /// Returns how a session has the server keep it; `None` if that does not pay.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Returns the text with `…` for each literal. Not fit for the user's own statements, which may quote in
    /// other ways than [`quote_literal`].
    pub fn outline(&self) -> String {
        let mut outline = String::with_capacity(self.text.len());
        let mut rest = self.text.as_str();
        while let Some(start) = rest.find(['\'', '"']) {
            let quote = &rest[start..=start];
            let end = closing(&rest[start..], quote).map_or(rest.len(), |n| start + n);
            outline += &rest[..start];
            outline += match quote {
                "'" => "'…'",
                _ => &rest[start..end],
            };
            rest = &rest[end..];
        }
        outline + rest
    }
}

/// Returns the end of the quoted text that begins here: after the next quote that is not doubled.
fn closing(text: &str, quote: &str) -> Option<usize> {
    let mut from = quote.len();
    loop {
        let end = from + text.get(from..)?.find(quote)? + quote.len();
        match text[end..].starts_with(quote) {
            true => from = end + quote.len(),
            false => return Some(end),
        }
    }
}

impl std::fmt::Debug for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Statement({})", self.outline())
    }
}

impl SqlSafeStr for Statement {
    fn into_sql_str(self) -> SqlStr {
        AssertSqlSafe(self.text).into_sql_str()
    }
}

/// Returns the user's own statements, sent unchanged (`after_clone_sql`).
pub(super) fn user_statements(text: String) -> Statement {
    Statement::new(text)
}

/// Returns statements without values.
pub(crate) fn text(text: &'static str) -> Statement {
    fill(text, &[])
}

/// A part of a statement that depends on the server's version or the like, as a value of [`fill`]: it is
/// inserted unchanged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part(pub &'static str);

/// Makes the commit of this transaction wait for the disk, also where the server or the role sets
/// `synchronous_commit = off`: a crash would revert the last commits
/// (<https://www.postgresql.org/docs/current/wal-async-commit.html>), and with them clones that users already
/// have. Elsewhere it changes nothing: a commit that waits for a standby continues to do so.
pub(crate) fn flushed() -> Statement {
    Statement::new(
        "SELECT set_config('synchronous_commit', 'local', true) \
         WHERE current_setting('synchronous_commit') = 'off'"
            .into(),
    )
}

/// Joins several statements to one message, which the server runs as one transaction
/// (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT>). None of them
/// may be a CREATE or DROP DATABASE.
pub(crate) fn together(statements: &[Statement]) -> Statement {
    let texts: Vec<&str> = statements.iter().map(Statement::text).collect();
    Statement::new(texts.join("; "))
}

/// A value that [`fill`] writes into a statement. All are quoted. Texts take their type from their context;
/// numbers have theirs, since `CASE … THEN '3000000000' ELSE 0 END` would make an integer of it.
pub(crate) trait Literal: Sync {
    /// Returns its form in a statement.
    fn literal(&self) -> String;
}

impl Literal for Part {
    fn literal(&self) -> String {
        self.0.to_owned()
    }
}

/// A query within another one.
impl Literal for Statement {
    fn literal(&self) -> String {
        self.text.clone()
    }
}

impl Literal for str {
    fn literal(&self) -> String {
        quote_literal(self)
    }
}

impl Literal for String {
    fn literal(&self) -> String {
        quote_literal(self)
    }
}

impl<T: Literal + ?Sized> Literal for &T {
    fn literal(&self) -> String {
        (**self).literal()
    }
}

macro_rules! literals {
    ($($type:ty => $sql:literal),*) => {
        $(impl Literal for $type {
            fn literal(&self) -> String {
                format!(concat!("'{}'::", $sql), self)
            }
        })*
    };
}

literals!(bool => "boolean", i32 => "integer", i64 => "bigint", u64 => "bigint", usize => "bigint");
literals!(f64 => "float8");

impl Literal for Oid {
    fn literal(&self) -> String {
        format!("'{}'::oid", self.0)
    }
}

impl<T: Serialize + Sync> Literal for Json<T> {
    fn literal(&self) -> String {
        // The values come from maps with text keys, which always works.
        quote_literal(&serde_json::to_string(&self.0).unwrap_or_else(|_| "null".into()))
    }
}

impl<T: Literal> Literal for Option<T> {
    fn literal(&self) -> String {
        self.as_ref().map_or_else(|| "NULL".to_owned(), Literal::literal)
    }
}

impl Literal for [String] {
    fn literal(&self) -> String {
        let quote = |text: &String| {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{text}\"")
        };
        let elements: Vec<String> = self.iter().map(quote).collect();
        quote_literal(&format!("{{{}}}", elements.join(",")))
    }
}

impl Literal for [Oid] {
    fn literal(&self) -> String {
        let elements: Vec<String> = self.iter().map(|oid| oid.0.to_string()).collect();
        format!("'{{{}}}'", elements.join(","))
    }
}

impl Literal for [i64] {
    fn literal(&self) -> String {
        let elements: Vec<String> = self.iter().map(i64::to_string).collect();
        format!("'{{{}}}'", elements.join(","))
    }
}

impl<T> Literal for Vec<T>
where
    [T]: Literal,
    T: Sync,
{
    fn literal(&self) -> String {
        self.as_slice().literal()
    }
}

/// Writes values in the place of `$1` and so on. To bind them would take a round trip of its own for each
/// statement, and several statements could not be one message. In debug builds each number must have a value,
/// and each value a number.
pub(crate) fn fill(text: &'static str, values: &[&dyn Literal]) -> Statement {
    Statement::new(filled(text, &literals_of(values)))
}

/// Returns a statement with these values, as [`fill`] does. To plan a statement that reads several tables takes longer
/// than to run it, so a session that has sent it [`SENT_AS_IT_IS`] times has the server keep its text and plan it once,
/// for all values (<https://www.postgresql.org/docs/current/sql-prepare.html>). `name`: of this text alone.
pub(crate) fn planned(name: &'static str, text: &'static str, values: &[&dyn Literal]) -> Statement {
    let values = literals_of(values);
    let arguments = match values.as_slice() {
        [] => String::new(),
        values => format!("({})", values.join(", ")),
    };
    let plan = Plan { name, text: text.into(), values: arguments };
    Statement { plan: Some(plan), ..Statement::new(filled(text, &values)) }
}

/// Number of times that a session sends a [planned()] statement as it is. Most sessions send it no more often, so to keep
/// it would not pay.
pub(super) const SENT_AS_IT_IS: u32 = 2;

fn literals_of(values: &[&dyn Literal]) -> Vec<String> {
    values.iter().map(|value| value.literal()).collect()
}

fn filled(text: &str, values: &[String]) -> String {
    debug_assert!(
        (1..=values.len()).all(|n| numbers(text).any(|number| number == n)),
        "there are {} values for: {text}",
        values.len()
    );
    let mut filled = String::with_capacity(text.len() + 32 * values.len());
    let mut parts = text.split('$');
    filled.extend(parts.next());
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let (number, rest) = part.split_at(end);
        let value = number.parse().ok().and_then(|n: usize| values.get(n.wrapping_sub(1)));
        match value {
            Some(value) => filled += value,
            None => {
                debug_assert!(number.is_empty(), "${number} has no value in: {text}");
                filled.push('$');
                filled += number;
            }
        }
        filled += rest;
    }
    filled
}

/// Returns the numbers that represent values in a text.
fn numbers(text: &str) -> impl Iterator<Item = usize> {
    let digits = |part: &str| part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
    text.split('$').skip(1).filter_map(move |part| part[..digits(part)].parse().ok())
}

/// Returns an INSERT of rows that [`fill`] made.
pub(crate) fn insert_rows(insert: &'static str, rows: &[Statement], returning: &'static str) -> Statement {
    let rows: Vec<&str> = rows.iter().map(Statement::text).collect();
    Statement::new(format!("{insert}{}{returning}", rows.join(", ")))
}

/// Quotes an identifier for any position in a statement.
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a literal, whatever `standard_conforming_strings` says. A zero byte, which Postgres cannot
/// store, would end the message: it becomes U+FFFD.
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''").replace('\0', "\u{fffd}");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// The way in which a database is copied, as far as the server must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyStrategy {
    /// The server knows only one (13 and 14).
    Only,
    /// Through the buffer pool and the WAL.
    WalLog,
    /// File by file, between two checkpoints.
    FileCopy,
    /// The same with `file_copy_method = clone`, which the session must have set (18 and later).
    Reflink,
}

impl CopyStrategy {
    /// Whether the copy has all files of the source, and not only its relations.
    pub(crate) fn copies_files(self) -> bool {
        match self {
            CopyStrategy::Only | CopyStrategy::FileCopy | CopyStrategy::Reflink => true,
            CopyStrategy::WalLog => false,
        }
    }

    /// Returns the strategy of a word; `None` if it has none.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let all = [CopyStrategy::Only, CopyStrategy::WalLog, CopyStrategy::FileCopy, CopyStrategy::Reflink];
        all.into_iter().find(|strategy| strategy.as_str() == word)
    }

    /// Returns the word of the config; `only` where there is no choice.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            CopyStrategy::Only => "only",
            CopyStrategy::WalLog => "wal_log",
            CopyStrategy::FileCopy => "file_copy",
            CopyStrategy::Reflink => "reflink",
        }
    }
}

impl std::fmt::Display for CopyStrategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns `CREATE DATABASE name TEMPLATE template`. Must be the only statement of its message (25001).
pub(crate) fn create_database(
    name: &str,
    template: &str,
    strategy: CopyStrategy,
    allow_connections: bool,
) -> Statement {
    let strategy = match strategy {
        CopyStrategy::Only => "",
        CopyStrategy::WalLog => " STRATEGY wal_log",
        CopyStrategy::FileCopy | CopyStrategy::Reflink => " STRATEGY file_copy",
    };
    Statement::new(format!(
        "CREATE DATABASE {} TEMPLATE {} ALLOW_CONNECTIONS {allow_connections}{strategy}",
        quote_ident(name),
        quote_ident(template),
    ))
}

/// Returns the CREATE of the registry database: UTF-8 on any server, since locale C fits every encoding.
pub(crate) fn create_registry(name: &str) -> Statement {
    Statement::new(format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'",
        quote_ident(name)
    ))
}

/// Returns `REVOKE ALL … FROM PUBLIC`: closes a database to all but its owner.
pub(crate) fn revoke_public(name: &str) -> Statement {
    Statement::new(format!("REVOKE ALL ON DATABASE {} FROM PUBLIC", quote_ident(name)))
}

/// Returns `DROP DATABASE`. Run it with `statement_timeout = 0`: an interrupted one leaves an invalid database.
pub(crate) fn drop_database(name: &str) -> Statement {
    Statement::new(format!("DROP DATABASE {}", quote_ident(name)))
}

/// Returns the statement that sets `file_copy_method` in the session.
pub(crate) fn set_file_copy_method(clone: bool) -> Statement {
    let method = if clone { "clone" } else { "copy" };
    Statement::new(format!("SET file_copy_method = {method}"))
}

/// Returns `ALTER DATABASE … RENAME TO`.
pub(crate) fn rename_database(from: &str, to: &str) -> Statement {
    Statement::new(format!("ALTER DATABASE {} RENAME TO {}", quote_ident(from), quote_ident(to)))
}

/// Returns `ALTER DATABASE … OWNER TO`.
pub(crate) fn owner(name: &str, role: &str) -> Statement {
    Statement::new(format!("ALTER DATABASE {} OWNER TO {}", quote_ident(name), quote_ident(role)))
}

/// Returns `COMMENT ON DATABASE`. Succeeds for a missing database, so check its oid first.
pub(crate) fn comment_database(name: &str, comment: &str) -> Statement {
    Statement::new(format!("COMMENT ON DATABASE {} IS {}", quote_ident(name), quote_literal(comment)))
}

/// Returns `ALTER DATABASE … ALLOW_CONNECTIONS`. Never on an invalid database: that ends the session.
pub(crate) fn allow_connections(name: &str, allow: bool) -> Statement {
    Statement::new(format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", quote_ident(name)))
}

/// Returns `ALTER DATABASE … IS_TEMPLATE`. Never on an invalid database: that ends the session.
pub(crate) fn is_template(name: &str, yes: bool) -> Statement {
    Statement::new(format!("ALTER DATABASE {} IS_TEMPLATE {yes}", quote_ident(name)))
}

/// Puts a security label on a database.
pub(crate) fn security_label(database: &str, provider: &str, label: &str) -> Statement {
    Statement::new(format!(
        "SECURITY LABEL FOR {} ON DATABASE {} IS {}",
        quote_ident(provider),
        quote_ident(database),
        quote_literal(label)
    ))
}

/// Returns `ALTER DATABASE … CONNECTION LIMIT`.
pub(crate) fn connection_limit(name: &str, limit: i32) -> Statement {
    Statement::new(format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", quote_ident(name)))
}

/// Stores a setting with the database, or with a role in it; without a value, the session's current one: a list
/// such as `search_path` must not be quoted as one literal.
pub(crate) fn store_setting(name: &str, role: Option<&str>, setting: &str, value: Option<&str>) -> Statement {
    // A custom setting's name is `class.name`; quoting each part keeps unusual ones intact.
    let setting: Vec<String> = setting.split('.').map(quote_ident).collect();
    let setting = setting.join(".");
    let value = match value {
        None => "FROM CURRENT".to_owned(),
        Some(value) => format!("TO {}", quote_literal(value)),
    };
    let whose = match role {
        None => format!("DATABASE {}", quote_ident(name)),
        Some(role) => format!("ROLE {} IN DATABASE {}", quote_ident(role), quote_ident(name)),
    };
    Statement::new(format!("ALTER {whose} SET {setting} {value}"))
}

/// Returns `GRANT privilege ON DATABASE`; grantee `None` is PUBLIC.
pub(crate) fn grant(name: &str, privilege: &str, grantee: Option<&str>, grantable: bool) -> Statement {
    let privilege = letters(privilege);
    Statement::new(format!(
        "GRANT {privilege} ON DATABASE {} TO {}{}",
        quote_ident(name),
        grantee.map_or("PUBLIC".to_owned(), quote_ident),
        if grantable { " WITH GRANT OPTION" } else { "" }
    ))
}

/// Revokes a privilege on a database from a role, or from the session's own.
pub(crate) fn revoke(name: &str, privilege: &str, role: Option<&str>) -> Statement {
    Statement::new(format!(
        "REVOKE {} ON DATABASE {} FROM {}",
        letters(privilege),
        quote_ident(name),
        role.map_or("CURRENT_USER".to_owned(), quote_ident)
    ))
}

/// Returns the letters of a privilege. It comes from aclexplode; anything but letters would not be one.
fn letters(privilege: &str) -> String {
    privilege.chars().filter(char::is_ascii_alphabetic).collect()
}

/// Updates the planner's statistics of some tables.
pub(crate) fn analyze<'a>(tables: impl Iterator<Item = (&'a str, &'a str)>) -> Statement {
    let names = tables.map(|(schema, table)| format!("{}.{}", quote_ident(schema), quote_ident(table)));
    Statement::new(format!("ANALYZE {}", names.collect::<Vec<_>>().join(", ")))
}

/// Returns `TRUNCATE` of tables, given by schema, name, and whether tables that inherit from it keep their rows.
pub(crate) fn truncate<'a>(tables: impl Iterator<Item = (&'a str, &'a str, bool)>) -> Statement {
    let names = tables.map(|(schema, table, only)| {
        let only = if only { "ONLY " } else { "" };
        format!("{only}{}.{}", quote_ident(schema), quote_ident(table))
    });
    Statement::new(format!("TRUNCATE {}", names.collect::<Vec<_>>().join(", ")))
}

/// Returns `VACUUM (FREEZE)` of one table.
pub(crate) fn vacuum_freeze(schema: &str, table: &str) -> Statement {
    Statement::new(format!("VACUUM (FREEZE) {}.{}", quote_ident(schema), quote_ident(table)))
}

/// Vacuums a table, unless another session has a lock on it that would make this wait.
pub(crate) fn vacuum_unlocked(schema: &str, table: &str) -> Statement {
    Statement::new(format!("VACUUM (SKIP_LOCKED) {}.{}", quote_ident(schema), quote_ident(table)))
}

/// Drops a subscription without contacting its publisher: one statement after the other.
pub(crate) fn drop_subscription(name: &str) -> [Statement; 3] {
    let name = quote_ident(name);
    [
        Statement::new(format!("ALTER SUBSCRIPTION {name} DISABLE")),
        Statement::new(format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")),
        Statement::new(format!("DROP SUBSCRIPTION {name}")),
    ]
}

/// Returns a query whether a sequence has left its start.
pub(crate) fn has_moved(schema: &str, sequence: &str, start: i64) -> Statement {
    Statement::new(format!(
        "SELECT is_called OR last_value <> {start} FROM {}.{}",
        quote_ident(schema),
        quote_ident(sequence)
    ))
}

/// Counts the rows of each of these tables, one row of the answer for each, in their order. Rows of tables that
/// inherit are not counted again with their parents.
pub(crate) fn count_rows<'a>(tables: impl Iterator<Item = (&'a str, &'a str)>) -> Statement {
    let counts: Vec<String> = tables
        .enumerate()
        .map(|(n, (schema, table))| {
            format!("SELECT {n} AS n, count(*) FROM ONLY {}.{}", quote_ident(schema), quote_ident(table))
        })
        .collect();
    Statement::new(format!("SELECT c.count FROM ({}) c ORDER BY c.n", counts.join(" UNION ALL ")))
}

/// Number of rows of a table that [`rows_with`] searches.
const SEARCHED: usize = 20_000;

/// Returns a query with one row for each table: whether one of its rows is `found` that has the values of one of
/// `records` in neighbouring columns.
pub(crate) fn rows_with<'a>(
    tables: impl Iterator<Item = (&'a str, &'a str)>,
    records: &[Vec<String>],
) -> Statement {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    let patterns: Vec<String> = records
        .iter()
        .map(|values| escaped(&values.join(",")))
        .flat_map(|values| {
            ["(", ","].map(|before| [",", ")"].map(|after| format!("%{before}{values}{after}%")))
        })
        .flatten()
        .map(|pattern| quote_literal(&pattern))
        .collect();
    let patterns = patterns.join(", ");
    let found = tables.enumerate().map(|(n, (schema, table))| {
        format!(
            "SELECT {n} AS n, EXISTS (SELECT FROM (SELECT (r.*)::text AS row FROM ONLY {}.{} r LIMIT {SEARCHED}) x \
             WHERE x.row LIKE ANY (ARRAY[{patterns}]::text[])) AS found",
            quote_ident(schema),
            quote_ident(table)
        )
    });
    in_order(found, "found")
}

/// Returns a query with one row for each table: a `digest` of all of its rows, whatever their order.
pub(crate) fn digest_rows<'a>(tables: impl Iterator<Item = (&'a str, &'a str)>) -> Statement {
    let digests = tables.enumerate().map(|(n, (schema, table))| {
        format!(
            "SELECT {n} AS n, count(*) || ' ' || \
             coalesce(sum(hashtextextended((r.*)::text COLLATE \"C\", 0)), 0) AS digest \
             FROM ONLY {}.{} r",
            quote_ident(schema),
            quote_ident(table)
        )
    });
    in_order(digests, "digest")
}

/// Returns a query with one row for each table: a `digest` of its rows without times and random ids (UUIDs);
/// null for tables with more than `few` rows.
pub(crate) fn digest_few_rows<'a>(tables: impl Iterator<Item = (&'a str, &'a str)>, few: usize) -> Statement {
    const TIME: &str =
        "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?([.][0-9]+)? ?(Z|[+-][0-9:]{2,6})?";
    const UUID: &str = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
    let pattern = quote_literal(&format!("{TIME}|{UUID}"));
    let digests = tables.enumerate().map(|(n, (schema, table))| {
        format!(
            "SELECT {n} AS n, CASE WHEN count(*) <= {few} THEN string_agg(x.hash, ',' ORDER BY x.hash) END AS digest \
             FROM (SELECT md5(regexp_replace((r.*)::text, {pattern}, '', 'g')) AS hash \
               FROM ONLY {}.{} r LIMIT {few} + 1) x",
            quote_ident(schema),
            quote_ident(table)
        )
    });
    in_order(digests, "digest")
}

/// Joins one column of several queries, each of which has one row and its number `n`.
fn in_order(queries: impl Iterator<Item = String>, column: &str) -> Statement {
    let queries: Vec<String> = queries.collect();
    Statement::new(format!("SELECT c.{column} FROM ({}) c ORDER BY c.n", queries.join(" UNION ALL ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_literals_are_quoted() {
        assert_eq!(quote_ident(r#"a"b\c'd"#), r#""a""b\c'd""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(drop_database("x; DROP DATABASE y").text(), r#"DROP DATABASE "x; DROP DATABASE y""#);
    }

    #[test]
    fn a_planned_statement_has_its_values_as_arguments() {
        let statement = planned("seek", "SELECT $1 WHERE a = $2 AND b = $1", &[&"it's", &Oid(7)]);
        assert_eq!(statement.text(), "SELECT 'it''s' WHERE a = '7'::oid AND b = 'it''s'");
        let plan = statement.plan().unwrap();
        assert_eq!(plan.prepare().text(), "PREPARE seek AS SELECT $1 WHERE a = $2 AND b = $1");
        assert_eq!(plan.execute().text(), "EXECUTE seek('it''s', '7'::oid)");
        let always = text("SELECT 1").planned_as("one");
        assert_eq!(always.plan().unwrap().execute().text(), "EXECUTE one");
        assert!(together(&[statement, always]).plan().is_none());
    }

    #[test]
    fn an_outline_has_no_literals() {
        let outlines = [
            (
                store_setting("it's", Some("a\"b'c"), "app.key", Some("my 'secret\\' word")),
                "ALTER ROLE \"a\"\"b'c\" IN DATABASE \"it's\" SET \"app\".\"key\" TO  E'…'",
            ),
            (fill("SELECT $1, x = $2", &[&"a", &"''"]), "SELECT '…', x = '…'"),
            (comment_database("d", ""), "COMMENT ON DATABASE \"d\" IS '…'"),
            (Statement::new("SELECT 'never closed".into()), "SELECT '…'"),
            (text("SELECT 1"), "SELECT 1"),
        ];
        for (statement, expected) in outlines {
            assert_eq!(statement.outline(), expected);
            assert_eq!(format!("{statement:?}"), format!("Statement({expected})"));
        }
    }

    #[test]
    fn values_are_filled_in() {
        let odd = "it's $2 \\ \0";
        let filled = fill("SELECT $1, $2::int, $3 + $2, $$", &[&odd, &7_i64, &None::<f64>]);
        assert_eq!(
            filled.text(),
            "SELECT  E'it''s $2 \\\\ \u{fffd}', '7'::bigint::int, NULL + '7'::bigint, $$"
        );
        let within = fill("SELECT * FROM ($1) x$2 WHERE y = $3", &[&filled, &Part(" LEFT JOIN z"), &"$1"]);
        assert!(within.text().starts_with("SELECT * FROM (SELECT  E'it''s $2"), "{within:?}");
        assert!(within.text().ends_with("$$) x LEFT JOIN z WHERE y = '$1'"), "{within:?}");
        let of_json = fill("$1 $2 $3", &[&Json(["a'b"]), &true, &Oid(4_000_000_000)]);
        assert_eq!(of_json.text(), "'[\"a''b\"]' 'true'::boolean '4000000000'::oid");
    }

    #[test]
    #[should_panic(expected = "there are 2 values")]
    fn a_value_without_a_place_is_a_mistake() {
        fill("SELECT $1, $3", &[&1_i64, &2_i64]);
    }

    #[test]
    #[should_panic(expected = "$2 has no value")]
    fn a_place_without_a_value_is_a_mistake() {
        fill("SELECT $1, $2", &[&1_i64]);
    }

    #[test]
    fn statements_read_as_postgres_wants_them() {
        assert_eq!(
            create_database("a", "b", CopyStrategy::FileCopy, false).text(),
            r#"CREATE DATABASE "a" TEMPLATE "b" ALLOW_CONNECTIONS false STRATEGY file_copy"#
        );
        assert_eq!(
            store_setting("d", None, "app.tenant", Some("it's")).text(),
            r#"ALTER DATABASE "d" SET "app"."tenant" TO 'it''s'"#
        );
        assert_eq!(
            store_setting("d", Some("r"), "search_path", None).text(),
            r#"ALTER ROLE "r" IN DATABASE "d" SET "search_path" FROM CURRENT"#
        );
        assert_eq!(
            grant("d", "CREATE; x", None, true).text(),
            r#"GRANT CREATEx ON DATABASE "d" TO PUBLIC WITH GRANT OPTION"#
        );
    }
}
