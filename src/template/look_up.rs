//! The look-up: a ready template, the right to build it, or somebody who is building it.

use super::permit::{Asked, BuildPermit};
use super::{Template, Unusable, finding};
use crate::context::Context;
use crate::error::Result;
use crate::events::Event;
use crate::fingerprint::Recipe;
use crate::names::Fingerprint;
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, sql};
use crate::registry::template::Hold;
use crate::registry::{Registry, TemplateRow};

/// What a look found.
pub(super) enum LookUp {
    Ready(Box<Template>),
    /// There is none, or none that can be used.
    Missing(Asked<BuildPermit>),
}

/// Finds the template of a recipe, or the right to build it.
pub(super) async fn look_up(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<LookUp> {
    let (project, definition) = (context.project, context.definition.name.as_str());
    let fingerprint = recipe.fingerprint();
    let (hold, findings) = registry.look_up_ready(project, definition, &fingerprint).await?;
    finding::tell(context, &findings);
    if let Some(hold) = hold {
        let Hold::Held(held) = hold else {
            return Ok(LookUp::Missing(Asked::Again));
        };
        let why = match Unusable::by_definition(&held.row, context.definition) {
            None => match Template::of(registry, &held).await? {
                Ok(template) => return Ok(LookUp::Ready(Box::new(template))),
                Err(why) => why,
            },
            Some(why) => why,
        };
        let_go(registry, held.row.id).await?;
        context.tell(Event::Warning(&format!(
            "template {} of `{definition}` is not used: {why}; it is rebuilt",
            fingerprint.short()
        )));
        registry.break_template(held.row.id, &why.to_string(), false).await?;
    }
    Ok(LookUp::Missing(BuildPermit::ask(registry, context, recipe).await?))
}

/// Tells why a template is built that another role has already, if that is so.
pub(super) async fn tell_of_another_role(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<()> {
    let (project, definition) = (context.project, context.definition.name.as_str());
    let fingerprint = recipe.fingerprint();
    let Some(builder) = registry.builder_of(project, definition, &fingerprint).await? else {
        return Ok(());
    };
    let (role, owner) = (&registry.facts().began_as, &registry.facts().role);
    context.tell(Event::Warning(&format!(
        "template {} of `{definition}` belongs to role `{builder}`, from which role `{role}` does not inherit: it is built once more for `{role}`. To share templates, let every member's sessions act as one role: ALTER ROLE {} SET role = {};",
        fingerprint.short(),
        sql::quote_ident(role),
        sql::quote_ident(owner)
    )));
    Ok(())
}

/// What came of trying to use a ready template.
pub(super) enum Claim {
    /// It is there, under its shared lock.
    Ready(Box<Template>),
    /// It is there, but cannot be used, for this reason.
    Unusable(Unusable),
    /// Somebody is about to drop it, or has replaced it: look again.
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

/// The template of this fingerprint, if it is ready and fit for use, under its shared lock. Changes
/// nothing else.
///
/// # Errors
/// The driver's.
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
