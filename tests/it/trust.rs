//! Config files of other users: which count, and where a password goes.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::unistd::User;

use crate::support::account::{give, strangers};
use crate::support::{Pgstencil, Project, server};

/// A directory for everybody, as /tmp, with a directory of ours in it.
struct Shared<'s> {
    project: Project<'s>,
    top: PathBuf,
}

impl Shared<'_> {
    fn new() -> Self {
        let project = Project::with_migrations(server());
        let top = project.home().join("shared");
        fs::create_dir_all(top.join("ours")).unwrap();
        fs::set_permissions(&top, fs::Permissions::from_mode(0o1777)).unwrap();
        Shared { project, top }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.top.join(name)
    }

    /// A config whose build command leaves a trace, and a file for it to migrate.
    fn config(&self, folder: &Path, owner: &User) -> PathBuf {
        fs::create_dir_all(folder.join("migrations")).unwrap();
        fs::write(folder.join("migrations/1.sql"), "select 1").unwrap();
        let file = folder.join("pgstencil.toml");
        let text = format!(
            "project = '{}'\n[server]\nregistry = '{}'\n[template.app]\nmigrations = ['migrations/*.sql']\n\
             build = 'touch {}; psql -Xqc \"create table t ()\" -d \"$DATABASE_URL\"'\n[clone]\nwarm = 0\n",
            self.project.name(),
            self.project.registry(),
            self.trace().display()
        );
        fs::write(&file, text).unwrap();
        give(&file, owner);
        file
    }

    fn trace(&self) -> PathBuf {
        self.project.home().join("trace")
    }

    fn run(&self, folder: &Path, args: &[&str]) -> Pgstencil {
        Pgstencil::new(&self.project).args(args).current_dir(folder)
    }
}

/// Every command that looks for a config.
const COMMANDS: &[&[&str]] = &[
    &["run", "--", "true"],
    &["clone"],
    &["ensure"],
    &["explain"],
    &["verify"],
    &["release", "x"],
    &["list"],
    &["evict"],
    &["evict", "--all", "--yes"],
    &["pin"],
    &["unpin", "0123"],
    &["stats"],
    &["bench"],
    &["doctor"],
    &["config", "show"],
    &["server", "status"],
    &["server", "url"],
    &["server", "start"],
    &["server", "stop"],
];

#[test]
fn a_strangers_config_runs_nothing() {
    let Some([stranger, other]) = strangers("a_strangers_config_runs_nothing") else {
        return;
    };
    let shared = Shared::new();
    let file = shared.config(&shared.top, &stranger);
    // In our directory below it, and in the shared directory itself, which is root's.
    for folder in [shared.at("ours"), shared.top.clone()] {
        for command in COMMANDS {
            shared
                .run(&folder, command)
                .fails(2)
                .stdout("")
                .stderr_has(&format!("not using the config file `{}`", file.display()))
                .stderr_has(&format!("it belongs to `{}`", stranger.name))
                .stderr_has(&format!("--config {}", file.display()))
                .stderr_has("PGSTENCIL_CONFIG=");
        }
    }
    // Nor is it passed over for a file of ours further up.
    shared.config(&shared.project.home(), &root());
    shared.run(&shared.at("ours"), &["ensure"]).fails(2).stderr_has("it belongs to");
    // In a directory of a third user, too, where only that user's file counts.
    give(shared.at("ours"), &other);
    shared
        .run(&shared.at("ours"), &["ensure"])
        .fails(2)
        .stderr_has(&format!("`{}`", stranger.name))
        .stderr_has(&format!("the current directory (`{}`)", other.name));
    let json = shared.run(&shared.top, &["list", "--json"]).fails(2);
    let error: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "config");
    assert!(!shared.trace().exists());
    assert!(!server().has_database(&shared.project.registry()));
    assert!(!shared.project.state_dir().join("server").exists());

    // Who names the file vouches for it.
    shared.run(&shared.at("ours"), &["ensure", "--config"]).arg(&file).success();
    assert!(shared.trace().exists());
    shared.run(&shared.at("ours"), &["ensure"]).env("PGSTENCIL_CONFIG", &file).success().stderr_has("hit");
    for words in [&["completions", "bash"][..], &["config", "schema"]] {
        shared.run(&shared.top, words).success();
    }
}

fn root() -> User {
    User::from_uid(nix::unistd::Uid::from_raw(0)).unwrap().unwrap()
}

#[test]
fn configs_of_the_folders_owner_of_root_and_of_us_count() {
    let Some([one, other]) = strangers("configs_of_the_folders_owner_of_root_and_of_us_count") else {
        return;
    };
    let shared = Shared::new();
    // Root in a checkout of another user, under umask 0 as GitLab's runner has it.
    let folder = shared.at("checkout");
    let file = shared.config(&folder, &one);
    fs::create_dir(folder.join("below")).unwrap();
    for path in [&folder, &folder.join("below")] {
        give(path, &one);
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    for place in [&folder, &folder.join("below")] {
        shared.run(place, &["ensure"]).success();
    }
    assert!(shared.trace().exists());
    // Another user works in a directory of their own below a file of root's.
    let rooted = shared.at("rooted");
    shared.config(&rooted, &root());
    let home = rooted.join("home");
    fs::create_dir(&home).unwrap();
    give(&home, &other);
    shared.run(&home, &["config", "show"]).account(&other).success();
    // Their own counts; one of a third user does not, whatever its mode.
    let own = shared.config(&home, &other);
    shared.run(&home, &["config", "show"]).account(&other).success();
    give(&own, &one);
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    shared
        .run(&home, &["config", "show"])
        .account(&other)
        .fails(2)
        .stderr_has(&format!("it belongs to `{}`", one.name));
}

#[test]
fn links_are_judged_as_files_are() {
    let Some([stranger, _]) = strangers("links_are_judged_as_files_are") else {
        return;
    };
    let shared = Shared::new();
    let ours = shared.config(&shared.project.path(), &root());
    let theirs = shared.config(&shared.at("theirs"), &stranger);
    let link = shared.at("pgstencil.toml");
    let refused = |place: &Path| {
        shared
            .run(&shared.at("ours"), &["list"])
            .fails(2)
            .stderr_has(&format!("`{}`", link.display()))
            .stderr_has(&format!("`{}`", place.display()))
            .stderr_has(&format!("it belongs to `{}`", stranger.name));
    };
    // A stranger's link to a file of ours: they chose which.
    symlink(&ours, &link).unwrap();
    give(&link, &stranger);
    refused(&link);
    // A link of ours to a stranger's file, at once or over another link.
    fs::remove_file(&link).unwrap();
    symlink(&theirs, &link).unwrap();
    refused(&theirs);
    fs::remove_file(&link).unwrap();
    symlink(&theirs, shared.at("second")).unwrap();
    symlink("second", &link).unwrap();
    refused(&theirs);
    // A link of ours to a file of ours.
    fs::remove_file(&link).unwrap();
    symlink(&ours, &link).unwrap();
    shared.run(&shared.at("ours"), &["config", "show"]).success();
    // A link that leads nowhere is no config, whoever made it.
    fs::remove_file(&link).unwrap();
    symlink("nowhere", &link).unwrap();
    give(&link, &stranger);
    shared.run(&shared.at("ours"), &["list"]).success();
}

#[test]
fn users_that_a_container_does_not_know_are_not_one_user() {
    let name = "users_that_a_container_does_not_know_are_not_one_user";
    let Some([one, other]) = strangers(name) else {
        return;
    };
    let shared = Shared::new();
    let namespace = |words: &str| {
        let script = format!("exec unshare --user --map-root-user pgstencil {words}");
        Pgstencil::with_program(&shared.project, "sh").args(["-c", &script])
    };
    if namespace("--version").run().status.code() != Some(0) {
        eprintln!("SKIPPED {name}: no user namespaces here");
        return;
    }
    let folder = shared.at("theirs");
    let file = shared.config(&folder, &one);
    give(&folder, &other);
    // Both seem to belong to one user there.
    namespace("config show")
        .current_dir(&folder)
        .fails(2)
        .stderr_has(&format!("not using the config file `{}`", file.display()));
    give(&file, &root());
    namespace("config show").current_dir(&folder).success();
}

/// A server that asks everybody for a password in clear, and tells what it got.
fn thief() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, got) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let tell = tell.clone();
            std::thread::spawn(move || {
                if let Some(password) = ask(stream) {
                    let _ = tell.send(password);
                }
            });
        }
    });
    (port, got)
}

fn ask(mut stream: TcpStream) -> Option<String> {
    let message = |stream: &mut TcpStream| -> Option<Vec<u8>> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        stream.read_exact(&mut body).ok()?;
        Some(body)
    };
    // Encryption is refused; then comes the real start.
    let mut start = message(&mut stream)?;
    while start.starts_with(&80_877_103_u32.to_be_bytes()) {
        stream.write_all(b"N").ok()?;
        start = message(&mut stream)?;
    }
    stream.write_all(b"R\0\0\0\x08\0\0\0\x03").ok()?;
    let mut kind = [0];
    stream.read_exact(&mut kind).ok()?;
    let body = message(&mut stream)?;
    Some(String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned())
}

#[test]
fn passwords_do_not_go_to_a_server_that_a_neighbor_names() {
    let Some([neighbor, _]) = strangers("passwords_do_not_go_to_a_server_that_a_neighbor_names") else {
        return;
    };
    let shared = Shared::new();
    let (port, got) = thief();
    let folder = shared.at("theirs");
    let file = shared.config(&folder, &neighbor);
    give(&folder, &neighbor);
    let text = fs::read_to_string(&file).unwrap();
    let with_url = |url: &str| {
        let line = format!("[server]\nurl = '{url}'\n");
        fs::write(&file, text.replace("[server]\n", &line)).unwrap();
    };
    let address = format!("127.0.0.1:{port}");
    with_url(&format!("postgresql://me@{address}/postgres?sslmode=disable"));
    let passfile = shared.project.home().join(".pgpass");
    fs::write(&passfile, format!("127.0.0.1:{port}:*:*:from-pgpass\n")).unwrap();
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    let run = |args: &[&str]| {
        shared.run(&folder, &[&["--wait", "3s"], args].concat()).env_remove("PGSTENCIL_SERVER_URL")
    };
    let heard = || {
        let mut all: Vec<String> = got.recv_timeout(Duration::from_secs(2)).into_iter().collect();
        all.extend(got.try_iter());
        all
    };
    // Only what a person without a password has to say.
    for (variable, source) in [("PGPASSWORD", "PGPASSWORD"), ("X", "the password file's entry")] {
        for command in [&["list"][..], &["doctor"], &["clone"], &["stats"]] {
            let output = run(command).env(variable, "s3cret").run();
            output
                .stderr_has(&format!("{source} is not sent to {address}"))
                .stderr_has(&format!("`{}` names that server", file.display()))
                .stderr_has(&format!("belongs to `{}`", neighbor.name))
                .stderr_has("--server-url")
                .lacks("s3cret")
                .lacks("from-pgpass");
            assert_ne!(output.status.code(), Some(0));
        }
    }
    let secret = |password: &String| !password.is_empty();
    assert_eq!(heard().into_iter().filter(secret).count(), 0);

    // Where it does go: a CI job checked the file out, or the file or the server was named.
    let goes = |run: Pgstencil, expected: &str| {
        let output = run.run();
        assert!(!output.stderr.contains("is not sent"), "{output}");
        let all = heard();
        assert!(all.iter().any(|p| p == expected), "{all:?}\n{output}");
    };
    let password = |run: Pgstencil| run.env("PGPASSWORD", "s3cret");
    goes(password(run(&["list"]).env("CI", "true")), "s3cret");
    goes(run(&["list"]).env("CI", "1"), "from-pgpass");
    goes(password(run(&["list", "--config"]).arg(&file)), "s3cret");
    goes(password(run(&["list"]).env("PGSTENCIL_CONFIG", &file)), "s3cret");
    let url = format!("postgresql://me@{address}/postgres?sslmode=disable");
    goes(password(run(&["list", "--server-url", &url])), "s3cret");
    goes(password(run(&["list"]).env("PGSTENCIL_SERVER_URL", &url)), "s3cret");
    with_url("env:MY_SERVER");
    goes(password(run(&["list"]).env("MY_SERVER", &url)), "s3cret");
    // A password in the file is its owner's own.
    with_url(&format!("postgresql://me:theirs@{address}/postgres?sslmode=disable"));
    goes(password(run(&["list"])), "theirs");
    // A file of ours, and one of root's for another user.
    with_url(&url);
    give(&file, &root());
    goes(password(run(&["list"])), "s3cret");
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o644)).unwrap();
    goes(password(run(&["list"]).account(&neighbor)), "s3cret");
}
