//! What the server has counted of a database: the proof that nothing was written to it, or only rows of some tables.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use super::sql::{self, Statement};
use super::{Doing as _, Session};
use crate::error::Result;

/// Oids from here on are those of the user's objects.
pub(crate) const FIRST_OWN: u32 = 16384;
/// The catalog of relations.
const PG_CLASS: u32 = 1259;

/// Counters of one relation.
#[derive(Clone, Debug, FromRow)]
struct Row {
    oid: Oid,
    kind: String,
    writes: i64,
    upkeep: i64,
    owner: Option<Oid>,
}

/// Counters of a database, which no other session is in.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// Whether they can be a proof at all.
    trusted: bool,
    /// Rows that were written to all of its relations, also to those that are gone.
    writes: i64,
    rows: Vec<Row>,
}

/// Counters of a database when it was last known to equal its template. [`Default`]: it was a new copy then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// Rows that had been written to all relations.
    pub(crate) writes: i64,
    /// Of each relation the writes and the upkeep, unless both are 0.
    relations: BTreeMap<u32, (i64, i64)>,
}

/// What was written to a database since its baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Nothing.
    None,
    /// Rows of these tables at most, and positions of these sequences.
    Rows {
        /// Oids of tables.
        tables: BTreeSet<u32>,
        /// Oids of sequences.
        sequences: BTreeSet<u32>,
    },
    /// Something else, or the counters are no proof.
    Other,
}

const TRUSTED: &str = include_str!("queries/trusted.sql");
const COUNTED: &str = include_str!("queries/counted.sql");

impl Counts {
    /// Reads the counters of the session's database. From version 15 on.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn read(session: &mut Session) -> Result<Self> {
        let doing = || "read what was counted of a database".to_owned();
        let [total, rows] =
            session.send([sql::fill(TRUSTED, &[]), sql::fill(COUNTED, &[])]).await.doing(doing)?;
        let (writes, trusted) = total.one().doing(doing)?;
        Ok(Counts { trusted, writes, rows: rows.read().doing(doing)? })
    }

    /// Returns what was written since.
    pub(crate) fn since(&self, base: &Baseline) -> Changes {
        let (mut tables, mut sequences) = (BTreeSet::new(), BTreeSet::new());
        let mut of_tables = 0;
        let mut known = 0;
        for row in &self.rows {
            let before = base.relations.get(&row.oid.0);
            known += usize::from(before.is_some());
            let (writes, upkeep) = before.copied().unwrap_or_default();
            if row.upkeep != upkeep || row.writes < writes {
                return Changes::Other;
            }
            if row.writes == writes {
                continue;
            }
            let table = match (row.kind.as_str(), row.owner) {
                ("S", _) => {
                    sequences.insert(row.oid.0);
                    continue;
                }
                ("r", _) => row.oid,
                ("t", Some(owner)) => owner,
                _ => return Changes::Other,
            };
            if table.0 < FIRST_OWN {
                return Changes::Other;
            }
            tables.insert(table.0);
            of_tables += row.writes - writes;
        }
        // A relation that is gone has lost its counters, but the database keeps the sum.
        if !self.trusted || known < base.relations.len() || self.writes - base.writes != of_tables {
            return Changes::Other;
        }
        match tables.is_empty() && sequences.is_empty() {
            true => Changes::None,
            false => Changes::Rows { tables, sequences },
        }
    }

    /// Returns these counters as the new baseline, if nothing was done since `before` but to truncate and to analyze
    /// these tables once, and to set these sequences.
    pub(crate) fn after_washing(
        &self,
        before: &Counts,
        tables: &BTreeSet<u32>,
        sequences: &BTreeSet<u32>,
    ) -> Option<Baseline> {
        let earlier: BTreeMap<u32, &Row> = before.rows.iter().map(|row| (row.oid.0, row)).collect();
        let (mut of_catalog, mut analyzed, mut known) = (0, 0, 0);
        for row in &self.rows {
            let earlier = earlier.get(&row.oid.0);
            known += usize::from(earlier.is_some());
            let writes = row.writes - earlier.map_or(0, |row| row.writes);
            let upkeep = row.upkeep - earlier.map_or(0, |row| row.upkeep);
            let expected = match row.oid.0 {
                // The files of the tables and of their indexes are new.
                PG_CLASS => {
                    of_catalog = writes;
                    upkeep == 0
                }
                oid if tables.contains(&oid) => {
                    analyzed += 1;
                    (writes, upkeep) == (0, 1)
                }
                oid => (writes, upkeep) == (0, 0) || sequences.contains(&oid),
            };
            if !expected {
                return None;
            }
        }
        let all = self.trusted && known == before.rows.len() && analyzed == tables.len();
        (all && self.writes - before.writes == of_catalog).then(|| self.baseline())
    }

    /// Returns these counters as a baseline.
    fn baseline(&self) -> Baseline {
        let relations = self.rows.iter().map(|row| (row.oid.0, (row.writes, row.upkeep)));
        Baseline { writes: self.writes, relations: relations.collect() }
    }
}

/// Statement after which the session's own counters are up to date when the next message is answered.
pub(crate) fn flush() -> Statement {
    sql::text("SELECT pg_stat_force_next_flush()")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(oid: u32, kind: &str, writes: i64, upkeep: i64) -> Row {
        Row { oid: Oid(oid), kind: kind.into(), writes, upkeep, owner: None }
    }

    fn counts(writes: i64, rows: &[Row]) -> Counts {
        Counts { trusted: true, writes, rows: rows.to_vec() }
    }

    fn rows(tables: &[u32], sequences: &[u32]) -> Changes {
        Changes::Rows {
            tables: tables.iter().copied().collect(),
            sequences: sequences.iter().copied().collect(),
        }
    }

    #[test]
    fn only_rows_of_the_users_tables_can_be_washed() {
        let new = Baseline::default();
        let toast = Row { owner: Some(Oid(20000)), ..row(20001, "t", 2, 0) };
        let of = |writes, all: &[Row]| counts(writes, all).since(&new);
        assert_eq!(of(0, &[]), Changes::None);
        assert_eq!(
            of(5, &[row(20000, "r", 3, 0), toast.clone(), row(20009, "S", 7, 0)]),
            rows(&[20000], &[20009])
        );
        assert_eq!(of(2, &[toast]), rows(&[20000], &[]));
        assert_eq!(of(0, &[row(20009, "S", 7, 0)]), rows(&[], &[20009]));
        // A catalog, and its TOAST table; a materialized view; upkeep; a table that is gone.
        assert_eq!(of(1, &[row(1259, "r", 1, 0)]), Changes::Other);
        assert_eq!(of(1, &[Row { owner: Some(Oid(1255)), ..row(2836, "t", 1, 0) }]), Changes::Other);
        assert_eq!(of(1, &[row(20000, "m", 1, 0)]), Changes::Other);
        assert_eq!(of(0, &[row(20000, "r", 0, 1)]), Changes::Other);
        assert_eq!(of(4, &[row(20000, "r", 3, 0)]), Changes::Other);
        assert_eq!(Counts { trusted: false, ..counts(0, &[]) }.since(&new), Changes::Other);
    }

    #[test]
    fn counters_go_on_from_the_baseline() {
        let washed = counts(9, &[row(1259, "r", 4, 0), row(20000, "r", 5, 1), row(20009, "S", 7, 0)]);
        let base = washed.baseline();
        assert_eq!(washed.since(&base), Changes::None);
        let mut more = washed.clone();
        (more.writes, more.rows[1].writes) = (11, 7);
        assert_eq!(more.since(&base), rows(&[20000], &[]));
        more.rows[0].writes = 5;
        assert_eq!(more.since(&base), Changes::Other);
        // A counter that went back, and one that is gone.
        assert_eq!(counts(9, &[row(1259, "r", 3, 0), washed.rows[1].clone()]).since(&base), Changes::Other);
        assert_eq!(counts(9, &washed.rows[..2]).since(&base), Changes::Other);
    }

    #[test]
    fn after_washing_only_what_it_does_has_been_counted() {
        let before = counts(5, &[row(20000, "r", 5, 0), row(20009, "S", 7, 0)]);
        let (tables, sequences) = ([20000, 20100].into(), [20009].into());
        let catalog = row(1259, "r", 6, 0);
        let emptied = [row(20000, "r", 5, 1), row(20100, "r", 0, 1), row(20009, "S", 9, 0)];
        let after = |writes, more: &[Row]| counts(writes, &[&emptied[..], more].concat());
        let washed = after(11, std::slice::from_ref(&catalog));
        assert_eq!(washed.after_washing(&before, &tables, &sequences), Some(washed.baseline()));
        for (writes, more) in [
            (12, vec![catalog.clone()]),
            (12, vec![catalog.clone(), row(2619, "r", 1, 0)]),
            (11, vec![row(1259, "r", 6, 1)]),
            (11, vec![catalog.clone(), row(20200, "r", 0, 1)]),
            (11, vec![catalog.clone(), row(20010, "S", 1, 0)]),
        ] {
            assert_eq!(after(writes, &more).after_washing(&before, &tables, &sequences), None, "{more:?}");
        }
        // One of the tables was not analyzed, since the role may not.
        let left = counts(11, &[emptied[0].clone(), emptied[2].clone(), catalog]);
        assert_eq!(left.after_washing(&before, &tables, &sequences), None);
    }
}
