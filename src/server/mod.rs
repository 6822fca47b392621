//! The managed server: a private Postgres in the user's state folder, started on demand.
//!
//! It outlives the command that started it and is shared by all of the user's projects. There is one
//! cluster for each major version, listening on a unix socket and on loopback TCP only, behind a
//! generated password, and tuned for data that can be made again: `fsync` is off. So a crash of the
//! *host* may damage it unseen; see [`ManagedServer::start`] for how that is dealt with.
//!
//! Our own sessions use the socket, which is in a private folder: while the server is stopped, another
//! user's program can take the port, and ask for the password in clear.
//!
//! `folder` shows the files and who owns them. `cluster` makes and mends one cluster, `launch` starts
//! its server, `postmaster` knows whether it lives, `settings` holds its configuration, `log` its log.
//! `binaries` finds Postgres, `account` is who runs it, `host` knows the machine.

mod account;
mod binaries;
mod cluster;
pub mod disk;
mod folder;
mod host;
mod launch;
mod log;
mod postmaster;
mod settings;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::url::ServerUrl;
use account::Account;
use binaries::{Binaries, Search};
use cluster::{Cluster, Data};
use postmaster::{Answer, Postmaster, Waited};

/// Everything that decides where the managed server lives and how it is found.
#[derive(Clone, Debug)]
pub struct ManagedSettings {
    /// The user's state folder, like `~/.local/state/pgstencil`; absolute.
    pub state_dir: PathBuf,
    /// Taken in its place under root, if the state folder is not root's or the account that runs
    /// Postgres cannot enter it; absolute.
    pub system_dir: PathBuf,
    /// The value of `PATH`, searched for Postgres.
    pub path: Option<OsString>,
    /// Folders searched besides; `*` stands for one part of a name.
    pub folders: Vec<String>,
    /// The folder of Postgres's programs; `None` means search.
    pub bindir: Option<PathBuf>,
    /// The account for Postgres if we are root; `None` means `postgres`, else `nobody`. It has no
    /// effect for other users.
    pub run_as: Option<String>,
    /// Which boot of the host this is; `None` means ask the host.
    pub boot_id: Option<String>,
}

impl ManagedSettings {
    /// The defaults, with this state folder and nothing on the `PATH`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        ManagedSettings {
            state_dir: state_dir.into(),
            system_dir: PathBuf::from("/var/lib/pgstencil"),
            path: None,
            folders: binaries::FOLDERS.iter().map(|f| (*f).to_owned()).collect(),
            bindir: None,
            run_as: None,
            boot_id: None,
        }
    }
}

/// The managed server of a user. Making this value touches nothing.
#[derive(Clone, Debug)]
pub struct ManagedServer {
    settings: ManagedSettings,
}

/// A server that runs and has answered.
#[derive(Clone, Debug)]
pub struct Running {
    /// Loopback TCP, as superuser `postgres`, with the password, to the database `postgres`.
    pub url: ServerUrl,
    /// The folder of the unix socket, which only the server's account (and root) can enter; `None` if
    /// custom.conf has the socket elsewhere.
    pub socket_dir: Option<PathBuf>,
    /// The server's version, like `15.14`.
    pub version: String,
    /// The cluster.
    pub data_dir: PathBuf,
    /// The server's log.
    pub log_file: PathBuf,
    /// The postmaster.
    pub pid: i32,
    /// This call started it.
    pub started: bool,
    /// What the user should be told, as sentences without full stop.
    pub notices: Vec<String>,
}

/// How the managed server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no cluster; the next start makes one.
    NotInitialised,
    /// There is a cluster, shut down in order.
    Stopped,
    /// The server was killed, or crashed with its host.
    Unclean {
        /// The host has been booted since, so the next start moves the data aside.
        rebooted: bool,
    },
    /// A postmaster runs and takes no connections yet.
    Starting,
    /// It runs and answers.
    Running,
    /// A postmaster runs, but does not let us in; why.
    Unresponsive(String),
}

/// What [`ManagedServer::status`] found.
#[derive(Clone, Debug)]
pub struct Status {
    /// How it is.
    pub state: State,
    /// Of the server if it runs, else of the binaries that would be started.
    pub version: Option<String>,
    /// The binaries that would be started; `None` if there are none.
    pub bindir: Option<PathBuf>,
    /// Where the cluster is, or would be.
    pub data_dir: Option<PathBuf>,
    /// Where the log is, or would be.
    pub log_file: Option<PathBuf>,
    /// The folder of the unix socket, once there was a start.
    pub socket_dir: Option<PathBuf>,
    /// The port, once there was a start.
    pub port: Option<u16>,
    /// The postmaster, while there is one.
    pub pid: Option<i32>,
    /// The URL, with the password, while it runs.
    pub url: Option<ServerUrl>,
    /// Clusters of other major versions that run.
    pub others: Vec<u32>,
}

/// What [`ManagedServer::stop`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Major versions whose servers were ended; empty if none ran.
    pub majors: Vec<u32>,
}

impl ManagedServer {
    /// The managed server that these settings describe.
    pub fn new(settings: ManagedSettings) -> Self {
        ManagedServer { settings }
    }

    /// Makes sure that the server runs, and says where.
    ///
    /// The newest Postgres on the machine is taken (13 to 18, a later one if there is no other);
    /// another major version than before gets a cluster of its own. Calls at the same time start one
    /// server. Its port and password stay the same from start to start, unless another program
    /// has taken the port.
    ///
    /// A server that was killed is started again and recovers, with all its data. But if the host
    /// was booted since, what it wrote last may never have reached the disk: then the cluster is moved
    /// aside, a new one is made, and `notices` says so. One such folder is kept. Nothing else makes
    /// this function give up a cluster; when Postgres refuses to start, the error ends with its log.
    ///
    /// # Errors
    /// `Config` if there is no Postgres or no account to run it; `Permission` if the state folder
    /// belongs to or is open to others; `Timeout` after `patience`; else `Failed`.
    ///
    /// # Cancel safety
    /// A dropped future leaves a server that runs, or one that still starts and that the next call
    /// waits for, or a half-made cluster that the next call removes.
    pub async fn start(&self, patience: Duration) -> Result<Running> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let known = home.is_dir();
        let binaries = self.search(&account, &home).newest(known).await?;
        let cluster = self.cluster(&home, binaries.major, &account)?;
        if let Some(postmaster) = cluster.postmaster()
            && let Some(port) = postmaster.port
        {
            let version = match cluster.vouches_for(&postmaster) {
                true => Some(binaries.version()),
                false => match cluster.ask(port).await {
                    Answer::Ready(version) => Some(version),
                    _ => None,
                },
            };
            if let Some(version) = version {
                log::trim_log(&cluster.log());
                return running(&cluster, postmaster, version, false, Vec::new());
            }
        }

        folder::prepare(&home, &account)?;
        let _lock = folder::lock(&home, deadline).await?;
        let mut notices = Vec::new();
        let (version, started) = self
            .bring_up(&cluster, &binaries, deadline, &mut notices)
            .await?;
        let Some(postmaster) = cluster.postmaster() else {
            return Err(Error::failed(
                "the managed server ended right after its start",
            ));
        };
        if started {
            if binaries.is_untested() {
                notices.push(format!(
                    "PostgreSQL {} is newer than what pgstencil was tested with",
                    binaries.major
                ));
            }
            for other in self.others(&home, &account, cluster.major) {
                notices.push(format!(
                    "the managed server of PostgreSQL {other} still runs; `pgstencil server stop` ends all of them"
                ));
            }
        }
        running(&cluster, postmaster, version, started, notices)
    }

    /// Under the lock: a server that runs and answers, and whether it was started here.
    async fn bring_up(
        &self,
        cluster: &Cluster,
        binaries: &Binaries,
        deadline: Instant,
        notices: &mut Vec<String>,
    ) -> Result<(String, bool)> {
        folder::make(&cluster.folder, &cluster.account)?;
        let mut locked_out = false;
        let alive = loop {
            match cluster.wait(deadline).await? {
                Waited::Ready(version) => return Ok((version, false)),
                Waited::Locked => {
                    locked_out = true;
                    cluster.stop(deadline).await?;
                }
                Waited::Gone => {
                    if let Some(alive) = cluster.claim(deadline).await? {
                        break alive;
                    }
                }
            }
        };

        let mut record = cluster.record();
        let boot_id = self.settings.boot_id.clone().or_else(host::boot_id);
        let mut data = cluster.inspect();
        if data == Data::Broken || (data == Data::Unclean && record.boot_id != boot_id) {
            let aside = cluster.move_aside()?;
            notices.push(format!(
                "{}, so the managed server starts afresh; the old data is in {}",
                if data == Data::Broken {
                    "the data folder held no complete cluster"
                } else {
                    "the host went down while the managed server ran"
                },
                aside.display()
            ));
            data = Data::Missing;
        }
        if data == Data::Missing {
            cluster.create(binaries, deadline).await?;
        } else if locked_out || cluster.password().is_none() {
            // The settings must be there for single-user mode too.
            let socket = record
                .socket_dir
                .clone()
                .unwrap_or_else(|| cluster.folder.join("socket"));
            cluster.configure(&record, record.port.unwrap_or(5432), &socket)?;
            cluster.reset_password(binaries, deadline).await?;
            notices.push("the managed server's password was lost, so it got a new one".to_owned());
        }
        record.boot_id = boot_id;
        cluster
            .start(binaries, record, &alive, deadline, notices)
            .await?;
        match cluster.wait(deadline).await? {
            Waited::Ready(version) => Ok((version, true)),
            Waited::Locked => Err(Error::failed("the managed server refuses its own password")
                .detail(format!("see {}", cluster.log().display()))),
            Waited::Gone => Err(
                Error::failed("the managed server ended right after its start")
                    .detail(format!("see {}", cluster.log().display())),
            ),
        }
    }

    /// How the server is. Writes nothing and starts nothing.
    ///
    /// # Errors
    /// `Config` if `bindir` or `run_as` name nothing useful. That there is no Postgres is no error.
    pub async fn status(&self) -> Result<Status> {
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
        let mut status = Status {
            state: State::NotInitialised,
            version: binaries
                .as_ref()
                .map(|b| format!("{}.{}", b.major, b.minor)),
            bindir: binaries.map(|b| b.folder),
            data_dir: None,
            log_file: None,
            socket_dir: None,
            port: None,
            pid: None,
            url: None,
            others: Vec::new(),
        };
        let Some(major) = major else {
            return Ok(status);
        };
        let cluster = self.cluster(&home, major, &account)?;
        let record = cluster.record();
        status.others = self.others(&home, &account, major);
        status.data_dir = Some(cluster.data());
        status.log_file = Some(cluster.log());
        status.socket_dir = record.socket_dir;
        status.port = record.port;
        status.state = match cluster.postmaster() {
            None => match cluster.inspect() {
                Data::Missing | Data::Broken => State::NotInitialised,
                Data::Clean => State::Stopped,
                Data::Unclean => State::Unclean {
                    rebooted: record.boot_id
                        != self.settings.boot_id.clone().or_else(host::boot_id),
                },
            },
            Some(Postmaster {
                pid, port: None, ..
            }) => {
                status.pid = Some(pid);
                State::Starting
            }
            Some(Postmaster {
                pid,
                port: Some(port),
                ..
            }) => {
                status.pid = Some(pid);
                status.port = Some(port);
                match cluster.ask(port).await {
                    Answer::Ready(version) => {
                        status.version = Some(version);
                        status.url = Some(cluster.url(port)?);
                        State::Running
                    }
                    Answer::Locked => State::Unresponsive("its password is lost".to_owned()),
                    Answer::Silent(_) if !cluster.is_ready() => State::Starting,
                    Answer::Silent(why) => State::Unresponsive(why),
                }
            }
        };
        Ok(status)
    }

    /// Ends the servers of all major versions, and with them every session, in order.
    ///
    /// # Errors
    /// `Timeout` after `patience`; the server then still has the request. `Permission` if it belongs
    /// to somebody else.
    ///
    /// # Cancel safety
    /// A dropped future may leave a server that is about to end.
    pub async fn stop(&self, patience: Duration) -> Result<Stopped> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let mut stopped = Stopped { majors: Vec::new() };
        if !home.is_dir() {
            return Ok(stopped);
        }
        folder::prepare(&home, &account)?;
        let _lock = folder::lock(&home, deadline).await?;
        for major in majors(&home) {
            if self.cluster(&home, major, &account)?.stop(deadline).await? {
                stopped.majors.push(major);
            }
        }
        Ok(stopped)
    }

    /// The folder of the Unix socket, if `url` leads to a managed server of ours: one that a user copied
    /// from `server url`, or that a command got in `PGSTENCIL_SERVER_URL`. Whether the server runs makes
    /// no difference, since a stranger may have its port when it does not. Reads only.
    pub fn socket_of(&self, url: &ServerUrl) -> Option<PathBuf> {
        let loopback = matches!(url.host().as_deref(), Some("127.0.0.1" | "localhost"));
        let password = url.password().filter(|_| loopback)?;
        let account = Account::choose(self.settings.run_as.as_deref()).ok()?;
        let homes = [&self.settings.state_dir, &self.settings.system_dir];
        let homes = homes.map(|folder| folder.join("server"));
        let cluster = homes
            .iter()
            .filter(|home| folder::judge(home).is_ok())
            .flat_map(|home| majors(home).into_iter().map(move |major| (home, major)))
            .filter_map(|(home, major)| self.cluster(home, major, &account).ok())
            // The password tells it from any other: it is random, and stays when the port changes.
            .find(|cluster| cluster.password().as_ref() == Some(&password))?;
        match cluster.postmaster() {
            // It has the port, so nobody else does, and custom.conf may have the socket elsewhere.
            Some(Postmaster { port, .. }) if port.is_some() && port == url.port() => {
                cluster.socket(port?)
            }
            _ => cluster.record().socket_dir,
        }
    }

    /// The folder of the server's state, of which another user made and can change nothing.
    async fn home(&self, account: &Account) -> Result<PathBuf> {
        let (state, system) = (&self.settings.state_dir, &self.settings.system_dir);
        let home = folder::choose(state, system, account).await?;
        folder::judge(&home)?;
        Ok(home)
    }

    fn search<'a>(&'a self, account: &'a Account, home: &Path) -> Search<'a> {
        Search {
            account,
            bindir: self.settings.bindir.as_deref(),
            path: self.settings.path.as_deref(),
            folders: &self.settings.folders,
            memory: home.join("binaries.json"),
        }
    }

    /// The cluster of a major version. One that is there keeps the account that it was made for,
    /// unless the settings insist on another.
    fn cluster(&self, home: &Path, major: u32, account: &Account) -> Result<Cluster> {
        let mut cluster = Cluster {
            folder: home.join(major.to_string()),
            major,
            account: account.clone(),
        };
        let Ok(about) = fs::symlink_metadata(cluster.data()) else {
            return Ok(cluster);
        };
        if about.uid() == account.uid {
            return Ok(cluster);
        }
        if account.foreign
            && self.settings.run_as.is_none()
            && let Some(owner) = Account::of_uid(about.uid())
        {
            cluster.account = owner;
            return Ok(cluster);
        }
        let owner = Account::of_uid(about.uid()).map_or(about.uid().to_string(), |a| a.name);
        Err(Error::new(
            Kind::Permission,
            format!("the managed server's data belongs to the account `{owner}`"),
        )
        .detail(format!(
            "{} would have to belong to `{}`",
            cluster.data().display(),
            account.name
        ))
        .hint(format!(
            "remove it with `rm -r {}` (it holds only what can be built again), or run as its owner",
            cluster.folder.display()
        )))
    }

    fn others(&self, home: &Path, account: &Account, major: u32) -> Vec<u32> {
        let mut others = majors(home);
        others.retain(|other| {
            *other != major
                && self
                    .cluster(home, *other, account)
                    .is_ok_and(|cluster| cluster.postmaster().is_some())
        });
        others
    }
}

fn running(
    cluster: &Cluster,
    postmaster: Postmaster,
    version: String,
    started: bool,
    notices: Vec<String>,
) -> Result<Running> {
    let Some(port) = postmaster.port else {
        return Err(Error::internal("a server that answers has no port"));
    };
    Ok(Running {
        url: cluster.url(port)?,
        socket_dir: cluster.socket(port),
        version,
        data_dir: cluster.data(),
        log_file: cluster.log(),
        pid: postmaster.pid,
        started,
        notices,
    })
}

/// The major versions that have a cluster, in order.
fn majors(home: &Path) -> Vec<u32> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let mut majors: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    majors.sort_unstable();
    majors
}
