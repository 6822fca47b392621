//! The values that a fingerprint is made of, and the encoding that is hashed.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::order::has_late_version;
use crate::config::Order;
use crate::names::{EMPTY_DATABASE, Fingerprint};

/// Everything that decides the result of a build.
///
/// The registry keeps the recipe of each template as JSON, as a [`super::KeptRecipe`], so that later builds
/// can report what changed and whether they only append. The fingerprint is *not* the hash of that JSON but
/// of a separate encoding (see [`Recipe::fingerprint`]): key order, white space and escapes of JSON may
/// change with a library.
///
/// Two machines that check out the same commit get equal recipes. So a recipe contains no server, machine
/// directory, user or time, and no file modes, which differ by umask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Version of the encoding: [`Recipe::FORMAT`].
    pub format: u32,
    /// Files of `migrations`, sorted by the bytes of their paths.
    pub migrations: Vec<FileInput>,
    /// Files of `rerun_inputs`, in the same order.
    pub rerun_inputs: Vec<FileInput>,
    /// Files of `inputs`, in the same order.
    pub inputs: Vec<FileInput>,
    /// Files of `companions`, in the same order.
    pub companions: Vec<FileInput>,
    /// `order`; it decides which bases this template could have been extended from.
    pub order: Order,
    /// `input_lines`, sorted by file and regex.
    pub lines: Vec<LinesInput>,
    /// `env_inputs`, sorted by name.
    pub env: Vec<EnvInput>,
    /// `[template.X.env]`, sorted by name: the variables that the build command gets in addition to the
    /// standard ones, with their placeholders as written.
    pub mapping: Vec<EnvInput>,
    /// `[template.X.build_env]`, in the same form.
    pub build_env: Vec<EnvInput>,
    /// The build command; empty if there is a `key`.
    pub build: String,
    /// The key under which a program fills the databases, in place of files and build command.
    pub key: Option<String>,
    /// Aliases, in the order of the config; `DATABASE_URL` refers to the first.
    pub databases: Vec<String>,
    /// Name of the database that a build starts from. Its contents are checked on the server.
    pub from: String,
    /// Traits of the server.
    pub server: ServerTraits,
}

#[cfg(test)]
impl Recipe {
    /// Returns a recipe for tests, with these migrations, sorted, and nothing else that could differ.
    pub(crate) fn of_migrations(mut migrations: Vec<FileInput>) -> Self {
        migrations.sort_by(|a, b| a.path.cmp(&b.path));
        Recipe {
            format: Recipe::FORMAT,
            migrations,
            rerun_inputs: vec![],
            inputs: vec![],
            companions: vec![],
            order: Order::Directory,
            lines: vec![],
            env: vec![],
            mapping: vec![],
            build_env: vec![],
            build: "migrate".into(),
            key: None,
            databases: vec!["app".into()],
            from: empty_database(),
            server: ServerTraits {
                major: 17,
                encoding: "UTF8".into(),
                provider: "libc".into(),
                collate: "C".into(),
                ctype: "C".into(),
                locale: None,
            },
        }
    }
}

pub(super) fn empty_database() -> String {
    EMPTY_DATABASE.to_owned()
}

pub(super) fn is_empty_database(name: &String) -> bool {
    name == EMPTY_DATABASE
}

/// One file, identified by its content, or by the normal form of its content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileInput {
    /// Path relative to the root.
    pub path: RelPath,
    /// blake3 of the content, hex, as `b3sum` prints it; or of its normal form.
    pub hash: String,
    /// Length of the content, or of its normal form.
    pub bytes: u64,
    /// Set if the file counts by its normal form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normal: Option<NormalForm>,
}

/// Says that a file counts by a normal form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NormalForm {
    /// Name and version of the form.
    pub form: String,
    /// blake3 of the content itself, hex; for display only.
    pub content: String,
}

impl PartialEq for FileInput {
    /// Compares what the fingerprint contains, so not the content of a file that counts by its normal form.
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.hash, self.bytes, self.form())
            == (&other.path, &other.hash, other.bytes, other.form())
    }
}

impl Eq for FileInput {}

impl FileInput {
    fn form(&self) -> Option<&str> {
        self.normal.as_ref().map(|normal| normal.form.as_str())
    }

    /// Returns whether two files that count as equal differ in their bytes.
    pub fn is_cosmetic(&self, other: &Self) -> bool {
        let content = |file: &Self| file.normal.as_ref().map(|normal| normal.content.clone());
        self == other && content(self) != content(other)
    }
}

/// The parts of one file's text that count.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinesInput {
    /// Path relative to the root, as in the config.
    pub file: String,
    /// The regex that selects the text.
    pub matching: String,
    /// blake3 of the selected pieces in order, each followed by `\n`; hex.
    pub hash: String,
    /// Number of pieces.
    pub count: u64,
    /// The first pieces for display, shortened where they are long, without passwords of URLs. Empty in a
    /// recipe that was stored before this field existed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
}

impl PartialEq for LinesInput {
    /// Compares the hash instead of the text.
    fn eq(&self, other: &Self) -> bool {
        let key = |l: &Self| (l.file.clone(), l.matching.clone(), l.hash.clone(), l.count);
        key(self) == key(other)
    }
}

impl Eq for LinesInput {}

/// A variable, without its value, which may be a password. `Debug` also hides the hash, since a short value
/// could be guessed from it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvInput {
    /// Name of the variable.
    pub name: String,
    /// blake3 of the value, hex; `None` if the variable is not set, which differs from empty.
    pub hash: Option<String>,
}

impl fmt::Debug for EnvInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.hash.is_some() { "set" } else { "not set" };
        write!(f, "{} ({state})", self.name)
    }
}

/// The properties that a template inherits from its server. Servers with equal traits share fingerprints;
/// exact versions are recorded with the template and are not part of this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTraits {
    /// Major version, such as 17.
    pub major: u32,
    /// Encoding of `template0`, from which new databases are made, such as `UTF8`.
    pub encoding: String,
    /// Locale provider: `libc`, `icu` or `builtin`.
    pub provider: String,
    /// `LC_COLLATE`
    pub collate: String,
    /// `LC_CTYPE`
    pub ctype: String,
    /// Locale of the provider, if it is not libc.
    pub locale: Option<String>,
}

impl Recipe {
    /// Version of the encoding that this code writes. Raise it whenever the encoding, the choice of files or
    /// the meaning of a field changes: the same tree then gets a new fingerprint and is built once more,
    /// which is slow but correct.
    pub const FORMAT: u32 = 1;

    /// Returns the hash of the parts in which a base and a template extended from it are equal: all but
    /// `migrations`, `companions` and `rerun_inputs`.
    pub fn core(&self) -> String {
        let core = Recipe {
            migrations: Vec::new(),
            companions: Vec::new(),
            rerun_inputs: Vec::new(),
            ..self.clone()
        };
        core.fingerprint().to_string()
    }

    /// Returns the hash that names this recipe.
    ///
    /// The encoding is unambiguous: each string is preceded by its length, each list by its count and each
    /// section by its name; an absent value differs from an empty one; and the format version comes first.
    /// Sections that were added after the first release are omitted where they hold the value that used to be
    /// implied, so that older templates keep their names.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut to = Encoder(blake3::Hasher::new());
        to.text("pgstencil recipe");
        to.number(self.format.into());
        for (section, files) in
            [("migrations", &self.migrations), ("rerun_inputs", &self.rerun_inputs), ("inputs", &self.inputs)]
        {
            to.files(section, files);
        }
        to.section("lines", self.lines.len());
        for lines in &self.lines {
            to.text(&lines.file);
            to.text(&lines.matching);
            to.text(&lines.hash);
            to.number(lines.count);
        }
        to.variables("env", &self.env);
        to.variables("mapping", &self.mapping);
        to.section("build", 1);
        to.text(&self.build);
        to.section("databases", self.databases.len());
        for role in &self.databases {
            to.text(role);
        }
        let ServerTraits { major, encoding, provider, collate, ctype, locale } = &self.server;
        to.section("server", 6);
        to.number((*major).into());
        for text in [encoding, provider, collate, ctype] {
            to.text(text);
        }
        to.option(locale.as_deref());
        if !is_empty_database(&self.from) {
            to.section("from", 1);
            to.text(&self.from);
        }
        if !self.companions.is_empty() {
            to.files("companions", &self.companions);
        }
        if self.order != Order::Directory {
            to.section("order", 1);
            to.text(self.order.as_str());
        }
        if self.migrations.iter().any(|file| has_late_version(&file.path, self.order)) {
            // Without this rule, other bases were chosen.
            to.section("order of digits after the first dot", 1);
        }
        if !self.build_env.is_empty() {
            to.variables("build_env", &self.build_env);
        }
        if let Some(key) = &self.key {
            to.section("key", 1);
            to.text(key);
        }
        let files = [&self.migrations, &self.rerun_inputs, &self.inputs, &self.companions];
        let normal: BTreeMap<_, _> = files
            .into_iter()
            .flatten()
            .filter_map(|file| Some((&file.path, &file.normal.as_ref()?.form)))
            .collect();
        if !normal.is_empty() {
            to.section("normal forms", normal.len());
            for (path, form) in normal {
                to.bytes(path.as_bytes());
                to.text(form);
            }
        }
        Fingerprint::from_bytes(*to.0.finalize().as_bytes())
    }
}

struct Encoder(blake3::Hasher);

impl Encoder {
    fn number(&mut self, n: u64) {
        self.0.update(&n.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn section(&mut self, name: &str, count: usize) {
        self.text(name);
        self.number(count as u64);
    }

    fn files(&mut self, section: &str, files: &[FileInput]) {
        self.section(section, files.len());
        for file in files {
            self.bytes(file.path.as_bytes());
            self.text(&file.hash);
            self.number(file.bytes);
        }
    }

    fn variables(&mut self, section: &str, variables: &[EnvInput]) {
        self.section(section, variables.len());
        for variable in variables {
            self.text(&variable.name);
            self.option(variable.hash.as_deref());
        }
    }

    fn option(&mut self, text: Option<&str>) {
        self.number(text.is_some().into());
        if let Some(text) = text {
            self.text(text);
        }
    }
}

/// A path relative to the root, of any bytes that a file name may have.
///
/// In text form (JSON, messages) a backslash is `\\`, and each control character and each byte that is not
/// UTF-8 is `\xNN`; everything else is unchanged. Two paths never have the same text, and parsing the text
/// returns the path. The order is by bytes, in any locale.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Stores a path unchanged.
    pub fn new(path: &Path) -> Self {
        RelPath(path.as_os_str().as_bytes().to_vec())
    }

    /// Returns the bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path, still relative.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&self.0))
    }

    /// Parses the text form; `None` if the text is not valid.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = match (byte, after) {
                (b'\\', [b'\\', after @ ..]) => {
                    bytes.push(b'\\');
                    after
                }
                (b'\\', [b'x', high, low, after @ ..]) => {
                    let digit = |d: u8| char::from(d).to_digit(16);
                    bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
                    after
                }
                (b'\\', _) => return None,
                _ => {
                    bytes.push(byte);
                    after
                }
            };
        }
        Some(RelPath(bytes))
    }
}

/// Sorts and hashes like its bytes.
impl Borrow<[u8]> for RelPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\0'..='\x1f' | '\x7f' => write!(f, "\\x{:02x}", u32::from(c))?,
                    _ => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        RelPath::parse(&text).ok_or_else(|| de::Error::custom("a path with a broken escape"))
    }
}
