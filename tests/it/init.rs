//! `pgstencil init`. The presets themselves are tested beside their code, in `src/presets`.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Pgstencil, Project, copy, server};

fn init(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).arg("init").args(args)
}

/// A directory without a config, with the project of a preset in `below`.
fn with_tool<'s>(name: &str, below: &str) -> Project<'s> {
    let project = Project::new(server());
    let _ = fs::remove_file(project.path().join("pgstencil.toml"));
    add(&project, name, below);
    project
}

fn add(project: &Project<'_>, name: &str, below: &str) {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/presets").join(name).join("project");
    copy(&tree, &project.path().join(below));
}

#[test]
fn a_config_is_written_once_and_used() {
    let project = with_tool("sql", "");
    let done = init(&project, &[]).success();
    done.stderr_has("wrote pgstencil.toml for plain SQL files, since sql/0001_users.sql is here");
    done.stderr_has("next: pgstencil run -- psql");
    let text = project.read("pgstencil.toml");
    assert!(text.starts_with("# For plain SQL files, written by `pgstencil init --preset sql`."), "{text}");
    // It works as it is, and the next migration extends it.
    let registry = format!("project = \"{{project}}\"\n{text}\n[server]\nregistry = \"{{registry}}\"\n");
    project.config(&registry);
    Pgstencil::new(&project).args(["ensure"]).success().stderr_has("miss");
    project.write("sql/0003_items.sql", "CREATE TABLE items (id int);");
    Pgstencil::new(&project).args(["ensure"]).success().stderr_has("extended");
    // Never twice.
    let before = project.read("pgstencil.toml");
    let refused = init(&project, &[]).fails(2);
    refused.stderr_has("`pgstencil.toml` exists, and is not overwritten").stderr_has("init --check");
    init(&project, &["--preset", "knex"]).fails(2).stderr_has("exists");
    assert_eq!(project.read("pgstencil.toml"), before);
    init(&project, &["--check"]).success().stderr_has("nothing to improve");
}

#[test]
fn a_link_is_not_followed_to_a_new_file() {
    let project = with_tool("sql", "");
    let target = project.path().join("elsewhere");
    std::os::unix::fs::symlink(&target, project.path().join("pgstencil.toml")).unwrap();
    init(&project, &[]).fails(2).stderr_has("exists");
    assert!(!target.exists());
}

#[test]
fn several_tools_are_listed_and_one_is_chosen() {
    let project = with_tool("alembic", "");
    add(&project, "knex", "web");
    let refused = init(&project, &[]).fails(2);
    refused.stderr_has("several migration tools are here");
    refused.stderr_has("alembic: Alembic, since alembic.ini is here");
    refused.stderr_has("knex: Knex, since web/knexfile.js is here");
    refused.stderr_has("choose one with `--preset NAME`: alembic, knex");
    assert!(!project.path().join("pgstencil.toml").exists());
    let printed = init(&project, &["--preset", "knex", "--print"]).success();
    printed.stdout_has("root = \"web\"").stdout_has("migrations = [\"db/migrations/*.js\"]");
    let same = init(&project, &["--preset", "knex", "--dry-run"]).success();
    same.stdout_has("root = \"web\"");
    assert!(!project.path().join("pgstencil.toml").exists());
    init(&project, &["--preset", "alembic"]).success();
    assert!(project.read("pgstencil.toml").contains("alembic upgrade head"));
}

#[test]
fn one_tool_in_several_directories_is_not_guessed() {
    let project = with_tool("knex", "a");
    add(&project, "knex", "b");
    let refused = init(&project, &[]).fails(2);
    refused
        .stderr_has("Knex is used in several directories")
        .stderr_has("run `pgstencil init` in one of them");
    init(&project, &[]).current_dir(project.path().join("b")).success();
    assert!(project.path().join("b/pgstencil.toml").is_file());
}

#[test]
fn without_a_tool_the_presets_are_named() {
    let project = Project::new(server());
    let _ = fs::remove_file(project.path().join("pgstencil.toml"));
    let refused = init(&project, &[]).fails(2);
    refused.stderr_has("no migration tool that pgstencil knows was found here");
    refused.stderr_has("alembic, ").stderr_has("build = \"sqlx migrate run\"");
    init(&project, &["--preset", "alembc"]).fails(2).stderr_has("did you mean `alembic`?");
    let forced = init(&project, &["--preset", "goose"]).success();
    forced.stderr_has("which was not found here").stderr_has("matches no file");
    assert!(project.read("pgstencil.toml").contains("goose -dir migrations"));
}

#[test]
fn answers_are_json() {
    let project = with_tool("sqitch", "");
    let json = |args: &[&str], code: i32| -> Value {
        let done = init(&project, args).arg("--json");
        match code {
            0 => done.success().json(),
            code => done.fails(code).json(),
        }
    };
    let list = json(&["--list"], 0);
    let presets = list["presets"].as_array().unwrap();
    assert!(presets.len() >= 31);
    let sqitch = presets.iter().find(|preset| preset["name"] == "sqitch").unwrap();
    assert_eq!(sqitch["found_in"], serde_json::json!(["."]));
    let printed = json(&["--print"], 0);
    assert_eq!((&printed["version"], &printed["written"]), (&1.into(), &false.into()));
    let written = json(&[], 0);
    assert_eq!((&written["preset"], &written["written"]), (&"sqitch".into(), &true.into()));
    assert_eq!(written["config"], printed["config"]);
    assert_eq!(written["config"], project.read("pgstencil.toml"));
    assert_eq!(json(&["--check"], 0)["advice"], serde_json::json!([]));
    let text = project.read("pgstencil.toml").replace("rerun_inputs", "inputs");
    project.write("pgstencil.toml", &text);
    let check = json(&["--check"], 1);
    assert_eq!(check["advice"][0]["preset"], "sqitch");
    assert!(check["advice"][0]["message"].as_str().unwrap().contains("sqitch.plan"), "{check}");
    let words = init(&project, &["--check"]).fails(1);
    words
        .stdout_has("app: every new change is a line of sqitch.plan")
        .stdout_has("hint: move it to `rerun_inputs`");
}

#[test]
fn a_config_that_is_named_describes_its_own_directory() {
    let project = with_tool("sql", "below");
    init(&project, &["--config", "below/own.toml"]).success().stderr_has("wrote below/own.toml");
    let text = project.read("below/own.toml");
    assert!(text.contains("\"sql/*.sql\"") && !text.contains("root ="), "{text}");
    init(&project, &[]).env("PGSTENCIL_CONFIG", "below/own.toml").fails(2).stderr_has("exists");
    init(&project, &["--check", "--config", "below/own.toml"]).success();
}

#[test]
fn the_list_says_where_a_tool_was_found() {
    let project = with_tool("prisma", "services/api");
    init(&project, &["--list"]).success().stdout_has("Prisma   found in services/api");
}

#[test]
fn a_dump_that_the_build_writes_is_told_with_the_tools_switch() {
    let project = Project::with_migrations(server());
    project.write("db/schema.sql", "-- old\n");
    project.config(
        "project = \"{project}\"\n[server]\nregistry = \"{registry}\"\n[template.app]\nmigrations = [\"migrations/*.sql\"]\n\
         inputs = [\"db/schema.sql\"]\nbuild = 'cat migrations/*.sql | psql -Xq && echo >> db/schema.sql'\n",
    );
    let refused = Pgstencil::new(&project).arg("ensure").fails(4);
    refused.stderr_has("`db/schema.sql` was written to");
    refused.stderr_has(
        "dbmate writes `db/schema.sql` during the build; switch that off: `dbmate --no-dump-schema up`",
    );
}

/// The presets whose tools pip and npm install in seconds. `tests/presets.sh` runs the others, too.
#[test]
fn presets_run_for_real() {
    if std::env::var_os("PGSTENCIL_TEST_PRESETS").is_none() {
        eprintln!("SKIPPED, since PGSTENCIL_TEST_PRESETS is not set: no preset was run for real");
        return;
    }
    let project = Project::new(server());
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/presets.sh"))
        .arg("--quick")
        .env("PGSTENCIL", env!("CARGO_BIN_EXE_pgstencil"))
        .env("PGSTENCIL_SERVER_URL", project.server_url())
        .env("PGSTENCIL_STATE_DIR", project.state_dir())
        .env("PRESETS_REGISTRY", project.registry())
        .env("PRESETS_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("presets"))
        .env("PATH", path_with_postgres())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{text}");
}

/// psql is needed by the presets without a tool.
fn path_with_postgres() -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = server().bindir().map(Path::to_owned).into_iter();
    std::env::join_paths(folders.chain(std::env::split_paths(&inherited))).unwrap()
}
