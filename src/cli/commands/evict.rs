//! `pgstencil evict`

use std::time::Duration;

use crate::stencil::Targets;
use crate::wire::{EvictAnswer, EvictedTemplate};
use crate::{Error, Result};

use super::{owed, prune};
use crate::cli::Session;
use crate::cli::args::Evict;
use crate::cli::confirm::{self, can_ask};
use crate::cli::escape;
use crate::quantity::{age, count, seconds, size};

pub(crate) async fn evict(session: &Session, args: Evict) -> Result<u8> {
    // Whose templates are all, says the config; the limits of every project are in the registry.
    if args.all && args.project.is_none() {
        session.config()?;
    }
    let Some(stencil) = session.stencil_for_reading().await? else {
        if session.printer.json() {
            session.printer.object(&EvictAnswer::from(&crate::stencil::EvictionPlan::default()))?;
        }
        return Ok(0);
    };
    let project = args.project.as_ref();
    let project = project.unwrap_or(&stencil.config().project).clone();
    let targets = match (args.all, args.templates) {
        (true, _) if args.project.is_some() => Targets::Project(project.clone()),
        (true, _) => Targets::All,
        (false, names) if names.is_empty() => Targets::Limits,
        (false, names) => Targets::Named(names),
    };
    let plan = stencil.plan_eviction(&targets, &session.deadline).await?;
    let answer = EvictAnswer::from(&plan);
    if args.dry_run {
        let code = print(session, &answer)?;
        prune::look(session, &stencil).await;
        return Ok(code);
    }
    if args.all && !args.yes && !answer.templates.is_empty() && !confirmed(session, &project, &answer)? {
        session.printer.say("nothing was done");
        return Ok(1);
    }
    let done = stencil.evict(plan, &session.deadline).await?;
    let code = print(session, &EvictAnswer::from(&done))?;
    owed::run(session, &stencil).await;
    prune::look(session, &stencil).await;
    Ok(code)
}

/// Asks a person; elsewhere `--yes` has to be given.
fn confirmed(session: &Session, project: &str, answer: &EvictAnswer) -> Result<bool> {
    let what = format!(
        "evict {} of project {project} ({})",
        match answer.templates.len() {
            1 => "the one template".to_owned(),
            n => format!("all {}", count(n, "template")),
        },
        size(answer.bytes)
    );
    if !can_ask(session) {
        return Err(Error::usage(format!("this would {what}, and nobody can be asked"))
            .hint("`--yes` says that it is meant; `--dry-run` shows what would go"));
    }
    confirm::confirmed(session, &what)
}

fn print(session: &Session, answer: &EvictAnswer) -> Result<u8> {
    let asked_in_vain = answer.templates.iter().any(|t| t.state == "in_use" && t.reason == "asked");
    let code = u8::from(asked_in_vain);
    if session.printer.json() {
        session.printer.object(answer)?;
        return Ok(code);
    }
    if answer.templates.is_empty() && answer.cleanup.is_empty() {
        session.printer.say(match answer.pinned.is_empty() {
            true => "nothing has to go",
            false => "nothing can go",
        });
        tell_what_stays(session, answer);
        return Ok(0);
    }
    let mut text = String::new();
    for template in &answer.templates {
        text += &line(template);
    }
    for done in &answer.cleanup {
        let would = if answer.dry_run { "would " } else { "" };
        text += &format!("{would}{}\n", escape::line(done));
    }
    session.printer.text(&text)?;
    if answer.bytes > 0 {
        let would = if answer.dry_run { "would be " } else { "" };
        session.printer.say(&format!("{} of templates {would}freed", size(answer.bytes)));
    }
    tell_what_stays(session, answer);
    Ok(code)
}

/// Names what pins and leases keep.
fn tell_what_stays(session: &Session, answer: &EvictAnswer) {
    let say = |words: String| session.printer.say(&words);
    if !answer.pinned.is_empty() {
        let short: Vec<&str> = answer.pinned.iter().map(|f| &f[..12]).collect();
        let short = short.join(" ");
        let what = match answer.pinned.len() {
            1 => format!("template {short} stays: it is"),
            n => format!("{n} templates stay: they are"),
        };
        say(format!("{what} pinned; `pgstencil unpin {short}` takes the pin away"));
    }
    if !answer.clones.is_empty() {
        let names = answer.clones.join(" ");
        let what = match answer.clones.len() {
            1 => format!("clone {names} stays: it is"),
            n => format!("{n} clones stay: they are"),
        };
        say(format!("{what} in use; `pgstencil release {names}` releases what is yours"));
    }
}

fn line(template: &EvictedTemplate) -> String {
    let what = format!(
        "template {} of {}/{}",
        &template.fingerprint[..12],
        escape::line(&template.project),
        escape::line(&template.template)
    );
    let facts = format!(
        "{}, idle for {}, {} to have again",
        size(template.bytes),
        age(template.idle_s as f64),
        seconds(Duration::from_millis(template.rebuild_ms.unsigned_abs()))
    );
    let why = match template.reason {
        "asked" => String::new(),
        rule => format!(" by `{rule}`"),
    };
    match template.state {
        "in_use" => format!("{what} stays: somebody is using it\n"),
        "gone_before" => format!("{what} was gone already\n"),
        "would_go" => format!("would evict {what}{why}: {facts}\n"),
        _ => format!("evicted {what}{why}: {facts}\n"),
    }
}
