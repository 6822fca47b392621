//! The lease of `run`: the clone's advisory lock, held by a session that is watched, or by another process.
//!
//! A killed process releases the lock immediately. So does a disconnected session or a restarted server, although the
//! holder is alive: so the keeper checks every few seconds, opens a new session, and takes the lock again. The
//! cleanup waits `orphan_grace` for that.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::custody::Custody;
use crate::error::{Error, Result};
use crate::events::Warning;
use crate::pg::lock::LockKey;
use crate::pg::{Deadline, Endpoint};
use crate::process::Started;
use crate::registry::{CloneState, Registry, Waiting, is_driven};

/// Keeps the locks of some clones until [`Keeper::stop`]. Dropping it without that ends the watch and the session, so
/// that the cleanup takes the clones.
#[must_use = "the lease ends with it"]
pub(crate) struct Keeper {
    stop: oneshot::Sender<()>,
    command: Option<oneshot::Sender<Started>>,
    task: JoinHandle<Kept>,
    runtime: Handle,
}

/// Result of the end of a lease.
pub(crate) struct Kept {
    /// What holds the locks.
    pub(crate) hold: Hold,
    /// The clones that were dropped while the session was lost.
    pub(crate) lost: Vec<String>,
    /// Warnings about them for the holder.
    pub(crate) warnings: Vec<Warning>,
}

impl Kept {
    fn nothing() -> Self {
        Kept { hold: Hold::Nothing, lost: Vec::new(), warnings: Vec::new() }
    }
}

/// What holds the locks of some clones.
pub(crate) enum Hold {
    /// A session.
    Session(Box<Registry>),
    /// Another process.
    Elsewhere(Custody),
    /// Nothing: the session was lost and could not be replaced, or has ended.
    Nothing,
}

impl From<Option<Registry>> for Hold {
    fn from(session: Option<Registry>) -> Self {
        session.map_or(Hold::Nothing, Hold::from)
    }
}

impl From<Registry> for Hold {
    fn from(session: Registry) -> Self {
        Hold::Session(Box::new(session))
    }
}

impl From<Custody> for Hold {
    fn from(custody: Custody) -> Self {
        Hold::Elsewhere(custody)
    }
}

impl Hold {
    /// Waits until another process that holds the locks may be gone.
    async fn news(&self) {
        match self {
            Hold::Elsewhere(custody) => custody.news().await,
            Hold::Session(_) | Hold::Nothing => std::future::pending().await,
        }
    }
}

/// Minimum time for an attempt to open a new session.
const FIRST: Duration = Duration::from_secs(1);
/// Longest time between two checks.
const LOOK: Duration = Duration::from_secs(5);

impl Keeper {
    /// Takes over what holds the locks of `clones`. The caller has its result, so the caller's deadline no longer
    /// applies to a session.
    pub(crate) fn start(
        mut hold: Hold,
        endpoint: &Endpoint,
        name: &str,
        clones: Vec<String>,
        grace: Duration,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (command, started) = oneshot::channel();
        if let Hold::Session(registry) = &mut hold {
            registry.session().set_deadline(&Deadline::default());
        }
        let watch = Watch {
            endpoint: endpoint.clone(),
            name: name.to_owned(),
            clones,
            // Several checks must fit into the time that the cleanup waits.
            pause: (grace / 4).clamp(Duration::from_millis(100), LOOK),
            lost: Vec::new(),
            warnings: Vec::new(),
        };
        Keeper {
            stop,
            command: Some(command),
            task: tokio::spawn(watch.run(hold, stopped, started)),
            runtime: Handle::current(),
        }
    }

    /// Records, shortly after, the command that was started for the clones: if this process is killed, they are kept
    /// until that command has ended, too. Only the first one counts.
    pub(crate) fn command(&mut self, started: Started) {
        if let Some(command) = self.command.take() {
            // If the receiver is gone, the task has ended, which `stop` reports.
            let _ = command.send(started);
        }
    }

    /// Ends the watch and returns what holds the locks. There is nothing if the runtime of [`Keeper::start`] has ended, or is
    /// another one that works only while its own caller waits.
    ///
    /// # Errors
    /// [`crate::Kind::Internal`] if the watch panicked.
    pub(crate) async fn stop(self) -> Result<Kept> {
        // If the receiver is gone, the task has ended, which the join below reports.
        let _ = self.stop.send(());
        if !is_driven(&self.runtime) {
            self.task.abort();
            return Ok(Kept::nothing());
        }
        match self.task.await {
            Err(error) if error.is_cancelled() => Ok(Kept::nothing()),
            kept => kept.map_err(|e| Error::internal("the watch over the lease panicked").caused_by(e)),
        }
    }
}

/// Returns the command that was started, once; waits indefinitely if none is.
async fn next(started: &mut Option<oneshot::Receiver<Started>>) -> Option<Started> {
    let Some(receiver) = started else {
        return std::future::pending().await;
    };
    let received = receiver.await.ok();
    *started = None;
    match received {
        None => std::future::pending().await,
        started => started,
    }
}

struct Watch {
    endpoint: Endpoint,
    name: String,
    clones: Vec<String>,
    /// Time between two checks, and limit for one of them.
    pause: Duration,
    lost: Vec<String>,
    warnings: Vec<Warning>,
}

impl Watch {
    async fn run(
        mut self,
        mut hold: Hold,
        mut stopped: oneshot::Receiver<()>,
        started: oneshot::Receiver<Started>,
    ) -> Kept {
        let mut started = Some(started);
        let mut command = None;
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = hold.news() => {}
                () = tokio::time::sleep(self.pause) => {}
                new = next(&mut started) => command = new,
            }
            let alive = match &mut hold {
                // On a network that drops packets the query would wait indefinitely. A cleanup elsewhere may have
                // seen the end of the session immediately, so all of this must fit into the grace period.
                Hold::Session(registry) => {
                    let look = self.look(registry, &mut command);
                    matches!(tokio::time::timeout(self.pause, look).await, Ok(Ok(())))
                }
                Hold::Elsewhere(custody) => !custody.is_lost(),
                Hold::Nothing => false,
            };
            if !alive {
                hold = Hold::Nothing;
                tokio::select! {
                    _ = &mut stopped => break,
                    again = self.retake() => hold = again.into(),
                }
            }
        }
        Kept { hold, lost: self.lost, warnings: self.warnings }
    }

    /// Checks whether the session is still connected, and records the command if there is a new one.
    async fn look(&self, registry: &mut Registry, command: &mut Option<Started>) -> Result<()> {
        let Some(Started { pid, group }) = *command else {
            return registry.ping().await;
        };
        registry.note_command(&self.clones, pid, group).await?;
        *command = None;
        Ok(())
    }

    /// Opens a session and takes all locks again. The old session may still hold them until the server notices that
    /// it is gone: then they protect the clones as before.
    async fn retake(&mut self) -> Option<Registry> {
        let deadline = Deadline::new(Some(self.pause.max(FIRST)), CancellationToken::new());
        let mut registry = Registry::open_existing(&self.endpoint, &self.name, &deadline).await.ok()??;
        registry.session().set_deadline(&Deadline::default());
        for id in self.clones.clone() {
            match Self::retake_one(&mut registry, &id).await {
                Ok(true) => {}
                Ok(false) => {
                    let what = format!("clone {id} was dropped while the session with the server was lost");
                    self.warnings.push(Warning::new(what));
                    self.clones.retain(|c| *c != id);
                    self.lost.push(id);
                }
                Err(_) => return None,
            }
        }
        Some(registry)
    }

    async fn retake_one(registry: &mut Registry, id: &str) -> Result<bool> {
        let key = LockKey::clone(id);
        let waiting = Waiting {
            step: Duration::from_millis(50),
            most: None,
            deadline: &Deadline::default(),
            what: "another command that uses the clone",
        };
        let Some(lock) = registry.lock(key, waiting).await? else {
            return Ok(false);
        };
        match registry.clone_by_id(id).await? {
            Some(row) if row.state == CloneState::Leased => {
                registry.revive_clone(id).await?;
                lock.keep();
                Ok(true)
            }
            _ => {
                lock.release(registry).await?;
                Ok(false)
            }
        }
    }
}
