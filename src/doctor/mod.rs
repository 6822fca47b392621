//! The checks: problems of this server, role, disk or registry, and how to fix them.
//!
//! Reading and judging are separate: facts are read into plain values, and pure functions make [`Check`]s of them.
//! Only [`fix`] writes, and it does only what is harmless.

mod disk;
pub mod private_server;
mod registry;
mod server;

use std::time::Duration;

use sqlx::postgres::types::Oid;

use crate::config::{EvictionSettings, Strategy};
use crate::database::drop;
use crate::error::{Error, Result};
use crate::pg::lock::LockKey;
use crate::pg::session::OpenError;
use crate::pg::{Deadline, Endpoint, Session, catalog, cause, checkup};
use crate::registry::Registry;
use crate::registry::database::Owner;
use crate::retention::cleanup;

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but slower or less safely than it could.
    Warning,
    /// Something will fail, or does already.
    Problem,
}

impl Status {
    /// `ok`, `warning` or `problem`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "problem",
        }
    }
}

/// A check, with its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Name of the check; a few words, the same in each run.
    pub name: &'static str,
    /// Status of the checked thing.
    pub status: Status,
    /// Finding, in words.
    pub words: String,
    /// Advice for a person.
    pub hint: Option<String>,
    /// Statements for the advice, which pgstencil does not run.
    pub statements: Vec<String>,
    /// Fix that [`fix`] can apply.
    pub fix: Option<Fix>,
    /// Description of the fix that was applied.
    pub fixed: Option<String>,
}

/// Fix that needs no confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Run a cleanup now.
    Cleanup,
    /// Discard a template, so that it is rebuilt, for this reason.
    Rebuild(i64, String),
    /// Mark a template's database of this oid as template again.
    Mark(i64, Oid),
}

impl Check {
    fn new(name: &'static str, status: Status, words: impl Into<String>) -> Self {
        Check {
            name,
            status,
            words: words.into(),
            hint: None,
            statements: Vec::new(),
            fix: None,
            fixed: None,
        }
    }

    fn ok(name: &'static str, words: impl Into<String>) -> Self {
        Check::new(name, Status::Ok, words)
    }

    fn warning(name: &'static str, words: impl Into<String>, hint: impl Into<String>) -> Self {
        Check { hint: Some(hint.into()), ..Check::new(name, Status::Warning, words) }
    }

    fn problem(name: &'static str, words: impl Into<String>, hint: impl Into<String>) -> Self {
        Check { hint: Some(hint.into()), ..Check::new(name, Status::Problem, words) }
    }

    fn fixable(self, fix: Fix) -> Self {
        Check { fix: Some(fix), ..self }
    }

    /// Creates a check for something that could not be checked or used.
    fn error(name: &'static str, status: Status, error: &Error) -> Self {
        let mut words = error.to_string();
        if !error.details().is_empty() {
            words += &format!(" ({})", error.details().join("; "));
        }
        if std::error::Error::source(error).is_some() {
            words += &format!(": {}", cause(error));
        }
        Check {
            hint: Some(error.hints().join("; ")).filter(|text| !text.is_empty()),
            ..Check::new(name, status, words)
        }
    }
}

/// The check of a command whose background work is off.
pub(crate) fn background_off() -> Check {
    Check::ok(
        "background work",
        "off: the command that releases a clone drops it, no warm clones are created, and `pgstencil ensure --rebuild` replaces a provisional template",
    )
}

/// Returns a finding about the remote store as a check.
#[cfg(feature = "cli")]
pub(crate) fn of_store(finding: &crate::remote::Finding) -> Check {
    let status = match finding.level {
        crate::remote::Level::Ok => Status::Ok,
        crate::remote::Level::Warning => Status::Warning,
        crate::remote::Level::Problem => Status::Problem,
    };
    let words = format!("{}: {}", finding.name, finding.words);
    Check { hint: finding.hint.clone(), ..Check::new("remote store", status, words) }
}

/// Objects to check, and the settings for the checks.
pub(crate) struct Patient<'a> {
    /// The server.
    pub endpoint: &'a Endpoint,
    /// Name of the registry database.
    pub registry: &'a str,
    /// Limits of the project.
    pub eviction: &'a EvictionSettings,
    /// Strategy of copies for clones.
    pub strategy: Strategy,
    /// Grace time of the cleanup.
    pub grace: Duration,
    /// Whether background work may be done.
    pub background: bool,
    /// Deadline of the checks.
    pub deadline: &'a Deadline,
}

/// Checks everything that can be checked. Writes nothing. A failure to check something is also a check, and not an
/// error.
pub(crate) async fn examine(patient: &Patient<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut session = match connect(patient).await {
        Ok(session) => session,
        Err(error) => return vec![Check::error("connection", Status::Problem, &error)],
    };
    checks.push(Check::ok("connection", format!("no pooler in front of {}", patient.endpoint.place())));
    let facts = session.facts().clone();
    checks.push(server::version(facts.version));
    let found = server::read(&mut session).await;
    let seen = note("server", found, &mut checks);
    if let Some(seen) = &seen {
        checks.extend(server::judge(seen));
        let data = seen.settings.get("data_directory").map(String::as_str);
        let disk = data.and_then(disk::look);
        checks.extend(disk::judge_file_system(disk, facts.major(), patient.strategy));
    }
    let all = checkup::databases(&mut session).await;
    let all = note("databases", all, &mut checks).unwrap_or_default();
    session.close().await;
    let opened = Registry::open_existing(patient.endpoint, patient.registry, patient.deadline).await;
    let mut registry = match opened {
        Ok(Some(registry)) => registry,
        Ok(None) => {
            checks.push(Check::ok(
                "registry",
                "does not exist yet; the first build creates it, or, if the server starts empty with each job, \
                 `pgstencil cache restore --through-server` with the file of an earlier job",
            ));
            let foreign = registry::Foreign::read(&all, patient.registry, |_| false);
            checks.extend(foreign.judge());
            return checks;
        }
        Err(error) => {
            checks.push(Check::error("registry", Status::Problem, &error));
            return checks;
        }
    };
    checks.push(Check::ok("registry", format!("database `{}` has the current version", patient.registry)));
    let measured = registry.measurements(facts.fsync).await;
    if let Some(measured) = note("copy strategy", measured, &mut checks)
        && facts.major() >= 15
    {
        checks.push(disk::judge_strategy(patient.strategy, &measured));
    }
    let found = registry::read(&mut registry, &all, patient.grace).await;
    if let Some(ours) = note("registry", found, &mut checks) {
        checks.extend(registry::judge(&ours));
        if let Some(seen) = seen {
            checks.push(server::judge_fsync(&seen, facts.fsync, &ours, patient.registry));
            checks.extend(server::judge_room(&seen, &ours, patient.background));
            let data = seen.settings.get("data_directory").map(String::as_str);
            let disk = data.and_then(disk::look);
            checks.push(disk::judge_budget(disk, &ours, *patient.eviction.max_size));
        }
    }
    registry.close().await;
    checks
}

/// Returns what was read, or adds a check that reports why it was not.
fn note<T>(name: &'static str, read: Result<T>, checks: &mut Vec<Check>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            checks.push(Check::error(name, Status::Warning, &error));
            None
        }
    }
}

/// Opens a session with any database that certainly exists.
async fn connect(patient: &Patient<'_>) -> Result<Session> {
    let mut last = None;
    let others = patient.endpoint.maintenance().iter();
    for database in others.filter(|name| *name != patient.registry) {
        match Session::open(patient.endpoint, database, patient.deadline).await {
            Ok(session) => return Ok(session),
            Err(OpenError::Missing) => {}
            Err(OpenError::Other(error)) => last = last.or(Some(error)),
        }
    }
    match Registry::open_database(patient.endpoint, patient.registry, patient.deadline).await {
        Ok(Some(session)) => return Ok(session),
        Ok(None) => {}
        Err(error) => last = last.or(Some(error)),
    }
    Err(last.unwrap_or_else(|| patient.endpoint.no_database()))
}

/// Applies the fixes of checks, and records that in them: cleans up, discards templates that cannot be used as they
/// are, and marks unmarked templates as template again.
///
/// # Errors
/// The driver's; fixes that were applied until then stay applied.
pub(crate) async fn fix(patient: &Patient<'_>, checks: &mut [Check]) -> Result<()> {
    let opened = Registry::open_existing(patient.endpoint, patient.registry, patient.deadline).await;
    // A check already reports why it cannot be opened.
    let Ok(Some(mut registry)) = opened else {
        return Ok(());
    };
    for check in checks {
        check.fixed = match &check.fix {
            None => None,
            Some(Fix::Cleanup) => {
                let lines = cleanup::clean_up_all(&mut registry, patient.grace, patient.deadline).await?;
                Some(match lines.is_empty() {
                    true => "cleaned up: nothing could be dropped yet".into(),
                    false => format!("cleaned up: {}", lines.join("; ")),
                })
            }
            Some(Fix::Rebuild(id, why)) => {
                registry.break_template(*id, why, false).await?;
                Some("discarded the template; the next command that needs it rebuilds it".into())
            }
            Some(Fix::Mark(id, oid)) => mark(&mut registry, *id, *oid).await?,
        };
    }
    registry.close().await;
    Ok(())
}

/// Marks a database of a template as template again, under the template's lock, if it is still the one that the
/// registry knows.
async fn mark(registry: &mut Registry, id: i64, oid: Oid) -> Result<Option<String>> {
    let Some(lock) = registry.try_share(LockKey::template(id)).await? else {
        return Ok(None);
    };
    let rows = registry.databases_of(&Owner::Template(id)).await?;
    let found = catalog::databases(registry.session(), &[], &[oid]).await?;
    let found = found.iter().find(|d| !d.invalid && rows.iter().any(|row| row.is(d)));
    let mut done = None;
    if let Some(database) = found {
        let changed = drop::set_template(registry.session(), database).await?;
        done = changed.then(|| format!("marked `{}` as a template", database.name));
    }
    lock.release(registry).await?;
    Ok(done)
}
