//! Named clones that were not dropped by their owner: the next request for the name reports this.

use sqlx::FromRow;
use sqlx::types::Json;

use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};

use super::owner::{Asker, CloneOwner, owner_columns};
use super::{Holder, Registry};

/// Row of a clone that was dropped.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub(crate) struct DroppedRow {
    id: i64,
    /// Name of its first database.
    pub(crate) name: String,
    project: String,
    #[sqlx(flatten)]
    owner: CloneOwner,
    holder: Json<Holder>,
    /// Reason of the drop, in words.
    pub(crate) why: String,
    /// Time of the drop; RFC 3339, UTC.
    pub(crate) at: String,
}

/// A name is requested again sooner than this, or never.
const NOTE: &str = "WITH new AS (INSERT INTO pgstencil.dropped (name, project, holder, owner_role, owner_machine, \
       owner_name, owner_top, owner_below, owned_at, shared, why) \
     SELECT name, project, holder, owner_role, owner_machine, owner_name, owner_top, owner_below, owned_at, shared, $2 \
       FROM pgstencil.clone WHERE id = $1 AND state = 'leased' AND lease = 'expiry' AND named RETURNING id) \
     DELETE FROM pgstencil.dropped d USING new WHERE d.id <= new.id - 500 OR d.at < now() - interval '90 days'";
const NAMED: &str = concat!(
    "SELECT id, name, project, ",
    owner_columns!(),
    ", holder, why, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS at \
     FROM pgstencil.dropped WHERE name = ANY($1) ORDER BY id DESC"
);
const TOLD: &str = "DELETE FROM pgstencil.dropped WHERE id = ANY($1)";

/// Statement that records that a clone is about to be discarded, unless its name cannot be requested again, or it
/// ended with its own command. It must run before the clone's state changes.
pub(super) fn note(id: &str, why: &str) -> Statement {
    sql::fill(NOTE, &[&id, &why])
}

impl Registry {
    /// Returns the asker's clone with one of these names that was dropped last, unless that was reported before.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn take_dropped(
        &mut self,
        names: &[String],
        asker: &Asker<'_>,
    ) -> Result<Option<DroppedRow>> {
        let rows: Vec<DroppedRow> = self
            .session()
            .rows(sql::fill(NAMED, &[&names]))
            .await
            .doing(|| "read the record of an earlier clone".into())?;
        let own: Vec<DroppedRow> =
            rows.into_iter().filter(|row| asker.has(&row.owner, &row.holder.0, &row.project)).collect();
        let ids: Vec<i64> = own.iter().map(|row| row.id).collect();
        if !ids.is_empty() {
            self.session()
                .execute(sql::fill(TOLD, &[&ids]))
                .await
                .doing(|| "record that the end of an earlier clone was reported".into())?;
        }
        Ok(own.into_iter().next())
    }
}
