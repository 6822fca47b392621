//! [`Printer`]: data to standard output, messages to standard error, and the live line of a terminal.
//! Characters that a terminal would obey are escaped here, and only here; see [`super::escape`].

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::Error;
use crate::env::{self, Environment};
use crate::events::{Event, Extending, Warning};
use crate::quantity::{count, seconds};
use crate::wire::{self, ErrorAnswer};
use anstyle::{AnsiColor, Style};
use clap::error::{ContextKind, ContextValue};

use super::args::{self, Arguments, Color, Shared};
use super::table::Look;
use super::{escape, live, screen};

/// Writes what a person or a script sees. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Printer(Arc<Inner>);

struct Inner {
    quiet: u8,
    verbose: u8,
    json: bool,
    color: bool,
    /// Colour on standard output.
    data_color: bool,
    /// Whether standard output is a terminal, and whether standard error is.
    terminals: (bool, bool),
    /// Whether a live line is drawn.
    lively: bool,
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

/// The live line, and what has been said of a wait.
#[derive(Default)]
struct Live {
    line: Option<live::Line>,
    drawn: bool,
    ticking: bool,
    told: Option<(String, Instant)>,
}

pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const RED: Style = AnsiColor::Red.on_default().bold();
pub(super) const CYAN: Style = AnsiColor::Cyan.on_default();

impl Printer {
    /// Decides once what is shown, and how.
    pub(crate) fn new(shared: &Shared, env: &Environment) -> Self {
        let stdout = std::io::stdout().is_terminal();
        let stderr = std::io::stderr().is_terminal();
        let dumb = screen::is_dumb(env);
        let forced = [env::FORCE_COLOR, env::CLICOLOR_FORCE]
            .iter()
            .any(|name| env.non_empty(name).is_some_and(|v| v != "0"));
        let color = |terminal: bool| match shared.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if env.non_empty(env::NO_COLOR).is_some() => false,
            Color::Auto => forced || (terminal && !dumb),
        };
        Printer(Arc::new(Inner {
            quiet: shared.quiet,
            verbose: shared.verbose,
            json: shared.json,
            color: color(stderr),
            data_color: color(stdout),
            terminals: (stdout, stderr),
            lively: stderr && !dumb && env.get(env::CI).is_none() && shared.verbose == 0 && shared.quiet == 0,
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
    pub(crate) fn data(&self, text: &str) -> crate::Result<()> {
        self.write(&escape::lines(text))
    }

    fn write(&self, text: &str) -> crate::Result<()> {
        self.clear();
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::failed("cannot write to standard output").caused_by(e))
            }
            _ => Ok(()),
        }
    }

    /// How tables and coloured words are shown on standard output.
    pub(crate) fn look(&self) -> Look {
        let (stdout, _) = self.0.terminals;
        Look { width: stdout.then(|| screen::width(std::io::stdout())), color: self.0.data_color }
    }

    /// Data in words, for a person: what is too wide for the terminal goes on in the next line.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub(crate) fn text(&self, text: &str) -> crate::Result<()> {
        match self.look().width {
            Some(width) => self.data(&screen::wrap(text, width)),
            None => self.data(text),
        }
    }

    /// A table of ours, perhaps in colour: made with [`Printer::look`], so nothing in it is escaped again.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub(crate) fn table(&self, table: &str) -> crate::Result<()> {
        self.write(table)
    }

    /// One JSON object, for standard output.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub(crate) fn object(&self, value: &impl serde::Serialize) -> crate::Result<()> {
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
            Event::Building { definition, fingerprint, extends, expected } => {
                let (label, short) = match extends {
                    None => (
                        format!("building template {definition} ({fingerprint})"),
                        format!("building {definition}"),
                    ),
                    Some(extends) => (
                        format!("extending template {definition} ({fingerprint}) {}", extension(extends)),
                        format!("extending {definition}"),
                    ),
                };
                let last = expected.map_or(String::new(), |e| format!("; last time it took {}", seconds(e)));
                if self.0.lively {
                    let mut line = live::Line::new(label, short);
                    line.expected = *expected;
                    self.begin(line);
                } else {
                    self.say(&format!("{label}{last}"));
                }
            }
            Event::Progress { line, migrations } => self.progress(line, *migrations),
            Event::Waiting { definition, awaited, elapsed, expected, tail } => {
                let label = format!("waiting for {awaited}");
                if self.0.lively {
                    let mut line = live::Line::new(label, format!("waiting for {definition}"));
                    line.since = Instant::now().checked_sub(*elapsed);
                    line.expected = *expected;
                    line.output = tail.lines().last().map(str::to_owned);
                    self.begin(line);
                } else {
                    self.tell_waiting(&label, *elapsed, *expected, tail);
                }
            }
            Event::Sealed { definition, fingerprint, extends, took } => {
                self.finish();
                let (done, from) = match extends {
                    None => ("built", String::new()),
                    Some(extends) => ("extended", format!(" {}", extension(extends))),
                };
                let what = format!(" template {definition} ({fingerprint}){from} in {}", seconds(*took));
                self.say_parts(&[Painted(GREEN, done), Words(&what)]);
            }
            Event::Compared { definition, fingerprint, differs, compared, not_compared, replaced, took } => {
                self.finish();
                let found = match differs.is_empty() {
                    true => Painted(GREEN, "equals"),
                    false => Painted(YELLOW, "differs from"),
                };
                let place = match replaced {
                    true => " and replaced it",
                    false => "",
                };
                let built = format!("a full build ({}) ", seconds(*took));
                let class = if differs.is_empty() { compared } else { differs };
                let what = format!(" template {definition} ({fingerprint}) in {class}{place}");
                self.say_parts(&[Words(&built), found, Words(&what)]);
                if !not_compared.is_empty() {
                    self.say(&format!("not compared: {not_compared}; `--rows` compares them"));
                }
            }
            // The output of the user's own command may have colours.
            Event::Output(line) => {
                if self.0.verbose > 0 {
                    self.raw(&format!("  {line}"));
                }
            }
            Event::Warning(warning) => self.caution(warning),
            Event::Remote(text) => self.say(text),
            Event::Notice(text) => self.detail(text),
        }
    }

    /// The begin of a transfer: on a terminal a live line, else a line.
    #[cfg(feature = "fetch")]
    pub(crate) fn begin_transfer(&self, what: &str) {
        match self.0.lively {
            true => self.begin(live::Line::new(what.to_owned(), what.to_owned())),
            false => self.say(what),
        }
    }

    /// How far a transfer is.
    #[cfg(feature = "fetch")]
    pub(crate) fn transfer(&self, bar: &str) {
        self.progress(bar, None);
        self.draw();
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
        let causes = wire::causes(error);
        self.report(Painted(RED, "error:"), error.message(), error.details(), &causes, error.hints());
    }

    /// Something that the user should know, with reasons and hints.
    pub(crate) fn caution(&self, warning: &Warning) {
        if self.0.quiet < 2 {
            let (message, details, hints) = (warning.message(), warning.details(), warning.hints());
            match details.is_empty() && hints.is_empty() {
                true => self.warn(message),
                false => self.report(Painted(YELLOW, "warning:"), message, details, &[], hints),
            }
        }
    }

    fn report(
        &self,
        label: Part<'_>,
        message: &str,
        details: &[String],
        causes: &[String],
        hints: &[String],
    ) {
        let mut text = self.render(&[label, Words(" "), Words(message)]);
        for line in details {
            text += &format!("\n  {}", escape::block(line));
        }
        for cause in causes {
            text += &format!("\n  caused by: {}", escape::block(cause));
        }
        let mut text = self.fit(text);
        if !hints.is_empty() {
            text.push('\n');
        }
        for hint in hints {
            let mut lines = hint.trim_end().lines();
            let first = lines.next().unwrap_or_default();
            let first = [Painted(CYAN, "hint:"), Words(" "), Words(first)];
            text += &format!("\n{}", self.fit(self.render(&first)));
            // A config to paste has several lines, which stay unchanged. TOML may be indented.
            for line in lines {
                text += &format!("\n  {}", escape::line(line));
            }
        }
        self.raw(&text);
    }

    /// Ends the live line.
    pub(crate) fn finish(&self) {
        self.clear();
        self.live().line = None;
    }

    fn line(&self, parts: &[Part<'_>]) {
        self.raw(&self.fit(self.render(parts)));
    }

    /// Breaks what is too wide for the terminal of standard error.
    fn fit(&self, text: String) -> String {
        match self.0.terminals {
            (_, true) => screen::wrap(&text, screen::width(std::io::stderr())),
            _ => text,
        }
    }

    fn raw(&self, text: &str) {
        self.clear();
        // A closed standard error does not affect the work.
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
        self.0.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn begin(&self, line: live::Line) {
        let mut live = self.live();
        live.line = Some(line);
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

    fn progress(&self, output: &str, migrations: Option<(usize, usize)>) {
        if let Some(line) = &mut self.live().line {
            line.output = Some(output.to_owned());
            line.migrations = migrations.or(line.migrations);
        }
    }

    fn draw(&self) {
        let mut live = self.live();
        let Some(line) = &live.line else {
            return;
        };
        // One column stays free: some terminals go to the next line once the last one is taken.
        let width = screen::width(std::io::stderr()).saturating_sub(1);
        let text = format!("\r\x1b[2K{}", line.fit(width));
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
        false => Arguments::parse_words(shown)
            .err()
            .unwrap_or_else(|| args::command().error(error.kind(), "wrong arguments")),
    };
    let error = with_suggestion(error);
    let before_dashes = typed.iter().take_while(|word| *word != "--");
    if error.use_stderr() && before_dashes.into_iter().any(|word| word == "--json") {
        let object = to_json(&ErrorAnswer::from(&as_usage(&error)));
        let _ = writeln!(std::io::stderr().lock(), "{}", object.unwrap_or_default());
        return;
    }
    // A closed pipe is no error.
    let _ = error.print();
}

/// What is wrong with a command line, as an error of ours: its first paragraph is the message, tips are hints.
fn as_usage(error: &clap::Error) -> Error {
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n").map(str::trim);
    let first = paragraphs.next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or(first);
    let mut lines = message.lines().map(str::trim);
    let mut usage = Error::usage(lines.next().unwrap_or_default());
    for line in lines {
        usage = usage.detail(line);
    }
    for line in paragraphs.flat_map(str::lines).map(str::trim) {
        usage = match line.strip_prefix("tip: ") {
            Some(tip) => usage.hint(tip),
            None if line.starts_with("Usage: ") => usage.detail(line),
            None => usage,
        };
    }
    usage
}

/// Names the command for a word that other tools use.
fn with_suggestion(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    // The subcommands of `server` and `config` have names of their own.
    let usage = error.get(ContextKind::Usage).map(ToString::to_string);
    if !usage.is_some_and(|usage| usage.contains("pgstencil [OPTIONS]")) {
        return error;
    }
    let meant = match typed.as_str() {
        "build" | "migrate" | "up" | "template" => "ensure",
        "create" | "new" | "get" | "copy" => "clone",
        "exec" | "test" => "run",
        "delete" | "drop" | "rm" | "remove" | "return" => "release",
        "ls" | "ps" | "show" => "list",
        "gc" | "clean" | "cleanup" | "purge" => "evict",
        "start" | "stop" | "status" | "url" => "server",
        "check" => "doctor",
        "diff" | "why" | "fingerprint" => "explain",
        "compare" => "verify",
        "env" | "info" | "where" => "paths",
        _ => return error,
    };
    error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![meant.to_owned()]));
    error
}

/// Pretty enough to read, one object.
fn to_json(value: &impl serde::Serialize) -> crate::Result<String> {
    serde_json::to_string(value)
        .map(escape::json)
        .map_err(|e| Error::internal("cannot write JSON").caused_by(e))
}

/// What is extended, and by what.
fn extension(extends: &Extending<'_>) -> String {
    format!("from {}{}", extends.base, by(extends))
}

/// By what something is extended, or if nothing is added, why: for the end of a sentence.
pub(super) fn by(extends: &Extending<'_>) -> String {
    match (extends.migrations, extends.rerun_inputs) {
        (0, []) if !extends.companions.is_empty() => {
            let new = extends.companions;
            match new.len() - 1 {
                0 => format!(", since companion `{}` is new", new[0]),
                more => format!(", since companion `{}` and {more} more are new", new[0]),
            }
        }
        (0, [one]) => format!(", since `{one}` differs"),
        (0, [first, others @ ..]) => {
            format!(", since `{first}` and {} more of `rerun_inputs` differ", others.len())
        }
        (n, _) => format!(" by {}", count(n, "migration")),
    }
}
