//! What can be put right in a copy of a template without copying it again: which of its tables are empty, and where its
//! sequences are. Copies have the same oids.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use super::sql::{self, Statement};
use super::{Doing as _, Session};
use crate::error::Result;

/// Maximum number of tables that are emptied together: beyond that a new copy costs less.
const MOST: usize = 32;
/// Number of sequences that are read by one statement.
const BATCH: usize = 64;

/// Table that TRUNCATE names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Target {
    oid: u32,
    schema: String,
    name: String,
    /// Whether its rows are those of its partitions, which are targets, too.
    partitioned: bool,
}

/// Position of a sequence: `last_value` and `is_called`.
pub(crate) type Position = (i64, bool);

/// What can be washed in a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Washable {
    /// For the oid of each table that is empty and can be emptied again: all that have to be emptied with it.
    pub(crate) tables: BTreeMap<u32, Vec<Target>>,
    /// Sequences by oid.
    pub(crate) sequences: BTreeMap<u32, Position>,
}

#[derive(Clone, Debug, FromRow)]
struct Table {
    oid: Oid,
    schema: String,
    name: String,
    partitioned: bool,
    /// Whether it is empty, and can be emptied again.
    fit: bool,
}

#[derive(FromRow)]
struct Sequence {
    oid: Oid,
    schema: String,
    name: String,
    /// Position to which a crash sets it, if it is unlogged.
    reset: Option<i64>,
}

impl Washable {
    /// Reads it from a copy that no other session has used. Counts as a look at each sequence.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn read(session: &mut Session) -> Result<Self> {
        let doing = || "read which tables of a template are empty".to_owned();
        let [tables, links, all] = session
            .send([
                sql::text(include_str!("queries/washable_tables.sql")),
                sql::text(include_str!("queries/washable_links.sql")),
                sql::text(include_str!("queries/washable_sequences.sql")),
            ])
            .await
            .doing(doing)?;
        let all: Vec<Sequence> = all.read().doing(doing)?;
        let mut sequences = BTreeMap::new();
        for some in all.chunks(BATCH) {
            let names = some.iter().map(|s| (s.schema.as_str(), s.name.as_str()));
            let positions: Vec<Position> = session.rows(sql::positions(names)).await.doing(doing)?;
            // A crash would move the template's, too.
            let stays =
                |(s, position): &(&Sequence, Position)| s.reset.is_none_or(|at| *position == (at, false));
            let some = some.iter().zip(positions).filter(stays);
            sequences.extend(some.map(|(s, position)| (s.oid.0, position)));
        }
        let links: Vec<(Oid, Oid)> = links.read().doing(doing)?;
        Ok(Washable { tables: together(&tables.read::<Table>().doing(doing)?, &links), sequences })
    }

    /// Returns the tables to empty and the sequences to set, if all of these can be put right, and fast.
    pub(crate) fn wash(&self, tables: &BTreeSet<u32>, sequences: &BTreeSet<u32>) -> Option<Wash> {
        let mut targets = BTreeSet::new();
        for table in tables {
            targets.extend(self.tables.get(table)?);
        }
        let position = |oid: &u32| Some((*oid, *self.sequences.get(oid)?));
        let sequences = sequences.iter().map(position).collect::<Option<_>>()?;
        let targets: Vec<Target> = targets.into_iter().cloned().collect();
        (targets.len() <= MOST).then_some(Wash { targets, sequences })
    }
}

/// Returns, for each table that can be emptied, all that have to be emptied with it. `links`: pairs of a table and one
/// that has to be emptied if it is.
fn together(tables: &[Table], links: &[(Oid, Oid)]) -> BTreeMap<u32, Vec<Target>> {
    let by_oid: BTreeMap<u32, &Table> = tables.iter().map(|table| (table.oid.0, table)).collect();
    let mut also: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (of, other) in links {
        also.entry(of.0).or_default().push(other.0);
    }
    let of = |first: &Table| {
        let mut all = BTreeMap::new();
        let mut next = vec![first.oid.0];
        while let Some(oid) = next.pop() {
            let table = by_oid.get(&oid).filter(|table| table.fit)?;
            if all.len() == MOST {
                return None;
            }
            if all.insert(oid, Target::of(table)).is_none() {
                next.extend(also.get(&oid).into_iter().flatten());
            }
            next.retain(|oid| !all.contains_key(oid));
        }
        Some((first.oid.0, all.into_values().collect()))
    };
    tables.iter().filter(|table| !table.partitioned).filter_map(of).collect()
}

impl Target {
    fn of(table: &Table) -> Self {
        let Table { oid, schema, name, partitioned, .. } = table.clone();
        Target { oid: oid.0, schema, name, partitioned }
    }
}

/// What puts a copy right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wash {
    targets: Vec<Target>,
    sequences: Vec<(u32, Position)>,
}

impl Wash {
    /// Returns the oids of the tables that hold rows.
    pub(crate) fn tables(&self) -> BTreeSet<u32> {
        self.targets.iter().filter(|target| !target.partitioned).map(|target| target.oid).collect()
    }

    /// Returns the statements, to be sent as one message. ANALYZE of an empty table restores the planner's estimates
    /// of an empty table, and writes no statistics.
    pub(crate) fn statements(&self) -> Vec<Statement> {
        let mut statements = Vec::new();
        if !self.targets.is_empty() {
            let names = self.targets.iter();
            statements
                .push(sql::truncate(names.map(|t| (t.schema.as_str(), t.name.as_str(), !t.partitioned))));
        }
        for (oid, (value, called)) in &self.sequences {
            statements.push(sql::fill("SELECT setval($1::regclass, $2, $3)", &[&Oid(*oid), value, called]));
        }
        let mut names = self.targets.iter().filter(|target| !target.partitioned).peekable();
        if names.peek().is_some() {
            statements.push(sql::analyze(names.map(|t| (t.schema.as_str(), t.name.as_str()))));
        }
        statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, fit: bool, partitioned: bool) -> Table {
        Table { oid: Oid(oid), schema: "s".into(), name: format!("t{oid}"), partitioned, fit }
    }

    fn oids(all: &BTreeMap<u32, Vec<Target>>, of: u32) -> Option<Vec<u32>> {
        Some(all.get(&of)?.iter().map(|target| target.oid).collect())
    }

    #[test]
    fn those_that_refer_to_a_table_are_emptied_with_it() {
        // 1 and 2 refer to each other, 3 to 1, 4 to 3, and 5 has rows and refers to 4; 6 is alone.
        let tables: Vec<Table> = (1..=6).map(|oid| table(oid, oid != 5, false)).collect();
        let links = [(1, 2), (2, 1), (1, 3), (3, 3), (3, 4)].map(|(a, b)| (Oid(a), Oid(b)));
        let all = together(&tables, &links);
        assert_eq!(oids(&all, 1), Some(vec![1, 2, 3, 4]));
        assert_eq!(oids(&all, 2), Some(vec![1, 2, 3, 4]));
        assert_eq!(oids(&all, 3), Some(vec![3, 4]));
        assert_eq!(oids(&all, 6), Some(vec![6]));
        let referred = together(&tables, &[&links[..], &[(Oid(4), Oid(5))]].concat());
        assert_eq!(referred.keys().copied().collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn a_partitioned_table_is_emptied_as_a_whole() {
        // 10 has the partitions 11 and 12, and refers to 1; 20 has a partition that is no table.
        let tables = [
            table(1, true, false),
            table(2, true, false),
            table(10, true, true),
            table(11, true, false),
            table(12, true, false),
            table(20, true, true),
        ];
        let links = [(10, 11), (10, 12), (1, 10), (1, 11), (1, 12), (20, 21), (2, 20)];
        let all = together(&tables, &links.map(|(a, b)| (Oid(a), Oid(b))));
        assert_eq!(oids(&all, 1), Some(vec![1, 10, 11, 12]));
        assert_eq!(oids(&all, 11), Some(vec![11]));
        assert_eq!((oids(&all, 10), oids(&all, 2)), (None, None));
        let washable = Washable { tables: all, sequences: [(30, (7, true))].into() };
        let wash = washable.wash(&[1, 11].into(), &[30].into()).unwrap();
        assert_eq!(wash.tables(), [1, 11, 12].into());
        let texts: Vec<String> = wash.statements().iter().map(|s| s.text().to_owned()).collect();
        assert_eq!(
            texts,
            [
                r#"TRUNCATE ONLY "s"."t1", "s"."t10", ONLY "s"."t11", ONLY "s"."t12""#,
                "SELECT setval('30'::oid::regclass, '7'::bigint, 'true'::boolean)",
                r#"ANALYZE "s"."t1", "s"."t11", "s"."t12""#,
            ]
        );
        assert_eq!(washable.wash(&[2].into(), &[].into()), None);
        assert_eq!(washable.wash(&[1].into(), &[31].into()), None);
    }

    #[test]
    fn many_tables_are_copied_again() {
        let tables: Vec<Table> = (1..=33).map(|oid| table(oid, true, false)).collect();
        let links: Vec<_> = (2..=33).map(|oid| (Oid(1), Oid(oid))).collect();
        assert_eq!(oids(&together(&tables, &links), 1), None);
        assert_eq!(oids(&together(&tables, &links[..31]), 1), Some((1..=32).collect()));
        let all = Washable { tables: together(&tables, &[]), sequences: BTreeMap::new() };
        assert_eq!(all.wash(&(1..=33).collect(), &[].into()), None);
        assert!(all.wash(&(1..=32).collect(), &[].into()).is_some());
    }
}
