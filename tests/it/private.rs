//! What holds secrets is closed to other users, from its first moment on.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

use crate::support::account::{give, strangers};
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, Project, eventually, server};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `pgstencil` under a umask that takes nothing away.
fn open_handed(project: &Project<'_>, words: &str) -> Pgstencil {
    Pgstencil::with_program(project, "sh").args(["-c", &format!("umask 0; exec pgstencil {words}")])
}

/// All files and directories below one that others than their owner can read or enter.
fn open_to_others(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Processes of the server come and go.
            let Ok(about) = fs::symlink_metadata(&path) else {
                continue;
            };
            let open = about.mode() & 0o077;
            // Under root the account of the server must get through to its own, and read its settings.
            let allowed = match about.is_dir() {
                true => about.uid() == 0 && open == 0o011,
                false => about.uid() == 0 && about.gid() != 0 && open == 0o040,
            };
            if open != 0 && !about.is_symlink() && !allowed {
                found.push(format!("{:o} {}", about.mode() & 0o7777, path.display()));
            }
            if about.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

#[test]
fn the_private_server_has_no_file_that_others_can_read() {
    let project = Project::with_migrations(server());
    let run = |words: &str| {
        let run = open_handed(&project, words).limit(Duration::from_secs(120));
        run.env_remove("PGSTENCIL_SERVER_URL").success()
    };
    run("server start");
    let (state, folder) = (project.state_dir(), project.state_dir().join("server"));
    assert!(folder.exists(), "the state directory of the test is not used");
    let open = open_to_others(&state);
    run("server stop");
    assert_eq!(open, Vec::<String>::new());
    let closed = if geteuid().is_root() { 0o711 } else { 0o700 };
    assert_eq!(mode(&folder), closed);
    let cluster =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    for name in ["password", "cluster.json", "alive"] {
        let about = fs::metadata(cluster.join(name)).unwrap();
        assert_eq!(about.uid(), geteuid().as_raw(), "{name}");
    }
}

#[test]
fn a_state_folder_of_another_user_is_refused() {
    let Some([stranger, _]) = strangers("a_state_folder_of_another_user_is_refused") else {
        return;
    };
    let project = Project::with_migrations(server());
    let run = |state: &Path, words: &[&str]| {
        Pgstencil::new(&project)
            .args(words)
            .env_remove("PGSTENCIL_SERVER_URL")
            .env("PGSTENCIL_STATE_DIR", state)
    };
    // For root such a directory is no place at all; for another user it is refused.
    let us = &strangers("").unwrap()[1];
    let shared = project.home().join("shared");
    fs::create_dir(&shared).unwrap();
    chmod(&shared, 0o1777);
    let state = shared.join("state");
    fs::create_dir(&state).unwrap();
    fs::create_dir(state.join("server")).unwrap();
    for folder in [&state, &state.join("server")] {
        give(folder, &stranger);
    }
    // Through a link of the stranger even a directory of ours is theirs.
    let ours = shared.join("ours");
    fs::create_dir(&ours).unwrap();
    give(&ours, us);
    symlink(&ours, shared.join("link")).unwrap();
    give(shared.join("link"), &stranger);
    for state in [&state, &shared.join("link")] {
        for words in [&["server", "status"][..], &["server", "start"], &["list"]] {
            run(state, words)
                .account(us)
                .fails(3)
                .stderr_has(&format!("the state directory {}", state.display()))
                .stderr_has(&format!("`{}`", stranger.name));
        }
    }
    assert!(!ours.join("server").exists());
}

/// The directory of a demo in this temporary directory.
fn demo_in(tmp: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(tmp).unwrap();
    entries.map(|entry| entry.unwrap().path()).find(|path| path.to_string_lossy().contains("pgstencil-demo-"))
}

#[test]
fn a_demo_is_closed_while_it_runs_and_gone_afterwards() {
    let project = Project::with_migrations(server());
    let tmp = project.home().join("tmp");
    fs::create_dir(&tmp).unwrap();
    chmod(&tmp, 0o1777);
    let mut demo = open_handed(&project, "demo").env("TMPDIR", &tmp).limit(Duration::from_secs(120)).spawn();
    let url = || demo_in(&tmp).is_some_and(|folder| folder.join("server-url").exists());
    assert!(eventually(3 * PATIENCE, url), "{}", demo.stderr_so_far());
    let folder = demo_in(&tmp).unwrap();
    let system = Path::new("/var/lib").join(folder.file_name().unwrap());
    let modes = (mode(&folder), mode(&folder.join("server-url")));
    let mut open = open_to_others(&folder);
    if system.exists() {
        open.extend(open_to_others(&system));
    }
    // It removes what it made, whatever the answers are.
    demo.signal(Signal::SIGINT);
    assert!(demo.wait_timeout(3 * PATIENCE));
    assert_eq!(modes, (0o700, 0o600));
    assert_eq!(open, Vec::<String>::new());
    assert_eq!(demo_in(&tmp), None);
    assert!(!system.exists());
}

#[test]
fn a_report_can_be_read_by_its_owner_alone() {
    let project = Project::with_migrations(server());
    let file = project.path().join("report.json");
    let report = |words: &str| open_handed(&project, words).success();
    report("run --report report.json -- true");
    assert_eq!(mode(&file), 0o600);
    assert!(project.read("report.json").contains("postgresql://"));
    // One that was there before, and others could read.
    fs::write(&file, "old").unwrap();
    chmod(&file, 0o666);
    report("clone --report report.json");
    assert_eq!(mode(&file), 0o600);
    assert!(project.read("report.json").contains("postgresql://"));
    // A pipe of the shell and the like get it as they are.
    let output = report("run --report /dev/stdout -- true");
    assert!(output.json()["clone"].is_object());
    report("run --report /dev/null -- true");
    assert_eq!(mode(Path::new("/dev/null")) & 0o666, 0o666);
    let mut left = fs::read_dir(project.path()).unwrap();
    assert!(left.all(|f| { !f.unwrap().file_name().to_string_lossy().starts_with(".pgstencil") }));
}

#[test]
fn a_report_goes_nowhere_that_another_user_chose() {
    let Some([stranger, _]) = strangers("a_report_goes_nowhere_that_another_user_chose") else {
        return;
    };
    let project = Project::with_migrations(server());
    let shared = project.home().join("shared");
    fs::create_dir(&shared).unwrap();
    chmod(&shared, 0o1777);
    let at = |name: &str| shared.join(name);
    fs::write(at("victim"), "mine").unwrap();
    symlink(at("victim"), at("link")).unwrap();
    give(at("link"), &stranger);
    mkfifo(&at("pipe"), Mode::from_bits_truncate(0o666)).unwrap();
    give(at("pipe"), &stranger);
    for name in ["link", "pipe"] {
        Pgstencil::new(&project)
            .args(["clone", "--report"])
            .arg(at(name))
            .fails(1)
            .stdout("")
            .stderr_has(&format!("not writing to {}", at(name).display()))
            .stderr_has(&format!("`{}`", stranger.name))
            .lacks("postgresql://");
    }
    assert_eq!(fs::read_to_string(at("victim")).unwrap(), "mine");
    // A file that a stranger laid out is not written into, but replaced.
    fs::write(at("file"), "laid out").unwrap();
    chmod(&at("file"), 0o666);
    give(at("file"), &stranger);
    let mut laid_out = fs::File::open(at("file")).unwrap();
    let clone = Pgstencil::new(&project).args(["clone", "--report"]);
    clone.arg(at("file")).success();
    assert_eq!(std::io::read_to_string(&mut laid_out).unwrap(), "laid out");
    assert_eq!(mode(&at("file")), 0o600);
    assert_eq!(fs::metadata(at("file")).unwrap().uid(), 0);
}
