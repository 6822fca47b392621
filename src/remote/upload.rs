//! The way of a template into a store.

use std::fs;
use std::path::{Path, PathBuf};

use super::client::{LISTED, Remote, Why};
use super::entry::{self, Dump, Head, Manifest};
use super::lookup::Found;
use super::standing::TRUSTED;
use super::store::{StoreError, StoreResult};
use crate::cache_file::key::SecretKey;
use crate::fingerprint::Recipe;

/// Level of the compression: higher ones gain little.
const ZSTD: i32 = 3;

impl Remote {
    /// Returns the scope to write to and the origin, for a manifest.
    pub(crate) fn write_scope(&self) -> std::result::Result<(&str, entry::Origin), Why> {
        match self.why_no_write() {
            Some(why) => Err(why),
            None => {
                let scope = self.standing.write.as_deref().unwrap_or(TRUSTED);
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
        let place = entry::manifest_key(&project, &definition, &scope, &manifest.fingerprint);
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
            blobs.push((format!("{directory}/{}", dump.name()), blob));
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
            let key = format!("{directory}/{}", dump.name());
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
        let Manifest { project, definition, scope, fingerprint, .. } = &found.manifest;
        let key = entry::used(project, definition, scope, fingerprint);
        // Otherwise it is only pruned earlier.
        let _ = self.within(self.store.put(&key, b"1".to_vec(), false)).await;
    }
}

fn head_place(scope: &str, head: &Head) -> String {
    let directory = entry::heads(&head.project, &head.definition, scope, &head.core);
    format!("{directory}/{}", entry::head_name(head.migrations, &head.fingerprint))
}

/// Returns a compressed file, and its length before.
fn pack(file: &Path) -> std::io::Result<(Vec<u8>, u64)> {
    let mut from = fs::File::open(file)?;
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD)?;
    let raw = std::io::copy(&mut from, &mut encoder)?;
    Ok((encoder.finish()?, raw))
}
