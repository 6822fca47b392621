//! The globs of a definition: validation, compilation, and the directories that they can reach.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use super::recipe::RelPath;
use super::words;
use crate::config::{Definition, Form};
use crate::error::{Error, Result};

/// The keys that hold globs; a *kind* of file is an index into this array.
pub(super) const KEYS: [&str; 4] = ["migrations", "rerun_inputs", "inputs", "companions"];

/// For each of [`KEYS`], whether it selects a file.
pub(super) type Kinds = [bool; KEYS.len()];

/// The kind of `inputs`.
pub(super) const INPUTS: usize = 2;

/// All globs of a definition, of all kinds, in the order of the config; and the files that its build command
/// names.
pub(super) struct Globs {
    set: GlobSet,
    globs: Vec<OneGlob>,
    gates: Vec<Gate>,
    /// Files that the build command names. They count as `inputs` if they are text and no glob selects them.
    named: BTreeSet<RelPath>,
    /// `normalize`, in the order of the config.
    forms: Vec<(GlobMatcher, Form)>,
}

/// One glob.
pub(super) struct OneGlob {
    pub(super) kind: usize,
    /// Its index in the list of its key.
    pub(super) index: usize,
    /// The pattern as written, without the `!`.
    pub(super) pattern: String,
    pub(super) excludes: bool,
    /// The only path that it matches, if it has no wildcard.
    plain: Option<RelPath>,
}

/// The directories that one positive glob can reach.
struct Gate {
    /// One step for each leading component that is a plain name or wildcard.
    steps: Vec<Step>,
    /// Whether more components may follow (`**`, braces).
    open: bool,
    /// The name of the file, if the glob selects only this name in the last directory.
    last: Option<String>,
    /// Index of the glob; `None` for a file that the build command names.
    glob: Option<usize>,
}

struct Step {
    matcher: GlobMatcher,
    /// The component, if it is a plain name.
    name: Option<String>,
}

impl Globs {
    /// Compiles the globs of all keys.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Config`], with the glob, if a glob does not compile, is not relative to the root, or is
    /// first in its list and excludes.
    pub(super) fn compile(root: &Path, definition: &Definition) -> Result<Self> {
        let lists =
            [&definition.migrations, &definition.rerun_inputs, &definition.inputs, &definition.companions];
        let mut set = GlobSetBuilder::new();
        let mut globs = Vec::new();
        let mut gates = Vec::new();
        for (kind, list) in lists.into_iter().enumerate() {
            for (index, text) in list.iter().enumerate() {
                let bad = |what: &str| {
                    let input = definition.input(KEYS[kind], index);
                    Error::config(format!("{input}: glob `{text}` {what}"))
                };
                let (excludes, pattern) = match text.strip_prefix('!') {
                    Some(pattern) => (true, pattern),
                    None => (false, &**text),
                };
                if excludes && index == 0 {
                    return Err(bad("has no earlier glob to exclude from").hint(
                        "put it after the globs that it limits: the last glob that matches a file decides",
                    ));
                }
                if let Some(what) = not_relative(pattern) {
                    return Err(
                        bad(what).hint("write globs relative to the root, as in `**/migrations/*.py`")
                    );
                }
                set.add(compile(pattern, false).map_err(|e| bad("is invalid").caused_by(e))?);
                if !excludes {
                    gates.push(Gate::new(pattern, Some(globs.len())));
                }
                globs.push(OneGlob {
                    kind,
                    index,
                    pattern: pattern.to_owned(),
                    excludes,
                    plain: plain(pattern),
                });
            }
        }
        let set = set.build().map_err(|e| Error::config("the globs are too large together").caused_by(e))?;
        let mut named = match definition.build_inputs {
            true => words::named(root, &definition.build),
            false => BTreeSet::new(),
        };
        let lines = &definition.input_lines;
        let is = |path: &RelPath, file: &str| *path == RelPath::new(Path::new(file));
        named.retain(|path| !lines.iter().any(|wanted| is(path, &wanted.file)));
        gates.extend(named.iter().map(Gate::to));
        let forms = definition.normalize.iter().enumerate().map(|(index, normalize)| {
            let files = &*normalize.files;
            let bad = |what: &str| {
                Error::config(format!("{}: glob `{files}` {what}", definition.input("normalize", index)))
            };
            if let Some(what) = not_relative(files) {
                return Err(bad(what).hint("write globs relative to the root, as in `**/migrations/*.py`"));
            }
            let glob = compile(files, false).map_err(|e| bad("is invalid").caused_by(e))?;
            Ok((glob.compile_matcher(), normalize.form))
        });
        let forms = forms.collect::<Result<_>>()?;
        Ok(Globs { set, globs, gates, named, forms })
    }

    /// Returns the entry of `normalize` that selects the file `path`, and its normal form.
    pub(super) fn form(&self, path: &RelPath) -> Option<(usize, Form)> {
        let path = path.to_path();
        let mut forms = self.forms.iter().enumerate();
        forms.find(|(_, (glob, _))| glob.is_match(&path)).map(|(index, (_, form))| (index, *form))
    }

    /// Returns whether the build command names this file and it counts as one of `inputs` for that reason: no
    /// glob selects it, and no glob of `inputs` excludes it. `hits`: as filled by [`Globs::kinds`].
    pub(super) fn names(&self, path: &Path, hits: &[usize]) -> bool {
        if !self.named.contains(path.as_os_str().as_bytes()) {
            return false;
        }
        let globs = hits.iter().map(|&hit| &self.globs[hit]);
        let mut of_inputs = globs.filter(|glob| glob.kind == INPUTS);
        !of_inputs.next_back().is_some_and(|glob| glob.excludes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &OneGlob)> {
        self.globs.iter().enumerate()
    }

    /// Writes the globs that match the file `path` into `hits`, and returns the kinds that count it: those
    /// whose last matching glob does not exclude it.
    pub(super) fn kinds(&self, path: &Path, hits: &mut Vec<usize>) -> Kinds {
        self.set.matches_candidate_into(&Candidate::new(path), hits);
        hits.sort_unstable();
        let mut kinds = Kinds::default();
        for &hit in hits.iter() {
            let glob = &self.globs[hit];
            kinds[glob.kind] = !glob.excludes;
        }
        kinds
    }

    /// Returns the paths that globs without wildcards name, with the index of the glob.
    pub(super) fn plain(&self) -> impl Iterator<Item = (usize, &RelPath)> {
        let positive = self.iter().filter(|(_, glob)| !glob.excludes);
        positive.filter_map(|(i, glob)| Some((i, glob.plain.as_ref()?)))
    }

    /// Returns the kinds that count a file hidden by a .gitignore: those that name it without wildcards and
    /// exclude it by no later glob. `hits`: as filled by [`Globs::kinds`].
    pub(super) fn kinds_of_hidden(&self, path: &RelPath, hits: &mut Vec<usize>) -> Kinds {
        let mut kinds = self.kinds(&path.to_path(), hits);
        for (kind, chosen) in kinds.iter_mut().enumerate() {
            let names = |glob: &OneGlob| !glob.excludes && glob.plain.as_ref() == Some(path);
            *chosen &= self.globs.iter().any(|glob| glob.kind == kind && names(glob));
        }
        kinds
    }

    /// Returns whether some file below the directory `dir` can be selected.
    pub(super) fn reach(&self, dir: &Path) -> bool {
        self.gates.iter().any(|gate| gate.lets_in(dir))
    }

    /// Returns whether a new entry of the directory `dir` can be selected, or can contain selected files.
    /// `has`: whether an entry of this name exists, so that no other can be created.
    pub(super) fn can_gain(&self, dir: &Path, has: impl Fn(&str) -> bool) -> bool {
        self.gates.iter().any(|gate| gate.can_gain(dir, &has) && !self.excludes_all(gate, dir))
    }

    /// Returns whether a file directly in the directory `dir` can be selected, as opposed to one in a
    /// subdirectory.
    pub(super) fn chooses_in(&self, dir: &Path) -> bool {
        let mut positive = self.globs.iter().filter(|glob| !glob.excludes);
        positive.any(|glob| {
            // Braces and classes may contain a slash, and a backslash may quote one.
            if glob.pattern.contains(['{', '[', '\\']) {
                return true;
            }
            let Some((directory, name)) = glob.pattern.rsplit_once('/') else {
                return dir.as_os_str().is_empty() || glob.pattern.contains("**");
            };
            let is = |pattern: &str| {
                pattern.is_empty()
                    || pattern == "**"
                    || compile(pattern, false).is_ok_and(|g| g.compile_matcher().is_match(dir))
            };
            is(directory)
                || directory.strip_suffix("/**").is_some_and(is)
                || name.contains("**") && is(&format!("{directory}/**"))
        })
    }

    /// Returns whether a later `!` glob excludes all files that a gate's glob can select below a directory.
    fn excludes_all(&self, gate: &Gate, dir: &Path) -> bool {
        let Some(at) = gate.glob else { return false };
        let later = self.globs.iter().skip(at + 1);
        later
            .filter(|glob| glob.excludes && glob.kind == self.globs[at].kind)
            .filter_map(|glob| glob.pattern.strip_suffix("/**"))
            .filter_map(|directory| compile(directory, false).ok())
            .any(|directory| {
                let directory = directory.compile_matcher();
                dir.ancestors().any(|above| directory.is_match(above))
            })
    }
}

impl Gate {
    fn new(pattern: &str, glob: Option<usize>) -> Self {
        let (mut steps, mut last) = (Vec::new(), None);
        let mut rest = pattern.split('/').peekable();
        while let Some(component) = rest.next() {
            // Braces and classes may contain a slash, and a backslash may quote one: nothing after that is
            // ruled out. The only cost is that more directories are listed.
            let simple = !component.contains("**") && !component.contains(['{', '[', '\\']);
            let step = Step::new(component).filter(|_| simple);
            match step {
                None => {
                    return Gate { steps, open: true, last: None, glob };
                }
                Some(step) if rest.peek().is_some() => steps.push(step),
                Some(step) => last = step.name,
            }
        }
        Gate { steps, open: false, last, glob }
    }

    /// Returns the gate of a single file.
    fn to(path: &RelPath) -> Self {
        Gate::new(&globset::escape(&path.to_path().to_string_lossy()), None)
    }

    fn lets_in(&self, dir: &Path) -> bool {
        let mut steps = self.steps.iter();
        for component in dir.components() {
            match steps.next() {
                Some(step) if step.matcher.is_match(component.as_os_str()) => {}
                Some(_) => return false,
                None => return self.open,
            }
        }
        true
    }

    fn can_gain(&self, dir: &Path, has: impl Fn(&str) -> bool) -> bool {
        if !self.lets_in(dir) {
            return false;
        }
        // Only a directory of this name leads on, or only this file counts: does it exist?
        let only = match self.steps.get(dir.components().count()) {
            Some(step) => &step.name,
            None => &self.last,
        };
        !only.as_ref().is_some_and(|name| has(name))
    }
}

impl Step {
    fn new(component: &str) -> Option<Self> {
        let glob = compile(component, false).ok()?;
        Some(Step {
            matcher: glob.compile_matcher(),
            name: (!component.contains(['*', '?'])).then(|| component.to_owned()),
        })
    }
}

/// Compiles one glob by the rules of all globs here: `*` and `?` do not match a slash, names that start with
/// a dot are treated like others, `\` quotes, and matching is case-sensitive on every system.
pub(super) fn compile(pattern: &str, any_case: bool) -> Result<globset::Glob, globset::Error> {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .case_insensitive(any_case)
        .build()
}

/// Returns the only path that a glob without wildcards matches. A backslash makes the next character literal.
fn plain(pattern: &str) -> Option<RelPath> {
    let mut path = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' | '{' => return None,
            '\\' => path.push(chars.next()?),
            c => path.push(c),
        }
    }
    Some(RelPath::new(Path::new(&path)))
}

/// Describes what is wrong with a path or glob that does not stay below the root.
pub(super) fn not_relative(pattern: &str) -> Option<&'static str> {
    if pattern.is_empty() {
        return Some("is empty");
    }
    if pattern.starts_with('/') {
        return Some("starts with a slash");
    }
    for component in pattern.trim_end_matches('/').split('/') {
        match component {
            "" => return Some("contains two slashes in a row"),
            "." => return Some("contains a `.` component"),
            ".." => return Some("leaves the root with `..`"),
            _ => {}
        }
    }
    None
}
