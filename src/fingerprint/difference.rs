//! The difference between two recipes.

use std::cmp::Ordering;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::lines::unix_line_ends;
use super::recipe::{EnvInput, FileInput, LinesInput, Recipe, RelPath, ServerTraits};
use crate::config::Order;

#[cfg(test)]
pub(super) mod tests;

/// The difference between two recipes. Lists are sorted, paths by their bytes.
///
/// In JSON each pair of an old and a new value is an object with the keys `old` and `new`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Files of `migrations`.
    pub migrations: FileChanges,
    /// Files of `rerun_inputs`.
    pub rerun_inputs: FileChanges,
    /// Files of `inputs`.
    pub inputs: FileChanges,
    /// Files of `companions`.
    #[serde(skip_serializing_if = "FileChanges::is_empty")]
    pub companions: FileChanges,
    /// Each entry of `input_lines` that was added, was removed, or matches other lines; as text.
    pub lines: Vec<String>,
    /// The same entries, with the old text and the new text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<Texts>,
    /// Names of `env_inputs` that were added, were removed, or have another value.
    pub env: Vec<String>,
    /// Names of `[template.X.env]` that differ.
    pub mapping: Vec<String>,
    /// Names of `[template.X.build_env]` that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub build_env: Vec<String>,
    /// The build command: old and new.
    #[serde(serialize_with = "old_and_new")]
    pub build: Option<(String, String)>,
    /// The key under which a program fills the databases: old and new.
    #[serde(serialize_with = "old_and_new", skip_serializing_if = "Option::is_none")]
    pub key: Option<(Option<String>, Option<String>)>,
    /// The aliases: old and new.
    #[serde(serialize_with = "old_and_new")]
    pub databases: Option<(Vec<String>, Vec<String>)>,
    /// `order`: old and new.
    #[serde(serialize_with = "old_and_new", skip_serializing_if = "Option::is_none")]
    pub order: Option<(Order, Order)>,
    /// The database that builds start from: old and new.
    #[serde(serialize_with = "old_and_new", skip_serializing_if = "Option::is_none")]
    pub from: Option<(String, String)>,
    /// Properties of the server: name, old value, new value. A locale that is not set is the empty string.
    #[serde(serialize_with = "properties")]
    pub server: Vec<(&'static str, String, String)>,
    /// The version of the recipe's encoding: old and new.
    #[serde(serialize_with = "old_and_new")]
    pub format: Option<(u32, u32)>,
}

/// Differences of the files of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileChanges {
    /// Files that only the new recipe has.
    pub added: Vec<RelPath>,
    /// Files that both recipes have, with different content.
    pub changed: Vec<RelPath>,
    /// Files that only the old recipe has.
    pub removed: Vec<RelPath>,
    /// The files of `changed` in which only the line ends differ; empty until [`Difference::find_line_ends`]
    /// was called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub line_ends: Vec<RelPath>,
    /// Files that count as equal by their normal form, and differ in their bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cosmetic: Vec<RelPath>,
}

/// The text that an entry of `input_lines` matched. A list is empty if nothing matched, or if the text was
/// not stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Texts {
    /// The file.
    pub file: String,
    /// The regex.
    #[serde(rename = "match")]
    pub matching: String,
    /// Text in the old recipe.
    pub old: Vec<String>,
    /// Text in the new recipe.
    pub new: Vec<String>,
}

impl FileChanges {
    /// Returns all files that differ, in text form, sorted.
    pub fn paths(&self) -> Vec<String> {
        let all = [&self.added, &self.changed, &self.removed];
        let mut paths: Vec<String> = all.into_iter().flatten().map(ToString::to_string).collect();
        paths.sort();
        paths
    }
}

impl Difference {
    /// Compares two recipes, in time linear in their size.
    pub fn between(old: &Recipe, new: &Recipe) -> Self {
        Difference {
            migrations: FileChanges::between(&old.migrations, &new.migrations),
            rerun_inputs: FileChanges::between(&old.rerun_inputs, &new.rerun_inputs),
            inputs: FileChanges::between(&old.inputs, &new.inputs),
            companions: FileChanges::between(&old.companions, &new.companions),
            texts: differing_texts(&old.lines, &new.lines).collect(),
            lines: differing_lines(&old.lines, &new.lines).collect(),
            env: differing_names(&old.env, &new.env).collect(),
            mapping: differing_names(&old.mapping, &new.mapping).collect(),
            build_env: differing_names(&old.build_env, &new.build_env).collect(),
            order: changed(&old.order, &new.order),
            build: changed(&old.build, &new.build),
            key: changed(&old.key, &new.key),
            databases: changed(&old.databases, &new.databases),
            from: changed(&old.from, &new.from),
            server: server_changes(&old.server, &new.server),
            format: changed(&old.format, &new.format),
        }
    }

    /// Finds the changed files in which only the line ends differ, as between a git checkout with
    /// `core.autocrlf` and one without: their old content is the current content with other line ends. Reads
    /// these files below `root`, and skips files that it cannot read.
    pub fn find_line_ends(&mut self, old: &Recipe, root: &Path) {
        for (changes, old) in [
            (&mut self.migrations, &old.migrations),
            (&mut self.rerun_inputs, &old.rerun_inputs),
            (&mut self.inputs, &old.inputs),
            (&mut self.companions, &old.companions),
        ] {
            let only_line_ends = |path: &&RelPath| {
                let old = old.iter().find(|file| file.path == **path);
                let found = std::fs::read(root.join(path.to_path()));
                old.zip(found.ok()).is_some_and(|(old, found)| differs_in_line_ends(old, &found))
            };
            let found = changes.changed.iter().filter(only_line_ends);
            changes.line_ends = found.cloned().collect();
        }
    }

    /// Returns the changed files of all keys in which only the line ends differ.
    pub fn line_ends(&self) -> impl Iterator<Item = &RelPath> {
        [&self.migrations, &self.rerun_inputs, &self.inputs, &self.companions]
            .into_iter()
            .flat_map(|changes| &changes.line_ends)
    }

    /// Returns the files of all keys that count as equal by their normal form, and differ in their bytes.
    pub fn cosmetic(&self) -> impl Iterator<Item = &RelPath> {
        let lists = [&self.migrations, &self.rerun_inputs, &self.inputs, &self.companions];
        lists.into_iter().flat_map(|changes| &changes.cosmetic)
    }

    /// Returns whether the recipes are equal.
    pub fn is_empty(&self) -> bool {
        let mut counted = self.clone();
        for changes in
            [&mut counted.migrations, &mut counted.rerun_inputs, &mut counted.inputs, &mut counted.companions]
        {
            changes.cosmetic.clear();
        }
        counted == Difference::default()
    }

    /// Returns the number of single differences, to find the most similar of several old recipes.
    ///
    /// Each added migration or companion, and each change of `rerun_inputs`, counts 1. Each other change
    /// forces a full build and counts 2^24, more than all light changes together, which count at most 2^24 -
    /// 1. The sort position of an added migration is not considered: see [`super::extension()`].
    pub fn distance(&self) -> usize {
        const FULL_BUILD: usize = 1 << 24;
        let (migrations, companions) = (&self.migrations, &self.companions);
        let light = migrations.added.len() + companions.added.len() + self.rerun_inputs.len();
        let heavy = migrations.changed.len()
            + migrations.removed.len()
            + companions.changed.len()
            + companions.removed.len()
            + self.inputs.len()
            + self.lines.len()
            + self.env.len()
            + self.mapping.len()
            + self.build_env.len()
            + usize::from(self.order.is_some())
            + self.server.len()
            + usize::from(self.build.is_some())
            + usize::from(self.key.is_some())
            + usize::from(self.databases.is_some())
            + usize::from(self.from.is_some())
            + usize::from(self.format.is_some());
        heavy.saturating_mul(FULL_BUILD).saturating_add(light.min(FULL_BUILD - 1))
    }
}

impl FileChanges {
    fn between(old: &[FileInput], new: &[FileInput]) -> Self {
        let mut changes = FileChanges::default();
        for pair in side_by_side(old, new, by_path) {
            match pair {
                (None, Some(new)) => changes.added.push(new.path.clone()),
                (Some(old), None) => changes.removed.push(old.path.clone()),
                (Some(old), Some(new)) if old != new => changes.changed.push(new.path.clone()),
                (Some(old), Some(new)) if old.is_cosmetic(new) => changes.cosmetic.push(new.path.clone()),
                _ => {}
            }
        }
        changes
    }

    /// Returns whether no file differs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of files that differ.
    pub fn len(&self) -> usize {
        self.added.len() + self.changed.len() + self.removed.len()
    }
}

/// Returns the names of variables that were added, were removed, or have another value.
pub(super) fn differing_names<'a>(
    old: &'a [EnvInput],
    new: &'a [EnvInput],
) -> impl Iterator<Item = String> + 'a {
    side_by_side(old, new, |a, b| a.name.cmp(&b.name))
        .filter(|(old, new)| old != new)
        .filter_map(|(old, new)| old.or(new))
        .map(|variable| variable.name.clone())
}

/// Returns the entries of `input_lines` that were added, were removed, or match other text.
fn differing_entries<'a>(
    old: &'a [LinesInput],
    new: &'a [LinesInput],
) -> impl Iterator<Item = (Option<&'a LinesInput>, Option<&'a LinesInput>)> {
    let by_entry = |a: &LinesInput, b: &LinesInput| (&a.file, &a.matching).cmp(&(&b.file, &b.matching));
    side_by_side(old, new, by_entry).filter(|(old, new)| old != new)
}

/// Describes the same entries as text.
pub(super) fn differing_lines<'a>(
    old: &'a [LinesInput],
    new: &'a [LinesInput],
) -> impl Iterator<Item = String> + 'a {
    differing_entries(old, new)
        .filter_map(|(old, new)| old.or(new))
        .map(|lines| format!("lines of `{}` that match `{}`", lines.file, lines.matching))
}

fn differing_texts<'a>(old: &'a [LinesInput], new: &'a [LinesInput]) -> impl Iterator<Item = Texts> + 'a {
    let text = |lines: Option<&LinesInput>| lines.map_or_else(Vec::new, |l| l.text.clone());
    differing_entries(old, new).filter_map(move |(old, new)| {
        let entry = old.or(new)?;
        Some(Texts {
            file: entry.file.clone(),
            matching: entry.matching.clone(),
            old: text(old),
            new: text(new),
        })
    })
}

/// Returns whether the file has the content `found` but for its line ends.
fn differs_in_line_ends(old: &FileInput, found: &[u8]) -> bool {
    let unix = unix_line_ends(found);
    let windows = || {
        let mut windows = Vec::with_capacity(unix.len());
        for &byte in &unix {
            if byte == b'\n' {
                windows.push(b'\r');
            }
            windows.push(byte);
        }
        windows
    };
    let is_old = |content: &[u8]| {
        content.len() as u64 == old.bytes && blake3::hash(content).to_hex().as_str() == old.hash
    };
    is_old(&unix) || is_old(&windows())
}

pub(super) fn server_changes(old: &ServerTraits, new: &ServerTraits) -> Vec<(&'static str, String, String)> {
    let properties = |traits: &ServerTraits| {
        let ServerTraits { major, encoding, provider, collate, ctype, locale } = traits.clone();
        [
            ("major", major.to_string()),
            ("encoding", encoding),
            ("provider", provider),
            ("collate", collate),
            ("ctype", ctype),
            ("locale", locale.unwrap_or_default()),
        ]
    };
    properties(old)
        .into_iter()
        .zip(properties(new))
        .filter(|(old, new)| old != new)
        .map(|((property, old), (_, new))| (property, old, new))
        .collect()
}

fn changed<T: Clone + PartialEq>(old: &T, new: &T) -> Option<(T, T)> {
    (old != new).then(|| (old.clone(), new.clone()))
}

pub(super) fn by_path(a: &FileInput, b: &FileInput) -> Ordering {
    a.path.cmp(&b.path)
}

/// Walks two sorted lists in parallel: elements that `order` calls equal come as a pair.
pub(super) fn side_by_side<'a, T>(
    mut old: &'a [T],
    mut new: &'a [T],
    order: impl Fn(&T, &T) -> Ordering + 'a,
) -> impl Iterator<Item = (Option<&'a T>, Option<&'a T>)> {
    std::iter::from_fn(move || {
        let which = match (old.first(), new.first()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => order(a, b),
        };
        let a = if which.is_le() { old.split_off_first() } else { None };
        let b = if which.is_ge() { new.split_off_first() } else { None };
        Some((a, b))
    })
}

/// `{"old": …, "new": …}`, or `null`.
fn old_and_new<T: Serialize, S: Serializer>(pair: &Option<(T, T)>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Pair<'a, T> {
        old: &'a T,
        new: &'a T,
    }
    pair.as_ref().map(|(old, new)| Pair { old, new }).serialize(to)
}

/// A list of `{"property": …, "old": …, "new": …}`.
fn properties<S: Serializer>(list: &[(&'static str, String, String)], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Property<'a> {
        property: &'static str,
        old: &'a str,
        new: &'a str,
    }
    to.collect_seq(list.iter().map(|(property, old, new)| Property { property, old, new }))
}
