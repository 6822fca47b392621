//! Order of evictions: a pure function of the existing templates and of the cost of rebuilding them.
//!
//! A template that can be extended from one that is kept is cheap to lose; one that needs a full build is
//! expensive. A template that others would be extended from is more expensive by what they would take without
//! it. Each template is expected to be requested again at a rate of once in the time that it has been idle. The
//! first one to evict is the one whose loss costs the fewest seconds by that expectation. The cost includes its
//! own rebuild and the rebuilds that depend on it, *given the templates that are kept*: after each eviction the
//! others are weighed again. Being extended counts as a use.
//!
//! `examples/eviction_replay` compares this with the policies of the literature on real histories.

use std::collections::HashMap;

#[cfg(test)]
mod tests;

/// Template that could be evicted or must be kept, as the policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resident {
    /// Number of its definition: templates of the same number are of one definition.
    pub definition: usize,
    /// Seconds since it was last used.
    pub idle: f64,
    /// Total size of its databases.
    pub bytes: u64,
    /// Estimated seconds of a full build of it.
    pub full: f64,
    /// Whether no rule may evict it.
    pub pinned: bool,
}

/// Limits of one project's templates. `None` is no limit; `keep` takes precedence over the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes of all templates together.
    pub max_bytes: Option<u64>,
    /// Number of templates.
    pub max_templates: Option<usize>,
    /// Seconds since the last use.
    pub max_idle: Option<f64>,
    /// Number of the most recently used templates of each definition that are never evicted.
    pub keep: usize,
}

impl Limits {
    /// Returns whether a limit is exceeded by this number of templates with this total size, where the least recently
    /// used one has been idle for `longest_idle` seconds, and by the templates that are about to be added. Only then can [`plan`]
    /// evict anything, so only then the costs need to be known.
    pub fn exceeded(&self, templates: usize, bytes: u64, longest_idle: f64, room: Room) -> bool {
        self.max_bytes.is_some_and(|max| bytes.saturating_add(room.bytes) > max)
            || self.max_templates.is_some_and(|max| templates + room.templates > max)
            || self.max_idle.is_some_and(|max| longest_idle > max)
    }
}

/// Templates that are about to be added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Room {
    /// Number of templates.
    pub templates: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Rule by which a template is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `max_idle`
    Idle,
    /// `max_templates`
    Count,
    /// `max_size`
    Size,
}

impl Rule {
    /// Returns the key of its limit in `[eviction]`.
    pub fn key(self) -> &'static str {
        match self {
            Rule::Idle => "max_idle",
            Rule::Count => "max_templates",
            Rule::Size => "max_size",
        }
    }

    /// Returns the reason of an eviction by it, for a person.
    pub fn words(self) -> &'static str {
        match self {
            Rule::Idle => "evicted: idle for longer than `max_idle`",
            Rule::Count => "evicted: the project has more than `max_templates` templates",
            Rule::Size => "evicted: the project's templates exceed `max_size`",
        }
    }
}

/// Template to evict, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eviction {
    /// Its index among the residents.
    pub index: usize,
    /// Rule that evicts it.
    pub rule: Rule,
    /// Estimated seconds of rebuilding it, given the templates that are kept by then.
    pub loss: f64,
}

/// Bases from which a resident could be extended: the index of each, and the seconds of the incremental build.
/// The cheapest comes first. A plan asks for a further base only when it needs one, so the iterator can compare late.
pub type Bases<'a> = Box<dyn Iterator<Item = (usize, f64)> + 'a>;

/// Returns the bases of the resident at an index.
pub type BasesOf<'a, 'f> = &'f dyn Fn(usize) -> Bases<'a>;

/// Makes [`BasesOf`] from the costs of all pairs: `seconds` returns the seconds of an incremental build from the
/// resident at the first index to the one at the second, `None` if that is not possible.
pub fn cheapest_first<'a>(
    residents: usize,
    seconds: &'a dyn Fn(usize, usize) -> Option<f64>,
) -> impl Fn(usize) -> Bases<'a> {
    move |of| {
        let mut bases: Vec<(usize, f64)> =
            (0..residents).filter_map(|base| Some((base, seconds(base, of)?))).collect();
        bases.sort_by(|a, b| a.1.total_cmp(&b.1));
        Box::new(bases.into_iter())
    }
}

/// Returns the templates to evict, in order. If nothing more may be evicted, limits stay exceeded: pinned and kept
/// templates take precedence over any limit.
pub fn plan(residents: &[Resident], limits: &Limits, room: Room, bases: BasesOf<'_, '_>) -> Vec<Eviction> {
    let mut left = Left::new(residents, limits.keep, bases);
    let mut evictions = Vec::new();
    if let Some(max) = limits.max_idle {
        // Longest idle first, so that each is weighed against the templates that are really kept.
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

/// Returns the template to evict if there is one too many, by the same measure as [`plan`]; `None` if all are
/// pinned.
pub fn first_to_go(residents: &[Resident], bases: BasesOf<'_, '_>) -> Option<usize> {
    Left::new(residents, 0, bases).first_to_go(|_| 1.0)
}

/// Returns the estimated seconds of rebuilding each of the templates with these indexes if all of them are lost, in
/// the order of `lost`.
pub fn losses(residents: &[Resident], lost: &[usize], bases: BasesOf<'_, '_>) -> Vec<f64> {
    let mut left = Left::new(residents, 0, bases);
    for &index in lost {
        left.gone[index] = true;
    }
    let mut of = |index: usize| {
        left.look(index);
        left.rebuild(index, None)
    };
    lost.iter().map(|&index| of(index)).collect()
}

/// Residents that remain while a plan is made.
struct Left<'r, 'a> {
    residents: &'r [Resident],
    stays: Vec<bool>,
    gone: Vec<bool>,
    bases: Vec<Nearest<'a>>,
}

/// The two cheapest bases of one resident that are not evicted: what it rests on, and what it would rest on without
/// that.
struct Nearest<'a> {
    found: Vec<(usize, f64)>,
    /// Costlier bases. An evicted one never comes back, so what was passed over is not needed again.
    further: Bases<'a>,
}

impl Nearest<'_> {
    fn look(&mut self, is_base: impl Fn(usize) -> bool) {
        self.found.retain(|(base, _)| is_base(*base));
        while self.found.len() < 2
            && let Some(next) = self.further.find(|(base, _)| is_base(*base))
        {
            self.found.push(next);
        }
    }
}

/// Added to the time that a template has been idle: a use one minute ago hardly differs from one ten minutes ago.
/// In the replays a larger value saves a little more work, for many more misses.
const RECENT: f64 = 15.0 * 60.0;

impl<'r, 'a> Left<'r, 'a> {
    fn new(residents: &'r [Resident], keep: usize, bases: BasesOf<'a, '_>) -> Self {
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
        let bases = all.map(|of| Nearest { found: Vec::new(), further: bases(of) }).collect();
        Left { bases, gone: vec![false; residents.len()], stays, residents }
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

    /// Finds the bases that a resident has now.
    fn look(&mut self, of: usize) {
        let (residents, gone) = (self.residents, &self.gone);
        let definition = residents[of].definition;
        self.bases[of].look(|base| base != of && !gone[base] && residents[base].definition == definition);
    }

    /// Returns the cheapest rebuild of a resident from the bases that the last look found, without one of them.
    fn rebuild(&self, of: usize, without: Option<usize>) -> f64 {
        let full = self.residents[of].full;
        self.bases[of]
            .found
            .iter()
            .find(|(base, _)| Some(*base) != without)
            .map_or(full, |(_, seconds)| seconds.min(full))
    }

    /// Returns the expected number of requests for a resident per second.
    fn rate(&self, index: usize) -> f64 {
        1.0 / (self.residents[index].idle.max(0.0) + RECENT)
    }

    /// Returns the resident whose loss costs least for what it releases; the first of equal ones.
    fn first_to_go(&mut self, gives: impl Fn(&Resident) -> f64) -> Option<usize> {
        let present: Vec<usize> = self.present().collect();
        // Seconds by which the rebuilds of others would grow.
        let mut grows = vec![0.0; self.residents.len()];
        for other in present {
            self.look(other);
            if let Some(&(base, _)) = self.bases[other].found.first() {
                let more = self.rebuild(other, Some(base)) - self.rebuild(other, None);
                grows[base] += self.rate(other) * more;
            }
        }
        let cost = |i: usize| {
            let own = self.rate(i) * self.rebuild(i, None);
            (own + grows[i]) / gives(&self.residents[i]).max(1.0)
        };
        self.candidates()
            .map(|i| (i, cost(i)))
            .reduce(|best, next| if next.1 < best.1 { next } else { best })
            .map(|(i, _)| i)
    }

    fn evict(&mut self, index: usize, rule: Rule) -> Eviction {
        self.gone[index] = true;
        self.look(index);
        Eviction { index, rule, loss: self.rebuild(index, None) }
    }
}
