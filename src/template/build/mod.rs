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
mod restore;
mod seal;
mod vacate;

use std::path::Path;
use std::time::{Duration, Instant};

pub(super) use self::create::copy_base;
pub(super) use self::create::create_empty;
pub(crate) use self::in_place::build_in_place;
use self::inspect::{Inspected, inspect};
pub(super) use self::restore::{dump, one as restore_one, run as tool_run};
use super::compare::{self, Subject};
use super::extend::Base;
use super::from::Start;
use super::permit::{BuildPermit, Permit, RebuildPermit};
use super::source::overtaken::{Overtaken, Watch};
use super::source::progress::Progress;
use super::waypoint::{Stop, Waypoint};
use super::{Extends, Template, Unsealed, source, unsealed};
use crate::config::Rebuild;
use crate::context::Context;
use crate::database::drop;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::Event;
use crate::fingerprint::{Recipe, TreeCopy, migrations};
use crate::names;
use crate::pg::catalog::{self, PulledFrom};
use crate::registry::database::{NewDatabase, Owner};
use crate::registry::template::{NewExtension, NewPulled, Step};
use crate::registry::{DatabaseRow, Happened, Occurrence, Registry, TemplateState};
use crate::remote::Pulled;
use crate::variables::{NamedDatabase, Outcome};

/// Way in which the databases of a build are filled.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// The build command runs on empty databases.
    Full,
    /// The build command runs on copies of a base.
    On {
        base: &'a Base,
        /// What the build command is told.
        outcome: Outcome,
    },
    /// The first step of a full build in two: a command runs on empty databases, for a part of the migrations.
    First {
        /// `build_until`, with the files of later migrations in place, or the build command.
        command: &'a str,
        /// Root of the copy of the tree in which it runs.
        root: Option<&'a Path>,
        /// The inputs that the files have.
        whole: &'a Recipe,
    },
    /// The dumps of an entry of the remote store are restored.
    Pulled {
        entry: &'a Pulled,
        /// The inputs that the files have.
        whole: &'a Recipe,
    },
}

impl<'a> Way<'a> {
    fn base(self) -> Option<&'a Base> {
        match self {
            Way::On { base, .. } => Some(base),
            Way::Full | Way::First { .. } | Way::Pulled { .. } => None,
        }
    }

    /// Returns whether a full build is to replace the result.
    fn is_provisional(self, rebuild: Rebuild) -> bool {
        match self {
            Way::Full => false,
            Way::On { base, .. } => base.provisional,
            Way::First { .. } => rebuild.makes_provisional(),
            Way::Pulled { entry, .. } => {
                entry.provisional && entry.extends.is_some() && rebuild.makes_provisional()
            }
        }
    }

    /// Returns the origin of an incremental build.
    fn extends(self) -> Option<Extends> {
        match self {
            Way::On { base, .. } => Some(base.extends.clone()),
            Way::Pulled { entry, .. } => {
                let (base, added) = entry.extends.clone()?;
                Some(Extends { base, added })
            }
            Way::Full | Way::First { .. } => None,
        }
    }
}

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
    let way = base.map_or(Way::Full, |base| Way::On { base, outcome: Outcome::Extended });
    let built = match complete(registry, context, permit, way).await? {
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

/// Restores an entry of the remote store, and seals it after the checks of a build. `whole`: the inputs that the files
/// have; a base has fewer.
pub(super) async fn pull(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
    entry: &Pulled,
    whole: &Recipe,
) -> Result<Ended> {
    let started = Instant::now();
    let mut built = match complete(registry, context, permit, Way::Pulled { entry, whole }).await? {
        Completed::Built(built) => built,
        Completed::Overtaken(overtaken) => return Ok(Ended::Overtaken(overtaken)),
    };
    // To have it again takes a build, if the store loses it.
    built.took = Some(entry.build_time);
    let template = built.seal(registry, context).await?;
    let fingerprint = permit.recipe().fingerprint();
    registry.note(&context.occurrence(&fingerprint, Happened::Pulled, started.elapsed())).await?;
    Ok(Ended::Sealed(Box::new(template)))
}

/// Result of a full build in two steps; the first step builds a waypoint.
pub(super) enum InTwo<'a> {
    /// Both steps succeeded, or the inputs changed.
    Ended(Ended),
    /// The first step failed, or its result cannot be trusted; all is dropped.
    Failed(Failed),
    /// The second step failed. The first one is kept until it is known whether a build in one step fails, too.
    Second(Box<Built<'a, BuildPermit>>, Error),
}

/// Reason to discard what was built in a copy of the tree.
const READS_ORIGINAL: &str = "in a copy of the tree, `build` ran migrations that the copy lacks";

/// Reason why a full build in two steps is dropped.
#[derive(Default)]
pub(super) struct Failed {
    pub(super) why: String,
    /// Facts about it.
    pub(super) details: Vec<String>,
}

impl Failed {
    fn by(error: &Error) -> Self {
        Failed { why: error.message().to_owned(), details: error.details().to_vec() }
    }
}

/// The steps of a full build in two.
pub(super) struct Steps<'a> {
    /// The right to build the waypoint.
    pub(super) first: &'a BuildPermit,
    /// The right to build the template.
    pub(super) permit: &'a BuildPermit,
    pub(super) waypoint: &'a Waypoint,
    /// Root of the copy of the tree in which the first step runs, if it runs in one.
    pub(super) root: Option<&'a Path>,
}

/// Builds a waypoint and, on a copy of it, the template. Nothing is sealed before the second step has shown, by a
/// change, that the first one ended where it should: then the waypoint first, since it is complete without the other.
pub(super) async fn build_in_two<'a>(
    registry: &mut Registry,
    context: &Context<'_>,
    steps: &Steps<'a>,
    copy: Option<TreeCopy>,
) -> Result<InTwo<'a>> {
    let Steps { first, permit, waypoint, root } = *steps;
    let started = Instant::now();
    let way = Way::First { command: &waypoint.command, root, whole: permit.recipe() };
    let built = complete(registry, context, first, way).await;
    let checked = remove(context, copy, &waypoint.prefix.recipe).await;
    let mut below = match built {
        Ok(Completed::Built(built)) => built,
        Ok(Completed::Overtaken(overtaken)) => return Ok(InTwo::Ended(Ended::Overtaken(overtaken))),
        Err(error) if is_of_command(&error, context) => {
            return Ok(InTwo::Failed(Failed::by(&error)));
        }
        Err(error) => return Err(error),
    };
    if let Some(unsealed) = below.unsealed.take() {
        below.discard(registry, "it changed nothing").await?;
        return Ok(InTwo::Failed(Failed { why: unsealed.message(), ..Failed::default() }));
    }
    if let Err(error) = checked {
        below.discard(registry, "the build command wrote to its inputs").await?;
        return Ok(InTwo::Failed(Failed::by(&error)));
    }
    let forbidden = waypoint.forbidden();
    if !forbidden.is_empty()
        && let Some(table) = compare::recorded_in(context, &below.rows, &forbidden).await?
    {
        let why = READS_ORIGINAL.to_owned();
        below.discard(registry, &why).await?;
        return Ok(InTwo::Failed(Failed {
            why,
            details: vec![format!("{table} has a row with the name of a later migration")],
        }));
    }
    below.took = Some(started.elapsed());
    let template = match seal::hold(registry, context, &below).await {
        Ok(template) => template,
        Err(error) => return Err(below.give_up(registry, context, error).await),
    };
    let base = Base::waypoint(template, waypoint, context.definition);
    let way = Way::On { base: &base, outcome: Outcome::Miss };
    let built = match complete(registry, context, permit, way).await {
        Ok(Completed::Built(built)) => built,
        Ok(Completed::Overtaken(overtaken)) => {
            below.discard(registry, "files changed while it was built").await?;
            return Ok(InTwo::Ended(Ended::Overtaken(overtaken)));
        }
        Err(error) if is_of_command(&error, context) => return Ok(InTwo::Second(below, error)),
        Err(error) => {
            // A cleanup drops it, too; the error of the build counts.
            let _ = below.discard(registry, "the build on it failed").await;
            return Err(error);
        }
    };
    if built.unsealed.is_some() {
        let wrong = "the build command changed nothing after it";
        built.discard(registry, wrong).await?;
        below.discard(registry, wrong).await?;
        let why = match &waypoint.stop {
            Stop::At(version) => format!("`build_until` did not stop at version {version}"),
            Stop::Copy => READS_ORIGINAL.to_owned(),
        };
        return Ok(InTwo::Failed(Failed { why, details: vec![wrong.to_owned()] }));
    }
    let kept = match below.keep(registry, context).await {
        Ok(kept) => kept,
        Err(error) => {
            built.discard(registry, "the first step of its build could not be sealed").await?;
            return Err(error);
        }
    };
    let template = built.seal(registry, context).await;
    kept.let_go(registry).await?;
    let template = template?;
    let (fingerprint, took) = (permit.recipe().fingerprint(), started.elapsed());
    context.tell(Event::Sealed {
        definition: &context.definition.name,
        fingerprint: &fingerprint.short(),
        extends: Some(base.shown()),
        took,
    });
    registry.note(&context.occurrence(&fingerprint, Happened::Miss, took)).await?;
    Ok(InTwo::Ended(Ended::Sealed(Box::new(template))))
}

/// Removes the copy of the tree in which the first step ran. Fails if that step wrote to its inputs.
async fn remove(context: &Context<'_>, copy: Option<TreeCopy>, prefix: &Recipe) -> Result<()> {
    let Some(copy) = copy else {
        return Ok(());
    };
    let (definition, prefix) = (context.definition.clone(), prefix.clone());
    let removed = tokio::task::spawn_blocking(move || copy.check(&definition, &prefix));
    removed.await.map_err(|e| Error::unjoined("reading the copy of the tree", e))?
}

/// Returns whether the build command is to blame, and not the caller's limit or the disk: then another way to build may
/// succeed.
fn is_of_command(error: &Error, context: &Context<'_>) -> bool {
    matches!(error.kind(), Kind::Build | Kind::Timeout)
        && !error.has_fault(Fault::DiskFull)
        && context.deadline.check("").is_ok()
}

/// Runs a full build in addition to the template of the same inputs.
pub(super) async fn rebuild<'a>(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &'a RebuildPermit,
) -> Result<Completed<'a, RebuildPermit>> {
    complete(registry, context, permit, Way::Full).await
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
    way: Way<'a>,
) -> Result<Completed<'a, P>> {
    let registered = Registered::begin(registry, context, permit, way).await?;
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
    if matches!(way, Way::Pulled { .. }) {
        // A cleanup drops it, too; a build follows.
        let _ = discard(registry, id, error.message()).await;
        return Err(error);
    }
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
    way: Way<'a>,
    id: i64,
    started: Instant,
}

/// A build whose databases exist, marked and open, under private names.
struct Building<'a, P> {
    permit: &'a P,
    way: Way<'a>,
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
    way: Way<'a>,
    id: i64,
    pub(super) started: Instant,
    /// Duration of the build, if it ended before the seal begins.
    took: Option<Duration>,
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
        way: Way<'a>,
    ) -> Result<Self> {
        let base = way.base();
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
        if !matches!(way, Way::Pulled { .. }) {
            context.tell(Event::Building {
                definition: &definition.name,
                fingerprint: &fingerprint.short(),
                extends: base.map(Base::shown),
                expected: match base {
                    None => costs.full,
                    Some(_) => costs.extension,
                },
            });
        }
        let provisional = way.is_provisional(definition.rebuild);
        let step = match way {
            Way::Full => None,
            Way::On { base, .. } => Some(Step::Extension(NewExtension {
                base: base.template.id,
                added: &base.extends.added,
                provisional,
            })),
            Way::First { .. } => Some(Step::Waypoint { provisional }),
            Way::Pulled { entry, .. } => Some(Step::Pulled(NewPulled {
                extends: entry.extends.as_ref().map(|(base, added)| (base, added.as_slice())),
                chain: entry.chain,
                provisional,
                contents: entry.contents,
            })),
        };
        let id = registry
            .insert_template(
                context.project,
                &definition.name,
                recipe,
                context.holder,
                definition.extend,
                step,
            )
            .await?;
        Ok(Registered { permit, way, id, started })
    }

    /// Creates the databases, and reads the inputs at the same time.
    async fn create(self, registry: &mut Registry, context: &Context<'_>) -> Result<Building<'a, P>> {
        let Registered { permit, way, id, started } = self;
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
            let Some(base) = way.base() else {
                return create_empty(registry, context, &mut rows).await;
            };
            let start = Start {
                source: base.template.source.as_deref().cloned(),
                restored: base.template.restored,
                ..Start::default()
            };
            let words = format!("pgstencil extends {} of {} here", definition.name, context.project);
            copy_base(registry, context, id, &mut rows, &base.template, &words).await?;
            Ok(start)
        };
        let (created, watch) = tokio::join!(creating, Watch::begin(context));
        let mut start = created?;
        if let Way::Pulled { entry, .. } = way {
            start.restored = true;
            start.pulled =
                Some(PulledFrom { place: entry.place.clone(), signed_by: entry.signed_by.clone() });
        }
        Ok(Building { permit, way, id, started, rows, start, watch: watch? })
    }
}

impl<'a, P: Permit> Building<'a, P> {
    async fn fill(&self, registry: &mut Registry, context: &Context<'_>) -> Result<()> {
        if let Way::Pulled { entry, .. } = self.way {
            return restore::restore(registry, context, &self.rows, entry).await;
        }
        let recipe = self.permit.recipe();
        let (outcome, progress) = match self.way {
            Way::Full | Way::First { .. } | Way::Pulled { .. } => (Outcome::Miss, Progress::of(recipe)),
            Way::On { base, outcome } => (outcome, Progress::new(&migrations(&base.extends.added))),
        };
        let (command, root) = match self.way {
            Way::First { command, root, .. } => (command, root.unwrap_or(context.root)),
            Way::Full | Way::On { .. } | Way::Pulled { .. } => (&*context.definition.build, context.root),
        };
        let context = Context { root, ..context.clone() };
        let set = private_set(&self.rows);
        source::fill(registry, &context, command, &set, outcome, Some(self.id), progress).await
    }

    /// Inspects the current databases, and reads the inputs again.
    async fn inspect(mut self, registry: &mut Registry, context: &Context<'_>) -> Result<Completed<'a, P>> {
        let inspected = inspect(registry, context, &mut self.rows, &self.start).await?;
        let recipe = self.permit.recipe();
        let of_files = match self.way {
            Way::First { whole, .. } | Way::Pulled { whole, .. } => whole,
            Way::Full | Way::On { .. } => recipe,
        };
        if let Some(overtaken) = self.watch.end(context, of_files).await? {
            return Ok(Completed::Overtaken(Box::new(overtaken)));
        }
        let Building { permit, way, id, started, rows, .. } = self;
        let mut built = Built { permit, way, id, started, took: None, rows, inspected, unsealed: None };
        // The command that built an entry was checked where it ran.
        if !matches!(way, Way::Pulled { .. }) {
            let (subject, base) = (built.subject(), way.base().map(|base| &base.template));
            built.unsealed = unsealed::look(registry, context, &subject, recipe, base).await?;
        }
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

impl Built<'_, BuildPermit> {
    /// Makes a waypoint a template, under its lock.
    pub(super) async fn keep(
        self: Box<Self>,
        registry: &mut Registry,
        context: &Context<'_>,
    ) -> Result<Template> {
        let (took, fingerprint) = (self.took.unwrap_or_default(), self.permit.recipe().fingerprint());
        let template = self.seal(registry, context).await?;
        context.tell(Event::Sealed {
            definition: &context.definition.name,
            fingerprint: &fingerprint.short(),
            extends: None,
            took,
        });
        registry.note(&context.occurrence(&fingerprint, Happened::Waypoint, took)).await?;
        Ok(template)
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
            restored: self.inspected.built_with.restored,
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
