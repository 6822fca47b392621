//! The disk that holds a data directory of this machine.

use std::path::Path;

/// Facts about a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Free bytes.
    pub free: u64,
    /// Total bytes.
    pub total: u64,
    /// The file system.
    pub file_system: FileSystem,
}

/// A file system, as far as it matters for copies of databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 without a journal; `spread`: new directories spread over the disk (`chattr +T` on the directory
    /// that holds the databases).
    Ext4WithoutJournal {
        /// Whether that flag is set.
        spread: bool,
    },
    /// A file system that can share blocks between files.
    Reflink,
    /// Any other file system.
    Other,
}

/// Reads the facts about the disk of a data directory. `None` if the directory does not exist here, cannot be
/// read, or belongs to no running server: then the path is one of another machine.
pub fn look(data: &Path) -> Option<Disk> {
    // The same path may exist on any machine; only the data directory of a running server has this file.
    if !data.join("postmaster.pid").exists() {
        return None;
    }
    room(data)
}

/// Like [`look`], for a directory that is known to be the server's, whether the server is running or not.
pub(crate) fn room(data: &Path) -> Option<Disk> {
    let room = rustix::fs::statvfs(data).ok()?;
    Some(Disk {
        free: room.f_bavail.saturating_mul(room.f_frsize),
        total: room.f_blocks.saturating_mul(room.f_frsize),
        file_system: file_system(data),
    })
}

#[cfg(target_os = "linux")]
fn file_system(data: &Path) -> FileSystem {
    if super::host::is_ext4_without_journal(data).unwrap_or(false) {
        return FileSystem::Ext4WithoutJournal {
            spread: super::host::is_spread(&data.join("base")).unwrap_or(true),
        };
    }
    // Btrfs and XFS, from linux/magic.h. XFS can share blocks unless it was created without that feature;
    // then a copy is an ordinary copy.
    match rustix::fs::statfs(data) {
        Ok(found) if found.f_type == 0x9123_683e || found.f_type == 0x5846_5342 => FileSystem::Reflink,
        _ => FileSystem::Other,
    }
}

#[cfg(not(target_os = "linux"))]
fn file_system(_data: &Path) -> FileSystem {
    FileSystem::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_server_is_somebody_elses() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(look(directory.path()), None);
        std::fs::write(directory.path().join("postmaster.pid"), "1").unwrap();
        let disk = look(directory.path()).unwrap();
        assert!(disk.free <= disk.total && disk.total > 0);
    }
}
