//! Cargo's build script: finds the commit that is built, for `--version`. Without git, or from an archive,
//! `--version` prints only the version.

#![allow(clippy::print_stdout, reason = "it is how a build script talks to cargo")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/build.rs");
    println!("cargo:rerun-if-env-changed=PGSTENCIL_COMMIT");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = match commit(&root) {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    };
    println!("cargo:rustc-env=PGSTENCIL_VERSION={version}");
    list_presets(&root);
}

/// Writes `presets.rs`: a list of the files in `config/presets`, each with its text.
fn list_presets(root: &Path) {
    let directory = root.join("config/presets");
    println!("cargo:rerun-if-changed={}", directory.display());
    let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    let mut list = String::from("pub(super) const FILES: &[(&str, &str)] = &[\n");
    for file in files {
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        // `_shared.toml` is no preset.
        if file.extension().is_some_and(|ext| ext == "toml") && !name.starts_with('_') {
            list += &format!("    ({name:?}, include_str!({file:?})),\n");
        }
    }
    list += "];\n";
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(error) = std::fs::write(out.join("presets.rs"), list) {
        println!("cargo:warning=cannot list the presets: {error}");
    }
}

/// Returns short id and date of the commit: `4d753e8a1b2c 2026-11-26`. Packagers, who build from an archive,
/// can set it with `PGSTENCIL_COMMIT`.
fn commit(root: &Path) -> Option<String> {
    if let Ok(commit) = std::env::var("PGSTENCIL_COMMIT") {
        return Some(commit).filter(|commit| !commit.is_empty());
    }
    // If an unpacked archive is inside a checkout, that checkout is another project's.
    let top = PathBuf::from(git(root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let branch = git(root, &["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let file = git(root, &["rev-parse", "--git-path", name]).map(|path| root.join(path));
        // Cargo would treat a missing file as changed each time.
        if let Some(file) = file.filter(|file| file.exists()) {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    git(root, &["log", "-1", "--no-show-signature", "--abbrev=12", "--date=short", "--format=%h %cd"])
}

fn git(root: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    let output = command.arg("-C").arg(root).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.trim_end().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
