//! The detached background process, which creates warm clones, drops databases that are no longer needed, and
//! runs the full builds that replace incrementally built templates.
//!
//! A DROP forces a checkpoint of the whole server, so no command should wait for one. This process is the same
//! binary in a session of its own, without the starter's descriptors and environment; its instructions come
//! through its standard input, a line for each, since a command line shows in `ps` and an environment in `/proc`. A
//! CI runner that kills it does no harm: the next command cleans up.
//!
//! A command starts one such process at most, and none if nothing is due, or if that of an earlier command is still
//! there to take its work; see [`super::resident`]. Such a process also answers for short commands what takes a session:
//! see [`super::hand_out`]. That of `run` lives as long as the command: it creates the next warm
//! clone meanwhile, and drops the clone at the end.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::config::value::Host;
use crate::config::{self, Origin};
use crate::env::{self, Environment};
use crate::names::Fingerprint;
use crate::quantity::count;
use crate::stencil::{self, Deadline, Defaults, Demand, Door, Due, Endpoint, Holder, Rebuilt, Registry};
use crate::url::ServerUrl;
use crate::{Error, Result, Stencil, wire};

use super::background_log;
use super::hand_out;
use super::pushing;
use super::resident::{self, Listening, STAY};
use nix::unistd::{Pid, getpgid, getppid, getsid, setpgid, setsid};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What the process is told. Holds the password, so it goes through a pipe only.
#[derive(Serialize, Deserialize)]
pub(super) struct Instructions {
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
        Ok(Instructions { checkout: Some(Checkout::of(stencil)?), ..instructions })
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
        self.checkout()?.stencil(&Worker::new(self)?.endpoint)
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
}

/// Starts the process at the lowest priority: a full build gives way to everything else. It needs the
/// caller's environment, since the build command does.
fn send_low(instructions: &str) -> Result<Child> {
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
        false => None,
        true => Some(Checkout::of(stencil)?),
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
    let mut command = Command::new(program);
    // CI runners find leftover processes by variables in their environment.
    command.env_clear().envs(tls());
    command
}

fn send(command: Command, instructions: &str) -> Result<Child> {
    let mut child = launch(command)?;
    tell(&mut child, instructions)?;
    Ok(child)
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

/// Writes a line. Not waited for: init reaps the process.
fn tell(child: &mut Child, instructions: &str) -> Result<()> {
    let Some(stdin) = &mut child.stdin else {
        return Err(Error::internal("the background process has no standard input"));
    };
    // Fits into the pipe's buffer, so this never blocks.
    stdin.write_all(format!("{instructions}\n").as_bytes()).map_err(failed)
}

/// Leaves the starter's session, and closes what was inherited beside the three standard
/// descriptors: the reader of `$(pgstencil clone)` waits until no process holds the pipe open.
/// `false`: another process, which can leave, does the work.
pub(super) fn leave() -> bool {
    close_inherited();
    setsid().is_ok() || (join_another_group() && setsid().is_ok()) || hand_on().is_err()
}

/// The leader of a group cannot start a session. So this process, which is one, becomes a member of the starter's group
/// for a moment, or of the session's, if the starter has ended.
fn join_another_group() -> bool {
    let this = Pid::from_raw(0);
    let groups = [getpgid(Some(getppid())), getsid(Some(this))];
    groups.into_iter().flatten().any(|group| setpgid(this, group).is_ok())
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

/// Time in which a short command of `run` ends: one cleanup then does for both its begin and its end.
const SOON: Duration = Duration::from_millis(200);

/// Number of instructions for which one cleanup may be put off, as long as the next one is there.
const TOGETHER: u32 = 12;

/// The instructions of the starter and of later commands, as they come.
struct Lines {
    sender: mpsc::UnboundedSender<Line>,
    receiver: mpsc::UnboundedReceiver<Line>,
    /// Whether the starter has ended.
    ended: bool,
    listening: Option<Listening>,
    holding: hand_out::Holding,
}

/// An instruction of the starter or of a later command.
pub(super) enum Line {
    Text(String),
    /// The starter has ended.
    End,
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        Line::Text(text)
    }
}

impl Lines {
    fn read() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let starter = sender.clone();
        std::thread::spawn(move || {
            let lines = std::io::stdin().lines().map_while(std::io::Result::ok).map(Line::Text);
            for line in lines.chain([Line::End]) {
                if starter.send(line).is_err() {
                    break;
                }
            }
        });
        Lines { sender, receiver, ended: false, listening: None, holding: hand_out::Holding::default() }
    }

    /// From now on takes the lines of other commands, too.
    fn listen(&mut self, address: &str) {
        if self.listening.is_none() {
            let (questions, asked) = mpsc::channel(1);
            self.listening = resident::listen(address, self.sender.clone(), questions);
            if self.listening.is_some() {
                tokio::spawn(hand_out::serve(asked, self.sender.clone(), self.holding.clone()));
            }
        }
    }

    /// Returns the next line within some time; `None` if there is none until then.
    async fn within(&mut self, time: Duration) -> Option<String> {
        tokio::time::timeout(time, self.next()).await.ok().flatten()
    }

    /// Returns the next line; `None` if the starter has ended, no other command can hand over more, and no clone is held
    /// whose end is one.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.ended && self.listening.is_none() && !self.holding.any() {
                return self.waiting();
            }
            match self.receiver.recv().await? {
                Line::Text(line) => return Some(line),
                Line::End => self.ended = true,
            }
        }
    }

    /// Returns a line that is there already.
    fn waiting(&mut self) -> Option<String> {
        loop {
            match self.receiver.try_recv().ok()? {
                Line::Text(line) => return Some(line),
                Line::End => self.ended = true,
            }
        }
    }

    /// Takes no more lines of other commands. Those that were taken before still come.
    fn leave(&mut self) {
        self.listening = None;
    }

    /// The same where slots are scarce, unless this process holds clones: an idle session for the next command takes
    /// a slot that the user's programs need.
    fn leave_if_scarce(&mut self, endpoint: &Endpoint) {
        if endpoint.is_scarce() && !self.holding.any() {
            self.leave();
        }
    }
}

/// What the process does.
pub(super) async fn work() -> Result<u8> {
    let mut lines = Lines::read();
    let mut session = None;
    let mut result = Err(Error::usage("this command is started by the others"));
    let mut put_off = 0;
    let mut next = lines.next().await;
    while let Some(line) = next {
        let instructions: Instructions = serde_json::from_str(&line)
            .map_err(|e| Error::usage("this command is started by the others").caused_by(e))?;
        if let Some(address) = &instructions.address {
            lines.listen(address);
        }
        let worker = Worker::new(&instructions)?;
        let worked = worker.work(&mut session).await;
        // A cleanup may take a while.
        lines.leave_if_scarce(&worker.endpoint);
        next = match lines.ended {
            true => lines.waiting(),
            false => lines.within(SOON).await,
        };
        put_off = if next.is_some() && put_off < TOGETHER { put_off + 1 } else { 0 };
        let cleaned = match put_off {
            // Replaced templates and abandoned builds are dropped, too.
            0 => worker.clean_up(&mut session).await,
            _ => Ok(()),
        };
        worker.log([&worked, &cleaned]);
        result = worked.and(cleaned);
        lines.leave_if_scarce(&worker.endpoint);
        if next.is_none() && lines.listening.is_some() {
            next = lines.within(STAY).await;
            while next.is_none() && lines.holding.any() {
                close(&mut session).await;
                next = lines.within(STAY).await;
            }
        }
        if next.is_none() {
            close(&mut session).await;
            if lines.ended {
                lines.leave();
            }
            next = lines.next().await;
        }
    }
    close(&mut session).await;
    result.map(|()| 0)
}

async fn close(session: &mut Option<Registry>) {
    if let Some(registry) = session.take() {
        registry.close().await;
    }
}

/// One instruction, and how the server is reached.
struct Worker<'a> {
    instructions: &'a Instructions,
    endpoint: Endpoint,
}

impl<'a> Worker<'a> {
    fn new(instructions: &'a Instructions) -> Result<Self> {
        let defaults = Defaults { ssl_mode: instructions.ssl_mode.clone(), ..Defaults::default() };
        let endpoint = Endpoint::new(ServerUrl::parse(&instructions.url)?, &defaults)?;
        let endpoint = endpoint.with_socket(instructions.socket.clone()).with_door(instructions.door);
        Ok(Worker { instructions, endpoint: endpoint.in_background() })
    }

    /// What a command may soon wait for comes before what is only in the way. A full build takes long, so it comes
    /// last.
    async fn work(&self, session: &mut Option<Registry>) -> Result<()> {
        if self.instructions.scarce {
            // After the sessions that the user's command opens now, and not together with other such processes:
            // each takes a slot at least while it counts the free ones.
            let spread = u64::from(std::process::id() % 16) * 50;
            tokio::time::sleep(Duration::from_millis(300 + spread)).await;
        }
        let (Some(task), Some(checkout)) = (&self.instructions.task, &self.instructions.checkout) else {
            return Ok(());
        };
        if task.rebuild.is_some() {
            self.drop_leftovers(session).await?;
        }
        let mut stencil = checkout.stencil(&self.endpoint)?;
        if task.rebuild.is_some() {
            // This process has the environment of its command, so it pushes where that one may.
            match pushing::store(&stencil, &Environment::from_process()) {
                Ok(remote) => stencil = stencil.with_remote(remote),
                Err(error) => self.append(&[wire::chain(&error)]),
            }
        }
        stencil.lend(session.take());
        let worked = async {
            let deadline = Deadline::default();
            let (definition, fingerprint) = (&task.definition, task.fingerprint.parse()?);
            if let Some(uses) = task.rebuild {
                // A server with few connection slots needs them for others.
                let patience = if self.instructions.scarce { Duration::ZERO } else { PATIENCE };
                let rebuilt = stencil.rebuild_template(definition, uses, patience, &deadline).await?;
                if matches!(rebuilt, Rebuilt::Replaced | Rebuilt::Accepted) {
                    let pushed = pushing::push_proved(&stencil, definition, &fingerprint).await;
                    self.append(pushed.as_slice());
                }
            }
            match task.demand {
                Some(demand) => stencil.fill_after_request(definition, &fingerprint, demand, &deadline).await,
                None => stencil.fill_template(definition, &fingerprint, task.announced, &[], &deadline).await,
            }
        }
        .await;
        *session = stencil.take_back();
        if let Ok(made @ 1..) = worked {
            self.append(&[format!("created {} of {}", count(made, "warm clone"), task.definition)]);
        }
        worked.map(drop)
    }

    async fn drop_leftovers(&self, session: &mut Option<Registry>) -> Result<()> {
        let grace = Duration::from_millis(self.instructions.grace_ms);
        let registry = &self.instructions.registry;
        let lines = stencil::clean_up_with(&self.endpoint, registry, grace, session).await?;
        self.append(&lines);
        if let Some(copies) = &self.instructions.copies {
            self.append(&stencil::clean_up_copies(copies));
        }
        Ok(())
    }

    fn append(&self, lines: &[String]) {
        if let Some(file) = &self.instructions.log {
            background_log::append(file, &self.instructions.project, lines);
        }
    }

    /// Logs what failed.
    fn log(&self, results: [&Result<()>; 2]) {
        let failed = results.into_iter().filter_map(|result| result.as_ref().err());
        self.append(&failed.map(wire::chain).collect::<Vec<_>>());
    }

    async fn clean_up(&self, session: &mut Option<Registry>) -> Result<()> {
        let done = self.drop_leftovers(session).await;
        if let Some(checkout) = self.instructions.checkout.as_ref().filter(|_| self.instructions.hooks) {
            let stencil = checkout.stencil(&self.endpoint)?;
            stencil.lend(session.take());
            stencil.run_owed_unheard(&Deadline::default()).await;
            *session = stencil.take_back();
        }
        done
    }
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
