//! Rows of `pgstencil.project`: what other processes must know of a project's config.

use sqlx::FromRow;

use crate::config::{CloneSettings, EvictionSettings};
use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};
use crate::quantity::{Bytes, Seconds};

use super::Registry;

/// The settings of one project that evictions, cleanups and makers of warm clones of any project keep to.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub(crate) struct ProjectSettings {
    /// The project.
    pub(crate) name: String,
    /// `[eviction] max_size`: bytes of all its templates; `None` is no limit.
    pub(crate) max_bytes: Option<Bytes>,
    /// `[eviction] max_templates`
    pub(crate) max_templates: Option<i64>,
    /// `[eviction] max_idle`: time since the last use; `None` is no limit.
    pub(crate) max_idle_s: Option<Seconds>,
    /// `[eviction] keep`: the number of last used templates of each definition that no rule touches.
    pub(crate) keep: i64,
    /// `[clone] warm`: warm clones of a template that was not used of late.
    pub(crate) warm: i64,
    /// `[clone] warm_max`: warm clones of a template that is much in demand.
    pub(crate) warm_max: i64,
    /// `[clone] orphan_grace`; `None` in rows of an older pgstencil.
    pub(crate) grace_s: Option<Seconds>,
}

const ALL: &str = "SELECT name, max_bytes, max_templates, max_idle_s, keep, warm, warm_max, grace_s \
     FROM pgstencil.project";
/// Where nothing changes it only reads: ON CONFLICT would lock the row, and every hit asks.
const NOTE: &str = include_str!("queries/note_project.sql");

/// Asks for those of all projects.
pub(super) fn all() -> Statement {
    sql::fill(ALL, &[])
}

impl ProjectSettings {
    /// Those of a config.
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

    /// Notes them if others were noted before, or none: to be sent with something else.
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
    /// Notes a project's settings for what other processes do.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_settings(&mut self, settings: &ProjectSettings) -> Result<()> {
        self.session().execute(settings.note()).await.doing(|| "note the settings of the project".into())?;
        Ok(())
    }

    /// The settings of all projects that have noted some.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn projects(&mut self) -> Result<Vec<ProjectSettings>> {
        self.session().rows(all()).await.doing(|| "read the settings of the projects".into())
    }
}
