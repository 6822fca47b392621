//! The look-up: a ready template, the right to build it, or somebody who is building it.

use std::time::Duration;

use super::{BuildPermit, Template};
use crate::config::Definition;
use crate::context::Context;
use crate::error::Result;
use crate::events::Event;
use crate::fingerprint::Recipe;
use crate::pg::Doing as _;
use crate::pg::catalog::{self, BuiltWith};
use crate::pg::lock::LockKey;
use crate::registry::{Registry, TemplateRow};

/// What a look found.
pub(super) enum LookUp {
    Ready(Template),
    Vacant(BuildPermit),
    Busy(Box<TemplateRow>),
    /// Changed under our eyes: look again.
    Again,
}

/// Finds the template of a recipe, or the right to build it.
pub(super) async fn look_up(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<LookUp> {
    let (project, definition) = (context.project, context.definition.name.as_str());
    let fingerprint = recipe.fingerprint();
    let find = |state| (project, definition, &fingerprint, state);
    let (p, d, f, ready) = find("ready");
    if let Some(row) = registry.find_template(p, d, f, ready).await? {
        let key = LockKey::template(row.id);
        if !registry
            .session()
            .try_lock_shared(key)
            .await
            .doing(|| "lock a template".into())?
        {
            // Whoever holds it exclusively is about to drop it.
            return Ok(LookUp::Again);
        }
        // Between the first look and the lock it may have been dropped: only this look counts.
        let usable = match registry.find_template(p, d, f, ready).await? {
            Some(again) if again.id == row.id => match stale(&again, context.definition) {
                None => Template::read(registry, &again).await?,
                Some(why) => Err(why),
            },
            _ => {
                registry
                    .session()
                    .unlock_shared(key)
                    .await
                    .doing(|| "unlock a template".into())?;
                return Ok(LookUp::Again);
            }
        };
        match usable {
            Ok(template) => return Ok(LookUp::Ready(template)),
            Err(why) => {
                context.tell(Event::Warning(&format!(
                    "template {} of `{definition}` is not used: {why}; it is built anew",
                    fingerprint.short()
                )));
                registry.break_template(row.id, &why, false).await?;
                registry
                    .session()
                    .unlock_shared(key)
                    .await
                    .doing(|| "unlock a template".into())?;
            }
        }
    }
    let key = LockKey::build(project, definition, &fingerprint);
    if registry
        .session()
        .try_lock(key)
        .await
        .doing(|| "take the right to build".into())?
    {
        if registry.find_template(p, d, f, "ready").await?.is_some() {
            registry
                .session()
                .unlock(key)
                .await
                .doing(|| "give the right to build back".into())?;
            return Ok(LookUp::Again);
        }
        return Ok(LookUp::Vacant(BuildPermit { key, _private: () }));
    }
    match registry.find_template(p, d, f, "building").await? {
        Some(row) => Ok(LookUp::Busy(Box::new(row))),
        // The builder has the lock, but not yet its row, or not any more.
        None => Ok(LookUp::Again),
    }
}

/// Why a template is too old by `stale_after`, if it is.
pub(crate) fn stale(row: &TemplateRow, definition: &Definition) -> Option<String> {
    let limit = definition.stale_after?;
    let age = Duration::try_from_secs_f64(row.contents_s).ok()?;
    (age > limit).then(|| {
        format!(
            "its oldest contents are {} old, and `stale_after` is {}",
            humantime::format_duration(Duration::from_secs(age.as_secs())),
            humantime::format_duration(limit)
        )
    })
}

/// Why a template no longer fits the server, if it does not. A minor version is fine.
pub(crate) async fn outdated(
    registry: &mut Registry,
    built_with: &BuiltWith,
) -> Result<Option<String>> {
    if built_with.available.is_empty() {
        return Ok(None);
    }
    let names: Vec<String> = built_with.available.keys().cloned().collect();
    let now = catalog::available_extensions(registry.session(), &names).await?;
    for (name, then) in &built_with.available {
        match now.iter().find(|(n, _)| n == name) {
            None => {
                return Ok(Some(format!(
                    "extension `{name}` is no longer installed on the server"
                )));
            }
            Some((_, Some(version))) if version != then => {
                return Ok(Some(format!(
                    "extension `{name}` was {then} when it was built, and is {version} now"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(None)
}
