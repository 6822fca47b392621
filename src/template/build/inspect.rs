//! Checks whether the result of a build can become a template, and finds what its copies would lack.

use sqlx::postgres::types::Oid;

use super::vacate;
use crate::context::{Context, Source};
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Warning};
use crate::pg::catalog::{self, BuiltWith, Contents};
use crate::pg::collation::{self, Collation};
use crate::pg::session::OpenError;
use crate::pg::{Doing as _, Session, inventory, replay, sql};
use crate::registry::database;
use crate::registry::{DatabaseRow, Registry};
use crate::template::from::Start;

/// Adopts the database that now has the private name: a `reset` command drops and creates its database, which
/// is adopted if it belongs to pgstencil's role.
pub(super) async fn adopt(
    registry: &mut Registry,
    context: &Context<'_>,
    rows: &mut [DatabaseRow],
) -> Result<()> {
    let who = context.source.who();
    for row in rows.iter_mut() {
        let refuse = |what: &str| {
            Error::new(
                Kind::Build,
                format!("{who} {what}: database `{}` (alias `{}`)", row.private_name, row.alias),
            )
            .hint(match &context.source {
                Source::Command(_) => "let it migrate the database in DATABASE_URL; it must not rename the database or change its owner",
                Source::Filler(_) => "let it fill the database that it gets; it must not rename the database or change its owner",
            })
        };
        let Some(found) = catalog::database(registry.session(), &row.private_name).await? else {
            return Err(refuse("dropped or renamed the database that it should fill"));
        };
        if found.owner != registry.facts().role && Some(found.oid) == row.oid {
            own(registry, who, row, &found.owner).await?;
        }
        if Some(found.oid) == row.oid {
            continue;
        }
        if !found.ours {
            return Err(refuse("recreated its database with an owner that pgstencil cannot act as").detail(
                format!(
                    "owner `{}`; pgstencil's role `{}` is not a member of it",
                    found.owner,
                    registry.facts().role
                ),
            ));
        }
        database::adopt(registry.session(), row.id, found.oid).await?;
        row.oid = Some(found.oid);
        // Marked immediately: until then only the private name shows that it is pgstencil's.
        registry
            .session()
            .run(sql::comment_database(
                &row.private_name,
                &row.mark().comment("pgstencil adopted what the build recreated", found.comment.as_deref()),
            ))
            .await
            .doing(|| "tag an adopted database".into())?;
    }
    for row in rows.iter() {
        for name in catalog::named_after(registry.session(), &row.private_name).await? {
            context.tell(Event::Warning(
                &Warning::new(format!("{who} created a further database: `{name}`"))
                    .detail("it is not part of the template, and pgstencil does not drop it"),
            ));
        }
    }
    Ok(())
}

/// Fails if the build gave a database to a role whose databases pgstencil's role cannot manage.
async fn own(registry: &mut Registry, who: &str, row: &DatabaseRow, owner: &str) -> Result<()> {
    match replay::lack(registry.session(), owner, false).await? {
        None => Ok(()),
        Some(lack) => Err(Error::new(
            Kind::Permission,
            format!(
                "{who} changed the owner of database `{}` (alias `{}`) to role `{owner}`, so it cannot become a template",
                row.private_name, row.alias
            ),
        )
        .detail(lack)
        .hint(format!(
            "run that statement as a superuser, or keep role `{}` as the owner",
            registry.facts().role
        ))),
    }
}

/// Facts about the databases of a build, in the order of the databases.
pub(super) struct Inspected {
    pub(super) contents: Vec<Contents>,
    pub(super) replays: Vec<replay::Replay>,
    /// Shape of each database, where it is wanted.
    pub(super) shapes: Vec<Option<String>>,
    pub(super) built_with: BuiltWith,
}

/// Adopts, waits for stragglers, refuses empty databases, and analyzes and records the others.
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
            restored: start.restored,
            pulled: start.pulled.clone(),
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
                format!(
                    "{} changed nothing in database `{}` (alias `{}`)",
                    context.source.who(),
                    row.private_name,
                    row.alias
                ),
            )
            .hint(context.source.hint())
            .hint(format!(
                "to keep an empty template, set `allow_empty = true` in [template.{}]",
                context.definition.name
            )));
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
        for complaint in catalog::analyze_and_freeze(&mut users).await? {
            context.tell(Event::Warning(&Warning::new(complaint)));
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
    row.oid.ok_or_else(|| Error::internal(format!("database `{}` has no OID", row.private_name)))
}
