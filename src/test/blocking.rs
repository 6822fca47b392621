//! The twin of [`pgstencil::test`](super) for tests without a runtime: diesel, `postgres`.
//!
//! ```no_run
//! #[test]
//! fn orders() {
//!     let db = pgstencil::test::blocking::database("app");
//!     println!("{} is at {}", db.name(), db.url());
//! }
//! ```
//!
//! These functions block their thread. On a thread of an async runtime, use [`super::database`].

use std::fmt;
use std::time::Duration;

use super::host::Host;
use super::{Held, One, Wanted, report};
use crate::context::Filler;
use crate::error::Result;

/// Returns a database of this definition for the test that calls this. Builds the template if it is missing.
///
/// # Panics
/// Where [`try_database`] returns an error.
#[track_caller]
pub fn database(definition: impl Into<String>) -> Database {
    request(definition).get()
}

/// As [`database`], but returns a `Result`.
///
/// # Errors
/// As [`super::try_database`].
#[track_caller]
pub fn try_database(definition: impl Into<String>) -> Result<Database> {
    request(definition).try_get()
}

/// Begins a request that says more than the definition, such as code that fills the template.
///
/// ```no_run
/// use pgstencil::{Filler, Unfilled};
/// # fn migrate(url: &str) -> std::io::Result<()> { Ok(()) }
///
/// let schema = Filler::blocking("schema 17", |databases: Vec<Unfilled>| migrate(&databases[0].url.reveal()));
/// let db = pgstencil::test::blocking::request("app").filled_by(schema).get();
/// ```
#[track_caller]
pub fn request(definition: impl Into<String>) -> Request {
    Request(Wanted::new(definition.into(), None))
}

/// Request for a database, until [`Request::get`].
#[must_use = "a request does nothing before `get`"]
#[derive(Debug)]
pub struct Request(Wanted);

impl Request {
    /// Has a missing template filled by code of the test program, instead of a build command.
    pub fn filled_by(mut self, filler: Filler) -> Self {
        self.0.filler = Some(filler);
        self
    }

    /// Limits waiting and building, as [`super::Request::wait`] does.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.0.wait = Some(wait);
        self
    }

    /// Returns the database.
    ///
    /// # Panics
    /// Where [`Request::try_get`] returns an error.
    pub fn get(self) -> Database {
        let (test, place) = (self.0.test.clone(), self.0.place);
        match self.try_get() {
            Ok(database) => database,
            Err(error) => report::fail(&test, place, &error),
        }
    }

    /// Returns the database, or the error.
    ///
    /// # Errors
    /// As [`super::try_database`].
    pub fn try_get(self) -> Result<Database> {
        Ok(Database(Host::get()?.held_blocking(self.0)?))
    }
}

/// Database of one test; created by [`database`]. Dropping it releases its clone, or keeps it if the test panics.
#[must_use = "dropping it releases the database"]
pub struct Database(Held);

impl Database {
    /// Returns the URL of the first database, with the password.
    pub fn url(&self) -> &str {
        &self.0.first().url
    }

    /// Returns the name of the first database on the server.
    pub fn name(&self) -> &str {
        &self.0.first().name
    }

    /// Returns the URL of the database of this alias, with the password, for a definition with several databases.
    ///
    /// # Panics
    /// If the definition has no such alias.
    #[track_caller]
    pub fn url_of(&self, alias: &str) -> &str {
        self.0.url_of(alias)
    }

    /// Returns the databases, in the order of the definition.
    pub fn databases(&self) -> &[One] {
        &self.0.databases
    }

    /// Keeps the database for `[clone] ttl` when this value is dropped, as if the test had panicked.
    pub fn keep(&mut self) {
        self.0.keep = true;
    }
}

/// Omits URLs, which contain the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("databases", &self.0.databases).finish_non_exhaustive()
    }
}
