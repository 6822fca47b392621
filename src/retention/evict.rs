//! Evicts templates to keep within the budget.
//!
//! Plan, then apply. The plan reads only, so a dry run cannot write. Each project has its own limits: its last
//! build read them from the config, and the registry keeps them, so templates of abandoned projects are evicted as
//! well. To apply a plan means to discard templates, under the lock that processes share while they copy or extend
//! them; a cleanup drops the databases, or they are dropped immediately where space is needed.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::config::Extend;
use crate::database::drop;
use crate::error::Result;
use crate::fingerprint::{Append, FileInput, Recipe, RelPath, extension};
use crate::pg::lock::LockKey;
use crate::quantity::{Bytes, Millis};
use crate::registry::eviction::{BuildRow, ResidentRow};
use crate::registry::{Lock, ProjectSettings, Registry};

use super::cost::Costs;
use super::policy::{self, Limits, Resident};
pub(crate) use super::policy::{Room, Rule};
use super::warm;

/// Reason why a template is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A rule of its project.
    Rule(Rule),
    /// The server's disk is full.
    DiskFull,
    /// A person named it.
    Asked,
}

impl Reason {
    /// Returns one word for scripts: the key of the limit, `disk_full` or `asked`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Rule(rule) => rule.key(),
            Reason::DiskFull => "disk_full",
            Reason::Asked => "asked",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Reason::Rule(rule) => rule.words(),
            Reason::DiskFull => "evicted: the server's disk was full",
            Reason::Asked => "evicted by a command",
        }
    }
}

/// Template that is to be evicted, and why.
#[derive(Clone, Debug)]
pub(crate) struct Eviction {
    /// The template.
    pub(crate) template: ResidentRow,
    /// Reason of the eviction.
    pub(crate) reason: Reason,
    /// Estimated seconds of rebuilding it, given the templates that are kept, from the builds so far.
    pub(crate) rebuild_s: f64,
}

impl Eviction {
    /// Returns a description for a person.
    pub(crate) fn describe(&self) -> String {
        format!(
            "template {} of {}/{} was {}",
            self.template.fingerprint.short(),
            self.template.project,
            self.template.definition,
            self.reason.words()
        )
    }
}

/// Result of one eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// It is discarded; it may still have to be dropped.
    Gone,
    /// Another process evicted or discarded it since the plan.
    GoneBefore,
    /// It is kept: a process is using it, or it was used or pinned in the meantime.
    InUse,
}

/// What plans need to know besides the templates.
struct Known {
    recipes: HashMap<i64, Recipe>,
    builds: Vec<BuildRow>,
    held: HashSet<LockKey>,
}

impl Known {
    /// Reads it for these templates.
    async fn read<'a>(
        registry: &mut Registry,
        rows: impl IntoIterator<Item = &'a ResidentRow>,
    ) -> Result<Known> {
        let ids: Vec<i64> = rows.into_iter().map(|row| row.id).collect();
        Ok(Known {
            recipes: registry.recipes(&ids).await?,
            builds: registry.builds().await?,
            held: registry.held_locks().await?,
        })
    }
}

/// Path and hash of a migration.
type End<'a> = (&'a RelPath, &'a str);

fn end(file: &FileInput) -> End<'_> {
    (&file.path, &file.hash)
}

/// Data that a plan is based on.
struct Shelf<'a> {
    rows: Vec<ResidentRow>,
    known: &'a Known,
}

/// Templates as possible bases of each other.
struct Ends<'a> {
    /// Recipe of each template.
    recipes: Vec<Option<&'a Recipe>>,
    /// The templates by their last migration; by `None` those without migrations. A template can be extended only
    /// from one whose migrations it contains, so the few with a matching end are compared, and not each with each.
    by_last: HashMap<Option<End<'a>>, Vec<usize>>,
}

impl Shelf<'_> {
    /// Returns the evictions that bring the shelf within limits.
    fn plan(&self, limits: &Limits, room: Room, reason: impl Fn(Rule) -> Reason) -> Vec<Eviction> {
        let (residents, costs) = self.weigh();
        let ends = self.ends();
        let bases = |of: usize| self.bases(of, &ends, &costs[residents[of].definition]);
        let evictions = policy::plan(&residents, limits, room, &bases);
        evictions
            .into_iter()
            .map(|eviction| Eviction {
                template: self.rows[eviction.index].clone(),
                reason: reason(eviction.rule),
                rebuild_s: eviction.loss,
            })
            .collect()
    }

    /// Returns the evictions of these templates.
    fn plan_named(&self, ids: &[i64]) -> Vec<Eviction> {
        let (residents, costs) = self.weigh();
        let ends = self.ends();
        let bases = |of: usize| self.bases(of, &ends, &costs[residents[of].definition]);
        let lost: Vec<usize> =
            ids.iter().filter_map(|id| self.rows.iter().position(|row| row.id == *id)).collect();
        let losses = policy::losses(&residents, &lost, &bases);
        lost.iter()
            .zip(losses)
            .map(|(&index, rebuild_s)| Eviction {
                template: self.rows[index].clone(),
                reason: Reason::Asked,
                rebuild_s,
            })
            .collect()
    }

    fn ends(&self) -> Ends<'_> {
        let recipes: Vec<_> = self.rows.iter().map(|row| self.known.recipes.get(&row.id)).collect();
        let mut by_last: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, recipe) in recipes.iter().enumerate() {
            if let Some(recipe) = recipe {
                by_last.entry(recipe.migrations.last().map(end)).or_default().push(index);
            }
        }
        Ends { recipes, by_last }
    }

    /// Returns the templates from which another one could be extended, those with the most migrations first: they
    /// are the cheapest bases.
    fn bases<'a>(&'a self, of: usize, ends: &'a Ends<'_>, costs: &'a Costs) -> policy::Bases<'a> {
        let migrations = |index: usize| ends.recipes[index].map(|recipe| recipe.migrations.as_slice());
        let Some(files) = migrations(of) else {
            return Box::new(std::iter::empty());
        };
        let keys = files.iter().map(|file| Some(end(file))).chain([None]);
        let mut bases: Vec<usize> =
            keys.filter_map(|key| ends.by_last.get(&key)).flatten().copied().collect();
        bases.sort_by_key(|&base| (Reverse(migrations(base).map(<[_]>::len)), base));
        Box::new(bases.into_iter().filter_map(move |base| {
            let seconds = self.extension(of, ends.recipes[base]?, ends.recipes[of]?, costs)?;
            Some((base, seconds))
        }))
    }

    /// Returns the seconds of an incremental build of a template from a base, if it is possible.
    fn extension(&self, of: usize, base: &Recipe, new: &Recipe, costs: &Costs) -> Option<f64> {
        let append = match self.rows[of].extend {
            Extend::Never => return None,
            Extend::Append => Append::Sorted,
            Extend::Always => Append::Any,
        };
        // Cheaper than a comparison, and true of many pairs.
        match base.migrations.len().cmp(&new.migrations.len()) {
            Ordering::Greater => return None,
            Ordering::Equal if base.rerun_inputs == new.rerun_inputs && base.companions == new.companions => {
                return None;
            }
            Ordering::Equal | Ordering::Less => {}
        }
        let added = extension(base, new, append).ok()?;
        Some(costs.extension(added.len()))
    }

    /// Returns the residents as the policy sees them, and the build costs of each definition.
    fn weigh(&self) -> (Vec<Resident>, Vec<Costs>) {
        let mut numbers: HashMap<(&str, &str), usize> = HashMap::new();
        let mut costs = Vec::new();
        let mut residents = Vec::new();
        for row in &self.rows {
            let key = (row.project.as_str(), row.definition.as_str());
            let files = |id: i64| self.known.recipes.get(&id).map_or(1, |r| r.migrations.len());
            let definition = *numbers.entry(key).or_insert_with(|| {
                let of = |b: &&BuildRow| (b.project.as_str(), b.definition.as_str()) == key;
                costs.push(Costs::measured(self.known.builds.iter().filter(of), files(row.id)));
                costs.len() - 1
            });
            residents.push(Resident {
                definition,
                idle: row.idle_s.0,
                bytes: row.bytes.get(),
                full: row.full_ms.map_or(costs[definition].full, Millis::seconds),
                pinned: row.pinned || self.known.held.contains(&LockKey::template(row.id)),
            });
        }
        (residents, costs)
    }
}

fn limits_of(settings: &ProjectSettings) -> Limits {
    Limits {
        max_bytes: settings.max_bytes.map(Bytes::get),
        max_templates: settings.max_templates.and_then(|n| n.try_into().ok()),
        max_idle: settings.max_idle_s.map(|idle| idle.0),
        keep: settings.keep.try_into().unwrap_or(usize::MAX),
    }
}

fn exceeded(rows: &[ResidentRow], limits: &Limits, room: Room) -> bool {
    let bytes = rows.iter().map(|row| row.bytes.get()).sum();
    let longest_idle = rows.iter().map(|row| row.idle_s.0).fold(0.0, f64::max);
    limits.exceeded(rows.len(), bytes, longest_idle, room)
}

/// Plans the evictions that each project needs to keep its limits; `settings` are those of one project, and `room`
/// is for what it is about to add. Writes nothing.
///
/// # Errors
/// The driver's.
pub(crate) async fn plan(
    registry: &mut Registry,
    settings: &ProjectSettings,
    room: Room,
) -> Result<Vec<Eviction>> {
    let projects = registry.projects().await?;
    let mut limits: BTreeMap<String, (Limits, Room)> =
        projects.iter().map(|noted| (noted.name.clone(), (limits_of(noted), Room::default()))).collect();
    limits.insert(settings.name.clone(), (limits_of(settings), room));
    plan_within(registry, &limits).await
}

/// Plans the evictions that these projects need to keep their limits. Writes nothing.
async fn plan_within(
    registry: &mut Registry,
    limits: &BTreeMap<String, (Limits, Room)>,
) -> Result<Vec<Eviction>> {
    let mut shelves: BTreeMap<String, Vec<ResidentRow>> = BTreeMap::new();
    for row in registry.residents().await? {
        shelves.entry(row.project.clone()).or_default().push(row);
    }
    // A project without limits was never built with this version, so its allowed size is unknown.
    shelves.retain(|name, rows| limits.get(name).is_some_and(|(limits, room)| exceeded(rows, limits, *room)));
    if shelves.is_empty() {
        return Ok(Vec::new());
    }
    let known = Known::read(registry, shelves.values().flatten()).await?;
    let mut evictions = Vec::new();
    for (name, rows) in shelves {
        if let Some((limits, room)) = limits.get(&name) {
            let shelf = Shelf { rows, known: &known };
            evictions.extend(shelf.plan(limits, *room, Reason::Rule));
        }
    }
    Ok(evictions)
}

/// Plans the evictions of these templates, by their row numbers, whatever the limits are. Writes nothing.
///
/// # Errors
/// The driver's.
pub(crate) async fn plan_named(registry: &mut Registry, ids: &[i64]) -> Result<Vec<Eviction>> {
    let rows = registry.residents().await?;
    let known = Known::read(registry, &rows).await?;
    Ok(Shelf { rows, known: &known }.plan_named(ids))
}

/// Discards the templates of a plan in its order, if their evictions still apply. A cleanup or [`drop_now`] drops
/// the databases.
///
/// # Errors
/// The driver's; templates that were discarded until then stay discarded.
pub(crate) async fn apply(registry: &mut Registry, evictions: &[Eviction]) -> Result<Vec<Evicted>> {
    let mut done = Vec::new();
    for eviction in evictions {
        let row = &eviction.template;
        let gone = match lock_alone(registry, row.id).await? {
            None => false,
            Some(lock) => {
                let gone = registry.evict_template(row.id, &row.used, eviction.reason.words()).await;
                lock.release(registry).await?;
                gone?
            }
        };
        done.push(match gone {
            true => Evicted::Gone,
            false if registry.is_ready(row.id).await? => Evicted::InUse,
            false => Evicted::GoneBefore,
        });
    }
    Ok(done)
}

/// Takes a template's lock exclusively, unless a process copies or extends it: such processes share the lock, and
/// so does this one after its own build. A process that holds it exclusively is evicting it, which is quick; a
/// process that creates warm clones of it releases it after the current copy.
async fn lock_alone(registry: &mut Registry, id: i64) -> Result<Option<Lock>> {
    let asked = registry.try_lock(LockKey::evicting(id)).await?;
    let locked = wait_alone(registry, id).await;
    if let Some(asked) = asked {
        asked.release(registry).await?;
    }
    locked
}

async fn wait_alone(registry: &mut Registry, id: i64) -> Result<Option<Lock>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    // A copy may be large.
    const OF_FILLER: Duration = Duration::from_secs(60);
    let key = LockKey::template(id);
    let started = Instant::now();
    loop {
        let lock = registry.try_lock(key).await?;
        let passed = started.elapsed();
        let soon = lock.is_none()
            && (passed < PATIENCE && registry.is_held_alone(key).await?
                || passed < OF_FILLER && registry.is_held_alone(LockKey::filler(id)).await?);
        if !soon {
            return Ok(lock);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Drops discarded templates. Returns the reasons why some are kept.
///
/// # Errors
/// The driver's.
pub(crate) async fn drop_now(registry: &mut Registry, evictions: &[Eviction]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for eviction in evictions {
        let why = eviction.reason.words();
        if let drop::OfTemplate::Stays(left) =
            drop::drop_broken_template(registry, eviction.template.id, why).await?
        {
            lines.extend(left);
        }
    }
    Ok(lines)
}

/// Makes room for a build: discards the templates of its project that exceed the limits with it. Drops these and
/// earlier discarded ones, so that the budget is also kept during the build. What other projects have too much is no
/// reason to let this one wait; [`keep_limits`] discards it. The new template is expected to be a tenth larger than
/// the largest one of its definition. Does nothing while there is room.
///
/// # Errors
/// The driver's.
pub(crate) async fn make_room(
    registry: &mut Registry,
    settings: &ProjectSettings,
    definition: &str,
) -> Result<Vec<Eviction>> {
    let project = settings.name.as_str();
    let rows = registry.residents().await?;
    let of = |row: &&ResidentRow| row.project == project && row.definition == definition;
    let largest = rows.iter().filter(of).map(|row| row.bytes).max();
    let bytes = largest.map_or(0, Bytes::get);
    let bytes = bytes.saturating_add(bytes / 10);
    let leftover = registry.leftover_bytes(project).await?;
    let room = Room { templates: 1, bytes };
    // Warm clones are the cheapest to recreate, so they are dropped before any template.
    let spare = warm::spare(registry, Some((project, bytes))).await?;
    drop::drop_warm(registry, &warm::ids(spare)).await?;
    let own = BTreeMap::from([(settings.name.clone(), (limits_of(settings), room))]);
    let plan = plan_within(registry, &own).await?;
    let evicted = gone(registry, plan).await?;
    drop_now(registry, &evicted).await?;
    if leftover > 0 {
        drop::drop_broken_templates(registry, project).await?;
    }
    Ok(evicted)
}

/// Discards the templates that exceed the limits of any project after a build. A cleanup drops the databases, unless
/// the budget in bytes of this project was exceeded: then they are dropped immediately.
///
/// # Errors
/// The driver's.
pub(crate) async fn keep_limits(
    registry: &mut Registry,
    settings: &ProjectSettings,
) -> Result<Vec<Eviction>> {
    let plan = plan(registry, settings, Room::default()).await?;
    let evicted = gone(registry, plan).await?;
    let for_size =
        |e: &&Eviction| e.template.project == settings.name && e.reason == Reason::Rule(Rule::Size);
    let now: Vec<Eviction> = evicted.iter().filter(for_size).cloned().collect();
    drop_now(registry, &now).await?;
    Ok(evicted)
}

/// Frees space on a full disk: discards and drops templates of any project, the cheapest ones first, until this
/// number of bytes is free, or no more may be evicted. The `keep` newest of each definition are kept.
/// # Errors
/// The driver's.
pub(crate) async fn free_disk(
    registry: &mut Registry,
    settings: &ProjectSettings,
    bytes: u64,
) -> Result<Vec<Eviction>> {
    let projects = registry.projects().await?;
    let all = projects.iter().chain([settings]);
    let keep = all.map(|settings| (settings.name.clone(), limits_of(settings).keep)).collect();
    let rows = registry.residents().await?;
    let known = Known::read(registry, &rows).await?;
    let mut shelf = Shelf { rows, known: &known };
    shelf.pin_newest(&keep);
    let total: u64 = shelf.rows.iter().map(|r| r.bytes.get()).sum();
    let limits = Limits { max_bytes: Some(total.saturating_sub(bytes)), ..Limits::default() };
    let plan = shelf.plan(&limits, Room::default(), |_| Reason::DiskFull);
    let evicted = gone(registry, plan).await?;
    drop_now(registry, &evicted).await?;
    Ok(evicted)
}

impl Shelf<'_> {
    /// Protects the newest templates of each definition, as many as its project keeps; two if that is not known.
    fn pin_newest(&mut self, keep: &HashMap<String, usize>) {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by(|&a, &b| self.rows[a].idle_s.total_cmp(&self.rows[b].idle_s));
        let mut seen: HashMap<(String, String), usize> = HashMap::new();
        for i in order {
            let row = &mut self.rows[i];
            let seen = seen.entry((row.project.clone(), row.definition.clone())).or_default();
            row.pinned |= *seen < keep.get(&row.project).copied().unwrap_or(2);
            *seen += 1;
        }
    }
}

/// Applies a plan, and returns the evictions without the templates that were kept.
async fn gone(registry: &mut Registry, plan: Vec<Eviction>) -> Result<Vec<Eviction>> {
    let done = apply(registry, &plan).await?;
    let pairs = plan.into_iter().zip(done);
    Ok(pairs.filter(|(_, done)| *done == Evicted::Gone).map(|(eviction, _)| eviction).collect())
}
