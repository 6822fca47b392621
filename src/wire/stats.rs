//! JSON answer of `stats`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::VERSION;
use crate::stencil::Tally;

/// Answer of `stats`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StatsAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Total of all definitions.
    pub total: Counts,
    /// Counts by definition, sorted by project and name.
    pub templates: Vec<TemplateCounts>,
    /// Counts by day of UTC, oldest first; days without events are left out.
    pub days: Vec<DayCounts>,
}

/// Numbers of events, and their durations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Number of hits: the template was ready.
    pub hits: i64,
    /// Number of full builds that a command waited for.
    pub misses: i64,
    /// Number of builds on a copy of an older template.
    pub extensions: i64,
    /// Number of templates that were pulled from the remote store, bases included.
    pub pulls: i64,
    /// Number of those of `misses` that built a waypoint first, and of waypoints that were kept though the second step
    /// failed.
    pub waypoints: i64,
    /// Number of clones for which no template could be copied.
    pub fallbacks: i64,
    /// Number of full builds in addition to a template, in the background or by `verify`.
    pub comparisons: i64,
    /// Number of comparisons in which an incrementally built template differed.
    pub differences: i64,
    /// Number of evicted templates.
    pub evictions: i64,
    /// Number of builds of either kind that failed or timed out, in the background, too.
    pub failures: i64,
    /// Number of failures by timeout.
    pub timeouts: i64,
    /// Milliseconds of the failed builds.
    pub failed_ms: i64,
    /// Milliseconds that commands waited for a template.
    pub spent_ms: i64,
    /// Milliseconds of the comparisons, for which no command waited.
    pub compared_ms: i64,
    /// Milliseconds by which hits, pulls and incremental builds were shorter than the full build before them.
    pub saved_ms: i64,
    /// Milliseconds of builds that machines were spared: `saved_ms` less `compared_ms`. Negative if the comparisons
    /// took more than was saved.
    pub net_ms: i64,
}

/// Events of one definition.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TemplateCounts {
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub template: String,
    /// Numbers of events.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Events of one day.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DayCounts {
    /// `YYYY-MM-DD`
    pub day: String,
    /// Numbers of events.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Counts {
    fn add(&mut self, tally: &Tally) {
        self.hits += tally.hits;
        self.misses += tally.misses;
        self.extensions += tally.extensions;
        self.pulls += tally.pulls;
        self.waypoints += tally.waypoints;
        self.fallbacks += tally.fallbacks;
        self.comparisons += tally.comparisons;
        self.differences += tally.differences;
        self.evictions += tally.evictions;
        self.failures += tally.failures;
        self.timeouts += tally.timeouts;
        self.failed_ms += tally.failed_ms;
        self.spent_ms += tally.spent_ms;
        self.compared_ms += tally.compared_ms;
        self.saved_ms += tally.saved_ms;
        self.net_ms += tally.saved_ms - tally.compared_ms;
    }
}

impl From<&[Tally]> for StatsAnswer {
    fn from(tallies: &[Tally]) -> Self {
        let mut total = Counts::default();
        let mut templates: BTreeMap<(&str, &str), Counts> = BTreeMap::new();
        let mut days: BTreeMap<&str, Counts> = BTreeMap::new();
        for tally in tallies {
            total.add(tally);
            let key = (tally.project.as_str(), tally.definition.as_str());
            templates.entry(key).or_default().add(tally);
            days.entry(&tally.day).or_default().add(tally);
        }
        StatsAnswer {
            version: VERSION,
            total,
            templates: templates
                .into_iter()
                .map(|((project, template), counts)| TemplateCounts {
                    project: project.to_owned(),
                    template: template.to_owned(),
                    counts,
                })
                .collect(),
            days: days.into_iter().map(|(day, counts)| DayCounts { day: day.to_owned(), counts }).collect(),
        }
    }
}
