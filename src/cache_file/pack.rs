//! Writes a cache file.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::Path;

use tar::{Builder, EntryType, Header};
use zstd::stream::write::Encoder;

use super::control::Wal;
use super::header::Form;
use super::key::SecretKey;
use super::{Manifest, Payload, WINDOW, header, layout};
use crate::private_file::{Directory, Entry, NewFile, remove_abandoned};

/// Level of zstd. Higher ones cost much and gain little.
const LEVEL: i32 = 3;

/// Counts and hashes what is written.
struct Counted<W> {
    to: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.to.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Packs the data directory of a cluster that was shut down, with these databases, into a file. `manifest` is complete
/// but for what depends on the contents. Returns the complete one, and the size of the file.
///
/// The file is replaced when the new one is complete; in case of an error the old one is unchanged.
///
/// # Errors
/// Errors of the system.
pub(crate) fn pack(
    data: &Directory,
    databases: &[String],
    wal: &Wal,
    mut manifest: Manifest,
    key: Option<&SecretKey>,
    path: &Path,
) -> io::Result<(Manifest, u64)> {
    remove_abandoned(path);
    let mut payload = NewFile::locked_beside(path)?;
    let counted = Counted { to: payload.file(), hasher: blake3::Hasher::new(), bytes: 0 };
    let mut encoder = Encoder::new(counted, LEVEL)?;
    encoder.long_distance_matching(true)?;
    encoder.window_log(WINDOW)?;
    let mut archive = Builder::new(encoder);
    (manifest.files, manifest.bytes) = (0, 0);
    for (directory, name) in files(data, databases, wal)? {
        let mut file = match directory.as_str() {
            "" => data.file(&name)?,
            directory => data.directory(directory)?.file(&name)?,
        };
        let bytes = file.metadata()?.len();
        let path = match directory.as_str() {
            "" => name.clone(),
            directory => format!("{directory}/{name}"),
        };
        let header = header_of(&path, bytes)?;
        match directory.as_str() {
            "pg_wal" => {
                let mut segment = Vec::with_capacity(bytes as usize);
                wal.write(&name, &mut file, &mut segment)?;
                archive.append(&header, segment.as_slice())?;
            }
            _ => archive.append(&header, (&mut file).take(bytes))?,
        }
        manifest.files += 1;
        manifest.bytes += bytes;
    }
    let counted = archive.into_inner()?.finish()?;
    manifest.payload =
        Payload { bytes: counted.bytes, blake3: counted.hasher.finalize().to_hex().to_string() };

    let mut whole = NewFile::locked_beside(path)?;
    header::write(Form::Cluster, &manifest, key, whole.file())?;
    payload.file().seek(SeekFrom::Start(0))?;
    io::copy(payload.file(), whole.file())?;
    let bytes = whole.file().metadata()?.len();
    whole.finish()?;
    Ok((manifest, bytes))
}

fn header_of(path: &str, bytes: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// Returns the files, by directory and name. Files of the same name follow each other, since a table of one database
/// resembles that of another.
fn files(data: &Directory, databases: &[String], wal: &Wal) -> io::Result<Vec<(String, String)>> {
    let mut files = vec![(String::new(), "PG_VERSION".to_owned())];
    let databases = databases.iter().map(|oid| format!("base/{oid}"));
    for directory in layout::PACKED.iter().map(|d| (*d).to_owned()).chain(databases) {
        for (name, kind) in data.directory(&directory)?.entries()? {
            let is_packed = is_packed(&directory, &name, wal);
            match kind {
                Entry::File if is_packed => files.push((directory.clone(), name)),
                Entry::Other if is_packed => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{directory}/{name} is not a regular file"),
                    ));
                }
                _ => {}
            }
        }
    }
    files.sort_by(|(a, a_name), (b, b_name)| (a_name, a).cmp(&(b_name, b)));
    Ok(files)
}

/// Returns whether a cache file contains a file of this directory.
fn is_packed(directory: &str, name: &str, wal: &Wal) -> bool {
    layout::place(&format!("{directory}/{name}")).is_some() && (directory != "pg_wal" || wal.needs(name))
}

/// Copies the files of a cluster that was shut down to a new, empty directory, and makes its directories.
///
/// # Errors
/// Errors of the system; a database directory whose name is not a number is skipped.
pub(crate) fn copy(from: &Directory, to: &Directory, major: u32, wal: &Wal) -> io::Result<Vec<String>> {
    let made = make_directories(to, major)?;
    let copy_file = |from: &Directory, to: &Directory, name: &str| -> io::Result<()> {
        let (mut old, mut new): (File, File) = (from.file(name)?, to.create(name)?);
        io::copy(&mut old, &mut new).map(drop)
    };
    copy_file(from, to, "PG_VERSION")?;
    let mut databases = Vec::new();
    for (name, kind) in from.directory("base")?.entries()? {
        if kind == Entry::Directory && layout::is_number(&name) {
            to.directory("base")?.make(&name)?;
            databases.push(format!("base/{name}"));
        }
    }
    let fixed = layout::PACKED.iter().map(|d| (*d).to_owned());
    for directory in fixed.chain(databases.iter().cloned()) {
        let (old, new) = (from.directory(&directory)?, to.directory(&directory)?);
        for (name, kind) in old.entries()? {
            if kind == Entry::File && is_packed(&directory, &name, wal) {
                copy_file(&old, &new, &name)?;
            }
        }
    }
    Ok(made.into_iter().chain(databases).collect())
}

/// Makes the directories of a new cluster. Returns them.
///
/// # Errors
/// Errors of the system.
pub(crate) fn make_directories(data: &Directory, major: u32) -> io::Result<Vec<String>> {
    let mut made = Vec::new();
    for directory in layout::directories(major) {
        match directory.rsplit_once('/') {
            Some((parent, name)) => data.directory(parent)?.make(name)?,
            None => data.make(directory)?,
        };
        made.push(directory.to_owned());
    }
    Ok(made)
}
