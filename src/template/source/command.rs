//! The user's build command: run, watched, and judged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::progress::Progress;
use crate::context::Context;
use crate::env::BUILDING;
use crate::error::{Error, Fault, Kind, Result};
use crate::events::Event;
use crate::names::{self, EMPTY_DATABASE};
use crate::pg::sql;
use crate::process::{self, Ended, Finished, Job, Status};
use crate::quantity::{seconds, setting};
use crate::registry::Registry;
use crate::variables::{self, NamedDatabase, Outcome, Phase};

/// Time that processes and sessions of a build may continue after its command has ended.
pub(in crate::template) const STRAGGLERS: Duration = Duration::from_secs(10);

/// Number of lines of a build that waiting processes see.
const TAIL: usize = 5;

/// Runs `build` on databases. While it runs, its last lines are written to the template's
/// row, and the session that holds the right to build is watched.
pub(super) async fn run_command(
    registry: &mut Registry,
    context: &Context<'_>,
    build: &str,
    set: &[NamedDatabase],
    outcome: Outcome,
    template: Option<i64>,
    mut progress: Progress,
) -> Result<()> {
    let definition = context.definition;
    let mut job = Job::shell(build, context.root);
    context.endpoint.learn_tls().await;
    job.env = variables::variables(
        context.endpoint,
        context.root,
        definition,
        Phase::Build,
        outcome,
        &[set.to_vec()],
        None,
    )?;
    job.patience = STRAGGLERS;
    job.env.push((BUILDING.into(), context.builds().into()));
    job.cleared = variables::CLEARED.map(Into::into).to_vec();
    let timeout = match context.deadline.left() {
        Some(left) => left.min(*definition.build_timeout),
        None => *definition.build_timeout,
    };
    let last = Arc::new(Mutex::new(VecDeque::new()));
    let mut on_line = {
        let last = Arc::clone(&last);
        let observe = context.observe;
        move |line: &str| {
            observe(Event::Output(&context.endpoint.redact(line)));
            // Without the password, even if a colour had split it.
            let line = context.endpoint.redact(&process::plain(line));
            observe(Event::Progress { line: &line, migrations: progress.read(&line) });
            if let Ok(mut last) = last.lock() {
                if last.len() == TAIL {
                    last.pop_front();
                }
                // Shown to waiting processes, through the registry.
                last.push_back(names::cut(&line, 400).to_owned());
            }
        }
    };
    // If the session is lost, so is the lock, and another process may build: the command must not run at the
    // same time as that one, so it is not asked to end.
    let kill = job.kill.clone();
    let role = registry.facts().role.clone();
    let cancel = &context.deadline.cancel;
    let command = process::run_captured(&job, Some(timeout), cancel, &mut on_line);
    let watch = async {
        let mut written = String::new();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let tail = last.lock().map(|l| Vec::from_iter(l.iter().cloned()).join("\n")).unwrap_or_default();
            let alive = match template {
                Some(id) if tail != written => {
                    written.clone_from(&tail);
                    registry.write_log_tail(id, &tail).await
                }
                _ => registry.ping().await,
            };
            if let Err(error) = alive {
                kill.cancel();
                return error;
            }
        }
    };
    tokio::pin!(command, watch);
    let mut failure = None;
    let finished = loop {
        tokio::select! {
            finished = &mut command => break finished?,
            error = &mut watch, if failure.is_none() => failure = Some(error),
        }
    };
    if let Some(error) = failure {
        return Err(error.detail("pgstencil ended the build, since its lock was lost with the session"));
    }
    judge(context, build, &finished, timeout, &role)
}

/// `role`: the owner of the database.
fn judge(
    context: &Context<'_>,
    build: &str,
    finished: &Finished,
    timeout: Duration,
    role: &str,
) -> Result<()> {
    let definition = context.definition;
    let took = seconds(finished.elapsed);
    let error = match (&finished.ended, &finished.status) {
        (Ended::ByItself, Status::Exited(0)) if finished.left.is_empty() => return Ok(()),
        (Ended::ByItself, Status::Exited(0)) => {
            let left = finished.left.iter();
            let error = Error::new(
                Kind::Build,
                format!(
                    "the build command of `{}` left processes running, and they did not end within {}",
                    definition.name,
                    seconds(STRAGGLERS)
                ),
            );
            return Err(left
                .fold(error, |e, process| e.detail(format!("ended by pgstencil: {process}")))
                .detail("the database may lack their work, so it does not become a template")
                .hint("let the command wait for the processes that it starts (`wait` at the end of a shell script), and end those that it no longer needs"));
        }
        (Ended::Cancelled, _) => {
            return Err(Error::new(Kind::Interrupted, "the build was interrupted"));
        }
        (Ended::TimedOut, _) if timeout < *definition.build_timeout => Error::new(
            Kind::Timeout,
            format!("the build of `{}` was ended by `--wait` after {took}", definition.name),
        ),
        (Ended::TimedOut, _) => Error::new(
            Kind::Timeout,
            format!("the build of `{}` was ended by `build_timeout` after {took}", definition.name),
        )
        .hint(format!(
            "if it needs longer, raise `build_timeout` of [template.{}] (now {})",
            definition.name,
            setting(*definition.build_timeout)
        )),
        (Ended::ByItself, Status::Exited(code)) => Error::new(
            Kind::Build,
            format!("the build command of `{}` failed (exit code {code}, after {took})", definition.name),
        ),
        (Ended::ByItself, Status::Signaled(signal)) => Error::new(
            Kind::Build,
            format!("the build command of `{}` was killed by signal {signal} after {took}", definition.name),
        ),
    };
    let mut error = error.detail(format!("command: {build}"));
    if !finished.tail.is_empty() {
        error = error.detail("last output:");
        for line in &finished.tail {
            error = error.detail(format!("  {}", context.endpoint.redact(line)));
        }
    }
    if finished.tail.iter().any(|line| line.contains(NO_EXTENSION)) {
        let from = match &*definition.from {
            EMPTY_DATABASE => "template1",
            from => from,
        };
        error = error
            .hint(format!(
                "run that CREATE EXTENSION as a superuser in database `{from}`, and let builds start from that database: `from = \"{from}\"` in [template.{}]",
                definition.name
            ));
    }
    if let Some(kind) = finished.tail.iter().find_map(|line| taken_on_server(line)) {
        error = error
            .hint(format!(
                "create the {kind} only if it is missing, since it belongs to the whole server and an earlier build created it{}",
                match kind {
                    "role" => ": `DO $$ BEGIN CREATE ROLE …; EXCEPTION WHEN duplicate_object THEN NULL; END $$`",
                    _ => "",
                }
            ))
            .hint(format!(
                "if two builds may create it at the same time, set `serial_builds = true` in [template.{}]",
                definition.name
            ));
    }
    let us = context.endpoint.user();
    let denied = |line: &String| line.contains("permission denied for");
    if role != us && finished.tail.iter().any(denied) {
        error = error
            .detail(format!("the database belongs to role `{role}`, and the command connects as role `{us}`"))
            .hint(format!(
                "as a superuser: ALTER ROLE {} SET role = {};",
                sql::quote_ident(us),
                sql::quote_ident(role)
            ));
    }
    if finished.tail.iter().any(|line| tells_full_disk(line)) {
        error = error.fault(Fault::DiskFull);
    }
    if !context.keep_failed {
        error = error.hint("to inspect the half-built database, add `--keep-failed-build`");
    }
    Err(error.hint("to see the whole output, add `-v`"))
}

/// Postgres' message if a role may not create an extension.
const NO_EXTENSION: &str = "permission denied to create extension";

/// Returns whether a command printed Postgres' message about a full disk: the system's text, or the SQLSTATE as
/// clients print it, and not just that number.
fn tells_full_disk(line: &str) -> bool {
    if line.contains("No space left on device") || line.contains("Disk quota exceeded") {
        return true;
    }
    let number = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ',');
    line.match_indices("53100").any(|(at, code)| {
        let (before, after) = (&line[..at], &line[at + code.len()..]);
        let alone = !before.ends_with(number) && !after.starts_with(number);
        let before = before.trim_end_matches(['(', '[', '\'', '"', ':', '=', ' ']);
        let word = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next();
        let word = word.unwrap_or_default().to_ascii_lowercase();
        let named = ["sqlstate", "code", "state", "pgcode"].contains(&word.as_str());
        let enclosed = line[..at].ends_with('(') && after.starts_with(')');
        alone && (named || enclosed)
    })
}

/// Returns the object that already exists according to a line, of those that all databases of a server share.
fn taken_on_server(line: &str) -> Option<&'static str> {
    let (before, _) = line.split_once("\" already exists")?;
    let (before, _) = before.rsplit_once('"')?;
    ["role", "tablespace", "database", "replication slot"]
        .into_iter()
        .find(|kind| before.ends_with(&format!("{kind} ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_in_what_it_prints_that_the_disk_is_full() {
        for line in [
            "psql: ERROR:  could not extend file \"base/5/1\": No space left on device",
            "sqlalchemy: (53100) disk_full",
            "SQLSTATE[53100]: Disk full",
            "error: code: '53100', severity: 'ERROR'",
            "Caused by: SQLSTATE 53100",
        ] {
            assert!(tells_full_disk(line), "{line}");
        }
        for line in [
            "relation \"author\" does not exist",
            "order 1531004",
            "order 53100 failed",
            "total: 53100",
            "code: 53100.5",
            "zip code 531001",
        ] {
            assert!(!tells_full_disk(line), "{line}");
        }
    }

    #[test]
    fn what_a_server_has_once_is_told_from_what_a_database_has() {
        let of = taken_on_server;
        assert_eq!(of("ERROR:  role \"app\" already exists"), Some("role"));
        assert_eq!(of("E: tablespace \"x y\" already exists (42710)"), Some("tablespace"));
        assert_eq!(of("replication slot \"s\" already exists"), Some("replication slot"));
        assert_eq!(of("relation \"role\" already exists"), None);
        assert_eq!(of("schema \"app\" already exists"), None);
        assert_eq!(of("\" already exists"), None);
    }
}
