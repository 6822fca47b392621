//! `pgstencil man`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_mangen::Man;

use crate::cli::App;
use crate::cli::args::{VERSION, command};
use crate::{Error, Result};

/// Print a man page, or write all of them
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil man | man -l -\n  pgstencil man server start | man -l -\n  pgstencil man --write ~/.local/share/man/man1"
)]
pub(crate) struct ManPages {
    /// Command to describe, such as `run` or `server start` [default: pgstencil itself]
    #[arg(value_name = "COMMAND", conflicts_with = "write")]
    pub(crate) command: Vec<String>,
    /// Write the pages of all commands into DIRECTORY, which is created if it is missing
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) write: Option<PathBuf>,
}

pub(crate) fn man(app: &App, args: &ManPages) -> Result<u8> {
    let top = command();
    if let Some(directory) = &args.write {
        fs::create_dir_all(directory).map_err(|e| cannot_write(directory, e))?;
        return write(top, directory).map(|()| 0);
    }
    let mut described = &top;
    for word in &args.command {
        described = described.find_subcommand(word).ok_or_else(|| {
            Error::usage(format!("there is no command `{}`", args.command.join(" ")))
                .hint("`pgstencil --help` lists the commands")
        })?;
    }
    app.printer.data(&render(described)?)?;
    Ok(0)
}

/// Writes the page of a command, and those of the commands below it.
fn write(described: clap::Command, directory: &Path) -> Result<()> {
    let below =
        described.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set());
    for below in below.cloned().collect::<Vec<_>>() {
        write(below, directory)?;
    }
    let file = directory.join(Man::new(described.clone()).get_filename());
    fs::write(&file, render(&described)?).map_err(|e| cannot_write(&file, e))
}

fn render(described: &clap::Command) -> Result<String> {
    let man = Man::new(described.clone()).manual("pgstencil").source(format!("pgstencil {VERSION}"));
    let mut page = Vec::new();
    let rendered = (|| {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        match described.has_subcommands() {
            true => man.render_subcommands_section(&mut page),
            false => Ok(()),
        }
    })();
    rendered.map_err(|e| Error::internal("cannot render a man page").caused_by(e))?;
    let notes = described.get_after_help().map(ToString::to_string).unwrap_or_default();
    Ok(String::from_utf8_lossy(&page).into_owned() + &verbatim("NOTES", notes.trim()))
}

/// Returns a section whose lines stay as they are.
fn verbatim(heading: &str, text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    // A line that begins with one of these would be a request to the formatter.
    let lines = text.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}\n"),
        false => format!("{line}\n"),
    });
    format!(".SH {heading}\n.nf\n{}.fi\n", lines.collect::<String>())
}

fn cannot_write(path: &Path, cause: std::io::Error) -> Error {
    Error::failed(format!("cannot write {}", path.display())).caused_by(cause)
}
