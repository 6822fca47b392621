//! The presets of `init`: for each migration tool how a project that uses it is recognized, the config for it,
//! and what `init --check` asks of an existing config.
//!
//! A preset is a file of `config/presets`; the build script lists these files, so a new preset needs no code.
//! [`file`](mod@file) is their format, `tree` the project that they are asked about, `manifest` reads the packages
//! that a project names, `detect` finds the presets of a tree, `write` makes a config, `check` judges one.

mod check;
mod detect;
mod file;
mod manifest;
#[cfg(test)]
mod tests;
mod tree;
mod write;

pub(crate) use self::check::{Advice, check};
pub(crate) use self::detect::{Detected, detect};
pub(crate) use self::file::Preset;
pub(crate) use self::tree::Tree;
pub(crate) use self::write::{Written, write};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::fingerprint::{FileCache, Inputs};

mod list {
    // `FILES`: name and text of each file in `config/presets`.
    include!(concat!(env!("OUT_DIR"), "/presets.rs"));
}

/// The values that all presets may use, in the form of a preset.
const SHARED: &str = include_str!("../../config/presets/_shared.toml");

/// All presets, sorted by name.
#[derive(Debug)]
pub(crate) struct Presets {
    all: Vec<Preset>,
    shared: Vec<file::Value>,
}

impl Presets {
    /// Reads the presets of this program.
    ///
    /// # Errors
    /// A preset that cannot be read, which is a bug.
    pub(crate) fn load() -> Result<Self> {
        let shared: file::Shared = toml::from_str(SHARED).map_err(|e| bad("_shared", e))?;
        let mut all = Vec::new();
        for (name, text) in list::FILES {
            all.push(Preset::parse(name, text).map_err(|e| bad(name, e))?);
        }
        Ok(Presets { all, shared: shared.value })
    }

    /// Returns all of them.
    pub(crate) fn all(&self) -> &[Preset] {
        &self.all
    }

    /// Returns the preset of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Preset> {
        self.all.iter().find(|preset| preset.name == name)
    }
}

/// Returns the names of all presets.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    list::FILES.iter().map(|(name, _)| *name)
}

fn bad(name: &str, cause: toml::de::Error) -> Error {
    Error::internal(format!("cannot read the preset {name}")).caused_by(cause)
}

/// Checks that the globs of a config match files.
///
/// # Errors
/// A glob that matches nothing, and what else is wrong with the inputs.
pub(crate) fn inputs_match(config: &Config) -> Result<()> {
    for definition in &config.definitions {
        Inputs::read(&FileCache::off(), &config.root, definition, &|_| None)?;
    }
    Ok(())
}
