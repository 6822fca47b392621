//! Failed attempts: an incremental build failed, and so did the full build after it.

use std::time::Duration;

use crate::error::Result;
use crate::fingerprint::RelPath;
use crate::pg::Doing as _;
use crate::pg::sql;

use super::{Holder, Registry};

/// An owner's attempt to add migrations to a template.
#[derive(Clone, Debug)]
pub(crate) struct Attempt<'a> {
    project: &'a str,
    definition: &'a str,
    /// Hash of the owner.
    owner: String,
    /// Hash of the paths of the migrations.
    files: String,
}

const NOTE: &str = "WITH old AS (DELETE FROM pgstencil.failure WHERE at < now() - interval '1 day') \
     INSERT INTO pgstencil.failure (project, definition, owner, files) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (project, definition, owner, files) DO UPDATE SET at = now()";
const FORGET: &str = "DELETE FROM pgstencil.failure \
     WHERE project = $1 AND definition = $2 AND owner = $3 AND files = $4";
const AGO: &str = "SELECT extract(epoch FROM now() - at)::float8 FROM pgstencil.failure \
     WHERE project = $1 AND definition = $2 AND owner = $3 AND files = $4";

impl<'a> Attempt<'a> {
    /// `role` and `holder`: the owner that tries; only the holder's checkout counts, which outlives the process.
    /// `added`: the new migrations, whatever they contain.
    pub(crate) fn new(
        project: &'a str,
        definition: &'a str,
        role: &str,
        holder: &Holder,
        added: &[RelPath],
    ) -> Self {
        let checkout = &holder.checkout;
        let place: &[&str] = match checkout.owner.as_str() {
            "" => &[&checkout.machine, &checkout.top, &checkout.below],
            owner => &[owner],
        };
        let mut owner = blake3::Hasher::new();
        for text in [role].iter().chain(place) {
            owner.update(text.as_bytes()).update(b"\0");
        }
        let mut files = blake3::Hasher::new();
        for path in added {
            files.update(path.as_bytes()).update(b"\0");
        }
        Attempt {
            project,
            definition,
            owner: owner.finalize().to_hex().to_string(),
            files: files.finalize().to_hex().to_string(),
        }
    }

    fn values(&self) -> [&dyn sql::Literal; 4] {
        [&self.project, &self.definition, &self.owner, &self.files]
    }
}

impl Registry {
    /// Records that an attempt failed.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_failure(&mut self, attempt: &Attempt<'_>) -> Result<()> {
        self.session()
            .execute(sql::fill(NOTE, &attempt.values()))
            .await
            .doing(|| "record that a build failed".into())?;
        Ok(())
    }

    /// Deletes the record of a failure, since the attempt succeeded this time.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn forget_failure(&mut self, attempt: &Attempt<'_>) -> Result<()> {
        self.session()
            .execute(sql::fill(FORGET, &attempt.values()))
            .await
            .doing(|| "record that a build succeeded".into())?;
        Ok(())
    }

    /// Returns the time since the same attempt failed, if that is recorded.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn failed_before(&mut self, attempt: &Attempt<'_>) -> Result<Option<Duration>> {
        let seconds: Option<f64> = self
            .session()
            .first_scalar(sql::fill(AGO, &attempt.values()))
            .await
            .doing(|| "check whether the same build failed before".into())?;
        Ok(seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()))
    }
}
