//! Checks of pgstencil's own objects: templates, clones, leftovers, and unknown ownership tags.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::postgres::types::Oid;

use super::{Check, Fix};
use crate::error::Result;
use crate::lease;
use crate::names::{self, Mark};
use crate::pg::catalog::{self, Database};
use crate::pg::checkup::Found;
use crate::pg::obstacle::Obstacle;
use crate::pg::sql;
use crate::quantity::count;
use crate::registry::database::{Estranged, Owner};
use crate::registry::replaced::ReplacedRow;
use crate::registry::template::HeldTemplate;
use crate::registry::{CloneState, DatabaseRow, Registry, TemplateRow, TemplateState};
use crate::retention::cleanup::{self, Action};
use crate::retention::evidence::Evidence;
use crate::template::unusable::{DatabaseFault, Unusable};

/// Facts about the registry and the databases that it knows.
#[derive(Default)]
pub(super) struct Ours {
    pub(super) templates: Vec<ReadyTemplate>,
    /// Oids of all databases that have a row.
    pub(super) known: HashSet<Oid>,
    /// Actions that a cleanup would perform now.
    pub(super) cleanup: Vec<Action>,
    /// Obstacles that keep these databases from being dropped.
    pub(super) obstacles: Vec<Obstacle>,
    pub(super) replaced: Vec<ReplacedRow>,
    pub(super) evidence: Evidence,
    /// Databases of clones and of discarded templates that no cleanup will drop.
    pub(super) estranged: Vec<Lost>,
    /// Other databases with the ownership tag of one of pgstencil's, each with the name of that one.
    pub(super) copies: Vec<(String, String)>,
    /// Databases with an ownership tag that the registry does not know.
    pub(super) foreign: Foreign,
    pub(super) clones_in_use: i64,
    pub(super) template_bytes: u64,
    pub(super) largest_bytes: u64,
    pub(super) most_relations: i64,
}

/// Ready template, and the sessions in its databases.
pub(super) struct ReadyTemplate {
    held: HeldTemplate,
    visitors: Vec<String>,
}

/// Databases with an ownership tag that the registry does not know, and the databases that may be their registry.
#[derive(Default)]
pub(super) struct Foreign {
    found: Vec<Found>,
    registries: Vec<String>,
}

impl Foreign {
    /// Collects them from all databases of the server. `own`: name of the registry; `known`: whether it knows a
    /// database.
    pub(super) fn read(all: &[Found], own: &str, known: impl Fn(&Found) -> bool) -> Self {
        let marked = |d: &&Found| Mark::any_in(d.comment.as_deref());
        let registry = |d: &&Found| d.private && d.open && !marked(d) && d.name != own;
        Foreign {
            found: all.iter().filter(marked).filter(|d| !known(d)).cloned().collect(),
            registries: all.iter().filter(registry).map(|d| d.name.clone()).collect(),
        }
    }
}

/// Database that was changed so that pgstencil leaves it alone.
pub(super) struct Lost {
    row: DatabaseRow,
    why: Estranged,
    /// Template or clone that it belongs to, for a person.
    of: String,
}

impl Ours {
    pub(super) fn knows(&self, oid: Oid) -> bool {
        self.known.contains(&oid)
    }

    /// Records which databases of a template or a clone were changed. A dropped database is no fault: a test runner
    /// may have dropped it.
    async fn lose(&mut self, registry: &mut Registry, owner: &Owner, of: &str) -> Result<()> {
        let estranged = registry.estranged(owner).await?;
        let there = estranged.into_iter().filter(|(_, why)| why.is_there());
        self.estranged.extend(there.map(|(row, why)| Lost { row, why, of: of.to_owned() }));
        Ok(())
    }
}

pub(super) async fn read(registry: &mut Registry, all: &[Found], grace: Duration) -> Result<Ours> {
    let mut ours = Ours::default();
    let mut marks: Vec<(Mark, String)> = Vec::new();
    for row in registry.templates().await? {
        let owner = Owner::Template(row.id);
        let rows = registry.databases_of(&owner).await?;
        ours.known.extend(rows.iter().filter_map(|d| d.oid));
        marks.extend(rows.iter().map(|d| (d.mark(), d.name.clone())));
        if row.state != TemplateState::Ready {
            if row.state == TemplateState::Broken {
                let of = format!("broken template of {}/{}", row.project, row.definition);
                ours.lose(registry, &owner, &of).await?;
            }
            continue;
        }
        let bytes = rows.iter().filter_map(|d| u64::try_from(d.bytes?).ok()).sum();
        ours.template_bytes += bytes;
        ours.largest_bytes = ours.largest_bytes.max(bytes);
        let relations = rows.iter().filter_map(|d| d.files).max().unwrap_or(0);
        ours.most_relations = ours.most_relations.max(relations);
        let oids: Vec<Oid> = rows.iter().filter_map(|d| d.oid).collect();
        let found = catalog::databases(registry.session(), &[], &oids).await?;
        let mut visitors = Vec::new();
        for database in &found {
            let inside = catalog::visitors(registry.session(), database.oid).await?;
            visitors.extend(inside.iter().map(|v| format!("`{}`: {}", database.name, v.describe())));
        }
        ours.templates.push(ReadyTemplate { held: HeldTemplate { row, databases: rows, found }, visitors });
    }
    for row in registry.clones().await? {
        let owner = Owner::Clone(row.id.clone());
        let rows = registry.databases_of(&owner).await?;
        ours.known.extend(rows.iter().filter_map(|d| d.oid));
        marks.extend(rows.iter().map(|d| (d.mark(), d.name.clone())));
        ours.clones_in_use += i64::from(row.state == CloneState::Leased);
        if row.state != CloneState::Creating {
            let of = format!("{} clone {}", row.state, row.id);
            ours.lose(registry, &owner, &of).await?;
        }
    }
    ours.cleanup = cleanup::plan(registry, grace).await?;
    let mut oids = Vec::new();
    for action in ours.cleanup.iter().filter(|action| action.drops()) {
        let rows = registry.databases_of(&action.owner()).await?;
        oids.extend(rows.iter().filter_map(|row| row.oid));
    }
    ours.obstacles = Obstacle::find(registry.session(), &oids).await?;
    ours.replaced = registry.replaced().await?;
    ours.evidence = Evidence::read(registry, None).await?;
    let of = |database: &Found| {
        let comment = database.comment.as_deref();
        let mut marks = marks.iter();
        marks.find(|(mark, _)| mark.is_in(comment)).map(|(_, name)| name.clone())
    };
    let name = registry.session().database().to_owned();
    // A database that was dropped after `all` was read may have left the registry before its rows were read.
    let unknown: Vec<Oid> = all.iter().map(|d| d.oid).filter(|oid| !ours.known.contains(oid)).collect();
    let there = catalog::databases(registry.session(), &[], &unknown).await?;
    let there: HashSet<Oid> = there.iter().map(|database| database.oid).collect();
    let known = |d: &Found| ours.known.contains(&d.oid) || of(d).is_some() || !there.contains(&d.oid);
    ours.foreign = Foreign::read(all, &name, known);
    let others = all.iter().filter(|d| there.contains(&d.oid));
    ours.copies = others.filter_map(|d| Some((d.name.clone(), of(d)?))).collect();
    Ok(ours)
}

pub(super) fn judge(ours: &Ours) -> Vec<Check> {
    let mut checks: Vec<Check> = ours.templates.iter().flat_map(template).collect();
    if checks.is_empty() {
        checks.push(Check::ok(
            "templates",
            match ours.templates.len() {
                0 => "none yet".to_owned(),
                n => format!("{n} ready, all unchanged"),
            },
        ));
    }
    checks.extend(collations(&ours.templates));
    checks.extend(incremental(&ours.evidence));
    checks.push(leftovers(&ours.cleanup));
    checks.extend(ours.obstacles.iter().map(|found| {
        Check::warning(
            "leftovers",
            format!("database `{}` cannot be dropped: {}", found.database, found.what),
            found.fix.clone(),
        )
    }));
    checks.extend(ours.replaced.iter().map(|row| {
        Check::warning(
            "replaced clones",
            format!(
                "a command dropped its clone `{}` and created another database of that name (noticed at {}); pgstencil does not drop it, and no clone can get the name",
                row.name, row.at
            ),
            lease::drop_unneeded(&row.name),
        )
    }));
    checks.extend(ours.estranged.iter().map(lost));
    checks.extend(ours.copies.iter().map(|(name, of)| {
        Check::warning(
            "changed databases",
            format!("database `{name}` has the ownership tag of `{of}`, but is another database, so pgstencil does not drop it"),
            lease::drop_unneeded(name),
        )
    }));
    checks.extend(ours.foreign.judge());
    checks
}

/// Returns a check for each definition whose incremental builds were compared with full builds.
fn incremental(evidence: &Evidence) -> Vec<Check> {
    let check = |(project, definition): (&str, &str)| {
        let tally = evidence.tally(project, definition);
        let words = format!(
            "{project}/{definition}: {} of {} comparisons with full builds found no difference",
            tally.equal, tally.compared
        );
        match tally.lately {
            0 | 1 => Check::ok("incremental builds", format!("{words}; {}", tally.bound())),
            n => Check::warning(
                "incremental builds",
                format!("{words}; {n} of the last ten found one"),
                format!(
                    "if a file or variable decides what `build` does with an existing database, add it to `inputs` or `env_inputs`; else set `extend = \"never\"` in [template.{definition}]"
                ),
            ),
        }
    };
    evidence.definitions().into_iter().map(check).collect()
}

/// Returns the problems of one template, except its collations.
fn template(state: &ReadyTemplate) -> Vec<Check> {
    let name = "templates";
    let HeldTemplate { row, databases, found } = &state.held;
    let of = format!("{} of {}/{}", row.fingerprint.short(), row.project, row.definition);
    let (of_databases, of_row): (Vec<_>, Vec<_>) = Unusable::all(&state.held)
        .into_iter()
        .filter(|why| !matches!(why, Unusable::Collation { .. }))
        .partition(|why| matches!(why, Unusable::Database { .. }));
    let mut checks: Vec<Check> = of_databases.iter().map(|why| unusable(row, &of, why)).collect();
    for own in databases {
        let found = found.iter().find(|found| own.is(found) && !found.invalid);
        checks.extend(found.and_then(|found| mark(row, own, found, &of)));
    }
    for visitor in &state.visitors {
        checks.push(Check::problem(
            name,
            format!("template {of} cannot be copied while a session is connected to it: {visitor}"),
            "end that session, or the program that opened it: SELECT pg_terminate_backend(PID);",
        ));
    }
    let built_with = &row.built_with.0;
    if !built_with.login_triggers.is_empty() {
        checks.push(Check::warning(
            name,
            format!(
                "template {of} has login event triggers ({}): every session in its clones runs them, and a trigger that fails keeps all sessions out",
                built_with.login_triggers.join(", ")
            ),
            "drop or disable these triggers at the end of the build command",
        ));
    }
    checks.extend(of_row.iter().map(|why| unusable(row, &of, why)));
    if !row.emptied {
        checks.extend(unlogged(row, &of));
    }
    checks
}

/// Consequence of a template that cannot be used.
const NO_CLONES: &str = ", so pgstencil creates no more clones of it";
/// Advice about it.
const REBUILD: &str = "discard it now: `pgstencil doctor --fix` (the next command that needs it rebuilds it)";

/// Reports a template that cannot be used. `of`: name of the template, for a person.
fn unusable(row: &TemplateRow, of: &str, why: &Unusable) -> Check {
    let name = "templates";
    let problem = |words: String, rebuild: &str, hint: String| {
        Check::problem(name, words, hint).fixable(Fix::Rebuild(row.id, rebuild.to_owned()))
    };
    let warning = |words: String, rebuild: &str| {
        Check::warning(name, format!("{words}{NO_CLONES}"), REBUILD)
            .fixable(Fix::Rebuild(row.id, rebuild.to_owned()))
    };
    let again = format!(
        "discard it, so that it is rebuilt: `pgstencil doctor --fix`, or `pgstencil evict {}`",
        row.fingerprint.short()
    );
    match why {
        Unusable::Database { name, fault } => {
            let database = format!("database `{name}` of template {of}");
            let rebuild = format!("its database {fault}");
            match fault {
                DatabaseFault::Gone | DatabaseFault::HalfDropped => {
                    problem(format!("{database} {fault}"), &rebuild, again)
                }
                DatabaseFault::Changed(how) => {
                    let how = how.as_ref().map_or_else(|| "it was renamed".to_owned(), ToString::to_string);
                    problem(format!("{database} cannot be used: {how}"), &rebuild, again)
                }
                DatabaseFault::CollationLibrary => problem(
                    format!("{database} {fault}, so it cannot be copied"),
                    &rebuild,
                    format!(
                        "{again}. For your own databases: REINDEX, then ALTER DATABASE … REFRESH COLLATION VERSION"
                    ),
                ),
                DatabaseFault::Opened => warning(format!("{database} {fault}"), &rebuild),
            }
        }
        Unusable::Emptied(tables) => warning(
            format!(
                "template {of} lost the rows of its unlogged tables ({}) in a crash of Postgres",
                tables.join(", ")
            ),
            "a crash of Postgres emptied its unlogged tables",
        ),
        Unusable::Empty
        | Unusable::Outdated(_)
        | Unusable::Collation { .. }
        | Unusable::Extension { .. }
        | Unusable::Extended
        | Unusable::ExtendedUnsorted
        | Unusable::Stale { .. } => warning(format!("template {of}: {why}"), &why.to_string()),
    }
}

/// Reports changed collations in templates, whose versions Postgres does not check during a copy.
fn collations(templates: &[ReadyTemplate]) -> Vec<Check> {
    let name = "collations";
    let mut checks = Vec::new();
    for ReadyTemplate { held, .. } in templates {
        let row = &held.row;
        let of = format!("template {} of {}/{}", row.fingerprint.short(), row.project, row.definition);
        if let Some(why) = Unusable::by_collation(row) {
            let check = Check::warning(name, format!("{of}: {why}{NO_CLONES}"), REBUILD);
            checks.push(check.fixable(Fix::Rebuild(row.id, why.to_string())));
        }
        let warned = &row.built_with.0.warned_collations;
        if !warned.is_empty() {
            checks.push(Check::warning(
                name,
                format!("sessions in clones of {of} get warnings about the versions of collations ({})", warned.join("; ")),
                "run ALTER COLLATION … REFRESH VERSION at the end of the build command, as the collation's owner",
            ));
        }
    }
    if checks.is_empty() {
        let versions = templates.iter().map(|t| t.held.row.built_with.0.collations.len());
        checks.push(Check::ok(
            name,
            match versions.sum::<usize>() {
                0 => "no template uses a collation that has a version".to_owned(),
                _ => "all have the versions with which the templates were built".to_owned(),
            },
        ));
    }
    checks
}

/// Reports the contents that a template loses in a crash of Postgres.
fn unlogged(row: &TemplateRow, of: &str) -> Option<Check> {
    let unlogged = &row.built_with.0.unlogged_tables;
    (!unlogged.is_empty()).then(|| {
        Check::warning(
            "templates",
            format!(
                "template {of} has unlogged tables with rows ({}): a crash of Postgres empties them, also in clones in use, and pgstencil then rebuilds the template",
                unlogged.join(", ")
            ),
            "if the rows matter, run ALTER TABLE … SET LOGGED at the end of the build command",
        )
    })
}

/// Checks whether IS_TEMPLATE is as the seal set it.
fn mark(row: &TemplateRow, own: &DatabaseRow, found: &Database, of: &str) -> Option<Check> {
    let database = format!("database `{}` of template {of}", own.name);
    let source = row.built_with.0.source.as_ref();
    let public = source.is_none_or(|source| names::is_public_source(&source.name));
    if found.is_template && !public {
        return Some(Check::warning(
            "templates",
            format!(
                "{database} is marked IS_TEMPLATE, so every role with CREATEDB can copy it, with the contents of database `{}`",
                source.map_or("", |source| &source.name)
            ),
            format!("{};", sql::is_template(&own.name, false).text()),
        ));
    }
    (!found.is_template && public).then(|| {
        Check::warning(
            "templates",
            format!("{database} is no longer marked IS_TEMPLATE, so `dropdb` can drop it"),
            format!(
                "mark it again: `pgstencil doctor --fix`, or {};",
                sql::is_template(&own.name, true).text()
            ),
        )
        .fixable(Fix::Mark(row.id, found.oid))
    })
}

fn leftovers(cleanup: &[Action]) -> Check {
    let name = "leftovers";
    let drops: Vec<String> = cleanup.iter().filter(|action| action.drops()).map(Action::describe).collect();
    match drops.as_slice() {
        [] => Check::ok(name, "none"),
        some => {
            let shown = some.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
            let more = some.len().saturating_sub(5);
            let more = match more {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            Check::warning(
                name,
                format!("{} to clean up: {shown}{more}", some.len()),
                "clean up now: `pgstencil evict` or `pgstencil doctor --fix` (the next command also cleans up)",
            )
            .fixable(Fix::Cleanup)
        }
    }
}

fn lost(lost: &Lost) -> Check {
    let Lost { row, why, of } = lost;
    let undo = match why {
        Estranged::Owner(role) => format!(
            "GRANT {} to the role that pgstencil connects as, or ALTER DATABASE … OWNER TO that role",
            sql::quote_ident(role)
        ),
        Estranged::Renamed(name) => sql::rename_database(name, &row.name).text().to_owned(),
        Estranged::Opened => sql::allow_connections(&row.name, false).text().to_owned(),
        _ => sql::comment_database(&row.name, &row.mark().comment("pgstencil", None)).text().to_owned(),
    };
    Check::warning(
        "changed databases",
        format!("database `{}` of {of} is not dropped: {why}", row.name),
        format!("{undo}; or keep the database: once the clone is released, it is yours"),
    )
}

impl Foreign {
    pub(super) fn judge(&self) -> Vec<Check> {
        let name = "other registries";
        let shown = |some: &[&Found]| {
            let names = some.iter().take(5).map(|d| format!("`{}`", d.name));
            let names = names.collect::<Vec<_>>().join(", ");
            match some.len().saturating_sub(5) {
                0 => names,
                n => format!("{names} and {n} more"),
            }
        };
        let all: Vec<&Found> = self.found.iter().collect();
        let belong = match all.len() {
            1 => "one database belongs".to_owned(),
            n => format!("{} belong", count(n, "database")),
        };
        if all.is_empty() {
            return vec![Check::ok(name, "no database belongs to another registry")];
        }
        if self.registries.is_empty() {
            // The comment alone proves nothing: a dump carries it to other servers.
            let check = Check::warning(
                "lost registry",
                format!(
                    "{belong} to a registry that is not on this server, so pgstencil drops none: {}",
                    shown(&all)
                ),
                "check their contents, and drop the databases that are not needed, with the statements below",
            );
            let drop = |d: &&Found| {
                let unmark = d.template.then(|| sql::is_template(&d.name, false));
                unmark.into_iter().chain([sql::drop_database(&d.name)])
            };
            let statements = all.iter().flat_map(drop);
            return vec![Check {
                statements: statements.map(|s| format!("{};", s.text())).collect(),
                ..check
            }];
        }
        let broken: Vec<&Found> = all.iter().copied().filter(|d| d.invalid && d.ours).collect();
        let registries: Vec<String> = self.registries.iter().map(|r| format!("`{r}`")).collect();
        let mut checks = vec![Check::ok(
            name,
            format!(
                "databases of another registry, which this one does not drop: {} (that registry may be {})",
                shown(&all),
                registries.join(", ")
            ),
        )];
        if !broken.is_empty() {
            checks.push(Check::warning(
                "half-dropped databases",
                format!("of another registry: {}", shown(&broken)),
                "if that registry no longer exists, drop them with DROP DATABASE (otherwise its next cleanup drops them)",
            ));
        }
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn leftovers_are_counted_and_some_named() {
        assert_eq!(leftovers(&[]).status, Status::Ok);
        let orphan = Action::Orphan { clone: "a".into() };
        assert_eq!(leftovers(&[orphan]).status, Status::Ok);
        let drop = |n: usize| Action::DropClone {
            clone: n.to_string(),
            name: format!("clone_{n}"),
            why: "its holder is gone",
        };
        let many: Vec<Action> = (0..7).map(drop).collect();
        let check = leftovers(&many);
        assert_eq!(check.status, Status::Warning);
        assert!(check.words.starts_with("7 to clean up: drop clone clone_0"), "{check:?}");
        assert!(check.words.ends_with("and 2 more"), "{check:?}");
        assert_eq!(check.fix, Some(Fix::Cleanup));
    }

    #[test]
    fn what_belongs_to_others_is_no_fault() {
        let found = |invalid| Found {
            oid: Oid(1),
            name: "theirs".into(),
            ours: true,
            invalid,
            open: true,
            template: true,
            private: false,
            comment: None,
        };
        let foreign = |some: &[Found]| {
            let of = Foreign { found: some.to_vec(), registries: vec!["other".into()] };
            of.judge()
        };
        let worst = |some: &[Found]| foreign(some).iter().map(|c| c.status).max();
        assert_eq!(worst(&[]), Some(Status::Ok));
        assert_eq!(worst(&[found(false)]), Some(Status::Ok));
        assert!(foreign(&[found(false)])[0].words.contains("`theirs`"));
        assert_eq!(worst(&[found(true)]), Some(Status::Warning));
        // Without any database that could be their registry.
        let lost = Foreign { found: vec![found(false)], registries: Vec::new() };
        let checks = lost.judge();
        assert_eq!(checks[0].status, Status::Warning);
        assert_eq!(checks[0].fix, None);
        assert_eq!(
            checks[0].statements,
            ["ALTER DATABASE \"theirs\" IS_TEMPLATE false;", "DROP DATABASE \"theirs\";"]
        );
    }
}
