//! The detached background process, which creates warm clones, drops databases that are no longer needed, and
//! runs the full builds that replace incrementally built templates.
//!
//! A DROP forces a checkpoint of the whole server, so no command should wait for one. This process is the same
//! binary in a session of its own, without the starter's descriptors and environment; its instructions come
//! through its standard input, since a command line shows in `ps` and an environment in `/proc`. A CI runner
//! that kills it does no harm: the next command cleans up.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::config::value::Host;
use crate::config::{self, Origin};
use crate::env::{self, Environment};
use crate::names::{EMPTY_DATABASE, Fingerprint};
use crate::stencil::{self, Deadline, Defaults, Demand, Door, Endpoint, Holder, Registry};
use crate::url::ServerUrl;
use crate::{Error, Result, Stencil};
use serde::{Deserialize, Serialize};

/// What the process is told. Holds the password, so it goes through a pipe only.
#[derive(Serialize, Deserialize)]
struct Instructions {
    url: String,
    socket: Option<PathBuf>,
    door: Option<Door>,
    ssl_mode: Option<String>,
    registry: String,
    grace_ms: u64,
    /// The checkout, if something is to be done for it.
    checkout: Option<Checkout>,
    /// The server has few connection slots.
    scarce: bool,
    /// A definition of it whose template is to be looked after.
    task: Option<TemplateTask>,
    /// Whether to run the checkout's `before_release` for what was dropped.
    hooks: bool,
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
    /// What was asked for, and is not noted yet.
    demand: Demand,
    /// The number of its uses, if a full build that replaces it may be due.
    rebuild: Option<u64>,
}

/// By these marks CI runners find what a job left running, to end it. A full build is meant to
/// outlive the job; if its files go away, it ends by itself.
const RUNNER_MARKS: [&str; 2] = ["RUNNER_TRACKING_ID", "JENKINS_NODE_COOKIE"];

/// How the server is to be recognised; none of it is secret.
const TLS: [&str; 5] = [env::PGSSLROOTCERT, env::PGSSLCERT, env::PGSSLKEY, "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What the process is to do.
#[derive(Clone, Copy)]
pub(super) enum Task<'a> {
    /// Drops the databases that are no longer needed.
    CleanUp,
    /// Makes warm clones of a definition's template, then cleans up.
    Fill(&'a str, &'a Fingerprint, Demand),
    /// Cleans up, then decides whether the definition's template, which had this number of uses, gets the full build that
    /// replaces it.
    Rebuild(&'a str, &'a Fingerprint, u64),
}

/// The process that goes on when the command is done. A command finishes with it by [`Background::finish`];
/// without that it does nothing.
#[must_use = "background work starts only with a task"]
pub(super) struct Background {
    stencil: Stencil,
    /// It, if it was started ahead: it waits to be told what to do, and ends if it never is, since we failed or
    /// were killed.
    child: Option<tokio::task::JoinHandle<Result<Child>>>,
}

impl Background {
    /// To be started when it is told what to do.
    pub(super) fn new(stencil: &Stencil) -> Self {
        Background { stencil: stencil.clone(), child: None }
    }

    /// Starts it at once, while something else is waited for.
    fn started(stencil: &Stencil) -> Self {
        let program = program(stencil);
        let spawn = || launch(program?);
        Background { stencil: stencil.clone(), child: Some(tokio::task::spawn_blocking(spawn)) }
    }

    /// Starts it before clones are released, so that it is up when they are.
    pub(super) fn for_drops(stencil: &Stencil) -> Self {
        match stencil.is_background_off() {
            true => Background::new(stencil),
            false => Background::started(stencil),
        }
    }

    /// Starts it at once if a clone is asked for, and there will be something to do behind that: the config wants
    /// warm clones, or builds start from a database that may change.
    pub(super) fn for_clones(stencil: &Stencil) -> Self {
        let config = stencil.config();
        if stencil.is_background_off() {
            return Background::new(stencil);
        }
        let mut definitions = config.definitions.iter();
        match config.clone.warm > 0 || definitions.any(|d| d.from != EMPTY_DATABASE) {
            true => Background::started(stencil),
            false => Background::new(stencil),
        }
    }

    /// Tells it what to do, and starts it if need be. The command has what it came for, so a failure here is the
    /// next cleanup's to put right.
    pub(super) async fn finish(mut self, task: Task<'_>) {
        if self.stencil.is_background_off() {
            return self.finish_here(task).await;
        }
        let Ok(instructions) = instructions(&self.stencil, task) else {
            return;
        };
        let _ = match (self.child.take(), task) {
            (Some(child), _) => match child.await {
                Ok(Ok(mut child)) => tell(&mut child, &instructions),
                Ok(Err(error)) => Err(error),
                Err(_) => Ok(()),
            },
            (None, Task::Rebuild(..)) => send_low(&instructions),
            (None, Task::CleanUp | Task::Fill(..)) => {
                program(&self.stencil).and_then(|program| send(program, &instructions))
            }
        };
    }

    /// [`Background::finish`] where background work is off: nothing but the cleanup is done, and by this process.
    async fn finish_here(self, task: Task<'_>) {
        match task {
            Task::CleanUp | Task::Fill(..) => self.stencil.clean_up_here().await,
            Task::Rebuild(..) => {}
        }
    }

    /// [`Background::finish_with`] before the command of `run`, which must not wait.
    pub(super) async fn finish_before(self, session: Option<&mut Registry>, fill: Task<'_>) {
        match self.stencil.is_background_off() {
            true => self.note(session, fill).await,
            false => self.finish_with(session, fill).await,
        }
    }

    /// Records a request, if there is a session.
    async fn note(&self, session: Option<&mut Registry>, fill: Task<'_>) {
        if let (Some(registry), Task::Fill(definition, fingerprint, demand)) = (session, fill) {
            let (hits, deadline) = (demand.hit_ms.as_slice(), Deadline::default());
            let _ = self.stencil.note_use(registry, definition, fingerprint, hits, &deadline).await;
        }
    }

    /// [`Background::finish`] after a request for clones. A process that was started for it fills up without a check
    /// first, which the command would wait for. Otherwise one is started only if there is something to clean up.
    pub(super) async fn finish_with(self, session: Option<&mut Registry>, fill: Task<'_>) {
        if self.child.is_some() {
            return self.finish(fill).await;
        }
        if self.stencil.is_background_off() {
            let mut session = session;
            self.note(session.as_deref_mut(), fill).await;
            if let Some(registry) = session {
                let _ = self.stencil.clean_up_in(registry).await;
            }
            return;
        }
        let has_leftovers = match session {
            Some(registry) => self.stencil.needs_cleanup(registry).await.unwrap_or(true),
            None => true,
        };
        if has_leftovers {
            self.finish(Task::CleanUp).await;
        }
    }
}

/// Starts the process at the lowest priority: a full build gives way to everything else. It needs the
/// caller's environment, since the build command does.
fn send_low(instructions: &str) -> Result<()> {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(own_program()?);
    // A system without `nice` is less usual than one that is busy for a while.
    send(nice, instructions).or_else(|_| send(Command::new(own_program()?), instructions))
}

fn failed(error: std::io::Error) -> Error {
    Error::failed("cannot start the background process").caused_by(error)
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(failed)
}

fn instructions(stencil: &Stencil, task: Task<'_>) -> Result<String> {
    let config = stencil.config();
    let hooks = has_hooks(stencil);
    let of = |definition: &str, fingerprint: &Fingerprint, demand, rebuild| TemplateTask {
        definition: definition.to_owned(),
        fingerprint: fingerprint.to_string(),
        demand,
        rebuild,
    };
    let task = match task {
        Task::CleanUp => None,
        Task::Fill(definition, fingerprint, demand) => Some(of(definition, fingerprint, demand, None)),
        Task::Rebuild(definition, fingerprint, uses) => {
            Some(of(definition, fingerprint, Demand::default(), Some(uses)))
        }
    };
    let checkout = match hooks || task.is_some() {
        false => None,
        true => Some(Checkout {
            config: std::fs::canonicalize(&config.file).map_err(failed)?,
            origin: config.origin,
            holder: stencil.holder().clone(),
            client_host: config.server.client_host.clone(),
            client_port: config.server.client_port,
        }),
    };
    let instructions = Instructions {
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
    };
    serde_json::to_string(&instructions).map_err(|e| Error::internal("cannot write JSON").caused_by(e))
}

/// Whether the config has commands for clones that were dropped.
fn has_hooks(stencil: &Stencil) -> bool {
    let mut definitions = stencil.config().definitions.iter();
    definitions.any(|definition| definition.before_release.is_some())
}

/// This program, with our environment only if commands of the user's may have to run.
fn program(stencil: &Stencil) -> Result<Command> {
    let program = own_program()?;
    Ok(match has_hooks(stencil) {
        true => Command::new(program),
        false => bare(program),
    })
}

/// A command without our environment, but for how the server is to be recognised.
fn bare(program: PathBuf) -> Command {
    let env = Environment::from_process();
    let tls = TLS.map(|name| (name, env.get_os(name)));
    let mut command = Command::new(program);
    // CI runners find leftover processes by variables in their environment.
    command.env_clear().envs(tls.into_iter().filter_map(|(name, v)| Some((name, v?))));
    command
}

fn send(command: Command, instructions: &str) -> Result<()> {
    tell(&mut launch(command)?, instructions)
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

fn tell(child: &mut Child, instructions: &str) -> Result<()> {
    if let Some(mut stdin) = child.stdin.take() {
        // Fits into the pipe's buffer, so this never blocks.
        stdin.write_all(instructions.as_bytes()).map_err(failed)?;
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

/// What the process does.
pub(super) async fn work() -> Result<u8> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| Error::usage("this command is started by the others").caused_by(e))?;
    let instructions: Instructions = serde_json::from_str(&text)
        .map_err(|e| Error::usage("this command is started by the others").caused_by(e))?;
    let defaults = Defaults { ssl_mode: instructions.ssl_mode, ..Defaults::default() };
    let endpoint = Endpoint::new(ServerUrl::parse(&instructions.url)?, &defaults)?;
    let endpoint = endpoint.with_socket(instructions.socket).with_door(instructions.door);
    let endpoint = endpoint.in_background();
    let grace = Duration::from_millis(instructions.grace_ms);
    if instructions.scarce {
        // After the sessions that the user's command opens now, and not together with other such processes:
        // each takes a slot at least while it counts the free ones.
        let spread = u64::from(std::process::id() % 16) * 50;
        tokio::time::sleep(Duration::from_millis(300 + spread)).await;
    }
    let cleanup = || stencil::clean_up_now(&endpoint, &instructions.registry, grace);
    let done = match (&instructions.task, &instructions.checkout) {
        (Some(task), Some(checkout)) => {
            work_and_clean_up(task, checkout, &endpoint, instructions.scarce, cleanup).await
        }
        _ => cleanup().await.map(drop),
    };
    if let Some(checkout) = instructions.checkout.as_ref().filter(|_| instructions.hooks) {
        let stencil = checkout.stencil(&endpoint)?;
        stencil.run_owed_unheard(&Deadline::default()).await;
        stencil.close().await;
    }
    done.map(|()| 0)
}

/// What somebody may be waiting for soon comes before what is only in the way; a full build takes long, so
/// that comes last.
async fn work_and_clean_up(
    task: &TemplateTask,
    checkout: &Checkout,
    endpoint: &Endpoint,
    scarce: bool,
    cleanup: impl AsyncFn() -> Result<Vec<String>>,
) -> Result<()> {
    if task.rebuild.is_some() {
        cleanup().await?;
    }
    let worked = work_on(task, checkout, endpoint, scarce).await;
    // Replaced templates and abandoned builds are dropped.
    cleanup().await?;
    worked
}

impl Checkout {
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

/// Time to wait for an idle machine before a full build; after it the next command tries again.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

async fn work_on(task: &TemplateTask, checkout: &Checkout, endpoint: &Endpoint, scarce: bool) -> Result<()> {
    let stencil = checkout.stencil(endpoint)?;
    let deadline = Deadline::default();
    if let Some(uses) = task.rebuild {
        // A server with few connection slots needs them for others.
        let patience = if scarce { Duration::ZERO } else { PATIENCE };
        stencil.rebuild_template(&task.definition, uses, patience, &deadline).await?;
    }
    let (fingerprint, demand) = (task.fingerprint.parse()?, task.demand);
    let hit_ms = demand.hit_ms.as_slice();
    stencil.fill_template(&task.definition, &fingerprint, demand.clones, hit_ms, &deadline).await?;
    stencil.close().await;
    Ok(())
}
