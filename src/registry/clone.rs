//! Rows of `pgstencil.clone`: creating → leased → released. A clone that is created ahead of time is warm in
//! between: creating → warm → creating → leased. The databases of a released clone to which nothing was written move
//! to the row of a new warm one.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use sqlx::postgres::types::Oid;
use sqlx::types::Json;

use crate::error::{Error, Fault, Result};
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::catalog::{self, DatabasesWhere, select_databases};
use crate::pg::lock::LockKey;
use crate::pg::message::Answer;
use crate::pg::sql::{self, Statement};
use crate::quantity::Seconds;

use super::database::{self, NewDatabase, Owner};
use super::owner::{Bound, CloneOwner, owner_columns};
use super::{CloneState, DatabaseRow, Holder, LeaseKind, Registry, ShownState, dropped};

/// Duration for which a holder keeps a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Term {
    /// As long as a session holds the clone's lock.
    Session,
    /// For this long, by the server's clock; `None` is indefinitely. It replaces an earlier expiry.
    Expiry(Option<Duration>),
    /// By the config: `[clone] branch_ttl` after the last command in its checkout, if its name comes from a local
    /// branch or a worktree, else `[clone] ttl`. The lease of an existing clone is never shortened.
    Usual,
}

impl Term {
    pub(super) fn kind(self) -> LeaseKind {
        match self {
            Term::Session => LeaseKind::Session,
            Term::Expiry(_) | Term::Usual => LeaseKind::Expiry,
        }
    }

    pub(super) fn seconds(self) -> Option<f64> {
        match self {
            Term::Session | Term::Usual | Term::Expiry(None) => None,
            Term::Expiry(Some(ttl)) => Some(ttl.as_secs_f64()),
        }
    }
}

/// Row of a clone.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct CloneRow {
    /// Short random id; the key of the clone's lock is computed from it.
    pub(crate) id: String,
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Fingerprint of the template that it was copied from.
    pub(crate) fingerprint: Fingerprint,
    /// Name of its first database.
    pub(crate) name: String,
    /// State of the clone.
    pub(crate) state: CloneState,
    /// Kind of its lease.
    pub(crate) lease: LeaseKind,
    /// End of the lease, RFC 3339, UTC; `None` for session leases and indefinite ones.
    pub(crate) expires_at: Option<String>,
    /// Whether the expiry has passed.
    pub(crate) expired: bool,
    /// Seconds until the lease ends; `None` as `expires_at`.
    pub(crate) left_s: Option<Seconds>,
    /// Seconds since a cleanup first found it without a holder.
    pub(crate) orphaned_s: Option<Seconds>,
    /// Seconds that it may be without a holder; `None` if its project has recorded no such setting.
    pub(crate) grace_s: Option<Seconds>,
    /// Process that holds it.
    pub(crate) holder: Json<Holder>,
    /// Seconds since it was created.
    pub(crate) age_s: Seconds,
    /// Time of its creation, RFC 3339, UTC.
    pub(crate) created_at: String,
    /// Owner of the clone.
    #[sqlx(flatten)]
    pub(crate) owner: CloneOwner,
    /// Whether its name can be requested again.
    pub(crate) named: bool,
    /// Branch or worktree that its name comes from.
    #[sqlx(flatten)]
    pub(crate) bound: Bound,
    /// Whether a person specified how long it is kept.
    pub(crate) ttl_typed: bool,
    /// Seconds that the person specified; `None` is indefinitely.
    pub(crate) ttl_s: Option<Seconds>,
    /// Seconds that it is kept after each command in its checkout; `None` if commands do not prolong it.
    pub(crate) branch_ttl_s: Option<Seconds>,
    /// Time of the last command in its checkout, to the hour; RFC 3339, UTC.
    pub(crate) seen_at: String,
    /// Process id of the command that runs on it; 0 if that is about to start, `None` if there is no command.
    pub(crate) command_pid: Option<i64>,
    /// Process group of that command, if it has one of its own.
    pub(crate) command_group: Option<i64>,
    /// Whether the process that asked for it is known to have its URL.
    pub(crate) confirmed: bool,
}

impl CloneRow {
    /// Returns the lock that protects it.
    pub(crate) fn key(&self) -> LockKey {
        LockKey::clone(&self.id)
    }

    /// Returns whether it has been without a holder for as long as its project allows; `otherwise` is for projects
    /// that have recorded no setting.
    pub(crate) fn orphaned_for_good(&self, otherwise: Duration) -> bool {
        let grace = self.grace_s.unwrap_or(otherwise.into());
        self.orphaned_s.is_some_and(|s| s >= grace)
    }

    /// Returns whether it has an expiry that has not passed.
    pub(crate) fn is_kept(&self) -> bool {
        self.state == CloneState::Leased && self.lease == LeaseKind::Expiry && !self.expired
    }

    /// Returns its state as users see it. `locked`: whether a process holds its lock.
    pub(crate) fn shown_state(&self, locked: bool) -> ShownState {
        match self.state {
            CloneState::Creating => ShownState::Creating,
            CloneState::Warm => ShownState::Warm,
            CloneState::Released => ShownState::Released,
            CloneState::Leased if self.orphaned_s.is_some() || self.expired => ShownState::Orphaned,
            CloneState::Leased => match self.lease {
                LeaseKind::Session if !locked => ShownState::Orphaned,
                LeaseKind::Session | LeaseKind::Expiry => ShownState::Leased,
            },
        }
    }

    /// Returns the branch or worktree that its name comes from, if that prolongs its lease.
    pub(crate) fn prolonging(&self) -> Bound {
        match self.branch_ttl_s {
            Some(_) => self.bound.clone(),
            None => Bound::default(),
        }
    }

    /// Returns why its lease is over, in words.
    pub(crate) fn ending(&self) -> String {
        let when = self.expires_at.as_deref().unwrap_or("some time");
        match self.branch_ttl_s {
            Some(_) => format!("its lease ended at {when}, since no command ran in its checkout"),
            None => format!("its lease ended at {when}"),
        }
    }
}

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, project, definition, fingerprint, name, state, lease, \
             to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS expires_at, \
             extract(epoch FROM expires_at - now())::float8 AS left_s, coalesce(expires_at <= now(), false) AS expired, \
             extract(epoch FROM now() - orphaned_at)::float8 AS orphaned_s, holder, \
             (SELECT (p.settings ->> 'grace_s')::float8 FROM pgstencil.project p WHERE p.name = c.project) AS grace_s, \
             extract(epoch FROM now() - created_at)::float8 AS age_s, \
             to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS created_at, ",
            owner_columns!(),
            ", named, confirmed, bound_branch, bound_worktree, ttl_typed, ttl_s, branch_ttl_s, command_pid, command_group, \
             to_char(seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS seen_at \
             FROM pgstencil.clone c ",
            $tail
        )
    };
}

const ALL: &str = select!("ORDER BY created_at, id");
/// Query for the clones for which a cleanup may have to do something: all but those whose expiry lies ahead.
const UNSETTLED: &str = select!(
    "WHERE NOT (state = 'leased' AND lease = 'expiry' AND confirmed AND orphaned_at IS NULL \
     AND coalesce(expires_at > now(), true)) ORDER BY created_at, id"
);
const BY_ID: &str = select!("WHERE id = $1");
/// Query part for clones with a database of this name: it is ready for use, or its drop has begun and has not
/// renamed it yet. The queries below also find clones by id or by the name that a person uses. A released clone,
/// perhaps one that came too late for its name, comes after the live one.
macro_rules! has_name {
    ($names:literal) => {
        concat!(
            "EXISTS (SELECT FROM pgstencil.database d WHERE d.clone_id = c.id AND d.name = ",
            $names,
            " AND (d.state = 'present' OR d.state = 'dropping' AND EXISTS (SELECT FROM pg_database p \
             WHERE p.oid = d.oid AND p.datname::text = d.name)))"
        )
    };
}
const BY_NAME: &str = concat!(
    select!("WHERE (state <> 'creating' AND (id = $1 OR name = $1)) OR "),
    has_name!("$1"),
    " ORDER BY (state = 'leased') DESC, created_at DESC LIMIT 1"
);
/// Query for clones by names, including released ones that are not dropped yet; these come last.
const BY_NAMES: &str = concat!(
    "SELECT id FROM pgstencil.clone c WHERE (state <> 'creating' AND name = ANY($1)) OR ",
    has_name!("ANY($1)"),
    " ORDER BY (state = 'leased') DESC, created_at DESC"
);
const ITS_DATABASES: DatabasesWhere =
    select_databases!("d.oid IN (SELECT o.oid FROM pgstencil.database o WHERE o.clone_id = $1)");
const INSERT: &str = "INSERT INTO pgstencil.clone \
     (id, project, definition, fingerprint, template_id, name, state, lease, holder, lock_key) \
     VALUES ($1, $2, $3, $4, $5, $6, 'creating', $7, $8, $9)";
const ASYNCHRONOUS: &str = "SELECT set_config('synchronous_commit', 'off', true)";
/// Statement that also marks `before_release` of the clone as due, if it is owed.
macro_rules! due {
    ($then:literal) => {
        concat!(
            "WITH due AS (UPDATE pgstencil.owed SET due_at = now() WHERE clone_id = $1 AND due_at IS NULL) ",
            $then
        )
    };
}
const RELEASE: &str =
    due!("UPDATE pgstencil.clone SET state = 'released' WHERE id = $1 AND state <> 'released'");
const COMMAND: &str = "UPDATE pgstencil.clone SET command_pid = $2, command_group = $3 \
     WHERE id = ANY($1) AND state = 'leased' AND lease = 'session'";
const ORPHAN: &str = "UPDATE pgstencil.clone SET orphaned_at = now() \
     WHERE id = $1 AND state = 'leased' AND orphaned_at IS NULL";
const REVIVE: &str = "UPDATE pgstencil.clone SET orphaned_at = NULL \
     WHERE id = $1 AND state = 'leased' AND orphaned_at IS NOT NULL";
const DELETE: &str = due!(
    "DELETE FROM pgstencil.clone c WHERE id = $1 \
     AND NOT EXISTS (SELECT FROM pgstencil.database d WHERE d.clone_id = c.id)"
);
/// Postgres shows locks to every role; the registry's locks are those taken in this very database.
const HELD: &str = "SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
     AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
const HELD_ALONE: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
     AND granted AND mode = 'ExclusiveLock' AND classid = $1 AND objid = $2 \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
/// As `catalog::visitors` sees them, for all clones in one query.
const OCCUPIED: &str = include_str!("queries/occupied_clones.sql");

const CONFIRM: &str = "UPDATE pgstencil.clone SET confirmed = true, orphaned_at = NULL \
     WHERE id = ANY($1) AND state = 'leased'";
/// Without those whose drop failed before, which may be there for long.
const RELEASED: &str = "SELECT count(*) FROM pgstencil.clone c WHERE c.state = 'released' \
     AND NOT EXISTS (SELECT FROM pgstencil.database d WHERE d.clone_id = c.id AND d.state = 'dropping')";
const IS_COUNTED: &str = "SELECT EXISTS (SELECT FROM pgstencil.counted WHERE clone_id = $1)";
/// A clone whose lock a session holds is being created or in use.
const LEFTOVERS: &str = include_str!("queries/leftovers.sql");
const HURRY: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
     AND granted AND classid = $1 AND objid = $2 \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";

/// Values that register a clone before it is created.
#[derive(Clone, Debug)]
pub(crate) struct NewClone<'a> {
    /// New id of the clone.
    pub(crate) id: &'a str,
    /// Namespace.
    pub(crate) project: &'a str,
    /// Name of the definition.
    pub(crate) definition: &'a str,
    /// Fingerprint of the template.
    pub(crate) fingerprint: &'a Fingerprint,
    /// Row number of the template; `None` if the build runs directly on the clone.
    pub(crate) template_id: Option<i64>,
    /// Kind of lease.
    pub(crate) term: Term,
    /// Process that creates the clone.
    pub(crate) holder: &'a Holder,
    /// Its databases.
    pub(crate) databases: Vec<NewDatabase>,
}

impl NewClone<'_> {
    fn insert(&self) -> Statement {
        sql::fill(
            INSERT,
            &[
                &self.id,
                &self.project,
                &self.definition,
                &self.fingerprint,
                &self.template_id,
                &self.databases.first().map_or("", |d| &d.name),
                &self.term.kind(),
                &Json(self.holder),
                &LockKey::clone(self.id).value(),
            ],
        )
    }
}

fn intents(clones: &[NewClone<'_>], also: &[Statement]) -> Vec<Statement> {
    let mut statements = vec![sql::fill(ASYNCHRONOUS, &[])];
    for new in clones {
        statements.push(LockKey::clone(new.id).try_lock());
    }
    for new in clones {
        statements.push(new.insert());
        let owner = Owner::Clone(new.id.to_owned());
        statements.push(database::insert(&owner, &new.databases));
    }
    statements.extend_from_slice(also);
    statements
}

/// Clone with the state of its databases on the server.
#[derive(Clone, Debug)]
pub(crate) struct CloneOnServer {
    /// Row of the clone.
    pub(crate) row: CloneRow,
    /// Rows of its databases, in the order of the definition.
    pub(crate) databases: Vec<DatabaseRow>,
    /// Its databases as the server shows them.
    pub(crate) found: Vec<catalog::Database>,
}

impl CloneOnServer {
    /// Returns whether one of its databases has one of these names.
    pub(crate) fn stands_under(&self, names: &[String]) -> bool {
        self.found
            .iter()
            .any(|found| names.contains(&found.name) && self.databases.iter().any(|row| row.is(found)))
    }

    /// Returns whether any of its databases is unchanged since its creation.
    pub(crate) fn has_any(&self) -> bool {
        self.databases.iter().any(|row| self.has(row))
    }

    fn has(&self, row: &DatabaseRow) -> bool {
        let mut found = self.found.iter();
        found.any(|found| row.is(found) && found.name == row.name && !found.invalid)
    }

    /// Returns the first of its databases that was dropped, replaced or renamed, if there is one.
    pub(crate) fn lacks(&self) -> Option<&DatabaseRow> {
        self.databases.iter().find(|row| !self.has(row))
    }
}

/// Clone whose lock this session took, as [`Registry::lock_clone`] finds it.
#[derive(Clone, Debug)]
pub(crate) struct LockedClone {
    /// Row of the clone; `None` if it is gone.
    pub(crate) row: Option<CloneRow>,
    /// Rows of its databases, in the order of the definition.
    pub(crate) databases: Vec<DatabaseRow>,
    /// Whether the server counts the changes of its databases; see [`super::counted`].
    pub(crate) counted: bool,
}

/// Query for all clones, oldest first.
pub(super) fn all() -> Statement {
    sql::planned("pgstencil_clones", ALL, &[])
}

/// Query for the advisory locks that sessions hold in this registry; see [`held_keys`].
pub(super) fn held() -> Statement {
    sql::planned("pgstencil_held", HELD, &[])
}

/// Returns the locks of the answer to [`held`].
pub(super) fn held_keys(rows: Vec<(Oid, Oid)>) -> HashSet<LockKey> {
    rows.into_iter().map(|(class, object)| LockKey::from_halves(class.0, object.0)).collect()
}

/// Number of the statements of [`release`].
pub(super) const RELEASE_ANSWERS: usize = 3;

/// Statements that release a clone and its lock, and count the clones that wait for their drop; see [`Release::read`].
pub(super) fn release(id: &str) -> [Statement; RELEASE_ANSWERS] {
    // A cleanup that gets the lock before the commit finds a clone without a holder, which is correct.
    [
        sql::planned("pgstencil_release", RELEASE, &[&id]),
        LockKey::clone(id).unlock(),
        sql::planned("pgstencil_released", RELEASED, &[]),
    ]
}

/// Result of the release of a clone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Release {
    /// Whether it was not released before.
    pub(crate) was_first: bool,
    /// Number of released clones that wait for their drop, with this one. Those whose drop failed do not count.
    pub(crate) waiting: usize,
}

impl Release {
    /// Reads the answers to [`release`].
    pub(super) fn read(answers: &[Answer]) -> std::result::Result<Self, sqlx::Error> {
        let [released, _, count] = answers else {
            return Err(sqlx::Error::RowNotFound);
        };
        let (waiting,): (i64,) = count.one()?;
        Ok(Release { was_first: released.count == 1, waiting: usize::try_from(waiting).unwrap_or_default() })
    }
}

/// Query for whether there may be something to clean up.
pub(super) fn leftovers() -> Statement {
    sql::planned("pgstencil_leftovers", LEFTOVERS, &[])
}

impl Registry {
    /// Returns all clones, oldest first.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn clones(&mut self) -> Result<Vec<CloneRow>> {
        self.session().rows(all()).await.doing(|| "list clones".into())
    }

    /// Returns the clones for which a cleanup may have to do something, oldest first. Leaves out the clones whose
    /// expiry lies ahead: a server may have many.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn unsettled_clones(&mut self) -> Result<Vec<CloneRow>> {
        let unsettled = sql::planned("pgstencil_unsettled", UNSETTLED, &[]);
        self.session().rows(unsettled).await.doing(|| "list clones".into())
    }

    /// Returns a clone by its id.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn clone_by_id(&mut self, id: &str) -> Result<Option<CloneRow>> {
        self.one_clone(sql::planned("pgstencil_clone", BY_ID, &[&id])).await
    }

    /// Returns a clone by the name that a person uses for it.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn clone_by_name(&mut self, name: &str) -> Result<Option<CloneRow>> {
        self.one_clone(sql::planned("pgstencil_clone_named", BY_NAME, &[&name])).await
    }

    async fn one_clone(&mut self, query: Statement) -> Result<Option<CloneRow>> {
        self.session().first(query).await.doing(|| "look up a clone in the registry".into())
    }

    /// Registers one clone: see [`Registry::intend_clones`].
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn intend_clone(&mut self, new: &NewClone<'_>) -> Result<Vec<DatabaseRow>> {
        let mut rows = self.intend_clones(std::slice::from_ref(new), &[]).await?;
        rows.pop().ok_or_else(|| Error::internal("a clone was not registered"))
    }

    /// Takes the locks of clones that are about to be created, then writes their rows and the intent to create
    /// their databases. The order matters: a cleanup drops what has a row and a free lock. One message does all
    /// this, with `also`. It is committed when this returns, but not flushed: a crash of the host that loses the
    /// end of the log also loses what follows it, which is the CREATE
    /// (<https://www.postgresql.org/docs/current/wal-async-commit.html>).
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn intend_clones(
        &mut self,
        clones: &[NewClone<'_>],
        also: &[Statement],
    ) -> Result<Vec<Vec<DatabaseRow>>> {
        let answers =
            self.session().send_all(&intents(clones, also)).await.doing(|| "register a clone".into())?;
        answers
            .iter()
            // The setting and the locks; then a clone, its databases, a clone, …
            .skip(1 + clones.len() + 1)
            .step_by(2)
            .take(clones.len())
            .map(|answer| answer.read().doing(|| "register a clone".into()))
            .collect()
    }

    /// Returns the clones with a database that has or had one of these names; released ones come last.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn clones_named(&mut self, names: &[String]) -> Result<Vec<CloneOnServer>> {
        let ids: Vec<String> = self
            .session()
            .scalars(sql::fill(BY_NAMES, &[&names]))
            .await
            .doing(|| "look up a clone in the registry".into())?;
        let mut clones = Vec::new();
        for id in ids {
            clones.extend(self.clone_on_server(&id).await?);
        }
        Ok(clones)
    }

    /// Returns a clone by its id, with its databases as the server shows them. A caller that holds its lock reads
    /// stable values.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn clone_on_server(&mut self, id: &str) -> Result<Option<CloneOnServer>> {
        let doing = || "read a clone and its databases".to_owned();
        let major = self.facts().major();
        let mut tries = 0;
        let [row, databases, found] = loop {
            let asked = self
                .session()
                .send([
                    sql::planned("pgstencil_clone", BY_ID, &[&id]),
                    database::of(&Owner::Clone(id.to_owned())),
                    catalog::databases_where(major, "pgstencil_of_clone", ITS_DATABASES, &[&id]),
                ])
                .await
                .doing(doing);
            match asked {
                // If a database is dropped while the server reads it, the query fails. On the next try the database
                // is gone.
                Err(e) if tries < 5 && e.has_fault(Fault::Missing) => {
                    tries += 1;
                }
                asked => break asked?,
            }
        };
        let Some(row) = row.read().doing(doing)?.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some(CloneOnServer {
            row,
            databases: databases.read().doing(doing)?,
            found: found.read().doing(doing)?,
        }))
    }

    /// Records the process of the command that runs on clones, and its process group if it has its own.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_command(
        &mut self,
        clones: &[String],
        pid: u32,
        group: Option<u32>,
    ) -> Result<()> {
        let ids = clones.to_vec();
        let group = group.map(i64::from);
        self.session()
            .execute(sql::fill(COMMAND, &[&ids, &i64::from(pid), &group]))
            .await
            .doing(|| "record the command of a clone".into())?;
        Ok(())
    }

    /// Records that the process that asked for clones has their URLs. Returns how many of the clones are still
    /// leased.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn confirm_clones(&mut self, ids: &[String]) -> Result<usize> {
        let ids = ids.to_vec();
        let [_, done] = self
            .session()
            .send([sql::flushed(), sql::fill(CONFIRM, &[&ids])])
            .await
            .doing(|| "confirm the lease of a clone".into())?;
        Ok(usize::try_from(done.count).unwrap_or_default())
    }

    /// Releases a clone: from now on any process's cleanup drops it. `false`: it was released already.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_released(&mut self, id: &str) -> Result<bool> {
        self.change_clone(RELEASE, id).await
    }

    /// Does the same as [`Registry::set_released`] for a clone that its owner did not release. The reason is shown
    /// to the owner who next asks for its name.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn end_lease(&mut self, id: &str, why: &str) -> Result<bool> {
        let [_, released] = self
            .session()
            .send([dropped::note(id, why), sql::planned("pgstencil_release", RELEASE, &[&id])])
            .await
            .doing(|| format!("end the lease of clone {id}"))?;
        Ok(released.count == 1)
    }

    /// Releases a clone whose lock the session holds, and the lock. `false`: it was released before.
    ///
    /// # Errors
    /// The driver's. If the session is gone, so is the lock, and a cleanup finds the clone by that.
    pub(crate) async fn release_clone(&mut self, id: &str) -> Result<bool> {
        Ok(self.release_and_count(id).await?.was_first)
    }

    /// As [`Registry::release_clone`]; also counts the clones that wait for their drop.
    ///
    /// # Errors
    /// As [`Registry::release_clone`].
    pub(crate) async fn release_and_count(&mut self, id: &str) -> Result<Release> {
        let doing = || format!("discard clone {id}");
        let answers = self.session().send(release(id)).await.doing(doing)?;
        Release::read(&answers).doing(doing)
    }

    /// Takes the lock of a clone, and reads the clone after that, in one message. `None`: another session has the lock.
    ///
    /// # Errors
    /// The driver's. Then the session may have the lock.
    pub(crate) async fn lock_clone(&mut self, id: &str) -> Result<Option<LockedClone>> {
        let doing = || format!("lock clone {id}");
        let message = [
            LockKey::clone(id).try_lock(),
            sql::planned("pgstencil_clone", BY_ID, &[&id]),
            database::of(&Owner::Clone(id.to_owned())),
            sql::fill(IS_COUNTED, &[&id]),
        ];
        let [locked, row, databases, counted] = self.session().send(message).await.doing(doing)?;
        let ((locked,), (counted,)): ((bool,), (bool,)) =
            (locked.one().doing(doing)?, counted.one().doing(doing)?);
        if !locked {
            return Ok(None);
        }
        let row = row.read().doing(doing)?.into_iter().next();
        Ok(Some(LockedClone { row, databases: databases.read().doing(doing)?, counted }))
    }

    /// Deletes the row of a clone whose databases are all gone, and releases its lock, which the session holds.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn forget_locked_clone(&mut self, id: &str) -> Result<()> {
        let message = [sql::planned("pgstencil_forget", DELETE, &[&id]), LockKey::clone(id).unlock()];
        self.session().send(message).await.doing(|| format!("forget clone {id}"))?;
        Ok(())
    }

    /// Records that a clone was found without a holder.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_orphaned(&mut self, id: &str) -> Result<bool> {
        self.change_clone(ORPHAN, id).await
    }

    /// Removes the record that a clone has no holder.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn revive_clone(&mut self, id: &str) -> Result<bool> {
        self.change_clone(REVIVE, id).await
    }

    /// Deletes the row of a clone whose databases are all gone.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn forget_clone(&mut self, id: &str) -> Result<bool> {
        self.change_clone(DELETE, id).await
    }

    async fn change_clone(&mut self, query: &'static str, id: &str) -> Result<bool> {
        let done = self
            .session()
            .execute(sql::fill(query, &[&id]))
            .await
            .doing(|| format!("update clone `{id}` in the registry"))?;
        Ok(done.count == 1)
    }

    /// Returns whether there is anything that a cleanup has to check: clones that were released, whose lease has ended
    /// or whose lock is free, warm clones of templates out of use, templates that are not ready.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn has_leftovers(&mut self) -> Result<bool> {
        self.session().scalar(leftovers()).await.doing(|| "check for leftovers".into())
    }

    /// Returns the number of released clones that are not dropped yet.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn count_released(&mut self) -> Result<usize> {
        let count: i64 = self
            .session()
            .scalar(sql::planned("pgstencil_released", RELEASED, &[]))
            .await
            .doing(|| "count released clones".into())?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// Returns whether a process is waiting for a copy now.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn somebody_hurries(&mut self) -> Result<bool> {
        let (class, object) = LockKey::hurry().halves();
        self.session()
            .scalar(sql::planned("pgstencil_hurry", HURRY, &[&Oid(class), &Oid(object)]))
            .await
            .doing(|| "check whether another process waits for a copy".into())
    }

    /// Returns whether a session holds a lock exclusively.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn is_held_alone(&mut self, key: LockKey) -> Result<bool> {
        let (class, object) = key.halves();
        self.session()
            .scalar(sql::planned("pgstencil_held_alone", HELD_ALONE, &[&Oid(class), &Oid(object)]))
            .await
            .doing(|| "check who holds a lock".into())
    }

    /// Returns the advisory locks that sessions hold in this registry. This is a snapshot: a caller that acts on it
    /// takes the lock first.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn held_locks(&mut self) -> Result<HashSet<LockKey>> {
        Ok(held_keys(self.session().rows(held()).await.doing(|| "read the locks".into())?))
    }

    /// Returns the ids of the clones with a session or a prepared transaction in one of their databases.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn occupied_clones(&mut self) -> Result<HashSet<String>> {
        let ids: Vec<String> = self
            .session()
            .scalars(sql::planned("pgstencil_occupied", OCCUPIED, &[]))
            .await
            .doing(|| "see which clones are in use".into())?;
        Ok(ids.into_iter().collect())
    }
}
