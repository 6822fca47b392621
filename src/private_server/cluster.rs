//! A cluster: its files, and the steps that create and repair it while no server is running.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::account::{Account, run, tail};
use super::binaries::Binaries;
use super::directory::{self, unusable};
use super::log::explain;
use super::origin::Origin;
use super::{host, settings};
use crate::error::{Error, Kind, Result};
use crate::url::ServerUrl;

/// The superuser, with the name that projects' migrations and dumps expect.
pub(super) const ROLE: &str = "postgres";

/// The beginning of the names of copies. The next save or start removes those of a killed one.
pub(super) const COPY: &str = "data.saved-";

/// The directory of a cluster and the account that its processes run under.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) directory: PathBuf,
    pub(super) major: u32,
    pub(super) account: Account,
}

/// The facts about a cluster that must be known while it is stopped.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The port, kept from start to start, so that URLs stay valid.
    pub(super) port: Option<u16>,
    /// The boot in which the server was last started.
    pub(super) boot_id: Option<String>,
    pub(super) socket_dir: Option<PathBuf>,
    /// The binaries from which the server was last started.
    pub(super) origin: Option<Origin>,
}

/// The state of the data on disk, as far as it is visible while no server is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Missing,
    /// The directory exists, but contains no cluster.
    Broken,
    /// The server was shut down cleanly.
    Clean,
    /// The server was killed, or crashed with the host.
    Unclean,
}

impl Cluster {
    pub(super) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.directory.join("password")
    }

    pub(super) fn password(&self) -> Option<String> {
        let text = fs::read_to_string(self.password_file()).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }

    fn record_file(&self) -> PathBuf {
        self.directory.join("cluster.json")
    }

    /// Reads the record. A missing or unreadable record is treated as empty: it can be made again.
    pub(super) fn record(&self) -> Record {
        fs::read(self.record_file())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Returns the private directory of the server's Unix socket. `None` if custom.conf puts the socket
    /// elsewhere.
    pub(super) fn socket(&self, port: u16) -> Option<PathBuf> {
        let directory = self.record().socket_dir?;
        let there = directory.join(format!(".s.PGSQL.{port}")).exists();
        there.then_some(directory)
    }

    /// Returns the URL of the server, with the password.
    pub(super) fn url(&self, port: u16) -> Result<ServerUrl> {
        Ok(ServerUrl::parse("postgresql://127.0.0.1/postgres")?
            .with_endpoint(None, Some(port))
            .with_credentials(ROLE, self.password().as_deref()))
    }

    /// Returns the state of the data on disk, which is meaningless while a server is running.
    pub(super) fn inspect(&self) -> Data {
        let data = self.data();
        if fs::symlink_metadata(&data).is_err() {
            return Data::Missing;
        }
        // The state is the fifth number of the file in all versions from 13 to 18: system id (8 bytes), two
        // version numbers, state. 1 and 2 mean shut down. pg_controldata is not always installed, so the file
        // is read here.
        let mut head = [0; 20];
        let read = File::open(data.join("global/pg_control")).and_then(|mut file| file.read_exact(&mut head));
        match read {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
                return Data::Broken;
            }
            // Not a reason to give up the data: let Postgres report the error.
            Err(_) => return Data::Clean,
        }
        match head[16..20].try_into().map(i32::from_ne_bytes) {
            Ok(1 | 2) => Data::Clean,
            _ => Data::Unclean,
        }
    }

    /// Removes what a killed creation or restore left. Call it under the lock.
    pub(super) fn remove_new(&self) {
        for leftover in self.siblings("data.new-") {
            let _ = fs::remove_dir_all(&leftover);
            let _ = fs::remove_file(&leftover);
        }
    }

    /// Removes the copies of killed saves. Call it under the lock.
    pub(super) fn remove_copies(&self) {
        for copy in self.siblings(COPY) {
            let _ = fs::remove_dir_all(copy);
        }
    }

    pub(super) fn siblings(&self, prefix: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .collect()
    }

    /// Creates a new cluster in another directory and then moves it into place, so that an incomplete cluster
    /// is never taken for one. The password file exists before the cluster.
    pub(super) async fn create(&self, binaries: &Binaries, deadline: Instant) -> Result<()> {
        self.remove_new();
        let password = directory::random_hex::<16>()?;
        directory::write(&self.password_file(), password.as_bytes())?;

        let name = format!("data.new-{}", directory::random_hex::<6>()?);
        let new = self.directory.join(&name);
        let secret_name = format!("{name}.password");
        let secret = self.directory.join(&secret_name);
        let mut last = Vec::new();
        for locale in settings::locales(binaries.major) {
            directory::make_own(&new, &self.account)?;
            directory::write_for(&self.account, &secret, password.as_bytes())?;
            let mut initdb = self.account.command(binaries.program("initdb"));
            initdb
                .current_dir(&self.directory)
                .args(["-D", &name, "--username", ROLE, "--pwfile", &secret_name])
                .args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"])
                .args(locale);
            if binaries.major >= 18 {
                // Checksums are the default since 18; they are of no use here.
                initdb.arg("--no-data-checksums");
            }
            let patience = deadline.saturating_duration_since(Instant::now());
            let done = run(initdb, None, patience).await;
            let _ = fs::remove_file(&secret);
            let failed = match done {
                Ok(output) if output.status.success() => {
                    host::spread_directories(&new.join("base"));
                    return fs::rename(&new, self.data()).map_err(|e| unusable(&new, e));
                }
                Ok(output) => {
                    last = tail(&[output.stdout, output.stderr].concat(), 8);
                    let about_locale = last.iter().any(|l| l.contains("locale"));
                    (!about_locale).then(|| Error::failed("cannot create the cluster of the private server"))
                }
                Err(e) if e.kind() == ErrorKind::TimedOut => Some(Error::new(
                    Kind::Timeout,
                    "creating the cluster of the private server took too long",
                )),
                Err(e) => Some(Error::failed("cannot run initdb").caused_by(e)),
            };
            let _ = fs::remove_dir_all(&new);
            if let Some(error) = failed {
                return Err(explain(error, last));
            }
        }
        Err(explain(Error::failed("cannot create the cluster of the private server"), last))
    }

    /// Sets a new password for the superuser, in single-user mode. No server may be running.
    pub(super) async fn reset_password(&self, binaries: &Binaries, deadline: Instant) -> Result<()> {
        self.tidy()?;
        let password = directory::random_hex::<16>()?;
        let mut postgres = self.account.command(binaries.program("postgres"));
        postgres.current_dir(&self.directory).args([
            "--single",
            "-D",
            "data",
            "-c",
            "config_file=postgresql.conf",
            "postgres",
        ]);
        self.forget_proofs();
        // Hexadecimal digits need no quoting.
        let statement = format!("ALTER ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{password}'\n");
        let patience = deadline.saturating_duration_since(Instant::now());
        let output = run(postgres, Some(&statement), patience)
            .await
            .map_err(|e| Error::failed("cannot run postgres").caused_by(e))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || said.contains("ERROR") {
            return Err(explain(
                Error::failed("cannot set a new password for the private server"),
                tail(&output.stderr, 8),
            ));
        }
        directory::write(&self.password_file(), password.as_bytes())
    }

    /// Removes the pid file that a killed server leaves behind: the next server fails if its number now
    /// belongs to another process. No server may be running.
    pub(super) fn tidy(&self) -> Result<()> {
        let data = self.data();
        fs::set_permissions(&data, Permissions::from_mode(0o700)).map_err(|e| unusable(&data, e))?;
        let pid_file = data.join("postmaster.pid");
        match fs::remove_file(&pid_file) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(unusable(&pid_file, e)),
            _ => Ok(()),
        }
    }

    /// Writes the settings and the record for the next start.
    pub(super) fn configure(&self, record: &Record, port: u16, socket: &Path) -> Result<()> {
        let mut conf = settings::postgresql_conf(&self.directory, self.major, port, socket);
        if self.directory.join("custom.conf").exists() {
            conf += "\ninclude 'custom.conf'\n";
        }
        let write = |name: &str, text: &str| {
            directory::write_settings(&self.directory.join(name), text.as_bytes(), &self.account)
        };
        write("postgresql.conf", &conf)?;
        write("pg_hba.conf", settings::PG_HBA_CONF)?;
        self.write_record(record)
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|e| Error::internal("cannot write the record of a cluster").caused_by(e))?;
        directory::write(&self.record_file(), &text)
    }
}
