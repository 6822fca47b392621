//! What a clone costs, as whole commands beside `createdb -T` and `dropdb` of the same template, in
//! the same run, interleaved:
//!
//! ```console
//! $ cargo bench --bench clone                        # templates of 100 and 400 tables
//! $ cargo bench --bench clone -- examples/django     # the template of a project of yours
//! ```
//!
//! The server is a private one on `/dev/shm` with fsync off, as for the tests, or the one that
//! `PGSTENCIL_TEST_SERVER_URL` names. `ROUNDS` sets the number of rounds (20). Prints a table with
//! medians and the medians of the ratios within each round. Wants `createdb` on the PATH or beside
//! the server's binaries.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints, and a failed unwrap is a failed run"
)]

#[path = "../tests/it/support/mod.rs"]
#[allow(unused_imports, reason = "a part of what the tests stand on")]
mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use support::{TestServer, server};

fn main() {
    // cargo adds `--bench`.
    let projects: Vec<PathBuf> = std::env::args_os()
        .skip(1)
        .filter(|a| a != "--bench")
        .map(PathBuf::from)
        .collect();
    let rounds = std::env::var("ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(20);
    let server = server();
    println!("{}", conditions(server));
    if projects.is_empty() {
        for tables in [100, 400] {
            let folder = tempfile::tempdir().unwrap();
            write_project(folder.path(), tables);
            Bench::new(server, folder.path()).measure(&format!("{tables} tables"), rounds);
        }
    }
    for project in &projects {
        Bench::new(server, project).measure(&project.display().to_string(), rounds);
    }
}

/// One project on one server, with a registry of its own.
struct Bench<'s> {
    server: &'s TestServer,
    project: PathBuf,
    path: String,
}

impl<'s> Bench<'s> {
    fn new(server: &'s TestServer, project: &Path) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = match server.bindir() {
            Some(folder) => format!("{path}:{}", folder.display()),
            None => path,
        };
        Bench {
            server,
            project: project.canonicalize().unwrap(),
            path,
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.project)
            .env("PATH", &self.path)
            .env("PGSTENCIL_SERVER_URL", self.server.url("postgres"))
            .env("PGHOST", self.server.host())
            .env("PGPORT", self.server.port().to_string())
            .env("PGUSER", self.server.user())
            .env("PGPASSWORD", self.server.password())
            .stdin(std::process::Stdio::null());
        command
    }

    fn timed(&self, program: &str, args: &[&str]) -> (Duration, Output) {
        let started = Instant::now();
        let output = self.command(program).args(args).output().unwrap();
        let took = started.elapsed();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {stderr}");
        (took, output)
    }

    fn pgstencil(&self, args: &[&str]) -> (Duration, String) {
        let (took, output) = self.timed(env!("CARGO_BIN_EXE_pgstencil"), args);
        (took, String::from_utf8(output.stdout).unwrap())
    }

    fn measure(&self, what: &str, rounds: usize) {
        let (cold, _) = self.pgstencil(&["run", "--", "true"]);
        let (_, listed) = self.pgstencil(&["list", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let (_, ensured) = self.pgstencil(&["ensure"]);
        let row = listed["templates"]
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["fingerprint"].as_str() == Some(ensured.trim()))
            .unwrap();
        let template = self
            .server
            .databases()
            .into_iter()
            .find(|d| d.starts_with("tpl_") && d.contains(&ensured[..12]))
            .unwrap();
        let mut times: [Vec<f64>; 5] = Default::default();
        for round in 0..rounds + 1 {
            // Drops of the round before must not run beside this one.
            self.settle();
            let name = format!("bench_{}", support::random_id());
            let (create, _) = self.timed("createdb", &["-T", &template, &name]);
            let (drop, _) = self.timed("dropdb", &[&name]);
            let (clone, url) = self.pgstencil(&["clone", "-q"]);
            let database = url.trim().rsplit('/').next().unwrap();
            let database = database.split('?').next().unwrap();
            self.pgstencil(&["release", "-q", database]);
            self.settle();
            let (run, _) = self.pgstencil(&["run", "-q", "--", "true"]);
            self.settle();
            let started = Instant::now();
            self.server.psql("postgres", "select 1");
            let connect = started.elapsed();
            if round > 0 {
                let measured = [create, drop, clone, run, connect];
                for (column, time) in times.iter_mut().zip(measured) {
                    column.push(time.as_secs_f64() * 1e3);
                }
            }
        }
        let ratio = |a: usize, b: &dyn Fn(usize) -> f64| {
            median((0..rounds).map(|i| times[a][i] / b(i)).collect())
        };
        let mut table = String::new();
        let bytes = row["bytes"].as_f64().unwrap() / 1e6;
        writeln!(
            table,
            "\n{what}: {bytes:.0} MB, cold `run` {:.1} s, {rounds} rounds",
            cold.as_secs_f64()
        )
        .unwrap();
        writeln!(table, "\n| command | median ms | ratio |\n|---|---|---|").unwrap();
        let m = |i: usize| median(times[i].clone());
        writeln!(table, "| `createdb -T` | {:.0} | 1 |", m(0)).unwrap();
        writeln!(table, "| `dropdb` | {:.0} | |", m(1)).unwrap();
        let r = ratio(2, &|i| times[0][i]);
        writeln!(
            table,
            "| `pgstencil clone` | {:.0} | {r:.2} x `createdb -T` |",
            m(2)
        )
        .unwrap();
        let r = ratio(3, &|i| times[0][i] + times[1][i]);
        writeln!(
            table,
            "| `pgstencil run -- true` | {:.0} | {r:.2} x (`createdb -T` + `dropdb`) |",
            m(3)
        )
        .unwrap();
        writeln!(table, "| connect and `select 1` | {:.1} | |", m(4)).unwrap();
        println!("{table}");
    }

    /// Waits until the drops in the background are done.
    fn settle(&self) {
        let started = Instant::now();
        loop {
            let (_, listed) = self.pgstencil(&["list", "--json"]);
            let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
            if listed["clones"].as_array().unwrap().is_empty() {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "clones stay: {listed}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn conditions(server: &TestServer) -> String {
    let setting = |name: &str| server.psql("postgres", &format!("show {name}"));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let data = setting("data_directory");
    let place = match data.trim() {
        d if d.starts_with("/dev/shm") => "tmpfs",
        _ => "disk",
    };
    format!(
        "PostgreSQL {}, fsync {}, data on {place}, {} cores, load {}",
        setting("server_version").trim(),
        setting("fsync").trim(),
        std::thread::available_parallelism().map_or(0, usize::from),
        load.split(' ').next().unwrap_or("?")
    )
}

fn write_project(folder: &Path, tables: usize) {
    std::fs::create_dir(folder.join("migrations")).unwrap();
    for i in 0..tables {
        let sql = format!(
            "create table t{i} (id serial primary key, a text, b int references t{}(id)); create index on t{i} (a);\n\
             insert into t{i} (a) select 'x' || g from generate_series(1, 20) g;\n",
            i.saturating_sub(1)
        );
        std::fs::write(folder.join(format!("migrations/{i:04}.sql")), sql).unwrap();
    }
    std::fs::write(
        folder.join("pgstencil.toml"),
        format!(
            "project = \"bench{tables}\"\n[template.app]\nmigrations = [\"migrations/*.sql\"]\n\
             build = 'cat migrations/*.sql | psql -XqAt -v ON_ERROR_STOP=1 \"$DATABASE_URL\"'\n"
        ),
    )
    .unwrap();
}
