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
const EXCLUDE: &str = "if the build command writes these files, exclude them from the globs, or switch that output off in the tool";

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
        let warning = Warning::new("files changed during the build, so it starts over");
        let warning = self.changes.iter().fold(warning, Warning::detail);
        context.tell(Event::Warning(&warning.hint(EXCLUDE)));
    }

    /// Returns the error where a build does not start over. `during`: the process during which the inputs changed.
    pub(crate) fn error(&self, definition: &str, during: &str) -> Error {
        let error = changed(definition, during, &self.changes)
            .detail("the result may be a mixture of old and new files, so it was dropped")
            .hint(EXCLUDE);
        match self.named {
            true => error.hint("a file that `build` names counts as an input; to change that, set `build_inputs = false` in the template's table"),
            false => error,
        }
    }
}

/// Returns the error about inputs that changed during a build.
pub(crate) fn changed(definition: &str, during: &str, changes: &[String]) -> Error {
    let error =
        Error::new(Kind::Build, format!("the files of definition `{definition}` changed during {during}"));
    let error = changes.iter().fold(error, Error::detail);
    error.hint("run the command again when no program writes to these files")
}

fn differences(difference: &Difference) -> Vec<String> {
    let mut lines = Vec::new();
    for FileChanges { added, changed, removed, line_ends: _, cosmetic: _ } in
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
