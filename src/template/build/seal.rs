//! The seal: the last step of a build, after which its databases are a template.

use super::inspect::oid_of;
use super::{Built, vacate};
use crate::context::Context;
use crate::error::Result;
use crate::names;
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, sql};
use crate::registry::{DatabaseRow, Registry, database};
use crate::template::permit::Permit;
use crate::template::{Provisional, Template, TemplateDatabase, Unsealed};

/// Runs the last step. The door is closed first, so that no session enters in between; then one transaction
/// makes the databases a template. `replaces`: it replaces the ready template of the same inputs.
pub(super) async fn seal<P: Permit>(
    registry: &mut Registry,
    context: &Context<'_>,
    built: Built<'_, P>,
    replaces: bool,
) -> Result<Template> {
    let took = built.started.elapsed();
    let Built { permit, base, id, rows, inspected, unsealed, .. } = built;
    let unsealed = unsealed.as_ref();
    for row in &rows {
        vacate::close(registry, context, row, oid_of(row)?).await?;
    }
    context.deadline.check("the seal")?;
    // Before the commit, so that the template is never without a lock against its drop.
    registry
        .session()
        .try_lock_shared(LockKey::template(id))
        .await
        .doing(|| "lock the new template".into())?;
    let fingerprint = permit.recipe().fingerprint();
    let what = match unsealed {
        None => "pgstencil template",
        Some(_) => "pgstencil, not sealed",
    };
    let words =
        format!("{what}: {} of {}, {}", context.definition.name, context.project, fingerprint.short());
    registry.session().begin().await.doing(|| "begin the seal".into())?;
    let done = async {
        registry.session().run(sql::flushed()).await?;
        for (i, row) in rows.iter().enumerate() {
            let replay = &inspected.replays[i];
            let contents = &inspected.contents[i];
            let session = registry.session();
            let name = final_name(row, unsealed);
            match unsealed {
                None => {
                    session.run(sql::rename_database(&row.private_name, name)).await?;
                }
                Some(_) => database::keep_private_name(session, row.id).await?,
            }
            // Every role that may create databases may copy a database with this mark, and the contents of a
            // private database are not for every role.
            let mark = names::is_public_source(&context.definition.from);
            session.run(sql::is_template(name, mark)).await?;
            session
                .run(sql::comment_database(name, &row.mark().comment(&words, replay.comment.as_deref())))
                .await?;
            let size = (contents.bytes, contents.files);
            database::set_present(session, row.id, size, replay).await?;
            if let Some(shape) = &inspected.shapes[i] {
                database::set_shape(session, row.id, shape).await?;
            }
        }
        if replaces {
            // Before the new one is ready: there is never more than one ready template.
            registry.replace_template(id, context.project, &context.definition.name, &fingerprint).await?;
        }
        let millis = took.as_millis() as u64;
        let done = match unsealed {
            None => registry.set_ready(id, &inspected.built_with, millis).await?,
            Some(why) => {
                let (text, note) = (why.message(), why.note());
                registry.set_unsealed(id, &text, &note, &inspected.built_with, millis).await?
            }
        };
        match done {
            true => Ok(()),
            // Another process declared the build dead, which the lock should have prevented.
            false => Err(sqlx::Error::RowNotFound),
        }
    }
    .await;
    registry.session().end(done).await.doing(|| format!("seal template {}", fingerprint.short()))?;
    let databases = rows
        .iter()
        .enumerate()
        .map(|(i, row)| {
            Ok(TemplateDatabase {
                alias: row.alias.clone(),
                name: final_name(row, unsealed).to_owned(),
                oid: oid_of(row)?,
                bytes: inspected.contents[i].bytes,
                files: inspected.contents[i].files,
                replay: inspected.replays[i].clone(),
            })
        })
        .collect::<Result<_>>()?;
    let mut template = Template {
        id,
        fingerprint,
        contents_of: fingerprint,
        extends: base.map(|base| base.extends.clone()),
        provisional: base.is_some_and(|base| base.provisional).then(Provisional::default),
        accepted: false,
        databases,
        build_time: base.is_none().then_some(took),
        needs_look: !inspected.built_with.available.is_empty(),
        source: inspected.built_with.source.clone().map(Box::new),
    };
    if let Some(unsealed) = unsealed {
        template.become_unsealed(unsealed);
    }
    Ok(template)
}

/// Returns the final name of a database.
fn final_name<'r>(row: &'r DatabaseRow, unsealed: Option<&Unsealed>) -> &'r str {
    match unsealed {
        None => &row.name,
        Some(_) => &row.private_name,
    }
}
