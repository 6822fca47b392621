//! [`Printer`]: data to standard output, words to standard error, and the live line of a terminal. What a
//! terminal would obey is escaped here, and only here; see [`super::escape`].

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use clap::{CommandFactory as _, Parser as _};
use pgstencil::Error;
use pgstencil::config::env::{self, Environment};
use pgstencil::events::Event;
use pgstencil::wire::{self, ErrorAnswer};

use super::args::{Arguments, Color, Shared};
use super::escape;

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

/// A part of a line.
enum Part<'a> {
    /// Escaped.
    Words(&'a str),
    /// A word of ours, in colour.
    Painted(Style, &'a str),
}

use Part::{Painted, Words};

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
    /// Line ends stay, so they must be ours: see [`escape::line`] and [`escape::block`]. URLs come out as
    /// they are, since they hold nothing that is escaped.
    ///
    /// # Errors
    /// A full disk behind a redirection, say.
    pub(crate) fn data(&self, text: &str) -> pgstencil::Result<()> {
        self.clear();
        let mut out = std::io::stdout().lock();
        match out
            .write_all(escape::lines(text).as_bytes())
            .and_then(|()| out.flush())
        {
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
        self.say_parts(&[Words(text)]);
    }

    fn say_parts(&self, parts: &[Part<'_>]) {
        if self.0.quiet == 0 {
            self.line(parts);
        }
    }

    /// A line of the user's own command, as it came; not with `-q`.
    pub(crate) fn pass_on(&self, text: &str) {
        if self.0.quiet == 0 {
            self.raw(text);
        }
    }

    /// A line that was asked for, so `-q` does not take it away, where standard output is taken.
    pub(crate) fn answer(&self, text: &str) {
        self.line(&[Words(text)]);
    }

    /// A question, whose answer is typed behind it.
    pub(crate) fn ask(&self, text: &str) -> std::io::Result<()> {
        self.clear();
        let mut err = std::io::stderr().lock();
        write!(err, "{} ", escape::line(text)).and_then(|()| err.flush())
    }

    /// A line for those who want to know more (`-v`).
    pub(crate) fn detail(&self, text: &str) {
        if self.0.verbose > 0 {
            self.line(&[Words(text)]);
        }
    }

    /// Something that the user should know.
    pub(crate) fn warn(&self, text: &str) {
        if self.0.quiet < 2 {
            self.line(&[Painted(YELLOW, "warning:"), Words(" "), Words(text)]);
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
                let what = format!(
                    " template {definition} ({fingerprint}){from} in {}",
                    seconds(*took)
                );
                self.say_parts(&[Painted(GREEN, done), Words(&what)]);
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
                    true => Painted(GREEN, "equals"),
                    false => Painted(YELLOW, "differs from"),
                };
                let place = match replaced {
                    true => " and has taken its place",
                    false => "",
                };
                let built = format!("a build from nothing ({}) ", seconds(*took));
                let what = format!(" template {definition} ({fingerprint}){place}");
                self.say_parts(&[Words(&built), found, Words(&what)]);
            }
            // What the user's own command prints for them may have colours.
            Event::Output(line) => {
                if self.0.verbose > 0 {
                    self.raw(&format!("  {line}"));
                }
            }
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
        if !tail.is_empty() {
            self.say(&format!("its last output:\n{tail}"));
        }
    }

    /// An error, with causes and hints; with `--json` as an object.
    pub(crate) fn error(&self, error: &Error) {
        self.finish();
        if self.0.json {
            if let Ok(text) = to_json(&ErrorAnswer::from(error)) {
                self.raw(&text);
            }
            return;
        }
        self.report(Painted(RED, "error:"), error);
    }

    /// Something that the user should know, with reasons and hints.
    pub(crate) fn caution(&self, warning: &Error) {
        if self.0.quiet < 2 {
            self.report(Painted(YELLOW, "warning:"), warning);
        }
    }

    fn report(&self, label: Part<'_>, error: &Error) {
        let mut text = self.render(&[label, Words(" "), Words(error.message())]);
        for line in error.details() {
            text += &format!("\n  {}", escape::block(line));
        }
        for cause in wire::causes(error) {
            text += &format!("\n  caused by: {}", escape::block(&cause));
        }
        if !error.hints().is_empty() {
            text.push('\n');
        }
        for hint in error.hints() {
            // A config to paste has several lines. TOML may be indented.
            let hint = escape::lines(hint.trim_end()).replace('\n', "\n  ");
            text += &format!("\n{} {hint}", self.render(&[Painted(CYAN, "hint:")]));
        }
        self.raw(&text);
    }

    /// Ends the live line.
    pub(crate) fn finish(&self) {
        self.clear();
        let mut live = self.live();
        live.label = None;
        live.since = None;
    }

    fn line(&self, parts: &[Part<'_>]) {
        self.raw(&self.render(parts));
    }

    fn raw(&self, text: &str) {
        self.clear();
        // A closed standard error takes nothing away from the work.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    fn render(&self, parts: &[Part<'_>]) -> String {
        let mut line = String::new();
        for part in parts {
            match part {
                Words(text) => line += &escape::block(text),
                Painted(style, text) if self.0.color => {
                    line += &format!("{}{text}{}", style.render(), style.render_reset());
                }
                Painted(_, text) => line += text,
            }
        }
        line
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0
            .live
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self, label: String, elapsed: Duration, expected: Option<Duration>) {
        let mut live = self.live();
        live.label = Some(escape::line(&label).into_owned());
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

/// Help, the version, or what is wrong with a command line. That repeats what was typed, so where there is
/// something to escape in it, the escaped words are parsed instead: they are wrong in the same way.
pub(crate) fn print_usage(error: clap::Error) {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let shown = typed.iter().map(|word| match word.to_str() {
        Some(word) => OsString::from(&*escape::line(word)),
        None => OsString::from(&*escape::line(&word.to_string_lossy())),
    });
    let shown: Vec<OsString> = shown.collect();
    let error = match shown == typed {
        true => error,
        false => Arguments::try_parse_from(shown)
            .err()
            .unwrap_or_else(|| Arguments::command().error(error.kind(), "wrong arguments")),
    };
    // A closed pipe behind it is no error.
    let _ = error.print();
}

/// Pretty enough to read, one object.
fn to_json(value: &impl serde::Serialize) -> pgstencil::Result<String> {
    serde_json::to_string(value)
        .map(escape::json)
        .map_err(|e| Error::internal("cannot write JSON").caused_by(e))
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
