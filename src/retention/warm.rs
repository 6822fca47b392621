//! The warm clones that go, by [`super::warm_policy`].

use std::fmt;

use super::warm_policy::{self, Rule, Shelf, WarmClone};
use crate::error::Result;
use crate::quantity::Bytes;
use crate::registry::{ProjectSettings, Registry};

/// A warm clone that should go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    /// The clone.
    pub(crate) id: String,
    /// Why it should go.
    pub(crate) why: Why,
}

/// Why a warm clone should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// By a rule of its project.
    Rule(Rule),
    /// The server's disk is full.
    DiskFull,
}

impl Why {
    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Why::Rule(Rule::Template) => "its template is gone",
            Why::Rule(Rule::Idle) => "its template is no longer used",
            Why::Rule(Rule::Count) => "more of its kind are warm than needed",
            Why::Rule(Rule::Size) => "its project has no room for it",
            Why::DiskFull => "the server's disk is full",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// What a project wants. `used`: bytes of its templates.
fn shelf(settings: Option<&ProjectSettings>, used: u64) -> Shelf {
    let Some(settings) = settings else {
        // It has noted nothing, so it wants none.
        return Shelf { used, ..Shelf::default() };
    };
    Shelf { few: settings.warm, many: settings.warm_max, max_bytes: settings.max_bytes.map(Bytes::get), used }
}

/// The warm clones that should go, by the limits that each project noted. `room`: a project, and the bytes that it is
/// about to add.
///
/// # Errors
/// The driver's.
pub(crate) async fn spare(registry: &mut Registry, room: Option<(&str, u64)>) -> Result<Vec<Spare>> {
    let (rows, settings) = registry.warm_clones().await?;
    let (adding, bytes) = room.unwrap_or_default();
    let mut projects: Vec<&str> = Vec::new();
    let mut shelves = Vec::new();
    let mut clones = Vec::new();
    for row in &rows {
        let project = projects.iter().position(|name| *name == row.project).unwrap_or_else(|| {
            let own = settings.iter().find(|settings| settings.name == row.project);
            let added = if row.project == adding { bytes } else { 0 };
            projects.push(&row.project);
            shelves.push(shelf(own, row.of_templates.get().saturating_add(added)));
            projects.len() - 1
        });
        clones.push(WarmClone {
            template: row.template_id.filter(|_| row.is_ready),
            project,
            idle: row.idle_s.0,
            superseded: row.superseded,
            bytes: row.bytes.get(),
        });
    }
    let judged = rows.iter().zip(warm_policy::spare(&clones, &shelves));
    let mut spare: Vec<Spare> =
        judged.filter_map(|(row, rule)| Some(Spare { id: row.id.clone(), why: Why::Rule(rule?) })).collect();
    spare.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(spare)
}

/// Why a warm clone should go, if it should.
///
/// # Errors
/// The driver's.
pub(crate) async fn why_spare(registry: &mut Registry, id: &str) -> Result<Option<Why>> {
    let all = spare(registry, None).await?;
    Ok(all.into_iter().find(|spare| spare.id == id).map(|spare| spare.why))
}

/// Their ids.
pub(crate) fn ids(clones: Vec<Spare>) -> Vec<String> {
    clones.into_iter().map(|clone| clone.id).collect()
}

/// All warm clones, to make room on a full disk.
///
/// # Errors
/// The driver's.
pub(crate) async fn all(registry: &mut Registry) -> Result<Vec<Spare>> {
    let (rows, _) = registry.warm_clones().await?;
    Ok(rows.into_iter().map(|row| Spare { id: row.id, why: Why::DiskFull }).collect())
}
