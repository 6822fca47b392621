//! Builds: databases under private names, the user's own migrate command, and the seal.
//!
//! The databases are empty, or copies of an older template that is extended.
//! The order must not change: intent, CREATE, mark, command, checks, inputs again, settle, close
//! the door, seal. A crash before the seal's COMMIT leaves a `building` row whose lock is free and
//! databases under private names: never a template, and found by the next sweep.

use std::time::Instant;

use super::command::run_command;
use super::compare::Subject;
use super::overtaken::{Overtaken, Watch};
use super::progress::Progress;
use super::seal::{Inspected, Sealing, adopt, inspect, oid_of, seal};
use super::source::{self, Start};
use super::{BuildPermit, Extends, Template, Unsealed, unsealed, vacate};
use crate::context::Context;
use crate::database::create::{self, Copy};
use crate::database::drop;
use crate::database::strategy::Chooser;
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Extending};
use crate::fingerprint::{Recipe, migrations};
use crate::names::{self, Fingerprint};
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, catalog, replay, sql};
use crate::registry::database::{NewDatabase, Owner};
use crate::registry::template::NewExtension;
use crate::registry::{DatabaseRow, Registry};
use crate::variables::{NamedDatabase, Outcome};

/// How a build ended, if not with an error.
pub(super) enum Built {
    /// The template, locked against being dropped.
    Sealed(Box<Template>),
    /// The inputs changed while the command ran. What it built is dropped.
    Overtaken(Box<Overtaken>),
    /// The new migrations changed nothing, so it is no template. It is locked against being dropped, and can
    /// be copied.
    Unsealed(Box<Template>, Unsealed),
}

/// What a build extends: its databases are copies of an older template, which stays locked until they
/// are made. A build without one starts from nothing.
pub(super) struct Extension {
    pub(super) template: Template,
    pub(super) extends: Extends,
    pub(super) provisional: bool,
    /// Files of `rerun_inputs` that differ from those of the template.
    pub(super) rerun_inputs: Vec<String>,
    /// Files of `companions` that the template lacks.
    pub(super) companions: Vec<String>,
}

/// An extension as observers see it.
struct Shown {
    base: String,
    migrations: usize,
    rerun_inputs: Vec<String>,
    companions: Vec<String>,
}

impl Shown {
    fn new(extension: &Extension) -> Self {
        Shown {
            base: extension.extends.base.short(),
            migrations: migrations(&extension.extends.added).len(),
            rerun_inputs: extension.rerun_inputs.clone(),
            companions: extension.companions.clone(),
        }
    }

    fn of(&self) -> Extending<'_> {
        Extending {
            base: &self.base,
            migrations: self.migrations,
            rerun_inputs: &self.rerun_inputs,
            companions: &self.companions,
        }
    }
}

/// A build whose command has ended well, over inputs that are still the same: to be sealed, or dropped.
pub(super) struct Done {
    pub(super) id: i64,
    pub(super) rows: Vec<DatabaseRow>,
    pub(super) inspected: Inspected,
    pub(super) started: Instant,
    /// Set if the command did nothing for the new migrations.
    pub(super) unsealed: Option<Unsealed>,
}

impl Done {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            id: self.id,
            rows: &self.rows,
            replays: &self.inspected.replays,
            shapes: &self.inspected.shapes,
        }
    }
}

/// How the command of a build ended, if not with an error.
pub(super) enum Made {
    Done(Box<Done>),
    /// As [`Built::Overtaken`].
    Overtaken(Box<Overtaken>),
}

/// Builds the template. The permit is the proof that nobody else builds it.
pub(super) async fn build(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
    recipe: &Recipe,
    extension: Option<Extension>,
) -> Result<Built> {
    let definition = &context.definition.name;
    let extends = extension.as_ref().map(|e| e.extends.clone());
    let shown = extension.as_ref().map(Shown::new);
    let provisional = extension.as_ref().is_some_and(|e| e.provisional);
    let done = match make(registry, context, permit, recipe, extension).await? {
        Made::Done(done) => *done,
        Made::Overtaken(new) => return Ok(Built::Overtaken(new)),
    };
    let (id, took) = (done.id, done.started.elapsed());
    let unsealed = done.unsealed.clone();
    let sealed = Sealing {
        recipe,
        extends: extends.as_ref(),
        provisional,
        replaces: false,
        unsealed: unsealed.as_ref(),
    };
    let template = match seal(registry, context, done, &sealed).await {
        Ok(template) => template,
        Err(error) => return Err(give_up(registry, context, id, error).await),
    };
    let fingerprint = recipe.fingerprint();
    let outcome = match (&unsealed, &extends) {
        (Some(_), _) => Outcome::Unsealed,
        (None, Some(_)) => Outcome::Extended,
        (None, None) => Outcome::Miss,
    };
    if unsealed.is_none() {
        context.tell(Event::Sealed {
            definition,
            fingerprint: &fingerprint.short(),
            extends: shown.as_ref().map(Shown::of),
            took,
        });
    }
    registry
        .note_event(
            context.project,
            definition,
            &fingerprint,
            outcome.as_str(),
            took.as_millis() as u64,
            extends.map(|e| e.added.len()),
        )
        .await?;
    Ok(match unsealed {
        None => Built::Sealed(Box::new(template)),
        Some(unsealed) => Built::Unsealed(Box::new(template), unsealed),
    })
}

/// Does all of a build but its seal. What an error leaves is dropped, or left to a person; what is done
/// belongs to the caller, who seals it or calls [`give_up`] or [`discard`].
pub(super) async fn make(
    registry: &mut Registry,
    context: &Context<'_>,
    _permit: &BuildPermit,
    recipe: &Recipe,
    extension: Option<Extension>,
) -> Result<Made> {
    let started = Instant::now();
    let definition = context.definition;
    let fingerprint = recipe.fingerprint();
    // A `building` row under a free lock is what a dead builder left.
    if let Some(dead) =
        registry.find_template(context.project, &definition.name, &fingerprint, "building").await?
    {
        registry.break_template(dead.id, "its builder is gone", false).await?;
    }
    let costs = registry.costs(context.project, &definition.name).await?;
    context.endpoint.learn_traces(registry.session()).await;
    let (outcome, expected) = match &extension {
        None => (Outcome::Miss, costs.full),
        Some(_) => (Outcome::Extended, costs.extension),
    };
    let shown = extension.as_ref().map(Shown::new);
    context.tell(Event::Building {
        definition: &definition.name,
        fingerprint: &fingerprint.short(),
        extends: shown.as_ref().map(Shown::of),
        expected,
    });
    let progress = match &extension {
        None => Progress::new(&migrations(recipe.migrations.iter().map(|f| &f.path))),
        Some(extension) => Progress::new(&migrations(&extension.extends.added)),
    };
    let new_extension = extension.as_ref().map(|e| NewExtension {
        base: e.template.id,
        added: &e.extends.added,
        provisional: e.provisional,
    });
    let id = registry
        .insert_template(
            context.project,
            &definition.name,
            recipe,
            context.holder,
            definition.extend,
            new_extension.as_ref(),
        )
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
    let base = extension.map(|extension| extension.template);
    let done = async {
        let mut rows = registry.insert_databases(&owner, &new).await?;
        let creating = async {
            let Some(template) = &base else {
                return create_empty(registry, context, &mut rows).await;
            };
            let start = Start { source: template.source.as_deref().cloned(), objects: 0 };
            let words = format!("pgstencil extends {} of {} here", definition.name, context.project);
            copy_base(registry, context, id, &mut rows, template, &words).await?;
            Ok(start)
        };
        let (created, watch) = tokio::join!(creating, Watch::begin(context));
        let start = created?;
        let watch = watch?;
        let set = private_set(&rows);
        run_command(registry, context, &set, outcome, Some(id), progress).await?;
        let inspected = inspect(registry, context, &mut rows, &start).await?;
        if let Some(overtaken) = watch.end(context, recipe).await? {
            return Ok(Err(overtaken));
        }
        let mut done = Done { id, rows, inspected, started, unsealed: None };
        let (subject, base) = (done.subject(), base.as_ref());
        done.unsealed = unsealed::look(registry, context, &subject, recipe, base).await?;
        Ok::<_, Error>(Ok(done))
    }
    .await;
    // Locked until here, since the result is compared with it. If the session is gone, so is the lock.
    if let Some(base) = base {
        let _ = base.let_go(registry).await;
    }
    match done {
        Ok(Ok(done)) => Ok(Made::Done(Box::new(done))),
        Ok(Err(new)) => {
            discard(registry, id, "files changed while it was built").await?;
            Ok(Made::Overtaken(Box::new(new)))
        }
        Err(error) => {
            let outcome = match error.kind() {
                Kind::Build => Some("failed"),
                Kind::Timeout => Some("timed_out"),
                _ => None,
            };
            if let Some(outcome) = outcome {
                // For `stats`. The error of the build is what matters.
                let took = started.elapsed().as_millis() as u64;
                let (project, name) = (context.project, &definition.name);
                let _ = registry.note_event(project, name, &fingerprint, outcome, took, None).await;
            }
            Err(give_up(registry, context, id, error).await)
        }
    }
}

/// How the line begins that names a database which a failed build left to a person.
pub(super) const LEFT: &str = "left for inspection";

/// Drops what a failed build left, or leaves it to a person, and says so.
pub(super) async fn give_up(registry: &mut Registry, context: &Context<'_>, id: i64, error: Error) -> Error {
    let of_build = matches!(error.kind(), Kind::Build | Kind::Timeout);
    if of_build && context.keep_failed {
        return match keep(registry, id, error.message()).await {
            Ok(names) => {
                names.iter().fold(error, |e, name| e.detail(format!("{LEFT}, for a day: database `{name}`")))
            }
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
/// copied. The rows are those of the clone, and `fingerprint` that of the inputs which it is to have. Returns
/// the builder's own comments.
pub(crate) async fn build_in_place(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
    fingerprint: &Fingerprint,
) -> Result<std::result::Result<Vec<Option<String>>, Box<Overtaken>>> {
    let traits = registry.facts().traits.clone();
    let (created, watch, inputs) =
        tokio::join!(create_empty(registry, context, rows), Watch::begin(context), context.inputs());
    created?;
    let (watch, recipe) = (watch?, inputs?.with_server(traits));
    if recipe.fingerprint() != *fingerprint {
        let overtaken = Overtaken::new(&recipe.clone(), recipe, &[], &[]);
        return Ok(Err(Box::new(overtaken)));
    }
    let set = private_set(rows);
    let progress = Progress::new(&migrations(recipe.migrations.iter().map(|f| &f.path)));
    run_command(registry, context, &set, Outcome::Fallback, None, progress).await?;
    adopt(registry, context, rows).await?;
    let mut comments = Vec::new();
    for row in rows.iter() {
        let oid = oid_of(row)?;
        // A database in use cannot get its name.
        vacate::close(registry, context, row, oid).await?;
        let replay = replay::read(registry.session(), oid, &row.mark()).await?;
        comments.push(replay.comment);
    }
    match watch.end(context, &recipe).await? {
        None => Ok(Ok(comments)),
        Some(overtaken) => Ok(Err(Box::new(overtaken))),
    }
}

fn private_set(rows: &[DatabaseRow]) -> Vec<NamedDatabase> {
    rows.iter().map(|r| NamedDatabase { role: r.role.clone(), name: r.private_name.clone() }).collect()
}

/// Copies the database that builds start from, which is empty unless the config says otherwise.
async fn create_empty(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
) -> Result<Start> {
    let chooser = Chooser::read(registry, context, false).await?;
    let from = source::find(registry, context).await?;
    let (bytes, files) = match &from {
        None => (8_000_000, 300),
        Some(from) => {
            let bytes = catalog::size(registry.session(), &[from.oid]).await;
            (bytes.unwrap_or(8_000_000), 300)
        }
    };
    let mut start = Start::default();
    for row in rows {
        let copy = Copy {
            target: row.private_name.clone(),
            source: context.definition.from.clone(),
            source_oid: from.as_ref().map(|from| from.oid),
            strategy: chooser.choose(bytes, files),
            open: true,
        };
        create::create(registry.session(), &copy, context).await?;
        let words = format!("pgstencil builds {} of {} here", context.definition.name, context.project);
        registry.mark_created(row, &words, None).await?;
        if let (Some(from), None) = (&from, &start.source) {
            start = source::start(registry, context, from, &row.private_name).await?;
        }
    }
    Ok(start)
}

/// Copies a template to the databases of a build. The copies are closed until their settings and
/// grants are as in the template.
pub(super) async fn copy_base(
    registry: &mut Registry,
    context: &Context<'_>,
    id: i64,
    rows: &mut [DatabaseRow],
    base: &Template,
    words: &str,
) -> Result<()> {
    let chooser = Chooser::read(registry, context, false).await?;
    let copies = base.copies_to(rows, &chooser);
    let keys = [LockKey::template(base.id), LockKey::template(id)];
    create::create_all(registry, context, &copies, &keys).await?;
    for (row, from) in rows.iter_mut().zip(base.databases()) {
        let builders = from.replay.comment.as_deref();
        registry.mark_created(row, words, builders).await?;
        from.reapply(registry, context, &row.private_name, "copy of a template").await?;
        open(registry, &row.private_name).await?;
    }
    Ok(())
}

pub(super) async fn open(registry: &mut Registry, name: &str) -> Result<()> {
    registry
        .session()
        .run(sql::allow_connections(name, true))
        .await
        .doing(|| format!("open database `{name}`"))
}

/// Drops what a build left. Returns the reasons why some of it stays.
pub(super) async fn discard(registry: &mut Registry, id: i64, reason: &str) -> Result<Vec<String>> {
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
            open(registry, &found.name).await?;
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
