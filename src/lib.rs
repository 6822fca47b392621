//! pgstencil keeps migrated Postgres *template databases* and hands out *clones* of them.
//!
//! This crate is the command `pgstencil` and the library under it. The README says what it is for;
//! this page is the map of the code.
//!
//! # From a command to a database
//!
//! ```text
//! args + pgstencil.toml + environment ─→ Config ─→ Inputs ─→ Recipe ─→ Fingerprint
//!                                                                        │ look up
//!      ┌─ ready ───────────────────────────────────────────────────────┤
//!      │              missing: BuildPermit ─→ Plan: pull, extend or build ─→ fill ─→ seal ─┐
//!      ▼                                                                             ▼
//!   Template ◄───────────────────────────────────────────────────────────────────────┘
//!      └─→ clone (warm, or CREATE DATABASE ... TEMPLATE) ─→ lease ─→ command | URL ─→ release ─→ background drop
//! ```
//!
//! To trace `pgstencil clone`: `cli/mod.rs` parses the arguments and calls `cli/commands/clone.rs`, which asks
//! `cli/target.rs` for a [`Stencil`] (config, server, identity of the caller) and requests a clone from it. The
//! stencil opens the registry while it reads the files, and takes a warm clone if one exists. Otherwise
//! `template::ensure` gets a template and `lease::create` copies it. The answer becomes JSON in `wire`. Start
//! reading at `template::ensure`: it carries out what `template::plan` decides, which `explain` prints; a build
//! goes through the states at the head of `template/build/mod.rs`, and its seal comes last.
//!
//! # The modules, from the ground up
//!
//! A module may use those of the rows above it, and its own directory. `cli` reaches `pg` and `registry` only through
//! `stencil`, and few of its files use `process`. `tests/it/layers.rs` checks this. Not in the table are `main.rs`,
//! which calls `cli`, and `build.rs`, the build script.
//!
//! | module | content |
//! |---|---|
//! | `error` | the error type: kind (and so exit code), typed causes, message, details, hints |
//! | `names`, `url`, `events`, `quantity` | values: fingerprints, database names, ownership tags; server URLs that hide their password; progress events; counts, times and sizes in words |
//! | `git` | checkouts: top level, repository and its main worktree, branch; the questions to `git` and `jj` |
//! | `private_file` | the only creator of files and directories: closed to other users from the start |
//! | `cache_file` | the file of `pgstencil cache`: its format, its checks and signature, what it may contain |
//! | `env` | the only reader of the environment: libpq's variables, the password file |
//! | `config` | `pgstencil.toml` → checked [`config::Config`]; placeholders |
//! | `fingerprint` | the walk over the files, the recipe and its hash; the order of migrations; the difference between two recipes; copies of the tree |
//! | `presets` | the migration tools that `init` knows: signs of a project, the config for it, advice about an existing config |
//! | `process` | runs the user's commands: process groups, time-outs, a watchdog that outlives pgstencil |
//! | `private_server` | the local Postgres that pgstencil starts by itself |
//! | `pg` | sessions, advisory locks, the server's view of its databases and of the contents of one, every statement with identifiers in it |
//! | `remote` | templates in a store that several servers share: formats, trust, the operations of a store, `pg_dump` and `pg_restore` |
//! | `registry` | pgstencil's own tables: templates, clones, databases, events; intents before acts |
//! | `variables` | the environment of the user's commands: standard variables, placeholders filled |
//! | `context` | the facts that each step from template to clone needs; the source that fills a missing template |
//! | `database` | one physical database: the one CREATE, the one DROP, the copy strategy |
//! | `retention` | eviction of templates by a pure policy, with plan and apply around it; the policy for rebuilds and its evidence; the cleanup of clones without holders |
//! | `template` | look-up, plan, build permit, base, build and seal; verify and rebuild |
//! | `lease` | clones: created, created ahead, handed to a holder, held |
//! | `bench`, `doctor` | the cost of copies on this server; the checks of server, role, disk and registry |
//! | `stencil` | [`Stencil`], the facade that the command line and your program call |
//! | `wire` | the JSON shapes |
//! | [`mod@test`] | a database for each test of a Rust program: finds config, environment and server by itself |
//! | `cli` | the command line: the only code that knows a terminal |
//! | `internals` | no interface: what the tests and benchmarks of this repository need besides |
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | definition | a `[template.NAME]` table |
//! | alias | the name of one database within a definition |
//! | inputs | the files and variables of a definition that decide what a build yields |
//! | recipe | everything that decides what a build yields: the inputs and traits of the server |
//! | normal form | the content of a file without what has no effect, for the files that `normalize` names |
//! | full build | a build that starts from the empty database, or from the database that `from` names |
//! | incremental build | a build on a copy of an older template, for the new migrations only; it *extends* that template |
//! | checkout | a working copy of the project: a directory with its config, in git a worktree |
//! | hook | a command of the user around a clone: `after_clone`, `before_release` |
//! | fingerprint | the hash of a recipe |
//! | template | the databases that were built for one definition and fingerprint |
//! | permit | the right to build one fingerprint: an advisory lock |
//! | seal | the last step of a build: closed to connections, marked as template, registered `ready` |
//! | base | the template that a new one is extended from, by an incremental build |
//! | waypoint | the result of the first step of a full build in two steps, kept as a base |
//! | provisional | said of an incrementally built template, until a full build replaces it or the evidence of earlier ones accepts it |
//! | rebuild | that full build |
//! | chain | the series of incremental builds since the last template that equals a full build |
//! | link | one incremental build of a chain |
//! | accepted | said of an incrementally built template that counts as equal to a full build by the evidence of other rebuilds ([`retention::rebuild_policy`] says what that cannot see) |
//! | unsealed | said of a result that is handed out and not kept: its new migrations changed nothing |
//! | clone | a set of databases copied from a template, for one holder |
//! | warm clone | a clone that was created ahead of time and has no holder yet |
//! | holder | the process or person that uses a clone |
//! | owner | the role, machine and checkout to which a named clone belongs |
//! | lease | the right of a holder to a clone, and until when: a session lock or an expiry |
//! | release | the end of a lease by its holder |
//! | orphan | a clone whose holder is gone |
//! | cleanup | dropping orphans and half-built databases |
//! | evict | dropping templates by policy |
//! | pin | an exemption from eviction |
//! | registry | the database with pgstencil's own tables |
//! | ownership tag (mark) | the random part of a database's comment that ties it to its registry row |
//! | intent | the committed row that precedes each CREATE and DROP |
//! | private server | the local Postgres that pgstencil starts where no URL is given |
//!
//! # Invariants
//!
//! 1. pgstencil drops a database only if its name, OID and ownership tag match its registry row
//!    (`database::drop`). It never drops by prefix.
//! 2. A template is handed out only after its seal: a `Template` is made from a `ready` row under its lock, or by
//!    the seal.
//! 3. For one fingerprint on one server, at most one build runs: the right to build is an advisory lock, in the
//!    code a `BuildPermit`.
//! 4. While a clone is in use, only its holder can drop, rename or reset it. A named clone has an owner; another
//!    owner has to insist (`--take`).
//! 5. Killing pgstencil or Postgres at any instant loses no ready template, and leaves no database that the next
//!    cleanups do not find.
//! 6. Every CREATE and DROP has its intent in a committed row first; recovery looks at the server.
//! 7. Fingerprints depend neither on the machine, the user, the clock, the locale nor the order of the file
//!    system.
//! 8. Passwords appear only in the URL that is the answer, and in the environment of the user's own commands.
//! 9. Commands that only read write nothing.
//! 10. The library never prints and never exits. It reads the environment only in
//!     [`env::Environment::from_process`], and the working directory only to resolve a relative path that it is given.
//!     The one exception is the module [`mod@test`]: it finds environment, working directory and config by itself, and
//!     prints to standard error.
//! 11. No code of a stranger runs with pgstencil's privileges: a database that calls itself the registry is
//!     judged before a session with it starts (`pg::door`), and before anything in it is planned. Nothing from a
//!     remote store is restored before its hashes and its signature are right (`remote`).
//!
//! Deliberately absent: a daemon (all state and all locks are in Postgres; a background process that stays for a `run`
//! that it serves, or until its warm clones are taken or spare, only saves sessions, and does what the next command
//! would), a connection pool (locks belong to sessions; a
//! [`Stencil`] only keeps idle sessions for its next request), state on the local disk (except for the
//! private server, and for files that can be found out again), and `unsafe`.
//!
//! # As a library
//!
//! ```no_run
//! use pgstencil::Stencil;
//!
//! # async fn example() -> pgstencil::Result<()> {
//! let stencil = Stencil::open("pgstencil.toml").await?;
//! let db = stencil.database().await?;
//! println!("{}", db.url());
//! db.release().await?;
//! // At the end of the program: waits for the drops.
//! stencil.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! [`Stencil::open`] takes the file that the program names, and the server from `[server] url`. The library does
//! not read the environment; a program that wants what the command line takes from there (`PGSTENCIL_SERVER_URL`,
//! libpq's variables, the private server, the values of `env_inputs`) passes it:
//! `Stencil::open(file).environment(Environment::from_process())`. If neither the program nor the config names a
//! server, opening fails without it ([`Kind::Config`]). [`config::find`] looks for a file as the command line does,
//! and refuses that of another user, since a config runs commands.
//!
//! [`Stencil::database`] builds the template if it is missing, and makes a clone. Its methods say which template,
//! which name, how many clones, and until when; awaiting it yields a [`Lease`]:
//!
//! ```no_run
//! # use std::time::Duration;
//! # async fn example(stencil: pgstencil::Stencil) -> pgstencil::Result<()> {
//! // One database for each worker of a test runner.
//! let workers = stencil.database().template("app").name("test_{n}").count(4).await?;
//! for url in workers.urls() {
//!     println!("{url}");
//! }
//! // A database that outlives the program. With `ttl`, a live clone of this name is reused; `detach` keeps it from
//! // now on for the given time.
//! let db = stencil.database().name("review_{branch}").ttl(Duration::from_secs(3600)).await?;
//! println!("{} and {:?}", db.url(), db.url_of("reports"));
//! let until = db.detach(Duration::from_secs(3600)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! For a database in each test, the module [`mod@test`] needs one line and no set-up:
//!
//! ```no_run
//! #[tokio::test]
//! async fn orders() {
//!     let db = pgstencil::test::database("app").await;
//! }
//! ```
//!
//! Any other program shares one [`Stencil`] among its threads, and makes a request for each database:
//!
//! ```no_run
//! use pgstencil::env::Environment;
//! use pgstencil::{Lease, Stencil};
//! use tokio::sync::OnceCell;
//!
//! static STENCIL: OnceCell<Stencil> = OnceCell::const_new();
//!
//! async fn database() -> pgstencil::Result<Lease> {
//!     let open = || async { Stencil::open("pgstencil.toml").environment(Environment::from_process()).await };
//!     STENCIL.get_or_try_init(open).await?.database().await
//! }
//! ```
//!
//! A lease that is dropped releases its database. A program need not call [`Stencil::close`]: the next program or
//! command drops what is left.
//!
//! The build command is not the only source of a template: [`Stencil::filled_by`] takes an async function of the
//! program, and [`Stencil::begin`] yields databases that the program fills elsewhere and then seals:
//!
//! ```no_run
//! use pgstencil::Filler;
//! # async fn migrate(url: &str) -> std::io::Result<()> { Ok(()) }
//!
//! # async fn example(stencil: pgstencil::Stencil) -> pgstencil::Result<()> {
//! // The key stands for all that decides what the function makes, such as the checksums of its migrations.
//! let filler = Filler::new("schema 17", async |databases: Vec<_>| migrate(&databases[0].url.reveal()).await);
//! let db = stencil.filled_by(filler).database().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A lease holds the locks of its clones by a session of its own, which it watches, and opens again if it is lost.
//! [`Lease::release`] ends it. So does dropping it, without waiting: a thread of the program releases the clones,
//! drops them, and cleans up what earlier programs left; [`Stencil::close`] waits for the thread. [`Lease::detach`]
//! leaves a clone to the server's clock instead. If the program is killed, the next process of pgstencil drops the
//! clones that it held, once `[clone] orphan_grace` (by default two minutes) is over. A new clone with a `ttl` counts
//! as held until it is detached; a reused one stays.
//!
//! All futures need a Tokio runtime, and may be dropped at any await; "Cancel safety" says what becomes of the work.
//! A lease may be released on another runtime than its own, even after its own has ended. So one [`Stencil`] can
//! serve all tests, each with its own runtime. It keeps the sessions of released leases for the next requests.
//!
//! Each error has a [`Kind`]. Errors of the server are mostly [`Kind::Connect`], [`Kind::Permission`],
//! [`Kind::Timeout`] or [`Kind::Failed`], those of the inputs [`Kind::Config`] or [`Kind::Failed`], those of the
//! build command [`Kind::Build`] or [`Kind::Timeout`].
//!
//! # Cargo features
//!
//! | feature | content |
//! |---|---|
//! | `cli` (default) | the command `pgstencil`. A program that only uses the library switches it off by `default-features = false` |
//! | `fetch` | `pgstencil server fetch`, with an HTTP client |
//! | `remote` (default) | remote stores at `s3://`, `gs://`, `az://` and `https://` URLs, for the command; a directory needs no feature |
//! | `sqlx` (default) | `test::Database::pool`, `test::Request::migrations` and `Filler::migrations`, with the types of sqlx 0.9. Another version of sqlx here will be a breaking change of pgstencil |
//!
//! # Upkeep
//!
//! When the program has time, [`Stencil::fill`] makes warm clones for the next requests, and [`Stencil::rebuild`]
//! replaces a provisional template. The command line starts a process for these when its own work is done.

// Parts of the modules are for the command line only.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("pgstencil runs on Linux and macOS; on Windows use WSL2");

mod bench;
#[cfg(feature = "cli")]
mod cache_file;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod config;
mod context;
mod database;
mod doctor;
pub mod env;
mod error;
pub mod events;
mod fingerprint;
mod git;
#[doc(hidden)]
pub mod internals;
mod lease;
mod names;
mod pg;
#[cfg(feature = "cli")]
mod presets;
mod private_file;
mod private_server;
mod process;
mod quantity;
mod registry;
mod remote;
pub mod retention;
mod stencil;
mod template;
pub mod test;
mod url;
mod variables;
pub mod wire;

pub use context::{FillError, Filler, Unfilled};
pub use error::{Error, Fault, Kind, Result};
pub use names::Fingerprint;
pub use stencil::{
    Begun, Building, DatabaseRequest, Lease, LeasedClone, LeasedDatabase, Leases, Released, Stencil,
    StencilBuilder, Ttl,
};
pub use template::{Extends, Provenance, Provisional, Timing};
pub use url::ServerUrl;
pub use variables::Outcome;
