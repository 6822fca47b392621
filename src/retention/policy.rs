//! Which templates go first: a pure function of what is there and of what it would cost to have it
//! again.
//!
//! A template that can be extended from one that stays is cheap to lose, one that needs a build from
//! nothing is dear; and one that others would be extended from is dearer by what they would then take.
//! Each template is expected to be asked for again at a rate of once in the time that it has been idle.
//! So the first to go is the one whose loss costs the fewest seconds by that expectation, of its own
//! rebuild and of those that would rest on it, *given the templates that stay*: after each one that
//! goes the others are weighed anew. To be extended is a use.
//!
//! `examples/eviction_replay` compares this with the policies of the books on real histories.

use std::collections::HashMap;

#[cfg(test)]
mod tests;

/// What the policy sees of one template that could be evicted or must stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Resident {
    /// Templates of the same number are of one definition.
    pub definition: usize,
    /// Seconds since it was last used.
    pub idle: f64,
    /// Total size of its databases.
    pub bytes: u64,
    /// Seconds that it would take to build it from nothing.
    pub full: f64,
    /// No rule may touch it.
    pub pinned: bool,
}

/// The limits of one budget; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes of all templates together.
    pub max_bytes: Option<u64>,
    /// Number of templates.
    pub max_templates: Option<usize>,
    /// Seconds since the last use.
    pub max_idle: Option<f64>,
    /// So many of each definition, the last used ones, are touched by no rule.
    pub keep: usize,
}

/// What is about to be added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Room {
    /// How many templates.
    pub templates: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The rule by which a template goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `max_idle`
    Idle,
    /// `max_templates`
    Count,
    /// `max_size`
    Size,
}

/// One template that goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eviction {
    /// Its place among the residents.
    pub index: usize,
    /// Why.
    pub rule: Rule,
    /// Seconds that it would take to have it again, given the templates that stay by then.
    pub loss: f64,
}

/// Seconds that it would take to extend the resident at the first place to the one at the second;
/// `None` if that cannot be done.
pub type Extension<'a> = &'a dyn Fn(usize, usize) -> Option<f64>;

/// The templates that are to go, in order. What the limits still lack when nothing more may be
/// touched stays lacking: pinned and kept templates are dearer than any limit.
pub fn plan(residents: &[Resident], limits: &Limits, room: Room, extension: Extension<'_>) -> Vec<Eviction> {
    let mut left = Left::new(residents, limits.keep, extension);
    let mut evictions = Vec::new();
    if let Some(max) = limits.max_idle {
        // Longest idle first, so that each is weighed against what really stays.
        while let Some(index) = left.longest_idle(max) {
            evictions.push(left.evict(index, Rule::Idle));
        }
    }
    if let Some(max) = limits.max_templates {
        while left.count() + room.templates > max
            && let Some(index) = left.first_to_go(|_| 1.0)
        {
            evictions.push(left.evict(index, Rule::Count));
        }
    }
    if let Some(max) = limits.max_bytes {
        while left.bytes().saturating_add(room.bytes) > max
            && let Some(index) = left.first_to_go(|resident| resident.bytes as f64)
        {
            evictions.push(left.evict(index, Rule::Size));
        }
    }
    evictions
}

/// The one template to lose when there is one too many, by the same measure as [`plan`]; `None` if
/// all are pinned.
pub fn first_to_go(residents: &[Resident], extension: Extension<'_>) -> Option<usize> {
    Left::new(residents, 0, extension).first_to_go(|_| 1.0)
}

/// What it would take to have each of these again, lost in this order.
pub fn losses(residents: &[Resident], lost: &[usize], extension: Extension<'_>) -> Vec<f64> {
    let mut left = Left::new(residents, 0, extension);
    for &index in lost {
        left.gone[index] = true;
    }
    lost.iter().map(|&index| left.rebuild(index, index)).collect()
}

/// What is left of the residents while a plan is made.
struct Left<'a> {
    residents: &'a [Resident],
    stays: Vec<bool>,
    gone: Vec<bool>,
    /// For each resident what can be extended to it, cheapest first.
    bases: Vec<Vec<(usize, f64)>>,
}

/// Added to the time that a template has been idle: that one was used a minute and the other ten
/// minutes ago says little. In the replays more saves a little more work yet, for many more misses.
const RECENT: f64 = 15.0 * 60.0;

impl<'a> Left<'a> {
    fn new(residents: &'a [Resident], keep: usize, extension: Extension<'_>) -> Self {
        let all = 0..residents.len();
        let mut newest: Vec<usize> = all.clone().collect();
        newest.sort_by(|&a, &b| residents[a].idle.total_cmp(&residents[b].idle));
        let mut kept: HashMap<usize, usize> = HashMap::new();
        let mut stays: Vec<bool> = residents.iter().map(|r| r.pinned).collect();
        for i in newest {
            let kept = kept.entry(residents[i].definition).or_default();
            stays[i] |= *kept < keep;
            *kept += 1;
        }
        let bases = |of: usize| {
            let mut bases: Vec<(usize, f64)> = all
                .clone()
                .filter(|&base| base != of && residents[base].definition == residents[of].definition)
                .filter_map(|base| Some((base, extension(base, of)?)))
                .collect();
            bases.sort_by(|a, b| a.1.total_cmp(&b.1));
            bases
        };
        Left { bases: all.clone().map(bases).collect(), gone: vec![false; residents.len()], stays, residents }
    }

    fn present(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.residents.len()).filter(|&i| !self.gone[i])
    }

    fn candidates(&self) -> impl Iterator<Item = usize> + '_ {
        self.present().filter(|&i| !self.stays[i])
    }

    fn count(&self) -> usize {
        self.present().count()
    }

    fn bytes(&self) -> u64 {
        self.present().map(|i| self.residents[i].bytes).sum()
    }

    fn longest_idle(&self, max: f64) -> Option<usize> {
        self.candidates()
            .filter(|&i| self.residents[i].idle > max)
            .max_by(|&a, &b| self.residents[a].idle.total_cmp(&self.residents[b].idle))
    }

    /// The cheapest way to have a resident again when it and perhaps another one are gone.
    fn rebuild(&self, of: usize, without: usize) -> f64 {
        let full = self.residents[of].full;
        self.bases[of]
            .iter()
            .find(|(base, _)| *base != without && !self.gone[*base])
            .map_or(full, |(_, seconds)| seconds.min(full))
    }

    /// How often a resident is expected to be asked for, each second.
    fn rate(&self, index: usize) -> f64 {
        1.0 / (self.residents[index].idle.max(0.0) + RECENT)
    }

    /// The one whose loss costs least for what it releases. Of equals the first.
    fn first_to_go(&self, gives: impl Fn(&Resident) -> f64) -> Option<usize> {
        // By which seconds the rebuilds of others would grow.
        let mut grows = vec![0.0; self.residents.len()];
        for other in self.present() {
            let best = self.bases[other].iter().find(|(base, _)| !self.gone[*base]);
            if let Some(&(base, _)) = best {
                let more = self.rebuild(other, base) - self.rebuild(other, other);
                grows[base] += self.rate(other) * more;
            }
        }
        let cost = |i: usize| {
            let own = self.rate(i) * self.rebuild(i, i);
            (own + grows[i]) / gives(&self.residents[i]).max(1.0)
        };
        self.candidates()
            .map(|i| (i, cost(i)))
            .reduce(|best, next| if next.1 < best.1 { next } else { best })
            .map(|(i, _)| i)
    }

    fn evict(&mut self, index: usize, rule: Rule) -> Eviction {
        self.gone[index] = true;
        Eviction { index, rule, loss: self.rebuild(index, index) }
    }
}
