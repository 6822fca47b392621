//! Lists what a server holds that needs confirmation before the server is stopped or removed.

use super::{Deadline, Endpoint};
use crate::cache_file::{Locale, Packed};
use crate::error::{Kind, Result};
use crate::names::Mark;
use crate::pg::Session;
use crate::pg::checkup::{self, Found};
use crate::pg::session::OpenError;
use crate::private_server::Pruning;
use crate::registry::database::Owner;
use crate::registry::{CloneState, LeaseKind, Registry, TemplateState};

/// Findings of [`holdings`], over all registries of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings {
    /// Descriptions of other processes' commands that hold a clone or build a template.
    pub(crate) under_way: Vec<String>,
    /// Clones whose lease ends in the future or never.
    pub(crate) leased: Vec<Held>,
    /// Pinned templates.
    pub(crate) pinned: Vec<Held>,
    /// Databases that pgstencil did not create.
    pub(crate) foreign: Vec<String>,
    /// Databases that could not be examined, with the reason.
    pub(crate) unread: Vec<String>,
    /// Number of ready templates.
    pub(crate) templates: usize,
    /// Number of clones in use.
    pub(crate) clones: usize,
    /// How each registry is prepared for a cache file.
    pub(crate) prunings: Vec<Pruning>,
    /// The ready templates.
    pub(crate) ready: Vec<Packed>,
    /// The locale of new databases; without a registry it is not known.
    pub(crate) locale: Locale,
}

/// Clone or template that is held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Name of a clone, or the first digits of a template's fingerprint.
    pub(crate) name: String,
    /// Its owner, and until when it is held.
    pub(crate) words: String,
}

/// Examines all databases of a server. Writes nothing.
///
/// # Errors
/// The driver's, if the server cannot be examined. An unreadable registry is not an error.
pub(crate) async fn holdings(endpoint: &Endpoint, deadline: &Deadline) -> Result<Holdings> {
    let mut found = Holdings::default();
    let mut known = Vec::new();
    let mut others = Vec::new();
    for database in databases(endpoint, deadline).await? {
        let system = ["postgres", "template0", "template1"].contains(&database.name.as_str());
        // A database with an ownership tag was created by pgstencil, and is no registry.
        if system || Mark::any_in(database.comment.as_deref()) {
            continue;
        }
        if !database.open || database.invalid {
            others.push(database);
            continue;
        }
        match Registry::open_existing(endpoint, &database.name, deadline).await {
            Ok(Some(mut registry)) => {
                let read = found.add(&mut registry).await;
                registry.close().await;
                match read {
                    Ok(oids) => known.extend(oids),
                    Err(e) => found.unread.push(format!("registry `{}`: {e}", database.name)),
                }
            }
            Ok(None) => others.push(database),
            // Belongs to another role, so its contents are not examined.
            Err(e) if e.kind() == Kind::Permission => others.push(database),
            Err(e) => found.unread.push(format!("database `{}`: {e}", database.name)),
        }
    }
    // A user may have removed the tag from a clone's database.
    others.retain(|database| !known.contains(&database.oid));
    found.foreign = others.into_iter().map(|database| database.name).collect();
    Ok(found)
}

async fn databases(endpoint: &Endpoint, deadline: &Deadline) -> Result<Vec<Found>> {
    let mut last = None;
    for name in endpoint.maintenance() {
        match Session::open(endpoint, name, deadline).await {
            Ok(mut session) => {
                let found = checkup::databases(&mut session).await;
                session.close().await;
                return found;
            }
            Err(OpenError::Missing) => {}
            Err(OpenError::Other(error)) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error),
        None => Ok(Vec::new()),
    }
}

impl Holdings {
    /// Adds the contents of one registry. Returns the oids of all databases that it knows.
    async fn add(&mut self, registry: &mut Registry) -> Result<Vec<sqlx::postgres::types::Oid>> {
        let mut oids = Vec::new();
        let locked = registry.held_locks().await?;
        let traits = registry.facts().traits.clone();
        self.locale = Locale {
            name: traits.locale.unwrap_or(traits.collate),
            provider: traits.provider,
            version: registry.collation_version().await?,
        };
        self.prunings.push(registry.pruning());
        for row in registry.templates().await? {
            let rows = registry.databases_of(&Owner::Template(row.id)).await?;
            oids.extend(rows.iter().filter_map(|d| d.oid));
            let of = format!("{}/{}", row.project, row.definition);
            if row.state == TemplateState::Ready {
                self.templates += 1;
                self.ready.push(Packed {
                    project: row.project.clone(),
                    template: row.definition.clone(),
                    fingerprint: row.fingerprint.to_string(),
                });
            }
            if row.state == TemplateState::Building && locked.contains(&row.build_key()) {
                let builder = row.builder.0.describe();
                self.under_way.push(format!("a build of {of} by {builder}"));
            }
            if row.pinned {
                self.pinned.push(Held { name: row.fingerprint.short(), words: of });
            }
        }
        for row in registry.clones().await? {
            let rows = registry.databases_of(&Owner::Clone(row.id.clone())).await?;
            oids.extend(rows.iter().filter_map(|d| d.oid));
            if row.state != CloneState::Leased {
                continue;
            }
            let is_session = row.lease == LeaseKind::Session;
            let holder = &row.holder.0;
            match (is_session, locked.contains(&row.key())) {
                (true, true) => self.under_way.push(format!(
                    "a command of {} that uses clone `{}`",
                    holder.describe(),
                    row.name
                )),
                // Its holder is dead or its time is over: the next cleanup drops it.
                (true, false) => continue,
                (false, _) if row.expired => continue,
                (false, _) => self.leased.push(Held {
                    words: format!(
                        "{} {}",
                        holder.describe_checkout(),
                        match &row.expires_at {
                            Some(end) => format!("until {end}"),
                            None => "without end".to_owned(),
                        }
                    ),
                    name: row.name,
                }),
            }
            self.clones += 1;
        }
        Ok(oids)
    }
}
