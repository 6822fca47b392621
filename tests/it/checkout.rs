//! The checkout that a clone is made from: its repository, its worktree, its branch.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::git::{git, repository, worktree};
use crate::support::hold::list;
use crate::support::{Pgstencil, Project, server};

/// What the registry notes of the checkout of a clone that is made in a folder.
fn checkout(project: &Project<'_>, folder: &Path, env: &[(&str, &str)]) -> Value {
    let mut clone = Pgstencil::new(project)
        .args(["clone", "--name", "{id}_{branch}", "--json"])
        .current_dir(folder);
    for (name, value) in env {
        clone = clone.env(name, value);
    }
    let id = clone.success().json()["clone"]["id"].clone();
    let clones = list(project)["clones"].clone();
    let mut clones = clones.as_array().unwrap().iter();
    clones.find(|c| c["id"] == id).unwrap()["holder"]["checkout"].clone()
}

/// What `{branch}` stands for in a folder, and where it comes from.
fn branch(project: &Project<'_>, folder: &Path, env: &[(&str, &str)]) -> (String, String) {
    let branch = &checkout(project, folder, env)["branch"];
    let text = |key: &str| branch[key].as_str().unwrap_or_default().to_owned();
    (text("name"), text("from"))
}

fn pair(name: &str, from: &str) -> (String, String) {
    (name.to_owned(), from.to_owned())
}

#[test]
fn a_holder_names_its_checkout() {
    let project = Project::with_migrations(server());
    repository(&project, &[]);
    let other = worktree(&project, "other");
    let common = project.path().join(".git");
    let main = checkout(&project, &project.path(), &[]);
    assert_eq!(main["top"], project.path().to_str().unwrap());
    assert_eq!(main["below"], "");
    assert_eq!(main["worktree"], Value::Null);
    assert_eq!(main["branch"], json!({"name": "main", "from": "local"}));
    assert_eq!(main["repository"]["common_dir"], common.to_str().unwrap());
    let inode = fs::metadata(&common).unwrap().ino();
    assert_eq!(main["repository"]["inode"], inode);
    assert!(main["repository"]["born"].is_i64(), "{main}");
    assert_ne!(main["machine"], "");
    assert_eq!(main["owner"], "");

    // A hook of another worktree runs with `GIT_DIR` set; the folder counts.
    let theirs = checkout(
        &project,
        &other,
        &[
            ("GIT_DIR", common.to_str().unwrap()),
            ("GIT_WORK_TREE", "/"),
        ],
    );
    assert_eq!(theirs["top"], other.to_str().unwrap());
    assert_eq!(theirs["worktree"], "other");
    assert_eq!(theirs["branch"], json!({"name": "other", "from": "local"}));
    assert_eq!(theirs["repository"], main["repository"]);
    assert_eq!(theirs["machine"], main["machine"]);

    let runner = checkout(&project, &other, &[("PGSTENCIL_OWNER", "runner 7")]);
    assert_eq!(runner["owner"], "runner 7");
    assert_eq!(runner["machine"], "");
}

#[test]
fn the_branch_is_found_whatever_git_is_in_the_middle_of() {
    for format in ["files", "reftable"] {
        let project = Project::with_migrations(server());
        repository(&project, &[&format!("--ref-format={format}")]);
        let here = project.path();
        let found = |env: &[(&str, &str)]| branch(&project, &here, env);
        assert_eq!(found(&[]), pair("main", "local"), "{format}");

        git(&here, &["checkout", "-q", "-b", "Feat/a-b"]);
        assert_eq!(found(&[]), pair("Feat/a-b", "local"), "{format}");
        let common = here.join(".git");
        let misled = [("GIT_DIR", "/nowhere"), ("GIT_CEILING_DIRECTORIES", "/")];
        assert_eq!(found(&misled), pair("Feat/a-b", "local"), "{format}");
        assert!(common.is_dir());

        // A rebase that stops half-way, of both kinds.
        for kind in ["--merge", "--apply"] {
            git(&here, &["checkout", "-q", "-B", "theirs", "main"]);
            project.write("note", "theirs");
            git(&here, &["add", "note"]);
            git(&here, &["commit", "-q", "-m", "theirs"]);
            git(&here, &["checkout", "-q", "-B", "ours/1", "main"]);
            project.write("note", "ours");
            git(&here, &["add", "note"]);
            git(&here, &["commit", "-q", "-m", "ours"]);
            let stops = format!("git rebase {kind} theirs || true");
            sh(&here, &stops);
            assert_eq!(found(&[]), pair("ours/1", "local"), "{format} {kind}");
            let ci = [("GITHUB_REF_NAME", "ci")];
            assert_eq!(found(&ci), pair("ours/1", "local"), "{format} {kind}");
            git(&here, &["rebase", "--abort"]);
        }

        git(&here, &["bisect", "start", "HEAD", "main"]);
        git(&here, &["checkout", "-q", "--detach", "main"]);
        assert_eq!(found(&[]), pair("ours/1", "local"), "{format}");
        git(&here, &["bisect", "reset"]);

        git(&here, &["checkout", "-q", "--detach"]);
        let id = git(&here, &["rev-parse", "--short=7", "HEAD"]);
        assert_eq!(found(&[]), pair(&id, "commit"), "{format}");
        // In this order.
        let mut env = vec![("CI", "true"), ("GITHUB_HEAD_REF", "")];
        for name in [
            "BRANCH_NAME",
            "BUILDKITE_BRANCH",
            "CI_COMMIT_REF_NAME",
            "GITHUB_REF_NAME",
            "GITHUB_HEAD_REF",
        ] {
            env.push((name, name));
            assert_eq!(found(&env), pair(name, "ci"), "{format}");
        }
    }
}

fn sh(folder: &Path, script: &str) {
    let done = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_COMMITTER_NAME", "t")
        .env("GIT_COMMITTER_EMAIL", "t@example.org")
        .output()
        .unwrap();
    assert!(done.status.success());
}

#[test]
fn in_a_workspace_of_jj_it_is_the_nearest_bookmark() {
    let project = Project::with_migrations(server());
    repository(&project, &[]);
    let here = project.path();
    git(&here, &["checkout", "-q", "--detach"]);
    let id = git(&here, &["rev-parse", "--short=7", "HEAD"]);
    fs::create_dir_all(here.join(".jj/repo/store")).unwrap();
    let tools = here.parent().unwrap().join("tools");
    fs::create_dir(&tools).unwrap();
    let jj = |script: &str| {
        let file = tools.join("jj");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let path = format!(
        "{}:{}",
        tools.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let found = || branch(&project, &here, &[("PATH", &path)]);
    jj(
        "case \"$*\" in *--ignore-working-copy*'heads(::@ & bookmarks())'*) printf 'push-xyz\\nmain\\n' ;; *) exit 2 ;; esac",
    );
    assert_eq!(found(), pair("push-xyz", "bookmark"));
    for none in ["true", "exit 2", "exit 1"] {
        jj(none);
        assert_eq!(found(), pair(&id, "commit"), "{none}");
    }
    let ci = [("PATH", path.as_str()), ("BRANCH_NAME", "b")];
    jj("echo mine");
    assert_eq!(branch(&project, &here, &ci), pair("b", "ci"));
    // Without a git folder of its own.
    fs::rename(here.join(".git"), here.join("../git")).unwrap();
    assert_eq!(found(), pair("mine", "bookmark"));
}
