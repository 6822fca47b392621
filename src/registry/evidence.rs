//! Facts about the rebuilds of provisional templates: chains of incremental builds, what comparisons found, and what
//! rebuilds cost.

use sqlx::FromRow;

use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::sql;
use crate::quantity::{Millis, Seconds};

use super::Registry;
use super::event::Happened;

/// Ready template as a link of a chain of incremental builds.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct LinkRow {
    /// Number of its row.
    pub(crate) id: i64,
    /// Namespace.
    pub(crate) project: String,
    /// Name of its definition.
    pub(crate) definition: String,
    /// Its fingerprint.
    pub(crate) fingerprint: Fingerprint,
    /// Fingerprint of its base; `None` after a full build.
    pub(crate) base_fingerprint: Option<Fingerprint>,
    /// Whether it is a waypoint, which no full build has proved either.
    pub(crate) waypoint: bool,
    /// Number of incremental builds since the last full build, as counted when it was built.
    pub(crate) chain: i32,
    /// Time of its creation, in seconds since the epoch.
    pub(crate) created: Seconds,
}

/// Comparison of an incrementally built template with a full build.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct ComparedRow {
    /// Number of its row.
    pub(crate) id: i64,
    /// Namespace.
    pub(crate) project: String,
    /// Name of the definition.
    pub(crate) definition: String,
    /// Fingerprint of the template.
    pub(crate) fingerprint: Fingerprint,
    /// Fingerprints of the incremental builds that it covers.
    pub(crate) covers: Vec<String>,
    /// Number of incremental builds that it covers.
    pub(crate) links: i32,
    /// Whether it found a difference that speaks against the build of the template.
    pub(crate) differs: bool,
    /// Time of the comparison, in seconds since the epoch.
    pub(crate) at: Seconds,
}

const LINKS: &str = "SELECT id, project, definition, fingerprint, base_fingerprint, waypoint, chain, \
     extract(epoch FROM created_at)::float8 AS created FROM pgstencil.template \
     WHERE state = 'ready' AND ($1 IS NULL OR project = $1) AND ($2 IS NULL OR definition = $2) ORDER BY id";
/// Limited by the number of comparisons that are kept.
const COMPARED: &str = "SELECT id, project, definition, fingerprint, covers, links, difference <> '' AS differs, \
     extract(epoch FROM at)::float8 AS at FROM pgstencil.comparison \
     WHERE ($1 IS NULL OR project = $1) AND ($2 IS NULL OR definition = $2) ORDER BY id";
const SPENT: &str = "SELECT coalesce(sum(millis), 0)::bigint FROM pgstencil.event \
     WHERE outcome = $1 AND at > now() - interval '1 day'";
/// Only if no comparison was recorded since the decision.
const ACCEPT: &str = "UPDATE pgstencil.template t SET provisional = false, accepted_at = now(), rebuild_wait = NULL \
     WHERE t.id = $1 AND t.state = 'ready' AND t.provisional AND NOT EXISTS (SELECT FROM pgstencil.comparison c \
       WHERE c.project = t.project AND c.definition = t.definition AND c.id > $2)";
const WAIT: &str = "UPDATE pgstencil.template SET rebuild_wait = $2 WHERE id = $1";

impl Registry {
    /// Returns the links and the comparisons of one definition, given as project and name, or of all; oldest first.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn evidence(
        &mut self,
        of: Option<(&str, &str)>,
    ) -> Result<(Vec<LinkRow>, Vec<ComparedRow>)> {
        let doing = || "read what comparisons found".to_owned();
        let (project, definition) = of.unzip();
        let links = sql::fill(LINKS, &[&project, &definition]);
        let compared = sql::fill(COMPARED, &[&project, &definition]);
        let [links, compared] = self.session().send([links, compared]).await.doing(doing)?;
        Ok((links.read().doing(doing)?, compared.read().doing(doing)?))
    }

    /// Returns the seconds that all rebuilds on this server took within the last day.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn spent_on_rebuilds(&mut self) -> Result<f64> {
        let millis: Millis = self
            .session()
            .scalar(sql::fill(SPENT, &[&Happened::Rebuilt]))
            .await
            .doing(|| "read what rebuilds took".into())?;
        Ok(millis.seconds())
    }

    /// Records that a provisional template counts as equal to a full build, unless a comparison of its definition
    /// was recorded after the one of row number `last`. Returns whether it does.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn accept_template(&mut self, id: i64, last: i64) -> Result<bool> {
        let done = self
            .session()
            .execute(sql::fill(ACCEPT, &[&id, &last]))
            .await
            .doing(|| "accept a template".into())?;
        Ok(done.count == 1)
    }

    /// Records why a provisional template is not rebuilt yet.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_rebuild_wait(&mut self, id: i64, why: &str) -> Result<()> {
        self.session()
            .execute(sql::fill(WAIT, &[&id, &why]))
            .await
            .doing(|| "note why a rebuild waits".into())?;
        Ok(())
    }
}
