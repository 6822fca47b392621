//! Rows of `pgstencil.measurement`: what copies cost on this server.

use sqlx::FromRow;

use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql::{self, CopyStrategy};

use super::Registry;

/// What a copy of one size took by one strategy.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub(crate) struct Measurement {
    /// How it was copied.
    pub(crate) strategy: CopyStrategy,
    /// Size of the database.
    pub(crate) bytes: i64,
    /// Number of its files, about.
    pub(crate) files: i64,
    /// Milliseconds; infinite if the server cannot do it.
    pub(crate) millis: f64,
    /// How many copies that is the best, or the median, of.
    pub(crate) samples: i64,
}

const ALL: &str =
    "SELECT strategy, bytes, files, millis, samples FROM pgstencil.measurement WHERE fsync = $1";
const NOTE: &str = "INSERT INTO pgstencil.measurement (strategy, bytes, files, fsync, millis, samples) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (strategy, bytes, files, fsync) \
     DO UPDATE SET millis = excluded.millis, samples = excluded.samples, at = now()";
/// Sizes change with every migration, so those of long ago are no use.
const TRIM: &str = "DELETE FROM pgstencil.measurement WHERE at < \
     (SELECT at FROM pgstencil.measurement ORDER BY at DESC OFFSET 100 LIMIT 1)";

impl Measurement {
    /// Whether it is of this strategy.
    pub(crate) fn is(&self, strategy: CopyStrategy) -> bool {
        self.strategy == strategy
    }
}

impl Registry {
    /// What was measured while the server's `fsync` was like this.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn measurements(&mut self, fsync: bool) -> Result<Vec<Measurement>> {
        self.session()
            .rows(sql::fill(ALL, &[&fsync]))
            .await
            .doing(|| "read what copies were measured to cost".into())
    }

    /// Notes a measurement, in the place of an older one of the same size.
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
            .doing(|| "note what a copy costs".into())?;
        self.session().execute(sql::fill(TRIM, &[])).await.doing(|| "forget old measurements".into())?;
        Ok(())
    }
}
