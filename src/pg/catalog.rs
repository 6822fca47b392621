//! The server's databases and their sessions. Reads only, except for [`end_sessions`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;
use sqlx::{FromRow, Row as _};

use super::collation::{self, Collation};
use super::failure::{cause, is_connection_loss};
use super::sql::{self, Literal, Part, Statement};
use super::sqlstate::SqlState;
use super::{Deadline, Doing as _, Session};
use crate::error::{Error, Fault, Kind, Result};
use crate::fingerprint::ServerTraits;

/// One database as `pg_database` shows it.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Database {
    /// Identity: survives renames, differs after DROP and CREATE.
    pub(crate) oid: Oid,
    /// Current name.
    pub(crate) name: String,
    /// Whether pgstencil's role owns it or can become its owner.
    pub(crate) ours: bool,
    /// Owner's name.
    pub(crate) owner: String,
    /// `datconnlimit = -2`: an interrupted DROP; only another DROP is possible.
    pub(crate) invalid: bool,
    /// `datallowconn`
    pub(crate) open: bool,
    /// `datistemplate`
    pub(crate) is_template: bool,
    /// The comment, which contains the ownership tag.
    pub(crate) comment: Option<String>,
    /// Whether the collation library's version differs from that of the database's creation.
    pub(crate) collation_mismatch: bool,
}

macro_rules! select_databases {
    ($mismatch:literal, $condition:expr) => {
        concat!(
            "SELECT d.oid, d.datname::text AS name, pg_has_role(d.datdba, 'MEMBER') AS ours, \
             pg_get_userbyid(d.datdba)::text AS owner, d.datconnlimit = -2 AS invalid, d.datallowconn AS open, \
             d.datistemplate AS is_template, shobj_description(d.oid, 'pg_database') AS comment, ",
            $mismatch,
            " AS collation_mismatch FROM pg_database d WHERE ",
            $condition
        )
    };
    ($condition:expr) => {
        [
            select_databases!("false", $condition),
            // The function exists from 15 on.
            select_databases!(
                "coalesce(d.datcollversion IS DISTINCT FROM pg_database_collation_actual_version(d.oid) \
                 AND d.datcollversion IS NOT NULL, false)",
                $condition
            ),
        ]
    };
}
pub(crate) use select_databases;

/// Query for the [`Database`]s that satisfy a condition on `pg_database d`, for servers before 15, and from 15 on.
pub(crate) type DatabasesWhere = [&'static str; 2];

const BY_NAME_OR_OID: DatabasesWhere = select_databases!("d.datname::text = ANY($1) OR d.oid = ANY($2)");

/// Returns a query that the macro `select_databases` made. `name`: see [`sql::planned()`].
pub(crate) fn databases_where(
    major: u32,
    name: &'static str,
    [before_15, since_15]: DatabasesWhere,
    values: &[&dyn Literal],
) -> Statement {
    sql::planned(name, if major >= 15 { since_15 } else { before_15 }, values)
}

/// Returns the query of [`databases()`].
pub(crate) fn databases_named(major: u32, names: &[String], oids: &[Oid]) -> Statement {
    databases_where(major, "pgstencil_databases", BY_NAME_OR_OID, &[&names, &oids])
}

/// Returns the databases with one of these names or oids. Compared as text: a name of more than 63 bytes
/// matches nothing, where a literal would be cut and match another.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn databases(
    session: &mut Session,
    names: &[String],
    oids: &[Oid],
) -> Result<Vec<Database>> {
    let major = session.facts().major();
    session.rows(databases_named(major, names, oids)).await.doing(|| "read the list of databases".into())
}

/// Returns the database of this name.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn database(session: &mut Session, name: &str) -> Result<Option<Database>> {
    Ok(databases(session, &[name.to_owned()], &[]).await?.into_iter().next())
}

/// Checks that a name still belongs to the database of this oid, also within a transaction.
///
/// # Errors
/// [`sqlx::Error::RowNotFound`] if it does not; errors of the driver.
pub(crate) async fn stands(
    session: &mut Session,
    name: &str,
    oid: Oid,
) -> std::result::Result<(), sqlx::Error> {
    session
        .one::<(i32,)>(sql::fill(
            "SELECT 1 FROM pg_database WHERE datname::text = $1 AND oid = $2",
            &[&name, &oid],
        ))
        .await
        .map(drop)
}

/// Statement that fails with 22012 (division by zero) unless a name belongs to the database of this oid: it rolls back
/// the message that it ends.
pub(crate) fn must_stand(name: &str, oid: Oid) -> Statement {
    sql::fill(
        "SELECT 1 / (EXISTS (SELECT FROM pg_database WHERE datname::text = $1 AND oid = $2))::int",
        &[&name, &oid],
    )
}

/// Returns the columns that [`traits`] reads from the row of template0: new databases are created from it, so
/// they get its locale. The provider came with 15, `daticulocale` became `datlocale` with 17.
pub(super) fn traits_columns(major: u32) -> Statement {
    let provider = Part(match major {
        ..=14 => "'libc' AS provider, NULL::text AS locale",
        15 | 16 => "datlocprovider::text AS provider, daticulocale::text AS locale",
        _ => "datlocprovider::text AS provider, datlocale::text AS locale",
    });
    sql::fill(
        "pg_encoding_to_char(encoding)::text AS encoding, datcollate::text AS collate, \
         datctype::text AS ctype, $1",
        &[&provider],
    )
}

/// Returns encoding, locale and major version, from a row with [`traits_columns`].
///
/// # Errors
/// Errors of the driver.
pub(super) fn traits(row: &PgRow, major: u32) -> std::result::Result<ServerTraits, sqlx::Error> {
    let provider: String = row.try_get("provider")?;
    let provider = match provider.as_str() {
        "c" => "libc",
        "i" => "icu",
        "b" => "builtin",
        other => other,
    };
    Ok(ServerTraits {
        major,
        encoding: row.try_get("encoding")?,
        provider: provider.to_owned(),
        collate: row.try_get("collate")?,
        ctype: row.try_get("ctype")?,
        locale: row.try_get("locale")?,
    })
}

/// A session or prepared transaction in a database.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Visitor {
    /// Process id on the server.
    pub(crate) pid: i32,
    /// Postgres role.
    pub(crate) role: Option<String>,
    /// `application_name`
    pub(crate) application: Option<String>,
    /// Address of the client.
    pub(crate) client: Option<String>,
    /// `active`, `idle`, … if the role may see it.
    pub(crate) state: Option<String>,
    /// `client backend`, `walsender`, … if the role may see it; `prepared transaction` for a prepared
    /// transaction, which has no process.
    pub(crate) kind: Option<String>,
    /// Whether its role is a superuser, whose sessions only a superuser can end.
    pub(crate) superuser: bool,
}

impl Visitor {
    /// Describes it in one line.
    pub(crate) fn describe(&self) -> String {
        if self.is_prepared() {
            return format!(
                "prepared transaction `{}` of role {}",
                self.application.as_deref().unwrap_or_default(),
                self.role.as_deref().unwrap_or("?"),
            );
        }
        format!(
            "pid {} role {} application `{}` from {} ({})",
            self.pid,
            self.role.as_deref().unwrap_or("?"),
            self.application.as_deref().unwrap_or(""),
            self.client.as_deref().unwrap_or("local"),
            self.state.as_deref().or(self.kind.as_deref()).unwrap_or("state hidden"),
        )
    }

    /// Returns whether it is a transaction that waits for COMMIT PREPARED, and no session.
    pub(crate) fn is_prepared(&self) -> bool {
        self.kind.as_deref() == Some(PREPARED)
    }

    /// Returns whether a client of this role began it: a session, or a prepared transaction of any role, which
    /// only a client can end.
    pub(crate) fn is_clients_of(&self, role: &str) -> bool {
        match self.kind.as_deref() {
            Some(PREPARED) => true,
            None | Some("client backend" | "walsender" | "parallel worker") => {
                self.role.as_deref() == Some(role)
            }
            Some(_) => false,
        }
    }
}

const PREPARED: &str = "prepared transaction";

// Autovacuum runs for no role. Its `backend_type` would show more, but is hidden from ordinary roles.
const VISITORS: &str = "SELECT a.pid, a.usename::text AS role, a.application_name AS application, \
     host(a.client_addr) AS client, a.state, a.backend_type AS kind, coalesce(r.rolsuper, false) AS superuser \
     FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid \
     WHERE a.datid = $1 AND a.pid <> pg_backend_pid() AND a.usesysid IS NOT NULL \
     UNION ALL SELECT 0, owner::text, gid, NULL, 'prepared', 'prepared transaction', false \
     FROM pg_prepared_xacts p JOIN pg_database d ON d.datname = p.database WHERE d.oid = $1";

/// Returns the sessions and prepared transactions in a database; autovacuum, which gives way, is left out.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn visitors(session: &mut Session, oid: Oid) -> Result<Vec<Visitor>> {
    session.rows(sql::fill(VISITORS, &[&oid])).await.doing(|| "list the sessions of a database".into())
}

/// The process ids of [`VISITORS`]; cheaper to plan.
const VISITING: &str = "SELECT a.pid FROM pg_stat_get_activity(NULL) a \
     WHERE a.datid = $1 AND a.pid <> pg_backend_pid() AND a.usesysid IS NOT NULL \
     UNION ALL SELECT 0 FROM pg_prepared_xact() x WHERE x.dbid = $1";

/// Returns the process ids of [`visitors`]; 0 stands for a prepared transaction.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn visiting(session: &mut Session, oid: Oid) -> Result<Vec<i32>> {
    let doing = || "see who is in a database".to_owned();
    session.scalars(sql::planned("pgstencil_visiting", VISITING, &[&oid])).await.doing(doing)
}

/// As [`VISITORS`], and cheaper to plan.
const IS_VISITED: &str = "SELECT EXISTS (SELECT FROM pg_stat_get_activity(NULL) a \
     WHERE a.datid = $1 AND a.pid <> pg_backend_pid() AND a.usesysid IS NOT NULL) \
     OR EXISTS (SELECT FROM pg_prepared_xact() x WHERE x.dbid = $1)";

/// Returns the query of [`databases()`] for one database, and the one for whether [`visitors`] are in it.
pub(crate) fn database_and_visits(major: u32, names: &[String], oid: Oid) -> [Statement; 2] {
    [databases_named(major, names, &[oid]), sql::fill(IS_VISITED, &[&oid])]
}

/// Sessions whose state the role may not see do not count, nor do those of pgstencil.
const ACTIVE: &str = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
     AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name NOT LIKE 'pgstencil%'";

/// Returns the number of sessions of other programs that are executing a statement on the server.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn active_sessions(session: &mut Session) -> Result<u64> {
    let count: i64 = session.scalar(sql::fill(ACTIVE, &[])).await.doing(|| "count active sessions".into())?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Returns the process id of a session on its server.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn backend(session: &mut Session) -> Result<i32> {
    session
        .scalar(sql::fill("SELECT pg_backend_pid()", &[]))
        .await
        .doing(|| "see which session this is".into())
}

/// Returns the file that the server logs to, below its data directory unless absolute; `None` if it logs
/// elsewhere, or pgstencil's role may not read the path.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn log_file(session: &mut Session) -> Result<Option<String>> {
    // A refused call would be an error in that log.
    let may = "SELECT has_function_privilege('pg_catalog.pg_current_logfile()', 'EXECUTE')";
    let doing = || "locate the server's log".to_owned();
    let may: bool = session.scalar(sql::fill(may, &[])).await.doing(doing)?;
    if !may {
        return Ok(None);
    }
    session.scalar(sql::fill("SELECT pg_catalog.pg_current_logfile()", &[])).await.doing(doing)
}

/// Returns the server's data directory, on its own machine; `None` if pgstencil's role may not read the path.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn data_directory(session: &mut Session) -> Result<Option<String>> {
    // Asked only where that is allowed: otherwise it is an error. `pg_settings` would compute them all.
    let answer: Option<Option<String>> = session
        .first_scalar(sql::fill(
            "SELECT CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') \
             THEN current_setting('data_directory') END",
            &[],
        ))
        .await
        .doing(|| "locate the server's data directory".into())?;
    Ok(answer.flatten())
}

/// Waits until the database has no sessions, checking every few milliseconds: CREATE and DROP would sleep in
/// steps of 100 ms. Returns the remaining sessions when `patience` is over.
///
/// # Errors
/// Errors of the driver or of the limit.
pub(crate) async fn wait_until_empty(
    session: &mut Session,
    oid: Oid,
    patience: Duration,
    deadline: &Deadline,
) -> Result<Vec<Visitor>> {
    let started = std::time::Instant::now();
    let mut step = Duration::from_millis(1);
    while !visiting(session, oid).await?.is_empty() {
        if started.elapsed() >= patience {
            return visitors(session, oid).await;
        }
        deadline.pause(step, "sessions to end").await?;
        step = (step * 2).min(Duration::from_millis(50));
    }
    Ok(Vec::new())
}

/// Treatment of a session in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// Wait until it ends.
    Wait,
    /// End it, if pgstencil's role may.
    End,
    /// Let it stay.
    Ignore,
}

/// Waits as [`wait_until_empty`] does, and treats each session in the database as `care` says. Call it with
/// [`Care::End`] only for a database that is pgstencil's and still unclaimed.
///
/// # Errors
/// Errors of the driver or of the limit; sessions that may not be ended are among those returned.
pub(crate) async fn clear(
    session: &mut Session,
    oid: Oid,
    patience: Duration,
    deadline: &Deadline,
    care: impl Fn(&Visitor) -> Care,
) -> Result<Vec<Visitor>> {
    let started = std::time::Instant::now();
    let mut step = Duration::from_millis(1);
    let mut asked = std::collections::HashSet::new();
    loop {
        if visiting(session, oid).await?.is_empty() {
            return Ok(Vec::new());
        }
        let mut left = visitors(session, oid).await?;
        left.retain(|visitor| care(visitor) != Care::Ignore);
        if left.is_empty() || started.elapsed() >= patience {
            return Ok(left);
        }
        for visitor in &left {
            // Once for each session: refused attempts would fill the server's log.
            if care(visitor) == Care::End && asked.insert(visitor.pid) {
                end_session(session, visitor.pid).await?;
            }
        }
        deadline.pause(step, "sessions to end").await?;
        step = (step * 2).min(Duration::from_millis(50));
    }
}

/// Asks every session in a database to end, each in a statement of its own, so that a refusal for one spares no
/// other. Call it only for a discarded database of pgstencil's.
///
/// # Errors
/// Errors of the driver; sessions that may not be ended remain.
pub(crate) async fn end_sessions(session: &mut Session, oid: Oid) -> Result<()> {
    for pid in visiting(session, oid).await? {
        end_session(session, pid).await?;
    }
    Ok(())
}

async fn end_session(session: &mut Session, pid: i32) -> Result<()> {
    let statement = sql::fill("SELECT pg_terminate_backend($1)", &[&pid]);
    match session.execute(statement).await {
        Err(e) if SqlState::of(&e) != Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
            Err(e).doing(|| "end a session in a database of pgstencil's".into())
        }
        _ => Ok(()),
    }
}

/// A replication slot of a database.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Slot {
    /// Its name, which no other slot of the server has.
    pub(crate) name: String,
    /// The output plugin.
    pub(crate) plugin: Option<String>,
    /// The process that reads from it.
    pub(crate) reader: Option<i32>,
}

/// Returns the replication slots of the session's database; temporary ones, which end with their session, are
/// left out.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn slots(session: &mut Session) -> Result<Vec<Slot>> {
    session
        .rows(sql::fill(
            "SELECT slot_name::text AS name, plugin::text AS plugin, active_pid AS reader \
             FROM pg_replication_slots WHERE database = current_database() AND NOT temporary ORDER BY 1",
            &[],
        ))
        .await
        .doing(|| "list the replication slots".into())
}

/// Drops a replication slot of the session's database. Its reader is ended first, if pgstencil's role may.
///
/// # Errors
/// Errors of the driver: 42501 if the role may not, 55006 if it is still read from.
pub(crate) async fn drop_slot(session: &mut Session, slot: &Slot) -> Result<()> {
    let doing = || format!("drop replication slot `{}`", slot.name);
    let statement = || sql::fill("SELECT pg_drop_replication_slot($1)", &[&slot.name]);
    if let Some(reader) = slot.reader {
        end_session(session, reader).await?;
    }
    for _ in 0..50 {
        match session.execute(statement()).await {
            // Its reader has not ended completely.
            Err(e) if SqlState::of(&e) == Some(SqlState::OBJECT_IN_USE) => {}
            Err(e) if SqlState::of(&e) == Some(SqlState::UNDEFINED_OBJECT) => return Ok(()),
            other => return other.map(drop).doing(doing),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    session.execute(statement()).await.map(drop).doing(doing)
}

/// Returns the subscriptions of the session's database, and the slots at their publishers.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn subscriptions(session: &mut Session) -> Result<Vec<(String, Option<String>)>> {
    session
        .rows(sql::fill(
            "SELECT subname::text, subslotname::text FROM pg_subscription WHERE subdbid = \
             (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1",
            &[],
        ))
        .await
        .doing(|| "list the subscriptions".into())
}

/// Drops a subscription of the session's database. The publisher is not contacted, so its slot remains.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn drop_subscription(session: &mut Session, name: &str) -> Result<()> {
    for statement in sql::drop_subscription(name) {
        session.run(statement).await.doing(|| format!("drop subscription `{name}`"))?;
    }
    Ok(())
}

/// Facts about the server when a template was built, to be compared when it is used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BuiltWith {
    /// `server_version_num`
    pub(crate) server_version: u32,
    /// Versions of the collations that objects use, over all aliases: see [`super::collation::versions`].
    pub(crate) collations: std::collections::BTreeMap<String, String>,
    /// Collations that users' sessions get a warning about, with the reason, over all aliases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warned_collations: Vec<String>,
    /// Installed extensions and their versions, over all aliases.
    pub(crate) extensions: std::collections::BTreeMap<String, String>,
    /// The version of each extension that the server would have installed by default.
    pub(crate) available: std::collections::BTreeMap<String, String>,
    /// Event triggers on login, over all aliases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) login_triggers: Vec<String>,
    /// Unlogged tables and sequences that are not empty, over all aliases: a crash of the server empties them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unlogged_tables: Vec<String>,
    /// The database that its full build started from, if that was not the empty one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Source>,
    /// Whether it, or a base that it was built on, was restored from a dump: then it differs from a build in what a
    /// dump does not keep.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) restored: bool,
    /// The store that it was pulled from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pulled: Option<PulledFrom>,
}

/// Store that a template was pulled from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PulledFrom {
    /// Its URL.
    pub(crate) place: String,
    /// Key that signed the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signed_by: Option<String>,
}

/// A database that builds start from, in its state at one of the builds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Source {
    /// Its name.
    pub(crate) name: String,
    /// Its identity.
    pub(crate) oid: u32,
    /// Hash of its contents; hex.
    pub(crate) contents: String,
}

/// Contents of a freshly built database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    /// Number of objects from the build: relations, types, functions, schemas, extensions, large objects.
    pub(crate) objects: i64,
    /// Bytes on disk.
    pub(crate) bytes: i64,
    /// Approximate number of files on disk.
    pub(crate) files: i64,
    /// Extensions in addition to `plpgsql`.
    pub(crate) extensions: Vec<(String, String)>,
    /// Collations that objects use.
    pub(crate) collations: Vec<Collation>,
    /// Event triggers on login.
    pub(crate) login_triggers: Vec<String>,
    /// Unlogged tables and sequences that are not empty.
    pub(crate) unlogged_tables: Vec<String>,
}

// 16384 is FirstNormalObjectId: initdb's own objects are below it, users' objects above it
// (src/include/access/transam.h).
const CONTENTS: &str = "SELECT (SELECT count(*) FROM pg_class WHERE oid >= 16384 AND relkind <> 't') \
              + (SELECT count(*) FROM pg_type WHERE oid >= 16384) \
              + (SELECT count(*) FROM pg_proc WHERE oid >= 16384) \
              + (SELECT count(*) FROM pg_namespace WHERE oid >= 16384 AND nspname NOT LIKE 'pg\\_%') \
              + (SELECT count(*) FROM pg_extension WHERE oid >= 16384) \
              + (SELECT count(*) FROM pg_largeobject_metadata), \
              pg_database_size(current_database()), \
              (SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'i', 't', 'm', 'S'))";
const EXTENSIONS: &str =
    "SELECT extname::text, extversion FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1";
const UNLOGGED: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relpersistence = 'u' AND c.relkind = 'r' AND pg_relation_size(c.oid) > 0 ORDER BY 1";
/// Unlogged sequences came with 15.
const UNLOGGED_SEQUENCES: &str = "SELECT n.nspname::text, c.relname::text, s.seqstart FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid \
         WHERE c.relpersistence = 'u' \
         AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT') END ORDER BY 1, 2";

/// Returns the number of objects created in the session's database since initdb; see [`Contents::objects`].
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn objects(session: &mut Session) -> Result<i64> {
    let row: (i64, i64, i64) =
        session.one(sql::fill(CONTENTS, &[])).await.doing(|| "inspect a database".into())?;
    Ok(row.0)
}

/// Returns encoding and locale of the session's database, in one line.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn own_traits(session: &mut Session) -> Result<String> {
    let columns = traits_columns(session.facts().major());
    let statement = sql::fill(
        "SELECT concat_ws(' ', d.encoding, d.provider, d.collate, d.ctype, d.locale) FROM \
         (SELECT $1 FROM pg_database WHERE datname = current_database()) d",
        &[&columns],
    );
    session.scalar(statement).await.doing(|| "read a database's encoding and locale".into())
}

/// Returns the schemas of the session's database in which every role may create objects, by name.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn public_schemas(session: &mut Session) -> Result<Vec<String>> {
    session
        .scalars(sql::fill(
            "SELECT DISTINCT n.nspname::text FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a \
             WHERE a.grantee = 0 AND a.privilege_type = 'CREATE' ORDER BY 1",
            &[],
        ))
        .await
        .doing(|| "read which roles may create objects".into())
}

/// Returns whether every role may create schemas in the database of this oid.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn is_public(session: &mut Session, oid: Oid) -> Result<bool> {
    session
        .scalar(sql::fill(
            "SELECT EXISTS (SELECT FROM pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) a \
             WHERE d.oid = $1 AND a.grantee = 0 AND a.privilege_type = 'CREATE')",
            &[&oid],
        ))
        .await
        .doing(|| "read which roles may create schemas".into())
}

/// Returns whether the session's role is a superuser.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn is_superuser(session: &mut Session) -> Result<bool> {
    session
        .scalar(sql::fill("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[]))
        .await
        .doing(|| "read the role's privileges".into())
}

/// Reads the contents of a database from a session within it.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn contents(session: &mut Session) -> Result<Contents> {
    let database = session.database().to_owned();
    let row: (i64, i64, i64) =
        session.one(sql::fill(CONTENTS, &[])).await.doing(|| format!("inspect database `{database}`"))?;
    let extensions: Vec<(String, String)> =
        session.rows(sql::fill(EXTENSIONS, &[])).await.doing(|| "list extensions".into())?;
    let collations = collation::used(session).await?;
    let login_triggers = session
        .scalars(sql::fill(
            "SELECT evtname::text FROM pg_event_trigger WHERE evtevent = 'login' ORDER BY 1",
            &[],
        ))
        .await
        .doing(|| "list event triggers".into())?;
    let mut unlogged_tables: Vec<String> =
        session.scalars(sql::fill(UNLOGGED, &[])).await.doing(|| "list unlogged tables".into())?;
    let doing = || "list unlogged sequences".to_owned();
    let sequences: Vec<(String, String, i64)> =
        session.rows(sql::fill(UNLOGGED_SEQUENCES, &[])).await.doing(doing)?;
    for (schema, name, start) in sequences {
        let statement = sql::has_moved(&schema, &name, start);
        if session.scalar(statement).await.doing(doing)? {
            unlogged_tables.push(format!("{schema}.{name}"));
        }
    }
    Ok(Contents {
        login_triggers,
        unlogged_tables,
        objects: row.0,
        bytes: row.1,
        files: row.2,
        extensions,
        collations,
    })
}

/// Returns the versions that this server would install of the named extensions.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn available_extensions(
    session: &mut Session,
    names: &[String],
) -> Result<Vec<(String, Option<String>)>> {
    session
        .rows(sql::fill(
            "SELECT name::text, default_version FROM pg_available_extensions WHERE name::text = ANY($1)",
            &[&names],
        ))
        .await
        .doing(|| "list available extensions".into())
}

/// Returns the total size of databases. `None` if one no longer exists, or the role may not connect to it; then
/// a size is merely not shown.
pub(crate) async fn size(session: &mut Session, oids: &[Oid]) -> Option<i64> {
    let size: std::result::Result<Option<i64>, sqlx::Error> = session
        .scalar(sql::fill(
            "SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE oid = ANY($1)",
            &[&oids],
        ))
        .await;
    size.ok().flatten()
}

/// Returns the databases whose name contains `fragment`, other than the one of exactly that name: those that a
/// build created in addition to its own.
///
/// # Errors
/// Errors of the driver.
pub(crate) async fn named_after(session: &mut Session, fragment: &str) -> Result<Vec<String>> {
    session
        .scalars(sql::fill(
            "SELECT datname::text FROM pg_database \
         WHERE position($1 IN datname::text) > 0 AND datname::text <> $1 ORDER BY 1",
            &[&fragment],
        ))
        .await
        .doing(|| "check for further databases".into())
}

/// Fails with the privilege's name if the role may not create databases.
///
/// # Errors
/// [`Kind::Permission`] with the statement that grants it.
pub(crate) async fn require_createdb(session: &mut Session) -> Result<()> {
    let may: bool = session
        .scalar(sql::fill("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user", &[]))
        .await
        .doing(|| "read the role's privileges".into())?;
    if may {
        return Ok(());
    }
    let role = super::sql::quote_ident(&session.facts().role);
    Err(Error::new(Kind::Permission, format!("role {role} may not create databases"))
        .hint(format!("as a superuser: ALTER ROLE {role} CREATEDB;")))
}

/// Writes some megabytes to the server's disk, and removes them.
///
/// # Errors
/// Errors of the driver; 53100 means that the disk is full.
pub(crate) async fn try_to_write(session: &mut Session) -> Result<()> {
    let text = "CREATE TEMP TABLE pgstencil_probe ON COMMIT DROP AS \
                SELECT n FROM generate_series(1, 30000) n";
    session.run(sql::text(text)).await.doing(|| "write to the server's disk".into())
}

/// Tables that a build may have filled and whose statistics the role may update: its own, all of them in a
/// database of its own, and from 17 on those that it may MAINTAIN. Catalogs are left out: those of the whole
/// server are a superuser's, and each refusal is a WARNING in the server's log.
const MAINTAINED: &str = "SELECT n.nspname::text, c.relname::text, \
       c.relkind IN ('r', 'm') AND pg_relation_size(c.oid) > 512 * 8192 \
     FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm', 'p') AND c.oid >= 16384 AND c.relpersistence <> 't' \
       AND n.nspname !~ '^pg_' AND (pg_has_role(c.relowner, 'USAGE') \
         OR (SELECT pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database WHERE datname = current_database()) $1) ORDER BY 1, 2";
/// Number of tables in one ANALYZE.
const ANALYZED: usize = 100;

/// Updates the planner's statistics and spares the clones' first scans of large tables their hint-bit writes.
/// Small tables are not vacuumed: that would give each two more files, and files make every clone slower. An
/// expression index whose function lacks an object that it needs makes ANALYZE of its table fail; that is no
/// reason to refuse a template, so such complaints are returned.
///
/// # Errors
/// Errors of the driver, if the session is lost.
pub(crate) async fn analyze_and_freeze(session: &mut Session) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let mut note = |done: Result<()>| match done {
        Err(e) if is_connection_loss(&e) || e.has_fault(Fault::DiskFull) => Err(e),
        Err(e) => {
            complaints.push(format!("{e}: {}", cause(&e)));
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    let further = Part(match session.facts().major() {
        ..=16 => "",
        _ => "OR has_table_privilege(c.oid, 'MAINTAIN')",
    });
    let tables: Vec<(String, String, bool)> = session
        .rows(sql::fill(MAINTAINED, &[&further]))
        .await
        .doing(|| "list the tables of a build".into())?;
    for some in tables.chunks(ANALYZED) {
        let names = some.iter().map(|(schema, table, _)| (schema.as_str(), table.as_str()));
        if session.run(sql::analyze(names)).await.is_ok() {
            continue;
        }
        // A failing table ends the statement, so the others follow one by one.
        for (schema, table, _) in some {
            let name = std::iter::once((schema.as_str(), table.as_str()));
            let done = session
                .run(sql::analyze(name))
                .await
                .doing(|| format!("create the planner's statistics of table `{schema}.{table}`"));
            note(done)?;
        }
    }
    let large = tables.into_iter().filter(|(.., large)| *large);
    let large: Vec<(String, String)> = large.map(|(schema, table, _)| (schema, table)).collect();
    if !large.is_empty() {
        // With `synchronous_commit = off` the build's last commits may not be on disk yet, and their rows do
        // not count as visible to all until then. A commit of pgstencil's own flushes them.
        let text = "SET synchronous_commit = local; \
                    SELECT pg_catalog.pg_logical_emit_message(true, 'pgstencil', '')";
        let done = session.run(sql::text(text)).await.doing(|| "flush the build's commits".into());
        note(done)?;
    }
    for (schema, table) in large {
        let done = session
            .run(super::sql::vacuum_freeze(&schema, &table))
            .await
            .doing(|| format!("VACUUM table `{schema}.{table}`"));
        note(done)?;
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_the_build_is_told_from_the_rest() {
        let visitor = |role: &str, kind: Option<&str>| Visitor {
            pid: 1,
            role: Some(role.into()),
            application: None,
            client: None,
            state: None,
            kind: kind.map(Into::into),
            superuser: false,
        };
        let is_clients = |role, kind| visitor(role, kind).is_clients_of("me");
        assert!(is_clients("me", Some("client backend")));
        assert!(is_clients("me", Some("walsender")));
        // A hidden session may be a client's.
        assert!(is_clients("me", None));
        assert!(is_clients("other", Some(PREPARED)));
        assert!(!is_clients("other", None));
        assert!(!is_clients("me", Some("TimescaleDB Background Worker Scheduler")));
        assert!(!is_clients("me", Some("logical replication worker")));
    }
}
