//! The project of a test program: its config, found as the command line finds it.

use std::path::{Path, PathBuf};

use crate::config::{self, Config};
use crate::env::{self, Environment};
use crate::error::{Error, Result};

/// Returns the config for requests of this definition. `in_code`: the program fills the template, so the config need
/// not know the definition, and need not exist.
pub(super) fn config(env: &Environment, definition: &str, in_code: bool) -> Result<Config> {
    let mut config = match env.path(env::CONFIG) {
        Some(file) => Config::load(&file)?,
        None => {
            let start = directory(env)?;
            match config::discover(&start)? {
                Some(found) => found.load()?,
                None if in_code => return of_code(&start, definition),
                None => {
                    let error = config::find(&start).err();
                    let error = error.unwrap_or_else(|| Error::config("the config appeared just now"));
                    return Err(error.hint(
                        "or fill the template by code of the tests: \
                         `pgstencil::test::database(NAME).filled_by(FILLER)`",
                    ));
                }
            }
        }
    };
    let unknown = config.definitions.iter().all(|known| known.name != definition);
    if in_code && unknown {
        config.definitions.extend(of_code(&config.root, definition)?.definitions);
        config.definitions.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(config)
}

/// Returns the directory of the crate under test, which cargo tells its test programs.
fn directory(env: &Environment) -> Result<PathBuf> {
    match env.path(env::CARGO_MANIFEST_DIR).filter(|directory| directory.is_dir()) {
        Some(directory) => Ok(directory),
        None => {
            std::env::current_dir().map_err(|e| Error::failed("the current directory is gone").caused_by(e))
        }
    }
}

/// Returns the config of a program that has no file. Files and command are never read nor run, since the program fills
/// the template.
fn of_code(directory: &Path, definition: &str) -> Result<Config> {
    let name = toml::Value::from(definition).to_string();
    let text = format!("[template.{name}]\nmigrations = [\"none\"]\nbuild = \"false\"\n");
    Config::parse(&text, &directory.join(config::FILE_NAME))
}
