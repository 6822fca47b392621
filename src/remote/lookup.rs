//! Entries that are looked up: the one of some inputs, the nearest base, and their dumps.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use futures_util::future::join_all;

use super::client::{LISTED, Remote, UNLISTED, Why};
use super::entry::{self, Chains, Head, Manifest, chains};
use super::store::StoreError;
use super::tools::Scratch;
use crate::cache_file::key::PublicKey;
use crate::config::Extend;
use crate::fingerprint::{Append, Recipe, RelPath, extension};
use crate::names::Fingerprint;
use crate::private_file;

/// Most heads that are read.
const READ: usize = 32;

/// Most manifests that are read where heads cannot decide.
const TRIED: usize = 4;

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

impl Remote {
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
        let key = entry::manifest_key(&self.project, definition, scope, fingerprint);
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

    /// Downloads the dumps of an entry, verifies and unpacks them.
    pub(crate) async fn fetch(&self, found: &Found) -> std::result::Result<(Scratch, Vec<PathBuf>), Why> {
        let manifest = &found.manifest;
        let scratch = self.scratch()?;
        let directory =
            entry::directory(&manifest.project, &manifest.definition, &manifest.scope, &manifest.fingerprint);
        let mut files = Vec::new();
        for (index, dump) in manifest.databases.iter().enumerate() {
            let key = format!("{directory}/{}", dump.name());
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
