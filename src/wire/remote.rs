//! JSON answers of `push`, `pull` and the commands of `remote`.

use serde::Serialize;

use super::VERSION;
use crate::remote::{Finding, Level, Listed, Pruning};

/// Answer of `push`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PushAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// URL of the store.
    pub store: String,
    /// One for each template that was to be pushed.
    pub templates: Vec<PushedAnswer>,
}

/// A template that was to be pushed.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PushedAnswer {
    /// Name of the definition.
    pub template: String,
    /// 64 hex digits.
    pub fingerprint: String,
    /// Whether it was uploaded now.
    pub pushed: bool,
    /// Whether the store has it.
    pub stored: bool,
    /// Size of what was uploaded.
    pub bytes: Option<u64>,
    /// Reason why the store does not have it.
    pub reason: Option<String>,
}

/// Answer of `pull`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PullAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// URL of the store.
    pub store: String,
    /// Name of the definition.
    pub template: String,
    /// 64 hex digits; null if no entry was found.
    pub fingerprint: Option<String>,
    /// Whether it was pulled now.
    pub pulled: bool,
    /// Reason why the server does not have it.
    pub reason: Option<String>,
}

/// Answer of `remote list`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RemoteListAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// URL of the store.
    pub store: String,
    /// Entries of the project, sorted by definition and scope.
    pub entries: Vec<EntryAnswer>,
}

/// Answer of `remote prune`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RemotePruneAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// URL of the store.
    pub store: String,
    /// Whether nothing was deleted.
    pub dry_run: bool,
    /// Entries that were deleted, or would be.
    pub entries: Vec<EntryAnswer>,
    /// Number of further objects: of uploads that were not completed, and of entries that were replaced.
    pub orphans: usize,
    /// Size of everything that was deleted, or would be.
    pub bytes: u64,
}

/// Answer of `remote doctor`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RemoteDoctorAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// URL of the store.
    pub store: String,
    /// Number of problems.
    pub problems: usize,
    /// Number of warnings.
    pub warnings: usize,
    /// All checks.
    pub checks: Vec<RemoteCheckAnswer>,
}

/// A check of the store.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RemoteCheckAnswer {
    /// Name of the check; the same in each run.
    pub name: &'static str,
    /// `ok`, `warning` or `problem`.
    pub status: &'static str,
    /// The finding.
    pub words: String,
    /// Advice for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// An entry of a store.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EntryAnswer {
    /// Name of the definition.
    pub template: String,
    /// 64 hex digits.
    pub fingerprint: String,
    /// `trusted` for default and protected branches and tags, else `ref-` and the branch.
    pub scope: String,
    /// Whether commands here read that scope.
    pub read: bool,
    /// Size of all its objects.
    pub bytes: u64,
    /// Seconds since it was written or last pulled.
    pub idle_s: u64,
    /// Major version of its server; null if it cannot be used, as the following ones.
    pub major: Option<u32>,
    /// Whether a full build was to replace it.
    pub provisional: Option<bool>,
    /// Fingerprint of the base of its incremental build.
    pub base: Option<String>,
    /// Milliseconds of its build.
    pub build_ms: Option<u64>,
    /// Commit that it was built from, if it is known.
    pub commit: Option<String>,
    /// Key that signed it.
    pub signed_by: Option<String>,
    /// Reason why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&Listed> for EntryAnswer {
    fn from(listed: &Listed) -> Self {
        let manifest = listed.manifest.as_ref().ok();
        let commit = manifest.map(|m| m.origin.commit.clone()).filter(|commit| !commit.is_empty());
        EntryAnswer {
            template: listed.definition.clone(),
            fingerprint: listed.fingerprint.clone(),
            scope: listed.scope.clone(),
            read: listed.is_read,
            bytes: listed.bytes,
            idle_s: listed.idle.as_secs(),
            major: manifest.map(|m| m.major),
            provisional: manifest.map(|m| m.provisional),
            base: manifest.and_then(|m| m.base.clone()),
            build_ms: manifest.map(|m| m.build_ms),
            commit,
            signed_by: listed.signed_by.clone(),
            reason: listed.manifest.as_ref().err().cloned(),
        }
    }
}

impl RemoteListAnswer {
    /// Creates the answer for a store.
    pub(crate) fn new(store: &str, entries: &[Listed]) -> Self {
        let entries = entries.iter().map(EntryAnswer::from).collect();
        RemoteListAnswer { version: VERSION, store: store.to_owned(), entries }
    }
}

impl RemotePruneAnswer {
    /// Creates the answer for a store.
    pub(crate) fn new(store: &str, dry_run: bool, pruning: &Pruning) -> Self {
        RemotePruneAnswer {
            version: VERSION,
            store: store.to_owned(),
            dry_run,
            entries: pruning.entries.iter().map(EntryAnswer::from).collect(),
            orphans: pruning.orphans.0,
            bytes: pruning.orphans.1 + pruning.entries.iter().map(|entry| entry.bytes).sum::<u64>(),
        }
    }
}

impl RemoteDoctorAnswer {
    /// Creates the answer for a store.
    pub(crate) fn new(store: &str, findings: &[Finding]) -> Self {
        let number = |level| findings.iter().filter(|finding| finding.level == level).count();
        let checks = findings.iter().map(|finding| RemoteCheckAnswer {
            name: finding.name,
            status: match finding.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Problem => "problem",
            },
            words: finding.words.clone(),
            hint: finding.hint.clone(),
        });
        RemoteDoctorAnswer {
            version: VERSION,
            store: store.to_owned(),
            problems: number(Level::Problem),
            warnings: number(Level::Warning),
            checks: checks.collect(),
        }
    }
}
