//! Work of a background process for which no caller waits: the cleanup, in several passes, and warm clones.

use std::time::Duration;

use super::{Deadline, Endpoint, Stencil};
use crate::error::{Error, Result};
use crate::lease;
use crate::names::Fingerprint;
use crate::pg::slots::Slots;
use crate::registry::{Happened, Registry};
use crate::retention::cleanup::{self, Action};
use crate::template;

/// Plans and applies a cleanup, in a process for which no caller waits.
///
/// # Errors
/// The driver's.
pub async fn clean_up_now(endpoint: &Endpoint, registry: &str, grace: Duration) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut last = Ok(());
    let mut before = None;
    for pause in PASSES {
        tokio::time::sleep(pause).await;
        match pass(endpoint, registry, grace, &mut lines).await {
            Ok(left) if left.is_empty() => return Ok(lines),
            // An obstacle that remains that long will last: a missing privilege, a replication slot. The next command
            // tries again.
            Ok(left) if pause >= LONG_ENOUGH && before.as_ref() == Some(&left) => return Ok(lines),
            Ok(left) => (before, last) = (Some(left), Ok(())),
            Err(error) => last = Err(error),
        }
    }
    last.map(|()| lines)
}

impl Stencil {
    /// Creates warm clones of a ready template: the number that `[clone] warm` and `warm_max` set for recent demand.
    /// Records that `clones` were requested, the times of hits, and the project's settings. Returns the number
    /// created: 0 if the definition's template of this fingerprint is gone, or another process is creating them.
    ///
    /// Cancel safety: an unfinished clone is dropped by the next cleanup.
    ///
    /// # Errors
    /// The driver's.
    #[doc(hidden)]
    pub async fn fill_template(
        &self,
        definition: &str,
        fingerprint: &Fingerprint,
        clones: usize,
        hits_ms: &[u64],
        deadline: &Deadline,
    ) -> Result<usize> {
        let definition = self.definition(Some(definition))?;
        let context = self.context(definition, deadline, &|_| {}, false);
        let Some(mut registry) = self.open_existing(deadline).await? else {
            return Ok(0);
        };
        let made = async {
            for millis in hits_ms {
                let took = Duration::from_millis(*millis);
                registry.note(&context.occurrence(fingerprint, Happened::Hit, took)).await?;
            }
            registry.note_settings(&self.settings()).await?;
            // A failed check is no reason to create no warm clones.
            let _ = template::look_again(&mut registry, &context).await;
            let made = match self.config.clone.warm {
                0 => 0,
                _ => lease::fill(&mut registry, &context, fingerprint, clones).await?,
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

/// Pause after which a drop that is still not possible is left to the next command.
const LONG_ENOUGH: Duration = Duration::from_secs(1);
/// Pauses between the passes of a cleanup: a drop that is not possible now often is a moment later, when another
/// session has ended or the server is back.
pub(super) const PASSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(20),
];

/// Fails if connection slots are scarce, so that they are left to commands that a user waits for.
async fn leave_slots(registry: &mut Registry) -> Result<()> {
    match Slots::count(registry.session()).await? {
        slots if slots.spare() >= 0 => Ok(()),
        slots => Err(Error::failed(format!(
            "{} of {} connection slots are free, which background work leaves to others",
            slots.free, slots.usable
        ))),
    }
}

/// Runs one pass. Returns the drops that are still to be done after it.
async fn pass(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
    lines: &mut Vec<String>,
) -> Result<Vec<Action>> {
    let deadline = Deadline::new(Some(Duration::from_secs(60)), Default::default());
    let Some(mut registry) = Registry::open_existing(endpoint, registry, &deadline).await? else {
        return Ok(Vec::new());
    };
    // The limit was for connecting; each statement has its own.
    registry.session().set_deadline(&Deadline::default());
    leave_slots(&mut registry).await?;
    let actions = cleanup::plan(&mut registry, grace).await?;
    lines.extend(cleanup::apply(&mut registry, &actions, grace).await?);
    let mut left = match actions.iter().any(Action::drops) {
        true => cleanup::plan(&mut registry, grace).await?,
        false => Vec::new(),
    };
    left.retain(Action::drops);
    registry.close().await;
    Ok(left)
}
