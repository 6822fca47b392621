//! Until when clones are kept, who is told, and what becomes of their names.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::git::{git, repository, worktree};
use crate::support::hold::{goes, listed, oid, only_templates_left};
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, eventually, server};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

fn registry(project: &Project<'_>, sql: &str) -> String {
    server().psql(&project.registry(), sql)
}

/// Whether a time, as JSON has it, lies so many seconds ahead, give or take a minute or two.
#[track_caller]
fn ends_in(at: &Value, seconds: i64) {
    let at = at.as_str().unwrap_or_else(|| panic!("no time: {at}"));
    let left = format!(
        "select extract(epoch from '{at}'::timestamptz - now()) between {seconds} - 120 and {seconds} + 5"
    );
    assert_eq!(server().psql("postgres", &left), "t", "{at}, not {seconds} s ahead");
}

#[test]
fn a_lease_is_shortened_only_by_who_says_how_long() {
    let project = Project::with_migrations(server());
    let name = format!("dev_{}", project.id);
    let clone = |args: &[&str]| {
        let output = pgstencil(&project, &["clone", "--name", &name]).args(args);
        output.success()
    };
    let ends = |args: &[&str]| {
        let json = clone(&[args, &["--json"]].concat()).json();
        let expires = json["clone"]["expires_at"].clone();
        assert_eq!(listed(&project, &name)["expires_at"], expires);
        expires
    };
    clone(&["--ttl", "never"]).stderr_has("kept until it is released");
    // What was typed holds, also for a fresh start.
    clone(&[]).stderr_has("kept until it is released");
    assert_eq!(ends(&[]), Value::Null);
    let before = oid(&project, &name);
    assert_eq!(ends(&["--fresh"]), Value::Null);
    assert_ne!(oid(&project, &name), before);
    assert_eq!(ends(&["--take"]), Value::Null);

    let at = ends(&["--ttl", "2h"]);
    ends_in(&at, 2 * HOUR);
    clone(&[]).stderr_has("kept until 2");
    ends_in(&ends(&[]), 2 * HOUR);
    ends_in(&ends(&["--fresh"]), 2 * HOUR);
    // Each use begins the time anew.
    registry(&project, "update pgstencil.clone set expires_at = now() + interval '10 minutes'");
    ends_in(&ends(&[]), 2 * HOUR);
    ends_in(&ends(&["--ttl", "10m"]), 10 * 60);
    pgstencil(&project, &["release", &name]).success();

    // By the config it is 12 hours, and no less than before if the config changes.
    ends_in(&ends(&[]), 12 * HOUR);
    project.append_config("[clone]\nttl = \"1h\"");
    ends_in(&ends(&[]), 12 * HOUR);
    ends_in(&ends(&["--fresh"]), 12 * HOUR);
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("ttl = \"1h\"", "ttl = \"never\""));
    assert_eq!(ends(&[]), Value::Null);
    project.write("pgstencil.toml", &config);
    assert_eq!(ends(&[]), Value::Null);
    assert_eq!(ends(&["--fresh"]), Value::Null);
    pgstencil(&project, &["release", &name]).success();

    // One from before, which nobody knows the typed time of.
    pgstencil(&project, &["clone", "--name", &name, "--ttl", "never"]).success();
    registry(&project, "update pgstencil.clone set ttl_typed = false, ttl_s = null");
    assert_eq!(ends(&[]), Value::Null);
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn every_hand_out_says_until_when() {
    let project = Project::with_migrations(server());
    pgstencil(&project, &["run", "--", "true"]).success().stderr_has("; kept until the command ends");
    let output = pgstencil(&project, &["run", "--keep", "--", "true"]).success();
    output.stderr_has("kept until 2");
    let json = pgstencil(&project, &["clone", "--json", "--clones", "2"]).success().json();
    for clone in json["clones"].as_array().unwrap() {
        ends_in(&clone["expires_at"], 12 * HOUR);
    }
    let output = pgstencil(&project, &["clone", "--clones", "2"]).success();
    output.stderr_has("2 clones in ").stderr_has("; kept until 2");
}

#[test]
fn a_branchs_clone_is_kept_by_the_commands_in_its_checkout() {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\nbranch_ttl = \"10d\"");
    repository(&project, &[]);
    let other = worktree(&project, "other");
    let name = format!("dev_main_{}", project.id);
    let pattern = format!("dev_{{branch}}_{}", project.id);
    let output = pgstencil(&project, &["clone", "--name", &pattern]).success();
    output.stderr_has("kept while branch `main` exists, until 2");
    let clone = listed(&project, &name);
    assert_eq!(clone["kept_by"]["branch"], "main");
    ends_in(&clone["expires_at"], 10 * DAY);

    let rewind = || {
        registry(
            &project,
            "update pgstencil.clone set expires_at = now() + interval '1 day', \
             seen_at = now() - interval '9 days'",
        )
    };
    let soon = |command: &[&str], folder: &Path| {
        rewind();
        let command = pgstencil(&project, command).current_dir(folder);
        command.run();
        let left = "select extract(epoch from expires_at - now()) < 100000 from pgstencil.clone \
                    where named and state = 'leased' and branch_ttl_s is not null";
        registry(&project, left) == "t"
    };
    let here = project.path();
    // Commands that read change nothing, and those elsewhere are not of this checkout.
    for command in [&["list"][..], &["stats"], &["explain"]] {
        assert!(soon(command, &here), "{command:?}");
    }
    for command in [&["ensure"][..], &["run", "--", "true"]] {
        assert!(soon(command, &other), "{command:?}");
        assert!(!soon(command, &here), "{command:?}");
    }
    let cold = ["run", "--name", "x_{id}", "--", "true"];
    assert!(!soon(&cold, &here));
    assert!(!soon(&["clone", "--name", &format!("y_{}", project.id)], &here));
    assert!(!soon(&["release", &format!("y_{}", project.id)], &here));
    assert!(!soon(&["evict"], &here));
    assert!(!soon(&["pin"], &here));
    assert!(!soon(&["unpin"], &here));
    assert!(!soon(&["verify"], &here));
    assert!(!soon(&["doctor", "--fix"], &here));
    // Not more often than once an hour.
    let written = || registry(&project, &format!("select xmin from pgstencil.clone where name = '{name}'"));
    let before = written();
    pgstencil(&project, &["run", "--", "true"]).success();
    assert_eq!(written(), before);

    // A time that was typed ends that.
    let typed = ["clone", "--ttl", "3h", "--json", "--name", &pattern];
    let json = pgstencil(&project, &typed).success().json();
    ends_in(&json["clone"]["expires_at"], 3 * HOUR);
    assert!(json["clone"]["kept_by"].is_null());
    registry(&project, "update pgstencil.clone set seen_at = now() - interval '9 days'");
    pgstencil(&project, &["run", "--", "true"]).success();
    ends_in(&listed(&project, &name)["expires_at"], 3 * HOUR);
    pgstencil(&project, &["release", &name]).success();
    goes(&project, &name);

    // One that its command leaves.
    let output = pgstencil(&project, &["run", "--keep", "--name", &pattern, "--", "true"]).success();
    output.stderr_has("kept while branch `main` exists");
    ends_in(&listed(&project, &name)["expires_at"], 10 * DAY);
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn only_local_branches_and_worktrees_keep_a_clone() {
    let project = Project::with_migrations(server());
    repository(&project, &[]);
    let other = worktree(&project, "other");
    let here = project.path();
    let clone = |pattern: &str, folder: &Path, env: &[(&str, &str)]| {
        let pattern = format!("{pattern}_{}", project.id);
        let mut command = pgstencil(&project, &["clone", "--json", "--name", &pattern]);
        for (name, value) in env {
            command = command.env(name, value);
        }
        let json = command.current_dir(folder).success().json();
        json["clone"].clone()
    };
    let free = |clone: &Value| {
        assert!(clone["kept_by"].is_null(), "{clone}");
        ends_in(&clone["expires_at"], 12 * HOUR);
    };
    let by_worktree = clone("a_{worktree}", &other, &[]);
    assert_eq!(by_worktree["kept_by"]["worktree"], "other");
    ends_in(&by_worktree["expires_at"], 14 * DAY);
    let by_both = clone("b_{worktree}_{branch}", &other, &[]);
    assert_eq!(by_both["kept_by"]["worktree"], "other");
    assert_eq!(by_both["kept_by"]["branch"], "other");
    free(&clone("c", &here, &[]));
    free(&clone("{id}_{branch}", &here, &[]));
    git(&here, &["checkout", "-q", "--detach"]);
    free(&clone("d_{branch}", &here, &[]));
    free(&clone("e_{branch}", &here, &[("GITHUB_REF_NAME", "main")]));
}

#[test]
fn the_end_of_a_clone_is_told_to_who_asks_for_its_name_again() {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\norphan_grace = \"100ms\"");
    let name = format!("dev_{}", project.id);
    let clone = |args: &[&str]| pgstencil(&project, &["clone", "--name", &name]).args(args);
    // In the way of its own name.
    clone(&["--ttl", "1s"]).success().lacks("was dropped");
    std::thread::sleep(Duration::from_millis(1100));
    let json = clone(&["--json", "--ttl", "1s"]).success();
    json.stderr_has(&format!("your previous clone {name} was dropped at 2"))
        .stderr_has("its lease ended at 2");
    let json = json.json();
    assert_eq!(json["outcome"], "hit");
    assert_eq!(json["dropped"]["name"], *name);
    // By a sweep; then told once.
    std::thread::sleep(Duration::from_millis(1100));
    let gone = || {
        pgstencil(&project, &["run", "--", "true"]).success();
        !server().has_database(&name)
    };
    assert!(eventually(PATIENCE, gone));
    clone(&["--ttl", "2h"]).success().stderr_has("its lease ended at 2");
    clone(&["--fresh"]).success().lacks("was dropped");
    // Who gives it back knows that.
    pgstencil(&project, &["release", &name]).success();
    clone(&[]).success().lacks("was dropped");
    pgstencil(&project, &["release", &name]).success();
    // And who runs a command on it.
    for _ in 0..2 {
        pgstencil(&project, &["run", "--name", &name, "--", "true"]).success().lacks("was dropped");
    }
    // A branch's says what it waited for.
    repository(&project, &[]);
    let pattern = format!("dev_{{branch}}_{}", project.id);
    pgstencil(&project, &["clone", "--name", &pattern]).success();
    registry(&project, "update pgstencil.clone set expires_at = now() - interval '1 day'");
    pgstencil(&project, &["clone", "--name", &pattern])
        .success()
        .stderr_has("since no command ran in its checkout");
    let notes = "select count(*) from pgstencil.dropped";
    assert_eq!(registry(&project, notes), "0");
    // The list of them is bounded.
    registry(
        &project,
        "insert into pgstencil.dropped (name, project, holder, owner_machine, owner_name, owner_top, \
         owner_below, owned_at, shared, why) \
         select 'x' || n, 'p', '{\"host\": \"h\", \"pid\": 1}', '', '', '', '', now(), false, 'w' \
         from generate_series(1, 700) n",
    );
    clone(&["--ttl", "1s"]).success();
    std::thread::sleep(Duration::from_millis(1100));
    assert!(eventually(PATIENCE, gone));
    let kept: i64 = registry(&project, notes).parse().unwrap();
    assert!((490..=501).contains(&kept), "{kept}");
}
