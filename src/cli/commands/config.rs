//! `pgstencil config`

use crate::wire::VERSION;
use crate::{Error, Result, config};

use crate::cli::Session;
use crate::cli::args::Config;

pub(crate) fn config(session: &Session, args: &Config) -> Result<u8> {
    match args {
        Config::Schema => {
            let text = serde_json::to_string_pretty(&config::schema())
                .map_err(|e| Error::internal("cannot write JSON").caused_by(e))?;
            session.printer.data(&(text + "\n"))?;
        }
        Config::Show => {
            let config = session.config()?;
            session.printer.detail(&format!("from {}", config.file.display()));
            if session.printer.json() {
                let mut shown = config.effective_json()?;
                if let Some(object) = shown.as_object_mut() {
                    object.insert("version".into(), VERSION.into());
                }
                session.printer.object(&shown)?;
            } else {
                session.printer.data(&config.effective_toml()?)?;
            }
        }
    }
    Ok(0)
}
