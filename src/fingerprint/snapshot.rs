//! [`Snapshot`]: the metadata of the inputs, without their content. Two snapshots show that a file was
//! written to even if its content is the same again, as after `git stash` and `pop`: a build in between may
//! have read anything.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_cache::Stat;
use super::globs::Globs;
use super::recipe::RelPath;
use super::walk::{Gitignore, walk};
use crate::config::Definition;
use crate::error::Result;

/// The metadata of the files that decide the result of a build, and of the directories that may contain such
/// files.
#[derive(Clone)]
pub(crate) struct Snapshot {
    root: PathBuf,
    globs: Arc<Globs>,
    files: BTreeMap<RelPath, Stat>,
    directories: BTreeMap<RelPath, Directory>,
}

/// A directory that was walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directory {
    inode: u64,
    modified: (i64, i64),
    /// Names and inodes of all entries, including those that no glob reaches.
    entries: BTreeMap<OsString, u64>,
}

/// A change between two snapshots. `Display` prints one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// An input file is new.
    Came(RelPath),
    /// An input file is gone.
    Went(RelPath),
    /// An input file was written to, or touched.
    Written(RelPath),
    /// An input file was replaced by another file, possibly with the same content.
    Replaced(RelPath),
    /// Something was created in a directory and removed again; the path of the root is empty.
    Passed(RelPath),
}

impl Change {
    /// Returns the path that changed.
    pub(crate) fn path(&self) -> &RelPath {
        match self {
            Change::Came(path)
            | Change::Went(path)
            | Change::Written(path)
            | Change::Replaced(path)
            | Change::Passed(path) => path,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Came(path) => write!(f, "`{path}` is new"),
            Change::Went(path) => write!(f, "`{path}` is gone"),
            Change::Written(path) => write!(f, "`{path}` was written to"),
            Change::Replaced(path) => write!(f, "`{path}` was replaced"),
            Change::Passed(path) if path.as_bytes().is_empty() => {
                write!(f, "something was created in the root directory and removed again")
            }
            Change::Passed(path) => {
                write!(f, "something was created in directory `{path}` and removed again")
            }
        }
    }
}

impl Snapshot {
    /// Records the metadata of the files that `definition` names below `root`. Reads no file.
    ///
    /// This blocks on the file system: async callers use `spawn_blocking`.
    ///
    /// # Errors
    /// As [`super::Inputs::read`], except for errors about the content of files; a glob without a match is
    /// not an error.
    pub(crate) fn take(root: &Path, definition: &Definition) -> Result<Self> {
        let globs = Arc::new(Globs::compile(root, definition)?);
        let walked = walk(root, &globs, Gitignore::Honour, true)?;
        let lines = definition.input_lines.iter();
        let paths: BTreeSet<RelPath> = walked
            .files
            .into_iter()
            .map(|found| found.path)
            .chain(lines.map(|wanted| RelPath::new(Path::new(&*wanted.file))))
            .collect();
        let mut files = BTreeMap::new();
        for path in paths {
            // A file that is gone since the walk is missing from the snapshot; the next comparison reports
            // it.
            if let Ok(found) = fs::metadata(root.join(path.to_path())) {
                files.insert(path, Stat::of(&found));
            }
        }
        Ok(Snapshot { root: root.to_owned(), globs, files, directories: walked.directories })
    }

    /// Returns the changes from this snapshot to a later one of the same definition, sorted. Empty if nothing
    /// wrote to the inputs in between.
    pub(crate) fn changes(&self, later: &Snapshot) -> Vec<Change> {
        let mut changes = BTreeSet::new();
        for (path, old) in &self.files {
            let path = path.clone();
            match later.files.get(&path) {
                None => changes.insert(Change::Went(path)),
                Some(new) if (old.device, old.inode) != (new.device, new.inode) => {
                    changes.insert(Change::Replaced(path))
                }
                Some(new) if old != new => changes.insert(Change::Written(path)),
                Some(_) => false,
            };
        }
        for path in later.files.keys() {
            if !self.files.contains_key(path) {
                changes.insert(Change::Came(path.clone()));
            }
        }
        for (path, old) in &self.directories {
            if let Some(new) = later.directories.get(path)
                && (old.inode, old.modified) != (new.inode, new.modified)
                && !self.explains(later, path, old, new)
            {
                changes.insert(Change::Passed(path.clone()));
            }
        }
        changes.into_iter().collect()
    }

    /// Returns whether the entries of a directory explain why its time changed, or no input can have been
    /// created there.
    fn explains(&self, later: &Snapshot, path: &RelPath, old: &Directory, new: &Directory) -> bool {
        let directory = path.to_path();
        // An entry that was added or removed explains the new time. Inputs among the entries, or below them,
        // are reported by themselves.
        let differs =
            |(name, inode): (&OsString, &u64), other: &Directory| other.entries.get(name) != Some(inode);
        let came = new.entries.iter().filter(|e| differs(*e, old));
        let went = old.entries.iter().filter(|e| differs(*e, new));
        let own = |name: &OsStr| {
            let entry = RelPath::new(&directory.join(name));
            later.files.contains_key(&entry)
        };
        if came.chain(went).next().is_some() {
            return true;
        }
        let has = |name: &str| new.entries.contains_key(OsStr::new(name));
        if !self.globs.can_gain(&directory, has) {
            return true;
        }
        // If only a directory with inputs could have been created and removed here, an editor's temporary
        // file is the likelier reason, provided that something in this directory was written at that time.
        !self.globs.chooses_in(&directory)
            && new.entries.keys().filter(|name| !own(name)).any(|name| {
                let entry = fs::symlink_metadata(self.root.join(&directory).join(name));
                entry.is_ok_and(|e| !e.is_dir() && (e.ctime() - new.modified.0).abs() <= 2)
            })
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("files", &self.files)
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}

impl Directory {
    /// Lists the directory, then reads its time: whatever is created in between is not an input of a build
    /// that begins later.
    pub(super) fn list(path: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            entries.insert(entry.file_name(), entry.ino());
        }
        let found = fs::metadata(path)?;
        Ok(Directory { inode: found.ino(), modified: (found.mtime(), found.mtime_nsec()), entries })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::super::tests::Configured;
    use super::*;

    /// Returns a tree with two migrations, and the definition with the given `keys`.
    fn configured(keys: &str) -> Configured {
        let files = [
            ("shop/migrations/1.sql", "one"),
            ("shop/migrations/2.sql", "two"),
            ("bin/x.sh", "migrate"),
            ("README", "read me"),
        ];
        Configured::new(&files, keys)
    }

    impl Configured {
        /// Returns the changes that are reported after `build`.
        fn told(&self, build: impl FnOnce()) -> Vec<String> {
            let look = || Snapshot::take(&self.root().canonicalize().unwrap(), &self.definition).unwrap();
            let before = look();
            tick();
            build();
            before.changes(&look()).iter().map(Change::to_string).collect()
        }
    }

    /// Waits until the clock of the file system has advanced, which may take some milliseconds.
    fn tick() {
        let directory = tempfile::TempDir::new().unwrap();
        let probe = directory.path().join("probe");
        let time = || {
            fs::write(&probe, "").unwrap();
            fs::metadata(&probe).unwrap().modified().unwrap()
        };
        let before = time();
        while time() == before {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    const ANYWHERE: &str = "migrations = [\"**/migrations/*.sql\"]";
    const THERE: &str = "migrations = [\"shop/migrations/*.sql\"]";
    const NOTHING: [&str; 0] = [];

    #[test]
    fn a_file_that_holds_again_what_it_held_was_written_to() {
        let tree = configured(ANYWHERE);
        let file = tree.at("shop/migrations/2.sql");
        assert_eq!(tree.told(|| drop(fs::read(&file))), NOTHING);
        let rewritten = tree.told(|| {
            fs::write(&file, "three").unwrap();
            fs::write(&file, "two").unwrap();
        });
        assert_eq!(rewritten, ["`shop/migrations/2.sql` was written to"]);
        let with_its_old_time = tree.told(|| {
            let times = fs::metadata(&file).unwrap().modified().unwrap();
            fs::write(&file, "owt").unwrap();
            fs::write(&file, "two").unwrap();
            let open = File::options().write(true).open(&file).unwrap();
            open.set_times(FileTimes::new().set_modified(times)).unwrap();
        });
        assert_eq!(with_its_old_time, ["`shop/migrations/2.sql` was written to"]);
        let stashed_and_popped = tree.told(|| {
            fs::remove_file(&file).unwrap();
            fs::write(tree.at("other"), "").unwrap();
            fs::write(&file, "two").unwrap();
        });
        // A file system may reuse the inode, also for the file that took its place; then only the time of the
        // directory shows that it was gone.
        match &stashed_and_popped.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["`shop/migrations/2.sql` was replaced"]
            | [
                "`shop/migrations/2.sql` was written to",
                "something was created in directory `shop/migrations` and removed again",
            ] => {}
            other => panic!("{other:?}"),
        }
        let renamed_over = tree.told(|| {
            tree.write("shop/migrations/2.sql~", "two");
            fs::rename(tree.at("shop/migrations/2.sql~"), &file).unwrap();
        });
        assert_eq!(renamed_over, ["`shop/migrations/2.sql` was replaced"]);
    }

    #[test]
    fn files_that_come_and_go_are_told() {
        let tree = configured(ANYWHERE);
        let came = tree.told(|| tree.write("shop/migrations/3.sql", "three"));
        assert_eq!(came, ["`shop/migrations/3.sql` is new"]);
        let went = tree.told(|| fs::remove_file(tree.at("shop/migrations/3.sql")).unwrap());
        assert_eq!(went, ["`shop/migrations/3.sql` is gone"]);
        let passed = tree.told(|| {
            tree.write("shop/migrations/4.sql", "four");
            fs::remove_file(tree.at("shop/migrations/4.sql")).unwrap();
        });
        assert_eq!(passed, ["something was created in directory `shop/migrations` and removed again"]);
        let directory_passed = tree.told(|| {
            tree.write("other/migrations/1.sql", "one");
            fs::remove_dir_all(tree.at("other")).unwrap();
            // Excludes the likelier reason: the directory was written to long ago.
            let open = File::open(tree.root()).unwrap();
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
            open.set_times(FileTimes::new().set_modified(later)).unwrap();
        });
        assert_eq!(directory_passed, ["something was created in the root directory and removed again"]);
    }

    #[test]
    fn what_comes_beside_the_globs_explains_a_directory() {
        let tree = configured(ANYWHERE);
        let bytecode = tree.told(|| tree.write("shop/migrations/__pycache__/1.pyc", "x"));
        assert_eq!(bytecode, NOTHING);
        let log = tree.told(|| tree.write("shop/migrations/migrate.log", "x"));
        assert_eq!(log, NOTHING);
        let gone = tree.told(|| fs::remove_file(tree.at("shop/migrations/migrate.log")).unwrap());
        assert_eq!(gone, NOTHING);
        let saved_by_an_editor = tree.told(|| {
            tree.write(".README.swp", "x");
            tree.write("README", "read me, too");
            fs::remove_file(tree.at(".README.swp")).unwrap();
        });
        assert_eq!(saved_by_an_editor, NOTHING);
    }

    #[test]
    fn where_nothing_that_counts_can_come_nothing_is_told() {
        let tree = configured(THERE);
        let passing = || {
            for path in ["x", "shop/x", "bin/x", "shop/migrations/static/x"] {
                tree.write(path, "x");
                fs::remove_file(tree.at(path)).unwrap();
            }
        };
        fs::create_dir(tree.at("shop/migrations/static")).unwrap();
        assert_eq!(tree.told(passing), NOTHING);
        let tree = configured("migrations = [\"**/*.sql\", \"!static/**\"]");
        fs::create_dir(tree.at("static")).unwrap();
        let passing = || {
            tree.write("static/x", "x");
            fs::remove_file(tree.at("static/x")).unwrap();
        };
        assert_eq!(tree.told(passing), NOTHING);
    }

    #[test]
    fn a_hidden_file_that_is_named_is_looked_at() {
        let tree = configured(&format!("{THERE}\ninputs = [\"local.cfg\"]"));
        tree.write(".gitignore", "local.cfg");
        tree.write("local.cfg", "one");
        let told = tree.told(|| tree.write("local.cfg", "one"));
        assert_eq!(told, ["`local.cfg` was written to"]);
        let told = tree.told(|| fs::remove_file(tree.at("local.cfg")).unwrap());
        assert_eq!(told, ["`local.cfg` is gone"]);
    }

    #[test]
    fn lines_and_files_that_the_command_names_are_looked_at() {
        let keys = format!("{THERE}\ninput_lines = [{{ file = \"lock\", match = \"a\" }}]");
        let tree = configured(&keys);
        tree.write("lock", "a");
        let told = tree.told(|| {
            tree.write("lock", "a");
            tree.write("bin/x.sh", "migrate");
            tree.write("README", "");
        });
        assert_eq!(told, ["`bin/x.sh` was written to", "`lock` was written to"]);
        let unnamed = configured(&format!("{THERE}\nbuild_inputs = false"));
        assert_eq!(unnamed.told(|| unnamed.write("bin/x.sh", "migrate")), NOTHING);
    }
}
