//! What the definition wants done to every clone: `after_clone_sql`, then `after_clone`.

use super::Request;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::handout::{self, NamedDatabase, Phase};
use crate::pg::session::OpenError;
use crate::pg::{Session, of_user};
use crate::process::{self, Ended, Job, Status};

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
    let definition = context.definition;
    for (role, text) in &definition.after_clone_sql {
        let Some(target) = set.iter().find(|d| d.role == *role) else {
            continue;
        };
        let statements = handout::fill_sql(text, context.endpoint, context.root, set)?;
        // These see what the user's own sessions see, not our bare search_path.
        let mut session =
            match Session::open_for_user(context.endpoint, &target.name, context.limit).await {
                Ok(session) => session,
                Err(OpenError::Missing) => {
                    return Err(Error::failed(format!(
                        "database `{}` disappeared",
                        target.name
                    )));
                }
                Err(OpenError::Other(e)) => return Err(e),
            };
        let done = session.run_users(statements).await;
        session.close().await;
        done.map_err(|e| {
            let doing = format!("run after_clone_sql of role `{role}` on `{}`", target.name);
            of_user(e, &doing, &|text| context.endpoint.redact(text))
        })?;
    }
    let Some(command) = &definition.after_clone else {
        return Ok(());
    };
    let mut job = Job::shell(command, context.root);
    job.env = handout::variables(
        context.endpoint,
        context.root,
        definition,
        Phase::AfterClone,
        request.outcome,
        &[set.to_vec()],
        request.shard,
    )?;
    job.cleared = handout::CLEARED.map(Into::into).to_vec();
    let observe = context.observe;
    let finished = process::run_captured(
        &job,
        context.limit.left(),
        &context.limit.cancel,
        &mut |line: &str| {
            observe(Event::Output(&context.endpoint.redact(line)));
        },
    )
    .await?;
    let what = match (&finished.ended, &finished.status) {
        (Ended::ByItself, Status::Exited(0)) => return Ok(()),
        (Ended::Cancelled, _) => {
            return Err(Error::new(Kind::Interrupted, "after_clone was interrupted"));
        }
        (Ended::TimedOut, _) => {
            return Err(Error::new(Kind::Timeout, "after_clone did not end in time"));
        }
        (Ended::ByItself, Status::Exited(code)) => format!("exit code {code}"),
        (Ended::ByItself, Status::Signaled(signal)) => format!("signal {signal}"),
    };
    let error = Error::new(
        Kind::Build,
        format!("after_clone of `{}` failed ({what})", definition.name),
    )
    .detail(format!("command: {command}"))
    .detail("last output:");
    Err(finished.tail.iter().fold(error, |e, line| {
        e.detail(format!("  {}", context.endpoint.redact(line)))
    }))
}
