//! Definitions for which no waypoints are built, since one failed.

use crate::config::{Definition, Waypoints};
use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql;

use super::Registry;

const NOTE: &str = "INSERT INTO pgstencil.no_waypoint (project, definition, commands, why) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (project, definition) DO UPDATE SET commands = $3, why = $4, at = now()";
const WHY: &str =
    "SELECT why FROM pgstencil.no_waypoint WHERE project = $1 AND definition = $2 AND commands = $3";

/// Returns a hash of the commands, and the way of using them, that decide whether waypoints work.
fn commands(definition: &Definition) -> String {
    let mut hasher = blake3::Hasher::new();
    for command in [Some(&definition.build), definition.build_until.as_ref()] {
        hasher.update(command.map_or("", String::as_str).as_bytes()).update(b"\0");
    }
    if definition.waypoints == Waypoints::Copy {
        hasher.update(b"copy");
    }
    hasher.finalize().to_hex().to_string()
}

impl Registry {
    /// Records that no waypoints are built until the commands change.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_no_waypoints(
        &mut self,
        project: &str,
        definition: &Definition,
        why: &str,
    ) -> Result<()> {
        self.session()
            .execute(sql::fill(NOTE, &[&project, &definition.name, &commands(definition), &why]))
            .await
            .doing(|| "record that waypoints do not work".into())?;
        Ok(())
    }

    /// Returns the reason for building no waypoints with the current commands, if there is one.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn why_no_waypoints(
        &mut self,
        project: &str,
        definition: &Definition,
    ) -> Result<Option<String>> {
        self.session()
            .first_scalar(sql::fill(WHY, &[&project, &definition.name, &commands(definition)]))
            .await
            .doing(|| "check whether waypoints work".into())
    }
}
