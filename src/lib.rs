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
//!      │                      vacant: BuildPermit ─→ extend or build ─→ seal ─┐
//!      ▼                                                                      ▼
//!   Template ◄────────────────────────────────────────────────────────────────┘
//!      └─→ clone (warm, or CREATE DATABASE ... TEMPLATE) ─→ lease ─→ command | URL ─→ release ─→ background drop
//! ```
//!
//! To trace `pgstencil clone`: `cli/mod.rs` parses and dispatches to `cli/commands/clone.rs`, which
//! asks `cli/target.rs` for a [`Stencil`] (config, server, who we are) and calls
//! [`Stencil::acquire`]. That opens the registry ([`registry::Registry::open`]) while the files are
//! read, and takes a warm clone ([`lease::claim`]) if there is one. Else it gets a template
//! ([`template::ensure()`]: lock, look again, build, seal last) and copies it ([`lease::create`]). It
//! gives back [`stencil::Acquired`], of which [`wire::Answer`] makes the JSON. Start reading at
//! [`template::ensure()`].
//!
//! # The rooms, from the ground up
//!
//! A module may use those above it in this table, and its own folder; a test holds that.
//!
//! | module | what is in it |
//! |---|---|
//! | [`error`] | the one error type: kind (and so exit code), message, details, hints |
//! | [`names`], [`url`], [`events`], [`quantity`] | values: fingerprints, database names, marks; server URLs that hide their password; progress events; counts, times and sizes in words |
//! | [`git`] | checkouts: top level, repository and its main worktree, branch; the questions to `git` and `jj` |
//! | [`private_file`] | the only creator of files and directories: closed to others from birth |
//! | [`mod@env`] | the only reader of the environment: libpq's variables, the password file |
//! | [`config`] | `pgstencil.toml` → checked [`config::Config`]; placeholders |
//! | [`fingerprint`] | the walk over the files, the [`fingerprint::Recipe`] and its hash; the order of migrations; what differs between two recipes |
//! | [`process`] | the only starter of other people's commands: groups, time-outs, a watchdog for the time after us |
//! | [`private_server`] | the managed server: a private Postgres that is started on demand |
//! | [`pg`] | sessions, advisory locks, what the server says of its databases and of what is in one, and every statement with identifiers in it |
//! | [`registry`] | our own tables: templates, clones, databases, events; intents before acts |
//! | [`variables`] | what a command of the user sees: variables, placeholders filled |
//! | [`context`] | what each step from template to clone needs to know |
//! | [`database`] | one physical database: the one CREATE, the one DROP, how to copy |
//! | [`retention`] | which templates go to keep the limits: a pure policy, and plan and apply around it; the clean-up of what killed jobs left |
//! | [`template`] | look-up, the right to build, the base to extend, the build and its seal; verify and settle |
//! | [`lease`] | clones: made ahead, handed out, held |
//! | [`mod@bench`], [`doctor`] | what copies cost here; the check-up: what is wrong with server, role, disk or registry, and the mend |
//! | [`stencil`] | [`Stencil`], the facade: what the command line and your program call |
//! | [`wire`] | the JSON shapes |
//!
//! # Invariants
//!
//! 1. Only databases whose registry row matches name, oid and mark are dropped ([`database::drop`]). Nothing
//!    by prefix, ever.
//! 2. A template is handed out only after its seal: [`template::Template`] is made from a `ready`
//!    row under its lock, or by the seal.
//! 3. For one fingerprint on one server, at most one build runs: the right to is an advisory lock,
//!    in the code a [`template::BuildPermit`].
//! 4. A clone in use is dropped, renamed or reset by nobody but its holder. A named clone has an owner,
//!    who is asked for again ([`registry::owner`]); another owner has to say that they insist.
//! 5. Killing pgstencil or Postgres at any instant loses no ready template and leaks no database
//!    that the next sweeps do not find.
//! 6. Every CREATE and DROP has its intent in a committed row first; recovery looks at the server.
//! 7. Fingerprints depend neither on the machine, the user, the clock, the locale nor the order of
//!    the file system.
//! 8. Passwords appear nowhere but in the URL that is the answer, and in the environment of the
//!    user's own commands.
//! 9. What only reads writes nothing.
//! 10. The library never prints, never reads the environment (but for
//!     [`env::Environment::from_process`]) or the working directory, and never exits.
//! 11. No code of a stranger runs with our rights: a database that calls itself our registry is judged
//!     before a session with it starts ([`pg::door`]) and before anything in it is planned.
//!
//! What is deliberately absent: a daemon (all state and all locks are in Postgres), a connection
//! pool (locks belong to sessions; a [`Stencil`] only keeps idle ones for its next hand-out), state on
//! the local disk (but for the managed server, and for what can be found out again), and `unsafe`.
//!
//! # As a library
//!
//! [`config::Config::load`] takes the file that the program names; [`config::find`] looks for one, and
//! refuses a file of another user, since a config runs commands.
//!
//! Clones that were given back are dropped by a thread of the program, which also sweeps what earlier programs
//! left, and runs `before_release` for clones that a sweep took; [`Stencil::close`] waits for the thread.
//! [`Stencil::give_back`] itself runs `before_release` for the clones that it gets. Futures of hand-outs may be
//! dropped at any await: each method says what becomes of its work. The runtime of a hand-out may end before its
//! clone is given back on another.
//! Warm clones are made by [`Stencil::fill`], and a template that was extended is provisional until
//! [`Stencil::settle`] has built it from nothing. The command line starts a process for these when its own work
//! is done; a program calls them when it has time, as in a task of its own. Use one [`Stencil`] for all
//! hand-outs: it keeps the sessions of clones that were given back for the next ones, until [`Stencil::close`].
//!
//! A clone with [`stencil::Term::Expiry`] or [`stencil::Term::Usual`] outlives the program only after
//! [`Stencil::confirm`]: call it when its URL has reached whoever will use it. Before that a program that is
//! killed leaves nothing behind, since the clone is dropped when its session has ended and `orphan_grace` is
//! over.
//!
//! ```no_run
//! # use std::sync::Arc;
//! use pgstencil::config::Config;
//! use pgstencil::stencil::{Defaults, Endpoint, Holder, Term, Deadline, Wanted};
//! use pgstencil::url::ServerUrl;
//! use pgstencil::{Result, Stencil};
//!
//! # async fn example() -> Result<()> {
//! let config = Config::load("pgstencil.toml".as_ref())?;
//! let url = ServerUrl::parse("postgresql://me:secret@127.0.0.1:5432/postgres")?;
//! let endpoint = Endpoint::new(url, &Defaults::default())?;
//! let stencil = Stencil::new(config, endpoint, Holder::default(), Arc::new(|_| None));
//! let wanted = Wanted { term: Term::Session, ..Wanted::default() };
//! let acquired = stencil.acquire(&wanted, &Deadline::default(), &|_event| {}).await?;
//! for clone in &acquired.clones {
//!     println!("{}", stencil.endpoint().client_url(clone.name()).reveal());
//! }
//! let keeper = stencil.keep(acquired.registry, &acquired.clones);
//! // ... use the databases ...
//! let kept = keeper.stop().await?;
//! stencil.give_back(kept.registry, &acquired.clones).await?;
//! // When there is time: warm clones for the next time.
//! let (name, fingerprint) = (&acquired.definition, &acquired.fingerprint);
//! stencil.fill(name, fingerprint, acquired.demand, &Deadline::default()).await?;
//! // At the end of the program: what is still to be dropped.
//! stencil.close().await;
//! # Ok(())
//! # }
//! ```

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("pgstencil runs on Linux and macOS; on Windows use WSL2");

pub mod bench;
#[doc(hidden)]
pub mod cli;
pub mod config;
pub mod context;
pub mod database;
pub mod doctor;
pub mod env;
pub mod error;
pub mod events;
pub mod fingerprint;
pub mod git;
pub mod lease;
pub mod names;
pub mod pg;
pub mod private_file;
pub mod private_server;
pub mod process;
pub mod quantity;
pub mod registry;
pub mod retention;
pub mod stencil;
pub mod template;
pub mod url;
pub mod variables;
pub mod wire;

pub use error::{Error, Kind, Result};
pub use stencil::Stencil;
