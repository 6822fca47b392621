//! Work in the background, and what becomes of it where it is off.

use pgstencil::Stencil;
use pgstencil::config::BackgroundWork;

use crate::support::extension::{ensure, items, templates};
use crate::support::hold::list;
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, eventually, server};

const OFF: &str = "[clone]\nbackground = \"off\"\n";

fn registry(project: &Project<'_>, sql: &str) -> String {
    project.server().psql(&project.registry(), sql)
}

/// Number of clones in the registry, of any state.
fn clones(project: &Project<'_>) -> String {
    registry(project, "select count(*) from pgstencil.clone")
}

fn name_of(clone: &serde_json::Value) -> String {
    clone["clone"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn off_the_command_that_releases_drops() {
    let project = Project::with_migrations(server());
    project.append_config(&format!("before_release = '''echo \"$PGDATABASE\" >>released'''\n{OFF}"));
    let run = ["run", "--", "sh", "-c", "echo $PGDATABASE"];
    for outcome in ["miss", "hit"] {
        let out = Pgstencil::new(&project).args(run).success();
        assert!(!server().has_database(out.line()), "{outcome}");
        assert_eq!(clones(&project), "0", "{outcome}");
    }
    let out = Pgstencil::new(&project).args(["clone", "--json"]).success();
    let name = name_of(&out.json());
    Pgstencil::new(&project).args(["release", &name]).success();
    assert!(!server().has_database(&name));
    assert_eq!(clones(&project), "0");
    assert_eq!(project.read("released").lines().count(), 3);
    // Requests are counted all the same.
    assert_eq!(list(&project)["templates"][0]["hits"], 2);
}

#[test]
fn off_a_clone_whose_time_is_over_goes_with_the_next_command() {
    let project = Project::with_migrations(server());
    project.append_config(&format!("{OFF}orphan_grace = \"100ms\"\n"));
    let out = Pgstencil::new(&project).args(["clone", "--json", "--ttl", "1s"]).success();
    let name = name_of(&out.json());
    let gone = || {
        Pgstencil::new(&project).args(["run", "--", "true"]).success();
        !server().has_database(&name)
    };
    assert!(eventually(PATIENCE, gone));
}

#[test]
fn off_a_provisional_template_stays_until_it_is_asked_for() {
    let project = Project::extending(server(), "");
    project.append_config(OFF);
    ensure(&project);
    items(&project);
    assert_eq!(ensure(&project)["outcome"], "extended");
    Pgstencil::new(&project).args(["run", "--", "true"]).success();
    let provisional = || templates(&project).iter().any(|t| t["provisional"] == true);
    assert!(provisional());
    Pgstencil::new(&project).arg("explain").success().stdout_has("since background work is off");
    Pgstencil::new(&project).arg("doctor").run().stdout_has("background work: off");
    Pgstencil::new(&project).args(["ensure", "--rebuild"]).success();
    assert!(!provisional());
}

#[test]
fn the_variable_wins_and_paths_says_what_switched_it_off() {
    let project = Project::with_migrations(server());
    let with = |value: &str| Pgstencil::new(&project).env("PGSTENCIL_BACKGROUND", value);
    let paths = |value: &str| with(value).arg("paths");
    let variable = "the variable PGSTENCIL_BACKGROUND";
    paths("").success().stdout_has("background on\n");
    paths("off").success().stdout_has(&format!("background off, by {variable}\n"));
    assert_eq!(paths("off").arg("--json").success().json()["background_off_by"], variable);
    project.append_config(OFF);
    paths("").success().stdout_has("background off, by `[clone] background`\n");
    paths("auto").success().stdout_has("background on\n");
    for args in [&["paths"][..], &["run", "--", "true"]] {
        let out = with("no").args(args).fails(2);
        out.stderr_has("error: `PGSTENCIL_BACKGROUND` is `no`").stderr_has("hint: set it to `auto` or `off`");
    }
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("\"off\"", "\"sometimes\""));
    Pgstencil::new(&project)
        .arg("paths")
        .fails(2)
        .stderr_has("`clone.background` is `sometimes`")
        .stderr_has("values: auto, off");
}

#[tokio::test]
async fn off_a_program_drops_what_it_releases_before_it_goes_on() {
    let project = Project::with_migrations(server());
    let stencil = Stencil::open(project.path().join("pgstencil.toml"))
        .server_url(project.server_url())
        .background(BackgroundWork::Off)
        .await
        .unwrap();
    let lease = stencil.database().await.unwrap();
    let name = lease.name().to_owned();
    lease.release().await.unwrap();
    assert!(!server().has_database(&name));
    // A lease that is only dropped leaves its clone to the next call.
    let lease = stencil.database().await.unwrap();
    let name = lease.name().to_owned();
    drop(lease);
    assert!(server().has_database(&name));
    assert_eq!(stencil.fill().await.unwrap(), 0);
    stencil.close().await;
    assert!(!server().has_database(&name));
    assert_eq!(clones(&project), "0");
}

/// Lines of the log that hold a text: the process that wrote each.
pub(crate) fn logged(project: &Project<'_>, text: &str) -> Vec<String> {
    let paths = Pgstencil::new(project).args(["paths", "--json"]).success().json();
    let file = paths["background_log"].as_str().unwrap();
    let log = std::fs::read_to_string(file).unwrap_or_default();
    let lines = log.lines().filter(|line| line.contains(text));
    lines.map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn the_process_of_a_command_takes_the_work_of_the_next() {
    let project = Project::with_migrations(server());
    project.append_config("\n[clone]\nwarm = 1\nrecycle = \"never\"\n");
    Pgstencil::new(&project).arg("ensure").success();
    // Each drop is a line, with the process that did it. A busy machine may keep a command for longer than an idle
    // process stays.
    let taken = || {
        for _ in 0..3 {
            Pgstencil::new(&project).args(["run", "--", "true"]).success();
        }
        let pids = logged(&project, "dropped clone");
        let mut different = pids.clone();
        different.sort();
        different.dedup();
        different.len() < pids.len()
    };
    assert!(eventually(PATIENCE, taken));
    assert!(!logged(&project, "warm clone").is_empty());
}

#[test]
fn where_commands_of_the_config_may_run_each_has_its_own_process() {
    let project = Project::with_migrations(server());
    project.append_config("before_release = \"true\"\n\n[clone]\nwarm = 0\n");
    for _ in 0..4 {
        Pgstencil::new(&project).args(["run", "--", "true"]).success();
    }
    let dropped = || logged(&project, "dropped clone").len() == 4;
    assert!(eventually(PATIENCE, dropped), "{:?}", logged(&project, ""));
    assert_eq!(clones(&project), "0");
}
