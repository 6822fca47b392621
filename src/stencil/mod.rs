//! [`Stencil`]: the facade. The command line, and programs that use the crate as a library, call only this level.

mod acquire;
mod bench;
mod building;
#[cfg(feature = "cli")]
mod cache;
pub(crate) mod checkout;
mod cleanup;
mod cleanup_thread;
mod doctor;
#[cfg(feature = "cli")]
mod dumps;
mod eviction;
mod explain;
mod hand_out;
#[cfg(feature = "cli")]
mod holdings;
mod leases;
pub(crate) mod locate;
mod name_conflict;
mod open;
mod owed;
mod prune;
mod rebuild;
mod release;
#[cfg(feature = "cli")]
mod remote;
mod request;
mod reuse;
mod session_cache;
mod stock;
mod upkeep;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::cleanup_thread::CleanupThread;
use self::session_cache::SessionCache;
use crate::config::{BackgroundWork, Config, Definition, ServerSettings};
use crate::context::{Context, Filler, Source};
use crate::env::{Environment, HOME, PATH, UNTRUSTED, XDG_CACHE_HOME};
use crate::error::{Error, Result};
use crate::events::Observe;
use crate::fingerprint::{FileCache, Inputs, Recipe};
use crate::names::Fingerprint;
use crate::pg::catalog;
use crate::registry::database::Owner;
use crate::registry::{CloneRow, TemplateRow};
use crate::remote::Remote;
use crate::remote::tools::ToolSearch;
use crate::retention::cleanup::Action;
use crate::retention::evidence::Evidence;
pub(crate) use crate::retention::evidence::Outlook;
use crate::template::Ensured;
use crate::variables::{NamedDatabase, Outcome};

pub(crate) use self::acquire::{Demand, Wanted};
pub use self::building::{Begun, Building};
#[cfg(feature = "cli")]
pub(crate) use self::cache::{CacheKey, SavedCache, cache_key, restore_cache, save_cache};
pub use self::cleanup::clean_up_now;
pub(crate) use self::cleanup::{Due, clean_up_copies, clean_up_with};
#[cfg(feature = "cli")]
pub(crate) use self::dumps::{Filled, Left, SavedDumps};
pub(crate) use self::eviction::{EvictionDone, EvictionPlan, Stays, Targets};
pub(crate) use self::explain::{Explanation, NoWaypoints, Now, OnServer, explain_files};
pub(crate) use self::hand_out::HeldElsewhere;
#[cfg(feature = "cli")]
pub(crate) use self::holdings::{Held, Holdings, holdings};
pub use self::leases::{Lease, LeasedClone, LeasedDatabase, Leases, Ttl};
pub use self::open::StencilBuilder;
pub(crate) use self::prune::{Prunable, PrunePlan, Pruned};
pub use self::release::Released;
#[cfg(feature = "cli")]
pub(crate) use self::remote::{NotPulled, NotPushed, Pushed};
pub use self::request::DatabaseRequest;
pub(crate) use self::reuse::Age;
pub(crate) use self::stock::Stock;
pub(crate) use crate::pg::endpoint::{Defaults, Endpoint, PassLookup};
pub(crate) use crate::pg::{Deadline, Door};
pub(crate) use crate::registry::bound::BoundRow;
pub(crate) use crate::registry::dropped::DroppedRow;
pub(crate) use crate::registry::event::Tally;
pub(crate) use crate::registry::holder::{Branch, BranchSource, Checkout, Repository};
pub(crate) use crate::registry::owner::Asker;
pub(crate) use crate::registry::{CloneState, Holder, LeaseKind, Registry, ShownState, TemplateState, Term};
pub(crate) use crate::retention::evict::{Evicted, Eviction};
pub(crate) use crate::template::{Provenance, Rebuilt};
pub(crate) use crate::variables::Shard;

/// Number of released clones from which on a release helps the cleanup thread: so there are never many more.
const MANY: usize = 20;

/// Looks up a variable of `env_inputs`.
pub(crate) type Variable = Arc<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// Handle to one project on one server.
#[derive(Clone)]
pub struct Stencil {
    config: Arc<Config>,
    endpoint: Endpoint,
    holder: Holder,
    variable: Variable,
    idle: Arc<SessionCache>,
    background: Arc<CleanupThread>,
    file_cache: Arc<FileCache>,
    full_build: bool,
    building: Arc<[String]>,
    remote: Option<Arc<Remote>>,
    untrusted: bool,
    tools: Arc<ToolSearch>,
    demands: Arc<upkeep::Demands>,
    filler: Option<Filler>,
    /// Directory for copies of the tree.
    copies: Option<PathBuf>,
    /// Number of released clones from which on a release drops them, since the cleanup thread does not keep up;
    /// `None`: never.
    many: Option<usize>,
    /// Number of released clones that could not be dropped.
    stuck: Arc<AtomicUsize>,
    /// Recipes of earlier requests, by definition; `None`: each request reads the inputs.
    recipes: Option<Arc<Mutex<BTreeMap<String, Recipe>>>>,
}

/// Result of [`Stencil::list`].
#[derive(Default)]
pub(crate) struct Listing {
    /// Templates.
    pub(crate) templates: Vec<TemplateListing>,
    /// Clones.
    pub(crate) clones: Vec<CloneListing>,
}

/// Template in a [`Listing`].
pub(crate) struct TemplateListing {
    /// Its row in the registry.
    pub(crate) row: TemplateRow,
    /// Total size of its databases.
    pub(crate) bytes: i64,
    /// What is known about its rebuild, if it was built incrementally.
    pub(crate) outlook: Option<Outlook>,
}

/// Clone in a [`Listing`].
pub(crate) struct CloneListing {
    /// Its row in the registry.
    pub(crate) row: CloneRow,
    /// Its databases.
    pub(crate) databases: Vec<NamedDatabase>,
    /// Whether a session holds its lock.
    pub(crate) locked: bool,
    /// Total size of its databases; `None` if that was not read, or cannot be.
    pub(crate) bytes: Option<i64>,
}

impl Stencil {
    /// Combines a checked config and a server. Accesses neither files nor server.
    pub(crate) fn new(config: Config, endpoint: Endpoint, holder: Holder, variable: Variable) -> Self {
        let ServerSettings { client_host, client_port, client_for, .. } = &config.server;
        let client_host = client_host.as_ref().map(ToString::to_string);
        let endpoint = endpoint.with_client(client_host, *client_port, *client_for);
        let config = Arc::new(config);
        let file_cache = match config.file_cache {
            true => FileCache::in_memory(),
            false => FileCache::off(),
        };
        let background = match config.clone.background {
            BackgroundWork::Auto => CleanupThread::new(cleanup_thread::Checkout {
                config: Arc::clone(&config),
                endpoint: endpoint.clone(),
                holder: holder.clone(),
            }),
            BackgroundWork::Off => CleanupThread::off(),
        };
        let known = [XDG_CACHE_HOME, HOME].map(|name| (name, variable(name)));
        let known: Environment = known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let tools = ToolSearch {
            path: variable(PATH),
            bindir: config.server.bindir.clone(),
            cache: known.cache_dir(),
            server: None,
        };
        Stencil {
            config,
            endpoint,
            holder,
            variable,
            idle: Arc::default(),
            background: Arc::new(background),
            file_cache: Arc::new(file_cache),
            full_build: false,
            building: Arc::default(),
            remote: None,
            untrusted: false,
            tools: Arc::new(tools),
            demands: Arc::default(),
            filler: None,
            copies: None,
            many: Some(MANY),
            stuck: Arc::default(),
            recipes: None,
        }
    }

    /// Sets the builds that the caller is a part of, as lines of [`BUILDING`](crate::env::BUILDING): a build command
    /// that requests its own template would wait for itself.
    #[must_use]
    pub(crate) fn within_builds(mut self, building: &str) -> Self {
        self.building = building.lines().map(str::to_owned).collect();
        self
    }

    /// Sets whether what is built here must serve no other command: jobs of forks, on servers that others share. They use
    /// templates that exist; otherwise the build command runs directly in the clone.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn with_untrusted(mut self, untrusted: bool) -> Self {
        self.untrusted = untrusted;
        self
    }

    /// Fails for a caller whose results must serve no other command.
    ///
    /// # Errors
    /// [`Kind::Failed`]
    pub(crate) fn refuse_untrusted(&self, what: &str) -> Result<()> {
        match self.untrusted {
            false => Ok(()),
            true => Err(Error::failed(format!("nothing was {what}: {UNTRUSTED} is set"))
                .detail("what such a job builds or pulls serves no other command")
                .hint("`pgstencil run` uses templates that exist, and else builds in its own clone")),
        }
    }

    /// Sets the store of templates that several servers share.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn with_remote(mut self, remote: Option<Remote>) -> Self {
        self.remote = remote.map(Arc::new);
        self
    }

    /// Keeps the results of reading the inputs in `cache`. The default cache lives in memory, as long as the last
    /// copy of this value.
    #[must_use]
    pub(crate) fn with_file_cache(mut self, cache: FileCache) -> Self {
        self.file_cache = Arc::new(cache);
        self
    }

    /// Sets the user's cache directory, in which copies of the tree are made.
    #[must_use]
    pub(crate) fn with_copies_in(mut self, cache: Option<PathBuf>) -> Self {
        self.copies = cache.map(|directory| directory.join("trees"));
        self
    }

    /// Returns the directory in which copies of the tree are made.
    pub(crate) fn copies(&self) -> Option<&Path> {
        self.copies.as_deref()
    }

    /// Sets whether a missing template gets a full build even if an incremental build is possible, including where a
    /// full build failed before.
    #[must_use]
    pub(crate) fn with_full_build(mut self, full_build: bool) -> Self {
        self.full_build = full_build;
        self
    }

    /// Makes a stencil for a test program. It reads the inputs of a definition once, and again only after a build whose
    /// inputs changed. With `cache`, the result of the reading is kept in that directory.
    #[must_use]
    pub(crate) fn for_tests(mut self, cache: Option<PathBuf>) -> Self {
        self.recipes = Some(Arc::default());
        match cache {
            Some(directory) => {
                let cache = FileCache::at(directory, self.holder.machine.clone());
                self.with_file_cache(cache)
            }
            None => self,
        }
    }

    /// Has the next request of each definition read its inputs, after [`Stencil::for_tests`].
    pub(crate) fn forget_recipes(&self) {
        if let Some(recipes) = &self.recipes {
            recipes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Returns the recipe of an earlier request, if there are to be no more reads.
    fn known_recipe(&self, definition: &Definition) -> Option<Recipe> {
        let recipes = self.recipes.as_ref().filter(|_| self.filler.is_none())?;
        recipes.lock().unwrap_or_else(PoisonError::into_inner).get(&definition.name).cloned()
    }

    /// Keeps the recipe of a request for later ones, if `result` is its template: otherwise the inputs have changed
    /// since they were read.
    fn keep_recipe(&self, definition: &Definition, recipe: Recipe, result: &Fingerprint) {
        let Some(recipes) = self.recipes.as_ref().filter(|_| self.filler.is_none()) else {
            return;
        };
        let mut recipes = recipes.lock().unwrap_or_else(PoisonError::into_inner);
        match recipe.fingerprint() == *result {
            true => recipes.insert(definition.name.clone(), recipe),
            false => recipes.remove(&definition.name),
        };
    }

    /// Sets the number of released clones from which on a release drops them.
    #[must_use]
    pub(crate) fn dropping_at(mut self, many: usize) -> Self {
        self.many = Some(many);
        self
    }

    #[doc(hidden)]
    /// Leaves all drops to another process, which calls [`clean_up_now`], unless background work is off. By default a
    /// thread of this program drops released clones.
    #[must_use]
    pub fn without_drops(mut self) -> Self {
        if !self.is_background_off() {
            self.background = Arc::new(CleanupThread::elsewhere());
            self.many = None;
        }
        self
    }

    /// Whether background work is off: the call that releases clones drops them, and no warm clones are created.
    pub(crate) fn is_background_off(&self) -> bool {
        self.background.is_off()
    }

    /// Closes the sessions that are kept for the next [`Stencil::database`] or [`Stencil::fill`]: at most 16,
    /// which otherwise end with the last copy of this value. Waits until all released clones are dropped; if the
    /// program ends earlier, the next cleanup of any process drops them.
    ///
    /// Cancel safety: the remaining clones are dropped nevertheless while the program runs.
    pub async fn close(&self) {
        if self.background.has_left() {
            self.clean_up_here().await;
        }
        self.idle.close().await;
        self.background.finish().await;
    }

    /// Returns the config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the holder of the clones that are requested here.
    pub(crate) fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Returns the part of the holder that decides the ownership of a clone.
    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker::new(&self.holder, &self.config.project, &self.config.clone)
    }

    /// Returns the server.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the definition of this name, or the only one.
    ///
    /// # Errors
    /// [`crate::Kind::Usage`] with the names that exist.
    pub fn definition(&self, name: Option<&str>) -> Result<&Definition> {
        self.config.definition(name)
    }

    fn context<'a>(
        &'a self,
        definition: &'a Definition,
        deadline: &'a Deadline,
        observe: Observe<'a>,
        keep_failed: bool,
    ) -> Context<'a> {
        let source = match &self.filler {
            Some(filler) => Source::Filler(filler.clone()),
            None => {
                let (config, variable, found) =
                    (Arc::clone(&self.config), Arc::clone(&self.variable), definition.clone());
                let cache = Arc::clone(&self.file_cache);
                let read = move || Inputs::read(&cache, &config.root, &found, &*variable);
                Source::Command(Arc::new(read))
            }
        };
        Context {
            endpoint: &self.endpoint,
            project: &self.config.project,
            root: &self.config.root,
            copies: self.copies.as_deref(),
            definition,
            clone_settings: &self.config.clone,
            eviction: &self.config.eviction,
            holder: &self.holder,
            deadline,
            observe,
            source,
            keep_failed,
            full_build: self.full_build,
            remote: self.remote.as_deref(),
            tools: &self.tools,
            untrusted: self.untrusted,
            building: &self.building,
        }
    }

    async fn open_registry(&self, deadline: &Deadline) -> Result<Registry> {
        if let Some(registry) = self.idle.take(deadline).await {
            return Ok(registry);
        }
        Registry::open(&self.endpoint, &self.config.server.registry, deadline).await
    }

    async fn open_existing(&self, deadline: &Deadline) -> Result<Option<Registry>> {
        if let Some(registry) = self.idle.take(deadline).await {
            return Ok(Some(registry));
        }
        Registry::open_existing(&self.endpoint, &self.config.server.registry, deadline).await
    }

    /// Opens the registry and reads the inputs concurrently; also returns how long the reading took.
    async fn open_reading(&self, context: &Context<'_>) -> Result<(Registry, Result<Recipe>, Duration)> {
        context.not_within_itself()?;
        let started = Instant::now();
        if let Some(recipe) = self.known_recipe(context.definition) {
            return Ok((self.open_registry(context.deadline).await?, Ok(recipe), Duration::ZERO));
        }
        let reading = async {
            let inputs = context.inputs().await;
            (inputs, started.elapsed())
        };
        let (registry, (inputs, took)) = tokio::join!(self.open_registry(context.deadline), reading);
        let registry = registry?;
        let traits = registry.facts().traits.clone();
        let recipe = inputs.map(|inputs| inputs.with_server(traits));
        Ok((registry, recipe, took))
    }

    /// Builds the template if it is missing. The returned session keeps it from being dropped. With `rebuild`, a full
    /// build of a provisional template runs immediately, and its result is returned. Before that, runs
    /// [`Stencil::run_owed`].
    ///
    /// # Errors
    /// As [`crate::template::ensure()`] and [`crate::template::rebuild()`].
    pub(crate) async fn ensure_template(
        &self,
        definition: Option<&str>,
        deadline: &Deadline,
        observe: Observe<'_>,
        keep_failed: bool,
        rebuild: bool,
    ) -> Result<(Registry, Ensured)> {
        let ensured = self.ensure_in(definition, deadline, observe, keep_failed, rebuild);
        ensured.await.map_err(|error| self.endpoint.explain_loss(error))
    }

    async fn ensure_in(
        &self,
        definition: Option<&str>,
        deadline: &Deadline,
        observe: Observe<'_>,
        keep_failed: bool,
        rebuild: bool,
    ) -> Result<(Registry, Ensured)> {
        let definition = self.definition(definition)?;
        let context = self.context(definition, deadline, observe, keep_failed);
        let (mut registry, recipe, reading) = self.open_reading(&context).await?;
        if self.untrusted && (rebuild || !self.has_ready(&mut registry, &context, &recipe).await?) {
            self.refuse_untrusted("built")?;
        }
        self.pay(&mut registry, &context, &[]).await?;
        let mut ensured = self.ensure_with_space(&mut registry, &context, Some(recipe?)).await?;
        ensured.timing.inputs = reading;
        if ensured.provenance.outcome == Outcome::Hit {
            // The template exists even if the hit is not counted.
            let _ = registry.note_hit(&self.hit(definition, &ensured, 0)).await;
        }
        registry.note_command_in_checkout(&self.asker()).await?;
        if rebuild && ensured.template.is_incremental() {
            ensured = rebuild::rebuild_first(&mut registry, &context, ensured).await?;
        }
        ensured.sealed()?;
        Ok((registry, ensured))
    }

    /// Returns whether the template of a recipe is ready.
    async fn has_ready(
        &self,
        registry: &mut Registry,
        context: &Context<'_>,
        recipe: &Result<Recipe>,
    ) -> Result<bool> {
        let Ok(recipe) = recipe else {
            return Ok(true);
        };
        match crate::template::ready(registry, context, &recipe.fingerprint()).await? {
            Some(template) => template.let_go(registry).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Lists templates and clones, by one question however many there are, or two if some are provisional or accepted.
    /// `sizes`: also asks for the size of each clone. Writes nothing; if there is no registry, the list is empty.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn list(&self, sizes: bool, deadline: &Deadline) -> Result<Listing> {
        let mut listing = Listing { templates: Vec::new(), clones: Vec::new() };
        let Some(mut registry) =
            Registry::open_existing(&self.endpoint, &self.config.server.registry, deadline).await?
        else {
            return Ok(listing);
        };
        let mut listed = registry.listed().await?;
        for row in std::mem::take(&mut listed.templates) {
            let databases = listed.take_databases(&Owner::Template(row.id));
            let bytes = databases.iter().filter_map(|d| d.bytes).sum();
            listing.templates.push(TemplateListing { row, bytes, outlook: None });
        }
        let unproved = |t: &TemplateListing| t.row.provisional || t.row.accepted_at.is_some();
        if listing.templates.iter().any(unproved) {
            let evidence = Evidence::read(&mut registry, None).await?;
            for template in &mut listing.templates {
                let row = &template.row;
                let own = self.config.definition(Some(&row.definition)).ok();
                let own = own.filter(|_| row.project == self.config.project);
                template.outlook = evidence.outlook(row, own.map(|definition| definition.rebuild));
            }
        }
        for row in std::mem::take(&mut listed.clones) {
            let rows = listed.take_databases(&Owner::Clone(row.id.clone()));
            let bytes = match sizes {
                true => {
                    let oids: Vec<_> = rows.iter().filter_map(|d| d.oid).collect();
                    catalog::size(registry.session(), &oids).await
                }
                false => None,
            };
            listing.clones.push(CloneListing {
                locked: listed.held.contains(&row.key()),
                databases: rows.into_iter().map(|d| NamedDatabase { alias: d.alias, name: d.name }).collect(),
                row,
                bytes,
            });
        }
        self.idle.put(registry);
        Ok(listing)
    }

    /// Returns the history of this registry, by day and definition. Writes nothing; if there is no registry, it is an
    /// empty list.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn stats(
        &self,
        definition: Option<&str>,
        last: Option<Duration>,
        deadline: &Deadline,
    ) -> Result<Vec<Tally>> {
        let registry = &self.config.server.registry;
        let Some(mut registry) = Registry::open_existing(&self.endpoint, registry, deadline).await? else {
            return Ok(Vec::new());
        };
        let tallies = registry.tallies(definition, last).await;
        registry.close().await;
        tallies
    }

    /// Plans a cleanup as of now. Writes nothing.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) async fn plan_cleanup(&self, registry: &mut Registry) -> Result<Vec<Action>> {
        crate::retention::cleanup::plan(registry, *self.config.clone.orphan_grace).await
    }
}
