//! A small project with migrations in a directory of its own, and a namespace of its own on the server.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::role::Role;
use super::server::{TestServer, quote_literal};
use super::{kill_background, random_id};

/// What the build command does, beside writing a line to `builds.log`.
#[derive(Clone, Debug)]
pub(crate) enum Build {
    /// Applies the migrations that are not applied yet.
    Migrate,
    /// Applies them, says `migration 7 is broken` on stderr and ends with code 3.
    Fail,
    /// Never ends.
    Hang,
    /// Migrates after a while.
    Slow(Duration),
    /// Migrates as soon as the project has a file `go`.
    Gate,
    /// Migrates and leaves a session in the database: a `psql` in the background, out of reach of
    /// the process group where `setsid` is there. Its application name is `left-behind`.
    LeaveSession,
    /// Migrates and leaves a process that holds stdout and stderr open; its id is in
    /// `grandchild.pid`.
    Fork,
    /// Migrates and writes 10 MB to stdout and 10 MB to stderr.
    Noise,
    /// Drops and re-creates its database, then migrates, as `reset` commands do.
    Reset,
    /// Migrates and creates another database, named like its own with `_extra` behind.
    ExtraDatabase,
    /// Does nothing.
    Nothing,
    /// Migrates, and changes the last migration while it runs, at most so many times in all.
    Edit(u32),
    /// Anything; the shell function `migrate` is there.
    Script(String),
}

impl Build {
    fn script(&self) -> String {
        let text = match self {
            Build::Migrate => "migrate",
            Build::Fail => "migrate; echo 'migration 7 is broken' >&2; exit 3",
            Build::Hang => "exec sleep 3600",
            Build::Gate => {
                "while [ -e pgstencil.toml ] && [ ! -e go ]; do sleep 0.05; done
                 migrate"
            }
            Build::Slow(time) => return format!("sleep {}\nmigrate\n", time.as_secs_f64()),
            Build::LeaveSession => {
                "migrate
                 PGAPPNAME=left-behind $(command -v setsid) psql -X -d \"$DATABASE_URL\" \
                     -c 'select pg_sleep(60)' </dev/null >/dev/null 2>&1 &
                 until [ \"$(sql -d \"$DATABASE_URL\" -c \"select count(*) from pg_stat_activity
                     where datname = current_database() and application_name = 'left-behind'\")\" = 1 ]
                 do sleep 0.02; done"
            }
            Build::Fork => "migrate; sleep 300 & echo $! >grandchild.pid",
            Build::Noise => {
                "migrate
                 yes 'a line that nobody reads' | head -c 10000000
                 yes 'a line that nobody reads' | head -c 10000000 >&2"
            }
            Build::Reset => {
                "sql -d postgres -c \"drop database \\\"$PGDATABASE\\\"\" -c \"create database \\\"$PGDATABASE\\\"\"
                 migrate"
            }
            Build::ExtraDatabase => {
                "migrate; sql -d postgres -c \"create database \\\"${PGDATABASE}_extra\\\"\""
            }
            Build::Nothing => "",
            Build::Edit(times) => {
                return format!(
                    "migrate
                     if [ $(wc -l <builds.log) -le {times} ]; then
                         for last in migrations/*.sql; do :; done
                         echo \"-- changed by build $(wc -l <builds.log)\" >>\"$last\"
                     fi
                    "
                );
            }
            Build::Script(script) => script,
        };
        format!("{text}\n")
    }
}

/// A project: `pgstencil.toml`, `migrations/`, and `migrate.sh`, which is not among the inputs of the
/// fingerprint, so a test may change what the build does without making another template.
///
/// What pgstencil made for it goes away with it, unless the test failed; then it says where things
/// are.
pub(crate) struct Project<'s> {
    /// Random; part of the project's name and of its registry's.
    pub(crate) id: String,
    server: &'s TestServer,
    server_url: String,
    folder: Option<TempDir>,
    root: PathBuf,
}

/// Most tests count databases, and want none but those that they ask for.
const NONE_WARM: &str = "warm = 0 # by the tests\n";

fn without_warm(text: &str) -> String {
    let section = format!("[clone] # by the tests\n{NONE_WARM}");
    let plain = text.replace(&section, "").replace(NONE_WARM, "");
    if plain.contains("warm = ") || !plain.contains("\n[") {
        return plain;
    }
    match plain.contains("[clone]\n") {
        true => plain.replacen("[clone]\n", &format!("[clone]\n{NONE_WARM}"), 1),
        false => plain.replacen("\n[", &format!("\n{section}["), 1),
    }
}

impl<'s> Project<'s> {
    /// A project with no migrations yet and [`Build::Migrate`], whose templates are all built from
    /// nothing, so that a test counts its builds.
    pub(crate) fn new(server: &'s TestServer) -> Self {
        let folder = tempfile::Builder::new().prefix("pgst-").tempdir().unwrap();
        // For what runs under another account, such as a private server that root starts.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["project/migrations", "home", "state"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let project = Project {
            id: random_id(),
            server,
            server_url: server.url("postgres"),
            folder: Some(folder),
            root,
        };
        project.config(
            r#"
project = "{project}"

[server]
registry = "{registry}"

[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
build_inputs = false
extend = "never"
"#,
        );
        project.build(&Build::Migrate);
        project
    }

    /// A project with two migrations: tables `users` and `orders`, one row in each.
    pub(crate) fn with_migrations(server: &'s TestServer) -> Self {
        let project = Self::new(server);
        project.add_migration(
            "0001_users",
            "create table users (id int primary key, name text); insert into users values (1, 'ann');",
        );
        project.add_migration(
            "0002_orders",
            "create table orders (id int primary key, who int references users); insert into orders values (1, 1);",
        );
        project
    }

    /// As [`Project::with_migrations`]; a missing template is extended from an older one, and `keys` are
    /// further lines of its definition.
    pub(crate) fn extending(server: &'s TestServer, keys: &str) -> Self {
        let project = Self::with_migrations(server);
        let config = project.read("pgstencil.toml");
        let config = config.replace("extend = \"never\"", keys);
        project.write("pgstencil.toml", &config);
        project
    }

    /// From now on commands connect as this role.
    pub(crate) fn connect_as(&mut self, role: &Role<'_>) {
        self.server_url = role.url("postgres");
    }

    /// From now on commands get this URL.
    pub(crate) fn connect_to(&mut self, url: impl Into<String>) {
        self.server_url = url.into();
    }

    /// What commands get as `PGSTENCIL_SERVER_URL`.
    pub(crate) fn server_url(&self) -> &str {
        &self.server_url
    }

    /// The server that it lives on.
    pub(crate) fn server(&self) -> &'s TestServer {
        self.server
    }

    /// The directory of `pgstencil.toml`, where commands run.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.join("project")
    }

    /// An empty `HOME`.
    pub(crate) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// `PGSTENCIL_STATE_DIR`.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    /// `project` in the config.
    pub(crate) fn name(&self) -> String {
        format!("t_{}", self.id)
    }

    /// The registry database.
    pub(crate) fn registry(&self) -> String {
        format!("pgst_reg_{}", self.id)
    }

    /// Writes `pgstencil.toml`; `{project}` and `{registry}` become this project's own.
    pub(crate) fn config(&self, text: &str) {
        let text = text.replace("{project}", &self.name()).replace("{registry}", &self.registry());
        self.write("pgstencil.toml", &text);
    }

    /// Adds lines to the end of `pgstencil.toml`; at first that is within `[template.app]`.
    pub(crate) fn append_config(&self, text: &str) {
        let config = self.read("pgstencil.toml");
        self.write("pgstencil.toml", &format!("{config}{text}\n"));
    }

    /// Writes a file, and the directories on the way. A config of this project gets `warm = 0`, unless it says
    /// something of warm clones itself.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let own = path == "pgstencil.toml" && text.contains(&self.id);
        let text = match own {
            true => without_warm(text),
            false => text.to_owned(),
        };
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Adds to the end of a file.
    pub(crate) fn append(&self, path: &str, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.path().join(path)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Reads a file; one that is not there is empty.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).unwrap_or_default()
    }

    /// Writes `migrations/NAME.sql`.
    pub(crate) fn add_migration(&self, name: &str, sql: &str) {
        self.write(&format!("migrations/{name}.sql"), &format!("{sql}\n"));
    }

    /// What the build command does from now on.
    pub(crate) fn build(&self, build: &Build) {
        let head = include_str!("project.sh");
        self.write("migrate.sh", &format!("{head}{}", build.script()));
    }

    /// How often the build command has run.
    pub(crate) fn builds(&self) -> usize {
        self.read("builds.log").lines().count()
    }

    /// The process id that [`Build::Fork`] left.
    pub(crate) fn grandchild(&self) -> Option<i32> {
        self.read("grandchild.pid").trim().parse().ok()
    }

    /// The databases that are this project's by any sign: their name holds its id, or a row of its
    /// registry names them. Knows nothing of the registry's tables, so that it can accuse the
    /// product of leaving something. Without the registry itself.
    pub(crate) fn databases(&self) -> Vec<String> {
        let registry = self.registry();
        let mut all = self.server.databases();
        all.retain(|name| !["postgres", "template0", "template1", &registry].contains(&&**name));
        let named = if self.server.has_database(&registry) { self.strings_in_registry() } else { Vec::new() };
        all.retain(|name| name.contains(&self.id) || named.contains(name));
        all
    }

    /// Every text in every table of the registry.
    pub(crate) fn strings_in_registry(&self) -> Vec<String> {
        let tables = "select format('%I.%I', schemaname, tablename) from pg_tables
             where schemaname !~ '^pg_' and schemaname <> 'information_schema'";
        let registry = self.registry();
        let tables = self.server.psql(&registry, tables);
        let selects: Vec<_> = tables
            .lines()
            .map(|table| format!("select jsonb_path_query(to_jsonb(t), '$.**') #>> '{{}}' from {table} t"))
            .collect();
        if selects.is_empty() {
            return Vec::new();
        }
        let texts = self.server.psql(&registry, &selects.join(" union "));
        texts.lines().map(str::to_owned).collect()
    }

    /// Ends the background processes that stay as long as there are warm clones.
    fn end_watchers(&self) {
        let log = self.home().join(".cache/pgstencil/background.log");
        for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
            let Some(pid) = line.split(' ').nth(1) else {
                continue;
            };
            kill_background(pid);
        }
    }

    fn remove(&self) -> Result<(), sqlx::Error> {
        // A server that the test stopped keeps nothing that matters.
        self.server.try_psql("postgres", "select 1")?;
        self.end_watchers();
        // What works on in the background would write into what is dropped here.
        let end = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = {}",
            quote_literal(&self.registry())
        );
        self.server.try_psql("postgres", &end)?;
        for name in self.databases() {
            self.server.drop_database(&name);
        }
        self.server.drop_database(&self.registry());
        Ok(())
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = self.path();
            if let Some(folder) = self.folder.take() {
                let _ = folder.keep();
            }
            eprintln!(
                "kept for inspection: {} (registry {}, as long as the server runs)",
                path.display(),
                self.registry()
            );
        } else if let Err(e) = self.remove() {
            eprintln!("what {} had on the server stays behind: {e}", self.name());
        }
    }
}
