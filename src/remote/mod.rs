//! Templates in a store that several servers share: what is kept there, who may read and write it, and the way from an
//! entry to restored databases.
//!
//! `entry` has the formats, `store` the operations that a store offers, `folder` a store in a directory, `object` one
//! that is reached by HTTP (with the feature `remote`), `place` the URL of such a store, `shelf` a store in memory.
//! `standing` decides by the CI system's variables what a command may write, `client` is the store with these rights;
//! `lookup` finds and downloads entries, `upload` writes them, `announcement` lets machines wait for each other's builds,
//! `upkeep` lists, deletes and examines entries. `tools` runs `pg_dump` and `pg_restore`, which also `verify`
//! needs; `through` those of the server's machine.
//!
//! Nothing from a store is used unless its hash and its signature are right, it is of the project, definition and
//! fingerprint that were asked for, and fits the server; for a base, the rule of incremental builds decides over its
//! list of files. Any failure of the store is a miss that is told. Only the command `pgstencil` has a store: without
//! the feature `cli` this module has no more than the tools.

#[cfg(feature = "cli")]
mod announcement;
#[cfg(feature = "cli")]
mod client;
#[cfg(feature = "cli")]
pub(crate) mod entry;
#[cfg(feature = "cli")]
mod folder;
#[cfg(feature = "cli")]
mod lookup;
#[cfg(feature = "remote")]
mod object;
#[cfg(not(feature = "cli"))]
mod off;
#[cfg(feature = "cli")]
#[cfg_attr(not(feature = "remote"), allow(dead_code))]
mod place;
#[cfg(feature = "cli")]
mod shelf;
#[cfg(feature = "cli")]
mod standing;
#[cfg(feature = "cli")]
mod store;
mod through;
pub(crate) mod tools;
#[cfg(feature = "cli")]
mod upkeep;
#[cfg(feature = "cli")]
mod upload;

use std::path::PathBuf;
use std::time::Duration;

use crate::fingerprint::RelPath;
use crate::names::Fingerprint;
use crate::pg::replay::Replay;

#[cfg(feature = "cli")]
pub(crate) use self::announcement::{Announced, RENEWED};
#[cfg(feature = "cli")]
pub(crate) use self::client::{Remote, now_s};
#[cfg(feature = "cli")]
pub(crate) use self::lookup::Found;
#[cfg(not(feature = "cli"))]
pub(crate) use self::off::Remote;
#[cfg(feature = "cli")]
pub(crate) use self::shelf::{Shelf, Shelved};
pub(crate) use self::through::ServerPrograms;
#[cfg(feature = "cli")]
pub(crate) use self::upkeep::{Finding, Level, Listed, Pruning};

/// Entry whose dumps are verified and on the disk, ready to be restored.
#[derive(Clone, Debug)]
pub(crate) struct Pulled {
    /// Name of the store.
    pub(crate) place: String,
    /// Key that signed it.
    pub(crate) signed_by: Option<String>,
    /// Base of its incremental build, and the migrations that were added to that.
    pub(crate) extends: Option<(Fingerprint, Vec<RelPath>)>,
    /// Number of incremental builds since the full build.
    pub(crate) chain: i32,
    /// Whether a full build is to replace it.
    pub(crate) provisional: bool,
    /// Age of its oldest contents.
    pub(crate) contents: Duration,
    /// Duration of its build.
    pub(crate) build_time: Duration,
    /// Whether its objects get the owners that they had.
    pub(crate) owners: bool,
    /// Databases, in the order of the definition.
    pub(crate) databases: Vec<PulledDatabase>,
}

/// What a store has for some inputs, for `explain`.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// Name of the store.
    pub(crate) place: String,
    /// The entry of these inputs.
    pub(crate) exact: Option<ShownEntry>,
    /// The largest base, if there is no such entry.
    pub(crate) base: Option<ShownEntry>,
    /// Reason why nothing would be pulled.
    pub(crate) why: Option<String>,
    /// Reason why nothing would be pushed.
    pub(crate) why_no_push: Option<String>,
}

/// An entry in it.
#[derive(Clone, Debug)]
pub(crate) struct ShownEntry {
    /// Its fingerprint; 64 hex digits.
    pub(crate) fingerprint: String,
    /// Size of its dumps.
    pub(crate) bytes: u64,
    /// Expected duration of a restore.
    pub(crate) restore: Duration,
    /// Duration of a full build, else of its own build, where it was built.
    pub(crate) build: Duration,
    /// Whether a full build is to replace it.
    pub(crate) provisional: bool,
    /// Migrations that a base lacks, in order.
    pub(crate) added: Vec<RelPath>,
}

/// One database of such an entry.
#[derive(Clone, Debug)]
pub(crate) struct PulledDatabase {
    /// Its uncompressed dump.
    pub(crate) file: PathBuf,
    /// Properties that the dump does not contain.
    pub(crate) replay: Replay,
}
