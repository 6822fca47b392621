//! Clones whose names come from a branch or a worktree of one repository.

use sqlx::FromRow;
use sqlx::types::Json;

use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::message::Answer;
use crate::pg::sql::{self, Statement};

use super::Registry;
use super::holder::Checkout;
use super::owner::Bound;

/// A clone that is kept for a branch or a worktree.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct BoundRow {
    /// Short id.
    pub(crate) id: String,
    /// Name of its first database.
    pub(crate) name: String,
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Branch and worktree that its name comes from.
    #[sqlx(flatten)]
    pub(crate) bound: Bound,
    /// Number of sessions in its databases.
    pub(crate) sessions: i64,
    /// Changes with every update of the row.
    version: String,
}

/// Query part for clones of the session's role on the asker's machine, or of the asker's `PGSTENCIL_OWNER`.
macro_rules! of_owner {
    ($also:literal) => {
        concat!(
            "FROM pgstencil.clone c WHERE state = 'leased' AND lease = 'expiry' \
             AND (expires_at IS NULL OR expires_at > now()) \
             AND (bound_branch IS NOT NULL OR bound_worktree IS NOT NULL) \
             AND owner_role = session_user::text AND owner_machine = $1 AND owner_name = $2 AND ",
            $also
        )
    };
}

const HERE: &str = concat!(
    "SELECT id, name, project, definition, bound_branch, bound_worktree, c.xmin::text AS version, \
     0::bigint AS sessions ",
    of_owner!("repository = $3 ORDER BY created_at, id")
);
const LOOK: &str = concat!(
    "SELECT id, name, project, definition, bound_branch, bound_worktree, c.xmin::text AS version, \
     (SELECT count(*) FROM pg_stat_activity a JOIN pgstencil.database d ON d.oid = a.datid \
       WHERE d.clone_id = c.id) AS sessions ",
    of_owner!("repository = $3 ORDER BY created_at, id")
);
const ELSEWHERE: &str = concat!(
    "SELECT count(*) ",
    of_owner!("repository <> $3 AND repository ->> 'common_dir' = $3::jsonb ->> 'common_dir'")
);

/// Query for the clones that are kept for branches and worktrees of the asker's repository; `sessions` is 0. `None`
/// if the asker has no repository.
pub(super) fn here(checkout: &Checkout) -> Option<Statement> {
    fill(HERE, checkout)
}

fn fill(query: &'static str, checkout: &Checkout) -> Option<Statement> {
    let repository = checkout.repository.as_ref()?;
    Some(sql::fill(query, &[&checkout.machine, &checkout.owner, &Json(repository)]))
}

impl BoundRow {
    /// Returns whether the clone's row is unchanged since `before`.
    pub(crate) fn is_same(&self, before: &BoundRow) -> bool {
        self.id == before.id && self.version == before.version
    }
}

impl Registry {
    /// Returns the clones that are kept for branches and worktrees of the asker's repository, oldest first, with
    /// the number of their sessions.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn bound(&mut self, checkout: &Checkout) -> Result<Vec<BoundRow>> {
        self.read_bound(LOOK, checkout).await
    }

    async fn read_bound(&mut self, query: &'static str, checkout: &Checkout) -> Result<Vec<BoundRow>> {
        let Some(statement) = fill(query, checkout) else {
            return Ok(Vec::new());
        };
        self.session().rows(statement).await.doing(|| "list the clones of this repository".into())
    }

    /// Returns how many clones are kept for another repository that was in the place of the asker's, or is there on
    /// a copied machine.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn bound_elsewhere(&mut self, checkout: &Checkout) -> Result<i64> {
        let Some(statement) = fill(ELSEWHERE, checkout) else {
            return Ok(0);
        };
        self.session().scalar(statement).await.doing(|| "count the clones of another repository".into())
    }

    /// Keeps the answer to [`here`], which came with another message, for [`Registry::bound_here`].
    pub(super) fn note_bound(&mut self, answer: Option<&Answer>) {
        self.bound = answer.and_then(|answer| answer.read().ok());
    }

    /// Like [`Registry::bound`], but without counting sessions. Uses the answer that came with the last
    /// publication, or asks now.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn bound_here(&mut self, checkout: &Checkout) -> Result<Vec<BoundRow>> {
        match self.bound.take() {
            Some(rows) => Ok(rows),
            None => self.read_bound(HERE, checkout).await,
        }
    }
}
