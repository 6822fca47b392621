//! Clones made while somebody waits.

use std::time::Instant;

use super::{ClonedSet, Request, after, check_name, give_up, give_up_after, hook, named, names, words};
use crate::context::Context;
use crate::database::create;
use crate::database::strategy::Chooser;
use crate::error::Result;
use crate::names::{Fingerprint, clone_id, private_name};
use crate::pg::lock::LockKey;
use crate::pg::sql::Statement;
use crate::pg::sqlstate;
use crate::registry::clone::NewClone;
use crate::registry::database::NewDatabase;
use crate::registry::publish::Unpublished;
use crate::registry::{DatabaseRow, Registry, Term};
use crate::template::{Overtaken, Template, build};

/// A clone that the registry knows, and whose lock we hold.
struct Intended {
    id: String,
    rows: Vec<DatabaseRow>,
}

/// Copies a template, for all requests at the same time. The clones' locks are held by the registry
/// session from before their first row on; for a [`crate::registry::Term::Session`] they are the leases.
/// `full`: the server's disk was found full just now. `also`: statements that are sent with the intents.
///
/// # Errors
/// [`crate::Kind::NameTaken`] if a wanted name belongs to something else; the driver's. After an error there is
/// none of the clones, and the sweep finds what was made of them.
pub async fn create(
    registry: &mut Registry,
    context: &Context<'_>,
    template: &Template,
    requests: &[Request<'_>],
    full: bool,
    also: &[Statement],
) -> Result<Vec<ClonedSet>> {
    let order = Order {
        context,
        requests,
        fingerprint: template.contents_of(),
        template: Some(template.id()),
        started: Instant::now(),
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
        let comments: Vec<Option<&str>> =
            template.databases().iter().map(|d| d.replay.comment.as_deref()).collect();
        order.publish(registry, &intended, &comments).await
    }
    .await;
    given_up_on_error(registry, intended, done).await
}

/// Makes a clone without a template: the build command runs straight on its databases. There is none if
/// somebody wrote to the inputs meanwhile.
///
/// # Errors
/// As [`fn@create`], and [`crate::Kind::Build`].
pub async fn create_without_template(
    registry: &mut Registry,
    context: &Context<'_>,
    fingerprint: &Fingerprint,
    request: &Request<'_>,
) -> Result<std::result::Result<Vec<ClonedSet>, Box<Overtaken>>> {
    let order = Order {
        context,
        requests: std::slice::from_ref(request),
        fingerprint,
        template: None,
        started: Instant::now(),
    };
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
        let clones = order.publish(registry, &intended, &comments).await?;
        Ok(Ok(clones))
    }
    .await;
    match done {
        Ok(Ok(clones)) => Ok(Ok(clones)),
        Ok(Err(overtaken)) => {
            give_up(registry, &ids(&intended)).await;
            Ok(Err(overtaken))
        }
        Err(error) => given_up_on_error(registry, intended, Err(error)).await.map(Ok),
    }
}

fn ids(intended: &[Intended]) -> Vec<String> {
    intended.iter().map(|clone| clone.id.clone()).collect()
}

async fn given_up_on_error(
    registry: &mut Registry,
    intended: Vec<Intended>,
    done: Result<Vec<ClonedSet>>,
) -> Result<Vec<ClonedSet>> {
    if done.is_err() {
        give_up_after(registry, &ids(&intended), &done).await;
    }
    done
}

/// What is to be made, and when that began.
struct Order<'a> {
    context: &'a Context<'a>,
    requests: &'a [Request<'a>],
    fingerprint: &'a Fingerprint,
    template: Option<i64>,
    started: Instant,
}

impl Order<'_> {
    /// Names the databases of the clones, takes the clones' locks and writes the intents.
    async fn register(&self, registry: &mut Registry, also: &[Statement]) -> Result<Vec<Intended>> {
        let context = self.context;
        let mut new = Vec::new();
        let mut ids = Vec::new();
        for request in self.requests {
            let (index, shard) = (request.index, request.shard);
            let names = names(context, request.pattern, request.group, index, shard)?;
            if !request.pattern.is_unique() {
                // Looked at before the work; the rename at the end decides.
                for name in &names {
                    check_name(registry, &request.tenure.asker, name).await?;
                }
            }
            let aliases = context.definition.databases.iter();
            new.push(databases(aliases.zip(names)));
            ids.push(match request.index {
                0 => request.group.to_owned(),
                _ => clone_id(),
            });
        }
        let mut clones = Vec::new();
        for ((id, databases), request) in ids.iter().zip(new).zip(self.requests) {
            clones.push(NewClone {
                id,
                project: context.project,
                definition: &context.definition.name,
                fingerprint: self.fingerprint,
                template_id: self.template,
                term: request.tenure.term,
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

    /// Gives the clones their names, their marks and their leases, and opens them; then runs what the
    /// definition wants done to every clone, one after the other: `after_clone` is a command of the user's,
    /// who may not have thought of two at once. `comments`: the builder's own, for each database of a set.
    async fn publish(
        &self,
        registry: &mut Registry,
        clones: &[Intended],
        comments: &[Option<&str>],
    ) -> Result<Vec<ClonedSet>> {
        let hooks = after::is_wanted(self.context);
        let finished = self.finished(clones, comments);
        let notes = clones.iter().zip(self.requests);
        let notes: Vec<Statement> = notes
            .filter_map(|(clone, request)| hook::note(self.context, request, &clone.id, &named(&clone.rows)))
            .collect();
        let published = match registry.publish(&finished, !hooks, &notes).await {
            Ok(published) => published,
            // 42P04, 23505: somebody took a name since we looked.
            Err(error) if matches!(sqlstate(&error).as_deref(), Some("42P04" | "23505")) => {
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
        for ((clone, request), published) in clones.iter().zip(self.requests).zip(published) {
            let databases = named(&clone.rows);
            let mut expires_at = published.expires_at;
            if hooks {
                after::after_clone(self.context, request, &databases).await?;
                let name = databases.first().map_or("", |d| &d.name);
                expires_at = registry.begin_lease(&clone.id, name, &request.tenure).await?;
            }
            ready.push(ClonedSet {
                id: clone.id.clone(),
                databases,
                oids: published.oids,
                fingerprint: *self.fingerprint,
                by_session: request.tenure.term == Term::Session,
                bound: request.tenure.prolonging(),
                expires_at,
                took: self.started.elapsed(),
            });
        }
        Ok(ready)
    }

    fn finished<'c>(&'c self, clones: &'c [Intended], comments: &[Option<&str>]) -> Vec<Unpublished<'c>> {
        let words = words(self.context);
        let mut finished = Vec::new();
        for (Intended { id, rows }, request) in clones.iter().zip(self.requests) {
            let words = format!("{words} ({id})");
            let rows = rows.iter().zip(comments);
            finished.push(Unpublished {
                id,
                tenure: &request.tenure,
                databases: rows.map(|(row, builders)| (row, row.mark().comment(&words, *builders))).collect(),
            });
        }
        finished
    }
}

fn databases<'a>(named: impl Iterator<Item = (&'a String, String)>) -> Vec<NewDatabase> {
    named
        .map(|(alias, name)| NewDatabase { alias: alias.clone(), private_name: private_name(), name })
        .collect()
}
