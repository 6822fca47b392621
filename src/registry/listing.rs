//! All templates and clones with their databases, read in one message however many there are.

use std::collections::{HashMap, HashSet};

use sqlx::FromRow;
use sqlx::postgres::types::Oid;

use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::lock::LockKey;
use crate::pg::sql;

use super::database::Owner;
use super::{CloneRow, Registry, TemplateRow, clone, template};

/// Database of a template or a clone, as a list shows it.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct ListedDatabase {
    template_id: Option<i64>,
    clone_id: Option<String>,
    /// Alias of the database in its template or clone.
    pub(crate) alias: String,
    /// Name that it has once it is present.
    pub(crate) name: String,
    /// Its oid, known once it is created.
    pub(crate) oid: Option<Oid>,
    /// Size in bytes when its template was sealed.
    pub(crate) bytes: Option<i64>,
}

/// Content of a registry.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    /// Templates, by project, definition and age.
    pub(crate) templates: Vec<TemplateRow>,
    /// Clones, oldest first.
    pub(crate) clones: Vec<CloneRow>,
    /// Locks that sessions hold.
    pub(crate) held: HashSet<LockKey>,
    databases: HashMap<Owner, Vec<ListedDatabase>>,
}

impl Listed {
    /// Removes the databases of a template or a clone from the list, and returns them in the order of the definition.
    pub(crate) fn take_databases(&mut self, owner: &Owner) -> Vec<ListedDatabase> {
        self.databases.remove(owner).unwrap_or_default()
    }
}

const DATABASES: &str = "SELECT template_id, clone_id, role AS alias, name, oid, bytes \
     FROM pgstencil.database ORDER BY ordinal";

impl Registry {
    /// Returns all templates and clones.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn listed(&mut self) -> Result<Listed> {
        let doing = || "list templates and clones".to_owned();
        let message = [template::all(), clone::all(), clone::held(), sql::fill(DATABASES, &[])];
        let [templates, clones, held, databases] = self.session().send(message).await.doing(doing)?;
        let mut by_owner: HashMap<Owner, Vec<ListedDatabase>> = HashMap::new();
        for database in databases.read::<ListedDatabase>().doing(doing)? {
            let of_template = database.template_id.map(Owner::Template);
            if let Some(owner) = of_template.or_else(|| database.clone_id.clone().map(Owner::Clone)) {
                by_owner.entry(owner).or_default().push(database);
            }
        }
        Ok(Listed {
            templates: templates.read().doing(doing)?,
            clones: clones.read().doing(doing)?,
            held: clone::held_keys(held.read().doing(doing)?),
            databases: by_owner,
        })
    }
}
