//! The format of the files in `config/presets`.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use regex::Regex;
use serde::{Deserialize, Deserializer, de};

use super::manifest::Package;

/// Preset of one migration tool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preset {
    /// The name of its file.
    #[serde(skip)]
    pub(crate) name: String,
    /// Name of the tool, for people.
    pub(crate) title: String,
    /// Presets that count as not found where this one is found, such as that of the tool inside.
    #[serde(default)]
    pub(super) over: Vec<String>,
    /// The signs of a project: each one is enough.
    #[serde(default)]
    pub(super) detect: Vec<Sign>,
    /// Parts of the config that depend on the project, in the order of their use.
    #[serde(default)]
    pub(super) value: Vec<Value>,
    /// The config. `<name>` stands for a value; a line whose value is unknown is left out.
    pub(super) config: String,
    /// Remarks for the person who runs `init`.
    #[serde(default)]
    pub(super) notes: Vec<String>,
    /// The command to try next.
    pub(super) next: Option<String>,
    /// What a build command of this tool contains.
    pub(super) command: Pattern,
    /// What `init --check` asks.
    #[serde(default)]
    pub(super) check: Vec<Check>,
}

/// `_shared.toml`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shared {
    pub(super) value: Vec<Value>,
}

/// Sign of a project: all of its conditions hold for one directory, the *site*.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sign {
    /// A file, relative to the site. Without it, the site is the directory of the manifest.
    pub(super) file: Option<Glob>,
    /// Text of that file.
    pub(super) contains: Option<Pattern>,
    /// Packages; a manifest at, above or below the site names at least one.
    #[serde(default)]
    pub(super) packages: Vec<Package>,
    /// Packages that no such manifest names.
    #[serde(default)]
    pub(super) no_packages: Vec<Package>,
    /// A file that the site does not have.
    pub(super) no_file: Option<Glob>,
    /// Counts only if no preset has another sign.
    #[serde(default)]
    pub(super) weak: bool,
}

/// Part of the config that depends on the project.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Value {
    pub(super) name: String,
    /// The first source that yields a text decides.
    #[serde(default)]
    pub(super) first: Vec<Source>,
    /// The text if none does.
    #[serde(rename = "else")]
    pub(super) otherwise: Option<String>,
}

/// Source of a value.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    /// Glob of files, relative to the site; values in it are filled in.
    pub(super) file: String,
    /// Text of such a file.
    #[serde(rename = "match")]
    pub(super) matching: Option<Pattern>,
    /// The text: `$1` is a group of `match`; `{path}`, `{dir}`, `{up}` (the directory above), `{name}` and
    /// `{ext}` are parts of the path of the file.
    /// By default `$1`, or `{path}` without a group.
    pub(super) value: Option<String>,
    /// Whether the directories above the site count, too.
    #[serde(default)]
    pub(super) above: bool,
    /// Whether the value is unknown if this source yields a text.
    #[serde(default)]
    pub(super) none: bool,
    /// Whether the text is a dotted name, whose dots become slashes.
    #[serde(default)]
    pub(super) dotted: bool,
}

/// Question of `init --check`: if all conditions hold, `say` is told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    /// Text of the build command.
    pub(super) build: Option<Pattern>,
    /// Text that the build command does not have.
    pub(super) build_without: Option<Pattern>,
    /// Value of `extend`.
    pub(super) extend: Option<String>,
    /// Key whose files `selects` and `selects_without` look at.
    pub(super) key: Option<String>,
    /// Path of a file that the key selects.
    pub(super) selects: Option<Pattern>,
    /// A pattern that the path of a file that the key selects does not have.
    pub(super) selects_without: Option<Pattern>,
    /// A file, relative to the root.
    pub(super) file: Option<Glob>,
    /// Text of that file.
    pub(super) contains: Option<Pattern>,
    /// Text that the file does not have.
    pub(super) contains_not: Option<Pattern>,
    /// A file in the nearest directory above that file; this directory is meant in `lacks`.
    pub(super) near: Option<String>,
    /// A file that is not there, or does not have `lacks_text`.
    pub(super) lacks: Option<String>,
    /// See `lacks`.
    pub(super) lacks_text: Option<Pattern>,
    /// The message. `{file}` is the file that was found.
    pub(super) say: String,
    /// What to do.
    pub(super) hint: String,
}

impl Preset {
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, toml::de::Error> {
        let preset: Preset = toml::from_str(text)?;
        Ok(Preset { name: name.to_owned(), ..preset })
    }

    /// Returns how a project is recognized, in words.
    pub(crate) fn signs(&self) -> Vec<String> {
        self.detect.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_ref().map(|file| file.text.clone());
        let names: Vec<&str> = self.packages.iter().map(|package| package.name.as_str()).collect();
        let packages = (!names.is_empty()).then(|| format!("package {}", names.join(" or ")));
        f.write_str(&file.into_iter().chain(packages).collect::<Vec<_>>().join(" and "))
    }
}

/// Regular expression.
#[derive(Debug)]
pub(super) struct Pattern(pub(super) Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text).map(Pattern).map_err(de::Error::custom)
    }
}

/// Glob, in which `*` matches no slash.
#[derive(Debug)]
pub(super) struct Glob {
    pub(super) text: String,
    pub(super) matcher: GlobMatcher,
}

impl Glob {
    pub(super) fn new(text: &str) -> Result<Self, globset::Error> {
        let matcher = GlobBuilder::new(text).literal_separator(true).build()?.compile_matcher();
        Ok(Glob { text: text.to_owned(), matcher })
    }

    pub(super) fn is_match(&self, path: &str) -> bool {
        self.matcher.is_match(path)
    }
}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Glob::new(&text).map_err(de::Error::custom)
    }
}
