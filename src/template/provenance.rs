//! How a template or a clone came about, and where the time went: facts that travel together from the look-up
//! to the answer.

use std::time::Duration;

use super::{Extends, Provisional, Template};
use crate::names::Fingerprint;
use crate::variables::Outcome;

/// How a template came about, or the clones that were made from it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Provenance {
    /// Fingerprint of the definition's present inputs.
    pub fingerprint: Fingerprint,
    /// What was done to get it.
    pub outcome: Outcome,
    /// The template that it was extended from, if it was.
    pub extends: Option<Extends>,
    /// Set if a build from nothing is to take the template's place.
    pub provisional: Option<Provisional>,
    /// Why it was built from nothing although there was something to extend, or why it was not sealed.
    pub note: Option<String>,
    /// Duration of a build from nothing, now or the last time, if known.
    pub build_time: Option<Duration>,
}

impl Provenance {
    /// The provenance of a set of databases of which nothing but inputs and outcome is known.
    pub(crate) fn new(fingerprint: Fingerprint, outcome: Outcome) -> Self {
        Provenance { fingerprint, outcome, extends: None, provisional: None, note: None, build_time: None }
    }

    /// The provenance of a template.
    pub(crate) fn of(template: &Template, outcome: Outcome) -> Self {
        Provenance {
            extends: template.extends().cloned(),
            provisional: template.provisional().cloned(),
            build_time: template.build_time(),
            ..Provenance::new(*template.fingerprint(), outcome)
        }
    }
}

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Timing {
    /// Reading and hashing the input files.
    pub inputs: Duration,
    /// Looking the template up, waiting for it and building it.
    pub template: Duration,
    /// The part of `template` that was spent on waiting for builds of other processes.
    pub waited: Duration,
    /// Copying the template and handing the clones out.
    pub clone: Duration,
}

impl Timing {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.inputs + self.template + self.clone
    }
}

impl std::ops::AddAssign for Timing {
    fn add_assign(&mut self, other: Self) {
        self.inputs += other.inputs;
        self.template += other.template;
        self.waited += other.waited;
        self.clone += other.clone;
    }
}
