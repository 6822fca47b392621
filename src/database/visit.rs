//! Visits: pgstencil alone in a closed database, for as long as it takes.

use std::time::Duration;

use crate::error::Result;
use crate::pg::{Deadline, Doing as _, Session, catalog, sql};
use crate::registry::{DatabaseRow, Registry};

/// Time for sessions to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does something in a database that is closed and has its private name. It is opened for this session alone. `None`:
/// another session used the opening, or one is left. At the end the database is closed, and empty unless the result is
/// `None`.
///
/// # Errors
/// The driver's; those of `work`.
pub(crate) async fn alone<T>(
    registry: &mut Registry,
    row: &DatabaseRow,
    work: impl AsyncFnOnce(&mut Registry, &mut Session) -> Result<T>,
) -> Result<Option<T>> {
    let (name, Some(oid)) = (&row.private_name, row.oid) else {
        return Ok(None);
    };
    let deadline = Deadline::new(Some(PATIENCE), Default::default());
    let doing = || format!("open or close database `{name}`");
    registry.session().run(sql::allow_connections(name, true)).await.doing(doing)?;
    let entered = registry.enter_database(name, &deadline).await;
    registry.session().run(sql::allow_connections(name, false)).await.doing(doing)?;
    let Ok(mut visitor) = entered else {
        return Ok(None);
    };
    let done = async {
        let own = catalog::backend(&mut visitor).await?;
        let others = catalog::visiting(registry.session(), oid).await?;
        // Another session used the opening, so a later one may have, too.
        match others.iter().any(|other| *other != own) {
            true => Ok(None),
            false => Ok(Some(work(registry, &mut visitor).await?)),
        }
    }
    .await;
    visitor.close().await;
    let left = catalog::wait_until_empty(registry.session(), oid, PATIENCE, &deadline).await?;
    Ok(done?.filter(|_| left.is_empty()))
}
