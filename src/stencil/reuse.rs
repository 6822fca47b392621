//! Wanted names that exist already: a live clone of ours is given back, a dead one makes way.

use std::time::Duration;

use super::{Acquired, Demand, Lease, Limit, Stencil, Wanted};
use crate::clone::{self, Clone};
use crate::config::Definition;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::handout::Outcome;
use crate::names::Fingerprint;
use crate::pg::{Doing as _, catalog};
use crate::registry::database::Owner;
use crate::registry::{CloneRow, Registry};
use crate::sweep::{self, Dead};

impl Stencil {
    /// Looks whether a clone of the wanted name is there: a live one of ours is given back, a dead
    /// one makes way, anything else is an error.
    pub(super) async fn reuse(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        wanted: &Wanted,
    ) -> Result<Option<Reused>> {
        let mut reused = Vec::new();
        for index in 0..wanted.count {
            let names = clone::names(context, &wanted.pattern, "", index, wanted.shard)?;
            let mut own = None;
            if let Some(name) = names.first()
                && let Some(row) = registry.clone_by_name(name).await?
                && self.is_kept(&row, context, wanted)
            {
                if !wanted.fresh
                    && let Some(clone) = self
                        .renew(registry, &row, wanted.lease, context.limit)
                        .await?
                {
                    reused.push(clone);
                    continue;
                }
                own = Some(row.id);
            }
            for name in &names {
                self.make_way(registry, context, name, own.as_deref())
                    .await?;
            }
        }
        if reused.is_empty() {
            return Ok(None);
        }
        if reused.len() < wanted.count {
            return Err(Error::new(
                Kind::NameTaken,
                "some of the wanted clones are there already, and some are not",
            )
            .hint("`--fresh` makes all of them anew; `pgstencil release NAME` gives one back"));
        }
        let traits = registry.facts().traits.clone();
        let now = context.inputs().await?.with_server(traits).fingerprint();
        if reused.iter().any(|clone| clone.fingerprint != now) {
            context.tell(Event::Warning(&format!(
                "clone {} is from older migrations ({}; now {}): `--fresh` makes it anew",
                reused[0].name(),
                reused[0].fingerprint.short(),
                now.short()
            )));
        }
        Ok(Some(Reused {
            clones: reused,
            fingerprint: now,
        }))
    }

    /// Whether a clone is the caller's own, and its lease is not over.
    fn is_kept(&self, row: &CloneRow, context: &Context<'_>, wanted: &Wanted) -> bool {
        matches!(wanted.lease, Lease::Expiry(_))
            && row.state == "leased"
            && row.lease == "expiry"
            && !row.expired
            && row.project == self.config.project
            && row.definition == context.definition.name
    }

    /// Drops the clone that has a wanted name, if its holder is gone. `own`: the caller's, who wants
    /// another one in its place.
    async fn make_way(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        name: &str,
        own: Option<&str>,
    ) -> Result<()> {
        let started = std::time::Instant::now();
        let mut told = false;
        while let Some(row) = registry.clone_by_name(name).await? {
            let by_holder = own == Some(row.id.as_str());
            let given_up = |row: &CloneRow| {
                by_holder || row.state == "released" || row.expired || self.holder_is_dead(row)
            };
            let dead = |row: &CloneRow| {
                given_up(row) || row.orphaned_for_good(self.config.clone.orphan_grace)
            };
            if !dead(&row) {
                break;
            }
            match sweep::drop_dead_clone(registry, &row.id, by_holder, &dead).await? {
                Dead::Gone | Dead::Alive => {}
                // Another sweep is at it, or the server has not yet seen that the holder is gone.
                Dead::Locked if given_up(&row) => {
                    if !told && started.elapsed() > Duration::from_secs(2) {
                        told = true;
                        context.tell(Event::Warning(&format!(
                            "waiting for the drop of the clone that had the name `{name}`"
                        )));
                    }
                    let what = format!("the drop of the clone that had the name `{name}`");
                    context
                        .limit
                        .pause(Duration::from_millis(20), &what)
                        .await?;
                }
                Dead::Locked => break,
                Dead::InUse => {
                    return Err(clone::taken(registry, name).await.detail(
                        "that process is gone or its lease is over, but somebody is still connected",
                    ));
                }
                Dead::Stays(why) => {
                    let error = clone::taken(registry, name).await;
                    return Err(why.into_iter().fold(error, Error::detail));
                }
            }
        }
        clone::check_name(registry, name).await
    }

    /// Renews the lease of a live clone; `None` if its databases are not all there.
    async fn renew(
        &self,
        registry: &mut Registry,
        row: &CloneRow,
        lease: Lease,
        limit: &Limit,
    ) -> Result<Option<Clone>> {
        let key = row.key();
        while !registry
            .session()
            .try_lock(key)
            .await
            .doing(|| "lock a clone".into())?
        {
            // Its maker has not quite ended, or a sweep looks at it.
            limit
                .pause(Duration::from_millis(10), "the clone's lock")
                .await?;
        }
        let whole = self.is_whole(registry, &row.id).await?;
        let renewed = whole
            && registry
                .set_leased(&row.id, lease, &self.holder)
                .await
                .doing(|| format!("renew the lease of clone {}", row.id))?;
        if !renewed {
            registry
                .session()
                .unlock(key)
                .await
                .doing(|| "unlock".into())?;
            return Ok(None);
        }
        match registry.clone_by_id(&row.id).await? {
            Some(row) => Ok(Some(Clone::read(registry, &row).await?)),
            None => Ok(None),
        }
    }

    async fn is_whole(&self, registry: &mut Registry, clone: &str) -> Result<bool> {
        let rows = registry
            .databases_of(&Owner::Clone(clone.to_owned()))
            .await?;
        let oids: Vec<_> = rows.iter().filter_map(|r| r.oid).collect();
        let found = catalog::databases(registry.session(), &[], &oids).await?;
        Ok(rows.iter().all(|r| {
            found
                .iter()
                .any(|d| r.is(d) && d.name == r.name && !d.invalid)
        }))
    }

    /// Whether the process that holds a clone is known to have ended: it ran where we run, and its
    /// pid is nobody's.
    fn holder_is_dead(&self, row: &CloneRow) -> bool {
        let holder = &row.holder.0;
        row.lease == "session"
            && !holder.machine.is_empty()
            && holder.machine == self.holder.machine
            && !crate::process::is_alive(holder.pid)
    }
}

pub(super) struct Reused {
    clones: Vec<Clone>,
    fingerprint: Fingerprint,
}

impl Reused {
    pub(super) fn into_acquired(self, registry: Registry, definition: &Definition) -> Acquired {
        Acquired {
            registry,
            clones: self.clones,
            definition: definition.name.clone(),
            fingerprint: self.fingerprint,
            outcome: Outcome::Reused,
            times: [Duration::ZERO; 3],
            extends: None,
            provisional: None,
            note: None,
            build_time: None,
            demand: Demand::default(),
        }
    }
}
