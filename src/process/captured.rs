//! Commands whose output we read.

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

/// A pause this long after the command's end means that nothing more comes.
const QUIET: Duration = Duration::from_millis(200);

/// How long a left-over that never falls silent is listened to.
const CHATTY: Duration = Duration::from_secs(2);

/// How long left-overs have between TERM and KILL. Shorter than [`GRACE`]: the command itself has
/// ended, and somebody waits.
const LEFT_OVER_GRACE: Duration = Duration::from_secs(2);

/// Waits for the word before it becomes the command: see [`run_captured`]. If we die before, it
/// reads an end of file and goes.
///
/// The command is a background group to the user's terminal. One that asks there for a password would
/// be stopped, unseen, until the timeout; with these signals ignored its read fails instead.
const GATE: &str = r#"trap '' TTIN TTOU; IFS= read -r go || exit 125; exec "$@" </dev/null"#;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How the command itself ended.
    pub status: Status,
    /// Whether it was we who ended it.
    pub ended: Ended,
    /// The last 40 lines of its output, as [`super::plain`] leaves them.
    pub tail: Vec<String>,
    /// From its start to its end.
    pub elapsed: Duration,
    /// What it left in its group that did not end within [`Job::patience`], and so was ended; for a person.
    pub left: Vec<String>,
}

/// Why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It did, or somebody else ended it.
    ByItself,
    /// We ended it, since the time was up.
    TimedOut,
    /// We ended it, since the caller said so.
    Cancelled,
}

/// Runs a command to its end and reads what it prints.
///
/// Standard input is empty. Standard output and error are one pipe, so that their lines keep the
/// order in which they were written; `on_line` gets each as it comes, and must not block.
/// The command has a process group of its own, which does not outlive it: what it leaves in there
/// gets TERM, two seconds later KILL. When `timeout` is over or `cancel` is cancelled the group
/// gets TERM, and five seconds later KILL; this then returns as after any other end. When `job.kill` is
/// cancelled it gets KILL at once.
///
/// The command never runs unwatched: the watchdog starts first, then a shell that waits; then the
/// watchdog learns the group, and only then does the shell become the command.
///
/// Since it is the shell that looks for the program, one that does not exist is no error here but
/// ends with [`Status::Exited`] 127 (126 if it cannot be executed), and its message is in the tail.
///
/// # Errors
///
/// [`crate::Kind::Failed`] if nothing could be started: no such directory, no processes left. How the
/// command ended is no error here.
///
/// # Cancel safety
///
/// If the future is dropped, the watchdog ends the group as if we had been killed, but nobody waits for
/// that. Use `cancel` where the group must be gone before the next step.
pub async fn run_captured(
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
    // It holds our copies of the writing end; with them we would never see the end of the output.
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
    // From here on an early return closes both pipes: the gate's shell then goes by itself.
    watchdog.guard(group).await?;
    // If the shell is gone, `wait` below says how.
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
        // The child is not reaped yet, so the number of the group is still its own.
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
            // A pipe does not fail; if it does, nothing more will come from it.
            Ok(0) | Err(_) => self.pipe = None,
            Ok(n) => self.lines.push(&self.buffer[..n], on_line),
        }
    }

    /// Reads what is there, until the end, a pause, or `longest`. A process that still holds the pipe
    /// must not keep us.
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

    /// Ends what is left of the group, reading what it still says. Returns when it is gone, or when
    /// there is nothing more that we could do: a zombie that nobody reaps (containers without an
    /// init) looks alive for ever.
    ///
    /// The number cannot mean anybody else: as long as the group has members the system does not
    /// give it away, and once it is seen to be gone we do not use it again.
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

    /// Whether the group ends by itself, reading what it still says.
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
            // After the end of file `read` never returns, so this is a sleep then.
            let _ = timeout(Duration::from_millis(20), self.read(on_line)).await;
        }
        true
    }
}
