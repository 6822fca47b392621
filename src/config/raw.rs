//! `pgstencil.toml` as it is written: the keys, their types and their defaults, not yet checked.
//!
//! The JSON schema is made from these structs, and the shape of a file is checked against that
//! schema, so a key exists exactly if it is here. The doc comments are the schema's descriptions.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClientFor, Config, Definition, Extend, Named, Order, Rebuild, Strategy, UrlSetting};
use crate::quantity::setting;

/// pgstencil's configuration, `pgstencil.toml`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    /// Namespace of templates and clones on a shared server, at most 32 characters. Small letters, digits,
    /// `-` and `_` stay; another name is folded to these and gets a short hash. Default: the directory name of
    /// the repository's main worktree, plus the root's path below the top level; without git the name of
    /// the root directory.
    pub(super) project: Option<String>,
    /// The directory that globs and commands start from, relative to the directory of this file.
    /// Default: the directory of this file.
    pub(super) root: Option<String>,
    pub(super) server: RawServer,
    pub(super) clone: RawClone,
    pub(super) eviction: RawEviction,
    /// What several definitions share: any key of `[template.NAME]`. Those of a definition win; tables such as
    /// `env` are put together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) defaults: Option<RawTemplate>,
    /// Template definitions, `[template.NAME]`; at least one.
    pub(super) template: BTreeMap<String, RawTemplate>,
}

/// The Postgres server.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawServer {
    /// A server URL, or `env:NAME` for the variable that holds it. Default: the managed local
    /// server.
    pub(super) url: Option<String>,
    /// Name of the database that holds pgstencil's own tables.
    pub(super) registry: String,
    /// Host that commands and printed URLs get, when they reach the server by another name.
    pub(super) client_host: Option<String>,
    /// Port that commands and printed URLs get, when they reach the server by another one.
    #[schemars(range(min = 1, max = 65535))]
    pub(super) client_port: Option<u16>,
    /// Which commands get them: hooks and the command of `run`, or build commands, too. Printed URLs always do.
    pub(super) client_for: ClientFor,
    /// Directory of the Postgres binaries of the private server, relative to the root. Default:
    /// searched for.
    pub(super) bindir: Option<String>,
    /// Account that the private server runs under when pgstencil is root. Default: `postgres`,
    /// else `nobody`.
    pub(super) run_as: Option<String>,
}

impl Default for RawServer {
    fn default() -> Self {
        RawServer {
            url: None,
            registry: "pgstencil".to_owned(),
            client_host: None,
            client_port: None,
            client_for: ClientFor::Run,
            bindir: None,
            run_as: None,
        }
    }
}

/// How clones are made and kept.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawClone {
    /// How a clone is copied.
    pub(super) strategy: Strategy,
    /// How long a clone from `pgstencil clone` is kept; a duration, or `never`.
    #[schemars(extend("x-duration" = true))]
    pub(super) ttl: String,
    /// Who shares a clone that has a name of its own.
    pub(super) named: Named,
    /// How long a clone that is named by a local branch or a worktree is kept after the last command
    /// in its checkout; a duration, or `never`.
    #[schemars(extend("x-duration" = true))]
    pub(super) branch_ttl: String,
    /// How long a clone without holder and session waits before the sweep drops it; a duration.
    #[schemars(extend("x-duration" = true))]
    pub(super) orphan_grace: String,
    /// How many clones of a template in use are made ahead of time.
    #[schemars(range(max = 100))]
    pub(super) warm: u32,
    /// How many there may be while many are asked for.
    #[schemars(range(max = 100))]
    pub(super) warm_max: u32,
}

impl Default for RawClone {
    fn default() -> Self {
        RawClone {
            strategy: Strategy::Auto,
            ttl: "12h".to_owned(),
            named: Named::Checkout,
            branch_ttl: "14d".to_owned(),
            orphan_grace: "2m".to_owned(),
            warm: 2,
            warm_max: 8,
        }
    }
}

/// How many templates of this project are kept. Pinned ones and those in use stay in any case.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEviction {
    /// Size of all templates together, such as `20GB`, or `unlimited`.
    pub(super) max_size: String,
    /// Number of templates.
    #[schemars(range(min = 1, max = 100000))]
    pub(super) max_templates: u32,
    /// Time since the last use; a duration, or `never`.
    #[schemars(extend("x-duration" = true))]
    pub(super) max_idle: String,
    /// So many of each definition, the last used ones, stay in any case.
    #[schemars(range(min = 0, max = 100000))]
    pub(super) keep: u32,
}

impl Default for RawEviction {
    fn default() -> Self {
        RawEviction { max_size: "20GB".to_owned(), max_templates: 20, max_idle: "14d".to_owned(), keep: 2 }
    }
}

/// One template definition.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTemplate {
    /// The migrate command, run by `sh -c` in the root. Required here or in `[defaults]`.
    #[serde(default)]
    pub(super) build: Option<String>,
    /// Globs of the migrations: ordered files. `!` in front excludes.
    #[serde(default)]
    pub(super) migrations: Vec<String>,
    /// Whether the files of each directory have an order of their own, or all files have one order by their names.
    #[serde(default)]
    pub(super) order: Order,
    /// Globs of files beside the migrations that may be added, and never changed; without an order.
    #[serde(default)]
    pub(super) companions: Vec<String>,
    /// Globs of further files after whose change the build command has to run again.
    #[serde(default)]
    pub(super) rerun_inputs: Vec<String>,
    /// Globs of further files that decide what a build yields.
    #[serde(default)]
    pub(super) inputs: Vec<String>,
    /// Files of which only some lines count as inputs.
    #[serde(default)]
    pub(super) input_lines: Vec<RawInputLines>,
    /// Variables whose values count like inputs. Not for secrets: the fingerprint shows whether a guess is right.
    #[serde(default)]
    pub(super) env_inputs: Vec<String>,
    /// The database that builds from nothing start from, as a copy of it.
    #[serde(default = "default_from")]
    pub(super) from: String,
    /// Roles: the databases of the set, by the names that the config gives them.
    #[serde(default = "default_databases")]
    pub(super) databases: Vec<String>,
    /// Which templates a missing one may be extended from.
    #[serde(default)]
    pub(super) extend: Extend,
    /// Whether a full build in the background replaces an extended template.
    #[serde(default)]
    pub(super) rebuild: Rebuild,
    /// After so many extensions in a row, a full build.
    #[serde(default = "default_max_extensions")]
    #[schemars(range(min = 1, max = 10000))]
    pub(super) max_extensions: u32,
    /// A template whose oldest contents are older than this is rebuilt; a duration, or `never`.
    #[schemars(extend("x-duration" = true))]
    #[serde(default = "default_stale_after")]
    pub(super) stale_after: String,
    /// Columns whose values a comparison of rows leaves out, as `table.column` or `schema.table.column`.
    #[serde(default)]
    pub(super) verify_ignore: Vec<String>,
    /// Lets only one such build run at a time, among all projects that share the registry.
    #[serde(default)]
    pub(super) serial_builds: bool,
    /// Command run against every clone, after it has its name.
    #[serde(default)]
    pub(super) after_clone: String,
    /// Command run before a clone is released, or once it was dropped by a sweep: for what `after_clone`
    /// made outside Postgres.
    #[serde(default)]
    pub(super) before_release: String,
    /// How long the build command may take; a duration.
    #[schemars(extend("x-duration" = true))]
    #[serde(default = "default_build_timeout")]
    pub(super) build_timeout: String,
    /// Seal a template although the build created nothing.
    #[serde(default)]
    pub(super) allow_empty: bool,
    /// Seal a build although its new migrations changed nothing.
    #[serde(default)]
    pub(super) allow_unchanged: bool,
    /// Count text files that the build command names as inputs.
    #[serde(default = "default_build_inputs")]
    pub(super) build_inputs: bool,
    /// SQL statements run in every clone, by role; with placeholders such as `{name}` and
    /// `{ALIAS.name}`.
    #[serde(default)]
    pub(super) after_clone_sql: BTreeMap<String, String>,
    /// Variables that commands see beside the standard ones, with placeholders such as `{url}` and
    /// `{ALIAS.url}`.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Variables that only the build command sees, with the same placeholders. They win over `env`.
    #[serde(default)]
    pub(super) build_env: BTreeMap<String, String>,
    /// Variables that only `after_clone`, `before_release` and the command of `run` see, with the same
    /// placeholders. They win over `env`, and are no inputs.
    #[serde(default)]
    pub(super) run_env: BTreeMap<String, String>,
}

/// Lines of a file that count as inputs.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInputLines {
    /// Path of the file, relative to the root.
    pub(super) file: String,
    /// Regular expression that a line must match to count. What its first group matches counts, else the line.
    #[serde(rename = "match")]
    pub(super) matching: String,
}

fn default_from() -> String {
    crate::names::EMPTY_DATABASE.to_owned()
}

fn default_databases() -> Vec<String> {
    vec!["app".to_owned()]
}

fn default_build_inputs() -> bool {
    true
}

fn default_build_timeout() -> String {
    "30m".to_owned()
}

fn default_max_extensions() -> u32 {
    20
}

fn default_stale_after() -> String {
    "never".to_owned()
}

/// A size as it is written: in the largest decimal unit that leaves no fraction.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    let fitting = UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit));
    match fitting {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// A duration as it is written; `None` is `never`.
fn or_never(duration: Option<std::time::Duration>) -> String {
    duration.map_or_else(|| "never".to_owned(), setting)
}

/// The JSON schema of `pgstencil.toml`.
pub(super) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<RawConfig>();
    let mut schema = schema.to_value();
    without_null(&mut schema);
    schema["title"] = Value::from("pgstencil.toml");
    schema
});

/// TOML has no null: a key that may be absent is simply not required.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
            if let Some(Value::Object(default)) = object.get_mut("default") {
                default.retain(|_, value| !value.is_null());
            }
            // What is within a default is a value, not a schema.
            object.iter_mut().filter(|(key, _)| *key != "default").for_each(|(_, value)| without_null(value));
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

impl From<&Config> for RawConfig {
    /// The way back: every key with the value that is in effect; what `[defaults]` said is in each definition.
    /// The server URL's password is hidden.
    fn from(config: &Config) -> Self {
        let path = |p: &std::path::Path| p.display().to_string();
        RawConfig {
            project: Some(config.project.clone()),
            root: Some(path(&config.root)),
            server: RawServer {
                url: config.server.url.as_ref().map(|url| match url {
                    UrlSetting::Literal(url) => url.to_string(),
                    UrlSetting::Variable(name) => format!("env:{name}"),
                }),
                registry: config.server.registry.clone(),
                client_host: config.server.client_host.clone(),
                client_port: config.server.client_port,
                client_for: config.server.client_for,
                bindir: config.server.bindir.as_deref().map(path),
                run_as: config.server.run_as.clone(),
            },
            clone: RawClone {
                strategy: config.clone.strategy,
                ttl: or_never(config.clone.ttl),
                named: config.clone.named,
                branch_ttl: or_never(config.clone.branch_ttl),
                orphan_grace: setting(config.clone.orphan_grace),
                warm: config.clone.warm,
                warm_max: config.clone.warm_max,
            },
            eviction: RawEviction {
                max_size: config.eviction.max_size.map_or_else(|| "unlimited".to_owned(), size),
                max_templates: config.eviction.max_templates,
                max_idle: or_never(config.eviction.max_idle),
                keep: config.eviction.keep,
            },
            defaults: None,
            template: config.definitions.iter().map(|d| (d.name.clone(), RawTemplate::from(d))).collect(),
        }
    }
}

impl From<&Definition> for RawTemplate {
    fn from(d: &Definition) -> Self {
        RawTemplate {
            build: Some(d.build.clone()),
            migrations: d.migrations.clone(),
            order: d.order,
            companions: d.companions.clone(),
            rerun_inputs: d.rerun_inputs.clone(),
            inputs: d.inputs.clone(),
            input_lines: d
                .input_lines
                .iter()
                .map(|lines| RawInputLines { file: lines.file.clone(), matching: lines.matching.clone() })
                .collect(),
            env_inputs: d.env_inputs.clone(),
            from: d.from.clone(),
            databases: d.databases.clone(),
            extend: d.extend,
            rebuild: d.rebuild,
            max_extensions: d.max_extensions,
            stale_after: or_never(d.stale_after),
            verify_ignore: d.verify_ignore.clone(),
            serial_builds: d.serial_builds,
            after_clone: d.after_clone.clone().unwrap_or_default(),
            before_release: d.before_release.clone().unwrap_or_default(),
            build_timeout: setting(d.build_timeout),
            allow_empty: d.allow_empty,
            allow_unchanged: d.allow_unchanged,
            build_inputs: d.build_inputs,
            after_clone_sql: d.after_clone_sql.clone(),
            env: d.env.clone(),
            build_env: d.build_env.clone(),
            run_env: d.run_env.clone(),
        }
    }
}
