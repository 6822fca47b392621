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
        let short = finding.fingerprint.short();
        let mut text = format!("template {short} of `{name}` was extended, and a build from nothing ");
        if finding.difference.is_empty() {
            if finding.moved.is_empty() {
                continue;
            }
            text += &format!(
                "has the same schema, grants, settings and row counts, but differs in {}",
                finding.moved
            );
            text += "\nclones made before and after it differ in that; the definition is extended as before";
            context.tell(Event::Warning(&Warning::new(text)));
            continue;
        }
        text += "differs from it:";
        let lines: Vec<&str> = finding.difference.lines().collect();
        for line in lines.iter().take(SHOWN) {
            text += &format!("\n{line}");
        }
        if lines.len() > SHOWN {
            text += &format!("\nand {} more lines", lines.len() - SHOWN);
        }
        if !finding.moved.is_empty() {
            text += &format!("\nand in {}", finding.moved);
        }
        text += "\nclones that were made of it before the build from nothing differ as well";
        text += &match finding.again {
            true => format!(
                "\nthe extended template before it differed, too: `{name}` is not extended any more until `build` or its inputs change"
            ),
            false => format!(
                "\nif `build` cannot run on what it has built before, set `extend = \"never\"` in [template.{name}]"
            ),
        };
        context.tell(Event::Warning(&Warning::new(text)));
    }
}
