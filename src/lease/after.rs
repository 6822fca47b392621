//! What the definition wants done to every clone: `after_clone_sql`, then `after_clone`.

use super::Request;
use super::hook::{Hook, HookView};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::pg::session::OpenError;
use crate::pg::{Session, of_user};
use crate::variables::{self, NamedDatabase, Phase};

/// Whether there is anything that the definition wants done to every clone.
pub(super) fn is_wanted(context: &Context<'_>) -> bool {
    let definition = context.definition;
    !definition.after_clone_sql.is_empty() || definition.after_clone.is_some()
}

/// Runs both on a clone that has its names and is open, and whose lease has not begun.
pub(super) async fn after_clone(
    context: &Context<'_>,
    request: &Request<'_>,
    set: &[NamedDatabase],
) -> Result<()> {
    let name = &context.definition.name;
    let done = run_statements(context, set).await;
    done.map_err(|e| given_up(e, "after_clone_sql", name, set))?;
    let done = run_command(context, request, set).await;
    done.map_err(|e| given_up(e, "after_clone", name, set))
}

async fn run_statements(context: &Context<'_>, set: &[NamedDatabase]) -> Result<()> {
    let definition = context.definition;
    for (alias, text) in &definition.after_clone_sql {
        let Some(target) = set.iter().find(|d| d.alias == *alias) else {
            continue;
        };
        let statements = variables::fill_sql(text, context.endpoint, context.root, set)?;
        // These see what the user's own sessions see, not our bare search_path.
        let mut session = match Session::open_for_user(context.endpoint, &target.name, context.deadline).await
        {
            Ok(session) => session,
            Err(OpenError::Missing) => {
                return Err(Error::failed(format!("database `{}` disappeared", target.name)));
            }
            Err(OpenError::Other(e)) => return Err(e),
        };
        let done = session.run_users(statements).await;
        session.close().await;
        done.map_err(|e| {
            let doing = format!("run after_clone_sql of alias `{alias}` on `{}`", target.name);
            of_user(e, &doing, &|text| context.endpoint.redact(text))
        })?;
    }
    Ok(())
}

async fn run_command(context: &Context<'_>, request: &Request<'_>, set: &[NamedDatabase]) -> Result<()> {
    let definition = context.definition;
    let Some(command) = &definition.after_clone else {
        return Ok(());
    };
    let hook = Hook {
        name: "after_clone",
        command,
        phase: Phase::AfterClone,
        definition,
        endpoint: context.endpoint,
        root: context.root,
    };
    let view = HookView::new(context.endpoint, request, set);
    let observe = context.observe;
    let mut tell = |line: &str| observe(Event::Output(line));
    let deadline = context.deadline;
    hook.run(&view, deadline.left(), &deadline.cancel, &mut tell).await
}

/// Says what becomes of the clone, and what to do.
fn given_up(error: Error, key: &str, definition: &str, set: &[NamedDatabase]) -> Error {
    let name = set.first().map_or("", |database| &database.name);
    let error = error.detail(format!("clone `{name}` is discarded, and dropped in the background"));
    match error.kind() {
        Kind::Interrupted => error,
        Kind::Timeout => error.hint(format!(
            "if {key} of [template.{definition}] needs longer, raise `--wait`; the template is kept"
        )),
        _ => error.hint(format!(
            "fix {key} of [template.{definition}]; the template is kept, so the next try does not build it again"
        )),
    }
}
