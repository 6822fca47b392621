//! Whether a template can be built on top of another.

use std::collections::BTreeMap;
use std::fmt;

use super::difference::{by_path, differing_lines, differing_names, server_changes, side_by_side};
use super::order::{OrderKey, group};
use super::recipe::{FileInput, Recipe, RelPath};
use crate::config::Order;

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
/// where only `rerun_inputs` differ, or `companions` are added.
///
/// All but `rerun_inputs`, added migrations and added companions must be equal. With [`Append::Sorted`] each
/// added migration must also sort after all of its group that the base has, by the rule of
/// `order.rs`. Files of the base that have no order do not count there. An added file without order
/// is only taken in a group that the base has no file of.
///
/// Takes time linear in the size of both recipes, and that of a sort of the added files.
///
/// # Errors
///
/// The first [`Obstacle`]. Equal recipes are one too: that is a hit and no extension.
pub fn extension(old: &Recipe, new: &Recipe, append: Append) -> Result<Vec<RelPath>, Obstacle> {
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

/// Whether all of `added` come after the files that the base has.
fn check_order(base: &[FileInput], added: &[OrderKey], order: Order) -> Result<(), Obstacle> {
    // The last file of the base in each group that gets new ones, as far as it has any.
    let mut last: BTreeMap<&[u8], Option<OrderKey>> =
        added.iter().map(|key| (key.group().as_bytes(), None)).collect();
    for file in base {
        if let Some(last) = last.get_mut(group(&file.path, order)) {
            let key = OrderKey::new(&file.path, order);
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
    /// `order`: old and new.
    Order(Order, Order),
    /// The database that builds start from: old and new.
    From(String, String),
    /// A property of the server.
    Server {
        /// As in [`super::Difference::server`].
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

impl Obstacle {
    /// The file whose content differs, if it is that.
    pub fn changed(&self) -> Option<&RelPath> {
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
                write!(f, "new file `{new}` has no order among the others")
            }
            Obstacle::Unordered { new, group } => {
                write!(f, "new file `{new}` has no order among those of `{group}`")
            }
        }
    }
}
