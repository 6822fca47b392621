//! `input_lines`: single lines of a file as inputs, or parts of them.
//!
//! An expression is matched against each line. An expression with a line break, such as `\n`, is matched
//! against the whole text, where `^` and `$` match at the ends of lines: lock files put a package's version
//! below its name. The text of the first group counts; if there is no group, or it takes no part in the
//! match, the whole lines that the match touches count.

use std::io;
use std::path::Path;
use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

use super::globs::not_relative;
use super::recipe::LinesInput;
use crate::config::{Definition, InputLines};
use crate::error::{Error, Result};
use crate::names;

/// Hashes the text that counts. Line ends `\r\n` and `\n` are equal, and it makes no difference whether the
/// last line has one. A file that is named here counts even if a .gitignore hides it.
pub(super) fn read(root: &Path, definition: &Definition, index: usize) -> Result<LinesInput> {
    let InputLines { file, matching } = &definition.input_lines[index];
    let bad = |what: &str| {
        let input = definition.input("input_lines", index);
        Error::config(format!("{input}: {what}"))
    };
    if let Some(what) = not_relative(file) {
        return Err(bad(&format!("path `{file}` {what}")).hint("write the path relative to the root"));
    }
    let whole = spells_line_break(matching);
    let regex = RegexBuilder::new(matching)
        .multi_line(whole)
        .build()
        .map_err(|e| bad(&format!("`{matching}` is not a regular expression")).caused_by(e))?;

    let path = root.join(&**file);
    let metadata = path.metadata().map_err(|e| {
        let missing = e.kind() == io::ErrorKind::NotFound;
        let what = if missing { "no file" } else { "cannot read" };
        let error = bad(&format!("{what} `{file}` below the root `{}`", root.display()));
        match nearest(&path).filter(|_| missing) {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None => error,
        }
        .caused_by(e)
    })?;
    // Opening a FIFO would block.
    if !metadata.is_file() {
        return Err(bad(&format!("`{file}` is not a file")));
    }
    let content = std::fs::read(&path)
        .map_err(|e| Error::failed(format!("cannot read `{}`", path.display())).caused_by(e))?;

    let content = unix_line_ends(&content);
    let pieces = match whole {
        true => in_text(&regex, &content),
        false => in_lines(&regex, &content),
    };
    let mut hasher = blake3::Hasher::new();
    for piece in &pieces {
        hasher.update(piece);
        hasher.update(b"\n");
    }
    // A typo in the expression would silently lose an input.
    if pieces.is_empty() {
        return Err(match whole {
            true => bad(&format!("nothing in `{file}` matches `{matching}`"))
                .detail("the expression is matched against the whole text, with `\\n` as the line end"),
            false => bad(&format!("no line of `{file}` matches `{matching}`"))
                .detail("the expression is matched against each line, without its line end"),
        }
        .hint("put `(?i)` in front to ignore case"));
    }
    Ok(LinesInput {
        file: file.to_string(),
        matching: matching.to_string(),
        hash: hasher.finalize().to_hex().to_string(),
        count: pieces.len() as u64,
        text: pieces.into_iter().take(SHOWN).map(shown).collect(),
    })
}

/// Returns whether an expression contains a line break.
fn spells_line_break(expression: &str) -> bool {
    let mut chars = expression.chars();
    while let Some(c) = chars.next() {
        if c == '\n' || c == '\\' && matches!(chars.next(), Some('n' | 'r')) {
            return true;
        }
    }
    false
}

/// Returns the text with `\n` at the end of each line.
pub(super) fn unix_line_ends(text: &[u8]) -> Vec<u8> {
    let at_line_end = |i: usize| matches!(text.get(i + 1), Some(b'\n') | None);
    let bytes = text.iter().copied().enumerate();
    bytes.filter(|(i, byte)| *byte != b'\r' || !at_line_end(*i)).map(|(_, byte)| byte).collect()
}

/// Returns the part of each line that counts.
fn in_lines<'t>(regex: &Regex, text: &'t [u8]) -> Vec<&'t [u8]> {
    let lines = text.split(|&b| b == b'\n');
    lines
        .filter_map(|line| {
            let found = regex.captures(line)?;
            Some(found.get(1).map_or(line, |group| group.as_bytes()))
        })
        .collect()
}

/// Returns the text that counts at each match of the expression.
fn in_text<'t>(regex: &Regex, text: &'t [u8]) -> Vec<&'t [u8]> {
    let lines = |start: usize, end: usize| {
        let is_break = |b: &u8| *b == b'\n';
        let start = text[..start].iter().rposition(is_break).map_or(0, |i| i + 1);
        let end = text[end..].iter().position(is_break).map_or(text.len(), |i| end + i);
        text[start..end.max(start)].trim_ascii_end()
    };
    regex
        .captures_iter(text)
        .filter_map(|found| {
            let all = found.get(0)?;
            let group = found.get(1).map(|group| group.as_bytes());
            Some(group.unwrap_or_else(|| lines(all.start(), all.end())))
        })
        .collect()
}

/// Number of pieces that are kept for display.
const SHOWN: usize = 20;

/// Returns a piece for display, without the passwords of URLs.
fn shown(piece: &[u8]) -> String {
    static CREDENTIALS: LazyLock<Option<regex::Regex>> =
        LazyLock::new(|| regex::Regex::new(r"://[^/@\s]+@").ok());
    let text = String::from_utf8_lossy(piece);
    let text = match &*CREDENTIALS {
        Some(credentials) => credentials.replace_all(&text, "://***@"),
        None => return String::new(),
    };
    names::cut(&text, 200).to_owned()
}

/// Returns the name in the directory of `path` that is most similar to the last part of `path`.
fn nearest(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let names = path.parent()?.read_dir().ok()?.flatten();
    names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| (strsim::jaro_winkler(wanted, &name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, x), (b, y)| a.total_cmp(b).then_with(|| y.cmp(x)))
        .map(|(_, name)| name)
}
