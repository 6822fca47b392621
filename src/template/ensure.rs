//! Gets a template for inputs: makes a plan and carries it out, until there is a template.

use std::time::{Duration, Instant};

use super::build::{self, Ended};
use super::extend::Base;
use super::permit::BuildPermit;
use super::plan::{Change, FullBuild, Plan, Taking, plan};
use super::pull::{self, Tried};
use super::waiting::{POLL, builder_of, tell_waiting, wait_for_serial};
use super::{Ensured, Provenance, Template, Timing, Unsealed, Unusable, unusable, waypoint};
use crate::context::Context;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::{Event, Warning};
use crate::fingerprint::{Recipe, migrations};
use crate::pg::{cause, is_connection_loss};
use crate::quantity::{count, seconds};
use crate::registry::event::Costs;
use crate::registry::failure::Attempt;
use crate::registry::{Registry, TemplateRow, TemplateState};
use crate::retention::evict::{self, Eviction};
use crate::variables::Outcome;

/// Finds the template for the definition's current inputs, or builds it: on a copy of the nearest older one if
/// the definition allows it and one fits, else by a full build. If several processes request a missing template
/// at the same time, one builds and the others wait for its seal. `recipe`: the current inputs, if they were
/// read just now. The caller records a hit.
///
/// Cancel safety: when the limit's token is cancelled, a running build command is ended and its result is dropped.
///
/// # Errors
/// [`Kind::Build`] if the build command fails or its result cannot be sealed, [`Kind::Timeout`],
/// and the errors of inputs and server.
pub(crate) async fn ensure(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: Option<Recipe>,
) -> Result<Ensured> {
    let mut request = Request::begin(registry, context, recipe).await?;
    let mut taking = Taking::default();
    loop {
        let done = match plan(&mut taking, registry, context, &request.recipe).await? {
            Plan::Hit(template) => Some(request.on_hit(registry, *template).await?),
            Plan::Wait(row) => {
                taking.waited = Some(row.id);
                request.on_busy(registry, &row).await?;
                None
            }
            Plan::WaitForTurn(row) => {
                request.on_serial(row.as_deref()).await?;
                None
            }
            Plan::Extend(permit, base) => {
                // On the heap: builds are long, hits are not, and a program's thread may have little stack.
                let built = Box::pin(request.extend(registry, &permit, *base)).await;
                permit.release(registry).await;
                request.on_built(registry, built?).await?
            }
            Plan::Build(permit, why) => {
                let built = Box::pin(request.build(registry, &permit, &why)).await;
                permit.release(registry).await;
                match built? {
                    Some(built) => request.on_built(registry, built).await?,
                    // There is a base now.
                    None => None,
                }
            }
            Plan::Changed(Change::Unsealed(template, unsealed)) => {
                Some(request.on_unsealed(*template, unsealed))
            }
            Plan::Changed(Change::Again) => {
                context.deadline.pause(POLL / 10, "the template").await?;
                None
            }
        };
        if let Some(ensured) = done {
            return Ok(ensured);
        }
    }
}

/// One call of [`ensure`].
struct Request<'a, 'c> {
    context: &'a Context<'c>,
    recipe: Recipe,
    /// Time spent on the inputs.
    inputs: Duration,
    started: Instant,
    waited: Duration,
    /// Whether the inputs already changed during a build.
    overtaken: bool,
    costs: Option<Costs>,
    /// Whether the remote store was asked for these inputs, and whether the base is from there.
    asked: bool,
    pulled_base: bool,
}

/// The result of a build.
struct Built {
    ended: Ended,
    /// The reason for a full build if there may have been a base.
    note: Option<String>,
    outcome: Outcome,
}

impl Built {
    /// A result of a full build, in one step or two.
    fn full(ended: Ended, note: Option<String>) -> Self {
        Built { ended, note, outcome: Outcome::Miss }
    }
}

impl<'a, 'c> Request<'a, 'c> {
    async fn begin(
        registry: &mut Registry,
        context: &'a Context<'c>,
        recipe: Option<Recipe>,
    ) -> Result<Self> {
        let started = Instant::now();
        let recipe = match recipe {
            Some(recipe) => recipe,
            None => {
                let traits = registry.facts().traits.clone();
                context.inputs().await?.with_server(traits)
            }
        };
        Ok(Request {
            context,
            recipe,
            inputs: started.elapsed(),
            started: Instant::now(),
            waited: Duration::ZERO,
            overtaken: false,
            costs: None,
            asked: false,
            pulled_base: false,
        })
    }

    /// Builds on an older template, unless the remote store has the template.
    async fn extend(&mut self, registry: &mut Registry, permit: &BuildPermit, base: Base) -> Result<Built> {
        let time = self.costs(registry).await?.extension;
        match self.pull(registry, permit, Some(time)).await? {
            Tried::Pulled(ended) => {
                base.template.let_go(registry).await?;
                return Ok(Built { ended, note: None, outcome: Outcome::Pulled });
            }
            Tried::Not(Some(why)) => pull::tell_miss(self.context, &why),
            Tried::Not(None) => {}
        }
        extend(registry, self.context, permit, base).await
    }

    /// Runs a full build, unless the remote store has the template or a base. `None`: the base was pulled.
    async fn build(
        &mut self,
        registry: &mut Registry,
        permit: &BuildPermit,
        why: &FullBuild,
    ) -> Result<Option<Built>> {
        let first = !self.asked;
        if *why != FullBuild::Wanted {
            match Box::pin(self.pull(registry, permit, None)).await? {
                Tried::Pulled(ended) => {
                    return Ok(Some(Built { ended, note: None, outcome: Outcome::Pulled }));
                }
                Tried::Not(Some(reason)) => {
                    let mut reason = reason;
                    if first && *why == FullBuild::NoBase {
                        match Box::pin(pull::base(registry, self.context, &self.recipe)).await? {
                            Ok(()) => {
                                self.pulled_base = true;
                                return Ok(None);
                            }
                            Err(Some(other)) if other != reason => reason = format!("{reason}; {other}"),
                            Err(_) => {}
                        }
                    }
                    if first {
                        match Box::pin(pull::wait_for_another(registry, self.context, permit)).await? {
                            Tried::Pulled(ended) => {
                                return Ok(Some(Built { ended, note: None, outcome: Outcome::Pulled }));
                            }
                            Tried::Not(Some(other)) => reason = format!("{reason}; {other}"),
                            Tried::Not(None) => {}
                        }
                    }
                    pull::tell_miss(self.context, &reason);
                }
                Tried::Not(None) => {}
            }
        }
        let building = Box::pin(build_fully(registry, self.context, permit, why));
        let built = pull::renewing(self.context, &self.recipe, building).await;
        if !matches!(&built, Ok(Built { ended: Ended::Sealed(_), .. })) {
            pull::withdraw(self.context, &self.recipe).await;
        }
        built.map(Some)
    }

    /// Asks the remote store, once for the same inputs. `extension`: an incremental build is possible, and takes this
    /// time, if that is known.
    async fn pull(
        &mut self,
        registry: &mut Registry,
        permit: &BuildPermit,
        extension: Option<Option<Duration>>,
    ) -> Result<Tried> {
        if self.asked || self.context.full_build {
            return Ok(Tried::Not(None));
        }
        self.asked = true;
        pull::exact(registry, self.context, permit, extension.flatten()).await
    }

    async fn on_hit(&mut self, registry: &mut Registry, mut template: Template) -> Result<Ensured> {
        template.owes_a_build(registry, self.context.definition.rebuild).await?;
        if let Some(provisional) = template.provisional() {
            provisional.tell(self.context, template.fingerprint());
        }
        self.ensured(registry, template, Outcome::Hit, None).await
    }

    /// Waits briefly for the process that builds the template.
    async fn on_busy(&mut self, registry: &mut Registry, row: &TemplateRow) -> Result<()> {
        let since = Instant::now();
        let costs = self.costs(registry).await?;
        tell_waiting(self.context, row, &costs);
        self.context.deadline.pause(POLL, &builder_of(row)).await?;
        self.waited += since.elapsed();
        Ok(())
    }

    /// Waits briefly for another serial build.
    async fn on_serial(&mut self, row: Option<&TemplateRow>) -> Result<()> {
        let since = Instant::now();
        wait_for_serial(self.context, row, self.started).await?;
        self.waited += since.elapsed();
        Ok(())
    }

    /// Returns `None` if the result is unusable, so that a new plan is needed.
    async fn on_built(&mut self, registry: &mut Registry, built: Built) -> Result<Option<Ensured>> {
        let Built { ended, note, outcome } = built;
        match ended {
            Ended::Sealed(template) if discard_aged(registry, self.context, &template).await? => {
                template.let_go(registry).await?;
                Ok(None)
            }
            Ended::Sealed(template) => {
                // The template exists, even if the session is lost.
                let _ = keep_limits(registry, self.context).await;
                Ok(Some(self.ensured(registry, *template, outcome, note).await?))
            }
            Ended::Unsealed(template, unsealed) => Ok(Some(self.on_unsealed(*template, unsealed))),
            Ended::Overtaken(new) if self.overtaken => {
                Err(new.error(&self.context.definition.name, "two builds in a row"))
            }
            Ended::Overtaken(new) => {
                new.tell(self.context);
                self.overtaken = true;
                self.recipe = new.recipe;
                self.asked = false;
                Ok(None)
            }
        }
    }

    fn on_unsealed(&self, template: Template, unsealed: Unsealed) -> Ensured {
        let mut provenance = Provenance::of(&template, Outcome::Unsealed);
        provenance.note = Some(unsealed.message());
        Ensured { template, provenance, unsealed: Some(unsealed), timing: self.timing() }
    }

    async fn ensured(
        &mut self,
        registry: &mut Registry,
        template: Template,
        outcome: Outcome,
        note: Option<String>,
    ) -> Result<Ensured> {
        let mut provenance = Provenance::of(&template, outcome);
        provenance.note = note;
        provenance.base_from_remote = self.pulled_base && outcome == Outcome::Extended;
        if provenance.build_time.is_none() {
            provenance.build_time = self.costs(registry).await?.full;
        }
        Ok(Ensured { template, provenance, unsealed: None, timing: self.timing() })
    }

    fn timing(&self) -> Timing {
        Timing {
            inputs: self.inputs,
            template: self.started.elapsed(),
            waited: self.waited,
            ..Timing::default()
        }
    }

    async fn costs(&mut self, registry: &mut Registry) -> Result<Costs> {
        match self.costs {
            Some(costs) => Ok(costs),
            None => {
                let name = &self.context.definition.name;
                Ok(*self.costs.insert(registry.costs(self.context.project, name).await?))
            }
        }
    }
}

async fn build_fully(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
    why: &FullBuild,
) -> Result<Built> {
    let note = why.is_worth_telling().then(|| why.to_string());
    if let Some(note) = &note {
        context.tell(Event::Notice(&format!("full build: {note}")));
    }
    make_room(registry, context).await?;
    if *why == FullBuild::NoBase
        && let Some(ended) = Box::pin(waypoint::build(registry, context, permit)).await?
    {
        return Ok(Built::full(ended, note));
    }
    Ok(Built::full(Box::pin(build::build(registry, context, permit, None)).await?, note))
}

/// Builds on a copy of an older template, or runs a full build if that fails.
async fn extend(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
    base: Base,
) -> Result<Built> {
    let attempt = Attempt::new(
        context.project,
        &context.definition.name,
        context.endpoint.user(),
        context.holder,
        &base.extends.added,
    );
    let failed = FailedExtension {
        id: base.template.id,
        short: base.short.clone(),
        migrations: migrations(&base.extends.added).len(),
        attempt,
    };
    // Locked, so it is not evicted.
    make_room(registry, context).await?;
    let built = build::build(registry, context, permit, Some(&base)).await;
    // Locked until here, since the result is compared with it. If the session is gone, so is the lock.
    let _ = base.template.let_go(registry).await;
    match built {
        Ok(ended) => {
            if matches!(ended, Ended::Sealed(_)) {
                registry.note_use(failed.id).await?;
                registry.forget_failure(&failed.attempt).await?;
            }
            Ok(Built { ended, note: None, outcome: Outcome::Extended })
        }
        // A full build would take even more space.
        Err(error) if error.has_fault(Fault::DiskFull) => Err(error),
        Err(error) if error.kind() == Kind::Build || error.blames_source() => {
            failed.build_fully(registry, context, permit, error).await
        }
        Err(error) => Err(error),
    }
}

/// A failed incremental build.
struct FailedExtension<'a> {
    /// Number of the base's row.
    id: i64,
    /// First digits of the base's fingerprint.
    short: String,
    /// Number of migrations that were to be added.
    migrations: usize,
    attempt: Attempt<'a>,
}

impl FailedExtension<'_> {
    async fn build_fully(
        self,
        registry: &mut Registry,
        context: &Context<'_>,
        permit: &BuildPermit,
        error: Error,
    ) -> Result<Built> {
        let of_build = error.kind() == Kind::Build;
        let why = match of_build {
            true => error.message().to_owned(),
            false => cause(&error),
        };
        // Another process dropped or damaged it: it must not be found again.
        if error.has_fault(Fault::SourceLost) {
            registry.break_template(self.id, &why, false).await?;
        }
        if of_build
            && let Some(ago) = registry.failed_before(&self.attempt).await?
            && ago < FAILURES_COUNT
        {
            return Err(self.failed_twice(error, ago));
        }
        let note = format!("the incremental build on template {} failed: {why}", self.short);
        let warning = Warning::new("the incremental build failed, so a full build follows");
        let warning = warning.detail(format!("base: template {}", self.short)).detail(why.clone());
        let warning = error.details().iter().fold(warning, Warning::detail);
        let warning = match of_build {
            true => warning.hint(format!(
                "if the build command cannot skip the migrations that a database already has, set `extend = \"never\"` in [template.{}]",
                context.definition.name
            )),
            false => warning,
        };
        context.tell(Event::Warning(&warning));
        match build::build(registry, context, permit, None).await {
            Ok(ended) => {
                if matches!(ended, Ended::Sealed(_)) {
                    registry.forget_failure(&self.attempt).await?;
                }
                Ok(Built::full(ended, Some(note)))
            }
            Err(error) => {
                // Unless the caller's deadline or cancellation ended it.
                let of_full_build =
                    matches!(error.kind(), Kind::Build | Kind::Timeout) && context.deadline.check("").is_ok();
                if of_build && of_full_build {
                    // The build's error counts, even if the record fails.
                    let _ = registry.note_failure(&self.attempt).await;
                }
                Err(error.detail(note))
            }
        }
    }

    fn failed_twice(&self, error: Error, ago: Duration) -> Error {
        error
            .detail(format!(
                "it ran on a copy of template {}, to add {}",
                self.short,
                count(self.migrations, "new migration")
            ))
            .detail(format!(
                "no full build follows, since one with the same new files failed {} ago",
                seconds(ago)
            ))
            .hint("run a full build nevertheless: `--full-build`")
    }
}

/// Time for which a failed incremental build, followed by a failed full build, is remembered.
const FAILURES_COUNT: Duration = Duration::from_secs(60 * 60);

/// Discards a template that was just built incrementally, if its oldest contents exceeded the age limit during
/// the build: a full build follows, since the base is too old as well.
async fn discard_aged(registry: &mut Registry, context: &Context<'_>, template: &Template) -> Result<bool> {
    if template.extends().is_none() || context.definition.stale_after.is_none() {
        return Ok(false);
    }
    let (name, fingerprint) = (&context.definition.name, template.fingerprint());
    let row = registry.find_template(context.project, name, fingerprint, TemplateState::Ready).await?;
    let Some(why) = row.and_then(|row| Unusable::by_definition(&row, context.definition)) else {
        return Ok(false);
    };
    unusable::discard(registry, context, template.id(), fingerprint, &why).await?;
    Ok(true)
}

/// Makes room for a build. A failure does not prevent the build.
async fn make_room(registry: &mut Registry, context: &Context<'_>) -> Result<()> {
    let name = &context.definition.name;
    let evicted = evict::make_room(registry, &context.project_settings(), name).await;
    tell_evicted(context, evicted)
}

/// Discards the templates that exceed the limits, and leaves their drop to the cleanup.
async fn keep_limits(registry: &mut Registry, context: &Context<'_>) -> Result<()> {
    let settings = context.project_settings();
    let evicted = async {
        registry.note_settings(&settings).await?;
        evict::keep_limits(registry, &settings).await
    }
    .await;
    tell_evicted(context, evicted)
}

fn tell_evicted(context: &Context<'_>, evicted: Result<Vec<Eviction>>) -> Result<()> {
    match evicted {
        Ok(evicted) => {
            for eviction in evicted {
                context.tell(Event::Notice(&eviction.describe()));
            }
            Ok(())
        }
        Err(error) if is_connection_loss(&error) => Err(error),
        Err(error) => {
            context.tell(Event::Warning(
                &Warning::new("could not evict templates").detail(error.to_string()).detail(cause(&error)),
            ));
            Ok(())
        }
    }
}
