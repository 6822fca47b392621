//! Full builds that verify or replace the result of an incremental build.

use std::time::{Duration, Instant};

use super::{Deadline, Stencil};
use crate::context::Context;
use crate::error::Result;
use crate::events::Observe;
use crate::registry::Registry;
use crate::template::{self, Ensured, Rebuilt, Timing, Verdict};
use crate::variables::Outcome;

impl Stencil {
    /// Replaces the template of the current inputs by a full build if it is provisional and due, or accepts it; does
    /// nothing if another process is already doing so. `uses`: number of its uses that the caller knows of.
    /// `patience`: time to wait for an idle machine.
    ///
    /// # Errors
    /// As [`template::rebuild_when_due()`].
    pub(crate) async fn rebuild_template(
        &self,
        definition: &str,
        uses: u64,
        patience: Duration,
        deadline: &Deadline,
    ) -> Result<Rebuilt> {
        self.refuse_untrusted("built")?;
        let definition = self.definition(Some(definition))?;
        let context = self.context(definition, deadline, &|_| {}, false);
        let mut registry = self.open_registry(deadline).await?;
        let rebuilt = template::rebuild_when_due(&mut registry, &context, uses, patience).await;
        registry.close().await;
        rebuilt
    }

    /// Runs a full build of the current inputs next to their template and compares the two; with `rows` also the
    /// contents of their rows. With `replace`, the new one replaces the template.
    ///
    /// # Errors
    /// As [`template::verify()`].
    pub(crate) async fn verify(
        &self,
        definition: Option<&str>,
        deadline: &Deadline,
        observe: Observe<'_>,
        replace: bool,
        rows: bool,
        keep_failed: bool,
    ) -> Result<Verdict> {
        self.refuse_untrusted("built")?;
        let definition = self.definition(definition)?;
        let context = self.context(definition, deadline, observe, keep_failed);
        let mut registry = self.open_registry(deadline).await?;
        registry.note_command_in_checkout(&self.asker()).await?;
        let verdict = template::verify(&mut registry, &context, replace, rows).await;
        if let Ok(verdict) = &verdict {
            let name = &context.definition.name;
            let mut findings = registry.findings(context.project, name).await?;
            // The caller of the comparison already gets this finding.
            findings.retain(|f| f.fingerprint != verdict.fingerprint);
            template::tell_findings(&context, &findings);
        }
        registry.close().await;
        verdict
    }
}

/// Rebuilds a template that was just ensured; the result describes the template that replaced it.
pub(super) async fn rebuild_first(
    registry: &mut Registry,
    context: &Context<'_>,
    first: Ensured,
) -> Result<Ensured> {
    let started = Instant::now();
    first.template.let_go(registry).await?;
    let rebuilt = template::rebuild(registry, context, true).await?;
    let changes = match &rebuilt {
        Rebuilt::Superseded => Some(&[][..]),
        Rebuilt::Overtaken(changes) => Some(changes.as_slice()),
        Rebuilt::Nothing | Rebuilt::Replaced | Rebuilt::Taken | Rebuilt::Accepted | Rebuilt::Waits => None,
    };
    if let Some(changes) = changes {
        return Err(template::changed(&context.definition.name, "the full build", changes));
    }
    let mut second = template::ensure(registry, context, None).await?;
    second.provenance.outcome = match (first.provenance.outcome, rebuilt) {
        // A full build of the existing template has just run.
        (Outcome::Hit, Rebuilt::Replaced) => Outcome::Miss,
        (outcome, _) => outcome,
    };
    second.provenance.note = first.provenance.note;
    second.timing = Timing {
        template: first.timing.template + started.elapsed(),
        waited: first.timing.waited + second.timing.waited,
        ..first.timing
    };
    Ok(second)
}
