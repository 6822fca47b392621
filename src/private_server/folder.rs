//! Where the private server lives, made so that no other user can get at it.
//!
//! ```text
//! STATE/server/            ours, closed to writing by others
//!   lock                   held while a server is started or stopped
//!   binaries.json          what was found on the machine
//!   15/                    one cluster for each major version
//!     password             of the superuser; ours, 0600
//!     cluster.json         port, boot, socket directory, binaries
//!     synced.json          proof that the data was synced after the last shutdown
//!     postgresql.conf      ours, written before each start, and pg_hba.conf
//!     custom.conf          the user's own settings, if there is one
//!     server.log
//!     alive                locked by every process of the server and its watcher as long as they live
//!     socket/
//!     data/                the cluster; in it pgstencil.synced, the watcher's proof of the same
//!     data.crashed-TIME/   old data that was moved aside, until a person removes it
//!   removed-RANDOM/        a cluster that is being deleted
//! ```
//!
//! Every directory has mode 0700 and every file 0600. Under root the directories down to the cluster's have 0711
//! and the two files of settings 0640, so that the account that runs Postgres gets through and can read
//! them. Only `data`, `socket` and `server.log` belong to that account. All else, and every directory above,
//! belongs to root, so that this account cannot lead root astray with a link where root writes.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::account::Account;
use crate::error::{Error, Kind, Result};
use crate::private_file::{self, Reader};

/// The directory for the server's state: `STATE/server`. Root uses `system_dir` where `state_dir` is
/// somebody's own, or where the account of the server could not enter it (as below `/root`).
pub(super) async fn choose(state_dir: &Path, system_dir: &Path, account: &Account) -> Result<PathBuf> {
    for folder in [state_dir, system_dir] {
        if !folder.is_absolute() {
            return Err(Error::usage(format!(
                "the state directory {} is not an absolute path",
                folder.display()
            )));
        }
    }
    let mut folder = state_dir;
    if account.foreign {
        let existing = state_dir.ancestors().find_map(|f| fs::canonicalize(f).ok());
        let existing = existing.unwrap_or_else(|| PathBuf::from("/"));
        // Whoever can change a directory above ours can put another in its place.
        let safe = existing.ancestors().all(|f| fs::metadata(f).is_ok_and(|m| m.uid() == 0 && !is_open(&m)));
        // Without a bit for group or others, no access list lets the account in either, since the bits
        // of the group are the list's mask: that spares the usual /root a process.
        let closed = existing.ancestors().any(|f| fs::metadata(f).is_ok_and(|m| m.mode() & 0o011 == 0));
        if !(safe && !closed && account.can_enter(&existing).await) {
            folder = system_dir;
        }
    }
    Ok(folder.join("server"))
}

/// Makes the directory and whatever is missing above it, and refuses one that others can write to.
pub(super) fn prepare(folder: &Path, account: &Account) -> Result<()> {
    make(folder, account)?;
    judge(folder)
}

/// Refuses a directory that another user made or can write to: what is in it would be theirs. One that is
/// missing is no error.
pub(super) fn judge(folder: &Path) -> Result<()> {
    for folder in folder.ancestors().take(2) {
        let about = match fs::metadata(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            about => about.map_err(|e| unusable(folder, e))?,
        };
        let us = geteuid().as_raw();
        // A link leads wherever its owner wants it to.
        let link = fs::symlink_metadata(folder).map_err(|e| unusable(folder, e))?;
        let owner = match link.uid() {
            0 => about.uid(),
            of_link => [of_link, about.uid()].into_iter().find(|uid| *uid != us).unwrap_or(us),
        };
        if owner != us {
            return Err(Error::new(
                Kind::Permission,
                format!("the state directory {} belongs to another account", folder.display()),
            )
            .detail(format!(
                "its owner is {}; you are {}",
                private_file::user_name(owner),
                private_file::user_name(us)
            ))
            .hint("give it back with `chown -R`, or remove it"));
        }
        if is_open(&about) {
            return Err(Error::new(
                Kind::Permission,
                format!("others can write to the state directory {}", folder.display()),
            )
            .hint(format!("close it with `chmod go-w {}`", folder.display())));
        }
    }
    Ok(())
}

/// Others can put something in the place of what is in this directory.
fn is_open(about: &fs::Metadata) -> bool {
    about.mode() & 0o022 != 0 && about.mode() & 0o1000 == 0
}

/// Makes a directory and those missing above it. The account of the server gets through them, and has no
/// business listing them.
pub(super) fn make(folder: &Path, account: &Account) -> Result<()> {
    private_file::create_folders(folder, account.foreign).map_err(|(folder, e)| unusable(&folder, e))
}

/// Makes a directory that is the account's alone, or takes one that is there.
pub(super) fn make_own(folder: &Path, account: &Account) -> Result<()> {
    match private_file::create_folder(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => private_file::close_folder(folder),
        made => made,
    }
    .map_err(|e| unusable(folder, e))?;
    account.give(folder)
}

/// Puts a file in place whole or not at all.
pub(super) fn write(file: &Path, content: &[u8]) -> Result<()> {
    put(file, content, Reader::Us)
}

/// As [`write`], a file that the server can read and not change.
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

/// As [`write`], a file for a program that runs under the account.
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

/// Random bytes as hexadecimal digits.
pub(super) fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::failed("the system gives no random numbers").caused_by(e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Prepares the directory and takes the lock that starting, stopping and removing is done under; closing the
/// file gives it back, as does the end of the process.
///
/// Cancel safety: a dropped future leaves no lock behind.
pub(super) async fn lock(folder: &Path, account: &Account, deadline: Instant) -> Result<File> {
    let path = folder.join("lock");
    loop {
        prepare(folder, account)?;
        let file = match private_file::open_file(&path) {
            // Another process removed the directory just now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|e| unusable(&path, e))?,
        };
        wait_for(&file, &path, deadline).await?;
        // A process that waited for one that removed the directory holds a lock that nobody else sees.
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
                    "another pgstencil is still starting or stopping the private server",
                )
                .detail(format!("it holds {}", path.display())));
            }
            Err(TryLockError::Error(e)) => {
                return Err(Error::failed(format!("cannot lock {}", path.display()))
                    .caused_by(e)
                    .hint("the state directory must be on a file system with locks"));
            }
        }
    }
}

/// An error about a file or directory of ours.
pub(super) fn unusable(path: &Path, e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Permission,
        _ => Kind::Failed,
    };
    let error = Error::new(kind, format!("cannot use {}", path.display()));
    let error = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => error.hint("make room on that disk"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            error.hint("the private server needs a state directory that you can write to")
        }
        _ => error,
    };
    error.caused_by(e)
}

/// A directory for the socket that is short enough for the kernel (some 100 bytes with the name of the
/// socket): below the cluster's, else a private one in `/tmp`, taken over only if it is the
/// account's own and closed to others.
pub(super) fn socket(cluster: &Path, before: Option<&Path>, account: &Account) -> Result<PathBuf> {
    const LONGEST: usize = 100 - "/.s.PGSQL.65535.lock".len();
    let usual = cluster.join("socket");
    let fits = |folder: &Path| folder.as_os_str().len() <= LONGEST && super::account::is_plain(folder);
    if fits(&usual) {
        make_own(&usual, account)?;
        return Ok(usual);
    }
    if let Some(before) = before.filter(|f| fits(f) && is_private(f, account)) {
        return Ok(before.to_owned());
    }
    // Random, so that nobody can take the name first. What is there already is no directory of ours.
    let folder = Path::new("/tmp").join(format!("pgstencil-{}", random_hex::<8>()?));
    private_file::create_folder(&folder).map_err(|e| unusable(&folder, e))?;
    account.give(&folder)?;
    Ok(folder)
}

fn is_private(folder: &Path, account: &Account) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|m| m.is_dir() && m.uid() == account.uid && m.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
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
