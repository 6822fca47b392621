//! Ends a process group if we die without a word.
//!
//! At most one build per fingerprint may run. The right to build is a lock that the server frees
//! when our session ends, so when pgstencil is killed with SIGKILL the next one may build at once:
//! the old command must not go on beside it. Nothing of us is left to end it, so a small shell
//! stands by. (Linux's parent-death signal would need unsafe code, reaches only the direct child, and
//! fires when the *thread* ends.)

use std::process::Stdio;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use crate::error::{Error, Result};

/// Reads a process group on the first line, then waits for a second one. End of file instead means
/// that we are gone, since nobody else holds the other end of the pipe.
///
/// - It ignores what a terminal or a runner sends to all and sundry: it ends with us anyway.
/// - Descriptors that we were born with (a lock file of a wrapper script) are not its business; ours
///   are close-on-exec. Of the POSIX shells some know only one-digit numbers.
/// - `kill -s TERM --` is the form of POSIX; dash takes `kill -TERM --` for a mistake.
/// - The group is looked at each second, so that a number that the system has given to somebody else
///   in the meantime is not signalled.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
IFS= read -r group || exit 0
IFS= read -r farewell && exit 0
kill -s TERM -- "-$group" || exit 0
kill -s CONT -- "-$group"
for second in 1 2 3 4 5; do
    sleep 1
    kill -s 0 -- "-$group" || exit 0
done
kill -s KILL -- "-$group"
"#;

/// A watchdog that runs. Dropping it without [`Watchdog::dismiss`] makes it bite: the pipe closes.
pub(super) struct Watchdog {
    child: Child,
    leash: ChildStdin,
}

impl Watchdog {
    /// Starts it, idle. It goes first, so that the command never runs without.
    pub(super) fn start() -> Result<Self> {
        let failed = |e| Error::failed("cannot start the watchdog `/bin/sh`").caused_by(e);
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "pgstencil-watchdog"])
            // A group of its own, or the signal that ends ours would end it.
            .process_group(0)
            // It needs no more than `sleep`; it shall not hold passwords, nor a directory.
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/run/current-system/sw/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            // Or whoever reads our output would wait for it: `url=$(pgstencil clone)`.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let leash = child.stdin.take().ok_or_else(|| Error::internal("no pipe to the watchdog"))?;
        Ok(Watchdog { child, leash })
    }

    /// Tells it whom to end. When this returns the number is in the pipe, so it will be read even if
    /// we are gone by then.
    pub(super) async fn guard(&mut self, group: Pid) -> Result<()> {
        self.leash
            .write_all(format!("{group}\n").as_bytes())
            .await
            .map_err(|e| Error::failed("the watchdog is gone").caused_by(e))
    }

    /// Bids it farewell and reaps it.
    pub(super) async fn dismiss(mut self) {
        // If it is gone already, so much the better.
        let _ = self.leash.write_all(b"farewell\n").await;
        drop(self.leash);
        if tokio::time::timeout(Duration::from_secs(2), self.child.wait()).await.is_err() {
            tracing::warn!("the watchdog does not end by itself");
            let _ = self.child.kill().await;
        }
    }
}
