//! What a test program prints: the only output of the library.

#![allow(clippy::print_stderr, reason = "a test's output is for the person who runs it")]

use std::io::Write as _;
use std::panic::Location;
use std::time::Duration;

use crate::env::{self, Environment};
use crate::error::Error;
use crate::events::{Event, Warning};
use crate::quantity;
use crate::wire;

/// Returns the name of the test that runs on this thread.
pub(super) fn test_name() -> String {
    let thread = std::thread::current();
    match thread.name() {
        // A program that runs one test, or one after another, runs them on its main thread.
        None | Some("main") => alone().unwrap_or_else(|| "main".to_owned()),
        Some(name) => name.to_owned(),
    }
}

/// Returns the name of the test if the program runs only that one, as nextest has it.
fn alone() -> Option<String> {
    let mut names = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let name = names.next()?;
    let exact = std::env::args().any(|word| word == "--exact");
    (exact && names.next().is_none()).then_some(name)
}

/// Whether the program runs one test, and ends with it.
pub(super) fn is_alone(env: &Environment) -> bool {
    env.non_empty(env::NEXTEST).is_some() || alone().is_some()
}

/// Fails the test with the error, as the command line prints it.
pub(super) fn fail(test: &str, place: &Location<'_>, error: &Error) -> ! {
    let text = lines(error.message(), error.details(), &wire::causes(error), error.hints());
    panic!("pgstencil: no database for test `{test}` at {place}: {text}")
}

/// Prints what a person who waits for the database should know.
pub(super) fn event(event: Event<'_>) {
    match event {
        Event::Building { definition, fingerprint, .. } => {
            tell(&format!("building template {definition} ({fingerprint})"));
        }
        Event::Sealed { definition, fingerprint, took, .. } => {
            tell(&format!("built template {definition} ({fingerprint}) in {}", quantity::seconds(took)));
        }
        Event::Warning(warning) => tell(&warned(warning)),
        Event::Notice(_)
        | Event::Remote(_)
        | Event::Output(_)
        | Event::Progress { .. }
        | Event::Waiting { .. }
        | Event::Compared { .. } => {}
    }
}

/// Prints that the private server was started, and warnings.
pub(super) fn opening(event: Event<'_>) {
    match event {
        Event::Notice(text) => tell(text),
        Event::Warning(warning) => tell(&warned(warning)),
        _ => {}
    }
}

/// Prints a warning about a test's database.
pub(super) fn warn(warning: &Warning) {
    print(&warned(warning));
}

fn warned(warning: &Warning) -> String {
    let text = lines(warning.message(), warning.details(), &[], warning.hints());
    format!("warning: {text}")
}

/// Prints where the databases of a test are that stay. It is printed on the thread of the test, so the harness shows
/// it with the test's other output.
pub(super) fn kept(test: &str, panicked: bool, until: Option<&str>, name: &str, urls: &[&str]) {
    let why = match panicked {
        true => format!("test `{test}` panicked, and its database is kept"),
        false => format!("the database of test `{test}` is kept"),
    };
    let until = until.map_or_else(|| "it is released".to_owned(), ToOwned::to_owned);
    let mut text = format!("{why} until {until}");
    for url in urls {
        text += &format!("\n  {url}");
    }
    print(&format!("{text}\n  release it: pgstencil release {name}"));
}

/// Prints that the databases of a test could not be kept or released in time.
pub(super) fn late(doing: &str, test: &str, limit: Duration) {
    let limit = quantity::seconds(limit);
    print(&format!("warning: {doing} the database of test `{test}` takes longer than {limit}"));
}

/// Prints the error of the end of a lease.
pub(super) fn failed(doing: &str, test: &str, error: &Error) {
    let text = lines(error.message(), error.details(), &wire::causes(error), error.hints());
    print(&format!("warning: {doing} the database of test `{test}` failed: {text}"));
}

/// Prints with the output of the test that runs on this thread, which harnesses show if it fails.
fn print(text: &str) {
    eprintln!("pgstencil: {}", plain(text));
}

/// Prints at once, past the harness: several tests may wait for this.
fn tell(text: &str) {
    // There is no other place to report that standard error is closed.
    let _ = writeln!(std::io::stderr(), "pgstencil: {}", plain(text));
}

fn lines(message: &str, details: &[String], causes: &[String], hints: &[String]) -> String {
    let indent = |text: &str| text.trim_end().replace('\n', "\n  ");
    let mut text = message.to_owned();
    for line in details {
        text += &format!("\n  {}", indent(line));
    }
    for cause in causes {
        text += &format!("\n  caused by: {}", indent(cause));
    }
    for hint in hints {
        text += &format!("\nhint: {}", indent(hint));
    }
    plain(&text)
}

/// Replaces characters that would control a terminal.
fn plain(text: &str) -> String {
    let shown = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().map(|c| if shown(c) { c } else { '\u{fffd}' }).collect()
}
