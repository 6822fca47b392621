//! The binaries that a server was started from: after an upgrade it goes on with files that are gone, and
//! what it loads later, such as PL/pgSQL, no longer fits.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::binaries::Binaries;
use super::clients;
use super::cluster::Cluster;
use crate::error::Result;

/// The program `postgres` as it was at the start of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Where it is.
    program: PathBuf,
    /// Inode, size and time of the last change: a new file in its place differs.
    file: String,
    /// Its version, like `15.14`.
    pub(super) version: String,
}

impl Origin {
    /// `None` if the program cannot be looked at.
    pub(super) fn of(binaries: &Binaries) -> Option<Self> {
        let program = binaries.program("postgres");
        Some(Origin { file: identity(&program)?, program, version: binaries.version() })
    }

    /// Whether the program is gone, or another one is in its place.
    pub(super) fn is_replaced(&self) -> bool {
        identity(&self.program).as_ref() != Some(&self.file)
    }
}

impl Cluster {
    /// Ends the server if its binaries were replaced and no client is connected, so that it is started
    /// again from the new ones. Returns what to say of it. Call it under the lock.
    ///
    /// # Errors
    /// As [`Cluster::stop`].
    pub(super) async fn end_outdated(&self, now: &Binaries, deadline: Instant) -> Result<Option<String>> {
        let origin = self.record().origin.filter(Origin::is_replaced);
        let (Some(origin), Some(postmaster)) = (origin, self.postmaster()) else {
            return Ok(None);
        };
        // A server that does not answer is dealt with as any other.
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
            "the binaries of the private server were replaced while it ran ({versions}), and what it loads from now on may fail; the next command restarts it once no session is connected, now there are: {}",
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
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("postgres");
        fs::write(&program, "one").unwrap();
        let binaries = Binaries { folder: folder.path().to_owned(), major: 15, minor: 14 };
        let origin = Origin::of(&binaries).unwrap();
        assert!(!origin.is_replaced());
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &program).unwrap();
        assert!(origin.is_replaced());
        fs::remove_file(&program).unwrap();
        assert!(origin.is_replaced() && Origin::of(&binaries).is_none());
    }
}
