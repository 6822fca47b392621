//! Selection of the warm clones to drop, by [`super::warm_policy`].

use std::fmt;

use super::warm_policy::{self, Rule, Shelf, WarmClone};
use crate::error::Result;
use crate::quantity::Bytes;
use crate::registry::{ProjectSettings, Registry};

/// Warm clone that should be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    /// Id of the clone.
    pub(crate) id: String,
    /// Reason for the drop.
    pub(crate) why: Why,
}

/// Reason why a warm clone should be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A rule of its project.
    Rule(Rule),
    /// The server's disk is full.
    DiskFull,
}

impl Why {
    /// Returns the reason in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Why::Rule(Rule::Template) => "its template is gone",
            Why::Rule(Rule::Idle) => "its template is no longer used",
            Why::Rule(Rule::Count) => "its template has more warm clones than needed",
            Why::Rule(Rule::Size) => "`max_size` of its project leaves no space for it",
            Why::DiskFull => "the server's disk is full",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// Returns the settings and sizes of a project for the policy. `used`: bytes of its templates.
fn shelf(settings: Option<&ProjectSettings>, used: u64) -> Shelf {
    let Some(settings) = settings else {
        // It has recorded no settings, so it wants no warm clones.
        return Shelf { used, ..Shelf::default() };
    };
    Shelf { few: settings.warm, many: settings.warm_max, max_bytes: settings.max_bytes.map(Bytes::get), used }
}

/// Returns the warm clones that should be dropped, by the recorded limits of each project. `room`: a project, and
/// the bytes that it is about to add.
///
/// # Errors
/// The driver's.
pub(crate) async fn spare(registry: &mut Registry, room: Option<(&str, u64)>) -> Result<Vec<Spare>> {
    judged(registry, room, None).await
}

/// Returns whether a clone that is not warm would be kept if it were.
///
/// # Errors
/// The driver's.
pub(crate) async fn has_room_for(registry: &mut Registry, clone: &str) -> Result<bool> {
    Ok(judged(registry, None, Some(clone)).await?.iter().all(|spare| spare.id != clone))
}

/// As [`spare`], `also` as if the clone of this id were the youngest warm one of its template.
async fn judged(
    registry: &mut Registry,
    room: Option<(&str, u64)>,
    also: Option<&str>,
) -> Result<Vec<Spare>> {
    let (rows, settings) = registry.warm_clones(also).await?;
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
            in_use: row.in_use,
        });
    }
    let judged = rows.iter().zip(warm_policy::spare(&clones, &shelves));
    let mut spare: Vec<Spare> =
        judged.filter_map(|(row, rule)| Some(Spare { id: row.id.clone(), why: Why::Rule(rule?) })).collect();
    spare.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(spare)
}

/// Returns why a warm clone should be dropped, if it should.
///
/// # Errors
/// The driver's.
pub(crate) async fn why_spare(registry: &mut Registry, id: &str) -> Result<Option<Why>> {
    let all = spare(registry, None).await?;
    Ok(all.into_iter().find(|spare| spare.id == id).map(|spare| spare.why))
}

/// Returns the ids of the clones.
pub(crate) fn ids(clones: Vec<Spare>) -> Vec<String> {
    clones.into_iter().map(|clone| clone.id).collect()
}

/// Returns all warm clones, to make room on a full disk.
///
/// # Errors
/// The driver's.
pub(crate) async fn all(registry: &mut Registry) -> Result<Vec<Spare>> {
    let (rows, _) = registry.warm_clones(None).await?;
    Ok(rows.into_iter().map(|row| Spare { id: row.id, why: Why::DiskFull }).collect())
}
