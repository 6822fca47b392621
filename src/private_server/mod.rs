//! The private server: a private Postgres in the user's state directory, started on demand.
//!
//! It outlives the command that started it and is shared by all of the user's projects. There is one cluster
//! per major version. Each listens only on a unix socket and on loopback TCP, and requires a generated
//! password. `fsync` is off, since templates can be rebuilt. So a crash of the *host* may damage the data
//! without a sign; [`PrivateServer::start`] describes how that is handled.
//!
//! pgstencil's own sessions use the socket, which is in a private directory: while the server is stopped,
//! another user's program can take the port and ask for the password in clear text.
//!
//! `directory` describes the files and their owners. `cluster` creates and repairs one cluster, `launch`
//! starts its server, `postmaster` checks whether the server is alive, `settings` writes its configuration,
//! and `log` handles its log. `binaries` finds Postgres, `origin` notices that it was replaced, `account`
//! chooses the account that runs it, and `host` has facts about the machine. `synced` proves that a stopped
//! cluster is on the disk, and `aside` moves away data without that proof. `status` reports the state of the
//! clusters and `clients` their sessions; `end` stops servers, `remove` deletes clusters. `save` packs a cluster into a
//! cache file and `restore` makes one from it; `single` runs Postgres for them, and `platform` says where a file fits.

mod account;
mod aside;
mod binaries;
mod clients;
mod cluster;
mod directory;
pub mod disk;
mod end;
#[cfg(feature = "fetch")]
mod fetch;
mod host;
mod launch;
pub(crate) mod log;
mod origin;
#[cfg(feature = "cli")]
mod platform;
mod postmaster;
mod remove;
#[cfg(feature = "cli")]
mod restore;
#[cfg(feature = "cli")]
mod save;
mod settings;
mod single;
mod status;
mod synced;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::url::ServerUrl;
pub(crate) use aside::notice;
pub(crate) use binaries::client_directories;
pub(crate) use clients::{APPLICATION, BACKGROUND, Occupied};
#[cfg(feature = "fetch")]
pub(crate) use fetch::{Fetched, RELEASES};
#[cfg(feature = "cli")]
pub(crate) use restore::Restored;
#[cfg(feature = "cli")]
pub(crate) use save::{Pruning, Saved, Saving};
pub(crate) use single::SAYS;
pub use status::State;
pub(crate) use status::{Listed, Moved, Places, Status};

use account::Account;
use binaries::{Binaries, Search};
use cluster::{Cluster, Data};
use origin::Origin;
use postmaster::{Answer, Postmaster, Waited};

/// The settings that decide where the private server is and how it is found.
#[derive(Clone, Debug)]
pub struct PrivateServerSettings {
    /// The user's state directory, such as `~/.local/state/pgstencil`; absolute.
    pub state_dir: PathBuf,
    /// The directory that replaces it for root, if the state directory is not root's or the account that runs
    /// Postgres cannot enter it; absolute.
    pub system_dir: PathBuf,
    /// The value of `PATH`, which is searched for Postgres.
    pub path: Option<OsString>,
    /// More directories to search; `*` matches one part of a name.
    pub directories: Vec<String>,
    /// This program: a package that was installed with it may have Postgres.
    pub program: Option<PathBuf>,
    /// The directory of Postgres's programs; `None` means search.
    pub bindir: Option<PathBuf>,
    /// The account for Postgres if pgstencil runs as root; `None` means `postgres`, else `nobody`. It has no
    /// effect for other users.
    pub run_as: Option<String>,
    /// The id of the host's current boot; `None` means ask the host.
    pub boot_id: Option<String>,
}

impl PrivateServerSettings {
    /// Returns the defaults, with this state directory and an empty `PATH`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        PrivateServerSettings {
            state_dir: state_dir.into(),
            system_dir: PathBuf::from("/var/lib/pgstencil"),
            path: None,
            directories: binaries::DIRECTORIES.iter().map(|f| (*f).to_owned()).collect(),
            program: None,
            bindir: None,
            run_as: None,
            boot_id: None,
        }
    }
}

/// The private server of a user. Creating this value has no effect on the system.
#[derive(Clone, Debug)]
pub struct PrivateServer {
    settings: PrivateServerSettings,
}

/// A running server that has answered.
#[derive(Clone, Debug)]
pub struct Running {
    /// URL over loopback TCP, as superuser `postgres`, with the password, for the database `postgres`.
    pub url: ServerUrl,
    /// The directory of the unix socket, which only the server's account (and root) can enter; `None` if
    /// custom.conf puts the socket elsewhere.
    pub socket_dir: Option<PathBuf>,
    /// The server's version, such as `15.14`.
    pub version: String,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The server's log.
    pub log_file: PathBuf,
    /// Process of the postmaster.
    pub pid: i32,
    /// Whether this call started it.
    pub started: bool,
    /// Notices for the user, as sentences without a full stop.
    pub notices: Vec<String>,
}

impl PrivateServer {
    /// Returns the private server with these settings.
    pub fn new(settings: PrivateServerSettings) -> Self {
        PrivateServer { settings }
    }

    /// Starts the server if it is not running, and returns its address.
    ///
    /// Uses the newest Postgres on the machine (13 to 18, a later version if there is no other). A major
    /// version that was not used before gets a new cluster. Concurrent calls start one server. Its port and
    /// password stay the same from start to start, unless another program has taken the port.
    ///
    /// A server that was killed is restarted and recovers, with all its data. But if the host was booted
    /// since, the last writes may never have reached the disk. The same holds for a server that was shut down
    /// without a proof that the disk was synced afterwards. Then the cluster is moved aside, a new one is
    /// created, and `notices` reports it, now and at each later start until the directory is removed. This
    /// function gives up a cluster for no other reason; if Postgres refuses to start, the error ends with its
    /// log.
    ///
    /// If the server's binaries were replaced, it is restarted when no client is connected; else `notices`
    /// reports it.
    ///
    /// # Errors
    /// `Config` if there is no Postgres or no account to run it; `Permission` if the state directory belongs
    /// to others or is open to them; `Timeout` after `patience`; else `Failed`.
    ///
    /// # Cancel safety
    /// A dropped future leaves a running server, or one that is still starting and that the next call waits
    /// for, or an incomplete cluster that the next call removes.
    pub async fn start(&self, patience: Duration) -> Result<Running> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let mut notices = Vec::from_iter(aside::notice(&aside::moved(&home)));
        let started = self.start_in(&home, &account, deadline, &mut notices).await;
        match started {
            Ok(running) => Ok(Running { notices, ..running }),
            // Data that was moved aside must be reported in any case.
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

        let _lock = directory::lock(home, account, deadline).await?;
        cluster.remove_copies();
        notices.extend(cluster.end_outdated(&binaries, deadline).await?);
        let (version, started) = self.bring_up(&cluster, &binaries, deadline, notices).await?;
        let Some(postmaster) = cluster.postmaster() else {
            return Err(Error::failed("the private server exited right after its start"));
        };
        if started {
            if binaries.is_untested() {
                notices.push(format!(
                    "PostgreSQL {} is newer than the versions that pgstencil was tested with",
                    binaries.major
                ));
            }
            for other in self.others(home, account, cluster.major) {
                notices.push(format!(
                    "the private server of PostgreSQL {other} is still running; `pgstencil server stop` stops all of them"
                ));
            }
        }
        running(&cluster, postmaster, version, started)
    }

    /// Starts the server under the lock. Returns the version of a server that is running and answers, and
    /// whether this call started it.
    async fn bring_up(
        &self,
        cluster: &Cluster,
        binaries: &Binaries,
        deadline: Instant,
        notices: &mut Vec<String>,
    ) -> Result<(String, bool)> {
        directory::make(&cluster.directory, &cluster.account)?;
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
                "{why}, so the private server starts with an empty cluster; the old data is in {}",
                aside.display()
            ));
            data = Data::Missing;
        }
        if data == Data::Missing {
            cluster.create(binaries, deadline).await?;
        } else if locked_out || cluster.password().is_none() {
            // Single-user mode needs the settings too.
            let socket = record.socket_dir.clone().unwrap_or_else(|| cluster.directory.join("socket"));
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
                .hint(format!("see {}", cluster.log().display()))),
            Waited::Gone => Err(Error::failed("the private server exited right after its start")
                .hint(format!("see {}", cluster.log().display()))),
        }
    }

    /// Returns the directory of the Unix socket, if `url` is that of a private server: one that a user copied
    /// from `server url`, or that a command got in `PGSTENCIL_SERVER_URL`. It makes no difference whether the
    /// server is running, since another program may have its port when it is not. Reads only.
    pub fn socket_of(&self, url: &ServerUrl) -> Option<PathBuf> {
        let loopback = matches!(url.host().as_deref(), Some("127.0.0.1" | "localhost"));
        let password = url.password().filter(|_| loopback)?;
        let account = Account::choose(self.settings.run_as.as_deref()).ok()?;
        let homes = [&self.settings.state_dir, &self.settings.system_dir];
        let homes = homes.map(|directory| directory.join("server"));
        let cluster = homes
            .iter()
            .filter(|home| directory::judge(home).is_ok())
            .flat_map(|home| majors(home).into_iter().map(move |major| (home, major)))
            .filter_map(|(home, major)| self.cluster(home, major, &account).ok())
            // The password identifies it: it is random, and does not change with the port.
            .find(|cluster| cluster.password().as_ref() == Some(&password))?;
        match cluster.postmaster() {
            // The server has the port, so no other program has it, and custom.conf may put the socket
            // elsewhere.
            Some(Postmaster { port, .. }) if port.is_some() && port == url.port() => cluster.socket(port?),
            _ => cluster.record().socket_dir,
        }
    }

    /// Returns the directory of the server's state, after a check that no other user made it or can change
    /// it.
    async fn home(&self, account: &Account) -> Result<PathBuf> {
        let (state, system) = (&self.settings.state_dir, &self.settings.system_dir);
        let home = directory::choose(state, system, account).await?;
        directory::judge(&home)?;
        Ok(home)
    }

    fn search<'a>(&'a self, account: &'a Account, home: &Path) -> Search<'a> {
        Search {
            account,
            bindir: self.settings.bindir.as_deref(),
            path: self.settings.path.as_deref(),
            directories: &self.settings.directories,
            fetched: home.join(binaries::FETCHED),
            program: self.settings.program.as_deref(),
            memory: home.join("binaries.json"),
        }
    }

    /// Returns the cluster of a major version. An existing cluster keeps the account for which it was made,
    /// unless the settings require another.
    fn cluster(&self, home: &Path, major: u32, account: &Account) -> Result<Cluster> {
        let mut cluster =
            Cluster { directory: home.join(major.to_string()), major, account: account.clone() };
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
            "{} must belong to `{}`",
            cluster.data().display(),
            account.name
        ))
        .hint(format!(
            "run as its owner, or remove it with `rm -r {}`; templates can be rebuilt, the contents of clones cannot",
            cluster.directory.display()
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

/// Returns the major versions that have a cluster, in order.
fn majors(home: &Path) -> Vec<u32> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let mut majors: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    majors.sort_unstable();
    majors
}
