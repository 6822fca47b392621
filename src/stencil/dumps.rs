//! The cache file of a server that pgstencil did not start: dumps of the project's templates, made and restored by the
//! programs of the server's machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::cache::{CacheKey, dumps_key};
use super::{Deadline, Stencil};
use crate::cache_file::key::SecretKey;
use crate::cache_file::{DumpFile, DumpManifest, Packed, Payload};
use crate::error::{Error, Result};
use crate::events::Observe;
use crate::remote::tools::ToolSearch;
use crate::remote::{Remote, ServerPrograms, Shelf, Shelved};
use crate::template::push::{self, NotPushed, Pushed};
use crate::template::{self, Nearest};

/// Most templates in a file; the oldest ones are left out.
const MOST: usize = 20;
/// Time between two attempts to get a template that another command works on.
const POLL: Duration = Duration::from_millis(200);

/// A template that was left out.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    /// Name of its definition.
    pub(crate) template: String,
    /// Its fingerprint, if it is about one.
    pub(crate) fingerprint: Option<String>,
    /// The reason.
    pub(crate) why: String,
}

/// Result of [`Stencil::save_dumps`].
#[derive(Clone, Debug)]
pub(crate) struct SavedDumps {
    /// Manifest of the file.
    pub(crate) manifest: DumpManifest,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Number of templates that were dumped; the others were in the file before.
    pub(crate) dumped: usize,
    /// The templates of the server that are not in it.
    pub(crate) left: Vec<Left>,
}

/// A template that the server has.
#[derive(Clone, Debug)]
pub(crate) struct FilledTemplate {
    /// Name of its definition.
    pub(crate) template: String,
    /// Its fingerprint.
    pub(crate) fingerprint: String,
    /// Whether it was restored; else the server had it before.
    pub(crate) is_new: bool,
    /// Number of migrations that the current files have in addition.
    pub(crate) lacks: usize,
}

/// Result of [`Stencil::restore_dumps`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Filled {
    /// The templates.
    pub(crate) templates: Vec<FilledTemplate>,
    /// What was not restored.
    pub(crate) left: Vec<Left>,
}

impl Stencil {
    /// Lets the programs of the server's machine dump and restore, for a user who asked for that. Also returns the
    /// server's major version.
    ///
    /// # Errors
    /// As [`ServerPrograms::find`] and [`ServerPrograms::probe`].
    pub(crate) async fn through_server(mut self, deadline: &Deadline) -> Result<(Self, u32)> {
        let mut session = self.maintenance(deadline).await?;
        let found = ServerPrograms::find(&mut session, &self.config.server.registry).await;
        let major = session.facts().major();
        session.close().await;
        let found = found?;
        // Sessions that start programs are in pgstencil's own database.
        self.open_registry(deadline).await?.close().await;
        let programs = found.probe(&self.endpoint, deadline).await?;
        self.tools = Arc::new(ToolSearch { server: Some(programs), ..(*self.tools).clone() });
        Ok((self, major))
    }

    /// Returns the key under which a CI system keeps a file of dumps. Writes nothing.
    ///
    /// # Errors
    /// As [`super::cache_key`]; the driver's.
    pub(crate) async fn dumps_key(&self, definition: Option<&str>, deadline: &Deadline) -> Result<CacheKey> {
        let traits = self.traits(deadline).await?;
        dumps_key((*self.config).clone(), definition, traits, &self.variable).await
    }

    /// Dumps the project's ready templates that the shelf lacks, and writes a file with all of the shelf.
    ///
    /// # Errors
    /// `Failed` if there is no template; errors of the driver, of `pg_dump` and of the system.
    pub(crate) async fn save_dumps(
        &self,
        shelf: &Shelf,
        file: &Path,
        key: Option<&SecretKey>,
        deadline: &Deadline,
        observe: Observe<'_>,
    ) -> Result<SavedDumps> {
        self.refuse_untrusted("saved")?;
        let remote = self.file_store()?;
        let (mut dumped, mut left, mut major) = (0, Vec::new(), 0);
        let mut here: Vec<String> = Vec::new();
        for definition in &self.config.definitions {
            let context = self.context(definition, deadline, observe, false);
            let (mut registry, recipe, _) = self.open_reading(&context).await?;
            let recipe = recipe?;
            major = registry.facts().major();
            let name = &definition.name;
            for (row, kept) in registry.ready_templates(context.project, name, &recipe).await? {
                let fingerprint = row.fingerprint.to_string();
                if row.waypoint || here.contains(&fingerprint) {
                    continue;
                }
                let shelved = shelf.templates().into_iter().find(|of| of.fingerprint == fingerprint);
                if shelved.is_some_and(|of| !of.provisional || row.provisional) {
                    here.push(fingerprint);
                    continue;
                }
                let pushed = match kept.fingerprint() == row.fingerprint {
                    false => Pushed::Not(
                        "its variables have other values now, so its inputs are not known completely"
                            .to_owned()
                            .into(),
                    ),
                    true => loop {
                        match push::push(&mut registry, &context, remote, &kept).await? {
                            Pushed::Not(NotPushed::Busy) => {
                                deadline.pause(POLL, "another command that works on a template").await?;
                            }
                            done => break done,
                        }
                    },
                };
                match pushed {
                    Pushed::Done(_) | Pushed::There => {
                        dumped += 1;
                        here.push(fingerprint);
                    }
                    Pushed::Not(why) => {
                        let why = why.to_string();
                        left.push(Left { template: name.clone(), fingerprint: Some(fingerprint), why });
                    }
                }
            }
            registry.close().await;
        }
        if here.is_empty() {
            let error = Error::failed("nothing was saved, since the server has no template that is ready")
                .hint("build a template first: `pgstencil ensure`");
            return Err(left.iter().fold(error, |e, of| e.detail(format!("{}: {}", of.template, of.why))));
        }
        let mut templates = shelf.templates();
        // Those of the server first.
        templates.sort_by_key(|of| !here.contains(&of.fingerprint));
        templates.truncate(MOST);
        let manifest = DumpManifest {
            pgstencil: env!("CARGO_PKG_VERSION").to_owned(),
            project: self.config.project.clone(),
            major,
            templates: templates.iter().map(|of| self.packed(of)).collect(),
            objects: Vec::new(),
            payload: Payload::default(),
        };
        let objects = shelf.of(&templates);
        let (path, key) = (file.to_owned(), key.cloned());
        let work = move || DumpFile::write(manifest, &objects, key.as_ref(), &path);
        let written = tokio::task::spawn_blocking(work).await;
        let written = written.map_err(|e| Error::unjoined("writing the cache file", e))?;
        let (manifest, bytes) = written.map_err(|e| {
            Error::failed(format!("cannot write the cache file {}", file.display()))
                .detail("a file of this name that was there before is unchanged")
                .caused_by(e)
        })?;
        Ok(SavedDumps { manifest, bytes, dumped, left })
    }

    fn packed(&self, of: &Shelved) -> Packed {
        Packed {
            project: self.config.project.clone(),
            template: of.definition.clone(),
            fingerprint: of.fingerprint.clone(),
        }
    }

    /// Restores, for each definition, the template of the current files, or the largest base of one. With `all`, every
    /// template of the file that can be used with the current build command and inputs.
    ///
    /// # Errors
    /// Errors of the driver and of the inputs.
    pub(crate) async fn restore_dumps(
        &self,
        file: &DumpManifest,
        all: bool,
        deadline: &Deadline,
        observe: Observe<'_>,
    ) -> Result<Filled> {
        self.refuse_untrusted("restored")?;
        let remote = self.file_store()?;
        let mut filled = Filled::default();
        for definition in &self.config.definitions {
            let name = &definition.name;
            let in_file: Vec<&Packed> = file.templates.iter().filter(|of| of.template == *name).collect();
            if in_file.is_empty() {
                continue;
            }
            let context = self.context(definition, deadline, observe, false);
            let (mut registry, recipe, _) = self.open_reading(&context).await?;
            let recipe = recipe?;
            let wanted: Vec<Option<&str>> = match all {
                false => vec![None],
                true => in_file.iter().map(|of| Some(of.fingerprint.as_str())).collect(),
            };
            for digits in wanted {
                let found = loop {
                    match template::nearest(&mut registry, &context, remote, &recipe, digits).await? {
                        Nearest::Busy => {
                            deadline.pause(POLL, "another command that works on a template").await?;
                        }
                        found => break found,
                    }
                };
                let template = name.clone();
                match found {
                    Nearest::Found { fingerprint, is_new, lacks } => filled.templates.push(FilledTemplate {
                        template,
                        fingerprint: fingerprint.to_string(),
                        is_new,
                        lacks,
                    }),
                    Nearest::Not(why) => {
                        filled.left.push(Left { template, fingerprint: digits.map(str::to_owned), why });
                    }
                    Nearest::Busy => {}
                }
            }
            registry.close().await;
        }
        Ok(filled)
    }

    fn file_store(&self) -> Result<&Remote> {
        self.remote().ok_or_else(|| Error::internal("the cache file was not opened"))
    }
}
