//! The values that a fingerprint is made of, and the encoding that is hashed.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::Order;
use crate::names::{EMPTY_DATABASE, Fingerprint};

/// Everything that decides what a build yields.
///
/// It is kept as JSON beside a template, as a [`super::KeptRecipe`], so that the next one can say what changed
/// and whether it only appends. The fingerprint is *not* the hash of that JSON but of an encoding of its own (see
/// [`Recipe::fingerprint`]): key order, white space and escapes of JSON may change with a library.
///
/// Two machines that check out the same commit get equal recipes. So nothing in it names the
/// server, a directory of the machine, a user or a time; nor file modes, which differ by umask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Version of the encoding: [`Recipe::FORMAT`].
    pub format: u32,
    /// Files of `migrations`, sorted by the bytes of their paths.
    pub migrations: Vec<FileInput>,
    /// Files of `rerun_inputs`, sorted likewise.
    pub rerun_inputs: Vec<FileInput>,
    /// Files of `inputs`, sorted likewise.
    pub inputs: Vec<FileInput>,
    /// Files of `companions`, sorted likewise.
    pub companions: Vec<FileInput>,
    /// `order`: it decides which templates this one could have been extended from.
    pub order: Order,
    /// `input_lines`, sorted by file and regex.
    pub lines: Vec<LinesInput>,
    /// `env_inputs`, sorted by name.
    pub env: Vec<EnvInput>,
    /// `[template.X.env]`, sorted by name: what the build command sees beside the standard
    /// variables, with the placeholders as they are written.
    pub mapping: Vec<EnvInput>,
    /// `[template.X.build_env]`, likewise.
    pub build_env: Vec<EnvInput>,
    /// The build command.
    pub build: String,
    /// Roles, in the order of the file: the first one is what `DATABASE_URL` means.
    pub databases: Vec<String>,
    /// The database that a build starts from, by its name: what it holds is for the server to say.
    pub from: String,
    /// What the server adds.
    pub server: ServerTraits,
}

pub(super) fn empty_database() -> String {
    EMPTY_DATABASE.to_owned()
}

pub(super) fn is_empty_database(name: &String) -> bool {
    name == EMPTY_DATABASE
}

/// One file, by what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInput {
    /// Relative to the root.
    pub path: RelPath,
    /// blake3 of the content, hex, as `b3sum` prints it.
    pub hash: String,
    /// Length of the content.
    pub bytes: u64,
}

/// The text of one file that counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinesInput {
    /// Relative to the root, as in the config.
    pub file: String,
    /// The regex that chose it.
    pub matching: String,
    /// blake3 of the pieces of text in their order, each ended by `\n`; hex.
    pub hash: String,
    /// How many pieces there are.
    pub count: u64,
    /// The pieces, for a person: the first ones, cut where they are long, without passwords of URLs. Empty in
    /// a recipe that was kept before there was this field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
}

impl PartialEq for LinesInput {
    /// The hash stands for the text.
    fn eq(&self, other: &Self) -> bool {
        let key = |l: &Self| (l.file.clone(), l.matching.clone(), l.hash.clone(), l.count);
        key(self) == key(other)
    }
}

impl Eq for LinesInput {}

/// A variable, without its value: that may be a password. `Debug` hides the hash, too, from which a short value
/// could be found.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvInput {
    /// The variable.
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

/// What a template takes from the server that it is built on. Servers that agree in these share
/// fingerprints; exact versions are recorded with the template and are no part of this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTraits {
    /// Major version, as 17.
    pub major: u32,
    /// Encoding of `template0`, which new databases are made from, as `UTF8`.
    pub encoding: String,
    /// Locale provider: `libc`, `icu` or `builtin`.
    pub provider: String,
    /// `LC_COLLATE`
    pub collate: String,
    /// `LC_CTYPE`
    pub ctype: String,
    /// Locale of the provider, where it is not libc.
    pub locale: Option<String>,
}

impl Recipe {
    /// The version of the encoding that this code writes. To be raised whenever the encoding, the
    /// choice of files or the meaning of a field changes: the same tree then gets a new
    /// fingerprint and is built once more, which is slow but right.
    pub const FORMAT: u32 = 1;

    /// Hash of all that a base and its extension have in common: all but `migrations`, `companions` and
    /// `rerun_inputs`.
    pub fn core(&self) -> String {
        let core = Recipe {
            migrations: Vec::new(),
            companions: Vec::new(),
            rerun_inputs: Vec::new(),
            ..self.clone()
        };
        core.fingerprint().to_string()
    }

    /// The hash that names this recipe.
    ///
    /// The encoding cannot be read in two ways: each string has its length in front, each list its
    /// count, each section its name, an absent value differs from an empty one, and the format
    /// version comes first. Sections that came after the first release are left out where they say what was
    /// always so before, so that the templates of that time keep their names.
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
        if !self.build_env.is_empty() {
            to.variables("build_env", &self.build_env);
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
/// As text (JSON, messages) a backslash is `\\`, and each control character and each byte that is
/// no UTF-8 is `\xNN`; all else stands for itself. Two paths never share a text, and
/// reading the text gives the path back. The order is that of the bytes, in any locale.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Takes a path as it is.
    pub fn new(path: &Path) -> Self {
        RelPath(path.as_os_str().as_bytes().to_vec())
    }

    /// The bytes of the file system.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a path, still relative.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&self.0))
    }

    /// Reads the text form; `None` if it is not one.
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

/// Sorts and hashes as its bytes do.
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
