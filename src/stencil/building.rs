//! Templates that the caller fills: by its own code, or between [`Stencil::begin`] and [`Building::seal`].

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Deadline, Stencil};
use crate::context::{Filler, Unfilled};
use crate::error::{Error, Result};
use crate::names::Fingerprint;

/// Result of [`Stencil::begin`].
#[derive(Debug)]
pub enum Begun {
    /// The template exists, with this fingerprint: another process may have built it in the meantime.
    Ready(Fingerprint),
    /// Its databases exist, and the caller fills them. No other process builds it.
    Building(Building),
}

/// Template whose databases the caller fills. If it is dropped before [`Building::seal`], the runtime on which it
/// began drops them; if that has ended, the next cleanup of any process does.
#[derive(Debug)]
#[must_use = "databases that are not sealed are dropped"]
pub struct Building {
    databases: Vec<Unfilled>,
    seal: oneshot::Sender<()>,
    work: Work,
}

/// Task that holds the right to build, and seals or drops the databases.
type Work = JoinHandle<Result<Fingerprint>>;

/// Channels that a filler uses once: one sends the databases, the other reports that they are filled.
type Ends = (oneshot::Sender<Vec<Unfilled>>, oneshot::Receiver<()>);

impl Stencil {
    /// Has missing templates filled by code of the program, instead of the definition's build command and input
    /// files. This holds for every definition that is requested from the returned value. Not to be confused with
    /// [`Stencil::fill`], which makes warm clones.
    #[must_use]
    pub fn filled_by(mut self, filler: Filler) -> Self {
        self.filler = Some(filler);
        self
    }

    /// Begins to build the template of a definition that has this key (see [`Filler`]), for a caller who fills it
    /// elsewhere and then calls [`Building::seal`]. Waits if another process builds it. `wait` limits waiting,
    /// filling and sealing in total, and `build_timeout` the filling. Must be called on a Tokio runtime.
    ///
    /// Cancel safety: whatever has begun is dropped.
    ///
    /// # Errors
    /// The errors of the definition and the server; [`crate::Kind::Timeout`].
    pub async fn begin(&self, definition: Option<&str>, key: &str, wait: Option<Duration>) -> Result<Begun> {
        let (give, given) = oneshot::channel();
        let (seal, sealed) = oneshot::channel();
        let ends: Mutex<Option<Ends>> = Mutex::new(Some((give, sealed)));
        let filler = Filler::new(key, move |databases| {
            let ends = ends.lock().ok().and_then(|mut ends| ends.take());
            async move {
                let Some((give, sealed)) = ends else {
                    return Err("the databases were filled already, but could not be sealed");
                };
                // On an error the caller has ended, which shows below.
                let _ = give.send(databases);
                sealed.await.map_err(|_| "the program discarded the databases")
            }
        });
        let name = self.definition(definition)?.name.clone();
        let stencil = self.clone().filled_by(filler);
        let deadline = Deadline::new(wait, CancellationToken::new());
        let mut work: Work = tokio::spawn(async move {
            let (registry, ensured) =
                stencil.ensure_template(Some(&name), &deadline, &|_| {}, false, false).await?;
            registry.close().await;
            Ok(ensured.provenance.fingerprint)
        });
        tokio::select! {
            Ok(databases) = given => Ok(Begun::Building(Building { databases, seal, work })),
            done = &mut work => Ok(Begun::Ready(finished(done)?)),
        }
    }
}

impl Building {
    /// Returns the databases to fill, in the order of the definition.
    pub fn databases(&self) -> &[Unfilled] {
        &self.databases
    }

    /// Turns the databases, whose sessions must have ended, into a template. Returns its fingerprint.
    ///
    /// Cancel safety: the template is sealed nevertheless.
    ///
    /// # Errors
    /// [`crate::Kind::Build`] if it cannot be sealed, for example because a database is empty;
    /// [`crate::Kind::Timeout`] if its time was over before.
    pub async fn seal(self) -> Result<Fingerprint> {
        // If the receiver is gone, the work has ended with an error.
        let _ = self.seal.send(());
        finished(self.work.await)
    }

    /// Drops the databases.
    pub async fn discard(self) {
        drop(self.seal);
        // Its error is that it was discarded.
        let _ = self.work.await;
    }
}

fn finished(done: std::result::Result<Result<Fingerprint>, tokio::task::JoinError>) -> Result<Fingerprint> {
    done.map_err(|error| Error::unjoined("building a template", error))?
}
