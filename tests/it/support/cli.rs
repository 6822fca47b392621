//! Runs the real binary, in an environment that holds nothing of the developer's.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, User};
use tokio::runtime::Builder;

use super::eventually;
use super::project::Project;
use super::terminal::Terminal;

/// After this a command counts as hung.
const LIMIT: Duration = Duration::from_secs(180);

/// A command line in the making.
#[must_use = "nothing runs before `success`, `fails`, `run` or `spawn`"]
pub(crate) struct Pgstencil {
    command: Command,
    stdin: Option<String>,
    limit: Duration,
}

impl Pgstencil {
    /// `pgstencil` in the project's directory, with the project's server.
    pub(crate) fn new(project: &Project<'_>) -> Self {
        Self::with_program(project, env!("CARGO_BIN_EXE_pgstencil"))
    }

    /// Another program in the same environment, for example a script that calls `pgstencil`, which
    /// is on the `PATH`.
    pub(crate) fn with_program(project: &Project<'_>, program: impl AsRef<OsStr>) -> Self {
        let ours = Path::new(env!("CARGO_BIN_EXE_pgstencil"));
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let folders = [ours.parent(), project.server().bindir()];
        let path = std::env::join_paths(
            folders.into_iter().flatten().map(Path::to_owned).chain(std::env::split_paths(&inherited)),
        );
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path.unwrap())
            .env("HOME", project.home())
            .env("PGSTENCIL_STATE_DIR", project.state_dir())
            .env("PGSTENCIL_SERVER_URL", project.server_url())
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .env("RUST_BACKTRACE", "1")
            .current_dir(project.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        Pgstencil { command, stdin: None, limit: LIMIT }
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable away, such as `PGSTENCIL_SERVER_URL`.
    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs under another account, which only root can. See [`super::account::strangers`].
    pub(crate) fn account(mut self, account: &User) -> Self {
        self.command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
        self
    }

    /// Runs somewhere else.
    pub(crate) fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads; nothing otherwise.
    pub(crate) fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    /// Another limit than three minutes.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it with a terminal of this width for its output.
    pub(crate) fn on_terminal(mut self, columns: u16) -> Terminal {
        self.command.env("TERM", "xterm-256color");
        Terminal::start(self.command, columns)
    }

    /// The same for a terminal of this kind.
    pub(crate) fn on_terminal_of(mut self, kind: &str, columns: u16) -> Terminal {
        self.command.env("TERM", kind);
        Terminal::start(self.command, columns)
    }

    /// Runs it and expects exit code 0.
    #[track_caller]
    pub(crate) fn success(self) -> Output {
        self.fails(0)
    }

    /// Runs it and expects this exit code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> Output {
        let output = self.run();
        output.code(code);
        output
    }

    /// Runs it. Whether it succeeded is for the caller to look at.
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        let limit = self.limit;
        self.spawn().output(limit)
    }

    /// Starts it with pipes for standard input and output; its errors are the test's.
    pub(crate) fn piped(mut self) -> Child {
        heed_signals();
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
    }

    /// Starts it. It is killed when dropped, with its process group.
    #[track_caller]
    pub(crate) fn spawn(mut self) -> Running {
        if self.stdin.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let words: Vec<OsString> = std::iter::once(self.command.get_program())
            .chain(self.command.get_args())
            .map(OsStr::to_owned)
            .collect();
        heed_signals();
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(e) => panic!("cannot start {words:?}: {e}"),
        };
        if let Some(text) = self.stdin.take() {
            let mut pipe = child.stdin.take().unwrap();
            // One that does not read its input to the end is free to do so.
            std::thread::spawn(move || pipe.write_all(text.as_bytes()));
        }
        Running {
            words,
            started: Instant::now(),
            stdout: Drain::new(child.stdout.take().unwrap()),
            stderr: Drain::new(child.stderr.take().unwrap()),
            child,
        }
    }
}

/// A background job of a script ignores INT, one of nohup HUP, and so would what it starts. Handlers
/// are not inherited: with one here, the command begins with the default.
fn heed_signals() {
    static DONE: Once = Once::new();
    let handle = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = mask.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            if ignored & (1 << (signal as i32 - 1)) != 0 {
                drop(tokio::signal::unix::signal((signal as i32).into()).unwrap());
            }
        }
    };
    // A thread of its own, since the caller may be on a runtime.
    DONE.call_once(|| std::thread::spawn(handle).join().unwrap());
}

/// A pipe that is read to its end on a thread, so that nobody ever waits for us.
struct Drain {
    seen: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Drain {
    fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Drain { seen, thread }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}

/// A command that runs.
pub(crate) struct Running {
    words: Vec<OsString>,
    started: Instant,
    child: Child,
    stdout: Drain,
    stderr: Drain,
}

impl Running {
    /// The process id.
    pub(crate) fn id(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id()), signal).unwrap();
    }

    /// Sends a signal to its process group, as Ctrl-C in a terminal does.
    pub(crate) fn signal_group(&self, signal: Signal) {
        killpg(Pid::from_raw(self.id()), signal).unwrap();
    }

    /// Kills the process alone, as the kernel would, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout_so_far(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr_so_far(&self) -> String {
        self.stderr.text()
    }

    /// Waits until stdout or stderr has this text.
    #[track_caller]
    pub(crate) fn wait_for_text(&self, text: &str) {
        let there = || self.stdout.text().contains(text) || self.stderr.text().contains(text);
        if !eventually(LIMIT, there) {
            panic!("no {text:?} after {LIMIT:?} in\n{}", self.so_far());
        }
    }

    /// Waits so long; whether it has ended.
    pub(crate) fn wait_timeout(&mut self, limit: Duration) -> bool {
        eventually(limit, || self.child.try_wait().unwrap().is_some())
    }

    /// Waits until it has ended and its output too.
    #[track_caller]
    pub(crate) fn wait(self) -> Output {
        self.output(LIMIT)
    }

    #[track_caller]
    fn output(mut self, limit: Duration) -> Output {
        if !self.wait_timeout(limit) {
            panic!("still running after {limit:?}\n{}", self.so_far());
        }
        let time = self.started.elapsed();
        let status = self.child.wait().unwrap();
        // `url=$(pgstencil clone)` hangs as long as anybody holds the pipe.
        let closed = || self.stdout.thread.is_finished() && self.stderr.thread.is_finished();
        if !eventually(Duration::from_secs(30), closed) {
            panic!(
                "it has ended ({status}), but somebody it left behind still holds its stdout or stderr\n{}",
                self.so_far()
            );
        }
        Output {
            words: self.words.clone(),
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            time,
        }
    }

    fn so_far(&self) -> String {
        describe(&self.words, &self.stdout.text(), &self.stderr.text())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group may outlive the process: what it left behind must not disturb other tests.
        let _ = killpg(Pid::from_raw(self.id()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// What a command did.
pub(crate) struct Output {
    words: Vec<OsString>,
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// All of its stdout.
    pub(crate) stdout: String,
    /// All of its stderr.
    pub(crate) stderr: String,
    /// How long it took.
    pub(crate) time: Duration,
}

impl Output {
    /// Expects this exit code; death by signal n counts as 128 + n.
    #[track_caller]
    pub(crate) fn code(&self, expected: i32) -> &Self {
        let code = self.status.code();
        let code = code.or(self.status.signal().map(|n| 128 + n));
        self.check(code == Some(expected), format_args!("exit code {expected} expected, not {}", self.status))
    }

    /// Expects exactly this on stdout.
    #[track_caller]
    pub(crate) fn stdout(&self, expected: &str) -> &Self {
        self.check(self.stdout == expected, format_args!("stdout expected: {expected:?}"))
    }

    /// Expects this somewhere in stdout.
    #[track_caller]
    pub(crate) fn stdout_has(&self, expected: &str) -> &Self {
        self.check(self.stdout.contains(expected), format_args!("not in stdout: {expected:?}"))
    }

    /// Expects exactly this on stderr.
    #[track_caller]
    pub(crate) fn stderr(&self, expected: &str) -> &Self {
        self.check(self.stderr == expected, format_args!("stderr expected: {expected:?}"))
    }

    /// Expects this somewhere in stderr.
    #[track_caller]
    pub(crate) fn stderr_has(&self, expected: &str) -> &Self {
        self.check(self.stderr.contains(expected), format_args!("not in stderr: {expected:?}"))
    }

    /// Expects this nowhere in the output; for passwords.
    #[track_caller]
    pub(crate) fn lacks(&self, unwanted: &str) -> &Self {
        self.check(
            !self.stdout.contains(unwanted) && !self.stderr.contains(unwanted),
            format_args!("must not be in the output: {unwanted:?}"),
        )
    }

    /// Expects exactly one line on stdout and gives it back, without its end.
    #[track_caller]
    pub(crate) fn line(&self) -> &str {
        let line = self.stdout.strip_suffix('\n').unwrap_or_default();
        self.check(!line.is_empty() && !line.contains('\n'), format_args!("one line on stdout expected"));
        line
    }

    /// Expects one JSON value on stdout, and nothing else.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(e) => panic!("no JSON on stdout: {e}\n{self}"),
        }
    }

    #[track_caller]
    fn check(&self, good: bool, complaint: fmt::Arguments<'_>) -> &Self {
        assert!(good, "{complaint}\n{self}");
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} after {:.1?}", self.status, self.time)?;
        f.write_str(&describe(&self.words, &self.stdout, &self.stderr))
    }
}

/// The command and its output, the middle of very long output left out.
fn describe(words: &[OsString], stdout: &str, stderr: &str) -> String {
    let short = |text: &str| {
        let count = text.chars().count();
        if count <= 20_000 {
            return text.to_owned();
        }
        let head: String = text.chars().take(10_000).collect();
        let tail: String = text.chars().skip(count - 10_000).collect();
        format!("{head}\n[… {} characters …]\n{tail}", count - 20_000)
    };
    format!("--- command\n{words:?}\n--- stdout\n{}\n--- stderr\n{}\n---", short(stdout), short(stderr))
}
