//! What differs between a template and a build of the same inputs.
//!
//! The template is copied for that, since nobody may connect to it. The copies are registered as
//! further databases of the build, so that a crash leaves nothing that the sweep does not find, and
//! are dropped before the seal.

use std::collections::BTreeMap;

use super::Template;
use super::build::{self, Done};
use crate::context::Context;
use crate::drop;
use crate::error::{Error, Result};
use crate::names;
use crate::pg::inventory::{self, Difference, Inventory, Rows};
use crate::pg::replay::Replay;
use crate::pg::session::OpenError;
use crate::pg::{Patience, Session};
use crate::registry::database::{NewDatabase, Owner};
use crate::registry::{DatabaseRow, Registry};

/// What a build made, to be compared.
pub(super) struct Subject<'a> {
    /// Number of its template's row.
    pub(super) id: i64,
    pub(super) rows: &'a [DatabaseRow],
    pub(super) replays: &'a [Replay],
    /// The shapes of its databases, as far as they were taken.
    pub(super) shapes: &'a [Option<String>],
}

/// What a comparison found.
pub(super) struct Compared {
    /// By role; roles that are equal are left out.
    pub(super) differences: Vec<(String, Difference)>,
    /// Whether the rows that were looked at say the same; looked at only where nothing else differs.
    pub(super) same_rows: bool,
}

/// What differs between a template and what was built from nothing, by role.
pub(super) async fn compare(
    registry: &mut Registry,
    context: &Context<'_>,
    done: &Done,
    template: &Template,
) -> Result<Vec<(String, Difference)>> {
    let compared = compare_all(registry, context, &done.subject(), template, None).await?;
    Ok(compared.differences)
}

/// The same, and with `rows` also whether these say the same.
pub(super) async fn compare_all(
    registry: &mut Registry,
    context: &Context<'_>,
    built: &Subject<'_>,
    template: &Template,
    rows: Option<Rows>,
) -> Result<Compared> {
    let owner = Owner::Template(built.id);
    let new: Vec<NewDatabase> = template
        .databases()
        .iter()
        .map(|d| {
            let private_name = names::private_name();
            NewDatabase {
                role: d.role.clone(),
                name: private_name.clone(),
                private_name,
            }
        })
        .collect();
    let all = registry.insert_databases(&owner, &new).await?;
    let mut copies: Vec<DatabaseRow> = all
        .into_iter()
        .filter(|row| new.iter().any(|n| n.private_name == row.private_name))
        .collect();
    let words = format!(
        "pgstencil compares {} of {} here",
        context.definition.name, context.project
    );
    let found = async {
        build::copy_base(registry, context, built.id, &mut copies, template, &words).await?;
        // Databases of a set may hold each other's names, as the build saw them.
        let owner = Owner::Template(template.id);
        let built_as = registry.databases_of(&owner).await?;
        let mut differences = Vec::new();
        for (i, copy) in copies.iter().enumerate() {
            let mut old = read(context, &copy.private_name).await?;
            let mut fresh = read(context, &built.rows[i].private_name).await?;
            for row in copies.iter().chain(&built_as).chain(built.rows) {
                for side in [&mut old, &mut fresh] {
                    side.replace(&row.private_name, &format!("({})", row.role));
                }
            }
            add_properties(&mut old, &template.databases()[i].replay);
            add_properties(&mut fresh, &built.replays[i]);
            let name = format!("template {}", template.fingerprint.short());
            let diff = inventory::diff(&old, &fresh, &name, "built from nothing");
            if !diff.is_empty() {
                differences.push((copy.role.clone(), diff));
            }
        }
        let mut same_rows = true;
        if let Some(rows) = rows.filter(|_| differences.is_empty()) {
            for (copy, fresh) in copies.iter().zip(built.rows) {
                let old = digests(context, &copy.private_name, rows).await?;
                same_rows &= old == digests(context, &fresh.private_name, rows).await?;
            }
        }
        Ok(Compared {
            differences,
            same_rows,
        })
    }
    .await;
    // Also after a failure: what is sealed has the databases of its roles only.
    let stay = drop::drop_rows(registry, &copies).await?;
    match stay.first() {
        Some(why) => {
            Err(Error::failed("a copy made for the comparison cannot be dropped").detail(why))
        }
        None => found,
    }
}

async fn read(context: &Context<'_>, database: &str) -> Result<Inventory> {
    let mut session = open(context, database).await?;
    let inventory = inventory::read(&mut session).await;
    session.close().await;
    inventory
}

async fn digests(
    context: &Context<'_>,
    database: &str,
    rows: Rows,
) -> Result<BTreeMap<String, String>> {
    let mut session = open(context, database).await?;
    let digests = inventory::digests(&mut session, rows).await;
    session.close().await;
    digests
}

async fn open(context: &Context<'_>, database: &str) -> Result<Session> {
    let mut session = Session::open(context.endpoint, database, context.limit)
        .await
        .map_err(|e| match e {
            OpenError::Missing => Error::failed(format!("database `{database}` disappeared")),
            OpenError::Other(e) => e,
        })?;
    session.set_patience(Patience::User);
    Ok(session)
}

/// What belongs to a database but lies outside it: as the build left it, which a copy may lack.
fn add_properties(inventory: &mut Inventory, replay: &Replay) {
    let mut lines = Vec::new();
    if let Some(owner) = &replay.owner {
        lines.push(format!("owner {owner}"));
    }
    for setting in &replay.settings {
        let secret = ["pass", "secret", "token"];
        let name = setting.name.to_lowercase();
        let hidden = secret.iter().any(|word| name.contains(word)) || name.ends_with("key");
        lines.push(format!(
            "setting {}{} = {}",
            match &setting.role {
                Some(role) => format!("of {role} "),
                None => String::new(),
            },
            setting.name,
            if hidden { "hidden" } else { &setting.value }
        ));
    }
    if replay.connection_limit != -1 {
        lines.push(format!("connection limit {}", replay.connection_limit));
    }
    if let Some(comment) = &replay.comment {
        lines.push(format!("comment {comment:?}"));
    }
    for grant in replay.grants.iter().flatten() {
        lines.push(format!(
            "grant {} to {}{}",
            grant.privilege,
            grant.grantee.as_deref().unwrap_or("PUBLIC"),
            if grant.grantable {
                " with grant option"
            } else {
                ""
            }
        ));
    }
    let entry = inventory.entries.entry(DATABASE.into()).or_default();
    entry.retain(|line| !line.starts_with("setting "));
    entry.extend(lines);
    if entry.is_empty() {
        inventory.entries.remove(DATABASE);
    }
}

/// The heading under which the inventory has the database's settings.
pub(super) const DATABASE: &str = "database";
