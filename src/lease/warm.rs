//! Leases of warm clones: claimed in one statement, named and opened in one message.

use std::time::{Duration, Instant};

use super::{Batch, ClonedSet, give_up, give_up_after, hook, taken};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::names::Fingerprint;
use crate::pg::lock::LockKey;
use crate::pg::sql::Statement;
use crate::pg::{Doing as _, catalog, is_connection_loss};
use crate::quantity::Millis;
use crate::registry::Registry;
use crate::registry::warm::{ClaimedRow, Wish};
use crate::retention::recycle::{self, ForCaller};
use crate::template::{self, Extends, Provenance, Provisional};
use crate::variables::{NamedDatabase, Outcome};

/// Check of the template whose warm clones are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It was not checked: only clones that the registry alone shows to be fit are taken, and the hit is counted if
    /// all clones are obtained.
    None,
    /// As [`Look::None`]. A clone of an incrementally built template is not taken.
    Proven,
    /// It was found ready and fit for the server, and the hit is counted already.
    Done,
}

/// Adds warm clones of the template with this fingerprint to the batch, up to the number missing. Returns how the
/// template was obtained; `None` if there was no clone. The first clone's own id becomes `{id}` of all names. The
/// registry session holds their locks, as with [`super::create()`].
///
/// If one of them is not as it was created, or cannot be renamed, all are discarded, and there is none.
///
/// # Errors
/// [`crate::Kind::NameTaken`] if a wanted name belongs to something else, the driver's on the loss of the connection,
/// and those of `after_clone`. After an error all claimed clones are discarded.
pub(crate) async fn claim(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    batch: &mut Batch<'_>,
    look: Look,
) -> Result<Option<Provenance>> {
    claim_only(registry, context, fingerprint, batch, look, None).await
}

/// As [`claim`]. `only`: the id of the only clone that will do.
async fn claim_only(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    batch: &mut Batch<'_>,
    look: Look,
    only: Option<&str>,
) -> Result<Option<Provenance>> {
    let count = batch.missing();
    if count == 0 {
        return Ok(None);
    }
    let role = registry.facts().began_as.clone();
    let wish = Wish {
        project: context.project,
        definition: context.definition,
        fingerprint,
        role: &role,
        stale_s: context.definition.stale_after.map(|d| d.as_secs_f64()),
        looked_at: look == Look::Done,
        full_only: look == Look::Proven,
        count,
        only,
        holder: context.holder,
    };
    let (rows, findings) = registry.claim_warm(&wish).await?;
    template::tell_findings(context, &findings);
    let sets: Vec<&[ClaimedRow]> = rows.chunk_by(|a, b| a.clone_id == b.clone_id).collect();
    let (good, bad): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| has_databases(set, context));
    give_up(registry, &ids(&bad)).await;
    let Some(first) = good.first().and_then(|set| set.first()) else {
        return Ok(None);
    };
    let provenance = provenance(first, fingerprint);
    if batch.clones.is_empty() {
        batch.group.clone_from(&first.clone_id);
    }
    match publish(registry, context, fingerprint, batch, &good, look).await {
        Ok(clones) => {
            batch.clones.extend(clones);
            Ok(Some(provenance))
        }
        Err(NotPublished::Failed(error)) => {
            let done: Result<()> = Err(error);
            give_up_after(registry, &ids(&good), &done).await;
            batch.renew_group();
            done.map(|()| None)
        }
        // It is not as it was created, a session is in it after all, or a privilege is missing: a new one may work.
        Err(NotPublished::Unfit) => {
            give_up(registry, &ids(&good)).await;
            batch.renew_group();
            Ok(None)
        }
    }
}

/// Time for which a request waits while other sessions make released clones warm again. A copy takes less on an idle
/// machine, but then so does that; on a busy one a copy only adds to the work.
const PATIENCE: Duration = Duration::from_millis(500);

/// Adds clones of the template with this fingerprint that were released and can become warm again at once, as long as
/// there are some and the batch lacks clones: that costs less than a copy, and nothing has to be dropped.
///
/// # Errors
/// As [`claim`].
pub(crate) async fn claim_released(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    batch: &mut Batch<'_>,
) -> Result<Option<Provenance>> {
    let mut provenance = None;
    let until = Instant::now() + PATIENCE;
    while hook::is_recycled(context) && !batch.is_full() {
        match recycle::for_caller(registry, context, fingerprint).await? {
            ForCaller::Again(again) => {
                // Others may be about to claim other ones, and hold the locks of these.
                let only = Some(again.id.as_str());
                let claimed = claim_only(registry, context, fingerprint, batch, Look::None, only).await;
                let unlocked = registry.session().unlock(LockKey::clone(&again.id)).await;
                // The registry alone does not show that it is fit.
                let Some(claimed) = claimed? else {
                    break;
                };
                unlocked.doing(|| "unlock a clone".into())?;
                provenance = Some(claimed);
            }
            ForCaller::Others if Instant::now() < until => {
                context.deadline.pause(Duration::from_millis(5), "a clone").await?;
                let claimed = claim(registry, context, fingerprint, batch, Look::None).await?;
                provenance = claimed.or(provenance);
            }
            ForCaller::Others | ForCaller::None => break,
        }
    }
    Ok(provenance)
}

/// Reason why claimed clones were not published.
enum NotPublished {
    Failed(Error),
    Unfit,
}

impl From<Error> for NotPublished {
    fn from(error: Error) -> Self {
        NotPublished::Failed(error)
    }
}

/// Gives claimed clones the names and leases of the batch's next ones, and opens them.
async fn publish(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    batch: &Batch<'_>,
    sets: &[&[ClaimedRow]],
    look: Look,
) -> std::result::Result<Vec<ClonedSet>, NotPublished> {
    let indexes = batch.indexes();
    let mut wanted = Vec::new();
    let mut named = Vec::new();
    for (set, index) in sets.iter().zip(indexes.clone()) {
        let names = batch.names(context, index)?;
        let database = |(row, name): (&ClaimedRow, &String)| NamedDatabase {
            alias: row.alias.clone(),
            name: name.clone(),
        };
        named.push(set.iter().zip(&names).map(database).collect::<Vec<_>>());
        wanted.extend(set.iter().zip(names));
    }
    let count_hit = look != Look::Done && sets.len() == batch.missing();
    let tenures: Vec<_> = indexes.take(sets.len()).map(|index| batch.tenure(index)).collect();
    let hooks = hook::has_after_clone(context);
    let notes = sets.iter().zip(&named);
    let notes: Vec<Statement> = notes
        .filter_map(|(set, databases)| hook::note(context, batch, &set.first()?.clone_id, databases))
        .collect();
    let notes: Vec<Statement> = notes
        .into_iter()
        .chain(sets.iter().filter_map(|set| hook::no_recycling(context, &set.first()?.clone_id)))
        .collect();
    let published = registry.publish_warm(&wanted, &tenures, !hooks, &notes, count_hit);
    let until = match published.await {
        Ok(Some(until)) => until,
        Ok(None) => {
            for (_, name) in &wanted {
                if catalog::database(registry.session(), name).await?.is_some() {
                    return Err(taken(registry, &context.asker(), name).await.into());
                }
            }
            return Err(NotPublished::Unfit);
        }
        Err(error) if is_connection_loss(&error) => return Err(error.into()),
        Err(_) => return Err(NotPublished::Unfit),
    };
    let mut clones = Vec::new();
    for (((set, tenure), until), databases) in sets.iter().zip(tenures).zip(until).zip(named) {
        let id = set.first().map_or_else(String::new, |row| row.clone_id.clone());
        let mut expires_at = until;
        if hooks {
            hook::after_clone(context, batch, &databases).await?;
            let name = databases.first().map_or("", |d| &d.name);
            expires_at = registry.begin_lease(&id, name, tenure).await?;
        }
        let mut made = ClonedSet::new(id, databases, fingerprint, tenure);
        made.oids = set.iter().filter_map(|row| row.oid).collect();
        made.expires_at = expires_at;
        clones.push(made);
    }
    Ok(clones)
}

fn ids(sets: &[&[ClaimedRow]]) -> Vec<String> {
    let first = sets.iter().filter_map(|set| set.first());
    first.map(|row| row.clone_id.clone()).collect()
}

/// Whether a clone has the databases that the definition wants. Publishing it shows whether the server has them.
fn has_databases(set: &[ClaimedRow], context: &Context<'_>) -> bool {
    let aliases = set.iter().map(|row| row.alias.as_str());
    aliases.eq(context.definition.databases.iter().map(|alias| &**alias))
        && set.iter().all(|row| row.oid.is_some())
}

/// Returns how the template of a warm clone was obtained, without checking the template.
fn provenance(row: &ClaimedRow, fingerprint: &Fingerprint) -> Provenance {
    Provenance {
        extends: row.base_fingerprint.map(|base| Extends { base, added: row.added.0.clone() }),
        provisional: row.provisional.then(|| {
            Provisional::new(row.rebuild_attempts, row.rebuild_tried_s, row.rebuild_failure.clone())
                .used(row.hits, row.age_s)
        }),
        build_time: row.full_ms.map(Millis::duration),
        ..Provenance::new(*fingerprint, Outcome::Hit)
    }
}
