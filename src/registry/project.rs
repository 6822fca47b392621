//! Rows of `pgstencil.project`: the settings of a project's config that other processes must know.

use sqlx::FromRow;

use crate::config::{CloneSettings, EvictionSettings};
use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};
use crate::quantity::{Bytes, Seconds};

use super::Registry;

/// Settings of a project that evictions, cleanups and fillers of warm clones of any project apply.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub(crate) struct ProjectSettings {
    /// Name of the project.
    pub(crate) name: String,
    /// `[eviction] max_size`: bytes of all its templates; `None` is no limit.
    pub(crate) max_bytes: Option<Bytes>,
    /// `[eviction] max_templates`
    pub(crate) max_templates: Option<i64>,
    /// `[eviction] max_idle`: time since the last use; `None` is no limit.
    pub(crate) max_idle_s: Option<Seconds>,
    /// `[eviction] keep`: the number of most recently used templates of each definition that are never evicted.
    pub(crate) keep: i64,
    /// `[clone] warm`: number of warm clones of a template that was not used recently.
    pub(crate) warm: i64,
    /// `[clone] warm_max`: number of warm clones of a template that is much in demand.
    pub(crate) warm_max: i64,
    /// `[clone] orphan_grace`; `None` in rows of an older pgstencil.
    pub(crate) grace_s: Option<Seconds>,
}

const ALL: &str = "SELECT name, max_bytes, max_templates, max_idle_s, keep, warm, warm_max, grace_s \
     FROM pgstencil.project";
/// Without changes it only reads: ON CONFLICT would lock the row, and every hit runs this.
const NOTE: &str = include_str!("queries/note_project.sql");

/// Query for the settings of all projects.
pub(super) fn all() -> Statement {
    sql::fill(ALL, &[])
}

impl ProjectSettings {
    /// Creates the settings from a config.
    pub(crate) fn new(project: &str, eviction: &EvictionSettings, clone: &CloneSettings) -> Self {
        ProjectSettings {
            name: project.to_owned(),
            max_bytes: eviction.max_size.map(Bytes::new),
            max_templates: Some(i64::from(eviction.max_templates)),
            max_idle_s: eviction.max_idle.map(Seconds::from),
            keep: i64::from(eviction.keep),
            warm: i64::from(clone.warm),
            warm_max: i64::from(clone.warm_max),
            grace_s: Some(Seconds::from(*clone.orphan_grace)),
        }
    }

    /// Statement that records them if other or no settings were recorded before: to be sent with another message.
    pub(super) fn note(&self) -> Statement {
        sql::fill(
            NOTE,
            &[
                &self.name,
                &self.max_bytes,
                &self.max_templates,
                &self.max_idle_s,
                &self.keep,
                &self.warm,
                &self.warm_max,
                &self.grace_s,
            ],
        )
    }
}

impl Registry {
    /// Records a project's settings for other processes.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_settings(&mut self, settings: &ProjectSettings) -> Result<()> {
        self.session().execute(settings.note()).await.doing(|| "note the settings of the project".into())?;
        Ok(())
    }

    /// Returns the settings of all projects that have recorded some.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn projects(&mut self) -> Result<Vec<ProjectSettings>> {
        self.session().rows(all()).await.doing(|| "read the settings of the projects".into())
    }
}
