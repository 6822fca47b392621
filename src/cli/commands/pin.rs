//! `pgstencil pin` and `pgstencil unpin`

use crate::Result;
use crate::wire::PinAnswer;

use super::{owed, prune};
use crate::cli::App;
use crate::cli::args::digits;
use clap::Args;

/// `pin` and `unpin`
#[derive(Args, Debug)]
pub(crate) struct Pin {
    /// Fingerprints, or their first digits [default: the template of the current files]
    #[arg(value_name = "FINGERPRINT", value_parser = digits)]
    pub(crate) templates: Vec<String>,
    /// Template definition whose current files count [default: the only one]
    #[arg(short = 't', long = "template", value_name = "NAME", conflicts_with = "templates")]
    pub(crate) template: Option<String>,
}

pub(crate) async fn pin(app: &App, args: Pin, pinned: bool) -> Result<u8> {
    let names = args.templates;
    let (stencil, names) = match names.is_empty() {
        // The template of the current files.
        true => {
            let stencil = app.stencil().await?;
            let definition = args.template.as_deref();
            let deadline = &app.deadline;
            let name = stencil.present_fingerprint(definition, deadline).await?;
            (stencil, vec![name])
        }
        false => (app.stencil_or_defaults().await?, names),
    };
    let rows = stencil.pin(&names, pinned, &app.deadline).await?;
    if app.printer.json() {
        app.printer.object(&PinAnswer::new(&rows, pinned))?;
    }
    for row in rows.iter().filter(|_| !app.printer.json()) {
        app.printer.say(&format!(
            "{} template {} of {}/{}",
            if pinned { "pinned" } else { "unpinned" },
            row.fingerprint.short(),
            row.project,
            row.definition
        ));
    }
    owed::run(app, &stencil).await;
    prune::look(app, &stencil).await;
    Ok(0)
}
