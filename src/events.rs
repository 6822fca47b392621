//! Events that occur while a caller waits. The library never prints; the caller decides what the user sees.

use serde::{Deserialize, Serialize};

use std::fmt;
use std::time::Duration;

/// Base of an incremental build, and the reason for it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Extending<'a> {
    /// First digits of the fingerprint of the base template.
    pub base: &'a str,
    /// Number of new migrations.
    pub migrations: usize,
    /// Files of `rerun_inputs` that differ.
    pub rerun_inputs: &'a [String],
    /// Files of `companions` that are new.
    pub companions: &'a [String],
}

/// Warning for the user about a problem that does not stop the work: a message, facts one per line, and advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    message: String,
    details: Vec<String>,
    hints: Vec<String>,
}

impl Warning {
    /// Creates a warning from a message that contains no reason and no advice.
    pub fn new(message: impl Into<String>) -> Self {
        Warning { message: message.into(), details: Vec::new(), hints: Vec::new() }
    }

    /// Adds a fact.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// Adds advice: an imperative, or a command to paste.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Creates a warning from the lines of an earlier one: the message, then facts.
    pub(crate) fn of_lines(text: &str) -> Self {
        let mut lines = text.lines();
        let first = Warning::new(lines.next().unwrap_or_default());
        lines.fold(first, Warning::detail)
    }

    /// Returns the message, which describes the problem.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the facts.
    pub fn details(&self) -> &[String] {
        &self.details
    }

    /// Returns the advice.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

/// The message, the facts and the advice, in a line each.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for line in self.details.iter().chain(&self.hints) {
            write!(f, "\n{line}")?;
        }
        Ok(())
    }
}

/// Event that is worth reporting.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A build starts.
    Building {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// Base of an incremental build; `None` for a full build.
        extends: Option<Extending<'a>>,
        /// Duration of the last build of its kind.
        expected: Option<Duration>,
    },
    /// A line that the build command, or `after_clone`, printed.
    Output(&'a str),
    /// Progress of a build, after each line that its command printed.
    Progress {
        /// The line, without colours and passwords.
        line: &'a str,
        /// Number of migrations the command has named so far, and number to run; `None` until it has named one.
        migrations: Option<(usize, usize)>,
    },
    /// The build waits for another process. Repeated during the wait.
    Waiting {
        /// Name of the definition.
        definition: &'a str,
        /// Process or build that the wait is for.
        awaited: &'a str,
        /// Time since the build started.
        elapsed: Duration,
        /// Duration of the last build of its kind.
        expected: Option<Duration>,
        /// The last lines that the build printed.
        tail: &'a str,
    },
    /// A template is sealed.
    Sealed {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// Base of an incremental build, as in [`Event::Building`].
        extends: Option<Extending<'a>>,
        /// Duration of the build.
        took: Duration,
    },
    /// A full build was compared with the template of the same inputs.
    Compared {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// Description of the differences; empty if there are none.
        differs: &'a str,
        /// Description of the parts compared.
        compared: &'a str,
        /// Description of the parts not compared; may be empty.
        not_compared: &'a str,
        /// Whether it replaced the template.
        replaced: bool,
        /// Duration of the build.
        took: Duration,
    },
    /// A warning for the user; the work continues.
    Warning(&'a Warning),
    /// What was read from the remote store, or the reason why nothing was.
    Remote(&'a str),
    /// A message for higher verbosity.
    Notice(&'a str),
}

/// Callback that receives progress events.
pub type Observe<'a> = &'a (dyn Fn(Event<'_>) + Send + Sync);
