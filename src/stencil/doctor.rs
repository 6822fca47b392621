//! Checks of the server, for callers.

use super::{Deadline, Stencil};
use crate::doctor::{self, Check, Patient};
use crate::error::Result;

impl Stencil {
    /// Checks server, role, disk and registry; with `fix`, also applies the safe fixes. Without it nothing is
    /// written. Anything that cannot be examined is reported as a check, too.
    ///
    /// # Errors
    /// Only of fixes: the driver's.
    pub(crate) async fn doctor(&self, fix: bool, deadline: &Deadline) -> Result<Vec<Check>> {
        let patient = Patient {
            endpoint: &self.endpoint,
            registry: &self.config.server.registry,
            eviction: &self.config.eviction,
            strategy: self.config.clone.strategy,
            grace: *self.config.clone.orphan_grace,
            background: !self.is_background_off(),
            deadline,
        };
        let mut checks = doctor::examine(&patient).await;
        if self.is_background_off() {
            checks.push(doctor::background_off());
        }
        #[cfg(feature = "cli")]
        if let Some(remote) = self.remote() {
            let (major, superuser) = self.server_for_store(deadline).await;
            let findings = self.examine_store(remote, major, superuser, false).await;
            checks.extend(findings.iter().map(doctor::of_store));
        }
        if fix {
            doctor::fix(&patient, &mut checks).await?;
            // The reason why it cannot be opened is already a check.
            if let Ok(Some(mut registry)) = self.open_existing(deadline).await {
                registry.note_command_in_checkout(&self.asker()).await?;
                registry.close().await;
            }
        }
        Ok(checks)
    }
}
