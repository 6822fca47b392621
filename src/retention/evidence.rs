//! From the registry's facts to [`super::rebuild_policy`]: chains of incremental builds, and what comparisons found.

use super::rebuild_policy::{self, Candidate, Costs, Decision, Findings, Load, Wait};
use crate::config::Rebuild;
use crate::error::Result;
use crate::names::Fingerprint;
use crate::quantity::{age, remaining};
use crate::registry::evidence::{ComparedRow, LinkRow};
use crate::registry::{Registry, TemplateRow, TemplateState};

/// Facts about the incremental builds of one definition or of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    links: Vec<LinkRow>,
    compared: Vec<ComparedRow>,
}

/// Incremental builds of a chain that no full build has proved yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Fingerprints of the links that are known, the newest first.
    pub(crate) known: Vec<Fingerprint>,
    /// Number of all links, known or not.
    pub(crate) links: u32,
}

/// Results of the comparisons of one definition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Number of comparisons.
    pub(crate) compared: usize,
    /// Number of comparisons that found no difference.
    pub(crate) equal: usize,
    /// Number of the last ten that found a difference.
    pub(crate) lately: usize,
    /// Summary for the policy.
    pub(crate) findings: Findings,
}

/// What is known about the rebuild of an incrementally built template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outlook {
    /// Number of uses, its build included; that of a waypoint was none.
    pub(crate) uses: u64,
    /// Seconds since it was built.
    pub(crate) age: f64,
    /// What the next command that uses it leads to on an idle machine; `None` if it is accepted already.
    pub(crate) next: Option<Decision>,
    /// Whether it is checked by a full build when it is due, and not accepted without one.
    pub(crate) needs_proof: bool,
    /// Whether the last background process found that machine or server was busy, or the day's share spent.
    pub(crate) waited: Option<Wait>,
    /// Number of incremental builds that no full build has proved, of it and its bases.
    pub(crate) links: u32,
    /// Results of the comparisons of its definition.
    pub(crate) tally: Tally,
}

/// Number of comparisons that count as the last ones.
const LATELY: usize = 10;

impl Evidence {
    /// Reads the facts about one definition, given as project and name, or about all.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn read(registry: &mut Registry, of: Option<(&str, &str)>) -> Result<Self> {
        let (links, compared) = registry.evidence(of).await?;
        Ok(Evidence { links, compared })
    }

    /// Returns the number of the last comparison; 0 if there is none.
    pub(crate) fn last(&self) -> i64 {
        self.compared.last().map_or(0, |row| row.id)
    }

    /// Returns the definitions that have comparisons, as project and name.
    pub(crate) fn definitions(&self) -> Vec<(&str, &str)> {
        let mut all: Vec<_> =
            self.compared.iter().map(|row| (row.project.as_str(), row.definition.as_str())).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Returns what the comparisons of a definition found.
    pub(crate) fn tally(&self, project: &str, definition: &str) -> Tally {
        let of: Vec<&ComparedRow> = self
            .compared
            .iter()
            .filter(|row| (row.project.as_str(), row.definition.as_str()) == (project, definition))
            .collect();
        let since = of.iter().rposition(|row| row.differs);
        let row = &of[since.map_or(0, |at| at + 1)..];
        let links = row.iter().map(|row| u32::try_from(row.links).unwrap_or_default());
        Tally {
            compared: of.len(),
            equal: of.iter().filter(|row| !row.differs).count(),
            lately: of.iter().rev().take(LATELY).filter(|row| row.differs).count(),
            findings: Findings {
                equal: links.fold(0, u32::saturating_add),
                differences: u32::try_from(of.iter().filter(|row| row.differs).count()).unwrap_or(u32::MAX),
            },
        }
    }

    /// Returns the unproved chain that ends with the template of this row number.
    ///
    /// A base that was evicted, or rebuilt with a difference, leaves its part of the chain unknown: then the number of
    /// links is that from the time of the build.
    pub(crate) fn chain(&self, id: i64) -> Chain {
        let mut chain = Chain::default();
        let mut at = self.links.iter().find(|row| row.id == id);
        while let Some(link) = at
            // A waypoint is proved by nothing that was built on it: that has all migrations, also if it lacks some.
            && (link.base_fingerprint.is_some() || link.waypoint && chain.links == 0)
            && !self.proved(link, &link.fingerprint)
        {
            chain.known.push(link.fingerprint);
            chain.links += 1;
            let Some(base) = &link.base_fingerprint else {
                break;
            };
            // What a base differed in, its template has as well.
            if self.found(link, base).any(|row| row.differs) {
                chain.links = u32::MAX;
                break;
            }
            // A newer template of the same fingerprint is not what this one was built on.
            let below = self.links.iter().find(|row| {
                row.fingerprint == *base && of_one_definition(row, link) && row.created.0 <= link.created.0
            });
            if below.is_none() && !self.proved(link, base) {
                let before = u32::try_from(link.chain - 1).unwrap_or_default();
                chain.links = chain.links.saturating_add(before);
            }
            at = below;
        }
        chain
    }

    /// Returns whether the template of this row number is a waypoint, or rests on one.
    pub(crate) fn has_waypoint(&self, id: i64) -> bool {
        let mut at = self.links.iter().find(|row| row.id == id);
        while let Some(link) = at {
            if link.waypoint {
                return true;
            }
            at = self.links.iter().find(|row| {
                Some(row.fingerprint) == link.base_fingerprint
                    && of_one_definition(row, link)
                    && row.id < link.id
            });
        }
        false
    }

    /// Returns the comparisons since the build of a link that cover an incremental build of this fingerprint.
    fn found<'a>(
        &'a self,
        link: &'a LinkRow,
        fingerprint: &'a Fingerprint,
    ) -> impl Iterator<Item = &'a ComparedRow> {
        let digits = fingerprint.to_string();
        self.compared.iter().filter(move |row| {
            (&row.project, &row.definition) == (&link.project, &link.definition)
                && row.at.0 >= link.created.0
                && (row.fingerprint == *fingerprint || !row.differs && row.covers.contains(&digits))
        })
    }

    fn proved(&self, link: &LinkRow, fingerprint: &Fingerprint) -> bool {
        self.found(link, fingerprint).last().is_some_and(|row| !row.differs)
    }

    /// Returns what is known about the rebuild of a template; `None` if it needs none. `rebuild`: setting of its
    /// definition, if that is known.
    pub(crate) fn outlook(&self, row: &TemplateRow, rebuild: Option<Rebuild>) -> Option<Outlook> {
        let extended = row.state == TemplateState::Ready && row.is_incremental();
        if !extended || !(row.provisional || row.accepted_at.is_some()) {
            return None;
        }
        let template = self.candidate(row, 0);
        let tally = self.tally(&row.project, &row.definition);
        let always = rebuild == Some(Rebuild::Always);
        let next = match always {
            true => Decision::Rebuild,
            // One more use is to come.
            false => rebuild_policy::decide(
                &Candidate { uses: template.uses.saturating_add(1), ..template },
                &tally.findings,
                &Costs::default(),
                &Load::default(),
            ),
        };
        Some(Outlook {
            // Not those that the policy counts for a waypoint.
            uses: u64::try_from(row.hits).unwrap_or_default() + u64::from(!row.waypoint),
            age: row.age_s.0,
            next: row.provisional.then_some(next),
            needs_proof: always || rebuild_policy::needs_proof(&template, &tally.findings),
            waited: match row.rebuild_wait.as_deref() {
                Some("busy") => Some(Wait::Busy),
                Some("spent") => Some(Wait::Spent),
                _ => None,
            },
            links: template.links,
            tally,
        })
    }

    /// Returns a template as the policy sees it. `uses`: the number of uses that the caller knows of.
    pub(crate) fn candidate(&self, row: &TemplateRow, uses: u64) -> Candidate {
        let candidate = Candidate {
            uses: uses.max(u64::try_from(row.hits).unwrap_or_default() + 1),
            age: row.age_s.0,
            links: self.chain(row.id).links,
            draw: row.fingerprint.draw(),
        };
        match row.waypoint {
            false => candidate,
            true => candidate.as_waypoint(),
        }
    }
}

impl Tally {
    /// Describes the results for a person; `None` if there are none.
    pub(crate) fn words(&self) -> Option<String> {
        let all = self.compared;
        (all > 0).then(|| match all {
            1 => format!("the only rebuild of the definition found {}", self.what()),
            _ => format!("{} of {all} rebuilds of the definition found no difference", self.equal),
        })
    }

    fn what(&self) -> &'static str {
        if self.equal == 0 { "a difference" } else { "no difference" }
    }

    /// Describes how many incremental builds may differ without having been noticed.
    pub(crate) fn bound(&self) -> String {
        let share = self.findings.unseen() * 100.0;
        let shown = if share < 1.0 { format!("{share:.1}") } else { format!("{share:.0}") };
        format!("at most {shown} % of its incremental builds differ (95 % confidence)")
    }
}

impl Outlook {
    /// Describes it for a person, in one line. `background_off`: whether no command starts work in the background.
    pub(crate) fn words(&self, background_off: bool) -> String {
        let uses = match self.uses {
            0 => "not used yet".to_owned(),
            1 => "used once".to_owned(),
            n => format!("used {n} times"),
        };
        let then = match self.needs_proof {
            true => "the next command that uses it starts a full build in the background",
            false => "the next command that uses it accepts it without a full build",
        };
        let plan = match (self.next, self.waited) {
            (None, _) => format!("accepted without a full build: {}", self.tally.bound()),
            _ if background_off => "no command starts a full build, since background work is off".to_owned(),
            (Some(Decision::Wait(Wait::New { left })), _) => {
                format!("{} or later, {then}", remaining(left))
            }
            (Some(Decision::Wait(_)), _) => "it is not due yet".to_owned(),
            (Some(Decision::Rebuild), Some(Wait::Spent)) => {
                format!("{then} (it waited: rebuilds had taken their share of the day)")
            }
            (Some(Decision::Rebuild), Some(_)) => {
                format!("{then} (it waited: machine or server was busy)")
            }
            (Some(Decision::Rebuild | Decision::Accept), _) => then.to_owned(),
        };
        let found = self.tally.words().map_or_else(String::new, |words| format!("; {words}"));
        match self.next {
            None => format!("{plan}{found}"),
            Some(_) => format!("provisional for {}, {uses}; {plan}{found}", age(self.age)),
        }
    }
}

fn of_one_definition(a: &LinkRow, b: &LinkRow) -> bool {
    (&a.project, &a.definition) == (&b.project, &b.definition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::Seconds;

    fn fingerprint(n: u8) -> Fingerprint {
        Fingerprint::from_bytes([n; 32])
    }

    /// Template of this number, built on the one before.
    fn link(n: u8, created: f64) -> LinkRow {
        LinkRow {
            id: n.into(),
            project: "shop".into(),
            definition: "app".into(),
            fingerprint: fingerprint(n),
            base_fingerprint: (n > 0).then(|| fingerprint(n - 1)),
            waypoint: false,
            chain: n.into(),
            created: Seconds(created),
        }
    }

    fn compared(n: u8, at: f64, covers: &[u8], differs: bool) -> ComparedRow {
        ComparedRow {
            id: at as i64,
            project: "shop".into(),
            definition: "app".into(),
            fingerprint: fingerprint(n),
            covers: covers.iter().map(|n| fingerprint(*n).to_string()).collect(),
            links: covers.len() as i32,
            differs,
            at: Seconds(at),
        }
    }

    fn chain_of(n: u8) -> Evidence {
        Evidence { links: (0..=n).map(|n| link(n, f64::from(n))).collect(), compared: vec![] }
    }

    #[test]
    fn a_chain_goes_back_to_the_last_full_build() {
        let evidence = chain_of(3);
        let chain = evidence.chain(3);
        assert_eq!(chain, Chain { known: vec![fingerprint(3), fingerprint(2), fingerprint(1)], links: 3 });
        assert_eq!(evidence.chain(0), Chain::default());
        assert_eq!(evidence.chain(99), Chain::default());
    }

    #[test]
    fn a_waypoint_is_proved_only_by_itself() {
        let mut evidence = chain_of(2);
        assert!(!evidence.has_waypoint(2));
        evidence.links[0].waypoint = true;
        assert!(evidence.has_waypoint(2) && evidence.has_waypoint(0));
        assert_eq!(evidence.chain(2).known, [fingerprint(2), fingerprint(1)]);
        evidence.compared.push(compared(2, 10.0, &[2, 1], false));
        assert_eq!(evidence.chain(0), Chain { known: vec![fingerprint(0)], links: 1 });
        evidence.compared.push(compared(0, 11.0, &[0], false));
        assert_eq!(evidence.chain(0).links, 0);
    }

    #[test]
    fn a_comparison_proves_all_that_it_covers() {
        let mut evidence = chain_of(5);
        evidence.compared.push(compared(3, 10.0, &[3, 2, 1], false));
        assert_eq!(evidence.chain(2).links, 0);
        assert_eq!(evidence.chain(3).links, 0);
        assert_eq!(evidence.chain(5), Chain { known: vec![fingerprint(5), fingerprint(4)], links: 2 });
        // A later build of the same files is another one.
        evidence.links[3].created = Seconds(11.0);
        assert_eq!(evidence.chain(3).links, 1);
    }

    #[test]
    fn what_is_gone_counts_as_when_it_was_built() {
        let mut evidence = chain_of(5);
        evidence.links.remove(2);
        assert_eq!(evidence.chain(4), Chain { known: vec![fingerprint(4), fingerprint(3)], links: 4 });
        // Unless it was proved before it was gone.
        evidence.compared.push(compared(2, 10.0, &[2, 1], false));
        assert_eq!(evidence.chain(4).links, 2);
    }

    #[test]
    fn a_base_that_differed_makes_its_templates_suspect() {
        let mut evidence = chain_of(3);
        evidence.compared.push(compared(2, 10.0, &[2, 1], true));
        // The full build took its place, which is not what the template was built on.
        evidence.links[2] = LinkRow { base_fingerprint: None, chain: 0, ..link(2, 10.0) };
        assert_eq!(evidence.chain(3).links, u32::MAX);
        // A proof of its own clears it.
        evidence.compared.push(compared(3, 11.0, &[3], false));
        assert_eq!(evidence.chain(3).links, 0);
    }

    #[test]
    fn a_base_that_was_replaced_by_an_equal_build_ends_the_chain() {
        let mut evidence = chain_of(3);
        evidence.compared.push(compared(2, 10.0, &[2, 1], false));
        evidence.links[2] = LinkRow { base_fingerprint: None, chain: 0, ..link(2, 10.0) };
        assert_eq!(evidence.chain(3), Chain { known: vec![fingerprint(3)], links: 1 });
    }

    #[test]
    fn the_row_of_equal_links_begins_after_the_last_difference() {
        let mut evidence = chain_of(1);
        assert_eq!(evidence.tally("shop", "app"), Tally::default());
        evidence.compared.push(compared(1, 1.0, &[1, 2, 3], false));
        let tally = evidence.tally("shop", "app");
        assert_eq!((tally.compared, tally.equal, tally.lately), (1, 1, 0));
        assert_eq!(tally.findings, Findings { equal: 3, differences: 0 });
        evidence.compared.push(compared(2, 2.0, &[2], true));
        evidence.compared.push(compared(4, 3.0, &[4, 5], false));
        let tally = evidence.tally("shop", "app");
        assert_eq!((tally.compared, tally.equal, tally.lately), (3, 2, 1));
        assert_eq!(tally.findings, Findings { equal: 2, differences: 1 });
        assert_eq!(evidence.tally("shop", "other"), Tally::default());
        assert_eq!(evidence.definitions(), [("shop", "app")]);
    }
}
