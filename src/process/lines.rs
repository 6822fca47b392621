//! Splits a stream of bytes into lines for display.

use std::borrow::Cow;
use std::collections::VecDeque;

/// Maximum length of a line; some tools print a whole JSON document on one line.
const LONGEST: usize = 4096;

/// Number of last lines that are kept for an error message.
const TAIL: usize = 40;

/// Collects bytes and returns lines: lossy UTF-8, without line end. A `\r` also ends a line (progress bars),
/// but makes no empty lines.
#[derive(Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// Whether bytes of the current line were dropped.
    cut: bool,
    /// Whether a `\r` has just ended a line: a following `\n` is the same line end.
    after_return: bool,
    tail: VecDeque<String>,
}

impl Lines {
    /// Adds bytes; calls `on_line` for each completed line.
    pub(super) fn push(&mut self, bytes: &[u8], on_line: &mut (dyn FnMut(&str) + Send)) {
        for part in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            let (text, end) = match part.split_last() {
                Some((&end @ (b'\n' | b'\r'), text)) => (text, Some(end)),
                _ => (part, None),
            };
            let room = LONGEST - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            self.cut |= text.len() > room;
            let same_end = self.after_return && text.is_empty();
            let empty = self.line.is_empty();
            match end {
                Some(b'\n') if same_end => {}
                Some(b'\r') if empty => {}
                Some(_) => self.end_line(on_line),
                None => {}
            }
            // After a `\r` that ended no line, a `\n` is an empty line.
            self.after_return = end == Some(b'\r') && !empty;
        }
    }

    /// Ends a last line without line end, and returns the last lines.
    pub(super) fn finish(mut self, on_line: &mut (dyn FnMut(&str) + Send)) -> Vec<String> {
        if !self.line.is_empty() {
            self.end_line(on_line);
        }
        self.tail.into()
    }

    fn end_line(&mut self, on_line: &mut (dyn FnMut(&str) + Send)) {
        let mut line = String::from_utf8_lossy(&self.line).into_owned();
        if std::mem::take(&mut self.cut) {
            line.push('…');
        }
        self.line.clear();
        on_line(&line);
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(plain(&line).into_owned());
    }
}

/// Returns a line without colours and other control sequences that begin with `ESC [`, for places where it is
/// read later.
pub(crate) fn plain(line: &str) -> Cow<'_, str> {
    if !line.contains("\x1b[") {
        return line.into();
    }
    let mut parts = line.split("\x1b[");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Parameters and intermediates, then one character that ends the sequence.
        let rest = part.trim_start_matches(|c: char| matches!(c, ' '..='?'));
        out.extend(rest.chars().skip(1));
    }
    out.into()
}
