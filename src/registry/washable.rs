//! What of a template's clones can be washed, read once from a copy that no other session has used.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::types::Json;

use crate::error::Result;
use crate::pg::Doing as _;
use crate::pg::sql;
use crate::pg::washable::Washable;

use super::Registry;

/// A login trigger would run code in the copy.
const LACKS: &str = "SELECT EXISTS (SELECT FROM pgstencil.template t WHERE t.id = $1 AND t.state = 'ready' \
     AND jsonb_array_length(coalesce(t.built_with -> 'login_triggers', '[]')) = 0 \
     AND NOT EXISTS (SELECT FROM pgstencil.washable w WHERE w.template_id = t.id))";
const NOTE: &str = "INSERT INTO pgstencil.washable (template_id, alias, tables, sequences) \
     SELECT t.id, $2, $3, $4 FROM pgstencil.template t WHERE t.id = $1 ON CONFLICT DO NOTHING";
const OF: &str = "SELECT \
     coalesce((SELECT jsonb_object_agg(k, w.tables -> k) FROM unnest($3::text[]) k WHERE w.tables ? k), '{}'), \
     coalesce((SELECT jsonb_object_agg(k, w.sequences -> k) FROM unnest($4::text[]) k WHERE w.sequences ? k), '{}') \
     FROM pgstencil.washable w WHERE w.template_id = $1 AND w.alias = $2";

impl Registry {
    /// Returns whether it is not known yet what can be washed in clones of a ready template.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn lacks_washable(&mut self, template: i64) -> Result<bool> {
        let doing = || "see whether it is known what can be washed".into();
        self.session().scalar(sql::fill(LACKS, &[&template])).await.doing(doing)
    }

    /// Records what can be washed in clones of a template: for each alias what an unused copy shows.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn note_washable(&mut self, template: i64, all: &[(String, Washable)]) -> Result<()> {
        let note = |(alias, washable): &(String, Washable)| {
            sql::fill(NOTE, &[&template, alias, &Json(&washable.tables), &Json(&washable.sequences)])
        };
        let notes: Vec<_> = all.iter().map(note).collect();
        self.session().send_all(&notes).await.doing(|| "record what can be washed".into())?;
        Ok(())
    }

    /// Returns what is known of these tables and sequences in a clone of a template; of the others nothing is washed.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn washable(
        &mut self,
        template: i64,
        alias: &str,
        tables: &BTreeSet<u32>,
        sequences: &BTreeSet<u32>,
    ) -> Result<Washable> {
        let texts = |oids: &BTreeSet<u32>| oids.iter().map(u32::to_string).collect::<Vec<_>>();
        let of = sql::fill(OF, &[&template, &alias, &texts(tables), &texts(sequences)]);
        let found: Option<(Json<BTreeMap<_, _>>, Json<BTreeMap<_, _>>)> =
            self.session().first(of).await.doing(|| "read what can be washed".into())?;
        let found = found.map(|(Json(tables), Json(sequences))| Washable { tables, sequences });
        Ok(found.unwrap_or_default())
    }
}
