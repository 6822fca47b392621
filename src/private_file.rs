//! Files and directories that only their owner can read. pgstencil creates all its files here.
//!
//! A file or directory has its final mode from its creation: if the mode is set later, another user can open
//! the file in between. The umask can only remove bits. Nothing here writes through a link or into a file
//! that another user made: new content is written to a new file, which then takes the name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{User, geteuid};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, statat};

use crate::error::{Error, Result};
use crate::names;

/// Mode of files.
const FILE: u32 = 0o600;
/// Mode of directories.
const DIRECTORY: u32 = 0o700;
/// Bits of group and others.
const OTHERS: u32 = 0o077;
/// Beginning of the names of files that are locked as long as they are written.
const LOCKED: &str = ".pgstencil-cache-";
/// Age below which such a file is left alone.
const YOUNG: std::time::Duration = std::time::Duration::from_secs(10);
/// Maximum number of links that lead to a file, as in the kernel.
const MOST_LINKS: usize = 40;
/// Hint if a file of another user prevents an output.
const ELSEWHERE: &str = "name a file in a directory of your own";

/// The account that may read a file. Root creates files for the account of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Only the current user: mode 0600.
    Us,
    /// Only this account, which becomes the owner: mode 0600.
    Account {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// The current user and this group, which cannot change it: mode 0640.
    Group(u32),
}

/// A directory that is open. Names in it are looked up in this very directory, and no link is followed, so that
/// the account that owns its contents cannot lead a reader or writer elsewhere.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

/// The kind of an entry of a [`Directory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else, such as a link.
    Other,
}

/// Flags with which entries are opened. A pipe must not block.
const ENTRY: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

impl Directory {
    /// Opens a directory, whose name must not be a link.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | ENTRY;
        Ok(Directory(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a directory in this one; `path` may have several parts.
    ///
    /// # Errors
    /// As [`Directory::open`].
    pub(crate) fn directory(&self, path: &str) -> io::Result<Self> {
        let mut at = None;
        for name in path.split('/') {
            let parent = at.as_ref().unwrap_or(&self.0);
            at = Some(openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | ENTRY, Mode::empty())?);
        }
        at.map(Directory).ok_or_else(|| ErrorKind::InvalidInput.into())
    }

    /// Creates a directory with mode 0700 in this one.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the name exists, even as a link.
    pub(crate) fn make(&self, name: &str) -> io::Result<Self> {
        mkdirat(&self.0, name, Mode::from_raw_mode(DIRECTORY))?;
        self.directory(name)
    }

    /// Returns the entries, in order.
    ///
    /// # Errors
    /// Errors of the system; a name that is not UTF-8.
    pub(crate) fn entries(&self) -> io::Result<Vec<(String, Entry)>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_str().map_err(|_| ErrorKind::InvalidData)?;
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let about = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(about.st_mode)
                }
                kind => kind,
            };
            let kind = match kind {
                FileType::RegularFile => Entry::File,
                FileType::Directory => Entry::Directory,
                _ => Entry::Other,
            };
            entries.push((name.to_owned(), kind));
        }
        entries.sort();
        Ok(entries)
    }

    /// Opens a regular file to read.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] if it is anything else; errors of the system.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        let file = File::from(openat(&self.0, name, OFlags::RDONLY | ENTRY, Mode::empty())?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(ErrorKind::InvalidData, format!("{name} is not a regular file"))),
        }
    }

    /// Creates a file with mode 0600.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if the name exists, even as a link.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | ENTRY;
        Ok(File::from(openat(&self.0, name, flags, Mode::from_raw_mode(FILE))?))
    }

    /// Makes an account the owner of the directory.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) fn give(&self, uid: u32, gid: u32) -> io::Result<()> {
        fchown(&self.0, Some(uid), Some(gid))
    }
}

/// A new file that takes its final name when it is complete.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    path: PathBuf,
    name: PathBuf,
    is_kept: bool,
}

impl NewFile {
    /// Creates a file with mode 0600 next to `name`.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) fn beside(name: &Path) -> io::Result<Self> {
        NewFile::named(name, &format!(".pgstencil-{}", names::random_text(12)))
    }

    /// Creates a file like [`NewFile::beside`], which is locked as long as it is written, so that
    /// [`remove_abandoned`] finds it if the process is killed.
    ///
    /// # Errors
    /// As [`NewFile::beside`].
    pub(crate) fn locked_beside(name: &Path) -> io::Result<Self> {
        let new = NewFile::named(name, &format!("{LOCKED}{}", names::random_text(12)))?;
        // Without locks on this file system, such files are never removed.
        let _ = new.file.try_lock();
        Ok(new)
    }

    fn named(name: &Path, own: &str) -> io::Result<Self> {
        let path = name.with_file_name(own);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE).open(&path)?;
        Ok(NewFile { file, path, name: name.to_owned(), is_kept: false })
    }

    /// The file.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives it the final name, for a file that need not outlive a crash of the machine.
    ///
    /// # Errors
    /// As [`NewFile::finish`].
    pub(crate) fn keep(mut self) -> io::Result<()> {
        fs::rename(&self.path, &self.name)?;
        self.is_kept = true;
        Ok(())
    }

    /// Replaces a file or link of the final name. The disk has the content before that.
    ///
    /// # Errors
    /// Errors of the system; then the old file stays, and this one is removed.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.name)?;
        self.is_kept = true;
        Ok(())
    }
}

/// Removes what killed processes left in the directory of a file: files of [`NewFile::locked_beside`] that belong to the
/// current user and that no process has locked.
pub(crate) fn remove_abandoned(beside: &Path) {
    let directory = match beside.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(LOCKED)) else {
            continue;
        };
        if rest.len() != 12 || !rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            continue;
        }
        let path = entry.path();
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(&path) else {
            continue;
        };
        let is_ours = file.metadata().is_ok_and(|about| {
            let age = about.modified().ok().and_then(|time| time.elapsed().ok());
            // One that was created a moment ago may not be locked yet.
            about.is_file() && about.uid() == geteuid().as_raw() && age.is_some_and(|age| age > YOUNG)
        });
        if is_ours && file.try_lock().is_ok() {
            let _ = fs::remove_file(&path);
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates a directory with mode 0700.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if the name exists, even as a link.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY).create(directory)
}

/// Creates a directory and the missing ones above it. An existing directory is not changed.
///
/// Their mode is 0700. With `passage` it is 0711: another account can open a file in them whose name it
/// knows, but cannot list them.
///
/// # Errors
/// Errors of the system, with the directory that could not be created.
pub(crate) fn create_directories(directory: &Path, passage: bool) -> Result<(), (PathBuf, io::Error)> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|f| !f.exists()).collect();
    for directory in missing.into_iter().rev() {
        let made = create_directory(directory).and_then(|()| match passage {
            true => open_passage(directory),
            false => Ok(()),
        });
        match made {
            // Another process creates it at the same time.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| (directory.to_owned(), e))?,
        }
    }
    Ok(())
}

/// Sets mode 0711, which a directory does not get under a umask of 077. The directory is still empty.
fn open_passage(directory: &Path) -> io::Result<()> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(directory)?;
    directory.set_permissions(fs::Permissions::from_mode(0o711))
}

/// Removes the permissions of group and others from an existing directory; does not follow a link.
///
/// # Errors
/// Errors of the system.
pub(crate) fn close_directory(directory: &Path) -> io::Result<()> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(directory)?;
    close(&directory, DIRECTORY)
}

/// Copies a regular file to a new name, in a directory that is closed to others, with its modification time. Where the
/// file system can, both files share their blocks. It is never a hard link.
///
/// # Errors
/// Errors of the system.
pub(crate) fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    let modified = fs::metadata(from)?.modified()?;
    File::open(to)?.set_modified(modified)
}

/// Removes a directory and all that it contains, also directories without permission to write. Links are not followed.
///
/// # Errors
/// Errors of the system.
pub(crate) fn remove_directory(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            open_directories(directory);
            fs::remove_dir_all(directory)
        }
        done => done,
    }
}

/// Lets the owner list and change a directory and those in it.
fn open_directories(directory: &Path) {
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_directories(&entry.path());
        }
    }
}

/// Creates a file with mode 0600 and this content.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if the name exists, even as a link; errors of the system. A file that could
/// not be written completely is removed.
pub(crate) fn create_file(file: &Path, content: &[u8]) -> io::Result<()> {
    create(file, content, Reader::Us)
}

fn create(file: &Path, content: &[u8], reader: Reader) -> io::Result<()> {
    let mut handle = OpenOptions::new().write(true).create_new(true).mode(FILE).open(file)?;
    let mut write = || -> io::Result<()> {
        // The file is empty until it has the right reader.
        match reader {
            Reader::Us => {}
            Reader::Account { uid, gid } => fchown(&handle, Some(uid), Some(gid))?,
            Reader::Group(gid) => {
                fchown(&handle, None, Some(gid))?;
                handle.set_permissions(fs::Permissions::from_mode(FILE | 0o040))?;
            }
        }
        handle.write_all(content)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(file);
    })
}

/// Writes a file completely or not at all. Replaces a file or link of this name.
///
/// # Errors
/// Errors of the system; the old file is unchanged then. A crash can leave a file `.pgstencil-…` in the same
/// directory.
pub(crate) fn replace_file(file: &Path, content: &[u8], reader: Reader) -> io::Result<()> {
    let new = file.with_file_name(format!(".pgstencil-{}", names::random_text(12)));
    create(&new, content, reader)?;
    fs::rename(&new, file).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// Creates a file for everybody who may read its directory, whose mode decides who that is. A name that exists is an
/// error with `create_only`, else it is replaced. No reader sees a part of it.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] with `create_only`; errors of the system.
pub(crate) fn publish_file(file: &Path, content: &[u8], create_only: bool) -> io::Result<()> {
    let directory = fs::metadata(file.parent().unwrap_or(Path::new(".")))?.mode();
    let new = file.with_file_name(format!(".pgstencil-{}", names::random_text(12)));
    create_file(&new, content)?;
    let publish = || {
        fs::set_permissions(&new, fs::Permissions::from_mode(FILE | (directory & 0o044)))?;
        match create_only {
            // Fails if the name exists; a rename would replace it.
            true => fs::hard_link(&new, file).and_then(|()| fs::remove_file(&new)),
            false => fs::rename(&new, file),
        }
    };
    publish().inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// Creates the missing directories of a path below `top`, which exists. They get the permissions of `top`.
///
/// # Errors
/// Errors of the system.
pub(crate) fn publish_directories(top: &Path, below: &Path) -> io::Result<()> {
    let mode = fs::metadata(top)?.mode() & 0o7777;
    let mut directory = top.to_owned();
    for part in below {
        directory.push(part);
        match create_directory(&directory) {
            Ok(()) => fs::set_permissions(&directory, fs::Permissions::from_mode(DIRECTORY | mode))?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Opens a file to read and to append to it. Creates a missing file with mode 0600, and closes a file that
/// group or others could read.
///
/// # Errors
/// Errors of the system; a link is not followed.
pub(crate) fn open_file(file: &Path) -> io::Result<File> {
    let handle = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(FILE)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(file)?;
    close(&handle, FILE)?;
    Ok(handle)
}

fn close(handle: &File, mode: u32) -> io::Result<()> {
    match handle.metadata()?.mode() & OTHERS {
        0 => Ok(()),
        _ => handle.set_permissions(fs::Permissions::from_mode(mode)),
    }
}

/// Writes a file that the user named. The file has mode 0600 afterwards, whatever existed before.
///
/// A device, a pipe and `/dev/stdout` are written to as they are. A link is followed if it belongs to the
/// current user or root.
///
/// # Errors
/// A pipe or link that belongs to another user; a file of another user that cannot be replaced; a file that
/// others can read and that cannot be replaced by a new one; a directory; errors of the system.
pub(crate) fn write_output(file: &Path, content: &[u8]) -> Result<()> {
    let failed = |e: io::Error| Error::failed(format!("cannot write {}", file.display())).caused_by(e);
    let mut place = file.to_owned();
    for _ in 0..MOST_LINKS {
        if is_descriptor(&place) {
            return append(&place, content).map_err(failed);
        }
        let about = match fs::symlink_metadata(&place) {
            Ok(about) => about,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return replace_file(&place, content, Reader::Us).map_err(failed);
            }
            Err(e) => return Err(failed(e)),
        };
        let kind = about.file_type();
        if kind.is_symlink() || kind.is_fifo() {
            refuse_strangers(&place, about.uid())?;
        }
        if kind.is_file() {
            return replace_file(&place, content, Reader::Us)
                .or_else(|e| overwrite(&place, content, e))
                .map_err(|e| match about.uid() == geteuid().as_raw() {
                    true => failed(e),
                    false => failed(e)
                        .detail(format!("{} belongs to {}", place.display(), user_name(about.uid())))
                        .hint(ELSEWHERE),
                });
        }
        if !kind.is_symlink() {
            return append(&place, content).map_err(failed);
        }
        let target = fs::read_link(&place).map_err(failed)?;
        place = place.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(failed(io::Error::from_raw_os_error(nix::errno::Errno::ELOOP as i32)))
}

/// Writes to the existing file, if it belongs to the current user and is closed to others. For a directory
/// that accepts no new file, or a file that is a mount (in a container).
fn overwrite(file: &Path, content: &[u8], why: io::Error) -> io::Result<()> {
    let mut handle = OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(file)?;
    let about = handle.metadata()?;
    if !about.is_file() || about.uid() != geteuid().as_raw() {
        return Err(why);
    }
    if about.mode() & OTHERS != 0 {
        return Err(io::Error::new(
            why.kind(),
            format!("{why}; and others can read the existing file (remove that permission with `chmod 600`)"),
        ));
    }
    handle.set_len(0)?;
    handle.write_all(content)
}

fn append(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut handle = OpenOptions::new().append(true).open(file)?;
    let about = handle.metadata()?;
    // Between the check and the opening, a pipe may have replaced a device.
    if about.file_type().is_fifo() && !is_descriptor(file) && !is_trusted(about.uid()) {
        return Err(ErrorKind::PermissionDenied.into());
    }
    handle.write_all(content)
}

/// Returns whether a path names a descriptor that this process inherited, such as `/dev/stdout` or the path
/// of the shell's `>(command)`.
fn is_descriptor(path: &Path) -> bool {
    let parent = path.parent().and_then(|p| fs::canonicalize(p).ok());
    let Some(parent) = parent else {
        return false;
    };
    let own = format!("/proc/{}/fd", std::process::id());
    parent == Path::new("/dev/fd") || parent == Path::new(&own)
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn refuse_strangers(path: &Path, uid: u32) -> Result<()> {
    match is_trusted(uid) {
        true => Ok(()),
        false => {
            Err(Error::failed(format!("not writing to {}: it belongs to {}", path.display(), user_name(uid)))
                .detail(
                    "the output contains a password, and the owner of a link or pipe decides where it goes",
                )
                .hint(ELSEWHERE))
        }
    }
}

/// Returns the name of an account for messages, in backticks, or its number if it has no name.
pub(crate) fn user_name(uid: u32) -> String {
    match User::from_uid(uid.into()) {
        Ok(Some(user)) => format!("`{}`", user.name),
        _ => format!("uid {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn files_and_directories_are_closed_from_birth() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("a/b");
        create_directories(&directory, false).unwrap();
        assert_eq!((mode(&directory), mode(&top.path().join("a"))), (0o700, 0o700));
        let passage = top.path().join("p/q");
        create_directories(&passage, true).unwrap();
        assert_eq!(mode(&passage), 0o711);
        assert_eq!(create_directory(&directory).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let file = directory.join("f");
        create_file(&file, b"one").unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(create_file(&file, b"two").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"one");
    }

    #[test]
    fn replacing_keeps_no_mode_and_leaves_nothing_beside() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        // A process that has the old file open reads nothing of the new content.
        let mut before = File::open(&file).unwrap();
        replace_file(&file, b"new", Reader::Us).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(mode(&file), 0o600);
        assert_eq!(io::read_to_string(&mut before).unwrap(), "old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_copy_is_a_file_of_its_own_with_the_time_of_the_first() {
        let top = tempfile::tempdir().unwrap();
        let (from, to) = (top.path().join("from"), top.path().join("to"));
        fs::write(&from, "text").unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options().write(true).open(&from).unwrap().set_modified(long_ago).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o555)).unwrap();
        let before = fs::metadata(&from).unwrap();
        copy_file(&from, &to).unwrap();
        let (after, copy) = (fs::metadata(&from).unwrap(), fs::metadata(&to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"text");
        assert_eq!(copy.modified().unwrap(), long_ago);
        assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
        assert_eq!((after.nlink(), copy.nlink(), mode(&to)), (1, 1, 0o555));
    }

    #[test]
    fn only_files_of_dead_processes_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        let old = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, "").unwrap();
            let then = std::time::SystemTime::now() - 10 * YOUNG;
            File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
            path
        };
        let mut writing = NewFile::locked_beside(&file).unwrap();
        writing.file().set_modified(std::time::SystemTime::now() - 10 * YOUNG).unwrap();
        let dead = old(&format!("{LOCKED}abcdefghij23"));
        let others = [old(".pgstencil-abcdefghij23"), old(".pgstencil-cache-mine.txt"), old("other")];
        let young = directory.path().join(format!("{LOCKED}abcdefghij24"));
        fs::write(&young, "").unwrap();
        remove_abandoned(&file);
        assert!(!dead.exists() && writing.path.exists() && young.exists());
        assert!(others.iter().all(|path| path.exists()));
        writing.finish().unwrap();
        assert!(file.exists());
    }

    #[test]
    fn a_directory_is_removed_with_closed_ones_and_without_the_targets_of_links() {
        let top = tempfile::tempdir().unwrap();
        let (directory, other) = (top.path().join("d"), top.path().join("other"));
        create_directories(&directory.join("a/b"), false).unwrap();
        create_directory(&other).unwrap();
        fs::write(other.join("f"), "").unwrap();
        fs::write(directory.join("a/b/f"), "").unwrap();
        symlink(&other, directory.join("a/link")).unwrap();
        for closed in ["a/b", "a"] {
            fs::set_permissions(directory.join(closed), fs::Permissions::from_mode(0o500)).unwrap();
        }
        remove_directory(&directory).unwrap();
        assert!(!directory.exists() && other.join("f").exists());
    }

    #[test]
    fn no_file_is_opened_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (link, target) = (directory.path().join("link"), directory.path().join("target"));
        fs::write(&target, "mine").unwrap();
        symlink(&target, &link).unwrap();
        assert!(open_file(&link).is_err());
        assert!(create_file(&link, b"x").is_err());
        replace_file(&link, b"new", Reader::Us).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert!(link.symlink_metadata().unwrap().is_file());
        let open = directory.path().join("open");
        fs::write(&open, "").unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
        drop(open_file(&open).unwrap());
        assert_eq!(mode(&open), 0o600);
    }

    #[test]
    fn an_output_may_be_anything_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("old"), "longer than the new text").unwrap();
        fs::set_permissions(at("old"), fs::Permissions::from_mode(0o644)).unwrap();
        symlink("old", at("link")).unwrap();
        symlink(at("new"), at("dangling")).unwrap();
        for name in ["old", "link", "dangling", "fresh"] {
            write_output(&at(name), b"text").unwrap();
            assert_eq!(fs::read(at(name)).unwrap(), b"text", "{name}");
            assert_eq!(fs::metadata(at(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
        assert!(at("link").is_symlink() && at("dangling").is_symlink());
        write_output(Path::new("/dev/null"), b"text").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        symlink("loop", at("loop")).unwrap();
        assert!(write_output(&at("loop"), b"text").is_err());
        assert!(write_output(directory.path(), b"text").is_err());
        assert!(write_output(&at("none/file"), b"text").is_err());

        let (mut reader, writer) = io::pipe().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&writer);
        write_output(Path::new(&format!("/dev/fd/{fd}")), b"text").unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "text");
    }
}
