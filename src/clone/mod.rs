//! Clones: sets of databases copied from a template, for one user.
//!
//! A clone is born under private names, closed to sessions. Its settings and grants are re-applied,
//! then one transaction gives it its names, its mark and its lease, and opens it. A crash before
//! that leaves a `creating` row whose lock is free, which the next sweep drops.

mod after;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::postgres::types::Oid;

use crate::context::Context;
use crate::copy;
use crate::error::{Error, Kind, Result};
use crate::handout::{NamedDatabase, Outcome, Shard};
use crate::names::{self, Fingerprint, NameParts, NamePattern};
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, catalog, sql, sqlstate};
use crate::registry::clone::NewClone;
use crate::registry::database::{self, NewDatabase, Owner};
use crate::registry::{CloneRow, DatabaseRow, Lease, Registry};
use crate::template::{Template, build};

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
    /// How long it is kept.
    pub lease: Lease,
    /// How its template came about, for `after_clone`.
    pub outcome: Outcome,
}

/// A clone that is ready for use.
#[derive(Clone, Debug)]
pub struct Clone {
    /// Short id.
    pub id: String,
    /// Its databases, in the order of the definition.
    pub databases: Vec<NamedDatabase>,
    /// Their identities, in the same order.
    pub oids: Vec<Oid>,
    /// What it was made from.
    pub fingerprint: Fingerprint,
    /// RFC 3339; `None` for session leases and for ever.
    pub expires_at: Option<String>,
    /// What making it took.
    pub took: Duration,
}

impl Clone {
    /// What a person calls it.
    pub fn name(&self) -> &str {
        self.databases
            .first()
            .map_or(self.id.as_str(), |d| d.name.as_str())
    }

    /// Reads a clone that exists.
    ///
    /// # Errors
    /// The driver's.
    pub async fn read(registry: &mut Registry, row: &CloneRow) -> Result<Self> {
        let rows = registry.databases_of(&Owner::Clone(row.id.clone())).await?;
        Ok(Clone {
            id: row.id.clone(),
            databases: named(&rows),
            oids: rows.iter().filter_map(|r| r.oid).collect(),
            fingerprint: row.fingerprint.parse()?,
            expires_at: row.expires_at.clone(),
            took: Duration::ZERO,
        })
    }
}

fn named(rows: &[DatabaseRow]) -> Vec<NamedDatabase> {
    rows.iter()
        .map(|r| NamedDatabase {
            role: r.role.clone(),
            name: r.name.clone(),
        })
        .collect()
}

/// Copies a template. The clone's lock is held by the registry session from before its first row
/// on; for a [`Lease::Session`] it is the lease.
///
/// # Errors
/// [`Kind::NameTaken`] if a wanted name belongs to something else; the driver's. After an error the
/// sweep finds what was made.
pub async fn create(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    request: &Request<'_>,
) -> Result<Clone> {
    let started = Instant::now();
    let (id, mut rows) = register(
        registry,
        context,
        request,
        template.fingerprint(),
        Some(template.id()),
    )
    .await?;
    let facts = registry.facts().clone();
    let copies = template.copies_to(&rows, context, &facts);
    let done = async {
        let keys = [LockKey::template(template.id()), LockKey::copying(&id)];
        copy::create_all(registry, context, &copies, &keys).await?;
        for (row, from) in rows.iter_mut().zip(template.databases()) {
            registry.mark_created(row, &words(context), None).await?;
            from.reapply(registry, context, &row.private_name, "clone")
                .await?;
        }
        let comments: Vec<Option<&str>> = template
            .databases()
            .iter()
            .map(|d| d.replay.comment.as_deref())
            .collect();
        hand_over(registry, context, request, &id, &rows, &comments).await
    }
    .await;
    finish(
        registry,
        context,
        request,
        id,
        rows,
        template.fingerprint(),
        started,
        done,
    )
    .await
}

/// Makes a clone without a template: the build command runs straight on its databases.
///
/// # Errors
/// As [`create`], and [`Kind::Build`].
pub async fn create_without_template(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    request: &Request<'_>,
) -> Result<Clone> {
    let started = Instant::now();
    let (id, mut rows) = register(registry, context, request, fingerprint, None).await?;
    let done = async {
        let comments = build::build_in_place(registry, context, &mut rows).await?;
        let comments: Vec<Option<&str>> = comments.iter().map(Option::as_deref).collect();
        hand_over(registry, context, request, &id, &rows, &comments).await
    }
    .await;
    finish(
        registry,
        context,
        request,
        id,
        rows,
        fingerprint,
        started,
        done,
    )
    .await
}

fn words(context: &Context<'_>) -> String {
    format!(
        "pgstencil clone: {} of {}",
        context.definition.name, context.project
    )
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
    let render = |role: &String| {
        pattern.render(&NameParts {
            id: group,
            role,
            index,
            shard: shard.map(|s| s.index),
            branch: context.holder.branch.as_deref(),
            project: context.project,
        })
    };
    context.definition.databases.iter().map(render).collect()
}

/// Fails if a pattern cannot name that many clones: to be asked before a long build.
///
/// # Errors
/// [`Kind::Usage`]
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
                .hint("add `{role}` to `--name`"));
            }
        }
    }
    Ok(())
}

/// Names the databases, takes the clone's lock and writes the intent.
async fn register(
    registry: &mut Registry,
    context: &Context<'_>,
    request: &Request<'_>,
    fingerprint: &Fingerprint,
    template_id: Option<i64>,
) -> Result<(String, Vec<DatabaseRow>)> {
    let id = match request.index {
        0 => request.group.to_owned(),
        _ => names::clone_id(),
    };
    let (index, shard) = (request.index, request.shard);
    let named = names(context, request.pattern, request.group, index, shard)?;
    let new: Vec<NewDatabase> = context
        .definition
        .databases
        .iter()
        .zip(named)
        .map(|(role, name)| NewDatabase {
            role: role.clone(),
            private_name: names::private_name(),
            name,
        })
        .collect();
    if !request.pattern.is_unique() {
        // Looked at before the work; the rename at the end decides.
        for n in &new {
            check_name(registry, &n.name).await?;
        }
    }
    let key = LockKey::clone(&id);
    registry
        .session()
        .try_lock(key)
        .await
        .doing(|| "lock the new clone".into())?;
    let new_clone = NewClone {
        id: &id,
        project: context.project,
        definition: &context.definition.name,
        fingerprint,
        template_id,
        name: new.first().map_or("", |n| &n.name),
        lease: request.lease,
        holder: context.holder,
    };
    registry.insert_clone(&new_clone).await?;
    let rows = registry
        .insert_databases(&Owner::Clone(id.clone()), &new)
        .await?;
    Ok((id, rows))
}

/// Fails if the name is taken, and says by whom.
///
/// # Errors
/// [`Kind::NameTaken`], and the driver's.
pub async fn check_name(registry: &mut Registry, name: &str) -> Result<()> {
    match catalog::database(registry.session(), name).await? {
        None => Ok(()),
        Some(_) => Err(taken(registry, name).await),
    }
}

/// The error for a name that a database has already; says whose it is.
pub async fn taken(registry: &mut Registry, name: &str) -> Error {
    let error = Error::new(
        Kind::NameTaken,
        format!("there is a database `{name}` already"),
    );
    match registry.clone_by_name(name).await {
        Ok(Some(row)) if row.state == "leased" => error
            .detail(format!("it is clone {} of definition `{}`, held by {}", row.id, row.definition, row.holder.0.describe()))
            .hint(format!("`pgstencil release {name}` gives it back, if it is yours; or choose another `--name`")),
        Ok(Some(_)) => error.hint("it was given back and is about to be dropped: try again"),
        _ => error
            .detail("it is not a clone of this registry, so pgstencil leaves it alone")
            .hint("choose another `--name`"),
    }
}

/// Gives the clone its names, its marks and its lease, and opens it: all in one transaction.
async fn hand_over(
    registry: &mut Registry,
    context: &Context<'_>,
    request: &Request<'_>,
    id: &str,
    rows: &[DatabaseRow],
    comments: &[Option<&str>],
) -> Result<()> {
    let mut clash = None;
    registry
        .session()
        .begin()
        .await
        .doing(|| "begin the hand-over".into())?;
    let done = async {
        for (row, builders) in rows.iter().zip(comments) {
            let session = registry.session();
            let renamed = session
                .run(sql::rename_database(&row.private_name, &row.name))
                .await;
            if renamed.is_err() {
                clash = Some(row.name.clone());
            }
            renamed?;
            let comment = row
                .mark()
                .comment(&format!("{} ({id})", words(context)), *builders);
            session
                .run(sql::comment_database(&row.name, &comment))
                .await?;
            session.run(sql::allow_connections(&row.name, true)).await?;
            database::set_present(session, row.id, None, None).await?;
        }
        match registry
            .set_leased(id, request.lease, context.holder)
            .await?
        {
            true => Ok(()),
            false => Err(sqlx::Error::RowNotFound),
        }
    }
    .await;
    let handed = registry
        .session()
        .end(done)
        .await
        .doing(|| format!("hand clone {id} over"));
    match (handed, clash) {
        // 42P04, 23505: somebody took the name since we looked.
        (Err(e), Some(name)) if matches!(sqlstate(&e).as_deref(), Some("42P04" | "23505")) => {
            Err(taken(registry, &name).await)
        }
        (handed, _) => handed,
    }
}

/// Runs what the definition wants done to every clone. A clone on which that fails, or that could
/// not be made, is given up.
#[expect(
    clippy::too_many_arguments,
    reason = "the tail that both ways to a clone share"
)]
async fn finish(
    registry: &mut Registry,
    context: &Context<'_>,
    request: &Request<'_>,
    id: String,
    rows: Vec<DatabaseRow>,
    fingerprint: &Fingerprint,
    started: Instant,
    done: Result<()>,
) -> Result<Clone> {
    let set = named(&rows);
    let done = match done {
        Ok(()) => after::after_clone(context, request, &set).await,
        error => error,
    };
    if let Err(error) = done {
        // If the session is gone, so is the lock, and the sweep does this.
        if registry.set_released(&id).await.is_ok() {
            let _ = registry.session().unlock(LockKey::clone(&id)).await;
        }
        return Err(error);
    }
    let expires_at = match request.lease {
        Lease::Session | Lease::Expiry(None) => None,
        Lease::Expiry(Some(_)) => registry
            .clone_by_id(&id)
            .await?
            .and_then(|row| row.expires_at),
    };
    Ok(Clone {
        id,
        databases: set,
        oids: rows.iter().filter_map(|r| r.oid).collect(),
        fingerprint: *fingerprint,
        expires_at,
        took: started.elapsed(),
    })
}
