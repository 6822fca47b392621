//! Asks the user before something is dropped.

use std::io::{BufRead as _, IsTerminal as _};

use crate::{Error, Result};

use super::App;

/// Whether there is a person to ask. With `--json` a program reads the answer.
pub(super) fn can_ask(app: &App) -> bool {
    std::io::stdin().is_terminal() && !app.printer.json()
}

/// Asks whether to do this; anything but yes is no.
///
/// # Errors
/// The terminal's.
pub(super) fn confirmed(app: &App, what: &str) -> Result<bool> {
    let mut line = String::new();
    app.printer
        .ask(&format!("{what}? [y/N]"))
        .and_then(|()| std::io::stdin().lock().read_line(&mut line))
        .map_err(|e| Error::failed("cannot ask").caused_by(e))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes" | "Yes"))
}
