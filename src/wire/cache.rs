//! JSON answers of the commands of `cache`, and of `ci`.

use serde::Serialize;

use super::VERSION;
use crate::cache_file::{Manifest, Packed, Unusable};
use crate::private_server::Restored;
use crate::stencil::{CacheKey, Filled, Left, SavedCache, SavedDumps};

/// Answer of `cache save`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CacheSaveAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The file.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Size of its contents.
    pub unpacked_bytes: u64,
    /// The public key that belongs to the signature.
    pub signed_by: Option<String>,
    /// The templates in it.
    pub templates: Vec<CachedTemplate>,
    /// Databases in it that pgstencil did not create.
    pub foreign: Vec<String>,
    /// Whether it has dumps, made through the server.
    pub through_server: bool,
    /// Number of templates that were dumped now. With `through_server`, the others were in the file before.
    pub dumped: usize,
    /// Templates of the server that are not in it.
    pub left: Vec<LeftTemplate>,
}

/// A template that a file lacks, or that was not restored.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LeftTemplate {
    /// Its definition.
    pub template: String,
    /// Its fingerprint; `null` if no template was found.
    pub fingerprint: Option<String>,
    /// The reason.
    pub reason: String,
}

/// Answer of `cache restore`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CacheRestoreAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Whether there is a cluster from the file now; with `--through-server`, whether the server has a template of it.
    pub restored: bool,
    /// Why not: `exists`, `missing`, `unreadable`, `foreign`, `other_kind`, `newer_format`, `truncated`, `damaged`,
    /// `unsigned`, `untrusted`, `other_project`, `other_platform`, `other_major`, `other_locale`, `layout`, `no_room`,
    /// `refused_by_postgres` or `no_match`.
    pub reason: Option<&'static str>,
    /// The reason in words.
    pub message: Option<String>,
    /// The templates that were restored, or that the server had before.
    pub templates: Vec<CachedTemplate>,
    /// Whether its dumps were restored through the server.
    pub through_server: bool,
    /// What was not restored, with `--through-server`.
    pub left: Vec<LeftTemplate>,
}

/// A template in a cache file.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CachedTemplate {
    /// Its project.
    pub project: String,
    /// Its definition.
    pub template: String,
    /// Its fingerprint.
    pub fingerprint: String,
}

/// Answer of `cache key`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CacheKeyAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// What files must share to be of use: format, system, Postgres, libraries, project.
    pub prefix: String,
    /// The fingerprint of the definition, or a hash of those of all definitions.
    pub fingerprint: String,
    /// Both together.
    pub key: String,
    /// The definitions, with their fingerprints.
    pub templates: Vec<KeyedTemplate>,
}

/// A definition in the answer of `cache key`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct KeyedTemplate {
    /// Its name.
    pub template: String,
    /// Its fingerprint.
    pub fingerprint: String,
}

/// Answer of `cache new-key`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CacheNewKeyAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The file with the signing key.
    pub file: String,
    /// The public key, for `cache restore --trust`.
    pub public_key: String,
}

/// Answer of `ci`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CiAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// `github`, `gitlab` or `buildkite`.
    pub system: String,
    /// `hosted`, `service-container`, `self-hosted` or `remote`.
    pub case: String,
    /// Where the CI system looks for the job.
    pub file: String,
    /// The job.
    pub text: String,
}

fn templates(manifest: &Manifest) -> Vec<CachedTemplate> {
    cached(&manifest.templates)
}

fn cached(templates: &[Packed]) -> Vec<CachedTemplate> {
    let one = |packed: &Packed| CachedTemplate {
        project: packed.project.clone(),
        template: packed.template.clone(),
        fingerprint: packed.fingerprint.clone(),
    };
    templates.iter().map(one).collect()
}

impl CacheSaveAnswer {
    /// Returns the answer for this file.
    pub(crate) fn new(file: String, done: &SavedCache, signed_by: Option<String>) -> Self {
        CacheSaveAnswer {
            version: VERSION,
            file,
            bytes: done.saved.bytes,
            unpacked_bytes: done.saved.manifest.bytes,
            signed_by,
            templates: templates(&done.saved.manifest),
            foreign: done.foreign.clone(),
            through_server: false,
            dumped: done.saved.manifest.templates.len(),
            left: Vec::new(),
        }
    }

    /// Returns the answer for this file of dumps.
    pub(crate) fn of_dumps(file: String, done: &SavedDumps, signed_by: Option<String>) -> Self {
        CacheSaveAnswer {
            version: VERSION,
            file,
            bytes: done.bytes,
            unpacked_bytes: done.manifest.bytes(),
            signed_by,
            templates: cached(&done.manifest.templates),
            foreign: Vec::new(),
            through_server: true,
            dumped: done.dumped,
            left: left(&done.left),
        }
    }
}

impl CacheRestoreAnswer {
    /// Returns the answer for a file of dumps that was read.
    pub(crate) fn of_dumps(project: &str, filled: &Filled) -> Self {
        let none = filled.templates.is_empty();
        let why = filled.left.first().map_or("it has no template for this config", |left| &left.why);
        CacheRestoreAnswer {
            version: VERSION,
            restored: !none,
            reason: none.then_some("no_match"),
            message: none.then(|| why.to_owned()),
            templates: (filled.templates.iter())
                .map(|of| CachedTemplate {
                    project: project.to_owned(),
                    template: of.template.clone(),
                    fingerprint: of.fingerprint.clone(),
                })
                .collect(),
            through_server: true,
            left: left(&filled.left),
        }
    }

    /// Returns the answer for a file of dumps that cannot be used.
    pub(crate) fn unusable_dumps(unusable: &Unusable) -> Self {
        CacheRestoreAnswer {
            version: VERSION,
            restored: false,
            reason: Some(unusable.reason.as_str()),
            message: Some(unusable.to_string()),
            templates: Vec::new(),
            through_server: true,
            left: Vec::new(),
        }
    }
}

fn left(left: &[Left]) -> Vec<LeftTemplate> {
    let one = |of: &Left| LeftTemplate {
        template: of.template.clone(),
        fingerprint: of.fingerprint.clone(),
        reason: of.why.clone(),
    };
    left.iter().map(one).collect()
}

impl From<&Restored> for CacheRestoreAnswer {
    fn from(restored: &Restored) -> Self {
        let (reason, message) = match restored {
            Restored::Done(_) => (None, None),
            Restored::Exists(data) => {
                (Some("exists"), Some(format!("there is already a private server in {}", data.display())))
            }
            Restored::Unusable(unusable) => (Some(unusable.reason.as_str()), Some(unusable.to_string())),
        };
        CacheRestoreAnswer {
            version: VERSION,
            restored: reason.is_none(),
            reason,
            message,
            templates: match restored {
                Restored::Done(manifest) => templates(manifest),
                Restored::Exists(_) | Restored::Unusable(_) => Vec::new(),
            },
            through_server: false,
            left: Vec::new(),
        }
    }
}

impl From<&CacheKey> for CacheKeyAnswer {
    fn from(key: &CacheKey) -> Self {
        let CacheKey { prefix, fingerprint, definitions } = key;
        CacheKeyAnswer {
            version: VERSION,
            prefix: prefix.clone(),
            fingerprint: fingerprint.to_string(),
            key: format!("{prefix}{fingerprint}"),
            templates: (definitions.iter())
                .map(|(name, fingerprint)| KeyedTemplate {
                    template: name.clone(),
                    fingerprint: fingerprint.to_string(),
                })
                .collect(),
        }
    }
}
