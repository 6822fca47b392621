//! Clones that the background process of an earlier command hands out, and releases, for commands without a session.
#![cfg(target_os = "linux")]

use std::time::Duration;

use pgstencil::internals::LockKey;
use serde_json::Value;

use crate::background::logged;
use crate::support::extension::ensure;
use crate::support::hold::{Held, goes, list, listed};
use crate::support::proxy::Proxy;
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, copy, eventually, kill_background, server, until_done};

/// A project whose server is reached through a relay, with a template whose clones are created ahead.
fn project() -> (Project<'static>, Proxy) {
    let mut project = Project::with_migrations(server());
    let proxy = Proxy::new(server());
    project.connect_to(proxy.url(server()));
    project.append_config(CLONE);
    ensure(&project);
    (project, proxy)
}

const CLONE: &str = "\n[clone]\nwarm = 1\n";

/// Adds a key to the definition.
fn define(project: &Project<'_>, key: &str) {
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace(CLONE, &format!("\n{key}\n{CLONE}")));
}

/// Runs a command, and returns its answer, and whether it opened no session of its own. A busy machine may keep it for
/// longer than an idle process stays.
fn run(project: &Project<'_>, proxy: &Proxy, args: &[&str]) -> (Value, bool) {
    proxy.reset();
    let out = Pgstencil::new(project).args(args).success();
    (out.json(), proxy.round_trips().is_empty())
}

/// Repeats a clone until the process of an earlier command hands it out. Releases the others.
fn handed_out(project: &Project<'_>, proxy: &Proxy) -> Value {
    let mut last = Value::Null;
    let without_session = || {
        let (clone, without) = run(project, proxy, &["clone", "--json", "--ttl", "2h"]);
        if !without {
            let name = clone["clone"]["name"].as_str().unwrap();
            Pgstencil::new(project).args(["release", name]).success();
        }
        last = clone;
        without
    };
    assert!(eventually(PATIENCE, without_session));
    last
}

#[test]
fn a_clone_is_handed_out_and_released_without_a_session() {
    let (project, proxy) = project();
    let (direct, _) = run(&project, &proxy, &["clone", "--json", "--ttl", "2h"]);
    let handed = handed_out(&project, &proxy);
    let keys = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&handed), keys(&direct));
    assert_eq!(keys(&handed["clone"]), keys(&direct["clone"]));
    assert_eq!(handed["outcome"], "hit");
    let name = handed["clone"]["name"].as_str().unwrap();
    let url = |answer: &Value, name: &str| {
        let databases = answer["clone"]["databases"].as_object().unwrap();
        databases["app"]["url"].as_str().unwrap().replace(name, "NAME")
    };
    assert_eq!(url(&handed, name), url(&direct, direct["clone"]["name"].as_str().unwrap()));
    assert_eq!(server().psql(name, "select count(*) from orders"), "1");
    let (held, other) = (listed(&project, name), listed(&project, direct["clone"]["name"].as_str().unwrap()));
    for at in ["/state", "/lease", "/owner/role", "/owner/machine", "/owner/top"] {
        assert_eq!(held.pointer(at), other.pointer(at), "{at}");
    }
    let mut name = name.to_owned();
    let without_session = || {
        let (released, without) = run(&project, &proxy, &["release", "--json", &name]);
        assert_eq!(released["released"][0], name.as_str());
        let gone = eventually(PATIENCE, || !server().has_database(&name));
        assert!(gone, "{name}");
        if !without {
            name = handed_out(&project, &proxy)["clone"]["name"].as_str().unwrap().to_owned();
        }
        without
    };
    assert!(eventually(PATIENCE, without_session));
}

#[test]
fn as_long_as_there_are_warm_clones_no_command_needs_a_session() {
    let (project, proxy) = project();
    handed_out(&project, &proxy);
    // A busy machine may take longer than a command waits for an answer.
    let after_a_pause = || {
        std::thread::sleep(Duration::from_secs(3));
        run(&project, &proxy, &["clone", "--json", "--ttl", "2h"]).1
    };
    assert!((0..5).any(|_| after_a_pause()));
}

#[test]
fn each_request_is_counted() {
    let (project, proxy) = project();
    for _ in 0..3 {
        let name = handed_out(&project, &proxy)["clone"]["name"].as_str().unwrap().to_owned();
        Pgstencil::new(&project).args(["release", &name]).success();
    }
    let hits = |project: &Project<'_>| list(project)["templates"][0]["hits"].as_u64().unwrap();
    let events = "select count(*) from pgstencil.event where outcome = 'hit'";
    let counted = || {
        let noted: u64 = project.server().psql(&project.registry(), events).parse().unwrap();
        noted >= 3 && noted == hits(&project)
    };
    assert!(eventually(PATIENCE, counted), "{}", list(&project));
}

#[test]
fn a_clone_whose_url_did_not_reach_the_user_is_released() {
    let (project, proxy) = project();
    let failed_without_session = || {
        handed_out(&project, &proxy);
        proxy.reset();
        Pgstencil::new(&project).args(["clone", "--report", "absent/report.json"]).fails(1);
        proxy.round_trips().is_empty()
    };
    assert!(eventually(PATIENCE, failed_without_session));
    for clone in list(&project)["clones"].as_array().unwrap() {
        if clone["state"] == "leased" {
            let name = clone["name"].as_str().unwrap();
            // Those of the function above were printed.
            Pgstencil::new(&project).args(["release", name]).run();
        }
    }
    let only_warm = || {
        let list = list(&project);
        list["clones"].as_array().unwrap().iter().all(|clone| clone["state"] == "warm")
    };
    assert!(eventually(PATIENCE, only_warm), "{}", list(&project));
}

/// Ends the process that wrote the last line of a log, if it still runs.
fn kill_last(project: &Project<'_>) {
    let Some(pid) = logged(project, "").pop() else {
        return;
    };
    kill_background(&pid);
}

#[test]
fn a_printed_clone_stays_whenever_the_process_is_killed() {
    let (project, proxy) = project();
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &(config + "orphan_grace = \"100ms\"\n"));
    handed_out(&project, &proxy);
    let mut names = Vec::new();
    for delay in 0..15 {
        let clone = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(2 * delay));
                kill_last(&project);
            });
            Pgstencil::new(&project).args(["clone", "--json", "--ttl", "2h"]).success().json()
        });
        names.push(clone["clone"]["name"].as_str().unwrap().to_owned());
    }
    // Two cleanups, each after the grace: the first would record an orphan, the second would drop it.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        Pgstencil::new(&project).args(["evict"]).success();
    }
    for name in names {
        assert!(server().has_database(&name), "{name}");
        assert_eq!(listed(&project, &name)["state"], "leased");
    }
}

#[test]
fn files_config_and_variables_count_as_they_are_now() {
    let (project, proxy) = project();
    let fingerprint = |answer: &Value| answer["fingerprint"].as_str().unwrap().to_owned();
    let mut before = fingerprint(&handed_out(&project, &proxy));
    for n in 0..5 {
        project.add_migration(&format!("100{n}_more.sql"), &format!("create table more_{n} ();"));
        let out = Pgstencil::new(&project).args(["clone", "--json"]).success().json();
        assert_ne!(fingerprint(&out), before);
        let name = out["clone"]["name"].as_str().unwrap();
        assert_eq!(server().psql(name, &format!("select to_regclass('more_{n}') is not null")), "t");
        before = fingerprint(&out);
    }
    define(&project, "env_inputs = [\"FLAVOUR\"]");
    let with = |flavour: &str| {
        let out = Pgstencil::new(&project).env("FLAVOUR", flavour).args(["clone", "--json"]).success();
        fingerprint(&out.json())
    };
    let (sweet, sour) = (with("sweet"), with("sour"));
    assert_ne!(sweet, sour);
    assert_eq!((with("sweet"), with("sour")), (sweet, sour));
}

/// The background process knows the file that the link leads to.
#[test]
fn a_config_behind_a_link_goes_with_the_files_beside_the_link() {
    let (project, _proxy) = project();
    let other = project.path().join("other");
    copy(&project.path().join("migrations"), &other.join("migrations"));
    project.write("other/migrate.sh", &project.read("migrate.sh"));
    std::os::unix::fs::symlink(project.path().join("pgstencil.toml"), other.join("pgstencil.toml")).unwrap();
    project.write("other/migrations/0009_more.sql", "create table more ();");
    let there = |args: &[&str]| {
        Pgstencil::new(&project).current_dir(&other).args(args).success().json()["fingerprint"].clone()
    };
    let expected = there(&["ensure", "--json"]);
    for _ in 0..6 {
        assert_eq!(there(&["clone", "--json"]), expected);
    }
}

#[test]
fn what_takes_more_is_done_by_the_command_itself() {
    let (project, proxy) = project();
    handed_out(&project, &proxy);
    let named = ["clone", "--json", "--name", "mine_{id}"];
    let (clone, without) = run(&project, &proxy, &named);
    assert!(!without);
    assert!(clone["clone"]["name"].as_str().unwrap().starts_with("mine_"));
    define(&project, "after_clone = '''echo \"$PGDATABASE\" >>cloned'''");
    let (clone, without) = run(&project, &proxy, &["clone", "--json"]);
    assert!(!without);
    assert_eq!(project.read("cloned").trim(), clone["clone"]["name"].as_str().unwrap());
    Pgstencil::new(&project)
        .args(["release", "no_such_clone"])
        .fails(6)
        .stderr_has("no clone `no_such_clone`");
}

/// Repeats `run` until the process of an earlier command holds its clone. The command waits in it.
fn held<'p>(project: &'p Project<'static>, proxy: &Proxy, args: &[&str]) -> Held<'p, 'static> {
    let mut last = None;
    let without_session = || {
        proxy.reset();
        let held = Held::idle(project, args);
        if proxy.round_trips().is_empty() {
            last = Some(held);
        } else {
            held.end();
            held.run.wait().code(0);
        }
        last.is_some()
    };
    assert!(eventually(PATIENCE, without_session));
    last.unwrap()
}

/// The server process that holds the lock of a clone; empty if none does.
fn holder(project: &Project<'_>, clone: &Value) -> String {
    let key = LockKey::clone(clone["id"].as_str().unwrap()).value();
    let sql = format!(
        "select pid from pg_locks where locktype = 'advisory' and granted \
         and (classid::bigint << 32) | objid::bigint = {key}"
    );
    server().psql(&project.registry(), &sql)
}

#[test]
fn the_clone_of_run_is_held_by_another_process_until_its_end() {
    let (project, proxy) = project();
    let report = project.path().join("report.json");
    let held = held(&project, &proxy, &["--report", report.to_str().unwrap()]);
    let clone = listed(&project, &held.database);
    assert_eq!((&clone["state"], &clone["expires_at"]), (&"leased".into(), &Value::Null));
    let reported: Value = serde_json::from_str(&project.read("report.json")).unwrap();
    assert_eq!(reported["clone"]["name"], held.database.as_str());
    let before = holder(&project, &clone);
    assert_ne!(before, "");
    // An idle process stays for two seconds only.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(holder(&project, &clone), before);
    held.end();
    held.run.wait().code(0);
    goes(&project, &held.database);
}

#[test]
fn a_clone_of_run_outlives_the_process_that_holds_it() {
    let (project, proxy) = project();
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &(config + "orphan_grace = \"2s\"\n"));
    let held = held(&project, &proxy, &[]);
    let clone = listed(&project, &held.database);
    let before = holder(&project, &clone);
    let retaken = || !["", &before].contains(&holder(&project, &clone).as_str());
    let kill_listener = || {
        let name = Pgstencil::new(&project).arg("clone").success();
        let name = name.line().rsplit_once('/').unwrap().1.to_owned();
        Pgstencil::new(&project).args(["release", &name]).success();
        // The line tells which process takes the work of commands.
        let dropped = || !logged(&project, &format!("dropped clone {name}")).is_empty();
        assert!(eventually(PATIENCE, dropped));
        kill_last(&project);
    };
    assert!(until_done(kill_listener, retaken));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(2500));
        Pgstencil::new(&project).args(["evict"]).success();
        assert!(server().has_database(&held.database));
    }
    held.end();
    held.run.wait().code(0);
    goes(&project, &held.database);
}

#[test]
fn the_clone_of_a_killed_run_goes_although_another_process_held_it() {
    let (project, proxy) = project();
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &(config + "orphan_grace = \"100ms\"\n"));
    let mut held = held(&project, &proxy, &[]);
    let clone = listed(&project, &held.database);
    held.run.kill9();
    held.end();
    assert!(eventually(PATIENCE, || holder(&project, &clone).is_empty()));
    let evict = || drop(Pgstencil::new(&project).args(["evict"]).success());
    assert!(until_done(evict, || !server().has_database(&held.database)));
}

#[test]
fn a_clone_of_run_that_is_kept_stays() {
    let (project, proxy) = project();
    let held = held(&project, &proxy, &["--keep"]);
    held.end();
    let out = held.run.wait();
    out.code(0).stdout_has(&held.database).stderr_has("pgstencil release");
    let clone = listed(&project, &held.database);
    assert_ne!(clone["expires_at"], Value::Null);
    assert!(eventually(PATIENCE, || holder(&project, &clone).is_empty()));
    Pgstencil::new(&project).args(["evict"]).success();
    assert!(server().has_database(&held.database));
}
