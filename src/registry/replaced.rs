//! Databases that a command created under the name of its clone, after it had dropped the clone. They are not
//! pgstencil's, so they are kept, and the next clone of the name fails because of them.

use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use super::Registry;
use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql;

/// Database that still exists.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct ReplacedRow {
    /// Its name, which was a clone's.
    pub(crate) name: String,
    /// Time of its detection; RFC 3339, UTC.
    pub(crate) at: String,
}

/// Rows of databases that are gone are deleted as well.
const NOTE: &str = "WITH gone AS (DELETE FROM pgstencil.replaced r WHERE NOT EXISTS \
       (SELECT FROM pg_database d WHERE d.oid = r.oid AND d.datname::text = r.name)) \
     INSERT INTO pgstencil.replaced (oid, name) VALUES ($1, $2) ON CONFLICT (oid) DO NOTHING";
const THERE: &str = "SELECT r.name, to_char(r.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS at \
     FROM pgstencil.replaced r JOIN pg_database d ON d.oid = r.oid AND d.datname::text = r.name ORDER BY r.name";

impl Registry {
    /// Records that a database has the name of a clone that is gone.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_replaced(&mut self, oid: Oid, name: &str) -> Result<()> {
        self.session()
            .execute(sql::fill(NOTE, &[&oid, &name]))
            .await
            .doing(|| format!("record that database `{name}` replaced a clone"))?;
        Ok(())
    }

    /// Returns the ones that still exist.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn replaced(&mut self) -> Result<Vec<ReplacedRow>> {
        self.session()
            .rows(sql::fill(THERE, &[]))
            .await
            .doing(|| "read the databases that replaced clones".into())
    }
}
