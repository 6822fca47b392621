//! What happened: bounded history for expected times.

use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::Doing as _;

use super::Registry;

const INSERT: &str = "INSERT INTO pgstencil.event (project, definition, fingerprint, outcome, millis) \
     VALUES ($1, $2, $3, $4, $5) RETURNING id";
/// Rows are numbered, so their number is a bound by itself.
const TRIM: &str = "DELETE FROM pgstencil.event WHERE id <= $1 - 10000";
const LAST_BUILD: &str = "SELECT millis FROM pgstencil.event \
     WHERE project = $1 AND definition = $2 AND outcome = 'miss' ORDER BY id DESC LIMIT 1";

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
    ) -> Result<()> {
        let doing = || "note what happened in the registry".to_owned();
        let id: i64 = sqlx::query_scalar(INSERT)
            .bind(project)
            .bind(definition)
            .bind(fingerprint.to_string())
            .bind(outcome)
            .bind(millis as i64)
            .fetch_one(self.session().connection())
            .await
            .doing(doing)?;
        if id % 1000 == 0 {
            sqlx::query(TRIM)
                .bind(id)
                .execute(self.session().connection())
                .await
                .doing(doing)?;
        }
        Ok(())
    }

    /// Milliseconds that the definition's last full build took.
    ///
    /// # Errors
    /// The driver's.
    pub async fn last_build_millis(
        &mut self,
        project: &str,
        definition: &str,
    ) -> Result<Option<u64>> {
        let millis: Option<i64> = sqlx::query_scalar(LAST_BUILD)
            .bind(project)
            .bind(definition)
            .fetch_optional(self.session().connection())
            .await
            .doing(|| "read the last build's time".into())?;
        Ok(millis.map(|m| m as u64))
    }
}
