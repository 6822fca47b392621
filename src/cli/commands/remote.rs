//! `pgstencil push`, `pull` and `remote`

use crate::quantity::{age, count, seconds, size};
use crate::remote::Remote as Store;
use crate::stencil::{NotPulled, Pushed};
use crate::wire::{
    EntryAnswer, PullAnswer, PushAnswer, PushedAnswer, RemoteDoctorAnswer, RemoteListAnswer,
    RemotePruneAnswer, VERSION,
};
use crate::{Error, Kind, Result};

use crate::cli::args::digits;
use crate::cli::table::{Cell, Column, table};
use crate::cli::{App, escape};
use clap::{Args, Subcommand};
use std::time::Duration;

/// Push templates to the remote store
///
/// Commands push what they build by themselves, if `[remote] push` allows it. This command pushes templates that are
/// there already, under the same rules. The exit code is 1 if the store does not have a template afterwards.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil push                   the template of the current files\n  pgstencil push be819a32ef1e -t app"
)]
pub(crate) struct Push {
    /// Template definition to use [default: the only one]
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// The templates, by the first digits of their fingerprints [default: that of the current files]
    #[arg(value_name = "FINGERPRINT", value_parser = digits)]
    pub(crate) fingerprints: Vec<String>,
}

/// Pull a template from the remote store
///
/// Commands pull what they need by themselves, if a build would take longer. This command pulls a template in any case,
/// unless the server has it. The exit code is 6 if the store does not have the template, and 1 if it
/// cannot be used.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil pull                 the template of the current files\n  pgstencil pull be819a32ef1e    another one of the same definition"
)]
pub(crate) struct Pull {
    /// Template definition to use [default: the only one]
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// The template, by the first digits of its fingerprint [default: that of the current files]
    #[arg(value_name = "FINGERPRINT", value_parser = digits)]
    pub(crate) fingerprint: Option<String>,
}

/// `remote`
#[derive(Debug, Subcommand)]
pub(crate) enum Remote {
    /// List the project's templates in the remote store
    #[command(after_help = "Example:\n  pgstencil remote list")]
    List,
    /// Delete templates from the remote store that nothing uses
    ///
    /// Deletes those that were neither pushed nor pulled for `[remote] keep`, except for templates that are pinned on
    /// this server, and what interrupted pushes left.
    #[command(
        after_help = "Examples:\n  pgstencil remote prune --dry-run\n  pgstencil remote prune --idle 7d"
    )]
    Prune(RemotePrune),
    /// Check the remote store, and say what is read and written
    ///
    /// Where a push is allowed, writes a small object and deletes it. The exit code is 1 if there is a problem.
    #[command(after_help = "Example:\n  pgstencil remote doctor")]
    Doctor,
}

/// `remote prune`
#[derive(Args, Debug)]
pub(crate) struct RemotePrune {
    /// Delete nothing, only list
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Age since the last use, such as `7d` [default: `[remote] keep`]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) idle: Option<Duration>,
}

pub(crate) async fn push(app: &App, args: Push) -> Result<u8> {
    let stencil = app.stencil_asking_the_store().await?;
    let name = stencil.definition(args.template.as_deref())?.name.clone();
    let store = store_of(stencil.remote())?.place().to_owned();
    let printer = app.printer.clone();
    let wanted: Vec<Option<&str>> = match args.fingerprints.as_slice() {
        [] => vec![None],
        several => several.iter().map(|text| Some(text.as_str())).collect(),
    };
    let mut answer = PushAnswer { version: VERSION, store: store.clone(), templates: Vec::new() };
    for digits in wanted {
        let (fingerprint, pushed) =
            stencil.push(Some(&name), digits, &app.deadline, &|event| printer.tell(&event)).await?;
        let short = fingerprint.short();
        match &pushed {
            Pushed::Done(bytes) => {
                let bytes = size(i64::try_from(*bytes).unwrap_or(i64::MAX));
                app.printer.say(&format!("pushed template {name} ({short}) to {store} ({bytes})"));
            }
            Pushed::There => app.printer.say(&format!("{store} already has template {name} ({short})")),
            Pushed::Not(why) => app.printer.warn(&format!("nothing was pushed to {store}: {why}")),
        }
        answer.templates.push(PushedAnswer {
            template: name.clone(),
            fingerprint: fingerprint.to_string(),
            pushed: matches!(pushed, Pushed::Done(_)),
            stored: !matches!(pushed, Pushed::Not(_)),
            bytes: match pushed {
                Pushed::Done(bytes) => Some(bytes),
                _ => None,
            },
            reason: match pushed {
                Pushed::Not(why) => Some(why.to_string()),
                _ => None,
            },
        });
    }
    if app.printer.json() {
        app.printer.object(&answer)?;
    }
    Ok(u8::from(answer.templates.iter().any(|template| !template.stored)))
}

pub(crate) async fn pull(app: &App, args: Pull) -> Result<u8> {
    let stencil = app.stencil_asking_the_store().await?;
    let name = stencil.definition(args.template.as_deref())?.name.clone();
    let store = store_of(stencil.remote())?.place().to_owned();
    let printer = app.printer.clone();
    let pulled = stencil
        .pull(Some(&name), args.fingerprint.as_deref(), &app.deadline, &|event| printer.tell(&event))
        .await?;
    app.printer.finish();
    let missing = pulled.as_ref().is_err_and(|not| not.missing);
    let (fingerprint, done, reason) = match pulled {
        Ok((fingerprint, done)) => {
            if !done {
                let short = fingerprint.short();
                app.printer.say(&format!("nothing to pull: the server has template {name} ({short})"));
            }
            (Some(fingerprint), done, None)
        }
        Err(NotPulled { why, .. }) => {
            app.printer.warn(&format!("nothing was pulled from {store}: {why}"));
            (None, false, Some(why))
        }
    };
    let answer = PullAnswer {
        version: VERSION,
        store,
        template: name,
        fingerprint: fingerprint.map(|fingerprint| fingerprint.to_string()),
        pulled: done,
        reason,
    };
    match app.printer.json() {
        true => app.printer.object(&answer)?,
        false => {
            if let Some(fingerprint) = &answer.fingerprint {
                app.printer.data(&format!("{fingerprint}\n"))?;
            }
        }
    }
    Ok(match missing {
        true => Kind::NotFound.exit_code(),
        false => u8::from(answer.reason.is_some()),
    })
}

pub(crate) async fn remote(app: &App, args: Remote) -> Result<u8> {
    match args {
        Remote::List => list(app).await,
        Remote::Prune(args) => prune(app, &args).await,
        Remote::Doctor => doctor(app).await,
    }
}

fn store_of(store: Option<&Store>) -> Result<&Store> {
    store.ok_or_else(|| {
        Error::config("no remote store is set")
            .hint("set `url` in `[remote]`, such as `url = \"file:///mnt/templates\"`")
    })
}

fn failed(store: &Store, why: String) -> Error {
    Error::failed(format!("the store {} failed", store.place()))
        .detail(why)
        .hint("check it: `pgstencil remote doctor`")
}

const ENTRIES: [Column; 7] = [
    Column::broken("TEMPLATE", 8),
    Column::whole("FINGERPRINT"),
    Column::broken("SCOPE", 7).spare(1),
    Column::whole("SIZE"),
    Column::broken("BUILD", 6).spare(2),
    Column::broken("IDLE", 6),
    Column::broken("STATE", 8),
];

fn entries(app: &App, entries: &[EntryAnswer]) -> Result<()> {
    let rows: Vec<[Cell; 7]> = entries
        .iter()
        .map(|entry| {
            let state = match (&entry.reason, entry.provisional) {
                (Some(why), _) => format!("not usable: {why}"),
                (None, Some(true)) => "provisional".to_owned(),
                (None, _) if !entry.read => "not read here".to_owned(),
                (None, _) => "ready".to_owned(),
            };
            let build = entry.build_ms.map(|ms| seconds(Duration::from_millis(ms)));
            [
                entry.template.clone().into(),
                entry.fingerprint[..12].to_owned().into(),
                entry.scope.clone().into(),
                size(i64::try_from(entry.bytes).unwrap_or(i64::MAX)).into(),
                build.unwrap_or_else(|| "-".into()).into(),
                age(entry.idle_s as f64).into(),
                escape::line(&state).into_owned().into(),
            ]
        })
        .collect();
    app.printer.table(&table(&ENTRIES, &rows, app.printer.look()))
}

async fn list(app: &App) -> Result<u8> {
    let store = app.store()?;
    let store = store_of(store.as_ref())?;
    let found = store.entries().await.map_err(|why| failed(store, why))?;
    let answer = RemoteListAnswer::new(store.place(), &found);
    if app.printer.json() {
        app.printer.object(&answer)?;
    } else if answer.entries.is_empty() {
        app.printer.say(&format!("{} has no templates of this project", store.place()));
    } else {
        entries(app, &answer.entries)?;
    }
    Ok(0)
}

async fn prune(app: &App, args: &RemotePrune) -> Result<u8> {
    let store = app.store()?;
    let store = store_of(store.as_ref())?;
    // Without a server nothing is known to be pinned, and that must not delete a pinned template.
    let pinned = match app.stencil_for_reading().await? {
        Some(stencil) => stencil.pinned(&app.deadline).await?,
        None => Vec::new(),
    };
    let keep = args.idle.or(*app.config()?.remote.keep);
    let pruned = store.prune(&pinned, keep, args.dry_run).await.map_err(|why| failed(store, why))?;
    let answer = RemotePruneAnswer::new(store.place(), args.dry_run, &pruned);
    if app.printer.json() {
        app.printer.object(&answer)?;
        return Ok(0);
    }
    if !answer.entries.is_empty() {
        entries(app, &answer.entries)?;
    }
    let verb = if args.dry_run { "would delete" } else { "deleted" };
    app.printer.say(&format!(
        "{verb} {} and {} without an entry ({})",
        count(answer.entries.len(), "template"),
        count(answer.orphans, "object"),
        size(i64::try_from(answer.bytes).unwrap_or(i64::MAX))
    ));
    Ok(0)
}

async fn doctor(app: &App) -> Result<u8> {
    let stencil = app.stencil_for_reading().await?;
    let store = app.store()?;
    let store = store_of(store.as_ref())?;
    let findings = match &stencil {
        Some(stencil) => {
            let (major, superuser) = stencil.server_for_store(&app.deadline).await;
            stencil.examine_store(store, major, superuser, true).await
        }
        None => store.examine(true).await,
    };
    let answer = RemoteDoctorAnswer::new(store.place(), &findings);
    if app.printer.json() {
        app.printer.object(&answer)?;
    } else {
        let look = app.printer.look();
        for check in &answer.checks {
            let mut text = format!("{:<9}{}: {}\n", check.status, check.name, escape::line(&check.words));
            if let Some(hint) = &check.hint {
                text += &format!("         hint: {}\n", escape::line(hint));
            }
            app.printer.table(&look.wrap(&text))?;
        }
        app.printer.say(&format!(
            "{}, {}",
            count(answer.problems, "problem"),
            count(answer.warnings, "warning")
        ));
    }
    Ok(u8::from(answer.problems > 0))
}
