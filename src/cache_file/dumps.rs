//! A cache file of dumps, for servers that pgstencil did not start.
//!
//! The header is that of the other kind, with a first line of its own. The payload is what a remote store would have:
//! objects with keys, one after the other, compressed as a whole by zstd.

use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::header::{self, Form, Header, unreadable};
use super::key::{PublicKey, SecretKey};
use super::{Checked, Packed, Payload, Reason, Unusable};
use crate::private_file::{NewFile, remove_abandoned};

/// Level of zstd. The dumps are compressed already.
const LEVEL: i32 = 3;
/// Largest contents that are read into memory.
const MOST: u64 = 8 << 30;

/// Description of the contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DumpManifest {
    /// Version of pgstencil that wrote the file.
    pub(crate) pgstencil: String,
    /// Namespace of the templates.
    pub(crate) project: String,
    /// Major version of the server.
    pub(crate) major: u32,
    /// The templates.
    pub(crate) templates: Vec<Packed>,
    /// Keys and lengths of the objects.
    pub(crate) objects: Vec<(String, u64)>,
    /// The compressed objects.
    pub(crate) payload: Payload,
}

/// A file of dumps: every check of the file itself has passed.
#[derive(Debug)]
pub(crate) struct DumpFile {
    /// The manifest.
    pub(crate) manifest: DumpManifest,
    /// The objects, with their keys.
    pub(crate) objects: Vec<(String, Vec<u8>)>,
}

impl DumpManifest {
    /// Returns the total length of the objects.
    pub(crate) fn bytes(&self) -> u64 {
        self.objects.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

impl DumpFile {
    /// Reads a file, once its header, its signature, its project and its checksum are right. With `trusted`, it must
    /// be signed with one of these keys.
    ///
    /// # Errors
    /// The reason why it cannot be used.
    pub(crate) fn read(path: &Path, project: &str, trusted: &[PublicKey]) -> Checked<Self> {
        let header = Header::open(path, Form::Dumps)?;
        let manifest: DumpManifest =
            serde_json::from_slice(&header.manifest).map_err(|_| Unusable::damaged("manifest"))?;
        header.check_signature(trusted)?;
        header.check_length(&manifest.payload)?;
        if manifest.project != project {
            return Err(Unusable::new(
                Reason::Project,
                format!("it is of project `{}`, this is `{project}`", manifest.project),
            ));
        }
        if manifest.bytes() > MOST {
            return Err(Unusable::new(Reason::Layout, "its contents are too large"));
        }
        let mut hasher = blake3::Hasher::new();
        let read =
            io::copy(&mut header.payload(&manifest.payload)?, &mut hasher).map_err(|e| unreadable(&e))?;
        if read < manifest.payload.bytes {
            return Err(Unusable::truncated());
        }
        if hasher.finalize().to_hex().as_str() != manifest.payload.blake3 {
            return Err(Unusable::damaged("checksum"));
        }
        let mut decoder =
            zstd::Decoder::new(header.payload(&manifest.payload)?).map_err(|e| unreadable(&e))?;
        let mut objects = Vec::new();
        for (key, bytes) in &manifest.objects {
            let mut object = Vec::new();
            // No more is reserved than there is.
            let read = decoder.by_ref().take(*bytes).read_to_end(&mut object);
            if read.map_err(|_| Unusable::damaged("contents"))? as u64 != *bytes {
                return Err(Unusable::damaged("contents"));
            }
            objects.push((key.clone(), object));
        }
        Ok(DumpFile { manifest, objects })
    }

    /// Writes a file. An older one is replaced when the new one is complete. `manifest` is complete but for the
    /// objects and the payload. Returns the complete one, and the size of the file.
    ///
    /// # Errors
    /// Errors of the system.
    pub(crate) fn write(
        mut manifest: DumpManifest,
        objects: &[(String, Vec<u8>)],
        key: Option<&SecretKey>,
        path: &Path,
    ) -> io::Result<(DumpManifest, u64)> {
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        for (_, object) in objects {
            encoder.write_all(object)?;
        }
        let payload = encoder.finish()?;
        manifest.objects = objects.iter().map(|(key, object)| (key.clone(), object.len() as u64)).collect();
        manifest.payload =
            Payload { bytes: payload.len() as u64, blake3: blake3::hash(&payload).to_hex().to_string() };
        remove_abandoned(path);
        let mut new = NewFile::locked_beside(path)?;
        header::write(Form::Dumps, &manifest, key, new.file())?;
        new.file().write_all(&payload)?;
        let bytes = new.file().metadata()?.len();
        new.finish()?;
        Ok((manifest, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> DumpManifest {
        DumpManifest {
            pgstencil: "1".into(),
            project: "shop".into(),
            major: 16,
            templates: Vec::new(),
            objects: Vec::new(),
            payload: Payload::default(),
        }
    }

    #[test]
    fn only_what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let objects = vec![("v1/a".to_owned(), b"one".to_vec()), ("v1/b".to_owned(), vec![7; 5000])];
        let key = SecretKey::random().unwrap();
        DumpFile::write(manifest(), &objects, Some(&key), &path).unwrap();
        let read = |trusted: &[PublicKey]| DumpFile::read(&path, "shop", trusted);
        let file = read(&[key.public()]).unwrap();
        assert_eq!(file.objects, objects);
        let reason = |read: Checked<DumpFile>| read.unwrap_err().reason;
        assert_eq!(reason(DumpFile::read(&path, "other", &[])), Reason::Project);
        assert_eq!(reason(read(&[SecretKey::random().unwrap().public()])), Reason::Untrusted);
        assert_eq!(reason(super::super::CacheFile::open(&path).map(|_| unreachable!())), Reason::Form);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(reason(read(&[])), Reason::Truncated, "{length}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            std::fs::write(&path, &bent).unwrap();
            assert!(read(&[]).is_err(), "{at}");
        }
    }
}
