//! Builds: databases under private names, the user's own migrate command, and the seal.
//!
//! The order must not change: intent, CREATE, mark, command, checks, inputs again, settle, close
//! the door, seal. A crash before the seal's COMMIT leaves a `building` row whose lock is free and
//! databases under private names: never a template, and found by the next sweep.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::types::Oid;

use super::{BuildPermit, Template, TemplateDatabase};
use crate::context::Context;
use crate::copy::{self, Copy};
use crate::drop;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::fingerprint::{Recipe, ServerTraits};
use crate::handout::{self, NamedDatabase, Outcome, Phase};
use crate::names;
use crate::pg::catalog::{self, BuiltWith, Contents};
use crate::pg::lock::LockKey;
use crate::pg::session::OpenError;
use crate::pg::{Doing as _, Limit, Session, replay, sql};
use crate::process::{self, Ended, Finished, Job, Status};
use crate::registry::database::{self, NewDatabase, Owner};
use crate::registry::{DatabaseRow, Registry};

/// How a build ended, if not with an error.
pub(crate) enum Built {
    /// The template, locked against being dropped, and what the build took.
    Sealed(Template, Duration),
    /// The inputs changed while the command ran. What it built is dropped; this is the new recipe.
    Overtaken(Box<Recipe>),
}

/// How long sessions that the build left open may take to end.
const STRAGGLERS: Duration = Duration::from_secs(10);

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

async fn run_command(
    registry: &mut Registry,
    context: &Context<'_>,
    set: &[NamedDatabase],
    outcome: Outcome,
    template: Option<i64>,
) -> Result<()> {
    let definition = context.definition;
    let mut job = Job::shell(&definition.build, context.root);
    job.env = handout::variables(
        context.endpoint,
        definition,
        Phase::Build,
        outcome,
        &[set.to_vec()],
        None,
    )?;
    job.cleared = handout::CLEARED.map(Into::into).to_vec();
    let timeout = match context.limit.left() {
        Some(left) => left.min(definition.build_timeout),
        None => definition.build_timeout,
    };
    let last = Arc::new(Mutex::new(String::new()));
    let mut on_line = {
        let last = Arc::clone(&last);
        let observe = context.observe;
        move |line: &str| {
            // Shown to those who wait, by way of the registry: no password may get there.
            let line = context.endpoint.redact(line);
            observe(Event::Output(&line));
            if let Ok(mut last) = last.lock() {
                line.clone_into(&mut last);
            }
        }
    };
    // If the session is lost, so is the lock, and somebody else may build: end the command.
    let lost = context.limit.cancel.child_token();
    let command = process::run_captured(&job, Some(timeout), &lost, &mut on_line);
    let watch = async {
        let mut written = String::new();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let line = last.lock().map(|l| l.clone()).unwrap_or_default();
            let line = names::cut(&line, 400).to_owned();
            let alive = match template {
                Some(id) if line != written => {
                    written.clone_from(&line);
                    registry.write_log_tail(id, &line).await
                }
                _ => registry.ping().await,
            };
            if let Err(error) = alive {
                lost.cancel();
                return error;
            }
        }
    };
    tokio::pin!(command, watch);
    let mut failure = None;
    let finished = loop {
        tokio::select! {
            finished = &mut command => break finished?,
            error = &mut watch, if failure.is_none() => failure = Some(error),
        }
    };
    if let Some(error) = failure {
        return Err(error.detail("the build was ended, since its lock went with the session"));
    }
    judge(context, &finished, timeout)
}

fn judge(context: &Context<'_>, finished: &Finished, timeout: Duration) -> Result<()> {
    let definition = context.definition;
    let seconds = finished.elapsed.as_secs_f64();
    let error = match (&finished.ended, &finished.status) {
        (Ended::ByItself, Status::Exited(0)) => return Ok(()),
        (Ended::Cancelled, _) => {
            return Err(Error::new(Kind::Interrupted, "the build was interrupted"));
        }
        (Ended::TimedOut, _) if timeout < definition.build_timeout => Error::new(
            Kind::Timeout,
            format!(
                "the build of `{}` was ended after {seconds:.1} s, by `--wait`",
                definition.name
            ),
        ),
        (Ended::TimedOut, _) => Error::new(
            Kind::Timeout,
            format!(
                "the build of `{}` was ended after {seconds:.1} s",
                definition.name
            ),
        )
        .hint(format!(
            "if it needs longer, raise `build_timeout` of [template.{}] (now {})",
            definition.name,
            humantime::format_duration(definition.build_timeout)
        )),
        (Ended::ByItself, Status::Exited(code)) => Error::new(
            Kind::Build,
            format!(
                "the build command of `{}` failed (exit code {code}, after {seconds:.1} s)",
                definition.name
            ),
        ),
        (Ended::ByItself, Status::Signaled(signal)) => Error::new(
            Kind::Build,
            format!(
                "the build command of `{}` was killed by signal {signal} after {seconds:.1} s",
                definition.name
            ),
        ),
    };
    let mut error = error.detail(format!("command: {}", definition.build));
    if !finished.tail.is_empty() {
        error = error.detail("last output:");
        for line in &finished.tail {
            error = error.detail(format!("  {}", context.endpoint.redact(line)));
        }
    }
    if !context.keep_failed {
        error = error.hint("`--keep-failed` leaves the half-built database for inspection");
    }
    Err(error.hint("`-v` shows the whole output"))
}

/// A `reset` command drops and creates its database: what now stands under our private name and
/// belongs to our role is adopted.
async fn adopt(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
) -> Result<()> {
    for row in rows.iter_mut() {
        let refuse = |what: &str| {
            Error::new(
                Kind::Build,
                format!(
                    "the build command {what}: database `{}` (role `{}`)",
                    row.private_name, row.role
                ),
            )
            .hint("let it fill the database that DATABASE_URL names, under that name")
        };
        let Some(found) = catalog::database(registry.session(), &row.private_name).await? else {
            return Err(refuse("dropped or renamed what it should fill"));
        };
        if Some(found.oid) == row.oid {
            continue;
        }
        if !found.ours {
            return Err(refuse(&format!(
                "left what it should fill to role `{}`, which pgstencil's role `{}` cannot become",
                found.owner,
                registry.facts().role
            )));
        }
        database::adopt(registry.session(), row.id, found.oid).await?;
        row.oid = Some(found.oid);
        // Marked at once: until then only the private name says that it is ours.
        registry
            .session()
            .run(sql::comment_database(
                &row.private_name,
                &row.mark().comment(
                    "pgstencil adopted what the build made anew",
                    found.comment.as_deref(),
                ),
            ))
            .await
            .doing(|| "mark an adopted database".into())?;
    }
    for row in rows.iter() {
        for name in catalog::named_after(registry.session(), &row.private_name).await? {
            context.tell(Event::Warning(&format!(
                "the build command created database `{name}` beside its own; it is left alone: a template holds the databases of its roles only"
            )));
        }
    }
    Ok(())
}

struct Inspected {
    contents: Vec<Contents>,
    replays: Vec<replay::Replay>,
    built_with: BuiltWith,
}

/// Adopts, waits for stragglers, refuses empty databases, and settles what is there.
async fn inspect(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
) -> Result<Inspected> {
    adopt(registry, context, rows).await?;
    let mut inspected = Inspected {
        contents: Vec::new(),
        replays: Vec::new(),
        built_with: BuiltWith {
            server_version: registry.facts().version,
            ..BuiltWith::default()
        },
    };
    for row in rows.iter() {
        let oid = oid_of(row)?;
        no_stragglers(registry, context.limit, row, oid).await?;
        let gone = |e| match e {
            OpenError::Missing => Error::new(
                Kind::Build,
                format!("database `{}` disappeared", row.private_name),
            ),
            OpenError::Other(e) => e,
        };
        let mut session = Session::open(context.endpoint, &row.private_name, context.limit)
            .await
            .map_err(gone)?;
        let contents = catalog::contents(&mut session).await?;
        if contents.objects == 0 && !context.definition.allow_empty {
            return Err(Error::new(
                Kind::Build,
                format!("the build command changed nothing in database `{}` (role `{}`)", row.private_name, row.role),
            )
            .hint("does it read DATABASE_URL, or a variable that [template.X.env] maps? it may have migrated another database")
            .hint("`allow_empty = true` seals an empty template all the same"));
        }
        // One after the other: a role's CONNECTION LIMIT may be low.
        session.close().await;
        // Functions of expression indexes find things where the user's sessions find them.
        let mut users = Session::open_for_user(context.endpoint, &row.private_name, context.limit)
            .await
            .map_err(gone)?;
        for complaint in catalog::settle(&mut users).await? {
            context.tell(Event::Warning(&complaint));
        }
        // ANALYZE and VACUUM change the size.
        let contents = catalog::contents(&mut users).await?;
        users.close().await;
        inspected
            .replays
            .push(replay::read(registry.session(), oid, &row.mark()).await?);
        for (name, version) in &contents.extensions {
            inspected
                .built_with
                .extensions
                .insert(name.clone(), version.clone());
        }
        if let Some(version) = &contents.collation {
            inspected
                .built_with
                .collations
                .insert(row.role.clone(), version.clone());
        }
        inspected.contents.push(contents);
    }
    let extensions: Vec<String> = inspected.built_with.extensions.keys().cloned().collect();
    if !extensions.is_empty() {
        let available = catalog::available_extensions(registry.session(), &extensions).await?;
        inspected.built_with.available = available
            .into_iter()
            .filter_map(|(name, version)| Some((name, version?)))
            .collect();
    }
    Ok(inspected)
}

fn oid_of(row: &DatabaseRow) -> Result<Oid> {
    row.oid
        .ok_or_else(|| Error::internal(format!("database `{}` has no oid", row.private_name)))
}

async fn no_stragglers(
    registry: &mut Registry,
    limit: &Limit,
    row: &DatabaseRow,
    oid: Oid,
) -> Result<()> {
    let left = catalog::wait_until_empty(registry.session(), oid, STRAGGLERS, limit).await?;
    if left.is_empty() {
        return Ok(());
    }
    let error = Error::new(
        Kind::Build,
        format!(
            "the build left sessions open in database `{}` (role `{}`)",
            row.private_name, row.role
        ),
    );
    Err(left
        .iter()
        .fold(error, |e, v| e.detail(v.describe()))
        .hint("a template must be free of sessions to be cloned: let the build command end what it starts"))
}

/// The last step. The door is closed first, so that nobody comes in between; then one transaction
/// makes the databases a template.
async fn seal(
    registry: &mut Registry,
    context: &Context<'_>,
    id: i64,
    recipe: &Recipe,
    rows: &[DatabaseRow],
    inspected: Inspected,
    took: Duration,
) -> Result<Template> {
    for row in rows {
        registry
            .session()
            .run(sql::allow_connections(&row.private_name, false))
            .await
            .doing(|| format!("close database `{}`", row.private_name))?;
        // Who came in before the door closed is still in.
        no_stragglers(registry, context.limit, row, oid_of(row)?).await?;
    }
    context.limit.check("the seal")?;
    // Before the commit, so that there is no moment at which the template can be dropped.
    registry
        .session()
        .try_lock_shared(LockKey::template(id))
        .await
        .doing(|| "lock the new template".into())?;
    let fingerprint = recipe.fingerprint();
    let words = format!(
        "pgstencil template: {} of {}, {}",
        context.definition.name,
        context.project,
        fingerprint.short()
    );
    registry
        .session()
        .begin()
        .await
        .doing(|| "begin the seal".into())?;
    let done = async {
        for (i, row) in rows.iter().enumerate() {
            let replay = &inspected.replays[i];
            let contents = &inspected.contents[i];
            let session = registry.session();
            session
                .run(sql::rename_database(&row.private_name, &row.name))
                .await?;
            session.run(sql::is_template(&row.name, true)).await?;
            session
                .run(sql::comment_database(
                    &row.name,
                    &row.mark().comment(&words, replay.comment.as_deref()),
                ))
                .await?;
            let size = Some((contents.bytes, contents.files));
            database::set_present(session, row.id, size, Some(replay)).await?;
        }
        match registry
            .set_ready(id, &inspected.built_with, took.as_millis() as u64)
            .await?
        {
            true => Ok(()),
            // Somebody declared the build dead, which the lock should have prevented.
            false => Err(sqlx::Error::RowNotFound),
        }
    }
    .await;
    registry
        .session()
        .end(done)
        .await
        .doing(|| format!("seal template {}", fingerprint.short()))?;
    let databases = rows
        .iter()
        .enumerate()
        .map(|(i, row)| {
            Ok(TemplateDatabase {
                role: row.role.clone(),
                name: row.name.clone(),
                oid: oid_of(row)?,
                bytes: inspected.contents[i].bytes,
                files: inspected.contents[i].files,
                replay: inspected.replays[i].clone(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(super::sealed(id, fingerprint, databases))
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
