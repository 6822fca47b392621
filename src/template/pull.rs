//! Templates from the remote store: pulled under the right to build, if that is expected to win, and sealed after the
//! checks of a build. Anything that speaks against an entry makes it a miss, with a reason that is told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::build::{self, Ended};
use super::permit::{Asked, BuildPermit, Permit as _};
use crate::config::Extend;
use crate::context::{Context, Source};
use crate::error::Result;
use crate::events::{Event, Warning};
use crate::fingerprint::{Recipe, migrations};
use crate::names::{EMPTY_DATABASE, Fingerprint};
use crate::pg::{Doing as _, catalog, is_connection_loss, sql};
use crate::quantity::{count, seconds, size};
use crate::registry::{Registry, TemplateState};
use crate::remote::entry::Manifest;
use crate::remote::{Announced, Found, Pulled, PulledDatabase, RENEWED, Remote, Shown, ShownEntry};

/// Result of an attempt to pull a template.
pub(super) enum Tried {
    Pulled(Ended),
    /// Nothing was pulled, for this reason; `None` if there is no store.
    Not(Option<String>),
}

/// Reason why nothing was pulled.
type Why = String;

/// Reason why nothing was pulled, for those who asked for it.
#[derive(Clone, Debug)]
pub(crate) struct NotPulled {
    pub(crate) why: Why,
    /// Whether the store answers, and does not have the template.
    pub(crate) missing: bool,
}

impl From<Why> for NotPulled {
    fn from(why: Why) -> Self {
        NotPulled { why, missing: false }
    }
}

/// Pulls the template that the permit is for. `extension`: the expected time of an incremental build that is possible
/// instead.
pub(super) async fn exact(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
    extension: Option<Duration>,
) -> Result<Tried> {
    let Some(remote) = context.remote else {
        return Ok(Tried::Not(None));
    };
    if let Some(why) = never(context) {
        return Ok(Tried::Not(Some(why)));
    }
    let name = &context.definition.name;
    let found = match remote.exact(name, permit.recipe()).await {
        Ok(found) => found,
        Err(why) => return Ok(Tried::Not(Some(why))),
    };
    let full = registry.costs(context.project, name).await?.full;
    let manifest = &found.manifest;
    let instead = extension.or(full).unwrap_or(built(manifest));
    if let Some(why) = too_dear(remote, manifest, instead) {
        return Ok(Tried::Not(Some(why)));
    }
    Ok(match pull(registry, context, remote, permit, &found, permit.recipe()).await? {
        Ok(ended) => Tried::Pulled(ended),
        Err(why) => Tried::Not(Some(why)),
    })
}

/// Announces a full build in the store; if another machine builds the template, waits for its push, and pulls it. If that
/// does not come in time, the build begins: slower, not wrong.
pub(super) async fn wait_for_another(
    registry: &mut Registry,
    context: &Context<'_>,
    permit: &BuildPermit,
) -> Result<Tried> {
    let Some(remote) = context.remote.filter(|_| never(context).is_none()) else {
        return Ok(Tried::Not(None));
    };
    let name = &context.definition.name;
    let full = registry.costs(context.project, name).await?.full;
    let fingerprint = permit.recipe().fingerprint();
    let of = fingerprint.to_string();
    let Announced::Other(limit) = remote.announce(name, &of, full).await else {
        return Ok(Tried::Not(None));
    };
    context.tell(Event::Remote(&format!(
        "another machine builds template {name} ({}) for {}; waiting for it, at most {}",
        fingerprint.short(),
        remote.place(),
        seconds(limit)
    )));
    let started = Instant::now();
    while started.elapsed() < limit {
        context.deadline.pause(WAIT, "the build of another machine").await?;
        registry.ping().await?;
        let there = remote.exact(name, permit.recipe()).await.is_ok();
        if there {
            return exact(registry, context, permit, None).await;
        }
        if !remote.is_announced(name, &of).await {
            break;
        }
    }
    // Now this one builds.
    remote.announce(name, &of, full).await;
    Ok(Tried::Not(Some("the build of another machine did not end in time".into())))
}

/// Runs a build, and renews its announcement until it ends.
pub(super) async fn renewing<T>(context: &Context<'_>, recipe: &Recipe, build: impl Future<Output = T>) -> T {
    let Some(remote) = context.remote else {
        return build.await;
    };
    let (name, fingerprint) = (&context.definition.name, recipe.fingerprint().to_string());
    let renewals = async {
        loop {
            tokio::time::sleep(RENEWED).await;
            remote.renew(name, &fingerprint).await;
        }
    };
    tokio::select! {
        biased;
        done = build => done,
        () = renewals => unreachable!("it never ends"),
    }
}

/// Time between two looks into the store.
const WAIT: Duration = Duration::from_millis(500);

/// Takes the announcement of a build back, since it failed.
pub(super) async fn withdraw(context: &Context<'_>, recipe: &Recipe) {
    if let Some(remote) = context.remote.filter(|remote| remote.why_no_write().is_none()) {
        remote.withdraw(&context.definition.name, &recipe.fingerprint().to_string()).await;
    }
}

/// Pulls the largest base of an incremental build of `recipe`, as a template of its own. The inner error is the reason
/// why there is none; `None` if there is no store.
pub(super) async fn base(
    registry: &mut Registry,
    context: &Context<'_>,
    recipe: &Recipe,
) -> Result<std::result::Result<(), Option<Why>>> {
    let Some(remote) = context.remote else {
        return Ok(Err(None));
    };
    if let Some(why) = never(context) {
        return Ok(Err(Some(why)));
    }
    let definition = context.definition;
    let found = match remote.base(&definition.name, recipe, definition.extend).await {
        Ok(found) => found,
        Err(why) => return Ok(Err(Some(why))),
    };
    let manifest = &found.manifest;
    if u32::try_from(manifest.chain).is_ok_and(|chain| chain >= definition.max_extensions) {
        return Ok(Err(Some(format!(
            "entry {} is the result of {} in a row, and `max_extensions` is {}",
            &manifest.fingerprint[..12],
            count(usize::try_from(manifest.chain).unwrap_or_default(), "incremental build"),
            definition.max_extensions
        ))));
    }
    let full = registry.costs(context.project, &definition.name).await?.full;
    let full = full.unwrap_or(built(manifest));
    if let Some(why) = too_dear(remote, manifest, full.mul_f64(share(recipe, &found))) {
        return Ok(Err(Some(why)));
    }
    let permit = match BuildPermit::ask(registry, context, &found.recipe).await? {
        Some(Asked::Granted(permit)) => permit,
        Some(Asked::Busy(_) | Asked::Serial(_)) | None => {
            return Ok(Err(Some("another process builds or pulls the base".into())));
        }
    };
    let pulled = pull(registry, context, remote, &permit, &found, recipe).await;
    permit.release(registry).await;
    Ok(match pulled? {
        Ok(Ended::Sealed(template)) => {
            template.let_go(registry).await?;
            Ok(())
        }
        Ok(Ended::Overtaken(_) | Ended::Unsealed(..)) => Err(Some("files changed in the meantime".into())),
        Err(why) => Err(Some(why)),
    })
}

/// Returns what the store has for a recipe, without pulling it. `instead`: expected time of the way without the store.
pub(crate) async fn look(context: &Context<'_>, recipe: &Recipe, instead: Option<Duration>) -> Option<Shown> {
    let remote = context.remote?;
    let definition = context.definition;
    let mut shown = Shown {
        place: remote.place().to_owned(),
        exact: None,
        base: None,
        why: never(context),
        why_no_push: never(context).or_else(|| remote.why_no_write()),
    };
    if shown.why.is_some() {
        return Some(shown);
    }
    let entry = |found: &Found| ShownEntry {
        fingerprint: found.manifest.fingerprint.clone(),
        bytes: found.manifest.bytes(),
        restore: estimate(&found.manifest),
        build: built(&found.manifest),
        provisional: found.manifest.provisional,
        added: found.added.clone(),
    };
    match remote.exact(&definition.name, recipe).await {
        Ok(found) => {
            let instead = instead.unwrap_or(built(&found.manifest));
            shown.why = too_dear(remote, &found.manifest, instead);
            shown.exact = Some(entry(&found));
        }
        Err(why) => match remote.base(&definition.name, recipe, definition.extend).await {
            Ok(found) => {
                let full = instead.unwrap_or(built(&found.manifest));
                shown.why = too_dear(remote, &found.manifest, full.mul_f64(share(recipe, &found)));
                shown.base = Some(entry(&found));
            }
            Err(other) if other == why => shown.why = Some(why),
            Err(other) => shown.why = Some(format!("{why}; {other}")),
        },
    }
    Some(shown)
}

/// Pulls the template of a recipe, or the one whose fingerprint begins with `digits`, whether that is expected to win
/// or not. Returns its fingerprint, and whether it was not there before; the inner error is the reason why nothing was
/// pulled.
pub(crate) async fn pull_now(
    registry: &mut Registry,
    context: &Context<'_>,
    remote: &Remote,
    recipe: &Recipe,
    digits: Option<&str>,
) -> Result<std::result::Result<(Fingerprint, bool), NotPulled>> {
    if let Some(why) = never(context) {
        return Ok(Err(why.into()));
    }
    let name = &context.definition.name;
    let found = match digits {
        None => remote.find(name, recipe).await,
        Some(digits) => remote.by_digits(name, recipe, digits).await,
    };
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            let why = match digits {
                None => format!("it has no template {}", recipe.fingerprint().short()),
                Some(digits) => format!(
                    "it has no template {digits} with the current build command, inputs and server version"
                ),
            };
            return Ok(Err(NotPulled { why, missing: true }));
        }
        Err(why) => return Ok(Err(why.into())),
    };
    let fingerprint = found.recipe.fingerprint();
    Ok(match obtain(registry, context, remote, &found, recipe).await? {
        Obtained::There => Ok((fingerprint, false)),
        Obtained::Pulled => Ok((fingerprint, true)),
        Obtained::Busy => Err("another process builds or pulls it".to_owned().into()),
        Obtained::Not(why) => Err(why.into()),
    })
}

/// Result of [`obtain`].
enum Obtained {
    /// The server had the template before.
    There,
    /// It was pulled.
    Pulled,
    /// Another command builds or pulls it.
    Busy,
    /// It was not pulled, for this reason.
    Not(Why),
}

/// Pulls a template that was found, if the server does not have it. `recipe`: that of the current inputs.
async fn obtain(
    registry: &mut Registry,
    context: &Context<'_>,
    remote: &Remote,
    found: &Found,
    recipe: &Recipe,
) -> Result<Obtained> {
    let (name, fingerprint) = (&context.definition.name, found.recipe.fingerprint());
    let state = TemplateState::Ready;
    if registry.find_template(context.project, name, &fingerprint, state).await?.is_some() {
        return Ok(Obtained::There);
    }
    let permit = match BuildPermit::ask(registry, context, &found.recipe).await? {
        Some(Asked::Granted(permit)) => permit,
        Some(Asked::Busy(_) | Asked::Serial(_)) | None => return Ok(Obtained::Busy),
    };
    let pulled = pull(registry, context, remote, &permit, found, recipe).await;
    permit.release(registry).await;
    Ok(match pulled? {
        Ok(Ended::Sealed(template)) => {
            template.let_go(registry).await?;
            Obtained::Pulled
        }
        Ok(Ended::Overtaken(_) | Ended::Unsealed(..)) => {
            Obtained::Not("files changed in the meantime".into())
        }
        Err(why) => Obtained::Not(why),
    })
}

/// Result of [`nearest`].
pub(crate) enum Nearest {
    /// The server has a template.
    Found {
        fingerprint: Fingerprint,
        /// Whether it was not there before.
        is_new: bool,
        /// Number of migrations that the inputs have in addition.
        lacks: usize,
    },
    /// Another command builds or restores it.
    Busy,
    /// There is none, for this reason.
    Not(Why),
}

/// Pulls the template of a recipe, or else the largest base of one; or, with `digits`, the template whose fingerprint
/// begins with them. The store is a file, so no gain is weighed.
pub(crate) async fn nearest(
    registry: &mut Registry,
    context: &Context<'_>,
    remote: &Remote,
    recipe: &Recipe,
    digits: Option<&str>,
) -> Result<Nearest> {
    if let Some(why) = never(context) {
        return Ok(Nearest::Not(why));
    }
    let definition = context.definition;
    let name = &definition.name;
    let found = match digits {
        Some(digits) => remote.by_digits(name, recipe, digits).await.and_then(|found| {
            found.ok_or_else(|| "it does not fit the current build command and inputs".to_owned())
        }),
        None => match remote.exact(name, recipe).await {
            Ok(found) => Ok(found),
            Err(_) => remote.base(name, recipe, definition.extend).await,
        },
    };
    let found = match found {
        Ok(found) => found,
        Err(why) => return Ok(Nearest::Not(why)),
    };
    let fingerprint = found.recipe.fingerprint();
    let lacks = migrations(&found.added).len();
    Ok(match obtain(registry, context, remote, &found, recipe).await? {
        Obtained::There => Nearest::Found { fingerprint, is_new: false, lacks },
        Obtained::Pulled => Nearest::Found { fingerprint, is_new: true, lacks },
        Obtained::Busy => Nearest::Busy,
        Obtained::Not(why) => Nearest::Not(why),
    })
}

/// Tells why nothing was pulled.
pub(super) fn tell_miss(context: &Context<'_>, why: &str) {
    if let Some(remote) = context.remote {
        context.tell(Event::Remote(&format!("nothing was pulled from {}: {why}", remote.place())));
    }
}

/// Returns whether what is built here is to be pushed.
pub(super) fn is_to_be_pushed(context: &Context<'_>) -> bool {
    context.remote.is_some_and(Remote::may_write) && never(context).is_none()
}

/// Returns why the definition's templates are never in a store.
fn never(context: &Context<'_>) -> Option<Why> {
    never_shared(context.definition).or_else(|| match context.source {
        Source::Filler(_) => Some("the program fills the databases itself".into()),
        Source::Command(_) => None,
    })
}

/// Returns the duration of a full build where an entry was built, else that of its own build.
fn built(manifest: &Manifest) -> Duration {
    Duration::from_millis(manifest.full_ms.unwrap_or(manifest.build_ms))
}

/// Returns the share of the migrations that a base has.
fn share(recipe: &Recipe, base: &Found) -> f64 {
    let all = migrations(recipe.migrations.iter().map(|file| &file.path)).len().max(1);
    let new = migrations(&base.added).len();
    1.0 - (new as f64 / all as f64).min(1.0)
}

/// Expected time of a download and a restore. Measured: a millisecond for each file that the database has in addition
/// to an empty one, and a second for 60 MB.
fn estimate(manifest: &Manifest) -> Duration {
    const EMPTY: i64 = 300;
    let files: i64 = manifest.databases.iter().map(|dump| (dump.files - EMPTY).max(0)).sum();
    let bytes: u64 = manifest.databases.iter().map(|dump| dump.raw_bytes).sum();
    let each = 150.0 * manifest.databases.len() as f64;
    Duration::from_secs_f64((each + files as f64 + bytes as f64 / 60_000.0) / 1000.0)
}

fn too_dear(remote: &Remote, manifest: &Manifest, instead: Duration) -> Option<Why> {
    let (least, pull) = (remote.min_gain(), estimate(manifest));
    (!least.is_zero() && pull + least > instead).then(|| {
        format!(
            "a restore of entry {} takes about {}, and a build {} (`min_gain` is {})",
            &manifest.fingerprint[..12],
            seconds(pull),
            seconds(instead),
            seconds(least)
        )
    })
}

/// Downloads and restores an entry. `whole`: the inputs that the files have. The inner error is the reason why it
/// cannot be used here.
async fn pull(
    registry: &mut Registry,
    context: &Context<'_>,
    remote: &Remote,
    permit: &BuildPermit,
    found: &Found,
    whole: &Recipe,
) -> Result<std::result::Result<Ended, Why>> {
    let started = Instant::now();
    let owners = match fit(registry, context, found).await? {
        Ok(owners) => owners,
        Err(why) => return Ok(Err(why)),
    };
    let manifest = &found.manifest;
    // Removed when this returns.
    let (_scratch, files) = match remote.fetch(found).await {
        Ok(fetched) => fetched,
        Err(why) => return Ok(Err(why)),
    };
    let databases = manifest.databases.iter().zip(files);
    let extends = match &manifest.base {
        None => None,
        Some(base) => match base.parse() {
            Ok(base) => Some((base, manifest.added.clone())),
            Err(_) => return Ok(Err("its base has no fingerprint".into())),
        },
    };
    let entry = Pulled {
        place: remote.place().to_owned(),
        signed_by: found.signed_by.as_ref().map(ToString::to_string),
        extends,
        chain: manifest.chain,
        provisional: manifest.provisional,
        contents: age(manifest),
        build_time: Duration::from_millis(manifest.build_ms),
        owners,
        databases: databases
            .map(|(dump, file)| PulledDatabase { file, replay: dump.replay.clone() })
            .collect(),
    };
    let ended = match build::pull(registry, context, permit, &entry, whole).await {
        Ok(ended) => ended,
        Err(error) => {
            // A build would fail for these reasons, too.
            if is_connection_loss(&error) || context.deadline.check("").is_err() {
                return Err(error);
            }
            let short = &manifest.fingerprint[..12];
            let warning = Warning::new(format!("entry {short} of {} could not be restored", remote.place()));
            let warning = warning.detail(error.message());
            let warning = error.details().iter().fold(warning, Warning::detail);
            context.tell(Event::Warning(&warning));
            return Ok(Err(format!("the restore of entry {short} failed")));
        }
    };
    if let Ended::Sealed(_) = &ended {
        remote.note_use(found).await;
        let superuser = match catalog::is_superuser(registry.session()).await? {
            true => ", as a superuser",
            false => "",
        };
        context.tell(Event::Remote(&format!(
            "pulled template {} ({}) from {} in {}{superuser} ({}; its build took {})",
            context.definition.name,
            &manifest.fingerprint[..12],
            remote.place(),
            seconds(started.elapsed()),
            size(i64::try_from(manifest.bytes()).unwrap_or(i64::MAX)),
            seconds(built(manifest))
        )));
    }
    Ok(Ok(ended))
}

/// Returns the age of an entry's oldest contents.
fn age(manifest: &Manifest) -> Duration {
    let since = crate::remote::now_s().saturating_sub(manifest.pushed_s);
    Duration::from_secs(manifest.contents_s.saturating_add(since))
}

/// Checks whether an entry can be restored on this server, before anything is downloaded. Returns whether its objects
/// keep the names of their owners; the inner error is the reason why it does not fit.
async fn fit(
    registry: &mut Registry,
    context: &Context<'_>,
    found: &Found,
) -> Result<std::result::Result<bool, Why>> {
    let manifest = &found.manifest;
    let definition = context.definition;
    let of = format!("entry {}", &manifest.fingerprint[..12]);
    let aliases: Vec<&str> = manifest.databases.iter().map(|dump| dump.alias.as_str()).collect();
    if aliases != definition.databases.iter().map(|alias| &**alias).collect::<Vec<&str>>() {
        return Ok(Err(format!("{of} has other databases")));
    }
    let (major, role) = (registry.facts().major(), registry.facts().role.clone());
    if manifest.major != major {
        return Ok(Err(format!("{of} is from PostgreSQL {}, this is PostgreSQL {major}", manifest.major)));
    }
    if let Some(limit) = *definition.stale_after
        && age(manifest) > limit
    {
        return Ok(Err(format!("the contents of {of} are older than `stale_after`")));
    }
    if manifest.base.is_some() {
        if definition.extend == Extend::Never {
            return Ok(Err(format!("{of} was built incrementally, and `extend` is \"never\"")));
        }
        let fingerprint = found.recipe.fingerprint();
        if registry.differed(context.project, &definition.name, &fingerprint).await? {
            return Ok(Err(format!("{of} was built incrementally, and differed from a full build here")));
        }
    }
    match context.tools.find(major).await {
        Err(error) => return Ok(Err(error.message().to_owned())),
        Ok(tools) if tools.major < manifest.dumped_by => {
            return Ok(Err(format!(
                "{of} was dumped by pg_dump {}, and the newest pg_restore here that fits is {}",
                manifest.dumped_by, tools.major
            )));
        }
        Ok(_) => {}
    }
    let names: Vec<String> = manifest.extensions.keys().cloned().collect();
    if !names.is_empty() {
        let available = catalog::available_extensions(registry.session(), &names).await?;
        let available: BTreeMap<String, Option<String>> = available.into_iter().collect();
        for (name, version) in &manifest.extensions {
            match available.get(name).and_then(Option::as_ref) {
                Some(here) if here == version => {}
                Some(here) => {
                    return Ok(Err(format!("{of} has extension `{name}` {version}, this server {here}")));
                }
                None => return Ok(Err(format!("{of} needs extension `{name}`, which this server lacks"))),
            }
        }
    }
    let missing: Vec<String> = registry
        .session()
        .scalars(sql::fill(
            "SELECT name FROM unnest($1::text[]) name \
             WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname::text = name)",
            &[&manifest.roles],
        ))
        .await
        .doing(|| "look for roles".into())?;
    if let Some(name) = missing.first() {
        return Ok(Err(format!("{of} needs role `{name}`, which this server lacks")));
    }
    if manifest.built_as == role {
        return Ok(Ok(true));
    }
    // The role that restores becomes the owner, as it would by a build.
    if manifest.names_builder || manifest.other_owners {
        return Ok(Err(format!(
            "{of} names its builder `{}` in grants or has several owners, and builds run as `{role}` here",
            manifest.built_as
        )));
    }
    Ok(Ok(false))
}

/// Returns why templates of a definition are in no store.
pub(super) fn never_shared(definition: &crate::config::Definition) -> Option<Why> {
    (*definition.from != *EMPTY_DATABASE).then(|| {
        format!(
            "builds of `{}` start from database `{}`, so its templates are not exchanged",
            definition.name, definition.from
        )
    })
}
