//! VACUUM of the registry's own tables. Autovacuum visits the databases of a server in turn, and where clones come
//! and go it may not reach the registry for hours, while each clone leaves some dead rows there.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::pg::sql;
use crate::pg::{Doing as _, cause};

use super::Registry;

/// Tables for which a VACUUM pays: many dead rows next to the live ones, or a file that has outgrown its size at the
/// last VACUUM. The size counts as well, since the server may count no rows, or lose its counts in a crash. A VACUUM
/// that removes nothing, since a session needs the old versions, is not repeated immediately.
///
/// The catalogs that all databases share are in the list for roles that may vacuum them, such as that of the private
/// server: each clone leaves some dead rows there, too.
const BLOATED: &str = "SELECT n.nspname::text, c.relname::text \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND pg_has_role(c.relowner, 'USAGE') \
     AND (n.nspname = 'pgstencil' OR c.relisshared AND c.relname IN \
       ('pg_database', 'pg_db_role_setting', 'pg_shdepend', 'pg_shdescription')) \
     AND (pg_stat_get_dead_tuples(c.oid) > 300 + pg_stat_get_live_tuples(c.oid) \
       OR pg_relation_size(c.oid) / current_setting('block_size')::bigint > 32 + 2 * c.relpages) \
     AND coalesce(pg_stat_get_last_vacuum_time(c.oid), '-infinity') < now() - interval '5 seconds' \
     ORDER BY c.oid";

/// Time until one session looks again. No table is vacuumed twice within it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Registry {
    /// Vacuums those of the registry's tables for which that pays, and that the role owns. Not for sessions that a
    /// caller waits for. Does nothing if this session did so within the last seconds. Returns a line for each table that could not be vacuumed.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn vacuum(&mut self) -> Result<Vec<String>> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return Ok(Vec::new());
        }
        self.looked = Some(Instant::now());
        let bloated: Vec<(String, String)> = self
            .session()
            .rows(sql::fill(BLOATED, &[]))
            .await
            .doing(|| "find the tables of the registry to vacuum".into())?;
        let mut lines = Vec::new();
        for (schema, table) in bloated {
            let done = self.session().run(sql::vacuum_unlocked(&schema, &table)).await;
            if let Err(error) = done.doing(|| format!("vacuum table `{schema}.{table}`")) {
                lines.push(format!("{error}: {}", cause(&error)));
            }
        }
        Ok(lines)
    }
}
