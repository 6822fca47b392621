//! The process environment: the one place that reads it.
//!
//! An [`Environment`] is a snapshot, taken once and handed on; tests make their own. What pgstencil
//! reads is listed in [`VARIABLES`].

pub mod passfile;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};

macro_rules! variables {
    ($($(#[doc = $about:literal])+ $id:ident = $name:literal;)+) => {
        $($(#[doc = $about])+ pub const $id: &str = $name;)+

        /// Every variable that pgstencil reads, with a line about each.
        pub const VARIABLES: &[(&str, &str)] = &[$(($name, concat!($($about),+).trim_ascii())),+];
    };
}

variables! {
    /// Where the server is; same as `--server-url`.
    SERVER_URL = "PGSTENCIL_SERVER_URL";
    /// Host that hooks, the command of `run` and printed URLs get; same as `--client-host`.
    CLIENT_HOST = "PGSTENCIL_CLIENT_HOST";
    /// Port that they get; same as `--client-port`.
    CLIENT_PORT = "PGSTENCIL_CLIENT_PORT";
    /// Set for build commands: a line with project and definition for each build that this process is a part of.
    BUILDING = "PGSTENCIL_BUILDING";
    /// The config file; same as `--config`.
    CONFIG = "PGSTENCIL_CONFIG";
    /// Absolute directory for the private server, in place of the usual state directory.
    STATE_DIR = "PGSTENCIL_STATE_DIR";
    /// Where `server fetch` gets Postgres from; same as `--from`.
    FETCH_URL = "PGSTENCIL_FETCH_URL";
    /// Whether work goes on in the background after a command: `auto` or `off`, in place of `[clone] background`.
    BACKGROUND = "PGSTENCIL_BACKGROUND";
    /// Set by cargo for test programs: the directory of the crate, where `pgstencil::test` looks for the config.
    CARGO_MANIFEST_DIR = "CARGO_MANIFEST_DIR";
    /// Set by nextest: the program runs one test only.
    NEXTEST = "NEXTEST";
    /// Not empty: no colour.
    NO_COLOR = "NO_COLOR";
    /// Not empty and not `0`: colour even if the output is no terminal.
    CLICOLOR_FORCE = "CLICOLOR_FORCE";
    /// Like `CLICOLOR_FORCE`.
    FORCE_COLOR = "FORCE_COLOR";
    /// `dumb` means a terminal without colour and cursor movement.
    TERM = "TERM";
    /// Set by CI systems: no progress lines, no questions.
    CI = "CI";
    /// File for the outputs of a GitHub Actions step.
    GITHUB_OUTPUT = "GITHUB_OUTPUT";
    /// File for the summary of a GitHub Actions step.
    GITHUB_STEP_SUMMARY = "GITHUB_STEP_SUMMARY";
    /// GitHub Actions: whether the runner is `github-hosted` or `self-hosted`.
    RUNNER_ENVIRONMENT = "RUNNER_ENVIRONMENT";
    /// Pushes templates to the remote store from outside CI, if `[remote] push` is "trusted" or "always".
    PUSH = "PGSTENCIL_PUSH";
    /// Set in jobs of forks on a server that others share: what they build serves no other command.
    UNTRUSTED = "PGSTENCIL_UNTRUSTED";
    /// For a remote store at an `https://` URL: a bearer token, or `USER:PASSWORD`.
    REMOTE_TOKEN = "PGSTENCIL_REMOTE_TOKEN";
    /// Who owns named clones, in place of this machine and this checkout.
    OWNER = "PGSTENCIL_OWNER";
    /// GitHub Actions, on a pull request: its branch. The first of these that is set is the branch where
    /// none is checked out.
    GITHUB_HEAD_REF = "GITHUB_HEAD_REF";
    /// GitHub Actions: the branch or tag.
    GITHUB_REF_NAME = "GITHUB_REF_NAME";
    /// GitLab: the branch or tag.
    CI_COMMIT_REF_NAME = "CI_COMMIT_REF_NAME";
    /// Buildkite: the branch.
    BUILDKITE_BRANCH = "BUILDKITE_BRANCH";
    /// Jenkins and others: the branch.
    BRANCH_NAME = "BRANCH_NAME";
    /// Set in containers of Podman, LXC and systemd: there the machine is the host name.
    CONTAINER = "container";
    /// Set in containers of Kubernetes.
    KUBERNETES = "KUBERNETES_SERVICE_HOST";
    /// Where programs keep files that may be lost, by the XDG standard.
    XDG_CACHE_HOME = "XDG_CACHE_HOME";
    /// Where programs keep state, by the XDG standard.
    XDG_STATE_HOME = "XDG_STATE_HOME";
    /// The user's home directory.
    HOME = "HOME";
    /// Where the Postgres binaries of the private server are looked for.
    PATH = "PATH";
    /// libpq: host or socket directory, where the server URL names none.
    PGHOST = "PGHOST";
    /// libpq: numeric address of the host.
    PGHOSTADDR = "PGHOSTADDR";
    /// libpq: port, where the server URL names none.
    PGPORT = "PGPORT";
    /// libpq: user, where the server URL names none.
    PGUSER = "PGUSER";
    /// libpq: password, where the server URL has none.
    PGPASSWORD = "PGPASSWORD";
    /// libpq: database to connect to first.
    PGDATABASE = "PGDATABASE";
    /// libpq: the password file, in place of `~/.pgpass`.
    PGPASSFILE = "PGPASSFILE";
    /// libpq: whether to use TLS.
    PGSSLMODE = "PGSSLMODE";
    /// libpq: certificates to trust.
    PGSSLROOTCERT = "PGSSLROOTCERT";
    /// libpq: the client's certificate.
    PGSSLCERT = "PGSSLCERT";
    /// libpq: the key of the client's certificate.
    PGSSLKEY = "PGSSLKEY";
    /// libpq: settings for the session.
    PGOPTIONS = "PGOPTIONS";
    /// libpq: a named service, which pgstencil does not resolve.
    PGSERVICE = "PGSERVICE";
    /// libpq: name of the application, which pgstencil sets itself.
    PGAPPNAME = "PGAPPNAME";
}

/// A snapshot of environment variables. `Debug` hides values that look secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables of this process, as they are now.
    pub fn from_process() -> Self {
        Environment(std::env::vars_os().collect())
    }

    /// The value, if it is set and UTF-8; an empty one counts as set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_os(name).and_then(OsStr::to_str)
    }

    /// The value as it is, UTF-8 or not.
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// The value, if it is set, UTF-8 and not empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The value as a path, if it is set and not empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// All variables, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(k, v)| (k.as_os_str(), v.as_os_str()))
    }

    /// The directory for files that may be lost at any time: `$XDG_CACHE_HOME/pgstencil`, else
    /// `~/.cache/pgstencil`, on macOS `~/Library/Caches/pgstencil`. `None` without a home directory. A relative
    /// `XDG_CACHE_HOME` is ignored, as its standard asks
    /// (<https://specifications.freedesktop.org/basedir-spec/latest/>).
    pub fn cache_dir(&self) -> Option<PathBuf> {
        let named = self.path(XDG_CACHE_HOME).filter(|d| d.is_absolute());
        named.map(|dir| dir.join("pgstencil")).or_else(|| {
            let under_home = match cfg!(target_os = "macos") {
                true => "Library/Caches/pgstencil",
                false => ".cache/pgstencil",
            };
            Some(self.path(HOME).filter(|d| d.is_absolute())?.join(under_home))
        })
    }

    /// The directory for what outlives a command on this machine: the private server and its data.
    ///
    /// `PGSTENCIL_STATE_DIR`, else `$XDG_STATE_HOME/pgstencil`, else `~/.local/state/pgstencil`, on
    /// macOS `~/Library/Application Support/pgstencil`. It need not exist yet.
    ///
    /// # Errors
    /// A relative `PGSTENCIL_STATE_DIR` (a server must not depend on where a command was typed), and
    /// no home directory. A relative `XDG_STATE_HOME` is ignored, as its standard asks.
    pub fn state_dir(&self) -> Result<PathBuf> {
        if let Some(dir) = self.path(STATE_DIR) {
            return match dir.is_absolute() {
                true => Ok(dir),
                false => {
                    Err(Error::config(format!("`{STATE_DIR}` is the relative path `{}`", dir.display()))
                        .hint("set it to an absolute path"))
                }
            };
        }
        if let Some(dir) = self.path(XDG_STATE_HOME).filter(|d| d.is_absolute()) {
            return Ok(dir.join("pgstencil"));
        }
        let under_home = match cfg!(target_os = "macos") {
            true => "Library/Application Support/pgstencil",
            false => ".local/state/pgstencil",
        };
        match self.path(HOME).filter(|d| d.is_absolute()) {
            Some(home) => Ok(home.join(under_home)),
            None => Err(Error::config("no directory for pgstencil's state: `HOME` is not set")
                .hint(format!("set `{STATE_DIR}` to an absolute path"))),
        }
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Environment(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| match looks_secret(&name.to_string_lossy()) {
                true => (name, OsStr::new("***")),
                false => (name, value.as_os_str()),
            }))
            .finish()
    }
}

/// Whether a variable of this name probably holds a secret, so that its value is not shown.
pub fn looks_secret(name: &str) -> bool {
    let name = name.to_uppercase();
    ["PASSWORD", "PASSWD", "TOKEN", "SECRET", "URL", "DSN", "KEY", "CREDENTIAL"]
        .iter()
        .any(|word| name.contains(word))
}

/// The variables of libpq; empty ones count as not set, as they do for libpq.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PgVariables {
    /// `PGHOST`
    pub host: Option<String>,
    /// `PGHOSTADDR`
    pub hostaddr: Option<String>,
    /// `PGPORT`
    pub port: Option<u16>,
    /// `PGUSER`
    pub user: Option<String>,
    /// `PGPASSWORD`
    pub password: Option<String>,
    /// `PGDATABASE`
    pub database: Option<String>,
    /// `PGPASSFILE`
    pub passfile: Option<PathBuf>,
    /// `PGSSLMODE`
    pub sslmode: Option<String>,
    /// `PGSSLROOTCERT`
    pub sslrootcert: Option<PathBuf>,
    /// `PGSSLCERT`
    pub sslcert: Option<PathBuf>,
    /// `PGSSLKEY`
    pub sslkey: Option<PathBuf>,
    /// `PGOPTIONS`
    pub options: Option<String>,
    /// `PGSERVICE`
    pub service: Option<String>,
    /// `PGAPPNAME`
    pub application_name: Option<String>,
}

impl PgVariables {
    /// Picks libpq's variables out of the environment.
    ///
    /// # Errors
    /// A `PGPORT` that is no port, and values that are not UTF-8 where only text makes sense. No
    /// message repeats a password.
    pub fn read(env: &Environment) -> Result<Self> {
        let text = |name: &str| match env.get_os(name).filter(|v| !v.is_empty()) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(Error::config(format!("`{name}` is not UTF-8"))),
            },
        };
        let port = match text(PGPORT)? {
            None => None,
            Some(port) => match port.trim().parse::<u16>() {
                Ok(number) if number > 0 => Some(number),
                _ => {
                    return Err(Error::config(format!(
                        "`{PGPORT}` is `{port}`, not a number from 1 to 65535"
                    ))
                    .hint("lists of ports are not taken: templates live on one server"));
                }
            },
        };
        Ok(PgVariables {
            host: text(PGHOST)?,
            hostaddr: text(PGHOSTADDR)?,
            port,
            user: text(PGUSER)?,
            password: text(PGPASSWORD)?,
            database: text(PGDATABASE)?,
            passfile: env.path(PGPASSFILE),
            sslmode: text(PGSSLMODE)?,
            sslrootcert: env.path(PGSSLROOTCERT),
            sslcert: env.path(PGSSLCERT),
            sslkey: env.path(PGSSLKEY),
            options: text(PGOPTIONS)?,
            service: text(PGSERVICE)?,
            application_name: text(PGAPPNAME)?,
        })
    }
}

impl fmt::Debug for PgVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgVariables")
            .field("host", &self.host)
            .field("hostaddr", &self.hostaddr)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("passfile", &self.passfile)
            .field("sslmode", &self.sslmode)
            .field("sslrootcert", &self.sslrootcert)
            .field("sslcert", &self.sslcert)
            .field("sslkey", &self.sslkey)
            .field("options", &self.options)
            .field("service", &self.service)
            .field("application_name", &self.application_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().copied().collect()
    }

    #[test]
    fn debug_hides_what_looks_secret() {
        let e = env(&[
            ("PGPASSWORD", "hidden1"),
            ("GH_TOKEN", "hidden2"),
            ("DATABASE_URL", "hidden3"),
            ("my_secret", "hidden4"),
            ("PGHOST", "shown"),
        ]);
        let text = format!("{e:?}");
        assert!(!text.contains("hidden"), "{text}");
        assert!(text.contains("shown") && text.contains("GH_TOKEN"), "{text}");
        let pg = PgVariables::read(&e).unwrap();
        assert_eq!(pg.password.as_deref(), Some("hidden1"));
        assert!(!format!("{pg:?}").contains("hidden"));
    }

    #[test]
    fn empty_and_odd_values() {
        let e: Environment = [
            (OsString::from("EMPTY"), OsString::new()),
            (OsString::from("ODD"), OsString::from_vec(vec![0xff])),
        ]
        .into_iter()
        .collect();
        assert_eq!(e.get("EMPTY"), Some(""));
        assert_eq!(e.non_empty("EMPTY"), None);
        assert_eq!(e.path("EMPTY"), None);
        assert_eq!(e.get("ODD"), None);
        assert!(e.get_os("ODD").is_some());
        assert_eq!(e.get("NONE"), None);
        assert_eq!(e.iter().count(), 2);
    }

    #[test]
    fn cache_directory() {
        let dir = |pairs: &[(&str, &str)]| env(pairs).cache_dir();
        let under_home = match cfg!(target_os = "macos") {
            true => "/home/u/Library/Caches/pgstencil",
            false => "/home/u/.cache/pgstencil",
        };
        let home = [("XDG_CACHE_HOME", "relative"), ("HOME", "/home/u")];
        assert_eq!(dir(&home), Some(PathBuf::from(under_home)));
        assert_eq!(dir(&[("XDG_CACHE_HOME", "/xdg"), home[1]]), Some(PathBuf::from("/xdg/pgstencil")));
        assert_eq!(dir(&[]), None);
    }

    #[test]
    fn state_folder() {
        let dir = |pairs: &[(&str, &str)]| env(pairs).state_dir();
        let all = [("PGSTENCIL_STATE_DIR", "/own"), ("XDG_STATE_HOME", "/xdg"), ("HOME", "/home/u")];
        let under_home = match cfg!(target_os = "macos") {
            true => "/home/u/Library/Application Support/pgstencil",
            false => "/home/u/.local/state/pgstencil",
        };
        assert_eq!(dir(&all).unwrap(), PathBuf::from("/own"));
        assert_eq!(dir(&all[1..]).unwrap(), PathBuf::from("/xdg/pgstencil"));
        assert_eq!(dir(&all[2..]).unwrap(), PathBuf::from(under_home));
        let relative_xdg = [("XDG_STATE_HOME", "xdg"), ("HOME", "/home/u")];
        assert_eq!(dir(&relative_xdg).unwrap(), PathBuf::from(under_home));

        let e = dir(&[("PGSTENCIL_STATE_DIR", "own")]).expect_err("relative");
        assert_eq!(e.message(), "`PGSTENCIL_STATE_DIR` is the relative path `own`");
        let e = dir(&[("HOME", "")]).expect_err("no home");
        assert_eq!(e.message(), "no directory for pgstencil's state: `HOME` is not set");
        assert_eq!(e.hints(), ["set `PGSTENCIL_STATE_DIR` to an absolute path"]);
    }

    #[test]
    fn libpq_variables() {
        let pg = PgVariables::read(&env(&[
            ("PGHOST", "/run/pg"),
            ("PGPORT", "5433"),
            ("PGUSER", ""),
            ("PGPASSFILE", "/p"),
        ]))
        .unwrap();
        assert_eq!(
            pg,
            PgVariables {
                host: Some("/run/pg".into()),
                port: Some(5433),
                passfile: Some("/p".into()),
                ..PgVariables::default()
            }
        );
        for port in ["0", "x", "5432,5433"] {
            let e = PgVariables::read(&env(&[("PGPORT", port)])).expect_err(port);
            assert_eq!(e.message(), format!("`PGPORT` is `{port}`, not a number from 1 to 65535"));
        }
        let odd: Environment = [("PGPASSWORD", OsString::from_vec(vec![0xff]))].into_iter().collect();
        let e = PgVariables::read(&odd).expect_err("not UTF-8");
        assert_eq!(e.message(), "`PGPASSWORD` is not UTF-8");
    }

    #[test]
    fn every_variable_is_listed_once_with_words() {
        let names: std::collections::BTreeSet<_> = VARIABLES.iter().map(|(n, _)| n).collect();
        assert_eq!(names.len(), VARIABLES.len());
        assert!(names.contains(&SERVER_URL) && names.contains(&PGAPPNAME));
        assert!(VARIABLES.iter().all(|(_, about)| about.ends_with('.')));
    }
}
