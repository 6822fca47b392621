//! The registry: what we know of our databases, in a database of its own on the same server.
//!
//! Every CREATE and DROP has its intent in a committed row first, every change of state is a
//! conditional update, and time is the server's `now()`, since leases cross hosts. All advisory
//! locks are taken on registry sessions, since such locks are per database.

pub mod bound;
pub mod clone;
pub mod comparison;
pub mod database;
pub mod dropped;
pub mod event;
pub mod eviction;
pub mod failure;
pub mod handover;
pub mod holder;
pub mod measurement;
pub mod owner;
pub mod template;
pub mod warm;

pub use clone::{CloneRow, Lease};
pub use database::DatabaseRow;
pub use holder::Holder;
pub use template::TemplateRow;

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, Executor as _, FromRow as _};

use crate::error::{Error, Kind, Result};
use crate::pg::lock::LockKey;
use crate::pg::session::OpenError;
use crate::pg::{self, Doing as _, Endpoint, Limit, Session, catalog, sql, sqlstate};

/// The numbered files of our tables; a file's number is the version that it leads to.
const SCHEMA: [&str; 5] = [
    include_str!("schema/001.sql"),
    include_str!("schema/002.sql"),
    include_str!("schema/003.sql"),
    include_str!("schema/004.sql"),
    include_str!("schema/005.sql"),
];

const OWNER: &str = "SELECT r.rolname::text FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba \
     WHERE d.datname::text = $1";
/// Sent with what sets the session up: it has nothing to bind.
const LOOK: &str = "SELECT m.version, pg_has_role(d.datdba, 'MEMBER') AS ours, \
     pg_get_userbyid(d.datdba)::text AS owner \
     FROM pgstencil.meta m, pg_database d WHERE d.datname = current_database()";

/// A session with the registry database.
pub struct Registry {
    session: Session,
    endpoint: Endpoint,
    name: String,
    /// What the last hand-over brought; see [`Registry::bound_here`].
    bound: Option<Vec<bound::BoundRow>>,
}

impl Registry {
    /// Opens the registry, and creates it if it is not there yet.
    ///
    /// # Errors
    /// As [`Session::open`]; [`Kind::Permission`] if the database of that name belongs to a role
    /// that we cannot become, or the role may not create databases; [`Kind::Config`] if a newer
    /// pgstencil made the registry.
    pub async fn open(endpoint: &Endpoint, name: &str, limit: &Limit) -> Result<Self> {
        for _ in 0..3 {
            match Session::open_asking(endpoint, name, limit, LOOK).await {
                Ok((session, seen)) => {
                    let mut registry = Registry::on(session, endpoint, name);
                    match registry.look(name, seen).await? {
                        Look::Current => return Ok(registry),
                        Look::Absent | Look::Older => {
                            registry.install(name, limit).await?;
                            return Ok(registry);
                        }
                    }
                }
                Err(OpenError::Missing) => create(endpoint, name, limit).await?,
                Err(OpenError::Other(error)) => {
                    return Err(owned_by_another(error, endpoint, name, limit).await);
                }
            }
        }
        Err(Error::failed(format!(
            "registry database `{name}` disappears as often as it is created"
        )))
    }

    /// Opens the registry for reading; `None` if there is none. Writes nothing.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub async fn open_existing(
        endpoint: &Endpoint,
        name: &str,
        limit: &Limit,
    ) -> Result<Option<Self>> {
        match Session::open_asking(endpoint, name, limit, LOOK).await {
            Ok((session, seen)) => {
                let mut registry = Registry::on(session, endpoint, name);
                match registry.look(name, seen).await? {
                    Look::Current => Ok(Some(registry)),
                    Look::Absent => Ok(None),
                    Look::Older => Err(Error::config(format!(
                        "registry database `{name}` is of an older version of pgstencil"
                    ))
                    .hint("any command that creates something upgrades it, such as `pgstencil ensure`")),
                }
            }
            Err(OpenError::Missing) => Ok(None),
            Err(OpenError::Other(error)) => {
                Err(owned_by_another(error, endpoint, name, limit).await)
            }
        }
    }

    fn on(session: Session, endpoint: &Endpoint, name: &str) -> Self {
        Registry {
            session,
            endpoint: endpoint.clone(),
            name: name.to_owned(),
            bound: None,
        }
    }

    /// A further session with the same registry, which acts as the same role: for work at the same time.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn another(&self, limit: &Limit) -> Result<Self> {
        let mut session = match Session::open(&self.endpoint, &self.name, limit).await {
            Ok(session) => session,
            Err(OpenError::Other(error)) => return Err(error),
            Err(OpenError::Missing) => {
                return Err(Error::failed("the registry database disappeared"));
            }
        };
        session
            .act_as(&self.facts().role)
            .await
            .doing(|| "act as the registry's owner".into())?;
        Ok(Registry::on(session, &self.endpoint, &self.name))
    }

    /// The session, for locks and for statements on databases.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The server's facts.
    pub fn facts(&self) -> &pg::session::ServerFacts {
        self.session.facts()
    }

    /// Finds out whether the session, and with it our locks, is still there.
    ///
    /// # Errors
    /// The driver's.
    pub async fn ping(&mut self) -> Result<()> {
        self.session
            .execute(sql::fill("SELECT", &[]))
            .await
            .doing(|| "keep the session with the server".into())?;
        Ok(())
    }

    /// Makes the session as good as a new one: it gives up all locks. `false`: the registry has another
    /// version by now.
    ///
    /// # Errors
    /// The driver's, if the session is gone.
    pub async fn start_over(&mut self) -> Result<bool> {
        let version: i32 = self
            .session
            .scalar(sql::fill(
                "SELECT m.version FROM pgstencil.meta m, pg_advisory_unlock_all(), \
                 set_config('statement_timeout', '0', false)",
                &[],
            ))
            .await
            .doing(|| "use a session again".into())?;
        Ok(version == SCHEMA.len() as i32)
    }

    /// Ends the session in an orderly way; its locks go with it.
    pub async fn close(self) {
        self.session.close().await;
    }

    /// `seen`: the answer to [`LOOK`], if the session was asked that already.
    async fn look(&mut self, name: &str, seen: Option<PgRow>) -> Result<Look> {
        let row = match seen {
            Some(row) => Ok(row),
            None => {
                sqlx::raw_sql(LOOK)
                    .fetch_one(self.session.connection())
                    .await
            }
        };
        let row = row.and_then(|row| <(i32, bool, String)>::from_row(&row));
        let (version, ours, owner) = match row.doing(|| "read the registry's version".into()) {
            Ok(row) => row,
            // 42P01, 3F000: no such table or schema. 42501: no right to look.
            Err(e) => match sqlstate(&e).as_deref() {
                Some("42P01" | "3F000") => return Ok(Look::Absent),
                Some("42501") => return Err(foreign(name, None).caused_by(e)),
                _ => return Err(e),
            },
        };
        if !ours {
            return Err(foreign(name, Some(&owner)));
        }
        // Members of the owner share its registry. What they make belongs to the owner, too, so that
        // whoever comes next can clone and drop it.
        if let Err(e) = self.session.act_as(&owner).await {
            return Err(foreign(name, Some(&owner)).caused_by(e));
        }
        let known = SCHEMA.len() as i32;
        match version {
            v if v == known => Ok(Look::Current),
            v if v < known => Ok(Look::Older),
            v => Err(Error::config(format!(
                "registry database `{name}` has version {v}, this pgstencil knows versions up to {known}"
            ))
            .hint("use the newer pgstencil here too, or give this one a registry of its own: `[server] registry`")),
        }
    }

    /// Installs or upgrades our tables, under a lock: two first users get one registry.
    async fn install(&mut self, name: &str, limit: &Limit) -> Result<()> {
        let key = LockKey::registry();
        while !self
            .session
            .try_lock(key)
            .await
            .doing(|| "lock the registry".into())?
        {
            limit
                .pause(
                    std::time::Duration::from_millis(20),
                    "another process that installs the registry",
                )
                .await?;
        }
        let version = match self.look(name, None).await? {
            Look::Current => SCHEMA.len(),
            Look::Absent => {
                if let Some(owner) = self.refuse_foreign_contents(name).await?
                    && let Err(e) = self.session.act_as(&owner).await
                {
                    return Err(foreign(name, Some(&owner)).caused_by(e));
                }
                0
            }
            Look::Older => {
                self.session
                    .scalar::<i32>(sql::fill("SELECT version FROM pgstencil.meta", &[]))
                    .await
                    .doing(|| "read the registry's version".into())? as usize
            }
        };
        if version == 0 {
            // Before there is anything to see: a crash in between must not leave it open.
            self.session
                .run(sql::revoke_public(name))
                .await
                .doing(|| format!("close registry database `{name}` to other roles"))?;
        }
        for (i, file) in SCHEMA.iter().enumerate().skip(version) {
            let doing = || format!("install version {} of the registry in `{name}`", i + 1);
            // One transaction a file: a crash leaves the version before it.
            let mut tx = self.session.connection().begin().await.doing(doing)?;
            tx.execute(sqlx::raw_sql(*file)).await.doing(doing)?;
            sqlx::query("UPDATE pgstencil.meta SET version = $1")
                .bind(i as i32 + 1)
                .execute(&mut *tx)
                .await
                .doing(doing)?;
            tx.commit().await.doing(doing)?;
        }
        self.session
            .unlock(key)
            .await
            .doing(|| "unlock the registry".into())?;
        Ok(())
    }

    /// A database of our registry's name that somebody uses for something else stays as it is. Returns the owner
    /// of one that can become the registry: it may be a group's, made by an administrator, and then the tables
    /// are the group's, too.
    async fn refuse_foreign_contents(&mut self, name: &str) -> Result<Option<String>> {
        let found = catalog::database(&mut self.session, name).await?;
        if let Some(d) = found.as_ref().filter(|d| !d.ours) {
            return Err(foreign(name, Some(&d.owner)));
        }
        let relations: i64 = self
            .session
            .scalar(sql::fill(
                "SELECT count(*) FROM pg_class WHERE oid >= 16384",
                &[],
            ))
            .await
            .doing(|| format!("look into database `{name}`"))?;
        if relations > 0 {
            return Err(Error::config(format!(
                "database `{name}` is not a pgstencil registry, and holds something else"
            ))
            .hint("give the registry another name: `[server] registry = \"…\"`"));
        }
        Ok(found.map(|d| d.owner))
    }
}

enum Look {
    Current,
    Older,
    Absent,
}

fn foreign(name: &str, owner: Option<&str>) -> Error {
    Error::new(
        Kind::Permission,
        match owner {
            Some(owner) => format!("registry database `{name}` belongs to role `{owner}`"),
            None => format!("registry database `{name}` belongs to another role"),
        },
    )
    .hint("give this role a registry of its own: `[server] registry = \"…\"` in pgstencil.toml")
    .hint("or share one: GRANT the owner's role to this role, and let its sessions be the owner's: ALTER ROLE … SET role = OWNER")
}

/// A refused CONNECT on the registry means that another role made it; which one, any other database
/// tells.
async fn owned_by_another(error: Error, endpoint: &Endpoint, name: &str, limit: &Limit) -> Error {
    if error.kind() != Kind::Permission {
        return error;
    }
    let mut owner = None;
    for database in endpoint.maintenance().iter().filter(|d| *d != name) {
        if let Ok(mut session) = Session::open(endpoint, database, limit).await {
            owner = session
                .first_scalar::<String>(sql::fill(OWNER, &[&name]))
                .await
                .unwrap_or_default();
            session.close().await;
            break;
        }
    }
    foreign(name, owner.as_deref()).caused_by(error)
}

async fn create(endpoint: &Endpoint, name: &str, limit: &Limit) -> Result<()> {
    let mut missing = Vec::new();
    let mut refused = None;
    for database in endpoint.maintenance().iter().filter(|d| *d != name) {
        let mut session = match Session::open(endpoint, database, limit).await {
            Ok(session) => session,
            Err(OpenError::Missing) => {
                missing.push(format!("`{database}`"));
                continue;
            }
            // No CONNECT on this one; the next will do as well.
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
            // 42P04, 23505: another process was first.
            Err(e) if matches!(sqlstate(&e).as_deref(), Some("42P04" | "23505")) => Ok(()),
            other => other,
        };
    }
    if let Some(error) = refused {
        return Err(error);
    }
    Err(Error::new(
        Kind::Connect,
        format!(
            "the server at {} has none of the databases {}",
            endpoint.place(),
            missing.join(", ")
        ),
    )
    .hint("name a database in the server URL that exists: `postgresql://HOST/DATABASE`"))
}
