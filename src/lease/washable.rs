//! What can be washed in clones of a template: read from the first copy that is made where the config wants it.

use super::hook;
use crate::config::Recycle;
use crate::context::Context;
use crate::database::visit;
use crate::error::Result;
use crate::pg::washable::Washable;
use crate::pg::{catalog, is_connection_loss};
use crate::registry::counted::COUNTS_SINCE;
use crate::registry::{DatabaseRow, Registry};

/// Records what can be washed in clones of a template, if that is wanted and not known. `rows`: the databases of a copy
/// that no session has used, and that are closed.
///
/// # Errors
/// The driver's on the loss of the connection; without the record nothing is washed.
pub(super) async fn note(
    registry: &mut Registry,
    context: &Context<'_>,
    template: i64,
    rows: &[DatabaseRow],
) -> Result<()> {
    let wanted = context.clone_settings.recycle == Recycle::Wash && hook::is_recycled(context);
    if !wanted || registry.facts().major() < COUNTS_SINCE {
        return Ok(());
    }
    match read(registry, template, rows).await {
        Err(error) if is_connection_loss(&error) => Err(error),
        _ => Ok(()),
    }
}

async fn read(registry: &mut Registry, template: i64, rows: &[DatabaseRow]) -> Result<()> {
    if !registry.lacks_washable(template).await? {
        return Ok(());
    }
    let mut all = Vec::new();
    for row in rows {
        let mut row = row.clone();
        if row.oid.is_none() {
            row.oid = catalog::database(registry.session(), &row.private_name).await?.map(|found| found.oid);
        }
        let read = visit::alone(registry, &row, async |_, visitor| Washable::read(visitor).await);
        let Some(washable) = read.await? else {
            return Ok(());
        };
        all.push((row.alias, washable));
    }
    registry.note_washable(template, &all).await
}
