//! The part of a set of migrations that an older set shares, up to the first difference.

use std::collections::{BTreeMap, HashMap};

use super::migrations::migrations;
use super::order::{OrderKey, version};
use super::recipe::{FileInput, Recipe, RelPath};

/// Migrations before the first one that differs from an older set, as the inputs of a template of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// The same inputs without the later migrations.
    pub(crate) recipe: Recipe,
    /// The digits by which the name of its last migration is ordered, as written.
    pub(crate) version: String,
    /// Number of its migrations.
    pub(crate) migrations: usize,
}

/// Returns the migrations of `new` before the first one that differs from `old`; `None` if all are equal, if the
/// first one differs, or if sets differ in more than one group: a migrate command stops at one version.
///
/// A migration differs if one of its files does, or if only one of the sets has it. Files without an order are
/// always part of the prefix, since they have no place before which a migrate command could stop.
pub(crate) fn prefix(old: &Recipe, new: &Recipe) -> Option<Prefix> {
    let order = new.order;
    let by_path = |files: &[FileInput]| -> HashMap<RelPath, FileInput> {
        files.iter().map(|file| (file.path.clone(), file.clone())).collect()
    };
    let (before, now) = (by_path(&old.migrations), by_path(&new.migrations));
    // The first difference of each group.
    let mut first: BTreeMap<RelPath, OrderKey> = BTreeMap::new();
    let differs = |path: &&RelPath| before.get(*path) != now.get(*path);
    for path in before.keys().chain(now.keys()).filter(differs) {
        let key = OrderKey::new(path, order);
        if key.is_ordered() && first.get(key.group()).is_none_or(|first| key < *first) {
            first.insert(key.group().clone(), key);
        }
    }
    let mut keys: Vec<OrderKey> = now.keys().map(|path| OrderKey::new(path, order)).collect();
    keys.sort();
    let is_later = |key: &OrderKey| {
        let first = first.get(key.group());
        key.is_ordered() && first.is_some_and(|first| key >= first || key.same_migration(first))
    };
    let mut cut = keys.iter().filter(|key| is_later(key)).map(OrderKey::group);
    let group = cut.next()?;
    if cut.any(|other| other != group) {
        return None;
    }
    let last = keys.iter().rfind(|key| key.group() == group && key.is_ordered() && !is_later(key))?;
    let later: Vec<&RelPath> = keys.iter().filter(|key| is_later(key)).map(OrderKey::path).collect();
    let mut recipe = new.clone();
    recipe.migrations.retain(|file| !later.contains(&&file.path));
    let count = migrations(recipe.migrations.iter().map(|file| &file.path)).len();
    Some(Prefix { version: version(last.path())?, migrations: count, recipe })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::sample;
    use super::*;
    use crate::config::Order;

    /// A set of files, each with its content after a colon.
    fn set(files: &[&str], order: Order) -> Recipe {
        let file = |text: &&str| {
            let (path, content) = text.split_once(':').unwrap_or((text, ""));
            FileInput {
                path: RelPath::new(Path::new(path)),
                hash: blake3::hash(content.as_bytes()).to_hex().to_string(),
                bytes: content.len() as u64,
                normal: None,
            }
        };
        let mut migrations: Vec<_> = files.iter().map(file).collect();
        migrations.sort_by(|a, b| a.path.cmp(&b.path));
        Recipe { migrations, order, ..sample() }
    }

    /// The files of the prefix, and its version.
    fn of(old: &[&str], new: &[&str]) -> Option<(Vec<String>, String)> {
        let found = prefix(&set(old, Order::Directory), &set(new, Order::Directory))?;
        let files = found.recipe.migrations.iter().map(|file| file.path.to_string()).collect();
        Some((files, found.version))
    }

    #[track_caller]
    fn is(old: &[&str], new: &[&str], files: &[&str], version: &str) {
        let files = files.iter().map(ToString::to_string).collect();
        assert_eq!(of(old, new), Some((files, version.to_owned())));
    }

    #[test]
    fn it_ends_before_the_first_difference() {
        is(&["m/01:a", "m/02:b", "m/03:c"], &["m/01:a", "m/02:b", "m/03:d"], &["m/01", "m/02"], "02");
        is(&["m/1", "m/2:b", "m/3"], &["m/1", "m/2:x", "m/3"], &["m/1"], "1");
        // The older set has one that the new set lacks, or the other way round.
        is(&["m/1", "m/2", "m/3"], &["m/1", "m/3"], &["m/1"], "1");
        is(&["m/1", "m/3"], &["m/1", "m/2", "m/3"], &["m/1"], "1");
        is(&["m/9"], &["m/9", "m/10"], &["m/9"], "9");
        assert_eq!(of(&["m/1:a", "m/2"], &["m/1:b", "m/2"]), None);
        assert_eq!(of(&["m/1", "m/2", "m/3"], &["m/1", "m/2"]), None);
        assert_eq!(of(&["m/1"], &["m/1"]), None);
    }

    #[test]
    fn files_of_one_migration_stay_together() {
        is(
            &["m/1.up.sql", "m/1.down.sql", "m/2.down.sql", "m/2.up.sql:a"],
            &["m/1.up.sql", "m/1.down.sql", "m/2.down.sql", "m/2.up.sql:b"],
            &["m/1.down.sql", "m/1.up.sql"],
            "1",
        );
        is(
            &["m/20240101000000_a/up.sql", "m/20240102000000_b/up.sql:a"],
            &["m/20240101000000_a/up.sql", "m/20240102000000_b/up.sql:b"],
            &["m/20240101000000_a/up.sql"],
            "20240101000000",
        );
    }

    #[test]
    fn one_group_may_differ() {
        is(&["a/1", "a/2:x", "b/1", "b/2"], &["a/1", "a/2:y", "b/1", "b/2"], &["a/1", "b/1", "b/2"], "1");
        assert_eq!(of(&["a/1", "a/2:x", "b/1", "b/2:x"], &["a/1", "a/2:y", "b/1", "b/2:y"]), None);
        // The older set alone has a later one in the other group.
        is(&["a/1", "a/2:x", "b/1", "b/2"], &["a/1", "a/2:y", "b/1"], &["a/1", "b/1"], "1");
        let (old, new) = (["a/1", "b/2", "a/3:x"], ["a/1", "b/2", "a/3:y"]);
        let found = prefix(&set(&old, Order::Name), &set(&new, Order::Name)).unwrap();
        assert_eq!((found.version.as_str(), found.migrations), ("2", 2));
    }

    #[test]
    fn files_without_an_order_are_part_of_it() {
        is(
            &["m/__init__.py:a", "m/1.py", "m/2.py:x"],
            &["m/__init__.py:b", "m/1.py", "m/2.py:y"],
            &["m/1.py", "m/__init__.py"],
            "1",
        );
    }

    #[test]
    fn versions_are_as_written() {
        let version = |name: &str| version(&RelPath::new(Path::new(name)));
        assert_eq!(version("m/000012_x.up.sql").unwrap(), "000012");
        assert_eq!(version("m/V1_1__x.sql").unwrap(), "1.1");
        assert_eq!(version("m/V2.10__x.sql").unwrap(), "2.10");
        assert_eq!(version("m/2024-01-02-000000_a/up.sql").unwrap(), "20240102000000");
        assert_eq!(version("m/m20240102_x.rs").unwrap(), "20240102");
        assert_eq!(version("m/x.sql"), None);
    }
}
