//! Warm clones handed out: claimed in one statement, named and opened in one message.

use std::time::{Duration, Instant};

use super::{ClonedSet, Request, after, give_up, give_up_after, hook, names, taken};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::names::Fingerprint;
use crate::pg::sql::Statement;
use crate::pg::{catalog, is_connection_loss};
use crate::registry::warm::{ClaimedRow, Wish};
use crate::registry::{Registry, Term};
use crate::template::{self, Extends, Provisional};
use crate::variables::NamedDatabase;

/// Warm clones that were handed out.
#[derive(Clone, Debug)]
pub struct Warm {
    /// The clones, in the order of the requests; the first ones of those, if there were too few.
    pub clones: Vec<ClonedSet>,
    /// `{id}` of their names.
    pub group: String,
    /// What they were made from.
    pub template: WarmTemplate,
}

/// What is known of the template of a warm clone, without a look at it.
#[derive(Clone, Debug)]
pub struct WarmTemplate {
    /// What it was extended from.
    pub extends: Option<Extends>,
    /// Whether a build from nothing is to take its place.
    pub provisional: Option<Provisional>,
    /// What its build from nothing took, if it was built so.
    pub build_time: Option<Duration>,
}

/// Hands out warm clones of the template with this fingerprint, as many as there are, at most one for
/// each request. The first clone's own id becomes `{id}` of all names. Their locks are held by the
/// registry session, as with [`super::create`].
///
/// `looked_at`: the template was found ready and fit for the server; without that only clones are taken
/// of which the registry alone can tell. `count_hit`: nobody else counts the hit if all are had.
///
/// If one of them turns out not to be what was made, or cannot be renamed, all are given up, and there is
/// none.
///
/// # Errors
/// [`crate::Kind::NameTaken`] if a wanted name belongs to something else, the driver's on the loss of the
/// connection, and those of `after_clone`. After an error all claimed clones are given up.
pub async fn claim(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    requests: &[Request<'_>],
    looked_at: bool,
    count_hit: bool,
) -> Result<Option<Warm>> {
    let started = Instant::now();
    let Some(first) = requests.first() else {
        return Ok(None);
    };
    let role = registry.facts().began_as.clone();
    let wish = Wish {
        project: context.project,
        definition: context.definition,
        fingerprint,
        role: &role,
        stale_s: context.definition.stale_after.map(|d| d.as_secs_f64()),
        looked_at,
        count: requests.len(),
        holder: context.holder,
    };
    let (rows, findings) = registry.claim_warm(&wish).await?;
    template::tell_findings(context, &findings);
    let sets: Vec<&[ClaimedRow]> = rows.chunk_by(|a, b| a.clone_id == b.clone_id).collect();
    let (good, bad): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| stands(set, context));
    give_up(registry, &ids(&bad)).await;
    let Some(template) = good.first().and_then(|set| set.first()) else {
        return Ok(None);
    };
    let template_facts = facts(template)?;
    let group = match first.index {
        0 => template.clone_id.clone(),
        _ => first.group.to_owned(),
    };
    let clones = Claimed { context, fingerprint, group: &group, requests, sets: &good };
    let handed = clones.publish(registry, count_hit, started).await;
    let clones = match handed {
        Ok(clones) => clones,
        Err(NotPublished::Failed(error)) => {
            let done: Result<()> = Err(error);
            give_up_after(registry, &ids(&good), &done).await;
            return done.map(|()| None);
        }
        // It is not what was made, a session is in it after all, or a right is gone: made anew, it may
        // work.
        Err(NotPublished::Unfit) => {
            give_up(registry, &ids(&good)).await;
            return Ok(None);
        }
    };
    Ok(Some(Warm { clones, group, template: template_facts }))
}

/// Why claimed clones were not published.
enum NotPublished {
    Failed(Error),
    Unfit,
}

impl From<Error> for NotPublished {
    fn from(error: Error) -> Self {
        NotPublished::Failed(error)
    }
}

/// Clones that were claimed, and what they are wanted for.
struct Claimed<'a> {
    context: &'a Context<'a>,
    fingerprint: &'a Fingerprint,
    group: &'a str,
    requests: &'a [Request<'a>],
    sets: &'a [&'a [ClaimedRow]],
}

impl Claimed<'_> {
    async fn publish(
        &self,
        registry: &mut Registry,
        count_hit: bool,
        started: Instant,
    ) -> std::result::Result<Vec<ClonedSet>, NotPublished> {
        let Claimed { context, fingerprint, group, requests, sets } = *self;
        let mut wanted = Vec::new();
        for (set, request) in sets.iter().zip(requests) {
            let (index, shard) = (request.index, request.shard);
            let names = names(context, request.pattern, group, index, shard)?;
            wanted.extend(set.iter().zip(names));
        }
        let count_hit = count_hit && sets.len() == requests.len();
        let tenures: Vec<_> = requests.iter().take(sets.len()).map(|r| &r.tenure).collect();
        let hooks = after::is_wanted(context);
        let mut named = wanted.iter();
        let named: Vec<Vec<NamedDatabase>> = sets
            .iter()
            .map(|set| {
                let databases = named.by_ref().take(set.len());
                databases
                    .map(|(row, name)| NamedDatabase { alias: row.alias.clone(), name: name.clone() })
                    .collect()
            })
            .collect();
        let notes = sets.iter().zip(requests).zip(&named);
        let notes: Vec<Statement> = notes
            .filter_map(|((set, request), databases)| {
                hook::note(context, request, &set.first()?.clone_id, databases)
            })
            .collect();
        let handed = registry.publish_warm(&wanted, &tenures, !hooks, &notes, count_hit);
        let until = match handed.await {
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
        for (((set, request), until), databases) in sets.iter().zip(requests).zip(until).zip(named) {
            let mut expires_at = until;
            if hooks {
                after::after_clone(context, request, &databases).await?;
                let (id, name) = (set.first(), databases.first());
                let id = id.map_or("", |row| &row.clone_id);
                let name = name.map_or("", |d| &d.name);
                expires_at = registry.begin_lease(id, name, &request.tenure).await?;
            }
            clones.push(ClonedSet {
                id: set.first().map_or_else(String::new, |row| row.clone_id.clone()),
                databases,
                oids: set.iter().filter_map(|row| row.oid).collect(),
                fingerprint: *fingerprint,
                by_session: request.tenure.term == Term::Session,
                bound: request.tenure.prolonging(),
                expires_at,
                took: started.elapsed(),
            });
        }
        Ok(clones)
    }
}

fn ids(sets: &[&[ClaimedRow]]) -> Vec<String> {
    let first = sets.iter().filter_map(|set| set.first());
    first.map(|row| row.clone_id.clone()).collect()
}

/// Whether a clone has the databases that the definition wants. Whether the server has them, publication
/// finds out.
fn stands(set: &[ClaimedRow], context: &Context<'_>) -> bool {
    let roles = set.iter().map(|row| &row.alias);
    roles.eq(&context.definition.databases) && set.iter().all(|row| row.oid.is_some())
}

fn facts(row: &ClaimedRow) -> Result<WarmTemplate> {
    let millis = row.full_ms.and_then(|ms| u64::try_from(ms).ok());
    Ok(WarmTemplate {
        extends: row.base_fingerprint.map(|base| Extends { base, added: row.added.0.clone() }),
        provisional: row
            .provisional
            .then(|| Provisional::new(row.settle_attempts, row.settle_tried_s, row.settle_failure.clone())),
        build_time: millis.map(Duration::from_millis),
    })
}
