//! Value of `{branch}`: the branch, or on a detached HEAD the nearest equivalent.

use crate::env::{self, Environment};
use crate::git::{Head, Tree, ask};
use crate::stencil::{Branch, BranchSource};

/// Variables in which CI systems, which check out a commit, name the branch. For a pull request of GitHub the first
/// one is its branch, while the second one is `N/merge`.
const CI: [&str; 5] = [
    env::GITHUB_HEAD_REF,
    env::GITHUB_REF_NAME,
    env::CI_COMMIT_REF_NAME,
    env::BUILDKITE_BRANCH,
    env::BRANCH_NAME,
];

/// Length that `git rev-parse --short` uses in a small repository, whatever the size of this one.
const SHORT: usize = 7;

/// Returns the branch that is checked out, rebased or bisected; else the CI system's; else the nearest bookmark of
/// jj, which is queried only if the branch is `wanted`; else the commit's short id.
///
/// # Errors
/// There is a repository, but neither its files nor `git` show the branch. Contains the reason.
pub(super) async fn find(
    tree: Option<&Tree>,
    env: &Environment,
    wanted: bool,
) -> Result<Option<Branch>, String> {
    let (local, commit, unknown) = match tree {
        None => (None, None, None),
        Some(tree) => match checked_out(tree).await {
            Ok((local, commit)) => (local, commit, None),
            Err(why) => (None, None, Some(why)),
        },
    };
    if let Some(name) = local {
        return Ok(Some(branch(name, BranchSource::Local)));
    }
    if let Some(name) = CI.iter().find_map(|name| env.non_empty(name)) {
        return Ok(Some(branch(name.to_owned(), BranchSource::Ci)));
    }
    if wanted && let Some(tree) = tree.filter(|tree| tree.jj) {
        match ask::bookmark(&tree.top).await {
            Ok(Some(name)) => return Ok(Some(branch(name, BranchSource::Bookmark))),
            Ok(None) => {}
            Err(why) if commit.is_none() => return Err(why),
            Err(_) => {}
        }
    }
    match (commit, unknown) {
        (Some(id), _) => {
            let short = id.chars().take(SHORT).collect();
            Ok(Some(branch(short, BranchSource::Commit)))
        }
        (None, Some(why)) => Err(why),
        (None, None) => Ok(None),
    }
}

fn branch(name: String, from: BranchSource) -> Branch {
    Branch { name, from }
}

/// Returns the local branch, or the commit.
async fn checked_out(tree: &Tree) -> Result<(Option<String>, Option<String>), String> {
    let Some(git) = &tree.git else {
        return Ok((None, None));
    };
    let commit = match git.head() {
        Some(Head::Branch(name)) => return Ok((Some(name), None)),
        Some(Head::Commit(id)) => Some(id),
        Some(Head::Reftable) => match ask::branch(&tree.top).await {
            Ok(Some(name)) => return Ok((Some(name), None)),
            Ok(None) => ask::commit(&tree.top).await?,
            Err(why) => match git.interrupted() {
                Some(name) => return Ok((Some(name), None)),
                None => return Err(why),
            },
        },
        None => return Err(format!("cannot read HEAD in {}", git.own.display())),
    };
    Ok((git.interrupted(), commit))
}
