//! `before_release`: when it runs, and who receives its failure.
//!
//! It runs in the checkout that created the clone, by the command in that checkout's config: before its owner
//! releases or replaces the clone, or after the drop if a cleanup took it. A cleanup by any process only records that
//! it is owed. It is started once: if its process was killed, that is reported, and it is not repeated.

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

/// Recipient of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearer {
    /// The caller.
    Caller,
    /// The next command of the checkout, since no caller waits.
    Next,
}

/// Result of running the owed commands.
#[derive(Debug, Default)]
pub(super) struct Paid {
    /// Warnings for the user.
    pub(super) warnings: Vec<Warning>,
    /// Names of the databases for which another process runs the command now.
    pub(super) running: Vec<String>,
}

/// Hooks of a checkout whose config has `before_release`.
#[derive(Clone, Copy)]
pub(super) struct Hooks<'a> {
    config: &'a Config,
    endpoint: &'a Endpoint,
    holder: &'a Holder,
}

impl<'a> Hooks<'a> {
    /// Returns `None` if no definition has such a command: then the server is not queried.
    pub(super) fn of(config: &'a Config, endpoint: &'a Endpoint, holder: &'a Holder) -> Option<Self> {
        let mut definitions = config.definitions.iter();
        let any = definitions.any(|d| d.before_release.is_some());
        any.then_some(Hooks { config, endpoint, holder })
    }

    fn debtor(&self) -> Debtor<'a> {
        let root: &Path = &self.config.root;
        Debtor::new(self.holder, &self.config.project, root)
    }

    /// Runs the command for one clone, if this checkout owes it. Returns a warning for the user.
    pub(super) async fn release(
        &self,
        registry: &mut Registry,
        clone: &str,
        deadline: &Deadline,
        hearer: Hearer,
    ) -> Result<Option<Warning>> {
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
        let failure = failure.map(|error| warning(&row, &error));
        let later = failure.as_ref().filter(|_| hearer == Hearer::Next).map(Warning::to_string);
        registry.end_owed(clone, later.as_deref()).await?;
        Ok(failure.filter(|_| hearer == Hearer::Caller))
    }

    async fn run(&self, row: &OwedRow, deadline: &Deadline) -> Result<()> {
        let definition = self.config.definition(Some(&row.definition))?;
        let handed = row.handed.0.clone();
        lease::before_release(self.endpoint, &self.config.root, definition, handed, deadline).await
    }

    /// Runs all commands that this checkout owes, one after the other, and reports failures not yet reported.
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
                    paid.warnings.push(Warning::of_lines(failure));
                }
            } else if row.started && hearer == Hearer::Caller {
                match registry.forget_broken_off(id).await? {
                    None => paid.running.extend(row.names),
                    Some(true) => paid.warnings.push(
                        Warning::new(format!(
                            "before_release of `{}` was interrupted for clone {}, since its pgstencil was killed",
                            row.definition,
                            row.name()
                        ))
                        .detail("the objects that it removes may still exist, and it does not run again"),
                    ),
                    Some(false) => {}
                }
            } else if !row.started && !row.taken && started.elapsed() < BOUND {
                // Whatever has the name by now must not be mistaken for the clone.
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

/// Returns the warning about a failed command.
fn warning(row: &OwedRow, error: &Error) -> Warning {
    let warning = Warning::new(error.message()).detail(format!("clone: {}", row.name()));
    error.details().iter().fold(warning, Warning::detail)
}

impl Stencil {
    pub(super) fn hooks(&self) -> Option<Hooks<'_>> {
        Hooks::of(&self.config, &self.endpoint, &self.holder)
    }

    /// Runs the `before_release` commands that this checkout owes: for clones that a cleanup took, of any process on
    /// any machine. [`Stencil::acquire`], [`Stencil::ensure`] and the thread of a program do so by themselves.
    /// Returns the failures to report; a failure is never an error. Sends nothing to the server if the config has no
    /// `before_release`.
    ///
    /// Each command gets a minute, or the rest of the limit, and is started once. A command that was not run within
    /// seven days is forgotten.
    ///
    /// Cancel safety: a running command is terminated, and not repeated.
    pub(crate) async fn run_owed(&self, deadline: &Deadline) -> Vec<Warning> {
        self.run_all_owed(deadline, Hearer::Caller).await
    }

    /// Runs [`Stencil::run_owed`] without a listener: the next command of the checkout reports failures.
    pub(crate) async fn run_owed_unheard(&self, deadline: &Deadline) {
        self.run_all_owed(deadline, Hearer::Next).await;
    }

    async fn run_all_owed(&self, deadline: &Deadline, hearer: Hearer) -> Vec<Warning> {
        let Some(hooks) = self.hooks() else {
            return Vec::new();
        };
        // Whatever cannot run now is left to the next command.
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

    /// Runs `before_release` for a clone that is about to be discarded, if this checkout created it. A failure never
    /// prevents that.
    pub(super) async fn before_release(
        &self,
        registry: &mut Registry,
        clone: &str,
        deadline: &Deadline,
        hearer: Hearer,
    ) -> Option<Warning> {
        let hooks = self.hooks()?;
        let warning = hooks.release(registry, clone, deadline, hearer).await;
        warning.ok().flatten()
    }

    /// Runs [`Stencil::run_owed`] in an existing session, for a caller who continues. Waits for the commands that
    /// other processes run for one of `names`, since the next step may create the same things again.
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
            // Whatever cannot run now is left to the next command.
            let paid = hooks.all(registry, deadline, Hearer::Caller).await;
            let paid = paid.unwrap_or_default();
            for warning in &paid.warnings {
                context.tell(Event::Warning(warning));
            }
            let Some(name) = names.iter().find(|name| paid.running.contains(name)) else {
                return Ok(());
            };
            let what = format!("before_release of the previous clone `{name}`");
            deadline.pause(Duration::from_millis(50), &what).await?;
        }
    }
}
