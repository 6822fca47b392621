//! `pgstencil config`

use crate::wire::VERSION;
use crate::{Error, Result, config};

use crate::cli::App;
use clap::Subcommand;

/// `config`
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print the effective config, without passwords
    #[command(after_help = "Example:\n  pgstencil config show")]
    Show,
    /// Print the JSON schema of pgstencil.toml
    #[command(after_help = "Example:\n  pgstencil config schema > pgstencil.schema.json")]
    Schema,
}

pub(crate) fn config(app: &App, args: &Config) -> Result<u8> {
    match args {
        Config::Schema => {
            let text = serde_json::to_string_pretty(&config::schema())
                .map_err(|e| Error::internal("cannot write JSON").caused_by(e))?;
            app.printer.data(&(text + "\n"))?;
        }
        Config::Show => {
            let config = app.config()?;
            app.printer.detail(&format!("from {}", config.file.display()));
            if app.printer.json() {
                let mut shown = config.effective_json()?;
                if let Some(object) = shown.as_object_mut() {
                    object.insert("version".into(), VERSION.into());
                }
                app.printer.object(&shown)?;
            } else {
                app.printer.data(&config.effective_toml()?)?;
            }
        }
    }
    Ok(0)
}
