//! Origin of a template or a clone, and durations: facts that travel together from the look-up to the answer.

use std::time::Duration;

use super::{Extends, Provisional, Template};
use crate::names::Fingerprint;
use crate::variables::Outcome;

/// Origin of a template, or of the clones that were made from it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Provenance {
    /// Fingerprint of the definition's current inputs.
    pub fingerprint: Fingerprint,
    /// Way in which the template was obtained.
    pub outcome: Outcome,
    /// The base of the incremental build, if there was one.
    pub extends: Option<Extends>,
    /// Whether that base was pulled from the remote store for this request.
    pub base_from_remote: bool,
    /// Set if a full build is to replace the template.
    pub provisional: Option<Provisional>,
    /// Reason for a full build although there was a possible base, or for not sealing the result.
    pub note: Option<String>,
    /// Duration of a full build, now or the last time, if known.
    pub build_time: Option<Duration>,
}

impl Provenance {
    /// Creates the provenance of a set of databases of which only inputs and outcome are known.
    pub(crate) fn new(fingerprint: Fingerprint, outcome: Outcome) -> Self {
        Provenance {
            fingerprint,
            outcome,
            extends: None,
            base_from_remote: false,
            provisional: None,
            note: None,
            build_time: None,
        }
    }

    /// Returns the provenance of a template.
    pub(crate) fn of(template: &Template, outcome: Outcome) -> Self {
        Provenance {
            extends: template.extends().cloned(),
            provisional: template.provisional().cloned(),
            build_time: template.build_time(),
            ..Provenance::new(*template.fingerprint(), outcome)
        }
    }
}

/// Durations of the parts of a request.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Timing {
    /// Time for reading and hashing the input files.
    pub inputs: Duration,
    /// Time for looking the template up, waiting for it and building it.
    pub template: Duration,
    /// The part of `template` that was spent on waiting for builds of other processes.
    pub waited: Duration,
    /// Time for copying the template and opening the clones.
    pub clone: Duration,
}

impl Timing {
    /// Returns the sum.
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
