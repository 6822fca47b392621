//! `pgstencil ensure`

use crate::Result;
use crate::stencil::Demand;
use crate::wire::Answer;

use super::clone::{settle_later, waited};
use super::prune;
use crate::cli::args::Ensure;
use crate::cli::background::{Background, Task};
use crate::cli::{Session, github};
use crate::quantity::seconds;

pub(crate) async fn ensure(session: &Session, args: Ensure) -> Result<u8> {
    let stencil = session.stencil().await?;
    let stencil = stencil.with_full_build(args.full_build);
    let name = stencil.definition(args.which.template.as_deref())?.name.clone();
    let background = Background::for_clones(&stencil);
    let printer = session.printer.clone();
    let ensured = stencil
        .ensure_template(
            Some(&name),
            &session.deadline,
            &|event| printer.tell(&event),
            args.which.keep_failed_build,
            args.rebuild,
        )
        .await;
    session.printer.finish();
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
    session.printer.say(&format!(
        "{} {name} ({}) in {}{}",
        provenance.outcome,
        fingerprint.short(),
        seconds(took),
        waited(ensured.timing.waited)
    ));
    github::report(
        &session.env,
        &github::Step {
            template: &name,
            fingerprint: &fingerprint.to_string(),
            outcome: provenance.outcome.as_str(),
            took,
            build_time: provenance.build_time,
        },
    )?;
    if session.printer.json() {
        session.printer.object(&Answer::of_template(&name, &ensured))?;
    } else {
        session.printer.data(&format!("{fingerprint}\n"))?;
    }
    // Whoever makes sure of a template is about to ask for clones.
    let fill = Task::Fill(&name, fingerprint, Demand::default());
    background.finish_with(Some(&mut registry), fill).await;
    let bound = stencil.bound_here(&mut registry).await.unwrap_or_default();
    registry.close().await;
    prune::tell_of(session, &stencil, &bound).await;
    settle_later(&stencil, &name, provenance).await;
    Ok(0)
}
