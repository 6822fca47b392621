//! Finds clones whose branch or worktree no longer exists according to git.
//!
//! A branch can be looked up only in its own repository, so only clones created there are judged: clones whose
//! registry rows name this role, this machine or `PGSTENCIL_OWNER`, and git's common directory with its inode and
//! birth time. Where git does not answer, nothing counts as gone.

use std::path::Path;

use super::owed::Hearer;
use super::{Deadline, Stencil};
use crate::error::Result;
use crate::events::Warning;
use crate::git::{self, Absent, Refs, Tree};
use crate::pg::lock::LockKey;
use crate::registry::Registry;
use crate::registry::bound::BoundRow;
use crate::registry::owner::Bound;

/// A clone whose branch or worktree is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prunable {
    /// The clone.
    pub(crate) row: BoundRow,
    /// The part of its name that is gone: the branch, the worktree or both.
    pub(crate) gone: Bound,
    /// Reason why it is not released now: its user.
    pub(crate) in_use: Option<String>,
}

/// Plan of [`Stencil::prune`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrunePlan {
    /// The clones, oldest first.
    pub(crate) clones: Vec<Prunable>,
    /// Names that git could not check; their clones are left alone.
    pub(crate) warnings: Vec<Warning>,
}

/// Result for a clone that was to be released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pruned {
    /// It is released; a cleanup drops it.
    Released,
    /// It is in use, or was in the meantime, so it is kept. Names the user.
    InUse(String),
    /// Another process released it, or its lease ended.
    GoneBefore,
}

/// Message of the warnings that concern all clones.
const NOTHING_PRUNED: &str = "no clone can be pruned";

impl Stencil {
    /// Returns the clones of this checkout's repository whose branch or worktree is gone. Writes nothing.
    ///
    /// # Errors
    /// The driver's. If git does not answer, the plan has a warning.
    pub(crate) async fn plan_prune(&self, deadline: &Deadline) -> Result<PrunePlan> {
        let checkout = &self.holder.checkout;
        let mut plan = PrunePlan::default();
        let Some(mut registry) = self.open_existing(deadline).await? else {
            return Ok(plan);
        };
        let rows = registry.bound(checkout).await?;
        let elsewhere = registry.bound_elsewhere(checkout).await?;
        let held = match rows.is_empty() {
            true => Default::default(),
            false => registry.held_locks().await?,
        };
        self.idle.put(registry);
        if elsewhere > 0
            && let Some(repository) = &checkout.repository
        {
            let kept = match elsewhere {
                1 => "one clone is kept".to_owned(),
                n => format!("{n} clones are kept"),
            };
            let why = format!("created in another repository at {}", repository.common_dir);
            plan.warnings.push(Warning::new(kept).detail(why));
        }
        if checkout.repository.is_none() {
            let why = format!("{} is not in a git repository", checkout.top);
            plan.warnings.push(Warning::new(NOTHING_PRUNED).detail(why));
        }
        if rows.is_empty() {
            return Ok(plan);
        }
        let absent = match self.tree() {
            Some(tree) => git::absent(&tree, &refs(&rows)).await,
            None => Err("its repository cannot be read".to_owned()),
        };
        let absent = match absent {
            Ok(absent) => absent,
            Err(why) => {
                let why = format!("git cannot be used in {}: {why}", checkout.top);
                plan.warnings.push(Warning::new(NOTHING_PRUNED).detail(why));
                return Ok(plan);
            }
        };
        for (name, why) in &absent.lost {
            plan.warnings.push(
                Warning::new(format!("the clones of worktree `{name}` are kept"))
                    .detail(format!("git lists this worktree, but does not find it ({why})"))
                    .hint("if it was deleted: `git worktree prune`")
                    .hint("if it was moved: `git worktree repair`, in its new directory"),
            );
        }
        for row in rows {
            if let Some(gone) = gone(&row.bound, &absent) {
                let in_use = match held.contains(&LockKey::clone(&row.id)) {
                    true => Some("another command uses it".to_owned()),
                    false => sessions(&row),
                };
                plan.clones.push(Prunable { row, gone, in_use });
            }
        }
        Ok(plan)
    }

    /// Releases the unused clones of a plan. A cleanup drops them. The owner gets the reason on the next request for
    /// the name. Runs `before_release` for those that this checkout created; [`Stencil::run_owed`] returns the
    /// failures.
    ///
    /// # Errors
    /// The driver's; the clones before it are released.
    pub(crate) async fn prune(
        &self,
        plan: PrunePlan,
        deadline: &Deadline,
    ) -> Result<Vec<(Prunable, Pruned)>> {
        let mut done = Vec::new();
        if plan.clones.is_empty() {
            return Ok(done);
        }
        let mut registry = self.open_registry(deadline).await?;
        for prunable in plan.clones {
            let pruned = self.prune_one(&mut registry, &prunable, deadline).await?;
            done.push((prunable, pruned));
        }
        self.idle.put(registry);
        Ok(done)
    }

    async fn prune_one(
        &self,
        registry: &mut Registry,
        clone: &Prunable,
        deadline: &Deadline,
    ) -> Result<Pruned> {
        let pruned = registry
            .with_lock(LockKey::clone(&clone.row.id), async |registry| {
                let rows = registry.bound(&self.holder.checkout).await?;
                let mut rows = rows.into_iter();
                Ok(match rows.find(|row| row.id == clone.row.id) {
                    None => Pruned::GoneBefore,
                    // Since git was asked, its owner has used it, perhaps with a new branch of the name.
                    Some(row) if !row.is_same(&clone.row) => Pruned::InUse("it was used a moment ago".into()),
                    Some(row) => match sessions(&row) {
                        Some(who) => Pruned::InUse(who),
                        None => {
                            self.before_release(registry, &row.id, deadline, Hearer::Next).await;
                            let by = self.holder.describe_checkout();
                            let why =
                                format!("{} is gone, and {by} ran `pgstencil prune`", words(&clone.gone));
                            match registry.end_lease(&row.id, &why).await? {
                                true => Pruned::Released,
                                false => Pruned::GoneBefore,
                            }
                        }
                    },
                })
            })
            .await?;
        Ok(pruned.unwrap_or_else(|| Pruned::InUse("another command uses it".into())))
    }

    /// Returns the clones that are kept for branches and worktrees of this checkout's repository. Queries the server
    /// only if the last message of `registry` did not include them, as that of a request does.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn bound_here(&self, registry: &mut Registry) -> Result<Vec<BoundRow>> {
        registry.bound_here(&self.holder.checkout).await
    }

    /// Returns the number of [`Stencil::bound_here`] clones that have outlived their branch or worktree. Asks git
    /// only if the repository's files do not show everything that a name comes from. Returns 0 if git does not
    /// answer.
    pub(crate) async fn count_prunable(&self, rows: &[BoundRow]) -> usize {
        let Some(tree) = self.tree().filter(|_| !rows.is_empty()) else {
            return 0;
        };
        let refs = refs(rows);
        let seem = tree.git.as_ref().map(|git| git.seem_absent(&refs));
        let Some(seem) = seem.filter(|seem| !seem.is_empty()) else {
            return 0;
        };
        let absent = git::absent(&tree, &seem).await.unwrap_or_default();
        let gone = rows.iter().filter(|row| gone(&row.bound, &absent).is_some());
        gone.count()
    }

    /// Runs [`Stencil::count_prunable`] in a session of its own, for commands that have none left.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn look_for_prunable(&self, deadline: &Deadline) -> Result<usize> {
        if self.holder.checkout.repository.is_none() {
            return Ok(0);
        }
        let Some(mut registry) = self.open_existing(deadline).await? else {
            return Ok(0);
        };
        let rows = self.bound_here(&mut registry).await?;
        self.idle.put(registry);
        Ok(self.count_prunable(&rows).await)
    }

    /// Returns the checkout on disk, if it still belongs to the repository that the holder names.
    fn tree(&self) -> Option<Tree> {
        let checkout = &self.holder.checkout;
        let repository = checkout.repository.as_ref()?;
        let tree = Tree::find(Path::new(&checkout.top))?;
        let git = tree.git.as_ref()?;
        (git.common == Path::new(&repository.common_dir)).then_some(tree)
    }
}

/// Returns the branches and worktrees that the names of clones come from.
fn refs(rows: &[BoundRow]) -> Refs {
    let bound = || rows.iter().map(|row| &row.bound);
    Refs {
        branches: bound().filter_map(|b| b.branch.clone()).collect(),
        worktrees: bound().filter_map(|b| b.worktree.clone()).collect(),
    }
}

/// Returns the parts of a name that are gone; `None` if all of them exist.
fn gone(bound: &Bound, absent: &Absent) -> Option<Bound> {
    let gone = Bound {
        branch: bound.branch.clone().filter(|name| absent.gone.branches.contains(name)),
        worktree: bound.worktree.clone().filter(|name| absent.gone.worktrees.contains(name)),
    };
    (!gone.is_free()).then_some(gone)
}

fn sessions(row: &BoundRow) -> Option<String> {
    match row.sessions {
        0 => None,
        1 => Some("a session is connected to it".into()),
        n => Some(format!("{n} sessions are connected to it")),
    }
}

/// Describes the parts that are gone.
pub(crate) fn words(gone: &Bound) -> String {
    let branch = gone.branch.as_ref().map(|name| format!("branch `{name}`"));
    let worktree = gone.worktree.as_ref().map(|name| format!("worktree `{name}`"));
    let words: Vec<String> = branch.into_iter().chain(worktree).collect();
    words.join(" and ")
}
