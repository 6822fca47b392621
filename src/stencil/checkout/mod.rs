//! Describes this process and checkout to others who wait for it or need to know the owner of a clone.

mod branch;
mod machine;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::env::{self, Environment};
use crate::git::{GitDir, Tree};
use crate::stencil::{Checkout, Holder, Repository};

use super::locate::account;

/// Describes this process and its checkout. `names_branch`: whether `{branch}` is wanted, which may take a moment to
/// find out. The second value is the reason why a branch could not be determined.
pub(crate) async fn holder(root: &Path, env: &Environment, names_branch: bool) -> (Holder, Option<String>) {
    let process = Holder::process();
    let ci = |name: &str| env.non_empty(name).map(str::to_owned);
    let label =
        ci("GITHUB_JOB").or_else(|| ci("CI_JOB_NAME")).or_else(|| ci("BUILD_TAG")).unwrap_or_default();
    let (checkout, unknown) = checkout(root, env, &process.host, names_branch).await;
    let holder = Holder {
        user: account(env).unwrap_or_default(),
        worktree: root.display().to_string(),
        branch: checkout.branch.as_ref().map(|b| b.name.clone()),
        label,
        checkout,
        ..process
    };
    (holder, unknown)
}

async fn checkout(
    root: &Path,
    env: &Environment,
    host: &str,
    names_branch: bool,
) -> (Checkout, Option<String>) {
    let tree = Tree::find(root);
    let (branch, unknown) = match branch::find(tree.as_ref(), env, names_branch).await {
        Ok(branch) => (branch, None),
        Err(why) => (None, Some(why)),
    };
    let root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let top = tree.as_ref().map_or(root.as_path(), |t| &t.top);
    let git = tree.as_ref().and_then(|t| t.git.as_ref());
    let owner = env.non_empty(env::OWNER).unwrap_or_default();
    let checkout = Checkout {
        machine: match owner {
            "" => machine::id(env, host).await,
            _ => String::new(),
        },
        owner: owner.to_owned(),
        top: top.display().to_string(),
        below: root.strip_prefix(top).map(|below| below.display().to_string()).unwrap_or_default(),
        repository: git.and_then(repository),
        worktree: git.and_then(GitDir::worktree),
        branch,
    };
    (checkout, unknown)
}

/// Returns `None` if git's directory is not accessible, as in a container with only a worktree in it.
fn repository(git: &GitDir) -> Option<Repository> {
    let folder = std::fs::metadata(&git.common).ok()?;
    let born = folder.created().ok();
    Some(Repository {
        common_dir: git.common.display().to_string(),
        inode: folder.ino(),
        born: born
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_secs()).ok()),
    })
}
