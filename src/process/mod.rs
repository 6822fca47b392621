//! Other people's commands: how they are started, watched and ended. The only module that starts
//! children; it knows nothing of Postgres.
//!
//! - [`run_captured`] runs a build command or hook: no input, output line by line, a deadline, and
//!   nothing of it left behind, not even if we are killed.
//! - [`run_foreground`] runs the command of `pgstencil run`: as if the user had typed it.
//!
//! Both look at *process groups*, since a shell's children do not end with it. What leaves its group
//! (a daemon that calls `setsid`) is out of reach, by its own wish.

mod alive;
mod captured;
mod foreground;
mod lines;
#[cfg(test)]
mod tests;
mod watchdog;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;

pub use self::alive::{is_alive, is_group_alive};
pub use self::captured::{Ended, Finished, run_captured};
pub use self::foreground::{Signals, Started, run_foreground};
pub use self::lines::plain;

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// How long a command has between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);

/// A command to run.
#[derive(Clone)]
pub struct Job {
    /// Program and arguments; never empty. The program is looked up in the child's `PATH`.
    pub argv: Vec<OsString>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Variables to set, on top of our own environment.
    pub env: Vec<(OsString, OsString)>,
    /// Variables to take out of our own environment; `env` may set them again.
    pub cleared: Vec<OsString>,
    /// Cancelled when the command must be gone before anything else happens: a captured one then gets KILL
    /// without a TERM before it.
    pub kill: CancellationToken,
    /// How long what a captured command leaves in its group may go on after it has ended well.
    pub patience: Duration,
}

impl Job {
    /// `argv` in `cwd`, with our own environment.
    pub fn new(argv: Vec<OsString>, cwd: impl Into<PathBuf>) -> Self {
        Job {
            argv,
            cwd: cwd.into(),
            env: Vec::new(),
            cleared: Vec::new(),
            kill: CancellationToken::new(),
            patience: Duration::ZERO,
        }
    }

    /// `sh -c COMMAND` in `cwd`, with our own environment.
    pub fn shell(command: &str, cwd: impl Into<PathBuf>) -> Self {
        Job::new(vec!["sh".into(), "-c".into(), command.into()], cwd)
    }

    /// Directory and variables, on `command`.
    fn dress<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.current_dir(&self.cwd);
        for name in &self.cleared {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)))
    }
}

/// Without the values of variables: one of them is a password.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Job")
            .field("argv", &self.argv)
            .field("cwd", &self.cwd)
            .field("env", &names)
            .field("cleared", &self.cleared)
            .finish()
    }
}

/// How a process ended. Displayed as in "the command failed (exit code 3)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It called `exit`.
    Exited(i32),
    /// A signal ended it.
    Signaled(i32),
}

impl Status {
    /// The exit code as a shell gives it: 128+n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Status::Exited(code) => code,
            Status::Signaled(signal) => 128 + signal,
        }
    }

    /// Whether it exited with 0.
    pub fn success(self) -> bool {
        self == Status::Exited(0)
    }
}

impl From<ExitStatus> for Status {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Status::Exited(code),
            (None, Some(signal)) => Status::Signaled(signal),
            // `wait` reports only processes that have ended.
            (None, None) => Status::Exited(1),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Status::Exited(code) => write!(f, "exit code {code}"),
            Status::Signaled(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "signal {number}, {signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// Sends a signal to a group, or only looks (`None`); whether there was anything to send it to.
/// A group in which we may signal nobody counts as gone: there is nothing that we could do.
fn signal_group(group: Pid, signal: Option<Signal>) -> bool {
    killpg(group, signal).is_ok()
}

/// Asks a group to end. CONT as well, or a stopped process would never get the TERM.
fn terminate_group(group: Pid) {
    signal_group(group, Some(Signal::SIGTERM));
    signal_group(group, Some(Signal::SIGCONT));
}

/// Waits until `at`; for ever if there is no such moment.
async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The error for a program that could not be started.
fn cannot_start(program: &OsString, cwd: &Path, cause: io::Error) -> Error {
    let program = Path::new(program);
    let shown = program.display();
    if !cwd.is_dir() {
        return Error::failed(format!("cannot run `{shown}` in `{}`: no such directory", cwd.display()))
            .caused_by(cause);
    }
    match cause.kind() {
        io::ErrorKind::NotFound if cwd.join(program).is_file() => {
            Error::usage(format!("cannot start `{shown}`"))
                .hint("the interpreter that its first line names may be missing")
        }
        io::ErrorKind::NotFound => Error::usage(format!("no program `{shown}` found"))
            .hint("aliases, functions and pipes need a shell: `sh -c '...'`"),
        io::ErrorKind::PermissionDenied => Error::usage(format!("`{shown}` cannot be executed"))
            .hint("it must be a file with the execute bit set"),
        _ => Error::failed(format!("cannot start `{shown}`")),
    }
    .caused_by(cause)
}
