//! One cluster: its files, its processes, and the steps that make, start and stop it.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::account::{Account, run, tail};
use super::binaries::Binaries;
use super::folder::{self, unusable};
use super::{host, settings};
use crate::error::{Error, Kind, Result};
use crate::url::ServerUrl;

/// The superuser, by the name that projects' migrations and dumps expect.
pub(super) const ROLE: &str = "postgres";

/// A log longer than this loses all but its end.
const LOG_LIMIT: u64 = 16 << 20;
const LOG_KEPT: u64 = 256 << 10;

/// The folder of one cluster and the account that its processes run under.
pub(super) struct Cluster {
    pub(super) folder: PathBuf,
    pub(super) major: u32,
    pub(super) account: Account,
}

/// What must be known about a cluster while it is stopped.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Kept from start to start, so that URLs stay good.
    pub(super) port: Option<u16>,
    /// The boot that the server was last started in.
    pub(super) boot_id: Option<String>,
    pub(super) socket_dir: Option<PathBuf>,
}

/// A living postmaster of this cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    pub(super) port: Option<u16>,
    /// It says that it takes connections.
    ready: bool,
}

/// What came of an attempt to connect.
pub(super) enum Answer {
    /// It is our server; its version, like `15.14`.
    Ready(String),
    /// The password is not known, or not right.
    Locked,
    /// Anything else.
    Silent(String),
}

/// What came of waiting for a postmaster to answer.
pub(super) enum Waited {
    Ready(String),
    Locked,
    Gone,
}

/// What came of an attempt to start.
enum Launched {
    Up,
    PortTaken,
}

/// The data on disk, as far as it can be told while no server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Missing,
    /// There is a folder, but no cluster in it.
    Broken,
    /// Shut down in order.
    Clean,
    /// Killed, or crashed with the host.
    Unclean,
}

/// Closes what was inherited (a pipe of the caller would never end, a lock of the caller never be
/// free), keeps the file of `alive` open, and becomes pg_ctl. Some shells, dash for one, take only
/// numbers of one digit.
const LAUNCH: &str = r#"
if (eval 'exec 99>&-') 2>/dev/null; then many=1; else many=; fi
for fd in /dev/fd/*; do
  fd=${fd##*/}
  case $fd in
    [012]) ;;
    [3-9]) eval "exec $fd>&-" ;;
    [0-9]*) if [ "$many" ]; then eval "exec $fd>&-"; fi ;;
  esac
done
exec 9<&0 </dev/null
exec "$@"
"#;

impl Cluster {
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    fn password_file(&self) -> PathBuf {
        self.folder.join("password")
    }

    pub(super) fn password(&self) -> Option<String> {
        let text = fs::read_to_string(self.password_file()).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }

    fn record_file(&self) -> PathBuf {
        self.folder.join("cluster.json")
    }

    /// A missing or unreadable record is an empty one: it can be made again.
    pub(super) fn record(&self) -> Record {
        fs::read(self.record_file())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Where the server is, with the password.
    pub(super) fn url(&self, port: u16) -> Result<ServerUrl> {
        Ok(ServerUrl::parse("postgresql://127.0.0.1/postgres")?
            .with_endpoint(None, Some(port))
            .with_credentials(ROLE, self.password().as_deref()))
    }

    /// The postmaster that the pid file names, if it lives and is ours and not a process that got
    /// the number later.
    pub(super) fn postmaster(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let pid: i32 = lines.first()?.parse().ok().filter(|pid| *pid > 1)?;
        self.owns(pid).then(|| Postmaster {
            pid,
            port: lines.get(3).and_then(|port| port.parse().ok()),
            ready: lines.get(7) == Some(&"ready"),
        })
    }

    /// A postmaster lives and says that it takes connections.
    pub(super) fn is_ready(&self) -> bool {
        self.postmaster().is_some_and(|p| p.ready)
    }

    /// Every process of Postgres works in its data folder.
    #[cfg(target_os = "linux")]
    fn owns(&self, pid: i32) -> bool {
        use std::os::unix::fs::MetadataExt;

        let Ok(data) = fs::canonicalize(self.data()) else {
            return false;
        };
        match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(cwd) => cwd == data,
            // A security module is in the way: better to take it for ours than to start a second.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let owner = fs::metadata(format!("/proc/{pid}")).map(|m| m.uid()).ok();
                name.trim() == "postgres" && owner == Some(self.account.uid)
            }
            Err(_) => false,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn owns(&self, pid: i32) -> bool {
        let lsof = std::process::Command::new("/usr/sbin/lsof")
            .args(["-a", "-d", "cwd", "-Fn", "-p"])
            .arg(pid.to_string())
            .output();
        let Ok(data) = fs::canonicalize(self.data()) else {
            return false;
        };
        lsof.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout).lines().any(|line| {
                line.strip_prefix('n')
                    .is_some_and(|cwd| Path::new(cwd) == data)
            })
        })
    }

    /// Tries a real connection.
    pub(super) async fn ask(&self, port: u16) -> Answer {
        let Some(password) = self.password() else {
            return Answer::Locked;
        };
        // All that sqlx would else take from the environment is set here.
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(ROLE)
            .password(&password)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
            .application_name("pgstencil")
            .disable_statement_logging();
        let question = async {
            let mut connection = options.connect().await?;
            let row: (String, String) = sqlx::query_as(
                "select current_setting('data_directory'), current_setting('server_version')",
            )
            .fetch_one(&mut connection)
            .await?;
            sqlx::Connection::close(connection).await?;
            Ok::<_, sqlx::Error>(row)
        };
        let (data, version) = match tokio::time::timeout(Duration::from_secs(10), question).await {
            Ok(Ok(row)) => row,
            Ok(Err(e)) => {
                let code = e.as_database_error().and_then(|e| e.code());
                return match code.as_deref() {
                    Some("28P01" | "28000") => Answer::Locked,
                    _ => Answer::Silent(e.to_string()),
                };
            }
            Err(_) => return Answer::Silent("no answer within 10 s".into()),
        };
        if fs::canonicalize(data).ok() != fs::canonicalize(self.data()).ok() {
            return Answer::Silent(format!("port {port} belongs to another server"));
        }
        let version = version.split_whitespace().next().unwrap_or_default();
        Answer::Ready(version.to_owned())
    }

    /// Waits until a postmaster that lives also answers, or has ended.
    pub(super) async fn wait(&self, deadline: Instant) -> Result<Waited> {
        let mut why = "it is still starting".to_owned();
        loop {
            let Some(postmaster) = self.postmaster() else {
                return Ok(Waited::Gone);
            };
            if let (true, Some(port)) = (postmaster.ready, postmaster.port) {
                match self.ask(port).await {
                    Answer::Ready(version) => return Ok(Waited::Ready(version)),
                    Answer::Locked => return Ok(Waited::Locked),
                    Answer::Silent(reason) => why = reason,
                }
            }
            if Instant::now() >= deadline {
                return Err(self.with_log(
                    Error::new(Kind::Timeout, "the managed server does not answer")
                        .detail(format!("process {}: {why}", postmaster.pid)),
                    0,
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is on disk. Says nothing useful while a server runs.
    pub(super) fn inspect(&self) -> Data {
        let data = self.data();
        if fs::symlink_metadata(&data).is_err() {
            return Data::Missing;
        }
        // The state is the fifth number of the file in all versions from 13 to 18: system id (8
        // bytes), two version numbers, state. 1 and 2 mean shut down. It is read here since
        // pg_controldata is not always installed.
        let mut head = [0; 20];
        let read = File::open(data.join("global/pg_control"))
            .and_then(|mut file| file.read_exact(&mut head));
        match read {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
                return Data::Broken;
            }
            // No reason to give the data up: let Postgres say what is wrong.
            Err(_) => return Data::Clean,
        }
        match head[16..20].try_into().map(i32::from_ne_bytes) {
            Ok(1 | 2) => Data::Clean,
            _ => Data::Unclean,
        }
    }

    /// Takes the file that every process of a server holds locked, once they are all gone. That
    /// also sees what the pid file cannot: backends that outlived their postmaster, a server in
    /// another container on the same folder.
    ///
    /// Backends without a postmaster are told to go after three seconds.
    pub(super) async fn claim(&self, deadline: Instant) -> Result<Option<File>> {
        let path = self.folder.join("alive");
        let file = folder::open_lock(&path).map_err(|e| unusable(&path, e))?;
        let begun = Instant::now();
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => return Err(unusable(&path, e)),
            }
            if self.postmaster().is_some() {
                return Ok(None);
            }
            if !told && begun.elapsed() > Duration::from_secs(3) {
                told = true;
                self.quit_orphans();
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    Kind::Timeout,
                    "the cluster of the managed server is in use by processes that cannot be seen from here",
                )
                .detail(format!("they hold {}", path.display()))
                .hint("another container may run a server on the same folder; stop it, or give each its own state folder"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends backends of this cluster whose postmaster is gone; nobody can use them any more.
    fn quit_orphans(&self) {
        #[cfg(target_os = "linux")]
        {
            let data = fs::canonicalize(&self.folder).map(|f| f.join("data")).ok();
            let deleted = data.as_ref().map(|d| format!("{} (deleted)", d.display()));
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(pid) = name.to_str().and_then(|n| n.parse().ok()) else {
                    continue;
                };
                let ours = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| {
                    Some(&cwd) == data.as_ref() || cwd.to_str() == deleted.as_deref()
                });
                let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                if ours && comm.trim() == "postgres" {
                    // It may have ended by itself meanwhile.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
                }
            }
        }
    }

    /// Moves the data out of the way; one such folder is kept. Returns where it went.
    pub(super) fn move_aside(&self) -> Result<PathBuf> {
        for old in self.siblings("data.crashed-") {
            // It is only kept for the curious.
            let _ = fs::remove_dir_all(old);
        }
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let aside = self
            .folder
            .join(format!("data.crashed-{}", now.replace(':', "-")));
        fs::rename(self.data(), &aside).map_err(|e| unusable(&aside, e))?;
        Ok(aside)
    }

    fn siblings(&self, prefix: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .collect()
    }

    /// Makes a new cluster, beside its place and then moved there, so that a half-made one is never
    /// taken for one. The file with the password is there before the cluster is.
    pub(super) async fn create(&self, binaries: &Binaries, deadline: Instant) -> Result<()> {
        for leftover in self.siblings("data.new-") {
            let _ = fs::remove_dir_all(&leftover);
            let _ = fs::remove_file(&leftover);
        }
        let password = folder::random_hex::<16>()?;
        folder::write(&self.password_file(), password.as_bytes(), 0o600)?;

        let name = format!("data.new-{}", folder::random_hex::<6>()?);
        let new = self.folder.join(&name);
        let secret_name = format!("{name}.password");
        let secret = self.folder.join(&secret_name);
        let mut last = Vec::new();
        for locale in settings::locales(binaries.major) {
            folder::make(&new, 0o700)?;
            self.account.give(&new)?;
            folder::write(&secret, password.as_bytes(), 0o600)?;
            self.account.give(&secret)?;
            let mut initdb = self.account.command(binaries.program("initdb"));
            initdb
                .current_dir(&self.folder)
                .args(["-D", &name, "--username", ROLE, "--pwfile", &secret_name])
                .args(["--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"])
                .args(locale);
            if binaries.major >= 18 {
                // The default since 18; it helps nothing here.
                initdb.arg("--no-data-checksums");
            }
            let patience = deadline.saturating_duration_since(Instant::now());
            let done = run(initdb, None, patience).await;
            let _ = fs::remove_file(&secret);
            let failed = match done {
                Ok(output) if output.status.success() => {
                    host::spread_folders(&new.join("base"));
                    return fs::rename(&new, self.data()).map_err(|e| unusable(&new, e));
                }
                Ok(output) => {
                    last = tail(&[output.stdout, output.stderr].concat(), 8);
                    let about_locale = last.iter().any(|l| l.contains("locale"));
                    (!about_locale)
                        .then(|| Error::failed("cannot make the cluster of the managed server"))
                }
                Err(e) if e.kind() == ErrorKind::TimedOut => Some(Error::new(
                    Kind::Timeout,
                    "making the cluster of the managed server took too long",
                )),
                Err(e) => Some(Error::failed("cannot run initdb").caused_by(e)),
            };
            let _ = fs::remove_dir_all(&new);
            if let Some(error) = failed {
                return Err(explain(error, last));
            }
        }
        Err(explain(
            Error::failed("cannot make the cluster of the managed server"),
            last,
        ))
    }

    /// Gives the superuser a new password, in single-user mode. No server may run.
    pub(super) async fn reset_password(
        &self,
        binaries: &Binaries,
        deadline: Instant,
    ) -> Result<()> {
        self.tidy()?;
        let password = folder::random_hex::<16>()?;
        let mut postgres = self.account.command(binaries.program("postgres"));
        postgres.current_dir(&self.folder).args([
            "--single",
            "-D",
            "data",
            "-c",
            "config_file=postgresql.conf",
            "postgres",
        ]);
        // Hexadecimal digits need no quoting.
        let statement = format!("ALTER ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{password}'\n");
        let patience = deadline.saturating_duration_since(Instant::now());
        let output = run(postgres, Some(&statement), patience)
            .await
            .map_err(|e| Error::failed("cannot run postgres").caused_by(e))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || said.contains("ERROR") {
            return Err(explain(
                Error::failed("cannot give the managed server a new password"),
                tail(&output.stderr, 8),
            ));
        }
        folder::write(&self.password_file(), password.as_bytes(), 0o600)
    }

    /// Removes what a killed server leaves behind and its successor stumbles over: a pid file whose
    /// number belongs to another process by now. No server may run.
    fn tidy(&self) -> Result<()> {
        let data = self.data();
        fs::set_permissions(&data, Permissions::from_mode(0o700))
            .map_err(|e| unusable(&data, e))?;
        let pid_file = data.join("postmaster.pid");
        match fs::remove_file(&pid_file) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(unusable(&pid_file, e)),
            _ => Ok(()),
        }
    }

    /// Writes the settings and the record for the next start.
    pub(super) fn configure(&self, record: &Record, port: u16, socket: &Path) -> Result<()> {
        let mut conf = settings::postgresql_conf(&self.folder, self.major, port, socket);
        if self.folder.join("custom.conf").exists() {
            conf += "\ninclude 'custom.conf'\n";
        }
        folder::write(&self.folder.join("postgresql.conf"), conf.as_bytes(), 0o644)?;
        let hba = settings::PG_HBA_CONF.as_bytes();
        folder::write(&self.folder.join("pg_hba.conf"), hba, 0o644)?;
        let text = serde_json::to_vec_pretty(record)
            .map_err(|e| Error::internal("cannot write the record of a cluster").caused_by(e))?;
        folder::write(&self.record_file(), &text, 0o600)
    }

    /// Starts the server on the port that it had, or else on a free one. The record says the boot
    /// before the server can write anything. Adds to `notices` when the port is another.
    pub(super) async fn start(
        &self,
        binaries: &Binaries,
        mut record: Record,
        alive: &File,
        deadline: Instant,
        notices: &mut Vec<String>,
    ) -> Result<()> {
        let socket = folder::socket(&self.folder, record.socket_dir.as_deref(), &self.account)?;
        record.socket_dir = Some(socket.clone());
        let before = record.port;
        // Whether a port is free is known only when the server has it.
        for _ in 0..20 {
            let port = match record.port {
                Some(port) if is_free(port) => port,
                _ => pick_port()?,
            };
            record.port = Some(port);
            self.configure(&record, port, &socket)?;
            self.tidy()?;
            clear_sockets(&socket);
            match self.launch(binaries, alive, deadline).await? {
                Launched::Up => {
                    if let Some(before) = before.filter(|before| *before != port) {
                        notices.push(format!(
                            "another program has port {before}, so the managed server moved to port {port}"
                        ));
                    }
                    return Ok(());
                }
                Launched::PortTaken => record.port = None,
            }
        }
        Err(Error::failed("found no free port for the managed server"))
    }

    async fn launch(
        &self,
        binaries: &Binaries,
        alive: &File,
        deadline: Instant,
    ) -> Result<Launched> {
        let log = self.log();
        trim_log(&log);
        drop(
            File::options()
                .create(true)
                .append(true)
                .open(&log)
                .map_err(|e| unusable(&log, e))?,
        );
        fs::set_permissions(&log, Permissions::from_mode(0o600)).map_err(|e| unusable(&log, e))?;
        self.account.give(&log)?;
        let begin = fs::metadata(&log).map_or(0, |m| m.len());

        let shell = ["/bin/bash", "/usr/bin/bash"]
            .into_iter()
            .find(|shell| Path::new(shell).exists())
            .unwrap_or("/bin/sh");
        let patience = deadline.saturating_duration_since(Instant::now());
        let alive = alive.try_clone().map_err(|e| unusable(&self.folder, e))?;
        let mut command = self.account.command(shell);
        command
            .current_dir(&self.folder)
            .args(["-c", LAUNCH, "sh"])
            .arg(binaries.program("pg_ctl"))
            // pg_ctl hands the rest to a shell, so all paths in it are relative.
            .args(["start", "-w", "-s", "-D", "data", "-l", "server.log"])
            .args(["-o", "-c config_file=postgresql.conf"])
            .args(["-t", &patience.as_secs().max(1).to_string()])
            .stdin(Stdio::from(alive));
        let output = run(command, None, patience + Duration::from_secs(5)).await;
        let output = match output {
            Ok(output) if output.status.success() => return Ok(Launched::Up),
            Ok(output) => tail(&[output.stdout, output.stderr].concat(), 4),
            Err(e) => vec![format!("pg_ctl: {e}")],
        };
        let said = self.log_since(begin);
        if said.contains("could not create any TCP/IP sockets") && said.contains("in use") {
            return Ok(Launched::PortTaken);
        }
        if self.postmaster().is_some() {
            // It has not ended, only not become ready; the next start waits for it.
            return Err(self.with_log(
                Error::new(Kind::Timeout, "the managed server takes too long to start"),
                begin,
            ));
        }
        let error = Error::failed("the managed server does not start");
        Err(if said.trim().is_empty() {
            explain(error, output)
        } else {
            self.with_log(error, begin)
        }
        .hint(format!(
            "if the cluster is damaged, remove {}: it holds only what can be built again",
            self.data().display()
        )))
    }

    fn log_since(&self, begin: u64) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.log()) {
            let end = file.metadata().map_or(0, |m| m.len());
            let from = begin.max(end.saturating_sub(LOG_KEPT));
            if file.seek(SeekFrom::Start(from)).is_ok() {
                // What could be read is better than nothing.
                let _ = file.read_to_end(&mut text);
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn with_log(&self, error: Error, begin: u64) -> Error {
        let lines = tail(self.log_since(begin).as_bytes(), 12);
        let error = error.detail(format!("the end of {}:", self.log().display()));
        explain(error, lines.into_iter().map(|l| format!("  {l}")).collect())
    }

    /// Ends the server in order, sessions and all. True if there was one.
    pub(super) async fn stop(&self, deadline: Instant) -> Result<bool> {
        let Some(postmaster) = self.postmaster() else {
            return Ok(false);
        };
        kill(Pid::from_raw(postmaster.pid), Signal::SIGINT).map_err(|e| {
            Error::new(
                Kind::Permission,
                format!("cannot stop the managed server, process {}", postmaster.pid),
            )
            .caused_by(e)
        })?;
        while self.postmaster().is_some_and(|p| p.pid == postmaster.pid) {
            if Instant::now() >= deadline {
                return Err(self.with_log(
                    Error::new(Kind::Timeout, "the managed server takes too long to stop")
                        .detail(format!("process {} was asked to", postmaster.pid)),
                    0,
                ));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(true)
    }
}

/// Adds lines of output, and a hint where they hold a known cause.
fn explain(mut error: Error, lines: Vec<String>) -> Error {
    let has = |what: &str| lines.iter().any(|line| line.contains(what));
    let hint = if has("No space left on device") || has("Disk quota exceeded") {
        Some("make room on that disk")
    } else if has("could not map anonymous shared memory") || has("Cannot allocate memory") {
        Some(
            "there is too little memory; set a smaller `shared_buffers` in custom.conf beside the log",
        )
    } else if has("could not look up effective user ID") {
        Some("Postgres wants an account with a name: add one to /etc/passwd, or run as another")
    } else if has("semaphores") {
        Some(
            "the system allows too few semaphores; set a smaller `max_connections` in custom.conf beside the log",
        )
    } else {
        None
    };
    for line in lines {
        error = error.detail(line);
    }
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Keeps the log bounded. The server appends, so it can be cut while it writes.
pub(super) fn trim_log(log: &Path) {
    let cut = || -> std::io::Result<()> {
        let mut file = File::options().read(true).append(true).open(log)?;
        let length = file.metadata()?.len();
        if length > LOG_LIMIT {
            let mut end = Vec::new();
            file.seek(SeekFrom::Start(length - LOG_KEPT))?;
            file.read_to_end(&mut end)?;
            file.set_len(0)?;
            file.write_all(&end)?;
        }
        Ok(())
    };
    // A log that cannot be cut is no reason not to work.
    let _ = cut();
}

/// Socket files of a killed server; the folder is the cluster's alone.
fn clear_sockets(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A first look only; the answer is the server's start.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that is free now, below those that systems give to outgoing connections, so that it is
/// likely to be free at the next start too.
fn pick_port() -> Result<u16> {
    for _ in 0..50 {
        let random = u16::from_str_radix(&folder::random_hex::<2>()?, 16).unwrap_or(0);
        let port = 16_384 + random % 16_384;
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(Error::failed("found no free port for the managed server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_keeps_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut text = vec![b'x'; LOG_LIMIT as usize];
        text.extend(b"\nthe end\n");
        fs::write(&log, text).unwrap();
        trim_log(&log);
        let kept = fs::read_to_string(&log).unwrap();
        assert_eq!(kept.len() as u64, LOG_KEPT);
        assert!(kept.ends_with("\nthe end\n"));
    }

    #[test]
    fn known_causes_get_a_hint() {
        let line = "FATAL:  could not write lock file: No space left on device".to_owned();
        let error = explain(Error::failed("x"), vec![line.clone()]);
        assert_eq!(error.details(), [line]);
        assert_eq!(error.hints(), ["make room on that disk"]);
    }
}
