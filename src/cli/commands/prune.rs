//! `pgstencil prune`

use crate::quantity::digits;
use crate::stencil::{BoundRow, PrunePlan};
use crate::wire::{BoundAnswer, PruneAnswer, PrunedClone};
use crate::{Result, Stencil};

use super::owed;
use crate::cli::background::{Background, Task};
use crate::cli::{App, escape, target};
use clap::Args;

/// Release the clones of branches and worktrees that are gone
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  git branch -d done && pgstencil prune\n  pgstencil prune --dry-run")]
pub(crate) struct Prune {
    /// Show what would be released, and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

pub(crate) async fn prune(app: &App, args: Prune) -> Result<u8> {
    let Some(stencil) = app.stencil_for_reading().await? else {
        app.printer.say(target::NOT_RUNNING);
        if app.printer.json() {
            let nothing = PruneAnswer::planned(&PrunePlan::default());
            app.printer.object(&nothing)?;
        }
        return Ok(0);
    };
    let mut plan = stencil.plan_prune(&app.deadline).await?;
    for warning in &plan.warnings {
        app.printer.caution(warning);
    }
    let answer = match args.dry_run {
        true => PruneAnswer::planned(&plan),
        false => {
            let warnings = std::mem::take(&mut plan.warnings);
            let done = stencil.prune(plan, &app.deadline).await;
            owed::run(app, &stencil).await;
            // Clones before an error are released, too.
            Background::new(&stencil).finish(Task::CleanUp).await;
            PruneAnswer::done(&done?, &warnings)
        }
    };
    stencil.close().await;
    if app.printer.json() {
        app.printer.object(&answer)?;
        return Ok(0);
    }
    if answer.clones.is_empty() && answer.warnings.is_empty() {
        app.printer.say("no clones to prune");
    }
    let text: String = answer.clones.iter().map(line).collect();
    app.printer.text(&text)?;
    Ok(0)
}

fn line(clone: &PrunedClone) -> String {
    let name = &clone.name;
    let gone = clone.gone.as_ref().map(what).unwrap_or_default();
    let line = match (clone.state, &clone.reason) {
        ("in_use", Some(who)) => format!("clone {name} is kept, since {who} ({gone} is gone)"),
        ("gone_before", _) => format!("clone {name} was already released"),
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
pub(crate) fn tell(app: &App, number: usize) {
    let clones = match number {
        0 => return,
        1 => "1 clone of this repository has outlived its".to_owned(),
        n => format!("{} of this repository have outlived their", digits(n, "clone")),
    };
    app.printer.say(&format!("{clones} branch or worktree (`pgstencil prune` releases unused clones)"));
}

/// [`tell`] of clones that the session of a command knows.
pub(crate) async fn tell_of(app: &App, stencil: &Stencil, bound: &[BoundRow]) {
    // With `-q` the output would not be read.
    if !app.printer.is_quiet() {
        tell(app, stencil.count_prunable(bound).await);
    }
}

/// [`tell`] after a command that has no session left. Never a reason to fail.
pub(crate) async fn look(app: &App, stencil: &Stencil) {
    if !app.printer.is_quiet()
        && let Ok(count) = stencil.look_for_prunable(&app.deadline).await
    {
        stencil.close().await;
        tell(app, count);
    }
}
