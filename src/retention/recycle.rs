//! Released clones to which nothing was written become warm again, and nothing is dropped or copied.
//!
//! The proof is the server's own: since a clone was made, its counters have counted no inserted, updated or deleted
//! row, catalogs included, no visit to a sequence, and no VACUUM or ANALYZE; its entries in the shared catalogs are
//! as they were; and the counters themselves were neither lost in a crash, nor reset, nor switched off. They are read
//! when no other session is left: connections are refused, all sessions are ended, and the database has its private
//! name, which Postgres gives it only while it is empty. A doubt means that the clone is dropped.
//!
//! Until the last statement the clone is released, so a crash at any point leaves it to the next cleanup.

use std::time::Duration;

use crate::database::drop;
use crate::error::Result;
use crate::names;
use crate::pg::obstacle::Obstacle;
use crate::pg::{Deadline, Doing as _, Session, catalog, is_connection_loss, sql};
use crate::registry::counted::Again;
use crate::registry::database::Owner;
use crate::registry::{DatabaseRow, Registry};

use super::warm;

/// Time for sessions to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a released clone whose lock the caller holds warm again, if nothing was written to it, its template is still
/// in use, and there are fewer warm clones than its project wants. `false`: it is to be dropped.
///
/// # Errors
/// The driver's on the loss of the connection.
pub(super) async fn recycle(registry: &mut Registry, clone: &str) -> Result<bool> {
    match try_to(registry, clone).await {
        Err(error) if is_connection_loss(&error) => Err(error),
        Err(_) => Ok(false),
        done => done,
    }
}

async fn try_to(registry: &mut Registry, clone: &str) -> Result<bool> {
    if !registry.is_recyclable(clone).await? || !warm::has_room_for(registry, clone).await? {
        return Ok(false);
    }
    let rows = registry.databases_of(&Owner::Clone(clone.to_owned())).await?;
    let oids: Vec<_> = rows.iter().filter_map(|row| row.oid).collect();
    let found = catalog::databases(registry.session(), &[], &oids).await?;
    let mut comments = Vec::new();
    for row in &rows {
        let Some(found) = found.iter().find(|found| row.is(found)).filter(|found| !found.is_template) else {
            return Ok(false);
        };
        comments.push(found.comment.clone().unwrap_or_default());
        if drop::withdraw(registry.session(), row, found).await?.is_some() {
            return Ok(false);
        }
    }
    if !Obstacle::find(registry.session(), &oids).await?.is_empty() {
        return Ok(false);
    }
    for row in &rows {
        if !is_untouched(registry, row).await? {
            return Ok(false);
        }
    }
    let new = names::clone_id();
    let again = rows.iter().zip(comments).map(|(row, comment)| Again {
        row,
        private_name: names::private_name(),
        comment: comment.replace(&format!("({clone})"), &format!("({new})")),
    });
    registry.make_warm_again(clone, &new, &again.collect::<Vec<_>>()).await
}

/// Returns whether nothing was written to a database that is closed, empty, and has its private name. It is opened
/// for this session alone.
async fn is_untouched(registry: &mut Registry, row: &DatabaseRow) -> Result<bool> {
    let (name, Some(oid)) = (&row.private_name, row.oid) else {
        return Ok(false);
    };
    let deadline = Deadline::new(Some(PATIENCE), Default::default());
    let doing = || format!("open or close database `{name}`");
    registry.session().run(sql::allow_connections(name, true)).await.doing(doing)?;
    let entered = registry.enter_database(name, &deadline).await;
    registry.session().run(sql::allow_connections(name, false)).await.doing(doing)?;
    let Ok(mut visitor) = entered else {
        return Ok(false);
    };
    let untouched = alone_and_untouched(registry, &mut visitor, oid).await;
    visitor.close().await;
    let left = catalog::wait_until_empty(registry.session(), oid, PATIENCE, &deadline).await?;
    Ok(untouched? && left.is_empty())
}

async fn alone_and_untouched(
    registry: &mut Registry,
    visitor: &mut Session,
    oid: sqlx::postgres::types::Oid,
) -> Result<bool> {
    let own = catalog::backend(visitor).await?;
    let others = catalog::visitors(registry.session(), oid).await?;
    // Another session used the opening, so a later one may have, too.
    if others.iter().any(|other| other.pid != own) {
        return Ok(false);
    }
    catalog::is_untouched(visitor).await
}
