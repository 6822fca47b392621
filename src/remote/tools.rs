//! `pg_dump` and `pg_restore`: found like the private server's binaries, and run like build commands.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::through::ServerPrograms;
use crate::error::{Error, Kind, Result};
use crate::names::random_text;
use crate::pg::{Deadline, Endpoint};
use crate::private_file;
use crate::private_server::client_directories;
use crate::process::{self, Ended, Job, Status};
use tokio_util::sync::CancellationToken;

/// Settings for the search.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToolSearch {
    /// `PATH`
    pub(crate) path: Option<OsString>,
    /// `[server] bindir`
    pub(crate) bindir: Option<PathBuf>,
    /// Directory for files that may be lost.
    pub(crate) cache: Option<PathBuf>,
    /// The programs of the server's machine, if the user asked for them; then no others are used.
    pub(crate) server: Option<ServerPrograms>,
}

/// `pg_dump` and `pg_restore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tools {
    place: Place,
    /// Their major version.
    pub(crate) major: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Both are in this directory.
    Directory(PathBuf),
    /// On the server's machine.
    Server(ServerPrograms),
}

/// Directory for dumps; removed with the value.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Age of files that a killed command left.
const LEFT: Duration = Duration::from_secs(24 * 60 * 60);

/// Creates a private directory in the cache directory, without one in `/tmp`.
///
/// # Errors
/// Errors of the system.
pub(crate) fn scratch(cache: Option<&Path>) -> Result<Scratch> {
    let no_room = |path: &Path, e: io::Error| {
        Error::failed(format!("cannot create the directory {}", path.display())).caused_by(e)
    };
    let Some(cache) = cache else {
        let path = Path::new("/tmp").join(format!("pgstencil-{}", random_text(16)));
        private_file::create_directory(&path).map_err(|e| no_room(&path, e))?;
        return Ok(Scratch { path });
    };
    let all = cache.join("remote");
    private_file::create_directories(&all, false).map_err(|(path, e)| no_room(&path, e))?;
    for old in fs::read_dir(&all).into_iter().flatten().flatten() {
        let age = old.metadata().ok().and_then(|about| about.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age > LEFT) {
            let _ = fs::remove_dir_all(old.path());
        }
    }
    let path = all.join(random_text(12));
    private_file::create_directory(&path).map_err(|e| no_room(&path, e))?;
    Ok(Scratch { path })
}

/// Time for a program to print its version.
const PATIENCE: Duration = Duration::from_secs(10);

impl ToolSearch {
    /// Returns the programs of the server's major version, else of the nearest newer one: an older `pg_dump` refuses
    /// a newer server.
    ///
    /// # Errors
    /// There are none.
    pub(crate) async fn find(&self, server: u32) -> Result<Tools> {
        if let Some(programs) = &self.server {
            return Ok(Tools { major: programs.major, place: Place::Server(programs.clone()) });
        }
        let mut found: Option<Tools> = None;
        let mut older = Vec::new();
        for directory in client_directories(self.bindir.as_deref(), self.path.as_deref()) {
            if !directory.join("pg_dump").is_file() || !directory.join("pg_restore").is_file() {
                continue;
            }
            let (Some(major), Some(restore)) =
                (version(&directory.join("pg_dump")).await, version(&directory.join("pg_restore")).await)
            else {
                continue;
            };
            let major = major.min(restore);
            if major < server {
                older.push(format!("version {major} in {} is too old", directory.display()));
                continue;
            }
            let tools = Tools { place: Place::Directory(directory), major };
            if major == server {
                return Ok(tools);
            }
            if found.as_ref().is_none_or(|best| major < best.major) {
                found = Some(tools);
            }
        }
        found.ok_or_else(|| {
            let error = Error::failed(format!("there are no pg_dump and pg_restore of version {server} or newer"));
            older.into_iter().fold(error, Error::detail).hint(format!(
                "install the client programs, such as with `apt-get install postgresql-client-{server}`, or set `[server] bindir`"
            ))
        })
    }
}

/// Returns the major version that a program prints.
async fn version(program: &Path) -> Option<u32> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    version_in(&String::from_utf8_lossy(&output.stdout))
}

/// Returns the major version in the line that a program prints.
pub(super) fn version_in(said: &str) -> Option<u32> {
    let version = said.split("(PostgreSQL)").nth(1)?.trim_start();
    let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().ok()
}

/// Server and limits of a run.
pub(crate) struct Run<'a> {
    /// The server.
    pub(crate) endpoint: &'a Endpoint,
    /// Limit and cancellation of the caller.
    pub(crate) deadline: &'a Deadline,
    /// Longest time.
    pub(crate) timeout: Duration,
    /// Kills the program immediately.
    pub(crate) kill: CancellationToken,
}

/// Message of a server that does not know a setting which a newer `pg_restore` sets first.
const NEWER_SETTING: &str = "transaction_timeout";

impl Tools {
    /// Returns the place that they are in, for messages.
    pub(crate) fn place(&self) -> String {
        match &self.place {
            Place::Directory(directory) => directory.display().to_string(),
            Place::Server(_) => "the server's machine".to_owned(),
        }
    }

    /// Dumps a database into a new file, uncompressed.
    ///
    /// # Errors
    /// [`Kind::Failed`] with the program's output; timeout and cancellation.
    pub(crate) async fn dump(&self, run: &Run<'_>, database: &str, file: &Path) -> Result<()> {
        if let Place::Server(programs) = &self.place {
            return programs.dump(run, database, file).await;
        }
        let arguments: [&OsStr; 8] = [
            "--format=custom".as_ref(),
            "--compress=0".as_ref(),
            "--no-sync".as_ref(),
            "--no-password".as_ref(),
            "--file".as_ref(),
            file.as_os_str(),
            "--dbname".as_ref(),
            database.as_ref(),
        ];
        let tail = self.run(run, "pg_dump", &arguments, Kind::Failed).await?;
        match tail {
            Ok(()) => Ok(()),
            Err((status, tail)) => Err(failed("pg_dump", Kind::Failed, status, &tail, run.endpoint)),
        }
    }

    /// Restores a file into an empty database. `owners`: objects get the owners that they had, else the role that
    /// connects owns them. `server`: the server's major version.
    ///
    /// # Errors
    /// [`Kind::Build`] with the program's output, after any error of it; timeout and cancellation.
    pub(crate) async fn restore(
        &self,
        run: &Run<'_>,
        server: u32,
        database: &str,
        file: &Path,
        owners: bool,
    ) -> Result<()> {
        if let Place::Server(programs) = &self.place {
            return programs.restore(run, database, file, owners).await;
        }
        // A newer program begins with a setting that the server does not know, so it may not stop there.
        let tolerant = self.major > server;
        let mut arguments: Vec<&OsStr> = vec!["--no-password".as_ref()];
        if !tolerant {
            arguments.push("--exit-on-error".as_ref());
        }
        if !owners {
            arguments.push("--no-owner".as_ref());
        }
        arguments.extend([OsStr::new("--dbname"), database.as_ref(), file.as_os_str()]);
        match self.run(run, "pg_restore", &arguments, Kind::Build).await? {
            Ok(()) => Ok(()),
            Err((_, tail)) if tolerant && is_only_the_setting(&tail) => Ok(()),
            Err((status, tail)) => Err(failed("pg_restore", Kind::Build, status, &tail, run.endpoint)),
        }
    }

    /// Prints the statements of a database and its dump, without the data, into a file, as for another owner.
    ///
    /// # Errors
    /// As [`Tools::dump`].
    pub(crate) async fn statements(
        &self,
        run: &Run<'_>,
        database: &str,
        archive: &Path,
        file: &Path,
    ) -> Result<()> {
        if let Place::Server(programs) = &self.place {
            return programs.statements(run, database, file).await;
        }
        let arguments: [&OsStr; 5] = [
            "--no-owner".as_ref(),
            "--schema-only".as_ref(),
            "--file".as_ref(),
            file.as_os_str(),
            archive.as_os_str(),
        ];
        match self.run(run, "pg_restore", &arguments, Kind::Failed).await? {
            Ok(()) => Ok(()),
            Err((status, tail)) => Err(failed("pg_restore", Kind::Failed, status, &tail, run.endpoint)),
        }
    }

    /// Runs a program. The inner error is that of the program: its status, and the last lines of its output.
    async fn run(
        &self,
        run: &Run<'_>,
        program: &str,
        arguments: &[&OsStr],
        kind: Kind,
    ) -> Result<std::result::Result<(), (Status, Vec<String>)>> {
        let Place::Directory(directory) = &self.place else {
            return Err(Error::internal("a program of the server's machine was to run here"));
        };
        let mut argv = vec![directory.join(program).into_os_string()];
        argv.extend(arguments.iter().map(OsString::from));
        let mut job = Job::new(argv, "/");
        let endpoint = run.endpoint.for_clients(None, None);
        endpoint.learn_tls().await;
        let host = match endpoint.socket() {
            Some(socket) => socket.display().to_string(),
            None => endpoint.client_host().to_owned(),
        };
        job.env = vec![
            ("PGHOST".into(), host.into()),
            ("PGPORT".into(), endpoint.client_port().to_string().into()),
            ("PGUSER".into(), endpoint.user().into()),
            ("PGPASSWORD".into(), endpoint.password().unwrap_or_default().into()),
            ("PGAPPNAME".into(), "pgstencil".into()),
            ("LC_ALL".into(), "C".into()),
        ];
        job.cleared =
            ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGDATABASE", "PGCLIENTENCODING"]
                .map(Into::into)
                .to_vec();
        if let Some(mode) = endpoint.ssl_mode_for_commands() {
            job.env.push(("PGSSLMODE".into(), mode.into()));
        }
        match endpoint.session_options() {
            Some(options) => job.env.push(("PGOPTIONS".into(), options.into())),
            None => job.cleared.push("PGOPTIONS".into()),
        }
        job.kill = run.kill.clone();
        let timeout = run.deadline.left().map_or(run.timeout, |left| left.min(run.timeout));
        let mut ignore = |_: &str| {};
        let finished = process::run_captured(&job, Some(timeout), &run.deadline.cancel, &mut ignore).await?;
        match (finished.ended, finished.status) {
            (Ended::ByItself, status) if status.success() => Ok(Ok(())),
            (Ended::ByItself, status) => Ok(Err((status, finished.tail))),
            (Ended::Cancelled, _) => Err(Error::new(Kind::Interrupted, format!("{program} was interrupted"))),
            (Ended::TimedOut, _) => {
                let kind = if kind == Kind::Build { Kind::Build } else { Kind::Timeout };
                Err(Error::new(kind, format!("{program} did not end in time")))
            }
        }
    }
}

/// Returns whether the output shows one error, about the setting that only newer servers know.
fn is_only_the_setting(tail: &[String]) -> bool {
    let mut errors = tail.iter().filter(|line| line.contains("error:"));
    errors.next().is_some_and(|line| line.contains(NEWER_SETTING))
        && errors.next().is_none()
        && tail.iter().any(|line| line.ends_with("errors ignored on restore: 1"))
}

fn failed(program: &str, kind: Kind, status: Status, tail: &[String], endpoint: &Endpoint) -> Error {
    let error = Error::new(kind, format!("{program} failed ({status})"));
    let shown = tail.iter().rev().take(6).rev();
    shown.fold(error, |e, line| e.detail(endpoint.redact(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_program_may_stumble_over_one_setting_only() {
        let lines = |text: &[&str]| text.iter().map(ToString::to_string).collect::<Vec<_>>();
        let setting = "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter \"transaction_timeout\"";
        let one = "pg_restore: warning: errors ignored on restore: 1";
        assert!(is_only_the_setting(&lines(&[setting, "Command was: SET transaction_timeout = 0;", one])));
        assert!(!is_only_the_setting(&lines(&[setting])));
        assert!(!is_only_the_setting(&lines(&[setting, "pg_restore: error: x", one])));
        assert!(!is_only_the_setting(&lines(&["pg_restore: error: x", one])));
    }
}
