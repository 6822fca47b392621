//! The checked-out branch or commit: HEAD, and the state files of a rebase or a bisection.

use std::fs;
use std::path::Path;

/// The branch or commit that is checked out in a worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Full name of a branch: `feat/x`. It may have no commit yet.
    Branch(String),
    /// Id of a commit.
    Commit(String),
    /// The repository keeps its references in the reftable format, which only `git` can read.
    Reftable,
}

/// The branch in HEAD of a repository in the reftable format
/// (<https://git-scm.com/docs/reftable#_update_transactions>).
const ELSEWHERE: &str = ".invalid";

impl Head {
    /// Reads HEAD of a worktree's git directory; `None` if it cannot be read, or names no branch.
    pub(super) fn read(own: &Path) -> Option<Self> {
        let file = own.join("HEAD");
        // In old repositories HEAD is a link.
        let text = match fs::read_link(&file) {
            Ok(target) => format!("ref: {}", target.display()),
            Err(_) => fs::read_to_string(&file).ok()?,
        };
        let text = text.trim();
        match text.strip_prefix("ref:") {
            None => is_id(text).then(|| Head::Commit(text.to_owned())),
            Some(name) => match branch(name.trim())? {
                ELSEWHERE => Some(Head::Reftable),
                branch => Some(Head::Branch(branch.to_owned())),
            },
        }
    }
}

/// Returns the branch from which a rebase or a bisection started. While it runs, HEAD is detached.
pub(super) fn interrupted(own: &Path) -> Option<String> {
    let rebased = ["rebase-merge/head-name", "rebase-apply/head-name"];
    let rebased = rebased.iter().find_map(|file| {
        let name = fs::read_to_string(own.join(file)).ok()?;
        // Otherwise the file contains `detached HEAD`.
        branch(name.trim()).map(str::to_owned)
    });
    rebased.or_else(|| {
        // The short name of the branch, or the id of a commit.
        let from = fs::read_to_string(own.join("BISECT_START")).ok()?;
        let from = from.trim();
        let name = branch(from).unwrap_or(from);
        (!name.is_empty() && !is_id(name)).then(|| name.to_owned())
    })
}

fn branch(reference: &str) -> Option<&str> {
    reference.strip_prefix("refs/heads/").filter(|name| !name.is_empty())
}

/// Returns whether a text is a SHA-1 or SHA-256 in hex.
fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
