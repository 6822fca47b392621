//! Repositories by the real `git`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::project::Project;

/// Runs `git` in a directory, without the developer's settings, and gives what it prints.
#[track_caller]
pub(crate) fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "git {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Makes the project's directory a repository with one commit of all its files, on the branch `main`.
pub(crate) fn repository(project: &Project<'_>, options: &[&str]) {
    let folder = project.path();
    git(&folder, &[&["init", "-q", "-b", "main"], options].concat());
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "-q", "-m", "one"]);
}

/// Adds a worktree with a branch of its own, both of this name, beside the project's directory.
pub(crate) fn worktree(project: &Project<'_>, name: &str) -> PathBuf {
    let folder = project.path().parent().unwrap().join(name);
    let path = folder.to_str().unwrap();
    git(&project.path(), &["worktree", "add", "-q", path, "-b", name]);
    folder
}
