//! JSON answers of `init`.

use serde::Serialize;

use super::VERSION;
use crate::presets::{Advice, Detected, Preset, Presets, Written};

/// Answer of `init`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct InitAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// The preset.
    pub preset: String,
    /// Path of the config.
    pub file: String,
    /// Whether the file was written: not with `--print`.
    pub written: bool,
    /// The file or package that showed the tool; `None` if only `--preset` named it.
    pub because: Option<String>,
    /// Text of the config.
    pub config: String,
    /// Remarks on the project.
    pub notes: Vec<String>,
    /// The command to try next.
    pub next: String,
}

impl InitAnswer {
    pub(crate) fn new(
        preset: &Preset,
        found: Option<&Detected<'_>>,
        file: &std::path::Path,
        is_written: bool,
        config: &Written,
    ) -> Self {
        InitAnswer {
            version: VERSION,
            preset: preset.name.clone(),
            file: file.display().to_string(),
            written: is_written,
            because: found.map(|found| found.because.clone()),
            config: config.text.clone(),
            notes: config.notes.clone(),
            next: config.next.clone(),
        }
    }
}

/// Answer of `init --list`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PresetsAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// All presets, by name.
    pub presets: Vec<PresetAnswer>,
}

/// One preset.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PresetAnswer {
    /// Name, for `--preset`.
    pub name: String,
    /// Name of the tool.
    pub title: String,
    /// Signs by which a project is recognized.
    pub signs: Vec<String>,
    /// The directories of this project in which it was found; `.` is the current one.
    pub found_in: Vec<String>,
}

impl PresetsAnswer {
    pub(crate) fn new(presets: &Presets, found: &[Detected<'_>]) -> Self {
        let answer = |preset: &Preset| PresetAnswer {
            name: preset.name.clone(),
            title: preset.title.clone(),
            signs: preset.signs(),
            found_in: found
                .iter()
                .filter(|found| found.preset.name == preset.name)
                .flat_map(|found| &found.sites)
                .map(|site| if site.is_empty() { ".".to_owned() } else { site.clone() })
                .collect(),
        };
        PresetsAnswer { version: VERSION, presets: presets.all().iter().map(answer).collect() }
    }
}

/// Answer of `init --check`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct InitCheckAnswer {
    /// [`VERSION`]
    pub version: u32,
    /// Path of the config.
    pub file: String,
    /// The presets that were asked.
    pub presets: Vec<String>,
    /// What they know better.
    pub advice: Vec<AdviceAnswer>,
}

/// One piece of advice.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct AdviceAnswer {
    /// Name of the definition.
    pub template: String,
    /// The preset; `None`: what every tool needs.
    pub preset: Option<String>,
    /// What is not as good as it could be.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl InitCheckAnswer {
    pub(crate) fn new(file: &std::path::Path, presets: &[&Preset], advice: &[Advice]) -> Self {
        InitCheckAnswer {
            version: VERSION,
            file: file.display().to_string(),
            presets: presets.iter().map(|preset| preset.name.clone()).collect(),
            advice: advice
                .iter()
                .map(|advice| AdviceAnswer {
                    template: advice.template.clone(),
                    preset: advice.preset.clone(),
                    message: advice.message.clone(),
                    hint: advice.hint.clone(),
                })
                .collect(),
        }
    }
}
