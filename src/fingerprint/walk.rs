//! The walk over the tree: which files the globs choose.
//!
//! The result must be the same on every machine that has the same files, so each filter of
//! [`ignore::WalkBuilder`] is set here, with its reason, and none is left to a default.
//!
//! # Symlinks
//!
//! - A link to a file counts under its own path, with the content that it leads to.
//! - A link to a directory is followed, wherever it leads; its files count under the link's path.
//!   Not followed, and no error: one that leads to a directory which holds the root (it would draw in
//!   the neighbours of the root), or to a directory that the walk is just in (a loop).
//! - A link that leads nowhere is an error if its own path is chosen by a glob, else nothing.
//!
//! # What .gitignore files hide
//!
//! A path that stands in a key without wildcards counts all the same: somebody who names a local
//! settings file means it. `.git` stays closed to it, too.
//!
//! # What is not a file
//!
//! A FIFO, socket or device that a glob chooses is an error; it is never opened, since that can
//! block for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use ignore::{DirEntry, WalkBuilder, WalkState};

use super::globs::{Globs, INPUTS, KEYS, Kinds};
use super::ignored::hidden_by;
use super::recipe::RelPath;
use super::snapshot::Folder;
use crate::error::{Error, Result};

/// A chosen file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: RelPath,
    /// Which of the keys choose it.
    pub(super) kinds: Kinds,
    /// Whether it counts only because the build command names it.
    pub(super) named: bool,
}

/// What a walk yields.
pub(super) struct Walked {
    /// Sorted by path.
    pub(super) files: Vec<Found>,
    /// For each glob, whether it matches a file at all, chosen in the end or not.
    pub(super) seen: Vec<bool>,
    /// The directories that were entered, if the walk lists them.
    pub(super) folders: BTreeMap<RelPath, Folder>,
}

/// Something that the walk came by.
enum Sight {
    File(Found),
    Folder(RelPath, Folder),
}

/// Whether .gitignore files hide what they name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gitignore {
    Honour,
    Disregard,
}

/// A [`WalkBuilder`] with every filter decided.
pub(super) fn builder(root: &Path, gitignore: Gitignore) -> WalkBuilder {
    let mut walk = WalkBuilder::new(root);
    walk
        // The tree's own .gitignore files say what is made on this machine: caches, build output.
        .git_ignore(gitignore == Gitignore::Honour)
        // They count without a .git directory too: in a tarball, in a container that got a COPY.
        // This also makes a nested repository (submodule) obey the outer files in every case.
        .require_git(false)
        // The user's own ignore file differs from person to person.
        .git_global(false)
        // .git/info/exclude is never committed.
        .git_exclude(false)
        // What lies above the root is not in the checkout of another machine.
        .parents(false)
        // .ignore files are there for search tools: no one expects them to change a database.
        .ignore(false)
        // A name with a dot in front is a name like others.
        .hidden(false)
        // On a file system that folds case the files would still be told apart elsewhere.
        .ignore_case_insensitive(false)
        // See the symlink rule above.
        .follow_links(true)
        // A mounted directory (a volume in a container) is a part of the tree.
        .same_file_system(false)
        // Neither depth nor size makes a file less of an input.
        .max_depth(None)
        .max_filesize(None)
        // Whether our output goes into the tree is not our concern here.
        .skip_stdout(false)
        // As many threads as there are cores, within reason.
        .threads(0);
    walk
}

/// Finds the files below `root` that `globs` choose. Directories that no positive glob reaches are not
/// entered, nor is `.git` ever. `list`: lists the directories, too.
///
/// # Errors
///
/// [`crate::Kind::Failed`], naming the path, if something that is chosen is no file, or if
/// something that could be chosen cannot be looked at. Of several, the first by path.
pub(super) fn walk(root: &Path, globs: &Arc<Globs>, gitignore: Gitignore, list: bool) -> Result<Walked> {
    let real_root = root
        .canonicalize()
        .map_err(|e| Error::config(format!("cannot enter the root `{}`", root.display())).caused_by(e))?;
    if !real_root.is_dir() {
        return Err(Error::config(format!("the root `{}` is not a directory", root.display())));
    }

    let mut builder = builder(root, gitignore);
    let (filter_globs, filter_root) = (Arc::clone(globs), root.to_owned());
    builder.filter_entry(move |entry| enters(entry, &filter_globs, &filter_root, &real_root));

    let seen: Vec<AtomicBool> = globs.iter().map(|_| AtomicBool::new(false)).collect();
    let (send, receive) = mpsc::channel();
    builder.build_parallel().run(|| {
        let mut visitor = Visitor { root, globs, gitignore, list, seen: &seen, hits: Vec::new() };
        let send = send.clone();
        Box::new(move |entry| {
            let found = visitor.visit(entry);
            // Among what is ignored anything goes: broken links, sockets, closed directories.
            let found = found.filter(|f| f.is_ok() || gitignore == Gitignore::Honour);
            if let Some(found) = found {
                // The receiver outlives the walk.
                let _ = send.send(found);
            }
            WalkState::Continue
        })
    });
    if gitignore == Gitignore::Honour {
        let unseen = globs.plain().filter(|(i, _)| !seen[*i].load(Ordering::Relaxed));
        let unseen: BTreeSet<&RelPath> = unseen.map(|(_, path)| path).collect();
        for found in unseen.into_iter().filter_map(|path| hidden(root, globs, path, &seen)) {
            // The receiver outlives this function.
            let _ = send.send(found);
        }
    }
    drop(send);

    let mut files = Vec::new();
    let mut folders = BTreeMap::new();
    let mut failures = Vec::new();
    for found in receive {
        match found {
            Ok(Sight::File(file)) => files.push(file),
            Ok(Sight::Folder(path, folder)) => drop(folders.insert(path, folder)),
            Err(failure) => failures.push(failure),
        }
    }
    failures.sort_by(|(a, _), (b, _)| a.cmp(b));
    if let Some((_, error)) = failures.into_iter().next() {
        return Err(error);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Walked { files, seen: seen.into_iter().map(AtomicBool::into_inner).collect(), folders })
}

/// A file that a .gitignore hides, if it is there and counts since a key names it without wildcards.
fn hidden(root: &Path, globs: &Globs, path: &RelPath, seen: &[AtomicBool]) -> Option<Result<Sight, Failure>> {
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
        seen[hit].store(true, Ordering::Relaxed);
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
        None => Ok(Sight::File(Found { path: path.clone(), kinds, named: false })),
        Some(fault) => {
            let error = Error::failed(format!("`{path}` is chosen by `{}` but {fault}", key(kinds)));
            Err((full, error.hint(exclude(&relative))))
        }
    })
}

/// Whether to look at an entry at all.
fn enters(entry: &DirEntry, globs: &Globs, root: &Path, real_root: &Path) -> bool {
    if entry.depth() == 0 {
        return true;
    }
    // A directory, or in a worktree or submodule a file.
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
}

impl Visitor<'_> {
    fn visit(&mut self, entry: Result<DirEntry, ignore::Error>) -> Option<Result<Sight, Failure>> {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return self.failed(error).map(Err),
        };
        // Set on a directory whose .gitignore cannot be read (a bad line in it is no I/O error: git
        // passes over those too).
        if let Some(error) = entry.error().filter(|e| e.is_io() && self.gitignore == Gitignore::Honour) {
            let path = entry.path().join(".gitignore");
            return Some(Err((path.clone(), unreadable(&path, error.to_string()))));
        }
        let kind = entry.file_type()?;
        let relative = entry.path().strip_prefix(self.root).ok()?;
        if kind.is_dir() {
            // One that cannot be listed, or is gone again, is a matter of the walk.
            let folder = self.list.then(|| Folder::list(entry.path()))?.ok()?;
            return Some(Ok(Sight::Folder(RelPath::new(relative), folder)));
        }
        let Some(kinds) = self.chosen(relative) else {
            let named = kind.is_file() && self.globs.names(relative, &self.hits) && is_text(entry.path());
            return named.then(|| Ok(Sight::File(Found::named(relative))));
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

    /// The keys that choose a file, if any does; notes which globs match it.
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
        // The walk looks where a link leads before it asks the filters, so we ask them here.
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
                // Gone since the directory was read: as if it had never been there.
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
        // A directory or link that we may not look into may hold chosen files.
        let file = link.is_ok_and(|m| m.is_file());
        if self.chosen(&relative).is_none() && (file || !self.globs.reach(&relative)) {
            return None;
        }
        let error = unreadable(&path, error.to_string());
        Some((path, error))
    }
}

impl Found {
    fn named(relative: &Path) -> Self {
        Found { path: RelPath::new(relative), kinds: std::array::from_fn(|kind| kind == INPUTS), named: true }
    }
}

/// Whether a file is text, as git sees it: without a zero byte at its beginning. A program that the build
/// makes is not. One that cannot be read is told when it is hashed.
fn is_text(path: &Path) -> bool {
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
    format!("remove it, or exclude it with `!{}` behind the other globs", RelPath::new(relative))
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
