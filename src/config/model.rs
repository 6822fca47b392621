//! The tables of `pgstencil.toml`, one struct for each. A key is here with its type, its description and its
//! default: the schema is made of these structs, the text is read into them, and `config show` writes them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{
    Account, Alias, Column, DatabaseName, Form, Gain, Glob, Host, OptionalCommand, Pattern, RegistryName,
    RootedPath, SigningKey, Size, StoreUrl, Time, TimeOrNever, TrustedKey, UrlSetting, Variable, list,
};
use crate::names::EMPTY_DATABASE;

/// pgstencil's configuration, `pgstencil.toml`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// Namespace of templates and clones on a shared server, at most 32 characters. Small letters, digits,
    /// `-` and `_` stay; another name is folded to these and gets a short hash. Default: the directory name of
    /// the repository's main worktree, plus the root's path below the top level; without git the name of
    /// the root directory.
    pub(super) project: Option<String>,
    /// The directory that globs and commands start from, relative to the directory of this file.
    /// Default: the directory of this file.
    pub(super) root: Option<String>,
    /// Keeps hashes of the input files in the user's cache directory, so that unchanged files are not read again.
    pub(super) file_cache: bool,
    pub(super) server: ServerSettings,
    pub(super) clone: CloneSettings,
    pub(super) eviction: EvictionSettings,
    pub(super) remote: RemoteSettings,
    /// What several definitions share: any key of `[template.NAME]`. Those of a definition win; tables such as
    /// `env` are put together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) defaults: Option<Definition>,
    /// Template definitions, `[template.NAME]`; at least one.
    pub(super) template: BTreeMap<String, Definition>,
}

impl Default for File {
    fn default() -> Self {
        File {
            project: None,
            root: None,
            file_cache: true,
            server: ServerSettings::default(),
            clone: CloneSettings::default(),
            eviction: EvictionSettings::default(),
            remote: RemoteSettings::default(),
            defaults: None,
            template: BTreeMap::new(),
        }
    }
}

/// The Postgres server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerSettings {
    /// A server URL, or `env:NAME` for the variable that holds it. Default: the private local server.
    pub url: Option<UrlSetting>,
    /// Name of the database that holds pgstencil's own tables.
    pub registry: RegistryName,
    /// Host that commands and printed URLs get, when they reach the server by another name.
    pub client_host: Option<Host>,
    /// Port that commands and printed URLs get, when they reach the server by another one.
    #[schemars(range(min = 1, max = 65535))]
    pub client_port: Option<u16>,
    /// Which commands get them: hooks and the command of `run`, or build commands, too. Printed URLs always do.
    pub client_for: ClientFor,
    /// Directory of the Postgres binaries of the private server, relative to the root. Default: searched for.
    pub bindir: Option<PathBuf>,
    /// Account that the private server runs under when pgstencil is root. Default: `postgres`, else `nobody`.
    pub run_as: Option<Account>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            url: None,
            registry: RegistryName::known("pgstencil"),
            client_host: None,
            client_port: None,
            client_for: ClientFor::Run,
            bindir: None,
            run_as: None,
        }
    }
}

/// How clones are made and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CloneSettings {
    /// How a clone is copied.
    pub strategy: Strategy,
    /// How long a clone from `pgstencil clone` is kept; a duration, or `never`.
    pub ttl: TimeOrNever,
    /// Who shares a clone that has a name of its own.
    pub named: Named,
    /// How long a clone that is named by a local branch or a worktree is kept after the last command
    /// in its checkout; a duration, or `never`.
    pub branch_ttl: TimeOrNever,
    /// Whether work goes on in the background after a command has ended.
    pub background: BackgroundWork,
    /// How long a clone without holder and session waits before a cleanup drops it; a duration.
    pub orphan_grace: Time,
    /// How many clones of a template in use are made ahead of time.
    #[schemars(range(max = 100))]
    pub warm: u32,
    /// How many there may be while many are asked for; at least `warm`.
    #[schemars(range(max = 100))]
    pub warm_max: u32,
    /// Which released clones become warm again instead of being dropped.
    pub recycle: Recycle,
}

impl Default for CloneSettings {
    fn default() -> Self {
        CloneSettings {
            strategy: Strategy::Auto,
            ttl: TimeOrNever::of_hours(12),
            named: Named::Checkout,
            branch_ttl: TimeOrNever::of_hours(14 * 24),
            background: BackgroundWork::Auto,
            orphan_grace: Time::of_minutes(2),
            warm: 2,
            warm_max: 8,
            recycle: Recycle::Auto,
        }
    }
}

/// How many templates of this project are kept. Pinned ones and those in use are kept in any case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EvictionSettings {
    /// Size of all templates together, such as `20GB`, or `unlimited`.
    pub max_size: Size,
    /// Number of templates.
    #[schemars(range(min = 1, max = 100000))]
    pub max_templates: u32,
    /// Time since the last use; a duration, or `never`.
    pub max_idle: TimeOrNever,
    /// The number of templates of each definition, the last used ones, that are kept in any case.
    #[schemars(range(min = 0, max = 100000))]
    pub keep: u32,
}

impl Default for EvictionSettings {
    fn default() -> Self {
        EvictionSettings {
            max_size: Size::of_gigabytes(20),
            max_templates: 20,
            max_idle: TimeOrNever::of_hours(14 * 24),
            keep: 2,
        }
    }
}

/// A store of templates that several servers share. Only the command `pgstencil` uses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RemoteSettings {
    /// `file:///DIRECTORY`, `s3://BUCKET/PATH`, `gs://…`, `az://…` or `https://…`, or `env:NAME` for the variable that
    /// holds the URL. Default: no store.
    pub url: Option<StoreUrl>,
    /// Which commands push the templates that they build.
    pub push: Push,
    /// Public keys whose signatures are accepted, or `env:NAME`. Without keys, only a directory that belongs to you or
    /// root is read, and no bucket.
    #[serde(deserialize_with = "list")]
    pub trust: Vec<TrustedKey>,
    /// The key that signs what is pushed: `env:NAME` for the variable that holds it, or a file, relative to the root.
    pub signing_key: Option<SigningKey>,
    /// A template is pulled only if that is expected to save at least this time; a duration. `0s`: always.
    pub min_gain: Gain,
    /// Time limit of one look into the store, of one download and of one upload; a duration.
    pub timeout: Time,
    /// Age since the last use after which `remote prune` deletes an entry; a duration, or `never`.
    pub keep: TimeOrNever,
}

impl RemoteSettings {
    /// Returns the settings of a store in a file of this machine: everything in it is used.
    #[cfg(feature = "cli")]
    pub(crate) fn of_file() -> Self {
        RemoteSettings {
            min_gain: Gain::of_seconds(0),
            timeout: Time::of_minutes(60),
            ..RemoteSettings::default()
        }
    }
}

impl Default for RemoteSettings {
    fn default() -> Self {
        RemoteSettings {
            url: None,
            push: Push::Never,
            trust: Vec::new(),
            signing_key: None,
            min_gain: Gain::of_seconds(1),
            timeout: Time::of_seconds(20),
            keep: TimeOrNever::of_hours(30 * 24),
        }
    }
}

/// `[remote] push`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Push {
    /// None.
    #[default]
    Never,
    /// CI jobs of the default branch, of protected branches and of tags; elsewhere those with `PGSTENCIL_PUSH=1`.
    Trusted,
    /// All, but never jobs of a pull request from a fork, of `pull_request_target` or of `workflow_run`.
    Always,
}

/// One template definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Definition {
    /// `NAME` of `[template.NAME]`.
    #[serde(skip)]
    pub name: String,
    /// The migrate command, run by `sh -c` in the root. Required here or in `[defaults]`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub build: String,
    /// Globs of the migrations: ordered files. `!` in front excludes.
    #[serde(deserialize_with = "list")]
    pub migrations: Vec<Glob>,
    /// Whether the files of each directory have an order of their own, or all files have one order by their names.
    pub order: Order,
    /// Globs of files that may be added, and never changed, like migrations, but without an order.
    #[serde(deserialize_with = "list")]
    pub companions: Vec<Glob>,
    /// Globs of further files after whose change the build command has to run again.
    #[serde(deserialize_with = "list")]
    pub rerun_inputs: Vec<Glob>,
    /// Globs of further files that decide what a build yields.
    #[serde(deserialize_with = "list")]
    pub inputs: Vec<Glob>,
    /// Files of which only some lines count as inputs.
    pub input_lines: Vec<InputLines>,
    /// Input files that count by a normal form, so that edits without effect do not count.
    pub normalize: Vec<Normalize>,
    /// Variables whose values count like inputs. Not for secrets: the fingerprint shows whether a guess is right.
    #[serde(deserialize_with = "list")]
    pub env_inputs: Vec<Variable>,
    /// The database that full builds start from, as a copy of it.
    pub from: DatabaseName,
    /// The aliases: the names of the databases of the set, in order.
    #[serde(deserialize_with = "list")]
    pub databases: Vec<Alias>,
    /// Which templates a missing one may be extended from.
    pub extend: Extend,
    /// Whether a full build in the background replaces an extended template.
    pub rebuild: Rebuild,
    /// The migrate command up to one version, `{version}`: it lets a full build keep a base for later builds.
    pub build_until: OptionalCommand,
    /// Whether a full build that changes an older migration is done in two steps, with a base in between.
    pub waypoints: Waypoints,
    /// After this many incremental builds in a row, a full build.
    #[schemars(range(min = 1, max = 10000))]
    pub max_extensions: u32,
    /// A template whose oldest contents are older than this is rebuilt; a duration, or `never`.
    pub stale_after: TimeOrNever,
    /// Columns whose values a comparison of rows leaves out, as `table.column` or `schema.table.column`.
    #[serde(deserialize_with = "list")]
    pub verify_ignore: Vec<Column>,
    /// Lets only one build of definitions with this key run at a time, among all projects that share the registry.
    pub serial_builds: bool,
    /// Command run against every clone, after it has its name.
    pub after_clone: OptionalCommand,
    /// Command run before a clone is released, or once a cleanup has dropped it: for what `after_clone`
    /// made outside Postgres.
    pub before_release: OptionalCommand,
    /// How long the build command may take; a duration.
    pub build_timeout: Time,
    /// Keep a template although the build created nothing.
    pub allow_empty: bool,
    /// Seal a build although its new migrations changed nothing.
    pub allow_unchanged: bool,
    /// Count text files that the build command names as inputs.
    pub build_inputs: bool,
    /// SQL statements run in every clone, by alias; with placeholders such as `{name}` and
    /// `{ALIAS.name}`.
    pub after_clone_sql: BTreeMap<String, String>,
    /// Variables that commands see beside the standard ones, with placeholders such as `{url}` and
    /// `{ALIAS.url}`.
    pub env: BTreeMap<String, String>,
    /// Variables that only the build command sees, with the same placeholders. They win over `env`.
    pub build_env: BTreeMap<String, String>,
    /// Variables that only `after_clone`, `before_release` and the command of `run` see, with the same
    /// placeholders. They win over `env`, and are not inputs.
    pub run_env: BTreeMap<String, String>,
    /// Places of its inputs in the file.
    #[serde(skip)]
    pub(crate) places: Places,
}

/// Places in the config file of the inputs of a definition, by key and index, as `FILE:LINE:COLUMN`. They are no part
/// of its value: definitions at different places can be equal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(pub(super) BTreeMap<(&'static str, usize), String>);

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Definition {
    /// Names one of its inputs in an error: the place in the file, if there is one, the key and the definition.
    pub(crate) fn input(&self, key: &'static str, index: usize) -> String {
        let of = format!("`{key}` of template `{}`", self.name);
        match self.places.0.get(&(key, index)) {
            Some(place) => format!("{place}: {of}"),
            None => of,
        }
    }
}

impl Default for Definition {
    fn default() -> Self {
        Definition {
            name: String::new(),
            build: String::new(),
            migrations: Vec::new(),
            order: Order::Directory,
            companions: Vec::new(),
            rerun_inputs: Vec::new(),
            inputs: Vec::new(),
            input_lines: Vec::new(),
            normalize: Vec::new(),
            env_inputs: Vec::new(),
            from: DatabaseName::known(EMPTY_DATABASE),
            databases: vec![Alias::known("app")],
            extend: Extend::Append,
            rebuild: Rebuild::Auto,
            build_until: OptionalCommand::default(),
            waypoints: Waypoints::Auto,
            max_extensions: 20,
            stale_after: TimeOrNever::NEVER,
            verify_ignore: Vec::new(),
            serial_builds: false,
            after_clone: OptionalCommand::default(),
            before_release: OptionalCommand::default(),
            build_timeout: Time::of_minutes(30),
            allow_empty: false,
            allow_unchanged: false,
            build_inputs: true,
            after_clone_sql: BTreeMap::new(),
            env: BTreeMap::new(),
            build_env: BTreeMap::new(),
            run_env: BTreeMap::new(),
            places: Places::default(),
        }
    }
}

/// Lines of a file that count as inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct InputLines {
    /// Path of the file, relative to the root.
    pub file: RootedPath,
    /// Regular expression that a line must match to count. What its first group matches counts, else the line.
    #[serde(rename = "match")]
    pub matching: Pattern,
}

/// Files that count by a normal form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Normalize {
    /// Glob of the files, among those that other keys select.
    pub files: Glob,
    /// The normal form: `python`.
    #[serde(rename = "as")]
    pub form: Form,
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

impl Strategy {
    /// Advice where another strategy than the configured one is faster.
    pub(crate) const USE_AUTO: &str =
        "remove `strategy` from `[clone]`: `auto` uses the fastest measured strategy";
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

/// `[clone] background`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackgroundWork {
    /// A process (in a program that uses the library: a thread) drops clones, creates warm clones and rebuilds
    /// provisional templates after the command.
    #[default]
    Auto,
    /// Nothing goes on after the command: the command that releases a clone drops it, no warm clones are created,
    /// and provisional templates stay until `ensure --rebuild`.
    Off,
}

/// `[clone] recycle`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Recycle {
    /// Those to which nothing was written, unless their role can switch off the counters that show it: a superuser.
    #[default]
    Auto,
    /// Those to which nothing was written, also of a superuser.
    Clean,
    /// As `clean`, and those in which only tables were written to that are empty in the template: they are emptied.
    Wash,
    /// None.
    Never,
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
    /// When that is worth it, by the evidence of earlier rebuilds: a template that is used again is rebuilt, or
    /// accepted without a full build of its own.
    #[default]
    Auto,
    /// After the first command that used it: the template is provisional until a full build in the background has
    /// taken its place.
    Always,
    /// Not at all: the extended template is kept.
    Never,
}

/// `waypoints`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Waypoints {
    /// If `build_until` is set, and it pays.
    #[default]
    Auto,
    /// If it pays: by `build_until` if it is set and the edits are in one directory, else by the build command in a copy
    /// of the tree without the later migrations.
    Copy,
    /// Never.
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
