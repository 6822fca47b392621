//! A database of its own for each test, in one line.
//!
//! ```no_run
//! #[tokio::test]
//! async fn orders() {
//!     let db = pgstencil::test::database("app").await;
//!     println!("{} is at {}", db.name(), db.url());
//! }
//! ```
//!
//! `"app"` is a definition of the project's `pgstencil.toml`. The first test builds the template, and each test gets a
//! clone of it. With the cargo feature `sqlx`, `db.pool().await` is an `sqlx::PgPool` of sqlx 0.9; with another
//! version of sqlx, and with any other driver, connect to [`Database::url`]. Tests without a runtime of their own, for
//! diesel or `postgres`, use [`blocking::database`]. All functions here panic with the message and the hints of the
//! error; [`try_database`] returns it.
//!
//! # The end of a test
//!
//! Dropping a [`Database`] releases its clone, which takes a statement or two. A thread of the test program drops
//! released clones while other tests run. If 20 released clones or more wait for their drop, the end of a test drops
//! them, too, so that they never pile up. What is left when the program ends, the next program or command drops.
//! Where each test is a process of its own (nextest), processes are too short for a thread: the test that finds 8
//! released clones at its end drops them all, and the others drop nothing.
//!
//! If the test panics, the database is kept for `[clone] ttl` (12 hours by default). Its URL is printed to standard
//! error, with the name of the test. [`Database::keep`] keeps it in any case, for example when a test is about to
//! return an error. A database of a killed test is dropped by a later test program or command, once
//! `[clone] orphan_grace` (two minutes) is over. So is that of a test that aborts (`panic = "abort"`).
//!
//! # The template
//!
//! Config, environment and server are found as the command line finds them, and this module alone does that by itself:
//! `PGSTENCIL_CONFIG`, or the `pgstencil.toml` in the directory of the crate or above it; `PGSTENCIL_SERVER_URL`,
//! `[server] url`, or the private server, which is started. So tests share their templates with the commands, and it
//! does not matter whether `cargo test` runs them in one process, nextest in a process for each, or `pgstencil run`
//! around all of them. One process builds a missing template, and the others wait.
//!
//! A test program opens the project with the first request. It reads the inputs of a definition once: files that change
//! while it runs count for the next one. The result of the reading is cached for the next program.
//!
//! A template can also come from code. Then a `pgstencil.toml` is optional; without one, the project is named after the
//! directory of the repository. If the config has no definition of that name, it has one database. If it has one, its
//! `databases`, `from` and other keys apply, but not its build command and files.
//!
//! ```no_run
//! use pgstencil::{Filler, Unfilled};
//! # async fn migrate(url: &str) -> std::io::Result<()> { Ok(()) }
//!
//! # async fn example() {
//! // The key stands for all that decides what the code makes, such as the checksums of its migrations.
//! let schema = Filler::new("schema 17", async |databases: Vec<Unfilled>| migrate(&databases[0].url.reveal()).await);
//! let db = pgstencil::test::database("app").filled_by(schema).await;
//! # }
//! ```
//!
//! `.migrations(sqlx::migrate!())` does that for the migrations of sqlx 0.9 (feature `sqlx`), with their checksums as
//! the key. [`Filler::blocking`] takes code that blocks.
//!
//! # Runtimes
//!
//! A thread with a runtime of its own does all the work, so that sessions outlive the runtime of a `#[tokio::test]`.
//! Futures of this module work on any runtime.

pub mod blocking;
mod host;
mod project;
mod report;

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::pin::Pin;
use std::time::Duration;

use self::host::Host;
use crate::context::Filler;
use crate::error::Result;
use crate::stencil::Lease;

/// Requests a database of this definition for the test that calls this. Awaiting it builds the template if it is
/// missing, and yields a clone of it.
///
/// # Panics
/// Awaiting it panics where [`try_database`] returns an error.
#[track_caller]
pub fn database(definition: impl Into<String>) -> Request<Database> {
    Request::new(definition.into())
}

/// As [`database`], but awaiting it yields a `Result`.
///
/// # Errors
/// An unknown definition, a missing or invalid `pgstencil.toml`, and the errors of the inputs, the server and the build.
#[track_caller]
pub fn try_database(definition: impl Into<String>) -> Request<Result<Database>> {
    Request::new(definition.into())
}

/// Request for a database; awaiting it yields the [`Database`], or a `Result` if it began with [`try_database`].
#[must_use = "a request does nothing before it is awaited"]
#[derive(Debug)]
pub struct Request<T> {
    wanted: Wanted,
    yields: PhantomData<fn() -> T>,
}

/// What a test requests.
#[derive(Debug)]
struct Wanted {
    definition: String,
    filler: Option<Filler>,
    wait: Option<Duration>,
    /// Name of the test.
    test: String,
    /// Where it asks.
    place: &'static Location<'static>,
}

impl Wanted {
    #[track_caller]
    fn new(definition: String, filler: Option<Filler>) -> Self {
        Wanted { definition, filler, wait: None, test: report::test_name(), place: Location::caller() }
    }
}

impl<T> Request<T> {
    #[track_caller]
    fn new(definition: String) -> Self {
        Request { wanted: Wanted::new(definition, None), yields: PhantomData }
    }

    /// Has a missing template filled by code of the test program, instead of a build command.
    pub fn filled_by(mut self, filler: Filler) -> Self {
        self.wanted.filler = Some(filler);
        self
    }

    /// Has a missing template filled by the migrations of sqlx 0.9: `.migrations(sqlx::migrate!())`.
    #[cfg(feature = "sqlx")]
    pub fn migrations(
        self,
        migrator: impl std::borrow::Borrow<sqlx::migrate::Migrator> + Send + Sync + 'static,
    ) -> Self {
        self.filled_by(Filler::migrations(migrator))
    }

    /// Fails with [`Kind::Timeout`](crate::Kind::Timeout) if waiting and building take longer in total. By default
    /// only `build_timeout` limits a build, and nothing limits the wait for a build of another process.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wanted.wait = Some(wait);
        self
    }
}

/// Future of a [`Request`].
type Requesting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl IntoFuture for Request<Database> {
    type Output = Database;
    type IntoFuture = Requesting<Database>;

    fn into_future(self) -> Self::IntoFuture {
        let (test, place) = (self.wanted.test.clone(), self.wanted.place);
        Box::pin(async move {
            match request(self.wanted).await {
                Ok(database) => database,
                Err(error) => report::fail(&test, place, &error),
            }
        })
    }
}

impl IntoFuture for Request<Result<Database>> {
    type Output = Result<Database>;
    type IntoFuture = Requesting<Result<Database>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(request(self.wanted))
    }
}

async fn request(wanted: Wanted) -> Result<Database> {
    let held = Host::get()?.held(wanted).await?;
    Ok(Database {
        held,
        #[cfg(feature = "sqlx")]
        pool: tokio::sync::OnceCell::new(),
    })
}

/// Database of one test; created by [`database`]. Dropping it releases its clone, or keeps it if the test panics.
#[must_use = "dropping it releases the database"]
pub struct Database {
    held: Held,
    #[cfg(feature = "sqlx")]
    pool: tokio::sync::OnceCell<sqlx::PgPool>,
}

impl Database {
    /// Returns the URL of the first database, with the password.
    pub fn url(&self) -> &str {
        &self.held.first().url
    }

    /// Returns the name of the first database on the server.
    pub fn name(&self) -> &str {
        &self.held.first().name
    }

    /// Returns the URL of the database of this alias, with the password, for a definition with several databases.
    ///
    /// # Panics
    /// If the definition has no such alias.
    #[track_caller]
    pub fn url_of(&self, alias: &str) -> &str {
        self.held.url_of(alias)
    }

    /// Returns the databases, in the order of the definition.
    pub fn databases(&self) -> &[One] {
        &self.held.databases
    }

    /// Returns the pool of this database, with at most 5 sessions. The first call connects, on the runtime of the
    /// caller; later calls return the same pool.
    ///
    /// This is a pool of sqlx 0.9. For other settings or another version, create one with [`Database::url`].
    ///
    /// # Panics
    /// If the server cannot be reached.
    #[cfg(feature = "sqlx")]
    pub async fn pool(&self) -> sqlx::PgPool {
        let options = sqlx::postgres::PgPoolOptions::new().max_connections(5);
        match self.pool.get_or_try_init(|| options.connect(self.url())).await {
            Ok(pool) => pool.clone(),
            Err(error) => {
                let what = format!("cannot connect to database `{}`", self.name());
                let error = crate::Error::new(crate::Kind::Connect, what).caused_by(error);
                report::fail(&self.held.test, Location::caller(), &error)
            }
        }
    }

    /// Keeps the database for `[clone] ttl` when this value is dropped, as if the test had panicked.
    pub fn keep(&mut self) {
        self.held.keep = true;
    }
}

/// Omits URLs, which contain the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("databases", &self.held.databases).finish_non_exhaustive()
    }
}

/// One database of a [`Database`].
#[derive(Clone)]
#[non_exhaustive]
pub struct One {
    /// Its alias within the definition.
    pub alias: String,
    /// Its name on the server.
    pub name: String,
    /// Its URL, with the password.
    pub url: String,
}

/// Omits the URL, which contains the password.
impl fmt::Debug for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("One").field("alias", &self.alias).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Lease of a test, and what it needs to know of it.
struct Held {
    lease: Option<Lease>,
    databases: Vec<One>,
    test: String,
    keep: bool,
}

impl Held {
    fn new(lease: Lease, test: String) -> Self {
        let databases = lease.databases().map(|database| One {
            alias: database.alias().to_owned(),
            name: database.name().to_owned(),
            url: database.url(),
        });
        Held { databases: databases.collect(), lease: Some(lease), test, keep: false }
    }

    fn first(&self) -> &One {
        &self.databases[0]
    }

    #[track_caller]
    fn url_of(&self, alias: &str) -> &str {
        match self.databases.iter().find(|one| one.alias == alias) {
            Some(one) => &one.url,
            None => {
                let aliases: Vec<&str> = self.databases.iter().map(|one| one.alias.as_str()).collect();
                panic!("pgstencil: the definition has no alias `{alias}`; it has {}", aliases.join(", "))
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(lease), Ok(host)) = (self.lease.take(), Host::get()) {
            let panicked = std::thread::panicking();
            match panicked || self.keep {
                true => host.keep(lease, &self.test, panicked, &self.databases),
                false => host.release(lease, &self.test),
            }
        }
    }
}
