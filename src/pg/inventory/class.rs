//! [`Class`]: the kinds of difference.

use std::fmt;

use serde::Serialize;

/// What a line of an inventory is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Objects and their definitions, with comments and security labels.
    Schema,
    /// Owners, grants, default privileges.
    Grants,
    /// Settings of the database and of roles in it, and its connection limit.
    Settings,
    /// How many rows each table has, and how many large objects there are.
    RowCounts,
    /// What rows and large objects say.
    RowContents,
    /// Numbers and UUIDs that stand for a row: rows that are equal but for these.
    Ids,
    /// How far sequences have counted.
    Sequences,
}

impl Class {
    /// All of them, in the order in which they are printed.
    pub const ALL: [Class; 7] = [
        Class::Schema,
        Class::Grants,
        Class::Settings,
        Class::RowCounts,
        Class::RowContents,
        Class::Ids,
        Class::Sequences,
    ];

    /// What a line of this rank is about: the `.sql` files beside this one give each line a rank.
    pub(super) fn of_rank(rank: i32) -> Self {
        match rank {
            7 | 8 => Class::Grants,
            10 => Class::RowCounts,
            11 => Class::Sequences,
            12 => Class::Settings,
            13 => Class::RowContents,
            _ => Class::Schema,
        }
    }

    /// Whether a difference of this class says that a template was not built as it should be. The others are
    /// what an upgraded installation has, too: rows in another order get other numbers.
    pub fn decides(self) -> bool {
        match self {
            Class::Schema | Class::Grants | Class::Settings | Class::RowCounts => true,
            Class::RowContents | Class::Ids | Class::Sequences => false,
        }
    }

    /// Some of them in words: `schema, grants and ids`.
    pub fn list(classes: &[Class]) -> String {
        let words: Vec<String> = classes.iter().map(Class::to_string).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            Some((last, _)) => last.clone(),
            None => String::new(),
        }
    }

    /// Whether it is compared only where the rows are read.
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
