//! `pgstencil server`

mod remove;
mod stop;

use std::time::Duration;

use crate::Result;
use crate::private_server::State;
use crate::wire::{ClusterAnswer, ServerAnswer, ServerListAnswer};

use crate::cli::Session;
use crate::cli::args::Server;
use crate::cli::escape;
use crate::cli::output::{GREEN, YELLOW};
use crate::cli::table::{Cell, Column, Look, table};
use crate::cli::target::not_running;
use crate::quantity::size;

/// Patience with a start or a stop, when `--wait` sets none.
const PATIENCE: Duration = Duration::from_secs(120);
/// Patience with a server that does not answer, when `--wait` sets none.
const ANSWER: Duration = Duration::from_secs(10);

pub(crate) async fn server(session: &Session, args: Server) -> Result<u8> {
    let server = session.private_server(&session.server_settings()?)?;
    let patience = session.deadline.left().unwrap_or(PATIENCE);
    let answer = session.deadline.left().unwrap_or(ANSWER);
    let printer = &session.printer;
    match args {
        Server::Start => {
            let running = server.start(patience).await?;
            for notice in &running.notices {
                printer.warn(notice);
            }
            printer.say(match running.started {
                true => "started",
                false => "runs already",
            });
            if printer.json() {
                printer.object(&ServerAnswer::new(&server.status().await?, true))?;
            } else {
                printer.data(&format!("{}\n", running.url.reveal()))?;
            }
            Ok(0)
        }
        Server::Stop(args) => stop::stop(session, &server, &args, patience).await,
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
        Server::Remove(args) => remove::remove(session, &server, &args, patience).await,
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
        Some(_) => "no command uses it, since a newer PostgreSQL is on this machine".to_owned(),
        None => "no command can use it, since this PostgreSQL is not on this machine".to_owned(),
    })
}
