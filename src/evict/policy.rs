//! Which templates go first: a pure function of what is there and of what it would cost to have it
//! again.
//!
//! A template that can be extended from one that stays is cheap to lose, one that needs a build from
//! nothing is dear. So the first to go is the one that has been idle longest for each second that its
//! rebuild would take, *given the templates that stay*: after each one that goes the others are
//! weighed anew. `examples/eviction_replay` compares this with the policies of the books on real
//! histories.

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
pub fn plan(
    residents: &[Resident],
    limits: &Limits,
    room: Room,
    extension: Extension<'_>,
) -> Vec<Eviction> {
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

/// What is left of the residents while a plan is made.
struct Left<'a> {
    residents: &'a [Resident],
    stays: Vec<bool>,
    gone: Vec<bool>,
    extension: Extension<'a>,
}

impl<'a> Left<'a> {
    fn new(residents: &'a [Resident], keep: usize, extension: Extension<'a>) -> Self {
        let newer = |a: &Resident, i: usize, b: &Resident, j: usize| {
            b.definition == a.definition && (b.idle < a.idle || (b.idle == a.idle && j > i))
        };
        let rank = |i: usize| {
            let others = residents.iter().enumerate();
            others
                .filter(|(j, b)| newer(&residents[i], i, b, *j))
                .count()
        };
        Left {
            stays: (0..residents.len())
                .map(|i| residents[i].pinned || rank(i) < keep)
                .collect(),
            gone: vec![false; residents.len()],
            residents,
            extension,
        }
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

    /// The cheapest way to have a resident again when it is gone.
    fn loss(&self, index: usize) -> f64 {
        self.present()
            .filter(|&base| base != index)
            .filter_map(|base| (self.extension)(base, index))
            .fold(self.residents[index].full, f64::min)
    }

    /// Longest idle for each second of its loss, and for what it gives back. Of equals the first.
    fn first_to_go(&self, gives: impl Fn(&Resident) -> f64) -> Option<usize> {
        /// Nothing is free to have again; and what takes less than this is cheap alike.
        const LEAST: f64 = 1e-3;
        let score = |i: usize| {
            let resident = &self.residents[i];
            (resident.idle + LEAST) * gives(resident) / self.loss(i).max(LEAST)
        };
        self.candidates()
            .map(|i| (i, score(i)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .map(|(i, _)| i)
    }

    fn evict(&mut self, index: usize, rule: Rule) -> Eviction {
        self.gone[index] = true;
        Eviction {
            index,
            rule,
            loss: self.loss(index),
        }
    }
}
