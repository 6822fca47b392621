//! Data that an eviction is based on: the existing templates, their costs, and the limits of each project.

use std::collections::HashMap;

use sqlx::FromRow;

use crate::config::Extend;
use crate::error::Result;
use crate::fingerprint::{KeptRecipe, Recipe};
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::sql;
use crate::quantity::{Bytes, Millis, Seconds};

use super::event::{FULL_BUILDS, Happened};
use super::{Registry, template};

/// Ready template, as an eviction sees it.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct ResidentRow {
    /// Number of its row.
    pub(crate) id: i64,
    /// Namespace.
    pub(crate) project: String,
    /// Name of its definition.
    pub(crate) definition: String,
    /// Fingerprint of its inputs.
    pub(crate) fingerprint: Fingerprint,
    /// Role that built it: several roles may have a template of the same fingerprint.
    pub(crate) built_by: String,
    /// Whether a person pinned it.
    pub(crate) pinned: bool,
    /// `extend` of its definition when it was built.
    pub(crate) extend: Extend,
    /// Seconds since its last use.
    pub(crate) idle_s: Seconds,
    /// Time of its last use, in full precision, to detect a use in the meantime.
    pub(crate) used: String,
    /// Total size of its databases.
    pub(crate) bytes: Bytes,
    /// Milliseconds of its full build; `None` if it was built incrementally.
    pub(crate) full_ms: Option<Millis>,
}

/// Incremental or full build in the history.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct BuildRow {
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Number of migrations that were added; `None` for a full build.
    pub(crate) added: Option<i32>,
    /// Duration in milliseconds.
    pub(crate) millis: Millis,
}

const RESIDENTS: &str = "SELECT t.id, t.project, t.definition, t.fingerprint, t.pinned, t.extend, \
     pg_get_userbyid(t.built_by)::text AS built_by, \
     extract(epoch FROM now() - t.last_used_at)::float8 AS idle_s, t.last_used_at::text AS used, \
     coalesce((SELECT sum(d.bytes) FROM pgstencil.database d WHERE d.template_id = t.id), 0)::bigint AS bytes, \
     CASE WHEN t.base_fingerprint IS NULL THEN t.build_ms END AS full_ms \
     FROM pgstencil.template t WHERE t.state = 'ready' ORDER BY t.id";
/// As text: a `jsonb` value is only read once then.
const RECIPES: &str = "SELECT id, recipe::text FROM pgstencil.template WHERE id = ANY($1)";
/// Limited by the limit of the history.
const BUILDS: &str = "SELECT project, definition, CASE WHEN outcome = $2 THEN files END AS added, millis \
     FROM pgstencil.event WHERE outcome IN $1 OR outcome = $2 AND files IS NOT NULL ORDER BY id";
/// Bytes of discarded templates that still have to be dropped.
const LEFTOVERS: &str = "SELECT coalesce(sum(d.bytes), 0)::bigint FROM pgstencil.database d \
     JOIN pgstencil.template t ON t.id = d.template_id \
     WHERE t.project = $1 AND t.state = 'broken' AND (t.kept_until IS NULL OR t.kept_until < now())";
/// Evicts only if the template was not used or pinned since it was read. It is never cloned again, and a cleanup
/// does the rest.
const EVICT: &str = "WITH gone AS (UPDATE pgstencil.template SET state = 'broken', reason = $3, \
       kept_until = NULL WHERE id = $1 AND state = 'ready' AND NOT pinned AND last_used_at::text = $2 \
       RETURNING project, definition, fingerprint) \
     INSERT INTO pgstencil.event (project, definition, fingerprint, outcome, millis) \
     SELECT project, definition, fingerprint, $4, 0 FROM gone";
const IS_READY: &str = "SELECT EXISTS (SELECT FROM pgstencil.template WHERE id = $1 AND state = 'ready')";
const PIN: &str = "UPDATE pgstencil.template SET pinned = $2 WHERE id = $1 AND state = 'ready'";

impl Registry {
    /// Returns the ready templates of all projects.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn residents(&mut self) -> Result<Vec<ResidentRow>> {
        self.session()
            .rows(sql::fill(RESIDENTS, &[]))
            .await
            .doing(|| "list the templates for an eviction".into())
    }

    /// Returns the recipes of templates, except those in another format.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn recipes(&mut self, ids: &[i64]) -> Result<HashMap<i64, Recipe>> {
        let rows: Vec<(i64, String)> = self
            .session()
            .rows(sql::fill(RECIPES, &[&ids]))
            .await
            .doing(|| "read the inputs of templates".into())?;
        Ok(rows
            .into_iter()
            .filter_map(|(id, recipe)| {
                let kept: KeptRecipe = serde_json::from_str(&recipe).ok()?;
                Some((id, kept.into_comparable_with_kept()))
            })
            .collect())
    }

    /// Returns the durations of full and incremental builds, oldest first.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn builds(&mut self) -> Result<Vec<BuildRow>> {
        self.session()
            .rows(sql::fill(BUILDS, &[&FULL_BUILDS, &Happened::Extended]))
            .await
            .doing(|| "read the durations of builds".into())
    }

    /// Returns the bytes of a project's discarded templates that are still on the disk.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn leftover_bytes(&mut self, project: &str) -> Result<u64> {
        let bytes: i64 = self
            .session()
            .scalar(sql::fill(LEFTOVERS, &[&project]))
            .await
            .doing(|| "sum up the sizes of discarded templates".into())?;
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// Marks a template broken, unless it was used or pinned since `used`; the caller holds its exclusive lock.
    /// Committed when this returns: from then on any cleanup drops it.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn evict_template(&mut self, id: i64, used: &str, why: &str) -> Result<bool> {
        let done = self
            .session()
            .execute(sql::fill(EVICT, &[&id, &used, &why, &Happened::Evicted]))
            .await
            .doing(|| "discard a template".into())?;
        Ok(done.count == 1)
    }

    /// Returns whether a template is still ready.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn is_ready(&mut self, id: i64) -> Result<bool> {
        self.session()
            .scalar(sql::fill(IS_READY, &[&id]))
            .await
            .doing(|| "check whether a template still exists".into())
    }

    /// Pins or unpins a ready template. `false`: it is gone.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn pin_template(&mut self, id: i64, pinned: bool) -> Result<bool> {
        let done = self
            .session()
            .execute(sql::fill(PIN, &[&id, &pinned]))
            .await
            .doing(|| "pin or unpin a template".into())?;
        Ok(done.count == 1)
    }

    /// Records that a template was the base of an incremental build: this is a use, but not a hit.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_use(&mut self, id: i64) -> Result<()> {
        self.session()
            .execute(template::touch(id, 0, 0))
            .await
            .doing(|| "record a use of a template".into())?;
        Ok(())
    }
}
