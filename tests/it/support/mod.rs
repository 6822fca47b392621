//! What the tests stand on: a server, roles on it, projects with migrations, and the real binary.

#![allow(dead_code, reason = "not every helper has a test that uses it all the time")]

pub(crate) mod account;
pub(crate) mod cli;
pub(crate) mod extension;
pub(crate) mod git;
pub(crate) mod hold;
pub(crate) mod objects;
pub(crate) mod private_server;
pub(crate) mod project;
pub(crate) mod proxy;
pub(crate) mod role;
pub(crate) mod server;
pub(crate) mod supervisor;
pub(crate) mod terminal;

use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use cli::Pgstencil;
pub(crate) use project::{Build, Project};
pub(crate) use proxy::{Fault, Proxy};
pub(crate) use role::Role;
pub(crate) use server::{TestServer, server};

/// Copies a directory, without what Python compiled there.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if !entry.file_type().unwrap().is_dir() {
            std::fs::copy(entry.path(), target).unwrap();
        } else if entry.file_name() != "__pycache__" {
            copy(&entry.path(), &target);
        }
    }
}

/// Ten characters that no other test has, fit for a name in SQL and in a file system.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; 5];
    getrandom::fill(&mut bytes).unwrap();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Asks every 10 ms until the answer is yes; false when `limit` has passed.
pub(crate) fn eventually(limit: Duration, mut yes: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if yes() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Does something again and again until the answer is yes: it is asked for some time after each, and for longer each
/// time, since what was set off may be slow.
pub(crate) fn until_done(mut act: impl FnMut(), mut yes: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + server::PATIENCE;
    let mut window = Duration::from_millis(1500);
    loop {
        act();
        if eventually(window, &mut yes) {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        window *= 2;
    }
}

/// As [`eventually`], for a question that takes a while.
pub(crate) async fn eventually_async(limit: Duration, mut yes: impl AsyncFnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !yes().await {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Whether a process is there and running; one that only waits to be reaped is not.
pub(crate) fn alive(pid: i32) -> bool {
    if nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH) {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.starts_with(['Z', 'X'])
}

/// Kills the process of this id, if it is a background process of pgstencil.
pub(crate) fn kill_background(pid: &str) {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if command.ends_with(b"background\0") {
        // It may have ended by itself.
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Waits until a process has ended: who was killed is there for a moment longer. False if it lives on.
pub(crate) fn ends(pid: i32) -> bool {
    eventually(server::PATIENCE, || !alive(pid))
}

/// Runs a command with a longer `--wait` each time, until it gives up where this is said of it: on a busy
/// machine a short one is over before the command gets there.
#[track_caller]
pub(crate) fn gives_up(command: impl Fn(&str) -> Pgstencil, words: &str) -> cli::Output {
    for wait in ["300ms", "2s", "10s"] {
        let output = command(wait).fails(5);
        if output.stderr.contains(words) {
            return output;
        }
    }
    let output = command("1m").fails(5);
    output.stderr_has(words);
    output
}

/// The last lines of a file, for a failure message.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a future to its end from anywhere, also from within a runtime (then it blocks it) and from
/// `Drop`.
pub(crate) fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
        });
        match work.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
