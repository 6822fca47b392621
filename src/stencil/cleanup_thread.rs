//! The thread of a program that uses the library: it discards clones that a caller could not, drops released clones,
//! and runs `before_release` for clones that a cleanup took.
//!
//! It has a runtime of its own, since the caller's may end at any moment: each `#[tokio::test]` has one. If the
//! program ends first, the next cleanup of any process does the rest.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::cleanup::{LONG_ENOUGH, PASSES, Passed, Sweeper};
use super::owed::{Hearer, Hooks};
use crate::config::Config;
use crate::error::Result;
use crate::pg::{Deadline, Endpoint};
use crate::registry::Holder;
use crate::retention::cleanup::Action;

/// Time that an idle thread waits before it ends: tests release clones one after another. So long it keeps its sessions.
const LINGER: Duration = Duration::from_secs(2);
/// Time during which clones are collected, since clones that are dropped together share checkpoints.
const COLLECT: Duration = Duration::from_millis(50);
/// Time for which the drops of a pass give way to copies that a process waits for.
const GIVE_WAY: Duration = Duration::from_millis(250);
/// Returns the pauses before the cleanups for an abandoned request, each after the cleanup before it: a server
/// notices the end of a session when it next reads from it, and a clone without a session is dropped `orphan_grace`
/// after the cleanup that finds it so.
fn abandoned(grace: Duration) -> VecDeque<Duration> {
    let seconds = Duration::from_secs_f64;
    let later = grace + seconds(0.5);
    [seconds(0.2), seconds(2.0), later, later].into()
}

/// Handle to the cleanup thread, which runs only while there is work.
pub(super) struct CleanupThread {
    /// `None` if there is no thread.
    shared: Option<Arc<Shared>>,
    /// With background work off: clones whose leases were dropped, for the next call that can discard them.
    left: Option<Mutex<Vec<String>>>,
}

struct Shared {
    endpoint: Endpoint,
    registry: String,
    grace: Duration,
    checkout: Checkout,
    queue: Mutex<Queue>,
    wake: Condvar,
    state: watch::Sender<State>,
}

/// What callers of [`CleanupThread::finish`] wait for.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// There is work to do now.
    busy: bool,
    /// The thread has sessions.
    open: bool,
}

/// Arguments that `before_release` needs.
pub(super) struct Checkout {
    pub(super) config: Arc<Config>,
    /// The server, as its clients reach it.
    pub(super) endpoint: Endpoint,
    pub(super) holder: Holder,
}

#[derive(Default)]
struct Queue {
    /// Ids of clones to discard.
    clones: Vec<String>,
    /// Cleanups that are planned.
    cleanups: Vec<Cleanup>,
    /// Repetition of a cleanup that failed, or left something.
    retry: Option<Retry>,
    /// Number of callers who wait until the thread has no work and no sessions.
    finishing: usize,
    /// Whether the thread runs.
    runs: bool,
    /// Whether the last handle was dropped.
    closed: bool,
    /// Whether a cleanup for earlier programs was requested.
    looked: bool,
}

/// A planned cleanup.
struct Cleanup {
    at: Instant,
    /// Pauses before the cleanups that follow it.
    then: VecDeque<Duration>,
}

/// A cleanup that is repeated since a drop was not possible, which often is a moment later, when another session has
/// ended or the server is back.
struct Retry {
    at: Instant,
    /// Number of its pause in [`PASSES`].
    nth: usize,
    /// Drops that the cleanup before it left; `None` if it failed.
    left: Option<Vec<Action>>,
}

impl Queue {
    fn next(&self) -> Option<Instant> {
        let retry = self.retry.iter().map(|retry| retry.at);
        self.cleanups.iter().map(|cleanup| cleanup.at).chain(retry).min()
    }

    /// Plans a repetition after a cleanup, or no more. `left`: what it tried and left; `None` if it failed.
    fn retry(&mut self, left: Option<Vec<Action>>, now: Instant) {
        let of_new = |left: &[Action], before: &[Action]| left.iter().any(|action| !before.contains(action));
        let nth = match (&self.retry, &left) {
            (_, Some(left)) if left.is_empty() => return self.retry = None,
            // Something else is stuck.
            (Some(Retry { left: Some(before), .. }), Some(left)) if of_new(left, before) => 1,
            // This was another cleanup before it.
            (Some(retry), _) if retry.at > now => return,
            // An obstacle that remains that long will last: a missing privilege, a replication slot. The next program
            // or command tries again.
            (Some(Retry { nth, left: Some(before), .. }), Some(left))
                if PASSES[*nth] >= LONG_ENOUGH && before == left =>
            {
                return self.retry = None;
            }
            (Some(Retry { nth, .. }), _) => nth + 1,
            (None, _) => 1,
        };
        self.retry = PASSES.get(nth).map(|pause| Retry { at: now + *pause, nth, left });
    }

    fn cleanup(&mut self, at: Instant) {
        let then = VecDeque::new();
        self.cleanups.push(Cleanup { at, then });
    }

    /// Plans a cleanup after each of these pauses.
    fn clean_up_after(&mut self, mut pauses: VecDeque<Duration>, now: Instant) {
        if let Some(first) = pauses.pop_front() {
            let (at, then) = (now + first, pauses);
            self.cleanups.push(Cleanup { at, then });
        }
    }

    /// Whether the thread should work now.
    fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|next| next <= now)
    }

    /// Whether there is work that callers may wait for, not only a later check.
    fn is_busy(&self, now: Instant) -> bool {
        self.is_due(now + COLLECT) || self.retry.is_some()
    }
}

impl CleanupThread {
    /// Creates the value without starting the thread.
    pub(super) fn new(checkout: Checkout) -> Self {
        let Config { server, clone, .. } = &*checkout.config;
        CleanupThread {
            shared: Some(Arc::new(Shared {
                endpoint: checkout.endpoint.clone().in_background(),
                registry: server.registry.to_string(),
                grace: *clone.orphan_grace,
                checkout,
                queue: Mutex::default(),
                wake: Condvar::new(),
                state: watch::Sender::default(),
            })),
            left: None,
        }
    }

    /// Creates a value for which another process does all the work.
    pub(super) fn elsewhere() -> Self {
        CleanupThread { shared: None, left: None }
    }

    /// Creates a value without a thread: the calls that release clones drop them.
    pub(super) fn off() -> Self {
        CleanupThread { shared: None, left: Some(Mutex::default()) }
    }

    /// Whether the calls that release clones drop them.
    pub(super) fn is_off(&self) -> bool {
        self.left.is_some()
    }

    /// Whether [`CleanupThread::take_left`] has any.
    pub(super) fn has_left(&self) -> bool {
        let left = self.left.as_ref().map(|left| left.lock().unwrap_or_else(PoisonError::into_inner));
        left.is_some_and(|left| !left.is_empty())
    }

    /// Takes the clones whose leases were dropped while background work is off.
    pub(super) fn take_left(&self) -> Vec<String> {
        let left = self.left.as_ref().map(|left| left.lock().unwrap_or_else(PoisonError::into_inner));
        left.map(|mut left| std::mem::take(&mut *left)).unwrap_or_default()
    }

    /// Has released clones dropped.
    pub(super) fn drop_given_back(&self) {
        self.add(|queue, now| queue.cleanup(now + COLLECT));
    }

    /// Has the leftovers of earlier programs dropped, once.
    pub(super) fn look_once(&self) {
        self.add(|queue, now| {
            if !std::mem::replace(&mut queue.looked, true) {
                queue.cleanup(now + COLLECT);
            }
        });
    }

    /// Returns a pledge that discards `clones` unless the caller reports completion by [`Pledge::kept`].
    pub(super) fn to_give_up(&self, clones: Vec<String>) -> Pledge<'_> {
        Pledge { background: self, what: Some(What::GiveUp(clones)) }
    }

    /// Returns a pledge that has the caller's leftovers found unless it reports completion by [`Pledge::kept`].
    pub(super) fn to_find(&self) -> Pledge<'_> {
        Pledge { background: self, what: Some(What::Find) }
    }

    fn add(&self, change: impl FnOnce(&mut Queue, Instant)) {
        let Some(shared) = &self.shared else {
            return;
        };
        let mut queue = shared.lock();
        change(&mut queue, Instant::now());
        if queue.next().is_none() {
            return;
        }
        shared.state.send_modify(|state| state.busy = true);
        if queue.runs {
            shared.wake.notify_one();
            return;
        }
        let of_thread = Arc::clone(shared);
        let started = std::thread::Builder::new().name("pgstencil".into()).spawn(move || of_thread.run());
        // Without the thread, the next cleanup of another process does this.
        queue.runs = started.is_ok();
        if !queue.runs {
            shared.state.send_replace(State::default());
        }
    }

    /// Waits until all current work is done, and the sessions for it are closed.
    pub(super) async fn finish(&self) {
        if let Some(shared) = &self.shared {
            let _finishing = Finishing::begin(shared);
            // The sender lives as long as `shared`.
            let _ = shared.state.subscribe().wait_for(|state| !state.busy && !state.open).await;
        }
    }
}

/// A caller of [`CleanupThread::finish`].
struct Finishing<'a>(&'a Shared);

impl<'a> Finishing<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.lock().finishing += 1;
        shared.wake.notify_one();
        Finishing(shared)
    }
}

impl Drop for Finishing<'_> {
    fn drop(&mut self) {
        self.0.lock().finishing -= 1;
    }
}

impl Drop for CleanupThread {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.lock().closed = true;
            shared.wake.notify_one();
        }
    }
}

/// Work for the thread if a caller's future is dropped before it completes.
#[must_use = "dropping it has the work done"]
pub(super) struct Pledge<'a> {
    background: &'a CleanupThread,
    what: Option<What>,
}

enum What {
    GiveUp(Vec<String>),
    Find,
}

impl Pledge<'_> {
    /// Reports that the caller did the work.
    pub(super) fn kept(mut self) {
        self.what = None;
    }
}

impl Drop for Pledge<'_> {
    fn drop(&mut self) {
        let Some(what) = self.what.take() else {
            return;
        };
        if let (Some(left), What::GiveUp(clones)) = (&self.background.left, &what) {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            left.extend_from_slice(clones);
        }
        let shared = self.background.shared.as_ref();
        let grace = shared.map_or(Duration::ZERO, |shared| shared.grace);
        self.background.add(|queue, now| match what {
            What::GiveUp(clones) => {
                queue.clones.extend(clones);
                queue.cleanup(now);
            }
            What::Find => queue.clean_up_after(abandoned(grace), now),
        });
    }
}

impl Shared {
    /// Releases the callers who wait for a thread that cannot continue.
    fn end(&self) {
        let mut queue = self.lock();
        queue.runs = false;
        self.state.send_replace(State::default());
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let _panics = Panics(self);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else {
            return self.end();
        };
        let mut sweeper = Sweeper::default();
        while let Some(step) = self.wait(sweeper.is_open()) {
            match step {
                Step::Work(work) => {
                    self.state.send_modify(|state| state.open = true);
                    runtime.block_on(self.work(work, &mut sweeper));
                    if self.endpoint.is_scarce() {
                        runtime.block_on(sweeper.close());
                    }
                }
                Step::Close => runtime.block_on(sweeper.close()),
            }
            self.state.send_modify(|state| state.open = sweeper.is_open());
        }
    }

    /// Waits for the next work; `None` if there was none for a while. `open`: whether there are sessions to close before
    /// that.
    fn wait(&self, open: bool) -> Option<Step> {
        let mut queue = self.lock();
        let started = Instant::now();
        loop {
            let now = Instant::now();
            let is_retry = queue.retry.as_ref().is_some_and(|retry| retry.at <= now);
            if queue.is_due(now) || (queue.closed && queue.is_due(now + COLLECT)) {
                let due = |cleanup: &mut Cleanup| cleanup.at <= now + COLLECT;
                let due = queue.cleanups.extract_if(.., due);
                let later = due.map(|cleanup| cleanup.then).collect();
                let clones = std::mem::take(&mut queue.clones);
                return Some(Step::Work(Work { clones, later }));
            }
            let is_busy = queue.is_busy(now);
            if !is_busy {
                self.state.send_modify(|state| state.busy = false);
            }
            let idle = started.elapsed() >= LINGER;
            if open && !is_retry && (queue.closed || queue.finishing > 0 && !is_busy || idle) {
                return Some(Step::Close);
            }
            if queue.closed && !is_busy || queue.next().is_none() && idle {
                queue.runs = false;
                return None;
            }
            let linger = open || queue.next().is_none();
            let until = queue.next().into_iter().chain(linger.then_some(started + LINGER)).min();
            let pause = until.unwrap_or(now + LINGER).saturating_duration_since(now);
            let waited = self.wake.wait_timeout(queue, pause);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Cleans up in one pass. Failures are left to later passes, or to the next cleanup of any process.
    async fn work(&self, work: Work, sweeper: &mut Sweeper) {
        let given_up = self.give_up(&work.clones, sweeper).await;
        let passed = sweeper.pass(&self.endpoint, &self.registry, self.grace, GIVE_WAY).await;
        // Failures are left to the next program or command of the checkout.
        let _ = self.pay(sweeper).await;
        let (mut queue, now) = (self.lock(), Instant::now());
        for pauses in work.later {
            queue.clean_up_after(pauses, now);
        }
        if passed.as_ref().is_ok_and(|passed| passed.new) {
            queue.cleanup(now + COLLECT);
        }
        match passed {
            Ok(Passed { more: true, .. }) => queue.cleanup(now),
            Ok(Passed { stuck, .. }) if given_up.is_ok() => queue.retry(Some(stuck), now),
            Ok(_) | Err(_) => queue.retry(None, now),
        }
        // After the last attempt, cleanups of other processes find them by their locks.
        if given_up.is_err() && queue.retry.is_some() {
            queue.clones.extend(work.clones);
        }
    }

    /// Runs the commands that the program's checkout owes for clones that are gone.
    async fn pay(&self, sweeper: &mut Sweeper) -> Result<()> {
        let Checkout { config, endpoint, holder } = &self.checkout;
        let Some(hooks) = Hooks::of(config, endpoint, holder) else {
            return Ok(());
        };
        if let Some(registry) = sweeper.registry(&self.endpoint, &self.registry).await? {
            hooks.all(registry, &Deadline::default(), Hearer::Next).await?;
        }
        Ok(())
    }

    async fn give_up(&self, clones: &[String], sweeper: &mut Sweeper) -> Result<()> {
        if clones.is_empty() {
            return Ok(());
        }
        let Some(registry) = sweeper.registry(&self.endpoint, &self.registry).await? else {
            return Ok(());
        };
        let mut given_up = Ok(());
        for clone in clones {
            given_up = registry.release_clone(clone).await.map(drop);
            if given_up.is_err() {
                // The session may be lost.
                sweeper.close().await;
                break;
            }
        }
        given_up
    }
}

/// What the thread does next.
enum Step {
    Work(Work),
    /// Close the sessions.
    Close,
}

/// A cleanup that is due.
struct Work {
    /// Clones to discard before it.
    clones: Vec<String>,
    /// Pauses before further cleanups.
    later: Vec<VecDeque<Duration>>,
}

/// Shuts down properly if the thread panics.
struct Panics<'a>(&'a Shared);

impl Drop for Panics<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop_of(clone: &str) -> Action {
        Action::DropClone { clone: clone.into(), name: clone.into(), why: "it was released" }
    }

    /// Pauses until a retry is given up. `left`: what each cleanup leaves; `None` if it fails.
    fn pauses(left: impl Fn(usize) -> Option<Vec<Action>>) -> Vec<Duration> {
        let (mut queue, mut now, mut pauses) = (Queue::default(), Instant::now(), Vec::new());
        for nth in 0.. {
            queue.retry(left(nth), now);
            let Some(retry) = &queue.retry else {
                break;
            };
            pauses.push(retry.at - now);
            now = retry.at;
        }
        pauses
    }

    #[test]
    fn a_cleanup_is_repeated_until_nothing_is_left_or_it_is_in_vain() {
        assert_eq!(pauses(|_| Some(Vec::new())), []);
        assert_eq!(pauses(|nth| Some(vec![drop_of("a"); usize::from(nth < 2)])), PASSES[1..3]);
        // A failure may be a server that restarts.
        assert_eq!(pauses(|_| None), PASSES[1..]);
        // What remains after a second will remain.
        assert_eq!(pauses(|_| Some(vec![drop_of("a")])), PASSES[1..3]);
    }

    #[test]
    fn other_cleanups_change_nothing_about_a_retry_unless_something_else_is_stuck() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let at = |queue: &Queue| queue.retry.as_ref().map(|retry| retry.at - now);
        queue.retry(Some(vec![drop_of("a")]), now);
        let later = now + PASSES[1];
        queue.retry(Some(vec![drop_of("a")]), later);
        assert_eq!(at(&queue), Some(PASSES[1] + PASSES[2]));
        queue.retry(Some(vec![drop_of("a")]), later + COLLECT);
        assert_eq!(at(&queue), Some(PASSES[1] + PASSES[2]));
        queue.retry(Some(vec![drop_of("a"), drop_of("b")]), later + COLLECT);
        assert_eq!(at(&queue), Some(PASSES[1] + COLLECT + PASSES[1]));
        assert!(queue.is_busy(now));
        queue.retry(Some(Vec::new()), later + COLLECT);
        assert_eq!(at(&queue), None);
        assert!(!queue.is_busy(now));
    }
}
