//! What a background process does, for whom nobody waits: the sweep, in several passes, and warm clones.

use std::time::Duration;

use super::{Demand, Endpoint, Limit, Stencil};
use crate::clone;
use crate::error::Result;
use crate::handout::Outcome;
use crate::names::Fingerprint;
use crate::registry::Registry;
use crate::sweep::{self, Action};

/// Plans and applies a sweep, for a process that nobody waits for.
///
/// # Errors
/// The driver's.
pub async fn sweep_now(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut last = Ok(());
    for pause in PASSES {
        tokio::time::sleep(pause).await;
        match pass(endpoint, registry, grace, &mut lines).await {
            Ok(true) => return Ok(lines),
            other => last = other.map(|_| ()),
        }
    }
    last.map(|()| lines)
}

impl Stencil {
    /// Makes warm clones of a ready template, as many as `[clone] warm` and `warm_max` say by what was
    /// asked for lately, so that the next [`Stencil::acquire`] need not copy. Notes what is left to be noted
    /// of the last one ([`super::Acquired::demand`]), and the project's limits.
    /// Returns how many it made: none if the definition's template of this fingerprint is gone, or another
    /// process is at it. The command line has this done by a detached process after each hand-out; a
    /// program that uses the library calls it when it has time.
    ///
    /// Cancel safety: what was half made is dropped by the next sweep.
    ///
    /// # Errors
    /// The driver's.
    pub async fn fill(
        &self,
        definition: &str,
        fingerprint: &Fingerprint,
        demand: Demand,
        limit: &Limit,
    ) -> Result<usize> {
        let definition = self.definition(Some(definition))?;
        let context = self.context(definition, limit, &|_| {}, false);
        let Some(mut registry) = self.open_existing(limit).await? else {
            return Ok(0);
        };
        let made = async {
            let project = &self.config.project;
            if let Some(millis) = demand.hit_ms {
                let (name, hit) = (&context.definition.name, Outcome::Hit.as_str());
                registry
                    .note_event(project, name, fingerprint, hit, millis, None)
                    .await?;
            }
            registry
                .renew_limits(project, &self.config.eviction, &self.config.clone)
                .await?;
            let made = match self.config.clone.warm {
                0 => 0,
                _ => clone::fill(&mut registry, &context, fingerprint, demand.clones).await?,
            };
            Ok(made)
        }
        .await;
        match made {
            Ok(_) => self.idle.put(registry),
            Err(_) => registry.close().await,
        }
        made
    }
}

/// The times between the passes of a sweep: what cannot be dropped now often can a moment later,
/// when somebody's session has ended or the server is back.
const PASSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(20),
];

/// One pass, and whether all that it could do is done.
async fn pass(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
    lines: &mut Vec<String>,
) -> Result<bool> {
    let limit = Limit::new(Some(Duration::from_secs(60)), Default::default());
    let Some(mut registry) = Registry::open_existing(endpoint, registry, &limit).await? else {
        return Ok(true);
    };
    // The limit was for the way in; each statement has its own bound.
    registry.session().set_limit(&Limit::default());
    let actions = sweep::plan(&mut registry, grace).await?;
    lines.extend(sweep::apply(&mut registry, &actions, grace).await?);
    let drops = |actions: &[Action]| actions.iter().any(Action::drops);
    let done = !drops(&actions) || !drops(&sweep::plan(&mut registry, grace).await?);
    registry.close().await;
    Ok(done)
}
