//! `pgstencil server stop`

use std::time::{Duration, Instant};

use crate::private_server::{APPLICATION, Occupied, PrivateServer};
use crate::stencil::{Deadline, holdings};
use crate::wire::{ServerStopAnswer, VERSION};
use crate::{Error, Kind, Result};

use crate::cli::App;
use crate::stencil::locate::private_endpoint;
use clap::Args;

/// `server stop`
#[derive(Args, Debug)]
pub(crate) struct ServerStop {
    /// Stop it although another pgstencil command is at work on it
    #[arg(long)]
    pub(crate) force: bool,
}

/// How long a command that is about to end may take. Its sessions end a moment after it.
const GRACE: Duration = Duration::from_secs(2);
/// How long a look at the registries may take. It only gives names to what is known already.
const LOOK: Duration = Duration::from_secs(5);

pub(super) async fn stop(
    app: &App,
    server: &PrivateServer,
    args: &ServerStop,
    patience: Duration,
) -> Result<u8> {
    if !args.force {
        let look = refuse_to_disturb(server);
        match tokio::time::timeout(patience, look).await {
            Ok(looked) => looked?,
            Err(_) => {
                return Err(Error::new(
                    Kind::Timeout,
                    "cannot find out whether a command uses the private server",
                )
                .hint("stop it without this check: `pgstencil server stop --force`"));
            }
        }
    }
    let stopped = server.stop(patience).await?.majors;
    let printer = &app.printer;
    if printer.json() {
        printer.object(&ServerStopAnswer { version: VERSION, stopped })?;
    } else if stopped.is_empty() {
        printer.say("the private server is not running");
    } else {
        printer.say("stopped the private server; its data is kept");
    }
    Ok(0)
}

/// Fails while another process's command of pgstencil is at work on the server. Background processes do not
/// count: the next command takes up what they leave.
async fn refuse_to_disturb(server: &PrivateServer) -> Result<()> {
    let begun = Instant::now();
    let busy = loop {
        let busy: Vec<Occupied> = (server.occupied().await?.into_iter())
            .filter(|server| server.clients.iter().any(|c| c.application == APPLICATION))
            .collect();
        if busy.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > GRACE {
            break busy;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut error =
        Error::failed("the private server was not stopped, since another pgstencil command uses it");
    for server in &busy {
        let endpoint = private_endpoint(server.url.clone(), server.socket_dir.clone())?.in_background();
        let deadline = Deadline::new(Some(LOOK), Default::default());
        let found = holdings(&endpoint, &deadline).await.unwrap_or_default();
        error = match found.under_way.is_empty() {
            false => found.under_way.into_iter().fold(error, Error::detail),
            true => (server.clients.iter())
                .filter(|client| client.application == APPLICATION)
                .fold(error, |error, client| error.detail(client.to_string())),
        };
    }
    Err(error.hint(
        "wait until that command ends, or stop the server nevertheless: `pgstencil server stop --force`",
    ))
}
