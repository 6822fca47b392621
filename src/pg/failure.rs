//! From a driver's error to one that names the object, the cause and a hint. Decides by SQLSTATE, never by
//! text: several texts changed between versions.

use std::error::Error as _;

use super::bound::Delay;
use super::sqlstate::SqlState;
use crate::error::{Error, Fault, Kind, Result};

/// Advice after a wait that exceeded its limit.
pub(super) const RAISE_WAIT: &str = "raise `--wait`, which limits all waits of a command";
/// Advice on a server without a free connection slot.
pub(super) const FREE_SLOTS: &str =
    "end idle sessions, or raise max_connections or the CONNECTION LIMIT of the role or the database";
/// Fact about a server whose disk is full during a copy.
pub(crate) const DISK_STUCK: &str =
    "Postgres can neither drop databases nor restart until there is space on the server's disk";
/// Advice on that.
pub(crate) const FREE_DISK: &str = "delete other files on the server's disk, or enlarge it";

/// Gives a driver's error its context.
pub(crate) trait Doing<T> {
    /// `doing` completes the sentence "could not …".
    ///
    /// # Errors
    /// The error itself, with a [`Kind`] and hints by its SQLSTATE.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, sqlx::Error> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| explain(error, &doing()))
    }
}

/// Returns the SQLSTATE of the driver's error under `error`.
pub(crate) fn sqlstate(error: &Error) -> Option<SqlState> {
    let source = error.source()?;
    match source.downcast_ref::<Said>() {
        Some(said) => said.state,
        None => SqlState::of(source.downcast_ref::<sqlx::Error>()?),
    }
}

/// Returns an error's text for the user. For the server's errors only the message: the driver would add that it
/// comes from the server, and the line of the server's source.
pub(crate) fn words(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<sqlx::Error>() {
        Some(sqlx::Error::Database(e)) => e.message().to_owned(),
        Some(e) if let Some(delay) = Delay::of(e) => delay.to_string(),
        _ => error.to_string(),
    }
}

/// Returns the text of an error's cause, or its own where there is none.
pub(crate) fn cause(error: &Error) -> String {
    error.source().map_or_else(|| error.to_string(), words)
}

/// Returns whether the session is gone, and its locks with it.
pub(crate) fn is_connection_loss(error: &Error) -> bool {
    error.has_fault(Fault::ConnectionLost)
}

pub(super) fn is_loss(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::AnyDriverError(_) => Delay::of(error).is_some_and(Delay::is_loss),
        _ => SqlState::of(error).is_some_and(SqlState::is_connection),
    }
}

/// Explains a statement that the server did not answer, or that other sessions blocked.
fn explain_delay(delay: &Delay, doing: &str) -> Error {
    let error = |kind| Error::new(kind, format!("could not {doing}"));
    match delay {
        Delay::Silent(_) => error(Kind::Timeout)
            .hint("check the network between this machine and the server")
            .hint(RAISE_WAIT),
        Delay::Lost => error(Kind::Connect),
        Delay::Interrupted => error(Kind::Interrupted),
        Delay::Locked { holders, .. } => {
            let error = holders.iter().fold(error(Kind::Timeout), |e, holder| e.detail(holder));
            match holders.is_empty() {
                true => error.hint("raise `--wait` (without it, a statement waits one minute for a lock)"),
                false => {
                    error.hint("end that transaction, or its session: SELECT pg_terminate_backend(PID);")
                }
            }
        }
    }
}

/// Explains an error of the user's own statements: the user can correct it ([`Kind::Build`]), unless the
/// session was lost, the time was up, or the caller cancelled. The server quotes the statements, so `redact`
/// removes secrets, also from the output of `Debug`.
pub(crate) fn of_user(error: sqlx::Error, doing: &str, redact: &dyn Fn(&str) -> String) -> Error {
    let state = SqlState::of(&error);
    let ours = is_loss(&error) || Delay::of(&error).is_some() || state == Some(SqlState::QUERY_CANCELED);
    let said = Said { words: redact(&words(&error)), state };
    let full = explain(error, doing);
    let kind = if ours { full.kind() } else { Kind::Build };
    let shown = Error::new(kind, full.message());
    let shown = full.details().iter().fold(shown, |e, d| e.detail(redact(d)));
    let hints = full.hints().iter();
    // Errors of pgstencil's own time limits name other statements.
    let shown = match ours {
        true => hints.fold(shown, |e, hint| e.hint(redact(hint))),
        false => shown,
    };
    let of_server = [Fault::DiskFull, Fault::ConnectionLost].into_iter().find(|fault| full.has_fault(*fault));
    let shown = match of_server {
        Some(fault) => shown.fault(fault),
        None => shown,
    };
    shown.caused_by(said)
}

/// The parts of a driver's error that may be shown, if the error itself may not.
#[derive(Debug)]
struct Said {
    words: String,
    state: Option<SqlState>,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Said {}

fn explain(error: sqlx::Error, doing: &str) -> Error {
    let fault = fault_of(&error);
    let explained = match Delay::of(&error) {
        Some(delay) => explain_delay(delay, doing),
        None => explain_answer(&error, doing),
    };
    let explained = match fault {
        Some(fault) => explained.fault(fault),
        None => explained,
    };
    explained.caused_by(error)
}

/// Returns the fault that another attempt can do something about.
fn fault_of(error: &sqlx::Error) -> Option<Fault> {
    if is_loss(error) {
        return Some(Fault::ConnectionLost);
    }
    Some(match SqlState::of(error)? {
        SqlState::DISK_FULL => Fault::DiskFull,
        SqlState::DUPLICATE_DATABASE | SqlState::UNIQUE_VIOLATION => Fault::NameTaken,
        SqlState::INVALID_CATALOG_NAME | SqlState::UNDEFINED_OBJECT => Fault::Missing,
        SqlState::OBJECT_IN_USE => Fault::InUse,
        SqlState::INSUFFICIENT_PRIVILEGE => Fault::RightMissing,
        _ => return None,
    })
}

fn explain_answer(error: &sqlx::Error, doing: &str) -> Error {
    let (kind, hint) = match SqlState::of(error) {
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => (Kind::Permission, None),
        Some(SqlState::QUERY_CANCELED) => (
            Kind::Timeout,
            Some("raise `--wait` if its time was over; otherwise another session cancelled the statement"),
        ),
        Some(SqlState::DISK_FULL) => (
            Kind::Failed,
            Some(
                "free space on the server's disk (`pgstencil list` shows the sizes of templates and clones)",
            ),
        ),
        Some(SqlState::TOO_MANY_CONNECTIONS) => (Kind::Connect, Some(FREE_SLOTS)),
        Some(SqlState::OBJECT_IN_USE) => {
            (Kind::Failed, Some("end the sessions that are still connected to the database"))
        }
        Some(SqlState::INVALID_CATALOG_NAME) => (Kind::NotFound, None),
        _ if is_loss(error) => (Kind::Connect, None),
        _ => (Kind::Failed, None),
    };
    let mut result = Error::new(kind, format!("could not {doing}"));
    if let Some(db) = error.as_database_error()
        && let Some(pg) = db.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
    {
        if let Some(detail) = pg.detail() {
            result = result.detail(detail.to_owned());
        }
        if let Some(hint) = pg.hint() {
            result = result.hint(hint.to_owned());
        }
    }
    match hint {
        Some(hint) => result.hint(hint),
        None => result,
    }
}
