//! `input_lines`: single lines of a file as inputs.

use std::io;
use std::path::Path;

use regex::bytes::Regex;

use super::globs::not_relative;
use super::recipe::LinesInput;
use crate::config::{Definition, InputLines};
use crate::error::{Error, Result};

/// Hashes the lines that count. Line ends `\r\n` and `\n` are the same, and whether the last
/// line has one makes no difference. A .gitignore does not hide a file that is named here.
pub(super) fn read(
    root: &Path,
    definition: &Definition,
    wanted: &InputLines,
) -> Result<LinesInput> {
    let InputLines { file, matching } = wanted;
    let bad = |what: &str| {
        Error::config(format!(
            "`input_lines` of template `{}`: {what}",
            definition.name
        ))
    };
    if let Some(what) = not_relative(file) {
        return Err(bad(&format!("path `{file}` {what}")).hint("paths are relative to the root"));
    }
    let regex = Regex::new(matching)
        .map_err(|e| bad(&format!("`{matching}` is not a regular expression")).caused_by(e))?;

    let path = root.join(file);
    let metadata = path.metadata().map_err(|e| {
        let missing = e.kind() == io::ErrorKind::NotFound;
        let what = if missing { "no file" } else { "cannot read" };
        let error = bad(&format!(
            "{what} `{file}` below the root `{}`",
            root.display()
        ));
        match nearest(&path).filter(|_| missing) {
            Some(name) => error.hint(format!("the nearest name there is `{name}`")),
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

    let mut hasher = blake3::Hasher::new();
    let mut count = 0;
    for line in content.split(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if regex.is_match(line) {
            hasher.update(line);
            hasher.update(b"\n");
            count += 1;
        }
    }
    // A typo in the expression would lose an input without a word.
    if count == 0 {
        return Err(
            bad(&format!("no line of `{file}` matches `{matching}`")).hint(
                "it is tried on each line without its line end; `(?i)` in front disregards case",
            ),
        );
    }
    Ok(LinesInput {
        file: file.clone(),
        matching: matching.clone(),
        hash: hasher.finalize().to_hex().to_string(),
        count,
    })
}

/// The name in the folder of `path` that is most like its own.
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
