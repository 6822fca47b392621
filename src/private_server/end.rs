//! Stops the servers of all major versions, and syncs their data to the disk.

use std::time::{Duration, Instant};

use super::account::Account;
use super::cluster::{Cluster, Data};
use super::{PrivateServer, directory, host, majors};
use crate::error::{Error, Kind, Result};

/// Result of [`PrivateServer::stop`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Major versions whose servers were stopped; empty if none was running.
    pub majors: Vec<u32>,
}

impl PrivateServer {
    /// Shuts down the servers of all major versions cleanly, with all their sessions. Then syncs the disk, so
    /// that a power loss loses nothing.
    ///
    /// # Errors
    /// `Timeout` after `patience`; the server still has the request then. `Permission` if the server belongs
    /// to another account. `Failed` if the disk cannot be synced; the servers are stopped then.
    ///
    /// # Cancel safety
    /// A dropped future may leave a server that is shutting down, and a disk that is not synced.
    pub async fn stop(&self, patience: Duration) -> Result<Stopped> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let mut stopped = Stopped { majors: Vec::new() };
        if !home.is_dir() {
            return Ok(stopped);
        }
        let _lock = directory::lock(&home, &account, deadline).await?;
        let mut clusters = Vec::new();
        for major in majors(&home) {
            let cluster = self.cluster(&home, major, &account)?;
            if cluster.stop(deadline).await? {
                stopped.majors.push(major);
            }
            clusters.push(cluster);
        }
        for cluster in clusters {
            self.keep_synced(cluster, deadline).await?;
        }
        Ok(stopped)
    }

    /// Syncs the data of a server that ended in this boot, whatever ended it, if that was not done yet.
    pub(super) async fn keep_synced(&self, cluster: Cluster, deadline: Instant) -> Result<()> {
        let is_ours = cluster.record().boot_id == self.boot_id();
        if !is_ours || cluster.inspect() != Data::Clean || cluster.is_proved() {
            return Ok(());
        }
        // Until then its last process may write, and its watcher syncs the disk.
        let alive = match cluster.claim(deadline).await {
            Ok(Some(alive)) => alive,
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == Kind::Timeout => {
                return Err(Error::new(
                    Kind::Timeout,
                    "the private server stopped, but syncing its data to the disk takes too long",
                )
                .detail(format!("data: {}", cluster.data().display()))
                .hint("run `pgstencil server stop` to wait again"));
            }
            Err(e) => return Err(e),
        };
        // On a busy disk this takes seconds.
        tokio::task::spawn_blocking(move || {
            let proved = cluster.prove_synced();
            drop(alive);
            proved
        })
        .await
        .map_err(|e| Error::internal("the sync of the disk was lost").caused_by(e))?
    }

    /// Returns the id of the current boot of the host.
    pub(super) fn boot_id(&self) -> Option<String> {
        self.settings.boot_id.clone().or_else(host::boot_id)
    }
}
