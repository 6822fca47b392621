//! The process that is left behind to drop what nobody needs.
//!
//! A DROP forces a checkpoint of the whole server, so nobody should wait for one. This process is
//! the same binary in a session of its own, without our descriptors and our environment; what it
//! must know comes through its standard input, since a command line shows in `ps` and an
//! environment in `/proc`. A CI runner that kills it costs nothing: the next command sweeps.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgstencil::stencil::{self, Defaults, Endpoint};
use pgstencil::url::ServerUrl;
use pgstencil::{Error, Result, Stencil};
use serde::{Deserialize, Serialize};

/// What the process is told. Holds the password, so it goes through a pipe only.
#[derive(Serialize, Deserialize)]
struct Errand {
    url: String,
    registry: String,
    grace_ms: u64,
}

/// Starts the process, without waiting for it. Failing to is no error: the next sweep does it.
pub(super) fn start(stencil: &Stencil) {
    let _ = try_start(stencil);
}

fn try_start(stencil: &Stencil) -> Result<()> {
    let failed =
        |e: std::io::Error| Error::failed("cannot start the background process").caused_by(e);
    let errand = Errand {
        url: stencil.endpoint().server_url().reveal(),
        registry: stencil.config().server.registry.clone(),
        grace_ms: stencil.config().clone.orphan_grace.as_millis() as u64,
    };
    let errand = serde_json::to_string(&errand)
        .map_err(|e| Error::internal("cannot write JSON").caused_by(e))?;
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .arg("background")
        // CI runners find leftovers by marks in their environment.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // From its first moment on: whoever ends our group when we are done must not meet it there.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Fits into the pipe's buffer, so this never blocks.
        stdin.write_all(errand.as_bytes()).map_err(failed)?;
    }
    // Not waited for: init reaps it.
    Ok(())
}

/// Leaves the starter's session, and closes what was inherited beside the three standard
/// descriptors: whoever reads `$(pgstencil clone)` from a pipe waits until nobody holds it open.
/// `false`: another process, which can leave, does the work.
pub(super) fn leave() -> bool {
    close_inherited();
    // Leaders of a group cannot leave their session, but their children can.
    nix::unistd::setsid().is_ok() || hand_on().is_err()
}

/// Starts this program again, with what is left of its standard input.
fn hand_on() -> std::io::Result<()> {
    Command::new(std::env::current_exe()?)
        .arg("background")
        .spawn()
        .map(drop)
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
        // The one that listed the folder is closed already.
        let _ = nix::unistd::close(fd);
    }
}

/// What the process does.
pub(super) async fn work() -> Result<u8> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| Error::usage("this command is started by the others").caused_by(e))?;
    let errand: Errand = serde_json::from_str(&text)
        .map_err(|e| Error::usage("this command is started by the others").caused_by(e))?;
    let endpoint = Endpoint::new(ServerUrl::parse(&errand.url)?, &Defaults::default())?;
    stencil::sweep_now(
        &endpoint,
        &errand.registry,
        Duration::from_millis(errand.grace_ms),
    )
    .await?;
    Ok(0)
}
