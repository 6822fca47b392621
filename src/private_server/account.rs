//! The account that Postgres runs under. Postgres refuses to run as root, so for root it runs under an
//! unprivileged account; for any other user it runs under the user's own account.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::unistd::{User, getegid, geteuid};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Error, Kind, Result};

/// An account, and whether processes must be switched to it.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether pgstencil runs as root and this is another account.
    pub(super) foreign: bool,
}

impl Account {
    /// Returns the account for a new cluster: the current user, or for root `run_as`, else `postgres`, else
    /// `nobody`.
    pub(super) fn choose(run_as: Option<&str>) -> Result<Self> {
        let uid = geteuid();
        if !uid.is_root() {
            let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
            return Ok(Account {
                name: name.unwrap_or_else(|| uid.to_string()),
                uid: uid.as_raw(),
                gid: getegid().as_raw(),
                foreign: false,
            });
        }
        if let Some(name) = run_as {
            let account = find(name)?.ok_or_else(|| {
                Error::config(format!("there is no account `{name}` for Postgres to run under"))
                    .hint("name an existing unprivileged account in `[server] run_as`")
            })?;
            if account.uid == 0 {
                return Err(Error::config(format!("Postgres cannot run under the account `{name}`"))
                    .detail("Postgres refuses to run as root")
                    .hint("name an unprivileged account in `[server] run_as`"));
            }
            return Ok(account);
        }
        for name in ["postgres", "nobody"] {
            if let Some(account) = find(name)?.filter(|account| account.uid != 0) {
                return Ok(account);
            }
        }
        Err(Error::config("there is no account for Postgres to run under")
            .detail("Postgres refuses to run as root")
            .detail("neither `postgres` nor `nobody` is a usable account")
            .hint("create one with `useradd --system postgres`, or name one in `[server] run_as`"))
    }

    /// Returns the account with this id, if Postgres can run under it.
    pub(super) fn of_uid(uid: u32) -> Option<Self> {
        let user = User::from_uid(uid.into()).ok().flatten()?;
        (uid != 0).then(|| user.into())
    }

    /// Returns a command under this account that inherits nothing from pgstencil: no environment (CI runners
    /// kill processes by markers in it), no signals of the terminal, no input.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .process_group(0);
        if self.foreign {
            // If a uid and no groups are set, std also drops root's supplementary groups.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Returns whether a process of this account can enter a directory. It asks the kernel, which also knows
    /// access lists and the like.
    pub(super) async fn can_enter(&self, directory: &Path) -> bool {
        let mut command = self.command("/bin/sh");
        command
            .args(["-c", r#"cd -P -- "$1""#, "sh"])
            .arg(directory)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().await.is_ok_and(|status| status.success())
    }

    /// Makes the account the owner of a file or directory. Links are not followed.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        if !self.foreign {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).map_err(|e| {
            Error::new(
                Kind::Permission,
                format!("cannot give {} to the account `{}`", path.display(), self.name),
            )
            .caused_by(e)
        })
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), foreign: true }
    }
}

fn find(name: &str) -> Result<Option<Account>> {
    let user = User::from_name(name)
        .and_then(|user| match name.parse::<u32>() {
            Ok(uid) if user.is_none() => User::from_uid(uid.into()),
            _ => Ok(user),
        })
        .map_err(|e| Error::failed(format!("cannot look up the account `{name}`")).caused_by(e))?;
    Ok(user.map(Account::from))
}

/// Runs a command to its end, with `input` on its stdin if there is any, and collects stdout and stderr.
///
/// Cancel safety: a dropped future kills the process.
pub(super) async fn run(mut command: Command, input: Option<&str>, patience: Duration) -> io::Result<Output> {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let finish = async {
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // A program that ends without reading its input reports the reason on stderr.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    tokio::time::timeout(patience, finish).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Returns the last lines of a program's output or of a log, for the details of an error.
pub(super) fn tail(output: &[u8], lines: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let all: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let skip = all.len().saturating_sub(lines);
    all.into_iter().skip(skip).map(str::to_owned).collect()
}

/// Returns whether a path can be used in Postgres's settings and in the command lines of its tools.
pub(super) fn is_plain(path: &Path) -> bool {
    path.as_os_str()
        .as_bytes()
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"/._-+@ ".contains(b) || !b.is_ascii())
        && path.to_str().is_some()
}
