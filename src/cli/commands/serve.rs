//! `pgstencil serve --stdio`: databases for the tests of one process, which may be written in any language.
//!
//! The client starts this command once, and writes a request for each database, so that a test pays for no process, no
//! connection and no reading of files. Leases end with the client: the kernel closes its end of the pipe, however it
//! ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use super::clone::rebuild_later;
use crate::cli::App;
use crate::cli::background::{Background, Task};
use crate::events::Warning;
use crate::process::Signals;
use crate::stencil::{Leases, Provenance, Ttl};
use crate::wire::{Answer, ErrorAnswer, VERSION};
use crate::{Error, Kind, Result, Stencil};

/// Serve databases to one program, such as a test runner
///
/// Reads one JSON object a line from standard input, and answers each by one line on standard output. The plugins for
/// pytest, vitest and jest use this command, so that each test gets a database within milliseconds.
///
/// Requests: {"id": 1, "acquire": {"template": "app", "name": "test_{id}"}} creates a clone (both keys are optional),
/// and the answer is the object of `clone --json`, with the id. {"id": 2, "release": "NAME"} releases it, and {"id": 3,
/// "keep": "NAME"} keeps it for `[clone] ttl`. The answer of a request that fails contains `error`. Requests are
/// answered as they are done, not in their order.
///
/// The command ends with its standard input, and releases the clones that are not kept.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  echo '{\"id\": 1, \"acquire\": {}}' | pgstencil serve --stdio")]
pub(crate) struct Serve {
    /// Serve the program at the other end of standard input and output
    #[arg(long, required = true)]
    pub(crate) stdio: bool,
}

/// Age from which on the inputs are read again: a program in watch mode asks again after its files were edited.
const OLD: Duration = Duration::from_secs(1);

/// Time for what is under way when the client ends. The next cleanup does the rest.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Request {
    id: serde_json::Value,
    #[serde(flatten)]
    act: Act,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Act {
    Acquire(Acquire),
    Release(String),
    Keep(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acquire {
    template: Option<String>,
    name: Option<String>,
    /// Limit for waiting and building together.
    wait_ms: Option<u64>,
}

/// An answer, with the id of its request.
#[derive(Serialize)]
struct Reply<T> {
    id: serde_json::Value,
    #[serde(flatten)]
    answer: T,
}

#[derive(Serialize)]
struct ReleaseAnswer {
    version: u32,
    released: String,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct KeepAnswer {
    version: u32,
    kept: String,
    /// `None`: until it is released.
    expires_at: Option<String>,
}

struct Server<'a> {
    app: &'a App,
    stencil: OnceCell<Stencil>,
    /// When the inputs were last read.
    read: Cell<Option<Instant>>,
    /// By the name of the first database.
    leases: RefCell<BTreeMap<String, Leases>>,
    /// Templates that were handed out, by definition.
    used: RefCell<BTreeMap<String, Provenance>>,
    /// Ends the builds and waits of the requests that are under way.
    cancel: RefCell<CancellationToken>,
    /// Whether warm clones are to be made.
    fill: Notify,
}

pub(crate) async fn serve(app: &App, _: &Serve, signals: &mut Signals) -> Result<u8> {
    let server = Server {
        app,
        stencil: OnceCell::new(),
        read: Cell::new(None),
        leases: RefCell::default(),
        used: RefCell::default(),
        cancel: RefCell::default(),
        fill: Notify::new(),
    };
    let mut lines = lines();
    let mut work: FuturesUnordered<LocalBoxFuture<'_, Result<()>>> = FuturesUnordered::new();
    let result = {
        let upkeep = server.keep_warm();
        tokio::pin!(upkeep);
        loop {
            tokio::select! {
                line = lines.recv() => match line {
                    Some(line) if line.trim().is_empty() => {}
                    Some(line) => work.push(Box::pin(server.answer(line))),
                    None => break Ok(()),
                },
                Some(done) = work.next(), if !work.is_empty() => if let Err(error) = done {
                    break Err(error);
                },
                // Ctrl-C reaches the client, too, which may still need its databases.
                signal = signals.next() => {
                    server.cancel.replace(CancellationToken::new()).cancel();
                    if signal != Signal::SIGINT {
                        break Ok(());
                    }
                }
                () = &mut upkeep => {}
            }
        }
    };
    server.cancel.borrow().cancel();
    let rest = async { while work.next().await.is_some() {} };
    let _ = tokio::time::timeout(PATIENCE, rest).await;
    drop(work);
    server.end().await;
    result.map(|()| 0)
}

/// Reads standard input by a thread, until its end or an error, which means the same: the client has gone.
fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

impl Server<'_> {
    /// Carries a request out, and writes its answer. Fails if that cannot be written.
    async fn answer(&self, line: String) -> Result<()> {
        let request = match serde_json::from_str::<Request>(&line) {
            Ok(request) => request,
            Err(e) => {
                // A request that is not understood may have an id all the same.
                let id = serde_json::from_str::<serde_json::Value>(&line).ok();
                let id = id.and_then(|value| value.get("id").cloned()).unwrap_or_default();
                let error = Error::usage("this is not a request").caused_by(e);
                return self.write(id, ErrorAnswer::from(&error));
            }
        };
        let Request { id, act } = request;
        match act {
            Act::Acquire(wanted) => match self.acquire(wanted).await {
                Ok(answer) => {
                    self.write(id, answer)?;
                    self.fill.notify_one();
                    Ok(())
                }
                Err(error) => self.write(id, ErrorAnswer::from(&error)),
            },
            Act::Release(name) => match self.release(name).await {
                Ok(answer) => self.write(id, answer),
                Err(error) => self.write(id, ErrorAnswer::from(&error)),
            },
            Act::Keep(name) => match self.keep(name).await {
                Ok(answer) => self.write(id, answer),
                Err(error) => self.write(id, ErrorAnswer::from(&error)),
            },
        }
    }

    fn write(&self, id: serde_json::Value, answer: impl Serialize) -> Result<()> {
        self.app.printer.object(&Reply { id, answer })
    }

    async fn acquire(&self, wanted: Acquire) -> Result<Answer> {
        let stencil = self.stencil.get_or_try_init(|| self.app.stencil_for_tests()).await?;
        if self.read.get().is_none_or(|at| at.elapsed() > OLD) {
            stencil.forget_recipes();
            self.read.set(Some(Instant::now()));
        }
        let printer = &self.app.printer;
        let observe = |event: crate::events::Event<'_>| printer.tell(&event);
        let cancel = self.cancel.borrow().clone();
        let mut request = stencil.database().count(1).cancelled_by(cancel).observe(&observe);
        if let Some(template) = wanted.template {
            request = request.template(template);
        }
        if let Some(name) = wanted.name {
            request = request.name(name);
        }
        if let Some(wait) = wanted.wait_ms.map(Duration::from_millis).or(self.app.shared.wait) {
            request = request.wait(wait);
        }
        let leases = request.await?;
        let answer = Answer::of_clones(&leases, stencil.endpoint());
        let name = leases.clones.first().map(|clone| clone.name().to_owned()).unwrap_or_default();
        self.used.borrow_mut().insert(leases.definition.clone(), leases.provenance.clone());
        self.leases.borrow_mut().insert(name, leases);
        Ok(answer)
    }

    fn take(&self, name: &str) -> Result<Leases> {
        self.leases
            .borrow_mut()
            .remove(name)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("this process holds no clone `{name}`")))
    }

    async fn release(&self, name: String) -> Result<ReleaseAnswer> {
        let warnings = self.take(&name)?.release().await?;
        warnings.iter().for_each(|warning| self.app.printer.caution(warning));
        let warnings = warnings.iter().map(|warning: &Warning| warning.message().to_owned()).collect();
        Ok(ReleaseAnswer { version: VERSION, released: name, warnings })
    }

    async fn keep(&self, name: String) -> Result<KeepAnswer> {
        let expires_at = self.take(&name)?.detach(Ttl::Config).await?;
        Ok(KeepAnswer { version: VERSION, kept: name, expires_at })
    }

    /// Creates warm clones after requests. The next request makes up for what fails here.
    async fn keep_warm(&self) {
        loop {
            self.fill.notified().await;
            if let Some(stencil) = self.stencil.get() {
                let _ = stencil.fill().await;
            }
        }
    }

    /// Releases all clones, and leaves the drops and full builds to the background.
    async fn end(self) {
        let Some(stencil) = self.stencil.into_inner() else {
            return;
        };
        for leases in self.leases.into_inner().into_values() {
            // On a failure the next cleanup finds it.
            let _ = leases.release().await;
        }
        Background::new(&stencil).finish(Task::CleanUp).await;
        for (definition, provenance) in self.used.into_inner() {
            rebuild_later(&stencil, &definition, &provenance).await;
        }
    }
}
