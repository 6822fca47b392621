//! From options, environment and config to a [`Stencil`]: the project and the server.

use std::path::PathBuf;

use crate::config::{
    self, BackgroundWork, CloneSettings, Config, EvictionSettings, Origin, Recycle, RemoteSettings,
    ServerSettings,
};
use crate::env;
use crate::fingerprint::FileCache;
use crate::git::{Head, Tree};
use crate::private_server::{PrivateServer, State, notice};
use crate::remote::Remote;
use crate::stencil::locate::{self, Locator, Told};
use crate::stencil::{Holder, Variable, checkout};
use crate::{Error, Kind, Result, Stencil};

use super::App;

impl App {
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
                file_cache: true,
                server: ServerSettings::default(),
                definitions: Vec::new(),
                clone: CloneSettings::default(),
                eviction: EvictionSettings::default(),
                remote: RemoteSettings::default(),
            }),
        }
    }

    /// The config file that is named.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
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

    /// The project's stencil, for commands about the remote store: they ask it even if it failed a moment ago.
    pub(super) async fn stencil_asking_the_store(&self) -> Result<Stencil> {
        let config = self.config()?;
        let remote = self.store_of(&config)?;
        Ok(self.stencil_of(config).await?.with_remote(remote))
    }

    /// The remote store of the config, if there is one. Needs no server.
    pub(super) fn store(&self) -> Result<Option<Remote>> {
        self.store_of(&self.config()?)
    }

    fn store_of(&self, config: &Config) -> Result<Option<Remote>> {
        let branch = match Tree::find(&config.root).and_then(|tree| tree.git?.head()) {
            Some(Head::Branch(branch)) => Some(branch),
            _ => None,
        };
        Ok(Remote::open(config, &self.env, branch.as_deref())?.map(Remote::insisting))
    }

    /// Where the server is looked for.
    pub(super) fn locator(&self) -> Locator<'_> {
        let printer = &self.printer;
        Locator {
            env: &self.env,
            url: self.shared.server_url.as_deref().map(|url| (url, "--server-url")),
            wait: self.deadline.left(),
            tell: Box::new(|told| match told {
                Told::Started(version) => {
                    printer.say(&format!("started the private server, PostgreSQL {version}"));
                }
                Told::Warning(text) => printer.warn(text),
                Told::Caution(warning) => printer.caution(warning),
            }),
        }
    }

    /// Whether nobody names a server.
    pub(super) fn uses_private_server(&self, config: &Config) -> bool {
        self.locator().uses_private_server(config)
    }

    /// What switches background work off; `None` if it is on.
    pub(super) fn background_off_by(&self, config: &Config) -> Result<Option<String>> {
        self.locator().background_off_by(config)
    }

    /// The private server of this account.
    pub(super) fn private_server(&self, settings: &ServerSettings) -> Result<PrivateServer> {
        self.locator().private_server(settings)
    }

    /// A stencil for a command that hands out many clones: it reads the inputs once, and a thread of it drops clones.
    pub(super) async fn stencil_for_tests(&self) -> Result<Stencil> {
        Ok(self.stencil_with_drops(self.config()?).await?.for_tests(None))
    }

    /// A stencil for one request: a process that is started at the end of the command runs the drops.
    async fn stencil_of(&self, config: Config) -> Result<Stencil> {
        Ok(self.stencil_with_drops(config).await?.without_drops())
    }

    /// Asks on a terminal whether to fetch Postgres, if the error says that this machine has none. Fails with the error if
    /// nothing is fetched.
    #[cfg(feature = "fetch")]
    pub(super) async fn fetch_instead_of(&self, server: &PrivateServer, error: Error) -> Result<()> {
        super::commands::server::fetch::instead_of(self, server, error).await
    }

    /// Fails with the error: this program can fetch nothing.
    #[cfg(not(feature = "fetch"))]
    pub(super) async fn fetch_instead_of(&self, _: &PrivateServer, error: Error) -> Result<()> {
        Err(error)
    }

    async fn stencil_with_drops(&self, mut config: Config) -> Result<Stencil> {
        let locator = self.locator();
        config.clone.background = locator.background(&config)?;
        let untrusted = self.env.non_empty(env::UNTRUSTED).is_some_and(|value| value != "0");
        if untrusted {
            // What this job left running would serve others.
            config.clone.background = BackgroundWork::Off;
            config.clone.recycle = Recycle::Never;
        }
        let ServerSettings { client_host, client_port, .. } = &mut config.server;
        *client_host = match &self.shared.client_host {
            Some(host) => Some(host.clone()),
            None => locator.client_host()?.or(client_host.take()),
        };
        *client_port = match self.shared.client_port {
            Some(port) => Some(port),
            None => locator.client_port()?.or(*client_port),
        };
        let (endpoint, (holder, unknown)) = tokio::join!(
            locator.endpoint(&config),
            checkout::holder(&config.root, &self.env, self.names_branch)
        );
        let endpoint = match endpoint {
            Err(error) => {
                self.fetch_instead_of(&self.private_server(&config.server)?, error).await?;
                locator.endpoint(&config).await?
            }
            endpoint => endpoint?,
        };
        self.printer.detail(&format!("server: {}", endpoint.place()));
        if let Some(why) = unknown.filter(|_| self.names_branch) {
            self.printer.warn(&format!("cannot find out the branch: {why}"));
        }
        let cache = self.file_cache(config.file_cache, &holder);
        let remote = Remote::open(&config, &self.env, holder.branch.as_deref())?;
        let stencil = Stencil::new(config, endpoint, holder, self.variable());
        let building = self.env.non_empty(env::BUILDING).unwrap_or_default();
        let stencil = stencil.within_builds(building).with_file_cache(cache);
        let stencil = stencil.with_copies_in(self.env.cache_dir());
        Ok(stencil.with_remote(remote).with_untrusted(untrusted))
    }

    /// The cache of file hashes that commands of this user on this machine share.
    fn file_cache(&self, wanted: bool, holder: &Holder) -> FileCache {
        match self.env.cache_dir().filter(|_| wanted) {
            Some(directory) => FileCache::at(directory, holder.machine.clone()),
            None => FileCache::off(),
        }
    }

    /// Looks up the variables of `env_inputs`.
    pub(super) fn variable(&self) -> Variable {
        locate::variable(&self.env)
    }

    /// The settings of `[server]`, or the defaults where there is no config.
    pub(super) fn server_settings(&self) -> Result<ServerSettings> {
        Ok(self.config_or_defaults()?.server)
    }
}

/// Message about a private server that is not running.
pub(super) const NOT_RUNNING: &str =
    "the private server is not running; start it with `pgstencil server start`";

/// Returns the message about a private server that accepts no connections.
pub(super) fn not_running(state: &State) -> &'static str {
    match state {
        State::Stopping => {
            "the private server is shutting down; wait for that and start it again with `pgstencil server start`"
        }
        _ => NOT_RUNNING,
    }
}

fn unresponsive(why: &str) -> Error {
    Error::new(Kind::Connect, "the private server does not answer")
        .detail(why)
        .hint("stop it: `pgstencil server stop --force` (the next command starts it again)")
}
