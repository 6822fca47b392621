//! The checked configuration. Nothing here is an `Option` where a default exists.
//!
//! `pgstencil.toml` goes through three steps: `document` parses the text and checks keys and types
//! against the schema, `raw` holds what was written, `check` makes a [`Config`] of it. All errors
//! name the place in the file, the key, the reason and a hint. [`env`](mod@crate::env) reads the
//! environment, [`passfile`](crate::env::passfile) the password file.

mod check;
mod document;
pub mod nearest;
pub mod placeholder;
mod raw;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::url::ServerUrl;

pub use trust::{Found, Origin, load_again};

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
    /// `[server]`
    pub server: ServerSettings,
    /// `[template.NAME]` tables, sorted by name; at least one.
    pub definitions: Vec<Definition>,
    /// `[clone]`
    pub clone: CloneSettings,
    /// `[eviction]`
    pub eviction: EvictionSettings,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ServerSettings {
    /// Where the server is; `None` means the private server.
    pub url: Option<UrlSetting>,
    /// Name of the registry database.
    pub registry: String,
    /// Host that commands and printed URLs get instead of ours.
    pub client_host: Option<String>,
    /// Port that commands and printed URLs get instead of ours.
    pub client_port: Option<u16>,
    /// Which commands get them.
    pub client_for: ClientFor,
    /// Absolute directory of the Postgres binaries of the private server; `None` means search.
    pub bindir: Option<PathBuf>,
    /// Account of the private server when we are root; `None` means `postgres`, else `nobody`.
    pub run_as: Option<String>,
}

/// `[server] url`
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum UrlSetting {
    /// A URL in the file.
    Literal(ServerUrl),
    /// `env:NAME`
    Variable(String),
}

/// One `[template.NAME]` table.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Definition {
    /// `NAME`
    pub name: String,
    /// Ordered globs; `!` in front excludes.
    pub migrations: Vec<String>,
    /// Which migrations have an order among each other.
    pub order: Order,
    /// Like `migrations`, but files without an order, which may be added and never changed.
    pub companions: Vec<String>,
    /// Like `migrations`, but not ordered files.
    pub rerun_inputs: Vec<String>,
    /// Further files that decide what a build yields.
    pub inputs: Vec<String>,
    /// Single lines of files that count as inputs.
    pub input_lines: Vec<InputLines>,
    /// Variables whose values count as inputs.
    pub env_inputs: Vec<String>,
    /// The migrate command, for `sh -c`.
    pub build: String,
    /// The database that builds from nothing start from.
    pub from: String,
    /// Roles of the set, in order; never empty.
    pub databases: Vec<String>,
    /// Which templates a missing one may be extended from.
    pub extend: Extend,
    /// Whether a full build replaces an extended template.
    pub rebuild: Rebuild,
    /// After so many extensions in a row, a full build.
    pub max_extensions: u32,
    /// The age of its oldest contents at which a template is rebuilt; `None` is `"never"`.
    pub stale_after: Option<Duration>,
    /// Columns that `verify` and the proofs of extended templates do not compare, as `table.column` or
    /// `schema.table.column`; `*` stands for every column.
    pub verify_ignore: Vec<String>,
    /// Lets only one such build run at a time, among all projects that share the registry.
    pub serial_builds: bool,
    /// Command run against every clone; `None` if empty in the file.
    pub after_clone: Option<String>,
    /// Command run when a clone is released or was swept; `None` if empty in the file.
    pub before_release: Option<String>,
    /// Statements run in the clone's database of a role.
    pub after_clone_sql: BTreeMap<String, String>,
    /// How long the build command may take.
    pub build_timeout: Duration,
    /// Seal a template although the build created nothing.
    pub allow_empty: bool,
    /// Seals a build although its new migrations changed nothing.
    pub allow_unchanged: bool,
    /// Counts text files that the build command names as inputs.
    pub build_inputs: bool,
    /// What commands see beside the standard variables; values hold placeholders.
    pub env: BTreeMap<String, String>,
    /// What only the build command sees, likewise; wins over `env`.
    pub build_env: BTreeMap<String, String>,
    /// What `after_clone`, `before_release` and the command of `run` see, likewise; wins over `env`, and is no input.
    pub run_env: BTreeMap<String, String>,
}

/// One entry of `input_lines`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InputLines {
    /// Path relative to the root.
    pub file: String,
    /// Regular expression: what its first group matches counts, else the whole line.
    pub matching: String,
}

/// `[eviction]`: limits for the templates of this project.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EvictionSettings {
    /// Bytes of all templates together; `None` is `"unlimited"`.
    pub max_size: Option<u64>,
    /// Number of templates, at least 1.
    pub max_templates: u32,
    /// Time since the last use; `None` is `"never"`.
    pub max_idle: Option<Duration>,
    /// So many of each definition, the last used ones, stay in any case.
    pub keep: u32,
}

/// `[clone]`
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CloneSettings {
    /// How a clone is copied.
    pub strategy: Strategy,
    /// Lease of clones from `pgstencil clone`; `None` is `"never"`.
    pub ttl: Option<Duration>,
    /// Who shares a clone that has a name of its own.
    pub named: Named,
    /// Lease of clones that are named by a local branch or a worktree, counted from the last command in
    /// their checkout; `None` is `"never"`.
    pub branch_ttl: Option<Duration>,
    /// How long a clone without holder and session waits before the sweep drops it.
    pub orphan_grace: Duration,
    /// How many clones of a template in use are made ahead of time.
    pub warm: u32,
    /// How many there may be while many are asked for; at least `warm`.
    pub warm_max: u32,
}

/// `[server] client_for`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientFor {
    /// Hooks, the command of `run` and printed URLs: build commands run where pgstencil does.
    #[default]
    Run,
    /// Build commands, too.
    All,
}

/// `[clone] strategy`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Strategy {
    /// By server version, fsync, size and file count.
    Auto,
    /// `STRATEGY wal_log`
    WalLog,
    /// `STRATEGY file_copy`
    FileCopy,
    /// `STRATEGY file_copy` with `file_copy_method = clone` (18 and later)
    Reflink,
}

/// `[clone] named`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Named {
    /// The server role in one checkout on one machine.
    #[default]
    Checkout,
    /// All checkouts, machines and roles of the project that have this setting.
    Project,
}

/// `order`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Order {
    /// The files of a directory are compared with each other, and with no others.
    #[default]
    Directory,
    /// All files are compared with each other, by their names.
    Name,
}

/// `extend`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Extend {
    /// Those whose migrations are all there unchanged, and after which all new ones sort.
    #[default]
    Append,
    /// None: every build starts from nothing.
    Never,
    /// Also those after which new migrations do not sort, for tools whose order is a graph.
    Always,
}

/// `rebuild`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rebuild {
    /// When that is worth it: at present as with `always`.
    #[default]
    Auto,
    /// At once: the template is provisional until a full build in the background has taken its place.
    Always,
    /// Not at all: the extended template is kept.
    Never,
}

impl Rebuild {
    /// Whether an extended template is provisional.
    pub fn makes_provisional(self) -> bool {
        match self {
            Rebuild::Auto | Rebuild::Always => true,
            Rebuild::Never => false,
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            url: None,
            registry: raw::RawServer::default().registry,
            client_host: None,
            client_port: None,
            client_for: ClientFor::Run,
            bindir: None,
            run_as: None,
        }
    }
}

impl Default for CloneSettings {
    fn default() -> Self {
        CloneSettings {
            strategy: Strategy::Auto,
            ttl: Some(Duration::from_secs(12 * 60 * 60)),
            named: Named::Checkout,
            branch_ttl: Some(Duration::from_secs(14 * 24 * 60 * 60)),
            orphan_grace: Duration::from_secs(2 * 60),
            warm: 2,
            warm_max: 8,
        }
    }
}

impl Default for EvictionSettings {
    fn default() -> Self {
        EvictionSettings {
            max_size: Some(20_000_000_000),
            max_templates: 20,
            max_idle: Some(Duration::from_secs(14 * 24 * 60 * 60)),
            keep: 2,
        }
    }
}

impl Order {
    /// The word that it is written as.
    pub fn as_str(self) -> &'static str {
        match self {
            Order::Directory => "directory",
            Order::Name => "name",
        }
    }
}

impl Extend {
    /// The word that it is written as.
    pub fn as_str(self) -> &'static str {
        match self {
            Extend::Append => "append",
            Extend::Never => "never",
            Extend::Always => "always",
        }
    }
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
        let body = toml::to_string_pretty(&raw::RawConfig::from(self))
            .map_err(|e| Error::internal("the config cannot be written as TOML").caused_by(e))?;
        let unset: Vec<&str> = [
            ("server.url", self.server.url.is_none()),
            ("server.client_host", self.server.client_host.is_none()),
            ("server.client_port", self.server.client_port.is_none()),
            ("server.bindir", self.server.bindir.is_none()),
            ("server.run_as", self.server.run_as.is_none()),
        ]
        .into_iter()
        .filter_map(|(key, unset)| unset.then_some(key))
        .collect();
        let mut text = format!("# in effect from {}\n", self.file.display());
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
        serde_json::to_value(raw::RawConfig::from(self))
            .map_err(|e| Error::internal("the config cannot be written as JSON").caused_by(e))
    }
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
    raw::SCHEMA.clone()
}

/// An alias as the end of a variable's name: `p-1` makes `PGSTENCIL_URL_P_1`.
pub fn alias_suffix(alias: &str) -> String {
    alias.to_ascii_uppercase().replace('-', "_")
}
