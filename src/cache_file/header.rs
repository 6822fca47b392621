//! The beginning of a cache file, and the checks before anything is unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::key::{PublicKey, Purpose, SecretKey};
use super::{Checked, FORMAT, Manifest, Platform, Reason, Unusable};

const MAGIC: &str = "pgstencil-cache ";
/// Upper limits of the lengths of the lines.
const FIRST_LINE: u64 = 256;
const MANIFEST: u64 = 16 << 20;
const SIGNATURE: u64 = 1024;

/// Writes the lines before the payload.
///
/// # Errors
/// Errors of the system.
pub(super) fn write(manifest: &Manifest, key: Option<&SecretKey>, to: &mut impl Write) -> io::Result<()> {
    let text = serde_json::to_vec(manifest)?;
    writeln!(to, "{MAGIC}{FORMAT} {}", blake3::hash(&text).to_hex())?;
    to.write_all(&text)?;
    match key {
        Some(key) => writeln!(to, "\nsigned {} {}", key.public(), key.sign(Purpose::CacheFile, &text)),
        None => writeln!(to, "\nunsigned"),
    }
}

/// A cache file whose header is as it was written. Nothing of its payload is known yet.
pub(crate) struct CacheFile {
    file: File,
    /// The manifest.
    pub(crate) manifest: Manifest,
    /// The key whose signature it has.
    signed_by: Option<PublicKey>,
    /// Position of the payload.
    start: u64,
}

impl CacheFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The reason why it cannot be used.
    pub(crate) fn open(path: &Path) -> Checked<Self> {
        let file = File::open(path).map_err(|e| unreadable(&e))?;
        let about = file.metadata().map_err(|e| unreadable(&e))?;
        if !about.is_file() {
            return Err(Unusable::new(Reason::Unreadable, "it is not a regular file"));
        }
        let mut reader = BufReader::new(file);
        let first = line(&mut reader, FIRST_LINE)?;
        let rest = first
            .strip_prefix(MAGIC.as_bytes())
            .ok_or_else(|| Unusable::new(Reason::Foreign, "it was not written by `pgstencil cache save`"))?;
        let rest = std::str::from_utf8(rest).map_err(|_| Unusable::damaged("first line"))?;
        let (format, hash) = rest.split_once(' ').unwrap_or((rest, ""));
        let format: u32 = format.parse().map_err(|_| Unusable::damaged("first line"))?;
        if format > FORMAT {
            return Err(Unusable::new(
                Reason::Newer,
                format!("a newer pgstencil wrote it (format {format}; this one reads {FORMAT})"),
            ));
        }
        let manifest = line(&mut reader, MANIFEST)?;
        if format != FORMAT || blake3::hash(&manifest).to_hex().as_str() != hash {
            return Err(Unusable::damaged("manifest"));
        }
        let signature = line(&mut reader, SIGNATURE)?;
        let signed_by = signer(&manifest, &signature)?;
        let manifest: Manifest =
            serde_json::from_slice(&manifest).map_err(|_| Unusable::damaged("manifest"))?;
        let start = reader.stream_position().map_err(|e| unreadable(&e))?;
        let length = about.len() - start;
        if length < manifest.payload.bytes {
            return Err(Unusable::truncated());
        }
        if length > manifest.payload.bytes {
            return Err(Unusable::damaged("length"));
        }
        Ok(CacheFile { file: reader.into_inner(), manifest, signed_by, start })
    }

    /// Requires a signature of one of these keys, if there are any.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn check_signature(&self, trusted: &[PublicKey]) -> Checked<()> {
        match &self.signed_by {
            _ if trusted.is_empty() => Ok(()),
            Some(key) if trusted.contains(key) => Ok(()),
            Some(key) => Err(Unusable::new(
                Reason::Untrusted,
                format!("it is signed with {key}, which is not a trusted key"),
            )),
            None => Err(Unusable::new(Reason::Unsigned, "it is not signed, and a trusted key is named")),
        }
    }

    /// Requires that the contents fit here.
    ///
    /// # Errors
    /// What differs.
    pub(crate) fn check_platform(&self, here: &Platform) -> Checked<()> {
        let Platform { os, arch, major, libraries } = &self.manifest.platform;
        if (os, arch) != (&here.os, &here.arch) {
            return Err(Unusable::new(
                Reason::Platform,
                format!("it is from {os} on {arch}, this is {} on {}", here.os, here.arch),
            ));
        }
        if *major != here.major {
            return Err(Unusable::new(
                Reason::Major,
                format!("it is from PostgreSQL {major}, this is PostgreSQL {}", here.major),
            ));
        }
        if *libraries != here.libraries {
            return Err(Unusable::new(
                Reason::Locale,
                format!(
                    "text may be ordered differently here: it was written with {libraries}, this is {}",
                    here.libraries
                ),
            ));
        }
        Ok(())
    }

    /// Reads the payload, and requires that it is what was written.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn check_payload(&mut self) -> Checked<()> {
        let mut hasher = blake3::Hasher::new();
        let mut payload = self.payload()?;
        let read = io::copy(&mut payload, &mut hasher).map_err(|e| unreadable(&e))?;
        if read < self.manifest.payload.bytes {
            return Err(Unusable::truncated());
        }
        self.compare(&hasher)
    }

    pub(super) fn compare(&self, hasher: &blake3::Hasher) -> Checked<()> {
        match hasher.finalize().to_hex().as_str() == self.manifest.payload.blake3 {
            true => Ok(()),
            false => Err(Unusable::damaged("checksum")),
        }
    }

    /// Returns the payload from its beginning.
    pub(super) fn payload(&self) -> Checked<io::Take<&File>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start)).map_err(|e| unreadable(&e))?;
        Ok(file.take(self.manifest.payload.bytes))
    }
}

/// Returns the key with which the manifest is signed. A signature must be right even if no key is required.
fn signer(manifest: &[u8], line: &[u8]) -> Checked<Option<PublicKey>> {
    let damaged = || Unusable::damaged("signature");
    let line = std::str::from_utf8(line).map_err(|_| damaged())?;
    if line == "unsigned" {
        return Ok(None);
    }
    let (key, signature) =
        line.strip_prefix("signed ").and_then(|rest| rest.split_once(' ')).ok_or_else(damaged)?;
    let key = PublicKey::parse(key).map_err(|_| damaged())?;
    match key.verifies(Purpose::CacheFile, manifest, signature) {
        true => Ok(Some(key)),
        false => Err(damaged()),
    }
}

/// Reads a line, without its end.
fn line(reader: &mut impl BufRead, most: u64) -> Checked<Vec<u8>> {
    let mut line = Vec::new();
    let read = reader.take(most).read_until(b'\n', &mut line).map_err(|e| unreadable(&e))?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        _ if (read as u64) < most => match line.starts_with(&MAGIC.as_bytes()[..line.len().min(MAGIC.len())])
        {
            // Of a file that is no cache file, it does not matter where it ends.
            false if most == FIRST_LINE => {
                Err(Unusable::new(Reason::Foreign, "it was not written by `pgstencil cache save`"))
            }
            _ => Err(Unusable::truncated()),
        },
        _ if most == FIRST_LINE => {
            Err(Unusable::new(Reason::Foreign, "it was not written by `pgstencil cache save`"))
        }
        _ => Err(Unusable::damaged("header")),
    }
}

pub(super) fn unreadable(error: &io::Error) -> Unusable {
    match error.kind() {
        ErrorKind::NotFound => Unusable::new(Reason::Missing, "there is no such file"),
        ErrorKind::UnexpectedEof => Unusable::truncated(),
        _ => Unusable::new(Reason::Unreadable, format!("it cannot be read ({error})")),
    }
}
