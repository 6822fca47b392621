//! A store in a directory, of the local disk or of a network file system.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::store::{Object, Store, StoreError, StoreResult};
use crate::private_file::{publish_directories, publish_file};

/// A directory. `owned`: files count only if they belong to the user or root.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    root: Arc<PathBuf>,
    owned: bool,
}

impl Folder {
    pub(super) fn new(root: PathBuf, owned: bool) -> Self {
        Folder { root: Arc::new(root), owned }
    }

    /// Runs work that may block, even forever if a network file system is gone, on a thread that no caller has to wait
    /// for.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> StoreResult<T> + Send + 'static,
    ) -> BoxFuture<'static, StoreResult<T>> {
        let folder = self.clone();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let started = std::thread::Builder::new().name("store".into()).spawn(move || {
            // If the caller no longer waits, the answer is not needed.
            let _ = answer.send(work(&folder));
        });
        async move {
            started.map_err(|e| StoreError::down(e.to_string()))?;
            answered.await.unwrap_or_else(|_| Err(StoreError::down("the thread ended early".into())))
        }
        .boxed()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn is_ours(&self, uid: u32) -> bool {
        uid == 0 || uid == geteuid().as_raw()
    }

    fn error(&self, path: &Path, error: &std::io::Error) -> StoreError {
        match self.root.is_dir() {
            true => StoreError::down(format!("{}: {error}", path.display())),
            false => StoreError::down(format!("there is no directory {}", self.root.display())),
        }
    }

    fn read(&self, key: &str, most: u64) -> StoreResult<Option<Vec<u8>>> {
        let path = self.path(key);
        // A pipe would block, and a link could lead elsewhere.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let opened = fs::File::options().read(true).custom_flags(flags.bits()).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound && self.root.is_dir() => return Ok(None),
            Err(e) => return Err(self.error(&path, &e)),
        };
        let about = file.metadata().map_err(|e| self.error(&path, &e))?;
        if !about.is_file() {
            return Err(StoreError::down(format!("{} is not a regular file", path.display())));
        }
        if self.owned && !self.is_ours(about.uid()) {
            return Err(StoreError::down(format!("{} belongs to another user", path.display())));
        }
        if about.len() > most {
            return Err(StoreError::down(format!("{} is too large", path.display())));
        }
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes).map_err(|e| self.error(&path, &e))?;
        Ok(Some(bytes))
    }

    fn write(&self, key: &str, bytes: &[u8], create_only: bool) -> StoreResult<bool> {
        let path = self.path(key);
        let above = Path::new(key).parent().unwrap_or(Path::new(""));
        publish_directories(&self.root, above).map_err(|e| self.error(&path, &e))?;
        match publish_file(&path, bytes, create_only) {
            Ok(()) => Ok(true),
            Err(e) if create_only && e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.error(&path, &e)),
        }
    }

    fn find(&self, prefix: &str, most: usize) -> StoreResult<Vec<Object>> {
        let mut found = Vec::new();
        let mut next = vec![self.path(prefix)];
        while let Some(directory) = next.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(e) if e.kind() == ErrorKind::NotFound && self.root.is_dir() => continue,
                Err(e) => return Err(self.error(&directory, &e)),
            };
            for entry in entries.flatten() {
                // Another process may remove it at this moment.
                let Ok(about) = entry.metadata() else {
                    continue;
                };
                let hidden = entry.file_name().to_string_lossy().starts_with('.');
                if about.is_dir() {
                    next.push(entry.path());
                } else if about.is_file()
                    && !hidden
                    && let Ok(key) = entry.path().strip_prefix(&*self.root)
                    && let (Some(key), Ok(modified)) = (key.to_str(), about.modified())
                {
                    found.push(Object { key: key.to_owned(), bytes: about.len(), modified });
                }
                if found.len() >= most {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    fn remove(&self, key: &str) -> StoreResult<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(self.error(&path, &e)),
        }
        // Directories above that are empty now.
        for above in Path::new(key).ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            if fs::remove_dir(self.root.join(above)).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl Store for Folder {
    fn get<'a>(&'a self, key: &'a str, most: u64) -> BoxFuture<'a, StoreResult<Option<Vec<u8>>>> {
        let key = key.to_owned();
        self.blocking(move |folder| folder.read(&key, most))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        bytes: Vec<u8>,
        create_only: bool,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        let key = key.to_owned();
        self.blocking(move |folder| {
            // A cleanup may have removed a directory that was empty for a moment.
            let first = folder.write(&key, &bytes, create_only);
            if first.is_ok() { first } else { folder.write(&key, &bytes, create_only) }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, most: usize) -> BoxFuture<'a, StoreResult<Option<Vec<Object>>>> {
        let prefix = prefix.to_owned();
        self.blocking(move |folder| folder.find(&prefix, most).map(Some))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        let key = key.to_owned();
        self.blocking(move |folder| folder.remove(&key))
    }

    fn stranger(&self) -> Option<String> {
        // If it is not there, the first operation says so.
        let about = fs::metadata(&*self.root).ok()?;
        let place = self.root.display();
        if !self.is_ours(about.uid()) {
            return Some(format!("{place} belongs to another user, and no key is trusted"));
        }
        (about.mode() & 0o002 != 0).then(|| format!("every user can write to {place}, and no key is trusted"))
    }
}
