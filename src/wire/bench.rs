//! JSON answer of `bench`.

use serde::Serialize;

use super::VERSION;
use crate::bench::{Bench, Cost};
use crate::config::Strategy;
use crate::pg::sql::CopyStrategy;

/// Costs of copies of a template.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BenchAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Name of the definition.
    pub template: String,
    /// Fingerprint of the template.
    pub fingerprint: String,
    /// `server_version_num`, e.g. 150018.
    pub server_version: u32,
    /// Value of the server's `fsync`.
    pub fsync: bool,
    /// Size of the database that was copied.
    pub bytes: i64,
    /// Approximate number of its files.
    pub files: i64,
    /// Number of rounds that the medians come from.
    pub rounds: usize,
    /// Costs by strategy.
    pub strategies: Vec<CostAnswer>,
    /// `[clone] strategy`
    pub configured: &'static str,
    /// The strategy that this led to before the measurement.
    pub before: &'static str,
    /// The strategy that `auto` uses from now on for databases of about this size.
    pub recommended: &'static str,
}

/// Costs of one strategy; medians in milliseconds, null where the server cannot use it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CostAnswer {
    /// `wal_log`, `file_copy`, `reflink`, or `only` before PostgreSQL 15.
    pub strategy: &'static str,
    /// Time of `CREATE DATABASE`.
    pub create_ms: Option<f64>,
    /// Time of the first connection.
    pub connect_ms: Option<f64>,
    /// Time of the drop.
    pub drop_ms: Option<f64>,
    /// Reason why the server cannot use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl From<&Cost> for CostAnswer {
    fn from(cost: &Cost) -> Self {
        let millis = |d: std::time::Duration| {
            let ms = (d.as_secs_f64() * 1e5).round() / 1e2;
            cost.refused.is_none().then_some(ms)
        };
        CostAnswer {
            strategy: cost.strategy.as_str(),
            create_ms: millis(cost.create),
            connect_ms: millis(cost.connect),
            drop_ms: millis(cost.drop),
            refused: cost.refused.clone(),
        }
    }
}

impl BenchAnswer {
    /// Creates the answer for a template.
    pub(crate) fn new(template: &str, fingerprint: &str, bench: &Bench) -> Self {
        BenchAnswer {
            version: VERSION,
            template: template.to_owned(),
            fingerprint: fingerprint.to_owned(),
            server_version: bench.version,
            fsync: bench.fsync,
            bytes: bench.bytes,
            files: bench.files,
            rounds: bench.rounds,
            strategies: bench.costs.iter().map(CostAnswer::from).collect(),
            configured: word(bench.wanted),
            before: bench.before.as_str(),
            recommended: bench.best.as_str(),
        }
    }

    /// Returns whether the config names a strategy that was not the best.
    pub(crate) fn could_be_better(&self) -> bool {
        self.configured != word(Strategy::Auto)
            && self.recommended != CopyStrategy::Only.as_str()
            && self.before != self.recommended
    }
}

fn word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Auto => "auto",
        Strategy::WalLog => "wal_log",
        Strategy::FileCopy => "file_copy",
        Strategy::Reflink => "reflink",
    }
}
