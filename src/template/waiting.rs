//! Waiting for builds of other processes, and reporting it.

use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::Result;
use crate::events::Event;
use crate::registry::TemplateRow;
use crate::registry::event::Costs;

/// Time between two checks of a process that waits for a build. A session lock is released the instant its
/// holder dies, so the process also notices that within this time.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// Describes the process that builds a template, as the object of a wait.
pub(super) fn builder_of(row: &TemplateRow) -> String {
    format!("{} to build template `{}`", row.builder.0.describe(), row.definition)
}

/// Reports which process builds the awaited template.
pub(super) fn tell_waiting(context: &Context<'_>, row: &TemplateRow, costs: &Costs) {
    context.tell(Event::Waiting {
        definition: &row.definition,
        awaited: &builder_of(row),
        elapsed: row.age_s.duration(),
        expected: match row.base_fingerprint {
            Some(_) => costs.extension,
            None => costs.full,
        },
        tail: &row.log_tail,
    });
}

/// Describes the build whose end is awaited where builds are serial.
pub(crate) fn serial_build(other: Option<&TemplateRow>) -> String {
    match other {
        Some(row) => format!("the serial build of {}/{}", row.project, row.definition),
        None => "another serial build".to_owned(),
    }
}

/// Waits briefly while another serial build runs, and reports it.
pub(super) async fn wait_for_serial(
    context: &Context<'_>,
    other: Option<&TemplateRow>,
    since: Instant,
) -> Result<()> {
    let awaited = serial_build(other);
    context.tell(Event::Waiting {
        definition: &context.definition.name,
        awaited: &awaited,
        elapsed: since.elapsed(),
        expected: None,
        tail: other.map_or("", |row| &row.log_tail),
    });
    context.deadline.pause(POLL, &awaited).await
}
