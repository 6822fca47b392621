//! The file of `pgstencil cache`: the data of a stopped private server, for a machine that starts empty.
//!
//! ```text
//! pgstencil-cache 1 BLAKE3-OF-THE-MANIFEST
//! manifest, JSON: Manifest
//! unsigned | signed ed25519:KEY SIGNATURE
//! payload: a tar archive of regular files, compressed by zstd
//! ```
//!
//! The manifest has the length and the hash of the payload, and the signature is of the manifest. So a file that was
//! cut off, damaged or forged is recognized before anything of it is unpacked. `dumps` has the other kind of file, for
//! servers that pgstencil did not start: dumps of templates, below a first line of its own. `layout` is the list of what an archive
//! may contain; directories and configuration are never in it. `control` reads Postgres's control file, and knows the
//! WAL that a clean start needs.

pub(crate) mod control;
mod dumps;
mod header;
pub(crate) mod key;
pub(crate) mod layout;
mod pack;
mod unpack;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use dumps::{DumpFile, DumpManifest};
pub(crate) use header::CacheFile;
pub(crate) use pack::{copy, pack};

/// The version of the format that this code writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;

/// Size of zstd's window, as a power of two. The databases of a cluster resemble each other, so most of a database is
/// found in the one before it.
const WINDOW: u32 = 27;

/// Description of the contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of pgstencil that wrote the file.
    pub(crate) pgstencil: String,
    /// Where the contents fit.
    pub(crate) platform: Platform,
    /// Version of the server, such as `15.14`.
    pub(crate) server_version: String,
    /// Version of the catalogs, of the control file.
    pub(crate) catalog_version: u32,
    /// Version of the control file's format.
    pub(crate) control_version: u32,
    /// Locale of new databases.
    pub(crate) locale: Locale,
    /// Version of the registries, at most.
    #[serde(default)]
    pub(crate) registry: Option<i32>,
    /// The templates.
    pub(crate) templates: Vec<Packed>,
    /// Number of files in the archive.
    pub(crate) files: u64,
    /// Total length of the files in the archive.
    pub(crate) bytes: u64,
    /// The compressed archive.
    pub(crate) payload: Payload,
}

/// What a cluster depends on outside its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    /// Operating system, such as `linux`.
    pub(crate) os: String,
    /// Architecture, such as `x86_64`.
    pub(crate) arch: String,
    /// Major version of Postgres.
    pub(crate) major: u32,
    /// Libraries that decide how text is ordered, such as `glibc2.36.icu72`.
    pub(crate) libraries: String,
}

/// Locale of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Locale {
    /// `libc`, `icu` or `builtin`.
    pub(crate) provider: String,
    /// Name of the locale, such as `C.UTF-8`.
    pub(crate) name: String,
    /// Version of its collation; `None` if it has none.
    pub(crate) version: Option<String>,
}

/// A template in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packed {
    /// Its project.
    pub(crate) project: String,
    /// Its definition.
    pub(crate) template: String,
    /// Its fingerprint.
    pub(crate) fingerprint: String,
}

/// The compressed archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload {
    /// Its length.
    pub(crate) bytes: u64,
    /// Its blake3, hex.
    pub(crate) blake3: String,
}

impl Platform {
    /// Returns the words that the key of a CI cache begins with.
    pub(crate) fn prefix(&self, project: &str) -> String {
        let Platform { os, arch, major, libraries } = self;
        format!("pgstencil{FORMAT}-{os}-{arch}-pg{major}-{libraries}-{project}-")
    }
}

/// Reason why a cache file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is no such file.
    Missing,
    /// It cannot be read.
    Unreadable,
    /// It is not a cache file.
    Foreign,
    /// It is a cache file of the other kind: data of a private server, or dumps.
    Form,
    /// A newer pgstencil wrote it.
    Newer,
    /// Its end is missing.
    Truncated,
    /// Its contents are not those that were written.
    Damaged,
    /// It has no signature, and one is required.
    Unsigned,
    /// It is signed with a key that is not trusted.
    Untrusted,
    /// It is of another project.
    Project,
    /// It is from another operating system or architecture.
    Platform,
    /// It is from another major version of Postgres.
    Major,
    /// The libraries that order text differ.
    Locale,
    /// It contains something that no cache file contains.
    Layout,
    /// Its contents cannot be written.
    Room,
    /// Postgres does not accept its contents.
    Refused,
}

impl Reason {
    /// Returns the word for JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::Unreadable => "unreadable",
            Reason::Foreign => "foreign",
            Reason::Form => "other_kind",
            Reason::Newer => "newer_format",
            Reason::Truncated => "truncated",
            Reason::Damaged => "damaged",
            Reason::Unsigned => "unsigned",
            Reason::Untrusted => "untrusted",
            Reason::Project => "other_project",
            Reason::Platform => "other_platform",
            Reason::Major => "other_major",
            Reason::Locale => "other_locale",
            Reason::Layout => "layout",
            Reason::Room => "no_room",
            Reason::Refused => "refused_by_postgres",
        }
    }
}

/// A cache file that cannot be used. To the caller it is as if there were none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    /// The reason.
    pub(crate) reason: Reason,
    /// The reason as words that follow "cannot use the cache file: ".
    pub(crate) words: String,
}

impl Unusable {
    pub(crate) fn new(reason: Reason, words: impl Into<String>) -> Self {
        Unusable { reason, words: words.into() }
    }

    fn truncated() -> Self {
        Unusable::new(Reason::Truncated, "it is truncated")
    }

    fn damaged(what: &str) -> Self {
        Unusable::new(Reason::Damaged, format!("it is damaged ({what})"))
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// Result of reading a cache file.
pub(crate) type Checked<T> = std::result::Result<T, Unusable>;
