//! A terminal of a given width, and what a person would see in it.

use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use rustix::termios::tcsetwinsize;

use super::eventually;
use super::server::PATIENCE;

/// Rows enough for all that a test prints, so that nothing scrolls away.
const ROWS: u16 = 500;

/// A command with a terminal for its output; killed when dropped.
pub(crate) struct Terminal {
    child: Child,
    master: File,
    reader: JoinHandle<()>,
    seen: Arc<Mutex<Vec<u8>>>,
    columns: u16,
}

impl Terminal {
    /// Starts a command with standard output and standard error on a terminal.
    pub(crate) fn start(mut command: Command, columns: u16) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        command.stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
        let child = command.spawn().unwrap();
        // Its descriptors of the terminal's other end.
        drop(command);
        let master = File::from(pty.master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sink, mut read) = (Arc::clone(&seen), master.try_clone().unwrap());
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // When the last one has closed the other end, this is an error.
            while let Ok(n @ 1..) = read.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Terminal { child, master, reader, seen, columns }
    }

    /// All that was written to it so far.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Changes its width, as a person does with a window.
    pub(crate) fn resize(&mut self, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).unwrap();
        self.columns = columns;
    }

    /// Waits until this was written to it.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        let there = eventually(PATIENCE, || self.seen().contains(text));
        assert!(there, "no {text:?} in {:?}", self.seen());
    }

    /// Waits for the end of the command.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Shown {
        let ended = eventually(PATIENCE, || self.child.try_wait().unwrap().is_some());
        assert!(ended, "{}", self.seen());
        eventually(Duration::from_secs(5), || self.reader.is_finished());
        let raw = self.seen();
        let [rows, columns] = [ROWS, self.columns].map(|n| NonZero::new(n).unwrap());
        let mut parser = vt100::Parser::new(rows, columns, 0);
        parser.process(raw.as_bytes());
        Shown {
            code: self.child.wait().unwrap().code(),
            rows: parser.screen().cursor_position().0.into(),
            text: parser.screen().contents(),
            raw,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal showed.
pub(crate) struct Shown {
    /// The exit code.
    pub(crate) code: Option<i32>,
    /// All that was written.
    pub(crate) raw: String,
    /// What was there to read at the end; a line that was too wide is one line here, in several rows.
    pub(crate) text: String,
    /// How many rows it took.
    pub(crate) rows: usize,
}

impl Shown {
    /// The widest line without its colours, as the command wrote it. A fingerprint, a URL or a statement by itself
    /// does not count: it is there to be copied.
    pub(crate) fn widest(&self) -> usize {
        let lines = self.raw.split(['\n', '\r']).map(plain);
        // What `doctor` says of databases that other tests left on the same server.
        let statement = |line: &str| line.ends_with(';') && line.contains("DATABASE \"");
        let words = lines.filter(|line| line.trim().contains(' ') && !statement(line));
        words.map(|line| line.chars().count()).max().unwrap_or_default()
    }
}

/// Without colours and cleared lines.
pub(crate) fn plain(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| matches!(c, ' '..='?'));
        out.extend(rest.chars().skip(1));
    }
    out
}
