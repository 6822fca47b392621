//! Rows of `pgstencil.template`: building → ready, or broken.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use sqlx::postgres::types::Oid;
use sqlx::types::Json;

use crate::config::Extend;
use crate::error::Result;
use crate::fingerprint::{KeptRecipe, Recipe, RecipeKey, RelPath};
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::catalog::{self, BuiltWith, DatabasesWhere, select_databases};
use crate::pg::inventory::Window;
use crate::pg::lock::LockKey;
use crate::pg::sql::{self, Statement};
use crate::quantity::{Millis, Seconds};

use super::comparison::{self, Finding};
use super::database::{self, Owner};
use super::{DatabaseRow, Holder, Registry, TemplateState};

/// Row of a template, as `list` and the look-up see it.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct TemplateRow {
    /// Row number; the key of the template's lock is computed from it.
    pub(crate) id: i64,
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Fingerprint of its inputs.
    pub(crate) fingerprint: Fingerprint,
    /// State of the template.
    pub(crate) state: TemplateState,
    /// Facts about the environment of the build.
    pub(crate) built_with: Json<BuiltWith>,
    /// Process that built it, or is building it.
    pub(crate) builder: Json<Holder>,
    /// Role that owns what the build created.
    pub(crate) built_by: String,
    /// Last lines of the build's output.
    pub(crate) log_tail: String,
    /// Duration of the build in milliseconds.
    pub(crate) build_ms: Option<Millis>,
    /// Number of requests that found it ready.
    pub(crate) hits: i64,
    /// Whether it is never evicted.
    pub(crate) pinned: bool,
    /// Reason why it is broken.
    pub(crate) reason: Option<String>,
    /// Base of its incremental build, if it was built so.
    pub(crate) base_fingerprint: Option<Fingerprint>,
    /// Migrations that were added to the base, in order.
    pub(crate) added: Json<Vec<RelPath>>,
    /// Number of incremental builds since the full build.
    pub(crate) chain: i32,
    /// Whether it was built by `build_until`, as a base of others.
    pub(crate) waypoint: bool,
    /// `extend` of its definition when it was built.
    pub(crate) extend: Extend,
    /// Record of a build that was not sealed because of its migrations.
    pub(crate) unsealed: Option<Json<UnsealedNote>>,
    /// Whether a full build is to replace it.
    pub(crate) provisional: bool,
    /// Number of attempts at that full build.
    pub(crate) rebuild_attempts: i32,
    /// Seconds since the last attempt began.
    pub(crate) rebuild_tried_s: Option<Seconds>,
    /// Reason why the last attempt failed.
    pub(crate) rebuild_failure: Option<String>,
    /// Time since when it counts as equal to a full build by the evidence of others, RFC 3339, UTC.
    pub(crate) accepted_at: Option<String>,
    /// Reason why the last background process that looked at it did not rebuild it.
    pub(crate) rebuild_wait: Option<String>,
    /// Difference from the incrementally built template that it replaced; empty if there is none.
    pub(crate) difference: Option<String>,
    /// Whether Postgres has crashed since it was sealed, and emptied its unlogged tables and sequences.
    pub(crate) emptied: bool,
    /// Reason why it no longer fits, if that was found elsewhere than at its use.
    pub(crate) outdated: Option<String>,
    /// Collation whose version has changed since the build: its name, the version then, and now.
    pub(crate) other_collation: Option<Json<(String, String, Option<String>)>>,
    /// Seconds since its oldest contents were built.
    pub(crate) contents_s: Seconds,
    /// Seconds since its last use.
    pub(crate) idle_s: Seconds,
    /// Seconds since the row was created, by the server's clock.
    pub(crate) age_s: Seconds,
    /// Time of the row's creation, RFC 3339, UTC.
    pub(crate) created_at: String,
    /// Time of its last use, RFC 3339, UTC.
    pub(crate) last_used_at: String,
}

impl TemplateRow {
    /// Returns whether it is the result of another way than a full build, which it may differ from.
    pub(crate) fn is_incremental(&self) -> bool {
        self.base_fingerprint.is_some() || self.waypoint
    }

    /// Returns the lock that a process holds to build it.
    pub(crate) fn build_key(&self) -> LockKey {
        LockKey::build(&self.project, &self.definition, &self.fingerprint)
    }
}

macro_rules! select {
    ($tail:literal) => {
        concat!(include_str!("queries/template.sql"), $tail)
    };
}

/// Build whose new migrations changed nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UnsealedNote {
    /// Paths of the migrations.
    pub(crate) files: Vec<RelPath>,
    /// Fingerprint of the template that holds the same without them; 64 hex digits.
    pub(crate) alike: String,
}

/// Answer to [`Registry::hold_template`].
#[derive(Clone, Debug)]
pub(crate) enum Hold {
    /// The session now shares its lock, and it is ready.
    Held(Box<HeldTemplate>),
    /// Another process is about to drop it, or has: look it up again.
    Changed,
}

/// Ready template, with its databases as the server shows them.
#[derive(Clone, Debug)]
pub(crate) struct HeldTemplate {
    /// Row of the template.
    pub(crate) row: TemplateRow,
    /// Rows of its databases, in the order of the definition.
    pub(crate) databases: Vec<DatabaseRow>,
    /// Its databases as the server shows them.
    pub(crate) found: Vec<catalog::Database>,
}

/// Alias of a database, and the hash of its numbers of objects and rows; `None` if it was not computed.
pub(crate) type Shape = (String, Option<String>);

/// A role may use the templates that it built, and those built by a role that it inherits from; its own come first.
const READY_ID: &str = "SELECT id FROM pgstencil.template \
     WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND state = 'ready' \
     AND pg_has_role($4::name, built_by, 'USAGE') \
     ORDER BY pg_get_userbyid(built_by) = $4 DESC, id LIMIT 1";
const UNSEALED_BY_ID: &str = select!(
    "WHERE id = $1 AND state = 'broken' AND unsealed IS NOT NULL AND kept_until > now() \
     AND pg_has_role($2::name, built_by, 'USAGE')"
);
/// A short time is enough for waiting processes: they check ten times a second.
const UNSEALED: &str = "UPDATE pgstencil.template SET state = 'broken', reason = $2, unsealed = $3, \
     built_with = $4, build_ms = $5, sealed_at = now(), kept_until = now() + interval '1 minute' \
     WHERE id = $1 AND state = 'building'";
const WINDOW: &str = "SELECT to_char(created_at AT TIME ZONE 'UTC' - interval '5 minutes', f), \
       to_char(coalesce(sealed_at, clock_timestamp()) AT TIME ZONE 'UTC' + interval '5 minutes', f) \
     FROM pgstencil.template, (VALUES ('YYYY-MM-DD HH24:MI:SS+00')) x(f) WHERE id = $1";
const SHAPES_OF: &str = "SELECT template_id, role, shape FROM pgstencil.database \
     WHERE template_id = $1 ORDER BY ordinal";
const SHAPES: &str = "SELECT d.template_id, d.role, d.shape FROM pgstencil.database d \
     JOIN pgstencil.template t ON t.id = d.template_id \
     WHERE t.project = $1 AND t.definition = $2 AND t.state = 'ready' ORDER BY d.template_id, d.ordinal";
const RECIPE_BY_ID: &str = "SELECT recipe FROM pgstencil.template WHERE id = $1";
const READY_BY_ID: &str = select!("WHERE id = $1 AND state = 'ready'");
const ITS_DATABASES: DatabasesWhere =
    select_databases!("d.oid IN (SELECT o.oid FROM pgstencil.database o WHERE o.template_id = $1)");

const FIND: &str = select!(
    "WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND state = $4 \
     AND (state <> 'ready' OR pg_has_role($5::name, built_by, 'USAGE')) \
     ORDER BY pg_get_userbyid(built_by) = $5 DESC, id LIMIT 1"
);
const OTHERS: &str = "SELECT pg_get_userbyid(built_by)::text FROM pgstencil.template \
     WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND state = 'ready' ORDER BY id LIMIT 1";
const ALL: &str = select!("ORDER BY project, definition, id");
/// Also ready templates with a database that is gone or half dropped: that was done by hand.
const DEAD: &str = select!(
    "t WHERE state = 'broken' AND (kept_until IS NULL OR kept_until < now()) OR state = 'building' \
     OR state = 'ready' AND EXISTS (SELECT FROM pgstencil.database d WHERE d.template_id = t.id \
       AND d.state = 'present' AND NOT EXISTS (SELECT FROM pg_database p WHERE p.oid = d.oid \
       AND p.datconnlimit <> -2)) ORDER BY id"
);
const READY_OF: &str = select!(
    "WHERE project = $1 AND definition = $2 AND state = 'ready' \
     AND pg_has_role($3::name, built_by, 'USAGE') \
     ORDER BY pg_get_userbyid(built_by) = $3 DESC, id DESC"
);
/// As hex digits: a setting of the role decides how bytes are written otherwise.
const KEY: &str = "SELECT encode(recipe_key, 'hex') FROM pgstencil.meta";
const RECIPES: &str = "SELECT id, recipe FROM pgstencil.template \
     WHERE project = $1 AND definition = $2 AND state = 'ready'";
/// State and project of the template do not matter: the files are the same.
const RECIPE: &str = "SELECT recipe FROM pgstencil.template WHERE definition = $1 AND fingerprint = $2 \
     ORDER BY (state = 'ready') DESC, id DESC LIMIT 1";
const INSERT: &str = "INSERT INTO pgstencil.template (project, definition, fingerprint, state, recipe, builder, \
     base_fingerprint, added, chain, provisional, fresh_at, extend, built_by, waypoint) \
     SELECT $1, $2, $3, 'building', $4, $5, b.fingerprint, $7, coalesce(b.chain, -1) + 1, $8, \
     coalesce(b.fresh_at, now()), $9, r.oid, $11 FROM pg_roles r \
     LEFT JOIN pgstencil.template b ON b.id = $6 WHERE r.rolname::text = $10 RETURNING id";
const INSERT_PULLED: &str = "INSERT INTO pgstencil.template (project, definition, fingerprint, state, recipe, builder, \
     base_fingerprint, added, chain, provisional, fresh_at, extend, built_by, waypoint) \
     SELECT $1, $2, $3, 'building', $4, $5, $6, $7, $8, $9, now() - make_interval(secs => $10), $11, r.oid, false \
     FROM pg_roles r WHERE r.rolname::text = $12 RETURNING id";
const REPLACE: &str = "UPDATE pgstencil.template SET state = 'broken', reason = 'a full build replaced it', \
     kept_until = NULL WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND state = 'ready' \
     AND built_by = (SELECT n.built_by FROM pgstencil.template n WHERE n.id = $4) RETURNING id";
const INHERIT: &str = "UPDATE pgstencil.template n SET hits = n.hits + o.hits, \
     last_used_at = greatest(n.last_used_at, o.last_used_at), pinned = n.pinned OR o.pinned \
     FROM pgstencil.template o WHERE n.id = $1 AND o.id = $2";
const DIFFERENCE: &str = "UPDATE pgstencil.template SET difference = $2 WHERE id = $1";
const REBUILD_FAILED: &str =
    "UPDATE pgstencil.template SET settle_failure = $2 WHERE id = $1 AND state = 'ready'";
const REBUILD_TRIED: &str = "UPDATE pgstencil.template SET settle_attempts = settle_attempts + 1, \
     settle_tried_at = now(), settle_failure = NULL WHERE id = $1";
const REBUILD_TAKEN_BACK: &str = "UPDATE pgstencil.template \
     SET settle_attempts = greatest(settle_attempts - 1, 0) WHERE id = $1";
const LOG: &str = "UPDATE pgstencil.template SET log_tail = $2 WHERE id = $1 AND state = 'building'";
const BREAK: &str = "UPDATE pgstencil.template SET state = 'broken', reason = $2, \
     kept_until = CASE WHEN $3 THEN now() + interval '1 day' END WHERE id = $1 AND state <> 'broken'";
const PROVISIONAL: &str = "UPDATE pgstencil.template SET provisional = true, accepted_at = NULL WHERE id = $1 AND (chain > 0 OR waypoint)";
/// With the evidence for warm clones; see [`super::warm`].
const TOUCH: &str = include_str!("queries/touch_template.sql");
const READY: &str = "UPDATE pgstencil.template SET state = 'ready', sealed_at = now(), last_used_at = now(), \
     built_with = $2, build_ms = $3, uses = 1, demand_at = now() WHERE id = $1 AND state = 'building'";
/// For a template with unlogged tables: see the schema.
const INTACT: &str = "INSERT INTO pgstencil.intact SELECT id FROM pgstencil.template \
     WHERE id = $1 AND built_with ? 'unlogged_tables'";
/// The contents that builds started from are compared as the same role sees them.
const SOURCE_CHANGED: &str = "UPDATE pgstencil.template SET outdated = $4 WHERE state = 'ready' \
     AND outdated IS NULL AND built_by = (SELECT oid FROM pg_roles WHERE rolname::text = $5) \
     AND built_with -> 'source' ->> 'name' = $1 AND ((built_with -> 'source' ->> 'oid')::oid <> $2 \
       OR built_with -> 'source' ->> 'contents' <> $3)";
const LOOK_DUE: &str = "UPDATE pgstencil.template SET looked_at = now() WHERE state = 'ready' \
     AND built_by = (SELECT oid FROM pg_roles WHERE rolname::text = $2) \
     AND built_with -> 'source' ->> 'name' = $1 AND looked_at < now() - interval '1 hour'";
const DELETE: &str = "DELETE FROM pgstencil.template t WHERE id = $1 \
     AND NOT EXISTS (SELECT FROM pgstencil.database d WHERE d.template_id = t.id)";

/// Values that register a build which is not a full one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// A build on a copy of another template.
    Extension(NewExtension<'a>),
    /// A build by `build_until`. `provisional`: whether a full build is to replace it.
    Waypoint { provisional: bool },
    /// A restore of an entry of the remote store.
    Pulled(NewPulled<'a>),
}

/// Values that register a restore.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewPulled<'a> {
    /// Base of its incremental build and the migrations that were added to it, if it was built so.
    pub(crate) extends: Option<(&'a Fingerprint, &'a [RelPath])>,
    /// Number of incremental builds since the full build.
    pub(crate) chain: i32,
    /// Whether a full build is to replace it.
    pub(crate) provisional: bool,
    /// Age of its oldest contents.
    pub(crate) contents: Duration,
}

/// Values that register a build on a copy of another template.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewExtension<'a> {
    /// Row number of the base.
    pub(crate) base: i64,
    /// Migrations that are new.
    pub(crate) added: &'a [RelPath],
    /// Whether a full build is to replace it.
    pub(crate) provisional: bool,
}

/// Statement that records a use: this number of hits, and of clones that were requested.
pub(super) fn touch(id: i64, hits: i64, clones: usize) -> Statement {
    sql::planned("pgstencil_touch", TOUCH, &[&id, &hits, &clones])
}

/// Query for all templates.
pub(super) fn all() -> Statement {
    sql::planned("pgstencil_templates", ALL, &[])
}

impl Registry {
    /// Returns the template of this key in this state; a ready one only if the session's role may use the objects
    /// of its builder's role.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn find_template(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
        state: TemplateState,
    ) -> Result<Option<TemplateRow>> {
        let role = self.facts().began_as.clone();
        self.session()
            .first(sql::planned(
                "pgstencil_find",
                FIND,
                &[&project, &definition, &fingerprint, &state, &role],
            ))
            .await
            .doing(|| "look up a template in the registry".into())
    }

    /// Returns the role that built the ready template of this key, whether the session's role may use it or not.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn builder_of(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<Option<String>> {
        self.session()
            .first_scalar(sql::fill(OTHERS, &[&project, &definition, &fingerprint]))
            .await
            .doing(|| "look up a template in the registry".into())
    }

    /// Shares the lock of the ready template of this key that the session's role may use, and reads it; `None` if
    /// there is none. Also returns the result of [`Registry::findings`], which the same message asks for.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn look_up_ready(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<(Option<Hold>, Vec<Finding>)> {
        let doing = || "look up a template in the registry".to_owned();
        let role = self.facts().began_as.clone();
        let of = sql::planned("pgstencil_ready_id", READY_ID, &[&project, &definition, &fingerprint, &role]);
        let findings = comparison::findings(project, definition);
        let [found, findings] = self.session().send([of, findings]).await.doing(doing)?;
        let found: Vec<(i64,)> = found.read().doing(doing)?;
        let findings = findings.read().doing(doing)?;
        let hold = match found.first() {
            Some((id,)) => Some(self.hold_template(*id).await?),
            None => None,
        };
        Ok((hold, findings))
    }

    /// Does the same as [`Registry::look_up_ready`], without the findings.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn hold_ready(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Hold>> {
        let role = self.facts().began_as.clone();
        let of = sql::planned("pgstencil_ready_id", READY_ID, &[&project, &definition, &fingerprint, &role]);
        let id: Option<i64> =
            self.session().first_scalar(of).await.doing(|| "look up a template in the registry".into())?;
        match id {
            Some(id) => Ok(Some(self.hold_template(id).await?)),
            None => Ok(None),
        }
    }

    /// Shares the lock of a template, so that it cannot be dropped, and then reads its state. It may have been
    /// dropped before the lock was taken, so only a read after it counts.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn hold_template(&mut self, id: i64) -> Result<Hold> {
        self.hold(id, sql::planned("pgstencil_ready", READY_BY_ID, &[&id])).await
    }

    /// Does the same for a build that was not sealed, as long as it is kept for waiting processes, if the session's
    /// role may use it.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn hold_unsealed(&mut self, id: i64) -> Result<Hold> {
        let role = self.facts().began_as.clone();
        self.hold(id, sql::fill(UNSEALED_BY_ID, &[&id, &role])).await
    }

    async fn hold(&mut self, id: i64, row: Statement) -> Result<Hold> {
        let doing = || "lock a template and read it".to_owned();
        let key = LockKey::template(id);
        let major = self.facts().major();
        // Each statement of a message sees what was committed when it began.
        let [locked, row, databases, found] = self
            .session()
            .send([
                key.try_lock_shared(),
                row,
                database::of(&Owner::Template(id)),
                catalog::databases_where(major, "pgstencil_of_template", ITS_DATABASES, &[&id]),
            ])
            .await
            .doing(doing)?;
        let (locked,) = locked.one().doing(doing)?;
        let row = row.read().doing(doing)?.into_iter().next();
        let held = HeldTemplate {
            row: match (locked, row) {
                (true, Some(row)) => row,
                (false, _) => return Ok(Hold::Changed),
                (true, None) => {
                    self.session().unlock_shared(key).await.doing(doing)?;
                    return Ok(Hold::Changed);
                }
            },
            databases: databases.read().doing(doing)?,
            found: found.read().doing(doing)?,
        };
        Ok(Hold::Held(Box::new(held)))
    }

    /// Returns all templates.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn templates(&mut self) -> Result<Vec<TemplateRow>> {
        self.session().rows(all()).await.doing(|| "list templates".into())
    }

    /// Returns the key of the hashes of variables.
    async fn recipe_key(&mut self) -> Result<RecipeKey> {
        let digits: String =
            self.session().scalar(sql::fill(KEY, &[])).await.doing(|| "read the key of recipes".into())?;
        let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        let key: Vec<u8> = (0..digits.len()).step_by(2).filter_map(byte).collect();
        Ok(RecipeKey::new(key))
    }

    /// Returns the ready templates of a definition that the session's role may use, with their recipes, to be
    /// compared with `fresh`; the templates that it built itself come first.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn ready_templates(
        &mut self,
        project: &str,
        definition: &str,
        fresh: &Recipe,
    ) -> Result<Vec<(TemplateRow, Recipe)>> {
        let doing = || "list the templates of a definition".to_owned();
        let key = self.recipe_key().await?;
        let role = self.facts().began_as.clone();
        let rows: Vec<TemplateRow> =
            self.session().rows(sql::fill(READY_OF, &[&project, &definition, &role])).await.doing(doing)?;
        let recipes: Vec<(i64, serde_json::Value)> =
            self.session().rows(sql::fill(RECIPES, &[&project, &definition])).await.doing(doing)?;
        let mut recipes: HashMap<i64, serde_json::Value> = recipes.into_iter().collect();
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                // A recipe of another format cannot be read, and its template is no candidate.
                let recipe: KeptRecipe = serde_json::from_value(recipes.remove(&row.id)?).ok()?;
                Some((row, recipe.into_comparable(fresh, &key)))
            })
            .collect())
    }

    /// Returns the recipe of a template of this fingerprint, if it is still known, to be compared with `fresh`.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn recipe(
        &mut self,
        definition: &str,
        fingerprint: &Fingerprint,
        fresh: &Recipe,
    ) -> Result<Option<Recipe>> {
        let key = self.recipe_key().await?;
        let recipe: Option<serde_json::Value> = self
            .session()
            .first_scalar(sql::fill(RECIPE, &[&definition, &fingerprint]))
            .await
            .doing(|| "read the inputs of a template".into())?;
        // A recipe of another format cannot be read.
        let kept: Option<KeptRecipe> = recipe.and_then(|r| serde_json::from_value(r).ok());
        Ok(kept.map(|kept| kept.into_comparable(fresh, &key)))
    }

    /// Replaces the ready template of the same key and role, within the seal's transaction: the old one is
    /// discarded, and the new one takes over its count of hits. Returns the old one's row number, if there was one.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn replace_template(
        &mut self,
        new: i64,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> std::result::Result<Option<i64>, sqlx::Error> {
        let old: Option<(i64,)> =
            self.session().first(sql::fill(REPLACE, &[&project, &definition, &fingerprint, &new])).await?;
        let Some((old,)) = old else {
            return Ok(None);
        };
        self.session().execute(sql::fill(INHERIT, &[&new, &old])).await?;
        Ok(Some(old))
    }

    /// Records how the replaced template differed from the one that replaced it.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_difference(&mut self, id: i64, difference: &str) -> Result<()> {
        self.note_text(DIFFERENCE, id, difference).await
    }

    /// Records that the full build that was to replace a template failed.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_rebuild_failure(&mut self, id: i64, why: &str) -> Result<()> {
        self.note_text(REBUILD_FAILED, id, why).await
    }

    /// Records that a full build begins that is to replace a template. Committed when this returns: a build that
    /// just disappears counts as well.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn begin_rebuild(&mut self, id: i64) -> Result<()> {
        self.note_attempt(REBUILD_TRIED, id).await
    }

    /// Removes that record: the build was cancelled, since no definition needs it any more.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn cancel_rebuild(&mut self, id: i64) -> Result<()> {
        self.note_attempt(REBUILD_TAKEN_BACK, id).await
    }

    /// Records that a full build is to replace an incrementally built template that was not provisional so far.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_provisional(&mut self, id: i64) -> Result<()> {
        self.session()
            .execute(sql::fill(PROVISIONAL, &[&id]))
            .await
            .doing(|| "record that a template is provisional".into())?;
        Ok(())
    }

    async fn note_attempt(&mut self, query: &'static str, id: i64) -> Result<()> {
        self.session()
            .execute(sql::fill(query, &[&id]))
            .await
            .doing(|| "record an attempt to rebuild a template".into())?;
        Ok(())
    }

    async fn note_text(&mut self, query: &'static str, id: i64, text: &str) -> Result<()> {
        self.session()
            .execute(sql::fill(query, &[&id, &text]))
            .await
            .doing(|| "record the result of a rebuild".into())?;
        Ok(())
    }

    /// Returns broken templates, templates that are being built or were when their builder died, and ready ones
    /// with a database that is gone.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn unfinished_templates(&mut self) -> Result<Vec<TemplateRow>> {
        self.session()
            .rows(sql::planned("pgstencil_unfinished", DEAD, &[]))
            .await
            .doing(|| "list unfinished templates".into())
    }

    /// Registers a build that is about to start.
    ///
    /// # Errors
    /// The driver's; 23505 if a build of the same key is registered.
    pub(crate) async fn insert_template(
        &mut self,
        project: &str,
        definition: &str,
        recipe: &Recipe,
        builder: &Holder,
        extend: Extend,
        step: Option<Step<'_>>,
    ) -> Result<i64> {
        let kept = KeptRecipe::new(recipe, &self.recipe_key().await?);
        if let Some(Step::Pulled(pulled)) = step {
            return self.insert_pulled(project, definition, recipe, &kept, builder, extend, pulled).await;
        }
        let (extension, waypoint, provisional) = match step {
            None | Some(Step::Pulled(_)) => (None, false, false),
            Some(Step::Extension(extension)) => (Some(extension), false, extension.provisional),
            Some(Step::Waypoint { provisional }) => (None, true, provisional),
        };
        let role = self.facts().began_as.clone();
        self.session()
            .scalar(sql::fill(
                INSERT,
                &[
                    &project,
                    &definition,
                    &recipe.fingerprint(),
                    &Json(kept),
                    &Json(builder),
                    &extension.map(|e| e.base),
                    &Json(extension.map_or(&[][..], |e| e.added)),
                    &provisional,
                    &extend,
                    &role,
                    &waypoint,
                ],
            ))
            .await
            .doing(|| "register a build".into())
    }

    #[expect(clippy::too_many_arguments, reason = "the values of one row")]
    async fn insert_pulled(
        &mut self,
        project: &str,
        definition: &str,
        recipe: &Recipe,
        kept: &KeptRecipe,
        builder: &Holder,
        extend: Extend,
        pulled: NewPulled<'_>,
    ) -> Result<i64> {
        let role = self.facts().began_as.clone();
        let (base, added, chain) = match pulled.extends {
            Some((base, added)) => (Some(base), added, pulled.chain.max(1)),
            None => (None, &[][..], 0),
        };
        self.session()
            .scalar(sql::fill(
                INSERT_PULLED,
                &[
                    &project,
                    &definition,
                    &recipe.fingerprint(),
                    &Json(kept),
                    &Json(builder),
                    &base,
                    &Json(added),
                    &chain,
                    &(pulled.provisional && chain > 0),
                    &Seconds::from(pulled.contents),
                    &extend,
                    &role,
                ],
            ))
            .await
            .doing(|| "register a restore".into())
    }

    /// Shows the build's last lines to the processes that wait for it.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn write_log_tail(&mut self, id: i64, tail: &str) -> Result<()> {
        self.session()
            .execute(sql::fill(LOG, &[&id, &tail]))
            .await
            .doing(|| "write the build's last lines".into())?;
        Ok(())
    }

    /// Marks a template broken: it is never cloned again, and a cleanup drops it; `keep` leaves it to a person for
    /// a day.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn break_template(&mut self, id: i64, reason: &str, keep: bool) -> Result<()> {
        self.session()
            .execute(sql::fill(BREAK, &[&id, &reason, &keep]))
            .await
            .doing(|| "mark a template broken".into())?;
        Ok(())
    }

    /// building → ready, within the seal's transaction. `false`: another process changed its state in the meantime.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_ready(
        &mut self,
        id: i64,
        built_with: &BuiltWith,
        millis: u64,
    ) -> std::result::Result<bool, sqlx::Error> {
        let [done, _] = self
            .session()
            .send([sql::fill(READY, &[&id, &Json(built_with), &millis]), sql::fill(INTACT, &[&id])])
            .await?;
        Ok(done.count == 1)
    }

    /// Marks all templates of the session's role that were built from this database as outdated, unless the
    /// database still has this oid and these contents; without contents only the oid counts.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_source(&mut self, name: &str, oid: Oid, contents: Option<&str>) -> Result<()> {
        let role = self.facts().began_as.clone();
        let why = format!("database `{name}`, which its build started from, has changed");
        self.session()
            .execute(sql::fill(SOURCE_CHANGED, &[&name, &oid, &contents, &why, &role]))
            .await
            .doing(|| "record that a database has changed".into())?;
        Ok(())
    }

    /// Returns whether the database that builds start from was not checked for an hour, though templates of the
    /// session's role were built from it. If so, no other process gets this answer for another hour.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn take_look(&mut self, name: &str) -> Result<bool> {
        let role = self.facts().began_as.clone();
        let done = self
            .session()
            .execute(sql::fill(LOOK_DUE, &[&name, &role]))
            .await
            .doing(|| "check when a database was last inspected".into())?;
        Ok(done.count > 0)
    }

    /// building → broken, within the transaction that lets waiting processes copy it.
    ///
    /// # Errors
    /// The driver's. `false`: another process changed its state in the meantime.
    pub(crate) async fn set_unsealed(
        &mut self,
        id: i64,
        why: &str,
        note: &UnsealedNote,
        built_with: &BuiltWith,
        millis: u64,
    ) -> std::result::Result<bool, sqlx::Error> {
        let [done, _] = self
            .session()
            .send([
                sql::fill(UNSEALED, &[&id, &why, &Json(note), &Json(built_with), &millis]),
                sql::fill(INTACT, &[&id]),
            ])
            .await?;
        Ok(done.count == 1)
    }

    /// Returns the shapes of a template's databases, by alias; `None` if a shape was not computed.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn shapes_of(&mut self, id: i64) -> Result<Vec<Shape>> {
        let all = self.read_shapes(sql::fill(SHAPES_OF, &[&id])).await?;
        Ok(all.into_iter().flat_map(|(_, shapes)| shapes).collect())
    }

    /// Returns the time span of a template's build by the server's clock, with five more minutes on each side,
    /// since a build command may record the time of another machine. A build that is still running ends now.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn build_window(&mut self, id: i64) -> Result<Window> {
        let (since, until) = self
            .session()
            .one(sql::fill(WINDOW, &[&id]))
            .await
            .doing(|| "read when a template was built".into())?;
        Ok(Window { since, until })
    }

    /// Returns the same for all ready templates of a definition, by their row numbers.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn shapes(&mut self, project: &str, definition: &str) -> Result<Vec<(i64, Vec<Shape>)>> {
        self.read_shapes(sql::fill(SHAPES, &[&project, &definition])).await
    }

    async fn read_shapes(&mut self, statement: Statement) -> Result<Vec<(i64, Vec<Shape>)>> {
        let rows: Vec<(i64, String, Option<String>)> =
            self.session().rows(statement).await.doing(|| "read the shapes of templates".into())?;
        let mut all: Vec<(i64, Vec<Shape>)> = Vec::new();
        for (id, alias, shape) in rows {
            match all.last_mut() {
                Some((last, shapes)) if *last == id => shapes.push((alias, shape)),
                _ => all.push((id, vec![(alias, shape)])),
            }
        }
        Ok(all)
    }

    /// Returns the migrations that a template was built from; `None` if it is gone, or of another version of
    /// pgstencil.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn migrations_of(&mut self, id: i64) -> Result<Option<Vec<RelPath>>> {
        let recipe: Option<serde_json::Value> = self
            .session()
            .first_scalar(sql::fill(RECIPE_BY_ID, &[&id]))
            .await
            .doing(|| "read the inputs of a template".into())?;
        let recipe = recipe.and_then(|r| serde_json::from_value::<KeptRecipe>(r).ok());
        Ok(recipe.map(|kept| {
            let recipe = kept.into_comparable_with_kept();
            recipe.migrations.into_iter().map(|f| f.path).collect()
        }))
    }

    /// Deletes the row of a template whose databases are all gone.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn forget_template(&mut self, id: i64) -> Result<()> {
        self.session()
            .execute(sql::fill(DELETE, &[&id]))
            .await
            .doing(|| "delete a template from the registry".into())?;
        Ok(())
    }
}
