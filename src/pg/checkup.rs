//! What the server says of its settings, rights and load, for `doctor`. Reads only.

use std::collections::BTreeMap;

use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use super::{Doing as _, Session, sql};
use crate::error::Result;

/// Settings by name, in their base units, as far as the role may see them.
pub type Settings = BTreeMap<String, String>;

/// What our role may do.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Rights {
    /// SUPERUSER
    pub superuser: bool,
    /// CREATEDB, or superuser.
    pub create: bool,
    /// May end sessions of other roles.
    pub signal: bool,
}

/// How busy the server is.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Load {
    /// Sessions of clients, ours included.
    pub sessions: i64,
}

/// A database of the server, as far as it matters here.
#[derive(Clone, Debug, FromRow)]
pub struct Found {
    /// Identity.
    pub oid: Oid,
    /// Name.
    pub name: String,
    /// Whether our role owns it or can become its owner.
    pub ours: bool,
    /// An interrupted DROP.
    pub invalid: bool,
    /// Lets sessions in.
    pub open: bool,
    /// Marked IS_TEMPLATE.
    pub template: bool,
    /// Only roles that it was granted to may connect, as with every registry.
    pub private: bool,
    /// The comment, which holds our mark.
    pub comment: Option<String>,
}

const SETTINGS: &str = "SELECT name, setting FROM pg_settings WHERE setting IS NOT NULL AND name IN \
     ('fsync', 'wal_level', 'wal_compression', 'shared_buffers', 'max_connections', \
      'max_locks_per_transaction', 'max_prepared_transactions', 'data_directory', 'file_copy_method')";
const RIGHTS: &str = "SELECT rolsuper AS superuser, rolsuper OR rolcreatedb AS create, \
     rolsuper OR pg_has_role(oid, 'pg_signal_backend', 'MEMBER') AS signal \
     FROM pg_roles WHERE rolname = current_user";
// `backend_type` is hidden from ordinary roles; what serves no role is no client.
const LOAD: &str = "SELECT count(*) AS sessions FROM pg_stat_activity WHERE usesysid IS NOT NULL";
const DATABASES: &str = "SELECT oid, datname::text AS name, pg_has_role(datdba, 'MEMBER') AS ours, \
     datconnlimit = -2 AS invalid, datallowconn AS open, datistemplate AS template, \
     NOT EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) a \
     WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT') AS private, shobj_description(oid, 'pg_database') AS comment \
     FROM pg_database ORDER BY datname";
/// Directories of databases that no row knows: what a killed server left. One of a CREATE that runs just
/// now looks the same, so it is only counted if no such statement runs.
const ORPHANS: &str = "SELECT d FROM pg_ls_dir('base') d WHERE d ~ '^[0-9]+$' \
     AND NOT EXISTS (SELECT FROM pg_database WHERE oid = d::oid) \
     AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE query ILIKE 'create database%' AND state = 'active') \
     ORDER BY 1";

/// The settings that matter to copies.
///
/// # Errors
/// The driver's.
pub async fn settings(session: &mut Session) -> Result<Settings> {
    let rows: Vec<(String, String)> =
        session.rows(sql::fill(SETTINGS, &[])).await.doing(|| "read the server's settings".into())?;
    Ok(rows.into_iter().collect())
}

/// What our role may do.
///
/// # Errors
/// The driver's.
pub async fn rights(session: &mut Session) -> Result<Rights> {
    session.one(sql::fill(RIGHTS, &[])).await.doing(|| "read the role's rights".into())
}

/// How busy the server is.
///
/// # Errors
/// The driver's.
pub async fn load(session: &mut Session) -> Result<Load> {
    session.one(sql::fill(LOAD, &[])).await.doing(|| "count the sessions".into())
}

/// All databases of the server.
///
/// # Errors
/// The driver's.
pub async fn databases(session: &mut Session) -> Result<Vec<Found>> {
    session.rows(sql::fill(DATABASES, &[])).await.doing(|| "read the list of databases".into())
}

/// Directories of databases that do not exist any more. Needs a superuser.
///
/// # Errors
/// The driver's.
pub async fn orphan_directories(session: &mut Session) -> Result<Vec<String>> {
    session.scalars(sql::fill(ORPHANS, &[])).await.doing(|| "look for directories without a database".into())
}
