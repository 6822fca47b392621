//! [`Session`]: one direct connection that holds locks and runs one statement per call.
//!
//! There is no pool: advisory locks belong to a session, and a session that holds some must be the
//! one that creates and drops. Dropping a future while a statement runs leaves the session blocked
//! until the statement ends, so statements are bounded by `statement_timeout`, not by dropping.

use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};
use tokio_util::sync::CancellationToken;

use super::Endpoint;
use super::bound::{self, Delay, FLOOR, Patience};
use super::failure::{Doing as _, state_of};
use super::lock::LockKey;
use super::message::{Answer, answers};
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
            // One that the clock cannot hold is none.
            deadline: wait.and_then(|w| Instant::now().checked_add(w)),
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
    /// The role that it began as, which is what the user's own sessions act as.
    pub began_as: String,
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
    limit: Limit,
    patience: Patience,
    /// The `statement_timeout` that the server has for the session.
    granted: Duration,
    /// An answer was given up, so that the next one could be that of another statement.
    lost: bool,
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
        let (mut session, _) = Self::open_with(endpoint, database, limit, &[], None).await?;
        session.patience = Patience::User;
        Ok(session)
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
        let granted = server_timeout(limit, Patience::Long);
        let (mut rows, mut held_up) = (None, None);
        if let Some(question) = question {
            let both = sql::user_statements(format!("{text}; {question}"));
            // If the question fails, the settings are taken back with it: one message is one transaction.
            let asked = sqlx::raw_sql(both).fetch_all(&mut connection);
            match within_limit(limit, asked).await {
                Ok(answered) => rows = Some(answered),
                Err(e) if Delay::of(&e).is_some() => {
                    return Err(OpenError::Other(unreachable(endpoint, database, e)));
                }
                // Others hold what it needs: to ask again would only wait again.
                Err(e) if matches!(state_of(&e).as_deref(), Some("55P03" | "57014")) => {
                    held_up = Some(e);
                }
                Err(_) => {}
            }
        }
        let rows = match rows {
            Some(rows) => rows,
            None => {
                let asked = sqlx::raw_sql(sql::user_statements(text)).fetch_all(&mut connection);
                within_limit(limit, asked)
                    .await
                    .doing(|| format!("set up a session with the server at {}", endpoint.place()))?
            }
        };
        let mut rows = rows.into_iter();
        let row = rows
            .next()
            .ok_or_else(|| Error::failed("the server has no database `template0`"))?;
        let seen: Option<String> = row.try_get("marker").unwrap_or(None);
        if seen.as_deref() != Some(marker.as_str()) {
            return Err(OpenError::Other(pooler(endpoint)));
        }
        let role: String = row.try_get("role").doing(|| "read the role".into())?;
        let facts = ServerFacts {
            version,
            fsync: row
                .try_get::<String, _>("fsync")
                .doing(|| "read fsync".into())?
                != "off",
            began_as: role.clone(),
            role,
            traits: super::catalog::traits(&row, version / 10_000)
                .doing(|| "read the server's encoding and locale".into())?,
        };
        let mut session = Session {
            connection,
            database: database.to_owned(),
            facts,
            limit: limit.clone(),
            patience: Patience::Short,
            granted,
            lost: false,
        };
        if let Some(e) = held_up {
            let holders = session.lock_holders().await;
            let delay: std::result::Result<(), _> = Err(Delay::Locked {
                cause: Box::new(e),
                holders,
            }
            .error());
            delay.doing(|| format!("read database `{database}`"))?;
        }
        Ok((session, rows.next()))
    }

    async fn attempt(
        endpoint: &Endpoint,
        database: &str,
        limit: &Limit,
        further: &[(&str, &str)],
    ) -> std::result::Result<(PgConnection, String), Attempt> {
        let marker = crate::names::random_text(16);
        let statements = server_timeout(limit, Patience::Long)
            .as_millis()
            .to_string();
        let locks = lock_timeout(limit).as_millis().to_string();
        let startup = [
            ("pgstencil.marker", marker.as_str()),
            ("statement_timeout", statements.as_str()),
            ("lock_timeout", locks.as_str()),
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

    /// The driver's connection, for queries with binds. Nothing bounds them.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// From here on statements are bounded by `limit`, and by the patience of the session.
    pub fn set_limit(&mut self, limit: &Limit) {
        self.limit = limit.clone();
    }

    /// From here on statements may take so long, if the limit does not end them earlier.
    pub fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// What the next statement may take.
    fn allowed(&self) -> Duration {
        allowed(&self.limit, self.patience)
    }

    /// Runs a statement made in [`super::sql`] as the only one of its message, as CREATE DATABASE and VACUUM
    /// must be.
    ///
    /// # Errors
    /// The driver's.
    pub async fn run(&mut self, statement: Statement) -> std::result::Result<(), sqlx::Error> {
        tracing::debug!(database = self.database, sql = statement.text(), "run");
        // The simple protocol: one message, one round trip, no prepared statement left behind.
        self.exchange(statement).await?;
        Ok(())
    }

    /// Sends a message, and waits for its answers as long as the session's bounds allow.
    async fn exchange(
        &mut self,
        message: Statement,
    ) -> std::result::Result<Vec<Answer>, sqlx::Error> {
        if self.lost {
            return Err(Delay::Lost.error());
        }
        let (bound, after) = (self.allowed(), self.patience.after_cancel());
        let asked = answers(&mut self.connection, message);
        let answered = bound::within(bound, &self.limit.cancel, after, asked).await;
        match answered {
            Err(e) if Delay::of(&e).is_some() => {
                self.lost = true;
                Err(e)
            }
            // Ended by one of our time-outs: a statement of a few rows waits for nothing but locks.
            Err(e)
                if self.patience == Patience::Short
                    && matches!(state_of(&e).as_deref(), Some("55P03" | "57014")) =>
            {
                let holders = self.lock_holders().await;
                Err(Delay::Locked {
                    cause: Box::new(e),
                    holders,
                }
                .error())
            }
            other => other,
        }
    }

    /// Sends statements as one message, with what bounds them on the server's side in front of it where that
    /// has changed.
    pub(super) async fn send_bounded(
        &mut self,
        statements: &[Statement],
    ) -> std::result::Result<Vec<Answer>, sqlx::Error> {
        let wanted = server_timeout(&self.limit, self.patience);
        let near = Duration::from_millis(50);
        if self.lost || wanted <= self.granted && self.granted <= wanted + near {
            return self.exchange(sql::together(statements)).await;
        }
        let locks = lock_timeout(&self.limit);
        let mut all = vec![timeouts(wanted, locks)];
        all.extend_from_slice(statements);
        let mut answers = self.exchange(sql::together(&all)).await?;
        // Only now: what fails takes the settings back with it.
        self.granted = wanted;
        answers.remove(0);
        Ok(answers)
    }

    /// Sessions whose transactions hold locks on our tables or on databases, in words; at most three.
    async fn lock_holders(&mut self) -> Vec<String> {
        let asked = answers(&mut self.connection, sql::fill(LOCK_HOLDERS, &[]));
        let found = bound::within(FLOOR, &self.limit.cancel, None, asked).await;
        let rows: Vec<(String,)> = match found {
            Ok(answers) => answers
                .first()
                .and_then(|answer| answer.read().ok())
                .unwrap_or_default(),
            Err(e) => {
                // In a transaction that failed nothing can be asked; without an answer the session is lost.
                self.lost = Delay::of(&e).is_some();
                Vec::new()
            }
        };
        rows.into_iter().map(|(words,)| words).collect()
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
        let mut text = "SELECT set_config('statement_timeout', '0', false), \
             set_config('lock_timeout', '0', false)"
            .to_owned();
        if self.facts.major() >= 14 {
            text += ", set_config('client_connection_check_interval', '0', false)";
        }
        self.run(sql::user_statements(text)).await?;
        self.patience = Patience::Drop;
        Ok(())
    }

    /// Lets the server notice again that we died, and end what takes too long.
    ///
    /// # Errors
    /// The driver's.
    pub async fn make_interruptible(&mut self) -> std::result::Result<(), sqlx::Error> {
        self.patience = Patience::Short;
        let wanted = server_timeout(&self.limit, self.patience);
        let mut statements = vec![timeouts(wanted, lock_timeout(&self.limit))];
        if self.facts.major() >= 14 {
            let text = "SELECT set_config('client_connection_check_interval', '500ms', false)";
            statements.push(sql::user_statements(text.to_owned()));
        }
        self.exchange(sql::together(&statements)).await?;
        self.granted = wanted;
        Ok(())
    }

    /// Lets the following statements take long, as CREATE DATABASE may, within the limit. Takes a round trip
    /// only if there is a deadline. [`Session::hurry`] ends that.
    ///
    /// # Errors
    /// The driver's.
    pub async fn take_time(&mut self) -> std::result::Result<(), sqlx::Error> {
        self.patience = Patience::Long;
        let wanted = server_timeout(&self.limit, self.patience);
        if wanted != self.granted {
            self.exchange(timeouts(wanted, lock_timeout(&self.limit)))
                .await?;
            self.granted = wanted;
        }
        Ok(())
    }

    /// The following statements are short ones again.
    pub fn hurry(&mut self) {
        self.patience = Patience::Short;
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
        // A session that is already gone is closed, too; nobody waits for a server that is silent.
        if !self.lost {
            let _ = tokio::time::timeout(FLOOR, self.connection.close()).await;
        }
    }
}

/// Sessions in other transactions that hold what ours may wait for: a table of the registry, or a database.
const LOCK_HOLDERS: &str = "SELECT DISTINCT format('pid %s (%s, role %s, database %s) is in a transaction \
     that began %s s ago', a.pid, coalesce(nullif(a.application_name, ''), 'no application name'), \
     a.usename, a.datname, extract(epoch FROM now() - a.xact_start)::bigint) \
     FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
     WHERE l.granted AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend' \
       AND (l.locktype = 'relation' AND l.mode <> 'AccessShareLock' \
         AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
         AND l.relation IN (SELECT c.oid FROM pg_catalog.pg_class c \
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgstencil') \
       OR l.locktype = 'object' AND l.database = 0 AND l.classid = 'pg_catalog.pg_database'::regclass \
       OR l.locktype = 'relation' AND l.database = 0 AND l.mode <> 'AccessShareLock') \
     LIMIT 3";

fn timeouts(statements: Duration, locks: Duration) -> Statement {
    // 0 would switch the time-out off.
    let millis = |time: Duration| time.as_millis().clamp(1, i32::MAX as u128).to_string();
    sql::fill(
        "SELECT set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false)",
        &[&millis(statements), &millis(locks)],
    )
}

fn allowed(limit: &Limit, patience: Patience) -> Duration {
    let most = patience.most();
    match limit.left() {
        Some(left) if patience != Patience::Drop => left.clamp(FLOOR, most),
        _ => most,
    }
}

/// On the server's side only a deadline and locks end what is short: to tell it of each change of patience would
/// take a round trip.
fn server_timeout(limit: &Limit, patience: Patience) -> Duration {
    match limit.left() {
        Some(_) => allowed(limit, patience),
        None => Patience::Long.most(),
    }
}

fn lock_timeout(limit: &Limit) -> Duration {
    allowed(limit, Patience::Short)
}

/// Waits for the first answer of a session.
async fn within_limit<T>(
    limit: &Limit,
    answer: impl Future<Output = std::result::Result<T, sqlx::Error>>,
) -> std::result::Result<T, sqlx::Error> {
    let bound = limit
        .left()
        .map_or(CONNECT_TIMEOUT, |l| l.clamp(FLOOR, CONNECT_TIMEOUT));
    bound::within(bound, &limit.cancel, Some(Duration::ZERO), answer).await
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
        // The URL is ours, so it is right: the server answered a moment ago.
        (sqlx::Error::Io(_), _) | (_, "57P01" | "57P03") if endpoint.is_managed() => {
            base(format!("the managed server at {place} has stopped"))
                .hint("run the command again: it starts the server; `pgstencil server status` shows how it is")
        }
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
