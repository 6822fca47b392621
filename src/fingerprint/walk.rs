//! The walk over the tree: finds the files that the globs select.
//!
//! The result must be the same on every machine that has the same files. So every filter of
//! [`ignore::WalkBuilder`] is set here, with its reason, and none keeps its default.
//!
//! # Symlinks
//!
//! - A link to a file counts under its own path, with the content of the file that it points to.
//! - A link to a directory is followed, wherever it leads; its files count under the link's path. Two kinds
//!   of links are not followed, without an error: a link to a directory that contains the root (it would
//!   include the neighbours of the root), and a link to a directory that the walk is currently in (a loop).
//! - A broken link is an error if a glob selects its own path, otherwise it is ignored.
//!
//! # Files that .gitignore hides
//!
//! A path that a key names without wildcards counts even if it is ignored: a named local settings file is
//! meant. `.git` stays excluded.
//!
//! # Special files
//!
//! A FIFO, socket or device that a glob selects is an error. It is never opened, since that can block
//! indefinitely.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::SystemTime;

use ignore::{DirEntry, WalkBuilder, WalkState};

use super::file_cache::Stat;
use super::globs::{Globs, INPUTS, KEYS, Kinds};
use super::ignored::hidden_by;
use super::recipe::RelPath;
use super::snapshot::Directory;
use crate::error::{Error, Result};

/// Selected file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: RelPath,
    /// Keys that select it.
    pub(super) kinds: Kinds,
    /// Whether it is an input only because the build command names it.
    pub(super) named: bool,
}

/// Result of a walk.
pub(super) struct Walked {
    /// Selected files, sorted by path.
    pub(super) files: Vec<Found>,
    /// For each glob, whether it matches any file, even if a later glob excludes it.
    pub(super) seen: Vec<bool>,
    /// Directories that were entered, if the walk lists them.
    pub(super) directories: BTreeMap<RelPath, Directory>,
}

/// Item that the walk found.
enum Sight {
    File(Found),
    Directory(RelPath, Directory),
}

/// Whether .gitignore files are honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gitignore {
    Honour,
    Disregard,
}

/// Returns a [`WalkBuilder`] with every filter set.
pub(super) fn builder(root: &Path, gitignore: Gitignore) -> WalkBuilder {
    let mut walk = WalkBuilder::new(root);
    walk
        // The tree's own .gitignore files list files created on this machine: caches, build output.
        .git_ignore(gitignore == Gitignore::Honour)
        // They also count without a .git directory: in a tarball, or in a container after COPY. This also
        // makes a nested repository (submodule) obey the outer files in every case.
        .require_git(false)
        // The user's own ignore file differs from person to person.
        .git_global(false)
        // .git/info/exclude is never committed.
        .git_exclude(false)
        // The directories above the root differ on another machine.
        .parents(false)
        // .ignore files are for search tools: no one expects them to change a database.
        .ignore(false)
        // A name with a leading dot is a name like any other.
        .hidden(false)
        // The files of a file system that folds case are still different files on another one.
        .ignore_case_insensitive(false)
        // See the symlink rule above.
        .follow_links(true)
        // A mounted directory (a volume in a container) is a part of the tree.
        .same_file_system(false)
        // Neither depth nor size makes a file less of an input.
        .max_depth(None)
        .max_filesize(None)
        // It does not matter here whether the output of pgstencil goes into the tree.
        .skip_stdout(false)
        // One thread per core, up to a limit.
        .threads(0);
    walk
}

/// Finds the files below `root` that `globs` select. The walk enters neither `.git` nor a directory that no
/// positive glob reaches. `list`: also lists the directories.
///
/// # Errors
///
/// [`crate::Kind::Failed`], with the path, if a selected path is not a file, or if a path that may be
/// selected cannot be examined. If there are several, the first by path.
pub(super) fn walk(root: &Path, globs: &Arc<Globs>, gitignore: Gitignore, list: bool) -> Result<Walked> {
    let real_root = real(root)?;
    let mut builder = builder(root, gitignore);
    let (filter_globs, filter_root) = (Arc::clone(globs), root.to_owned());
    builder.filter_entry(move |entry| enters(entry, &filter_globs, &filter_root, &real_root));

    let seen: Vec<AtomicBool> = globs.iter().map(|_| AtomicBool::new(false)).collect();
    let (send, receive) = mpsc::channel();
    builder.build_parallel().run(|| {
        let mut visitor =
            Visitor { root, globs, gitignore, list, seen: &seen, hits: Vec::new(), named: None };
        let send = send.clone();
        Box::new(move |entry| {
            let found = visitor.visit(entry);
            // Ignored directories may hold anything: broken links, sockets, closed directories.
            let found = found.filter(|f| f.is_ok() || gitignore == Gitignore::Honour);
            if let Some(found) = found {
                // The receiver outlives the walk.
                let _ = send.send(found);
            }
            WalkState::Continue
        })
    });
    drop(send);

    let mut files = Vec::new();
    let mut directories = BTreeMap::new();
    let mut failures = Vec::new();
    for found in receive {
        match found {
            Ok(Sight::File(file)) => files.push(file),
            Ok(Sight::Directory(path, directory)) => drop(directories.insert(path, directory)),
            Err(failure) => failures.push(failure),
        }
    }
    first(failures)?;
    let mut seen: Vec<bool> = seen.into_iter().map(AtomicBool::into_inner).collect();
    if gitignore == Gitignore::Honour {
        files.extend(hidden_files(root, globs, &mut seen)?);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Walked { files, seen, directories })
}

fn first(mut failures: Vec<Failure>) -> Result<()> {
    failures.sort_by(|(a, _), (b, _)| a.cmp(b));
    failures.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

/// Result of [`list`].
#[derive(Default)]
pub(super) struct Listing {
    pub(super) entered: BTreeMap<RelPath, Entered>,
    /// Directories that the walk would have entered if they were not among the leaves.
    pub(super) left: BTreeSet<RelPath>,
}

/// Directory, and the files in it that the globs select.
pub(super) struct Entered {
    /// `stat` of the directory, from before it was listed.
    pub(super) stat: Option<Stat>,
    /// `stat` of its `.gitignore`, from before that was read.
    pub(super) gitignore: Option<Stat>,
    /// Time at which these were read.
    pub(super) at: SystemTime,
    pub(super) files: Vec<Found>,
    /// Files that the build command names and about which no glob decides, and whether they are text.
    pub(super) named: Vec<(RelPath, bool)>,
    /// Globs that match a file here.
    pub(super) seen: BTreeSet<usize>,
}

impl Entered {
    fn look(path: &Path) -> Self {
        let at = SystemTime::now();
        let (stat, gitignore) = (Stat::read(path).ok(), Stat::read(&path.join(".gitignore")).ok());
        Entered { stat, gitignore, at, files: Vec::new(), named: Vec::new(), seen: BTreeSet::new() }
    }
}

/// Walks as [`walk`] does, without entering `leaves`, and returns the files that the globs select in each directory.
/// The files that only [`hidden_files`] finds are not among them.
///
/// # Errors
/// As [`walk`].
pub(super) fn list(root: &Path, globs: &Arc<Globs>, leaves: BTreeSet<RelPath>) -> Result<Listing> {
    let real_root = real(root)?;
    let mut builder = builder(root, Gitignore::Honour);
    if !leaves.is_empty() {
        // There is little left to list.
        builder.threads(1);
    }
    let listing = Listing {
        entered: BTreeMap::from([(RelPath::new(Path::new("")), Entered::look(root))]),
        ..Listing::default()
    };
    let listing = Arc::new(Mutex::new(listing));
    let (filter_globs, filter_root, noted) = (Arc::clone(globs), root.to_owned(), Arc::clone(&listing));
    builder.filter_entry(move |entry| {
        if !enters(entry, &filter_globs, &filter_root, &real_root) {
            return false;
        }
        let relative = entry.path().strip_prefix(&filter_root);
        let (Ok(relative), Some(true)) = (relative, entry.file_type().map(|kind| kind.is_dir())) else {
            return true;
        };
        let path = RelPath::new(relative);
        if leaves.contains(&path) {
            lock(&noted).left.insert(path);
            return false;
        }
        // The walk lists it after this.
        let entered = Entered::look(entry.path());
        lock(&noted).entered.entry(path).or_insert(entered);
        true
    });
    let seen: Vec<AtomicBool> = globs.iter().map(|_| AtomicBool::new(false)).collect();
    let failures = Mutex::new(Vec::new());
    builder.build_parallel().run(|| {
        let gitignore = Gitignore::Honour;
        let mut visitor =
            Visitor { root, globs, gitignore, list: false, seen: &seen, hits: Vec::new(), named: None };
        let (listing, failures) = (&listing, &failures);
        Box::new(move |entry| {
            let parent = entry.as_ref().ok().and_then(|entry| entry.path().parent()?.strip_prefix(root).ok());
            // A link that leads nowhere is no entry. The root is listed again whenever such a link may be there.
            let parent = RelPath::new(parent.unwrap_or(Path::new("")));
            visitor.hits.clear();
            let found = match visitor.visit(entry) {
                Some(Ok(Sight::File(file))) => Some(file).filter(|file| !file.named),
                Some(Ok(Sight::Directory(..))) | None => None,
                Some(Err(failure)) => {
                    lock(failures).push(failure);
                    None
                }
            };
            let named = visitor.named.take();
            if found.is_none() && named.is_none() && visitor.hits.is_empty() {
                return WalkState::Continue;
            }
            // The filter has recorded the directory.
            if let Some(directory) = lock(listing).entered.get_mut(&parent) {
                directory.seen.extend(&visitor.hits);
                directory.named.extend(named);
                directory.files.extend(found);
            }
            WalkState::Continue
        })
    });
    first(failures.into_inner().unwrap_or_else(PoisonError::into_inner))?;
    let mut listing = std::mem::take(&mut *lock(&listing));
    for directory in listing.entered.values_mut() {
        directory.files.sort_by(|a, b| a.path.cmp(&b.path));
        directory.named.sort();
    }
    Ok(listing)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the files that a .gitignore hides, but that are inputs since a key names them without wildcards.
///
/// # Errors
/// As [`walk`].
pub(super) fn hidden_files(root: &Path, globs: &Globs, seen: &mut [bool]) -> Result<Vec<Found>> {
    let unseen = globs.plain().filter(|(i, _)| !seen[*i]);
    let unseen: BTreeSet<&RelPath> = unseen.map(|(_, path)| path).collect();
    let (mut files, mut failures) = (Vec::new(), Vec::new());
    for path in unseen {
        match hidden(root, globs, path, seen) {
            None => {}
            Some(Ok(file)) => files.push(file),
            Some(Err(failure)) => failures.push(failure),
        }
    }
    first(failures)?;
    Ok(files)
}

fn real(root: &Path) -> Result<PathBuf> {
    let real = root
        .canonicalize()
        .map_err(|e| Error::config(format!("cannot enter the root `{}`", root.display())).caused_by(e))?;
    match real.is_dir() {
        true => Ok(real),
        false => Err(Error::config(format!("the root `{}` is not a directory", root.display()))),
    }
}

/// Returns a file that a .gitignore hides, if it exists and is an input since a key names it without wildcards.
fn hidden(root: &Path, globs: &Globs, path: &RelPath, seen: &mut [bool]) -> Option<Result<Found, Failure>> {
    let relative = path.to_path();
    if relative.components().any(|c| c.as_os_str() == ".git") {
        return None;
    }
    let full = root.join(&relative);
    full.symlink_metadata().ok()?;
    hidden_by(root, &relative, false)?;
    let mut hits = Vec::new();
    let kinds = globs.kinds_of_hidden(path, &mut hits);
    for hit in hits {
        seen[hit] = true;
    }
    if !kinds.contains(&true) {
        return None;
    }
    let fault = match full.metadata() {
        Ok(found) if found.is_file() => None,
        Ok(_) => Some("is not a file"),
        Err(_) => Some("cannot be opened"),
    };
    Some(match fault {
        None => Ok(Found { path: path.clone(), kinds, named: false }),
        Some(fault) => {
            let error = Error::failed(format!("`{path}` is chosen by `{}` but {fault}", key(kinds)));
            Err((full, error.hint(exclude(&relative))))
        }
    })
}

/// Returns whether the walk examines an entry.
fn enters(entry: &DirEntry, globs: &Globs, root: &Path, real_root: &Path) -> bool {
    if entry.depth() == 0 {
        return true;
    }
    // `.git` is a directory, or a file in a worktree or submodule.
    if entry.file_name() == ".git" {
        return false;
    }
    if !entry.file_type().is_some_and(|t| t.is_dir()) {
        return true;
    }
    let Ok(relative) = entry.path().strip_prefix(root) else {
        return false;
    };
    globs.reach(relative) && !(entry.path_is_symlink() && holds(entry.path(), real_root))
}

fn holds(link: &Path, real_root: &Path) -> bool {
    link.canonicalize().is_ok_and(|target| real_root.starts_with(target))
}

type Failure = (PathBuf, Error);

struct Visitor<'a> {
    root: &'a Path,
    globs: &'a Globs,
    gitignore: Gitignore,
    list: bool,
    seen: &'a [AtomicBool],
    hits: Vec<usize>,
    /// Last file that the build command names and about which no glob decides, and whether it is text.
    named: Option<(RelPath, bool)>,
}

impl Visitor<'_> {
    fn visit(&mut self, entry: Result<DirEntry, ignore::Error>) -> Option<Result<Sight, Failure>> {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return self.failed(error).map(Err),
        };
        // Set on a directory whose .gitignore cannot be read. (A bad line in it is not an I/O error: git also
        // skips such lines.)
        if let Some(error) = entry.error().filter(|e| e.is_io() && self.gitignore == Gitignore::Honour) {
            let path = entry.path().join(".gitignore");
            return Some(Err((path.clone(), unreadable(&path, error.to_string()))));
        }
        let kind = entry.file_type()?;
        let relative = entry.path().strip_prefix(self.root).ok()?;
        if kind.is_dir() {
            // The walk itself reports a directory that cannot be listed or is gone.
            let directory = self.list.then(|| Directory::list(entry.path()))?.ok()?;
            return Some(Ok(Sight::Directory(RelPath::new(relative), directory)));
        }
        let Some(kinds) = self.chosen(relative) else {
            let named = kind.is_file() && self.globs.names(relative, &self.hits);
            let is_text = named && is_text(entry.path());
            self.named = named.then(|| (RelPath::new(relative), is_text));
            return is_text.then(|| Ok(Sight::File(Found::named(relative))));
        };
        if !kind.is_file() {
            let error = Error::failed(format!(
                "`{}` is chosen by `{}` but is not a file",
                RelPath::new(relative),
                key(kinds)
            ));
            return Some(Err((entry.path().to_owned(), error.hint(exclude(relative)))));
        }
        Some(Ok(Sight::File(Found { path: RelPath::new(relative), kinds, named: false })))
    }

    /// Returns the keys that select a file, if any, and records which globs match it.
    fn chosen(&mut self, relative: &Path) -> Option<Kinds> {
        let kinds = self.globs.kinds(relative, &mut self.hits);
        for &hit in &self.hits {
            self.seen[hit].store(true, Ordering::Relaxed);
        }
        kinds.contains(&true).then_some(kinds)
    }

    fn failed(&mut self, error: ignore::Error) -> Option<Failure> {
        let Trouble { path, looped } = trouble(&error);
        if looped {
            return None;
        }
        let Some(path) = path else {
            let error = Error::failed("cannot walk the tree").caused_by(error);
            return Some((PathBuf::new(), error));
        };
        let relative = path.strip_prefix(self.root).unwrap_or(&path).to_owned();
        // The walk resolves links before it applies the filters, so the filters are applied here.
        if relative.components().any(|c| c.as_os_str() == ".git")
            || self.gitignore == Gitignore::Honour && hidden_by(self.root, &relative, false).is_some()
        {
            return None;
        }
        let link = path.symlink_metadata();
        let cause = error.io_error().map(io::Error::kind);
        let dangling = matches!(cause, Some(io::ErrorKind::NotFound))
            || error.io_error().and_then(io::Error::raw_os_error) == Some(nix::errno::Errno::ELOOP as i32);
        if dangling {
            return match link {
                // The file is gone since the directory was read: treat it as if it had never existed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                _ => {
                    let kinds = self.chosen(&relative)?;
                    let error = Error::failed(format!(
                        "the link `{}` is chosen by `{}` but leads nowhere",
                        RelPath::new(&relative),
                        key(kinds)
                    ));
                    Some((path, error.hint(exclude(&relative))))
                }
            };
        }
        // A directory or link that cannot be read may hold selected files.
        let file = link.is_ok_and(|m| m.is_file());
        if self.chosen(&relative).is_none() && (file || !self.globs.reach(&relative)) {
            return None;
        }
        let error = unreadable(&path, error.to_string());
        Some((path, error))
    }
}

impl Found {
    pub(super) fn named(relative: &Path) -> Self {
        Found { path: RelPath::new(relative), kinds: std::array::from_fn(|kind| kind == INPUTS), named: true }
    }
}

/// Whether a file is text, as git sees it: without a zero byte at its beginning. A program that the build creates is
/// not. A file that cannot be read is reported when it is hashed.
pub(super) fn is_text(path: &Path) -> bool {
    const BEGINNING: u64 = 8000;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BEGINNING).read_to_end(&mut bytes));
    read.is_err() || !bytes.contains(&0)
}

fn unreadable(path: &Path, cause: String) -> Error {
    Error::failed(format!("cannot read `{}`, which may hold inputs", path.display())).detail(cause)
}

fn key(kinds: Kinds) -> &'static str {
    kinds.iter().position(|&k| k).map_or("", |kind| KEYS[kind])
}

fn exclude(relative: &Path) -> String {
    format!("remove it, or exclude it with `!{}` after the other globs", RelPath::new(relative))
}

struct Trouble {
    path: Option<PathBuf>,
    looped: bool,
}

fn trouble(error: &ignore::Error) -> Trouble {
    match error {
        ignore::Error::Loop { child, .. } => Trouble { path: Some(child.clone()), looped: true },
        ignore::Error::WithPath { path, err } => {
            Trouble { path: Some(path.clone()), looped: trouble(err).looped }
        }
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => trouble(err),
        _ => Trouble { path: None, looped: false },
    }
}
