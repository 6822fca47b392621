//! [`Session`]: one direct connection that holds locks and runs one statement per call.
//!
//! There is no pool: advisory locks belong to a session, and a session that holds some must be the one that
//! creates and drops. Dropping a future while a statement runs leaves the session blocked until the statement
//! ends, so statements are bounded by `statement_timeout`, not by dropping.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use super::bound::{self, Delay, FLOOR, Patience};
use super::lock::LockKey;
use super::message::{Answer, answers};
use super::sql::{self, Part, Statement};
use super::sqlstate::SqlState;
use crate::error::{Error, Kind, Result};
use crate::fingerprint::ServerTraits;

/// The time that a caller is willing to wait, and its way to cancel earlier.
#[derive(Clone, Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    /// Set when the caller cancels; checked between statements.
    pub cancel: CancellationToken,
}

impl Deadline {
    /// Bounds all waits together; `None` sets no limit.
    pub fn new(wait: Option<Duration>, cancel: CancellationToken) -> Self {
        Deadline {
            // A limit beyond the range of the clock is none.
            at: wait.and_then(|w| Instant::now().checked_add(w)),
            cancel,
        }
    }

    /// Returns the remaining time; `None` is unlimited.
    pub fn left(&self) -> Option<Duration> {
        self.at.map(|d| d.saturating_duration_since(Instant::now()))
    }

    /// Fails when the caller cancelled or the deadline has passed.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] or [`Kind::Timeout`].
    pub fn check(&self, waiting_for: &str) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(Kind::Interrupted, "interrupted"));
        }
        if self.left().is_some_and(|left| left.is_zero()) {
            return Err(Error::new(Kind::Timeout, format!("timed out waiting for {waiting_for}"))
                .hint(super::RAISE_WAIT));
        }
        Ok(())
    }

    /// Sleeps, but no longer than the limit allows, then checks it.
    ///
    /// # Errors
    /// As [`Deadline::check`].
    pub async fn pause(&self, time: Duration, waiting_for: &str) -> Result<()> {
        let time = self.left().map_or(time, |left| left.min(time));
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep(time) => {}
        }
        self.check(waiting_for)
    }
}

/// Reason why a session could not be opened, where the caller may know what to do.
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

/// Facts that a server reports about itself, read when the session opens.
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
    /// Traits of new databases.
    pub traits: ServerTraits,
}

impl ServerFacts {
    /// Returns the major version, 13 to 18.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

/// A connection to one database, set up the way pgstencil needs it.
pub struct Session {
    connection: PgConnection,
    database: String,
    facts: ServerFacts,
    deadline: Deadline,
    patience: Patience,
    /// The `statement_timeout` that the server has for the session.
    granted: Duration,
    /// Whether an answer was abandoned, so that the next one could be that of another statement.
    lost: bool,
    /// The statements that it sent and that the server can keep for it, by name.
    sent: HashMap<&'static str, Sent>,
}

/// Statement that the server can keep for a session.
struct Sent {
    text: Cow<'static, str>,
    /// Number of times that it was sent; after [`sql::SENT_AS_IT_IS`] times the server keeps it.
    times: u32,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.database)
    }
}

impl Session {
    /// Creates a session that is set up.
    pub(super) fn begun(
        connection: PgConnection,
        database: &str,
        facts: ServerFacts,
        deadline: &Deadline,
    ) -> Self {
        Session {
            connection,
            database: database.to_owned(),
            facts,
            deadline: deadline.clone(),
            patience: Patience::Short,
            granted: server_timeout(deadline, Patience::Long),
            lost: false,
            sent: HashMap::new(),
        }
    }

    /// Returns the name of the session's database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Returns the connection, for data that flows in one direction.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Returns the server's facts about itself.
    pub fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    /// Bounds the following statements by `deadline`, and by the patience of the session.
    pub fn set_deadline(&mut self, deadline: &Deadline) {
        self.deadline = deadline.clone();
    }

    /// Sets the time that the following statements may take, if the limit does not end them earlier.
    pub(crate) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Returns the time that the next statement may take.
    fn allowed(&self) -> Duration {
        allowed(&self.deadline, self.patience)
    }

    /// Runs a statement made in [`super::sql`] as the only one of its message, as CREATE DATABASE and VACUUM must be.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn run(&mut self, statement: Statement) -> std::result::Result<(), sqlx::Error> {
        tracing::debug!(database = self.database, sql = statement.outline(), "run");
        // The simple protocol: one message, one round trip, no prepared statement remains.
        self.exchange(statement).await?;
        Ok(())
    }

    /// Runs the user's own statements. They may contain passwords, so none of them is traced.
    ///
    /// # Errors
    /// Errors of the driver; see [`super::of_user`].
    pub async fn run_users(&mut self, text: String) -> std::result::Result<(), sqlx::Error> {
        tracing::debug!(database = self.database, "run the user's statements");
        self.exchange(sql::user_statements(text)).await?;
        Ok(())
    }

    /// Sends a message, and waits for its answers as long as the session's bounds allow.
    async fn exchange(&mut self, message: Statement) -> std::result::Result<Vec<Answer>, sqlx::Error> {
        if self.lost {
            return Err(Delay::Lost.error());
        }
        let (bound, after) = (self.allowed(), self.patience.after_cancel());
        let asked = answers(&mut self.connection, message);
        let answered = bound::within(bound, &self.deadline.cancel, after, asked).await;
        match answered {
            Err(e) if Delay::of(&e).is_some() => {
                self.lost = true;
                Err(e)
            }
            // Ended by one of pgstencil's time-outs: a statement of a few rows waits only for locks.
            Err(e)
                if self.patience == Patience::Short
                    && matches!(
                        SqlState::of(&e),
                        Some(SqlState::LOCK_NOT_AVAILABLE | SqlState::QUERY_CANCELED)
                    ) =>
            {
                Err(self.locked(e).await)
            }
            other => other,
        }
    }

    /// Joins statements to one message, in which those that the server keeps for the session stand for their texts. Has
    /// the server keep what was sent [often enough](sql::SENT_AS_IT_IS).
    async fn message(&mut self, statements: &[Statement]) -> std::result::Result<Statement, sqlx::Error> {
        let mut message = Vec::with_capacity(statements.len());
        for statement in statements {
            let Some(plan) = statement.plan() else {
                message.push(statement.clone());
                continue;
            };
            let sent = self.sent.get(plan.name);
            debug_assert!(
                sent.is_none_or(|sent| sent.text == plan.text),
                "two texts are named {}",
                plan.name
            );
            let times = sent.map_or(0, |sent| sent.times);
            if times == sql::SENT_AS_IT_IS {
                let once = sql::text("SELECT set_config('plan_cache_mode', 'force_generic_plan', false)");
                // An error in a message does not revert it, so it is the last statement of its own.
                self.exchange(sql::together(&[once, plan.prepare()])).await?;
            }
            // Only now: after an error the server does not have it.
            let sent =
                self.sent.entry(plan.name).or_insert_with(|| Sent { text: plan.text.clone(), times: 0 });
            sent.times = times.saturating_add(1);
            message.push(if times >= sql::SENT_AS_IT_IS { plan.execute() } else { statement.clone() });
        }
        Ok(sql::together(&message))
    }

    /// Sends statements as one message, preceded by their time limits on the server's side where those have changed.
    pub(super) async fn send_bounded(
        &mut self,
        statements: &[Statement],
    ) -> std::result::Result<Vec<Answer>, sqlx::Error> {
        let message = self.message(statements).await?;
        let wanted = server_timeout(&self.deadline, self.patience);
        let near = Duration::from_millis(50);
        if self.lost || wanted <= self.granted && self.granted <= wanted + near {
            return self.exchange(message).await;
        }
        let locks = lock_timeout(&self.deadline);
        let mut answers = self.exchange(sql::together(&[timeouts(wanted, locks), message])).await?;
        // Only now: an error reverts the settings with it.
        self.granted = wanted;
        answers.remove(0);
        Ok(answers)
    }

    /// Returns the error of a statement that the server ended, with the sessions that seem to block it.
    pub(super) async fn locked(&mut self, error: sqlx::Error) -> sqlx::Error {
        let holders = self.lock_holders().await;
        Delay::Locked { cause: Box::new(error), holders }.error()
    }

    /// Describes sessions whose transactions hold locks on pgstencil's tables or on databases; at most three.
    async fn lock_holders(&mut self) -> Vec<String> {
        let asked = answers(&mut self.connection, sql::fill(LOCK_HOLDERS, &[]));
        let found = bound::within(FLOOR, &self.deadline.cancel, None, asked).await;
        let rows: Vec<(String,)> = match found {
            Ok(answers) => answers.first().and_then(|answer| answer.read().ok()).unwrap_or_default(),
            Err(e) => {
                // In a failed transaction no query runs; without an answer the session is lost.
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
    /// Errors of the driver.
    pub async fn begin(&mut self) -> std::result::Result<(), sqlx::Error> {
        self.run(sql::text("BEGIN")).await
    }

    /// Commits if `done` is fine, rolls back if not, and returns `done`.
    ///
    /// # Errors
    /// The error in `done`, or the commit's.
    pub async fn end<T>(
        &mut self,
        done: std::result::Result<T, sqlx::Error>,
    ) -> std::result::Result<T, sqlx::Error> {
        match done {
            Ok(value) => {
                self.run(sql::text("COMMIT")).await?;
                Ok(value)
            }
            Err(error) => {
                // If this fails, the session is gone, and the transaction with it.
                let _ = self.run(sql::text("ROLLBACK")).await;
                Err(error)
            }
        }
    }

    /// Prepares the session for DROP DATABASE: nothing may interrupt one, since that leaves an
    /// invalid database.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn make_uninterruptible(&mut self) -> std::result::Result<(), sqlx::Error> {
        self.send_before_drop(&[]).await
    }

    /// Sends statements as one message that ends with [`Session::make_uninterruptible`]. After an error the session
    /// is as before.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn send_before_drop(
        &mut self,
        statements: &[Statement],
    ) -> std::result::Result<(), sqlx::Error> {
        let interval = Part(match self.facts.major() {
            ..=13 => "",
            _ => ", set_config('client_connection_check_interval', '0', false)",
        });
        let endless = sql::fill(
            "SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)$1",
            &[&interval],
        );
        let message: Vec<Statement> = statements.iter().cloned().chain([endless]).collect();
        self.send_bounded(&message).await?;
        self.patience = Patience::Drop;
        Ok(())
    }

    /// Lets the server notice again that pgstencil died, and end statements that take too long.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn make_interruptible(&mut self) -> std::result::Result<(), sqlx::Error> {
        self.send_after_drop(&[]).await
    }

    /// Sends statements as one message that begins with [`Session::make_interruptible`].
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn send_after_drop(
        &mut self,
        statements: &[Statement],
    ) -> std::result::Result<(), sqlx::Error> {
        self.patience = Patience::Short;
        let wanted = server_timeout(&self.deadline, self.patience);
        let mut message = vec![timeouts(wanted, lock_timeout(&self.deadline))];
        if self.facts.major() >= 14 {
            let text = "SELECT set_config('client_connection_check_interval', '500ms', false)";
            message.push(sql::text(text));
        }
        message.extend_from_slice(statements);
        let message = self.message(&message).await?;
        self.exchange(message).await?;
        self.granted = wanted;
        Ok(())
    }

    /// Lets the following statements take long, as CREATE DATABASE may, within the limit. Takes a round trip
    /// only if there is a deadline. [`Session::hurry`] ends that.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn take_time(&mut self) -> std::result::Result<(), sqlx::Error> {
        self.patience = Patience::Long;
        let wanted = server_timeout(&self.deadline, self.patience);
        if wanted != self.granted {
            self.exchange(timeouts(wanted, lock_timeout(&self.deadline))).await?;
            self.granted = wanted;
        }
        Ok(())
    }

    /// Sets the limits of short statements again.
    pub fn hurry(&mut self) {
        self.patience = Patience::Short;
    }

    /// Takes a lock if it is free. A session may take one lock several times.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn try_lock(&mut self, key: LockKey) -> std::result::Result<bool, sqlx::Error> {
        self.scalar(key.try_lock()).await
    }

    /// Takes a lock that others may share.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn try_lock_shared(&mut self, key: LockKey) -> std::result::Result<bool, sqlx::Error> {
        self.scalar(key.try_lock_shared()).await
    }

    /// Releases an exclusive lock.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn unlock(&mut self, key: LockKey) -> std::result::Result<bool, sqlx::Error> {
        self.scalar(key.unlock()).await
    }

    /// Releases a shared lock.
    ///
    /// # Errors
    /// Errors of the driver.
    pub async fn unlock_shared(&mut self, key: LockKey) -> std::result::Result<bool, sqlx::Error> {
        self.scalar(key.unlock_shared()).await
    }

    /// Ends the session in an orderly way; its locks end with it.
    pub async fn close(self) {
        // A lost session is closed, too; a silent server is not waited for.
        if !self.lost {
            let _ = tokio::time::timeout(FLOOR, self.connection.close()).await;
        }
    }
}

/// Sessions in other transactions whose locks may block pgstencil's: on a table of the registry, or a database.
const LOCK_HOLDERS: &str = include_str!("queries/lock_holders.sql");

fn timeouts(statements: Duration, locks: Duration) -> Statement {
    // 0 would switch the time-out off.
    let millis = |time: Duration| time.as_millis().clamp(1, i32::MAX as u128).to_string();
    sql::fill(
        "SELECT set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false)",
        &[&millis(statements), &millis(locks)],
    )
}

fn allowed(deadline: &Deadline, patience: Patience) -> Duration {
    let most = patience.most();
    match deadline.left() {
        Some(left) if patience != Patience::Drop => left.clamp(FLOOR, most),
        _ => most,
    }
}

/// Returns the limit on the server's side. There only a deadline and locks end a short statement: sending each
/// change of patience would take a round trip.
pub(super) fn server_timeout(deadline: &Deadline, patience: Patience) -> Duration {
    match deadline.left() {
        Some(_) => allowed(deadline, patience),
        None => Patience::Long.most(),
    }
}

pub(super) fn lock_timeout(deadline: &Deadline) -> Duration {
    allowed(deadline, Patience::Short)
}
