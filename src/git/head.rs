//! What is checked out: HEAD, and the notes of a rebase or a bisection.

use std::fs;
use std::path::Path;

/// What is checked out in a worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// A branch, in full: `feat/x`. It may have no commit yet.
    Branch(String),
    /// A commit, by its id.
    Commit(String),
    /// Only `git` can read it: the repository keeps its references in the reftable format.
    Reftable,
}

/// What HEAD says in a repository of the reftable format
/// (<https://git-scm.com/docs/reftable#_update_transactions>).
const ELSEWHERE: &str = ".invalid";

impl Head {
    /// Reads HEAD of a worktree's git directory; `None` if it cannot be read, or names no branch.
    pub(super) fn read(own: &Path) -> Option<Self> {
        let file = own.join("HEAD");
        // Old repositories have a link.
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

/// The branch that a rebase or a bisection started from. Meanwhile HEAD is detached.
pub(super) fn interrupted(own: &Path) -> Option<String> {
    let rebased = ["rebase-merge/head-name", "rebase-apply/head-name"];
    let rebased = rebased.iter().find_map(|file| {
        let name = fs::read_to_string(own.join(file)).ok()?;
        // Else it says `detached HEAD`.
        branch(name.trim()).map(str::to_owned)
    });
    rebased.or_else(|| {
        // The branch's short name, or the id of a commit.
        let from = fs::read_to_string(own.join("BISECT_START")).ok()?;
        let from = from.trim();
        let name = branch(from).unwrap_or(from);
        (!name.is_empty() && !is_id(name)).then(|| name.to_owned())
    })
}

fn branch(reference: &str) -> Option<&str> {
    reference.strip_prefix("refs/heads/").filter(|name| !name.is_empty())
}

/// SHA-1 or SHA-256, in hex.
fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}
