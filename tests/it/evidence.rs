//! `rebuild = "auto"`: which provisional templates get their full build, and which are accepted without one.

use std::time::Duration;

use serde_json::Value;

use crate::support::extension::{ensure, items, outcome, registry, templates};
use crate::support::server::{PATIENCE, quote_literal};
use crate::support::{Build, Pgstencil, Project, eventually, server};

/// A project with a template of two migrations, and an extended one of three.
fn extended() -> Project<'static> {
    let project = Project::extending(server(), "");
    assert_eq!(ensure(&project)["outcome"], "miss");
    items(&project);
    // One fingerprint in 32 is drawn for a check whatever the evidence.
    for n in 0.. {
        let answer = Pgstencil::new(&project).args(["explain", "--json"]).success().json();
        if answer["fingerprint"].as_str().unwrap() >= "08" {
            break;
        }
        project
            .write("migrations/0003_items.sql", &format!("create table items (id int primary key); -- {n}"));
    }
    // The first one of a definition is checked in the background.
    Pgstencil::new(&project)
        .arg("ensure")
        .env("PGSTENCIL_BACKGROUND", "off")
        .success()
        .stderr_has("extended");
    project
}

/// As if all templates had been built so long before. After a day a rebuild does not wait for an idle machine.
fn age(project: &Project<'_>, time: &str) {
    let time = quote_literal(time);
    registry(project, &format!("update pgstencil.template set created_at = created_at - interval {time}"));
}

/// As [`extended`], but the evidence of 40 equal ones has accepted the extended template.
fn with_an_accepted_one() -> Project<'static> {
    let project = extended();
    found_equal(&project, 40);
    age(&project, "1 day");
    outcome(&project, "hit");
    let is_accepted = || last(&project)["accepted_at"].is_string();
    assert!(eventually(PATIENCE, is_accepted), "{:?}", templates(&project));
    project
}

/// Records that this number of incremental builds was found equal before.
fn found_equal(project: &Project<'_>, links: u32) {
    registry(
        project,
        &format!(
            "insert into pgstencil.comparison (project, definition, fingerprint, core, difference, links) \
             values ({}, 'app', repeat('f', 64), '', '', {links})",
            quote_literal(&project.name())
        ),
    );
}

/// The ready template of the most migrations.
fn last(project: &Project<'_>) -> Value {
    let all = templates(project);
    all.into_iter().rfind(|t| t["state"] == "ready").unwrap()
}

#[track_caller]
fn rebuilt(project: &Project<'_>) {
    let exact = || templates(project).iter().all(|t| t["chain"] == 0 && t["state"] == "ready");
    assert!(eventually(PATIENCE, exact), "{:?}", templates(project));
}

#[test]
fn the_first_one_of_a_definition_is_rebuilt_after_the_command() {
    let project = Project::extending(server(), "");
    assert_eq!(ensure(&project)["outcome"], "miss");
    items(&project);
    outcome(&project, "extended");
    rebuilt(&project);
    // The next one waits for a second use.
    project.add_migration("0004_more", "create table more ();");
    outcome(&project, "extended");
    assert_eq!(last(&project)["rebuild"]["next"], "wait");
    assert_eq!(project.builds(), 4);
}

#[test]
fn a_template_is_rebuilt_when_it_is_used_again_later() {
    let project = extended();
    found_equal(&project, 1);
    outcome(&project, "hit");
    outcome(&project, "hit");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(project.builds(), 2, "it is only some seconds old");
    age(&project, "1 day");
    assert_eq!(outcome(&project, "hit")["provisional"], true);
    rebuilt(&project);
    assert_eq!(project.builds(), 3);
    assert_eq!(registry(&project, "select links from pgstencil.comparison"), "1\n1");
    assert_eq!(outcome(&project, "hit")["provisional"], false);
}

#[test]
fn warm_clones_are_uses_too() {
    let project = extended();
    age(&project, "1 day");
    for args in [&["clone"][..], &["run", "--", "true"]] {
        Pgstencil::new(&project).args(args).success();
    }
    rebuilt(&project);
}

#[test]
fn after_a_row_of_equal_ones_a_template_is_accepted_without_a_full_build() {
    let project = with_an_accepted_one();
    let row = last(&project);
    assert_eq!(row["provisional"], false);
    assert_eq!(row["chain"], 1);
    let answer = outcome(&project, "hit");
    assert_eq!(answer["provisional"], false);
    Pgstencil::new(&project).args(["run", "--", "true"]).success();
    assert_eq!(project.builds(), 2);
    // It is still no full build, so a release pipeline can ask for one.
    Pgstencil::new(&project).args(["ensure", "--rebuild"]).success();
    assert_eq!(last(&project)["chain"], 0);
    assert_eq!(project.builds(), 3);
}

#[test]
fn a_difference_withdraws_what_was_accepted_and_makes_the_next_rebuilds_sure() {
    let project = with_an_accepted_one();
    let first = last(&project);
    // A later one differs.
    project.build(&Build::Script(
        "migrate; [ $PGSTENCIL_OUTCOME = miss ] || [ ! -e ../doubling ] \\
             || sql -d \"$DATABASE_URL\" -c \"insert into users select count(*) + 1, 'seed' from users\""
            .into(),
    ));
    project.write("../doubling", "");
    project.add_migration("0004_more", "create table more ();");
    outcome(&project, "extended");
    Pgstencil::new(&project).args(["ensure", "--rebuild"]).success();
    let of = |fingerprint: &Value| {
        let all = templates(&project);
        all.into_iter().find(|t| t["fingerprint"] == *fingerprint && t["state"] == "ready").unwrap()
    };
    assert_eq!(of(&first["fingerprint"])["provisional"], true);
    assert!(of(&first["fingerprint"])["accepted_at"].is_null());
    std::fs::remove_file(project.path().join("migrations/0004_more.sql")).unwrap();
    std::fs::remove_file(project.path().join("../doubling")).unwrap();
    outcome(&project, "hit");
    let is_exact = || of(&first["fingerprint"])["chain"] == 0;
    assert!(eventually(PATIENCE, is_exact), "{:?}", templates(&project));
}

#[test]
fn the_end_of_a_chain_is_evidence_for_each_of_its_links() {
    let project = extended();
    found_equal(&project, 1);
    for n in 4..=5 {
        project.add_migration(&format!("000{n}_t"), &format!("create table t{n} ();"));
        outcome(&project, "extended");
    }
    let middle = templates(&project)[2].clone();
    assert_eq!(middle["chain"], 2);
    Pgstencil::new(&project).args(["ensure", "--rebuild"]).success();
    assert_eq!(registry(&project, "select max(links) from pgstencil.comparison"), "3");
    // A template in the middle needs no full build of its own.
    std::fs::remove_file(project.path().join("migrations/0005_t.sql")).unwrap();
    age(&project, "1 day");
    outcome(&project, "hit");
    let is = || {
        let all = templates(&project);
        let of = all.iter().find(|t| t["fingerprint"] == middle["fingerprint"]).unwrap();
        of["accepted_at"].is_string()
    };
    assert!(eventually(PATIENCE, is), "{:?}", templates(&project));
}

/// What the evidence of a chain's end cannot see, as the README says.
#[test]
fn a_difference_that_a_later_migration_erases_is_seen_by_a_full_build_only() {
    let project = extended();
    found_equal(&project, 1);
    project.build(&Build::Script(
        "migrate
         [ \"$PGSTENCIL_OUTCOME\" = miss ] || sql -d \"$DATABASE_URL\" -c 'insert into t4 default values' || true"
            .into(),
    ));
    project.add_migration("0004_t", "create table t4 ();");
    outcome(&project, "extended");
    let middle = last(&project)["fingerprint"].clone();
    project.add_migration("0005_t", "drop table t4;");
    outcome(&project, "extended");
    Pgstencil::new(&project).args(["ensure", "--rebuild"]).success();
    let evidence = "select difference, links from pgstencil.comparison order by id desc limit 1";
    assert_eq!(registry(&project, evidence), "|3");
    std::fs::remove_file(project.path().join("migrations/0005_t.sql")).unwrap();
    age(&project, "1 day");
    outcome(&project, "hit");
    let accepted = || {
        let is = |t: &Value| t["fingerprint"] == middle && t["accepted_at"].is_string();
        templates(&project).iter().any(is)
    };
    assert!(eventually(PATIENCE, accepted), "{:?}", templates(&project));
    // The row is still there, and no command has said so.
    Pgstencil::new(&project).arg("verify").run().code(1).stdout_has("t4");
    assert!(!accepted(), "{:?}", templates(&project));
}

#[test]
fn what_is_planned_and_why_is_told() {
    let project = extended();
    let rebuild = || last(&project)["rebuild"].clone();
    assert_eq!(rebuild()["next"], "rebuild");
    found_equal(&project, 1);
    let plan = rebuild();
    assert_eq!((&plan["next"], &plan["why"]), (&"wait".into(), &"new".into()), "{plan}");
    assert!(plan["due_in_s"].as_f64().is_some_and(|s| s > 0.0 && s <= 600.0), "{plan}");
    assert_eq!((&plan["uses"], &plan["unproved"], &plan["compared"]), (&1.into(), &1.into(), &1.into()));
    let explain = || Pgstencil::new(&project).arg("explain").success();
    explain().stdout_has("used once; in ").stdout_has(" starts a full build in the background");
    age(&project, "1 hour");
    assert_eq!(rebuild()["next"], "rebuild");
    registry(&project, "update pgstencil.comparison set links = 40");
    assert_eq!(rebuild()["next"], "accept");
    Pgstencil::new(&project)
        .arg("list")
        .success()
        .stdout_has("provisional for 60m, used once; the next command that uses it ")
        .stdout_has("; the only rebuild of the definition found no difference\n");
    Pgstencil::new(&project)
        .arg("stats")
        .success()
        .stdout_has("provisional for 60m, used once; the next command that uses it ")
        .stdout_has("; the only rebuild of the definition found no difference\n");
    registry(
        &project,
        "update pgstencil.template set provisional = false, accepted_at = now() where chain > 0",
    );
    assert_eq!(rebuild()["next"], "none");
    Pgstencil::new(&project).arg("list").success().stdout_has("ready, accepted").stdout_has(
        "accepted without a full build: at most 7 % of its incremental builds differ (95 % confidence)",
    );
    explain().stdout_has("accepted without a full build: at most 7 %");
}

#[test]
fn doctor_warns_of_a_definition_whose_incremental_builds_often_differ() {
    let project = extended();
    found_equal(&project, 1);
    let checks = || Pgstencil::new(&project).args(["doctor", "--json"]).run().json()["checks"].clone();
    let of = |checks: Value| {
        let all = checks.as_array().unwrap().clone();
        all.into_iter().find(|check| check["name"] == "incremental builds").unwrap()
    };
    assert_eq!(of(checks())["status"], "ok");
    for _ in 0..2 {
        found_equal(&project, 1);
    }
    registry(&project, "update pgstencil.comparison set difference = 'rows' where id > 1");
    let check = of(checks());
    assert_eq!(check["status"], "warning", "{check}");
    assert!(check["words"].as_str().unwrap().contains("1 of 3 comparisons"), "{check}");
    assert!(
        check["hint"].as_str().unwrap().contains("set `extend = \"never\"` in [template.app]"),
        "{check}"
    );
}

#[test]
fn with_always_an_accepted_template_is_rebuilt() {
    let project = with_an_accepted_one();
    let config = project.read("pgstencil.toml");
    let config = config.replace("[template.app]", "[template.app]\nrebuild = \"always\"");
    project.write("pgstencil.toml", &config);
    assert_eq!(outcome(&project, "hit")["provisional"], true);
    rebuilt(&project);
}

#[test]
fn a_rebuild_waits_while_others_use_the_server() {
    let project = extended();
    found_equal(&project, 1);
    age(&project, "1 hour");
    let url = server().url("postgres");
    let mut other = std::process::Command::new("psql")
        .args([&url, "-XAtc", "select pg_sleep(60)"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let active = "select count(*) > 0 from pg_stat_activity where state = 'active' and query like '%pg_sleep(60)%' \
                  and pid <> pg_backend_pid()";
    assert!(eventually(PATIENCE, || server().psql("postgres", active) == "t"));
    outcome(&project, "hit");
    let waits =
        || registry(&project, "select rebuild_wait from pgstencil.template where provisional") == "busy";
    let waited = eventually(PATIENCE, waits);
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(waited);
    assert_eq!(project.builds(), 2);
}
