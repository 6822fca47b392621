//! Start of a [`Session`]: the connection, the settings that every session of pgstencil has, and the guard
//! before the first question to a database that may be a stranger's.

use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _};

use super::bound::{self, Delay, FLOOR, Patience};
use super::door::Door;
use super::failure::{Doing as _, is_loss};
use super::session::{Deadline, OpenError, ServerFacts, Session, lock_timeout, server_timeout};
use super::slots::SCARCE;
use super::sql::{self, Part, Statement};
use super::sqlstate::SqlState;
use super::{Endpoint, catalog};
use crate::error::{Error, Fault, Kind, Result};
use crate::quantity::seconds;

/// Time limit of a connection attempt when nothing else bounds it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Only the system's own functions and operators are found by their bare names. No statement is compiled: for queries of
/// the catalogs that takes many times as long as to run them.
const BARE: [(&str, &str); 2] = [("search_path", "pg_catalog"), ("jit", "off")];

/// A statement that fails with 22012 (division by zero) in a stranger's database. Its one row has `role`, the
/// role that the session acts as from then on, and `began_as`, the role that it would have begun as without a
/// door. It depends on the server's major version, and on whether the session began as `pg_database_owner`.
pub(crate) type Guard = fn(u32, bool) -> Statement;

/// A session that passed a guard.
pub(crate) struct Entered {
    /// The session.
    pub(crate) session: Session,
    /// The guard that it passed, for later messages.
    pub(crate) guard: Statement,
    /// Answer to the question. A question that failed changed nothing.
    pub(crate) answer: std::result::Result<PgRow, sqlx::Error>,
}

/// Reason why [`Session::enter`] failed.
#[derive(Debug)]
pub(crate) enum EnterError {
    /// The database does not exist (3D000).
    Missing,
    /// No guard let the session in. None of the database's code has run; its system catalogs may be read, and
    /// nothing else.
    Stranger(Box<Session>),
    /// Anything else.
    Other(Error),
}

impl From<Error> for EnterError {
    fn from(error: Error) -> Self {
        EnterError::Other(error)
    }
}

impl From<OpenError> for EnterError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Missing => EnterError::Missing,
            OpenError::Other(error) => EnterError::Other(error),
        }
    }
}

/// Returns whether a guard refused the question that follows it.
pub(crate) fn is_refusal(error: &sqlx::Error) -> bool {
    SqlState::of(error) == Some(SqlState::DIVISION_BY_ZERO)
}

impl Session {
    /// Opens a session. Waits for a server that is just starting, within `deadline`.
    ///
    /// The session has `search_path = pg_catalog` and no time-outs of the role's; from 14 on the server notices
    /// within half a second that pgstencil died (`client_connection_check_interval`), which ends a CREATE that
    /// no process waits for.
    ///
    /// # Errors
    /// [`OpenError::Missing`] when the database does not exist; otherwise unreachable, refused, too old, or a
    /// pooler in between that does not keep sessions.
    pub async fn open(
        endpoint: &Endpoint,
        database: &str,
        deadline: &Deadline,
    ) -> std::result::Result<Self, OpenError> {
        Self::open_with(endpoint, database, deadline, &BARE).await
    }

    /// Opens a session for statements of the user's own: with the `search_path` that the user's
    /// sessions have, otherwise like [`Session::open`].
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(crate) async fn open_for_user(
        endpoint: &Endpoint,
        database: &str,
        deadline: &Deadline,
    ) -> std::result::Result<Self, OpenError> {
        let mut session = Self::open_with(endpoint, database, deadline, &[]).await?;
        session.set_patience(Patience::User);
        Ok(session)
    }

    async fn open_with(
        endpoint: &Endpoint,
        database: &str,
        deadline: &Deadline,
        further: &[(&str, &str)],
    ) -> std::result::Result<Self, OpenError> {
        let connected = Connected::new(endpoint, database, deadline, further).await;
        let mut connected = connected.map_err(|refused| refused.explain(endpoint, database))?;
        let version = connected.version(endpoint)?;
        let rows = connected.ask(deadline, &[settings(version)]).await;
        let rows = rows.doing(|| setting_up(endpoint))?;
        let facts = connected.facts(endpoint, version, rows.first())?;
        Ok(connected.session(database, facts, deadline))
    }

    /// Opens a session with a database that may be a stranger's, and asks it a first question in the same round
    /// trip. No code of a stranger runs: not when the session starts (see [`super::door`]), and not by the
    /// question, which is sent in one message after a guard: where that fails, the question is not even
    /// planned. The first of `guards` that passes counts; each further one costs a round trip. The question
    /// binds nothing.
    ///
    /// # Errors
    /// As [`Session::open`]; [`EnterError::Stranger`] if no guard passes.
    pub(crate) async fn enter(
        endpoint: &Endpoint,
        database: &str,
        deadline: &Deadline,
        guards: &[Guard],
        question: Option<&'static str>,
    ) -> std::result::Result<Entered, EnterError> {
        let mut door = endpoint.door().unwrap_or(Door::Quiet);
        let mut connected = loop {
            let options = [&BARE, door.options()].concat();
            match Connected::new(endpoint, database, deadline, &options).await {
                Ok(connected) => break connected,
                Err(Refused::Driver(e)) => match SqlState::of(&e).and_then(|state| door.next(state)) {
                    Some(next) => door = next,
                    None => return Err(Refused::Driver(e).explain(endpoint, database).into()),
                },
                Err(refused) => return Err(refused.explain(endpoint, database).into()),
            }
        };
        let version = connected.version(endpoint)?;
        for guard in guards {
            let guard = guard(version / 10_000, door == Door::Owner);
            let asked = connected.ask_behind(&guard, deadline, version, question).await;
            let asked = match asked {
                Err(e) if Delay::of(&e).is_some() => {
                    return Err(unreachable(endpoint, database, e).into());
                }
                asked => asked.doing(|| setting_up(endpoint))?,
            };
            let Some((rows, failed)) = asked else {
                continue;
            };
            let mut facts = connected.facts(endpoint, version, rows.get(1))?;
            if let Some(row) = rows.first() {
                let roles = (row.try_get("role"), row.try_get("began_as"));
                facts.role = roles.0.doing(|| setting_up(endpoint))?;
                facts.began_as = roles.1.doing(|| setting_up(endpoint))?;
            }
            endpoint.set_door(still(door, &facts, rows.get(1)));
            let mut session = connected.session(database, facts, deadline);
            let answer = match failed {
                None => rows.into_iter().nth(2).ok_or(sqlx::Error::RowNotFound),
                // Other sessions hold its locks: to ask again would only wait again.
                Some(e)
                    if matches!(
                        SqlState::of(&e),
                        Some(SqlState::LOCK_NOT_AVAILABLE | SqlState::QUERY_CANCELED)
                    ) =>
                {
                    let delayed: std::result::Result<PgRow, _> = Err(session.locked(e).await);
                    Ok(delayed.doing(|| format!("read database `{database}`"))?)
                }
                Some(e) => Err(e),
            };
            return Ok(Entered { session, guard, answer });
        }
        let rows = connected.ask(deadline, &[settings(version)]).await;
        let rows = rows.doing(|| setting_up(endpoint))?;
        let facts = connected.facts(endpoint, version, rows.first())?;
        endpoint.set_door(still(door, &facts, rows.first()));
        let session = connected.session(database, facts, deadline);
        Err(EnterError::Stranger(Box::new(session)))
    }
}

/// Returns the door, if it is the right one for the next session, too.
fn still(door: Door, facts: &ServerFacts, row: Option<&PgRow>) -> Option<Door> {
    let fits = match door {
        Door::Before17 => facts.major() < 17,
        Door::Quiet => true,
        // A superuser can become any role.
        Door::Owner => row.is_some_and(|row| !row.try_get("mighty").unwrap_or(true)),
    };
    fits.then_some(door)
}

/// Time that a session waits for a free slot, if the caller sets no other.
const SLOT_PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is not a session yet.
struct Connected {
    connection: PgConnection,
    marker: String,
}

impl Connected {
    async fn new(
        endpoint: &Endpoint,
        database: &str,
        deadline: &Deadline,
        further: &[(&str, &str)],
    ) -> std::result::Result<Self, Refused> {
        let started = Instant::now();
        loop {
            match Self::attempt(endpoint, database, deadline, further).await {
                // the server is starting up or shutting down.
                Err(Refused::Driver(e))
                    if SqlState::of(&e) == Some(SqlState::CANNOT_CONNECT_NOW)
                        && started.elapsed() < Duration::from_secs(60) =>
                {
                    deadline
                        .pause(Duration::from_millis(100), "the server to start")
                        .await
                        .map_err(Refused::Late)?;
                }
                // all slots are taken. Other sessions may end soon.
                Err(Refused::Driver(e))
                    if SqlState::of(&e) == Some(SqlState::TOO_MANY_CONNECTIONS)
                        && endpoint.waits()
                        && started.elapsed() < SLOT_PATIENCE =>
                {
                    deadline
                        .pause(Duration::from_millis(50), "a free connection slot")
                        .await
                        .map_err(Refused::Late)?;
                }
                done => return done,
            }
        }
    }

    async fn attempt(
        endpoint: &Endpoint,
        database: &str,
        deadline: &Deadline,
        further: &[(&str, &str)],
    ) -> std::result::Result<Self, Refused> {
        let marker = crate::names::random_text(16);
        let statements = server_timeout(deadline, Patience::Long).as_millis().to_string();
        let locks = lock_timeout(deadline).as_millis().to_string();
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
        let options = endpoint.options(database, &startup).disable_statement_logging();
        let patience = deadline.left().map_or(CONNECT_TIMEOUT, |l| l.min(CONNECT_TIMEOUT));
        match tokio::time::timeout(patience, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => Ok(Connected { connection, marker }),
            Ok(Err(e)) => Err(Refused::Driver(e)),
            Err(_) if patience < CONNECT_TIMEOUT => Err(Refused::Late(
                Error::new(
                    Kind::Timeout,
                    format!("timed out waiting for the server at {}", endpoint.place()),
                )
                .hint(super::RAISE_WAIT),
            )),
            Err(_) => Err(Refused::Late(
                Error::new(
                    Kind::Connect,
                    format!(
                        "the server at {} did not answer within {}",
                        endpoint.place(),
                        seconds(patience)
                    ),
                )
                .hint("check the host and the port, and whether a firewall drops the packets or a connection pooler makes its clients wait"),
            )),
        }
    }

    fn version(&self, endpoint: &Endpoint) -> Result<u32> {
        let version = self.connection.server_version_num().unwrap_or(0);
        if version != 0 && version < 130_000 {
            return Err(Error::new(
                Kind::Connect,
                format!("the server at {} is PostgreSQL {}", endpoint.place(), version / 10_000),
            )
            .hint("pgstencil needs PostgreSQL 13 or later"));
        }
        Ok(version)
    }

    /// Sends statements as one message. Returns the rows of all of them.
    async fn ask(
        &mut self,
        deadline: &Deadline,
        message: &[Statement],
    ) -> std::result::Result<Vec<PgRow>, sqlx::Error> {
        let bound = deadline.left().map_or(CONNECT_TIMEOUT, |l| l.clamp(FLOOR, CONNECT_TIMEOUT));
        let asked = sqlx::raw_sql(sql::together(message)).fetch_all(&mut self.connection);
        bound::within(bound, &deadline.cancel, Some(Duration::ZERO), asked).await
    }

    /// Sets the session up after a guard, and asks the question. `None`: the guard refuses. A question may fail
    /// alone; its error is then returned next to the rows of the guard and the settings.
    async fn ask_behind(
        &mut self,
        guard: &Statement,
        deadline: &Deadline,
        version: u32,
        question: Option<&'static str>,
    ) -> std::result::Result<Option<(Vec<PgRow>, Option<sqlx::Error>)>, sqlx::Error> {
        let mut message = vec![guard.clone(), settings(version)];
        let mut failed = None;
        if let Some(question) = question {
            message.push(sql::fill(question, &[]));
            match self.ask(deadline, &message).await {
                Ok(rows) => return Ok(Some((rows, None))),
                Err(e) if is_refusal(&e) => return Ok(None),
                Err(e) if Delay::of(&e).is_some() => return Err(e),
                // The error also reverted the settings: one message is one transaction.
                Err(e) => failed = Some(e),
            }
            message.pop();
        }
        match self.ask(deadline, &message).await {
            Ok(rows) => Ok(Some((rows, failed))),
            Err(e) if is_refusal(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads the server's facts about itself, in the row of [`settings`].
    fn facts(&self, endpoint: &Endpoint, version: u32, row: Option<&PgRow>) -> Result<ServerFacts> {
        let row = row.ok_or_else(|| Error::failed("the server has no database `template0`"))?;
        let seen: Option<String> = row.try_get("marker").unwrap_or(None);
        if seen.as_deref() != Some(self.marker.as_str()) {
            return Err(pooler(endpoint));
        }
        // A limit of the role is found by background work: its catalog costs more than all that is asked for here.
        if row.try_get::<i32, _>("slots").is_ok_and(|slots| i64::from(slots) < SCARCE) {
            endpoint.found_scarce();
        }
        let text = |column: &str| {
            let value: std::result::Result<String, _> = row.try_get(column);
            value.doing(|| format!("read the server's {column}"))
        };
        Ok(ServerFacts {
            version,
            fsync: text("fsync")? != "off",
            role: text("role")?,
            began_as: text("role")?,
            traits: catalog::traits(row, version / 10_000)
                .doing(|| "read the server's encoding and locale".into())?,
        })
    }

    fn session(self, database: &str, facts: ServerFacts, deadline: &Deadline) -> Session {
        Session::begun(self.connection, database, facts, deadline)
    }
}

/// Sets a session up, and reads the server's facts about itself. These settings do not exist everywhere, and an
/// unknown one in the startup packet would be refused; `set_config` of exactly the known ones costs no further
/// round trip.
fn settings(version: u32) -> Statement {
    let of_14 = match version {
        ..140_000 => "",
        _ => {
            ", set_config('idle_session_timeout', '0', false) \
              , set_config('client_connection_check_interval', '500ms', false)"
        }
    };
    let of_17 = match version {
        ..170_000 => "",
        _ => ", set_config('transaction_timeout', '0', false)",
    };
    sql::fill(
        "SELECT current_setting('pgstencil.marker', true) AS marker, \
         current_setting('max_connections')::int4 AS slots, current_setting('fsync') AS fsync, current_user::text AS role, \
         pg_has_role(session_user, 'pg_execute_server_program', 'MEMBER') AS mighty, $1 $2 $3 \
         FROM pg_catalog.pg_database WHERE datname = 'template0'",
        &[&catalog::traits_columns(version / 10_000), &Part(of_14), &Part(of_17)],
    )
}

fn setting_up(endpoint: &Endpoint) -> String {
    format!("set up a session with the server at {}", endpoint.place())
}

/// Reason why there is no connection.
enum Refused {
    Driver(sqlx::Error),
    Late(Error),
}

impl Refused {
    fn explain(self, endpoint: &Endpoint, database: &str) -> OpenError {
        match self {
            Refused::Driver(e) if SqlState::of(&e) == Some(SqlState::INVALID_CATALOG_NAME) => {
                OpenError::Missing
            }
            Refused::Driver(e) => OpenError::Other(unreachable(endpoint, database, e)),
            Refused::Late(e) => OpenError::Other(e),
        }
    }
}

fn unreachable(endpoint: &Endpoint, database: &str, error: sqlx::Error) -> Error {
    let state = SqlState::of(&error);
    let place = endpoint.place();
    let user = endpoint.user().to_owned();
    let base = |message: String| Error::new(Kind::Connect, message);
    let explained = match (&error, state) {
        _ if matches!(Delay::of(&error), Some(Delay::Interrupted)) => {
            Error::new(Kind::Interrupted, format!("could not open a session with the server at {place}"))
        }
        // The URL is pgstencil's, so it is right: the server answered a moment ago.
        (sqlx::Error::Io(_), _) | (_, Some(SqlState::ADMIN_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW)) if endpoint.is_private() => {
            base(format!("the private server at {place} has stopped"))
                .hint("run the command again, which starts the server (`pgstencil server status` shows its state)")
        }
        (sqlx::Error::Io(_), _) => base(format!("the server at {place} cannot be reached"))
            .hint("check that the server is running, and the URL in `--server-url`, PGSTENCIL_SERVER_URL or `[server] url` (without a URL, pgstencil uses the private server)"),
        (_, Some(SqlState::INVALID_PASSWORD)) => match endpoint.password_source() {
            None => base(format!("the server at {place} refuses role `{user}`: it requires a password, and none was given"))
                .hint(format!("set PGPASSWORD, add a line to the password file (`~/.pgpass`), or write the password into the server URL: `postgresql://{user}:PASSWORD@HOST/postgres`")),
            Some(source) => base(format!("the server at {place} refuses role `{user}`: the password is wrong, or there is no such role"))
                .detail(format!("the password comes from {source}"))
                .hint(format!("correct the password in {source}, or use another role")),
        },
        (_, Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION)) => base(format!("the server at {place} refuses role `{user}`"))
            .hint("check that the role exists and may log in, and pg_hba.conf on the server"),
        (_, Some(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)) => base(format!("database `{database}` on {place} accepts no connections")),
        (_, Some(SqlState::TOO_MANY_CONNECTIONS)) => base(format!("the server at {place} has no free connection slot"))
            .hint(super::FREE_SLOTS),
        (_, Some(SqlState::INSUFFICIENT_PRIVILEGE)) => Error::new(
            Kind::Permission,
            format!("role `{user}` may not connect to database `{database}` on {place}"),
        )
        .hint(format!("GRANT CONNECT ON DATABASE \"{database}\" TO \"{user}\"; or name another database")),
        // Answer of pgbouncer to startup options that it does not know.
        (_, Some(SqlState::PROTOCOL_VIOLATION)) => pooler(endpoint),
        (sqlx::Error::Tls(_), _) => base(format!("no TLS session with the server at {place}"))
            .hint("check sslmode and sslrootcert in the URL"),
        _ => base(format!("no session with the server at {place}")),
    };
    let explained = match is_loss(&error) {
        true => explained.fault(Fault::ConnectionLost),
        false => explained,
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
