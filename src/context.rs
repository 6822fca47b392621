//! [`Context`]: what every step from template to clone needs to know, put together once.

use std::path::Path;
use std::sync::Arc;

use crate::config::{Definition, EvictionSettings, Strategy};
use crate::error::Result;
use crate::events::{Event, Observe};
use crate::fingerprint::Inputs;
use crate::pg::session::ServerFacts;
use crate::pg::sql::CopyStrategy;
use crate::pg::{Endpoint, Limit};
use crate::registry::Holder;

/// Reads the inputs of a definition from the file system, and can do so again: what a build yields
/// is sealed only if they are still the same afterwards.
pub type ReadInputs = Arc<dyn Fn() -> Result<Inputs> + Send + Sync>;

/// One definition, where it lives, for whom, and how long it may take.
#[derive(Clone)]
pub struct Context<'a> {
    /// The server.
    pub endpoint: &'a Endpoint,
    /// Namespace.
    pub project: &'a str,
    /// Where commands run.
    pub root: &'a Path,
    /// What is built.
    pub definition: &'a Definition,
    /// How clones are copied.
    pub strategy: Strategy,
    /// The limits of the project's templates.
    pub eviction: &'a EvictionSettings,
    /// Who asks.
    pub holder: &'a Holder,
    /// How long they wait.
    pub limit: &'a Limit,
    /// Who is told.
    pub observe: Observe<'a>,
    /// Reads the inputs.
    pub read: ReadInputs,
    /// Leaves the databases of a failed build to a person.
    pub keep_failed: bool,
}

impl Context<'_> {
    /// Tells the observer.
    pub fn tell(&self, event: Event<'_>) {
        (self.observe)(event);
    }

    /// Reads the inputs off the async threads.
    ///
    /// # Errors
    /// As [`Inputs::read`].
    pub async fn inputs(&self) -> Result<Inputs> {
        let read = Arc::clone(&self.read);
        tokio::task::spawn_blocking(move || read())
            .await
            .map_err(|e| {
                crate::error::Error::internal("reading the inputs panicked").caused_by(e)
            })?
    }

    /// How to copy databases of this size. By measurement: without fsync FILE_COPY always wins;
    /// with it, WAL_LOG wins while there is little data in many files, since FILE_COPY syncs each
    /// file and forces two checkpoints on everybody.
    pub fn copy_strategy(&self, facts: &ServerFacts, bytes: i64, files: i64) -> CopyStrategy {
        if facts.major() < 15 {
            return CopyStrategy::Only;
        }
        match self.strategy {
            Strategy::WalLog => CopyStrategy::WalLog,
            Strategy::FileCopy => CopyStrategy::FileCopy,
            Strategy::Reflink if facts.major() >= 18 => CopyStrategy::Reflink,
            Strategy::Reflink => CopyStrategy::FileCopy,
            Strategy::Auto if !facts.fsync => CopyStrategy::FileCopy,
            Strategy::Auto if bytes / 1_000_000 < files.max(300) / 8 => CopyStrategy::WalLog,
            Strategy::Auto => CopyStrategy::FileCopy,
        }
    }
}
