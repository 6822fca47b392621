//! [`Printer`]: data to standard output, words to standard error, and the live line of a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use pgstencil::Error;
use pgstencil::config::env::{self, Environment};
use pgstencil::events::Event;
use pgstencil::wire::{self, ErrorAnswer};

use super::args::{Color, Shared};

/// Writes what a person or a script sees. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Printer(Arc<Inner>);

struct Inner {
    quiet: u8,
    verbose: u8,
    json: bool,
    color: bool,
    terminal: bool,
    live: Mutex<Live>,
}

/// What the live line shows, and what has been said of a wait.
#[derive(Default)]
struct Live {
    label: Option<String>,
    since: Option<Instant>,
    expected: Option<Duration>,
    drawn: bool,
    ticking: bool,
    told: Option<(String, Instant)>,
}

const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const CYAN: Style = AnsiColor::Cyan.on_default();

impl Printer {
    /// Decides once what is shown, and how.
    pub(crate) fn new(shared: &Shared, env: &Environment) -> Self {
        let stderr = std::io::stderr().is_terminal();
        let dumb = env.get(env::TERM) == Some("dumb");
        let forced = [env::FORCE_COLOR, env::CLICOLOR_FORCE]
            .iter()
            .any(|name| env.non_empty(name).is_some_and(|v| v != "0"));
        let color = match shared.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if env.non_empty(env::NO_COLOR).is_some() => false,
            Color::Auto => forced || (stderr && !dumb),
        };
        Printer(Arc::new(Inner {
            quiet: shared.quiet,
            verbose: shared.verbose,
            json: shared.json,
            color,
            terminal: stderr
                && !dumb
                && env.get(env::CI).is_none()
                && shared.verbose == 0
                && shared.quiet == 0,
            live: Mutex::default(),
        }))
    }

    /// Whether `--json` was given.
    pub(crate) fn json(&self) -> bool {
        self.0.json
    }

    /// Whether `-q` was given.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.quiet > 0
    }

    /// Data, for standard output. A reader that has gone (`| head`) is no error.
    ///
    /// # Errors
    /// A full disk behind a redirection, say.
    pub(crate) fn data(&self, text: &str) -> pgstencil::Result<()> {
        self.clear();
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::failed("cannot write to standard output").caused_by(e))
            }
            _ => Ok(()),
        }
    }

    /// One JSON object, for standard output.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub(crate) fn object(&self, value: &impl serde::Serialize) -> pgstencil::Result<()> {
        self.data(&(to_json(value)? + "\n"))
    }

    /// A line about how it goes; not with `-q`.
    pub(crate) fn say(&self, text: &str) {
        if self.0.quiet == 0 {
            self.line(text);
        }
    }

    /// A line that was asked for, so `-q` does not take it away, where standard output is taken.
    pub(crate) fn answer(&self, text: &str) {
        self.line(text);
    }

    /// A line for those who want to know more (`-v`).
    pub(crate) fn detail(&self, text: &str) {
        if self.0.verbose > 0 {
            self.line(text);
        }
    }

    /// Something that the user should know.
    pub(crate) fn warn(&self, text: &str) {
        if self.0.quiet < 2 {
            self.line(&format!("{} {text}", self.paint(YELLOW, "warning:")));
        }
    }

    /// What the library tells while a caller waits.
    pub(crate) fn tell(&self, event: &Event<'_>) {
        match event {
            Event::Building {
                definition,
                fingerprint,
                extends,
                expected,
            } => {
                let label = match extends {
                    None => format!("building template {definition} ({fingerprint})"),
                    Some((base, added)) => format!(
                        "extending template {definition} ({fingerprint}) from {base} by {}",
                        migrations(*added)
                    ),
                };
                let last = expected.map_or(String::new(), |e| {
                    format!("; last time it took {}", seconds(e))
                });
                if self.0.terminal {
                    self.begin(label, Duration::ZERO, *expected);
                } else {
                    self.say(&format!("{label}{last}"));
                }
            }
            Event::Waiting {
                definition,
                builder,
                elapsed,
                expected,
                tail,
            } => {
                let label = format!("waiting for {builder} to build template {definition}");
                if self.0.terminal {
                    let label = match tail.lines().last() {
                        None => label,
                        Some(line) => format!("{label}: {line}"),
                    };
                    self.begin(label, *elapsed, *expected);
                } else {
                    self.tell_waiting(&label, *elapsed, *expected, tail);
                }
            }
            Event::Sealed {
                definition,
                fingerprint,
                extends,
                took,
            } => {
                self.finish();
                let (done, from) = match extends {
                    None => ("built", String::new()),
                    Some((base, added)) => (
                        "extended",
                        format!(" from {base} by {}", migrations(*added)),
                    ),
                };
                self.say(&format!(
                    "{} template {definition} ({fingerprint}){from} in {}",
                    self.paint(GREEN, done),
                    seconds(*took)
                ));
            }
            Event::Compared {
                definition,
                fingerprint,
                equal,
                replaced,
                took,
            } => {
                self.finish();
                let found = match equal {
                    true => self.paint(GREEN, "equals"),
                    false => self.paint(YELLOW, "differs from"),
                };
                let place = match replaced {
                    true => " and has taken its place",
                    false => "",
                };
                self.say(&format!(
                    "a build from nothing ({}) {found} template {definition} ({fingerprint}){place}",
                    seconds(*took)
                ));
            }
            Event::Output(line) => self.detail(&format!("  {line}")),
            Event::Warning(text) => self.warn(text),
            Event::Notice(text) => self.detail(text),
        }
    }

    /// Without a terminal: once at the start, then every ten seconds.
    fn tell_waiting(&self, label: &str, elapsed: Duration, expected: Option<Duration>, tail: &str) {
        let mut live = self.live();
        if let Some((told, at)) = &live.told
            && told == label
            && at.elapsed() < Duration::from_secs(10)
        {
            return;
        }
        live.told = Some((label.to_owned(), Instant::now()));
        drop(live);
        let last = expected.map_or(String::new(), |e| format!(" (last time: {})", seconds(e)));
        self.say(&format!("{label}, for {} so far{last}", seconds(elapsed)));
        for line in tail.lines() {
            self.say(&format!("  {line}"));
        }
    }

    /// An error, with causes and hints; with `--json` as an object.
    pub(crate) fn error(&self, error: &Error) {
        self.finish();
        if self.0.json {
            if let Ok(text) = to_json(&ErrorAnswer::from(error)) {
                self.line(&text);
            }
            return;
        }
        self.report(&self.paint(RED, "error:"), error);
    }

    /// Something that the user should know, with reasons and hints.
    pub(crate) fn caution(&self, warning: &Error) {
        if self.0.quiet < 2 {
            self.report(&self.paint(YELLOW, "warning:"), warning);
        }
    }

    fn report(&self, label: &str, error: &Error) {
        let mut lines = vec![format!("{label} {}", error.message())];
        lines.extend(error.details().iter().map(|line| format!("  {line}")));
        lines.extend(
            wire::causes(error)
                .iter()
                .map(|cause| format!("  caused by: {cause}")),
        );
        if !error.hints().is_empty() {
            lines.push(String::new());
        }
        lines.extend(
            error
                .hints()
                .iter()
                .map(|hint| format!("{} {hint}", self.paint(CYAN, "hint:"))),
        );
        self.line(&lines.join("\n"));
    }

    /// Ends the live line.
    pub(crate) fn finish(&self) {
        self.clear();
        let mut live = self.live();
        live.label = None;
        live.since = None;
    }

    fn line(&self, text: &str) {
        self.clear();
        // A closed standard error takes nothing away from the work.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if self.0.color {
            format!("{}{text}{}", style.render(), style.render_reset())
        } else {
            text.to_owned()
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0
            .live
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self, label: String, elapsed: Duration, expected: Option<Duration>) {
        let mut live = self.live();
        live.label = Some(label);
        live.since = Instant::now().checked_sub(elapsed);
        live.expected = expected;
        if !live.ticking {
            live.ticking = true;
            drop(live);
            let printer = self.clone();
            // A thread, since the work may block the async one. It ends with the process.
            std::thread::spawn(move || {
                loop {
                    printer.draw();
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    }

    fn draw(&self) {
        let mut live = self.live();
        let (Some(label), Some(since)) = (&live.label, live.since) else {
            return;
        };
        let expected = live
            .expected
            .map_or(String::new(), |e| format!(" of about {}", seconds(e)));
        let label: String = label.chars().take(100).collect();
        let text = format!("\r\x1b[2K{label}  {}{expected}", seconds(since.elapsed()));
        live.drawn = true;
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn clear(&self) {
        let mut live = self.live();
        if std::mem::take(&mut live.drawn) {
            let _ = std::io::stderr().lock().write_all(b"\r\x1b[2K");
        }
    }
}

/// Pretty enough to read, one object.
fn to_json(value: &impl serde::Serialize) -> pgstencil::Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal("cannot write JSON").caused_by(e))
}

/// A time for a person.
pub(crate) fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    match s {
        _ if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        _ if s < 100.0 => format!("{s:.1} s"),
        _ => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), s % 60.0),
    }
}

/// How long ago, for a person: one unit will do.
pub(crate) fn age(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{:.0}s", s.max(0.0)),
        s if s < 6000.0 => format!("{:.0}m", s / 60.0),
        s if s < 360_000.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

/// A size for a person.
pub(crate) fn size(bytes: i64) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.0} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

/// A number of migrations in words.
pub(crate) fn migrations(count: usize) -> String {
    match count {
        0 => "no migration".into(),
        1 => "one migration".into(),
        n => format!("{n} migrations"),
    }
}
