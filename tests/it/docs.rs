//! Every config that the repository shows to a reader goes through the real loader.
//!
//! Checked are the `toml` blocks of README.md, `config/**/*.toml` (the presets of `init` have tests of their own) and `examples/**/pgstencil.toml`.
//! A block that is not a whole config is marked `toml,ignore`.

use std::fs;
use std::path::{Path, PathBuf};

use pgstencil::config::Config;

/// Loads a text from an empty project, deep enough for `root = "../.."`.
fn load(shown_in: &str, text: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("repo/part/shop");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("pgstencil.toml");
    fs::write(&file, text).unwrap();
    match Config::load(&file) {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("{shown_in}: {e}\n{:?}", e.hints())),
    }
}

/// The blocks of a Markdown text in exactly this language, each with the line it begins at.
fn blocks(markdown: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, usize, String)> = None;
    for (i, line) in markdown.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(info), None) => open = Some((info.trim() == language, i + 2, String::new())),
            (Some(_), Some((wanted, start, text))) => {
                if wanted {
                    blocks.push((start, text));
                }
            }
            (None, Some((wanted, start, text))) => {
                open = Some((wanted, start, text + line + "\n"));
            }
            (None, None) => {}
        }
    }
    blocks
}

/// All files below a directory for which `wanted` holds, sorted; none if there is no such directory.
fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path(), wanted)),
            false if wanted(&entry.path()) => found.push(entry.path()),
            false => {}
        }
    }
    found.sort();
    found
}

#[test]
fn every_config_of_the_docs_loads() {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    if let Ok(readme) = fs::read_to_string(repo.join("README.md")) {
        for (line, block) in blocks(&readme, "toml") {
            faults.extend(load(&format!("README.md:{line}"), &block).err());
        }
    }
    let toml = |p: &Path| p.extension().is_some_and(|e| e == "toml");
    let config = |p: &Path| p.file_name().is_some_and(|n| n == "pgstencil.toml");
    let mut all = files(&repo.join("config"), &toml);
    assert!(all.contains(&repo.join("config/pgstencil.toml")));
    all.retain(|file| !file.starts_with(repo.join("config/presets")));
    all.extend(files(&repo.join("examples"), &config));
    for file in all {
        let shown = file.strip_prefix(repo).unwrap().display().to_string();
        faults.extend(load(&shown, &fs::read_to_string(&file).unwrap()).err());
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_bad_block_would_be_found() {
    let markdown =
        "# T\n```toml\n[template.app]\nbuld = 'x'\n```\n```toml,ignore\nx\n```\n  ```toml\n  a\n  ```\n";
    let found = blocks(markdown, "toml");
    assert_eq!(found, [(3, "[template.app]\nbuld = 'x'\n".to_owned()), (10, "  a\n".to_owned())]);
    let fault = load("README.md:3", &found[0].1).expect_err("bad");
    assert!(fault.contains("unknown key `template.app.buld`"), "{fault}");
    assert!(fault.contains("did you mean `build`?"), "{fault}");
}
