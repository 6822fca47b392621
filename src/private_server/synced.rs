//! Proves that a stopped cluster is on the disk, and not only in the memory of the host.
//!
//! The server runs with `fsync` off. After a clean shutdown its last writes may still be in the memory of the
//! host only. If the power fails then, the control file can say "shut down" although other files are empty.
//! Within one boot, the memory has all writes. After another boot a cluster is used only if there is a proof
//! that all of it was synced after the shutdown. There are two proofs:
//!
//! - `synced.json`, written by [`PrivateServer::stop`](super::PrivateServer::stop): a hash of the control
//!   file, and the `stat` data of the files.
//! - `data/pgstencil.synced`, written by the watcher that starts with each server (`WATCH`): a copy of the
//!   control file, then the names of the files that were empty. It covers a server that something else stops,
//!   such as the shutdown of the host.
//!
//! Every start and every checkpoint changes the control file, so a proof is valid for one shutdown only. In
//! addition, each start first removes both proofs from the disk, since the disk may get new data pages before
//! it gets the new control file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::directory::{self, unusable};
use super::host;
use crate::error::{Error, Result};

/// The directories of a cluster in which the server writes data. A person may edit settings outside them.
const DIRECTORIES: [&str; 6] = ["base", "global", "pg_commit_ts", "pg_multixact", "pg_wal", "pg_xact"];

/// The script of a server's watcher, which runs in parallel in the data directory. It waits until the last
/// process of the server has closed a pipe. If the server was shut down cleanly, it syncs the disk, and then
/// records that. The copy of the control file is made before the sync: it proves nothing about later writes.
pub(super) const WATCH: &str = r#": pgstencil waits for the end of its Postgres, to sync the disk
trap '' HUP INT QUIT TERM
umask 077
read -r _
cd data || exit
flush() {
  [ "$(uname)" = Linux ] || { sync; return; }
  sync -f global/pg_control || return
  for place in pg_wal pg_tblspc/*; do
    if [ -e "$place" ]; then sync -f "$place" || return; fi
  done
}
set -- $(od -A n -t d4 -j 16 -N 4 global/pg_control)
[ "$1" = 1 ] || exit 0
head -c 8192 pgstencil.synced 2>/dev/null | cmp -s - global/pg_control && exit 0
{ cat global/pg_control
  find -H base global pg_commit_ts pg_multixact pg_wal pg_xact -type f -size 0
} >pgstencil.synced.new && flush && mv pgstencil.synced.new pgstencil.synced && flush
"#;

/// Size of the control file in all versions.
const CONTROL: usize = 8192;
/// The beginning of every map of file names: `RELMAPPER_FILEMAGIC`.
const MAP: [u8; 4] = 0x0059_2717_i32.to_ne_bytes();

/// `synced.json`
#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    /// Hash of the control file.
    control: String,
    /// The directories with files, by their paths below the data directory.
    #[serde(alias = "folders")]
    directories: BTreeMap<String, Seen>,
}

/// Hashes of the `stat` data of the files of a directory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// Hash of names and sizes.
    sizes: String,
    /// Hash of names and times of the last change.
    times: String,
}

impl Cluster {
    fn proof_file(&self) -> PathBuf {
        self.directory.join("synced.json")
    }

    fn watchers_file(&self) -> PathBuf {
        self.data().join("pgstencil.synced")
    }

    /// Removes the proofs, from the disk, too. Call it before the server can write.
    pub(super) fn forget_proofs(&self) {
        for file in [self.proof_file(), self.watchers_file()] {
            // If there was no file, there is nothing to sync. A file that cannot be removed proves nothing
            // about later writes.
            if fs::remove_file(&file).is_ok()
                && let Some(directory) = file.parent().and_then(|f| File::open(f).ok())
            {
                let _ = directory.sync_all();
            }
        }
    }

    /// Reads the proof of [`Cluster::prove_synced`] for this control file.
    fn proof(&self, control: &[u8]) -> Option<Proof> {
        let bytes = fs::read(self.proof_file()).ok()?;
        let proof: Proof = serde_json::from_slice(&bytes).ok()?;
        (proof.control == hash(control)).then_some(proof)
    }

    /// Returns whether [`Cluster::prove_synced`] was done after this shutdown.
    pub(super) fn is_proved(&self) -> bool {
        read_control(&self.data()).is_ok_and(|control| self.proof(&control).is_some())
    }

    /// Syncs the disk and writes the proof of it. The cluster must be shut down cleanly, and no process of
    /// the server may be left.
    ///
    /// Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// Errors of the system. Then there is no proof.
    pub(super) fn prove_synced(&self) -> Result<()> {
        let data = self.data();
        let failed = |e: io::Error| {
            Error::failed("the private server stopped, but its data could not be synced to the disk")
                .detail(format!("data: {}", data.display()))
                .caused_by(e)
        };
        let control = read_control(&data).map_err(failed)?;
        sync(&data).map_err(failed)?;
        let proof = Proof { control: hash(&control), directories: seen(&data).map_err(failed)? };
        let text = serde_json::to_vec(&proof)
            .map_err(|e| Error::internal("cannot write the proof of a sync").caused_by(e))?;
        let file = self.proof_file();
        directory::write(&file, &text)?;
        host::sync(&file).map_err(|e| unusable(&file, e))
    }

    /// Returns the reason why the data of another boot, which was shut down cleanly, must not be used; `None`
    /// if it was synced after the shutdown and has not changed since.
    pub(super) fn doubt(&self) -> Option<String> {
        let data = self.data();
        // Postgres reports the error of a file that cannot be read.
        let control = read_control(&data).ok()?;
        let proof = self.proof(&control);
        let lost = match (proof, self.empty_files(&control)) {
            (Some(proof), _) => seen(&data).map(|now| changes(&proof.directories, &now)),
            (None, Some(before)) => lost_contents(&data, &before),
            (None, None) => {
                return Some(
                    "the host went down before the private server's data was known to be on the disk"
                        .to_owned(),
                );
            }
        };
        let mut lost = match lost {
            Ok(lost) => lost,
            Err(e) => return Some(format!("the private server's data cannot be read ({e})")),
        };
        lost.extend(self.bad_databases());
        let more = match lost.len() {
            0 => return None,
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        Some(format!(
            "the private server's data changed or was lost while it was stopped ({}{more})",
            lost[0]
        ))
    }

    /// Returns the files that were empty when the watcher synced this very shutdown.
    fn empty_files(&self, control: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
        let bytes = fs::read(self.watchers_file()).ok()?;
        if control.len() != CONTROL || !bytes.starts_with(control) {
            return None;
        }
        let names = bytes[CONTROL..].split(|b| *b == b'\n');
        Some(names.map(<[u8]>::to_vec).collect())
    }

    /// Returns the databases whose version file or map of file names is damaged. A directory without a map
    /// belongs to no database: a killed CREATE DATABASE leaves such directories.
    fn bad_databases(&self) -> Vec<String> {
        let data = self.data();
        let mut bad = Vec::new();
        let mut check = |name: String, is_good: &dyn Fn(&[u8]) -> bool| {
            if fs::read(data.join(&name)).is_ok_and(|bytes| !is_good(&bytes)) {
                bad.push(name);
            }
        };
        let version = self.major.to_string();
        let is_map = |bytes: &[u8]| bytes.starts_with(&MAP);
        check("global/pg_filenode.map".into(), &is_map);
        for entry in fs::read_dir(data.join("base")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let map = format!("base/{name}/pg_filenode.map");
            if data.join(&map).exists() {
                check(map, &is_map);
                check(format!("base/{name}/PG_VERSION"), &|bytes: &[u8]| {
                    bytes.trim_ascii() == version.as_bytes()
                });
            }
        }
        bad
    }
}

fn read_control(data: &Path) -> io::Result<Vec<u8>> {
    fs::read(data.join("global/pg_control"))
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Syncs the file systems of a cluster: that of its directory, and those of the log and of tablespaces, which
/// may be elsewhere.
fn sync(data: &Path) -> io::Result<()> {
    let mut places = vec![data.join("global/pg_control"), data.join("pg_wal")];
    let spaces = fs::read_dir(data.join("pg_tblspc"));
    places.extend(spaces.into_iter().flatten().flatten().map(|e| e.path()));
    let mut done = BTreeSet::new();
    for place in places {
        // A broken link leads to no data.
        if let Ok(about) = fs::metadata(&place)
            && done.insert(about.dev())
        {
            host::sync(&place)?;
        }
    }
    Ok(())
}

/// Returns the current `stat` data, by directory.
fn seen(data: &Path) -> io::Result<BTreeMap<String, Seen>> {
    let mut directories: BTreeMap<String, [blake3::Hasher; 2]> = BTreeMap::new();
    walk(data, &mut |directory, name, about| {
        let [sizes, times] = directories.entry(directory.to_owned()).or_default();
        for hasher in [&mut *sizes, &mut *times] {
            hasher.update(name).update(b"\0");
        }
        sizes.update(&about.len().to_le_bytes());
        times.update(&about.mtime().to_le_bytes());
        times.update(&about.mtime_nsec().to_le_bytes());
    })?;
    let text = |hasher: &blake3::Hasher| hasher.finalize().to_hex()[..16].to_owned();
    Ok(directories
        .iter()
        .map(|(directory, [sizes, times])| {
            let seen = Seen { sizes: text(sizes), times: text(times) };
            (directory.clone(), seen)
        })
        .collect())
}

/// Returns the directories that have changed. A copy of the whole cluster may have lost all its times, which
/// is not damage.
fn changes(before: &BTreeMap<String, Seen>, now: &BTreeMap<String, Seen>) -> Vec<String> {
    let is_copy =
        before.iter().all(|(directory, seen)| now.get(directory).is_some_and(|n| n.times != seen.times));
    let is_same = |directory: &str| match (before.get(directory), now.get(directory)) {
        (Some(before), Some(now)) if is_copy => before.sizes == now.sizes,
        (before, now) => before == now,
    };
    let all: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    all.into_iter().filter(|directory| !is_same(directory)).cloned().collect()
}

/// Returns files that are empty and were not empty before.
fn lost_contents(data: &Path, before: &BTreeSet<Vec<u8>>) -> io::Result<Vec<String>> {
    let mut lost = Vec::new();
    walk(data, &mut |directory, name, about| {
        let path = [directory.as_bytes(), b"/", name].concat();
        if about.len() == 0 && !before.contains(&path) {
            lost.push(String::from_utf8_lossy(&path).into_owned());
        }
    })?;
    Ok(lost)
}

/// Calls `show` for every file of [`DIRECTORIES`], in a fixed order, with its directory, name and `stat` data.
fn walk(data: &Path, show: &mut dyn FnMut(&str, &[u8], &fs::Metadata)) -> io::Result<()> {
    let mut directories: Vec<String> = DIRECTORIES.iter().map(|&f| f.to_owned()).collect();
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(data.join(&directory)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (name, about) = (entry.file_name(), entry.metadata()?);
            match about.is_dir() {
                true => directories.push(format!("{directory}/{}", name.to_string_lossy())),
                false => show(&directory, name.as_bytes(), &about),
            }
        }
    }
    Ok(())
}
