//! Removes from a built database what no template can have: sessions, and the objects that the server keeps for
//! it outside it.
//!
//! The build's own sessions may still write, so pgstencil waits for them, and one that stays fails the build:
//! half a template must not be sealed. Other sessions are no part of the build: background workers that an
//! extension starts in each database, agents that watch the server. They are ended once the door is closed.

use sqlx::postgres::types::Oid;

use crate::context::Context;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::{Event, Warning};
use crate::pg::catalog::{self, Care, Visitor};
use crate::pg::{Doing as _, Session, cause, sql};
use crate::registry::{DatabaseRow, Registry};
use crate::template::source::command::STRAGGLERS;

/// Waits until the sessions of the build command have ended. Other sessions may stay.
///
/// # Errors
/// [`Kind::Build`] if some remain after ten seconds; errors of the driver.
pub(super) async fn wait_for_the_builds_own(
    registry: &mut Registry,
    context: &Context<'_>,
    row: &DatabaseRow,
    oid: Oid,
) -> Result<()> {
    let builder = context.endpoint.user();
    let care = |visitor: &Visitor| match visitor.is_clients_of(builder) {
        true => Care::Wait,
        false => Care::Ignore,
    };
    let session = registry.session();
    let left = catalog::clear(session, oid, STRAGGLERS, context.deadline, care).await?;
    none_left(registry, context, row, &left)
}

/// Refuses new sessions, ends those that are not the build's, and waits until none is left. The door stays closed.
///
/// # Errors
/// As [`wait_for_the_builds_own`].
pub(super) async fn close(
    registry: &mut Registry,
    context: &Context<'_>,
    row: &DatabaseRow,
    oid: Oid,
) -> Result<()> {
    let session = registry.session();
    session
        .run(sql::allow_connections(&row.private_name, false))
        .await
        .doing(|| format!("close database `{}`", row.private_name))?;
    let builder = context.endpoint.user();
    let care = |visitor: &Visitor| match visitor.is_clients_of(builder) {
        true => Care::Wait,
        false => Care::End,
    };
    let left = catalog::clear(session, oid, STRAGGLERS, context.deadline, care).await?;
    none_left(registry, context, row, &left)
}

/// Fails if a session is left, and reports its owner and how to end it.
fn none_left(registry: &Registry, context: &Context<'_>, row: &DatabaseRow, left: &[Visitor]) -> Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    let builder = context.endpoint.user();
    let own = left.iter().any(|visitor| visitor.is_clients_of(builder));
    let what = match own {
        true => "sessions of the build are still connected to",
        false => "sessions of other roles are still connected to",
    };
    let error =
        Error::new(Kind::Build, format!("{what} database `{}` (alias `{}`)", row.private_name, row.alias));
    let error = left.iter().fold(error, |e, v| e.detail(v.describe()));
    let mut hints: Vec<String> = Vec::new();
    for visitor in left {
        let hint = what_ends(visitor, context, &registry.facts().role);
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    Err(hints.into_iter().fold(error, Error::hint))
}

fn what_ends(visitor: &Visitor, context: &Context<'_>, role: &str) -> String {
    let role = sql::quote_ident(role);
    let who = context.source.who();
    if visitor.is_prepared() {
        let gid = sql::quote_literal(visitor.application.as_deref().unwrap_or_default());
        return format!(
            "finish the prepared transaction in {who}: COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}"
        );
    }
    if visitor.is_clients_of(context.endpoint.user()) {
        return format!(
            "let {who} close its sessions and end the processes that it starts, since a template with sessions cannot be cloned"
        );
    }
    match visitor.superuser {
        true => format!(
            "end the session as a superuser: SELECT pg_terminate_backend({}); and keep the program that opened it out of databases named `pgstencil_…`",
            visitor.pid
        ),
        false => format!(
            "let pgstencil end sessions of other roles, as a superuser: GRANT pg_signal_backend TO {role};"
        ),
    }
}

/// Drops the replication slots and subscriptions of a built database, and reports them. They belong to this
/// very database: no clone has them, a slot keeps the server's WAL for as long as the template lives, and a
/// database with a subscription cannot be dropped. `session`: a session in that database.
///
/// # Errors
/// [`Kind::Permission`] if the role may not drop one; errors of the driver.
pub(super) async fn drop_what_no_clone_has(
    session: &mut Session,
    context: &Context<'_>,
    row: &DatabaseRow,
) -> Result<()> {
    let who = context.source.who();
    let place = format!("database `{}` (alias `{}`)", row.private_name, row.alias);
    for slot in catalog::slots(session).await? {
        let what = format!("replication slot `{}`", slot.name);
        let dropped = catalog::drop_slot(session, &slot).await;
        dropped.map_err(|e| refused(who, &what, &place, e, "pg_drop_replication_slot(…)"))?;
        let create = format!(
            "SELECT pg_create_logical_replication_slot(replace('{}_{{name}}', '-', '_'), {})",
            slot.name,
            sql::quote_literal(slot.plugin.as_deref().unwrap_or("pgoutput"))
        );
        context.tell(Event::Warning(
            &Warning::new(format!("dropped {what}, which {who} created in {place}"))
                .detail("a slot of a template keeps the server's WAL, and clones do not get it")
                .hint(format!(
                    "give each clone a slot:\n[template.{}.after_clone_sql]\n{} = {create:?}",
                    context.definition.name, row.alias
                )),
        ));
    }
    for (name, slot) in catalog::subscriptions(session).await? {
        let what = format!("subscription `{name}`");
        let dropped = catalog::drop_subscription(session, &name).await;
        dropped.map_err(|e| refused(who, &what, &place, e, "DROP SUBSCRIPTION"))?;
        let left = match slot {
            Some(slot) => format!(" (slot `{slot}` at its publisher is kept)"),
            None => String::new(),
        };
        context.tell(Event::Warning(
            &Warning::new(format!("dropped {what}, which {who} created in {place}{left}"))
                .detail("clones do not get it, and a database with a subscription cannot be dropped")
                .hint(format!(
                    "create it in each clone, in [template.{}.after_clone_sql]",
                    context.definition.name
                )),
        ));
    }
    Ok(())
}

fn refused(who: &str, what: &str, place: &str, error: Error, statement: &str) -> Error {
    if !error.has_fault(Fault::RightMissing) && !error.has_fault(Fault::InUse) {
        return error;
    }
    Error::new(Kind::Permission, format!("cannot drop {what}, which {who} created in {place}"))
        .detail(cause(&error))
        .detail("a template must not keep it, and clones would not get it")
        .hint(format!("drop it at the end of {who}: {statement}"))
        .hint("create it in each clone instead: `after_clone_sql`")
}
