//! Code of the program that fills databases: run, and watched like the build command.

use std::time::Duration;

use crate::context::{Context, FillError, Filler, Unfilled};
use crate::error::{Error, Kind, Result};
use crate::quantity::{seconds, setting};
use crate::registry::Registry;
use crate::variables::NamedDatabase;

/// Runs the code on databases. It is dropped if the caller cancels, if its time is over, or if the session that
/// holds the right to build is lost.
pub(super) async fn run(
    registry: &mut Registry,
    context: &Context<'_>,
    filler: &Filler,
    set: &[NamedDatabase],
) -> Result<()> {
    let databases = set.iter().map(|database| Unfilled {
        alias: database.alias.clone(),
        name: database.name.clone(),
        url: context.endpoint.client_url(&database.name),
    });
    let filling = filler.fill(databases.collect());
    let timeout = match context.deadline.left() {
        Some(left) => left.min(*context.definition.build_timeout),
        None => *context.definition.build_timeout,
    };
    tokio::select! {
        filled = filling => filled.map_err(|error| failed(context, &error)),
        () = context.deadline.cancel.cancelled() => {
            Err(Error::new(Kind::Interrupted, "the build was interrupted"))
        }
        () = tokio::time::sleep(timeout) => Err(timed_out(context, timeout)),
        error = session_loss(registry) => {
            Err(error.detail("pgstencil ended the build, since its lock was lost with the session"))
        }
    }
}

/// Returns the error of the session that holds the right to build, as soon as it has one.
async fn session_loss(registry: &mut Registry) -> Error {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Err(error) = registry.ping().await {
            return error;
        }
    }
}

fn failed(context: &Context<'_>, error: &FillError) -> Error {
    let what = format!("the program failed to fill template `{}`", context.definition.name);
    let mut failed = Error::new(Kind::Build, what).detail(context.endpoint.redact(&error.to_string()));
    let mut cause = error.source();
    while let Some(error) = cause {
        failed = failed.detail(format!("caused by: {}", context.endpoint.redact(&error.to_string())));
        cause = error.source();
    }
    failed
}

fn timed_out(context: &Context<'_>, after: Duration) -> Error {
    let definition = context.definition;
    let error = Error::new(
        Kind::Timeout,
        format!("the program did not fill template `{}` within {}", definition.name, seconds(after)),
    );
    if after < *definition.build_timeout {
        return error;
    }
    error.hint(format!(
        "if it needs longer, raise `build_timeout` of [template.{}] (now {})",
        definition.name,
        setting(*definition.build_timeout)
    ))
}
