//! From inputs to a template.

use std::time::{Duration, Instant};

use super::build::{self, Ended};
use super::look_up::{LookUp, look_up, tell_of_another_role};
use super::permit::{Asked, BuildPermit, Permit as _};
use super::{Ensured, NoBase, Provenance, Template, Timing, Unsealed, Unusable, extend, from, unsealed};
use crate::context::Context;
use crate::error::{Fault, Kind, Result};
use crate::events::Event;
use crate::fingerprint::{Recipe, migrations};
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, cause, is_connection_loss, sqlstate};
use crate::process;
use crate::quantity::{count, seconds};
use crate::registry::event::Costs;
use crate::registry::failure::Attempt;
use crate::registry::{Registry, TemplateRow, TemplateState};
use crate::retention::evict::{self, Eviction};
use crate::variables::Outcome;

/// How often those who wait for a build look. A session lock is given up the instant its holder
/// dies, so they also see that within this time.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// Finds the template for the definition's present inputs, or builds it: on a copy of the nearest
/// older one if the definition allows it and one fits, else from nothing. Of any number of processes
/// that ask at once for one that is missing, one builds and the others wait for its seal. `recipe`: the
/// present inputs, if they were read just now. A hit is for the caller to note.
///
/// Cancel safety: when the limit's token is cancelled, a running build command is ended and what it
/// built is dropped.
///
/// # Errors
/// [`Kind::Build`] if the build command fails or its result cannot be sealed, [`Kind::Timeout`],
/// and those of inputs and server.
pub async fn ensure(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: Option<Recipe>,
) -> Result<Ensured> {
    let started = Instant::now();
    let mut recipe = match recipe {
        Some(recipe) => recipe,
        None => {
            let traits = registry.facts().traits.clone();
            context.inputs().await?.with_server(traits)
        }
    };
    let fingerprint_time = started.elapsed();
    let started = Instant::now();
    let mut overtaken = false;
    let mut costs = None;
    let mut waiting = Duration::ZERO;
    // The build that was waited for last: what came of it is good enough, also if it was not sealed.
    let mut waited = None;
    let timing = |waited| Timing {
        inputs: fingerprint_time,
        template: started.elapsed(),
        waited,
        ..Timing::default()
    };
    loop {
        let looked = look_up(registry, context, &recipe).await?;
        if let Some(id) = waited
            && !looked.is_of(id)
            && let Some((template, unsealed)) = unsealed::take(registry, context, id).await?
        {
            if let LookUp::Missing(Asked::Granted(permit)) = looked {
                permit.release(registry).await;
            }
            return Ok(Ensured::not_sealed(template, unsealed, timing(waiting)));
        }
        match looked {
            LookUp::Ready(mut template) => {
                template.owes_a_build(registry, context.definition.rebuild).await?;
                if let Some(provisional) = template.provisional() {
                    provisional.tell(context, template.fingerprint());
                }
                let mut provenance = Provenance::of(&template, Outcome::Hit);
                if provenance.build_time.is_none() {
                    provenance.build_time = known(&mut costs, registry, context).await?.full;
                }
                return Ok(Ensured {
                    template: *template,
                    provenance,
                    unsealed: None,
                    timing: timing(waiting),
                });
            }
            LookUp::Missing(Asked::Serial(row)) => {
                let since = Instant::now();
                wait_for_serial(context, row.as_deref(), started).await?;
                waiting += since.elapsed();
            }
            LookUp::Missing(Asked::Granted(permit)) => {
                let built = extend_or_build(registry, context, &permit).await;
                permit.release(registry).await;
                let (built, note) = built?;
                match built {
                    Ended::Sealed(template) if discard_aged(registry, context, &template).await? => {
                        template.let_go(registry).await?;
                    }
                    Ended::Sealed(template) => {
                        // The template is there, whatever becomes of the session.
                        let _ = keep_limits(registry, context).await;
                        let outcome = match template.extends() {
                            Some(_) => Outcome::Extended,
                            None => Outcome::Miss,
                        };
                        let mut provenance = Provenance::of(&template, outcome);
                        provenance.note = note;
                        if provenance.build_time.is_none() {
                            provenance.build_time = known(&mut costs, registry, context).await?.full;
                        }
                        return Ok(Ensured {
                            template: *template,
                            provenance,
                            unsealed: None,
                            timing: timing(waiting),
                        });
                    }
                    Ended::Unsealed(template, unsealed) => {
                        return Ok(Ensured::not_sealed(*template, unsealed, timing(waiting)));
                    }
                    Ended::Overtaken(new) if overtaken => {
                        return Err(new.error(&format!(
                            "the files of definition `{}` changed during two builds in a row",
                            context.definition.name
                        )));
                    }
                    Ended::Overtaken(new) => {
                        new.tell(context);
                        overtaken = true;
                        recipe = new.recipe;
                    }
                }
            }
            LookUp::Missing(Asked::Busy(row)) => {
                waited = Some(row.id);
                let costs = known(&mut costs, registry, context).await?;
                tell_waiting(context, &row, &costs);
                let who = format!("{} to build `{}`", row.builder.0.describe(), row.definition);
                let since = Instant::now();
                context.deadline.pause(POLL, &who).await?;
                waiting += since.elapsed();
            }
            LookUp::Missing(Asked::Again) => context.deadline.pause(POLL / 10, "the template").await?,
        }
    }
}

/// Discards a template that was just extended, if its oldest contents became too old by the time that took: it
/// is built from nothing then, since its base is too old as well.
async fn discard_aged(registry: &mut Registry, context: &Context<'_>, template: &Template) -> Result<bool> {
    if template.extends().is_none() || context.definition.stale_after.is_none() {
        return Ok(false);
    }
    let (name, fingerprint) = (&context.definition.name, template.fingerprint());
    let row = registry.find_template(context.project, name, fingerprint, TemplateState::Ready).await?;
    let Some(why) = row.and_then(|row| Unusable::by_definition(&row, context.definition)) else {
        return Ok(false);
    };
    context.tell(Event::Warning(&format!(
        "template {} of `{name}` is not used: {why}; it is built from nothing",
        fingerprint.short()
    )));
    registry.break_template(template.id(), &why.to_string(), false).await?;
    Ok(true)
}

impl LookUp {
    /// Whether it found that the build of this number still runs, or that it was sealed.
    fn is_of(&self, id: i64) -> bool {
        match self {
            LookUp::Ready(_) => true,
            LookUp::Missing(Asked::Busy(row)) => row.id == id,
            LookUp::Missing(Asked::Granted(_) | Asked::Serial(_) | Asked::Again) => false,
        }
    }
}

impl Ensured {
    fn not_sealed(template: Template, unsealed: Unsealed, timing: Timing) -> Self {
        let mut provenance = Provenance::of(&template, Outcome::Unsealed);
        provenance.note = Some(unsealed.message());
        Ensured { template, provenance, unsealed: Some(unsealed), timing }
    }
}

async fn known(costs: &mut Option<Costs>, registry: &mut Registry, context: &Context<'_>) -> Result<Costs> {
    match costs {
        Some(costs) => Ok(*costs),
        None => {
            let name = &context.definition.name;
            Ok(*costs.insert(registry.costs(context.project, name).await?))
        }
    }
}

/// Tells who builds what we wait for.
pub(super) fn tell_waiting(context: &Context<'_>, row: &TemplateRow, costs: &Costs) {
    context.tell(Event::Waiting {
        definition: &row.definition,
        builder: &row.builder.0.describe(),
        elapsed: Duration::try_from_secs_f64(row.age_s).unwrap_or_default(),
        expected: match row.base_fingerprint {
            Some(_) => costs.extension,
            None => costs.full,
        },
        tail: &row.log_tail,
    });
}

pub(super) async fn unlock(registry: &mut Registry, key: LockKey) -> Result<()> {
    registry.session().unlock(key).await.doing(|| "give a lock back".into())?;
    Ok(())
}

/// A builder that lost its session lost the right to build with it, and ends its command as soon as it notices.
/// Where that process can be seen it is waited for, so that two commands do not run at once.
async fn wait_for_former(registry: &mut Registry, context: &Context<'_>, recipe: &Recipe) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let (project, name) = (context.project, context.definition.name.as_str());
    let fingerprint = recipe.fingerprint();
    let former = registry.find_template(project, name, &fingerprint, TemplateState::Building).await?;
    let Some(former) = former else {
        return Ok(());
    };
    let (builder, ours) = (&former.builder.0, context.holder);
    let here = !ours.machine.is_empty() && builder.machine == ours.machine && builder.pid != ours.pid;
    let started = Instant::now();
    while here && process::is_alive(builder.pid) && started.elapsed() < PATIENCE {
        let who = format!("{}, whose session was lost, to end its build", builder.describe());
        context.deadline.pause(POLL, &who).await?;
    }
    Ok(())
}

/// Waits a moment while another serial build runs, and tells of it.
pub(super) async fn wait_for_serial(
    context: &Context<'_>,
    other: Option<&TemplateRow>,
    since: Instant,
) -> Result<()> {
    let who = match other {
        Some(row) => format!("the serial build of {}/{}", row.project, row.definition),
        None => "another serial build".to_owned(),
    };
    context.tell(Event::Waiting {
        definition: &context.definition.name,
        builder: &who,
        elapsed: since.elapsed(),
        expected: None,
        tail: other.map_or("", |row| &row.log_tail),
    });
    context.deadline.pause(POLL, &who).await
}

/// Makes room for a build. Failing to is no reason not to build.
async fn make_room(registry: &mut Registry, context: &Context<'_>) -> Result<()> {
    let name = &context.definition.name;
    let evicted = evict::make_room(registry, &context.project_settings(), name).await;
    tell_evicted(context, evicted)
}

/// Gives up what the limits do not allow any more, and leaves it to the sweep.
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
            context.tell(Event::Warning(&format!("evicting templates failed: {error}: {}", cause(&error))));
            Ok(())
        }
    }
}

/// Builds on a copy of the nearest older template, or from nothing if there is none or that fails.
/// The note says why an extension came to nothing.
async fn extend_or_build(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
) -> Result<(Ended, Option<String>)> {
    let (project, definition) = (context.project, context.definition);
    let recipe = permit.recipe();
    wait_for_former(registry, context, recipe).await?;
    tell_of_another_role(registry, context, recipe).await?;
    from::look(registry, context).await?;
    let why_not = extend::why_not(registry, project, definition, recipe).await?;
    let base = match why_not {
        _ if context.full_build => Err(None),
        Some(NoBase::Never) => Err(None),
        Some(why) => Err(Some(why.to_string())),
        None => extend::find_base(registry, context, recipe).await?,
    };
    let base = match base {
        Ok(base) => base,
        Err(note) => {
            if let Some(note) = &note {
                context.tell(Event::Notice(&format!("nothing is extended: {note}")));
            }
            make_room(registry, context).await?;
            let built = build::build(registry, context, permit, None).await?;
            return Ok((built, note));
        }
    };
    let id = base.template.id;
    let added = &base.extends.added;
    let attempt = Attempt::new(project, &definition.name, context.endpoint.user(), context.holder, added);
    let added = migrations(added).len();
    let short = base.short.clone();
    // Locked, so it is not what goes.
    make_room(registry, context).await?;
    let built = build::build(registry, context, permit, Some(&base)).await;
    // Locked until here, since the result is compared with it. If the session is gone, so is the lock.
    let _ = base.template.let_go(registry).await;
    let error = match built {
        Ok(built) => {
            if matches!(built, Ended::Sealed(_)) {
                registry.note_use(id).await?;
                registry.forget_failure(&attempt).await?;
            }
            return Ok((built, None));
        }
        // To build from nothing would take even more.
        Err(error) if error.has_fault(Fault::DiskFull) => return Err(error),
        Err(error) if error.kind() == Kind::Build || error.has_fault(Fault::SourceUnusable) => error,
        Err(error) => return Err(error),
    };
    let why = match error.kind() {
        Kind::Build => error.message().to_owned(),
        _ => cause(&error),
    };
    // Somebody dropped or damaged it: it must not be found again.
    if matches!(sqlstate(&error).as_deref(), Some("3D000" | "55000" | "58P01" | "XX001" | "XX002")) {
        registry.break_template(id, &why, false).await?;
    }
    let of_build = error.kind() == Kind::Build;
    if of_build
        && let Some(ago) = registry.failed_before(&attempt).await?
        && ago < FAILURES_COUNT
    {
        return Err(error
            .detail(format!(
                "it ran on a copy of template {short}, to which it was to add {}",
                count(added, "new migration")
            ))
            .detail(format!(
                "with the same new files a build from nothing failed, too, {} ago, so there is none this time",
                seconds(ago)
            ))
            .hint("`--full-build` builds from nothing all the same"));
    }
    let note = format!("extending {short} failed: {why}");
    let mut text = format!("{note}; building from nothing");
    for line in error.details() {
        text += &format!("\n{line}");
    }
    context.tell(Event::Warning(&text));
    match build::build(registry, context, permit, None).await {
        Ok(built) => {
            if matches!(built, Ended::Sealed(_)) {
                registry.forget_failure(&attempt).await?;
            }
            Ok((built, Some(note)))
        }
        Err(error) => {
            // Not if it was the caller's patience that ended.
            let in_vain =
                matches!(error.kind(), Kind::Build | Kind::Timeout) && context.deadline.check("").is_ok();
            if of_build && in_vain {
                // What failed is the build, whatever becomes of the note.
                let _ = registry.note_failure(&attempt).await;
            }
            Err(error.detail(note))
        }
    }
}

/// For how long it is remembered that an extension failed, and the build from nothing after it.
const FAILURES_COUNT: Duration = Duration::from_secs(60 * 60);
