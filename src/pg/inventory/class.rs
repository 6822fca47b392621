//! [`Class`]: the kinds of difference.

use std::fmt;

use serde::Serialize;

/// The class of a line of an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Objects and their definitions, with comments and security labels.
    Schema,
    /// Owners, grants, default privileges.
    Grants,
    /// Settings of the database and of roles in it, and its connection limit.
    Settings,
    /// The number of rows of each table, and the number of large objects.
    RowCounts,
    /// The contents of rows and large objects.
    RowContents,
    /// Numbers and UUIDs that identify a row; the rows are otherwise equal.
    Ids,
    /// The positions of sequences.
    Sequences,
}

impl Class {
    /// All classes, in the order in which they are printed.
    pub const ALL: [Class; 7] = [
        Class::Schema,
        Class::Grants,
        Class::Settings,
        Class::RowCounts,
        Class::RowContents,
        Class::Ids,
        Class::Sequences,
    ];

    /// Returns the class of lines with this rank: the `.sql` files in this directory give each line a rank.
    pub(super) fn of_rank(rank: i32) -> Self {
        match rank {
            6..=8 => Class::Grants,
            10 | 14 => Class::RowCounts,
            11 | 15 => Class::Sequences,
            12 => Class::Settings,
            13 | 16 => Class::RowContents,
            _ => Class::Schema,
        }
    }

    /// Returns whether a difference of this class shows that a template was not built as it should be.
    /// Differences of the other classes also occur in an upgraded installation: rows in another order get
    /// other numbers.
    pub fn decides(self) -> bool {
        match self {
            Class::Schema | Class::Grants | Class::Settings | Class::RowCounts => true,
            Class::RowContents | Class::Ids | Class::Sequences => false,
        }
    }

    /// Lists classes as text: `schema, grants and ids`.
    pub fn list(classes: &[Class]) -> String {
        let words: Vec<String> = classes.iter().map(Class::to_string).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            Some((last, _)) => last.clone(),
            None => String::new(),
        }
    }

    /// Returns whether the class is compared only if the rows are read.
    pub fn needs_rows(self) -> bool {
        matches!(self, Class::RowContents | Class::Ids)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Schema => "schema",
            Class::Grants => "grants",
            Class::Settings => "settings",
            Class::RowCounts => "row counts",
            Class::RowContents => "row contents",
            Class::Ids => "ids",
            Class::Sequences => "sequences",
        })
    }
}
