//! Checks whether the inputs of a build stayed as they were while its command ran.

use crate::context::{Context, Source};
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Warning};
use crate::fingerprint::{Change, Difference, FileChanges, Recipe, RelPath, Snapshot};

/// The inputs as they were right before the command began.
pub(in crate::template) struct Watch {
    /// `None` if no files are inputs.
    before: Option<Snapshot>,
}

/// Inputs that were written to while the build command ran. The result may be a mixture, even if the files have
/// their old contents again.
#[derive(Debug)]
pub(crate) struct Overtaken {
    /// The current inputs.
    pub(crate) recipe: Recipe,
    /// The changes, one line each.
    changes: Vec<String>,
    /// Whether they include a file that only the build command names.
    named: bool,
}

/// Maximum number of reported changes.
const SHOWN: usize = 10;

/// Advice about a build command that writes to its own inputs.
const EXCLUDE: &str = "if the build command writes what is named above: exclude it from the globs, or switch that output off in the tool";

impl Watch {
    /// Reads the state of the inputs. Call it before the command begins, and as late as possible.
    pub(in crate::template) async fn begin(context: &Context<'_>) -> Result<Self> {
        let before = match &context.source {
            Source::Command(_) => Some(context.snapshot().await?),
            Source::Filler(_) => None,
        };
        Ok(Watch { before })
    }

    /// Reads the inputs again when the command has ended; `None` if they were not written to and are those of
    /// `recipe`.
    pub(in crate::template) async fn end(
        &self,
        context: &Context<'_>,
        recipe: &Recipe,
    ) -> Result<Option<Overtaken>> {
        let Some(before) = &self.before else {
            return Ok(None);
        };
        let (inputs, after) = tokio::join!(context.inputs(), context.snapshot());
        let inputs = inputs?;
        let changes = before.changes(&after?);
        let names = inputs.named.clone();
        let now = inputs.with_server(recipe.server.clone());
        if changes.is_empty() && now.fingerprint() == recipe.fingerprint() {
            return Ok(None);
        }
        Ok(Some(Overtaken::new(recipe, now, &changes, &names)))
    }
}

impl Overtaken {
    /// `named`: the files that only the build command names.
    pub(in crate::template) fn new(old: &Recipe, now: Recipe, seen: &[Change], named: &[RelPath]) -> Self {
        let mut changes: Vec<String> = seen.iter().map(Change::to_string).collect();
        if changes.is_empty() {
            // They changed before the command began.
            changes = differences(&Difference::between(old, &now));
        }
        if changes.len() > SHOWN {
            let more = changes.len() - SHOWN;
            changes.truncate(SHOWN);
            changes.push(format!("and {more} more"));
        }
        Overtaken { recipe: now, changes, named: seen.iter().any(|change| named.contains(change.path())) }
    }

    /// Returns the changes, one line each.
    pub(crate) fn changes(&self) -> &[String] {
        &self.changes
    }

    /// Reports that the build starts over.
    pub(crate) fn tell(&self, context: &Context<'_>) {
        let mut text = "files changed while the build ran: starting over".to_owned();
        for line in &self.changes {
            text += &format!("\n{line}");
        }
        text += &format!("\n{EXCLUDE}");
        context.tell(Event::Warning(&Warning::new(text)));
    }

    /// Returns the error where a build does not start over. `what`: the process during which the inputs changed.
    pub(crate) fn error(&self, what: &str) -> Error {
        let error = Error::new(Kind::Build, what);
        let error = self.changes.iter().fold(error, Error::detail);
        let error = error
            .detail("what was built may be a mixture, so it was dropped")
            .hint("run it again when nothing writes to these files")
            .hint(EXCLUDE);
        match self.named {
            true => error.hint("a file counts that `build` names: `build_inputs = false` in the template's table changes that"),
            false => error,
        }
    }
}

fn differences(difference: &Difference) -> Vec<String> {
    let mut lines = Vec::new();
    for FileChanges { added, changed, removed, line_ends: _ } in
        [&difference.migrations, &difference.companions, &difference.rerun_inputs, &difference.inputs]
    {
        lines.extend(added.iter().map(|path| format!("`{path}` is new")));
        lines.extend(changed.iter().map(|path| format!("`{path}` was changed")));
        lines.extend(removed.iter().map(|path| format!("`{path}` is gone")));
    }
    lines.extend(difference.lines.iter().map(|l| format!("{l} differ")));
    let names = difference.env.iter().chain(&difference.mapping);
    lines.extend(names.map(|name| format!("variable `{name}` differs")));
    lines
}
