//! The binaries from which a server was started. After an upgrade the server keeps using files that are gone,
//! and files that it loads later, such as PL/pgSQL, no longer fit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::binaries::Binaries;
use super::clients;
use super::cluster::Cluster;
use crate::error::Result;

/// The program `postgres` at the start of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Path of the program.
    program: PathBuf,
    /// Inode, size and time of the last change, which differ if the file was replaced.
    file: String,
    /// Its version, such as `15.14`.
    pub(super) version: String,
}

impl Origin {
    /// Returns the current program; `None` if it cannot be examined.
    pub(super) fn of(binaries: &Binaries) -> Option<Self> {
        let program = binaries.program("postgres");
        Some(Origin { file: identity(&program)?, program, version: binaries.version() })
    }

    /// Returns whether the program is gone or was replaced.
    pub(super) fn is_replaced(&self) -> bool {
        identity(&self.program).as_ref() != Some(&self.file)
    }
}

impl Cluster {
    /// Stops the server if its binaries were replaced and no client is connected, so that it is started again
    /// from the new ones. Returns a notice for the user. Call it under the lock.
    ///
    /// # Errors
    /// As [`Cluster::stop`].
    pub(super) async fn end_outdated(&self, now: &Binaries, deadline: Instant) -> Result<Option<String>> {
        let origin = self.record().origin.filter(Origin::is_replaced);
        let (Some(origin), Some(postmaster)) = (origin, self.postmaster()) else {
            return Ok(None);
        };
        // A server that does not answer is handled as any other.
        let Some(port) = postmaster.port.filter(|_| !postmaster.stopping) else {
            return Ok(None);
        };
        let Ok(clients) = self.clients(port).await else {
            return Ok(None);
        };
        let versions = format!("PostgreSQL {} then, {} now", origin.version, now.version());
        if clients.is_empty() {
            self.stop(deadline).await?;
            return Ok(Some(format!(
                "the binaries of the private server were replaced while it ran ({versions}), so it was restarted"
            )));
        }
        Ok(Some(format!(
            "the binaries of the private server were replaced while it ran ({versions}), so files that it loads from now on may not fit; the next command restarts it when no session is connected; connected now: {}",
            clients::in_words(&clients)
        )))
    }
}

fn identity(program: &Path) -> Option<String> {
    let about = fs::metadata(program).ok()?;
    Some(format!("{} {} {}.{}", about.ino(), about.len(), about.mtime(), about.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("postgres");
        fs::write(&program, "one").unwrap();
        let binaries = Binaries { directory: directory.path().to_owned(), major: 15, minor: 14 };
        let origin = Origin::of(&binaries).unwrap();
        assert!(!origin.is_replaced());
        fs::write(directory.path().join("new"), "two").unwrap();
        fs::rename(directory.path().join("new"), &program).unwrap();
        assert!(origin.is_replaced());
        fs::remove_file(&program).unwrap();
        assert!(origin.is_replaced() && Origin::of(&binaries).is_none());
    }
}
