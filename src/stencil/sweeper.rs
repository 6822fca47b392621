//! The sweep of the background process: several passes, nobody waits.

use std::time::Duration;

use super::{Endpoint, Limit};
use crate::error::Result;
use crate::registry::Registry;
use crate::sweep::{self, Action};

/// Plans and applies a sweep, for a process that nobody waits for.
///
/// # Errors
/// The driver's.
pub async fn sweep_now(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut last = Ok(());
    for pause in PASSES {
        tokio::time::sleep(pause).await;
        match pass(endpoint, registry, grace, &mut lines).await {
            Ok(true) => return Ok(lines),
            other => last = other.map(|_| ()),
        }
    }
    last.map(|()| lines)
}

/// The times between the passes of a sweep: what cannot be dropped now often can a moment later,
/// when somebody's session has ended or the server is back.
const PASSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(20),
];

/// One pass, and whether all that it could do is done.
async fn pass(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
    lines: &mut Vec<String>,
) -> Result<bool> {
    let limit = Limit::new(Some(Duration::from_secs(60)), Default::default());
    let Some(mut registry) = Registry::open_existing(endpoint, registry, &limit).await? else {
        return Ok(true);
    };
    let actions = sweep::plan(&mut registry, grace).await?;
    lines.extend(sweep::apply(&mut registry, &actions, grace).await?);
    let drops = |actions: &[Action]| actions.iter().any(Action::drops);
    let done = !drops(&actions) || !drops(&sweep::plan(&mut registry, grace).await?);
    registry.close().await;
    Ok(done)
}
