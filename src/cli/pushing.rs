//! The push of a template that a command built, beside the rest of the command.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::App;
use crate::quantity::{setting, size};
use crate::stencil::{Deadline, Provenance, Pushed};
use crate::variables::Outcome;
use crate::{Stencil, wire};

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
        let (stencil, definition) = (stencil.clone(), definition.to_owned());
        let (place, short) = (remote.place().to_owned(), provenance.fingerprint.short());
        let limit = *stencil.config().remote.timeout;
        let digits = provenance.fingerprint.to_string();
        let task = tokio::spawn(async move {
            let deadline = Deadline::default();
            let pushed = stencil.push(Some(&definition), Some(&digits), &deadline, &|_| {}).await;
            match pushed {
                Ok((_, Pushed::Done(bytes))) => {
                    let bytes = size(i64::try_from(bytes).unwrap_or(i64::MAX));
                    format!("pushed template {definition} ({short}) to {place} ({bytes})")
                }
                Ok((_, Pushed::There)) => format!("{place} already has template {definition} ({short})"),
                Ok((_, Pushed::Not(why))) => not_pushed(&place, &why.to_string()),
                Err(error) => not_pushed(&place, &wire::chain(&error)),
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
            Ok(Ok(line)) => app.printer.say(&line),
            Ok(Err(error)) => app.printer.warn(&format!("the push ended: {error}")),
            Err(_) => {
                task.abort();
                app.printer.say(&format!(
                    "the push did not end within {} and was given up; push later: `pgstencil push`",
                    setting(self.limit)
                ));
            }
        }
    }
}

fn not_pushed(place: &str, why: &str) -> String {
    format!("nothing was pushed to {place}: {why}")
}
