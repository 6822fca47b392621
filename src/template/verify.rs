//! The proof: a build from nothing beside a template, compared with it.
//!
//! The template is copied for that, since nobody may connect to it. The copies are registered as
//! further databases of the build, so that a crash leaves nothing that the sweep does not find, and
//! are dropped before the seal.

use std::time::Duration;

use super::build::{self, Done, Made};
use super::ensure::{POLL, alone, tell_waiting, unlock, wait_for_serial};
use super::seal::{Sealing, seal};
use super::{BuildPermit, Extends, Template};
use crate::context::Context;
use crate::drop;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::fingerprint::{Recipe, ServerTraits};
use crate::names::{self, Fingerprint};
use crate::pg::inventory::{self, Difference, Inventory};
use crate::pg::lock::LockKey;
use crate::pg::replay::Replay;
use crate::pg::session::OpenError;
use crate::pg::{Doing as _, Session, catalog};
use crate::registry::database::{NewDatabase, Owner};
use crate::registry::{DatabaseRow, Registry};

/// What a comparison found, and what came of it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Name of the definition.
    pub definition: String,
    /// Of the template.
    pub fingerprint: Fingerprint,
    /// What the template was extended from, if it was.
    pub extends: Option<Extends>,
    /// What differs, by role; roles that are equal are left out.
    pub differences: Vec<(String, Difference)>,
    /// What became of the template.
    pub fate: Fate,
    /// What the build from nothing took.
    pub build_time: Duration,
}

impl Verdict {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }
}

/// What became of a template that was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Kept,
    /// The build from nothing took its place.
    Replaced,
    /// It was extended and differs, so it is broken: the next command builds it from nothing.
    Broken,
}

impl Fate {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Fate::Kept => "kept",
            Fate::Replaced => "replaced",
            Fate::Broken => "broken",
        }
    }
}

/// Builds the definition's present inputs from nothing beside their template, and compares the two.
/// With `replace` the fresh one takes the template's place, whatever was found: those who are copying the
/// old one go on, and it is dropped when they are done. Without, the fresh one is dropped, and an
/// extended template that differs is marked broken. A template that was built from nothing and differs
/// stays: its build does not yield the same twice, and the next one would not, either.
///
/// Cancel safety: as of [`super::ensure()`].
///
/// # Errors
/// [`Kind::NotFound`] if the present inputs have no template; [`Kind::Build`] if the build from nothing
/// fails, which is an answer, too: a cached template can hide a broken build command.
pub async fn verify(
    registry: &mut Registry,
    context: &Context<'_>,
    replace: bool,
) -> Result<Verdict> {
    let inputs = context.inputs().await?;
    let traits = catalog::traits(registry.session()).await?;
    let recipe = inputs.with_server(traits.clone());
    let (permit, template) = claim(registry, context, &recipe).await?;
    let (id, key) = (template.id, permit.key);
    let verdict = rebuild(
        registry, context, &permit, &recipe, &traits, template, replace,
    )
    .await;
    // If the session is gone, so are the locks.
    let _ = registry
        .session()
        .unlock_shared(LockKey::template(id))
        .await;
    let _ = registry.session().unlock(key).await;
    if context.definition.serial_builds {
        let _ = registry.session().unlock(LockKey::serial()).await;
    }
    verdict
}

/// The template of a recipe, locked against being dropped, and the right to build another one of it.
async fn claim(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<(BuildPermit, Template)> {
    let started = std::time::Instant::now();
    let definition = &context.definition.name;
    let fingerprint = recipe.fingerprint();
    let key = LockKey::build(context.project, definition, &fingerprint);
    let costs = registry.costs(context.project, definition).await?;
    loop {
        let free = registry
            .session()
            .try_lock(key)
            .await
            .doing(|| "take the right to build".into())?;
        if !free {
            let building = registry
                .find_template(context.project, definition, &fingerprint, "building")
                .await?;
            if let Some(row) = &building {
                tell_waiting(context, row, &costs);
            }
            context
                .limit
                .pause(POLL, "a build of the same template")
                .await?;
            continue;
        }
        let found = take(registry, context, &fingerprint).await;
        if let Ok(Some(template)) = found {
            if alone(registry, context).await? {
                return Ok((BuildPermit { key, _private: () }, template));
            }
            template.let_go(registry).await?;
            unlock(registry, key).await?;
            wait_for_serial(registry, context, started).await?;
            continue;
        }
        unlock(registry, key).await?;
        found?;
        context.limit.pause(POLL, "the template").await?;
    }
}

/// The ready template under its shared lock; `None` if it changes under our eyes.
async fn take(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
) -> Result<Option<Template>> {
    let definition = &context.definition.name;
    let Some(row) = registry
        .find_template(context.project, definition, fingerprint, "ready")
        .await?
    else {
        return Err(Error::new(
            Kind::NotFound,
            format!(
                "there is no template of `{definition}` for the present files ({})",
                fingerprint.short()
            ),
        )
        .hint("`pgstencil ensure` builds it"));
    };
    let key = LockKey::template(row.id);
    let locked = registry
        .session()
        .try_lock_shared(key)
        .await
        .doing(|| "lock a template".into())?;
    if !locked {
        return Ok(None);
    }
    let again = registry
        .find_template(context.project, definition, fingerprint, "ready")
        .await?;
    let why = match again.filter(|again| again.id == row.id) {
        None => None,
        Some(again) => match Template::read(registry, &again).await? {
            Ok(template) => return Ok(Some(template)),
            Err(why) => Some(why),
        },
    };
    registry
        .session()
        .unlock_shared(key)
        .await
        .doing(|| "unlock a template".into())?;
    match why {
        None => Ok(None),
        Some(why) => Err(Error::failed(format!(
            "template {} of `{definition}` cannot be verified: {why}",
            fingerprint.short()
        ))
        .hint("`pgstencil ensure` builds it anew")),
    }
}

async fn rebuild(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
    recipe: &Recipe,
    traits: &ServerTraits,
    template: Template,
    replace: bool,
) -> Result<Verdict> {
    let definition = &context.definition.name;
    let made = build::make(registry, context, permit, recipe, traits, None).await?;
    let Made::Done(done) = made else {
        return Err(Error::new(
            Kind::Build,
            format!(
                "the files of definition `{definition}` changed while it was built to be compared"
            ),
        )
        .hint("run it again when nothing writes to them"));
    };
    let (id, build_time) = (done.id, done.started.elapsed());
    let differences = match compare(registry, context, &done, &template).await {
        Ok(differences) => differences,
        Err(error) => return Err(build::give_up(registry, context, id, error).await),
    };
    let mut verdict = Verdict {
        definition: definition.clone(),
        fingerprint: template.fingerprint,
        extends: template.extends.clone(),
        differences,
        fate: Fate::Kept,
        build_time,
    };
    let outcome = if replace {
        let sealing = Sealing {
            recipe,
            extends: None,
            provisional: false,
            replaces: true,
        };
        match seal(registry, context, *done, &sealing).await {
            Ok(fresh) => fresh.let_go(registry).await?,
            Err(error) => return Err(build::give_up(registry, context, id, error).await),
        }
        verdict.fate = Fate::Replaced;
        let text: String = verdict
            .differences
            .iter()
            .map(|(_, diff)| diff.to_string())
            .collect();
        registry
            .set_difference(id, names::cut(&text, MAX_DIFFERENCE))
            .await?;
        "settled"
    } else {
        build::discard(registry, id, "it was built to be compared").await?;
        if !verdict.is_equal() && verdict.extends.is_some() {
            let why = "it was extended, and differs from a build from nothing";
            registry.break_template(template.id, why, false).await?;
            verdict.fate = Fate::Broken;
        }
        "verified"
    };
    let mut outcomes = vec![outcome];
    if !verdict.is_equal() && verdict.extends.is_some() {
        // Or the next command would extend the same base to the same end.
        outcomes.push("differed");
    }
    for outcome in outcomes {
        registry
            .note_event(
                context.project,
                definition,
                &verdict.fingerprint,
                outcome,
                build_time.as_millis() as u64,
                None,
            )
            .await?;
    }
    context.tell(Event::Compared {
        definition,
        fingerprint: &verdict.fingerprint.short(),
        equal: verdict.is_equal(),
        replaced: verdict.fate == Fate::Replaced,
        took: build_time,
    });
    Ok(verdict)
}

/// Bytes of a difference that the registry keeps.
const MAX_DIFFERENCE: usize = 20_000;

/// What differs between a template and what was built from nothing, by role.
async fn compare(
    registry: &mut Registry,
    context: &Context<'_>,
    done: &Done,
    template: &Template,
) -> Result<Vec<(String, Difference)>> {
    let owner = Owner::Template(done.id);
    let new: Vec<NewDatabase> = template
        .databases()
        .iter()
        .map(|d| {
            let private_name = names::private_name();
            NewDatabase {
                role: d.role.clone(),
                name: private_name.clone(),
                private_name,
            }
        })
        .collect();
    let all = registry.insert_databases(&owner, &new).await?;
    let mut copies: Vec<DatabaseRow> = all
        .into_iter()
        .filter(|row| new.iter().any(|n| n.private_name == row.private_name))
        .collect();
    let words = format!(
        "pgstencil compares {} of {} here",
        context.definition.name, context.project
    );
    let found = async {
        build::copy_base(registry, context, done.id, &mut copies, template, &words).await?;
        // Databases of a set may hold each other's names, as the build saw them.
        let owner = Owner::Template(template.id);
        let built_as = registry.databases_of(&owner).await?;
        let mut differences = Vec::new();
        for (i, copy) in copies.iter().enumerate() {
            let mut old = read(context, &copy.private_name).await?;
            let mut fresh = read(context, &done.rows[i].private_name).await?;
            for row in copies.iter().chain(&built_as) {
                old.replace(&row.private_name, &format!("({})", row.role));
            }
            for row in &done.rows {
                fresh.replace(&row.private_name, &format!("({})", row.role));
            }
            add_properties(&mut old, &template.databases()[i].replay);
            add_properties(&mut fresh, &done.inspected.replays[i]);
            let name = format!("template {}", template.fingerprint.short());
            let diff = inventory::diff(&old, &fresh, &name, "built from nothing");
            if !diff.is_empty() {
                differences.push((copy.role.clone(), diff));
            }
        }
        Ok(differences)
    }
    .await;
    // Also after a failure: what is sealed has the databases of its roles only.
    let stay = drop::drop_rows(registry, &copies).await?;
    match stay.first() {
        Some(why) => {
            Err(Error::failed("a copy made for the comparison cannot be dropped").detail(why))
        }
        None => found,
    }
}

async fn read(context: &Context<'_>, database: &str) -> Result<Inventory> {
    let mut session = Session::open(context.endpoint, database, context.limit)
        .await
        .map_err(|e| match e {
            OpenError::Missing => Error::failed(format!("database `{database}` disappeared")),
            OpenError::Other(e) => e,
        })?;
    let inventory = inventory::read(&mut session).await;
    session.close().await;
    inventory
}

/// What belongs to a database but lies outside it: as the build left it, which a copy may lack.
fn add_properties(inventory: &mut Inventory, replay: &Replay) {
    let mut lines = Vec::new();
    for setting in &replay.settings {
        let secret = ["pass", "secret", "token"];
        let name = setting.name.to_lowercase();
        let hidden = secret.iter().any(|word| name.contains(word)) || name.ends_with("key");
        lines.push(format!(
            "setting {}{} = {}",
            match &setting.role {
                Some(role) => format!("of {role} "),
                None => String::new(),
            },
            setting.name,
            if hidden { "hidden" } else { &setting.value }
        ));
    }
    if replay.connection_limit != -1 {
        lines.push(format!("connection limit {}", replay.connection_limit));
    }
    if let Some(comment) = &replay.comment {
        lines.push(format!("comment {comment:?}"));
    }
    for grant in replay.grants.iter().flatten() {
        lines.push(format!(
            "grant {} to {}{}",
            grant.privilege,
            grant.grantee.as_deref().unwrap_or("PUBLIC"),
            if grant.grantable {
                " with grant option"
            } else {
                ""
            }
        ));
    }
    let entry = inventory.entries.entry(DATABASE.into()).or_default();
    entry.retain(|line| !line.starts_with("setting "));
    entry.extend(lines);
    if entry.is_empty() {
        inventory.entries.remove(DATABASE);
    }
}

/// The heading under which the inventory has the database's settings.
const DATABASE: &str = "database";
