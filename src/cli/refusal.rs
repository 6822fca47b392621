//! Commands that stop because a database already exists: after their own message, one line with the reason.
//! Known are commands that ask a question, which gets no answer without a terminal, and those that create a
//! database. Their output is not read, so this uses their command lines.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// A command that stops.
struct Tool {
    /// Words that follow each other in its command line, other words between them; each the last part of a
    /// path.
    words: &'static [&'static str],
    /// With one of these it does not stop.
    unless: &'static [&'static str],
    /// Whether it stops since it asks.
    asks: bool,
    /// What it does, and the fix.
    reason: &'static str,
}

const TOOLS: [Tool; 12] = [
    Tool {
        words: &["manage.py", "test"],
        unless: &["--keepdb", "--noinput", "--no-input"],
        asks: true,
        reason: "`manage.py test` asks before it replaces an existing test database: add `--keepdb`, so that it uses the clone",
    },
    Tool {
        words: &["django-admin", "test"],
        unless: &["--keepdb", "--noinput", "--no-input"],
        asks: true,
        reason: "`django-admin test` asks before it replaces an existing test database: add `--keepdb`, so that it uses the clone",
    },
    Tool {
        words: &["prisma", "migrate", "dev"],
        unless: &[],
        asks: true,
        reason: "`prisma migrate dev` needs a terminal: use `prisma migrate deploy`, since the clone is already migrated",
    },
    Tool {
        words: &["prisma", "migrate", "reset"],
        unless: &["--force", "-f"],
        asks: true,
        reason: "`prisma migrate reset` asks before it empties a database: omit the reset, since the clone is new",
    },
    Tool {
        words: &["sqlx", "database", "reset"],
        unless: &["-y", "--force", "-f"],
        asks: true,
        reason: "`sqlx database reset` asks before it drops a database: omit the reset, since the clone is new",
    },
    Tool {
        words: &["sqlx", "database", "drop"],
        unless: &["-y", "--force", "-f"],
        asks: true,
        reason: "`sqlx database drop` asks before it drops a database: omit the drop, since the clone is new",
    },
    Tool {
        words: &["drizzle-kit", "push"],
        unless: &["--force"],
        asks: true,
        reason: "`drizzle-kit push` asks before it changes tables: use `drizzle-kit migrate`, since the clone is already migrated",
    },
    Tool {
        words: &["sequelize", "db:create"],
        unless: &[],
        asks: false,
        reason: "`sequelize db:create` fails if the database exists: omit this step, since the clone exists",
    },
    Tool {
        words: &["sequelize-cli", "db:create"],
        unless: &[],
        asks: false,
        reason: "`sequelize-cli db:create` fails if the database exists: omit this step, since the clone exists",
    },
    Tool {
        words: &["db-migrate", "db:create"],
        unless: &[],
        asks: false,
        reason: "`db-migrate db:create` fails if the database exists: omit this step, since the clone exists",
    },
    Tool {
        words: &["doctrine:database:create"],
        unless: &["--if-not-exists"],
        asks: false,
        reason: "`doctrine:database:create` fails if the database exists: add `--if-not-exists`",
    },
    Tool {
        words: &["createdb"],
        unless: &[],
        asks: false,
        reason: "`createdb` fails if the database exists: omit this step, since the clone exists",
    },
];

/// More than this is no script of a person.
const SCRIPT: u64 = 64 << 10;

/// The reason why a command has probably failed, if it is one of those that stop at a database which is there.
/// `terminal`: whether somebody could answer its questions.
pub(super) fn of(command: &[OsString], here: &Path, terminal: bool) -> Option<&'static str> {
    let line = command.join(" ".as_ref()).to_string_lossy().into_owned();
    let script = command.first().and_then(|program| script(program, here));
    let texts = std::iter::once(line.as_str()).chain(script.iter().flat_map(|text| text.lines()));
    let lines: Vec<Vec<&str>> = texts.map(words).collect();
    TOOLS
        .iter()
        .filter(|tool| !(tool.asks && terminal))
        .find(|tool| lines.iter().any(|line| tool.is_in(line)))
        .map(|tool| tool.reason)
}

impl Tool {
    fn is_in(&self, line: &[&str]) -> bool {
        let mut rest = line.iter();
        let named = |word: &&str| rest.any(|w| w.rsplit('/').next().is_some_and(|last| last == *word));
        self.words.iter().all(named) && !line.iter().any(|word| self.unless.contains(word))
    }
}

/// The words of a line of a shell, without its comment.
fn words(line: &str) -> Vec<&str> {
    line.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ';' | '(' | ')' | '&' | '|'))
        .filter(|word| !word.is_empty())
        .take_while(|word| !word.starts_with('#'))
        .collect()
}

/// The text of a program that is a script in the caller's own directories.
fn script(program: &OsString, here: &Path) -> Option<String> {
    let path = Path::new(program);
    // A program of the PATH is not the project's.
    path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let mut text = Vec::new();
    let file = File::open(here.join(path)).ok()?;
    file.take(SCRIPT).read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).ok()?;
    text.starts_with("#!").then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(command: &[&str], terminal: bool) -> Option<&'static str> {
        let command: Vec<OsString> = command.iter().map(OsString::from).collect();
        of(&command, Path::new("/no/such"), terminal)
    }

    #[test]
    fn django_without_keepdb_stops_where_nobody_can_answer() {
        let plain = ["python", "manage.py", "test", "shop"];
        assert!(reason(&plain, false).is_some_and(|r| r.contains("--keepdb")));
        assert_eq!(reason(&plain, true), None);
        assert_eq!(reason(&["./manage.py", "test", "--keepdb"], false), None);
        assert_eq!(reason(&["./manage.py", "test", "--noinput"], false), None);
        assert!(reason(&["sh", "-c", "cd app && ./manage.py test; true"], false).is_some());
        assert_eq!(reason(&["python", "manage.py", "migrate"], false), None);
        assert_eq!(reason(&["pytest", "test"], false), None);
    }

    #[test]
    fn those_that_create_a_database_stop_anywhere() {
        assert!(reason(&["npx", "sequelize", "db:create"], true).is_some());
        assert!(reason(&["/usr/bin/createdb", "x"], true).is_some());
        assert_eq!(reason(&["sh", "-c", "true # createdb"], true), None);
    }
}
