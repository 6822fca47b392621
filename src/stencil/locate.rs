//! Finds the server: the one that is named explicitly, otherwise the private one, which is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Defaults, Door, Endpoint, PassLookup, Variable};
use crate::config::value::Host;
use crate::config::{BackgroundWork, Config, Origin, ServerSettings, UrlSetting};
use crate::env::passfile::{self, Passfile};
use crate::env::{self, Environment, PgVariables};
use crate::error::{Error, Result, shell_word};
use crate::events::Warning;
use crate::private_file::user_name;
use crate::private_server::{PrivateServer, PrivateServerSettings};
use crate::url::ServerUrl;

/// Time limit for the start of a private server if the caller sets none.
const START: Duration = Duration::from_secs(120);
/// Name of the source of a server whose URL is in the config itself.
const BY_FILE: &str = "`[server] url`";

/// Sources from which the server is determined.
pub(crate) struct Locator<'a> {
    /// The environment to use.
    pub(crate) env: &'a Environment,
    /// A URL set by the caller, and the name of its source.
    pub(crate) url: Option<(&'a str, &'static str)>,
    /// Time limit for the start of the private server.
    pub(crate) wait: Option<Duration>,
    /// Callback that receives what happens.
    pub(crate) tell: Box<dyn Fn(Told<'_>) + Send + Sync + 'a>,
}

/// Event while the server is found.
pub(crate) enum Told<'a> {
    /// The private server was started; its version.
    Started(&'a str),
    /// A warning for the user.
    Warning(&'a str),
    /// A warning with details and hints.
    Caution(&'a Warning),
}

impl Locator<'_> {
    /// Whether no server is named explicitly.
    pub(crate) fn uses_private_server(&self, config: &Config) -> bool {
        self.url.is_none() && self.env.non_empty(env::SERVER_URL).is_none() && config.server.url.is_none()
    }

    /// Returns the host that commands get, from PGSTENCIL_CLIENT_HOST.
    pub(crate) fn client_host(&self) -> Result<Option<Host>> {
        match self.env.non_empty(env::CLIENT_HOST) {
            None => Ok(None),
            Some(host) => host.parse().map(Some).map_err(|_| {
                Error::config(format!("`{}` is `{host}`, not a host", env::CLIENT_HOST)).hint(format!(
                    "write a host name, an address or a socket directory; the port goes to {}",
                    env::CLIENT_PORT
                ))
            }),
        }
    }

    /// Returns the port that commands get, from PGSTENCIL_CLIENT_PORT.
    pub(crate) fn client_port(&self) -> Result<Option<u16>> {
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

    /// Returns whether work goes on in the background, by PGSTENCIL_BACKGROUND or `[clone] background`.
    pub(crate) fn background(&self, config: &Config) -> Result<BackgroundWork> {
        Ok(match self.background_off_by(config)? {
            Some(_) => BackgroundWork::Off,
            None => BackgroundWork::Auto,
        })
    }

    /// Returns the source of the setting that switches background work off: PGSTENCIL_BACKGROUND, or `[clone]
    /// background`. `None`: it is on.
    pub(crate) fn background_off_by(&self, config: &Config) -> Result<Option<String>> {
        match self.env.non_empty(env::BACKGROUND) {
            Some("auto") => Ok(None),
            Some("off") => Ok(Some(format!("the variable {}", env::BACKGROUND))),
            Some(other) => Err(Error::config(format!("`{}` is `{other}`", env::BACKGROUND))
                .hint("set it to `auto` or `off`")),
            None => Ok(match config.clone.background {
                BackgroundWork::Auto => None,
                BackgroundWork::Off => Some("`[clone] background`".to_owned()),
            }),
        }
    }

    /// Returns the server that is named, and its source: the caller, PGSTENCIL_SERVER_URL, or `[server] url`. `None`:
    /// the private server is used.
    pub(crate) fn named_server(&self, config: &Config) -> Result<Option<(ServerUrl, String)>> {
        let parse = |url: &str, source: &str| match ServerUrl::parse(url) {
            Ok(url) => Ok(Some((url, source.to_owned()))),
            Err(e) => Err(e.detail(format!("it comes from {source}"))),
        };
        if let Some((url, source)) = self.url {
            return parse(url, source);
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

    /// Returns the named server, otherwise the private server, which is started.
    pub(crate) async fn endpoint(&self, config: &Config) -> Result<Endpoint> {
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
        let running = server.start(self.wait.unwrap_or(START)).await?;
        if running.started {
            (self.tell)(Told::Started(&running.version));
        }
        for notice in &running.notices {
            (self.tell)(Told::Warning(notice));
        }
        let door = Door::of_superuser(&running.version);
        Ok(private_endpoint(running.url, running.socket_dir)?
            .with_traces(running.data_dir, running.log_file)
            .with_door(door))
    }

    /// Returns the server that a config file names. The user's secrets are sent to it only if the file belongs to
    /// this user or root, the user named the server, or a CI job checked the file out.
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
        let warning = Warning::new(format!("{source} is not sent to {}", endpoint.place()))
            .detail(format!("`{file}` names that server, and belongs to {}", user_name(uid)))
            .hint("name the server yourself: `--server-url URL` or PGSTENCIL_SERVER_URL")
            .hint(format!("if you trust that file, name it: `--config {}`", shell_word(file)));
        (self.tell)(Told::Caution(&warning));
        (defaults.password, defaults.passfile) = (None, None);
        Endpoint::new(url.clone(), &defaults)
    }

    /// Returns the private server of this account.
    pub(crate) fn private_server(&self, settings: &ServerSettings) -> Result<PrivateServer> {
        let mut private = PrivateServerSettings::new(self.env.state_dir()?);
        private.path = self.env.get_os(env::PATH).map(OsString::from);
        private.program = std::env::current_exe().ok();
        private.bindir.clone_from(&settings.bindir);
        private.run_as = settings.run_as.as_ref().map(ToString::to_string);
        Ok(PrivateServer::new(private))
    }

    /// Returns libpq's defaults for the parts that a URL omits.
    pub(crate) fn defaults(&self) -> Result<Defaults> {
        let pg = PgVariables::read(self.env)?;
        if pg.service.is_some() {
            let warning =
                Warning::new("PGSERVICE is ignored").hint("name the server by a URL: `--server-url URL`");
            (self.tell)(Told::Caution(&warning));
        }
        let mut defaults = Defaults {
            host: pg.hostaddr.or(pg.host),
            port: pg.port,
            user: pg.user.or_else(|| account(self.env)),
            password: pg.password,
            database: pg.database,
            ssl_mode: pg.sslmode,
            passfile: None,
        };
        if let Some(path) = passfile::path(self.env) {
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
                (self.tell)(Told::Warning(&warning));
                None
            }
        }
    }
}

/// Returns the private server's endpoint, from its URL and the directory of its socket.
pub(crate) fn private_endpoint(url: ServerUrl, socket: Option<PathBuf>) -> Result<Endpoint> {
    // The URL is complete; libpq's variables apply to other servers.
    let defaults = Defaults { ssl_mode: Some("disable".into()), ..Defaults::default() };
    let endpoint = Endpoint::new(url, &defaults)?;
    Ok(endpoint.with_socket(socket).as_private())
}

/// Looks up the variables of `env_inputs`.
pub(crate) fn variable(env: &Environment) -> Variable {
    let env = env.clone();
    Arc::new(move |name: &str| env.get_os(name).map(OsString::from))
}

/// Returns the account's name.
pub(crate) fn account(env: &Environment) -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    match user {
        Ok(Some(user)) => Some(user.name),
        _ => env.non_empty("USER").map(str::to_owned),
    }
}
