//! Eviction as a caller sees it: by limits, by name, or of everything; pins; and freeing space on a full disk.

use super::{Deadline, Stencil};
use crate::config::nearest::nearest;
use crate::context::Context;
use crate::database::drop;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::{Event, Warning};
use crate::fingerprint::Recipe;
use crate::names::Fingerprint;
use crate::quantity::count;
use crate::registry::eviction::ResidentRow;
use crate::registry::{CloneRow, CloneState, LeaseKind, Registry, TemplateRow, TemplateState};
use crate::retention::cleanup::{self, Action};
use crate::retention::evict::{self, Evicted, Eviction};
use crate::retention::warm;
use crate::template::{self, Ensured, Unusable};

/// Templates that an eviction selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Targets {
    /// Templates over the limits of their projects.
    Limits,
    /// Templates whose fingerprints begin with these prefixes.
    Named(Vec<String>),
    /// All templates of this project that are not pinned.
    All,
    /// All templates of the project of this name that are not pinned.
    Project(String),
}

/// Plan of an eviction.
#[derive(Clone, Debug, Default)]
pub(crate) struct EvictionPlan {
    /// The templates, in order.
    pub(crate) evictions: Vec<Eviction>,
    /// Actions of the cleanup after it.
    pub(crate) cleanup: Vec<Action>,
    /// Contents that are kept of a project whose templates are all to be evicted.
    pub(crate) stays: Stays,
}

/// Contents that are kept of a project whose templates are all evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stays {
    /// Fingerprints of the templates that are pinned.
    pub(crate) pinned: Vec<Fingerprint>,
    /// Names of the clones that are in use.
    pub(crate) clones: Vec<String>,
}

/// Result of an eviction.
#[derive(Clone, Debug, Default)]
pub(crate) struct EvictionDone {
    /// The templates, with the result for each.
    pub(crate) evictions: Vec<(Eviction, Evicted)>,
    /// A line for each thing that the cleanup after it did or left.
    pub(crate) cleanup: Vec<String>,
    /// As in the plan.
    pub(crate) stays: Stays,
}

impl Stencil {
    /// Plans an eviction and the cleanup after it. Writes nothing; if there is no registry, the plan is empty.
    ///
    /// # Errors
    /// [`Kind::NotFound`] and [`Kind::Usage`] if a name matches no template, several, or a pinned one; the driver's.
    pub(crate) async fn plan_eviction(&self, targets: &Targets, deadline: &Deadline) -> Result<EvictionPlan> {
        let name = &self.config.server.registry;
        let Some(mut registry) = Registry::open_existing(&self.endpoint, name, deadline).await? else {
            return match targets {
                Targets::Named(names) => Err(unknown(names.first().map_or("", String::as_str))),
                Targets::Limits | Targets::All | Targets::Project(_) => Ok(EvictionPlan::default()),
            };
        };
        let evictions = self.evictions(&mut registry, targets).await?;
        let stays = match targets {
            Targets::All => stays(&mut registry, &self.config.project).await?,
            Targets::Project(project) => stays(&mut registry, project).await?,
            Targets::Limits | Targets::Named(_) => Stays::default(),
        };
        let cleanup = self.plan_cleanup(&mut registry).await?;
        registry.close().await;
        Ok(EvictionPlan { evictions, cleanup, stays })
    }

    /// Applies a plan, and cleans up. Returns when all that can be dropped now is dropped.
    ///
    /// # Errors
    /// The driver's; the next cleanup drops the templates discarded until then.
    pub(crate) async fn evict(&self, plan: EvictionPlan, deadline: &Deadline) -> Result<EvictionDone> {
        let name = &self.config.server.registry;
        let copies = self.copies().map(super::clean_up_copies).unwrap_or_default();
        let Some(mut registry) = Registry::open_existing(&self.endpoint, name, deadline).await? else {
            return Ok(EvictionDone { cleanup: copies, ..EvictionDone::default() });
        };
        registry.note_command_in_checkout(&self.asker()).await?;
        if !self.config.definitions.is_empty() {
            registry.note_settings(&self.settings()).await?;
        }
        let done = evict::apply(&mut registry, &plan.evictions).await?;
        let evictions: Vec<_> = plan.evictions.into_iter().zip(done).collect();
        let gone: Vec<Eviction> = evictions
            .iter()
            .filter(|(_, done)| *done == Evicted::Gone)
            .map(|(eviction, _)| eviction.clone())
            .collect();
        let grace = *self.config.clone.orphan_grace;
        let mut cleanup = evict::drop_now(&mut registry, &gone).await?;
        cleanup.extend(cleanup::clean_up_all(&mut registry, grace, deadline).await?);
        cleanup.extend(copies);
        registry.close().await;
        Ok(EvictionDone { evictions, cleanup, stays: plan.stays })
    }

    async fn evictions(&self, registry: &mut Registry, targets: &Targets) -> Result<Vec<Eviction>> {
        let project = &self.config.project;
        match targets {
            Targets::Limits => {
                let room = evict::Room::default();
                evict::plan(registry, &self.settings(), room).await
            }
            Targets::All | Targets::Project(_) => {
                let rows = registry.residents().await?;
                let project = match targets {
                    Targets::Project(named) => {
                        known(registry, &rows, named).await?;
                        named
                    }
                    _ => project,
                };
                let ids = rows
                    .iter()
                    .filter(|row| row.project == *project && !row.pinned)
                    .map(|row| row.id)
                    .collect::<Vec<_>>();
                evict::plan_named(registry, &ids).await
            }
            Targets::Named(names) => {
                let rows = registry.residents().await?;
                let mut ids = Vec::new();
                for name in names {
                    let row = meant(registry, &rows, name, project, "evicted").await?;
                    if row.pinned {
                        return Err(Error::usage(format!("template {} is pinned", row.fingerprint.short()))
                            .hint(format!("unpin it: `pgstencil unpin {}`", row.fingerprint.short())));
                    }
                    if !ids.contains(&row.id) {
                        ids.push(row.id);
                    }
                }
                evict::plan_named(registry, &ids).await
            }
        }
    }

    /// Pins or unpins templates, by the first digits of their fingerprints. Returns them.
    ///
    /// # Errors
    /// [`Kind::NotFound`] and [`Kind::Usage`] if a name matches no ready template or several, or if a template to be
    /// pinned is no longer of use; nothing is changed then. The driver's.
    pub(crate) async fn pin(
        &self,
        names: &[String],
        pinned: bool,
        deadline: &Deadline,
    ) -> Result<Vec<ResidentRow>> {
        let missing = || unknown(names.first().map_or("", String::as_str));
        let registry = &self.config.server.registry;
        let mut registry =
            Registry::open_existing(&self.endpoint, registry, deadline).await?.ok_or_else(missing)?;
        registry.note_command_in_checkout(&self.asker()).await?;
        let rows = registry.residents().await?;
        let mut found = Vec::new();
        for name in names {
            let project = &self.config.project;
            let word = if pinned { "pinned" } else { "unpinned" };
            found.push(meant(&mut registry, &rows, name, project, word).await?.clone());
        }
        if pinned {
            for row in registry.templates().await? {
                if found.iter().any(|f| f.id == row.id)
                    && let Some(why) = Unusable::look(&mut registry, &row).await?
                {
                    return Err(useless(&row, &why));
                }
            }
        }
        for row in &found {
            if !registry.pin_template(row.id, pinned).await? {
                return Err(unknown(&row.fingerprint.short()));
            }
        }
        registry.close().await;
        Ok(found)
    }

    /// Returns the fingerprint of the definition's current files, for commands that refer to its template.
    ///
    /// # Errors
    /// The errors of the inputs and the server.
    pub(crate) async fn present_fingerprint(
        &self,
        definition: Option<&str>,
        deadline: &Deadline,
    ) -> Result<String> {
        let definition = self.definition(definition)?;
        let context = self.context(definition, deadline, &|_| {}, false);
        let inputs = context.inputs().await?;
        let name = &self.config.server.registry;
        let Some(registry) = Registry::open_existing(&self.endpoint, name, deadline).await? else {
            return Err(unknown(""));
        };
        let traits = registry.facts().traits.clone();
        registry.close().await;
        Ok(inputs.with_server(traits).fingerprint().to_string())
    }

    /// Ensures as [`template::ensure()`], but if the server's disk is full, frees space and tries once more.
    pub(super) async fn ensure_with_space(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: Option<Recipe>,
    ) -> Result<Ensured> {
        match Box::pin(template::ensure(registry, context, recipe)).await {
            Err(error) if error.has_fault(Fault::DiskFull) => {
                match self.free_space(registry, context, 1).await? {
                    true => Box::pin(template::ensure(registry, context, None)).await,
                    false => Err(error.detail(NOTHING_TO_EVICT)),
                }
            }
            other => other,
        }
    }

    /// Frees space on a full disk: drops whatever is already discarded, then evicts templates until `copies` more of
    /// the definition's last one fit. `false`: there was nothing to drop.
    pub(super) async fn free_space(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        copies: usize,
    ) -> Result<bool> {
        let (project, name) = (context.project, &context.definition.name);
        let rows = registry.residents().await?;
        let last = rows
            .iter()
            .filter(|row| row.project == project && row.definition == *name)
            .min_by(|a, b| a.idle_s.total_cmp(&b.idle_s));
        let each = last.map_or(LEAST, |row| row.bytes.get().max(LEAST));
        let grace = *self.config.clone.orphan_grace;
        let mut dropped = cleanup::clean_up_all(registry, grace, context.deadline).await?.len();
        let clones = warm::all(registry).await?;
        dropped += drop::drop_warm(registry, &warm::ids(clones)).await?.0;
        let bytes = each.saturating_mul(copies as u64);
        let evicted = evict::free_disk(registry, &self.settings(), bytes).await?;
        if dropped == 0 && evicted.is_empty() {
            return Ok(false);
        }
        context.tell(Event::Warning(
            &Warning::new("the server's disk is full, so pgstencil freed space and tries again")
                .detail(format!("evicted: {}", count(evicted.len(), "template")))
                .detail(format!("cleaned up: {}", count(dropped, "leftover database"))),
        ));
        for eviction in &evicted {
            context.tell(Event::Notice(&eviction.describe()));
        }
        Ok(true)
    }
}

/// Returns the templates and clones of a project that pins and leases keep.
async fn stays(registry: &mut Registry, project: &str) -> Result<Stays> {
    let rows = registry.residents().await?;
    let pinned = rows.into_iter().filter(|row| row.pinned && row.project == project);
    let pinned = pinned.map(|row| row.fingerprint).collect();
    let held = registry.held_locks().await?;
    let in_use = |row: &CloneRow| {
        row.project == project
            && row.state == CloneState::Leased
            && !row.expired
            && (row.lease != LeaseKind::Session || held.contains(&row.key()))
    };
    let clones = registry.clones().await?;
    let clones = clones.into_iter().filter(in_use).map(|row| row.name);
    Ok(Stays { pinned, clones: clones.collect() })
}

/// Refuses an empty project whose name is similar to that of another.
async fn known(registry: &mut Registry, rows: &[ResidentRow], project: &str) -> Result<()> {
    let mut projects: Vec<String> = rows.iter().map(|row| row.project.clone()).collect();
    projects.extend(registry.clones().await?.into_iter().map(|row| row.project));
    let templates = registry.templates().await?;
    projects.extend(templates.into_iter().map(|row| row.project));
    if projects.iter().any(|known| known == project) {
        return Ok(());
    }
    match nearest(project, projects.iter().map(String::as_str)) {
        None => Ok(()),
        Some(meant) => {
            Err(Error::new(Kind::NotFound, format!("there is no project `{project}` in this registry"))
                .hint(format!("did you mean `{meant}`?"))
                .hint("list the templates with their projects: `pgstencil list`"))
        }
    }
}

/// Minimum to free when a disk is full: enough for any empty database.
const LEAST: u64 = 64_000_000;

const NOTHING_TO_EVICT: &str =
    "no template can be evicted: each is pinned, in use, or one of the `[eviction] keep` most recently used";

fn unknown(prefix: &str) -> Error {
    Error::new(
        Kind::NotFound,
        match prefix {
            "" => "there is no template of the current files".to_owned(),
            prefix => format!("no ready template has a fingerprint that begins with `{prefix}`"),
        },
    )
    .hint("list the templates: `pgstencil list`")
}

fn useless(row: &TemplateRow, why: &Unusable) -> Error {
    Error::new(
        Kind::NotFound,
        format!(
            "template {} of {}/{} cannot be pinned",
            row.fingerprint.short(),
            row.project,
            row.definition
        ),
    )
    .detail(why.to_string())
    .hint("rebuild it: `pgstencil ensure`")
}

fn begins(prefix: &str) -> impl Fn(&Fingerprint) -> bool + use<> {
    let lower = prefix.to_ascii_lowercase();
    move |fingerprint| fingerprint.to_string().starts_with(&lower)
}

/// Finds a template as [`resident`] does. If it is still being built, the error says that it cannot be `done` yet.
async fn meant<'a>(
    registry: &mut Registry,
    rows: &'a [ResidentRow],
    prefix: &str,
    project: &str,
    done: &str,
) -> Result<&'a ResidentRow> {
    let role = registry.facts().began_as.clone();
    match resident(rows, prefix, project, &role) {
        Err(error) if error.kind() == Kind::NotFound => {
            let building = building(registry, prefix, project, done).await?;
            Err(building.unwrap_or(error))
        }
        other => other,
    }
}

/// Returns the error that the template with this fingerprint prefix, if it is being built, cannot be `done` before
/// that; prefers this project's.
async fn building(registry: &mut Registry, prefix: &str, project: &str, done: &str) -> Result<Option<Error>> {
    let begins = begins(prefix);
    let held = registry.held_locks().await?;
    let mut rows = registry.unfinished_templates().await?;
    rows.retain(|row| row.state == TemplateState::Building && begins(&row.fingerprint));
    // A cleanup drops a row that no process builds any more.
    rows.retain(|row| held.contains(&row.build_key()));
    rows.sort_by_key(|row| row.project != project);
    Ok(rows.first().map(|row| {
        Error::new(
            Kind::NotFound,
            format!(
                "template {} of {}/{} cannot be {done} before it is built",
                row.fingerprint.short(),
                row.project,
                row.definition
            ),
        )
        .detail(format!("it is being built by {}", row.builder.0.describe()))
        .hint("wait until the build has ended")
    }))
}

/// Minimum length of a prefix, so that a mistyped word does not match a template.
const SHORTEST: usize = 4;

/// Finds the template with this fingerprint prefix, in this project if there is one: projects that build the same
/// from the same files have templates of one fingerprint. So do roles that do not inherit from each other: of their
/// templates, finds that of `role`.
fn resident<'a>(rows: &'a [ResidentRow], prefix: &str, project: &str, role: &str) -> Result<&'a ResidentRow> {
    if prefix.is_empty() {
        return Err(Error::usage("the fingerprint is empty").hint("list the templates: `pgstencil list`"));
    }
    if prefix.len() < SHORTEST {
        return Err(Error::usage(format!("fingerprint prefix `{prefix}` is too short"))
            .hint(format!("give at least {SHORTEST} digits (`pgstencil list` shows 12)")));
    }
    let begins = begins(prefix);
    let mut found: Vec<_> = rows.iter().filter(|row| begins(&row.fingerprint)).collect();
    if found.iter().any(|row| row.project == project) {
        found.retain(|row| row.project == project);
    }
    let of_one = |a: &&ResidentRow, b: &&ResidentRow| {
        (&a.project, &a.definition, &a.fingerprint) == (&b.project, &b.definition, &b.fingerprint)
    };
    if found.windows(2).all(|pair| of_one(&pair[0], &pair[1])) {
        found.sort_by_key(|row| row.built_by != role);
        found.truncate(1);
    }
    match found.as_slice() {
        [] => Err(unknown(prefix)),
        [row] => Ok(row),
        several => Err(several
            .iter()
            .fold(Error::usage(format!("several fingerprints begin with `{prefix}`")), |error, row| {
                error.detail(format!("{} of {}/{}", row.fingerprint, row.project, row.definition))
            })
            .hint("give more digits")),
    }
}
