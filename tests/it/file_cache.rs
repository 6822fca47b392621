//! The cache of file hashes in the user's cache directory: what commands do with it. That a read with the cache is
//! one without is tested beside the code.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Pgstencil, Project, server};

/// The files of the cache of this project's user.
fn files(project: &Project<'_>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(project.home().join(".cache/pgstencil")) else {
        return Vec::new();
    };
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn fingerprint(project: &Project<'_>) -> String {
    let answer = Pgstencil::new(project).args(["explain", "--json"]).success().json();
    answer["fingerprint"].as_str().unwrap().to_owned()
}

#[test]
fn an_edit_is_seen_and_a_lost_or_strange_cache_costs_nothing() {
    let project = Project::with_migrations(server());
    // Older than what a clock of a file system may miss.
    std::thread::sleep(Duration::from_millis(2100));
    Pgstencil::new(&project).arg("ensure").success();
    let [file] = &files(&project)[..] else { panic!("{:?}", files(&project)) };
    let written = fs::read(file).unwrap();
    let before = fingerprint(&project);
    // Nothing is new, so nothing is written.
    assert_eq!(fs::read(file).unwrap(), written);

    let migration = fs::read_dir(project.path().join("migrations")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&migration).unwrap();
    fs::write(&migration, format!("{text}-- one more line\n")).unwrap();
    let edited = fingerprint(&project);
    assert_ne!(edited, before);
    fs::write(&migration, &text).unwrap();
    assert_eq!(fingerprint(&project), before);
    project.write("migrations/9999_new.sql", "select 1;");
    assert_ne!(fingerprint(&project), before);
    fs::remove_file(project.path().join("migrations/9999_new.sql")).unwrap();
    assert_eq!(fingerprint(&project), before);

    for damaged in [&b""[..], &b"x"[..], &written[..written.len() / 2]] {
        fs::write(file, damaged).unwrap();
        assert_eq!(fingerprint(&project), before);
    }
    fs::remove_dir_all(project.home().join(".cache")).unwrap();
    assert_eq!(fingerprint(&project), before);
    // A directory that cannot be created is no error.
    fs::remove_dir_all(project.home().join(".cache")).unwrap();
    fs::write(project.home().join(".cache"), "").unwrap();
    assert_eq!(fingerprint(&project), before);
}

#[test]
fn file_cache_switches_it_off() {
    let project = Project::with_migrations(server());
    let paths = |project: &Project<'_>| Pgstencil::new(project).args(["paths", "--json"]).success().json();
    assert!(paths(&project)["cache_dir"].as_str().unwrap().ends_with(".cache/pgstencil"));
    let config = fs::read_to_string(project.path().join("pgstencil.toml")).unwrap();
    project.write("pgstencil.toml", &format!("file_cache = false\n{config}"));
    Pgstencil::new(&project).arg("ensure").success();
    assert!(files(&project).is_empty());
    assert!(paths(&project)["cache_dir"].is_null());
}

#[test]
fn many_commands_share_a_cache() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    std::thread::sleep(Duration::from_millis(2100));
    let before = fingerprint(&project);
    let many: Vec<_> = (0..8).map(|_| Pgstencil::new(&project).args(["explain", "--json"]).spawn()).collect();
    for running in many {
        assert_eq!(running.wait().code(0).json()["fingerprint"], before.as_str());
    }
    assert_eq!(files(&project).len(), 1);
}
