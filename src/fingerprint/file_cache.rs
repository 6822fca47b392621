//! [`FileCache`]: results of an earlier read of the inputs, so that only changed files and directories are read,
//! hashed or listed again.
//!
//! Works like git's index and its untracked cache: a file has not changed if `stat` shows the same device, inode,
//! size, modification time and change time; a directory has the same entries if its own times and inode are the same.
//! No program can set the change time, so `touch -r`, `rsync -t` and restored backups are noticed.
//!
//! Four rules keep hits correct:
//!
//! - **Racy entries are not kept.** A clock of a file system may not advance while a file is written twice. So an
//!   entry is kept only if its change time was [`SETTLED`] before the check
//!   (<https://git-scm.com/docs/racy-git>).
//! - **`stat` comes first**, then the reading or listing. After a change in between, the entry does not match
//!   the next check; it never matches wrongly.
//! - **A directory with a symbolic link is listed each time**, since the target of the link may change without
//!   the directory. A change of a `.gitignore` file discards the whole walk.
//! - **Only local file systems** are cached, since their times can be trusted: not NFS, SMB, FUSE or virtiofs,
//!   whose attributes may be outdated.
//!
//! The cache misses the same changes as git does: a write through `mmap` that the kernel has not written back, and a
//! disk that is changed beneath the file system.
//!
//! On disk the cache is one file for each root, with a checksum, replaced as a whole. It may be lost, truncated or
//! overwritten by another process at any time, which only costs a read of the files. It is not used on another
//! machine, nor by another user.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::globs::{Globs, Kinds};
use super::recipe::{FileInput, LinesInput, NormalForm, RelPath};
use super::walk::{Entered, Found, Walked, hidden_files, is_text, list};
use super::{Hashed, PAUSE, WALKS, hash_all, hash_file, lines, normal};
use crate::config::{Definition, InputLines, Normalize};
use crate::error::Result;
use crate::private_file::{self, Reader};

/// Minimum time between an entry's last change and the check, for the entry to be kept. The coarsest clock of a local
/// file system ticks once in this time.
const SETTLED: Duration = Duration::from_secs(2);
/// Maximum number of definitions of one root that are kept.
const DEFINITIONS: usize = 16;
/// Maximum size of a cache file; a larger one is not read.
const LARGEST: u64 = 256 << 20;
/// First bytes of each file. The number changes with the format, and with the rules of the walk.
const FORMAT: &[u8] = b"pgstencil file cache 2\n";

/// Cache of earlier reads of the inputs below one root. Threads may share it; several processes may use the same
/// directory.
pub(crate) struct FileCache {
    place: Option<Place>,
    keeps: bool,
    settled: Duration,
    state: Mutex<State>,
}

/// Location of a cache that is kept between processes.
struct Place {
    directory: PathBuf,
    machine: String,
}

#[derive(Default)]
struct State {
    root: PathBuf,
    /// The results, with the most recently used definition first.
    kept: Vec<Kept>,
    globs: HashMap<Key, Arc<Globs>>,
}

/// Hash of the keys of a definition that decide the result of a walk.
type Key = [u8; 32];

/// Results for one definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    key: Key,
    /// All directories that the walk entered, sorted by path; the root's path is empty.
    directories: Vec<(RelPath, Directory)>,
    /// Files that a .gitignore hides and a key names.
    hidden: Vec<(RelPath, Content)>,
    lines: Vec<Lines>,
}

/// Directory, and the files in it that the globs select.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Directory {
    /// `None` if the directory is listed each time.
    stat: Option<Stat>,
    gitignore: Gitignore,
    files: Vec<Chosen>,
    /// Files that the build command names and about which no glob decides.
    named: Vec<Named>,
    /// The globs that match a file here, whether a later glob excludes the file or not.
    seen: BTreeSet<usize>,
}

/// The `.gitignore` file of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Gitignore {
    None,
    Settled(Stat),
    /// It was written just before the walk, so it may have changed since.
    Racy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chosen {
    path: RelPath,
    kinds: Kinds,
    content: Option<Content>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    path: RelPath,
    is_text: bool,
    content: Option<Content>,
}

/// Content of a file while it had this `stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    stat: Stat,
    hash: [u8; 32],
    bytes: u64,
    /// Hash and length of the normal form, if the file counts by it.
    normal: Option<([u8; 32], u64)>,
}

/// Lines of a file that an expression of `input_lines` matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lines {
    file: String,
    matching: String,
    stat: Stat,
    found: LinesInput,
}

/// Numbers that a write to a file, or a new entry of a directory, changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stat {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) bytes: u64,
    pub(super) modified: (i64, i64),
    /// Nothing can set it, unlike `modified`, which `touch -r` and `rsync` set.
    pub(super) changed: (i64, i64),
}

impl Stat {
    /// Reads them from the file system; follows links.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Stat::of(&found))
    }

    pub(super) fn of(found: &Metadata) -> Self {
        Stat {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// Result of a read.
pub(super) struct Read {
    pub(super) walked: Walked,
    /// The files of `walked`.
    pub(super) inputs: Vec<FileInput>,
    /// Lines in the order of the config.
    pub(super) lines: Vec<LinesInput>,
}

impl FileCache {
    /// Creates a cache that lives as long as the value.
    pub(crate) fn in_memory() -> Self {
        FileCache { place: None, keeps: true, settled: SETTLED, state: Mutex::default() }
    }

    /// Creates a cache that keeps nothing: each read examines all files.
    pub(crate) fn off() -> Self {
        FileCache { keeps: false, ..FileCache::in_memory() }
    }

    /// Creates a cache that is kept in `directory`, as one file for each root. `machine` distinguishes the machines
    /// that share the directory. The directory is created with its first file. If the directory or a file belongs to
    /// another user (as under `sudo`), the cache neither reads nor writes there.
    pub(crate) fn at(directory: PathBuf, machine: String) -> Self {
        FileCache { place: Some(Place { directory, machine }), ..FileCache::in_memory() }
    }

    /// Reads the files that the globs of `definition` select below `root`, and its `input_lines`.
    ///
    /// # Errors
    /// As [`super::Inputs::read`]. After an error, nothing of this read is kept.
    pub(super) fn read(&self, root: &Path, definition: &Definition) -> Result<(Arc<Globs>, Read)> {
        let mut state = self.state(root);
        let key = key(definition);
        let globs = match state.globs.get(&key) {
            Some(globs) => Arc::clone(globs),
            None => Arc::new(Globs::compile(root, definition)?),
        };
        state.globs.insert(key, Arc::clone(&globs));
        let at = state.kept.iter().position(|kept| kept.key == key);
        let before = at.map(|at| state.kept.remove(at));
        let keeps = self.keeps && is_local(root);
        // Nothing settles in this time, so nothing is examined in order to be kept.
        let settled = if keeps { self.settled } else { Duration::MAX };
        let look = Look::new(root, &globs, definition, settled);
        let (read, kept, is_new) = look.read(key, before.filter(|_| keeps), &mut || {})?;
        if !keeps {
            return Ok((globs, read));
        }
        state.kept.insert(0, kept);
        state.kept.truncate(DEFINITIONS);
        if is_new && let Some(place) = &self.place {
            // The cache is worthless if it is lost, so a full disk is no error here.
            let _ = place.write(root, &state.kept);
        }
        Ok((globs, read))
    }

    fn state(&self, root: &Path) -> MutexGuard<'_, State> {
        // After a panic the entries are still correct.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.root != root {
            let kept = self.place.as_ref().and_then(|place| place.load(root)).unwrap_or_default();
            *state = State { root: root.to_owned(), kept, globs: HashMap::new() };
        }
        state
    }
}

fn key(definition: &Definition) -> Key {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    let Definition { migrations, rerun_inputs, inputs, companions, .. } = definition;
    for list in [migrations, rerun_inputs, inputs, companions] {
        add(&list.len().to_string());
        list.iter().for_each(|glob| add(glob));
    }
    definition.input_lines.iter().for_each(|wanted| add(&wanted.file));
    add(if definition.build_inputs { &definition.build } else { "" });
    for Normalize { files, form, .. } in &definition.normalize {
        add(files);
        add(normal::version(*form));
    }
    *hasher.finalize().as_bytes()
}

/// Read of the inputs.
struct Look<'a> {
    root: &'a Path,
    globs: &'a Arc<Globs>,
    definition: &'a Definition,
    settled: Duration,
    /// Whether the file system of a device is a local one.
    devices: Mutex<HashMap<u64, bool>>,
}

/// An input file, and where its content is kept.
struct File {
    found: Found,
    known: Option<Content>,
    slot: Slot,
}

/// Indices into [`Kept::directories`] and the lists there.
#[derive(Clone, Copy)]
enum Slot {
    File(usize, usize),
    Named(usize, usize),
    Hidden,
}

impl<'a> Look<'a> {
    fn new(root: &'a Path, globs: &'a Arc<Globs>, definition: &'a Definition, settled: Duration) -> Self {
        Look { root, globs, definition, settled, devices: Mutex::default() }
    }

    /// Returns the inputs, the results to keep, and whether those differ from `before`. A file that no longer exists
    /// when it is read was deleted after the walk, or is being replaced as `git checkout` does it: then the whole
    /// tree is walked again, without the cache. `after_walk` is called between walk and reading.
    fn read(
        &self,
        key: Key,
        mut before: Option<Kept>,
        after_walk: &mut dyn FnMut(),
    ) -> Result<(Read, Kept, bool)> {
        for again in (0..WALKS).rev() {
            let mut is_new = before.is_none();
            let empty = Kept { key, directories: Vec::new(), hidden: Vec::new(), lines: Vec::new() };
            let mut kept = before.take().unwrap_or(empty);
            is_new |= self.list(&mut kept)?;
            let (files, seen) = self.files(&mut kept)?;
            after_walk();
            let contents = match self.contents(&files)? {
                Ok(contents) => contents,
                Err((_, e)) if e.kind() == io::ErrorKind::NotFound && again > 0 => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err((at, e)) => {
                    let path = self.root.join(files[at].found.path.to_path());
                    return Err(super::cannot_read(&path, e));
                }
            };
            is_new |= note(&mut kept, &files, &contents);
            let (lines, new_lines) = self.lines(&mut kept)?;
            is_new |= new_lines;
            let inputs = files.iter().zip(&contents).map(|(file, (content, _))| self.input(file, content));
            let inputs = inputs.collect();
            let files = files.into_iter().map(|file| file.found).collect();
            let walked = Walked { files, seen, directories: BTreeMap::new() };
            return Ok((Read { walked, inputs, lines }, kept, is_new));
        }
        unreachable!("the last walk returns")
    }

    /// Lists the possibly changed parts of the tree again. Returns whether anything changed.
    fn list(&self, kept: &mut Kept) -> Result<bool> {
        if !kept.directories.is_empty()
            && let Some(changed) = self.changed(kept)
        {
            if changed.is_empty() {
                return Ok(false);
            }
            if let Some(directories) = self.list_again(kept, &changed)? {
                let before = std::mem::replace(&mut kept.directories, directories);
                return Ok(before != kept.directories);
            }
        }
        let listing = list(self.root, self.globs, BTreeSet::new())?;
        let listed = listing.entered.into_iter();
        kept.directories = listed.map(|(path, entered)| self.directory(path, entered, None)).collect();
        Ok(true)
    }

    /// Returns the directories that must be listed again; `None` if all must be, since a `.gitignore` changed.
    fn changed(&self, before: &Kept) -> Option<BTreeSet<RelPath>> {
        let mut changed = BTreeSet::new();
        for (path, known) in &before.directories {
            let at = self.root.join(path.to_path());
            let same = known.stat.is_some_and(|known| Stat::read(&at).is_ok_and(|now| now == known));
            if !same {
                changed.insert(path.clone());
            }
            match known.gitignore {
                Gitignore::None => {}
                Gitignore::Settled(known) => {
                    let now = Stat::read(&at.join(".gitignore"));
                    now.ok().filter(|now| *now == known)?;
                }
                Gitignore::Racy => return None,
            }
        }
        Some(changed)
    }

    /// Lists the directories that changed, their parents, and new ones. Returns `None` if one of them gained or lost
    /// a `.gitignore`, which also affects directories that were not listed.
    fn list_again(
        &self,
        before: &Kept,
        changed: &BTreeSet<RelPath>,
    ) -> Result<Option<Vec<(RelPath, Directory)>>> {
        let mut again = BTreeSet::new();
        for path in changed {
            again.extend(path.to_path().ancestors().map(RelPath::new));
        }
        let leaves = before.directories.iter().map(|(path, _)| path);
        let leaves = leaves.filter(|path| !again.contains(*path)).cloned().collect();
        let mut listing = list(self.root, self.globs, leaves)?;
        let listed = std::mem::take(&mut listing.entered).into_iter();
        let mut directories: BTreeMap<RelPath, Directory> = listed
            .map(|(path, entered)| self.directory(path.clone(), entered, before.directory(&path)))
            .collect();
        let fresh: BTreeSet<RelPath> = directories.keys().cloned().collect();
        // A directory comes after its parent.
        for (path, known) in &before.directories {
            if let Some(listed) = directories.get(path) {
                if listed.gitignore != known.gitignore {
                    return Ok(None);
                }
                continue;
            }
            let stays = match path.to_path().parent().map(RelPath::new) {
                Some(above) if fresh.contains(&above) => listing.left.contains(path),
                Some(above) => directories.contains_key(&above),
                None => false,
            };
            if stays {
                directories.insert(path.clone(), known.clone());
            }
        }
        Ok(Some(directories.into_iter().collect()))
    }

    /// `before`: the same directory when it was last listed, whose file contents may still be valid.
    fn directory(&self, path: RelPath, entered: Entered, before: Option<&Directory>) -> (RelPath, Directory) {
        let at = self.root.join(path.to_path());
        let stat = entered.stat.filter(|stat| self.is_settled(&at, stat, entered.at));
        let known = |path: &RelPath| {
            let before = before?;
            let mut files = before.files.iter().map(|file| (&file.path, file.content));
            let mut named = before.named.iter().map(|file| (&file.path, file.content));
            files.find(|(of, _)| *of == path).or_else(|| named.find(|(of, _)| *of == path))?.1
        };
        let files = entered.files.into_iter().map(|found| {
            let content = known(&found.path);
            Chosen { path: found.path, kinds: found.kinds, content }
        });
        let named = entered.named.into_iter().map(|(path, is_text)| {
            let content = known(&path);
            Named { path, is_text, content }
        });
        let directory = Directory {
            // The target of a link may change, or be created, without a change here.
            stat: stat.filter(|_| !has_links(&at)),
            gitignore: match entered.gitignore {
                None => Gitignore::None,
                Some(stat) if self.is_settled(&at, &stat, entered.at) => Gitignore::Settled(stat),
                Some(_) => Gitignore::Racy,
            },
            files: files.collect(),
            named: named.collect(),
            seen: entered.seen,
        };
        (path, directory)
    }

    /// Whether a change after the check would show: the file system's clock has ticked since the last change.
    fn is_settled(&self, path: &Path, stat: &Stat, looked: SystemTime) -> bool {
        let is_local = || {
            let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
            *devices.entry(stat.device).or_insert_with(|| is_local(path))
        };
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(stat.changed.0), u32::try_from(stat.changed.1)) else {
            return false;
        };
        let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        changed.and_then(|changed| changed.checked_add(self.settled)).is_some_and(|settled| settled <= looked)
            && is_local()
    }

    /// Returns the input files, sorted by path, and for each glob whether it matches a file.
    fn files(&self, kept: &mut Kept) -> Result<(Vec<File>, Vec<bool>)> {
        let mut files = Vec::new();
        let mut seen = vec![false; self.globs.iter().count()];
        for (at, (_, directory)) in kept.directories.iter_mut().enumerate() {
            for (number, chosen) in directory.files.iter().enumerate() {
                let found = Found { path: chosen.path.clone(), kinds: chosen.kinds, named: false };
                files.push(File { found, known: chosen.content, slot: Slot::File(at, number) });
            }
            for (number, named) in directory.named.iter_mut().enumerate() {
                let path = named.path.to_path();
                let full = self.root.join(&path);
                let is_same = named.content.is_some_and(|c| Stat::read(&full).is_ok_and(|now| now == c.stat));
                if !is_same {
                    named.is_text = is_text(&full);
                }
                if named.is_text {
                    let found = Found::named(&path);
                    files.push(File { found, known: named.content, slot: Slot::Named(at, number) });
                }
            }
            directory.seen.iter().for_each(|glob| seen[*glob] = true);
        }
        for found in hidden_files(self.root, self.globs, &mut seen)? {
            let known = kept.hidden.iter().find(|(path, _)| *path == found.path);
            let known = known.map(|(_, content)| *content);
            files.push(File { found, known, slot: Slot::Hidden });
        }
        files.sort_by(|a, b| a.found.path.cmp(&b.found.path));
        Ok((files, seen))
    }

    /// Returns the content of each file, and whether it may be kept; or the first file that cannot be read.
    fn contents(&self, files: &[File]) -> Result<Hashed<(Content, bool)>> {
        hash_all(files.len(), |at| {
            let path = self.root.join(files[at].found.path.to_path());
            let looked = SystemTime::now();
            let stat = Stat::read(&path)?;
            if let Some(content) = files[at].known.filter(|known| known.stat == stat) {
                return Ok((content, true));
            }
            let content = match self.globs.form(&files[at].found.path) {
                None => {
                    let (hash, bytes) = hash_file(&path)?;
                    Content { stat, hash: *hash.as_bytes(), bytes, normal: None }
                }
                Some((_, form)) => {
                    let text = fs::read(&path)?;
                    let normal = normal::of(form, &text);
                    let normal =
                        normal.map(|normal| (*blake3::hash(&normal).as_bytes(), normal.len() as u64));
                    Content { stat, hash: *blake3::hash(&text).as_bytes(), bytes: text.len() as u64, normal }
                }
            };
            Ok((content, self.is_settled(&path, &stat, looked)))
        })
    }

    fn input(&self, file: &File, content: &Content) -> FileInput {
        let hex = |hash: [u8; 32]| blake3::Hash::from_bytes(hash).to_hex().to_string();
        let path = file.found.path.clone();
        match (content.normal, self.globs.form(&path)) {
            (Some((hash, bytes)), Some((_, form))) => {
                let normal =
                    NormalForm { form: normal::version(form).to_owned(), content: hex(content.hash) };
                FileInput { path, hash: hex(hash), bytes, normal: Some(normal) }
            }
            _ => FileInput { path, hash: hex(content.hash), bytes: content.bytes, normal: None },
        }
    }

    /// Returns the lines in the order of the config, and whether the kept ones changed.
    fn lines(&self, kept: &mut Kept) -> Result<(Vec<LinesInput>, bool)> {
        let before = std::mem::take(&mut kept.lines);
        let mut all = Vec::new();
        for (index, wanted) in self.definition.input_lines.iter().enumerate() {
            let InputLines { file, matching } = wanted;
            let looked = SystemTime::now();
            let path = self.root.join(&**file);
            let stat = Stat::read(&path).ok();
            let mut known =
                before.iter().filter(|known| known.file == **file && known.matching == **matching);
            let found = match known.find(|known| Some(known.stat) == stat) {
                Some(known) => known.found.clone(),
                None => lines::read(self.root, self.definition, index)?,
            };
            if let Some(stat) = stat.filter(|stat| self.is_settled(&path, stat, looked)) {
                let (file, matching, found) = (file.to_string(), matching.to_string(), found.clone());
                kept.lines.push(Lines { file, matching, stat, found });
            }
            all.push(found);
        }
        Ok((all, before != kept.lines))
    }
}

/// Records the contents of the files that may be kept. Returns whether that changed anything.
fn note(kept: &mut Kept, files: &[File], contents: &[(Content, bool)]) -> bool {
    let mut is_new = false;
    let mut hidden = Vec::new();
    for (file, (content, keep)) in files.iter().zip(contents) {
        let content = keep.then_some(*content);
        is_new |= content != file.known;
        match file.slot {
            Slot::File(at, number) => kept.directories[at].1.files[number].content = content,
            Slot::Named(at, number) => kept.directories[at].1.named[number].content = content,
            Slot::Hidden => hidden.extend(content.map(|content| (file.found.path.clone(), content))),
        }
    }
    kept.hidden = hidden;
    is_new
}

impl Kept {
    fn directory(&self, path: &RelPath) -> Option<&Directory> {
        let at = self.directories.binary_search_by(|(of, _)| of.cmp(path)).ok()?;
        Some(&self.directories[at].1)
    }
}

fn has_links(directory: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(directory) else {
        return true;
    };
    entries.any(|entry| entry.and_then(|entry| entry.file_type()).map_or(true, |kind| kind.is_symlink()))
}

/// Local file systems, by the numbers of linux/magic.h and of the ZFS module. Others, such as NFS, SMB, FUSE, 9p and
/// virtiofs, query another machine, whose answers may be outdated.
#[cfg(target_os = "linux")]
fn is_local(path: &Path) -> bool {
    const EXT4: u32 = 0xef53;
    const XFS: u32 = 0x5846_5342;
    const BTRFS: u32 = 0x9123_683e;
    const TMPFS: u32 = 0x0102_1994;
    const OVERLAY: u32 = 0x794c_7630;
    const F2FS: u32 = 0xf2f5_2010;
    const ZFS: u32 = 0x2fc1_2fc1;
    const BCACHEFS: u32 = 0xca45_1a4e;
    let found = rustix::fs::statfs(path).map(|found| found.f_type as u32);
    matches!(found, Ok(EXT4 | XFS | BTRFS | TMPFS | OVERLAY | F2FS | ZFS | BCACHEFS))
}

#[cfg(not(target_os = "linux"))]
fn is_local(path: &Path) -> bool {
    let Ok(found) = rustix::fs::statfs(path) else {
        return false;
    };
    let name: Vec<u8> = found.f_fstypename.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    matches!(&name[..], b"apfs" | b"hfs")
}

/// Contents of a cache file.
#[derive(Serialize, Deserialize)]
struct Contents<'a> {
    /// Stored since the name of the file is only a hash of these two.
    root: RelPath,
    machine: String,
    kept: Cow<'a, [Kept]>,
}

impl Place {
    fn file(&self, root: &Path) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.machine.as_bytes()).update(b"\0").update(RelPath::new(root).as_bytes());
        self.directory.join(format!("files-{}", &hasher.finalize().to_hex()[..16]))
    }

    /// Returns `None` if there is no file, or it is not trusted.
    fn load(&self, root: &Path) -> Option<Vec<Kept>> {
        self.is_own_directory().then_some(())?;
        let open = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(self.file(root));
        let mut file = open.ok()?;
        let about = file.metadata().ok()?;
        let is_own = about.is_file() && about.uid() == geteuid().as_raw() && about.mode() & 0o022 == 0;
        if !is_own || about.len() > LARGEST {
            return None;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let rest = bytes.strip_prefix(FORMAT)?;
        let (sum, rest) = rest.split_first_chunk::<32>()?;
        if blake3::hash(rest) != blake3::Hash::from_bytes(*sum) {
            return None;
        }
        let contents: Contents = postcard::from_bytes(rest).ok()?;
        let fits = contents.root == RelPath::new(root) && contents.machine == self.machine;
        fits.then(|| contents.kept.into_owned())
    }

    /// Replaces the file as a whole. If two processes write, the last one wins.
    fn write(&self, root: &Path, kept: &[Kept]) -> io::Result<()> {
        private_file::create_directories(&self.directory, false).map_err(|(_, e)| e)?;
        if !self.is_own_directory() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let contents =
            Contents { root: RelPath::new(root), machine: self.machine.clone(), kept: kept.into() };
        let rest = postcard::to_stdvec(&contents).map_err(io::Error::other)?;
        let sum = blake3::hash(&rest);
        let bytes = [FORMAT, sum.as_bytes(), &rest].concat();
        private_file::replace_file(&self.file(root), &bytes, Reader::Us)
    }

    /// Whether the directory is this user's, and no other user can create a file in it.
    fn is_own_directory(&self) -> bool {
        let about = fs::symlink_metadata(&self.directory);
        about.is_ok_and(|d| d.is_dir() && d.uid() == geteuid().as_raw() && d.mode() & 0o022 == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::super::Inputs;
    use super::super::tests::Configured;
    use super::*;

    /// Longer than a tick of a kernel clock.
    const TICK: Duration = Duration::from_millis(12);

    fn configured(keys: &str) -> Configured {
        Configured::new(&[], keys)
    }

    impl Configured {
        fn read(&self, cache: &FileCache) -> std::result::Result<Inputs, String> {
            Inputs::read(cache, self.root(), &self.definition, &|_| None).map_err(|e| e.to_string())
        }

        /// Compares the results with the cache and without it.
        fn compare(&self, cache: &FileCache) {
            assert_eq!(self.read(cache), self.read(&FileCache::in_memory()));
        }

        /// Returns the paths that the cache would hash or list again.
        fn stale(&self, cache: &FileCache) -> Vec<String> {
            let state = cache.state(self.root());
            let kept = &state.kept[0];
            let mut stale = Vec::new();
            for (path, directory) in &kept.directories {
                if directory.stat.is_none() {
                    stale.push(format!("{path}/"));
                }
                stale.extend(
                    directory.files.iter().filter(|f| f.content.is_none()).map(|f| f.path.to_string()),
                );
                stale.extend(
                    directory.named.iter().filter(|f| f.content.is_none()).map(|f| f.path.to_string()),
                );
            }
            stale
        }
    }

    fn quick() -> FileCache {
        FileCache { settled: TICK, ..FileCache::in_memory() }
    }

    const KEYS: &str = "migrations = [\"**/*.sql\", \"!**/no/**\"]\ninputs = [\"local.cfg\"]";

    #[test]
    fn a_file_that_goes_between_walk_and_reading_is_looked_for_again() {
        let tree = configured("migrations = [\"m/*\"]");
        tree.write("m/1.sql", "a");
        tree.write("m/2.sql", "b");
        let root = tree.root();
        let globs = Arc::new(Globs::compile(root, &tree.definition).unwrap());
        let look = Look::new(root, &globs, &tree.definition, SETTLED);
        let mut walks = 0;
        let (read, ..) = look
            .read(key(&tree.definition), None, &mut || {
                walks += 1;
                let _ = fs::remove_file(tree.at("m/2.sql"));
            })
            .unwrap();
        assert_eq!((walks, read.walked.files.len(), read.inputs.len()), (2, 1, 1));
    }

    #[test]
    fn what_has_not_changed_is_neither_listed_nor_hashed() {
        let tree = configured(KEYS);
        tree.write("a/1.sql", "one");
        tree.write("b/c/2.sql", "two");
        tree.write("bin/x.sh", "migrate");
        tree.write("local.cfg", "x");
        tree.write(".gitignore", "local.cfg");
        std::thread::sleep(TICK);
        let cache = quick();
        tree.compare(&cache);
        assert_eq!(tree.stale(&cache), [""; 0]);
        // A directory with an old time is not listed, so nothing is found there.
        let state = |cache: &FileCache| cache.state(tree.root()).kept.clone();
        let before = state(&cache);
        let first = tree.read(&cache);
        assert_eq!(state(&cache), before);
        assert_eq!(tree.read(&cache), first);
        // A hash in the cache is used.
        let mut false_cache = before;
        for (_, directory) in &mut false_cache[0].directories {
            for content in directory.files.iter_mut().filter_map(|f| f.content.as_mut()) {
                content.hash = [7; 32];
            }
        }
        cache.state(tree.root()).kept = false_cache;
        let read = tree.read(&cache).unwrap();
        assert!(read.migrations.iter().all(|file| file.hash.starts_with("0707")), "{read:?}");
    }

    #[test]
    fn an_entry_that_is_just_written_is_not_trusted() {
        let tree = configured(KEYS);
        tree.write("a/1.sql", "one");
        tree.write("local.cfg", "x");
        let cache = FileCache::in_memory();
        tree.compare(&cache);
        assert_eq!(tree.stale(&cache), ["/", "local.cfg", "a/", "a/1.sql"]);
    }

    #[test]
    fn a_cache_on_disk_is_for_one_machine_user_and_root() {
        let tree = configured(KEYS);
        tree.write("a/1.sql", "one");
        tree.write("local.cfg", "x");
        std::thread::sleep(TICK);
        let directory = TempDir::new().unwrap();
        let at = |machine: &str| FileCache {
            settled: TICK,
            ..FileCache::at(directory.path().join("cache"), machine.into())
        };
        let cache = at("m1");
        tree.compare(&cache);
        let files = || fs::read_dir(directory.path().join("cache")).unwrap().count();
        assert_eq!(files(), 1);
        let kept = |cache: &FileCache| cache.state(tree.root()).kept.len();
        assert_eq!((kept(&at("m1")), kept(&at("m2"))), (1, 0));
        let file = fs::read_dir(directory.path().join("cache")).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        // Truncated or changed: unusable, but harmless.
        let whole = fs::read(&file).unwrap();
        for length in [0, 10, 40, whole.len() - 1] {
            fs::write(&file, &whole[..length]).unwrap();
            assert_eq!(kept(&at("m1")), 0, "{length}");
            tree.compare(&at("m1"));
        }
        let mut other = whole.clone();
        *other.last_mut().unwrap() ^= 1;
        fs::write(&file, &other).unwrap();
        assert_eq!(kept(&at("m1")), 0);
        fs::write(&file, &whole).unwrap();
        assert_eq!(kept(&at("m1")), 1);
        // Other users could have written it.
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert_eq!(kept(&at("m1")), 0);
        if geteuid().is_root() {
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            nix::unistd::chown(&file, Some(65534.into()), None).unwrap();
            assert_eq!(kept(&at("m1")), 0);
            nix::unistd::chown(&directory.path().join("cache"), Some(65534.into()), None).unwrap();
            tree.write("a/2.sql", "two");
            tree.compare(&at("m1"));
            assert_eq!(fs::read(&file).unwrap(), whole);
        }
    }

    /// Changes that users and tools make to a tree between two reads.
    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, u8),
        /// Writes the same length, and keeps the old modification time.
        WriteQuietly(usize, u8),
        Remove(usize),
        Rename(usize, usize),
        RenameDirectory(usize, usize),
        RemoveDirectory(usize),
        Link(usize, usize),
        LinkDirectory(usize, usize),
        HardLink(usize, usize),
        Ignore(usize, usize),
        Wait,
        Read,
    }

    const DIRECTORIES: [&str; 6] = ["a", "a/b", "a/b/no", "c", "c/d", "e"];
    const FILES: [&str; 12] = [
        "a/1.sql",
        "a/2.sql",
        "a/b/1.sql",
        "a/b/no/1.sql",
        "c/1.sql",
        "c/d/1.sql",
        "c/d/2.sql",
        "e/1.sql",
        "e/x.txt",
        "local.cfg",
        "bin/x.sh",
        "0.sql",
    ];

    fn step() -> impl Strategy<Value = Step> {
        let file = 0..FILES.len();
        let directory = 0..DIRECTORIES.len();
        prop_oneof![
            6 => (file.clone(), any::<u8>()).prop_map(|(f, c)| Step::Write(f, c)),
            4 => (file.clone(), any::<u8>()).prop_map(|(f, c)| Step::WriteQuietly(f, c)),
            2 => file.clone().prop_map(Step::Remove),
            2 => (file.clone(), file.clone()).prop_map(|(a, b)| Step::Rename(a, b)),
            2 => (directory.clone(), directory.clone()).prop_map(|(a, b)| Step::RenameDirectory(a, b)),
            1 => directory.clone().prop_map(Step::RemoveDirectory),
            2 => (file.clone(), file.clone()).prop_map(|(a, b)| Step::Link(a, b)),
            1 => (directory.clone(), directory.clone()).prop_map(|(a, b)| Step::LinkDirectory(a, b)),
            1 => (file.clone(), file).prop_map(|(a, b)| Step::HardLink(a, b)),
            2 => (directory.clone(), directory).prop_map(|(a, b)| Step::Ignore(a, b)),
            3 => Just(Step::Wait),
            6 => Just(Step::Read),
        ]
    }

    /// Applies a step; steps that are impossible are skipped.
    fn act(tree: &Configured, step: &Step) {
        let file = |n: &usize| tree.at(FILES[*n]);
        let directory = |n: &usize| tree.at(DIRECTORIES[*n]);
        let text =
            |c: &u8| if (*c).is_multiple_of(7) { "\0binary".to_owned() } else { format!("text {}", c % 5) };
        let _ = match step {
            Step::Write(f, c) => {
                let _ = fs::create_dir_all(file(f).parent().unwrap());
                fs::write(file(f), text(c))
            }
            Step::WriteQuietly(f, c) => fs::metadata(file(f)).and_then(|before| {
                fs::write(file(f), text(c))?;
                let times = FileTimes::new().set_modified(before.modified()?);
                OpenOptions::new().write(true).open(file(f))?.set_times(times)
            }),
            Step::Remove(f) => fs::remove_file(file(f)),
            Step::Rename(a, b) => fs::rename(file(a), file(b)),
            Step::RenameDirectory(a, b) => fs::rename(directory(a), directory(b)),
            Step::RemoveDirectory(d) => fs::remove_dir_all(directory(d)),
            Step::Link(a, b) => fs::remove_file(file(a)).and_then(|()| symlink(file(b), file(a))),
            Step::LinkDirectory(a, b) => symlink(directory(a), directory(b)),
            Step::HardLink(a, b) => fs::hard_link(file(a), file(b)),
            Step::Ignore(a, b) => fs::write(
                directory(a).join(".gitignore"),
                format!("/{}\n", ["b", "1.sql", "d", "*.sql", "no", "x.txt"][*b]),
            ),
            Step::Wait => {
                std::thread::sleep(TICK);
                Ok(())
            }
            Step::Read => Ok(()),
        };
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_read_with_the_cache_is_one_without(steps in prop::collection::vec(step(), 1..40)) {
            let tree = configured(KEYS);
            for f in FILES {
                tree.write(f, "text 0");
            }
            std::thread::sleep(TICK);
            let cache = quick();
            tree.compare(&cache);
            for step in &steps {
                act(&tree, step);
                if matches!(step, Step::Read) {
                    tree.compare(&cache);
                }
            }
            tree.compare(&cache);
            std::thread::sleep(TICK);
            tree.compare(&cache);
            tree.compare(&cache);
        }
    }
}
