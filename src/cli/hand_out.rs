//! Commands that need nothing but a session with the registry ask the background process of an earlier command, which
//! has one: to hand out a warm clone, or to release a clone. That process also holds the clone of `run` until the command
//! ends; see [`crate::lease::custody`].
//!
//! A session of their own would cost the server more than the work itself. The process declines whatever takes more,
//! and so does a command whose options ask for more; the command then does the work by itself, as it does where no such
//! process is running.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::events::Warning;
use crate::lease::custody::{Custody, RELEASE};
use crate::stencil::{Deadline, HeldElsewhere, Leases, Released, Term, Wanted};
use crate::variables::Outcome;
use crate::wire::Answer;
use crate::{Error, Result, Stencil};

use super::App;
use super::background::{Instructions, Line};
use super::commands::clone;
use super::resident::{self, Asked};

/// What a command asks for.
#[derive(Serialize, Deserialize)]
enum Ask {
    /// A new clone of a definition; for [`Term::Session`], the process holds it as long as the command is connected.
    Clone { definition: Option<String>, term: Term },
    /// The release of a clone.
    Release { name: String },
}

#[derive(Serialize, Deserialize)]
struct Question {
    ask: Ask,
    /// The project as the command sees it, and the directory of its files. A config may be reached through a link.
    project: String,
    root: PathBuf,
    /// As for the background work that follows.
    instructions: Instructions,
}

/// Answer to a request for a clone.
#[derive(Serialize, Deserialize)]
struct Reply {
    /// What the user is to be told, whatever else follows.
    warnings: Vec<Warning>,
    /// The clone; without one the command requests it by itself.
    clone: Option<HandedOut>,
}

/// Clone that was handed out, as the command prints it.
#[derive(Serialize, Deserialize)]
pub(super) struct HandedOut {
    /// Its URLs, for standard output.
    pub(super) urls: String,
    /// The answer of `--json`.
    pub(super) json: String,
    /// The line about it.
    pub(super) said: String,
    /// How it was obtained.
    pub(super) outcome: Outcome,
    /// Whether the checkout has clones that may have outlived their branch.
    pub(super) has_bound: bool,
    /// What the command needs to hold it itself.
    pub(super) held: HeldElsewhere,
}

/// Clone that was handed out, and is dropped unless [`HandOut::printed`] follows.
pub(super) struct HandOut {
    /// The clone.
    pub(super) clone: HandedOut,
    answer: resident::Answer,
}

impl HandOut {
    /// Says that the clone's URL has reached the user, who keeps it from now on.
    ///
    /// # Errors
    /// The server's: the clone may be dropped after `orphan_grace`.
    pub(super) async fn printed(self, stencil: &Stencil) -> Result<()> {
        match self.answer.heard() {
            true => Ok(()),
            false => stencil.confirm_handed_out(std::slice::from_ref(&self.clone.held.id)).await,
        }
    }

    /// Returns the clone as a lease that ends with this process. `None`: it cannot be held, and is left to the cleanup.
    pub(super) fn held(self, stencil: &Stencil) -> Option<(HandedOut, Leases)> {
        let custody = Custody::new(self.answer.into_stream()?).ok()?;
        let leases = stencil.held_elsewhere(custody, &self.clone.held).ok()?;
        Some((self.clone, leases))
    }
}

/// Has a clone handed out; `None` if no process can. Passes on what that process has to tell.
pub(super) fn request(app: &App, stencil: &Stencil, definition: Option<&str>, term: Term) -> Option<HandOut> {
    let answer = ask(stencil, Ask::Clone { definition: definition.map(str::to_owned), term })?;
    let Reply { warnings, clone } = serde_json::from_str(&answer.line).ok()?;
    for warning in &warnings {
        app.printer.caution(warning);
    }
    Some(HandOut { clone: clone?, answer })
}

/// Has the process that holds the clones of `leases` for this one release them. Returns warnings for the user; `None` if
/// there is no such process, or no longer.
pub(super) async fn release_held(leases: &mut Leases) -> Option<Vec<Warning>> {
    serde_json::from_str(&leases.release_elsewhere().await?).ok()
}

/// Has a clone released and dropped; `None` if no process can, or if that fails: then a second try says why. The flag:
/// the checkout has clones that may have outlived their branch.
pub(super) fn release(stencil: &Stencil, name: &str) -> Option<(Released, bool)> {
    let answer = ask(stencil, Ask::Release { name: name.to_owned() })?;
    serde_json::from_str(&answer.line).ok()
}

fn ask(stencil: &Stencil, ask: Ask) -> Option<resident::Answer> {
    // A build that asks for its own template must be told so.
    if stencil.is_background_off() || stencil.is_for_itself() {
        return None;
    }
    let instructions = Instructions::for_checkout(stencil).ok()?;
    let address = instructions.address.clone()?;
    let config = stencil.config();
    let (project, root) = (config.project.clone(), config.root.clone());
    let question = Question { ask, project, root, instructions };
    resident::ask(&address, &serde_json::to_string(&question).ok()?)
}

/// Clones that this process holds for commands. It must not end before they do.
#[derive(Clone, Default)]
pub(super) struct Holding(Arc<AtomicUsize>);

impl Holding {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    fn one(&self) -> One {
        self.0.fetch_add(1, Ordering::AcqRel);
        One(self.clone())
    }
}

/// One clone of [`Holding`].
struct One(Holding);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers questions, one after the other, until there can be no more.
pub(super) async fn serve(
    mut questions: mpsc::Receiver<Asked>,
    lines: mpsc::UnboundedSender<Line>,
    holding: Holding,
) {
    let mut counter = Counter { stencil: None, lines, holding };
    while let Some(asked) = counter.next(&mut questions).await {
        // Without an answer the command does the work, and reports what is wrong.
        let _ = counter.answer(asked).await;
    }
}

/// Serves the commands of one checkout.
struct Counter {
    /// All that the stencil depends on, and the stencil, which has read the files and keeps a session.
    stencil: Option<(Vec<u8>, Stencil)>,
    /// The other work of the process.
    lines: mpsc::UnboundedSender<Line>,
    holding: Holding,
}

/// Time within which a command usually has printed an answer. A longer one must not keep the next ones waiting.
const PRINTED: Duration = Duration::from_millis(100);

impl Counter {
    async fn answer(&mut self, mut asked: Asked) -> Result<()> {
        let Question { ask, project, root, instructions } = serde_json::from_str(&asked.line)
            .map_err(|e| Error::usage("this command is started by the others").caused_by(e))?;
        let stencil = self.stencil(&instructions)?;
        if (&stencil.config().project, &stencil.config().root) != (&project, &root) {
            return Ok(());
        }
        let deadline = Deadline::new(Some(resident::WORK), Default::default());
        match ask {
            Ask::Clone { definition, term } => {
                let by_session = term == Term::Session;
                let wanted = Wanted { definition, term, command: by_session, ..Wanted::default() };
                // Before the clone is taken: its command must not find this process gone without need.
                let one = by_session.then(|| self.holding.one());
                let told = Mutex::default();
                let leases = stencil.hand_out(&wanted, &told, &deadline).await?;
                let warnings = told.into_inner().unwrap_or_else(PoisonError::into_inner);
                let Some(mut leases) = leases else {
                    asked.answer(&json(&Reply { warnings, clone: None })?).await;
                    return Ok(());
                };
                let clone = Some(handed_out(&stencil, &mut leases).await?);
                let sent = asked.answer(&json(&Reply { warnings, clone })?).await;
                // If this process is killed now, the command may have printed the URL, and confirms the lease by itself.
                leases.lapse();
                let handed = Handed { leases, instructions, lines: self.lines.clone() };
                if let Some(one) = one {
                    tokio::spawn(handed.hold(asked, one));
                    return Ok(());
                }
                match tokio::time::timeout(PRINTED, asked.is_heard()).await {
                    Ok(heard) => handed.end(asked, sent && heard).await,
                    Err(_) => {
                        tokio::spawn(async move {
                            let heard = asked.is_heard().await;
                            handed.end(asked, heard).await
                        });
                        Ok(())
                    }
                }
            }
            Ask::Release { name } => {
                let released = stencil.release_for_another(&name, &deadline).await?;
                // Whatever the command hears, the clone is to be dropped.
                let _ = self.lines.send(Line::Text(instructions.line()?));
                asked.answer(&json(&released)?).await;
                Ok(())
            }
        }
    }

    /// Returns the next question; `None` if there can be no more. If it is long in coming, the sessions that are kept
    /// for it are closed.
    async fn next(&self, questions: &mut mpsc::Receiver<Asked>) -> Option<Asked> {
        if let Ok(next) = tokio::time::timeout(resident::STAY, questions.recv()).await {
            return next;
        }
        if let Some((_, stencil)) = &self.stencil {
            while let Some(registry) = stencil.take_back() {
                registry.close().await;
            }
        }
        questions.recv().await
    }

    fn stencil(&mut self, instructions: &Instructions) -> Result<Stencil> {
        let (holder, facts) = instructions.asker()?;
        let known = self.stencil.take().filter(|(known, _)| *known == facts);
        let (facts, stencil) = match known {
            Some(known) => known,
            None => (facts, instructions.stencil()?),
        };
        let asking = stencil.for_holder(holder);
        self.stencil = Some((facts, stencil));
        Ok(asking)
    }
}

/// Clone whose URL is on its way to the user.
struct Handed {
    leases: Leases,
    instructions: Instructions,
    lines: mpsc::UnboundedSender<Line>,
}

impl Handed {
    /// Holds the clone until the command asks for its release, or ends. A command that has not even heard of it has
    /// done nothing with it.
    async fn hold(mut self, mut asked: Asked, one: One) -> Result<()> {
        if !asked.is_heard().await {
            return self.end(asked, false).await;
        }
        self.leases.watch();
        let cleanup = self.instructions.line()?;
        // Now, so that the next clone is created while the command runs.
        let _ = self.lines.send(Line::Text(requested(self.instructions, &self.leases).line()?));
        let ended = match asked.word().await {
            Some(RELEASE) => {
                let released = self.leases.release_within(&Deadline::default()).await;
                if let Ok(warnings) = &released {
                    asked.answer(&json(warnings)?).await;
                }
                released.map(drop)
            }
            // Without the lock, it goes as that of a killed command does.
            _ => self.leases.leave_session().await,
        };
        let _ = self.lines.send(Line::Text(cleanup));
        drop(one);
        ended
    }

    /// Leaves the clone to the user who has its URL, or releases it; then leaves the rest to the process' other work.
    async fn end(mut self, asked: Asked, heard: bool) -> Result<()> {
        let work = match heard {
            true => {
                if self.leases.confirm().await.is_ok() {
                    asked.done().await;
                }
                let work = requested(self.instructions, &self.leases);
                self.leases.leave_session().await?;
                work
            }
            // The command makes the request again, by itself.
            false => {
                self.leases.release().await?;
                self.instructions
            }
        };
        let _ = self.lines.send(Line::Text(work.line()?));
        Ok(())
    }
}

/// Returns the work that a request for these clones makes necessary.
fn requested(instructions: Instructions, leases: &Leases) -> Instructions {
    instructions.after_request(&leases.definition, &leases.provenance.fingerprint, leases.demand)
}

async fn handed_out(stencil: &Stencil, leases: &mut Leases) -> Result<HandedOut> {
    let has_bound = !leases.bound_here().await.is_empty();
    Ok(HandedOut {
        urls: clone::urls(stencil, leases),
        json: json(&Answer::of_clones(leases, stencil.endpoint()))?,
        said: clone::said(leases),
        outcome: leases.outcome(),
        has_bound,
        held: stencil.describe_held(leases).await?,
    })
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("cannot write JSON").caused_by(e))
}
