//! [`Lease`] and [`Leases`]: who holds clones, and until when, as a value.
//!
//! A lease owns the session that holds the locks of its clones, the watch over that session, and the clones. It
//! ends by [`Lease::release`] or [`Lease::detach`]; dropping it releases the clones without waiting.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use super::{Age, BoundRow, Deadline, Demand, DroppedRow, Shard, Stencil, Term};
use crate::error::{Error, Result};
use crate::lease::ClonedSet;
use crate::lease::keeper::{Keeper, Kept};
use crate::names::Fingerprint;
use crate::pg::Endpoint;
use crate::process::Started;
use crate::registry::Registry;
use crate::template::{Provenance, Timing};
use crate::variables::{self, NamedDatabase, Outcome, Phase};

/// How long a clone stays that is [detached](Lease::detach), by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ttl {
    /// As the config says: `[clone] branch_ttl` from the last command in the checkout on if the name comes from a
    /// local branch or a worktree, else `[clone] ttl`.
    Config,
    /// For this long.
    For(Duration),
    /// Until it is released.
    Never,
}

impl From<Duration> for Ttl {
    fn from(ttl: Duration) -> Self {
        Ttl::For(ttl)
    }
}

impl From<Ttl> for Term {
    fn from(ttl: Ttl) -> Self {
        match ttl {
            Ttl::Config => Term::Usual,
            Ttl::For(ttl) => Term::Expiry(Some(ttl)),
            Ttl::Never => Term::Expiry(None),
        }
    }
}

/// The lease of one clone: [`Stencil::database`] makes it.
#[must_use = "dropping a lease releases its databases"]
#[derive(Debug)]
pub struct Lease(Leases);

/// The leases of several clones that were asked for together: [`DatabaseRequest::count`] makes them.
///
/// [`DatabaseRequest::count`]: super::DatabaseRequest::count
#[must_use = "dropping leases releases their databases"]
pub struct Leases {
    stencil: Stencil,
    hold: Hold,
    /// What becomes of the clones when this is dropped.
    ending: Ending,
    /// The clones, in order.
    pub(crate) clones: Vec<ClonedSet>,
    /// Name of the definition.
    pub(crate) definition: String,
    /// How the clones came about.
    pub(crate) provenance: Provenance,
    /// Where the time went.
    pub(crate) timing: Timing,
    /// For [`Outcome::Reused`]: how each clone stands to the present inputs. Otherwise empty.
    pub(crate) ages: Vec<Age>,
    /// The caller's clone that had one of the names before, if it was dropped without their doing. Told
    /// once.
    pub(crate) dropped: Option<DroppedRow>,
    /// What is still to be noted of this, for [`Stencil::fill_template`].
    pub(crate) demand: Demand,
}

/// What holds the locks of the clones.
enum Hold {
    /// A session that nobody watches.
    Session(Box<Registry>),
    /// A session that is watched.
    Watched(Keeper),
    /// Nothing: the session was lost, or has ended.
    Nothing,
}

impl From<Option<Registry>> for Hold {
    fn from(session: Option<Registry>) -> Self {
        session.map_or(Hold::Nothing, |registry| Hold::Session(Box::new(registry)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// They are released.
    Release,
    /// They stay: they were there before, or their lease ends by the clock.
    Stay,
}

impl Leases {
    pub(super) fn new(
        stencil: &Stencil,
        registry: Registry,
        definition: &str,
        clones: Vec<ClonedSet>,
        provenance: Provenance,
        timing: Timing,
    ) -> Self {
        Leases {
            stencil: stencil.clone(),
            hold: Hold::from(Some(registry)),
            ending: match provenance.outcome {
                Outcome::Reused => Ending::Stay,
                _ => Ending::Release,
            },
            clones,
            definition: definition.to_owned(),
            provenance,
            timing,
            ages: Vec::new(),
            dropped: None,
            demand: Demand::default(),
        }
    }

    /// The session that holds the locks, unless it is watched or lost.
    pub(crate) fn session(&mut self) -> Option<&mut Registry> {
        match &mut self.hold {
            Hold::Session(registry) => Some(registry),
            Hold::Watched(_) | Hold::Nothing => None,
        }
    }

    /// [`Stencil::bound_here`], if the session is there; never a reason to fail.
    pub(crate) async fn bound_here(&mut self) -> Vec<BoundRow> {
        let Hold::Session(registry) = &mut self.hold else {
            return Vec::new();
        };
        self.stencil.bound_here(registry).await.unwrap_or_default()
    }

    fn ids(&self) -> Vec<String> {
        self.clones.iter().map(|clone| clone.id.clone()).collect()
    }

    /// Watches over the locks from here on: if the session is lost, another one takes them again.
    pub(crate) fn watch(&mut self) {
        if let Hold::Session(registry) = std::mem::replace(&mut self.hold, Hold::Nothing) {
            let (endpoint, config) = (&self.stencil.endpoint, &self.stencil.config);
            let (name, grace) = (&config.server.registry, *config.clone.orphan_grace);
            self.hold = Hold::Watched(Keeper::start(*registry, endpoint, name, self.ids(), grace));
        }
    }

    /// Notes, soon, the command that was started for the clones: if this process is killed, they stay until
    /// that has ended, too. Only the first one counts.
    pub(crate) fn command(&mut self, started: Started) {
        if let Hold::Watched(keeper) = &mut self.hold {
            keeper.command(started);
        }
    }

    /// Ends the watch. Forgets the clones that were dropped while the session was lost, and returns what the
    /// holder should know of that.
    pub(crate) async fn unwatch(&mut self) -> Result<Vec<String>> {
        let keeper = match std::mem::replace(&mut self.hold, Hold::Nothing) {
            Hold::Watched(keeper) => keeper,
            other => {
                self.hold = other;
                return Ok(Vec::new());
            }
        };
        let Kept { registry, lost, warnings } = keeper.stop().await?;
        self.hold = registry.into();
        self.clones.retain(|clone| !lost.contains(&clone.id));
        Ok(warnings)
    }

    /// Takes the session out.
    fn take_session(&mut self) -> Option<Registry> {
        match std::mem::replace(&mut self.hold, Hold::Nothing) {
            Hold::Session(registry) => Some(*registry),
            Hold::Watched(_) | Hold::Nothing => None,
        }
    }

    /// Confirms leases that end by the clock: the URLs have reached whoever asked for them. Before that, such a
    /// clone is dropped `orphan_grace` after the session has ended, so that nothing is left of a caller that was
    /// killed. If the session is lost, a new one is opened for it.
    ///
    /// Cancel safety: a future that is dropped may or may not have confirmed them.
    ///
    /// # Errors
    /// The server's, if it cannot be reached within ten seconds; [`crate::Kind::NotFound`] if a clone is gone.
    pub(crate) async fn confirm(&mut self) -> Result<()> {
        let clones = self.clones.iter().filter(|clone| !clone.by_session);
        let ids: Vec<String> = clones.map(|clone| clone.id.clone()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let session = self.take_session();
        let (registry, confirmed) = self.stencil.confirm(session, &ids).await;
        self.hold = registry.into();
        confirmed
    }

    /// Makes leases that end by the clock of all, and notes in the clones until when.
    ///
    /// # Errors
    /// The driver's; [`crate::Kind::NotFound`] if a clone is gone.
    pub(crate) async fn prolong(&mut self, term: Term) -> Result<()> {
        let session = self.take_session();
        let registry = self.stencil.prolong(session, &mut self.clones, term).await?;
        self.hold = Some(registry).into();
        Ok(())
    }

    /// Leaves the clones to the clock, and ends the session.
    pub(crate) async fn leave(mut self) {
        self.ending = Ending::Stay;
        if let Some(registry) = self.take_session() {
            registry.close().await;
        }
    }

    /// [`Leases::release`], with a deadline for `before_release`. Once that is over or cancelled, no further
    /// command is started: it is left to the next command of the checkout. The clones are released in any case.
    pub(crate) async fn release_within(mut self, deadline: &Deadline) -> Result<Vec<String>> {
        // A future that is dropped, or fails, leaves it to the thread.
        self.ending = Ending::Release;
        let mut warnings = self.unwatch().await?;
        let session = self.take_session();
        warnings.extend(self.stencil.give_back(session, &self.clones, deadline).await?);
        self.ending = Ending::Stay;
        Ok(warnings)
    }

    /// What a command of the user that is started for the clones sees: `DATABASE_URL` and the other variables
    /// that `pgstencil run` sets.
    ///
    /// # Errors
    /// A placeholder of the config without a value.
    pub fn variables(&self) -> Result<Vec<(OsString, OsString)>> {
        self.variables_of_shard(None)
    }

    pub(crate) fn variables_of_shard(&self, shard: Option<Shard>) -> Result<Vec<(OsString, OsString)>> {
        let sets: Vec<Vec<NamedDatabase>> = self.clones.iter().map(|c| c.databases.clone()).collect();
        let definition = self.stencil.definition(Some(&self.definition))?;
        let (endpoint, root) = (&self.stencil.endpoint, &self.stencil.config.root);
        variables::variables(endpoint, root, definition, Phase::Run, self.outcome(), &sets, shard)
    }

    /// Ends the leases. Returns what the holder should know, such as that a command has replaced a clone.
    ///
    /// A drop forces a checkpoint of the whole server, so a thread of this program does it after the return; see
    /// [`Stencil::close`]. `before_release` runs before that, for a minute at most for each clone; how it failed
    /// is one of the things to know.
    ///
    /// Cancel safety: a future that is dropped, or fails, leaves it to the thread to release the clones, and to
    /// run `before_release` for those for which it was not started yet.
    ///
    /// # Errors
    /// The server's, if it cannot be reached.
    pub async fn release(self) -> Result<Vec<String>> {
        self.release_within(&Deadline::default()).await
    }

    /// Leaves the clones to whoever has their URLs: they outlive this program, and are dropped when `ttl` is
    /// over, or by `pgstencil release NAME`. Returns until when they are kept (RFC 3339), by the one that ends
    /// first; `None` if they stay until they are released.
    ///
    /// Cancel safety: after a future that is dropped, each clone is either kept for `ttl` or released.
    ///
    /// # Errors
    /// The server's; [`crate::Kind::NotFound`] if a clone is gone. The clones are released then.
    pub async fn detach(mut self, ttl: impl Into<Ttl>) -> Result<Option<String>> {
        let lost = self.unwatch().await?;
        if let Some(first) = lost.into_iter().next() {
            return Err(Error::new(crate::Kind::NotFound, first));
        }
        self.prolong(ttl.into().into()).await?;
        self.confirm().await?;
        let until = self.clones.iter().filter_map(|clone| clone.expires_at.clone()).min();
        self.leave().await;
        Ok(until)
    }

    /// How many clones there are.
    pub fn len(&self) -> usize {
        self.clones.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.clones.is_empty()
    }

    /// The clones, in the order of `{n}`.
    pub fn iter(&self) -> impl Iterator<Item = LeasedClone<'_>> {
        self.clones.iter().map(|set| LeasedClone { set, endpoint: &self.stencil.endpoint })
    }

    /// The clone of this number.
    pub fn get(&self, index: usize) -> Option<LeasedClone<'_>> {
        self.iter().nth(index)
    }

    /// The URL of each clone's first database, with the password.
    pub fn urls(&self) -> Vec<String> {
        self.iter().map(|clone| clone.url()).collect()
    }

    /// How the template came about.
    pub fn outcome(&self) -> Outcome {
        self.provenance.outcome
    }

    /// Fingerprint of the definition's present inputs.
    pub fn fingerprint(&self) -> Fingerprint {
        self.provenance.fingerprint
    }

    /// Where the time went.
    pub fn timing(&self) -> Timing {
        self.timing
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        // First the locks, which a cleanup would wait for.
        self.hold = Hold::Nothing;
        if self.ending == Ending::Release {
            drop(self.stencil.background.to_give_up(self.ids()));
        }
    }
}

/// Without URLs, which hold the password.
impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases")
            .field("clones", &self.clones)
            .field("provenance", &self.provenance)
            .finish_non_exhaustive()
    }
}

/// One clone of a lease: a set of databases.
#[derive(Clone, Copy)]
pub struct LeasedClone<'a> {
    set: &'a ClonedSet,
    endpoint: &'a Endpoint,
}

impl<'a> LeasedClone<'a> {
    /// Name of the first database; `pgstencil release` takes it.
    pub fn name(&self) -> &'a str {
        self.set.name()
    }

    /// The URL of the first database, with the password.
    pub fn url(&self) -> String {
        self.endpoint.client_url(self.name()).reveal()
    }

    /// The URL of the database of this alias, with the password; `None` if the definition has no such alias.
    pub fn url_of(&self, alias: &str) -> Option<String> {
        self.databases().find(|database| database.alias() == alias).map(|database| database.url())
    }

    /// The databases, in the order of the definition.
    pub fn databases(&self) -> impl Iterator<Item = LeasedDatabase<'a>> + use<'a> {
        let endpoint = self.endpoint;
        self.set.databases.iter().map(move |database| LeasedDatabase { database, endpoint })
    }

    /// Until when it is kept (RFC 3339); `None` as long as the lease is held, or until it is released.
    pub fn expires_at(&self) -> Option<&'a str> {
        self.set.expires_at.as_deref()
    }
}

/// One database of a clone.
#[derive(Clone, Copy)]
pub struct LeasedDatabase<'a> {
    database: &'a NamedDatabase,
    endpoint: &'a Endpoint,
}

impl<'a> LeasedDatabase<'a> {
    /// Its name within the definition, as `databases = ["default", "proxy"]` has it.
    pub fn alias(&self) -> &'a str {
        &self.database.alias
    }

    /// Its name on the server.
    pub fn name(&self) -> &'a str {
        &self.database.name
    }

    /// Its URL, with the password.
    pub fn url(&self) -> String {
        self.endpoint.client_url(&self.database.name).reveal()
    }
}

impl Lease {
    pub(super) fn new(leases: Leases) -> Self {
        Lease(leases)
    }

    fn clone_of(&self) -> Option<LeasedClone<'_>> {
        self.0.get(0)
    }

    /// The URL of the first database, with the password.
    pub fn url(&self) -> String {
        self.clone_of().map(|clone| clone.url()).unwrap_or_default()
    }

    /// The URL of the database of this alias, with the password; `None` if the definition has no such alias.
    pub fn url_of(&self, alias: &str) -> Option<String> {
        self.clone_of()?.url_of(alias)
    }

    /// Name of the first database; `pgstencil release` takes it.
    pub fn name(&self) -> &str {
        self.clone_of().map_or("", |clone| clone.name())
    }

    /// The databases, in the order of the definition.
    pub fn databases(&self) -> impl Iterator<Item = LeasedDatabase<'_>> {
        self.clone_of().into_iter().flat_map(|clone| clone.databases())
    }

    /// Until when it is kept (RFC 3339); `None` as long as the lease is held.
    pub fn expires_at(&self) -> Option<&str> {
        self.clone_of()?.expires_at()
    }

    /// How the template came about.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome()
    }

    /// Fingerprint of the definition's present inputs.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint()
    }

    /// Where the time went.
    pub fn timing(&self) -> Timing {
        self.0.timing()
    }

    /// What a command of the user that is started for the clone sees, as with [`Leases::variables`].
    ///
    /// # Errors
    /// A placeholder of the config without a value.
    pub fn variables(&self) -> Result<Vec<(OsString, OsString)>> {
        self.0.variables()
    }

    /// Ends the lease, as [`Leases::release`] does.
    ///
    /// # Errors
    /// The server's, if it cannot be reached.
    pub async fn release(self) -> Result<Vec<String>> {
        self.0.release().await
    }

    /// Leaves the clone to whoever has its URL, as [`Leases::detach`] does.
    ///
    /// # Errors
    /// The server's; [`crate::Kind::NotFound`] if the clone is gone.
    pub async fn detach(self, ttl: impl Into<Ttl>) -> Result<Option<String>> {
        self.0.detach(ttl).await
    }
}
