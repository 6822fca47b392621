//! The thread of a program that uses the library: it gives up what a caller could not, drops what was released,
//! and runs `before_release` for clones that a sweep took.
//!
//! It has a runtime of its own, since the caller's may end at any moment: each `#[tokio::test]` has one. If the
//! program ends first, the next sweep of any process does the rest.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::cleanup::{PASSES, sweep_now};
use super::owed::{Hearer, Hooks};
use crate::config::Config;
use crate::error::Result;
use crate::pg::{Deadline, Endpoint};
use crate::registry::{Holder, Registry};

/// For how long a thread without work stays: tests give clones back one after another.
const LINGER: Duration = Duration::from_secs(2);
/// For how long clones are collected, since those that are dropped together share checkpoints.
const COLLECT: Duration = Duration::from_millis(50);
/// When to look for what an abandoned hand-out left, each after the sweep before it: a server notices the end of
/// a session when it next reads from it, and a clone without session is dropped `orphan_grace` after the
/// sweep that finds it so.
fn abandoned(grace: Duration) -> VecDeque<Duration> {
    let seconds = Duration::from_secs_f64;
    let later = grace + seconds(0.5);
    [seconds(0.2), seconds(2.0), later, later].into()
}

/// The thread, which runs only while there is something to do.
pub(super) struct Background {
    /// `None`: another process sees to it.
    shared: Option<Arc<Shared>>,
}

struct Shared {
    endpoint: Endpoint,
    registry: String,
    grace: Duration,
    checkout: Checkout,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Whether something is to be done now.
    busy: watch::Sender<bool>,
}

/// What `before_release` needs.
pub(super) struct Checkout {
    pub(super) config: Arc<Config>,
    /// With what clients of the server get.
    pub(super) endpoint: Endpoint,
    pub(super) holder: Holder,
}

#[derive(Default)]
struct Queue {
    /// Ids of clones that are to be given up.
    clones: Vec<String>,
    /// When to sweep.
    sweeps: Vec<Sweep>,
    /// Whether the thread runs.
    runs: bool,
    /// Whether the last handle is gone.
    closed: bool,
    /// Whether what earlier programs left was looked for.
    looked: bool,
}

/// A sweep to come.
struct Sweep {
    at: Instant,
    /// How long after it the next ones follow.
    then: VecDeque<Duration>,
}

impl Queue {
    fn next(&self) -> Option<Instant> {
        self.sweeps.iter().map(|sweep| sweep.at).min()
    }

    fn sweep(&mut self, at: Instant) {
        let then = VecDeque::new();
        self.sweeps.push(Sweep { at, then });
    }

    /// Sweeps after each of these pauses.
    fn sweep_after(&mut self, mut pauses: VecDeque<Duration>, now: Instant) {
        if let Some(first) = pauses.pop_front() {
            let (at, then) = (now + first, pauses);
            self.sweeps.push(Sweep { at, then });
        }
    }

    /// Whether the thread should work now.
    fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|next| next <= now)
    }

    /// Whether there is work that callers may wait for: more than a look for later.
    fn is_busy(&self, now: Instant) -> bool {
        self.is_due(now + COLLECT)
    }
}

impl Background {
    /// Starts nothing yet.
    pub(super) fn new(checkout: Checkout) -> Self {
        let Config { server, clone, .. } = &*checkout.config;
        Background {
            shared: Some(Arc::new(Shared {
                endpoint: checkout.endpoint.clone().in_background(),
                registry: server.registry.to_string(),
                grace: *clone.orphan_grace,
                checkout,
                queue: Mutex::default(),
                wake: Condvar::new(),
                busy: watch::Sender::new(false),
            })),
        }
    }

    /// Another process does all of it.
    pub(super) fn elsewhere() -> Self {
        Background { shared: None }
    }

    /// Has clones dropped that were released.
    pub(super) fn drop_given_back(&self) {
        self.add(|queue, now| queue.sweep(now + COLLECT));
    }

    /// Has dropped what earlier programs left, once.
    pub(super) fn look_once(&self) {
        self.add(|queue, now| {
            if !std::mem::replace(&mut queue.looked, true) {
                queue.sweep(now + COLLECT);
            }
        });
    }

    /// Until it is told that the caller was done, [`Pledge::kept`], it stands for giving `clones` up.
    pub(super) fn to_give_up(&self, clones: Vec<String>) -> Pledge<'_> {
        Pledge { background: self, what: Some(What::GiveUp(clones)) }
    }

    /// Until it is told that the caller was done, [`Pledge::kept`], it stands for finding what the caller left.
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
        // Without it the next sweep of another process does this.
        queue.runs = started.is_ok();
        if !queue.runs {
            shared.busy.send_replace(false);
        }
    }

    /// Waits until all is done that is to be done now.
    pub(super) async fn finish(&self) {
        if let Some(shared) = &self.shared {
            // The sender lives as long as `shared`.
            let _ = shared.busy.subscribe().wait_for(|busy| !busy).await;
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.lock().closed = true;
            shared.wake.notify_one();
        }
    }
}

/// What the thread does if a caller's future is dropped before it is done.
#[must_use = "dropping it has the work done"]
pub(super) struct Pledge<'a> {
    background: &'a Background,
    what: Option<What>,
}

enum What {
    GiveUp(Vec<String>),
    Find,
}

impl Pledge<'_> {
    /// The caller did it.
    pub(super) fn kept(mut self) {
        self.what = None;
    }
}

impl Drop for Pledge<'_> {
    fn drop(&mut self) {
        let Some(what) = self.what.take() else {
            return;
        };
        let shared = self.background.shared.as_ref();
        let grace = shared.map_or(Duration::ZERO, |shared| shared.grace);
        self.background.add(|queue, now| match what {
            What::GiveUp(clones) => {
                queue.clones.extend(clones);
                queue.sweep(now);
            }
            What::Find => queue.sweep_after(abandoned(grace), now),
        });
    }
}

impl Shared {
    /// Nobody waits for a thread that cannot go on.
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
            // What fails is left to the next sweep, of this process or another.
            let _ = runtime.block_on(self.work(work.clones));
            let (mut queue, now) = (self.lock(), Instant::now());
            for pauses in work.later {
                queue.sweep_after(pauses, now);
            }
        }
    }

    /// The next work; `None` if there was none for a while.
    fn wait(&self) -> Option<Work> {
        let mut queue = self.lock();
        let started = Instant::now();
        loop {
            let now = Instant::now();
            if queue.is_due(now) || (queue.closed && queue.is_busy(now)) {
                let due = |sweep: &mut Sweep| sweep.at <= now + COLLECT;
                let due = queue.sweeps.extract_if(.., due);
                let later = due.map(|sweep| sweep.then).collect();
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
        let swept = sweep_now(&self.endpoint, &self.registry, self.grace).await;
        self.pay().await?;
        swept.map(drop)
    }

    /// Runs what the program's checkout owes for clones that are gone.
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

/// A sweep that is due.
struct Work {
    /// Clones to be given up before.
    clones: Vec<String>,
    /// Pauses until further sweeps.
    later: Vec<VecDeque<Duration>>,
}

/// Ends a thread that panics in an orderly way.
struct Panics<'a>(&'a Shared);

impl Drop for Panics<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}
