//! How long a statement may take: on the server's side, where an abort is clean, and on ours, since a
//! network that swallows packets never answers.
//!
//! The server ends what takes too long by `statement_timeout` and `lock_timeout`
//! (<https://www.postgresql.org/docs/current/runtime-config-client.html>), and the session goes on. Only if
//! no answer comes is the session given up, and with it its locks. DROP DATABASE is the exception: an
//! aborted one leaves an invalid database, so the server is never told to end it.

use std::fmt;
use std::time::Duration;

use crate::quantity::seconds;
use tokio_util::sync::CancellationToken;

/// How long a statement may take if no deadline of the caller's ends it earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Reads and writes a few rows, or changes the row of a database: a minute.
    Short,
    /// Copies or counts whole databases: an hour.
    Long,
    /// The user's own, or ANALYZE and VACUUM: an hour, and given up as soon as the caller gives up.
    User,
    /// A DROP DATABASE, which nothing may interrupt: ten minutes pass before its answer is given up.
    Drop,
}

impl Patience {
    /// What a statement that runs already may still take when the caller gives up; `None` is as long as it takes.
    pub(super) fn after_cancel(self) -> Option<Duration> {
        match self {
            // What was begun ends in order, if that does not take long.
            Patience::Short | Patience::Long => Some(Duration::from_secs(3)),
            Patience::User => Some(Duration::ZERO),
            Patience::Drop => None,
        }
    }

    /// The longest time that a statement may take.
    pub fn most(self) -> Duration {
        Duration::from_secs(match self {
            Patience::Short => 60,
            Patience::Drop => 600,
            Patience::Long | Patience::User => 3600,
        })
    }
}

/// What every statement may take, even behind the caller's deadline: what was begun must be put in order.
pub(super) const FLOOR: Duration = Duration::from_secs(1);
/// The answer of a server that ended a statement takes its time, too.
const MARGIN: Duration = Duration::from_millis(700);

/// Why a statement came to nothing although the server did not refuse it.
#[derive(Debug)]
pub enum Delay {
    /// No answer came for this long. The session is of no use any more.
    Silent(Duration),
    /// The caller gave up while the statement ran. The session is of no use any more.
    Interrupted,
    /// The session was given up by an earlier statement.
    Lost,
    /// The server ended the statement, since others hold what it needs.
    Locked {
        /// What the server said.
        cause: Box<sqlx::Error>,
        /// The sessions that seem to be in the way, in words.
        holders: Vec<String>,
    },
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delay::Silent(time) => write!(f, "the server did not answer within {}", seconds(*time)),
            Delay::Interrupted => f.write_str("interrupted"),
            Delay::Lost => f.write_str("the session was given up since the server did not answer"),
            Delay::Locked { cause, .. } => match &**cause {
                sqlx::Error::Database(e) => f.write_str(e.message()),
                other => other.fmt(f),
            },
        }
    }
}

impl std::error::Error for Delay {}

impl Delay {
    /// As the driver's error, which is what statements fail with.
    pub(super) fn error(self) -> sqlx::Error {
        sqlx::Error::AnyDriverError(Box::new(self))
    }

    /// The delay in a driver's error, if it is one.
    pub(super) fn of(error: &sqlx::Error) -> Option<&Delay> {
        match error {
            sqlx::Error::AnyDriverError(inner) => inner.downcast_ref(),
            _ => None,
        }
    }

    /// Whether the session, and its locks with it, is gone.
    pub(super) fn is_loss(&self) -> bool {
        !matches!(self, Delay::Locked { .. })
    }
}

/// Waits for the answer, but no longer than `bound` and what the server needs to say that it ended the
/// statement, nor longer than `after` once the caller gave up.
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
