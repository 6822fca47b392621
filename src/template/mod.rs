//! Templates: look one up, or get the right to build it.
//!
//! Lock, look again, build, seal last. [`ensure`] is the way from inputs to a [`Template`]; reading
//! starts here.

pub(crate) mod build;
mod command;
mod seal;

use std::time::{Duration, Instant};

use self::build::Built;

use sqlx::postgres::types::Oid;

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::fingerprint::Recipe;
use crate::handout::Outcome;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::catalog::{self, BuiltWith};
use crate::pg::lock::LockKey;
use crate::pg::replay::Replay;
use crate::registry::database::Owner;
use crate::registry::{Registry, TemplateRow};

/// A sealed template. There is no other way to one than a `ready` row that was read again under
/// the shared lock, or a build's seal. The lock keeps it from being dropped until
/// [`Template::let_go`], or until the registry session ends.
#[derive(Debug)]
pub struct Template {
    id: i64,
    fingerprint: Fingerprint,
    databases: Vec<TemplateDatabase>,
}

/// One database of a template.
#[derive(Clone, Debug)]
pub struct TemplateDatabase {
    /// Role within the set.
    pub role: String,
    /// Its name on the server.
    pub name: String,
    /// Its identity.
    pub oid: Oid,
    /// Size.
    pub bytes: i64,
    /// Number of files, about.
    pub files: i64,
    /// What a copy of it lacks.
    pub replay: Replay,
}

impl Template {
    /// Number of its row.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// What it was built from.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Its databases, in the order of the definition.
    pub fn databases(&self) -> &[TemplateDatabase] {
        &self.databases
    }

    /// Gives the shared lock back: from here on it may be dropped.
    ///
    /// # Errors
    /// The driver's.
    pub async fn let_go(self, registry: &mut Registry) -> Result<()> {
        registry
            .session()
            .unlock_shared(LockKey::template(self.id))
            .await
            .doing(|| "unlock a template".into())?;
        Ok(())
    }

    /// Reads a `ready` row as a template. The caller holds the shared lock.
    pub(crate) async fn read(
        registry: &mut Registry,
        row: &TemplateRow,
    ) -> Result<std::result::Result<Self, String>> {
        let rows = registry.databases_of(&Owner::Template(row.id)).await?;
        let oids: Vec<Oid> = rows.iter().filter_map(|r| r.oid).collect();
        let found = catalog::databases(registry.session(), &[], &oids).await?;
        let mut databases = Vec::new();
        for r in &rows {
            let gone = |why: &str| Ok(Err(format!("its database `{}` {why}", r.name)));
            let Some(d) = found.iter().find(|d| Some(d.oid) == r.oid) else {
                return gone("is gone");
            };
            if !r.is(d) || d.name != r.name {
                return gone("was changed by somebody else");
            }
            if d.invalid {
                return gone("was half dropped");
            }
            if d.collation_mismatch {
                return gone("was made with another version of the collation library");
            }
            databases.push(TemplateDatabase {
                role: r.role.clone(),
                name: r.name.clone(),
                oid: d.oid,
                bytes: r.bytes.unwrap_or(0),
                files: r.files.unwrap_or(0),
                replay: r.replay.0.clone(),
            });
        }
        if databases.is_empty() {
            return Ok(Err("it has no databases".into()));
        }
        if let Some(why) = outdated(registry, &row.built_with.0).await? {
            return Ok(Err(why));
        }
        Ok(Ok(Template {
            id: row.id,
            fingerprint: row.fingerprint.parse()?,
            databases,
        }))
    }
}

/// The right to build one template: the advisory lock is held by the registry session, and the look
/// after it found nothing. Not `Clone`, and made in this file only.
#[derive(Debug)]
pub struct BuildPermit {
    key: LockKey,
    _private: (),
}

enum LookUp {
    Ready(Template),
    Vacant(BuildPermit),
    Busy(Box<TemplateRow>),
    /// Changed under our eyes: look again.
    Again,
}

/// A template, and how it came about.
#[derive(Debug)]
pub struct Ensured {
    /// The template, locked against being dropped.
    pub template: Template,
    /// [`Outcome::Hit`] or [`Outcome::Miss`].
    pub outcome: Outcome,
    /// What the template's build took, then or now, if known.
    pub build_time: Option<Duration>,
    /// Time spent on files.
    pub fingerprint_time: Duration,
    /// Time spent on looking up, waiting and building.
    pub template_time: Duration,
}

/// Finds the template for the definition's present inputs, or builds it. Of any number of processes
/// that ask at once for one that is missing, one builds and the others wait for its seal.
///
/// Cancel safety: when the limit's token is cancelled, a running build command is ended and what it
/// built is dropped.
///
/// # Errors
/// [`Kind::Build`] if the build command fails or its result cannot be sealed, [`Kind::Timeout`],
/// and those of inputs and server.
pub async fn ensure(registry: &mut Registry, context: &Context<'_>) -> Result<Ensured> {
    let started = Instant::now();
    let inputs = context.inputs().await?;
    let fingerprint_time = started.elapsed();
    let started = Instant::now();
    let traits = catalog::traits(registry.session()).await?;
    let mut recipe = inputs.with_server(traits.clone());
    let mut overtaken = false;
    let mut expected = None;
    loop {
        match look_up(registry, context, &recipe).await? {
            LookUp::Ready(template) => {
                registry.touch_template(template.id).await?;
                let build_time = registry
                    .last_build_millis(context.project, &context.definition.name)
                    .await?;
                return Ok(Ensured {
                    template,
                    outcome: Outcome::Hit,
                    build_time: build_time.map(Duration::from_millis),
                    fingerprint_time,
                    template_time: started.elapsed(),
                });
            }
            LookUp::Vacant(permit) => {
                let key = permit.key;
                let built = build::build(registry, context, permit, &recipe, &traits).await;
                // The session may be gone; then the lock is, too.
                let _ = registry.session().unlock(key).await;
                match built? {
                    Built::Sealed(template, took) => {
                        return Ok(Ensured {
                            template,
                            outcome: Outcome::Miss,
                            build_time: Some(took),
                            fingerprint_time,
                            template_time: started.elapsed(),
                        });
                    }
                    Built::Overtaken(_) if overtaken => {
                        return Err(Error::new(
                            Kind::Build,
                            format!("the files of definition `{}` changed during two builds in a row", context.definition.name),
                        )
                        .detail("what was built may be a mixture, so it was dropped")
                        .hint("run it again when nothing writes to the migrations; a build command that writes files among its own inputs can never be sealed"));
                    }
                    Built::Overtaken(new) => {
                        context.tell(Event::Warning(
                            "files changed while the build ran: starting over with the new ones",
                        ));
                        overtaken = true;
                        recipe = *new;
                    }
                }
            }
            LookUp::Busy(row) => {
                if expected.is_none() {
                    expected = Some(
                        registry
                            .last_build_millis(context.project, &context.definition.name)
                            .await?,
                    );
                }
                context.tell(Event::Waiting {
                    definition: &context.definition.name,
                    builder: &row.builder.0.describe(),
                    elapsed: Duration::try_from_secs_f64(row.age_s).unwrap_or_default(),
                    expected: expected.flatten().map(Duration::from_millis),
                    last_line: row.log_tail.lines().last().unwrap_or_default(),
                });
                let who = format!("{} to build `{}`", row.builder.0.describe(), row.definition);
                context.limit.pause(POLL, &who).await?;
            }
            LookUp::Again => context.limit.pause(POLL / 10, "the template").await?,
        }
    }
}

/// How often those who wait for a build look. A session lock is given up the instant its holder
/// dies, so they also see that within this time.
const POLL: Duration = Duration::from_millis(100);

async fn look_up(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<LookUp> {
    let (project, definition) = (context.project, context.definition.name.as_str());
    let fingerprint = recipe.fingerprint();
    let find = |state| (project, definition, &fingerprint, state);
    let (p, d, f, ready) = find("ready");
    if let Some(row) = registry.find_template(p, d, f, ready).await? {
        let key = LockKey::template(row.id);
        if !registry
            .session()
            .try_lock_shared(key)
            .await
            .doing(|| "lock a template".into())?
        {
            // Whoever holds it exclusively is about to drop it.
            return Ok(LookUp::Again);
        }
        // Between the first look and the lock it may have been dropped: only this look counts.
        let usable = match registry.find_template(p, d, f, ready).await? {
            Some(again) if again.id == row.id => Template::read(registry, &again).await?,
            _ => {
                registry
                    .session()
                    .unlock_shared(key)
                    .await
                    .doing(|| "unlock a template".into())?;
                return Ok(LookUp::Again);
            }
        };
        match usable {
            Ok(template) => return Ok(LookUp::Ready(template)),
            Err(why) => {
                context.tell(Event::Warning(&format!(
                    "template {} of `{definition}` cannot be used: {why}; it is built anew",
                    fingerprint.short()
                )));
                registry.break_template(row.id, &why, false).await?;
                registry
                    .session()
                    .unlock_shared(key)
                    .await
                    .doing(|| "unlock a template".into())?;
            }
        }
    }
    let key = LockKey::build(project, definition, &fingerprint);
    if registry
        .session()
        .try_lock(key)
        .await
        .doing(|| "take the right to build".into())?
    {
        if registry.find_template(p, d, f, "ready").await?.is_some() {
            registry
                .session()
                .unlock(key)
                .await
                .doing(|| "give the right to build back".into())?;
            return Ok(LookUp::Again);
        }
        return Ok(LookUp::Vacant(BuildPermit { key, _private: () }));
    }
    match registry.find_template(p, d, f, "building").await? {
        Some(row) => Ok(LookUp::Busy(Box::new(row))),
        // The builder has the lock, but not yet its row, or not any more.
        None => Ok(LookUp::Again),
    }
}

/// Why a template no longer fits the server, if it does not. A minor version is fine.
async fn outdated(registry: &mut Registry, built_with: &BuiltWith) -> Result<Option<String>> {
    if built_with.available.is_empty() {
        return Ok(None);
    }
    let names: Vec<String> = built_with.available.keys().cloned().collect();
    let now = catalog::available_extensions(registry.session(), &names).await?;
    for (name, then) in &built_with.available {
        match now.iter().find(|(n, _)| n == name) {
            None => {
                return Ok(Some(format!(
                    "extension `{name}` is no longer installed on the server"
                )));
            }
            Some((_, Some(version))) if version != then => {
                return Ok(Some(format!(
                    "extension `{name}` was {then} when it was built, and is {version} now"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Makes a [`Template`] of what the seal has just committed.
pub(crate) fn sealed(
    id: i64,
    fingerprint: Fingerprint,
    databases: Vec<TemplateDatabase>,
) -> Template {
    Template {
        id,
        fingerprint,
        databases,
    }
}
