//! Replays a trace with a policy and space for some templates.

use std::collections::HashMap;

use pgstencil::retention::policy::{self, Resident};

use crate::rebuild::Step;
use crate::trace::Trace;

/// The policy that selects the template to evict.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Policy {
    /// Evicts the least recently used template.
    Lru { extend: bool },
    /// GreedyDual-Size-Frequency (Cherkasova 1998): frequency times the cost of a full build by size, added
    /// to the value of the last evicted template.
    Gdsf,
    /// The policy of pgstencil.
    Pgstencil,
    /// Evicts the template whose next use is farthest away (Belady 1966): a reference, not a bound, since it
    /// ignores extension.
    Belady,
}

impl Policy {
    pub(crate) const ALL: [Policy; 5] = [
        Policy::Lru { extend: false },
        Policy::Lru { extend: true },
        Policy::Gdsf,
        Policy::Pgstencil,
        Policy::Belady,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Policy::Lru { extend: false } => "lru, no extension",
            Policy::Lru { extend: true } => "lru",
            Policy::Gdsf => "gdsf",
            Policy::Pgstencil => "pgstencil",
            Policy::Belady => "belady",
        }
    }
}

/// Which full builds keep a part of the set as a template of its own: a waypoint.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Waypoints {
    /// None.
    None,
    /// Those that differ from a resident in one directory, as with `build_until`.
    Until,
    /// All, as with `waypoints = "copy"`.
    Copy,
}

impl Waypoints {
    pub(crate) const ALL: [Waypoints; 3] = [Waypoints::None, Waypoints::Until, Waypoints::Copy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Waypoints::None => "without waypoints",
            Waypoints::Until => "with waypoints by `build_until`",
            Waypoints::Copy => "with waypoints by copies of the tree",
        }
    }
}

/// Result of a replay.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) hits: usize,
    pub(crate) misses: usize,
    pub(crate) extended: usize,
    pub(crate) waypoints: usize,
    /// In units of one file in a full build.
    pub(crate) work: f64,
    /// The largest work of one day, in full builds of that day's last set.
    pub(crate) worst_day: f64,
}

/// A resident template.
struct Kept {
    set: usize,
    used: f64,
    next: usize,
    frequency: f64,
    value: f64,
}

/// The data that all replays of one trace share.
pub(crate) struct Replay<'a> {
    trace: &'a mut Trace,
    fixed: f64,
    size: usize,
    /// Whether the prefix that a full build shares with a resident is kept as a template of its own.
    waypoints: Waypoints,
    /// Time, cost of a full build, and event, for the replay of rebuilds.
    steps: Vec<(f64, f64, Step)>,
    known: &'a mut HashMap<(usize, usize), Option<usize>>,
    /// For each run, the index of the next run of the same set.
    next: Vec<usize>,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(
        trace: &'a mut Trace,
        fixed: f64,
        size: usize,
        known: &'a mut HashMap<(usize, usize), Option<usize>>,
    ) -> Self {
        let mut next = vec![usize::MAX; trace.runs.len()];
        let mut seen = HashMap::new();
        for (i, (_, set)) in trace.runs.iter().enumerate().rev() {
            if let Some(later) = seen.insert(*set, i) {
                next[i] = later;
            }
        }
        Replay { trace, fixed, size, waypoints: Waypoints::None, steps: Vec::new(), known, next }
    }

    /// Keeps the prefix that a full build shares with a resident as a template of its own: a waypoint, which costs
    /// one more start of the migrate command.
    pub(crate) fn with_waypoints(mut self, waypoints: Waypoints) -> Self {
        self.waypoints = waypoints;
        self
    }

    /// Returns the steps of the last run.
    pub(crate) fn into_steps(self) -> Vec<(f64, f64, Step)> {
        self.steps
    }

    fn full(&self, set: usize) -> f64 {
        self.trace.sets[set].files as f64
    }

    /// Returns the cost of extending one set to another.
    fn extension(&mut self, base: usize, set: usize) -> Option<f64> {
        let trace = &*self.trace;
        let added = *self.known.entry((base, set)).or_insert_with(|| trace.added(base, set));
        Some(added? as f64 + self.fixed * self.full(set))
    }

    pub(crate) fn run(&mut self, policy: Policy) -> Sum {
        let mut sum = Sum::default();
        let mut kept: Vec<Kept> = Vec::new();
        let mut inflation = 0.0;
        let (mut day, mut day_work) = (0, 0.0);
        self.steps.clear();
        for i in 0..self.trace.runs.len() {
            let (now, set) = self.trace.runs[i];
            let today = (now / 86_400.0) as u64;
            if today != day {
                (day, day_work) = (today, 0.0);
            }
            if let Some(found) = kept.iter_mut().find(|k| k.set == set) {
                sum.hits += 1;
                found.used = now;
                found.next = self.next[i];
                found.frequency += 1.0;
                found.value = inflation + found.frequency;
                self.steps.push((now, self.full(set), Step::Hit { set }));
                continue;
            }
            sum.misses += 1;
            let full = self.full(set);
            let mut cost = full;
            let mut step = Step::Full { set };
            let mut new = 1;
            if policy != (Policy::Lru { extend: false }) {
                // The largest base: the one with the fewest files to add.
                let found = (0..kept.len())
                    .filter_map(|base| Some((base, self.extension(kept[base].set, set)?)))
                    .min_by(|a, b| a.1.total_cmp(&b.1));
                if let Some((base, extension)) = found {
                    sum.extended += 1;
                    cost = extension;
                    step = Step::Extended { set, base: kept[base].set, fresh: false };
                    if policy == Policy::Pgstencil {
                        // An extension is a use of its base.
                        kept[base].used = now;
                    }
                } else if let Some(base) = self.waypoint(&kept, set) {
                    cost += self.fixed * full;
                    step = Step::Extended { set, base, fresh: true };
                    sum.waypoints += 1;
                    new = 2;
                    kept.push(Kept {
                        set: base,
                        used: now,
                        next: usize::MAX,
                        frequency: 1.0,
                        value: inflation + 1.0,
                    });
                }
            }
            self.steps.push((now, full, step));
            sum.work += cost;
            day_work += cost;
            sum.worst_day = f64::max(sum.worst_day, day_work / full.max(1.0));
            kept.push(Kept { set, used: now, next: self.next[i], frequency: 1.0, value: inflation + 1.0 });
            // The new template is about to be cloned, so another one is evicted.
            while kept.len() > self.size {
                let gone = self.victim(policy, &kept, new, now);
                let gone = kept.remove(gone);
                inflation = gone.value;
                self.steps.push((now, 0.0, Step::Gone { set: gone.set }));
            }
        }
        sum
    }

    /// Returns the set of the files that the set shares with a resident, in each directory those before the first
    /// difference, if that is enough of it to be worth a start of the migrate command.
    fn waypoint(&mut self, kept: &[Kept], set: usize) -> Option<usize> {
        const LEAST: f64 = 0.3;
        const LEAST_FILES: f64 = 5.0;
        if self.waypoints == Waypoints::None {
            return None;
        }
        let prefixes = kept.iter().map(|k| self.trace.prefix(k.set, set));
        let any = self.waypoints == Waypoints::Copy;
        let prefixes = prefixes.filter(|prefix| any || self.trace.stops(prefix, set));
        let prefix =
            prefixes.max_by_key(|prefix| prefix.iter().map(|word| word.count_ones()).sum::<u32>())?;
        let files: u32 = prefix.iter().map(|word| word.count_ones()).sum();
        let (files, full) = (f64::from(files), self.full(set));
        (full >= LEAST_FILES && files >= LEAST * full && files < full).then(|| self.trace.add(prefix))
    }

    fn victim(&mut self, policy: Policy, kept: &[Kept], new: usize, now: f64) -> usize {
        let best = |score: &dyn Fn(&Kept) -> f64| {
            let old = &kept[..kept.len() - new];
            let scores = old.iter().map(score).enumerate();
            scores.reduce(|best, next| if next.1 > best.1 { next } else { best }).map_or(0, |(i, _)| i)
        };
        match policy {
            Policy::Lru { .. } => best(&|k| now - k.used),
            Policy::Gdsf => best(&|k| -k.value),
            Policy::Belady => best(&|k| k.next as f64),
            Policy::Pgstencil => {
                let residents: Vec<Resident> = kept
                    .iter()
                    .enumerate()
                    .map(|(i, k)| Resident {
                        definition: 0,
                        idle: now - k.used,
                        bytes: 1,
                        full: self.full(k.set),
                        pinned: i + new >= kept.len(),
                    })
                    .collect();
                let n = kept.len();
                let mut costs = Vec::with_capacity(n * n);
                for base in kept {
                    for of in kept {
                        costs.push(self.extension(base.set, of.set));
                    }
                }
                let seconds = |base: usize, of: usize| costs[base * n + of];
                policy::first_to_go(&residents, &policy::cheapest_first(n, &seconds)).unwrap_or(0)
            }
        }
    }
}
