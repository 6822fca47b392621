//! `pgstencil clone`

use std::time::Duration;

use crate::events::Warning;
use crate::lease::ClonedSet;
use crate::names::NamePattern;
use crate::private_file;
use crate::stencil::{Demand, Leases, Provenance, Shard, Term, Wanted};
use crate::variables::Outcome;
use crate::wire::Answer;
use crate::{Error, Result, Stencil};

use super::prune;
use crate::cli::args::Making;
use crate::cli::background::{Background, Request, Task};
use crate::cli::hand_out::{self, HandOut, HandedOut};
use crate::cli::pushing::Pushing;
use crate::cli::{App, github};
use crate::quantity::{count, seconds, setting};
use clap::Args;

/// Create a clone that is kept, and print its URL
///
/// The clone is kept until its time is over (`--ttl`) or until `pgstencil release NAME`. A clone with a `--name`
/// belongs to this role, machine and checkout: the next `clone` with the same name returns the same database, and
/// `--fresh` creates it again. If another owner has the name, the exit code is 7.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  url=$(pgstencil clone)                  a database for 12 hours\n  pgstencil clone --name dev_{branch}     one for each branch; the same one the next time\n  pgstencil clone --name dev --fresh      create it again"
)]
pub(crate) struct CloneArgs {
    #[command(flatten)]
    pub(crate) making: Making,
    /// Create the clone again if one of this name exists
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Take a clone of this name over from its owner, with its data; with `--fresh` without its data and
    /// sessions
    #[arg(long)]
    pub(crate) take: bool,
    /// How long it is kept, such as `2h`, or `never` to keep it until it is released
    /// [default: as before; for a new one `[clone] ttl`, or `[clone] branch_ttl` if it is named by a local
    /// branch or a worktree]
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<String>,
}

pub(crate) async fn clone(app: &App, args: CloneArgs) -> Result<u8> {
    let stencil = app.stencil().await?;
    let stencil = stencil.with_full_build(args.making.full_build);
    let term = match args.ttl.as_deref() {
        None => Term::Usual,
        Some("never") => Term::Expiry(None),
        Some(text) => Term::Expiry(Some(parse_ttl(text)?)),
    };
    let mut wanted = wanted(&args.making, term)?;
    wanted.fresh = args.fresh;
    wanted.take = args.take;
    if is_plain(&args)
        && let Some(handed_out) =
            hand_out::request(app, &stencil, args.making.which.template.as_deref(), wanted.term)
    {
        return take(app, &stencil, &args.making, handed_out).await;
    }
    let mut background = Background::new(&stencil);
    let acquired = acquire(app, &stencil, &args.making, &wanted).await;
    // Whatever the result, some databases may have to be dropped.
    let mut leases = match acquired {
        Ok(leases) => leases,
        Err(error) => {
            background.finish(Task::CleanUp).await;
            return Err(error);
        }
    };
    if let Err(error) = print(app, &stencil, &leases) {
        unheard(&stencil, leases).await;
        background.finish(Task::CleanUp).await;
        return Err(error);
    }
    if let Err(error) = leases.confirm().await {
        let name = leases.clones.first().map_or("the clone", |c| c.name());
        app.printer.caution(&unconfirmed(&stencil, name, &error));
    }
    let (definition, provenance) = (leases.definition.clone(), leases.provenance.clone());
    let request = request(&definition, &provenance, leases.demand);
    background.after_request(leases.session(), &request).await;
    let bound = leases.bound_here().await;
    let pushing = Pushing::begin(app, &stencil, leases.session(), &definition, &provenance).await;
    leases.leave().await;
    pushing.finish(app).await;
    prune::tell_of(app, &stencil, &bound).await;
    rebuild_later(&stencil, &definition, &provenance).await;
    Ok(0)
}

/// Whether a new clone with a new name is all that is asked for.
fn is_plain(args: &CloneArgs) -> bool {
    !args.fresh && !args.take && asks_for_one(&args.making)
}

/// Whether nothing but one clone with a new name is asked for.
pub(crate) fn asks_for_one(making: &Making) -> bool {
    let Making { name, clones, shard, full_build, which, .. } = making;
    let special = *full_build || which.keep_failed_build || name.is_some() || shard.is_some();
    !special && usize::from(*clones) == 1
}

/// Prints a clone that the background process of an earlier command hands out.
async fn take(app: &App, stencil: &Stencil, making: &Making, handed_out: HandOut) -> Result<u8> {
    let clone = &handed_out.clone;
    tell_handed_out(app, making, clone)?;
    match app.printer.json() {
        true => app.printer.data(&format!("{}\n", clone.json))?,
        false => app.printer.data(&clone.urls)?,
    }
    let (name, has_bound) = (clone.held.name().to_owned(), clone.has_bound);
    if let Err(error) = handed_out.printed(stencil).await {
        app.printer.caution(&unconfirmed(stencil, &name, &error));
    }
    if has_bound {
        prune::look(app, stencil).await;
    }
    Ok(0)
}

/// Tells everybody who asked about a clone that the background process of an earlier command hands out.
pub(crate) fn tell_handed_out(app: &App, making: &Making, clone: &HandedOut) -> Result<()> {
    app.printer.say(&clone.said);
    if let Some(file) = &making.report {
        private_file::write_output(file, format!("{}\n", clone.json).as_bytes())?;
    }
    github::report(
        &app.env,
        &github::Step {
            template: &clone.held.definition,
            fingerprint: &clone.held.fingerprint,
            outcome: clone.outcome.as_str(),
            took: clone.held.took,
            build_time: clone.held.build_time,
        },
    )
}

fn unconfirmed(stencil: &Stencil, name: &str, error: &Error) -> Warning {
    let grace = setting(*stencil.config().clone.orphan_grace);
    Warning::new(format!("could not confirm the lease of {name}"))
        .detail(error.to_string())
        .detail(format!("the clone may be dropped {grace} from now"))
}

/// What the background process must know of a request for clones.
pub(crate) fn request<'a>(definition: &'a str, provenance: &'a Provenance, demand: Demand) -> Request<'a> {
    Request { definition, fingerprint: &provenance.fingerprint, demand, command_follows: false }
}

/// Starts the full build that replaces a provisional template, if that may be due, now that no caller waits.
pub(crate) async fn rebuild_later(stencil: &Stencil, definition: &str, provenance: &Provenance) {
    let (Ok(found), Some(provisional)) = (stencil.definition(Some(definition)), &provenance.provisional)
    else {
        return;
    };
    if provisional.is_due(found.rebuild) {
        let task = Task::Rebuild(definition, &provenance.fingerprint, provisional.uses());
        Background::new(stencil).finish(task).await;
    }
}

fn parse_ttl(text: &str) -> Result<Duration> {
    match humantime::parse_duration(text) {
        Ok(ttl) if !ttl.is_zero() && ttl <= Duration::from_secs(10 * 365 * 86_400) => Ok(ttl),
        Ok(ttl) if ttl.is_zero() => Err(Error::usage(format!("`--ttl {text}` must be longer than zero"))
            .hint("write it like `90s`, `2h` or `7d`, or `never`")),
        Ok(_) => Err(Error::usage(format!("`--ttl {text}` is more than ten years"))
            .hint("to keep a clone until it is released: `--ttl never`")),
        _ => Err(Error::usage(format!("`--ttl {text}` is not a duration"))
            .hint("write it like `90s`, `2h` or `7d`, up to ten years, or `never`")),
    }
}

/// What `clone` and `run` want in common.
pub(crate) fn wanted(making: &Making, term: Term) -> Result<Wanted> {
    let pattern: NamePattern = match &making.name {
        Some(text) => text.parse()?,
        None => NamePattern::default(),
    };
    Ok(Wanted {
        definition: making.which.template.clone(),
        count: usize::from(making.clones),
        pattern,
        shard: making.shard.map(|(index, count)| Shard { index, count }),
        term,
        fresh: false,
        take: false,
        command: false,
        keep_failed: making.which.keep_failed_build,
    })
}

/// Acquires, and tells everybody who asked: the report, GitHub, the terminal.
pub(crate) async fn acquire(
    app: &App,
    stencil: &Stencil,
    making: &Making,
    wanted: &Wanted,
) -> Result<Leases> {
    let printer = app.printer.clone();
    let leases = stencil.acquire(wanted, &app.deadline, &|event| printer.tell(&event)).await?;
    app.printer.finish();
    let took = leases.timing.total();
    app.printer.say(&said(&leases));
    if let Err(error) = report(app, stencil, making, &leases, took) {
        unheard(stencil, leases).await;
        return Err(error);
    }
    Ok(leases)
}

/// The line about clones that were obtained.
pub(crate) fn said(leases: &Leases) -> String {
    format!(
        "{} {} ({}), {} in {}{}; {}",
        leases.outcome(),
        leases.definition,
        fingerprints(leases),
        match leases.clones.as_slice() {
            [one] => format!("clone {}", one.name()),
            several => count(several.len(), "clone"),
        },
        seconds(leases.timing.total()),
        waited(leases.timing.waited),
        until(&leases.clones)
    )
}

/// What the clones were made from; that of the files, too, where it is another one.
fn fingerprints(leases: &Leases) -> String {
    let files = leases.fingerprint();
    match leases.clones.iter().find(|c| c.fingerprint != files) {
        Some(stale) => format!("{}; the files are {}", stale.fingerprint.short(), files.short()),
        None => files.short(),
    }
}

/// How much of a time was spent on waiting for a build, for the end of a sentence.
pub(crate) fn waited(time: Duration) -> String {
    match time.is_zero() {
        true => String::new(),
        false => format!(", {} of it waiting for another build", seconds(time)),
    }
}

/// Until when clones are kept; of several, until the first ends.
pub(crate) fn until(clones: &[ClonedSet]) -> String {
    if clones.iter().any(|clone| clone.by_session) {
        return "kept until the command ends".into();
    }
    let ending = clones.iter().filter_map(|clone| Some((clone, clone.expires_at.as_ref()?)));
    let Some((clone, at)) = ending.min_by_key(|(_, at)| *at) else {
        return "kept until it is released".into();
    };
    match clone.bound.describe() {
        None => format!("kept until {at}"),
        Some(bound) => {
            format!("kept while {bound}, until {at} if no command runs in this checkout before")
        }
    }
}

/// Gives clones back of which nobody learns; one that was there before stays its holder's.
pub(crate) async fn unheard(stencil: &Stencil, leases: Leases) {
    if leases.outcome() != Outcome::Reused {
        let _ = leases.release().await;
        stencil.close().await;
    }
}

fn report(app: &App, stencil: &Stencil, making: &Making, leases: &Leases, took: Duration) -> Result<()> {
    if let Some(file) = &making.report {
        let answer = Answer::of_clones(leases, stencil.endpoint());
        let text =
            serde_json::to_string(&answer).map_err(|e| Error::internal("cannot write JSON").caused_by(e))?;
        // The file contains URLs with passwords.
        private_file::write_output(file, (text + "\n").as_bytes())?;
    }
    // An existing clone may be of other files.
    let handed_out = leases.clones.first().map(|clone| clone.fingerprint);
    github::report(
        &app.env,
        &github::Step {
            template: &leases.definition,
            fingerprint: &handed_out.unwrap_or(leases.fingerprint()).to_string(),
            outcome: leases.outcome().as_str(),
            took,
            build_time: leases.provenance.build_time,
        },
    )
}

pub(crate) fn print(app: &App, stencil: &Stencil, leases: &Leases) -> Result<()> {
    match app.printer.json() {
        true => app.printer.object(&Answer::of_clones(leases, stencil.endpoint())),
        false => app.printer.data(&urls(stencil, leases)),
    }
}

/// One URL a line; a set as `ROLE=URL` lines.
pub(crate) fn urls(stencil: &Stencil, leases: &Leases) -> String {
    let mut text = String::new();
    for clone in &leases.clones {
        for database in &clone.databases {
            let url = stencil.endpoint().client_url(&database.name).reveal();
            match clone.databases.len() {
                1 => text += &format!("{url}\n"),
                _ => text += &format!("{}={url}\n", database.alias),
            }
        }
    }
    text
}
