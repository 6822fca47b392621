//! What happened: bounded history for expected times.

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

/// Rows are numbered, so their number is a bound by itself.
const INSERT: &str = "WITH new AS (INSERT INTO pgstencil.event (project, definition, fingerprint, outcome, millis, files) \
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING id) \
     DELETE FROM pgstencil.event e USING new WHERE new.id % 1000 = 0 AND e.id <= new.id - 10000";
/// The last build; of the others the median of the last ones, so that one on a busy machine does not
/// count for ever.
const COSTS: &str = include_str!("queries/costs.sql");
const DIFFERED: &str = "SELECT EXISTS (SELECT FROM pgstencil.event \
     WHERE project = $1 AND definition = $2 AND fingerprint = $3 AND outcome = $4)";

/// By day and definition. What was saved is measured against the build from nothing before it. A day is
/// one of UTC.
const TALLY: &str = include_str!("queries/tally.sql");

/// What happened on one day with one definition.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub(crate) struct Tally {
    /// `YYYY-MM-DD`, of UTC, by the server's clock.
    pub(crate) day: String,
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Templates that were there.
    pub(crate) hits: i64,
    /// Builds from nothing that somebody waited for.
    pub(crate) misses: i64,
    /// Builds on a copy of an older template.
    pub(crate) extensions: i64,
    /// Clones that no template could be copied for.
    pub(crate) fallbacks: i64,
    /// Builds from nothing beside a template, in the background or by `verify`.
    pub(crate) comparisons: i64,
    /// How many of them found an extended template to differ.
    pub(crate) differences: i64,
    /// Templates that were evicted.
    pub(crate) evictions: i64,
    /// Builds and extensions that failed or timed out.
    pub(crate) failures: i64,
    /// How many of them timed out.
    pub(crate) timeouts: i64,
    /// Milliseconds that the failed builds took.
    pub(crate) failed_ms: i64,
    /// Milliseconds that somebody waited for a template.
    pub(crate) spent_ms: i64,
    /// Milliseconds of the comparisons, which nobody waited for.
    pub(crate) compared_ms: i64,
    /// Milliseconds by which hits and extensions were shorter than the build from nothing before them.
    pub(crate) saved_ms: i64,
}

/// What extensions took counts for a day where it decides: nothing else would ever show that they take less now.
const RECENT: Duration = Duration::from_secs(24 * 60 * 60);

/// What the past says that things cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Costs {
    /// The last build from nothing.
    pub(crate) full: Option<Duration>,
    /// An extension, the median of the last ones.
    pub(crate) extension: Option<Duration>,
    /// To find a ready template, the median of the last ones.
    pub(crate) hit: Option<Duration>,
}

words! {
    /// What happened with a template, as the history has it.
    pub(crate) enum Happened {
        /// It was found ready.
        Hit = "hit",
        /// It was built from nothing while somebody waited.
        Miss = "miss",
        /// It was built on a copy of another one.
        Extended = "extended",
        /// It was built, and not sealed, since its new migrations changed nothing.
        Unsealed = "unsealed",
        /// It could not be copied, so the build command ran on the clone.
        Fallback = "fallback",
        /// A build from nothing took the place of an extended template.
        Settled = "settled",
        /// It was built from nothing once more, to be compared.
        Verified = "verified",
        /// It was extended, and differs from a build from nothing.
        Differed = "differed",
        /// It was evicted.
        Evicted = "evicted",
        /// Its build failed.
        Failed = "failed",
        /// Its build took longer than it may.
        TimedOut = "timed_out",
    }
}

/// What builds from nothing end with.
pub(super) const FULL_BUILDS: Any<'_> = Any(&[Happened::Miss, Happened::Settled, Happened::Verified]);

/// `IN` what statements ask for some of these.
pub(super) struct Any<'a>(&'a [Happened]);

impl sql::Literal for Any<'_> {
    fn literal(&self) -> String {
        let words: Vec<String> = self.0.iter().map(sql::Literal::literal).collect();
        format!("({})", words.join(", "))
    }
}

/// One entry of the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occurrence<'a> {
    /// Namespace.
    pub(crate) project: &'a str,
    /// Name of the definition.
    pub(crate) definition: &'a str,
    /// Of the template.
    pub(crate) fingerprint: &'a Fingerprint,
    /// What happened.
    pub(crate) happened: Happened,
    /// How long that took.
    pub(crate) took: Duration,
    /// How many files were added, if it was extended.
    pub(crate) files: Option<usize>,
}

impl Occurrence<'_> {
    fn insert(&self) -> Statement {
        let millis = Millis::from(self.took);
        sql::fill(
            INSERT,
            &[&self.project, &self.definition, &self.fingerprint, &self.happened, &millis, &self.files],
        )
    }
}

/// A template that was found ready by somebody who looked at it.
#[derive(Clone, Debug)]
pub(crate) struct Hit<'a> {
    /// Number of its row.
    pub(crate) template: i64,
    /// Name of the definition.
    pub(crate) definition: &'a str,
    /// Of the template.
    pub(crate) fingerprint: &'a Fingerprint,
    /// How long that took.
    pub(crate) took: Duration,
    /// The project's settings, in case that others were noted before.
    pub(crate) settings: ProjectSettings,
}

impl Hit<'_> {
    /// What notes it: to be sent with something else.
    pub(crate) fn statements(&self) -> [Statement; 3] {
        let hit = Occurrence {
            project: &self.settings.name,
            definition: self.definition,
            fingerprint: self.fingerprint,
            happened: Happened::Hit,
            took: self.took,
            files: None,
        };
        [template::touch(self.template, 1), hit.insert(), self.settings.note()]
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
            .doing(|| "note what happened in the registry".into())?;
        Ok(())
    }

    /// Notes that a template was found ready.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_hit(&mut self, hit: &Hit<'_>) -> Result<()> {
        self.session().send(hit.statements()).await.doing(|| "note a hit in the registry".into())?;
        Ok(())
    }

    /// What happened, by day and definition, oldest first; of all projects. `definition`: only of those
    /// of this name. `last`: only of so long ago.
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
            .doing(|| "add up what happened".into())
    }

    /// Whether an extended template of this fingerprint was found to differ from a build from nothing.
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
            .doing(|| "read what became of extensions".into())
    }

    /// What a definition's hits, extensions and builds took so far.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn costs(&mut self, project: &str, definition: &str) -> Result<Costs> {
        self.costs_by(project, definition, None).await
    }

    /// What extensions took of late, and the last build from nothing.
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
            .doing(|| "read what builds took".into())?;
        let [full, extension, hit] = [full, extension, hit].map(|millis| millis.map(Millis::duration));
        Ok(Costs { full, extension, hit })
    }
}
