//! Warm clones that one process hands out for another: a background process has a session already, while a short
//! command would have to open one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::postgres::types::Oid;

use super::acquire::{Demand, Wanted};
use super::leases::Leases;
use super::{Deadline, Holder, Stencil};
use crate::config::Definition;
use crate::error::{Error, Result};
use crate::events::{Event, Warning};
use crate::lease::custody::Custody;
use crate::lease::{self, Batch, ClonedSet, Look};
use crate::registry::Registry;
use crate::template::{Provenance, Timing};
use crate::variables::{NamedDatabase, Outcome};

/// Clone that another process leased for this one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HeldElsewhere {
    /// Its short id.
    pub(crate) id: String,
    /// Its definition.
    pub(crate) definition: String,
    /// Its fingerprint.
    pub(crate) fingerprint: String,
    databases: Vec<NamedDatabase>,
    oids: Vec<u32>,
    /// Time that it took.
    pub(crate) took: Duration,
    /// Time that a build takes.
    pub(crate) build_time: Option<Duration>,
    /// Whether the server has no TLS, if that is known: each question costs the server a process.
    without_tls: Option<bool>,
}

impl HeldElsewhere {
    /// Returns the name that users see.
    pub(crate) fn name(&self) -> &str {
        self.databases.first().map_or(&self.id, |database| &database.name)
    }
}

impl Stencil {
    /// Acts for another process of the same account and checkout.
    #[must_use]
    pub(crate) fn for_holder(&self, holder: Holder) -> Self {
        Stencil { holder, ..self.clone() }
    }

    /// Hands out one new clone, if that takes nothing but a warm clone of a template that equals a full build. Without
    /// a clone, it takes more, or a command of the user would have to run: the asking process has to request it by
    /// itself. In any case `warnings` are for the user, who is not told again.
    ///
    /// Cancel safety: as [`Stencil::acquire`].
    ///
    /// # Errors
    /// As [`Stencil::acquire`]; no clone is taken then.
    pub(crate) async fn hand_out(
        &self,
        wanted: &Wanted,
        warnings: &Mutex<Vec<Warning>>,
        deadline: &Deadline,
    ) -> Result<Option<Leases>> {
        let definition = self.definition(wanted.definition.as_deref())?;
        if self.hooks().is_some() || needs_its_process(definition) || self.config.clone.warm == 0 {
            return Ok(None);
        }
        let observe = |event: Event<'_>| {
            if let Event::Warning(warning) = event {
                warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning.clone());
            }
        };
        let context = self.context(definition, deadline, &observe, false);
        let (mut registry, recipe, reading) = self.open_reading(&context).await?;
        let fingerprint = recipe?.fingerprint();
        let started = Instant::now();
        let tenure = self.tenure(&context, wanted, None);
        let mut batch = Batch::new(wanted.naming(), vec![tenure]);
        let claimed = lease::claim(&mut registry, &context, &fingerprint, &mut batch, Look::Proven).await?;
        let Some(provenance) = claimed.filter(|_| batch.is_full()) else {
            self.keep_session(registry).await?;
            return Ok(None);
        };
        // The request is done.
        registry.session().set_deadline(&Deadline::default());
        let timing = Timing { inputs: reading, clone: started.elapsed(), ..Timing::default() };
        let mut leases = Leases::new(self, registry, &definition.name, batch.clones, provenance, timing);
        let hit_ms = u64::try_from(timing.clone.as_millis()).ok();
        leases.demand = Demand { announced: false, hit_ms };
        Ok(Some(leases))
    }

    /// Describes the only clone of these leases for the process that it is for.
    ///
    /// # Errors
    /// [`crate::Kind::Internal`] if there is none.
    pub(crate) async fn describe_held(&self, leases: &Leases) -> Result<HeldElsewhere> {
        let clone = leases.clones.first().ok_or_else(|| Error::internal("leases without a clone"))?;
        if clone.by_session {
            // Its command is about to ask.
            self.endpoint.learn_tls().await;
        }
        Ok(HeldElsewhere {
            id: clone.id.clone(),
            definition: leases.definition.clone(),
            fingerprint: leases.fingerprint().to_string(),
            databases: clone.databases.clone(),
            oids: clone.oids.iter().map(|oid| oid.0).collect(),
            took: leases.timing.total(),
            build_time: leases.provenance.build_time,
            without_tls: self.endpoint.without_tls(),
        })
    }

    /// Returns the lease of a clone that the process at the other end of `custody` holds for this one.
    ///
    /// # Errors
    /// [`crate::Kind::Usage`] if the description is not one of [`Stencil::describe_held`].
    pub(crate) fn held_elsewhere(&self, custody: Custody, held: &HeldElsewhere) -> Result<Leases> {
        let fingerprint = held.fingerprint.parse()?;
        if let Some(without) = held.without_tls {
            self.endpoint.set_without_tls(without);
        }
        let oids = held.oids.iter().copied().map(Oid).collect();
        let clone = ClonedSet::of_session(held.id.clone(), held.databases.clone(), oids, fingerprint);
        let provenance =
            Provenance { build_time: held.build_time, ..Provenance::new(fingerprint, Outcome::Hit) };
        let timing = Timing { clone: held.took, ..Timing::default() };
        Ok(Leases::new(self, custody, &held.definition, vec![clone], provenance, timing))
    }

    /// Keeps a session for the next request. Its locks are released now, since that request may be long in coming.
    pub(super) async fn keep_session(&self, mut registry: Registry) -> Result<()> {
        registry.release_locks().await?;
        self.idle.put(registry);
        Ok(())
    }

    /// Confirms clones that another process handed out to this one, if it cannot do so any more; see
    /// [`Leases::confirm`].
    ///
    /// # Errors
    /// As [`Leases::confirm`].
    pub(crate) async fn confirm_handed_out(&self, ids: &[String]) -> Result<()> {
        let (registry, confirmed) = self.confirm(None, ids).await;
        if let Some(registry) = registry {
            registry.close().await;
        }
        confirmed
    }

    /// Whether this process runs within a build, or for a job that is not trusted: such a one cannot be served by the
    /// process of another command, which does not know it.
    pub(crate) fn is_for_itself(&self) -> bool {
        !self.building.is_empty() || self.untrusted
    }
}

/// Whether a clone of a definition takes the environment or a command of the process that asks.
fn needs_its_process(definition: &Definition) -> bool {
    !definition.env_inputs.is_empty()
        || definition.after_clone.is_some()
        || !definition.after_clone_sql.is_empty()
}
