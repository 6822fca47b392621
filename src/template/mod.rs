//! Templates: look one up, or get the right to build it, on an older one as a base if one fits.
//!
//! Lock, check again, build, seal last. [`ensure()`] is the way from inputs to a [`Template`]; start reading
//! there. `extend` finds the base of an incremental build, [`rebuild()`] replaces an incrementally built
//! template by a full build, and [`verify()`] compares the two.

pub(crate) mod build;
mod compare;
mod ensure;
mod extend;
mod finding;
mod from;
mod look_up;
mod permit;
mod plan;
mod provenance;
#[cfg_attr(not(feature = "cli"), path = "pull_off.rs")]
mod pull;
#[cfg(feature = "cli")]
pub(crate) mod push;
mod rebuild;
mod source;
mod unsealed;
pub(crate) mod unusable;
mod verify;
mod waiting;
pub(crate) mod waypoint;

use std::time::Duration;

use sqlx::postgres::types::Oid;

pub(crate) use self::ensure::ensure;
pub(crate) use self::extend::{NoBase, added_to};
pub(crate) use self::finding::tell as tell_findings;
pub(crate) use self::from::look_again;
pub(crate) use self::look_up::ready;
pub(crate) use self::plan::{FullBuild, Looking, Plan, plan};
pub use self::provenance::{Provenance, Timing};
pub(crate) use self::pull::look as look_into_store;
#[cfg(feature = "cli")]
pub(crate) use self::pull::{Nearest, NotPulled, nearest, pull_now};
pub(crate) use self::rebuild::{Rebuilt, rebuild, rebuild_when_due};
pub(crate) use self::source::overtaken::{Overtaken, changed};
pub(crate) use self::unsealed::Unsealed;
pub(crate) use self::unusable::Unusable;
pub(crate) use self::verify::{Fate, Verdict, verify};
pub(crate) use self::waiting::serial_build;

use crate::config::Rebuild;
use crate::context::Context;
use crate::database::create::Copy;
use crate::database::strategy::Chooser;
use crate::error::Result;
use crate::events::{Event, Warning};
use crate::fingerprint::RelPath;
use crate::names::Fingerprint;
use crate::pg::catalog::Source;
use crate::pg::replay::{self, Replay};
use crate::quantity::{Millis, Seconds};
use crate::registry::template::HeldTemplate;
use crate::registry::{DatabaseRow, Registry};
use crate::retention::rebuild_policy::{self, Candidate};

/// A sealed template. It comes only from a `ready` row that was read again under the shared lock, or from a
/// build's seal. The lock keeps it from being dropped until [`Template::let_go`], or until the registry session
/// ends.
#[derive(Debug)]
pub(crate) struct Template {
    id: i64,
    fingerprint: Fingerprint,
    contents_of: Fingerprint,
    extends: Option<Extends>,
    provisional: Option<Provisional>,
    /// Whether it counts as equal to a full build by the evidence of others.
    accepted: bool,
    /// Whether it was built by `build_until`, as a base of others.
    waypoint: bool,
    databases: Vec<TemplateDatabase>,
    build_time: Option<Duration>,
    needs_look: bool,
    /// The source of its full build, if that was not the empty database.
    source: Option<Box<Source>>,
    /// Whether something in it was restored from a dump.
    restored: bool,
}

/// Record of the full builds that were to replace an incrementally built template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provisional {
    /// Number of attempts that began.
    pub(crate) attempts: u32,
    /// Time since the last attempt.
    pub(crate) tried: Duration,
    /// Reason why it failed, if it did not just disappear.
    pub(crate) failure: Option<String>,
    /// Number of earlier requests that found the template ready.
    pub(crate) hits: u64,
    /// Time since the template was registered.
    pub(crate) age: Duration,
}

impl Provisional {
    /// Creates the record from the registry: the attempts, the seconds since the last one began, and the reason
    /// why it failed.
    pub(crate) fn new(attempts: i32, tried_s: Option<Seconds>, failure: Option<String>) -> Self {
        Provisional {
            attempts: u32::try_from(attempts).unwrap_or_default(),
            tried: tried_s.unwrap_or_default().duration(),
            failure,
            ..Provisional::default()
        }
    }

    /// Adds the earlier uses of the template, and its age.
    #[must_use]
    pub(crate) fn used(self, hits: i64, age: Seconds) -> Self {
        Provisional { hits: u64::try_from(hits).unwrap_or_default(), age: age.duration(), ..self }
    }

    /// Returns the number of uses: the build, the earlier hits, and that of the caller. It is one too many right after
    /// the build, which does not matter, since the template is too young then.
    pub(crate) fn uses(&self) -> u64 {
        self.hits.saturating_add(2)
    }

    /// Returns whether a background process is worth its start: it may rebuild the template, as far as the facts of
    /// the look-up show.
    pub(crate) fn is_due(&self, rebuild: Rebuild) -> bool {
        let due =
            || Candidate { uses: self.uses(), age: self.age.as_secs_f64(), ..Candidate::default() }.not_due();
        self.may_be_tried()
            && match rebuild {
                Rebuild::Always => true,
                // Right after its build: it may be the first one of its definition.
                Rebuild::Auto => due().is_none() || self.hits == 0 && self.age.is_zero(),
                Rebuild::Never => false,
            }
    }

    /// Reports the reason why the full build failed, if it did.
    pub(crate) fn tell(&self, context: &Context<'_>, fingerprint: &Fingerprint) {
        if let Some(why) = &self.failure {
            context.tell(Event::Warning(
                &Warning::new(format!(
                    "the full build that was to replace provisional template {} failed",
                    fingerprint.short()
                ))
                .detail(why.lines().next().unwrap_or_default())
                .hint("try again: `pgstencil ensure --rebuild`"),
            ));
        }
    }

    /// Returns whether another attempt in the background makes sense. Commands do not repeat a failed one, nor
    /// attempts that disappear again and again, as in a container that ends with its job.
    fn may_be_tried(&self) -> bool {
        const AT_ONCE: u32 = 3;
        const LATER: Duration = Duration::from_secs(60 * 60);
        (self.failure.is_none() && self.attempts < AT_ONCE) || self.tried >= LATER
    }
}

impl TemplateDatabase {
    /// Applies to a copy what `CREATE DATABASE` does not copy. `what`: name of the copy, for a warning about
    /// properties that the role may not set.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn reapply(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        copy: &str,
        what: &str,
    ) -> Result<()> {
        let refused = replay::apply(registry.session(), copy, &self.replay).await?;
        if !refused.is_empty() {
            let warning =
                Warning::new(format!("could not re-apply properties of the template to the {what}"));
            let warning = refused.into_iter().fold(warning, Warning::detail);
            let role = format!("pgstencil connects as role `{}`", context.endpoint.user());
            context.tell(Event::Warning(&warning.detail(role)));
        }
        Ok(())
    }
}

/// Origin of an incrementally built template.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extends {
    /// Fingerprint of the base, which may no longer exist.
    pub(crate) base: Fingerprint,
    /// The migrations that were added to it, in order.
    pub(crate) added: Vec<RelPath>,
}

/// One database of a template.
#[derive(Clone, Debug)]
pub(crate) struct TemplateDatabase {
    /// Alias within the set.
    pub(crate) alias: String,
    /// Its name on the server.
    pub(crate) name: String,
    /// Its identity.
    pub(crate) oid: Oid,
    /// Size in bytes.
    pub(crate) bytes: i64,
    /// Approximate number of files.
    pub(crate) files: i64,
    /// Properties that a copy of it lacks.
    pub(crate) replay: Replay,
}

impl Template {
    /// Returns the number of its row.
    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    /// Returns the fingerprint of its inputs.
    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Returns the fingerprint of the inputs whose contents it has: [`Template::fingerprint`], or, if it was
    /// not sealed, that of the template that it equals.
    pub(crate) fn contents_of(&self) -> &Fingerprint {
        &self.contents_of
    }

    /// Returns the origin of an incremental build; `None` after a full build.
    pub(crate) fn extends(&self) -> Option<&Extends> {
        self.extends.as_ref()
    }

    /// Returns whether it is the result of another way than a full build, which it may differ from.
    pub(crate) fn is_incremental(&self) -> bool {
        self.extends.is_some() || self.waypoint
    }

    /// Makes a template provisional that was kept so far, if the definition no longer keeps incrementally built ones.
    async fn owes_a_build(&mut self, registry: &mut Registry, rebuild: Rebuild) -> Result<()> {
        let kept = self.is_incremental() && self.provisional.is_none();
        let accepted = self.accepted && rebuild == Rebuild::Auto;
        if kept && !accepted && rebuild.makes_provisional() {
            registry.set_provisional(self.id).await?;
            self.accepted = false;
            self.provisional = Some(Provisional::default());
        }
        Ok(())
    }

    /// Returns the record of its rebuilds if a full build is to replace it.
    pub(crate) fn provisional(&self) -> Option<&Provisional> {
        self.provisional.as_ref()
    }

    /// Returns the duration of its full build; `None` if it was built incrementally.
    pub(crate) fn build_time(&self) -> Option<Duration> {
        self.build_time
    }

    /// Returns whether the registry alone does not show that it fits the server: its warm clones are claimed
    /// only after a check.
    pub(crate) fn needs_look(&self) -> bool {
        self.needs_look
    }

    /// Returns its databases, in the order of the definition.
    pub(crate) fn databases(&self) -> &[TemplateDatabase] {
        &self.databases
    }

    /// Returns how its databases are copied to those of `rows`, which are in the same order.
    pub(crate) fn copies_to(&self, rows: &[DatabaseRow], chooser: &Chooser) -> Vec<Copy> {
        rows.iter()
            .zip(&self.databases)
            .map(|(row, from)| Copy {
                target: row.private_name.clone(),
                source: from.name.clone(),
                source_oid: Some(from.oid),
                strategy: chooser.choose(from.bytes, from.files),
                open: false,
            })
            .collect()
    }

    /// Releases the shared lock: from then on it may be dropped.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn let_go(self, registry: &mut Registry) -> Result<()> {
        look_up::let_go(registry, self.id).await
    }

    /// Makes a template from the facts that were read under the shared lock, or returns the reason why it
    /// cannot be used.
    async fn of(registry: &mut Registry, held: &HeldTemplate) -> Result<std::result::Result<Self, Unusable>> {
        if let Some(why) = Unusable::first(registry, held).await? {
            return Ok(Err(why));
        }
        let HeldTemplate { row, databases: rows, found } = held;
        let database = |r: &DatabaseRow| {
            let found = found.iter().find(|d| Some(d.oid) == r.oid)?;
            Some(TemplateDatabase {
                alias: r.alias.clone(),
                name: r.name.clone(),
                oid: found.oid,
                bytes: r.bytes.unwrap_or(0),
                files: r.files.unwrap_or(0),
                replay: r.replay.0.clone(),
            })
        };
        let databases = rows.iter().filter_map(database).collect();
        Ok(Ok(Template {
            id: row.id,
            fingerprint: row.fingerprint,
            contents_of: row.fingerprint,
            extends: row.base_fingerprint.map(|base| Extends { base, added: row.added.0.clone() }),
            provisional: row.provisional.then(|| {
                let (attempts, tried_s) = (row.rebuild_attempts, row.rebuild_tried_s);
                let age = match row.waypoint {
                    // It is due at its first use.
                    true => Seconds(row.age_s.0.max(rebuild_policy::AGE)),
                    false => row.age_s,
                };
                Provisional::new(attempts, tried_s, row.rebuild_failure.clone()).used(row.hits, age)
            }),
            accepted: row.accepted_at.is_some(),
            waypoint: row.waypoint,
            databases,
            build_time: match row.is_incremental() {
                false => row.build_ms.map(Millis::duration),
                true => None,
            },
            needs_look: !row.built_with.available.is_empty(),
            source: row.built_with.0.source.clone().map(Box::new),
            restored: row.built_with.0.restored,
        }))
    }
}

/// A template and its origin.
#[derive(Debug)]
pub(crate) struct Ensured {
    /// The template, locked against being dropped.
    pub(crate) template: Template,
    /// Its origin: a hit, an incremental build, a miss, or a build that was not sealed.
    pub(crate) provenance: Provenance,
    /// Reason why it was not sealed: then it is no template, and can only be copied immediately.
    pub(crate) unsealed: Option<Unsealed>,
    /// Durations of the steps, without those of clones.
    pub(crate) timing: Timing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_disappears_is_tried_three_times_and_then_now_and_again() {
        let provisional = |attempts, minutes: u64, failure: Option<&str>| Provisional {
            attempts,
            tried: Duration::from_secs(60 * minutes),
            failure: failure.map(Into::into),
            ..Provisional::default()
        };
        let is_due = |provisional: Provisional| provisional.is_due(Rebuild::Always);
        assert!(is_due(Provisional::default()));
        assert!(is_due(provisional(2, 0, None)));
        assert!(!is_due(provisional(3, 59, None)));
        assert!(is_due(provisional(3, 60, None)));
        assert!(!is_due(provisional(1, 0, Some("exit code 1"))));
        assert!(is_due(provisional(1, 60, Some("exit code 1"))));
    }

    #[test]
    fn by_the_policy_only_what_is_old_enough_is_due() {
        let aged = |seconds| Provisional::default().used(0, Seconds(seconds));
        assert!(!aged(60.0).is_due(Rebuild::Auto));
        assert!(aged(3600.0).is_due(Rebuild::Auto));
        assert!(!aged(3600.0).is_due(Rebuild::Never));
        assert!(aged(0.0).is_due(Rebuild::Always));
    }
}
