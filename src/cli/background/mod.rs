//! The detached background process, which creates warm clones, drops databases that are no longer needed, and
//! runs the full builds that replace incrementally built templates.
//!
//! A DROP forces a checkpoint of the whole server, so no command should wait for one. This process is the same
//! binary in a session of its own, without the starter's descriptors and environment; its instructions come
//! through its standard input, a line for each, since a command line shows in `ps` and an environment in `/proc`. A
//! CI runner that kills it does no harm: the next command cleans up. `start` starts it, `worker` is what it does.
//!
//! A command starts one such process at most, and none if nothing is due, or if that of an earlier command is still
//! there to take its work; see [`super::resident`]. It drops the warm clones that no command takes, and ends with the
//! last. Such a process also answers for short commands what takes a session: see [`super::hand_out`]. That of `run`
//! lives as long as the command: it creates the next warm clone while the command runs, and drops the clone at the end.

mod start;
mod worker;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;

use crate::config::value::Host;
use crate::config::{self, BackgroundWork, Origin};
use crate::env::{self, Environment};
use crate::names::Fingerprint;
use crate::stencil::{Defaults, Demand, Door, Due, Endpoint, Holder, Registry};
use crate::url::ServerUrl;
use crate::{Error, Result, Stencil};

pub(super) use self::start::leave;
use self::start::{failed, program, send, send_low, tell};
pub(super) use self::worker::{Line, work};
use super::background_log;
use super::resident;
use serde::{Deserialize, Serialize};

/// What the process is told. Holds the password, so it goes through a pipe only.
#[derive(Serialize, Deserialize)]
pub(super) struct Instructions {
    url: String,
    socket: Option<PathBuf>,
    door: Option<Door>,
    ssl_mode: Option<String>,
    registry: String,
    grace_ms: u64,
    /// The checkout, if the command has a config.
    checkout: Option<Checkout>,
    /// The server has few connection slots.
    scarce: bool,
    /// A definition of it whose template is to be looked after.
    task: Option<TemplateTask>,
    /// Whether to run the checkout's `before_release` for what was dropped.
    hooks: bool,
    /// Where later commands may hand over their work; `None` if each has to start a process of its own.
    pub(super) address: Option<String>,
    /// The project, for the log.
    project: String,
    /// The log; the process does not know the user's directories.
    log: Option<PathBuf>,
    /// Directory in which killed builds may have left copies of trees.
    #[serde(default)]
    copies: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Checkout {
    config: PathBuf,
    /// As the starter judged it.
    origin: Origin,
    holder: Holder,
    /// How the starter's commands reach the server, by the config or in its place.
    client_host: Option<Host>,
    client_port: Option<u16>,
}

#[derive(Serialize, Deserialize)]
struct TemplateTask {
    definition: String,
    fingerprint: String,
    /// Whether requests for its clones are expected.
    announced: bool,
    /// What is to be recorded first of the request that this follows, unless that was done.
    #[serde(default)]
    demand: Option<Demand>,
    /// The number of its uses, if a full build that replaces it may be due.
    rebuild: Option<u64>,
}

impl TemplateTask {
    fn new(definition: &str, fingerprint: &Fingerprint, announced: bool) -> Self {
        TemplateTask {
            definition: definition.to_owned(),
            fingerprint: fingerprint.to_string(),
            announced,
            demand: None,
            rebuild: None,
        }
    }

    /// To record a request first.
    fn requested(definition: &str, fingerprint: &Fingerprint, demand: Demand) -> Self {
        let task = TemplateTask::new(definition, fingerprint, demand.announced);
        TemplateTask { demand: Some(demand), ..task }
    }
}

/// How the server is to be recognised; none of it is secret.
const TLS: [&str; 5] = [env::PGSSLROOTCERT, env::PGSSLCERT, env::PGSSLKEY, "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What the process is to do.
#[derive(Clone, Copy)]
pub(super) enum Task<'a> {
    /// Drops the databases that are no longer needed.
    CleanUp,
    /// Makes warm clones of a definition's template, then cleans up. The flag: requests for them are expected.
    Fill(&'a str, &'a Fingerprint, bool),
    /// Records a request, makes the warm clones that it justifies, then cleans up.
    Request(&'a Request<'a>),
    /// Cleans up, then decides whether the definition's template, which had this number of uses, gets the full build that
    /// replaces it.
    Rebuild(&'a str, &'a Fingerprint, u64),
}

/// A request of this command for clones, or for a template.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) definition: &'a str,
    pub(super) fingerprint: &'a Fingerprint,
    /// What is to be recorded of it.
    pub(super) demand: Demand,
    /// Whether a command of the user is to start now; it releases the clones at its end.
    pub(super) command_follows: bool,
}

/// The process that goes on when the command is done, as soon as there is something to do.
pub(super) struct Background {
    stencil: Stencil,
    /// It waits for more as long as this is kept, and ends when that is dropped.
    child: Option<Child>,
}

impl Background {
    /// To be started when it is told what to do.
    pub(super) fn new(stencil: &Stencil) -> Self {
        Background { stencil: stencil.clone(), child: None }
    }

    /// Tells it what to do, and starts it if need be. The command has what it came for, so a failure here is the
    /// next cleanup's to put right. Where background work is off, this process cleans up, and that is all.
    pub(super) async fn finish(mut self, task: Task<'_>) {
        if !self.stencil.is_background_off() {
            let _ = self.tell(task);
        } else if !matches!(task, Task::Rebuild(..)) {
            self.stencil.clean_up_here().await;
        }
    }

    /// Records a request, and starts the process if that, or something left by other commands, gives it work.
    pub(super) async fn after_request(&mut self, session: Option<&mut Registry>, request: &Request<'_>) {
        let Request { definition, fingerprint, demand, command_follows } = *request;
        let off = self.stencil.is_background_off();
        // All its clones were warm, so others are due: the process that creates them records the request, too.
        if !off && demand.hit_ms.is_some() {
            let _ = self.tell(Task::Request(request));
            return;
        }
        // A process that is there records the request at less cost than this one.
        if !off && self.child.is_none() && hand_over(&self.stencil, request).unwrap_or(false) {
            return;
        }
        // What is not known may be due.
        let mut due = Due { fill: true, cleanup: true };
        if let Some(registry) = session {
            let noted = self.stencil.note_request(registry, definition, fingerprint, demand).await;
            due = noted.unwrap_or(due);
            if off && due.cleanup && !command_follows {
                let _ = self.stencil.clean_up_in(registry).await;
            }
        }
        if off {
            return;
        }
        let _ = match due {
            Due { fill: true, .. } => self.tell(Task::Fill(definition, fingerprint, demand.announced)),
            Due { cleanup: true, .. } => self.tell(Task::CleanUp),
            Due { .. } => Ok(()),
        };
    }

    fn tell(&mut self, task: Task<'_>) -> Result<()> {
        let instructions = instructions(&self.stencil, task)?;
        let line = instructions.line()?;
        // It may have been ended by others.
        if let Some(child) = &mut self.child
            && tell(child, &line).is_ok()
        {
            return Ok(());
        }
        // A full build has a process of its own, with the lowest priority.
        if !matches!(task, Task::Rebuild(..))
            && let Some(address) = &instructions.address
            && resident::give(address, &line)
        {
            return Ok(());
        }
        self.child = Some(match task {
            Task::Rebuild(..) => send_low(&line)?,
            Task::CleanUp | Task::Fill(..) | Task::Request(_) => send(program(&self.stencil)?, &line)?,
        });
        Ok(())
    }
}

/// Hands a request over to the process of an earlier command, to record it and to do what it makes necessary. `false`:
/// there is none.
fn hand_over(stencil: &Stencil, request: &Request<'_>) -> Result<bool> {
    let instructions = instructions(stencil, Task::Request(request))?;
    match &instructions.address {
        Some(address) => Ok(resident::give(address, &instructions.line()?)),
        None => Ok(false),
    }
}

impl Instructions {
    /// Instructions of a command for its checkout: to clean up, and whatever is added to them.
    pub(super) fn for_checkout(stencil: &Stencil) -> Result<Self> {
        let instructions = instructions(stencil, Task::CleanUp)?;
        instructions.checkout()?;
        Ok(instructions)
    }

    /// The same, to record a request, and to make the warm clones that it justifies.
    pub(super) fn after_request(self, definition: &str, fingerprint: &Fingerprint, demand: Demand) -> Self {
        Instructions { task: Some(TemplateTask::requested(definition, fingerprint, demand)), ..self }
    }

    /// Returns them as the process reads them.
    pub(super) fn line(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::internal("cannot write JSON").caused_by(e))
    }

    /// Returns the process that they come from, and all that the stencil for it depends on.
    pub(super) fn asker(&self) -> Result<(Holder, Vec<u8>)> {
        let checkout = self.checkout()?;
        let text = std::fs::read(&checkout.config).map_err(failed)?;
        let server = (&self.url, &self.socket, &self.door, &self.ssl_mode, &self.registry);
        let client = (&checkout.client_host, checkout.client_port);
        let facts = serde_json::to_vec(&(text, &checkout.config, checkout.origin, server, client))
            .map_err(|e| Error::internal("cannot write JSON").caused_by(e))?;
        Ok((checkout.holder.clone(), facts))
    }

    /// Returns the stencil for the checkout.
    pub(super) fn stencil(&self) -> Result<Stencil> {
        self.checkout()?.stencil(&self.endpoint()?)
    }

    /// Returns how the server is reached.
    fn endpoint(&self) -> Result<Endpoint> {
        let defaults = Defaults { ssl_mode: self.ssl_mode.clone(), ..Defaults::default() };
        let endpoint = Endpoint::new(ServerUrl::parse(&self.url)?, &defaults)?;
        let endpoint = endpoint.with_socket(self.socket.clone()).with_door(self.door);
        Ok(endpoint.in_background())
    }

    fn checkout(&self) -> Result<&Checkout> {
        self.checkout.as_ref().ok_or_else(|| Error::internal("a question without a checkout"))
    }
}

impl Checkout {
    fn of(stencil: &Stencil) -> Result<Self> {
        let config = stencil.config();
        Ok(Checkout {
            config: std::fs::canonicalize(&config.file).map_err(failed)?,
            origin: config.origin,
            holder: stencil.holder().clone(),
            client_host: config.server.client_host.clone(),
            client_port: config.server.client_port,
        })
    }

    /// Whether it is still there, and its config lets a process stay.
    fn lets_stay(&self) -> bool {
        let config = config::load_again(&self.config, self.origin);
        config.is_ok_and(|config| config.clone.background == BackgroundWork::Auto)
    }

    fn stencil(&self, endpoint: &Endpoint) -> Result<Stencil> {
        let mut config = config::load_again(&self.config, self.origin)?;
        config.server.client_host.clone_from(&self.client_host);
        config.server.client_port = self.client_port;
        let env = Environment::from_process();
        let variable = Arc::new(move |name: &str| env.get_os(name).map(OsString::from));
        // The starter has ended; waiting processes should see the actual builder.
        let holder = Holder { pid: std::process::id(), ..self.holder.clone() };
        Ok(Stencil::new(config, endpoint.clone(), holder, variable).without_drops())
    }
}

fn instructions(stencil: &Stencil, task: Task<'_>) -> Result<Instructions> {
    let config = stencil.config();
    let hooks = has_hooks(stencil);
    let task = match task {
        Task::CleanUp => None,
        Task::Fill(definition, fingerprint, announced) => {
            Some(TemplateTask::new(definition, fingerprint, announced))
        }
        Task::Request(Request { definition, fingerprint, demand, .. }) => {
            Some(TemplateTask::requested(definition, fingerprint, *demand))
        }
        Task::Rebuild(definition, fingerprint, uses) => {
            Some(TemplateTask { rebuild: Some(uses), ..TemplateTask::new(definition, fingerprint, true) })
        }
    };
    let checkout = match hooks || task.is_some() {
        true => Some(Checkout::of(stencil)?),
        // A command may do without a config.
        false => Checkout::of(stencil).ok(),
    };
    // The commands of the config, and full builds, run in the starter's environment.
    let alone = hooks || task.as_ref().is_some_and(|task| task.rebuild.is_some());
    let address = if alone { None } else { resident::address(stencil, &tls()) };
    Ok(Instructions {
        url: stencil.endpoint().server_url().reveal(),
        socket: stencil.endpoint().socket().map(Into::into),
        door: stencil.endpoint().door(),
        ssl_mode: stencil.endpoint().ssl_mode().map(str::to_owned),
        registry: config.server.registry.to_string(),
        grace_ms: config.clone.orphan_grace.as_millis() as u64,
        checkout,
        scarce: stencil.endpoint().is_scarce(),
        task,
        hooks,
        address,
        project: config.project.clone(),
        log: background_log::file(&Environment::from_process()),
        copies: stencil.copies().map(Into::into),
    })
}

/// The variables by which the server is to be recognised.
fn tls() -> Vec<(&'static str, OsString)> {
    let env = Environment::from_process();
    TLS.into_iter().filter_map(|name| Some((name, env.get_os(name)?.into()))).collect()
}

/// Whether the config has commands for clones that were dropped.
fn has_hooks(stencil: &Stencil) -> bool {
    let mut definitions = stencil.config().definitions.iter();
    definitions.any(|definition| definition.before_release.is_some())
}
