//! Reasons why a file is not an input: files that a .gitignore hides, and hints for a glob that matches
//! nothing. These are slow paths; a command that finds its inputs never runs them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::gitignore::GitignoreBuilder;
use ignore::{Match, WalkBuilder};

use super::globs::{Globs, KEYS, OneGlob, compile};
use super::recipe::RelPath;
use super::walk::{Gitignore, builder, walk};
use crate::config::Definition;
use crate::config::nearest::nearest;
use crate::error::{Error, Result};
use crate::quantity::count;

/// Lists the files that the globs of `definition` would select if no .gitignore hid them, in text form,
/// sorted. For `explain`; it walks twice, and also into ignored directories.
///
/// # Errors
///
/// As for [`super::Inputs::read`], but a glob without a match is not an error.
pub(crate) fn ignored(root: &Path, definition: &Definition) -> Result<Vec<String>> {
    let globs = Arc::new(Globs::compile(root, definition)?);
    let shown: BTreeSet<RelPath> =
        walk(root, &globs, Gitignore::Honour, false)?.files.into_iter().map(|f| f.path).collect();
    let all = walk(root, &globs, Gitignore::Disregard, false)?.files;
    Ok(all.iter().filter(|f| !shown.contains(&f.path)).map(|f| f.path.to_string()).collect())
}

/// Returns the .gitignore file, and the line in it, that hides `relative`. Applies git's own rules to the
/// files below `root` only.
pub(super) fn hidden_by(root: &Path, relative: &Path, is_dir: bool) -> Option<(PathBuf, String)> {
    let mut steps: Vec<&Path> = relative.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    steps.reverse();
    // Start at the top, since nothing below a hidden directory can be included again.
    for step in &steps {
        let is_dir = is_dir || *step != relative;
        for directory in step.ancestors().skip(1) {
            let directory = root.join(directory);
            let mut lines = GitignoreBuilder::new(&directory);
            lines.add(directory.join(".gitignore"));
            let Ok(lines) = lines.build() else { continue };
            match lines.matched(root.join(step), is_dir) {
                Match::None => {}
                Match::Whitelist(_) => break,
                Match::Ignore(line) => {
                    let file = line.from().map_or_else(|| directory.join(".gitignore"), Path::to_owned);
                    return Some((file, line.original().to_owned()));
                }
            }
        }
    }
    None
}

/// Returns the error for a glob that matches no file, with a hint that a second, wider walk finds.
pub(super) fn no_match(root: &Path, definition: &Definition, glob: &OneGlob) -> Error {
    let pattern = &glob.pattern;
    let input = definition.input(KEYS[glob.kind], glob.index);
    let error = Error::config(format!("{input}: glob `{pattern}` matches no file"))
        .detail(format!("globs are relative to the root, `{}`", root.display()));
    match reason(root, definition, pattern) {
        Some(Reason { fact: Some(fact), hint }) => error.detail(fact).hint(hint),
        Some(Reason { fact: None, hint }) => error.hint(hint),
        None => error,
    }
}

/// Returns the files that the globs would select if no .gitignore hid them, including files behind ignored
/// links (`.venv -> ../venv`).
fn behind_links(root: &Path, definition: &Definition) -> Result<Vec<RelPath>> {
    let globs = Arc::new(Globs::compile(root, definition)?);
    let walked = walk(root, &globs, Gitignore::Disregard, false)?;
    Ok(walked.files.into_iter().map(|file| file.path).collect())
}

/// A reason why a glob matches nothing.
struct Reason {
    fact: Option<String>,
    hint: String,
}

/// Returns the likeliest reason why `pattern` matches nothing.
fn reason(root: &Path, definition: &Definition, pattern: &str) -> Option<Reason> {
    let matcher = |p: &str, any_case| compile(p, any_case).ok().map(|g| g.compile_matcher());
    let exact = matcher(pattern, false)?;
    let any_case = matcher(pattern, true)?;
    let directory = matcher(pattern.trim_end_matches('/'), false)?;
    let deeper = matcher(&format!("**/{pattern}"), false)?;

    let mut hidden = Vec::new();
    let mut all = Vec::new();
    let (mut directories, mut cases, mut deep) = (Vec::new(), Vec::new(), Vec::new());
    let everything: WalkBuilder = {
        let mut walk = builder(root, Gitignore::Disregard);
        // Links are not followed: this walk enters directories that no glob reaches, and must not leave the
        // tree.
        walk.follow_links(false).filter_entry(|entry| entry.file_name() != ".git");
        walk
    };
    for entry in everything.build().flatten() {
        let Ok(path) = entry.path().strip_prefix(root) else {
            continue;
        };
        let is_dir = entry.file_type().is_some_and(|t| t.is_dir());
        if !is_dir {
            all.push(path.to_owned());
        }
        let list = match is_dir {
            true if directory.is_match(path) => &mut directories,
            false if exact.is_match(path) => &mut hidden,
            false if any_case.is_match(path) => &mut cases,
            false if deeper.is_match(path) => &mut deep,
            _ => continue,
        };
        list.push(RelPath::new(path));
    }
    if hidden.is_empty()
        && let Ok(found) = behind_links(root, definition)
    {
        hidden.extend(found.into_iter().filter(|path| exact.is_match(path.to_path())));
    }
    if let Some(first) = hidden.iter().min() {
        let by = match hidden_by(root, &first.to_path(), false) {
            Some((file, line)) => {
                let file = file.strip_prefix(root).unwrap_or(&file);
                format!("line `{line}` of `{}`", file.display())
            }
            None => "a .gitignore file".to_owned(),
        };
        let ignored = match hidden.len() {
            1 => "one matching file is ignored".to_owned(),
            n => format!("{} are ignored", count(n, "matching file")),
        };
        let hint = "add `!` lines to that .gitignore for the files that decide the schema";
        return Some(Reason { fact: Some(format!("{ignored}: `{first}` by {by}")), hint: hint.to_owned() });
    }
    if let Some(first) = directories.iter().min() {
        let hint = format!("write `{first}/**` for the files in it");
        return Some(Reason { fact: Some(format!("`{first}` is a directory")), hint });
    }
    if let Some(first) = cases.iter().min() {
        let hint = "write the glob in the same case: matching is case-sensitive".to_owned();
        return Some(Reason { fact: Some(format!("`{first}` differs only in case")), hint });
    }
    if let Some(first) = deep.iter().min() {
        let hint = format!("write `**/{pattern}`");
        return Some(Reason { fact: Some(format!("`{first}` exists")), hint });
    }
    let meant = similar(pattern, &all)?;
    Some(Reason { fact: None, hint: format!("did you mean `{meant}`?") })
}

/// Returns a pattern that matches some of these files and differs from the given one, which is probably
/// mistyped, in the name of one directory or file only.
fn similar(pattern: &str, files: &[PathBuf]) -> Option<String> {
    let parts: Vec<&str> = pattern.split('/').collect();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for file in files {
        names.extend(file.iter().filter_map(|name| name.to_str()));
    }
    for (i, part) in parts.iter().enumerate() {
        if part.is_empty() || part.contains(['*', '?', '[', '{', '\\']) {
            continue;
        }
        let others = names.iter().copied().filter(|name| name != part);
        // The most similar name may exist elsewhere only.
        let mut fits: Vec<&str> = others
            .filter(|name| nearest(part, [*name]).is_some())
            .filter(|name| {
                let mut changed = parts.clone();
                changed[i] = name;
                compile(&changed.join("/"), false)
                    .is_ok_and(|glob| files.iter().any(|f| glob.compile_matcher().is_match(f)))
            })
            .collect();
        fits.sort_unstable();
        if let Some(name) = nearest(part, fits.iter().copied()) {
            let mut changed = parts.clone();
            changed[i] = name;
            return Some(changed.join("/"));
        }
    }
    None
}
