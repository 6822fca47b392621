//! `pgstencil run`

use std::ffi::OsString;
use std::io::IsTerminal as _;

use crate::lease::ClonedSet;
use crate::process::{self, Job, Signals, Status};
use crate::stencil::{Deadline, Registry, Shard, Term};
use crate::variables::CLEARED;
use crate::{Error, Kind, Result, Stencil, wire};

use super::{clone, prune};
use crate::cli::args::Run;
use crate::cli::background::Ahead;
use crate::cli::{Session, interruptible, refusal};

pub(crate) async fn run(session: &Session, args: Run, signals: &mut Signals) -> Result<u8> {
    let here = session.here()?;
    let argv = match args.command.is_empty() {
        false => args.command,
        true => vec![session.env.get_os("SHELL").map_or_else(|| "sh".into(), OsString::from)],
    };
    let prepare = async {
        let stencil = session.stencil().await?;
        let stencil = stencil.with_full_build(args.making.full_build);
        let mut wanted = clone::wanted(&args.making, Term::Session)?;
        wanted.command = true;
        let named = !wanted.pattern.is_unique();
        let mut background = Ahead::start(&stencil);
        let acquired = clone::acquire(session, &stencil, &args.making, &wanted).await;
        if acquired.is_err() {
            background.sweep(&stencil).await;
        }
        Ok((stencil, background, acquired?, named))
    };
    let (stencil, mut background, mut acquired, named) = interruptible(session, signals, prepare).await?;
    let stopped = |failed: bool| {
        let terminal = std::io::stdin().is_terminal();
        failed.then(|| refusal::of(&argv, &here, terminal)).flatten()
    };
    let mut job = Job::new(argv.clone(), here.clone());
    job.env = stencil.variables(&acquired, args.making.shard.map(|(index, count)| Shard { index, count }))?;
    job.cleared = CLEARED.map(Into::into).to_vec();
    // A run within a run must not see the numbered names of the outer one.
    let outer = session.env.iter().map(|(name, _)| name.to_owned());
    job.cleared.extend(outer.filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("PGSTENCIL_NAME") || name.starts_with("PGSTENCIL_URL")
    }));
    // Before the command, so that while it runs the next one's clone is made, and a leftover of others
    // goes.
    let (definition, fingerprint) = (&acquired.definition, &acquired.fingerprint);
    let (registry, demand) = (&mut acquired.registry, acquired.demand);
    background.go_on(&stencil, registry, definition, fingerprint, demand).await;
    let bound = stencil.bound_here(registry).await.unwrap_or_default();
    let mut keeper = stencil.keep(acquired.registry, &acquired.clones);
    session.printer.finish();
    // Who asks for the name, if we are killed, must know whether the command goes on.
    let started = |started| {
        if named {
            keeper.command(started);
        }
    };
    let ended = process::run_foreground(&job, signals, started).await;
    let kept = keeper.stop().await?;
    for warning in &kept.warnings {
        session.printer.warn(warning);
    }
    // A command that was not even started leaves nothing to look at.
    let failed = ended.as_ref().is_ok_and(|status| !status.success());
    let keep = args.keep || (args.keep_on_failure && failed);
    if let Some(reason) = stopped(failed) {
        session.printer.warn(reason);
    }
    // What became of the others has been said.
    let mut clones = acquired.clones;
    clones.retain(|clone| !kept.lost.contains(&clone.id));
    // Whatever happens here, the command's own exit code is what the caller wants.
    if keep {
        match stencil.prolong(kept.registry, &mut clones).await {
            Ok(()) => tell_kept(session, &stencil, &clones),
            Err(error) => session.printer.warn(&format!("could not keep the clone: {}", chain(&error))),
        }
    } else {
        let mut sweeper = Ahead::start_anyway(&stencil);
        match give_back(session, signals, &stencil, kept.registry, &clones).await {
            Ok(warnings) => warnings.iter().for_each(|w| session.printer.warn(w)),
            Err(error) => session
                .printer
                .warn(&format!("could not release the clone ({}); the next command drops it", chain(&error))),
        }
        sweeper.sweep(&stencil).await;
        stencil.close().await;
    }
    prune::tell_of(session, &stencil, &bound).await;
    let provisional = acquired.provisional.as_ref();
    clone::settle_later(&stencil, definition, fingerprint, provisional);
    code(ended?)
}

/// A signal ends `before_release`; the clones are released all the same.
async fn give_back(
    session: &Session,
    signals: &mut Signals,
    stencil: &Stencil,
    registry: Option<Registry>,
    clones: &[ClonedSet],
) -> Result<Vec<String>> {
    // What `--wait` bounds began before the command did.
    let deadline = Deadline::new(session.shared.wait, Default::default());
    let giving = stencil.give_back_within(registry, clones, &deadline);
    tokio::pin!(giving);
    loop {
        tokio::select! {
            given = &mut giving => return given,
            _ = signals.next() => deadline.cancel.cancel(),
        }
    }
}

/// Says where the clone is. Standard output belongs to the command.
fn tell_kept(session: &Session, stencil: &Stencil, clones: &[ClonedSet]) {
    let names: Vec<&str> = clones.iter().map(|c| c.name()).collect();
    session.printer.say(&format!(
        "{}; `pgstencil release {}` gives it back",
        clone::until(clones),
        names.join(" ")
    ));
    for clone in clones {
        for database in &clone.databases {
            let url = stencil.endpoint().client_url(&database.name).reveal();
            session.printer.answer(&match clone.databases.len() {
                1 => url,
                _ => format!("{}={url}", database.alias),
            });
        }
    }
}

fn chain(error: &Error) -> String {
    let causes = wire::causes(error);
    std::iter::once(error.to_string()).chain(causes).collect::<Vec<_>>().join(": ")
}

fn code(status: Status) -> Result<u8> {
    u8::try_from(status.code())
        .map_err(|_| Error::new(Kind::Internal, format!("exit code {} is none", status.code())))
}
