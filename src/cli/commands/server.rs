//! `pgstencil server`

use std::time::Duration;

use pgstencil::Result;
use pgstencil::server::{State, Status};
use serde::Serialize;

use crate::cli::Session;
use crate::cli::args::Server;
use crate::cli::escape;

/// Patience with a start or a stop, when `--wait` sets none.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `server start|status|url` answer.
#[derive(Serialize)]
struct ServerAnswer {
    version: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    server_version: Option<String>,
    port: Option<u16>,
    pid: Option<i32>,
    data_dir: Option<String>,
    log_file: Option<String>,
    bindir: Option<String>,
    /// With the password: it is the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// What `server stop` answers.
#[derive(Serialize)]
struct StopAnswer {
    version: u32,
    stopped: Vec<u32>,
}

pub(crate) async fn server(session: &Session, args: Server) -> Result<u8> {
    let managed = session.managed(&session.server_settings()?)?;
    let patience = session.limit.left().unwrap_or(PATIENCE);
    let printer = &session.printer;
    match args {
        Server::Start => {
            let running = managed.start(patience).await?;
            for notice in &running.notices {
                printer.warn(notice);
            }
            printer.say(match running.started {
                true => "started",
                false => "runs already",
            });
            if printer.json() {
                printer.object(&answer(&managed.status().await?, true))?;
            } else {
                printer.data(&format!("{}\n", running.url.reveal()))?;
            }
            Ok(0)
        }
        Server::Stop => {
            let stopped = managed.stop(patience).await?.majors;
            if printer.json() {
                printer.object(&StopAnswer {
                    version: pgstencil::wire::VERSION,
                    stopped,
                })?;
            } else if stopped.is_empty() {
                printer.say("it does not run");
            } else {
                printer.say("stopped; its data stays");
            }
            Ok(0)
        }
        Server::Status => {
            let status = managed.status().await?;
            if printer.json() {
                printer.object(&answer(&status, false))?;
            } else {
                printer.data(&describe(&status))?;
            }
            Ok(u8::from(status.state != State::Running))
        }
        Server::Url => {
            let status = managed.status().await?;
            match &status.url {
                Some(_) if printer.json() => printer.object(&answer(&status, true))?,
                Some(url) => printer.data(&format!("{}\n", url.reveal()))?,
                None => {
                    printer
                        .say("the managed server does not run; `pgstencil server start` starts it");
                    return Ok(1);
                }
            }
            Ok(0)
        }
    }
}

fn word(state: &State) -> (&'static str, Option<String>) {
    match state {
        State::NotInitialised => ("absent", None),
        State::Stopped => ("stopped", None),
        State::Unclean { rebooted: false } => (
            "stopped",
            Some("it was killed; the next start recovers it".into()),
        ),
        State::Unclean { rebooted: true } => (
            "stopped",
            Some(
                "it went down with the host; the next start moves its data aside and begins afresh"
                    .into(),
            ),
        ),
        State::Starting => ("starting", None),
        State::Running => ("running", None),
        State::Unresponsive(why) => ("unresponsive", Some(why.clone())),
    }
}

fn answer(status: &Status, url: bool) -> ServerAnswer {
    let (state, reason) = word(&status.state);
    let path = |p: &Option<std::path::PathBuf>| p.as_ref().map(|p| p.display().to_string());
    ServerAnswer {
        version: pgstencil::wire::VERSION,
        state,
        reason,
        server_version: status.version.clone(),
        port: status.port,
        pid: status.pid,
        data_dir: path(&status.data_dir),
        log_file: path(&status.log_file),
        bindir: path(&status.bindir),
        url: status.url.as_ref().filter(|_| url).map(|u| u.reveal()),
    }
}

fn describe(status: &Status) -> String {
    let (state, reason) = word(&status.state);
    let mut text = format!("state    {state}\n");
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!("{name:8} {}\n", escape::line(&value));
        }
    };
    line("reason", reason);
    line("version", status.version.clone());
    line("port", status.port.map(|p| p.to_string()));
    line("pid", status.pid.map(|p| p.to_string()));
    line(
        "data",
        status.data_dir.as_ref().map(|p| p.display().to_string()),
    );
    line(
        "log",
        status.log_file.as_ref().map(|p| p.display().to_string()),
    );
    line(
        "binaries",
        status.bindir.as_ref().map(|p| p.display().to_string()),
    );
    text
}
