//! The config that a preset writes for a tree.

use std::collections::BTreeMap;

use regex::{Captures, Regex};
use std::sync::LazyLock;

use super::Presets;
use super::file::{Glob, Preset, Source, Value};
use super::tree::{Tree, directory};

/// Config for a project, with what else `init` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Text of `pgstencil.toml`.
    pub(crate) text: String,
    /// Remarks.
    pub(crate) notes: Vec<String>,
    /// The command to try next.
    pub(crate) next: String,
}

/// Where a config is written without anything that says what the tests are.
const NEXT: &str = "pgstencil run -- psql -c '\\dt'";

/// Returns the config of `preset` for the project in the directory `site` of `tree`.
pub(crate) fn write(presets: &Presets, preset: &Preset, tree: &Tree, site: &str) -> Written {
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    for value in presets.shared.iter().chain(&preset.value) {
        if let Some(text) = value.find(tree, site, &values) {
            values.insert(&value.name, text);
        }
    }
    let name = &preset.name;
    let mut text = format!("# For {}, written by `pgstencil init --preset {name}`.\n", preset.title);
    text += "# `pgstencil config schema` describes every key.\n\n";
    if !site.is_empty() {
        text += &format!("root = \"{site}\"   # globs and commands start from here\n\n");
    }
    let lines = preset.config.trim_matches('\n').lines().filter_map(|line| line_of(line, &values));
    text += &without_empty_tables(last_of_each_key(lines.collect()));
    let notes = preset.notes.iter().filter_map(|note| fill(note, &values)).collect();
    let next = preset.next.as_ref().and_then(|next| fill(next, &values));
    Written { text, notes, next: next.unwrap_or_else(|| NEXT.to_owned()) }
}

fn expression(text: &str) -> Regex {
    // Both are below, and every preset uses them.
    Regex::new(text).unwrap_or_else(|e| unreachable!("{e}"))
}

/// A value in a text: `<migrations>`.
static NAME: LazyLock<Regex> = LazyLock::new(|| expression("<([a-z][a-z_0-9]*)>"));
/// The texts that a value may have. It becomes part of a glob, of a command of the shell and of a string of TOML.
static PLAIN: LazyLock<Regex> = LazyLock::new(|| expression(r"^[\w.@+][\w./@+ -]*$"));

/// Fills in the values; `None` if one of them is unknown.
fn fill(text: &str, values: &BTreeMap<&str, String>) -> Option<String> {
    let known = NAME.captures_iter(text).all(|found| values.contains_key(&found[1]));
    let value = |found: &Captures<'_>| values.get(&found[1]).cloned().unwrap_or_default();
    known.then(|| NAME.replace_all(text, value).into_owned())
}

/// A key with a list of strings, and what follows.
static LIST: LazyLock<Regex> = LazyLock::new(|| expression(r#"^(\w+ = \[)((?:"[^"]*"(?:, )?)+)(\].*)$"#));

/// Fills in the values of a line; of a list, an entry whose value is unknown is left out. `None`: nothing is left.
fn line_of(line: &str, values: &BTreeMap<&str, String>) -> Option<String> {
    let Some(list) = LIST.captures(line) else {
        return fill(line, values).map(|line| line.trim_end().to_owned());
    };
    let entries: Vec<String> = list[2].split(", ").filter_map(|entry| fill(entry, values)).collect();
    let filled = format!("{}{}{}", &list[1], entries.join(", "), &list[3]);
    (!entries.is_empty()).then_some(filled)
}

/// Of several lines with one key in a table, keeps the last: a preset has the special form after the usual one.
fn last_of_each_key(lines: Vec<String>) -> Vec<String> {
    fn key(line: &str) -> Option<&str> {
        line.split_once(" = ").map(|(key, _)| key).filter(|key| !key.contains([' ', '#']))
    }
    let mut kept: Vec<String> = Vec::new();
    for line in lines {
        let table = kept.iter().rposition(|above| above.starts_with('[')).unwrap_or_default();
        let same = |above: &String| key(above).is_some() && key(above) == key(&line);
        if let Some(at) = kept[table..].iter().position(same) {
            kept.remove(table + at);
        }
        kept.push(line);
    }
    kept
}

/// Joins lines, without a table in which no key is left and without the comment above it.
fn without_empty_tables(lines: Vec<String>) -> String {
    let mut kept: Vec<String> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let mut rest = lines[at + 1..].iter().take_while(|line| !line.starts_with('['));
        if line.starts_with('[') && !rest.any(|line| line.contains(" = ") && !line.starts_with('#')) {
            while kept.last().is_some_and(|above| above.starts_with('#') || above.is_empty()) {
                kept.pop();
            }
            continue;
        }
        kept.push(line.clone());
    }
    while kept.last().is_some_and(String::is_empty) {
        kept.pop();
    }
    kept.join("\n") + "\n"
}

impl Value {
    fn find(&self, tree: &Tree, site: &str, values: &BTreeMap<&str, String>) -> Option<String> {
        for source in &self.first {
            match source.find(tree, site, values) {
                Some(_) if source.none => return None,
                Some(text) => return Some(text),
                None => {}
            }
        }
        fill(self.otherwise.as_ref()?, values)
    }
}

impl Source {
    fn find(&self, tree: &Tree, site: &str, values: &BTreeMap<&str, String>) -> Option<String> {
        let glob = Glob::new(&fill(&self.file, values)?).ok()?;
        let mut at = site;
        loop {
            let mut files = tree.below(at).filter(|(_, path)| glob.is_match(path));
            if let Some(text) = files.find_map(|(file, path)| self.take(tree, file, path, values)) {
                return Some(text);
            }
            if !self.above || at.is_empty() {
                return None;
            }
            at = directory(at);
        }
    }

    fn take(&self, tree: &Tree, file: &str, path: &str, values: &BTreeMap<&str, String>) -> Option<String> {
        let mut text = self.value.clone();
        if let Some(matching) = &self.matching {
            let content = tree.text(file);
            let found = matching.0.captures(&content)?;
            let default = if found.len() > 1 { "$1" } else { "{path}" };
            let mut expanded = String::new();
            found.expand(text.as_deref().unwrap_or(default), &mut expanded);
            text = Some(expanded);
        }
        let mut text = text.unwrap_or_else(|| "{path}".to_owned());
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        let ext = name.rsplit_once('.').map_or("", |(_, ext)| ext);
        // Of a file in the site itself.
        if directory(path).is_empty() {
            text = text.replace("{dir}/", "");
        }
        for (part, value) in [
            ("{path}", path),
            ("{dir}", directory(path)),
            ("{up}", directory(directory(path))),
            ("{name}", name),
            ("{ext}", ext),
        ] {
            text = text.replace(part, value);
        }
        text = fill(&text, values)?;
        if self.dotted {
            text = text.replace('.', "/");
        }
        let text = text.trim_start_matches("./").trim_end_matches('/');
        let plain = PLAIN.is_match(text) && !text.split('/').any(|part| part == "..");
        plain.then(|| text.to_owned())
    }
}

/// Returns whether a text still has the form of a value in it.
#[cfg(test)]
pub(super) fn has_values(text: &str) -> bool {
    NAME.is_match(text)
}
