//! JSON answers of `evict`, `pin` and `unpin`.

use serde::Serialize;

use super::VERSION;
use crate::registry::eviction::ResidentRow;
use crate::stencil::{Evicted, Eviction, EvictionDone, EvictionPlan, Stays};

/// Answer of `evict`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EvictAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Whether the answer is only a preview.
    pub dry_run: bool,
    /// Bytes of the templates that were evicted, or would be.
    pub bytes: i64,
    /// The templates, in order.
    pub templates: Vec<EvictedTemplate>,
    /// Actions of the cleanup, or the actions that it would take; one line each.
    pub cleanup: Vec<String>,
    /// With `--all`: fingerprints of the project's templates that are kept, since they are pinned.
    pub pinned: Vec<String>,
    /// With `--all`: names of the project's clones that are kept, since they are in use.
    pub clones: Vec<String>,
}

/// One template that was evicted, would be evicted, or was to be evicted.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EvictedTemplate {
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub template: String,
    /// 64 hex digits.
    pub fingerprint: String,
    /// `max_idle`, `max_templates`, `max_size`, or `asked`.
    pub reason: &'static str,
    /// `evicted`, `would_go`, `gone_before` (dropped by another process), or `in_use`: it is kept.
    pub state: &'static str,
    /// Size of its databases.
    pub bytes: i64,
    /// Seconds since its last use.
    pub idle_s: i64,
    /// Milliseconds that a rebuild would take, given the templates that are kept.
    pub rebuild_ms: i64,
}

fn evicted(eviction: &Eviction, state: &'static str) -> EvictedTemplate {
    let row = &eviction.template;
    EvictedTemplate {
        project: row.project.clone(),
        template: row.definition.clone(),
        fingerprint: row.fingerprint.to_string(),
        reason: eviction.reason.as_str(),
        state,
        bytes: row.bytes.signed(),
        idle_s: row.idle_s.0 as i64,
        rebuild_ms: (eviction.rebuild_s * 1000.0).round() as i64,
    }
}

impl EvictAnswer {
    fn new(dry_run: bool, templates: Vec<EvictedTemplate>, cleanup: Vec<String>, stays: &Stays) -> Self {
        let going = templates.iter().filter(|t| matches!(t.state, "evicted" | "would_go"));
        EvictAnswer {
            version: VERSION,
            dry_run,
            bytes: going.map(|t| t.bytes).sum(),
            templates,
            cleanup,
            pinned: stays.pinned.iter().map(ToString::to_string).collect(),
            clones: stays.clones.clone(),
        }
    }
}

impl From<&EvictionPlan> for EvictAnswer {
    fn from(plan: &EvictionPlan) -> Self {
        let templates = plan.evictions.iter();
        EvictAnswer::new(
            true,
            templates.map(|e| evicted(e, "would_go")).collect(),
            plan.cleanup.iter().map(|action| action.describe()).collect(),
            &plan.stays,
        )
    }
}

impl From<&EvictionDone> for EvictAnswer {
    fn from(done: &EvictionDone) -> Self {
        let state = |done: &Evicted| match done {
            Evicted::Gone => "evicted",
            Evicted::GoneBefore => "gone_before",
            Evicted::InUse => "in_use",
        };
        let templates = done.evictions.iter();
        EvictAnswer::new(
            false,
            templates.map(|(e, done)| evicted(e, state(done))).collect(),
            done.cleanup.clone(),
            &done.stays,
        )
    }
}

/// Answer of `pin` and `unpin`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PinAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Whether they are pinned now.
    pub pinned: bool,
    /// The templates.
    pub templates: Vec<PinnedTemplate>,
}

/// A template.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PinnedTemplate {
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub template: String,
    /// 64 hex digits.
    pub fingerprint: String,
}

impl PinAnswer {
    /// Creates the answer for templates that were pinned, or are no longer.
    pub(crate) fn new(rows: &[ResidentRow], pinned: bool) -> Self {
        PinAnswer {
            version: VERSION,
            pinned,
            templates: rows
                .iter()
                .map(|row| PinnedTemplate {
                    project: row.project.clone(),
                    template: row.definition.clone(),
                    fingerprint: row.fingerprint.to_string(),
                })
                .collect(),
        }
    }
}
