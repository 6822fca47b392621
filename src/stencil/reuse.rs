//! Reuse of wanted names that exist already: a live clone of the caller's own is leased again.

use std::time::Duration;

use super::leases::Leases;
use super::name_conflict::Replaced;
use super::{Stencil, Term, Wanted};
use crate::config::Definition;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Warning};
use crate::fingerprint::{Difference, Recipe};
use crate::lease::{self, ClonedSet};
use crate::names::{Fingerprint, words};
use crate::pg::lock::LockKey;
use crate::registry::clone::CloneOnServer;
use crate::registry::owner::{Asker, Bound, Tenure};
use crate::registry::{CloneRow, CloneState, Registry, Waiting};
use crate::retention::cleanup::End;
use crate::template::{self, Provenance, Timing};
use crate::variables::{NamedDatabase, Outcome};

/// Result of the check for wanted names.
pub(super) enum Names {
    /// Live clones have the names.
    Reused(Reused),
    /// The names are free. For each clone, contains the dropped clone that had its name.
    Free(Vec<Option<Box<CloneRow>>>),
}

/// The same for one clone's names.
enum OneName {
    Reused(ClonedSet),
    Free(Option<Box<CloneRow>>),
}

/// Relation of a clone's migrations to those of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// The files are those from which it was created.
    Same,
    /// The files have all of its migrations, unchanged, and more.
    Older,
    /// The clone has all migrations of the files, unchanged, and more.
    Newer,
    /// Neither, or its origin is no longer known.
    Other,
}

impl Age {
    /// Returns the word in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Age::Same => "same",
            Age::Older => "older",
            Age::Newer => "newer",
            Age::Other => "other",
        }
    }
}

impl Stencil {
    /// Checks whether clones of the wanted names exist: live ones of the caller are leased again, dead ones are
    /// dropped, any other is an error.
    pub(super) async fn reuse(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        wanted: &Wanted,
        recipe: &Recipe,
    ) -> Result<Names> {
        let mut reused = Vec::new();
        let mut before = Vec::new();
        for index in 0..wanted.count {
            match self.reuse_one(registry, context, wanted, index).await? {
                OneName::Reused(clone) => reused.push(clone),
                OneName::Free(row) => before.push(row),
            }
        }
        if reused.is_empty() {
            return Ok(Names::Free(before));
        }
        if reused.len() < wanted.count {
            let names: Vec<&str> = reused.iter().map(ClonedSet::name).collect();
            return Err(Error::new(
                Kind::NameTaken,
                format!("only {} of the {} requested clones exist already", names.len(), wanted.count),
            )
            .detail(format!("existing: {}", names.join(", ")))
            .hint("recreate all of them: `--fresh`")
            .hint(format!("release the existing ones: `pgstencil release {}`", words(names))));
        }
        let findings = registry.findings(context.project, &context.definition.name).await?;
        template::tell_findings(context, &findings);
        let mut ages = Vec::new();
        for clone in &reused {
            ages.push(age(registry, context, clone, recipe).await?);
        }
        let now = recipe.fingerprint();
        let stale = reused.iter().zip(&ages).find(|(_, age)| **age != Age::Same);
        if let Some((clone, age)) = stale {
            let from = match age {
                Age::Older => "older migrations",
                Age::Newer => "newer migrations",
                Age::Same | Age::Other => "other files",
            };
            context.tell(Event::Warning(
                &Warning::new(format!("clone {} was created from {from}", clone.name()))
                    .detail(format!(
                        "its fingerprint is {}, and that of the current files is {}",
                        clone.fingerprint.short(),
                        now.short()
                    ))
                    .hint("recreate it: `--fresh`"),
            ));
        }
        Ok(Names::Reused(Reused { clones: reused, fingerprint: now, ages }))
    }

    async fn reuse_one(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        wanted: &Wanted,
        index: usize,
    ) -> Result<OneName> {
        let asker = context.asker();
        let names = wanted.names(context, index)?;
        let mut before = None;
        loop {
            let mut found = registry.clones_named(&names).await?;
            if found.iter().any(|clone| clone.row.state == CloneState::Creating) {
                self.wait_for_makers(registry, context, &names).await?;
                found = registry.clones_named(&names).await?;
            }
            let own = own(&found, &names, &asker, wanted)?;
            for clone in &own {
                refuse_another_definition(&clone.row, context, wanted)?;
            }
            let whole: Vec<&&CloneOnServer> = own.iter().filter(|c| c.has_any()).collect();
            if !wanted.fresh && !whole.is_empty() {
                let [one] = whole[..] else {
                    return Err(other_databases(&whole, context, &names));
                };
                if one.lacks().is_some() || !has_names(one, context, &names) {
                    return Err(other_databases(&whole, context, &names));
                }
                let id = one.row.id.clone();
                match self.renew(registry, context, wanted, &id, &names).await? {
                    Some(clone) => return Ok(OneName::Reused(clone)),
                    // Changed in the meantime.
                    None => continue,
                }
            }
            let replaced: Vec<Replaced> = own.iter().map(|c| replaced(c, &asker)).collect();
            before = own.first().map(|c| Box::new(c.row.clone())).or(before);
            if self.make_way(registry, context, wanted, &names, &replaced).await? {
                return Ok(OneName::Free(before));
            }
        }
    }

    /// Renews the lease of a live clone; `None` if it has changed when its lock is held.
    async fn renew(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        wanted: &Wanted,
        id: &str,
        names: &[String],
    ) -> Result<Option<ClonedSet>> {
        let key = LockKey::clone(id);
        // Its creator has not quite ended, or a cleanup examines it.
        let waiting = Waiting {
            step: Duration::from_millis(10),
            most: None,
            deadline: context.deadline,
            what: "another command that uses the clone",
        };
        let lock = registry.lock(key, waiting).await?;
        let renewed = async {
            let asker = context.asker();
            let Some(clone) = registry.clone_on_server(id).await? else {
                return Ok(None);
            };
            let row = &clone.row;
            let anothers = !asker.has_clone(row);
            let takes = anothers || is_of_another_project(row, context);
            if !row.is_kept()
                || (takes && !wanted.take)
                || clone.lacks().is_some()
                || !has_names(&clone, context, names)
            {
                return Ok(None);
            }
            let tenure = self.tenure(context, wanted, Some(row));
            let Some(until) = registry.renew(row, &tenure, takes).await? else {
                return Ok(None);
            };
            if anothers {
                context.tell(Event::Warning(&Warning::new(format!(
                    "took over clone {} from {}",
                    row.name,
                    row.owner.describe(&row.holder.0)
                ))));
            }
            Ok(Some(ClonedSet {
                id: row.id.clone(),
                databases: named(&clone),
                oids: clone.databases.iter().filter_map(|d| d.oid).collect(),
                fingerprint: row.fingerprint,
                by_session: false,
                expires_at: until,
                bound: tenure.prolonging(),
            }))
        }
        .await;
        match (lock, &renewed) {
            (Some(lock), Ok(Some(_))) => lock.keep(),
            (Some(lock), Ok(None) | Err(_)) => lock.release(registry).await?,
            (None, _) => {}
        }
        renewed
    }

    /// Returns the tenure that a request means for one clone. `before`: the clone that has its name so far.
    pub(super) fn tenure<'a>(
        &'a self,
        context: &'a Context<'_>,
        wanted: &Wanted,
        before: Option<&CloneRow>,
    ) -> Tenure<'a> {
        let pattern = &wanted.pattern;
        let named = !pattern.is_unique();
        let bound = match named {
            true => Bound::of(&context.holder.checkout, pattern.uses_branch(), pattern.uses_worktree()),
            false => Bound::default(),
        };
        let (term, settings) = (wanted.term, context.clone_settings);
        Tenure {
            command: wanted.command,
            ..Tenure::new(context.asker(), settings, term, named, bound, before)
        }
    }
}

/// Returns the clones with these names that the caller may reuse: their own, or any if they insist.
fn own<'c>(
    found: &'c [CloneOnServer],
    names: &[String],
    asker: &Asker<'_>,
    wanted: &Wanted,
) -> Result<Vec<&'c CloneOnServer>> {
    let mut own = Vec::new();
    if wanted.term == Term::Session {
        return Ok(own);
    }
    for clone in found.iter().filter(|clone| clone.row.is_kept()) {
        let stands = clone.stands_under(names);
        if asker.has_clone(&clone.row) || (stands && wanted.take) {
            own.push(clone);
        } else if stands {
            return Err(lease::of_another(&clone.row, asker));
        }
    }
    Ok(own)
}

/// Whether a clone belongs to another project. A name means one definition; a clone from before owners were recorded
/// may be of a project whose name was created in another way.
fn is_of_another_project(row: &CloneRow, context: &Context<'_>) -> bool {
    row.project != context.project && row.owner.role.is_some()
}

/// Refuses a clone of another definition, whose contents are wrong, unless it is to be replaced. A clone of another
/// project may be taken: the default project name is the name of a directory.
fn refuse_another_definition(row: &CloneRow, context: &Context<'_>, wanted: &Wanted) -> Result<()> {
    let of_another_definition = row.definition != context.definition.name;
    let refused = match (wanted.take, wanted.fresh) {
        (true, true) => false,
        (true, false) => of_another_definition,
        (false, _) => of_another_definition || is_of_another_project(row, context),
    };
    if !refused {
        return Ok(());
    }
    Err(Error::new(Kind::NameTaken, format!("clone `{}` belongs to another definition", row.name))
        .detail(format!("definition of the clone: `{}` of project `{}`", row.definition, row.project))
        .detail(format!(
            "requested definition: `{}` of project `{}`",
            context.definition.name, context.project
        ))
        .hint("choose another `--name`")
        .hint("take over its name and drop its data: `--take --fresh`"))
}

/// Whether a clone has the databases that the definition wants, under the names that are wanted.
fn has_names(clone: &CloneOnServer, context: &Context<'_>, names: &[String]) -> bool {
    let aliases = context.definition.databases.iter();
    let has = clone.databases.iter().map(|d| (d.alias.as_str(), d.name.as_str()));
    has.eq(aliases.map(|alias| &**alias).zip(names.iter().map(String::as_str)))
}

fn named(clone: &CloneOnServer) -> Vec<NamedDatabase> {
    let databases = clone.databases.iter();
    databases.map(|d| NamedDatabase { alias: d.alias.clone(), name: d.name.clone() }).collect()
}

fn other_databases(clones: &[&&CloneOnServer], context: &Context<'_>, names: &[String]) -> Error {
    let list = |databases: &mut dyn Iterator<Item = (&str, &String)>| {
        let databases: Vec<String> = databases.map(|(alias, name)| format!("{alias} (`{name}`)")).collect();
        databases.join(", ")
    };
    let definition = context.definition;
    let name = clones.first().map_or("", |clone| &clone.row.name);
    let mut error = Error::new(
        Kind::NameTaken,
        format!("clone `{name}` does not have the databases of definition `{}`", definition.name),
    );
    for clone in clones {
        let mut has = clone.databases.iter().map(|d| (d.alias.as_str(), &d.name));
        error = error.detail(format!("clone {} has: {}", clone.row.id, list(&mut has)));
        if let Some(gone) = clone.lacks() {
            error = error
                .detail(format!("database `{}` of that clone no longer exists or was changed", gone.name));
        }
    }
    let mut wanted = definition.databases.iter().map(|alias| &**alias).zip(names);
    error
        .detail(format!("the definition has: {}", list(&mut wanted)))
        .hint("recreate it without its data: `--fresh`")
        .hint("choose another `--name`")
}

/// Returns how to drop a clone that its owner, or a caller who insists, wants replaced.
fn replaced(clone: &CloneOnServer, asker: &Asker<'_>) -> Replaced {
    let id = clone.row.id.clone();
    let end = match clone.lacks() {
        _ if !asker.has_clone(&clone.row) => End::ReplacedSince(format!(
            "{} replaced it with `pgstencil clone --take --fresh`",
            asker.holder.describe_checkout()
        )),
        Some(gone) if !clone.has_any() => End::ReplacedSince(format!(
            "its database `{}` was dropped, renamed or replaced outside pgstencil",
            gone.name
        )),
        _ => End::Replaced,
    };
    Replaced { id, end }
}

async fn age(
    registry: &mut Registry,
    context: &Context<'_>,
    clone: &ClonedSet,
    recipe: &Recipe,
) -> Result<Age> {
    if clone.fingerprint == recipe.fingerprint() {
        return Ok(Age::Same);
    }
    let definition = &context.definition.name;
    let old = registry.recipe(definition, &clone.fingerprint, recipe).await?;
    let Some(changes) = old.map(|old| Difference::between(&old, recipe).migrations) else {
        return Ok(Age::Other);
    };
    Ok(match (&changes.added[..], &changes.removed[..]) {
        _ if !changes.changed.is_empty() => Age::Other,
        ([_, ..], []) => Age::Older,
        ([], [_, ..]) => Age::Newer,
        _ => Age::Other,
    })
}

pub(super) struct Reused {
    clones: Vec<ClonedSet>,
    fingerprint: Fingerprint,
    ages: Vec<Age>,
}

impl Reused {
    /// `timing`: of the inputs, and of the check of the clones.
    pub(super) fn into_leases(
        self,
        stencil: &Stencil,
        registry: Registry,
        definition: &Definition,
        timing: Timing,
    ) -> Leases {
        let provenance = Provenance::new(self.fingerprint, Outcome::Reused);
        let mut leases = Leases::new(stencil, registry, &definition.name, self.clones, provenance, timing);
        leases.ages = self.ages;
        leases
    }
}
