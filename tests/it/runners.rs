//! The README's recipes for test runners, each as it stands there. Here a script takes the place of the runner: it
//! does with the variables and names what the real one does. `tests/runners.sh` runs the real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::{Pgstencil, Project, server};

/// Counts the rows of the migrated table in a database of this name, or at this URL.
const LOOK: &str =
    "look() { psql -XAtc \"select current_database(), count(*) from users\" -d \"$1\" >> looked; }\n";

/// Runs the command of the README that contains `part`, with a stand-in for a program. Returns what was looked at.
#[track_caller]
fn recipe(part: &str, program: &str, script: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (first_half, _) = readme.split_once("\n## Commands").unwrap();
    let mut lines =
        first_half.lines().filter_map(|line| line.strip_prefix("| ")).filter(|line| line.contains(part));
    let row = lines.next().expect(part);
    let command = row.split(" | ").nth(1).expect(row).trim_matches('`');
    let project = Project::with_migrations(server());
    let programs = project.home().join("programs");
    fs::create_dir_all(&programs).unwrap();
    let file = programs.join(program);
    fs::write(&file, format!("#!/bin/sh\nset -e\n{LOOK}{script}")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    // The databases of tests have names of their own.
    let command = command.replace("shop_test", &format!("{}_t", project.name()));
    let run = format!("export PATH='{}':\"$PATH\" NAME={}_t; {command}", programs.display(), project.name());
    Pgstencil::with_program(&project, "sh").args(["-c", &run]).success();
    let looked = project.read("looked");
    looked.lines().map(|line| line.replace(&project.name(), "P")).collect()
}

#[test]
fn go_gets_a_database_for_each_package() {
    // `go test -exec` runs each package's test binary behind these words.
    let script = "[ \"$1 $2\" = 'test -exec' ] && [ \"$4\" = ./... ]\n\
                  for package in a b; do $3 sh -c 'echo \"$DATABASE_URL\"' >> urls & done; wait\n\
                  for url in $(cat urls); do echo \"$url\" >> looked; done\n\
                  [ $(sort -u urls | wc -l) = 2 ]";
    assert_eq!(recipe("go test", "go", script).len(), 2);
}

#[test]
fn cargo_gets_a_database_for_each_test_binary() {
    let script = "$CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER sh -c 'psql -XAtc \"select count(*) from users\" -d \"$DATABASE_URL\"' >> looked";
    assert_eq!(recipe("CARGO_TARGET", "cargo", script), ["1"]);
}

#[test]
fn xdist_workers_find_their_databases() {
    let script = "for worker in gw0 gw1 gw2 gw3; do\n\
                  eval look \\\"\\$PGSTENCIL_URL_${worker#gw}\\\"; look \"${DATABASE_URL%/*}/${NAME}_$worker\"; done";
    let looked = recipe("-- pytest -n 4", "pytest", script);
    assert_eq!(
        looked,
        [
            "P_t_gw0|1",
            "P_t_gw0|1",
            "P_t_gw1|1",
            "P_t_gw1|1",
            "P_t_gw2|1",
            "P_t_gw2|1",
            "P_t_gw3|1",
            "P_t_gw3|1"
        ]
    );
}

#[test]
fn pytest_django_workers_find_their_databases() {
    // pytest-django appends the worker to the name of the test database.
    let script = "for worker in gw0 gw1 gw2 gw3; do look \"${DATABASE_URL%/*}/${TEST_DB}_$worker\"; done";
    let looked = recipe("--reuse-db -n 4", "pytest", script);
    assert_eq!(looked, ["P_t_gw0|1", "P_t_gw1|1", "P_t_gw2|1", "P_t_gw3|1"]);
}

#[test]
fn django_finds_the_database_and_its_copies() {
    let script = "[ \"$*\" = 'manage.py test --keepdb --parallel 4' ]\n\
                  look \"$DATABASE_URL\"; for n in 1 2 3 4; do look \"${DATABASE_URL%/*}/${PGSTENCIL_NAME}_$n\"; done";
    let looked = recipe("--parallel 4", "python", script);
    assert_eq!(looked, ["P_t|1", "P_t_1|1", "P_t_2|1", "P_t_3|1", "P_t_4|1"]);
}

#[test]
fn workers_of_jest_and_vitest_count_from_one() {
    let workers = "for JEST_WORKER_ID in 1 2 3 4; do eval look \\\"\\$PGSTENCIL_URL_$((JEST_WORKER_ID - 1))\\\"\n\
                   look \"${DATABASE_URL%/*}/${NAME}_$JEST_WORKER_ID\"; done";
    let expected = ["P_t_1|1", "P_t_1|1", "P_t_2|1", "P_t_2|1", "P_t_3|1", "P_t_3|1", "P_t_4|1", "P_t_4|1"];
    for part in ["jest --maxWorkers 4", "vitest run --maxWorkers 4"] {
        assert_eq!(recipe(part, "npx", workers), expected, "{part}");
    }
}

#[test]
fn rails_processes_find_their_databases() {
    // The first database is that of the process that starts the others.
    let script = "[ \"$PARALLEL_WORKERS\" = 4 ]\n\
                  look \"$DATABASE_URL\"; for n in 0 1 2 3; do look \"${DATABASE_URL%/*}/${PGSTENCIL_NAME}-$n\"; done";
    let looked = recipe("PARALLEL_WORKERS", "rails", script);
    assert_eq!(looked, ["P_t|1", "P_t-0|1", "P_t-1|1", "P_t-2|1", "P_t-3|1"]);
}

#[test]
fn parallel_tests_finds_its_databases() {
    let script = "[ \"$*\" = '-n 4 --first-is-1' ]\n\
                  for TEST_ENV_NUMBER in 1 2 3 4; do look \"${DATABASE_URL%/*}/$NAME$TEST_ENV_NUMBER\"; done";
    let looked = recipe("parallel_rspec", "parallel_rspec", script);
    assert_eq!(looked, ["P_t1|1", "P_t2|1", "P_t3|1", "P_t4|1"]);
}

/// pytest-xdist, jest, vitest, cargo, and go where it is installed.
#[test]
fn runners_run_for_real() {
    if std::env::var_os("PGSTENCIL_TEST_PRESETS").is_none() {
        eprintln!("SKIPPED, since PGSTENCIL_TEST_PRESETS is not set: no test runner was run for real");
        return;
    }
    let project = Project::new(server());
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = [Path::new(env!("CARGO_BIN_EXE_pgstencil")).parent(), server().bindir()];
    let folders = folders.into_iter().flatten().map(Path::to_owned).chain(std::env::split_paths(&inherited));
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runners.sh"))
        .env("PATH", std::env::join_paths(folders).unwrap())
        .env("PGSTENCIL_SERVER_URL", project.server_url())
        .env("PGSTENCIL_STATE_DIR", project.state_dir())
        .env("RUNNERS_REGISTRY", project.registry())
        .env("RUNNERS_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("runners"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{text}");
}
