//! The server that everything is measured on, and the conditions.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgstencil::internals::disk::FileSystem;
use sqlx::{Connection as _, PgConnection};

use crate::support::{TestServer, random_id, server, server::Stop};

/// The server, its client programs, and a registry of this run's own.
pub(crate) struct Place {
    pub(crate) server: &'static TestServer,
    pub(crate) registry: String,
    /// Directories for the PATH of all commands.
    path: std::ffi::OsString,
    clients: PathBuf,
    given: bool,
}

impl Place {
    pub(crate) fn new() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let given = variable("PGSTENCIL_TEST_SERVER_URL");
        let fsync = variable("FSYNC").is_some_and(|v| v == "on");
        let server = match &given {
            Some(_) => server(),
            // Ends with this process all the same.
            None => Box::leak(Box::new(private(fsync, variable("DATA_FOLDER").map(PathBuf::from)))),
        };
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let venv = variable("PEERS_VENV").map(|v| Path::new(&v).canonicalize().unwrap().join("bin"));
        let folders = venv
            .into_iter()
            .chain(server.bindir().map(Path::to_owned))
            .chain(std::env::split_paths(&inherited));
        let path = std::env::join_paths(folders).unwrap();
        let clients = std::env::split_paths(&path)
            .find(|folder| folder.join("psql").is_file())
            .expect("psql, createdb, dropdb, pg_dump and pg_restore are needed");
        Place {
            server,
            registry: format!("pgstencil_bench_{}", random_id()),
            path,
            clients,
            given: given.is_some(),
        }
    }

    /// A command with everything that libpq and pgstencil need to find the server.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .env("PATH", &self.path)
            .env("PGSTENCIL_SERVER_URL", self.url("postgres"))
            .env("PGHOST", self.server.host())
            .env("PGPORT", self.server.port().to_string())
            .env("PGUSER", self.server.user())
            .env("PGPASSWORD", self.server.password())
            .env("PGDATABASE", "postgres")
            .stdin(Stdio::null());
        command
    }

    /// A client program of Postgres: the binary itself, not a wrapper that looks for it first.
    pub(crate) fn client(&self, program: &str) -> PathBuf {
        self.clients.join(program)
    }

    /// The process id of the server's first process; `None` if it is not a private one.
    pub(crate) fn postmaster(&self) -> Option<u32> {
        if self.given {
            return None;
        }
        let file = std::fs::read_to_string(self.server.dir().join("data/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }

    /// How sessions with a password, as all of these, prove it.
    pub(crate) fn authentication(&self) -> String {
        self.server.psql("postgres", "show password_encryption")
    }

    pub(crate) fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// What a reader must know of the numbers below.
    pub(crate) fn conditions(&self) -> String {
        let setting = |name: &str| self.server.psql("postgres", &format!("show {name}"));
        let wrapper = std::fs::read(self.client("psql")).is_ok_and(|b| b.starts_with(b"#!"));
        format!(
            "pgstencil {}, PostgreSQL {}, fsync {}, synchronous_commit {}, shared_buffers {}, data \
             directory on {}, {} cores, load average {} at the start. Clients: {}.",
            env!("CARGO_PKG_VERSION"),
            setting("server_version"),
            setting("fsync"),
            setting("synchronous_commit"),
            setting("shared_buffers"),
            file_system(Path::new(&setting("data_directory"))),
            std::thread::available_parallelism().map_or(0, usize::from),
            load(),
            if wrapper {
                "those of the PATH, which are scripts that start the real ones: some 15 ms slower"
            } else {
                "the server's own binaries (Debian's `/usr/bin/psql`, a Perl script that starts \
                 them, takes 15 ms more)"
            }
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A private server goes as a whole.
        if self.given {
            self.server.drop_database(&self.registry);
        }
    }
}

/// Closes a session properly, so that it is in nobody's way.
pub(crate) async fn close(session: PgConnection) {
    session.close().await.unwrap();
}

/// The three load averages.
pub(crate) fn load() -> String {
    match std::fs::read_to_string("/proc/loadavg") {
        Ok(text) => text.split(' ').take(3).collect::<Vec<_>>().join(" "),
        Err(_) => "?".into(),
    }
}

fn private(fsync: bool, folder: Option<PathBuf>) -> TestServer {
    let settings = match fsync {
        true => "fsync = on\nsynchronous_commit = on\nfull_page_writes = on\n",
        false => "",
    };
    let server = TestServer::private_with(settings);
    // On tmpfs, fsync costs nothing.
    if let Some(parent) = folder.or_else(|| fsync.then(std::env::temp_dir)) {
        server.stop(Stop::Fast);
        move_data(&server.dir().join("data"), &parent);
        server.start();
    }
    server
}

/// Moves a data directory to another disk, and leaves a link in its place.
fn move_data(data: &Path, parent: &Path) {
    let folder = tempfile::Builder::new().prefix("pgstencil-bench-").tempdir_in(parent).unwrap().keep();
    // Its server's account must be able to enter.
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    remove_at_our_end(&folder, data);
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("cp").arg("-a").arg(data).arg(&folder));
    std::fs::remove_dir_all(data).unwrap();
    let moved = folder.join("data");
    std::os::unix::fs::symlink(&moved, data).unwrap();
    // What initdb did for the old place: without a journal ext4 slows down with every DROP, else.
    let _ = Command::new("chattr").arg("+T").arg(moved.join("base")).stderr(Stdio::null()).status();
}

/// A shell that outlives us, however we end, and removes a directory when the server has ended: the
/// server's own watcher then takes its link away.
fn remove_at_our_end(folder: &Path, link: &Path) {
    const SCRIPT: &str = r#"
        read -r _
        for _ in $(seq 300); do [ -L "$2" ] || break; sleep 0.1; done
        rm -rf "$1"
    "#;
    let shell = Command::new("sh")
        .args(["-c", SCRIPT, "pgstencil-bench-watcher"])
        .args([folder, link])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    // Its standard input stays open until this process ends.
    std::mem::forget(shell);
}

/// The type of the file system that holds a directory, and what matters of it.
pub(crate) fn file_system(folder: &Path) -> String {
    let Ok(folder) = folder.canonicalize() else {
        return "an unknown file system (of another machine, or out of reach)".into();
    };
    let disk = pgstencil::internals::disk::look(&folder);
    let without_journal =
        disk.is_some_and(|d| matches!(d.file_system, FileSystem::Ext4WithoutJournal { .. }));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut best: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let point = Path::new(left[4]);
        let kind = right.split(' ').next().unwrap_or("?");
        if folder.starts_with(point) && best.as_ref().is_none_or(|b| b.0 <= left[4].len()) {
            best = Some((left[4].len(), kind.to_owned()));
        }
    }
    match best {
        Some((_, kind)) if kind == "ext4" && without_journal => "ext4 without a journal".into(),
        Some((_, kind)) => kind,
        None => "an unknown file system".into(),
    }
}

/// Says something to whoever watches, without mixing it into the tables.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
