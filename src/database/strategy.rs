//! Choice of the copy strategy: by the config, by measurements on this server, or by a rule.
//!
//! The choice depends on the number of files and bytes, whether the server syncs, and whether its file system
//! shares blocks. None of these shows the cost of a copy on a given disk: so `pgstencil bench` measures it, and a
//! process that creates warm clones also tests whether copies with shared blocks are faster.

use std::path::Path;

use crate::config::Strategy;
use crate::context::Context;
use crate::error::Result;
use crate::pg::catalog;
use crate::pg::sql::CopyStrategy;
use crate::private_server::disk;
use crate::registry::Registry;
use crate::registry::measurement::Measurement;

/// Chooser for the databases of one template or clone.
#[derive(Clone, Debug)]
pub(crate) struct Chooser {
    major: u32,
    fsync: bool,
    wanted: Strategy,
    measured: Vec<Measurement>,
    /// Free bytes on the server's disk, if that is this machine's.
    free: Option<u64>,
}

/// Size below which it does not matter whether blocks are shared.
const PROBED: i64 = 32_000_000;

impl Chooser {
    /// Reads the data for the choice. `full`: the server's disk was found full just now.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn read(registry: &mut Registry, context: &Context<'_>, full: bool) -> Result<Self> {
        let facts = registry.facts().clone();
        let mut chooser = Chooser {
            major: facts.major(),
            fsync: facts.fsync,
            wanted: context.clone_settings.strategy,
            measured: Vec::new(),
            free: full.then_some(0),
        };
        if chooser.wanted == Strategy::Auto && chooser.major >= 15 {
            chooser.measured = registry.measurements(facts.fsync).await?;
            // Without fsync the WAL is chosen only if it was measured to be faster.
            if !full && (facts.fsync || !chooser.measured.is_empty()) {
                let data = catalog::data_directory(registry.session()).await?;
                chooser.free = data.and_then(|data| disk::look(Path::new(&data))).map(|d| d.free);
            }
        }
        Ok(chooser)
    }

    /// Returns the strategy to copy a database of this size.
    pub(crate) fn choose(&self, bytes: i64, files: i64) -> CopyStrategy {
        if self.major < 15 {
            return CopyStrategy::Only;
        }
        match self.wanted {
            Strategy::WalLog => CopyStrategy::WalLog,
            Strategy::FileCopy => CopyStrategy::FileCopy,
            Strategy::Reflink if self.major >= 18 => CopyStrategy::Reflink,
            Strategy::Reflink => CopyStrategy::FileCopy,
            Strategy::Auto => self.auto(bytes, files),
        }
    }

    fn auto(&self, bytes: i64, files: i64) -> CopyStrategy {
        let like = self.like(bytes, files);
        let millis = |strategy| like.iter().find(|m| m.is(strategy)).map(|m| m.millis);
        let (file, wal, shared) = (
            millis(CopyStrategy::FileCopy),
            millis(CopyStrategy::WalLog),
            millis(CopyStrategy::Reflink).filter(|_| self.major >= 18),
        );
        // A copy through the WAL that fills the disk stops the whole server.
        let tight = self.is_tight(bytes);
        let through_wal = match (wal, file) {
            _ if tight => false,
            (Some(wal), Some(file)) => wal < file,
            _ => self.rule(bytes, files),
        };
        let best = if through_wal { wal } else { file };
        match (shared, best.or(file)) {
            // Sharing blocks succeeds everywhere, and is a plain copy where the file system does not support it:
            // only a clear gain counts.
            (Some(shared), Some(best)) if shared < 0.8 * best => CopyStrategy::Reflink,
            _ if through_wal => CopyStrategy::WalLog,
            _ => CopyStrategy::FileCopy,
        }
    }

    /// Returns the measurements of the nearest size, if it is near enough.
    fn like(&self, bytes: i64, files: i64) -> Vec<&Measurement> {
        let distance = |m: &&Measurement| {
            let apart = |a: i64, b: i64| ((a.max(1) as f64) / (b.max(1) as f64)).ln().abs();
            apart(m.bytes, bytes) + apart(m.files, files)
        };
        let nearest = self
            .measured
            .iter()
            .filter(|m| distance(m) < f64::ln(3.0))
            .min_by(|a, b| distance(a).total_cmp(&distance(b)));
        match nearest {
            None => Vec::new(),
            Some(nearest) => self
                .measured
                .iter()
                .filter(|m| (m.bytes, m.files) == (nearest.bytes, nearest.files))
                .collect(),
        }
    }

    fn is_tight(&self, bytes: i64) -> bool {
        let copy = u64::try_from(bytes).unwrap_or_default();
        let needed = copy.saturating_mul(2).max(100_000_000);
        self.free.is_some_and(|free| free < needed)
    }

    /// Applies the rule measured on other servers: without fsync FILE_COPY is always faster; with it, WAL_LOG is
    /// faster while there is little data in many files, since FILE_COPY syncs each file and forces two checkpoints
    /// on the whole server.
    fn rule(&self, bytes: i64, files: i64) -> bool {
        self.fsync && bytes / 1_000_000 < files.max(300) / 8
    }

    /// Returns the strategies to test additionally, since it is not known yet whether they pay off: a plain copy
    /// for comparison, and two that share blocks, since the first of those may have to wait until the template's
    /// own blocks are written.
    pub(crate) fn unknown(&self, bytes: i64, files: i64) -> Vec<CopyStrategy> {
        if self.wanted != Strategy::Auto || self.major < 18 || bytes < PROBED {
            return Vec::new();
        }
        let like = self.like(bytes, files);
        let samples = |strategy| {
            let known = like.iter().find(|m| m.is(strategy));
            known.map_or(0, |m| if m.millis.is_finite() { m.samples } else { 2 })
        };
        let plain = samples(CopyStrategy::FileCopy).min(1);
        let shared = samples(CopyStrategy::Reflink).min(2);
        [CopyStrategy::FileCopy]
            .into_iter()
            .skip(usize::try_from(plain).unwrap_or_default())
            .chain((shared..2).map(|_| CopyStrategy::Reflink))
            .collect()
    }

    /// Returns the measurement with one more copy of this size; only the best time counts. Other similar sizes keep
    /// theirs.
    pub(crate) fn sample(&self, strategy: CopyStrategy, size: (i64, i64), millis: f64) -> Measurement {
        // If there is a similar measurement, `like` will find it again.
        let like = self.like(size.0, size.1);
        let (bytes, files) = like.first().map_or(size, |m| (m.bytes, m.files));
        let known = like.iter().find(|m| m.is(strategy));
        Measurement {
            strategy,
            bytes,
            files,
            millis: known.map_or(millis, |m| m.millis.min(millis)),
            samples: known.map_or(1, |m| m.samples + 1),
        }
    }

    /// Returns a chooser that always chooses this strategy.
    pub(crate) fn forced(&self, strategy: CopyStrategy) -> Self {
        let wanted = match strategy {
            CopyStrategy::WalLog => Strategy::WalLog,
            CopyStrategy::Reflink => Strategy::Reflink,
            CopyStrategy::FileCopy | CopyStrategy::Only => Strategy::FileCopy,
        };
        Chooser { wanted, ..self.clone() }
    }

    /// Returns a chooser that uses the measurements, whatever the config specifies.
    pub(crate) fn automatic(&self) -> Self {
        Chooser { wanted: Strategy::Auto, ..self.clone() }
    }

    /// Adds a measurement.
    pub(crate) fn learn(&mut self, new: Measurement) {
        self.measured
            .retain(|old| (old.bytes, old.files, old.strategy) != (new.bytes, new.files, new.strategy));
        self.measured.push(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: i64 = 1_000_000;

    fn chooser(major: u32, fsync: bool) -> Chooser {
        Chooser { major, fsync, wanted: Strategy::Auto, measured: Vec::new(), free: None }
    }

    fn measured(strategy: CopyStrategy, bytes: i64, millis: f64) -> Measurement {
        Measurement { strategy, bytes, files: 400, millis, samples: 7 }
    }

    #[test]
    fn by_rule() {
        assert_eq!(chooser(14, true).choose(MB, 300), CopyStrategy::Only);
        let off = chooser(15, false);
        assert_eq!(off.choose(8 * MB, 300), CopyStrategy::FileCopy);
        assert_eq!(off.choose(61 * MB, 4_000), CopyStrategy::FileCopy);
        let on = chooser(15, true);
        assert_eq!(on.choose(8 * MB, 300), CopyStrategy::WalLog);
        assert_eq!(on.choose(61 * MB, 4_000), CopyStrategy::WalLog);
        assert_eq!(on.choose(100 * MB, 400), CopyStrategy::FileCopy);
    }

    #[test]
    fn never_through_the_wal_when_the_disk_is_nearly_full() {
        let on = |free| Chooser { free: Some(free), ..chooser(15, true) };
        assert_eq!(on(1_000_000_000).choose(8 * MB, 300), CopyStrategy::WalLog);
        assert_eq!(on(99_000_000).choose(8 * MB, 300), CopyStrategy::FileCopy);
        let mut measured_faster = on(0);
        measured_faster.learn(measured(CopyStrategy::FileCopy, 8 * MB, 50.0));
        measured_faster.learn(measured(CopyStrategy::WalLog, 8 * MB, 20.0));
        assert_eq!(measured_faster.choose(8 * MB, 400), CopyStrategy::FileCopy);
    }

    #[test]
    fn what_was_measured_of_a_like_size_counts() {
        let mut on = chooser(18, true);
        on.learn(measured(CopyStrategy::FileCopy, 8 * MB, 20.0));
        on.learn(measured(CopyStrategy::WalLog, 8 * MB, 50.0));
        on.learn(measured(CopyStrategy::FileCopy, 500 * MB, 800.0));
        on.learn(measured(CopyStrategy::WalLog, 500 * MB, 1_100.0));
        on.learn(measured(CopyStrategy::Reflink, 500 * MB, 70.0));
        assert_eq!(on.choose(9 * MB, 400), CopyStrategy::FileCopy);
        assert_eq!(on.choose(400 * MB, 420), CopyStrategy::Reflink);
        // Too far from both.
        assert_eq!(on.choose(61 * MB, 4_000), CopyStrategy::WalLog);
    }

    #[test]
    fn sharing_blocks_must_pay_clearly() {
        let mut off = chooser(18, false);
        off.learn(measured(CopyStrategy::FileCopy, 500 * MB, 200.0));
        off.learn(measured(CopyStrategy::Reflink, 500 * MB, 190.0));
        assert_eq!(off.choose(500 * MB, 400), CopyStrategy::FileCopy);
        off.learn(measured(CopyStrategy::Reflink, 500 * MB, 20.0));
        assert_eq!(off.choose(500 * MB, 400), CopyStrategy::Reflink);
        let mut older = chooser(17, false);
        older.learn(measured(CopyStrategy::FileCopy, 500 * MB, 200.0));
        older.learn(measured(CopyStrategy::Reflink, 500 * MB, 20.0));
        assert_eq!(older.choose(500 * MB, 400), CopyStrategy::FileCopy);
    }

    #[test]
    fn what_nobody_knows_is_tried_on_the_side() {
        use CopyStrategy::{FileCopy, Reflink};
        let mut off = chooser(18, false);
        let size = (500 * MB, 400);
        assert_eq!(off.unknown(8 * MB, 400), []);
        assert_eq!(off.unknown(size.0, size.1), [FileCopy, Reflink, Reflink]);
        off.learn(off.sample(FileCopy, size, 450.0));
        // It had to wait for the disk.
        off.learn(off.sample(Reflink, size, 420.0));
        assert_eq!(off.choose(size.0, size.1), FileCopy);
        // The next template is a little larger.
        let size = (510 * MB, 402);
        assert_eq!(off.unknown(size.0, size.1), [Reflink]);
        off.learn(off.sample(Reflink, size, 16.0));
        assert_eq!(off.unknown(size.0, size.1), []);
        assert_eq!(off.choose(size.0, size.1), Reflink);
        // A server that does not support it is not tested again.
        let mut cannot = chooser(18, false);
        cannot.learn(cannot.sample(FileCopy, size, 450.0));
        cannot.learn(cannot.sample(Reflink, size, f64::INFINITY));
        assert_eq!(cannot.unknown(size.0, size.1), []);
        assert_eq!(cannot.choose(size.0, size.1), FileCopy);
    }
}
