//! Runs the pending `before_release` commands of clones that a cleanup took.

use crate::Stencil;

use crate::cli::App;

/// Runs them after a command that hands nothing out, and says what went wrong. Never a reason to fail.
pub(crate) async fn run(app: &App, stencil: &Stencil) {
    for warning in stencil.run_owed(&app.deadline).await {
        app.printer.caution(&warning);
    }
    stencil.close().await;
}
