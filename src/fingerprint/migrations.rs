//! Groups the files of `migrations` into migrations, which is what people count.

use super::order::OrderKey;
use super::recipe::RelPath;
use crate::config::Order;

/// The files of one migration, such as `up.sql`, `down.sql` and `metadata.toml` in a directory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Migration {
    /// The files, in their order.
    pub files: Vec<RelPath>,
}

/// Groups files into migrations, in their order. If a group has files with an order, its files without one
/// (`__init__.py`, `README.md`) are not migrations; if it has none, each file is a migration. Files are
/// grouped by directory, whatever the definition's `order` is: that setting decides what comes first, not
/// what belongs together.
pub(crate) fn migrations<'a>(files: impl IntoIterator<Item = &'a RelPath>) -> Vec<Migration> {
    let key = |path| OrderKey::new(path, Order::Directory);
    let mut keys: Vec<OrderKey> = files.into_iter().map(key).collect();
    keys.sort();
    let mut found: Vec<Migration> = Vec::new();
    for group in keys.chunk_by(|a, b| a.group() == b.group()) {
        // Files without an order sort first.
        let unordered = group.iter().take_while(|key| !key.is_ordered()).count();
        let counted = match unordered < group.len() {
            true => &group[unordered..],
            false => group,
        };
        for same in counted.chunk_by(OrderKey::same_migration) {
            found.push(Migration { files: same.iter().map(|key| key.path().clone()).collect() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn count(paths: &[&str]) -> usize {
        let paths: Vec<_> = paths.iter().map(|p| RelPath::new(Path::new(p))).collect();
        migrations(&paths).len()
    }

    #[test]
    fn migrations_are_counted_and_not_files() {
        assert_eq!(count(&[]), 0);
        // Diesel: one directory per migration, with a file of its settings.
        assert_eq!(
            count(&[
                "migrations/2024-01-02-000000_a/up.sql",
                "migrations/2024-01-02-000000_a/down.sql",
                "migrations/2024-01-02-000000_a/metadata.toml",
                "migrations/2024-01-03-000000_b/up.sql",
            ]),
            2
        );
        assert_eq!(count(&["m/1_a.up.sql", "m/1_a.down.sql", "m/2_b.up.sql"]), 2);
        // Django: two apps.
        assert_eq!(
            count(&[
                "a/migrations/__init__.py",
                "a/migrations/0001_initial.py",
                "b/migrations/0001_initial.py",
            ]),
            2
        );
        assert_eq!(count(&["prisma/migrations/migration_lock.toml"]), 1);
        // Sqitch: no order in the names.
        assert_eq!(count(&["deploy/users.sql", "deploy/items.sql"]), 2);
    }
}
