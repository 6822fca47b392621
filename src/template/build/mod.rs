//! Builds: databases under private names, filled, inspected, and sealed or discarded.
//!
//! ```text
//! begin ─→ Registered ─→ create ─→ Building ─→ fill ─→ inspect ─→ Built ─→ seal ─→ Template
//!                                                                   └─→ discard
//! ```
//!
//! The databases are empty, or copies of an older template as a base.
//! The order must not change: intent, CREATE, mark, command, checks, analyze, inputs again, close the door,
//! seal. A crash before the seal's COMMIT leaves a `building` row whose lock is free and databases under
//! private names: never a template, and found by the next cleanup.

mod create;
mod in_place;
mod inspect;
mod seal;
mod vacate;

use std::time::Instant;

pub(super) use self::create::copy_base;
use self::create::create_empty;
pub(crate) use self::in_place::build_in_place;
use self::inspect::{Inspected, inspect};
use super::compare::Subject;
use super::extend::Base;
use super::from::Start;
use super::permit::{BuildPermit, Permit, RebuildPermit};
use super::source::overtaken::{Overtaken, Watch};
use super::source::progress::Progress;
use super::{Template, Unsealed, source, unsealed};
use crate::context::Context;
use crate::database::drop;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::fingerprint::migrations;
use crate::names;
use crate::pg::catalog;
use crate::registry::database::{NewDatabase, Owner};
use crate::registry::template::NewExtension;
use crate::registry::{DatabaseRow, Happened, Occurrence, Registry, TemplateState};
use crate::variables::{NamedDatabase, Outcome};

/// Result of a build that did not fail.
pub(super) enum Ended {
    /// It was sealed. The template is locked against being dropped.
    Sealed(Box<Template>),
    /// The inputs changed while the command ran. The result is dropped.
    Overtaken(Box<Overtaken>),
    /// The new migrations changed nothing, so the result is no template. It is locked against being dropped,
    /// and can be copied.
    Unsealed(Box<Template>, Unsealed),
}

/// Builds the template, on a copy of the base if there is one. The base stays locked.
pub(super) async fn build(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
    base: Option<&Base>,
) -> Result<Ended> {
    let definition = &context.definition.name;
    let built = match complete(registry, context, permit, base).await? {
        Completed::Built(built) => built,
        Completed::Overtaken(overtaken) => return Ok(Ended::Overtaken(overtaken)),
    };
    let (took, unsealed) = (built.started.elapsed(), built.unsealed.clone());
    let template = built.seal(registry, context).await?;
    let fingerprint = permit.recipe().fingerprint();
    let happened = match (&unsealed, base) {
        (Some(_), _) => Happened::Unsealed,
        (None, Some(_)) => Happened::Extended,
        (None, None) => Happened::Miss,
    };
    if unsealed.is_none() {
        context.tell(Event::Sealed {
            definition,
            fingerprint: &fingerprint.short(),
            extends: base.map(Base::shown),
            took,
        });
    }
    let sealed = Occurrence {
        files: base.map(|base| base.extends.added.len()),
        ..context.occurrence(&fingerprint, happened, took)
    };
    registry.note(&sealed).await?;
    Ok(match unsealed {
        None => Ended::Sealed(Box::new(template)),
        Some(unsealed) => Ended::Unsealed(Box::new(template), unsealed),
    })
}

/// Runs a full build in addition to the template of the same inputs.
pub(super) async fn rebuild<'a>(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &'a RebuildPermit,
) -> Result<Completed<'a, RebuildPermit>> {
    complete(registry, context, permit, None).await
}

/// Result of a build up to its seal, if it did not fail.
pub(super) enum Completed<'a, P> {
    /// A build to be sealed or discarded.
    Built(Box<Built<'a, P>>),
    /// The inputs changed while the command ran. The result is dropped.
    Overtaken(Box<Overtaken>),
}

/// Runs a build up to its seal. After an error, its databases are dropped, or left to the user.
async fn complete<'a, P: Permit>(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &'a P,
    base: Option<&'a Base>,
) -> Result<Completed<'a, P>> {
    let registered = Registered::begin(registry, context, permit, base).await?;
    let (id, started) = (registered.id, registered.started);
    let done = async {
        let building = registered.create(registry, context).await?;
        building.fill(registry, context).await?;
        building.inspect(registry, context).await
    };
    let error = match done.await {
        Ok(Completed::Overtaken(overtaken)) => {
            discard(registry, id, "files changed while it was built").await?;
            return Ok(Completed::Overtaken(overtaken));
        }
        Ok(built) => return Ok(built),
        Err(error) => error,
    };
    let happened = match error.kind() {
        Kind::Build => Some(Happened::Failed),
        Kind::Timeout => Some(Happened::TimedOut),
        _ => None,
    };
    if let Some(happened) = happened {
        let fingerprint = permit.recipe().fingerprint();
        // For `stats`. The error of the build has priority.
        let _ = registry.note(&context.occurrence(&fingerprint, happened, started.elapsed())).await;
    }
    Err(give_up(registry, context, id, error).await)
}

/// A build whose intent is in the registry: it has a row, but no database rows yet.
struct Registered<'a, P> {
    permit: &'a P,
    base: Option<&'a Base>,
    id: i64,
    started: Instant,
}

/// A build whose databases exist, marked and open, under private names.
struct Building<'a, P> {
    permit: &'a P,
    base: Option<&'a Base>,
    id: i64,
    started: Instant,
    rows: Vec<DatabaseRow>,
    /// State of the databases before they were filled.
    start: Start,
    /// The inputs at that time.
    watch: Watch,
}

/// A build whose databases are filled and fit for a template, over unchanged inputs: to be sealed or discarded.
pub(super) struct Built<'a, P> {
    permit: &'a P,
    base: Option<&'a Base>,
    id: i64,
    pub(super) started: Instant,
    rows: Vec<DatabaseRow>,
    inspected: Inspected,
    /// Set if the command did nothing for the new migrations.
    pub(super) unsealed: Option<Unsealed>,
}

impl<'a, P: Permit> Registered<'a, P> {
    async fn begin(
        registry: &mut Registry,
        context: &Context<'_>,
        permit: &'a P,
        base: Option<&'a Base>,
    ) -> Result<Self> {
        let started = Instant::now();
        let definition = context.definition;
        let recipe = permit.recipe();
        let fingerprint = recipe.fingerprint();
        // A `building` row under a free lock is the remains of a dead builder.
        let dead = registry
            .find_template(context.project, &definition.name, &fingerprint, TemplateState::Building)
            .await?;
        if let Some(dead) = dead {
            registry.break_template(dead.id, "its builder is gone", false).await?;
        }
        let costs = registry.costs(context.project, &definition.name).await?;
        context.endpoint.learn_traces(registry.session()).await;
        context.tell(Event::Building {
            definition: &definition.name,
            fingerprint: &fingerprint.short(),
            extends: base.map(Base::shown),
            expected: match base {
                None => costs.full,
                Some(_) => costs.extension,
            },
        });
        let extension = base.map(|base| NewExtension {
            base: base.template.id,
            added: &base.extends.added,
            provisional: base.provisional,
        });
        let id = registry
            .insert_template(
                context.project,
                &definition.name,
                recipe,
                context.holder,
                definition.extend,
                extension.as_ref(),
            )
            .await?;
        Ok(Registered { permit, base, id, started })
    }

    /// Creates the databases, and reads the inputs at the same time.
    async fn create(self, registry: &mut Registry, context: &Context<'_>) -> Result<Building<'a, P>> {
        let Registered { permit, base, id, started } = self;
        let definition = context.definition;
        let fingerprint = permit.recipe().fingerprint();
        let new: Vec<NewDatabase> = definition
            .databases
            .iter()
            .map(|alias| NewDatabase {
                alias: alias.to_string(),
                private_name: names::private_name(),
                name: names::template_name(context.project, &definition.name, alias, &fingerprint),
            })
            .collect();
        let mut rows = registry.insert_databases(&Owner::Template(id), &new).await?;
        let creating = async {
            let Some(base) = base else {
                return create_empty(registry, context, &mut rows).await;
            };
            let start = Start { source: base.template.source.as_deref().cloned(), objects: 0 };
            let words = format!("pgstencil extends {} of {} here", definition.name, context.project);
            copy_base(registry, context, id, &mut rows, &base.template, &words).await?;
            Ok(start)
        };
        let (created, watch) = tokio::join!(creating, Watch::begin(context));
        let start = created?;
        Ok(Building { permit, base, id, started, rows, start, watch: watch? })
    }
}

impl<'a, P: Permit> Building<'a, P> {
    async fn fill(&self, registry: &mut Registry, context: &Context<'_>) -> Result<()> {
        let recipe = self.permit.recipe();
        let (outcome, progress) = match self.base {
            None => (Outcome::Miss, Progress::of(recipe)),
            Some(base) => (Outcome::Extended, Progress::new(&migrations(&base.extends.added))),
        };
        let set = private_set(&self.rows);
        source::fill(registry, context, &set, outcome, Some(self.id), progress).await
    }

    /// Inspects the current databases, and reads the inputs again.
    async fn inspect(mut self, registry: &mut Registry, context: &Context<'_>) -> Result<Completed<'a, P>> {
        let inspected = inspect(registry, context, &mut self.rows, &self.start).await?;
        let recipe = self.permit.recipe();
        if let Some(overtaken) = self.watch.end(context, recipe).await? {
            return Ok(Completed::Overtaken(Box::new(overtaken)));
        }
        let Building { permit, base, id, started, rows, .. } = self;
        let mut built = Built { permit, base, id, started, rows, inspected, unsealed: None };
        let (subject, base) = (built.subject(), base.map(|base| &base.template));
        built.unsealed = unsealed::look(registry, context, &subject, recipe, base).await?;
        Ok(Completed::Built(Box::new(built)))
    }
}

impl Built<'_, BuildPermit> {
    /// Makes the build a template; or, if it is not to be sealed, a result that can be copied for a while.
    async fn seal(self, registry: &mut Registry, context: &Context<'_>) -> Result<Template> {
        let id = self.id;
        match seal::seal(registry, context, self, false).await {
            Ok(template) => Ok(template),
            Err(error) => Err(give_up(registry, context, id, error).await),
        }
    }
}

impl Built<'_, RebuildPermit> {
    /// Makes the build a template that replaces the existing one of the same inputs.
    pub(super) async fn replace(self, registry: &mut Registry, context: &Context<'_>) -> Result<Template> {
        let id = self.id;
        match seal::seal(registry, context, self, true).await {
            Ok(template) => Ok(template),
            Err(error) => Err(give_up(registry, context, id, error).await),
        }
    }
}

impl<P> Built<'_, P> {
    /// Returns the result of the build for a comparison.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            id: self.id,
            rows: &self.rows,
            replays: &self.inspected.replays,
            shapes: &self.inspected.shapes,
        }
    }

    /// Drops the databases of the build.
    pub(super) async fn discard(self, registry: &mut Registry, reason: &str) -> Result<()> {
        discard(registry, self.id, reason).await?;
        Ok(())
    }

    /// Drops the databases, or leaves them to the user, and says so in the error.
    pub(super) async fn give_up(self, registry: &mut Registry, context: &Context<'_>, error: Error) -> Error {
        give_up(registry, context, self.id, error).await
    }
}

/// Start of the line that names a database which a failed build left to the user.
const LEFT: &str = "left for inspection";

/// Drops the databases of a failed build, or leaves them to the user, and says so in the error.
async fn give_up(registry: &mut Registry, context: &Context<'_>, id: i64, error: Error) -> Error {
    let of_build = matches!(error.kind(), Kind::Build | Kind::Timeout);
    if of_build && context.keep_failed {
        return match keep(registry, id, error.message()).await {
            Ok(names) => {
                names.iter().fold(error, |e, name| e.detail(format!("{LEFT}, for a day: database `{name}`")))
            }
            Err(_) => error,
        };
    }
    match discard(registry, id, error.message()).await {
        Ok(stay) if of_build && stay.is_empty() => {
            error.detail("the half-built database was dropped; nothing was registered")
        }
        Ok(stay) => stay.into_iter().fold(error, Error::detail),
        // A database that cannot be dropped now stays in the registry, and the cleanup finds it.
        Err(_) => error,
    }
}

/// Drops the databases of a build. Returns the reasons why some of them remain.
async fn discard(registry: &mut Registry, id: i64, reason: &str) -> Result<Vec<String>> {
    registry.break_template(id, reason, false).await?;
    let stay = drop::drop_databases_of(registry, &Owner::Template(id)).await?;
    registry.forget_template(id).await?;
    Ok(stay)
}

/// Leaves the databases of a build to the user, for a day. Returns their names.
async fn keep(registry: &mut Registry, id: i64, reason: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for row in registry.databases_of(&Owner::Template(id)).await? {
        let found = catalog::database(registry.session(), &row.private_name).await?;
        let Some(found) = found.filter(|d| row.is(d)) else {
            continue;
        };
        if !found.open {
            create::open(registry, &found.name).await?;
        }
        names.push(found.name);
    }
    let reason = match names.is_empty() {
        true => reason.to_owned(),
        false => format!("{reason}; left for inspection: {}", names.join(", ")),
    };
    registry.break_template(id, &reason, true).await?;
    Ok(names)
}

fn private_set(rows: &[DatabaseRow]) -> Vec<NamedDatabase> {
    rows.iter().map(|r| NamedDatabase { alias: r.alias.clone(), name: r.private_name.clone() }).collect()
}
