//! From a wish to clones: the template first, then the copies, and what to do if those fail.

use std::time::Duration;

use super::{Lease, Limit, Shard, Stencil};
use crate::clone::{self, Clone, Request};
use crate::config::Definition;
use crate::copy;
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Observe};
use crate::handout::Outcome;
use crate::names::{self, Fingerprint, NamePattern};
use crate::pg::cause;
use crate::registry::Registry;
use crate::template::{Ensured, Extends, Provisional};

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
    pub lease: Lease,
    /// Replaces a live clone of the wanted name instead of giving it back.
    pub fresh: bool,
    /// Leaves the databases of a failed build to a person.
    pub keep_failed: bool,
}

/// Clones that are ready for use. Their locks are held by [`Acquired::registry`].
pub struct Acquired {
    /// The session that holds the locks.
    pub registry: Registry,
    /// The clones, in order.
    pub clones: Vec<Clone>,
    /// Name of the definition.
    pub definition: String,
    /// Of the definition's present inputs.
    pub fingerprint: Fingerprint,
    /// How they came about.
    pub outcome: Outcome,
    /// Times, in order: files, template, clones.
    pub times: [Duration; 3],
    /// What the template was extended from, if it was.
    pub extends: Option<Extends>,
    /// Whether a build from nothing is to take the template's place.
    pub provisional: Option<Provisional>,
    /// Why the template was built from nothing although there was something to extend.
    pub note: Option<String>,
    /// What a build from nothing took, now or the last time, if known.
    pub build_time: Option<Duration>,
}

impl Stencil {
    pub(super) async fn note(
        &self,
        registry: &mut Registry,
        definition: &Definition,
        ensured: &Ensured,
    ) -> Result<()> {
        registry
            .note_event(
                &self.config.project,
                &definition.name,
                ensured.template.fingerprint(),
                ensured.outcome.as_str(),
                ensured.template_time.as_millis() as u64,
                None,
            )
            .await
    }

    /// Template → clones. Only slower, never wrong: a template that cannot be copied is marked
    /// broken and rebuilt once; if the new one cannot be copied either, the build command runs
    /// straight on the clone.
    ///
    /// # Errors
    /// As [`crate::template::ensure()`] and [`clone::create`]. Clones that were made before the error are
    /// given up.
    pub async fn acquire(
        &self,
        wanted: &Wanted,
        limit: &Limit,
        observe: Observe<'_>,
    ) -> Result<Acquired> {
        let definition = self.definition(wanted.definition.as_deref())?;
        let context = self.context(definition, limit, observe, wanted.keep_failed);
        let group = names::clone_id();
        clone::check_names(
            &context,
            &wanted.pattern,
            &group,
            wanted.count,
            wanted.shard,
        )?;
        let mut registry = self.open(limit).await?;
        if !wanted.pattern.is_unique()
            && let Some(reused) = self.reuse(&mut registry, &context, wanted).await?
        {
            return Ok(reused.into_acquired(registry, definition));
        }
        let mut ensured = self.ensure_with_space(&mut registry, &context).await?;
        let (fingerprint_time, mut template_time) =
            (ensured.fingerprint_time, ensured.template_time);
        if ensured.outcome == Outcome::Hit {
            self.note(&mut registry, definition, &ensured).await?;
        }
        let mut clones = Vec::new();
        let mut group = names::clone_id();
        let mut rebuilt = false;
        let mut freed = false;
        let mut outcome = ensured.outcome;
        let started = std::time::Instant::now();
        while clones.len() < wanted.count {
            let request = Request {
                group: &group,
                pattern: &wanted.pattern,
                index: clones.len(),
                shard: wanted.shard,
                lease: wanted.lease,
                outcome,
            };
            let made = if outcome == Outcome::Fallback {
                let fingerprint = *ensured.template.fingerprint();
                clone::create_without_template(&mut registry, &context, &fingerprint, &request)
                    .await
            } else {
                clone::create(&mut registry, &context, &ensured.template, &request).await
            };
            match made {
                Ok(clone) => {
                    clones.push(clone);
                    // A CREATE cannot be interrupted, but who gave up meanwhile wants no clone.
                    if limit.cancel.is_cancelled() {
                        self.give_up_all(&mut registry, &clones).await?;
                        return Err(Error::new(Kind::Interrupted, "interrupted"));
                    }
                }
                Err(error) if !freed && copy::disk_is_full(&error) => {
                    freed = true;
                    let missing = wanted.count - clones.len();
                    if !self.free_space(&mut registry, &context, missing).await? {
                        self.give_up_all(&mut registry, &clones).await?;
                        return Err(error);
                    }
                    if clones.is_empty() {
                        // The sweep still knows what failed by this one.
                        group = names::clone_id();
                    }
                }
                Err(error) if outcome != Outcome::Fallback && copy::source_is_to_blame(&error) => {
                    if clones.is_empty() {
                        // The sweep still knows what failed by this one.
                        group = names::clone_id();
                    }
                    let fingerprint = ensured.template.fingerprint().short();
                    let cause = cause(&error);
                    if rebuilt {
                        context.tell(Event::Warning(&format!(
                            "the rebuilt template {fingerprint} cannot be copied either ({cause}): the build command runs straight on the clone"
                        )));
                        outcome = Outcome::Fallback;
                        continue;
                    }
                    rebuilt = true;
                    context.tell(Event::Warning(&format!(
                        "template {fingerprint} cannot be copied ({cause}): it is marked broken and built anew"
                    )));
                    registry
                        .break_template(ensured.template.id(), &cause, false)
                        .await?;
                    ensured.template.let_go(&mut registry).await?;
                    ensured = self.ensure_with_space(&mut registry, &context).await?;
                    template_time += ensured.template_time;
                    outcome = ensured.outcome;
                }
                Err(error) => {
                    self.give_up_all(&mut registry, &clones).await?;
                    let overtaken = error.kind() == Kind::NameTaken
                        && !wanted.fresh
                        && matches!(wanted.lease, Lease::Expiry(_));
                    // Another process of ours may have wanted the same one, and was first.
                    if overtaken
                        && !wanted.pattern.is_unique()
                        && let Some(reused) = self.reuse(&mut registry, &context, wanted).await?
                    {
                        ensured.template.let_go(&mut registry).await?;
                        return Ok(reused.into_acquired(registry, definition));
                    }
                    return Err(error);
                }
            }
        }
        if outcome == Outcome::Fallback {
            registry
                .note_event(
                    &self.config.project,
                    &definition.name,
                    ensured.template.fingerprint(),
                    outcome.as_str(),
                    started.elapsed().as_millis() as u64,
                    None,
                )
                .await?;
        }
        let fingerprint = *ensured.template.fingerprint();
        let build_time = ensured.build_time;
        let note = ensured.note;
        let extends = ensured.template.extends().cloned();
        let provisional = ensured.template.provisional().cloned();
        ensured.template.let_go(&mut registry).await?;
        Ok(Acquired {
            registry,
            clones,
            definition: definition.name.clone(),
            fingerprint,
            outcome,
            times: [fingerprint_time, template_time, started.elapsed()],
            extends,
            provisional,
            note,
            build_time,
        })
    }
}
