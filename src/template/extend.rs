//! Base of an incremental build: the nearest older template that a missing one can be built on.

use std::cmp::Reverse;
use std::time::Duration;

use super::waypoint::Waypoint;
use super::{Extends, Template, Unusable};
use crate::config::{Definition, Extend};
use crate::error::Result;
use crate::events::Extending;
use crate::fingerprint::{Append, Difference, Obstacle, Recipe, RelPath, extension, migrations};
use crate::quantity::{count, seconds};
use crate::registry::{Registry, TemplateRow};

/// A base template, and the new inputs. A [`Template`] is locked against being dropped.
pub(crate) struct Base<T = Template> {
    pub(super) template: T,
    pub(crate) extends: Extends,
    /// First digits of its fingerprint.
    pub(super) short: String,
    /// Whether a full build is to replace the result.
    pub(super) provisional: bool,
    /// Files of `rerun_inputs` that differ from those of the template.
    pub(crate) rerun_inputs: Vec<String>,
    /// Files of `companions` that the template lacks.
    pub(crate) companions: Vec<String>,
}

impl<T> Base<T> {
    /// `difference`: from the inputs of the template to the wanted ones.
    pub(super) fn new(
        template: T,
        row: &TemplateRow,
        added: Vec<RelPath>,
        difference: &Difference,
        definition: &Definition,
    ) -> Self {
        let base = row.fingerprint;
        Base {
            template,
            extends: Extends { base, added },
            short: base.short(),
            provisional: definition.rebuild.makes_provisional(),
            rerun_inputs: difference.rerun_inputs.paths(),
            companions: difference.companions.paths(),
        }
    }

    /// Returns the incremental build as observers see it.
    pub(super) fn shown(&self) -> Extending<'_> {
        Extending {
            base: &self.short,
            migrations: migrations(&self.extends.added).len(),
            rerun_inputs: &self.rerun_inputs,
            companions: &self.companions,
        }
    }
}

impl Base {
    /// Creates the base of the second step of a full build. `template`: result of the first step.
    pub(super) fn waypoint(template: Template, waypoint: &Waypoint, definition: &Definition) -> Self {
        let base = template.fingerprint;
        Base {
            template,
            extends: Extends { base, added: waypoint.added.clone() },
            short: base.short(),
            provisional: definition.rebuild.makes_provisional(),
            rerun_inputs: Vec::new(),
            companions: Vec::new(),
        }
    }
}

/// Reason why a template is no base for a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoBase {
    /// The definition says `extend = "never"`.
    Never,
    /// It differs in more than further migrations.
    Differs(Obstacle),
    /// The template already is the result of this many incremental builds in a row.
    Chain(u32),
    /// The definition does not allow it any more.
    Unusable(Unusable),
    /// An incremental build on it was compared with a full build, and differed.
    Differed,
    /// So did the last two incrementally built templates of this build command and these inputs.
    DifferedTwice,
    /// A full build takes less time: the times of the incremental and of the full build.
    Slower(Duration, Duration),
}

impl std::fmt::Display for NoBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoBase::Never => f.write_str("`extend` is \"never\""),
            NoBase::Differs(obstacle) => obstacle.fmt(f),
            NoBase::Chain(n) => write!(
                f,
                "it is the result of {} in a row, and `max_extensions` is {n}",
                count(*n as usize, "incremental build")
            ),
            NoBase::Unusable(why) => why.fmt(f),
            NoBase::Differed => f.write_str(
                "an incrementally built template of these files differed from a full build",
            ),
            NoBase::DifferedTwice => f.write_str(
                "the last two incrementally built templates differed from full builds; incremental builds resume when `build` or its inputs change",
            ),
            NoBase::Slower(extension, full) => write!(
                f,
                "an incremental build takes about {}, and a full build {}",
                seconds(*extension),
                seconds(*full)
            ),
        }
    }
}

impl NoBase {
    /// Returns what would make it a base all the same. `definition`: name of the definition.
    pub(crate) fn hint(&self, definition: &str) -> Option<String> {
        let NoBase::Differs(Obstacle::Earlier { .. }) = self else {
            return None;
        };
        Some(format!(
            "set `extend = \"always\"` in [template.{definition}] if the migration tool runs every migration that the database does not have yet, whatever its name (Django, Alembic, Rails, Diesel and others; Flyway and goose only with an option)"
        ))
    }
}

/// Returns the migrations that have to be added to a template to get one of `recipe`.
///
/// # Errors
/// The reason why it is no base.
pub(crate) fn added_to(
    base: &(TemplateRow, Recipe),
    recipe: &Recipe,
    definition: &Definition,
) -> std::result::Result<Vec<RelPath>, NoBase> {
    let (row, old) = base;
    let order = match definition.extend {
        Extend::Never => return Err(NoBase::Never),
        Extend::Append => Append::Sorted,
        Extend::Always => Append::Any,
    };
    let added = extension(old, recipe, order).map_err(NoBase::Differs)?;
    match Unusable::by_definition(row, definition) {
        Some(why) => Err(NoBase::Unusable(why)),
        None => Ok(added),
    }
}

/// Returns the reason why a full build must come before another incremental one, if any.
fn is_due(row: &TemplateRow, definition: &Definition) -> Option<NoBase> {
    let chain = u32::try_from(row.chain).unwrap_or_default();
    (chain >= definition.max_extensions).then_some(NoBase::Chain(chain))
}

/// Templates that an incremental build can start from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bases<'a> {
    /// The possible bases, with the migrations that are new; the best first.
    pub found: Vec<(&'a TemplateRow, Vec<RelPath>)>,
    /// The best template, if it has reached the limit of incremental builds: then `found` is empty.
    pub due: Option<(&'a TemplateRow, NoBase)>,
}

/// Returns the templates that can be the base for one of `recipe`, best first: the one with most migrations,
/// and of equals the most recently used. Any template of the definition is a candidate, whichever branch it was
/// built on. Candidates after one that has reached the limit of incremental builds do not count: an incremental
/// build on an earlier one, again and again, would put the full build off indefinitely.
pub(crate) fn bases<'a>(
    ready: &'a [(TemplateRow, Recipe)],
    recipe: &Recipe,
    definition: &Definition,
) -> Bases<'a> {
    let mut all: Vec<_> =
        ready.iter().filter_map(|base| Some((&base.0, added_to(base, recipe, definition).ok()?))).collect();
    // Fewest added means largest base, since all of a base is in the new set.
    all.sort_by_key(|(row, added)| {
        let due = is_due(row, definition).is_some();
        let used = Reverse((row.last_used_at.clone(), row.id));
        (added.len(), due, used)
    });
    let mut bases = Bases::default();
    for (row, added) in all {
        match is_due(row, definition) {
            None => bases.found.push((row, added)),
            Some(why) => {
                bases.due = bases.found.is_empty().then_some((row, why));
                break;
            }
        }
    }
    bases
}

/// Returns the reason why no base may be used for a template of `recipe`, whatever templates exist, if any.
///
/// # Errors
/// Errors of the driver.
pub(super) async fn why_not(
    registry: &mut Registry,
    project: &str,
    definition: &Definition,
    recipe: &Recipe,
) -> Result<Option<NoBase>> {
    let name = &definition.name;
    if definition.extend == Extend::Never {
        return Ok(Some(NoBase::Never));
    }
    let fingerprint = recipe.fingerprint();
    if registry.differed(project, name, &fingerprint).await? {
        return Ok(Some(NoBase::Differed));
    }
    let core = recipe.core();
    if registry.last_two_differed(project, name, &core).await? {
        return Ok(Some(NoBase::DifferedTwice));
    }
    let recent = registry.recent_costs(project, name).await?;
    if let (Some(extension), Some(full)) = (recent.extension, recent.full)
        && is_dearer(extension, full)
    {
        return Ok(Some(NoBase::Slower(extension, full)));
    }
    Ok(None)
}

/// Returns whether an incremental build takes clearly longer than a full build: on a busy machine times vary
/// widely, and where both are short the difference does not matter.
fn is_dearer(extension: Duration, full: Duration) -> bool {
    const SHORT: Duration = Duration::from_secs(5);
    extension >= SHORT && extension >= full.mul_f64(1.5)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sqlx::types::Json;

    use super::*;
    use crate::config::Config;
    use crate::fingerprint::FileInput;
    use crate::names::Fingerprint;
    use crate::quantity::Seconds;
    use crate::registry::TemplateState;

    fn recipe(migrations: &[&str]) -> Recipe {
        let file = |path: &&str| FileInput {
            path: RelPath::new(Path::new(path)),
            hash: blake3::hash(path.as_bytes()).to_string(),
            bytes: 1,
            normal: None,
        };
        Recipe::of_migrations(migrations.iter().map(file).collect())
    }

    fn row(id: i64, last_used_at: &str) -> TemplateRow {
        TemplateRow {
            id,
            project: "shop".into(),
            definition: "app".into(),
            fingerprint: Fingerprint::from_bytes([0; 32]),
            state: TemplateState::Ready,
            built_with: Json::default(),
            builder: Json::default(),
            built_by: "me".into(),
            log_tail: String::new(),
            build_ms: None,
            hits: 0,
            pinned: false,
            reason: None,
            base_fingerprint: None,
            added: Json(vec![]),
            chain: 0,
            waypoint: false,
            extend: Extend::Append,
            unsealed: None,
            provisional: false,
            rebuild_attempts: 0,
            rebuild_tried_s: None,
            rebuild_failure: None,
            accepted_at: None,
            rebuild_wait: None,
            difference: None,
            emptied: false,
            outdated: None,
            other_collation: None,
            contents_s: Seconds(60.0),
            idle_s: Seconds(60.0),
            age_s: Seconds(60.0),
            created_at: "2026-01-01T00:00:00Z".into(),
            last_used_at: last_used_at.into(),
        }
    }

    fn definition(keys: &str) -> Definition {
        let folder = tempfile::tempdir().unwrap();
        let text =
            format!("project = \"shop\"\n[template.app]\nmigrations = [\"m/*\"]\nbuild = \"x\"\n{keys}\n");
        let config = Config::parse(&text, &folder.path().join("pgstencil.toml")).unwrap();
        config.definitions[0].clone()
    }

    const SET: [&str; 4] = ["m/1.sql", "m/2.sql", "m/3.sql", "m/4.sql"];

    fn ids(ready: &[(TemplateRow, Recipe)], keys: &str) -> Vec<i64> {
        let found = bases(ready, &recipe(&SET), &definition(keys));
        found.found.iter().map(|(row, _)| row.id).collect()
    }

    #[test]
    fn the_largest_base_wins_and_of_equals_the_last_used() {
        let ready = [
            (row(1, "2026-01-04T00:00:00Z"), recipe(&SET[..2])),
            (row(2, "2026-01-01T00:00:00Z"), recipe(&SET[..3])),
            (row(3, "2026-01-02T00:00:00Z"), recipe(&SET[..3])),
            (row(4, "2026-01-09T00:00:00Z"), recipe(&["m/1.sql", "m/9.sql"])),
        ];
        assert_eq!(ids(&ready, ""), [3, 2, 1]);
        let (_, added) = &bases(&ready, &recipe(&SET), &definition("")).found[0];
        assert_eq!(added, &[RelPath::new(Path::new("m/4.sql"))]);
        assert_eq!(ids(&ready, "extend = \"never\""), [0; 0]);
    }

    #[test]
    fn what_sorts_earlier_is_taken_only_by_always() {
        let ready = [(row(1, ""), recipe(&["m/1.sql", "m/3.sql", "m/4.sql"]))];
        assert_eq!(ids(&ready, ""), [0; 0]);
        assert_eq!(ids(&ready, "extend = \"always\""), [1]);
    }

    #[test]
    fn long_chains_and_old_contents_are_no_base() {
        let mut ready = [(row(1, ""), recipe(&SET[..3]))];
        ready[0].0.chain = 3;
        assert_eq!(ids(&ready, "max_extensions = 4"), [1]);
        assert_eq!(ids(&ready, "max_extensions = 3"), [0; 0]);
        let due = definition("max_extensions = 3");
        assert_eq!(bases(&ready, &recipe(&SET), &due).due.unwrap().1, NoBase::Chain(3));
        ready[0].0.contents_s = Duration::from_secs(2 * 86_400).into();
        assert_eq!(ids(&ready, "stale_after = \"1d\""), [0; 0]);
        assert_eq!(ids(&ready, "stale_after = \"3d\""), [1]);
    }

    #[test]
    fn what_takes_clearly_more_than_a_build_from_nothing_is_no_gain() {
        let dearer =
            |extension, full| is_dearer(Duration::from_millis(extension), Duration::from_millis(full));
        assert!(dearer(9000, 5000));
        assert!(!dearer(4000, 300));
        assert!(!dearer(9000, 8000));
        assert!(!dearer(9000, 200_000));
    }

    #[test]
    fn behind_one_that_was_extended_too_often_nothing_is_a_base() {
        let mut ready = [
            (row(1, "2026-01-01T00:00:00Z"), recipe(&SET[..1])),
            (row(2, "2026-01-02T00:00:00Z"), recipe(&SET[..2])),
            (row(3, "2026-01-03T00:00:00Z"), recipe(&SET[..3])),
            (row(4, "2026-01-01T00:00:00Z"), recipe(&SET[..3])),
        ];
        let two = "max_extensions = 2";
        ready[1].0.chain = 2;
        // A base of the same size is enough.
        ready[2].0.chain = 2;
        assert_eq!(ids(&ready, two), [4]);
        ready[3].0.chain = 2;
        assert_eq!(ids(&ready, two), [0; 0]);
        let set = recipe(&SET);
        let keys = definition(two);
        assert_eq!(bases(&ready, &set, &keys).due.unwrap().0.id, 3);
    }

    #[test]
    fn what_the_definition_would_not_extend_now_is_no_base() {
        let mut ready = [(row(1, ""), recipe(&SET[..3]))];
        ready[0].0.extend = Extend::Always;
        // After a full build under it, it is like any other.
        assert_eq!(ids(&ready, ""), [1]);
        ready[0].0.base_fingerprint = Some(Fingerprint::from_bytes([1; 32]));
        assert_eq!(ids(&ready, ""), [0; 0]);
        assert_eq!(ids(&ready, "extend = \"always\""), [1]);
    }
}
