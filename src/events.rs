//! What happens while a caller waits, as values: the library never prints, whoever calls it decides
//! what a person sees.

use std::time::Duration;

/// Something worth telling.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A build starts.
    Building {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// The template that it extends, by the first digits of its fingerprint, and how many
        /// migrations are new; `None` for a build from nothing.
        extends: Option<(&'a str, usize)>,
        /// What the last one of its kind took.
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
        extends: Option<(&'a str, usize)>,
        /// Duration of the build.
        took: Duration,
    },
    /// A build from nothing was compared with the template of the same inputs.
    Compared {
        /// Name of the definition.
        definition: &'a str,
        /// First digits of the fingerprint.
        fingerprint: &'a str,
        /// Whether nothing differs.
        equal: bool,
        /// Whether it took the template's place.
        replaced: bool,
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
