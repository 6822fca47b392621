//! A build command that does not see its new migrations: its result can be used, but is never sealed.
//!
//! Migrations that are compiled into a program (`sqlx::migrate!`, refinery, diesel, Go's embed) are missing
//! until the program is built again. If such a result were sealed, it would be the old schema under the new
//! fingerprint, for all users and for good. Every migration tool writes at least its own record of a migration,
//! so a result that lacks even that is no result of the new files.

use super::compare::{Depth, Subject, compare};
use super::look_up::{self, Claim};
use super::{Ensured, Template};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::Warning;
use crate::fingerprint::{Recipe, RelPath, new_migrations};
use crate::names::Fingerprint;
use crate::pg::inventory::Rows;
use crate::registry::Registry;
use crate::registry::template::{Hold, Shape, UnsealedNote};

/// Reason why a build was not sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsealed {
    /// Name of the definition.
    pub(crate) definition: String,
    /// The migrations that changed nothing, in order.
    pub(crate) files: Vec<RelPath>,
    /// The template with the same contents, without them.
    pub(crate) alike: Fingerprint,
}

/// Maximum number of named files.
const SHOWN: usize = 5;

impl Unsealed {
    /// Reads it from the registry's record.
    fn of(definition: &str, note: &UnsealedNote) -> Result<Self> {
        Ok(Unsealed {
            definition: definition.to_owned(),
            files: note.files.clone(),
            alike: note.alike.parse()?,
        })
    }

    /// Returns the record for the registry.
    pub(super) fn note(&self) -> UnsealedNote {
        UnsealedNote { files: self.files.clone(), alike: self.alike.to_string() }
    }

    /// Describes the event in one line.
    pub(crate) fn message(&self) -> String {
        let new = match self.files.len() {
            1 => "a migration is new".to_owned(),
            n => format!("{n} migrations are new"),
        };
        let named: Vec<String> = self.files.iter().take(SHOWN).map(|path| format!("`{path}`")).collect();
        let more = match self.files.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        format!(
            "the build command of `{}` changed nothing, although {new}: {}{more}",
            self.definition,
            named.join(", ")
        )
    }

    /// Describes the result.
    fn result(&self) -> String {
        let lack = match self.files.len() {
            1 => "that file",
            _ => "these files",
        };
        format!("the result equals template {}, which lacks {lack}", self.alike.short())
    }

    /// Returns the remedies.
    fn hints(&self) -> [String; 2] {
        [
            "if migrations are compiled into the program that `build` runs, let `build` compile it first"
                .into(),
            format!(
                "if a migration really changes nothing, set `allow_unchanged = true` in [template.{}]",
                self.definition
            ),
        ]
    }

    /// Returns a warning, for a result that is used nevertheless.
    pub(crate) fn warning(&self) -> Warning {
        let warning = Warning::new(self.message())
            .detail(self.result())
            .detail("you get this result, but it is not kept as a template");
        self.hints().into_iter().fold(warning, Warning::hint)
    }

    /// Returns the error.
    pub(crate) fn error(&self) -> Error {
        let error = Error::new(Kind::Build, self.message())
            .detail(self.result())
            .detail("it is not kept as a template");
        self.hints().into_iter().fold(error, Error::hint)
    }
}

/// Finds out whether a build did nothing for its new migrations. `base`: the base, and the files that were new
/// to it; a full build is compared with all templates whose migrations are fewer. `None`: it did something, or
/// no template that lacks some of its files is known well enough.
pub(super) async fn look(
    registry: &mut Registry,
    context: &Context<'_>,
    built: &Subject<'_>,
    recipe: &Recipe,
    base: Option<&Template>,
) -> Result<Option<Unsealed>> {
    if context.definition.allow_unchanged {
        return Ok(None);
    }
    let migrations = paths(recipe);
    if let Some(base) = base {
        let shapes = registry.shapes_of(base.id).await?;
        let Some(of_base) = registry.migrations_of(base.id).await? else {
            return Ok(None);
        };
        let files = new_migrations(&of_base, &migrations, recipe.order);
        if files.is_empty() || !may_equal(&shapes, built) {
            return Ok(None);
        }
        return Ok(match equals(registry, context, built, base, Rows::All).await? {
            true => Some(unsealed(context, files, base)),
            false => None,
        });
    }
    let name = &context.definition.name;
    let shapes = registry.shapes(context.project, name).await?;
    let alike: Vec<i64> =
        shapes.into_iter().filter(|(_, shapes)| may_equal(shapes, built)).map(|(id, _)| id).collect();
    if alike.is_empty() {
        return Ok(None);
    }
    let ready = registry.ready_templates(context.project, name, recipe).await?;
    for (row, older) in ready.iter().filter(|(row, _)| alike.contains(&row.id)) {
        let older = paths(older);
        let files = match older.iter().all(|path| migrations.contains(path)) {
            true => new_migrations(&older, &migrations, recipe.order),
            false => Vec::new(),
        };
        if files.is_empty() {
            continue;
        }
        let Claim::Ready(template) = look_up::claim(registry, row).await? else {
            continue;
        };
        let equal = equals(registry, context, built, &template, Rows::Few).await;
        let found = unsealed(context, files, &template);
        template.let_go(registry).await?;
        if equal? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn paths(recipe: &Recipe) -> Vec<RelPath> {
    recipe.migrations.iter().map(|f| f.path.clone()).collect()
}

fn unsealed(context: &Context<'_>, files: Vec<RelPath>, alike: &Template) -> Unsealed {
    Unsealed { definition: context.definition.name.clone(), files, alike: alike.fingerprint }
}

/// Returns whether databases of these shapes may have the same contents as the built ones. A template that was
/// built by an older version has no shapes, and then nothing is known.
fn may_equal(shapes: &[Shape], built: &Subject<'_>) -> bool {
    built.rows.len() == shapes.len()
        && built.rows.iter().zip(built.shapes).all(|(row, shape)| {
            let old = shapes.iter().find(|(alias, _)| *alias == row.alias);
            match (old, shape) {
                (Some((_, Some(old))), Some(new)) => old == new,
                (Some(_), _) => true,
                (None, _) => false,
            }
        })
}

/// `rows`: the rows whose contents must be equal, in addition to their number.
async fn equals(
    registry: &mut Registry,
    context: &Context<'_>,
    built: &Subject<'_>,
    template: &Template,
    rows: Rows,
) -> Result<bool> {
    let compared = compare(registry, context, built, template, Depth::Same(rows)).await?;
    Ok(compared.differences.is_empty() && compared.same_rows)
}

/// Takes the unsealed result of another process's build, for a caller that waited for that build. `None` if it
/// was sealed, failed, or no longer exists.
pub(super) async fn take(
    registry: &mut Registry,
    context: &Context<'_>,
    id: i64,
) -> Result<Option<(Template, Unsealed)>> {
    let Hold::Held(held) = registry.hold_unsealed(id).await? else {
        return Ok(None);
    };
    let note = held.row.unsealed.clone();
    let template = match (Template::of(registry, &held).await?, note) {
        (Ok(template), Some(note)) => Some((template, note)),
        _ => None,
    };
    let Some((mut template, note)) = template else {
        look_up::let_go(registry, id).await?;
        return Ok(None);
    };
    let unsealed = Unsealed::of(&context.definition.name, &note.0)?;
    template.become_unsealed(&unsealed);
    Ok(Some((template, unsealed)))
}

impl Template {
    /// Marks the template as unsealed: it has the contents of another one, and is not the result of an
    /// incremental build.
    pub(super) fn become_unsealed(&mut self, unsealed: &Unsealed) {
        self.contents_of = unsealed.alike;
        self.extends = None;
        self.provisional = None;
        self.build_time = None;
    }
}

impl Ensured {
    /// Returns the error for a caller that needs a template, if this is none.
    ///
    /// # Errors
    /// [`Kind::Build`]
    pub(crate) fn sealed(&self) -> Result<()> {
        match &self.unsealed {
            None => Ok(()),
            Some(unsealed) => Err(unsealed.error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn it_names_the_files_the_reason_and_the_key() {
        let path = |n: usize| RelPath::new(Path::new(&format!("m/{n}.sql")));
        let mut unsealed = Unsealed {
            definition: "app".into(),
            files: vec![path(1)],
            alike: "ab".repeat(32).parse().unwrap(),
        };
        let warning = unsealed.warning();
        assert_eq!(
            warning.message(),
            "the build command of `app` changed nothing, although a migration is new: `m/1.sql`"
        );
        assert_eq!(warning.details()[0], "the result equals template abababababab, which lacks that file");
        assert!(warning.hints()[1].contains("`allow_unchanged = true` in [template.app]"));
        unsealed.files = (1..9).map(path).collect();
        assert!(unsealed.message().ends_with("`m/5.sql` and 3 more"));
        assert_eq!(unsealed.error().kind(), Kind::Build);
        assert_eq!(Unsealed::of("app", &unsealed.note()).unwrap(), unsealed);
    }
}
