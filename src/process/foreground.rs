//! Runs the command of `pgstencil run`, with pgstencil's own input and output.
//!
//! # Who gets which signal
//!
//! | | standard input is a terminal | it is not |
//! |---|---|---|
//! | the command's group | pgstencil's | its own |
//! | Ctrl-C | the terminal signals the command itself; pgstencil does nothing | pgstencil forwards it |
//! | Ctrl-Z, reading the terminal | as without pgstencil | stops only pgstencil |
//! | INT to pgstencil alone | nothing (cannot be distinguished from Ctrl-C) | to the group |
//! | TERM, HUP to pgstencil | to the command | to the group |
//! | INT again | three within two seconds: TERM, then KILL, to the command | the second: TERM, then KILL, to the group |
//!
//! On a terminal the command must stay in pgstencil's group: a group in the background is stopped when it
//! reads (`psql`, `pdb`), and if pgstencil handed the terminal over, it would have to take it back after each
//! Ctrl-Z. Ctrl-C is common in such programs, so three in quick succession are needed to mean "end it"; the
//! group also contains pgstencil and possibly the shell, so only the command itself can be signalled safely.
//!
//! Signals that were ignored when pgstencil started (`nohup`, a background job of a script) stay ignored, for
//! pgstencil and for the command.

use std::io::IsTerminal as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Duration, Instant};

use super::{GRACE, Job, Status, cannot_start, signal_group, sleep_until, terminate_group};
use crate::error::{Error, Result};

/// Receives SIGINT, SIGTERM and SIGHUP.
///
/// From [`Signals::subscribe`] on these signals no longer end this process. Signals that arrive while no
/// caller waits are kept for the next caller (several of one kind count as one).
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Option<unix::Signal>,
    terminate: Option<unix::Signal>,
    hangup: Option<unix::Signal>,
}

impl Signals {
    /// Starts to receive signals. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Internal`] if the system refuses.
    pub(crate) fn subscribe() -> Result<Self> {
        // Read before the first handler is installed, since a handler ends the ignoring.
        let ignored = ignored_signals();
        let listen = |signal: Signal| {
            let number = signal as i32;
            if ignored & (1 << (number - 1)) != 0 {
                return Ok(None);
            }
            unix::signal(SignalKind::from_raw(number))
                .map(Some)
                .map_err(|e| Error::internal("cannot listen for signals").caused_by(e))
        };
        Ok(Signals {
            interrupt: listen(Signal::SIGINT)?,
            terminate: listen(Signal::SIGTERM)?,
            hangup: listen(Signal::SIGHUP)?,
        })
    }

    /// Returns the next of the three signals.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            () = next(&mut self.interrupt) => Signal::SIGINT,
            () = next(&mut self.terminate) => Signal::SIGTERM,
            () = next(&mut self.hangup) => Signal::SIGHUP,
        }
    }
}

async fn next(signal: &mut Option<unix::Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// Returns the set of signals that this process ignores, bit n-1 for signal n; empty if the system does not
/// show it (there is no other way to ask without unsafe code).
pub(super) fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// A command that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Started {
    /// Number of its process.
    pub(crate) pid: u32,
    /// Its process group, if that is not pgstencil's.
    pub(crate) group: Option<u32>,
}

/// Runs a command with this process's standard input, output and error until it ends. `started` is called as
/// soon as the command runs.
///
/// Call [`Signals::subscribe`] first: signals that arrived since then are forwarded immediately. Processes
/// that the command leaves running in the background are left alone.
///
/// # Errors
///
/// [`crate::Kind::Usage`], with the program, if it does not exist or cannot be executed;
/// [`crate::Kind::Failed`] if the system refuses otherwise. The way in which the command ended is not an
/// error.
///
/// # Cancel safety
///
/// If the future is dropped, the command continues, unwatched.
pub(crate) async fn run_foreground(
    job: &Job,
    signals: &mut Signals,
    started: impl FnOnce(Started),
) -> Result<Status> {
    let terminal = std::io::stdin().is_terminal();
    let place = match terminal {
        true => Place::OurGroup,
        false => Place::OwnGroup,
    };
    run(job, signals, place, started).await
}

/// The process group in which the command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    OurGroup,
    OwnGroup,
}

pub(super) async fn run(
    job: &Job,
    signals: &mut Signals,
    place: Place,
    started: impl FnOnce(Started),
) -> Result<Status> {
    let Some((program, arguments)) = job.argv.split_first() else {
        return Err(Error::usage("no command given"));
    };
    let mut command = Command::new(program);
    job.dress(command.args(arguments));
    if place == Place::OwnGroup {
        command.process_group(0);
    }
    let mut child = command.spawn().map_err(|e| cannot_start(program, &job.cwd, e))?;
    let Some(pid) = child.id() else {
        return Err(Error::internal("a child without number"));
    };
    started(Started { pid, group: (place == Place::OwnGroup).then_some(pid) });
    let target = Target { pid: Pid::from_raw(pid.cast_signed()), place };

    let mut interrupts = Interrupts::default();
    let mut kill_at = None;
    loop {
        // The child is reaped only here, and no signal is sent after that: the number still belongs to it.
        tokio::select! {
            status = child.wait() => {
                let failed = |e| Error::internal("cannot wait for a child").caused_by(e);
                return status.map(Status::from).map_err(failed);
            }
            signal = signals.next() => {
                if signal != Signal::SIGINT {
                    target.send(signal);
                } else if interrupts.insist(place, Instant::now()) {
                    target.terminate();
                    kill_at.get_or_insert(Instant::now() + GRACE);
                } else if place == Place::OwnGroup {
                    target.send(signal);
                }
            }
            () = sleep_until(kill_at) => {
                target.send(Signal::SIGKILL);
                kill_at = None;
            }
        }
    }
}

/// Counts the user's Ctrl-C.
#[derive(Default)]
struct Interrupts(Vec<Instant>);

impl Interrupts {
    /// Records one Ctrl-C; returns whether it means that the command must end.
    fn insist(&mut self, place: Place, now: Instant) -> bool {
        let needed = match place {
            Place::OwnGroup => 2,
            Place::OurGroup => {
                self.0.retain(|&then| now - then < Duration::from_secs(2));
                3
            }
        };
        self.0.push(now);
        self.0.len() >= needed
    }
}

struct Target {
    pid: Pid,
    place: Place,
}

impl Target {
    fn send(&self, signal: Signal) {
        match self.place {
            Place::OwnGroup => {
                signal_group(self.pid, Some(signal));
            }
            Place::OurGroup => {
                // The process has ended but is not reaped yet, or belongs to another user (sudo): nothing to
                // do.
                let _ = kill(self.pid, signal);
            }
        }
    }

    fn terminate(&self) {
        match self.place {
            Place::OwnGroup => terminate_group(self.pid),
            Place::OurGroup => {
                self.send(Signal::SIGTERM);
                self.send(Signal::SIGCONT);
            }
        }
    }
}
