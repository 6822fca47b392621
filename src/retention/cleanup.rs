//! The cleanup of what killed jobs leave.
//!
//! Plan, then apply. The plan reads only. A clone without holder and session is dropped in two phases: it is first
//! recorded as orphaned, and dropped only if that is still true after its project's `orphan_grace`, so that a
//! holder whose session was disconnected has time to reconnect. Everything is checked again under the clone's lock
//! before anything is done.
//!
//! A few drops run at the same time, each lane in its own session, and give way to processes that wait for a copy.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sqlx::postgres::types::Oid;

use super::recycle::{For, Recycled, recycle};
use super::warm;
use crate::database::create;
use crate::database::drop::{self, OfTemplate};
use crate::error::Result;
use crate::pg::catalog::Database;
use crate::pg::lock::LockKey;
use crate::pg::slots::Slots;
use crate::pg::{Deadline, Doing as _, catalog};
use crate::registry::database::Owner;
use crate::registry::{CloneRow, CloneState, LeaseKind, Registry, TemplateState};

/// Action of the cleanup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Record that a clone has neither holder nor session.
    Orphan {
        /// Id of the clone.
        clone: String,
    },
    /// Remove that record.
    Revive {
        /// Id of the clone.
        clone: String,
    },
    /// Drop a clone.
    DropClone {
        /// Id of the clone.
        clone: String,
        /// Name of the clone.
        name: String,
        /// Reason of the drop.
        why: &'static str,
    },
    /// Drop the rest of a build, or a broken template.
    DropTemplate {
        /// Row number of the template.
        id: i64,
        /// Name of its definition.
        definition: String,
        /// Reason of the drop.
        why: &'static str,
    },
}

impl Action {
    fn drop_clone(row: &CloneRow, why: &'static str) -> Self {
        Action::DropClone { clone: row.id.clone(), name: row.name.clone(), why }
    }

    /// Returns whether it drops something.
    pub(crate) fn drops(&self) -> bool {
        matches!(self, Action::DropClone { .. } | Action::DropTemplate { .. })
    }

    fn is_of_released(&self) -> bool {
        matches!(self, Action::DropClone { why: RELEASED, .. })
    }

    pub(crate) fn owner(&self) -> Owner {
        match self {
            Action::Orphan { clone } | Action::Revive { clone } | Action::DropClone { clone, .. } => {
                Owner::Clone(clone.clone())
            }
            Action::DropTemplate { id, .. } => Owner::Template(*id),
        }
    }

    /// Returns a description for a person.
    pub(crate) fn describe(&self) -> String {
        match self {
            Action::Orphan { clone } => {
                format!("record that clone {clone} has no holder and no session")
            }
            Action::Revive { clone } => format!("record that clone {clone} is in use again"),
            Action::DropClone { name, why, .. } => format!("drop clone {name}: {why}"),
            Action::DropTemplate { id, definition, why } => {
                format!("drop template {id} of {definition}: {why}")
            }
        }
    }
}

/// Maximum number of clones and templates that one pass drops.
pub(crate) const MAX_DROPS: usize = 50;

/// Plans the actions by the current state of registry and server. Writes nothing.
///
/// # Errors
/// The driver's.
pub(crate) async fn plan(registry: &mut Registry, grace: Duration) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    let clones = registry.unsettled_clones().await?;
    let templates = registry.unfinished_templates().await?;
    if clones.is_empty() && templates.is_empty() {
        return Ok(actions);
    }
    let held = registry.held_locks().await?;
    if clones.iter().any(|row| row.state == CloneState::Warm) {
        for spare in warm::spare(registry, None).await? {
            let row = clones.iter().find(|row| row.id == spare.id);
            if let Some(row) = row.filter(|row| !held.contains(&row.key())) {
                actions.push(Action::drop_clone(row, spare.why.words()));
            }
        }
    }
    let mut rest: Vec<&CloneRow> = clones.iter().filter(|row| row.state != CloneState::Warm).collect();
    // Its creator, its holder or another cleanup works on it. A holder that comes back removes the record.
    rest.retain(|row| !held.contains(&row.key()));
    // One question for all of them.
    let occupied = match rest.iter().any(|row| goes_by_sessions(row)) {
        true => registry.occupied_clones().await?,
        false => HashSet::new(),
    };
    actions.extend(rest.into_iter().filter_map(|row| judge(row, occupied.contains(&row.id), None, grace)));
    for row in templates {
        let why = match row.state {
            TemplateState::Building => "its builder is gone",
            TemplateState::Ready => "its database is gone",
            TemplateState::Broken => "it is broken",
        };
        if !held.contains(&LockKey::template(row.id)) && !held.contains(&row.build_key()) {
            actions.push(Action::DropTemplate { id: row.id, definition: row.definition, why });
        }
    }
    Ok(actions)
}

/// Returns whether only a session keeps a clone from being dropped.
fn goes_by_sessions(row: &CloneRow) -> bool {
    // Until its URL is known to have been received, its lock keeps it alive.
    row.state == CloneState::Leased && !(row.is_kept() && row.confirmed)
}

/// Decides about one clone whose lock no other session holds, by the state of now.
async fn judge_now(registry: &mut Registry, row: &CloneRow, grace: Duration) -> Result<Option<Action>> {
    let spare = match row.state {
        CloneState::Warm => warm::why_spare(registry, &row.id).await?,
        CloneState::Creating | CloneState::Leased | CloneState::Released => None,
    };
    let occupied = goes_by_sessions(row) && in_use(registry, &row.id).await?;
    Ok(judge(row, occupied, spare, grace))
}

/// Reason for the drop of a released clone.
const RELEASED: &str = "it was released";

/// Decides about one clone whose lock no other session holds. `occupied`: a session is connected to one of its
/// databases; `spare`: why it should go, if it is warm.
fn judge(row: &CloneRow, occupied: bool, spare: Option<warm::Why>, grace: Duration) -> Option<Action> {
    let clone = row.id.clone();
    let drop = |why| Action::drop_clone(row, why);
    let revive = || row.orphaned_s.is_some().then(|| Action::Revive { clone: clone.clone() });
    match row.state {
        CloneState::Creating => Some(drop("its creator is gone")),
        CloneState::Warm => spare.map(|why| drop(why.words())),
        CloneState::Released => Some(drop(RELEASED)),
        CloneState::Leased => {
            if !goes_by_sessions(row) || occupied {
                return revive();
            }
            match row.orphaned_s {
                None => Some(Action::Orphan { clone }),
                Some(_) if row.orphaned_for_good(grace) => Some(drop(match row.lease {
                    LeaseKind::Expiry if !row.confirmed => "its creator ended before its URL was received",
                    LeaseKind::Expiry => "its lease is over",
                    LeaseKind::Session => "its holder is gone",
                })),
                Some(_) => None,
            }
        }
    }
}

/// Returns whether a session is connected to a database of a clone.
///
/// # Errors
/// The driver's.
pub(crate) async fn in_use(registry: &mut Registry, clone: &str) -> Result<bool> {
    let rows = registry.databases_of(&Owner::Clone(clone.to_owned())).await?;
    for oid in rows.iter().filter_map(|r| r.oid) {
        if !catalog::visitors(registry.session(), oid).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What was done of a plan.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// A line for each thing done or left.
    pub(crate) lines: Vec<String>,
    /// Whether something was left that another pass may be able to drop.
    pub(crate) left: bool,
    /// Whether it stopped at [`MAX_DROPS`].
    pub(crate) more: bool,
    /// Number of clones and templates that are dropped, or warm again.
    pub(crate) done: usize,
}

impl Applied {
    fn add(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.left |= other.left;
        self.done += other.done;
    }
}

/// Performs the actions of a plan that still apply. Drops give way to copies, for a moment.
///
/// # Errors
/// The driver's.
pub(crate) async fn apply(registry: &mut Registry, actions: &[Action], grace: Duration) -> Result<Applied> {
    let mut lanes = Lanes::default();
    let applied = apply_in(registry, &mut lanes, actions, grace, create::PATIENCE).await;
    lanes.close().await;
    applied
}

/// As [`apply`], for a caller who waits for it.
///
/// # Errors
/// The driver's.
pub(crate) async fn apply_now(
    registry: &mut Registry,
    actions: &[Action],
    grace: Duration,
) -> Result<Applied> {
    let mut lanes = Lanes::default();
    let applied = apply_in(registry, &mut lanes, actions, grace, Duration::ZERO).await;
    lanes.close().await;
    applied
}

/// Sessions that drop at the same time as the first one. They are kept for the next pass.
#[derive(Default)]
pub(crate) struct Lanes(Vec<Registry>);

impl Lanes {
    /// Closes the sessions.
    pub(crate) async fn close(&mut self) {
        for session in self.0.drain(..) {
            session.close().await;
        }
    }

    /// Opens sessions until there are enough for this number of drops, or slots are scarce.
    async fn open(&mut self, registry: &mut Registry, drops: usize) -> Result<()> {
        let wanted = MAX_LANES.min(drops.div_ceil(DROPS_OF_A_LANE)).saturating_sub(1);
        let missing = wanted.saturating_sub(self.0.len());
        if missing > 0 {
            let spare = Slots::count(registry.session()).await?.spare();
            for _ in 0..missing.min(usize::try_from(spare).unwrap_or_default()) {
                // Fewer sessions are only slower.
                match registry.another(&Deadline::default()).await {
                    Ok(another) => self.0.push(another),
                    Err(_) => break,
                }
            }
        }
        Ok(())
    }
}

/// As [`apply`], with the sessions of an earlier pass. `patience`: time for which drops give way to copies.
///
/// # Errors
/// The driver's.
pub(crate) async fn apply_in(
    registry: &mut Registry,
    lanes: &mut Lanes,
    actions: &[Action],
    grace: Duration,
    patience: Duration,
) -> Result<Applied> {
    let mut applied = Applied::default();
    let (mut drops, notes): (Vec<_>, Vec<_>) = actions.iter().partition(|action| action.drops());
    // They are cheap, and each starts the time that a later cleanup waits for.
    for note in notes {
        applied.add(perform(registry, note, grace).await?);
    }
    let more = drops.len() > MAX_DROPS;
    if more {
        // Stuck actions must not use up every pass.
        let stuck = registry.stuck().await?;
        drops.sort_by_key(|action| stuck.contains(&action.owner()));
    }
    // What becomes warm again spares others a copy, so it comes first and gives way to none.
    let promising = match drops.iter().any(|action| action.is_of_released()) {
        true => registry.promising().await?,
        false => HashSet::new(),
    };
    let promises =
        |action: &Action| matches!(action, Action::DropClone { clone, .. } if promising.contains(clone));
    drops.sort_by_key(|action| !promises(action));
    drops.truncate(MAX_DROPS);
    lanes.open(registry, drops.len()).await?;
    // A server with many released clones would fill up if each drop waited.
    let patience = if drops.len() < MANY_DROPS { patience } else { Duration::ZERO };
    let until = Instant::now() + patience;
    let queue = Mutex::new(drops.into_iter().map(|action| (action, promises(action))));
    let others = lanes.0.drain(..).map(|mut another| {
        let queue = &queue;
        async move {
            let done = lane(&mut another, queue, grace, until).await;
            (another, done)
        }
    });
    // All lanes run to their end: what one of them holds locked is being dropped.
    let (own, others) =
        tokio::join!(lane(registry, &queue, grace, until), futures_util::future::join_all(others));
    let mut failed = None;
    for (another, done) in others {
        match done {
            Ok(done) => {
                applied.add(done);
                lanes.0.push(another);
            }
            Err(error) => failed = Some(error),
        }
    }
    applied.add(own?);
    if let Some(error) = failed {
        return Err(error);
    }
    if more {
        applied.more = true;
        applied.lines.push(format!("stopped after {MAX_DROPS} drops; the next cleanup continues"));
        applied.left = true;
    }
    Ok(applied)
}

/// Maximum number of drops at the same time: they share checkpoints, and more of them bring little.
const MAX_LANES: usize = 4;
/// Number of drops for which another session pays: to open it costs the server as much as a drop.
const DROPS_OF_A_LANE: usize = 8;
/// Number of drops of a plan from which on they give way to no copy.
const MANY_DROPS: usize = 16;

/// Performs one drop after another, until there are no more.
async fn lane(
    registry: &mut Registry,
    queue: &Mutex<impl Iterator<Item = (&Action, bool)>>,
    grace: Duration,
    until: Instant,
) -> Result<Applied> {
    let mut applied = Applied::default();
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    while let Some((action, promises)) = next() {
        if !promises {
            create::give_way_until(registry, until).await?;
        }
        // On the heap, as other long work that few calls come to: a program's thread may have little stack.
        applied.add(Box::pin(perform(registry, action, grace)).await?);
    }
    Ok(applied)
}

/// What became of a clone that was to be dropped.
enum EndOfClone {
    /// It is handed out again.
    Warm(Recycled),
    /// It is gone, but for what could not be dropped, with the reasons.
    Dropped(Vec<String>),
    /// A session connected in the meantime.
    InUse,
}

/// Performs one action, if it still applies.
async fn perform(registry: &mut Registry, action: &Action, grace: Duration) -> Result<Applied> {
    let (mut lines, mut stays, mut done) = (Vec::new(), false, 0);
    match action {
        Action::Orphan { clone } => {
            still(registry, clone, grace, action, async |registry| registry.set_orphaned(clone).await)
                .await?;
        }
        Action::Revive { clone } => {
            still(registry, clone, grace, action, async |registry| registry.revive_clone(clone).await)
                .await?;
        }
        Action::DropClone { clone, name, why } => {
            let ended = match action.is_of_released() {
                true => end_released(registry, clone).await?,
                false => {
                    still(registry, clone, grace, action, async |registry| {
                        let dropped = drop_clone(registry, clone).await?;
                        Ok(dropped.map_or(EndOfClone::InUse, EndOfClone::Dropped))
                    })
                    .await?
                }
            };
            match ended {
                None => {}
                Some(EndOfClone::Warm(recycled)) => {
                    done = 1;
                    // Others may have become warm at the same time, more than there is room for.
                    stays = true;
                    let why = match recycled {
                        Recycled::Clean => "since nothing was written to it",
                        Recycled::Washed => "after the rows that were written to it were removed",
                    };
                    lines.push(format!("clone {name} is warm again, {why}"));
                }
                Some(EndOfClone::Dropped(left)) if left.is_empty() => {
                    done = 1;
                    lines.push(format!("dropped clone {name}: {why}"));
                }
                Some(EndOfClone::Dropped(left)) => {
                    stays = true;
                    lines.extend(left);
                }
                Some(EndOfClone::InUse) => {
                    stays = true;
                    lines.push(format!("clone {name} is kept, since it is in use"));
                }
            }
        }
        Action::DropTemplate { id, why, definition } => {
            let of = format!("template {id} of {definition}");
            match drop::drop_broken_template(registry, *id, why).await? {
                OfTemplate::Gone => {
                    done = 1;
                    lines.push(format!("dropped {of}: {why}"));
                }
                OfTemplate::InUse => stays = true,
                OfTemplate::Stays(left) => {
                    stays = true;
                    lines.extend(left.iter().map(|line| format!("{of}: {line}")));
                }
            }
        }
    }
    Ok(Applied { lines, left: stays, more: false, done })
}

/// Makes a released clone warm again or drops it, if no other session has its lock. `None`: another session has it, or
/// has dropped it. Nearly all drops are of such clones, so this asks the server as little as possible.
async fn end_released(registry: &mut Registry, clone: &str) -> Result<Option<EndOfClone>> {
    let Some(found) = registry.lock_clone(clone).await? else {
        return Ok(None);
    };
    let done = async {
        if found.row.is_none_or(|row| row.state != CloneState::Released) {
            return Ok(None);
        }
        if found.counted
            && let Some(again) = Box::pin(recycle(registry, clone, For::Stock)).await?
        {
            // The process that claims it takes this lock.
            let unlocked = registry.session().unlock(LockKey::clone(&again.id)).await;
            unlocked.doing(|| "unlock a warm clone".into())?;
            return Ok(Some(EndOfClone::Warm(again.how)));
        }
        let left = drop::drop_rows(registry, &found.databases).await?;
        Ok(Some(EndOfClone::Dropped(left)))
    };
    match done.await {
        Ok(Some(EndOfClone::Dropped(left))) => {
            registry.forget_locked_clone(clone).await?;
            Ok(Some(EndOfClone::Dropped(left)))
        }
        // After the loss of the session there is nothing to release.
        done => {
            let released = registry.session().unlock(LockKey::clone(clone)).await;
            let done = done?;
            released.doing(|| "unlock a clone".into())?;
            Ok(done)
        }
    }
}

/// Plans and applies in passes, until a pass has nothing more to drop, or not fewer things than the one before.
/// Returns a line for each thing done or left.
///
/// # Errors
/// The driver's, or the limit's.
pub(crate) async fn clean_up_all(
    registry: &mut Registry,
    grace: Duration,
    deadline: &Deadline,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut before = usize::MAX;
    loop {
        let actions = plan(registry, grace).await?;
        let drops = actions.iter().filter(|action| action.drops()).count();
        let done = apply(registry, &actions, grace).await?;
        if drops == 0 || drops >= before {
            return Ok(lines);
        }
        before = drops;
        lines.extend(done.lines);
        deadline.check("the cleanup")?;
    }
}

/// Runs work under the clone's lock, if the action still applies then. `None`: another session has the lock, or
/// there is nothing to do.
async fn still<T>(
    registry: &mut Registry,
    clone: &str,
    grace: Duration,
    action: &Action,
    work: impl AsyncFnOnce(&mut Registry) -> Result<T>,
) -> Result<Option<T>> {
    let done = registry
        .with_lock(LockKey::clone(clone), async |registry| {
            let due = match registry.clone_by_id(clone).await? {
                None => false,
                Some(row)
                    if row.state == CloneState::Creating && is_being_copied(registry, clone).await? =>
                {
                    false
                }
                Some(row) => judge_now(registry, &row, grace).await?.as_ref() == Some(action),
            };
            match due {
                true => Ok(Some(work(registry).await?)),
                false => Ok(None),
            }
        })
        .await?;
    Ok(done.flatten())
}

/// Returns whether a session of a dead creator is still in CREATE. The new database is not visible before the end
/// of CREATE, so it would be taken for one that never existed.
async fn is_being_copied(registry: &mut Registry, clone: &str) -> Result<bool> {
    let free = registry.with_lock(LockKey::copying(clone), async |_| Ok(())).await?;
    Ok(free.is_none())
}

/// Drops a clone whose lock the session holds. `None`: a session connected in the meantime, so it is kept.
async fn drop_clone(registry: &mut Registry, clone: &str) -> Result<Option<Vec<String>>> {
    let owner = Owner::Clone(clone.to_owned());
    let Some(row) = registry.clone_by_id(clone).await? else {
        return Ok(Some(Vec::new()));
    };
    if row.state == CloneState::Leased {
        // Its owner did not release it: refuse new connections, and check whether a session connected before. No
        // other user's session is ended here.
        let rows = registry.databases_of(&owner).await?;
        let oids: Vec<Oid> = rows.iter().filter_map(|r| r.oid).collect();
        let found = catalog::databases(registry.session(), &[], &oids).await?;
        let ours: Vec<Database> =
            found.into_iter().filter(|d| !d.invalid && rows.iter().any(|r| r.is(d))).collect();
        set_doors(registry, &ours, false).await?;
        if in_use(registry, clone).await? {
            set_doors(registry, &ours, true).await?;
            registry.revive_clone(clone).await?;
            return Ok(None);
        }
        registry.end_lease(clone, &row.ending()).await?;
    }
    // From now on no process claims it; so far our lock prevented that.
    if row.state == CloneState::Warm && !registry.release_warm(clone).await? {
        return Ok(None);
    }
    let left = drop::drop_databases_of(registry, &owner).await?;
    registry.forget_clone(clone).await?;
    Ok(Some(left))
}

async fn set_doors(registry: &mut Registry, databases: &[Database], open: bool) -> Result<()> {
    for database in databases {
        drop::set_door(registry.session(), database, open).await?;
    }
    Ok(())
}

/// Records that a clone has neither holder nor session, if its lock is free and that is true: the time until its
/// drop begins. Returns its row after that; `None` if its lock is held, or it is gone.
///
/// # Errors
/// The driver's.
pub(crate) async fn note_orphan(
    registry: &mut Registry,
    clone: &str,
    grace: Duration,
) -> Result<Option<CloneRow>> {
    let action = Action::Orphan { clone: clone.to_owned() };
    let noted = registry
        .with_lock(LockKey::clone(clone), async |registry| {
            if let Some(row) = registry.clone_by_id(clone).await?
                && judge_now(registry, &row, grace).await?.as_ref() == Some(&action)
            {
                registry.set_orphaned(clone).await?;
            }
            registry.clone_by_id(clone).await
        })
        .await?;
    Ok(noted.flatten())
}

/// Result of dropping a clone whose databases have a requested name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dead {
    /// It is gone, or no longer has the databases of its names.
    Gone,
    /// Under its lock it turned out not to be dead.
    Alive,
    /// Its holder is alive, or another process drops it.
    Locked,
    /// Its holder is gone, but a session is connected.
    InUse,
    /// It was released, but cannot be dropped, for these reasons.
    Stays(Vec<String>),
}

/// Reason for dropping a clone that has a requested name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its holder is gone: it is dropped if no session is connected.
    Dead,
    /// Its owner wants another one in its place. The sessions in it are the owner's, and are ended.
    Replaced,
    /// The same, and its owner is told this reason.
    ReplacedSince(String),
}

/// Releases and drops a clone that has a requested name, immediately, if `dead` is still true under its lock.
///
/// # Errors
/// The driver's.
pub(crate) async fn drop_dead_clone(
    registry: &mut Registry,
    clone: &str,
    end: &End,
    dead: &(dyn Fn(&CloneRow) -> bool + Sync),
) -> Result<Dead> {
    let done = registry
        .with_lock(LockKey::clone(clone), async |registry| {
            match registry.clone_by_id(clone).await? {
                None => return Ok(Dead::Gone),
                Some(row) if !dead(&row) => return Ok(Dead::Alive),
                Some(_) => {}
            }
            match end {
                End::Dead => {}
                End::Replaced => {
                    registry.set_released(clone).await?;
                }
                End::ReplacedSince(why) => {
                    registry.end_lease(clone, why).await?;
                }
            }
            Ok(match drop_clone(registry, clone).await? {
                None => Dead::InUse,
                // A database that is kept may belong to another user now.
                Some(_) if registry.clone_by_id(clone).await?.is_none() => Dead::Gone,
                Some(left) => Dead::Stays(left),
            })
        })
        .await?;
    Ok(done.unwrap_or(Dead::Locked))
}
