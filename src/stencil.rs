//! [`Stencil`]: the facade. The command line, and programs that use the crate as a library, call
//! nothing below it.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use crate::clone::{self, Clone, Request};
use crate::config::{Config, Definition};
use crate::context::{Context, ReadInputs};
use crate::error::{Error, Kind, Result};
use crate::events::{Event, Observe};
use crate::fingerprint::Inputs;
use crate::handout::{self, NamedDatabase, Outcome, Phase};
use crate::lease::Keeper;
use crate::names::{self, NamePattern};
use crate::pg::lock::LockKey;
use crate::pg::{Doing as _, catalog, cause, sqlstate};
use crate::registry::database::Owner;
use crate::registry::{CloneRow, Registry, TemplateRow};
use crate::sweep::{self, Action, Dead};
use crate::template::{self, Ensured};

pub use crate::handout::Shard;
pub use crate::pg::Limit;
pub use crate::pg::endpoint::{Defaults, Endpoint, PassLookup};
pub use crate::registry::{Holder, Lease};

/// Looks up a variable of `env_inputs`.
pub type Variable = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// One project on one server.
#[derive(Clone)]
pub struct Stencil {
    config: Arc<Config>,
    endpoint: Endpoint,
    holder: Holder,
    variable: Variable,
}

/// What a caller of [`Stencil::acquire`] wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name of the definition; `None` if the file has only one.
    pub definition: Option<String>,
    /// How many clones.
    pub count: usize,
    /// Names of their databases.
    pub pattern: NamePattern,
    /// `{shard}`, and variables.
    pub shard: Option<Shard>,
    /// How long they are kept.
    pub lease: Lease,
    /// Replaces a live clone of the wanted name instead of giving it back.
    pub fresh: bool,
    /// Leaves the databases of a failed build to a person.
    pub keep_failed: bool,
}

/// Clones that are ready for use. Their locks are held by [`Acquired::registry`].
pub struct Acquired {
    /// The session that holds the locks.
    pub registry: Registry,
    /// The clones, in order.
    pub clones: Vec<Clone>,
    /// Name of the definition.
    pub definition: String,
    /// Of the definition's present inputs.
    pub fingerprint: crate::names::Fingerprint,
    /// How they came about.
    pub outcome: Outcome,
    /// Times, in order: files, template, clones.
    pub times: [Duration; 3],
    /// What the template's build took, then or now, if known.
    pub build_time: Option<Duration>,
}

/// What [`Stencil::list`] shows.
pub struct Listing {
    /// Templates with the total size of their databases.
    pub templates: Vec<(TemplateRow, i64)>,
    /// Clones with their databases, and whether somebody holds their lock.
    pub clones: Vec<(CloneRow, Vec<NamedDatabase>, bool)>,
}

impl Stencil {
    /// Puts a checked config and a server together. Touches neither files nor server.
    pub fn new(config: Config, endpoint: Endpoint, holder: Holder, variable: Variable) -> Self {
        let endpoint =
            endpoint.with_client(config.server.client_host.clone(), config.server.client_port);
        Stencil {
            config: Arc::new(config),
            endpoint,
            holder,
            variable,
        }
    }

    /// The config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The server.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The definition of this name, or the only one.
    ///
    /// # Errors
    /// [`Kind::Usage`] with the names that there are.
    pub fn definition(&self, name: Option<&str>) -> Result<&Definition> {
        let all = &self.config.definitions;
        let names = || {
            all.iter()
                .map(|d| format!("`{}`", d.name))
                .collect::<Vec<_>>()
                .join(", ")
        };
        match (name, all.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(Error::usage(format!(
                "the config has several templates: {}",
                names()
            ))
            .hint("say which one: `-t NAME`")),
            (Some(name), _) => all.iter().find(|d| d.name == name).ok_or_else(|| {
                Error::usage(format!(
                    "there is no [template.{name}] in {}",
                    self.config.file.display()
                ))
                .hint(format!("there are {}", names()))
            }),
        }
    }

    fn context<'a>(
        &'a self,
        definition: &'a Definition,
        limit: &'a Limit,
        observe: Observe<'a>,
        keep_failed: bool,
    ) -> Context<'a> {
        let (config, variable, found) = (
            Arc::clone(&self.config),
            Arc::clone(&self.variable),
            definition.clone(),
        );
        let read: ReadInputs = Arc::new(move || Inputs::read(&config.root, &found, &*variable));
        Context {
            endpoint: &self.endpoint,
            registry: &self.config.server.registry,
            project: &self.config.project,
            root: &self.config.root,
            definition,
            strategy: self.config.clone.strategy,
            holder: &self.holder,
            limit,
            observe,
            read,
            keep_failed,
        }
    }

    async fn open(&self, limit: &Limit) -> Result<Registry> {
        Registry::open(&self.endpoint, &self.config.server.registry, limit).await
    }

    /// Builds the template if it is missing. The returned session keeps it from being dropped.
    ///
    /// # Errors
    /// As [`template::ensure`].
    pub async fn ensure(
        &self,
        definition: Option<&str>,
        limit: &Limit,
        observe: Observe<'_>,
        keep_failed: bool,
    ) -> Result<(Registry, Ensured)> {
        let definition = self.definition(definition)?;
        let context = self.context(definition, limit, observe, keep_failed);
        let mut registry = self.open(limit).await?;
        let ensured = template::ensure(&mut registry, &context).await?;
        if ensured.outcome == Outcome::Hit {
            self.note(&mut registry, definition, &ensured).await?;
        }
        Ok((registry, ensured))
    }

    async fn note(
        &self,
        registry: &mut Registry,
        definition: &Definition,
        ensured: &Ensured,
    ) -> Result<()> {
        registry
            .note_event(
                &self.config.project,
                &definition.name,
                ensured.template.fingerprint(),
                ensured.outcome.as_str(),
                ensured.template_time.as_millis() as u64,
            )
            .await
    }

    /// Template → clones. Only slower, never wrong: a template that cannot be copied is marked
    /// broken and rebuilt once; if the new one cannot be copied either, the build command runs
    /// straight on the clone.
    ///
    /// # Errors
    /// As [`template::ensure`] and [`clone::create`]. Clones that were made before the error are
    /// given up.
    pub async fn acquire(
        &self,
        wanted: &Wanted,
        limit: &Limit,
        observe: Observe<'_>,
    ) -> Result<Acquired> {
        let definition = self.definition(wanted.definition.as_deref())?;
        let context = self.context(definition, limit, observe, wanted.keep_failed);
        let group = names::clone_id();
        clone::check_names(
            &context,
            &wanted.pattern,
            &group,
            wanted.count,
            wanted.shard,
        )?;
        let mut registry = self.open(limit).await?;
        if !wanted.pattern.is_unique()
            && let Some(reused) = self.reuse(&mut registry, &context, wanted).await?
        {
            return Ok(reused.into_acquired(registry, definition));
        }
        let mut ensured = template::ensure(&mut registry, &context).await?;
        let (fingerprint_time, mut template_time) =
            (ensured.fingerprint_time, ensured.template_time);
        if ensured.outcome == Outcome::Hit {
            self.note(&mut registry, definition, &ensured).await?;
        }
        let mut clones = Vec::new();
        let mut group = names::clone_id();
        let mut rebuilt = false;
        let mut outcome = ensured.outcome;
        let started = std::time::Instant::now();
        while clones.len() < wanted.count {
            let request = Request {
                group: &group,
                pattern: &wanted.pattern,
                index: clones.len(),
                shard: wanted.shard,
                lease: wanted.lease,
                outcome,
            };
            let made = if outcome == Outcome::Fallback {
                let fingerprint = *ensured.template.fingerprint();
                clone::create_without_template(&mut registry, &context, &fingerprint, &request)
                    .await
            } else {
                clone::create(&mut registry, &context, &ensured.template, &request).await
            };
            match made {
                Ok(clone) => {
                    clones.push(clone);
                    // A CREATE cannot be interrupted, but who gave up meanwhile wants no clone.
                    if limit.cancel.is_cancelled() {
                        self.give_up_all(&mut registry, &clones).await?;
                        return Err(Error::new(Kind::Interrupted, "interrupted"));
                    }
                }
                Err(error) if outcome != Outcome::Fallback && template_is_to_blame(&error) => {
                    if clones.is_empty() {
                        // The sweep still knows what failed by this one.
                        group = names::clone_id();
                    }
                    let fingerprint = ensured.template.fingerprint().short();
                    let cause = cause(&error);
                    if rebuilt {
                        context.tell(Event::Warning(&format!(
                            "the rebuilt template {fingerprint} cannot be copied either ({cause}): the build command runs straight on the clone"
                        )));
                        outcome = Outcome::Fallback;
                        continue;
                    }
                    rebuilt = true;
                    context.tell(Event::Warning(&format!(
                        "template {fingerprint} cannot be copied ({cause}): it is marked broken and built anew"
                    )));
                    registry
                        .break_template(ensured.template.id(), &cause, false)
                        .await?;
                    ensured.template.let_go(&mut registry).await?;
                    ensured = template::ensure(&mut registry, &context).await?;
                    template_time += ensured.template_time;
                    outcome = ensured.outcome;
                }
                Err(error) => {
                    self.give_up_all(&mut registry, &clones).await?;
                    return Err(error);
                }
            }
        }
        let fingerprint = *ensured.template.fingerprint();
        let build_time = ensured.build_time;
        ensured.template.let_go(&mut registry).await?;
        Ok(Acquired {
            registry,
            clones,
            definition: definition.name.clone(),
            fingerprint,
            outcome,
            times: [fingerprint_time, template_time, started.elapsed()],
            build_time,
        })
    }

    /// Looks whether a clone of the wanted name is there: a live one of ours is given back, a dead
    /// one makes way, anything else is an error.
    async fn reuse(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        wanted: &Wanted,
    ) -> Result<Option<Reused>> {
        let mut reused = Vec::new();
        for index in 0..wanted.count {
            let names = clone::names(context, &wanted.pattern, "", index, wanted.shard)?;
            let mut own = None;
            if let Some(name) = names.first()
                && let Some(row) = registry.clone_by_name(name).await?
                && self.is_kept(&row, context, wanted)
            {
                if !wanted.fresh
                    && let Some(clone) = self
                        .renew(registry, &row, wanted.lease, context.limit)
                        .await?
                {
                    reused.push(clone);
                    continue;
                }
                own = Some(row.id);
            }
            for name in &names {
                self.make_way(registry, context, name, own.as_deref())
                    .await?;
            }
        }
        if reused.is_empty() {
            return Ok(None);
        }
        if reused.len() < wanted.count {
            return Err(Error::new(
                Kind::NameTaken,
                "some of the wanted clones are there already, and some are not",
            )
            .hint("`--fresh` makes all of them anew; `pgstencil release NAME` gives one back"));
        }
        let traits = template::server_traits(registry).await?;
        let now = context.inputs().await?.with_server(traits).fingerprint();
        if reused.iter().any(|clone| clone.fingerprint != now) {
            context.tell(Event::Warning(&format!(
                "clone {} is from older migrations ({}; now {}): `--fresh` makes it anew",
                reused[0].name(),
                reused[0].fingerprint.short(),
                now.short()
            )));
        }
        Ok(Some(Reused {
            clones: reused,
            fingerprint: now,
        }))
    }

    /// Whether a clone is the caller's own, and its lease is not over.
    fn is_kept(&self, row: &CloneRow, context: &Context<'_>, wanted: &Wanted) -> bool {
        matches!(wanted.lease, Lease::Expiry(_))
            && row.state == "leased"
            && row.lease == "expiry"
            && !row.expired
            && row.project == self.config.project
            && row.definition == context.definition.name
    }

    /// Drops the clone that has a wanted name, if its holder is gone. `own`: the caller's, who wants
    /// another one in its place.
    async fn make_way(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        name: &str,
        own: Option<&str>,
    ) -> Result<()> {
        let started = std::time::Instant::now();
        let mut told = false;
        while let Some(row) = registry.clone_by_name(name).await? {
            let by_holder = own == Some(row.id.as_str());
            let given_up = |row: &CloneRow| {
                by_holder || row.state == "released" || row.expired || self.holder_is_dead(row)
            };
            let dead = |row: &CloneRow| {
                let orphaned = row.orphaned_s.unwrap_or(-1.0);
                given_up(row) || orphaned >= self.config.clone.orphan_grace.as_secs_f64()
            };
            if !dead(&row) {
                break;
            }
            match sweep::drop_dead_clone(registry, &row.id, by_holder, &dead).await? {
                Dead::Gone | Dead::Alive => {}
                // Another sweep is at it, or the server has not yet seen that the holder is gone.
                Dead::Locked if given_up(&row) => {
                    if !told && started.elapsed() > Duration::from_secs(2) {
                        told = true;
                        context.tell(Event::Warning(&format!(
                            "waiting for the drop of the clone that had the name `{name}`"
                        )));
                    }
                    let what = format!("the drop of the clone that had the name `{name}`");
                    context
                        .limit
                        .pause(Duration::from_millis(20), &what)
                        .await?;
                }
                Dead::Locked => break,
                Dead::InUse => {
                    return Err(clone::taken(registry, name).await.detail(
                        "that process is gone or its lease is over, but somebody is still connected",
                    ));
                }
                Dead::Stays(why) => {
                    let error = clone::taken(registry, name).await;
                    return Err(why.into_iter().fold(error, Error::detail));
                }
            }
        }
        clone::check_name(registry, name).await
    }

    /// Renews the lease of a live clone; `None` if its databases are not all there.
    async fn renew(
        &self,
        registry: &mut Registry,
        row: &CloneRow,
        lease: Lease,
        limit: &Limit,
    ) -> Result<Option<Clone>> {
        let key = row.key();
        while !registry
            .session()
            .try_lock(key)
            .await
            .doing(|| "lock a clone".into())?
        {
            // Its maker has not quite ended, or a sweep looks at it.
            limit
                .pause(Duration::from_millis(10), "the clone's lock")
                .await?;
        }
        let whole = self.is_whole(registry, &row.id).await?;
        let renewed = whole
            && registry
                .set_leased(&row.id, lease, &self.holder)
                .await
                .doing(|| format!("renew the lease of clone {}", row.id))?;
        if !renewed {
            registry
                .session()
                .unlock(key)
                .await
                .doing(|| "unlock".into())?;
            return Ok(None);
        }
        match registry.clone_by_id(&row.id).await? {
            Some(row) => Ok(Some(Clone::read(registry, &row).await?)),
            None => Ok(None),
        }
    }

    async fn is_whole(&self, registry: &mut Registry, clone: &str) -> Result<bool> {
        let rows = registry
            .databases_of(&Owner::Clone(clone.to_owned()))
            .await?;
        let oids: Vec<_> = rows.iter().filter_map(|r| r.oid).collect();
        let found = catalog::databases(registry.session(), &[], &oids).await?;
        Ok(rows.iter().all(|r| {
            found
                .iter()
                .any(|d| r.is(d) && d.name == r.name && !d.invalid)
        }))
    }

    /// Whether the process that holds a clone is known to have ended: it ran where we run, and its
    /// pid is nobody's.
    fn holder_is_dead(&self, row: &CloneRow) -> bool {
        let holder = &row.holder.0;
        row.lease == "session"
            && !holder.machine.is_empty()
            && holder.machine == self.holder.machine
            && !crate::process::is_alive(holder.pid)
    }

    async fn give_up(&self, registry: &mut Registry, clone: &str) -> Result<()> {
        registry.set_released(clone).await?;
        registry
            .session()
            .unlock(LockKey::clone(clone))
            .await
            .doing(|| "unlock a clone".into())?;
        Ok(())
    }

    async fn give_up_all(&self, registry: &mut Registry, clones: &[Clone]) -> Result<()> {
        for clone in clones {
            self.give_up(registry, &clone.id).await?;
        }
        Ok(())
    }

    /// The variables for `run`'s command.
    ///
    /// # Errors
    /// A placeholder without a value.
    pub fn variables(
        &self,
        acquired: &Acquired,
        shard: Option<Shard>,
    ) -> Result<Vec<(OsString, OsString)>> {
        let sets: Vec<Vec<NamedDatabase>> = acquired
            .clones
            .iter()
            .map(|c| c.databases.clone())
            .collect();
        let definition = self.definition(Some(&acquired.definition))?;
        handout::variables(
            &self.endpoint,
            definition,
            Phase::Run,
            acquired.outcome,
            &sets,
            shard,
        )
    }

    /// Watches over the locks of clones while a command runs.
    pub fn keep(&self, registry: Registry, clones: &[Clone]) -> Keeper {
        Keeper::start(
            registry,
            &self.endpoint,
            &self.config.server.registry,
            clones.iter().map(|c| c.id.clone()).collect(),
            self.config.clone.orphan_grace,
        )
    }

    /// The keeper's session, or a new one if it was lost since the keeper's last look.
    async fn again(&self, registry: Option<Registry>) -> Result<Registry> {
        const PATIENCE: Duration = Duration::from_secs(10);
        if let Some(mut registry) = registry
            && let Ok(Ok(())) = tokio::time::timeout(PATIENCE, registry.ping()).await
        {
            return Ok(registry);
        }
        let limit = Limit::new(Some(PATIENCE), Default::default());
        Registry::open_existing(&self.endpoint, &self.config.server.registry, &limit)
            .await?
            .ok_or_else(|| Error::failed("the registry database is gone"))
    }

    /// Ends a session lease. Returns what the holder should know, such as that the command replaced
    /// the clone. The drop is left to a sweep: it forces a checkpoint of the whole server.
    ///
    /// # Errors
    /// The driver's.
    pub async fn give_back(
        &self,
        registry: Option<Registry>,
        clones: &[Clone],
    ) -> Result<Vec<String>> {
        let mut registry = self.again(registry).await?;
        let mut warnings = Vec::new();
        for clone in clones {
            warnings.extend(self.replaced(&mut registry, clone).await?);
            self.give_up(&mut registry, &clone.id).await?;
        }
        registry.close().await;
        Ok(warnings)
    }

    /// Turns a session lease into one that expires, for `--keep`.
    ///
    /// # Errors
    /// The driver's.
    pub async fn prolong(&self, registry: Option<Registry>, clones: &[Clone]) -> Result<()> {
        let mut registry = self.again(registry).await?;
        for clone in clones {
            let kept = registry
                .set_leased(
                    &clone.id,
                    Lease::Expiry(self.config.clone.ttl),
                    &self.holder,
                )
                .await
                .doing(|| format!("keep clone {}", clone.id))?;
            if !kept {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("clone {} was given up meanwhile", clone.id),
                ));
            }
        }
        registry.close().await;
        Ok(())
    }

    /// Whether a command dropped or replaced its clone, as Django's test runner does without
    /// `--keepdb`.
    async fn replaced(&self, registry: &mut Registry, clone: &Clone) -> Result<Vec<String>> {
        let names: Vec<String> = clone.databases.iter().map(|d| d.name.clone()).collect();
        let found = catalog::databases(registry.session(), &names, &clone.oids).await?;
        let mut warnings = Vec::new();
        for (database, oid) in clone.databases.iter().zip(&clone.oids) {
            if found.iter().any(|d| d.oid == *oid) {
                // Something beside it, such as Django's test_NAME, or NAME_1 of its workers?
                let others = registry.made_beside(&database.name, *oid).await?;
                if !others.is_empty() {
                    warnings.push(format!(
                        "the command created databases of its own beside its clone `{}`: {}; pgstencil leaves them alone. Django: set TEST = {{\"NAME\": os.environ.get(\"PGSTENCIL_NAME\")}}, run the tests with --keepdb (pytest: --reuse-db), and give workers theirs with --clones and --name",
                        database.name,
                        others.join(", ")
                    ));
                }
                continue;
            }
            let what = if found.iter().any(|d| d.name == database.name) {
                "dropped its clone and created another database in its place"
            } else {
                "dropped its clone"
            };
            warnings.push(format!(
                "the command {what} (`{}`), so it paid for a database of its own: let it keep the one it gets. Django: run the tests with --keepdb (pytest: --reuse-db)",
                database.name
            ));
        }
        Ok(warnings)
    }

    /// Gives clones back by name or id. Returns their names.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or [`Kind::NameTaken`] for one that a running process holds; the ones
    /// before it are given back.
    pub async fn release(&self, names: &[String], limit: &Limit) -> Result<Vec<String>> {
        let Some(mut registry) =
            Registry::open_existing(&self.endpoint, &self.config.server.registry, limit).await?
        else {
            return Err(unknown(names.first().map_or("", String::as_str)));
        };
        let mut released = Vec::new();
        for name in names {
            let Some(row) = registry.clone_by_name(name).await? else {
                return Err(unknown(name));
            };
            if row.state == "released" {
                released.push(row.name);
                continue;
            }
            let key = row.key();
            while !registry
                .session()
                .try_lock(key)
                .await
                .doing(|| "lock a clone".into())?
            {
                if row.lease == "session" {
                    return Err(Error::new(
                        Kind::NameTaken,
                        format!(
                            "clone `{}` is held by a running command: {}",
                            row.name,
                            row.holder.0.describe()
                        ),
                    )
                    .hint("it is given back when that command ends"));
                }
                // Its maker has not quite ended, or a sweep looks at it.
                limit
                    .pause(Duration::from_millis(20), "the clone's lock")
                    .await?;
            }
            self.give_up(&mut registry, &row.id).await?;
            released.push(row.name);
        }
        registry.close().await;
        Ok(released)
    }

    /// What is there. Writes nothing; an absent registry is an empty list.
    ///
    /// # Errors
    /// The driver's.
    pub async fn list(&self, limit: &Limit) -> Result<Listing> {
        let mut listing = Listing {
            templates: Vec::new(),
            clones: Vec::new(),
        };
        let Some(mut registry) =
            Registry::open_existing(&self.endpoint, &self.config.server.registry, limit).await?
        else {
            return Ok(listing);
        };
        for row in registry.templates().await? {
            let databases = registry.databases_of(&Owner::Template(row.id)).await?;
            let bytes = databases.iter().filter_map(|d| d.bytes).sum();
            listing.templates.push((row, bytes));
        }
        let held = registry.held_locks().await?;
        for row in registry.clones().await? {
            let rows = registry.databases_of(&Owner::Clone(row.id.clone())).await?;
            let databases = rows
                .into_iter()
                .map(|d| NamedDatabase {
                    role: d.role,
                    name: d.name,
                })
                .collect();
            let locked = held.contains(&row.key());
            listing.clones.push((row, databases, locked));
        }
        registry.close().await;
        Ok(listing)
    }

    /// What a sweep would do now. Writes nothing.
    ///
    /// # Errors
    /// The driver's.
    pub async fn plan_sweep(&self, registry: &mut Registry) -> Result<Vec<Action>> {
        sweep::plan(registry, self.config.clone.orphan_grace).await
    }
}

/// Plans and applies a sweep, for a process that nobody waits for.
///
/// # Errors
/// The driver's.
pub async fn sweep_now(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut last = Ok(());
    for pause in PASSES {
        tokio::time::sleep(pause).await;
        match pass(endpoint, registry, grace, &mut lines).await {
            Ok(true) => return Ok(lines),
            other => last = other.map(|_| ()),
        }
    }
    last.map(|()| lines)
}

/// The times between the passes of a sweep: what cannot be dropped now often can a moment later,
/// when somebody's session has ended or the server is back.
const PASSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(20),
];

/// One pass, and whether all that it could do is done.
async fn pass(
    endpoint: &Endpoint,
    registry: &str,
    grace: Duration,
    lines: &mut Vec<String>,
) -> Result<bool> {
    let limit = Limit::new(Some(Duration::from_secs(60)), Default::default());
    let Some(mut registry) = Registry::open_existing(endpoint, registry, &limit).await? else {
        return Ok(true);
    };
    let actions = sweep::plan(&mut registry, grace).await?;
    lines.extend(sweep::apply(&mut registry, &actions, grace).await?);
    let drops = |actions: &[Action]| {
        actions.iter().any(|action| {
            matches!(
                action,
                Action::DropClone { .. } | Action::DropTemplate { .. }
            )
        })
    };
    let done = !drops(&actions) || !drops(&sweep::plan(&mut registry, grace).await?);
    registry.close().await;
    Ok(done)
}

struct Reused {
    clones: Vec<Clone>,
    fingerprint: crate::names::Fingerprint,
}

impl Reused {
    fn into_acquired(self, registry: Registry, definition: &Definition) -> Acquired {
        Acquired {
            registry,
            clones: self.clones,
            definition: definition.name.clone(),
            fingerprint: self.fingerprint,
            outcome: Outcome::Reused,
            times: [Duration::ZERO; 3],
            build_time: None,
        }
    }
}

fn unknown(name: &str) -> Error {
    Error::new(
        Kind::NotFound,
        format!("there is no clone `{name}` in this registry"),
    )
    .hint("`pgstencil list` shows the clones that there are")
}

/// Whether a failed copy speaks against the template, rather than against the server, the role,
/// the name or the caller's patience.
fn template_is_to_blame(error: &Error) -> bool {
    match sqlstate(error).as_deref() {
        // It is gone, invalid or in use; its files are damaged or of another collation version; it is
        // somebody else's, or the server may not read its files (42501; a missing CREATEDB has been
        // looked for, and is another error).
        Some(
            "3D000" | "42501" | "55000" | "55006" | "58P01" | "58030" | "XX000" | "XX001" | "XX002",
        ) => error.message().starts_with("could not create database"),
        _ => false,
    }
}
