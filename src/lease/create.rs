//! Clones created while a caller waits.

use std::ops::Range;

use super::{Batch, ClonedSet, check_name, give_up, give_up_after, hook, named, washable, words};
use crate::config::value::Alias;
use crate::context::Context;
use crate::database::create;
use crate::database::strategy::Chooser;
use crate::error::{Fault, Result};
use crate::names::{Fingerprint, clone_id, private_name};
use crate::pg::lock::LockKey;
use crate::pg::sql::Statement;
use crate::registry::clone::NewClone;
use crate::registry::database::NewDatabase;
use crate::registry::publish::Unpublished;
use crate::registry::{DatabaseRow, Registry};
use crate::template::{Overtaken, Template, build};

/// Clone that the registry knows, and whose lock this session holds.
struct Intended {
    id: String,
    rows: Vec<DatabaseRow>,
}

/// Copies a template for all missing clones of the batch, concurrently. The registry session holds the clones' locks
/// from before their first row on; for a [`crate::registry::Term::Session`] they are the leases. `full`: the server's
/// disk was found full just now. `also`: statements that are sent with the intents.
///
/// # Errors
/// [`crate::Kind::NameTaken`] if a wanted name belongs to something else; the driver's. After an error none of the
/// clones exists, and a cleanup finds their remains.
pub(crate) async fn create(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    batch: &mut Batch<'_>,
    full: bool,
    also: &[Statement],
) -> Result<()> {
    let order = Order {
        context,
        batch,
        indexes: batch.indexes(),
        fingerprint: template.contents_of(),
        template: Some(template.id()),
    };
    let intended = order.register(registry, also).await?;
    let done = async {
        let chooser = Chooser::read(registry, context, full).await?;
        let mut copies = Vec::new();
        let mut keys = vec![LockKey::template(template.id())];
        for clone in &intended {
            copies.extend(template.copies_to(&clone.rows, &chooser));
            keys.push(LockKey::copying(&clone.id));
        }
        create::create_all(registry, context, &copies, &keys).await?;
        for clone in &intended {
            for (row, from) in clone.rows.iter().zip(template.databases()) {
                from.reapply(registry, context, &row.private_name, "clone").await?;
            }
        }
        if let Some(clone) = intended.first() {
            washable::note(registry, context, template.id(), &clone.rows).await?;
        }
        let comments: Vec<Option<&str>> =
            template.databases().iter().map(|d| d.replay.comment.as_deref()).collect();
        order.publish(registry, &intended, &comments).await
    }
    .await;
    let made = given_up_on_error(registry, &intended, done).await?;
    batch.clones.extend(made);
    Ok(())
}

/// Creates the next clone of the batch without a template: the build command runs directly on its databases. Creates
/// none if the inputs changed while the command ran.
///
/// # Errors
/// As [`create`], and [`crate::Kind::Build`].
pub(crate) async fn create_without_template(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    batch: &mut Batch<'_>,
) -> Result<Option<Box<Overtaken>>> {
    let next = batch.indexes().start;
    let order = Order { context, batch, indexes: next..next + 1, fingerprint, template: None };
    let mut intended = order.register(registry, &[]).await?;
    let done = async {
        let mut comments = Vec::new();
        for clone in &mut intended {
            let rows = &mut clone.rows;
            match build::build_in_place(registry, context, rows, fingerprint).await? {
                Ok(found) => comments = found,
                Err(overtaken) => return Ok(Err(overtaken)),
            }
        }
        let comments: Vec<Option<&str>> = comments.iter().map(Option::as_deref).collect();
        order.publish(registry, &intended, &comments).await.map(Ok)
    }
    .await;
    match given_up_on_error(registry, &intended, done).await? {
        Ok(clones) => {
            batch.clones.extend(clones);
            Ok(None)
        }
        Err(overtaken) => {
            give_up(registry, &ids(&intended)).await;
            Ok(Some(overtaken))
        }
    }
}

fn ids(intended: &[Intended]) -> Vec<String> {
    intended.iter().map(|clone| clone.id.clone()).collect()
}

async fn given_up_on_error<T>(registry: &mut Registry, intended: &[Intended], done: Result<T>) -> Result<T> {
    if done.is_err() {
        give_up_after(registry, &ids(intended), &done).await;
    }
    done
}

/// Clones of a batch to create, and their source.
struct Order<'a> {
    context: &'a Context<'a>,
    batch: &'a Batch<'a>,
    indexes: Range<usize>,
    fingerprint: &'a Fingerprint,
    template: Option<i64>,
}

impl Order<'_> {
    /// Names the databases of the clones, takes the clones' locks and writes the intents.
    async fn register(&self, registry: &mut Registry, also: &[Statement]) -> Result<Vec<Intended>> {
        let Order { context, batch, .. } = *self;
        let mut new = Vec::new();
        let mut ids = Vec::new();
        for index in self.indexes.clone() {
            let names = batch.names(context, index)?;
            if batch.has_fixed_names() {
                // Checked before the work; the rename at the end decides.
                for name in &names {
                    check_name(registry, &batch.tenure(index).asker, name).await?;
                }
            }
            let aliases = context.definition.databases.iter();
            new.push(databases(aliases.zip(names)));
            ids.push(match index {
                0 => batch.group.clone(),
                _ => clone_id(),
            });
        }
        let mut clones = Vec::new();
        for ((id, databases), index) in ids.iter().zip(new).zip(self.indexes.clone()) {
            clones.push(NewClone {
                id,
                project: context.project,
                definition: &context.definition.name,
                fingerprint: self.fingerprint,
                template_id: self.template,
                term: batch.tenure(index).term,
                holder: context.holder,
                databases,
            });
        }
        let rows = registry.intend_clones(&clones, also).await?;
        let mut intended = Vec::new();
        for (id, rows) in ids.into_iter().zip(rows) {
            intended.push(Intended { id, rows });
        }
        Ok(intended)
    }

    /// Gives the clones their names, ownership tags and leases, and opens them; then runs the definition's hooks for
    /// every clone, one after the other: `after_clone` is a command of the user's, who may not expect two to run
    /// concurrently. `comments`: the builder's own, for each database of a set.
    async fn publish(
        &self,
        registry: &mut Registry,
        clones: &[Intended],
        comments: &[Option<&str>],
    ) -> Result<Vec<ClonedSet>> {
        let hooks = hook::has_after_clone(self.context);
        let unpublished = self.unpublished(clones, comments);
        let mut notes: Vec<Statement> = clones
            .iter()
            .filter_map(|clone| hook::note(self.context, self.batch, &clone.id, &named(&clone.rows)))
            .collect();
        if self.template.is_some() {
            let counted = clones.iter().filter_map(|c| hook::recycling(registry, self.context, &c.id));
            notes.extend(counted);
        }
        let published = match registry.publish(&unpublished, !hooks, &notes).await {
            Ok(published) => published,
            // A name was taken since the check.
            Err(error) if error.has_fault(Fault::NameTaken) => {
                for clone in clones {
                    for row in &clone.rows {
                        check_name(registry, &self.context.asker(), &row.name).await?;
                    }
                }
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let mut ready = Vec::new();
        for ((clone, index), published) in clones.iter().zip(self.indexes.clone()).zip(published) {
            let tenure = self.batch.tenure(index);
            let databases = named(&clone.rows);
            let mut expires_at = published.expires_at;
            if hooks {
                hook::after_clone(self.context, self.batch, &databases).await?;
                let name = databases.first().map_or("", |d| &d.name);
                expires_at = registry.begin_lease(&clone.id, name, tenure).await?;
            }
            let mut made = ClonedSet::new(clone.id.clone(), databases, self.fingerprint, tenure);
            (made.oids, made.expires_at) = (published.oids, expires_at);
            ready.push(made);
        }
        Ok(ready)
    }

    fn unpublished<'c>(&'c self, clones: &'c [Intended], comments: &[Option<&str>]) -> Vec<Unpublished<'c>> {
        let words = words(self.context);
        let mut unpublished = Vec::new();
        for (Intended { id, rows }, index) in clones.iter().zip(self.indexes.clone()) {
            let words = format!("{words} ({id})");
            let rows = rows.iter().zip(comments);
            unpublished.push(Unpublished {
                id,
                tenure: self.batch.tenure(index),
                databases: rows.map(|(row, builders)| (row, row.mark().comment(&words, *builders))).collect(),
            });
        }
        unpublished
    }
}

fn databases<'a>(named: impl Iterator<Item = (&'a Alias, String)>) -> Vec<NewDatabase> {
    named
        .map(|(alias, name)| NewDatabase { alias: alias.to_string(), private_name: private_name(), name })
        .collect()
}
