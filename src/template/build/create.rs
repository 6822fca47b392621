//! Databases of a build before it begins: copies of the database that builds start from, or of a base.

use crate::context::Context;
use crate::database::create::{self, Copy};
use crate::database::strategy::Chooser;
use crate::error::Result;
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, catalog, sql};
use crate::registry::{DatabaseRow, Registry};
use crate::template::Template;
use crate::template::from::{self, Start};

/// Approximate bytes and files of an empty database (`template0`), in every version of Postgres: they decide
/// how it is copied.
const EMPTY: (i64, i64) = (8_000_000, 300);

/// Copies the database that builds start from, which is empty unless the config sets another.
pub(in crate::template) async fn create_empty(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
) -> Result<Start> {
    let chooser = Chooser::read(registry, context, false).await?;
    let from = from::find(registry, context).await?;
    let (mut bytes, files) = EMPTY;
    if let Some(from) = &from {
        bytes = catalog::size(registry.session(), &[from.oid]).await.unwrap_or(bytes);
    }
    let mut start = Start::default();
    for row in rows {
        let copy = Copy {
            target: row.private_name.clone(),
            source: context.definition.from.to_string(),
            source_oid: from.as_ref().map(|from| from.oid),
            strategy: chooser.choose(bytes, files),
            open: true,
        };
        create::create(registry.session(), &copy, context).await?;
        let words = format!("pgstencil builds {} of {} here", context.definition.name, context.project);
        registry.mark_created(row, &words, None).await?;
        if let (Some(from), None) = (&from, &start.source) {
            start = from::start(registry, context, from, &row.private_name).await?;
        }
    }
    Ok(start)
}

/// Copies a template to the databases of a build. The copies are closed until their settings and
/// grants are as in the template.
pub(in crate::template) async fn copy_base(
    registry: &mut Registry,
    context: &Context<'_>,
    id: i64,
    rows: &mut [DatabaseRow],
    base: &Template,
    words: &str,
) -> Result<()> {
    let chooser = Chooser::read(registry, context, false).await?;
    let copies = base.copies_to(rows, &chooser);
    let keys = [LockKey::template(base.id), LockKey::template(id)];
    create::create_all(registry, context, &copies, &keys).await?;
    for (row, from) in rows.iter_mut().zip(base.databases()) {
        let builders = from.replay.comment.as_deref();
        registry.mark_created(row, words, builders).await?;
        from.reapply(registry, context, &row.private_name, "copy of a template").await?;
        open(registry, &row.private_name).await?;
    }
    Ok(())
}

pub(super) async fn open(registry: &mut Registry, name: &str) -> Result<()> {
    registry
        .session()
        .run(sql::allow_connections(name, true))
        .await
        .doing(|| format!("open database `{name}`"))
}
