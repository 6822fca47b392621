//! Starts, watches and ends commands of the user. No other module starts such commands; this one knows
//! nothing of Postgres.
//!
//! - [`run_captured`] runs a build command or hook: no input, output line by line, a deadline, and no process
//!   left behind, even if pgstencil is killed.
//! - [`run_foreground`] runs the command of `pgstencil run` as if the user had typed it.
//!
//! Both work on *process groups*, since a shell's children do not end with it. A process that leaves its
//! group (a daemon that calls `setsid`) is out of reach.

mod alive;
mod captured;
mod foreground;
mod lines;
pub(crate) mod load;
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

pub(crate) use self::alive::{is_alive, is_group_alive};
pub(crate) use self::captured::{Ended, Finished, run_captured};
pub(crate) use self::foreground::{Signals, Started, run_foreground};
pub(crate) use self::lines::plain;

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Time of a command between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);

/// A command to run.
#[derive(Clone)]
pub(crate) struct Job {
    /// Program and arguments; never empty. The program is searched in the child's `PATH`.
    pub(crate) argv: Vec<OsString>,
    /// Working directory.
    pub(crate) cwd: PathBuf,
    /// Variables to set, in addition to the environment of pgstencil.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Variables to remove from the environment of pgstencil; `env` may set them again.
    pub(crate) cleared: Vec<OsString>,
    /// Cancelled when the command must be gone before anything else happens: a captured command then gets
    /// KILL without a TERM before it.
    pub(crate) kill: CancellationToken,
    /// Time that the remaining processes of a captured command have to end by themselves, after the command
    /// succeeded.
    pub(crate) patience: Duration,
}

impl Job {
    /// Returns a job that runs `argv` in `cwd`, with the environment of pgstencil.
    pub(crate) fn new(argv: Vec<OsString>, cwd: impl Into<PathBuf>) -> Self {
        Job {
            argv,
            cwd: cwd.into(),
            env: Vec::new(),
            cleared: Vec::new(),
            kill: CancellationToken::new(),
            patience: Duration::ZERO,
        }
    }

    /// Returns a job that runs `sh -c COMMAND` in `cwd`, with the environment of pgstencil.
    pub(crate) fn shell(command: &str, cwd: impl Into<PathBuf>) -> Self {
        Job::new(vec!["sh".into(), "-c".into(), command.into()], cwd)
    }

    /// Sets the directory and the variables of `command`.
    fn dress<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.current_dir(&self.cwd);
        for name in &self.cleared {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)))
    }
}

/// Hides the values of variables: one of them is a password.
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

/// How a process ended. `Display` fits into "the command failed (exit code 3)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// The process called `exit`.
    Exited(i32),
    /// A signal ended the process.
    Signaled(i32),
}

impl Status {
    /// Returns the exit code as a shell reports it: 128+n for signal n.
    pub(crate) fn code(self) -> i32 {
        match self {
            Status::Exited(code) => code,
            Status::Signaled(signal) => 128 + signal,
        }
    }

    /// Returns whether the process exited with 0.
    pub(crate) fn success(self) -> bool {
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

/// Sends a signal to a group, or only checks it (`None`). Returns whether there was a process to signal. A
/// group in which pgstencil may signal no process counts as gone: there is nothing that it could do.
fn signal_group(group: Pid, signal: Option<Signal>) -> bool {
    killpg(group, signal).is_ok()
}

/// Asks a group to end. Sends CONT as well, or a stopped process would never get the TERM.
fn terminate_group(group: Pid) {
    signal_group(group, Some(Signal::SIGTERM));
    signal_group(group, Some(Signal::SIGCONT));
}

/// Waits until `at`; indefinitely if `at` is `None`.
async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Returns the error for a program that could not be started.
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
                .hint("check that the interpreter in its first line is installed")
        }
        io::ErrorKind::NotFound => Error::usage(format!("no program `{shown}` found"))
            .hint("run aliases, functions and pipes in a shell: `sh -c '...'`"),
        io::ErrorKind::PermissionDenied => Error::usage(format!("`{shown}` cannot be executed"))
            .hint("make it a file with the execute bit set (`chmod +x`)"),
        _ => Error::failed(format!("cannot start `{shown}`")),
    }
    .caused_by(cause)
}
