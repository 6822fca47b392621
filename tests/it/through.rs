//! `cache save --through-server` and `cache restore --through-server`: templates of a server that starts empty with each
//! job, dumped and restored by programs on its machine. Two registries on one server stand for the servers of two jobs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::cli::Output;
use crate::support::extension::templates;
use crate::support::server::{PATIENCE, TestServer, quote_ident, quote_literal};
use crate::support::{Pgstencil, Project, Role, eventually, random_id, server};

const CONFIG: &str = r#"
project = "PROJECT"

[server]
registry = "{registry}"

[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
build_inputs = false
rebuild = "never"
MORE
"#;

/// Whether the machine of the test server has programs of its version.
pub(crate) fn has_programs() -> bool {
    let major = server().version_major();
    let prints = |program: PathBuf| {
        let output = Command::new(program).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.split(") ").nth(1)?.split(['.', ' ', '\n']).next()?.parse::<u32>().ok()
    };
    let own = server().bindir().map(|dir| dir.join("pg_dump")).filter(|file| file.exists());
    prints(own.unwrap_or_else(|| "pg_dump".into())).is_some_and(|found| found >= major)
}

/// One project in two jobs, and a file in the cache of the CI system.
struct Jobs {
    one: Project<'static>,
    two: Project<'static>,
}

impl Jobs {
    /// `None`: this server's machine has no programs.
    fn new() -> Option<Self> {
        Jobs::with("")
    }

    fn with(more: &str) -> Option<Self> {
        if !has_programs() {
            return None;
        }
        let jobs = Jobs { one: Project::with_migrations(server()), two: Project::with_migrations(server()) };
        let text = CONFIG.replace("PROJECT", &jobs.one.name()).replace("MORE", more);
        jobs.one.config(&text);
        jobs.two.config(&text);
        Some(jobs)
    }

    fn add_migration(&self, name: &str, sql: &str) {
        [&self.one, &self.two].iter().for_each(|project| project.add_migration(name, sql));
    }

    fn file(&self) -> PathBuf {
        self.one.home().join("pgstencil.cache")
    }

    #[track_caller]
    fn save(&self, project: &Project<'_>, more: &[&str]) -> Output {
        let file = self.file();
        let args = ["cache", "save", "--through-server", "--json", file.to_str().unwrap()];
        on(project, &args).args(more).success()
    }

    #[track_caller]
    fn built_and_saved(&self) -> Value {
        on(&self.one, &["ensure"]).success();
        self.save(&self.one, &[]).json()
    }

    #[track_caller]
    fn restore(&self, file: &Path, more: &[&str]) -> Output {
        let args = ["cache", "restore", "--through-server", "--json", file.to_str().unwrap()];
        on(&self.two, &args).args(more).success()
    }

    /// The second job gets its template in this way.
    #[track_caller]
    fn second(&self, outcome: &str) -> Value {
        let answer = on(&self.two, &["ensure", "--json"]).success().json();
        assert_eq!(answer["outcome"], outcome, "{answer}");
        answer
    }

    /// A file that cannot be used changes nothing, and costs one line.
    #[track_caller]
    fn is_refused(&self, contents: &[u8], reason: &str, more: &[&str]) -> Output {
        let file = self.file().with_file_name("bad.cache");
        fs::write(&file, contents).unwrap();
        let output = self.restore(&file, more);
        let answer = output.json();
        assert_eq!((&answer["restored"], &answer["reason"]), (&json!(false), &json!(reason)), "{output}");
        assert_eq!(output.stderr.lines().count(), 1, "{output}");
        assert_eq!(self.two.databases(), Vec::<String>::new(), "{output}");
        output
    }
}

fn on(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args).env("PGSTENCIL_BACKGROUND", "off")
}

/// The file with a changed manifest and the right hash of it.
fn forged(whole: &[u8], change: impl FnOnce(&mut Value), signature: &str) -> Vec<u8> {
    let mut lines = whole.splitn(4, |byte| *byte == b'\n').skip(1);
    let mut manifest: Value = serde_json::from_slice(lines.next().unwrap()).unwrap();
    change(&mut manifest);
    let text = manifest.to_string();
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let mut bytes = format!("pgstencil-dumps 1 {hash}\n{text}\n{signature}\n").into_bytes();
    bytes.extend(lines.nth(1).unwrap());
    bytes
}

#[test]
fn what_one_job_builds_the_next_one_restores() {
    let Some(jobs) = Jobs::new() else { return };
    jobs.add_migration(
        "0003_more",
        "create table more (id int generated always as identity, s text check (s in ('a', 'b')));
         insert into more (s) values ('a'); create view v as select * from more;
         create table big as select g, md5(g::text) as s from generate_series(1, 20000) g;
         insert into big values (0, E'tab\\t nl\\n backslash \\\\ é \\u2603');",
    );
    let saved = jobs.built_and_saved();
    assert_eq!((&saved["through_server"], &saved["dumped"]), (&json!(true), &json!(1)));
    assert_eq!(saved["templates"].as_array().unwrap().len(), 1);
    // The copy that was dumped is gone.
    assert_eq!(jobs.one.databases().len(), 1);
    let restored = jobs.restore(&jobs.file(), &[]);
    let answer = restored.json();
    assert_eq!(
        (&answer["restored"], &answer["templates"]),
        (&json!(true), &saved["templates"]),
        "{restored}"
    );
    assert!(restored.stderr.contains("restored template app"), "{restored}");
    assert!(restored.stderr.contains("as a superuser"), "{restored}");
    jobs.second("hit");
    assert_eq!(jobs.two.builds(), 0);
    assert_eq!(jobs.two.databases().len(), 1);
    let clone = on(&jobs.two, &["clone", "--json"]).success().json();
    let name = clone["clone"]["name"].as_str().unwrap();
    assert_eq!(server().psql(name, "insert into more (s) values ('b') returning id"), "2");
    let sum = "select count(*) || md5(string_agg(s, ',' order by g)) from big";
    let built = on(&jobs.one, &["clone", "--json"]).success().json();
    let built = built["clone"]["name"].as_str().unwrap();
    assert_eq!(server().psql(name, sum), server().psql(built, sum));
    on(&jobs.two, &["verify", "--rows"]).success();
    // Again: the server has it, and the file too.
    let again = jobs.restore(&jobs.file(), &[]);
    assert!(again.stderr.contains("the server already has template app"), "{again}");
    let saved = jobs.save(&jobs.two, &[]).json();
    assert_eq!((&saved["dumped"], &saved["templates"]), (&json!(0), &answer["templates"]));
}

#[test]
fn the_best_base_in_the_file_is_extended() {
    let Some(jobs) = Jobs::new() else { return };
    let small = jobs.built_and_saved();
    jobs.add_migration("0003_items", "create table items ()");
    let saved = jobs.built_and_saved();
    assert_eq!((saved["templates"].as_array().unwrap().len(), &saved["dumped"]), (2, &json!(1)));
    jobs.two.add_migration("0004_more", "create table more ()");
    let restored = jobs.restore(&jobs.file(), &[]);
    assert!(restored.stderr.contains("a base that lacks one migration"), "{restored}");
    assert_eq!(jobs.two.databases().len(), 1, "only the best one is restored");
    let answer = jobs.second("extended");
    assert_eq!(answer["extends"]["added"], json!(["migrations/0004_more.sql"]));
    assert_eq!(jobs.two.builds(), 1);
    // What was not restored stays in the file.
    let saved = jobs.save(&jobs.two, &[]).json();
    assert_eq!((saved["templates"].as_array().unwrap().len(), &saved["dumped"]), (3, &json!(1)));
    // Files from newer code, or with an edited migration, are no base.
    on(&jobs.two, &["evict", "--all", "--yes"]).success();
    let migrations = jobs.two.path().join("migrations");
    fs::remove_file(migrations.join("0004_more.sql")).unwrap();
    fs::write(migrations.join("0003_items.sql"), "create table items (id int)").unwrap();
    let restored = jobs.restore(&jobs.file(), &[]).json();
    assert_eq!(restored["templates"][0]["fingerprint"], small["templates"][0]["fingerprint"]);
    jobs.second("extended");
    // All of them.
    let restored = jobs.restore(&jobs.file(), &["--all"]).json();
    assert_eq!(restored["templates"].as_array().unwrap().len(), 3, "{restored}");
    assert_eq!(templates(&jobs.two).len(), 4);
}

#[test]
fn sets_travel_with_what_a_dump_lacks() {
    let Some(jobs) = Jobs::with("databases = [\"main\", \"side\"]") else { return };
    let script = "migrate
        sql -d \"$DATABASE_URL\" -c \"alter database \\\"$PGSTENCIL_NAME_SIDE\\\" set search_path = x, public\" \
            -c \"select lo_from_bytea(4711, 'large')\"";
    jobs.one.build(&crate::support::Build::Script(script.into()));
    jobs.built_and_saved();
    jobs.restore(&jobs.file(), &[]);
    let clone = on(&jobs.two, &["clone", "--json"]).success().json();
    let name = |alias: &str| clone["clone"]["databases"][alias]["name"].as_str().unwrap().to_owned();
    assert_eq!(clone["outcome"], "hit");
    assert_eq!(server().psql(&name("side"), "show search_path"), "x, public");
    assert_eq!(server().psql(&name("main"), "select convert_from(lo_get(4711), 'UTF8')"), "large");
}

#[test]
fn without_the_privilege_nothing_is_done() {
    let Some(mut jobs) = Jobs::new() else { return };
    jobs.built_and_saved();
    let role = Role::with(server(), "createdb", "secret");
    jobs.two.connect_as(&role);
    let file = jobs.file();
    let before = jobs.two.databases();
    for what in ["save", "restore"] {
        let output = on(&jobs.two, &["cache", what, "--through-server", file.to_str().unwrap()]).fails(3);
        assert!(output.stderr.contains("may not run programs on the server"), "{output}");
        assert!(output.stderr.contains("GRANT pg_execute_server_program TO"), "{output}");
        assert!(!server().has_database(&jobs.two.registry()), "{output}");
    }
    assert_eq!(jobs.two.databases(), before);
    // The privilege is enough; a superuser's template has another owner, though.
    server().psql("postgres", &format!("grant pg_execute_server_program to {}", quote_ident(&role.name)));
    on(&jobs.two, &["ensure"]).success();
    jobs.save(&jobs.two, &[]);
    on(&jobs.two, &["evict", "--all", "--yes"]).success();
    let restored = jobs.restore(&file, &[]);
    assert_eq!(restored.json()["restored"], true, "{restored}");
    assert!(!restored.stderr.contains("as a superuser"), "{restored}");
    jobs.second("hit");
}

#[test]
fn only_a_named_server_runs_programs() {
    let Some(jobs) = Jobs::new() else { return };
    let file = jobs.file();
    let file = file.to_str().unwrap();
    for args in
        [&["cache", "save", "--through-server", file][..], &["cache", "restore", "--through-server", file]]
    {
        let output = on(&jobs.one, args).env_remove("PGSTENCIL_SERVER_URL").fails(2);
        assert!(output.stderr.contains("none is named"), "{output}");
    }
    // Without the option, the named server is left alone, with a hint.
    let output = on(&jobs.one, &["cache", "save", file]).fails(2);
    assert!(output.stderr.contains("add `--through-server`"), "{output}");
    let output = on(&jobs.one, &["cache", "save", "--through-server", file]).fails(1);
    assert!(output.stderr.contains("no template that is ready"), "{output}");
    on(&jobs.one, &["ensure"]).success();
    let output =
        on(&jobs.one, &["cache", "save", "--through-server", file]).env("PGSTENCIL_UNTRUSTED", "1").fails(1);
    assert!(output.stderr.contains("PGSTENCIL_UNTRUSTED is set"), "{output}");
    assert!(!Path::new(file).exists());
    let key = on(&jobs.one, &["cache", "key", "--through-server"]).success();
    let saved = jobs.save(&jobs.one, &[]).json();
    let fingerprint = saved["templates"][0]["fingerprint"].as_str().unwrap();
    assert!(key.stdout.contains(&format!("fingerprint={fingerprint}\n")), "{key}");
    let prefix = format!("prefix=pgstencil1-dumps-pg{}-", server().version_major());
    assert!(key.stdout.starts_with(&prefix), "{key}");
}

#[test]
fn files_that_are_not_as_they_were_saved_are_as_none() {
    let Some(jobs) = Jobs::new() else { return };
    jobs.built_and_saved();
    let whole = fs::read(jobs.file()).unwrap();
    jobs.is_refused(&whole[..whole.len() - 1], "truncated", &[]);
    jobs.is_refused(&whole[..100], "truncated", &[]);
    for at in [20, 200, whole.len() - 40] {
        let mut bent = whole.clone();
        bent[at] ^= 1;
        jobs.is_refused(&bent, "damaged", &[]);
    }
    jobs.is_refused(b"a dump?\n", "foreign", &[]);
    jobs.is_refused(&forged(&whole, |m| m["project"] = json!("other"), "unsigned"), "other_project", &[]);
    let newer = String::from_utf8_lossy(&whole).into_owned().replacen("dumps 1 ", "dumps 2 ", 1);
    jobs.is_refused(newer.as_bytes(), "newer_format", &[]);
    let missing = jobs.restore(Path::new("/nonexistent/file"), &[]);
    assert_eq!(missing.json()["reason"], "missing");
    assert!(!server().has_database(&jobs.two.registry()), "a bad file costs no connection");
    let output = jobs.is_refused(&forged(&whole, |m| m["major"] = json!(12), "unsigned"), "other_major", &[]);
    assert!(output.stderr.contains("it is from PostgreSQL 12, this is PostgreSQL"), "{output}");
    // An entry that was planted in a file whose hashes are right does not restore, and is not kept.
    let plant = |manifest: &mut Value| {
        let objects = manifest["objects"].as_array_mut().unwrap();
        let is_manifest = |object: &&mut Value| object[0].as_str().unwrap().ends_with("/manifest");
        objects.iter_mut().find(is_manifest).unwrap()[0] = json!("v1/planted/manifest");
    };
    let planted = forged(&whole, plant, "unsigned");
    let file = jobs.file().with_file_name("planted.cache");
    fs::write(&file, planted).unwrap();
    let output = jobs.restore(&file, &[]);
    assert_eq!((&output.json()["restored"], &output.json()["reason"]), (&json!(false), &json!("no_match")));
    assert_eq!(jobs.two.databases(), Vec::<String>::new());
    jobs.second("miss");
}

#[test]
fn only_trusted_signatures_count() {
    let Some(jobs) = Jobs::new() else { return };
    let key = |name: &str| {
        let file = jobs.one.home().join(name);
        let made = on(&jobs.one, &["cache", "new-key", file.to_str().unwrap()]).success();
        (file.to_str().unwrap().to_owned(), made.stdout.trim().to_owned())
    };
    let ((ours, public), (other, other_public)) = (key("ours"), key("other"));
    jobs.built_and_saved();
    let unsigned = fs::read(jobs.file()).unwrap();
    jobs.is_refused(&unsigned, "unsigned", &["--trust", &public]);
    // What was in an unsigned file does not get a signature by being saved again.
    jobs.add_migration("0003_items", "create table items ()");
    on(&jobs.one, &["evict", "--all", "--yes"]).success();
    on(&jobs.one, &["ensure"]).success();
    let saved = jobs.save(&jobs.one, &["--sign-key", &ours]).json();
    assert_eq!((saved["templates"].as_array().unwrap().len(), &saved["signed_by"]), (1, &json!(public)));
    let signed = fs::read(jobs.file()).unwrap();
    jobs.is_refused(&signed, "untrusted", &["--trust", &other_public]);
    let signature = signed.splitn(4, |byte| *byte == b'\n').nth(2).unwrap().to_vec();
    let signature = String::from_utf8(signature).unwrap();
    jobs.is_refused(
        &forged(&signed, |m| m["pgstencil"] = json!("9"), &signature),
        "damaged",
        &["--trust", &public],
    );
    let restored = jobs.restore(&jobs.file(), &["--trust", &other_public, "--trust", &public]);
    assert_eq!(restored.json()["restored"], true, "{restored}");
    let _ = other;
}

#[test]
fn the_file_knows_its_kind() {
    let Some(jobs) = Jobs::new() else { return };
    let mut machines = crate::cache::Machines::new();
    machines.on("one", &["ensure"]).success();
    machines.save("one");
    let cluster = fs::read(machines.file()).unwrap();
    let output = jobs.is_refused(&cluster, "other_kind", &[]);
    assert!(output.stderr.contains("without --through-server"), "{output}");
    jobs.built_and_saved();
    let output = machines.on("two", &["cache", "restore", "--json", jobs.file().to_str().unwrap()]).success();
    assert_eq!(output.json()["reason"], "other_kind", "{output}");
    assert!(output.stderr.contains("`pgstencil cache restore --through-server` restores it"), "{output}");
    assert_eq!(output.stderr.lines().count(), 1, "{output}");
}

/// A migration whose restore waits as long as the test has a session of this name.
fn gated(gate: &str) -> String {
    format!(
        "create function gate() returns int language plpgsql as $$ begin
             loop
                 perform pg_stat_clear_snapshot();
                 exit when not exists (select from pg_stat_activity where application_name = '{gate}');
                 perform pg_sleep(0.02);
             end loop;
             return 1;
         end $$;
         create materialized view {} as select gate() as g;",
        view(gate)
    )
}

fn view(gate: &str) -> String {
    gate.replace('-', "_")
}

/// A session that keeps a gate closed.
struct Gate(std::process::Child, String);

impl Gate {
    fn close(name: &str) -> Self {
        let child = Command::new("psql")
            .args(["-X", "-q", "-d", &server().url("postgres"), "-c", "select pg_sleep(3600)"])
            .env("PGAPPNAME", name)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let there =
            format!("select count(*) from pg_stat_activity where application_name = {}", quote_literal(name));
        assert!(eventually(PATIENCE, || server().psql("postgres", &there) == "1"));
        Gate(child, name.to_owned())
    }

    /// Waits until a restore has come to the gate.
    fn reached(&self) {
        let waits = "select count(*) from pg_stat_activity where query ilike 'refresh materialized view%' and query ~ ";
        let waits = format!("{waits}{}", quote_literal(&view(&self.1)));
        assert!(
            eventually(PATIENCE, || server().psql("postgres", &waits) != "0"),
            "nothing waits at the gate"
        );
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        // Its session would sleep on.
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = ";
        server().psql("postgres", &format!("{end}{}", quote_literal(&self.1)));
    }
}

#[test]
fn a_killed_restore_leaves_nothing() {
    let Some(jobs) = Jobs::new() else { return };
    let name = format!("gate-{}", random_id());
    jobs.add_migration("0003_gate", &gated(&name));
    jobs.built_and_saved();
    let gate = Gate::close(&name);
    let file = jobs.file();
    let args = ["cache", "restore", "--through-server", file.to_str().unwrap()];
    let mut killed = on(&jobs.two, &args).spawn();
    gate.reached();
    killed.kill9();
    // The gate is still closed: the program was ended.
    nothing_is_left(&jobs);
    assert_eq!(templates(&jobs.two), Vec::<Value>::new());
    drop(gate);
    // As if nothing had happened.
    jobs.restore(&file, &[]);
    jobs.second("hit");
}

/// Waits until cleanups have dropped what an interrupted restore made.
#[track_caller]
fn nothing_is_left(jobs: &Jobs) {
    let gone = || {
        on(&jobs.two, &["evict"]).success();
        jobs.two.databases().is_empty()
    };
    assert!(eventually(PATIENCE, gone), "{:?}", jobs.two.databases());
}

#[test]
fn a_restore_that_takes_too_long_ends_its_programs() {
    let Some(jobs) = Jobs::new() else { return };
    let name = format!("gate-{}", random_id());
    jobs.add_migration("0003_gate", &gated(&name));
    jobs.built_and_saved();
    let gate = Gate::close(&name);
    let file = jobs.file();
    let args = ["cache", "restore", "--through-server", file.to_str().unwrap()];
    let interrupted = on(&jobs.two, &args).spawn();
    gate.reached();
    interrupted.signal(nix::sys::signal::Signal::SIGINT);
    let output = interrupted.wait();
    output.code(130);
    // The gate is still closed: the programs were ended.
    nothing_is_left(&jobs);
    drop(gate);
    jobs.second("miss");
}

#[test]
fn two_restores_at_once_are_one() {
    let Some(jobs) = Jobs::new() else { return };
    let name = format!("gate-{}", random_id());
    jobs.add_migration("0003_gate", &gated(&name));
    jobs.built_and_saved();
    let gate = Gate::close(&name);
    let file = jobs.file();
    let args = ["cache", "restore", "--through-server", "--json", file.to_str().unwrap()];
    let first = on(&jobs.two, &args).spawn();
    gate.reached();
    let second = on(&jobs.two, &args).spawn();
    drop(gate);
    for output in [first.wait(), second.wait()] {
        output.code(0);
        assert_eq!(output.json()["restored"], true, "{output}");
    }
    assert_eq!(jobs.two.databases().len(), 1);
    jobs.second("hit");
    // Two saves, too.
    fs::remove_file(&file).unwrap();
    let save = ["cache", "save", "--through-server", "--json", file.to_str().unwrap()];
    let saves = [on(&jobs.one, &save).spawn(), on(&jobs.one, &save).spawn()];
    for output in saves.map(crate::support::cli::Running::wait) {
        output.code(0);
        assert_eq!(output.json()["templates"].as_array().unwrap().len(), 1, "{output}");
    }
    // A copy that was in use when it was to be dropped is left to the cleanup.
    let cleaned = || {
        on(&jobs.one, &["evict"]).success();
        // Its template, and that of the other job, whose name is the same.
        jobs.one.databases().len() == 2
    };
    assert!(eventually(PATIENCE, cleaned), "{:?}", jobs.one.databases());
}

#[test]
fn what_does_not_restore_is_told_and_dropped() {
    let Some(jobs) = Jobs::new() else { return };
    let name = format!("gate-{}", random_id());
    // Restored without error only as long as no session has this name.
    jobs.add_migration(
        "0003_picky",
        &format!(
            "create function picky() returns int language plpgsql as $$ begin
                 if exists (select from pg_stat_activity where application_name = '{name}') then
                     raise exception 'it''s \"picky\" $(today) \\';
                 end if;
                 return 1;
             end $$;
             create materialized view gated as select picky() as g;"
        ),
    );
    jobs.built_and_saved();
    let gate = Gate::close(&name);
    let output = jobs.restore(&jobs.file(), &[]);
    assert_eq!((&output.json()["restored"], &output.json()["reason"]), (&json!(false), &json!("no_match")));
    assert!(output.stderr.contains("it's \"picky\" $(today) \\"), "{output}");
    assert_eq!(jobs.two.databases(), Vec::<String>::new());
    drop(gate);
    jobs.restore(&jobs.file(), &[]);
    jobs.second("hit");
}

/// Also a server whose files and roles have names that a shell could stumble over.
#[test]
fn odd_names_are_only_names() {
    if !has_programs() {
        return;
    }
    let own = TestServer::private();
    let role = r#"o'dd "role" $(touch /tmp/x) `id` \ é"#;
    own.psql("postgres", &format!("create role {} superuser login password 'secret'", quote_ident(role)));
    let mut project = Project::with_migrations(&own);
    project.connect_to(own.url_as(role, "secret", "postgres"));
    project.add_migration("0003_odd", "create schema \"a'b $(c)\"; create table \"a'b $(c)\".\"t\\\" ()");
    let file = project.home().join("it's a \"file\" $(x)");
    on(&project, &["ensure"]).success();
    on(&project, &["cache", "save", "--through-server", file.to_str().unwrap()]).success();
    on(&project, &["evict", "--all", "--yes"]).success();
    let restored = on(&project, &["cache", "restore", "--through-server", file.to_str().unwrap()]).success();
    assert!(restored.stderr.contains("restored template app"), "{restored}");
    let answer = on(&project, &["clone", "--json"]).success().json();
    assert_eq!(answer["outcome"], "hit");
    let name = answer["clone"]["name"].as_str().unwrap();
    assert_eq!(own.psql(name, r#"select count(*) from "a'b $(c)"."t\""#), "0");
    // Nothing is left in the directories of the server.
    let found =
        Command::new("find").arg(own.dir()).args(["-name", "*.dump", "-o", "-name", "*pgstencil*"]).output();
    assert_eq!(String::from_utf8(found.unwrap().stdout).unwrap(), "");
}
