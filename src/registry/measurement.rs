//! Rows of `pgstencil.measurement`: measured times of copies on this server.

use sqlx::FromRow;

use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql::{self, CopyStrategy};

use super::Registry;

/// Measured time of a copy of one size by one strategy.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub(crate) struct Measurement {
    /// Strategy of the copy.
    pub(crate) strategy: CopyStrategy,
    /// Size of the database.
    pub(crate) bytes: i64,
    /// Approximate number of its files.
    pub(crate) files: i64,
    /// Milliseconds; infinite if the server does not support the strategy.
    pub(crate) millis: f64,
    /// Number of copies whose best or median time `millis` is.
    pub(crate) samples: i64,
}

const ALL: &str =
    "SELECT strategy, bytes, files, millis, samples FROM pgstencil.measurement WHERE fsync = $1";
const NOTE: &str = "INSERT INTO pgstencil.measurement (strategy, bytes, files, fsync, millis, samples) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (strategy, bytes, files, fsync) \
     DO UPDATE SET millis = excluded.millis, samples = excluded.samples, at = now()";
/// Sizes change with every migration, so old measurements are of no use.
const TRIM: &str = "DELETE FROM pgstencil.measurement WHERE at < \
     (SELECT at FROM pgstencil.measurement ORDER BY at DESC OFFSET 100 LIMIT 1)";

impl Measurement {
    /// Returns whether it is of this strategy.
    pub(crate) fn is(&self, strategy: CopyStrategy) -> bool {
        self.strategy == strategy
    }
}

impl Registry {
    /// Returns the measurements that were taken with this setting of the server's `fsync`.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn measurements(&mut self, fsync: bool) -> Result<Vec<Measurement>> {
        self.session()
            .rows(sql::fill(ALL, &[&fsync]))
            .await
            .doing(|| "read the measurements of copies".into())
    }

    /// Records a measurement; it replaces an older one of the same size.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_measurement(&mut self, measurement: &Measurement) -> Result<()> {
        let fsync = self.facts().fsync;
        self.session()
            .execute(sql::fill(
                NOTE,
                &[
                    &measurement.strategy,
                    &measurement.bytes,
                    &measurement.files,
                    &fsync,
                    &measurement.millis,
                    &measurement.samples,
                ],
            ))
            .await
            .doing(|| "record the measurement of a copy".into())?;
        self.session().execute(sql::fill(TRIM, &[])).await.doing(|| "delete old measurements".into())?;
        Ok(())
    }
}
