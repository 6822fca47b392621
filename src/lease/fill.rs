//! Warm clones created ahead of time, by a process for which no caller waits.
//!
//! One process at a time creates warm clones of a template. A clone is registered, copied, tagged and re-applied like
//! any other, and offered by one statement. A crash before that leaves a `creating` row whose lock is free, which the
//! next cleanup drops.
//!
//! The relation cache's file saves the user's first connection some milliseconds. A copy by file has it if the template
//! has it: since its build, unless the server was started since, which removes all of them. Other copies are opened
//! for one connection, which writes it, and closed again.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use super::{hook, register_unnamed, washable, words};
use crate::config::{CloneSettings, EvictionSettings};
use crate::context::Context;
use crate::database::create;
use crate::database::strategy::Chooser;
use crate::error::{Error, Fault, Result};
use crate::names::{self, Fingerprint};
use crate::pg::lock::LockKey;
use crate::pg::session::OpenError;
use crate::pg::slots::Slots;
use crate::pg::{Doing as _, Session, catalog, sql};
use crate::private_server::disk::{self, Disk};
use crate::process::load;
use crate::registry::warm::StockRow;
use crate::registry::{DatabaseRow, Registry, Waiting};
use crate::retention::warm_policy::{self, Demand, Shelf};
use crate::template::{self, Template};

/// Number of concurrent copies: callers who wait for a copy of their own come first.
const LANES: i64 = 2;

/// Creates warm clones of a ready template until there are as many as its demand and the settings require, or the
/// project's `max_size` is reached, or the disk has no room to spare. `announced`: requests are expected. Returns the
/// number created; 0 if another process is creating them for more than a moment, or the template is gone.
///
/// # Errors
/// The driver's. The clones in progress are discarded.
pub(crate) async fn fill(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    announced: bool,
) -> Result<usize> {
    let Some(stock) = stock(registry, context, fingerprint).await? else {
        return Ok(0);
    };
    if announced {
        registry.announce(stock.id).await?;
    }
    let key = LockKey::filler(stock.id);
    // The process that creates them may have counted just before this process's clone was taken.
    let waiting = Waiting {
        step: Duration::from_millis(20),
        most: Some(PATIENCE),
        deadline: context.deadline,
        what: "another process that creates warm clones",
    };
    let Some(lock) = registry.lock(key, waiting).await? else {
        return Ok(0);
    };
    let filled = fill_up(registry, context, fingerprint).await;
    lock.release(registry).await?;
    filled
}

const PATIENCE: Duration = Duration::from_secs(2);

async fn stock(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
) -> Result<Option<StockRow>> {
    let (project, definition) = (context.project, &context.definition.name);
    registry.stock(project, definition, fingerprint).await
}

/// Returns how many more databases of this size may be created ahead of time. Other programs use the disk, too, so
/// much more than that must stay free.
fn room(disk: Option<Disk>, bytes: u64) -> i64 {
    let Some(disk) = disk else {
        return i64::MAX;
    };
    let kept = (disk.total / 20).max(bytes.saturating_mul(2));
    let copies = disk.free.saturating_sub(kept) / bytes.max(1);
    i64::try_from(copies).unwrap_or(i64::MAX)
}

/// Returns the number of missing warm clones, as far as the registry shows.
pub(crate) fn lacks(stock: &StockRow, settings: &CloneSettings, eviction: &EvictionSettings) -> i64 {
    if stock.full {
        return 0;
    }
    let shelf = Shelf {
        few: i64::from(settings.warm),
        many: i64::from(settings.warm_max),
        max_bytes: *eviction.max_size,
        used: stock.total.get(),
    };
    warm_policy::missing(demand(stock), stock.warm, stock.bytes.get(), &shelf)
}

fn demand(stock: &StockRow) -> Demand {
    Demand { clones: stock.demand, uses: stock.uses }
}

/// Returns the number of missing warm clones for which there is room.
fn missing(stock: &StockRow, context: &Context<'_>, disk: Option<Disk>, slots: Slots) -> i64 {
    // The visit to each takes one more.
    if slots.spare() < 1 {
        return 0;
    }
    let missing = lacks(stock, context.clone_settings, context.eviction);
    missing.min(room(disk, stock.bytes.get()))
}

async fn fill_up(registry: &mut Registry, context: &Context<'_>, fingerprint: &Fingerprint) -> Result<usize> {
    let mut made = 0;
    // Clones that are created in the meantime may be taken in the meantime. The loop follows a loop of requests, but
    // eventually another process should take over.
    for _ in 0..20 {
        let Some(stock) = stock(registry, context, fingerprint).await? else {
            break;
        };
        let data = catalog::data_directory(registry.session()).await?;
        let disk = data.and_then(|data| disk::look(Path::new(&data)));
        let slots = Slots::count(registry.session()).await?;
        slots.note(context.endpoint);
        let missing = missing(&stock, context, disk, slots);
        let evicted = LockKey::evicting(stock.id);
        if missing == 0
            || context.deadline.check("warm clones").is_err()
            || registry.is_held_alone(evicted).await?
        {
            break;
        }
        let Some(template) = template::ready(registry, context, fingerprint).await? else {
            break;
        };
        let done: Result<usize> = async {
            let mut chooser = Chooser::read(registry, context, false).await?;
            let tried = probe(registry, context, &template, &stock, &mut chooser, missing).await?;
            let begun = AtomicI64::new(0);
            let job = Job { context, template: &template, stock: &stock, chooser: &chooser, begun };
            let made = fill_lanes(registry, &job, missing - tried, slots).await?;
            Ok(made + usize::try_from(tried).unwrap_or_default())
        }
        .await;
        template.let_go(registry).await?;
        if let Err(error) = &done
            && error.has_fault(Fault::DiskFull)
        {
            registry.note_full_disk().await?;
        }
        made += done?;
    }
    Ok(made)
}

/// Source of warm clones.
struct Job<'a> {
    context: &'a Context<'a>,
    template: &'a Template,
    stock: &'a StockRow,
    chooser: &'a Chooser,
    /// Number of clones that were begun.
    begun: AtomicI64,
}

/// Waits until the machine is less busy, for a while, unless a caller will probably wait for this clone.
async fn wait_for_a_quiet_moment(demand: &Demand, stocked: i64) {
    const STEP: Duration = Duration::from_millis(50);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    while started.elapsed() < QUIET {
        let running = load::running().unwrap_or_default();
        if !warm_policy::should_wait(demand, stocked, running, cores) {
            break;
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Maximum time for which a warm clone is put off.
const QUIET: Duration = Duration::from_millis(500);

/// Creates the first clones by strategies whose cost is not known on this server, one at a time, and records how long
/// they took. Returns their number.
async fn probe(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    stock: &StockRow,
    chooser: &mut Chooser,
    missing: i64,
) -> Result<i64> {
    // For a set, the time of each database could not be determined.
    let [only] = template.databases() else {
        return Ok(0);
    };
    let (bytes, files) = (only.bytes, only.files);
    let unknown = chooser.unknown(bytes, files);
    let mut made = 0;
    let most = usize::try_from(missing).unwrap_or_default();
    for strategy in unknown.into_iter().take(most) {
        let forced = chooser.forced(strategy);
        let begun = AtomicI64::new(0);
        let job = Job { context, template, stock, chooser: &forced, begun };
        create::give_way(registry).await?;
        let millis = match make(registry, &job).await {
            Ok(took) => {
                made += 1;
                took.as_secs_f64() * 1e3
            }
            Err(e) if e.has_fault(Fault::Unsupported) => f64::INFINITY,
            Err(e) => return Err(e),
        };
        let measurement = chooser.sample(strategy, (bytes, files), millis);
        registry.note_measurement(&measurement).await?;
        chooser.learn(measurement);
    }
    Ok(made)
}

async fn fill_lanes(registry: &mut Registry, job: &Job<'_>, missing: i64, slots: Slots) -> Result<usize> {
    let left = AtomicI64::new(missing);
    let mut others = Vec::new();
    // Each lane takes one, and its visits another.
    for _ in 1..LANES.min(missing).min(slots.spare() / 2) {
        // With fewer sessions it is only slower.
        match registry.another(job.context.deadline).await {
            Ok(another) => others.push(another),
            Err(_) => break,
        }
    }
    let left = &left;
    let lanes = others.into_iter().map(|mut another| async move {
        let done = lane(&mut another, job, left).await;
        another.close().await;
        done
    });
    let (own, others) = tokio::join!(lane(registry, job, left), futures_util::future::join_all(lanes));
    let mut made = own?;
    for done in others {
        made += done?;
    }
    Ok(made)
}

async fn lane(registry: &mut Registry, job: &Job<'_>, left: &AtomicI64) -> Result<usize> {
    let mut made = 0;
    while left.fetch_sub(1, Ordering::Relaxed) > 0 && !job.context.deadline.cancel.is_cancelled() {
        create::give_way(registry).await?;
        let stocked = job.stock.warm + job.begun.fetch_add(1, Ordering::Relaxed);
        wait_for_a_quiet_moment(&demand(job.stock), stocked).await;
        // A process that evicts the template waits only for this one.
        if registry.is_held_alone(LockKey::evicting(job.stock.id)).await? {
            left.store(0, Ordering::Relaxed);
            break;
        }
        if let Err(error) = make(registry, job).await {
            // The others would fail, too.
            left.store(0, Ordering::Relaxed);
            return Err(error);
        }
        made += 1;
    }
    Ok(made)
}

/// Creates one warm clone. Discards it on a failure. Returns the duration of the copy.
async fn make(registry: &mut Registry, job: &Job<'_>) -> Result<Duration> {
    let id = names::clone_id();
    let key = LockKey::clone(&id);
    let done = async {
        let from = job.template.databases();
        let mut rows = register_unnamed(registry, job.context, job.template, from, &id).await?;
        let took = prepare(registry, job, &id, &mut rows).await?;
        let counted = hook::recycling(registry, job.context, &id);
        registry.set_warm(&id, counted.as_slice()).await?;
        Ok(took)
    }
    .await;
    if done.is_err() {
        let _ = registry.set_released(&id).await;
    }
    // Claiming it takes this lock: before this it is offered, but cannot be claimed.
    let unlocked = registry.session().unlock(key).await;
    unlocked.doing(|| "unlock a warm clone".into())?;
    done
}

async fn prepare(
    registry: &mut Registry,
    job: &Job<'_>,
    id: &str,
    rows: &mut [DatabaseRow],
) -> Result<Duration> {
    let &Job { context, template, stock, chooser, .. } = job;
    let started = Instant::now();
    let copies = template.copies_to(rows, chooser);
    for copy in &copies {
        create::create(registry.session(), copy, context).await?;
    }
    let took = started.elapsed();
    let words = format!("{} ({id})", words(context));
    for ((row, from), copy) in rows.iter_mut().zip(template.databases()).zip(&copies) {
        let builders = from.replay.comment.as_deref();
        registry.mark_created(row, &words, builders).await?;
        // A connection would run login triggers, which may write.
        let has_cache = stock.has_cache && copy.strategy.copies_files();
        if !stock.login_triggers && !has_cache {
            visit(registry, context, row).await?;
        }
        from.reapply(registry, context, &row.private_name, "warm clone").await?;
    }
    washable::note(registry, context, template.id(), rows).await?;
    Ok(took)
}

/// Opens a database for one connection, and closes it again. No other process knows its name, but a program that
/// looks into every database may be connected. Its session is terminated; if this role is not permitted to do that,
/// the clone is discarded.
async fn visit(registry: &mut Registry, context: &Context<'_>, row: &DatabaseRow) -> Result<()> {
    let name = &row.private_name;
    let session = registry.session();
    session.run(sql::allow_connections(name, true)).await.doing(|| format!("open database `{name}`"))?;
    let visited = Session::open(context.endpoint, name, context.deadline).await;
    session.run(sql::allow_connections(name, false)).await.doing(|| format!("close database `{name}`"))?;
    match visited {
        Ok(visitor) => visitor.close().await,
        // A role that may not connect to its own database can still lease it.
        Err(OpenError::Missing | OpenError::Other(_)) => {}
    }
    let Some(oid) = row.oid else {
        return Err(Error::internal(format!("database `{name}` has no OID")));
    };
    // Any other session that used the opening has no reason to be there.
    let end = |_: &catalog::Visitor| catalog::Care::End;
    let left = catalog::clear(session, oid, PATIENCE, context.deadline, end).await?;
    match left.first() {
        None => Ok(()),
        Some(visitor) => Err(Error::failed(format!(
            "a session is connected to warm clone `{name}`: {}",
            visitor.describe()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private_server::disk::FileSystem;

    #[test]
    fn the_disk_is_somebody_elses_too() {
        const MB: u64 = 1_000_000;
        let disk = |free, total| Some(Disk { free, total, file_system: FileSystem::Other });
        assert_eq!(room(None, 21_000_000), i64::MAX);
        assert_eq!(room(disk(18 * MB, 330 * MB), 21_000_000), 0);
        assert_eq!(room(disk(63 * MB, 330 * MB), 21_000_000), 1);
        assert_eq!(room(disk(5_000 * MB, 100_000 * MB), 21_000_000), 0);
        assert_eq!(room(disk(6_000 * MB, 100_000 * MB), 21_000_000), 47);
    }
}
