//! The cache file of the private server: what speaks against saving, and the key under which a CI system keeps it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::locate::private_endpoint;
use super::{Deadline, Holdings, Variable, explain_files, holdings};
use crate::cache_file::key::{PublicKey, SecretKey};
use crate::cache_file::{FORMAT, Platform};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fingerprint::{FileCache, ServerTraits};
use crate::names::{Fingerprint, words};
use crate::private_server::{PrivateServer, Restored, Running, Saved, Saving};
use crate::registry;

/// Time that sessions may take that are about to end: those of clients end a moment after them, and a background process
/// keeps its own for two seconds.
const GRACE: Duration = Duration::from_secs(5);
/// The first major version with locales that no library provides.
const BUILTIN: u32 = 17;

/// Result of [`save_cache`].
#[derive(Clone, Debug)]
pub(crate) struct SavedCache {
    /// The file.
    pub(crate) saved: Saved,
    /// Databases in it that pgstencil did not create.
    pub(crate) foreign: Vec<String>,
}

/// Saves the private server that commands use. A server that was running is running afterwards.
///
/// # Errors
/// `Failed` if there is no template, or while a clone is leased, a command works on the server or a client is
/// connected; with each of them. Else as [`PrivateServer::save`].
pub(crate) async fn save_cache(
    server: &PrivateServer,
    file: &Path,
    key: Option<&SecretKey>,
    patience: Duration,
    deadline: &Deadline,
) -> Result<SavedCache> {
    let nothing = |why: &str| {
        Error::failed(format!("nothing was saved, since {why}"))
            .hint("build a template first: `pgstencil ensure`")
    };
    let Some(major) = server.current().await? else {
        return Err(nothing("there is no private server yet"));
    };
    let running = server.open(major, patience).await?;
    let looked = look(server, &running, major, deadline).await;
    let looked = looked.and_then(|found| match found.ready.is_empty() {
        true => Err(nothing("there is no template that is ready")),
        false => Ok(found),
    });
    let found = match looked {
        Ok(found) => found,
        Err(error) => {
            if running.started {
                // The error is what matters.
                let _ = server.stop_one(major, patience).await;
            }
            return Err(error);
        }
    };
    let Holdings { prunings, ready, locale, foreign, .. } = found;
    let saving = Saving {
        major,
        restart: !running.started,
        prunings: &prunings,
        locale,
        registry: registry::NEWEST,
        templates: ready,
        key,
        file,
    };
    Ok(SavedCache { saved: server.save(saving, patience).await?, foreign })
}

/// Makes the private server from a file, as [`PrivateServer::restore`] does.
///
/// # Errors
/// As [`PrivateServer::restore`].
pub(crate) async fn restore_cache(
    server: &PrivateServer,
    file: &Path,
    trusted: &[PublicKey],
    patience: Duration,
) -> Result<Restored> {
    server.restore(file, trusted, registry::NEWEST, patience).await
}

async fn look(
    server: &PrivateServer,
    running: &Running,
    major: u32,
    deadline: &Deadline,
) -> Result<Holdings> {
    let endpoint = private_endpoint(running.url.clone(), running.socket_dir.clone())?.in_background();
    let begun = Instant::now();
    let (mut obstacles, mut hints) = (Vec::new(), Vec::new());
    let clients = loop {
        let occupied = server.occupied().await?;
        let clients = occupied.into_iter().filter(|s| s.major == major).flat_map(|s| s.clients);
        let clients: Vec<String> = clients.map(|client| client.to_string()).collect();
        if clients.is_empty() || begun.elapsed() > GRACE {
            break clients;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let found = holdings(&endpoint, deadline).await?;
    if !found.under_way.is_empty() || !clients.is_empty() {
        hints.push("wait until the commands end, and end other sessions".to_owned());
    }
    obstacles.extend(found.under_way.iter().cloned());
    obstacles.extend(clients.iter().map(|client| format!("connected: {client}")));
    obstacles
        .extend(found.leased.iter().map(|held| format!("clone `{}` is in use: {}", held.name, held.words)));
    if !found.leased.is_empty() {
        let names = words(found.leased.iter().map(|held| held.name.as_str()));
        hints.push(format!("release clones: `pgstencil release {names}`"));
    }
    obstacles.extend(found.unread.iter().map(|words| format!("unknown contents: {words}")));
    if obstacles.is_empty() {
        return Ok(found);
    }
    let error = Error::failed("nothing was saved, since something is in use");
    let error = obstacles.into_iter().fold(error, Error::detail);
    Err(hints.into_iter().fold(error, Error::hint))
}

/// The key of a cache file in a CI system's cache.
#[derive(Clone, Debug)]
pub(crate) struct CacheKey {
    /// What files must share to be of use.
    pub(crate) prefix: String,
    /// Hash of everything that decides what the builds yield.
    pub(crate) fingerprint: Fingerprint,
    /// The definitions, with their fingerprints.
    pub(crate) definitions: Vec<(String, Fingerprint)>,
}

/// Returns the key for the current files of one definition, or of all. Starts no server: that would make an empty one,
/// and a file is only restored where there is none.
///
/// # Errors
/// As [`explain_files`]; `Config` for a definition that does not exist.
pub(crate) async fn cache_key(
    config: Config,
    definition: Option<&str>,
    platform: &Platform,
    variable: &Variable,
) -> Result<CacheKey> {
    let prefix = platform.prefix(&folded(&config.project));
    key_of(config, definition, expected_traits(platform.major), prefix, variable).await
}

/// Returns the key for a file of dumps: they fit any machine whose server has the same major version.
///
/// # Errors
/// As [`cache_key`].
pub(super) async fn dumps_key(
    config: Config,
    definition: Option<&str>,
    traits: ServerTraits,
    variable: &Variable,
) -> Result<CacheKey> {
    let prefix = format!("pgstencil{FORMAT}-dumps-pg{}-{}-", traits.major, folded(&config.project));
    key_of(config, definition, traits, prefix, variable).await
}

async fn key_of(
    config: Config,
    definition: Option<&str>,
    traits: ServerTraits,
    prefix: String,
    variable: &Variable,
) -> Result<CacheKey> {
    let chosen = match definition {
        Some(name) => vec![config.definition(Some(name))?.clone()],
        None => config.definitions.clone(),
    };
    let (config, variable) = (Arc::new(config), Arc::clone(variable));
    let mut definitions = Vec::new();
    for definition in chosen {
        let (config, variable) = (Arc::clone(&config), Arc::clone(&variable));
        let name = definition.name.clone();
        let read = move || explain_files(&config, &definition, &variable, &FileCache::off());
        let explained = tokio::task::spawn_blocking(read).await;
        let explained = explained.map_err(|e| Error::unjoined("reading the inputs", e))??;
        definitions.push((name, explained.inputs.with_server(traits.clone()).fingerprint()));
    }
    let fingerprint = match definitions.as_slice() {
        [(_, only)] => *only,
        all => {
            let mut hasher = blake3::Hasher::new();
            for (name, fingerprint) in all {
                hasher.update(format!("{name}\0{fingerprint}\n").as_bytes());
            }
            Fingerprint::from_bytes(*hasher.finalize().as_bytes())
        }
    };
    Ok(CacheKey { prefix, fingerprint, definitions })
}

/// Returns the traits that a new private server has where the system knows the usual locale. If it does not, the
/// fingerprints here differ from those of the templates, and are still those of the same files.
fn expected_traits(major: u32) -> ServerTraits {
    let locale = "C.UTF-8".to_owned();
    let is_builtin = major >= BUILTIN;
    ServerTraits {
        major,
        encoding: "UTF8".to_owned(),
        provider: if is_builtin { "builtin" } else { "libc" }.to_owned(),
        collate: locale.clone(),
        ctype: locale.clone(),
        locale: is_builtin.then_some(locale),
    }
}

/// Returns a project's name as a part of a key; some CI systems accept few characters.
fn folded(project: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if project.chars().all(plain) {
        return project.to_owned();
    }
    let text: String = project.chars().map(|c| if plain(c) { c } else { '-' }).collect();
    format!("{text}-{}", &blake3::hash(project.as_bytes()).to_hex()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_plain_characters_and_different_projects_have_different_keys() {
        assert_eq!(folded("shop-2.web_a"), "shop-2.web_a");
        let (one, other) = (folded("a, b"), folded("a; b"));
        assert_ne!(one, other);
        assert!(one.starts_with("a--b-") && !one.contains(','));
    }
}
