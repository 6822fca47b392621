//! `pgstencil ci`

use crate::wire::{CiAnswer, VERSION};
use crate::{Error, Result};

use crate::cli::App;
use crate::env;
use clap::{Args, ValueEnum};

/// Print a CI job for this project
///
/// With `hosted`, the templates travel in a file in the CI's cache; with `service-container`, too, and a Postgres in a
/// container next to each job restores them (GitHub and GitLab); with `self-hosted`, they stay on a Postgres that keeps
/// running; with `remote`, several servers share templates through a store. Without `--case`, a `[remote] url` means
/// remote, and else a named server self-hosted.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  pgstencil ci github --case hosted > .github/workflows/test.yml\n  pgstencil ci github --case service-container\n  pgstencil ci gitlab --case self-hosted\n  pgstencil ci buildkite --case remote"
)]
pub(crate) struct Ci {
    /// The CI system
    #[arg(value_name = "SYSTEM")]
    pub(crate) system: System,
    /// Machines or servers that start empty, that keep running, or that share a store
    #[arg(long, value_name = "CASE")]
    pub(crate) case: Option<Case>,
}

/// A CI system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// GitHub Actions
    Github,
    /// GitLab CI
    Gitlab,
    /// Buildkite
    Buildkite,
}

/// Where the jobs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// On machines that start empty
    Hosted,
    /// Next to a Postgres each, with a store of templates that all share
    Remote,
    /// Next to a Postgres that keeps running
    SelfHosted,
    /// Next to a Postgres in a container, which starts empty with each job
    ServiceContainer,
}

/// The jobs are the files in `examples`, whose steps a test runs.
fn job(system: System, case: Case) -> Result<&'static str> {
    Ok(match (system, case) {
        (System::Github, Case::Hosted) => include_str!("../../../examples/github-actions/hosted.yml"),
        (System::Github, Case::Remote) => include_str!("../../../examples/github-actions/remote.yml"),
        (System::Github, Case::SelfHosted) => include_str!("../../../examples/github-actions/workflow.yml"),
        (System::Gitlab, Case::Hosted) => include_str!("../../../examples/gitlab-ci/hosted.yml"),
        (System::Gitlab, Case::Remote) => include_str!("../../../examples/gitlab-ci/remote.yml"),
        (System::Gitlab, Case::SelfHosted) => include_str!("../../../examples/gitlab-ci/self-hosted.yml"),
        (System::Buildkite, Case::Hosted) => include_str!("../../../examples/buildkite/hosted.yml"),
        (System::Buildkite, Case::Remote) => include_str!("../../../examples/buildkite/remote.yml"),
        (System::Buildkite, Case::SelfHosted) => include_str!("../../../examples/buildkite/self-hosted.yml"),
        (System::Github, Case::ServiceContainer) => {
            include_str!("../../../examples/github-actions/service-container.yml")
        }
        (System::Gitlab, Case::ServiceContainer) => {
            include_str!("../../../examples/gitlab-ci/service-container.yml")
        }
        (System::Buildkite, Case::ServiceContainer) => {
            return Err(Error::usage("Buildkite has no service containers")
                .hint("a Postgres that your step starts, such as by docker compose: use the commands of `pgstencil ci gitlab --case service-container`"));
        }
    })
}

fn file(system: System) -> &'static str {
    match system {
        System::Github => ".github/workflows/test.yml",
        System::Gitlab => ".gitlab-ci.yml",
        System::Buildkite => ".buildkite/pipeline.yml",
    }
}

pub(crate) fn ci(app: &App, args: &Ci) -> Result<u8> {
    let case = match args.case {
        Some(case) => case,
        None => find(app)?,
    };
    let (text, file) = (job(args.system, case)?, file(args.system));
    app.printer.say(&format!("for {file}; put your own command in the place of ./test.sh"));
    if app.printer.json() {
        let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        app.printer.object(&CiAnswer {
            version: VERSION,
            system: name(&|| args.system.to_possible_value()),
            case: name(&|| case.to_possible_value()),
            file: file.to_owned(),
            text: text.to_owned(),
        })?;
    } else {
        app.printer.data(text)?;
    }
    Ok(0)
}

/// Tells the case by the server, and by what GitHub's runners say of themselves.
fn find(app: &App) -> Result<Case> {
    let config = app.config_or_defaults()?;
    if config.remote.url.is_some() {
        return Ok(Case::Remote);
    }
    if !app.uses_private_server(&config) {
        return Ok(Case::SelfHosted);
    }
    match app.env.non_empty(env::RUNNER_ENVIRONMENT) {
        Some("github-hosted") => Ok(Case::Hosted),
        Some("self-hosted") => Ok(Case::SelfHosted),
        _ => Err(Error::usage("cannot tell whether the jobs start on empty machines")
            .detail("no server is named, and the private server works in both cases")
            .hint("machines that start empty: `--case hosted`")
            .hint("machines that keep running: `--case self-hosted`")),
    }
}
