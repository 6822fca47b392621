//! What `stats` answers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::VERSION;
use crate::stencil::Tally;

/// What `stats` answers.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StatsAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// All together.
    pub total: Counts,
    /// By definition, sorted by project and name.
    pub templates: Vec<TemplateCounts>,
    /// By day of UTC, oldest first; days on which nothing happened are left out.
    pub days: Vec<DayCounts>,
}

/// What happened, and how long it took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
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
    /// Builds and extensions that failed or timed out, in the background, too.
    pub failures: i64,
    /// How many of them timed out.
    pub timeouts: i64,
    /// Milliseconds that the failed builds took.
    pub failed_ms: i64,
    /// Milliseconds that somebody waited for a template.
    pub spent_ms: i64,
    /// Milliseconds of the comparisons, which nobody waited for.
    pub compared_ms: i64,
    /// Milliseconds by which hits and extensions were shorter than the build from nothing before
    /// them.
    pub saved_ms: i64,
}

/// What happened with one definition.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TemplateCounts {
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub template: String,
    /// What happened.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What happened on one day.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DayCounts {
    /// `YYYY-MM-DD`
    pub day: String,
    /// What happened.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Counts {
    fn add(&mut self, tally: &Tally) {
        self.hits += tally.hits;
        self.misses += tally.misses;
        self.extensions += tally.extensions;
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
