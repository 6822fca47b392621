//! `pgstencil prune`: clones of branches and worktrees that are gone, by git's own word.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::git::{git, repository, worktree};
use crate::support::hold::{goes, list, sessions, stays};
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, Role, eventually, server};

const SOON: Duration = Duration::from_secs(2);

/// Makes a clone in a directory; its name begins with `t` and the project's id. Returns the name.
fn clone_in(project: &Project<'_>, folder: &Path, pattern: &str, env: &[(&str, &str)]) -> String {
    let pattern = format!("t{}_{pattern}", project.id);
    let mut clone = Pgstencil::new(project).args(["clone", "--json", "--name", &pattern]).current_dir(folder);
    for (name, value) in env {
        clone = clone.env(name, value);
    }
    let answer = clone.success().json();
    answer["clone"]["name"].as_str().unwrap().to_owned()
}

/// Makes a clone for a branch, which is checked out for that and then deleted.
fn of_deleted_branch(project: &Project<'_>, branch: &str) -> String {
    let here = project.path();
    git(&here, &["checkout", "-q", "-b", branch]);
    let name = clone_in(project, &here, "{branch}", &[]);
    git(&here, &["checkout", "-q", "main"]);
    git(&here, &["branch", "-q", "-D", branch]);
    name
}

fn prune(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(["prune", "--json"]).args(args)
}

/// Names and states of an answer.
fn states(answer: &Value) -> Vec<(String, String)> {
    let clones = answer["clones"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pair = |clone: &Value| (text(&clone["name"]), text(&clone["state"]));
    clones.iter().map(pair).collect()
}

fn pair(name: &str, state: &str) -> (String, String) {
    (name.to_owned(), state.to_owned())
}

/// That nothing is pruned, and a warning says why.
#[track_caller]
fn nothing(pruning: Pgstencil, why: &str) {
    let output = pruning.success();
    assert_eq!(states(&output.json()), [], "{output}");
    output.stderr_has(why);
}

#[test]
fn what_a_branch_or_a_worktree_left_is_given_back_and_nothing_else() {
    let project = Project::with_migrations(server());
    repository(&project, &[]);
    let here = project.path();
    let main = clone_in(&project, &here, "{branch}", &[]);
    let plain = clone_in(&project, &here, "plain", &[]);
    let feature = of_deleted_branch(&project, "feat/x");
    let other = worktree(&project, "other");
    let tree = clone_in(&project, &other, "tree_{worktree}", &[]);
    let both = clone_in(&project, &other, "both_{worktree}_{branch}", &[]);
    git(&here, &["worktree", "remove", "--force", other.to_str().unwrap()]);

    let planned = prune(&project, &["--dry-run"]).success().json();
    let state = |state: &str| [&feature, &tree, &both].map(|name| pair(name, state)).to_vec();
    assert_eq!(states(&planned), state("would_go"));
    assert_eq!(planned["dry_run"], true);
    assert_eq!(planned["clones"][0]["gone"], json!({"branch": "feat/x"}));
    assert_eq!(planned["clones"][1]["gone"], json!({"worktree": "other"}));
    assert_eq!(planned["clones"][2]["gone"], json!({"worktree": "other"}));
    let leased = |name: &String| {
        let clones = list(&project)["clones"].clone();
        let mut clones = clones.as_array().unwrap().iter();
        clones.any(|c| c["name"] == **name && c["state"] == "leased")
    };
    assert!([&main, &plain, &feature, &tree, &both].into_iter().all(leased));

    // The other commands say how many there are, and change nothing.
    let words = "3 clones of this repository have outlived their branch or worktree";
    for args in [
        &["list"][..],
        &["ensure"],
        &["run", "--", "true"],
        &["clone", "--name", "{id}_{project}"],
        &["clone", "--name", &plain],
        &["release", &plain],
        &["explain"],
        &["stats"],
        &["evict"],
        &["doctor"],
    ] {
        let output = Pgstencil::new(&project).args(args).run();
        output.stderr_has(words);
        let quiet = Pgstencil::new(&project).args(["-q", "list"]).success();
        quiet.lacks("outlived");
    }
    assert!([&main, &feature, &tree, &both].into_iter().all(leased));

    let output = Pgstencil::new(&project).arg("prune").success();
    output.stdout_has(&format!("released clone {feature}: branch `feat/x` is gone"));
    output.stdout_has(&format!("released clone {tree}: worktree `other` is gone"));
    for name in [&feature, &tree, &both] {
        goes(&project, name);
    }
    assert!(leased(&main));
    assert_eq!(states(&prune(&project, &[]).success().json()), []);
    Pgstencil::new(&project).arg("list").success().lacks("outlived");
    // With the branch again, its owner learns what became of the clone.
    git(&here, &["checkout", "-q", "-b", "feat/x"]);
    let again =
        Pgstencil::new(&project).args(["clone", "--name", &format!("t{}_{{branch}}", project.id)]).success();
    again.stderr_has("branch `feat/x` is gone");
}

#[test]
fn where_git_does_not_answer_nothing_is_gone() {
    let project = Project::with_migrations(server());
    repository(&project, &[]);
    let here = project.path();
    let feature = of_deleted_branch(&project, "feat/x");
    let empty = here.parent().unwrap().join("no-git");
    fs::create_dir(&empty).unwrap();
    let path = empty.to_str().unwrap();
    nothing(prune(&project, &[]).env("PATH", path), "`git` is not installed");
    let listed = Pgstencil::new(&project).arg("list").env("PATH", path);
    listed.success().lacks("outlived");

    // Somebody else's repository.
    if nix::unistd::geteuid().is_root() {
        let owner = |uid: u32| std::os::unix::fs::chown(&here, Some(uid), None).unwrap();
        owner(4242);
        std::os::unix::fs::chown(here.join(".git"), Some(4242), None).unwrap();
        nothing(prune(&project, &[]), "dubious ownership");
        owner(0);
        std::os::unix::fs::chown(here.join(".git"), Some(0), None).unwrap();
    }

    // A branch that cannot be read is not gone.
    fs::create_dir_all(here.join(".git/refs/heads/feat")).unwrap();
    fs::write(here.join(".git/refs/heads/feat/x"), "broken\n").unwrap();
    nothing(prune(&project, &[]), "ignoring broken ref");
    fs::remove_file(here.join(".git/refs/heads/feat/x")).unwrap();

    // A worktree whose disk is not mounted.
    let other = worktree(&project, "other");
    let tree = clone_in(&project, &other, "tree_{worktree}", &[]);
    let away = here.parent().unwrap().join("away");
    fs::rename(&other, &away).unwrap();
    let answer = prune(&project, &["-n"]).success();
    assert_eq!(states(&answer.json()), [pair(&feature, "would_go")]);
    answer.stderr_has("worktree `other` are kept");
    fs::rename(&away, &other).unwrap();
    git(&here, &["worktree", "lock", other.to_str().unwrap()]);
    fs::rename(&other, &away).unwrap();
    let answer = prune(&project, &["-n"]).success().json();
    assert_eq!(states(&answer), [pair(&feature, "would_go")]);
    git(&here, &["worktree", "unlock", other.to_str().unwrap()]);
    git(&here, &["worktree", "prune"]);
    let answer = prune(&project, &["-n"]).success().json();
    assert_eq!(states(&answer), [pair(&feature, "would_go"), pair(&tree, "would_go")]);

    // Without any repository.
    fs::rename(here.join(".git"), here.join("../git")).unwrap();
    nothing(prune(&project, &[]), "not in a git repository");
    // Another one in its place.
    repository(&project, &[]);
    nothing(prune(&project, &[]), "another repository");
    stays(&project, &feature, SOON);
    stays(&project, &tree, Duration::ZERO);
}

#[test]
fn a_branch_is_there_before_its_first_commit_and_packed() {
    for format in ["files", "reftable"] {
        let project = Project::with_migrations(server());
        repository(&project, &[&format!("--ref-format={format}")]);
        let here = project.path();
        git(&here, &["checkout", "-q", "--orphan", "fresh"]);
        clone_in(&project, &here, "{branch}", &[]);
        assert_eq!(states(&prune(&project, &["-n"]).success().json()), []);
        git(&here, &["checkout", "-q", "-f", "main"]);
        // It never had one, so by now it is gone.
        let planned = prune(&project, &["-n"]).success().json();
        assert_eq!(planned["clones"][0]["gone"]["branch"], "fresh");

        git(&here, &["checkout", "-q", "-b", "work"]);
        clone_in(&project, &here, "{branch}", &[]);
        git(&here, &["pack-refs", "--all"]);
        git(&here, &["checkout", "-q", "--detach"]);
        let planned = prune(&project, &["-n"]).env("GIT_DIR", "/nowhere").success().json();
        assert_eq!(planned["clones"].as_array().unwrap().len(), 1, "{planned}");
        let listed = Pgstencil::new(&project).arg("list").success();
        listed.stderr_has("1 clone of this repository has outlived its");
    }
}

#[test]
fn clones_of_others_stay_and_those_in_use() {
    let mut project = Project::with_migrations(server());
    repository(&project, &[]);
    let here = project.path();
    git(&here, &["checkout", "-q", "-b", "gone"]);
    let ours = clone_in(&project, &here, "ours_{branch}", &[]);
    let runners = clone_in(&project, &here, "runner_{branch}", &[("PGSTENCIL_OWNER", "r1")]);
    let ci = clone_in(&project, &here, "ci_{branch}", &[]);
    // Another repository with a branch of this name, at another place.
    let copy = here.parent().unwrap().join("copy");
    git(&here, &["clone", "-q", ".", copy.to_str().unwrap()]);
    for file in ["pgstencil.toml", "migrate.sh"] {
        fs::copy(here.join(file), copy.join(file)).unwrap();
    }
    let theirs = clone_in(&project, &copy, "theirs_{branch}", &[]);
    git(&here, &["checkout", "-q", "main"]);
    git(&here, &["branch", "-q", "-D", "gone"]);

    let role = Role::with(server(), "createdb", "x");
    let admin = project.server_url().to_owned();
    server().psql("postgres", &format!("grant \"{}\" to \"{}\"", server().user(), role.name));
    project.connect_as(&role);
    // The role shares the registry as a member of its owner.
    assert_eq!(states(&prune(&project, &[]).success().json()), []);
    project.connect_to(admin);

    let mut psql = std::process::Command::new("psql")
        .args(["-X", "-q", "-d", &project.server().url(&ours)])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert!(eventually(PATIENCE, || sessions(&project, &ours) > 0));
    let planned = prune(&project, &["-n"]).success().json();
    assert_eq!(states(&planned), [pair(&ours, "in_use"), pair(&ci, "would_go")]);
    let done = prune(&project, &[]).success().json();
    assert_eq!(states(&done), [pair(&ours, "in_use"), pair(&ci, "released")]);
    drop(psql.stdin.take());
    psql.wait().unwrap();
    assert!(eventually(PATIENCE, || sessions(&project, &ours) == 0));
    let done = prune(&project, &[]).success().json();
    assert_eq!(states(&done), [pair(&ours, "released")]);
    goes(&project, &ours);
    goes(&project, &ci);
    stays(&project, &runners, SOON);
    stays(&project, &theirs, Duration::ZERO);
    let runner = prune(&project, &[]).env("PGSTENCIL_OWNER", "r1").success().json();
    assert_eq!(states(&runner), [pair(&runners, "released")]);
    goes(&project, &runners);
}

#[test]
fn a_branch_that_comes_from_a_variable_does_not_go_away() {
    let project = Project::with_migrations(server());
    repository(&project, &[]);
    let here = project.path();
    git(&here, &["checkout", "-q", "--detach"]);
    let ci = clone_in(&project, &here, "{branch}", &[("CI_COMMIT_REF_NAME", "nowhere")]);
    let commit = clone_in(&project, &here, "{branch}", &[]);
    assert_eq!(states(&prune(&project, &[]).success().json()), []);
    stays(&project, &ci, Duration::ZERO);
    stays(&project, &commit, Duration::ZERO);
}
