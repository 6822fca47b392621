//! Facts about this machine: the current boot, its memory, and the needs of its file system.

use std::fs;
use std::path::Path;

/// Returns the id of the current boot; `None` if the system does not show it.
#[cfg(target_os = "linux")]
pub(super) fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(non_empty)
}

/// Returns the id of the current boot. `kern.boottime` is not used, since it changes when the clock is set.
#[cfg(not(target_os = "linux"))]
pub(super) fn boot_id() -> Option<String> {
    std::process::Command::new("/usr/sbin/sysctl")
        .args(["-n", "kern.bootsessionuuid"])
        .output()
        .ok()
        .and_then(|output| non_empty(String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn non_empty(text: String) -> Option<String> {
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

/// Writes all data that the host still has in memory for the file system of `place` to the disk.
#[cfg(target_os = "linux")]
pub(super) fn sync(place: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(place)?)?)
}

/// Writes all data that the host still has in memory to the disk, and makes the disk write its own cache.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync(place: &Path) -> std::io::Result<()> {
    rustix::fs::sync();
    Ok(rustix::fs::fcntl_fullfsync(fs::File::open(place)?)?)
}

/// Returns the memory that this process can use: the machine's, or less in a container. `None` if the system
/// does not show it.
pub(super) fn memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kilobytes * 1024)
    });
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        .chain(machine)
        .min()
}

/// Lets new database directories spread over the disk, only on ext4 without a journal. There a loop of create
/// and drop otherwise becomes 10 times slower, since the inode allocator scans every recently freed inode. On
/// other file systems it has no use. A failure to set the flag is not an error.
pub(super) fn spread_directories(base: &Path) {
    #[cfg(target_os = "linux")]
    if is_ext4_without_journal(base).unwrap_or(false) {
        use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, open};
        let directory = open(
            base,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        if let Ok(directory) = directory
            && let Ok(flags) = ioctl_getflags(&directory)
        {
            // A failure need not be reported: only the speed is the same as without pgstencil.
            let _ = ioctl_setflags(&directory, flags | IFlags::TOPDIR);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = base;
}

/// Returns whether the flag of [`spread_directories`] is set on a directory, also if it was set by hand (`chattr
/// +T`).
#[cfg(target_os = "linux")]
pub(super) fn is_spread(base: &Path) -> Option<bool> {
    use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, open};
    let directory = open(base, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    Some(ioctl_getflags(directory.ok()?).ok()?.contains(IFlags::TOPDIR))
}

/// Returns whether a path is on ext4 without a journal. Needs no privilege: every ext4 has a directory in
/// `/proc/fs/ext4`, and every journal one in `/proc/fs/jbd2`, named DEVICE-INODE. (A journal on a separate
/// device is not recognized, which does no harm.) On overlayfs the device cannot be found, so the answer is
/// no.
#[cfg(target_os = "linux")]
pub(super) fn is_ext4_without_journal(path: &Path) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;

    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let name = link.file_name()?.to_str()?;
    if !Path::new("/proc/fs/ext4").join(name).is_dir() {
        return Some(false);
    }
    let journal = format!("{name}-");
    let journals = fs::read_dir("/proc/fs/jbd2").ok();
    let journaled = journals
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_str().is_some_and(|n| n == name || n.starts_with(&journal)));
    Some(!journaled)
}

#[cfg(test)]
mod tests {
    #[test]
    fn knows_its_boot_and_its_memory() {
        let boot = super::boot_id().unwrap();
        assert!(boot.len() > 8 && !boot.contains('\n'), "{boot:?}");
        if cfg!(target_os = "linux") {
            assert!(super::memory().unwrap() > 1 << 20);
        }
    }
}
