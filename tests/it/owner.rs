//! Whose a named clone is: a role of the server, in a checkout on a machine.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::hold::{Held, goes, list, listed, oid, only_templates_left};
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, Role, copy, eventually, gives_up, server};

/// Another checkout of the project, beside it.
pub(crate) struct Checkout<'p, 's> {
    project: &'p Project<'s>,
    pub(crate) path: PathBuf,
}

impl<'p, 's> Checkout<'p, 's> {
    pub(crate) fn new(project: &'p Project<'s>, name: &str) -> Self {
        let path = project.path().parent().unwrap().join(name);
        copy(&project.path(), &path);
        Checkout { project, path }
    }

    pub(crate) fn pgstencil(&self, args: &[&str]) -> Pgstencil {
        Pgstencil::new(self.project).current_dir(&self.path).args(args)
    }
}

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

fn registry(project: &Project<'_>, sql: &str) -> String {
    server().psql(&project.registry(), sql)
}

#[tokio::test]
async fn another_checkout_gets_no_clone_of_ours_unless_it_insists() {
    let project = Project::with_migrations(server());
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    let before = oid(&project, &name);
    server().psql(&name, "create table mine ()");
    let owner = listed(&project, &name)["owner"].clone();
    assert_eq!(owner["role"], server().user());
    assert_eq!(owner["top"], project.path().to_str().unwrap());
    let mut session = server().connect(&name).await;

    for command in [
        &["clone", "--name"][..],
        &["clone", "--fresh", "--name"],
        &["clone", "--ttl", "1s", "--name"],
        &["run", "--name"],
        &["release"],
    ] {
        other
            .pgstencil(command)
            .arg(&name)
            .fails(7)
            .stdout("")
            .stderr_has(&format!("clone `{name}` belongs to another owner"))
            .stderr_has(&format!("role `{}`", server().user()))
            .stderr_has(project.path().to_str().unwrap())
            .stderr_has(&format!("since {}", owner["since"].as_str().unwrap()))
            .stderr_has("--take");
    }
    assert_eq!(listed(&project, &name)["owner"], owner);
    assert_eq!(oid(&project, &name), before);
    sqlx::raw_sql("select * from mine").execute(&mut session).await.unwrap();
    assert_eq!(
        pgstencil(&project, &["clone", "--name", &name, "--json"]).success().json()["outcome"],
        "reused"
    );

    // Taken, with what is in it, and with those who are in it.
    let json = other.pgstencil(&["clone", "--name", &name, "--take", "--json"]).success();
    json.stderr_has("took over clone ");
    assert_eq!(json.json()["outcome"], "reused");
    assert_eq!(oid(&project, &name), before);
    sqlx::raw_sql("select * from mine").execute(&mut session).await.unwrap();
    let owner = listed(&project, &name)["owner"].clone();
    assert_eq!(owner["top"], other.path.to_str().unwrap());
    for command in [&["clone", "--name"][..], &["release"]] {
        pgstencil(&project, command).arg(&name).fails(7).stderr_has(other.path.to_str().unwrap());
    }

    // And back, without.
    pgstencil(&project, &["clone", "--name", &name, "--take", "--fresh"]).success();
    assert_ne!(oid(&project, &name), before);
    assert!(sqlx::raw_sql("select 1").execute(&mut session).await.is_err());
    drop(session);
    pgstencil(&project, &["release", &name]).success();
    goes(&project, &name);
    // The one who lost it is told.
    let output = other.pgstencil(&["clone", "--name", &name]).success();
    output
        .stderr_has(&format!("your previous clone {name} was dropped"))
        .stderr_has("replaced it with `pgstencil clone --take --fresh`");
    pgstencil(&project, &["release", &name, "--take"]).success();
    goes(&project, &name);
    let json = other.pgstencil(&["clone", "--name", &name, "--json"]).success().json();
    assert_eq!(json["dropped"]["name"], *name);
    assert!(json["dropped"]["why"].as_str().unwrap().contains("released it with"));
    other.pgstencil(&["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn what_a_command_holds_is_not_taken() {
    let project = Project::with_migrations(server());
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    let held = Held::idle(&project, &["--name", &name]);
    let before = oid(&project, &name);
    for command in [
        &["clone", "--take", "--name"][..],
        &["clone", "--take", "--fresh", "--name"],
        &["release", "--take"],
    ] {
        for from in [project.path(), other.path.clone()] {
            Pgstencil::new(&project)
                .current_dir(from)
                .args(command)
                .arg(&name)
                .fails(7)
                .stdout("")
                .stderr_has(&format!("pid {}", held.run.id()));
        }
    }
    assert_eq!(oid(&project, &name), before);
    held.end();
    held.run.wait().code(0).lacks("warning");
    only_templates_left(&project);
}

#[test]
fn clones_without_a_name_of_their_own_are_given_back_by_their_owner_only() {
    let project = Project::with_migrations(server());
    let other = Checkout::new(&project, "other");
    let json = pgstencil(&project, &["clone", "--json"]).success().json();
    let clone = &json["clone"];
    for by in ["id", "name"] {
        other
            .pgstencil(&["release", clone[by].as_str().unwrap()])
            .fails(7)
            .stderr_has("belongs to another owner");
    }
    other.pgstencil(&["release", "--take", clone["id"].as_str().unwrap()]).success();
    only_templates_left(&project);
}

#[test]
fn pgstencil_owner_stands_for_machine_and_checkout() {
    let project = Project::with_migrations(server());
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    let clone = ["clone", "--name", &name];
    let runner = |command: Pgstencil, owner: &str| command.env("PGSTENCIL_OWNER", owner);
    runner(pgstencil(&project, &clone), "runner-7").success();
    let owner = listed(&project, &name)["owner"].clone();
    assert_eq!(owner["name"], "runner-7");
    runner(other.pgstencil(&clone), "runner-7").success().stderr_has("reused");
    // The same checkout under no name, and under another.
    for command in [pgstencil(&project, &clone), runner(pgstencil(&project, &clone), "runner-8")] {
        command.fails(7).stderr_has("PGSTENCIL_OWNER `runner-7`");
    }
    runner(other.pgstencil(&["release", &name]), "runner-7").success();
    only_templates_left(&project);
}

#[test]
fn another_role_of_the_server_is_another_owner() {
    let group = Role::new(server());
    let members = [Role::new(server()), Role::new(server())];
    for member in &members {
        server().psql(
            "postgres",
            &format!("grant {0} to {1}; alter role {1} set role = {0}", group.name, member.name),
        );
    }
    let mut project = Project::with_migrations(server());
    let name = format!("dev_{}", project.id);
    project.connect_as(&members[0]);
    pgstencil(&project, &["clone", "--name", &name]).success();
    assert_eq!(listed(&project, &name)["owner"]["role"], *members[0].name);
    project.connect_as(&members[1]);
    pgstencil(&project, &["clone", "--name", &name])
        .fails(7)
        .stderr_has(&format!("role `{}`", members[0].name));
    pgstencil(&project, &["clone", "--name", &name, "--take"]).success();
    project.connect_as(&members[0]);
    pgstencil(&project, &["release", &name]).fails(7);
    project.connect_as(&members[1]);
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn a_project_may_share_its_named_clones() {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\nnamed = \"project\"");
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    let clone = ["clone", "--name", &name];
    pgstencil(&project, &clone).success();
    let before = oid(&project, &name);
    let owner = listed(&project, &name)["owner"].clone();
    assert_eq!(owner["shared"], true);
    other.pgstencil(&clone).success().stderr_has("reused");
    // It stays the clone of who made it.
    assert_eq!(listed(&project, &name)["owner"], owner);
    assert_eq!(oid(&project, &name), before);
    other.pgstencil(&["clone", "--name", &name, "--fresh"]).success();
    assert_ne!(oid(&project, &name), before);
    pgstencil(&project, &["release", &name]).success();
    goes(&project, &name);

    // Only with those who say so, too.
    pgstencil(&project, &clone).success();
    let config = std::fs::read_to_string(other.path.join("pgstencil.toml")).unwrap();
    let alone = config.replace("named = \"project\"", "named = \"checkout\"");
    std::fs::write(other.path.join("pgstencil.toml"), &alone).unwrap();
    other.pgstencil(&clone).fails(7).stderr_has("`[clone] named = \"project\"`");
    // And of the project.
    let elsewhere = config.replace(&project.name(), &format!("{}_too", project.name()));
    std::fs::write(other.path.join("pgstencil.toml"), elsewhere).unwrap();
    other.pgstencil(&clone).fails(7);
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn of_two_owners_who_want_a_name_at_once_one_gets_it() {
    let project = Project::with_migrations(server());
    pgstencil(&project, &["ensure"]).success();
    let other = Checkout::new(&project, "other");
    let places = [project.path(), other.path.clone()];
    for round in 0..3 {
        let name = format!("dev_{round}_{}", project.id);
        let all: Vec<_> = (0..6)
            .map(|n| {
                let place = n % 2;
                let command =
                    Pgstencil::new(&project).current_dir(&places[place]).args(["clone", "--name", &name]);
                (place, command.spawn())
            })
            .collect();
        let mut got = [0, 0];
        let mut refused = String::new();
        for (place, running) in all {
            let output = running.wait();
            match output.status.code() {
                Some(0) => got[place] += 1,
                _ => refused += &output.code(7).stdout("").to_string(),
            }
        }
        let owner = listed(&project, &name)["owner"]["top"].clone();
        let winner = places.iter().position(|p| owner == p.to_str().unwrap());
        let winner = winner.unwrap();
        assert_eq!((got[winner], got[1 - winner]), (3, 0), "{refused}");

        // Both insist: each gets the same database, one after the other, and it is one's in the end.
        let before = oid(&project, &name);
        let all: Vec<_> = places
            .iter()
            .map(|place| {
                Pgstencil::new(&project).current_dir(place).args(["clone", "--take", "--name", &name]).spawn()
            })
            .collect();
        for running in all {
            running.wait().code(0);
        }
        assert_eq!(oid(&project, &name), before);
        let owner = listed(&project, &name)["owner"]["top"].clone();
        let (first, second) = match owner == places[0].to_str().unwrap() {
            true => (&places[1], &places[0]),
            false => (&places[0], &places[1]),
        };
        for (place, code) in [(first, 7), (second, 0)] {
            Pgstencil::new(&project).current_dir(place).args(["release", &name]).fails(code);
        }
    }
    only_templates_left(&project);
}

/// Without `project` in the config, copies of a repository are projects of their own.
#[test]
fn a_clone_is_taken_into_another_project() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml");
    let named = format!("project = \"{}\"\n", project.name());
    project.write("pgstencil.toml", &config.replace(&named, ""));
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    let before = oid(&project, &name);
    other.pgstencil(&["clone", "--name", &name]).fails(7);
    let take = ["clone", "--take", "--json", "--name", &name];
    let json = other.pgstencil(&take).success().json();
    assert_eq!(json["outcome"], "reused");
    assert_eq!(json["stale"], false);
    assert_eq!(oid(&project, &name), before);
    assert_eq!(listed(&project, &name)["project"], "other");
    other.pgstencil(&["clone", "--name", &name]).success().stderr_has("reused");
    // The same checkout under another name of the project.
    let renamed = format!("project = \"too\"\n{}", config.replace(&named, ""));
    std::fs::write(other.path.join("pgstencil.toml"), renamed).unwrap();
    other.pgstencil(&["clone", "--name", &name]).fails(7).stderr_has("belongs to another definition");
    other.pgstencil(&take).success().lacks("took over clone ");
    assert_eq!(oid(&project, &name), before);
    other.pgstencil(&["release", &name]).success();
    only_templates_left(&project);
}

/// A fresh start of one owner must not end what the other got in between.
#[test]
fn a_fresh_start_and_a_taking_at_once_leave_one_owner() {
    let project = Project::with_migrations(server());
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    for _ in 0..4 {
        let fresh = pgstencil(&project, &["clone", "--fresh", "--name", &name]).spawn();
        let take = other.pgstencil(&["clone", "--take", "--name", &name]).spawn();
        let (fresh, take) = (fresh.wait(), take.wait());
        let codes = [fresh.status.code(), take.status.code()];
        assert!(codes.iter().all(|c| matches!(c, Some(0 | 7))), "{fresh}{take}");
        assert!(codes.contains(&Some(0)), "{fresh}{take}");
        let clones = list(&project)["clones"].as_array().unwrap().clone();
        let leased: Vec<_> = clones.iter().filter(|c| c["state"] == "leased").collect();
        assert_eq!(leased.len(), 1, "{clones:?}");
        assert!(!oid(&project, &name).is_empty());
        // Back to the start.
        pgstencil(&project, &["clone", "--take", "--name", &name]).success();
    }
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn clones_from_before_belong_to_whom_their_holder_matches() {
    let project = Project::with_migrations(server());
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    // As an upgrade leaves it.
    registry(
        &project,
        "update pgstencil.clone set owner_role = null, owner_machine = '', owner_top = '', \
         owner_below = '', holder = holder - 'checkout'",
    );
    other.pgstencil(&["clone", "--name", &name]).fails(7).stderr_has(project.path().to_str().unwrap());
    other.pgstencil(&["release", &name]).fails(7);
    // Its owner's next command records who that is.
    pgstencil(&project, &["clone", "--name", &name]).success().stderr_has("reused");
    let owner = listed(&project, &name)["owner"].clone();
    assert_eq!(owner["role"], server().user());
    assert_eq!(owner["top"], project.path().to_str().unwrap());

    registry(
        &project,
        "update pgstencil.clone set owner_role = null, holder = holder || '{\"host\": \"elsewhere\"}'",
    );
    pgstencil(&project, &["clone", "--name", &name]).fails(7).stderr_has("on elsewhere");
    pgstencil(&project, &["clone", "--name", &name, "--take"]).success();
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

const SET: &str = r#"
project = "{project}"
[server]
registry = "{registry}"
[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
databases = ["default", "p1"]
"#;

#[test]
fn a_clone_with_other_databases_than_the_definition_is_not_given_back() {
    let project = Project::with_migrations(server());
    project.config(SET);
    let pattern = format!("r_{{alias}}_{}", project.id);
    let clone = |args: &[&str]| pgstencil(&project, &["clone", "--name", &pattern]).args(args);
    clone(&[]).success();
    let name = |alias: &str| format!("r_{alias}_{}", project.id);
    let before = oid(&project, &name("default"));
    // One more, at the end and in front; one less.
    for databases in [
        r#"["default", "p1", "p2"]"#,
        r#"["p2", "default", "p1"]"#,
        r#"["p1", "default"]"#,
        r#"["default"]"#,
        r#"["p1"]"#,
    ] {
        project.config(&SET.replace(r#"["default", "p1"]"#, databases));
        let output = clone(&[]).fails(7);
        output
            .stdout("")
            .stderr_has(&format!("has: default (`{}`), p1 (`{}`)", name("default"), name("p1")))
            .stderr_has("the definition has: ")
            .stderr_has("--fresh");
        assert_eq!(oid(&project, &name("default")), before);
    }
    project.config(&SET.replace(r#"["default", "p1"]"#, r#"["p2", "default"]"#));
    let json = clone(&["--fresh", "--json"]).success().json();
    let databases = json["clone"]["databases"].as_object().unwrap();
    assert_eq!(databases.keys().collect::<Vec<_>>(), ["default", "p2"]);
    assert_ne!(oid(&project, &name("default")), before);
    goes(&project, &name("p1"));
    clone(&[]).success().stderr_has("reused");
    // Half of it is gone: what is left is not dropped unasked.
    server().psql("postgres", &format!("drop database {}", name("p2")));
    let left = oid(&project, &name("default"));
    clone(&[]).fails(7).stderr_has(&format!("`{}` of that clone no longer exists", name("p2")));
    assert_eq!(oid(&project, &name("default")), left);
    clone(&["--fresh"]).success();
    pgstencil(&project, &["release", &name("default")]).success();
    only_templates_left(&project);
}

#[test]
fn a_clone_that_somebody_dropped_is_made_anew_and_told() {
    let project = Project::with_migrations(server());
    let name = format!("dev_{}", project.id);
    let clone = || pgstencil(&project, &["clone", "--name", &name, "--ttl", "never"]);
    clone().success();
    server().psql("postgres", &format!("drop database {name}"));
    clone()
        .success()
        .stderr_has("was dropped at ")
        .stderr_has(&format!("its database `{name}` was dropped, renamed"));
    clone().success().stderr_has("reused").lacks("was dropped");
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn another_definition_of_the_same_owner_does_not_get_it() {
    let project = Project::with_migrations(server());
    project.append_config("[template.too]\nmigrations = [\"migrations/*.sql\"]\nbuild = \"sh migrate.sh\"");
    let name = format!("dev_{}", project.id);
    pgstencil(&project, &["clone", "-t", "app", "--name", &name]).success();
    let before = oid(&project, &name);
    for args in [&[][..], &["--fresh"], &["--take"]] {
        pgstencil(&project, &["clone", "-t", "too", "--name", &name])
            .args(args)
            .fails(7)
            .stderr_has("belongs to another definition");
    }
    assert_eq!(oid(&project, &name), before);
    pgstencil(&project, &["clone", "-t", "too", "--name", &name]).args(["--take", "--fresh"]).success();
    assert_eq!(listed(&project, &name)["template"], "too");
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

#[test]
fn a_reused_clone_says_what_it_and_the_files_are() {
    let project = Project::with_migrations(server());
    let name = format!("dev_{}", project.id);
    let clone = |args: &[&str]| pgstencil(&project, &["clone", "--name", &name]).args(args);
    let made = clone(&["--json"]).success().json();
    assert!(made["stale"].is_null());
    let same = clone(&["--json"]).success().json();
    assert_eq!(same["stale"], false);
    assert_eq!(same["clone"]["age"], "same");
    assert_eq!(same["clone"]["fingerprint"], made["fingerprint"]);

    let stale = |age: &str, words: &str| {
        let json = clone(&["--json"]).success().json();
        assert_eq!(json["outcome"], "reused");
        assert_eq!(json["stale"], true);
        assert_eq!(json["clone"]["age"], age);
        assert_eq!(json["clone"]["fingerprint"], made["fingerprint"]);
        assert_ne!(json["fingerprint"], made["fingerprint"]);
        let short = |fingerprint: &Value| fingerprint.as_str().unwrap()[..12].to_owned();
        let (old, new) = (short(&made["fingerprint"]), short(&json["fingerprint"]));
        let output = clone(&[]).success();
        output
            .stderr_has(&format!("reused app ({old}; the files are {new})"))
            .stderr_has(&format!("was created from {words}"))
            .stderr_has(&format!("its fingerprint is {old}, and that of the current files is {new}"));
        for other in ["older", "newer", "other"].iter().filter(|w| !words.starts_with(**w)) {
            output.lacks(&format!("from {other}"));
        }
    };
    project.add_migration("0003_more", "create table more ()");
    stale("older", "older migrations");
    std::fs::remove_file(project.path().join("migrations/0003_more.sql")).unwrap();
    let second = project.read("migrations/0002_orders.sql");
    std::fs::remove_file(project.path().join("migrations/0002_orders.sql")).unwrap();
    stale("newer", "newer migrations");
    // An older branch that was built later is no newer for that.
    pgstencil(&project, &["ensure"]).success();
    stale("newer", "newer migrations");
    project.write("migrations/0002_orders.sql", &format!("{second}-- edited\n"));
    stale("other", "other files");
    pgstencil(&project, &["release", &name]).success();
    only_templates_left(&project);
}

/// Waits until the registry knows the command of a run.
fn knows_command(project: &Project<'_>, name: &str) {
    let known = format!("select count(*) from pgstencil.clone where name = '{name}' and command_pid > 0");
    assert!(eventually(PATIENCE, || registry(project, &known) == "1"));
}

#[test]
fn the_command_of_a_killed_run_keeps_its_clone() {
    let project = Project::with_migrations(server());
    let other = Checkout::new(&project, "other");
    let name = format!("dev_{}", project.id);
    // Without a session, and with one.
    for inside in [false, true] {
        let mut held = match inside {
            true => Held::inside(&project, &["--name", &name]),
            false => Held::idle(&project, &["--name", &name]),
        };
        let before = oid(&project, &name);
        knows_command(&project, &name);
        held.run.kill9();
        let again = ["run", "--name", &name, "--", "echo", "mine"];
        // Not so long: a time-out. And not for others.
        gives_up(|wait| pgstencil(&project, &["--wait", wait]).args(again), "killed `pgstencil run`")
            .stdout("");
        other.pgstencil(&again).fails(7).stdout("");
        pgstencil(&project, &["clone", "--fresh", "--name", &name, "--wait", "500ms"]).fails(5);
        let mut second = pgstencil(&project, &again).spawn();
        second.wait_for_text("waiting for the command of a killed `pgstencil run`");
        assert!(!second.wait_timeout(std::time::Duration::from_millis(300)));
        assert_eq!(oid(&project, &name), before);
        held.end();
        second.wait().code(0).stdout("mine\n");
        assert!(oid(&project, &name).is_empty() || oid(&project, &name) != before);
        only_templates_left(&project);
        std::fs::remove_file(project.path().join(format!("end-{name}"))).unwrap();
    }
}

#[test]
fn the_clone_of_a_killed_run_goes_at_once_if_its_command_is_gone() {
    let project = Project::with_migrations(server());
    let name = format!("dev_{}", project.id);
    let mut held = Held::idle(&project, &["--name", &name]);
    knows_command(&project, &name);
    held.run.kill9();
    held.end();
    // Within far less than the grace of two minutes.
    pgstencil(&project, &["run", "--name", &name, "--", "echo", "mine"]).success().stdout("mine\n");
    only_templates_left(&project);
}

#[test]
fn a_killed_run_elsewhere_keeps_its_clone_for_the_grace() {
    let project = Project::with_migrations(server());
    let name = format!("dev_{}", project.id);
    let mut held = Held::idle(&project, &["--name", &name]);
    let before = oid(&project, &name);
    knows_command(&project, &name);
    held.run.kill9();
    held.end();
    let ran = |set: &str| registry(&project, &format!("update pgstencil.clone set {set}"));
    let again = || pgstencil(&project, &["run", "--name", &name, "--", "echo", "mine"]);
    // Before another boot, and killed just when it started its command.
    for set in
        ["holder = holder || '{\"machine\": \"another boot\"}'", "command_pid = 0, command_group = null"]
    {
        ran("command_pid = 1, command_group = null, orphaned_at = null");
        ran(set);
        again()
            .fails(7)
            .stdout("")
            .stderr_has("may still be in use")
            .stderr_has("the name becomes free in ")
            .stderr_has("`orphan_grace` of 2m");
        assert_eq!(oid(&project, &name), before);
    }
    ran("orphaned_at = now() - interval '1 minute'");
    let output = again().fails(7);
    output.stderr_has("the name becomes free in ");
    let left = ["in 1m", "in 5", "in 4", "in 3"];
    assert!(left.iter().any(|left| output.stderr.contains(left)), "{output}");
    ran("orphaned_at = now() - interval '3 minutes'");
    again().success().stdout("mine\n");
    only_templates_left(&project);
}
