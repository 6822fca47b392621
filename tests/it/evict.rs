//! What goes, what stays, and that a dry run says so without doing it.

use std::fs;
use std::time::Duration;

use pgstencil::internals::LockKey;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};

use crate::support::extension::{KEEP, database_of, ensure, items, outcome, registry, templates};
use crate::support::hold::Held;
use crate::support::role::Role;
use crate::support::server::{PATIENCE, quote_literal};
use crate::support::{Build, Pgstencil, Project, eventually, server};

/// A project with these limits, and a template for each of so many sets of migrations, oldest first.
fn with_templates<'s>(count: usize, limits: &str) -> (Project<'s>, Vec<Value>) {
    let project = Project::with_migrations(server());
    project.append_config(&format!("[eviction]\n{limits}"));
    let made = (0..count).map(|n| next(&project, n)).collect();
    (project, made)
}

/// The fingerprint of the template of another set of migrations.
fn next(project: &Project<'_>, n: usize) -> Value {
    project.add_migration("0009_changing", &format!("create table changing_{n} (id int);"));
    outcome(project, "miss")["fingerprint"].clone()
}

/// The fingerprints of the ready templates of this project.
fn ready(project: &Project<'_>) -> Vec<Value> {
    let rows = templates(project);
    let ready = rows.iter().filter(|t| t["state"] == "ready");
    let own = ready.filter(|t| t["project"] == *project.name());
    own.map(|t| t["fingerprint"].clone()).collect()
}

fn evict(project: &Project<'_>, args: &[&str]) -> Value {
    Pgstencil::new(project).args(["evict", "--json"]).args(args).success().json()
}

/// Makes a template look as if it had not been used for so long.
fn idle(project: &Project<'_>, fingerprint: &Value, interval: &str) {
    let of = quote_literal(fingerprint.as_str().unwrap());
    registry(
        project,
        &format!(
            "update pgstencil.template set last_used_at = now() - interval '{interval}' where fingerprint = {of}"
        ),
    );
}

fn short(fingerprint: &Value) -> &str {
    &fingerprint.as_str().unwrap()[..12]
}

/// Every row of the registry, and every database: what a command that only reads must not change.
fn everything(project: &Project<'_>) -> String {
    let tables = registry(
        project,
        "select table_name from information_schema.tables where table_schema = 'pgstencil' order by 1",
    );
    let mut all = server().psql("postgres", "select oid, datname from pg_database order by 1");
    for table in tables.lines() {
        all.push('\n');
        all += &registry(project, &format!("select t from pgstencil.{table} t order by 1"));
    }
    all.lines()
        .filter(|line| line.contains(&project.id) || line.starts_with('('))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn after_each_build_no_more_than_the_limit_stay() {
    let (project, made) = with_templates(5, "max_templates = 2\nkeep = 1");
    let left = ready(&project);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.contains(&made[4]));
    // What was given up is dropped behind everybody's back.
    assert!(eventually(PATIENCE, || project.databases().len() == 2));
    let events = "select count(*) from pgstencil.event where outcome = 'evicted'";
    assert_eq!(registry(&project, events), "3");
    let stats = Pgstencil::new(&project).args(["stats", "--json"]).success();
    assert_eq!(stats.json()["total"]["evictions"], 3);
}

#[test]
fn a_dry_run_says_what_would_go_and_writes_nothing() {
    let (project, made) = with_templates(4, "max_templates = 9");
    idle(&project, &made[1], "2 days");
    idle(&project, &made[2], "1 day");
    let text = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &text.replace("= 9", "= 2"));
    let before = everything(&project);
    let plan = evict(&project, &["--dry-run"]);
    assert_eq!(plan["dry_run"], true);
    let going = plan["templates"].as_array().unwrap();
    let names: Vec<_> = going.iter().map(|t| &t["fingerprint"]).collect();
    assert_eq!(names, [&made[1], &made[2]]);
    for template in going {
        assert_eq!(template["reason"], "max_templates");
        assert_eq!(template["state"], "would_go");
        assert!(template["bytes"].as_i64().unwrap() > 1_000_000);
        assert!(template["rebuild_ms"].as_i64().unwrap() > 0);
        assert!(template["idle_s"].as_i64().unwrap() > 80_000);
    }
    Pgstencil::new(&project)
        .args(["evict", "-n"])
        .success()
        .stdout_has(&format!("would evict template {} of", short(&made[1])))
        .stdout_has("by `max_templates`")
        .stderr_has("would be freed");
    assert_eq!(everything(&project), before);
    // The same plan, applied.
    let done = evict(&project, &[]);
    let gone = done["templates"].as_array().unwrap();
    let names: Vec<_> = gone.iter().map(|t| &t["fingerprint"]).collect();
    assert_eq!(names, [&made[1], &made[2]]);
    assert!(gone.iter().all(|t| t["state"] == "evicted"));
    assert_eq!(done["bytes"], plan["bytes"]);
    // It returns when they are dropped.
    assert_eq!(project.databases().len(), 2);
    Pgstencil::new(&project).arg("evict").success().stderr_has("no templates to evict");
}

#[test]
fn idle_ones_go_but_for_the_newest_of_each_definition() {
    let (project, made) = with_templates(3, "max_idle = \"3d\"\nkeep = 2");
    for fingerprint in &made {
        idle(&project, fingerprint, "4 days");
    }
    idle(&project, &made[0], "5 days");
    let done = evict(&project, &[]);
    assert_eq!(done["templates"][0]["fingerprint"], made[0]);
    assert_eq!(done["templates"][0]["reason"], "max_idle");
    assert_eq!(ready(&project).len(), 2);
}

#[test]
fn the_budget_in_bytes_holds_while_builds_run() {
    let (project, made) = with_templates(1, "keep = 0");
    let bytes = templates(&project)[0]["bytes"].as_i64().unwrap();
    // Two and a half fit.
    let text = project.read("pgstencil.toml");
    let limit = format!("keep = 0\nmax_size = \"{}B\"", bytes * 5 / 2);
    project.write("pgstencil.toml", &text.replace("keep = 0", &limit));
    next(&project, 1);
    assert_eq!(ready(&project).len(), 2);
    idle(&project, &made[0], "2 days");
    // Seen by the build itself: room was made before it.
    project
        .build(&Build::Script("migrate; sql -d postgres -c 'select datname from pg_database' >seen".into()));
    next(&project, 2);
    let seen = project.read("seen");
    // Of this project: other tests build from the same files.
    let of_first = seen.lines().filter(|name| name.contains(&project.id) && name.contains(short(&made[0])));
    let templates_then =
        seen.lines().filter(|name| name.contains(&project.id) && name.starts_with("tpl_")).count();
    assert_eq!(templates_then, 1, "{seen}");
    assert_eq!(of_first.count(), 0, "the one that was idle longest goes");
    assert_eq!(ready(&project).len(), 2);
}

/// A build that cannot write as long as any template is there.
fn on_a_full_disk(project: &Project<'_>) {
    project.build(&Build::Script(format!(
        "n=$(sql -d postgres -Atc \"select count(*) from pg_database where datname like 'tpl\\_%{}%'\")\necho try >>tries\nif [ \"$n\" -gt 0 ]; then echo 'could not extend file \"base/5/2619\": No space left on device' >&2; exit 1; fi\nmigrate",
        project.id
    )));
}

#[test]
fn on_a_full_disk_room_is_made_and_it_is_tried_once_more() {
    let (project, _) = with_templates(3, "keep = 0\nmax_size = \"unlimited\"");
    on_a_full_disk(&project);
    project.add_migration("0009_changing", "create table changing_4 (id int);");
    let ran = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    assert_eq!(ran.json()["outcome"], "miss");
    ran.stderr_has("the server's disk is full");
    assert_eq!(project.read("tries").lines().count(), 2);
}

#[test]
fn on_a_full_disk_nothing_goes_that_must_stay() {
    let (project, made) = with_templates(2, "keep = 5\nmax_size = \"unlimited\"");
    on_a_full_disk(&project);
    project.add_migration("0009_changing", "create table changing_4 (id int);");
    let ran = Pgstencil::new(&project).args(["ensure", "--json"]).fails(4);
    ran.stderr_has("No space left on device");
    ran.stderr_has("no template can be evicted");
    assert_eq!(project.read("tries").lines().count(), 1);
    let left = ready(&project);
    assert!(made.iter().all(|one| left.contains(one)), "{left:?}");
}

/// 53100 is the SQLSTATE of a full disk; here it is a part of another number.
#[test]
fn a_number_in_the_output_of_a_build_evicts_nothing() {
    let (project, made) = with_templates(2, "keep = 0\nmax_size = \"unlimited\"");
    project.build(&Build::Script("echo try >>tries; echo 'order 1531004 is missing' >&2; exit 1".into()));
    project.add_migration("0009_changing", "create table changing_4 (id int);");
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(4)
        .stderr_has("order 1531004")
        .lacks("the server's disk is full");
    // An extension does not begin, since the build command has changed.
    assert_eq!(project.read("tries").lines().count(), 1);
    let left = ready(&project);
    assert!(made.iter().all(|one| left.contains(one)), "{left:?}");
}

#[test]
fn pinned_ones_stay_until_they_are_unpinned() {
    let (project, made) = with_templates(2, "max_templates = 5\nkeep = 0");
    let pinned = Pgstencil::new(&project).args(["pin", short(&made[0]), "--json"]).success().json();
    assert_eq!(pinned["pinned"], true);
    assert_eq!(pinned["templates"][0]["fingerprint"], made[0]);
    Pgstencil::new(&project).arg("list").success().stdout_has("ready, pinned");
    Pgstencil::new(&project)
        .args(["evict", short(&made[0])])
        .fails(2)
        .stderr_has("is pinned")
        .stderr_has(&format!("pgstencil unpin {}", short(&made[0])));
    // Without a name it is the template of the present files.
    Pgstencil::new(&project).arg("pin").success().stderr_has(short(&made[1]));
    assert_eq!(evict(&project, &["--all", "--yes"])["templates"], Value::Array(vec![]));
    idle(&project, &made[0], "90 days");
    assert_eq!(evict(&project, &[])["templates"], Value::Array(vec![]));
    Pgstencil::new(&project).args(["unpin", short(&made[0]), short(&made[1])]).success();
    assert_eq!(evict(&project, &[])["templates"][0]["fingerprint"], made[0]);
    assert_eq!(ready(&project), [made[1].clone()]);
}

#[test]
fn what_lost_its_database_cannot_be_pinned() {
    let (project, made) = with_templates(2, "");
    let name = database_of(&project, &made[1]);
    let moved = format!("moved_{}", project.id);
    let alter = |sql: String| server().psql("postgres", &format!("alter database {sql}"));
    let refused = |why: &str| {
        for args in [&["pin"][..], &["pin", short(&made[0]), short(&made[1])]] {
            Pgstencil::new(&project)
                .args(args)
                .fails(6)
                .stderr_has(&format!(
                    "template {} of {}/app cannot be pinned\n  its database `{name}` {why}",
                    short(&made[1]),
                    project.name()
                ))
                .stderr_has("hint: rebuild it: `pgstencil ensure`");
        }
    };
    alter(format!("\"{name}\" rename to {moved}"));
    refused("was changed outside pgstencil");
    alter(format!("{moved} is_template false"));
    server().psql("postgres", &format!("drop database {moved}"));
    refused("is gone");
    assert!(templates(&project).iter().all(|t| t["pinned"] == false));
    outcome(&project, "miss");
    Pgstencil::new(&project).arg("pin").success();
}

#[test]
fn a_pin_goes_over_to_what_takes_the_place() {
    let project = Project::extending(server(), "");
    outcome(&project, "miss");
    items(&project);
    let extended = ensure(&project);
    Pgstencil::new(&project).arg("pin").success();
    let settled = Pgstencil::new(&project).args(["ensure", "--rebuild", "--json"]).success().json();
    assert_eq!(settled["provisional"], false);
    let rows = templates(&project);
    let row = rows.iter().find(|t| t["fingerprint"] == extended["fingerprint"] && t["state"] == "ready");
    assert_eq!(row.unwrap()["pinned"], true, "{rows:?}");
}

#[test]
fn names_that_mean_nothing_or_too_much_are_refused() {
    let (project, made) = with_templates(2, "");
    for command in ["evict", "pin", "unpin"] {
        Pgstencil::new(&project)
            .args([command, "nothing"])
            .fails(6)
            .stderr_has("no ready template has a fingerprint that begins with `nothing`")
            .stderr_has("pgstencil list");
        // One wrong name, and nothing is done to the others either.
        Pgstencil::new(&project).args([command, short(&made[0]), "nothing"]).fails(6);
    }
    assert_eq!(ready(&project).len(), 2);
    assert!(templates(&project).iter().all(|t| t["pinned"] == false));
    for command in ["evict", "pin", "unpin"] {
        for empty in ["", " "] {
            Pgstencil::new(&project)
                .args([command, empty])
                .fails(2)
                .stderr_has("give the first digits of a fingerprint");
        }
    }
    let nowhere = Project::with_migrations(server());
    Pgstencil::new(&nowhere).args(["evict", "abc"]).fails(6);
    Pgstencil::new(&nowhere).arg("pin").fails(6);
    Pgstencil::new(&nowhere).arg("evict").success().stderr_has("no templates to evict");
    assert!(!server().has_database(&nowhere.registry()));
    Pgstencil::new(&project).args(["evict", "--all", "abc"]).fails(2);
    Pgstencil::new(&project)
        .args(["evict", "--all"])
        .fails(2)
        .stderr_has("evict all 2 templates of project")
        .stderr_has("`--yes`");
    assert_eq!(ready(&project).len(), 2);
}

#[test]
fn all_are_those_of_this_project() {
    let (project, made) = with_templates(2, "");
    let other = neighbour(&project);
    let answer = ensure(&other);
    let clone = Pgstencil::new(&project).args(["clone", "--json"]).success();
    let done = evict(&project, &["--all", "-y"]);
    assert_eq!(done["templates"].as_array().unwrap().len(), made.len());
    assert_eq!(ready(&project), [Value::Null; 0]);
    let rows = templates(&project);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["fingerprint"], answer["fingerprint"]);
    // A clone lives on without its template.
    let name = clone.json()["clone"]["name"].as_str().unwrap().to_owned();
    assert_eq!(server().psql(&name, "select count(*) from users"), "1");
    Pgstencil::new(&project).args(["release", &name]).success();
    drop_project_of(&other, &project);
}

/// Another project that shares the registry of this one, and has the same migrations.
fn neighbour<'s>(project: &Project<'s>) -> Project<'s> {
    let other = Project::with_migrations(server());
    let text = other.read("pgstencil.toml");
    let shared = text.replace(&other.registry(), &project.registry());
    other.write("pgstencil.toml", &shared);
    other
}

#[test]
fn of_two_projects_with_one_fingerprint_ones_own_is_meant() {
    let project = Project::with_migrations(server());
    let fingerprint = ensure(&project)["fingerprint"].clone();
    let other = neighbour(&project);
    assert_eq!(ensure(&other)["fingerprint"], fingerprint);
    Pgstencil::new(&project).args(["pin"]).success();
    let pinned = |of: &Project<'_>| {
        let rows = templates(&project);
        let row = rows.iter().find(|row| row["project"] == *of.name());
        row.unwrap()["pinned"].clone()
    };
    assert_eq!(pinned(&project), true);
    assert_eq!(pinned(&other), false);
    let done = evict(&other, &[short(&fingerprint)]);
    assert_eq!(done["templates"][0]["project"], *other.name());
    assert_eq!(ready(&project), [fingerprint]);
}

#[test]
fn limits_that_were_mended_hold_from_the_next_hit_on() {
    let (project, made) = with_templates(1, "max_idle = \"1h\"\nkeep = 0");
    let text = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &text.replace("1h", "30d"));
    outcome(&project, "hit");
    idle(&project, &made[0], "2 days");
    let other = neighbour(&project);
    evict(&other, &[]);
    assert_eq!(ready(&project), made);
}

/// What a project left in the registry of another one.
fn drop_project_of(other: &Project<'_>, owner: &Project<'_>) {
    Pgstencil::new(other).args(["evict", "--all", "--yes"]).success();
    let of_other = |row: &Value| row["project"] == *other.name();
    assert!(eventually(PATIENCE, || !templates(owner).iter().any(of_other)));
}

#[test]
fn projects_that_nobody_works_on_keep_their_own_limits() {
    let (project, made) = with_templates(2, "max_idle = \"2d\"\nkeep = 1");
    for fingerprint in &made {
        idle(&project, fingerprint, "3 days");
    }
    let other = neighbour(&project);
    // No build waits for the evictions of another project.
    other.build(&Build::Fail);
    other.append_config("[eviction]\nmax_idle = \"never\"");
    Pgstencil::new(&other).arg("ensure").fails(4);
    assert_eq!(ready(&project).len(), 2);
    other.build(&Build::Migrate);
    ensure(&other);
    assert_eq!(ready(&project).len(), 1);
    drop_project_of(&other, &project);
}

#[tokio::test]
async fn one_that_is_being_copied_stays() {
    let (project, made) = with_templates(2, "");
    let of = quote_literal(made[0].as_str().unwrap());
    let id = registry(&project, &format!("select id from pgstencil.template where fingerprint = {of}"));
    let key = LockKey::template(id.parse().unwrap()).value();
    let mut session = server().connect(&project.registry()).await;
    let lock = format!("select pg_advisory_lock_shared({key})");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut session).await.unwrap();
    Pgstencil::new(&project)
        .args(["evict", short(&made[0])])
        .fails(1)
        .stdout_has("is kept, since it is in use");
    let all = evict_code(&project, &["--all", "--yes"], 1);
    let states: Vec<_> =
        all["templates"].as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["in_use", "evicted"]);
    assert_eq!(ready(&project), [made[0].clone()]);
    session.close().await.unwrap();
    evict(&project, &[short(&made[0])]);
    assert_eq!(project.databases(), [""; 0]);
}

/// The lock of the template, taken by a session as an eviction does.
async fn lock_alone(project: &Project<'_>, fingerprint: &Value) -> sqlx::PgConnection {
    let of = quote_literal(fingerprint.as_str().unwrap());
    let id = format!("select id from pgstencil.template where fingerprint = {of}");
    let key = LockKey::template(registry(project, &id).parse().unwrap()).value();
    let mut session = server().connect(&project.registry()).await;
    let lock = format!("select pg_advisory_lock({key})");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut session).await.unwrap();
    session
}

#[tokio::test]
async fn one_that_somebody_else_evicts_is_gone_for_both() {
    let (project, made) = with_templates(1, "");
    let session = lock_alone(&project, &made[0]).await;
    let running = Pgstencil::new(&project).args(["evict", "--json", short(&made[0])]).spawn();
    let waits = format!(
        "select count(*) from pg_stat_activity where datname = '{}' \
         and (query like '%ExclusiveLock%' or query like 'EXECUTE pgstencil_held_alone%')",
        project.registry()
    );
    assert!(eventually(PATIENCE, || server().psql("postgres", &waits) == "1"));
    registry(&project, "update pgstencil.template set state = 'broken'");
    session.close().await.unwrap();
    let output = running.wait();
    let answer = output.code(0).json();
    assert_eq!(answer["templates"][0]["state"], "gone_before");
    assert_eq!(answer["bytes"], 0);
    assert_eq!(project.databases(), [""; 0]);
}

#[test]
fn evictions_at_once_all_succeed() {
    let (project, _) = with_templates(0, "");
    for round in 0..6 {
        let made = [next(&project, 2 * round), next(&project, 2 * round + 1)];
        let named = [short(&made[0]), short(&made[1])];
        let all = ["--all", "--yes"];
        let args = if round % 2 == 0 { named } else { all };
        let both = [(); 2].map(|()| Pgstencil::new(&project).arg("evict").args(args).spawn());
        for output in both.map(|running| running.wait()) {
            // The one that came when all was over knows no such template.
            let late = round % 2 == 0 && output.stderr.contains("no ready template");
            output.code(if late { 6 } else { 0 }).lacks("since it is in use");
        }
        assert_eq!(ready(&project), [Value::Null; 0]);
    }
    assert!(eventually(PATIENCE, || project.databases().is_empty()));
}

#[test]
fn one_that_is_being_built_is_told_as_that() {
    let project = Project::with_migrations(server());
    project.build(&Build::Hang);
    let mut builder = Pgstencil::new(&project).arg("ensure").spawn();
    builder.wait_for_text("building template app");
    let mut rows = Vec::new();
    assert!(eventually(PATIENCE, || {
        rows = templates(&project);
        !rows.is_empty()
    }));
    let fingerprint = rows[0]["fingerprint"].clone();
    for command in ["evict", "pin"] {
        Pgstencil::new(&project)
            .args([command, short(&fingerprint)])
            .fails(6)
            .stderr_has(&format!(
                "template {} of {}/app cannot be {command}",
                short(&fingerprint),
                project.name()
            ))
            .stderr_has(&format!("it is being built by pid {} on ", builder.id()));
    }
    builder.kill9();
    // Its locks go with its sessions.
    assert!(eventually(PATIENCE, || {
        let output = Pgstencil::new(&project).args(["evict", short(&fingerprint)]).fails(6);
        output.stderr.contains("no ready template")
    }));
}

fn evict_code(project: &Project<'_>, args: &[&str], code: i32) -> Value {
    Pgstencil::new(project).args(["evict", "--json"]).args(args).fails(code).json()
}

#[test]
fn the_base_of_an_extension_stays_until_it_is_copied() {
    let project = Project::extending(server(), KEEP);
    project.append_config("[eviction]\nmax_templates = 1\nkeep = 0");
    outcome(&project, "miss");
    items(&project);
    let extended = outcome(&project, "extended");
    assert_eq!(ready(&project), [extended["fingerprint"].clone()]);
}

/// One that can be extended from another is cheaper to lose than one that needs a build from nothing,
/// though it was used later.
#[test]
fn the_cheap_one_goes_first() {
    let project = Project::extending(server(), KEEP);
    project.append_config("[eviction]\nmax_templates = 3\nkeep = 0");
    let first = outcome(&project, "miss");
    items(&project);
    let second = outcome(&project, "extended");
    registry(
        &project,
        "update pgstencil.event set millis = case outcome when 'miss' then 60000 else 2000 end;
         update pgstencil.template set build_ms = case when base_fingerprint is null then 60000 else 2000 end",
    );
    idle(&project, &first["fingerprint"], "9 hours");
    idle(&project, &second["fingerprint"], "1 hour");
    let text = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &text.replace("templates = 3", "templates = 1"));
    let plan = evict(&project, &["--dry-run"]);
    let going = plan["templates"].as_array().unwrap();
    assert_eq!(going.len(), 1);
    assert_eq!(going[0]["fingerprint"], second["fingerprint"]);
    assert_eq!(going[0]["rebuild_ms"], 2000);
}

#[test]
fn a_template_that_lost_its_database_is_swept() {
    let (project, made) = with_templates(2, "");
    let name = database_of(&project, &made[0]);
    server().psql("postgres", &format!("alter database \"{name}\" is_template false"));
    server().psql("postgres", &format!("drop database \"{name}\""));
    let done = evict(&project, &[]);
    assert!(done["cleanup"][0].as_str().unwrap().ends_with("its database is gone"), "{done}");
    assert_eq!(templates(&project).len(), 1);
}

#[test]
fn killed_at_any_moment_an_eviction_leaves_nothing_half_done() {
    let (project, _) = with_templates(8, "keep = 0");
    for millis in [5, 10, 15, 20, 30, 45, 60, 90] {
        let mut running = Pgstencil::new(&project).args(["evict", "--all", "--yes"]).spawn();
        std::thread::sleep(Duration::from_millis(millis));
        running.kill9();
        running.wait();
        // Each is there with its database, or given up.
        for row in templates(&project) {
            let there = server().has_database(&database_of(&project, &row["fingerprint"]));
            assert!(row["state"] != "ready" || there, "{row}");
        }
        next(&project, 100 + millis as usize);
    }
    let swept = eventually(PATIENCE, || {
        evict(&project, &["--all", "--yes"]);
        project.databases().is_empty()
    });
    assert!(swept, "{:?}", project.databases());
    assert_eq!(templates(&project), Vec::<Value>::new());
    ensure(&project);
}

#[test]
fn list_sorts_and_filters() {
    let (project, made) = with_templates(3, "");
    let clone = Pgstencil::new(&project).args(["clone", "--json"]).success();
    let clone = clone.json()["clone"]["name"].clone();
    idle(&project, &made[1], "1 day");
    let list = |args: &[&str]| Pgstencil::new(&project).args(["list", "--json"]).args(args).success().json();
    let order = |args: &[&str]| -> Vec<Value> {
        let listed = list(args);
        let rows = listed["templates"].as_array().unwrap();
        rows.iter().map(|t| t["fingerprint"].clone()).collect()
    };
    assert_eq!(order(&["--sort", "age"]), [made[2].clone(), made[1].clone(), made[0].clone()]);
    assert_eq!(order(&["--sort", "used"]), [made[2].clone(), made[0].clone(), made[1].clone()]);
    assert_eq!(order(&["--sort", "hits"])[0], made[2]);
    let mut by_name = made.clone();
    by_name.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    assert_eq!(order(&["--sort", "name"]), by_name);
    assert_eq!(order(&["-t", "other"]), Vec::<Value>::new());
    assert_eq!(order(&["--state", "broken"]), Vec::<Value>::new());
    assert_eq!(list(&["--templates"])["clones"], Value::Array(vec![]));
    let clones = list(&["--clones", "--state", "leased"]);
    assert_eq!(clones["templates"], Value::Array(vec![]));
    assert_eq!(clones["clones"][0]["name"], clone);
    assert_eq!(clones["clones"][0]["bytes"], Value::Null);
    for args in [["--clones", "--sizes"].as_slice(), &["--clones", "--sort", "size"]] {
        assert!(list(args)["clones"][0]["bytes"].as_i64().unwrap() > 1_000_000);
    }
    for (args, message, hint) in [
        (&["--clones", "--sort", "hits"][..], "clones cannot be sorted by `hits`", "name, age or size"),
        (&["--state", "leased", "--sort", "used"], "clones cannot be sorted by `used`", "name, age or size"),
        (
            &["--templates", "--state", "leased"],
            "`leased` is not a state of templates",
            "building, ready, broken",
        ),
        (
            &["--clones", "--state", "ready"],
            "`ready` is not a state of clones",
            "creating, warm, leased, released, orphaned",
        ),
    ] {
        Pgstencil::new(&project).arg("list").args(args).fails(2).stderr_has(message).stderr_has(hint);
    }
    assert_eq!(order(&["--templates", "--state", "ready"]).len(), 3);
    Pgstencil::new(&project)
        .args(["list", "--project", "nobody"])
        .success()
        .stdout("")
        .stderr_has("no matching templates or clones");
}

/// Two roles, each with a registry of its own, on one server: the full walk of each leaves the other's
/// as it is.
#[test]
fn two_registries_never_touch_each_other() {
    let roles = [Role::new(server()), Role::new(server())];
    let mut projects = [Project::with_migrations(server()), Project::with_migrations(server())];
    for (project, role) in projects.iter_mut().zip(&roles) {
        project.connect_as(role);
        project.append_config("[clone]\norphan_grace = \"1s\"\n[eviction]\nmax_templates = 1\nkeep = 0");
    }
    let oids = |project: &Project<'_>| {
        let names: Vec<_> = project.databases().iter().map(|d| quote_literal(d)).collect();
        server().psql(
            "postgres",
            &format!(
                "select oid, datname from pg_database where datname in ({}) order by 1",
                names.join(", ")
            ),
        )
    };
    for (n, (walker, other)) in [(0, 1), (1, 0)].into_iter().enumerate() {
        let (walker, other) = (&projects[walker], &projects[other]);
        ensure(other);
        let kept = Pgstencil::new(other).arg("clone").success();
        let kept = kept.line().rsplit_once('/').unwrap().1.to_owned();
        let before = oids(other);
        next(walker, n);
        next(walker, n + 10);
        Pgstencil::new(walker).args(["run", "--", "true"]).success();
        let mut killed = Held::idle(walker, &[]);
        killed.run.kill9();
        killed.end();
        // The other's clone is nobody's to release here.
        Pgstencil::new(walker).args(["release", &kept]).fails(6);
        let other_template = ready_everywhere(other);
        Pgstencil::new(walker).args(["evict", short(&other_template)]).fails(6);
        let swept = eventually(PATIENCE, || {
            evict(walker, &[]);
            Pgstencil::new(walker).args(["doctor", "--fix", "-q"]).success();
            walker.databases().len() == 1
        });
        assert!(swept, "{:?}", walker.databases());
        evict(walker, &["--all", "--yes"]);
        assert_eq!(oids(other), before);
        Pgstencil::new(other).args(["release", &kept]).success();
    }
}

fn ready_everywhere(project: &Project<'_>) -> Value {
    templates(project)[0]["fingerprint"].clone()
}

#[test]
fn a_neighbours_sweep_keeps_to_the_grace_of_the_clones_own_project() {
    let project = Project::with_migrations(server());
    project.append_config("[clone]\norphan_grace = \"1h\"");
    let neighbour = neighbour(&project);
    neighbour.append_config("[clone]\norphan_grace = \"100ms\"");
    let clone = |project: &Project<'_>| {
        let out = Pgstencil::new(project).args(["clone", "--ttl", "1s"]).success();
        out.line().rsplit('/').next().unwrap().to_owned()
    };
    let (ours, theirs) = (clone(&project), clone(&neighbour));
    let gone = eventually(PATIENCE, || {
        Pgstencil::new(&neighbour).arg("evict").success();
        !server().has_database(&theirs)
    });
    assert!(gone);
    // Both were orphaned at the same time, and swept by the same rules.
    Pgstencil::new(&neighbour).arg("evict").success();
    assert!(server().has_database(&ours));
}

#[test]
fn templates_of_more_than_two_gigabytes_are_counted() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    let sql = format!(
        "update pgstencil.database d set bytes = 3000000000 from pgstencil.template t \
         where t.id = d.template_id and t.project = '{}'",
        project.name()
    );
    project.server().psql(&project.registry(), &sql);
    project.write("migrations/0099_more.sql", "create table more (a int);");
    let out = Pgstencil::new(&project).arg("ensure").success();
    assert!(!out.stderr.contains("warning"), "{}", out.stderr);
    let limit = "[eviction]\nmax_size = \"4GB\"\nkeep = 1\n";
    project.append_config(limit);
    project.server().psql(&project.registry(), &sql);
    project.write("migrations/0100_more.sql", "create table still_more (a int);");
    Pgstencil::new(&project).arg("ensure").success();
    assert!(templates(&project).len() < 3, "{:?}", templates(&project));
}

#[test]
fn a_project_that_is_named_goes_as_a_whole_from_anywhere() {
    let project = Project::extending(server(), "extend = \"append\"\nrebuild = \"never\"");
    Pgstencil::new(&project).arg("ensure").success();
    project.add_migration("0003_more", "create table more (id int);");
    let name = format!("kept_{}", project.id);
    Pgstencil::new(&project).args(["clone", "--name", &name]).success();
    let pinned = Pgstencil::new(&project).args(["pin", "--json"]).success().json();
    let pinned = pinned["templates"][0]["fingerprint"].as_str().unwrap()[..12].to_owned();
    // From another project, as for one whose checkout is gone.
    let config = project.read("pgstencil.toml");
    let config = config.replace(&project.name(), "other");
    fs::write(project.home().join("elsewhere.toml"), config).unwrap();
    let elsewhere = |args: &[&str]| {
        let file = project.home().join("elsewhere.toml");
        Pgstencil::new(&project)
            .current_dir(project.home())
            .arg("evict")
            .args(args)
            .env("PGSTENCIL_CONFIG", file)
    };
    let project_name = project.name();
    let typed = project_name.replace("t_", "t-");
    elsewhere(&["--all", "--project", &typed, "--yes"])
        .fails(6)
        .stderr_has(&format!("did you mean `{project_name}`?"));
    elsewhere(&["--project", &project_name]).fails(2).stderr_has("--all");
    elsewhere(&["--all", "--project", &project_name]).fails(2).stderr_has("`--yes`");
    let all = &["--all", "--project", &project_name, "--yes"];
    elsewhere(all)
        .success()
        .stdout_has("evicted template ")
        .stderr_has(&format!("template {pinned} is kept, since it is pinned (`pgstencil unpin {pinned}`)"))
        .stderr_has(&format!("clone {name} is kept, since it is in use (`pgstencil release {name}`)"));
    // What is left to say where only the pin keeps something.
    let again = elsewhere(&[all, &["--json"][..]].concat()).success().json();
    assert_eq!(again["templates"], json!([]));
    assert_eq!(again["pinned"][0].as_str().unwrap()[..12], pinned);
    assert_eq!(again["clones"], json!([name]));
    let again = elsewhere(all).success();
    again.stderr_has("no template can be evicted\n");
    again.stderr_has(&format!("template {pinned} is kept"));
    Pgstencil::new(&project).args(["unpin", &pinned]).success();
    Pgstencil::new(&project).args(["release", &name]).success();
    elsewhere(all).success();
    // Where nothing is left, nothing is wrong.
    let nothing = elsewhere(&["--all", "--project", "quite_another", "--yes"]).success();
    nothing.stderr_has("no templates to evict");
    assert!(eventually(PATIENCE, || project.databases().is_empty()), "{:?}", project.databases());
}
