//! Results of comparing incrementally built templates with full builds.

use sqlx::FromRow;

use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};

use super::Registry;

/// Comparison of an incrementally built template with a full build of the same inputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewComparison<'a> {
    /// Namespace.
    pub(crate) project: &'a str,
    /// Name of the definition.
    pub(crate) definition: &'a str,
    /// Fingerprint of both.
    pub(crate) fingerprint: &'a Fingerprint,
    /// [`crate::fingerprint::Recipe::core`] of both.
    pub(crate) core: &'a str,
    /// Differences that show a wrong build of the template, for a person; empty if there are none.
    pub(crate) difference: &'a str,
    /// Differences in ids, row contents and sequences, in one line; empty if there are none.
    pub(crate) moved: &'a str,
    /// Incremental builds that it is evidence for: fingerprints of the template and its bases that were not proved
    /// before.
    pub(crate) covers: &'a [String],
    /// Whether a person sees it now; if not, it is reported at the next request.
    pub(crate) told: bool,
}

/// Difference that has not been reported yet.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Finding {
    /// Fingerprint of the template.
    pub(crate) fingerprint: Fingerprint,
    /// Differences that show a wrong build of the template; may be empty.
    pub(crate) difference: String,
    /// Differences in ids, row contents and sequences, in one line; empty if there are none, or if they were
    /// reported already.
    pub(crate) moved: String,
    /// Whether the previous comparison with the same build command and inputs also found a difference.
    pub(crate) again: bool,
}

/// A difference withdraws what the evidence before it accepted. Rows are numbered, so their number limits how many are
/// kept.
const INSERT: &str = "WITH new AS (INSERT INTO pgstencil.comparison \
       (project, definition, fingerprint, core, difference, moved, told_at, covers, links) \
     VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $7 THEN now() END, $8, $9) RETURNING id), \
     doubted AS (UPDATE pgstencil.template SET provisional = true, accepted_at = NULL \
     WHERE project = $1 AND definition = $2 AND accepted_at IS NOT NULL AND $5 <> '') \
     DELETE FROM pgstencil.comparison c USING new WHERE new.id % 100 = 0 AND c.id <= new.id - 2000";
/// Differences in `moved` are reported once as long as they stay the same: with some tools they occur each time.
const TELL: &str = "UPDATE pgstencil.comparison c SET told_at = now() \
     WHERE c.project = $1 AND c.definition = $2 AND c.told_at IS NULL AND (c.difference <> '' OR c.moved <> '') \
     RETURNING c.fingerprint, c.difference, \
       CASE WHEN c.moved = (SELECT p.moved FROM pgstencil.comparison p \
         WHERE p.project = c.project AND p.definition = c.definition AND p.moved <> '' AND p.id < c.id \
         ORDER BY p.id DESC LIMIT 1) THEN '' ELSE c.moved END AS moved, \
       coalesce((SELECT p.difference <> '' FROM pgstencil.comparison p \
         WHERE p.project = c.project AND p.definition = c.definition AND p.core = c.core AND p.id < c.id \
         ORDER BY p.id DESC LIMIT 1), false) AS again";
const LAST_TWO: &str = "SELECT count(*) = 2 FROM (SELECT difference FROM pgstencil.comparison \
       WHERE project = $1 AND definition = $2 AND core = $3 ORDER BY id DESC LIMIT 2) c \
     WHERE difference <> ''";

/// Statement that returns the [`Finding`]s of a definition, each of them once.
pub(super) fn findings(project: &str, definition: &str) -> Statement {
    sql::fill(TELL, &[&project, &definition])
}

impl Registry {
    /// Records a comparison.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_comparison(&mut self, new: &NewComparison<'_>) -> Result<()> {
        self.session()
            .execute(sql::fill(
                INSERT,
                &[
                    &new.project,
                    &new.definition,
                    &new.fingerprint,
                    &new.core,
                    &new.difference,
                    &new.moved,
                    &new.told,
                    &new.covers,
                    &new.covers.len(),
                ],
            ))
            .await
            .doing(|| "record the result of a comparison".into())?;
        Ok(())
    }

    /// Returns the differences of a definition that have not been reported yet; the caller must report them.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn findings(&mut self, project: &str, definition: &str) -> Result<Vec<Finding>> {
        self.session()
            .rows(findings(project, definition))
            .await
            .doing(|| "read the results of comparisons".into())
    }

    /// Returns whether the last two incrementally built templates with this build command and these inputs
    /// ([`crate::fingerprint::Recipe::core`]) differed from full builds.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn last_two_differed(
        &mut self,
        project: &str,
        definition: &str,
        core: &str,
    ) -> Result<bool> {
        self.session()
            .scalar(sql::fill(LAST_TWO, &[&project, &definition, &core]))
            .await
            .doing(|| "read the results of comparisons".into())
    }
}
