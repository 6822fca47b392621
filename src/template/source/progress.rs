//! Progress of a build, read from the lines that its migration tool prints.

use std::collections::{BTreeSet, HashMap};

use crate::fingerprint::{Migration, Recipe, migrations};

/// Reader of the output of a build. Migration tools print the name of each migration that they run, in one form
/// or another: `Applying shop.0007_price... OK` (Django), `Applying: 20240102_users.sql` (dbmate), `Running
/// upgrade 1f2e3d4c -> 5b6a7988, users` (Alembic).
pub(in crate::template) struct Progress {
    /// The migrations that have a name, by each form of the name.
    names: HashMap<String, Vec<usize>>,
    folders: Vec<Vec<String>>,
    total: usize,
    named: BTreeSet<usize>,
    last: Option<usize>,
}

impl Progress {
    /// Creates the reader of a full build.
    pub(in crate::template) fn of(recipe: &Recipe) -> Self {
        Progress::new(&migrations(recipe.migrations.iter().map(|file| &file.path)))
    }

    /// Creates the reader of a build that runs these migrations.
    pub(in crate::template) fn new(migrations: &[Migration]) -> Self {
        let mut names: HashMap<String, Vec<usize>> = HashMap::new();
        let mut folders = Vec::new();
        for (i, migration) in migrations.iter().enumerate() {
            for file in &migration.files {
                for name in forms(&file.to_string()) {
                    let of = names.entry(name).or_default();
                    if of.last() != Some(&i) {
                        of.push(i);
                    }
                }
            }
            let path = migration.files.first().map(ToString::to_string);
            let path = path.unwrap_or_default();
            let above = path.rsplit('/').skip(1).map(str::to_lowercase);
            folders.push(above.collect());
        }
        // The name of a file or directory that all migrations share says nothing.
        if migrations.len() > 1 {
            names.retain(|_, of| of.len() < migrations.len());
        }
        Progress { names, folders, total: migrations.len(), named: BTreeSet::new(), last: None }
    }

    /// Reads one line. Returns the number of migrations named so far, and their total, once one was named.
    pub(in crate::template) fn read(&mut self, line: &str) -> Option<(usize, usize)> {
        let line = line.to_lowercase();
        let words: Vec<&str> = line
            .split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))
            .map(|word| word.trim_matches('.'))
            .filter(|word| !word.is_empty())
            .collect();
        for word in &words {
            // `shop.0007_price` is the app and the name.
            let dots = word.match_indices('.').map(|(at, _)| &word[at + 1..]);
            for name in std::iter::once(*word).chain(dots) {
                if let Some(found) = self.find(name, word, &words) {
                    self.note(found);
                    break;
                }
            }
        }
        self.last.map(|_| (self.named.len(), self.total))
    }

    /// Returns the migration that a name means: of several with that name the one in a directory that the line
    /// names, too, else the first that was not named yet.
    fn find(&self, name: &str, word: &str, words: &[&str]) -> Option<usize> {
        let of = self.names.get(name)?;
        if let [one] = of.as_slice() {
            return Some(*one);
        }
        let parts = |folder: &String| word.split('.').chain(words.iter().copied()).any(|w| w == folder);
        let near = of.iter().find(|i| self.folders[**i].iter().any(parts));
        let new = || of.iter().find(|i| !self.named.contains(i));
        near.or_else(new).copied()
    }

    fn note(&mut self, migration: usize) {
        let again = !self.named.insert(migration);
        // A tool that lists its migrations before it runs them names all of them first.
        if again && self.last != Some(migration) {
            self.named.retain(|i| *i <= migration);
        }
        self.last = Some(migration);
    }
}

/// Returns the words by which a tool may name the migration of a file, in lower case.
fn forms(path: &str) -> Vec<String> {
    let path = path.to_lowercase();
    let mut parts = path.rsplit('/');
    let file = parts.next().unwrap_or_default();
    let folder = parts.next().unwrap_or_default();
    let numbered = |name: &str| name.bytes().any(|b| b.is_ascii_digit());
    let mut forms = Vec::new();
    let name = match (numbered(file), numbered(folder)) {
        (false, true) => folder,
        _ => file,
    };
    forms.push(name.to_owned());
    if name == file {
        // `1.2_x.up.sql` is also `1.2_x.up` and `1.2_x`.
        let mut stem = name;
        while let Some((shorter, end)) = stem.rsplit_once('.')
            && end.bytes().all(|b| b.is_ascii_alphabetic())
        {
            forms.push(shorter.to_owned());
            stem = shorter;
        }
    }
    // A time or a hash at the start identifies the whole name.
    let begin = name.split(['_', '.']).next().unwrap_or_default();
    if numbered(begin) {
        forms.push(begin.to_owned());
    }
    forms.retain(|form| {
        let short = form.len() < 8;
        let is_number = form.bytes().all(|b| b.is_ascii_digit());
        // A short number would match anywhere.
        !(COMMON.contains(&form.as_str()) || short && (is_number || form == begin))
    });
    forms
}

/// Names of files that say nothing about a migration.
const COMMON: [&str; 6] = ["__init__", "up", "down", "migration", "metadata", "index"];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fingerprint::{RelPath, migrations};

    fn of(paths: &[&str]) -> Progress {
        let paths: Vec<_> = paths.iter().map(|p| RelPath::new(Path::new(p))).collect();
        Progress::new(&migrations(&paths))
    }

    #[track_caller]
    fn reads(progress: &mut Progress, lines: &[(&str, Option<(usize, usize)>)]) {
        for (line, expected) in lines {
            assert_eq!(progress.read(line), *expected, "{line}");
        }
    }

    #[test]
    fn django_names_app_and_migration() {
        let mut progress = of(&[
            "shop/migrations/__init__.py",
            "shop/migrations/0001_initial.py",
            "shop/migrations/0002_price.py",
            "users/migrations/0001_initial.py",
        ]);
        reads(
            &mut progress,
            &[
                ("Operations to perform:", None),
                ("  Applying users.0001_initial... OK", Some((1, 3))),
                ("  Applying contenttypes.0009_other... OK", Some((1, 3))),
                ("  Applying shop.0001_initial... OK", Some((2, 3))),
                ("  Applying shop.0002_price... OK", Some((3, 3))),
            ],
        );
    }

    #[test]
    fn other_tools_name_files_folders_and_versions() {
        let mut dbmate = of(&["db/20240102_users.sql", "db/20240103_items.sql"]);
        reads(
            &mut dbmate,
            &[
                ("Applying: 20240102_users.sql", Some((1, 2))),
                ("Applied: 20240102_users.sql in 3ms", Some((1, 2))),
                ("Applying: 20240103_items.sql", Some((2, 2))),
            ],
        );
        let mut alembic = of(&["versions/1f2e3d4c5b6a_users.py", "versions/99887766aabb_items.py"]);
        reads(
            &mut alembic,
            &[
                ("INFO  Running upgrade  -> 1f2e3d4c5b6a, users", Some((1, 2))),
                ("INFO  Running upgrade 1f2e3d4c5b6a -> 99887766aabb, items", Some((2, 2))),
            ],
        );
        let mut prisma = of(&[
            "prisma/migrations/20240102030405_a/migration.sql",
            "prisma/migrations/20240202030405_b/migration.sql",
        ]);
        reads(
            &mut prisma,
            &[
                ("Applying migration `20240102030405_a`", Some((1, 2))),
                ("Applying migration `20240202030405_b`", Some((2, 2))),
            ],
        );
        let mut sqlx = of(&["migrations/20240102030405_users.sql", "migrations/20240202030405_b.sql"]);
        reads(&mut sqlx, &[("Applied 20240102030405/migrate users (5ms)", Some((1, 2)))]);
        let mut psql = of(&["migrations/0001_users.sql", "migrations/0002_b.sql"]);
        reads(
            &mut psql,
            &[
                ("psql:/home/me/migrations/0001_users.sql:3: NOTICE: x", Some((1, 2))),
                ("1 row, 2 rows", Some((1, 2))),
            ],
        );
    }

    #[test]
    fn a_list_at_the_beginning_is_not_taken_for_the_work() {
        let mut progress = of(&["m/001_a.js", "m/002_b.js", "m/003_c.js"]);
        for name in ["001_a", "002_b", "003_c"] {
            progress.read(&format!("> - {name}"));
        }
        reads(
            &mut progress,
            &[
                ("### MIGRATION 001_a (UP) ###", Some((1, 3))),
                ("### MIGRATION 002_b (UP) ###", Some((2, 3))),
                ("### MIGRATION 003_c (UP) ###", Some((3, 3))),
            ],
        );
    }

    #[test]
    fn lines_that_name_nothing_say_nothing() {
        let mut progress = of(&["m/1/up.sql", "m/2/up.sql"]);
        reads(&mut progress, &[("up and down", None), ("2024-01-01 12:00:00 up.sql", None)]);
    }
}
