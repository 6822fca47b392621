//! Reasons why a ready template cannot be used: one list for the look-up, `pin`, `explain` and `doctor`.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::types::Oid;

use crate::config::{Definition, Extend};
use crate::context::Context;
use crate::error::Result;
use crate::events::{Event, Warning};
use crate::names::Fingerprint;
use crate::pg::catalog::{self, BuiltWith, Database};
use crate::quantity::setting;
use crate::registry::database::{Estranged, Owner};
use crate::registry::template::HeldTemplate;
use crate::registry::{DatabaseRow, Registry, TemplateRow};

/// Reason why a ready template cannot be used at all, or not by its definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// The registry knows no database of it.
    Empty,
    /// One of its databases differs from its sealed state.
    Database {
        /// Its name.
        name: String,
        /// The difference.
        fault: DatabaseFault,
    },
    /// Another process found that its source has changed. Contains a description.
    Outdated(String),
    /// The collation library has another version of a collation that its objects use, so its indexes may be
    /// out of order.
    Collation {
        /// Name of the collation.
        name: String,
        /// Its version when the template was built.
        then: String,
        /// Its version now; `None` if the collation is gone.
        now: Option<String>,
    },
    /// Postgres crashed since the template was built, and emptied these unlogged tables.
    Emptied(Vec<String>),
    /// The server would install another version of an extension, or none.
    Extension {
        /// Name of the extension.
        name: String,
        /// Its version when the template was built.
        then: String,
        /// Its version now; `None` if the server does not have it.
        now: Option<String>,
    },
    /// It was built incrementally, and the definition says `extend = "never"`.
    Extended,
    /// It was built incrementally under `extend = "always"`, and the definition says `extend = "append"`.
    ExtendedUnsorted,
    /// Its oldest contents are older than `stale_after`.
    Stale {
        /// Their age.
        age: Duration,
        /// `stale_after`
        limit: Duration,
    },
}

/// Difference between a template's database and its sealed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DatabaseFault {
    /// It does not exist.
    Gone,
    /// A DROP of it was interrupted.
    HalfDropped,
    /// Another role renamed it, marked it or took it over; the change, as far as it is known.
    Changed(Option<Estranged>),
    /// It was made with another version of the collation library.
    CollationLibrary,
    /// It accepts connections, so its contents may have changed.
    Opened,
}

impl fmt::Display for DatabaseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DatabaseFault::Gone => "is gone",
            DatabaseFault::HalfDropped => "was half dropped",
            DatabaseFault::Changed(_) => "was changed outside pgstencil",
            DatabaseFault::CollationLibrary => "was created with another version of the collation library",
            DatabaseFault::Opened => "accepts connections, so its contents may have changed",
        })
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Empty => f.write_str("it has no databases"),
            Unusable::Database { name, fault } => write!(f, "its database `{name}` {fault}"),
            Unusable::Outdated(why) => f.write_str(why),
            Unusable::Collation { name, then, now } => {
                write!(f, "collation `{name}` had version {then} when it was built, and ")?;
                match now {
                    Some(now) => write!(f, "has {now} now"),
                    None => f.write_str("is gone"),
                }
            }
            Unusable::Emptied(tables) => write!(
                f,
                "Postgres has crashed since it was built, which emptied its unlogged tables ({})",
                tables.join(", ")
            ),
            Unusable::Extension { name, then, now: Some(now) } => {
                write!(f, "extension `{name}` had version {then} when it was built, and has {now} now")
            }
            Unusable::Extension { name, now: None, .. } => {
                write!(f, "the server no longer has extension `{name}`")
            }
            Unusable::Extended => f.write_str("it was built incrementally, and `extend` is \"never\""),
            Unusable::ExtendedUnsorted => f.write_str(
                "it was built incrementally under `extend = \"always\"`, and `extend` is \"append\"",
            ),
            Unusable::Stale { age, limit } => write!(
                f,
                "its oldest contents are {} old, and `stale_after` is {}",
                setting(Duration::from_secs(age.as_secs())),
                setting(*limit)
            ),
        }
    }
}

impl Unusable {
    /// Returns all reasons that the registry and the server's list of databases show, the gravest first.
    pub(crate) fn all(held: &HeldTemplate) -> Vec<Self> {
        let HeldTemplate { row, databases, found } = held;
        let mut all: Vec<Self> = databases
            .iter()
            .filter_map(|own| {
                let fault = DatabaseFault::of(own, found)?;
                Some(Unusable::Database { name: own.name.clone(), fault })
            })
            .collect();
        if databases.is_empty() {
            all.push(Unusable::Empty);
        }
        all.extend(row.outdated.clone().map(Unusable::Outdated));
        all.extend(Unusable::by_collation(row));
        if row.emptied {
            all.push(Unusable::Emptied(row.built_with.0.unlogged_tables.clone()));
        }
        all
    }

    /// Returns the first collation whose version has changed.
    pub(crate) fn by_collation(row: &TemplateRow) -> Option<Self> {
        let (name, then, now) = row.other_collation.clone()?.0;
        Some(Unusable::Collation { name, then, now })
    }

    /// Returns the reason from the definition as it is now, if there is one.
    pub(crate) fn by_definition(row: &TemplateRow, definition: &Definition) -> Option<Self> {
        if row.base_fingerprint.is_some() {
            match definition.extend {
                Extend::Never => return Some(Unusable::Extended),
                Extend::Append if row.extend == Extend::Always => {
                    return Some(Unusable::ExtendedUnsorted);
                }
                Extend::Append | Extend::Always => {}
            }
        }
        let limit = (*definition.stale_after)?;
        let age = row.contents_s.duration();
        (age > limit).then_some(Unusable::Stale { age, limit })
    }

    /// Returns the first extension whose version on the server has changed. Another minor version of the server
    /// is fine.
    pub(crate) async fn by_extensions(
        registry: &mut Registry,
        built_with: &BuiltWith,
    ) -> Result<Option<Self>> {
        if built_with.available.is_empty() {
            return Ok(None);
        }
        let names: Vec<String> = built_with.available.keys().cloned().collect();
        let installable = catalog::available_extensions(registry.session(), &names).await?;
        let changed = |(name, then): (&String, &String)| {
            let now = match installable.iter().find(|(n, _)| n == name) {
                None => None,
                Some((_, Some(version))) if version != then => Some(version.clone()),
                Some(_) => return None,
            };
            Some(Unusable::Extension { name: name.clone(), then: then.clone(), now })
        };
        Ok(built_with.available.iter().find_map(changed))
    }

    /// Returns the reason why a ready template cannot be used, if there is one. It is read without the
    /// template's lock, so it may be out of date a moment later.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn look(registry: &mut Registry, row: &TemplateRow) -> Result<Option<Self>> {
        let databases = registry.databases_of(&Owner::Template(row.id)).await?;
        let oids: Vec<Oid> = databases.iter().filter_map(|r| r.oid).collect();
        let found = catalog::databases(registry.session(), &[], &oids).await?;
        let held = HeldTemplate { row: row.clone(), databases, found };
        Unusable::first(registry, &held).await
    }

    /// Returns the gravest reason, if there is one.
    pub(crate) async fn first(registry: &mut Registry, held: &HeldTemplate) -> Result<Option<Self>> {
        match Unusable::all(held).into_iter().next() {
            Some(why) => Ok(Some(why)),
            None => Unusable::by_extensions(registry, &held.row.built_with.0).await,
        }
    }
}

/// Marks a ready template broken, so that no command finds it again, and reports the reason.
///
/// # Errors
/// Errors of the driver.
pub(super) async fn discard(
    registry: &mut Registry,
    context: &Context<'_>,
    id: i64,
    fingerprint: &Fingerprint,
    why: &Unusable,
) -> Result<()> {
    let (short, definition) = (fingerprint.short(), &context.definition.name);
    context.tell(Event::Warning(
        &Warning::new(format!("template {short} of `{definition}` can no longer be used and is discarded"))
            .detail(why.to_string()),
    ));
    registry.break_template(id, &why.to_string(), false).await?;
    Ok(())
}

impl DatabaseFault {
    /// `found`: the template's databases that exist on the server.
    pub(crate) fn of(own: &DatabaseRow, found: &[Database]) -> Option<Self> {
        let Some(database) = found.iter().find(|d| Some(d.oid) == own.oid) else {
            return Some(DatabaseFault::Gone);
        };
        if database.invalid {
            return Some(DatabaseFault::HalfDropped);
        }
        if !own.is(database) || database.name != own.name {
            return Some(DatabaseFault::Changed(own.estranged(std::slice::from_ref(database))));
        }
        if database.collation_mismatch {
            return Some(DatabaseFault::CollationLibrary);
        }
        database.open.then_some(DatabaseFault::Opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_of_a_database_is_told() {
        let own = DatabaseRow {
            id: 1,
            alias: "app".into(),
            private_name: "pgstencil_x".into(),
            name: "tpl".into(),
            nonce: "n".into(),
            oid: Some(Oid(7)),
            state: crate::registry::DatabaseState::Present,
            bytes: None,
            files: None,
            replay: sqlx::types::Json::default(),
        };
        let sound = Database {
            oid: Oid(7),
            name: "tpl".into(),
            comment: Some(own.mark().comment("a template", None)),
            ours: true,
            owner: "me".into(),
            invalid: false,
            open: false,
            is_template: true,
            collation_mismatch: false,
        };
        let of = |found: Database| DatabaseFault::of(&own, &[found]);
        assert_eq!(of(sound.clone()), None);
        assert_eq!(of(Database { oid: Oid(8), ..sound.clone() }), Some(DatabaseFault::Gone));
        let half_dropped = Database { invalid: true, open: true, ..sound.clone() };
        assert_eq!(of(half_dropped), Some(DatabaseFault::HalfDropped));
        let renamed = DatabaseFault::Changed(Some(Estranged::Renamed("mine".into())));
        assert_eq!(of(Database { name: "mine".into(), open: true, ..sound.clone() }), Some(renamed));
        assert_eq!(of(Database { open: true, ..sound }), Some(DatabaseFault::Opened));
        let why = Unusable::Database { name: own.name, fault: DatabaseFault::Gone };
        assert_eq!(why.to_string(), "its database `tpl` is gone");
    }
}
