//! A Postgres process that cannot outlive the test run.
//!
//! Statics are never dropped and a killed test run drops nothing at all, so a shell stands between:
//! it starts Postgres when told to on its standard input, and when that ends, which also happens
//! when the test process is killed, it stops Postgres at once and removes the directory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use super::{alive, eventually, tail};

/// The subshell reaps Postgres, so `exit` appears as soon as it has ended. What still runs after
/// the immediate stop (a backend whose postmaster was killed) ends by itself; hence the second `rm`.
const SCRIPT: &str = r#"
bin=$1 dir=$2 runner=
cd "$dir" || exit
exec >>supervisor.log 2>&1
while read -r _; do
    ( "$bin/postgres" -D "$dir/data" </dev/null >>log 2>&1 & echo $! >pid; wait $!; echo $? >exit ) &
    runner=$!
done
while [ -n "$runner" ] && [ ! -e exit ]; do
    [ -s pid ] && kill -QUIT "$(cat pid)"
    sleep 0.05
done
if [ -e data/postmaster.pid ]; then
    ipcrm -m "$(sed -n 7p data/postmaster.pid | awk '{ print $2 }')"
fi
cd /
rm -rf "$dir" || { sleep 1; rm -rf "$dir"; }
"#;

/// A directory with `data`, `log` and the socket, and the shell that watches over it.
pub(super) struct Supervisor {
    dir: PathBuf,
    shell: Child,
    orders: Option<ChildStdin>,
}

/// Why Postgres did not start.
pub(super) enum StartError {
    PortTaken,
    Other(String),
}

/// The account that Postgres runs under when we are root, which it refuses to be.
pub(super) fn account() -> Option<User> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let find = |name| User::from_name(name).ok().flatten();
    let account = find("postgres").or_else(|| find("nobody"));
    Some(account.expect("root needs an account `postgres` or `nobody` to run Postgres under"))
}

/// A command that runs as that account, with an environment without surprises.
pub(super) fn command(program: impl AsRef<std::ffi::OsStr>, cwd: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .current_dir(cwd)
        .stdin(Stdio::null());
    if let Some(user) = account() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

impl Supervisor {
    /// A fresh directory, and a shell beside it. In memory where there is room: a root file system
    /// without a journal makes CREATE DATABASE slower with every DROP.
    pub(super) fn new(bindir: &Path) -> Self {
        let shm = Path::new("/dev/shm");
        let roomy = rustix::fs::statvfs(shm).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) > 1 << 30)
            && rustix::fs::access(shm, rustix::fs::Access::WRITE_OK).is_ok();
        let parent = if roomy { shm.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("pgst-").tempdir_in(parent).unwrap().keep();
        let dir = dir.canonicalize().unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        if let Some(user) = account() {
            chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let mut shell = command("sh", &dir)
            .args(["-c", SCRIPT, "pgstencil-test-supervisor"])
            .args([bindir, &dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the test run must not take the supervisor with it.
            .process_group(0)
            .spawn()
            .unwrap();
        let orders = shell.stdin.take();
        Supervisor { dir, shell, orders }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The postmaster's process id, as long as it has one.
    pub(super) fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.dir.join("pid")).ok()?;
        let pid = text.trim().parse().ok()?;
        (alive(pid) && !self.exited()).then_some(pid)
    }

    /// Starts Postgres and waits until it takes connections.
    pub(super) fn start(&mut self) -> Result<(), StartError> {
        assert!(self.postmaster().is_none(), "the server runs already");
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let seen = fs::metadata(self.log()).map_or(0, |m| m.len());
            for left in ["pid", "exit"] {
                let _ = fs::remove_file(self.dir.join(left));
            }
            self.orders.as_mut().unwrap().write_all(b"start\n").unwrap();
            let answered = eventually(deadline - Instant::now(), || self.exited() || self.ready());
            if answered && !self.exited() {
                return Ok(());
            }
            let log = fs::read(self.log()).unwrap_or_default();
            let log =
                String::from_utf8_lossy(&log[usize::try_from(seen).unwrap().min(log.len())..]).into_owned();
            if log.contains("Address already in use") {
                return Err(StartError::PortTaken);
            }
            // Backends of a killed postmaster need a moment to notice.
            if log.contains("shared memory block") && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            return Err(StartError::Other(format!(
                "Postgres did not start; the end of {}:\n{}\n{}",
                self.log().display(),
                tail(&self.log(), 30),
                tail(&self.dir.join("supervisor.log"), 10),
            )));
        }
    }

    /// Signals the postmaster and waits until it is gone.
    pub(super) fn end(&mut self, signal: Signal) {
        if let Some(pid) = self.postmaster() {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
        assert!(
            eventually(Duration::from_secs(120), || self.exited()),
            "Postgres did not end after {signal}; the end of its log:\n{}",
            tail(&self.log(), 30)
        );
    }

    fn exited(&self) -> bool {
        self.dir.join("exit").exists()
    }

    /// The eighth line of postmaster.pid says whether connections are taken; the first, of whom it
    /// speaks (a killed server leaves its file behind).
    fn ready(&self) -> bool {
        let Some(pid) = self.postmaster() else {
            return false;
        };
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.shell.wait();
    }
}
