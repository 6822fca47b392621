//! Warm clones: rows in state `warm`, created ahead of time, and the demand that decides how many.

use sqlx::FromRow;
use sqlx::postgres::types::Oid;
use sqlx::types::Json;

use crate::config::{Definition, Extend, Rebuild};
use crate::error::{Error, Result};
use crate::fingerprint::RelPath;
use crate::names::{Fingerprint, Mark};
use crate::pg::Doing as _;
use crate::pg::lock::LockKey;
use crate::pg::sql::{self, Literal, Statement};
use crate::quantity::{Bytes, Millis, Seconds};

use super::comparison::{self, Finding};
use super::event::Occurrence;
use super::{Holder, ProjectSettings, Registry, clone, project};

/// Request for warm clones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// Namespace.
    pub(crate) project: &'a str,
    /// The definition.
    pub(crate) definition: &'a Definition,
    /// Fingerprint of the template.
    pub(crate) fingerprint: &'a Fingerprint,
    /// Role of the session, which must be allowed to use what the template's builder owns.
    pub(crate) role: &'a str,
    /// Seconds after which its contents are too old.
    pub(crate) stale_s: Option<f64>,
    /// Whether the template was checked. If not, a clone is taken only if nothing that it depends on may have
    /// changed on the server since.
    pub(crate) looked_at: bool,
    /// Whether only a clone of a template that was built from its start will do.
    pub(crate) full_only: bool,
    /// Number of clones.
    pub(crate) count: usize,
    /// Id of the only clone that will do.
    pub(crate) only: Option<&'a str>,
    /// Process that asks.
    pub(crate) holder: &'a Holder,
}

/// Database of a claimed clone, with the facts about its template.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct ClaimedRow {
    /// Id of the clone.
    pub(crate) clone_id: String,
    /// Row number of the database.
    pub(crate) database_id: i64,
    /// Alias of the database in its template.
    pub(crate) alias: String,
    /// Its position among the clone's databases.
    ordinal: i32,
    /// Its name on the server.
    pub(crate) private_name: String,
    /// Nonce of its ownership tag.
    pub(crate) nonce: String,
    /// Its oid.
    pub(crate) oid: Option<Oid>,
    /// Row number of the template.
    pub(crate) template_id: i64,
    /// Milliseconds of its full build; `None` if it was built incrementally.
    pub(crate) full_ms: Option<Millis>,
    /// Base of its incremental build.
    pub(crate) base_fingerprint: Option<Fingerprint>,
    /// Migrations that were added to the base.
    pub(crate) added: Json<Vec<RelPath>>,
    /// Whether a full build is to replace the template.
    pub(crate) provisional: bool,
    /// Number of attempts at that full build.
    pub(crate) rebuild_attempts: i32,
    /// Seconds since the last attempt began.
    pub(crate) rebuild_tried_s: Option<Seconds>,
    /// Reason why the last attempt failed.
    pub(crate) rebuild_failure: Option<String>,
    /// Number of requests that found the template ready, without this one.
    pub(crate) hits: i64,
    /// Seconds since the template was registered.
    pub(crate) age_s: Seconds,
}

impl ClaimedRow {
    /// Returns the text that its comment must end with.
    pub(super) fn mark(&self) -> String {
        let mark = Mark { nonce: self.nonce.clone() };
        mark.ending()
    }
}

/// Template, as the filler of its warm clones sees it.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct StockRow {
    /// Number of its row.
    pub(crate) id: i64,
    /// Number of its warm clones, and of released ones that will probably be warm again.
    pub(crate) warm: i64,
    /// Number of clones requested recently; see the schema.
    pub(crate) demand: f64,
    /// Number of recent uses; see the schema.
    pub(crate) uses: f64,
    /// Total size of its databases.
    pub(crate) bytes: Bytes,
    /// Bytes of all templates and warm clones of its project.
    pub(crate) total: Bytes,
    /// Whether a connection to a clone of it would run code.
    pub(crate) login_triggers: bool,
    /// Whether the server's disk was found full recently.
    pub(crate) full: bool,
    /// Whether its databases have the relation cache's file: the server removes it when it starts.
    pub(crate) has_cache: bool,
}

/// Warm clone, as the policy for warm clones sees it.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct WarmRow {
    /// Id of the clone.
    pub(crate) id: String,
    /// Row number of its template; `None` if that is gone.
    pub(crate) template_id: Option<i64>,
    /// Namespace.
    pub(crate) project: String,
    /// Whether its template is ready.
    pub(crate) is_ready: bool,
    /// Time since its template was last used.
    pub(crate) idle_s: Seconds,
    /// Whether another template of its definition was used since.
    pub(crate) superseded: bool,
    /// Its size in bytes.
    pub(crate) bytes: Bytes,
    /// Size of all ready templates of its project.
    pub(crate) of_templates: Bytes,
    /// Number of clones of its template that sessions hold.
    pub(crate) in_use: i64,
}

/// A claimed clone is `creating` again: if its new holder dies before the publication, it is dropped like a clone
/// whose creator is gone. The row lock decides between two claims, the advisory lock between a claim and a cleanup;
/// a clone for which only one of the two locks is free is left alone.
///
/// If a crash emptied tables of the template, it also emptied them in its warm clones; and a clone of a template
/// that was opened may contain the changes to it. Otherwise the clone is known to fit the server without a check.
const CLAIM: &str = include_str!("queries/claim_warm.sql");

fn claim(wish: &Wish<'_>) -> Statement {
    let definition = wish.definition;
    // A check of the other incrementally built templates decides about them.
    let extended = definition.extend != Extend::Never && !wish.full_only;
    let kept = !definition.rebuild.makes_provisional();
    let accepts = definition.rebuild == Rebuild::Auto;
    let unsorted = definition.extend == Extend::Always;
    let holder = Json(wish.holder);
    let values: [&dyn Literal; 13] = [
        &wish.project,
        &definition.name,
        &wish.fingerprint,
        &wish.stale_s,
        &wish.count,
        &holder,
        &wish.role,
        &wish.looked_at,
        &extended,
        &kept,
        &unsorted,
        &accepts,
        &wish.only,
    ];
    sql::planned("pgstencil_claim", CLAIM, &values)
}

/// From now on its databases must match in name, oid and ownership tag.
const WARM: &str = "WITH offered AS (UPDATE pgstencil.clone SET state = 'warm', lock_key = $2 \
       WHERE id = $1 AND state = 'creating' RETURNING id) \
     UPDATE pgstencil.database d SET state = 'present' FROM offered WHERE d.clone_id = offered.id";
const RELEASE_WARM: &str = "UPDATE pgstencil.clone SET state = 'released' WHERE id = $1 AND state = 'warm'";
const ANNOUNCE: &str = include_str!("queries/announce_template.sql");
const STOCK: &str = include_str!("queries/warm_stock.sql");
/// Clones of the template that was used last come first, and for each template the oldest ones.
const ALL_WARM: &str = include_str!("queries/warm_clones.sql");
const SINCE: &str = include_str!("queries/warm_since.sql");
const FULL: &str = "UPDATE pgstencil.meta SET full_at = now()";

impl Registry {
    /// Claims warm clones, and takes their locks, which the session then holds. Returns fewer clones than requested
    /// if there are fewer. No other process gets them; the caller publishes them by [`Registry::publish_warm`], or
    /// discards them. Also returns the result of [`Registry::findings`], which the same message asks for.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn claim_warm(&mut self, wish: &Wish<'_>) -> Result<(Vec<ClaimedRow>, Vec<Finding>)> {
        let doing = || "take a warm clone".to_owned();
        let findings = comparison::findings(wish.project, &wish.definition.name);
        let [claimed, findings] = self.session().send([claim(wish), findings]).await.doing(doing)?;
        let mut rows: Vec<ClaimedRow> = claimed.read().doing(doing)?;
        rows.sort_by(|a, b| (&a.clone_id, a.ordinal).cmp(&(&b.clone_id, b.ordinal)));
        Ok((rows, findings.read().doing(doing)?))
    }

    /// Offers a clone as warm. The caller holds its lock, and releases it right after. `notes`: statements that are
    /// sent along.
    ///
    /// # Errors
    /// The driver's; that the clone is not being created.
    pub(crate) async fn set_warm(&mut self, id: &str, notes: &[Statement]) -> Result<()> {
        let mut message = vec![sql::planned("pgstencil_offer", WARM, &[&id, &LockKey::clone(id).value()])];
        message.extend_from_slice(notes);
        let done = self.session().send_all(&message).await.doing(|| format!("offer warm clone {id}"))?;
        match done.first().map_or(0, |offered| offered.count) {
            0 => Err(Error::failed(format!("warm clone {id} was discarded while it was created"))),
            _ => Ok(()),
        }
    }

    /// Discards a warm clone whose lock the caller holds. `false`: it is not warm any more.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn release_warm(&mut self, id: &str) -> Result<bool> {
        let done = self
            .session()
            .execute(sql::fill(RELEASE_WARM, &[&id]))
            .await
            .doing(|| format!("discard warm clone {id}"))?;
        Ok(done.count == 1)
    }

    /// Records that requests for a template are expected.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn announce(&mut self, template: i64) -> Result<()> {
        self.session()
            .execute(sql::fill(ANNOUNCE, &[&template]))
            .await
            .doing(|| "record that clones will be requested".into())?;
        Ok(())
    }

    /// Records that the server's disk was found full: no clone is created ahead of time for a while.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_full_disk(&mut self) -> Result<()> {
        self.session().execute(sql::fill(FULL, &[])).await.doing(|| "record that the disk is full".into())?;
        Ok(())
    }

    /// Returns the stock of a template's warm clones, and the demand for them.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn stock(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<Option<StockRow>> {
        let stock = self.stock_of(project, definition, fingerprint);
        self.session().first(stock).await.doing(|| "count the warm clones".into())
    }

    /// Returns the time since the last use of a template; `None` if it has no warm clones.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn stocked_since(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<Option<Seconds>> {
        let since = sql::planned("pgstencil_since", SINCE, &[&project, &definition, &fingerprint]);
        let row: Option<(Seconds,)> =
            self.session().first(since).await.doing(|| "look for warm clones".into())?;
        Ok(row.map(|(idle,)| idle))
    }

    fn stock_of(&self, project: &str, definition: &str, fingerprint: &Fingerprint) -> Statement {
        let role = &self.facts().began_as;
        sql::planned("pgstencil_stock", STOCK, &[&project, &definition, &fingerprint, role])
    }

    /// Records a request in one message: the hits and the settings that are not recorded yet. Returns the stock of
    /// the template's warm clones, and whether there may be something to clean up.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_request(
        &mut self,
        hits: &[Occurrence<'_>],
        settings: &ProjectSettings,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<(Option<StockRow>, bool)> {
        let doing = || "record a request".to_owned();
        let mut statements: Vec<Statement> = hits.iter().map(Occurrence::insert).collect();
        statements.push(settings.note());
        statements.push(self.stock_of(&settings.name, definition, fingerprint));
        statements.push(clone::leftovers());
        let answers = self.session().send_all(&statements).await.doing(doing)?;
        let [.., stock, leftovers] = answers.as_slice() else {
            return Err(Error::internal("the server left out answers"));
        };
        let (leftovers,): (bool,) = leftovers.one().doing(doing)?;
        Ok((stock.read().doing(doing)?.into_iter().next(), leftovers))
    }

    /// Returns the warm clones, `also` that of this id, and the recorded settings of the projects. Clones of the template that was used last
    /// come first, and for each template the oldest ones.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn warm_clones(
        &mut self,
        also: Option<&str>,
    ) -> Result<(Vec<WarmRow>, Vec<ProjectSettings>)> {
        let doing = || "list the warm clones".to_owned();
        let [rows, projects] = self
            .session()
            .send([sql::planned("pgstencil_warm", ALL_WARM, &[&also]), project::all()])
            .await
            .doing(doing)?;
        Ok((rows.read().doing(doing)?, projects.read().doing(doing)?))
    }
}
