//! What happened: bounded history for expected times.

use std::time::Duration;

use sqlx::FromRow;

use crate::config::{CloneSettings, EvictionSettings};
use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};

use super::{Registry, eviction, template};

/// Rows are numbered, so their number is a bound by itself.
const INSERT: &str = "WITH new AS (INSERT INTO pgstencil.event (project, definition, fingerprint, outcome, millis, files) \
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING id) \
     DELETE FROM pgstencil.event e USING new WHERE new.id % 1000 = 0 AND e.id <= new.id - 10000";
/// The last build; of the others the median of the last ones, so that one on a busy machine does not
/// count for ever.
const COSTS: &str = "SELECT \
     (SELECT millis FROM pgstencil.event WHERE project = $1 AND definition = $2 AND outcome <> 'hit' \
      AND outcome IN ('miss', 'settled', 'verified') ORDER BY id DESC LIMIT 1) AS full_build, \
     (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY millis) FROM \
      (SELECT millis FROM pgstencil.event WHERE project = $1 AND definition = $2 AND outcome <> 'hit' \
       AND outcome = 'extended' ORDER BY id DESC LIMIT 9) e) AS extension, \
     (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY millis) FROM \
      (SELECT millis FROM pgstencil.event WHERE project = $1 AND definition = $2 \
       AND outcome = 'hit' ORDER BY id DESC LIMIT 9) h) AS hit";

/// As [`COSTS`], but what extensions took counts for a day: nothing else would ever show that they take less
/// now.
const RECENT_COSTS: &str = "SELECT \
     (SELECT millis FROM pgstencil.event WHERE project = $1 AND definition = $2 AND outcome <> 'hit' \
      AND outcome IN ('miss', 'settled', 'verified') ORDER BY id DESC LIMIT 1) AS full_build, \
     (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY millis) FROM \
      (SELECT millis FROM pgstencil.event WHERE project = $1 AND definition = $2 AND outcome <> 'hit' \
       AND outcome = 'extended' AND at > now() - interval '1 day' ORDER BY id DESC LIMIT 9) e) AS extension, \
     NULL::bigint AS hit";

const DIFFERED: &str = "SELECT EXISTS (SELECT FROM pgstencil.event \
     WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND outcome = 'differed')";

/// By day and definition. What was saved is measured against the build from nothing before it. A day is
/// one of UTC.
const TALLY: &str = "SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, project, definition, \
     count(*) FILTER (WHERE outcome = 'hit') AS hits, \
     count(*) FILTER (WHERE outcome = 'miss') AS misses, \
     count(*) FILTER (WHERE outcome = 'extended') AS extensions, \
     count(*) FILTER (WHERE outcome = 'fallback') AS fallbacks, \
     count(*) FILTER (WHERE outcome IN ('settled', 'verified')) AS comparisons, \
     count(*) FILTER (WHERE outcome = 'differed') AS differences, \
     count(*) FILTER (WHERE outcome = 'evicted') AS evictions, \
     count(*) FILTER (WHERE outcome IN ('failed', 'timed_out')) AS failures, \
     count(*) FILTER (WHERE outcome = 'timed_out') AS timeouts, \
     coalesce(sum(millis) FILTER (WHERE outcome IN ('failed', 'timed_out')), 0)::bigint AS failed_ms, \
     coalesce(sum(millis) FILTER (WHERE outcome IN ('hit', 'miss', 'extended', 'unsealed', 'fallback')), 0)::bigint AS spent_ms, \
     coalesce(sum(millis) FILTER (WHERE outcome IN ('settled', 'verified')), 0)::bigint AS compared_ms, \
     coalesce(sum(greatest(full_ms - millis, 0)) FILTER (WHERE outcome IN ('hit', 'extended')), 0)::bigint AS saved_ms \
     FROM (SELECT e.*, (SELECT b.millis FROM pgstencil.event b \
           WHERE b.project = e.project AND b.definition = e.definition AND b.id < e.id \
           AND b.outcome IN ('miss', 'settled', 'verified') ORDER BY b.id DESC LIMIT 1) AS full_ms \
           FROM pgstencil.event e WHERE ($1 IS NULL OR e.definition = $1) \
           AND ($2 IS NULL OR e.at > now() - make_interval(secs => $2))) of \
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";

/// What happened on one day with one definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Tally {
    /// `YYYY-MM-DD`, of UTC, by the server's clock.
    pub day: String,
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub definition: String,
    /// Templates that were there.
    pub hits: i64,
    /// Builds from nothing that somebody waited for.
    pub misses: i64,
    /// Builds on a copy of an older template.
    pub extensions: i64,
    /// Clones that no template could be copied for.
    pub fallbacks: i64,
    /// Builds from nothing beside a template, in the background or by `verify`.
    pub comparisons: i64,
    /// How many of them found an extended template to differ.
    pub differences: i64,
    /// Templates that were evicted.
    pub evictions: i64,
    /// Builds and extensions that failed or timed out.
    pub failures: i64,
    /// How many of them timed out.
    pub timeouts: i64,
    /// Milliseconds that the failed builds took.
    pub failed_ms: i64,
    /// Milliseconds that somebody waited for a template.
    pub spent_ms: i64,
    /// Milliseconds of the comparisons, which nobody waited for.
    pub compared_ms: i64,
    /// Milliseconds by which hits and extensions were shorter than the build from nothing before them.
    pub saved_ms: i64,
}

/// What the past says that things cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// The last build from nothing.
    pub full: Option<Duration>,
    /// An extension, the median of the last ones.
    pub extension: Option<Duration>,
    /// To find a ready template, the median of the last ones.
    pub hit: Option<Duration>,
}

struct NewEvent<'a> {
    project: &'a str,
    definition: &'a str,
    fingerprint: &'a Fingerprint,
    outcome: &'a str,
    millis: u64,
    files: Option<usize>,
}

impl NewEvent<'_> {
    fn insert(&self) -> Statement {
        sql::fill(
            INSERT,
            &[&self.project, &self.definition, &self.fingerprint, &self.outcome, &self.millis, &self.files],
        )
    }
}

/// A template that was found ready by somebody who looked at it.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// Number of its row.
    pub template: i64,
    /// Namespace.
    pub project: &'a str,
    /// Name of the definition.
    pub definition: &'a str,
    /// Of the template.
    pub fingerprint: &'a Fingerprint,
    /// How long that took.
    pub millis: u64,
    /// The project's limits, in case that others were noted before.
    pub limits: &'a EvictionSettings,
    /// The same.
    pub clone: &'a CloneSettings,
}

impl Hit<'_> {
    /// What notes it: to be sent with something else.
    pub fn statements(&self) -> [Statement; 3] {
        let event = NewEvent {
            project: self.project,
            definition: self.definition,
            fingerprint: self.fingerprint,
            outcome: "hit",
            millis: self.millis,
            files: None,
        };
        [
            template::touch(self.template, 1),
            event.insert(),
            eviction::renew(self.project, self.limits, self.clone),
        ]
    }
}

impl Registry {
    /// Notes an outcome and the milliseconds that it took.
    ///
    /// # Errors
    /// The driver's.
    pub async fn note_event(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
        outcome: &str,
        millis: u64,
        files: Option<usize>,
    ) -> Result<()> {
        let event = NewEvent { project, definition, fingerprint, outcome, millis, files };
        self.session().execute(event.insert()).await.doing(|| "note what happened in the registry".into())?;
        Ok(())
    }

    /// Notes that a template was found ready.
    ///
    /// # Errors
    /// The driver's.
    pub async fn note_hit(&mut self, hit: &Hit<'_>) -> Result<()> {
        self.session().send(hit.statements()).await.doing(|| "note a hit in the registry".into())?;
        Ok(())
    }

    /// What happened, by day and definition, oldest first; of all projects. `definition`: only of those
    /// of this name. `last`: only of so long ago.
    ///
    /// # Errors
    /// The driver's.
    pub async fn tallies(&mut self, definition: Option<&str>, last: Option<Duration>) -> Result<Vec<Tally>> {
        self.session()
            .rows(sql::fill(TALLY, &[&definition, &last.map(|d| d.as_secs_f64())]))
            .await
            .doing(|| "add up what happened".into())
    }

    /// Whether an extended template of this fingerprint was found to differ from a build from nothing.
    ///
    /// # Errors
    /// The driver's.
    pub async fn differed(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<bool> {
        self.session()
            .scalar(sql::fill(DIFFERED, &[&project, &definition, &fingerprint]))
            .await
            .doing(|| "read what became of extensions".into())
    }

    /// What a definition's hits, extensions and builds took so far.
    ///
    /// # Errors
    /// The driver's.
    pub async fn costs(&mut self, project: &str, definition: &str) -> Result<Costs> {
        self.costs_by(COSTS, project, definition).await
    }

    /// What extensions took of late, and the last build from nothing.
    ///
    /// # Errors
    /// The driver's.
    pub async fn recent_costs(&mut self, project: &str, definition: &str) -> Result<Costs> {
        self.costs_by(RECENT_COSTS, project, definition).await
    }

    async fn costs_by(&mut self, query: &'static str, project: &str, definition: &str) -> Result<Costs> {
        let (full, extension, hit): (Option<i64>, Option<i64>, Option<i64>) = self
            .session()
            .one(sql::fill(query, &[&project, &definition]))
            .await
            .doing(|| "read what builds took".into())?;
        let time = |millis: Option<i64>| Some(Duration::from_millis(u64::try_from(millis?).ok()?));
        Ok(Costs { full: time(full), extension: time(extension), hit: time(hit) })
    }
}
