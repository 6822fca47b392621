//! The order of migration files, which decides whether a set of migrations only appends to another.
//!
//! Migration tools run files in the order of their names, each by its own rules. One rule serves all of them,
//! as long as it never takes a file for an append that the tool would run earlier.
//!
//! **Group.** Only files of one group are compared. The group of a file is its directory. If each migration
//! has a directory of its own, as in Diesel (`migrations/2024-01-02-000000_x/up.sql`) and Prisma
//! (`migrations/20240102000000_x/migration.sql`), the names of these directories are compared, and the
//! directory above is the group. Such a directory is recognized as follows: the file's own name has no order
//! (see below), and the directory's name begins with a digit, possibly after one letter (`m20240102_x`, `v2`)
//! or the word `version`. `2fa/admin.sql` and `v2/a.sql` match too. There the mistake sometimes costs a full
//! build, and accepts nothing that the plain rule would refuse: both refuse a file that is added to a
//! directory of the base, and only this rule asks a file in a new directory to sort after something.
//! Directories are not compared in any other way: if `v1/002.sql` is added next to `v2/001.sql`, each
//! directory counts separately.
//!
//! Tools that run the files of several directories in one order (Flyway with several locations, TypeORM,
//! plug-ins that bring migrations) need `order = "name"`: then all files are one group, and the names are
//! compared that would be compared within a directory.
//!
//! **Order.** Names compare byte by byte, but a run of ASCII digits compares as one number of any length:
//! `008_x` is before `0011_x`. The first number of a name is its version, and dotted numbers are a list:
//! `1.2_x`, `1.2.1_x`, `1.10_x`; trailing zeros of the list are ignored. A name in Flyway's form (`V` or `U`,
//! a digit, and `__` somewhere) compares without that letter, and a single `_` between its digits is a dot:
//! `V1_1__x` is 1.1. A time in Diesel's form, `2024-01-02-000000`, is the number 20240102000000, as it is to
//! Diesel, whose older versions wrote it so.
//!
//! **Ties.** If two names are equal so far, the text after the first dot behind the version decides
//! (`x.down.sql`, `x.up.sql`), then the bytes of the path, which include leading zeros and the letters of
//! Flyway. Files that differ only in these belong to one migration, so an added one does not append to the
//! other.
//!
//! **Digits after the first dot.** If a name has no digit before its first dot, but a number between that dot and
//! the last one, right behind `-`, `_` or `.`, that number is its version:
//! `db.changelog-1.10.xml`. So `users.s3.sql`, `setup.v2.sql` and `x.mp3` have none. This rule is younger than
//! fingerprints: [`has_late_version`] tells it apart, and the fingerprint of migrations with such names says that it
//! counted. In a directory that holds a single migration it does not apply, since there the name of the directory
//! has the order.
//!
//! **No order.** Any other name without a digit before its extension has no order: `__init__.py`, `mod.rs`,
//! `migration_lock.toml`, `README.md`. The same holds for the files that Flyway calls repeatable (`R__x.sql`)
//! or baseline (`B1__x.sql`), which have no place among the versions.
//!
//! Tools that compare names as text (knex, Prisma, Diesel) agree with this rule if their numbers have one
//! width, as the generated ones have. For a tool that keeps its order inside the files (Alembic) names mean
//! nothing, and this rule does not apply.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use super::recipe::{FileInput, RelPath};
use crate::config::Order;

#[cfg(test)]
mod tests;

/// The position of a migration file within its group.
///
/// Keys sort by group; within a group, files without an order come first, then the others in the order that
/// the module describes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OrderKey {
    group: RelPath,
    /// `None`: the file has no order.
    place: Option<Place>,
    /// Breaks the last ties.
    path: RelPath,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The name, encoded so that its bytes sort as the names do.
    name: Vec<u8>,
    extension: Vec<u8>,
}

impl OrderKey {
    /// Derives the position of a file from its path.
    pub(super) fn new(path: &RelPath, order: Order) -> Self {
        let (group, name) = split(path.as_bytes(), order);
        OrderKey {
            group: RelPath::new(Path::new(OsStr::from_bytes(group))),
            place: place(name),
            path: path.clone(),
        }
    }

    /// Returns the directory whose files this file is compared with; empty for the root, and for all files
    /// with [`Order::Name`].
    pub(super) fn group(&self) -> &RelPath {
        &self.group
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &RelPath {
        &self.path
    }

    /// Returns whether the file has an order.
    pub(super) fn is_ordered(&self) -> bool {
        self.place.is_some()
    }

    /// Returns whether both files belong to one migration: they have an order, and they differ only in the
    /// extension, leading zeros, the file in the migration's directory or Flyway's letter.
    pub(super) fn same_migration(&self, other: &OrderKey) -> bool {
        self.group == other.group
            && match (&self.place, &other.place) {
                (Some(a), Some(b)) => a.name == b.name,
                _ => false,
            }
    }
}

/// Returns the files that begin a migration of which `old` has no file, in their order. A file without an
/// order, such as `__init__.py`, is not a migration, and neither is another file of an existing one, such as
/// `x.down.sql`.
pub(crate) fn new_migrations(old: &[RelPath], files: &[RelPath], order: Order) -> Vec<RelPath> {
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

/// Returns whether a file has an order only by the rule for digits after the first dot.
pub(super) fn has_late_version(path: &RelPath, order: Order) -> bool {
    let (_, name) = split(path.as_bytes(), order);
    Version::find_early(name).is_none() && Version::find_late(name).is_some()
}

/// Returns the group that [`OrderKey::new`] assigns to a path, at less cost.
pub(super) fn group(path: &RelPath, order: Order) -> &[u8] {
    split(path.as_bytes(), order).0
}

/// A group of migrations that are compared with each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The directory; empty for the root, and for all files with [`Order::Name`].
    pub directory: RelPath,
    /// The files that have an order, in that order.
    pub ordered: Vec<RelPath>,
    /// The other files, sorted by path.
    pub unordered: Vec<RelPath>,
}

/// Returns the groups of some migrations, sorted by directory.
pub(crate) fn groups(files: &[FileInput], order: Order) -> Vec<Group> {
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

/// Splits a path into its group and the name that is compared within the group.
fn split(path: &[u8], order: Order) -> (&[u8], &[u8]) {
    let (directory, name) = parent(path);
    let (above, directory_name) = parent(directory);
    let (group, name) = if Version::find_early(name).is_none() && is_migration(directory_name) {
        (above, directory_name)
    } else {
        (directory, name)
    };
    match order {
        Order::Directory => (group, name),
        Order::Name => (&[], name),
    }
}

/// Returns the number of groups of some files.
pub(crate) fn groups_of(files: &[RelPath], order: Order) -> usize {
    files.iter().map(|path| group(path, order)).collect::<HashSet<_>>().len()
}

/// Returns the directory of a migration that has one of its own.
pub(super) fn own_directory(path: &RelPath, order: Order) -> Option<RelPath> {
    let (directory, name) = parent(path.as_bytes());
    let (_, compared) = split(path.as_bytes(), order);
    (compared != name).then(|| RelPath::new(Path::new(OsStr::from_bytes(directory))))
}

fn parent(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Returns whether a directory of this name holds a single migration.
fn is_migration(directory: &[u8]) -> bool {
    let letters = directory.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let (word, rest) = directory.split_at(letters);
    rest.first().is_some_and(u8::is_ascii_digit) && (letters <= 1 || word.eq_ignore_ascii_case(b"version"))
}

/// The position of the version in a name that has an order.
struct Version {
    start: usize,
    /// Whether the name is in Flyway's form, so that the text before `start` does not count.
    flyway: bool,
}

impl Version {
    fn find(name: &[u8]) -> Option<Self> {
        Self::find_early(name).or_else(|| Self::find_late(name))
    }

    /// A version that begins after the first dot.
    fn find_late(name: &[u8]) -> Option<Self> {
        if name.starts_with(b"R__") || (name.starts_with(b"B") && name.windows(2).any(|pair| pair == b"__")) {
            return None;
        }
        let dots = name.iter().take_while(|&&b| b == b'.').count();
        let first = dots + name[dots..].iter().position(|&b| b == b'.')?;
        let last = name.iter().rposition(|&b| b == b'.')?;
        let start = first + name[first..last].iter().position(u8::is_ascii_digit)?;
        matches!(name[start - 1], b'-' | b'_' | b'.').then_some(Version { start, flyway: false })
    }

    /// A version that begins before the first dot.
    fn find_early(name: &[u8]) -> Option<Self> {
        // A leading dot, as in `.formatter.exs`, does not begin an extension.
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

/// Returns the number that a migrate command knows a migration by, as written: the first one of its name, or the time
/// or dotted list that it begins.
pub(super) fn version(path: &RelPath) -> Option<String> {
    let (_, name) = split(path.as_bytes(), Order::Directory);
    let (parts, _) = numbers(name, &Version::find(name)?);
    let parts: Vec<_> = parts.iter().map(|digits| String::from_utf8_lossy(digits)).collect();
    Some(parts.join("."))
}

/// Returns the parts of the version of a name as written, and where the rest of the name begins.
fn numbers(name: &[u8], version: &Version) -> (Vec<Vec<u8>>, usize) {
    let Version { start, flyway } = *version;
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
        parts.push(digits);
        match name[at..] {
            [b'.', next, ..] if next.is_ascii_digit() => at += 1,
            [b'_', next, ..] if flyway && next.is_ascii_digit() => at += 1,
            _ => break,
        }
    }
    (parts, at)
}

fn place(name: &[u8]) -> Option<Place> {
    let version = Version::find(name)?;
    let prefix = if version.flyway { &[] } else { &name[..version.start] };
    let (parts, at) = numbers(name, &version);
    let mut parts: Vec<_> = parts.iter().map(|digits| without_zeros(digits).to_vec()).collect();
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
    // A list sorts before its continuations.
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

/// Marks the beginning of a number in the encoding. Other digits of the name occur only in numbers, so this
/// byte sorts like a digit against any byte it can meet.
const NUMBER: u8 = b'0';

/// Encodes a number. Without leading zeros, a longer number is larger.
fn push_number(key: &mut Vec<u8>, digits: &[u8]) {
    key.extend((digits.len() as u64).to_be_bytes());
    key.extend(digits);
}

const DASHED_TIME: &[u8] = b"0000-00-00-000000";

/// Returns the digits of a leading time in the form of [`DASHED_TIME`].
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
