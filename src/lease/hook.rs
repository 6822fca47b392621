//! Hooks of a definition for every clone: `after_clone_sql`, then `after_clone`; `before_release` at the end.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Batch;
use crate::config::{BackgroundWork, Definition, Recycle};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::pg::session::OpenError;
use crate::pg::sql::Statement;
use crate::pg::{Deadline, Endpoint, Session, of_user};
use crate::process::{self, Ended, Job, Status};
use crate::quantity::seconds;
use crate::registry::owed::{self, Debtor, NewOwed};
use crate::registry::{Registry, counted};
use crate::variables::{self, NamedDatabase, Outcome, Phase, Shard};

/// Facts of the request that a hook gets. Contains no secrets, since it is kept in the registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct HookView {
    databases: Vec<NamedDatabase>,
    outcome: Outcome,
    shard: Option<Shard>,
    client_host: Option<String>,
    client_port: Option<u16>,
}

impl HookView {
    fn new(endpoint: &Endpoint, batch: &Batch<'_>, databases: &[NamedDatabase]) -> Self {
        let (client_host, client_port) = endpoint.client();
        HookView {
            databases: databases.to_vec(),
            outcome: batch.outcome,
            shard: batch.shard(),
            client_host: client_host.map(str::to_owned),
            client_port,
        }
    }
}

/// Time limit of `before_release`.
pub(crate) const BOUND: Duration = Duration::from_secs(60);
/// Reduction of the limit for the first of several.
const LATE: Duration = Duration::from_secs(1);

/// A hook, and where it runs.
struct Hook<'a> {
    /// Its key in the config.
    name: &'static str,
    command: &'a str,
    phase: Phase,
    definition: &'a Definition,
    endpoint: &'a Endpoint,
    root: &'a Path,
}

impl Hook<'_> {
    /// Runs it until it ends.
    async fn run(
        &self,
        view: &HookView,
        time: Option<Duration>,
        cancel: &CancellationToken,
        on_line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<()> {
        let Hook { name, endpoint, .. } = *self;
        let mut job = Job::shell(self.command, self.root);
        endpoint.learn_tls().await;
        let endpoint_of_clients = endpoint.for_clients(view.client_host.clone(), view.client_port);
        job.env = variables::variables(
            &endpoint_of_clients,
            self.root,
            self.definition,
            self.phase,
            view.outcome,
            std::slice::from_ref(&view.databases),
            view.shard,
        )?;
        job.cleared = variables::CLEARED.map(Into::into).to_vec();
        let mut redacted = |line: &str| on_line(&endpoint.redact(line));
        let finished = process::run_captured(&job, time, cancel, &mut redacted).await?;
        let took = seconds(finished.elapsed);
        let by_wait = match self.phase {
            Phase::BeforeRelease => time.is_some_and(|time| time < BOUND - LATE),
            _ => true,
        };
        let (kind, what) = match (&finished.ended, &finished.status) {
            (Ended::ByItself, Status::Exited(0)) => return Ok(()),
            (Ended::Cancelled, _) => (Kind::Interrupted, "was interrupted".to_owned()),
            (Ended::TimedOut, _) if by_wait => (Kind::Timeout, format!("was ended by `--wait` after {took}")),
            (Ended::TimedOut, _) => (Kind::Timeout, format!("was ended after {took}")),
            (Ended::ByItself, status) => (Kind::Build, format!("failed ({status}, after {took})")),
        };
        let definition = &self.definition.name;
        let mut error = Error::new(kind, format!("{name} of `{definition}` {what}"))
            .detail(format!("command: {}", self.command));
        if !finished.tail.is_empty() {
            error = error.detail("last output:");
        }
        for line in &finished.tail {
            error = error.detail(format!("  {}", endpoint.redact(line)));
        }
        Err(error)
    }
}

/// Records that `before_release` is owed for a clone, if its definition has such a command. Sent along with the
/// publication, so that it is recorded before `after_clone` creates anything.
pub(super) fn note(
    context: &Context<'_>,
    batch: &Batch<'_>,
    clone: &str,
    databases: &[NamedDatabase],
) -> Option<Statement> {
    context.definition.before_release.as_ref()?;
    let view = HookView::new(context.endpoint, batch, databases);
    Some(owed::note(&NewOwed {
        clone,
        definition: &context.definition.name,
        names: databases.iter().map(|d| d.name.clone()).collect(),
        handed: serde_json::to_value(view).unwrap_or_default(),
        debtor: Debtor::new(context.holder, context.project, context.root),
    }))
}

/// Runs `before_release` of a definition for a clone, which may be gone. Does nothing if the definition has none.
///
/// # Errors
/// The command's failure, with the end of its output.
pub(crate) async fn before_release(
    endpoint: &Endpoint,
    root: &Path,
    definition: &Definition,
    handed: serde_json::Value,
    deadline: &Deadline,
) -> Result<()> {
    let Some(command) = &*definition.before_release else {
        return Ok(());
    };
    let view = serde_json::from_value(handed)
        .map_err(|e| Error::internal("cannot read the record for before_release").caused_by(e))?;
    let hook =
        Hook { name: "before_release", command, phase: Phase::BeforeRelease, definition, endpoint, root };
    hook.run(&view, deadline.left(), &deadline.cancel, &mut |_| {}).await
}

/// Whether a clone of the definition may become warm again when it was released: not if a hook has worked on it, which
/// may have left its name inside, or elsewhere.
pub(super) fn is_recycled(context: &Context<'_>) -> bool {
    let settings = context.clone_settings;
    settings.recycle != Recycle::Never
        // What such a job had serves no other.
        && !context.untrusted
        && settings.warm > 0
        && settings.background != BackgroundWork::Off
        && !has_after_clone(context)
        && context.definition.before_release.is_none()
}

/// Statement that notes, of a clone that no session has used yet, what will be needed to find that nothing was written
/// to it; `None` if it is dropped in any case. Sent along with its publication or its offer.
pub(super) fn recycling(registry: &Registry, context: &Context<'_>, clone: &str) -> Option<Statement> {
    let counts = registry.facts().major() >= counted::COUNTS_SINCE;
    let insists = matches!(context.clone_settings.recycle, Recycle::Clean | Recycle::Wash);
    (counts && is_recycled(context)).then(|| counted::note(clone, insists))
}

/// Statement that withdraws that note of a warm clone that another config made, if this one has it dropped.
pub(super) fn no_recycling(context: &Context<'_>, clone: &str) -> Option<Statement> {
    (!is_recycled(context)).then(|| counted::forget(clone))
}

/// Whether the definition has a hook for every clone.
pub(super) fn has_after_clone(context: &Context<'_>) -> bool {
    let definition = context.definition;
    !definition.after_clone_sql.is_empty() || definition.after_clone.is_some()
}

/// Runs both hooks on a clone that has its names and is open, and whose lease has not begun.
pub(super) async fn after_clone(
    context: &Context<'_>,
    batch: &Batch<'_>,
    set: &[NamedDatabase],
) -> Result<()> {
    let name = &context.definition.name;
    let done = run_statements(context, set).await;
    done.map_err(|e| given_up(e, "after_clone_sql", name, set))?;
    let done = run_command(context, batch, set).await;
    done.map_err(|e| given_up(e, "after_clone", name, set))
}

async fn run_statements(context: &Context<'_>, set: &[NamedDatabase]) -> Result<()> {
    let definition = context.definition;
    for (alias, text) in &definition.after_clone_sql {
        let Some(target) = set.iter().find(|d| d.alias == *alias) else {
            continue;
        };
        let statements = variables::fill_sql(text, context.endpoint, context.root, set)?;
        // These use the search_path of the user's own sessions, not pgstencil's bare one.
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

async fn run_command(context: &Context<'_>, batch: &Batch<'_>, set: &[NamedDatabase]) -> Result<()> {
    let definition = context.definition;
    let Some(command) = &*definition.after_clone else {
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
    let view = HookView::new(context.endpoint, batch, set);
    let observe = context.observe;
    let mut tell = |line: &str| observe(Event::Output(line));
    let deadline = context.deadline;
    hook.run(&view, deadline.left(), &deadline.cancel, &mut tell).await
}

/// Adds the result for the clone and a hint to the error.
fn given_up(error: Error, key: &str, definition: &str, set: &[NamedDatabase]) -> Error {
    let name = set.first().map_or("", |database| &database.name);
    let error = error.detail(format!("clone `{name}` is discarded"));
    match error.kind() {
        Kind::Interrupted => error,
        Kind::Timeout => error.hint(format!(
            "if {key} of [template.{definition}] needs longer, raise `--wait` (the template is kept)"
        )),
        _ => error.hint(format!("fix {key} of [template.{definition}] and try again (the template is kept)")),
    }
}
