//! Waypoints: bases that full builds leave behind.
//!
//! A set of migrations that edits an older one has no base: each template contains the migration as it was. So its full
//! build is done in two steps, if `build_until` can stop in between: first the migrations before the edit, then all.
//! The first step's result is kept as a template, and the next edit of the same migration is an incremental build on it.
//!
//! Two steps take one more start of the migrate command. So they need a full build that takes [`LEAST_BUILD`], a set
//! of [`LEAST_MIGRATIONS`], and a waypoint with [`LEAST_SHARE`] of them. Proofs and `verify` build in one step.
//!
//! A first step that stops too late contains the migrations that it should not have. Then the second one changes
//! nothing, and none of the two can be trusted: both are dropped, a build in one step follows, and no waypoint is
//! built again until the commands change. The same holds if the first step fails, or if a template that rests on a
//! waypoint is found to differ from a full build. That needs a comparison of the two,
//! so with `allow_unchanged` there are no waypoints; and with `extend = "always"` the names of migrations do not say
//! which ones a version includes.

use std::time::Duration;

use super::build::{self, Ended, InTwo};
use super::permit::{Asked, BuildPermit, Permit as _};
use crate::config::{Definition, Extend, VERSION, Waypoints};
use crate::context::{Context, Source};
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Warning};
use crate::fingerprint::{Append, Prefix, Recipe, RelPath, extension, migrations, prefix};
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
    /// `build_until` with the version.
    pub(super) command: String,
    /// The migrations of the second step, in order.
    pub(crate) added: Vec<RelPath>,
    /// Number of migrations of both steps.
    pub(crate) of: usize,
}

/// Returns the best waypoint for a full build of `recipe`, if it pays: the one with the most migrations that one of
/// the ready templates shares.
pub(crate) fn best(
    definition: &Definition,
    recipe: &Recipe,
    ready: &[(TemplateRow, Recipe)],
    costs: &Costs,
) -> Option<Waypoint> {
    let command = definition.build_until.as_deref()?;
    let of = migrations(recipe.migrations.iter().map(|file| &file.path)).len();
    let possible = definition.waypoints == Waypoints::Auto
        && definition.extend == Extend::Append
        && !definition.allow_unchanged
        && of >= LEAST_MIGRATIONS
        && costs.full.is_some_and(|full| full >= LEAST_BUILD);
    if !possible {
        return None;
    }
    let found = ready.iter().filter_map(|(_, old)| prefix(old, recipe));
    let prefix = found.max_by_key(|prefix| prefix.migrations)?;
    if (prefix.migrations as f64) < LEAST_SHARE * of as f64 {
        return None;
    }
    let added = extension(&prefix.recipe, recipe, Append::Sorted).ok()?;
    Some(Waypoint { command: command.replace(VERSION, &prefix.version), added, of, prefix })
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
    if definition.build_until.is_none() || matches!(context.source, Source::Filler(_)) {
        return Ok(None);
    }
    if registry.why_no_waypoints(context.project, definition).await?.is_some() {
        return Ok(None);
    }
    let costs = registry.costs(context.project, &definition.name).await?;
    let ready = registry.ready_templates(context.project, &definition.name, recipe).await?;
    Ok(best(definition, recipe, &ready, &costs))
}

async fn in_two(
    registry: &mut Registry,
    context: &Context<'_>,
    first: &BuildPermit,
    permit: &BuildPermit,
    waypoint: &Waypoint,
) -> Result<Option<Ended>> {
    context.tell(Event::Notice(&format!(
        "full build in two steps: first a waypoint with {} of {} (version {})",
        waypoint.prefix.migrations,
        count(waypoint.of, "migration"),
        waypoint.prefix.version
    )));
    match build::build_in_two(registry, context, first, permit, waypoint).await? {
        InTwo::Ended(ended) => Ok(Some(ended)),
        InTwo::Failed(why, details) => {
            give_up(registry, context, &why, &details).await?;
            Ok(None)
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
    context.tell(Event::Warning(&warning.hint(format!(
        "correct `build_until` of [template.{0}], or set `waypoints = \"never\"`; pgstencil tries again when `build` or `build_until` changes",
        definition.name
    ))));
    Ok(())
}

fn tell(context: &Context<'_>, what: &str, error: &Error) {
    let warning = Warning::new(what).detail(error.message());
    context.tell(Event::Warning(&error.details().iter().fold(warning, Warning::detail)));
}
