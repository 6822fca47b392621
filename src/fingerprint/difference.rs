//! What lies between two recipes, and whether one can be built on top of the other.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::order::{OrderKey, group};
use super::recipe::{EnvInput, FileInput, LinesInput, Recipe, RelPath, ServerTraits};

#[cfg(test)]
pub(super) mod tests;

/// What tells two recipes apart. Lists are sorted, paths by their bytes.
///
/// As JSON each pair of an old and a new value is an object with the keys `old` and `new`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Files of `migrations`.
    pub migrations: FileChanges,
    /// Files of `rerun_inputs`.
    pub rerun_inputs: FileChanges,
    /// Files of `inputs`.
    pub inputs: FileChanges,
    /// Each entry of `input_lines` that came, went, or finds other lines, in words.
    pub lines: Vec<String>,
    /// Names of `env_inputs` that came, went, or have another value.
    pub env: Vec<String>,
    /// Names of `[template.X.env]`, likewise.
    pub mapping: Vec<String>,
    /// The build command: old and new.
    #[serde(serialize_with = "old_and_new")]
    pub build: Option<(String, String)>,
    /// The roles: old and new.
    #[serde(serialize_with = "old_and_new")]
    pub databases: Option<(Vec<String>, Vec<String>)>,
    /// Properties of the server: name of the property, old and new value. A locale that is not set
    /// is the empty text.
    #[serde(serialize_with = "properties")]
    pub server: Vec<(&'static str, String, String)>,
    /// The version of the recipe's encoding: old and new.
    #[serde(serialize_with = "old_and_new")]
    pub format: Option<(u32, u32)>,
}

/// How the files of one key differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileChanges {
    /// Only in the new recipe.
    pub added: Vec<RelPath>,
    /// In both, with different content.
    pub changed: Vec<RelPath>,
    /// Only in the old recipe.
    pub removed: Vec<RelPath>,
}

impl Difference {
    /// Compares two recipes, in time linear in their size.
    pub fn between(old: &Recipe, new: &Recipe) -> Self {
        Difference {
            migrations: FileChanges::between(&old.migrations, &new.migrations),
            rerun_inputs: FileChanges::between(&old.rerun_inputs, &new.rerun_inputs),
            inputs: FileChanges::between(&old.inputs, &new.inputs),
            lines: differing_lines(&old.lines, &new.lines).collect(),
            env: differing_names(&old.env, &new.env).collect(),
            mapping: differing_names(&old.mapping, &new.mapping).collect(),
            build: changed(&old.build, &new.build),
            databases: changed(&old.databases, &new.databases),
            server: server_changes(&old.server, &new.server),
            format: changed(&old.format, &new.format),
        }
    }

    /// Whether the recipes are equal.
    pub fn is_empty(&self) -> bool {
        *self == Difference::default()
    }

    /// How far the recipes are apart: the number of single differences, to find the nearest of
    /// several old recipes for a new one.
    ///
    /// Added migrations and changes of `rerun_inputs` count 1 each. All else forces a full build and
    /// counts 2^24 each, more than all of those together, which count no more than 2^24 - 1. Where
    /// an added migration sorts is not asked: see [`extension`].
    pub fn distance(&self) -> usize {
        const FULL_BUILD: usize = 1 << 24;
        let FileChanges {
            added,
            changed,
            removed,
        } = &self.migrations;
        let light = added.len() + self.rerun_inputs.len();
        let heavy = changed.len()
            + removed.len()
            + self.inputs.len()
            + self.lines.len()
            + self.env.len()
            + self.mapping.len()
            + self.server.len()
            + usize::from(self.build.is_some())
            + usize::from(self.databases.is_some())
            + usize::from(self.format.is_some());
        heavy
            .saturating_mul(FULL_BUILD)
            .saturating_add(light.min(FULL_BUILD - 1))
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
                _ => {}
            }
        }
        changes
    }

    /// Whether no file differs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many files differ.
    pub fn len(&self) -> usize {
        self.added.len() + self.changed.len() + self.removed.len()
    }
}

/// Which added migrations an extension takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// Those that sort after all that the base has in their group: `extend = "append"`.
    Sorted,
    /// All: `extend = "always"`.
    Any,
}

/// Whether a template of the recipe `new` can be built by running the build command on one of the
/// recipe `old`, its base: returns the migrations that are added, in their order. They may be none,
/// where only `rerun_inputs` differ.
///
/// All but `rerun_inputs` and added migrations must be equal. With [`Append::Sorted`] each
/// added migration must also sort after all of its group that the base has, by the rule of
/// `order.rs`. Files of the base that have no order do not count there. An added file without order
/// is only taken in a group that the base has no file of.
///
/// Takes time linear in the size of both recipes, and that of a sort of the added files.
///
/// # Errors
///
/// The first [`Obstacle`]. Equal recipes are one too: that is a hit and no extension.
pub fn extension(old: &Recipe, new: &Recipe, order: Append) -> Result<Vec<RelPath>, Obstacle> {
    definition_obstacle(old, new)?;
    for pair in side_by_side(&old.inputs, &new.inputs, by_path) {
        match pair {
            (None, Some(new)) => return Err(Obstacle::InputAdded(new.path.clone())),
            (Some(old), None) => return Err(Obstacle::InputGone(old.path.clone())),
            (Some(old), Some(new)) if old != new => {
                return Err(Obstacle::InputChanged(new.path.clone()));
            }
            _ => {}
        }
    }
    let mut added = Vec::new();
    for pair in side_by_side(&old.migrations, &new.migrations, by_path) {
        match pair {
            (None, Some(new)) => added.push(&new.path),
            (Some(old), None) => return Err(Obstacle::MigrationGone(old.path.clone())),
            (Some(old), Some(new)) if old != new => {
                return Err(Obstacle::MigrationChanged(new.path.clone()));
            }
            _ => {}
        }
    }
    if added.is_empty() && old.rerun_inputs == new.rerun_inputs {
        return Err(Obstacle::Equal);
    }
    let mut added: Vec<OrderKey> = added.into_iter().map(OrderKey::new).collect();
    added.sort();
    if order == Append::Sorted {
        check_order(&old.migrations, &added)?;
    }
    Ok(added.into_iter().map(|key| key.path().clone()).collect())
}

/// The first thing apart from files that forbids an extension.
fn definition_obstacle(old: &Recipe, new: &Recipe) -> Result<(), Obstacle> {
    if old.format != new.format {
        return Err(Obstacle::Format(old.format, new.format));
    }
    if old.build != new.build {
        return Err(Obstacle::Build);
    }
    if old.databases != new.databases {
        return Err(Obstacle::Databases);
    }
    let server = server_changes(&old.server, &new.server);
    if let Some((property, old, new)) = server.into_iter().next() {
        return Err(Obstacle::Server { property, old, new });
    }
    if let Some(lines) = differing_lines(&old.lines, &new.lines).next() {
        return Err(Obstacle::Lines(lines));
    }
    if let Some(name) = differing_names(&old.env, &new.env).next() {
        return Err(Obstacle::Env(name));
    }
    match differing_names(&old.mapping, &new.mapping).next() {
        Some(name) => Err(Obstacle::Mapping(name)),
        None => Ok(()),
    }
}

/// Whether all of `added` come after the files that the base has.
fn check_order(base: &[FileInput], added: &[OrderKey]) -> Result<(), Obstacle> {
    // The last file of the base in each group that gets new ones, as far as it has any.
    let mut last: BTreeMap<&[u8], Option<OrderKey>> = added
        .iter()
        .map(|key| (key.group().as_bytes(), None))
        .collect();
    for file in base {
        if let Some(last) = last.get_mut(group(&file.path)) {
            let key = OrderKey::new(&file.path);
            // Those without order sort first.
            if last.as_ref().is_none_or(|last| *last < key) {
                *last = Some(key);
            }
        }
    }
    for key in added {
        let Some(Some(last)) = last.get(key.group().as_bytes()) else {
            continue;
        };
        let new = || key.path().clone();
        if !key.is_ordered() {
            let group = key.group().clone();
            return Err(Obstacle::Unordered { new: new(), group });
        }
        if !last.is_ordered() {
            continue;
        }
        let old = last.path().clone();
        if key.same_migration(last) {
            return Err(Obstacle::SameMigration { new: new(), old });
        }
        if key < last {
            return Err(Obstacle::Earlier { new: new(), old });
        }
    }
    Ok(())
}

/// Why a template cannot be built on top of another. Its text is one line for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Nothing differs.
    Equal,
    /// The recipe's encoding: old and new version.
    Format(u32, u32),
    /// The build command.
    Build,
    /// The roles.
    Databases,
    /// A property of the server.
    Server {
        /// As in [`Difference::server`].
        property: &'static str,
        /// Its value for the base.
        old: String,
        /// Its value now.
        new: String,
    },
    /// An entry of `input_lines`, in words.
    Lines(String),
    /// A variable of `env_inputs`.
    Env(String),
    /// A variable of `[template.X.env]`.
    Mapping(String),
    /// A file of `inputs` that the base lacks.
    InputAdded(RelPath),
    /// A file of `inputs` with other content.
    InputChanged(RelPath),
    /// A file of `inputs` that only the base has.
    InputGone(RelPath),
    /// A migration with other content.
    MigrationChanged(RelPath),
    /// A migration that only the base has.
    MigrationGone(RelPath),
    /// An added migration sorts before one of the base.
    Earlier {
        /// The added one.
        new: RelPath,
        /// The last one of the base in the same group.
        old: RelPath,
    },
    /// An added file belongs to a migration that the base has, which will not run again.
    SameMigration {
        /// The added file.
        new: RelPath,
        /// The file of the base.
        old: RelPath,
    },
    /// An added file has no order, and the base has files in its group.
    Unordered {
        /// The added file.
        new: RelPath,
        /// The group; empty for the root.
        group: RelPath,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Equal => write!(f, "nothing differs"),
            Obstacle::Format(old, new) => {
                write!(f, "the format of the fingerprint differs ({old}, {new})")
            }
            Obstacle::Build => write!(f, "the build command differs"),
            Obstacle::Databases => write!(f, "`databases` differs"),
            Obstacle::Server { property, old, new } => {
                let value = |text: &str| match text {
                    "" => "none".to_owned(),
                    text => text.to_owned(),
                };
                let (old, new) = (value(old), value(new));
                match *property {
                    "major" => write!(f, "the server's major version differs ({old}, {new})"),
                    "encoding" => write!(f, "the server's encoding differs ({old}, {new})"),
                    _ => write!(f, "the server's locale differs ({property}: {old}, {new})"),
                }
            }
            Obstacle::Lines(lines) => write!(f, "{lines} differ"),
            Obstacle::Env(name) => write!(f, "variable `{name}` differs"),
            Obstacle::Mapping(name) => {
                write!(f, "variable `{name}` of the definition's `env` differs")
            }
            Obstacle::InputAdded(path) => write!(f, "input `{path}` is new"),
            Obstacle::InputChanged(path) => write!(f, "input `{path}` was changed"),
            Obstacle::InputGone(path) => write!(f, "input `{path}` is gone"),
            Obstacle::MigrationChanged(path) => write!(f, "migration `{path}` was changed"),
            Obstacle::MigrationGone(path) => write!(f, "migration `{path}` is gone"),
            Obstacle::Earlier { new, old } => {
                write!(f, "new migration `{new}` sorts before `{old}`")
            }
            Obstacle::SameMigration { new, old } => {
                write!(
                    f,
                    "new file `{new}` belongs to the same migration as `{old}`"
                )
            }
            Obstacle::Unordered { new, group } if group.as_bytes().is_empty() => {
                write!(f, "new file `{new}` has no order among those of the root")
            }
            Obstacle::Unordered { new, group } => {
                write!(f, "new file `{new}` has no order among those of `{group}`")
            }
        }
    }
}

/// The names of variables that came, went, or have another value.
fn differing_names<'a>(
    old: &'a [EnvInput],
    new: &'a [EnvInput],
) -> impl Iterator<Item = String> + 'a {
    side_by_side(old, new, |a, b| a.name.cmp(&b.name))
        .filter(|(old, new)| old != new)
        .filter_map(|(old, new)| old.or(new))
        .map(|variable| variable.name.clone())
}

/// The entries of `input_lines` that came, went, or find other lines, in words.
fn differing_lines<'a>(
    old: &'a [LinesInput],
    new: &'a [LinesInput],
) -> impl Iterator<Item = String> + 'a {
    let by_entry =
        |a: &LinesInput, b: &LinesInput| (&a.file, &a.matching).cmp(&(&b.file, &b.matching));
    side_by_side(old, new, by_entry)
        .filter(|(old, new)| old != new)
        .filter_map(|(old, new)| old.or(new))
        .map(|lines| format!("lines of `{}` that match `{}`", lines.file, lines.matching))
}

fn server_changes(old: &ServerTraits, new: &ServerTraits) -> Vec<(&'static str, String, String)> {
    let properties = |traits: &ServerTraits| {
        let ServerTraits {
            major,
            encoding,
            provider,
            collate,
            ctype,
            locale,
        } = traits.clone();
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

fn by_path(a: &FileInput, b: &FileInput) -> Ordering {
    a.path.cmp(&b.path)
}

/// Walks two sorted lists at once: what `order` calls equal comes as a pair.
fn side_by_side<'a, T>(
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
        let a = if which.is_le() {
            old.split_off_first()
        } else {
            None
        };
        let b = if which.is_ge() {
            new.split_off_first()
        } else {
            None
        };
        Some((a, b))
    })
}

/// `{"old": …, "new": …}`, or `null`.
fn old_and_new<T: Serialize, S: Serializer>(
    pair: &Option<(T, T)>,
    to: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Pair<'a, T> {
        old: &'a T,
        new: &'a T,
    }
    pair.as_ref()
        .map(|(old, new)| Pair { old, new })
        .serialize(to)
}

/// A list of `{"property": …, "old": …, "new": …}`.
fn properties<S: Serializer>(
    list: &[(&'static str, String, String)],
    to: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Property<'a> {
        property: &'static str,
        old: &'a str,
        new: &'a str,
    }
    to.collect_seq(
        list.iter()
            .map(|(property, old, new)| Property { property, old, new }),
    )
}
