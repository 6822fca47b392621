//! [`Batch`]: the clones of one request, as far as they exist.

use std::ops::Range;
use std::time::Instant;

use super::ClonedSet;
use crate::config::value::Alias;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::names::{self, NameParts, NamePattern};
use crate::registry::owner::Tenure;
use crate::variables::{Outcome, Shard};

/// The clones of one request. They are created in order: the first ones exist, the others are missing.
#[derive(Clone, Debug)]
pub(crate) struct Batch<'a> {
    naming: Naming<'a>,
    tenures: Vec<Tenure<'a>>,
    /// Value of `{id}`: the same for all clones, so that their names can belong together. It is also the first
    /// clone's own id.
    pub(super) group: String,
    /// How their template was obtained, for `after_clone`.
    pub(crate) outcome: Outcome,
    /// Clones that exist.
    pub(crate) clones: Vec<ClonedSet>,
    /// Time of the first check for them.
    pub(crate) started: Instant,
}

/// Naming of the databases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming<'a> {
    /// Names of the databases.
    pub(crate) pattern: &'a NamePattern,
    /// Shard, for `{shard}`.
    pub(crate) shard: Option<Shard>,
}

impl Naming<'_> {
    /// Returns the names of one clone's databases, in the order of the definition. `group`: `{id}`; `index`: `{n}`.
    ///
    /// # Errors
    /// As [`NamePattern::render`].
    pub(crate) fn names(&self, context: &Context<'_>, group: &str, index: usize) -> Result<Vec<String>> {
        let checkout = &context.holder.checkout;
        let worktree = checkout.worktree_name();
        let render = |alias: &Alias| {
            self.pattern.render(&NameParts {
                id: group,
                alias,
                index,
                shard: self.shard.map(|s| s.index),
                branch: match &checkout.branch {
                    Some(branch) => Some(&branch.name),
                    None => context.holder.branch.as_deref(),
                },
                worktree: worktree.as_deref(),
                project: context.project,
            })
        };
        context.definition.databases.iter().map(render).collect()
    }

    /// Fails if the pattern cannot name that many clones; to be checked before a long build.
    ///
    /// # Errors
    /// [`crate::Kind::Usage`]
    pub(crate) fn check(&self, context: &Context<'_>, count: usize) -> Result<()> {
        let group = names::clone_id();
        for index in 0..count {
            let mut names = self.names(context, &group, index)?;
            names.sort();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(Error::usage(format!(
                    "the name pattern gives the name `{}` to two databases",
                    pair[0]
                ))
                .hint("add `{alias}` to `--name`"));
            }
        }
        Ok(())
    }
}

impl<'a> Batch<'a> {
    /// Creates a batch of clones that are all missing. `tenures`: for each, its owner and term.
    pub(crate) fn new(naming: Naming<'a>, tenures: Vec<Tenure<'a>>) -> Self {
        Batch {
            naming,
            tenures,
            group: names::clone_id(),
            outcome: Outcome::Hit,
            clones: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Returns the number of missing clones.
    pub(crate) fn missing(&self) -> usize {
        self.tenures.len() - self.clones.len()
    }

    /// Whether no clone is missing.
    pub(crate) fn is_full(&self) -> bool {
        self.missing() == 0
    }

    /// Takes a new `{id}`, since the registry still has the failed clone under the current one. Does nothing if a
    /// clone already has the current one in its name.
    pub(crate) fn renew_group(&mut self) {
        if self.clones.is_empty() {
            self.group = names::clone_id();
        }
    }

    /// Returns the numbers of the missing clones.
    pub(super) fn indexes(&self) -> Range<usize> {
        self.clones.len()..self.tenures.len()
    }

    /// Returns the owner and term of the clone with this number.
    pub(super) fn tenure(&self, index: usize) -> &Tenure<'a> {
        &self.tenures[index]
    }

    /// Returns the names of the databases of the clone with this number.
    pub(super) fn names(&self, context: &Context<'_>, index: usize) -> Result<Vec<String>> {
        self.naming.names(context, &self.group, index)
    }

    /// Whether the names can be requested again, so that another clone may have them.
    pub(super) fn has_fixed_names(&self) -> bool {
        !self.naming.pattern.is_unique()
    }

    pub(super) fn shard(&self) -> Option<Shard> {
        self.naming.shard
    }
}
