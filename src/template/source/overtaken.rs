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
    /// Advice about files that a migration tool writes, and else about all.
    advice: Vec<String>,
}

/// Maximum number of reported changes.
const SHOWN: usize = 10;

/// Advice about a build command that writes to its own inputs.
const EXCLUDE: &str = "if the build command writes these files, exclude them from the globs, or switch that output off in the tool";

/// Files that migration tools write, and how to switch that off: end of the path, tool, switch.
const DUMPS: [(&str, &str, &str); 7] = [
    (
        "db/schema.rb",
        "Rails",
        "`config.active_record.dump_schema_after_migration = false`, or build with `bin/rails db:schema:load`",
    ),
    (
        "db/structure.sql",
        "Rails",
        "`config.active_record.dump_schema_after_migration = false`, or build with `bin/rails db:schema:load`",
    ),
    ("db/schema.sql", "dbmate", "`dbmate --no-dump-schema up`"),
    ("repo/structure.sql", "Ecto", "remove `ecto.dump` from the alias in mix.exs"),
    ("schema.rs", "Diesel", "`diesel migration run --locked-schema`"),
    ("_journal.json", "drizzle-kit", "`drizzle-kit migrate` instead of `generate` or `push`"),
    (".prisma", "Prisma", "`prisma migrate deploy` instead of `migrate dev` or `db pull`"),
];

/// Returns how to switch off the tool that writes a file: the tool and the switch.
fn dump(path: &RelPath) -> Option<(&'static str, &'static str)> {
    let path = path.to_path();
    let name = path.file_name()?.to_str()?;
    // MikroORM names it after the database, which is another one for each build.
    if name.starts_with(".snapshot-") && name.ends_with(".json") {
        return Some(("MikroORM", "`migrations: { snapshot: false }` in its config"));
    }
    let path = path.to_str()?;
    let ends = |end: &str| match path.strip_suffix(end) {
        Some(before) => end.starts_with(['.', '_']) || before.is_empty() || before.ends_with('/'),
        None => false,
    };
    DUMPS.iter().find(|(end, ..)| ends(end)).map(|(_, tool, switch)| (*tool, *switch))
}

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
        let named = seen.iter().any(|change| named.contains(change.path()));
        Overtaken { recipe: now, changes, named, advice: advice(seen) }
    }

    /// Returns the changes, one line each.
    pub(crate) fn changes(&self) -> &[String] {
        &self.changes
    }

    /// Reports that the build starts over.
    pub(crate) fn tell(&self, context: &Context<'_>) {
        let warning = Warning::new("files changed during the build, so it starts over");
        let warning = self.changes.iter().fold(warning, Warning::detail);
        context.tell(Event::Warning(&self.advice.iter().fold(warning, Warning::hint)));
    }

    /// Returns the error where a build does not start over. `during`: the process during which the inputs changed.
    pub(crate) fn error(&self, definition: &str, during: &str) -> Error {
        let error = changed(definition, during, &self.changes)
            .detail("the result may be a mixture of old and new files, so it was dropped");
        let error = self.advice.iter().fold(error, Error::hint);
        match self.named {
            true => error.hint("a file that `build` names counts as an input; to change that, set `build_inputs = false` in the template's table"),
            false => error,
        }
    }
}

/// Returns the advice about some changes: for each dump of a tool its switch, and for other files the general one.
fn advice(seen: &[Change]) -> Vec<String> {
    let mut advice: Vec<String> = seen
        .iter()
        .filter_map(|change| Some((change.path(), dump(change.path())?)))
        .map(|(path, (tool, switch))| {
            format!("{tool} writes `{path}` during the build; switch that off: {switch}")
        })
        .take(SHOWN)
        .collect();
    if advice.len() < seen.len() || seen.is_empty() {
        advice.push(EXCLUDE.to_owned());
    }
    advice
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(paths: &[&str]) -> Vec<String> {
        let written = |path: &&str| Change::Written(RelPath::new(Path::new(path)));
        advice(&paths.iter().map(written).collect::<Vec<_>>())
    }

    #[test]
    fn dumps_are_told_with_the_file_and_the_switch_of_the_tool() {
        for (path, switch) in [
            ("db/schema.rb", "dump_schema_after_migration = false"),
            ("backend/db/structure.sql", "dump_schema_after_migration = false"),
            ("db/schema.sql", "--no-dump-schema"),
            ("migrations/.snapshot-pgstencil_x9.json", "snapshot: false"),
            ("priv/repo/structure.sql", "ecto.dump"),
            ("src/schema.rs", "--locked-schema"),
            ("prisma/schema.prisma", "migrate deploy"),
            ("drizzle/meta/_journal.json", "drizzle-kit migrate"),
        ] {
            let advice = of(&[path]);
            assert_eq!(advice.len(), 1, "{advice:?}");
            assert!(advice[0].contains(&format!("`{path}`")) && advice[0].contains(switch), "{advice:?}");
        }
    }

    #[test]
    fn other_files_get_the_general_advice() {
        for path in ["a.sql", "mydb/schema.rbx", "xdb/schema.sql", "snapshot-1.json"] {
            assert_eq!(of(&[path]), [EXCLUDE], "{path}");
        }
        assert_eq!(of(&["db/schema.rb", "a.sql"]).len(), 2);
        assert_eq!(of(&[]), [EXCLUDE]);
    }
}
