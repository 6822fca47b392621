//! From the tables of a file to a checked [`Config`]: what one value alone cannot show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::document::{Document, KeyPath};
use super::model::{File, Places};
use super::nearest::nearest;
use super::placeholder::{EnvTemplate, SqlTemplate};
use super::schema::{SCHEMA, TEMPLATE};
use super::value::{Alias, Form, Glob, NO_SQL, check_name, check_variable};
use super::{Config, Definition, MAX_NAME, MINIMAL, Normalize, Origin, VERSION, alias_suffix};
use crate::error::{Error, Result};
use crate::git::Tree;
use crate::names::folded;

/// Checks everything that the types of the raw structs do not. `directory` is the file's.
pub(super) fn config(doc: &Document<'_>, tables: File, file: &Path, folder: &Path) -> Result<Config> {
    let top = KeyPath::default();
    let root = match &tables.root {
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
    let project = match &tables.project {
        Some(given) => project(doc, &top.key("project"), given)?,
        None => default_project(doc, &root)?,
    };
    if tables.template.is_empty() {
        return Err(doc
            .whole("no `[template.NAME]`: there is nothing to build")
            .hint(format!("add a definition:\n{MINIMAL}")));
    }
    let File { file_cache, mut server, mut clone, eviction, remote, template, .. } = tables;
    if let Some(bindir) = &mut server.bindir {
        if bindir.to_string_lossy().trim().is_empty() {
            return Err(doc
                .error(&top.key("server").key("bindir"), "is empty")
                .hint("leave the key out to let pgstencil find one"));
        }
        *bindir = root.join(&*bindir);
    }
    // None at all is a wish of its own; otherwise the depth grows from `warm` on.
    clone.warm_max = match clone.warm {
        0 => 0,
        warm => clone.warm_max.max(warm),
    };
    let definitions = template
        .into_iter()
        .map(|(name, read)| definition(doc, &top.key(TEMPLATE).key(&name), name, read))
        .collect::<Result<_>>()?;
    Ok(Config {
        project,
        file: file.to_owned(),
        origin: Origin::Named,
        root,
        file_cache,
        server,
        definitions,
        clone,
        eviction,
        remote,
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
            .whole(format!("the root directory `{}` has no name for the project", root.display()))
            .hint("add `project = \"NAME\"` at the top of the file")),
    }
}

fn has_word(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

fn definition(doc: &Document<'_>, path: &KeyPath, name: String, mut read: Definition) -> Result<Definition> {
    check_name(&name, "a definition").map_err(|why| doc.refused(path, why))?;
    let build = path.key("build");
    if !doc.has(&build) {
        let about =
            SCHEMA["properties"][TEMPLATE]["additionalProperties"]["properties"]["build"]["description"]
                .as_str();
        return Err(doc.error(&build, "is missing").detail(format!("build: {}", about.unwrap_or_default())));
    }
    if read.build.trim().is_empty() {
        return Err(doc
            .error(&build, "is empty")
            .hint("give your migrate command, such as `sqlx migrate run`"));
    }
    let globs = [
        ("migrations", &read.migrations),
        ("companions", &read.companions),
        ("rerun_inputs", &read.rerun_inputs),
        ("inputs", &read.inputs),
    ];
    if globs.iter().all(|(_, globs)| globs.is_empty()) && read.input_lines.is_empty() {
        return Err(doc
            .error(path, "has no inputs, so its template would never be rebuilt")
            .hint("name the migrations: `migrations = [\"migrations/**/*.sql\"]`"));
    }
    for (key, globs) in globs {
        check_globs(doc, &path.key(key), globs)?;
    }
    check_build_until(doc, path, &read)?;
    check_normalize(doc, &path.key("normalize"), &read)?;
    check_env_inputs(doc, path, &name, &read)?;
    let aliases = check_aliases(doc, &path.key("databases"), &read.databases)?;
    after_clone_sql(doc, &path.key("after_clone_sql"), &mut read.after_clone_sql, &aliases)?;
    for (key, variables) in [("env", &read.env), ("build_env", &read.build_env), ("run_env", &read.run_env)] {
        env(doc, &path.key(key), variables, &aliases)?;
    }
    let counts = globs_and_lines(&read);
    let places = counts.into_iter().flat_map(|(key, count)| (0..count).map(move |index| (key, index)));
    let place =
        |(key, index): (&'static str, usize)| ((key, index), doc.place_of(&path.key(key).index(index)));
    read.places = Places(places.map(place).collect());
    Ok(Definition { name, ..read })
}

/// The keys whose entries are read only when a command reads the files, and the number of their entries.
fn globs_and_lines(read: &Definition) -> [(&'static str, usize); 6] {
    [
        ("migrations", read.migrations.len()),
        ("companions", read.companions.len()),
        ("rerun_inputs", read.rerun_inputs.len()),
        ("inputs", read.inputs.len()),
        ("input_lines", read.input_lines.len()),
        ("normalize", read.normalize.len()),
    ]
}

fn check_aliases(doc: &Document<'_>, path: &KeyPath, aliases: &[Alias]) -> Result<Vec<String>> {
    if aliases.is_empty() {
        return Err(doc
            .error(path, "is empty")
            .hint("name at least one database, or leave the key out for `[\"app\"]`"));
    }
    let mut suffixes: BTreeMap<String, &Alias> = BTreeMap::new();
    for (i, alias) in aliases.iter().enumerate() {
        let path = path.index(i);
        match suffixes.insert(alias_suffix(alias), alias) {
            None => {}
            Some(other) if other == alias => {
                return Err(doc.error(&path, format!("names `{alias}` a second time")));
            }
            Some(other) => {
                return Err(doc
                    .error(&path, format!("is `{alias}`, which is too similar to `{other}`"))
                    .detail(format!("both would be `PGSTENCIL_URL_{}` for commands", alias_suffix(alias)))
                    .hint("choose aliases that differ in more than case, `-` and `_`"));
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
                .error(&path.index(i), format!("is `{alias}`, which looks like the number of a clone"))
                .detail(format!("`PGSTENCIL_URL_{suffix}` already has a meaning with `--clones`"))
                .hint(format!("use another alias, such as `db{number}`")));
        }
    }
    Ok(aliases.iter().map(ToString::to_string).collect())
}

fn check_globs(doc: &Document<'_>, path: &KeyPath, globs: &[Glob]) -> Result<()> {
    match !globs.is_empty() && globs.iter().all(|glob| glob.starts_with('!')) {
        false => Ok(()),
        true => Err(doc
            .error(path, "only excludes, so it can match nothing")
            .hint("put a glob without `!` in front")),
    }
}

/// Without the version it would build everything.
fn check_build_until(doc: &Document<'_>, path: &KeyPath, read: &Definition) -> Result<()> {
    match read.build_until.as_deref() {
        Some(command) if !command.contains(VERSION) => Err(doc
            .error(&path.key("build_until"), format!("has no `{VERSION}`, so it would not stop"))
            .hint(format!("write it like `sqlx migrate run --target-version {VERSION}`"))),
        _ => Ok(()),
    }
}

/// Only files that are Python by their name can count by the normal form of Python: another language may happen to
/// consist of the same tokens.
fn check_normalize(doc: &Document<'_>, path: &KeyPath, read: &Definition) -> Result<()> {
    for (i, Normalize { files, form: Form::Python }) in read.normalize.iter().enumerate() {
        let path = path.index(i).key("files");
        if files.starts_with('!') {
            return Err(doc
                .error(&path, format!("is `{files}`, which excludes"))
                .hint("name the files that count by their normal form"));
        }
        if files.ends_with(".sql") {
            let error = doc.error(&path, format!("is `{files}`, and SQL files have no normal form"));
            return Err(NO_SQL.into_iter().fold(error, Error::detail));
        }
        if !files.ends_with(".py") {
            return Err(doc
                .error(&path, format!("is `{files}`, which does not end in `.py`"))
                .hint("name only Python files, as in `**/migrations/*.py`"));
        }
    }
    Ok(())
}

/// A variable of `env_inputs` must be one whose value the build sees, and stands there once.
fn check_env_inputs(doc: &Document<'_>, path: &KeyPath, definition: &str, read: &Definition) -> Result<()> {
    let path = path.key("env_inputs");
    let mut seen = BTreeSet::new();
    for (i, name) in read.env_inputs.iter().enumerate() {
        if !seen.insert(name) {
            return Err(doc.error(&path.index(i), format!("names `{name}` a second time")));
        }
        for (table, mapping) in [("env", &read.env), ("build_env", &read.build_env)] {
            if mapping.contains_key(&**name) {
                let why = format!("names `{name}`, but `{table}` of template `{definition}` sets it");
                return Err(doc
                    .error(&path.index(i), why)
                    .detail("the fingerprint would contain a value that the build never sees")
                    .hint(format!(
                        "remove it from `env_inputs`: the fingerprint contains the values of `{table}` anyway"
                    )));
            }
        }
    }
    Ok(())
}

fn after_clone_sql(
    doc: &Document<'_>,
    path: &KeyPath,
    statements: &mut BTreeMap<String, String>,
    aliases: &[String],
) -> Result<()> {
    for (alias, sql) in &*statements {
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
    statements.retain(|_, sql| !sql.trim().is_empty());
    Ok(())
}

fn env(
    doc: &Document<'_>,
    path: &KeyPath,
    variables: &BTreeMap<String, String>,
    aliases: &[String],
) -> Result<()> {
    for (name, value) in variables {
        let path = path.key(name);
        check_variable(name).map_err(|why| doc.refused(&path, why))?;
        if name.starts_with("PGSTENCIL_") {
            return Err(doc
                .error(&path, "is a variable that pgstencil itself sets")
                .hint("map a variable of another name; pgstencil always sets the `PGSTENCIL_…` variables"));
        }
        EnvTemplate::parse(value, aliases).map_err(|e| doc.at(&path, e))?;
    }
    Ok(())
}
