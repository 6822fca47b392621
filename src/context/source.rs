//! [`Source`]: fills the databases of a missing template, and decides their contents.

use std::fmt;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};

use crate::error::Result;
use crate::fingerprint::Inputs;
use crate::url::ServerUrl;

/// Function that reads the inputs of a definition from the file system. It can be called again: the result of a build
/// is sealed only if the inputs are still the same afterwards.
pub(crate) type ReadInputs = Arc<dyn Fn() -> Result<Inputs> + Send + Sync>;

/// Source of the contents of a missing template.
#[derive(Clone)]
pub(crate) enum Source {
    /// The definition's build command, over the inputs that this function reads.
    Command(ReadInputs),
    /// Code of the program that uses the library.
    Filler(Filler),
}

impl Source {
    /// Returns its name in messages.
    pub(crate) fn who(&self) -> &'static str {
        match self {
            Source::Command(_) => "the build command",
            Source::Filler(_) => "the program",
        }
    }

    /// Returns a hint on how to find the database to fill.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Source::Command(_) => {
                "does it read DATABASE_URL, or a variable that [template.X.env] maps? it may have migrated another database"
            }
            Source::Filler(_) => "does it fill the databases that it is given?",
        }
    }
}

/// Code of the program that fills the databases of a template, instead of the definition's build command and input
/// files.
///
/// The key represents everything that decides the contents that the code creates, such as the checksums of its
/// migrations: templates are found by it, and two different contents must never have the same key. The definition's
/// databases and `from` still apply. `build_timeout` limits the code, and `after_clone` and the like run as always.
///
/// The code must not request a database of the same template, since it would wait for itself.
#[derive(Clone)]
pub struct Filler {
    key: Arc<str>,
    fill: Arc<Fill>,
}

/// The error of a [`Filler`].
pub type FillError = Box<dyn std::error::Error + Send + Sync>;

type Fill = dyn Fn(Vec<Unfilled>) -> BoxFuture<'static, std::result::Result<(), FillError>> + Send + Sync;

/// Database that a [`Filler`] fills. It exists, and is empty unless the definition's `from` says otherwise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Unfilled {
    /// Its alias within the definition.
    pub alias: String,
    /// Its name on the server until it is sealed.
    pub name: String,
    /// Its URL, with the password.
    pub url: ServerUrl,
}

impl Filler {
    /// Creates a filler from code. The databases become a template if its future returns `Ok` and all sessions in
    /// them have ended by then. If it fails, or is dropped because the caller cancelled, they are dropped.
    pub fn new<F, Filling, E>(key: &str, fill: F) -> Self
    where
        F: Fn(Vec<Unfilled>) -> Filling + Send + Sync + 'static,
        Filling: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<FillError>,
    {
        let fill = move |databases| {
            let filling = fill(databases);
            async move { filling.await.map_err(Into::into) }.boxed()
        };
        Filler { key: key.into(), fill: Arc::new(fill) }
    }

    /// Creates a filler from code that blocks, such as the migrations of diesel or refinery. It runs on a thread of
    /// its own; otherwise as [`Filler::new`].
    pub fn blocking<F, E>(key: &str, fill: F) -> Self
    where
        F: Fn(Vec<Unfilled>) -> std::result::Result<(), E> + Send + Sync + 'static,
        E: Into<FillError>,
    {
        let fill = Arc::new(fill);
        let fill = move |databases| {
            let fill = Arc::clone(&fill);
            async move {
                let filled = tokio::task::spawn_blocking(move || fill(databases).map_err(Into::into));
                filled.await.map_err(FillError::from)?
            }
            .boxed()
        };
        Filler { key: key.into(), fill: Arc::new(fill) }
    }

    /// Creates a filler from the migrations of sqlx 0.9, as `sqlx::migrate!()` embeds them. They run in each database
    /// of the definition. Their versions and checksums are the key.
    ///
    /// ```no_run
    /// # async fn example(stencil: pgstencil::Stencil) -> pgstencil::Result<()> {
    /// use pgstencil::Filler;
    ///
    /// static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate::Migrator::DEFAULT; // sqlx::migrate!()
    /// let db = stencil.filled_by(Filler::migrations(&MIGRATIONS)).database().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "sqlx")]
    pub fn migrations(
        migrator: impl std::borrow::Borrow<sqlx::migrate::Migrator> + Send + Sync + 'static,
    ) -> Self {
        let key = key_of(migrator.borrow());
        // On a thread of its own, since the future of a migrator is not `Send`.
        Filler::blocking(&key, move |databases| {
            tokio::runtime::Handle::current().block_on(async {
                for database in databases {
                    let url = database.url.reveal();
                    let mut session = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await?;
                    let migrated = migrator.borrow().run(&mut session).await;
                    sqlx::Connection::close(session).await?;
                    migrated?;
                }
                Ok::<(), FillError>(())
            })
        })
    }

    /// Returns the key that represents everything that decides the contents.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Begins to fill databases.
    pub(crate) fn fill(
        &self,
        databases: Vec<Unfilled>,
    ) -> BoxFuture<'static, std::result::Result<(), FillError>> {
        (self.fill)(databases)
    }
}

/// Returns a hash of everything that decides what migrations make.
#[cfg(feature = "sqlx")]
fn key_of(migrator: &sqlx::migrate::Migrator) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let mut count = 0_usize;
    for migration in migrator.iter().filter(|migration| !migration.migration_type.is_down_migration()) {
        count += 1;
        add(&migration.version.to_le_bytes());
        // It is in the table of the migrations that ran.
        add(migration.description.as_bytes());
        add(&migration.checksum);
        add(&[u8::from(migration.no_tx)]);
    }
    add(migrator.table_name.as_bytes());
    for schema in migrator.create_schemas.iter() {
        add(schema.as_bytes());
    }
    format!("sqlx {count} {}", hasher.finalize().to_hex())
}

impl fmt::Debug for Filler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filler").field("key", &self.key).finish_non_exhaustive()
    }
}
