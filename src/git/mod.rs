//! Checkouts: the top level, the repository and its main worktree, and the branch, as the files of
//! `.git` and `.jj` tell them. [`ask`] has `git` and `jj` say what no file does.
//!
//! Directories decide, not git's variables: a hook runs with `GIT_DIR` set to its own repository, also where
//! it starts a command in another one.

mod absent;
pub mod ask;
mod head;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};

pub use self::absent::{Absent, Refs, absent};
pub use self::head::Head;

/// A checkout on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Absolute path of its top level, without links.
    pub top: PathBuf,
    /// Its git repository; `None` for a workspace of jj without one of its own.
    pub git: Option<GitDir>,
    /// Whether jj manages it.
    pub jj: bool,
}

/// The directories of a git repository, seen from one checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitDir {
    /// What belongs to this checkout alone: its HEAD, for example.
    pub own: PathBuf,
    /// What all worktrees of the repository share; equal to `own` in the main worktree.
    pub common: PathBuf,
}

impl Tree {
    /// The checkout that holds `directory`: the nearest directory upwards that git or jj would take for a top
    /// level. Without one, `None`.
    pub fn find(folder: &Path) -> Option<Self> {
        let folder = fs::canonicalize(folder).ok()?;
        folder.ancestors().find_map(|top| {
            let git = GitDir::of(top);
            let jj = top.join(".jj").is_dir();
            (git.is_some() || jj).then(|| Tree { top: top.to_owned(), git, jj })
        })
    }

    /// The name that all checkouts of the repository share: that of the directory of its main worktree, or of
    /// a bare repository without `.git`. `None` if that is the root of the file system.
    pub fn repository_name(&self) -> Option<String> {
        match &self.git {
            Some(git) => git.name(),
            None => name_of(&main_workspace(&self.top)),
        }
    }
}

impl GitDir {
    /// The repository of the checkout with this top level. One whose directory cannot be read, such as that
    /// of a worktree that is mounted alone into a container, counts by its path.
    fn of(top: &Path) -> Option<Self> {
        let dot_git = top.join(".git");
        let own = if dot_git.is_dir() {
            // Git, too, passes over a directory `.git` that is no repository. Images often hold one without
            // its objects, which still tells the branch.
            fs::symlink_metadata(dot_git.join("HEAD")).ok()?;
            dot_git
        } else {
            let text = fs::read_to_string(&dot_git).ok()?;
            let path = text.strip_prefix("gitdir:")?.trim();
            top.join(path)
        };
        let own = fs::canonicalize(&own).unwrap_or(own);
        let common = match fs::read_to_string(own.join("commondir")) {
            Ok(path) => {
                let common = own.join(path.trim());
                fs::canonicalize(&common).unwrap_or(common)
            }
            Err(_) => match own.parent() {
                Some(all) if all.ends_with("worktrees") && !own.is_dir() => {
                    all.parent().unwrap_or(&own).to_owned()
                }
                _ => own.clone(),
            },
        };
        Some(GitDir { own, common })
    }

    /// Name under which git registered this worktree; `None` for the main one.
    pub fn worktree(&self) -> Option<String> {
        let all = self.own.parent()?;
        let registered = all.ends_with("worktrees") && all.parent() == Some(&self.common);
        registered.then(|| name_of(&self.own))?
    }

    /// What is checked out here; `None` if that cannot be read.
    pub fn head(&self) -> Option<Head> {
        Head::read(&self.own)
    }

    /// The branch that is being rebased or bisected here, although no branch is checked out meanwhile.
    pub fn interrupted(&self) -> Option<String> {
        head::interrupted(&self.own)
    }

    fn name(&self) -> Option<String> {
        if let Some(worktree) = settings::worktree(&self.common) {
            let folder = self.common.join(worktree);
            return name_of(&fs::canonicalize(&folder).unwrap_or(folder));
        }
        let beside = self.common.parent().and_then(name_of);
        if self.common.ends_with(".git") {
            return beside;
        }
        let name = name_of(&self.common)?;
        match name.strip_suffix(".git").unwrap_or(&name) {
            // `shop/.bare` and the like: the worktrees stand beside it.
            hidden if hidden.starts_with('.') || hidden.is_empty() => beside,
            plain => Some(plain.to_owned()),
        }
    }
}

fn name_of(folder: &Path) -> Option<String> {
    Some(folder.file_name()?.to_string_lossy().into_owned())
}

/// Directory of the workspace of jj that holds the repository: in the others `.jj/repo` is a file with its path.
fn main_workspace(top: &Path) -> PathBuf {
    let jj = top.join(".jj");
    let Ok(path) = fs::read_to_string(jj.join("repo")) else {
        return top.to_owned();
    };
    let repo = jj.join(path.trim());
    let repo = fs::canonicalize(&repo).unwrap_or(repo);
    match repo.parent().and_then(Path::parent) {
        Some(main) => main.to_owned(),
        None => top.to_owned(),
    }
}

#[cfg(test)]
mod tests;
