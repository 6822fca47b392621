//! Postgres in single-user mode on a data directory that is no server's: a copy, or the contents of a cache file.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use super::account::{run, tail};
use super::binaries::Binaries;
use super::cluster::Cluster;
use super::log::explain;
use super::settings;
use crate::error::{Error, Result};
use crate::private_file::Directory;

/// The beginning of the lines that a statement prints.
pub(crate) const SAYS: &str = "pgstencil:";

/// Settings of single-user mode. Nothing waits for the disk, the first error ends it, and little memory is set up.
const SETTINGS: [&str; 10] = [
    "fsync=off",
    "full_page_writes=off",
    "exit_on_error=on",
    "wal_level=replica",
    "max_wal_senders=0",
    "shared_buffers=1MB",
    "max_connections=10",
    "max_locks_per_transaction=64",
    "password_encryption=scram-sha-256",
    "timezone=UTC",
];

impl Cluster {
    /// Runs statements, each on one line, in a database of a data directory. Returns what they said: the rest of the
    /// printed lines that begin with [`SAYS`].
    ///
    /// # Errors
    /// A statement fails, or Postgres does not accept the directory.
    pub(super) async fn single(
        &self,
        binaries: &Binaries,
        data: &Path,
        database: &str,
        statements: &[String],
        patience: Duration,
    ) -> Result<Vec<String>> {
        let mut postgres = self.account.command(binaries.program("postgres"));
        postgres.current_dir(&self.directory).arg("--single").arg("-D").arg(data);
        for setting in SETTINGS {
            postgres.args(["-c", setting]);
        }
        if cfg!(target_os = "linux") {
            postgres.args(["-c", "dynamic_shared_memory_type=mmap"]);
        }
        postgres.arg(database);
        let mut input = statements.join("\n");
        input.push('\n');
        let output = run(postgres, Some(&input), patience)
            .await
            .map_err(|e| Error::failed("cannot run postgres").caused_by(e))?;
        match output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("ERROR:") {
            true => Ok(said(&output)),
            false => {
                Err(explain(Error::failed("Postgres does not accept the data"), tail(&output.stderr, 4)))
            }
        }
    }

    /// Writes the configuration that a new cluster has in its data directory. The server's own is outside of it.
    ///
    /// # Errors
    /// Errors of the system.
    pub(super) fn write_inner_settings(&self, data: &Directory) -> std::io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::fchown;
        for (name, text) in settings::INNER {
            let mut file = data.create(name)?;
            file.write_all(text.as_bytes())?;
            if self.account.foreign {
                fchown(&file, Some(self.account.uid), Some(self.account.gid))?;
            }
        }
        Ok(())
    }
}

/// A prompt may precede a line.
fn said(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| {
        let line = line.trim_start_matches("backend> ");
        line.strip_prefix(SAYS)
    });
    lines.map(str::to_owned).collect()
}
