//! Lists the entries of a store, deletes those that nothing uses any more, and examines the store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::client::{Remote, Why};
use super::entry::{self, Dump, Manifest};
use super::store::{Object, StoreResult};
use crate::names::random_text;
use crate::quantity::{count, setting, size};

/// Most objects that are listed.
const MOST: usize = 100_000;
/// Age after which a dump without a manifest is no upload in progress.
const ORPHAN: Duration = Duration::from_secs(24 * 60 * 60);
/// Tolerated difference between two clocks.
const SKEW: Duration = Duration::from_secs(60);

/// An entry in a listing.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// Name of the definition.
    pub(crate) definition: String,
    /// Its scope.
    pub(crate) scope: String,
    /// Its fingerprint; 64 hex digits.
    pub(crate) fingerprint: String,
    /// Size of all its objects.
    pub(crate) bytes: u64,
    /// Time since it was written or last pulled.
    pub(crate) idle: Duration,
    /// Its manifest, or the reason why it cannot be used.
    pub(crate) manifest: Result<Manifest, Why>,
    /// Key that signed it.
    pub(crate) signed_by: Option<String>,
    /// Whether commands with these rights read its scope.
    pub(crate) is_read: bool,
    /// Keys of its objects, the ones that readers find first.
    keys: Vec<String>,
}

/// Result of a prune.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pruning {
    /// The entries that were deleted, or would be.
    pub(crate) entries: Vec<Listed>,
    /// Number and size of dumps without an entry.
    pub(crate) orphans: (usize, u64),
}

/// Gravity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Ok,
    Warning,
    Problem,
}

/// Finding of an examination.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) words: String,
    pub(crate) hint: Option<String>,
}

impl Finding {
    pub(crate) fn new(name: &'static str, level: Level, words: impl Into<String>) -> Self {
        Finding { name, level, words: words.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Finding { hint: Some(hint.into()), ..self }
    }
}

/// Parts of the key of an object: definition, scope, kind, and the rest.
fn parts(key: &str) -> Option<(&str, &str, &str, &str)> {
    let mut parts = key.splitn(6, '/').skip(2);
    Some((parts.next()?, parts.next()?, parts.next()?, parts.next()?))
}

impl Remote {
    async fn objects(&self) -> Result<Vec<Object>, Why> {
        let prefix = format!("{}/{}", entry::TOP, self.project);
        let listed = self.within(self.store.list(&prefix, MOST)).await?;
        listed.ok_or_else(|| "it cannot list what it has (as by WebDAV)".into())
    }

    /// Lists the entries of the project, of all scopes.
    ///
    /// # Errors
    /// The reason why the store cannot be read.
    pub(crate) async fn entries(&self) -> Result<Vec<Listed>, Why> {
        Ok(self.read(&self.objects().await?).await?.0)
    }

    /// Returns the entries, and the dumps that no entry names.
    async fn read(&self, objects: &[Object]) -> Result<(Vec<Listed>, Vec<Object>), Why> {
        let mut groups: BTreeMap<(&str, &str, &str), Vec<&Object>> = BTreeMap::new();
        for object in objects {
            let Some((definition, scope, kind, rest)) = parts(&object.key) else {
                continue;
            };
            let fingerprint = match kind {
                "tpl" => rest.split('/').next().unwrap_or_default(),
                "used" | "building" => rest,
                "heads" => rest.rsplit('-').next().unwrap_or_default(),
                _ => continue,
            };
            if fingerprint.len() == 64 && fingerprint.is_ascii() {
                groups.entry((definition, scope, fingerprint)).or_default().push(object);
            }
        }
        let (mut entries, mut orphans) = (Vec::new(), Vec::new());
        for ((definition, scope, fingerprint), objects) in groups {
            let place = entry::manifest_key(&self.project, definition, scope, fingerprint);
            let Some(own) = objects.iter().find(|object| object.key == place) else {
                orphans.extend(objects.into_iter().cloned());
                continue;
            };
            let Some(bytes) = self.within(self.store.get(&own.key, entry::MANIFEST)).await? else {
                continue;
            };
            let opened = entry::open::<Manifest>(&bytes, &self.trusted).map_err(|why| format!("it {why}"));
            let named: BTreeSet<String> = match &opened {
                Ok((manifest, _)) => manifest.databases.iter().map(Dump::name).collect(),
                Err(_) => BTreeSet::new(),
            };
            let is_named = |object: &Object| {
                let name = object.key.rsplit('/').next().unwrap_or_default();
                opened.is_err() || !name.ends_with(entry::DUMP_END) || named.contains(name)
            };
            let (own, other): (Vec<&Object>, Vec<&Object>) = objects.into_iter().partition(|o| is_named(o));
            orphans.extend(other.into_iter().cloned());
            // Readers find the head first, then the manifest, then the dumps.
            let rank = |key: &str| match parts(key).map(|(_, _, kind, _)| kind) {
                Some("heads") => 0,
                _ if key.ends_with("/manifest") => 1,
                _ => 2,
            };
            let mut keys: Vec<String> = own.iter().map(|object| object.key.clone()).collect();
            keys.sort_by_key(|key| rank(key));
            let (manifest, signed_by) = match opened {
                Ok((manifest, key)) => (Ok(manifest), key.map(|key| key.to_string())),
                Err(why) => (Err(why), None),
            };
            entries.push(Listed {
                definition: definition.to_owned(),
                scope: scope.to_owned(),
                fingerprint: fingerprint.to_owned(),
                bytes: own.iter().map(|object| object.bytes).sum(),
                idle: own.iter().map(|object| object.age()).min().unwrap_or_default(),
                manifest,
                signed_by,
                is_read: self.standing.scopes.iter().any(|read| read == scope),
                keys,
            });
        }
        Ok((entries, orphans))
    }

    /// Deletes the entries of the project that were not used for `[remote] keep`, except for `pinned` fingerprints, and
    /// dumps that no entry names. With `dry_run` only returns them.
    ///
    /// # Errors
    /// The reason why the store cannot be read or written.
    pub(crate) async fn prune(
        &self,
        pinned: &[String],
        keep: Option<Duration>,
        dry_run: bool,
    ) -> Result<Pruning, Why> {
        let (entries, orphans) = self.read(&self.objects().await?).await?;
        let is_old = |entry: &Listed| keep.is_some_and(|keep| entry.idle > keep);
        let old: Vec<Listed> = entries
            .into_iter()
            .filter(|entry| is_old(entry) && !pinned.contains(&entry.fingerprint))
            .collect();
        let orphans: Vec<Object> = orphans.into_iter().filter(|object| object.age() > ORPHAN).collect();
        if !dry_run {
            let keys =
                old.iter().flat_map(|entry| &entry.keys).chain(orphans.iter().map(|object| &object.key));
            for key in keys {
                self.within(self.store.delete(key)).await?;
            }
        }
        Ok(Pruning {
            orphans: (orphans.len(), orphans.iter().map(|object| object.bytes).sum()),
            entries: old,
        })
    }

    /// Examines the store: reach, rights, clock, conditional writes, age and size. With `probe`, and
    /// where writing is allowed, it writes an object and deletes it.
    pub(crate) async fn examine(&self, probe: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut ok = |name, words: String| findings.push(Finding::new(name, Level::Ok, words));
        ok("store", self.place.clone());
        ok("scopes", format!("reads {}", self.standing.scopes.join(", ")));
        match self.why_no_read() {
            Some(why) => findings.push(
                Finding::new("read", Level::Problem, format!("nothing is read: {why}"))
                    .hint("name the public keys in `[remote] trust`, or see the reason"),
            ),
            None => {
                let trust = match self.trusted.len() {
                    0 => "entries need no signature, since only you or root can write here".to_owned(),
                    n => format!("entries need a signature of {}", count(n, "trusted key")),
                };
                findings.push(Finding::new("read", Level::Ok, trust));
            }
        }
        if let Some(origin) = self.store.credentials() {
            findings.push(Finding::new("credentials", Level::Ok, origin));
        }
        let prefix = format!("{}/{}", entry::TOP, self.project);
        let objects = match self.within(self.store.list(&prefix, MOST)).await {
            Ok(Some(objects)) => {
                findings.push(Finding::new("reach", Level::Ok, "it answers, and lists what it has"));
                objects
            }
            // An object that is not there shows whether it answers.
            Ok(None) => match self.within(self.store.get(&format!("{prefix}/none"), entry::HEAD)).await {
                Ok(_) => {
                    findings.push(
                        Finding::new(
                            "reach",
                            Level::Warning,
                            "it answers, and cannot list what it has: bases of incremental builds are not found",
                        )
                        .hint("use a server with WebDAV (PROPFIND), or another kind of store"),
                    );
                    Vec::new()
                }
                Err(why) => {
                    findings.push(unreachable(format!("the store cannot be read: {why}")));
                    return findings;
                }
            },
            Err(why) => {
                findings.push(unreachable(format!("the store cannot be listed: {why}")));
                return findings;
            }
        };
        let bytes: u64 = objects.iter().map(|object| object.bytes).sum();
        let oldest = objects.iter().map(Object::age).max().unwrap_or_default();
        findings.push(Finding::new(
            "contents",
            Level::Ok,
            format!(
                "{} of this project, {}, the oldest from {} ago",
                count(objects.len(), "object"),
                size(i64::try_from(bytes).unwrap_or(i64::MAX)),
                setting(Duration::from_secs(oldest.as_secs()))
            ),
        ));
        match self.read(&objects).await {
            Ok((entries, _)) => {
                for entry in entries.iter().filter(|entry| entry.is_read) {
                    let lost = |manifest: &Manifest| {
                        let missing = |hash: &str| !entry.keys.iter().any(|key| key.contains(hash));
                        let lost = manifest.databases.iter().filter(|dump| missing(&dump.blake3)).count();
                        (lost > 0).then(|| format!("the store has lost {}", count(lost, "dump")))
                    };
                    let why = match &entry.manifest {
                        Err(why) => Some(why.clone()),
                        Ok(manifest) => lost(manifest),
                    };
                    if let Some(why) = why {
                        findings.push(
                            Finding::new(
                                "entry",
                                Level::Warning,
                                format!("entry {}: {why}", &entry.fingerprint[..12]),
                            )
                            .hint("push it again: `pgstencil push`"),
                        );
                    }
                }
            }
            Err(why) => findings.push(Finding::new("entry", Level::Problem, why)),
        }
        match self.why_no_write() {
            Some(why) => findings.push(Finding::new("write", Level::Ok, format!("nothing is pushed: {why}"))),
            None if probe => self.try_to_write(&mut findings).await,
            None => {
                let scope = self.standing.write.as_deref().unwrap_or_default();
                findings.push(Finding::new("write", Level::Ok, format!("pushes to scope {scope}")));
            }
        }
        findings
    }

    async fn try_to_write(&self, findings: &mut Vec<Finding>) {
        let scope = self.standing.write.as_deref().unwrap_or_default();
        let prefix = format!("{}/{}/probe", entry::TOP, self.project);
        let key = format!("{prefix}/probe-{}", random_text(12));
        if let Err(why) = self.within(self.store.put(&key, b"1".to_vec(), true)).await {
            findings.push(
                Finding::new("write", Level::Problem, format!("cannot write: {why}"))
                    .hint("grant the right to write, or set `push = \"never\"` here"),
            );
            return;
        }
        let here = SystemTime::now();
        findings.push(Finding::new("write", Level::Ok, format!("pushes to scope {scope}")));
        let probed = self.within(self.probe(&prefix, &key)).await;
        let deleted = self.within(self.store.delete(&key)).await;
        match probed {
            Ok(probed) => probed.report(here, findings),
            Err(why) => findings.push(
                Finding::new(
                    "read back",
                    Level::Problem,
                    format!("cannot read what was just written: {why}"),
                )
                .hint("grant the right to read"),
            ),
        }
        findings.push(match deleted {
            Ok(()) => Finding::new("delete", Level::Ok, "allowed"),
            Err(why) => Finding::new("delete", Level::Warning, format!("cannot delete: {why}"))
                .hint("grant the right to delete: `remote prune` needs it, and announcements of builds"),
        });
    }

    /// Examines an object that was just written.
    async fn probe(&self, prefix: &str, key: &str) -> StoreResult<Probed> {
        let refused = !self.store.put(key, b"2".to_vec(), true).await?;
        let content = self.store.get(key, entry::HEAD).await?;
        let listed = self.store.list(prefix, MOST).await?;
        let seen = |objects: Vec<Object>| objects.into_iter().find(|object| object.key == key);
        Ok(Probed {
            refused,
            content,
            lists: listed.is_some(),
            modified: listed.and_then(seen).map(|object| object.modified),
        })
    }
}

/// An object that was written twice, the second time only if it was not there.
struct Probed {
    /// Whether the second write was refused.
    refused: bool,
    content: Option<Vec<u8>>,
    /// Whether the store can list.
    lists: bool,
    /// Time of its last change, if the list has it.
    modified: Option<SystemTime>,
}

impl Probed {
    fn report(self, written: SystemTime, findings: &mut Vec<Finding>) {
        findings.push(match self.refused {
            true => Finding::new("conditional writes", Level::Ok, "honoured"),
            false => Finding::new(
                "conditional writes",
                Level::Warning,
                "ignored by the store, so two runners may build the same template at the same time",
            )
            .hint("nothing is wrong with the results; use a store with conditional writes to save time"),
        });
        let content: &[u8] = if self.refused { b"1" } else { b"2" };
        findings.push(match self.content.as_deref() {
            Some(read) if read == content => Finding::new("read back", Level::Ok, "what was just written"),
            Some(_) => Finding::new(
                "read back",
                Level::Warning,
                "the store shows something else than what was just written",
            )
            .hint("a cache in between may serve old entries: switch it off for this path"),
            None => {
                Finding::new("read back", Level::Warning, "the store does not have what was just written")
                    .hint("give the store a moment, and try again")
            }
        });
        let skew = self.modified.map(|seen| match written.duration_since(seen) {
            Ok(before) => before,
            Err(after) => after.duration(),
        });
        findings.push(match skew {
            Some(skew) if skew > SKEW => Finding::new(
                "clock",
                Level::Warning,
                format!("the store's clock differs by {}", setting(Duration::from_secs(skew.as_secs()))),
            )
            .hint("set the clocks; ages of entries are wrong by as much"),
            Some(_) => Finding::new("clock", Level::Ok, "agrees with this machine's"),
            None if !self.lists => Finding::new("clock", Level::Ok, "unknown, since the store cannot list"),
            None => Finding::new(
                "clock",
                Level::Warning,
                "unknown: the store does not list what was just written",
            )
            .hint("give the store a moment, and try again"),
        });
    }
}

fn unreachable(words: String) -> Finding {
    Finding::new("reach", Level::Problem, words).hint("check the URL, the network and the credentials")
}
