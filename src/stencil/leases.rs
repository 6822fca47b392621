//! [`Lease`] and [`Leases`]: values that hold clones until they end.
//!
//! A lease owns the session that holds the locks of its clones, the watch over that session, and the clones. It is
//! ended by [`Lease::release`] or [`Lease::detach`]; dropping it releases the clones without waiting.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use super::{Age, BoundRow, Deadline, Demand, DroppedRow, Shard, Stencil, Term};
use crate::error::{Error, Result};
use crate::events::Warning;
use crate::lease::ClonedSet;
use crate::lease::keeper::{self, Keeper, Kept};
use crate::names::Fingerprint;
use crate::pg::Endpoint;
use crate::process::Started;
use crate::registry::Registry;
use crate::template::{Provenance, Timing};
use crate::variables::{self, NamedDatabase, Outcome, Phase};

/// How long a [detached](Lease::detach) clone is kept, by the server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ttl {
    /// As configured: `[clone] branch_ttl` from the last command in the checkout on if the name comes from a local
    /// branch or a worktree, else `[clone] ttl`.
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

/// Lease of one clone; created by [`Stencil::database`].
#[must_use = "dropping a lease releases its databases"]
#[derive(Debug)]
pub struct Lease(Leases);

/// Leases of several clones that were requested together; created by [`DatabaseRequest::count`].
///
/// [`DatabaseRequest::count`]: super::DatabaseRequest::count
#[must_use = "dropping leases releases their databases"]
pub struct Leases {
    stencil: Stencil,
    hold: Hold,
    /// Action on the clones when this is dropped.
    ending: Ending,
    /// The clones, in order.
    pub(crate) clones: Vec<ClonedSet>,
    /// Name of the definition.
    pub(crate) definition: String,
    /// How the clones were created.
    pub(crate) provenance: Provenance,
    /// Time spent on each step.
    pub(crate) timing: Timing,
    /// For [`Outcome::Reused`]: the relation of each clone to the current inputs. Otherwise empty.
    pub(crate) ages: Vec<Age>,
    /// The caller's clone that had one of the names before, if it was dropped without their doing. Reported once.
    pub(crate) dropped: Option<DroppedRow>,
    /// Demand of this request that is not recorded yet, for [`Stencil::fill_template`].
    pub(crate) demand: Demand,
}

/// Holder of the clones' locks.
enum Hold {
    /// A session, or another process, that is not watched; nothing, if it was lost or has ended.
    Unwatched(keeper::Hold),
    /// The same, watched.
    Watched(Keeper),
}

impl Hold {
    const NOTHING: Hold = Hold::Unwatched(keeper::Hold::Nothing);
}

impl From<Option<Registry>> for Hold {
    fn from(session: Option<Registry>) -> Self {
        Hold::Unwatched(session.into())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The clones are released.
    Release,
    /// The clones are kept: they existed before, or their lease ends by the clock.
    Stay,
}

impl Leases {
    /// Creates the leases of clones whose locks `hold` has: a session, or another process for this one.
    pub(super) fn new(
        stencil: &Stencil,
        hold: impl Into<keeper::Hold>,
        definition: &str,
        clones: Vec<ClonedSet>,
        provenance: Provenance,
        timing: Timing,
    ) -> Self {
        Leases {
            stencil: stencil.clone(),
            hold: Hold::Unwatched(hold.into()),
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

    /// Returns the session that holds the locks, unless it is watched or lost.
    pub(crate) fn session(&mut self) -> Option<&mut Registry> {
        match &mut self.hold {
            Hold::Unwatched(keeper::Hold::Session(registry)) => Some(registry),
            Hold::Unwatched(_) | Hold::Watched(_) => None,
        }
    }

    /// Returns [`Stencil::bound_here`], if there is a session; never fails.
    pub(crate) async fn bound_here(&mut self) -> Vec<BoundRow> {
        let Hold::Unwatched(keeper::Hold::Session(registry)) = &mut self.hold else {
            return Vec::new();
        };
        self.stencil.bound_here(registry).await.unwrap_or_default()
    }

    fn ids(&self) -> Vec<String> {
        self.clones.iter().map(|clone| clone.id.clone()).collect()
    }

    /// Watches over the locks from here on: if the session is lost, another one takes them again.
    pub(crate) fn watch(&mut self) {
        self.hold = match std::mem::replace(&mut self.hold, Hold::NOTHING) {
            Hold::Unwatched(keeper::Hold::Nothing) => Hold::NOTHING,
            Hold::Unwatched(hold) => {
                let (endpoint, config) = (&self.stencil.endpoint, &self.stencil.config);
                let (name, grace) = (&config.server.registry, *config.clone.orphan_grace);
                Hold::Watched(Keeper::start(hold, endpoint, name, self.ids(), grace))
            }
            watched @ Hold::Watched(_) => watched,
        };
    }

    /// Records, shortly after, the command that was started for the clones: if this process is killed, they are kept
    /// until that command has ended, too. Only the first one counts.
    pub(crate) fn command(&mut self, started: Started) {
        if let Hold::Watched(keeper) = &mut self.hold {
            keeper.command(started);
        }
    }

    /// Ends the watch. Removes the clones that were dropped while the session was lost, and returns warnings about
    /// them for the holder.
    pub(crate) async fn unwatch(&mut self) -> Result<Vec<Warning>> {
        let keeper = match std::mem::replace(&mut self.hold, Hold::NOTHING) {
            Hold::Watched(keeper) => keeper,
            other => {
                self.hold = other;
                return Ok(Vec::new());
            }
        };
        let Kept { hold, lost, warnings } = keeper.stop().await?;
        self.hold = Hold::Unwatched(hold);
        self.clones.retain(|clone| !lost.contains(&clone.id));
        Ok(warnings)
    }

    /// Takes the session out.
    fn take_session(&mut self) -> Option<Registry> {
        match std::mem::replace(&mut self.hold, Hold::NOTHING) {
            Hold::Unwatched(keeper::Hold::Session(registry)) => Some(*registry),
            Hold::Unwatched(_) | Hold::Watched(_) => None,
        }
    }

    /// Has the process that holds the clones for this one release them. Returns its answer; `None` if there is no such
    /// process, or no longer: then [`Leases::release_within`] is to follow.
    pub(crate) async fn release_elsewhere(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.hold, Hold::NOTHING) {
            Hold::Unwatched(keeper::Hold::Elsewhere(custody)) => {
                let answer = custody.release().await?;
                self.ending = Ending::Stay;
                Some(answer)
            }
            other => {
                self.hold = other;
                None
            }
        }
    }

    /// Confirms leases that end by the clock: the requester has received the URLs. Before that, such a clone is
    /// dropped `orphan_grace` after the session has ended, so that a killed caller leaves no clones. If the session
    /// is lost, a new one is opened.
    ///
    /// Cancel safety: a dropped future may or may not have confirmed them.
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

    /// Makes all leases end by the clock, and records their end in the clones.
    ///
    /// # Errors
    /// The driver's; [`crate::Kind::NotFound`] if a clone is gone.
    pub(crate) async fn prolong(&mut self, term: Term) -> Result<()> {
        let (session, custody) = match std::mem::replace(&mut self.hold, Hold::NOTHING) {
            Hold::Unwatched(keeper::Hold::Session(registry)) => (Some(*registry), None),
            Hold::Unwatched(keeper::Hold::Elsewhere(custody)) => (None, Some(custody)),
            Hold::Unwatched(keeper::Hold::Nothing) | Hold::Watched(_) => (None, None),
        };
        let registry = self.stencil.prolong(session, &mut self.clones, term).await?;
        // Until now the other process has held the locks: a cleanup between two states would record an orphan.
        drop(custody);
        self.hold = Some(registry).into();
        Ok(())
    }

    /// Keeps the clones until their leases expire, and closes the session.
    pub(crate) async fn leave(mut self) {
        self.ending = Ending::Stay;
        if let Some(registry) = self.take_session() {
            registry.close().await;
        }
    }

    /// If this value is dropped from now on, clones that were not confirmed are left to the cleanups, which drop them
    /// `orphan_grace` after the session has ended.
    pub(crate) fn lapse(&mut self) {
        self.ending = Ending::Stay;
    }

    /// Keeps the clones until their leases expire, and the session for the next request.
    ///
    /// # Errors
    /// The driver's; the session is closed then.
    pub(crate) async fn leave_session(mut self) -> Result<()> {
        self.ending = Ending::Stay;
        self.unwatch().await?;
        match self.take_session() {
            Some(registry) => self.stencil.keep_session(registry).await,
            None => Ok(()),
        }
    }

    /// Runs [`Leases::release`], with a deadline for `before_release`. Once it is over or cancelled, no further
    /// command is started: it is left to the next command of the checkout. The clones are released in any case.
    pub(crate) async fn release_within(mut self, deadline: &Deadline) -> Result<Vec<Warning>> {
        // If this future is dropped or fails, the thread releases them.
        self.ending = Ending::Release;
        let mut warnings = self.unwatch().await?;
        let session = self.take_session();
        warnings.extend(self.stencil.give_back(session, &self.clones, deadline).await?);
        self.ending = Ending::Stay;
        Ok(warnings)
    }

    /// Returns the variables for a command of the user that is started for the clones: `DATABASE_URL` and the others
    /// that `pgstencil run` sets.
    ///
    /// # Errors
    /// A placeholder of the config without a value.
    pub fn variables(&self) -> Result<Vec<(OsString, OsString)>> {
        self.variables_of_shard(None)
    }

    /// [`Leases::variables`] for a command that pgstencil starts.
    pub(crate) async fn variables_for_run(&self, shard: Option<Shard>) -> Result<Vec<(OsString, OsString)>> {
        self.stencil.endpoint.learn_tls().await;
        self.variables_of_shard(shard)
    }

    fn variables_of_shard(&self, shard: Option<Shard>) -> Result<Vec<(OsString, OsString)>> {
        let sets: Vec<Vec<NamedDatabase>> = self.clones.iter().map(|c| c.databases.clone()).collect();
        let definition = self.stencil.definition(Some(&self.definition))?;
        let (endpoint, root) = (&self.stencil.endpoint, &self.stencil.config.root);
        variables::variables(endpoint, root, definition, Phase::Run, self.outcome(), &sets, shard)
    }

    /// Ends the leases. Returns warnings for the holder, for example if a command has replaced a clone.
    ///
    /// A drop forces a checkpoint of the whole server, so a thread of this program does it after the return; see
    /// [`Stencil::close`]. If 20 released clones wait for their drop, the thread does not keep up, and the release drops
    /// them before it returns. `before_release` runs before that, for at most a minute for each clone; its failures are
    /// among the warnings.
    ///
    /// Cancel safety: if this future is dropped or fails, the thread releases the clones, and runs `before_release`
    /// for those for which it was not started yet.
    ///
    /// # Errors
    /// The server's, if it cannot be reached.
    pub async fn release(self) -> Result<Vec<Warning>> {
        self.release_within(&Deadline::default()).await
    }

    /// Leaves the clones to the users of their URLs: they outlive this program, and are dropped when `ttl` is over,
    /// or by `pgstencil release NAME`. Returns the end of the earliest lease (RFC 3339); `None` if the clones are
    /// kept until they are released.
    ///
    /// Cancel safety: after the future is dropped, each clone is either kept for `ttl` or released.
    ///
    /// # Errors
    /// The server's; [`crate::Kind::NotFound`] if a clone is gone. The clones are released then.
    pub async fn detach(mut self, ttl: impl Into<Ttl>) -> Result<Option<String>> {
        let lost = self.unwatch().await?;
        if let Some(first) = lost.into_iter().next() {
            return Err(Error::new(crate::Kind::NotFound, first.message()));
        }
        self.prolong(ttl.into().into()).await?;
        self.confirm().await?;
        let until = self.clones.iter().filter_map(|clone| clone.expires_at.clone()).min();
        self.leave().await;
        Ok(until)
    }

    /// Returns the number of clones.
    pub fn len(&self) -> usize {
        self.clones.len()
    }

    /// Whether there are no clones.
    pub fn is_empty(&self) -> bool {
        self.clones.is_empty()
    }

    /// Returns the clones, in the order of `{n}`.
    pub fn iter(&self) -> impl Iterator<Item = LeasedClone<'_>> {
        self.clones.iter().map(|set| LeasedClone { set, endpoint: &self.stencil.endpoint })
    }

    /// Returns the clone with this number.
    pub fn get(&self, index: usize) -> Option<LeasedClone<'_>> {
        self.iter().nth(index)
    }

    /// Returns the URL of each clone's first database, with the password.
    pub fn urls(&self) -> Vec<String> {
        self.iter().map(|clone| clone.url()).collect()
    }

    /// Returns how the template was obtained.
    pub fn outcome(&self) -> Outcome {
        self.provenance.outcome
    }

    /// Returns the fingerprint of the definition's current inputs.
    pub fn fingerprint(&self) -> Fingerprint {
        self.provenance.fingerprint
    }

    /// Returns the time spent on each step.
    pub fn timing(&self) -> Timing {
        self.timing
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        // Unlocks first, since a cleanup would wait for the locks.
        self.hold = Hold::NOTHING;
        if self.ending == Ending::Release {
            drop(self.stencil.background.to_give_up(self.ids()));
        }
    }
}

/// Omits URLs, which contain the password.
impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases")
            .field("clones", &self.clones)
            .field("provenance", &self.provenance)
            .finish_non_exhaustive()
    }
}

/// Clone of a lease, with one or more databases.
#[derive(Clone, Copy)]
pub struct LeasedClone<'a> {
    set: &'a ClonedSet,
    endpoint: &'a Endpoint,
}

impl<'a> LeasedClone<'a> {
    /// Returns the name of the first database; `pgstencil release` takes it.
    pub fn name(&self) -> &'a str {
        self.set.name()
    }

    /// Returns the URL of the first database, with the password.
    pub fn url(&self) -> String {
        self.endpoint.client_url(self.name()).reveal()
    }

    /// Returns the URL of the database of this alias, with the password; `None` if the definition has no such alias.
    pub fn url_of(&self, alias: &str) -> Option<String> {
        self.databases().find(|database| database.alias() == alias).map(|database| database.url())
    }

    /// Returns the databases, in the order of the definition.
    pub fn databases(&self) -> impl Iterator<Item = LeasedDatabase<'a>> + use<'a> {
        let endpoint = self.endpoint;
        self.set.databases.iter().map(move |database| LeasedDatabase { database, endpoint })
    }

    /// Returns the end of its lease by the server's clock (RFC 3339); `None` for a lease without a `ttl`, or with
    /// [`Ttl::Never`].
    pub fn expires_at(&self) -> Option<&'a str> {
        self.set.expires_at.as_deref()
    }
}

/// Database of a clone.
#[derive(Clone, Copy)]
pub struct LeasedDatabase<'a> {
    database: &'a NamedDatabase,
    endpoint: &'a Endpoint,
}

impl<'a> LeasedDatabase<'a> {
    /// Returns its alias within the definition, as in `databases = ["default", "proxy"]`.
    pub fn alias(&self) -> &'a str {
        &self.database.alias
    }

    /// Returns its name on the server.
    pub fn name(&self) -> &'a str {
        &self.database.name
    }

    /// Returns its URL, with the password.
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

    /// Returns the URL of the first database, with the password.
    pub fn url(&self) -> String {
        self.clone_of().map(|clone| clone.url()).unwrap_or_default()
    }

    /// Returns the URL of the database of this alias, with the password; `None` if the definition has no such alias.
    pub fn url_of(&self, alias: &str) -> Option<String> {
        self.clone_of()?.url_of(alias)
    }

    /// Returns the name of the first database; `pgstencil release` takes it.
    pub fn name(&self) -> &str {
        self.clone_of().map_or("", |clone| clone.name())
    }

    /// Returns the databases, in the order of the definition.
    pub fn databases(&self) -> impl Iterator<Item = LeasedDatabase<'_>> {
        self.clone_of().into_iter().flat_map(|clone| clone.databases())
    }

    /// Returns the end of its lease by the server's clock (RFC 3339); `None` for a lease without a `ttl`, or with
    /// [`Ttl::Never`].
    pub fn expires_at(&self) -> Option<&str> {
        self.clone_of()?.expires_at()
    }

    /// Returns how the template was obtained.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome()
    }

    /// Returns the fingerprint of the definition's current inputs.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint()
    }

    /// Returns the time spent on each step.
    pub fn timing(&self) -> Timing {
        self.0.timing()
    }

    /// Returns the variables for a command of the user that is started for the clone; see [`Leases::variables`].
    ///
    /// # Errors
    /// A placeholder of the config without a value.
    pub fn variables(&self) -> Result<Vec<(OsString, OsString)>> {
        self.0.variables()
    }

    /// Ends the lease; see [`Leases::release`].
    ///
    /// # Errors
    /// The server's, if it cannot be reached.
    pub async fn release(self) -> Result<Vec<Warning>> {
        self.0.release().await
    }

    /// Leaves the clone to the users of its URL; see [`Leases::detach`].
    ///
    /// # Errors
    /// The server's; [`crate::Kind::NotFound`] if the clone is gone.
    pub async fn detach(self, ttl: impl Into<Ttl>) -> Result<Option<String>> {
        self.0.detach(ttl).await
    }
}
