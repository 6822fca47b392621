//! `pgstencil run`: its command's exit code, surroundings, signals and names, and what is left.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::support::hold::{Held, goes, list, oid, only_templates_left, stays};
use crate::support::server::{PATIENCE, quote_ident, quote_literal};
use crate::support::{Build, Pgstencil, Project, alive, ends, eventually, gives_up, server};

/// `pgstencil run -- sh -c SCRIPT`
fn sh(project: &Project<'_>, args: &[&str], script: &str) -> Pgstencil {
    Pgstencil::new(project).arg("run").args(args).args(["--", "sh", "-c", script])
}

/// A config with a set of two roles.
const SET: &str = r#"
project = "{project}"
[server]
registry = "{registry}"
[template.app]
migrations = ["migrations/*.sql"]
build = "sh migrate.sh"
databases = ["default", "read-only"]
"#;

#[test]
fn the_exit_code_of_the_command_passes_through() {
    let project = Project::with_migrations(server());
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
    ] {
        sh(&project, &[], script).fails(code);
    }
    assert_eq!(project.builds(), 1);
    only_templates_left(&project);
}

#[test]
fn a_command_that_is_not_there_is_a_usage_error() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project)
        .args(["run", "--keep-on-failure", "--", "no-such-program-here"])
        .fails(2)
        .stderr_has("error: no program `no-such-program-here` found");
    only_templates_left(&project);
}

#[test]
fn the_command_runs_where_the_caller_is() {
    let project = Project::with_migrations(server());
    let deep = project.path().join("deep/er");
    std::fs::create_dir_all(&deep).unwrap();
    sh(&project, &[], "pwd").current_dir(&deep).success().stdout(&format!("{}\n", deep.display()));
}

#[test]
fn input_and_output_are_the_callers_own() {
    let project = Project::with_migrations(server());
    sh(&project, &["-q"], "cat; echo words >&2")
        .stdin("line 1\nline 2")
        .success()
        .stdout("line 1\nline 2")
        .stderr("words\n");
}

/// What `env` shows, without what every process of the harness has.
fn variables(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| name.starts_with("PG") || name.starts_with("DATABASE") || name.starts_with("X_"))
        .filter(|(name, _)| *name != "PGSTENCIL_STATE_DIR")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_command_sees_the_documented_variables_and_no_others() {
    let project = Project::with_migrations(server());
    project.config(SET);
    project.append_config(
        r#"[template.app.env]
X_NAME = "{name}"
X_ALL = "{user}:{password}@{host}:{port} {read-only.name} {read-only.url} {{}}"
"#,
    );
    let (host, port) = (server().host(), server().port().to_string());
    let (user, password) = (server().user(), server().password());
    let mut common = vec![
        ("PGHOST", host.as_str()),
        ("PGPORT", &port),
        ("PGUSER", &user),
        ("PGPASSWORD", &password),
        ("PGSTENCIL_PHASE", "run"),
        ("PGSTENCIL_SERVER_URL", project.server_url()),
    ];
    if server().psql("postgres", "show ssl") == "off" {
        common.push(("PGSSLMODE", "disable"));
    }
    let output = sh(&project, &["--name", "{project}_{alias}", "--shard", "2/3"], "env")
        .env("PGHOSTADDR", "192.0.2.1")
        .env("PGSERVICE", "nowhere")
        .env("PGSERVICEFILE", "/nowhere")
        .env("PGOPTIONS", "-c search_path=nowhere")
        .env("PGPASSFILE", "/nowhere")
        .env("PGDATABASE", "nowhere")
        .success();
    let (a, b) = (format!("{}_default", project.name()), format!("{}_read-only", project.name()));
    let (a_url, b_url) = (server().url(&a), server().url(&b));
    let all = format!("{user}:{password}@{host}:{port} {b} {b_url} {{}}");
    let mut expected: BTreeMap<String, String> = [
        ("DATABASE_URL", a_url.as_str()),
        ("PGDATABASE", &a),
        ("PGSTENCIL_NAME", &a),
        ("PGSTENCIL_URL", &a_url),
        ("PGSTENCIL_NAME_DEFAULT", &a),
        ("PGSTENCIL_URL_DEFAULT", &a_url),
        ("PGSTENCIL_NAME_READ_ONLY", &b),
        ("PGSTENCIL_URL_READ_ONLY", &b_url),
        ("PGSTENCIL_OUTCOME", "miss"),
        ("PGSTENCIL_SHARD", "2"),
        ("PGSTENCIL_SHARDS", "3"),
        ("X_NAME", &a),
        ("X_ALL", &all),
    ]
    .into_iter()
    .chain(common)
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    assert_eq!(variables(&output.stdout), expected);

    // Several clones: the same with numbers behind; the first one also without.
    let args = ["--clones", "3", "--name", "{project}_{alias}_gw{n}"];
    let output = sh(&project, &args, "env").success();
    for name in ["PGSTENCIL_SHARD", "PGSTENCIL_SHARDS"] {
        expected.remove(name);
    }
    for (key, value) in &mut expected {
        *value = match key.as_str() {
            "PGSTENCIL_OUTCOME" => "hit".to_owned(),
            _ => value.replace(&a, &format!("{a}_gw0")).replace(&b, &format!("{b}_gw0")),
        };
    }
    for n in 0..3 {
        for (alias, name) in [("", &a), ("_DEFAULT", &a), ("_READ_ONLY", &b)] {
            let name = format!("{name}_gw{n}");
            let url = server().url(&name);
            expected.insert(format!("PGSTENCIL_NAME{alias}_{n}"), name);
            expected.insert(format!("PGSTENCIL_URL{alias}_{n}"), url);
        }
    }
    assert_eq!(variables(&output.stdout), expected);
    only_templates_left(&project);
}

#[test]
fn the_clone_holds_what_the_build_made() {
    let project = Project::with_migrations(server());
    let count = r#"psql -X -At "$DATABASE_URL" -c 'select count(*) from orders' \
                   && psql -X -At -c 'delete from orders returning id'"#;
    for outcome in ["miss", "hit", "hit"] {
        sh(&project, &[], count).success().stdout("1\n1\nDELETE 1\n").stderr_has(&format!("{outcome} app"));
    }
    assert_eq!(project.builds(), 1);
}

#[test]
fn a_nested_pgstencil_finds_the_server() {
    let project = Project::with_migrations(server());
    let script = r#"echo $PGDATABASE; pgstencil run -q -- sh -c 'echo $PGDATABASE'
                    pgstencil list --json"#;
    let output = sh(&project, &[], script).success();
    let lines: Vec<_> = output.stdout.lines().collect();
    let [outer, inner, listed] = lines[..] else {
        panic!("{output}");
    };
    assert_ne!(outer, inner);
    assert!(listed.contains(outer), "{listed}");
    only_templates_left(&project);
}

#[test]
fn signals_reach_the_command() {
    let project = Project::with_migrations(server());
    let script = "trap 'echo INT; exit 41' INT; trap 'echo TERM; exit 42' TERM
                  trap 'echo HUP; exit 43' HUP; echo ready; while :; do sleep 0.05; done";
    for (signal, name, code) in
        [(Signal::SIGINT, "INT", 41), (Signal::SIGTERM, "TERM", 42), (Signal::SIGHUP, "HUP", 43)]
    {
        let run = sh(&project, &[], script).spawn();
        run.wait_for_text("ready");
        run.signal(signal);
        run.wait().code(code).stdout_has(name);
    }
    only_templates_left(&project);
}

#[test]
fn a_second_interrupt_ends_the_whole_group_and_gives_the_clone_back() {
    let project = Project::with_migrations(server());
    // The second script does not even listen to TERM: KILL follows five seconds later.
    for (ignored, code) in [("INT", 128 + 15), ("INT TERM", 128 + 9)] {
        let script = format!(
            "trap '' {ignored}; sleep 300 & echo \"child $! of $$.\"; \
             while kill -0 $!; do sleep 0.05; done"
        );
        let run = sh(&project, &[], &script).spawn();
        run.wait_for_text(".\n");
        let text = run.stdout_so_far();
        let ids: Vec<i32> = text
            .trim_matches(|c: char| !c.is_ascii_digit())
            .split(" of ")
            .map(|id| id.parse().unwrap())
            .collect();
        run.signal(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(300));
        assert!(ids.iter().all(|id| alive(*id)), "{text}");
        run.signal(Signal::SIGINT);
        run.wait().code(code);
        assert!(eventually(PATIENCE, || !ids.iter().any(|id| alive(*id))));
        only_templates_left(&project);
    }
}

#[test]
fn a_signal_during_the_build_ends_it_and_cleans_up() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let project = Project::with_migrations(server());
        project.build(&Build::Script("migrate; sleep 300 & echo $! >grandchild.pid; wait\n".into()));
        let run = sh(&project, &[], "echo never").spawn();
        assert!(eventually(PATIENCE, || project.grandchild().is_some()));
        let grandchild = project.grandchild().unwrap();
        run.signal(signal);
        let output = run.wait();
        output.code(130).stdout("").stderr_has("interrupted");
        assert!(ends(grandchild));
        // The drop is not left to others here: nothing was made that could be useful.
        assert!(project.databases().is_empty(), "{:?}", project.databases());
        project.build(&Build::Migrate);
        sh(&project, &[], "echo now").success().stdout("now\n");
    }
}

/// The name of the project's only template.
fn template(project: &Project<'_>) -> String {
    let mut names = project.databases();
    names.retain(|name| name.starts_with("tpl_"));
    assert_eq!(names.len(), 1, "{names:?}");
    names.remove(0)
}

/// Comments a database anew, with the comment that it has, in a transaction that stays open: until
/// its end nobody copies, renames or drops the database.
async fn freeze(database: &str) -> sqlx::PgConnection {
    let mut session = server().admin().await;
    let text = server().psql(
        "postgres",
        &format!(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = {}",
            quote_literal(database)
        ),
    );
    let comment = format!("begin; comment on database {} is {}", quote_ident(database), quote_literal(&text));
    sqlx::raw_sql(AssertSqlSafe(comment)).execute(&mut session).await.unwrap();
    session
}

async fn thaw(mut session: sqlx::PgConnection) {
    sqlx::raw_sql("commit").execute(&mut session).await.unwrap();
}

fn waits_for(project: &Project<'_>, statement: &str) -> bool {
    let sql = format!(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like {}",
        quote_literal(&format!("{statement}%"))
    );
    project.server().psql("postgres", &sql) != "0"
}

#[tokio::test]
async fn a_signal_during_the_copy_is_not_forgotten() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    let template = template(&project);
    let frozen = freeze(&template).await;
    let run = sh(&project, &[], "echo never").spawn();
    let copies = format!("CREATE DATABASE %{template}");
    assert!(eventually(PATIENCE, || waits_for(&project, &copies)));
    run.signal(Signal::SIGINT);
    run.wait_for_text("interrupted: cleaning up");
    thaw(frozen).await;
    run.wait().code(130).stdout("");
    only_templates_left(&project);
}

#[tokio::test]
async fn run_does_not_wait_for_the_drop() {
    let project = Project::with_migrations(server());
    let held = Held::idle(&project, &[]);
    let database = held.database.clone();
    let frozen = freeze(&database).await;
    held.end();
    held.run.wait().code(0);
    // It takes the name away first, and has to wait for that already.
    let drops = format!("%ALTER DATABASE \"{database}\" RENAME");
    assert!(eventually(PATIENCE, || waits_for(&project, &drops)));
    assert!(server().has_database(&database));
    // Nor does the next one.
    sh(&project, &[], "true").success();
    thaw(frozen).await;
    only_templates_left(&project);
}

#[test]
fn keep_leaves_the_clone_and_says_where() {
    let project = Project::with_migrations(server());
    let kept = |output: &crate::support::cli::Output| {
        let url = output
            .stderr
            .lines()
            .find(|line| line.starts_with("postgres"))
            .unwrap_or_else(|| panic!("no URL: {output}"));
        let database = url.rsplit_once('/').unwrap().1.to_owned();
        assert_eq!(url, server().url(&database));
        assert_eq!(server().psql(&database, "select count(*) from users"), "1");
        let listed = list(&project);
        let clones = listed["clones"].as_array().unwrap();
        let clone = clones.iter().find(|c| c["name"] == *database).unwrap();
        assert_eq!(clone["state"], "leased");
        assert!(clone["expires_at"].is_string(), "{clone}");
        database
    };
    // The URL is the answer, so -q does not take it away.
    let output = sh(&project, &["--keep", "-q"], "echo data").success();
    output.stdout("data\n");
    let first = kept(&output);
    let output = sh(&project, &["--keep-on-failure"], "exit 9").fails(9);
    let second = kept(&output);
    Pgstencil::new(&project).args(["release", &first]).success().stderr_has(&first);
    goes(&project, &first);
    stays(&project, &second, Duration::from_millis(100));
    sh(&project, &["--keep-on-failure"], "true").success();
    Pgstencil::new(&project).args(["release", &second]).success();
    only_templates_left(&project);
}

#[test]
fn the_report_is_the_json_of_clone() {
    let project = Project::with_migrations(server());
    let script = "cat report.json; echo $PGDATABASE";
    let output = sh(&project, &["--report", "report.json"], script).success();
    let (json, name) = output.stdout.trim().split_once('\n').unwrap();
    let report: Value = serde_json::from_str(json).unwrap();
    assert_eq!(report["version"], 1);
    assert_eq!(report["template"], "app");
    assert_eq!(report["outcome"], "miss");
    assert_eq!(report["fingerprint"].as_str().unwrap().len(), 64);
    assert_eq!(report["clone"]["name"], name);
    assert_eq!(report["clone"]["databases"]["app"]["name"], name);
    assert_eq!(report["clone"]["databases"]["app"]["url"], server().url(name));
    assert_eq!(report["clone"]["expires_at"], Value::Null);
    for time in ["fingerprint", "template", "clone"] {
        assert!(report["timing_ms"][time].as_f64().unwrap() > 0.0, "{report}");
    }

    // A report that cannot be written is an error, and leaves no clone.
    sh(&project, &["--report", "no/such/folder/x"], "echo never")
        .fails(1)
        .stdout("")
        .stderr_has("no/such/folder/x");
    Pgstencil::new(&project).args(["clone", "--report", "no/such/folder/x"]).fails(1).stdout("");
    only_templates_left(&project);
}

#[test]
fn github_gets_outputs_and_a_summary() {
    let project = Project::with_migrations(server());
    project.write("output", "before=1\n");
    for outcome in ["miss", "hit"] {
        sh(&project, &[], "true")
            .env("GITHUB_OUTPUT", project.path().join("output"))
            .env("GITHUB_STEP_SUMMARY", project.path().join("summary"))
            .success();
        let text = project.read("output");
        let lines: Vec<_> = text.lines().rev().collect();
        assert_eq!(lines.last(), Some(&"before=1"));
        assert_eq!(lines[1], format!("outcome={outcome}"));
        let fingerprint = lines[0].strip_prefix("fingerprint=").unwrap();
        assert_eq!(fingerprint.len(), 64);
        let summary = project.read("summary");
        let last = summary.lines().last().unwrap();
        assert!(last.contains(&format!("`app` {outcome} (`{}`)", &fingerprint[..12])), "{last}");
        assert_eq!(last.contains("saved"), outcome == "hit", "{last}");
    }
}

#[test]
fn names_follow_the_pattern() {
    let project = Project::with_migrations(server());
    let id = project.id.clone();
    std::fs::create_dir_all(project.path().join(".git")).unwrap();
    project.write(".git/HEAD", "ref: refs/heads/feat/X-1\n");
    let named = |args: &[&str], expected: &[&str]| {
        let script = "env | sed -n 's/^PGSTENCIL_NAME_[0-9]*=//p' | sort; echo $PGDATABASE";
        let output = sh(&project, args, script).success();
        let lines: Vec<_> = output.stdout.lines().collect();
        let (first, numbered) = lines.split_last().unwrap();
        assert_eq!(first, &expected[0], "{output}");
        if expected.len() > 1 {
            assert_eq!(numbered, expected, "{output}");
        }
    };
    let p = |text: &str| text.replace("ID", &id);
    named(
        &["--clones", "3", "--name", &p("test_ID_gw{n}")],
        &[&p("test_ID_gw0"), &p("test_ID_gw1"), &p("test_ID_gw2")],
    );
    // Without {n}, as Django names its copies.
    named(&["--clones", "2", "--name", &p("test_ID")], &[&p("test_ID"), &p("test_ID_1")]);
    named(
        &["--shard", "2/3", "--name", &p("ID-{shard}-{branch}-{alias}")],
        &[&p(&format!("ID-2-{}-app", pgstencil::internals::folded("feat/X-1", 63)))],
    );
    let output = sh(&project, &["--name", &p("ID_{id}")], "echo $PGDATABASE").success();
    assert!(output.line().len() > id.len() + 4, "{output}");
    for odd in [
        "x-ID",
        "ID with  blanks",
        "ID 'single' \"double\"",
        "ID ünï✓ 数据",
        "ID 100% %41",
        "ID\\back$dollar`tick",
        "ID/a?b#c&d=e:f@g",
    ] {
        let name = p(odd);
        let script = r#"printf '%s\n' "$PGDATABASE"; psql -X -At "$DATABASE_URL" -c 'select current_database()'
                        psql -X -At -c 'select count(*) from users'"#;
        sh(&project, &["--name", &name], script).success().stdout(&format!("{name}\n{name}\n1\n"));
        // And again at once, although the one before may not quite be gone.
        sh(&project, &["--name", &name], "true").success();
    }
    only_templates_left(&project);
}

#[test]
fn a_name_can_be_used_again_at_once() {
    let project = Project::with_migrations(server());
    let name = format!("again_{}", project.id);
    for _ in 0..8 {
        sh(&project, &["--name", &name], "echo $PGDATABASE").success().stdout(&format!("{name}\n"));
    }
    only_templates_left(&project);
}

#[test]
fn bad_names_are_refused_before_anything_is_built() {
    let project = Project::with_migrations(server());
    let long = "x".repeat(64);
    for (args, words) in [
        (vec!["--name", &long], "63 bytes"),
        (vec!["--name", "a_{shard}"], "--shard"),
        (vec!["--name", "{id}_{branch}"], "{branch}"),
        (vec!["--name", "a_{nope}"], "{nope}"),
        (vec!["--name", ""], "empty"),
        (vec!["--name", "a", "--shard", "4/3"], "parts are counted"),
        (vec!["--name", "postgres"], "postgres"),
    ] {
        let output = sh(&project, &args, "echo never").run();
        let code = if args.contains(&"postgres") { 7 } else { 2 };
        output.code(code).stdout("").stderr_has(words);
    }
    project.config(SET);
    sh(&project, &["--name", "one"], "echo never").fails(2).stderr_has("{alias}");
    assert_eq!(project.builds(), 0);
    assert!(project.databases().is_empty());
}

#[test]
fn a_foreign_database_of_the_wanted_name_is_left_alone() {
    let project = Project::with_migrations(server());
    let name = format!("foreign_{}", project.id);
    server().psql("postgres", &format!("create database {name}"));
    let before = oid(&project, &name);
    for command in ["run", "clone"] {
        Pgstencil::new(&project)
            .args([command, "--name", &name])
            .fails(7)
            .stdout("")
            .stderr_has(&format!("there is a database `{name}` already"))
            .stderr_has("not a clone of this registry");
    }
    Pgstencil::new(&project).args(["clone", "--fresh", "--name", &name]).fails(7);
    sh(&project, &[], "true").success();
    assert_eq!(oid(&project, &name), before);
}

#[test]
fn the_name_of_a_live_run_is_taken_and_that_of_a_dead_one_is_free() {
    let project = Project::with_migrations(server());
    let name = format!("named_{}", project.id);
    let mut held = Held::idle(&project, &["--name", &name]);
    assert_eq!(held.database, name);
    let before = oid(&project, &name);
    for command in [vec!["run"], vec!["clone"], vec!["clone", "--fresh"]] {
        Pgstencil::new(&project)
            .args(command)
            .args(["--name", &name])
            .fails(7)
            .stdout("")
            .stderr_has(&format!("in use by pid {}", held.run.id()));
    }
    assert_eq!(oid(&project, &name), before);
    held.run.kill9();
    held.end();
    sh(&project, &["--name", &name], "echo mine").success().stdout("mine\n");
    assert_ne!(oid(&project, &name), before);
    only_templates_left(&project);
}

#[test]
fn the_name_of_a_dead_run_stays_taken_while_somebody_is_in_it() {
    let project = Project::with_migrations(server());
    let name = format!("named_{}", project.id);
    let mut held = Held::inside(&project, &["--name", &name]);
    let before = oid(&project, &name);
    held.run.kill9();
    gives_up(|wait| sh(&project, &["--name", &name, "--wait", wait], "echo never"), &name).stdout("");
    assert_eq!(oid(&project, &name), before);
    held.end();
    sh(&project, &["--name", &name], "echo mine").success().stdout("mine\n");
    only_templates_left(&project);
}

#[test]
fn the_name_of_an_expired_clone_is_free() {
    let project = Project::with_migrations(server());
    let name = format!("named_{}", project.id);
    Pgstencil::new(&project).args(["clone", "--ttl", "1h", "--name", &name]).success();
    let before = oid(&project, &name);
    sh(&project, &["--name", &name], "true").fails(7);
    // An hour later.
    server().psql(&project.registry(), "update pgstencil.clone set expires_at = now()");
    sh(&project, &["--name", &name], "echo mine").success().stdout("mine\n");
    assert_ne!(oid(&project, &name), before);
    only_templates_left(&project);
}
