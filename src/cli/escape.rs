//! Makes characters visible that a terminal would obey. [`super::output::Printer`] passes all its output
//! through here: names of databases, directories and branches, messages of servers and the output of builds are
//! texts of other people.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Begins each further line of a text that should be one. Neither a reader nor a CI system takes what
/// follows for a line of pgstencil's own.
const CONTINUED: &str = "\n  | ";

/// Whether a character moves the cursor, changes the terminal, or reorders the text around it: the control
/// characters C0 and C1 with DEL, line and paragraph separators, and the marks, embeddings, overrides and
/// isolates of bidirectional text.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// A text of several lines of ours: line ends and tabs stay.
pub(super) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// A text that must stay on one line, such as a cell of a table.
pub(super) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// A text that may have several lines although it stands in the midst of ours.
pub(super) fn block(text: &str) -> Cow<'_, str> {
    let text = text.trim_end_matches('\n');
    match lines(text) {
        text if text.contains('\n') => text.replace('\n', CONTINUED).into(),
        text => text,
    }
}

/// JSON: its strings hold no C0, but may hold the others, which can be written as escapes there.
pub(super) fn json(text: String) -> String {
    if !text.contains(is_obeyed) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_obeyed(c) {
            // All of them are below U+10000.
            true => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            false => out.push(c),
        }
    }
    out
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(|c| is_obeyed(c) && !stays(c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        let _ = match c {
            c if !is_obeyed(c) || stays(c) => out.write_char(c),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\0'..='\x7f' => write!(out, "\\x{:02x}", u32::from(c)),
            _ => write!(out, "\\u{{{:x}}}", u32::from(c)),
        };
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_becomes_visible() {
        assert_eq!(line("\x1b[31mred\x1b]0;title\x07"), r"\x1b[31mred\x1b]0;title\x07");
        assert_eq!(line("a\nb\r\tc\0\x7f\x08"), r"a\nb\r\tc\x00\x7f\x08");
        assert_eq!(line("\u{9b}31m \u{85} \u{2028}"), r"\u{9b}31m \u{85} \u{2028}");
        assert_eq!(
            line("\u{202e}cod.exe \u{2066}x\u{2069}\u{200f}"),
            r"\u{202e}cod.exe \u{2066}x\u{2069}\u{200f}"
        );
        for harmless in ["", "plain", "Grüße, мир 你好 🐘", "שלום", "a\\x1b", "\u{200d}\u{feff}"]
        {
            assert!(matches!(line(harmless), Cow::Borrowed(text) if text == harmless));
        }
    }

    #[test]
    fn further_lines_are_no_lines_of_ours() {
        assert_eq!(lines("a\tb\nc\x1b"), "a\tb\nc\\x1b");
        assert_eq!(block("one\nhint: no\n::error::no\n"), "one\n  | hint: no\n  | ::error::no");
        assert_eq!(block("one"), "one");
    }

    #[test]
    fn json_means_what_it_meant() {
        let value = serde_json::json!({"a\u{9b}": "\x1b \u{7f} \u{202e} \u{85} ü\n"});
        let text = json(value.to_string());
        assert!(!text.contains(is_obeyed), "{text:?}");
        assert!(text.contains(r"\u001b") && text.contains(r"\u202e"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
