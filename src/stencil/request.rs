//! [`DatabaseRequest`]: what [`Stencil::database`] asks for.

use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::acquire::Wanted;
use super::leases::{Lease, Leases, Ttl};
use super::{Deadline, Shard, Stencil};
use crate::error::Result;
use crate::events::Observe;

/// A database that is asked for: of the config's only definition, under a name of its own, for as long as its
/// [`Lease`] is held, unless the methods say otherwise. Awaiting it yields the lease.
///
/// Cancel safety: the future may be dropped at any await. What it has made by then is dropped by a thread of this
/// program `orphan_grace` later, or by any other process of pgstencil.
#[must_use = "nothing is asked for before it is awaited"]
pub struct DatabaseRequest<'a, T = Lease> {
    stencil: &'a Stencil,
    wanted: Wanted,
    /// A pattern that cannot be read is an error when the request is awaited.
    name: Option<String>,
    wait: Option<Duration>,
    cancel: CancellationToken,
    observe: Observe<'a>,
    yields: PhantomData<fn() -> T>,
}

impl Stencil {
    /// Asks for a database: awaiting the request builds the template if it is missing, and makes a clone of it.
    ///
    /// ```no_run
    /// # async fn example(stencil: pgstencil::Stencil) -> pgstencil::Result<()> {
    /// let db = stencil.database().await?;
    /// println!("{}", db.url());
    /// db.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn database(&self) -> DatabaseRequest<'_> {
        DatabaseRequest {
            stencil: self,
            wanted: Wanted::default(),
            name: None,
            wait: None,
            cancel: CancellationToken::new(),
            observe: &|_| {},
            yields: PhantomData,
        }
    }
}

impl<'a> DatabaseRequest<'a> {
    /// Several clones of one template, numbered from 0 by `{n}` in their names. Awaiting that yields [`Leases`].
    pub fn count(self, clones: usize) -> DatabaseRequest<'a, Leases> {
        let DatabaseRequest { stencil, wanted, name, wait, cancel, observe, .. } = self;
        let wanted = Wanted { count: clones, ..wanted };
        DatabaseRequest { stencil, wanted, name, wait, cancel, observe, yields: PhantomData }
    }
}

impl<'a, T> DatabaseRequest<'a, T> {
    /// The template definition, which need not be named if the config has only one.
    pub fn template(mut self, definition: impl Into<String>) -> Self {
        self.wanted.definition = Some(definition.into());
        self
    }

    /// What the databases are called: a pattern as `--name` takes it, such as `test_{n}` or `dev_{branch}`.
    pub fn name(mut self, pattern: impl Into<String>) -> Self {
        self.name = Some(pattern.into());
        self
    }

    /// Makes a lease that ends by the server's clock, as `pgstencil clone` does. If a live clone of the wanted name
    /// is there and belongs to the same owner, it is that one ([`Outcome::Reused`]), and dropping its lease leaves
    /// it as it is. A new one is released by a drop like any other; [`Lease::detach`] leaves it to the clock.
    ///
    /// [`Outcome::Reused`]: crate::variables::Outcome::Reused
    pub fn ttl(mut self, ttl: impl Into<Ttl>) -> Self {
        self.wanted.term = ttl.into().into();
        self
    }

    /// Replaces a live clone of the wanted name instead of reusing it. Sessions in it are ended. For a lease with
    /// a [`ttl`](Self::ttl).
    pub fn fresh(mut self) -> Self {
        self.wanted.fresh = true;
        self
    }

    /// Takes a clone of the wanted name over from its owner, except one that a session holds. For a lease with a
    /// [`ttl`](Self::ttl).
    pub fn take(mut self) -> Self {
        self.wanted.take = true;
        self
    }

    /// The shard of a test suite that the database is for: number `index` of `count`.
    pub fn shard(mut self, index: u32, count: u32) -> Self {
        self.wanted.shard = Some(Shard { index, count });
        self
    }

    /// Gives up with [`Kind::Timeout`](crate::Kind::Timeout) if waiting and building take longer in total.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Gives up with [`Kind::Interrupted`](crate::Kind::Interrupted) once the token is cancelled: a running build
    /// command is ended, and what it built is dropped.
    pub fn cancelled_by(mut self, token: CancellationToken) -> Self {
        self.cancel = token;
        self
    }

    /// Receives what happens until then: builds, their output, waits, warnings.
    pub fn observe(mut self, observe: Observe<'a>) -> Self {
        self.observe = observe;
        self
    }

    async fn acquire(mut self) -> Result<Leases> {
        if let Some(name) = &self.name {
            self.wanted.pattern = name.parse()?;
        }
        let deadline = Deadline::new(self.wait, self.cancel);
        let mut leases = self.stencil.acquire(&self.wanted, &deadline, self.observe).await?;
        leases.watch();
        let fingerprint = leases.fingerprint();
        self.stencil.demands.add(&leases.definition, fingerprint, leases.demand);
        Ok(leases)
    }
}

/// The future of a [`DatabaseRequest`].
type Acquiring<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl<'a> IntoFuture for DatabaseRequest<'a, Lease> {
    type Output = Result<Lease>;
    type IntoFuture = Acquiring<'a, Lease>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.acquire().await.map(Lease::new) })
    }
}

impl<'a> IntoFuture for DatabaseRequest<'a, Leases> {
    type Output = Result<Leases>;
    type IntoFuture = Acquiring<'a, Leases>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}
