//! `before_release`: when it runs, and who is told how it ended.
//!
//! It runs in the checkout that made the clone, by the command in that checkout's config: before a clone is given
//! back, or replaced by its owner; after the drop where a sweep took the clone. A sweep of anybody only notes that
//! it is owed. It is started once: one that was broken off, since its process was killed, is told and not repeated.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Deadline, Stencil};
use crate::config::Config;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::events::{Event, Warning};
use crate::lease::{self, BOUND};
use crate::pg::Endpoint;
use crate::registry::owed::{Debtor, OwedRow};
use crate::registry::{Holder, Registry};

/// Who learns of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearer {
    /// The caller.
    Caller,
    /// Nobody is there: the next command of the checkout tells.
    Next,
}

/// What became of what was owed.
#[derive(Debug, Default)]
pub(super) struct Paid {
    /// What a person should know.
    pub(super) warnings: Vec<String>,
    /// Names of the databases for which another process runs the command now.
    pub(super) running: Vec<String>,
}

/// A checkout whose config has `before_release`.
#[derive(Clone, Copy)]
pub(super) struct Hooks<'a> {
    config: &'a Config,
    endpoint: &'a Endpoint,
    holder: &'a Holder,
}

impl<'a> Hooks<'a> {
    /// `None` if no definition has such a command: then nothing is asked.
    pub(super) fn of(config: &'a Config, endpoint: &'a Endpoint, holder: &'a Holder) -> Option<Self> {
        let mut definitions = config.definitions.iter();
        let any = definitions.any(|d| d.before_release.is_some());
        any.then_some(Hooks { config, endpoint, holder })
    }

    fn debtor(&self) -> Debtor<'a> {
        let root: &Path = &self.config.root;
        Debtor::new(self.holder, &self.config.project, root)
    }

    /// Runs the command for one clone, if this checkout owes it. Returns what a person should know.
    pub(super) async fn release(
        &self,
        registry: &mut Registry,
        clone: &str,
        deadline: &Deadline,
        hearer: Hearer,
    ) -> Result<Option<String>> {
        let with_hook = self.config.definitions.iter();
        let with_hook = with_hook.filter(|d| d.before_release.is_some());
        let names: Vec<String> = with_hook.map(|d| d.name.clone()).collect();
        let deadline = bounded(deadline);
        if deadline.check("before_release").is_err() {
            return Ok(None);
        }
        let Some(row) = registry.claim_owed(&self.debtor(), clone, &names).await? else {
            return Ok(None);
        };
        let failure = self.run(&row, &deadline).await.err();
        let failure = failure.map(|error| words(&row, &error));
        let later = failure.as_deref().filter(|_| hearer == Hearer::Next);
        registry.end_owed(clone, later).await?;
        Ok(failure.filter(|_| hearer == Hearer::Caller))
    }

    async fn run(&self, row: &OwedRow, deadline: &Deadline) -> Result<()> {
        let definition = self.config.definition(Some(&row.definition))?;
        let handed = row.handed.0.clone();
        lease::before_release(self.endpoint, &self.config.root, definition, handed, deadline).await
    }

    /// Runs all that this checkout owes, one after the other, and tells what was not told.
    pub(super) async fn all(
        &self,
        registry: &mut Registry,
        deadline: &Deadline,
        hearer: Hearer,
    ) -> Result<Paid> {
        let started = Instant::now();
        let mut paid = Paid::default();
        for row in registry.owed(&self.debtor()).await? {
            let id = &row.clone_id;
            if let Some(failure) = &row.failure {
                if hearer == Hearer::Caller && registry.told_of_owed(id).await? {
                    paid.warnings.push(failure.clone());
                }
            } else if row.started && hearer == Hearer::Caller {
                match registry.forget_broken_off(id).await? {
                    None => paid.running.extend(row.names),
                    Some(true) => paid.warnings.push(format!(
                        "before_release of `{}` was broken off for clone {}, since its pgstencil was killed: what it was to take away may still be there. It does not run again",
                        row.definition,
                        row.name()
                    )),
                    Some(false) => {}
                }
            } else if !row.started && !row.taken && started.elapsed() < BOUND {
                // What else has the name by now must not be taken for the clone.
                let failure = self.release(registry, id, deadline, hearer).await?;
                paid.warnings.extend(failure);
            }
        }
        Ok(paid)
    }
}

fn bounded(deadline: &Deadline) -> Deadline {
    let time = deadline.left().map_or(BOUND, |left| left.min(BOUND));
    Deadline::new(Some(time), deadline.cancel.clone())
}

/// An error in one text, for a list of warnings.
fn words(row: &OwedRow, error: &Error) -> String {
    let first = format!("{error} for clone {}", row.name());
    let lines = std::iter::once(first).chain(error.details().iter().cloned());
    lines.collect::<Vec<_>>().join("\n")
}

impl Stencil {
    pub(super) fn hooks(&self) -> Option<Hooks<'_>> {
        Hooks::of(&self.config, &self.endpoint, &self.holder)
    }

    /// Runs the `before_release` commands that this checkout owes: for clones that a sweep took, of any process on
    /// any machine. [`Stencil::acquire`], [`Stencil::ensure`] and the thread of a program do so by themselves.
    /// Returns the failures that should be told: a failure is never an error. Nothing is asked of the server if
    /// the config has no `before_release`.
    ///
    /// Each command gets a minute, or what is left of the limit, and is started once. What nobody has run within
    /// seven days is forgotten.
    ///
    /// Cancel safety: a command that runs is ended, and not repeated.
    pub(crate) async fn run_owed(&self, deadline: &Deadline) -> Vec<String> {
        self.run_all_owed(deadline, Hearer::Caller).await
    }

    /// [`Stencil::run_owed`] where nobody listens: the next command of the checkout tells of failures.
    pub(crate) async fn run_owed_unheard(&self, deadline: &Deadline) {
        self.run_all_owed(deadline, Hearer::Next).await;
    }

    async fn run_all_owed(&self, deadline: &Deadline, hearer: Hearer) -> Vec<String> {
        let Some(hooks) = self.hooks() else {
            return Vec::new();
        };
        // What cannot be run now is the next command's.
        let Ok(Some(mut registry)) = self.open_existing(deadline).await else {
            return Vec::new();
        };
        match hooks.all(&mut registry, deadline, hearer).await {
            Ok(paid) => {
                self.idle.put(registry);
                paid.warnings
            }
            Err(_) => Vec::new(),
        }
    }

    /// Runs `before_release` for a clone that is about to be given up, if this checkout made it. Never a reason
    /// not to give it up.
    pub(super) async fn before_release(
        &self,
        registry: &mut Registry,
        clone: &str,
        deadline: &Deadline,
        hearer: Hearer,
    ) -> Option<String> {
        let hooks = self.hooks()?;
        let warning = hooks.release(registry, clone, deadline, hearer).await;
        warning.ok().flatten()
    }

    /// [`Stencil::run_owed`] with a session that is there, for a caller who goes on. Of commands that another
    /// process runs for one of `names` it waits for the end: what comes next may make the same things again.
    pub(super) async fn pay(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        names: &[String],
    ) -> Result<()> {
        let Some(hooks) = self.hooks() else {
            return Ok(());
        };
        loop {
            let deadline = context.deadline;
            // What cannot be run now is the next command's.
            let paid = hooks.all(registry, deadline, Hearer::Caller).await;
            let paid = paid.unwrap_or_default();
            for warning in &paid.warnings {
                context.tell(Event::Warning(&Warning::new(warning)));
            }
            let Some(name) = names.iter().find(|name| paid.running.contains(name)) else {
                return Ok(());
            };
            let what = format!("before_release of the clone that had the name `{name}`");
            deadline.pause(Duration::from_millis(50), &what).await?;
        }
    }
}
