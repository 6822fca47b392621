//! A project that uses the private server.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Pgstencil, Project, server};

/// A project that uses the private server, which ends with it.
pub(crate) struct Private {
    pub(crate) project: Project<'static>,
}

impl Private {
    pub(crate) fn new() -> Self {
        let private = Private { project: Project::with_migrations(server()) };
        if let Some(bindir) = std::env::var_os("PGSTENCIL_TEST_BINDIR") {
            private.use_binaries(bindir.to_str().unwrap());
        }
        private
    }

    /// Writes `[server] bindir`, in the place of one that is there.
    pub(crate) fn use_binaries(&self, bindir: &str) {
        let config = self.project.read("pgstencil.toml");
        let lines = config.lines().filter(|l| !l.starts_with("bindir ="));
        let config: String = lines.map(|l| format!("{l}\n")).collect();
        let line = format!("[server]\nbindir = {bindir:?}\n");
        self.project.write("pgstencil.toml", &config.replace("[server]\n", &line));
    }

    /// In an environment that knows another server, by every variable that libpq has.
    pub(crate) fn run(&self, args: &[&str]) -> Pgstencil {
        Pgstencil::new(&self.project)
            .args(args)
            .env_remove("PGSTENCIL_SERVER_URL")
            .env("PGHOST", "192.0.2.1")
            .env("PGHOSTADDR", "192.0.2.1")
            .env("PGPORT", "1")
            .env("PGUSER", "nobody")
            .env("PGPASSWORD", "wrong")
            .env("PGDATABASE", "nowhere")
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", "/nonexistent")
            .env("PGOPTIONS", "-c search_path=evil")
            .limit(Duration::from_secs(120))
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let status = self.run(&["server", "status", "--json"]).run();
        serde_json::from_str(&status.stdout).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.status()["pid"].as_i64().map(|p| p as i32)
    }

    /// The directory of the cluster that commands use.
    pub(crate) fn cluster(&self) -> PathBuf {
        let status = self.status();
        let data = PathBuf::from(status["data_dir"].as_str().unwrap());
        data.parent().unwrap().to_owned()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let status = self.status();
        self.run(&["server", "stop", "--force"]).run();
        // Under root the cluster may be in the system's directory instead of ours.
        if let Some(data) = status["data_dir"].as_str().map(PathBuf::from)
            && data.starts_with(self.project.state_dir())
        {
            let _ = fs::remove_dir_all(data);
        }
    }
}
