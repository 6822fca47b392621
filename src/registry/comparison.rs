//! What builds from nothing found of the extended templates beside which they were built.

use sqlx::FromRow;

use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};

use super::Registry;

/// An extended template and a build of the same inputs from nothing, compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewComparison<'a> {
    /// Namespace.
    pub(crate) project: &'a str,
    /// Name of the definition.
    pub(crate) definition: &'a str,
    /// Of both.
    pub(crate) fingerprint: &'a Fingerprint,
    /// [`crate::fingerprint::Recipe::core`] of both.
    pub(crate) core: &'a str,
    /// What differs and says that the template was not built as it should be, for a person; empty if nothing does.
    pub(crate) difference: &'a str,
    /// Where ids, row contents and sequences differ, in one line; empty if they do not.
    pub(crate) moved: &'a str,
    /// Whether somebody sees it now: else it is told at the next hand-out.
    pub(crate) told: bool,
}

/// A difference that nobody has been told of yet.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Finding {
    /// Of the template.
    pub(crate) fingerprint: Fingerprint,
    /// What differs and says that the template was not built as it should be; may be empty.
    pub(crate) difference: String,
    /// Where ids, row contents and sequences differ, in one line; empty if they do not, or if that was told
    /// already.
    pub(crate) moved: String,
    /// Whether the comparison before it, with the same build command and inputs, found a difference, too.
    pub(crate) again: bool,
}

/// Rows are numbered, so their number is a bound by itself.
const INSERT: &str = "WITH new AS (INSERT INTO pgstencil.comparison \
       (project, definition, fingerprint, core, difference, moved, told_at) \
     VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $7 THEN now() END) RETURNING id) \
     DELETE FROM pgstencil.comparison c USING new WHERE new.id % 100 = 0 AND c.id <= new.id - 2000";
/// What moved is told once as long as it is the same: with some tools it does each time.
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

/// A statement that answers with the [`Finding`]s of a definition, once.
pub(super) fn findings(project: &str, definition: &str) -> Statement {
    sql::fill(TELL, &[&project, &definition])
}

impl Registry {
    /// Notes a comparison.
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
                ],
            ))
            .await
            .doing(|| "note what a comparison found".into())?;
        Ok(())
    }

    /// The differences of a definition that nobody has been told of; whoever asks must tell them.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn findings(&mut self, project: &str, definition: &str) -> Result<Vec<Finding>> {
        self.session()
            .rows(findings(project, definition))
            .await
            .doing(|| "read what comparisons found".into())
    }

    /// Whether the last two extended templates with this build command and these inputs
    /// ([`crate::fingerprint::Recipe::core`]) differed from builds from nothing.
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
            .doing(|| "read what comparisons found".into())
    }
}
