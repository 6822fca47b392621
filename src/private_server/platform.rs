//! What the data of a cluster depends on outside its files: the system, and the libraries that order text.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use regex::bytes::Regex;

use super::account::{Account, run};
use super::binaries::Binaries;
use crate::cache_file::Platform;

/// How much of a program is read at once.
const PART: u64 = 512 << 10;
/// Upper limit of the length of a library's name.
const NAME: usize = 64;

/// Time for a program that prints a version.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the platform of a Postgres on this machine.
pub(super) async fn platform(binaries: &Binaries, account: &Account) -> Platform {
    let mut libraries = libc(account).await;
    if let Some(version) = icu(&binaries.program("postgres")) {
        libraries += &format!(".icu{version}");
    }
    Platform {
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        major: binaries.major,
        libraries,
    }
}

/// Returns name and version of the C library. Where it has no version, the system's release stands for it.
async fn libc(account: &Account) -> String {
    if let Some(said) = ask(account, "getconf", &["GNU_LIBC_VERSION"]).await {
        return word(&said);
    }
    let is_musl = |directory: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("ld-musl-"))
    };
    // It orders text by bytes in every version.
    if is_musl("/lib") || is_musl("/usr/lib") {
        return "musl".to_owned();
    }
    word(&format!("libc{}", ask(account, "uname", &["-r"]).await.unwrap_or_default()))
}

async fn ask(account: &Account, program: &str, args: &[&str]) -> Option<String> {
    let mut command = account.command(program);
    command.args(args).current_dir("/");
    let output = run(command, None, PATIENCE).await.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|said| !said.is_empty())
}

/// Returns the letters, digits and dots of a text.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect()
}

/// Returns the version of the ICU that a program is linked with. It is in the name of the library.
fn icu(program: &Path) -> Option<String> {
    let library = Regex::new(r"libicui18n\.(?:so\.)?([0-9]{2,3})").ok()?;
    let mut file = File::open(program).ok()?;
    let mut bytes = Vec::new();
    loop {
        // The names of libraries are near the beginning. A name may lie across the end of a part.
        let kept = bytes.len().min(NAME);
        bytes.drain(..bytes.len() - kept);
        if file.by_ref().take(PART).read_to_end(&mut bytes).ok()? == 0 {
            return None;
        }
        let found = library.captures(&bytes).and_then(|found| found.get(1));
        if let Some(version) = found {
            return Some(String::from_utf8_lossy(version.as_bytes()).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_icu_is_in_the_name_of_its_library() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("postgres");
        for (text, version) in [
            ("\0libicui18n.so.72\0", Some("72")),
            ("/opt/lib/libicui18n.74.dylib", Some("74")),
            (&format!("{}libicui18n.so.76\0", " ".repeat((512 << 10) - 15)), Some("76")),
            ("libicuuc.so.72", None),
        ] {
            fs::write(&program, text).unwrap();
            assert_eq!(icu(&program).as_deref(), version, "{text}");
        }
        assert_eq!(icu(&directory.path().join("none")), None);
    }
}
