//! Runs the source that fills the databases of a build: the build command, or code of the program.

pub(super) mod command;
mod filler;
pub(super) mod overtaken;
pub(super) mod progress;

use self::progress::Progress;
use crate::context::{Context, Source};
use crate::error::Result;
use crate::registry::Registry;
use crate::variables::{NamedDatabase, Outcome};

/// Fills databases, by `command` if no code of the program does it. `template`: number of the row of their template, if they are to become one.
pub(super) async fn fill(
    registry: &mut Registry,
    context: &Context<'_>,
    command: &str,
    set: &[NamedDatabase],
    outcome: Outcome,
    template: Option<i64>,
    progress: Progress,
) -> Result<()> {
    match &context.source {
        Source::Command(_) => {
            command::run_command(registry, context, command, set, outcome, template, progress).await
        }
        Source::Filler(filler) => filler::run(registry, context, filler, set).await,
    }
}
