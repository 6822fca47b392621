//! Checkouts: the top level, the repository and its main worktree, and the branch, read from the files of
//! `.git` and `.jj`. [`ask`] asks `git` and `jj` for facts that are in no file.
//!
//! Directories decide, not git's variables: a hook runs with `GIT_DIR` set to its own repository, even if it
//! starts a command in another one.

mod absent;
pub(crate) mod ask;
mod head;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use self::absent::{Absent, Refs, absent};
pub(crate) use self::head::Head;

/// A checkout on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Absolute path of its top level, with links resolved.
    pub(crate) top: PathBuf,
    /// Its git repository; `None` for a jj workspace that has none.
    pub(crate) git: Option<GitDir>,
    /// Whether jj manages it.
    pub(crate) jj: bool,
}

/// The directories of a git repository, seen from one checkout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GitDir {
    /// The directory of this checkout alone, with its HEAD for example.
    pub(crate) own: PathBuf,
    /// The directory that all worktrees of the repository share; equal to `own` in the main worktree.
    pub(crate) common: PathBuf,
}

impl Tree {
    /// Returns the checkout that contains `directory`: the nearest directory upwards that git or jj would
    /// take for a top level. `None` if there is none.
    pub(crate) fn find(directory: &Path) -> Option<Self> {
        let directory = fs::canonicalize(directory).ok()?;
        directory.ancestors().find_map(|top| {
            let git = GitDir::of(top);
            let jj = top.join(".jj").is_dir();
            (git.is_some() || jj).then(|| Tree { top: top.to_owned(), git, jj })
        })
    }

    /// Returns the name that all checkouts of the repository share: the directory name of its main worktree,
    /// or of a bare repository without `.git`. `None` if that directory is the root of the file system.
    pub(crate) fn repository_name(&self) -> Option<String> {
        match &self.git {
            Some(git) => git.name(),
            None => name_of(&main_workspace(&self.top)),
        }
    }
}

impl GitDir {
    /// Returns the repository of the checkout with this top level. A repository whose directory cannot be
    /// read, such as that of a worktree that is mounted alone into a container, is identified by its path.
    fn of(top: &Path) -> Option<Self> {
        let dot_git = top.join(".git");
        let own = if dot_git.is_dir() {
            // Git, too, ignores a directory `.git` that is not a repository. Images often contain one without
            // its objects, which still shows the branch.
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

    /// Returns the name under which git registered this worktree; `None` for the main worktree.
    pub(crate) fn worktree(&self) -> Option<String> {
        let all = self.own.parent()?;
        let registered = all.ends_with("worktrees") && all.parent() == Some(&self.common);
        registered.then(|| name_of(&self.own))?
    }

    /// Returns what is checked out here; `None` if that cannot be read.
    pub(crate) fn head(&self) -> Option<Head> {
        Head::read(&self.own)
    }

    /// Returns the branch that is being rebased or bisected here, while no branch is checked out.
    pub(crate) fn interrupted(&self) -> Option<String> {
        head::interrupted(&self.own)
    }

    fn name(&self) -> Option<String> {
        if let Some(worktree) = settings::worktree(&self.common) {
            let directory = self.common.join(worktree);
            return name_of(&fs::canonicalize(&directory).unwrap_or(directory));
        }
        let beside = self.common.parent().and_then(name_of);
        if self.common.ends_with(".git") {
            return beside;
        }
        let name = name_of(&self.common)?;
        match name.strip_suffix(".git").unwrap_or(&name) {
            // `shop/.bare` and the like: the worktrees are next to it.
            hidden if hidden.starts_with('.') || hidden.is_empty() => beside,
            plain => Some(plain.to_owned()),
        }
    }
}

fn name_of(directory: &Path) -> Option<String> {
    Some(directory.file_name()?.to_string_lossy().into_owned())
}

/// Returns the directory of the jj workspace that contains the repository: in other workspaces `.jj/repo` is
/// a file with its path.
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
