//! From incremental to exact: a full build replaces an incrementally built template.

use std::time::{Duration, Instant};

use super::pull;
use super::verify::prove;
use super::waiting::tell_waiting;
use crate::config::Rebuild;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::fingerprint::ServerTraits;
use crate::names::Fingerprint;
use crate::pg::lock::LockKey;
use crate::pg::{Deadline, Doing as _, catalog};
use crate::process::load;
use crate::registry::{Registry, TemplateRow, TemplateState};
use crate::retention::evidence::Evidence;
use crate::retention::rebuild_policy::{self, Costs, Decision, Load, Wait};

/// Result of rebuilding an incrementally built template.
#[derive(Clone, Debug)]
pub(crate) enum Rebuilt {
    /// The template of the current inputs was not built incrementally, or there is none.
    Nothing,
    /// A full build replaced it.
    Replaced,
    /// The inputs changed, so it can no longer be built here.
    Superseded,
    /// The inputs were written to during the build, though they are the same again: the result is dropped. The
    /// changes, one line each.
    Overtaken(Vec<String>),
    /// Another process has taken the rebuild on.
    Taken,
    /// It counts as equal to a full build by the evidence of others.
    Accepted,
    /// It stays provisional until a later decision.
    Waits,
}

/// Time between two checks of the inputs, which show whether the template is still wanted.
const LOOK: Duration = Duration::from_secs(2);

/// Runs a full build that replaces the template of the definition's current inputs, if that was built
/// incrementally, whether it is kept or provisional. One such build runs at a time for each definition; it is
/// cancelled as soon as the inputs change. `wait`: if another process has taken it on, waits until the template
/// is replaced.
///
/// Cancel safety: as of [`super::ensure()`]; the template stays as it was, and if it is provisional, the next
/// command that uses it starts over.
///
/// # Errors
/// As [`super::verify()`]. A failed build is recorded with the template, which stays in use.
pub(crate) async fn rebuild(registry: &mut Registry, context: &Context<'_>, wait: bool) -> Result<Rebuilt> {
    let traits = registry.facts().traits.clone();
    let wanted = fingerprint(context, &traits).await?;
    let name = &context.definition.name;
    let started = Instant::now();
    loop {
        let Some(row) = extended(registry, context, &wanted).await? else {
            return Ok(Rebuilt::Nothing);
        };
        let keys = [LockKey::rebuilder(row.id), LockKey::rebuild(context.project, name)];
        if let Some(lock) = registry.try_lock(keys[0]).await? {
            let done = rebuild_one(registry, context, &traits, &wanted, &row, keys[1]).await;
            // If the session is gone, so are the locks.
            let _ = lock.release(registry).await;
            return done;
        }
        if !wait {
            return Ok(Rebuilt::Taken);
        }
        tell(registry, context, &wanted, started).await?;
        context.deadline.pause(Duration::from_millis(200), "the full build of another process").await?;
    }
}

/// Time between two checks whether the machine is idle.
const IDLE_LOOK: Duration = Duration::from_secs(15);

/// Rebuilds the provisional template of the definition's current inputs as [`rebuild()`] does, if [`rebuild_policy`]
/// wants that now, or accepts it. `uses`: number of its uses that the caller knows of. `patience`: time to wait for an
/// idle machine. With `rebuild = "always"` it is rebuilt, with `"never"` not. What is decided is recorded.
///
/// Cancel safety: as of [`rebuild()`].
///
/// # Errors
/// As [`rebuild()`].
pub(crate) async fn rebuild_when_due(
    registry: &mut Registry,
    context: &Context<'_>,
    uses: u64,
    patience: Duration,
) -> Result<Rebuilt> {
    match context.definition.rebuild {
        Rebuild::Always => return rebuild(registry, context, false).await,
        Rebuild::Never => return Ok(Rebuilt::Nothing),
        Rebuild::Auto => {}
    }
    let traits = registry.facts().traits.clone();
    let wanted = fingerprint(context, &traits).await?;
    let Some(row) = extended(registry, context, &wanted).await?.filter(|row| row.provisional) else {
        return Ok(Rebuilt::Nothing);
    };
    let Some(lock) = registry.try_lock(LockKey::considered(row.id)).await? else {
        return Ok(Rebuilt::Taken);
    };
    let started = Instant::now();
    let decision = loop {
        let decision = consider(registry, context, &row, uses).await;
        let busy = matches!(decision, Ok((Decision::Wait(Wait::Busy), _)));
        if !busy || started.elapsed() + IDLE_LOOK > patience {
            break decision;
        }
        context.deadline.pause(IDLE_LOOK, "an idle machine").await?;
        if fingerprint(context, &traits).await? != wanted {
            let _ = lock.release(registry).await;
            return Ok(Rebuilt::Superseded);
        }
    };
    let _ = lock.release(registry).await;
    let (decision, last) = decision?;
    match decision {
        Decision::Rebuild => rebuild(registry, context, false).await,
        Decision::Accept => Ok(match registry.accept_template(row.id, last).await? {
            true => {
                if pull::is_to_be_pushed(context) {
                    let noted = registry.set_unpushed(row.id).await;
                    noted.doing(|| "record that a template is to be pushed".into())?;
                }
                Rebuilt::Accepted
            }
            false => Rebuilt::Waits,
        }),
        Decision::Wait(_) => Ok(Rebuilt::Waits),
    }
}

/// Decides about a provisional template, and records why it has to wait. Also returns the row number of the last
/// comparison that the decision knows.
async fn consider(
    registry: &mut Registry,
    context: &Context<'_>,
    row: &TemplateRow,
    uses: u64,
) -> Result<(Decision, i64)> {
    let name = &context.definition.name;
    let evidence = Evidence::read(registry, Some((context.project, name))).await?;
    let costs = Costs {
        build: registry.costs(context.project, name).await?.full.unwrap_or_default().as_secs_f64(),
        spent: registry.spent_on_rebuilds().await?,
    };
    let load = Load {
        per_processor: load::per_processor(),
        active: catalog::active_sessions(registry.session()).await?,
    };
    let findings = evidence.tally(context.project, name).findings;
    let decision = rebuild_policy::decide(&evidence.candidate(row, uses), &findings, &costs, &load);
    let why = match decision {
        Decision::Wait(Wait::Busy) => Some("busy"),
        Decision::Wait(Wait::Spent) => Some("spent"),
        _ => None,
    };
    if let Some(why) = why {
        registry.set_rebuild_wait(row.id, why).await?;
    }
    Ok((decision, evidence.last()))
}

async fn rebuild_one(
    registry: &mut Registry,
    context: &Context<'_>,
    traits: &ServerTraits,
    wanted: &Fingerprint,
    row: &TemplateRow,
    one_at_a_time: LockKey,
) -> Result<Rebuilt> {
    let started = Instant::now();
    let mut looked = Instant::now();
    let another = format!("another full build of template `{}`", row.definition);
    let lock = loop {
        if let Some(lock) = registry.try_lock(one_at_a_time).await? {
            break lock;
        }
        context.tell(Event::Waiting {
            definition: &row.definition,
            awaited: &another,
            elapsed: started.elapsed(),
            expected: None,
            tail: "",
        });
        context.deadline.pause(Duration::from_millis(500), &another).await?;
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            if fingerprint(context, traits).await? != *wanted {
                return Ok(Rebuilt::Superseded);
            }
        }
    };
    let done = match extended(registry, context, wanted).await? {
        Some(_) => {
            registry.begin_rebuild(row.id).await?;
            replace(registry, context, traits, wanted).await
        }
        None => Ok(Rebuilt::Nothing),
    };
    if matches!(done, Ok(Rebuilt::Superseded)) {
        registry.cancel_rebuild(row.id).await?;
    }
    // Unless the caller's deadline or cancellation ended it.
    if let Err(error) = &done
        && matches!(error.kind(), Kind::Build | Kind::Timeout)
        && context.deadline.check("").is_ok()
    {
        registry.set_rebuild_failure(row.id, &in_words(error)).await?;
    }
    let _ = lock.release(registry).await;
    done
}

/// Builds and replaces, and watches the inputs during the build: a build of changed files can never be sealed.
async fn replace(
    registry: &mut Registry,
    context: &Context<'_>,
    traits: &ServerTraits,
    wanted: &Fingerprint,
) -> Result<Rebuilt> {
    let deadline = Deadline::new(context.deadline.left(), context.deadline.cancel.child_token());
    let inner = Context { deadline: &deadline, ..context.clone() };
    let mut superseded = false;
    let work = prove(registry, &inner, true, true);
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(LOOK), if !superseded => {
                // Inputs that can no longer be read have changed, too.
                let now = fingerprint(context, traits).await;
                if !now.is_ok_and(|now| now == *wanted) {
                    superseded = true;
                    deadline.cancel.cancel();
                }
            }
        }
    };
    match done {
        Ok(Ok(_)) => Ok(Rebuilt::Replaced),
        // The attempt is not uncounted: a command that writes to its own inputs would be tried indefinitely.
        Ok(Err(overtaken)) if overtaken.recipe.fingerprint() == *wanted => {
            Ok(Rebuilt::Overtaken(overtaken.changes().to_vec()))
        }
        Ok(Err(_)) => Ok(Rebuilt::Superseded),
        Err(_) if superseded => Ok(Rebuilt::Superseded),
        // A short build may end between two checks.
        Err(error) => match fingerprint(context, traits).await {
            Ok(now) if now == *wanted => Err(error),
            _ => Ok(Rebuilt::Superseded),
        },
    }
}

async fn fingerprint(context: &Context<'_>, traits: &ServerTraits) -> Result<Fingerprint> {
    let inputs = context.inputs().await?;
    Ok(inputs.with_server(traits.clone()).fingerprint())
}

async fn extended(
    registry: &mut Registry,
    context: &Context<'_>,
    wanted: &Fingerprint,
) -> Result<Option<TemplateRow>> {
    let name = &context.definition.name;
    let row = registry.find_template(context.project, name, wanted, TemplateState::Ready).await?;
    Ok(row.filter(TemplateRow::is_incremental))
}

async fn tell(
    registry: &mut Registry,
    context: &Context<'_>,
    wanted: &Fingerprint,
    started: Instant,
) -> Result<()> {
    let name = &context.definition.name;
    let building = registry.find_template(context.project, name, wanted, TemplateState::Building).await?;
    match building {
        Some(row) => {
            let costs = registry.costs(context.project, name).await?;
            tell_waiting(context, &row, &costs);
        }
        None => context.tell(Event::Waiting {
            definition: name,
            awaited: &format!("another process to rebuild template `{name}`"),
            elapsed: started.elapsed(),
            expected: None,
            tail: "",
        }),
    }
    Ok(())
}

fn in_words(error: &Error) -> String {
    let mut text = error.message().to_owned();
    for line in error.details() {
        text += "\n";
        text += line;
    }
    crate::names::cut(&text, 4000).to_owned()
}
