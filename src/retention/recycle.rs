//! Released clones to which nothing was written become warm again, and nothing is dropped or copied.
//!
//! The proof is the server's own: since a clone was made, its counters have counted no inserted, updated or deleted
//! row, catalogs included, no visit to a sequence, and no VACUUM or ANALYZE; its entries in the shared catalogs are
//! as they were; and the counters themselves were neither lost in a crash, nor reset, nor switched off. They are read
//! when no other session is left: connections are refused, all sessions are ended, and the database has its private
//! name, which Postgres gives it only while it is empty. A doubt means that the clone is dropped.
//!
//! With `recycle = "wash"` a clone may have rows in tables that are empty in its template, and sequences may have moved.
//! Then these tables are emptied by one TRUNCATE, with all that refer to them, which must be empty in the template,
//! too; the sequences are set back. Afterwards the counters must have counted this and nothing else. They are the
//! baseline for what the next holder writes.
//!
//! The cleanup recycles what it finds released. A caller for whom there is no warm clone does the same, before it has one
//! copied: the clone's lock decides who of them does it.
//!
//! Until the last statement the clone is released, so a crash at any point leaves it to the next cleanup: a database
//! that was washed halfway has been written to.

use std::time::Duration;

use crate::config::Recycle;
use crate::context::Context;
use crate::database::{drop, visit};
use crate::error::Result;
use crate::names::{self, Fingerprint};
use crate::pg::counts::{self, Baseline, Changes, Counts};
use crate::pg::lock::LockKey;
use crate::pg::obstacle::Obstacle;
use crate::pg::{Doing as _, Session, is_connection_loss};
use crate::registry::counted::{Again, Recyclable};
use crate::registry::{DatabaseRow, Registry};

use super::warm;

/// How a clone became warm again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recycled {
    /// Nothing was written to it.
    Clean,
    /// What was written to it was removed.
    Washed,
}

/// Reason for which a released clone is recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// The stock of warm clones, if there is room.
    Stock,
    /// A caller who waits for a clone.
    Caller,
}

impl For {
    /// Time for its sessions to end.
    fn patience(self) -> Duration {
        match self {
            For::Stock => Duration::from_secs(5),
            // A copy takes about as long.
            For::Caller => Duration::from_millis(200),
        }
    }
}

/// A clone that became warm again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WarmAgain {
    /// Its new id. The session holds its lock.
    pub(crate) id: String,
    /// What was necessary.
    pub(crate) how: Recycled,
}

/// Makes a released clone whose lock the caller holds warm again, if it is as its template, or can be made so, its
/// template is still in use, and it is wanted. `None`: it is to be dropped.
///
/// # Errors
/// The driver's on the loss of the connection.
pub(crate) async fn recycle(registry: &mut Registry, clone: &str, wanted: For) -> Result<Option<WarmAgain>> {
    match Box::pin(try_to(registry, clone, wanted)).await {
        Err(error) if is_connection_loss(&error) => Err(error),
        Err(_) => Ok(None),
        done => done,
    }
}

/// What [`for_caller`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ForCaller {
    /// This clone is warm again. The caller releases its lock when it has claimed it.
    Again(WarmAgain),
    /// Other sessions are about to make some warm again.
    Others,
    /// There is none that can be made so.
    None,
}

/// Makes a released clone of a template warm again for a caller who waits for one.
///
/// # Errors
/// The driver's.
pub(crate) async fn for_caller(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
) -> Result<ForCaller> {
    let wash = context.clone_settings.recycle == Recycle::Wash;
    let (project, definition) = (context.project, &context.definition.name);
    for _ in 0..MOST_IN_VAIN {
        let taken = registry.take_recyclable(project, definition, fingerprint, wash).await?;
        let Some(id) = taken.id else {
            return Ok(if taken.any { ForCaller::Others } else { ForCaller::None });
        };
        let again = recycle(registry, &id, For::Caller).await?;
        if again.is_none() {
            // The cleanup drops it, and no other caller tries.
            registry.forget_counted(&id).await?;
        }
        registry.session().unlock(LockKey::clone(&id)).await.doing(|| "unlock a clone".into())?;
        if let Some(again) = again {
            return Ok(ForCaller::Again(again));
        }
    }
    Ok(ForCaller::None)
}

/// Number of clones that a caller looks into in vain before it has one copied.
const MOST_IN_VAIN: usize = 2;

async fn try_to(registry: &mut Registry, clone: &str, wanted: For) -> Result<Option<WarmAgain>> {
    let Some((recyclable, rows)) = registry.recyclable(clone).await? else {
        return Ok(None);
    };
    if recyclable.is_hopeless() || wanted == For::Stock && !warm::has_room_for(registry, clone).await? {
        return Ok(None);
    }
    let oids: Vec<_> = rows.iter().filter_map(|row| row.oid).collect();
    let mut comments = Vec::new();
    for row in &rows {
        let withdrawn = drop::withdraw_released(registry.session(), row, wanted.patience()).await?;
        let Some(found) = withdrawn else {
            return Ok(None);
        };
        comments.push(found.comment.unwrap_or_default());
    }
    if !Obstacle::find(registry.session(), &oids).await?.is_empty() {
        return Ok(None);
    }
    let new = names::clone_id();
    let mut again = Vec::new();
    let mut washed = false;
    for (row, comment) in rows.iter().zip(comments) {
        let visited = visit::alone(registry, row, async |registry, visitor| {
            put_right(registry, visitor, &recyclable, row).await
        });
        let Some((recycled, baseline)) = visited.await?.flatten() else {
            return Ok(None);
        };
        washed |= recycled == Recycled::Washed;
        again.push(Again {
            row,
            private_name: names::private_name(),
            comment: comment.replace(&format!("({clone})"), &format!("({new})")),
            baseline,
        });
    }
    let done = registry.make_warm_again(clone, &new, &again, washed).await?;
    let how = if washed { Recycled::Washed } else { Recycled::Clean };
    Ok(done.then_some(WarmAgain { id: new, how }))
}

/// Makes a database equal to its template's, if it is not and can be made so. Returns what was necessary, and the
/// counters after that. `None`: it is to be dropped.
async fn put_right(
    registry: &mut Registry,
    visitor: &mut Session,
    recyclable: &Recyclable,
    row: &DatabaseRow,
) -> Result<Option<(Recycled, Baseline)>> {
    let base = recyclable.baselines.get(&row.alias).cloned().unwrap_or_default();
    let before = Counts::read(visitor).await?;
    let (tables, sequences) = match before.since(&base) {
        Changes::None => return Ok(Some((Recycled::Clean, base))),
        Changes::Rows { tables, sequences } if recyclable.may_be_washed() => (tables, sequences),
        Changes::Rows { .. } | Changes::Other => return Ok(None),
    };
    let known = registry.washable(recyclable.template_id, &row.alias, &tables, &sequences).await?;
    let Some(wash) = known.wash(&tables, &sequences) else {
        return Ok(None);
    };
    let mut message = wash.statements();
    message.push(counts::flush());
    visitor.send_all(&message).await.doing(|| format!("wash database `{}`", row.private_name))?;
    let after = Counts::read(visitor).await?;
    let baseline = after.after_washing(&before, &wash.tables(), &sequences);
    Ok(baseline.map(|baseline| (Recycled::Washed, baseline)))
}
