//! Warm clones: rows in state `warm`, made ahead of time, and the demand that decides how many.

use sqlx::FromRow;
use sqlx::postgres::types::Oid;
use sqlx::types::Json;

use crate::config::{Definition, Extend};
use crate::error::{Error, Result};
use crate::fingerprint::RelPath;
use crate::names::{Fingerprint, Mark};
use crate::pg::Doing as _;
use crate::pg::lock::LockKey;
use crate::pg::sql::{self, Statement};

use super::comparison::{self, Finding};
use super::{Holder, Registry};

/// Which warm clones are wanted, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Namespace.
    pub project: &'a str,
    /// The definition.
    pub definition: &'a Definition,
    /// Of the template.
    pub fingerprint: &'a Fingerprint,
    /// Our role, which must be allowed to use what the template's builder owns.
    pub role: &'a str,
    /// Seconds after which its contents are too old.
    pub stale_s: Option<f64>,
    /// Whether the template was looked at: else only one is taken that meets nothing on the server that
    /// may have changed since.
    pub looked_at: bool,
    /// How many clones.
    pub count: usize,
    /// Who asks.
    pub holder: &'a Holder,
}

/// One database of a claimed clone, with what is known of its template.
#[derive(Clone, Debug, FromRow)]
pub struct ClaimedRow {
    /// The clone.
    pub clone_id: String,
    /// Number of the database's row.
    pub database_id: i64,
    /// Role within its set.
    pub alias: String,
    /// Its place in the set.
    ordinal: i32,
    /// Its name on the server.
    pub private_name: String,
    /// Half of its mark.
    pub nonce: String,
    /// Its identity.
    pub oid: Option<Oid>,
    /// Number of the template's row.
    pub template_id: i64,
    /// Milliseconds of its build from nothing; `None` if it was extended.
    pub full_ms: Option<i64>,
    /// The template that it was extended from.
    pub base_fingerprint: Option<Fingerprint>,
    /// The migrations that were added to that.
    pub added: Json<Vec<RelPath>>,
    /// A build from nothing is to take the template's place.
    pub provisional: bool,
    /// How many attempts at that began.
    pub settle_attempts: i32,
    /// Seconds since the last one began.
    pub settle_tried_s: Option<f64>,
    /// Why the last one failed.
    pub settle_failure: Option<String>,
}

impl ClaimedRow {
    /// How its comment must end.
    pub(super) fn mark(&self) -> String {
        let mark = Mark { nonce: self.nonce.clone() };
        mark.ending()
    }
}

/// A template as its filler sees it.
#[derive(Clone, Debug, FromRow)]
pub struct StockRow {
    /// Number of its row.
    pub id: i64,
    /// How many warm clones of it there are.
    pub warm: i64,
    /// How many clones were asked for lately; see the schema.
    pub demand: f64,
    /// Total size of its databases.
    pub bytes: i64,
    /// Bytes of all templates and warm clones of its project.
    pub total: i64,
    /// Whether a connection to a clone of it would run something.
    pub login_triggers: bool,
    /// Whether the server's disk was found full a while ago.
    pub full: bool,
}

/// A warm clone that should go.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct SpareRow {
    /// The clone.
    pub id: String,
    why: String,
}

impl SpareRow {
    /// Why it should go, in words.
    pub fn why(&self) -> &'static str {
        match self.why.as_str() {
            "template" => "its template is gone",
            "idle" => "its template is no longer used",
            "many" => "more of its kind are warm than needed",
            "size" => "its project has no room for it",
            _ => "the server's disk is full",
        }
    }
}

/// A claimed clone is `creating` again: if its new holder dies before the publication, it is dropped as one
/// whose maker is gone. The row lock decides between two claims, the advisory lock between a claim and a
/// sweep; a row of which only one can be had is left alone.
fn claim(wish: &Wish<'_>) -> Statement {
    // What a crash emptied in the template it emptied in its warm clones, too; and one made of a template that
    // was opened may hold what that holds. Otherwise known to be fit for the server without a look at it.
    let looked_at = match wish.looked_at {
        true => "",
        false => " AND coalesce(built_with -> 'available', '{}') = '{}'",
    };
    let stale = match wish.stale_s {
        Some(_) => " AND fresh_at > now() - make_interval(secs => $4)",
        None => "",
    };
    let extended = which_extended(wish.definition);
    let text = format!(
        "WITH of AS MATERIALIZED (SELECT id, base_fingerprint, build_ms, added, provisional, \
           settle_attempts, settle_tried_at, settle_failure FROM pgstencil.template \
           WHERE project = $1 AND definition = $2 AND fingerprint = $3 \
           AND state = 'ready' AND outdated IS NULL AND NOT EXISTS (SELECT FROM pgstencil.database o \
             JOIN pg_database p ON p.oid = o.oid WHERE o.template_id = template.id AND p.datallowconn) \
           AND (NOT built_with ? 'unlogged_tables' OR id IN (SELECT i.template_id FROM pgstencil.intact i)) \
           AND NOT EXISTS (SELECT FROM jsonb_each_text(coalesce(built_with -> 'collations', '{{}}')) v \
             LEFT JOIN pg_collation k ON k.collname = v.key::name AND k.collnamespace = 'pg_catalog'::regnamespace \
             WHERE pg_collation_actual_version(k.oid) IS DISTINCT FROM v.value) \
           AND pg_has_role($7::name, built_by, 'USAGE'){stale}{looked_at}{extended} \
           ORDER BY pg_get_userbyid(built_by) = $7 DESC, id LIMIT 1), \
         found AS MATERIALIZED (SELECT c.id, c.lock_key FROM pgstencil.clone c \
           WHERE c.state = 'warm' AND c.template_id = (SELECT id FROM of) \
           LIMIT $5 FOR UPDATE SKIP LOCKED), \
         locked AS MATERIALIZED (SELECT id FROM found WHERE pg_try_advisory_lock(lock_key)), \
         claimed AS (UPDATE pgstencil.clone c SET state = 'creating', holder = $6, created_at = now() \
           FROM locked WHERE c.id = locked.id RETURNING c.id) \
         SELECT c.id AS clone_id, d.id AS database_id, d.role AS alias, d.ordinal, d.private_name, d.nonce, d.oid, of.id AS template_id, \
           CASE WHEN of.base_fingerprint IS NULL THEN of.build_ms END AS full_ms, \
           of.base_fingerprint, of.added, of.provisional, of.settle_attempts, \
           extract(epoch FROM now() - of.settle_tried_at)::float8 AS settle_tried_s, of.settle_failure \
         FROM claimed c CROSS JOIN of JOIN pgstencil.database d ON d.clone_id = c.id"
    );
    sql::fill(
        &text,
        &[
            &wish.project,
            &wish.definition.name,
            &wish.fingerprint,
            &wish.stale_s,
            &wish.count,
            &Json(wish.holder),
            &wish.role,
        ],
    )
}

/// Which extended templates a definition takes as they are; a look at the others decides what becomes of
/// them.
fn which_extended(definition: &Definition) -> &'static str {
    match (definition.extend, definition.rebuild.makes_provisional()) {
        (Extend::Never, _) => " AND base_fingerprint IS NULL",
        (Extend::Append, true) => " AND (base_fingerprint IS NULL OR provisional AND extend <> 'always')",
        (Extend::Append, false) => " AND (base_fingerprint IS NULL OR extend <> 'always')",
        (Extend::Always, true) => " AND (base_fingerprint IS NULL OR provisional)",
        (Extend::Always, false) => "",
    }
}

/// From here on its databases are what they are: name, oid and mark must fit.
const WARM: &str = "WITH offered AS (UPDATE pgstencil.clone SET state = 'warm', lock_key = $2 \
       WHERE id = $1 AND state = 'creating' RETURNING id) \
     UPDATE pgstencil.database d SET state = 'present' FROM offered WHERE d.clone_id = offered.id";
const RELEASE_WARM: &str = "UPDATE pgstencil.clone SET state = 'released' WHERE id = $1 AND state = 'warm'";
/// What is left of a template's demand: a third a minute on (1/e). A clock may be set back.
macro_rules! with_demand {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "demand * exp(-greatest(least(extract(epoch FROM now() - demand_at), 3600), 0) / 60)",
            $after
        )
    };
}

const DEMAND: &str =
    with_demand!("UPDATE pgstencil.template SET demand_at = now(), demand = ", " + $2 WHERE id = $1");
const STOCK: &str = with_demand!(
    "SELECT t.id, (",
    ")::float8 AS demand, \
     (SELECT count(*) FROM pgstencil.clone c WHERE c.template_id = t.id AND c.state = 'warm') AS warm, \
     (SELECT coalesce(sum(d.bytes), 0) FROM pgstencil.database d WHERE d.template_id = t.id)::bigint AS bytes, \
     (SELECT coalesce(sum(d.bytes * (1 + w.count)), 0) FROM pgstencil.template o \
      JOIN pgstencil.database d ON d.template_id = o.id \
      CROSS JOIN LATERAL (SELECT count(*) FROM pgstencil.clone c \
        WHERE c.template_id = o.id AND c.state = 'warm') w \
      WHERE o.project = t.project AND o.state = 'ready')::bigint AS total, \
     jsonb_array_length(coalesce(t.built_with -> 'login_triggers', '[]')) > 0 AS login_triggers, \
     (SELECT coalesce(m.full_at > now() - interval '10 minutes', false) FROM pgstencil.meta m) AS full \
     FROM pgstencil.template t \
     WHERE t.project = $1 AND t.definition = $2 AND t.fingerprint = $3 AND t.state = 'ready' \
     AND pg_has_role($4::name, t.built_by, 'USAGE') \
     ORDER BY pg_get_userbyid(t.built_by) = $4 DESC, t.id LIMIT 1"
);
/// Warm clones of what nobody can ask for any more; beyond what their project wants, which is nothing of
/// a template that was not used for an hour, or for ten minutes while another one of its definition was;
/// and beyond the project's size, those of the template that was used last being the last to go. `$1` of
/// the projects is about to add `$2` bytes.
const SPARE: &str = "WITH warm AS (SELECT c.id, c.created_at, t.id AS template_id, t.state, t.project, t.last_used_at, \
       extract(epoch FROM now() - t.last_used_at) AS idle_s, \
       (SELECT coalesce(sum(d.bytes), 0) FROM pgstencil.database d WHERE d.template_id = t.id) AS bytes, \
       EXISTS (SELECT FROM pgstencil.template o WHERE o.project = t.project AND o.definition = t.definition \
         AND o.state = 'ready' AND o.last_used_at > t.last_used_at) AS superseded \
       FROM pgstencil.clone c LEFT JOIN pgstencil.template t ON t.id = c.template_id WHERE c.state = 'warm'), \
     ranked AS (SELECT w.*, p.max_bytes, coalesce(p.warm, 0) AS few, coalesce(p.warm_max, 0) AS many, \
       row_number() OVER (PARTITION BY w.template_id ORDER BY w.created_at) AS nth, \
       sum(w.bytes) OVER (PARTITION BY w.project ORDER BY w.last_used_at DESC, w.created_at, w.id) \
       + (SELECT coalesce(sum(d.bytes), 0) FROM pgstencil.template o \
          JOIN pgstencil.database d ON d.template_id = o.id WHERE o.project = w.project AND o.state = 'ready') \
       + CASE WHEN w.project = $1 THEN $2 ELSE 0 END AS used \
       FROM warm w LEFT JOIN pgstencil.project p ON p.name = w.project), \
     judged AS (SELECT id, CASE \
       WHEN state IS DISTINCT FROM 'ready' THEN 'template' \
       WHEN idle_s > 3600 OR idle_s > 600 AND superseded THEN 'idle' \
       WHEN nth > CASE WHEN idle_s > 600 THEN few ELSE many END THEN 'many' \
       WHEN used > max_bytes THEN 'size' END AS why FROM ranked) \
     SELECT id, why FROM judged WHERE why IS NOT NULL AND ($3::text IS NULL OR id = $3) ORDER BY id";
const FULL: &str = "UPDATE pgstencil.meta SET full_at = now()";
const ALL_WARM: &str = "SELECT id, 'full'::text AS why FROM pgstencil.clone \
     WHERE state = 'warm' ORDER BY id";

impl Registry {
    /// Takes warm clones, and their locks, which the session then holds. Fewer than wanted if there are
    /// fewer. Nobody else gets them; they are published by [`Registry::publish_warm`], or given up. Also
    /// returns what [`Registry::findings`] does, which the same message asks for.
    ///
    /// # Errors
    /// The driver's.
    pub async fn claim_warm(&mut self, wish: &Wish<'_>) -> Result<(Vec<ClaimedRow>, Vec<Finding>)> {
        let doing = || "take a warm clone".to_owned();
        let findings = comparison::findings(wish.project, &wish.definition.name);
        let [claimed, findings] = self.session().send([claim(wish), findings]).await.doing(doing)?;
        let mut rows: Vec<ClaimedRow> = claimed.read().doing(doing)?;
        rows.sort_by(|a, b| (&a.clone_id, a.ordinal).cmp(&(&b.clone_id, b.ordinal)));
        Ok((rows, findings.read().doing(doing)?))
    }

    /// Offers a clone whose lock the caller holds, and gives up right after.
    ///
    /// # Errors
    /// The driver's; that the clone is not being made.
    pub async fn set_warm(&mut self, id: &str) -> Result<()> {
        let done = self
            .session()
            .execute(sql::fill(WARM, &[&id, &LockKey::clone(id).value()]))
            .await
            .doing(|| format!("offer warm clone {id}"))?;
        match done.count {
            0 => Err(Error::failed(format!("warm clone {id} was discarded while it was created"))),
            _ => Ok(()),
        }
    }

    /// Gives a warm clone up, whose lock the caller holds. `false`: it is not warm any more.
    ///
    /// # Errors
    /// The driver's.
    pub async fn release_warm(&mut self, id: &str) -> Result<bool> {
        let done = self
            .session()
            .execute(sql::fill(RELEASE_WARM, &[&id]))
            .await
            .doing(|| format!("discard warm clone {id}"))?;
        Ok(done.count == 1)
    }

    /// Notes that so many clones of a template were asked for.
    ///
    /// # Errors
    /// The driver's.
    pub async fn note_demand(&mut self, template: i64, clones: usize) -> Result<()> {
        self.session()
            .execute(sql::fill(DEMAND, &[&template, &clones]))
            .await
            .doing(|| "note that clones were asked for".into())?;
        Ok(())
    }

    /// Notes that the server's disk was found full: nothing is made ahead for a while.
    ///
    /// # Errors
    /// The driver's.
    pub async fn note_full_disk(&mut self) -> Result<()> {
        self.session().execute(sql::fill(FULL, &[])).await.doing(|| "note that the disk is full".into())?;
        Ok(())
    }

    /// What there is of a template, and what is wanted of it.
    ///
    /// # Errors
    /// The driver's.
    pub async fn stock(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<Option<StockRow>> {
        let role = self.facts().began_as.clone();
        self.session()
            .first(sql::fill(STOCK, &[&project, &definition, &fingerprint, &role]))
            .await
            .doing(|| "see how many warm clones there are".into())
    }

    /// The warm clones that should go, by the limits that each project noted. `room`: a project, and the
    /// bytes that it is about to add.
    ///
    /// # Errors
    /// The driver's.
    pub async fn spare_warm(&mut self, room: Option<(&str, u64)>) -> Result<Vec<SpareRow>> {
        self.spare(room, None).await
    }

    /// Why a warm clone should go, if it should.
    ///
    /// # Errors
    /// The driver's.
    pub async fn is_spare(&mut self, id: &str) -> Result<Option<SpareRow>> {
        Ok(self.spare(None, Some(id)).await?.into_iter().next())
    }

    async fn spare(&mut self, room: Option<(&str, u64)>, id: Option<&str>) -> Result<Vec<SpareRow>> {
        let (project, bytes) = room.unwrap_or_default();
        self.session()
            .rows(sql::fill(SPARE, &[&project, &i64::try_from(bytes).unwrap_or(i64::MAX), &id]))
            .await
            .doing(|| "see which warm clones are not needed".into())
    }

    /// All warm clones, to make room on a full disk.
    ///
    /// # Errors
    /// The driver's.
    pub async fn all_warm(&mut self) -> Result<Vec<SpareRow>> {
        self.session().rows(sql::fill(ALL_WARM, &[])).await.doing(|| "list the warm clones".into())
    }
}
