//! [`RowComparison`]: the differences between the rows of two databases, for tables whose digests differ.
//!
//! Equal tables are read once. In the others, columns that contain the time of the build are left out:
//! columns for times, and for numbers and texts that may contain times, in which one of the two databases has
//! a value from the time in which it was built. Rows that still differ are compared without their ids. This
//! separates rows that only have other numbers from rows with other contents. An id is a number or UUID of a
//! primary key, or one that a sequence, an identity or a function generates; for a foreign key to an id, the
//! row to which it refers is compared, up to [`DEPTH`] steps further. If ids have moved, the tables that
//! refer to them are compared, too: equal rows that refer to other rows differ.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Class;
use super::contents::{Column, Contents, Kind, ask};
use super::difference::{Change, ChangeKind, Edit, Side};
use crate::error::Result;
use crate::pg::Session;
use crate::pg::sql::{self, Cell, Digested, Reference, Time};

/// Maximum number of foreign keys in a row that are followed to find the row that an id means.
const DEPTH: usize = 2;

/// Maximum number of rows of a differing table that are compared one by one to count the differences.
const EACH: i64 = 500_000;

/// The period in which a database was built, by the server's clock, in a form that the server parses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub since: String,
    /// Its end.
    pub until: String,
}

/// Two databases whose tables have different digests.
#[derive(Debug)]
pub struct RowComparison<'a> {
    old: &'a Contents,
    new: &'a Contents,
    /// Headings of the tables that differ.
    suspects: Vec<&'a str>,
    /// Columns that contain the time of the build, by heading.
    times: BTreeMap<&'a str, BTreeSet<String>>,
}

/// The differences in rows.
#[derive(Clone, Debug, Default)]
pub struct RowDifference {
    /// Changes in contents and ids.
    pub changes: Vec<Change>,
    /// Columns that were left out since they contain the time of the build, as `schema.table.column`.
    pub left_out: Vec<String>,
}

/// Findings of [`RowComparison::look`] in one database, by heading.
pub type Look = BTreeMap<String, Sight>;

/// The findings in one table.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Digests of each row: with ids, without ids; `None` if the table is too large for that.
    each: Option<Vec<(i64, i64)>>,
    /// Digests of all rows together: with ids, without ids.
    sums: Option<(String, String)>,
    /// A digest for each of [`Plan::columns`].
    columns: Vec<Option<String>>,
}

/// The comparison of one table.
struct Plan {
    full: Digested,
    idless: Vec<Cell>,
    /// The columns, and whether they are ids.
    columns: Vec<(String, bool)>,
}

impl<'a> RowComparison<'a> {
    /// Starts a comparison; `None` if the tables that both have are equal.
    pub fn new(old: &'a Contents, new: &'a Contents) -> Option<Self> {
        let suspects: Vec<&str> = old
            .iter()
            .filter(|(heading, was)| {
                new.get(*heading)
                    .is_some_and(|is| was.rows.is_some() && is.rows.is_some() && was.digest != is.digest)
            })
            .map(|(heading, _)| heading.as_str())
            .collect();
        (!suspects.is_empty()).then(|| RowComparison { old, new, suspects, times: BTreeMap::new() })
    }

    /// Finds the columns that contain the time in which the session's database was built. Call it for both
    /// databases before [`RowComparison::look`].
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn find_times(&mut self, session: &mut Session, window: &Window) -> Result<()> {
        for heading in self.suspects.clone() {
            let columns: Vec<(&str, Time)> =
                self.columns(heading).filter_map(|c| Some((c.name.as_str(), c.time()?))).collect();
            if columns.is_empty() {
                continue;
            }
            let held = &self.new[heading];
            let window = (window.since.as_str(), window.until.as_str());
            let statement = sql::holds_time(&held.schema, &held.name, &columns, window);
            if let Ok(found) = ask::<(Vec<bool>,)>(session, statement).await?
                && let Some((found,)) = found.first()
            {
                let names = columns.iter().zip(found).filter(|(_, found)| **found);
                let names: Vec<String> = names.map(|((name, _), _)| (*name).to_owned()).collect();
                self.times.entry(heading).or_default().extend(names);
            }
        }
        Ok(())
    }

    /// Adds tables that refer to rows whose ids have moved: their own rows may be equal and still refer to
    /// other rows. Returns whether there are any.
    pub fn follow(&mut self, found: &RowDifference) -> bool {
        let changes = found.changes.iter().filter(|change| change.class == Class::Ids);
        let moved: BTreeSet<&str> = changes.map(|change| change.heading.as_str()).collect();
        let before = self.suspects.len();
        for (heading, held) in self.new {
            let known = self.suspects.iter().any(|suspect| suspect == heading);
            let read = held.rows.is_some() && self.old.get(heading).is_some_and(|old| old.rows.is_some());
            if read && !known && held.refers.iter().any(|r| moved.contains(r.table.as_str())) {
                self.suspects.push(heading);
            }
        }
        self.suspects.len() > before
    }

    /// Reads the differing tables of one of the two databases, unless that was done before.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn look(&self, session: &mut Session, look: &mut Look) -> Result<()> {
        let seen = |heading: &&&str| !look.contains_key(**heading);
        for heading in self.suspects.iter().filter(seen).copied().collect::<Vec<_>>() {
            let plan = self.plan(heading);
            let mut sight = Sight::default();
            let columns: Vec<Vec<Cell>> = plan
                .columns
                .iter()
                .map(|(name, id)| {
                    let mut cells = if *id { plan.idless.clone() } else { Vec::new() };
                    cells.push(self.cell(heading, name));
                    cells
                })
                .collect();
            let statement = sql::digest_columns(&plan.full, &plan.idless, &columns);
            type Sums = (String, String, Vec<Option<String>>);
            if let Ok(found) = ask::<Sums>(session, statement).await?
                && let Some((full, idless, columns)) = found.into_iter().next()
            {
                sight.sums = Some((full, idless));
                sight.columns = columns;
            }
            let rows = [self.old, self.new].map(|c| c[heading].rows.unwrap_or(i64::MAX));
            if rows.into_iter().all(|rows| rows <= EACH) {
                let statement = sql::digest_each(&plan.full, &plan.idless);
                sight.each = ask(session, statement).await?.ok();
            }
            look.insert(heading.to_owned(), sight);
        }
        Ok(())
    }

    /// Returns the differences between the findings in both databases.
    pub fn judge(&self, old: &Look, new: &Look) -> RowDifference {
        let mut difference = RowDifference::default();
        for heading in &self.suspects {
            let held = &self.new[*heading];
            let times = self.times.get(heading).into_iter().flatten();
            let path = |name: &String| format!("{}.{}.{name}", held.schema, held.name);
            difference.left_out.extend(times.map(path));
            if let (Some(old), Some(new)) = (old.get(*heading), new.get(*heading)) {
                difference.changes.extend(self.judge_table(heading, old, new));
            }
        }
        difference
    }

    fn judge_table(&self, heading: &'a str, old: &Sight, new: &Sight) -> Vec<Change> {
        let plan = self.plan(heading);
        let totals = [self.old, self.new].map(|c| c[heading].rows.unwrap_or_default());
        let differing = |ids: bool| -> String {
            let pairs = old.columns.iter().zip(&new.columns);
            let names: Vec<&str> = plan
                .columns
                .iter()
                .zip(pairs)
                .filter(|((_, id), (old, new))| *id == ids && old != new)
                .map(|((name, _), _)| name.as_str())
                .collect();
            match names.is_empty() || totals[0] != totals[1] {
                true => String::new(),
                false => format!(" in {}", names.join(", ")),
            }
        };
        let change = |class: Class, counts: [Option<i64>; 2]| {
            let columns = differing(class == Class::Ids);
            let words = match class {
                Class::Ids => "have other ids",
                _ => "differ",
            };
            let sides = [Side::Old, Side::New].into_iter().zip(counts).zip(totals);
            let edits = sides
                .filter(|((_, count), _)| *count != Some(0))
                .map(|((side, count), total)| Edit {
                    side,
                    line: match count {
                        Some(count) => format!("{count} of {total} rows {words}{columns}"),
                        None => format!("some of {total} rows {words}{columns}"),
                    },
                })
                .collect();
            Change { class, heading: heading.to_owned(), kind: ChangeKind::Changed, edits }
        };
        let [full, idless] = match (&old.each, &new.each) {
            (Some(old), Some(new)) => {
                let full = only_in(old.iter().map(|d| d.0), new.iter().map(|d| d.0));
                let idless = only_in(old.iter().map(|d| d.1), new.iter().map(|d| d.1));
                [full, idless].map(|counts| counts.map(Some))
            }
            _ => {
                let unknown = |equal: bool| if equal { [Some(0); 2] } else { [None; 2] };
                match (&old.sums, &new.sums) {
                    (Some(old), Some(new)) => [unknown(old.0 == new.0), unknown(old.1 == new.1)],
                    _ => [unknown(false); 2],
                }
            }
        };
        let mut changes = Vec::new();
        // If one table only has more rows, the row count shows it.
        let more = totals[0] != totals[1] && idless.contains(&Some(0));
        if idless != [Some(0); 2] && !more {
            changes.push(change(Class::RowContents, idless));
        }
        // Rows that differ only in their ids: those that are equal without them.
        let ids = [0, 1].map(|i| match (full[i], idless[i]) {
            (Some(full), Some(idless)) => Some((full - idless).max(0)),
            (None, Some(0)) => None,
            _ => Some(0),
        });
        if ids != [Some(0); 2] {
            changes.push(change(Class::Ids, ids));
        }
        changes
    }

    /// Returns the columns that count in both databases.
    fn columns(&self, heading: &str) -> impl Iterator<Item = &'a Column> + use<'a> {
        let old = self.old.get(heading);
        let new = self.new.get(heading).into_iter().flat_map(|held| &held.columns);
        new.filter(move |c| c.counts() && old.is_some_and(|old| old.columns.iter().any(|o| o.name == c.name)))
    }

    fn has_time(&self, heading: &str, column: &str) -> bool {
        self.times.get(heading).is_some_and(|times| times.contains(column))
    }

    fn cell(&self, heading: &str, name: &str) -> Cell {
        match self.has_time(heading, name) {
            true => Cell::Timeless(name.to_owned()),
            false => Cell::Plain(name.to_owned()),
        }
    }

    /// Returns the columns that are compared: all but those that contain the time of the build, and all
    /// texts.
    fn compared(&self, heading: &'a str) -> Vec<&'a Column> {
        let timeless = |c: &&Column| !self.has_time(heading, &c.name) || c.kind == Kind::Text;
        self.columns(heading).filter(timeless).collect()
    }

    fn plan(&self, heading: &'a str) -> Plan {
        let columns = self.compared(heading);
        let (idless, ids) = self.idless(heading, DEPTH);
        let plain = columns.iter().map(|c| self.cell(heading, &c.name));
        // Equal rows differ if they refer to other rows.
        let referred = idless.iter().filter(|c| matches!(c, Cell::Referred(_)));
        Plan {
            full: self.new[heading].digested(plain.chain(referred.cloned()).collect()),
            idless,
            columns: columns.iter().map(|c| (c.name.clone(), ids.contains(c.name.as_str()))).collect(),
        }
    }

    /// Returns the parts of a row that count without its ids, and the columns that are ids. Follows foreign
    /// keys `depth` times.
    fn idless(&self, heading: &'a str, depth: usize) -> (Vec<Cell>, BTreeSet<&'a str>) {
        let columns = self.compared(heading);
        let has = |name: &String| columns.iter().any(|c| c.name == *name);
        let mut ids: BTreeSet<&str> = columns.iter().filter(|c| c.id).map(|c| c.name.as_str()).collect();
        let mut cells = Vec::new();
        for refers in self.new.get(heading).into_iter().flat_map(|held| &held.refers) {
            let Some((target, held)) = self.new.get_key_value(&refers.table) else {
                continue;
            };
            let mut referred = held.columns.iter().filter(|c| refers.referred.contains(&c.name));
            if !refers.columns.iter().all(has) || !referred.any(|c| c.id) {
                continue;
            }
            ids.extend(refers.columns.iter().map(String::as_str));
            if depth > 0 && held.refusal.is_none() && self.old.contains_key(target) {
                let on = refers.columns.iter().cloned().zip(refers.referred.iter().cloned());
                cells.push(Cell::Referred(Reference {
                    schema: held.schema.clone(),
                    table: held.name.clone(),
                    on: on.collect(),
                    cells: self.idless(target, depth - 1).0,
                }));
            }
        }
        let plain = columns.iter().filter(|c| !ids.contains(c.name.as_str()));
        cells.extend(plain.map(|c| self.cell(heading, &c.name)));
        (cells, ids)
    }
}

/// Counts the elements of the first that are not in the second, and the reverse; equal elements count as
/// often as they occur.
fn only_in(old: impl Iterator<Item = i64>, new: impl Iterator<Item = i64>) -> [i64; 2] {
    let mut balance: HashMap<i64, i64> = HashMap::new();
    for digest in old {
        *balance.entry(digest).or_default() += 1;
    }
    for digest in new {
        *balance.entry(digest).or_default() -= 1;
    }
    let sum = |sign: i64| balance.values().map(|n| (n * sign).max(0)).sum();
    [sum(1), sum(-1)]
}
