//! The proof: a full build in addition to a template, compared with it.

use std::time::Duration;

use super::build::{self, Completed};
use super::compare::{Depth, compare};
use super::permit::{Asked, Permit as _, RebuildPermit};
use super::waiting::{POLL, tell_waiting, wait_for_serial};
use super::{Extends, Overtaken};
use crate::context::Context;
use crate::error::Result;
use crate::events::Event;
use crate::fingerprint::Recipe;
use crate::names::{self, Fingerprint};
use crate::pg::inventory::{Class, Difference, Ignored};
use crate::registry::comparison::NewComparison;
use crate::registry::{Happened, Registry};
use crate::retention::evidence::Evidence;

/// Result of a comparison, and its effect.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Name of the definition.
    pub(crate) definition: String,
    /// Fingerprint of the template.
    pub(crate) fingerprint: Fingerprint,
    /// Origin of the template's incremental build, if it was one.
    pub(crate) extends: Option<Extends>,
    /// Whether it was not built in full: incrementally, or as a waypoint.
    pub(crate) incremental: bool,
    /// Differences by alias; equal aliases are left out.
    pub(crate) differences: Vec<(String, Difference)>,
    /// Whether row contents and ids were compared.
    pub(crate) rows: bool,
    /// Columns of differing rows that do not count since they contain the time of the build, as
    /// `schema.table.column`.
    pub(crate) left_out: Vec<String>,
    /// Entries of `verify_ignore` that name no column.
    pub(crate) unknown: Vec<String>,
    /// Objects that the role could not read, and the reason: `table closed.t: rows unknown: permission denied`.
    pub(crate) unread: Vec<String>,
    /// Effect on the template.
    pub(crate) fate: Fate,
    /// Duration of the full build.
    pub(crate) build_time: Duration,
}

impl Verdict {
    /// Returns whether nothing differs.
    pub(crate) fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }

    /// Returns whether nothing differs of what [`Class::decides`].
    pub(crate) fn is_as_built(&self) -> bool {
        self.classes().into_iter().all(|class| !class.decides())
    }

    /// Returns the classes in which something differs.
    pub(crate) fn classes(&self) -> Vec<Class> {
        let differs = |class: &Class| {
            let mut all = self.differences.iter();
            all.any(|(_, diff)| diff.classes().contains(class))
        };
        Class::ALL.into_iter().filter(differs).collect()
    }

    /// Returns the classes that were compared, or those that were not.
    pub(crate) fn compared(&self, compared: bool) -> Vec<Class> {
        let was = |class: &Class| self.rows || !class.needs_rows();
        let all = Class::ALL.into_iter();
        all.filter(|class| was(class) == compared).collect()
    }

    /// Describes the differences of all aliases, in some classes.
    fn text(&self, wanted: impl Fn(Class) -> bool + Copy) -> String {
        let all = self.differences.iter();
        all.map(|(_, diff)| diff.only(wanted).to_string()).collect()
    }

    /// Names the differences that do not decide, in one line.
    fn moved(&self) -> String {
        let mut by_class: Vec<(Class, Vec<&str>)> = Vec::new();
        let changes = self.differences.iter().flat_map(|(_, diff)| &diff.changes);
        for change in changes.filter(|change| !change.class.decides()) {
            let heading = change.heading.as_str();
            match by_class.iter_mut().find(|(class, _)| *class == change.class) {
                Some((_, headings)) if headings.contains(&heading) => {}
                Some((_, headings)) => headings.push(heading),
                None => by_class.push((change.class, vec![heading])),
            }
        }
        by_class.sort_by_key(|(class, _)| *class);
        let texts = by_class.iter().map(|(class, headings)| {
            let shown = headings.iter().take(MAX_HEADINGS).copied().collect::<Vec<_>>().join(", ");
            match headings.len().saturating_sub(MAX_HEADINGS) {
                0 => format!("{class} ({shown})"),
                more => format!("{class} ({shown} and {more} more)"),
            }
        });
        texts.collect::<Vec<_>>().join(", ")
    }
}

/// Number of objects of a class that are named in the line about differences that do not decide.
const MAX_HEADINGS: usize = 5;

/// Effect of a comparison on the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is kept as it is.
    Kept,
    /// The full build replaced it.
    Replaced,
    /// It was built incrementally and differs, so it is broken: the next command runs a full build.
    Broken,
}

impl Fate {
    /// Returns the word in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Fate::Kept => "kept",
            Fate::Replaced => "replaced",
            Fate::Broken => "broken",
        }
    }
}

/// Runs a full build of the definition's current inputs in addition to their template, and compares the two,
/// with `rows` also their row contents. With `replace` the full build replaces the template, whatever was
/// found: copies of the old one in progress continue, and it is dropped when they are done. Without, the full
/// build is dropped, and an incrementally built template that differs in what [`Class::decides`] is marked
/// broken. A fully built template that differs is kept: its build does not yield the same twice, and the next
/// one would not, either.
///
/// Cancel safety: as of [`super::ensure()`].
///
/// # Errors
/// [`crate::Kind::NotFound`] if the current inputs have no template; [`crate::Kind::Build`] if the full build
/// fails, which is an answer, too: a cached template can hide a broken build command.
pub(crate) async fn verify(
    registry: &mut Registry,
    context: &Context<'_>,
    replace: bool,
    rows: bool,
) -> Result<Verdict> {
    let proved = prove(registry, context, replace, rows).await?;
    proved.map_err(|overtaken| overtaken.error(&context.definition.name, "the full build"))
}

/// Does the work of [`verify`]; nothing if the inputs were overtaken.
pub(super) async fn prove(
    registry: &mut Registry,
    context: &Context<'_>,
    replace: bool,
    rows: bool,
) -> Result<std::result::Result<Verdict, Box<Overtaken>>> {
    let inputs = context.inputs().await?;
    let recipe = inputs.with_server(registry.facts().traits.clone());
    let permit = wait_for_permit(registry, context, &recipe).await?;
    let wanted = Wanted { replace, rows };
    let verdict = rebuild(registry, context, &permit, wanted).await;
    permit.release(registry).await;
    verdict
}

/// Takes the right to build in addition to the template of a recipe, as soon as no process builds that.
async fn wait_for_permit(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<RebuildPermit> {
    let started = std::time::Instant::now();
    let costs = registry.costs(context.project, &context.definition.name).await?;
    loop {
        match RebuildPermit::ask(registry, context, recipe).await? {
            Some(Asked::Granted(permit)) => return Ok(permit),
            Some(Asked::Busy(row)) => {
                tell_waiting(context, &row, &costs);
                context.deadline.pause(POLL, "a build of the same template").await?;
            }
            Some(Asked::Serial(row)) => wait_for_serial(context, row.as_deref(), started).await?,
            None => context.deadline.pause(POLL, "the template").await?,
        }
    }
}

/// Options in addition to the comparison.
#[derive(Clone, Copy)]
struct Wanted {
    replace: bool,
    rows: bool,
}

async fn rebuild(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &RebuildPermit,
    wanted: Wanted,
) -> Result<std::result::Result<Verdict, Box<Overtaken>>> {
    let definition = &context.definition.name;
    let template = permit.template();
    // Before the build, which may replace the template.
    let evidence = match template.is_incremental() {
        true => Evidence::read(registry, Some((context.project, definition))).await?,
        false => Evidence::default(),
    };
    let covers: Vec<String> = evidence.chain(template.id()).known.iter().map(ToString::to_string).collect();
    let has_waypoint = evidence.has_waypoint(template.id());
    let built = match build::rebuild(registry, context, permit).await? {
        Completed::Built(built) => *built,
        Completed::Overtaken(overtaken) => return Ok(Err(overtaken)),
    };
    let build_time = built.started.elapsed();
    if let Some(unsealed) = &built.unsealed {
        // A stale program would replace the result of a newer one.
        let error = unsealed.error();
        return Err(built.give_up(registry, context, error).await);
    }
    let ignored =
        Ignored { names: context.definition.verify_ignore.iter().map(ToString::to_string).collect() };
    let depth = match wanted.rows {
        true => Depth::Contents(&ignored),
        false => Depth::Counts,
    };
    let compared = match compare(registry, context, &built.subject(), template, depth).await {
        Ok(compared) => compared,
        Err(error) => return Err(built.give_up(registry, context, error).await),
    };
    let mut verdict = Verdict {
        definition: definition.clone(),
        fingerprint: *template.fingerprint(),
        extends: template.extends().cloned(),
        incremental: template.is_incremental(),
        differences: compared.differences,
        rows: wanted.rows,
        left_out: compared.left_out,
        unknown: compared.unknown,
        unread: compared.unread,
        fate: Fate::Kept,
        build_time,
    };
    let happened = if wanted.replace {
        let fresh = built.replace(registry, context).await?;
        let id = fresh.id;
        fresh.let_go(registry).await?;
        verdict.fate = Fate::Replaced;
        registry.set_difference(id, names::cut(&verdict.text(Class::decides), MAX_DIFFERENCE)).await?;
        Happened::Rebuilt
    } else {
        built.discard(registry, "it was built to be compared").await?;
        if !verdict.is_as_built() && verdict.incremental {
            let why = "it was built incrementally, and differs from a full build";
            registry.break_template(template.id(), why, false).await?;
            verdict.fate = Fate::Broken;
        }
        Happened::Verified
    };
    registry.note(&context.occurrence(&verdict.fingerprint, happened, build_time)).await?;
    if !verdict.is_as_built() && verdict.incremental {
        // Otherwise the next command would build on the same base with the same result.
        registry.note(&context.occurrence(&verdict.fingerprint, Happened::Differed, build_time)).await?;
        if has_waypoint {
            let why = "a template that was built on a waypoint differed from a full build";
            registry.note_no_waypoints(context.project, context.definition, why).await?;
        }
    }
    if verdict.incremental {
        let difference = verdict.text(Class::decides);
        registry
            .note_comparison(&NewComparison {
                project: context.project,
                definition,
                fingerprint: &verdict.fingerprint,
                core: &permit.recipe().core(),
                difference: names::cut(&difference, MAX_DIFFERENCE),
                moved: &verdict.moved(),
                covers: &covers,
                told: !wanted.replace,
            })
            .await?;
    }
    context.tell(Event::Compared {
        definition,
        fingerprint: &verdict.fingerprint.short(),
        differs: &Class::list(&verdict.classes()),
        compared: &Class::list(&verdict.compared(true)),
        not_compared: &Class::list(&verdict.compared(false)),
        replaced: verdict.fate == Fate::Replaced,
        took: build_time,
    });
    Ok(Ok(verdict))
}

/// Number of bytes of a difference that the registry keeps.
const MAX_DIFFERENCE: usize = 20_000;
