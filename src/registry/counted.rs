//! Clones whose databases the server has counted all changes of since they were made: what decides whether a released
//! clone may become warm again.

use std::collections::{HashMap, HashSet};

use sqlx::FromRow;
use sqlx::types::Json;

use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::counts::Baseline;
use crate::pg::lock::LockKey;
use crate::pg::session::OpenError;
use crate::pg::sql::{self, Literal, Statement};
use crate::pg::{Deadline, Doing as _, Session, is_connection_loss};

use super::database::{self, Owner};
use super::{DatabaseRow, Registry};

/// First major version whose counters can be relied on: a session hands them over before it ends. Until 14 it sent
/// them to another process, by messages that could get lost.
pub(crate) const COUNTS_SINCE: u32 = 15;

/// What must not have changed since: the server's start, and that of its configuration.
macro_rules! since {
    () => {
        "pg_postmaster_start_time()::text || ' ' || pg_conf_load_time()::text"
    };
}

/// Digest of what the shared catalogs say of a clone's databases: owner, grants, limits, comment, settings, labels.
macro_rules! settings {
    ($clone:literal) => {
        concat!(
            "(SELECT md5(string_agg((to_jsonb(p) - 'datname' - 'datallowconn' - 'datfrozenxid' - 'datminmxid' - 'datvacuumxid')::text \
               || coalesce(shobj_description(p.oid, 'pg_database'), '') \
               || coalesce((SELECT string_agg(s.setrole::text || s.setconfig::text, ';' ORDER BY s.setrole) \
                    FROM pg_db_role_setting s WHERE s.setdatabase = p.oid), '') \
               || coalesce((SELECT string_agg(l.provider || l.label, ';' ORDER BY l.provider) FROM pg_shseclabel l \
                    WHERE l.objoid = p.oid AND l.classoid = 'pg_database'::regclass), ''), ';' ORDER BY d.ordinal)) \
             FROM pgstencil.database d JOIN pg_database p ON p.oid = d.oid WHERE d.clone_id = ",
            $clone,
            ")"
        )
    };
}

const NOTE: &str = concat!(
    "INSERT INTO pgstencil.counted (clone_id, since, settings, insists) SELECT $1, ",
    since!(),
    ", ",
    settings!("$1"),
    ", $2 WHERE current_setting('track_counts')::boolean AND ($2 OR NOT current_setting('is_superuser')::boolean)"
);
const FORGET: &str = "DELETE FROM pgstencil.counted WHERE clone_id = $1";

/// Whether no row was written to a clone's databases, as far as ended sessions have reported: other sessions of the
/// server see the sum of each database, and sequences are not in it. Only a hint: a session may be about to report.
macro_rules! looks_unwritten {
    () => {
        "NOT EXISTS (SELECT FROM pgstencil.database w WHERE w.clone_id = c.id AND (w.state <> 'present' \
           OR pg_stat_get_db_tuples_inserted(w.oid) + pg_stat_get_db_tuples_updated(w.oid) + pg_stat_get_db_tuples_deleted(w.oid) \
             <> coalesce((n.baselines -> w.role ->> 'writes')::bigint, 0)))"
    };
}

/// A superuser can switch the counters off in a session, and nothing shows that. A role that may become one can, too.
const RECYCLABLE: &str = concat!(
    "SELECT t.id AS template_id, n.baselines, n.washed, ",
    looks_unwritten!(),
    " AS looks_unwritten, \
     coalesce((SELECT (p.settings ->> 'wash')::boolean FROM pgstencil.project p WHERE p.name = c.project), false) AS wash \
     FROM pgstencil.clone c \
     JOIN pgstencil.counted n ON n.clone_id = c.id \
     JOIN pgstencil.template t ON t.id = c.template_id \
     WHERE c.id = $1 AND c.state = 'released' AND t.state = 'ready' AND t.outdated IS NULL \
     AND n.since = ",
    since!(),
    " AND n.settings = ",
    settings!("c.id"),
    " AND NOT EXISTS (SELECT FROM pgstencil.owed o WHERE o.clone_id = c.id) \
     AND jsonb_array_length(coalesce(t.built_with -> 'login_triggers', '[]')) = 0 \
     AND NOT EXISTS (SELECT FROM pgstencil.database d WHERE d.clone_id = c.id AND d.state <> 'present') \
     AND (SELECT count(*) FROM pgstencil.database d WHERE d.clone_id = c.id) \
       = (SELECT count(*) FROM pgstencil.database d WHERE d.template_id = t.id) \
     AND NOT EXISTS (SELECT FROM pg_replication_slots s JOIN pgstencil.database d ON d.oid = s.datoid \
       WHERE d.clone_id = c.id) \
     AND NOT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setconfig::text ILIKE '%track_counts%') \
     AND NOT EXISTS (SELECT FROM pg_parameter_acl a WHERE a.parname = 'track_counts') \
     AND (n.insists OR EXISTS (SELECT FROM pg_roles h WHERE h.rolname = c.owner_role \
       AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolsuper AND pg_has_role(h.oid, r.oid, 'MEMBER'))))"
);

/// Takes the lock of one released clone that probably can become warm again, of those that no other session works on,
/// and counts all of them. Those that need no washing come first.
const TAKE: &str = concat!(
    "WITH found AS MATERIALIZED ( \
       SELECT f.id, f.lock_key FROM ( \
         SELECT c.id, c.lock_key, ",
    looks_unwritten!(),
    " AS looks_unwritten, n.washed \
         FROM pgstencil.clone c JOIN pgstencil.counted n ON n.clone_id = c.id \
         WHERE c.project = $1 AND c.definition = $2 AND c.fingerprint = $3 AND c.state = 'released') f \
       WHERE f.looks_unwritten OR $4 AND f.washed < $5 ORDER BY f.looks_unwritten DESC) \
     SELECT (SELECT id FROM found WHERE pg_try_advisory_lock(lock_key) LIMIT 1) AS id, count(*) > 0 AS any FROM found"
);
const PROMISING: &str = concat!(
    "SELECT c.id FROM pgstencil.clone c JOIN pgstencil.counted n ON n.clone_id = c.id \
     WHERE c.state = 'released' AND ",
    looks_unwritten!()
);

/// Inserts nothing unless all that lets the clone be recycled still holds; then the databases have no owner to move to,
/// and the message is rolled back.
const AGAIN: &str = concat!(
    "INSERT INTO pgstencil.clone (id, project, definition, fingerprint, template_id, name, state, lease, holder, lock_key) \
     SELECT $2::text, c.project, c.definition, c.fingerprint, c.template_id, $3::text, 'warm', 'session', c.holder, $4::bigint \
     FROM pgstencil.clone c JOIN pgstencil.counted n ON n.clone_id = c.id \
     JOIN pgstencil.template t ON t.id = c.template_id \
     WHERE c.id = $1 AND c.state = 'released' AND t.state = 'ready' AND n.since = ",
    since!(),
    " AND n.settings = ",
    settings!("c.id")
);
/// Rolls the message back if the server has counted a change after all: a database without owner violates the check of
/// the schema.
const MOVE_DATABASE: &str = "UPDATE pgstencil.database SET private_name = $3, name = $3, clone_id = CASE \
     WHEN pg_stat_get_db_tuples_inserted(oid) + pg_stat_get_db_tuples_updated(oid) + pg_stat_get_db_tuples_deleted(oid) = $4 \
       AND pg_stat_get_db_stat_reset_time(oid) IS NULL THEN $2 END \
     WHERE id = $1";
const MOVE_COUNTED: &str = concat!(
    "UPDATE pgstencil.counted SET clone_id = $2, baselines = $3, washed = washed + $4, settings = ",
    settings!("$2"),
    " WHERE clone_id = $1"
);
const DELETE: &str = "DELETE FROM pgstencil.clone WHERE id = $1";

/// Statement that notes, of a clone that no session has been in yet, that the server counts its changes. `insists`:
/// its config says so also for a superuser, for whose clones the note would be worthless otherwise.
pub(crate) fn note(id: &str, insists: bool) -> Statement {
    sql::fill(NOTE, &[&id, &insists])
}

/// Statement after which the clone is not recycled.
pub(crate) fn forget(id: &str) -> Statement {
    sql::fill(FORGET, &[&id])
}

/// Database of a clone that becomes warm again.
#[derive(Clone, Debug)]
pub(crate) struct Again<'a> {
    /// Its row.
    pub(crate) row: &'a DatabaseRow,
    /// The private name that it gets, which no other process knows.
    pub(crate) private_name: String,
    /// The comment that it gets.
    pub(crate) comment: String,
    /// What the server has counted of it.
    pub(crate) baseline: Baseline,
}

/// Result of [`Registry::take_recyclable`].
#[derive(Clone, Debug, Default, FromRow)]
pub(crate) struct Taken {
    /// Id of the clone whose lock the session has now.
    pub(crate) id: Option<String>,
    /// Whether there is any, also one that another session works on.
    pub(crate) any: bool,
}

/// Released clone that may become warm again.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Recyclable {
    /// Row number of its template.
    pub(crate) template_id: i64,
    /// Counters of its databases, by alias, when they last equalled the template's; of others, since they were made.
    pub(crate) baselines: Json<HashMap<String, Baseline>>,
    /// Whether it probably was not written to.
    looks_unwritten: bool,
    /// How often it was washed.
    washed: i32,
    /// Whether its project wants clones to be washed.
    wash: bool,
}

impl Recyclable {
    /// Returns whether it may be washed once more. The files that a TRUNCATE replaces stay, empty, until the next
    /// checkpoint, and the catalog grows.
    pub(crate) fn may_be_washed(&self) -> bool {
        self.wash && self.washed < WASHES
    }

    /// Returns whether a look into its databases would be in vain.
    pub(crate) fn is_hopeless(&self) -> bool {
        !self.looks_unwritten && !self.may_be_washed()
    }
}

/// How often a clone is washed.
const WASHES: i32 = 100;

impl Registry {
    /// Returns what a released clone is compared with, if it may become warm again, and its databases in the order of
    /// the definition. The caller holds its lock.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn recyclable(&mut self, id: &str) -> Result<Option<(Recyclable, Vec<DatabaseRow>)>> {
        if self.facts().major() < COUNTS_SINCE {
            return Ok(None);
        }
        let doing = || format!("see whether clone {id} may become warm again");
        let recyclable = sql::planned("pgstencil_recyclable", RECYCLABLE, &[&id]);
        let message = [recyclable, database::of(&Owner::Clone(id.to_owned()))];
        let [recyclable, databases] = self.session().send(message).await.doing(doing)?;
        let recyclable = recyclable.read().doing(doing)?.into_iter().next();
        let databases = databases.read().doing(doing)?;
        Ok(recyclable.map(|recyclable| (recyclable, databases)))
    }

    /// Takes the lock of a released clone of a template that probably can become warm again, if there is one on which no
    /// other session works. `wash`: also one to which rows were written.
    ///
    /// # Errors
    /// The driver's. Then the session may have a lock.
    pub(crate) async fn take_recyclable(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
        wash: bool,
    ) -> Result<Taken> {
        if self.facts().major() < COUNTS_SINCE {
            return Ok(Taken::default());
        }
        let doing = || "take a released clone".to_owned();
        let values: [&dyn Literal; 5] = [&project, &definition, &fingerprint, &wash, &WASHES];
        self.session().one(sql::planned("pgstencil_take", TAKE, &values)).await.doing(doing)
    }

    /// Returns the ids of the released clones that probably can become warm again as they are.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn promising(&mut self) -> Result<HashSet<String>> {
        if self.facts().major() < COUNTS_SINCE {
            return Ok(HashSet::new());
        }
        let ids = self.session().scalars(sql::planned("pgstencil_promising", PROMISING, &[])).await;
        Ok(ids.doing(|| "list the released clones without changes".into())?.into_iter().collect())
    }

    /// Records that a released clone is to be dropped: a look into it has shown that, or it cannot be withdrawn.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn forget_counted(&mut self, id: &str) -> Result<()> {
        self.session().execute(forget(id)).await.doing(|| format!("note that clone {id} is not recycled"))?;
        Ok(())
    }

    /// Opens a session in a database of the server, as the registry's own role.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn enter_database(
        &self,
        name: &str,
        deadline: &Deadline,
    ) -> std::result::Result<Session, OpenError> {
        Session::open(&self.endpoint, name, deadline).await
    }

    /// Makes a released clone warm again, under a new id and new private names, in one transaction. Postgres renames
    /// a database only while no session is in it, so that no session can have written anything since the check.
    /// The caller holds its lock, and no session has the lock of the new id. `washed`: rows were removed from it. Then
    /// the session holds the lock of the new id, without which no other process claims it. `false`: something has
    /// changed since.
    ///
    /// # Errors
    /// The driver's on the loss of the connection.
    pub(crate) async fn make_warm_again(
        &mut self,
        id: &str,
        new: &str,
        databases: &[Again<'_>],
        washed: bool,
    ) -> Result<bool> {
        let key = LockKey::clone(new);
        let name = databases.first().map_or("", |database| database.private_name.as_str());
        let doing = || format!("make clone {id} warm again");
        let values: [&dyn Literal; 4] = [&id, &new, &name, &key.value()];
        let again = sql::planned("pgstencil_again", AGAIN, &values);
        let mut message = vec![sql::flushed(), key.try_lock(), again];
        for Again { row, private_name, comment, .. } in databases {
            message.push(sql::rename_database(&row.private_name, private_name));
            message.push(sql::comment_database(private_name, comment));
        }
        for Again { row, private_name, baseline, .. } in databases {
            let values: [&dyn Literal; 4] = [&row.id, &new, private_name, &baseline.writes];
            message.push(sql::planned("pgstencil_move", MOVE_DATABASE, &values));
        }
        let baselines: HashMap<&str, &Baseline> =
            databases.iter().map(|again| (again.row.alias.as_str(), &again.baseline)).collect();
        let values: [&dyn Literal; 4] = [&id, &new, &Json(baselines), &i32::from(washed)];
        message.push(sql::planned("pgstencil_move_counted", MOVE_COUNTED, &values));
        message.push(sql::fill(DELETE, &[&id]));
        let done = self.session().send_all(&message).await.doing(doing);
        match done {
            Ok(_) => Ok(true),
            Err(error) if is_connection_loss(&error) => Err(error),
            Err(_) => {
                // An error does not revert it.
                self.session().unlock(key).await.doing(|| "unlock a clone".into())?;
                Ok(false)
            }
        }
    }
}
