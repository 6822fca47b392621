//! The registry: the records of pgstencil's databases, in a database of its own on the same server.
//!
//! The intent of every CREATE and DROP is first committed as a row, every change of state is a conditional update,
//! and time is the server's `now()`, since leases cross hosts. All advisory locks are taken on registry sessions,
//! since such locks are per database.

pub(crate) mod bound;
pub(crate) mod clone;
mod column;
pub(crate) mod comparison;
pub(crate) mod counted;
pub(crate) mod database;
pub(crate) mod dropped;
pub(crate) mod event;
pub(crate) mod eviction;
pub(crate) mod evidence;
pub(crate) mod failure;
mod guard;
pub(crate) mod holder;
mod listing;
pub(crate) mod lock;
pub(crate) mod measurement;
pub(crate) mod owed;
pub(crate) mod owner;
#[cfg(feature = "cli")]
mod packing;
pub(crate) mod project;
pub(crate) mod publish;
pub(crate) mod replaced;
pub(crate) mod state;
pub(crate) mod template;
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
mod unpushed;
mod vacuum;
pub(crate) mod warm;
pub(crate) mod washable;
pub(crate) mod waypoint;

pub(crate) use clone::{CloneRow, Term};
pub(crate) use database::DatabaseRow;
pub(crate) use event::{Happened, Occurrence};
pub(crate) use holder::Holder;
pub(crate) use lock::{Lock, Waiting};
pub(crate) use project::ProjectSettings;
pub(crate) use state::{CloneState, DatabaseState, LeaseKind, ShownState, TemplateState};
pub(crate) use template::TemplateRow;

use std::time::Instant;

use sqlx::FromRow as _;
use sqlx::postgres::PgRow;
use tokio::runtime::{Handle, Id, RuntimeFlavor};

use crate::error::{Error, Fault, Kind, Result};
use crate::pg::connect::{EnterError, Entered, is_refusal};
use crate::pg::lock::LockKey;
use crate::pg::session::OpenError;
use crate::pg::sql::Statement;
use crate::pg::{self, Deadline, Doing as _, Endpoint, Session, SqlState, catalog, sql, sqlstate};

/// Numbered files of the registry's tables; a file's number is the version that it leads to.
const SCHEMA: [&str; 10] = [
    include_str!("schema/001.sql"),
    include_str!("schema/002.sql"),
    include_str!("schema/003.sql"),
    include_str!("schema/004.sql"),
    include_str!("schema/005.sql"),
    include_str!("schema/006.sql"),
    include_str!("schema/007.sql"),
    include_str!("schema/008.sql"),
    include_str!("schema/009.sql"),
    include_str!("schema/010.sql"),
];

/// Version of the tables that this code installs, and the newest that it reads.
pub(crate) const NEWEST: i32 = SCHEMA.len() as i32;

/// Always sent after a guard.
const VERSION: &str = "SELECT m.version FROM pgstencil.meta m";

/// Session with the registry database.
pub(crate) struct Registry {
    session: Session,
    endpoint: Endpoint,
    name: String,
    /// Answer that came with the last publication; see [`Registry::bound_here`].
    bound: Option<Vec<bound::BoundRow>>,
    /// Guard that let the session in.
    guard: Statement,
    /// Runtime that the session was opened on.
    runtime: Handle,
    /// Time of this session's last look for tables to vacuum.
    looked: Option<Instant>,
}

impl Registry {
    /// Opens the registry, and creates it if it does not exist.
    ///
    /// # Errors
    /// As [`Session::open`]; [`Kind::Permission`] if the database of that name belongs to a role that we do not
    /// trust (see `guard`), holds other objects than pgstencil's, or the role may not create databases;
    /// [`Kind::Config`] if a newer pgstencil created the registry.
    pub(crate) async fn open(endpoint: &Endpoint, name: &str, deadline: &Deadline) -> Result<Self> {
        for _ in 0..3 {
            let Some((mut registry, seen)) = Registry::enter(endpoint, name, deadline).await? else {
                create(endpoint, name, deadline).await?;
                continue;
            };
            endpoint.remember();
            match registry.judge(seen)? {
                Look::Current => {}
                Look::Absent | Look::Older(_) => registry.install(name, deadline).await?,
            }
            return Ok(registry);
        }
        Err(Error::failed(format!("cannot keep registry database `{name}`"))
            .detail("it disappeared 3 times right after it was created")
            .hint("stop the program that drops it, or set `[server] registry` to another name"))
    }

    /// Opens the registry for reading; `None` if it does not exist. Writes nothing.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub(crate) async fn open_existing(
        endpoint: &Endpoint,
        name: &str,
        deadline: &Deadline,
    ) -> Result<Option<Self>> {
        let mut again = true;
        loop {
            let Some((mut registry, seen)) = Registry::enter(endpoint, name, deadline).await? else {
                return Ok(None);
            };
            match registry.judge(seen)? {
                Look::Current => return Ok(Some(registry)),
                Look::Absent => {
                    // A registry that would be refused for writing is refused here, too.
                    let refused = registry.refuse_foreign_contents(name).await;
                    registry.close().await;
                    match refused {
                        // The tables may be those of a first command, which has installed them in the meantime.
                        Err(_) if again => again = false,
                        refused => return refused.map(|()| None),
                    }
                }
                Look::Older(_) => {
                    return Err(Error::config(format!(
                        "registry database `{name}` was created by an older version of pgstencil"
                    ))
                    .hint("upgrade it by a command that creates something, such as `pgstencil ensure`"));
                }
            }
        }
    }

    /// Opens a session with the registry's database, if that exists, whatever it contains: for queries of the
    /// system catalogs.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub(crate) async fn open_database(
        endpoint: &Endpoint,
        name: &str,
        deadline: &Deadline,
    ) -> Result<Option<Session>> {
        let entered = Registry::enter(endpoint, name, deadline).await?;
        Ok(entered.map(|(registry, _)| registry.session))
    }

    /// Opens a session that a guard let in, and reads the registry's version; `None` if there is no such database.
    async fn enter(
        endpoint: &Endpoint,
        name: &str,
        deadline: &Deadline,
    ) -> Result<Option<(Self, std::result::Result<PgRow, sqlx::Error>)>> {
        match Session::enter(endpoint, name, deadline, &guard::GUARDS, Some(VERSION)).await {
            Ok(entered) => {
                let (registry, seen) = Registry::on(entered, endpoint, name);
                Ok(Some((registry, seen)))
            }
            Err(EnterError::Missing) => Ok(None),
            Err(EnterError::Stranger(mut session)) => {
                let error = guard::explain(&mut session, name).await;
                session.close().await;
                Err(error)
            }
            Err(EnterError::Other(error)) => {
                Err(guard::owned_by_another(error, endpoint, name, deadline).await)
            }
        }
    }

    fn on(
        entered: Entered,
        endpoint: &Endpoint,
        name: &str,
    ) -> (Self, std::result::Result<PgRow, sqlx::Error>) {
        let registry = Registry {
            session: entered.session,
            endpoint: endpoint.clone(),
            name: name.to_owned(),
            bound: None,
            guard: entered.guard.planned_as("pgstencil_guard"),
            runtime: Handle::current(),
            looked: None,
        };
        (registry, entered.answer)
    }

    /// Opens another session with the same registry and role, for work at the same time. Does not wait for a free
    /// slot.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub(crate) async fn another(&self, deadline: &Deadline) -> Result<Self> {
        let endpoint = self.endpoint.clone().without_waiting();
        let entered = Registry::enter(&endpoint, &self.name, deadline).await?;
        let Some((registry, seen)) = entered else {
            return Err(Error::failed("the registry database no longer exists"));
        };
        match registry.judge(seen)? {
            Look::Current => Ok(registry),
            Look::Absent | Look::Older(_) => {
                Err(Error::failed("the registry database was replaced in the meantime"))
            }
        }
    }

    /// Returns whether the session can be used from here: a session of another runtime waits indefinitely if that
    /// runtime works only while its own caller waits.
    pub(crate) fn is_driven(&self) -> bool {
        is_driven(&self.runtime)
    }

    /// Returns the runtime that the session was opened on.
    pub(crate) fn runtime(&self) -> Id {
        self.runtime.id()
    }

    /// Returns the session, for locks and for statements on databases.
    pub(crate) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Returns the server's facts.
    pub(crate) fn facts(&self) -> &pg::session::ServerFacts {
        self.session.facts()
    }

    /// Checks that the session, and with it its locks, still exists.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        self.session
            .execute(sql::fill("SELECT", &[]))
            .await
            .doing(|| "keep the session with the server".into())?;
        Ok(())
    }

    /// Resets the session to the state of a new one: it releases all locks. `false`: the registry has another
    /// version by now.
    ///
    /// # Errors
    /// The driver's, if the session is gone; that the registry is no longer to be trusted.
    pub(crate) async fn start_over(&mut self) -> Result<bool> {
        let doing = || "use a session again".to_owned();
        let guard = self.guard.clone();
        let start = sql::text("SELECT m.version FROM pgstencil.meta m, pg_advisory_unlock_all()");
        let [_, answer] = self.session.send([guard, start]).await.doing(doing)?;
        let (version,): (i32,) = answer.one().doing(doing)?;
        Ok(version == SCHEMA.len() as i32)
    }

    /// Releases all locks of the session.
    ///
    /// # Errors
    /// The driver's. If the session is gone, so are its locks.
    pub(crate) async fn release_locks(&mut self) -> Result<()> {
        self.session
            .execute(sql::fill("SELECT pg_advisory_unlock_all()", &[]))
            .await
            .doing(|| "release the locks of a session".into())?;
        Ok(())
    }

    /// Ends the session in an orderly way, which releases its locks.
    pub(crate) async fn close(self) {
        self.session.close().await;
    }

    /// Judges the answer to [`VERSION`].
    fn judge(&self, seen: std::result::Result<PgRow, sqlx::Error>) -> Result<Look> {
        let name = &self.name;
        let row = seen.and_then(|row| <(i32,)>::from_row(&row));
        let (version,) = match row.doing(|| "read the registry's version".into()) {
            Ok(row) => row,
            Err(e) => match sqlstate(&e) {
                // The table or schema does not exist.
                Some(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME) => return Ok(Look::Absent),
                _ => return Err(e),
            },
        };
        let known = SCHEMA.len() as i32;
        match version {
            v if v == known => Ok(Look::Current),
            v if v < known => Ok(Look::Older(v as usize)),
            v => Err(Error::config(format!(
                "registry database `{name}` requires a newer version of pgstencil"
            ))
            .detail(format!("its version is {v}, and this pgstencil supports versions up to {known}"))
            .hint("use the newer pgstencil here, too")
            .hint("give this pgstencil a registry of its own: `[server] registry = \"…\"`")),
        }
    }

    /// Installs or upgrades the registry's tables, under a lock: two first users get one registry.
    async fn install(&mut self, name: &str, deadline: &Deadline) -> Result<()> {
        let waiting = Waiting {
            step: std::time::Duration::from_millis(20),
            most: None,
            deadline,
            what: "another process that installs the registry",
        };
        let lock = self.lock(LockKey::registry(), waiting).await?;
        let guard = self.guard.clone();
        let asked = self.session.send([guard, sql::fill(VERSION, &[])]).await;
        let seen = match asked {
            Err(e) if is_refusal(&e) => {
                return Err(guard::explain(&mut self.session, name).await);
            }
            asked => asked.and_then(|[_, mut answer]| answer.rows.pop().ok_or(sqlx::Error::RowNotFound)),
        };
        let version = match self.judge(seen)? {
            Look::Current => SCHEMA.len(),
            Look::Absent => {
                self.refuse_foreign_contents(name).await?;
                0
            }
            Look::Older(version) => version,
        };
        if version < SCHEMA.len() {
            // One message is one transaction: a process that reads during it, or after a crash, sees an empty
            // database or the registry before the upgrade, and never a part of it or an open one.
            let mut statements = vec![sql::flushed()];
            if version == 0 {
                statements.push(sql::revoke_public(name));
            }
            let files = SCHEMA.iter().skip(version);
            statements.extend(files.map(|file| sql::fill(file, &[])));
            let latest = SCHEMA.len() as i32;
            statements.push(sql::fill("UPDATE pgstencil.meta SET version = $1", &[&latest]));
            self.session
                .send_all(&statements)
                .await
                .doing(|| format!("install version {latest} of the registry in `{name}`"))?;
        }
        match lock {
            Some(lock) => lock.release(self).await,
            None => Ok(()),
        }
    }

    /// Refuses a database with the registry's name that has another purpose, and leaves it unchanged.
    async fn refuse_foreign_contents(&mut self, name: &str) -> Result<()> {
        let found = catalog::database(&mut self.session, name).await?;
        if let Some(d) = found.filter(|d| !d.ours) {
            let us = self.endpoint.user();
            return Err(guard::foreign(name, Some(&d.owner), us, false));
        }
        let relations: i64 = self
            .session
            .scalar(sql::fill("SELECT count(*) FROM pg_class WHERE oid >= 16384", &[]))
            .await
            .doing(|| format!("inspect database `{name}`"))?;
        if relations > 0 {
            return Err(Error::config(format!("database `{name}` is not a pgstencil registry"))
                .detail("it contains other tables")
                .hint("give the registry another name: `[server] registry = \"…\"`"));
        }
        Ok(())
    }
}

/// Returns whether tasks of this runtime progress while the caller, on the same runtime or another, waits.
pub(crate) fn is_driven(runtime: &Handle) -> bool {
    runtime.id() == Handle::current().id() || runtime.runtime_flavor() != RuntimeFlavor::CurrentThread
}

enum Look {
    Current,
    Older(usize),
    Absent,
}

async fn create(endpoint: &Endpoint, name: &str, deadline: &Deadline) -> Result<()> {
    let mut refused = None;
    for database in endpoint.maintenance().iter().filter(|d| *d != name) {
        let mut session = match Session::open(endpoint, database, deadline).await {
            Ok(session) => session,
            Err(OpenError::Missing) => continue,
            // No CONNECT on this database; the next one will do as well.
            Err(OpenError::Other(error)) if error.kind() == Kind::Permission => {
                refused.get_or_insert(error);
                continue;
            }
            Err(OpenError::Other(error)) => return Err(error),
        };
        catalog::require_createdb(&mut session).await?;
        let made = session
            .run(sql::create_registry(name))
            .await
            .doing(|| format!("create registry database `{name}`"));
        session.close().await;
        return match made {
            // Another process was first.
            Err(e) if e.has_fault(Fault::NameTaken) => Ok(()),
            other => other,
        };
    }
    Err(refused.unwrap_or_else(|| endpoint.no_database()))
}
