//! The part of a set of migrations that an older set shares, up to the first difference.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::migrations::migrations;
use super::order::{OrderKey, version};
use super::recipe::{FileInput, Recipe, RelPath};
use crate::config::Order;

/// Migrations before the first one that differs from an older set, as the inputs of a template of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// The same inputs without the later migrations.
    pub(crate) recipe: Recipe,
    /// The digits by which the name of its last migration is ordered, as written; `None` if the sets differ in more
    /// than one group, since a migrate command stops at one version.
    pub(crate) version: Option<String>,
    /// Number of its migrations.
    pub(crate) migrations: usize,
    /// Files of the other migrations.
    pub(crate) later: Vec<RelPath>,
}

/// Returns the migrations of `new` before the first one of each group that differs from `old`; `None` if all are
/// equal, or if none is left.
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
    let later: Vec<&OrderKey> = keys.iter().filter(|key| is_later(key)).collect();
    let group = later.first()?.group();
    let version = match later.iter().all(|key| key.group() == group) {
        true => keys
            .iter()
            .rfind(|key| key.group() == group && key.is_ordered() && !is_later(key))
            .and_then(|last| version(last.path())),
        false => None,
    };
    let later: Vec<RelPath> = later.into_iter().map(|key| key.path().clone()).collect();
    let mut recipe = new.clone();
    recipe.migrations.retain(|file| !later.contains(&file.path));
    let count = migrations(recipe.migrations.iter().map(|file| &file.path)).len();
    let is_left = recipe.migrations.iter().any(|file| OrderKey::new(&file.path, order).is_ordered());
    is_left.then_some(Prefix { version, migrations: count, recipe, later })
}

/// Returns the migrations that `new` and `old` have in common, for a tool that runs every migration that a database
/// lacks, whatever its name. `None` if all are equal, or if none is left.
pub(crate) fn common(old: &Recipe, new: &Recipe) -> Option<Prefix> {
    let key = |file: &FileInput| OrderKey::new(&file.path, Order::Directory);
    let keys: Vec<OrderKey> = new.migrations.iter().map(key).collect();
    let ordered: HashSet<&RelPath> =
        keys.iter().filter(|key| key.is_ordered()).map(OrderKey::group).collect();
    let before: HashMap<&RelPath, &FileInput> =
        old.migrations.iter().map(|file| (&file.path, file)).collect();
    let mut later: Vec<&OrderKey> = Vec::new();
    for (file, key) in new.migrations.iter().zip(&keys) {
        // Next to migrations with an order, a file without one is none.
        if before.get(&file.path) != Some(&file) && (key.is_ordered() || !ordered.contains(key.group())) {
            later.push(key);
        }
    }
    let is_later = |key: &OrderKey| later.iter().any(|later| later.same_migration(key) || *later == key);
    let (later, left): (Vec<_>, Vec<_>) = keys.iter().partition(|key| is_later(key));
    if later.is_empty() {
        return None;
    }
    let later: Vec<RelPath> = later.into_iter().map(|key| key.path().clone()).collect();
    let count = migrations(left.into_iter().map(OrderKey::path)).len();
    let mut recipe = new.clone();
    recipe.migrations.retain(|file| !later.contains(&file.path));
    (count > 0).then_some(Prefix { recipe, version: None, migrations: count, later })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::sample;
    use super::*;

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
        assert_eq!(found.recipe.migrations.len() + found.later.len(), new.len());
        let files = found.recipe.migrations.iter().map(|file| file.path.to_string()).collect();
        Some((files, found.version.unwrap_or_default()))
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
    fn a_version_needs_a_difference_in_one_group() {
        is(&["a/1", "a/2:x", "b/1", "b/2"], &["a/1", "a/2:y", "b/1", "b/2"], &["a/1", "b/1", "b/2"], "1");
        is(&["a/1", "a/2:x", "b/1", "b/2:x"], &["a/1", "a/2:y", "b/1", "b/2:y"], &["a/1", "b/1"], "");
        is(&["a/1", "b/1:x", "b/2"], &["a/1", "b/1:y", "b/2"], &["a/1"], "");
        // The older set alone has a later one in the other group.
        is(&["a/1", "a/2:x", "b/1", "b/2"], &["a/1", "a/2:y", "b/1"], &["a/1", "b/1"], "1");
        let (old, new) = (["a/1", "b/2", "a/3:x"], ["a/1", "b/2", "a/3:y"]);
        let found = prefix(&set(&old, Order::Name), &set(&new, Order::Name)).unwrap();
        assert_eq!((found.version.as_deref(), found.migrations), (Some("2"), 2));
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
    fn without_an_order_all_equal_migrations_are_in_common() {
        let of = |old: &[&str], new: &[&str]| {
            let found = common(&set(old, Order::Directory), &set(new, Order::Directory))?;
            Some(found.recipe.migrations.iter().map(|file| file.path.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["m/a:1", "m/b:1", "m/c:1"], &["m/a:1", "m/b:2", "m/c:1"]).unwrap(), ["m/a", "m/c"]);
        assert_eq!(
            of(&["m/1:1", "m/2:1", "m/__init__:1"], &["m/1:2", "m/2:1", "m/3:1", "m/__init__:2"]).unwrap(),
            ["m/2", "m/__init__"]
        );
        assert_eq!(
            of(&["m/1.up:1", "m/1.down:1", "m/2:1"], &["m/1.up:2", "m/1.down:1", "m/2:1"]).unwrap(),
            ["m/2"]
        );
        assert_eq!(of(&["m/a:1"], &["m/a:1"]), None);
        assert_eq!(of(&["m/a:1"], &["m/a:2"]), None);
        assert_eq!(of(&["m/a:1", "m/b:1"], &["m/a:1"]), None);
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
