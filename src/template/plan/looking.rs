//! A plan that is only reported: nothing is locked and nothing written.

use std::convert::Infallible;

use super::{Grip, Sight};
use crate::config::Definition;
use crate::context::Context;
use crate::error::Result;
use crate::fingerprint::Recipe;
use crate::pg::lock::LockKey;
use crate::registry::{Registry, TemplateRow, TemplateState};
use crate::template::Unusable;
use crate::template::permit::{Asked, serial_build};

/// Reads the facts that a command would lock.
pub(crate) struct Looking {
    /// The ready templates of the definition, and their inputs.
    ready: Vec<(TemplateRow, Recipe)>,
    /// Reason why the ready template of the inputs is not used, if there is one.
    unusable: Option<Unusable>,
}

impl Looking {
    /// Starts from these ready templates of the definition.
    pub(crate) fn at(ready: Vec<(TemplateRow, Recipe)>) -> Self {
        Looking { ready, unusable: None }
    }

    /// Returns the ready templates, and the reason why that of the inputs is not used, if there is one.
    pub(crate) fn into_seen(self) -> (Vec<(TemplateRow, Recipe)>, Option<Unusable>) {
        (self.ready, self.unusable)
    }
}

impl Grip for Looking {
    type Template = TemplateRow;
    type Permit = ();
    type Change = Infallible;

    async fn ready(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<Sight<TemplateRow, Infallible>> {
        let fingerprint = recipe.fingerprint();
        let Some((row, _)) = self.ready.iter().find(|(row, _)| row.fingerprint == fingerprint) else {
            return Ok(Sight::Nothing);
        };
        self.unusable = why_unusable(registry, row, context.definition).await?;
        Ok(match self.unusable {
            None => Sight::Ready(Box::new(row.clone())),
            Some(_) => Sight::Nothing,
        })
    }

    async fn permit(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<std::result::Result<Asked<()>, Infallible>> {
        let (project, name) = (context.project, &context.definition.name);
        let fingerprint = recipe.fingerprint();
        let held = registry.held_locks().await?;
        if held.contains(&LockKey::build(project, name, &fingerprint))
            && let Some(row) =
                registry.find_template(project, name, &fingerprint, TemplateState::Building).await?
        {
            return Ok(Ok(Asked::Busy(Box::new(row))));
        }
        if context.definition.serial_builds && held.contains(&LockKey::serial()) {
            return Ok(Ok(Asked::Serial(serial_build(registry).await?)));
        }
        Ok(Ok(Asked::Granted(())))
    }

    async fn prepare(
        &mut self,
        _registry: &mut Registry,
        _context: &Context<'_>,
        _recipe: &Recipe,
    ) -> Result<()> {
        Ok(())
    }

    async fn candidates(
        &mut self,
        _registry: &mut Registry,
        _context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<Vec<(TemplateRow, Recipe)>> {
        let own = recipe.fingerprint();
        Ok(self.ready.iter().filter(|(row, _)| row.fingerprint != own).cloned().collect())
    }

    async fn base(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        row: &TemplateRow,
    ) -> Result<Sight<TemplateRow, Infallible>> {
        Ok(match why_unusable(registry, row, context.definition).await? {
            None => Sight::Ready(Box::new(row.clone())),
            Some(_) => Sight::Nothing,
        })
    }

    async fn release(&mut self, _registry: &mut Registry, (): ()) {}
}

async fn why_unusable(
    registry: &mut Registry,
    row: &TemplateRow,
    definition: &Definition,
) -> Result<Option<Unusable>> {
    match Unusable::by_definition(row, definition) {
        Some(why) => Ok(Some(why)),
        None => Unusable::look(registry, row).await,
    }
}
