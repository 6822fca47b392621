//! [`Difference`]: the differences between two inventories, for people and for JSON.

use std::fmt;

use serde::Serialize;
use similar::{Algorithm, DiffOp};

use super::{Class, Inventory, Line, LineKind};

/// All differences between two databases. `Display` prints a unified diff by class and heading; serialised it
/// is a list of changes.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Label of the first database.
    pub old: String,
    /// Label of the second database.
    pub new: String,
    /// Sorted by class and heading; empty if the two are equal.
    pub changes: Vec<Change>,
}

/// One object that differs, in lines of one class. An object that only one of the two has is one change, with
/// all of its lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "Flat")]
pub struct Change {
    /// Class of its lines.
    pub class: Class,
    /// Name of the object for display: `table public.users`.
    pub heading: String,
    /// Which of the two have the object.
    pub kind: ChangeKind,
    /// The lines that differ, in order.
    pub edits: Vec<Edit>,
}

/// Which of the two have the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Only the second.
    Added,
    /// Only the first.
    Removed,
    /// Both, with differences.
    Changed,
}

/// A line that only one of the two has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The inventory that has it.
    pub side: Side,
    /// The line.
    pub line: String,
}

/// One of two inventories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Old,
    /// The second.
    New,
}

/// The JSON shape.
#[derive(Serialize)]
struct Flat {
    class: Class,
    heading: String,
    kind: ChangeKind,
    removed: Vec<String>,
    added: Vec<String>,
}

impl From<Change> for Flat {
    fn from(change: Change) -> Self {
        let (old, new): (Vec<_>, Vec<_>) = change.edits.into_iter().partition(|e| e.side == Side::Old);
        let lines = |edits: Vec<Edit>| edits.into_iter().map(|e| e.line).collect();
        Flat {
            class: change.class,
            heading: change.heading,
            kind: change.kind,
            removed: lines(old),
            added: lines(new),
        }
    }
}

/// Compares two inventories of the same server version. [`super::RowComparison`] compares the digests of
/// rows.
pub fn diff(old: &Inventory, new: &Inventory, old_name: &str, new_name: &str) -> Difference {
    let mut changes = Vec::new();
    let nothing = Vec::new();
    let headings = old.entries.keys().chain(new.entries.keys());
    for heading in headings.collect::<std::collections::BTreeSet<_>>() {
        let (was, is) = (old.entries.get(heading), new.entries.get(heading));
        let (kind, lines) = match (was, is) {
            (Some(_), Some(_)) => (ChangeKind::Changed, &nothing),
            (Some(lines), None) => (ChangeKind::Removed, lines),
            (None, lines) => (ChangeKind::Added, lines.unwrap_or(&nothing)),
        };
        let one_sided = |class| Change {
            class,
            heading: heading.clone(),
            kind,
            edits: all(lines, if kind == ChangeKind::Removed { Side::Old } else { Side::New }),
        };
        match (was, is) {
            (Some(was), Some(is)) => changes.extend(Class::ALL.into_iter().filter_map(|class| {
                let [was, is] = [was, is].map(|lines| of_class(lines, class));
                let edits = edits(&was, &is);
                (!edits.is_empty()).then(|| Change { class, heading: heading.clone(), kind, edits })
            })),
            // The heading alone is a difference.
            _ => changes.push(one_sided(main_class(lines))),
        }
    }
    let mut difference = Difference { old: old_name.to_owned(), new: new_name.to_owned(), changes };
    difference.sort();
    difference
}

/// Returns the class of an object that only one of the two has.
fn main_class(lines: &[Line]) -> Class {
    // Everything with an owner is an object, which may have no other lines. Everything else has only lines
    // about its privileges and its rows.
    if lines.is_empty() || lines.iter().any(|line| line.kind == LineKind::Owner) {
        return Class::Schema;
    }
    let has = |class: &Class| lines.iter().any(|line| line.class == *class);
    let first = [Class::Schema, Class::RowCounts];
    let class = first.into_iter().chain(Class::ALL).find(has);
    class.unwrap_or(Class::Schema)
}

fn of_class(lines: &[Line], class: Class) -> Vec<String> {
    let lines = lines.iter().filter(|line| line.class == class);
    lines.map(|line| line.text.clone()).collect()
}

fn all(lines: &[Line], side: Side) -> Vec<Edit> {
    let edit = |line: &Line| Edit { side, line: line.text.clone() };
    lines.iter().map(edit).collect()
}

/// Returns a minimal list of removals and additions that turns one into the other: function bodies and column
/// orders are sequences with repeats, which a comparison of sets would take for equal.
fn edits(old: &[String], new: &[String]) -> Vec<Edit> {
    if old == new {
        return Vec::new();
    }
    let keys = |lines: &[String]| -> Vec<String> { lines.iter().map(|l| key(l)).collect() };
    let steps = similar::capture_diff_slices(Algorithm::Myers, &keys(old), &keys(new));
    let mut edits = Vec::new();
    for step in steps {
        if !matches!(step, DiffOp::Equal { .. }) {
            let edit = |side| move |line: &String| Edit { side, line: line.clone() };
            edits.extend(old[step.old_range()].iter().map(edit(Side::Old)));
            edits.extend(new[step.new_range()].iter().map(edit(Side::New)));
        }
    }
    edits
}

/// Returns a line without its position: a column that is added in front moves all following columns, which is
/// no difference in itself. Equal keys in equal order have equal positions, as these count from 1.
fn key(line: &str) -> String {
    for word in ["column ", "label "] {
        if let Some(rest) = line.strip_prefix(word) {
            return format!("{word}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
    }
    line.to_owned()
}

impl Difference {
    /// Returns whether the two are equal.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Returns the classes in which the two differ, without repeats, in the order of [`Class::ALL`].
    pub fn classes(&self) -> Vec<Class> {
        let differs = |class: &Class| self.changes.iter().any(|change| change.class == *class);
        Class::ALL.into_iter().filter(differs).collect()
    }

    /// Returns only the changes of some classes.
    pub fn only(&self, wanted: impl Fn(Class) -> bool) -> Self {
        let changes = self.changes.iter().filter(|change| wanted(change.class));
        Difference { old: self.old.clone(), new: self.new.clone(), changes: changes.cloned().collect() }
    }

    /// Adds changes.
    pub fn extend(&mut self, changes: Vec<Change>) {
        self.changes.extend(changes);
        self.sort();
    }

    fn sort(&mut self) {
        let by = |change: &Change| (change.class, change.heading.clone());
        self.changes.sort_by_cached_key(by);
    }
}

impl fmt::Display for Difference {
    /// Prints nothing if the two are equal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        writeln!(f, "--- {}", self.old)?;
        writeln!(f, "+++ {}", self.new)?;
        let mut class = None;
        for change in &self.changes {
            if class != Some(change.class) {
                class = Some(change.class);
                writeln!(f, "@@ {} @@", change.class)?;
            }
            let mark = match change.kind {
                ChangeKind::Added => '+',
                ChangeKind::Removed => '-',
                ChangeKind::Changed => ' ',
            };
            writeln!(f, "{mark}{}", change.heading)?;
            for edit in &change.edits {
                let mark = match edit.side {
                    Side::Old => '-',
                    Side::New => '+',
                };
                writeln!(f, "{mark}  {}", edit.line)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(entries: &[(&str, &[&str])]) -> Inventory {
        let line = |text: &&str| Line {
            class: match text.split(' ').next() {
                Some("owner" | "grant") => Class::Grants,
                Some("rows") => Class::RowCounts,
                _ => Class::Schema,
            },
            kind: match text.starts_with("owner ") {
                true => LineKind::Owner,
                false => LineKind::Plain,
            },
            text: (*text).to_owned(),
        };
        let lines = |lines: &[&str]| lines.iter().map(line).collect();
        Inventory {
            entries: entries.iter().map(|(heading, l)| ((*heading).to_owned(), lines(l))).collect(),
            ..Inventory::default()
        }
    }

    #[test]
    fn people_get_a_diff_and_programs_a_list() {
        let old = inventory(&[
            ("table a", &["column 1 id integer", "column 2 email text", "rows 3"]),
            ("table b", &["column 1 id integer"]),
            ("view c", &["definition", "  SELECT 1;"]),
        ]);
        let new = inventory(&[
            ("table a", &["column 1 id integer", "column 2 email citext", "rows 4"]),
            ("table aa", &["column 1 id integer"]),
            ("view c", &["definition", "  SELECT 1;", "grant SELECT to PUBLIC"]),
        ]);
        let difference = diff(&old, &new, "template 3f2a", "full build");
        assert_eq!(
            difference.to_string(),
            "--- template 3f2a\n\
             +++ full build\n\
             @@ schema @@\n \
             table a\n\
             -  column 2 email text\n\
             +  column 2 email citext\n\
             +table aa\n\
             +  column 1 id integer\n\
             -table b\n\
             -  column 1 id integer\n\
             @@ grants @@\n \
             view c\n\
             +  grant SELECT to PUBLIC\n\
             @@ row counts @@\n \
             table a\n\
             -  rows 3\n\
             +  rows 4\n"
        );
        assert_eq!(
            serde_json::to_value(&difference).unwrap(),
            serde_json::json!({
                "old": "template 3f2a",
                "new": "full build",
                "changes": [
                    {"class": "schema", "heading": "table a", "kind": "changed",
                     "removed": ["column 2 email text"], "added": ["column 2 email citext"]},
                    {"class": "schema", "heading": "table aa", "kind": "added",
                     "removed": [], "added": ["column 1 id integer"]},
                    {"class": "schema", "heading": "table b", "kind": "removed",
                     "removed": ["column 1 id integer"], "added": []},
                    {"class": "grants", "heading": "view c", "kind": "changed",
                     "removed": [], "added": ["grant SELECT to PUBLIC"]},
                    {"class": "row_counts", "heading": "table a", "kind": "changed",
                     "removed": ["rows 3"], "added": ["rows 4"]},
                ]
            })
        );
        let same = diff(&old, &old, "a", "b");
        assert!(same.is_empty());
        assert_eq!(same.to_string(), "");
    }

    #[test]
    fn order_and_repeats_count() {
        let body = |lines: &[&str]| inventory(&[("function f()", lines)]);
        let old = body(&["definition", "  a", "  b", "  a"]);
        for new in [
            body(&["definition", "  a", "  a", "  b"]),
            body(&["definition", "  a", "  b"]),
            body(&["definition", "  b", "  a", "  a"]),
        ] {
            assert_eq!(diff(&old, &new, "", "").changes.len(), 1);
        }
    }

    #[test]
    fn a_column_more_in_front_is_one_line() {
        let old = inventory(&[("t", &["column 1 a int", "column 2 b int", "column 3 c int"])]);
        let new =
            inventory(&[("t", &["column 1 x int", "column 2 a int", "column 3 b int", "column 4 c int"])]);
        let text = diff(&old, &new, "o", "n").to_string();
        assert_eq!(text, "--- o\n+++ n\n@@ schema @@\n t\n+  column 1 x int\n");
        // Within a definition such words are ordinary text.
        let old = inventory(&[("f", &["definition", "  column 1 x"])]);
        let new = inventory(&[("f", &["definition", "  column 2 x"])]);
        assert_eq!(diff(&old, &new, "", "").changes.len(), 1);
    }

    #[test]
    fn an_object_without_lines_is_a_difference() {
        let with = inventory(&[("schema s", &[])]);
        let text = diff(&Inventory::default(), &with, "o", "n").to_string();
        assert_eq!(text, "--- o\n+++ n\n@@ schema @@\n+schema s\n");
    }
}
