//! Messages of one or more statements, and the answers to them: each is one round trip.
//!
//! Prepared statements would take two round trips for each statement, and nearly all of pgstencil's run once in
//! a session (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SIMPLE-QUERY>). For the others
//! there is [`super::sql::planned()`]. The text of a message is not traced: [`super::sql::fill`] has written values into it.

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgRow;
use sqlx::{Either, FromRow, PgConnection};

use super::Session;
use super::sql::Statement;

/// Answer to one statement of a message.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Its rows, if it has any.
    pub(crate) rows: Vec<PgRow>,
    /// Number of rows that it wrote or returned.
    pub(crate) count: u64,
}

impl Answer {
    /// Reads the rows.
    ///
    /// # Errors
    /// Errors of the driver, if a column is missing or has another type.
    pub(crate) fn read<T>(&self) -> std::result::Result<Vec<T>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        self.rows.iter().map(T::from_row).collect()
    }

    /// Reads the only row.
    ///
    /// # Errors
    /// [`sqlx::Error::RowNotFound`] if there is none; as [`Answer::read`].
    pub(crate) fn one<T>(&self) -> std::result::Result<T, sqlx::Error>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        T::from_row(self.rows.first().ok_or(sqlx::Error::RowNotFound)?)
    }
}

/// Sends a message and reads the answers to its statements.
pub(super) async fn answers(
    connection: &mut PgConnection,
    message: Statement,
) -> std::result::Result<Vec<Answer>, sqlx::Error> {
    let mut answers = Vec::new();
    let mut rows = Vec::new();
    let mut stream = sqlx::raw_sql(message).fetch_many(connection);
    while let Some(step) = stream.try_next().await? {
        match step {
            Either::Right(row) => rows.push(row),
            Either::Left(done) => {
                answers.push(Answer { rows: std::mem::take(&mut rows), count: done.rows_affected() })
            }
        }
    }
    Ok(answers)
}

impl Session {
    /// Sends statements as one message: one round trip, and one transaction, which an error reverts as a whole.
    /// Session locks remain. Returns the answer to each of them, in their order.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn send<const N: usize>(
        &mut self,
        statements: [Statement; N],
    ) -> std::result::Result<[Answer; N], sqlx::Error> {
        let answers = self.send_all(&statements).await?;
        <[Answer; N]>::try_from(answers)
            .map_err(|_| sqlx::Error::Protocol("a statement was not answered".into()))
    }

    /// Sends any number of statements, like [`Session::send`].
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn send_all(
        &mut self,
        statements: &[Statement],
    ) -> std::result::Result<Vec<Answer>, sqlx::Error> {
        self.send_bounded(statements).await
    }

    /// Returns the rows of one statement.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn rows<T>(&mut self, statement: Statement) -> std::result::Result<Vec<T>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        self.execute(statement).await?.read()
    }

    /// Returns the first row of one statement.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn first<T>(
        &mut self,
        statement: Statement,
    ) -> std::result::Result<Option<T>, sqlx::Error>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        Ok(self.rows(statement).await?.into_iter().next())
    }

    /// Returns the row of a statement that has one.
    ///
    /// # Errors
    /// [`sqlx::Error::RowNotFound`] if it has none; errors of the driver.
    pub(crate) async fn one<T>(&mut self, statement: Statement) -> std::result::Result<T, sqlx::Error>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        self.first(statement).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// Returns the only column of a statement that has one row.
    ///
    /// # Errors
    /// As [`Session::one`].
    pub(crate) async fn scalar<T>(&mut self, statement: Statement) -> std::result::Result<T, sqlx::Error>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        let (value,) = self.one(statement).await?;
        Ok(value)
    }

    /// Returns the only column of a statement's first row.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn first_scalar<T>(
        &mut self,
        statement: Statement,
    ) -> std::result::Result<Option<T>, sqlx::Error>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        let row: Option<(T,)> = self.first(statement).await?;
        Ok(row.map(|(value,)| value))
    }

    /// Returns the only column of all rows of a statement.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn scalars<T>(
        &mut self,
        statement: Statement,
    ) -> std::result::Result<Vec<T>, sqlx::Error>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        let rows: Vec<(T,)> = self.rows(statement).await?;
        Ok(rows.into_iter().map(|(value,)| value).collect())
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn execute(&mut self, statement: Statement) -> std::result::Result<Answer, sqlx::Error> {
        let [answer] = self.send([statement]).await?;
        Ok(answer)
    }
}
