//! What the keys of a definition make of its files and variables: what is extended, what is built from nothing,
//! and what a command then sees.

use serde_json::{Value, json};

use crate::support::extension::{KEEP, items, outcome};
use crate::support::role::Role;
use crate::support::{Build, Pgstencil, Project, server};

fn run(project: &Project<'_>, script: &str) -> String {
    Pgstencil::new(project).args(["run", "--", "sh", "-c", script]).success().stdout.trim_end().to_owned()
}

fn explain(project: &Project<'_>) -> Pgstencil {
    Pgstencil::new(project).arg("explain")
}

/// Writes what the build sees into `seen`.
fn building_with_a_note(project: &Project<'_>, note: &str) {
    project.build(&Build::Script(format!("echo \"{note}\" >seen; migrate")));
}

#[test]
fn companions_may_be_added_and_never_changed() {
    let project = Project::extending(server(), &format!("{KEEP}\ncompanions = [\"sql/*.sql\"]"));
    project.write("sql/a.sql", "select 1;");
    outcome(&project, "miss");
    // With the migration that reads it, and one alone: the command runs on a copy.
    project.write("sql/b.sql", "select 2;");
    items(&project);
    outcome(&project, "extended");
    project.write("sql/c.sql", "select 3;");
    Pgstencil::new(&project).arg("ensure").success().stderr_has("since companion `sql/c.sql` is new");
    let answer = explain(&project).arg("--json").success().json();
    assert_eq!(answer["inputs"]["companions"].as_array().unwrap().len(), 3);
    project.write("sql/a.sql", "select 4;");
    explain(&project)
        .success()
        .stdout_has("companion `sql/a.sql` was changed")
        .stdout_has("  companions    3 files, ")
        .stdout_has("  companion changed: sql/a.sql\n");
    outcome(&project, "miss");
}

#[test]
fn a_variable_of_the_tests_builds_nothing_and_one_of_the_build_does() {
    let project = Project::with_migrations(server());
    let tables = |own: &str, build: &str, run: &str| {
        let config = project.read("pgstencil.toml");
        let config = config.split("[template.app.env]").next().unwrap();
        project.write(
            "pgstencil.toml",
            &format!(
                "{config}[template.app.env]\nOWN = \"{own}\"\nBOTH = \"env\"\n\
                 [template.app.build_env]\nBUILD = \"{build}\"\nBOTH = \"build\"\n\
                 [template.app.run_env]\nRUN = \"{run}\"\nBOTH = \"run\"\n"
            ),
        );
    };
    project.append_config("after_clone = \"echo \\\"$OWN ${BUILD-none} $RUN $BOTH\\\" >hook\"");
    tables("1", "2", "3");
    building_with_a_note(&project, "$OWN $BUILD ${RUN-none} $BOTH");
    let script = "echo $OWN ${BUILD-none} $RUN $BOTH";
    assert_eq!(run(&project, script), "1 none 3 run");
    assert_eq!(project.read("seen"), "1 2 none build\n");
    assert_eq!(project.read("hook"), "1 none 3 run\n");
    tables("1", "2", "s3cr3t-run");
    assert_eq!(run(&project, script), "1 none s3cr3t-run run");
    assert_eq!(project.builds(), 1);
    tables("1", "s3cr3t-build", "3");
    explain(&project)
        .success()
        .stdout_has("  build_env     BOTH, BUILD\n")
        .stdout_has("  build_env mapping differs: BUILD\n")
        .lacks("s3cr3t");
    run(&project, "true");
    assert_eq!(project.builds(), 2);
    tables("5", "s3cr3t-build", "3");
    run(&project, "true");
    assert_eq!(project.builds(), 3);
    let kept = project.strings_in_registry();
    assert!(!kept.iter().any(|text| text.contains("s3cr3t")), "{kept:?}");
}

#[test]
fn forms_of_placeholders() {
    let role = Role::with_odd_password(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    project.append_config(
        "[template.app.env]\nA = \"{url:postgresql+psycopg2}\"\nB = \"{app.url:ecto}\"\n\
         C = \"x://{user:url}:{password:url}@{host}:{port}/{name:url}\"\nD = \"{root}/data\"",
    );
    let seen = run(&project, "echo \"$DATABASE_URL $A $B $C $D\"");
    let seen: Vec<&str> = seen.split(' ').collect();
    let [url, a, b, c, d] = seen.as_slice() else {
        panic!("{seen:?}");
    };
    let (scheme, rest) = url.split_once("://").unwrap();
    assert!(scheme.starts_with("postgres"));
    assert_eq!(*a, format!("postgresql+psycopg2://{rest}"));
    assert_eq!(*b, format!("ecto://{rest}"));
    assert_eq!(*c, format!("x://{}", rest.split('?').next().unwrap()));
    assert_eq!(*d, format!("{}/data", project.path().display()));
}

/// Runs the files of both directories by their names, as Flyway does with two locations.
fn by_name(project: &Project<'_>) {
    project.build(&Build::Script(
        "sql -d \"$DATABASE_URL\" -c 'create table if not exists done (at serial, name text)'
         for name in $(ls migrations plugin 2>/dev/null | grep sql | sort); do
             [ \"$(sql -d \"$DATABASE_URL\" -c \"select count(*) from done where name = '$name'\")\" = 0 ] || continue
             sql -d \"$DATABASE_URL\" -c \"insert into done (name) values ('$name')\"
         done"
            .into(),
    ));
}

#[test]
fn by_name_the_files_of_all_folders_have_one_order() {
    let project = Project::extending(server(), KEEP);
    let config = project
        .read("pgstencil.toml")
        .replace("\"migrations/*.sql\"", "\"migrations/*.sql\", \"plugin/*.sql\"");
    project.write("pgstencil.toml", &config);
    project.write("plugin/0000.sql", "");
    by_name(&project);
    outcome(&project, "miss");
    explain(&project)
        .success()
        .stdout_has("  order         directory: 2 groups\n")
        .stdout_has("    migrations: 0001_users.sql to 0002_orders.sql (2 files)\n")
        .stdout_has("    plugin: 0000.sql\n");
    // The tool would run it first; nothing says that the directories belong together.
    project.write("plugin/0001_a.sql", "");
    outcome(&project, "extended");
    project.write("pgstencil.toml", &config.replace(KEEP, &format!("{KEEP}\norder = \"name\"")));
    let answer = explain(&project).arg("--json").success().json();
    assert_eq!(answer["inputs"]["order"], "name");
    assert_eq!(
        answer["inputs"]["groups"],
        json!([{
            "directory": "",
            "ordered": ["plugin/0000.sql", "plugin/0001_a.sql", "migrations/0001_users.sql", "migrations/0002_orders.sql"],
            "unordered": [],
        }])
    );
    assert_eq!(answer["against"]["difference"]["order"], json!({"old": "directory", "new": "name"}));
    // What was extended by the other rule is no base.
    outcome(&project, "miss");
    project.write("plugin/0003_b.sql", "");
    outcome(&project, "extended");
    project.write("plugin/0002_a.sql", "");
    explain(&project)
        .success()
        .stdout_has("  order         name: one group\n")
        .stdout_has("    all directories: plugin/0000.sql to plugin/0003_b.sql (6 files)\n")
        .stdout_has("new migration `plugin/0002_a.sql` sorts before `plugin/0003_b.sql`");
    outcome(&project, "miss");
}

#[test]
fn a_patch_release_builds_nothing_and_a_minor_one_shows_both_texts() {
    let project = Project::extending(
        server(),
        &format!(
            "{KEEP}\ninput_lines = [{{ file = \"lock\", match = '^name = \"django\"\\nversion = \"(\\d+\\.\\d+)' }}]"
        ),
    );
    let lock = |version: &str| {
        let text = format!("[[package]]\nname = \"django\"\nversion = \"{version}\"\n");
        project.write("lock", &text);
    };
    lock("5.1.1");
    outcome(&project, "miss");
    lock("5.1.2");
    outcome(&project, "hit");
    lock("5.2.0");
    explain(&project).success().stdout_has("    `5.1` -> `5.2`\n");
    let answer = explain(&project).arg("--json").success().json();
    let texts: &Value = &answer["against"]["difference"]["texts"][0];
    assert_eq!((&texts["old"], &texts["new"]), (&json!(["5.1"]), &json!(["5.2"])));
    outcome(&project, "miss");
}

#[test]
fn a_local_file_that_is_named_counts_although_it_is_ignored() {
    let project = Project::with_migrations(server());
    project.append_config("inputs = [\"local.cfg\"]");
    project.write(".gitignore", "local.cfg\n");
    project.write("local.cfg", "one");
    outcome(&project, "miss");
    outcome(&project, "hit");
    project.write("local.cfg", "two");
    outcome(&project, "miss");
    explain(&project).success().lacks("hidden by .gitignore");
}

#[test]
fn definitions_share_what_the_defaults_say() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml").replace(
        "[template.app]",
        "[template.app]\n\n[template.other]\nbuild = \"sh migrate.sh #\"\n\n[defaults]",
    );
    project.write("pgstencil.toml", &config);
    for name in ["app", "other"] {
        Pgstencil::new(&project).args(["ensure", "-t", name]).success();
    }
    assert_eq!(project.builds(), 2);
    let shown = Pgstencil::new(&project).args(["config", "show"]).success();
    shown.stdout_has("build = \"sh migrate.sh #\"").stdout_has("build = \"sh migrate.sh\"\n");
    shown.lacks("[defaults]");
}

#[test]
fn line_endings_are_told_from_other_changes() {
    let project = Project::extending(server(), KEEP);
    outcome(&project, "miss");
    let path = "migrations/0001_users.sql";
    project.write(path, &project.read(path).replace('\n', "\r\n"));
    explain(&project)
        .success()
        .stdout_has("migration `migrations/0001_users.sql` was changed (line endings only)\n")
        .stdout_has("  migration changed: migrations/0001_users.sql (line endings only)\n")
        .stdout_has("eol=lf");
    let answer = explain(&project).arg("--json").success().json();
    assert_eq!(answer["against"]["difference"]["migrations"]["line_ends"], json!([path]));
}

#[test]
fn a_role_that_an_earlier_build_made_gets_a_hint() {
    let role = Role::new(server());
    let project = Project::with_migrations(server());
    project
        .build(&Build::Script(format!("migrate; sql -d \"$DATABASE_URL\" -c 'create role {}'", role.name)));
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(4)
        .stderr_has("already exists")
        .stderr_has("create the role only if it is missing")
        .stderr_has("`serial_builds = true` in [template.app]");
}
