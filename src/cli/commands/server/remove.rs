//! `pgstencil server remove`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::names::words;
use crate::private_server::{Listed, PrivateServer, State};
use crate::stencil::{Held, Holdings, holdings};
use crate::wire::ServerRemoveAnswer;
use crate::{Error, Kind, Result};

use crate::cli::App;
use crate::cli::confirm::{can_ask, confirmed};
use crate::quantity::{digits, size};
use crate::stencil::locate::private_endpoint;
use clap::Args;

/// `server remove`
#[derive(Args, Debug)]
pub(crate) struct ServerRemove {
    /// Only the cluster of this PostgreSQL version [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) major: Option<u32>,
    /// Only old data that was moved aside
    #[arg(long)]
    pub(crate) moved: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Also remove what is leased or pinned, databases that pgstencil did not make, and clusters that cannot
    /// be started for a look
    #[arg(long)]
    pub(crate) force: bool,
}

/// How long clients may take that are about to end: their sessions end a moment after them.
const GRACE: Duration = Duration::from_secs(2);

pub(super) async fn remove(
    app: &App,
    server: &PrivateServer,
    args: &ServerRemove,
    patience: Duration,
) -> Result<u8> {
    let mut chosen = server.clusters(patience).await?;
    if let Some(major) = args.major {
        chosen.retain(|cluster| cluster.major == major);
        if chosen.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("there is no cluster of PostgreSQL {major}"))
                .hint("`pgstencil server list` shows the clusters"));
        }
    }
    if args.moved {
        chosen.retain(|cluster| !cluster.moved.is_empty());
    }
    let answer = ServerRemoveAnswer::new(&chosen, args.moved);
    if chosen.is_empty() {
        app.printer.say(match args.moved {
            true => "there is no old data",
            false => "there is no cluster",
        });
        return print(app, &answer);
    }
    let what = what(&chosen, &answer);
    if !args.yes && !can_ask(app) {
        return Err(Error::usage(format!("removing {what} needs confirmation, and there is no terminal"))
            .hint("pass `--yes` to confirm, or preview with `pgstencil server list`"));
    }
    if args.moved {
        if !args.yes && !confirmed(app, &format!("remove {what}"))? {
            app.printer.say("nothing was done");
            return Ok(1);
        }
        let folders: Vec<PathBuf> = (chosen.iter())
            .flat_map(|cluster| cluster.moved.iter().map(|moved| moved.directory.clone()))
            .collect();
        server.remove_moved(&folders, patience).await?;
        return print(app, &answer);
    }
    let found = Look::all(server, &chosen, args.force, app).await?;
    if !args.yes {
        if !confirmed(app, &format!("remove {what}{}", found.words()))? {
            found.close(server, patience).await;
            app.printer.say("nothing was done");
            return Ok(1);
        }
        // The user may have taken long to answer.
        Look::all(server, &chosen, args.force, app).await?;
    }
    server.remove(&answer.removed, patience).await?;
    print(app, &answer)
}

fn what(chosen: &[Listed], answer: &ServerRemoveAnswer) -> String {
    let majors: Vec<String> = chosen.iter().map(|c| c.major.to_string()).collect();
    let majors = majors.join(", ");
    let bytes = size(answer.bytes as i64);
    match answer.removed.len() {
        0 => format!("the old data of PostgreSQL {majors} ({bytes})"),
        1 => format!("the cluster of PostgreSQL {majors} ({bytes})"),
        _ => format!("the clusters of PostgreSQL {majors} ({bytes})"),
    }
}

fn print(app: &App, answer: &ServerRemoveAnswer) -> Result<u8> {
    if app.printer.json() {
        app.printer.object(answer)?;
        return Ok(0);
    }
    for major in &answer.removed {
        app.printer.say(&format!("removed the cluster of PostgreSQL {major}"));
    }
    for moved in &answer.moved {
        app.printer.say(&format!("removed {}", moved.directory));
    }
    Ok(0)
}

/// What the chosen clusters hold.
#[derive(Default)]
struct Look {
    /// What speaks against it.
    obstacles: Vec<String>,
    hints: Vec<String>,
    /// Clusters that were started for the look.
    started: Vec<u32>,
    templates: usize,
    clones: usize,
}

impl Look {
    /// Looks into all of them.
    ///
    /// # Errors
    /// That they must not be removed, and why. Those that were started for the look are stopped then.
    async fn all(server: &PrivateServer, chosen: &[Listed], force: bool, app: &App) -> Result<Self> {
        let patience = app.deadline.left().unwrap_or(super::PATIENCE);
        let mut look = Look::default();
        for cluster in chosen {
            look.inspect(server, cluster, force, app).await?;
        }
        if look.obstacles.is_empty() {
            return Ok(look);
        }
        look.close(server, patience).await;
        let error = Error::failed("nothing was removed, since something is in use");
        let error = look.obstacles.into_iter().fold(error, Error::detail);
        Err(look.hints.into_iter().fold(error, Error::hint))
    }

    async fn inspect(
        &mut self,
        server: &PrivateServer,
        cluster: &Listed,
        force: bool,
        app: &App,
    ) -> Result<()> {
        // Without data there is nothing to lose.
        if cluster.status.state == State::NotInitialised {
            return Ok(());
        }
        let patience = app.deadline.left().unwrap_or(super::PATIENCE);
        let running = match server.open(cluster.major, patience).await {
            Ok(running) => running,
            Err(_) if force => return Ok(()),
            Err(e) => {
                self.against_unseen(cluster, &e);
                return Ok(());
            }
        };
        if running.started {
            self.started.push(cluster.major);
        }
        for client in self.clients(server, cluster.major).await? {
            self.against(cluster, &format!("connected: {client}"));
            self.hint(
                "end the sessions, or stop the server with all of them: `pgstencil server stop --force`",
            );
        }
        let endpoint = private_endpoint(running.url, running.socket_dir)?.in_background();
        match holdings(&endpoint, &app.deadline).await {
            Ok(found) => self.judge(cluster, &found, force),
            Err(_) if force => {}
            Err(e) => self.against_unseen(cluster, &e),
        }
        Ok(())
    }

    /// Who is connected and stays so.
    async fn clients(&self, server: &PrivateServer, major: u32) -> Result<Vec<String>> {
        let begun = Instant::now();
        loop {
            let occupied = server.occupied().await?;
            let clients: Vec<String> = (occupied.into_iter())
                .filter(|server| server.major == major)
                .flat_map(|server| server.clients)
                .map(|client| client.to_string())
                .collect();
            if clients.is_empty() || begun.elapsed() > GRACE {
                return Ok(clients);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn judge(&mut self, cluster: &Listed, found: &Holdings, force: bool) {
        self.templates += found.templates;
        self.clones += found.clones;
        for words in &found.under_way {
            self.against(cluster, words);
        }
        if force {
            return;
        }
        let names = |held: &[Held]| {
            let names: Vec<&str> = held.iter().map(|h| h.name.as_str()).collect();
            names.join(" ")
        };
        for held in &found.leased {
            self.against(cluster, &format!("clone `{}` is in use: {}", held.name, held.words));
        }
        for held in &found.pinned {
            self.against(cluster, &format!("template {} of {} is pinned", held.name, held.words));
        }
        // Commands reach the current cluster only.
        if cluster.current && !found.leased.is_empty() {
            self.hint(&format!(
                "release clones: `pgstencil release {}`",
                words(found.leased.iter().map(|h| h.name.as_str()))
            ));
        }
        if cluster.current && !found.pinned.is_empty() {
            self.hint(&format!("unpin templates: `pgstencil unpin {}`", names(&found.pinned)));
        }
        for name in &found.foreign {
            self.against(cluster, &format!("database `{name}` was not created by pgstencil"));
        }
        for words in &found.unread {
            self.against(cluster, &format!("unknown contents: {words}"));
        }
        let others = [found.leased.len(), found.pinned.len(), found.foreign.len(), found.unread.len()];
        if others.iter().sum::<usize>() > 0 {
            self.hint("remove everything, including the contents of clones and other databases: `--force`");
        }
    }

    fn against(&mut self, cluster: &Listed, words: &str) {
        self.obstacles.push(format!("PostgreSQL {}: {words}", cluster.major));
    }

    fn against_unseen(&mut self, cluster: &Listed, error: &Error) {
        self.against(cluster, &format!("its contents are unknown: {error}"));
        self.hint(
            "remove it without this check: `--force` (templates can be rebuilt, the contents of clones cannot)",
        );
    }

    fn hint(&mut self, text: &str) {
        if !self.hints.iter().any(|hint| hint == text) {
            self.hints.push(text.to_owned());
        }
    }

    /// What a person should know before the answer.
    fn words(&self) -> String {
        format!(" with {} and {}", digits(self.templates, "template"), digits(self.clones, "clone"))
    }

    /// Stops what was started for the look. A server that stays up is no harm.
    async fn close(&self, server: &PrivateServer, patience: Duration) {
        for major in &self.started {
            let _ = server.stop_one(*major, patience).await;
        }
    }
}
