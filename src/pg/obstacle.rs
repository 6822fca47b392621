//! Objects that prevent the drop of a database that is no longer needed: see the reasons for which DROP
//! DATABASE refuses (<https://www.postgresql.org/docs/current/sql-dropdatabase.html>).

use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use super::sql::Statement;
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

fn doing() -> String {
    "list the obstacles to dropping databases".into()
}

/// Returns the query for the obstacles in databases.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn obstacles(session: &mut Session, oids: &[Oid]) -> Result<Statement> {
    session.planned("pgstencil_obstacles", OBSTACLES, &[&oids]).await.doing(doing)
}

impl Obstacle {
    /// Returns the obstacles in databases.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn find(session: &mut Session, oids: &[Oid]) -> Result<Vec<Self>> {
        let query = obstacles(session, oids).await?;
        session.rows(query).await.doing(doing)
    }

    /// Describes the obstacle.
    pub(crate) fn warning(&self) -> Warning {
        Warning::new(format!("database `{}` cannot be dropped", self.database))
            .detail(&self.what)
            .hint(&self.fix)
    }
}
