//! Warm clones: made ahead of time, handed out once, and dropped when nobody needs them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::background::logged;
use crate::support::git::repository;
use crate::support::hold::{list, oid};
use crate::support::server::{PATIENCE, Stop, quote_literal};
use crate::support::{Build, Pgstencil, Project, Proxy, TestServer, alive, ends, eventually, server};

fn project<'s>(server: &'s TestServer, keys: &str) -> Project<'s> {
    let project = Project::with_migrations(server);
    project.append_config(&format!("[clone]\n{keys}"));
    project
}

/// The warm clones of a project.
fn warm(project: &Project<'_>) -> Vec<Value> {
    let listed = list(project);
    let clones = listed["clones"].as_array().unwrap();
    clones.iter().filter(|c| c["state"] == "warm" && c["project"] == project.name()).cloned().collect()
}

#[track_caller]
fn wait_for_warm(project: &Project<'_>, count: usize) {
    let there = eventually(PATIENCE, || warm(project).len() == count);
    assert!(there, "{} warm instead of {count}", warm(project).len());
}

fn oids(project: &Project<'_>) -> HashSet<String> {
    let sql = "select d.oid from pgstencil.database d join pgstencil.clone c on c.id = d.clone_id \
               where c.state = 'warm'";
    let text = project.server().psql(&project.registry(), sql);
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn clone(project: &Project<'_>, args: &[&str]) -> Vec<String> {
    let out = Pgstencil::new(project).arg("clone").args(args).success();
    out.stdout.lines().map(database_of).collect()
}

fn database_of(url: &str) -> String {
    let name = url.rsplit('/').next().unwrap();
    name.split('?').next().unwrap().to_owned()
}

#[track_caller]
fn ensure(project: &Project<'_>) -> String {
    let out = Pgstencil::new(project).arg("ensure").success();
    out.line().to_owned()
}

/// From here on the config, which says `warm = 1`, wants none.
fn want_none(project: &Project<'_>) {
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("warm = 1", "warm = 0"));
}

/// Evicts a template. Who makes warm clones of it is using it, and is waited for ten seconds only.
#[track_caller]
fn evict(project: &Project<'_>, fingerprint: &str) {
    let mut said = String::new();
    let evicted = || {
        let done = Pgstencil::new(project).args(["evict", fingerprint]).run();
        said = done.to_string();
        assert!(done.status.success() || said.contains("since it is in use"), "{said}");
        done.status.success()
    };
    assert!(eventually(PATIENCE, evicted), "{said}");
}

/// Runs a statement in the project's registry.
fn registry(project: &Project<'_>, sql: &str) -> String {
    project.server().psql(&project.registry(), sql)
}

#[test]
fn what_is_handed_out_was_made_ahead_and_is_made_up_for() {
    let project = project(server(), "warm = 2");
    ensure(&project);
    wait_for_warm(&project, 2);
    let before = oids(&project);
    let name = &clone(&project, &["--name", "w_{id}"])[0];
    assert!(before.contains(&oid(&project, name)), "it was copied");
    let users = project.server().psql(name, "select name from users");
    assert_eq!(users, "ann");
    wait_for_warm(&project, 2);
    let listed = list(&project);
    let templates = listed["templates"].as_array().unwrap();
    assert_eq!(templates[0]["hits"], 1);
    // Whoever has it, has it as any other: its row, its mark, its lease.
    let row = listed["clones"].as_array().unwrap();
    let row = row.iter().find(|c| c["name"] == name.as_str()).unwrap();
    assert_eq!(row["state"], "leased");
    assert!(row["expires_at"].is_string(), "{row}");
    let comment = format!(
        "select shobj_description(oid, 'pg_database') from pg_database where datname = {}",
        quote_literal(name)
    );
    let comment = project.server().psql("postgres", &comment);
    let id = row["id"].as_str().unwrap();
    assert!(comment.contains(&format!("({id})")), "{comment}");
    Pgstencil::new(&project).args(["release", name]).success();
    assert!(eventually(PATIENCE, || !project.server().has_database(name)));
}

#[test]
fn of_many_that_ask_at_once_each_gets_another_one_whole() {
    let project = project(server(), "warm = 6\nwarm_max = 12");
    ensure(&project);
    wait_for_warm(&project, 6);
    let before = oids(&project);
    // More than there are: some of these are made while they wait.
    let running: Vec<_> =
        (0..12).map(|_| Pgstencil::new(&project).args(["clone", "--ttl", "1h"]).spawn()).collect();
    let mut seen = HashSet::new();
    let mut ahead = 0;
    for run in running {
        let out = run.wait();
        out.code(0);
        let name = database_of(out.stdout.trim());
        let server = project.server();
        assert_eq!(server.psql(&name, "select count(*) from orders"), "1");
        assert_eq!(server.psql(&name, "select to_regclass('mine') is null"), "t");
        server.psql(&name, "create table mine ()");
        let oid = oid(&project, &name);
        ahead += usize::from(before.contains(&oid));
        assert!(seen.insert(oid), "{name} was handed out twice");
    }
    // A claim passes over one whose lock somebody else has at that moment, and takes the next.
    assert!(ahead >= 5, "only {ahead} of 6 warm clones were handed out");
}

#[test]
fn a_run_a_set_and_several_clones_take_them_too() {
    let project = Project::with_migrations(server());
    project.append_config(
        "databases = [\"main\", \"log\"]\nafter_clone_sql = { log = \"create table noted (id int)\" }\n\
         [clone]\nwarm = 2\nwarm_max = 2",
    );
    project.build(&Build::Script(
        "psql -Xq -d \"$DATABASE_URL\" -c 'create table of_main ()'\n\
         psql -Xq -d \"$PGSTENCIL_URL_LOG\" -c 'create table of_log ()'"
            .into(),
    ));
    ensure(&project);
    wait_for_warm(&project, 2);
    let before = oids(&project);
    let out =
        Pgstencil::new(&project).args(["clone", "--clones", "3", "--name", "s_{id}_{n}_{alias}"]).success();
    let names: Vec<String> = out.stdout.lines().map(database_of).collect();
    assert_eq!(names.len(), 6);
    let group = names[0].strip_prefix("s_").unwrap();
    let group = group.strip_suffix("_0_main").unwrap();
    for (i, pair) in names.chunks(2).enumerate() {
        assert_eq!(pair[0], format!("s_{group}_{i}_main"));
        assert_eq!(pair[1], format!("s_{group}_{i}_log"));
        let server = project.server();
        assert_eq!(server.psql(&pair[0], "select count(*) from of_main"), "0");
        assert_eq!(server.psql(&pair[1], "select count(*) from of_log, noted"), "0");
        let warm = before.contains(&oid(&project, &pair[0]));
        assert_eq!(warm, i < 2, "{}", pair[0]);
    }
    wait_for_warm(&project, 2);
    let before = oids(&project);
    let script = "psql -X -At -c 'select oid from pg_database where datname = current_database()'";
    let out = Pgstencil::new(&project).args(["run", "--", "sh", "-c", script]).success();
    assert!(before.contains(out.stdout.trim()));
    assert!(eventually(PATIENCE, || !out_of(&project, out.stdout.trim())));
}

fn out_of(project: &Project<'_>, oid: &str) -> bool {
    let sql = format!("select count(*) from pg_database where oid = {oid}");
    project.server().psql("postgres", &sql) == "1"
}

#[test]
fn settings_grants_limit_and_comment_are_there_already() {
    let project = project(server(), "warm = 1");
    project.build(&Build::Script(
        "migrate
         psql -Xq -d \"$DATABASE_URL\" -c \"alter database \\\"$PGDATABASE\\\" set work_mem = '7MB'\" \
           -c \"alter database \\\"$PGDATABASE\\\" connection limit 7\" \
           -c \"comment on database \\\"$PGDATABASE\\\" is 'of the app'\" \
           -c \"revoke temporary on database \\\"$PGDATABASE\\\" from public\""
            .into(),
    ));
    ensure(&project);
    wait_for_warm(&project, 1);
    let before = oids(&project);
    let name = &clone(&project, &[])[0];
    assert!(before.contains(&oid(&project, name)));
    assert_eq!(project.server().psql(name, "show work_mem"), "7MB");
    let sql = format!(
        "select datconnlimit || ' ' || has_database_privilege('public', oid, 'TEMPORARY') || ' ' || \
         split_part(shobj_description(oid, 'pg_database'), chr(10), 1) \
         from pg_database where datname = {}",
        quote_literal(name)
    );
    assert_eq!(project.server().psql("postgres", &sql), "7 false of the app");
}

#[tokio::test]
async fn killed_at_any_moment_the_filler_leaves_nothing() {
    let project = project(server(), "warm = 4\norphan_grace = \"1s\"");
    let fingerprint = ensure(&project);
    let mut session = server().connect(&project.registry()).await;
    let mut killed = 0;
    for round in 0..8 {
        // Takes one, so there is something to make.
        let taker = Pgstencil::new(&project).arg("clone").spawn();
        // The taker marks what it takes in the same way.
        let query = "select (holder->>'pid')::int from pgstencil.clone \
             where state = 'creating' and (holder->>'pid')::int <> $1 limit 1";
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let filler: Option<i32> =
                sqlx::query_scalar(query).bind(taker.id()).fetch_optional(&mut session).await.unwrap();
            if let Some(pid) = filler {
                std::thread::sleep(Duration::from_millis(round * 4));
                killed += usize::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
                break;
            }
        }
        let output = taker.wait();
        output.code(0);
        let name = output.line().rsplit_once('/').unwrap().1;
        assert_eq!(project.server().psql(name, "select count(*) from users"), "1");
        Pgstencil::new(&project).args(["release", name]).success();
    }
    drop(session);
    assert!(killed > 0, "no filler was met");
    evict(&project, &fingerprint);
    let ours = format!(
        "select count(*) from pg_database d join pg_shdescription s on s.objoid = d.oid where s.description like '%{}%'",
        project.name()
    );
    let nothing = || {
        project.server().psql("postgres", &ours) == "0"
            && registry(&project, "select count(*) from pgstencil.database") == "0"
    };
    assert!(eventually(PATIENCE, nothing), "{}", list(&project));
}

/// What a person may do to a warm clone: statements, in the database `postgres`, and whether it stays
/// under its private name.
type Deed = fn(private: &str, theirs: &str) -> Vec<String>;

#[test]
fn one_that_a_person_took_is_neither_handed_out_nor_dropped() {
    let renamed: Deed = |private, theirs| vec![format!("alter database {private} rename to {theirs}")];
    // Another one has its name then; it is not ours either.
    let replaced: Deed = |private, theirs| {
        vec![format!("alter database {private} rename to {theirs}"), format!("create database {private}")]
    };
    let remarked: Deed = |private, _| vec![format!("comment on database {private} is 'mine'")];
    let opened: Deed = |private, _| vec![format!("alter database {private} allow_connections true")];
    for deed in [renamed, replaced, remarked, opened] {
        let project = project(server(), "warm = 1\nwarm_max = 1");
        ensure(&project);
        wait_for_warm(&project, 1);
        let private = warm(&project)[0]["name"].as_str().unwrap().to_owned();
        let theirs = format!("theirs_{}", project.id);
        for statement in deed(&private, &theirs) {
            project.server().psql("postgres", &statement);
        }
        let there = [&private, &theirs].map(|name| (name, oid(&project, name)));
        let name = &clone(&project, &[])[0];
        let own = oid(&project, name);
        assert!(there.iter().all(|(_, is)| own != *is), "{there:?}");
        let users = "select count(*) from users";
        assert_eq!(project.server().psql(name, users), "1");
        wait_for_warm(&project, 1);
        Pgstencil::new(&project).args(["evict", "--all", "-y"]).run();
        for (name, is) in there.iter().filter(|(_, is)| !is.is_empty()) {
            assert_eq!(oid(&project, name), *is);
            project.server().drop_database(name);
        }
    }
}

#[test]
fn doctor_tells_of_one_that_a_person_opened() {
    let project = project(server(), "warm = 1");
    ensure(&project);
    wait_for_warm(&project, 1);
    let private = warm(&project)[0]["name"].as_str().unwrap().to_owned();
    let open = format!("alter database {private} allow_connections true");
    project.server().psql("postgres", &open);
    let told = Pgstencil::new(&project).arg("doctor").run();
    told.stdout_has("connections were enabled while it was an unused warm clone");
    project.server().drop_database(&private);
}

/// Waits until a session in the project's registry is like that.
#[track_caller]
fn wait_for_session(project: &Project<'_>, how: &str) {
    let sql = format!("select count(*) from pg_stat_activity where datname = current_database() and {how}");
    assert!(eventually(PATIENCE, || registry(project, &sql) != "0"));
}

#[test]
fn an_interrupted_hand_out_starts_no_command_and_keeps_no_clone() {
    let project = project(server(), "warm = 2\nwarm_max = 2");
    ensure(&project);
    wait_for_warm(&project, 2);
    for args in [&["run", "--", "touch", "started"][..], &["clone", "--name", "w_{id}"]] {
        // The publication waits for this.
        let holder = Pgstencil::with_program(&project, "psql")
            .args(["-X", "-q", "-d"])
            .arg(project.server().url(&project.registry()))
            .args(["-c", "begin; select from pgstencil.template for update; select pg_sleep(3600)"])
            .spawn();
        wait_for_session(&project, "wait_event = 'PgSleep'");
        let run = Pgstencil::new(&project).args(args).spawn();
        wait_for_session(&project, "wait_event_type = 'Lock'");
        run.signal(Signal::SIGTERM);
        run.wait_for_text("interrupted: cleaning up");
        registry(
            &project,
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where datname = current_database() and wait_event = 'PgSleep'",
        );
        run.wait().code(130);
        holder.wait();
        assert!(!project.path().join("started").exists());
        let leased = "select count(*) from pgstencil.clone where state = 'leased'";
        assert_eq!(registry(&project, leased), "0", "{args:?}");
        ensure(&project);
        wait_for_warm(&project, 2);
    }
}

#[test]
fn none_is_made_on_a_full_disk_or_fails_by_a_clock_that_was_set_back() {
    let project = project(server(), "warm = 2");
    ensure(&project);
    wait_for_warm(&project, 2);
    registry(&project, "update pgstencil.meta set full_at = now()");
    registry(&project, "update pgstencil.template set demand = 3, demand_at = now() + interval '13 hours'");
    let before = oids(&project);
    for _ in 0..3 {
        clone(&project, &[]);
    }
    assert!(before.iter().all(|oid| !oids(&project).contains(oid)));
    // What the disk was full for may have gone since.
    registry(&project, "update pgstencil.meta set full_at = now() - interval '11 minutes'");
    clone(&project, &[]);
    let again = || warm(&project).len() >= 2;
    assert!(eventually(PATIENCE, again));
}

#[test]
fn one_whose_database_is_gone_is_not_handed_out() {
    let project = project(server(), "warm = 1\nwarm_max = 1");
    ensure(&project);
    wait_for_warm(&project, 1);
    project.server().drop_database(warm(&project)[0]["name"].as_str().unwrap());
    let name = &clone(&project, &[])[0];
    assert_eq!(project.server().psql(name, "select count(*) from users"), "1");
}

#[test]
fn a_taken_name_is_refused_and_nothing_is_lost() {
    let project = project(server(), "warm = 1\nwarm_max = 1");
    ensure(&project);
    wait_for_warm(&project, 1);
    let taken = format!("taken_{}", project.id);
    let sql = format!("create database {taken}");
    project.server().psql("postgres", &sql);
    Pgstencil::new(&project).args(["clone", "--name", &taken]).fails(7).stderr_has("there is a database");
    assert!(project.server().has_database(&taken));
    project.server().drop_database(&taken);
    // Our own is released, and made anew when asked to.
    let first = clone(&project, &["--name", &taken]);
    let before = oid(&project, &taken);
    assert_eq!(clone(&project, &["--name", &taken]), first);
    assert_eq!(oid(&project, &taken), before);
    clone(&project, &["--name", &taken, "--fresh"]);
    assert_ne!(oid(&project, &taken), before);
}

#[test]
fn those_of_an_evicted_template_go_with_it() {
    let project = project(server(), "warm = 8\nwarm_max = 8");
    let fingerprint = ensure(&project);
    assert!(eventually(PATIENCE, || !warm(&project).is_empty()));
    // While the others are still being made: their maker gives way.
    evict(&project, &fingerprint);
    let none = || registry(&project, "select count(*) from pgstencil.clone") == "0";
    assert!(eventually(PATIENCE, none), "{}", list(&project));
}

#[test]
fn the_idle_keep_few_or_none_and_the_superseded_none() {
    let project = project(server(), "warm = 1\nwarm_max = 3");
    ensure(&project);
    // Three at once are a demand of three.
    let names = clone(&project, &["--clones", "3"]);
    wait_for_warm(&project, 3);
    let sweep = || {
        let mut release = Pgstencil::new(&project).arg("evict");
        release = release.limit(Duration::from_secs(60));
        release.success();
        warm(&project).len()
    };
    let idle = |since: &str| idle(&project, since);
    assert_eq!(sweep(), 3);
    idle("11 minutes");
    assert_eq!(sweep(), 1, "idle");
    idle("61 minutes");
    assert_eq!(sweep(), 0, "long idle");
    Pgstencil::new(&project).arg("release").args(&names).success();
    // Used again, so there are as many again; then the files change.
    ensure(&project);
    wait_for_warm(&project, 3);
    idle("11 minutes");
    project.add_migration("0003_more", "create table more ()");
    ensure(&project);
    let of_new = "select count(*) from pgstencil.clone c join pgstencil.template t on t.id = c.template_id \
                  where c.state = 'warm' and t.id = (select max(id) from pgstencil.template)";
    let all = "select count(*) from pgstencil.clone where state = 'warm'";
    let only_new = || registry(&project, of_new) == "1" && registry(&project, all) == "1";
    assert!(eventually(PATIENCE, only_new), "superseded: {}", list(&project));
}

/// Makes the templates look as if they had not been used for so long.
fn idle(project: &Project<'_>, since: &str) {
    registry(project, &format!("update pgstencil.template set last_used_at = now() - interval '{since}'"));
}

/// The process that made warm clones last.
#[cfg(target_os = "linux")]
fn maker(project: &Project<'_>) -> i32 {
    logged(project, "created").pop().unwrap().parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn their_maker_stays_until_they_are_spare_and_drops_them() {
    let project = project(server(), "warm = 1\nwarm_max = 3");
    ensure(&project);
    let names = clone(&project, &["--clones", "3"]);
    wait_for_warm(&project, 3);
    let makers = || -> Vec<i32> {
        let pids = logged(&project, "created").into_iter().filter_map(|pid| pid.parse().ok());
        pids.filter(|pid| alive(*pid)).collect()
    };
    // An idle process whose work is done stays for two seconds, and has no session afterwards.
    let sessions = format!("select count(*) from pg_stat_activity where datname = '{}'", project.registry());
    let none = || project.server().psql("postgres", &sessions) == "0";
    std::thread::sleep(Duration::from_secs(3));
    assert!(eventually(PATIENCE, none));
    assert_eq!(makers().len(), 1);
    let maker = makers()[0];
    // A release says nothing of demand; the process takes its work, and looks again when the policy says so.
    idle(&project, "596 s");
    Pgstencil::new(&project).args(["release", &names[0]]).success();
    assert!(eventually(PATIENCE, || warm(&project).len() == 1), "{}", list(&project));
    assert_eq!(makers(), [maker]);
    idle(&project, "3596 s");
    Pgstencil::new(&project).args(["release", &names[1]]).success();
    assert!(eventually(PATIENCE, || warm(&project).is_empty()), "{}", list(&project));
    // It has nothing to wait for.
    assert!(ends(maker));
    assert!(logged(&project, "dropped").iter().all(|pid| *pid == maker.to_string()));
}

#[test]
#[cfg(target_os = "linux")]
fn a_maker_whose_checkout_is_gone_ends_at_its_next_look() {
    let project = project(server(), "warm = 1\nwarm_max = 3");
    ensure(&project);
    let names = clone(&project, &["--clones", "3"]);
    wait_for_warm(&project, 3);
    let maker = maker(&project);
    idle(&project, "596 s");
    Pgstencil::new(&project).args(["release", &names[0]]).success();
    std::fs::remove_file(project.path().join("pgstencil.toml")).unwrap();
    assert!(ends(maker));
    assert_eq!(registry(&project, "select count(*) from pgstencil.clone where state = 'warm'"), "1");
}

#[test]
#[cfg(target_os = "linux")]
fn a_maker_that_is_told_to_end_ends_and_what_it_made_is_used() {
    let project = project(server(), "warm = 1");
    ensure(&project);
    clone(&project, &[]);
    wait_for_warm(&project, 1);
    let before = oids(&project);
    let maker = maker(&project);
    kill(Pid::from_raw(maker), Signal::SIGTERM).unwrap();
    assert!(ends(maker));
    let name = clone(&project, &[]).remove(0);
    assert!(before.contains(&oid(&project, &name)), "{}", list(&project));
}

#[test]
#[cfg(target_os = "linux")]
fn a_maker_whose_server_is_gone_ends() {
    let server = TestServer::private();
    let project = project(&server, "warm = 1");
    ensure(&project);
    clone(&project, &[]);
    wait_for_warm(&project, 1);
    let maker = maker(&project);
    server.stop(Stop::Fast);
    assert!(ends(maker));
}

#[test]
fn they_keep_within_the_budget_and_go_before_any_template() {
    let project = Project::with_migrations(server());
    ensure(&project);
    let bytes = list(&project)["templates"][0]["bytes"].as_f64().unwrap();
    // Room for a template, two warm clones, and not for a third.
    let budget = (3.6 * bytes).round();
    project.append_config(&format!(
        "[clone]\nwarm = 3\nwarm_max = 3\n[eviction]\nmax_size = \"{budget}B\"\nkeep = 1"
    ));
    ensure(&project);
    wait_for_warm(&project, 2);
    // Another template fits when they go.
    project.add_migration("0003_more", "create table more ()");
    ensure(&project);
    assert_eq!(list(&project)["templates"].as_array().unwrap().len(), 2);
    let total = "select sum(pg_database_size(oid)) from pgstencil.database";
    let fits = || registry(&project, total).parse::<f64>().unwrap() < 1.05 * budget;
    assert!(eventually(PATIENCE, fits), "{}", registry(&project, total));
}

#[test]
fn zero_makes_none_and_drops_those_that_there_are() {
    let project = project(server(), "warm = 1");
    ensure(&project);
    wait_for_warm(&project, 1);
    want_none(&project);
    let before = oids(&project);
    let name = &clone(&project, &[])[0];
    assert!(!before.contains(&oid(&project, name)), "it was handed out");
    wait_for_warm(&project, 0);
}

#[test]
fn one_that_is_too_old_is_not_handed_out() {
    let project = Project::with_migrations(server());
    project.append_config("stale_after = \"1h\"\n[clone]\nwarm = 1\nwarm_max = 1");
    ensure(&project);
    wait_for_warm(&project, 1);
    let before = oids(&project);
    registry(&project, "update pgstencil.template set fresh_at = now() - interval '2 hours'");
    let out = Pgstencil::new(&project).arg("clone").success();
    out.stderr_has("can no longer be used and is discarded");
    let name = database_of(out.stdout.trim());
    assert!(!before.contains(&oid(&project, &name)));
    assert_eq!(project.builds(), 2);
}

#[test]
fn a_trigger_on_login_does_not_see_the_visit() {
    if server().version_major() < 17 {
        return;
    }
    let project = project(server(), "warm = 1");
    project.build(&Build::Script(
        "migrate
         psql -Xq -d \"$DATABASE_URL\" -c 'create table seen (at timestamptz)' -c \
           'create function note() returns event_trigger language plpgsql security definer as
            $$ begin insert into public.seen values (now()); end $$' -c \
           'create event trigger noting on login execute function note()' -c \
           'alter event trigger noting enable always'"
            .into(),
    ));
    ensure(&project);
    wait_for_warm(&project, 1);
    let before = oids(&project);
    let name = &clone(&project, &[])[0];
    assert!(before.contains(&oid(&project, name)));
    // As in one that was made while somebody waited: those of the seal, and this very connection.
    let seen = |name: &str| project.server().psql(name, "select count(*) from seen");
    want_none(&project);
    let cold = &clone(&project, &[])[0];
    assert_eq!(seen(name), seen(cold));
}

#[test]
fn a_hand_out_asks_the_server_three_times() {
    let mut project = project(server(), "warm = 2");
    // In a git repository the same message says which clones are kept for its branches.
    repository(&project, &[]);
    ensure(&project);
    let of_branch = format!("{{branch}}_{}", project.id);
    clone(&project, &["--name", &of_branch]);
    wait_for_warm(&project, 2);
    let proxy = Proxy::new(server());
    project.connect_to(proxy.url(server()));
    // What the session needs and whose the registry is; the claim; the publication.
    let name = clone(&project, &[]).remove(0);
    // The fourth confirms the lease, when the URL is out. The process that creates the next one records the request.
    assert_eq!(proxy.round_trips()[0], 4);
    assert_eq!(server().psql(&name, "select count(*) from users"), "1");
    wait_for_warm(&project, 2);
    proxy.reset();
    // The same, which command runs, and at the end what became of the clone, and that it is released. A process that is
    // still there records the request. It would do all of it if there were no name.
    Pgstencil::new(&project).args(["run", "--name", "w_{id}", "--", "true"]).success();
    let trips = proxy.round_trips()[0];
    assert!((4..=6).contains(&trips), "{trips}");
}

#[test]
fn a_cold_hand_out_takes_few_round_trips_besides_the_copy() {
    let mut project = Project::with_migrations(server());
    ensure(&project);
    let proxy = Proxy::new(server());
    project.connect_to(proxy.url(server()));
    let name = clone(&project, &[]).remove(0);
    assert_eq!(server().psql(&name, "select count(*) from users"), "1");
    // What the session needs; which template, its lock and a look at it; the intents; how to copy, and that
    // drops give way; the copy; that they need not any more; the publication; the lock; whether to sweep,
    // which on a server that others use may take three more.
    let trips = proxy.round_trips()[0];
    assert!((9..=14).contains(&trips), "{trips}");
}

#[test]
fn a_template_that_is_used_once_gets_none() {
    let project = project(server(), "warm = 1");
    clone(&project, &[]);
    assert_eq!(warm(&project).len(), 0);
    // The second use within a while.
    clone(&project, &[]);
    wait_for_warm(&project, 1);
}

/// Copies by file have what the template has; others are opened once to get it. An autovacuum of the catalogs removes the
/// file again, so one of several attempts has to find it.
#[test]
fn the_first_connection_finds_the_relation_cache() {
    for (strategy, sessions) in [("file_copy", "0"), ("wal_log", "1")] {
        let found = || {
            let project = project(server(), &format!("warm = 1\nstrategy = \"{strategy}\""));
            ensure(&project);
            wait_for_warm(&project, 1);
            let oid = oids(&project).into_iter().next().unwrap();
            let sql = format!(
                "select size > 0 from pg_stat_file('base/{oid}/pg_internal.init', true) where size is not null"
            );
            let found = project.server().psql("postgres", &sql) == "t";
            // Counted since 14; STRATEGY exists since 15.
            if project.server().version_major() >= 15 {
                let sql = format!("select sessions from pg_stat_database where datid = {oid}");
                assert!(
                    eventually(PATIENCE, || project.server().psql("postgres", &sql) == sessions),
                    "{strategy}"
                );
            }
            found
        };
        assert!((0..4).any(|_| found()), "{strategy}");
    }
}
