//! `pgstencil prune`

use crate::quantity::digits;
use crate::stencil::{BoundRow, PrunePlan};
use crate::wire::{BoundAnswer, PruneAnswer, PrunedClone};
use crate::{Result, Stencil};

use super::owed;
use crate::cli::args::Prune;
use crate::cli::background::{Background, Task};
use crate::cli::{Session, escape};

pub(crate) async fn prune(session: &Session, args: Prune) -> Result<u8> {
    let Some(stencil) = session.stencil_for_reading().await? else {
        session.printer.say("the private server does not run; `pgstencil server start` starts it");
        if session.printer.json() {
            let nothing = PruneAnswer::planned(&PrunePlan::default());
            session.printer.object(&nothing)?;
        }
        return Ok(0);
    };
    let mut plan = stencil.plan_prune(&session.deadline).await?;
    for warning in &plan.warnings {
        session.printer.warn(warning);
    }
    let answer = match args.dry_run {
        true => PruneAnswer::planned(&plan),
        false => {
            let warnings = std::mem::take(&mut plan.warnings);
            let done = stencil.prune(plan, &session.deadline).await;
            owed::run(session, &stencil).await;
            // Those before an error are released, too.
            Background::new(&stencil).finish(Task::CleanUp).await;
            PruneAnswer::done(&done?, warnings)
        }
    };
    stencil.close().await;
    if session.printer.json() {
        session.printer.object(&answer)?;
        return Ok(0);
    }
    if answer.clones.is_empty() && answer.warnings.is_empty() {
        session.printer.say("no clones to prune");
    }
    let text: String = answer.clones.iter().map(line).collect();
    session.printer.text(&text)?;
    Ok(0)
}

fn line(clone: &PrunedClone) -> String {
    let name = &clone.name;
    let gone = clone.gone.as_ref().map(what).unwrap_or_default();
    let line = match (clone.state, &clone.reason) {
        ("in_use", Some(who)) => format!("clone {name} stays: {who} ({gone} is gone)"),
        ("gone_before", _) => format!("clone {name} was released already"),
        ("would_go", _) => format!("would release clone {name}: {gone} is gone"),
        _ => format!("released clone {name}: {gone} is gone"),
    };
    format!("{}\n", escape::line(&line))
}

fn what(gone: &BoundAnswer) -> String {
    let branch = gone.branch.iter().map(|name| format!("branch `{name}`"));
    let worktree = gone.worktree.iter();
    let worktree = worktree.map(|name| format!("worktree `{name}`"));
    branch.chain(worktree).collect::<Vec<_>>().join(" and ")
}

/// Says how many clones `prune` would release.
pub(crate) fn tell(session: &Session, number: usize) {
    let clones = match number {
        0 => return,
        1 => "1 clone of this repository has outlived its".to_owned(),
        n => format!("{} of this repository have outlived their", digits(n, "clone")),
    };
    session
        .printer
        .say(&format!("{clones} branch or worktree: `pgstencil prune` releases what is not in use"));
}

/// [`tell`] of clones that the session of a command knows.
pub(crate) async fn tell_of(session: &Session, stencil: &Stencil, bound: &[BoundRow]) {
    // With `-q` nobody would read it.
    if !session.printer.is_quiet() {
        tell(session, stencil.count_prunable(bound).await);
    }
}

/// [`tell`] after a command that has no session left. Never a reason to fail.
pub(crate) async fn look(session: &Session, stencil: &Stencil) {
    if !session.printer.is_quiet()
        && let Ok(count) = stencil.look_for_prunable(&session.deadline).await
    {
        stencil.close().await;
        tell(session, count);
    }
}
