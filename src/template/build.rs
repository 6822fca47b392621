//! Builds: databases under private names, the user's own migrate command, and the seal.
//!
//! The order must not change: intent, CREATE, mark, command, checks, inputs again, settle, close
//! the door, seal. A crash before the seal's COMMIT leaves a `building` row whose lock is free and
//! databases under private names: never a template, and found by the next sweep.

use std::time::{Duration, Instant};

use super::command::run_command;
use super::seal::{adopt, inspect, no_stragglers, oid_of, seal};
use super::{BuildPermit, Template};
use crate::context::Context;
use crate::copy::{self, Copy};
use crate::drop;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::fingerprint::{Recipe, ServerTraits};
use crate::handout::{NamedDatabase, Outcome};
use crate::names;
use crate::pg::catalog::{self};
use crate::pg::{Doing as _, replay, sql};
use crate::registry::database::{NewDatabase, Owner};
use crate::registry::{DatabaseRow, Registry};

/// How a build ended, if not with an error.
pub(crate) enum Built {
    /// The template, locked against being dropped, and what the build took.
    Sealed(Template, Duration),
    /// The inputs changed while the command ran. What it built is dropped; this is the new recipe.
    Overtaken(Box<Recipe>),
}

/// Builds the template. The permit is the proof that nobody else builds it.
pub(crate) async fn build(
    registry: &mut Registry,
    context: &Context<'_>,
    _permit: BuildPermit,
    recipe: &Recipe,
    traits: &ServerTraits,
) -> Result<Built> {
    let started = Instant::now();
    let definition = context.definition;
    let fingerprint = recipe.fingerprint();
    // A `building` row under a free lock is what a dead builder left.
    if let Some(dead) = registry
        .find_template(context.project, &definition.name, &fingerprint, "building")
        .await?
    {
        registry
            .break_template(dead.id, "its builder is gone", false)
            .await?;
    }
    let expected = registry
        .last_build_millis(context.project, &definition.name)
        .await?;
    context.tell(Event::Building {
        definition: &definition.name,
        fingerprint: &fingerprint.short(),
        expected: expected.map(Duration::from_millis),
    });
    let id = registry
        .insert_template(context.project, &definition.name, recipe, context.holder)
        .await?;
    let new: Vec<NewDatabase> = definition
        .databases
        .iter()
        .map(|role| NewDatabase {
            role: role.clone(),
            private_name: names::private_name(),
            name: names::template_name(context.project, &definition.name, role, &fingerprint),
        })
        .collect();
    let owner = Owner::Template(id);
    let done = async {
        let mut rows = registry.insert_databases(&owner, &new).await?;
        create_empty(registry, context, &mut rows).await?;
        let set = private_set(&rows);
        run_command(registry, context, &set, Outcome::Miss, Some(id)).await?;
        let built = inspect(registry, context, &mut rows).await?;
        // Read again: files that were edited meanwhile may or may not be in what was built.
        let now = context.inputs().await?.with_server(traits.clone());
        if now.fingerprint() != fingerprint {
            return Ok(Err(now));
        }
        let took = started.elapsed();
        let template = seal(registry, context, id, recipe, &rows, built, took).await?;
        Ok::<_, Error>(Ok((template, took)))
    }
    .await;
    match done {
        Ok(Ok((template, took))) => {
            let short = fingerprint.short();
            context.tell(Event::Sealed {
                definition: &definition.name,
                fingerprint: &short,
                took,
            });
            registry
                .note_event(
                    context.project,
                    &definition.name,
                    &fingerprint,
                    "miss",
                    took.as_millis() as u64,
                )
                .await?;
            Ok(Built::Sealed(template, took))
        }
        Ok(Err(new)) => {
            discard(registry, id, "files changed while it was built").await?;
            Ok(Built::Overtaken(Box::new(new)))
        }
        Err(error) => Err(give_up(registry, context, id, error).await),
    }
}

/// Drops what a failed build left, or leaves it to a person, and says so.
async fn give_up(registry: &mut Registry, context: &Context<'_>, id: i64, error: Error) -> Error {
    let of_build = matches!(error.kind(), Kind::Build | Kind::Timeout);
    if of_build && context.keep_failed {
        return match keep(registry, id, error.message()).await {
            Ok(names) => names.iter().fold(error, |e, name| {
                e.detail(format!("left for inspection, for a day: database `{name}`"))
            }),
            Err(_) => error,
        };
    }
    match discard(registry, id, error.message()).await {
        Ok(stay) if of_build && stay.is_empty() => {
            error.detail("the half-built database was dropped; nothing was registered")
        }
        Ok(stay) => stay.into_iter().fold(error, Error::detail),
        // What cannot be dropped now stays in the registry, and the sweep finds it.
        Err(_) => error,
    }
}

/// Runs the build command straight on databases that become a clone, when no template can be
/// copied. The rows are those of the clone. Returns the builder's own comments.
pub(crate) async fn build_in_place(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
) -> Result<Vec<Option<String>>> {
    create_empty(registry, context, rows).await?;
    let set = private_set(rows);
    run_command(registry, context, &set, Outcome::Fallback, None).await?;
    adopt(registry, context, rows).await?;
    let mut comments = Vec::new();
    for row in rows.iter() {
        let oid = oid_of(row)?;
        // A database in use cannot get its name.
        no_stragglers(registry, context.limit, row, oid).await?;
        let replay = replay::read(registry.session(), oid, &row.mark()).await?;
        comments.push(replay.comment);
    }
    Ok(comments)
}

fn private_set(rows: &[DatabaseRow]) -> Vec<NamedDatabase> {
    rows.iter()
        .map(|r| NamedDatabase {
            role: r.role.clone(),
            name: r.private_name.clone(),
        })
        .collect()
}

async fn create_empty(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
) -> Result<()> {
    let facts = registry.facts().clone();
    for row in rows {
        let copy = Copy {
            target: row.private_name.clone(),
            source: "template0".into(),
            source_oid: None,
            strategy: context.copy_strategy(&facts, 8_000_000, 300),
            open: true,
        };
        copy::create(registry.session(), &copy, context).await?;
        let words = format!(
            "pgstencil builds {} of {} here",
            context.definition.name, context.project
        );
        registry.mark_created(row, &words).await?;
    }
    Ok(())
}

/// Drops what a build left. Returns the reasons why some of it stays.
async fn discard(registry: &mut Registry, id: i64, reason: &str) -> Result<Vec<String>> {
    registry.break_template(id, reason, false).await?;
    let stay = drop::drop_databases_of(registry, &Owner::Template(id)).await?;
    registry.forget_template(id).await?;
    Ok(stay)
}

/// Leaves what a build left to a person, for a day. Returns the names of the databases.
async fn keep(registry: &mut Registry, id: i64, reason: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for row in registry.databases_of(&Owner::Template(id)).await? {
        let found = catalog::database(registry.session(), &row.private_name).await?;
        let Some(found) = found.filter(|d| row.is(d)) else {
            continue;
        };
        if !found.open {
            registry
                .session()
                .run(sql::allow_connections(&found.name, true))
                .await
                .doing(|| format!("open database `{}`", found.name))?;
        }
        names.push(found.name);
    }
    let reason = match names.is_empty() {
        true => reason.to_owned(),
        false => format!("{reason}; left for inspection: {}", names.join(", ")),
    };
    registry.break_template(id, &reason, true).await?;
    Ok(names)
}
