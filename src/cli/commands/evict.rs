//! `pgstencil evict`

use std::time::Duration;

use crate::names::words;
use crate::stencil::Targets;
use crate::wire::{EvictAnswer, EvictedTemplate};
use crate::{Error, Result};

use super::{owed, prune};
use crate::cli::App;
use crate::cli::args::digits;
use crate::cli::confirm::{self, can_ask};
use crate::cli::escape;
use crate::quantity::{age, count, seconds, size};
use clap::Args;

/// Evict templates that exceed the limits, or the given ones
///
/// Also cleans up what ended commands left. Templates that are pinned or in use are kept.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil evict --dry-run                     the templates over the limits\n  pgstencil evict be819a32ef1e                  one template\n  pgstencil evict --all --project shop --yes    all templates of project shop"
)]
pub(crate) struct Evict {
    /// Fingerprints, or their first digits [default: the templates over the limits of their projects]
    #[arg(value_name = "FINGERPRINT", conflicts_with = "all", value_parser = digits)]
    pub(crate) templates: Vec<String>,
    /// All templates of this project that are not pinned; asks on a terminal
    #[arg(long)]
    pub(crate) all: bool,
    /// With `--all`: of this project, of those that share the registry [default: that of the config]
    #[arg(long, value_name = "NAME", requires = "all")]
    pub(crate) project: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Show the templates that would be evicted, and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

pub(crate) async fn evict(app: &App, args: Evict) -> Result<u8> {
    // The config names the project; the limits of every project are in the registry.
    if args.all && args.project.is_none() {
        app.config()?;
    }
    let Some(stencil) = app.stencil_for_reading().await? else {
        if app.printer.json() {
            app.printer.object(&EvictAnswer::from(&crate::stencil::EvictionPlan::default()))?;
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
    let plan = stencil.plan_eviction(&targets, &app.deadline).await?;
    let answer = EvictAnswer::from(&plan);
    if args.dry_run {
        let code = print(app, &answer)?;
        prune::look(app, &stencil).await;
        return Ok(code);
    }
    if args.all && !args.yes && !answer.templates.is_empty() && !confirmed(app, &project, &answer)? {
        app.printer.say("nothing was done");
        return Ok(1);
    }
    let done = stencil.evict(plan, &app.deadline).await?;
    let code = print(app, &EvictAnswer::from(&done))?;
    owed::run(app, &stencil).await;
    prune::look(app, &stencil).await;
    Ok(code)
}

/// Asks a person; elsewhere `--yes` has to be given.
fn confirmed(app: &App, project: &str, answer: &EvictAnswer) -> Result<bool> {
    let what = format!(
        "evict {} of project {project} ({})",
        match answer.templates.len() {
            1 => "the only template".to_owned(),
            n => format!("all {}", count(n, "template")),
        },
        size(answer.bytes)
    );
    if !can_ask(app) {
        return Err(Error::usage("`evict --all` needs confirmation, and there is no terminal")
            .detail(format!("it would {what}"))
            .hint("pass `--yes` to confirm, or `--dry-run` to preview"));
    }
    confirm::confirmed(app, &what)
}

fn print(app: &App, answer: &EvictAnswer) -> Result<u8> {
    let asked_in_vain = answer.templates.iter().any(|t| t.state == "in_use" && t.reason == "asked");
    let code = u8::from(asked_in_vain);
    if app.printer.json() {
        app.printer.object(answer)?;
        return Ok(code);
    }
    if answer.templates.is_empty() && answer.cleanup.is_empty() {
        app.printer.say(match answer.pinned.is_empty() {
            true => "no templates to evict",
            false => "no template can be evicted",
        });
        tell_what_stays(app, answer);
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
    app.printer.text(&text)?;
    if answer.bytes > 0 {
        let would = if answer.dry_run { "would be " } else { "" };
        app.printer.say(&format!("{} of templates {would}freed", size(answer.bytes)));
    }
    tell_what_stays(app, answer);
    Ok(code)
}

/// Names what pins and leases keep.
fn tell_what_stays(app: &App, answer: &EvictAnswer) {
    let say = |words: String| app.printer.say(&words);
    if !answer.pinned.is_empty() {
        let short: Vec<&str> = answer.pinned.iter().map(|f| &f[..12]).collect();
        let short = short.join(" ");
        let what = match answer.pinned.len() {
            1 => format!("template {short} is kept, since it is"),
            n => format!("{n} templates are kept, since they are"),
        };
        say(format!("{what} pinned (`pgstencil unpin {short}`)"));
    }
    if !answer.clones.is_empty() {
        let names = answer.clones.join(" ");
        let words = words(answer.clones.iter().map(String::as_str));
        let what = match answer.clones.len() {
            1 => format!("clone {names} is kept, since it is"),
            n => format!("{n} clones are kept, since they are"),
        };
        say(format!("{what} in use (`pgstencil release {words}`)"));
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
        "{}, idle for {}, {} to rebuild",
        size(template.bytes),
        age(template.idle_s as f64),
        seconds(Duration::from_millis(template.rebuild_ms.unsigned_abs()))
    );
    let why = match template.reason {
        "asked" => String::new(),
        rule => format!(" by `{rule}`"),
    };
    match template.state {
        "in_use" => format!("{what} is kept, since it is in use\n"),
        "gone_before" => format!("{what} no longer exists\n"),
        "would_go" => format!("would evict {what}{why}: {facts}\n"),
        _ => format!("evicted {what}{why}: {facts}\n"),
    }
}
