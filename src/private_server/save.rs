//! Saves a cluster as a cache file.
//!
//! The server is stopped only for as long as its files are copied. Everything that does not belong in the file is
//! removed from the copy, so that the cluster itself stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::account::Account;
use super::binaries::Binaries;
use super::clients::in_words;
use super::cluster::{COPY, Cluster, Data, ROLE};
use super::directory::{self, unusable};
use super::platform::platform;
use super::single::SAYS;
use super::{PrivateServer, majors};
use crate::cache_file::control::{Control, Wal};
use crate::cache_file::key::SecretKey;
use crate::cache_file::{self, Locale, Manifest, Packed, Payload, layout};
use crate::error::{Error, Kind, Result};
use crate::private_file::Directory;

/// Statements that remove the contents of one registry that do not belong in a file.
#[derive(Clone, Debug)]
pub(crate) struct Pruning {
    /// The registry database.
    pub(crate) registry: String,
    /// Lists the databases to drop, by quoted names.
    pub(crate) list: String,
    /// Removes what belongs to this machine, after the drops.
    pub(crate) scrub: Vec<String>,
}

/// What is to be saved.
#[derive(Clone, Debug)]
pub(crate) struct Saving<'a> {
    /// The major version.
    pub(crate) major: u32,
    /// Whether the server is to run afterwards.
    pub(crate) restart: bool,
    /// The registries.
    pub(crate) prunings: &'a [Pruning],
    /// The locale of the cluster.
    pub(crate) locale: Locale,
    /// Version of the registries, at most.
    pub(crate) registry: i32,
    /// The templates.
    pub(crate) templates: Vec<Packed>,
    /// The key that signs the file.
    pub(crate) key: Option<&'a SecretKey>,
    /// The file.
    pub(crate) file: &'a Path,
}

/// A saved file.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    /// Its manifest.
    pub(crate) manifest: Manifest,
    /// Its size.
    pub(crate) bytes: u64,
    /// Notices of the server's start.
    pub(crate) notices: Vec<String>,
}

/// A directory that is removed at the end.
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl PrivateServer {
    /// Saves the cluster of a major version.
    ///
    /// # Errors
    /// `Failed` if a client is connected, if the cluster has files that no cache file contains, or the disk is full;
    /// then the file that was there is unchanged. Else as [`PrivateServer::start`].
    ///
    /// # Cancel safety
    /// A dropped future may leave a stopped server, which the next command starts, and a copy of the data, which the
    /// next save removes.
    pub(crate) async fn save(&self, saving: Saving<'_>, patience: Duration) -> Result<Saved> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let all = self.search(&account, &home).all().await;
        let binaries = all.into_iter().find(|b| b.major == saving.major).ok_or_else(|| {
            Error::config(format!("there is no PostgreSQL {} on this machine", saving.major))
        })?;
        let cluster = self.cluster(&home, saving.major, &account)?;
        // A file that cannot be written must not cost a stop.
        drop(
            crate::private_file::NewFile::locked_beside(saving.file)
                .map_err(|e| unwritable(saving.file, e))?,
        );

        let _lock = directory::lock(&home, &account, deadline).await?;
        cluster.remove_copies();
        let mut notices = Vec::new();
        let copied = self.stop_and_copy(&cluster, deadline).await;
        let started = match saving.restart {
            true => self.bring_up(&cluster, &binaries, deadline, &mut notices).await.map(drop),
            false => self.keep_synced(cluster.clone(), deadline).await,
        };
        let (copy, wal) = copied?;
        started?;
        let (manifest, bytes) = self.pack(&cluster, &binaries, &copy.0, wal, saving, deadline).await?;
        Ok(Saved { manifest, bytes, notices })
    }

    async fn stop_and_copy(&self, cluster: &Cluster, deadline: Instant) -> Result<(Copy, Wal)> {
        if let Some(port) = cluster.postmaster().and_then(|p| p.port) {
            let clients = cluster.clients(port).await;
            let clients = clients
                .map_err(|e| Error::failed("cannot find out who uses the private server").caused_by(e))?;
            if !clients.is_empty() {
                return Err(Error::failed("nothing was saved, since a client is connected")
                    .detail(format!("connected: {}", in_words(&clients)))
                    .hint("end the sessions and try again"));
            }
            cluster.stop(deadline).await?;
        }
        let Some(alive) = cluster.claim(deadline).await? else {
            return Err(Error::failed("the private server was started again"));
        };
        if cluster.inspect() != Data::Clean {
            return Err(Error::failed("the private server was not shut down cleanly"));
        }
        let of = cluster.clone();
        let copied = tokio::task::spawn_blocking(move || of.copy());
        let copied = copied.await.map_err(|e| Error::unjoined("copying the data", e))?;
        drop(alive);
        copied
    }

    async fn pack(
        &self,
        cluster: &Cluster,
        binaries: &Binaries,
        copy: &Path,
        wal_before: Wal,
        saving: Saving<'_>,
        deadline: Instant,
    ) -> Result<(Manifest, u64)> {
        let left = || deadline.saturating_duration_since(Instant::now());
        for pruning in saving.prunings {
            let list = std::slice::from_ref(&pruning.list);
            let names = cluster.single(binaries, copy, &pruning.registry, list, left()).await?;
            let drops = names.iter().flat_map(|name| {
                // A template cannot be dropped.
                [format!("ALTER DATABASE {name} IS_TEMPLATE false"), format!("DROP DATABASE {name}")]
            });
            let statements: Vec<String> = drops.chain(pruning.scrub.iter().cloned()).collect();
            cluster.single(binaries, copy, &pruning.registry, &statements, left()).await?;
        }
        let databases = cluster.single(binaries, copy, "postgres", &last(), left()).await?;
        let platform = platform(binaries, &cluster.account).await;
        let (copy, file) = (copy.to_owned(), saving.file.to_owned());
        let (key, version) = (saving.key.cloned(), binaries.version());
        let (locale, registry, templates) = (saving.locale, saving.registry, saving.templates);
        let work = move || {
            let failed = |e| unwritable(&file, e);
            let data = Directory::open(&copy).map_err(|e| unusable(&copy, e))?;
            let control = Control::read(&data).map_err(|e| unusable(&copy, e))?;
            let wal = control.wal(&data).map_err(|e| unusable(&copy, e))?;
            if !control.is_shut_down || wal == wal_before {
                return Err(Error::internal("the copy of the private server's data was not shut down"));
            }
            let manifest = Manifest {
                pgstencil: env!("CARGO_PKG_VERSION").to_owned(),
                platform,
                server_version: version,
                catalog_version: control.catalog_version,
                control_version: control.version,
                locale,
                registry: Some(registry),
                templates,
                files: 0,
                bytes: 0,
                payload: Payload::default(),
            };
            cache_file::pack(&data, &databases, &wal, manifest, key.as_ref(), &file).map_err(failed)
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::unjoined("writing the cache file", e))?
    }

    /// Returns the major version whose cluster commands use, if there is one with data.
    ///
    /// # Errors
    /// As [`PrivateServer::status`].
    pub(crate) async fn current(&self) -> Result<Option<u32>> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        if majors(&home).is_empty() {
            return Ok(None);
        }
        let binaries = self.search(&account, &home).newest(false).await?;
        let cluster = self.cluster(&home, binaries.major, &account)?;
        Ok(matches!(cluster.inspect(), Data::Clean | Data::Unclean).then_some(binaries.major))
    }
}

impl Cluster {
    fn copy(&self) -> Result<(Copy, Wal)> {
        let data = self.data();
        let failed = |e| {
            Error::failed("cannot copy the private server's data")
                .detail(format!("data: {}", data.display()))
                .caused_by(e)
        };
        let from = Directory::open(&data).map_err(failed)?;
        for (directory, what) in layout::EMPTY {
            let entries = from.directory(directory).and_then(|d| d.entries()).map_err(failed)?;
            if !entries.is_empty() {
                return Err(Error::failed(format!("a cache file cannot contain {what}"))
                    .detail(format!("{} is not empty", data.join(directory).display())));
            }
        }
        let wal = Control::read(&from).and_then(|control| control.wal(&from)).map_err(failed)?;
        let name = format!("{COPY}{}", directory::random_hex::<6>()?);
        let top = Directory::open(&self.directory).map_err(failed)?;
        let to = top.make(&name).map_err(failed)?;
        let copy = Copy(self.directory.join(&name));
        let directories = cache_file::copy(&from, &to, self.major, &wal).map_err(failed)?;
        self.write_inner_settings(&to).map_err(failed)?;
        self.give_all(&to, &directories).map_err(failed)?;
        Ok((copy, wal))
    }

    /// Makes the account the owner of a data directory and everything in these directories of it.
    fn give_all(&self, data: &Directory, directories: &[String]) -> std::io::Result<()> {
        if !self.account.foreign {
            return Ok(());
        }
        let (uid, gid) = (self.account.uid, self.account.gid);
        let give = |directory: &Directory| -> std::io::Result<()> {
            for (name, kind) in directory.entries()? {
                if kind == crate::private_file::Entry::File {
                    std::os::unix::fs::fchown(directory.file(&name)?, Some(uid), Some(gid))?;
                }
            }
            directory.give(uid, gid)
        };
        for directory in directories.iter().rev() {
            give(&data.directory(directory)?)?;
        }
        give(data)
    }
}

/// Statements that remove the password, with its old version from the disk, and list the oids of the databases.
fn last() -> Vec<String> {
    let shared = ["pg_authid", "pg_database", "pg_db_role_setting", "pg_shdescription"];
    let mut statements = vec![format!("ALTER ROLE {ROLE} PASSWORD NULL")];
    statements.extend(shared.map(|table| format!("VACUUM FULL pg_catalog.{table}")));
    statements.push(format!("COPY (SELECT '{SAYS}' || oid FROM pg_database) TO STDOUT"));
    statements
}

fn unwritable(file: &Path, error: std::io::Error) -> Error {
    let error =
        Error::new(Kind::Failed, format!("cannot write the cache file {}", file.display())).caused_by(error);
    error.detail("a file of this name that was there before is unchanged")
}
