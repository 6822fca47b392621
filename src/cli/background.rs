//! The process that is left behind to make warm clones, to drop what nobody needs, and to build from
//! nothing what is to take the place of an extended template.
//!
//! A DROP forces a checkpoint of the whole server, so nobody should wait for one. This process is
//! the same binary in a session of its own, without our descriptors and our environment; what it
//! must know comes through its standard input, since a command line shows in `ps` and an
//! environment in `/proc`. A CI runner that kills it costs nothing: the next command sweeps.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Origin};
use crate::env::{self, Environment};
use crate::names::{EMPTY_DATABASE, Fingerprint};
use crate::stencil::{self, Deadline, Defaults, Demand, Door, Endpoint, Holder, Registry};
use crate::url::ServerUrl;
use crate::{Error, Result, Stencil};
use serde::{Deserialize, Serialize};

/// What the process is told. Holds the password, so it goes through a pipe only.
#[derive(Serialize, Deserialize)]
struct Errand {
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
    care: Option<Care>,
    /// Whether to run the checkout's `before_release` for what was swept.
    hooks: bool,
}

#[derive(Serialize, Deserialize)]
struct Checkout {
    config: PathBuf,
    /// As the starter judged it.
    origin: Origin,
    holder: Holder,
    /// How the starter's commands reach the server, by the config or in its place.
    client_host: Option<String>,
    client_port: Option<u16>,
}

#[derive(Serialize, Deserialize)]
struct Care {
    definition: String,
    fingerprint: String,
    /// What was asked for, and is not noted yet.
    demand: Demand,
    /// Whether a build from nothing is to take its place first.
    settle: bool,
}

/// By these marks CI runners find what a job left running, to end it. A build from nothing is meant to
/// outlive the job; if its files go away, it ends by itself.
const RUNNER_MARKS: [&str; 2] = ["RUNNER_TRACKING_ID", "JENKINS_NODE_COOKIE"];

/// How the server is to be recognised; none of it is secret.
const TLS: [&str; 5] = [env::PGSSLROOTCERT, env::PGSSLCERT, env::PGSSLKEY, "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Starts the process, without waiting for it. Failing to is no error: the next sweep does it.
pub(super) fn start(stencil: &Stencil) {
    let _ = errand(stencil, None).and_then(|errand| send(program(stencil)?, &errand));
}

/// The process, started while something else is waited for. It does nothing before it is told what; if it
/// never is, since we failed or were killed, it ends.
pub(super) struct Ahead(Option<tokio::task::JoinHandle<Result<Child>>>);

impl Ahead {
    /// Starts it if the config wants warm clones, or builds start from a database that may change: then there
    /// will be something to do.
    pub(super) fn start(stencil: &Stencil) -> Self {
        let config = stencil.config();
        let mut definitions = config.definitions.iter();
        match config.clone.warm > 0 || definitions.any(|d| d.from != EMPTY_DATABASE) {
            true => Ahead::start_anyway(stencil),
            false => Ahead(None),
        }
    }

    /// Starts it.
    pub(super) fn start_anyway(stencil: &Stencil) -> Self {
        let program = program(stencil);
        let spawn = || launch(program?);
        Ahead(Some(tokio::task::spawn_blocking(spawn)))
    }

    /// Whether it was started.
    fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Has it make warm clones of a template, and sweep: without a look first, which would ask more of
    /// whoever waits. If it was not started, it is only if there is something to sweep. The command has what it
    /// came for, so a failure here is the next sweep's to put right.
    pub(super) async fn go_on(
        &mut self,
        stencil: &Stencil,
        registry: &mut Registry,
        definition: &str,
        fingerprint: &Fingerprint,
        demand: Demand,
    ) {
        if self.is_there() {
            let of = Some((definition, fingerprint, Some(demand)));
            self.tell(errand(stencil, of)).await;
        } else if stencil.has_to_sweep(registry).await.unwrap_or(true) {
            start(stencil);
        }
    }

    /// Has it sweep; starts it if it was not.
    pub(super) async fn sweep(&mut self, stencil: &Stencil) {
        match self.is_there() {
            true => self.tell(errand(stencil, None)).await,
            false => start(stencil),
        }
    }

    async fn tell(&mut self, errand: Result<String>) {
        if let (Some(child), Ok(errand)) = (self.0.take(), errand)
            && let Ok(Ok(mut child)) = child.await
        {
            let _ = tell(&mut child, &errand);
        }
    }
}

/// Starts the process, and has it settle the definition's template, too. That needs the caller's
/// environment, since the build command does; and it gives way to everything else.
pub(super) fn start_settling(stencil: &Stencil, definition: &str, fingerprint: &Fingerprint) {
    let try_start = || {
        let errand = errand(stencil, Some((definition, fingerprint, None)))?;
        let mut nice = Command::new("nice");
        nice.args(["-n", "19"]).arg(own_program()?);
        // A system without `nice` is stranger than one that is busy for a while.
        send(nice, &errand).or_else(|_| send(Command::new(own_program()?), &errand))
    };
    let _: Result<()> = try_start();
}

fn failed(error: std::io::Error) -> Error {
    Error::failed("cannot start the background process").caused_by(error)
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(failed)
}

/// `of`: a definition to look after; without a demand its template is settled.
fn errand(stencil: &Stencil, of: Option<(&str, &Fingerprint, Option<Demand>)>) -> Result<String> {
    let config = stencil.config();
    let hooks = has_hooks(stencil);
    let care = of.map(|(definition, fingerprint, demand)| Care {
        definition: definition.to_owned(),
        fingerprint: fingerprint.to_string(),
        demand: demand.unwrap_or_default(),
        settle: demand.is_none(),
    });
    let checkout = match hooks || care.is_some() {
        false => None,
        true => Some(Checkout {
            config: std::fs::canonicalize(&config.file).map_err(failed)?,
            origin: config.origin,
            holder: stencil.holder().clone(),
            client_host: config.server.client_host.clone(),
            client_port: config.server.client_port,
        }),
    };
    let errand = Errand {
        url: stencil.endpoint().server_url().reveal(),
        socket: stencil.endpoint().socket().map(Into::into),
        door: stencil.endpoint().door(),
        ssl_mode: stencil.endpoint().ssl_mode().map(str::to_owned),
        registry: config.server.registry.clone(),
        grace_ms: config.clone.orphan_grace.as_millis() as u64,
        checkout,
        scarce: stencil.endpoint().is_scarce(),
        care,
        hooks,
    };
    serde_json::to_string(&errand).map_err(|e| Error::internal("cannot write JSON").caused_by(e))
}

/// Whether the config has commands for clones that were swept.
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
    // CI runners find leftovers by marks in their environment.
    command.env_clear().envs(tls.into_iter().filter_map(|(name, v)| Some((name, v?))));
    command
}

fn send(command: Command, errand: &str) -> Result<()> {
    tell(&mut launch(command)?, errand)
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
        // From its first moment on: whoever ends our group when we are done must not meet it there.
        .process_group(0)
        .spawn()
        .map_err(failed)
}

fn tell(child: &mut Child, errand: &str) -> Result<()> {
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
        // The one that listed the directory is closed already.
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
    let defaults = Defaults { ssl_mode: errand.ssl_mode, ..Defaults::default() };
    let endpoint = Endpoint::new(ServerUrl::parse(&errand.url)?, &defaults)?;
    let endpoint = endpoint.with_socket(errand.socket).with_door(errand.door);
    let endpoint = endpoint.in_background();
    let grace = Duration::from_millis(errand.grace_ms);
    if errand.scarce {
        // Behind the sessions that the user's command opens now, and not together with other such processes:
        // each takes a slot at least while it counts the free ones.
        let spread = u64::from(std::process::id() % 16) * 50;
        tokio::time::sleep(Duration::from_millis(300 + spread)).await;
    }
    let sweep = || stencil::sweep_now(&endpoint, &errand.registry, grace);
    let done = match (&errand.care, &errand.checkout) {
        (Some(care), Some(checkout)) => care_and_sweep(care, checkout, &endpoint, sweep).await,
        _ => sweep().await.map(drop),
    };
    if let Some(checkout) = errand.checkout.as_ref().filter(|_| errand.hooks) {
        let stencil = checkout.stencil(&endpoint)?;
        stencil.run_owed_unheard(&Deadline::default()).await;
        stencil.close().await;
    }
    done.map(|()| 0)
}

/// What somebody may be waiting for soon comes before what is only in the way; a build from nothing takes long, so
/// that comes last.
async fn care_and_sweep(
    care: &Care,
    checkout: &Checkout,
    endpoint: &Endpoint,
    sweep: impl AsyncFn() -> Result<Vec<String>>,
) -> Result<()> {
    if care.settle {
        sweep().await?;
    }
    let cared = look_after(care, checkout, endpoint).await;
    // What was replaced is dropped, and what was given up half-way.
    sweep().await?;
    cared
}

impl Checkout {
    fn stencil(&self, endpoint: &Endpoint) -> Result<Stencil> {
        let mut config = config::load_again(&self.config, self.origin)?;
        config.server.client_host.clone_from(&self.client_host);
        config.server.client_port = self.client_port;
        let env = Environment::from_process();
        let variable = Arc::new(move |name: &str| env.get_os(name).map(OsString::from));
        // The starter has ended; who waits should see who builds.
        let holder = Holder { pid: std::process::id(), ..self.holder.clone() };
        Ok(Stencil::new(config, endpoint.clone(), holder, variable).without_drops())
    }
}

async fn look_after(care: &Care, checkout: &Checkout, endpoint: &Endpoint) -> Result<()> {
    let stencil = checkout.stencil(endpoint)?;
    let deadline = Deadline::default();
    if care.settle {
        stencil.settle_now(&care.definition, &deadline).await?;
    }
    stencil.fill(&care.definition, &care.fingerprint.parse()?, care.demand, &deadline).await?;
    stencil.close().await;
    Ok(())
}
