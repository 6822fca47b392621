//! Lists the clients of a private server.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::{ConnectOptions as _, FromRow};

use super::account::Account;
use super::cluster::Cluster;
use super::{PrivateServer, majors};
use crate::error::Result;
use crate::url::ServerUrl;

/// The application name of pgstencil's sessions.
pub(crate) const APPLICATION: &str = "pgstencil";

/// The application name of pgstencil's background processes and status queries. Their work may be
/// interrupted: the next command continues it.
pub(crate) const BACKGROUND: &str = "pgstencil background";

/// A session of a client.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Client {
    /// Number of the server's process for this session.
    pub(crate) pid: i32,
    /// Application name of the client; empty if it has none.
    pub(crate) application: String,
    /// Postgres role of the session.
    pub(crate) role: String,
    /// Database of the session.
    pub(crate) database: String,
}

/// A running server and its clients.
#[derive(Clone, Debug)]
pub(crate) struct Occupied {
    /// Its major version.
    pub(crate) major: u32,
    /// Its URL, with the password.
    pub(crate) url: ServerUrl,
    /// The directory of its socket.
    pub(crate) socket_dir: Option<PathBuf>,
    /// The sessions of clients, without those of pgstencil's background processes.
    pub(crate) clients: Vec<Client>,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.application.as_str() {
            "" => format!("a session of role `{}`", self.role),
            name => name.to_owned(),
        };
        write!(f, "{name} in `{}` (pid {})", self.database, self.pid)
    }
}

/// Describes the first three clients.
pub(super) fn in_words(clients: &[Client]) -> String {
    let mut words: Vec<String> = clients.iter().take(3).map(Client::to_string).collect();
    if clients.len() > words.len() {
        words.push(format!("{} more", clients.len() - words.len()));
    }
    words.join(", ")
}

impl PrivateServer {
    /// Returns the servers that are running and answer, with their clients.
    ///
    /// # Errors
    /// `Config` if `run_as` names no usable account; `Permission` if a cluster belongs to another account.
    pub(crate) async fn occupied(&self) -> Result<Vec<Occupied>> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let mut occupied = Vec::new();
        for major in majors(&home) {
            let cluster = self.cluster(&home, major, &account)?;
            let postmaster = cluster.postmaster().filter(|p| !p.stopping);
            if let Some(port) = postmaster.and_then(|p| p.port)
                && let Ok(clients) = cluster.clients(port).await
            {
                let url = cluster.url(port)?;
                occupied.push(Occupied { major, url, socket_dir: cluster.socket(port), clients });
            }
        }
        Ok(occupied)
    }
}

impl Cluster {
    /// Returns the sessions of clients, without those of pgstencil's background processes.
    ///
    /// # Errors
    /// The server does not answer, or refuses the connection.
    pub(super) async fn clients(&self, port: u16) -> Result<Vec<Client>, sqlx::Error> {
        let question = async {
            let mut connection = self.way(port).connect().await?;
            let clients = sqlx::query_as(
                "select pid, coalesce(application_name, '') as application, \
                 coalesce(usename::text, '') as role, coalesce(datname::text, '') as database \
                 from pg_stat_activity where backend_type = 'client backend' \
                 and pid <> pg_backend_pid() and application_name is distinct from $1 \
                 order by backend_start",
            )
            .bind(BACKGROUND)
            .fetch_all(&mut connection)
            .await?;
            sqlx::Connection::close(connection).await?;
            Ok(clients)
        };
        tokio::time::timeout(Duration::from_secs(5), question).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}
