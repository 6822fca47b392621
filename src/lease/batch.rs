//! [`Batch`]: the clones that one request asks for, as far as they are there.

use std::ops::Range;
use std::time::Instant;

use super::ClonedSet;
use crate::config::value::Alias;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::names::{self, NameParts, NamePattern};
use crate::registry::owner::Tenure;
use crate::variables::{Outcome, Shard};

/// The clones that one request asks for. They are made in order: the first ones are there, the others are
/// missing.
#[derive(Clone, Debug)]
pub(crate) struct Batch<'a> {
    naming: Naming<'a>,
    tenures: Vec<Tenure<'a>>,
    /// `{id}`: the same for all clones, so that their names can belong together. The first clone has it for its
    /// own id.
    pub(super) group: String,
    /// How their template came about, for `after_clone`.
    pub(crate) outcome: Outcome,
    /// Those that are there.
    pub(crate) clones: Vec<ClonedSet>,
    /// When the first look for them began.
    pub(crate) started: Instant,
}

/// What the databases are called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Naming<'a> {
    /// Names of the databases.
    pub(crate) pattern: &'a NamePattern,
    /// `{shard}`
    pub(crate) shard: Option<Shard>,
}

impl Naming<'_> {
    /// The names of one clone's databases, in the order of the definition. `group`: `{id}`; `index`: `{n}`.
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

    /// Fails if the pattern cannot name that many clones: to be asked before a long build.
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
                    "the name pattern gives `{}` to two databases of the set",
                    pair[0]
                ))
                .hint("add `{alias}` to `--name`"));
            }
        }
        Ok(())
    }
}

impl<'a> Batch<'a> {
    /// A batch of clones that are all missing. `tenures`: for each, for whom and how long it is kept.
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

    /// How many clones are missing.
    pub(crate) fn missing(&self) -> usize {
        self.tenures.len() - self.clones.len()
    }

    /// Whether none is missing.
    pub(crate) fn is_full(&self) -> bool {
        self.missing() == 0
    }

    /// Takes a new `{id}`, unless a clone has the present one in its name already: the registry still knows
    /// what failed by that.
    pub(crate) fn renew_group(&mut self) {
        if self.clones.is_empty() {
            self.group = names::clone_id();
        }
    }

    /// The numbers of the clones that are missing.
    pub(super) fn indexes(&self) -> Range<usize> {
        self.clones.len()..self.tenures.len()
    }

    /// For whom, and how long, the clone of this number is kept.
    pub(super) fn tenure(&self, index: usize) -> &Tenure<'a> {
        &self.tenures[index]
    }

    /// The names of the databases of the clone of this number.
    pub(super) fn names(&self, context: &Context<'_>, index: usize) -> Result<Vec<String>> {
        self.naming.names(context, &self.group, index)
    }

    /// Whether the names can be wanted again, so that somebody may have them.
    pub(super) fn has_fixed_names(&self) -> bool {
        !self.naming.pattern.is_unique()
    }

    pub(super) fn shard(&self) -> Option<Shard> {
        self.naming.shard
    }
}
