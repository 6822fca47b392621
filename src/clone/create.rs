//! Clones made while somebody waits.

use std::time::Instant;

use super::{Clone, Request, after, check_name, give_up, named, names, taken, words};
use crate::context::Context;
use crate::copy;
use crate::error::Result;
use crate::names::Fingerprint;
use crate::names::{clone_id, private_name};
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, sql, sqlstate};
use crate::registry::clone::NewClone;
use crate::registry::database::{self, NewDatabase};
use crate::registry::{DatabaseRow, Lease, Registry};
use crate::strategy::Chooser;
use crate::template::{Template, build};

/// A clone that the registry knows, and whose lock we hold.
struct Intended {
    id: String,
    rows: Vec<DatabaseRow>,
}

/// Copies a template, for all requests at the same time. The clones' locks are held by the registry
/// session from before their first row on; for a [`Lease::Session`] they are the leases. `full`: the
/// server's disk was found full just now.
///
/// # Errors
/// [`crate::Kind::NameTaken`] if a wanted name belongs to something else; the driver's. After an error there is
/// none of the clones, and the sweep finds what was made of them.
pub async fn create(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    requests: &[Request<'_>],
    full: bool,
) -> Result<Vec<Clone>> {
    let started = Instant::now();
    let fingerprint = template.fingerprint();
    let mut intended = Vec::new();
    let done = async {
        for request in requests {
            let of = Some(template.id());
            intended.push(register(registry, context, request, fingerprint, of).await?);
        }
        let chooser = Chooser::read(registry, context, full).await?;
        let mut copies = Vec::new();
        let mut keys = vec![LockKey::template(template.id())];
        for clone in &intended {
            copies.extend(template.copies_to(&clone.rows, &chooser));
            keys.push(LockKey::copying(&clone.id));
        }
        copy::create_all(registry, context, &copies, &keys).await?;
        let comments: Vec<Option<&str>> = template
            .databases()
            .iter()
            .map(|d| d.replay.comment.as_deref())
            .collect();
        for (clone, request) in intended.iter_mut().zip(requests) {
            for (row, from) in clone.rows.iter_mut().zip(template.databases()) {
                registry.mark_created(row, &words(context), None).await?;
                from.reapply(registry, context, &row.private_name, "clone")
                    .await?;
            }
            hand_over(registry, context, request, clone, &comments).await?;
        }
        finish(registry, context, requests, &intended, fingerprint, started).await
    }
    .await;
    if done.is_err() {
        let ids: Vec<String> = intended.into_iter().map(|clone| clone.id).collect();
        give_up(registry, &ids).await;
    }
    done
}

/// Makes a clone without a template: the build command runs straight on its databases.
///
/// # Errors
/// As [`create`], and [`crate::Kind::Build`].
pub async fn create_without_template(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    request: &Request<'_>,
) -> Result<Vec<Clone>> {
    let started = Instant::now();
    let mut clone = register(registry, context, request, fingerprint, None).await?;
    let requests = std::slice::from_ref(request);
    let done = async {
        let comments = build::build_in_place(registry, context, &mut clone.rows).await?;
        let comments: Vec<Option<&str>> = comments.iter().map(Option::as_deref).collect();
        hand_over(registry, context, request, &clone, &comments).await?;
        let clones = std::slice::from_ref(&clone);
        finish(registry, context, requests, clones, fingerprint, started).await
    }
    .await;
    if done.is_err() {
        give_up(registry, &[clone.id]).await;
    }
    done
}

/// Names the databases, takes the clone's lock and writes the intent.
async fn register(
    registry: &mut Registry,
    context: &Context<'_>,
    request: &Request<'_>,
    fingerprint: &Fingerprint,
    template_id: Option<i64>,
) -> Result<Intended> {
    let id = match request.index {
        0 => request.group.to_owned(),
        _ => clone_id(),
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
            private_name: private_name(),
            name,
        })
        .collect();
    if !request.pattern.is_unique() {
        // Looked at before the work; the rename at the end decides.
        for n in &new {
            check_name(registry, &n.name).await?;
        }
    }
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
    let rows = registry.intend_clone(&new_clone, &new).await?;
    Ok(Intended { id, rows })
}

/// Gives the clone its names, its marks and its lease, and opens it: all in one transaction.
async fn hand_over(
    registry: &mut Registry,
    context: &Context<'_>,
    request: &Request<'_>,
    clone: &Intended,
    comments: &[Option<&str>],
) -> Result<()> {
    let Intended { id, rows } = clone;
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

/// Runs what the definition wants done to every clone, one after the other: `after_clone` is a command of
/// the user's, who may not have thought of two at once.
async fn finish(
    registry: &mut Registry,
    context: &Context<'_>,
    requests: &[Request<'_>],
    clones: &[Intended],
    fingerprint: &Fingerprint,
    started: Instant,
) -> Result<Vec<Clone>> {
    let mut ready = Vec::new();
    for (clone, request) in clones.iter().zip(requests) {
        let databases = named(&clone.rows);
        after::after_clone(context, request, &databases).await?;
        let expires_at = match request.lease {
            Lease::Session | Lease::Expiry(None) => None,
            Lease::Expiry(Some(_)) => registry
                .clone_by_id(&clone.id)
                .await?
                .and_then(|row| row.expires_at),
        };
        ready.push(Clone {
            id: clone.id.clone(),
            databases,
            oids: clone.rows.iter().filter_map(|r| r.oid).collect(),
            fingerprint: *fingerprint,
            expires_at,
            took: started.elapsed(),
        });
    }
    Ok(ready)
}
