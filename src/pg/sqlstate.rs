//! SQLSTATEs that pgstencil's decisions depend on, by the names of the manual
//! (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).

use super::bound::Delay;

/// A SQLSTATE: the server's code for an error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SqlState([u8; 5]);

macro_rules! states {
    ($($name:ident = $code:literal,)+) => {
        impl SqlState {
            $(
                #[doc = concat!("`", $code, "`")]
                pub(crate) const $name: SqlState = SqlState::literal($code);
            )+
        }
    };
}

states! {
    PROTOCOL_VIOLATION = "08P01",
    FEATURE_NOT_SUPPORTED = "0A000",
    DIVISION_BY_ZERO = "22012",
    INVALID_PARAMETER_VALUE = "22023",
    UNIQUE_VIOLATION = "23505",
    CHECK_VIOLATION = "23514",
    INVALID_AUTHORIZATION_SPECIFICATION = "28000",
    INVALID_PASSWORD = "28P01",
    DEPENDENT_OBJECTS_STILL_EXIST = "2BP01",
    INVALID_CATALOG_NAME = "3D000",
    INVALID_SCHEMA_NAME = "3F000",
    INSUFFICIENT_PRIVILEGE = "42501",
    UNDEFINED_OBJECT = "42704",
    UNDEFINED_TABLE = "42P01",
    DUPLICATE_DATABASE = "42P04",
    DISK_FULL = "53100",
    TOO_MANY_CONNECTIONS = "53300",
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000",
    OBJECT_IN_USE = "55006",
    LOCK_NOT_AVAILABLE = "55P03",
    QUERY_CANCELED = "57014",
    ADMIN_SHUTDOWN = "57P01",
    CANNOT_CONNECT_NOW = "57P03",
    IO_ERROR = "58030",
    UNDEFINED_FILE = "58P01",
    INTERNAL_ERROR = "XX000",
    DATA_CORRUPTED = "XX001",
    INDEX_CORRUPTED = "XX002",
}

impl SqlState {
    const fn literal(code: &str) -> Self {
        match code.as_bytes() {
            &[a, b, c, d, e] => SqlState([a, b, c, d, e]),
            _ => panic!("a SQLSTATE has five characters"),
        }
    }

    /// Returns the state of a driver's error, if a server sent one.
    pub(crate) fn of(error: &sqlx::Error) -> Option<Self> {
        if let Some(Delay::Locked { cause, .. }) = Delay::of(error) {
            return SqlState::of(cause);
        }
        let code = error.as_database_error()?.code()?;
        Some(SqlState(code.as_bytes().try_into().ok()?))
    }

    /// Returns whether the connection is at fault: its own exceptions (class 08), or a server that shut down,
    /// crashed or ended the session (57P).
    pub(crate) fn is_connection(self) -> bool {
        self.0.starts_with(b"08") || self.0.starts_with(b"57P")
    }

    /// Returns whether an operator, a deadline or the connection ended the statement (classes 57 and 08).
    pub(crate) fn is_intervention(self) -> bool {
        self.0.starts_with(b"08") || self.0.starts_with(b"57")
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SqlState({self})")
    }
}
