//! Clones: sets of databases copied from a template, for one user.
//!
//! A clone is born under private names, closed to sessions. Its settings and grants are re-applied,
//! then one transaction gives it its names, its mark and its lease, and opens it. A crash before
//! that leaves a `creating` row whose lock is free, which the next sweep drops.
//!
//! `create` does all that while somebody waits. `fill` does the first part ahead of time and leaves a
//! warm clone, and `warm` hands that out.

mod batch;
mod create;
mod fill;
mod hook;
pub(crate) mod keeper;
mod taken;
mod warm;

use std::time::Duration;

use sqlx::postgres::types::Oid;

pub(crate) use self::batch::{Batch, Naming};
pub(crate) use self::create::{create, create_without_template};
pub(crate) use self::fill::fill;
pub(crate) use self::hook::{BOUND, before_release};
pub(crate) use self::taken::KEEP;
pub(crate) use self::taken::{check_name, of_another, taken};
pub(crate) use self::warm::{Look, claim};

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
    /// What it was made from.
    pub(crate) fingerprint: Fingerprint,
    /// Whether a session holds it: then it ends with that.
    pub(crate) by_session: bool,
    /// RFC 3339; `None` for session leases and for ever.
    pub(crate) expires_at: Option<String>,
    /// What its name comes from: while that is there, each command in the checkout prolongs the lease.
    pub(crate) bound: Bound,
}

impl ClonedSet {
    /// A clone of which the server has told nothing yet: neither oids, nor until when it is kept.
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

    /// What a person calls it.
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

/// Registers a clone that is nobody's yet, of some of a template's databases: they keep their private names.
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

/// Gives clones up after an error. If the session is lost, nobody knows what became of its last statement, so a
/// new one does it: it waits for the locks of the old one, which the server may not have given up yet.
async fn give_up_after<T>(registry: &mut Registry, clones: &[String], done: &Result<T>) {
    let lost = done.as_ref().err().is_some_and(is_connection_loss);
    if !lost {
        return give_up(registry, clones).await;
    }
    let deadline = Deadline::new(Some(Duration::from_secs(5)), Default::default());
    // Without a new session the sweep does this, when the grace is over.
    if let Ok(mut another) = registry.another(&deadline).await {
        for id in clones {
            let _ = another.set_released(id).await;
        }
        another.close().await;
    }
}

/// Gives clones up whose locks we hold: the sweep drops them.
async fn give_up(registry: &mut Registry, clones: &[String]) {
    for id in clones {
        // If the session is gone, so are the locks, and the sweep does this.
        let _ = registry.release_clone(id).await;
    }
}
