//! The commands of `server`, `paths`, and what `doctor` says of the private server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::private_server::Private;
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, alive, eventually, server};

fn psql(url: &str, sql: &str) -> String {
    let output = Command::new("psql").args(["-XAtc", sql, "-d", url]).output().unwrap();
    assert!(output.status.success(), "{sql}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The only check of this name.
#[track_caller]
fn check<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let checks = answer["checks"].as_array().unwrap();
    let mut found = checks.iter().filter(|c| c["name"] == name);
    let first = found.next().unwrap_or_else(|| panic!("{answer}"));
    assert!(found.next().is_none(), "{answer}");
    first
}

#[test]
fn a_stop_does_not_pull_the_server_from_under_a_run() {
    let private = Private::new();
    let held = private.project.path().join("held");
    let script = format!("touch '{}'; exec sleep 600", held.display());
    let run = private.run(&["run", "--", "sh", "-c", &script]).spawn();
    assert!(eventually(PATIENCE, || held.exists()), "{}", run.stderr_so_far());
    let pid = private.pid().unwrap();
    private
        .run(&["server", "stop"])
        .fails(1)
        .stderr_has("another pgstencil command uses it")
        .stderr_has(&format!("a command of pid {}", run.id()))
        .stderr_has("pgstencil server stop --force");
    let error: Value = {
        let output = private.run(&["server", "stop", "--json"]).fails(1);
        serde_json::from_str(output.stderr.trim()).unwrap()
    };
    assert_eq!(error["error"]["kind"], "failed", "{error}");
    // Nor is it removed.
    private
        .run(&["server", "remove", "--yes", "--force"])
        .fails(1)
        .stderr_has("nothing was removed")
        .stderr_has(&format!("a command of pid {}", run.id()));
    assert!(alive(pid));
    private.run(&["server", "stop", "--force"]).success().stderr_has("stopped");
    assert!(!alive(pid));
    drop(run);

    // A build is a command, too; a session of another program is none.
    private.project.build(&crate::support::Build::Script("touch building; exec sleep 600".into()));
    private.project.write("migrations/9_new.sql", "select 1");
    let building = private.project.path().join("building");
    let run = private.run(&["ensure"]).spawn();
    assert!(eventually(PATIENCE, || building.exists()), "{}", run.stderr_so_far());
    private
        .run(&["server", "stop"])
        .fails(1)
        .stderr_has("a build of")
        .stderr_has(&format!("by pid {}", run.id()));
    drop(run);
    let url = private.run(&["server", "url"]).success().line().to_owned();
    let mut other = Command::new("psql")
        .args(["-XAtc", "select pg_sleep(600)", "-d", &url])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    private.run(&["server", "stop"]).success();
    other.wait().unwrap();
}

#[test]
fn a_command_that_meets_a_stop_does_not_ask_about_the_url() {
    let private = Private::new();
    private.run(&["ensure"]).success();
    let cluster = private.cluster();
    let pid_file = cluster.join("data/postmaster.pid");
    let content = fs::read_to_string(&pid_file).unwrap();
    private.run(&["server", "stop"]).success();
    // As it looks to a command when the server ends right after it was found ready.
    let mut ended = Command::new("sleep").arg("600").current_dir(cluster.join("data")).spawn().unwrap();
    let rest = content.split_once('\n').unwrap().1;
    fs::write(&pid_file, format!("{}\n{rest}", ended.id())).unwrap();
    let output = private.run(&["clone"]).run();
    ended.kill().unwrap();
    ended.wait().unwrap();
    output
        .code(3)
        .stdout("")
        .stderr_has("the private server")
        .stderr_has("has stopped")
        .stderr_has("run the command again")
        .lacks("check that the server is running");
    private.run(&["clone"]).success();
}

#[test]
fn a_server_that_shuts_down_or_hangs_is_not_said_not_to_run() {
    let private = Private::new();
    private.run(&["ensure"]).success();
    let url = private.run(&["server", "url"]).success().line().to_owned();
    let mut other = Command::new("psql")
        .args(["-XAtc", "select pg_sleep(600)", "-d", &url])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut backend = String::new();
    assert!(eventually(PATIENCE, || {
        backend = psql(
            &url,
            "select pid from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid()",
        );
        !backend.is_empty()
    }));
    let backend = Pid::from_raw(backend.parse().unwrap());
    kill(backend, Signal::SIGSTOP).unwrap();
    let stop = private.run(&["server", "stop", "--wait", "3s"]).run();
    let status = private.run(&["server", "status"]).run();
    let listed = private.run(&["list"]).run();
    kill(backend, Signal::SIGCONT).unwrap();
    stop.code(5).stderr_has("takes too long to stop");
    status.code(1).stdout_has("state    stopping\n");
    listed.code(0).stderr_has("is shutting down");
    other.wait().unwrap();
    private.run(&["server", "stop"]).success();

    private.run(&["server", "start"]).success();
    let postmaster = Pid::from_raw(private.pid().unwrap());
    kill(postmaster, Signal::SIGSTOP).unwrap();
    let listed = private.run(&["list", "--wait", "3s"]).run();
    let status = private.run(&["server", "status", "--wait", "3s"]).run();
    let stop = private.run(&["server", "stop", "--wait", "3s"]).run();
    let forced = private.run(&["server", "stop", "--force"]).run();
    let _ = kill(postmaster, Signal::SIGCONT);
    listed.code(3).stderr_has("the private server does not answer");
    status.code(1).stdout_has("state    unresponsive\n");
    stop.code(5).stderr_has("server stop --force");
    // As the others say that do not get an answer.
    forced.code(0);
    assert_eq!(private.pid(), None);
}

#[test]
fn clusters_are_removed_when_nothing_in_them_is_in_use() {
    let private = Private::new();
    private.run(&["server", "list"]).success().stdout("").stderr_has("there is no cluster yet");
    private.run(&["server", "remove", "--yes"]).success().stderr_has("there is no cluster");
    private.run(&["server", "remove", "--major", "12", "--yes"]).fails(6).stderr_has("PostgreSQL 12");

    let url = private.run(&["clone", "--ttl", "never"]).success().line().to_owned();
    let name = url.rsplit('/').next().unwrap().to_owned();
    let pinned = private.run(&["pin", "--json"]).success().json();
    let fingerprint = pinned["templates"][0]["fingerprint"].as_str().unwrap()[..12].to_owned();
    let server_url = private.run(&["server", "url"]).success().line().to_owned();
    psql(&server_url, "create database mine");
    let mut other = Command::new("psql")
        .args(["-XAtc", "select pg_sleep(600)", "-d", &server_url])
        .env("PGAPPNAME", "a-visitor")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let listed = private.run(&["server", "list", "--json"]).success().json();
    let cluster = &listed["clusters"][0];
    let major = cluster["major"].to_string();
    assert_eq!(
        (&cluster["current"], &cluster["state"], &cluster["moved"]),
        (&true.into(), &"running".into(), &serde_json::json!([]))
    );
    assert!(cluster["bytes"].as_u64().unwrap() > 10_000_000, "{listed}");
    private.run(&["server", "list"]).success().stdout_has(&format!("PostgreSQL {major}  running"));

    // Nobody can be asked, and nothing was looked at.
    private.run(&["server", "remove"]).fails(2).stderr_has("needs confirmation").stderr_has("`--yes`");
    let remove = ["server", "remove", "--major", &major, "--yes"];
    private
        .run(&remove)
        .fails(1)
        .stderr_has("nothing was removed")
        .stderr_has(&format!("clone `{name}` is in use"))
        .stderr_has("without end")
        .stderr_has(&format!("template {fingerprint} of"))
        .stderr_has("database `mine` was not created by pgstencil")
        .stderr_has("connected: a-visitor")
        .stderr_has(&format!("pgstencil release {name}"))
        .stderr_has(&format!("pgstencil unpin {fingerprint}"));
    private.run(&["release", &name]).success();
    private.run(&["unpin"]).success();
    private.run(&remove).fails(1).stderr_has("database `mine`").stderr_has("a-visitor").lacks("clone `");
    psql(
        &server_url,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'a-visitor'",
    );
    other.wait().unwrap();
    // A stopped server is started for the look, and stopped again.
    private.run(&["server", "stop"]).success();
    private.run(&remove).fails(1).stderr_has("database `mine`");
    assert_eq!(private.status()["state"], "stopped");
    private.run(&["server", "start"]).success();
    psql(&server_url, "drop database mine");
    let folder = private.cluster();
    let json = private.run(&["server", "remove", "--yes", "--json"]).success().json();
    assert_eq!(json["removed"], serde_json::json!([major.parse::<u32>().unwrap()]));
    assert!(!folder.exists() && !folder.parent().unwrap().exists());
    private.run(&["run", "--", "true"]).success().stderr_has("built");
}

#[cfg(target_os = "linux")]
#[test]
fn a_person_is_asked_before_clusters_are_removed() {
    let private = Private::new();
    private.run(&["ensure"]).success();
    let folder = private.cluster();
    let on_a_terminal = |answer: &str| {
        Pgstencil::with_program(&private.project, "script")
            .args(["-qec", "pgstencil server remove", "/dev/null"])
            .env_remove("PGSTENCIL_SERVER_URL")
            .stdin(answer)
            .run()
    };
    on_a_terminal("n\n")
        .code(1)
        .stdout_has("with 1 template and 0 clones? [y/N]")
        .stdout_has("nothing was done");
    assert!(folder.exists());
    on_a_terminal("y\n").code(0).stdout_has("removed the cluster");
    assert!(!folder.exists());
}

/// A directory that looks like a cluster of a PostgreSQL that nobody has.
fn old_cluster(private: &Private) -> std::path::PathBuf {
    let folder = private.cluster().parent().unwrap().join("12");
    fs::create_dir_all(folder.join("data/global")).unwrap();
    fs::write(folder.join("data/PG_VERSION"), "12\n").unwrap();
    let mut control = vec![0; 8192];
    control[16] = 1;
    fs::write(folder.join("data/global/pg_control"), control).unwrap();
    let owner = fs::metadata(private.cluster().join("data")).unwrap();
    use std::os::unix::fs::MetadataExt;
    std::os::unix::fs::chown(folder.join("data"), Some(owner.uid()), Some(owner.gid())).unwrap();
    folder
}

#[test]
fn clusters_of_old_versions_are_told_and_removed() {
    let private = Private::new();
    private.run(&["ensure"]).success();
    let healthy = private.run(&["doctor", "--json"]).success().json();
    assert_eq!(check(&healthy, "clusters")["status"], "ok");
    assert_eq!(check(&healthy, "postgres")["status"], "ok");
    let folder = old_cluster(&private);
    let doctor = private.run(&["doctor", "--json"]).success().json();
    let checks = doctor["checks"].as_array().unwrap();
    let old = checks.iter().find(|c| c["name"] == "clusters" && c["status"] == "warning").unwrap();
    assert!(old["words"].as_str().unwrap().contains("PostgreSQL 12"), "{old}");
    assert!(old["hint"].as_str().unwrap().contains("server remove --major 12"));
    private.run(&["server", "list"]).success().stdout_has("PostgreSQL 12: ");
    // It cannot be started for a look, so it is not removed unseen.
    private
        .run(&["server", "remove", "--major", "12", "--yes"])
        .fails(1)
        .stderr_has("there is no PostgreSQL 12 on this machine")
        .stderr_has("--force");
    assert!(folder.exists());
    private
        .run(&["server", "remove", "--major", "12", "--yes", "--force"])
        .success()
        .stderr_has("removed the cluster of PostgreSQL 12");
    assert!(!folder.exists());
    assert_eq!(private.status()["state"], "running");
}

/// As after another boot of the host.
fn reboot(cluster: &Path) {
    let file = cluster.join("cluster.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["boot_id"] = "another".into();
    fs::write(&file, record.to_string()).unwrap();
}

#[test]
fn data_that_was_moved_aside_is_told_after_a_kill_until_it_is_removed() {
    let private = Private::new();
    private.run(&["ensure"]).success();
    let cluster = private.cluster();
    let pid = Pid::from_raw(private.pid().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    assert!(eventually(PATIENCE, || !alive(pid.as_raw())));
    reboot(&cluster);
    private.run(&["server", "status"]).fails(1).stdout_has("it went down with the host");
    let doctor = private.run(&["doctor", "--json"]).success().json();
    assert_eq!(check(&doctor, "data")["status"], "warning");

    // The command is killed while it makes the new cluster.
    let bindir = private.status()["bindir"].as_str().unwrap().to_owned();
    let slow = private.project.path().join("bin");
    fs::create_dir(&slow).unwrap();
    for entry in fs::read_dir(&bindir).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), slow.join(entry.file_name())).unwrap();
    }
    fs::remove_file(slow.join("initdb")).unwrap();
    fs::write(slow.join("initdb"), "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(slow.join("initdb"), fs::Permissions::from_mode(0o755)).unwrap();
    private.use_binaries(slow.to_str().unwrap());
    let mut command = private.run(&["clone"]).spawn();
    let making = || {
        let names = fs::read_dir(&cluster).unwrap().flatten();
        let mut names = names.map(|e| e.file_name().into_string().unwrap());
        names.any(|name| name.starts_with("data.new-"))
    };
    assert!(eventually(PATIENCE, making), "{}", command.stderr_so_far());
    command.kill9();
    drop(command);

    private.use_binaries(&bindir);
    let moved = fs::read_dir(&cluster)
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .find(|p| p.to_str().unwrap().contains("data.crashed-"))
        .unwrap();
    let name = moved.to_str().unwrap();
    private.run(&["list"]).success().stderr_has(name);
    private.run(&["server", "status"]).fails(1).stdout_has(&format!("old data {name}\n"));
    for command in [&["clone"][..], &["run", "--", "true"], &["server", "start"]] {
        private.run(command).success().stderr_has(name).stderr_has("pgstencil server remove --moved");
    }
    private.run(&["server", "list"]).success().stdout_has("old data").stdout_has(name);
    let listed = private.run(&["server", "list", "--json"]).success().json();
    assert_eq!(listed["clusters"][0]["moved"][0]["directory"], name);
    let doctor = private.run(&["doctor", "--json"]).success().json();
    assert_eq!(check(&doctor, "old data")["status"], "warning");
    private.run(&["server", "remove", "--moved"]).fails(2);
    assert!(moved.exists());
    // Clones are leased, which is of no matter to old data.
    private.run(&["server", "remove", "--moved", "--yes"]).success().stderr_has(&format!("removed {name}"));
    assert!(!moved.exists());
    let quiet = private.run(&["run", "--", "true"]).success();
    quiet.lacks("data.crashed-");
    private.run(&["server", "remove", "--moved", "--yes"]).success().stderr_has("there is no old data");
}

#[test]
fn doctor_without_a_postgres_says_what_is_missing_and_how_to_get_it() {
    let private = Private::new();
    let empty = private.project.path().join("empty");
    fs::create_dir(&empty).unwrap();
    private.use_binaries(empty.to_str().unwrap());
    let doctor = private.run(&["doctor", "--json"]).fails(1).json();
    let postgres = check(&doctor, "postgres");
    assert_eq!(postgres["status"], "problem");
    let words = postgres["words"].as_str().unwrap();
    assert!(words.contains("postgres, initdb, pg_ctl"), "{words}");
    assert!(postgres["hint"].as_str().unwrap().contains("bindir"));
}

#[test]
fn paths_are_told_with_and_without_a_config() {
    let private = Private::new();
    let state = private.project.state_dir();
    let json = private.run(&["paths", "--json"]).success().json();
    let config = private.project.path().join("pgstencil.toml");
    assert_eq!(json["version"], 1);
    assert_eq!(json["config"], config.to_str().unwrap());
    assert_eq!(json["state_dir"], state.to_str().unwrap());
    assert_eq!(json["registry"], private.project.registry());
    let server = &json["server"];
    assert_eq!((&server["private"], &server["place"]), (&true.into(), &Value::Null));
    let data = server["data_dir"].as_str().unwrap();
    assert_eq!(json["logs"][0], data.replace("/data", "/server.log"));
    private
        .run(&["paths"])
        .success()
        .stdout_has(&format!("config     {}\n", config.display()))
        .stdout_has("not started yet");
    // It only looks.
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);

    private.run(&["server", "start"]).success();
    let json = private.run(&["paths", "--json"]).success().json();
    assert!(json["server"]["place"].as_str().unwrap().starts_with("127.0.0.1:"), "{json}");
    assert!(Path::new(json["logs"][0].as_str().unwrap()).exists());
    assert!(Path::new(json["server"]["socket_dir"].as_str().unwrap()).exists());

    let elsewhere = tempfile::tempdir().unwrap();
    let json = private.run(&["paths", "--json"]).current_dir(elsewhere.path()).success().json();
    assert_eq!((&json["config"], &json["registry"]), (&Value::Null, &"pgstencil".into()));
    private.run(&["paths"]).current_dir(elsewhere.path()).success().stdout_has("config     none found\n");
    // Without a home, too.
    private
        .run(&["paths"])
        .current_dir(elsewhere.path())
        .env_remove("HOME")
        .env_remove("PGSTENCIL_STATE_DIR")
        .success()
        .stdout_has("state      none")
        .stderr_has("HOME");
}

#[test]
fn paths_name_a_server_by_its_url_without_a_password_or_a_session() {
    let mut project = Project::with_migrations(server());
    project.connect_to("postgresql://u:s3cret@192.0.2.1:1234/postgres");
    let paths = || Pgstencil::new(&project).arg("paths");
    let output = paths().success();
    output
        .stdout_has("server     192.0.2.1:1234, named by PGSTENCIL_SERVER_URL\n")
        .stdout_has(&format!("registry   database `{}` on that server\n", project.registry()))
        .lacks("s3cret");
    let json = paths().arg("--json").success().json();
    assert_eq!(json["server"]["named_by"], "PGSTENCIL_SERVER_URL");
    assert_eq!(json["logs"], serde_json::json!([]));
}

/// The server ends all sessions when one of its processes dies.
#[test]
fn why_the_server_ended_is_told_by_its_log() {
    let private = Private::new();
    private.run(&["server", "start"]).success();
    private.project.build(&Build::Script(
        "psql -XAtq -c 'select pg_backend_pid()' -c 'select pg_sleep(600)' >backend &
         until [ -s backend ]; do sleep 0.02; done
         kill -9 $(cat backend)
         sleep 600"
            .into(),
    ));
    let log = private.cluster().join("server.log");
    private
        .run(&["ensure"])
        .fails(3)
        .stderr_has(&format!("the server's log, {}:", log.display()))
        .stderr_has("was terminated by signal 9")
        .stderr_has("are free");
}
