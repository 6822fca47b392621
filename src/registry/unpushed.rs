//! Templates that are to be pushed to the remote store of the process that built them: from the seal until the store has
//! them.

use crate::error::Result;
use crate::names::Fingerprint;
use crate::pg::Doing as _;
use crate::pg::sql;

use super::Registry;

const SET: &str = "INSERT INTO pgstencil.unpushed SELECT id FROM pgstencil.template WHERE id = $1 AND state = 'ready' \
     ON CONFLICT DO NOTHING";
const UNSET: &str = "DELETE FROM pgstencil.unpushed WHERE template_id = $1";
const ANY: &str = "SELECT EXISTS (SELECT FROM pgstencil.unpushed u JOIN pgstencil.template t ON t.id = u.template_id \
     WHERE t.project = $1 AND t.definition = $2 AND t.fingerprint = $3 AND t.state = 'ready' \
     AND pg_has_role($4::name, t.built_by, 'USAGE'))";

impl Registry {
    /// Records that a ready template is to be pushed.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_unpushed(&mut self, id: i64) -> std::result::Result<(), sqlx::Error> {
        self.session().run(sql::fill(SET, &[&id])).await
    }

    /// Records that the store has a template.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn set_pushed(&mut self, id: i64) -> Result<()> {
        let done = self.session().run(sql::fill(UNSET, &[&id])).await;
        done.doing(|| "record that a template was pushed".into())
    }

    /// Returns whether the ready template of this key is still to be pushed.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn is_unpushed(
        &mut self,
        project: &str,
        definition: &str,
        fingerprint: &Fingerprint,
    ) -> Result<bool> {
        let role = self.facts().began_as.clone();
        let (unpushed,): (bool,) = self
            .session()
            .one(sql::fill(ANY, &[&project, &definition, &fingerprint, &role]))
            .await
            .doing(|| "find out whether a template was pushed".into())?;
        Ok(unpushed)
    }
}
