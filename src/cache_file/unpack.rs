//! Unpacks a cache file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::fchown;

use tar::{Archive, EntryType};
use zstd::stream::read::Decoder;

use super::header::{CacheFile, unreadable};
use super::layout::{self, Place};
use super::pack::make_directories;
use super::{Checked, Reason, Unusable, WINDOW};
use crate::private_file::Directory;

/// Upper limit of what follows the last file of an archive.
const PADDING: u64 = 1 << 20;

/// Hashes what is read.
struct Hashed<R> {
    from: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl CacheFile {
    /// Unpacks the payload into an empty directory, and makes the directories of a cluster. Files and directories get
    /// this owner, if there is one.
    ///
    /// # Errors
    /// The reason why the file cannot be used. What was written until then is for the caller to remove.
    pub(crate) fn unpack(&self, data: &Directory, owner: Option<(u32, u32)>) -> Checked<()> {
        let unwritable =
            |e: &io::Error| Unusable::new(Reason::Room, format!("its contents cannot be written ({e})"));
        let mut directories =
            make_directories(data, self.manifest.platform.major).map_err(|e| unwritable(&e))?;
        let base = data.directory("base").map_err(|e| unwritable(&e))?;
        let mut databases: HashMap<String, Directory> = HashMap::new();
        let hashed = Hashed { from: self.payload()?, hasher: blake3::Hasher::new() };
        let mut decoder = Decoder::new(hashed).map_err(|e| unreadable(&e))?;
        decoder.window_log_max(WINDOW).map_err(|e| unreadable(&e))?;
        let mut archive = Archive::new(decoder);
        let (mut files, mut left) = (0, self.manifest.bytes);
        let mut buffer = vec![0; 256 << 10];
        // Raw: an entry that renames the next one is an entry of its own, which is not allowed.
        for entry in archive.entries().map_err(|e| broken(&e))?.raw(true) {
            let mut entry = entry.map_err(|e| broken(&e))?;
            let bytes = entry.path_bytes().into_owned();
            let path = String::from_utf8_lossy(&bytes).into_owned();
            if entry.header().entry_type() != EntryType::Regular {
                return Err(foreign(&path, "it is not a regular file"));
            }
            let place = layout::place(&path).ok_or_else(|| foreign(&path, "a cluster has no such file"))?;
            files += 1;
            if entry.size() > left || files > self.manifest.files {
                return Err(Unusable::new(Reason::Layout, "it contains more than its manifest says"));
            }
            left -= entry.size();
            let created = match place {
                Place::Fixed { directory: "", name } => data.create(name),
                Place::Fixed { directory, name } => data.directory(directory).and_then(|d| d.create(name)),
                Place::Database { oid, name } => {
                    if !databases.contains_key(oid) {
                        let made = base.make(oid).map_err(|e| unwritable(&e))?;
                        databases.insert(oid.to_owned(), made);
                        directories.push(format!("base/{oid}"));
                    }
                    databases[oid].create(name)
                }
            };
            let mut file = created.map_err(|e| match e.kind() {
                ErrorKind::AlreadyExists => foreign(&path, "it is there twice"),
                _ => unwritable(&e),
            })?;
            let is_reserved = path.starts_with("pg_wal/") && reserve(&file, entry.size());
            loop {
                let read = entry.read(&mut buffer).map_err(|e| broken(&e))?;
                if read == 0 {
                    break;
                }
                let part = &buffer[..read];
                let written = match is_reserved && part.iter().all(|byte| *byte == 0) {
                    true => file.seek(SeekFrom::Current(read as i64)).map(drop),
                    false => file.write_all(part),
                };
                written.map_err(|e| unwritable(&e))?;
            }
            if let Some((uid, gid)) = owner {
                fchown(&file, Some(uid), Some(gid)).map_err(|e| unwritable(&e))?;
            }
        }
        if files != self.manifest.files || left != 0 {
            return Err(Unusable::new(Reason::Layout, "it contains less than its manifest says"));
        }
        // The file may have changed since its hash was compared.
        let mut decoder = archive.into_inner();
        let rest = io::copy(&mut decoder.by_ref().take(PADDING + 1), &mut io::sink());
        if rest.map_err(|e| broken(&e))? > PADDING {
            return Err(Unusable::new(Reason::Layout, "it contains more than its manifest says"));
        }
        let mut hashed = decoder.finish().into_inner();
        io::copy(&mut hashed, &mut io::sink()).map_err(|e| unreadable(&e))?;
        self.compare(&hashed.hasher)?;
        if let Some((uid, gid)) = owner {
            for directory in directories.iter().rev() {
                let directory = data.directory(directory);
                directory.and_then(|d| d.give(uid, gid)).map_err(|e| unwritable(&e))?;
            }
        }
        Ok(())
    }
}

/// Makes a file so long, with its space, so that zeros need not be written.
#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> bool {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _bytes: u64) -> bool {
    false
}

fn foreign(path: &str, why: &str) -> Unusable {
    let path: String = path.chars().take(100).collect();
    Unusable::new(Reason::Layout, format!("{path:?} in it is refused: {why}"))
}

fn broken(error: &io::Error) -> Unusable {
    Unusable::new(Reason::Damaged, format!("its contents cannot be unpacked ({error})"))
}
