//! The processes of a cluster: checks whether they are alive and answer, waits for them, and ends them.

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
use super::directory::unusable;
use crate::error::{Error, Kind, Result};
use crate::private_file;

/// A running postmaster of this cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    pub(super) port: Option<u16>,
    /// Whether it accepts connections, according to its pid file.
    ready: bool,
    /// Whether it is shutting down, and accepts no more connections.
    pub(super) stopping: bool,
}

/// Result of an attempt to connect.
pub(super) enum Answer {
    /// The server is the expected one; with its version, such as `15.14`.
    Ready(String),
    /// The password is unknown or wrong.
    Locked,
    /// Any other result, with the reason.
    Silent(String),
}

/// Result of waiting for a postmaster to answer.
pub(super) enum Waited {
    Ready(String),
    Locked,
    Gone,
}

impl Cluster {
    /// Returns the postmaster in the pid file, if it is alive and belongs to this cluster. A process that got
    /// the same number later does not count.
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

    /// Returns whether the postmaster reports that it accepts connections and the password was not written
    /// since: then no connection needs to prove it. This does not notice a password file that was removed or
    /// changed by hand.
    pub(super) fn vouches_for(&self, postmaster: &Postmaster) -> bool {
        let written = |file: PathBuf| fs::metadata(file).and_then(|about| about.modified());
        let since = written(self.data().join("postmaster.pid"));
        let password = written(self.password_file());
        postmaster.ready
            && self.password().is_some()
            && matches!((password, since), (Ok(password), Ok(since)) if password < since)
    }

    /// Returns whether a postmaster is alive and reports that it accepts connections.
    pub(super) fn is_ready(&self) -> bool {
        self.postmaster().is_some_and(|p| p.ready)
    }

    /// Returns whether a process belongs to the cluster: every process of Postgres works in its data
    /// directory.
    #[cfg(target_os = "linux")]
    fn owns(&self, pid: i32) -> bool {
        use std::os::unix::fs::MetadataExt;

        let Ok(data) = fs::canonicalize(self.data()) else {
            return false;
        };
        match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(cwd) => cwd == data,
            // A security module denies access: it is safer to assume a process of this cluster than to start
            // a second server.
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

    /// Returns the options to connect as the superuser for a status query, which a stop may interrupt. They
    /// set everything that sqlx would otherwise take from the environment.
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
            Some(directory) => options.socket(directory),
            None => options,
        }
    }

    /// Tries to connect.
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

    /// Waits until a running postmaster answers or has ended.
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
                        .detail(format!("postmaster (pid {}): {why}", postmaster.pid)),
                    0,
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes the file that every process of a server keeps locked, once all of them are gone. That also
    /// covers processes that the pid file does not show: backends that outlived their postmaster, a server in
    /// another container on the same directory.
    ///
    /// Backends without a postmaster are told to quit after three seconds.
    pub(super) async fn claim(&self, deadline: Instant) -> Result<Option<File>> {
        let path = self.directory.join("alive");
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
                    "the cluster of the private server is in use by processes that are not visible from here",
                )
                .detail(format!("they hold {}", path.display()))
                .hint("if it was stopped just now, try again: its data may still be on the way to the disk")
                .hint("if another container runs a server on the same directory, stop it, or use a separate state directory for each"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends backends of this cluster whose postmaster is gone; no client can use them any more.
    fn quit_orphans(&self) {
        #[cfg(target_os = "linux")]
        {
            let data = fs::canonicalize(&self.directory).map(|f| f.join("data")).ok();
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
                    // It may have ended by itself.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
                }
            }
        }
    }

    /// Shuts down the server cleanly, with all its sessions. Returns whether there was a server.
    pub(super) async fn stop(&self, deadline: Instant) -> Result<bool> {
        let Some(postmaster) = self.postmaster() else {
            return Ok(false);
        };
        kill(Pid::from_raw(postmaster.pid), Signal::SIGINT).map_err(|e| {
            Error::new(Kind::Permission, format!("cannot stop the private server (pid {})", postmaster.pid))
                .caused_by(e)
        })?;
        // A stopped process (SIGSTOP, a debugger, a frozen job) would not see the request.
        let _ = kill(Pid::from_raw(postmaster.pid), Signal::SIGCONT);
        while self.postmaster().is_some_and(|p| p.pid == postmaster.pid) {
            if Instant::now() >= deadline {
                return Err(self.with_log(
                    Error::new(Kind::Timeout, "the private server takes too long to stop")
                        .detail(format!("pid {} has the request", postmaster.pid))
                        .hint(format!(
                            "run `pgstencil server stop` to wait again, or `kill -QUIT {}` to end it immediately; then the next start recovers its data",
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
