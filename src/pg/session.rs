//! [`Session`]: one direct connection that holds locks and runs one statement per call.
//!
//! There is no pool: advisory locks belong to a session, and a session that holds some must be the
//! one that creates and drops. Dropping a future while a statement runs leaves the session blocked
//! until the statement ends, so statements are bounded by `statement_timeout`, not by dropping.

use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use tokio_util::sync::CancellationToken;

use super::Endpoint;
use super::failure::{Doing as _, state_of};
use super::lock::LockKey;
use super::sql::{self, Statement};
use crate::error::{Error, Kind, Result};
use crate::fingerprint::ServerTraits;

/// How long a caller is willing to wait, and its way to give up earlier.
#[derive(Clone, Debug, Default)]
pub struct Limit {
    deadline: Option<Instant>,
    /// Set when the caller gives up; looked at between statements.
    pub cancel: CancellationToken,
}

impl Limit {
    /// Bounds all waits together; `None` waits as long as it takes.
    pub fn new(wait: Option<Duration>, cancel: CancellationToken) -> Self {
        Limit {
            deadline: wait.map(|w| Instant::now() + w),
            cancel,
        }
    }

    /// What is left; `None` is unlimited.
    pub fn left(&self) -> Option<Duration> {
        self.deadline
            .map(|d| d.saturating_duration_since(Instant::now()))
    }

    /// Fails when the caller gave up or the deadline has passed.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] or [`Kind::Timeout`].
    pub fn check(&self, waiting_for: &str) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        if self.left().is_some_and(|left| left.is_zero()) {
            return Err(
                Error::new(Kind::Timeout, format!("gave up waiting for {waiting_for}"))
                    .hint("`--wait DURATION` bounds all waits of a command"),
            );
        }
        Ok(())
    }

    /// Sleeps, but no longer than the limit allows, then checks it.
    ///
    /// # Errors
    /// As [`Limit::check`].
    pub async fn pause(&self, time: Duration, waiting_for: &str) -> Result<()> {
        let time = self.left().map_or(time, |left| left.min(time));
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep(time) => {}
        }
        self.check(waiting_for)
    }
}

/// Why a session could not be opened, where the caller may know what to do.
#[derive(Debug)]
pub enum OpenError {
    /// The database does not exist (3D000).
    Missing,
    /// Anything else.
    Other(Error),
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        OpenError::Other(error)
    }
}

/// What a server says of itself, read when the session opens.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// `server_version_num`, e.g. 150018.
    pub version: u32,
    /// `fsync`: whether the server's data is meant to survive a crash of the host.
    pub fsync: bool,
    /// The role that the session acts as.
    pub role: String,
    /// What new databases are like.
    pub traits: ServerTraits,
}

impl ServerFacts {
    /// 13 to 18.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

/// A connection to one database, set up the way pgstencil needs it.
pub struct Session {
    connection: PgConnection,
    database: String,
    facts: ServerFacts,
}

/// How long a connection attempt may take when nothing else bounds it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

impl Session {
    /// Opens a session. Waits for a server that is just starting, within `limit`.
    ///
    /// The session has `search_path = pg_catalog` and no time-outs of the role's; from 14 on the
    /// server notices within half a second that we died (`client_connection_check_interval`), which
    /// ends a CREATE that nobody waits for.
    ///
    /// # Errors
    /// [`OpenError::Missing`] when the database does not exist; otherwise unreachable, refused,
    /// too old, or a pooler in between that does not keep sessions.
    pub async fn open(
        endpoint: &Endpoint,
        database: &str,
        limit: &Limit,
    ) -> std::result::Result<Self, OpenError> {
        let bare = [("search_path", "pg_catalog")];
        let opened = Self::open_with(endpoint, database, limit, &bare, None).await?;
        Ok(opened.0)
    }

    /// Opens a session as [`Session::open`] does, and asks it a first question in the same round trip.
    /// `None` for an answer: the question failed, or has no row. It changes nothing, and binds nothing.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn open_asking(
        endpoint: &Endpoint,
        database: &str,
        limit: &Limit,
        question: &'static str,
    ) -> std::result::Result<(Self, Option<PgRow>), OpenError> {
        let bare = [("search_path", "pg_catalog")];
        Self::open_with(endpoint, database, limit, &bare, Some(question)).await
    }

    /// Opens a session for statements of the user's own: with the `search_path` that the user's
    /// sessions have, otherwise like [`Session::open`].
    ///
    /// # Errors
    /// As [`Session::open`].
    pub async fn open_for_user(
        endpoint: &Endpoint,
        database: &str,
        limit: &Limit,
    ) -> std::result::Result<Self, OpenError> {
        let opened = Self::open_with(endpoint, database, limit, &[], None).await?;
        Ok(opened.0)
    }

    async fn open_with(
        endpoint: &Endpoint,
        database: &str,
        limit: &Limit,
        further: &[(&str, &str)],
        question: Option<&str>,
    ) -> std::result::Result<(Self, Option<PgRow>), OpenError> {
        let started = Instant::now();
        let connection = loop {
            match Self::attempt(endpoint, database, limit, further).await {
                Ok(done) => break done,
                // 57P03: the server is starting up or shutting down.
                Err(Attempt::Driver(e)) if state_of(&e).as_deref() == Some("57P03") => {
                    if started.elapsed() > Duration::from_secs(60) {
                        return Err(OpenError::Other(unreachable(endpoint, database, e)));
                    }
                    limit
                        .pause(Duration::from_millis(100), "the server to start")
                        .await?;
                }
                Err(Attempt::Driver(e)) if state_of(&e).as_deref() == Some("3D000") => {
                    return Err(OpenError::Missing);
                }
                Err(Attempt::Driver(e)) => {
                    return Err(OpenError::Other(unreachable(endpoint, database, e)));
                }
                Err(Attempt::Late(e)) => return Err(OpenError::Other(e)),
            }
        };
        let (mut connection, marker) = connection;
        let version = connection.server_version_num().unwrap_or(0);
        if version != 0 && version < 130_000 {
            return Err(OpenError::Other(
                Error::new(
                    Kind::Connect,
                    format!(
                        "the server at {} is PostgreSQL {}",
                        endpoint.place(),
                        version / 10_000
                    ),
                )
                .hint("pgstencil needs PostgreSQL 13 or later"),
            ));
        }
        // These settings do not exist everywhere, and an unknown one in the startup packet would
        // be refused; `set_config` of exactly the known ones costs no further round trip.
        let mut text = String::from(
            "SELECT current_setting('pgstencil.marker', true) AS marker, \
             current_setting('fsync') AS fsync, current_user::text AS role, ",
        );
        text += &super::catalog::traits_columns(version / 10_000);
        if version >= 140_000 {
            text += ", set_config('idle_session_timeout', '0', false) \
                     , set_config('client_connection_check_interval', '500ms', false)";
        }
        if version >= 170_000 {
            text += ", set_config('transaction_timeout', '0', false)";
        }
        text += " FROM pg_catalog.pg_database WHERE datname = 'template0'";
        let mut rows = None;
        if let Some(question) = question {
            let both = sql::user_statements(format!("{text}; {question}"));
            // If the question fails, the settings are taken back with it: one message is one transaction.
            rows = sqlx::raw_sql(both).fetch_all(&mut connection).await.ok();
        }
        let rows = match rows {
            Some(rows) => rows,
            None => sqlx::raw_sql(sql::user_statements(text))
                .fetch_all(&mut connection)
                .await
                .doing(|| format!("set up a session with the server at {}", endpoint.place()))?,
        };
        let mut rows = rows.into_iter();
        let row = rows
            .next()
            .ok_or_else(|| Error::failed("the server has no database `template0`"))?;
        let seen: Option<String> = row.try_get("marker").unwrap_or(None);
        if seen.as_deref() != Some(marker.as_str()) {
            return Err(OpenError::Other(pooler(endpoint)));
        }
        let facts = ServerFacts {
            version,
            fsync: row
                .try_get::<String, _>("fsync")
                .doing(|| "read fsync".into())?
                != "off",
            role: row.try_get("role").doing(|| "read the role".into())?,
            traits: super::catalog::traits(&row, version / 10_000)
                .doing(|| "read the server's encoding and locale".into())?,
        };
        let session = Session {
            connection,
            database: database.to_owned(),
            facts,
        };
        Ok((session, rows.next()))
    }

    async fn attempt(
        endpoint: &Endpoint,
        database: &str,
        limit: &Limit,
        further: &[(&str, &str)],
    ) -> std::result::Result<(PgConnection, String), Attempt> {
        let marker = crate::names::random_text(16);
        let startup = [
            ("pgstencil.marker", marker.as_str()),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
            ("default_transaction_read_only", "off"),
            ("default_transaction_isolation", "read committed"),
            ("standard_conforming_strings", "on"),
            ("client_min_messages", "error"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "3"),
            ("tcp_keepalives_count", "3"),
        ];
        let startup: Vec<(&str, &str)> = startup.iter().chain(further).copied().collect();
        let options = endpoint
            .options(database, &startup)
            .disable_statement_logging();
        let patience = limit
            .left()
            .map_or(CONNECT_TIMEOUT, |l| l.min(CONNECT_TIMEOUT));
        match tokio::time::timeout(patience, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => Ok((connection, marker)),
            Ok(Err(e)) => Err(Attempt::Driver(e)),
            Err(_) if patience < CONNECT_TIMEOUT => Err(Attempt::Late(
                Error::new(
                    Kind::Timeout,
                    format!("gave up waiting for the server at {}", endpoint.place()),
                )
                .hint("`--wait DURATION` bounds all waits of a command"),
            )),
            Err(_) => Err(Attempt::Late(
                Error::new(
                    Kind::Connect,
                    format!(
                        "the server at {} did not answer within {:.1} s",
                        endpoint.place(),
                        patience.as_secs_f64()
                    ),
                )
                .hint("check the host and the port; a firewall may drop the packets, or a connection pooler let its clients wait"),
            )),
        }
    }

    /// The database that the session is in.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// What the server said of itself.
    pub fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    /// Acts as another role from here on, one that ours is a member of.
    ///
    /// # Errors
    /// The driver's.
    pub async fn act_as(&mut self, role: &str) -> std::result::Result<(), sqlx::Error> {
        if self.facts.role != role {
            self.run(sql::set_role(role)).await?;
            role.clone_into(&mut self.facts.role);
        }
        Ok(())
    }

    /// The driver's connection, for queries with binds.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Runs a statement made in [`super::sql`].
    ///
    /// # Errors
    /// The driver's.
    pub async fn run(&mut self, statement: Statement) -> std::result::Result<(), sqlx::Error> {
        tracing::debug!(database = self.database, sql = statement.text(), "run");
        // The simple protocol: one message, one round trip, no prepared statement left behind.
        self.connection.execute(sqlx::raw_sql(statement)).await?;
        Ok(())
    }

    /// Begins a transaction. Renames, flags and comments of databases are transactional, CREATE and
    /// DROP are not.
    ///
    /// # Errors
    /// The driver's.
    pub async fn begin(&mut self) -> std::result::Result<(), sqlx::Error> {
        self.run(sql::user_statements("BEGIN".into())).await
    }

    /// Commits if `done` is fine, rolls back if not, and passes `done` on.
    ///
    /// # Errors
    /// The error in `done`, or the commit's.
    pub async fn end<T>(
        &mut self,
        done: std::result::Result<T, sqlx::Error>,
    ) -> std::result::Result<T, sqlx::Error> {
        match done {
            Ok(value) => {
                self.run(sql::user_statements("COMMIT".into())).await?;
                Ok(value)
            }
            Err(error) => {
                // If this fails, the session is gone, and the transaction with it.
                let _ = self.run(sql::user_statements("ROLLBACK".into())).await;
                Err(error)
            }
        }
    }

    /// Prepares the session for DROP DATABASE: nothing may interrupt one, since that leaves an
    /// invalid database.
    ///
    /// # Errors
    /// The driver's.
    pub async fn make_uninterruptible(&mut self) -> std::result::Result<(), sqlx::Error> {
        let mut text = "SELECT set_config('statement_timeout', '0', false)".to_owned();
        if self.facts.major() >= 14 {
            text += ", set_config('client_connection_check_interval', '0', false)";
        }
        self.run(sql::user_statements(text)).await
    }

    /// Lets the server notice again that we died.
    ///
    /// # Errors
    /// The driver's.
    pub async fn make_interruptible(&mut self) -> std::result::Result<(), sqlx::Error> {
        if self.facts.major() < 14 {
            return Ok(());
        }
        let text = "SELECT set_config('client_connection_check_interval', '500ms', false)";
        self.run(sql::user_statements(text.to_owned())).await
    }

    /// Bounds the following statements; `None` removes the bound.
    ///
    /// # Errors
    /// The driver's.
    pub async fn set_timeout(
        &mut self,
        timeout: Option<Duration>,
    ) -> std::result::Result<(), sqlx::Error> {
        // 0 would switch the time-out off.
        let millis = timeout.map_or(0, |t| t.as_millis().clamp(1, i32::MAX as u128));
        self.execute(sql::fill(
            "SELECT set_config('statement_timeout', $1, false)",
            &[&millis.to_string()],
        ))
        .await?;
        Ok(())
    }

    /// Takes a lock if it is free. A session may take one lock several times.
    ///
    /// # Errors
    /// The driver's.
    pub async fn try_lock(&mut self, key: LockKey) -> std::result::Result<bool, sqlx::Error> {
        self.scalar(key.try_lock()).await
    }

    /// Takes a lock that others may share.
    ///
    /// # Errors
    /// The driver's.
    pub async fn try_lock_shared(
        &mut self,
        key: LockKey,
    ) -> std::result::Result<bool, sqlx::Error> {
        self.scalar(key.try_lock_shared()).await
    }

    /// Gives an exclusive lock back.
    ///
    /// # Errors
    /// The driver's.
    pub async fn unlock(&mut self, key: LockKey) -> std::result::Result<bool, sqlx::Error> {
        self.scalar(key.unlock()).await
    }

    /// Gives a shared lock back.
    ///
    /// # Errors
    /// The driver's.
    pub async fn unlock_shared(&mut self, key: LockKey) -> std::result::Result<bool, sqlx::Error> {
        self.scalar(key.unlock_shared()).await
    }

    /// Ends the session in an orderly way; its locks go with it.
    pub async fn close(self) {
        // A session that is already gone is closed, too.
        let _ = self.connection.close().await;
    }
}

enum Attempt {
    Driver(sqlx::Error),
    Late(Error),
}

fn unreachable(endpoint: &Endpoint, database: &str, error: sqlx::Error) -> Error {
    let state = state_of(&error).unwrap_or_default();
    let place = endpoint.place();
    let user = endpoint.user().to_owned();
    let base = |message: String| Error::new(Kind::Connect, message);
    let explained = match (&error, state.as_str()) {
        (sqlx::Error::Io(_), _) => base(format!("the server at {place} cannot be reached"))
            .hint("is it running, and is the URL right? `--server-url`, PGSTENCIL_SERVER_URL and `[server] url` name it; without any of them the managed server is used"),
        (_, "28P01" | "28000") => base(format!("the server at {place} refuses role `{user}`"))
            .hint("check user and password in the URL, and pg_hba.conf on the server"),
        (_, "55000") => base(format!("database `{database}` on {place} accepts no connections")),
        (_, "53300") => base(format!("the server at {place} has no free connection slot"))
            .hint("raise max_connections, or the CONNECTION LIMIT of the role or the database, or end idle sessions"),
        (_, "42501") => Error::new(
            Kind::Permission,
            format!("role `{user}` may not connect to database `{database}` on {place}"),
        )
        .hint(format!("GRANT CONNECT ON DATABASE \"{database}\" TO \"{user}\"; or name another database")),
        // What pgbouncer answers to startup options that it does not know.
        (_, "08P01") => pooler(endpoint),
        (sqlx::Error::Tls(_), _) => base(format!("no TLS session with the server at {place}"))
            .hint("check sslmode and sslrootcert in the URL"),
        _ => base(format!("no session with the server at {place}")),
    };
    explained.caused_by(error)
}

fn pooler(endpoint: &Endpoint) -> Error {
    Error::new(
        Kind::Connect,
        format!("there is a connection pooler in front of the server at {}", endpoint.place()),
    )
    .detail("a pooler shares sessions among its clients, and with them the locks that protect your databases")
    .hint("use the URL of the Postgres server itself")
}
