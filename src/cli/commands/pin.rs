//! `pgstencil pin` and `pgstencil unpin`

use crate::Result;
use crate::wire::PinAnswer;

use super::{owed, prune};
use crate::cli::Session;
use crate::cli::args::Pin;

pub(crate) async fn pin(session: &Session, args: Pin, pinned: bool) -> Result<u8> {
    let names = args.templates;
    let (stencil, names) = match names.is_empty() {
        // The template of the present files.
        true => {
            let stencil = session.stencil().await?;
            let definition = args.template.as_deref();
            let deadline = &session.deadline;
            let name = stencil.present_fingerprint(definition, deadline).await?;
            (stencil, vec![name])
        }
        false => (session.stencil_or_defaults().await?, names),
    };
    let rows = stencil.pin(&names, pinned, &session.deadline).await?;
    if session.printer.json() {
        session.printer.object(&PinAnswer::new(&rows, pinned))?;
    }
    for row in rows.iter().filter(|_| !session.printer.json()) {
        session.printer.say(&format!(
            "{} template {} of {}/{}",
            if pinned { "pinned" } else { "unpinned" },
            row.fingerprint.short(),
            row.project,
            row.definition
        ));
    }
    owed::run(session, &stencil).await;
    prune::look(session, &stencil).await;
    Ok(0)
}
