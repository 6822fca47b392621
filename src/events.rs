//! What happens while a caller waits, as values: the library never prints, whoever calls it decides
//! what a person sees.

use std::time::Duration;

/// What an incremental build starts from, and why it runs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Extending<'a> {
    /// First digits of the fingerprint of the template that is extended.
    pub base: &'a str,
    /// Number of new migrations.
    pub migrations: usize,
    /// Files of `rerun_inputs` that differ.
    pub rerun_inputs: &'a [String],
    /// Files of `companions` that are new.
    pub companions: &'a [String],
}

/// Something that the user should know although the work goes on: what happened, facts one per line, and what to do
/// about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    message: String,
    details: Vec<String>,
    hints: Vec<String>,
}

impl Warning {
    /// Makes a warning of a message without reason and advice.
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

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The facts.
    pub fn details(&self) -> &[String] {
        &self.details
    }

    /// The advice.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

/// Something worth telling.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A build starts.
    Building {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// The template that it extends; `None` for a build from nothing.
        extends: Option<Extending<'a>>,
        /// What the last one of its kind took.
        expected: Option<Duration>,
    },
    /// A line that the build command, or `after_clone`, printed.
    Output(&'a str),
    /// How far a build is, after each line that its command printed.
    Progress {
        /// The line, without colours and passwords.
        line: &'a str,
        /// How many migrations the command has named so far, and how many there are to run; `None` as long as
        /// it has named none.
        migrations: Option<(usize, usize)>,
    },
    /// Somebody else builds what we need. Repeated while we wait.
    Waiting {
        /// Name of the definition.
        definition: &'a str,
        /// Who builds.
        builder: &'a str,
        /// For how long already.
        elapsed: Duration,
        /// What the last one of its kind took.
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
        /// The template that it extends, as in [`Event::Building`].
        extends: Option<Extending<'a>>,
        /// Duration of the build.
        took: Duration,
    },
    /// A build from nothing was compared with the template of the same inputs.
    Compared {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// In what they differ, in words; empty if in nothing.
        differs: &'a str,
        /// What was compared, in words.
        compared: &'a str,
        /// What was not, in words; may be empty.
        not_compared: &'a str,
        /// Whether it took the template's place.
        replaced: bool,
        /// Duration of the build.
        took: Duration,
    },
    /// Something the user should know, though we go on.
    Warning(&'a Warning),
    /// Something of interest at higher verbosity.
    Notice(&'a str),
}

/// Who is told.
pub type Observe<'a> = &'a (dyn Fn(Event<'_>) + Send + Sync);
