//! The one error type: what went wrong, why, and what to do about it.
//!
//! [`Kind`] decides everything that depends on the sort of failure: the exit code of the command
//! line and the `kind` of a JSON error. Hints are data, attached where the cause is known and
//! rendered in one place.

use std::fmt;

/// What pgstencil's fallible functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The sort of a failure. Each has one exit code; see [`Kind::exit_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Something failed that fits no other kind, or a check answered "no".
    Failed,
    /// The command line, or an argument of a library call, makes no sense.
    Usage,
    /// `pgstencil.toml`, a variable or a server URL is wrong.
    Config,
    /// The server cannot be reached, or is one that pgstencil refuses.
    Connect,
    /// The role lacks a right.
    Permission,
    /// The build command failed, or what it built cannot be sealed.
    Build,
    /// A deadline passed.
    Timeout,
    /// No such template or clone.
    NotFound,
    /// A wanted name belongs to something or somebody else.
    NameTaken,
    /// A bug in pgstencil.
    Internal,
    /// The user interrupted the command.
    Interrupted,
}

impl Kind {
    /// The process exit code, as documented in the README and in `--help`.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage | Kind::Config => 2,
            Kind::Connect | Kind::Permission => 3,
            Kind::Build => 4,
            Kind::Timeout => 5,
            Kind::NotFound => 6,
            Kind::NameTaken => 7,
            Kind::Internal => 70,
            Kind::Interrupted => 130,
        }
    }

    /// The word for this kind in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Usage => "usage",
            Kind::Config => "config",
            Kind::Connect => "connect",
            Kind::Permission => "permission",
            Kind::Build => "build",
            Kind::Timeout => "timeout",
            Kind::NotFound => "not_found",
            Kind::NameTaken => "name_taken",
            Kind::Internal => "internal",
            Kind::Interrupted => "interrupted",
        }
    }
}

/// The cause of a failure, where another attempt can do something about it. It is set where the cause is seen,
/// and travels with the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server's disk is full, and the server can still drop databases.
    DiskFull,
    /// The server's disk is full, and the server can drop nothing before somebody frees space.
    DiskStuck,
    /// A database cannot be copied now: it is in use, or another role's, or the server cannot read it.
    SourceUnusable,
    /// A database can never be copied again: it is gone or damaged.
    SourceLost,
    /// The server cannot copy in the way that was asked for.
    Unsupported,
    /// Another database or row has the name.
    NameTaken,
    /// What the statement names does not exist.
    Missing,
    /// Sessions or replication slots use what the statement is about.
    InUse,
    /// The role lacks a right.
    RightMissing,
    /// The session is gone, and its locks with it.
    ConnectionLost,
}

/// A failure: its [`Kind`], one line that names the thing, further lines of detail, hints, and the
/// error underneath. Never holds a password.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    details: Vec<String>,
    hints: Vec<String>,
    fault: Option<Fault>,
    source: Option<Source>,
}

impl Error {
    /// An error with a message that starts in lower case and has no full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            details: Vec::new(),
            hints: Vec::new(),
            fault: None,
            source: None,
        }))
    }

    /// Shorthand for [`Kind::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Error::new(Kind::Config, message)
    }

    /// Shorthand for [`Kind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(Kind::Usage, message)
    }

    /// Shorthand for [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Kind::Internal, message)
    }

    /// Shorthand for [`Kind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Error::new(Kind::Failed, message)
    }

    /// For work on another task or thread that did not end well: its runtime has ended ([`Kind::Interrupted`]), or
    /// it panicked.
    pub(crate) fn unjoined(doing: &str, error: tokio::task::JoinError) -> Self {
        match error.is_cancelled() {
            true => Error::new(Kind::Interrupted, format!("{doing}: the tokio runtime has ended")),
            false => Error::internal(format!("{doing} panicked")),
        }
        .caused_by(error)
    }

    /// Adds a sentence that says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hints.push(hint.into());
        self
    }

    /// Adds a line of detail, shown indented below the message.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.0.details.push(line.into());
        self
    }

    /// Says what another attempt can do something about.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.0.fault = Some(fault);
        self
    }

    /// The fault of this error, or of the one underneath.
    pub fn found_fault(&self) -> Option<Fault> {
        let underneath = || self.0.source.as_ref()?.downcast_ref::<Error>()?.found_fault();
        self.0.fault.or_else(underneath)
    }

    /// Whether [`Error::found_fault`] is this one.
    pub fn has_fault(&self, fault: Fault) -> bool {
        self.found_fault() == Some(fault)
    }

    /// Whether a copy failed because of the database that was to be copied.
    pub fn blames_source(&self) -> bool {
        self.has_fault(Fault::SourceUnusable) || self.has_fault(Fault::SourceLost)
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The sort of the failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message without causes, details and hints.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Lines of detail, in order.
    pub fn details(&self) -> &[String] {
        &self.0.details
    }

    /// What to do about it, in order.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }
}

/// A text as one word of a shell's command line, for hints that are pasted.
pub(crate) fn shell_word(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("details", &self.0.details)
            .field("hints", &self.0.hints)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn words_can_be_pasted() {
        assert_eq!(shell_word("/a/b-c.toml"), "/a/b-c.toml");
        assert_eq!(shell_word("/it's $(x)"), r"'/it'\''s $(x)'");
        assert_eq!(shell_word(""), "''");
    }
}
