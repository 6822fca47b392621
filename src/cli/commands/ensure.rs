//! `pgstencil ensure`

use crate::Result;
use crate::stencil::Demand;
use crate::wire::Answer;

use super::clone::{rebuild_later, waited};
use super::prune;
use crate::cli::args::Which;
use crate::cli::background::{Background, Request, Task};
use crate::cli::pushing::Pushing;
use crate::cli::{App, github};
use crate::quantity::seconds;
use clap::Args;

/// Build the template if it is missing
///
/// Creates no clone, and prints the fingerprint. The exit code is 4 if the build command failed, or if its result
/// cannot be kept as a template.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil ensure              build it before the tests start\n  pgstencil ensure --rebuild    replace an incrementally built template by a full build"
)]
pub(crate) struct Ensure {
    #[command(flatten)]
    pub(crate) which: Which,
    /// If the template is missing, run a full build instead of an incremental one
    #[arg(long)]
    pub(crate) full_build: bool,
    /// If the template is provisional, replace it by a full build now, and wait for that
    #[arg(long)]
    pub(crate) rebuild: bool,
}

pub(crate) async fn ensure(app: &App, args: Ensure) -> Result<u8> {
    let stencil = app.stencil().await?;
    let stencil = stencil.with_full_build(args.full_build);
    let name = stencil.definition(args.which.template.as_deref())?.name.clone();
    let mut background = Background::new(&stencil);
    let printer = app.printer.clone();
    let ensured = stencil
        .ensure_template(
            Some(&name),
            &app.deadline,
            &|event| printer.tell(&event),
            args.which.keep_failed_build,
            args.rebuild,
        )
        .await;
    app.printer.finish();
    let (mut registry, ensured) = match ensured {
        Ok(done) => done,
        Err(error) => {
            background.finish(Task::CleanUp).await;
            return Err(error);
        }
    };
    let provenance = &ensured.provenance;
    let took = ensured.timing.total();
    let fingerprint = &provenance.fingerprint;
    app.printer.say(&format!(
        "{} {name} ({}) in {}{}",
        provenance.outcome,
        fingerprint.short(),
        seconds(took),
        waited(ensured.timing.waited)
    ));
    github::report(
        &app.env,
        &github::Step {
            template: &name,
            fingerprint: &fingerprint.to_string(),
            outcome: provenance.outcome.as_str(),
            took,
            build_time: provenance.build_time,
        },
    )?;
    if app.printer.json() {
        app.printer.object(&Answer::of_template(&name, &ensured))?;
    } else {
        app.printer.data(&format!("{fingerprint}\n"))?;
    }
    let pushing = Pushing::begin(app, &stencil, Some(&mut registry), &name, provenance).await;
    // A user who runs `ensure` is about to request clones.
    let demand = Demand { announced: true, hit_ms: None };
    let request = Request { definition: &name, fingerprint, demand, command_follows: false };
    background.after_request(Some(&mut registry), &request).await;
    let bound = stencil.bound_here(&mut registry).await.unwrap_or_default();
    registry.close().await;
    pushing.finish(app).await;
    prune::tell_of(app, &stencil, &bound).await;
    rebuild_later(&stencil, &name, provenance).await;
    Ok(0)
}
