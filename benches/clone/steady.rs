//! A long loop of `pgstencil clone` and `pgstencil release` on the private server, on the disk that the
//! temporary directory is on: does it become slower?

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::place::{Place, file_system, tell};
use crate::project::{Generated, WARM, markdown, write_config};
use crate::samples::{ms, times};
use crate::subject::{PGSTENCIL, database};

const CYCLES: usize = 200;

/// Prints the first and the last tenth.
pub(crate) fn measure(place: &Place) {
    let project = Generated::tables(100);
    let managed = Managed::start(place);
    let mut rows = Vec::new();
    for (what, warm) in [("cold", 0), ("warm", WARM)] {
        tell(&format!("steady: {CYCLES} cycles, {what}"));
        let config = managed.state.path().join(format!("{what}.toml"));
        let name = format!("bench_{what}");
        write_config(&project.folder(), "pgstencil", &name, warm, &config);
        managed.run(place, &config, &["ensure", "-q"]);
        let cycles: Vec<Duration> = (0..CYCLES)
            .map(|_| {
                let started = Instant::now();
                let url = managed.run(place, &config, &["clone", "-q"]);
                managed.run(place, &config, &["release", "-q", &database(&url)]);
                started.elapsed()
            })
            .collect();
        let tenth = CYCLES / 10;
        let mean =
            |cycles: &[Duration]| cycles.iter().sum::<Duration>().as_secs_f64() * 1e3 / cycles.len() as f64;
        let (first, last) = (mean(&cycles[..tenth]), mean(&cycles[CYCLES - tenth..]));
        rows.push(vec![
            what.to_owned(),
            ms(Some(first)),
            ms(Some(last)),
            times(Some(last / first)),
            ms(Some(mean(&cycles))),
        ]);
    }
    let head = ["clones", "first tenth, mean ms", "last tenth", "last ÷ first", "all"];
    println!(
        "\n## Steady: {CYCLES} × (`pgstencil clone`, `pgstencil release`), without a pause, 100 tables, private server on {}\n{}",
        managed.file_system(place),
        markdown(&head.map(str::to_owned), &rows)
    );
}

/// A private server of this run's own.
struct Managed<'p> {
    state: TempDir,
    place: &'p Place,
}

impl<'p> Managed<'p> {
    fn start(place: &'p Place) -> Self {
        let state = tempfile::tempdir().unwrap();
        // As root, the account that it runs under must be able to enter.
        std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let managed = Managed { state, place };
        managed.server(&["start"]);
        managed
    }

    fn command(&self, place: &Place) -> Command {
        let mut command = place.command(PGSTENCIL, self.state.path());
        for name in ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"] {
            command.env_remove(name);
        }
        command
            .env_remove("PGSTENCIL_SERVER_URL")
            .env("PGSTENCIL_STATE_DIR", self.state.path().join("state"));
        command
    }

    fn run(&self, place: &Place, config: &Path, args: &[&str]) -> String {
        let mut command = self.command(place);
        let output = command.arg("--config").arg(config).args(args).output();
        let output = output.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn server(&self, args: &[&str]) -> String {
        let mut command = self.command(self.place);
        let output = command.args(["-q", "server"]).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn file_system(&self, place: &Place) -> String {
        let url = self.server(&["url"]);
        let mut psql = Command::new(place.client("psql"));
        let data = psql.args([url.trim(), "-XAtc", "show data_directory"]).output();
        let data = String::from_utf8(data.unwrap().stdout).unwrap();
        file_system(Path::new(data.trim()))
    }
}

impl Drop for Managed<'_> {
    fn drop(&mut self) {
        self.server(&["stop"]);
    }
}
