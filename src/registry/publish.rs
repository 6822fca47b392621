//! Publishes clones: one message sets their names, ownership tags and leases, and opens them.
//!
//! A message is one transaction
//! (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT>): a clone either
//! belongs to its holder, open and under the requested name, or is still closed and under its private name.

use sqlx::postgres::types::Oid;

use crate::error::{Error, Fault, Result};
use crate::pg::Doing as _;
use crate::pg::message::Answer;
use crate::pg::sql::{self, Statement};
use crate::pg::{SqlState, sqlstate};

use super::owner::{self, Tenure};
use super::warm::ClaimedRow;
use super::{DatabaseRow, Registry, bound, template};

/// Clone whose databases are created, for [`Registry::publish`].
#[derive(Clone, Debug)]
pub(crate) struct Unpublished<'a> {
    /// Id of the clone, whose lock the session holds.
    pub(crate) id: &'a str,
    /// Owner and duration of its lease.
    pub(crate) tenure: &'a Tenure<'a>,
    /// Its databases, and the comments that they get.
    pub(crate) databases: Vec<(&'a DatabaseRow, String)>,
}

/// Result of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// Oids of the databases, in their order.
    pub(crate) oids: Vec<Oid>,
    /// End of the lease, RFC 3339, UTC; `None` for session leases and indefinite ones.
    pub(crate) expires_at: Option<String>,
}

/// This shows whether the database still exists and its clone is not released: a row without an oid cannot be
/// present, so the message is rolled back.
const PRESENT: &str = "UPDATE pgstencil.database SET state = 'present', \
     oid = (SELECT p.oid FROM pg_database p WHERE p.datname::text = private_name \
       AND EXISTS (SELECT FROM pgstencil.clone c WHERE c.id = clone_id AND c.state = 'creating')) \
     WHERE id = $1 RETURNING oid";
/// This comes first, and rolls the whole message back if a database is not as it was created: it was renamed,
/// opened or marked, its drop was interrupted, or the collation library has another version since.
macro_rules! warm {
    ($collation:literal) => {
        concat!(
            "UPDATE pgstencil.database d SET name = $2, oid = (SELECT p.oid FROM pg_database p \
             WHERE p.oid = d.oid AND p.datname::text = d.private_name AND NOT p.datallowconn \
             AND p.datconnlimit <> -2",
            $collation,
            " AND EXISTS (SELECT FROM pgstencil.clone c WHERE c.id = d.clone_id AND c.state = 'creating') \
             AND EXISTS (SELECT FROM pg_shdescription s \
             WHERE s.objoid = p.oid AND s.classoid = 'pg_database'::regclass \
             AND right(s.description, length($3::text)) = $3)) WHERE id = $1"
        )
    };
}
const WARM: &str = warm!("");
// The function exists since 15.
const WARM_15: &str = warm!(
    " AND (p.datcollversion IS NULL OR p.datcollversion = pg_database_collation_actual_version(p.oid))"
);

/// Converts what Postgres writes, `2026-11-25 21:51:33.123456`: letting the server convert it costs a millisecond.
pub(super) fn rfc_3339(written: &str) -> Option<String> {
    let (date, time) = written.split_once(' ')?;
    Some(format!("{date}T{}Z", time.get(..8)?))
}

fn publication(clones: &[Unpublished<'_>], leased: bool, notes: &[Statement]) -> Vec<Statement> {
    let mut statements = vec![sql::flushed()];
    for clone in clones {
        for (row, comment) in &clone.databases {
            statements.push(sql::fill(PRESENT, &[&row.id]));
            statements.push(sql::rename_database(&row.private_name, &row.name));
            statements.push(sql::comment_database(&row.name, comment));
            statements.push(sql::allow_connections(&row.name, true));
        }
        if leased {
            let name = clone.databases.first().map_or("", |(row, _)| &row.name);
            statements.push(owner::lease(clone.id, name, clone.tenure));
        }
    }
    statements.extend_from_slice(notes);
    // Once, at the end.
    let asker = clones.first().map(|clone| &clone.tenure.asker);
    statements.extend(asker.and_then(owner::seen));
    statements.extend(asker.and_then(|asker| bound::here(&asker.holder.checkout)));
    statements
}

/// Returns the end of a lease in RFC 3339, inside: `None` for session leases and indefinite ones. `None`: there was
/// no clone to lease.
fn until(leased: &Answer) -> Option<Option<String>> {
    let (until,): (Option<String>,) = leased.one().ok()?;
    Some(until.as_deref().and_then(rfc_3339))
}

fn given_up(id: &str) -> Error {
    Error::failed(format!("clone {id} was discarded while it was created"))
}

impl Registry {
    /// Sets names, ownership tags and leases of new clones, and opens them: all or nothing. Unless `leased`, their
    /// leases are left to [`Registry::begin_lease`]: the remaining work on a clone must be done before any process
    /// can take it for a ready one. `notes`: statements that are sent along.
    ///
    /// # Errors
    /// If a database disappeared, or a clone was released in the meantime; the driver's: 42P04 or 23505 if a name
    /// is taken.
    pub(crate) async fn publish(
        &mut self,
        clones: &[Unpublished<'_>],
        leased: bool,
        notes: &[Statement],
    ) -> Result<Vec<Published>> {
        let ids: Vec<&str> = clones.iter().map(|clone| clone.id).collect();
        let doing = || format!("publish clone {}", ids.join(", "));
        let answers = self.session().send_all(&publication(clones, leased, notes)).await.doing(doing);
        let answers = match answers {
            // The check of the schema; see above.
            Err(e) if sqlstate(&e) == Some(SqlState::CHECK_VIOLATION) => {
                return Err(Error::failed(format!(
                    "a database of clone {} disappeared right after it was created, or the clone was discarded",
                    ids.join(", ")
                ))
                .caused_by(e));
            }
            other => other?,
        };
        let here = clones.first().and_then(|c| bound::here(&c.tenure.asker.holder.checkout));
        self.note_bound(answers.last().filter(|_| here.is_some()));
        let mut answers = answers.iter().skip(1);
        let mut published = Vec::new();
        for clone in clones {
            let mut oids = Vec::new();
            for _ in &clone.databases {
                if let Some(answer) = answers.next() {
                    oids.extend(answer.read::<(Oid,)>().doing(doing)?);
                }
                // The answers to rename, comment and opening.
                answers.by_ref().take(3).for_each(drop);
            }
            let expires_at = match leased {
                true => answers.next().and_then(until),
                false => Some(None),
            };
            let Some(expires_at) = expires_at else {
                return Err(given_up(clone.id));
            };
            published.push(Published { oids: oids.into_iter().map(|(oid,)| oid).collect(), expires_at });
        }
        Ok(published)
    }

    /// Begins the lease of a clone that was published without one. Returns its end in RFC 3339; `None` for session
    /// leases and indefinite ones.
    ///
    /// # Errors
    /// If the clone was released in the meantime; the driver's.
    pub(crate) async fn begin_lease(
        &mut self,
        id: &str,
        name: &str,
        tenure: &Tenure<'_>,
    ) -> Result<Option<String>> {
        let [_, leased] = self
            .session()
            .send([sql::flushed(), owner::lease(id, name, tenure)])
            .await
            .doing(|| format!("begin the lease of clone {id}"))?;
        until(&leased).ok_or_else(|| given_up(id))
    }

    /// Sets names and leases of claimed warm clones, and opens them: all or nothing. `named`: rows with their new
    /// names, grouped by clone; `tenures`: one for each clone. Returns the end of each lease; `None`: some name is
    /// taken. `leased`, `notes`: see [`Registry::publish`]. `count_hit`: no other process counts the hit.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn publish_warm(
        &mut self,
        named: &[(&ClaimedRow, String)],
        tenures: &[&Tenure<'_>],
        leased: bool,
        notes: &[Statement],
        count_hit: bool,
    ) -> Result<Option<Vec<Option<String>>>> {
        let warm = match self.facts().major() {
            ..=14 => WARM,
            _ => WARM_15,
        };
        let mut statements = vec![sql::flushed()];
        let looks = named.iter();
        statements.extend(
            looks.map(|(row, name)| {
                sql::planned("pgstencil_open", warm, &[&row.database_id, name, &row.mark()])
            }),
        );
        for (row, name) in named {
            statements.push(sql::rename_database(&row.private_name, name));
            statements.push(sql::allow_connections(name, true));
        }
        // Their locks are held since the claim, so nothing else can have changed them.
        let clones: Vec<_> = named.chunk_by(|(a, _), (b, _)| a.clone_id == b.clone_id).collect();
        let first = statements.len();
        for (clone, tenure) in clones.iter().zip(tenures).filter(|_| leased) {
            let (row, name) = &clone[0];
            statements.push(owner::lease(&row.clone_id, name, tenure));
        }
        let leases = first..statements.len();
        statements.extend_from_slice(notes);
        let asker = tenures.first().map(|tenure| &tenure.asker);
        statements.extend(asker.and_then(owner::seen));
        let here = asker.and_then(|asker| bound::here(&asker.holder.checkout));
        let at = here.is_some().then_some(statements.len());
        statements.extend(here);
        if let Some((row, _)) = named.first() {
            let hits = i64::from(count_hit);
            statements.push(template::touch(row.template_id, hits, clones.len()));
        }
        let done = self.session().send_all(&statements).await.doing(|| "publish a warm clone".into());
        let answers = match done {
            Ok(answers) => answers,
            // Another database has the name: the whole message was rolled back.
            Err(e) if e.has_fault(Fault::NameTaken) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        self.note_bound(at.and_then(|at| answers.get(at)));
        if !leased {
            return Ok(Some(vec![None; clones.len()]));
        }
        let leases = answers.get(leases).unwrap_or_default().iter();
        let ends: Option<Vec<_>> = leases.map(until).collect();
        match ends {
            Some(ends) => Ok(Some(ends)),
            None => Err(given_up(named.first().map_or("", |(row, _)| &row.clone_id))),
        }
    }
}
