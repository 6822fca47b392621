//! Work of a background process for which no caller waits: the cleanup, in several passes, and warm clones.

use std::path::Path;
use std::time::Duration;

use super::owed::Hearer;
use super::{Deadline, Demand, Endpoint, Stencil};
use crate::error::{Error, Result};
use crate::fingerprint;
use crate::lease;
use crate::names::{EMPTY_DATABASE, Fingerprint};
use crate::pg::cause;
use crate::pg::slots::Slots;
use crate::quantity::count;
use crate::registry::{Happened, Registry};
use crate::retention::cleanup::{self, Action};
use crate::template;

/// Plans and applies a cleanup, in a process for which no caller waits.
///
/// # Errors
/// The driver's.
pub async fn clean_up_now(endpoint: &Endpoint, registry: &str, grace: Duration) -> Result<Vec<String>> {
    let mut session = None;
    let done = clean_up_with(endpoint, registry, grace, &mut session).await;
    if let Some(registry) = session {
        registry.close().await;
    }
    done
}

/// Runs [`clean_up_now`] in a session, if there is one. Leaves there the session that it used last.
///
/// # Errors
/// The driver's.
pub(crate) async fn clean_up_with(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
    session: &mut Option<Registry>,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut last = Ok(());
    let mut before = None;
    for pause in PASSES {
        if pause >= LONG_ENOUGH
            && let Some(registry) = session.take()
        {
            registry.close().await;
        }
        tokio::time::sleep(pause).await;
        match pass(endpoint, registry, grace, session, &mut lines).await {
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

/// Removes the copies of trees that killed builds left in a directory. Returns a line if there were any.
pub(crate) fn clean_up_copies(directory: &Path) -> Vec<String> {
    match fingerprint::clean_up_copies(directory) {
        0 => Vec::new(),
        n => vec![format!("removed {} of a tree", count(n, "copy"))],
    }
}

/// Pauses between the passes of a cleanup for which a caller waits.
const PASSES_HERE: [Duration; 2] = [Duration::ZERO, Duration::from_millis(300)];

impl Stencil {
    /// Does the work of a background process in this one: drops what is to be dropped, and runs the `before_release`
    /// commands that are owed for that. Whatever fails is left to the next cleanup.
    pub(crate) async fn clean_up_here(&self) {
        self.in_session(async |registry| self.clean_up_in(registry).await).await;
    }

    /// Runs work whose failures are left to the next cleanup, in a session if there is a registry.
    async fn in_session(&self, work: impl AsyncFnOnce(&mut Registry) -> Result<()>) {
        let deadline = Deadline::new(Some(Duration::from_secs(10)), Default::default());
        let Ok(Some(mut registry)) = self.open_existing(&deadline).await else {
            return;
        };
        match work(&mut registry).await {
            Ok(()) => self.idle.put(registry),
            Err(_) => registry.close().await,
        }
    }

    /// Runs the `before_release` commands that are owed for clones that are gone.
    async fn run_owed_in(&self, registry: &mut Registry) -> Result<()> {
        match self.hooks() {
            Some(hooks) => hooks.all(registry, &Deadline::default(), Hearer::Next).await.map(drop),
            None => Ok(()),
        }
    }

    /// Cleans up in one pass if at least `many` released clones wait for their drop. Whatever fails is left to the next
    /// cleanup.
    pub(crate) async fn drop_if_many(&self, many: usize) {
        self.in_session(async |registry| {
            if registry.count_released().await? < many {
                return Ok(());
            }
            registry.session().set_deadline(&Deadline::default());
            let grace = *self.config.clone.orphan_grace;
            let actions = cleanup::plan(registry, grace).await?;
            cleanup::apply(registry, &actions, grace).await?;
            self.run_owed_in(registry).await
        })
        .await;
    }

    /// Runs [`Stencil::clean_up_here`] in an existing session.
    pub(crate) async fn clean_up_in(&self, registry: &mut Registry) -> Result<()> {
        self.copies.as_deref().map(clean_up_copies);
        registry.session().set_deadline(&Deadline::default());
        for clone in self.background.take_left() {
            registry.release_clone(&clone).await?;
        }
        let grace = *self.config.clone.orphan_grace;
        for pause in PASSES_HERE {
            tokio::time::sleep(pause).await;
            if !registry.has_leftovers().await? {
                break;
            }
            let actions = cleanup::plan(registry, grace).await?;
            if !cleanup::apply(registry, &actions, grace).await?.left {
                break;
            }
        }
        self.run_owed_in(registry).await?;
        // A table that could not be vacuumed is left to the next cleanup.
        registry.vacuum().await.map(drop)
    }

    /// Records a request for clones, in one message: the time of a hit that is not recorded yet, and the project's
    /// settings. Returns the background work that is due.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_request(
        &self,
        registry: &mut Registry,
        definition: &str,
        fingerprint: &Fingerprint,
        demand: Demand,
    ) -> Result<Due> {
        let deadline = Deadline::default();
        let context = self.context(self.definition(Some(definition))?, &deadline, &|_| {}, false);
        let millis = demand.hit_ms.map(Duration::from_millis);
        let hits: Vec<_> =
            millis.iter().map(|took| context.occurrence(fingerprint, Happened::Hit, *took)).collect();
        let settings = self.settings();
        let (stock, leftovers) = registry.note_request(&hits, &settings, definition, fingerprint).await?;
        let (clone, eviction) = (context.clone_settings, context.eviction);
        let lacks = stock.is_some_and(|stock| demand.announced || lease::lacks(&stock, clone, eviction) > 0);
        Ok(Due {
            // A check of the database that builds start from is due, too, now and then.
            fill: clone.warm > 0 && lacks || context.definition.from != EMPTY_DATABASE,
            cleanup: leftovers,
        })
    }

    /// Creates warm clones of a ready template: the number that `[clone] warm` and `warm_max` set for recent demand;
    /// none if background work is off. `announced`: requests are expected, so there are at least `warm`. Records the
    /// times of hits and the project's settings. Returns the number created: 0 if the definition's template of this
    /// fingerprint is gone, or another process is creating them.
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
        announced: bool,
        hits_ms: &[u64],
        deadline: &Deadline,
    ) -> Result<usize> {
        let context = self.context(self.definition(Some(definition))?, deadline, &|_| {}, false);
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
            match self.config.clone.warm {
                0 => Ok(0),
                _ if self.is_background_off() => Ok(0),
                _ => lease::fill(&mut registry, &context, fingerprint, announced).await,
            }
        }
        .await;
        match made {
            Ok(_) => self.idle.put(registry),
            Err(_) => registry.close().await,
        }
        made
    }

    /// Lends a session to [`Stencil::fill_template`].
    pub(crate) fn lend(&self, session: Option<Registry>) {
        session.into_iter().for_each(|registry| self.idle.put(registry));
    }

    /// Takes back a session that was left for the next request.
    pub(crate) async fn take_back(&self) -> Option<Registry> {
        self.idle.take(&Deadline::default()).await
    }
}

/// Background work after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// There are fewer warm clones than the demand justifies.
    pub(crate) fill: bool,
    /// There may be something to clean up.
    pub(crate) cleanup: bool,
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
            "only {} of {} connection slots are free, so background work has to wait",
            slots.free, slots.usable
        ))),
    }
}

/// Runs one pass. Returns the drops that are still to be done after it.
async fn pass(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
    session: &mut Option<Registry>,
    lines: &mut Vec<String>,
) -> Result<Vec<Action>> {
    let deadline = Deadline::new(Some(Duration::from_secs(60)), Default::default());
    let mut registry = match session.take() {
        Some(registry) => registry,
        None => match Registry::open_existing(endpoint, registry, &deadline).await? {
            Some(registry) => registry,
            None => return Ok(Vec::new()),
        },
    };
    // The limit was for connecting; each statement has its own.
    registry.session().set_deadline(&Deadline::default());
    leave_slots(&mut registry).await?;
    let actions = cleanup::plan(&mut registry, grace).await?;
    let applied = cleanup::apply(&mut registry, &actions, grace).await?;
    lines.extend(applied.lines);
    let mut left = match applied.left {
        true => cleanup::plan(&mut registry, grace).await?,
        false => Vec::new(),
    };
    left.retain(Action::drops);
    // Tables that stay as they are cost some time later, and nothing else.
    match registry.vacuum().await {
        Ok(failed) => lines.extend(failed),
        Err(error) => lines.push(format!("{error}: {}", cause(&error))),
    }
    *session = Some(registry);
    Ok(left)
}
