//! Finds entries, downloads and uploads them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use percent_encoding::percent_decode_str;

use super::entry::{self, Chains, Dump, Head, Manifest, chains};
use super::folder::Folder;
use super::place::Place;
use super::shelf::Shelf;
use super::standing::Standing;
use super::store::{Store, StoreError, StoreResult};
use super::tools::{Scratch, scratch};
use crate::cache_file::key::{PublicKey, SecretKey};
use crate::config::{Config, Extend, Push, RemoteSettings};
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::fingerprint::{Append, Recipe, RelPath, extension};
use crate::names::Fingerprint;
use crate::private_file;
use crate::quantity::setting;

/// Time for which a store is left alone after a failure, so that a dead one does not cost each miss its time-out.
const PAUSE: Duration = Duration::from_secs(5 * 60);
/// Most heads in a listing, and most that are read.
const LISTED: usize = 1000;
const READ: usize = 32;
/// Most manifests that are read where heads cannot decide.
const TRIED: usize = 4;
/// Reason why nothing is found by a list.
pub(super) const UNLISTED: &str =
    "it cannot list what it has, so only templates of exactly these inputs are found";
/// Level of the compression: higher ones gain little.
const ZSTD: i32 = 3;

/// The store of a project, with the rights of this command.
#[derive(Debug)]
pub(crate) struct Remote {
    /// Its URL, without options.
    pub(super) place: String,
    /// Its URL.
    address: String,
    pub(super) project: String,
    pub(super) settings: RemoteSettings,
    pub(super) standing: Standing,
    /// Why it can be neither read nor written, if it cannot.
    unusable: Option<String>,
    pub(super) store: Arc<dyn Store>,
    pub(super) trusted: Vec<PublicKey>,
    signing: std::result::Result<Option<SecretKey>, String>,
    /// Directory for files that may be lost.
    cache: Option<PathBuf>,
    /// Whether earlier failures do not count: the user asked for the store itself.
    insists: bool,
    /// Builds that this command announced: the key, and until when others may wait, in seconds since 1970.
    announced: Mutex<BTreeMap<String, u64>>,
}

/// A verified manifest.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) manifest: Manifest,
    /// Key that signed it.
    pub(crate) signed_by: Option<PublicKey>,
    /// Its inputs.
    pub(crate) recipe: Recipe,
    /// Migrations that a base lacks.
    pub(crate) added: Vec<RelPath>,
}

/// Reason why there is nothing.
pub(crate) type Why = String;

/// Answer to an announcement of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// No other command builds the template, as far as the store shows; this one says that it does.
    Ours,
    /// The same, but this command may not write.
    Nobody,
    /// Another command builds it, and may need this time.
    Other(Duration),
}

/// Time that a build may need if nothing is known about it, and the limits of the time.
const UNKNOWN: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Time for which an announcement holds unless it is renewed: that of a command that was killed is soon of no account.
const HOLDS: Duration = Duration::from_secs(90);
/// Time between two renewals.
pub(crate) const RENEWED: Duration = Duration::from_secs(20);

/// Text of an announcement: until when it holds, and until when others may wait, in seconds since 1970.
fn announcement(now: u64, latest: u64) -> Vec<u8> {
    format!("{} {latest}", now + HOLDS.as_secs()).into_bytes()
}

/// Returns how long others may still wait for an announced build; zero if the announcement no longer holds.
fn left(text: &[u8], now: u64) -> Duration {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let numbers = text.trim().split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (holds, latest): (u64, u64) = numbers.unwrap_or_default();
    if holds <= now {
        return Duration::ZERO;
    }
    // The clocks may differ.
    Duration::from_secs(latest.saturating_sub(now)).min(LONGEST)
}

/// A store that does nothing, for one that cannot be used.
#[derive(Debug)]
struct Nowhere;

impl Remote {
    /// Opens the store of a config; `None` if there is none. Connects to nothing. `branch`: that of the checkout.
    ///
    /// # Errors
    /// `Config` for a URL that this program cannot use, and for keys that are none.
    pub(crate) fn open(config: &Config, env: &Environment, branch: Option<&str>) -> Result<Option<Self>> {
        let settings = &config.remote;
        let Some(url) = &settings.url else {
            return Ok(None);
        };
        let mut unusable = None;
        let url = match url.strip_prefix("env:") {
            None => Some(url.to_string()),
            Some(name) => {
                let value = env.non_empty(name).map(str::to_owned);
                if value.is_none() {
                    unusable = Some(format!("the variable `{name}` of `[remote] url` is not set"));
                }
                value
            }
        };
        let mut trusted = Vec::new();
        for key in &settings.trust {
            let text = match key.strip_prefix("env:") {
                None => key.to_string(),
                Some(name) => match env.non_empty(name) {
                    Some(value) => value.to_owned(),
                    None => {
                        unusable
                            .get_or_insert(format!("the variable `{name}` of `[remote] trust` is not set"));
                        continue;
                    }
                },
            };
            for key in text.split([',', ' ', '\n']).filter(|key| !key.trim().is_empty()) {
                trusted.push(PublicKey::parse(key).map_err(|e| as_config(&e, "trust"))?);
            }
        }
        let signing = match settings.signing_key.as_deref() {
            None => Ok(None),
            Some(text) => read_key(text, &config.root, env)?.map(Some),
        };
        let address = url.clone().unwrap_or_else(|| "the remote store".into());
        let place = address.split('?').next().unwrap_or_default().to_owned();
        let store: Arc<dyn Store> = match &url {
            None => Arc::new(Nowhere),
            Some(url) => match open_store(url, trusted.is_empty(), settings, env)? {
                Ok(store) => store,
                Err(why) => {
                    unusable.get_or_insert(why);
                    Arc::new(Nowhere)
                }
            },
        };
        if url.is_some() && trusted.is_empty() && unusable.is_none() {
            unusable = store.stranger();
        }
        Ok(Some(Remote {
            place,
            address,
            project: config.project.clone(),
            settings: settings.clone(),
            standing: Standing::read(env, settings.push, branch),
            unusable,
            store,
            trusted,
            signing,
            cache: env.cache_dir(),
            insists: false,
            announced: Mutex::default(),
        }))
    }

    /// Returns the store of a cache file: `shelf` has its objects, and the file was checked as a whole. Everything in it
    /// is read and written.
    pub(crate) fn of_file(
        config: &Config,
        place: String,
        shelf: Arc<Shelf>,
        env: &Environment,
        branch: Option<&str>,
    ) -> Self {
        let origin = Standing::read(env, Push::Never, branch).origin;
        let scope = super::standing::TRUSTED.to_owned();
        Remote {
            address: place.clone(),
            place,
            announced: Mutex::default(),
            project: config.project.clone(),
            settings: RemoteSettings::of_file(),
            standing: Standing { scopes: vec![scope.clone()], write: Ok(scope), untrusted: false, origin },
            unusable: None,
            store: shelf,
            trusted: Vec::new(),
            signing: Ok(None),
            cache: env.cache_dir(),
            insists: true,
        }
    }

    /// Uses the store even if it failed a moment ago.
    #[must_use]
    pub(crate) fn insisting(self) -> Self {
        Remote { insists: true, ..self }
    }

    /// Returns its URL.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Returns the least time that a pull has to save.
    pub(crate) fn min_gain(&self) -> Duration {
        *self.settings.min_gain
    }

    /// Returns why nothing may be read, if that is so.
    pub(crate) fn why_no_read(&self) -> Option<Why> {
        if self.standing.untrusted {
            return Some(format!("{} is set", crate::env::UNTRUSTED));
        }
        self.unusable.clone().or_else(|| self.paused())
    }

    /// Returns why nothing may be written, if that is so.
    pub(crate) fn why_no_write(&self) -> Option<Why> {
        self.why_never_written().or_else(|| self.paused())
    }

    /// Returns whether this process may push, if not now since the store failed a moment ago, then later.
    pub(crate) fn may_write(&self) -> bool {
        self.why_never_written().is_none()
    }

    fn why_never_written(&self) -> Option<Why> {
        let rights = || self.standing.write.as_ref().err().cloned();
        let key = || match &self.signing {
            Err(why) => Some(why.clone()),
            Ok(Some(key)) if !self.trusted.is_empty() && !self.trusted.contains(&key.public()) => Some(
                "`[remote] trust` does not name the key of `signing_key`, so nothing could read it".into(),
            ),
            Ok(None) if !self.trusted.is_empty() => {
                Some("`[remote] trust` names keys, and no `signing_key` is set".into())
            }
            Ok(_) => None,
        };
        rights().or_else(|| self.unusable.clone()).or_else(key)
    }

    fn pause_file(&self) -> Option<PathBuf> {
        let name = blake3::hash(self.address.as_bytes()).to_hex();
        Some(self.cache.as_ref()?.join(format!("remote-{}.failed", &name[..16])))
    }

    fn paused(&self) -> Option<Why> {
        if self.insists {
            return None;
        }
        let file = self.pause_file()?;
        let age = fs::metadata(&file).ok()?.modified().ok()?.elapsed().unwrap_or_default();
        let left = PAUSE.checked_sub(age)?;
        let why = fs::read_to_string(&file).unwrap_or_default();
        let left = setting(Duration::from_secs(left.as_secs().max(1)));
        Some(format!(
            "it failed {} ago ({}), and is tried again in {left}",
            setting(Duration::from_secs(age.as_secs().max(1))),
            why.trim()
        ))
    }

    /// Runs operations within the time limit. That the store is down is remembered for some minutes.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = std::result::Result<T, StoreError>>,
    ) -> std::result::Result<T, Why> {
        let limit = *self.settings.timeout;
        let why = match tokio::time::timeout(limit, work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(StoreError { words, down: false })) => return Err(words),
            Ok(Err(StoreError { words, down: true })) => words,
            Err(_) => format!("it did not answer within {}", setting(limit)),
        };
        if let Some(file) = self.pause_file()
            && let Some(directory) = file.parent()
            && private_file::create_directories(directory, false).is_ok()
        {
            // Without it the next command just tries again.
            let _ = private_file::replace_file(&file, why.as_bytes(), private_file::Reader::Us);
        }
        Err(why)
    }

    /// Returns the entry of these inputs; or the reason why there is none.
    pub(crate) async fn exact(&self, definition: &str, recipe: &Recipe) -> std::result::Result<Found, Why> {
        self.find(definition, recipe)
            .await?
            .ok_or_else(|| format!("it has no template {}", recipe.fingerprint().short()))
    }

    /// Returns the entry of these inputs, if the store has it; or the reason why it cannot be used.
    pub(crate) async fn find(
        &self,
        definition: &str,
        recipe: &Recipe,
    ) -> std::result::Result<Option<Found>, Why> {
        if let Some(why) = self.why_no_read() {
            return Err(why);
        }
        let fingerprint = recipe.fingerprint().to_string();
        let looked = self.within(async {
            let mut refused = None;
            for scope in &self.standing.scopes {
                match self.manifest(definition, scope, &fingerprint, recipe).await? {
                    Ok(Some(found)) => return Ok(Ok(Some(found))),
                    Ok(None) => {}
                    Err(why) => refused = Some(why),
                }
            }
            Ok(refused.map_or(Ok(None), Err))
        });
        looked.await?
    }

    /// Reads a manifest, and checks that it is the one that its key says. The inner error is the reason why it is
    /// refused.
    async fn manifest(
        &self,
        definition: &str,
        scope: &str,
        fingerprint: &str,
        fresh: &Recipe,
    ) -> std::result::Result<std::result::Result<Option<Found>, Why>, StoreError> {
        let key = format!("{}/manifest", entry::directory(&self.project, definition, scope, fingerprint));
        let Some(bytes) = self.store.get(&key, entry::MANIFEST).await? else {
            return Ok(Ok(None));
        };
        let entry = format!("entry {}", &fingerprint[..12]);
        let (manifest, signed_by) = match entry::open::<Manifest>(&bytes, &self.trusted) {
            Ok(opened) => opened,
            Err(refused) => return Ok(Err(format!("{entry} {refused}"))),
        };
        let is = (&*manifest.project, &*manifest.definition, &*manifest.scope, &*manifest.fingerprint);
        if is != (&self.project, definition, scope, fingerprint) {
            return Ok(Err(format!(
                "{entry} is that of another template ({} {} of {})",
                manifest.definition,
                manifest.fingerprint.get(..12).unwrap_or_default(),
                manifest.project
            )));
        }
        let Some(recipe) = manifest.recipe(fresh) else {
            return Ok(Err(format!("{entry} does not have the inputs that its fingerprint stands for")));
        };
        Ok(Ok(Some(Found { manifest, signed_by, recipe, added: Vec::new() })))
    }

    /// Returns the largest entry that an incremental build of these inputs can start from; or the reason why there is
    /// none.
    pub(crate) async fn base(
        &self,
        definition: &str,
        recipe: &Recipe,
        extend: Extend,
    ) -> std::result::Result<Found, Why> {
        if let Some(why) = self.why_no_read() {
            return Err(why);
        }
        let order = match extend {
            Extend::Never => return Err("`extend` is \"never\"".into()),
            Extend::Append => Append::Sorted,
            Extend::Always => Append::Any,
        };
        let (own, core) = (recipe.fingerprint().to_string(), recipe.core());
        let looked = self.within(async {
            let mut names: Vec<(usize, String, String)> = Vec::new();
            for scope in &self.standing.scopes {
                let directory = entry::heads(&self.project, definition, scope, &core);
                let Some(objects) = self.store.list(&directory, LISTED).await? else {
                    return Ok(Err(UNLISTED.into()));
                };
                for object in objects {
                    let name = object.key.rsplit('/').next().unwrap_or_default();
                    if let Some((count, fingerprint)) = name.split_once('-')
                        && let Ok(count) = count.parse::<usize>()
                        && fingerprint != own
                        && Fingerprint::from_str(fingerprint).is_ok()
                        && count <= recipe.migrations.len()
                    {
                        names.push((count, scope.clone(), fingerprint.to_owned()));
                    }
                }
            }
            names.sort_by_key(|(count, ..)| std::cmp::Reverse(*count));
            let mut refused = None;
            let candidates = match order {
                Append::Any => names.into_iter().take(TRIED).map(|(_, scope, of)| (scope, of)).collect(),
                Append::Sorted => {
                    let chains = chains(&recipe.migrations, recipe.order);
                    self.fitting(definition, recipe, &core, &chains, names, &mut refused).await?
                }
            };
            for (scope, fingerprint) in candidates.into_iter().take(TRIED) {
                match self.manifest(definition, &scope, &fingerprint, recipe).await? {
                    // The list of files decides, whatever the head says.
                    Ok(Some(found)) => match extension(&found.recipe, recipe, order) {
                        Ok(added) => return Ok(Ok(Found { added, ..found })),
                        Err(why) => refused = Some(format!("entry {}: {why}", &fingerprint[..12])),
                    },
                    Ok(None) => {}
                    Err(why) => refused = Some(why),
                }
            }
            Ok(Err(refused.unwrap_or_else(|| "it has no base either".into())))
        });
        looked.await?
    }

    /// Returns the entries whose heads show that the recipe only appends to them, the largest first.
    async fn fitting(
        &self,
        definition: &str,
        recipe: &Recipe,
        core: &str,
        chains: &Chains,
        names: Vec<(usize, String, String)>,
        refused: &mut Option<Why>,
    ) -> std::result::Result<Vec<(String, String)>, StoreError> {
        let names: Vec<_> = names.into_iter().take(READ).collect();
        let keys: Vec<String> = names
            .iter()
            .map(|(count, scope, fingerprint)| {
                let directory = entry::heads(&self.project, definition, scope, core);
                format!("{directory}/{}", entry::head_name(*count, fingerprint))
            })
            .collect();
        let heads = join_all(keys.iter().map(|key| self.store.get(key, entry::HEAD))).await;
        let mut fitting = Vec::new();
        for (bytes, (count, scope, fingerprint)) in heads.into_iter().zip(names) {
            let Some(bytes) = bytes? else {
                continue;
            };
            match entry::open::<Head>(&bytes, &self.trusted) {
                Ok((head, _)) => {
                    let is = (&*head.project, &*head.definition, &*head.fingerprint, &*head.core);
                    if is == (&self.project, definition, &fingerprint, core)
                        && head.is_prefix_of(recipe, chains)
                    {
                        fitting.push((count, head.provisional, scope, fingerprint));
                    }
                }
                Err(why) => *refused = Some(format!("head {} {why}", &fingerprint[..12])),
            }
        }
        // Of equal ones those that were built in full.
        fitting.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(fitting.into_iter().map(|(_, _, scope, fingerprint)| (scope, fingerprint)).collect())
    }

    /// Returns the entry of a core whose fingerprint begins with these digits, if the store has one; or the reason why
    /// it cannot be used.
    pub(crate) async fn by_digits(
        &self,
        definition: &str,
        recipe: &Recipe,
        digits: &str,
    ) -> std::result::Result<Option<Found>, Why> {
        if let Some(why) = self.why_no_read() {
            return Err(why);
        }
        let core = recipe.core();
        let looked = self.within(async {
            for scope in &self.standing.scopes {
                let directory = entry::heads(&self.project, definition, scope, &core);
                let Some(objects) = self.store.list(&directory, LISTED).await? else {
                    return Ok(Err(UNLISTED.into()));
                };
                for object in objects {
                    let fingerprint = object.key.rsplit(['/', '-']).next().unwrap_or_default();
                    if fingerprint.starts_with(digits) && Fingerprint::from_str(fingerprint).is_ok() {
                        match self.manifest(definition, scope, fingerprint, recipe).await? {
                            Ok(Some(found)) => return Ok(Ok(Some(found))),
                            Ok(None) => {}
                            Err(why) => return Ok(Err(why)),
                        }
                    }
                }
            }
            Ok(Ok(None))
        });
        looked.await?
    }

    /// Says in the store that this command is about to run a full build of a template, if it may write and no other
    /// command says so; else returns how long the other one may need. Only an optimisation: two commands may build.
    pub(crate) async fn announce(
        &self,
        definition: &str,
        fingerprint: &str,
        expected: Option<Duration>,
    ) -> Announced {
        let written = self.why_no_write().is_none().then(|| self.standing.write.as_deref().ok()).flatten();
        let limit = expected.map_or(UNKNOWN, |time| time.mul_f64(1.5)).clamp(SHORTEST, LONGEST);
        let latest = now_s() + limit.as_secs();
        let ours = |key: String| {
            self.announced().insert(key, latest);
            Announced::Ours
        };
        let looked = self.within(async {
            for scope in &self.standing.scopes {
                let key = entry::building(&self.project, definition, scope, fingerprint);
                let Some(bytes) = self.store.get(&key, entry::HEAD).await? else {
                    continue;
                };
                let left = left(&bytes, now_s());
                if !left.is_zero() {
                    return Ok(Announced::Other(left));
                }
            }
            let Some(scope) = written else {
                return Ok(Announced::Nobody);
            };
            let key = entry::building(&self.project, definition, scope, fingerprint);
            if self.store.put(&key, announcement(now_s(), latest), true).await? {
                return Ok(ours(key));
            }
            let bytes = self.store.get(&key, entry::HEAD).await?;
            let left = left(&bytes.unwrap_or_default(), now_s());
            if left.is_zero() {
                // That of a command that was killed.
                self.store.put(&key, announcement(now_s(), latest), false).await?;
                return Ok(ours(key));
            }
            Ok(Announced::Other(left))
        });
        match self.why_no_read() {
            Some(_) => Announced::Nobody,
            None => looked.await.unwrap_or(Announced::Nobody),
        }
    }

    /// Returns whether another command still says that it builds a template.
    pub(crate) async fn is_announced(&self, definition: &str, fingerprint: &str) -> bool {
        let looked = self.within(async {
            for scope in &self.standing.scopes {
                let key = entry::building(&self.project, definition, scope, fingerprint);
                let bytes = self.store.get(&key, entry::HEAD).await?;
                if bytes.is_some_and(|bytes| !left(&bytes, now_s()).is_zero()) {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        looked.await.unwrap_or(false)
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_announcement(&self, definition: &str, fingerprint: &str) -> Option<String> {
        let scope = self.standing.write.as_ref().ok()?;
        Some(entry::building(&self.project, definition, scope, fingerprint))
    }

    /// Renews the announcement of this command, if there is one, since the build goes on.
    pub(crate) async fn renew(&self, definition: &str, fingerprint: &str) {
        let Some(key) = self.own_announcement(definition, fingerprint) else {
            return;
        };
        let latest = self.announced().get(&key).copied();
        if let Some(latest) = latest {
            // Otherwise it expires, and others build, too.
            let _ = self.within(self.store.put(&key, announcement(now_s(), latest), false)).await;
        }
    }

    /// Takes the announcement of this command back, if there is one, since the build ended or failed.
    pub(crate) async fn withdraw(&self, definition: &str, fingerprint: &str) {
        if let Some(key) = self.own_announcement(definition, fingerprint)
            && self.announced().remove(&key).is_some()
        {
            // Otherwise it expires.
            let _ = self.within(self.store.delete(&key)).await;
        }
    }

    /// Downloads the dumps of an entry, verifies and unpacks them.
    pub(crate) async fn fetch(&self, found: &Found) -> std::result::Result<(Scratch, Vec<PathBuf>), Why> {
        let manifest = &found.manifest;
        let scratch = self.scratch()?;
        let directory =
            entry::directory(&manifest.project, &manifest.definition, &manifest.scope, &manifest.fingerprint);
        let mut files = Vec::new();
        for (index, dump) in manifest.databases.iter().enumerate() {
            let key = format!("{directory}/{}.dump.zst", dump.blake3);
            let blob = self.within(self.store.get(&key, dump.bytes)).await?;
            let entry = format!("entry {}", &manifest.fingerprint[..12]);
            let blob = blob.ok_or_else(|| format!("a dump of {entry} is missing"))?;
            if blob.len() as u64 != dump.bytes || blake3::hash(&blob).to_hex().as_str() != dump.blake3 {
                return Err(format!("a dump of {entry} is damaged"));
            }
            let file = scratch.path.join(format!("{index}.dump"));
            let (to, most) = (file.clone(), dump.raw_bytes);
            let unpacked = tokio::task::spawn_blocking(move || unpack(&blob, most, &to)).await;
            match unpacked {
                Ok(Ok(())) => files.push(file),
                Ok(Err(why)) => return Err(format!("a dump of {entry} cannot be unpacked ({why})")),
                Err(why) => return Err(why.to_string()),
            }
        }
        Ok((scratch, files))
    }

    /// Creates a private directory that is removed at the end.
    pub(crate) fn scratch(&self) -> std::result::Result<Scratch, Why> {
        scratch(self.cache.as_deref()).map_err(|e| e.to_string())
    }

    /// Returns the scope to write to and the origin, for a manifest.
    pub(crate) fn write_scope(&self) -> std::result::Result<(&str, entry::Origin), Why> {
        match self.why_no_write() {
            Some(why) => Err(why),
            None => {
                let scope = self.standing.write.as_deref().unwrap_or(super::standing::TRUSTED);
                Ok((scope, self.standing.origin.clone()))
            }
        }
    }

    /// Uploads dumps, then the manifest, then the head, so that no reader finds a part of an entry. Returns the number
    /// of bytes; `None` if there is such an entry already.
    pub(crate) async fn upload(
        &self,
        manifest: Manifest,
        recipe: &Recipe,
        files: Vec<PathBuf>,
    ) -> std::result::Result<Option<u64>, Why> {
        let mut manifest = manifest;
        let key = match &self.signing {
            Ok(key) => key.as_ref(),
            Err(why) => return Err(why.clone()),
        };
        let (project, definition, scope) =
            (manifest.project.clone(), manifest.definition.clone(), manifest.scope.clone());
        let directory = entry::directory(&project, &definition, &scope, &manifest.fingerprint);
        let place = format!("{directory}/manifest");
        let there = self.within(self.store.get(&place, entry::MANIFEST)).await?;
        let there = there.and_then(|bytes| entry::open::<Manifest>(&bytes, &self.trusted).ok());
        // A full build replaces what was built incrementally; a damaged entry is replaced in any case.
        if let Some((old, _)) = &there
            && (!old.provisional || manifest.provisional)
            && self.within(self.has_dumps(&directory, old)).await?
        {
            let head = Head::new(&project, &definition, recipe, old.provisional);
            self.within(self.complete(&scope, head, key)).await?;
            return Ok(None);
        }
        let mut blobs = Vec::new();
        for (dump, file) in manifest.databases.iter_mut().zip(files) {
            let packed = tokio::task::spawn_blocking(move || pack(&file)).await;
            let (blob, raw_bytes) =
                packed.map_err(|e| e.to_string())?.map_err(|e| format!("cannot compress a dump: {e}"))?;
            *dump = Dump {
                blake3: blake3::hash(&blob).to_hex().to_string(),
                bytes: blob.len() as u64,
                raw_bytes,
                ..dump.clone()
            };
            blobs.push((format!("{directory}/{}.dump.zst", dump.blake3), blob));
        }
        let head = Head::new(&project, &definition, recipe, manifest.provisional);
        let head_place = head_place(&scope, &head);
        let text = entry::seal(&manifest, key).map_err(|e| e.to_string())?;
        let head = entry::seal(&head, key).map_err(|e| e.to_string())?;
        let replace = there.is_some();
        self.within(async {
            for (key, blob) in blobs {
                self.store.put(&key, blob, false).await?;
            }
            if !self.store.put(&place, text.clone(), !replace).await? {
                // Another runner was faster, or what is there is damaged; or the answer to the first attempt was lost.
                let bytes = self.store.get(&place, entry::MANIFEST).await?;
                let ours = bytes.as_ref() == Some(&text);
                let other = bytes.and_then(|bytes| entry::open::<Manifest>(&bytes, &self.trusted).ok());
                if let Some((other, _)) = other.filter(|_| !ours) {
                    let head = Head::new(&project, &definition, recipe, other.provisional);
                    self.complete(&scope, head, key).await?;
                    return Ok(None);
                }
                if !ours {
                    self.store.put(&place, text, false).await?;
                }
            }
            self.store.put(&head_place, head, false).await?;
            Ok(Some(manifest.bytes()))
        })
        .await
    }

    /// Whether the store has the dumps that a manifest names: one may have been lost. If it cannot list them, it
    /// counts as having them.
    async fn has_dumps(&self, directory: &str, manifest: &Manifest) -> StoreResult<bool> {
        let Some(objects) = self.store.list(directory, LISTED).await? else {
            return Ok(true);
        };
        let has = |dump: &Dump| {
            let key = format!("{directory}/{}.dump.zst", dump.blake3);
            objects.iter().any(|object| object.key == key && object.bytes == dump.bytes)
        };
        Ok(manifest.databases.iter().all(has))
    }

    /// Writes the head of an entry, if it has none: the command that pushed it may have been killed before.
    async fn complete(&self, scope: &str, head: Head, key: Option<&SecretKey>) -> StoreResult<()> {
        let text = entry::seal(&head, key).map_err(|e| StoreError::refused(e.to_string()))?;
        self.store.put(&head_place(scope, &head), text, true).await?;
        Ok(())
    }

    /// Records that an entry was used, for `remote prune`. A command that may not write does not.
    pub(crate) async fn note_use(&self, found: &Found) {
        if self.why_no_write().is_some() {
            return;
        }
        let manifest = &found.manifest;
        let key = format!(
            "{}/{}/{}/{}/used/{}",
            entry::TOP,
            manifest.project,
            manifest.definition,
            manifest.scope,
            manifest.fingerprint
        );
        // Otherwise it is only pruned earlier.
        let _ = self.within(self.store.put(&key, b"1".to_vec(), false)).await;
    }
}

fn head_place(scope: &str, head: &Head) -> String {
    let directory = entry::heads(&head.project, &head.definition, scope, &head.core);
    format!("{directory}/{}", entry::head_name(head.migrations, &head.fingerprint))
}

fn unpack(blob: &[u8], most: u64, to: &Path) -> std::io::Result<()> {
    let mut file = private_file::NewFile::beside(to)?;
    let decoder = zstd::Decoder::new(blob)?;
    // One more byte than there may be shows that there is more.
    let copied = std::io::copy(&mut decoder.take(most + 1), file.file())?;
    if copied != most {
        return Err(std::io::Error::other("its length is wrong"));
    }
    file.file().flush()?;
    file.keep()
}

/// Returns a compressed file, and its length before.
fn pack(file: &Path) -> std::io::Result<(Vec<u8>, u64)> {
    let mut from = fs::File::open(file)?;
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD)?;
    let raw = std::io::copy(&mut from, &mut encoder)?;
    Ok((encoder.finish()?, raw))
}

fn as_config(error: &Error, key: &str) -> Error {
    let new = Error::config(format!("`[remote] {key}`: {error}"));
    let new = error.details().iter().fold(new, Error::detail);
    error.hints().iter().fold(new, Error::hint)
}

/// Reads the signing key. The inner error is a reason to push nothing: readers do not need the key.
fn read_key(text: &str, root: &Path, env: &Environment) -> Result<std::result::Result<SecretKey, Why>> {
    let secret = match text.strip_prefix("env:") {
        Some(name) => match env.non_empty(name) {
            Some(value) => value.to_owned(),
            None => return Ok(Err(format!("the variable `{name}` of `[remote] signing_key` is not set"))),
        },
        None => match fs::read_to_string(root.join(text)) {
            Ok(secret) => secret,
            Err(e) => return Ok(Err(format!("the file of `[remote] signing_key` cannot be read ({e})"))),
        },
    };
    SecretKey::parse(&secret).map(Ok).map_err(|e| as_config(&e, "signing_key"))
}

/// Opens a store. The inner error is the reason why it must not be used.
fn open_store(
    url: &str,
    owned: bool,
    settings: &RemoteSettings,
    env: &Environment,
) -> Result<std::result::Result<Arc<dyn Store>, Why>> {
    let Some(place) = Place::read(url)? else {
        let path = url.strip_prefix("file://").unwrap_or_default();
        let path = percent_decode_str(path).decode_utf8_lossy().into_owned();
        if !path.starts_with('/') {
            return Err(Error::config(format!("`[remote] url` is `{url}`, without an absolute path"))
                .hint("write three slashes: `file:///mnt/templates`"));
        }
        return Ok(Ok(Arc::new(Folder::new(PathBuf::from(path), owned))));
    };
    open_objects(place, settings, env)
}

#[cfg(feature = "remote")]
fn open_objects(
    place: Place,
    settings: &RemoteSettings,
    env: &Environment,
) -> Result<std::result::Result<Arc<dyn Store>, Why>> {
    let opened = super::object::Objects::new(place, *settings.timeout, env);
    Ok(opened.map(|store| Arc::new(store) as Arc<dyn Store>))
}

#[cfg(not(feature = "remote"))]
fn open_objects(
    place: Place,
    _: &RemoteSettings,
    _: &Environment,
) -> Result<std::result::Result<Arc<dyn Store>, Why>> {
    Err(without_feature(&place))
}

/// The program was built for directories only.
#[cfg(any(test, not(feature = "remote")))]
fn without_feature(place: &Place) -> Error {
    Error::config(format!(
        "`[remote] url` leads to `{}`, and this pgstencil was built without the feature `remote`",
        place.bucket
    ))
    .hint("build it with the feature: `cargo install --path . --features remote`")
    .hint("a directory needs no feature: `file:///DIRECTORY`")
}

/// Returns the current time in seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

mod nowhere {
    use futures_util::future::{BoxFuture, FutureExt as _};

    use super::Nowhere;
    use crate::remote::store::{Object, Store, StoreError, StoreResult};

    fn no<T: Send + 'static>() -> BoxFuture<'static, StoreResult<T>> {
        async { Err(StoreError::refused("there is no store".into())) }.boxed()
    }

    impl Store for Nowhere {
        fn get<'a>(&'a self, _: &'a str, _: u64) -> BoxFuture<'a, StoreResult<Option<Vec<u8>>>> {
            no()
        }

        fn put<'a>(&'a self, _: &'a str, _: Vec<u8>, _: bool) -> BoxFuture<'a, StoreResult<bool>> {
            no()
        }

        fn list<'a>(&'a self, _: &'a str, _: usize) -> BoxFuture<'a, StoreResult<Option<Vec<Object>>>> {
            no()
        }

        fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, StoreResult<()>> {
            no()
        }

        fn stranger(&self) -> Option<String> {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_holds_while_it_is_renewed() {
        let text = announcement(1000, 1600);
        assert_eq!(left(&text, 1000), Duration::from_secs(600));
        assert_eq!(left(&text, 1089), Duration::from_secs(511));
        // The command was killed.
        assert_eq!(left(&text, 1090), Duration::ZERO);
        // It builds for longer than others wait.
        assert_eq!(left(&announcement(1700, 1600), 1701), Duration::ZERO);
        assert_eq!(left(&announcement(0, u64::MAX), 1), LONGEST);
        assert_eq!(left(b"nonsense", 1), Duration::ZERO);
        assert!(RENEWED * 3 < HOLDS);
    }

    #[test]
    fn without_the_feature_the_error_names_it() {
        let place = Place::read("s3://ci/x").unwrap().unwrap();
        let error = without_feature(&place);
        assert_eq!(error.kind(), crate::error::Kind::Config);
        assert!(error.to_string().contains("without the feature `remote`"), "{error}");
    }
}
