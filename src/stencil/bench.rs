//! The measurement of copies, for callers.

use super::{Deadline, Stencil};
use crate::bench::{self, Bench};
use crate::error::Result;
use crate::events::Observe;
use crate::names::Fingerprint;

impl Stencil {
    /// Builds the definition's template if it is missing, and measures what copies of it cost by each
    /// strategy, in so many rounds. What it finds is kept in the registry, and decides how `strategy =
    /// "auto"` copies databases of about this size. Makes one copy at a time, and drops it.
    ///
    /// # Errors
    /// As [`Stencil::ensure`], and those of [`bench::bench`].
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
