//! Handles conflicts of names: the clone of a dead holder is dropped; any other conflict is an error that names the
//! owner.
//!
//! The command of `run` may outlive a `pgstencil` that was killed. Its clone is dropped when that command is also
//! known to have ended and no session is connected, or after `orphan_grace`.

use std::time::{Duration, Instant};

use super::owed::Hearer;
use super::{Stencil, Term, Wanted};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Warning};
use crate::lease;
use crate::names::words;
use crate::pg::catalog;
use crate::process;
use crate::quantity::Seconds;
use crate::quantity::setting;
use crate::registry::clone::CloneOnServer;
use crate::registry::{CloneRow, CloneState, LeaseKind, Registry};
use crate::retention::cleanup::{self, Dead, End};

/// Clone that is to be replaced although it is not dead.
pub(super) struct Replaced {
    /// Its id.
    pub(super) id: String,
    /// How it is dropped.
    pub(super) end: End,
}

/// State of the holders of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holders {
    /// The holder runs, so it takes the lock again if it lost it; or the lease ends by the clock, and has not ended.
    Run,
    /// The holder has ended; the command that it started runs.
    Command(u32),
    /// They have ended, or were absent for so long that they count as ended; or the clone was discarded.
    Gone,
    /// They ran elsewhere, or the holder died just when it started the command.
    Unknown,
}

impl Stencil {
    /// Drops the clones that have wanted names, if their holders have ended. `replaced`: clones that the caller wants
    /// replaced, even with sessions in them. Returns `false` if one of those is no longer the caller's, or another
    /// clone has got one of the names in the meantime.
    pub(super) async fn make_way(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        wanted: &Wanted,
        names: &[String],
        replaced: &[Replaced],
    ) -> Result<bool> {
        let mut way = Way { stencil: self, context, take: wanted.take, name: String::new(), waits: None };
        loop {
            let found = registry.clones_named(names).await?;
            let replaced = |clone: &CloneOnServer| replaced.iter().find(|r| r.id == clone.row.id);
            let in_the_way = found.into_iter().find(|clone| {
                clone.stands_under(names)
                    || (replaced(clone).is_some() && clone.row.state == CloneState::Leased)
            });
            let Some(clone) = in_the_way else {
                break;
            };
            let name = |name: &&String| clone.databases.iter().any(|d| d.name == **name);
            way.name.clone_from(names.iter().find(name).unwrap_or(&clone.row.name));
            let end = replaced(&clone).map(|r| &r.end);
            // The caller has to check a clone that is new since then.
            let new = end.is_none() && clone.row.is_kept() && wanted.term != Term::Session;
            if new || (end.is_some() && !way.is_replaceable(&clone.row)) {
                return Ok(false);
            }
            way.clear(registry, &clone.row, end).await?;
        }
        for name in names {
            if catalog::database(registry.session(), name).await?.is_none() {
                continue;
            }
            let found = registry.clones_named(names).await?;
            if found.iter().any(|clone| clone.stands_under(names)) {
                return Ok(false);
            }
            lease::check_name(registry, &context.asker(), name).await?;
        }
        Ok(true)
    }

    fn holders(&self, row: &CloneRow) -> Holders {
        if row.state == CloneState::Released || row.expired {
            return Holders::Gone;
        }
        if row.lease != LeaseKind::Session {
            return Holders::Run;
        }
        let holder = &row.holder.0;
        let here = !holder.machine.is_empty() && holder.machine == self.holder.machine;
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
        let seen = match (number(row.command_pid), number(row.command_group)) {
            _ if !here => Holders::Unknown,
            _ if process::is_alive(holder.pid) => Holders::Run,
            // A row from before commands were recorded.
            (None, _) if row.owner.role.is_none() => Holders::Unknown,
            (Some(0), _) => Holders::Unknown,
            (_, Some(group)) if process::is_group_alive(group) => Holders::Command(group),
            (Some(pid), None) if process::is_alive(pid) => Holders::Command(pid),
            _ => Holders::Gone,
        };
        let grace = *self.config.clone.orphan_grace;
        match seen {
            Holders::Run | Holders::Unknown if row.orphaned_for_good(grace) => Holders::Gone,
            seen => seen,
        }
    }
}

struct Way<'a> {
    stencil: &'a Stencil,
    context: &'a Context<'a>,
    take: bool,
    /// The wanted name that is taken.
    name: String,
    /// Reason for the wait, its start, and whether it was reported.
    waits: Option<(String, Instant, bool)>,
}

impl Stencil {
    /// Waits until none of the clones that have one of these names is still being created.
    pub(super) async fn wait_for_makers(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        names: &[String],
    ) -> Result<()> {
        let mut way = Way { stencil: self, context, take: false, name: String::new(), waits: None };
        loop {
            let found = registry.clones_named(names).await?;
            let making =
                |clone: &&CloneOnServer| clone.row.state == CloneState::Creating && clone.stands_under(names);
            let Some(clone) = found.iter().find(making) else {
                return Ok(());
            };
            way.wait_for_maker(registry, &clone.row).await?;
        }
    }
}

impl Way<'_> {
    /// Whether the caller may still replace a clone.
    fn is_replaceable(&self, row: &CloneRow) -> bool {
        row.is_kept() && (self.take || self.context.asker().has_clone(row))
    }

    /// Drops one clone that has a wanted name, or takes one step of a wait for it. `end`: it is to be replaced.
    async fn clear(&mut self, registry: &mut Registry, row: &CloneRow, end: Option<&End>) -> Result<()> {
        if let Some(end) = end {
            return self.drop_clone(registry, row, end).await;
        }
        if row.state == CloneState::Creating {
            return self.wait_for_maker(registry, row).await;
        }
        let asker = self.context.asker();
        // Checked once, since they may end at any moment.
        match self.stencil.holders(row) {
            Holders::Gone => self.drop_clone(registry, row, &End::Dead).await,
            Holders::Command(number) if asker.has_clone(row) => {
                let what = format!(
                    "the command of a killed `pgstencil run` that still uses clone `{}` (process {number})",
                    row.name
                );
                self.wait(COMMAND, &what).await
            }
            Holders::Command(number) => Err(self.taken(registry).await.detail(format!(
                "that `pgstencil run` was killed, but its command (process {number}) is still running"
            ))),
            Holders::Run => Err(self.taken(registry).await),
            Holders::Unknown => self.wait_or_say_when(registry, row).await,
        }
    }

    /// Waits for a clone that has its names, but is not ready yet. A clone whose creator has ended is dropped.
    async fn wait_for_maker(&mut self, registry: &mut Registry, row: &CloneRow) -> Result<()> {
        let still = |row: &CloneRow| row.state == CloneState::Creating;
        match cleanup::drop_dead_clone(registry, &row.id, &End::Dead, &still).await? {
            Dead::Locked => {
                let what = format!("{} to create clone `{}`", row.holder.0.describe(), row.name);
                self.wait(DROP, &what).await
            }
            _ => Ok(()),
        }
    }

    async fn drop_clone(&mut self, registry: &mut Registry, row: &CloneRow, end: &End) -> Result<()> {
        let still = |row: &CloneRow| match end {
            End::Dead => self.stencil.holders(row) == Holders::Gone,
            End::Replaced | End::ReplacedSince(_) => self.is_replaceable(row),
        };
        let dropped = match end {
            End::Dead => cleanup::drop_dead_clone(registry, &row.id, end, &still).await?,
            End::Replaced | End::ReplacedSince(_) => self.replace(registry, row, end, &still).await?,
        };
        match dropped {
            Dead::Gone | Dead::Alive => Ok(()),
            // Another cleanup handles it, or the server has not yet noticed that the holder has ended.
            Dead::Locked => {
                let what = format!("the drop of the previous clone `{}`", row.name);
                self.wait(DROP, &what).await
            }
            Dead::InUse => self.wait_for_sessions(registry, row).await,
            Dead::Stays(why) => {
                let error = self.taken(registry).await;
                Err(why.into_iter().fold(error, Error::detail))
            }
        }
    }

    /// Runs `before_release` for a clone that its owner wants replaced, then drops it, all under its lock.
    async fn replace(
        &self,
        registry: &mut Registry,
        row: &CloneRow,
        end: &End,
        still: &(dyn Fn(&CloneRow) -> bool + Sync),
    ) -> Result<Dead> {
        let done = registry
            .with_lock(row.key(), async |registry| {
                if let Some(row) = registry.clone_by_id(&row.id).await?
                    && still(&row)
                {
                    let deadline = self.context.deadline;
                    let released = self.stencil.before_release(registry, &row.id, deadline, Hearer::Caller);
                    if let Some(warning) = released.await {
                        self.context.tell(Event::Warning(&warning));
                    }
                }
                // A session may take a lock several times.
                cleanup::drop_dead_clone(registry, &row.id, end, still).await
            })
            .await?;
        Ok(done.unwrap_or(Dead::Locked))
    }

    /// Waits for sessions in a clone whose holder has ended, or whose lease is over.
    async fn wait_for_sessions(&mut self, registry: &mut Registry, row: &CloneRow) -> Result<()> {
        if row.lease == LeaseKind::Session && self.context.asker().has_clone(row) {
            let what = format!("the sessions in clone `{}`, whose `pgstencil run` was killed", row.name);
            return self.wait(COMMAND, &what).await;
        }
        Err(self.taken(registry).await.detail("its lease is over, but a session is still connected to it"))
    }

    /// Handles a clone for which this process cannot determine whether it is in use: either its lock or a session
    /// shows it, or the time begins after which it counts as unused.
    async fn wait_or_say_when(&mut self, registry: &mut Registry, row: &CloneRow) -> Result<()> {
        let grace = *self.stencil.config.clone.orphan_grace;
        let Some(row) = cleanup::note_orphan(registry, &row.id, grace).await? else {
            return match registry.clone_by_id(&row.id).await? {
                Some(_) => Err(self.taken(registry).await),
                None => Ok(()),
            };
        };
        let grace = row.grace_s.map_or(grace, Seconds::duration);
        let Some(orphaned) = row.orphaned_s else {
            return match cleanup::in_use(registry, &row.id).await? {
                true => self.wait_for_sessions(registry, &row).await,
                false => Ok(()),
            };
        };
        let left = (grace.as_secs_f64() - orphaned.0).ceil().max(0.0);
        if left == 0.0 {
            return Ok(());
        }
        let name = &row.name;
        let owner = row.owner.describe(&row.holder.0);
        Err(Error::new(
            Kind::NameTaken,
            format!("clone `{name}` may still be in use, although its `pgstencil run` has ended"),
        )
        .detail(format!("its holder was {}; owner: {owner}", row.holder.0.describe()))
        .detail("pgstencil cannot see from here whether its command is still running")
        .detail(format!(
            "the name becomes free in {}, after its `orphan_grace` of {}",
            setting(Duration::from_secs_f64(left)),
            setting(grace)
        ))
        .hint("try again after that time")
        .hint(format!(
            "if the command has ended, release the clone: `pgstencil release {}`",
            words([name.as_str()])
        )))
    }

    /// Sleeps; reports the reason once, if it takes longer.
    async fn wait(&mut self, wait: Wait, what: &str) -> Result<()> {
        if self.waits.as_ref().is_none_or(|(for_what, ..)| for_what != what) {
            self.waits = Some((what.to_owned(), Instant::now(), false));
        }
        if let Some((_, since, told)) = &mut self.waits
            && !*told
            && since.elapsed() >= wait.patience
        {
            *told = true;
            let text = format!("waiting for {what}");
            self.context.tell(Event::Warning(&Warning::new(text)));
        }
        self.context.deadline.pause(wait.pause, what).await
    }

    async fn taken(&self, registry: &mut Registry) -> Error {
        lease::taken(registry, &self.context.asker(), &self.name).await
    }
}

#[derive(Clone, Copy)]
struct Wait {
    /// Time between two checks.
    pause: Duration,
    /// Time before the wait is reported.
    patience: Duration,
}

/// For commands that a user started.
const COMMAND: Wait = Wait { pause: Duration::from_millis(100), patience: Duration::ZERO };
/// For activities that end by themselves.
const DROP: Wait = Wait { pause: Duration::from_millis(20), patience: Duration::from_secs(2) };
