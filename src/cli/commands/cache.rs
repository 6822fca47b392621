//! `pgstencil cache`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cache_file::key::{PublicKey, SecretKey};
use crate::cache_file::{DumpFile, Reason, Unusable};
use crate::config::Config;
use crate::git::{Head, Tree};
use crate::private_file;
use crate::private_server::{PrivateServer, Restored};
use crate::quantity::{count, size};
use crate::remote::{Remote, Shelf};
use crate::stencil::{cache_key, restore_cache, save_cache};
use crate::wire::{CacheKeyAnswer, CacheNewKeyAnswer, CacheRestoreAnswer, CacheSaveAnswer, VERSION};
use crate::{Error, Kind, Result};

use crate::cli::{App, escape};
use clap::{Args, Subcommand};

/// Patience with stop, start and the disk, when `--wait` sets none.
const PATIENCE: Duration = Duration::from_secs(600);

/// `cache`
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Save the server's templates as one file
    ///
    /// The file holds all databases of the private server except clones, but neither its password and settings nor
    /// names of machines. If the server is running, it is stopped for a moment and started again. While a clone is
    /// leased, a build runs or a client is connected, nothing is saved, and the exit code is 1.
    ///
    /// With `--through-server`, the server is the one that you name, such as a service container: programs on its
    /// machine dump the project's templates (`COPY ... PROGRAM`), and the server keeps running. The role must be a
    /// superuser or a member of pg_execute_server_program, else the exit code is 3. Templates that FILE has already are
    /// not dumped again, and the 20 newest ones stay in it.
    #[command(
        after_help = "Examples:\n  pgstencil cache save pgstencil.cache\n  pgstencil cache save --through-server pgstencil.cache"
    )]
    Save(CacheSave),
    /// Restore the templates of a saved file
    ///
    /// Makes the private server from the file.
    /// If there is a private server already, or the file is missing, damaged or from another system, nothing is
    /// restored: one line says why, the exit code is 0, and the next command builds its template as usual.
    ///
    /// With `--through-server`, programs on the machine of the named server restore dumps from the file: for each
    /// template definition the template of the current files, or the largest base of one. The role needs the same
    /// privilege as for `cache save`.
    #[command(
        after_help = "Examples:\n  pgstencil cache restore pgstencil.cache\n  pgstencil cache restore pgstencil.cache --trust env:PGSTENCIL_TRUST\n  pgstencil cache restore --through-server pgstencil.cache"
    )]
    Restore(CacheRestore),
    /// Print prefix and fingerprint for the key of a CI cache
    ///
    /// Prints `prefix=...` and `fingerprint=...`. The prefix names the operating system, the architecture, the
    /// PostgreSQL version, the libraries that order text, and the project. Starts no server. With `--through-server`,
    /// the prefix only names the version of the named server and the project.
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
    /// Save the named server's templates as dumps, by programs on the server's machine
    #[arg(long)]
    pub(crate) through_server: bool,
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
    /// Restore dumps into the named server, by programs on the server's machine
    #[arg(long)]
    pub(crate) through_server: bool,
    /// With --through-server: restore all templates that can be used, and not only the best one
    #[arg(long, requires = "through_server")]
    pub(crate) all: bool,
}

/// `cache key`
#[derive(Args, Debug)]
pub(crate) struct CacheKeyArgs {
    /// Only this template definition [default: all of the config]
    #[arg(short = 't', long = "template", value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// For a file of `cache save --through-server`
    #[arg(long)]
    pub(crate) through_server: bool,
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
            ))
            .hint("a server that starts empty with each job, such as a service container: add `--through-server`"));
    }
    app.private_server(&config.server)
}

/// The store in memory for a file of dumps.
fn file_store(
    app: &App,
    config: &Config,
    file: &Path,
    objects: Vec<(String, Vec<u8>)>,
) -> (Remote, Arc<Shelf>) {
    let branch = match Tree::find(&config.root).and_then(|tree| tree.git?.head()) {
        Some(Head::Branch(branch)) => Some(branch),
        _ => None,
    };
    let shelf = Arc::new(Shelf::new(objects));
    let place = format!("cache file {}", file.display());
    (Remote::of_file(config, place, Arc::clone(&shelf), &app.env, branch.as_deref()), shelf)
}

/// The config, if a server is named. The private server needs no dumps.
fn config_of_named_server(app: &App) -> Result<Config> {
    let config = app.config()?;
    match app.locator().named_server(&config)? {
        Some(_) => Ok(config),
        None => Err(Error::usage("`--through-server` is for a server that you name, and none is named")
            .hint("name it: `--server-url URL`, PGSTENCIL_SERVER_URL or `[server] url`")
            .hint("the private server needs no dumps: leave `--through-server` out")),
    }
}

async fn save_through_server(app: &App, args: &CacheSave, key: Option<&SecretKey>) -> Result<u8> {
    let config = config_of_named_server(app)?;
    let file = absolute(app, &args.file)?;
    // A file without this signature may hold anything: its contents must not get the signature now.
    let trusted: Vec<PublicKey> = key.iter().map(|key| key.public()).collect();
    let (path, project) = (file.clone(), config.project.clone());
    let read = tokio::task::spawn_blocking(move || DumpFile::read(&path, &project, &trusted)).await;
    let old = read.map_err(|e| Error::unjoined("reading the cache file", e))?;
    let (stencil, major) = app.stencil().await?.through_server(&app.deadline).await?;
    let old = old.ok().filter(|old| old.manifest.major == major).map(|old| old.objects);
    let (remote, shelf) = file_store(app, &config, &args.file, old.unwrap_or_default());
    let stencil = stencil.with_remote(Some(remote));
    let printer = app.printer.clone();
    let observe = |event: crate::events::Event<'_>| printer.tell(&event);
    let saved = stencil.save_dumps(&shelf, &file, key, &app.deadline, &observe).await;
    app.printer.finish();
    let saved = saved?;
    for left in &saved.left {
        let of = left.fingerprint.as_deref().unwrap_or_default();
        let of = of.get(..12).unwrap_or_default();
        app.printer.warn(&format!("template {} ({of}) was not saved: {}", left.template, left.why));
    }
    let signed_by = key.map(|key| key.public().to_string());
    let answer = CacheSaveAnswer::of_dumps(args.file.display().to_string(), &saved, signed_by);
    let kept = match answer.templates.len().saturating_sub(answer.dumped) {
        0 => String::new(),
        kept => format!("; {kept} of them as before"),
    };
    app.printer.say(&format!(
        "saved {} in {} ({}{kept}), through the server",
        count(answer.templates.len(), "template"),
        escape::line(&answer.file),
        size(answer.bytes as i64),
    ));
    if app.printer.json() {
        app.printer.object(&answer)?;
    }
    Ok(0)
}

async fn restore_through_server(app: &App, args: &CacheRestore, trusted: Vec<PublicKey>) -> Result<u8> {
    let config = config_of_named_server(app)?;
    let (path, project) = (absolute(app, &args.file)?, config.project.clone());
    let read = tokio::task::spawn_blocking(move || DumpFile::read(&path, &project, &trusted)).await;
    let read = read.map_err(|e| Error::unjoined("checking the cache file", e))?;
    let answer = match read {
        Err(unusable) => Err(unusable),
        Ok(file) => {
            let (stencil, major) = app.stencil().await?.through_server(&app.deadline).await?;
            match file.manifest.major == major {
                true => {
                    let (remote, _) = file_store(app, &config, &args.file, file.objects);
                    let stencil = stencil.with_remote(Some(remote));
                    let printer = app.printer.clone();
                    let observe = |event: crate::events::Event<'_>| printer.tell(&event);
                    let filled =
                        stencil.restore_dumps(&file.manifest, args.all, &app.deadline, &observe).await;
                    app.printer.finish();
                    Ok(filled?)
                }
                false => Err(Unusable::new(
                    Reason::Major,
                    format!("it is from PostgreSQL {}, this is PostgreSQL {major}", file.manifest.major),
                )),
            }
        }
    };
    let name = args.file.display();
    let answer = match answer {
        Ok(filled) => {
            for of in &filled.templates {
                let state = if of.is_new { "restored" } else { "the server already has" };
                let short = of.fingerprint.get(..12).unwrap_or_default();
                let lacks = match of.lacks {
                    0 => String::new(),
                    some => format!(", a base that lacks {}", count(some, "migration")),
                };
                app.printer.say(&format!("{state} template {} ({short}){lacks}", of.template));
            }
            for left in &filled.left {
                let of = left.fingerprint.as_deref().and_then(|of| of.get(..12));
                let of = of.map_or(String::new(), |of| format!(" ({of})"));
                app.printer
                    .say(&format!("nothing restored for template {}{of}: {}", left.template, left.why));
            }
            if filled.templates.is_empty() && filled.left.is_empty() {
                app.printer.say(&format!("nothing was restored: {name} has no template for this config"));
            }
            CacheRestoreAnswer::of_dumps(&config.project, &filled)
        }
        Err(unusable) => {
            tell_unusable(app, &args.file, &unusable);
            CacheRestoreAnswer::unusable_dumps(&unusable)
        }
    };
    if app.printer.json() {
        app.printer.object(&answer)?;
    }
    Ok(0)
}

fn tell_unusable(app: &App, file: &Path, unusable: &Unusable) {
    let name = file.display();
    match unusable.reason {
        Reason::Missing => app.printer.say(&format!("nothing was restored: there is no file {name}")),
        _ => app.printer.warn(&format!("nothing was restored, since {name} cannot be used: {unusable}")),
    }
}

async fn save(app: &App, args: &CacheSave) -> Result<u8> {
    let key = match &args.sign_key {
        Some(text) => {
            Some(SecretKey::parse(&secret(app, text)?).map_err(|e| e.detail("it comes from --sign-key"))?)
        }
        None => None,
    };
    if args.through_server {
        return save_through_server(app, args, key.as_ref()).await;
    }
    let server = server(app, &app.config_or_defaults()?)?;
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
    if args.through_server {
        return restore_through_server(app, args, trusted).await;
    }
    let server = server(app, &app.config_or_defaults()?)?;
    let patience = app.deadline.left().unwrap_or(PATIENCE);
    let file = absolute(app, &args.file)?;
    let restored = restore_cache(&server, &file, &trusted, patience).await?;
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
        Restored::Unusable(unusable) => tell_unusable(app, &args.file, unusable),
    }
    if app.printer.json() {
        app.printer.object(&answer)?;
    }
    Ok(0)
}

async fn key(app: &App, args: &CacheKeyArgs) -> Result<u8> {
    let definition = args.template.as_deref();
    let key = match args.through_server {
        true => {
            config_of_named_server(app)?;
            app.stencil().await?.dumps_key(definition, &app.deadline).await?
        }
        false => {
            let config = app.config()?;
            let platform = server(app, &config)?.platform().await?;
            cache_key(config, definition, &platform, &app.variable()).await?
        }
    };
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
