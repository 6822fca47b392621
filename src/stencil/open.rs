//! [`StencilBuilder`]: creates a [`Stencil`] from a config and the settings of the program.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use super::locate::{self, Locator, Told};
use super::{Stencil, checkout};
use crate::config::{BackgroundWork, Config, ServerSettings, UrlSetting};
use crate::env::{self, Environment};
use crate::error::{Error, Result};
use crate::events::{Event, Observe, Warning};
use crate::registry::Holder;

/// Builder of a [`Stencil`]. Awaiting it reads the config, and finds or starts the server.
///
/// The library does not read the process's environment by itself. The program passes it with
/// [`environment`](Self::environment). It then applies as on the command line: the server (`PGSTENCIL_SERVER_URL`, or
/// the variable that `[server] url = "env:NAME"` names), libpq's variables and password file for the parts that a URL
/// omits, the location of the private server's data, and the values of `env_inputs`, which are inputs of the
/// template. A program that shares its templates with the command line passes it.
#[must_use = "a builder opens nothing before it is awaited"]
pub struct StencilBuilder<'a> {
    settings: Settings,
    observe: Observe<'a>,
}

struct Settings {
    source: Source,
    environment: Option<Environment>,
    server_url: Option<String>,
    owner: Option<String>,
    label: Option<String>,
    wait: Option<Duration>,
    full_build: bool,
    background: Option<BackgroundWork>,
}

enum Source {
    File(PathBuf),
    Config(Box<Config>),
}

impl Stencil {
    /// Opens the project of this config file. The caller names the file, so it is trusted; see
    /// [`config::find`](crate::config::find) for a search that refuses the files of other users.
    ///
    /// ```no_run
    /// use pgstencil::Stencil;
    /// use pgstencil::env::Environment;
    ///
    /// # async fn example() -> pgstencil::Result<()> {
    /// // The server is `[server] url`.
    /// let stencil = Stencil::open("pgstencil.toml").await?;
    /// // The server, and all else, is what the command line would take.
    /// let stencil = Stencil::open("pgstencil.toml").environment(Environment::from_process()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(file: impl Into<PathBuf>) -> StencilBuilder<'static> {
        StencilBuilder::new(Source::File(file.into()))
    }

    /// Opens a project whose config the program already has; [`Config::parse`] parses one from a text.
    ///
    /// ```no_run
    /// use pgstencil::Stencil;
    /// use pgstencil::config::Config;
    ///
    /// # async fn example() -> pgstencil::Result<()> {
    /// let toml = "[template.app]\nmigrations = [\"migrations/*.sql\"]\nbuild = \"make migrate\"\n";
    /// let config = Config::parse(toml, "/src/shop/pgstencil.toml".as_ref())?;
    /// let stencil = Stencil::builder(config).server_url("postgresql://me:secret@127.0.0.1/postgres").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(config: Config) -> StencilBuilder<'static> {
        StencilBuilder::new(Source::Config(Box::new(config)))
    }
}

impl StencilBuilder<'static> {
    fn new(source: Source) -> Self {
        let settings = Settings {
            source,
            environment: None,
            server_url: None,
            owner: None,
            label: None,
            wait: None,
            full_build: false,
            background: None,
        };
        StencilBuilder { settings, observe: &|_| {} }
    }
}

impl<'a> StencilBuilder<'a> {
    /// Sets the environment to use, as in [`Environment::from_process`]. The default is an empty one.
    pub fn environment(mut self, environment: Environment) -> Self {
        self.settings.environment = Some(environment);
        self
    }

    /// Sets the server, overriding environment and config.
    pub fn server_url(mut self, url: impl Into<String>) -> Self {
        self.settings.server_url = Some(url.into());
        self
    }

    /// Sets the owner of named clones, as `PGSTENCIL_OWNER` does. By default the owner is this checkout on this
    /// machine, as with the command line.
    pub fn owner(mut self, name: impl Into<String>) -> Self {
        self.settings.owner = Some(name.into());
        self
    }

    /// Sets the label of this program that others see while they wait for it, such as the name of a CI job. The
    /// default is the name of the program.
    pub fn label(mut self, words: impl Into<String>) -> Self {
        self.settings.label = Some(words.into());
        self
    }

    /// Limits how long the private server may take to start; the default is two minutes.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = Some(wait);
        self
    }

    /// Runs a full build of missing templates even if an incremental build is possible.
    pub fn full_build(mut self, full_build: bool) -> Self {
        self.settings.full_build = full_build;
        self
    }

    /// Sets whether work goes on in the background, overriding `PGSTENCIL_BACKGROUND` and `[clone] background`.
    ///
    /// If it is off, the program has no cleanup thread. [`Lease::release`](super::Lease::release) and
    /// [`Stencil::release`] drop the clones before they return. The clones of a lease that is only dropped are
    /// dropped by the next release, or by [`Stencil::close`]; if neither comes, by the cleanup of another process
    /// `orphan_grace` later. [`Stencil::fill`] records the requests and creates no warm clones. [`Stencil::rebuild`]
    /// works as usual.
    pub fn background(mut self, background: BackgroundWork) -> Self {
        self.settings.background = Some(background);
        self
    }

    /// Sets the callback for events while the server is found: warnings, and the start of the private server.
    pub fn observe<'b>(self, observe: Observe<'b>) -> StencilBuilder<'b> {
        StencilBuilder { settings: self.settings, observe }
    }

    async fn build(self) -> Result<Stencil> {
        let StencilBuilder { settings, observe } = self;
        let mut config = match settings.source {
            Source::File(file) => Config::load(&file)?,
            Source::Config(config) => *config,
        };
        if settings.environment.is_none() && settings.server_url.is_none() {
            needs_no_environment(&config)?;
        }
        let env = settings.environment.unwrap_or_default();
        let locator = Locator {
            env: &env,
            url: settings.server_url.as_deref().map(|url| (url, "`server_url`")),
            wait: settings.wait,
            tell: Box::new(move |told| match told {
                Told::Started(version) => {
                    observe(Event::Notice(&format!("started the private server, PostgreSQL {version}")));
                }
                Told::Warning(text) => observe(Event::Warning(&Warning::new(text))),
                Told::Caution(warning) => observe(Event::Warning(warning)),
            }),
        };
        let background = locator.background(&config)?;
        config.clone.background = settings.background.unwrap_or(background);
        let ServerSettings { client_host, client_port, .. } = &mut config.server;
        *client_host = locator.client_host()?.or(client_host.take());
        *client_port = locator.client_port()?.or(*client_port);
        let (endpoint, (mut holder, _)) =
            tokio::join!(locator.endpoint(&config), checkout::holder(&config.root, &env, true));
        if let Some(owner) = settings.owner {
            holder.checkout.machine = String::new();
            holder.checkout.owner = owner;
        }
        match settings.label {
            Some(label) => holder.label = label,
            None if holder.label.is_empty() => holder.label = Holder::default().label,
            None => {}
        }
        let building = env.non_empty(env::BUILDING).unwrap_or_default();
        let stencil = Stencil::new(config, endpoint?, holder, locate::variable(&env));
        let stencil = stencil.within_builds(building).with_full_build(settings.full_build);
        Ok(stencil.with_copies_in(env.cache_dir()))
    }
}

/// Fails if the config leaves the choice of the server to the environment.
fn needs_no_environment(config: &Config) -> Result<()> {
    let what = match &config.server.url {
        Some(UrlSetting::Literal(_)) => return Ok(()),
        Some(UrlSetting::Variable(name)) => {
            format!("[server] url in {} is the variable {name}", config.file.display())
        }
        None => format!(
            "{} names no server, and the directory of the private server depends on the environment",
            config.file.display()
        ),
    };
    Err(Error::config("the choice of the server depends on the environment, and no environment was passed")
        .detail(what)
        .hint("pass the environment: `.environment(Environment::from_process())`")
        .hint("name the server: `.server_url(URL)`"))
}

impl<'a> IntoFuture for StencilBuilder<'a> {
    type Output = Result<Stencil>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Stencil>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.build())
    }
}
