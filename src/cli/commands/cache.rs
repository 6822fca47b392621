//! `pgstencil cache`

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache_file::Reason;
use crate::cache_file::key::{PublicKey, SecretKey};
use crate::config::Config;
use crate::private_file;
use crate::private_server::{PrivateServer, Restored};
use crate::quantity::{count, size};
use crate::stencil::{cache_key, save_cache};
use crate::wire::{CacheKeyAnswer, CacheNewKeyAnswer, CacheRestoreAnswer, CacheSaveAnswer, VERSION};
use crate::{Error, Kind, Result};

use crate::cli::{App, escape};
use clap::{Args, Subcommand};

/// Patience with stop, start and the disk, when `--wait` sets none.
const PATIENCE: Duration = Duration::from_secs(600);

/// `cache`
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Save the private server's templates as one file
    ///
    /// The file holds all databases of the private server except clones, but neither its password and settings nor
    /// names of machines. If the server is running, it is stopped for a moment and started again. While a clone is
    /// leased, a build runs or a client is connected, nothing is saved, and the exit code is 1.
    #[command(after_help = "Example:\n  pgstencil cache save pgstencil.cache")]
    Save(CacheSave),
    /// Make the private server from a saved file
    ///
    /// If there is a private server already, or the file is missing, damaged or from another system, nothing is
    /// restored: one line says why, the exit code is 0, and the next command builds its template as usual.
    #[command(
        after_help = "Examples:\n  pgstencil cache restore pgstencil.cache\n  pgstencil cache restore pgstencil.cache --trust env:PGSTENCIL_TRUST"
    )]
    Restore(CacheRestore),
    /// Print prefix and fingerprint for the key of a CI cache
    ///
    /// Prints `prefix=...` and `fingerprint=...`. The prefix names the operating system, the architecture, the
    /// PostgreSQL version, the libraries that order text, and the project. Starts no server.
    #[command(after_help = "Example:\n  pgstencil cache key >> \"$GITHUB_OUTPUT\"")]
    Key(CacheKeyArgs),
    /// Make a key that signs cache files
    ///
    /// Writes the signing key to a new file that only you can read, and prints the public key.
    #[command(after_help = "Example:\n  pgstencil cache new-key ~/pgstencil.key")]
    NewKey(CacheNewKey),
}

/// `cache save`
#[derive(Args, Debug)]
pub(crate) struct CacheSave {
    /// The file; an older one is replaced when the new one is complete
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Sign it with the key in this file, or in a variable: `env:NAME`
    #[arg(long, value_name = "KEY")]
    pub(crate) sign_key: Option<String>,
}

/// `cache restore`
#[derive(Args, Debug)]
pub(crate) struct CacheRestore {
    /// The file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Use the file only if it is signed with this key: `ed25519:...`, or in a variable, `env:NAME`; repeatable
    #[arg(long, value_name = "KEY")]
    pub(crate) trust: Vec<String>,
}

/// `cache key`
#[derive(Args, Debug)]
pub(crate) struct CacheKeyArgs {
    /// Only this template definition [default: all of the config]
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
}

/// `cache new-key`
#[derive(Args, Debug)]
pub(crate) struct CacheNewKey {
    /// The file, which must not exist
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

pub(crate) async fn cache(app: &App, args: Cache) -> Result<u8> {
    match args {
        Cache::Save(args) => save(app, &args).await,
        Cache::Restore(args) => restore(app, &args).await,
        Cache::Key(args) => key(app, &args).await,
        Cache::NewKey(args) => new_key(app, &args),
    }
}

/// The private server, if commands use it.
fn server(app: &App, config: &Config) -> Result<PrivateServer> {
    if let Some((_, source)) = app.locator().named_server(config)? {
        return Err(Error::usage("a cache file is of the private server, and commands use another one")
            .detail(format!("the server is named by {source}"))
            .hint(format!(
                "remove {source}, or leave the cache file out: templates stay on a server that keeps running"
            )));
    }
    app.private_server(&config.server)
}

async fn save(app: &App, args: &CacheSave) -> Result<u8> {
    let server = server(app, &app.config_or_defaults()?)?;
    let key = match &args.sign_key {
        Some(text) => {
            Some(SecretKey::parse(&secret(app, text)?).map_err(|e| e.detail("it comes from --sign-key"))?)
        }
        None => None,
    };
    let patience = app.deadline.left().unwrap_or(PATIENCE);
    let file = absolute(app, &args.file)?;
    let done = save_cache(&server, &file, key.as_ref(), patience, &app.deadline).await?;
    for notice in &done.saved.notices {
        app.printer.warn(notice);
    }
    for database in &done.foreign {
        app.printer
            .warn(&format!("the file also contains database `{database}`, which pgstencil did not create"));
    }
    let signed_by = key.map(|key| key.public().to_string());
    let answer = CacheSaveAnswer::new(args.file.display().to_string(), &done, signed_by);
    app.printer.say(&format!(
        "saved {} in {} ({}, unpacked {})",
        count(answer.templates.len(), "template"),
        escape::line(&answer.file),
        size(answer.bytes as i64),
        size(answer.unpacked_bytes as i64)
    ));
    if app.printer.json() {
        app.printer.object(&answer)?;
    }
    Ok(0)
}

async fn restore(app: &App, args: &CacheRestore) -> Result<u8> {
    let server = server(app, &app.config_or_defaults()?)?;
    let mut trusted = Vec::new();
    for text in &args.trust {
        let text = match text.strip_prefix("env:") {
            Some(name) => variable(app, name, "--trust")?,
            None => text.clone(),
        };
        // One variable may hold several.
        for key in text.split([',', ' ', '\n']).filter(|key| !key.trim().is_empty()) {
            trusted.push(PublicKey::parse(key).map_err(|e| e.detail("it comes from --trust"))?);
        }
        if trusted.is_empty() {
            return Err(Error::usage("--trust names no key"));
        }
    }
    let patience = app.deadline.left().unwrap_or(PATIENCE);
    let file = absolute(app, &args.file)?;
    let restored = server.restore(&file, &trusted, patience).await?;
    let answer = CacheRestoreAnswer::from(&restored);
    let name = args.file.display();
    match &restored {
        Restored::Done(_) => {
            let templates = count(answer.templates.len(), "template");
            app.printer.say(&format!("restored {templates} from {name}"));
        }
        Restored::Exists(data) => app.printer.say(&format!(
            "nothing was restored, since there is already a private server in {}",
            data.display()
        )),
        Restored::Unusable(unusable) if unusable.reason == Reason::Missing => {
            app.printer.say(&format!("nothing was restored: there is no file {name}"));
        }
        Restored::Unusable(unusable) => {
            app.printer.warn(&format!("nothing was restored, since {name} cannot be used: {unusable}"));
        }
    }
    if app.printer.json() {
        app.printer.object(&answer)?;
    }
    Ok(0)
}

async fn key(app: &App, args: &CacheKeyArgs) -> Result<u8> {
    let config = app.config()?;
    let server = server(app, &config)?;
    let platform = server.platform().await?;
    let key = cache_key(config, args.template.as_deref(), &platform, &app.variable()).await?;
    let answer = CacheKeyAnswer::from(&key);
    match app.printer.json() {
        true => app.printer.object(&answer)?,
        false => {
            app.printer.data(&format!("prefix={}\nfingerprint={}\n", answer.prefix, answer.fingerprint))?;
        }
    }
    Ok(0)
}

fn new_key(app: &App, args: &CacheNewKey) -> Result<u8> {
    let key = SecretKey::random()?;
    let file = absolute(app, &args.file)?;
    private_file::create_file(&file, format!("{}\n", key.reveal()).as_bytes())
        .map_err(|e| Error::failed(format!("cannot create {}", args.file.display())).caused_by(e))?;
    let answer = CacheNewKeyAnswer {
        version: VERSION,
        file: args.file.display().to_string(),
        public_key: key.public().to_string(),
    };
    app.printer.say("keep the file secret; the key that is printed is for `cache restore --trust`");
    match app.printer.json() {
        true => app.printer.object(&answer)?,
        false => app.printer.data(&format!("{}\n", answer.public_key))?,
    }
    Ok(0)
}

/// The text of a secret: of a variable, or of a file.
fn secret(app: &App, text: &str) -> Result<String> {
    if let Some(name) = text.strip_prefix("env:") {
        return variable(app, name, "--sign-key");
    }
    let file = absolute(app, Path::new(text))?;
    std::fs::read_to_string(&file).map_err(|e| {
        Error::new(Kind::Usage, format!("cannot read the signing key {}", file.display())).caused_by(e)
    })
}

fn variable(app: &App, name: &str, option: &str) -> Result<String> {
    app.env.non_empty(name).map(str::to_owned).ok_or_else(|| {
        Error::usage(format!("the variable `{name}` is not set")).detail(format!("{option} names it"))
    })
}

fn absolute(app: &App, file: &Path) -> Result<PathBuf> {
    Ok(app.here()?.join(file))
}
