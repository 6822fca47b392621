//! Time limits of statements: on the server's side, where an abort is clean, and on pgstencil's side, since a
//! network that drops packets never answers.
//!
//! The server ends statements that take too long by `statement_timeout` and `lock_timeout`
//! (<https://www.postgresql.org/docs/current/runtime-config-client.html>), and the session continues. The
//! session, with its locks, is abandoned only if no answer comes. DROP DATABASE is the exception: an aborted
//! DROP leaves an invalid database, so the server never gets a time limit for it.

use std::fmt;
use std::time::Duration;

use crate::quantity::seconds;
use tokio_util::sync::CancellationToken;

/// The time limit of a statement, if no deadline of the caller ends it earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// For statements that read and write a few rows, or change the row of a database: one minute.
    Short,
    /// For statements that copy or count whole databases: one hour.
    Long,
    /// For the user's own statements, ANALYZE and VACUUM: one hour, and the statement is abandoned as soon as
    /// the caller cancels.
    User,
    /// For DROP DATABASE, which nothing may interrupt: its answer is awaited for ten minutes.
    Drop,
}

impl Patience {
    /// Returns the time that a running statement still gets after the caller cancels; `None` means no limit.
    pub(super) fn after_cancel(self) -> Option<Duration> {
        match self {
            // A statement that has begun may end normally, if that does not take long.
            Patience::Short | Patience::Long => Some(Duration::from_secs(3)),
            Patience::User => Some(Duration::ZERO),
            Patience::Drop => None,
        }
    }

    /// Returns the longest time that a statement may take.
    pub(crate) fn most(self) -> Duration {
        Duration::from_secs(match self {
            Patience::Short => 60,
            Patience::Drop => 600,
            Patience::Long | Patience::User => 3600,
        })
    }
}

/// Time that every statement gets, even after the caller's deadline: work that has begun must be finished
/// cleanly.
pub(super) const FLOOR: Duration = Duration::from_secs(1);
/// Extra time for the answer of a server that ended a statement.
const MARGIN: Duration = Duration::from_millis(700);

/// The reason why a statement has no result although the server did not refuse it.
#[derive(Debug)]
pub(crate) enum Delay {
    /// No answer came for this long. The session can no longer be used.
    Silent(Duration),
    /// The caller cancelled while the statement was running. The session can no longer be used.
    Interrupted,
    /// An earlier statement abandoned the session.
    Lost,
    /// The server ended the statement, since other sessions hold locks that it needs.
    Locked {
        /// The error of the server.
        cause: Box<sqlx::Error>,
        /// Descriptions of the sessions that probably hold the locks.
        holders: Vec<String>,
    },
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delay::Silent(time) => write!(f, "the server did not answer within {}", seconds(*time)),
            Delay::Interrupted => f.write_str("interrupted"),
            Delay::Lost => f.write_str("the session was closed because the server did not answer"),
            Delay::Locked { cause, .. } => match &**cause {
                sqlx::Error::Database(e) => f.write_str(e.message()),
                other => other.fmt(f),
            },
        }
    }
}

impl std::error::Error for Delay {}

impl Delay {
    /// Wraps the delay in the driver's error type, with which statements fail.
    pub(super) fn error(self) -> sqlx::Error {
        sqlx::Error::AnyDriverError(Box::new(self))
    }

    /// Returns the delay in a driver's error, if it contains one.
    pub(super) fn of(error: &sqlx::Error) -> Option<&Delay> {
        match error {
            sqlx::Error::AnyDriverError(inner) => inner.downcast_ref(),
            _ => None,
        }
    }

    /// Returns whether the session is lost, with its locks.
    pub(super) fn is_loss(&self) -> bool {
        !matches!(self, Delay::Locked { .. })
    }
}

/// Waits for the answer: no longer than `bound` plus the time in which the server reports that it ended the
/// statement, and no longer than `after` once the caller cancels.
pub(super) async fn within<T>(
    bound: Duration,
    cancel: &CancellationToken,
    after: Option<Duration>,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let given_up = async {
        match after {
            Some(after) => {
                cancel.cancelled().await;
                tokio::time::sleep(after).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        () = tokio::time::sleep(bound + MARGIN) => Err(Delay::Silent(bound + MARGIN).error()),
        () = given_up => Err(Delay::Interrupted.error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waited<T>(
        bound: Duration,
        cancel: &CancellationToken,
        after: Option<Duration>,
        answer: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(within(bound, cancel, after, answer))
    }

    #[test]
    fn an_answer_that_never_comes_is_given_up() {
        let never = std::future::pending();
        let ended = waited::<()>(Duration::ZERO, &CancellationToken::new(), None, never);
        let error = ended.unwrap_err();
        assert!(matches!(Delay::of(&error), Some(Delay::Silent(_))));
        assert!(Delay::of(&error).is_some_and(Delay::is_loss));
    }

    #[test]
    fn who_gives_up_waits_only_a_moment_for_what_runs() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let most = Patience::Short.most();
        let soon = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(7)
        };
        let after = Patience::Short.after_cancel();
        assert_eq!(waited(most, &cancel, after, soon).unwrap(), 7);
        let never = std::future::pending();
        let ended = waited::<()>(most, &cancel, Patience::User.after_cancel(), never);
        let error = ended.unwrap_err();
        assert!(matches!(Delay::of(&error), Some(Delay::Interrupted)));
    }
}
