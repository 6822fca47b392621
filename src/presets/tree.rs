//! The files of a project, as presets ask for them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ignore::WalkBuilder;

use super::manifest::{self, Package};
use crate::error::{Error, Result};

/// Directories that hold other projects' files, or made ones.
const SKIPPED: [&str; 14] = [
    ".git",
    "node_modules",
    "target",
    "vendor",
    "venv",
    ".venv",
    "site-packages",
    "__pycache__",
    "_build",
    "deps",
    "dist",
    ".tox",
    ".next",
    ".gradle",
];
/// Most directories between the root and a file.
const DEPTH: usize = 9;
/// Most files that are looked at.
const FILES: usize = 100_000;
/// Most bytes of a file that are read.
const BYTES: u64 = 1 << 20;

/// The files below a directory that its .gitignore files do not hide.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    /// Relative paths with `/`; the shallow ones first.
    files: Vec<String>,
    texts: RefCell<HashMap<String, Rc<str>>>,
    /// Directory of each manifest, and its packages.
    manifests: Vec<(String, Vec<Package>)>,
    /// Directories with a manifest of any kind.
    projects: HashSet<String>,
}

impl Tree {
    /// Lists the files below `root`. Links are not followed.
    ///
    /// # Errors
    /// A directory that cannot be listed.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let walk = WalkBuilder::new(root)
            .hidden(false)
            .parents(false)
            .ignore(false)
            .git_global(false)
            .git_exclude(false)
            .require_git(false)
            .follow_links(false)
            .max_depth(Some(DEPTH))
            .filter_entry(|entry| {
                !(entry.file_type().is_some_and(|kind| kind.is_dir())
                    && entry.file_name().to_str().is_some_and(|name| SKIPPED.contains(&name)))
            })
            .build();
        for entry in walk {
            let entry = match entry {
                Ok(entry) => entry,
                // What cannot be opened below the root is no sign of anything.
                Err(_) if !files.is_empty() => continue,
                Err(e) => {
                    return Err(Error::failed(format!("cannot list `{}`", root.display())).caused_by(e));
                }
            };
            if !entry.file_type().is_some_and(|kind| kind.is_file()) {
                continue;
            }
            let relative = entry.path().strip_prefix(root).ok().and_then(Path::to_str);
            files.extend(relative.map(ToOwned::to_owned));
            if files.len() >= FILES {
                break;
            }
        }
        files.sort_by(|a, b| (a.matches('/').count(), a).cmp(&(b.matches('/').count(), b)));
        let mut tree = Tree {
            root: root.to_owned(),
            files,
            texts: RefCell::default(),
            manifests: Vec::new(),
            projects: HashSet::new(),
        };
        let projects = tree.files.iter().filter(|file| manifest::marks_a_project(file));
        tree.projects = projects.map(|file| directory(file).to_owned()).collect();
        let manifests = tree.files.iter().filter(|file| manifest::kind(file).is_some());
        let manifests =
            manifests.map(|file| (directory(file).to_owned(), manifest::packages(file, &tree.text(file))));
        tree.manifests = manifests.collect();
        Ok(tree)
    }

    /// Returns all files, the shallow ones first.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Returns the files below a directory, with their paths relative to it.
    pub(super) fn below<'t>(&'t self, site: &str) -> impl Iterator<Item = (&'t str, &'t str)> {
        let prefix = if site.is_empty() { String::new() } else { format!("{site}/") };
        self.files().filter_map(move |file| Some((file, file.strip_prefix(&prefix)?)))
    }

    /// Returns whether a file exists.
    pub(super) fn has(&self, file: &str) -> bool {
        self.files().any(|known| known == file)
    }

    /// Returns the text of a file: of a long one the beginning, and nothing of one that cannot be read.
    pub(super) fn text(&self, file: &str) -> Rc<str> {
        if let Some(text) = self.texts.borrow().get(file) {
            return Rc::clone(text);
        }
        let mut bytes = Vec::new();
        if let Ok(open) = File::open(self.root.join(file)) {
            let _ = open.take(BYTES).read_to_end(&mut bytes);
        }
        let text: Rc<str> = String::from_utf8_lossy(&bytes).into();
        self.texts.borrow_mut().insert(file.to_owned(), Rc::clone(&text));
        text
    }

    /// Returns the nearest directory above a file that has a manifest; else the root.
    pub(super) fn project_of<'f>(&self, file: &'f str) -> &'f str {
        let mut site = directory(file);
        while !site.is_empty() && !self.projects.contains(site) {
            site = directory(site);
        }
        site
    }

    /// Returns the directories of manifests that name one of some packages.
    pub(super) fn naming<'t>(&'t self, packages: &'t [Package]) -> impl Iterator<Item = &'t str> {
        let names = |named: &[Package]| {
            packages.iter().any(|wanted| named.iter().any(|named| matches(wanted, named)))
        };
        self.manifests.iter().filter(move |(_, named)| names(named)).map(|(site, _)| site.as_str())
    }
}

/// A name that ends in `/` stands for all that begin with it, such as the versions of a Go module.
fn matches(wanted: &Package, named: &Package) -> bool {
    wanted.ecosystem == named.ecosystem
        && (wanted.name == named.name || (wanted.name.ends_with('/') && named.name.starts_with(&wanted.name)))
}

/// Returns the directory of a file; empty for the root.
pub(super) fn directory(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Returns whether one of two directories is, or contains, the other.
pub(super) fn related(a: &str, b: &str) -> bool {
    let contains = |above: &str, below: &str| {
        above.is_empty()
            || below == above
            || below.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
    };
    contains(a, b) || contains(b, a)
}
