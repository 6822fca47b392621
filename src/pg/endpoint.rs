//! [`Endpoint`]: the address of the server, and the role to connect as.
//!
//! sqlx fills gaps in its options from the process environment and from `.pgpass`. So that a library call
//! behaves the same everywhere, every option is set here, from a URL and from [`Defaults`] that the caller
//! read. `PGOPTIONS`, which cannot be unset, is overridden, since later `-c` settings win.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::door::{self, Door};
use super::tls;
use crate::config::ClientFor;
use crate::error::{Error, Kind, Result};
use crate::pg::{Session, catalog, is_connection_loss};
use crate::private_server::disk;
use crate::private_server::log::last_words;
use crate::private_server::{APPLICATION, BACKGROUND};
use crate::quantity;
use crate::url::ServerUrl;

/// Replacements for parts that a URL leaves out: the caller's values of libpq's variables.
#[derive(Clone, Default)]
pub struct Defaults {
    /// `PGHOSTADDR`, else `PGHOST`.
    pub host: Option<String>,
    /// `PGPORT`
    pub port: Option<u16>,
    /// `PGUSER`, else the account's name.
    pub user: Option<String>,
    /// `PGPASSWORD`
    pub password: Option<String>,
    /// `PGDATABASE`
    pub database: Option<String>,
    /// `PGSSLMODE`
    pub ssl_mode: Option<String>,
    /// Returns the password from the password file for a host, port, database and user.
    pub passfile: Option<PassLookup>,
}

/// A function that reads a password file: host, port, database, user → password.
pub(crate) type PassLookup = std::sync::Arc<dyn Fn(&str, u16, &str, &str) -> Option<String> + Send + Sync>;

/// A server, a role and how to reach them. `Debug` hides the password.
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: ServerUrl,
    host: String,
    port: u16,
    user: String,
    password: Option<Secret>,
    /// The source of the password.
    password_source: &'static str,
    /// The `sslmode` of the URL or the defaults.
    ssl_mode_name: Option<String>,
    ssl_mode: PgSslMode,
    maintenance: Vec<String>,
    client_host: Option<String>,
    client_port: Option<u16>,
    client_for: ClientFor,
    socket: Option<PathBuf>,
    application: &'static str,
    /// Whether a session waits for a free slot.
    waits: bool,
    /// Whether this is the private server.
    private: bool,
    /// Shared by all clones of this value.
    traces: Arc<Mutex<Option<Traces>>>,
    /// Shared by all clones of this value.
    door: Arc<Mutex<Option<Door>>>,
    memory: Option<PathBuf>,
    /// Shared by all clones of this value.
    scarce: Arc<AtomicBool>,
    /// Whether the server has no TLS, once that is known. Shared by all clones of this value.
    without_tls: Arc<OnceLock<bool>>,
}

/// Paths of a server on this machine that can explain why it ended.
#[derive(Clone, Debug)]
struct Traces {
    data: PathBuf,
    log: PathBuf,
    /// Length of the log when this was recorded.
    begin: u64,
}

#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Endpoint {
    /// Fills the gaps of `url` from `defaults`, as libpq does.
    ///
    /// # Errors
    /// An invalid `sslmode`, or no user in either.
    pub fn new(url: ServerUrl, defaults: &Defaults) -> Result<Self> {
        let port = url.port().or(defaults.port).unwrap_or(5432);
        let host = url.host().or_else(|| defaults.host.clone()).unwrap_or_else(|| {
            // libpq's own default is a socket directory that is set when it is built; these are the usual
            // ones.
            ["/var/run/postgresql", "/run/postgresql", "/tmp"]
                .into_iter()
                .find(|directory| std::path::Path::new(directory).join(format!(".s.PGSQL.{port}")).exists())
                .unwrap_or("localhost")
                .to_owned()
        });
        if host.contains(',') {
            return Err(
                Error::config("PGHOST names several hosts").hint("name the one server that is the primary")
            );
        }
        let Some(user) = url.user().or_else(|| defaults.user.clone()) else {
            return Err(Error::config("the server URL names no user, and PGUSER is not set")
                .hint("add the user to the URL: `postgresql://USER@HOST/postgres`"));
        };
        let database = url.database().or_else(|| defaults.database.clone());
        let in_file = || {
            let lookup = defaults.passfile.as_ref()?;
            lookup(&host, port, database.as_deref().unwrap_or(&user), &user)
        };
        let (password, password_source) = match (url.password(), &defaults.password) {
            (Some(password), _) => (Some(password), "the server URL"),
            (None, Some(password)) => (Some(password.clone()), "PGPASSWORD"),
            (None, None) => (in_file(), "the password file"),
        };
        let mode = url
            .parameter("sslmode")
            .or_else(|| url.parameter("ssl-mode"))
            .or_else(|| defaults.ssl_mode.clone());
        let ssl_mode = match &mode {
            None => PgSslMode::Prefer,
            Some(mode) => mode.parse().map_err(|_| {
                Error::config(format!("`{mode}` is not an sslmode"))
                    .hint("use one of disable, allow, prefer, require, verify-ca, verify-full")
            })?,
        };
        let mut maintenance: Vec<String> = Vec::new();
        for name in database.into_iter().chain(["postgres".into(), "template1".into()]) {
            if !maintenance.contains(&name) {
                maintenance.push(name);
            }
        }
        Ok(Endpoint {
            url,
            host,
            port,
            user,
            password: password.map(Secret),
            password_source,
            ssl_mode_name: mode,
            ssl_mode,
            maintenance,
            client_host: None,
            client_port: None,
            client_for: ClientFor::Run,
            socket: None,
            application: APPLICATION,
            waits: true,
            private: false,
            traces: Arc::default(),
            door: Arc::default(),
            memory: None,
            scarce: Arc::default(),
            without_tls: Arc::default(),
        })
    }

    /// Marks this as the private server, which the next command starts if it has ended.
    #[must_use]
    pub fn as_private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Sets the server's data directory and log, which are examined if the server ends.
    #[must_use]
    pub fn with_traces(self, data: PathBuf, log: PathBuf) -> Self {
        self.set_traces(data, log);
        self
    }

    fn set_traces(&self, data: PathBuf, log: PathBuf) {
        let begin = log.metadata().map_or(0, |found| found.len());
        let traces = Traces { data, log, begin };
        *self.traces.lock().unwrap_or_else(PoisonError::into_inner) = Some(traces);
    }

    fn traces(&self) -> Option<Traces> {
        let traces = self.traces.lock();
        traces.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks a server on this machine for these paths, if the role may read them. Used before a build only:
    /// other requests do not pay for it.
    pub(crate) async fn learn_traces(&self, session: &mut Session) {
        if self.traces().is_some() {
            return;
        }
        let Ok(Some(data)) = catalog::data_directory(session).await else {
            return;
        };
        let data = PathBuf::from(data);
        // A directory of that name on another machine does not belong to this server.
        if disk::look(&data).is_none() {
            return;
        }
        let log = catalog::log_file(session).await.ok().flatten();
        self.set_traces(data.clone(), data.join(log.unwrap_or_default()));
    }

    /// Adds to an error the reason why the session was lost, if the server's log reports it since then, and
    /// the free space on its disk.
    pub(crate) fn explain_loss(&self, error: Error) -> Error {
        let Some(traces) = self.traces().filter(|_| is_connection_loss(&error)) else {
            return error;
        };
        let words = last_words(&traces.log, traces.begin);
        let disk = disk::room(&traces.data);
        let full = disk.is_some_and(|disk| disk.free < disk.total / 100);
        if words.is_empty() && !full {
            return error;
        }
        let mut error = error;
        if !words.is_empty() {
            error = error.detail(format!("the server's log, {}:", traces.log.display()));
        }
        for line in words {
            error = error.detail(format!("  {line}"));
        }
        if let Some(disk) = disk {
            let size = |bytes: u64| quantity::size(i64::try_from(bytes).unwrap_or(i64::MAX));
            error = error.detail(format!(
                "the disk of {}: {} of {} are free",
                traces.data.display(),
                size(disk.free),
                size(disk.total)
            ));
        }
        match full {
            true => error.detail(super::DISK_STUCK).hint(super::FREE_DISK),
            false => error,
        }
    }

    /// Marks the sessions as those of a background process, for which no command waits.
    #[must_use]
    pub fn in_background(mut self) -> Self {
        self.application = BACKGROUND;
        self.waits = false;
        self
    }

    /// Returns whether the server was found to have few connection slots: then a short use by background work
    /// may take the last ones.
    pub fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    /// Notes that the server, or a limit of the role, leaves few connection slots.
    pub(super) fn found_scarce(&self) {
        self.scarce.store(true, Ordering::Relaxed);
    }

    /// Refuses sessions immediately if the server has no free slot: for sessions that only speed up work.
    #[must_use]
    pub fn without_waiting(mut self) -> Self {
        self.waits = false;
        self
    }

    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    pub(super) fn is_private(&self) -> bool {
        self.private
    }

    /// Makes pgstencil's own sessions use the Unix socket in `directory`, while commands and printed URLs
    /// keep the host and the port. Another user's program can take the port while the server is stopped, and
    /// would get the password; it cannot take a socket in a private directory.
    #[must_use]
    pub fn with_socket(mut self, directory: Option<PathBuf>) -> Self {
        self.socket = directory;
        self
    }

    /// Stores in a file how the role connects to databases of this server; see [`super::door`]. Without it,
    /// each process may have to connect twice to find out. Reads the file; [`Endpoint::remember`] writes it.
    #[must_use]
    pub fn with_memory(mut self, file: PathBuf) -> Self {
        let known = door::recall(&file, &self.host, self.port, &self.user);
        self.memory = Some(file);
        self.set_door(known);
        self
    }

    /// Sets the door, if it is known.
    #[must_use]
    pub fn with_door(self, door: Option<Door>) -> Self {
        self.set_door(door);
        self
    }

    /// Returns how the role connects to databases, if that is known.
    pub fn door(&self) -> Option<Door> {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_door(&self, door: Option<Door>) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = door;
    }

    /// Writes the changes since [`Endpoint::with_memory`].
    pub fn remember(&self) {
        if let Some(file) = &self.memory {
            door::remember(file, &self.host, self.port, &self.user, self.door());
        }
    }

    /// Returns the directory of the Unix socket that pgstencil's own sessions use instead of the host.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Sets another host or port for commands and printed URLs, for clients that reach the server under
    /// another name than pgstencil.
    #[must_use]
    pub fn with_client(mut self, host: Option<String>, port: Option<u16>, client_for: ClientFor) -> Self {
        self.client_host = host;
        self.client_port = port;
        self.client_for = client_for;
        self
    }

    /// Returns the host and port that clients get instead of the server's own.
    pub fn client(&self) -> (Option<&str>, Option<u16>) {
        (self.client_host.as_deref(), self.client_port)
    }

    /// Returns the endpoint for clients that get this host and port; see [`Endpoint::client`].
    #[must_use]
    pub fn for_clients(&self, host: Option<String>, port: Option<u16>) -> Self {
        self.clone().with_client(host, port, self.client_for)
    }

    /// Returns the endpoint for a build command: it runs on the same machine, so it uses the same address as
    /// pgstencil, unless the config sets another.
    #[must_use]
    pub fn for_builds(&self) -> Self {
        match self.client_for {
            ClientFor::All => self.clone(),
            ClientFor::Run => self.clone().with_client(None, None, ClientFor::Run),
        }
    }

    /// Returns the session settings of the URL, `?options=-c …`, in the form of PGOPTIONS.
    pub fn session_options(&self) -> Option<String> {
        self.url.parameter("options")
    }

    /// Returns the URL for a client of `database`, with user and password.
    pub fn client_url(&self, database: &str) -> ServerUrl {
        self.complete(self.url.with_database(database))
            .with_endpoint(self.client_host.as_deref(), self.client_port)
    }

    /// Returns the server's URL for a nested pgstencil, with user and password.
    pub fn server_url(&self) -> ServerUrl {
        self.complete(self.url.clone())
    }

    /// Adds everything that came from elsewhere, so that the URL leads to the same server everywhere.
    fn complete(&self, url: ServerUrl) -> ServerUrl {
        let host = url.host().is_none().then_some(self.host.as_str());
        let told = url.port().is_some() || (host.is_none() && self.port == 5432);
        url.with_endpoint(host, (!told).then_some(self.port)).with_credentials(&self.user, self.password())
    }

    /// Returns the host for clients.
    pub fn client_host(&self) -> &str {
        self.client_host.as_deref().unwrap_or(&self.host)
    }

    /// Returns the port for clients.
    pub fn client_port(&self) -> u16 {
        self.client_port.unwrap_or(self.port)
    }

    /// Returns the name of the Postgres role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the role's password. Pass it only to the user's own commands.
    pub fn password(&self) -> Option<&str> {
        self.password.as_ref().map(|s| s.0.as_str())
    }

    /// Returns the source of the password, if there is one: `PGPASSWORD`.
    pub fn password_source(&self) -> Option<&'static str> {
        self.password.as_ref().map(|_| self.password_source)
    }

    /// Returns the output of a command without the password that the command was given, for errors and the
    /// registry.
    pub fn redact(&self, text: &str) -> String {
        self.server_url().redact(text)
    }

    /// Returns the `sslmode` of the URL, or of the variable that replaced it; `None` if neither is set.
    pub fn ssl_mode(&self) -> Option<&str> {
        self.ssl_mode_name.as_deref()
    }

    /// Finds out whether the server has no TLS, if neither the URL nor the environment has an `sslmode`: commands
    /// get that from [`Endpoint::ssl_mode_for_commands`]. A socket never has TLS.
    pub(crate) async fn learn_tls(&self) {
        if self.ssl_mode_name.is_some() || self.without_tls.get().is_some() {
            return;
        }
        let refused = match self.host.starts_with('/') {
            true => self.client_host.is_none().then_some(true),
            false => {
                let host = self.host.trim_start_matches('[').trim_end_matches(']');
                tls::is_refused(host, self.port).await
            }
        };
        if let Some(refused) = refused {
            self.set_without_tls(refused);
        }
    }

    /// Returns what [`Endpoint::learn_tls`] found; `None` if it was not necessary, or found nothing.
    pub(crate) fn without_tls(&self) -> Option<bool> {
        self.without_tls.get().copied()
    }

    /// Takes over what another process found by [`Endpoint::learn_tls`].
    pub(crate) fn set_without_tls(&self, without: bool) {
        // Another task may have found the same.
        let _ = self.without_tls.set(without);
    }

    /// Returns the `sslmode` for commands of the user: that of the URL or the environment, and `disable` if
    /// pgstencil's own sessions have no TLS since the server has none. Go's and other drivers insist on TLS if
    /// nothing tells them.
    pub(crate) fn ssl_mode_for_commands(&self) -> Option<&str> {
        let none = self.without_tls.get().is_some_and(|without| *without);
        self.ssl_mode().or(none.then_some("disable"))
    }

    /// Returns the databases to try if the registry does not exist yet.
    pub fn maintenance(&self) -> &[String] {
        &self.maintenance
    }

    /// Returns the error for a server on which none of these databases exists.
    pub(crate) fn no_database(&self) -> Error {
        let names: Vec<String> = self.maintenance.iter().map(|name| format!("`{name}`")).collect();
        let what = format!("the server at {} has no database that pgstencil can connect to", self.place());
        Error::new(Kind::Connect, what)
            .detail(format!("tried: {}", names.join(", ")))
            .hint("name an existing database in the server URL: `postgresql://HOST/DATABASE`")
    }

    /// Returns `HOST:PORT` or the socket, for messages.
    pub fn place(&self) -> String {
        match self.directory() {
            Some(directory) => format!("{}/.s.PGSQL.{}", directory.display(), self.port),
            None => format!("{}:{}", self.host, self.port),
        }
    }

    /// Returns the directory of the socket that pgstencil's own sessions use, if any.
    fn directory(&self) -> Option<&Path> {
        let host = self.host.starts_with('/').then(|| Path::new(&self.host));
        self.socket().or(host)
    }

    /// Returns the options of one session. Startup options come last, so they override `PGOPTIONS`.
    pub(super) fn options(&self, database: &str, startup: &[(&str, &str)]) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .username(&self.user)
            .password(self.password.as_ref().map_or("", |s| s.0.as_str()))
            .database(database)
            .ssl_mode(self.ssl_mode)
            .application_name(self.application);
        if let Some(directory) = self.directory() {
            options = options.socket(directory);
        }
        for (key, value) in self.url.pairs() {
            options = match key.as_str() {
                "sslrootcert" | "ssl-root-cert" | "ssl-ca" => options.ssl_root_cert(value),
                "sslcert" | "ssl-cert" => options.ssl_client_cert(value),
                "sslkey" | "ssl-key" => options.ssl_client_key(value),
                _ => options,
            };
        }
        options.options(startup.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, defaults: &Defaults) -> Endpoint {
        Endpoint::new(ServerUrl::parse(url).unwrap(), defaults).unwrap()
    }

    #[test]
    fn variables_fill_only_the_gaps_and_end_up_in_the_client_url() {
        let defaults = Defaults {
            host: Some("envhost".into()),
            port: Some(6000),
            user: Some("envuser".into()),
            password: Some("p w".into()),
            ..Defaults::default()
        };
        let e = endpoint("postgresql:///", &defaults);
        assert_eq!(e.place(), "envhost:6000");
        assert_eq!(e.client_url("x").reveal(), "postgresql://envuser:p%20w@envhost:6000/x");
        let e = endpoint("postgresql://me:pw@h:1/d?sslmode=disable", &defaults);
        assert_eq!(e.client_url("x").reveal(), "postgresql://me:pw@h:1/x?sslmode=disable");
        assert!(!format!("{e:?}").contains("pw"));
    }

    #[test]
    fn clients_may_reach_the_server_by_another_name() {
        let e = endpoint("postgres://me@127.0.0.1:5432/d", &Defaults::default()).with_client(
            Some("db".into()),
            Some(15432),
            ClientFor::Run,
        );
        let own = "postgres://me@127.0.0.1:5432/";
        assert_eq!(e.client_url("x").reveal(), "postgres://me@db:15432/x");
        assert_eq!(e.server_url().reveal(), format!("{own}d"));
        assert_eq!(e.for_builds().client_url("x").reveal(), format!("{own}x"));
        let all = e.with_client(Some("db".into()), None, ClientFor::All);
        let for_builds = all.for_builds().client_url("x").reveal();
        assert_eq!(for_builds, "postgres://me@db:5432/x");
    }

    #[test]
    fn our_own_sessions_may_use_a_socket_and_clients_still_get_the_port() {
        let directory = Some(PathBuf::from("/run/private"));
        let e = endpoint("postgres://me:pw@127.0.0.1:5432/d", &Defaults::default())
            .with_socket(directory.clone());
        assert_eq!(e.place(), "/run/private/.s.PGSQL.5432");
        assert_eq!(e.options("d", &[]).get_socket(), directory.as_ref());
        assert_eq!(e.client_host(), "127.0.0.1");
        assert_eq!(e.client_url("x").reveal(), "postgres://me:pw@127.0.0.1:5432/x");
        assert_eq!(e.server_url().reveal(), "postgres://me:pw@127.0.0.1:5432/d");
    }

    #[test]
    fn a_password_file_is_asked_last() {
        let defaults = Defaults {
            passfile: Some(std::sync::Arc::new(|h, p, d, u| Some(format!("{h}|{p}|{d}|{u}")))),
            ..Defaults::default()
        };
        let e = endpoint("postgres://me@h:1/d", &defaults);
        assert_eq!(e.password(), Some("h|1|d|me"));
        assert_eq!(endpoint("postgres://me:x@h:1/d", &defaults).password(), Some("x"));
    }

    #[test]
    fn bad_sslmode_and_missing_user_are_errors() {
        let parse = |u: &str| Endpoint::new(ServerUrl::parse(u).unwrap(), &Defaults::default());
        assert!(parse("postgres://h/d").is_err());
        assert!(parse("postgres://u@h/d?sslmode=maybe").is_err());
    }
}
