//! The globs of a definition: checked, compiled, and which folders they can reach.

use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use crate::config::Definition;
use crate::error::{Error, Result};

/// The keys that hold globs; a *kind* of file is an index into this.
pub(super) const KEYS: [&str; 3] = ["migrations", "rerun_inputs", "inputs"];

/// All globs of a definition, of all kinds, in the order of the file.
pub(super) struct Globs {
    set: GlobSet,
    globs: Vec<OneGlob>,
    gates: Vec<Gate>,
}

/// One glob.
pub(super) struct OneGlob {
    pub(super) kind: usize,
    /// As written, without the `!`.
    pub(super) pattern: String,
    pub(super) excludes: bool,
}

/// The folders that one positive glob reaches.
struct Gate {
    /// One matcher for each leading component that is a plain name or wildcard.
    steps: Vec<GlobMatcher>,
    /// Whether anything may follow below (`**`, braces), or nothing.
    open: bool,
}

impl Globs {
    /// Compiles the globs of all three keys.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Config`], naming the glob, for one that does not compile, that is not
    /// relative to the root, or that stands first in its list and excludes.
    pub(super) fn compile(definition: &Definition) -> Result<Self> {
        let lists = [
            &definition.migrations,
            &definition.rerun_inputs,
            &definition.inputs,
        ];
        let mut set = GlobSetBuilder::new();
        let mut globs = Vec::new();
        let mut gates = Vec::new();
        for (kind, list) in lists.into_iter().enumerate() {
            for (place, text) in list.iter().enumerate() {
                let bad = |what: &str| {
                    let (key, name) = (KEYS[kind], &definition.name);
                    Error::config(format!(
                        "`{key}` of template `{name}`: glob `{text}` {what}"
                    ))
                };
                let (excludes, pattern) = match text.strip_prefix('!') {
                    Some(pattern) => (true, pattern),
                    None => (false, text.as_str()),
                };
                if excludes && place == 0 {
                    return Err(bad("excludes from nothing")
                        .hint("globs are taken in order and the last one that matches a file decides, so put it after the ones that it limits"));
                }
                if let Some(what) = not_relative(pattern) {
                    return Err(bad(what)
                        .hint("globs are relative to the root, as in `**/migrations/*.py`"));
                }
                set.add(compile(pattern, false).map_err(|e| bad("is broken").caused_by(e))?);
                if !excludes {
                    gates.push(Gate::new(pattern));
                }
                globs.push(OneGlob {
                    kind,
                    pattern: pattern.to_owned(),
                    excludes,
                });
            }
        }
        let set = set
            .build()
            .map_err(|e| Error::config("the globs are too large together").caused_by(e))?;
        Ok(Globs { set, globs, gates })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &OneGlob)> {
        self.globs.iter().enumerate()
    }

    /// Which globs match the file `path`, into `hits`; returns the kinds that count it: those
    /// whose last matching glob does not exclude.
    pub(super) fn kinds(&self, path: &Path, hits: &mut Vec<usize>) -> [bool; 3] {
        self.set.matches_candidate_into(&Candidate::new(path), hits);
        hits.sort_unstable();
        let mut kinds = [false; 3];
        for &hit in hits.iter() {
            let glob = &self.globs[hit];
            kinds[glob.kind] = !glob.excludes;
        }
        kinds
    }

    /// Whether some file below the folder `dir` can match a positive glob.
    pub(super) fn reach(&self, dir: &Path) -> bool {
        self.gates.iter().any(|gate| gate.lets_in(dir))
    }
}

impl Gate {
    fn new(pattern: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = pattern.split('/').peekable();
        while let Some(component) = rest.next() {
            // Braces and classes may hold a slash, and a backslash may quote one: from there on
            // nothing is ruled out. This only costs a look into more folders.
            let simple = !component.contains("**") && !component.contains(['{', '[', '\\']);
            if !simple {
                return Gate { steps, open: true };
            }
            if rest.peek().is_some() {
                match compile(component, false) {
                    Ok(glob) => steps.push(glob.compile_matcher()),
                    Err(_) => return Gate { steps, open: true },
                }
            }
        }
        Gate { steps, open: false }
    }

    fn lets_in(&self, dir: &Path) -> bool {
        let mut steps = self.steps.iter();
        for component in dir.components() {
            match steps.next() {
                Some(step) if step.is_match(component.as_os_str()) => {}
                Some(_) => return false,
                None => return self.open,
            }
        }
        true
    }
}

/// Compiles one glob, as all of ours are: `*` and `?` stop at a slash, names that start with a dot
/// are like others, `\` quotes, and case counts on every system.
pub(super) fn compile(pattern: &str, any_case: bool) -> Result<globset::Glob, globset::Error> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .case_insensitive(any_case)
        .build()
}

/// Says what is wrong with a path or glob that does not stay below the root.
pub(super) fn not_relative(pattern: &str) -> Option<&'static str> {
    if pattern.is_empty() {
        return Some("is empty");
    }
    if pattern.starts_with('/') {
        return Some("starts with a slash");
    }
    for component in pattern.trim_end_matches('/').split('/') {
        match component {
            "" => return Some("holds two slashes in a row"),
            "." => return Some("holds a `.` component"),
            ".." => return Some("leaves the root with `..`"),
            _ => {}
        }
    }
    None
}
