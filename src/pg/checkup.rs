//! The server's settings, the role's privileges and the load, for `doctor`. Only reads.

use std::collections::BTreeMap;

use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use super::{Doing as _, Session, sql};
use crate::error::Result;

/// Settings by name, in their base units, as far as the role may see them.
pub(crate) type Settings = BTreeMap<String, String>;

/// The privileges of pgstencil's role.
#[derive(Clone, Copy, Debug, FromRow)]
pub(crate) struct Rights {
    /// SUPERUSER
    pub(crate) superuser: bool,
    /// CREATEDB, or superuser.
    pub(crate) create: bool,
    /// Whether it may end sessions of other roles.
    pub(crate) signal: bool,
}

/// The load of the server.
#[derive(Clone, Copy, Debug, FromRow)]
pub(crate) struct Load {
    /// Number of client sessions, including pgstencil's.
    pub(crate) sessions: i64,
}

/// A database of the server, with the facts that matter here.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Found {
    /// OID of the database.
    pub(crate) oid: Oid,
    /// Name of the database.
    pub(crate) name: String,
    /// Whether pgstencil's role owns it or can become its owner.
    pub(crate) ours: bool,
    /// Whether a DROP of it was interrupted.
    pub(crate) invalid: bool,
    /// Whether it accepts connections.
    pub(crate) open: bool,
    /// Whether it is marked IS_TEMPLATE.
    pub(crate) template: bool,
    /// Whether only roles with a grant may connect, as to every registry.
    pub(crate) private: bool,
    /// The comment, which contains the ownership tag.
    pub(crate) comment: Option<String>,
}

const SETTINGS: &str = "SELECT name, setting FROM pg_settings WHERE setting IS NOT NULL AND name IN \
     ('fsync', 'wal_level', 'wal_compression', 'shared_buffers', 'max_connections', \
      'max_locks_per_transaction', 'max_prepared_transactions', 'data_directory', 'file_copy_method')";
const RIGHTS: &str = "SELECT rolsuper AS superuser, rolsuper OR rolcreatedb AS create, \
     rolsuper OR pg_has_role(oid, 'pg_signal_backend', 'MEMBER') AS signal \
     FROM pg_roles WHERE rolname = current_user";
// `backend_type` is hidden from ordinary roles; a process without a role is not a client.
const LOAD: &str = "SELECT count(*) AS sessions FROM pg_stat_activity WHERE usesysid IS NOT NULL";
const DATABASES: &str = "SELECT oid, datname::text AS name, pg_has_role(datdba, 'MEMBER') AS ours, \
     datconnlimit = -2 AS invalid, datallowconn AS open, datistemplate AS template, \
     NOT EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) a \
     WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT') AS private, shobj_description(oid, 'pg_database') AS comment \
     FROM pg_database ORDER BY datname";
/// Directories of databases without a row, which a killed server left. The directory of a running CREATE
/// looks the same, so they only count while no such statement is running.
const ORPHANS: &str = "SELECT d FROM pg_ls_dir('base') d WHERE d ~ '^[0-9]+$' \
     AND NOT EXISTS (SELECT FROM pg_database WHERE oid = d::oid) \
     AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE query ILIKE 'create database%' AND state = 'active') \
     ORDER BY 1";

/// Returns the settings that matter for copies.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn settings(session: &mut Session) -> Result<Settings> {
    let rows: Vec<(String, String)> =
        session.rows(sql::fill(SETTINGS, &[])).await.doing(|| "read the server's settings".into())?;
    Ok(rows.into_iter().collect())
}

/// Returns the privileges of pgstencil's role.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn rights(session: &mut Session) -> Result<Rights> {
    session.one(sql::fill(RIGHTS, &[])).await.doing(|| "read the role's privileges".into())
}

/// Returns the load of the server.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn load(session: &mut Session) -> Result<Load> {
    session.one(sql::fill(LOAD, &[])).await.doing(|| "count the sessions".into())
}

/// Returns all databases of the server.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn databases(session: &mut Session) -> Result<Vec<Found>> {
    session.rows(sql::fill(DATABASES, &[])).await.doing(|| "read the list of databases".into())
}

/// Returns the directories of databases that no longer exist. Needs a superuser.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn orphan_directories(session: &mut Session) -> Result<Vec<String>> {
    session.scalars(sql::fill(ORPHANS, &[])).await.doing(|| "list directories without a database".into())
}
