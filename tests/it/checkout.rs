//! The checkout that a clone is made from: its repository, its worktree, its branch.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::git::{git, repository, worktree};
use crate::support::hold::list;
use crate::support::{Pgstencil, Project, server};

/// What the registry notes of the checkout of a clone that is made in a directory.
fn checkout(project: &Project<'_>, folder: &Path, env: &[(&str, &str)]) -> Value {
    checkout_of(project, folder, env, "{id}_{branch}")
}

fn checkout_of(project: &Project<'_>, folder: &Path, env: &[(&str, &str)], name: &str) -> Value {
    let mut clone = Pgstencil::new(project).args(["clone", "--name", name, "--json"]).current_dir(folder);
    for (name, value) in env {
        clone = clone.env(name, value);
    }
    let id = clone.success().json()["clone"]["id"].clone();
    let clones = list(project)["clones"].clone();
    let mut clones = clones.as_array().unwrap().iter();
    clones.find(|c| c["id"] == id).unwrap()["holder"]["checkout"].clone()
}

/// What `{branch}` stands for in a directory, and where it comes from.
fn branch(project: &Project<'_>, folder: &Path, env: &[(&str, &str)]) -> (String, String) {
    branch_of(&checkout(project, folder, env))
}

fn branch_of(checkout: &Value) -> (String, String) {
    let branch = &checkout["branch"];
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

    // A hook of another worktree runs with `GIT_DIR` set; the directory counts.
    let theirs = checkout(&project, &other, &[("GIT_DIR", common.to_str().unwrap()), ("GIT_WORK_TREE", "/")]);
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
        // The same clone again and again.
        let same = format!("t{}_same", project.id);
        let found = |env: &[(&str, &str)]| branch_of(&checkout_of(&project, &here, env, &same));
        assert_eq!(found(&[]), pair("main", "local"), "{format}");
        assert_eq!(name(&project, &here, "{branch}"), "main", "{format}");

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
        for name in
            ["BRANCH_NAME", "BUILDKITE_BRANCH", "CI_COMMIT_REF_NAME", "GITHUB_REF_NAME", "GITHUB_HEAD_REF"]
        {
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
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
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
    // Without a git directory of its own.
    fs::rename(here.join(".git"), here.join("../git")).unwrap();
    assert_eq!(found(), pair("mine", "bookmark"));
}

/// The database of a clone that is made in a directory, by a pattern that is unique by the project's id.
fn name(project: &Project<'_>, folder: &Path, pattern: &str) -> String {
    let pattern = format!("t{}_{pattern}", project.id);
    let clone = Pgstencil::new(project)
        .args(["clone", "--json", "--name", &pattern])
        .current_dir(folder)
        .success()
        .json();
    let name = clone["clone"]["name"].as_str().unwrap();
    assert!(project.server().has_database(name), "{name}");
    name[project.id.len() + 2..].to_owned()
}

#[test]
fn branches_that_look_alike_have_databases_of_their_own() {
    let project = Project::with_migrations(server());
    repository(&project, &[]);
    let here = project.path();
    let long = format!("users/a/{}", "x".repeat(60));
    let branches = [
        "feat/a-b",
        "feat-a/b",
        "feat-a-b",
        "feat_a_b",
        "Feat-a-b",
        &format!("{long}-1"),
        &format!("{long}-2"),
    ];
    let mut names = Vec::new();
    for branch in branches {
        git(&here, &["checkout", "-q", "-b", branch, "main"]);
        names.push(name(&project, &here, "{branch}_gw{n}"));
        assert!(names.last().unwrap().ends_with("_gw0"), "{names:?}");
        git(&here, &["checkout", "-q", "main"]);
        git(&here, &["branch", "-q", "-D", branch]);
    }
    assert_eq!(names[2], "feat-a-b_gw0");
    assert!(names[0].starts_with("feat_a-b_"), "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), branches.len(), "{names:?}");
    // The whole database has that name, with its `-`: `psql` and a release find it.
    Pgstencil::new(&project).args(["release", &format!("t{}_feat-a-b_gw0", project.id)]).success();
}

#[test]
fn worktrees_have_names_of_their_own_and_share_templates() {
    let project = Project::new(server());
    project.config(
        r#"
[server]
registry = "{registry}"

[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
"#,
    );
    project.add_migration("0001_users", "create table users (id int)");
    // A service in a monorepo.
    let service = project.path().join("services/a");
    repository(&project, &[]);
    fs::create_dir_all(service.join("migrations")).unwrap();
    for file in ["pgstencil.toml", "migrate.sh", "migrations/0001_users.sql"] {
        fs::copy(project.path().join(file), service.join(file)).unwrap();
    }
    git(&project.path(), &["add", "."]);
    git(&project.path(), &["commit", "-q", "-m", "two"]);
    let other = worktree(&project, "other");

    assert_eq!(name(&project, &project.path(), "{worktree}"), "project");
    assert_eq!(name(&project, &other, "{worktree}"), "other");
    assert_eq!(name(&project, &other.join("services/a"), "{worktree}-a"), "other-a");
    let projects = |folder: &Path| {
        let shown = Pgstencil::new(&project).args(["config", "show", "--json"]).current_dir(folder);
        shown.success().json()["project"].clone()
    };
    for top in [project.path(), other] {
        assert_eq!(projects(&top), "project");
        assert_eq!(projects(&top.join("services/a")), "project_services_a");
    }
    // Nothing was built for the second worktree.
    let built = list(&project)["templates"].as_array().unwrap().len();
    assert_eq!(built, 2);
    assert_eq!(project.builds(), 1);
}

#[test]
fn a_bare_repository_and_a_submodule_name_the_project() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml");
    project.write(
        "pgstencil.toml",
        config.split_once("[server]").map(|(_, rest)| format!("[server]{rest}")).unwrap().as_str(),
    );
    repository(&project, &[]);
    let here = project.path();
    let beside = |name: &str| here.parent().unwrap().join(name);
    let shown = |folder: &Path| {
        let shown = Pgstencil::new(&project).args(["config", "show", "--json"]).current_dir(folder);
        shown.success().json()["project"].clone()
    };
    let bare = beside("shop.git");
    git(&here, &["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    git(&bare, &["worktree", "add", "-q", "../of-bare", "main"]);
    assert_eq!(shown(&beside("of-bare")), "shop");

    let super_project = beside("super");
    fs::create_dir(&super_project).unwrap();
    git(&super_project, &["init", "-q"]);
    git(&super_project, &["submodule", "-q", "add", bare.to_str().unwrap(), "libs/cart"]);
    assert_eq!(shown(&super_project.join("libs/cart")), "cart");
}
