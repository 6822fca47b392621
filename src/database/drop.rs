//! Drops databases; nothing else does.
//!
//! A database is dropped if its registry row matches name or private name, oid and ownership tag, read again right
//! before, under the lock of the template or clone that it belongs to. Any other database is kept.
//!
//! Statements use names, and a person may give a name to another database at any moment. So a changed database is
//! checked before the change is committed, and a database to drop is first renamed to its private name, which no
//! other database has.

use std::time::Duration;

use sqlx::postgres::types::Oid;

use crate::error::Result;
use crate::pg::catalog::Database;
use crate::pg::lock::LockKey;
use crate::pg::{Deadline, Doing as _, Session, SqlState, catalog, cause, is_connection_loss, sql, sqlstate};
use crate::registry::database::{self, Estranged, Owner, not_dropped};
use crate::registry::{DatabaseRow, DatabaseState, Registry, TemplateRow, TemplateState};

/// Time for the sessions of a database to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Result of the drop of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// It is gone, and so is its row.
    Gone,
    /// It is another user's now and is kept, for this reason; its row is gone.
    Theirs(String),
    /// It is kept until the next cleanup, for this reason.
    Later(String),
}

/// Drops all databases of a template or a clone whose lock the caller holds. Sessions in them are ended: call it
/// only for a discarded template or a released clone. Returns the reasons why some are kept.
///
/// A crash at any point leaves rows in state `dropping`, which the next cleanup continues. An interrupted DROP
/// leaves an invalid database; only another DROP can remove it, and a cleanup runs that.
///
/// # Errors
/// The driver's.
pub(crate) async fn drop_databases_of(registry: &mut Registry, owner: &Owner) -> Result<Vec<String>> {
    let rows = registry.databases_of(owner).await?;
    drop_rows(registry, &rows).await
}

/// Drops some databases of a template or a clone, as [`drop_databases_of`] does with all.
///
/// # Errors
/// The driver's.
pub(crate) async fn drop_rows(registry: &mut Registry, rows: &[DatabaseRow]) -> Result<Vec<String>> {
    let mut stay = Vec::new();
    for row in rows {
        let why = match drop_database(registry, row).await {
            Ok(Dropped::Gone) => continue,
            Ok(Dropped::Later(why) | Dropped::Theirs(why)) => why,
            Err(e) if is_connection_loss(&e) => return Err(e),
            // A database that cannot be dropped must not prevent the drop of the others.
            Err(e) => format!("{e}: {}", cause(&e)),
        };
        let name = match row.state {
            DatabaseState::Present => &row.name,
            DatabaseState::Creating | DatabaseState::Dropping => &row.private_name,
        };
        stay.push(not_dropped(name, why));
    }
    Ok(stay)
}

/// Runs statements on the database of this oid if it has this name after them, else changes nothing. `false`: the
/// name belongs to another database.
async fn change(
    session: &mut Session,
    oid: Oid,
    name: &str,
    statements: impl IntoIterator<Item = sql::Statement>,
) -> std::result::Result<bool, sqlx::Error> {
    session.begin().await?;
    let done = async {
        for statement in statements {
            session.run(statement).await?;
        }
        catalog::stands(session, name, oid).await
    }
    .await;
    match session.end(done).await {
        Ok(_) => Ok(true),
        Err(sqlx::Error::RowNotFound) => Ok(false),
        Err(e) if SqlState::of(&e) == Some(SqlState::INVALID_CATALOG_NAME) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Opens a database to connections, or closes it to new ones. `false`: it has changed its name.
///
/// # Errors
/// The driver's.
pub(crate) async fn set_door(session: &mut Session, found: &Database, open: bool) -> Result<bool> {
    let statements = [sql::allow_connections(&found.name, open)];
    change(session, found.oid, &found.name, statements)
        .await
        .doing(|| format!("change whether database `{}` accepts connections", found.name))
}

/// Withdraws a database from use: closes it to connections, ends its sessions, and gives it its private name, which
/// Postgres does only while no session is in it. Returns why that is not possible now, if it is not. `patience`: time for
/// the sessions to end.
///
/// # Errors
/// The driver's.
pub(crate) async fn withdraw(
    session: &mut Session,
    row: &DatabaseRow,
    found: &Database,
    patience: Duration,
) -> Result<Option<String>> {
    let moved = || Ok(Some("another session is changing it".into()));
    if !found.invalid {
        let unmark = found.is_template.then(|| sql::is_template(&found.name, false));
        let statements = [sql::allow_connections(&found.name, false)].into_iter().chain(unmark);
        let closed = change(session, found.oid, &found.name, statements)
            .await
            .doing(|| format!("close database `{}` before its drop", found.name))?;
        if !closed {
            return moved();
        }
        catalog::end_sessions(session, found.oid).await?;
        let left = catalog::wait_until_empty(session, found.oid, patience, &Deadline::default()).await?;
        if let Some(visitor) = left.first() {
            return Ok(Some(format!("it is in use by {}", visitor.describe())));
        }
    }
    if found.name != row.private_name {
        let rename = [sql::rename_database(&found.name, &row.private_name)];
        let renamed = change(session, found.oid, &row.private_name, rename).await;
        if !renamed.doing(|| format!("rename database `{}` before its drop", found.name))? {
            return moved();
        }
    }
    Ok(None)
}

/// Withdraws the database of a released clone from use, as [`withdraw`] does, and ends its sessions; at once if it has
/// none. Returns it as it was; `None` if that is not possible now, or it is not the clone's any more.
///
/// # Errors
/// The driver's.
pub(crate) async fn withdraw_released(
    session: &mut Session,
    row: &DatabaseRow,
    patience: Duration,
) -> Result<Option<Database>> {
    let (found, visited) = look(session, row).await?;
    let whole = |found: &Database| row.is(found) && !found.is_template && !found.invalid;
    let Some(found) = found.into_iter().find(whole) else {
        return Ok(None);
    };
    // The rename waits for connections that are being made, which then fail, since the old name is gone.
    if !visited && found.name != row.private_name {
        let message = [
            sql::rename_database(&found.name, &row.private_name),
            sql::allow_connections(&row.private_name, false),
            catalog::must_stand(&row.private_name, found.oid),
        ];
        let done = session.send_all(&message).await;
        match done.doing(|| format!("withdraw database `{}`", found.name)) {
            Ok(_) => return Ok(Some(found)),
            Err(error) if is_connection_loss(&error) => return Err(error),
            // A session has connected.
            Err(_) => {}
        }
    }
    let stays = withdraw(session, row, &found, patience).await?;
    Ok(stays.is_none().then_some(found))
}

/// Marks a database as template again. `false`: it has changed its name.
///
/// # Errors
/// The driver's.
pub(crate) async fn set_template(session: &mut Session, found: &Database) -> Result<bool> {
    let statements = [sql::is_template(&found.name, true)];
    change(session, found.oid, &found.name, statements)
        .await
        .doing(|| format!("mark database `{}` as template", found.name))
}

async fn drop_database(registry: &mut Registry, row: &DatabaseRow) -> Result<Dropped> {
    let (found, visited) = look(registry.session(), row).await?;
    let Some(found) = found.iter().find(|d| row.is(d)) else {
        let why = row.estranged(&found);
        if let Some(why @ Estranged::Owner(_)) = &why {
            // Only the privilege is missing, which a later cleanup may have.
            return Ok(Dropped::Later(why.to_string()));
        }
        if let (Some(Estranged::Replaced), Some(other)) = (&why, found.iter().find(|d| d.name == row.name)) {
            registry.note_replaced(other.oid, &other.name).await?;
        }
        // It is gone, or not pgstencil's any more: forget it, and change nothing.
        registry.forget_database(row).await?;
        return Ok(match why {
            Some(why) if why.is_there() => Dropped::Theirs(why.to_string()),
            _ => Dropped::Gone,
        });
    };
    if visited || !withdraw_at_once(registry.session(), row, found).await? {
        registry.mark_dropping(row, found.oid).await?;
        let session = registry.session();
        if let Some(why) = withdraw(session, row, found, PATIENCE).await? {
            return Ok(Dropped::Later(why));
        }
        session.make_uninterruptible().await.doing(|| "prepare a drop".into())?;
    }
    let session = registry.session();
    let dropped = session
        .run(sql::drop_database(&row.private_name))
        .await
        .doing(|| format!("drop database `{}`", found.name));
    let left = match dropped {
        Ok(()) => None,
        Err(e) => match sqlstate(&e) {
            // It disappeared in the meantime.
            Some(SqlState::INVALID_CATALOG_NAME) => None,
            // It is in use, has a subscription or a slot, or a privilege is missing.
            Some(
                SqlState::OBJECT_IN_USE
                | SqlState::INSUFFICIENT_PRIVILEGE
                | SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
            ) => Some(Ok(Dropped::Later(cause(&e)))),
            _ => Some(Err(e)),
        },
    };
    let forget = left.is_none().then(|| database::gone(row));
    let restored = session.send_after_drop(forget.as_slice()).await;
    restored.doing(|| "forget a dropped database".into())?;
    left.unwrap_or(Ok(Dropped::Gone))
}

/// Returns the databases that may be the one of this row, and whether it may have sessions.
async fn look(session: &mut Session, row: &DatabaseRow) -> Result<(Vec<Database>, bool)> {
    let names = [row.private_name.clone(), row.name.clone()];
    let Some(oid) = row.oid else {
        return Ok((catalog::databases(session, &names, &[]).await?, true));
    };
    let doing = || "read the list of databases".to_owned();
    let major = session.facts().major();
    let [found, visited] =
        session.send(catalog::database_and_visits(major, &names, oid)).await.doing(doing)?;
    let (visited,) = visited.one().doing(doing)?;
    Ok((found.read().doing(doing)?, visited))
}

/// Writes the intent to drop a database without sessions, withdraws it from use, and prepares the session for its
/// drop: one message, which changes nothing if any of that is not possible. `false`: it is not.
async fn withdraw_at_once(session: &mut Session, row: &DatabaseRow, found: &Database) -> Result<bool> {
    if found.invalid {
        return Ok(false);
    }
    let mut message = vec![database::dropping(row, found.oid), sql::allow_connections(&found.name, false)];
    message.extend(found.is_template.then(|| sql::is_template(&found.name, false)));
    if found.name != row.private_name {
        message.push(sql::rename_database(&found.name, &row.private_name));
    }
    message.push(catalog::must_stand(&row.private_name, found.oid));
    let done = session.send_before_drop(&message).await;
    match done.doing(|| format!("withdraw database `{}` before its drop", found.name)) {
        Err(error) if is_connection_loss(&error) => Err(error),
        done => Ok(done.is_ok()),
    }
}

/// Result of the drop of a discarded template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OfTemplate {
    /// It is gone.
    Gone,
    /// A process builds, copies or drops it, or it was not discarded after all.
    InUse,
    /// It is kept until the next cleanup, for these reasons.
    Stays(Vec<String>),
}

/// Drops a broken template, the rest of a dead builder's template, or the rest of a template that lost a database,
/// under both of its locks.
///
/// # Errors
/// The driver's.
pub(crate) async fn drop_broken_template(registry: &mut Registry, id: i64, why: &str) -> Result<OfTemplate> {
    let Some(row) = given_up(registry, id).await? else {
        return Ok(OfTemplate::InUse);
    };
    let done = registry
        .with_lock(row.build_key(), async |registry| {
            let template = LockKey::template(id);
            registry.with_lock(template, async |registry| drop_locked_template(registry, id, why).await).await
        })
        .await?;
    Ok(done.flatten().unwrap_or(OfTemplate::InUse))
}

/// Drops all broken templates of a project.
///
/// # Errors
/// The driver's.
pub(crate) async fn drop_broken_templates(registry: &mut Registry, project: &str) -> Result<()> {
    for row in registry.unfinished_templates().await? {
        if row.project == project && row.state == TemplateState::Broken {
            let why = row.reason.as_deref().unwrap_or("it is broken");
            drop_broken_template(registry, row.id, why).await?;
        }
    }
    Ok(())
}

/// Drops warm clones immediately, unless a process claims them in the meantime. Returns the number of dropped
/// clones, and the reasons why some databases are kept.
///
/// # Errors
/// The driver's.
pub(crate) async fn drop_warm(registry: &mut Registry, clones: &[String]) -> Result<(usize, Vec<String>)> {
    let (mut gone, mut stay) = (0, Vec::new());
    for id in clones {
        let done = registry
            .with_lock(LockKey::clone(id), async |registry| {
                if !registry.release_warm(id).await? {
                    return Ok(None);
                }
                let left = drop_databases_of(registry, &Owner::Clone(id.clone())).await?;
                registry.forget_clone(id).await?;
                Ok(Some(left))
            })
            .await?;
        if let Some(left) = done.flatten() {
            gone += 1;
            stay.extend(left);
        }
    }
    Ok((gone, stay))
}

async fn given_up(registry: &mut Registry, id: i64) -> Result<Option<TemplateRow>> {
    let rows = registry.unfinished_templates().await?;
    Ok(rows.into_iter().find(|row| row.id == id))
}

async fn drop_locked_template(registry: &mut Registry, id: i64, why: &str) -> Result<OfTemplate> {
    // Sealed between the check and the locks?
    if given_up(registry, id).await?.is_none() {
        return Ok(OfTemplate::InUse);
    }
    registry.break_template(id, why, false).await?;
    let left = drop_databases_of(registry, &Owner::Template(id)).await?;
    registry.forget_template(id).await?;
    Ok(match left.is_empty() {
        true => OfTemplate::Gone,
        false => OfTemplate::Stays(left),
    })
}
