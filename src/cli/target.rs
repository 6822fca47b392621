//! From options, environment and config to a [`Stencil`]: which project, which server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, CloneSettings, Config, EvictionSettings, Origin, ServerSettings, UrlSetting};
use crate::env::passfile::{self, Passfile};
use crate::env::{self, Environment, PgVariables};
use crate::error::shell_word;
use crate::private_file::user_name;
use crate::private_server::{PrivateServer, PrivateServerSettings, State, notice};
use crate::stencil::{Defaults, Door, Endpoint, PassLookup, Variable};
use crate::url::ServerUrl;
use crate::{Error, Kind, Result, Stencil};

use super::{Session, checkout};

/// Patience with a private server that starts, when `--wait` sets none.
const START: Duration = Duration::from_secs(120);
/// What names a server whose URL is in the config itself.
const BY_FILE: &str = "`[server] url`";

impl Session {
    /// The directory that the command was typed in.
    pub(super) fn here(&self) -> Result<PathBuf> {
        std::env::current_dir().map_err(|e| Error::failed("the current directory is gone").caused_by(e))
    }

    /// The config: `--config`, PGSTENCIL_CONFIG, or the one found upwards.
    pub(super) fn config(&self) -> Result<Config> {
        match self.config_file() {
            Some(file) => Config::load(&file),
            None => config::find(&self.here()?)?.load(),
        }
    }

    /// The config, or the defaults where there is none: for commands that need no definition.
    pub(super) fn config_or_defaults(&self) -> Result<Config> {
        if let Some(file) = self.config_file() {
            return Config::load(&file);
        }
        let here = self.here()?;
        match config::discover(&here)? {
            Some(found) => found.load(),
            None => Ok(Config {
                project: "none".into(),
                file: here.join(config::FILE_NAME),
                origin: Origin::Own,
                root: here,
                server: ServerSettings::default(),
                definitions: Vec::new(),
                clone: CloneSettings::default(),
                eviction: EvictionSettings::default(),
            }),
        }
    }

    /// The config file that is named.
    fn config_file(&self) -> Option<PathBuf> {
        self.shared.config.clone().or_else(|| self.env.path(env::CONFIG))
    }

    /// The project's stencil. Starts the private server if no other is named.
    pub(super) async fn stencil(&self) -> Result<Stencil> {
        self.stencil_of(self.config()?).await
    }

    /// A stencil for commands that work without a config file.
    pub(super) async fn stencil_or_defaults(&self) -> Result<Stencil> {
        self.stencil_of(self.config_or_defaults()?).await
    }

    /// A stencil for commands that only read: `None` if that would mean the private server, and it
    /// does not run, which is said. Starts nothing.
    pub(super) async fn stencil_for_reading(&self) -> Result<Option<Stencil>> {
        let config = self.config_or_defaults()?;
        if self.uses_private_server(&config) {
            let private = self.private_server(&config.server)?;
            let status = match self.deadline.left() {
                Some(left) => private.status_within(left).await?,
                None => private.status().await?,
            };
            match status.state {
                State::Running | State::Starting => {}
                State::Unresponsive(why) => return Err(unresponsive(&why)),
                state => {
                    self.printer.say(not_running(&state));
                    if let Some(notice) = notice(&status.moved) {
                        self.printer.warn(&notice);
                    }
                    return Ok(None);
                }
            }
        }
        self.stencil_of(config).await.map(Some)
    }

    /// Whether nobody names a server.
    pub(super) fn uses_private_server(&self, config: &Config) -> bool {
        self.shared.server_url.is_none()
            && self.env.non_empty(env::SERVER_URL).is_none()
            && config.server.url.is_none()
    }

    async fn stencil_of(&self, mut config: Config) -> Result<Stencil> {
        let ServerSettings { client_host, client_port, .. } = &mut config.server;
        *client_host = self.client_host()?.or(client_host.take());
        *client_port = self.client_port()?.or(*client_port);
        let (endpoint, (holder, unknown)) = tokio::join!(
            self.endpoint(&config),
            checkout::holder(&config.root, &self.env, self.names_branch)
        );
        let endpoint = endpoint?;
        self.printer.detail(&format!("server: {}", endpoint.place()));
        if let Some(why) = unknown.filter(|_| self.names_branch) {
            self.printer.warn(&format!("cannot find out the branch: {why}"));
        }
        // A process that is started at the end of the command sees to the drops.
        let stencil = Stencil::new(config, endpoint, holder, self.variable());
        let building = self.env.non_empty(env::BUILDING).unwrap_or_default();
        Ok(stencil.within_builds(building).without_drops())
    }

    /// The host that commands get, by `--client-host` or PGSTENCIL_CLIENT_HOST.
    fn client_host(&self) -> Result<Option<String>> {
        if self.shared.client_host.is_some() {
            return Ok(self.shared.client_host.clone());
        }
        match self.env.non_empty(env::CLIENT_HOST) {
            Some(host) if !config::is_host(host) => {
                let bad = format!("`{}` is `{host}`, not a host", env::CLIENT_HOST);
                Err(Error::config(bad).hint(format!(
                    "write a host name, an address or a socket directory; the port goes to {}",
                    env::CLIENT_PORT
                )))
            }
            host => Ok(host.map(str::to_owned)),
        }
    }

    /// The port that commands get, by `--client-port` or PGSTENCIL_CLIENT_PORT.
    fn client_port(&self) -> Result<Option<u16>> {
        if self.shared.client_port.is_some() {
            return Ok(self.shared.client_port);
        }
        let Some(text) = self.env.non_empty(env::CLIENT_PORT) else {
            return Ok(None);
        };
        match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(Error::config(format!(
                "`{}` is `{text}`, not a number from 1 to 65535",
                env::CLIENT_PORT
            ))),
        }
    }

    /// Looks up the variables of `env_inputs`.
    pub(super) fn variable(&self) -> Variable {
        let env = self.env.clone();
        Arc::new(move |name: &str| env.get_os(name).map(OsString::from))
    }

    /// The server that somebody names, and by what: `--server-url`, PGSTENCIL_SERVER_URL, `[server] url`.
    /// `None`: the private server is meant.
    pub(super) fn named_server(&self, config: &Config) -> Result<Option<(ServerUrl, String)>> {
        let parse = |url: &str, source: &str| match ServerUrl::parse(url) {
            Ok(url) => Ok(Some((url, source.to_owned()))),
            Err(e) => Err(e.detail(format!("it comes from {source}"))),
        };
        if let Some(url) = &self.shared.server_url {
            return parse(url, "--server-url");
        }
        if let Some(url) = self.env.non_empty(env::SERVER_URL) {
            return parse(url, env::SERVER_URL);
        }
        match &config.server.url {
            Some(UrlSetting::Literal(url)) => Ok(Some((url.clone(), BY_FILE.to_owned()))),
            Some(UrlSetting::Variable(name)) => match self.env.non_empty(name) {
                Some(url) => parse(url, &format!("the variable {name}")),
                None => Err(Error::config(format!("the variable `{name}` is not set"))
                    .detail(format!("[server] url in {} names it", config.file.display()))
                    .hint(format!("set {name}, or give `--server-url`"))),
            },
            None => Ok(None),
        }
    }

    /// The server that is named, else the private server, which is started.
    async fn endpoint(&self, config: &Config) -> Result<Endpoint> {
        if let Some((url, source)) = self.named_server(config)? {
            let endpoint = match source == BY_FILE {
                true => self.named_by_file(&url, config)?,
                false => Endpoint::new(url, &self.defaults()?)?,
            };
            // The private server's own URL, as a nested pgstencil gets it.
            let private = self.private_server(&config.server).ok();
            let socket = private.and_then(|m| m.socket_of(&endpoint.server_url()));
            let endpoint = endpoint.with_socket(socket);
            return Ok(match self.env.state_dir() {
                Ok(folder) => endpoint.with_memory(folder.join("doors.json")),
                Err(_) => endpoint,
            });
        }
        let server = self.private_server(&config.server)?;
        let running = server.start(self.deadline.left().unwrap_or(START)).await?;
        if running.started {
            self.printer.say(&format!("started the private server, PostgreSQL {}", running.version));
        }
        for notice in &running.notices {
            self.printer.warn(notice);
        }
        let door = Door::of_superuser(&running.version);
        Ok(private_endpoint(running.url, running.socket_dir)?
            .with_traces(running.data_dir, running.log_file)
            .with_door(door))
    }

    /// The server that a config file names. What this user keeps secret goes there only if the file is
    /// theirs or root's, or they named it, or a CI job checked it out.
    fn named_by_file(&self, url: &ServerUrl, config: &Config) -> Result<Endpoint> {
        let mut defaults = self.defaults()?;
        let endpoint = Endpoint::new(url.clone(), &defaults)?;
        let Origin::Neighbor { uid } = config.origin else {
            return Ok(endpoint);
        };
        let secret = url.password().is_none() && endpoint.password().is_some();
        if !secret || self.env.non_empty(env::CI).is_some() {
            return Ok(endpoint);
        }
        let source = match defaults.password {
            Some(_) => "PGPASSWORD",
            None => "the password file's entry",
        };
        let file = config.file.display();
        let warning = Error::config(format!("{source} is not sent to {}", endpoint.place()))
            .detail(format!("`{file}` names that server, and belongs to {}", user_name(uid)))
            .hint("name the server yourself: `--server-url URL` or PGSTENCIL_SERVER_URL")
            .hint(format!("if you trust that file, name it: `--config {}`", shell_word(file)));
        self.printer.caution(&warning);
        (defaults.password, defaults.passfile) = (None, None);
        Endpoint::new(url.clone(), &defaults)
    }

    /// The private server of this account.
    pub(super) fn private_server(&self, settings: &ServerSettings) -> Result<PrivateServer> {
        let mut private = PrivateServerSettings::new(self.env.state_dir()?);
        private.path = self.env.get_os(env::PATH).map(OsString::from);
        private.bindir.clone_from(&settings.bindir);
        private.run_as.clone_from(&settings.run_as);
        Ok(PrivateServer::new(private))
    }

    /// The settings of `[server]`, or the defaults where there is no config.
    pub(super) fn server_settings(&self) -> Result<ServerSettings> {
        Ok(self.config_or_defaults()?.server)
    }

    /// What libpq's variables say of the parts that a URL leaves out.
    pub(super) fn defaults(&self) -> Result<Defaults> {
        let pg = PgVariables::read(&self.env)?;
        if pg.service.is_some() {
            self.printer.warn("PGSERVICE is not read: name the server by a URL");
        }
        let mut defaults = Defaults {
            host: pg.hostaddr.or(pg.host),
            port: pg.port,
            user: pg.user.or_else(|| account(&self.env)),
            password: pg.password,
            database: pg.database,
            ssl_mode: pg.sslmode,
            passfile: None,
        };
        if let Some(path) = passfile::path(&self.env) {
            defaults.passfile = self.passfile(&path);
        }
        Ok(defaults)
    }

    fn passfile(&self, path: &Path) -> Option<PassLookup> {
        match passfile::read(path) {
            Passfile::Contents(text) => Some(Arc::new(move |host, port, database, user| {
                passfile::password(&text, Some(host), Some(port), database, user)
            })),
            Passfile::Absent => None,
            Passfile::Refused(warning) => {
                self.printer.warn(&warning);
                None
            }
        }
    }
}

/// The private server, by its URL and the directory of its socket.
pub(super) fn private_endpoint(url: ServerUrl, socket: Option<PathBuf>) -> Result<Endpoint> {
    // The URL is complete; libpq's variables are meant for other servers.
    let defaults = Defaults { ssl_mode: Some("disable".into()), ..Defaults::default() };
    let endpoint = Endpoint::new(url, &defaults)?;
    Ok(endpoint.with_socket(socket).as_private())
}

/// What to say of a private server that nobody can connect to.
pub(super) fn not_running(state: &State) -> &'static str {
    match state {
        State::Stopping => {
            "the private server is shutting down; `pgstencil server start` waits for that and starts it again"
        }
        _ => "the private server does not run; `pgstencil server start` starts it",
    }
}

fn unresponsive(why: &str) -> Error {
    Error::new(Kind::Connect, "the private server does not answer")
        .detail(why)
        .hint("`pgstencil server stop --force` ends it; the next command starts it again")
}

/// The account's name.
pub(super) fn account(env: &Environment) -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    match user {
        Ok(Some(user)) => Some(user.name),
        _ => env.non_empty("USER").map(str::to_owned),
    }
}
