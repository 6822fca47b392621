//! Copies of the tree without some migrations, in which a build command runs that cannot stop before them.
//!
//! A copy contains the files of the tree below the root, with their modification times, and the directories above them
//! with mode 0700. The file system shares the blocks if it can (reflinks). There are no hard links, since a hard link
//! changes the change time of the user's file. A copy does not contain:
//!
//! - `.git`, at any level;
//! - what the .gitignore files of the tree hide (`node_modules`, `.venv`), and what cannot be read: there is a link to
//!   the original instead. The same holds for sockets, pipes and devices;
//! - the migrations that are left out, and files next to them whose name differs only in the extension.
//!
//! Links of the tree stay links. A link to a file of the tree leads to its copy; others lead where they led before.
//!
//! The directory is one of the user's cache, and closed to other users. The process that made a copy holds a lock on a
//! file next to it. If the process is killed, the lock is free, and [`clean_up`] removes the copy.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use ignore::WalkBuilder;

use super::file_cache::FileCache;
use super::order::own_directory;
use super::recipe::{Recipe, RelPath};
use super::walk::{Gitignore, builder};
use super::{Inputs, cannot_read};
use crate::config::Definition;
use crate::error::{Error, Result};
use crate::names;
use crate::private_file;
use crate::quantity::{count, size};

/// Most files, directories and links of a tree that is copied.
pub(crate) const MOST_FILES: usize = 50_000;
/// Most bytes of such a tree.
pub(crate) const MOST_BYTES: u64 = 1_000_000_000;
/// Ending of the files that are locked.
const LOCK: &str = "lock";
/// Name of the copy if the root has none.
const TREE: &str = "tree";

/// Copy of a tree, which is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct TreeCopy {
    /// Directory of the copy, in which only the root is.
    place: PathBuf,
    root: PathBuf,
    /// Locked as long as the copy is used.
    lock: Option<File>,
}

impl TreeCopy {
    /// Copies the tree at `root` to a new directory in `directory`, without the migrations that `prefix` lacks and
    /// `later` lists. Checks that the inputs of the copy are those of `prefix`.
    ///
    /// This blocks on the file system: async callers use `spawn_blocking`.
    ///
    /// # Errors
    /// A tree that is too large; migrations that cannot be left out; files that change at the same time; errors of the
    /// system.
    pub(crate) fn create(
        directory: &Path,
        root: &Path,
        definition: &Definition,
        prefix: &Recipe,
        later: &[RelPath],
    ) -> Result<Self> {
        clean_up(directory);
        measure(root)?;
        let root = fs::canonicalize(root).map_err(|e| cannot_read(root, e))?;
        let left_out = LeftOut::find(&root, prefix, later)?;
        let cannot = |e| Error::failed(format!("cannot copy the tree `{}`", root.display())).caused_by(e);
        let copy = Self::reserve(directory, root.file_name().unwrap_or(OsStr::new(TREE))).map_err(cannot)?;
        fill(&root, &copy.root, &left_out).map_err(cannot)?;
        copy.check(definition, prefix)?;
        Ok(copy)
    }

    /// Returns the root of the copy.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Fails if the inputs in the copy are not those of `prefix`.
    ///
    /// # Errors
    /// As for [`TreeCopy::create`].
    pub(crate) fn check(&self, definition: &Definition, prefix: &Recipe) -> Result<()> {
        let inputs = Inputs::read(&FileCache::off(), &self.root, definition, &|_| None)?;
        match inputs.has_files_of(prefix) {
            true => Ok(()),
            false => Err(Error::failed("the copy of the tree has other inputs than the waypoint").detail(
                "either files changed in the meantime, or a link leads to a migration that was left out",
            )),
        }
    }

    /// Creates the directories of a copy, and takes its lock.
    fn reserve(directory: &Path, name: &OsStr) -> io::Result<Self> {
        private_file::create_directories(directory, false).map_err(|(_, e)| e)?;
        // A cleanup may take the lock of a new file first, and remove the file.
        loop {
            let place = directory.join(names::random_text(16));
            let path = place.with_extension(LOCK);
            let lock = private_file::open_file(&path)?;
            let is_ours = lock.try_lock().is_ok()
                && fs::symlink_metadata(&path).is_ok_and(|found| {
                    lock.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
                });
            if !is_ours {
                continue;
            }
            let copy = TreeCopy { root: place.join(name), place, lock: Some(lock) };
            private_file::create_directory(&copy.place)?;
            private_file::create_directory(&copy.root)?;
            return Ok(copy);
        }
    }
}

impl Drop for TreeCopy {
    fn drop(&mut self) {
        // If it cannot be removed now, a cleanup tries again.
        remove(&self.place);
        drop(self.lock.take());
    }
}

/// Removes the copies in `directory` whose processes are gone. Returns their number.
pub(crate) fn clean_up(directory: &Path) -> usize {
    let mut removed = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension() != Some(OsStr::new(LOCK)) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(lock) = private_file::open_file(&path) else { continue };
        if lock.try_lock().is_ok() && remove(&path.with_extension("")) {
            removed += 1;
        }
    }
    removed
}

/// Removes a copy under its lock, and then the file with that lock.
fn remove(place: &Path) -> bool {
    let removed = match private_file::remove_directory(place) {
        Ok(()) => true,
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    };
    removed && fs::remove_file(place.with_extension(LOCK)).is_ok()
}

/// Fails if the tree at `root` is too large for a copy. What the .gitignore files hide does not count.
///
/// # Errors
/// The size, and how to reduce it.
pub(crate) fn measure(root: &Path) -> Result<()> {
    let (mut files, mut bytes) = (0_usize, 0_u64);
    for entry in walk(root).build().flatten() {
        files += 1;
        if entry.file_type().is_some_and(|kind| kind.is_file()) {
            bytes += entry.metadata().map_or(0, |found| found.len());
        }
        if files > MOST_FILES || bytes > MOST_BYTES {
            return Err(Error::failed(format!("the tree `{}` is too large to copy", root.display()))
                .detail(format!(
                    "it has more than {} or {}, without what .gitignore files hide",
                    count(MOST_FILES, "file"),
                    size(i64::try_from(MOST_BYTES).unwrap_or(i64::MAX))
                ))
                .hint(
                    "list in .gitignore what the build does not need, or set `root` to a smaller directory",
                ));
        }
    }
    Ok(())
}

/// A walk over all that is copied, and over links.
fn walk(root: &Path) -> WalkBuilder {
    let mut walk = builder(root, Gitignore::Honour);
    walk.follow_links(false).filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git");
    walk
}

/// The entries that a copy lacks.
struct LeftOut {
    /// Files and directories, relative to the root.
    paths: BTreeSet<PathBuf>,
    /// Names of the files that are left out without their extension and with the dot, by directory.
    names: BTreeMap<PathBuf, Vec<OsString>>,
    /// Inputs of the prefix.
    kept: BTreeSet<PathBuf>,
}

impl LeftOut {
    /// `root`: without links.
    fn find(root: &Path, prefix: &Recipe, later: &[RelPath]) -> Result<Self> {
        let lists = [&prefix.migrations, &prefix.rerun_inputs, &prefix.inputs, &prefix.companions];
        let kept = lists.into_iter().flatten().map(|file| file.path.to_path()).collect();
        let mut left_out = LeftOut { paths: BTreeSet::new(), names: BTreeMap::new(), kept };
        for path in later {
            let whole = own_directory(path, prefix.order);
            let entry = root.join(whole.as_ref().unwrap_or(path).to_path());
            let place = entry.parent().and_then(|parent| fs::canonicalize(parent).ok());
            let place = place.as_deref().and_then(|place| place.strip_prefix(root).ok());
            let (Some(place), Some(name)) = (place, entry.file_name()) else {
                return Err(Error::failed(format!("migration `{path}` is behind a link out of the tree"))
                    .detail("a copy of the tree cannot leave it out"));
            };
            left_out.paths.insert(place.join(name));
            if whole.is_none() {
                left_out.names.entry(place.to_owned()).or_default().push(stem(name));
            }
        }
        Ok(left_out)
    }

    /// Returns whether the copy lacks an entry. A file next to a migration belongs to it if its name has only another
    /// extension: `x.down.sql`, `x.pyc`.
    fn has(&self, path: &Path) -> bool {
        if self.paths.contains(path) {
            return true;
        }
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return false;
        };
        self.names.get(directory).is_some_and(|stems| {
            stems.iter().any(|stem| name.as_bytes().starts_with(stem.as_bytes())) && !self.kept.contains(path)
        })
    }
}

/// Returns the name of a migration up to its extension, with the dot: of `x.up.sql` and `x.sql` it is `x.`.
fn stem(name: &OsStr) -> OsString {
    let name = name.as_bytes();
    let cut = |name: &[u8]| name.iter().rposition(|&b| b == b'.').filter(|dot| *dot > 0);
    let mut end = cut(name).unwrap_or(name.len());
    // `.up`, `.down`, but not `.2__x`.
    if let Some(dot) = cut(&name[..end])
        && name[dot + 1..end].iter().all(u8::is_ascii_alphabetic)
    {
        end = dot;
    }
    let mut stem = OsStr::from_bytes(&name[..end]).to_owned();
    stem.push(".");
    stem
}

/// Copies the tree `from` to the empty directory `to`.
fn fill(from: &Path, to: &Path, left_out: &LeftOut) -> io::Result<()> {
    // The entries of each directory that the walk does not return.
    let mut others: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    for entry in walk(from).build() {
        // A directory that cannot be listed, or an entry that is gone.
        let Ok(entry) = entry else { continue };
        let Ok(path) = entry.path().strip_prefix(from).map(Path::to_owned) else { continue };
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
            if left_out.has(&path) || !others.contains_key(directory) {
                continue;
            }
            if let Some(others) = others.get_mut(directory) {
                others.remove(name);
            }
        }
        let (original, copy) = (entry.path(), to.join(&path));
        let kind = entry.file_type();
        if kind.is_some_and(|kind| kind.is_dir()) {
            match names_in(original) {
                Ok(names) => {
                    others.insert(path, names);
                    if entry.depth() > 0 {
                        private_file::create_directory(&copy)?;
                    }
                }
                Err(_) => link(original, &copy)?,
            }
        } else if kind.is_some_and(|kind| kind.is_symlink()) {
            copy_link(original, &path, from, to)?;
        } else if kind.is_some_and(|kind| kind.is_file()) {
            match private_file::copy_file(original, &copy) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => link(original, &copy)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        } else {
            link(original, &copy)?;
        }
    }
    for (directory, names) in others {
        for name in names {
            let path = directory.join(&name);
            if name != ".git" && !left_out.has(&path) {
                link(&from.join(&path), &to.join(&path))?;
            }
        }
    }
    Ok(())
}

fn names_in(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn link(target: &Path, link: &Path) -> io::Result<()> {
    match symlink(target, link) {
        // It could be listed, but not opened.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Copies the link at `path`, relative to both roots.
fn copy_link(original: &Path, path: &Path, from: &Path, to: &Path) -> io::Result<()> {
    let target = match fs::read_link(original) {
        Ok(target) => target,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let target = match target.strip_prefix(from) {
        Ok(within) => to.join(within),
        Err(_) if target.is_absolute() || stays_within(path, &target) => target,
        Err(_) => original.parent().unwrap_or(from).join(target),
    };
    symlink(target, to.join(path))
}

/// Returns whether a relative link at `path` never leads above the root.
fn stays_within(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    target.components().all(|part| match part {
        Component::ParentDir if depth == 0 => false,
        Component::ParentDir => {
            depth -= 1;
            true
        }
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir | Component::RootDir | Component::Prefix(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::super::prefix;
    use super::super::tests::{Configured, sample};
    use super::*;

    const KEYS: &str = "migrations = [\"**/migrations/*.py\"]\ninputs = [\"settings.py\"]";

    fn tree() -> Configured {
        let files = [
            ("a/migrations/__init__.py", ""),
            ("a/migrations/0001_x.py", "one"),
            ("a/migrations/0002_y.py", "two"),
            ("b/migrations/0001_x.py", "one"),
            ("b/migrations/0002_z.py", "two"),
            ("settings.py", "DEBUG = True"),
            ("manage.py", "migrate"),
            (".gitignore", "node_modules/\n__pycache__\n*.pyc\n.env\n"),
            (".git/HEAD", "ref"),
            ("sub/.git", "gitdir: elsewhere"),
            ("node_modules/left-pad/index.js", "pad"),
            ("a/migrations/__pycache__/0002_y.cpython-311.pyc", "x"),
            ("a/migrations/0001_x.pyc", "x"),
            ("a/migrations/0002_y.pyc", "x"),
            (".env", "SECRET=1"),
        ];
        Configured::new(&files, KEYS)
    }

    /// A copy without the migrations that `edited` and those after it are.
    struct Copied {
        directory: TempDir,
        copy: Result<TreeCopy>,
    }

    impl Configured {
        fn recipe(&self) -> Recipe {
            let server = sample().server;
            Inputs::read(&FileCache::off(), self.root(), &self.definition, &|_| None)
                .unwrap()
                .with_server(server)
        }

        fn copy(&self, edited: &[&str]) -> Copied {
            let recipe = self.recipe();
            let mut old = recipe.clone();
            for file in &mut old.migrations {
                if edited.contains(&file.path.to_string().as_str()) {
                    file.hash = "other".into();
                }
            }
            let prefix = prefix(&old, &recipe).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let copy = TreeCopy::create(
                directory.path(),
                self.root(),
                &self.definition,
                &prefix.recipe,
                &prefix.later,
            );
            Copied { directory, copy }
        }
    }

    impl Copied {
        fn has(&self, path: &str) -> bool {
            fs::symlink_metadata(self.at(path)).is_ok()
        }

        fn at(&self, path: &str) -> PathBuf {
            self.copy.as_ref().unwrap().root().join(path)
        }

        fn is_link(&self, path: &str) -> bool {
            self.at(path).is_symlink()
        }

        fn left(&self) -> usize {
            fs::read_dir(self.directory.path()).unwrap().count()
        }
    }

    #[test]
    fn a_copy_has_all_but_the_later_migrations_and_git() {
        let tree = tree();
        let mut copied = tree.copy(&["a/migrations/0002_y.py", "b/migrations/0002_z.py"]);
        for path in [
            "a/migrations/__init__.py",
            "a/migrations/0001_x.py",
            "b/migrations/0001_x.py",
            "settings.py",
            "manage.py",
            ".gitignore",
        ] {
            assert!(copied.has(path) && !copied.is_link(path), "{path}");
            assert_eq!(fs::read(copied.at(path)).unwrap(), fs::read(tree.at(path)).unwrap(), "{path}");
            let time = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
            assert_eq!(time(copied.at(path)), time(tree.at(path)), "{path}");
            assert_eq!(fs::metadata(tree.at(path)).unwrap().nlink(), 1, "{path}");
        }
        for path in ["node_modules", ".env", "a/migrations/__pycache__", "a/migrations/0001_x.pyc"] {
            let target = fs::read_link(copied.at(path)).unwrap();
            assert_eq!(target, tree.root().canonicalize().unwrap().join(path));
        }
        for path in [
            "a/migrations/0002_y.py",
            "a/migrations/0002_y.pyc",
            "b/migrations/0002_z.py",
            ".git",
            "sub/.git",
        ] {
            assert!(!copied.has(path), "{path}");
        }
        let name = tree.root().canonicalize().unwrap();
        assert_eq!(copied.at("").file_name(), name.file_name());
        let place = copied.at("").parent().unwrap().to_owned();
        for directory in [place.as_path(), &copied.at(""), &copied.at("a/migrations")] {
            assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
        }
        copied.copy = Err(Error::failed(""));
        assert_eq!(copied.left(), 0);
        assert_eq!(tree.at("node_modules/left-pad/index.js").metadata().unwrap().len(), 3);
    }

    #[test]
    fn a_killed_process_leaves_what_a_cleanup_removes() {
        let tree = tree();
        let mut copied = tree.copy(&["a/migrations/0002_y.py"]);
        let directory = copied.directory.path();
        assert_eq!((clean_up(directory), copied.left()), (0, 2));
        // As if the process had been killed: the lock ends, and the copy stays. The build left a closed directory.
        let copy = copied.copy.as_mut().unwrap();
        drop(copy.lock.take());
        let closed = copy.root().join("a");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
        assert_eq!((clean_up(directory), copied.left()), (1, 0));
        assert_eq!(clean_up(&directory.join("none")), 0);
    }

    #[test]
    fn links_lead_to_copies_where_they_can() {
        let tree = tree();
        let outside = tempfile::tempdir().unwrap();
        let link = |target: &Path, path: &str| symlink(target, tree.at(path)).unwrap();
        link(Path::new("../settings.py"), "a/settings.py");
        link(&tree.root().canonicalize().unwrap().join("settings.py"), "absolute.py");
        link(outside.path(), "outside");
        link(Path::new("../.."), "a/above");
        link(Path::new("nowhere"), "broken");
        let copied = tree.copy(&["a/migrations/0002_y.py"]);
        let to = |path: &str| fs::read_link(copied.at(path)).unwrap();
        assert_eq!(to("a/settings.py"), Path::new("../settings.py"));
        assert_eq!(to("absolute.py"), copied.at("settings.py"));
        assert_eq!(to("outside"), outside.path());
        assert_eq!(to("broken"), Path::new("nowhere"));
        let above = copied.at("a/above").canonicalize().unwrap();
        assert_eq!(above, tree.root().parent().unwrap().canonicalize().unwrap());
    }

    #[test]
    fn migrations_behind_links_are_left_out_if_that_is_possible() {
        let tree = tree();
        fs::create_dir(tree.at("c")).unwrap();
        fs::rename(tree.at("b/migrations"), tree.at("shared")).unwrap();
        symlink("../shared", tree.at("b/migrations")).unwrap();
        let copied = tree.copy(&["b/migrations/0002_z.py"]);
        assert!(!copied.has("shared/0002_z.py") && copied.has("shared/0001_x.py"));
        let outside = tempfile::tempdir().unwrap();
        let there = outside.path().join("m");
        fs::rename(tree.at("shared"), &there).unwrap();
        fs::remove_file(tree.at("b/migrations")).unwrap();
        symlink(&there, tree.at("b/migrations")).unwrap();
        let copied = tree.copy(&["b/migrations/0002_z.py"]);
        let error = copied.copy.as_ref().unwrap_err();
        assert_eq!(error.message(), "migration `b/migrations/0002_z.py` is behind a link out of the tree");
        // A link to the file itself is left out, and its target stays.
        let copied = tree.copy(&["a/migrations/0002_y.py"]);
        assert!(copied.has("b/migrations/0002_z.py"));
    }

    #[test]
    fn a_hidden_migration_is_left_out_only_next_to_others() {
        let files = [
            (".gitignore", "local.sql\nhidden/\n"),
            ("migrations/1.sql", "one"),
            ("migrations/2.sql", "two"),
            ("hidden/2.sql", "two"),
        ];
        let tree = Configured::new(&files, "migrations = [\"migrations/*.sql\", \"hidden/2.sql\"]");
        assert!(tree.copy(&["migrations/2.sql"]).copy.is_ok());
        let error = tree.copy(&["hidden/2.sql"]).copy.unwrap_err();
        assert_eq!(error.message(), "the copy of the tree has other inputs than the waypoint");
    }

    #[test]
    fn odd_entries_are_copied_or_linked() {
        let tree = tree();
        let odd = OsStr::from_bytes(b"odd \xff\n'$(x)*.txt");
        fs::write(tree.root().join(odd), "odd").unwrap();
        fs::write(tree.at("closed.txt"), "secret").unwrap();
        fs::set_permissions(tree.at("closed.txt"), fs::Permissions::from_mode(0o0)).unwrap();
        fs::create_dir(tree.at("closed")).unwrap();
        fs::set_permissions(tree.at("closed"), fs::Permissions::from_mode(0o0)).unwrap();
        nix::unistd::mkfifo(&tree.at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let copied = tree.copy(&["a/migrations/0002_y.py"]);
        fs::set_permissions(tree.at("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(fs::read(copied.copy.as_ref().unwrap().root().join(odd)).unwrap(), b"odd");
        assert!(copied.is_link("pipe"));
        // Root reads everything.
        if !nix::unistd::geteuid().is_root() {
            assert!(copied.is_link("closed.txt") && copied.is_link("closed"));
        }
    }

    #[test]
    fn a_migration_with_a_directory_of_its_own_takes_it_along() {
        let files = [
            ("migrations/20240101000000_a/migration.sql", "one"),
            ("migrations/20240102000000_b/migration.sql", "two"),
            ("migrations/20240102000000_b/README.md", "why"),
        ];
        let tree = Configured::new(&files, "migrations = [\"migrations/*/*.sql\"]");
        let copied = tree.copy(&["migrations/20240102000000_b/migration.sql"]);
        assert!(copied.has("migrations/20240101000000_a/migration.sql"));
        assert!(!copied.has("migrations/20240102000000_b"));
    }

    #[test]
    fn a_file_belongs_to_a_migration_by_its_name() {
        let stem = |name: &str| super::stem(OsStr::new(name)).into_string().unwrap();
        assert_eq!(stem("0001_x.py"), "0001_x.");
        assert_eq!(stem("0001_x.up.sql"), "0001_x.");
        assert_eq!(stem("V1.2__x.sql"), "V1.2__x.");
        assert_eq!(stem("1"), "1.");
        assert_eq!(stem("1.sql"), "1.");
    }

    #[test]
    fn a_large_tree_is_refused() {
        let tree = tree();
        measure(tree.root()).unwrap();
        let large = File::create(tree.at("node_modules/large")).unwrap();
        large.set_len(MOST_BYTES + 1).unwrap();
        measure(tree.root()).unwrap();
        let large = File::create(tree.at("large")).unwrap();
        large.set_len(MOST_BYTES + 1).unwrap();
        let copied = tree.copy(&["a/migrations/0002_y.py"]);
        assert_eq!(copied.left(), 0);
        let error = copied.copy.unwrap_err();
        assert!(error.message().ends_with("is too large to copy"), "{}", error.message());
        assert_eq!(
            error.details()[0],
            "it has more than 50000 files or 1.0 GB, without what .gitignore files hide"
        );
    }
}
