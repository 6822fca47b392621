//! Advisory locks of a registry session: taken here, and released here.
//!
//! A lock belongs to the session, whose end releases it. A guard that is dropped without a release keeps the lock
//! until then; `must_use` finds most of these guards.

use std::time::{Duration, Instant};

use super::Registry;
use crate::error::Result;
use crate::pg::lock::LockKey;
use crate::pg::{Deadline, Doing as _};

/// Lock that the session holds exclusively.
#[must_use = "the lock is held until it is released, or the session ends"]
#[derive(Debug)]
pub(crate) struct Lock(LockKey);

/// Lock that the session shares.
#[must_use = "the lock is shared until it is released, or the session ends"]
#[derive(Debug)]
pub(crate) struct SharedLock(LockKey);

/// Time limits for waiting for a lock that another session holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting<'a> {
    /// Time between two tries.
    pub(crate) step: Duration,
    /// Maximum duration; `None` is as long as the deadline allows.
    pub(crate) most: Option<Duration>,
    /// Deadline, which also limits the wait.
    pub(crate) deadline: &'a Deadline,
    /// Object of the wait, in words: "timed out waiting for …".
    pub(crate) what: &'a str,
}

impl Lock {
    /// Leaves the lock to the session, which holds it until its end, or until a message releases it by its key.
    pub(crate) fn keep(self) {}

    /// Releases the lock.
    ///
    /// # Errors
    /// The driver's. If the session is gone, so is the lock.
    pub(crate) async fn release(self, registry: &mut Registry) -> Result<()> {
        let key = self.0;
        registry.session().unlock(key).await.doing(|| format!("unlock {}", key.protects()))?;
        Ok(())
    }
}

impl SharedLock {
    /// Leaves the share to the session, which holds it until its end.
    pub(crate) fn keep(self) {}

    /// Releases the session's share.
    ///
    /// # Errors
    /// The driver's. If the session is gone, so is the lock.
    pub(crate) async fn release(self, registry: &mut Registry) -> Result<()> {
        let key = self.0;
        registry.session().unlock_shared(key).await.doing(|| format!("unlock {}", key.protects()))?;
        Ok(())
    }
}

impl Registry {
    /// Takes a lock, if no other session holds or shares it. A session may take one lock several times.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn try_lock(&mut self, key: LockKey) -> Result<Option<Lock>> {
        let free = self.session().try_lock(key).await.doing(|| format!("lock {}", key.protects()))?;
        Ok(free.then_some(Lock(key)))
    }

    /// Shares a lock, if no other session holds it exclusively.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn try_share(&mut self, key: LockKey) -> Result<Option<SharedLock>> {
        let free = self.session().try_lock_shared(key).await.doing(|| format!("lock {}", key.protects()))?;
        Ok(free.then_some(SharedLock(key)))
    }

    /// Takes a lock, and waits if another session has it. `None`: that takes longer than `waiting` allows.
    ///
    /// # Errors
    /// The driver's; that the deadline has passed.
    pub(crate) async fn lock(&mut self, key: LockKey, waiting: Waiting<'_>) -> Result<Option<Lock>> {
        let started = Instant::now();
        loop {
            if let Some(lock) = self.try_lock(key).await? {
                return Ok(Some(lock));
            }
            if waiting.most.is_some_and(|most| started.elapsed() > most) {
                return Ok(None);
            }
            waiting.deadline.pause(waiting.step, waiting.what).await?;
        }
    }

    /// Runs work under a lock, and releases the lock whatever the result. `None`: another session has the lock.
    ///
    /// # Errors
    /// The driver's; those of the work.
    pub(crate) async fn with_lock<T>(
        &mut self,
        key: LockKey,
        work: impl AsyncFnOnce(&mut Registry) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(lock) = self.try_lock(key).await? else {
            return Ok(None);
        };
        let done = work(self).await;
        // The error of the work comes first: after the loss of the session there is nothing to release.
        let released = lock.release(self).await;
        let done = done?;
        released?;
        Ok(Some(done))
    }
}
