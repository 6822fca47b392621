//! [`Context`]: what every step from template to clone needs to know, put together once.

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

/// One definition, where it lives, for whom, and how long it may take.
#[derive(Clone)]
pub(crate) struct Context<'a> {
    /// The server.
    pub(crate) endpoint: &'a Endpoint,
    /// Namespace.
    pub(crate) project: &'a str,
    /// Where commands run.
    pub(crate) root: &'a Path,
    /// What is built.
    pub(crate) definition: &'a Definition,
    /// How clones are made.
    pub(crate) clone_settings: &'a CloneSettings,
    /// The limits of the project's templates.
    pub(crate) eviction: &'a EvictionSettings,
    /// Who asks.
    pub(crate) holder: &'a Holder,
    /// How long they wait.
    pub(crate) deadline: &'a Deadline,
    /// Who is told.
    pub(crate) observe: Observe<'a>,
    /// What fills a template that is missing.
    pub(crate) source: Source,
    /// Leaves the databases of a failed build to a person.
    pub(crate) keep_failed: bool,
    /// Builds from nothing what is missing, and extends nothing.
    pub(crate) full_build: bool,
    /// The builds that the caller is a part of, as [`BUILDING`](crate::env::BUILDING) has them.
    pub(crate) building: &'a [String],
}

impl Context<'_> {
    /// Tells the observer.
    pub(crate) fn tell(&self, event: Event<'_>) {
        (self.observe)(event);
    }

    /// What [`BUILDING`](crate::env::BUILDING) says of a build of this definition.
    fn build_entry(&self) -> String {
        format!("{} {}", self.project, self.definition.name)
    }

    /// The value of that variable for a build command.
    pub(crate) fn builds(&self) -> String {
        let mut entries = self.building.to_vec();
        entries.push(self.build_entry());
        entries.join("\n")
    }

    /// Fails if a build command of this definition asks for its template: it would wait for itself, or start itself
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

    /// Who asks, as far as it matters whose a clone is.
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker::new(self.holder, self.project, self.clone_settings)
    }

    /// What other processes must know of the config.
    pub(crate) fn project_settings(&self) -> ProjectSettings {
        ProjectSettings::new(self.project, self.eviction, self.clone_settings)
    }

    /// What happened with a template of the definition, for the registry's history.
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

    /// Looks at the files of the inputs off the async threads, without reading them: before a build and
    /// after it.
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
