//! A store in memory, for the objects of a cache file of dumps.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_util::future::{BoxFuture, FutureExt as _, ready};

use super::entry::{self, Manifest};
use super::store::{Object, Store, StoreError, StoreResult};

/// Objects by their keys.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<BTreeMap<String, Vec<u8>>>);

/// A template of a shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shelved {
    /// Name of its definition.
    pub(crate) definition: String,
    /// Its fingerprint; 64 hex digits.
    pub(crate) fingerprint: String,
    /// Whether a full build was to replace it.
    pub(crate) provisional: bool,
    /// Time of its dump, in seconds since 1970.
    pub(crate) dumped_s: u64,
}

impl Shelf {
    /// Creates a shelf with these objects.
    pub(crate) fn new(objects: Vec<(String, Vec<u8>)>) -> Self {
        Shelf(Mutex::new(objects.into_iter().collect()))
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns its templates, the newest first.
    pub(crate) fn templates(&self) -> Vec<Shelved> {
        let objects = self.objects();
        let manifests = objects.iter().filter(|(key, _)| key.ends_with("/manifest"));
        let opened = manifests.filter_map(|(_, bytes)| entry::open::<Manifest>(bytes, &[]).ok());
        let mut templates: Vec<Shelved> = opened
            .map(|(manifest, _)| Shelved {
                definition: manifest.definition,
                fingerprint: manifest.fingerprint,
                provisional: manifest.provisional,
                dumped_s: manifest.pushed_s,
            })
            .collect();
        templates.sort_by(|a, b| b.dumped_s.cmp(&a.dumped_s).then_with(|| a.fingerprint.cmp(&b.fingerprint)));
        templates
    }

    /// Returns the objects of these templates, with their keys.
    pub(crate) fn of(&self, templates: &[Shelved]) -> Vec<(String, Vec<u8>)> {
        let ends = |key: &str, of: &Shelved| {
            let Shelved { fingerprint, .. } = of;
            key.contains(&format!("/tpl/{fingerprint}/")) || key.ends_with(&format!("-{fingerprint}"))
        };
        let objects = self.objects();
        let kept = objects.iter().filter(|(key, _)| templates.iter().any(|template| ends(key, template)));
        kept.map(|(key, bytes)| (key.clone(), bytes.clone())).collect()
    }
}

impl Store for Shelf {
    fn get<'a>(&'a self, key: &'a str, most: u64) -> BoxFuture<'a, StoreResult<Option<Vec<u8>>>> {
        let found = self.objects().get(key).cloned();
        let found = match found {
            Some(bytes) if bytes.len() as u64 > most => {
                Err(StoreError::refused(format!("{key} is too large")))
            }
            found => Ok(found),
        };
        ready(found).boxed()
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        bytes: Vec<u8>,
        create_only: bool,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        let mut objects = self.objects();
        let written = !create_only || !objects.contains_key(key);
        if written {
            objects.insert(key.to_owned(), bytes);
        }
        ready(Ok(written)).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, most: usize) -> BoxFuture<'a, StoreResult<Option<Vec<Object>>>> {
        let prefix = format!("{prefix}/");
        let objects = self.objects();
        let found = objects.iter().filter(|(key, _)| key.starts_with(&prefix)).take(most);
        let found = found
            .map(|(key, bytes)| Object {
                key: key.clone(),
                bytes: bytes.len() as u64,
                modified: SystemTime::now(),
            })
            .collect();
        ready(Ok(Some(found))).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.objects().remove(key);
        ready(Ok(())).boxed()
    }

    fn stranger(&self) -> Option<String> {
        None
    }
}
