//! The only place that drops databases.
//!
//! A database is dropped if its registry row matches name or private name, oid and mark, read again
//! right before, under the lock of the template or clone that it belongs to. Anything else stays.

use std::time::Duration;

use sqlx::postgres::types::Oid;

use crate::error::Result;
use crate::pg::{Doing as _, Limit, catalog, cause, sql, sqlstate};
use crate::registry::database::Owner;
use crate::registry::{DatabaseRow, Registry};

/// How the drop of one database ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It is gone, and so is its row.
    Gone,
    /// It stays until the next sweep, for this reason.
    Later(String),
}

/// Drops all databases of a template or a clone whose lock the caller holds. Sessions in them are
/// ended: call it only for what was given up. Returns the reasons why some stay.
///
/// A crash at any point leaves rows in state `dropping`, which the next sweep takes up; an
/// interrupted DROP leaves an invalid database, which only a DROP can end, and gets one.
///
/// # Errors
/// The driver's.
pub async fn drop_databases_of(registry: &mut Registry, owner: &Owner) -> Result<Vec<String>> {
    let mut stay = Vec::new();
    for row in registry.databases_of(owner).await? {
        if let Dropped::Later(why) = drop_database(registry, &row).await? {
            let name = match row.state.as_str() {
                "present" => &row.name,
                _ => &row.private_name,
            };
            stay.push(format!("database `{name}` stays: {why}"));
        }
    }
    Ok(stay)
}

async fn drop_database(registry: &mut Registry, row: &DatabaseRow) -> Result<Dropped> {
    let names = [row.private_name.clone(), row.name.clone()];
    let oids: Vec<Oid> = row.oid.into_iter().collect();
    let found = catalog::databases(registry.session(), &names, &oids).await?;
    let Some(found) = found.iter().find(|d| row.is(d)) else {
        // Gone, or something of that name that is not ours: forget it, and touch nothing.
        registry.forget_database(row).await?;
        return Ok(match found.iter().find(|d| d.name == row.private_name) {
            Some(other) => Dropped::Later(format!("it belongs to role `{}`", other.owner)),
            None => Dropped::Gone,
        });
    };
    registry.mark_dropping(row).await?;
    let session = registry.session();
    if !found.invalid {
        let doing = || format!("close database `{}` before its drop", found.name);
        if found.is_template {
            session
                .run(sql::is_template(&found.name, false))
                .await
                .doing(doing)?;
        }
        session
            .run(sql::allow_connections(&found.name, false))
            .await
            .doing(doing)?;
        catalog::end_sessions(session, found.oid).await?;
        let left = catalog::wait_until_empty(
            session,
            found.oid,
            Duration::from_secs(5),
            &Limit::default(),
        )
        .await?;
        if let Some(visitor) = left.first() {
            return Ok(Dropped::Later(format!(
                "it is in use by {}",
                visitor.describe()
            )));
        }
    }
    session
        .make_uninterruptible()
        .await
        .doing(|| "prepare for a drop".into())?;
    let dropped = session
        .run(sql::drop_database(&found.name))
        .await
        .doing(|| format!("drop database `{}`", found.name));
    session
        .make_interruptible()
        .await
        .doing(|| "go on after a drop".into())?;
    match dropped {
        Ok(()) => {}
        Err(e) => match sqlstate(&e).as_deref() {
            // Gone meanwhile.
            Some("3D000") => {}
            // In use, a subscription or a slot in it, or a right is missing.
            Some("55006" | "42501" | "2BP01") => return Ok(Dropped::Later(cause(&e))),
            _ => return Err(e),
        },
    }
    registry.forget_database(row).await?;
    Ok(Dropped::Gone)
}
