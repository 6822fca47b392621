//! Migrations that name others: Django's `dependencies`, Alembic's `down_revision`.
//!
//! A prefix ends in each group before the first edited migration. A migration of another group that depends on a later
//! one cannot run without it, so it is a later one, too. The dependencies are in the files. They are found by words: a
//! file names a migration if it contains the migration's name without extension; or, for a name that other groups have as
//! well, that word right after the name of the application, the directory above `migrations`. Of a name with an
//! identifier in it (`ae1027a6acf4_add_users`), the identifier is enough.
//!
//! A word too many only makes the prefix shorter. A dependency that is not found makes the build of the prefix fail.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::extension::Append;
use super::migrations::migrations;
use super::order::OrderKey;
use super::prefix::Prefix;
use super::recipe::RelPath;

/// Least length of an identifier within a name.
const LEAST_IDENTIFIER: usize = 8;
/// Largest file that is read for names.
const LARGEST: u64 = 4 << 20;

/// Returns a prefix without the migrations that name one of the later ones, and without those that sort after them if
/// the order of the names counts. `None` if no migration is left.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn without_dependents(prefix: Prefix, root: &Path, append: Append) -> io::Result<Option<Prefix>> {
    let Prefix { mut recipe, mut version, migrations: _, mut later } = prefix;
    let order = recipe.order;
    let keys: Vec<OrderKey> = recipe.migrations.iter().map(|file| OrderKey::new(&file.path, order)).collect();
    // Next to migrations with an order, a file without one is none.
    let others = later.iter().map(|path| OrderKey::new(path, order));
    let with_order: HashSet<RelPath> = keys
        .iter()
        .cloned()
        .chain(others)
        .filter(OrderKey::is_ordered)
        .map(|key| key.group().clone())
        .collect();
    let counts = |key: &OrderKey| key.is_ordered() || !with_order.contains(key.group());
    let keys: Vec<OrderKey> = keys.into_iter().filter(counts).collect();
    let mut names = Names::default();
    for key in &keys {
        names.groups.entry(stem(key.path()).to_vec()).or_default().insert(key.group().clone());
    }
    for path in &later {
        let key = OrderKey::new(path, order);
        names.groups.entry(stem(path).to_vec()).or_default().insert(key.group().clone());
    }
    let words: HashSet<Vec<u8>> =
        names.groups.keys().flat_map(|stem| parts(stem)).map(<[u8]>::to_vec).collect();
    let mut kept = Vec::with_capacity(keys.len());
    for key in keys {
        let path = root.join(key.path().to_path());
        let text = match fs::metadata(&path)?.len() <= LARGEST {
            true => fs::read(&path)?,
            false => Vec::new(),
        };
        kept.push((key, pairs(&text, &words)));
    }
    let mut added = later.clone();
    while !added.is_empty() {
        let wanted: Vec<Wanted> = added.iter().map(|path| names.wanted(path)).collect();
        let names_one = |pairs: &Pairs| wanted.iter().any(|wanted| wanted.is_in(pairs));
        let first: Vec<OrderKey> =
            kept.iter().filter(|(_, pairs)| names_one(pairs)).map(|(key, _)| key.clone()).collect();
        let is_later = |key: &OrderKey| {
            first.iter().any(|first| {
                let is_after = append == Append::Sorted && first.group() == key.group() && key >= first;
                is_after || key == first || key.same_migration(first)
            })
        };
        let (gone, rest): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(key, _)| is_later(key));
        kept = rest;
        added = gone.into_iter().map(|(key, _)| key.path().clone()).collect();
        if !added.is_empty() {
            version = None;
        }
        later.extend(added.iter().cloned());
    }
    recipe.migrations.retain(|file| !later.contains(&file.path));
    let count = migrations(recipe.migrations.iter().map(|file| &file.path)).len();
    Ok((!kept.is_empty()).then_some(Prefix { recipe, version, migrations: count, later }))
}

/// Least length of an identifier by which a migration tool records a migration.
const LEAST_RECORD: usize = 10;

/// Returns the values by which a migration tool may record the later migrations of a prefix, each in the order of its
/// columns: the name with or without its extension, an identifier in the name, or the application and the name.
pub(crate) fn records(prefix: &Prefix) -> Vec<Vec<String>> {
    let mut names = Names::default();
    let paths = prefix.recipe.migrations.iter().map(|file| &file.path).chain(&prefix.later);
    for path in paths {
        let group = OrderKey::new(path, prefix.recipe.order).group().clone();
        names.groups.entry(stem(path).to_vec()).or_default().insert(group);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut records = Vec::new();
    for path in &prefix.later {
        let name = stem(path);
        match names.wanted(path).after {
            Some(application) => records.push(vec![text(&application), text(name)]),
            None => {
                let identifiers = parts(name).skip(1).filter(|part| part.len() >= LEAST_RECORD);
                let file = path.as_bytes().rsplit(|&b| b == b'/').next().unwrap_or(name);
                records.extend([name, file].into_iter().chain(identifiers).map(|value| vec![text(value)]));
            }
        }
    }
    records
}

/// Words of a file that may name migrations, each with the word before it.
type Pairs = HashMap<Vec<u8>, HashSet<Vec<u8>>>;

/// The groups that have a migration of a name.
#[derive(Default)]
struct Names {
    groups: HashMap<Vec<u8>, BTreeSet<RelPath>>,
}

/// Words by which a file names a migration.
struct Wanted {
    words: Vec<Vec<u8>>,
    /// The word that has to be before it, if the name alone is not enough.
    after: Option<Vec<u8>>,
}

impl Names {
    fn wanted(&self, path: &RelPath) -> Wanted {
        let name = stem(path);
        let is_unique = self.groups.get(name).is_none_or(|groups| groups.len() < 2);
        Wanted {
            words: match is_unique {
                true => parts(name).map(<[u8]>::to_vec).collect(),
                false => vec![name.to_vec()],
            },
            after: if is_unique { None } else { Some(application(path)) },
        }
    }
}

impl Wanted {
    fn is_in(&self, pairs: &Pairs) -> bool {
        self.words.iter().filter_map(|word| pairs.get(word)).any(|before| match &self.after {
            None => true,
            Some(after) => before.contains(after),
        })
    }
}

/// Returns the name of a migration without its extension.
fn stem(path: &RelPath) -> &[u8] {
    let path = path.as_bytes();
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    match name.iter().rposition(|&b| b == b'.') {
        Some(dot) if dot > 0 => &name[..dot],
        _ => name,
    }
}

/// Returns a name, and the identifiers in it.
fn parts(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_identifier = |part: &&[u8]| part.len() >= LEAST_IDENTIFIER && part.iter().any(u8::is_ascii_digit);
    std::iter::once(name).chain(name.split(|b| matches!(b, b'_' | b'-')).filter(is_identifier))
}

/// Returns the name of the directory above the migration's, or of that one if there is none.
fn application(path: &RelPath) -> Vec<u8> {
    let path = path.to_path();
    let directory = path.parent().unwrap_or(Path::new(""));
    let name = directory.parent().and_then(Path::file_name).or(directory.file_name());
    name.unwrap_or(OsStr::new("")).as_bytes().to_vec()
}

fn pairs(text: &[u8], words: &HashSet<Vec<u8>>) -> Pairs {
    let mut found = Pairs::new();
    let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-') || !b.is_ascii();
    let mut before: &[u8] = b"";
    for word in text.split(|b| !is_part(b)).filter(|word| !word.is_empty()) {
        if words.contains(word) {
            found.entry(word.to_vec()).or_default().insert(before.to_vec());
        }
        before = word;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Configured, sample};
    use super::super::{FileCache, Inputs, prefix};
    use super::*;

    /// The migrations that remain if some are edited.
    fn rest(files: &[(&str, &str)], edited: &[&str]) -> Option<Vec<String>> {
        let tree = Configured::new(files, "migrations = [\"**/*.py\"]");
        let inputs = Inputs::read(&FileCache::off(), tree.root(), &tree.definition, &|_| None).unwrap();
        let recipe = inputs.with_server(sample().server);
        let mut old = recipe.clone();
        for file in &mut old.migrations {
            if edited.contains(&file.path.to_string().as_str()) {
                file.hash = "other".into();
            }
        }
        let found =
            without_dependents(prefix(&old, &recipe).unwrap(), tree.root(), Append::Sorted).unwrap()?;
        assert_eq!(found.recipe.migrations.len() + found.later.len(), files.len());
        Some(found.recipe.migrations.iter().map(|file| file.path.to_string()).collect())
    }

    #[test]
    fn dependents_in_other_groups_are_later_ones() {
        let files = [
            ("a/migrations/0001_initial.py", ""),
            ("a/migrations/0002_x.py", "dependencies = [('a', '0001_initial')]"),
            ("b/migrations/0001_initial.py", "dependencies = [(\"a\", \"0001_initial\")]"),
            ("b/migrations/0002_y.py", "dependencies = [('b', '0001_initial'), ('a', '0002_x')]"),
            ("b/migrations/0003_z.py", ""),
            ("c/migrations/0001_initial.py", "# after b, 0003_z"),
            ("c/migrations/__init__.py", "0003_z"),
            ("d/migrations/0001_initial.py", ""),
        ];
        let left = [
            "a/migrations/0001_initial.py",
            "b/migrations/0001_initial.py",
            "c/migrations/__init__.py",
            "d/migrations/0001_initial.py",
        ];
        assert_eq!(rest(&files, &["a/migrations/0002_x.py"]).unwrap(), left);
        // A name that several have counts with its application only.
        let all: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
        assert_eq!(rest(&files, &["d/migrations/0001_initial.py"]).unwrap(), all[..7]);
        assert_eq!(
            rest(&files, &["a/migrations/0001_initial.py"]).unwrap(),
            ["c/migrations/__init__.py", "d/migrations/0001_initial.py"]
        );
        let all = [("a/migrations/0001_x.py", ""), ("b/migrations/0001_y.py", "[('a', '0001_x')]")];
        assert_eq!(rest(&all, &["a/migrations/0001_x.py"]), None);
    }

    #[test]
    fn tools_record_migrations_by_their_names() {
        let file = |path: &str| super::super::FileInput {
            path: RelPath::new(Path::new(path)),
            hash: String::new(),
            bytes: 0,
            normal: None,
        };
        let path = |path: &str| RelPath::new(Path::new(path));
        let recipe = super::super::Recipe {
            migrations: vec![file("a/migrations/0001_initial.py"), file("a/migrations/0002_x.py")],
            ..sample()
        };
        let later = vec![
            path("b/migrations/0001_initial.py"),
            path("b/migrations/0003_y.py"),
            path("c/20240102030405_z.rb"),
        ];
        let prefix = Prefix { recipe, version: None, migrations: 2, later };
        let records: Vec<String> = records(&prefix).iter().map(|values| values.join(" ")).collect();
        assert_eq!(
            records,
            [
                "b 0001_initial",
                "0003_y",
                "0003_y.py",
                "20240102030405_z",
                "20240102030405_z.rb",
                "20240102030405"
            ]
        );
    }

    #[test]
    fn an_identifier_in_a_name_is_enough() {
        let files = [
            ("m/1_ae1027a6acf4_users.py", "revision = 'ae1027a6acf4'"),
            ("n/2_bd1027a6acf4_items.py", "down_revision = 'ae1027a6acf4'"),
            ("n/1_cd1027a6acf4_logs.py", "down_revision = None"),
        ];
        assert_eq!(rest(&files, &["m/1_ae1027a6acf4_users.py"]).unwrap(), ["n/1_cd1027a6acf4_logs.py"]);
    }
}
