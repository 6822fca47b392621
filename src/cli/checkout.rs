//! Who we are, for others who wait for us or wonder whose clone this is.

use std::path::{Path, PathBuf};

use pgstencil::config::env::Environment;
use pgstencil::stencil::{Checkout, Holder};

use super::target::account;

/// Describes this process and its checkout.
pub(super) fn holder(root: &Path, env: &Environment) -> Holder {
    let host = nix::unistd::gethostname()
        .map_or_else(|_| String::new(), |h| h.to_string_lossy().into_owned());
    let ci = |name: &str| env.non_empty(name).map(str::to_owned);
    let label = ci("GITHUB_JOB")
        .or_else(|| ci("CI_JOB_NAME"))
        .or_else(|| ci("BUILD_TAG"))
        .unwrap_or_default();
    Holder {
        host,
        pid: std::process::id(),
        machine: machine().unwrap_or_default(),
        user: account(env).unwrap_or_default(),
        worktree: root.display().to_string(),
        branch: branch(root),
        label,
        checkout: Checkout::default(),
    }
}

/// Boot and pid namespace: where these are equal, a pid means the same process. Linux only.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// The branch that is checked out in `folder` or above it; `None` outside of git and for a detached
/// head. In a worktree `.git` is a file that names the folder where its HEAD is.
fn branch(folder: &Path) -> Option<String> {
    let git = folder
        .ancestors()
        .map(|f| f.join(".git"))
        .find(|g| g.exists())?;
    let dir = if git.is_dir() {
        git
    } else {
        let text = std::fs::read_to_string(&git).ok()?;
        let dir = PathBuf::from(text.strip_prefix("gitdir:")?.trim());
        git.parent()?.join(dir)
    };
    let head = std::fs::read_to_string(dir.join("HEAD")).ok()?;
    Some(head.trim().strip_prefix("ref: refs/heads/")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_branch_of_a_clone_and_of_a_worktree() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/.git/HEAD", "ref: refs/heads/feat/x\n");
        write("a/deep/er/file", "");
        assert_eq!(
            branch(&folder.path().join("a/deep/er")).as_deref(),
            Some("feat/x")
        );
        write("b/.git", "gitdir: ../a/.git/worktrees/b\n");
        write("a/.git/worktrees/b/HEAD", "ref: refs/heads/other\n");
        assert_eq!(branch(&folder.path().join("b")).as_deref(), Some("other"));
        write("a/.git/HEAD", "0123456789abcdef\n");
        assert_eq!(branch(&folder.path().join("a")), None);
    }
}
