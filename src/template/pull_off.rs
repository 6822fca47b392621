//! Without the feature `cli` there is no store to pull from.

use std::time::Duration;

use super::build::Ended;
use super::permit::BuildPermit;
use crate::context::Context;
use crate::error::Result;
use crate::fingerprint::Recipe;
use crate::registry::Registry;
use crate::remote::Shown;

/// Result of an attempt to pull a template.
pub(super) enum Tried {
    Pulled(Ended),
    Not(Option<String>),
}

pub(super) async fn exact(
    _: &mut Registry,
    context: &Context<'_>,
    _: &BuildPermit,
    _: Option<Duration>,
) -> Result<Tried> {
    match context.remote {
        None => Ok(Tried::Not(None)),
        Some(remote) => match *remote {},
    }
}

pub(super) async fn base(
    _: &mut Registry,
    _: &Context<'_>,
    _: &Recipe,
) -> Result<std::result::Result<(), Option<String>>> {
    Ok(Err(None))
}

pub(crate) async fn look(context: &Context<'_>, _: &Recipe, _: Option<Duration>) -> Option<Shown> {
    context.remote.map(|remote| match *remote {})
}

pub(super) async fn wait_for_another(_: &mut Registry, _: &Context<'_>, _: &BuildPermit) -> Result<Tried> {
    Ok(Tried::Not(None))
}

/// Runs a build.
pub(super) async fn renewing<T>(_: &Context<'_>, _: &Recipe, build: impl Future<Output = T>) -> T {
    build.await
}

pub(super) fn is_to_be_pushed(_: &Context<'_>) -> bool {
    false
}

pub(super) async fn withdraw(_: &Context<'_>, _: &Recipe) {}

pub(super) fn tell_miss(_: &Context<'_>, _: &str) {}
