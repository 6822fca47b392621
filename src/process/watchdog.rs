//! Ends a process group if pgstencil is killed.
//!
//! At most one build per fingerprint may run. The right to build is a lock that the server releases when
//! pgstencil's session ends. So if pgstencil is killed with SIGKILL, another process may build immediately,
//! and the old command must not continue at the same time. pgstencil is no longer there to end it, so a small
//! shell does. (Linux's parent-death signal would need unsafe code, reaches only the direct child, and fires
//! when the *thread* ends.)

use std::process::Stdio;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use crate::error::{Error, Result};

/// Reads a process group from the first line, then waits for a second line. An end of file instead means that
/// pgstencil is gone, since no other process holds the other end of the pipe.
///
/// - It ignores the signals that a terminal or a runner sends to all processes: it ends with pgstencil
///   anyway.
/// - It leaves descriptors alone that pgstencil inherited (a lock file of a wrapper script); those that
///   pgstencil opens are close-on-exec. Some POSIX shells support only one-digit numbers.
/// - `kill -s TERM --` is the form of POSIX; dash rejects `kill -TERM --`.
/// - The group is checked each second, so that a number that the system has reused in the meantime is not
///   signalled.
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

/// A running watchdog. If it is dropped without [`Watchdog::dismiss`], the pipe closes and it ends the group.
pub(super) struct Watchdog {
    child: Child,
    leash: ChildStdin,
}

impl Watchdog {
    /// Starts a watchdog without a group. It starts first, so that the command never runs without one.
    pub(super) fn start() -> Result<Self> {
        let failed = |e| Error::failed("cannot start the watchdog `/bin/sh`").caused_by(e);
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "pgstencil-watchdog"])
            // It needs its own group, or the signal that ends pgstencil's group would end it.
            .process_group(0)
            // It needs only `sleep`; it should hold neither passwords nor a directory.
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/run/current-system/sw/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            // Otherwise a process that reads pgstencil's output would wait for it: `url=$(pgstencil clone)`.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let leash = child.stdin.take().ok_or_else(|| Error::internal("no pipe to the watchdog"))?;
        Ok(Watchdog { child, leash })
    }

    /// Names the group to end. When this returns, the number is in the pipe, so the watchdog reads it even if
    /// pgstencil dies.
    pub(super) async fn guard(&mut self, group: Pid) -> Result<()> {
        self.leash
            .write_all(format!("{group}\n").as_bytes())
            .await
            .map_err(|e| Error::failed("the watchdog is gone").caused_by(e))
    }

    /// Ends the watchdog and reaps it.
    pub(super) async fn dismiss(mut self) {
        // An error means that it is gone already.
        let _ = self.leash.write_all(b"farewell\n").await;
        drop(self.leash);
        if tokio::time::timeout(Duration::from_secs(2), self.child.wait()).await.is_err() {
            tracing::warn!("the watchdog does not end by itself");
            let _ = self.child.kill().await;
        }
    }
}
