//! From a wish to clones: the template first, then the copies, and what to do if those fail.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::reuse::{Age, Names};
use super::{Deadline, DroppedRow, Shard, Stencil, Term};
use crate::config::Definition;
use crate::context::Context;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::{Event, Observe};
use crate::fingerprint::Recipe;
use crate::lease::{self, ClonedSet, Request, WarmTemplate};
use crate::names::{self, Fingerprint, NamePattern};
use crate::pg::cause;
use crate::pg::sql::Statement;
use crate::registry::event::Hit;
use crate::registry::owner::Tenure;
use crate::registry::{Happened, ProjectSettings, Registry};
use crate::template::{Ensured, Extends, Overtaken, Provisional, Template};
use crate::variables::Outcome;

/// What a caller of [`Stencil::acquire`] wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name of the definition; `None` if the file has only one.
    pub definition: Option<String>,
    /// How many clones.
    pub count: usize,
    /// Names of their databases.
    pub pattern: NamePattern,
    /// `{shard}`, and variables.
    pub shard: Option<Shard>,
    /// How long they are kept.
    pub term: Term,
    /// Replaces a live clone of the wanted name instead of giving it back. Sessions in it are ended.
    pub fresh: bool,
    /// Takes a clone of the wanted name over from its owner; not for [`Term::Session`]. One that a session
    /// holds is not taken.
    pub take: bool,
    /// A command is about to be started for the clones, which may outlive this process; report it by
    /// [`crate::lease::keeper::Keeper::command`]. Then the clones of a killed process stay as long as its command
    /// may be alive.
    pub command: bool,
    /// Leaves the databases of a failed build to a person.
    pub keep_failed: bool,
}

/// One clone of the only definition, under a name of its own, for as long as its session.
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

/// Clones that are ready for use. Their locks are held by [`Acquired::registry`].
pub struct Acquired {
    /// The session that holds the locks.
    pub registry: Registry,
    /// The clones, in order.
    pub clones: Vec<ClonedSet>,
    /// Name of the definition.
    pub definition: String,
    /// Of the definition's present inputs.
    pub fingerprint: Fingerprint,
    /// How they came about.
    pub outcome: Outcome,
    /// For [`Outcome::Reused`]: how each clone stands to the present inputs. Otherwise empty.
    pub ages: Vec<Age>,
    /// The caller's clone that had one of the names before, if it was dropped without their doing. Told
    /// once.
    pub dropped: Option<DroppedRow>,
    /// Times, in order: files, template, clones.
    pub times: [Duration; 3],
    /// Time spent on waiting for builds of others.
    pub waited: Duration,
    /// What the template was extended from, if it was.
    pub extends: Option<Extends>,
    /// Whether a build from nothing is to take the template's place.
    pub provisional: Option<Provisional>,
    /// Why the template was built from nothing although there was something to extend.
    pub note: Option<String>,
    /// What a build from nothing took, now or the last time, if known.
    pub build_time: Option<Duration>,
    /// What is still to be noted of this, for [`Stencil::fill`].
    pub demand: Demand,
}

/// What was asked for, to be noted when nobody waits any more: how many warm clones are kept depends on
/// it. If it never is, they are fewer, and `stats` lacks a hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// How many clones.
    pub clones: usize,
    /// Milliseconds of a hit that nobody has noted.
    pub hit_ms: Option<u64>,
}

impl Stencil {
    /// What other processes must know of the config.
    pub(super) fn settings(&self) -> ProjectSettings {
        ProjectSettings::new(&self.config.project, &self.config.eviction, &self.config.clone)
    }

    /// What notes a hit in the registry.
    pub(super) fn hit<'a>(&'a self, definition: &'a Definition, ensured: &'a Ensured) -> Hit<'a> {
        Hit {
            template: ensured.template.id(),
            definition: &definition.name,
            fingerprint: ensured.template.fingerprint(),
            took: ensured.timing.template,
            settings: self.settings(),
        }
    }

    /// Template → clones. Warm ones first, the others are made at the same time. Only slower, never wrong:
    /// a template that cannot be copied is marked broken and rebuilt once; if the new one cannot be copied
    /// either, the build command runs straight on the clone. Before all that, [`Stencil::run_owed`].
    ///
    /// Cancel safety: nothing that a dropped future made outlives the sweeps that follow `orphan_grace`
    /// later. A thread of this program sweeps then, and any other process of pgstencil does.
    ///
    /// # Errors
    /// As [`crate::template::ensure()`] and [`lease::create`]. Clones that were made before the error are
    /// given up.
    pub async fn acquire(
        &self,
        wanted: &Wanted,
        deadline: &Deadline,
        observe: Observe<'_>,
    ) -> Result<Acquired> {
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
    ) -> Result<Acquired> {
        let definition = self.definition(wanted.definition.as_deref())?;
        let context = self.context(definition, deadline, observe, wanted.keep_failed);
        lease::check_names(&context, &wanted.pattern, &names::clone_id(), wanted.count, wanted.shard)?;
        let (mut registry, recipe, reading) = self.open_reading(&context).await?;
        let recipe = recipe?;
        let named = !wanted.pattern.is_unique();
        let names = self.wanted_names(&context, wanted)?;
        self.pay(&mut registry, &context, &names).await?;
        let looked = Instant::now();
        let mut before = vec![None; wanted.count];
        if named {
            match self.reuse(&mut registry, &context, wanted, &recipe).await? {
                Names::Reused(reused) => {
                    let times = [reading, looked.elapsed()];
                    return Ok(reused.into_acquired(registry, definition, times));
                }
                Names::Free(rows) => before = rows,
            }
            // One that was in the way may have been dropped just now.
            self.pay(&mut registry, &context, &names).await?;
        }
        let tenures = before.iter().map(|row| self.tenure(&context, wanted, row.as_deref()));
        let mut hand = Hand::new(wanted, tenures.collect());
        let obtained = self.obtain(&mut registry, &context, &mut hand, recipe.clone()).await;
        // A statement cannot be interrupted, but who gave up meanwhile wants no clone.
        let obtained = match deadline.cancel.is_cancelled() {
            true => obtained.and(Err(Error::new(Kind::Interrupted, "interrupted"))),
            false => obtained,
        };
        let obtained = match obtained {
            Ok(obtained) => obtained,
            Err(error) => {
                // If the session is gone, so are the locks, and the sweep does this.
                let _ = self.give_up_all(&mut registry, &hand.clones).await;
                // What after_clone has made of it must not stay, nor is that a reason for another error.
                let _ = self.pay(&mut registry, &context, &[]).await;
                let overtaken =
                    error.kind() == Kind::NameTaken && !wanted.fresh && wanted.term != Term::Session;
                // Another process may have wanted the same one, and was first.
                if overtaken
                    && named
                    && let Names::Reused(reused) =
                        self.reuse(&mut registry, &context, wanted, &recipe).await?
                {
                    let times = [reading, looked.elapsed()];
                    return Ok(reused.into_acquired(registry, definition, times));
                }
                return Err(error);
            }
        };
        let dropped = match named {
            true => dropped(&mut registry, &context, &hand.clones).await?,
            false => None,
        };
        let template_time = obtained.template_time;
        Ok(Acquired {
            registry,
            clones: hand.clones,
            definition: definition.name.clone(),
            fingerprint: obtained.fingerprint,
            outcome: obtained.outcome,
            ages: Vec::new(),
            dropped,
            times: [
                obtained.rereading + reading,
                template_time,
                hand.started.elapsed().saturating_sub(template_time),
            ],
            waited: obtained.waited,
            extends: obtained.extends,
            provisional: obtained.provisional,
            note: obtained.note,
            build_time: obtained.build_time,
            demand: Demand { clones: wanted.count, hit_ms: obtained.hit_ms },
        })
    }

    /// The names that are wanted; none if they are new each time.
    fn wanted_names(&self, context: &Context<'_>, wanted: &Wanted) -> Result<Vec<String>> {
        let mut names = Vec::new();
        if !wanted.pattern.is_unique() {
            for index in 0..wanted.count {
                let (pattern, shard) = (&wanted.pattern, wanted.shard);
                names.extend(lease::names(context, pattern, "", index, shard)?);
            }
        }
        Ok(names)
    }

    /// Fills the hand.
    async fn obtain(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        hand: &mut Hand<'_>,
        recipe: Recipe,
    ) -> Result<Obtained> {
        let fingerprint = recipe.fingerprint();
        if context.clone_settings.warm > 0
            && let Some(template) = hand.claim(registry, context, &fingerprint, false).await?
            && hand.is_full()
        {
            if let Some(provisional) = &template.provisional {
                provisional.tell(context, &fingerprint);
            }
            let build_time = match template.build_time {
                Some(time) => Some(time),
                None => {
                    let name = &context.definition.name;
                    registry.costs(context.project, name).await?.full
                }
            };
            return Ok(Obtained {
                fingerprint,
                outcome: Outcome::Hit,
                rereading: Duration::ZERO,
                template_time: Duration::ZERO,
                waited: Duration::ZERO,
                extends: template.extends,
                provisional: template.provisional,
                note: None,
                build_time,
                hit_ms: u64::try_from(hand.started.elapsed().as_millis()).ok(),
            });
        }
        let ensured = self.ensure_with_space(registry, context, Some(recipe)).await?;
        tell_unsealed(context, &ensured);
        let mut notes = Vec::new();
        if ensured.provenance.outcome == Outcome::Hit {
            let hit = self.hit(context.definition, &ensured);
            notes.extend(hit.statements());
            // Those that the first claim passed over, since the registry alone cannot tell of them.
            if context.clone_settings.warm > 0 && ensured.template.needs_look() {
                let fingerprint = ensured.template.fingerprint();
                hand.claim(registry, context, fingerprint, true).await?;
            }
            if hand.is_full() {
                // The clones are there; that the hit is not counted changes nothing of that.
                let _ = registry.note_hit(&hit).await;
            }
        }
        self.make(registry, context, hand, ensured, notes).await
    }

    /// Makes what is missing in the hand. `notes`: what is to be written along with it.
    async fn make(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        hand: &mut Hand<'_>,
        mut ensured: Ensured,
        mut notes: Vec<Statement>,
    ) -> Result<Obtained> {
        let mut template_time = ensured.timing.template;
        let mut waited = ensured.timing.waited;
        let mut rereading = Duration::ZERO;
        let (mut rebuilt, mut freed, mut overtaken) = (false, false, false);
        let started = Instant::now();
        hand.outcome = ensured.provenance.outcome;
        while !hand.is_full() {
            let made = hand.create(registry, context, &ensured.template, freed, &notes).await;
            notes.clear();
            let error = match made {
                // A CREATE cannot be interrupted, but who gave up meanwhile wants no clone.
                Ok(_) if context.deadline.cancel.is_cancelled() => {
                    return Err(Error::new(Kind::Interrupted, "interrupted"));
                }
                Ok(None) => continue,
                Ok(Some(new)) => {
                    ensured.template.let_go(registry).await?;
                    if overtaken {
                        return Err(new.error(&format!(
                            "the files of definition `{}` changed while it was built straight on the clone",
                            context.definition.name
                        )));
                    }
                    new.tell(context);
                    // All clones of one hand-out are of the same files.
                    self.give_up_all(registry, &hand.clones).await?;
                    self.pay(registry, context, &[]).await?;
                    hand.clones.clear();
                    hand.renew_group();
                    (rebuilt, overtaken) = (false, true);
                    ensured = self.ensure_with_space(registry, context, Some(new.recipe)).await?;
                    tell_unsealed(context, &ensured);
                    template_time += ensured.timing.template;
                    waited += ensured.timing.waited;
                    hand.outcome = ensured.provenance.outcome;
                    continue;
                }
                Err(error) => error,
            };
            // The sweep still knows what failed by this one.
            hand.renew_group();
            if !freed && error.has_fault(Fault::DiskFull) {
                freed = true;
                if !self.free_space(registry, context, hand.missing()).await? {
                    return Err(error);
                }
            } else if hand.outcome != Outcome::Fallback && error.has_fault(Fault::SourceUnusable) {
                let fingerprint = ensured.template.fingerprint().short();
                let cause = cause(&error);
                if rebuilt {
                    context.tell(Event::Warning(&format!(
                        "the rebuilt template {fingerprint} cannot be copied either ({cause}): the build command runs straight on the clone"
                    )));
                    hand.outcome = Outcome::Fallback;
                    continue;
                }
                rebuilt = true;
                context.tell(Event::Warning(&format!(
                    "template {fingerprint} cannot be copied ({cause}): it is marked broken and rebuilt"
                )));
                registry.break_template(ensured.template.id(), &cause, false).await?;
                ensured.template.let_go(registry).await?;
                ensured = self.ensure_with_space(registry, context, None).await?;
                tell_unsealed(context, &ensured);
                template_time += ensured.timing.template;
                waited += ensured.timing.waited;
                rereading += ensured.timing.inputs;
                hand.outcome = ensured.provenance.outcome;
            } else {
                // If the session is gone, so is the lock.
                let _ = ensured.template.let_go(registry).await;
                return Err(error);
            }
        }
        // From here on the clones are there, whatever becomes of the session.
        if hand.outcome == Outcome::Fallback {
            let fingerprint = ensured.template.fingerprint();
            let fallback = context.occurrence(fingerprint, Happened::Fallback, started.elapsed());
            let _ = registry.note(&fallback).await;
        }
        let obtained = Obtained {
            fingerprint: *ensured.template.fingerprint(),
            outcome: hand.outcome,
            rereading,
            template_time,
            waited,
            extends: ensured.provenance.extends,
            provisional: ensured.provenance.provisional,
            note: ensured.provenance.note,
            build_time: ensured.provenance.build_time,
            hit_ms: None,
        };
        let _ = ensured.template.let_go(registry).await;
        Ok(obtained)
    }
}

/// Tells why what is handed out is not kept, if it is not.
fn tell_unsealed(context: &Context<'_>, ensured: &Ensured) {
    if let Some(unsealed) = &ensured.unsealed {
        context.tell(Event::Warning(&unsealed.warning()));
    }
}

/// What is known when all clones are in the hand.
struct Obtained {
    fingerprint: Fingerprint,
    outcome: Outcome,
    /// Time spent on files, after they were read for the first time.
    rereading: Duration,
    template_time: Duration,
    waited: Duration,
    extends: Option<Extends>,
    provisional: Option<Provisional>,
    note: Option<String>,
    build_time: Option<Duration>,
    hit_ms: Option<u64>,
}

/// Says what became of an earlier clone of the same name.
async fn dropped(
    registry: &mut Registry,
    context: &Context<'_>,
    clones: &[ClonedSet],
) -> Result<Option<DroppedRow>> {
    let databases = clones.iter().flat_map(|clone| &clone.databases);
    let names: Vec<String> = databases.map(|d| d.name.clone()).collect();
    let dropped = registry.take_dropped(&names, &context.asker()).await?;
    if let Some(row) = &dropped {
        context.tell(Event::Warning(&format!(
            "the clone that had the name {} before was dropped at {}: {}",
            row.name, row.at, row.why
        )));
    }
    Ok(dropped)
}

/// The clones that somebody wants, as far as they are there.
struct Hand<'a> {
    wanted: &'a Wanted,
    tenures: Vec<Tenure<'a>>,
    clones: Vec<ClonedSet>,
    group: String,
    outcome: Outcome,
    started: Instant,
}

impl<'a> Hand<'a> {
    fn new(wanted: &'a Wanted, tenures: Vec<Tenure<'a>>) -> Self {
        Hand {
            wanted,
            tenures,
            clones: Vec::new(),
            group: names::clone_id(),
            outcome: Outcome::Hit,
            started: Instant::now(),
        }
    }

    fn missing(&self) -> usize {
        self.wanted.count - self.clones.len()
    }

    fn is_full(&self) -> bool {
        self.missing() == 0
    }

    /// A new `{id}`, unless a clone has it in its name already.
    fn renew_group(&mut self) {
        if self.clones.is_empty() {
            self.group = names::clone_id();
        }
    }

    fn requests(&self) -> Vec<Request<'_>> {
        let request = |(index, tenure): (usize, &Tenure<'a>)| Request {
            pattern: &self.wanted.pattern,
            group: &self.group,
            index,
            shard: self.wanted.shard,
            tenure: tenure.clone(),
            outcome: self.outcome,
        };
        let tenures = self.tenures.iter().enumerate();
        tenures.skip(self.clones.len()).map(request).collect()
    }

    /// Takes warm clones, and says what is known of their template, if there are any.
    async fn claim(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        fingerprint: &Fingerprint,
        looked_at: bool,
    ) -> Result<Option<WarmTemplate>> {
        // Else the look at the template has counted the hit.
        let count_hit = !looked_at;
        let requests = self.requests();
        let warm = lease::claim(registry, context, fingerprint, &requests, looked_at, count_hit).await?;
        Ok(warm.map(|warm| {
            self.group = warm.group;
            self.clones.extend(warm.clones);
            warm.template
        }))
    }

    /// Makes all that are missing from a template; without one, the next, unless somebody wrote to the inputs
    /// meanwhile.
    async fn create(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        template: &Template,
        full: bool,
        also: &[Statement],
    ) -> Result<Option<Box<Overtaken>>> {
        let requests = self.requests();
        let made = match requests.first() {
            Some(first) if self.outcome == Outcome::Fallback => {
                let fingerprint = template.fingerprint();
                let made = lease::create_without_template(registry, context, fingerprint, first).await?;
                match made {
                    Ok(made) => made,
                    Err(overtaken) => return Ok(Some(overtaken)),
                }
            }
            _ => lease::create(registry, context, template, &requests, full, also).await?,
        };
        self.clones.extend(made);
        Ok(None)
    }
}
