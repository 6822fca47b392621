//! The checked configuration. Nothing here is an `Option` where a default exists.
//!
//! `model` has one struct for each table and `value` the types of single values; the schema is made of them.
//! `document` parses a text, checks its keys and types against the schema and reads it into the structs, `check`
//! makes a [`Config`] of them. A new key is a field of its struct with its default, and an entry of the reference
//! config. All errors
//! name the place in the file, the key, the reason and a hint. [`env`](mod@crate::env) reads the
//! environment, [`passfile`](crate::env::passfile) the password file.

mod check;
mod document;
mod model;
pub mod nearest;
pub mod placeholder;
mod schema;
#[cfg(test)]
mod tests;
mod trust;
pub mod value;

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub use model::{
    BackgroundWork, ClientFor, CloneSettings, Definition, EvictionSettings, Extend, InputLines, Named,
    Normalize, Order, Push, Rebuild, Recycle, RemoteSettings, ServerSettings, Strategy, Waypoints,
};
pub use trust::{Found, Origin, load_again};
pub use value::{Form, UrlSetting};

/// The name of the config file.
pub const FILE_NAME: &str = "pgstencil.toml";

/// The reference config: every key with its default and a comment.
pub const REFERENCE: &str = include_str!("../../config/pgstencil.toml");

/// The least that a config needs.
pub const MINIMAL: &str = "\
[template.app]
migrations = [\"migrations/**/*.sql\"]
build = \"sqlx migrate run\"
";

/// The placeholder of `build_until`.
pub(crate) const VERSION: &str = "{version}";

/// Most characters of a project's, a definition's and an alias's name: together with a clone's id
/// they make names of databases, which end at 63 bytes.
const MAX_NAME: usize = 32;

/// Everything `pgstencil.toml` decides, checked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Namespace of templates and clones on a shared server: 1 to 32 of `a-z`, `0-9`, `-` and `_`.
    pub project: String,
    /// The file that was read.
    pub file: PathBuf,
    /// Whether the caller named that file, or whose file was found.
    pub origin: Origin,
    /// Absolute directory that all globs and commands start from.
    pub root: PathBuf,
    /// Whether hashes of files are kept between commands.
    pub file_cache: bool,
    /// `[server]`
    pub server: ServerSettings,
    /// `[template.NAME]` tables, sorted by name; at least one.
    pub definitions: Vec<Definition>,
    /// `[clone]`
    pub clone: CloneSettings,
    /// `[eviction]`
    pub eviction: EvictionSettings,
    /// `[remote]`
    pub remote: RemoteSettings,
}

impl Config {
    /// Reads and checks a config file that the caller names. Whose it is does not matter; [`find`] takes
    /// care of that.
    ///
    /// # Errors
    /// A file that is not there or cannot be read, and everything that [`Config::parse`] refuses.
    pub fn load(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                with_minimal(Error::config(format!("no config file `{}`", file.display())))
            }
            _ => Error::config(format!("cannot read `{}`", file.display())).caused_by(e),
        })?;
        from_bytes(bytes, file)
    }

    /// Checks a config text as if it stood in `file`, whose directory must exist.
    ///
    /// # Errors
    /// What is not TOML, unknown keys, wrong types and senseless values. The message begins with
    /// `file:line:column`, names the key in full and says why; hints say how to correct it. Only the
    /// first fault is told. No message repeats a password.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = fs::canonicalize(folder).map_err(|e| {
            Error::config(format!("cannot open the directory `{}`", folder.display())).caused_by(e)
        })?;
        // Editors on Windows put a byte order mark in front.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let doc = document::Document::parse(file, text)?;
        check::config(&doc, doc.read()?, file, &folder)
    }

    /// The definition of a name, or the only one there is.
    ///
    /// # Errors
    /// An unknown name, and no name where the config has several definitions.
    pub fn definition(&self, name: Option<&str>) -> Result<&Definition> {
        let names: Vec<&str> = self.definitions.iter().map(|d| d.name.as_str()).collect();
        match (name, self.definitions.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => {
                Err(Error::usage(format!("{} has several template definitions", self.file.display()))
                    .detail(format!("definitions: {}", names.join(", ")))
                    .hint("name one with `--template NAME`"))
            }
            (Some(name), all) => all.iter().find(|d| d.name == name).ok_or_else(|| {
                let error =
                    Error::usage(format!("no template definition `{name}` in {}", self.file.display()))
                        .detail(format!("definitions: {}", names.join(", ")));
                match nearest::nearest(name, names) {
                    Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                    None => error,
                }
            }),
        }
    }

    /// The config in effect as TOML that can be loaded again: every key, defaults included. The
    /// password of the server's URL is hidden.
    ///
    /// # Errors
    /// None that is not a bug.
    pub fn effective_toml(&self) -> Result<String> {
        let body = toml::to_string_pretty(&self.tables())
            .map_err(|e| Error::internal("the config cannot be written as TOML").caused_by(e))?;
        let mut text = format!("# in effect from {}\n", self.file.display());
        let unset = unset("", &self.effective_json()?);
        if !unset.is_empty() {
            text += &format!("# not set: {}\n", unset.join(", "));
        }
        Ok(text + "\n" + &body)
    }

    /// The config in effect as JSON, in the shape of the file; keys that are not set are null. The
    /// password of the server's URL is hidden.
    ///
    /// # Errors
    /// None that is not a bug.
    pub fn effective_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self.tables())
            .map_err(|e| Error::internal("the config cannot be written as JSON").caused_by(e))
    }

    /// The tables as a file would have them; what `[defaults]` said is in each definition.
    fn tables(&self) -> model::File {
        model::File {
            project: Some(self.project.clone()),
            root: Some(self.root.display().to_string()),
            file_cache: self.file_cache,
            server: self.server.clone(),
            clone: self.clone.clone(),
            eviction: self.eviction.clone(),
            remote: self.remote.clone(),
            defaults: None,
            template: self.definitions.iter().map(|d| (d.name.clone(), d.clone())).collect(),
        }
    }
}

/// The keys that are null, below `above`.
fn unset(above: &str, value: &serde_json::Value) -> Vec<String> {
    let keys = value.as_object().into_iter().flatten();
    keys.flat_map(|(key, value)| match value {
        serde_json::Value::Null => vec![format!("{above}{key}")],
        value => unset(&format!("{above}{key}."), value),
    })
    .collect()
}

fn from_bytes(bytes: Vec<u8>, file: &Path) -> Result<Config> {
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::config(format!("{}: not UTF-8", file.display())).caused_by(e))?;
    Config::parse(&text, file)
}

/// The config file in `start` or the nearest directory above it that has one. `None`: no directory has one.
///
/// The file counts if it belongs to this user, to root, or to the owner of `start`; so does every link on
/// the way to it. Only owners are asked, not mode bits.
///
/// # Errors
/// The nearest file belongs to another user. It is not passed over for one further up: what is done here
/// would then depend on a file that its owner did not mean.
pub fn discover(start: &Path) -> Result<Option<Found>> {
    let trust = trust::Trust::of(start);
    for place in places(start) {
        if let Some(found) = trust.open(place)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Like [`discover`], for callers that cannot go on without one.
///
/// # Errors
/// Those of [`discover`]. If there is no file, says where it looked and what a config needs at least.
pub fn find(start: &Path) -> Result<Found> {
    discover(start)?.ok_or_else(|| {
        let error = Error::config(format!("no `{FILE_NAME}` here or in a directory above"));
        with_minimal(
            places(start).iter().fold(error, |e, file| e.detail(format!("not found: {}", file.display()))),
        )
    })
}

fn places(start: &Path) -> Vec<PathBuf> {
    let start = fs::canonicalize(start).unwrap_or_else(|_| start.to_owned());
    start.ancestors().map(|dir| dir.join(FILE_NAME)).collect()
}

fn with_minimal(error: Error) -> Error {
    error.hint(format!("put this into `{FILE_NAME}`:\n{MINIMAL}"))
}

/// Whether a text is the name or address of a host, or the directory of a socket, with no port.
pub fn is_host(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || ",@?#".contains(c);
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    !text.is_empty()
        && !text.contains(odd)
        && match (text.starts_with('/'), text.contains(':')) {
            (true, _) => true,
            (false, true) => bare.parse::<Ipv6Addr>().is_ok(),
            (false, false) => !text.contains('/'),
        }
}

/// The JSON schema of `pgstencil.toml`, for editors.
pub fn schema() -> serde_json::Value {
    schema::SCHEMA.clone()
}

/// An alias as the end of a variable's name: `p-1` makes `PGSTENCIL_URL_P_1`.
pub fn alias_suffix(alias: &str) -> String {
    alias.to_ascii_uppercase().replace('-', "_")
}
