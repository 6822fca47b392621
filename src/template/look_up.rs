//! Ready templates, locked against being dropped before they are judged.

use super::{Template, Unusable};
use crate::context::Context;
use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::lock::LockKey;
use crate::registry::template::Hold;
use crate::registry::{Registry, TemplateRow};

/// Result of an attempt to use a ready template.
pub(super) enum Claim {
    /// It exists, under its shared lock.
    Ready(Box<Template>),
    /// It exists, but cannot be used, for this reason.
    Unusable(Unusable),
    /// Another process is about to drop it, or has replaced it: check again.
    Changed,
}

/// Locks a ready template against being dropped, and reads it.
pub(super) async fn claim(registry: &mut Registry, row: &TemplateRow) -> Result<Claim> {
    let Hold::Held(held) = registry.hold_template(row.id).await? else {
        return Ok(Claim::Changed);
    };
    match Template::of(registry, &held).await? {
        Ok(template) => Ok(Claim::Ready(Box::new(template))),
        Err(why) => {
            let_go(registry, row.id).await?;
            Ok(Claim::Unusable(why))
        }
    }
}

pub(super) async fn let_go(registry: &mut Registry, id: i64) -> Result<()> {
    registry.session().unlock_shared(LockKey::template(id)).await.doing(|| "unlock a template".into())?;
    Ok(())
}

/// Returns the template of this fingerprint, if it is ready and fit for use, under its shared lock. Changes
/// nothing else.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn ready(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
) -> Result<Option<Template>> {
    let (project, definition) = (context.project, context.definition.name.as_str());
    let hold = registry.hold_ready(project, definition, fingerprint).await?;
    let Some(Hold::Held(held)) = hold else {
        return Ok(None);
    };
    if Unusable::by_definition(&held.row, context.definition).is_none()
        && let Ok(template) = Template::of(registry, &held).await?
    {
        return Ok(Some(template));
    }
    let_go(registry, held.row.id).await?;
    Ok(None)
}
