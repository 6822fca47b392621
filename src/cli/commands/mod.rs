//! One file per command. Each turns arguments into calls of [`crate::Stencil`], and answers into messages.

pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod ci;
pub(crate) mod clone;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod ensure;
pub(crate) mod evict;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod owed;
pub(crate) mod paths;
pub(crate) mod pin;
pub(crate) mod prune;
pub(crate) mod release;
pub(crate) mod remote;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod server;
pub(crate) mod stats;
pub(crate) mod verify;

use std::pin::Pin;

use clap::Subcommand;

use super::{App, background, interruptible};
use crate::Result;
use crate::process::Signals;

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(run::Run),
    Clone(clone::CloneArgs),
    Ensure(ensure::Ensure),
    Explain(explain::Explain),
    Verify(verify::Verify),
    Release(release::Release),
    List(list::List),
    Evict(evict::Evict),
    /// Protect templates from eviction
    #[command(
        after_help = "Examples:\n  pgstencil pin                 the template of the current files\n  pgstencil pin be819a32ef1e    another one"
    )]
    Pin(pin::Pin),
    /// Remove the protection from eviction
    #[command(after_help = "Example:\n  pgstencil unpin be819a32ef1e")]
    Unpin(pin::Pin),
    Prune(prune::Prune),
    Serve(serve::Serve),
    Stats(stats::Stats),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    /// Manage the private Postgres server
    #[command(
        subcommand,
        after_help = "Examples:\n  pgstencil server start\n  psql \"$(pgstencil server url)\"\n  pgstencil server remove --major 15"
    )]
    Server(server::Server),
    Push(remote::Push),
    Pull(remote::Pull),
    /// List, prune and check the templates in the remote store
    #[command(subcommand, after_help = "Examples:\n  pgstencil remote list\n  pgstencil remote doctor")]
    Remote(remote::Remote),
    Init(init::Init),
    /// Save and restore the private server as one file
    #[command(
        subcommand,
        after_help = "Examples:\n  pgstencil cache restore pgstencil.cache\n  pgstencil cache save pgstencil.cache"
    )]
    Cache(cache::Cache),
    Ci(ci::Ci),
    Demo(demo::Demo),
    /// Print the effective config, or its JSON schema
    #[command(
        subcommand,
        after_help = "Examples:\n  pgstencil config show\n  pgstencil config schema > pgstencil.schema.json"
    )]
    Config(config::Config),
    /// Print where config, state, logs, server and registry are
    #[command(
        after_help = "Examples:\n  pgstencil paths\n  tail -f \"$(pgstencil paths --json | jq -r .logs[0])\""
    )]
    Paths,
    Completions(completions::Completions),
    #[command(name = "man")]
    Man(man::ManPages),
    /// Work in the background; started by the other commands
    #[command(hide = true)]
    Background,
}

impl Command {
    /// Whether a database is to be named by the branch.
    pub(crate) fn names_branch(&self) -> bool {
        let making = match self {
            Command::Run(run) => &run.making,
            Command::Clone(clone) => &clone.making,
            _ => return false,
        };
        making.name.as_ref().is_some_and(|name| name.contains("{branch}"))
    }

    /// Runs the command. Returns the exit code.
    pub(crate) async fn execute(self, app: &App, signals: &mut Signals) -> Result<u8> {
        let work: Pin<Box<dyn Future<Output = Result<u8>> + '_>> = match self {
            // The signals of `run` are those of the command that it runs.
            Command::Run(args) => return run::run(app, args, signals).await,
            // Its life is that of its standard input.
            Command::Serve(args) => return serve::serve(app, &args, signals).await,
            Command::Background => return background::work(signals).await,
            Command::Clone(args) => Box::pin(clone::clone(app, args)),
            Command::Ensure(args) => Box::pin(ensure::ensure(app, args)),
            Command::Explain(args) => Box::pin(explain::explain(app, args)),
            Command::Verify(args) => Box::pin(verify::verify(app, args)),
            Command::Release(args) => Box::pin(release::release(app, args)),
            Command::List(args) => Box::pin(list::list(app, args)),
            Command::Evict(args) => Box::pin(evict::evict(app, args)),
            Command::Pin(args) => Box::pin(pin::pin(app, args, true)),
            Command::Unpin(args) => Box::pin(pin::pin(app, args, false)),
            Command::Prune(args) => Box::pin(prune::prune(app, args)),
            Command::Stats(args) => Box::pin(stats::stats(app, args)),
            Command::Bench(args) => Box::pin(bench::bench(app, args)),
            Command::Doctor(args) => Box::pin(doctor::doctor(app, args)),
            Command::Server(args) => Box::pin(server::server(app, args)),
            Command::Push(args) => Box::pin(remote::push(app, args)),
            Command::Pull(args) => Box::pin(remote::pull(app, args)),
            Command::Remote(args) => Box::pin(remote::remote(app, args)),
            Command::Init(args) => Box::pin(async move { init::init(app, &args) }),
            Command::Cache(args) => Box::pin(cache::cache(app, args)),
            Command::Ci(args) => Box::pin(async move { ci::ci(app, &args) }),
            Command::Demo(args) => Box::pin(demo::demo(app, args)),
            Command::Config(args) => Box::pin(async move { config::config(app, &args) }),
            Command::Paths => Box::pin(paths::paths(app)),
            Command::Completions(args) => Box::pin(async move { completions::completions(app, &args) }),
            Command::Man(args) => Box::pin(async move { man::man(app, &args) }),
        };
        interruptible(app, signals, work).await
    }
}
