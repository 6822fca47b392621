//! The seal: the last step of a build, after which its databases are a template.

use std::time::Duration;

use super::inspect::{Inspected, oid_of};
use super::{Built, Way, vacate};
use crate::context::Context;
use crate::error::Result;
use crate::names::{self, Fingerprint};
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, sql};
use crate::registry::{DatabaseRow, Registry, database};
use crate::template::permit::Permit;
use crate::template::pull;
use crate::template::{Provisional, Template, TemplateDatabase, Unsealed};

/// Runs the last step. The door is closed first, so that no session enters in between; then one transaction
/// makes the databases a template. `replaces`: it replaces the ready template of the same inputs.
pub(super) async fn seal<P: Permit>(
    registry: &mut Registry,
    context: &Context<'_>,
    built: Built<'_, P>,
    replaces: bool,
) -> Result<Template> {
    let took = built.took.unwrap_or_else(|| built.started.elapsed());
    let Built { permit, way, id, rows, inspected, unsealed, .. } = built;
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
            None => {
                let done = registry.set_ready(id, &inspected.built_with, millis).await?;
                if matches!(way, Way::Full | Way::On { .. }) && pull::is_to_be_pushed(context) {
                    registry.set_unpushed(id).await?;
                }
                done
            }
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
    let names = rows.iter().map(|row| final_name(row, unsealed).to_owned());
    let mut template = template(context, &rows, &inspected, names, fingerprint, way)?;
    template.id = id;
    template.build_time = template.build_time.map(|_| took);
    if let Some(unsealed) = unsealed {
        template.become_unsealed(unsealed);
    }
    Ok(template)
}

/// Closes the databases of a build, so that they can be copied like those of a template, and returns them as one.
pub(super) async fn hold<P: Permit>(
    registry: &mut Registry,
    context: &Context<'_>,
    built: &Built<'_, P>,
) -> Result<Template> {
    for (i, row) in built.rows.iter().enumerate() {
        vacate::close(registry, context, row, oid_of(row)?).await?;
        if let Some(shape) = &built.inspected.shapes[i] {
            database::set_shape(registry.session(), row.id, shape)
                .await
                .doing(|| "record the shape of a database".into())?;
        }
    }
    let names = built.rows.iter().map(|row| row.private_name.clone());
    let fingerprint = built.permit.recipe().fingerprint();
    let template = template(context, &built.rows, &built.inspected, names, fingerprint, built.way)?;
    Ok(Template { id: built.id, ..template })
}

/// Returns a template with databases of these names.
fn template(
    context: &Context<'_>,
    rows: &[DatabaseRow],
    inspected: &Inspected,
    names: impl Iterator<Item = String>,
    fingerprint: Fingerprint,
    way: Way<'_>,
) -> Result<Template> {
    let databases = rows
        .iter()
        .zip(names)
        .enumerate()
        .map(|(i, (row, name))| {
            Ok(TemplateDatabase {
                alias: row.alias.clone(),
                name,
                oid: oid_of(row)?,
                bytes: inspected.contents[i].bytes,
                files: inspected.contents[i].files,
                replay: inspected.replays[i].clone(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(Template {
        id: 0,
        fingerprint,
        contents_of: fingerprint,
        extends: way.extends(),
        provisional: way.is_provisional(context.definition.rebuild).then(Provisional::default),
        accepted: false,
        waypoint: matches!(way, Way::First { .. }),
        databases,
        build_time: match way {
            Way::Full => Some(Duration::ZERO),
            Way::Pulled { entry, .. } if entry.extends.is_none() => Some(Duration::ZERO),
            Way::Pulled { .. } | Way::On { .. } | Way::First { .. } => None,
        },
        needs_look: !inspected.built_with.available.is_empty(),
        source: inspected.built_with.source.clone().map(Box::new),
        restored: inspected.built_with.restored,
    })
}

/// Returns the final name of a database.
fn final_name<'r>(row: &'r DatabaseRow, unsealed: Option<&Unsealed>) -> &'r str {
    match unsealed {
        None => &row.name,
        Some(_) => &row.private_name,
    }
}
