//! `pgstencil run`

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;

use crate::events::Warning;
use crate::lease::ClonedSet;
use crate::names::words;
use crate::process::{self, Job, Signals, Status};
use crate::stencil::{Deadline, Leases, Shard, Term};
use crate::variables::CLEARED;
use crate::{Error, Kind, Result, Stencil, wire};

use super::{clone, prune};
use crate::cli::args::Making;
use crate::cli::background::{Background, Request, Task};
use crate::cli::hand_out::{self, HandedOut};
use crate::cli::pushing::Pushing;
use crate::cli::{App, interruptible, refusal};
use clap::Args;

/// Run a command with a database of its own
///
/// Builds the template if it is missing, creates a clone, runs CMD against it, and releases the clone.
///
/// CMD sees the clone in DATABASE_URL, the PG variables, PGSTENCIL_URL and the variables of `[template.NAME.env]`
/// and `run_env`. It runs without a shell, in your current directory. The clone is dropped in the background when
/// CMD ends, unless `--keep` or `--keep-on-failure` says otherwise. pgstencil exits with CMD's exit code (128+n
/// for signal n), or with 4 if the build command failed.
///
/// Ctrl-C goes to CMD. On a terminal, three within two seconds end CMD (TERM, then KILL); without a terminal, the
/// second one does.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil run ./run-tests                        a database for this command\n  pgstencil run --clones 4 -- pytest -n 4          one for each worker: PGSTENCIL_URL_0 to _3\n  pgstencil run --keep-on-failure -- cargo test    keep it for inspection if a test fails"
)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) making: Making,
    /// Keep the clone, and print its URL
    #[arg(long)]
    pub(crate) keep: bool,
    /// Keep the clone if CMD fails, and print its URL
    #[arg(long, conflicts_with = "keep")]
    pub(crate) keep_on_failure: bool,
    /// Command with its arguments: begins at the first word that is not an option, or after `--`
    /// [default: your shell]
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// What the command needs, once its clones are there.
struct Prepared {
    stencil: Stencil,
    background: Background,
    leases: Leases,
    /// The clone, if the process of an earlier command handed it out and holds it.
    handed_out: Option<HandedOut>,
    /// Whether the clones have names that a person may ask for again.
    named: bool,
}

pub(crate) async fn run(app: &App, args: Run, signals: &mut Signals) -> Result<u8> {
    let here = app.here()?;
    let argv = match args.command.is_empty() {
        false => args.command,
        true => vec![app.env.get_os("SHELL").map_or_else(|| "sh".into(), OsString::from)],
    };
    let prepared = interruptible(app, signals, prepare(app, &args.making)).await?;
    let Prepared { stencil, mut background, mut leases, handed_out, named } = prepared;
    let stopped = |failed: bool| {
        let terminal = std::io::stdin().is_terminal();
        failed.then(|| refusal::of(&argv, &here, terminal)).flatten()
    };
    let mut job = Job::new(argv.clone(), here.clone());
    let shard = args.making.shard.map(|(index, count)| Shard { index, count });
    job.env = leases.variables_for_run(shard).await?;
    job.cleared = cleared(app);
    // Before the command, so that while it runs the next run's clone is created, and other runs' leftovers are
    // dropped.
    let (definition, provenance) = (leases.definition.clone(), leases.provenance.clone());
    // A process that handed the clone out knows of the request.
    if handed_out.is_none() {
        let request = clone::request(&definition, &provenance, leases.demand);
        let request = Request { command_follows: true, ..request };
        background.after_request(leases.session(), &request).await;
    }
    let bound = leases.bound_here().await;
    let pushing = Pushing::begin(app, &stencil, leases.session(), &definition, &provenance).await;
    leases.watch();
    app.printer.finish();
    // If this process is killed, the next request for the name must know whether the command still runs.
    let started = |started| {
        if named {
            leases.command(started);
        }
    };
    let ended = process::run_foreground(&job, signals, started).await;
    for warning in leases.unwatch().await? {
        app.printer.caution(&warning);
    }
    // A command that was not even started leaves nothing to inspect.
    let failed = ended.as_ref().is_ok_and(|status| !status.success());
    if let Some(reason) = stopped(failed) {
        app.printer.warn(reason);
    }
    match args.keep || (args.keep_on_failure && failed) {
        true => keep(app, &stencil, leases).await,
        false => give_back(app, &stencil, signals, leases, background).await,
    }
    pushing.finish(app).await;
    match handed_out.is_some_and(|clone| clone.has_bound) {
        true => prune::look(app, &stencil).await,
        false => prune::tell_of(app, &stencil, &bound).await,
    }
    clone::rebuild_later(&stencil, &definition, &provenance).await;
    code(ended?)
}

/// Gets the clones: from the process of an earlier command if there is one, else by itself.
async fn prepare(app: &App, making: &Making) -> Result<Prepared> {
    let stencil = app.stencil().await?.with_full_build(making.full_build);
    let mut wanted = clone::wanted(making, Term::Session)?;
    wanted.command = true;
    let named = !wanted.pattern.is_unique();
    let background = Background::new(&stencil);
    if clone::asks_for_one(making)
        && let Some((handed_out, mut leases)) = handed_out(app, &stencil, making)
    {
        if let Err(error) = clone::tell_handed_out(app, making, &handed_out) {
            if hand_out::release_held(&mut leases).await.is_none() {
                clone::unheard(&stencil, leases).await;
            }
            return Err(error);
        }
        return Ok(Prepared { stencil, background, leases, handed_out: Some(handed_out), named });
    }
    match clone::acquire(app, &stencil, making, &wanted).await {
        Ok(leases) => Ok(Prepared { stencil, background, leases, handed_out: None, named }),
        Err(error) => {
            background.finish(Task::CleanUp).await;
            Err(error)
        }
    }
}

/// Returns the variables that the command must not inherit. A run within a run must not see the numbered names of the
/// outer one.
fn cleared(app: &App) -> Vec<OsString> {
    let numbered = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("PGSTENCIL_NAME") || name.starts_with("PGSTENCIL_URL")
    };
    let outer = app.env.iter().map(|(name, _)| name).filter(|name| numbered(name));
    CLEARED.map(Into::into).into_iter().chain(outer.map(ToOwned::to_owned)).collect()
}

/// Keeps the clones. A failure is told, and is no error: the caller needs the command's own exit code.
async fn keep(app: &App, stencil: &Stencil, mut leases: Leases) {
    match leases.prolong(Term::Usual).await {
        Ok(()) => {
            tell_kept(app, stencil, &leases.clones);
            leases.leave().await;
        }
        Err(error) => app.printer.warn(&format!("could not keep the clone: {}", wire::chain(&error))),
    }
}

/// Releases the clones, and has them dropped. A failure is told, and is no error: the caller needs the command's own
/// exit code.
async fn give_back(
    app: &App,
    stencil: &Stencil,
    signals: &mut Signals,
    mut leases: Leases,
    background: Background,
) {
    if let Some(warnings) = hand_out::release_held(&mut leases).await {
        warnings.iter().for_each(|w| app.printer.caution(w));
        return;
    }
    match release(app, signals, leases).await {
        Ok(warnings) => warnings.iter().for_each(|w| app.printer.caution(w)),
        Err(error) => app.printer.warn(&format!(
            "could not release the clone ({}); the next command drops it",
            wire::chain(&error)
        )),
    }
    background.finish(Task::CleanUp).await;
    stencil.close().await;
}

/// Has a clone handed out, and held until this command ends; `None` if no process can.
fn handed_out(app: &App, stencil: &Stencil, making: &Making) -> Option<(HandedOut, Leases)> {
    let definition = making.which.template.as_deref();
    hand_out::request(app, stencil, definition, Term::Session)?.held(stencil)
}

/// A signal ends `before_release`; the clones are released all the same.
async fn release(app: &App, signals: &mut Signals, leases: Leases) -> Result<Vec<Warning>> {
    // The time that `--wait` bounds began before the command did.
    let deadline = Deadline::new(app.shared.wait, Default::default());
    let releasing = leases.release_within(&deadline);
    tokio::pin!(releasing);
    loop {
        tokio::select! {
            released = &mut releasing => return released,
            _ = signals.next() => deadline.cancel.cancel(),
        }
    }
}

/// Says where the clone is. Standard output belongs to the command.
fn tell_kept(app: &App, stencil: &Stencil, clones: &[ClonedSet]) {
    let names = words(clones.iter().map(|c| c.name()));
    app.printer.say(&format!("{} (`pgstencil release {names}`)", clone::until(clones)));
    for clone in clones {
        for database in &clone.databases {
            let url = stencil.endpoint().client_url(&database.name).reveal();
            app.printer.answer(&match clone.databases.len() {
                1 => url,
                _ => format!("{}={url}", database.alias),
            });
        }
    }
}

fn code(status: Status) -> Result<u8> {
    u8::try_from(status.code())
        .map_err(|_| Error::new(Kind::Internal, format!("{} is not an exit code", status.code())))
}
