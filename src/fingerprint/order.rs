//! Which of two migration files comes first: whether a set of migrations only appends to another.
//!
//! Migration tools run files in the order of their names, each in its own words. One rule serves
//! them all, as long as it never takes for an append what the tool would run earlier.
//!
//! **Group.** Only files of one group are compared. The group of a file is its directory. Where each
//! migration has a directory of its own, as in Diesel (`migrations/2024-01-02-000000_x/up.sql`) and
//! Prisma (`migrations/20240102000000_x/migration.sql`), the name of that directory is what is
//! compared, and the directory above is the group. Such a directory is known by this: the file's own name
//! has no order (see below), and the directory's name begins with a digit, perhaps after one letter
//! (`m20240102_x`, `v2`) or the word `version`. `2fa/admin.sql` and `v2/a.sql`
//! are read so too. Where that is a mistake it costs a full build at times and lets nothing pass
//! that the plain rule would stop: a file that is added to a directory of the base is refused by both,
//! and one in a new directory is only here asked to sort after something. Directories are not compared in
//! any other way: with `v1/002.sql` added beside `v2/001.sql` each directory counts on its own.
//!
//! Tools that run the files of several directories in one order (Flyway with several locations, TypeORM, plug-ins
//! that bring migrations) want `order = "name"`: then all files are one group, and the names are compared that
//! would be compared within a directory.
//!
//! **Order.** Names compare byte by byte, but a run of ASCII digits compares as one number of any
//! length: `008_x` is before `0011_x`. The first number of a name is its version, and dotted numbers
//! are a list: `1.2_x`, `1.2.1_x`, `1.10_x`; zeros at the end of the list count for nothing. A name
//! that begins as Flyway's do (`V` or `U`, a digit, and `__` somewhere) compares without that
//! letter, and there a single `_` between digits is a dot: `V1_1__x` is 1.1. A time as Diesel writes
//! it, `2024-01-02-000000`, is the number 20240102000000, as it is to Diesel, whose older versions
//! wrote it so.
//!
//! **The rest** only decides between names that are the same so far: first what follows the first
//! dot behind the version (`x.down.sql`, `x.up.sql`), then the bytes of the path, which brings in
//! zeros in front of numbers and the letters of Flyway. Files that differ in nothing else belong to
//! one migration, so an added one does not append to the other.
//!
//! **No order** has a name without a digit, its extension aside: `__init__.py`, `mod.rs`,
//! `migration_lock.toml`, `README.md`. Nor has what Flyway calls repeatable (`R__x.sql`) or baseline
//! (`B1__x.sql`): neither has a place among the versions.
//!
//! Tools that compare names as text (knex, Prisma, Diesel) agree with this where their numbers have
//! one width, as those that they write themselves have. For a tool that keeps its order in the files
//! (Alembic) names say nothing, and this rule is not for it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use super::recipe::{FileInput, RelPath};
use crate::config::Order;

#[cfg(test)]
mod tests;

/// The place of a migration file among the others of its group.
///
/// The order sorts by group, then files without an order, then the others as the module says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderKey {
    group: RelPath,
    /// `None` has no order.
    place: Option<Place>,
    /// Breaks the last ties.
    path: RelPath,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The name in an encoding whose bytes sort as the names do.
    name: Vec<u8>,
    extension: Vec<u8>,
}

impl OrderKey {
    /// Reads the place of a file off its path.
    pub fn new(path: &RelPath, order: Order) -> Self {
        let (group, name) = split(path.as_bytes(), order);
        OrderKey {
            group: RelPath::new(Path::new(OsStr::from_bytes(group))),
            place: place(name),
            path: path.clone(),
        }
    }

    /// The directory whose files this one is compared with; empty for the root, and for all files by
    /// [`Order::Name`].
    pub fn group(&self) -> &RelPath {
        &self.group
    }

    /// The file.
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Whether the file has an order at all.
    pub fn is_ordered(&self) -> bool {
        self.place.is_some()
    }

    /// Whether both files belong to one migration: they have an order, and only extension, zeros
    /// in front of numbers, file in the migration's directory or Flyway's letter tell them apart.
    pub fn same_migration(&self, other: &OrderKey) -> bool {
        self.group == other.group
            && match (&self.place, &other.place) {
                (Some(a), Some(b)) => a.name == b.name,
                _ => false,
            }
    }
}

/// Those of `files` that begin a migration which `old` has no file of, in their order. Files that have no order,
/// such as `__init__.py`, are no migrations, and neither is a further file of one that is there, such as
/// `x.down.sql`.
pub fn new_migrations(old: &[RelPath], files: &[RelPath], order: Order) -> Vec<RelPath> {
    let of = |path: &RelPath| {
        let OrderKey { group, place, .. } = OrderKey::new(path, order);
        place.map(|place| (group, place.name))
    };
    let old: HashSet<_> = old.iter().filter_map(of).collect();
    let mut new: Vec<OrderKey> = files
        .iter()
        .filter(|path| of(path).is_some_and(|migration| !old.contains(&migration)))
        .map(|path| OrderKey::new(path, order))
        .collect();
    new.sort();
    new.into_iter().map(|key| key.path).collect()
}

/// The group that [`OrderKey::new`] gives to a path, at less cost.
pub(super) fn group(path: &RelPath, order: Order) -> &[u8] {
    split(path.as_bytes(), order).0
}

/// Migrations that are compared with each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The directory; empty for the root, and for all files by [`Order::Name`].
    pub directory: RelPath,
    /// The files that have an order, in that order.
    pub ordered: Vec<RelPath>,
    /// The others, sorted by path.
    pub unordered: Vec<RelPath>,
}

/// The groups of some migrations, sorted by directory.
pub fn groups(files: &[FileInput], order: Order) -> Vec<Group> {
    let mut keys: Vec<OrderKey> = files.iter().map(|file| OrderKey::new(&file.path, order)).collect();
    keys.sort();
    let mut groups: Vec<Group> = Vec::new();
    for key in keys {
        if groups.last().is_none_or(|last| last.directory != key.group) {
            groups.push(Group { directory: key.group.clone(), ordered: Vec::new(), unordered: Vec::new() });
        }
        if let Some(last) = groups.last_mut() {
            match key.is_ordered() {
                true => last.ordered.push(key.path),
                false => last.unordered.push(key.path),
            }
        }
    }
    groups
}

/// The group of a path, and the name below it that is compared.
fn split(path: &[u8], order: Order) -> (&[u8], &[u8]) {
    let (folder, name) = parent(path);
    let (above, folder_name) = parent(folder);
    let (group, name) = if Version::find(name).is_none() && is_migration(folder_name) {
        (above, folder_name)
    } else {
        (folder, name)
    };
    match order {
        Order::Directory => (group, name),
        Order::Name => (&[], name),
    }
}

fn parent(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Whether a directory of this name holds a single migration.
fn is_migration(folder: &[u8]) -> bool {
    let letters = folder.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let (word, rest) = folder.split_at(letters);
    rest.first().is_some_and(u8::is_ascii_digit) && (letters <= 1 || word.eq_ignore_ascii_case(b"version"))
}

/// Where the version of a name starts, or `None` for a name without order.
struct Version {
    start: usize,
    /// Whether the name is one of Flyway's, so that what is before `start` does not count.
    flyway: bool,
}

impl Version {
    fn find(name: &[u8]) -> Option<Self> {
        // The dot of `.formatter.exs` begins no extension.
        let dots = name.iter().take_while(|&&b| b == b'.').count();
        let stops = |&b: &u8| b.is_ascii_digit() || b == b'.';
        let start = dots + name[dots..].iter().position(stops)?;
        if name[start] == b'.' || name.starts_with(b"R__") {
            return None;
        }
        let underscores = || name.windows(2).any(|pair| pair == b"__");
        match &name[..start] {
            b"V" | b"U" => Some(Version { start, flyway: underscores() }),
            b"B" if underscores() => None,
            _ => Some(Version { start, flyway: false }),
        }
    }
}

fn place(name: &[u8]) -> Option<Place> {
    let Version { start, flyway } = Version::find(name)?;
    let prefix = if flyway { &[] } else { &name[..start] };
    let mut parts = Vec::new();
    let mut at = start;
    loop {
        let digits = match dashed_time(&name[at..]) {
            Some(time) if parts.is_empty() => {
                at += DASHED_TIME.len();
                time
            }
            _ => {
                let digits = leading_digits(&name[at..]);
                at += digits.len();
                digits.to_vec()
            }
        };
        parts.push(without_zeros(&digits).to_vec());
        match name[at..] {
            [b'.', next, ..] if next.is_ascii_digit() => at += 1,
            [b'_', next, ..] if flyway && next.is_ascii_digit() => at += 1,
            _ => break,
        }
    }
    while parts.len() > 1 && parts.last().is_some_and(|part| part.is_empty()) {
        parts.pop();
    }
    let rest = &name[at..];
    let dot = rest.iter().position(|&b| b == b'.').unwrap_or(rest.len());
    let (mut rest, extension) = rest.split_at(dot);

    let mut key = prefix.to_vec();
    key.push(NUMBER);
    for part in parts {
        key.push(1);
        push_number(&mut key, &part);
    }
    // A list is before its continuations.
    key.push(0);
    while let Some((&byte, after)) = rest.split_first() {
        if byte.is_ascii_digit() {
            let digits = leading_digits(rest);
            key.push(NUMBER);
            push_number(&mut key, without_zeros(digits));
            rest = &rest[digits.len()..];
        } else {
            key.push(byte);
            rest = after;
        }
    }
    Some(Place { name: key, extension: extension.to_vec() })
}

/// Stands in the encoding where a number begins. Other digits of the name are only in numbers, so
/// against the bytes that it can meet this sorts as any digit does.
const NUMBER: u8 = b'0';

/// A longer number is larger, once the zeros in front are gone.
fn push_number(key: &mut Vec<u8>, digits: &[u8]) {
    key.extend((digits.len() as u64).to_be_bytes());
    key.extend(digits);
}

const DASHED_TIME: &[u8] = b"0000-00-00-000000";

/// The digits of a time that the text begins with, in the form of [`DASHED_TIME`].
fn dashed_time(text: &[u8]) -> Option<Vec<u8>> {
    let (time, after) = text.split_at_checked(DASHED_TIME.len())?;
    let fits = time.iter().zip(DASHED_TIME).all(|(byte, form)| match form {
        b'-' => *byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    (fits && !after.first().is_some_and(u8::is_ascii_digit))
        .then(|| time.iter().copied().filter(|&b| b != b'-').collect())
}

fn leading_digits(text: &[u8]) -> &[u8] {
    let end = text.iter().take_while(|b| b.is_ascii_digit()).count();
    &text[..end]
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|&&b| b == b'0').count();
    &digits[zeros..]
}
