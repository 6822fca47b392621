//! The processes of a cluster: finding out whether they live and answer, waiting for them, ending them.

use std::fs::{self, File, TryLockError};
#[cfg(target_os = "linux")]
use std::io::ErrorKind;
#[cfg(not(target_os = "linux"))]
use std::path::Path;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::clients::BACKGROUND;
use super::cluster::{Cluster, ROLE};
use super::folder::unusable;
use crate::error::{Error, Kind, Result};
use crate::private_file;

/// A living postmaster of this cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    pub(super) port: Option<u16>,
    /// It says that it takes connections.
    ready: bool,
    /// It was told to end, and takes no more connections.
    pub(super) stopping: bool,
}

/// What came of an attempt to connect.
pub(super) enum Answer {
    /// It is our server; its version, like `15.14`.
    Ready(String),
    /// The password is not known, or not right.
    Locked,
    /// Anything else.
    Silent(String),
}

/// What came of waiting for a postmaster to answer.
pub(super) enum Waited {
    Ready(String),
    Locked,
    Gone,
}

impl Cluster {
    /// The postmaster that the pid file names, if it lives and is ours and not a process that got
    /// the number later.
    pub(super) fn postmaster(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let pid: i32 = lines.first()?.parse().ok().filter(|pid| *pid > 1)?;
        self.owns(pid).then(|| Postmaster {
            pid,
            port: lines.get(3).and_then(|port| port.parse().ok()),
            ready: lines.get(7) == Some(&"ready"),
            stopping: lines.get(7) == Some(&"stopping"),
        })
    }

    /// The postmaster says that it takes connections, and has done so since after the password was
    /// written: no connection of our own has to prove it. A password that somebody took away or wrote
    /// anew is another matter.
    pub(super) fn vouches_for(&self, postmaster: &Postmaster) -> bool {
        let written = |file: PathBuf| fs::metadata(file).and_then(|about| about.modified());
        let since = written(self.data().join("postmaster.pid"));
        let password = written(self.password_file());
        postmaster.ready
            && self.password().is_some()
            && matches!((password, since), (Ok(password), Ok(since)) if password < since)
    }

    /// A postmaster lives and says that it takes connections.
    pub(super) fn is_ready(&self) -> bool {
        self.postmaster().is_some_and(|p| p.ready)
    }

    /// Every process of Postgres works in its data directory.
    #[cfg(target_os = "linux")]
    fn owns(&self, pid: i32) -> bool {
        use std::os::unix::fs::MetadataExt;

        let Ok(data) = fs::canonicalize(self.data()) else {
            return false;
        };
        match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(cwd) => cwd == data,
            // A security module is in the way: better to take it for ours than to start a second.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let owner = fs::metadata(format!("/proc/{pid}")).map(|m| m.uid()).ok();
                name.trim() == "postgres" && owner == Some(self.account.uid)
            }
            Err(_) => false,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn owns(&self, pid: i32) -> bool {
        let lsof = std::process::Command::new("/usr/sbin/lsof")
            .args(["-a", "-d", "cwd", "-Fn", "-p"])
            .arg(pid.to_string())
            .output();
        let Ok(data) = fs::canonicalize(self.data()) else {
            return false;
        };
        lsof.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .any(|line| line.strip_prefix('n').is_some_and(|cwd| Path::new(cwd) == data))
        })
    }

    /// How to connect as the superuser for a look, which is no work that a stop would disturb. All that sqlx
    /// would else take from the environment is set here.
    pub(super) fn way(&self, port: u16) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(ROLE)
            .password(&self.password().unwrap_or_default())
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
            .application_name(BACKGROUND)
            .disable_statement_logging();
        match self.socket(port) {
            Some(folder) => options.socket(folder),
            None => options,
        }
    }

    /// Tries a real connection.
    pub(super) async fn ask(&self, port: u16) -> Answer {
        if self.password().is_none() {
            return Answer::Locked;
        }
        let question = async {
            let mut connection = self.way(port).connect().await?;
            let row: (String, String) =
                sqlx::query_as("select current_setting('data_directory'), current_setting('server_version')")
                    .fetch_one(&mut connection)
                    .await?;
            sqlx::Connection::close(connection).await?;
            Ok::<_, sqlx::Error>(row)
        };
        let (data, version) = match tokio::time::timeout(Duration::from_secs(10), question).await {
            Ok(Ok(row)) => row,
            Ok(Err(e)) => {
                let code = e.as_database_error().and_then(|e| e.code());
                return match code.as_deref() {
                    Some("28P01" | "28000") => Answer::Locked,
                    _ => Answer::Silent(e.to_string()),
                };
            }
            Err(_) => return Answer::Silent("no answer within 10 s".into()),
        };
        if fs::canonicalize(data).ok() != fs::canonicalize(self.data()).ok() {
            return Answer::Silent(format!("port {port} belongs to another server"));
        }
        let version = version.split_whitespace().next().unwrap_or_default();
        Answer::Ready(version.to_owned())
    }

    /// Waits until a postmaster that lives also answers, or has ended.
    pub(super) async fn wait(&self, deadline: Instant) -> Result<Waited> {
        let mut why = "it is still starting".to_owned();
        loop {
            let Some(postmaster) = self.postmaster() else {
                return Ok(Waited::Gone);
            };
            if postmaster.stopping {
                "it is still shutting down".clone_into(&mut why);
            }
            if let (true, Some(port)) = (postmaster.ready, postmaster.port) {
                match self.ask(port).await {
                    Answer::Ready(version) => return Ok(Waited::Ready(version)),
                    Answer::Locked => return Ok(Waited::Locked),
                    Answer::Silent(reason) => why = reason,
                }
            }
            if Instant::now() >= deadline {
                return Err(self.with_log(
                    Error::new(Kind::Timeout, "the private server does not answer")
                        .detail(format!("process {}: {why}", postmaster.pid)),
                    0,
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes the file that every process of a server holds locked, once they are all gone. That
    /// also sees what the pid file cannot: backends that outlived their postmaster, a server in
    /// another container on the same directory.
    ///
    /// Backends without a postmaster are told to go after three seconds.
    pub(super) async fn claim(&self, deadline: Instant) -> Result<Option<File>> {
        let path = self.folder.join("alive");
        let file = private_file::open_file(&path).map_err(|e| unusable(&path, e))?;
        let begun = Instant::now();
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(unusable(&path, e)),
            }
            if self.postmaster().is_some() {
                return Ok(None);
            }
            if !told && begun.elapsed() > Duration::from_secs(3) {
                told = true;
                self.quit_orphans();
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    Kind::Timeout,
                    "the cluster of the private server is in use by processes that cannot be seen from here",
                )
                .detail(format!("they hold {}", path.display()))
                .hint("if it was stopped just now, its data may still be on the way to the disk: try again")
                .hint("another container may run a server on the same directory; stop it, or give each its own state directory"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends backends of this cluster whose postmaster is gone; nobody can use them any more.
    fn quit_orphans(&self) {
        #[cfg(target_os = "linux")]
        {
            let data = fs::canonicalize(&self.folder).map(|f| f.join("data")).ok();
            let deleted = data.as_ref().map(|d| format!("{} (deleted)", d.display()));
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else {
                    continue;
                };
                let ours = fs::read_link(entry.path().join("cwd"))
                    .is_ok_and(|cwd| Some(&cwd) == data.as_ref() || cwd.to_str() == deleted.as_deref());
                let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                if ours && comm.trim() == "postgres" {
                    // It may have ended by itself meanwhile.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
                }
            }
        }
    }

    /// Ends the server in order, sessions and all. True if there was one.
    pub(super) async fn stop(&self, deadline: Instant) -> Result<bool> {
        let Some(postmaster) = self.postmaster() else {
            return Ok(false);
        };
        kill(Pid::from_raw(postmaster.pid), Signal::SIGINT).map_err(|e| {
            Error::new(
                Kind::Permission,
                format!("cannot stop the private server, process {}", postmaster.pid),
            )
            .caused_by(e)
        })?;
        // One that was stopped (SIGSTOP, a debugger, a frozen job) would not see the request.
        let _ = kill(Pid::from_raw(postmaster.pid), Signal::SIGCONT);
        while self.postmaster().is_some_and(|p| p.pid == postmaster.pid) {
            if Instant::now() >= deadline {
                return Err(self.with_log(
                    Error::new(Kind::Timeout, "the private server takes too long to stop")
                        .detail(format!("process {} was asked to", postmaster.pid))
                        .hint(format!(
                            "`pgstencil server stop` waits again; `kill -QUIT {}` ends it at once, and the next start recovers its data",
                            postmaster.pid
                        )),
                    0,
                ));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(true)
    }
}
