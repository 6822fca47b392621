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
//! Until the last statement the clone is released, so a crash at any point leaves it to the next cleanup: a database
//! that was washed halfway has been written to.

use crate::database::{drop, visit};
use crate::error::Result;
use crate::names;
use crate::pg::counts::{self, Baseline, Changes, Counts};
use crate::pg::obstacle::Obstacle;
use crate::pg::{Doing as _, Session, catalog, is_connection_loss};
use crate::registry::counted::{Again, Recyclable};
use crate::registry::database::Owner;
use crate::registry::{DatabaseRow, Registry};

use super::warm;

/// How a clone became warm again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recycled {
    /// Nothing was written to it.
    Clean,
    /// What was written to it was removed.
    Washed,
}

/// Makes a released clone whose lock the caller holds warm again, if it is as its template, or can be made so, its
/// template is still in use, and there are fewer warm clones than its project wants. `None`: it is to be dropped.
///
/// # Errors
/// The driver's on the loss of the connection.
pub(super) async fn recycle(registry: &mut Registry, clone: &str) -> Result<Option<Recycled>> {
    match try_to(registry, clone).await {
        Err(error) if is_connection_loss(&error) => Err(error),
        Err(_) => Ok(None),
        done => done,
    }
}

async fn try_to(registry: &mut Registry, clone: &str) -> Result<Option<Recycled>> {
    let Some(recyclable) = registry.recyclable(clone).await? else {
        return Ok(None);
    };
    if !warm::has_room_for(registry, clone).await? {
        return Ok(None);
    }
    let rows = registry.databases_of(&Owner::Clone(clone.to_owned())).await?;
    let oids: Vec<_> = rows.iter().filter_map(|row| row.oid).collect();
    let found = catalog::databases(registry.session(), &[], &oids).await?;
    let mut comments = Vec::new();
    for row in &rows {
        let Some(found) = found.iter().find(|found| row.is(found)).filter(|found| !found.is_template) else {
            return Ok(None);
        };
        comments.push(found.comment.clone().unwrap_or_default());
        if drop::withdraw(registry.session(), row, found).await?.is_some() {
            return Ok(None);
        }
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
    Ok(done.then_some(if washed { Recycled::Washed } else { Recycled::Clean }))
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
