//! `pgstencil cache`: what a file keeps and leaves out, and what becomes of files that are not as they were saved. Two
//! state directories stand for two machines.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::private_server::Private;
use crate::support::server::PATIENCE;
use crate::support::{Pgstencil, eventually};

/// A project, and machines that build and use its templates.
pub(crate) struct Machines {
    pub(crate) private: Private,
    names: Vec<String>,
}

impl Machines {
    pub(crate) fn new() -> Self {
        let private = Private::new();
        let config = private.project.read("pgstencil.toml");
        private.project.write("pgstencil.toml", &config.replace("extend = \"never\"", "extend = \"append\""));
        Machines { private, names: Vec::new() }
    }

    fn state(&self, machine: &str) -> PathBuf {
        self.private.project.state_dir().with_file_name(machine)
    }

    /// A command on a machine, without background work: hosted CI jobs have no use for it.
    pub(crate) fn on(&mut self, machine: &str, args: &[&str]) -> Pgstencil {
        if !self.names.iter().any(|name| name == machine) {
            self.names.push(machine.to_owned());
        }
        let state = self.state(machine);
        fs::create_dir_all(&state).unwrap();
        self.private.run(args).env("PGSTENCIL_STATE_DIR", state).env("PGSTENCIL_BACKGROUND", "off")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.private.project.home().join("pgstencil.cache")
    }

    /// Builds on the first machine, and saves.
    fn saved() -> Self {
        let mut machines = Machines::new();
        machines.on("one", &["ensure"]).success();
        machines.save("one");
        machines
    }

    pub(crate) fn save(&mut self, machine: &str) -> Value {
        let file = self.file();
        self.on(machine, &["cache", "save", "--json", file.to_str().unwrap()]).success().json()
    }

    /// Restores on a machine, which is never an error. Returns the answer.
    pub(crate) fn restore(&mut self, machine: &str, file: &Path) -> Value {
        self.on(machine, &["cache", "restore", "--json", file.to_str().unwrap()]).success().json()
    }

    pub(crate) fn outcome(&mut self, machine: &str) -> String {
        let answer = self.on(machine, &["ensure", "--json"]).success().json();
        answer["outcome"].as_str().unwrap().to_owned()
    }

    /// A file that cannot be used changes nothing, and costs one line.
    #[track_caller]
    fn is_refused(&mut self, contents: &[u8], reason: &str) {
        let file = self.file().with_file_name("bad.cache");
        fs::write(&file, contents).unwrap();
        let output = self.on("bad", &["cache", "restore", "--json", file.to_str().unwrap()]).success();
        let answer = output.json();
        assert_eq!(
            (&answer["restored"], answer["reason"].as_str()),
            (&Value::Bool(false), Some(reason)),
            "{output}"
        );
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
        for cluster in fs::read_dir(self.state("bad").join("server")).into_iter().flatten().flatten() {
            for entry in fs::read_dir(cluster.path()).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                assert!(!name.starts_with("data"), "{name} is left");
            }
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in self.names.clone() {
            self.on(&name, &["server", "stop", "--force"]).run();
        }
    }
}

/// A cache file, taken apart.
struct Parts {
    manifest: Value,
    archive: Vec<u8>,
}

impl Parts {
    fn of(file: &Path) -> Self {
        let bytes = fs::read(file).unwrap();
        let mut lines = bytes.splitn(4, |b| *b == b'\n').skip(1);
        let manifest = serde_json::from_slice(lines.next().unwrap()).unwrap();
        let mut archive = Vec::new();
        let mut decoder = zstd::Decoder::new(lines.nth(1).unwrap()).unwrap();
        decoder.read_to_end(&mut archive).unwrap();
        Parts { manifest, archive }
    }

    /// Every entry, with its name.
    fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(self.archive.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), bytes)
        });
        entries.collect()
    }

    /// A file whose checksums are right.
    fn join(mut self) -> Vec<u8> {
        let payload = zstd::encode_all(self.archive.as_slice(), 1).unwrap();
        self.manifest["payload"]["bytes"] = payload.len().into();
        self.manifest["payload"]["blake3"] = blake3::hash(&payload).to_hex().as_str().into();
        let manifest = serde_json::to_vec(&self.manifest).unwrap();
        let mut file = format!("pgstencil-cache 1 {}\n", blake3::hash(&manifest).to_hex()).into_bytes();
        file.extend(manifest);
        file.extend(b"\nunsigned\n");
        file.extend(payload);
        file
    }

    /// Adds an entry, as tar's own programs never write it.
    fn with(mut self, kind: tar::EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        let mut entry = header.as_bytes().to_vec();
        entry.extend(content);
        entry.resize(entry.len().next_multiple_of(512), 0);
        // First, so that nothing else has been written when it is met.
        entry.extend(self.archive);
        self.archive = entry;
        let count = self.manifest["files"].as_u64().unwrap();
        let bytes = self.manifest["bytes"].as_u64().unwrap();
        self.manifest["files"] = (count + 1).into();
        self.manifest["bytes"] = (bytes + content.len() as u64).into();
        self
    }
}

fn psql(url: &str, sql: &str) -> String {
    let output = Command::new("psql").args(["-XAtc", sql, "-d", url]).output().unwrap();
    assert!(output.status.success(), "{sql}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_template_travels_and_is_extended_on_the_other_machine() {
    let mut machines = Machines::new();
    let sql = "create unlogged table unlogged (id int); insert into unlogged values (7)";
    machines.private.project.add_migration("0002_unlogged", sql);
    assert_eq!(machines.outcome("one"), "miss");
    let before = machines.on("one", &["list", "--json"]).success().json();
    let url = machines.on("one", &["server", "url"]).success().line().to_owned();
    let saved = machines.save("one");
    assert_eq!(saved["templates"].as_array().unwrap().len(), 1, "{saved}");
    assert!(saved["bytes"].as_u64().unwrap() * 10 < saved["unpacked_bytes"].as_u64().unwrap(), "{saved}");
    // The server is as it was, with the address and everything that the file leaves out.
    assert_eq!(machines.on("one", &["server", "url"]).success().line(), url);
    let after = machines.on("one", &["list", "--json"]).success().json();
    for key in ["fingerprint", "state", "created_at", "hits", "builder"] {
        assert_eq!(before["templates"][0][key], after["templates"][0][key], "{key}");
    }

    let file = machines.file();
    let restored = machines.restore("two", &file);
    assert_eq!((&restored["restored"], &restored["templates"]), (&Value::Bool(true), &saved["templates"]));
    machines.on("two", &["server", "url"]).fails(1);
    assert_eq!(machines.outcome("two"), "hit");
    let other = machines.on("two", &["server", "url"]).success().line().to_owned();
    let password = |url: &str| url.split(['@', ':']).nth(2).unwrap().to_owned();
    assert_ne!(password(&url), password(&other));
    let clone = machines.on("two", &["clone"]).success().line().to_owned();
    assert_eq!(psql(&clone, "select name from users"), "ann");
    assert_eq!(psql(&clone, "select id from unlogged"), "7");
    let name = clone.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    machines.on("two", &["release", &name]).success();
    machines.on("two", &["doctor"]).success();
    // A second restore changes nothing.
    let again = machines.restore("two", &file);
    assert_eq!((&again["restored"], &again["reason"]), (&Value::Bool(false), &Value::from("exists")));

    machines.private.project.add_migration("0003_more", "create table more (id int)");
    assert_eq!(machines.outcome("two"), "extended");
    assert_eq!(machines.save("two")["templates"].as_array().unwrap().len(), 2);
    machines.restore("three", &file);
    assert_eq!(machines.outcome("three"), "hit");
    // The base came along.
    fs::remove_file(machines.private.project.path().join("migrations/0003_more.sql")).unwrap();
    assert_eq!(machines.outcome("three"), "hit");
}

#[test]
fn the_file_knows_neither_machine_nor_password() {
    let mut machines = Machines::new();
    // The build says what must not travel.
    machines.private.project.append("migrate.sh", "\necho log_tail_of_the_build\n");
    machines.on("one", &["ensure"]).success();
    machines.on("one", &["clone", "--name", "someones_clone", "--ttl", "1s"]).success();
    let url = machines.on("one", &["server", "url"]).success().line().to_owned();
    let password = url.split(['@', ':']).nth(2).unwrap().to_owned();
    let verifier = psql(&url, "select rolpassword from pg_authid where rolname = 'postgres'");
    std::thread::sleep(Duration::from_millis(1500));
    machines.save("one");
    let parts = Parts::of(&machines.file());
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default().trim().to_owned();
    let (machine, boot) = (read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"));
    let path = machines.private.project.path().display().to_string();
    let secrets = [
        ("password", password.as_str()),
        ("verifier", &verifier[..60]),
        ("host", &host),
        ("machine", &machine),
        ("boot", &boot),
        ("path", &path),
        ("state", machines.state("one").to_str().unwrap()),
        ("log", "log_tail_of_the_build"),
        ("clone", "someones_clone"),
        ("owner", "\"owner_machine\""),
    ]
    .map(|(what, text)| (what, text.to_owned()));
    let archive = machines.file().with_extension("tar");
    fs::write(&archive, &parts.archive).unwrap();
    // A short name is found in anything.
    for (what, secret) in secrets.iter().filter(|(_, secret)| secret.len() > 5) {
        let grep = Command::new("grep").args(["-aqF", "-e", secret]).arg(&archive).status().unwrap();
        assert_eq!(grep.code(), Some(1), "the {what} ({secret}) is in the file");
    }
    for (name, _) in parts.entries() {
        for unwanted in ["conf", "postmaster", "pg_stat/", "log", "internal"] {
            assert!(!name.contains(unwanted), "{name}");
        }
    }
    let wal = parts.entries().into_iter().filter(|(name, _)| name.starts_with("pg_wal/"));
    let filled: usize = wal.map(|(_, bytes)| bytes.iter().filter(|b| **b != 0).count()).sum();
    assert!(filled < 4096, "{filled} bytes of WAL");
    // Nor does the restored server know the clone.
    let file = machines.file();
    machines.restore("two", &file);
    assert_eq!(machines.outcome("two"), "hit");
    let listed = machines.on("two", &["list", "--json"]).success().json();
    assert_eq!(listed["clones"], Value::Array(Vec::new()), "{listed}");
}

#[test]
fn nothing_is_saved_while_something_is_in_use() {
    let mut machines = Machines::new();
    let file = machines.file();
    let save = ["cache", "save", file.to_str().unwrap()];
    machines.on("one", &save).fails(1).stderr_has("there is no private server yet");
    machines.on("one", &["server", "start"]).success();
    machines.on("one", &save).fails(1).stderr_has("no template that is ready").stderr_has("pgstencil ensure");
    let clone = machines.on("one", &["clone", "--name", "kept"]).success().line().to_owned();
    machines
        .on("one", &save)
        .fails(1)
        .stderr_has("clone `kept` is in use")
        .stderr_has("`pgstencil release kept`");
    // A server that is not running holds leases, too, and is not running afterwards.
    machines.on("one", &["server", "stop"]).success();
    machines.on("one", &save).fails(1).stderr_has("clone `kept` is in use");
    machines.on("one", &["server", "status"]).fails(1);
    assert!(!file.exists());
    assert_eq!(
        {
            machines.on("one", &["server", "start"]).success();
            psql(&clone, "select count(*) from users")
        },
        "1"
    );
    machines.on("one", &["release", "kept"]).success();

    let url = machines.on("one", &["server", "url"]).success().line().to_owned();
    let mut session = Command::new("psql")
        .args(["-X", "-d", &url])
        .env("PGAPPNAME", "somebodys session")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(eventually(PATIENCE, || {
        psql(&url, "select count(*) from pg_stat_activity where application_name = 'somebodys session'")
            == "1"
    }));
    fs::write(&file, "old").unwrap();
    machines.on("one", &save).fails(1).stderr_has("somebodys session").stderr_has("end other sessions");
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    assert!(session.try_wait().unwrap().is_none());
    session.stdin.take().unwrap().write_all(b"\\q\n").unwrap();
    session.wait().unwrap();

    let held = machines.private.project.path().join("held");
    let script = format!("touch '{}'; exec sleep 600", held.display());
    let run = machines.on("one", &["run", "--", "sh", "-c", &script]).spawn();
    assert!(eventually(PATIENCE, || held.exists()), "{}", run.stderr_so_far());
    machines.on("one", &save).fails(1).stderr_has(&format!("a command of pid {}", run.id()));
    drop(run);
    machines.on("one", &save).success();
}

#[test]
fn a_stopped_server_stays_stopped_and_its_other_databases_are_named() {
    let mut machines = Machines::new();
    machines.on("one", &["ensure"]).success();
    let url = machines.on("one", &["server", "url"]).success().line().to_owned();
    psql(&url, "create database of_a_person");
    machines.on("one", &["server", "stop"]).success();
    let file = machines.file();
    machines
        .on("one", &["cache", "save", file.to_str().unwrap()])
        .success()
        .stdout("")
        .stderr_has("saved one template")
        .stderr_has("database `of_a_person`, which pgstencil did not create");
    machines.on("one", &["server", "status"]).fails(1);
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    machines.restore("two", &file);
    machines.on("two", &["server", "start"]).success();
    let url = machines.on("two", &["server", "url"]).success().line().to_owned();
    assert_eq!(psql(&url, "select count(*) from pg_database where datname = 'of_a_person'"), "1");
}

#[test]
fn a_damaged_file_is_as_none() {
    let mut machines = Machines::saved();
    let whole = fs::read(machines.file()).unwrap();
    let header = whole.windows(9).position(|w| w == b"unsigned\n").unwrap() + 9;
    machines.is_refused(b"", "truncated");
    machines.is_refused(b"something else", "foreign");
    for end in [1, 10, 40, 100, header - 5, header, header + 1, whole.len() / 2, whole.len() - 1] {
        machines.is_refused(&whole[..end], "truncated");
    }
    machines.is_refused(&[&whole[..], b"x"].concat(), "damaged");
    for (at, reason) in [(0, "foreign"), (5, "foreign"), (20, "damaged"), (80, "damaged"), (100, "damaged")]
        .into_iter()
        .chain([(header - 4, "damaged"), (header, "damaged"), (header + 3, "damaged")])
        .chain((1..12).map(|part| (header + (whole.len() - header) * part / 12, "damaged")))
        .chain([(whole.len() - 1, "damaged")])
    {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        machines.is_refused(&flipped, reason);
    }
    let none = machines.file().with_file_name("none");
    let output = machines.on("bad", &["cache", "restore", none.to_str().unwrap()]).success();
    assert_eq!(output.stderr, format!("nothing was restored: there is no file {}\n", none.display()));
    let directory = machines.private.project.home();
    assert_eq!(machines.restore("bad", &directory)["reason"], "unreadable");
    // The job goes on.
    assert_eq!(machines.outcome("bad"), "miss");
}

#[test]
fn a_file_from_elsewhere_is_as_none() {
    let mut machines = Machines::saved();
    let change = |key: &str, value: Value| {
        let mut parts = Parts::of(&machines.file());
        parts.manifest["platform"][key] = value;
        parts.join()
    };
    let files = [
        (change("os", "plan9".into()), "other_platform"),
        (change("arch", "m68k".into()), "other_platform"),
        (change("major", 12.into()), "other_major"),
        (change("libraries", "glibc2.1".into()), "other_locale"),
    ];
    for (file, reason) in files {
        machines.is_refused(&file, reason);
    }
    let newer = fs::read(machines.file()).unwrap();
    machines.is_refused(&[b"pgstencil-cache 2 ", &newer[18..]].concat(), "newer_format");

    // Another version's data under this version's name: Postgres is the last judge.
    let mut parts = Parts::of(&machines.file());
    let control = {
        let at = parts.archive.windows(17).position(|w| w == b"global/pg_control").unwrap();
        at.next_multiple_of(512) + 512 * usize::from(at % 512 == 0)
    };
    parts.archive[control + 12] ^= 1;
    machines.is_refused(&parts.join(), "refused_by_postgres");

    for major in [13, 14, 16, 17, 18] {
        let bindir = format!("/var/cache/pgstencil-postgres/{major}/bin");
        let ours = Parts::of(&machines.file()).manifest["platform"]["major"].as_u64();
        if !Path::new(&bindir).exists() || ours == Some(major) {
            continue;
        }
        machines.private.use_binaries(&bindir);
        let file = machines.file();
        assert_eq!(machines.restore("other", &file)["reason"], "other_major");
        return;
    }
    eprintln!("skipped: there is no other version of Postgres");
}

#[test]
fn an_archive_with_anything_else_is_refused() {
    use tar::EntryType as Kind;
    let mut machines = Machines::saved();
    let outside = machines.private.project.home().join("outside");
    let outside = outside.to_str().unwrap().to_owned();
    let setting = b"archive_command = 'touch /tmp/never'\n";
    for (kind, name, link, content) in [
        (Kind::Symlink, "base/5/1", outside.as_str(), &b""[..]),
        (Kind::Link, "base/5/1", "PG_VERSION", b""),
        (Kind::Regular, "../outside", "", b"x"),
        (Kind::Regular, "base/5/../../../outside", "", b"x"),
        (Kind::Regular, &outside, "", b"x"),
        (Kind::Regular, "postgresql.auto.conf", "", setting),
        (Kind::Regular, "postgresql.conf", "", setting),
        (Kind::Regular, "pg_hba.conf", "", b"local all all trust\n"),
        (Kind::Regular, "recovery.signal", "", b""),
        (Kind::Regular, "pg_tblspc/1/PG_15_202209061/5/1", "", b"x"),
        (Kind::Symlink, "pg_tblspc/1", "/tmp", b""),
        (Kind::Directory, "base/9", "", b""),
        (Kind::Fifo, "base/5/9", "", b""),
        (Kind::Char, "base/5/9", "", b""),
        (Kind::GNULongName, "././@LongLink", "", b"../outside\0"),
        (Kind::XHeader, "base/5/9", "", b"19 path=../outside\n"),
        (Kind::Regular, "unknown", "", b"x"),
        (Kind::Regular, "base/5/pg_internal.init", "", b"x"),
        // The same file twice.
        (Kind::Regular, "PG_VERSION", "", b"15\n"),
    ] {
        let parts = Parts::of(&machines.file()).with(kind, name, link, content);
        machines.is_refused(&parts.join(), "layout");
        assert!(!Path::new(&outside).exists(), "{name}");
    }
    // More or less than the manifest says.
    for (key, more) in [("files", -1), ("files", 1), ("bytes", -1), ("bytes", 1)] {
        let mut parts = Parts::of(&machines.file());
        parts.manifest[key] = (parts.manifest[key].as_i64().unwrap() + more).into();
        machines.is_refused(&parts.join(), "layout");
    }
    let mut parts = Parts::of(&machines.file());
    parts.manifest["bytes"] = (1_u64 << 60).into();
    machines.is_refused(&parts.join(), "no_room");
}

#[test]
fn with_a_trusted_key_only_its_files_are_used() {
    let mut machines = Machines::new();
    machines.on("one", &["ensure"]).success();
    let home = machines.private.project.home();
    let (secret, other) = (home.join("secret"), home.join("other"));
    let public =
        machines.on("one", &["cache", "new-key", secret.to_str().unwrap()]).success().line().to_owned();
    let stranger =
        machines.on("one", &["cache", "new-key", other.to_str().unwrap()]).success().line().to_owned();
    machines.on("one", &["cache", "new-key", secret.to_str().unwrap()]).fails(1).stderr_has("cannot create");
    let file = machines.file();
    let name = file.to_str().unwrap();
    let answer = |machines: &mut Machines, trust: &str| {
        machines.on("bad", &["cache", "restore", "--json", name, "--trust", trust]).success().json()
    };

    machines.save("one");
    assert_eq!(answer(&mut machines, &public)["reason"], "unsigned");
    let signed = machines
        .on("one", &["cache", "save", "--json", name, "--sign-key", secret.to_str().unwrap()])
        .success()
        .json();
    assert_eq!(signed["signed_by"], public.as_str());
    assert_eq!(answer(&mut machines, &stranger)["reason"], "untrusted");
    // Signed contents cannot be exchanged, and a signature counts without `--trust`, too.
    let whole = fs::read(&file).unwrap();
    let at = whole.windows(8).position(|w| w == b"\nsigned ").unwrap() + 100;
    let mut forged = whole.clone();
    forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
    machines.is_refused(&forged, "damaged");
    let both = format!("{stranger},{public}");
    let restored = machines
        .on("two", &["cache", "restore", "--json", name, "--trust", "env:KEYS"])
        .env("KEYS", both)
        .success()
        .json();
    assert_eq!(restored["restored"], true);
    assert_eq!(machines.outcome("two"), "hit");
    // A key in a variable, as CI systems keep secrets.
    let key = fs::read_to_string(&secret).unwrap();
    let output = machines
        .on("one", &["cache", "save", name, "--sign-key", "env:SIGNING_KEY"])
        .env("SIGNING_KEY", key.trim())
        .success();
    output.lacks(key.trim());
    machines.on("one", &["cache", "save", name, "--sign-key", "env:NOT_SET"]).fails(2);
    machines.on("two", &["cache", "restore", name, "--trust", key.trim()]).fails(2).lacks(key.trim());
}

#[test]
fn the_key_is_the_same_on_every_machine_and_starts_nothing() {
    let mut machines = Machines::new();
    let said = machines.on("one", &["cache", "key"]).success().stdout;
    assert_eq!(said, machines.on("two", &["cache", "key"]).success().stdout);
    assert!(!machines.state("one").join("server").exists());
    let (prefix, fingerprint) = said.trim_end().split_once('\n').unwrap();
    let prefix = prefix.strip_prefix("prefix=").unwrap();
    let project = machines.private.project.name();
    let begin = format!("pgstencil1-{}-{}-pg", std::env::consts::OS, std::env::consts::ARCH);
    assert!(prefix.starts_with(&begin) && prefix.ends_with(&format!("-{project}-")), "{prefix}");
    let json = machines.on("one", &["cache", "key", "--json"]).success().json();
    let fingerprint = fingerprint.strip_prefix("fingerprint=").unwrap();
    assert_eq!((&json["prefix"], &json["fingerprint"]), (&prefix.into(), &fingerprint.into()));
    assert_eq!(json["key"], format!("{prefix}{fingerprint}"));
    let built = machines.on("one", &["ensure", "--json"]).success().json();
    assert_eq!(built["fingerprint"], fingerprint);
    machines.private.project.add_migration("0003_more", "select 1");
    let next = machines.on("one", &["cache", "key", "--json"]).success().json();
    assert!(next["prefix"] == prefix && next["fingerprint"] != fingerprint);
    for words in [&["cache", "key"][..], &["cache", "save", "x"], &["cache", "restore", "x"]] {
        machines
            .on("one", words)
            .env("PGSTENCIL_SERVER_URL", "postgresql://elsewhere/postgres")
            .fails(2)
            .stderr_has("PGSTENCIL_SERVER_URL");
    }
}

#[test]
fn a_killed_save_or_restore_leaves_everything_whole() {
    let mut machines = Machines::saved();
    let file = machines.file();
    let name = file.to_str().unwrap().to_owned();
    for delay in [20, 120, 300, 500, 800, 1200] {
        let mut save = machines.on("one", &["cache", "save", &name]).spawn();
        std::thread::sleep(Duration::from_millis(delay));
        save.kill9();
        drop(save);
        assert_eq!(machines.outcome("one"), "hit", "killed after {delay} ms");
        // The file is an old or a new one.
        let machine = format!("after{delay}");
        let mut restore = machines.on(&machine, &["cache", "restore", &name]).spawn();
        std::thread::sleep(Duration::from_millis(delay / 3));
        restore.kill9();
        drop(restore);
        let restored = machines.restore(&machine, &file);
        assert!(restored["restored"] == true || restored["reason"] == "exists", "{restored}");
        assert_eq!(machines.outcome(&machine), "hit", "killed after {} ms", delay / 3);
        machines.on(&machine, &["server", "stop"]).success();
    }
    machines.save("one");
    for machine in ["one", "after20", "after300", "after1200"] {
        for cluster in fs::read_dir(machines.state(machine).join("server")).unwrap().flatten() {
            for entry in fs::read_dir(cluster.path()).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                assert!(!name.starts_with("data."), "{machine}: {name} is left");
            }
        }
    }
}

#[test]
fn of_two_restores_at_once_one_does_it() {
    let mut machines = Machines::saved();
    let file = machines.file();
    let words = ["cache", "restore", "--json", file.to_str().unwrap()];
    let running: Vec<_> = (0..3).map(|_| machines.on("two", &words).spawn()).collect();
    let answers: Vec<Value> = running.into_iter().map(|run| run.wait().code(0).json()).collect();
    assert_eq!(answers.iter().filter(|a| a["restored"] == true).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|a| a["reason"] == "exists").count(), 2, "{answers:?}");
    assert_eq!(machines.outcome("two"), "hit");
}

/// A file system of so many megabytes. Only root can make one, and not everywhere.
struct Small(PathBuf);

impl Small {
    fn at(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&path).output();
        done.is_ok_and(|done| done.status.success()).then_some(Small(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_costs_neither_the_file_nor_the_job() {
    let mut machines = Machines::saved();
    let home = machines.private.project.home();
    let Some(small) = Small::at(home.join("small"), "size=600k,mode=755") else {
        eprintln!("skipped: no file system can be mounted");
        return;
    };
    let file = small.0.join("pgstencil.cache");
    fs::write(&file, "old").unwrap();
    machines
        .on("one", &["cache", "save", file.to_str().unwrap()])
        .fails(1)
        .stderr_has("cannot write the cache file")
        .stderr_has("No space left");
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    assert_eq!(fs::read_dir(&small.0).unwrap().count(), 1);
    assert_eq!(machines.outcome("one"), "hit");

    // Room for the bytes and the spare, not for the inodes.
    let state = machines.state("full");
    let state = Small::at(state, "size=400m,nr_inodes=500,mode=755").unwrap();
    let file = machines.file();
    let answer = machines.restore("full", &file);
    assert_eq!(answer["reason"], "no_room", "{answer}");
    drop(state);
}
