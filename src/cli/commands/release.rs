//! `pgstencil release`

use crate::Result;
use crate::wire::{ReleaseAnswer, VERSION};

use super::{owed, prune};
use crate::cli::background::{Background, Task};
use crate::cli::{App, hand_out};
use clap::Args;

/// Release clones
///
/// The clones are dropped in the background.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil release dev_main\n  pgstencil release --take ci_7   also if it belongs to another checkout"
)]
pub(crate) struct Release {
    /// Names or ids of clones
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Also those of other owners: of another role, machine or checkout
    #[arg(long)]
    pub(crate) take: bool,
}

pub(crate) async fn release(app: &App, args: Release) -> Result<u8> {
    let stencil = app.stencil_or_defaults().await?;
    let elsewhere = match args.names.as_slice() {
        [name] if !args.take => hand_out::release(&stencil, name),
        _ => None,
    };
    let (released, has_bound) = match elsewhere {
        Some(released) => released,
        None => {
            let released = stencil.release_named(&args.names, args.take, &app.deadline).await;
            owed::run(app, &stencil).await;
            // Clones that were named along with a wrong name are released, too.
            Background::new(&stencil).finish(Task::CleanUp).await;
            (released?, true)
        }
    };
    for warning in &released.warnings {
        app.printer.caution(warning);
    }
    if app.printer.json() {
        app.printer.object(&ReleaseAnswer {
            version: VERSION,
            released: released.clones,
            already_released: released.before,
            warnings: released.warnings.iter().map(ToString::to_string).collect(),
        })?;
    } else {
        for (what, names) in [("released", &released.clones), ("already released", &released.before)] {
            if !names.is_empty() {
                app.printer.say(&format!("{what}: {}", names.join(", ")));
            }
        }
    }
    if has_bound {
        prune::look(app, &stencil).await;
    }
    Ok(0)
}
