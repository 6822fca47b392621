//! The store of a project as a command uses it: with its URL, keys and rights, its time-out, and the pause after a
//! failure.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use percent_encoding::percent_decode_str;

use super::folder::Folder;
use super::place::Place;
use super::shelf::Shelf;
use super::standing::Standing;
use super::store::{Store, StoreError};
use super::tools::{Scratch, scratch};
use crate::cache_file::key::{PublicKey, SecretKey};
use crate::config::{Config, Push, RemoteSettings};
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::private_file;
use crate::quantity::setting;

/// Time for which a store is left alone after a failure, so that a dead one does not cost each miss its time-out.
const PAUSE: Duration = Duration::from_secs(5 * 60);
/// Most objects of a listing.
pub(super) const LISTED: usize = 1000;
/// Reason why nothing is found by a list.
pub(super) const UNLISTED: &str =
    "it cannot list what it has, so only templates of exactly these inputs are found";

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
    pub(super) signing: std::result::Result<Option<SecretKey>, String>,
    /// Directory for files that may be lost.
    cache: Option<PathBuf>,
    /// Whether earlier failures do not count: the user asked for the store itself.
    insists: bool,
    /// Builds that this command announced: the key, and until when others may wait, in seconds since 1970.
    pub(super) announced: Mutex<BTreeMap<String, u64>>,
}

/// Reason why there is nothing.
pub(crate) type Why = String;

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

    /// Creates a private directory that is removed at the end.
    pub(crate) fn scratch(&self) -> std::result::Result<Scratch, Why> {
        scratch(self.cache.as_deref()).map_err(|e| e.to_string())
    }
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
    fn without_the_feature_the_error_names_it() {
        let place = Place::read("s3://ci/x").unwrap().unwrap();
        let error = without_feature(&place);
        assert_eq!(error.kind(), crate::error::Kind::Config);
        assert!(error.to_string().contains("without the feature `remote`"), "{error}");
    }
}
