//! The log of the background processes: what they did and what failed, since no terminal shows it.
//!
//! A line for each, with time, process id and project. The file lies in the user's cache directory, so it may be
//! lost; a copy of the time before it grew large lies beside it.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::cli::escape;
use crate::env::Environment;
use crate::private_file;

/// Size in bytes from which on a new file is begun.
const LARGE: u64 = 512 * 1024;

/// Returns the file; `None` without a cache directory.
pub(super) fn file(env: &Environment) -> Option<PathBuf> {
    Some(env.cache_dir()?.join("background.log"))
}

/// Appends lines. A log that cannot be written is no reason to fail.
pub(super) fn append(file: &Path, project: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let (now, pid) = (humantime::format_rfc3339_seconds(SystemTime::now()), std::process::id());
    let text: String = lines
        .iter()
        .map(|line| format!("{now} {pid} {}: {}\n", escape::line(project), escape::line(line)))
        .collect();
    let _ = write(file, &text);
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let Some(directory) = file.parent() else {
        return Ok(());
    };
    // This process may outlive a HOME that was temporary, and must not create it again.
    if !directory.ancestors().skip(1).take(2).any(Path::is_dir) {
        return Ok(());
    }
    private_file::create_directories(directory, false).map_err(|(_, error)| error)?;
    // With the environment of another user, as sudo may leave it, the directory is that user's.
    if std::fs::metadata(directory)?.uid() != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    if std::fs::symlink_metadata(file).is_ok_and(|old| old.len() > LARGE) {
        std::fs::rename(file, file.with_extension("log.1"))?;
    }
    // One write, so that lines of other processes do not come in between.
    private_file::open_file(file)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_and_a_large_file_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cache/background.log");
        append(&file, "shop", &[]);
        assert!(!file.exists());
        append(&file, "shop", &["one".into(), "two\nlines".into()]);
        append(&file, "shop", &["three".into()]);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.lines().next().unwrap().ends_with(" shop: one"));
        append(&file, "shop", &["x".repeat(LARGE as usize)]);
        append(&file, "shop", &["last".into()]);
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 1);
        let before = std::fs::read_to_string(file.with_extension("log.1")).unwrap();
        assert!(before.starts_with(&text));
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_home_that_is_gone_is_not_created_again() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        append(&home.join(".cache/pgstencil/background.log"), "shop", &["late".into()]);
        assert!(!home.exists());
        std::fs::create_dir(&home).unwrap();
        append(&home.join(".cache/pgstencil/background.log"), "shop", &["in time".into()]);
        assert!(home.join(".cache/pgstencil/background.log").exists());
    }
}
