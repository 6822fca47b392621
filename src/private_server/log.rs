//! The server's log: limits its size, and shows its end in errors.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::account::tail;
use super::cluster::Cluster;
use crate::error::Error;

/// A longer log is cut to its end.
const LOG_LIMIT: u64 = 16 << 20;
const LOG_KEPT: u64 = 256 << 10;

impl Cluster {
    pub(super) fn log_since(&self, begin: u64) -> String {
        read_since(&self.log(), begin)
    }

    pub(super) fn with_log(&self, error: Error, begin: u64) -> Error {
        let lines = tail(self.log_since(begin).as_bytes(), 12);
        let error = error.detail(format!("the end of {}:", self.log().display()));
        explain(error, lines.into_iter().map(|l| format!("  {l}")).collect())
    }
}

/// Returns the lines of a log from `begin` on that report the end of its server, at most three.
pub(crate) fn last_words(log: &Path, begin: u64) -> Vec<String> {
    let text = read_since(log, begin);
    let telling =
        text.lines().filter(|line| line.contains("PANIC:") || line.contains("was terminated by signal"));
    let mut lines: Vec<String> = telling.map(str::to_owned).collect();
    lines.drain(..lines.len().saturating_sub(3));
    lines
}

fn read_since(log: &Path, begin: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let end = file.metadata().map_or(0, |m| m.len());
        // The log was cut since: read it from the start.
        let begin = if begin > end { 0 } else { begin };
        let from = begin.max(end.saturating_sub(LOG_KEPT));
        if file.seek(SeekFrom::Start(from)).is_ok() {
            // An incomplete read is better than nothing.
            let _ = file.read_to_end(&mut text);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Adds lines of output to an error, and a hint if they contain a known cause.
pub(super) fn explain(mut error: Error, lines: Vec<String>) -> Error {
    let hint = hint(&lines);
    for line in lines {
        error = error.detail(line);
    }
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn hint(lines: &[String]) -> Option<String> {
    let has = |what: &str| lines.iter().any(|line| line.contains(what));
    let known = if has("No space left on device") || has("Disk quota exceeded") {
        "free space on that disk"
    } else if has("could not map anonymous shared memory") || has("Cannot allocate memory") {
        "set a smaller `shared_buffers` in custom.conf next to the log: there is too little memory"
    } else if has("could not look up effective user ID") {
        "add the account to /etc/passwd, or run as another account: Postgres needs one with a name"
    } else if has("semaphores") {
        "set a smaller `max_connections` in custom.conf next to the log: the system allows too few semaphores"
    } else if let Some(file) = faulty_settings(lines) {
        return Some(match has("Permission denied") {
            true => format!("let the account that runs Postgres read {file}, or move it away"),
            false => format!("correct {file}, or move it away"),
        });
    } else {
        return None;
    };
    Some(known.to_owned())
}

/// Returns the settings file that Postgres does not accept. For an included file the messages name its line
/// first, and then the including file, which is pgstencil's.
fn faulty_settings(lines: &[String]) -> Option<&str> {
    let quoted = |line: &'_ str, before: &str| -> Option<std::ops::Range<usize>> {
        let start = line.find(before)? + before.len();
        Some(start..start + line[start..].find('"')?)
    };
    ["in file \"", "configuration file \""]
        .iter()
        .find_map(|before| lines.iter().find_map(|line| Some(&line[quoted(line, before)?])))
}

/// Returns whether the log reports damaged data, and not only a wrong setting.
pub(super) fn tells_damage(log: &str) -> bool {
    [
        "PANIC:",
        "could not read file",
        "could not read block",
        "could not open file",
        "could not locate",
        "could not find redo location",
        "invalid page",
        "invalid primary checkpoint",
        "invalid checkpoint",
        "invalid data in file",
        "incorrect checksum in control file",
        "is not a valid data directory",
        "database files are incompatible",
        "contains invalid data",
        "relation mapping file",
    ]
    .iter()
    .any(|words| log.contains(words))
}

/// Limits the size of the log. The server appends, so the log can be cut during writes.
pub(super) fn trim_log(log: &Path) {
    let cut = || -> std::io::Result<()> {
        let mut file = File::options().read(true).append(true).open(log)?;
        let length = file.metadata()?.len();
        if length > LOG_LIMIT {
            let mut end = Vec::new();
            file.seek(SeekFrom::Start(length - LOG_KEPT))?;
            file.read_to_end(&mut end)?;
            file.set_len(0)?;
            file.write_all(&end)?;
        }
        Ok(())
    };
    // A log that cannot be cut does not stop the command.
    let _ = cut();
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_words_of_a_server_are_those_since_the_command_began() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let old = "LOG:  server process (PID 7) was terminated by signal 9: Killed\n";
        let panic = "PANIC:  could not write to file \"pg_wal/xlogtemp.9\": No space left on device";
        fs::write(&log, format!("{old}LOG:  starting\n{panic}\nLOG:  other\n")).unwrap();
        let begin = old.len() as u64;
        assert_eq!(last_words(&log, begin), [panic]);
        assert_eq!(last_words(&log, 0).len(), 2);
        // The log was cut in the meantime.
        assert_eq!(last_words(&log, 10_000).len(), 2);
        assert!(last_words(&directory.path().join("none"), 0).is_empty());
    }

    #[test]
    fn a_long_log_keeps_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut text = vec![b'x'; LOG_LIMIT as usize];
        text.extend(b"\nthe end\n");
        fs::write(&log, text).unwrap();
        trim_log(&log);
        let kept = fs::read_to_string(&log).unwrap();
        assert_eq!(kept.len() as u64, LOG_KEPT);
        assert!(kept.ends_with("\nthe end\n"));
    }

    #[test]
    fn known_causes_get_a_hint() {
        let line = "FATAL:  could not write lock file: No space left on device".to_owned();
        let error = explain(Error::failed("x"), vec![line.clone()]);
        assert_eq!(error.details(), [line]);
        assert_eq!(error.hints(), ["free space on that disk"]);
    }

    #[test]
    fn a_faulty_setting_is_led_back_to_its_file() {
        for log in [
            "LOG:  unrecognized configuration parameter \"x\" in file \"/c/custom.conf\" line 1\n\
             FATAL:  configuration file \"/c/postgresql.conf\" contains errors",
            "LOG:  syntax error in file \"/c/custom.conf\" line 3, near end of line",
            "FATAL:  configuration file \"/c/custom.conf\" contains errors",
        ] {
            let error = explain(Error::failed("x"), log.lines().map(str::to_owned).collect());
            assert_eq!(error.hints(), ["correct /c/custom.conf, or move it away"]);
            assert!(!tells_damage(log), "{log}");
        }
        let line = "LOG:  could not open configuration file \"/c/custom.conf\": Permission denied";
        let error = explain(Error::failed("x"), vec![line.to_owned()]);
        assert!(error.hints()[0].contains("read /c/custom.conf"));
        assert!(tells_damage("PANIC:  could not locate a valid checkpoint record"));
    }
}
