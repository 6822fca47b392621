//! `pgstencil server`

#[cfg(feature = "fetch")]
pub(crate) mod fetch;
mod remove;
mod stop;

use std::time::Duration;

use crate::Result;
use crate::private_server::State;
use crate::wire::{ClusterAnswer, ServerAnswer, ServerListAnswer};

use crate::cli::App;
use crate::cli::escape;
use crate::cli::output::{GREEN, YELLOW};
use crate::cli::table::{Cell, Column, Look, table};
use crate::cli::target::not_running;
use crate::quantity::size;
use clap::Subcommand;

#[cfg(feature = "fetch")]
use self::fetch::ServerFetch;
use self::remove::ServerRemove;
use self::stop::ServerStop;

/// `server`
#[derive(Debug, Subcommand)]
pub(crate) enum Server {
    /// Start the server if it is not running, and print its URL
    #[command(after_help = "Example:\n  pgstencil server start")]
    Start,
    /// Stop the server, and keep its data
    ///
    /// pgstencil then syncs the disk, so that a power loss loses nothing. If another pgstencil command uses the
    /// server, such as `run`, it is not stopped, and the exit code is 1.
    #[command(after_help = "Example:\n  pgstencil server stop")]
    Stop(ServerStop),
    /// Print its status, exit 1 if it is not running
    #[command(after_help = "Example:\n  pgstencil server status --json")]
    Status,
    /// Print its URL, exit 1 if it is not running
    #[command(after_help = "Example:\n  psql \"$(pgstencil server url)\"")]
    Url,
    /// Show clusters of all versions, and data moved aside
    #[command(after_help = "Example:\n  pgstencil server list")]
    List,
    /// Remove clusters with all their data
    ///
    /// Without options, all clusters are removed; asks on a terminal. Nothing is removed while a clone is leased, a
    /// template is pinned, a client is connected, or a database exists that pgstencil did not create. A stopped
    /// server is started for that check.
    #[command(
        after_help = "Examples:\n  pgstencil server remove --major 15\n  pgstencil server remove --moved --yes"
    )]
    Remove(ServerRemove),
    /// Fetch Postgres binaries, where none are installed
    ///
    /// The newest release of a version, as github.com/theseus-rs/postgresql-binaries builds it, goes into the state
    /// directory, where the private server finds it. An archive whose SHA-256 is missing or wrong is not used.
    /// HTTPS_PROXY is heeded.
    #[cfg(feature = "fetch")]
    #[command(after_help = "Examples:\n  pgstencil server fetch\n  pgstencil server fetch --major 16")]
    Fetch(ServerFetch),
}

/// Patience with a start or a stop, when `--wait` sets none.
const PATIENCE: Duration = Duration::from_secs(120);
/// Patience with a server that does not answer, when `--wait` sets none.
const ANSWER: Duration = Duration::from_secs(10);

pub(crate) async fn server(app: &App, args: Server) -> Result<u8> {
    let server = app.private_server(&app.server_settings()?)?;
    let patience = app.deadline.left().unwrap_or(PATIENCE);
    let answer = app.deadline.left().unwrap_or(ANSWER);
    let printer = &app.printer;
    match args {
        Server::Start => {
            let running = match server.start(patience).await {
                Err(error) => {
                    app.fetch_instead_of(&server, error).await?;
                    server.start(patience).await?
                }
                running => running?,
            };
            for notice in &running.notices {
                printer.warn(notice);
            }
            printer.say(match running.started {
                true => "started the private server",
                false => "the private server is already running",
            });
            if printer.json() {
                printer.object(&ServerAnswer::new(&server.status().await?, true))?;
            } else {
                printer.data(&format!("{}\n", running.url.reveal()))?;
            }
            Ok(0)
        }
        Server::Stop(args) => stop::stop(app, &server, &args, patience).await,
        Server::Status => {
            let status = server.status_within(answer).await?;
            if printer.json() {
                printer.object(&ServerAnswer::new(&status, false))?;
            } else {
                printer.text(&describe(&ServerAnswer::new(&status, false)))?;
            }
            Ok(u8::from(status.state != State::Running))
        }
        Server::Url => {
            let status = server.status_within(answer).await?;
            match &status.url {
                Some(_) if printer.json() => printer.object(&ServerAnswer::new(&status, true))?,
                Some(url) => printer.data(&format!("{}\n", url.reveal()))?,
                None => {
                    printer.say(not_running(&status.state));
                    return Ok(1);
                }
            }
            Ok(0)
        }
        Server::List => {
            let listed = ServerListAnswer::from(server.clusters(answer).await?.as_slice());
            if printer.json() {
                printer.object(&listed)?;
            } else if listed.clusters.is_empty() {
                printer.say("there is no cluster yet");
            } else {
                printer.table(&clusters(&listed, printer.look()))?;
            }
            Ok(0)
        }
        Server::Remove(args) => remove::remove(app, &server, &args, patience).await,
        #[cfg(feature = "fetch")]
        Server::Fetch(args) => fetch::fetch(app, &server, &args).await,
    }
}

fn describe(answer: &ServerAnswer) -> String {
    let status = &answer.status;
    let mut text = format!("state    {}\n", status.state);
    let mut line = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            text += &format!("{name:8} {}\n", escape::line(value));
        }
    };
    line("reason", status.reason.as_deref());
    line("version", status.server_version.as_deref());
    line("port", status.port.map(|p| p.to_string()).as_deref());
    line("pid", status.pid.map(|p| p.to_string()).as_deref());
    line("data", status.data_dir.as_deref());
    line("log", status.log_file.as_deref());
    line("binaries", status.bindir.as_deref());
    for folder in &answer.moved {
        line("old data", Some(folder));
    }
    text
}

const CLUSTERS: [Column; 4] = [
    Column::broken("CLUSTER", 10),
    Column::whole("STATE"),
    Column::whole("SIZE"),
    Column::broken("DIRECTORY", 20),
];

fn clusters(listed: &ServerListAnswer, look: Look) -> String {
    let mut rows: Vec<[Cell; 4]> = Vec::new();
    for cluster in &listed.clusters {
        let name = format!("PostgreSQL {}", cluster.major);
        let state = cluster.status.state;
        rows.push([
            name.as_str().into(),
            match state {
                "running" => Cell::painted(state, GREEN),
                "stopped" => state.into(),
                _ => Cell::painted(state, YELLOW),
            },
            size(cluster.bytes as i64).into(),
            cluster.status.data_dir.clone().unwrap_or_default().into(),
        ]);
        rows.extend(cluster.moved.iter().map(|moved| {
            [
                name.as_str().into(),
                Cell::painted("old data", YELLOW),
                size(moved.bytes as i64).into(),
                moved.directory.as_str().into(),
            ]
        }));
    }
    let mut text = table(&CLUSTERS, &rows, look);
    let mut remarks = String::new();
    for cluster in &listed.clusters {
        if let Some(remark) = remark(cluster) {
            remarks += &format!("PostgreSQL {}: {}\n", cluster.major, escape::line(&remark));
        }
    }
    text += &look.wrap(&remarks);
    text
}

fn remark(cluster: &ClusterAnswer) -> Option<String> {
    if let Some(reason) = &cluster.status.reason {
        return Some(reason.clone());
    }
    (!cluster.current).then(|| match cluster.status.bindir {
        Some(_) => "no command uses it, since a newer PostgreSQL is installed".to_owned(),
        None => "no command can use it, since this PostgreSQL is not installed".to_owned(),
    })
}
