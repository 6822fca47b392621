//! Objects that prevent the drop of a database that is no longer needed: see the reasons for which DROP
//! DATABASE refuses (<https://www.postgresql.org/docs/current/sql-dropdatabase.html>).

use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use super::sql::{self, Statement};
use super::{Doing as _, Session};
use crate::error::Result;

/// An object in a database that pgstencil's role cannot remove.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Obstacle {
    /// Name of the database.
    pub(crate) database: String,
    /// Description of the object.
    pub(crate) what: String,
    /// The statement that removes it, and where to run it.
    pub(crate) fix: String,
}

const OBSTACLES: &str = "SELECT o.database, o.what, o.fix FROM ( \
       SELECT s.database::text AS database, s.datoid AS oid, \
         format('replication slot `%s` is in use by pid %s', s.slot_name, s.active_pid) AS what, \
         format('SELECT pg_terminate_backend(%s);', s.active_pid) AS fix \
       FROM pg_replication_slots s WHERE s.active AND s.datoid IS NOT NULL \
     UNION ALL \
       SELECT d.datname::text, d.oid, format('it contains subscription `%s`', s.subname), \
         format('in that database: ALTER SUBSCRIPTION %1$I DISABLE; \
ALTER SUBSCRIPTION %1$I SET (slot_name = NONE); DROP SUBSCRIPTION %1$I;', s.subname) \
       FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
     UNION ALL \
       SELECT d.datname::text, d.oid, format('it contains prepared transaction `%s` of role `%s`', x.gid, x.owner), \
         format('in that database: ROLLBACK PREPARED %L;', x.gid) \
       FROM pg_prepared_xacts x JOIN pg_database d ON d.datname = x.database \
     UNION ALL \
       SELECT d.datname::text, d.oid, format('a session of role `%s` is connected to it (pid %s)', r.rolname, a.pid), \
         format('as a superuser: SELECT pg_terminate_backend(%s);', a.pid) \
       FROM pg_stat_get_activity(NULL) a JOIN pg_database d ON d.oid = a.datid JOIN pg_roles r ON r.oid = a.usesysid \
       WHERE NOT pg_has_role(r.oid, 'USAGE') \
         AND (r.rolsuper OR NOT pg_has_role('pg_signal_backend', 'USAGE')) \
     ) o WHERE o.oid = ANY($1) ORDER BY 1, 2";

/// Returns the query for the obstacles in databases.
pub(crate) fn obstacles(oids: &[Oid]) -> Statement {
    sql::fill(OBSTACLES, &[&oids])
}

impl Obstacle {
    /// Returns the obstacles in databases.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn find(session: &mut Session, oids: &[Oid]) -> Result<Vec<Self>> {
        session.rows(obstacles(oids)).await.doing(|| "list the obstacles to dropping databases".into())
    }

    /// Describes the obstacle in one line.
    pub(crate) fn describe(&self) -> String {
        format!("database `{}` cannot be dropped: {}; {}", self.database, self.what, self.fix)
    }
}
