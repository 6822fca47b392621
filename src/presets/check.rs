//! What the presets know better about an existing config.

use std::collections::BTreeMap;

use super::Presets;
use super::detect::{Detected, detect};
use super::file::{Check, Pattern, Preset};
use super::tree::{Tree, directory};
use crate::config::{Config, Definition, Extend};
use crate::error::Result;
use crate::fingerprint::{FileCache, Inputs, groups};

/// Advice about a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    /// Name of the definition.
    pub(crate) template: String,
    /// The preset that knows better; `None`: what every tool needs.
    pub(crate) preset: Option<String>,
    /// The message.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: String,
}

/// Files that a definition selects, by key.
type Selected = BTreeMap<&'static str, Vec<String>>;

/// Returns what the presets know better about each definition of `config`, and the presets that were asked. `tree`
/// is that of the config's root.
///
/// # Errors
/// Those of reading the inputs of a definition.
pub(crate) fn check<'p>(
    presets: &'p Presets,
    config: &Config,
    tree: &Tree,
) -> Result<(Vec<Advice>, Vec<&'p Preset>)> {
    let found = detect(presets, tree);
    let mut all: Vec<Advice> = Vec::new();
    let mut asked: Vec<&Preset> = Vec::new();
    for definition in &config.definitions {
        let inputs = Inputs::read(&FileCache::off(), &config.root, definition, &|_| None)?;
        let names = |files: &[crate::fingerprint::FileInput]| -> Vec<String> {
            files.iter().map(|file| file.path.to_string()).collect()
        };
        let selected = Selected::from([
            ("migrations", names(&inputs.migrations)),
            ("rerun_inputs", names(&inputs.rerun_inputs)),
            ("inputs", names(&inputs.inputs)),
            ("companions", names(&inputs.companions)),
        ]);
        for preset in of(presets, definition, &found) {
            for check in &preset.check {
                if let Some(file) = check.applies(definition, &selected, tree) {
                    let advice = Advice {
                        template: definition.name.clone(),
                        preset: Some(preset.name.clone()),
                        message: check.say.replace("{file}", &file),
                        hint: check.hint.replace("{file}", &file),
                    };
                    // Two presets may have the same question.
                    if !all
                        .iter()
                        .any(|known| (&known.template, &known.message) == (&advice.template, &advice.message))
                    {
                        all.push(advice);
                    }
                }
            }
            if !asked.iter().any(|known| known.name == preset.name) {
                asked.push(preset);
            }
        }
        all.extend(without_order(definition, &inputs, &all));
    }
    Ok((all, asked))
}

/// The presets whose tool the build command runs; else the only one that fits the tree.
fn of<'p>(presets: &'p Presets, definition: &Definition, found: &[Detected<'p>]) -> Vec<&'p Preset> {
    let runs = |preset: &&Preset| preset.command.0.is_match(&definition.build);
    let fitting: Vec<&Preset> = found.iter().map(|found| found.preset).filter(runs).collect();
    if !fitting.is_empty() {
        return fitting;
    }
    let named: Vec<&Preset> = presets.all().iter().filter(runs).collect();
    match (&named[..], found) {
        ([], [only]) => vec![only.preset],
        _ => named,
    }
}

impl Check {
    /// Returns whether all conditions hold, as the file that `{file}` in the message stands for.
    fn applies(&self, definition: &Definition, selected: &Selected, tree: &Tree) -> Option<String> {
        let has = |pattern: &Option<Pattern>, text: &str| pattern.as_ref().is_none_or(|p| p.0.is_match(text));
        let has_not =
            |pattern: &Option<Pattern>, text: &str| pattern.as_ref().is_none_or(|p| !p.0.is_match(text));
        if !has(&self.build, &definition.build) || !has_not(&self.build_without, &definition.build) {
            return None;
        }
        if self.extend.as_ref().is_some_and(|extend| extend != word(definition.extend)) {
            return None;
        }
        let mut about = String::new();
        if let Some(key) = &self.key {
            let files = selected.get(key.as_str())?;
            let fits = |file: &&String| has(&self.selects, file) && has_not(&self.selects_without, file);
            about = files.iter().find(fits)?.clone();
        }
        if let Some(glob) = &self.file {
            let fits = |file: &&str| {
                glob.is_match(file)
                    && has(&self.contains, &tree.text(file))
                    && has_not(&self.contains_not, &tree.text(file))
                    && self.is_lacking(tree, file)
            };
            let file = tree.files().find(fits)?;
            if about.is_empty() {
                about = file.to_owned();
            }
        }
        Some(about)
    }

    /// `near`, `lacks`, `lacks_text`
    fn is_lacking(&self, tree: &Tree, file: &str) -> bool {
        let Some(lacks) = &self.lacks else { return true };
        let at =
            |site: &str, name: &str| if site.is_empty() { name.to_owned() } else { format!("{site}/{name}") };
        let mut site = directory(file);
        if let Some(near) = &self.near {
            while !tree.has(&at(site, near)) {
                if site.is_empty() {
                    return false;
                }
                site = directory(site);
            }
        }
        let lacked = at(site, lacks);
        !tree.has(&lacked)
            || self.lacks_text.as_ref().is_some_and(|text| !text.0.is_match(&tree.text(&lacked)))
    }
}

fn word(extend: Extend) -> &'static str {
    match extend {
        Extend::Append => "append",
        Extend::Never => "never",
        Extend::Always => "always",
    }
}

/// Files that are no migrations whatever the tool is.
const ASIDE: [&str; 8] = [
    "__init__.py",
    "mod.rs",
    "lib.rs",
    "main.rs",
    "README.md",
    ".gitkeep",
    "migration_lock.toml",
    ".formatter.exs",
];

/// Migrations whose names have no order, which `extend = "append"` never accepts.
fn without_order(definition: &Definition, inputs: &Inputs, told: &[Advice]) -> Option<Advice> {
    if definition.extend != Extend::Append || told.iter().any(|advice| advice.hint.contains("extend = ")) {
        return None;
    }
    let groups = groups(&inputs.migrations, inputs.order);
    let file = groups.iter().filter(|group| group.ordered.is_empty()).find_map(|group| {
        let names = group.unordered.iter().map(ToString::to_string);
        let mut migrations = names.filter(|path| !ASIDE.contains(&path.rsplit('/').next().unwrap_or(path)));
        let first = migrations.next()?;
        migrations.next().map(|_| first)
    })?;
    Some(Advice {
        template: definition.name.clone(),
        preset: None,
        message: format!("names of migrations have no order ({file}), so every new one causes a full build"),
        hint: "if the tool knows the order by itself, set `extend = \"always\"`".to_owned(),
    })
}
