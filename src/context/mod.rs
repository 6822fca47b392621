//! [`Context`]: the values that every step from template to clone needs, collected once.

mod source;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::source::Source;
pub use self::source::{FillError, Filler, Unfilled};

use crate::config::{CloneSettings, Definition, EvictionSettings};
use crate::error::{Error, Result};
use crate::events::{Event, Observe};
use crate::fingerprint::{Inputs, Snapshot};
use crate::names::Fingerprint;
use crate::pg::{Deadline, Endpoint};
use crate::registry::owner::Asker;
use crate::registry::{Happened, Holder, Occurrence, ProjectSettings};
use crate::remote::Remote;
use crate::remote::tools::ToolSearch;

/// A definition, its server and project, the holder, and the limits in time.
#[derive(Clone)]
pub(crate) struct Context<'a> {
    /// The server.
    pub(crate) endpoint: &'a Endpoint,
    /// Name of the project, used as namespace.
    pub(crate) project: &'a str,
    /// Directory in which commands run.
    pub(crate) root: &'a Path,
    /// Directory for copies of the root, if there is one.
    pub(crate) copies: Option<&'a Path>,
    /// Definition to build.
    pub(crate) definition: &'a Definition,
    /// Settings for creating clones.
    pub(crate) clone_settings: &'a CloneSettings,
    /// Limits of the project's templates.
    pub(crate) eviction: &'a EvictionSettings,
    /// Holder of the requested clones.
    pub(crate) holder: &'a Holder,
    /// Time limit of the request.
    pub(crate) deadline: &'a Deadline,
    /// Callback that receives events.
    pub(crate) observe: Observe<'a>,
    /// Filler of a missing template.
    pub(crate) source: Source,
    /// Keeps the databases of a failed build for inspection.
    pub(crate) keep_failed: bool,
    /// Runs full builds only, no incremental builds.
    pub(crate) full_build: bool,
    /// Store of templates that several servers share.
    pub(crate) remote: Option<&'a Remote>,
    /// Search for `pg_dump` and `pg_restore`.
    pub(crate) tools: &'a ToolSearch,
    /// Whether what is built must serve no other command.
    pub(crate) untrusted: bool,
    /// Builds that the caller is a part of, as in [`BUILDING`](crate::env::BUILDING).
    pub(crate) building: &'a [String],
}

impl Context<'_> {
    /// Sends an event to the observer.
    pub(crate) fn tell(&self, event: Event<'_>) {
        (self.observe)(event);
    }

    /// Returns the entry in [`BUILDING`](crate::env::BUILDING) for a build of this definition.
    fn build_entry(&self) -> String {
        format!("{} {}", self.project, self.definition.name)
    }

    /// Returns the value of that variable for a build command.
    pub(crate) fn builds(&self) -> String {
        let mut entries = self.building.to_vec();
        entries.push(self.build_entry());
        entries.join("\n")
    }

    /// Fails if a build command of this definition requests its template: it would wait for itself, or start itself
    /// again and again.
    pub(crate) fn not_within_itself(&self) -> Result<()> {
        if !self.building.contains(&self.build_entry()) {
            return Ok(());
        }
        let name = &self.definition.name;
        Err(Error::config(format!(
            "the build command of `{name}` asks for the template that it is to build"
        ))
        .detail(format!("it runs pgstencil, which finds itself within the build of `{name}` of project `{}`", self.project))
        .hint(format!(
            "let `build` of [template.{name}] fill the database that DATABASE_URL names, and run pgstencil around your commands: `pgstencil run CMD`"
        )))
    }

    /// Returns the part of the holder that decides the ownership of a clone.
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker::new(self.holder, self.project, self.clone_settings)
    }

    /// Returns the config settings that other processes need.
    pub(crate) fn project_settings(&self) -> ProjectSettings {
        ProjectSettings::new(self.project, self.eviction, self.clone_settings)
    }

    /// Returns an event of a template of the definition, for the registry's history.
    pub(crate) fn occurrence<'b>(
        &'b self,
        fingerprint: &'b Fingerprint,
        happened: Happened,
        took: Duration,
    ) -> Occurrence<'b> {
        Occurrence {
            project: self.project,
            definition: &self.definition.name,
            fingerprint,
            happened,
            took,
            files: None,
        }
    }

    /// Reads the inputs off the async threads.
    ///
    /// # Errors
    /// As [`Inputs::read`].
    pub(crate) async fn inputs(&self) -> Result<Inputs> {
        let read = match &self.source {
            Source::Command(read) => Arc::clone(read),
            Source::Filler(filler) => return Ok(Inputs::by_key(filler.key(), self.definition)),
        };
        tokio::task::spawn_blocking(move || read())
            .await
            .map_err(|e| Error::unjoined("reading the inputs", e))?
    }

    /// Checks the files of the inputs off the async threads, without reading them: before a build and after it.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub(crate) async fn snapshot(&self) -> Result<Snapshot> {
        let (root, definition) = (self.root.to_owned(), self.definition.clone());
        tokio::task::spawn_blocking(move || Snapshot::take(&root, &definition))
            .await
            .map_err(|e| Error::unjoined("looking at the inputs", e))?
    }
}
