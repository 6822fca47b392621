//! The sweep: what killed jobs leave behind.
//!
//! Plan, then apply. The plan reads only. A clone without holder and session is dropped in two
//! phases: first noted as orphaned, and dropped only if that still holds its project's `orphan_grace` later, so
//! that a holder whose session was cut has time to come back. Everything is looked at again under
//! the clone's lock before anything is done.
//!
//! Drops run a few at a time, each lane in a session of its own, and give way to whoever waits for a copy.

use std::sync::Mutex;
use std::time::Duration;

use sqlx::postgres::types::Oid;

use super::warm;
use crate::database::create;
use crate::database::drop::{self, OfTemplate};
use crate::error::Result;
use crate::pg::catalog::Database;
use crate::pg::lock::LockKey;
use crate::pg::slots::Slots;
use crate::pg::{Deadline, catalog};
use crate::registry::database::Owner;
use crate::registry::{CloneRow, CloneState, LeaseKind, Registry, TemplateState};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Note that a clone has neither holder nor session.
    Orphan {
        /// Its id.
        clone: String,
    },
    /// Take that note back.
    Revive {
        /// Its id.
        clone: String,
    },
    /// Drop a clone.
    DropClone {
        /// Its id.
        clone: String,
        /// Its name.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// Drop what is left of a build, or a broken template.
    DropTemplate {
        /// Number of its row.
        id: i64,
        /// Name of its definition.
        definition: String,
        /// Why.
        why: &'static str,
    },
}

impl Action {
    fn drop_clone(row: &CloneRow, why: &'static str) -> Self {
        Action::DropClone { clone: row.id.clone(), name: row.name.clone(), why }
    }

    /// Whether it drops something.
    pub(crate) fn drops(&self) -> bool {
        matches!(self, Action::DropClone { .. } | Action::DropTemplate { .. })
    }

    pub(crate) fn owner(&self) -> Owner {
        match self {
            Action::Orphan { clone } | Action::Revive { clone } | Action::DropClone { clone, .. } => {
                Owner::Clone(clone.clone())
            }
            Action::DropTemplate { id, .. } => Owner::Template(*id),
        }
    }

    /// What a person should know of it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Action::Orphan { clone } => {
                format!("note that clone {clone} has neither holder nor session")
            }
            Action::Revive { clone } => format!("note that clone {clone} is in use again"),
            Action::DropClone { name, why, .. } => format!("drop clone {name}: {why}"),
            Action::DropTemplate { id, definition, why } => {
                format!("drop template {id} of {definition}: {why}")
            }
        }
    }
}

/// How many sets of databases one pass drops at most.
pub(crate) const MAX_DROPS: usize = 50;

/// What is to do, by what the registry and the server show now. Writes nothing.
///
/// # Errors
/// The driver's.
pub(crate) async fn plan(registry: &mut Registry, grace: Duration) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    let clones = registry.clones().await?;
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
    for row in clones.iter().filter(|row| row.state != CloneState::Warm) {
        let locked = held.contains(&row.key());
        if let Some(action) = judge(registry, row, locked, grace).await? {
            actions.push(action);
        }
    }
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

/// What is to do about one clone. `locked`: somebody else holds its lock.
async fn judge(
    registry: &mut Registry,
    row: &CloneRow,
    locked: bool,
    grace: Duration,
) -> Result<Option<Action>> {
    let clone = row.id.clone();
    let drop = |why| Action::drop_clone(row, why);
    let revive = || row.orphaned_s.is_some().then(|| Action::Revive { clone: clone.clone() });
    // Its maker, its holder or another sweep is at it. A holder who comes back takes the note back.
    if locked {
        return Ok(None);
    }
    Ok(match row.state {
        CloneState::Creating => Some(drop("its maker is gone")),
        CloneState::Warm => warm::why_spare(registry, &row.id).await?.map(|why| drop(why.words())),
        CloneState::Released => Some(drop("it was released")),
        CloneState::Leased => {
            // As long as nobody may know of it, it lives by its lock.
            let lives = row.is_kept() && row.confirmed;
            if lives || in_use(registry, &row.id).await? {
                return Ok(revive());
            }
            match row.orphaned_s {
                None => Some(Action::Orphan { clone }),
                Some(_) if row.orphaned_for_good(grace) => Some(drop(match row.lease {
                    LeaseKind::Expiry if !row.confirmed => "its maker ended before anybody learned of it",
                    LeaseKind::Expiry => "its lease is over",
                    LeaseKind::Session => "its holder is gone",
                })),
                Some(_) => None,
            }
        }
    })
}

/// Whether somebody is connected to a database of a clone.
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

/// Does what a plan says, as far as it still holds. Returns a line for each thing done or left.
///
/// # Errors
/// The driver's.
pub(crate) async fn apply(
    registry: &mut Registry,
    actions: &[Action],
    grace: Duration,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let (mut drops, notes): (Vec<_>, Vec<_>) = actions.iter().partition(|action| action.drops());
    // They are cheap, and each starts the time that a later sweep waits for.
    for note in notes {
        lines.extend(perform(registry, note, grace).await?);
    }
    let more = drops.len() > MAX_DROPS;
    if more {
        // They must not be all that ever comes to its turn.
        let stuck = registry.stuck().await?;
        drops.sort_by_key(|action| stuck.contains(&action.owner()));
    }
    drops.truncate(MAX_DROPS);
    let mut others = Vec::new();
    let lanes = MAX_LANES.min(drops.len().div_ceil(2));
    let spare = match lanes > 1 {
        true => Slots::count(registry.session()).await?.spare(),
        false => 0,
    };
    for _ in 1..lanes.min(usize::try_from(spare + 1).unwrap_or_default()) {
        // Fewer sessions are only slower.
        match registry.another(&Deadline::default()).await {
            Ok(another) => others.push(another),
            Err(_) => break,
        }
    }
    let queue = Mutex::new(drops.into_iter());
    let lanes = others.into_iter().map(|mut another| {
        let queue = &queue;
        async move {
            let done = lane(&mut another, queue, grace).await;
            another.close().await;
            done
        }
    });
    // All run to their end: what one of them holds locked is being dropped.
    let (own, others) = tokio::join!(lane(registry, &queue, grace), futures_util::future::join_all(lanes));
    lines.extend(own?);
    for done in others {
        lines.extend(done?);
    }
    if more {
        lines.push(format!("{MAX_DROPS} drops are enough for one pass; the next one goes on"));
    }
    Ok(lines)
}

/// How many drops run at once: they share checkpoints, and more of them bring little.
const MAX_LANES: usize = 4;

/// Drops one thing after another, as long as there is one.
async fn lane(
    registry: &mut Registry,
    queue: &Mutex<impl Iterator<Item = &Action>>,
    grace: Duration,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    while let Some(action) = next() {
        create::give_way(registry).await?;
        lines.extend(perform(registry, action, grace).await?);
    }
    Ok(lines)
}

/// Does one thing, if it still has to be done.
async fn perform(registry: &mut Registry, action: &Action, grace: Duration) -> Result<Vec<String>> {
    let mut lines = Vec::new();
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
            match still(registry, clone, grace, action, async |registry| drop_clone(registry, clone).await)
                .await?
            {
                None => {}
                Some(Some(left)) if left.is_empty() => lines.push(format!("dropped clone {name}: {why}")),
                Some(Some(left)) => lines.extend(left),
                Some(None) => lines.push(format!("clone {name} stays: somebody is using it")),
            }
        }
        Action::DropTemplate { id, why, definition } => {
            let of = format!("template {id} of {definition}");
            match drop::drop_broken_template(registry, *id, why).await? {
                OfTemplate::Gone => lines.push(format!("dropped {of}: {why}")),
                OfTemplate::InUse => {}
                OfTemplate::Stays(left) => {
                    lines.extend(left.iter().map(|line| format!("{of}: {line}")));
                }
            }
        }
    }
    Ok(lines)
}

/// Plans and applies pass after pass, until a pass has nothing more to drop, or no fewer things than the
/// one before. Returns a line for each thing done or left.
///
/// # Errors
/// The driver's, or the limit's.
pub(crate) async fn sweep_all(
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
        lines.extend(done);
        deadline.check("the cleanup")?;
    }
}

/// Does something under the clone's lock, if the action still has to be done there. `None`: another session has the
/// lock, or there is nothing to do.
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
                Some(row) => judge(registry, &row, false, grace).await?.as_ref() == Some(action),
            };
            match due {
                true => Ok(Some(work(registry).await?)),
                false => Ok(None),
            }
        })
        .await?;
    Ok(done.flatten())
}

/// Whether a session of a dead maker is still in CREATE. The new database does not show before its
/// end, so it would be taken for one that never was.
async fn is_being_copied(registry: &mut Registry, clone: &str) -> Result<bool> {
    let free = registry.with_lock(LockKey::copying(clone), async |_| Ok(())).await?;
    Ok(free.is_none())
}

/// Drops a clone whose lock we hold. `None`: somebody came in between, so it stays.
async fn drop_clone(registry: &mut Registry, clone: &str) -> Result<Option<Vec<String>>> {
    let owner = Owner::Clone(clone.to_owned());
    let Some(row) = registry.clone_by_id(clone).await? else {
        return Ok(Some(Vec::new()));
    };
    if row.state == CloneState::Leased {
        // Nobody gave it up: close the door, and look whether somebody slipped in before. Nobody's
        // session is ended here.
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
    // From here on nobody claims it; so far our lock was in the way.
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

/// Notes that a clone has neither holder nor session, if its lock is free and that is so: the time until it
/// is dropped begins. Returns what the row says then; `None` if somebody holds it, or it is gone.
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
                && judge(registry, &row, false, grace).await?.as_ref() == Some(&action)
            {
                registry.set_orphaned(clone).await?;
            }
            registry.clone_by_id(clone).await
        })
        .await?;
    Ok(noted.flatten())
}

/// What became of a clone that was in somebody's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dead {
    /// It is gone, or has nothing to do with the databases of its names any more.
    Gone,
    /// Under its lock it turned out not to be dead.
    Alive,
    /// Its holder lives, or somebody else drops it.
    Locked,
    /// Its holder is gone, but somebody is connected.
    InUse,
    /// It was given up, but cannot be dropped, for these reasons.
    Stays(Vec<String>),
}

/// How a clone that is in the way of a wanted name comes to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its holder is gone: it is dropped if nobody is connected.
    Dead,
    /// Its owner wants another one in its place. Sessions in it are theirs, and are ended.
    Replaced,
    /// The same, and its owner is told this.
    ReplacedSince(String),
}

/// Gives up a clone that is in the way of a wanted name, at once, if `dead` is still true of it under
/// its lock.
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
                // What stays may be somebody else's now.
                Some(_) if registry.clone_by_id(clone).await?.is_none() => Dead::Gone,
                Some(left) => Dead::Stays(left),
            })
        })
        .await?;
    Ok(done.unwrap_or(Dead::Locked))
}
