//! Upkeep that a program calls when it has time: the work that the command line leaves to a detached process.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Deadline, Demand, Released, Stencil};
use crate::error::Result;
use crate::names::Fingerprint;
use crate::template::{Provenance, Rebuilt};

/// Maximum number of requests remembered: a program that never calls [`Stencil::fill`] must not grow.
const MOST: usize = 1000;

/// Requests since the last call of [`Stencil::fill`].
#[derive(Default)]
pub(super) struct Demands(Mutex<Vec<(String, Fingerprint, Demand)>>);

impl Demands {
    pub(super) fn add(&self, definition: &str, fingerprint: Fingerprint, demand: Demand) {
        let mut demands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if demands.len() < MOST {
            demands.push((definition.to_owned(), fingerprint, demand));
        }
    }

    /// Takes all requests: for each template, the times of hits not recorded yet.
    fn take(&self) -> Vec<(String, Fingerprint, Vec<u64>)> {
        let demands = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut templates: Vec<(String, Fingerprint, Vec<u64>)> = Vec::new();
        for (definition, fingerprint, demand) in demands {
            let same = templates.iter_mut().find(|(name, of, ..)| *name == definition && *of == fingerprint);
            match same {
                Some((.., hits)) => hits.extend(demand.hit_ms),
                None => {
                    let hits = demand.hit_ms.into_iter().collect();
                    templates.push((definition, fingerprint, hits));
                }
            }
        }
        templates
    }
}

impl Stencil {
    /// Builds the template of this definition, or of the only one, if it is missing. Returns how it was obtained.
    /// Waits if another process builds it.
    ///
    /// Cancel safety: a running build command is terminated, and its databases are dropped by the next cleanup.
    ///
    /// # Errors
    /// The errors of the inputs, the server, and the build command.
    pub async fn ensure(&self, definition: Option<&str>) -> Result<Provenance> {
        let (registry, ensured) =
            self.ensure_template(definition, &Deadline::default(), &|_| {}, false, false).await?;
        registry.close().await;
        self.demands.add(
            &self.definition(definition)?.name,
            ensured.provenance.fingerprint,
            Demand::default(),
        );
        Ok(ensured.provenance)
    }

    /// Creates warm clones of the templates that were used since the last call, in the number that `[clone] warm` and
    /// `warm_max` set for the demand, so that the next [`Stencil::database`] need not copy. Records the requests for
    /// the statistics. Returns the number created: 0 where another process is creating them. The command line has a
    /// detached process do this after each command; a program calls it when it has time, for example in a separate
    /// task.
    ///
    /// Cancel safety: an unfinished clone is dropped by the next cleanup.
    ///
    /// # Errors
    /// The server's.
    pub async fn fill(&self) -> Result<usize> {
        let mut made = 0;
        for (definition, fingerprint, hits_ms) in self.demands.take() {
            let deadline = Deadline::default();
            made += self.fill_template(&definition, &fingerprint, true, &hits_ms, &deadline).await?;
        }
        Ok(made)
    }

    /// Replaces the template of this definition's current files by a full build if it is provisional, for which
    /// [`Provenance::provisional`] is set, and if it is due: with `rebuild = "auto"`
    /// [`rebuild_policy`](crate::retention::rebuild_policy) decides, with `"always"` it is due at once. Returns whether it
    /// was replaced: also `false` if it was accepted without a full build. A program calls it when it has time.
    ///
    /// Cancel safety: the template stays as it was; the unfinished build is dropped by the next cleanup.
    ///
    /// # Errors
    /// The errors of the inputs, the server, and the build command.
    pub async fn rebuild(&self, definition: Option<&str>) -> Result<bool> {
        let deadline = Deadline::default();
        let rebuilt =
            self.rebuild_template(&self.definition(definition)?.name, 0, Duration::ZERO, &deadline).await?;
        Ok(matches!(rebuilt, Rebuilt::Replaced))
    }

    /// Releases a clone that was detached, or that `pgstencil clone` created, by the name of one of its databases.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`]; [`crate::Kind::NameTaken`] for a clone that a running process holds, or that
    /// belongs to another owner.
    pub async fn release(&self, name: &str) -> Result<Released> {
        self.release_named(&[name.to_owned()], false, &Deadline::default()).await
    }
}
