//! Outputs and the summary of a GitHub Actions step
//! (<https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>).

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::env::{self, Environment};
use crate::{Error, Result};

use crate::quantity::seconds;

/// What a step tells.
pub(super) struct Step<'a> {
    /// Name of the definition.
    pub(super) template: &'a str,
    /// 64 hex digits.
    pub(super) fingerprint: &'a str,
    /// How it came about.
    pub(super) outcome: &'a str,
    /// What it took, until the command could start.
    pub(super) took: Duration,
    /// What the build took, then or now, if known.
    pub(super) build_time: Option<Duration>,
}

/// Appends to the files that the runner names; without them does nothing.
pub(super) fn report(env: &Environment, step: &Step<'_>) -> Result<()> {
    if let Some(file) = env.path(env::GITHUB_OUTPUT) {
        append(&file, &format!("outcome={}\nfingerprint={}\n", step.outcome, step.fingerprint))?;
    }
    if let Some(file) = env.path(env::GITHUB_STEP_SUMMARY) {
        append(&file, &summary(step))?;
    }
    Ok(())
}

fn summary(step: &Step<'_>) -> String {
    let short = &step.fingerprint[..12];
    let mut text = format!(
        "**pgstencil** `{}` {} (`{short}`): ready after {}",
        step.template,
        step.outcome,
        seconds(step.took)
    );
    match step.build_time {
        Some(build)
            if matches!(step.outcome, "hit" | "reused" | "extended" | "pulled") && build > step.took =>
        {
            text +=
                &format!(", {} saved compared with a full build", seconds(build.saturating_sub(step.took)));
        }
        _ => {}
    }
    text + "\n"
}

fn append(file: &Path, text: &str) -> Result<()> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| Error::failed(format!("cannot write to {}", file.display())).caused_by(e))
}
