//! Runs commands and reads their output.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::alive::{is_group_alive, members};
use super::lines::Lines;
use super::watchdog::Watchdog;
use super::{GRACE, Job, Status, cannot_start, signal_group, sleep_until, terminate_group};
use crate::error::{Error, Result};

/// Length of a pause after the command's end that means that no more output comes.
const QUIET: Duration = Duration::from_millis(200);

/// Maximum time that a remaining process that never pauses its output is read.
const CHATTY: Duration = Duration::from_secs(2);

/// Time of remaining processes between TERM and KILL. Shorter than [`GRACE`]: the command itself has ended,
/// and the caller waits.
const LEFT_OVER_GRACE: Duration = Duration::from_secs(2);

/// A shell that waits for a line before it becomes the command: see [`run_captured`]. If pgstencil dies
/// before, it reads an end of file and exits.
///
/// To the user's terminal the command is a background group. A command that asks for a password there would
/// be stopped, unseen, until the timeout; with these signals ignored its read fails instead.
const GATE: &str = r#"trap '' TTIN TTOU; IFS= read -r go || exit 125; exec "$@" </dev/null"#;

/// Result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// How the command itself ended.
    pub(crate) status: Status,
    /// Whether and why pgstencil ended it.
    pub(crate) ended: Ended,
    /// The last 40 lines of its output, as returned by [`super::plain`].
    pub(crate) tail: Vec<String>,
    /// Time from its start to its end.
    pub(crate) elapsed: Duration,
    /// Processes of its group that did not end within [`Job::patience`] and so were ended; for display.
    pub(crate) left: Vec<String>,
}

/// The reason why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It ended by itself, or another process ended it.
    ByItself,
    /// pgstencil ended it at the timeout.
    TimedOut,
    /// pgstencil ended it because the caller cancelled.
    Cancelled,
}

/// Runs a command to its end and reads its output.
///
/// Standard input is empty. Standard output and error are one pipe, so that the order of their lines is kept;
/// `on_line` gets each line when it is complete, and must not block. The command has its own process group,
/// which does not outlive it: remaining processes get TERM, and KILL two seconds later. After `timeout`, or
/// when `cancel` is cancelled, the group gets TERM, and KILL five seconds later; the function then returns as
/// after any other end. When `job.kill` is cancelled, the group gets KILL immediately.
///
/// The command never runs unwatched: first the watchdog starts, then a shell that waits; then the watchdog is
/// told the group, and only then does the shell become the command.
///
/// The shell searches the program. So a program that does not exist is not an error here but ends with
/// [`Status::Exited`] 127 (126 if it cannot be executed), and its message is in the tail.
///
/// # Errors
///
/// [`crate::Kind::Failed`] if nothing could be started: no such directory, no more processes. The way in
/// which the command ended is not an error here.
///
/// # Cancel safety
///
/// If the future is dropped, the watchdog ends the group as if pgstencil had been killed, but nothing waits
/// for that. Use `cancel` if the group must be gone before the next step.
pub(crate) async fn run_captured(
    job: &Job,
    timeout: Option<Duration>,
    cancel: &CancellationToken,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<Finished> {
    let Some(program) = job.argv.first() else {
        return Err(Error::internal("a job without a program"));
    };
    let no_pipe = |e| Error::failed("cannot make a pipe").caused_by(e);
    let (reader, writer) = std::io::pipe().map_err(no_pipe)?;
    let mut output = Output::new(pipe::Receiver::from_owned_fd(reader.into()).map_err(no_pipe)?);

    let mut watchdog = Watchdog::start()?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", GATE, "pgstencil-gate"]).args(&job.argv);
    job.dress(&mut command)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(writer.try_clone().map_err(no_pipe)?)
        .stderr(writer);
    let spawned = command.spawn();
    // It holds this process's copies of the writing end; with them the output would never end.
    drop(command);
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => {
            watchdog.dismiss().await;
            return Err(cannot_start(program, &job.cwd, e));
        }
    };
    let started = Instant::now();
    let (Some(pid), Some(mut gate)) = (child.id(), child.stdin.take()) else {
        return Err(Error::internal("a child without number or pipe"));
    };
    let group = Pid::from_raw(pid.cast_signed());
    // From here on an early return closes both pipes: then the waiting shell exits by itself.
    watchdog.guard(group).await?;
    // If the shell is gone, `wait` below returns how it ended.
    let _ = gate.write_all(b"go\n").await;
    drop(gate);

    let mut ended = Ended::ByItself;
    let mut deadline = timeout.and_then(|t| started.checked_add(t));
    let mut kill_at = None;
    let mut killed = false;
    let status = loop {
        let why = tokio::select! {
            status = child.wait() => break status,
            () = output.read(on_line) => continue,
            () = sleep_until(kill_at) => {
                signal_group(group, Some(Signal::SIGKILL));
                kill_at = None;
                continue;
            }
            () = job.kill.cancelled(), if !killed => {
                signal_group(group, Some(Signal::SIGKILL));
                (killed, ended, deadline) = (true, Ended::Cancelled, None);
                continue;
            }
            () = sleep_until(deadline) => Ended::TimedOut,
            () = cancel.cancelled(), if ended == Ended::ByItself => Ended::Cancelled,
        };
        // The child is not reaped yet, so the number of the group still belongs to it.
        terminate_group(group);
        ended = why;
        deadline = None;
        kill_at = Some(Instant::now() + GRACE);
    };
    let elapsed = started.elapsed();
    let status = status.map_err(|e| Error::internal("cannot wait for a child").caused_by(e))?;

    output.drain(QUIET, CHATTY, on_line).await;
    let mut left = Vec::new();
    if ended == Ended::ByItself && status.success() && !job.patience.is_zero() {
        let until = Instant::now() + job.patience;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        if !output.ends_by(until, pid, cancel, on_line).await {
            left = members(pid);
        }
    }
    output.end_left_overs(group, on_line).await;
    watchdog.dismiss().await;
    let tail = output.lines.finish(on_line);
    Ok(Finished { status: status.into(), ended, tail, elapsed, left })
}

/// The reading end of the output.
struct Output {
    /// `None` after the end of file.
    pipe: Option<pipe::Receiver>,
    buffer: Box<[u8]>,
    lines: Lines,
}

impl Output {
    fn new(pipe: pipe::Receiver) -> Self {
        Output { pipe: Some(pipe), buffer: vec![0; 64 << 10].into(), lines: Lines::default() }
    }

    /// Reads once; never returns after the end of file. Cancel safe.
    async fn read(&mut self, on_line: &mut (dyn FnMut(&str) + Send)) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        match pipe.read(&mut self.buffer).await {
            // A pipe does not fail; if it does, nothing more comes from it.
            Ok(0) | Err(_) => self.pipe = None,
            Ok(n) => self.lines.push(&self.buffer[..n], on_line),
        }
    }

    /// Reads the available output, until the end, a pause, or `longest`. A process that still holds the pipe
    /// must not block pgstencil.
    async fn drain(&mut self, pause: Duration, longest: Duration, on_line: &mut (dyn FnMut(&str) + Send)) {
        let end = Instant::now() + longest;
        while self.pipe.is_some() {
            let until = end.min(Instant::now() + pause);
            if timeout_at(until, self.read(on_line)).await.is_err() {
                return;
            }
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// Ends the remaining processes of the group, and reads what they still print. Returns when they are
    /// gone, or when nothing more can be done: a zombie that no process reaps (containers without an init)
    /// looks alive indefinitely.
    ///
    /// The number cannot belong to another group: the system does not reuse it while the group has members,
    /// and it is not used here once the group is gone.
    async fn end_left_overs(&mut self, group: Pid, on_line: &mut (dyn FnMut(&str) + Send)) {
        if !signal_group(group, None) {
            return;
        }
        terminate_group(group);
        if !self.gone_within(LEFT_OVER_GRACE, group, on_line).await {
            signal_group(group, Some(Signal::SIGKILL));
            self.gone_within(Duration::from_millis(500), group, on_line).await;
        }
        self.drain(QUIET / 4, QUIET, on_line).await;
    }

    /// Returns whether the group ends by itself, and reads what it still prints.
    async fn ends_by(
        &mut self,
        until: Instant,
        group: u32,
        cancel: &CancellationToken,
        on_line: &mut (dyn FnMut(&str) + Send),
    ) -> bool {
        while is_group_alive(group) {
            if Instant::now() >= until || cancel.is_cancelled() {
                return false;
            }
            let _ = timeout(Duration::from_millis(20), self.read(on_line)).await;
        }
        true
    }

    async fn gone_within(
        &mut self,
        limit: Duration,
        group: Pid,
        on_line: &mut (dyn FnMut(&str) + Send),
    ) -> bool {
        let end = Instant::now() + limit;
        while signal_group(group, None) {
            if Instant::now() >= end {
                return false;
            }
            // After the end of file `read` never returns, so then this is a sleep.
            let _ = timeout(Duration::from_millis(20), self.read(on_line)).await;
        }
        true
    }
}
