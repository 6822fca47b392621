//! The checked configuration. Nothing here is an `Option` where a default exists.

pub mod env;
pub mod nearest;
pub mod passfile;
pub mod placeholder;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::url::ServerUrl;

/// Everything `pgstencil.toml` decides, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Namespace of templates and clones on a shared server.
    pub project: String,
    /// The file that was read.
    pub file: PathBuf,
    /// Absolute folder that all globs and commands start from.
    pub root: PathBuf,
    /// `[server]`
    pub server: ServerSettings,
    /// `[template.NAME]` tables, sorted by name; at least one.
    pub definitions: Vec<Definition>,
    /// `[clone]`
    pub clone: CloneSettings,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Where the server is; `None` means the managed server.
    pub url: Option<UrlSetting>,
    /// Name of the registry database.
    pub registry: String,
    /// Host that commands and printed URLs get instead of ours.
    pub client_host: Option<String>,
    /// Port that commands and printed URLs get instead of ours.
    pub client_port: Option<u16>,
    /// Folder of the Postgres binaries of the managed server; `None` means search.
    pub bindir: Option<PathBuf>,
    /// Account of the managed server when we are root; `None` means `postgres`, else `nobody`.
    pub run_as: Option<String>,
}

/// `[server] url`
#[derive(Clone, Debug, PartialEq)]
pub enum UrlSetting {
    /// A URL in the file.
    Literal(ServerUrl),
    /// `env:NAME`
    Variable(String),
}

/// One `[template.NAME]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// `NAME`
    pub name: String,
    /// Ordered globs; `!` in front excludes.
    pub migrations: Vec<String>,
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
    /// Roles of the set, in order; never empty.
    pub databases: Vec<String>,
    /// Command run against every clone; `None` if empty in the file.
    pub after_clone: Option<String>,
    /// Statements run in the clone's database of a role.
    pub after_clone_sql: BTreeMap<String, String>,
    /// How long the build command may take.
    pub build_timeout: Duration,
    /// Seal a template although the build created nothing.
    pub allow_empty: bool,
    /// What commands see beside the standard variables; values hold placeholders.
    pub env: BTreeMap<String, String>,
}

/// One entry of `input_lines`.
#[derive(Clone, Debug, PartialEq)]
pub struct InputLines {
    /// Path relative to the root.
    pub file: String,
    /// Regular expression that a line must match to count.
    pub matching: String,
}

/// `[clone]`
#[derive(Clone, Debug, PartialEq)]
pub struct CloneSettings {
    /// How a clone is copied.
    pub strategy: Strategy,
    /// Lease of clones from `pgstencil clone`; `None` is `"never"`.
    pub ttl: Option<Duration>,
    /// How long a clone without holder and session waits before the sweep drops it.
    pub orphan_grace: Duration,
}

/// `[clone] strategy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
