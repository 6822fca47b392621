//! Rows of `pgstencil.template`: building → ready, or broken.

use sqlx::FromRow;
use sqlx::types::Json;

use crate::error::Result;
use crate::fingerprint::Recipe;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::catalog::BuiltWith;

use super::{Holder, Registry};

/// One template, as `list` and the look-up see it.
#[derive(Clone, Debug, FromRow)]
pub struct TemplateRow {
    /// Number of the row; the template's lock is made from it.
    pub id: i64,
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub definition: String,
    /// 64 hex digits.
    pub fingerprint: String,
    /// `building`, `ready` or `broken`.
    pub state: String,
    /// What the build met.
    pub built_with: Json<BuiltWith>,
    /// Who built it, or is building it.
    pub builder: Json<Holder>,
    /// The last lines of the build's output.
    pub log_tail: String,
    /// Milliseconds of the build.
    pub build_ms: Option<i64>,
    /// How often it was found ready.
    pub hits: i64,
    /// Why it is broken.
    pub reason: Option<String>,
    /// Seconds since the row was made, by the server's clock.
    pub age_s: f64,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC.
    pub last_used_at: String,
}

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, project, definition, fingerprint, state, built_with, builder, log_tail, build_ms, \
             hits, reason, extract(epoch FROM now() - created_at)::float8 AS age_s, \
             to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS created_at, \
             to_char(last_used_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS last_used_at \
             FROM pgstencil.template ",
            $tail
        )
    };
}

const FIND: &str =
    select!("WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND state = $4");
const ALL: &str = select!("ORDER BY project, definition, id");
const DEAD: &str = select!(
    "WHERE state = 'broken' AND (kept_until IS NULL OR kept_until < now()) OR state = 'building' ORDER BY id"
);
const INSERT: &str = "INSERT INTO pgstencil.template (project, definition, fingerprint, state, recipe, builder) \
     VALUES ($1, $2, $3, 'building', $4, $5) RETURNING id";
const LOG: &str =
    "UPDATE pgstencil.template SET log_tail = $2 WHERE id = $1 AND state = 'building'";
const BREAK: &str = "UPDATE pgstencil.template SET state = 'broken', reason = $2, \
     kept_until = CASE WHEN $3 THEN now() + interval '1 day' END WHERE id = $1 AND state <> 'broken'";
const TOUCH: &str =
    "UPDATE pgstencil.template SET hits = hits + 1, last_used_at = now() WHERE id = $1";
const READY: &str = "UPDATE pgstencil.template SET state = 'ready', sealed_at = now(), last_used_at = now(), \
     built_with = $2, build_ms = $3 WHERE id = $1 AND state = 'building'";
const DELETE: &str = "DELETE FROM pgstencil.template t WHERE id = $1 \
     AND NOT EXISTS (SELECT FROM pgstencil.database d WHERE d.template_id = t.id)";

impl Registry {
    /// The template of this key in this state.
    ///
    /// # Errors
    /// The driver's.
    pub async fn find_template(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
        state: &str,
    ) -> Result<Option<TemplateRow>> {
        sqlx::query_as(FIND)
            .bind(project)
            .bind(definition)
            .bind(fingerprint.to_string())
            .bind(state)
            .fetch_optional(self.session().connection())
            .await
            .doing(|| "look a template up in the registry".into())
    }

    /// All templates.
    ///
    /// # Errors
    /// The driver's.
    pub async fn templates(&mut self) -> Result<Vec<TemplateRow>> {
        sqlx::query_as(ALL)
            .fetch_all(self.session().connection())
            .await
            .doing(|| "list templates".into())
    }

    /// Broken templates, and those that are being built or were when their builder died.
    ///
    /// # Errors
    /// The driver's.
    pub async fn unfinished_templates(&mut self) -> Result<Vec<TemplateRow>> {
        sqlx::query_as(DEAD)
            .fetch_all(self.session().connection())
            .await
            .doing(|| "list unfinished templates".into())
    }

    /// Registers a build that is about to start.
    ///
    /// # Errors
    /// The driver's; 23505 if a build of the same key is registered.
    pub async fn insert_template(
        &mut self,
        project: &str,
        definition: &str,
        recipe: &Recipe,
        builder: &Holder,
    ) -> Result<i64> {
        sqlx::query_scalar(INSERT)
            .bind(project)
            .bind(definition)
            .bind(recipe.fingerprint().to_string())
            .bind(Json(recipe))
            .bind(Json(builder))
            .fetch_one(self.session().connection())
            .await
            .doing(|| "register a build".into())
    }

    /// Shows the build's last lines to those who wait for it.
    ///
    /// # Errors
    /// The driver's.
    pub async fn write_log_tail(&mut self, id: i64, tail: &str) -> Result<()> {
        sqlx::query(LOG)
            .bind(id)
            .bind(tail)
            .execute(self.session().connection())
            .await
            .doing(|| "write the build's last lines".into())?;
        Ok(())
    }

    /// Marks a template broken: it is never cloned again, and the sweep drops it; `keep` leaves it
    /// to a person for a day.
    ///
    /// # Errors
    /// The driver's.
    pub async fn break_template(&mut self, id: i64, reason: &str, keep: bool) -> Result<()> {
        sqlx::query(BREAK)
            .bind(id)
            .bind(reason)
            .bind(keep)
            .execute(self.session().connection())
            .await
            .doing(|| "mark a template broken".into())?;
        Ok(())
    }

    /// Counts a hit.
    ///
    /// # Errors
    /// The driver's.
    pub async fn touch_template(&mut self, id: i64) -> Result<()> {
        sqlx::query(TOUCH)
            .bind(id)
            .execute(self.session().connection())
            .await
            .doing(|| "count a hit".into())?;
        Ok(())
    }

    /// building → ready, within the seal's transaction. `false`: somebody moved it meanwhile.
    ///
    /// # Errors
    /// The driver's.
    pub async fn set_ready(
        &mut self,
        id: i64,
        built_with: &BuiltWith,
        millis: u64,
    ) -> std::result::Result<bool, sqlx::Error> {
        let done = sqlx::query(READY)
            .bind(id)
            .bind(Json(built_with))
            .bind(millis as i64)
            .execute(self.session().connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets a template whose databases are all gone.
    ///
    /// # Errors
    /// The driver's.
    pub async fn forget_template(&mut self, id: i64) -> Result<()> {
        sqlx::query(DELETE)
            .bind(id)
            .execute(self.session().connection())
            .await
            .doing(|| "forget a template".into())?;
        Ok(())
    }
}
