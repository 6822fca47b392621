//! `pgstencil demo`
//!
//! The demo runs this very binary, as a user would, on a project and a server of its own in a temporary
//! directory, and removes both afterwards.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::env;
use crate::names;
use crate::private_file;
use crate::private_server::{PrivateServer, PrivateServerSettings};
use crate::process::{self, Job, Status};
use crate::{Error, Result};

use crate::cli::App;
use crate::quantity::seconds;
use clap::Args;

/// Show pgstencil on a small temporary project
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  pgstencil demo")]
pub(crate) struct Demo {
    /// Leave the directory and its server
    #[arg(long)]
    pub(crate) keep: bool,
}

/// How many migrations the project begins with.
const MIGRATIONS: usize = 100;

/// Without the cache of file hashes: the demo leaves nothing behind.
const CONFIG: &str = r#"project = "demo"
file_cache = false

[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
rebuild = "never"
"#;

/// One psql for each file, as many migration tools have one transaction for each; what is applied is
/// noted, as they all do, so that only new ones run on a copy of an older template.
const MIGRATE: &str = r#"set -e
sql() { psql -XqAt -v ON_ERROR_STOP=1 "$@" "$DATABASE_URL"; }
sql -c 'create schema if not exists migrate' -c 'create table if not exists migrate.applied (file text)' 2>/dev/null
applied=" $(sql -c "select string_agg(file, ' ') from migrate.applied") "
for file in migrations/*.sql; do
    case "$applied" in *" $file "*) continue ;; esac
    sql -1 -f "$file" -c "insert into migrate.applied values ('$file')"
done
"#;

const COUNT: &str = "select count(*) || ' tables, ' || (select count(*) from item_001) || ' rows in the first' \
     from pg_tables where schemaname = 'public'";

pub(crate) async fn demo(app: &App, args: Demo) -> Result<u8> {
    let folder = std::env::temp_dir().join(format!("pgstencil-demo-{}", names::random_text(8)));
    let place = Place::new(app, folder)?;
    let done = place.show(app).await;
    if args.keep && done.is_ok() {
        let say = |text: String| app.printer.say(&text);
        say(format!("left in {}", place.folder.display()));
        say(format!(
            "its server is still running, and its URL is in {}",
            place.folder.join("server-url").display()
        ));
        say(format!(
            "stop the server: `PGSTENCIL_STATE_DIR={} pgstencil server stop`",
            place.state().display()
        ));
        return done.map(|()| 0);
    }
    let cleaned = place.remove().await;
    done.and(cleaned)?;
    app.printer.say("removed the directory and its server");
    Ok(0)
}

/// The directory, and the server in it. The directory is ours alone, since the URL in it is a superuser's.
struct Place {
    folder: PathBuf,
    /// Where the server's data goes when we are root: the account that must run Postgres cannot enter
    /// the directory.
    system: PathBuf,
    server: PrivateServer,
    path: OsString,
}

impl Place {
    fn new(app: &App, folder: PathBuf) -> Result<Self> {
        let failed = |e: std::io::Error| Error::failed("cannot create a temporary directory").caused_by(e);
        private_file::create_directory(&folder).map_err(failed)?;
        private_file::create_directory(&folder.join("migrations")).map_err(failed)?;
        let system = Path::new("/var/lib").join(folder.file_name().unwrap_or_default());
        let path = app.env.get_os(env::PATH).map(OsString::from).unwrap_or_default();
        let mut settings = PrivateServerSettings::new(folder.join("state"));
        settings.path = Some(path.clone());
        settings.system_dir.clone_from(&system);
        Ok(Place { folder, system, server: PrivateServer::new(settings), path })
    }

    /// Where the server's data is.
    fn state(&self) -> PathBuf {
        match self.system.exists() {
            true => self.system.clone(),
            false => self.folder.join("state"),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        private_file::create_file(&self.folder.join(name), text.as_bytes())
            .map_err(|e| Error::failed(format!("cannot write {name}")).caused_by(e))
    }

    fn migration(&self, number: usize) -> Result<()> {
        self.write(
            &format!("migrations/{number:03}_item.sql"),
            &format!(
                "create table item_{number:03} (id serial primary key, name text not null, price numeric);\n\
                 create index on item_{number:03} (name);\n\
                 insert into item_{number:03} (name, price) select 'item ' || i, i from generate_series(1, 100) i;\n"
            ),
        )
    }

    async fn show(&self, app: &App) -> Result<()> {
        let say = |text: &str| app.printer.say(text);
        let next = |text: &str| {
            say("");
            say(text);
        };
        self.write("pgstencil.toml", CONFIG)?;
        self.write("migrate.sh", MIGRATE)?;
        for number in 1..=MIGRATIONS {
            self.migration(number)?;
        }
        let running = self.server.start(Duration::from_secs(120)).await?;
        self.write("server-url", &format!("{}\n", running.url.reveal()))?;
        let bindir = self.server.status().await?.bindir.unwrap_or_default();
        let path = search_path(&self.path, &bindir)?;
        say(&format!(
            "A project with {MIGRATIONS} SQL migrations, and PostgreSQL {} of its own:",
            running.version
        ));
        say(&format!("  {}/pgstencil.toml", self.folder.display()));
        for line in CONFIG.lines().filter(|l| !l.is_empty()) {
            say(&format!("    {line}"));
        }
        let url = running.url.reveal();
        let run = || self.run(app, &path, &url);

        next("The first run builds the template:");
        let cold = run().await?;
        next("Every later run gets its database by a copy:");
        let warm = run().await?;
        next("Two runs at the same time, each with its own database:");
        let started = Instant::now();
        let (a, b) = tokio::join!(run(), run());
        a.and(b)?;
        let both = started.elapsed();
        next("With a new migration, an incremental build runs only that migration:");
        self.migration(MIGRATIONS + 1)?;
        let changed = run().await?;
        next("Back on the old set of migrations, its template still exists:");
        std::fs::remove_file(self.folder.join(format!("migrations/{:03}_item.sql", MIGRATIONS + 1)))
            .map_err(|e| Error::failed("cannot remove a migration").caused_by(e))?;
        let back = run().await?;
        say("");
        let width = 28;
        let mut table = String::new();
        for (what, time) in [
            ("first run", cold),
            ("later run", warm),
            ("two runs at the same time", both),
            ("run with a new migration", changed),
            ("run on the old set again", back),
        ] {
            table += &format!("{what:width$} {}\n", seconds(time));
        }
        app.printer.text(&table)
    }

    /// Runs `pgstencil run -- psql …` in the directory, shows what it prints, and takes its time.
    async fn run(&self, app: &App, path: &OsString, url: &str) -> Result<Duration> {
        let program =
            std::env::current_exe().map_err(|e| Error::failed("cannot find this binary").caused_by(e))?;
        let argv: Vec<OsString> = [program.into_os_string(), "run".into(), "--".into()]
            .into_iter()
            .chain(["psql", "-XAtc", COUNT].map(OsString::from))
            .collect();
        let mut job = Job::new(argv, &self.folder);
        job.env = vec![
            ("PATH".into(), path.clone()),
            (env::SERVER_URL.into(), url.into()),
            ("PGOPTIONS".into(), "".into()),
        ];
        job.cleared = [env::CONFIG, env::GITHUB_OUTPUT, env::GITHUB_STEP_SUMMARY].map(Into::into).to_vec();
        app.printer.say("  $ pgstencil run -- psql -c 'select count(*) ...'");
        let started = Instant::now();
        let printer = app.printer.clone();
        let finished = process::run_captured(&job, None, &app.deadline.cancel, &mut |line: &str| {
            // It comes from this program, escaped.
            printer.pass_on(&format!("    {line}"));
        })
        .await?;
        let took = started.elapsed();
        app.deadline.check("the demo")?;
        match finished.status {
            Status::Exited(0) => Ok(took),
            status => Err(Error::failed(format!("the demo's run ended with {status}"))
                .hint("to inspect the directory, keep it: `pgstencil demo --keep`")),
        }
    }

    async fn remove(&self) -> Result<()> {
        self.server.stop(Duration::from_secs(60)).await?;
        for folder in [&self.folder, &self.system] {
            match std::fs::remove_dir_all(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::failed(format!("cannot remove {}", folder.display())).caused_by(e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The PATH for the project's commands: psql may stand beside the server's binaries only.
fn search_path(path: &OsString, bindir: &Path) -> Result<OsString> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path).collect();
    folders.push(bindir.to_owned());
    if !folders.iter().any(|f| f.join("psql").is_file()) {
        return Err(Error::failed("the demo needs psql, which is not installed")
            .hint("install the client: `apt-get install postgresql-client`"));
    }
    std::env::join_paths(folders).map_err(|e| Error::failed("PATH has a directory with `:`").caused_by(e))
}
