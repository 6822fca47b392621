//! Explains which inputs decide the template, what changed since the nearest one, and what a command would do now.

use std::sync::Arc;
use std::time::Duration;

use super::{Deadline, Stencil, Variable};
use crate::config::{Config, Definition, Rebuild, Waypoints};
use crate::error::{Error, Kind, Result};
use crate::fingerprint::{self, Difference, FileCache, Inputs, Recipe, RelPath};
use crate::names::Fingerprint;
use crate::pg::Session;
use crate::pg::session::OpenError;
use crate::registry::event::Costs;
use crate::registry::{Registry, TemplateRow};
use crate::remote::Shown;
use crate::retention::evidence::{Evidence, Outlook};
use crate::template::waypoint::{self, Stop, Waypoint};
use crate::template::{self, FullBuild, Looking, NoBase, Plan, Unusable};

/// Result of [`Stencil::explain`].
#[derive(Clone, Debug)]
pub(crate) struct Explanation {
    /// Name of the definition.
    pub(crate) definition: String,
    /// Inputs read from files and variables.
    pub(crate) inputs: Inputs,
    /// Files that the globs match but a .gitignore hides.
    pub(crate) ignored: Vec<String>,
    /// Findings on the server; `None` if it is not running.
    pub(crate) server: Option<OnServer>,
}

/// Part of an explanation that needs the server.
#[derive(Clone, Debug)]
pub(crate) struct OnServer {
    /// Everything that decides the fingerprint.
    pub(crate) recipe: Recipe,
    /// Action of a command that runs now.
    pub(crate) now: Now,
    /// Reason why the ready template of these inputs is not used, if there is one.
    pub(crate) unusable: Option<Unusable>,
    /// Durations measured so far.
    pub(crate) costs: Costs,
    /// The nearest template, or the requested one.
    pub(crate) nearest: Option<Nearest>,
    /// What the remote store has, if there is one and no ready template.
    pub(crate) remote: Option<Shown>,
}

/// Action of a command that needs the template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Now {
    /// Uses the existing template.
    Hit {
        /// Whether a full build will replace it.
        provisional: bool,
        /// Reason why the last attempt at that failed.
        failure: Option<String>,
        /// What is known about its rebuild, if it was built incrementally.
        outlook: Option<Outlook>,
        /// Files that are equal by their normal form, and differ in bytes from those that it was built with.
        cosmetic: Vec<RelPath>,
    },
    /// Waits for another process that builds it.
    Wait {
        /// Process that builds.
        builder: String,
        /// Whether that process builds another template, and the two builds must not run concurrently.
        serial: bool,
        /// Time since the build started.
        elapsed: Duration,
        /// The last lines that the build printed.
        tail: String,
    },
    /// Runs an incremental build from an older template.
    Extend {
        /// The base.
        base: Fingerprint,
        /// The new migrations, in order.
        added: Vec<RelPath>,
        /// Files of `rerun_inputs` that differ.
        rerun_inputs: Vec<String>,
        /// New companions.
        companions: Vec<String>,
    },
    /// Runs a full build.
    Build {
        /// Reason why no incremental build is possible.
        why: String,
        /// Hint on how to change that, if possible.
        hint: Option<String>,
        /// The waypoint that it builds first, if it runs in two steps.
        waypoint: Option<Box<Waypoint>>,
        /// Reason why it builds none, if that is not one of the rules.
        no_waypoints: Option<NoWaypoints>,
    },
}

/// Reason why no waypoint is built.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NoWaypoints {
    /// One failed; none is built until the commands change.
    Failed(String),
    /// The tree cannot be copied.
    Tree(String),
}

impl NoWaypoints {
    /// Returns the reason.
    pub(crate) fn why(&self) -> &str {
        match self {
            NoWaypoints::Failed(why) | NoWaypoints::Tree(why) => why,
        }
    }
}

impl Now {
    /// A full build in one step.
    fn build(why: String, hint: Option<String>) -> Self {
        Now::Build { why, hint, waypoint: None, no_waypoints: None }
    }
}

/// Another template of the same definition.
#[derive(Clone, Debug)]
pub(crate) struct Nearest {
    /// Its fingerprint.
    pub(crate) fingerprint: Fingerprint,
    /// RFC 3339, UTC.
    pub(crate) last_used_at: String,
    /// Difference from it to the current inputs.
    pub(crate) difference: Difference,
}

/// Explains the part that needs no server. Blocks on the file system.
///
/// # Errors
/// As [`Inputs::read`].
pub(crate) fn explain_files(
    config: &Config,
    definition: &Definition,
    variable: &Variable,
    cache: &FileCache,
) -> Result<Explanation> {
    Ok(Explanation {
        definition: definition.name.clone(),
        inputs: Inputs::read(cache, &config.root, definition, &**variable)?,
        ignored: fingerprint::ignored(&config.root, definition)?,
        server: None,
    })
}

impl Stencil {
    /// Returns the reason why the tree cannot be copied, if there is one.
    async fn why_no_copy(&self) -> Result<Option<String>> {
        if self.copies.is_none() {
            return Ok(Some("there is no directory for a copy of the tree".to_owned()));
        }
        let root = self.config.root.clone();
        let measured = tokio::task::spawn_blocking(move || fingerprint::measure_tree(&root))
            .await
            .map_err(|e| Error::unjoined("measuring the tree", e))?;
        Ok(measured.err().map(|error| error.message().to_owned()))
    }

    /// Explains the template of the current inputs, against the nearest one or the one whose fingerprint begins with
    /// `against`. Writes nothing and does not wait; the result may be outdated a moment later.
    ///
    /// # Errors
    /// As [`Inputs::read`]; [`Kind::NotFound`] or [`Kind::Usage`] if `against` names no template, or
    /// several; the driver's.
    pub(crate) async fn explain(
        &self,
        definition: Option<&str>,
        against: Option<&str>,
        deadline: &Deadline,
    ) -> Result<Explanation> {
        let definition = self.definition(definition)?;
        let mut explanation = match &self.filler {
            Some(filler) => Explanation {
                definition: definition.name.clone(),
                inputs: Inputs::by_key(filler.key(), definition),
                ignored: Vec::new(),
                server: None,
            },
            None => {
                let (config, found, variable) =
                    (Arc::clone(&self.config), definition.clone(), Arc::clone(&self.variable));
                let cache = Arc::clone(&self.file_cache);
                tokio::task::spawn_blocking(move || explain_files(&config, &found, &variable, &cache))
                    .await
                    .map_err(|e| Error::unjoined("reading the inputs", e))??
            }
        };
        let registry = &self.config.server.registry;
        let inputs = explanation.inputs.clone();
        explanation.server =
            Some(match Registry::open_existing(&self.endpoint, registry, deadline).await? {
                Some(mut registry) => {
                    let traits = registry.facts().traits.clone();
                    let recipe = inputs.with_server(traits);
                    let found = self.look(&mut registry, definition, recipe, against, deadline).await;
                    registry.close().await;
                    found?
                }
                None => {
                    if let Some(prefix) = against {
                        return Err(unknown(prefix));
                    }
                    let recipe = inputs.with_server(self.traits(deadline).await?);
                    let context = self.context(definition, deadline, &|_| {}, false);
                    OnServer {
                        remote: template::look_into_store(&context, &recipe, None).await,
                        recipe,
                        now: Now::build(NOTHING_YET.into(), None),
                        unusable: None,
                        costs: Costs::default(),
                        nearest: None,
                    }
                }
            });
        Ok(explanation)
    }

    /// Returns the traits of the server, without a session in the registry, which may not exist yet.
    pub(super) async fn traits(&self, deadline: &Deadline) -> Result<fingerprint::ServerTraits> {
        let session = self.maintenance(deadline).await?;
        let traits = session.facts().traits.clone();
        session.close().await;
        Ok(traits)
    }

    /// Opens a session in a database that is not the registry.
    pub(super) async fn maintenance(&self, deadline: &Deadline) -> Result<Session> {
        let registry = &self.config.server.registry;
        for database in self.endpoint.maintenance().iter().filter(|d| **d != **registry) {
            match Session::open(&self.endpoint, database, deadline).await {
                Ok(session) => return Ok(session),
                Err(OpenError::Missing) => {}
                Err(OpenError::Other(error)) => return Err(error),
            }
        }
        Err(self.endpoint.no_database())
    }

    async fn look(
        &self,
        registry: &mut Registry,
        definition: &Definition,
        recipe: Recipe,
        against: Option<&str>,
        deadline: &Deadline,
    ) -> Result<OnServer> {
        let context = self.context(definition, deadline, &|_| {}, false);
        let (project, name) = (context.project, &definition.name);
        let ready = registry.ready_templates(project, name, &recipe).await?;
        let costs = registry.costs(project, name).await?;
        let mut looking = Looking::at(ready);
        let plan = template::plan(&mut looking, registry, &context, &recipe).await?;
        let (ready, unusable) = looking.into_seen();
        let own = recipe.fingerprint();
        let same = ready.iter().find(|(row, _)| row.fingerprint == own);
        let cosmetic = same.map_or_else(Vec::new, |(_, old)| {
            Difference::between(old, &recipe).cosmetic().cloned().collect()
        });
        let others: Vec<(TemplateRow, Recipe)> =
            ready.into_iter().filter(|(row, _)| row.fingerprint != own).collect();
        let mut nearest = match (against, &plan) {
            (Some(prefix), _) => Some(by_prefix(&others, &recipe, prefix)?),
            (None, Plan::Hit(_)) => None,
            // What a base lacks is more informative than what the nearest one lacks.
            (None, Plan::Extend((), base)) => {
                Some(by_prefix(&others, &recipe, &base.extends.base.to_string())?)
            }
            (None, _) => others
                .iter()
                .map(|(row, old)| (row, Difference::between(old, &recipe)))
                .min_by_key(|(row, d)| (d.distance(), std::cmp::Reverse(row.last_used_at.clone()))),
        };
        if let Some((row, difference)) = &mut nearest {
            self.find_line_ends(&others, row, difference).await?;
        }
        let now = match plan {
            Plan::Hit(row) => Now::Hit {
                provisional: row.provisional
                    || row.is_incremental()
                        && definition.rebuild.makes_provisional()
                        && !(row.accepted_at.is_some() && definition.rebuild == Rebuild::Auto),
                outlook: match row.is_incremental() {
                    true => Evidence::read(registry, Some((project, name)))
                        .await?
                        .outlook(&row, Some(definition.rebuild)),
                    false => None,
                },
                failure: row.rebuild_failure,
                cosmetic,
            },
            Plan::Wait(row) => Now::Wait {
                builder: row.builder.0.describe(),
                serial: false,
                elapsed: row.age_s.duration(),
                tail: row.log_tail,
            },
            Plan::WaitForTurn(row) => Now::Wait {
                builder: template::serial_build(row.as_deref()),
                serial: true,
                elapsed: row.as_ref().map(|row| row.age_s.duration()).unwrap_or_default(),
                tail: row.map_or_else(String::new, |row| row.log_tail),
            },
            Plan::Extend((), base) => Now::Extend {
                base: base.extends.base,
                added: base.extends.added,
                rerun_inputs: base.rerun_inputs,
                companions: base.companions,
            },
            Plan::Build((), FullBuild::NoBase) => {
                let first = waypoint::choose(&self.config.root, definition, &recipe, &others, &costs).await?;
                let off = registry.why_no_waypoints(project, definition).await?;
                let mut now = why_none_fits(definition, &recipe, &others, nearest.as_ref());
                if let Now::Build { waypoint, no_waypoints, .. } = &mut now {
                    let copies = first.as_ref().is_some_and(|first| first.stop == Stop::Copy);
                    *no_waypoints = match off.filter(|_| definition.waypoints != Waypoints::Never) {
                        Some(why) => Some(NoWaypoints::Failed(why)),
                        None if copies => self.why_no_copy().await?.map(NoWaypoints::Tree),
                        None => None,
                    };
                    *waypoint = first.filter(|_| no_waypoints.is_none()).map(Box::new);
                }
                now
            }
            Plan::Build((), FullBuild::Never(NoBase::Never)) => {
                why_none_fits(definition, &recipe, &others, nearest.as_ref())
            }
            Plan::Build((), why) => Now::build(why.to_string(), None),
            Plan::Changed(never) => match never {},
        };
        let remote = match &now {
            Now::Hit { .. } | Now::Wait { .. } => None,
            Now::Extend { .. } => {
                template::look_into_store(&context, &recipe, costs.extension.or(costs.full)).await
            }
            Now::Build { .. } => template::look_into_store(&context, &recipe, costs.full).await,
        };
        Ok(OnServer {
            remote,
            now,
            unusable,
            costs,
            nearest: nearest.map(|(row, difference)| Nearest {
                fingerprint: row.fingerprint,
                last_used_at: row.last_used_at.clone(),
                difference,
            }),
            recipe,
        })
    }

    /// Marks the files that differ from a template only in their line ends.
    async fn find_line_ends(
        &self,
        others: &[(TemplateRow, Recipe)],
        row: &TemplateRow,
        difference: &mut Difference,
    ) -> Result<()> {
        let Some((_, old)) = others.iter().find(|(other, _)| other.id == row.id) else {
            return Ok(());
        };
        let (old, root) = (old.clone(), self.config.root.clone());
        let mut found = std::mem::take(difference);
        let looking = tokio::task::spawn_blocking(move || {
            found.find_line_ends(&old, &root);
            found
        });
        *difference =
            looking.await.map_err(|e| Error::internal("reading the inputs panicked").caused_by(e))?;
        Ok(())
    }
}

/// Returns the reason for a full build: why the nearest template cannot be extended.
fn why_none_fits(
    definition: &Definition,
    recipe: &Recipe,
    others: &[(TemplateRow, Recipe)],
    nearest: Option<&(&TemplateRow, Difference)>,
) -> Now {
    let close = nearest.and_then(|(row, _)| others.iter().find(|(other, _)| other.id == row.id));
    let Some(base) = close else {
        return Now::build(NOTHING_YET.to_owned(), None);
    };
    let short = base.0.fingerprint.short();
    let Err(why) = template::added_to(base, recipe, definition) else {
        return Now::build(format!("template {short} cannot be copied"), None);
    };
    let mut text = format!("template {short}: {why}");
    let changed = match &why {
        NoBase::Differs(obstacle) => obstacle.changed(),
        _ => None,
    };
    let of_line_ends =
        nearest.and_then(|(_, difference)| difference.line_ends().find(|path| Some(*path) == changed));
    if of_line_ends.is_some() {
        text += " (line endings only)";
    }
    Now::build(text, why.hint(&definition.name))
}

const NOTHING_YET: &str = "there is no template of this definition yet";

fn unknown(prefix: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("no other template of this definition has a fingerprint that begins with `{prefix}`"),
    )
    .hint("list the templates: `pgstencil list`")
}

fn by_prefix<'a>(
    others: &'a [(TemplateRow, Recipe)],
    recipe: &Recipe,
    prefix: &str,
) -> Result<(&'a TemplateRow, Difference)> {
    let prefix = prefix.to_ascii_lowercase();
    let found: Vec<_> =
        others.iter().filter(|(row, _)| row.fingerprint.to_string().starts_with(&prefix)).collect();
    match found.as_slice() {
        [] => Err(unknown(&prefix)),
        [(row, old)] => Ok((row, Difference::between(old, recipe))),
        several => Err(several
            .iter()
            .fold(Error::usage(format!("several fingerprints begin with `{prefix}`")), |error, (row, _)| {
                error.detail(row.fingerprint.to_string())
            })),
    }
}
