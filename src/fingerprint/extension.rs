//! Decides whether a template can be built on top of another one.

use std::collections::BTreeMap;
use std::fmt;

use super::difference::{by_path, differing_lines, differing_names, server_changes, side_by_side};
use super::order::{OrderKey, group};
use super::recipe::{FileInput, Recipe, RelPath};
use crate::config::Order;

/// The added migrations that an extension may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Append {
    /// Only migrations that sort after all migrations of the base in their group: `extend = "append"`.
    Sorted,
    /// All migrations: `extend = "always"`.
    Any,
}

/// Decides whether a template of the recipe `new` can be built by running the build command on a template of
/// the recipe `old`, its base. Returns the added migrations, in their order. The list may be empty, if only
/// `rerun_inputs` differ or `companions` were added.
///
/// Everything but `rerun_inputs`, added migrations and added companions must be equal. With
/// [`Append::Sorted`] each added migration must also sort after all migrations of the base in its group, by
/// the rule of `order.rs`. Files of the base without an order do not count for that. An added file without an
/// order is accepted only in a group where the base has no files.
///
/// Takes time linear in the size of both recipes, plus a sort of the added files.
///
/// # Errors
///
/// The first [`Obstacle`]. Equal recipes are an obstacle too: that is a hit and not an extension.
pub(crate) fn extension(old: &Recipe, new: &Recipe, append: Append) -> Result<Vec<RelPath>, Obstacle> {
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
    for pair in side_by_side(&old.companions, &new.companions, by_path) {
        match pair {
            (Some(old), None) => return Err(Obstacle::CompanionGone(old.path.clone())),
            (Some(old), Some(new)) if old != new => {
                return Err(Obstacle::CompanionChanged(new.path.clone()));
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
    if added.is_empty() && old.rerun_inputs == new.rerun_inputs && old.companions == new.companions {
        return Err(Obstacle::Equal);
    }
    let order = new.order;
    let key = |path| OrderKey::new(path, order);
    let mut added: Vec<OrderKey> = added.into_iter().map(key).collect();
    added.sort();
    if append == Append::Sorted {
        check_order(&old.migrations, &added, order)?;
    }
    Ok(added.into_iter().map(|key| key.path().clone()).collect())
}

/// Returns the first difference outside files that forbids an extension.
fn definition_obstacle(old: &Recipe, new: &Recipe) -> Result<(), Obstacle> {
    if old.format != new.format {
        return Err(Obstacle::Format(old.format, new.format));
    }
    if old.build != new.build {
        return Err(Obstacle::Build);
    }
    if old.key != new.key {
        return Err(Obstacle::Key);
    }
    if old.databases != new.databases {
        return Err(Obstacle::Databases);
    }
    if old.order != new.order {
        return Err(Obstacle::Order(old.order, new.order));
    }
    if old.from != new.from {
        return Err(Obstacle::From(old.from.clone(), new.from.clone()));
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
    if let Some(name) = differing_names(&old.mapping, &new.mapping).next() {
        return Err(Obstacle::Mapping(name));
    }
    match differing_names(&old.build_env, &new.build_env).next() {
        Some(name) => Err(Obstacle::BuildEnv(name)),
        None => Ok(()),
    }
}

/// Checks that all of `added` come after the files of the base.
fn check_order(base: &[FileInput], added: &[OrderKey], order: Order) -> Result<(), Obstacle> {
    // The last file of the base in each group that gets new files, if the base has files there.
    let mut last: BTreeMap<&[u8], Option<OrderKey>> =
        added.iter().map(|key| (key.group().as_bytes(), None)).collect();
    for file in base {
        if let Some(last) = last.get_mut(group(&file.path, order)) {
            let key = OrderKey::new(&file.path, order);
            // Files without an order sort first.
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

/// The reason why a template cannot be built on top of another one. `Display` prints one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Nothing differs.
    Equal,
    /// The recipe's encoding: old and new version.
    Format(u32, u32),
    /// The build command.
    Build,
    /// The key under which a program fills the databases.
    Key,
    /// The aliases.
    Databases,
    /// `order`: old and new.
    Order(Order, Order),
    /// The database that builds start from: old and new.
    From(String, String),
    /// A property of the server.
    Server {
        /// Name of the property, as in [`super::Difference::server`].
        property: &'static str,
        /// Value of the base.
        old: String,
        /// Value now.
        new: String,
    },
    /// An entry of `input_lines`, as text.
    Lines(String),
    /// A variable of `env_inputs`.
    Env(String),
    /// A variable of `[template.X.env]`.
    Mapping(String),
    /// A variable of `[template.X.build_env]`.
    BuildEnv(String),
    /// A file of `inputs` that the base lacks.
    InputAdded(RelPath),
    /// A file of `inputs` with other content.
    InputChanged(RelPath),
    /// A file of `inputs` that only the base has.
    InputGone(RelPath),
    /// A file of `companions` with other content.
    CompanionChanged(RelPath),
    /// A file of `companions` that only the base has.
    CompanionGone(RelPath),
    /// A migration with other content.
    MigrationChanged(RelPath),
    /// A migration that only the base has.
    MigrationGone(RelPath),
    /// An added migration sorts before a migration of the base.
    Earlier {
        /// The added migration.
        new: RelPath,
        /// The last migration of the base in the same group.
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

impl Obstacle {
    /// Returns the file whose content differs, if that is the obstacle.
    pub(crate) fn changed(&self) -> Option<&RelPath> {
        match self {
            Obstacle::InputChanged(path)
            | Obstacle::CompanionChanged(path)
            | Obstacle::MigrationChanged(path) => Some(path),
            _ => None,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Equal => write!(f, "nothing differs"),
            Obstacle::Format(old, new) => {
                write!(f, "the format of the fingerprint differs ({old}, {new})")
            }
            Obstacle::Build => write!(f, "the build command differs"),
            Obstacle::Key => write!(f, "the key of the program that fills it differs"),
            Obstacle::Databases => write!(f, "`databases` differs"),
            Obstacle::Order(old, new) => {
                write!(f, "`order` differs ({}, {})", old.as_str(), new.as_str())
            }
            Obstacle::From(old, new) => write!(f, "`from` differs ({old}, {new})"),
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
            Obstacle::BuildEnv(name) => {
                write!(f, "variable `{name}` of the definition's `build_env` differs")
            }
            Obstacle::CompanionChanged(path) => write!(f, "companion `{path}` was changed"),
            Obstacle::CompanionGone(path) => write!(f, "companion `{path}` is gone"),
            Obstacle::InputAdded(path) => write!(f, "input `{path}` is new"),
            Obstacle::InputChanged(path) => write!(f, "input `{path}` was changed"),
            Obstacle::InputGone(path) => write!(f, "input `{path}` is gone"),
            Obstacle::MigrationChanged(path) => write!(f, "migration `{path}` was changed"),
            Obstacle::MigrationGone(path) => write!(f, "migration `{path}` is gone"),
            Obstacle::Earlier { new, old } => {
                write!(f, "new migration `{new}` sorts before `{old}`")
            }
            Obstacle::SameMigration { new, old } => {
                write!(f, "new file `{new}` belongs to the same migration as `{old}`")
            }
            Obstacle::Unordered { new, group } if group.as_bytes().is_empty() => {
                write!(f, "new file `{new}` has no place in the order of the others")
            }
            Obstacle::Unordered { new, group } => {
                write!(f, "new file `{new}` has no place in the order of the files of `{group}`")
            }
        }
    }
}
