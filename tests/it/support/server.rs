//! A real Postgres: one that all tests share, and private ones for tests that stop or kill it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use pgstencil::ServerUrl;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, PgConnection, Row, ValueRef};

use super::supervisor::{StartError, Supervisor, account, command};
use super::{block_on, random_id};

/// Throw-away data: nothing has to survive a crash of the machine. The many locks are for clones
/// with thousands of tables; shared memory as files of the data directory leaves nothing behind.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
fsync = off
synchronous_commit = off
full_page_writes = off
max_connections = 300
max_locks_per_transaction = 256
shared_buffers = 128MB
max_wal_size = 512MB
checkpoint_timeout = 30min
dynamic_shared_memory_type = mmap
log_line_prefix = '%m [%p] %q%a %u@%d '
";

/// The server that all tests share: the one of `PGSTENCIL_TEST_SERVER_URL` (of a superuser), else
/// one that starts now and ends with this process.
pub(crate) fn server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| TestServer {
        shared: true,
        ..match std::env::var("PGSTENCIL_TEST_SERVER_URL") {
            Ok(url) if !url.is_empty() => TestServer::given(&url),
            _ => TestServer::private(),
        }
    })
}

/// A Postgres server with a superuser. Roles and passwords count over TCP; the unix socket trusts.
pub(crate) struct TestServer {
    url: ServerUrl,
    /// `None` if the server is not ours.
    own: Option<Mutex<Supervisor>>,
    socket: Option<PathBuf>,
    shared: bool,
    version_major: OnceLock<u32>,
}

/// How [`TestServer::restart`] stops the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// Waits for sessions to end by themselves.
    Smart,
    /// Ends all sessions.
    Fast,
    /// Ends all sessions without a checkpoint; the next start recovers.
    Immediate,
}

impl TestServer {
    fn given(url: &str) -> Self {
        TestServer {
            url: ServerUrl::parse(url).unwrap(),
            own: None,
            socket: None,
            shared: false,
            version_major: OnceLock::new(),
        }
    }

    /// A server of this test's own; ends when dropped.
    pub(crate) fn private() -> Self {
        Self::private_with("")
    }

    /// The same, with further lines for its `postgresql.conf`.
    pub(crate) fn private_with(settings: &str) -> Self {
        let bindir = bindir().expect(
            "no Postgres binaries found: install them, or set PGSTENCIL_TEST_BINDIR (or \
             PGSTENCIL_TEST_SERVER_URL to use a server that runs)",
        );
        let mut supervisor = Supervisor::new(bindir);
        let dir = supervisor.dir().to_owned();
        let password = random_id();
        initdb(bindir, &supervisor, &password);
        let socket = format!("unix_socket_directories = '{}'\n", dir.display());
        let conf = supervisor.data().join("postgresql.conf");
        let written = fs::read_to_string(&conf).unwrap();
        for attempt in 1.. {
            // The port may be taken between this look and the start; then another is tried.
            let port = free_port();
            let text = format!("{written}{SETTINGS}{socket}port = {port}\n{settings}\n");
            fs::write(&conf, text).unwrap();
            match supervisor.start() {
                Ok(()) => {
                    let url = ServerUrl::parse(&format!("postgresql://127.0.0.1:{port}/postgres"));
                    return TestServer {
                        url: url.unwrap().with_credentials("postgres", Some(&password)),
                        own: Some(Mutex::new(supervisor)),
                        socket: Some(dir),
                        shared: false,
                        version_major: OnceLock::new(),
                    };
                }
                Err(StartError::PortTaken) if attempt < 20 => {}
                Err(StartError::PortTaken) => panic!("twenty ports in a row were taken"),
                Err(StartError::Other(why)) => panic!("{why}"),
            }
        }
        unreachable!()
    }

    /// The URL of a database for the superuser, over TCP with a password.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url.with_database(database).reveal()
    }

    /// The same over the unix socket, which trusts; `None` if the server is not ours.
    pub(crate) fn socket_url(&self, database: &str) -> Option<String> {
        let url = self.url.with_database(database);
        Some(url.with_endpoint(self.socket.as_deref()?.to_str(), None).reveal())
    }

    /// The URL of a database for somebody else.
    pub(crate) fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        ServerUrl::parse("postgresql:///")
            .unwrap()
            .with_endpoint(Some(&self.host()), Some(self.port()))
            .with_credentials(user, Some(password))
            .with_database(database)
            .reveal()
    }

    /// Where the server listens on TCP.
    pub(crate) fn host(&self) -> String {
        self.url.host().unwrap()
    }

    /// See [`TestServer::host`].
    pub(crate) fn port(&self) -> u16 {
        self.url.port().unwrap_or(5432)
    }

    /// The superuser.
    pub(crate) fn user(&self) -> String {
        self.url.user().unwrap()
    }

    /// The superuser's password.
    pub(crate) fn password(&self) -> String {
        self.url.password().unwrap_or_default()
    }

    /// Where `postgres`, `initdb` and `pg_ctl` are. May lack `psql`, and may be absent when the
    /// server is not ours.
    pub(crate) fn bindir(&self) -> Option<&'static Path> {
        bindir()
    }

    /// 13 to 18.
    pub(crate) fn version_major(&self) -> u32 {
        *self.version_major.get_or_init(|| {
            let number = self.psql("postgres", "show server_version_num");
            number.parse::<u32>().unwrap() / 10_000
        })
    }

    /// A session of the superuser in the database `postgres`.
    pub(crate) async fn admin(&self) -> PgConnection {
        self.connect("postgres").await
    }

    /// A session of the superuser.
    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        let options = self.options(&self.user(), &self.password(), database);
        match options.connect().await {
            Ok(connection) => connection,
            Err(e) => panic!("cannot connect to the test server's database {database}: {e}"),
        }
    }

    /// Options for anybody's session. Each one is set, since the driver reads `PG*` for the rest.
    pub(crate) fn options(&self, user: &str, password: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(&self.host())
            .port(self.port())
            .username(user)
            .password(password)
            .database(database)
            .ssl_mode(match self.own {
                Some(_) => PgSslMode::Disable,
                None => PgSslMode::Prefer,
            })
            .application_name("pgstencil-test")
            // What the tests look at is small, but looks dear to a planner without statistics.
            .options([("jit", "off")])
            .disable_statement_logging()
    }

    /// Runs statements as the superuser and gives the rows back as `psql -At` would: columns
    /// separated by `|`, NULL as nothing. Panics when a statement fails.
    ///
    /// Several statements in one call are one transaction; CREATE DATABASE stands alone.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        match self.try_psql(database, sql) {
            Ok(rows) => rows,
            Err(e) => panic!("{e}\nin database {database}: {sql}"),
        }
    }

    /// The same, but an error is an answer.
    pub(crate) fn try_psql(&self, database: &str, sql: &str) -> Result<String, sqlx::Error> {
        let mut options = self.options(&self.user(), &self.password(), database);
        if let Some(socket) = &self.socket {
            // It trusts: a password costs both sides some milliseconds, and tests ask often.
            options = options.socket(socket);
        }
        block_on(async move {
            let mut connection = options.connect().await?;
            let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await?;
            connection.close().await?;
            let lines: Vec<_> = rows
                .iter()
                .map(|row| {
                    let values = row.columns().iter().map(|column| {
                        let value = row.try_get_raw(column.ordinal()).unwrap();
                        if value.is_null() { "" } else { value.as_str().unwrap() }
                    });
                    values.collect::<Vec<_>>().join("|")
                })
                .collect();
            Ok(lines.join("\n"))
        })
    }

    /// Whether a database of this name is there.
    pub(crate) fn has_database(&self, name: &str) -> bool {
        self.databases().iter().any(|n| n == name)
    }

    /// The names of all databases, sorted.
    pub(crate) fn databases(&self) -> Vec<String> {
        let names = self.psql("postgres", "select datname from pg_database order by 1");
        names.lines().map(str::to_owned).collect()
    }

    /// Drops a database whatever it is: a template, in use, or invalid. No error if it is not there.
    pub(crate) fn drop_database(&self, name: &str) {
        let quoted = quote_ident(name);
        let valid = self.psql(
            "postgres",
            &format!("select datconnlimit <> -2 from pg_database where datname = {}", quote_literal(name)),
        );
        // ALTER of an invalid database ends the session.
        if valid == "t" {
            let _ = self.try_psql("postgres", &format!("alter database {quoted} is_template false"));
        }
        let drop = format!("drop database if exists {quoted} with (force)");
        if let Err(e) = self.try_psql("postgres", &drop) {
            eprintln!("database {name} stays behind: {e}");
        }
    }

    /// The postmaster's process id, as long as the server runs.
    pub(crate) fn postmaster(&self) -> Option<i32> {
        self.own().lock().unwrap().postmaster()
    }

    /// The directory with the data directory (`data`), the log (`log`) and the socket.
    pub(crate) fn dir(&self) -> PathBuf {
        self.own().lock().unwrap().dir().to_owned()
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        let file = self.own().lock().unwrap().log();
        String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
    }

    /// Starts the server again, on the same port.
    pub(crate) fn start(&self) {
        match self.private_only().lock().unwrap().start() {
            Ok(()) => {}
            Err(StartError::PortTaken) => panic!("somebody took the stopped server's port"),
            Err(StartError::Other(why)) => panic!("{why}"),
        }
    }

    /// Stops the server and waits until it is gone.
    pub(crate) fn stop(&self, how: Stop) {
        self.private_only().lock().unwrap().end(match how {
            Stop::Smart => Signal::SIGTERM,
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
        });
    }

    /// [`TestServer::stop`], then [`TestServer::start`].
    pub(crate) fn restart(&self, how: Stop) {
        self.stop(how);
        self.start();
    }

    /// Kills the postmaster as the kernel would; its backends follow by themselves.
    pub(crate) fn kill9(&self) {
        self.private_only().lock().unwrap().end(Signal::SIGKILL);
    }

    fn own(&self) -> &Mutex<Supervisor> {
        self.own.as_ref().expect("this needs a server of the test's own: TestServer::private()")
    }

    fn private_only(&self) -> &Mutex<Supervisor> {
        assert!(!self.shared, "this would take the server away from other tests: use TestServer::private()");
        self.own()
    }
}

/// Makes the data directory. A directory on ext4 without a journal would slow down with every DROP, so
/// its databases are spread; elsewhere the attribute does not exist or does no harm.
fn initdb(bindir: &Path, supervisor: &Supervisor, password: &str) {
    let (dir, data) = (supervisor.dir(), supervisor.data());
    let pwfile = dir.join("pwfile");
    fs::write(&pwfile, password).unwrap();
    if let Some(user) = account() {
        chown(&pwfile, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    let output = command(bindir.join("initdb"), dir)
        .args(["--no-sync", "--encoding=UTF8", "--locale=C"])
        .args(["--username=postgres", "--auth-local=trust"])
        .args(["--auth-host=scram-sha-256", "--pwfile"])
        .args([&pwfile, Path::new("-D"), &data])
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", bindir.join("initdb").display()));
    assert!(
        output.status.success(),
        "{} failed ({}); can the account that it runs under enter that directory?\n{}{}",
        bindir.join("initdb").display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = fs::remove_file(pwfile);
    let _ = command("chattr", dir).arg("+T").arg(data.join("base")).output();
}

/// A port that is free now, and as likely at a restart: below the range that systems use for outgoing connections, and
/// below that of private servers.
fn free_port() -> u16 {
    loop {
        let mut bytes = [0; 2];
        getrandom::fill(&mut bytes).unwrap();
        let port = 10_000 + u16::from_le_bytes(bytes) % 6_384;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The directory of the Postgres binaries.
fn bindir() -> Option<&'static Path> {
    static BINDIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    BINDIR.get_or_init(find_bindir).as_deref()
}

fn find_bindir() -> Option<PathBuf> {
    let complete = |dir: &Path| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    if let Some(dir) = std::env::var_os("PGSTENCIL_TEST_BINDIR") {
        let dir = PathBuf::from(dir);
        assert!(complete(&dir), "no initdb and postgres in PGSTENCIL_TEST_BINDIR={}", dir.display());
        return Some(dir);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path)
        // A link into a directory with the rest: initdb looks for its siblings there.
        .filter_map(|dir| Some(dir.join("initdb").canonicalize().ok()?.parent()?.to_owned()))
        .collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        places.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    for (parent, prefix) in
        [("/usr/lib/postgresql", ""), ("/opt/homebrew/opt", "postgresql@"), ("/usr/local/opt", "postgresql@")]
    {
        let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let version = path.file_name()?.to_str()?.strip_prefix(prefix)?;
                Some((version.parse().ok()?, path.join("bin")))
            })
            .collect();
        versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        places.extend(versions.into_iter().map(|(_, dir)| dir));
    }
    places.into_iter().find(|dir| complete(dir))
}

/// Quotes a name for SQL.
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL.
pub(crate) fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// When a test gives up waiting for something. No bound on how long that should take: other tests, and other
/// programs, have the processors, too, and what works in the background gives way to them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
