//! `pgstencil completions`

use crate::Result;
use clap::CommandFactory as _;

use crate::cli::Session;
use crate::cli::args::{Arguments, Completions};

pub(crate) fn completions(session: &Session, args: &Completions) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "pgstencil", &mut text);
    session.printer.data(&String::from_utf8_lossy(&text))?;
    Ok(0)
}
