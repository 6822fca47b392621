//! Clones: sets of databases copied from a template, for one user.
//!
//! A clone is created under private names, closed to sessions. Its settings and grants are re-applied, then one
//! transaction gives it its names, ownership tag and lease, and opens it. A crash before that leaves a `creating` row
//! whose lock is free, which the next cleanup drops.
//!
//! `create` does all that while a caller waits. `fill` does the first part ahead of time and leaves a warm clone, and
//! `warm` leases it.

mod batch;
mod create;
pub(crate) mod custody;
mod fill;
mod hook;
pub(crate) mod keeper;
mod taken;
mod warm;
mod washable;

use std::time::Duration;

use sqlx::postgres::types::Oid;

pub(crate) use self::batch::{Batch, Naming};
pub(crate) use self::create::{create, create_without_template};
pub(crate) use self::fill::{fill, lacks};
pub(crate) use self::hook::{BOUND, before_release};
pub(crate) use self::taken::{KEEP, drop_unneeded};
pub(crate) use self::taken::{check_name, of_another, taken};
pub(crate) use self::warm::{Look, claim, claim_released};

use crate::context::Context;
use crate::error::Result;
use crate::names::{Fingerprint, private_name};
use crate::pg::{Deadline, is_connection_loss};
use crate::registry::clone::NewClone;
use crate::registry::database::NewDatabase;
use crate::registry::owner::{Bound, Tenure};
use crate::registry::{DatabaseRow, Registry, Term};
use crate::template::{Template, TemplateDatabase};
use crate::variables::NamedDatabase;

/// A clone that is ready for use.
#[derive(Clone, Debug)]
pub(crate) struct ClonedSet {
    /// Short id.
    pub(crate) id: String,
    /// Its databases, in the order of the definition.
    pub(crate) databases: Vec<NamedDatabase>,
    /// Their identities, in the same order.
    pub(crate) oids: Vec<Oid>,
    /// Fingerprint of its template.
    pub(crate) fingerprint: Fingerprint,
    /// Whether a session holds it: then it ends with the session.
    pub(crate) by_session: bool,
    /// End of the lease (RFC 3339); `None` for session leases and for leases without end.
    pub(crate) expires_at: Option<String>,
    /// Source of its name: while that exists, each command in the checkout prolongs the lease.
    pub(crate) bound: Bound,
}

impl ClonedSet {
    /// Creates a clone for which the server has returned neither oids nor the end of its lease yet.
    fn new(
        id: String,
        databases: Vec<NamedDatabase>,
        fingerprint: &Fingerprint,
        tenure: &Tenure<'_>,
    ) -> Self {
        ClonedSet {
            id,
            databases,
            oids: Vec::new(),
            fingerprint: *fingerprint,
            by_session: tenure.term == Term::Session,
            expires_at: None,
            bound: tenure.prolonging(),
        }
    }

    /// Creates a clone that another process leased for this one, until this one ends.
    pub(crate) fn of_session(
        id: String,
        databases: Vec<NamedDatabase>,
        oids: Vec<Oid>,
        fingerprint: Fingerprint,
    ) -> Self {
        let bound = Bound::default();
        ClonedSet { id, databases, oids, fingerprint, by_session: true, expires_at: None, bound }
    }

    /// Returns the name that users see.
    pub(crate) fn name(&self) -> &str {
        self.databases.first().map_or(self.id.as_str(), |d| d.name.as_str())
    }
}

fn named(rows: &[DatabaseRow]) -> Vec<NamedDatabase> {
    rows.iter().map(|r| NamedDatabase { alias: r.alias.clone(), name: r.name.clone() }).collect()
}

fn words(context: &Context<'_>) -> String {
    format!("pgstencil clone: {} of {}", context.definition.name, context.project)
}

/// Registers an unclaimed clone of some of a template's databases, which keep their private names.
///
/// # Errors
/// The driver's.
pub(crate) async fn register_unnamed(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    from: &[TemplateDatabase],
    id: &str,
) -> Result<Vec<DatabaseRow>> {
    let mut databases = Vec::new();
    for database in from {
        let name = private_name();
        databases.push(NewDatabase { alias: database.alias.clone(), private_name: name.clone(), name });
    }
    let new = NewClone {
        id,
        project: context.project,
        definition: &context.definition.name,
        fingerprint: template.fingerprint(),
        template_id: Some(template.id()),
        term: Term::Session,
        holder: context.holder,
        databases,
    };
    registry.intend_clone(&new).await
}

/// Discards clones after an error. If the session is lost, the result of its last statement is unknown, so a new
/// session does it: it waits for the locks of the old one, which the server may not have released yet.
async fn give_up_after<T>(registry: &mut Registry, clones: &[String], done: &Result<T>) {
    let lost = done.as_ref().err().is_some_and(is_connection_loss);
    if !lost {
        return give_up(registry, clones).await;
    }
    let deadline = Deadline::new(Some(Duration::from_secs(5)), Default::default());
    // Without a new session the cleanup does this after the grace period.
    if let Ok(mut another) = registry.another(&deadline).await {
        for id in clones {
            let _ = another.set_released(id).await;
        }
        another.close().await;
    }
}

/// Discards clones whose locks this session holds: the cleanup drops them.
async fn give_up(registry: &mut Registry, clones: &[String]) {
    for id in clones {
        // If the session is lost, so are the locks, and the cleanup does this.
        let _ = registry.release_clone(id).await;
    }
}
