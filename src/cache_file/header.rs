//! The beginning of a cache file, and the checks before anything is unpacked.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::key::{PublicKey, Purpose, SecretKey};
use super::{Checked, FORMAT, Manifest, Payload, Platform, Reason, Unusable};
use crate::private_file::remove_abandoned;
use serde::Serialize;

/// Upper limits of the lengths of the lines.
const FIRST_LINE: u64 = 256;
const MANIFEST: u64 = 64 << 20;
const SIGNATURE: u64 = 1024;

/// The two kinds of cache files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The data of a private server.
    Cluster,
    /// Dumps of templates.
    Dumps,
}

impl Form {
    fn magic(self) -> &'static str {
        match self {
            Form::Cluster => "pgstencil-cache ",
            Form::Dumps => "pgstencil-dumps ",
        }
    }

    fn other(self) -> Form {
        match self {
            Form::Cluster => Form::Dumps,
            Form::Dumps => Form::Cluster,
        }
    }

    fn purpose(self) -> Purpose {
        match self {
            Form::Cluster => Purpose::CacheFile,
            Form::Dumps => Purpose::CacheDumps,
        }
    }

    fn saved_by(self) -> &'static str {
        match self {
            Form::Cluster => "pgstencil cache save",
            Form::Dumps => "pgstencil cache save --through-server",
        }
    }

    fn restored_by(self) -> &'static str {
        match self {
            Form::Cluster => "`pgstencil cache restore`, without --through-server,",
            Form::Dumps => "`pgstencil cache restore --through-server`",
        }
    }

    fn foreign(self) -> Unusable {
        Unusable::new(Reason::Foreign, format!("it was not written by `{}`", self.saved_by()))
    }
}

/// Writes the lines before the payload.
///
/// # Errors
/// Errors of the system.
pub(super) fn write(
    form: Form,
    manifest: &impl Serialize,
    key: Option<&SecretKey>,
    to: &mut impl Write,
) -> io::Result<()> {
    let text = serde_json::to_vec(manifest)?;
    writeln!(to, "{}{FORMAT} {}", form.magic(), blake3::hash(&text).to_hex())?;
    to.write_all(&text)?;
    match key {
        Some(key) => writeln!(to, "\nsigned {} {}", key.public(), key.sign(form.purpose(), &text)),
        None => writeln!(to, "\nunsigned"),
    }
}

/// The lines before the payload, as they were written. Nothing of the payload is known yet.
pub(super) struct Header {
    pub(super) file: File,
    /// Text of the manifest.
    pub(super) manifest: Vec<u8>,
    /// The key whose signature it has.
    signed_by: Option<PublicKey>,
    /// Position of the payload.
    start: u64,
    /// Length of what follows.
    length: u64,
}

impl Header {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The reason why it cannot be used.
    pub(super) fn open(path: &Path, form: Form) -> Checked<Self> {
        // What a killed save left here.
        remove_abandoned(path);
        let file = File::open(path).map_err(|e| unreadable(&e))?;
        let about = file.metadata().map_err(|e| unreadable(&e))?;
        if !about.is_file() {
            return Err(Unusable::new(Reason::Unreadable, "it is not a regular file"));
        }
        let mut reader = BufReader::new(file);
        let first = line(&mut reader, FIRST_LINE, form)?;
        if first.starts_with(form.other().magic().as_bytes()) {
            let other = form.other();
            return Err(Unusable::new(
                Reason::Form,
                format!("`{}` wrote it, so {} restores it", other.saved_by(), other.restored_by()),
            ));
        }
        let rest = first.strip_prefix(form.magic().as_bytes()).ok_or_else(|| form.foreign())?;
        let rest = std::str::from_utf8(rest).map_err(|_| Unusable::damaged("first line"))?;
        let (format, hash) = rest.split_once(' ').unwrap_or((rest, ""));
        let format: u32 = format.parse().map_err(|_| Unusable::damaged("first line"))?;
        if format > FORMAT {
            return Err(Unusable::new(
                Reason::Newer,
                format!("a newer pgstencil wrote it (format {format}; this one reads {FORMAT})"),
            ));
        }
        let manifest = line(&mut reader, MANIFEST, form)?;
        if format != FORMAT || blake3::hash(&manifest).to_hex().as_str() != hash {
            return Err(Unusable::damaged("manifest"));
        }
        let signature = line(&mut reader, SIGNATURE, form)?;
        let signed_by = signer(form, &manifest, &signature)?;
        let start = reader.stream_position().map_err(|e| unreadable(&e))?;
        let length = about.len() - start;
        Ok(Header { file: reader.into_inner(), manifest, signed_by, start, length })
    }

    /// Requires a signature of one of these keys, if there are any.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn check_signature(&self, trusted: &[PublicKey]) -> Checked<()> {
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

    /// Requires that the payload has its length.
    ///
    /// # Errors
    /// It is shorter or longer.
    pub(super) fn check_length(&self, payload: &Payload) -> Checked<()> {
        match self.length.cmp(&payload.bytes) {
            Ordering::Less => Err(Unusable::truncated()),
            Ordering::Equal => Ok(()),
            Ordering::Greater => Err(Unusable::damaged("length")),
        }
    }

    /// Returns the payload from its beginning.
    pub(super) fn payload(&self, payload: &Payload) -> Checked<io::Take<&File>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start)).map_err(|e| unreadable(&e))?;
        Ok(file.take(payload.bytes))
    }
}

/// A cache file of a private server, whose header is as it was written. Nothing of its payload is known yet.
pub(crate) struct CacheFile {
    header: Header,
    /// The manifest.
    pub(crate) manifest: Manifest,
}

impl CacheFile {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The reason why it cannot be used.
    pub(crate) fn open(path: &Path) -> Checked<Self> {
        let header = Header::open(path, Form::Cluster)?;
        let manifest: Manifest =
            serde_json::from_slice(&header.manifest).map_err(|_| Unusable::damaged("manifest"))?;
        header.check_length(&manifest.payload)?;
        Ok(CacheFile { header, manifest })
    }

    /// Requires a signature of one of these keys, if there are any.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn check_signature(&self, trusted: &[PublicKey]) -> Checked<()> {
        self.header.check_signature(trusted)
    }

    /// Requires that this pgstencil knows the registries in it.
    ///
    /// # Errors
    /// They are newer.
    pub(crate) fn check_registry(&self, version: i32) -> Checked<()> {
        match self.manifest.registry {
            Some(newer) if newer > version => Err(Unusable::new(
                Reason::Newer,
                format!(
                    "a newer pgstencil ({}) wrote it: its registry has version {newer}, and this pgstencil ({}) knows \
                     versions up to {version}",
                    self.manifest.pgstencil,
                    env!("CARGO_PKG_VERSION")
                ),
            )),
            _ => Ok(()),
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
        self.header.payload(&self.manifest.payload)
    }
}

/// Returns the key with which the manifest is signed. A signature must be right even if no key is required.
fn signer(form: Form, manifest: &[u8], line: &[u8]) -> Checked<Option<PublicKey>> {
    let damaged = || Unusable::damaged("signature");
    let line = std::str::from_utf8(line).map_err(|_| damaged())?;
    if line == "unsigned" {
        return Ok(None);
    }
    let (key, signature) =
        line.strip_prefix("signed ").and_then(|rest| rest.split_once(' ')).ok_or_else(damaged)?;
    let key = PublicKey::parse(key).map_err(|_| damaged())?;
    match key.verifies(form.purpose(), manifest, signature) {
        true => Ok(Some(key)),
        false => Err(damaged()),
    }
}

/// Reads a line, without its end.
fn line(reader: &mut impl BufRead, most: u64, form: Form) -> Checked<Vec<u8>> {
    let mut line = Vec::new();
    let read = reader.take(most).read_until(b'\n', &mut line).map_err(|e| unreadable(&e))?;
    let is_beginning = |form: Form| {
        let magic = form.magic().as_bytes();
        line.starts_with(&magic[..line.len().min(magic.len())])
    };
    match line.last() {
        Some(b'\n') => {
            line.pop();
            Ok(line)
        }
        // Of a file that is no cache file, it does not matter where it ends.
        _ if most == FIRST_LINE && !is_beginning(form) && !is_beginning(form.other()) => Err(form.foreign()),
        _ if (read as u64) < most => Err(Unusable::truncated()),
        _ if most == FIRST_LINE => Err(form.foreign()),
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
