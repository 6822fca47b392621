//! The width of a terminal, and text that fits it.

use std::os::fd::AsFd;

use crate::env::{self, Environment};
use textwrap::core::{Word, display_width};
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// What is assumed of a terminal that does not know its width.
const USUAL: usize = 80;

/// How many columns the terminal has now. Asked before each drawing, so a window that is resized is
/// followed.
pub(super) fn width(stream: impl AsFd) -> usize {
    match rustix::termios::tcgetwinsize(stream) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => USUAL,
    }
}

/// Whether the terminal has cursor and colours.
pub(super) fn is_dumb(env: &Environment) -> bool {
    matches!(env.get(env::TERM), None | Some("" | "dumb"))
}

/// Cuts a line that is too wide; `…` stands for the rest.
pub(super) fn cut(line: &str, width: usize) -> String {
    if display_width(line) <= width {
        return line.to_owned();
    }
    let Some(room) = width.checked_sub(1) else {
        return String::new();
    };
    let mut used = 0;
    let mut letter = [0; 4];
    let fits = |c: &char| {
        used += display_width(c.encode_utf8(&mut letter));
        used <= room
    };
    let mut cut: String = line.chars().take_while(fits).collect();
    cut.truncate(cut.trim_end().len());
    cut.push('…');
    cut
}

/// Breaks the lines of a text that are too wide, between words. A line that begins with a label, and
/// then at least two spaces, goes on under what follows them; others go on a little further in. A word or a
/// command between backticks that is wider than the terminal stays whole, so that it can be copied.
pub(super) fn wrap(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let (line, end) = match line.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (line, ""),
        };
        if display_width(line) <= width {
            out += line;
        } else {
            out += &wrap_line(line, width);
        }
        out += end;
    }
    out
}

fn wrap_line(line: &str, width: usize) -> String {
    let indent = " ".repeat(hang(line).min(width / 2));
    let begin = line.len() - line.trim_start_matches(' ').len();
    // Spaces at the beginning are no word.
    let (begin, line) = line.split_at(begin.min(width / 2));
    let options = Options::new(width)
        .initial_indent(begin)
        .subsequent_indent(&indent)
        .word_separator(WordSeparator::Custom(outside_code))
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit)
        .break_words(false);
    textwrap::fill(line, options)
}

/// Where a line goes on.
fn hang(line: &str) -> usize {
    let begin = line.len() - line.trim_start_matches(' ').len();
    let rest = &line[begin..];
    if let Some(gap) = rest.find("  ") {
        let label = &rest[..gap];
        let after = &rest[gap..];
        // A label has no more than two words.
        if label.split(' ').count() <= 2 {
            let spaces = after.len() - after.trim_start_matches(' ').len();
            return begin + display_width(label) + spaces;
        }
    }
    begin + 2
}

/// Words between spaces, where what stands between backticks is one.
fn outside_code(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    let mut inside = false;
    let mut begin = 0;
    let mut words = Vec::new();
    let mut spaces = false;
    for (at, c) in line.char_indices() {
        if spaces && c != ' ' {
            words.push(Word::from(&line[begin..at]));
            begin = at;
        }
        if c == '`' {
            inside = !inside;
        }
        spaces = c == ' ' && !inside;
    }
    words.push(Word::from(&line[begin..]));
    Box::new(words.into_iter())
}

/// Lines of at most this width, for a cell of a table. Names are broken behind the signs between their
/// parts, if they have any, else anywhere.
pub(super) fn wrap_cell(text: &str, width: usize) -> Vec<String> {
    let options = Options::new(width.max(1))
        .word_separator(WordSeparator::Custom(parts))
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    textwrap::wrap(text, options).into_iter().map(|line| line.trim_end().to_owned()).collect()
}

fn parts(line: &str) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    Box::new(line.split_inclusive([' ', '_', '-', '/', ',', '@']).map(Word::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_columns_not_bytes() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("too long", 5), "too…");
        assert_eq!(cut("数据库数据库", 7), "数据库…");
        assert_eq!(cut("é".repeat(10).as_str(), 4), "ééé…");
        assert_eq!(cut("x", 0), "");
    }

    #[test]
    fn long_lines_go_on_under_their_text() {
        assert_eq!(
            wrap("ok       server: a lot to say of it\nshort\n", 24),
            "ok       server: a lot\n         to say of it\nshort\n"
        );
        assert_eq!(
            wrap("  build         one two three four\n", 26),
            "  build         one two\n                three four\n"
                .replace("                ", "             ")
        );
        assert_eq!(wrap("one two three four", 10), "one two\n  three\n  four");
    }

    #[test]
    fn what_is_to_be_copied_stays_whole() {
        assert_eq!(
            wrap("run `pgstencil server remove --major 15` now", 30),
            "run\n  `pgstencil server remove --major 15`\n  now"
        );
        let url = format!("postgresql://{}", "x".repeat(40));
        assert_eq!(wrap(&url, 30), url);
        // A backtick alone opens nothing for good.
        assert!(wrap("a `b c d e f g h", 8).contains("`b c"));
    }

    #[test]
    fn names_are_broken_between_their_parts() {
        assert_eq!(wrap_cell("shop_app_x4k2", 9), ["shop_app_", "x4k2"]);
        assert_eq!(wrap_cell("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap_cell("pid 12, here", 8), ["pid 12,", "here"]);
        assert_eq!(wrap_cell("", 4), [""]);
    }
}
