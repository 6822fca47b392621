//! Differences between a template and a build of the same inputs.
//!
//! The comparison uses a copy of the template, since no session may connect to it. The copies are registered as
//! further databases of the build, so that the cleanup finds them after a crash, and are dropped before the
//! seal.

use std::collections::{BTreeMap, BTreeSet};

use super::Template;
use super::build;
use crate::context::Context;
use crate::database::drop;
use crate::error::{Error, Result};
use crate::names;
use crate::pg::inventory::{
    self, Class, Difference, Ignored, Inventory, Line, LineKind, Look, Reading, RowComparison, RowDifference,
    Rows, Window,
};
use crate::pg::replay::Replay;
use crate::pg::session::OpenError;
use crate::pg::{Patience, Session};
use crate::registry::database::{NewDatabase, Owner};
use crate::registry::{DatabaseRow, Registry};
use crate::remote::tools::scratch;

/// Result of a build, to be compared.
pub(super) struct Subject<'a> {
    /// Number of its template's row.
    pub(super) id: i64,
    pub(super) rows: &'a [DatabaseRow],
    pub(super) replays: &'a [Replay],
    /// The shapes of its databases, where they were recorded.
    pub(super) shapes: &'a [Option<String>],
    /// Whether something in them was restored from a dump.
    pub(super) restored: bool,
}

/// Result of a comparison.
pub(super) struct Compared {
    /// Differences by alias; equal aliases are left out.
    pub(super) differences: Vec<(String, Difference)>,
    /// Whether the compared rows are equal; checked only where nothing else differs.
    pub(super) same_rows: bool,
    /// Columns whose rows differ, but were left out since they contain the time of the build.
    pub(super) left_out: Vec<String>,
    /// Entries of `verify_ignore` that name no column.
    pub(super) unknown: Vec<String>,
    /// Objects that the role could not read on either side, and the reasons.
    pub(super) unread: Vec<String>,
}

/// Extent to which rows are compared.
#[derive(Clone, Copy)]
pub(super) enum Depth<'a> {
    /// Number of rows.
    Counts,
    /// Whether the rows are equal, where nothing else differs.
    Same(Rows),
    /// Differences in row contents, except for some columns.
    Contents(&'a Ignored),
}

/// Returns the differences between a template and a full build, by alias.
pub(super) async fn compare(
    registry: &mut Registry,
    context: &Context<'_>,
    built: &Subject<'_>,
    template: &Template,
    depth: Depth<'_>,
) -> Result<Compared> {
    let owner = Owner::Template(built.id);
    let mut copies = new_rows(registry, &owner, template).await?;
    let mut fresh_rows = built.rows.to_vec();
    // With those of the dumps.
    let mut all_copies = copies.clone();
    let words = format!("pgstencil compares {} of {} here", context.definition.name, context.project);
    let found = async {
        let copied = build::copy_base(registry, context, built.id, &mut copies, template, &words).await;
        // With what is known of them now.
        all_copies.clone_from(&copies);
        copied?;
        // Databases of a set may contain each other's names, as the build saw them.
        let (ours, theirs) = (Owner::Template(built.id), Owner::Template(template.id));
        let built_as = registry.databases_of(&theirs).await?;
        let veil = names::private_name();
        let reading = Reading {
            veil: &veil,
            rows: match depth {
                Depth::Contents(ignored) => Some(ignored),
                Depth::Counts | Depth::Same(_) => None,
            },
        };
        let windows = [registry.build_window(template.id).await?, registry.build_window(built.id).await?];
        let mut differences = Vec::new();
        let mut left_out = Vec::new();
        let mut unread = BTreeSet::new();
        let mut contents = Vec::new();
        // A dump does not keep everything, so both sides go through one. A build on a restored base has that already.
        let through_dumps = template.restored && !built.restored && !matches!(depth, Depth::Same(_));
        if through_dumps {
            let mut again = new_rows(registry, &ours, template).await?;
            all_copies.extend(again.iter().cloned());
            through(registry, context, &copies, &mut again).await?;
            copies = again;
            let mut again = new_rows(registry, &ours, template).await?;
            all_copies.extend(again.iter().cloned());
            through(registry, context, built.rows, &mut again).await?;
            fresh_rows = again;
        }
        for (i, copy) in copies.iter().enumerate() {
            let fresh_name = &fresh_rows[i].private_name;
            let mut old = read(context, &copy.private_name, &reading).await?;
            let mut fresh = read(context, fresh_name, &reading).await?;
            for row in copies.iter().chain(&built_as).chain(built.rows).chain(&fresh_rows) {
                for side in [&mut old, &mut fresh] {
                    side.replace(&row.private_name, &format!("({})", row.alias));
                }
            }
            unread.extend(old.unread());
            unread.extend(fresh.unread());
            add_properties(&mut old, &template.databases()[i].replay, &veil);
            add_properties(&mut fresh, &built.replays[i], &veil);
            let name = format!("template {}", template.fingerprint.short());
            let mut diff = inventory::diff(&old, &fresh, &name, "full build");
            if let Some(mut rows) = RowComparison::new(&old.contents, &fresh.contents) {
                let names = [copy.private_name.as_str(), fresh_name];
                let found = compare_rows(context, &mut rows, names, &windows).await?;
                diff.extend(found.changes);
                left_out.extend(found.left_out);
            }
            contents.extend([old.contents, fresh.contents]);
            if matches!(depth, Depth::Same(_)) {
                diff = diff.only(Class::decides);
            }
            if !diff.is_empty() {
                differences.push((copy.alias.clone(), diff));
            }
        }
        let unknown = match depth {
            Depth::Contents(ignored) => ignored.unknown(&contents),
            Depth::Counts | Depth::Same(_) => Vec::new(),
        };
        let mut same_rows = true;
        if let Depth::Same(rows) = depth
            && differences.is_empty()
        {
            for (copy, fresh) in copies.iter().zip(&fresh_rows) {
                let old = digests(context, &copy.private_name, rows).await?;
                same_rows &= old == digests(context, &fresh.private_name, rows).await?;
            }
        }
        Ok(Compared { differences, same_rows, left_out, unknown, unread: unread.into_iter().collect() })
    }
    .await;
    // Also after a failure: a sealed template has one database for each alias, and no others.
    let stay = drop::drop_rows(registry, &all_copies).await?;
    match stay.first() {
        Some(why) => {
            Err(Error::failed("could not drop a database that was created for the comparison").detail(why))
        }
        None => found,
    }
}

/// Returns a table of some databases with a row that has the values of one of `records`, if there is one.
pub(super) async fn recorded_in(
    context: &Context<'_>,
    rows: &[DatabaseRow],
    records: &[Vec<String>],
) -> Result<Option<String>> {
    for row in rows {
        let mut session = open(context, &row.private_name).await?;
        let found = inventory::recorded_in(&mut session, records).await;
        session.close().await;
        if let Some(table) = found? {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Registers further databases of a build, one for each of the template's.
async fn new_rows(registry: &mut Registry, owner: &Owner, template: &Template) -> Result<Vec<DatabaseRow>> {
    let new: Vec<NewDatabase> = template.databases().iter().map(|d| NewDatabase::private(&d.alias)).collect();
    let all = registry.insert_databases(owner, &new).await?;
    Ok(all.into_iter().filter(|row| new.iter().any(|n| n.private_name == row.private_name)).collect())
}

/// Dumps databases, and restores the dumps into new ones.
async fn through(
    registry: &mut Registry,
    context: &Context<'_>,
    from: &[DatabaseRow],
    to: &mut [DatabaseRow],
) -> Result<()> {
    let tools = context.tools.find(registry.facts().major()).await?;
    let scratch = scratch(context.tools.cache.as_deref())?;
    build::create_empty(registry, context, to).await?;
    for (index, (from, to)) in from.iter().zip(to.iter()).enumerate() {
        let file = scratch.path.join(format!("{index}.dump"));
        build::dump(registry, context, &tools, &from.private_name, &file).await?;
        build::restore_one(registry, context, &tools, &to.private_name, &file, true).await?;
    }
    Ok(())
}

async fn read(context: &Context<'_>, database: &str, reading: &Reading<'_>) -> Result<Inventory> {
    let mut session = open(context, database).await?;
    let inventory = inventory::read(&mut session, reading).await;
    session.close().await;
    inventory
}

/// Compares the rows that differ: first those of the template's copy, then those of the full build, since a
/// role's CONNECTION LIMIT may be low.
async fn compare_rows(
    context: &Context<'_>,
    rows: &mut RowComparison<'_>,
    [old, fresh]: [&str; 2],
    [old_window, fresh_window]: &[Window; 2],
) -> Result<RowDifference> {
    let mut session = open(context, fresh).await?;
    let found = rows.find_times(&mut session, fresh_window).await;
    session.close().await;
    found?;
    let mut session = open(context, old).await?;
    let found = rows.find_times(&mut session, old_window).await;
    session.close().await;
    found?;
    let mut looks = [Look::new(), Look::new()];
    loop {
        for (database, look) in [old, fresh].into_iter().zip(&mut looks) {
            let mut session = open(context, database).await?;
            let seen = rows.look(&mut session, look).await;
            session.close().await;
            seen?;
        }
        let difference = rows.judge(&looks[0], &looks[1]);
        if !rows.follow(&difference) {
            return Ok(difference);
        }
    }
}

async fn digests(context: &Context<'_>, database: &str, rows: Rows) -> Result<BTreeMap<String, String>> {
    let mut session = open(context, database).await?;
    let digests = inventory::digests(&mut session, rows).await;
    session.close().await;
    digests
}

async fn open(context: &Context<'_>, database: &str) -> Result<Session> {
    let mut session =
        Session::open(context.endpoint, database, context.deadline).await.map_err(|e| match e {
            OpenError::Missing => Error::failed(format!("database `{database}` disappeared")),
            OpenError::Other(e) => e,
        })?;
    session.set_patience(Patience::User);
    Ok(session)
}

/// Adds the properties that lie outside a database: as the build left them, which a copy may lack.
fn add_properties(inventory: &mut Inventory, replay: &Replay, veil: &str) {
    let mut lines: Vec<(Class, String)> = Vec::new();
    if let Some(owner) = &replay.owner {
        lines.push((Class::Grants, format!("owner {owner}")));
    }
    for setting in &replay.settings {
        let secret = ["pass", "secret", "token"];
        let name = setting.name.to_lowercase();
        let hidden = secret.iter().any(|word| name.contains(word)) || name.ends_with("key");
        let role = match &setting.role {
            Some(role) => format!("of {role} "),
            None => String::new(),
        };
        let value = match hidden {
            true => format!("hidden (digest {})", veiled(veil, &setting.value)),
            false => setting.value.clone(),
        };
        lines.push((Class::Settings, format!("setting {role}{} = {value}", setting.name)));
    }
    if replay.connection_limit != -1 {
        let line = format!("connection limit {}", replay.connection_limit);
        lines.push((Class::Settings, line));
    }
    if let Some(comment) = &replay.comment {
        lines.push((Class::Schema, format!("comment {comment:?}")));
    }
    for (provider, label) in &replay.labels {
        lines.push((Class::Schema, format!("security label of {provider} {label:?}")));
    }
    let withheld = replay.withheld.iter();
    lines.extend(withheld.map(|right| (Class::Grants, format!("revoke {right} from its owner"))));
    match &replay.grants {
        Some(grants) => lines.extend(grants.iter().map(|grant| {
            let grantee = grant.grantee.as_deref().unwrap_or("PUBLIC");
            let option = if grant.grantable { " with grant option" } else { "" };
            (Class::Grants, format!("grant {} to {grantee}{option}", grant.privilege))
        })),
        // The default properties of a database.
        None => lines.extend(
            ["CONNECT", "TEMPORARY"].map(|right| (Class::Grants, format!("grant {right} to PUBLIC"))),
        ),
    }
    let entry = inventory.entries.entry(DATABASE.into()).or_default();
    entry.retain(|line| line.class != Class::Settings);
    entry.extend(lines.into_iter().map(|(class, text)| Line { class, kind: LineKind::Plain, text }));
}

/// Returns the replacement for a secret: equal for equal secrets and veils.
fn veiled(veil: &str, value: &str) -> String {
    let digest = blake3::hash(format!("{veil}{value}").as_bytes());
    digest.to_hex()[..8].to_owned()
}

/// Heading of the database's settings in the inventory.
pub(super) const DATABASE: &str = "database";
