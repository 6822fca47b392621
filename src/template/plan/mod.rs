//! The way to a template: one decision, which [`super::ensure()`] carries out and `explain` prints.
//!
//! [`plan`] decides; a [`Grip`] provides the facts. [`Taking`] locks what the plan uses and may write to the
//! registry; [`Looking`] reads only, and its facts may be out of date a moment later.

mod looking;
mod taking;

use std::fmt;

pub(crate) use self::looking::Looking;
pub(super) use self::taking::{Change, Taking};
use super::extend::{self, Base, NoBase};
use super::permit::Asked;
use crate::context::Context;
use crate::error::Result;
use crate::fingerprint::{Difference, Recipe};
use crate::registry::{Registry, TemplateRow};

/// The steps by which a command gets the template of its inputs.
pub(crate) enum Plan<G: Grip> {
    /// Use the ready template.
    Hit(Box<G::Template>),
    /// Wait for the process that builds it.
    Wait(Box<TemplateRow>),
    /// Wait for another build, since both are serial; its row, if it was seen.
    WaitForTurn(Option<Box<TemplateRow>>),
    /// Build it on a copy of an older one.
    Extend(G::Permit, Box<Base<G::Template>>),
    /// Run a full build.
    Build(G::Permit, FullBuild),
    /// Nothing yet: the registry has changed in between.
    Changed(G::Change),
}

/// Reason for a full build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FullBuild {
    /// The caller requested it.
    Wanted,
    /// No base may be used, whatever templates exist.
    Never(NoBase),
    /// The best base must not be used again: first digits of its fingerprint, and the reason.
    Due(String, NoBase),
    /// There is no possible base.
    NoBase,
}

impl FullBuild {
    /// Returns whether there may have been a base, so that the user should be informed.
    pub(crate) fn is_worth_telling(&self) -> bool {
        match self {
            FullBuild::Wanted | FullBuild::Never(NoBase::Never) | FullBuild::NoBase => false,
            FullBuild::Never(_) | FullBuild::Due(..) => true,
        }
    }
}

impl fmt::Display for FullBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FullBuild::Wanted => f.write_str("a full build was requested"),
            FullBuild::Never(why) => why.fmt(f),
            FullBuild::Due(base, why) => write!(f, "template {base}: {why}"),
            FullBuild::NoBase => f.write_str("there is no template to start an incremental build from"),
        }
    }
}

/// The state of a template when it was read.
pub(crate) enum Sight<T, C> {
    /// It can be used.
    Ready(Box<T>),
    /// There is none, or none that can be used.
    Nothing,
    /// The registry has changed in between.
    Changed(C),
}

/// Provider of a plan's facts.
pub(crate) trait Grip: Sized + Send {
    /// A ready template.
    type Template: Send;
    /// The right to build.
    type Permit: Send;
    /// The part that may have changed while it was read.
    type Change: Send;

    /// Returns the template of these inputs.
    fn ready(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> impl Future<Output = Result<Sight<Self::Template, Self::Change>>> + Send;

    /// Takes the right to build it.
    fn permit(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> impl Future<Output = Result<std::result::Result<Asked<Self::Permit>, Self::Change>>> + Send;

    /// Prepares for a build of either kind.
    fn prepare(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Returns the ready templates of the definition, and their inputs.
    fn candidates(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> impl Future<Output = Result<Vec<(TemplateRow, Recipe)>>> + Send;

    /// Returns one of them as a base.
    fn base(
        &mut self,
        registry: &mut Registry,
        context: &Context<'_>,
        row: &TemplateRow,
    ) -> impl Future<Output = Result<Sight<Self::Template, Self::Change>>> + Send;

    /// Releases the right to build.
    fn release(&mut self, registry: &mut Registry, permit: Self::Permit) -> impl Future<Output = ()> + Send;
}

/// Decides how to get the template of a recipe.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn plan<G: Grip>(
    grip: &mut G,
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<Plan<G>> {
    match grip.ready(registry, context, recipe).await? {
        Sight::Ready(template) => return Ok(Plan::Hit(template)),
        Sight::Changed(change) => return Ok(Plan::Changed(change)),
        Sight::Nothing => {}
    }
    let permit = match grip.permit(registry, context, recipe).await? {
        Ok(Asked::Granted(permit)) => permit,
        Ok(Asked::Busy(row)) => return Ok(Plan::Wait(row)),
        Ok(Asked::Serial(row)) => return Ok(Plan::WaitForTurn(row)),
        Err(change) => return Ok(Plan::Changed(change)),
    };
    match find_base(grip, registry, context, recipe).await {
        Ok(Ok(base)) => Ok(Plan::Extend(permit, Box::new(base))),
        Ok(Err(why)) => Ok(Plan::Build(permit, why)),
        Err(error) => {
            grip.release(registry, permit).await;
            Err(error)
        }
    }
}

/// Finds the best base that really exists, or the reason for a full build.
async fn find_base<G: Grip>(
    grip: &mut G,
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<std::result::Result<Base<G::Template>, FullBuild>> {
    let definition = context.definition;
    grip.prepare(registry, context, recipe).await?;
    if context.full_build {
        return Ok(Err(FullBuild::Wanted));
    }
    if let Some(why) = extend::why_not(registry, context.project, definition, recipe).await? {
        return Ok(Err(FullBuild::Never(why)));
    }
    let mut full = FullBuild::NoBase;
    for _ in 0..TRIES {
        let ready = grip.candidates(registry, context, recipe).await?;
        let mut changed = false;
        let bases = extend::bases(&ready, recipe, definition);
        full = match bases.due {
            Some((row, why)) => FullBuild::Due(row.fingerprint.short(), why),
            None => FullBuild::NoBase,
        };
        for (row, added) in bases.found {
            match grip.base(registry, context, row).await? {
                Sight::Ready(template) => {
                    let old = ready.iter().find(|(other, _)| other.id == row.id);
                    let difference =
                        old.map_or_else(Difference::default, |(_, old)| Difference::between(old, recipe));
                    return Ok(Ok(Base::new(*template, row, added, &difference, definition)));
                }
                Sight::Changed(_) => changed = true,
                Sight::Nothing => {}
            }
        }
        if !changed {
            break;
        }
    }
    Ok(Err(full))
}

/// Number of attempts: a full build may replace a base while it is read, and is then a base itself.
const TRIES: usize = 3;
