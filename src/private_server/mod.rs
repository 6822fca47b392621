//! The private server: a private Postgres in the user's state directory, started on demand.
//!
//! It outlives the command that started it and is shared by all of the user's projects. There is one
//! cluster for each major version, listening on a unix socket and on loopback TCP only, behind a
//! generated password. `fsync` is off: templates can be built again. So a crash of the *host* may damage
//! the data unseen; see [`PrivateServer::start`] for how that is dealt with.
//!
//! Our own sessions use the socket, which is in a private directory: while the server is stopped, another
//! user's program can take the port, and ask for the password in clear.
//!
//! `directory` shows the files and who owns them. `cluster` makes and repairs one cluster, `launch` starts
//! its server, `postmaster` knows whether it lives, `settings` holds its configuration, `log` its log.
//! `binaries` finds Postgres, `origin` notices that it was replaced, `account` is who runs it, `host` knows
//! the machine. `synced` proves that a stopped cluster is on the disk, `aside` moves away what is not.
//! `status` tells how the clusters are, `clients` who is connected; `end` stops servers, `remove` deletes
//! clusters.

mod account;
mod aside;
mod binaries;
mod clients;
mod cluster;
pub mod disk;
mod end;
mod folder;
mod host;
mod launch;
pub(crate) mod log;
mod origin;
mod postmaster;
mod remove;
mod settings;
mod status;
mod synced;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::url::ServerUrl;
pub use aside::notice;
pub use clients::{APPLICATION, BACKGROUND, Client, Occupied};
pub use end::Stopped;
pub use status::{Listed, Moved, Places, State, Status};

use account::Account;
use binaries::{Binaries, Search};
use cluster::{Cluster, Data};
use origin::Origin;
use postmaster::{Answer, Postmaster, Waited};

/// Everything that decides where the private server lives and how it is found.
#[derive(Clone, Debug)]
pub struct PrivateServerSettings {
    /// The user's state directory, like `~/.local/state/pgstencil`; absolute.
    pub state_dir: PathBuf,
    /// Taken in its place under root, if the state directory is not root's or the account that runs
    /// Postgres cannot enter it; absolute.
    pub system_dir: PathBuf,
    /// The value of `PATH`, searched for Postgres.
    pub path: Option<OsString>,
    /// Directories searched besides; `*` stands for one part of a name.
    pub folders: Vec<String>,
    /// The directory of Postgres's programs; `None` means search.
    pub bindir: Option<PathBuf>,
    /// The account for Postgres if we are root; `None` means `postgres`, else `nobody`. It has no
    /// effect for other users.
    pub run_as: Option<String>,
    /// Which boot of the host this is; `None` means ask the host.
    pub boot_id: Option<String>,
}

impl PrivateServerSettings {
    /// The defaults, with this state directory and nothing on the `PATH`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        PrivateServerSettings {
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

/// The private server of a user. Making this value touches nothing.
#[derive(Clone, Debug)]
pub struct PrivateServer {
    settings: PrivateServerSettings,
}

/// A server that runs and has answered.
#[derive(Clone, Debug)]
pub struct Running {
    /// Loopback TCP, as superuser `postgres`, with the password, to the database `postgres`.
    pub url: ServerUrl,
    /// The directory of the unix socket, which only the server's account (and root) can enter; `None` if
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

impl PrivateServer {
    /// The private server that these settings describe.
    pub fn new(settings: PrivateServerSettings) -> Self {
        PrivateServer { settings }
    }

    /// Makes sure that the server runs, and says where.
    ///
    /// The newest Postgres on the machine is taken (13 to 18, a later one if there is no other);
    /// another major version than before gets a cluster of its own. Calls at the same time start one
    /// server. Its port and password stay the same from start to start, unless another program
    /// has taken the port.
    ///
    /// A server that was killed is started again and recovers, with all its data. But if the host
    /// was booted since, what it wrote last may never have reached the disk. The same holds for a server
    /// that was shut down without a proof that the disk was synced afterwards. Then the cluster is moved
    /// aside, a new one is made, and `notices` says so, now and at each later start until the directory is
    /// removed. Nothing else makes this function give up a cluster; when Postgres refuses to start, the
    /// error ends with its log.
    ///
    /// A server whose binaries were replaced is restarted if no client is connected; else `notices` says so.
    ///
    /// # Errors
    /// `Config` if there is no Postgres or no account to run it; `Permission` if the state directory
    /// belongs to or is open to others; `Timeout` after `patience`; else `Failed`.
    ///
    /// # Cancel safety
    /// A dropped future leaves a server that runs, or one that still starts and that the next call
    /// waits for, or a half-made cluster that the next call removes.
    pub async fn start(&self, patience: Duration) -> Result<Running> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let mut notices = Vec::from_iter(aside::notice(&aside::moved(&home)));
        let started = self.start_in(&home, &account, deadline, &mut notices).await;
        match started {
            Ok(running) => Ok(Running { notices, ..running }),
            // What was moved aside must be told in any case.
            Err(error) => Err(notices.into_iter().fold(error, Error::detail)),
        }
    }

    async fn start_in(
        &self,
        home: &Path,
        account: &Account,
        deadline: Instant,
        notices: &mut Vec<String>,
    ) -> Result<Running> {
        let known = home.is_dir();
        let binaries = self.search(account, home).newest(known).await?;
        let cluster = self.cluster(home, binaries.major, account)?;
        if let Some(postmaster) = cluster.postmaster()
            && let Some(port) = postmaster.port
        {
            let record = cluster.record();
            let origin = record.origin.as_ref();
            let version = match cluster.vouches_for(&postmaster) {
                _ if origin.is_some_and(Origin::is_replaced) => None,
                true => Some(origin.map_or(binaries.version(), |o| o.version.clone())),
                false => match cluster.ask(port).await {
                    Answer::Ready(version) => Some(version),
                    _ => None,
                },
            };
            if let Some(version) = version {
                log::trim_log(&cluster.log());
                return running(&cluster, postmaster, version, false);
            }
        }

        let _lock = folder::lock(home, account, deadline).await?;
        notices.extend(cluster.end_outdated(&binaries, deadline).await?);
        let (version, started) = self.bring_up(&cluster, &binaries, deadline, notices).await?;
        let Some(postmaster) = cluster.postmaster() else {
            return Err(Error::failed("the private server ended right after its start"));
        };
        if started {
            if binaries.is_untested() {
                notices.push(format!(
                    "PostgreSQL {} is newer than what pgstencil was tested with",
                    binaries.major
                ));
            }
            for other in self.others(home, account, cluster.major) {
                notices.push(format!(
                    "the private server of PostgreSQL {other} still runs; `pgstencil server stop` ends all of them"
                ));
            }
        }
        running(&cluster, postmaster, version, started)
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
        let boot_id = self.boot_id();
        let mut data = cluster.inspect();
        if let Some(why) = cluster.distrust(data, record.boot_id != boot_id) {
            let aside = cluster.move_aside()?;
            notices.push(format!(
                "{why}, so the private server starts afresh; the old data is in {}",
                aside.display()
            ));
            data = Data::Missing;
        }
        if data == Data::Missing {
            cluster.create(binaries, deadline).await?;
        } else if locked_out || cluster.password().is_none() {
            // The settings must be there for single-user mode too.
            let socket = record.socket_dir.clone().unwrap_or_else(|| cluster.folder.join("socket"));
            cluster.configure(&record, record.port.unwrap_or(5432), &socket)?;
            cluster.reset_password(binaries, deadline).await?;
            notices.push("the private server's password was lost, so it got a new one".to_owned());
        }
        record.boot_id = boot_id;
        record.origin = Origin::of(binaries);
        cluster.start(binaries, record, &alive, deadline, notices).await?;
        match cluster.wait(deadline).await? {
            Waited::Ready(version) => Ok((version, true)),
            Waited::Locked => Err(Error::failed("the private server refuses its own password")
                .detail(format!("see {}", cluster.log().display()))),
            Waited::Gone => Err(Error::failed("the private server ended right after its start")
                .detail(format!("see {}", cluster.log().display()))),
        }
    }

    /// The directory of the Unix socket, if `url` leads to a private server of ours: one that a user copied
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
            Some(Postmaster { port, .. }) if port.is_some() && port == url.port() => cluster.socket(port?),
            _ => cluster.record().socket_dir,
        }
    }

    /// The directory of the server's state, of which another user made and can change nothing.
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
        let mut cluster = Cluster { folder: home.join(major.to_string()), major, account: account.clone() };
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
            format!("the private server's data belongs to the account `{owner}`"),
        )
        .detail(format!(
            "{} would have to belong to `{}`",
            cluster.data().display(),
            account.name
        ))
        .hint(format!(
            "run as its owner, or remove it with `rm -r {}`: templates can be built again, what clones hold cannot",
            cluster.folder.display()
        )))
    }
}

fn running(cluster: &Cluster, postmaster: Postmaster, version: String, started: bool) -> Result<Running> {
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
        notices: Vec::new(),
    })
}

/// The major versions that have a cluster, in order.
fn majors(home: &Path) -> Vec<u32> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let mut majors: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    majors.sort_unstable();
    majors
}
