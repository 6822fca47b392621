//! JSON answers of the commands of `server`, and of `paths`.

use std::path::Path;

use serde::Serialize;

use super::VERSION;
use crate::private_server::{Listed, Moved, Places, State, Status};

/// Answer of `server start|status|url`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServerAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// State of the server.
    #[serde(flatten)]
    pub status: StatusAnswer,
    /// Directories of old data that were moved aside.
    pub moved: Vec<String>,
    /// The URL with the password: it is the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// State of a server.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StatusAnswer {
    /// `absent`, `stopped`, `starting`, `running`, `stopping` or `unresponsive`.
    pub state: &'static str,
    /// Explanation of the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Version of the server while it runs, else of the server that would be started.
    pub server_version: Option<String>,
    /// The port, if it was ever started.
    pub port: Option<u16>,
    /// Process id of the postmaster.
    pub pid: Option<i32>,
    /// The data directory.
    pub data_dir: Option<String>,
    /// The log.
    pub log_file: Option<String>,
    /// The binaries that would be started.
    pub bindir: Option<String>,
    /// Whether the binaries were replaced while it ran.
    pub outdated: bool,
}

/// Answer of `server stop`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServerStopAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Major versions of the servers that were stopped.
    pub stopped: Vec<u32>,
}

/// Answer of `server fetch`.
#[cfg(feature = "fetch")]
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FetchAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Version of Postgres.
    pub server_version: String,
    /// Directory of its programs.
    pub bindir: String,
    /// Whether they were fetched now, and not before.
    pub fetched: bool,
}

#[cfg(feature = "fetch")]
impl From<&crate::private_server::Fetched> for FetchAnswer {
    fn from(fetched: &crate::private_server::Fetched) -> Self {
        FetchAnswer {
            version: VERSION,
            server_version: fetched.version.clone(),
            bindir: text(&fetched.bindir),
            fetched: !fetched.known,
        }
    }
}

/// Answer of `server list`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServerListAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The clusters, by major version.
    pub clusters: Vec<ClusterAnswer>,
}

/// A cluster.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClusterAnswer {
    /// Major version.
    pub major: u32,
    /// Whether commands use it now.
    pub current: bool,
    /// State of its server.
    #[serde(flatten)]
    pub status: StatusAnswer,
    /// Its size on the disk, without `moved`.
    pub bytes: u64,
    /// Old data that was moved aside, oldest first.
    pub moved: Vec<MovedAnswer>,
}

/// A directory of old data.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MovedAnswer {
    /// The directory.
    pub directory: String,
    /// Its size on the disk.
    pub bytes: u64,
}

/// Answer of `server remove`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ServerRemoveAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Major versions of the clusters that were removed.
    pub removed: Vec<u32>,
    /// The directories of old data that were removed, with their clusters or alone.
    pub moved: Vec<MovedAnswer>,
    /// Total size on the disk.
    pub bytes: u64,
}

/// Answer of `paths`. None of the paths needs to exist.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PathsAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The config file; `None` if there is none.
    pub config: Option<String>,
    /// The state directory; `None` if the environment names none.
    pub state_dir: Option<String>,
    /// Directory of the cache of file hashes; absent without a home directory, or with `file_cache = false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<String>,
    /// Log files of the private server.
    pub logs: Vec<String>,
    /// Log of background work; `None` without a home directory.
    pub background_log: Option<String>,
    /// The setting that switches background work off; `None` if it is on.
    pub background_off_by: Option<String>,
    /// The server.
    pub server: ServerPlaces,
    /// Name of the registry database on that server.
    pub registry: String,
}

/// Location of the server.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ServerPlaces {
    /// Whether it is the private server.
    pub private: bool,
    /// Host and port, or the socket; `None` before the first start, and if the URL is not known.
    pub place: Option<String>,
    /// Source of its URL, such as `--server-url`; `None` for the private server.
    pub named_by: Option<String>,
    /// For the private server: the directory of all clusters.
    pub directory: Option<String>,
    /// For the private server: the data directory.
    pub data_dir: Option<String>,
    /// For the private server: the directory of the socket.
    pub socket_dir: Option<String>,
}

impl ServerAnswer {
    /// Creates the answer. `url`: include the URL.
    pub(crate) fn new(status: &Status, url: bool) -> Self {
        ServerAnswer {
            version: VERSION,
            status: StatusAnswer::from(status),
            moved: status.moved.iter().map(|folder| text(folder)).collect(),
            url: status.url.as_ref().filter(|_| url).map(|u| u.reveal()),
        }
    }
}

impl From<&Status> for StatusAnswer {
    fn from(status: &Status) -> Self {
        let (state, mut reason) = in_words(&status.state);
        if status.outdated && reason.is_none() {
            reason = Some(
                "its binaries were replaced; the next command restarts it when no session is connected"
                    .to_owned(),
            );
        }
        let path = |p: &Option<std::path::PathBuf>| p.as_deref().map(text);
        StatusAnswer {
            state,
            reason,
            server_version: status.version.clone(),
            port: status.port,
            pid: status.pid,
            data_dir: path(&status.data_dir),
            log_file: path(&status.log_file),
            bindir: path(&status.bindir),
            outdated: status.outdated,
        }
    }
}

fn in_words(state: &State) -> (&'static str, Option<String>) {
    match state {
        State::NotInitialised => ("absent", None),
        State::Stopped => ("stopped", None),
        State::Unclean { rebooted: false } => {
            ("stopped", Some("it was killed; the next start recovers it".into()))
        }
        State::Unclean { rebooted: true } => (
            "stopped",
            Some("it went down with the host; the next start moves its data aside and creates an empty cluster".into()),
        ),
        State::Distrusted(why) => {
            ("stopped", Some(format!("{why}; the next start moves its data aside and creates an empty cluster")))
        }
        State::Starting => ("starting", None),
        State::Running => ("running", None),
        State::Stopping => ("stopping", Some("it is shutting down".into())),
        State::Unresponsive(why) => ("unresponsive", Some(why.clone())),
    }
}

impl From<&[Listed]> for ServerListAnswer {
    fn from(clusters: &[Listed]) -> Self {
        ServerListAnswer {
            version: VERSION,
            clusters: clusters
                .iter()
                .map(|cluster| ClusterAnswer {
                    major: cluster.major,
                    current: cluster.current,
                    status: StatusAnswer::from(&cluster.status),
                    bytes: cluster.bytes,
                    moved: cluster.moved.iter().map(MovedAnswer::from).collect(),
                })
                .collect(),
        }
    }
}

impl From<&Moved> for MovedAnswer {
    fn from(moved: &Moved) -> Self {
        MovedAnswer { directory: text(&moved.directory), bytes: moved.bytes }
    }
}

impl ServerRemoveAnswer {
    /// Creates the answer after the removal of whole clusters, or only of the old data of some.
    pub(crate) fn new(clusters: &[Listed], only_moved: bool) -> Self {
        let moved = clusters.iter().flat_map(|c| &c.moved);
        let of_moved: u64 = moved.clone().map(|m| m.bytes).sum();
        let (removed, of_clusters) = match only_moved {
            true => (Vec::new(), 0),
            false => (clusters.iter().map(|c| c.major).collect(), clusters.iter().map(|c| c.bytes).sum()),
        };
        ServerRemoveAnswer {
            version: VERSION,
            removed,
            moved: moved.map(MovedAnswer::from).collect(),
            bytes: of_clusters + of_moved,
        }
    }
}

impl From<&Places> for ServerPlaces {
    fn from(places: &Places) -> Self {
        ServerPlaces {
            private: true,
            place: places.port.map(|port| format!("127.0.0.1:{port}")),
            named_by: None,
            directory: Some(text(&places.directory)),
            data_dir: places.data_dir.as_deref().map(text),
            socket_dir: places.socket_dir.as_deref().map(text),
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
