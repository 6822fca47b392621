//! Creates clones for a request: first the template, then the copies. Handles failed copies.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::leases::Leases;
use super::reuse::{Names, Reused};
use super::{Deadline, DroppedRow, Shard, Stencil, Term};
use crate::config::Definition;
use crate::context::Context;
use crate::env::UNTRUSTED;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::{Event, Observe, Warning};
use crate::fingerprint::Recipe;
use crate::lease::{self, Batch, ClonedSet, Look, Naming};
use crate::names::{Fingerprint, NamePattern};
use crate::pg::cause;
use crate::pg::sql::Statement;
use crate::registry::event::Hit;
use crate::registry::{Happened, ProjectSettings, Registry};
use crate::template::{self, Ensured, Provenance, Timing};
use crate::variables::Outcome;

/// Request of a caller of [`Stencil::acquire`].
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Name of the definition; `None` if the file has only one.
    pub(crate) definition: Option<String>,
    /// Number of clones.
    pub(crate) count: usize,
    /// Names of their databases.
    pub(crate) pattern: NamePattern,
    /// Shard, for `{shard}` and variables.
    pub(crate) shard: Option<Shard>,
    /// Term for which the clones are kept.
    pub(crate) term: Term,
    /// Replaces a live clone of the wanted name instead of reusing it. Sessions in it are terminated.
    pub(crate) fresh: bool,
    /// Takes over a clone of the wanted name from its owner; not for [`Term::Session`]. A clone that a session holds
    /// is not taken.
    pub(crate) take: bool,
    /// The caller is about to start a command for the clones, which may outlive this process, and reports it by
    /// [`Leases::command`]. The clones of a killed process are then kept as long as its command may be running.
    pub(crate) command: bool,
    /// Keeps the databases of a failed build for inspection.
    pub(crate) keep_failed: bool,
}

/// Requests one clone of the only definition, with a new name, until its session ends.
impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            definition: None,
            count: 1,
            pattern: NamePattern::default(),
            shard: None,
            term: Term::Session,
            fresh: false,
            take: false,
            command: false,
            keep_failed: false,
        }
    }
}

impl Wanted {
    pub(super) fn naming(&self) -> Naming<'_> {
        Naming { pattern: &self.pattern, shard: self.shard }
    }

    /// Returns the names of all databases; empty if each request gets new names.
    fn fixed_names(&self, context: &Context<'_>) -> Result<Vec<String>> {
        let mut names = Vec::new();
        if !self.pattern.is_unique() {
            for index in 0..self.count {
                names.extend(self.names(context, index)?);
            }
        }
        Ok(names)
    }

    /// Returns the names of one clone's databases, if a later request can ask for the same names.
    pub(super) fn names(&self, context: &Context<'_>, index: usize) -> Result<Vec<String>> {
        self.naming().names(context, "", index)
    }
}

/// What is to be recorded of a request once the caller no longer waits. If it never is, `stats` lacks a hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Demand {
    /// Whether requests are expected: a caller ensured the template without requesting a clone.
    pub(crate) announced: bool,
    /// Milliseconds of a hit that is not recorded yet.
    pub(crate) hit_ms: Option<u64>,
}

impl Stencil {
    /// Returns the config settings that other processes need.
    pub(super) fn settings(&self) -> ProjectSettings {
        ProjectSettings::new(&self.config.project, &self.config.eviction, &self.config.clone)
    }

    /// Returns the arguments that record a hit in the registry.
    pub(super) fn hit<'a>(
        &'a self,
        definition: &'a Definition,
        ensured: &'a Ensured,
        clones: usize,
    ) -> Hit<'a> {
        Hit {
            template: ensured.template.id(),
            definition: &definition.name,
            fingerprint: ensured.template.fingerprint(),
            took: ensured.timing.template,
            clones,
            settings: self.settings(),
        }
    }

    /// Ensures the template, then creates clones of it: warm ones first, the others concurrently. Failures only cost
    /// time: a template that cannot be copied is marked broken and rebuilt once; if the new one cannot be copied
    /// either, the build command runs directly on the clone. Before all that, runs [`Stencil::run_owed`].
    ///
    /// Cancel safety: databases created by a dropped future are dropped by the cleanups that follow `orphan_grace`
    /// later. A thread of this program runs them, as does any other process of pgstencil.
    ///
    /// # Errors
    /// As [`crate::template::ensure()`] and [`lease::create()`]. Clones created before the error are discarded.
    pub(crate) async fn acquire(
        &self,
        wanted: &Wanted,
        deadline: &Deadline,
        observe: Observe<'_>,
    ) -> Result<Leases> {
        let pledge = self.background.to_find();
        let acquired = self.acquire_or_give_up(wanted, deadline, observe).await;
        pledge.kept();
        if acquired.is_ok() {
            self.background.look_once();
        }
        acquired.map_err(|error| self.endpoint.explain_loss(error))
    }

    async fn acquire_or_give_up(
        &self,
        wanted: &Wanted,
        deadline: &Deadline,
        observe: Observe<'_>,
    ) -> Result<Leases> {
        let definition = self.definition(wanted.definition.as_deref())?;
        let context = self.context(definition, deadline, observe, wanted.keep_failed);
        wanted.naming().check(&context, wanted.count)?;
        let (mut registry, recipe, reading) = self.open_reading(&context).await?;
        let recipe = recipe?;
        let names = wanted.fixed_names(&context)?;
        self.pay(&mut registry, &context, &names).await?;
        let looked = Instant::now();
        let reused = |reused: Reused, registry| {
            let timing = Timing { inputs: reading, clone: looked.elapsed(), ..Timing::default() };
            reused.into_leases(self, registry, definition, timing)
        };
        let mut before = vec![None; wanted.count];
        if !names.is_empty() {
            match self.reuse(&mut registry, &context, wanted, &recipe).await? {
                Names::Reused(clones) => return Ok(reused(clones, registry)),
                Names::Free(rows) => before = rows,
            }
            // A clone with the wanted name may have been dropped just now.
            self.pay(&mut registry, &context, &names).await?;
        }
        let tenures = before.iter().map(|row| self.tenure(&context, wanted, row.as_deref()));
        let mut batch = Batch::new(wanted.naming(), tenures.collect());
        let obtained = Box::pin(self.obtain(&mut registry, &context, &mut batch, recipe.clone())).await;
        // A statement cannot be interrupted, but a caller who has cancelled wants no clone.
        let obtained = match deadline.cancel.is_cancelled() {
            true => obtained.and(Err(Error::new(Kind::Interrupted, "interrupted"))),
            false => obtained,
        };
        let (provenance, mut timing) = match obtained {
            Ok(obtained) => obtained,
            Err(error) => {
                // If the session is lost, so are the locks, and the cleanup does this.
                let _ = self.give_up_all(&mut registry, &batch.clones).await;
                // The effects of after_clone must be removed, but a failure of that is no reason for another error.
                let _ = self.pay(&mut registry, &context, &[]).await;
                let overtaken =
                    error.kind() == Kind::NameTaken && !wanted.fresh && wanted.term != Term::Session;
                // Another process may have requested the same name first.
                if overtaken
                    && !names.is_empty()
                    && let Names::Reused(clones) =
                        self.reuse(&mut registry, &context, wanted, &recipe).await?
                {
                    return Ok(reused(clones, registry));
                }
                return Err(error);
            }
        };
        let dropped = match names.is_empty() {
            true => None,
            false => dropped(&mut registry, &context, &batch.clones).await?,
        };
        let unnoted_hit = timing.template.is_zero().then(|| batch.started.elapsed());
        timing.clone = batch.started.elapsed().saturating_sub(timing.template);
        timing.inputs += reading;
        self.keep_recipe(definition, recipe, &provenance.fingerprint);
        let mut leases = Leases::new(self, registry, &definition.name, batch.clones, provenance, timing);
        leases.dropped = dropped;
        leases.demand = Demand {
            announced: false,
            hit_ms: unnoted_hit.and_then(|took| u64::try_from(took.as_millis()).ok()),
        };
        Ok(leases)
    }

    /// Fills the batch. Returns how its clones were created, and the time spent. No time counts for the template if
    /// all clones were warm, in which case the hit is not recorded yet.
    async fn obtain(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        batch: &mut Batch<'_>,
        recipe: Recipe,
    ) -> Result<(Provenance, Timing)> {
        let warm = context.clone_settings.warm > 0;
        if warm {
            let fingerprint = recipe.fingerprint();
            let mut claimed = lease::claim(registry, context, &fingerprint, batch, Look::None).await?;
            let released = lease::claim_released(registry, context, &fingerprint, batch);
            // On the heap, as other long work that few calls come to: a program's thread may have little stack.
            if let Some(again) = Box::pin(released).await? {
                claimed = Some(again);
            }
            // If only some were warm, the others need the template.
            if let Some(mut provenance) = claimed.filter(|_| batch.is_full()) {
                if let Some(provisional) = &provenance.provisional {
                    provisional.tell(context, &fingerprint);
                }
                if provenance.build_time.is_none() {
                    let name = &context.definition.name;
                    provenance.build_time = registry.costs(context.project, name).await?.full;
                }
                return Ok((provenance, Timing::default()));
            }
        }
        let ensured = match context.untrusted {
            false => Box::pin(self.ensure_for(registry, context, batch, Some(recipe))).await?,
            true => {
                let fingerprint = recipe.fingerprint();
                let Some(template) = template::ready(registry, context, &fingerprint).await? else {
                    return Box::pin(self.build_apart(registry, context, batch, &fingerprint)).await;
                };
                batch.outcome = Outcome::Hit;
                let provenance = Provenance::of(&template, Outcome::Hit);
                Ensured { template, provenance, unsealed: None, timing: Timing::default() }
            }
        };
        let mut notes = Vec::new();
        if ensured.provenance.outcome == Outcome::Hit && !context.untrusted {
            let hit = self.hit(context.definition, &ensured, batch.missing());
            notes.extend(hit.statements());
            // Retries those that the first claim skipped, since the registry alone cannot show that they fit.
            if warm && ensured.template.needs_look() {
                let fingerprint = ensured.template.fingerprint();
                lease::claim(registry, context, fingerprint, batch, Look::Done).await?;
            }
            if batch.is_full() {
                // The clones exist even if the hit is not counted.
                let _ = registry.note_hit(&hit).await;
            }
        }
        Box::pin(self.make(registry, context, batch, ensured, notes)).await
    }

    /// Runs the build command directly in the clones, for a job whose results must serve no other command.
    async fn build_apart(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        batch: &mut Batch<'_>,
        fingerprint: &Fingerprint,
    ) -> Result<(Provenance, Timing)> {
        let started = Instant::now();
        context.tell(Event::Remote(&format!(
            "{UNTRUSTED} is set, and template {} does not exist: the build command runs directly in the clone",
            fingerprint.short()
        )));
        batch.outcome = Outcome::Fallback;
        while !batch.is_full() {
            let made = lease::create_without_template(registry, context, fingerprint, batch).await?;
            if let Some(new) = made {
                return Err(new.error(&context.definition.name, "the build in the clone"));
            }
        }
        let fallback = context.occurrence(fingerprint, Happened::Fallback, started.elapsed());
        // The clones exist, even if the session is lost.
        let _ = registry.note(&fallback).await;
        Ok((Provenance::new(*fingerprint, Outcome::Fallback), Timing::default()))
    }

    /// Creates the missing clones of the batch. `notes`: statements to send along with it.
    async fn make(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        batch: &mut Batch<'_>,
        mut ensured: Ensured,
        mut notes: Vec<Statement>,
    ) -> Result<(Provenance, Timing)> {
        let mut timing = ensured.timing;
        let (mut rebuilt, mut freed, mut overtaken) = (false, false, false);
        let started = Instant::now();
        while !batch.is_full() {
            let made = match batch.outcome {
                Outcome::Fallback => {
                    let fingerprint = ensured.template.fingerprint();
                    lease::create_without_template(registry, context, fingerprint, batch).await
                }
                _ => {
                    let template = &ensured.template;
                    let made = lease::create(registry, context, template, batch, freed, &notes).await;
                    made.map(|()| None)
                }
            };
            notes.clear();
            let error = match made {
                // CREATE cannot be interrupted, but a caller who has cancelled wants no clone.
                Ok(_) if context.deadline.cancel.is_cancelled() => {
                    return Err(Error::new(Kind::Interrupted, "interrupted"));
                }
                Ok(None) => continue,
                Ok(Some(new)) => {
                    ensured.template.let_go(registry).await?;
                    if overtaken {
                        return Err(new.error(&context.definition.name, "the build in the clone"));
                    }
                    new.tell(context);
                    // All clones of one request come from the same files.
                    self.give_up_all(registry, &batch.clones).await?;
                    self.pay(registry, context, &[]).await?;
                    batch.clones.clear();
                    batch.renew_group();
                    (rebuilt, overtaken) = (false, true);
                    ensured = self.ensure_for(registry, context, batch, Some(new.recipe)).await?;
                    timing += ensured.timing;
                    continue;
                }
                Err(error) => error,
            };
            batch.renew_group();
            match error.found_fault() {
                Some(Fault::DiskFull) if !freed => {
                    freed = true;
                    if !self.free_space(registry, context, batch.missing()).await? {
                        return Err(error);
                    }
                }
                Some(Fault::SourceUnusable | Fault::SourceLost)
                    if !context.untrusted && !rebuilt && batch.outcome != Outcome::Fallback =>
                {
                    rebuilt = true;
                    let (template, cause) = (&ensured.template, cause(&error));
                    let short = template.fingerprint().short();
                    context.tell(Event::Warning(
                        &Warning::new(format!("template {short} cannot be copied and is discarded"))
                            .detail(&cause),
                    ));
                    registry.break_template(template.id(), &cause, false).await?;
                    ensured.template.let_go(registry).await?;
                    ensured = self.ensure_for(registry, context, batch, None).await?;
                    timing += ensured.timing;
                }
                Some(Fault::SourceUnusable | Fault::SourceLost) if batch.outcome != Outcome::Fallback => {
                    let short = ensured.template.fingerprint().short();
                    context.tell(Event::Warning(
                        &Warning::new(format!(
                            "the rebuilt template {short} cannot be copied either, so the build command runs directly in the clone"
                        ))
                        .detail(cause(&error)),
                    ));
                    batch.outcome = Outcome::Fallback;
                }
                Some(
                    Fault::DiskFull
                    | Fault::DiskStuck
                    | Fault::SourceUnusable
                    | Fault::SourceLost
                    | Fault::Unsupported
                    | Fault::NameTaken
                    | Fault::Missing
                    | Fault::InUse
                    | Fault::RightMissing
                    | Fault::ConnectionLost
                    | Fault::NoPostgres,
                )
                | None => {
                    // If the session is lost, so is the lock.
                    let _ = ensured.template.let_go(registry).await;
                    return Err(error);
                }
            }
        }
        // From here on the clones exist, even if the session is lost.
        let Ensured { template, mut provenance, .. } = ensured;
        provenance.outcome = batch.outcome;
        if batch.outcome == Outcome::Fallback {
            let fingerprint = template.fingerprint();
            let fallback = context.occurrence(fingerprint, Happened::Fallback, started.elapsed());
            let _ = registry.note(&fallback).await;
        }
        let _ = template.let_go(registry).await;
        Ok((provenance, timing))
    }

    /// Ensures the template for a batch, and records its outcome there.
    async fn ensure_for(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        batch: &mut Batch<'_>,
        recipe: Option<Recipe>,
    ) -> Result<Ensured> {
        let ensured = self.ensure_with_space(registry, context, recipe).await?;
        if let Some(unsealed) = &ensured.unsealed {
            context.tell(Event::Warning(&unsealed.warning()));
        }
        batch.outcome = ensured.provenance.outcome;
        Ok(ensured)
    }
}

/// Returns what happened to an earlier clone of the same name.
async fn dropped(
    registry: &mut Registry,
    context: &Context<'_>,
    clones: &[ClonedSet],
) -> Result<Option<DroppedRow>> {
    let databases = clones.iter().flat_map(|clone| &clone.databases);
    let names: Vec<String> = databases.map(|d| d.name.clone()).collect();
    let dropped = registry.take_dropped(&names, &context.asker()).await?;
    if let Some(row) = &dropped {
        let what = format!("your previous clone {} was dropped at {}", row.name, row.at);
        context.tell(Event::Warning(&Warning::new(what).detail(&row.why)));
    }
    Ok(dropped)
}
