//! One project on the server, with two configs: clones of the one are always cold, of the other warm.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::place::{Place, tell};
use crate::project::{self, WARM};
use crate::support::random_id;

/// The program that is measured.
pub(crate) const PGSTENCIL: &str = env!("CARGO_BIN_EXE_pgstencil");

/// See the module.
pub(crate) struct Subject<'p> {
    pub(crate) place: &'p Place,
    pub(crate) project: PathBuf,
    /// A template's database, for those who copy it by themselves.
    pub(crate) template: String,
    /// The template's size.
    pub(crate) bytes: f64,
    /// What the first `run` took, which built it.
    pub(crate) first_run: Duration,
    configs: TempDir,
    name: String,
    /// Whether clones are made ahead of time at all.
    fills: Cell<bool>,
}

/// Which of the two configs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Config {
    Cold,
    Warm,
}

/// How long warm clones may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

impl<'p> Subject<'p> {
    /// Builds the templates.
    pub(crate) fn new(place: &'p Place, project: &Path) -> Self {
        let project = project.canonicalize().unwrap();
        let name = format!("bench_{}", random_id());
        let mut subject = Subject {
            place,
            template: String::new(),
            bytes: 0.0,
            first_run: Duration::ZERO,
            configs: tempfile::tempdir().unwrap(),
            name,
            fills: Cell::new(true),
            project,
        };
        for (config, warm) in [(Config::Cold, 0), (Config::Warm, WARM)] {
            let name = subject.project_name(config);
            let file = subject.config(config);
            project::write_config(&subject.project, &place.registry, &name, warm, &file);
        }
        (subject.first_run, _) = subject.pgstencil(Config::Cold, &["run", "-q", "--", "true"]);
        let (_, fingerprint) = subject.pgstencil(Config::Cold, &["ensure", "-q"]);
        let listed = subject.list();
        let row = rows(&listed, "templates")
            .find(|t| t["fingerprint"].as_str() == Some(fingerprint.trim()))
            .unwrap();
        subject.bytes = row["bytes"].as_f64().unwrap();
        subject.template = place
            .server
            .databases()
            .into_iter()
            .find(|d| d.starts_with("tpl_") && d.contains(&fingerprint[..12]))
            .unwrap();
        // It announces hand-outs, which is what starts the making of warm clones.
        subject.pgstencil(Config::Warm, &["ensure", "-q"]);
        subject.settle();
        subject
    }

    fn project_name(&self, config: Config) -> String {
        match config {
            Config::Cold => format!("{}_cold", self.name),
            Config::Warm => format!("{}_warm", self.name),
        }
    }

    pub(crate) fn config(&self, config: Config) -> PathBuf {
        let file = match config {
            Config::Cold => "cold.toml",
            Config::Warm => "warm.toml",
        };
        self.configs.path().join(file)
    }

    /// Whether clones were warm, as far as that can be seen.
    pub(crate) fn fills(&self) -> bool {
        self.fills.get()
    }

    /// Runs a command to its end, which must be a good one.
    pub(crate) fn timed(&self, program: impl AsRef<Path>, args: &[&str]) -> (Duration, Output) {
        let program = program.as_ref();
        let mut command = self.place.command(program, &self.project);
        let started = Instant::now();
        let output = command.args(args).output().unwrap();
        let took = started.elapsed();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let program = program.display();
        assert!(output.status.success(), "{program} {args:?}: {stderr}");
        (took, output)
    }

    /// A client program of Postgres.
    pub(crate) fn client(&self, program: &str, args: &[&str]) -> Duration {
        self.timed(self.place.client(program), args).0
    }

    /// Time and standard output.
    pub(crate) fn pgstencil(&self, config: Config, args: &[&str]) -> (Duration, String) {
        let file = self.config(config);
        let args = [&["--config", file.to_str().unwrap()], args].concat();
        let (took, output) = self.timed(PGSTENCIL, &args);
        (took, String::from_utf8(output.stdout).unwrap())
    }

    /// Starts `pgstencil clone`.
    pub(crate) fn start_clone(&self, config: Config) -> Child {
        self.place
            .command(PGSTENCIL, &self.project)
            .args(["--config", self.config(config).to_str().unwrap(), "clone", "-q"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Gives clones back; they are dropped in the background.
    pub(crate) fn release(&self, names: &[String]) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.pgstencil(Config::Cold, &[&["release", "-q"], names.as_slice()].concat());
    }

    /// Waits until nothing of ours is at work on the server and as many clones are warm as shall be. If
    /// none ever are, later calls do not wait for them.
    pub(crate) fn settle(&self) {
        let started = Instant::now();
        loop {
            let listed = self.list();
            let name = self.project_name(Config::Warm);
            let clones = || rows(&listed, "clones");
            let warm = clones().filter(|c| c["state"] == "warm" && c["project"] == *name);
            let warm = warm.count();
            let given_back = clones().all(|c| c["state"] == "warm");
            if given_back && (warm >= WARM || !self.fills.get()) && !self.at_work() {
                return;
            }
            if started.elapsed() > PATIENCE {
                assert!(given_back, "clones stay: {listed}");
                tell(&format!("no {WARM} warm clones after {PATIENCE:?}, but {warm}"));
                self.fills.set(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether a session of ours does anything. A background process stays for a moment when it has nothing to do.
    fn at_work(&self) -> bool {
        let busy = format!(
            "select exists (select from pg_stat_activity where datname = '{}' \
             and (state <> 'idle' or state_change > clock_timestamp() - interval '0.2 s'))",
            self.place.registry
        );
        self.place.server.psql("postgres", &busy) == "t"
    }

    /// Waits until no process of ours has anything to do in the background, and ends those that only wait for warm clones
    /// to be spare. They are children of this process.
    pub(crate) fn end_background(&self) {
        let ours = Path::new(PGSTENCIL).canonicalize().unwrap();
        let sessions =
            format!("select count(*) from pg_stat_activity where datname = '{}'", self.place.registry);
        while self.place.server.psql("postgres", &sessions) != "0" {
            std::thread::sleep(Duration::from_millis(20));
        }
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let program = std::fs::read_link(process.path().join("exe"));
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Ok(program), Some(pid)) = (program, pid)
                && program == ours
            {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                let _ = waitpid(Pid::from_raw(pid), None);
            }
        }
    }

    fn list(&self) -> Value {
        let (_, listed) = self.pgstencil(Config::Cold, &["list", "--json"]);
        serde_json::from_str(&listed).unwrap()
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for config in [Config::Cold, Config::Warm] {
            self.pgstencil(config, &["evict", "--all", "--yes", "-q"]);
        }
    }
}

fn rows<'v>(listed: &'v Value, of: &str) -> impl Iterator<Item = &'v Value> {
    listed[of].as_array().unwrap().iter()
}

/// The database of a URL that `clone` has printed.
pub(crate) fn database(url: &str) -> String {
    let database = url.trim().rsplit('/').next().unwrap();
    database.split('?').next().unwrap().to_owned()
}
