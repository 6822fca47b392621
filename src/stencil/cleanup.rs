//! Work of a background process for which no caller waits: the cleanup, in several passes, and warm clones.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::owed::Hearer;
use super::{Deadline, Demand, Endpoint, Stencil};
use crate::context::Context;
use crate::database::create;
use crate::error::{Error, Result};
use crate::fingerprint;
use crate::lease;
use crate::names::{EMPTY_DATABASE, Fingerprint};
use crate::pg::lock::LockKey;
use crate::pg::slots::Slots;
use crate::pg::{cause, is_connection_loss};
use crate::quantity::count;
use crate::registry::{Happened, Registry, Waiting};
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
        let mut sweeper = Sweeper::new(session.take());
        let passed = loop {
            let passed = sweeper.pass(endpoint, registry, grace, create::PATIENCE).await;
            let Ok(Passed { lines: done, more: true, .. }) = &passed else {
                break passed;
            };
            lines.extend_from_slice(done);
        };
        *session = sweeper.end().await;
        let left = passed.map(|passed| {
            lines.extend(passed.lines);
            passed.left
        });
        match left {
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

/// Sessions of a cleanup that works in passes.
#[derive(Default)]
pub(super) struct Sweeper {
    session: Option<Registry>,
    lanes: cleanup::Lanes,
    /// Last time that there were slots for them.
    checked: Option<Instant>,
}

/// Result of one pass.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// A line for each thing done or left.
    lines: Vec<String>,
    /// Drops that are to be done after it.
    left: Vec<Action>,
    /// Those of them that it tried.
    pub(super) stuck: Vec<Action>,
    /// Whether it stopped at the limit of a pass, and the next one probably drops more.
    pub(super) more: bool,
    /// Whether there is something to drop since: released in the meantime, or warm again without room for it.
    pub(super) new: bool,
}

impl Sweeper {
    fn new(session: Option<Registry>) -> Self {
        Sweeper { session, ..Sweeper::default() }
    }

    /// Returns the session that it used last, and closes the others.
    async fn end(mut self) -> Option<Registry> {
        self.lanes.close().await;
        self.session
    }

    /// Whether it has sessions.
    pub(super) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Closes the sessions.
    pub(super) async fn close(&mut self) {
        self.lanes.close().await;
        if let Some(registry) = self.session.take() {
            registry.close().await;
        }
    }

    /// Returns the session, opened if there is none; `None` if there is no registry. The registry may have changed
    /// hands while a session was idle, so each use begins with the guard.
    pub(super) async fn registry(
        &mut self,
        endpoint: &Endpoint,
        name: &str,
    ) -> Result<Option<&mut Registry>> {
        if let Some(registry) = &mut self.session
            && !registry.start_over().await.unwrap_or(false)
        {
            // It is lost, or not to be used; a new one shows which.
            self.close().await;
        }
        if self.session.is_none() {
            let deadline = Deadline::new(Some(Duration::from_secs(60)), Default::default());
            let Some(mut registry) = Registry::open_existing(endpoint, name, &deadline).await? else {
                return Ok(None);
            };
            // The limit was for connecting; each statement has its own.
            registry.session().set_deadline(&Deadline::default());
            self.session = Some(registry);
            self.checked = None;
        }
        Ok(self.session.as_mut())
    }

    /// Runs one pass. After an error there are no sessions.
    ///
    /// # Errors
    /// The driver's.
    pub(super) async fn pass(
        &mut self,
        endpoint: &Endpoint,
        name: &str,
        grace: Duration,
        patience: Duration,
    ) -> Result<Passed> {
        let kept = self.is_open();
        let mut passed = self.pass_once(endpoint, name, grace, patience).await;
        // The server may have ended it while it was idle.
        if kept && passed.as_ref().is_err_and(is_connection_loss) {
            (self.session, self.lanes) = Default::default();
            passed = self.pass_once(endpoint, name, grace, patience).await;
        }
        if passed.is_err() {
            self.close().await;
        }
        passed
    }

    async fn pass_once(
        &mut self,
        endpoint: &Endpoint,
        name: &str,
        grace: Duration,
        patience: Duration,
    ) -> Result<Passed> {
        if self.registry(endpoint, name).await?.is_none() {
            return Ok(Passed::default());
        }
        let Sweeper { session: Some(registry), lanes, checked } = self else {
            return Ok(Passed::default());
        };
        if checked.is_none_or(|checked| checked.elapsed() > LONG_ENOUGH) {
            leave_slots(endpoint, registry).await?;
            *checked = Some(Instant::now());
        }
        let actions = cleanup::plan(registry, grace).await?;
        if actions.is_empty() {
            return Ok(Passed { lines: vacuum(registry).await, ..Passed::default() });
        }
        let applied = cleanup::apply_in(registry, lanes, &actions, grace, patience).await?;
        let mut left = match applied.left {
            true => cleanup::plan(registry, grace).await?,
            false => Vec::new(),
        };
        left.retain(Action::drops);
        let more = applied.more && applied.done > 0;
        let (old, new): (Vec<_>, Vec<_>) = left.iter().cloned().partition(|action| actions.contains(action));
        let stuck = if more { Vec::new() } else { old };
        let mut lines = applied.lines;
        lines.extend(vacuum(registry).await);
        Ok(Passed { lines, left, stuck, more, new: !new.is_empty() })
    }
}

/// Vacuums the registry's tables. Tables that stay as they are cost some time later, and nothing else.
async fn vacuum(registry: &mut Registry) -> Vec<String> {
    match registry.vacuum().await {
        Ok(failed) => failed,
        Err(error) => vec![format!("{error}: {}", cause(&error))],
    }
}

/// Time for which a caller waits until another one has dropped clones.
const PATIENCE: Duration = Duration::from_secs(10);
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
        let _ = self.with_session(&deadline, work).await;
    }

    /// Runs work in a session, which is left for the next request unless the work fails. `None`: there is no registry.
    async fn with_session<T>(
        &self,
        deadline: &Deadline,
        work: impl AsyncFnOnce(&mut Registry) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(mut registry) = self.open_existing(deadline).await? else {
            return Ok(None);
        };
        let done = work(&mut registry).await;
        match done {
            Ok(_) => self.idle.put(registry),
            Err(_) => registry.close().await,
        }
        done.map(Some)
    }

    /// Runs the `before_release` commands that are owed for clones that are gone.
    async fn run_owed_in(&self, registry: &mut Registry) -> Result<()> {
        match self.hooks() {
            Some(hooks) => hooks.all(registry, &Deadline::default(), Hearer::Next).await.map(drop),
            None => Ok(()),
        }
    }

    /// Drops the released clones if many of them wait for that, so that a loop of requests does not fill the server. One
    /// caller of all processes does it; the others wait for it only if there are half as many more.
    pub(super) async fn relieve(&self, registry: &mut Registry, waiting: usize) -> Result<()> {
        let Some(many) = self.many else {
            return Ok(());
        };
        // Those that cannot be dropped are tried again when as many have been added.
        let seen = self.stuck.load(Ordering::Relaxed);
        if waiting < many + seen {
            if waiting < seen {
                self.stuck.store(0, Ordering::Relaxed);
            }
            return Ok(());
        }
        let deadline = Deadline::default();
        registry.session().set_deadline(&deadline);
        let turn = Waiting {
            step: Duration::from_millis(20),
            most: Some(if waiting < many + many / 2 + seen { Duration::ZERO } else { PATIENCE }),
            deadline: &deadline,
            what: "another process that drops clones",
        };
        let Some(lock) = registry.lock(LockKey::drops(), turn).await? else {
            return Ok(());
        };
        let done = async {
            if registry.count_released().await? < many + seen {
                return Ok(());
            }
            let grace = *self.config.clone.orphan_grace;
            let actions = cleanup::plan(registry, grace).await?;
            let drops = actions.iter().filter(|action| action.drops()).count();
            let applied = cleanup::apply_now(registry, &actions, grace).await?;
            // Without those that were released in the meantime: a limit that they raise would rise with each turn.
            let stuck = if applied.more { 0 } else { drops.saturating_sub(applied.done) };
            self.stuck.store(stuck, Ordering::Relaxed);
            Ok(())
        }
        .await;
        lock.release(registry).await?;
        done?;
        self.run_owed_in(registry).await
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
            if !Box::pin(cleanup::apply_now(registry, &actions, grace)).await?.left {
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
        let made = self.with_session(deadline, async |registry| {
            for millis in hits_ms {
                let took = Duration::from_millis(*millis);
                registry.note(&context.occurrence(fingerprint, Happened::Hit, took)).await?;
            }
            registry.note_settings(&self.settings()).await?;
            self.fill_in(registry, &context, fingerprint, announced).await
        });
        Ok(made.await?.unwrap_or_default())
    }

    /// Records a request of another process as [`Stencil::note_request`] does, and creates the warm clones that it
    /// justifies as [`Stencil::fill_template`] does. Returns their number.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn fill_after_request(
        &self,
        definition: &str,
        fingerprint: &Fingerprint,
        demand: Demand,
        deadline: &Deadline,
    ) -> Result<usize> {
        let context = self.context(self.definition(Some(definition))?, deadline, &|_| {}, false);
        let made = self.with_session(deadline, async |registry| {
            match self.note_request(registry, definition, fingerprint, demand).await?.fill {
                true => self.fill_in(registry, &context, fingerprint, demand.announced).await,
                false => Ok(0),
            }
        });
        Ok(made.await?.unwrap_or_default())
    }

    async fn fill_in(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        fingerprint: &Fingerprint,
        announced: bool,
    ) -> Result<usize> {
        // A failed check is no reason to create no warm clones.
        let _ = template::look_again(registry, context).await;
        if self.config.clone.warm == 0 || self.is_background_off() {
            return Ok(0);
        }
        lease::fill(registry, context, fingerprint, announced).await
    }

    /// Lends a session to [`Stencil::fill_template`].
    pub(crate) fn lend(&self, session: Option<Registry>) {
        session.into_iter().for_each(|registry| self.idle.put(registry));
    }

    /// Takes back a session that was left for the next request. Its next user begins with the guard: [`Stencil::lend`]
    /// and [`clean_up_with`] see to that.
    pub(crate) fn take_back(&self) -> Option<Registry> {
        self.idle.take_unchecked()
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
pub(super) const LONG_ENOUGH: Duration = Duration::from_secs(1);
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
async fn leave_slots(endpoint: &Endpoint, registry: &mut Registry) -> Result<()> {
    let slots = Slots::count(registry.session()).await?;
    slots.note(endpoint);
    match slots {
        slots if slots.spare() >= 0 => Ok(()),
        slots => Err(Error::failed(format!(
            "only {} of {} connection slots are free, so background work has to wait",
            slots.free, slots.usable
        ))),
    }
}
