//! [`DatabaseRequest`]: the request that [`Stencil::database`] begins.

use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::acquire::Wanted;
use super::leases::{Lease, Leases, Ttl};
use super::{Deadline, Shard, Stencil};
use crate::error::Result;
use crate::events::Observe;

/// Request for a database. By default it is one of the config's only definition, has a name of its own, and lasts as
/// long as its [`Lease`] is held; the methods change that. Awaiting the request returns the lease.
///
/// Cancel safety: the future may be dropped at any await. A thread of this program drops whatever it has created by
/// then `orphan_grace` later, or any other process of pgstencil does.
#[must_use = "a request does nothing before it is awaited"]
pub struct DatabaseRequest<'a, T = Lease> {
    stencil: &'a Stencil,
    wanted: Wanted,
    /// An invalid pattern is an error when the request is awaited.
    name: Option<String>,
    wait: Option<Duration>,
    cancel: CancellationToken,
    observe: Observe<'a>,
    yields: PhantomData<fn() -> T>,
}

impl Stencil {
    /// Requests a database: awaiting the request builds the template if it is missing, and creates a clone of it.
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
    /// Requests this number of clones of one template, numbered in their names from 0 by `{n}`, or from 1 by `{n1}`. Without a number in the
    /// pattern, the second and later names end in `_1`, `_2` and so on. Awaiting it returns [`Leases`].
    pub fn count(self, clones: usize) -> DatabaseRequest<'a, Leases> {
        let DatabaseRequest { stencil, wanted, name, wait, cancel, observe, .. } = self;
        let wanted = Wanted { count: clones, ..wanted };
        DatabaseRequest { stencil, wanted, name, wait, cancel, observe, yields: PhantomData }
    }
}

impl<'a, T> DatabaseRequest<'a, T> {
    /// Sets the template definition, which is optional if the config has only one.
    pub fn template(mut self, definition: impl Into<String>) -> Self {
        self.wanted.definition = Some(definition.into());
        self
    }

    /// Sets the names of the databases: a pattern as `--name` takes it, such as `test_{n}` or `dev_{branch}`. Awaiting
    /// fails with [`Kind::Usage`](crate::Kind::Usage) for an invalid pattern or a field without a value, and with
    /// [`Kind::NameTaken`](crate::Kind::NameTaken) if the name is in use.
    pub fn name(mut self, pattern: impl Into<String>) -> Self {
        self.name = Some(pattern.into());
        self
    }

    /// Requests a lease that ends by the server's clock, as `pgstencil clone` does. A live clone of the wanted name
    /// that belongs to the same owner is reused ([`Outcome::Reused`]), and dropping its lease leaves it as it is.
    /// Dropping the lease of a new clone releases it as usual; [`Lease::detach`] keeps it until it expires.
    ///
    /// [`Outcome::Reused`]: crate::variables::Outcome::Reused
    pub fn ttl(mut self, ttl: impl Into<Ttl>) -> Self {
        self.wanted.term = ttl.into().into();
        self
    }

    /// Replaces a live clone of the wanted name instead of reusing it. Sessions in it are terminated. For a lease
    /// with a [`ttl`](Self::ttl).
    pub fn fresh(mut self) -> Self {
        self.wanted.fresh = true;
        self
    }

    /// Takes over a clone of the wanted name from its owner, except one that a session holds. For a lease with a
    /// [`ttl`](Self::ttl).
    pub fn take(mut self) -> Self {
        self.wanted.take = true;
        self
    }

    /// Sets the shard of a test suite that the database is for: number `index` of `count`, counted from 1.
    pub fn shard(mut self, index: u32, count: u32) -> Self {
        self.wanted.shard = Some(Shard { index, count });
        self
    }

    /// Fails with [`Kind::Timeout`](crate::Kind::Timeout) if waiting and building take longer in total. By default
    /// only `build_timeout` limits a build, and nothing limits the wait for a build of another process.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Fails with [`Kind::Interrupted`](crate::Kind::Interrupted) once the token is cancelled: a running build
    /// command is terminated, and the databases that it built are dropped.
    pub fn cancelled_by(mut self, token: CancellationToken) -> Self {
        self.cancel = token;
        self
    }

    /// Sets the callback for events until the request returns: builds, their output, waits, warnings.
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

/// Future of a [`DatabaseRequest`].
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
