//! Whether and when a full build replaces a provisional template: a pure function of evidence.
//!
//! A full build after each incremental build costs as much as having no incremental builds. So not every template
//! gets one. A template that is used again is due; then its *chain* decides, which is the row of incremental builds
//! since the last template that is known to equal a full build. A full build at the end of a chain that finds no
//! difference is evidence for each link of the chain, so a long chain is the cheapest to check. The longer the row of
//! links without a difference, the longer the chains that wait for a check; when they are longest, one template in
//! `SAMPLE` is checked whatever its chain. All other due templates are *accepted*: they count as equal to a full build without one, until
//! a later rebuild of the definition finds a difference. One difference makes the next checks sure.
//!
//! This is continuous sampling inspection (Dodge 1943): check every item until a row of them was good, then a
//! fraction, and every one again after a fault. What it cannot see is bounded by [`Findings::unseen`], which is
//! printed together with each acceptance. It assumes that the checked links are typical of all; since chains are checked
//! by their length, and only one template in `SAMPLE` at random, short chains are under-represented. It is a bound on
//! incremental builds, not on templates: an accepted template rests on up to `LONG_CHAIN - 1` of them that were not
//! compared.
//!
//! A row of equal links that begins after a difference proves less than the first one: a definition of which some builds
//! differ gets there in the end, if it may begin again each time. Therefore the bound after each further difference is
//! stated with a smaller chance to be wrong, so that all these chances together are 5 %.
//!
//! The bound does not cover a difference that a later migration of the same chain erases, such as rows of a table that
//! is dropped again: the end of a chain is compared in full, but not the states in between. That is why a link is
//! accepted by the proof of a later one and not called a full build. Neither does it cover templates that are never
//! used again, which stay provisional, nor differences in ids and row contents, which are reported but do not count.
//!
//! A waypoint (a base that was built by `build_until`) is checked after its first use as a template of its own. As long
//! as it is only a base, it needs no check: what is built on it counts as one link of its own.
//!
//! `examples/eviction_replay` compares this with simpler rules on real histories.

/// Number of uses, the first build included, from which on a template is due: most sets of migrations in an
/// edit-test loop are used once. The templates that rest on a base are not counted: the check of a later template of
/// the chain covers it.
pub const USES: u64 = 2;

/// Seconds from the build of a template until it is due. A set that is edited again within minutes is not used
/// afterwards. In the replays one hour saves only a few percent more, for a fifth more uses of provisional templates.
pub const AGE: f64 = 10.0 * 60.0;

/// Number of links in a row without a difference from which on chains are checked instead of single templates. Two are
/// little evidence, which the chains then add to; with more, a project with a few migrations a year would check most
/// of its incremental builds and save little.
pub const FEW: u32 = 2;

/// Share of differing links from which on [`Findings::unseen`] is low enough for long chains, and after a difference for
/// acceptance at all: 20 equal links in a row without any difference, 24 after the first one, 32 after the second one.
pub const LITTLE: f64 = 1.0 / 7.0;

/// Length of chains that are checked until at most [`LITTLE`] of the links may differ.
pub const CHAIN: u32 = 4;

/// Length of chains that are checked afterwards. Longer ones save little in the replays, and a difference would be
/// found later.
pub const LONG_CHAIN: u32 = 8;

/// Of the templates whose chain is shorter than [`LONG_CHAIN`], one in this number is checked, so that short chains, which
/// are most of the branches, are represented. Before, [`CHAIN`] alone leads to more checks than that.
pub const SAMPLE: u32 = 32;

/// Share of the last day that all rebuilds on the server may take together; the first one of a day always may.
pub const SHARE: f64 = 0.05;

/// Load per processor from which on the machine is busy.
pub const LOAD: f64 = 1.0;

/// Seconds from the build of a template after which it waits no longer for an idle machine: a server that is never
/// idle would keep it provisional.
pub const PATIENCE: f64 = 20.0 * 3600.0;

/// Provisional template, as the policy sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Candidate {
    /// Number of uses, its first build included.
    pub uses: u64,
    /// Seconds since it was built.
    pub age: f64,
    /// Number of incremental builds since the last template in its chain that a full build has proved.
    pub links: u32,
    /// Number from 0 up to but not including 1 that is random for each fingerprint, but the same on each machine.
    pub draw: f64,
}

/// Results of a definition's rebuilds so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Number of links that rebuilds found equal since the last difference, or since the first rebuild.
    pub equal: u32,
    /// Number of rebuilds that found a difference.
    pub differences: u32,
}

/// Costs of rebuilds in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// Expected duration of the next rebuild.
    pub build: f64,
    /// Duration of all rebuilds on this server within the last day.
    pub spent: f64,
}

/// State of machine and server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Load average of the last minute per processor of this machine.
    pub per_processor: f64,
    /// Number of sessions of other programs on the server that are executing a statement.
    pub active: u64,
}

/// Decision about a provisional template.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// A full build replaces it now.
    Rebuild,
    /// It counts as equal to a full build without one.
    Accept,
    /// It stays provisional until a later decision.
    Wait(Wait),
}

/// Reason why a template stays provisional until a later decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wait {
    /// It was not used again since it was built.
    Unused,
    /// It is younger than [`AGE`].
    New {
        /// Seconds until it is due.
        left: f64,
    },
    /// Rebuilds have taken [`SHARE`] of the last day.
    Spent,
    /// Machine or server is busy.
    Busy,
}

impl Candidate {
    /// Returns it as a waypoint: it is due at its first use, and no evidence of others counts, since those do not show
    /// that its command stopped where it should.
    #[must_use]
    pub fn as_waypoint(self) -> Self {
        Candidate { uses: self.uses.max(USES), age: self.age.max(AGE), draw: 0.0, ..self }
    }

    /// Returns why the template is not due yet; `None` if it is due. Needs neither `links` nor `draw`.
    pub fn not_due(&self) -> Option<Wait> {
        if self.uses < USES {
            return Some(Wait::Unused);
        }
        let left = AGE - self.age;
        (left > 0.0).then_some(Wait::New { left })
    }
}

impl Findings {
    /// Returns whether no incremental build of the definition was ever checked: nothing shows that its build command
    /// can run on what it has built before.
    pub fn are_none(&self) -> bool {
        *self == Findings::default()
    }

    /// Returns the highest share of incremental builds that may differ from a full build although none of the last
    /// checked ones did, at 95 % confidence; about 3 divided by the number of equal links (the rule of three) if there
    /// was no difference before.
    ///
    /// A row of equal links reaches the number from which on this is below the real share with at most the chance of its
    /// row, 5 % for the first one. The chances of all later rows together are 5 %, too.
    pub fn unseen(&self) -> f64 {
        let nth = f64::from(self.differences);
        let chance = if self.differences == 0 { 0.05 } else { 0.05 / (nth * (nth + 1.0)) };
        match self.equal {
            0 => 1.0,
            equal => 1.0 - chance.powf(1.0 / f64::from(equal)),
        }
    }

    /// Returns the length of a chain from which on it is checked.
    pub fn chain(&self) -> u32 {
        let little = self.unseen() <= LITTLE;
        match self.equal {
            _ if little => LONG_CHAIN,
            equal if equal < FEW || self.differences > 0 => 1,
            _ => CHAIN,
        }
    }
}

impl Costs {
    /// Returns whether another rebuild fits into the day.
    fn allow(&self) -> bool {
        const DAY: f64 = 86_400.0;
        self.spent <= 0.0 || self.spent + self.build <= SHARE * DAY
    }
}

impl Load {
    fn is_busy(&self) -> bool {
        self.active > 0 || self.per_processor >= LOAD
    }
}

/// Returns whether a due template needs a full build, by its chain and the findings so far. If not, it is accepted.
pub fn needs_proof(template: &Candidate, findings: &Findings) -> bool {
    let drawn = findings.chain() == LONG_CHAIN && template.draw < 1.0 / f64::from(SAMPLE);
    // A template without unproved links equals a full build already.
    template.links > 0 && (template.links >= findings.chain() || drawn)
}

/// Decides about a provisional template, after a use of it. The first incremental build of a definition is checked
/// right after it, whatever the load.
pub fn decide(template: &Candidate, findings: &Findings, costs: &Costs, load: &Load) -> Decision {
    let first = findings.are_none();
    if let Some(wait) = template.not_due().filter(|_| !first) {
        return Decision::Wait(wait);
    }
    if !needs_proof(template, findings) {
        return Decision::Accept;
    }
    if !costs.allow() {
        return Decision::Wait(Wait::Spent);
    }
    if load.is_busy() && template.age < PATIENCE && !first {
        return Decision::Wait(Wait::Busy);
    }
    Decision::Rebuild
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Load = Load { per_processor: 0.1, active: 0 };
    const CHEAP: Costs = Costs { build: 60.0, spent: 0.0 };

    fn due(links: u32) -> Candidate {
        Candidate { uses: 2, age: AGE, links, draw: 0.9 }
    }

    fn equal(links: u32) -> Findings {
        Findings { equal: links, differences: 0 }
    }

    fn by_evidence(template: Candidate, findings: Findings) -> Decision {
        decide(&template, &findings, &CHEAP, &IDLE)
    }

    #[test]
    fn a_template_is_due_when_it_is_used_again() {
        let once = Candidate { uses: 1, ..due(1) };
        assert_eq!(by_evidence(once, equal(1)), Decision::Wait(Wait::Unused));
        let young = Candidate { age: AGE - 30.0, ..due(1) };
        assert_eq!(by_evidence(young, equal(1)), Decision::Wait(Wait::New { left: 30.0 }));
        assert_eq!(by_evidence(due(1), equal(1)), Decision::Rebuild);
    }

    #[test]
    fn the_first_one_of_a_definition_is_checked_at_once() {
        let new = Candidate { uses: 1, age: 0.0, ..due(1) };
        let busy = Load { per_processor: 9.0, active: 3 };
        assert_eq!(decide(&new, &equal(0), &CHEAP, &busy), Decision::Rebuild);
        assert_eq!(decide(&new, &equal(1), &CHEAP, &busy), Decision::Wait(Wait::Unused));
        let differed = Findings { equal: 0, differences: 1 };
        assert_eq!(decide(&new, &differed, &CHEAP, &busy), Decision::Wait(Wait::Unused));
    }

    #[test]
    fn a_row_of_equal_links_makes_checks_rarer() {
        assert_eq!(by_evidence(due(1), equal(FEW - 1)), Decision::Rebuild);
        assert_eq!(by_evidence(due(CHAIN - 1), equal(FEW)), Decision::Accept);
        assert_eq!(by_evidence(due(CHAIN), equal(FEW)), Decision::Rebuild);
        assert_eq!(by_evidence(due(CHAIN), equal(19)), Decision::Rebuild);
        assert_eq!(by_evidence(due(LONG_CHAIN - 1), equal(20)), Decision::Accept);
        assert_eq!(by_evidence(due(LONG_CHAIN), equal(1000)), Decision::Rebuild);
        let drawn = Candidate { draw: 0.5 / f64::from(SAMPLE), ..due(1) };
        assert_eq!(by_evidence(drawn, equal(1000)), Decision::Rebuild);
        assert_eq!(by_evidence(drawn, equal(19)), Decision::Accept);
        // Its whole chain was proved by the rebuild of a later template.
        assert_eq!(by_evidence(due(0), equal(0)), Decision::Accept);
    }

    #[test]
    fn a_waypoint_that_is_used_is_checked() {
        let used = Candidate { uses: 1, age: 1.0, ..due(1) }.as_waypoint();
        assert_eq!(by_evidence(used, equal(1000)), Decision::Rebuild);
    }

    #[test]
    fn each_difference_makes_the_next_ones_sure_for_longer() {
        let after = |differences, equal| Findings { equal, differences };
        for (differences, links) in [(1, 24), (2, 32), (10, 50)] {
            assert_eq!(by_evidence(due(1), after(differences, 0)), Decision::Rebuild);
            assert_eq!(by_evidence(due(1), after(differences, links - 1)), Decision::Rebuild, "{links}");
            assert_eq!(by_evidence(due(1), after(differences, links)), Decision::Accept, "{links}");
        }
    }

    #[test]
    fn rebuilds_wait_for_an_idle_machine_but_not_indefinitely() {
        let decide = |template: Candidate, load: Load| super::decide(&template, &equal(1), &CHEAP, &load);
        assert_eq!(decide(due(1), Load { active: 1, ..IDLE }), Decision::Wait(Wait::Busy));
        let loaded = Load { per_processor: LOAD, ..IDLE };
        assert_eq!(decide(due(1), loaded), Decision::Wait(Wait::Busy));
        assert_eq!(decide(Candidate { age: PATIENCE, ..due(1) }, loaded), Decision::Rebuild);
        // An acceptance costs nothing.
        assert_eq!(super::decide(&due(1), &equal(FEW), &CHEAP, &loaded), Decision::Accept);
    }

    #[test]
    fn rebuilds_take_a_limited_share_of_the_day() {
        let decide = |spent, build| super::decide(&due(1), &equal(0), &Costs { build, spent }, &IDLE);
        assert_eq!(decide(0.0, 10_000.0), Decision::Rebuild);
        assert_eq!(decide(4000.0, 300.0), Decision::Rebuild);
        assert_eq!(decide(4000.0, 400.0), Decision::Wait(Wait::Spent));
    }

    #[test]
    fn the_bound_is_about_three_divided_by_the_number() {
        assert!((equal(0).unseen() - 1.0).abs() < 1e-9);
        assert!((equal(60).unseen() - 0.0487).abs() < 1e-3);
        assert!((equal(300).unseen() - 0.00994).abs() < 1e-4);
        assert!(equal(20).unseen() < LITTLE && equal(19).unseen() > LITTLE);
    }

    #[test]
    fn the_chances_of_a_wrong_bound_after_differences_add_up_to_5_percent() {
        // The chance that a row of equal links reaches the number at which its bound is too low, if this share differs.
        for share in [0.3, 0.1, 0.02] {
            let chance = |differences| {
                let wrong = (1..).find(|equal| Findings { equal: *equal, differences }.unseen() < share);
                (1.0 - share).powi(wrong.unwrap_or_default() as i32)
            };
            assert!(chance(0) <= 0.05);
            let later: f64 = (1..200).map(chance).sum();
            assert!(later <= 0.05, "{later}");
        }
    }
}
