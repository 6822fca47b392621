//! Rows of `pgstencil.project`: the settings of a project's config that other processes must know.

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, Row as _};

use crate::config::{CloneSettings, EvictionSettings, Recycle};
use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql::{self, Statement};
use crate::quantity::{Bytes, Seconds};

use super::Registry;

/// Settings of a project that evictions, cleanups and fillers of warm clones of any project apply. The registry
/// keeps them as one JSON value, so a new setting needs no new column; one that is missing there is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProjectSettings {
    /// Name of the project; a column of its own.
    #[serde(skip)]
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
    /// Whether `[clone] recycle` is `wash`.
    #[serde(default)]
    pub(crate) wash: bool,
}

const ALL: &str = "SELECT name, settings FROM pgstencil.project";
/// Without changes it only reads: ON CONFLICT would lock the row, and every hit runs this.
const NOTE: &str = "INSERT INTO pgstencil.project (name, settings) \
     SELECT new.* FROM (VALUES ($1::text, $2::jsonb)) new (name, settings) \
     WHERE NOT EXISTS (SELECT FROM pgstencil.project old WHERE old.name = new.name AND old.settings = new.settings) \
     ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, noted_at = now()";

/// Query for the settings of all projects.
pub(super) fn all() -> Statement {
    sql::fill(ALL, &[])
}

impl FromRow<'_, PgRow> for ProjectSettings {
    fn from_row(row: &PgRow) -> std::result::Result<Self, sqlx::Error> {
        let Json(settings) = row.try_get::<Json<Self>, _>("settings")?;
        Ok(ProjectSettings { name: row.try_get("name")?, ..settings })
    }
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
            wash: clone.recycle == Recycle::Wash,
        }
    }

    /// Statement that records them if other or no settings were recorded before: to be sent with another message.
    pub(super) fn note(&self) -> Statement {
        sql::planned("pgstencil_settings", NOTE, &[&self.name, &Json(self)])
    }
}

impl Registry {
    /// Records a project's settings for other processes.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_settings(&mut self, settings: &ProjectSettings) -> Result<()> {
        self.session()
            .execute(settings.note())
            .await
            .doing(|| "record the settings of the project".into())?;
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
