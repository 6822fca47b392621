//! The database that full builds start from: `from`.
//!
//! It is copied as it is, with the owners of its objects. Its contents are recorded with the template, and
//! checked again before a build and now and then in the background; never at a hit.

use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Warning};
use crate::names::{EMPTY_DATABASE, Mark};
use crate::pg::catalog::{self, Database, PulledFrom, Source};
use crate::pg::inventory::{self, Class, Reading};
use crate::pg::session::OpenError;
use crate::pg::{Session, sql};
use crate::registry::Registry;

/// State of the databases of a build before its command runs.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// The source of the copies, if that is not the empty database.
    pub(super) source: Option<Source>,
    /// Number of objects in each database.
    pub(super) objects: i64,
    /// Whether something in them was restored from a dump.
    pub(super) restored: bool,
    /// The store whose entry is restored.
    pub(super) pulled: Option<PulledFrom>,
}

/// Finds the database that the definition's builds start from; `None` if that is the empty one. Reports the
/// sessions in it, since CREATE DATABASE waits for them.
///
/// # Errors
/// [`Kind::Config`] if it does not exist or belongs to pgstencil, [`Kind::Permission`] if the role may not copy
/// it; errors of the driver.
pub(super) async fn find(registry: &mut Registry, context: &Context<'_>) -> Result<Option<Database>> {
    let (name, definition) = (&context.definition.from, &context.definition.name);
    if name == EMPTY_DATABASE {
        return Ok(None);
    }
    let of = format!("`from` of template `{definition}`");
    let found = catalog::database(registry.session(), name).await?;
    let Some(found) = found.filter(|found| !found.invalid) else {
        return Err(Error::config(format!("there is no database `{name}` ({of})"))
            .hint("create it, or name another database of the server in `from`"));
    };
    if Mark::any_in(found.comment.as_deref()) || **name == *registry.session().database() {
        return Err(Error::config(format!("database `{name}` belongs to pgstencil ({of})"))
            .hint("name a database of your own in `from`, or `template0`"));
    }
    if !found.ours && !found.is_template {
        let role = sql::quote_ident(&registry.facts().role);
        return Err(Error::new(
            Kind::Permission,
            format!("role {role} may not copy database `{name}` ({of})"),
        )
        .detail(format!("it belongs to role `{}`", found.owner))
        .hint(format!("run as its owner: {};", sql::owner(name, &registry.facts().role).text()))
        .hint(format!("or let every role with CREATEDB copy it: {};", sql::is_template(name, true).text())));
    }
    let visitors = catalog::visitors(registry.session(), found.oid).await?;
    if !visitors.is_empty() {
        let who: Vec<String> = visitors.iter().map(catalog::Visitor::describe).collect();
        let warning = Warning::new(format!("database `{name}` ({of}) is in use, so its copy has to wait"));
        let warning = who.into_iter().fold(warning, Warning::detail);
        context.tell(Event::Warning(
            &warning.detail("CREATE DATABASE fails if these sessions are still connected after 5 s"),
        ));
    }
    Ok(Some(found))
}

/// Inspects a new copy of it, before anything runs there.
///
/// # Errors
/// [`Kind::Permission`] if a superuser would run code that others may have put there; errors of the driver.
pub(super) async fn start(
    registry: &mut Registry,
    context: &Context<'_>,
    from: &Database,
    copy: &str,
) -> Result<Start> {
    let public = catalog::is_public(registry.session(), from.oid).await?;
    let mut session = open(context, copy).await?;
    let done = async {
        if let Some(error) = planted(&mut session, context, public).await? {
            return Err(error);
        }
        Ok(Start {
            source: Some(Source {
                name: from.name.clone(),
                oid: from.oid.0,
                contents: contents(&mut session).await?,
            }),
            objects: catalog::objects(&mut session).await?,
            ..Start::default()
        })
    }
    .await;
    session.close().await;
    done
}

/// Checks for objects where every role may create some: another user may have planted a function or an operator
/// that a later statement finds. It would run with a superuser's rights.
async fn planted(session: &mut Session, context: &Context<'_>, public: bool) -> Result<Option<Error>> {
    if !catalog::is_superuser(session).await? {
        return Ok(None);
    }
    let name = &context.definition.from;
    let schemas = catalog::public_schemas(session).await?;
    let mut revoke: Vec<String> = schemas
        .iter()
        .map(|schema| format!("REVOKE CREATE ON SCHEMA {} FROM PUBLIC;", sql::quote_ident(schema)))
        .collect();
    if public {
        let name = sql::quote_ident(name);
        revoke.push(format!("REVOKE CREATE ON DATABASE {name} FROM PUBLIC;"));
    }
    if revoke.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        Error::new(
            Kind::Permission,
            format!(
                "superuser `{}` cannot build template `{}` from database `{name}`",
                session.facts().began_as,
                context.definition.name
            ),
        )
        .detail(format!(
            "every role may create objects in `{name}`, and a function of another role there would run with the superuser's privileges"
        ))
        .hint("connect as a role that is not a superuser")
        .hint(format!(
            "or check `{name}` for objects of other roles, then run in it: {}",
            revoke.join(" ")
        )),
    ))
}

/// Returns a hash of a database's contents: of its inventory, encoding and locale. Properties outside it, such
/// as its settings, are not copied with it.
async fn contents(session: &mut Session) -> Result<String> {
    let traits = catalog::own_traits(session).await?;
    let mut inventory = inventory::read(session, &Reading::default()).await?;
    inventory.entries.remove(super::compare::DATABASE);
    let mut hasher = blake3::Hasher::new();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    text(&traits);
    for (heading, lines) in &inventory.entries {
        text(heading);
        // Any use of the database moves its sequences.
        let lines = lines.iter().filter(|line| line.class != Class::Sequences);
        let lines: Vec<&str> = lines.map(|line| line.text.as_str()).collect();
        text(&lines.join("\n"));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

async fn open(context: &Context<'_>, name: &str) -> Result<Session> {
    match Session::open(context.endpoint, name, context.deadline).await {
        Ok(session) => Ok(session),
        Err(OpenError::Other(error)) => Err(error),
        Err(OpenError::Missing) => Err(Error::failed(format!("database `{name}` disappeared"))),
    }
}

/// Checks the definition's source, and records changes with the templates that were built from it, so that none
/// is a hit or a base any more. A source that refuses connections cannot be changed, only replaced.
///
/// # Errors
/// Errors of the driver, from the registry. A source that cannot be inspected is no error: a build reports the
/// reason.
pub(super) async fn look(registry: &mut Registry, context: &Context<'_>) -> Result<()> {
    let name = &context.definition.from;
    if name == EMPTY_DATABASE {
        return Ok(());
    }
    let Some(found) = catalog::database(registry.session(), name).await? else {
        return Ok(());
    };
    let public = catalog::is_public(registry.session(), found.oid).await?;
    let mut held = None;
    if found.open
        && !found.invalid
        && let Ok(mut session) = open(context, name).await
    {
        held = match planted(&mut session, context, public).await {
            Ok(None) => contents(&mut session).await.ok(),
            // No template was built from its current contents.
            Ok(Some(_)) => Some(String::new()),
            Err(_) => None,
        };
        // Other processes that copy it wait for this session to end.
        session.close().await;
    }
    registry.note_source(name, found.oid, held.as_deref()).await
}

/// Runs [`look`], if the last check is an hour ago: for a process that no command waits for.
///
/// # Errors
/// As [`look`].
pub(crate) async fn look_again(registry: &mut Registry, context: &Context<'_>) -> Result<()> {
    let name = &context.definition.from;
    match name != EMPTY_DATABASE && registry.take_look(name).await? {
        true => look(registry, context).await,
        false => Ok(()),
    }
}
