//! The warm clones that a background process waits for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::names::Fingerprint;
use crate::registry::Registry;
use crate::retention::warm_policy;

/// Templates whose warm clones a process looks after until they are taken, or no longer needed.
#[derive(Debug, Default)]
pub(crate) struct Stock(BTreeSet<Key>);

/// Template: its project, definition and fingerprint.
type Key = (String, String, Fingerprint);

/// Time by which a look comes after the moment for which it was planned: until then, nothing has changed.
const AFTER: Duration = Duration::from_secs(1);

impl Stock {
    /// Adds a template.
    pub(crate) fn add(&mut self, project: &str, definition: &str, fingerprint: Fingerprint) {
        self.0.insert((project.to_owned(), definition.to_owned(), fingerprint));
    }

    /// Returns the time after which a cleanup may find warm clones spare that the one at `cleaned` did not. `None`: there
    /// are no warm clones of these templates, or the server cannot be asked; the next command looks after what is left.
    pub(crate) async fn next_look(&mut self, registry: &mut Registry, cleaned: Instant) -> Option<Duration> {
        // The registry may have changed hands while the session was idle.
        if self.0.is_empty() || !registry.start_over().await.unwrap_or(false) {
            return None;
        }
        let mut looks = Vec::new();
        for key in std::mem::take(&mut self.0) {
            let (project, definition, fingerprint) = &key;
            let idle = registry.stocked_since(project, definition, fingerprint).await.ok()?;
            let Some(idle) = idle else {
                continue;
            };
            let since = cleaned.elapsed();
            let then = idle.duration().saturating_sub(since);
            if let Some(pause) = warm_policy::next_look(then.as_secs_f64()) {
                looks.push(Duration::from_secs_f64(pause).saturating_sub(since) + AFTER);
                self.0.insert(key);
            }
        }
        looks.into_iter().min()
    }
}
