//! The push of a template that a command built, beside the rest of the command, and of the full build that replaces it
//! in the background.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::App;
use crate::env::Environment;
use crate::names::Fingerprint;
use crate::quantity::{setting, size};
use crate::remote::Remote;
use crate::stencil::{Deadline, NotPushed, Provenance, Pushed, Registry};
use crate::variables::Outcome;
use crate::{Result, Stencil, wire};

/// A push in progress; nothing if there is nothing to push.
pub(super) struct Pushing {
    task: Option<JoinHandle<Option<String>>>,
    limit: Duration,
}

impl Pushing {
    /// Begins to push the template, if this command built it, or if an earlier one that was to push it did not. Says why
    /// not, if it may not be pushed.
    pub(super) async fn begin(
        app: &App,
        stencil: &Stencil,
        session: Option<&mut Registry>,
        definition: &str,
        provenance: &Provenance,
    ) -> Self {
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
            Outcome::Hit if remote.may_write() && is_owed(stencil, session, definition, provenance).await => {
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
        let owed = provenance.outcome == Outcome::Hit;
        let task = tokio::spawn(async move {
            match push(&stencil, &definition, &fingerprint).await {
                // The process that built it, or another one that found it so, is pushing it.
                Ok(Pushed::Not(NotPushed::Busy)) if owed => None,
                pushed => Some(line(&place, &definition, &fingerprint, &pushed)),
            }
        });
        Pushing { task: Some(task), limit }
    }

    /// Waits for the end of the push, at most as long as `[remote] timeout` says, and says what it did.
    pub(super) async fn finish(self, app: &App) {
        let Some(mut task) = self.task else {
            return;
        };
        match tokio::time::timeout(self.limit, &mut task).await {
            Ok(Ok(line)) => line.iter().for_each(|line| app.printer.say(line)),
            Ok(Err(error)) => app.printer.warn(&format!("the push ended: {error}")),
            Err(_) => {
                task.abort();
                app.printer.say(&given_up(self.limit));
            }
        }
    }
}

/// Whether a template that existed has not reached the store, though the command that built it was to push it.
async fn is_owed(
    stencil: &Stencil,
    session: Option<&mut Registry>,
    definition: &str,
    provenance: &Provenance,
) -> bool {
    let Some(registry) = session else {
        return false;
    };
    // What is not known is left to the next command.
    let owed = registry.is_unpushed(&stencil.config().project, definition, &provenance.fingerprint).await;
    owed.unwrap_or(false)
}

/// Opens the store of the config for a full build in the background, if this process may push.
pub(super) fn store(stencil: &Stencil, env: &Environment) -> Result<Option<Remote>> {
    let remote = Remote::open(stencil.config(), env, stencil.holder().branch.as_deref())?;
    Ok(remote.filter(Remote::may_write))
}

/// Pushes the full build that took the place of a provisional template, or the template itself if it is no longer
/// provisional. Returns what became of the push; `None` without a store.
pub(super) async fn push_proved(
    stencil: &Stencil,
    definition: &str,
    fingerprint: &Fingerprint,
) -> Option<String> {
    let remote = stencil.remote()?;
    if let Some(why) = remote.why_no_write() {
        return Some(not_pushed(remote.place(), &why));
    }
    let (place, limit) = (remote.place(), *stencil.config().remote.timeout);
    let pushed = tokio::time::timeout(limit, push(stencil, definition, fingerprint)).await;
    Some(pushed.map_or_else(|_| given_up(limit), |pushed| line(place, definition, fingerprint, &pushed)))
}

async fn push(stencil: &Stencil, definition: &str, fingerprint: &Fingerprint) -> Result<Pushed> {
    let digits = fingerprint.to_string();
    let (_, pushed) = stencil.push(Some(definition), Some(&digits), &Deadline::default(), &|_| {}).await?;
    Ok(pushed)
}

/// Says what became of the push of a template.
fn line(place: &str, definition: &str, fingerprint: &Fingerprint, pushed: &Result<Pushed>) -> String {
    let short = fingerprint.short();
    match pushed {
        Ok(Pushed::Done(bytes)) => {
            let bytes = size(i64::try_from(*bytes).unwrap_or(i64::MAX));
            format!("pushed template {definition} ({short}) to {place} ({bytes})")
        }
        Ok(Pushed::There) => format!("{place} already has template {definition} ({short})"),
        Ok(Pushed::Not(why)) => not_pushed(place, &why.to_string()),
        Err(error) => not_pushed(place, &wire::chain(error)),
    }
}

fn given_up(limit: Duration) -> String {
    format!("the push did not end within {} and was given up; a later command tries again", setting(limit))
}

fn not_pushed(place: &str, why: &str) -> String {
    format!("nothing was pushed to {place}: {why}")
}
