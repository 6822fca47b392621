//! Time to rebuild a template, estimated from the builds on this server.

use crate::registry::eviction::BuildRow;

/// Costs of building one definition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Costs {
    /// Seconds of a full build.
    pub(super) full: f64,
    /// Seconds before an incremental build applies its first file: mostly the start of the migrate command.
    start: f64,
    /// Seconds for each file that an incremental build adds.
    each: f64,
}

/// Assumed cost of an incremental build as a share of a full build, until one was measured.
const START_SHARE: f64 = 0.05;

/// Assumed seconds of a full build, until one was measured.
const UNKNOWN: f64 = 60.0;

/// Number of the last incremental builds that count.
const LAST: usize = 50;

impl Costs {
    /// Computes the costs from `builds` of one definition, oldest first; `migrations` is the approximate number of
    /// files of its templates.
    pub(super) fn measured<'a>(builds: impl Iterator<Item = &'a BuildRow>, migrations: usize) -> Costs {
        let mut full = None;
        let mut extensions = Vec::new();
        for build in builds {
            let seconds = build.millis.seconds();
            match build.added {
                None => full = Some(seconds),
                Some(added) => extensions.push((f64::from(added), seconds)),
            }
        }
        let full = full.unwrap_or(UNKNOWN);
        let extensions = &extensions[extensions.len().saturating_sub(LAST)..];
        // No file takes longer than its share of a full build, nor than a whole incremental build.
        let most = extensions
            .iter()
            .filter(|(added, _)| *added > 0.0)
            .map(|(added, seconds)| seconds / added)
            .fold(full / migrations.max(1) as f64, f64::min);
        let each = slope(extensions).map_or(most, |each| each.clamp(0.0, most));
        let start = match extensions {
            [] => START_SHARE * full,
            some => median(some.iter().map(|(added, seconds)| seconds - each * added)).max(0.0),
        };
        Costs { full, start, each }
    }

    /// Returns the seconds of an incremental build that adds this number of files.
    pub(super) fn extension(&self, added: usize) -> f64 {
        self.start + self.each * added as f64
    }
}

/// Returns the slope of the least-squares line through the points; `None` if all points have the same x.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let joint: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    (spread > 0.0).then(|| joint / spread)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn build(added: Option<i32>, millis: u64) -> BuildRow {
        BuildRow {
            project: "shop".into(),
            definition: "app".into(),
            added,
            millis: Duration::from_millis(millis).into(),
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn start_and_file_are_told_apart() {
        let builds =
            [build(None, 100_000), build(Some(1), 3_100), build(Some(5), 3_500), build(Some(11), 4_100)];
        let costs = Costs::measured(builds.iter(), 200);
        assert!(near(costs.full, 100.0));
        assert!(near(costs.extension(0), 3.0), "{costs:?}");
        assert!(near(costs.extension(20), 5.0), "{costs:?}");
    }

    #[test]
    fn the_last_full_build_counts() {
        let builds = [build(None, 100_000), build(None, 50_000)];
        assert!(near(Costs::measured(builds.iter(), 1).full, 50.0));
    }

    #[test]
    fn without_measurements_there_are_guesses() {
        let costs = Costs::measured([].iter(), 100);
        assert!(near(costs.full, 60.0));
        assert!(near(costs.extension(10), 3.0 + 6.0));
        // All incremental builds added the same number of files: a file costs what it costs in a full build.
        let builds = [build(None, 10_000), build(Some(1), 2_100), build(Some(1), 2_100)];
        let costs = Costs::measured(builds.iter(), 100);
        assert!(near(costs.extension(1), 2.1) && near(costs.extension(11), 3.1));
    }

    #[test]
    fn noise_never_makes_files_cheaper_than_none() {
        let builds = [build(None, 10_000), build(Some(1), 9_000), build(Some(9), 1_000)];
        let costs = Costs::measured(builds.iter(), 100);
        assert!(costs.extension(0) <= costs.extension(50));
    }
}
