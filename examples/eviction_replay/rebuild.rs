//! Replays a trace with a rule for the full builds that replace provisional templates.

use std::collections::{HashMap, HashSet};

use pgstencil::retention::rebuild_policy::{self, Candidate, Costs, Decision, Findings, Load};

/// Rule that decides when a provisional template gets its full build.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    /// After its first use.
    Every,
    /// At its use of this number.
    Use(u64),
    /// At its first use after an hour.
    Hour,
    /// The policy of pgstencil, on an idle machine, with full builds of this number of seconds.
    Pgstencil { build: f64 },
}

impl Rule {
    pub(crate) const ALL: [Rule; 5] =
        [Rule::Every, Rule::Use(2), Rule::Use(5), Rule::Hour, Rule::Pgstencil { build: 200.0 }];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Rule::Every => "every one",
            Rule::Use(2) => "2nd use",
            Rule::Use(_) => "5th use",
            Rule::Hour => "after an hour",
            Rule::Pgstencil { .. } => "pgstencil",
        }
    }
}

/// Event of a replay that matters to rebuilds.
pub(crate) enum Step {
    /// A set was built in full.
    Full { set: usize },
    /// A set was built on another one. `fresh`: the base is a waypoint that was built in full just before.
    Extended { set: usize, base: usize, fresh: bool },
    /// A resident set was used.
    Hit { set: usize },
    /// A set was evicted.
    Gone { set: usize },
}

/// Result of a replay.
#[derive(Default)]
pub(crate) struct Sum {
    /// Full builds in the background, in units of one file.
    pub(crate) background: f64,
    pub(crate) rebuilds: usize,
    pub(crate) accepted: usize,
    pub(crate) uses: usize,
    /// Uses of provisional templates, and those of them more than a day after the build.
    pub(crate) provisional: usize,
    pub(crate) late: usize,
    /// Number of links that the rebuilds compared.
    pub(crate) links: u32,
    /// Number of rebuilds that found a difference.
    pub(crate) differing: usize,
    /// Uses of accepted templates that differ from a full build.
    pub(crate) unnoticed: usize,
    /// Number of acceptances that stated a bound below the real share of incremental builds that differ.
    pub(crate) wrong_bounds: usize,
}

/// Random numbers of a replay: another sample for each seed, and incremental builds that differ.
#[derive(Clone, Copy)]
pub(crate) struct Chance {
    pub(crate) seed: u64,
    /// Share of the incremental builds that differ from a full build.
    pub(crate) differ: f64,
}

#[derive(Default)]
struct State {
    provisional: HashMap<usize, Candidate>,
    born: HashMap<usize, f64>,
    /// Sets that were built as a base only.
    waypoints: HashSet<usize>,
    /// Bases, also of templates that are gone.
    bases: HashMap<usize, usize>,
    /// Sets for which a full build of them or of a later one in their chain was equal.
    proved: HashSet<usize>,
    /// Results of the rebuilds.
    findings: Findings,
    /// Accepted templates.
    accepted: HashMap<usize, Candidate>,
    /// Sets that differ from a full build.
    different: HashSet<usize>,
    /// Sets that rest on one in which a rebuild found a difference.
    suspect: HashSet<usize>,
    links: u32,
}

impl State {
    /// Returns the sets of the unproved links, the newest first.
    fn chain(&self, set: usize) -> Vec<usize> {
        let mut chain = Vec::new();
        let mut at = set;
        while let Some(&base) = self.bases.get(&at)
            && !self.proved.contains(&at)
        {
            chain.push(at);
            at = base;
        }
        chain
    }

    /// Returns whether a set was built on another one, directly or not.
    fn rests_on(&self, set: usize, other: usize) -> bool {
        let mut at = set;
        while let Some(&base) = self.bases.get(&at) {
            if base == other {
                return true;
            }
            at = base;
        }
        false
    }

    /// A rebuild replaced a set, and its chain was compared with the result. Returns whether that differs.
    fn rebuilt(&mut self, set: usize, chain: Vec<usize>) -> bool {
        let links = chain.len() as u32;
        self.links += links;
        self.suspect.remove(&set);
        if !self.different.remove(&set) {
            self.findings.equal += links;
            self.proved.extend(chain);
            return false;
        }
        // All acceptances are withdrawn.
        self.findings = Findings { equal: 0, differences: self.findings.differences + 1 };
        self.provisional.extend(self.accepted.drain());
        let above: Vec<usize> =
            self.bases.keys().copied().filter(|other| self.rests_on(*other, set)).collect();
        self.suspect.extend(above);
        self.bases.remove(&set);
        true
    }

    /// Returns whether a rebuild begins; `Some(false)`: the template is accepted.
    fn decide(&self, rule: Rule, set: usize, links: u32, spent: f64) -> Option<bool> {
        let links = if self.suspect.contains(&set) { u32::MAX } else { links };
        let template = Candidate { links, ..self.provisional[&set] };
        let template = match self.waypoints.contains(&set) {
            true => Candidate { links: 1, ..template }.as_waypoint(),
            false => template,
        };
        let build = match rule {
            Rule::Every => return Some(true),
            Rule::Use(n) => return (template.uses >= n).then_some(true),
            Rule::Hour => return (template.uses > 1 && template.age >= 3600.0).then_some(true),
            Rule::Pgstencil { build } => build,
        };
        let costs = Costs { build, spent };
        match rebuild_policy::decide(&template, &self.findings, &costs, &Load::default()) {
            Decision::Rebuild => Some(true),
            Decision::Accept => Some(false),
            Decision::Wait(_) => None,
        }
    }
}

/// Returns the random number of a set, which decides whether it is in the sample: another one for each `seed`.
fn draw(set: usize, seed: u64) -> f64 {
    let mixed = (set as u64 ^ seed.wrapping_mul(0xd134_2543_de82_ef95)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed as f64 / 2_f64.powi(64)
}

/// Replays steps, each with its time and the cost of a full build. A template differs if its incremental build does, or
/// one in the chain below it; a waypoint is none.
pub(crate) fn run(steps: &[(f64, f64, Step)], rule: Rule, chance: Chance) -> Sum {
    let mut sum = Sum::default();
    let mut state = State::default();
    let mut rebuilt: Vec<f64> = Vec::new();
    for (now, full, step) in steps {
        let set = match step {
            Step::Gone { set } => {
                state.provisional.remove(set);
                state.accepted.remove(set);
                continue;
            }
            Step::Full { set } => {
                sum.uses += 1;
                state.bases.remove(set);
                state.waypoints.remove(set);
                state.different.remove(set);
                state.suspect.remove(set);
                continue;
            }
            Step::Extended { set, base, fresh } => {
                let draw = draw(*set, chance.seed);
                if *fresh {
                    state.different.remove(base);
                    state.suspect.remove(base);
                }
                let differs = self::draw(*set, chance.seed ^ 0x5eed) < chance.differ;
                match differs || state.different.contains(base) {
                    true => state.different.insert(*set),
                    false => state.different.remove(set),
                };
                match state.suspect.contains(base) {
                    true => state.suspect.insert(*set),
                    false => state.suspect.remove(set),
                };
                state.provisional.insert(*set, Candidate { uses: 0, draw, ..Candidate::default() });
                state.born.insert(*set, *now);
                state.bases.insert(*set, *base);
                // Another build of a set that was there before.
                state.proved.remove(set);
                if *fresh {
                    state.bases.remove(base);
                    state.proved.remove(base);
                    state.provisional.insert(*base, Candidate::default());
                    state.born.insert(*base, *now);
                    state.waypoints.insert(*base);
                }
                state.waypoints.remove(set);
                set
            }
            Step::Hit { set } => set,
        };
        sum.uses += 1;
        let Some(template) = state.provisional.get_mut(set) else {
            let unnoticed = state.accepted.contains_key(set) && state.different.contains(set);
            sum.unnoticed += usize::from(unnoticed);
            if let Some(accepted) = state.accepted.get_mut(set) {
                accepted.uses += 1;
            }
            continue;
        };
        template.uses += 1;
        template.age = now - state.born[set];
        sum.provisional += 1;
        sum.late += usize::from(template.age > 86_400.0);
        let chain = state.chain(*set);
        rebuilt.retain(|at| now - at < 86_400.0);
        let build = if let Rule::Pgstencil { build } = rule { build } else { 0.0 };
        let spent = rebuilt.len() as f64 * build;
        match state.decide(rule, *set, chain.len() as u32, spent) {
            None => {}
            Some(false) => {
                sum.accepted += 1;
                sum.wrong_bounds += usize::from(state.findings.unseen() < chance.differ);
                sum.unnoticed += usize::from(state.different.contains(set));
                if let Some(template) = state.provisional.remove(set) {
                    state.accepted.insert(*set, template);
                }
            }
            Some(true) => {
                sum.rebuilds += 1;
                sum.background += full;
                rebuilt.push(*now);
                state.provisional.remove(set);
                sum.differing += usize::from(state.rebuilt(*set, chain));
            }
        }
    }
    sum.links = state.links;
    sum
}
