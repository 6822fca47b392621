//! libpq's password file, `~/.pgpass`: lines of `host:port:database:user:password`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{self as env, Environment};

/// The ports' default in a password file is libpq's.
const DEFAULT_PORT: u16 = 5432;

/// Directories that one or another build of libpq takes for its default socket directory; a host that is
/// the default directory is looked up as `localhost`.
const SOCKET_FOLDERS: [&str; 3] = ["/tmp", "/var/run/postgresql", "/run/postgresql"];

/// What reading a password file came to.
#[derive(Clone, PartialEq, Eq)]
pub enum Passfile {
    /// The file's text, for [`password`].
    Contents(String),
    /// There is no such file.
    Absent,
    /// There is one, but it is not used; the text says why, for a warning.
    Refused(String),
}

/// `PGPASSFILE`, else `~/.pgpass`.
pub fn path(env: &Environment) -> Option<PathBuf> {
    env.path(env::PGPASSFILE).or_else(|| env.path(env::HOME).map(|home| home.join(".pgpass")))
}

/// Reads a password file by libpq's rules: only a plain file, and only if nobody but its owner may
/// read it.
pub fn read(path: &Path) -> Passfile {
    let refused =
        |why: &str| Passfile::Refused(format!("password file `{}` is ignored: {why}", path.display()));
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Passfile::Absent;
        }
        Err(e) => return refused(&e.to_string()),
    };
    if !metadata.is_file() {
        return refused("it is not a plain file");
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return refused("others than its owner can read it; `chmod 0600` it");
    }
    match fs::read(path) {
        Ok(bytes) => Passfile::Contents(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) => refused(&e.to_string()),
    }
}

/// The password of the first line that matches, if it is not empty.
///
/// No host means `localhost`, and no port 5432, as for libpq.
pub fn password(
    contents: &str,
    host: Option<&str>,
    port: Option<u16>,
    database: &str,
    user: &str,
) -> Option<String> {
    let host = match host {
        None | Some("") => "localhost",
        Some(folder) if SOCKET_FOLDERS.contains(&folder) => "localhost",
        Some(host) => host,
    };
    let port = port.unwrap_or(DEFAULT_PORT).to_string();
    contents
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            [host, port.as_str(), database, user]
                .iter()
                .try_fold(line, |rest, wanted| match_field(rest, wanted))
        })
        .map(unescape)
        .filter(|password| !password.is_empty())
}

/// What follows the first field and its colon, if the field is `*` or the wanted text.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut escaped = false;
    let end = line.char_indices().find_map(|(i, c)| {
        let colon = c == ':' && !escaped;
        escaped = c == '\\' && !escaped;
        colon.then_some(i)
    })?;
    (unescape(&line[..end]) == wanted).then(|| &line[end + 1..])
}

/// Takes the backslash off every escaped character; a backslash at the end stays.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => chars.next().unwrap_or('\\'),
            c => c,
        });
    }
    text
}

impl std::fmt::Debug for Passfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Passfile::Contents(_) => f.write_str("Contents(***)"),
            Passfile::Absent => f.write_str("Absent"),
            Passfile::Refused(why) => f.debug_tuple("Refused").field(why).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(contents: &str) -> Option<String> {
        password(contents, Some("db"), Some(5433), "shop", "me")
    }

    #[test]
    fn first_matching_line_wins() {
        let file = "# db:5433:shop:me:comment\n\
                    other:5433:shop:me:a\n\
                    db:5433:shop:me:b\n\
                    *:*:*:*:c\n";
        assert_eq!(find(file).as_deref(), Some("b"));
        assert_eq!(find("*:*:*:me:c\r\n").as_deref(), Some("c"));
        assert_eq!(find("*:*:*:you:c"), None);
        assert_eq!(find("db:5433:shop:me"), None);
        assert_eq!(find(""), None);
        // The first match decides, even without a password.
        assert_eq!(find("*:*:*:*:\n*:*:*:*:x"), None);
    }

    #[test]
    fn escapes() {
        let file = r"[\:\:1]:5433:a\\b:m\e:p\:w\\x:y";
        assert_eq!(password(file, Some("[::1]"), Some(5433), r"a\b", "me").as_deref(), Some(r"p:w\x:y"));
        assert_eq!(find(r"*:*:*:*:end\").as_deref(), Some(r"end\"));
        // An escaped star is a star, and a field is matched as a whole.
        assert_eq!(find(r"\*:*:*:*:x"), None);
        assert_eq!(find("d:*:*:*:x"), None);
        assert_eq!(find("db*:*:*:*:x"), None);
    }

    #[test]
    fn defaults_are_localhost_and_5432() {
        let file = "localhost:5432:d:u:pw";
        for host in [None, Some(""), Some("/tmp"), Some("/var/run/postgresql")] {
            assert_eq!(password(file, host, None, "d", "u").as_deref(), Some("pw"));
        }
        assert_eq!(password(file, Some("/srv/pg"), None, "d", "u"), None);
        assert_eq!(password("/srv/pg:*:*:*:pw", Some("/srv/pg"), None, "d", "u").as_deref(), Some("pw"));
    }

    #[test]
    fn reads_only_private_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pgpass");
        assert_eq!(read(&file), Passfile::Absent);
        fs::write(&file, "*:*:*:*:s3cret").unwrap();
        for mode in [0o644, 0o640, 0o606] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let why = format!(
                "password file `{}` is ignored: others than its owner can read it; `chmod 0600` it",
                file.display()
            );
            assert_eq!(read(&file), Passfile::Refused(why));
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let found = read(&file);
        assert_eq!(found, Passfile::Contents("*:*:*:*:s3cret".into()));
        assert!(!format!("{found:?}").contains("s3cret"));
        assert!(matches!(read(dir.path()), Passfile::Refused(_)));
    }

    #[test]
    fn where_it_is() {
        let env = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Environment>();
        let both = [("PGPASSFILE", "/p"), ("HOME", "/h")];
        assert_eq!(path(&env(&both)), Some("/p".into()));
        assert_eq!(path(&env(&both[1..])), Some("/h/.pgpass".into()));
        assert_eq!(path(&env(&[])), None);
    }
}
