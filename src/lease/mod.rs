//! Clones: sets of databases copied from a template, for one user.
//!
//! A clone is born under private names, closed to sessions. Its settings and grants are re-applied,
//! then one transaction gives it its names, its mark and its lease, and opens it. A crash before
//! that leaves a `creating` row whose lock is free, which the next sweep drops.
//!
//! `create` does all that while somebody waits. `fill` does the first part ahead of time and leaves a
//! warm clone, and `warm` hands that out.

mod after;
mod create;
mod fill;
mod hook;
pub mod keeper;
mod taken;
mod warm;

use std::collections::HashSet;
use std::time::Duration;

use sqlx::postgres::types::Oid;

pub use self::create::{create, create_without_template};
pub use self::fill::fill;
pub use self::hook::{BOUND, HookView, before_release};
pub(crate) use self::taken::KEEP;
pub use self::taken::{check_name, of_another, taken};
pub use self::warm::{Warm, WarmTemplate, claim};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::names::{Fingerprint, NameParts, NamePattern, private_name};
use crate::pg::{Deadline, is_connection_loss};
use crate::registry::clone::NewClone;
use crate::registry::database::NewDatabase;
use crate::registry::owner::{Bound, Tenure};
use crate::registry::{DatabaseRow, Registry, Term};
use crate::template::{Template, TemplateDatabase};
use crate::variables::{NamedDatabase, Outcome, Shard};

/// What a caller wants.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Names of the databases.
    pub pattern: &'a NamePattern,
    /// `{id}`: the same for all clones of one request, so that their names can belong together. The
    /// first clone has it for its own id.
    pub group: &'a str,
    /// `{n}`
    pub index: usize,
    /// `{shard}`
    pub shard: Option<Shard>,
    /// For whom, and how long it is kept.
    pub tenure: Tenure<'a>,
    /// How its template came about, for `after_clone`.
    pub outcome: Outcome,
}

/// A clone that is ready for use.
#[derive(Clone, Debug)]
pub struct ClonedSet {
    /// Short id.
    pub id: String,
    /// Its databases, in the order of the definition.
    pub databases: Vec<NamedDatabase>,
    /// Their identities, in the same order.
    pub oids: Vec<Oid>,
    /// What it was made from.
    pub fingerprint: Fingerprint,
    /// Whether a session holds it: then it ends with that.
    pub by_session: bool,
    /// RFC 3339; `None` for session leases and for ever.
    pub expires_at: Option<String>,
    /// What its name comes from: while that is there, each command in the checkout prolongs the lease.
    pub bound: Bound,
    /// What making it took.
    pub took: Duration,
}

impl ClonedSet {
    /// What a person calls it.
    pub fn name(&self) -> &str {
        self.databases.first().map_or(self.id.as_str(), |d| d.name.as_str())
    }
}

fn named(rows: &[DatabaseRow]) -> Vec<NamedDatabase> {
    rows.iter().map(|r| NamedDatabase { alias: r.alias.clone(), name: r.name.clone() }).collect()
}

fn words(context: &Context<'_>) -> String {
    format!("pgstencil clone: {} of {}", context.definition.name, context.project)
}

/// The names of one clone's databases, in the order of the definition. `group`: see [`Request`].
///
/// # Errors
/// As [`NamePattern::render`].
pub fn names(
    context: &Context<'_>,
    pattern: &NamePattern,
    group: &str,
    index: usize,
    shard: Option<Shard>,
) -> Result<Vec<String>> {
    let checkout = &context.holder.checkout;
    let worktree = checkout.worktree_name();
    let render = |alias: &String| {
        pattern.render(&NameParts {
            id: group,
            alias,
            index,
            shard: shard.map(|s| s.index),
            branch: match &checkout.branch {
                Some(branch) => Some(&branch.name),
                None => context.holder.branch.as_deref(),
            },
            worktree: worktree.as_deref(),
            project: context.project,
        })
    };
    context.definition.databases.iter().map(render).collect()
}

/// Fails if a pattern cannot name that many clones: to be asked before a long build.
///
/// # Errors
/// [`crate::Kind::Usage`]
pub fn check_names(
    context: &Context<'_>,
    pattern: &NamePattern,
    group: &str,
    count: usize,
    shard: Option<Shard>,
) -> Result<()> {
    for index in 0..count {
        let mut seen = HashSet::new();
        for name in names(context, pattern, group, index, shard)? {
            if !seen.insert(name.clone()) {
                return Err(Error::usage(format!(
                    "the name pattern gives `{name}` to two databases of the set"
                ))
                .hint("add `{alias}` to `--name`"));
            }
        }
    }
    Ok(())
}

/// Registers a clone that is nobody's yet, of some of a template's databases: they keep their private names.
///
/// # Errors
/// The driver's.
pub async fn register_unnamed(
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
        let _ = registry.give_up_clone(id).await;
    }
}
