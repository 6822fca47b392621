//! JSON shapes of `--json` and `--report`. Within a [`VERSION`], fields are only added.
//!
//! The types document the JSON and serialize it. A program cannot create them, and reads the JSON with types of its
//! own, which must ignore unknown fields.

mod bench;
#[cfg(feature = "cli")]
mod cache;
mod doctor;
mod evict;
mod explain;
#[cfg(feature = "cli")]
mod init;
mod prune;
#[cfg(feature = "cli")]
mod remote;
mod server;
mod stats;
mod verify;

pub use self::bench::{BenchAnswer, CostAnswer};
#[cfg(feature = "cli")]
pub use self::cache::{
    CacheKeyAnswer, CacheNewKeyAnswer, CacheRestoreAnswer, CacheSaveAnswer, CachedTemplate, CiAnswer,
    KeyedTemplate,
};
pub use self::doctor::{CheckAnswer, DoctorAnswer};
pub use self::evict::{EvictAnswer, EvictedTemplate, PinAnswer, PinnedTemplate};
pub use self::explain::{
    AgainstAnswer, CostsAnswer, ExplainAllAnswer, ExplainAnswer, InputsAnswer, NowAnswer, VariableAnswer,
    WaypointAnswer,
};
#[cfg(feature = "cli")]
pub use self::init::{AdviceAnswer, InitAnswer, InitCheckAnswer, PresetAnswer, PresetsAnswer};
pub use self::prune::{PruneAnswer, PrunedClone};
#[cfg(feature = "cli")]
pub use self::remote::{
    EntryAnswer, PullAnswer, PushAnswer, PushedAnswer, RemoteCheckAnswer, RemoteDoctorAnswer,
    RemoteListAnswer, RemotePruneAnswer,
};
#[cfg(feature = "fetch")]
pub use self::server::FetchAnswer;
pub use self::server::{
    ClusterAnswer, MovedAnswer, PathsAnswer, ServerAnswer, ServerListAnswer, ServerPlaces,
    ServerRemoveAnswer, ServerStopAnswer, StatusAnswer,
};
pub use self::stats::{Counts, DayCounts, StatsAnswer, TemplateCounts};
pub use self::verify::{VerdictAnswer, VerifyAnswer};

use serde::Serialize;

use crate::error::Error;
use crate::fingerprint::RelPath;
use crate::lease::ClonedSet;
use crate::pg::{self, Endpoint};
use crate::quantity::Millis;
use crate::registry::owner::Bound;
use crate::registry::{CloneRow, CloneState};
use crate::retention::rebuild_policy::{Decision, Wait};
use crate::stencil::{Age, CloneListing, Leases, Listing, Outlook, TemplateListing};
use crate::template::{self, Ensured, Extends, Provenance};

/// The version of every object here.
pub const VERSION: u32 = 1;

/// A map that keeps its order, which is that of the definition's aliases.
#[derive(Clone, Debug)]
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<T: Serialize> Serialize for Ordered<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(k, v)| (k, v)))
    }
}

/// Answer of `clone`, `run --report` and `ensure`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// [`VERSION`]
    pub version: u32,
    /// Name of the definition.
    pub template: String,
    /// Fingerprint of its current inputs.
    pub fingerprint: String,
    /// `hit`, `miss`, `extended`, `pulled`, `unsealed`, `fallback` or `reused`.
    pub outcome: &'static str,
    /// Whether a full build is to replace the template.
    pub provisional: bool,
    /// Origin of the template's incremental build, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<ExtendsAnswer>,
    /// `remote` if the base of an incremental build was pulled from the remote store for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_from: Option<&'static str>,
    /// For `reused`: whether a clone is not from the current inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<bool>,
    /// The clone that had a name before, if it was dropped without its owner's action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<DroppedAnswer>,
    /// Reason for a full build although there was a possible base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The clone, or the first of several; absent from `ensure`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clone: Option<CloneAnswer>,
    /// All clones, if several were requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clones: Vec<CloneAnswer>,
    /// Milliseconds of `timing_ms.template` that were spent on waiting for builds of other processes, if any
    /// were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<f64>,
    /// Durations of the steps.
    pub timing_ms: Timing,
}

/// Origin of an incrementally built template.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ExtendsAnswer {
    /// Fingerprint of the base.
    pub base: String,
    /// The migrations that were added to it, in order.
    pub added: Vec<RelPath>,
}

impl From<&Extends> for ExtendsAnswer {
    fn from(extends: &Extends) -> Self {
        ExtendsAnswer { base: extends.base.to_string(), added: extends.added.clone() }
    }
}

/// A clone.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CloneAnswer {
    /// Short id.
    pub id: String,
    /// Name of its first database.
    pub name: String,
    /// Databases by alias.
    pub databases: Ordered<DatabaseAnswer>,
    /// Time of expiry; RFC 3339; null for leases that do not expire by the clock.
    pub expires_at: Option<String>,
    /// The source of its name, if each command in its checkout moves `expires_at` while that source exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_by: Option<BoundAnswer>,
    /// For a clone that already existed: fingerprint of the inputs of its databases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// For a clone that already existed: `same`, `older`, `newer` or `other` than the current inputs, by their
    /// migrations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<&'static str>,
}

/// Source of a clone's name.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct BoundAnswer {
    /// A local branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// A worktree of a git repository; empty for the main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worktree: Option<String>,
}

fn bound_answer(bound: &Bound) -> Option<BoundAnswer> {
    (!bound.is_free()).then(|| BoundAnswer { branch: bound.branch.clone(), worktree: bound.worktree.clone() })
}

/// A clone that was dropped without its owner's action.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DroppedAnswer {
    /// Name of its first database.
    pub name: String,
    /// Time of the drop; RFC 3339.
    pub at: String,
    /// Reason for the drop.
    pub why: String,
}

/// A database.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DatabaseAnswer {
    /// Its name on the server.
    pub name: String,
    /// The whole URL, with the password: it is the answer.
    pub url: String,
}

/// Milliseconds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Timing {
    /// Time for reading and hashing files.
    pub fingerprint: f64,
    /// Time for looking up, waiting, building.
    pub template: f64,
    /// Time for copying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clone: Option<f64>,
}

fn waited(time: std::time::Duration) -> Option<f64> {
    (!time.is_zero()).then(|| millis(time))
}

fn millis(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

fn clone_answer(clone: &ClonedSet, age: Option<&Age>, endpoint: &Endpoint) -> CloneAnswer {
    CloneAnswer {
        id: clone.id.clone(),
        name: clone.name().to_owned(),
        databases: Ordered(
            clone
                .databases
                .iter()
                .map(|d| {
                    let url = endpoint.client_url(&d.name).reveal();
                    (d.alias.clone(), DatabaseAnswer { name: d.name.clone(), url })
                })
                .collect(),
        ),
        expires_at: clone.expires_at.clone(),
        kept_by: bound_answer(&clone.bound),
        fingerprint: age.map(|_| clone.fingerprint.to_string()),
        age: age.map(|age| age.as_str()),
    }
}

impl Answer {
    /// Creates the answer of `clone` and `run`.
    pub(crate) fn of_clones(leases: &Leases, endpoint: &Endpoint) -> Self {
        let clones: Vec<CloneAnswer> = leases
            .clones
            .iter()
            .enumerate()
            .map(|(i, clone)| clone_answer(clone, leases.ages.get(i), endpoint))
            .collect();
        let stale = leases.ages.iter().any(|age| *age != Age::Same);
        let dropped = leases.dropped.as_ref();
        Answer {
            stale: (!leases.ages.is_empty()).then_some(stale),
            dropped: dropped.map(|row| DroppedAnswer {
                name: row.name.clone(),
                at: row.at.clone(),
                why: row.why.clone(),
            }),
            clone: clones.first().cloned(),
            clones: if clones.len() > 1 { clones } else { Vec::new() },
            timing_ms: Timing::new(&leases.timing, true),
            ..Answer::of(&leases.definition, &leases.provenance, &leases.timing)
        }
    }

    /// Creates the answer of `ensure`.
    pub(crate) fn of_template(definition: &str, ensured: &Ensured) -> Self {
        Answer::of(definition, &ensured.provenance, &ensured.timing)
    }

    fn of(definition: &str, provenance: &Provenance, timing: &template::Timing) -> Self {
        Answer {
            version: VERSION,
            template: definition.to_owned(),
            fingerprint: provenance.fingerprint.to_string(),
            outcome: provenance.outcome.as_str(),
            provisional: provenance.provisional.is_some(),
            extends: provenance.extends.as_ref().map(Into::into),
            base_from: provenance.base_from_remote.then_some("remote"),
            stale: None,
            dropped: None,
            note: provenance.note.clone(),
            clone: None,
            clones: Vec::new(),
            waited_ms: waited(timing.waited),
            timing_ms: Timing::new(timing, false),
        }
    }
}

impl Timing {
    fn new(timing: &template::Timing, clones: bool) -> Self {
        Timing {
            fingerprint: millis(timing.inputs),
            template: millis(timing.template),
            clone: clones.then(|| millis(timing.clone)),
        }
    }
}

/// Answer of `list`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ListAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Templates, sorted by project and definition.
    pub templates: Vec<TemplateAnswer>,
    /// Clones, oldest first.
    pub clones: Vec<ListedClone>,
}

/// One template in a list.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TemplateAnswer {
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub template: String,
    /// 64 hex digits.
    pub fingerprint: String,
    /// `building`, `ready` or `broken`.
    pub state: &'static str,
    /// Whether a full build is to replace it.
    pub provisional: bool,
    /// Fingerprint of its base; null after a full build.
    pub base: Option<String>,
    /// The migrations that were added to the base, in order.
    pub added: Vec<RelPath>,
    /// Number of incremental builds since the last full build.
    pub chain: i32,
    /// Whether it was built by `build_until`, as a base of others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub waypoint: bool,
    /// Reason why the full build that was to replace it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild_failure: Option<String>,
    /// Time since when it counts as equal to a full build by the evidence of others; RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<String>,
    /// Plan for the full build, and the evidence, if it was built incrementally.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<RebuildAnswer>,
    /// Differences of the incrementally built template that it replaced; empty if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
    /// Total size of its databases.
    pub bytes: i64,
    /// Time of its creation; RFC 3339.
    pub created_at: String,
    /// Time of its last use; RFC 3339.
    pub last_used_at: String,
    /// Number of times that it was found ready.
    pub hits: i64,
    /// Whether it is exempt from eviction.
    pub pinned: bool,
    /// Milliseconds of its build.
    pub build_ms: Option<i64>,
    /// The remote store that it was pulled from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pulled_from: Option<String>,
    /// The process that built it, or is building it.
    pub builder: crate::registry::Holder,
    /// Postgres role that owns the result of the build: others may use the template only if they inherit from it.
    pub built_by: String,
    /// Reason why it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is known about the rebuild of an incrementally built template.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RebuildAnswer {
    /// Number of its uses, its build included; that of a waypoint was none.
    pub uses: u64,
    /// What the next command that uses it leads to: `rebuild`, `accept` (it counts as equal to a full build without
    /// one), or `wait`; `none` if it is accepted already.
    pub next: &'static str,
    /// Reason for `wait`, and reason why the last background process did not rebuild it: `unused`, `new`, `spent`
    /// (rebuilds had taken their share of the day), `busy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// Seconds until a command that uses it rebuilds or accepts it, for the reason `new`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_in_s: Option<f64>,
    /// Number of incremental builds that no full build has proved, of it and its bases; null if one of the bases is
    /// known to differ.
    pub unproved: Option<u32>,
    /// Number of rebuilds and comparisons of its definition.
    pub compared: usize,
    /// Number of those that found no difference.
    pub equal: usize,
    /// Highest share of incremental builds of the definition that may differ without having been noticed, at 95 %
    /// confidence.
    pub unseen: f64,
}

impl From<&Outlook> for RebuildAnswer {
    fn from(outlook: &Outlook) -> Self {
        let word = |wait: &Wait| match wait {
            Wait::Unused => "unused",
            Wait::New { .. } => "new",
            Wait::Spent => "spent",
            Wait::Busy => "busy",
        };
        let (next, wait) = match &outlook.next {
            None => ("none", None),
            Some(Decision::Accept) => ("accept", None),
            Some(Decision::Rebuild) => ("rebuild", outlook.waited.as_ref()),
            Some(Decision::Wait(wait)) => ("wait", Some(wait)),
        };
        RebuildAnswer {
            uses: outlook.uses,
            next,
            why: wait.map(word),
            due_in_s: match wait {
                Some(Wait::New { left }) => Some(*left),
                _ => None,
            },
            unproved: Some(outlook.links).filter(|links| *links != u32::MAX),
            compared: outlook.tally.compared,
            equal: outlook.tally.equal,
            unseen: outlook.tally.findings.unseen(),
        }
    }
}

/// One clone in a list. It has no URLs, since those contain passwords.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ListedClone {
    /// Short id.
    pub id: String,
    /// Name of its first database.
    pub name: String,
    /// Names of its databases by alias.
    pub databases: Ordered<String>,
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub template: String,
    /// Fingerprint of its template.
    pub fingerprint: String,
    /// `creating`, `warm`, `leased`, `released` or `orphaned`.
    pub state: &'static str,
    /// Its holder, or its last one.
    pub holder: crate::registry::Holder,
    /// Its owner; null if it is unclaimed.
    pub owner: Option<OwnerAnswer>,
    /// Time of the last command in the owner's checkout, to the hour; RFC 3339.
    pub used_at: String,
    /// Time of expiry; RFC 3339; null for leases that do not expire by the clock.
    pub expires_at: Option<String>,
    /// The source of its name, if each command in its checkout moves `expires_at` while that source exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_by: Option<BoundAnswer>,
    /// Time of its creation; RFC 3339.
    pub created_at: String,
    /// Total size of its databases; null without `--sizes`, or if it could not be read.
    pub bytes: Option<i64>,
}

/// The owner of a clone: a Postgres role in a checkout on a machine.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OwnerAnswer {
    /// Postgres role; null for a clone from before owners were recorded, whose holder counts.
    pub role: Option<String>,
    /// `PGSTENCIL_OWNER`, which replaces machine and checkout; null if it was not set.
    pub name: Option<String>,
    /// The machine.
    pub machine: String,
    /// Top level of the checkout.
    pub top: String,
    /// The config's root, relative to that.
    pub below: String,
    /// Start of the ownership; RFC 3339.
    pub since: String,
    /// Whether all checkouts of the project share it.
    pub shared: bool,
}

fn owner_answer(row: &CloneRow) -> Option<OwnerAnswer> {
    let owner = &row.owner;
    let is_handed_out = matches!(row.state, CloneState::Leased | CloneState::Released);
    is_handed_out.then(|| OwnerAnswer {
        role: owner.role.clone(),
        name: Some(owner.name.clone()).filter(|name| !name.is_empty()),
        machine: owner.machine.clone(),
        top: owner.top.clone(),
        below: owner.below.clone(),
        since: owner.since.clone(),
        shared: owner.shared,
    })
}

impl From<&Listing> for ListAnswer {
    fn from(listing: &Listing) -> Self {
        ListAnswer {
            version: VERSION,
            templates: listing.templates.iter().map(template_answer).collect(),
            clones: listing.clones.iter().map(listed_clone).collect(),
        }
    }
}

fn template_answer(template: &TemplateListing) -> TemplateAnswer {
    let TemplateListing { row, bytes, outlook } = template;
    TemplateAnswer {
        project: row.project.clone(),
        template: row.definition.clone(),
        fingerprint: row.fingerprint.to_string(),
        state: row.state.as_str(),
        provisional: row.provisional,
        base: row.base_fingerprint.map(|base| base.to_string()),
        added: row.added.0.clone(),
        chain: row.chain,
        waypoint: row.waypoint,
        rebuild_failure: row.rebuild_failure.clone(),
        accepted_at: row.accepted_at.clone(),
        rebuild: outlook.as_ref().map(RebuildAnswer::from),
        difference: row.difference.clone(),
        bytes: *bytes,
        created_at: row.created_at.clone(),
        last_used_at: row.last_used_at.clone(),
        hits: row.hits,
        pinned: row.pinned,
        build_ms: row.build_ms.map(Millis::signed),
        pulled_from: row.built_with.pulled.as_ref().map(|pulled| pulled.place.clone()),
        builder: row.builder.0.clone(),
        built_by: row.built_by.clone(),
        reason: row.reason.clone(),
    }
}

fn listed_clone(clone: &CloneListing) -> ListedClone {
    let row = &clone.row;
    ListedClone {
        id: row.id.clone(),
        name: row.name.clone(),
        databases: Ordered(clone.databases.iter().map(|d| (d.alias.clone(), d.name.clone())).collect()),
        project: row.project.clone(),
        template: row.definition.clone(),
        fingerprint: row.fingerprint.to_string(),
        state: row.shown_state(clone.locked).as_str(),
        holder: row.holder.0.clone(),
        owner: owner_answer(row),
        used_at: row.seen_at.clone(),
        expires_at: row.expires_at.clone(),
        kept_by: bound_answer(&row.prolonging()),
        created_at: row.created_at.clone(),
        bytes: clone.bytes,
    }
}

/// Answer of `release`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ReleaseAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Names of the clones that were released.
    pub released: Vec<String>,
    /// Names of the clones that were already released, and wait for their drop.
    pub already_released: Vec<String>,
    /// Databases that no longer exist, or are left alone since another user changed them.
    pub warnings: Vec<String>,
}

/// Form of an error with `--json`, on standard error.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ErrorAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The error.
    pub error: ErrorBody,
}

/// An error.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ErrorBody {
    /// [`crate::Kind`] as a word.
    pub kind: &'static str,
    /// The message, one line.
    pub message: String,
    /// Lines of detail.
    pub details: Vec<String>,
    /// The errors underneath, outermost first.
    pub causes: Vec<String>,
    /// Advice for the user.
    pub hints: Vec<String>,
}

impl From<&Error> for ErrorAnswer {
    fn from(error: &Error) -> Self {
        ErrorAnswer {
            version: VERSION,
            error: ErrorBody {
                kind: error.kind().as_str(),
                message: error.message().to_owned(),
                details: error.details().to_vec(),
                causes: causes(error),
                hints: error.hints().to_vec(),
            },
        }
    }
}

/// Returns an error with the messages of the errors underneath, in one line.
pub(crate) fn chain(error: &Error) -> String {
    std::iter::once(error.to_string()).chain(causes(error)).collect::<Vec<_>>().join(": ")
}

/// Returns the messages of the errors underneath, outermost first.
pub(crate) fn causes(error: &Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = pg::words(cause);
        // Wrappers often repeat the wrapped message; the driver's does so, and adds a line of the server's source.
        let told = causes.last().is_some_and(|last| {
            text.strip_prefix(last.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(" at line "))
        });
        if !told {
            causes.push(text);
        }
        next = cause.source();
    }
    causes
}
