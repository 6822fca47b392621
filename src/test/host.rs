//! The thread that holds all databases of a test program, with a runtime of its own: that of a `#[tokio::test]` ends
//! with the test, and a session can only be used on the runtime on which it was opened.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::{Held, One, Wanted, project, report};
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::stencil::{Lease, Stencil, Ttl};

/// Limit for the release of a database: `before_release` may run that long, and the end of a test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Number of released clones from which on the end of a test drops them, in a program that runs one test and ends too
/// soon for a thread. They are dropped together, since they share checkpoints and sessions.
const SEVERAL: usize = 8;

/// The thread's handle.
pub(super) struct Host {
    runtime: Handle,
    thread: ThreadId,
    stencils: Mutex<BTreeMap<Key, Arc<OnceCell<Stencil>>>>,
}

/// Definition that only code of the program fills; `None` for all definitions of the config.
type Key = Option<String>;

impl Host {
    /// Returns the thread of this program, which is started with the first call.
    pub(super) fn get() -> Result<&'static Self> {
        static HOST: OnceLock<Host> = OnceLock::new();
        static STARTS: Mutex<()> = Mutex::new(());
        if let Some(host) = HOST.get() {
            return Ok(host);
        }
        let _one = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        if HOST.get().is_none() {
            let _ = HOST.set(Host::start()?);
        }
        HOST.get().ok_or_else(|| Error::internal("the thread for test databases was not started"))
    }

    fn start() -> Result<Self> {
        let failed = |e| Error::failed("cannot start the thread for test databases").caused_by(e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let drive = move || runtime.block_on(std::future::pending::<()>());
        let thread = thread::Builder::new().name("pgstencil-test".into()).spawn(drive).map_err(failed)?;
        Ok(Host { runtime: handle, thread: thread.thread().id(), stencils: Mutex::default() })
    }

    /// Makes a database on the thread's runtime.
    pub(super) async fn held(&'static self, wanted: Wanted) -> Result<Held> {
        let work = self.runtime.spawn(self.acquire(wanted));
        work.await.map_err(|error| Error::unjoined("requesting a database", error))?
    }

    /// Makes a database, and blocks this thread until it is there.
    pub(super) fn held_blocking(&'static self, wanted: Wanted) -> Result<Held> {
        if self.is_own_thread() {
            return Err(Error::usage("a filler cannot block for another database")
                .hint("await `pgstencil::test::try_database` in it, or use `Filler::blocking`"));
        }
        let (done, wait) = mpsc::channel();
        self.runtime.spawn(async move {
            // On an error the caller has gone, and the lease is dropped.
            let _ = done.send(self.acquire(wanted).await);
        });
        wait.recv().map_err(|_| Error::internal("requesting a database panicked"))?
    }

    fn is_own_thread(&self) -> bool {
        thread::current().id() == self.thread
    }

    async fn acquire(&self, wanted: Wanted) -> Result<Held> {
        let Wanted { definition, filler, wait, test, place: _ } = wanted;
        let mut stencil = self.stencil(&definition, filler.is_some()).await?;
        if let Some(filler) = filler {
            stencil = stencil.filled_by(filler);
        }
        let mut request = stencil.database().template(definition).observe(&report::event);
        if let Some(wait) = wait {
            request = request.wait(wait);
        }
        Ok(Held::new(request.await?, test))
    }

    /// Returns the project, opened with the first request. The definitions of the config share sessions, and so do all
    /// requests of a definition that only code fills.
    async fn stencil(&self, definition: &str, in_code: bool) -> Result<Stencil> {
        let key = in_code.then(|| definition.to_owned());
        let cell = {
            let mut stencils = self.stencils.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(stencils.entry(key).or_default())
        };
        let open = async || {
            let env = Environment::from_process();
            let config = project::config(&env, definition, in_code)?;
            let cache = config.file_cache.then(|| env.cache_dir()).flatten();
            let alone = report::is_alone(&env);
            let stencil = Stencil::builder(config).environment(env).observe(&report::opening).await?;
            let stencil = stencil.for_tests(cache);
            Ok(if alone { stencil.without_drops().dropping_at(SEVERAL) } else { stencil })
        };
        cell.get_or_try_init(open).await.cloned()
    }

    /// Releases a database. Waits until that is recorded, and for the drops of earlier ones if there are many.
    pub(super) fn release(&'static self, lease: Lease, test: &str) {
        let doing = "releasing";
        let released = self.wait_for(doing, test, async move { lease.release().await });
        match released {
            Some(Ok(warnings)) => warnings.iter().for_each(report::warn),
            Some(Err(error)) => report::failed(doing, test, &error),
            None => {}
        }
    }

    /// Keeps a database for the time of the config, and prints its URL.
    pub(super) fn keep(&'static self, lease: Lease, test: &str, panicked: bool, databases: &[One]) {
        let doing = "keeping";
        let until = self.wait_for(doing, test, async move { lease.detach(Ttl::Config).await });
        match until {
            Some(Ok(until)) => {
                let urls: Vec<&str> = databases.iter().map(|one| one.url.as_str()).collect();
                report::kept(test, panicked, until.as_deref(), &databases[0].name, &urls);
            }
            Some(Err(error)) => report::failed(doing, test, &error),
            None => {}
        }
    }

    /// Runs work on the thread's runtime, and blocks this thread until it is done. `None`: it takes longer than
    /// [`PATIENCE`], or this is the thread itself, and goes on.
    fn wait_for<T: Send + 'static>(
        &self,
        doing: &str,
        test: &str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, wait) = mpsc::channel();
        self.runtime.spawn(async move {
            let _ = done.send(work.await);
        });
        if self.is_own_thread() {
            return None;
        }
        match wait.recv_timeout(PATIENCE) {
            Ok(done) => Some(done),
            Err(error) => {
                if error == RecvTimeoutError::Timeout {
                    report::late(doing, test, PATIENCE);
                }
                None
            }
        }
    }
}
