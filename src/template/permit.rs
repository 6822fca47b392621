//! The right to build: the advisory locks under which at most one build of a fingerprint runs, and the
//! registry's state under them.
//!
//! Only this file can create a permit, after a check of the registry under the lock: a [`BuildPermit`] if no
//! template was ready, a [`RebuildPermit`] with the template that was. The locks end with the registry session;
//! a permit releases them early.

use super::Template;
use super::look_up::{self, Claim};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::fingerprint::Recipe;
use crate::pg::lock::LockKey;
use crate::registry::{Lock, Registry, TemplateRow, TemplateState};

/// The answer to a process that asks for a permit.
pub(crate) enum Asked<P> {
    Granted(P),
    /// Another process builds this template.
    Busy(Box<TemplateRow>),
    /// Another serial build is running; its row, if it was seen.
    Serial(Option<Box<TemplateRow>>),
}

/// The locks of a build, and its inputs.
#[derive(Debug)]
struct Right {
    lock: Lock,
    /// The lock of serial builds, if the definition requires it.
    serial: Option<Lock>,
    recipe: Box<Recipe>,
}

/// The right to build a template that is missing. Not `Clone`: it is spent by the seal, or released.
#[derive(Debug)]
#[must_use = "the locks are held until the permit is released"]
pub(crate) struct BuildPermit(Right);

/// The right to build in addition to the ready template of the same inputs, to compare the two or to replace
/// it. The template is locked against being dropped.
#[derive(Debug)]
#[must_use = "the locks are held until the permit is released"]
pub(super) struct RebuildPermit {
    right: Right,
    template: Template,
}

impl BuildPermit {
    /// Takes the right to build the template of a recipe, if no process has it and none is ready. `None`: the
    /// registry changed in between.
    pub(super) async fn ask(
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<Option<Asked<Self>>> {
        let right = match Right::take(registry, context, recipe).await? {
            Ok(right) => right,
            Err(row) => return Ok(row.map(Asked::Busy)),
        };
        let (project, definition) = (context.project, context.definition.name.as_str());
        match registry.find_template(project, definition, &recipe.fingerprint(), TemplateState::Ready).await {
            Ok(None) => right.alone(registry, context, BuildPermit).await,
            other => {
                right.release(registry).await;
                other.map(|_| None)
            }
        }
    }

    /// Releases the locks.
    pub(super) async fn release(self, registry: &mut Registry) {
        self.0.release(registry).await;
    }
}

impl RebuildPermit {
    /// Takes the right to build in addition to the ready template of a recipe, if no process builds it. `None`:
    /// the registry changed in between.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such template.
    pub(super) async fn ask(
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<Option<Asked<Self>>> {
        let right = match Right::take(registry, context, recipe).await? {
            Ok(right) => right,
            Err(row) => return Ok(row.map(Asked::Busy)),
        };
        let template = match ready(registry, context, recipe).await {
            Ok(Some(template)) => template,
            other => {
                right.release(registry).await;
                return other.map(|_| None);
            }
        };
        let id = template.id;
        let asked = right.alone(registry, context, |right| RebuildPermit { right, template }).await;
        if !matches!(asked, Ok(Some(Asked::Granted(_)))) {
            look_up::let_go(registry, id).await?;
        }
        asked
    }

    /// Returns the existing template.
    pub(super) fn template(&self) -> &Template {
        &self.template
    }

    /// Releases the locks, and that of the template.
    pub(super) async fn release(self, registry: &mut Registry) {
        // If the session is gone, so are the locks.
        let _ = self.template.let_go(registry).await;
        self.right.release(registry).await;
    }
}

/// The right to build certain inputs.
pub(super) trait Permit {
    /// Returns the inputs to build.
    fn recipe(&self) -> &Recipe;
}

impl Permit for BuildPermit {
    fn recipe(&self) -> &Recipe {
        &self.0.recipe
    }
}

impl Permit for RebuildPermit {
    fn recipe(&self) -> &Recipe {
        &self.right.recipe
    }
}

impl Right {
    /// Takes the lock of a template's builds. If another process has it, returns that process's build.
    async fn take(
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<std::result::Result<Self, Option<Box<TemplateRow>>>> {
        let (project, definition) = (context.project, context.definition.name.as_str());
        let fingerprint = recipe.fingerprint();
        let key = LockKey::build(project, definition, &fingerprint);
        if let Some(lock) = registry.try_lock(key).await? {
            return Ok(Ok(Right { lock, serial: None, recipe: Box::new(recipe.clone()) }));
        }
        // The builder has the lock, but its row does not exist yet, or no longer exists.
        let row = registry.find_template(project, definition, &fingerprint, TemplateState::Building).await?;
        Ok(Err(row.map(Box::new)))
    }

    /// Takes the server's lock of serial builds as well, if the definition requires it, and creates the permit.
    /// While another serial build runs nothing stays locked: other processes may find another way in the
    /// meantime.
    async fn alone<P>(
        mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        permit: impl FnOnce(Right) -> P,
    ) -> Result<Option<Asked<P>>> {
        if !context.definition.serial_builds {
            return Ok(Some(Asked::Granted(permit(self))));
        }
        match registry.try_lock(LockKey::serial()).await {
            Ok(Some(lock)) => {
                self.serial = Some(lock);
                Ok(Some(Asked::Granted(permit(self))))
            }
            Ok(None) => {
                self.release(registry).await;
                Ok(Some(Asked::Serial(serial_build(registry).await?)))
            }
            Err(error) => {
                self.release(registry).await;
                Err(error)
            }
        }
    }

    async fn release(self, registry: &mut Registry) {
        // The session may be gone; then the locks are, too.
        let _ = self.lock.release(registry).await;
        if let Some(serial) = self.serial {
            let _ = serial.release(registry).await;
        }
    }
}

/// Returns the build that runs while the lock of serial builds is held, as far as the registry shows it.
pub(super) async fn serial_build(registry: &mut Registry) -> Result<Option<Box<TemplateRow>>> {
    let unfinished = registry.unfinished_templates().await?;
    Ok(unfinished.into_iter().rfind(|row| row.state == TemplateState::Building).map(Box::new))
}

/// Returns the ready template of a recipe under its shared lock; `None` if it changed in between.
async fn ready(registry: &mut Registry, context: &Context<'_>, recipe: &Recipe) -> Result<Option<Template>> {
    let definition = &context.definition.name;
    let fingerprint = recipe.fingerprint();
    let Some(row) =
        registry.find_template(context.project, definition, &fingerprint, TemplateState::Ready).await?
    else {
        return Err(Error::new(
            Kind::NotFound,
            format!("there is no template of `{definition}` for the current files ({})", fingerprint.short()),
        )
        .hint("build it: `pgstencil ensure`"));
    };
    match look_up::claim(registry, &row).await? {
        Claim::Ready(template) => Ok(Some(*template)),
        Claim::Changed => Ok(None),
        Claim::Unusable(why) => Err(Error::failed(format!(
            "template {} of `{definition}` cannot be verified",
            fingerprint.short()
        ))
        .detail(why.to_string())
        .hint("rebuild it: `pgstencil ensure`")),
    }
}
