//! Objects that prevent the drop of a database that is no longer needed: see the reasons for which DROP
//! DATABASE refuses (<https://www.postgresql.org/docs/current/sql-dropdatabase.html>).

use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use super::sql::{self, Statement};
use super::{Doing as _, Session};
use crate::error::Result;
use crate::events::Warning;

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

const OBSTACLES: &str = include_str!("queries/obstacles.sql");

/// Returns the query for the obstacles in databases.
pub(crate) fn obstacles(oids: &[Oid]) -> Statement {
    sql::planned("pgstencil_obstacles", OBSTACLES, &[&oids])
}

impl Obstacle {
    /// Returns the obstacles in databases.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn find(session: &mut Session, oids: &[Oid]) -> Result<Vec<Self>> {
        session.rows(obstacles(oids)).await.doing(|| "list the obstacles to dropping databases".into())
    }

    /// Describes the obstacle.
    pub(crate) fn warning(&self) -> Warning {
        Warning::new(format!("database `{}` cannot be dropped", self.database))
            .detail(&self.what)
            .hint(&self.fix)
    }
}
