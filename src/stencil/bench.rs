//! Measurement of copies, for callers.

use super::{Deadline, Stencil};
use crate::bench::{self, Bench};
use crate::error::Result;
use crate::events::Observe;
use crate::names::Fingerprint;

impl Stencil {
    /// Builds the definition's template if it is missing, and measures the cost of copying it by each strategy, in
    /// this number of rounds. The results are kept in the registry, and decide how `strategy = "auto"` copies
    /// databases of about this size. Creates one copy at a time, and drops it.
    ///
    /// # Errors
    /// As [`Stencil::ensure`], and the errors of [`bench::bench`].
    pub(crate) async fn bench(
        &self,
        definition: &str,
        rounds: usize,
        deadline: &Deadline,
        observe: Observe<'_>,
    ) -> Result<(Fingerprint, Bench)> {
        let (mut registry, ensured) =
            self.ensure_template(Some(definition), deadline, observe, false, false).await?;
        let definition = self.definition(Some(definition))?;
        let context = self.context(definition, deadline, observe, false);
        let template = &ensured.template;
        let measured = bench::bench(&mut registry, &context, template, rounds).await;
        registry.close().await;
        Ok((*template.fingerprint(), measured?))
    }
}
