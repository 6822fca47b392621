//! Waypoints: bases that full builds leave behind.
//!
//! A set of migrations that edits an older one has no base: each template contains the migration as it was. So its full
//! build is done in two steps: first the migrations before the edit, then all. The first step is `build_until` if the
//! edits are in one directory, or, with `waypoints = "copy"`, the build command in a [copy](TreeCopy) of the tree
//! without the later migrations. Its result is kept as a template, and the next edit of the same migration is an
//! incremental build on it.
//!
//! Two steps take one more start of the migrate command. So they need a full build that takes [`LEAST_BUILD`], a set
//! of [`LEAST_MIGRATIONS`], and a waypoint with [`LEAST_SHARE`] of them. Proofs and `verify` build in one step.
//!
//! A first step that stops too late contains the migrations that it should not have; in a copy, since it reads the
//! original by an absolute path. Then the second one changes nothing, and none of the two can be trusted: both are
//! dropped, a build in one step follows, and no waypoint is built again until the commands change. The same holds if the
//! first step fails, or if a template that rests on a waypoint is found to differ from a full build. That needs a
//! comparison of the two, so with `allow_unchanged` there are no waypoints. If the edits are in several directories, a
//! copy may have been read for some of them only; so no table of the waypoint may have a row with the name of a later
//! migration, as the tables have in which migration tools record migrations.
//!
//! With `extend = "always"` the names of migrations do not say which ones a version includes, so `build_until` is not
//! used. A copy lacks the edited migrations, and those that name one of them.

use std::path::Path;
use std::time::Duration;

use super::build::{self, Ended, Failed, InTwo, Steps};
use super::permit::{Asked, BuildPermit, Permit as _};
use crate::config::{Definition, Extend, VERSION, Waypoints};
use crate::context::{Context, Source};
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Warning};
use crate::fingerprint::{
    Append, Prefix, Recipe, RelPath, TreeCopy, common, extension, groups_of, migrations, prefix, records,
    without_dependents,
};
use crate::quantity::count;
use crate::registry::event::Costs;
use crate::registry::{Registry, TemplateRow};

/// Shortest full build for which a waypoint pays.
const LEAST_BUILD: Duration = Duration::from_secs(2);

/// Fewest migrations of a set for which one pays.
const LEAST_MIGRATIONS: usize = 5;

/// Smallest share of the migrations that a waypoint has.
const LEAST_SHARE: f64 = 0.3;

/// First step of a full build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waypoint {
    /// Its inputs.
    pub(crate) prefix: Prefix,
    /// Its command.
    pub(super) command: String,
    /// What ends it before the later migrations.
    pub(crate) stop: Stop,
    /// The migrations of the second step, in order.
    pub(crate) added: Vec<RelPath>,
    /// Number of migrations of both steps.
    pub(crate) of: usize,
}

/// Way in which the first step leaves out the later migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The migrate command stops at this version.
    At(String),
    /// The build command runs in a copy of the tree that lacks them.
    Copy,
}

impl Waypoint {
    /// Returns it with the migrations of the second step, if it is large enough, and the base of a full build of
    /// `recipe`.
    fn if_it_pays(self, definition: &Definition, recipe: &Recipe) -> Option<Self> {
        if (self.prefix.migrations as f64) < LEAST_SHARE * self.of as f64 {
            return None;
        }
        let added = extension(&self.prefix.recipe, recipe, append(definition)).ok()?;
        Some(Waypoint { added, ..self })
    }

    /// Returns values that a database of the first step must not contain, if a change by the second step does not show
    /// that all of the later migrations were missing: they are in several groups.
    pub(super) fn forbidden(&self) -> Vec<Vec<String>> {
        match self.stop == Stop::Copy && groups_of(&self.prefix.later, self.prefix.recipe.order) > 1 {
            true => records(&self.prefix),
            false => Vec::new(),
        }
    }

    /// Describes where the first step ends.
    pub(crate) fn place(&self) -> String {
        match &self.stop {
            Stop::At(version) => format!("version {version}"),
            Stop::Copy => "in a copy of the tree".to_owned(),
        }
    }
}

/// Returns the best waypoint for a full build of `recipe`, if it pays: the one with the most migrations that one of
/// the ready templates shares. In a copy of the tree, migrations that depend on a later one are later ones, too.
///
/// # Errors
/// A panic of the thread that reads the migrations.
pub(crate) async fn choose(
    root: &Path,
    definition: &Definition,
    recipe: &Recipe,
    ready: &[(TemplateRow, Recipe)],
    costs: &Costs,
) -> Result<Option<Waypoint>> {
    for found in best(definition, recipe, ready, costs) {
        if found.stop != Stop::Copy {
            return Ok(Some(found));
        }
        let (root, prefix, append) = (root.to_owned(), found.prefix.clone(), append(definition));
        let read = tokio::task::spawn_blocking(move || without_dependents(prefix, &root, append))
            .await
            .map_err(|e| Error::unjoined("reading the migrations", e))?;
        // A file that cannot be read has changed since. The build in one step notices.
        let prefix = read.ok().flatten();
        let found = prefix.and_then(|prefix| Waypoint { prefix, ..found }.if_it_pays(definition, recipe));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn append(definition: &Definition) -> Append {
    match definition.extend {
        Extend::Always => Append::Any,
        Extend::Append | Extend::Never => Append::Sorted,
    }
}

/// Returns the best waypoints by the names and hashes of the migrations: the first one that pays is to be built.
fn best(
    definition: &Definition,
    recipe: &Recipe,
    ready: &[(TemplateRow, Recipe)],
    costs: &Costs,
) -> Vec<Waypoint> {
    let copies = match definition.waypoints {
        Waypoints::Auto => false,
        Waypoints::Copy => true,
        Waypoints::Never => return Vec::new(),
    };
    let of = migrations(recipe.migrations.iter().map(|file| &file.path)).len();
    let possible = (copies || definition.build_until.is_some())
        && (definition.extend == Extend::Append || copies && definition.extend == Extend::Always)
        && !definition.allow_unchanged
        && of >= LEAST_MIGRATIONS
        && costs.full.is_some_and(|full| full >= LEAST_BUILD);
    if !possible {
        return Vec::new();
    }
    let step = |prefix: &Prefix| match (definition.build_until.as_deref(), &prefix.version) {
        (Some(command), Some(version)) if definition.extend == Extend::Append => {
            Some((command.replace(VERSION, version), Stop::At(version.clone())))
        }
        _ => copies.then(|| (definition.build.clone(), Stop::Copy)),
    };
    // With `extend = "always"` names may have an order that is not that of the migrations.
    let ways: &[fn(&Recipe, &Recipe) -> Option<Prefix>] = match definition.extend {
        Extend::Always => &[prefix, common],
        Extend::Append | Extend::Never => &[prefix],
    };
    let largest = |way: &fn(&Recipe, &Recipe) -> Option<Prefix>| {
        let found = ready.iter().filter_map(|(_, old)| way(old, recipe));
        let found = found.filter_map(|prefix| Some((step(&prefix)?, prefix)));
        let ((command, stop), prefix) = found.max_by_key(|(_, prefix)| prefix.migrations)?;
        Waypoint { command, stop, added: Vec::new(), of, prefix }.if_it_pays(definition, recipe)
    };
    ways.iter().filter_map(largest).collect()
}

/// Runs a full build in two steps. `None`: it has to be done in one.
pub(super) async fn build(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
) -> Result<Option<Ended>> {
    let Some(waypoint) = find(registry, context, permit.recipe()).await? else {
        return Ok(None);
    };
    // If another process builds it, or just has, a build in one step is not wrong, only slower for the next edit.
    let first = match BuildPermit::ask(registry, context, &waypoint.prefix.recipe).await? {
        Some(Asked::Granted(first)) => first,
        Some(Asked::Busy(_) | Asked::Serial(_)) | None => return Ok(None),
    };
    let done = in_two(registry, context, &first, permit, &waypoint).await;
    first.release(registry).await;
    done
}

async fn find(registry: &mut Registry, context: &Context<'_>, recipe: &Recipe) -> Result<Option<Waypoint>> {
    let definition = context.definition;
    let no = definition.build_until.is_none() && definition.waypoints != Waypoints::Copy;
    if no || definition.waypoints == Waypoints::Never || matches!(context.source, Source::Filler(_)) {
        return Ok(None);
    }
    if registry.why_no_waypoints(context.project, definition).await?.is_some() {
        return Ok(None);
    }
    let costs = registry.costs(context.project, &definition.name).await?;
    let ready = registry.ready_templates(context.project, &definition.name, recipe).await?;
    choose(context.root, definition, recipe, &ready, &costs).await
}

/// Copies the tree for the first step.
async fn copy(context: &Context<'_>, waypoint: &Waypoint) -> Result<TreeCopy> {
    let Some(directory) = context.copies.map(Path::to_owned) else {
        return Err(Error::failed("there is no directory for a copy of the tree")
            .hint("set HOME or XDG_CACHE_HOME to an absolute path"));
    };
    let (root, definition) = (context.root.to_owned(), context.definition.clone());
    let Prefix { recipe, later, .. } = waypoint.prefix.clone();
    tokio::task::spawn_blocking(move || TreeCopy::create(&directory, &root, &definition, &recipe, &later))
        .await
        .map_err(|e| Error::unjoined("copying the tree", e))?
}

async fn in_two(
    registry: &mut Registry,
    context: &Context<'_>,
    first: &BuildPermit,
    permit: &BuildPermit,
    waypoint: &Waypoint,
) -> Result<Option<Ended>> {
    let copy = match waypoint.stop {
        Stop::At(_) => None,
        Stop::Copy => match copy(context, waypoint).await {
            Ok(copy) => Some(copy),
            Err(error) if context.deadline.check("").is_err() => return Err(error),
            Err(error) => {
                tell(context, "no waypoint is built this time", &error);
                return Ok(None);
            }
        },
    };
    context.tell(Event::Notice(&format!(
        "full build in two steps: first a waypoint with {} of {} ({})",
        waypoint.prefix.migrations,
        count(waypoint.of, "migration"),
        waypoint.place()
    )));
    let root = copy.as_ref().map(|copy| copy.root().to_owned());
    let steps = Steps { first, permit, waypoint, root: root.as_deref() };
    match build::build_in_two(registry, context, &steps, copy).await? {
        InTwo::Ended(ended) => Ok(Some(ended)),
        InTwo::Failed(Failed { why, details }) => {
            context.tell(Event::Notice(&format!("the full build starts again in one step: {why}")));
            // If it fails, too, the project is to blame.
            let ended = build::build(registry, context, permit, None).await?;
            match ended {
                Ended::Sealed(_) => give_up(registry, context, &why, &details).await?,
                Ended::Overtaken(_) | Ended::Unsealed(..) => {}
            }
            Ok(Some(ended))
        }
        InTwo::Second(kept, error) => {
            tell(context, "the second step of the full build failed, so it starts again in one step", &error);
            match build::build(registry, context, permit, None).await {
                Ok(ended) => {
                    kept.discard(registry, "the build on it failed").await?;
                    if matches!(ended, Ended::Sealed(_)) {
                        give_up(registry, context, "the build command failed on a waypoint", &[]).await?;
                    }
                    Ok(Some(ended))
                }
                // The migration is to blame. The waypoint does not contain it, since it would have failed as well.
                Err(error) if error.kind() == Kind::Build => {
                    if let Ok(kept) = kept.keep(registry, context).await {
                        let _ = kept.let_go(registry).await;
                    }
                    Err(error)
                }
                Err(error) => {
                    let _ = kept.discard(registry, "the build on it failed").await;
                    Err(error)
                }
            }
        }
    }
}

/// Builds no waypoints of the definition until its commands change.
async fn give_up(
    registry: &mut Registry,
    context: &Context<'_>,
    why: &str,
    details: &[String],
) -> Result<()> {
    let definition = context.definition;
    registry.note_no_waypoints(context.project, definition, why).await?;
    let warning = Warning::new("no waypoints are built any more, since one failed").detail(why);
    let warning = details.iter().fold(warning, Warning::detail);
    context.tell(Event::Warning(&warning.hint(match definition.waypoints {
        Waypoints::Copy => format!(
            "set `waypoints = \"auto\"` in [template.{}]; pgstencil tries again when `build`, `build_until` or `waypoints` changes",
            definition.name
        ),
        Waypoints::Auto | Waypoints::Never => format!(
            "correct `build_until` of [template.{}], or set `waypoints = \"never\"`; pgstencil tries again when `build` or `build_until` changes",
            definition.name
        ),
    })));
    Ok(())
}

fn tell(context: &Context<'_>, what: &str, error: &Error) {
    let warning = Warning::new(what).detail(error.message());
    let warning = error.details().iter().fold(warning, Warning::detail);
    context.tell(Event::Warning(&error.hints().iter().fold(warning, Warning::hint)));
}
