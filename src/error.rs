//! The only error type: describes the failure, its cause, and what to do about it.
//!
//! [`Kind`] decides everything that depends on the sort of failure: the exit code of the command line and the `kind`
//! of a JSON error. Hints are values, attached where the cause is known and formatted in one place.

use std::fmt;

/// Result type of pgstencil's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Sort of a failure. Each has one exit code; see [`Kind::exit_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A failure that fits no other kind, or a check with the answer "no".
    Failed,
    /// The command line, or an argument of a library call, is invalid.
    Usage,
    /// `pgstencil.toml`, a variable or a server URL is wrong.
    Config,
    /// The server cannot be reached, or pgstencil refuses it.
    Connect,
    /// The role lacks a privilege.
    Permission,
    /// The build command failed, or what it built cannot be sealed.
    Build,
    /// A deadline passed.
    Timeout,
    /// There is no such template or clone.
    NotFound,
    /// A wanted name belongs to another database, clone or owner.
    NameTaken,
    /// A bug in pgstencil.
    Internal,
    /// The user interrupted the command.
    Interrupted,
}

impl Kind {
    /// Returns the process exit code, as documented in the README and in `--help`.
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

    /// Returns the word for this kind in JSON.
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

/// Cause of a failure, if another attempt can avoid or fix it. It is set where the cause is detected, and kept in the
/// error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The server's disk is full, and the server can still drop databases.
    DiskFull,
    /// The server's disk is full, and the server cannot drop anything until space is freed.
    DiskStuck,
    /// A database cannot be copied now: it is in use, belongs to another role, or the server cannot read it.
    SourceUnusable,
    /// A database can never be copied again: it no longer exists or is damaged.
    SourceLost,
    /// The server does not support the requested way of copying.
    Unsupported,
    /// Another database or row has the name.
    NameTaken,
    /// The object that the statement names does not exist.
    Missing,
    /// Sessions or replication slots use the object of the statement.
    InUse,
    /// The role lacks a privilege.
    RightMissing,
    /// The session is lost, and its locks with it.
    ConnectionLost,
    /// This machine has no Postgres for a private server.
    NoPostgres,
}

/// A failure: its [`Kind`], a one-line message that names the object, further lines of detail, hints, and the
/// underlying error. Never contains a password.
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
    /// Creates an error with a message that starts in lower case and has no full stop.
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

    /// Creates an error of [`Kind::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Error::new(Kind::Config, message)
    }

    /// Creates an error of [`Kind::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(Kind::Usage, message)
    }

    /// Creates an error of [`Kind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Kind::Internal, message)
    }

    /// Creates an error of [`Kind::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Error::new(Kind::Failed, message)
    }

    /// Creates an error for work on another task or thread that did not complete: its runtime has ended
    /// ([`Kind::Interrupted`]), or it panicked.
    pub(crate) fn unjoined(doing: &str, error: tokio::task::JoinError) -> Self {
        match error.is_cancelled() {
            true => Error::new(Kind::Interrupted, format!("{doing}: the tokio runtime has ended")),
            false => Error::internal(format!("{doing} panicked")),
        }
        .caused_by(error)
    }

    /// Adds a hint: a sentence that says what to do about the failure.
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

    /// Sets the cause that another attempt can avoid or fix.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.0.fault = Some(fault);
        self
    }

    /// Returns the fault of this error, or of the underlying one.
    pub fn found_fault(&self) -> Option<Fault> {
        let underneath = || self.0.source.as_ref()?.downcast_ref::<Error>()?.found_fault();
        self.0.fault.or_else(underneath)
    }

    /// Whether [`Error::found_fault`] returns this fault.
    pub fn has_fault(&self, fault: Fault) -> bool {
        self.found_fault() == Some(fault)
    }

    /// Whether a copy failed because of its source database.
    pub fn blames_source(&self) -> bool {
        self.has_fault(Fault::SourceUnusable) || self.has_fault(Fault::SourceLost)
    }

    /// Adds the underlying error.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the sort of the failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Returns the message without causes, details and hints.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the lines of detail, in order.
    pub fn details(&self) -> &[String] {
        &self.0.details
    }

    /// Returns the hints, in order.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }
}

/// Quotes a text as one word of a shell's command line, for hints that are pasted.
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
