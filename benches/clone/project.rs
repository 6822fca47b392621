//! Projects to measure with: generated ones, and the configs that the bench runs any project with.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A project of SQL files.
pub(crate) struct Generated {
    folder: TempDir,
    what: String,
}

impl Generated {
    /// One table a migration, each with two indexes, a sequence, a foreign key and twenty rows.
    pub(crate) fn tables(count: usize) -> Self {
        let migrations = (0..count).map(|i| {
            format!(
                "create table t{i} (id serial primary key, a text, b int references t{}(id));\n\
                 create index on t{i} (a);\n\
                 insert into t{i} (a) select 'x' || g from generate_series(1, 20) g;\n",
                i.saturating_sub(1)
            )
        });
        Self::new(format!("{count} tables"), &format!("bench{count}"), migrations)
    }

    /// One table a migration, empty, each with two indexes, a sequence and a foreign key to the first of its ten.
    pub(crate) fn empty_tables(count: usize) -> Self {
        let migrations = (0..count).map(|i| {
            format!(
                "create table t{i} (id serial primary key, a text, b int references t{}(id));\n\
                 create index on t{i} (a);\n",
                i - i % 10
            )
        });
        Self::new(format!("{count} empty tables"), &format!("empty{count}"), migrations)
    }

    /// A few tables with many rows, so that the files are about so large.
    pub(crate) fn megabytes(size: usize) -> Self {
        const TABLES: usize = 5;
        // A row takes 1 kB in the table, and its index is small beside that.
        let rows = size * 1_000_000 / TABLES / 1_205;
        let migrations = (0..TABLES).map(|i| {
            let text = (1..=8).map(|n| format!("md5((g * {n})::text)")).collect::<Vec<_>>().join(" || ");
            format!(
                "create table big{i} (id int primary key, a text);\n\
                 insert into big{i} select g, repeat({text}, 4) from generate_series(1, {rows}) g;\n"
            )
        });
        Self::new(format!("{TABLES} tables"), &format!("bench{size}mb"), migrations)
    }

    fn new(what: String, project: &str, migrations: impl Iterator<Item = String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("migrations")).unwrap();
        for (i, sql) in migrations.enumerate() {
            std::fs::write(folder.path().join(format!("migrations/{i:04}.sql")), sql).unwrap();
        }
        let config = format!(
            "project = \"{project}\"\n\n[template.app]\nmigrations = [\"migrations/*.sql\"]\n\
             build = 'cat migrations/*.sql | psql -XqAt -v ON_ERROR_STOP=1 \"$DATABASE_URL\"'\n"
        );
        std::fs::write(folder.path().join("pgstencil.toml"), config).unwrap();
        Generated { folder, what }
    }

    pub(crate) fn what(&self) -> String {
        self.what.clone()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

/// How many clones wait ahead of time where clones are to be warm: as many as are asked for at once.
pub(crate) const WARM: usize = 8;

/// Writes a config beside the project's own, under another name and with so many warm clones. Templates
/// of different names have nothing to do with each other, so the cold ones stay cold.
pub(crate) fn write_config(project: &Path, registry: &str, name: &str, warm: usize, file: &Path) {
    let text = std::fs::read_to_string(project.join("pgstencil.toml")).unwrap();
    let mut config: toml::Table = toml::from_str(&text).unwrap();
    let root = match config.get("root") {
        Some(root) => project.join(root.as_str().unwrap()),
        None => project.to_owned(),
    };
    config.insert("project".into(), name.into());
    config.insert("root".into(), root.to_str().unwrap().into());
    let section = |config: &mut toml::Table, section: &str, key: &str, value: toml::Value| {
        let table = config.entry(section).or_insert_with(|| toml::Table::new().into());
        table.as_table_mut().unwrap().insert(key.into(), value);
    };
    section(&mut config, "server", "registry", registry.into());
    section(&mut config, "clone", "warm", i64::try_from(warm).unwrap().into());
    section(&mut config, "clone", "warm_max", i64::try_from(warm.max(WARM)).unwrap().into());
    std::fs::write(file, toml::to_string(&config).unwrap()).unwrap();
}

/// A table.
pub(crate) fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    writeln!(text, "\n| {} |", head.join(" | ")).unwrap();
    writeln!(text, "|{}", "---|".repeat(head.len())).unwrap();
    for row in rows {
        writeln!(text, "| {} |", row.join(" | ")).unwrap();
    }
    text
}
