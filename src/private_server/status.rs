//! Reports the state of the clusters without changing them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::account::Account;
use super::binaries::Binaries;
use super::cluster::{Cluster, Data};
use super::origin::Origin;
use super::postmaster::Answer;
use super::{PrivateServer, aside, majors};
use crate::error::Result;
use crate::url::ServerUrl;

/// Time limit for a server's answer, if nothing else limits it.
const PATIENCE: Duration = Duration::from_secs(10);

/// State of the private server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no cluster; the next start creates one.
    NotInitialised,
    /// There is a cluster, shut down cleanly.
    Stopped,
    /// The server was killed, or crashed with its host.
    Unclean {
        /// The host has been booted since, so the next start moves the data aside.
        rebooted: bool,
    },
    /// The server was shut down cleanly, but the next start moves the data aside; with the reason.
    Distrusted(String),
    /// A postmaster is running but accepts no connections yet.
    Starting,
    /// The server is shutting down, and accepts no more connections.
    Stopping,
    /// The server is running and answers.
    Running,
    /// A postmaster is running but refuses pgstencil's connection; with the reason.
    Unresponsive(String),
}

/// Result of [`PrivateServer::status`].
#[derive(Clone, Debug)]
pub struct Status {
    /// The state.
    pub state: State,
    /// Version of the server if it is running, else of the binaries that would be started.
    pub version: Option<String>,
    /// The binaries that would be started; `None` if there are none.
    pub bindir: Option<PathBuf>,
    /// The data directory, which may not exist yet.
    pub data_dir: Option<PathBuf>,
    /// The log, which may not exist yet.
    pub log_file: Option<PathBuf>,
    /// The directory of the unix socket; `None` before the first start.
    pub socket_dir: Option<PathBuf>,
    /// The port; `None` before the first start.
    pub port: Option<u16>,
    /// Process of the postmaster, if it is running.
    pub pid: Option<i32>,
    /// The URL, with the password, if the server is running.
    pub url: Option<ServerUrl>,
    /// Whether its binaries were replaced while it was running, so that it should be restarted.
    pub outdated: bool,
    /// Major versions of other clusters whose servers are running.
    pub others: Vec<u32>,
    /// Directories of old data that were moved aside, in the clusters of all versions.
    pub moved: Vec<PathBuf>,
}

/// A cluster in [`PrivateServer::clusters`].
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its major version.
    pub major: u32,
    /// Whether commands use this cluster now: it has the version of the newest Postgres on the machine.
    pub current: bool,
    /// Its status. `bindir` is `None` if the machine has no Postgres of its major version.
    pub status: Status,
    /// Size of its directory on the disk, without data that was moved aside.
    pub bytes: u64,
    /// Its old data, oldest first.
    pub moved: Vec<Moved>,
}

/// Old data that was moved aside and is no longer used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The directory.
    pub directory: PathBuf,
    /// Its size on the disk.
    pub bytes: u64,
}

/// The paths of the private server, whether they exist or not.
#[derive(Clone, Debug)]
pub struct Places {
    /// The directory of all clusters.
    pub directory: PathBuf,
    /// The data directory; `None` if there is no cluster, and no Postgres to make one.
    pub data_dir: Option<PathBuf>,
    /// The log.
    pub log_file: Option<PathBuf>,
    /// The directory of the socket; `None` before the first start.
    pub socket_dir: Option<PathBuf>,
    /// The port; `None` before the first start.
    pub port: Option<u16>,
}

impl PrivateServer {
    /// Returns the paths. Only reads files.
    ///
    /// # Errors
    /// `Config` if `run_as` names no usable account; `Permission` if the state directory belongs to another
    /// user.
    pub async fn places(&self) -> Result<Places> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let directory = self.home(&account).await?;
        let found = self.search(&account, &directory).all().await;
        let major = found.first().map(|b| b.major);
        let major = major.or_else(|| majors(&directory).into_iter().max());
        let cluster = match major {
            Some(major) => Some(self.cluster(&directory, major, &account)?),
            None => None,
        };
        let record = cluster.as_ref().map(Cluster::record).unwrap_or_default();
        Ok(Places {
            data_dir: cluster.as_ref().map(Cluster::data),
            log_file: cluster.as_ref().map(Cluster::log),
            socket_dir: record.socket_dir,
            port: record.port,
            directory,
        })
    }

    /// Returns the version of the Postgres that the next start would use.
    ///
    /// # Errors
    /// `Config` if there is none, with the places that were searched and how to install it.
    pub async fn postgres(&self) -> Result<String> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let found = self.search(&account, &home).newest(false).await?;
        Ok(found.version())
    }

    /// Returns the status of the server. Writes nothing and starts nothing. Waits up to ten seconds for a
    /// server that does not answer.
    ///
    /// # Errors
    /// `Config` if `bindir` or `run_as` name nothing usable. A machine without Postgres is not an error.
    pub async fn status(&self) -> Result<Status> {
        self.status_within(PATIENCE).await
    }

    /// Like [`PrivateServer::status`], but waits no longer than `patience`.
    ///
    /// # Errors
    /// As [`PrivateServer::status`].
    pub async fn status_within(&self, patience: Duration) -> Result<Status> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let found = self.search(&account, &home).newest(false).await;
        let binaries = match found {
            Ok(binaries) => Some(binaries),
            Err(error) if self.settings.bindir.is_some() => return Err(error),
            Err(_) => None,
        };
        let major = match &binaries {
            Some(binaries) => Some(binaries.major),
            None => majors(&home).into_iter().max(),
        };
        let Some(major) = major else {
            return Ok(Status::nothing());
        };
        let cluster = self.cluster(&home, major, &account)?;
        let mut status = self.status_of(&cluster, binaries, patience).await?;
        status.others = self.others(&home, &account, major);
        status.moved = aside::moved(&home);
        Ok(status)
    }

    /// Returns the clusters of all major versions, in order, with their sizes on the disk. Writes nothing and
    /// starts nothing.
    ///
    /// # Errors
    /// As [`PrivateServer::status`]; `Permission` if a cluster belongs to another account.
    pub async fn clusters(&self, patience: Duration) -> Result<Vec<Listed>> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let found = self.search(&account, &home).all().await;
        let current = found.first().map(|b| b.major);
        let mut listed = Vec::new();
        for major in majors(&home) {
            let cluster = self.cluster(&home, major, &account)?;
            let binaries = found.iter().find(|b| b.major == major).cloned();
            let moved = aside::moved_of(&home, major);
            let status = self.status_of(&cluster, binaries, patience).await?;
            listed.push(Listed {
                major,
                current: current == Some(major),
                status,
                bytes: size(&cluster.directory, &moved),
                moved: moved
                    .into_iter()
                    .map(|directory| Moved { bytes: size(&directory, &[]), directory })
                    .collect(),
            });
        }
        Ok(listed)
    }

    async fn status_of(
        &self,
        cluster: &Cluster,
        binaries: Option<Binaries>,
        patience: Duration,
    ) -> Result<Status> {
        let record = cluster.record();
        let postmaster = cluster.postmaster();
        let origin = record.origin.as_ref();
        let last = origin.map(|origin| origin.version.clone());
        let mut status = Status {
            version: binaries.as_ref().map(Binaries::version).or(last),
            bindir: binaries.map(|b| b.directory),
            data_dir: Some(cluster.data()),
            log_file: Some(cluster.log()),
            port: postmaster.and_then(|p| p.port).or(record.port),
            pid: postmaster.map(|p| p.pid),
            outdated: postmaster.is_some() && origin.is_some_and(Origin::is_replaced),
            ..Status::nothing()
        };
        let rebooted = record.boot_id != self.boot_id();
        status.socket_dir = record.socket_dir;
        let port = postmaster.filter(|p| !p.stopping).and_then(|p| p.port);
        let Some(port) = port else {
            status.state = cluster.unasked(rebooted);
            return Ok(status);
        };
        let answer = tokio::time::timeout(patience, cluster.ask(port)).await;
        let why = match answer {
            Ok(Answer::Ready(version)) => {
                status.version = Some(version);
                status.url = Some(cluster.url(port)?);
                status.state = State::Running;
                return Ok(status);
            }
            Ok(Answer::Locked) => "its password is lost".to_owned(),
            // It may be shutting down since a moment ago.
            Ok(Answer::Silent(_)) if !cluster.is_ready() => {
                status.state = cluster.unasked(rebooted);
                return Ok(status);
            }
            Ok(Answer::Silent(why)) => why,
            Err(_) => format!("no answer within {} s", patience.as_secs()),
        };
        status.state = State::Unresponsive(why);
        Ok(status)
    }

    /// Returns the major versions of other clusters whose servers are running.
    pub(super) fn others(&self, home: &Path, account: &Account, major: u32) -> Vec<u32> {
        let mut others = majors(home);
        others.retain(|other| {
            *other != major
                && self.cluster(home, *other, account).is_ok_and(|cluster| cluster.postmaster().is_some())
        });
        others
    }
}

impl Status {
    fn nothing() -> Self {
        Status {
            state: State::NotInitialised,
            version: None,
            bindir: None,
            data_dir: None,
            log_file: None,
            socket_dir: None,
            port: None,
            pid: None,
            url: None,
            outdated: false,
            others: Vec::new(),
            moved: Vec::new(),
        }
    }
}

impl Cluster {
    /// Returns the state as its files show it. `rebooted`: the server was last started in another boot.
    fn unasked(&self, rebooted: bool) -> State {
        match self.postmaster() {
            Some(postmaster) if postmaster.stopping => State::Stopping,
            Some(_) => State::Starting,
            None => match self.inspect() {
                Data::Missing | Data::Broken => State::NotInitialised,
                Data::Unclean => State::Unclean { rebooted },
                Data::Clean => match self.distrust(Data::Clean, rebooted) {
                    Some(why) => State::Distrusted(why),
                    None => State::Stopped,
                },
            },
        }
    }
}

/// Returns the size of a directory on the disk, without the given directories below it. Files that cannot be
/// read count as 0.
fn size(directory: &Path, without: &[PathBuf]) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(about) if about.is_dir() && !without.contains(&path) => bytes += size(&path, &[]),
            Ok(about) if !about.is_dir() => bytes += about.blocks() * 512,
            _ => {}
        }
    }
    bytes
}
