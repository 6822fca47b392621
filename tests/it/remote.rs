//! Templates that travel: what one server builds, another one pulls from a store; and what becomes of entries that are
//! not as they were pushed. Two registries on one server stand for two servers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cli::Output;
use crate::support::extension::templates;
use crate::support::server::{PATIENCE, quote_literal};
use crate::support::{Pgstencil, Project, Role, eventually, server};

const CONFIG: &str = r#"
project = "PROJECT"

[server]
registry = "{registry}"
BINDIR

[remote]
url = "file://STORE"
push = "always"
min_gain = "0s"
KEYS

[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
build_inputs = false
MORE
"#;

/// A store, and two servers with the same project.
struct Fleet {
    one: Project<'static>,
    two: Project<'static>,
    store: TempDir,
    keys: String,
    bindir: String,
    more: String,
}

impl Fleet {
    fn new() -> Self {
        Fleet::with("", "rebuild = \"never\"")
    }

    fn with(keys: &str, more: &str) -> Self {
        let mut fleet = Fleet {
            one: Project::with_migrations(server()),
            two: Project::with_migrations(server()),
            store: tempfile::Builder::new().prefix("pgst-store-").tempdir().unwrap(),
            keys: keys.into(),
            bindir: String::new(),
            more: more.into(),
        };
        fleet.configure();
        fleet
    }

    fn configure(&mut self) {
        let text = CONFIG
            .replace("PROJECT", &self.one.name())
            .replace("STORE", self.store.path().to_str().unwrap())
            .replace("KEYS", &self.keys)
            .replace("MORE", &self.more);
        self.one.config(&text.replace("BINDIR", ""));
        self.two.config(&text.replace("BINDIR", &self.bindir));
    }

    fn both(&self) -> [&Project<'static>; 2] {
        [&self.one, &self.two]
    }

    fn add_migration(&self, name: &str, sql: &str) {
        self.both().iter().for_each(|project| project.add_migration(name, sql));
    }

    /// Builds on the first server, which pushes.
    #[track_caller]
    fn pushed(&self) -> Value {
        let output = on(&self.one, &["ensure", "--json"]).success();
        assert!(output.stderr.contains("pushed template app"), "{output}");
        output.json()
    }

    /// The second server gets the template in this way; the whole output.
    #[track_caller]
    fn second(&self, outcome: &str) -> Output {
        let output = on(&self.two, &["ensure", "--json"]).success();
        assert_eq!(output.json()["outcome"], outcome, "{output}");
        output
    }

    /// Nothing is pulled, one line says why, and the build is a usual one.
    #[track_caller]
    fn is_refused(&self, why: &str) -> Output {
        let builds = self.two.builds();
        let output = self.second("miss");
        let lines = output.stderr.lines().filter(|line| line.contains("nothing was pulled"));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), 1, "{output}");
        assert!(lines[0].contains(why), "{output}");
        assert_eq!(self.two.builds(), builds + 1);
        assert_eq!(self.two.databases().len(), 1, "half a template is left: {:?}", self.two.databases());
        output
    }

    /// The files of the store with this end.
    fn files(&self, end: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut next = vec![self.store.path().to_owned()];
        while let Some(directory) = next.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => next.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found.retain(|path| path.to_str().unwrap().contains(end));
        found.sort();
        found
    }

    fn manifest(&self) -> PathBuf {
        self.files("/manifest").pop().unwrap()
    }

    fn blob(&self) -> PathBuf {
        self.files(".dump.zst").pop().unwrap()
    }
}

fn on(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args).env("PGSTENCIL_BACKGROUND", "off")
}

/// Changes an unsigned manifest or head, with the right hash.
fn forge(file: &Path, change: impl FnOnce(&mut Value)) {
    let text = fs::read_to_string(file).unwrap();
    let mut value: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    change(&mut value);
    let json = value.to_string();
    let hash = blake3::hash(json.as_bytes()).to_hex();
    fs::write(file, format!("pgstencil-remote 1 {hash}\n{json}\nunsigned\n")).unwrap();
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn what_one_server_builds_another_pulls() {
    let fleet = Fleet::new();
    fleet.add_migration(
        "0003_more",
        "create table more (id int generated always as identity, was int, s text check (s in ('a', 'b')));
         alter table more drop column was; create view v as select * from more;
         insert into more (s) values ('a'); create index on more (s);",
    );
    let built = fleet.pushed();
    let output = fleet.second("pulled");
    assert!(output.stderr.contains("pulled template app"), "{output}");
    assert_eq!(output.json()["fingerprint"], built["fingerprint"]);
    assert_eq!(fleet.two.builds(), 0);
    let rows = templates(&fleet.two);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["pulled_from"], format!("file://{}", fleet.store.path().display()));
    assert_eq!((&rows[0]["base"], &rows[0]["provisional"]), (&Value::Null, &json!(false)));
    // It is a template like any other: found again, copied, and equal to a build.
    let clone = on(&fleet.two, &["clone", "--json"]).success().json();
    assert_eq!(clone["outcome"], "hit");
    let name = clone["clone"]["name"].as_str().unwrap();
    assert_eq!(server().psql(name, "select name from users"), "ann");
    assert_eq!(server().psql(name, "insert into more (s) values ('b') returning id"), "2");
    assert!(server().psql(name, "select reltuples from pg_class where relname = 'more'").starts_with('1'));
    on(&fleet.two, &["verify", "--rows"]).success();
    let stats = on(&fleet.two, &["stats", "--json"]).success().json();
    assert_eq!((&stats["total"]["pulls"], &stats["total"]["misses"]), (&json!(1), &json!(0)));
    assert!(on(&fleet.two, &["stats"]).success().stdout.contains("PULLS"));
    // The store has it already.
    let again = on(&fleet.two, &["push", "--json"]).success().json();
    assert_eq!(
        (&again["templates"][0]["pushed"], &again["templates"][0]["stored"]),
        (&json!(false), &json!(true))
    );
}

#[test]
fn sets_travel_with_what_a_dump_lacks() {
    let fleet = Fleet::with("", "rebuild = \"never\"\ndatabases = [\"main\", \"side\"]");
    let script = "migrate
        sql -d \"$DATABASE_URL\" -c \"alter database \\\"$PGSTENCIL_NAME_SIDE\\\" set search_path = x, public\" \
            -c \"revoke connect on database \\\"$PGSTENCIL_NAME_MAIN\\\" from public\" \
            -c \"comment on database \\\"$PGSTENCIL_NAME_MAIN\\\" is 'the builder''s own'\" \
            -c \"select lo_from_bytea(4711, 'large')\" -c 'grant select on users to public'";
    fleet.both().iter().for_each(|project| project.build(&crate::support::Build::Script(script.into())));
    fleet.pushed();
    fleet.second("pulled");
    let clone = on(&fleet.two, &["clone", "--json"]).success().json();
    let name = |alias: &str| clone["clone"]["databases"][alias]["name"].as_str().unwrap().to_owned();
    assert_eq!(server().psql(&name("side"), "show search_path"), "x, public");
    assert_eq!(server().psql(&name("main"), "select convert_from(lo_get(4711), 'UTF8')"), "large");
    let acl =
        format!("select datacl::text from pg_database where datname = {}", quote_literal(&name("main")));
    assert!(!server().psql("postgres", &acl).contains("=c/"));
    on(&fleet.two, &["verify"]).success();
    assert_eq!(fleet.two.builds(), 1);
}

#[test]
fn a_base_from_the_store_is_extended() {
    let fleet = Fleet::new();
    let base = fleet.pushed();
    // A larger base of other files, and one that is newer than the code.
    fleet.one.add_migration("0003_other", "create table other ()");
    fleet.pushed();
    fleet.two.add_migration("0003_items", "create table items (id int, s text check (s in ('x', 'y')))");
    let output = fleet.second("extended");
    let answer = output.json();
    assert_eq!(answer["extends"]["base"], base["fingerprint"]);
    assert_eq!(answer["extends"]["added"], json!(["migrations/0003_items.sql"]));
    assert_eq!(answer["base_from"], "remote");
    assert_eq!(fleet.two.builds(), 1);
    assert_eq!(templates(&fleet.two).len(), 2);
    // Though a part of it was restored, it equals a full build.
    on(&fleet.two, &["verify"]).success();
    // It was pushed, and is pulled as what it is.
    let third = on(&fleet.one, &["pull", "--json"]).success().json();
    assert_eq!(third["pulled"], false, "the server has it: {third}");
}

#[test]
fn provisional_templates_are_pulled_as_such() {
    let fleet = Fleet::with("", "");
    fleet.pushed();
    fleet.add_migration("0003_items", "create table items ()");
    let built = fleet.pushed();
    assert_eq!((&built["outcome"], &built["provisional"]), (&json!("extended"), &json!(true)));
    let output = fleet.second("pulled");
    assert_eq!(output.json()["provisional"], true);
    let rows = templates(&fleet.two);
    assert_eq!((&rows[0]["chain"], &rows[0]["base"]), (&json!(1), &built["extends"]["base"]));
    // The full build takes its place in the store, too.
    on(&fleet.two, &["ensure", "--rebuild"]).success();
    assert_eq!(templates(&fleet.two)[0]["provisional"], false);
    let pushed = on(&fleet.two, &["push", "--json"]).success().json();
    // By this command, or by that with the full build.
    assert_eq!(pushed["templates"][0]["stored"], true);
    let listed = on(&fleet.one, &["remote", "list", "--json"]).success().json();
    let entries = listed["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry["provisional"] == false), "{listed}");
}

#[test]
fn a_full_build_in_the_background_is_pushed_too() {
    let fleet = Fleet::with("", "rebuild = \"always\"");
    fleet.pushed();
    fleet.add_migration("0003_items", "create table items ()");
    let output = Pgstencil::new(&fleet.one).args(["ensure", "--json"]).success();
    assert_eq!(output.json()["provisional"], true, "{output}");
    assert!(output.stderr.contains("pushed template app"), "{output}");
    let pushed = eventually(PATIENCE, || {
        let listed = on(&fleet.one, &["remote", "list", "--json"]).success().json();
        let entries = listed["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{listed}");
        entries.iter().all(|entry| entry["provisional"] == false)
    });
    assert!(pushed, "the store still has the incremental build");
    assert_eq!(fleet.one.builds(), 3);
    assert_eq!(fleet.second("pulled").json()["provisional"], false);
}

/// PostHog's cases: what restores the newest dump by a prefix of a key hands out a schema that the code does not have.
#[test]
fn neither_newer_nor_edited_nor_forked_sets_are_a_base() {
    let fleet = Fleet::new();
    fleet.add_migration("0003_items", "create table items ()");
    fleet.pushed();
    let migration = |name: &str| fleet.two.path().join("migrations").join(name);
    // Its own builds would be bases.
    let config = fleet.two.read("pgstencil.toml").replace("\"always\"", "\"never\"");
    fleet.two.write("pgstencil.toml", &config);
    // The base is newer than the code.
    fs::remove_file(migration("0003_items.sql")).unwrap();
    fleet.is_refused("no base");
    // A migration was edited.
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    fleet.two.add_migration("0003_items", "create table items (id int)");
    fleet.two.add_migration("0004_more", "create table more ()");
    fleet.is_refused("no base");
    // Another branch has another migration after the common ones.
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    fs::remove_file(migration("0003_items.sql")).unwrap();
    fleet.is_refused("no base");
    let clone = on(&fleet.two, &["clone", "--json"]).success().json();
    let name = clone["clone"]["name"].as_str().unwrap();
    assert_eq!(server().psql(name, "select to_regclass('items') is null"), "t");
}

#[test]
fn damaged_entries_are_misses() {
    let fleet = Fleet::new();
    fleet.pushed();
    let (manifest, blob) = (fleet.manifest(), fleet.blob());
    let whole = (fs::read(&manifest).unwrap(), fs::read(&blob).unwrap());
    let again = |why: &str| {
        fleet.is_refused(why);
        on(&fleet.two, &["evict", "--all", "--yes"]).success();
        fs::write(&manifest, &whole.0).unwrap();
        fs::write(&blob, &whole.1).unwrap();
    };
    fs::write(&blob, &whole.1[..whole.1.len() / 2]).unwrap();
    again("is damaged");
    flip(&blob, whole.1.len() / 2);
    again("is damaged");
    fs::remove_file(&blob).unwrap();
    again("is missing");
    fs::write(&manifest, &whole.0[..whole.0.len() / 2]).unwrap();
    again("is damaged");
    flip(&manifest, whole.0.len() / 2);
    again("is damaged");
    // What does not restore is not kept, though its hash is right.
    let empty = zstd::encode_all(&b"PGDMP is not enough"[..], 3).unwrap();
    let hash = blake3::hash(&empty).to_hex().to_string();
    let planted = blob.with_file_name(format!("{hash}.dump.zst"));
    fs::write(&planted, &empty).unwrap();
    forge(&manifest, |entry| {
        entry["databases"][0]["blake3"] = json!(hash);
        entry["databases"][0]["bytes"] = json!(empty.len());
        entry["databases"][0]["raw_bytes"] = json!(19);
    });
    again("the restore");
    forge(&manifest, |entry| entry["databases"][0]["raw_bytes"] = json!(7));
    again("cannot be unpacked");
    fleet.second("pulled");
}

#[test]
fn entries_of_other_servers_and_templates_do_not_fit() {
    let fleet = Fleet::new();
    fleet.pushed();
    let manifest = fleet.manifest();
    let whole = fs::read(&manifest).unwrap();
    let again = |why: &str, change: &dyn Fn(&mut Value)| {
        forge(&manifest, change);
        fleet.is_refused(why);
        on(&fleet.two, &["evict", "--all", "--yes"]).success();
        fs::write(&manifest, &whole).unwrap();
    };
    let major = server().version_major();
    again("PostgreSQL 12", &|entry| entry["major"] = json!(12));
    again("was dumped by pg_dump 99", &|entry| entry["dumped_by"] = json!(99));
    again("needs extension `nowhere`", &|entry| entry["extensions"] = json!({"nowhere": "1.0"}));
    again("has extension `plpgsql` 0.9", &|entry| entry["extensions"] = json!({"plpgsql": "0.9"}));
    again("needs role `nobody-at-all`", &|entry| entry["roles"] = json!(["nobody-at-all"]));
    again("is that of another template", &|entry| entry["project"] = json!("other"));
    again("is that of another template", &|entry| entry["definition"] = json!("other"));
    again("does not have the inputs", &|entry| entry["migrations"] = json!([]));
    again("has several owners", &|entry| {
        entry["built_as"] = json!("other");
        entry["other_owners"] = json!(true);
    });
    // Another role's name alone is no obstacle: the role that restores owns what it restores.
    forge(&manifest, |entry| {
        entry["built_as"] = json!("other");
        assert_eq!(entry["major"], json!(major));
    });
    fleet.second("pulled");
}

#[test]
fn a_dead_store_is_told_and_left_alone() {
    let fleet = Fleet::new();
    fleet.pushed();
    let gone = fleet.store.path().with_extension("gone");
    fs::rename(fleet.store.path(), &gone).unwrap();
    fleet.is_refused("there is no directory");
    // It is not asked again for some minutes, though it is back.
    fs::rename(&gone, fleet.store.path()).unwrap();
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    fleet.is_refused("is tried again in");
    // Only those who ask for it do.
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    let pulled = on(&fleet.two, &["pull", "--json"]).success().json();
    assert_eq!(pulled["pulled"], true);
}

#[test]
fn what_a_dead_store_did_not_get_a_later_command_pushes() {
    let fleet = Fleet::new();
    let gone = fleet.store.path().with_extension("gone");
    fs::rename(fleet.store.path(), &gone).unwrap();
    let ensured = || on(&fleet.one, &["ensure", "--json"]).success();
    let output = ensured();
    assert!(output.stderr.contains("nothing was pushed"), "{output}");
    fs::rename(&gone, fleet.store.path()).unwrap();
    let output = ensured();
    assert_eq!(output.json()["outcome"], "hit");
    assert!(output.stderr.contains("is tried again in"), "{output}");
    let cache = fleet.one.home().join(".cache/pgstencil");
    let mut notes = fs::read_dir(cache).unwrap().flatten().map(|entry| entry.path());
    fs::remove_file(notes.find(|path| path.extension().is_some_and(|end| end == "failed")).unwrap()).unwrap();
    // Only where it is allowed.
    let output = on(&fleet.one, &["run", "--", "true"]).env("PGSTENCIL_UNTRUSTED", "1").success();
    assert!(!output.stderr.contains("pushed"), "{output}");
    let pushed = on(&fleet.one, &["run", "--", "true"]).success();
    assert!(pushed.stderr.contains("pushed template app"), "{pushed}");
    let output = ensured();
    assert!(!output.stderr.contains("pushed"), "{output}");
    fleet.second("pulled");
    // That one has nothing to push.
    let output = fleet.second("hit");
    assert!(!output.stderr.contains("pushed"), "{output}");
}

#[test]
fn what_a_killed_command_did_not_push_a_later_one_does() {
    let mut fleet = Fleet::new();
    fleet.pushed();
    fleet.two.add_migration("0003_items", "create table items ()");
    let started = fleet.two.home().join("started");
    programs(&mut fleet, &format!("touch {}; exec sleep 600", started.display()), "exit 1");
    let mut killed = on(&fleet.two, &["ensure"]).spawn();
    assert!(eventually(PATIENCE, || started.exists()));
    killed.kill9();
    fleet.bindir.clear();
    fleet.configure();
    // What the killed command held is free a moment later.
    let pushed = || {
        let output = fleet.second("hit");
        output.stderr.contains("pushed template app")
    };
    assert!(eventually(PATIENCE, pushed));
    fleet.one.add_migration("0003_items", "create table items ()");
    on(&fleet.one, &["evict", "--all", "--yes"]).success();
    assert_eq!(on(&fleet.one, &["ensure", "--json"]).success().json()["outcome"], "pulled");
}

#[test]
fn two_pullers_at_once_restore_once() {
    let fleet = Fleet::new();
    fleet.pushed();
    let commands = [(); 3].map(|()| on(&fleet.two, &["clone", "--json"]).spawn());
    let outcomes: Vec<String> = commands
        .into_iter()
        .map(|command| command.wait().json()["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "pulled").count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "hit").count(), 2, "{outcomes:?}");
    assert_eq!(fleet.two.builds(), 0);
    assert_eq!(templates(&fleet.two).len(), 1);
}

#[test]
fn of_two_machines_at_once_one_builds() {
    let fleet = Fleet::new();
    fleet.both().iter().for_each(|project| project.build(&crate::support::Build::Gate));
    let first = on(&fleet.one, &["ensure", "--json"]).spawn();
    assert!(eventually(PATIENCE, || !fleet.files("/building/").is_empty()));
    let second = on(&fleet.two, &["ensure", "--json"]).spawn();
    second.wait_for_text("another machine builds template app");
    fleet.one.write("go", "");
    assert_eq!(first.wait().json()["outcome"], "miss");
    assert_eq!(second.wait().json()["outcome"], "pulled");
    assert_eq!((fleet.one.builds(), fleet.two.builds()), (1, 0));
    assert!(fleet.files("/building/").is_empty());
    // Nor is one waited for whose command was killed, once its announcement was not renewed for a while.
    let fleet = Fleet::new();
    fleet.both().iter().for_each(|project| project.build(&crate::support::Build::Gate));
    let mut killed = on(&fleet.one, &["ensure"]).spawn();
    // Written completely: the name of a part of it begins with a dot.
    let announcement = || match fleet.files("/building/").as_slice() {
        [one] if !one.file_name().unwrap().to_str().unwrap().starts_with('.') => Some(one.clone()),
        _ => None,
    };
    assert!(eventually(PATIENCE, || announcement().is_some()));
    killed.kill9();
    fs::write(announcement().unwrap(), "1 99999999999").unwrap();
    fleet.two.write("go", "");
    fleet.second("miss").lacks("another machine");
    assert!(fleet.files("/building/").is_empty());
    // A build that fails is not waited for.
    let fleet = Fleet::new();
    fleet.add_migration("0003_bad", "select 1/0");
    on(&fleet.one, &["ensure"]).fails(4);
    assert!(fleet.files("/building/").is_empty());
}

#[test]
#[ignore = "waits for a renewal, 20 s"]
fn an_announcement_is_renewed_while_the_build_runs() {
    let fleet = Fleet::new();
    fleet.one.build(&crate::support::Build::Gate);
    let building = on(&fleet.one, &["ensure", "--json"]).spawn();
    let announcement = || fleet.files("/building/").first().and_then(|file| fs::read(file).ok());
    let mut first = None;
    assert!(eventually(PATIENCE, || {
        first = announcement().filter(|text| !text.is_empty());
        first.is_some()
    }));
    assert!(
        eventually(PATIENCE, || announcement().is_some_and(|text| !text.is_empty() && Some(text) != first))
    );
    fleet.one.write("go", "");
    assert_eq!(building.wait().json()["outcome"], "miss");
    assert_eq!(announcement(), None);
}

#[test]
fn an_ordinary_role_pulls_and_owns_what_it_restores() {
    let role = Role::new(server());
    let mut fleet = Fleet::new();
    fleet.two.connect_as(&role);
    fleet.pushed();
    let output = fleet.second("pulled");
    assert!(!output.stderr.contains("superuser"), "{output}");
    let clone = on(&fleet.two, &["clone", "--json"]).success().json();
    let name = clone["clone"]["name"].as_str().unwrap();
    let owner = "select tableowner from pg_tables where tablename = 'users'";
    assert_eq!(server().psql(name, owner), role.name);
    on(&fleet.two, &["verify"]).success();
}

/// Programs in a directory of the second server's config.
fn programs(fleet: &mut Fleet, dump: &str, restore: &str) -> PathBuf {
    let directory = fleet.two.home().join("bin");
    fs::create_dir_all(&directory).unwrap();
    // As those that pushed, which may be newer than the server.
    let text = fs::read_to_string(fleet.manifest()).unwrap();
    let entry: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    let major = &entry["dumped_by"];
    for (name, script) in [("pg_dump", dump), ("pg_restore", restore)] {
        let file = directory.join(name);
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo \"{name} (PostgreSQL) {major}.1\" && exit\n{script}\n"
        );
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fleet.bindir = format!("bindir = {:?}", directory.to_str().unwrap());
    fleet.configure();
    directory
}

#[test]
fn a_failed_restore_is_a_miss() {
    let mut fleet = Fleet::new();
    fleet.pushed();
    programs(&mut fleet, "exit 1", "echo 'pg_restore: error: no memory' >&2; exit 1");
    let output = fleet.is_refused("the restore of entry");
    assert!(output.stderr.contains("no memory"), "{output}");
}

#[test]
fn a_killed_puller_leaves_nothing() {
    let mut fleet = Fleet::new();
    fleet.pushed();
    let started = fleet.two.home().join("started");
    programs(&mut fleet, "exit 1", &format!("touch {}; exec sleep 600", started.display()));
    let mut killed = on(&fleet.two, &["ensure"]).spawn();
    assert!(eventually(PATIENCE, || started.exists()));
    killed.kill9();
    fleet.bindir.clear();
    fleet.configure();
    fleet.second("pulled");
    let gone = || {
        on(&fleet.two, &["evict"]).success();
        fleet.two.databases().len() == 1
    };
    assert!(eventually(PATIENCE, gone), "{:?}", fleet.two.databases());
}

#[test]
fn only_trusted_signatures_count() {
    let mut fleet = Fleet::new();
    let key = |name: &str| {
        let file = fleet.one.home().join(name);
        let made = on(&fleet.one, &["cache", "new-key", file.to_str().unwrap()]).success();
        (file, made.stdout.trim().to_owned())
    };
    let ((ours, public), (other, _)) = (key("ours"), key("other"));
    // Unsigned.
    fleet.pushed();
    fleet.keys = format!("trust = [{public:?}]\nsigning_key = {:?}", other.to_str().unwrap());
    fleet.configure();
    fleet.is_refused("is not signed");
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    // Pushed with another key: it says so, since no reader would take it.
    let output = on(&fleet.one, &["push"]).fails(1);
    assert!(output.stderr.contains("`[remote] trust` does not name the key"), "{output}");
    // Signed by another key.
    fs::remove_dir_all(fleet.store.path().join("v1")).unwrap();
    fleet.keys = format!("signing_key = {:?}", other.to_str().unwrap());
    fleet.configure();
    on(&fleet.one, &["push"]).success();
    fleet.keys = format!("trust = [{public:?}]\nsigning_key = \"env:SIGNING\"");
    fleet.configure();
    fleet.is_refused("which `trust` does not name");
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    // An entry that nothing here can use is replaced.
    let secret = fs::read_to_string(&ours).unwrap();
    let output = on(&fleet.one, &["push"]).fails(1);
    assert!(output.stderr.contains("`SIGNING`"), "{output}");
    on(&fleet.one, &["push"]).env("SIGNING", secret.trim()).success();
    let output = fleet.second("pulled");
    assert!(!output.stderr.contains(secret.trim()), "{output}");
    // A signature of one entry does not hold for another.
    let manifest = fleet.manifest();
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"chain\":0", "\"chain\":1")).unwrap();
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    fleet.is_refused("is damaged");
}

#[test]
fn without_keys_only_an_own_directory_is_read() {
    let fleet = Fleet::new();
    fleet.pushed();
    fs::set_permissions(fleet.store.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fleet.is_refused("every user can write");
    fs::set_permissions(fleet.store.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if nix::unistd::geteuid().is_root() {
        on(&fleet.two, &["evict", "--all", "--yes"]).success();
        let manifest = fleet.manifest();
        std::os::unix::fs::chown(&manifest, Some(65534), None).unwrap();
        fleet.is_refused("belongs to another user");
        std::os::unix::fs::chown(&manifest, Some(0), None).unwrap();
        std::os::unix::fs::chown(fleet.store.path(), Some(65534), None).unwrap();
        on(&fleet.two, &["evict", "--all", "--yes"]).success();
        fleet.is_refused("belongs to another user");
    }
}

#[test]
fn the_ci_variables_decide_what_is_pushed() {
    let mut fleet = Fleet::new();
    let config = fleet.one.read("pgstencil.toml").replace("\"always\"", "\"trusted\"");
    fleet.one.write("pgstencil.toml", &config);
    let output = on(&fleet.one, &["ensure"]).success();
    assert!(output.stderr.contains("nothing was pushed"), "{output}");
    assert!(output.stderr.contains("PGSTENCIL_PUSH is not set"), "{output}");
    assert!(fleet.files("manifest").is_empty());
    let event = fleet.one.home().join("event.json");
    let fork = json!({"repository": {"full_name": "a/shop", "default_branch": "main"},
        "pull_request": {"head": {"repo": {"full_name": "evil/shop"}}}});
    fs::write(&event, fork.to_string()).unwrap();
    let job = |kind: &str| {
        on(&fleet.one, &["push"])
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_EVENT_NAME", kind)
            .env("GITHUB_EVENT_PATH", &event)
            .env("GITHUB_REF_NAME", "main")
            .env("GITHUB_REF_TYPE", "branch")
            .env("PGSTENCIL_PUSH", "1")
    };
    for kind in ["pull_request", "pull_request_target", "workflow_run"] {
        let output = job(kind).fails(1);
        assert!(output.stderr.contains("pushes nothing"), "{output}");
    }
    assert!(fleet.files("manifest").is_empty());
    let main = json!({"repository": {"full_name": "a/shop", "default_branch": "main"}});
    fs::write(&event, main.to_string()).unwrap();
    job("push").success();
    assert!(fleet.manifest().to_str().unwrap().contains("/trusted/"));
    fleet.keys.clear();
    fleet.second("pulled");
}

#[test]
fn a_branch_reads_its_own_entries_and_trusted_ones_only() {
    let fleet = Fleet::new();
    let job = |project: &Project<'static>, args: &[&str], branch: &str| {
        on(project, args)
            .env("GITLAB_CI", "true")
            .env("CI_COMMIT_REF_NAME", branch)
            .env("CI_COMMIT_BRANCH", branch)
            .env("CI_DEFAULT_BRANCH", "main")
    };
    let output = job(&fleet.one, &["ensure"], "topic").success();
    assert!(output.stderr.contains("pushed template"), "{output}");
    let other = job(&fleet.two, &["ensure", "--json"], "main").success();
    assert_eq!(other.json()["outcome"], "miss", "{other}");
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    let same = job(&fleet.two, &["ensure", "--json"], "topic").success();
    assert_eq!(same.json()["outcome"], "pulled", "{same}");
}

#[test]
fn a_pull_that_does_not_win_is_not_done() {
    let mut fleet = Fleet::new();
    fleet.pushed();
    let config = fleet.two.read("pgstencil.toml").replace("min_gain = \"0s\"", "min_gain = \"10m\"");
    fleet.two.write("pgstencil.toml", &config);
    fleet.is_refused("`min_gain` is 10 min");
    on(&fleet.two, &["evict", "--all", "--yes"]).success();
    // Those who ask for it get it.
    on(&fleet.two, &["pull"]).success();
    fleet.bindir.clear();
}

#[test]
fn entries_are_listed_examined_and_pruned() {
    let fleet = Fleet::new();
    let built = fleet.pushed();
    let list = || on(&fleet.two, &["remote", "list", "--json"]).success().json();
    let listed = list();
    let entry = &listed["entries"][0];
    assert_eq!((&entry["fingerprint"], &entry["template"]), (&built["fingerprint"], &json!("app")));
    assert_eq!((&entry["provisional"], &entry["read"]), (&json!(false), &json!(true)));
    assert!(entry["bytes"].as_u64().unwrap() > 500);
    let text = on(&fleet.two, &["remote", "list"]).success().stdout;
    assert!(text.contains(&built["fingerprint"].as_str().unwrap()[..12]), "{text}");
    let doctor = on(&fleet.two, &["remote", "doctor", "--json"]).success().json();
    for name in [
        "store",
        "read",
        "reach",
        "contents",
        "write",
        "read back",
        "delete",
        "conditional writes",
        "clock",
        "programs",
    ] {
        let check = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
        assert_eq!(check.unwrap()["status"], "ok", "{doctor}");
    }
    assert!(fleet.files("probe").is_empty());
    let general = on(&fleet.two, &["doctor", "--json"]).run().json();
    let of_store = |check: &&Value| check["name"] == "remote store";
    assert!(general["checks"].as_array().unwrap().iter().find(of_store).is_some(), "{general}");
    // Too young; then pinned; then deleted with all that belongs to it.
    let prune = |more: &[&str]| {
        let args = [&["remote", "prune", "--json"][..], more].concat();
        on(&fleet.one, &args).success().json()["entries"].as_array().unwrap().len()
    };
    assert_eq!(prune(&[]), 0);
    std::thread::sleep(Duration::from_millis(1100));
    on(&fleet.one, &["pin"]).success();
    assert_eq!(prune(&["--idle", "1s"]), 0);
    on(&fleet.one, &["unpin"]).success();
    assert_eq!(prune(&["--idle", "1s", "--dry-run"]), 1);
    assert_eq!(list()["entries"].as_array().unwrap().len(), 1);
    assert_eq!(prune(&["--idle", "1s"]), 1);
    assert!(fleet.files("").is_empty(), "{:?}", fleet.files(""));
    // The store is gone.
    fs::remove_dir_all(fleet.store.path()).unwrap();
    let output = on(&fleet.two, &["remote", "doctor"]).fails(1);
    assert!(output.stdout.contains("cannot be listed"), "{output}");
    on(&fleet.two, &["remote", "list"]).fails(1);
    fs::create_dir(fleet.store.path()).unwrap();
}

#[test]
fn explain_says_what_the_store_has() {
    let fleet = Fleet::new();
    let built = fleet.pushed();
    let explain = || on(&fleet.two, &["explain", "--json"]).success().json();
    let answer = explain();
    assert_eq!(answer["remote"]["exact"]["fingerprint"], built["fingerprint"], "{answer}");
    assert_eq!(answer["remote"]["pull"], true);
    assert!(answer["remote"]["exact"]["restore_ms"].as_f64().unwrap() > 0.0);
    let text = on(&fleet.two, &["explain"]).success().stdout;
    assert!(text.contains("a command now would pull it"), "{text}");
    fleet.two.add_migration("0003_items", "create table items ()");
    let answer = explain();
    assert_eq!(answer["remote"]["base"]["fingerprint"], built["fingerprint"], "{answer}");
    assert_eq!(answer["remote"]["base"]["added"], json!(["migrations/0003_items.sql"]));
    fleet.second("extended");
    assert_eq!(explain()["remote"], Value::Null);
}

#[test]
fn what_an_untrusted_job_builds_serves_it_alone() {
    let fleet = Fleet::new();
    fleet.pushed();
    let untrusted = |project: &Project<'static>, args: &[&str]| {
        Pgstencil::new(project).args(args).env("PGSTENCIL_UNTRUSTED", "1")
    };
    // It may use what others built.
    let hit = untrusted(&fleet.one, &["clone", "--json"]).success().json();
    assert_eq!(hit["outcome"], "hit");
    // It neither pulls nor builds a template, and pushes nothing.
    let output = untrusted(&fleet.two, &["clone", "--json"]).success();
    assert_eq!(output.json()["outcome"], "fallback", "{output}");
    assert!(output.stderr.contains("PGSTENCIL_UNTRUSTED is set"), "{output}");
    let name = output.json()["clone"]["name"].as_str().unwrap().to_owned();
    assert_eq!(server().psql(&name, "select name from users"), "ann");
    assert_eq!((fleet.two.builds(), templates(&fleet.two).len()), (1, 0));
    fleet.two.add_migration("0003_items", "create table items ()");
    untrusted(&fleet.two, &["run", "--", "true"]).success();
    assert_eq!(templates(&fleet.two).len(), 0);
    assert_eq!(fleet.files("/manifest").len(), 1);
    for args in [&["ensure"][..], &["verify"], &["push"], &["pull"]] {
        let output = untrusted(&fleet.two, args).fails(1);
        assert!(output.stderr.contains("PGSTENCIL_UNTRUSTED"), "{output}");
    }
}

#[test]
fn without_a_store_the_commands_say_so() {
    let project = Project::with_migrations(server());
    for args in [&["push"][..], &["pull"], &["remote", "list"], &["remote", "prune"], &["remote", "doctor"]] {
        let output = on(&project, args).fails(2);
        assert!(output.stderr.contains("no remote store"), "{output}");
    }
}
