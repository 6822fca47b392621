//! From what a build left to a template: look at it, settle it, close the door, and seal it.

use sqlx::postgres::types::Oid;

use super::build::Done;
use super::source::Start;
use super::{Extends, Provisional, Template, TemplateDatabase, Unsealed, vacate};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::fingerprint::Recipe;
use crate::names;
use crate::pg::catalog::{self, BuiltWith, Contents};
use crate::pg::collation::{self, Collation};
use crate::pg::lock::LockKey;
use crate::pg::session::OpenError;
use crate::pg::{Doing as _, Session, inventory, replay, sql};
use crate::registry::database;
use crate::registry::{DatabaseRow, Registry};

/// A `reset` command drops and creates its database: what now stands under our private name and
/// belongs to our role is adopted.
pub(super) async fn adopt(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
) -> Result<()> {
    for row in rows.iter_mut() {
        let refuse = |what: &str| {
            Error::new(
                Kind::Build,
                format!("the build command {what}: database `{}` (role `{}`)", row.private_name, row.role),
            )
            .hint("let it fill the database that DATABASE_URL names, under that name")
        };
        let Some(found) = catalog::database(registry.session(), &row.private_name).await? else {
            return Err(refuse("dropped or renamed what it should fill"));
        };
        if found.owner != registry.facts().role && Some(found.oid) == row.oid {
            own(registry, row, &found.owner).await?;
        }
        if Some(found.oid) == row.oid {
            continue;
        }
        if !found.ours {
            return Err(refuse(&format!(
                "left what it should fill to role `{}`, which pgstencil's role `{}` cannot become",
                found.owner,
                registry.facts().role
            )));
        }
        database::adopt(registry.session(), row.id, found.oid).await?;
        row.oid = Some(found.oid);
        // Marked at once: until then only the private name says that it is ours.
        registry
            .session()
            .run(sql::comment_database(
                &row.private_name,
                &row.mark().comment("pgstencil adopted what the build made anew", found.comment.as_deref()),
            ))
            .await
            .doing(|| "mark an adopted database".into())?;
    }
    for row in rows.iter() {
        for name in catalog::named_after(registry.session(), &row.private_name).await? {
            context.tell(Event::Warning(&format!(
                "the build command created database `{name}` beside its own; it is left alone: a template holds the databases of its roles only"
            )));
        }
    }
    Ok(())
}

/// Fails if the build gave a database to a role whose databases ours cannot manage.
async fn own(registry: &mut Registry, row: &DatabaseRow, owner: &str) -> Result<()> {
    match replay::lack(registry.session(), owner, false).await? {
        None => Ok(()),
        Some(lack) => Err(Error::new(
            Kind::Permission,
            format!(
                "the build command gave database `{}` (role `{}`) to role `{owner}`, so it cannot become a template",
                row.private_name, row.role
            ),
        )
        .detail(lack)
        .hint(format!(
            "run that statement as a superuser, or let the build command leave the database to role `{}`",
            registry.facts().role
        ))),
    }
}

pub(super) struct Inspected {
    contents: Vec<Contents>,
    pub(super) replays: Vec<replay::Replay>,
    /// Of each database, where it is wanted.
    pub(super) shapes: Vec<Option<String>>,
    built_with: BuiltWith,
}

/// Adopts, waits for stragglers, refuses empty databases, and settles what is there.
pub(super) async fn inspect(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
    start: &Start,
) -> Result<Inspected> {
    adopt(registry, context, rows).await?;
    let mut inspected = Inspected {
        contents: Vec::new(),
        replays: Vec::new(),
        shapes: Vec::new(),
        built_with: BuiltWith {
            server_version: registry.facts().version,
            source: start.source.clone(),
            ..BuiltWith::default()
        },
    };
    for row in rows.iter() {
        let oid = oid_of(row)?;
        vacate::wait_for_the_builds_own(registry, context, row, oid).await?;
        let gone = |e| match e {
            OpenError::Missing => {
                Error::new(Kind::Build, format!("database `{}` disappeared", row.private_name))
            }
            OpenError::Other(e) => e,
        };
        let mut session =
            Session::open(context.endpoint, &row.private_name, context.deadline).await.map_err(gone)?;
        let contents = catalog::contents(&mut session).await?;
        if contents.objects == start.objects && !context.definition.allow_empty {
            return Err(Error::new(
                Kind::Build,
                format!("the build command changed nothing in database `{}` (role `{}`)", row.private_name, row.role),
            )
            .hint("does it read DATABASE_URL, or a variable that [template.X.env] maps? it may have migrated another database")
            .hint("`allow_empty = true` seals an empty template all the same"));
        }
        vacate::drop_what_no_clone_has(&mut session, context, row).await?;
        inspected.shapes.push(match context.definition.allow_unchanged {
            true => None,
            false => Some(inventory::shape(&mut session).await?),
        });
        // One after the other: a role's CONNECTION LIMIT may be low.
        session.close().await;
        // Functions of expression indexes find things where the user's sessions find them.
        let mut users = Session::open_for_user(context.endpoint, &row.private_name, context.deadline)
            .await
            .map_err(gone)?;
        for complaint in catalog::settle(&mut users).await? {
            context.tell(Event::Warning(&complaint));
        }
        // ANALYZE and VACUUM change the size.
        let contents = catalog::contents(&mut users).await?;
        users.close().await;
        inspected.replays.push(replay::read(registry.session(), oid, &row.mark()).await?);
        for (name, version) in &contents.extensions {
            inspected.built_with.extensions.insert(name.clone(), version.clone());
        }
        let built_with = &mut inspected.built_with;
        built_with.login_triggers.extend(contents.login_triggers.iter().cloned());
        built_with.unlogged_tables.extend(contents.unlogged_tables.iter().cloned());
        let warnings = contents.collations.iter().filter_map(Collation::warning);
        built_with.warned_collations.extend(warnings);
        let versions = collation::versions(registry.session(), &contents.collations).await?;
        built_with.collations.extend(versions);
        inspected.contents.push(contents);
    }
    let extensions: Vec<String> = inspected.built_with.extensions.keys().cloned().collect();
    if !extensions.is_empty() {
        let available = catalog::available_extensions(registry.session(), &extensions).await?;
        inspected.built_with.available =
            available.into_iter().filter_map(|(name, version)| Some((name, version?))).collect();
    }
    Ok(inspected)
}

pub(super) fn oid_of(row: &DatabaseRow) -> Result<Oid> {
    row.oid.ok_or_else(|| Error::internal(format!("database `{}` has no oid", row.private_name)))
}

/// What the seal makes of a build.
pub(super) struct Sealing<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) extends: Option<&'a Extends>,
    pub(super) provisional: bool,
    /// Whether it takes the place of the ready template of the same fingerprint.
    pub(super) replaces: bool,
    /// Why it does not become a template, if so: then it only can be copied, for a while.
    pub(super) unsealed: Option<&'a Unsealed>,
}

/// The last step. The door is closed first, so that nobody comes in between; then one transaction
/// makes the databases a template.
pub(super) async fn seal(
    registry: &mut Registry,
    context: &Context<'_>,
    done: Done,
    sealing: &Sealing<'_>,
) -> Result<Template> {
    let took = done.started.elapsed();
    let Done { id, rows, inspected, .. } = done;
    for row in &rows {
        vacate::close(registry, context, row, oid_of(row)?).await?;
    }
    context.deadline.check("the seal")?;
    // Before the commit, so that there is no moment at which the template can be dropped.
    registry
        .session()
        .try_lock_shared(LockKey::template(id))
        .await
        .doing(|| "lock the new template".into())?;
    let fingerprint = sealing.recipe.fingerprint();
    let what = match sealing.unsealed {
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
            let name = sealing.name(row);
            match sealing.unsealed {
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
        if sealing.replaces {
            // Before the new one is ready: there is never more than one.
            registry.replace_template(id, context.project, &context.definition.name, &fingerprint).await?;
        }
        let millis = took.as_millis() as u64;
        let done = match sealing.unsealed {
            None => registry.set_ready(id, &inspected.built_with, millis).await?,
            Some(why) => {
                let (text, note) = (why.message(), why.note());
                registry.set_unsealed(id, &text, &note, &inspected.built_with, millis).await?
            }
        };
        match done {
            true => Ok(()),
            // Somebody declared the build dead, which the lock should have prevented.
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
                role: row.role.clone(),
                name: sealing.name(row).to_owned(),
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
        extends: sealing.extends.cloned(),
        provisional: sealing.provisional.then(Provisional::default),
        databases,
        build_time: sealing.extends.is_none().then_some(took),
        needs_look: !inspected.built_with.available.is_empty(),
        source: inspected.built_with.source.clone().map(Box::new),
    };
    if let Some(unsealed) = sealing.unsealed {
        template.become_unsealed(unsealed);
    }
    Ok(template)
}

impl Sealing<'_> {
    /// The name that a database gets.
    fn name<'r>(&self, row: &'r DatabaseRow) -> &'r str {
        match self.unsealed {
            None => &row.name,
            Some(_) => &row.private_name,
        }
    }
}
