//! Removes clusters, and old data that was moved aside.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::account::Account;
use super::cluster::{Cluster, Data};
use super::directory::{self, unusable};
use super::launch::clear_sockets;
use super::{PrivateServer, Running, majors, running};
use crate::error::{Error, Kind, Result};

/// The beginning of the names of directories that are being deleted.
const PREFIX: &str = "removed-";

impl PrivateServer {
    /// Starts the server of a major version if it is not running, to examine its contents. Unlike
    /// [`PrivateServer::start`] it neither creates a cluster nor moves one aside.
    ///
    /// # Errors
    /// `NotFound` if there is no cluster of this version; `Config` if there is no Postgres of it on the
    /// machine; `Failed` if the data cannot be trusted; else as [`PrivateServer::start`].
    ///
    /// # Cancel safety
    /// As [`PrivateServer::start`].
    pub async fn open(&self, major: u32, patience: Duration) -> Result<Running> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        if !home.join(major.to_string()).is_dir() {
            return Err(Error::new(Kind::NotFound, format!("there is no cluster of PostgreSQL {major}")));
        }
        let all = self.search(&account, &home).all().await;
        let Some(binaries) = all.into_iter().find(|b| b.major == major) else {
            return Err(Error::config(format!(
                "there is no PostgreSQL {major} on this machine to start its cluster"
            )));
        };
        let cluster = self.cluster(&home, major, &account)?;
        let _lock = directory::lock(&home, &account, deadline).await?;
        if cluster.postmaster().is_none() {
            let rebooted = cluster.record().boot_id != self.boot_id();
            let data = cluster.inspect();
            let missing = (data == Data::Missing).then(|| "there is no data".to_owned());
            if let Some(why) = missing.or_else(|| cluster.distrust(data, rebooted)) {
                return Err(Error::failed(why));
            }
        }
        let mut notices = Vec::new();
        let (version, started) = self.bring_up(&cluster, &binaries, deadline, &mut notices).await?;
        let Some(postmaster) = cluster.postmaster() else {
            return Err(Error::failed(format!(
                "the private server of PostgreSQL {major} exited right after its start"
            )));
        };
        running(&cluster, postmaster, version, started)
    }

    /// Stops the server of one major version, if it is running.
    ///
    /// # Errors
    /// As [`PrivateServer::stop`].
    pub async fn stop_one(&self, major: u32, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let _lock = directory::lock(&home, &account, deadline).await?;
        let cluster = self.cluster(&home, major, &account)?;
        cluster.stop(deadline).await?;
        self.keep_synced(cluster, deadline).await
    }

    /// Stops the servers of these major versions, with all their sessions, and removes their clusters: data,
    /// password, settings, log, and data that was moved aside. With the last cluster, the directory of the
    /// server is removed too.
    ///
    /// # Errors
    /// `Timeout` after `patience`; `Permission` or `Failed` if a file cannot be removed. A cluster is gone as
    /// a whole as soon as the deletion of its directory begins; the next call deletes the rest.
    pub async fn remove(&self, which: &[u32], patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        if !home.is_dir() {
            return Ok(());
        }
        let _lock = directory::lock(&home, &account, deadline).await?;
        for major in majors(&home) {
            if which.contains(&major) {
                self.cluster(&home, major, &account)?.remove(&home, deadline).await?;
            }
        }
        for entry in fs::read_dir(&home).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                delete(&entry.path())?;
            }
        }
        if majors(&home).is_empty() {
            // A process that waits for the lock notices that its file is gone.
            for name in ["binaries.json", "lock"] {
                delete(&home.join(name))?;
            }
            // The directory may contain other files.
            let _ = fs::remove_dir(&home);
        }
        Ok(())
    }

    /// Removes directories of old data that [`PrivateServer::clusters`] shows.
    ///
    /// # Errors
    /// As [`PrivateServer::remove`].
    pub async fn remove_moved(&self, directories: &[PathBuf], patience: Duration) -> Result<()> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let _lock = directory::lock(&home, &account, Instant::now() + patience).await?;
        directories.iter().try_for_each(|directory| delete(directory))
    }
}

impl Cluster {
    async fn remove(&self, home: &Path, deadline: Instant) -> Result<()> {
        self.stop(deadline).await?;
        let alive = self.claim(deadline).await?;
        if alive.is_none() {
            return Err(Error::failed(format!(
                "the private server of PostgreSQL {} was started again",
                self.major
            )));
        }
        if let Some(socket) = self.record().socket_dir
            && !socket.starts_with(&self.directory)
        {
            clear_sockets(&socket);
            // It is empty, or another directory has its name.
            let _ = fs::remove_dir(socket);
        }
        // A partly deleted directory must not be taken for a cluster.
        let going = home.join(format!("{PREFIX}{}", directory::random_hex::<6>()?));
        fs::rename(&self.directory, &going).map_err(|e| unusable(&self.directory, e))?;
        delete(&going)
    }
}

/// Deletes a file or a directory; links are not followed. A missing file is not an error.
fn delete(path: &Path) -> Result<()> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match deleted {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(unusable(path, e)),
        _ => Ok(()),
    }
}
