//! `pgstencil release`

use crate::Result;
use crate::wire::{ReleaseAnswer, VERSION};

use super::{owed, prune};
use crate::cli::Session;
use crate::cli::args::Release;
use crate::cli::background::{Background, Task};

pub(crate) async fn release(session: &Session, args: Release) -> Result<u8> {
    let stencil = session.stencil_or_defaults().await?;
    let released = stencil.release_named(&args.names, args.take, &session.deadline).await;
    owed::run(session, &stencil).await;
    // Those beside a wrong name are released, too.
    Background::new(&stencil).finish(Task::CleanUp).await;
    let released = released?;
    for warning in &released.warnings {
        session.printer.warn(warning);
    }
    if session.printer.json() {
        session.printer.object(&ReleaseAnswer {
            version: VERSION,
            released: released.clones,
            already_released: released.before,
            warnings: released.warnings,
        })?;
    } else {
        for (what, names) in [("released", &released.clones), ("released before", &released.before)] {
            if !names.is_empty() {
                session.printer.say(&format!("{what}: {}", names.join(", ")));
            }
        }
    }
    prune::look(session, &stencil).await;
    Ok(0)
}
