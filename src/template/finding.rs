//! What a comparison found, told to those who were handed out what differed.

use super::Context;
use crate::events::Event;
use crate::registry::comparison::Finding;

/// How many lines of a difference are told.
const SHOWN: usize = 12;

/// Tells what builds from nothing found of extended templates, with the key that helps.
pub(crate) fn tell(context: &Context<'_>, findings: &[Finding]) {
    let name = &context.definition.name;
    for finding in findings {
        let mut text = format!(
            "template {} of `{name}` was extended, and a build from nothing differs from it:",
            &finding.fingerprint[..12]
        );
        let lines: Vec<&str> = finding.difference.lines().collect();
        for line in lines.iter().take(SHOWN) {
            text += &format!("\n{line}");
        }
        if lines.len() > SHOWN {
            text += &format!("\nand {} more lines", lines.len() - SHOWN);
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
        context.tell(Event::Warning(&text));
    }
}
