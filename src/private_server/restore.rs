//! Makes a cluster from a cache file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::account::Account;
use super::binaries::Binaries;
use super::cluster::{Cluster, Data, ROLE, Record};
use super::directory::{self, unusable};
use super::platform::platform;
use super::single::SAYS;
use super::{PrivateServer, disk, host};
use crate::cache_file::key::PublicKey;
use crate::cache_file::{CacheFile, Checked, Manifest, Platform, Reason, Unusable};
use crate::error::{Error, Result};
use crate::private_file::Directory;

/// Space that stays free behind the contents.
const SPARE: u64 = 64 << 20;

/// Says the version of the collation of new databases; an empty text if it has none.
const COLLATION: &str = "COPY (SELECT '$says' || coalesce(pg_database_collation_actual_version(oid), '') \
     FROM pg_database WHERE datname = 'template1') TO STDOUT";

/// Result of [`PrivateServer::restore`].
#[derive(Clone, Debug)]
pub(crate) enum Restored {
    /// There is a cluster now.
    Done(Box<Manifest>),
    /// There was a cluster already; with its data directory.
    Exists(PathBuf),
    /// The file cannot be used.
    Unusable(Unusable),
}

/// A directory that is removed at the end, unless it got another name.
struct New(PathBuf);

impl Drop for New {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl PrivateServer {
    /// Returns the platform of the Postgres that the next start would use.
    ///
    /// # Errors
    /// `Config` if there is none.
    pub(crate) async fn platform(&self) -> Result<Platform> {
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let binaries = self.search(&account, &home).newest(false).await?;
        Ok(platform(&binaries, &account).await)
    }

    /// Makes the cluster that commands use from a file, if there is none yet. Starts no server.
    ///
    /// A file that cannot be used is not an error: nothing is changed then. With `trusted`, it must have a signature
    /// of one of these keys. `registry`: the newest version of a registry that this program reads.
    ///
    /// # Errors
    /// As [`PrivateServer::start`]; none of them comes from the file.
    ///
    /// # Cancel safety
    /// A dropped future may leave a directory that the next start or restore removes.
    pub(crate) async fn restore(
        &self,
        file: &Path,
        trusted: &[PublicKey],
        registry: i32,
        patience: Duration,
    ) -> Result<Restored> {
        let deadline = Instant::now() + patience;
        let account = Account::choose(self.settings.run_as.as_deref())?;
        let home = self.home(&account).await?;
        let search = self.search(&account, &home);
        let (binaries, news) = search.newest_with_news().await;
        let binaries = binaries?;
        let cluster = self.cluster(&home, binaries.major, &account)?;
        if cluster.inspect() != Data::Missing {
            return Ok(Restored::Exists(cluster.data()));
        }
        let here = platform(&binaries, &account).await;
        let (path, keys) = (file.to_owned(), trusted.to_vec());
        let checked = tokio::task::spawn_blocking(move || check(&path, &keys, &here, registry));
        let checked = checked.await.map_err(|e| Error::unjoined("checking the cache file", e))?;
        let file = match checked {
            Ok(file) => file,
            Err(unusable) => return Ok(Restored::Unusable(unusable)),
        };

        let _lock = directory::lock(&home, &account, deadline).await?;
        directory::make(&cluster.directory, &account)?;
        search.remember(news);
        if cluster.inspect() != Data::Missing {
            return Ok(Restored::Exists(cluster.data()));
        }
        let Some(_alive) = cluster.claim(deadline).await? else {
            return Ok(Restored::Exists(cluster.data()));
        };
        cluster.remove_new();
        let manifest = file.manifest.clone();
        Ok(match self.put_in_place(&cluster, &binaries, file, deadline).await? {
            Ok(()) => Restored::Done(Box::new(manifest)),
            Err(unusable) => Restored::Unusable(unusable),
        })
    }

    async fn put_in_place(
        &self,
        cluster: &Cluster,
        binaries: &Binaries,
        file: CacheFile,
        deadline: Instant,
    ) -> Result<Checked<()>> {
        let name = format!("data.new-{}", directory::random_hex::<6>()?);
        let new = New(cluster.directory.join(&name));
        let of = cluster.clone();
        let collation = file.manifest.locale.version.clone().unwrap_or_default();
        let unpacked = tokio::task::spawn_blocking(move || of.unpack(&file, &name));
        let unpacked = unpacked.await.map_err(|e| Error::unjoined("unpacking the cache file", e))?;
        if let Err(unusable) = unpacked {
            return Ok(Err(unusable));
        }
        // Postgres itself is the last judge, and sets the password. Hexadecimal digits need no quoting.
        let password = directory::random_hex::<16>()?;
        let mut statements = vec![format!("ALTER ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{password}'")];
        if binaries.major >= 15 {
            statements.push(COLLATION.replace("$says", SAYS));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let accepted = cluster.single(binaries, &new.0, "postgres", &statements, left).await;
        let said = match accepted {
            Ok(said) => said,
            Err(error) => {
                let why = error.details().first().cloned().unwrap_or_else(|| error.to_string());
                let words = format!("PostgreSQL {} does not accept its contents ({why})", binaries.version());
                return Ok(Err(Unusable::new(Reason::Refused, words)));
            }
        };
        if said.first().is_some_and(|version| *version != collation) {
            let words = format!(
                "text may be ordered differently here: the collation's version was {collation}, this is {}",
                said[0]
            );
            return Ok(Err(Unusable::new(Reason::Locale, words)));
        }
        directory::write(&cluster.password_file(), password.as_bytes())?;
        // The port and the socket of an earlier cluster may stay.
        let record = Record { boot_id: self.boot_id(), origin: None, ..cluster.record() };
        cluster.write_record(&record)?;
        fs::rename(&new.0, cluster.data()).map_err(|e| unusable(&new.0, e))?;
        Ok(Ok(()))
    }
}

/// Everything that can be known before anything is written.
fn check(path: &Path, trusted: &[PublicKey], here: &Platform, registry: i32) -> Checked<CacheFile> {
    let mut file = CacheFile::open(path)?;
    file.check_signature(trusted)?;
    file.check_registry(registry)?;
    file.check_platform(here)?;
    file.check_payload()?;
    Ok(file)
}

impl Cluster {
    fn unpack(&self, file: &CacheFile, name: &str) -> Checked<()> {
        let failed =
            |e: std::io::Error| Unusable::new(Reason::Room, format!("its contents cannot be written ({e})"));
        let free = disk::room(&self.directory).map_or(u64::MAX, |disk| disk.free);
        let needed = file.manifest.bytes.saturating_add(SPARE);
        if free < needed {
            let words = format!(
                "its contents need {} MB, and {} has {} MB free",
                needed >> 20,
                self.directory.display(),
                free >> 20
            );
            return Err(Unusable::new(Reason::Room, words));
        }
        let top = Directory::open(&self.directory).map_err(failed)?;
        let data = top.make(name).map_err(failed)?;
        let owner = self.account.foreign.then_some((self.account.uid, self.account.gid));
        file.unpack(&data, owner)?;
        self.write_inner_settings(&data).map_err(failed)?;
        host::spread_directories(&self.directory.join(name).join("base"));
        match owner {
            Some((uid, gid)) => data.give(uid, gid).map_err(failed),
            None => Ok(()),
        }
    }
}
