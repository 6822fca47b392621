//! The push of a template that a command built, beside the rest of the command, and of the full build that replaces it
//! in the background.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::App;
use crate::env::Environment;
use crate::names::Fingerprint;
use crate::quantity::{setting, size};
use crate::remote::Remote;
use crate::stencil::{Deadline, Provenance, Pushed};
use crate::variables::Outcome;
use crate::{Result, Stencil, wire};

/// A push in progress; nothing if there is nothing to push.
pub(super) struct Pushing {
    task: Option<JoinHandle<String>>,
    limit: Duration,
}

impl Pushing {
    /// Begins to push the template, if this command built it. Says why not, if it may not be pushed.
    pub(super) fn begin(app: &App, stencil: &Stencil, definition: &str, provenance: &Provenance) -> Self {
        let nothing = Pushing { task: None, limit: Duration::ZERO };
        let Some(remote) = stencil.remote() else {
            return nothing;
        };
        match provenance.outcome {
            Outcome::Miss | Outcome::Extended => {}
            Outcome::Unsealed | Outcome::Fallback => {
                app.printer.say(&not_pushed(remote.place(), "no template was kept"));
                return nothing;
            }
            _ => {
                app.printer.detail(&format!("{} was not asked: there was nothing to build", remote.place()));
                return nothing;
            }
        }
        if let Some(why) = remote.why_no_write() {
            app.printer.say(&not_pushed(remote.place(), &why));
            return nothing;
        }
        let limit = *stencil.config().remote.timeout;
        let (stencil, definition) = (stencil.clone(), definition.to_owned());
        let (place, fingerprint) = (remote.place().to_owned(), provenance.fingerprint);
        let task = tokio::spawn(async move { push(&stencil, &place, &definition, &fingerprint).await });
        Pushing { task: Some(task), limit }
    }

    /// Waits for the end of the push, at most as long as `[remote] timeout` says, and says what it did.
    pub(super) async fn finish(self, app: &App) {
        let Some(mut task) = self.task else {
            return;
        };
        match tokio::time::timeout(self.limit, &mut task).await {
            Ok(Ok(line)) => app.printer.say(&line),
            Ok(Err(error)) => app.printer.warn(&format!("the push ended: {error}")),
            Err(_) => {
                task.abort();
                app.printer.say(&given_up(self.limit));
            }
        }
    }
}

/// Pushes the full build that took the place of a provisional template, or the template itself if it is no longer
/// provisional, to the store of the config. Returns what became of the push; `None` without a store, or if this process
/// may not push.
pub(super) async fn push_proved(
    stencil: &Stencil,
    env: &Environment,
    definition: &str,
    fingerprint: &Fingerprint,
) -> Result<Option<String>> {
    let branch = stencil.holder().branch.as_deref();
    let Some(remote) = Remote::open(stencil.config(), env, branch)?.filter(|r| r.why_no_write().is_none())
    else {
        return Ok(None);
    };
    let (place, limit) = (remote.place().to_owned(), *stencil.config().remote.timeout);
    let stencil = stencil.clone().with_remote(Some(remote));
    let pushed = tokio::time::timeout(limit, push(&stencil, &place, definition, fingerprint)).await;
    Ok(Some(pushed.unwrap_or_else(|_| given_up(limit))))
}

/// Pushes a template of a definition; says what became of it.
async fn push(stencil: &Stencil, place: &str, definition: &str, fingerprint: &Fingerprint) -> String {
    let short = fingerprint.short();
    let digits = fingerprint.to_string();
    match stencil.push(Some(definition), Some(&digits), &Deadline::default(), &|_| {}).await {
        Ok((_, Pushed::Done(bytes))) => {
            let bytes = size(i64::try_from(bytes).unwrap_or(i64::MAX));
            format!("pushed template {definition} ({short}) to {place} ({bytes})")
        }
        Ok((_, Pushed::There)) => format!("{place} already has template {definition} ({short})"),
        Ok((_, Pushed::Not(why))) => not_pushed(place, &why.to_string()),
        Err(error) => not_pushed(place, &wire::chain(&error)),
    }
}

fn given_up(limit: Duration) -> String {
    format!("the push did not end within {} and was given up; push later: `pgstencil push`", setting(limit))
}

fn not_pushed(place: &str, why: &str) -> String {
    format!("nothing was pushed to {place}: {why}")
}
