//! An extended template is provisional until a build from nothing has taken its place: the mechanism, with
//! `rebuild = "always"`.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::extension::{ensure, items, templates};
use crate::support::hold::Held;
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, alive, ends, eventually, server};

/// Lets a build from nothing wait for the file `go`.
const GATE: &str =
    "while [ \"$PGSTENCIL_OUTCOME\" = miss ] && [ -e pgstencil.toml ] && [ ! -e go ]; do sleep 0.05; done";

/// The ready template of a fingerprint.
fn ready(project: &Project<'_>, fingerprint: &Value) -> Option<Value> {
    let found = |t: &&Value| t["fingerprint"] == *fingerprint && t["state"] == "ready";
    templates(project).iter().find(found).cloned()
}

/// A project with a template of two migrations, and a third migration.
fn appended(keys: &str) -> Project<'static> {
    let project = Project::extending(server(), &format!("rebuild = \"always\"\n{keys}"));
    assert_eq!(ensure(&project)["outcome"], "miss");
    items(&project);
    project
}

#[track_caller]
fn settles(project: &Project<'_>, fingerprint: &Value) -> Value {
    let settled = eventually(PATIENCE, || {
        ready(project, fingerprint).is_some_and(|t| t["provisional"] == false)
            && templates(project).iter().all(|t| t["state"] == "ready")
    });
    assert!(settled, "{:?}", templates(project));
    ready(project, fingerprint).unwrap()
}

/// Says in the database how it was built.
fn leave_a_trace(project: &Project<'_>) {
    project.build(&Build::Script(
        "migrate
         sql -d \"$DATABASE_URL\" -c 'create table if not exists trace (outcome text)' \\
             -c \"delete from trace\" -c \"insert into trace values ('$PGSTENCIL_OUTCOME')\""
            .into(),
    ));
}

fn trace(clone: &Value) -> String {
    let name = clone["clone"]["name"].as_str().unwrap();
    server().psql(name, "select outcome from trace")
}

fn clone(project: &Project<'_>) -> Value {
    Pgstencil::new(project).args(["clone", "--json"]).success().json()
}

#[test]
fn the_fresh_one_takes_its_place_when_the_command_has_ended() {
    let project = appended("");
    leave_a_trace(&project);
    let first = clone(&project);
    assert_eq!(first["outcome"], "extended");
    assert_eq!(first["provisional"], true);
    assert_eq!(trace(&first), "extended");
    let row = settles(&project, &first["fingerprint"]);
    assert_eq!(row["base"], Value::Null);
    assert_eq!(row["chain"], 0);
    assert_eq!(row["difference"], "");
    let second = clone(&project);
    assert_eq!(second["outcome"], "hit");
    assert_eq!(second["provisional"], false);
    assert_eq!(second["fingerprint"], first["fingerprint"]);
    assert_eq!(trace(&second), "miss");
    // Who has a clone of the old one keeps it.
    assert_eq!(trace(&first), "extended");
    // Two templates and two clones: the extended one is gone.
    let swept = eventually(PATIENCE, || project.databases().len() == 4);
    assert!(swept, "{:?}", project.databases());
}

#[test]
fn run_lets_its_command_end_first() {
    let project = appended("");
    let held = Held::idle(&project, &[]);
    assert_eq!(project.builds(), 2);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(project.builds(), 2, "the full build came too early");
    held.end();
    held.run.wait().code(0);
    let followed = eventually(PATIENCE, || project.builds() == 3);
    assert!(followed);
    let fingerprint = ensure(&project)["fingerprint"].clone();
    settles(&project, &fingerprint);
}

#[test]
fn settle_waits_for_the_one_that_is_under_way() {
    let project = appended("");
    project.build(&Build::Script(format!("{GATE}; migrate")));
    let extended = ensure(&project);
    assert_eq!(extended["provisional"], true);
    let under_way = eventually(PATIENCE, || project.builds() == 3);
    assert!(under_way);
    let settle = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).spawn();
    settle.wait_for_text("waiting for");
    project.write("go", "");
    let answer = settle.wait();
    answer.code(0);
    assert_eq!(answer.json()["provisional"], false);
    assert_eq!(answer.json()["outcome"], "hit");
    assert_eq!(project.builds(), 3);
}

#[test]
fn no_clone_fails_while_templates_change_hands() {
    let project = appended("");
    leave_a_trace(&project);
    let first = clone(&project);
    let changed = eventually(PATIENCE, || {
        let clone = clone(&project);
        assert_eq!(clone["outcome"], "hit");
        let name = clone["clone"]["name"].as_str().unwrap();
        let trace = trace(&clone);
        Pgstencil::new(&project).args(["release", name]).success();
        trace == "miss"
    });
    assert!(changed);
    settles(&project, &first["fingerprint"]);
}

#[test]
fn what_is_superseded_is_given_up_and_taken_up_again() {
    let project = appended("");
    project.build(&Build::Script(
        "migrate; if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then echo $$ >settler.pid; exec sleep 300; fi".into(),
    ));
    let extended = ensure(&project);
    let running = eventually(PATIENCE, || !project.read("settler.pid").trim().is_empty());
    assert!(running);
    let pid: i32 = project.read("settler.pid").trim().parse().unwrap();
    // Another branch is checked out.
    std::fs::remove_file(project.path().join("migrations/0003_items.sql")).unwrap();
    let ended = eventually(PATIENCE, || !alive(pid));
    assert!(ended, "the build goes on");
    let left = eventually(PATIENCE, || project.databases().len() == 2 && templates(&project).len() == 2);
    assert!(left, "{:?}", templates(&project));
    assert_eq!(ready(&project, &extended["fingerprint"]).unwrap()["provisional"], true);
    // Back again: the next command takes it up.
    project.build(&Build::Migrate);
    items(&project);
    let again = ensure(&project);
    assert_eq!(again["outcome"], "hit");
    assert_eq!(again["fingerprint"], extended["fingerprint"]);
    settles(&project, &extended["fingerprint"]);
}

#[test]
fn files_that_change_are_no_failure_of_the_build() {
    let project = appended("");
    project.build(&Build::Script(
        "migrate; if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then echo '-- x' >>migrations/0003_items.sql; fi"
            .into(),
    ));
    let extended = ensure(&project);
    let over = eventually(PATIENCE, || {
        project.builds() == 3 && templates(&project).iter().all(|t| t["state"] == "ready")
    });
    assert!(over, "{:?}", templates(&project));
    let row = ready(&project, &extended["fingerprint"]).unwrap();
    assert_eq!(row["provisional"], true);
    assert!(row["rebuild_failure"].is_null(), "{row}");
    // Nor does it count as an attempt in vain.
    let attempts = "select max(settle_attempts) from pgstencil.template";
    assert!(eventually(PATIENCE, || server().psql(&project.registry(), attempts) == "0"));
}

#[test]
fn one_that_disappears_time_and_again_is_not_tried_by_every_command() {
    let project = appended("");
    project.build(&Build::Script(
        "migrate; if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then exec sleep 3600; fi".into(),
    ));
    let extended = ensure(&project);
    for attempt in 1..=3 {
        // As if the job's container had ended with the job.
        kill_settler(&project, 2 + attempt);
        ensure(&project);
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(project.builds(), 5);
    let hour = "update pgstencil.template set settle_tried_at = settle_tried_at - interval '1 hour'";
    server().psql(&project.registry(), hour);
    project.build(&Build::Migrate);
    assert_eq!(ensure(&project)["provisional"], true);
    settles(&project, &extended["fingerprint"]);
}

/// Waits until so many builds have begun, of which the last is one from nothing in the background, and
/// kills the process that runs it.
#[track_caller]
fn kill_settler(project: &Project<'_>, builds: usize) {
    let mut pid = None;
    let began = eventually(PATIENCE, || {
        let rows = templates(project);
        let building = rows.iter().find(|t| t["state"] == "building");
        pid = building.and_then(|t| t["builder"]["pid"].as_i64());
        pid.is_some_and(|pid| alive(pid.try_into().unwrap())) && project.builds() == builds
    });
    assert!(began, "build {builds}: {:?}", templates(project));
    let pid = Pid::from_raw(pid.unwrap().try_into().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    assert!(ends(pid.as_raw()));
}

#[test]
fn what_was_killed_is_taken_up_by_the_next_command() {
    let project = appended("");
    project.build(&Build::Script(format!(
        "migrate; if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then echo $$ >>settlers; fi; {GATE}"
    )));
    let extended = ensure(&project);
    let running = eventually(PATIENCE, || !project.read("settlers").trim().is_empty());
    assert!(running);
    let build: i32 = project.read("settlers").trim().parse().unwrap();
    kill_settler(&project, 3);
    // Its build goes with it, and what it left is swept.
    assert!(ends(build));
    project.write("go", "");
    let hit = ensure(&project);
    assert_eq!(hit["outcome"], "hit");
    assert_eq!(hit["provisional"], true);
    settles(&project, &extended["fingerprint"]);
    assert!(eventually(PATIENCE, || project.databases().len() == 2));
}

#[test]
fn one_at_a_time_for_each_definition() {
    let project = appended("");
    project.build(&Build::Script(
        "migrate; if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then
             echo start >>../order; sleep 1; echo end >>../order; fi"
            .into(),
    ));
    let other = project.path().join("../other");
    let copied = std::process::Command::new("cp").arg("-r").args([&project.path(), &other]).status();
    assert!(copied.unwrap().success());
    std::fs::write(other.join("migrations/0003_items.sql"), "create table others ();").unwrap();
    let here = ensure(&project);
    let there = Pgstencil::new(&project).args(["ensure", "--json"]).current_dir(&other).success().json();
    assert_eq!(there["outcome"], "extended");
    assert_ne!(here["fingerprint"], there["fingerprint"]);
    settles(&project, &here["fingerprint"]);
    settles(&project, &there["fingerprint"]);
    assert_eq!(project.read("../order"), "start\nend\nstart\nend\n");
}

#[test]
fn a_build_from_nothing_that_fails_is_told_and_not_tried_by_every_command() {
    let project = appended("");
    project.build(&Build::Script(
        "if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then echo 'no fresh start' >&2; exit 9; fi; migrate".into(),
    ));
    let extended = ensure(&project);
    assert_eq!(extended["outcome"], "extended");
    let failed = eventually(PATIENCE, || {
        ready(&project, &extended["fingerprint"])
            .is_some_and(|t| t["rebuild_failure"].as_str().is_some_and(|w| w.contains("no fresh start")))
    });
    assert!(failed, "{:?}", templates(&project));
    let builds = project.builds();
    let hit = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    hit.stderr_has("the full build that was to replace provisional template ");
    assert_eq!(hit.json()["provisional"], true);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(project.builds(), builds, "it was tried again");
    Pgstencil::new(&project).args(["ensure", "--rebuild"]).fails(4).stderr_has("no fresh start");
    Pgstencil::new(&project)
        .arg("list")
        .success()
        .stdout_has("is still provisional, since its full build failed");
    project.build(&Build::Migrate);
    let settled = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).success().json();
    assert_eq!(settled["provisional"], false);
}

#[test]
fn the_build_has_the_callers_environment_and_gives_way() {
    let project = appended("");
    project.build(&Build::Script(
        "echo \"$PGST_X\" >>env; migrate
         if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then
             echo \"runner:${RUNNER_TRACKING_ID-none}\" >>env; nice >niceness; fi"
            .into(),
    ));
    let extended = Pgstencil::new(&project)
        .args(["ensure", "--json"])
        .env("PGST_X", "the caller's")
        .env("RUNNER_TRACKING_ID", "github_1")
        .success()
        .json();
    settles(&project, &extended["fingerprint"]);
    assert_eq!(project.read("env"), "the caller's\nthe caller's\nrunner:none\n");
    assert_eq!(project.read("niceness"), "19\n");
}
