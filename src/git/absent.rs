//! Finds branches and worktrees that a repository no longer has: first a hint from its files, then the answer
//! of `git`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::ask::{self, Answer, NoAnswer};
use super::{GitDir, Tree, head};

/// Branches and worktrees of a repository, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refs {
    /// Full names of branches: `feat/x`.
    pub(crate) branches: BTreeSet<String>,
    /// Names of worktrees as git registered them; the main worktree has an empty name.
    pub(crate) worktrees: BTreeSet<String>,
}

impl Refs {
    /// Returns whether there are neither branches nor worktrees.
    pub(crate) fn is_empty(&self) -> bool {
        self.branches.is_empty() && self.worktrees.is_empty()
    }
}

/// The answer of `git`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Absent {
    /// Branches and worktrees that no longer exist.
    pub(crate) gone: Refs,
    /// Worktrees that git knows but cannot find, and which may still exist: name, and git's reason.
    pub(crate) lost: Vec<(String, String)>,
}

impl GitDir {
    /// Returns those of the given branches and worktrees that no file of the repository names. This is only a
    /// hint: git may keep its references elsewhere. Starts no process.
    pub(crate) fn seem_absent(&self, refs: &Refs) -> Refs {
        let mut seem = Refs { branches: refs.branches.clone(), worktrees: refs.worktrees.clone() };
        seem.worktrees.retain(|name| !self.has_worktree(name));
        let heads = self.common.join("refs/heads");
        seem.branches.retain(|name| !heads.join(name).is_file());
        if !seem.branches.is_empty()
            && let Ok(packed) = fs::read_to_string(self.common.join("packed-refs"))
        {
            for line in packed.lines() {
                if let Some(name) = line.split_once(" refs/heads/").map(|(_, name)| name) {
                    seem.branches.remove(name);
                }
            }
        }
        seem
    }

    fn has_worktree(&self, name: &str) -> bool {
        name.is_empty() || self.common.join("worktrees").join(name).exists()
    }

    /// Returns the names of the registered worktrees, with their directories.
    fn worktrees(&self) -> Result<Vec<(String, PathBuf)>, NoAnswer> {
        let directory = self.common.join("worktrees");
        let listed = match fs::read_dir(&directory) {
            Ok(listed) => listed,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(format!("cannot read {}: {e}", directory.display())),
        };
        let mut found = Vec::new();
        for entry in listed {
            let entry = entry.map_err(|e| format!("cannot read {}: {e}", directory.display()))?;
            let own = entry.path();
            let gitdir = fs::read_to_string(own.join("gitdir")).unwrap_or_default();
            let at = own.join(gitdir.trim());
            let at = at.parent().unwrap_or(&at).to_owned();
            found.push((entry.file_name().to_string_lossy().into_owned(), at));
        }
        Ok(found)
    }
}

/// Asks `git` which of the given branches and worktrees the repository of a checkout no longer has.
///
/// # Errors
/// `git` is missing, refuses, reports an error, takes too long, or finds another repository there. Then
/// nothing counts as gone.
pub(crate) async fn absent(tree: &Tree, refs: &Refs) -> Result<Absent, NoAnswer> {
    let Some(git) = &tree.git else {
        return Err(format!("{} is not a git checkout", tree.top.display()));
    };
    let (common, branches, listed) = tokio::join!(
        ask::git(&tree.top, &["rev-parse", "--git-common-dir"]),
        ask::branches(&tree.top),
        ask::git(&tree.top, &["worktree", "list", "--porcelain"]),
    );
    let common = tree.top.join(text(common?)?.trim());
    if fs::canonicalize(&common).is_ok_and(|common| common != git.common) {
        return Err(format!("`git` finds another repository, {}", common.display()));
    }
    let branches = branches?;
    let listed = Listed::read(&text(listed?)?);
    let registered = git.worktrees()?;

    let mut absent = Absent::default();
    for name in &refs.worktrees {
        let at = registered.iter().find(|(known, _)| known == name);
        if !git.has_worktree(name) {
            absent.gone.worktrees.insert(name.clone());
        } else if let Some((_, at)) = at
            && let Some(why) = listed.why_lost(at)
        {
            absent.lost.push((name.clone(), why));
        }
    }
    let rebased: Vec<String> = std::iter::once(git.common.clone())
        .chain(registered.iter().map(|(name, _)| git.common.join("worktrees").join(name)))
        .filter_map(|own| head::interrupted(&own))
        .collect();
    for name in &refs.branches {
        let reference = format!("refs/heads/{name}");
        let there = branches.contains(&reference)
            // A branch without a commit exists only as the checked-out branch.
            || listed.branches.contains(&reference)
            || rebased.contains(name);
        if !there {
            // A file system that folds case may know the branch in other letters.
            let args = ["show-ref", "--verify", "-q", &reference];
            if matches!(ask::git(&tree.top, &args).await?, Answer::No) {
                absent.gone.branches.insert(name.clone());
            }
        }
    }
    Ok(absent)
}

fn text(answer: Answer) -> Result<String, NoAnswer> {
    match answer {
        Answer::Yes(text) => Ok(text),
        Answer::No => Err("`git` failed".into()),
    }
}

/// The output of `git worktree list --porcelain` (<https://git-scm.com/docs/git-worktree#_porcelain_format>).
#[derive(Default)]
struct Listed {
    branches: BTreeSet<String>,
    lost: Vec<(PathBuf, String)>,
}

impl Listed {
    fn read(text: &str) -> Self {
        let mut listed = Listed::default();
        let mut at = PathBuf::new();
        for line in text.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("worktree", path) => at = PathBuf::from(path),
                ("branch", name) => {
                    listed.branches.insert(name.to_owned());
                }
                ("prunable", why) => listed.lost.push((at.clone(), why.to_owned())),
                _ => {}
            }
        }
        listed
    }

    fn why_lost(&self, at: &Path) -> Option<String> {
        let mut lost = self.lost.iter();
        lost.find(|(path, _)| path == at).map(|(_, why)| why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_worktrees_is_read() {
        let text = "worktree /a b\nHEAD 01\nbranch refs/heads/main\n\n\
                    worktree /c\nHEAD 01\ndetached\nprunable gitdir file points to non-existent location\n\n\
                    worktree /d\nHEAD 01\nbranch refs/heads/x/y\nlocked\n\n";
        let listed = Listed::read(text);
        let branches = ["refs/heads/main", "refs/heads/x/y"].map(str::to_owned);
        assert_eq!(listed.branches, BTreeSet::from(branches));
        assert_eq!(
            listed.why_lost(Path::new("/c")).as_deref(),
            Some("gitdir file points to non-existent location")
        );
        assert_eq!(listed.why_lost(Path::new("/d")), None);
    }
}
