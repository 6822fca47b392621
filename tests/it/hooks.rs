//! `before_release`: when it runs, in which checkout, and who is told how it ended.

use std::path::Path;
use std::sync::Mutex;

use nix::sys::signal::Signal;
use pgstencil::Stencil;
use pgstencil::events::Event;

use crate::owner::Checkout;
use crate::support::git::{git, repository};
use crate::support::hold::{Held, goes, no_clones_left};
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, ends, eventually, server};

/// Says what runs where, in one file for both hooks.
const LOG: &str = r#"echo "$PGSTENCIL_PHASE $PGDATABASE" >>hooks.log"#;

fn project(before_release: &str) -> Project<'static> {
    let project = Project::with_migrations(server());
    project.append_config(&config(before_release));
    project
}

fn config(before_release: &str) -> String {
    format!(
        "after_clone = '''{LOG}'''\nbefore_release = '''{before_release}'''\n[clone]\norphan_grace = \"100ms\"\n"
    )
}

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

fn log(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("hooks.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn both(name: &str) -> Vec<String> {
    ["after_clone", "before_release"].map(|phase| format!("{phase} {name}")).to_vec()
}

fn registry(project: &Project<'_>, sql: &str) -> String {
    server().psql(&project.registry(), sql)
}

fn owed(project: &Project<'_>) -> String {
    registry(project, "select count(*) from pgstencil.owed")
}

/// What a process in the background ran is noted a moment later.
#[track_caller]
fn nothing_owed(project: &Project<'_>) {
    assert!(eventually(PATIENCE, || owed(project) == "0"), "{}", owed(project));
}

/// Has a clone expire that this leaves behind.
fn clone_for_a_moment(project: &Project<'_>, name: &str) {
    pgstencil(project, &["clone", "--name", name, "--ttl", "1s"]).success();
}

/// Sweeps until the clone is gone: first it is noted, then dropped.
fn sweep(name: &str, command: impl Fn() -> Pgstencil) {
    let gone = || {
        command().success();
        !server().has_database(name)
    };
    assert!(eventually(PATIENCE, gone), "{name} is still there");
}

#[test]
fn it_sees_what_after_clone_saw_and_the_database() {
    let project = Project::with_migrations(server());
    let see = "env | grep -E '^(PG|DATABASE_URL|OWN)' | grep -v PHASE | sort >$PGSTENCIL_PHASE.env; \
               pwd >>$PGSTENCIL_PHASE.env";
    let host = server().host();
    project.append_config(&format!(
        "databases = [\"main\", \"log\"]\nallow_empty = true\nafter_clone = \"{see}\"\n\
         before_release = \"{see}; psql -XAtq -h {host} -c 'select count(*) from made' >made\"\n\
         [template.app.env]\nOWN_URL = \"{{log.url}}\"\n[template.app.run_env]\nOWN = \"{{root}}/{{name}}\"\n",
    ));
    let seen = || {
        let after = project.read("after_clone.env");
        assert_eq!(project.read("before_release.env"), after);
        after
    };
    let table = format!("psql -XAtq -h {host} -c 'create table made ()'");
    let options = ["--shard", "2/3", "--client-host", "db.example"];
    pgstencil(&project, &["run"]).args(options).args(["--", "sh", "-c", &table]).success().lacks("warning");
    let before = seen();
    for has in [
        "PGSTENCIL_SHARD=2\n",
        "PGSTENCIL_SHARDS=3\n",
        "PGHOST=db.example\n",
        "PGSTENCIL_OUTCOME=miss\n",
        "PGSTENCIL_URL_LOG=",
        &format!("OWN={}/", project.path().display()),
    ] {
        assert!(before.contains(has), "{has} is not in {before}");
    }
    assert_eq!(project.read("made"), "0\n");

    // Also where another command, which does not say them again, gives it back.
    let output = pgstencil(&project, &["clone"]).args(options).success();
    let first = output.stdout.lines().next().unwrap();
    let first = first.rsplit('/').next().unwrap();
    server().psql(first, "create table made ()");
    project.write("made", "");
    pgstencil(&project, &["release", first]).success().lacks("warning");
    let before = seen();
    for has in ["PGHOST=db.example\n", "PGSTENCIL_SHARD=2\n"] {
        assert!(before.contains(has), "{has} is not in {before}");
    }
    assert_eq!(project.read("made"), "0\n");
}

#[test]
fn it_runs_once_for_each_clone_that_is_given_back() {
    let project = project(LOG);
    let here = project.path();
    let clear = || project.write("hooks.log", "");

    // By the end of `run`, whatever its command said, for each of its clones.
    let code =
        pgstencil(&project, &["run", "--clones", "2", "--name", "{id}_{n}", "--", "sh", "-c", "exit 3"]);
    code.fails(3).lacks("warning");
    let lines = log(&here);
    let released: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("before_release ")).collect();
    let made: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("after_clone ")).collect();
    assert_eq!(released, made);
    assert_eq!(released.len(), 2);
    clear();

    // Not before its end.
    let name = format!("dev_{}", project.id);
    let made = || format!("after_clone {name}");
    pgstencil(&project, &["run", "--keep", "--name", &name, "--", "true"]).success();
    assert_eq!(log(&here), [made()]);
    pgstencil(&project, &["clone", "--name", &name]).success();
    assert_eq!(log(&here), [made()]);

    // By a fresh one of the name, before that is made.
    pgstencil(&project, &["clone", "--name", &name, "--fresh"]).success();
    let expected = [both(&name), vec![made()]].concat();
    assert_eq!(log(&here), expected);

    // By `release`; and with the second one nothing is left.
    pgstencil(&project, &["release", &name]).success();
    assert_eq!(log(&here), [both(&name), both(&name)].concat());
    goes(&project, &name);
    pgstencil(&project, &["ensure"]).success();
    assert_eq!(log(&here).len(), 4);
    nothing_owed(&project);
}

#[test]
fn pruned_clones_are_cleaned_up_by_their_own_checkout() {
    let project = project(LOG);
    repository(&project, &[]);
    let here = project.path();
    git(&here, &["checkout", "-q", "-b", "topic"]);
    let name = format!("topic_{}", project.id);
    let pattern = format!("{{branch}}_{}", project.id);
    pgstencil(&project, &["clone", "--name", &pattern]).success();
    git(&here, &["checkout", "-q", "-"]);
    git(&here, &["branch", "-q", "-D", "topic"]);
    pgstencil(&project, &["prune"]).success().stdout_has("released");
    assert_eq!(log(&here), both(&name));
}

#[test]
fn a_sweep_in_the_checkout_runs_it() {
    let project = project(LOG);
    let name = format!("dev_{}", project.id);
    clone_for_a_moment(&project, &name);
    sweep(&name, || pgstencil(&project, &["evict"]));
    assert_eq!(log(&project.path()), both(&name));
    // By the process in the background, too.
    let other = format!("other_{}", project.id);
    clone_for_a_moment(&project, &other);
    sweep(&other, || pgstencil(&project, &["ensure"]));
    let expected = [both(&name), both(&other)].concat();
    assert!(eventually(PATIENCE, || log(&project.path()) == expected));
    pgstencil(&project, &["evict"]).success();
    assert_eq!(log(&project.path()), expected);
    nothing_owed(&project);
}

#[test]
fn a_sweep_elsewhere_leaves_it_to_the_next_command_of_the_checkout() {
    let project = project(LOG);
    // Its own text: what the registry knows of the clone must not bring another command here.
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    for command in [&["ensure"][..], &["evict"], &["run", "--", "true"], &["pin"]] {
        project.write("hooks.log", "");
        clone_for_a_moment(&project, &name);
        sweep(&name, || other.pgstencil(&["evict"]));
        assert_eq!(owed(&project), "1");
        // Others find nothing to run, and reading runs nothing.
        other.pgstencil(&["ensure"]).success();
        pgstencil(&project, &["list"]).success();
        assert_eq!(log(&other.path), Vec::<String>::new());
        assert_eq!(log(&project.path()), [format!("after_clone {name}")]);
        pgstencil(&project, command).success().lacks("warning");
        assert_eq!(log(&project.path())[..2], both(&name), "{command:?}");
        let own = |line: &String| line.contains(&name);
        assert_eq!(log(&project.path()).iter().filter(|l| own(l)).count(), 2);
        nothing_owed(&project);
        // What goes on in the background would run it for the next clone.
        no_clones_left(&project);
    }
    assert_eq!(log(&other.path), Vec::<String>::new());
}

#[test]
fn another_owner_who_gives_a_clone_back_does_not_run_it() {
    let project = project(LOG);
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    let made = [format!("after_clone {name}")];
    for command in [&["release", "--take"][..], &["clone", "--take", "--fresh", "--name"]] {
        project.write("hooks.log", "");
        pgstencil(&project, &["clone", "--name", &name]).success();
        other.pgstencil(command).arg(&name).success();
        assert_eq!(log(&project.path()), made);
        if command[0] == "clone" {
            // While the other's clone has the name, a command of ours would meet that.
            pgstencil(&project, &["ensure"]).success();
            assert_eq!(log(&project.path()), made);
            other.pgstencil(&["release", &name]).success();
            assert_eq!(log(&other.path), both(&name));
        }
        goes(&project, &name);
        pgstencil(&project, &["ensure"]).success();
        assert_eq!(log(&project.path()), both(&name));
    }
    nothing_owed(&project);
}

#[test]
fn what_is_owed_runs_before_the_next_clone_of_the_name_is_made() {
    let project = project(LOG);
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    // Its own clone was swept elsewhere, and one that has expired is in the way.
    for swept in [true, false] {
        project.write("hooks.log", "");
        clone_for_a_moment(&project, &name);
        match swept {
            true => sweep(&name, || other.pgstencil(&["evict"])),
            false => std::thread::sleep(std::time::Duration::from_millis(1100)),
        }
        pgstencil(&project, &["clone", "--name", &name]).success();
        let expected = [both(&name), vec![format!("after_clone {name}")]].concat();
        assert_eq!(log(&project.path()), expected, "cleaned up: {swept}");
        pgstencil(&project, &["release", &name]).success();
        goes(&project, &name);
    }
}

#[test]
fn after_seven_days_it_is_forgotten() {
    let project = project(LOG);
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    for (days, runs) in [("6 days 23 hours", true), ("7 days 1 hour", false)] {
        project.write("hooks.log", "");
        clone_for_a_moment(&project, &name);
        sweep(&name, || other.pgstencil(&["evict"]));
        registry(&project, &format!("update pgstencil.owed set due_at = due_at - interval '{days}'"));
        pgstencil(&project, &["ensure"]).success();
        assert_eq!(log(&project.path()).len(), 1 + usize::from(runs), "{days}");
        nothing_owed(&project);
    }
}

#[test]
fn a_failure_is_told_and_changes_nothing_else() {
    let project = project("echo no bucket $PGDATABASE; echo $DATABASE_URL; exit 9");
    let told = |output: &crate::support::cli::Output| {
        output
            .stderr_has("warning: before_release of `app` failed (exit code 9, after ")
            .stderr_has("command: echo no bucket $PGDATABASE")
            .stderr_has("no bucket ");
        let secret = format!(":{}@", server().password());
        assert!(!output.stderr.contains(&secret), "{}", output.stderr);
    };
    let name = format!("dev_{}", project.id);
    told(&pgstencil(&project, &["run", "--", "sh", "-c", "exit 5"]).fails(5));
    pgstencil(&project, &["clone", "--name", &name]).success();
    told(&pgstencil(&project, &["clone", "--fresh", "--name", &name]).success());
    let released = pgstencil(&project, &["release", "--json", &name]).success();
    told(&released);
    assert_eq!(released.json()["released"][0], *name);
    goes(&project, &name);
    nothing_owed(&project);
    // Nobody hears the process in the background: a later command tells, once.
    clone_for_a_moment(&project, &name);
    let mut output = None;
    let heard = eventually(PATIENCE, || {
        let ensured = pgstencil(&project, &["ensure"]).success();
        let heard = ensured.stderr.contains("before_release");
        output = Some(ensured);
        heard
    });
    assert!(heard);
    told(&output.unwrap());
    pgstencil(&project, &["ensure"]).success().lacks("before_release");
    nothing_owed(&project);
}

#[test]
fn one_that_hangs_is_ended() {
    let project = project("echo emptying the bucket; echo $$ >pid; touch started; exec sleep 600");
    pgstencil(&project, &["ensure"]).success();
    let started = || project.path().join("started").exists();
    let pid = || project.read("pid").trim().parse().unwrap();
    let again = || std::fs::remove_file(project.path().join("started")).unwrap();

    let output = pgstencil(&project, &["--wait", "5s", "run", "--", "sh", "-c", "exit 4"]).fails(4);
    output.stderr_has("before_release of `app` was ended").stderr_has("emptying the bucket");
    assert!(started() && ends(pid()));
    again();

    // Ctrl-C ends it, too; the clone is released.
    let run = pgstencil(&project, &["run", "--", "true"]).spawn();
    assert!(eventually(PATIENCE, started));
    run.signal(Signal::SIGINT);
    let output = run.wait();
    output.code(0).stderr_has("before_release of `app` was interrupted\n  clone: ");
    assert!(ends(pid()));
    again();
    nothing_owed(&project);

    // Killed in the midst of it: nobody knows how far it came, and it does not run again.
    let name = format!("dev_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    let mut release = pgstencil(&project, &["release", &name]).spawn();
    assert!(eventually(PATIENCE, started));
    // As long as it may run, others leave it alone.
    pgstencil(&project, &["ensure"]).success().lacks("warning");
    release.kill9();
    assert!(ends(pid()));
    again();
    registry(&project, "update pgstencil.clone set expires_at = now() where state = 'leased'");
    let other = Checkout::new(&project, "other");
    sweep(&name, || other.pgstencil(&["evict"]));
    let words = format!("before_release of `app` was interrupted for clone {name}, since");
    pgstencil(&project, &["ensure"]).success().stderr_has(&words);
    pgstencil(&project, &["ensure"]).success().lacks("before_release");
    assert!(!started());
    nothing_owed(&project);
}

#[test]
fn the_clone_of_a_killed_run_is_cleaned_up() {
    let project = project(LOG);
    let mut held = Held::idle(&project, &[]);
    let name = held.database.clone();
    held.run.kill9();
    held.end();
    let other = Checkout::new(&project, "other");
    sweep(&name, || other.pgstencil(&["evict"]));
    assert_eq!(log(&project.path()), [format!("after_clone {name}")]);
    pgstencil(&project, &["ensure"]).success();
    assert_eq!(log(&project.path()), both(&name));
}

#[test]
fn it_runs_where_after_clone_failed() {
    let project = Project::with_migrations(server());
    project.append_config(&format!("after_clone = '''{LOG}; exit 1'''\nbefore_release = '''{LOG}'''\n"));
    let name = format!("dev_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).fails(4);
    assert_eq!(log(&project.path()), both(&name));
}

#[test]
fn without_such_a_command_nothing_is_noted() {
    let project = project("");
    pgstencil(&project, &["run", "--", "true"]).success();
    assert_eq!(registry(&project, "select count(*) from pgstencil.owed"), "0");
    // One that the file no longer has is kept for the branch that has it.
    let project = self::project(LOG);
    let name = format!("dev_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    let with = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &with.replace("before_release", "#before_release"));
    pgstencil(&project, &["release", &name]).success();
    goes(&project, &name);
    project.write("pgstencil.toml", &with);
    pgstencil(&project, &["ensure"]).success();
    assert_eq!(log(&project.path()), both(&name));
}

#[test]
fn it_stands_in_the_defaults() {
    let project = Project::with_migrations(server());
    project.append_config(&format!("after_clone = '''{LOG}'''\n[defaults]\nbefore_release = '''{LOG}'''\n"));
    pgstencil(&project, &["run", "--", "true"]).success();
    assert_eq!(log(&project.path()).len(), 2);
}

async fn stencil(project: &Project<'_>, folder: &Path) -> Stencil {
    let file = folder.join("pgstencil.toml");
    Stencil::open(file).server_url(project.server_url()).await.unwrap()
}

#[tokio::test]
async fn a_program_runs_it_when_it_gives_back_and_for_what_it_dropped() {
    let project = project(&format!("{LOG}; echo no bucket; exit 2"));
    let own = stencil(&project, &project.path()).await;
    let lease = own.database().await.unwrap();
    let name = lease.name().to_owned();
    let warnings = lease.release().await.unwrap();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.to_string().contains("no bucket"), "{warning}");
    assert_eq!(log(&project.path()), both(&name));

    // A hand-out that is dropped: swept by the program's thread. Programs of other directories have nothing to do
    // with it, although none of them says in which checkout it is.
    let other = Checkout::new(&project, "other");
    std::fs::write(other.path.join("hooks.log"), "").unwrap();
    let another = stencil(&project, &other.path).await;
    let lease = own.database().await.unwrap();
    let name = lease.name().to_owned();
    drop(lease);
    let swept = async || {
        another.database().await.unwrap().release().await.unwrap();
        another.close().await;
        !server().has_database(&name)
    };
    assert!(crate::support::eventually_async(PATIENCE, swept).await);
    assert!(!log(&other.path).iter().any(|line| line.contains(&name)));
    let events = Mutex::new(String::new());
    let observe = |event: Event<'_>| {
        if let Event::Warning(warning) = event {
            events.lock().unwrap().push_str(&warning.to_string());
        }
    };
    // Its own thread may be at it just now; then the hand-out would find the command running.
    own.close().await;
    let lease = own.database().observe(&observe).await.unwrap();
    assert_eq!(log(&project.path())[2..4], both(&name));
    assert!(events.lock().unwrap().contains("no bucket"));
    lease.release().await.unwrap();
    own.close().await;
    nothing_owed(&project);
}
