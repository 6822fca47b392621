//! The check-up, for callers.

use super::{Deadline, Stencil};
use crate::doctor::{self, Check, Patient};
use crate::error::Result;

impl Stencil {
    /// Looks at server, role, disk and registry; with `fix`, also fixes what can be fixed without
    /// harm. Without it nothing is written. What cannot be looked at is a check, too.
    ///
    /// # Errors
    /// Only of mending: the driver's.
    pub(crate) async fn doctor(&self, fix: bool, deadline: &Deadline) -> Result<Vec<Check>> {
        let patient = Patient {
            endpoint: &self.endpoint,
            registry: &self.config.server.registry,
            eviction: &self.config.eviction,
            strategy: self.config.clone.strategy,
            grace: *self.config.clone.orphan_grace,
            deadline,
        };
        let mut checks = doctor::examine(&patient).await;
        if fix {
            doctor::fix(&patient, &mut checks).await?;
            // Why it cannot be opened is a check already.
            if let Ok(Some(mut registry)) = self.open_existing(deadline).await {
                registry.note_command_in_checkout(&self.asker()).await?;
                registry.close().await;
            }
        }
        Ok(checks)
    }
}
