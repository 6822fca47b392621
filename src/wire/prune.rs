//! JSON answer of `prune`.

use serde::Serialize;

use super::{BoundAnswer, VERSION, bound_answer};
use crate::events::Warning;
use crate::stencil::{Prunable, PrunePlan, Pruned};

/// Answer of `prune`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PruneAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Whether the answer is only a preview.
    pub dry_run: bool,
    /// The clones whose branch or worktree no longer exists, oldest first.
    pub clones: Vec<PrunedClone>,
    /// Facts that git could not determine, whose clones are therefore left alone.
    pub warnings: Vec<String>,
}

/// One clone whose branch or worktree no longer exists.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PrunedClone {
    /// Short id.
    pub id: String,
    /// Name of its first database.
    pub name: String,
    /// Namespace.
    pub project: String,
    /// Name of the definition.
    pub template: String,
    /// The branch or the worktree that no longer exists.
    pub gone: Option<BoundAnswer>,
    /// `released`, `would_go`, `gone_before` (released by another process), or `in_use`: it is kept.
    pub state: &'static str,
    /// For `in_use`: the user of the clone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

fn clone(prunable: &Prunable, state: &'static str, reason: Option<&String>) -> PrunedClone {
    let row = &prunable.row;
    PrunedClone {
        id: row.id.clone(),
        name: row.name.clone(),
        project: row.project.clone(),
        template: row.definition.clone(),
        gone: bound_answer(&prunable.gone),
        state,
        reason: reason.cloned(),
    }
}

fn texts(warnings: &[Warning]) -> Vec<String> {
    warnings.iter().map(ToString::to_string).collect()
}

impl PruneAnswer {
    /// Creates the preview of a plan.
    pub(crate) fn planned(plan: &PrunePlan) -> Self {
        let clones = plan.clones.iter().map(|prunable| match &prunable.in_use {
            Some(who) => clone(prunable, "in_use", Some(who)),
            None => clone(prunable, "would_go", None),
        });
        PruneAnswer {
            version: VERSION,
            dry_run: true,
            clones: clones.collect(),
            warnings: texts(&plan.warnings),
        }
    }

    /// Creates the answer after the releases.
    pub(crate) fn done(done: &[(Prunable, Pruned)], warnings: &[Warning]) -> Self {
        let clones = done.iter().map(|(prunable, pruned)| match pruned {
            Pruned::Released => clone(prunable, "released", None),
            Pruned::GoneBefore => clone(prunable, "gone_before", None),
            Pruned::InUse(who) => clone(prunable, "in_use", Some(who)),
        });
        PruneAnswer { version: VERSION, dry_run: false, clones: clones.collect(), warnings: texts(warnings) }
    }
}
