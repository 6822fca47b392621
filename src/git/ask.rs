//! Asks `git`, `jj` and the system.
//!
//! `git` and `jj` run in the checkout's top level and find the repository from there, never from a variable;
//! so git's own check of a repository's owner applies. They only read, and have a few seconds to answer.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

/// The reason why a question has no answer, for display.
pub(crate) type NoAnswer = String;

/// Time limit of an answer. A repository on a slow disk needs time, but a command must not hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// Variables with which a caller, such as a git hook, would direct `git` to another repository (`git
/// rev-parse --local-env-vars`, without those that carry settings).
const MISLEADING: [&str; 12] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_WORK_TREE",
];

/// Asks `git` for the branch that is checked out in a worktree; `None` for a detached HEAD.
///
/// # Errors
/// `git` is missing, refuses, or takes too long.
pub(crate) async fn branch(top: &Path) -> Result<Option<String>, NoAnswer> {
    match git(top, &["symbolic-ref", "-q", "HEAD"]).await? {
        Answer::Yes(name) => {
            let name = name.trim();
            Ok(name.strip_prefix("refs/heads/").map(str::to_owned))
        }
        Answer::No => Ok(None),
    }
}

/// Asks `git` for the commit that is checked out in a worktree; `None` before the first commit.
///
/// # Errors
/// `git` is missing, refuses, or takes too long.
pub(crate) async fn commit(top: &Path) -> Result<Option<String>, NoAnswer> {
    match git(top, &["rev-parse", "-q", "--verify", "HEAD"]).await? {
        Answer::Yes(id) => Ok(Some(id.trim().to_owned())),
        Answer::No => Ok(None),
    }
}

/// Asks `jj` for the nearest bookmark at or before the commit that is being worked on; `None` if there is
/// none.
///
/// # Errors
/// `jj` is missing, refuses, or takes too long.
pub(crate) async fn bookmark(top: &Path) -> Result<Option<String>, NoAnswer> {
    let mut command = Command::new("jj");
    command.current_dir(top).args([
        "log",
        // Without this option `jj` would commit the working copy.
        "--ignore-working-copy",
        "--color=never",
        "--no-pager",
        "--no-graph",
        "-r",
        "heads(::@ & bookmarks())",
        "-T",
        r#"local_bookmarks.map(|b| b.name()).join("\n") ++ "\n""#,
    ]);
    match answer("jj", command).await? {
        Answer::Yes(text) => {
            let mut names = text.lines().map(str::trim);
            Ok(names.find(|name| !name.is_empty()).map(str::to_owned))
        }
        Answer::No => Err("`jj log` failed".into()),
    }
}

/// Asks macOS for the UUID of the host's hardware; `None` if it has none.
///
/// # Errors
/// `ioreg` is missing, fails, or takes too long.
pub(crate) async fn host_uuid() -> Result<Option<String>, NoAnswer> {
    let mut command = Command::new("/usr/sbin/ioreg");
    command.args(["-rd1", "-c", "IOPlatformExpertDevice"]);
    match answer("ioreg", command).await? {
        Answer::Yes(text) => Ok(platform_uuid(&text)),
        Answer::No => Ok(None),
    }
}

/// Reads `"IOPlatformUUID" = "…"`.
fn platform_uuid(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("\"IOPlatformUUID\" = \"")?;
    let (uuid, _) = rest.split_once('"')?;
    (!uuid.is_empty()).then(|| uuid.to_owned())
}

/// The output of a command, or `No` if it ended with code 1.
pub(super) enum Answer {
    Yes(String),
    No,
}

pub(super) async fn git(top: &Path, args: &[&str]) -> Result<Answer, NoAnswer> {
    judge("git", output("git", command(top, args)).await?)
}

/// Returns all branches of a repository, as `refs/heads/NAME`. A branch that cannot be read is an error here,
/// where git only warns.
pub(super) async fn branches(top: &Path) -> Result<BTreeSet<String>, NoAnswer> {
    let args = ["for-each-ref", "--format=%(refname)", "refs/heads"];
    let output = output("git", command(top, &args)).await?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.lines().any(|line| line.starts_with("warning:")) {
        return Err(said("git", &output));
    }
    match judge("git", output)? {
        Answer::Yes(text) => Ok(text.lines().map(str::to_owned).collect()),
        Answer::No => Err("`git for-each-ref` failed".into()),
    }
}

fn command(top: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(top).args(args);
    for name in MISLEADING {
        command.env_remove(name);
    }
    // The messages are shown to the user, and nothing may be written in passing.
    command.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0");
    command
}

async fn answer(program: &str, command: Command) -> Result<Answer, NoAnswer> {
    judge(program, output(program, command).await?)
}

async fn output(program: &str, mut command: Command) -> Result<Output, NoAnswer> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("`{program}` is not installed"))
        }
        Ok(Err(e)) => Err(format!("`{program}` cannot be started: {e}")),
        Err(_) => Err(format!("`{program}` takes more than {PATIENCE:?}")),
    }
}

fn judge(program: &str, output: Output) -> Result<Answer, NoAnswer> {
    match output.status.code() {
        Some(0) => Ok(Answer::Yes(String::from_utf8_lossy(&output.stdout).into_owned())),
        Some(1) => Ok(Answer::No),
        _ => Err(said(program, &output)),
    }
}

/// Describes a failure by the first line of the command's message.
fn said(program: &str, output: &Output) -> NoAnswer {
    let text = String::from_utf8_lossy(&output.stderr);
    match text.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("`{program}` failed: {}", line.trim()),
        None => format!("`{program}` failed ({})", output.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_of_a_mac() {
        let text = "  | {\n  |   \"IOPlatformUUID\" = \"0A1B-2C\"\n  |   \"x\" = \"y\"\n";
        assert_eq!(platform_uuid(text).as_deref(), Some("0A1B-2C"));
        assert_eq!(platform_uuid("\"IOPlatformUUID\" = \"\""), None);
        assert_eq!(platform_uuid(""), None);
    }
}
