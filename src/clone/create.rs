//! Clones made while somebody waits.

use std::time::Instant;

use super::{Clone, Request, after, check_name, give_up, named, names, words};
use crate::context::Context;
use crate::copy;
use crate::error::Result;
use crate::names::Fingerprint;
use crate::names::{clone_id, private_name};
use crate::pg::lock::LockKey;
use crate::pg::sql::Statement;
use crate::pg::sqlstate;
use crate::registry::clone::NewClone;
use crate::registry::database::NewDatabase;
use crate::registry::handover::{Finished, HandedOver};
use crate::registry::{DatabaseRow, Registry};
use crate::strategy::Chooser;
use crate::template::{Template, build};

/// A clone that the registry knows, and whose lock we hold.
struct Intended {
    id: String,
    rows: Vec<DatabaseRow>,
}

/// Copies a template, for all requests at the same time. The clones' locks are held by the registry
/// session from before their first row on; for a [`crate::registry::Lease::Session`] they are the leases. `full`: the
/// server's disk was found full just now. `also`: statements that are sent with the intents.
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
    also: &[Statement],
) -> Result<Vec<Clone>> {
    let started = Instant::now();
    let fingerprint = template.fingerprint();
    let of = Some(template.id());
    let intended = register(registry, context, requests, fingerprint, of, also).await?;
    let done = async {
        let chooser = Chooser::read(registry, context, full).await?;
        let mut copies = Vec::new();
        let mut keys = vec![LockKey::template(template.id())];
        for clone in &intended {
            copies.extend(template.copies_to(&clone.rows, &chooser));
            keys.push(LockKey::copying(&clone.id));
        }
        copy::create_all(registry, context, &copies, &keys).await?;
        for clone in &intended {
            for (row, from) in clone.rows.iter().zip(template.databases()) {
                from.reapply(registry, context, &row.private_name, "clone")
                    .await?;
            }
        }
        let comments: Vec<Option<&str>> = template
            .databases()
            .iter()
            .map(|d| d.replay.comment.as_deref())
            .collect();
        let handed_over = hand_over(registry, context, requests, &intended, &comments).await?;
        finish(
            context,
            requests,
            &intended,
            handed_over,
            fingerprint,
            started,
        )
        .await
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
    let requests = std::slice::from_ref(request);
    let mut intended = register(registry, context, requests, fingerprint, None, &[]).await?;
    let done = async {
        let mut comments = Vec::new();
        for clone in &mut intended {
            comments = build::build_in_place(registry, context, &mut clone.rows).await?;
        }
        let comments: Vec<Option<&str>> = comments.iter().map(Option::as_deref).collect();
        let handed_over = hand_over(registry, context, requests, &intended, &comments).await?;
        finish(
            context,
            requests,
            &intended,
            handed_over,
            fingerprint,
            started,
        )
        .await
    }
    .await;
    if done.is_err() {
        let ids: Vec<String> = intended.into_iter().map(|clone| clone.id).collect();
        give_up(registry, &ids).await;
    }
    done
}

/// Names the databases of the clones, takes the clones' locks and writes the intents.
async fn register(
    registry: &mut Registry,
    context: &Context<'_>,
    requests: &[Request<'_>],
    fingerprint: &Fingerprint,
    template_id: Option<i64>,
    also: &[Statement],
) -> Result<Vec<Intended>> {
    let mut named = Vec::new();
    for request in requests {
        let id = match request.index {
            0 => request.group.to_owned(),
            _ => clone_id(),
        };
        let (index, shard) = (request.index, request.shard);
        let names = names(context, request.pattern, request.group, index, shard)?;
        if !request.pattern.is_unique() {
            // Looked at before the work; the rename at the end decides.
            for name in &names {
                check_name(registry, name).await?;
            }
        }
        let roles = context.definition.databases.iter();
        let databases: Vec<NewDatabase> = roles
            .zip(names)
            .map(|(role, name)| NewDatabase {
                role: role.clone(),
                private_name: private_name(),
                name,
            })
            .collect();
        named.push((id, databases));
    }
    let new: Vec<NewClone<'_>> = named
        .iter()
        .zip(requests)
        .map(|((id, databases), request)| NewClone {
            id,
            project: context.project,
            definition: &context.definition.name,
            fingerprint,
            template_id,
            lease: request.lease,
            holder: context.holder,
            databases: databases.clone(),
        })
        .collect();
    let rows = registry.intend_clones(&new, also).await?;
    let ids = named.into_iter().map(|(id, _)| id);
    Ok(ids
        .zip(rows)
        .map(|(id, rows)| Intended { id, rows })
        .collect())
}

/// Gives the clones their names, their marks and their leases, and opens them. `comments`: the builder's
/// own, for each database of a set.
async fn hand_over(
    registry: &mut Registry,
    context: &Context<'_>,
    requests: &[Request<'_>],
    clones: &[Intended],
    comments: &[Option<&str>],
) -> Result<Vec<HandedOver>> {
    let words = words(context);
    let finished: Vec<Finished<'_>> = clones
        .iter()
        .zip(requests)
        .map(|(Intended { id, rows }, request)| {
            let comment = |row: &DatabaseRow, builders: &Option<&str>| {
                row.mark().comment(&format!("{words} ({id})"), *builders)
            };
            let rows = rows.iter().zip(comments);
            Finished {
                id,
                lease: request.lease,
                holder: context.holder,
                databases: rows.map(|(row, c)| (row, comment(row, c))).collect(),
            }
        })
        .collect();
    let error = match registry.hand_over(&finished).await {
        Ok(handed_over) => return Ok(handed_over),
        Err(error) => error,
    };
    // 42P04, 23505: somebody took a name since we looked.
    if matches!(sqlstate(&error).as_deref(), Some("42P04" | "23505")) {
        for clone in clones {
            for row in &clone.rows {
                check_name(registry, &row.name).await?;
            }
        }
    }
    Err(error)
}

/// Runs what the definition wants done to every clone, one after the other: `after_clone` is a command of
/// the user's, who may not have thought of two at once.
async fn finish(
    context: &Context<'_>,
    requests: &[Request<'_>],
    clones: &[Intended],
    handed_over: Vec<HandedOver>,
    fingerprint: &Fingerprint,
    started: Instant,
) -> Result<Vec<Clone>> {
    let mut ready = Vec::new();
    for ((clone, request), handed_over) in clones.iter().zip(requests).zip(handed_over) {
        let databases = named(&clone.rows);
        after::after_clone(context, request, &databases).await?;
        ready.push(Clone {
            id: clone.id.clone(),
            databases,
            oids: handed_over.oids,
            fingerprint: *fingerprint,
            expires_at: handed_over.expires_at,
            took: started.elapsed(),
        });
    }
    Ok(ready)
}
