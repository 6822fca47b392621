//! Findings of comparisons, reported to users whose clones came from a template that differed.

use super::Context;
use crate::events::{Event, Warning};
use crate::registry::comparison::Finding;

/// Maximum number of printed lines of a difference.
const SHOWN: usize = 12;

/// Reports the findings of full builds about incrementally built templates, with the config key that helps.
pub(crate) fn tell(context: &Context<'_>, findings: &[Finding]) {
    let name = &context.definition.name;
    for finding in findings {
        let what =
            format!("template {} of `{name}` was built incrementally, and", finding.fingerprint.short());
        let warning = match (finding.difference.is_empty(), finding.moved.is_empty()) {
            (true, true) => continue,
            (true, false) => Warning::new(format!("{what} differs from a full build in {}", finding.moved))
                .detail("schema, grants, settings and row counts are equal, so incremental builds continue")
                .detail("clones created after the full build differ in that from earlier clones"),
            (false, _) => decisive(name, &what, finding),
        };
        context.tell(Event::Warning(&warning));
    }
}

/// Returns the warning about a difference that shows that the template was wrong.
fn decisive(name: &str, what: &str, finding: &Finding) -> Warning {
    let lines: Vec<&str> = finding.difference.lines().collect();
    let mut warning = Warning::new(format!("{what} differs from a full build:"));
    for line in lines.iter().take(SHOWN) {
        warning = warning.detail(*line);
    }
    if lines.len() > SHOWN {
        warning = warning.detail(format!("and {} more lines", lines.len() - SHOWN));
    }
    if !finding.moved.is_empty() {
        warning = warning.detail(format!("and in {}", finding.moved));
    }
    warning = warning.detail("clones created from it before the full build differ as well");
    match finding.again {
        true => warning.detail(format!(
            "the previous incrementally built template differed, too: only full builds of `{name}` run until `build` or its inputs change"
        )),
        false => warning.hint(format!(
            "if `build` cannot run on a database that it has built before, set `extend = \"never\"` in [template.{name}]"
        )),
    }
}
