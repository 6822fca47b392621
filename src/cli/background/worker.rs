//! What the background process does: the instructions come in lines, and are carried out one after the other.

use std::time::{Duration, Instant};

use super::{Checkout, Instructions};
use crate::cli::resident::{self, Listening, STAY};
use crate::cli::{background_log, hand_out, pushing};
use crate::env::Environment;
use crate::process::Signals;
use crate::quantity::count;
use crate::stencil::{self, Deadline, Endpoint, Rebuilt, Registry, Stock};
use crate::{Error, Result, wire};
use tokio::sync::mpsc;

/// Time in which a short command of `run` ends: one cleanup then does for both its begin and its end.
const SOON: Duration = Duration::from_millis(200);

/// Number of instructions for which one cleanup may be put off, as long as the next one is there.
const TOGETHER: u32 = 12;

/// Time to wait for an idle machine before a full build; after it the next command tries again.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Time after its last work for which the process stays at most: a little longer than the policy keeps the warm clones
/// of a template that no checkout uses.
const LONGEST: Duration = Duration::from_secs(65 * 60);

/// The instructions of the starter and of later commands, as they come.
struct Lines<'a> {
    signals: &'a mut Signals,
    /// Whether one came: this process ends as soon as nothing is left to do.
    stopped: bool,
    sender: mpsc::UnboundedSender<Line>,
    receiver: mpsc::UnboundedReceiver<Line>,
    /// Whether the starter has ended.
    ended: bool,
    listening: Option<Listening>,
    holding: hand_out::Holding,
}

/// An instruction of the starter or of a later command.
pub(in crate::cli) enum Line {
    Text(String),
    /// The starter has ended.
    End,
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        Line::Text(text)
    }
}

impl<'a> Lines<'a> {
    fn read(signals: &'a mut Signals) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let starter = sender.clone();
        std::thread::spawn(move || {
            let lines = std::io::stdin().lines().map_while(std::io::Result::ok).map(Line::Text);
            for line in lines.chain([Line::End]) {
                if starter.send(line).is_err() {
                    break;
                }
            }
        });
        let holding = hand_out::Holding::default();
        Lines { signals, stopped: false, sender, receiver, ended: false, listening: None, holding }
    }

    /// From now on takes the lines of other commands, too.
    fn listen(&mut self, address: &str) {
        if self.listening.is_none() && !self.stopped {
            let (questions, asked) = mpsc::channel(1);
            self.listening = resident::listen(address, self.sender.clone(), questions);
            if self.listening.is_some() {
                tokio::spawn(hand_out::serve(asked, self.sender.clone(), self.holding.clone()));
            }
        }
    }

    /// Returns the next line within some time; `None` if there is none until then.
    async fn within(&mut self, time: Duration) -> Option<String> {
        tokio::time::timeout(time, self.next()).await.ok().flatten()
    }

    /// Returns the next line; `None` if the starter has ended, no other command can hand over more, and no clone is held
    /// whose end is one.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.ended && self.listening.is_none() && !self.holding.any() {
                return self.waiting();
            }
            tokio::select! {
                line = self.receiver.recv() => match line? {
                    Line::Text(line) => return Some(line),
                    Line::End => self.ended = true,
                },
                _ = self.signals.next(), if !self.stopped => {
                    self.stopped = true;
                    self.leave();
                }
            }
        }
    }

    /// Returns a line that is there already.
    fn waiting(&mut self) -> Option<String> {
        loop {
            match self.receiver.try_recv().ok()? {
                Line::Text(line) => return Some(line),
                Line::End => self.ended = true,
            }
        }
    }

    /// Takes no more lines of other commands. Those that were taken before still come.
    fn leave(&mut self) {
        self.listening = None;
    }

    /// The same where slots are scarce, unless this process holds clones: an idle session for the next command takes
    /// a slot that the user's programs need.
    fn leave_if_scarce(&mut self, endpoint: &Endpoint) {
        if endpoint.is_scarce() && !self.holding.any() {
            self.leave();
        }
    }
}

/// What the process does. After a signal it finishes what it has begun, and does not stay.
pub(in crate::cli) async fn work(signals: &mut Signals) -> Result<u8> {
    let mut lines = Lines::read(signals);
    let mut session = None;
    let mut stock = Stock::default();
    let mut result = Err(Error::usage("this command is started by the others"));
    let mut put_off = 0;
    let mut next = lines.next().await;
    while let Some(line) = next {
        let instructions: Instructions = serde_json::from_str(&line)
            .map_err(|e| Error::usage("this command is started by the others").caused_by(e))?;
        if let Some(address) = &instructions.address {
            lines.listen(address);
        }
        let worker = Worker::new(&instructions)?;
        let worked = worker.work(&mut session).await;
        if let Some(task) = &instructions.task
            && let Ok(fingerprint) = task.fingerprint.parse()
        {
            stock.add(&instructions.project, &task.definition, fingerprint);
        }
        // A cleanup may take a while.
        lines.leave_if_scarce(&worker.endpoint);
        next = match lines.ended {
            true => lines.waiting(),
            false => lines.within(SOON).await,
        };
        put_off = if next.is_some() && put_off < TOGETHER { put_off + 1 } else { 0 };
        let began = Instant::now();
        let cleaned = match put_off {
            // Replaced templates and abandoned builds are dropped, too.
            0 => worker.clean_up(&mut session).await,
            _ => Ok(()),
        };
        worker.log([&worked, &cleaned]);
        result = worked.and(cleaned);
        lines.leave_if_scarce(&worker.endpoint);
        if next.is_none() && lines.listening.is_some() {
            next = lines.within(STAY).await;
            while next.is_none() && lines.holding.any() {
                close(&mut session).await;
                next = lines.within(STAY).await;
            }
            if next.is_none() {
                next = worker.watch(&mut stock, &mut lines, &mut session, began).await;
            }
        }
        if next.is_none() {
            close(&mut session).await;
            if lines.ended {
                lines.leave();
            }
            next = lines.next().await;
        }
    }
    close(&mut session).await;
    result.map(|()| 0)
}

async fn close(session: &mut Option<Registry>) {
    if let Some(registry) = session.take() {
        registry.close().await;
    }
}

/// One instruction, and how the server is reached.
struct Worker<'a> {
    instructions: &'a Instructions,
    endpoint: Endpoint,
}

impl<'a> Worker<'a> {
    fn new(instructions: &'a Instructions) -> Result<Self> {
        Ok(Worker { instructions, endpoint: instructions.endpoint()? })
    }

    /// What a command may soon wait for comes before what is only in the way. A full build takes long, so it comes
    /// last.
    async fn work(&self, session: &mut Option<Registry>) -> Result<()> {
        if self.instructions.scarce {
            // After the sessions that the user's command opens now, and not together with other such processes:
            // each takes a slot at least while it counts the free ones.
            let spread = u64::from(std::process::id() % 16) * 50;
            tokio::time::sleep(Duration::from_millis(300 + spread)).await;
        }
        let (Some(task), Some(checkout)) = (&self.instructions.task, &self.instructions.checkout) else {
            return Ok(());
        };
        if task.rebuild.is_some() {
            self.drop_leftovers(session).await?;
        }
        let mut stencil = checkout.stencil(&self.endpoint)?;
        if task.rebuild.is_some() {
            // This process has the environment of its command, so it pushes where that one may.
            match pushing::store(&stencil, &Environment::from_process()) {
                Ok(remote) => stencil = stencil.with_remote(remote),
                Err(error) => self.append(&[wire::chain(&error)]),
            }
        }
        stencil.lend(session.take());
        let worked = async {
            let deadline = Deadline::default();
            let (definition, fingerprint) = (&task.definition, task.fingerprint.parse()?);
            if let Some(uses) = task.rebuild {
                // A server with few connection slots needs them for others.
                let patience = if self.instructions.scarce { Duration::ZERO } else { PATIENCE };
                let rebuilt = stencil.rebuild_template(definition, uses, patience, &deadline).await?;
                if matches!(rebuilt, Rebuilt::Replaced | Rebuilt::Accepted) {
                    let pushed = pushing::push_proved(&stencil, definition, &fingerprint).await;
                    self.append(pushed.as_slice());
                }
            }
            match task.demand {
                Some(demand) => stencil.fill_after_request(definition, &fingerprint, demand, &deadline).await,
                None => stencil.fill_template(definition, &fingerprint, task.announced, &[], &deadline).await,
            }
        }
        .await;
        *session = stencil.take_back();
        if let Ok(made @ 1..) = worked {
            self.append(&[format!("created {} of {}", count(made, "warm clone"), task.definition)]);
        }
        worked.map(drop)
    }

    /// Waits for the next line as long as there are warm clones, and drops those that no command takes: there may be
    /// no later command that would. `cleaned`: the begin of the last cleanup. Keeps no session until it looks again.
    /// `None`: there are none left, or others look after them: the checkout is gone, or has not used the template for
    /// long.
    async fn watch(
        &self,
        stock: &mut Stock,
        lines: &mut Lines<'_>,
        session: &mut Option<Registry>,
        mut cleaned: Instant,
    ) -> Option<String> {
        let since = cleaned;
        while lines.listening.is_some()
            && since.elapsed() < LONGEST
            && let Some(registry) = session.as_mut()
            && let Some(pause) = stock.next_look(registry, cleaned).await
        {
            close(session).await;
            // One use of a template that many checkouts share sets the time for all of their processes.
            let spread = Duration::from_millis(u64::from(std::process::id() % 16) * 500);
            let next = lines.within(pause + spread).await;
            if next.is_some() || lines.stopped {
                return next;
            }
            cleaned = Instant::now();
            self.log([&self.clean_up(session).await, &Ok(())]);
            if !self.instructions.checkout.as_ref().is_some_and(Checkout::lets_stay) {
                return None;
            }
        }
        None
    }

    async fn drop_leftovers(&self, session: &mut Option<Registry>) -> Result<()> {
        let grace = Duration::from_millis(self.instructions.grace_ms);
        let registry = &self.instructions.registry;
        let lines = stencil::clean_up_with(&self.endpoint, registry, grace, session).await?;
        self.append(&lines);
        if let Some(copies) = &self.instructions.copies {
            self.append(&stencil::clean_up_copies(copies));
        }
        Ok(())
    }

    fn append(&self, lines: &[String]) {
        if let Some(file) = &self.instructions.log {
            background_log::append(file, &self.instructions.project, lines);
        }
    }

    /// Logs what failed.
    fn log(&self, results: [&Result<()>; 2]) {
        let failed = results.into_iter().filter_map(|result| result.as_ref().err());
        self.append(&failed.map(wire::chain).collect::<Vec<_>>());
    }

    async fn clean_up(&self, session: &mut Option<Registry>) -> Result<()> {
        let done = self.drop_leftovers(session).await;
        if let Some(checkout) = self.instructions.checkout.as_ref().filter(|_| self.instructions.hooks) {
            let stencil = checkout.stencil(&self.endpoint)?;
            stencil.lend(session.take());
            stencil.run_owed_unheard(&Deadline::default()).await;
            *session = stencil.take_back();
        }
        done
    }
}
