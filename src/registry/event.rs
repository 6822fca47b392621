//! Bounded history of builds and requests, for expected times.

use std::time::Duration;

use sqlx::FromRow;

use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};
use crate::quantity::{Millis, Seconds};

use super::column::words;
use super::project::ProjectSettings;
use super::{Registry, template};

/// Rows are numbered, so their number limits how many are kept.
const INSERT: &str = "WITH new AS (INSERT INTO pgstencil.event (project, definition, fingerprint, outcome, millis, files) \
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING id) \
     DELETE FROM pgstencil.event e USING new WHERE new.id % 1000 = 0 AND e.id <= new.id - 10000";
/// Time of the last full build, and the median of the last other events, so that a single one on a busy machine
/// does not count indefinitely.
const COSTS: &str = include_str!("queries/costs.sql");
const DIFFERED: &str = "SELECT EXISTS (SELECT FROM pgstencil.event \
     WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND outcome = $4)";

/// Totals by day and definition. Time saved is measured against the full build before it. Days are in UTC.
const TALLY: &str = include_str!("queries/tally.sql");

/// Totals of one day and one definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub(crate) struct Tally {
    /// Day as `YYYY-MM-DD`, UTC, by the server's clock.
    pub(crate) day: String,
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Number of templates found ready.
    pub(crate) hits: i64,
    /// Number of full builds that a process waited for.
    pub(crate) misses: i64,
    /// Number of incremental builds.
    pub(crate) extensions: i64,
    /// Number of templates that were pulled from the remote store.
    pub(crate) pulls: i64,
    /// Number of full builds in two steps: those that built a waypoint first.
    pub(crate) waypoints: i64,
    /// Number of clones for which no template could be copied.
    pub(crate) fallbacks: i64,
    /// Number of full builds for comparison with a template, in the background or by `verify`.
    pub(crate) comparisons: i64,
    /// Number of comparisons in which an incrementally built template differed.
    pub(crate) differences: i64,
    /// Number of templates that were evicted.
    pub(crate) evictions: i64,
    /// Number of full and incremental builds that failed or timed out.
    pub(crate) failures: i64,
    /// Number of failures that were timeouts.
    pub(crate) timeouts: i64,
    /// Milliseconds that the failed builds took.
    pub(crate) failed_ms: i64,
    /// Milliseconds that processes waited for a template.
    pub(crate) spent_ms: i64,
    /// Milliseconds of the comparisons, which no process waited for.
    pub(crate) compared_ms: i64,
    /// Milliseconds by which hits and incremental builds were shorter than the full build before them.
    pub(crate) saved_ms: i64,
}

/// Age limit for the times of incremental builds in decisions: if slow ones counted longer, no new build would ever
/// show that they are faster now.
const RECENT: Duration = Duration::from_secs(24 * 60 * 60);

/// Expected costs by the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Costs {
    /// Time of the last full build.
    pub(crate) full: Option<Duration>,
    /// Time of an incremental build, the median of the last ones.
    pub(crate) extension: Option<Duration>,
    /// Time to find a ready template, the median of the last ones.
    pub(crate) hit: Option<Duration>,
}

words! {
    /// Kind of an entry of the history.
    pub(crate) enum Happened {
        /// It was found ready.
        Hit = "hit",
        /// It was built in full while a process waited.
        Miss = "miss",
        /// It was built on a copy of another one.
        Extended = "extended",
        /// It was pulled from the remote store.
        Pulled = "pulled",
        /// It was built by `build_until`, as the first step of a full build.
        Waypoint = "waypoint",
        /// Its build ended without a seal, since its new migrations changed nothing.
        Unsealed = "unsealed",
        /// It could not be copied, so the build command ran on the clone.
        Fallback = "fallback",
        /// A full build replaced an incrementally built template.
        Rebuilt = "settled",
        /// It was built in full once more, for a comparison.
        Verified = "verified",
        /// It was built incrementally, and differs from a full build.
        Differed = "differed",
        /// It was evicted.
        Evicted = "evicted",
        /// Its build failed.
        Failed = "failed",
        /// Its build exceeded the time limit.
        TimedOut = "timed_out",
    }
}

/// Events that end full builds.
pub(super) const FULL_BUILDS: Any<'_> = Any(&[Happened::Miss, Happened::Rebuilt, Happened::Verified]);

/// Renders `IN` conditions for some of these events.
pub(super) struct Any<'a>(&'a [Happened]);

impl sql::Literal for Any<'_> {
    fn literal(&self) -> String {
        let words: Vec<String> = self.0.iter().map(sql::Literal::literal).collect();
        format!("({})", words.join(", "))
    }
}

/// Entry of the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occurrence<'a> {
    /// Namespace.
    pub(crate) project: &'a str,
    /// Name of the definition.
    pub(crate) definition: &'a str,
    /// Fingerprint of the template.
    pub(crate) fingerprint: &'a Fingerprint,
    /// Kind of the entry.
    pub(crate) happened: Happened,
    /// Duration of the event.
    pub(crate) took: Duration,
    /// Number of files that an incremental build added.
    pub(crate) files: Option<usize>,
}

impl Occurrence<'_> {
    pub(super) fn insert(&self) -> Statement {
        let millis = Millis::from(self.took);
        sql::planned(
            "pgstencil_event",
            INSERT,
            &[&self.project, &self.definition, &self.fingerprint, &self.happened, &millis, &self.files],
        )
    }
}

/// Template that was found ready after a check.
#[derive(Clone, Debug)]
pub(crate) struct Hit<'a> {
    /// Number of its row.
    pub(crate) template: i64,
    /// Name of the definition.
    pub(crate) definition: &'a str,
    /// Fingerprint of the template.
    pub(crate) fingerprint: &'a Fingerprint,
    /// Duration of the lookup.
    pub(crate) took: Duration,
    /// Number of clones that are to be copied from it.
    pub(crate) clones: usize,
    /// The project's settings, in case the recorded ones differ.
    pub(crate) settings: ProjectSettings,
}

impl Hit<'_> {
    /// Returns the statements that record it, to be sent with another message.
    pub(crate) fn statements(&self) -> [Statement; 3] {
        let hit = Occurrence {
            project: &self.settings.name,
            definition: self.definition,
            fingerprint: self.fingerprint,
            happened: Happened::Hit,
            took: self.took,
            files: None,
        };
        [template::touch(self.template, 1, self.clones), hit.insert(), self.settings.note()]
    }
}

impl Registry {
    /// Adds an entry to the history.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note(&mut self, occurrence: &Occurrence<'_>) -> Result<()> {
        self.session()
            .execute(occurrence.insert())
            .await
            .doing(|| "record an event in the registry".into())?;
        Ok(())
    }

    /// Records that a template was found ready.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_hit(&mut self, hit: &Hit<'_>) -> Result<()> {
        self.session().send(hit.statements()).await.doing(|| "record a hit in the registry".into())?;
        Ok(())
    }

    /// Returns the totals by day and definition of all projects, oldest first. `definition`: only definitions of
    /// this name. `last`: only the last part of the history, of this duration.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn tallies(
        &mut self,
        definition: Option<&str>,
        last: Option<Duration>,
    ) -> Result<Vec<Tally>> {
        self.session()
            .rows(sql::fill(TALLY, &[&definition, &last.map(Seconds::from), &FULL_BUILDS]))
            .await
            .doing(|| "sum up the recorded events".into())
    }

    /// Returns whether an incrementally built template of this fingerprint differed from a full build.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn differed(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<bool> {
        self.session()
            .scalar(sql::fill(DIFFERED, &[&project, &definition, &fingerprint, &Happened::Differed]))
            .await
            .doing(|| "read the results of incremental builds".into())
    }

    /// Returns the times that a definition's hits, incremental and full builds took so far.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn costs(&mut self, project: &str, definition: &str) -> Result<Costs> {
        self.costs_by(project, definition, None).await
    }

    /// Returns the times of recent incremental builds, and of the last full build.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn recent_costs(&mut self, project: &str, definition: &str) -> Result<Costs> {
        self.costs_by(project, definition, Some(RECENT)).await
    }

    async fn costs_by(
        &mut self,
        project: &str,
        definition: &str,
        extensions: Option<Duration>,
    ) -> Result<Costs> {
        let within = extensions.map(Seconds::from);
        let (full, extension, hit): (Option<Millis>, Option<Millis>, Option<Millis>) = self
            .session()
            .one(sql::fill(
                COSTS,
                &[&project, &definition, &FULL_BUILDS, &Happened::Extended, &Happened::Hit, &within],
            ))
            .await
            .doing(|| "read the durations of builds".into())?;
        let [full, extension, hit] = [full, extension, hit].map(|millis| millis.map(Millis::duration));
        Ok(Costs { full, extension, hit })
    }
}
