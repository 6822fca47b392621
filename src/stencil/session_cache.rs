//! Registry sessions that are kept for the next request.
//!
//! A new session costs the server more than everything else that a warm clone needs. A returned session no longer
//! holds locks, which is checked when it is taken again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};

use crate::pg::Deadline;
use crate::registry::Registry;

/// Maximum number of sessions kept: slots are scarce.
const MOST: usize = 16;
/// After this time a session is more likely to obstruct others than to be needed again.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct SessionCache(Mutex<Vec<Session>>);

struct Session {
    since: Instant,
    /// A connection works only on the runtime on which it was opened, and each test may have its own.
    runtime: Id,
    registry: Registry,
}

impl SessionCache {
    fn sessions(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a cached session that is still connected and holds no locks. From here on `deadline` bounds its
    /// statements, not that of its previous user.
    pub(super) async fn take(&self, deadline: &Deadline) -> Option<Registry> {
        loop {
            let mut registry = self.last(Handle::current().id())?.registry;
            registry.session().set_deadline(deadline);
            let fit = tokio::time::timeout(PATIENCE, registry.start_over());
            if let Ok(Ok(true)) = fit.await {
                return Some(registry);
            }
        }
    }

    /// Returns a cached session for a user who checks it as [`SessionCache::take`] does.
    pub(super) fn take_unchecked(&self) -> Option<Registry> {
        Some(self.last(Handle::current().id())?.registry)
    }

    fn last(&self, runtime: Id) -> Option<Session> {
        let mut sessions = self.sessions();
        sessions.retain(|s| s.since.elapsed() < PATIENCE);
        let nth = sessions.iter().rposition(|s| s.runtime == runtime)?;
        Some(sessions.remove(nth))
    }

    /// Keeps a session whose clones were released.
    pub(super) fn put(&self, registry: Registry) {
        let mut sessions = self.sessions();
        sessions.retain(|s| s.since.elapsed() < PATIENCE);
        if sessions.len() >= MOST {
            sessions.remove(0);
        }
        sessions.push(Session { since: Instant::now(), runtime: registry.runtime(), registry });
    }

    /// Closes all sessions properly.
    pub(super) async fn close(&self) {
        let sessions = std::mem::take(&mut *self.sessions());
        for session in sessions {
            session.registry.close().await;
        }
    }
}
