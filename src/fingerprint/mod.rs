//! The inputs that decide the result of a build, as a value ([`Recipe`]), and their hash.
//!
//! [`Inputs`] is the part that comes from the tree and the variables; [`Inputs::with_server`] adds the
//! server's part. [`Difference`] lists how two recipes differ, and [`extension()`] decides whether one only
//! appends to the other. `order.rs` orders migrations. `walk.rs` holds the rules of the walk: which ignore
//! files count, how links are treated, and what is an error.
//!
//! How globs select files, for each of `migrations`, `rerun_inputs`, `inputs` and `companions` separately:
//!
//! - The last glob in the list that matches a file decides; a leading `!` excludes, and `\!` matches a file
//!   name that starts with `!`.
//! - Globs match files, relative to the root. `*` and `?` do not match a slash, `**` does; names that start
//!   with a dot are treated like any other; matching is case-sensitive.
//! - A glob without `!` that matches no file is an error, since a typo would silently lose inputs. A glob
//!   whose matches are all excluded by later globs is fine, if its key keeps at least one file. A `!` glob
//!   may match nothing: it often excludes files that do not exist yet.
//!
//! The files that `normalize` names count by a normal form of their content; `normal/` has the forms.
//!
//! Text files that the build command names also count as `inputs`, unless `build_inputs` is off, a .gitignore
//! hides them, or a glob of `inputs` excludes them. `words.rs` decides which words name files.

mod difference;
mod extension;
mod file_cache;
mod globs;
mod ignored;
mod kept;
mod lines;
mod mentions;
mod migrations;
mod normal;
mod order;
mod prefix;
mod recipe;
mod snapshot;
#[cfg(test)]
mod tests;
mod tree_copy;
mod walk;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(crate) use self::difference::{Difference, FileChanges};
pub(crate) use self::extension::{Append, Obstacle, extension};
pub(crate) use self::file_cache::FileCache;
pub(crate) use self::ignored::ignored;
pub(crate) use self::kept::{KeptRecipe, RecipeKey};
pub(crate) use self::mentions::{records, without_dependents};
pub(crate) use self::migrations::{Migration, migrations};
pub(crate) use self::order::{Group, groups, groups_of, new_migrations};
pub(crate) use self::prefix::{Prefix, common, prefix};
pub(crate) use self::recipe::{EnvInput, FileInput, LinesInput, Recipe, RelPath, ServerTraits};
pub(crate) use self::snapshot::{Change, Snapshot};
pub(crate) use self::tree_copy::{TreeCopy, clean_up as clean_up_copies, measure as measure_tree};

use self::globs::{Globs, KEYS};
use self::walk::{Found, Walked};
use crate::config::{Definition, Order};
use crate::error::{Error, Result};

/// The part of a [`Recipe`] that does not depend on a server. The fields are those of the recipe, except for
/// `named`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// Files of `migrations`.
    pub migrations: Vec<FileInput>,
    /// Files of `rerun_inputs`.
    pub rerun_inputs: Vec<FileInput>,
    /// Files of `inputs`, and files that the build command names.
    pub inputs: Vec<FileInput>,
    /// Files of `companions`.
    pub companions: Vec<FileInput>,
    /// `order`
    pub order: Order,
    /// The files of `inputs` that count only because the build command names them.
    pub named: Vec<RelPath>,
    /// `input_lines`
    pub lines: Vec<LinesInput>,
    /// `env_inputs`
    pub env: Vec<EnvInput>,
    /// `[template.X.env]`
    pub mapping: Vec<EnvInput>,
    /// `[template.X.build_env]`
    pub build_env: Vec<EnvInput>,
    /// The build command; empty if there is a `key`.
    pub build: String,
    /// The key under which a program fills the databases, in place of files and build command.
    pub key: Option<String>,
    /// Aliases.
    pub databases: Vec<String>,
    /// The database that a build starts from.
    pub from: String,
}

impl Inputs {
    /// Reads the inputs that `definition` names below `root`, an absolute directory; `variable` looks up the
    /// variables of `env_inputs`.
    ///
    /// Files and directories that have not changed since an earlier read with the same `cache` are not read again.
    /// This blocks on the file system: async callers use `spawn_blocking`. It writes nothing but the cache. A file that
    /// changes during the read may be seen in either state; a caller that builds from the result reads again
    /// afterwards and compares.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Config`] for an invalid glob, path or regex, for one that matches nothing, and for a
    /// definition without any input. [`crate::Kind::Failed`], with the path, for a file that cannot be read.
    pub(crate) fn read(
        cache: &FileCache,
        root: &Path,
        definition: &Definition,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let (globs, file_cache::Read { walked, inputs: files, mut lines }) = cache.read(root, definition)?;
        check_matches(root, definition, &globs, &walked)?;

        let mut lists: [Vec<FileInput>; KEYS.len()] = Default::default();
        for (found, file) in walked.files.iter().zip(files) {
            for (list, _) in lists.iter_mut().zip(found.kinds).filter(|(_, chosen)| *chosen) {
                list.push(file.clone());
            }
        }
        let [migrations, rerun_inputs, inputs, companions] = lists;
        let named = walked.files.iter().filter(|found| found.named);
        let named = named.map(|found| found.path.clone()).collect();

        // Neither the order of the entries in the config nor a repeated entry has a meaning.
        lines.sort_by(|a, b| (&a.file, &a.matching).cmp(&(&b.file, &b.matching)));
        lines.dedup();

        let mut env: Vec<EnvInput> = definition
            .env_inputs
            .iter()
            .map(|name| EnvInput {
                name: name.to_string(),
                hash: variable(name).map(|v| blake3::hash(v.as_bytes()).to_hex().to_string()),
            })
            .collect();
        env.sort_by(|a, b| a.name.cmp(&b.name));
        env.dedup();

        // Sorted already. Hashed, since a literal may be a password. Placeholders count as written: their
        // values differ from clone to clone, and that of `{root}` from machine to machine.
        let hashed = |mapping: &BTreeMap<String, String>| {
            let entry = |(name, text): (&String, &String)| EnvInput {
                name: name.to_string(),
                hash: Some(blake3::hash(text.as_bytes()).to_hex().to_string()),
            };
            mapping.iter().map(entry).collect()
        };

        if globs.iter().next().is_none() && lines.is_empty() && env.is_empty() {
            return Err(Error::config(format!("template `{}` has no inputs", definition.name))
                .hint("set `migrations` to the files that the build command reads, as in `migrations = [\"**/migrations/*.py\"]`"));
        }
        Ok(Inputs {
            migrations,
            rerun_inputs,
            inputs,
            companions,
            order: definition.order,
            named,
            lines,
            env,
            mapping: hashed(&definition.env),
            build_env: hashed(&definition.build_env),
            build: definition.build.clone(),
            key: None,
            databases: definition.databases.iter().map(ToString::to_string).collect(),
            from: definition.from.to_string(),
        })
    }

    /// Returns the inputs of a template that a program fills itself: the key that it passes, and the databases.
    pub(crate) fn by_key(key: &str, definition: &Definition) -> Self {
        Inputs {
            migrations: Vec::new(),
            rerun_inputs: Vec::new(),
            inputs: Vec::new(),
            companions: Vec::new(),
            order: Order::default(),
            named: Vec::new(),
            lines: Vec::new(),
            env: Vec::new(),
            mapping: Vec::new(),
            build_env: Vec::new(),
            build: String::new(),
            key: Some(key.to_owned()),
            databases: definition.databases.iter().map(ToString::to_string).collect(),
            from: definition.from.to_string(),
        }
    }

    /// Returns whether the files, and the lines of files, are those of a recipe.
    fn has_files_of(&self, recipe: &Recipe) -> bool {
        self.migrations == recipe.migrations
            && self.rerun_inputs == recipe.rerun_inputs
            && self.inputs == recipe.inputs
            && self.companions == recipe.companions
            && self.lines == recipe.lines
    }

    /// Adds the server's part.
    pub(crate) fn with_server(self, server: ServerTraits) -> Recipe {
        let Inputs {
            migrations,
            rerun_inputs,
            inputs,
            companions,
            order,
            named: _,
            lines,
            env,
            mapping,
            build_env,
            build,
            key,
            databases,
            from,
        } = self;
        let format = Recipe::FORMAT;
        Recipe {
            format,
            migrations,
            rerun_inputs,
            inputs,
            companions,
            order,
            lines,
            env,
            mapping,
            build_env,
            build,
            key,
            databases,
            from,
            server,
        }
    }
}

/// Refuses globs that match nothing.
fn check_matches(root: &Path, definition: &Definition, globs: &Globs, walked: &Walked) -> Result<()> {
    if let Some((_, glob)) = globs.iter().find(|(i, glob)| !glob.excludes && !walked.seen[*i]) {
        return Err(ignored::no_match(root, definition, glob));
    }
    for (kind, key) in KEYS.into_iter().enumerate() {
        let used = globs.iter().any(|(_, glob)| glob.kind == kind);
        let kept = |found: &Found| found.kinds[kind] && !found.named;
        if used && !walked.files.iter().any(kept) {
            return Err(Error::config(format!(
                "{}: the `!` globs exclude every file that the others match",
                definition.input(key, 0)
            ))
            .hint("put narrow globs last: the last glob that matches a file decides"));
        }
    }
    let forms: BTreeSet<usize> =
        walked.files.iter().filter_map(|found| globs.form(&found.path)).map(|(index, _)| index).collect();
    let mut unused = definition.normalize.iter().enumerate().filter(|(index, _)| !forms.contains(index));
    if let Some((index, unused)) = unused.next() {
        let input = definition.input("normalize", index);
        return Err(Error::config(format!("{input}: glob `{}` matches no input file", unused.files))
            .detail("`normalize` chooses among the files of the other keys")
            .hint("remove the entry, or name files that `migrations` or another key selects"));
    }
    Ok(())
}

/// Number of walks before a missing file is an error. A file can disappear between walk and read because it
/// was deleted, or because it is being replaced, as by `git checkout`.
const WALKS: usize = 5;
/// Pause between two of these walks.
const PAUSE: Duration = Duration::from_millis(20);

fn cannot_read(path: &Path, cause: io::Error) -> Error {
    Error::failed(format!("cannot read `{}`", path.display())).caused_by(cause)
}

/// Number of files that are hashed in less time than a thread needs to start.
const FILES_PER_THREAD: usize = 64;

/// A value for each file, in their order; or the first file that cannot be read, with the reason.
type Hashed<T> = std::result::Result<Vec<T>, (usize, io::Error)>;

/// The result of `hash` for each of `count` files, in their order; or the first file that cannot be read, and why.
fn hash_all<T: Send>(count: usize, hash: impl Fn(usize) -> io::Result<T> + Sync) -> Result<Hashed<T>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(count.div_ceil(FILES_PER_THREAD)).max(1);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return done;
            }
            done.push((at, hash(at)));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for other in others {
            all.extend(other.join().map_err(|_| Error::internal("a hashing thread panicked"))?);
        }
        Ok::<_, Error>(all)
    })?;
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(at, result)| result.map_err(|e| (at, e))).collect())
}

fn hash_file(path: &Path) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok((hasher.finalize(), hasher.count()))
}
