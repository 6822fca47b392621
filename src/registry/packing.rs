//! A registry in a cache file: which databases the file leaves out, and what of the registry stays at home.
//!
//! The statements run in single-user mode, in a copy of the data.

use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql;
use crate::private_server::{Pruning, SAYS};

use super::Registry;

/// Names of the databases of clones and of templates that are not ready. As before every DROP, OID and ownership tag
/// must match.
const LIST: &str = "COPY (SELECT '$says' || quote_ident(p.datname) \
     FROM pgstencil.database d JOIN pg_database p ON p.oid = d.oid \
     LEFT JOIN pgstencil.template t ON t.id = d.template_id \
     WHERE (d.clone_id IS NOT NULL OR t.state <> 'ready') \
     AND p.datname IN (d.name, d.private_name) \
     AND shobj_description(p.oid, 'pg_database') LIKE '%[pgstencil ' || d.nonce || ']') TO STDOUT";

/// Removes rows without databases and everything that says on which machine, by whom and where a template was built.
/// The VACUUM also removes the old versions of rows from the disk.
const SCRUB: [&str; 11] = [
    "DELETE FROM pgstencil.owed",
    "DELETE FROM pgstencil.dropped",
    "DELETE FROM pgstencil.replaced",
    "DELETE FROM pgstencil.failure",
    "DELETE FROM pgstencil.measurement",
    "DELETE FROM pgstencil.database d WHERE NOT EXISTS (SELECT FROM pg_database p WHERE p.oid = d.oid OR d.oid IS NULL AND p.datname = d.private_name)",
    "DELETE FROM pgstencil.clone c WHERE NOT EXISTS (SELECT FROM pgstencil.database d WHERE d.clone_id = c.id)",
    "DELETE FROM pgstencil.template t WHERE t.state <> 'ready' AND NOT EXISTS (SELECT FROM pgstencil.database d WHERE d.template_id = t.id)",
    "UPDATE pgstencil.template SET builder = '{\"host\": \"another machine\", \"pid\": 0}', log_tail = '', demand = 0, settle_failure = NULL, rebuild_wait = NULL",
    "UPDATE pgstencil.meta SET full_at = NULL",
    "VACUUM FULL",
];

/// Version of the collation of new databases.
const COLLATION: &str =
    "SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = 'template1'";

impl Registry {
    /// Returns the statements that prepare this registry for a cache file.
    pub(crate) fn pruning(&self) -> Pruning {
        Pruning {
            registry: self.name.clone(),
            list: LIST.replace("$says", SAYS),
            scrub: SCRUB.iter().map(|statement| (*statement).to_owned()).collect(),
        }
    }

    /// Returns the version of the collation of new databases; `None` if it has none, and before PostgreSQL 15.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn collation_version(&mut self) -> Result<Option<String>> {
        if self.facts().major() < 15 {
            return Ok(None);
        }
        let version = self.session().scalar(sql::fill(COLLATION, &[])).await;
        version.doing(|| "read the version of the collation".into())
    }
}
