//! `before_release` commands that are owed: from the publication of a clone until its checkout has run the command.
//!
//! A row holds the data that the command is to see. The command itself is never in the registry: other processes
//! write there, and it runs with our privileges.

use std::path::Path;

use sqlx::FromRow;
use sqlx::types::Json;

use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::lock::LockKey;
use crate::pg::sql::{self, Statement};

use super::{Holder, Registry};

/// Checkout that runs the command of its clones.
#[derive(Clone, Debug)]
pub(crate) struct Debtor<'a> {
    project: &'a str,
    machine: &'a str,
    name: &'a str,
    top: String,
    below: &'a str,
}

impl<'a> Debtor<'a> {
    /// Identifies it by the holder's checkout. A program without one is identified by its host and the config's
    /// root.
    pub(crate) fn new(holder: &'a Holder, project: &'a str, root: &Path) -> Self {
        let checkout = &holder.checkout;
        let unknown = checkout.owner.is_empty() && checkout.top.is_empty();
        Debtor {
            project,
            machine: match unknown {
                true => &holder.host,
                false => &checkout.machine,
            },
            name: &checkout.owner,
            top: match unknown {
                true => root.to_string_lossy().into_owned(),
                false => checkout.top.clone(),
            },
            below: &checkout.below,
        }
    }

    fn values(&self) -> [&dyn sql::Literal; 5] {
        [&self.project, &self.name, &self.machine, &self.top, &self.below]
    }
}

/// Command to record for a clone that is about to be published.
#[derive(Clone, Debug)]
pub(crate) struct NewOwed<'a> {
    /// Id of the clone.
    pub(crate) clone: &'a str,
    /// Name of its definition.
    pub(crate) definition: &'a str,
    /// Names of its databases.
    pub(crate) names: Vec<String>,
    /// Data that the command is to see, without secrets.
    pub(crate) handed: serde_json::Value,
    /// Checkout that runs it.
    pub(crate) debtor: Debtor<'a>,
}

/// Command that is owed.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct OwedRow {
    /// Id of the clone.
    pub(crate) clone_id: String,
    /// Name of its definition.
    pub(crate) definition: String,
    /// Names of its databases.
    pub(crate) names: Vec<String>,
    /// Data that the command is to see.
    pub(crate) handed: Json<serde_json::Value>,
    /// Whether it was started.
    pub(crate) started: bool,
    /// Failure that has not been reported yet.
    pub(crate) failure: Option<String>,
    /// Whether another database has one of the names now.
    pub(crate) taken: bool,
}

impl OwedRow {
    /// Returns the name that a person uses for the clone.
    pub(crate) fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.clone_id)
    }
}

macro_rules! columns {
    () => {
        "clone_id, definition, names, handed, started_at IS NOT NULL AS started, failure, \
         EXISTS (SELECT FROM pg_database p WHERE p.datname::text = ANY (names) AND NOT EXISTS \
           (SELECT FROM pgstencil.database d WHERE d.clone_id = o.clone_id AND d.oid = p.oid)) AS taken"
    };
}
macro_rules! own {
    () => {
        "project = $1 AND owner_role = session_user::text AND owner_name = $2 \
         AND ($2 <> '' OR (owner_machine, owner_top, owner_below) = ($3, $4, $5))"
    };
}
/// After a week, it is no longer known what was created in addition to the clone.
macro_rules! forgetting {
    ($then:expr) => {
        concat!("WITH old AS (DELETE FROM pgstencil.owed WHERE due_at < now() - interval '7 days') ", $then)
    };
}

const NOTE: &str = forgetting!(
    "INSERT INTO pgstencil.owed (project, owner_role, owner_name, owner_machine, owner_top, owner_below, \
       clone_id, definition, names, handed) \
     VALUES ($1, session_user::text, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (clone_id) DO NOTHING"
);
const DUE: &str = forgetting!(concat!(
    "SELECT ",
    columns!(),
    " FROM pgstencil.owed o WHERE ",
    own!(),
    " AND due_at >= now() - interval '7 days' ORDER BY due_at, clone_id"
));
const CLAIM: &str = concat!(
    "UPDATE pgstencil.owed o SET started_at = now() WHERE ",
    own!(),
    " AND clone_id = $6 AND definition = ANY ($7) AND started_at IS NULL RETURNING ",
    columns!()
);
const END: &str = "DELETE FROM pgstencil.owed WHERE clone_id = $1";
const FAIL: &str =
    "UPDATE pgstencil.owed SET failure = $2, due_at = coalesce(due_at, now()) WHERE clone_id = $1";
const TOLD: &str = "DELETE FROM pgstencil.owed WHERE clone_id = $1 AND failure IS NOT NULL";
const BROKEN_OFF: &str =
    "DELETE FROM pgstencil.owed WHERE clone_id = $1 AND started_at IS NOT NULL AND failure IS NULL";

/// Statement that records what is owed for a clone; sent along with its publication.
pub(crate) fn note(new: &NewOwed<'_>) -> Statement {
    let mut values = new.debtor.values().to_vec();
    let handed = Json(&new.handed);
    let rest: [&dyn sql::Literal; 4] = [&new.clone, &new.definition, &new.names, &handed];
    values.extend(rest);
    sql::fill(NOTE, &values)
}

impl Registry {
    /// Returns the commands that a checkout owes, oldest first. Deletes those of any checkout that are older than a
    /// week.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn owed(&mut self, debtor: &Debtor<'_>) -> Result<Vec<OwedRow>> {
        self.session()
            .rows(sql::fill(DUE, &debtor.values()))
            .await
            .doing(|| "read the pending before_release commands".into())
    }

    /// Claims the command of a clone, if the checkout owes it and no process has started it. `definitions`: those
    /// that have such a command. Until [`Registry::end_owed`] a lock shows that the process is alive.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn claim_owed(
        &mut self,
        debtor: &Debtor<'_>,
        clone: &str,
        definitions: &[String],
    ) -> Result<Option<OwedRow>> {
        let doing = || format!("claim before_release of clone {clone}");
        let key = LockKey::owed(clone);
        let mut values = debtor.values().to_vec();
        let definitions = definitions.to_vec();
        let rest: [&dyn sql::Literal; 2] = [&clone, &definitions];
        values.extend(rest);
        let [_, locked, claimed] = self
            .session()
            .send([sql::flushed(), key.try_lock(), sql::fill(CLAIM, &values)])
            .await
            .doing(doing)?;
        let row = claimed.read().doing(doing)?.into_iter().next();
        let (locked,): (bool,) = locked.one().doing(doing)?;
        if row.is_none() && locked {
            self.session().unlock(key).await.doing(doing)?;
        }
        Ok(row)
    }

    /// Records that a claimed command has ended. `failure`: reported by the next command of the checkout.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn end_owed(&mut self, clone: &str, failure: Option<&str>) -> Result<()> {
        let ended = match failure {
            None => sql::fill(END, &[&clone]),
            Some(failure) => sql::fill(FAIL, &[&clone, &failure]),
        };
        self.session()
            .send([ended, LockKey::owed(clone).unlock()])
            .await
            .doing(|| format!("record the end of before_release of clone {clone}"))?;
        Ok(())
    }

    /// Records that a failure is reported. `false`: another process reports it.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn told_of_owed(&mut self, clone: &str) -> Result<bool> {
        let done = self
            .session()
            .execute(sql::fill(TOLD, &[&clone]))
            .await
            .doing(|| "record that a failure of before_release was reported".into())?;
        Ok(done.count == 1)
    }

    /// Deletes a command that was started, if its process is gone, so that its progress is unknown. `None`: it may
    /// still be running.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn forget_broken_off(&mut self, clone: &str) -> Result<Option<bool>> {
        let doing = || format!("check before_release of clone {clone}");
        let key = LockKey::owed(clone);
        if !self.session().try_lock(key).await.doing(doing)? {
            return Ok(None);
        }
        let [done, _] =
            self.session().send([sql::fill(BROKEN_OFF, &[&clone]), key.unlock()]).await.doing(doing)?;
        Ok(Some(done.count == 1))
    }
}
