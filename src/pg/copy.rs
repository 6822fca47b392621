//! `COPY`: lines from and to programs on the server's machine, and the same lines over the connection.
//!
//! The lines wait in a temporary table, which ends with the session.

use futures_util::TryStreamExt as _;

use super::Session;
use super::sql::{self, Statement};

const TABLE: &str = "CREATE TEMPORARY TABLE pgstencil_lines (line text)";
const OUT: &str = "COPY pg_temp.pgstencil_lines TO STDOUT";
const IN: &str = "COPY pg_temp.pgstencil_lines FROM STDIN";

impl Session {
    /// Creates the table of lines. Another scan must not decide where a scan of the table begins.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn make_lines(&mut self) -> Result<(), sqlx::Error> {
        let ordered = sql::text("SELECT set_config('synchronize_seqscans', 'off', false)");
        self.send_all(&[ordered, sql::text(TABLE)]).await?;
        Ok(())
    }

    /// Runs a program on the server's machine, and keeps the lines that it prints.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn lines_from_program(&mut self, program: &str) -> Result<(), sqlx::Error> {
        self.run(sql::fill("COPY pg_temp.pgstencil_lines FROM PROGRAM $1", &[&program])).await
    }

    /// Runs a program on the server's machine, which reads the lines.
    ///
    /// # Errors
    /// Errors of the driver.
    pub(crate) async fn lines_to_program(&mut self, program: &str) -> Result<(), sqlx::Error> {
        self.run(sql::fill("COPY pg_temp.pgstencil_lines TO PROGRAM $1", &[&program])).await
    }

    /// Reads the lines. They come in pieces, which need not end with a line; an error of `each` ends the reading.
    ///
    /// # Errors
    /// Errors of the driver and of `each`.
    pub(crate) async fn read_lines(
        &mut self,
        mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), sqlx::Error> {
        let mut stream = self.connection().copy_out_raw(OUT).await?;
        while let Some(piece) = stream.try_next().await? {
            each(&piece)?;
        }
        Ok(())
    }

    /// Sends lines, as long as `next` yields some.
    ///
    /// # Errors
    /// Errors of the driver and of `next`.
    pub(crate) async fn write_lines(
        &mut self,
        mut next: impl FnMut() -> std::io::Result<Option<Vec<u8>>>,
    ) -> Result<(), sqlx::Error> {
        let mut copying = self.connection().copy_in_raw(IN).await?;
        loop {
            match next() {
                Ok(Some(lines)) => drop(copying.send(lines).await?),
                Ok(None) => return copying.finish().await.map(drop),
                Err(error) => {
                    copying.abort("the lines cannot be read").await?;
                    return Err(error.into());
                }
            }
        }
    }
}

/// Returns the statement that ends the sessions of this name, and the one of this process.
pub(crate) fn end_programs(name: &str, pid: i32) -> Statement {
    sql::fill(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE (application_name = $1 OR pid = $2) AND pid <> pg_backend_pid()",
        &[&name, &pid],
    )
}
