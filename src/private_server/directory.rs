//! The directory of the private server, which no other user can change.
//!
//! ```text
//! STATE/server/            pgstencil's, not writable for others
//!   lock                   held while a server is started or stopped
//!   binaries.json          Postgres programs found on the machine
//!   15/                    one cluster for each major version
//!     password             of the superuser; pgstencil's, 0600
//!     cluster.json         port, boot, socket directory, binaries
//!     synced.json          proof that the data was synced after the last shutdown
//!     postgresql.conf      pgstencil's, written before each start, and pg_hba.conf
//!     custom.conf          the user's own settings, if it exists
//!     server.log
//!     alive                locked by every process of the server and its watcher as long as they live
//!     socket/
//!     data/                the cluster, with pgstencil.synced, the watcher's proof of the same
//!     data.new-RANDOM/     a cluster that is being made; removed by the next start if that was killed
//!     data.saved-RANDOM/   a copy that is being packed into a cache file, likewise
//!     data.crashed-TIME/   old data that was moved aside, until the user removes it
//!   removed-RANDOM/        a cluster that is being deleted
//! ```
//!
//! Every directory has mode 0700 and every file 0600. For root, the directories down to the cluster's have
//! 0711 and the two settings files 0640, so that the account that runs Postgres can pass through and read
//! them. Only `data`, `socket` and `server.log` belong to that account. Everything else, and every directory
//! above, belongs to root, so that this account cannot place a link where root writes.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::account::Account;
use crate::error::{Error, Kind, Result};
use crate::private_file::{self, Reader};

/// Returns the directory for the server's state: `STATE/server`. For root it is `system_dir` if `state_dir`
/// belongs to another user, or if the server's account cannot enter it (as below `/root`).
pub(super) async fn choose(state_dir: &Path, system_dir: &Path, account: &Account) -> Result<PathBuf> {
    for directory in [state_dir, system_dir] {
        if !directory.is_absolute() {
            return Err(Error::usage(format!(
                "the state directory {} is not an absolute path",
                directory.display()
            )));
        }
    }
    let mut directory = state_dir;
    if account.foreign {
        let existing = state_dir.ancestors().find_map(|f| fs::canonicalize(f).ok());
        let existing = existing.unwrap_or_else(|| PathBuf::from("/"));
        // A user who can change a directory above can replace this directory.
        let safe = existing.ancestors().all(|f| fs::metadata(f).is_ok_and(|m| m.uid() == 0 && !is_open(&m)));
        // If neither group nor others have this bit, no access list admits the account either, since the
        // group's bits are the mask of the list. This saves a process for the usual /root.
        let closed = existing.ancestors().any(|f| fs::metadata(f).is_ok_and(|m| m.mode() & 0o011 == 0));
        if !(safe && !closed && account.can_enter(&existing).await) {
            directory = system_dir;
        }
    }
    Ok(directory.join("server"))
}

/// Creates the directory and all missing ones above it. Refuses a directory that others can write to.
pub(super) fn prepare(directory: &Path, account: &Account) -> Result<()> {
    make(directory, account)?;
    judge(directory)
}

/// Refuses a directory that another user made or can write to, since that user would control its contents. A
/// missing directory is not an error.
pub(super) fn judge(directory: &Path) -> Result<()> {
    for directory in directory.ancestors().take(2) {
        let about = match fs::metadata(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            about => about.map_err(|e| unusable(directory, e))?,
        };
        let us = geteuid().as_raw();
        // The owner of a link controls where it leads.
        let link = fs::symlink_metadata(directory).map_err(|e| unusable(directory, e))?;
        let owner = match link.uid() {
            0 => about.uid(),
            of_link => [of_link, about.uid()].into_iter().find(|uid| *uid != us).unwrap_or(us),
        };
        if owner != us {
            return Err(Error::new(
                Kind::Permission,
                format!("the state directory {} belongs to another account", directory.display()),
            )
            .detail(format!(
                "its owner is {}; you are {}",
                private_file::user_name(owner),
                private_file::user_name(us)
            ))
            .hint("change the owner with `chown -R`, or remove the directory"));
        }
        if is_open(&about) {
            return Err(Error::new(
                Kind::Permission,
                format!("others can write to the state directory {}", directory.display()),
            )
            .hint(format!("remove that permission with `chmod go-w {}`", directory.display())));
        }
    }
    Ok(())
}

/// Returns whether others can replace entries of this directory.
fn is_open(about: &fs::Metadata) -> bool {
    about.mode() & 0o022 != 0 && about.mode() & 0o1000 == 0
}

/// Creates a directory and the missing ones above it. The server's account can pass through them, but not
/// list them.
pub(super) fn make(directory: &Path, account: &Account) -> Result<()> {
    private_file::create_directories(directory, account.foreign)
        .map_err(|(directory, e)| unusable(&directory, e))
}

/// Creates a directory that belongs to the account alone, or accepts an existing one.
pub(super) fn make_own(directory: &Path, account: &Account) -> Result<()> {
    match private_file::create_directory(directory) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => private_file::close_directory(directory),
        made => made,
    }
    .map_err(|e| unusable(directory, e))?;
    account.give(directory)
}

/// Writes a file completely or not at all.
pub(super) fn write(file: &Path, content: &[u8]) -> Result<()> {
    put(file, content, Reader::Us)
}

/// Like [`write`], for a file that the server can read but not change.
pub(super) fn write_settings(file: &Path, content: &[u8], account: &Account) -> Result<()> {
    put(
        file,
        content,
        match account.foreign {
            true => Reader::Group(account.gid),
            false => Reader::Us,
        },
    )
}

/// Like [`write`], for a file of a program that runs under the account.
pub(super) fn write_for(account: &Account, file: &Path, content: &[u8]) -> Result<()> {
    let (uid, gid) = (account.uid, account.gid);
    put(
        file,
        content,
        match account.foreign {
            true => Reader::Account { uid, gid },
            false => Reader::Us,
        },
    )
}

fn put(file: &Path, content: &[u8], reader: Reader) -> Result<()> {
    private_file::replace_file(file, content, reader).map_err(|e| unusable(file, e))
}

/// Returns random bytes as hexadecimal digits.
pub(super) fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::failed("the system provides no random numbers").caused_by(e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Prepares the directory and takes the lock for starting, stopping and removing. Closing the file releases
/// the lock, and so does the end of the process.
///
/// Cancel safety: a dropped future leaves no lock behind.
pub(super) async fn lock(directory: &Path, account: &Account, deadline: Instant) -> Result<File> {
    let path = directory.join("lock");
    loop {
        prepare(directory, account)?;
        let file = match private_file::open_file(&path) {
            // Another process has just removed the directory.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|e| unusable(&path, e))?,
        };
        wait_for(&file, &path, deadline).await?;
        // If the process that held the lock before removed the directory, this lock is on a file that no
        // other process can see.
        let there = fs::metadata(&path).ok();
        let ours = file.metadata().map_err(|e| unusable(&path, e))?;
        if there.is_some_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
    }
}

async fn wait_for(file: &File, path: &Path, deadline: Instant) -> Result<()> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Kind::Timeout,
                    "another pgstencil process is still starting or stopping the private server",
                )
                .detail(format!("it holds {}", path.display())));
            }
            Err(TryLockError::Error(e)) => {
                return Err(Error::failed(format!("cannot lock {}", path.display()))
                    .caused_by(e)
                    .hint("move the state directory to a file system that supports locks"));
            }
        }
    }
}

/// Returns the error for a file or directory of pgstencil that cannot be used.
pub(super) fn unusable(path: &Path, e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Permission,
        _ => Kind::Failed,
    };
    let error = Error::new(kind, format!("cannot use {}", path.display()));
    let error = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => error.hint("free space on that disk"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            error.hint("use a state directory that you can write to")
        }
        _ => error,
    };
    error.caused_by(e)
}

/// Returns a directory for the socket that is short enough for the kernel (some 100 bytes including the name
/// of the socket): below the cluster's directory, else a private one in `/tmp`, which is reused only if it
/// belongs to the account and is closed to others.
pub(super) fn socket(cluster: &Path, before: Option<&Path>, account: &Account) -> Result<PathBuf> {
    const LONGEST: usize = 100 - "/.s.PGSQL.65535.lock".len();
    let usual = cluster.join("socket");
    let fits =
        |directory: &Path| directory.as_os_str().len() <= LONGEST && super::account::is_plain(directory);
    if fits(&usual) {
        make_own(&usual, account)?;
        return Ok(usual);
    }
    if let Some(before) = before.filter(|f| fits(f) && is_private(f, account)) {
        return Ok(before.to_owned());
    }
    // Random, so that no other user can take the name first. An existing directory is not pgstencil's.
    let directory = Path::new("/tmp").join(format!("pgstencil-{}", random_hex::<8>()?));
    private_file::create_directory(&directory).map_err(|e| unusable(&directory, e))?;
    account.give(&directory)?;
    Ok(directory)
}

fn is_private(directory: &Path, account: &Account) -> bool {
    fs::symlink_metadata(directory)
        .is_ok_and(|m| m.is_dir() && m.uid() == account.uid && m.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let server = top.path().join("state/server");
        let account = Account { name: "me".into(), uid: geteuid().as_raw(), gid: 0, foreign: false };
        prepare(&server, &account).unwrap();
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(top.path().join("state"), open).unwrap();
        let error = prepare(&server, &account).unwrap_err();
        assert_eq!(error.kind(), Kind::Permission);
        assert!(error.hints()[0].contains("chmod go-w"), "{error:?}");
    }
}
