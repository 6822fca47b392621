//! The thread of a program that uses the library: it discards clones that a caller could not, drops released clones,
//! and runs `before_release` for clones that a cleanup took.
//!
//! It has a runtime of its own, since the caller's may end at any moment: each `#[tokio::test]` has one. If the
//! program ends first, the next cleanup of any process does the rest.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::cleanup::{PASSES, clean_up_now};
use super::owed::{Hearer, Hooks};
use crate::config::Config;
use crate::error::Result;
use crate::pg::{Deadline, Endpoint};
use crate::registry::{Holder, Registry};

/// Time that an idle thread waits before it ends: tests release clones one after another.
const LINGER: Duration = Duration::from_secs(2);
/// Time during which clones are collected, since clones that are dropped together share checkpoints.
const COLLECT: Duration = Duration::from_millis(50);
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
    /// Whether there is work to do now.
    busy: watch::Sender<bool>,
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

impl Queue {
    fn next(&self) -> Option<Instant> {
        self.cleanups.iter().map(|cleanup| cleanup.at).min()
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
        self.is_due(now + COLLECT)
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
                busy: watch::Sender::new(false),
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
        shared.busy.send_replace(true);
        if queue.runs {
            shared.wake.notify_one();
            return;
        }
        let of_thread = Arc::clone(shared);
        let started = std::thread::Builder::new().name("pgstencil".into()).spawn(move || of_thread.run());
        // Without the thread, the next cleanup of another process does this.
        queue.runs = started.is_ok();
        if !queue.runs {
            shared.busy.send_replace(false);
        }
    }

    /// Whether there is a thread when there is work.
    pub(super) fn is_there(&self) -> bool {
        self.shared.is_some()
    }

    /// Waits until all current work is done.
    pub(super) async fn finish(&self) {
        if let Some(shared) = &self.shared {
            // The sender lives as long as `shared`.
            let _ = shared.busy.subscribe().wait_for(|busy| !busy).await;
        }
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
        self.busy.send_replace(false);
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
        while let Some(work) = self.wait() {
            // Failures are left to the next cleanup, of this process or another.
            let _ = runtime.block_on(self.work(work.clones));
            let (mut queue, now) = (self.lock(), Instant::now());
            for pauses in work.later {
                queue.clean_up_after(pauses, now);
            }
        }
    }

    /// Waits for the next work; `None` if there was none for a while.
    fn wait(&self) -> Option<Work> {
        let mut queue = self.lock();
        let started = Instant::now();
        loop {
            let now = Instant::now();
            if queue.is_due(now) || (queue.closed && queue.is_busy(now)) {
                let due = |cleanup: &mut Cleanup| cleanup.at <= now + COLLECT;
                let due = queue.cleanups.extract_if(.., due);
                let later = due.map(|cleanup| cleanup.then).collect();
                let clones = std::mem::take(&mut queue.clones);
                return Some(Work { clones, later });
            }
            if !queue.is_busy(now) {
                self.busy.send_replace(false);
            }
            let last = queue.next().is_none() && started.elapsed() >= LINGER;
            if queue.closed || last {
                queue.runs = false;
                return None;
            }
            let until = queue.next().unwrap_or(started + LINGER);
            let pause = until.saturating_duration_since(now);
            let waited = self.wake.wait_timeout(queue, pause);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    async fn work(&self, clones: Vec<String>) -> Result<()> {
        if !clones.is_empty() {
            for pause in PASSES {
                tokio::time::sleep(pause).await;
                if self.give_up(&clones).await.is_ok() {
                    break;
                }
            }
        }
        let dropped = clean_up_now(&self.endpoint, &self.registry, self.grace).await;
        self.pay().await?;
        dropped.map(drop)
    }

    /// Runs the commands that the program's checkout owes for clones that are gone.
    async fn pay(&self) -> Result<()> {
        let Checkout { config, endpoint, holder } = &self.checkout;
        let Some(hooks) = Hooks::of(config, endpoint, holder) else {
            return Ok(());
        };
        let deadline = Deadline::new(Some(Duration::from_secs(10)), Default::default());
        let opened = Registry::open_existing(&self.endpoint, &self.registry, &deadline).await?;
        let Some(mut registry) = opened else {
            return Ok(());
        };
        let deadline = Deadline::default();
        registry.session().set_deadline(&deadline);
        hooks.all(&mut registry, &deadline, Hearer::Next).await?;
        registry.close().await;
        Ok(())
    }

    async fn give_up(&self, clones: &[String]) -> Result<()> {
        let deadline = Deadline::new(Some(Duration::from_secs(10)), Default::default());
        let opened = Registry::open_existing(&self.endpoint, &self.registry, &deadline).await?;
        let Some(mut registry) = opened else {
            return Ok(());
        };
        for clone in clones {
            registry.release_clone(clone).await?;
        }
        registry.close().await;
        Ok(())
    }
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
