//! `before_release` commands that are owed to clones which a sweep took.

use crate::Stencil;

use crate::cli::App;

/// Runs them after a command that hands nothing out, and says what went wrong. Never a reason to fail.
pub(crate) async fn run(app: &App, stencil: &Stencil) {
    for warning in stencil.run_owed(&app.deadline).await {
        app.printer.warn(&warning);
    }
    stencil.close().await;
}
