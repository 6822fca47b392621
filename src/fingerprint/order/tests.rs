//! One test for each tool: names in the order in which it runs them, one file that appends and one
//! that does not.

use super::*;
use crate::fingerprint::difference::tests::{recipe, shuffle};
use crate::fingerprint::{Append, extension};

fn key(path: &str) -> OrderKey {
    OrderKey::new(&RelPath::new(Path::new(path)), Order::Directory)
}

/// Checks the order of `paths`, which are in the tool's order, after shuffling and sorting them.
fn in_order(paths: &[&str]) {
    for seed in 1..20 {
        let mut keys: Vec<_> = paths.iter().map(|p| key(p)).collect();
        shuffle(&mut keys, seed);
        keys.sort();
        let sorted: Vec<_> = keys.iter().map(|k| k.path().to_string()).collect();
        assert_eq!(sorted, paths);
    }
}

fn extend(base: &[&str], added: &[&str], order: Append) -> Result<Vec<String>, String> {
    let all: Vec<_> = base.iter().chain(added).copied().collect();
    extension(&recipe(base), &recipe(&all), order)
        .map(|paths| paths.iter().map(RelPath::to_string).collect())
        .map_err(|obstacle| obstacle.to_string())
}

fn appends(base: &[&str], added: &[&str]) {
    let expected = Ok(added.iter().map(|p| p.to_string()).collect());
    assert_eq!(extend(base, added, Append::Sorted), expected);
}

fn refused(base: &[&str], added: &str, why: &str) {
    assert_eq!(extend(base, &[added], Append::Sorted), Err(why.to_owned()));
    assert_eq!(extend(base, &[added], Append::Any), Ok(vec![added.to_owned()]));
}

/// Django's real order is a graph within and across apps (Django docs, "Migrations", section
/// "Dependencies"); `makemigrations` numbers each app on its own, and a merge migration comes last.
#[test]
fn django() {
    let base = [
        "blog/migrations/__init__.py",
        "blog/migrations/0001_initial.py",
        "blog/migrations/0001_squashed_0003_post_slug.py",
        "blog/migrations/0002_post_author.py",
        "blog/migrations/0003_post_slug.py",
        "blog/migrations/0004_auto_20240102_0304.py",
        "blog/migrations/0004_post_tags.py",
        "blog/migrations/0005_merge_20240103_1200.py",
        "shop/migrations/__init__.py",
        "shop/migrations/0001_initial.py",
    ];
    in_order(&base);
    appends(
        &base,
        &[
            "blog/migrations/0006_post_views.py",
            "blog/migrations/0007_remove_post_tags.py",
            "new/migrations/__init__.py",
            "new/migrations/0001_initial.py",
            "shop/migrations/0002_order.py",
        ],
    );
    refused(
        &base,
        "blog/migrations/0004_post_rank.py",
        "new migration `blog/migrations/0004_post_rank.py` sorts before `blog/migrations/0005_merge_20240103_1200.py`",
    );
    // The squash of the migrations that the base applied separately.
    refused(
        &base,
        "blog/migrations/0002_squashed_0005_all.py",
        "new migration `blog/migrations/0002_squashed_0005_all.py` sorts before `blog/migrations/0005_merge_20240103_1200.py`",
    );
    refused(
        &base,
        "blog/migrations/helpers.py",
        "new file `blog/migrations/helpers.py` has no place in the order of the files of `blog/migrations`",
    );
    // Two branches, then the merge of both.
    appends(
        &base[..6],
        &["blog/migrations/0004_post_tags.py", "blog/migrations/0005_merge_20240103_1200.py"],
    );
}

/// pretix counts some apps in three digits and others in four, with both in one directory.
#[test]
fn django_pretix() {
    let base = [
        "src/pretix/plugins/banktransfer/migrations/0001_initial.py",
        "src/pretix/plugins/banktransfer/migrations/007_auto_20210404.py",
        "src/pretix/plugins/banktransfer/migrations/008_bankimportjob_currency.py",
    ];
    in_order(&base);
    appends(&base, &["src/pretix/plugins/banktransfer/migrations/0011_mark.py"]);
    refused(
        &base,
        "src/pretix/plugins/banktransfer/migrations/0003_x.py",
        "new migration `src/pretix/plugins/banktransfer/migrations/0003_x.py` sorts before `src/pretix/plugins/banktransfer/migrations/008_bankimportjob_currency.py`",
    );
}

/// Sorted by version, the leading number (Rails Guides, "Active Record Migrations"). Migrations copied from
/// an engine have its name before the extension.
#[test]
fn rails() {
    let base = [
        "db/migrate/001_create_users.rb",
        "db/migrate/20230901101112_create_posts.rb",
        "db/migrate/20230901101113_create_active_storage_tables.active_storage.rb",
        "db/migrate/20240102030405_add_slug_to_posts.rb",
    ];
    in_order(&base);
    appends(&base, &["db/migrate/20240102030406_a.rb"]);
    appends(&base, &["db/animals_migrate/20200102030406_a.rb"]);
    refused(
        &base,
        "db/migrate/20231231235959_z.rb",
        "new migration `db/migrate/20231231235959_z.rb` sorts before `db/migrate/20240102030405_add_slug_to_posts.rb`",
    );
}

/// A version is a list of numbers, separated by `.` or `_`; missing parts are 0 (Flyway docs, "Versioned
/// migrations", and the class `MigrationVersion`).
#[test]
fn flyway() {
    let base = [
        "sql/B3__baseline.sql",
        "sql/R__views.sql",
        "sql/R__views_2024.sql",
        "sql/V1__init.sql",
        "sql/V1_1__users.sql",
        "sql/V1.1.1__users.sql",
        "sql/V1_2__2nd_try.sql",
        "sql/U2__x.sql",
        "sql/V2__x.sql",
        "sql/V2.1__x.sql",
        "sql/V10__x.sql",
    ];
    in_order(&base);
    appends(&base, &["sql/V10_1__a.sql", "sql/V010.2__a.sql", "sql/V11__a.sql"]);
    refused(&base, "sql/V9__x.sql", "new migration `sql/V9__x.sql` sorts before `sql/V10__x.sql`");
    refused(
        &base,
        "sql/R__more_99.sql",
        "new file `sql/R__more_99.sql` has no place in the order of the files of `sql`",
    );
    refused(
        &base,
        "sql/B99__baseline.sql",
        "new file `sql/B99__baseline.sql` has no place in the order of the files of `sql`",
    );
    // 10 and 10.0.0 are the same version.
    refused(
        &base,
        "sql/U10.0.0__x.sql",
        "new file `sql/U10.0.0__x.sql` belongs to the same migration as `sql/V10__x.sql`",
    );
}

/// `<VERSION>_<DESCRIPTION>.sql`, the version an `i64` (sqlx docs, trait `MigrationSource`).
#[test]
fn sqlx() {
    let base = [
        "migrations/20240101000000_users.down.sql",
        "migrations/20240101000000_users.up.sql",
        "migrations/20240315120000_posts.down.sql",
        "migrations/20240315120000_posts.up.sql",
    ];
    in_order(&base);
    appends(&base, &["migrations/20240315120001_a.down.sql", "migrations/20240315120001_a.up.sql"]);
    refused(
        &base,
        "migrations/20240315115959_z.sql",
        "new migration `migrations/20240315115959_z.sql` sorts before `migrations/20240315120000_posts.up.sql`",
    );
    refused(
        &base[..3],
        base[3],
        "new file `migrations/20240315120000_posts.up.sql` belongs to the same migration as `migrations/20240315120000_posts.down.sql`",
    );
}

/// One directory per migration; the text before the first `_`, without dashes, is the version (Diesel docs,
/// crate `diesel_migrations`, and `version_from_string` of `migrations_internals`).
#[test]
fn diesel() {
    let base = [
        "migrations/.keep",
        "migrations/00000000000000_diesel_initial_setup/down.sql",
        "migrations/00000000000000_diesel_initial_setup/up.sql",
        "migrations/20151219180527_create_users/down.sql",
        "migrations/20151219180527_create_users/up.sql",
        "migrations/2023-11-05-101112_posts/down.sql",
        "migrations/2023-11-05-101112_posts/metadata.toml",
        "migrations/2023-11-05-101112_posts/up.sql",
        "migrations/2024-01-02-000000_tags/up.sql",
    ];
    in_order(&base);
    appends(&base, &["migrations/2024-01-02-000001_a/down.sql", "migrations/2024-01-02-000001_a/up.sql"]);
    refused(
        &base,
        "migrations/2023-12-31-235959_z/up.sql",
        "new migration `migrations/2023-12-31-235959_z/up.sql` sorts before `migrations/2024-01-02-000000_tags/up.sql`",
    );
    refused(
        &base[..8],
        "migrations/2023-11-05-101112_posts/zz.sql",
        "new file `migrations/2023-11-05-101112_posts/zz.sql` belongs to the same migration as `migrations/2023-11-05-101112_posts/up.sql`",
    );
}

/// One directory per migration, sorted by name (Prisma docs, "Migration histories").
#[test]
fn prisma() {
    let base = [
        "prisma/migrations/migration_lock.toml",
        "prisma/migrations/0_init/migration.sql",
        "prisma/migrations/20240102030405_users/migration.sql",
        "prisma/migrations/20240203040506_posts/migration.sql",
    ];
    in_order(&base);
    appends(&base, &["prisma/migrations/20240203040507_a/migration.sql"]);
    refused(
        &base,
        "prisma/migrations/20240203040505_z/migration.sql",
        "new migration `prisma/migrations/20240203040505_z/migration.sql` sorts before `prisma/migrations/20240203040506_posts/migration.sql`",
    );
}

/// "In order of increasing version number", a 64 bit integer (golang-migrate, MIGRATIONS.md).
#[test]
fn golang_migrate() {
    let base = [
        "db/1_init.down.sql",
        "db/1_init.up.sql",
        "db/9_users.down.sql",
        "db/9_users.up.sql",
        "db/000010_posts.down.sql",
        "db/000010_posts.up.sql",
        "db/1700000000_tags.down.sql",
        "db/1700000000_tags.up.sql",
    ];
    in_order(&base);
    appends(&base, &["db/1700000001_a.down.sql", "db/1700000001_a.up.sql"]);
    refused(
        &base[..6],
        "db/8_z.up.sql",
        "new migration `db/8_z.up.sql` sorts before `db/000010_posts.up.sql`",
    );
}

/// By version as a number; sequential in production, times while developing (goose, README, "Hybrid
/// Versioning").
#[test]
fn goose() {
    let base = [
        "migrations/embed.go",
        "migrations/00001_create_users.sql",
        "migrations/00002_rename_root.go",
        "migrations/00010_posts.sql",
        "migrations/20240102030405_tags.sql",
    ];
    in_order(&base);
    appends(&base, &["migrations/20240102030406_a.sql"]);
    refused(
        &base,
        "migrations/00011_z.sql",
        "new migration `migrations/00011_z.sql` sorts before `migrations/20240102030405_tags.sql`",
    );
}

/// By file name (knex, `fs-migrations.js`), which `migrate:make` begins with a time.
#[test]
fn knex() {
    let base = [
        "migrations/20240101120000_users.js",
        "migrations/20240101120001_a.js",
        "migrations/20240101120001_b.ts",
        "migrations/20240215080910_posts.js",
    ];
    in_order(&base);
    appends(&base, &["migrations/20240215080911_a.js"]);
    // Two files of the same second: the name decides.
    appends(&base, &["migrations/20240215080910_tags.js"]);
    refused(
        &base,
        "migrations/20240215080910_alter.js",
        "new migration `migrations/20240215080910_alter.js` sorts before `migrations/20240215080910_posts.js`",
    );
}

/// By the time in milliseconds that the file name and the class name share (TypeORM docs, "Executing and
/// reverting").
#[test]
fn typeorm() {
    let base = [
        "src/migrations/index.ts",
        "src/migrations/999999999999-Early.ts",
        "src/migrations/1700000000000-CreateUsers.ts",
        "src/migrations/1700000000001-AddV2Column.ts",
    ];
    in_order(&base);
    appends(&base, &["src/migrations/1700000000002-A.ts"]);
    refused(
        &base,
        "src/migrations/1699999999999-Z.ts",
        "new migration `src/migrations/1699999999999-Z.ts` sorts before `src/migrations/1700000000001-AddV2Column.ts`",
    );
}

/// By the leading integer (Ecto SQL docs, `Ecto.Migrator`).
#[test]
fn ecto() {
    let base = [
        "priv/repo/migrations/.formatter.exs",
        "priv/repo/migrations/1_first.exs",
        "priv/repo/migrations/20230405060708_create_users.exs",
        "priv/repo/migrations/20240405060708_create_posts.exs",
    ];
    in_order(&base);
    appends(&base, &["priv/repo/migrations/20240405060709_a.exs"]);
    refused(
        &base,
        "priv/repo/migrations/20240405060707_z.exs",
        "new migration `priv/repo/migrations/20240405060707_z.exs` sorts before `priv/repo/migrations/20240405060708_create_posts.exs`",
    );
}

/// The order is in `down_revision` of the files, and names begin with random ids (Alembic docs, "Tutorial"):
/// this needs `extend = "always"`.
#[test]
fn alembic() {
    let base = [
        "alembic/versions/1975ea83b712_create_account_table.py",
        "alembic/versions/ae1027a6acf_add_a_column.py",
    ];
    refused(
        &base,
        "alembic/versions/27c6a30d7c24_third.py",
        "new migration `alembic/versions/27c6a30d7c24_third.py` sorts before `alembic/versions/ae1027a6acf_add_a_column.py`",
    );
}

#[test]
fn dotted_versions_are_lists() {
    in_order(&["1_a", "1.2_x", "1.2.1_x", "1.10_x", "2.0_x", "2_y"]);
    in_order(&["-1", "1", "a1"]);
}

#[test]
fn numbers_have_any_length() {
    let huge = "9".repeat(40);
    let (less, more) = (format!("m/{huge}_x"), format!("m/1{huge}_a"));
    in_order(&["m/18446744073709551615_x", "m/18446744073709551616_x", &less, &more]);
    // The end of a number does not affect what follows it.
    in_order(&["m/1_a2b", "m/1_a2c", "m/1_a10a"]);
}

#[test]
fn ties_are_broken_at_the_very_end() {
    in_order(&["m/008_a.sql", "m/8_a.sql", "m/08_b.sql", "m/8_b.up.sql"]);
    assert!(key("m/008_a.sql").same_migration(&key("m/8_a.up.sql")));
    assert!(!key("m/008_a.sql").same_migration(&key("m/8_b.sql")));
    assert!(!key("m/8_a.sql").same_migration(&key("n/8_a.sql")));
}

#[test]
fn no_order() {
    for path in [
        "a/__init__.py",
        "mod.rs",
        "migration_lock.toml",
        "README.md",
        "R__views.sql",
        "sql/R__2024.sql",
        "sql/B7__base.sql",
        "a/setup.v2.sql",
        "a/song.mp3",
        ".gitkeep",
        "..",
        "",
        "app2/migrations/__init__.py",
    ] {
        assert!(!key(path).is_ordered(), "{path}");
    }
    assert!(key("a/B7_base.sql").is_ordered());
    assert!(key("a/.1_x.sql").is_ordered());
}

#[test]
fn folders_that_are_migrations() {
    for (path, group) in [
        ("m/2024_x/up.sql", "m"),
        ("2024_x/up.sql", ""),
        ("m/m20240102_x/mod.rs", "m"),
        ("m/Version20240102/up.sql", "m"),
        ("m/v2/a.sql", "m"),
        ("2fa/admin.sql", ""),
        ("v2/R__2024.sql", ""),
        // Not such a directory: the file has an order of its own, or the directory's name is a word.
        ("v2/001_a.sql", "v2"),
        ("app2/admin.sql", "app2"),
        ("app2/migrations/__init__.py", "app2/migrations"),
        ("up.sql", ""),
    ] {
        assert_eq!(key(path).group().to_string(), group, "{path}");
    }
}

/// Checks the claim of the module: this rule accepts nothing that a comparison by plain directory would
/// refuse.
#[test]
fn a_folder_taken_for_a_migration_lets_nothing_pass() {
    refused(
        &["2fa/admin.sql"],
        "2fa/users.sql",
        "new file `2fa/users.sql` belongs to the same migration as `2fa/admin.sql`",
    );
    refused(
        &["2fa/admin.sql"],
        "2fa/R__2024.sql",
        "new file `2fa/R__2024.sql` belongs to the same migration as `2fa/admin.sql`",
    );
}

/// Flyway with several locations, TypeORM's globs, plug-ins: one order over several directories.
#[test]
fn by_name_all_folders_are_one_group() {
    let by = |order: Order, base: &[&str], added: &[&str]| {
        let all: Vec<_> = base.iter().chain(added).copied().collect();
        let (mut old, mut new) = (recipe(base), recipe(&all));
        (old.order, new.order) = (order, order);
        extension(&old, &new, Append::Sorted)
            .map(|paths| paths.iter().map(RelPath::to_string).collect::<Vec<_>>())
            .map_err(|obstacle| obstacle.to_string())
    };
    let base = ["a/001.sql", "a/010.sql"];
    // The tool runs it before a/010.sql, which directories do not show.
    assert_eq!(by(Order::Directory, &base, &["b/005.sql"]), Ok(vec!["b/005.sql".to_owned()]));
    assert_eq!(
        by(Order::Name, &base, &["b/005.sql"]),
        Err("new migration `b/005.sql` sorts before `a/010.sql`".to_owned())
    );
    assert_eq!(
        by(Order::Name, &base, &["c/012.sql", "b/011.sql"]),
        Ok(vec!["b/011.sql".to_owned(), "c/012.sql".to_owned()])
    );
    assert_eq!(
        by(Order::Name, &base, &["b/010.down.sql"]),
        Err("new file `b/010.down.sql` belongs to the same migration as `a/010.sql`".to_owned())
    );
    assert_eq!(
        by(Order::Name, &base, &["b/mod.rs"]),
        Err("new file `b/mod.rs` has no place in the order of the others".to_owned())
    );
    // If each migration has its own directory, the names of these directories are compared.
    let diesel = ["m/2024-01-02-000000_x/up.sql"];
    assert_eq!(
        by(Order::Name, &diesel, &["plugin/m/2023-01-01-000000_y/up.sql"]),
        Err(
            "new migration `plugin/m/2023-01-01-000000_y/up.sql` sorts before `m/2024-01-02-000000_x/up.sql`"
                .to_owned()
        )
    );
}

#[test]
fn groups_are_shown_in_the_order_that_counts() {
    let files = recipe(&["b/10.sql", "b/9.sql", "a/x.rs", "a/2/up.sql", "a/11.sql"]).migrations;
    let shown = |order| {
        let shown = groups(&files, order).into_iter().map(|group| {
            let paths = |paths: Vec<RelPath>| {
                let paths: Vec<String> = paths.iter().map(RelPath::to_string).collect();
                paths.join(" ")
            };
            format!("{}: {} | {}", group.directory, paths(group.ordered), paths(group.unordered))
        });
        shown.collect::<Vec<_>>()
    };
    assert_eq!(shown(Order::Directory), ["a: a/2/up.sql a/11.sql | a/x.rs", "b: b/9.sql b/10.sql | "]);
    assert_eq!(shown(Order::Name), [": a/2/up.sql b/9.sql b/10.sql a/11.sql | a/x.rs"]);
}

/// Liquibase's own examples number change logs behind the first dot.
#[test]
fn digits_after_the_first_dot() {
    let base = [
        "db/db.changelog-master.xml",
        "db/db.changelog-1.2.xml",
        "db/db.changelog-1.9.xml",
        "db/db.changelog-1.10.xml",
        "db/db.changelog-2.xml",
    ];
    in_order(&base);
    appends(&base, &["db/db.changelog-2.1.xml", "db/db.changelog-10.0.xml"]);
    refused(
        &base,
        "db/db.changelog-1.11.xml",
        "new migration `db/db.changelog-1.11.xml` sorts before `db/db.changelog-2.xml`",
    );
    in_order(&["orders.2.sql", "orders.10.sql", "users.1.up.sql"]);
    for none in
        ["users.s3.sql", "setup.v2.sql", "x.mp3", "x.7z", "R__x.1.sql", "B1__x", "a.b-c.sql", "..", ".x"]
    {
        assert!(!has_late_version(&RelPath::new(Path::new(none)), Order::Directory), "{none}");
    }
    // Where a directory is the migration, its name has the order, as before.
    assert_eq!(key("m/2024_x/table.part-1.sql").group().to_string(), "m");
}

/// A recipe whose order another version of this rule would have judged has another fingerprint; all others keep
/// theirs, and both find each other's templates as bases.
#[test]
fn the_rule_for_late_digits_is_in_the_fingerprint() {
    let late = |path: &str| has_late_version(&RelPath::new(Path::new(path)), Order::Directory);
    assert!(late("db/db.changelog-1.10.xml") && !late("db/001_x.sql") && !late("db/V1.1__x.sql"));
    let (with, without) = (recipe(&["db/db.changelog-1.1.xml"]), recipe(&["db/db.changelog-a.xml"]));
    assert_eq!(with.core(), without.core());
}
