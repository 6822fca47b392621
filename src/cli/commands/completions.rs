//! `pgstencil completions`

use crate::Result;

use crate::cli::App;
use crate::cli::args::command;
use clap::Args;

/// Print completions for a shell
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  pgstencil completions bash > ~/.local/share/bash-completion/completions/pgstencil"
)]
pub(crate) struct Completions {
    /// Shell
    pub(crate) shell: clap_complete::Shell,
}

pub(crate) fn completions(app: &App, args: &Completions) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "pgstencil", &mut text);
    app.printer.data(&String::from_utf8_lossy(&text))?;
    Ok(0)
}
