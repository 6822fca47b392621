//! What happens while a caller waits, as values: the library never prints, whoever calls it decides
//! what a person sees.

use std::time::Duration;

/// Something worth telling.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A build starts. `expected`: what the last one took.
    Building {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// Duration of the last full build.
        expected: Option<Duration>,
    },
    /// A line that the build command, or `after_clone`, printed.
    Output(&'a str),
    /// Somebody else builds what we need. Repeated while we wait.
    Waiting {
        /// Name of the definition.
        definition: &'a str,
        /// Who builds.
        builder: &'a str,
        /// For how long already.
        elapsed: Duration,
        /// Duration of the last full build.
        expected: Option<Duration>,
        /// The last line that the build printed.
        last_line: &'a str,
    },
    /// A template is sealed.
    Sealed {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// Duration of the build.
        took: Duration,
    },
    /// Something the user should know, though we go on.
    Warning(&'a str),
    /// Something of interest at higher verbosity.
    Notice(&'a str),
}

/// Who is told.
pub type Observe<'a> = &'a (dyn Fn(Event<'_>) + Send + Sync);
