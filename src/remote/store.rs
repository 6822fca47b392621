//! Where entries are: a few operations on keys, which any object store has.

use std::fmt;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;

/// Reason why a store did not do what was asked, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreError {
    /// The reason.
    pub(crate) words: String,
    /// Whether the next request would probably fail, too, and only cost time.
    pub(crate) down: bool,
}

impl StoreError {
    /// The store is gone, or too busy.
    pub(crate) fn down(words: String) -> Self {
        StoreError { words, down: true }
    }

    /// The store answers, and refuses this request.
    pub(crate) fn refused(words: String) -> Self {
        StoreError { words, down: false }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// Result of an operation of a store.
pub(crate) type StoreResult<T> = Result<T, StoreError>;

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Its key.
    pub(crate) key: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Time of its last change, by the store's clock.
    pub(crate) modified: SystemTime,
}

impl Object {
    /// Returns its age; zero if it comes from the future.
    pub(crate) fn age(&self) -> Duration {
        self.modified.elapsed().unwrap_or_default()
    }
}

/// A store. Keys are parts of letters, digits, `.`, `_` and `-`, separated by slashes.
pub(crate) trait Store: Send + Sync + fmt::Debug {
    /// Returns an object; `None` if there is none. One with more than `most` bytes is an error.
    fn get<'a>(&'a self, key: &'a str, most: u64) -> BoxFuture<'a, StoreResult<Option<Vec<u8>>>>;

    /// Writes an object completely or not at all. `false`: it exists, and was not to be replaced. A store that ignores
    /// the condition replaces it.
    fn put<'a>(&'a self, key: &'a str, bytes: Vec<u8>, create_only: bool)
    -> BoxFuture<'a, StoreResult<bool>>;

    /// Returns at most `most` objects whose keys begin with `prefix` and a slash, in any order; `None` if this store
    /// cannot list.
    fn list<'a>(&'a self, prefix: &'a str, most: usize) -> BoxFuture<'a, StoreResult<Option<Vec<Object>>>>;

    /// Deletes an object, if there is one.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>>;

    /// Returns why unsigned entries must not be read from here; `None` if only the user or root can write here.
    fn stranger(&self) -> Option<String>;

    /// Returns where its credentials come from, if it takes some.
    fn credentials(&self) -> Option<String> {
        None
    }
}
