//! From the raw structs to a checked [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use globset::GlobBuilder;
use regex::Regex;

use super::document::{Document, KeyPath};
use super::nearest::nearest;
use super::placeholder::{EnvTemplate, SqlTemplate};
use super::raw::{RawClone, RawConfig, RawEviction, RawInputLines, RawServer, RawTemplate};
use super::{
    CloneSettings, Config, Definition, EvictionSettings, InputLines, MINIMAL, Origin, ServerSettings,
    UrlSetting, alias_suffix, is_host,
};
use crate::error::{Error, Result};
use crate::git::Tree;
use crate::names::folded;
use crate::url::ServerUrl;

/// Most characters of a project's, a definition's and an alias's name: together with a clone's id
/// they make names of databases, which end at 63 bytes.
const MAX_NAME: usize = 32;

/// Longer durations are meant as "never", and would overflow a clock somewhere.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Checks everything that the types of the raw structs do not. `directory` is the file's.
pub(super) fn config(doc: &Document<'_>, raw: RawConfig, file: &Path, folder: &Path) -> Result<Config> {
    let top = KeyPath::default();
    let root = match &raw.root {
        None => folder.to_owned(),
        Some(root) => {
            let joined = folder.join(root);
            let not_there = |why: String| {
                doc.error(&top.key("root"), format!("is `{root}`, {why}"))
                    .hint(format!("it is relative to `{}`", folder.display()))
            };
            let real = fs::canonicalize(&joined)
                .map_err(|e| not_there("which cannot be opened".into()).caused_by(e))?;
            if !real.is_dir() {
                return Err(not_there("which is not a directory".into()));
            }
            real
        }
    };
    let project = match &raw.project {
        Some(given) => project(doc, &top.key("project"), given)?,
        None => default_project(doc, &root)?,
    };
    if raw.template.is_empty() {
        return Err(doc
            .whole("no `[template.NAME]`: there is nothing to build")
            .hint(format!("a definition of two lines will do:\n{MINIMAL}")));
    }
    let server = server(doc, &top.key("server"), raw.server, &root)?;
    let clone = clone(doc, &top.key("clone"), raw.clone)?;
    let eviction = eviction(doc, &top.key("eviction"), raw.eviction)?;
    let definitions = raw
        .template
        .into_iter()
        .map(|(name, raw)| definition(doc, &top.key("template").key(&name), name, raw))
        .collect::<Result<_>>()?;
    Ok(Config {
        project,
        file: file.to_owned(),
        origin: Origin::Named,
        root,
        server,
        definitions,
        clone,
        eviction,
    })
}

fn project(doc: &Document<'_>, path: &KeyPath, given: &str) -> Result<String> {
    if !has_word(given) {
        return Err(doc
            .error(path, format!("is `{given}`, without a letter or digit"))
            .hint("it becomes part of database names: use letters, digits, `-` and `_`"));
    }
    let length = given.chars().count();
    if length > MAX_NAME {
        return Err(doc.error(path, format!("has {length} characters; at most {MAX_NAME} fit")));
    }
    Ok(folded(given, MAX_NAME))
}

/// The name of the repository, which all its worktrees share, and the way from the top level of the checkout
/// down to the root. Without git or jj the name of the root's directory.
fn default_project(doc: &Document<'_>, root: &Path) -> Result<String> {
    let name_of = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let mut words = Vec::new();
    match Tree::find(root) {
        Some(tree) => {
            words.extend(tree.repository_name());
            let below = root.strip_prefix(&tree.top).unwrap_or(Path::new(""));
            words.extend(below.iter().map(|w| w.to_string_lossy().into_owned()));
        }
        None => words.extend(name_of(root)),
    }
    // `_` between the words loses no more than the words themselves do.
    let plain = words.iter().all(|word| folded(word, usize::MAX) == *word);
    let name = words.join(if plain { "_" } else { "/" });
    match has_word(&name) {
        true => Ok(folded(&name, MAX_NAME)),
        false => Err(doc
            .whole(format!("the root directory `{}` has no name to call the project by", root.display()))
            .hint("add `project = \"NAME\"` at the top of the file")),
    }
}

fn has_word(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

fn server(doc: &Document<'_>, path: &KeyPath, raw: RawServer, root: &Path) -> Result<ServerSettings> {
    let url_path = path.key("url");
    let url = match raw.url.as_deref() {
        None => None,
        Some("") => {
            return Err(doc
                .error(&url_path, "is empty")
                .hint("leave the key out for the private local server"));
        }
        Some(url) => Some(match url.strip_prefix("env:") {
            Some(name) if is_variable(name) => UrlSetting::Variable(name.to_owned()),
            Some(name) => {
                return Err(doc
                    .error(&url_path, format!("names `{name}`, which no variable can be called"))
                    .hint("write `env:DATABASE_URL`, without `$` and braces"));
            }
            None => UrlSetting::Literal(ServerUrl::parse(url).map_err(|e| doc.at(&url_path, e))?),
        }),
    };
    let registry_path = path.key("registry");
    let registry = raw.registry;
    if registry.is_empty() || registry.len() > 63 {
        return Err(
            doc.error(&registry_path, format!("has {} bytes; a database name has 1 to 63", registry.len()))
        );
    }
    if matches!(registry.as_str(), "postgres" | "template0" | "template1") {
        return Err(doc
            .error(&registry_path, format!("is `{registry}`, which belongs to the server"))
            .hint("pgstencil creates a database of its own: choose a name that is not taken"));
    }
    if let Some(host) = raw.client_host.as_ref().filter(|host| !is_host(host)) {
        return Err(doc
            .error(&path.key("client_host"), format!("is `{host}`, not a host"))
            .hint("write a host name, an address or a socket directory; the port goes to `client_port`"));
    }
    for (key, value) in [("bindir", &raw.bindir), ("run_as", &raw.run_as)] {
        if value.as_deref().is_some_and(|v| v.trim().is_empty()) {
            return Err(doc
                .error(&path.key(key), "is empty")
                .hint("leave the key out to let pgstencil find one"));
        }
    }
    Ok(ServerSettings {
        url,
        registry,
        client_host: raw.client_host,
        client_port: raw.client_port,
        client_for: raw.client_for,
        bindir: raw.bindir.map(|dir| root.join(dir)),
        run_as: raw.run_as,
    })
}

fn clone(doc: &Document<'_>, path: &KeyPath, raw: RawClone) -> Result<CloneSettings> {
    Ok(CloneSettings {
        warm: raw.warm,
        // None at all is a wish of its own; otherwise the depth grows from `warm` on.
        warm_max: match raw.warm {
            0 => 0,
            warm => raw.warm_max.max(warm),
        },
        strategy: raw.strategy,
        ttl: or_never(doc, &path.key("ttl"), &raw.ttl)?,
        named: raw.named,
        branch_ttl: or_never(doc, &path.key("branch_ttl"), &raw.branch_ttl)?,
        orphan_grace: duration(doc, &path.key("orphan_grace"), &raw.orphan_grace, false)?,
    })
}

fn eviction(doc: &Document<'_>, path: &KeyPath, raw: RawEviction) -> Result<EvictionSettings> {
    let max_size = match raw.max_size.as_str() {
        "unlimited" => None,
        text => Some(size(text).map_err(|why| {
            doc.error(&path.key("max_size"), format!("is `{text}`, {why}"))
                .hint("write it like `500MB`, `20GB`, `1.5TB`, `8GiB`, or `unlimited`")
        })?),
    };
    Ok(EvictionSettings {
        max_size,
        max_templates: raw.max_templates,
        max_idle: or_never(doc, &path.key("max_idle"), &raw.max_idle)?,
        keep: raw.keep,
    })
}

/// Bytes, or why the text is not a number of them.
fn size(text: &str) -> std::result::Result<u64, &'static str> {
    if text.trim().bytes().all(|b| b.is_ascii_digit()) {
        return Err("which has no unit");
    }
    match text.parse::<ByteSize>() {
        Ok(size) if size.as_u64() > 0 => Ok(size.as_u64()),
        Ok(_) => Err("which is no room at all"),
        // The parser's own words name its types.
        Err(_) => Err("which is not a size"),
    }
}

fn check_columns(doc: &Document<'_>, path: &KeyPath, columns: &[String]) -> Result<()> {
    for (i, column) in columns.iter().enumerate() {
        let parts: Vec<&str> = column.split('.').collect();
        if parts.len() < 2 || parts.iter().any(|part| part.trim().is_empty()) {
            return Err(doc
                .error(&path.index(i), format!("is `{column}`, which names no column"))
                .hint("write `table.column` or `schema.table.column`; `table.*` is every column"));
        }
    }
    Ok(())
}

fn or_never(doc: &Document<'_>, path: &KeyPath, text: &str) -> Result<Option<Duration>> {
    match text {
        "never" => Ok(None),
        text => duration(doc, path, text, true).map(Some),
    }
}

fn duration(doc: &Document<'_>, path: &KeyPath, text: &str, or_never: bool) -> Result<Duration> {
    let hint = match or_never {
        true => "write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`, or `never`",
        false => "write it like `90s`, `30m`, `12h`, `14d`, `1h 30m`",
    };
    let why = match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => "which is no time at all".to_owned(),
        Ok(duration) if duration > MAX_DURATION => "which is more than ten years".to_owned(),
        Ok(duration) => return Ok(duration),
        Err(_) if text == "never" => "but this must end some time".to_owned(),
        Err(e) => format!("which is not a duration: {e}"),
    };
    Err(doc.error(path, format!("is `{text}`, {why}")).hint(hint))
}

fn definition(doc: &Document<'_>, path: &KeyPath, name: String, raw: RawTemplate) -> Result<Definition> {
    check_name(doc, path, &name, "definition")?;
    let Some(build) = raw.build.clone() else {
        return Err(doc
            .error(&path.key("build"), "is missing")
            .detail("build: The migrate command, run by `sh -c` in the root."));
    };
    if build.trim().is_empty() {
        return Err(doc
            .error(&path.key("build"), "is empty")
            .hint("give the command that migrates an empty database, such as `sqlx migrate run`"));
    }
    if raw.migrations.is_empty()
        && raw.rerun_inputs.is_empty()
        && raw.inputs.is_empty()
        && raw.companions.is_empty()
        && raw.input_lines.is_empty()
    {
        return Err(doc
            .error(path, "has no inputs, so its template would never be rebuilt")
            .hint("name the migrations: `migrations = [\"migrations/**/*.sql\"]`"));
    }
    for (key, globs) in [
        ("migrations", &raw.migrations),
        ("rerun_inputs", &raw.rerun_inputs),
        ("inputs", &raw.inputs),
        ("companions", &raw.companions),
    ] {
        check_globs(doc, &path.key(key), globs)?;
    }
    check_variables(doc, &path.key("env_inputs"), &raw.env_inputs)?;
    check_seen(doc, path, &name, &raw)?;
    check_columns(doc, &path.key("verify_ignore"), &raw.verify_ignore)?;
    check_from(doc, &path.key("from"), &raw.from)?;
    check_aliases(doc, &path.key("databases"), &raw.databases)?;
    let build_timeout_path = path.key("build_timeout");
    if raw.max_extensions == 0 {
        return Err(doc
            .error(&path.key("max_extensions"), "is 0")
            .hint("`extend = \"never\"` lets every build start from nothing"));
    }
    Ok(Definition {
        input_lines: input_lines(doc, &path.key("input_lines"), raw.input_lines)?,
        stale_after: or_never(doc, &path.key("stale_after"), &raw.stale_after)?,
        build_timeout: duration(doc, &build_timeout_path, &raw.build_timeout, false)?,
        after_clone: Some(raw.after_clone).filter(|c| !c.trim().is_empty()),
        before_release: Some(raw.before_release).filter(|c| !c.trim().is_empty()),
        after_clone_sql: after_clone_sql(
            doc,
            &path.key("after_clone_sql"),
            raw.after_clone_sql,
            &raw.databases,
        )?,
        env: env(doc, &path.key("env"), raw.env, &raw.databases)?,
        build_env: env(doc, &path.key("build_env"), raw.build_env, &raw.databases)?,
        run_env: env(doc, &path.key("run_env"), raw.run_env, &raw.databases)?,
        name,
        migrations: raw.migrations,
        order: raw.order,
        companions: raw.companions,
        rerun_inputs: raw.rerun_inputs,
        inputs: raw.inputs,
        env_inputs: raw.env_inputs,
        build,
        from: raw.from,
        databases: raw.databases,
        allow_empty: raw.allow_empty,
        allow_unchanged: raw.allow_unchanged,
        build_inputs: raw.build_inputs,
        extend: raw.extend,
        rebuild: raw.rebuild,
        max_extensions: raw.max_extensions,
        verify_ignore: raw.verify_ignore,
        serial_builds: raw.serial_builds,
    })
}

fn check_name(doc: &Document<'_>, path: &KeyPath, name: &str, what: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() {
        return Err(doc.error(path, format!("is an empty name of a {what}")));
    }
    if !name.chars().all(plain) {
        return Err(doc
            .error(path, format!("is not a name for a {what}: `{name}`"))
            .hint("use ASCII letters, digits, `_` and `-`"));
    }
    if name.len() > MAX_NAME {
        let why =
            format!("is too long a name for a {what}: {} characters; at most {MAX_NAME} fit", name.len());
        return Err(doc.error(path, why));
    }
    Ok(())
}

fn check_from(doc: &Document<'_>, path: &KeyPath, from: &str) -> Result<()> {
    if from.is_empty() || from.len() > 63 {
        return Err(doc
            .error(path, format!("has {} bytes; a database name has 1 to 63", from.len()))
            .hint("name a database of the server, such as `template1`; `template0` is an empty one"));
    }
    Ok(())
}

fn check_aliases(doc: &Document<'_>, path: &KeyPath, aliases: &[String]) -> Result<()> {
    if aliases.is_empty() {
        return Err(doc
            .error(path, "is empty")
            .hint("name at least one database, or leave the key out for `[\"app\"]`"));
    }
    let mut suffixes: BTreeMap<String, &str> = BTreeMap::new();
    for (i, alias) in aliases.iter().enumerate() {
        let path = path.index(i);
        check_name(doc, &path, alias, "database")?;
        match suffixes.insert(alias_suffix(alias), alias) {
            None => {}
            Some(other) if other == alias => {
                return Err(doc.error(&path, format!("names `{alias}` a second time")));
            }
            Some(other) => {
                return Err(doc
                    .error(&path, format!("is `{alias}`, too close to `{other}`"))
                    .detail(format!("both would be `PGSTENCIL_URL_{}` for commands", alias_suffix(alias)))
                    .hint("let them differ in more than case and `-` or `_`"));
            }
        }
    }
    // `--clones N` puts `_0`, `_1` … behind the variables of each alias, and of no alias.
    for (i, alias) in aliases.iter().enumerate() {
        let suffix = alias_suffix(alias);
        let (stem, number) = suffix.rsplit_once('_').unwrap_or(("", &suffix));
        let numbered = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        if numbered && (stem.is_empty() || suffixes.contains_key(stem)) {
            return Err(doc
                .error(&path.index(i), format!("is `{alias}`, which reads like the number of a clone"))
                .detail(format!("`PGSTENCIL_URL_{suffix}` already has a meaning with `--clones`"))
                .hint(format!("call it `db{number}`, say")));
        }
    }
    Ok(())
}

fn check_globs(doc: &Document<'_>, path: &KeyPath, globs: &[String]) -> Result<()> {
    for (i, text) in globs.iter().enumerate() {
        let path = path.index(i);
        let glob = text.strip_prefix('!').unwrap_or(text);
        check_relative(doc, &path, glob)?;
        if let Some(folder) = glob.strip_suffix('/') {
            return Err(doc
                .error(&path, format!("is the directory `{glob}`, but files are wanted"))
                .hint(format!("write `{folder}/**`")));
        }
        GlobBuilder::new(glob)
            .literal_separator(true)
            .build()
            .map_err(|e| {
                doc.error(&path, format!("is `{text}`, which is no glob: {}", e.kind()))
                    .hint("`*` is any part of a name, `**` any directories, `?` one character, `[ab]` and `{a,b}` choices, `!` in front excludes")
            })?;
    }
    if !globs.is_empty() && globs.iter().all(|glob| glob.starts_with('!')) {
        return Err(doc
            .error(path, "only excludes, so it can match nothing")
            .hint("put a glob without `!` in front"));
    }
    Ok(())
}

/// Paths and globs are written from the root, so that they mean the same on every machine.
fn check_relative(doc: &Document<'_>, path: &KeyPath, text: &str) -> Result<()> {
    if text.trim().is_empty() {
        return Err(doc.error(path, "is empty"));
    }
    if text.starts_with('/') || text.starts_with("~/") {
        return Err(doc
            .error(path, format!("is `{text}`, but paths start from the root"))
            .hint("leave out what is above the root; `root` at the top of the file can move it up"));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(doc
            .error(path, format!("is `{text}`, which leaves the root"))
            .hint("`root = \"..\"` at the top of the file moves the root up"));
    }
    if let Some(rest) = text.strip_prefix("./") {
        return Err(doc
            .error(path, format!("is `{text}`, but paths start from the root anyway"))
            .hint(format!("write `{rest}`")));
    }
    Ok(())
}

fn input_lines(doc: &Document<'_>, path: &KeyPath, raw: Vec<RawInputLines>) -> Result<Vec<InputLines>> {
    raw.into_iter()
        .enumerate()
        .map(|(i, lines)| {
            let path = path.index(i);
            check_relative(doc, &path.key("file"), &lines.file)?;
            Regex::new(&lines.matching).map_err(|e| {
                // The last line of the message is the reason; those before draw the place.
                let text = e.to_string();
                let why = text.lines().last().unwrap_or_default();
                let why = why.trim_start_matches("error: ");
                doc.error(&path.key("match"), format!("is no regular expression: {why}"))
                    .hint("in single quotes TOML leaves backslashes alone: `match = '^v\\d'`")
            })?;
            Ok(InputLines { file: lines.file, matching: lines.matching })
        })
        .collect()
}

fn check_variables(doc: &Document<'_>, path: &KeyPath, names: &[String]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (i, name) in names.iter().enumerate() {
        check_variable(doc, &path.index(i), name)?;
        if !seen.insert(name) {
            return Err(doc.error(&path.index(i), format!("names `{name}` a second time")));
        }
    }
    Ok(())
}

/// A variable of `env_inputs` must be one whose value the build sees.
fn check_seen(doc: &Document<'_>, path: &KeyPath, definition: &str, raw: &RawTemplate) -> Result<()> {
    for (i, name) in raw.env_inputs.iter().enumerate() {
        for (table, mapping) in [("env", &raw.env), ("build_env", &raw.build_env)] {
            if mapping.contains_key(name) {
                let why = format!("names `{name}`, but `{table}` of template `{definition}` sets it");
                return Err(doc
                    .error(&path.key("env_inputs").index(i), why)
                    .detail("the key would hold a value that the build never sees")
                    .hint(format!("take it out of `env_inputs`: what `{table}` says is in the key anyway")));
            }
        }
    }
    Ok(())
}

fn check_variable(doc: &Document<'_>, path: &KeyPath, name: &str) -> Result<()> {
    match is_variable(name) {
        true => Ok(()),
        false => Err(doc
            .error(path, format!("is not the name of a variable: `{name}`"))
            .hint("letters, digits and `_`, not a digit first, and no `$`")),
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn after_clone_sql(
    doc: &Document<'_>,
    path: &KeyPath,
    raw: BTreeMap<String, String>,
    aliases: &[String],
) -> Result<BTreeMap<String, String>> {
    for (alias, sql) in &raw {
        let path = path.key(alias);
        if !aliases.contains(alias) {
            let error: Error = doc
                .error(&path, "is for a database that the definition does not have")
                .detail(format!("databases: {}", aliases.join(", ")));
            return Err(match nearest(alias, aliases.iter().map(String::as_str)) {
                Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                None => error,
            });
        }
        SqlTemplate::parse(sql, aliases).map_err(|e| doc.at(&path, e))?;
    }
    Ok(raw.into_iter().filter(|(_, sql)| !sql.trim().is_empty()).collect())
}

fn env(
    doc: &Document<'_>,
    path: &KeyPath,
    raw: BTreeMap<String, String>,
    aliases: &[String],
) -> Result<BTreeMap<String, String>> {
    for (name, value) in &raw {
        let path = path.key(name);
        check_variable(doc, &path, name)?;
        if name.starts_with("PGSTENCIL_") {
            return Err(doc
                .error(&path, "is a variable that pgstencil itself sets")
                .hint("map a variable of another name; `PGSTENCIL_…` are there anyway"));
        }
        EnvTemplate::parse(value, aliases).map_err(|e| doc.at(&path, e))?;
    }
    Ok(raw)
}
