//! Where the managed server lives, made so that no other user can get at it.
//!
//! ```text
//! STATE/server/            ours, closed to writing by others
//!   lock                   held while a server is started or stopped
//!   binaries.json          what was found on the machine
//!   15/                    one cluster for each major version
//!     password             of the superuser; ours, 0600
//!     cluster.json         port, boot, socket folder
//!     postgresql.conf      ours, written before each start, and pg_hba.conf
//!     custom.conf          the user's own settings, if there is one
//!     server.log
//!     alive                locked by every process of the server as long as it lives
//!     socket/
//!     data/                the cluster
//! ```
//!
//! Under root only `data`, `socket` and `server.log` belong to the account that runs Postgres. All
//! else, and every folder above, belongs to root, so that this account cannot lead root astray with
//! a link where root writes.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::account::Account;
use crate::error::{Error, Kind, Result};

/// The folder for the server's state: `STATE/server`. Root uses `system_dir` where `state_dir` is
/// somebody's own, or where the account of the server could not enter it (as below `/root`).
pub(super) async fn choose(
    state_dir: &Path,
    system_dir: &Path,
    account: &Account,
) -> Result<PathBuf> {
    for folder in [state_dir, system_dir] {
        if !folder.is_absolute() {
            return Err(Error::usage(format!(
                "the state folder {} is not an absolute path",
                folder.display()
            )));
        }
    }
    let mut folder = state_dir;
    if account.foreign {
        let existing = state_dir.ancestors().find_map(|f| fs::canonicalize(f).ok());
        let existing = existing.unwrap_or_else(|| PathBuf::from("/"));
        // Whoever can change a folder above ours can put another in its place.
        let safe = existing
            .ancestors()
            .all(|f| fs::metadata(f).is_ok_and(|m| m.uid() == 0 && !is_open(&m)));
        // Without a bit for group or others, no access list lets the account in either, since the bits
        // of the group are the list's mask: that spares the usual /root a process.
        let closed = existing
            .ancestors()
            .any(|f| fs::metadata(f).is_ok_and(|m| m.mode() & 0o011 == 0));
        if !(safe && !closed && account.can_enter(&existing).await) {
            folder = system_dir;
        }
    }
    Ok(folder.join("server"))
}

/// Makes the folder and whatever is missing above it, and refuses one that others can write to.
pub(super) fn prepare(folder: &Path, account: &Account) -> Result<()> {
    // The account must be able to pass through root's folders, but has no business listing them.
    make(folder, if account.foreign { 0o711 } else { 0o700 })?;
    for folder in folder.ancestors().take(2) {
        let about = fs::metadata(folder).map_err(|e| unusable(folder, e))?;
        let (owner, us) = (about.uid(), geteuid().as_raw());
        if owner != us {
            return Err(Error::new(
                Kind::Permission,
                format!(
                    "the state folder {} belongs to another account",
                    folder.display()
                ),
            )
            .detail(format!("its owner has uid {owner}, we have {us}"))
            .hint("give it back with `chown -R`, or remove it"));
        }
        if is_open(&about) {
            return Err(Error::new(
                Kind::Permission,
                format!("others can write to the state folder {}", folder.display()),
            )
            .hint(format!("close it with `chmod go-w {}`", folder.display())));
        }
    }
    Ok(())
}

/// Others can put something in the place of what is in this folder.
fn is_open(about: &fs::Metadata) -> bool {
    about.mode() & 0o022 != 0 && about.mode() & 0o1000 == 0
}

/// Makes a folder and those missing above it, with this mode whatever the umask.
pub(super) fn make(folder: &Path, mode: u32) -> Result<()> {
    let missing: Vec<&Path> = folder.ancestors().take_while(|f| !f.exists()).collect();
    for folder in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(mode))
                .map_err(|e| unusable(folder, e))?,
            // Somebody else starts at the same time.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(unusable(folder, e)),
        }
    }
    Ok(())
}

/// Puts a file in place whole or not at all, with this mode.
pub(super) fn write(file: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".new-{}", random_hex::<6>()?));
    let new = PathBuf::from(name);
    let put = || -> io::Result<()> {
        let mut handle = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        handle.set_permissions(fs::Permissions::from_mode(mode))?;
        handle.write_all(content)?;
        drop(handle);
        fs::rename(&new, file)
    };
    put().map_err(|e| {
        let _ = fs::remove_file(&new);
        unusable(file, e)
    })
}

/// Random bytes as hexadecimal digits.
pub(super) fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::failed("the system gives no random numbers").caused_by(e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Takes the lock that starting and stopping is done under; closing the file gives it back, as does
/// the end of the process.
///
/// Cancel safety: a dropped future leaves no lock behind.
pub(super) async fn lock(folder: &Path, deadline: Instant) -> Result<File> {
    let path = folder.join("lock");
    let file = open_lock(&path).map_err(|e| unusable(&path, e))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    Kind::Timeout,
                    "another pgstencil is still starting or stopping the managed server",
                )
                .detail(format!("it holds {}", path.display())));
            }
            Err(TryLockError::Error(e)) => {
                return Err(Error::failed(format!("cannot lock {}", path.display()))
                    .caused_by(e)
                    .hint("the state folder must be on a file system with locks"));
            }
        }
    }
}

/// Opens a lock file, making it if needed.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// An error about a file or folder of ours.
pub(super) fn unusable(path: &Path, e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Permission,
        _ => Kind::Failed,
    };
    let error = Error::new(kind, format!("cannot use {}", path.display()));
    let error = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            error.hint("make room on that disk")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            error.hint("the managed server needs a state folder that you can write to")
        }
        _ => error,
    };
    error.caused_by(e)
}

/// A folder for the socket that is short enough for the kernel (some 100 bytes with the name of the
/// socket): below the cluster's, else a private one in `/tmp`, taken over only if it is the
/// account's own and closed to others.
pub(super) fn socket(cluster: &Path, before: Option<&Path>, account: &Account) -> Result<PathBuf> {
    const LONGEST: usize = 100 - "/.s.PGSQL.65535.lock".len();
    let usual = cluster.join("socket");
    let fits =
        |folder: &Path| folder.as_os_str().len() <= LONGEST && super::account::is_plain(folder);
    if fits(&usual) {
        if !usual.exists() {
            make(&usual, 0o700)?;
        }
        account.give(&usual)?;
        fs::set_permissions(&usual, fs::Permissions::from_mode(0o700))
            .map_err(|e| unusable(&usual, e))?;
        return Ok(usual);
    }
    if let Some(before) = before.filter(|f| fits(f) && is_private(f, account)) {
        return Ok(before.to_owned());
    }
    // Random, so that nobody can take the name first; the mode is there from the start.
    let folder = Path::new("/tmp").join(format!("pgstencil-{}", random_hex::<8>()?));
    DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(|e| unusable(&folder, e))?;
    account.give(&folder)?;
    Ok(folder)
}

fn is_private(folder: &Path, account: &Account) -> bool {
    fs::symlink_metadata(folder)
        .is_ok_and(|m| m.is_dir() && m.uid() == account.uid && m.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_has_its_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        write(&file, b"one", 0o644).unwrap();
        write(&file, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let server = top.path().join("state/server");
        let account = Account {
            name: "me".into(),
            uid: geteuid().as_raw(),
            gid: 0,
            foreign: false,
        };
        prepare(&server, &account).unwrap();
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(top.path().join("state"), open).unwrap();
        let error = prepare(&server, &account).unwrap_err();
        assert_eq!(error.kind(), Kind::Permission);
        assert!(error.hints()[0].contains("chmod go-w"), "{error:?}");
    }
}
