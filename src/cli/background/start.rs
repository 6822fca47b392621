//! The start of the background process, and its departure from the starter's session.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{has_hooks, tls};
use crate::{Error, Result, Stencil};
use nix::unistd::{Pid, getpgid, getppid, getsid, setpgid, setsid};

/// By these marks CI runners find what a job left running, to end it. A full build is meant to
/// outlive the job; if its files go away, it ends by itself.
const RUNNER_MARKS: [&str; 2] = ["RUNNER_TRACKING_ID", "JENKINS_NODE_COOKIE"];

/// Starts the process at the lowest priority: a full build gives way to everything else. It needs the
/// caller's environment, since the build command does.
pub(super) fn send_low(instructions: &str) -> Result<Child> {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(own_program()?);
    // A system without `nice` is less usual than one that is busy for a while.
    send(nice, instructions).or_else(|_| send(Command::new(own_program()?), instructions))
}

pub(super) fn failed(error: std::io::Error) -> Error {
    Error::failed("cannot start the background process").caused_by(error)
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(failed)
}

/// This program, with our environment only if commands of the user's may have to run.
pub(super) fn program(stencil: &Stencil) -> Result<Command> {
    let program = own_program()?;
    Ok(match has_hooks(stencil) {
        true => Command::new(program),
        false => bare(program),
    })
}

/// A command without our environment, but for how the server is to be recognised.
fn bare(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    // CI runners find leftover processes by variables in their environment.
    command.env_clear().envs(tls());
    command
}

pub(super) fn send(command: Command, instructions: &str) -> Result<Child> {
    let mut child = launch(command)?;
    tell(&mut child, instructions)?;
    Ok(child)
}

fn launch(mut command: Command) -> Result<Child> {
    for mark in RUNNER_MARKS {
        command.env_remove(mark);
    }
    command
        .arg("background")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // From its first moment on: a process that ends the starter's group at its end must not find it there.
        .process_group(0)
        .spawn()
        .map_err(failed)
}

/// Writes a line. Not waited for: init reaps the process.
pub(super) fn tell(child: &mut Child, instructions: &str) -> Result<()> {
    let Some(stdin) = &mut child.stdin else {
        return Err(Error::internal("the background process has no standard input"));
    };
    // Fits into the pipe's buffer, so this never blocks.
    stdin.write_all(format!("{instructions}\n").as_bytes()).map_err(failed)
}

/// Leaves the starter's session, and closes what was inherited beside the three standard
/// descriptors: the reader of `$(pgstencil clone)` waits until no process holds the pipe open.
/// `false`: another process, which can leave, does the work.
pub(in crate::cli) fn leave() -> bool {
    close_inherited();
    setsid().is_ok() || (join_another_group() && setsid().is_ok()) || hand_on().is_err()
}

/// The leader of a group cannot start a session. So this process, which is one, becomes a member of the starter's group
/// for a moment, or of the session's, if the starter has ended.
fn join_another_group() -> bool {
    let this = Pid::from_raw(0);
    let groups = [getpgid(Some(getppid())), getsid(Some(this))];
    groups.into_iter().flatten().any(|group| setpgid(this, group).is_ok())
}

/// Starts this program again, with what is left of its standard input.
fn hand_on() -> std::io::Result<()> {
    Command::new(std::env::current_exe()?).arg("background").spawn().map(drop)
}

fn close_inherited() {
    let Ok(folder) = std::fs::read_dir("/dev/fd") else {
        return;
    };
    let open: Vec<i32> = folder
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The descriptor that listed the directory is closed already.
        let _ = nix::unistd::close(fd);
    }
}
