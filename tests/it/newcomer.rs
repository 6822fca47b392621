//! What a newcomer types, and what they are told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::role::Role;
use crate::support::{Build, Pgstencil, Project, server};

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

#[test]
fn a_command_needs_no_dashes_before_it() {
    let project = Project::with_migrations(server());
    let print = r#"printf '[%s]' "$@"; psql -XAtc 'select count(*) from users'"#;
    project.write("run-tests", &format!("#!/bin/sh\n{print}\n"));
    let script = project.path().join("run-tests");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    for (args, given) in [
        (&["run", "./run-tests"][..], ""),
        (&["run", "--", "./run-tests"], ""),
        // All behind the first word is the command's, also what pgstencil knows.
        (&["run", "-q", "./run-tests", "-q", "--json", "a b"], "[-q][--json][a b]"),
        (&["run", "--clones", "1", "./run-tests", "--clones", "x"], "[--clones][x]"),
        (&["run", "--", "./run-tests", "--", "--help"], "[--][--help]"),
        (&["run", "./run-tests", "--", "-V"], "[--][-V]"),
        (&["run", "./run-tests", "run", "--keep"], "[run][--keep]"),
    ] {
        let given = if given.is_empty() { "[]" } else { given };
        pgstencil(&project, args).success().stdout(&format!("{given}1\n"));
    }
    // An option of ours that is mistyped is not taken for the command.
    pgstencil(&project, &["run", "--clone", "1", "./run-tests"]).fails(2).stderr_has("'--clones'");
}

#[test]
fn a_string_without_quotes_is_told_as_that() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml");
    for (value, quoted) in [
        ("./migrate.sh", r#"build = "./migrate.sh""#),
        ("sh migrate.sh # all", r#"build = "sh migrate.sh""#),
        ("1.2.3", r#"build = "1.2.3""#),
        ("python -c \"x = 1\"", r#"build = 'python -c "x = 1"'"#),
    ] {
        let text = config.replace("\"sh migrate.sh\"", value);
        project.write("pgstencil.toml", &text);
        pgstencil(&project, &["ensure"])
            .fails(2)
            .stderr_has("the value of `build` is not in quotes")
            .stderr_has(&format!("hint: put strings in quotes: `{quoted}`"));
    }
    let text = config.replace("[\"migrations/*.sql\"]", "[migrations/*.sql, 'x']");
    project.write("pgstencil.toml", &text);
    pgstencil(&project, &["ensure"]).fails(2).stderr_has(r#"`migrations = ["migrations/*.sql", 'x']`"#);
}

#[test]
fn mistyped_names_are_guessed() {
    let project = Project::with_migrations(server());
    let name = format!("branch_{}", project.id);
    pgstencil(&project, &["clone", "--name", &name]).success();
    let typed = name.replace("branch", "brnach");
    pgstencil(&project, &["release", &typed]).fails(6).stderr_has(&format!("hint: did you mean `{name}`?"));
    for (typed, meant) in [("releas", "release"), ("build", "ensure"), ("ls", "list")] {
        pgstencil(&project, &[typed]).fails(2).stderr_has(&format!("'{meant}'"));
    }
    let config = project.read("pgstencil.toml");
    for (glob, meant) in
        [("migratons/*.sql", "migrations/*.sql"), ("**/migratoins/*.sql", "**/migrations/*.sql")]
    {
        project.write("pgstencil.toml", &config.replace("migrations/*.sql", glob));
        pgstencil(&project, &["ensure"]).fails(2).stderr_has(&format!("hint: did you mean `{meant}`?"));
    }
}

#[test]
fn a_wrong_password_and_none_are_told_apart() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    let place = format!("{}:{}", server().host(), server().port());
    project.connect_to(format!("postgresql://{}@{place}/postgres", role.name));
    let refused = format!("refuses role `{}`: ", role.name);
    let none = pgstencil(&project, &["clone"]).fails(3);
    none.stderr_has(&format!("{refused}it requires a password, and none was given"))
        .stderr_has("set PGPASSWORD");
    pgstencil(&project, &["clone"])
        .env("PGPASSWORD", "s3cret")
        .fails(3)
        .stderr_has(&format!("{refused}the password is wrong"))
        .stderr_has("the password comes from PGPASSWORD")
        .lacks("s3cret");
    project.connect_to(format!("postgresql://{}:s3cret@{place}/postgres", role.name));
    pgstencil(&project, &["clone"])
        .fails(3)
        .stderr_has("the password comes from the server URL")
        .lacks("s3cret");
}

#[test]
fn a_test_runner_that_stops_at_its_clone_is_explained() {
    let project = Project::with_migrations(server());
    // As Django does it: it asks, and has nobody to answer.
    project.write(
        "manage.py",
        "#!/bin/sh\ncase $* in *--keepdb*) exit 1;; esac\necho \"Type 'yes' if you would like to try deleting\"\n\
         read answer || { echo 'EOFError: EOF when reading a line' >&2; exit 1; }\n",
    );
    project.write("run-tests", "#!/bin/sh\nset -e\n./manage.py test --parallel 2\n");
    for script in ["manage.py", "run-tests"] {
        let path = project.path().join(script);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for command in [&["./manage.py", "test"][..], &["./run-tests"]] {
        let failed = pgstencil(&project, &["run"]).args(command).fails(1);
        let (before, after) = failed.stderr.split_once("EOFError").unwrap();
        assert!(!before.contains("warning:"), "{failed}");
        assert_eq!(after.matches("warning:").count(), 1, "{failed}");
        assert!(after.contains("add `--keepdb`"), "{failed}");
    }
    let other = pgstencil(&project, &["run", "./manage.py", "test", "--keepdb"]).fails(1);
    other.lacks("warning:");
    pgstencil(&project, &["run", "createdb"])
        .fails(1)
        .stderr_has("warning: `createdb` fails if the database exists");
}

#[test]
fn a_second_release_says_that_it_is_the_second() {
    let project = Project::with_migrations(server());
    let mut said = String::new();
    // As between a release and the drop in the background, which may be quicker.
    let told = (0..5).any(|n| {
        let name = format!("twice_{}_{n}", project.id);
        pgstencil(&project, &["clone", "--name", &name]).success();
        let mark = "update pgstencil.clone set state = 'released' where state = 'leased'";
        server().psql(&project.registry(), mark);
        let again = pgstencil(&project, &["release", &name]).run();
        said = again.to_string();
        again.stderr.contains(&format!("already released: {name}\n"))
    });
    assert!(told, "{said}");
}

#[test]
fn who_waited_for_a_build_is_told_how_long() {
    let project = Project::with_migrations(server());
    project.build(&Build::Gate);
    let builder = pgstencil(&project, &["ensure", "--json"]).spawn();
    builder.wait_for_text("building template");
    let waiter = pgstencil(&project, &["clone", "--json"]).spawn();
    waiter.wait_for_text("waiting for");
    project.write("go", "");
    let built = builder.wait();
    assert!(built.json()["waited_ms"].is_null(), "{built}");
    let waited = waiter.wait();
    waited.code(0);
    let answer = waited.json();
    assert_eq!(answer["outcome"], "hit");
    let ms = |value: &serde_json::Value| value.as_f64().unwrap();
    assert!(ms(&answer["waited_ms"]) > 0.0, "{waited}");
    assert!(ms(&answer["waited_ms"]) <= ms(&answer["timing_ms"]["template"]), "{waited}");
    waited.stderr_has(" of it waiting for another build");
}

#[test]
fn durations_read_as_they_are_written() {
    let project = Project::with_migrations(server());
    project.append_config("build_timeout = \"90m\"\n[eviction]\nmax_idle = \"14d\"\n[clone]\nttl = \"7d\"");
    let shown = pgstencil(&project, &["config", "show"]).success();
    for line in ["build_timeout = \"1h 30m\"", "max_idle = \"14d\"", "ttl = \"7d\"", "orphan_grace = \"2m\""]
    {
        shown.stdout_has(line);
    }
}

#[test]
fn a_clone_that_was_there_is_named_by_its_own_fingerprint() {
    let project = Project::with_migrations(server());
    let name = format!("again_{}", project.id);
    let clone = || {
        pgstencil(&project, &["clone", "--name", &name])
            .env("GITHUB_STEP_SUMMARY", project.path().join("summary"))
    };
    clone().success();
    let old = pgstencil(&project, &["ensure"]).success().line()[..12].to_owned();
    project.add_migration("0003_more", "create table more (id int);");
    let new = pgstencil(&project, &["ensure"]).success().line()[..12].to_owned();
    clone().success().stderr_has(&format!("reused app ({old}; the files are {new})"));
    let summary = project.read("summary");
    let line = summary.lines().last().unwrap();
    assert!(line.contains(&format!("reused (`{old}`)")), "{summary}");
}

#[test]
fn with_json_a_wrong_command_line_is_an_object_too() {
    let project = Project::with_migrations(server());
    for (args, message) in [
        (&["--json", "clone", "--bogus"][..], "unexpected argument '--bogus' found"),
        (&["clone", "--clones", "0", "--json"], "invalid value '0' for '--clones <N>'"),
        (&["--json", "releas"], "unrecognized subcommand 'releas'"),
    ] {
        let failed = pgstencil(&project, args).fails(2);
        let object: serde_json::Value = serde_json::from_str(&failed.stderr).unwrap();
        assert_eq!(object["version"], 1);
        assert_eq!(object["error"]["kind"], "usage", "{failed}");
        let said = object["error"]["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{failed}");
    }
    let hints = pgstencil(&project, &["--json", "releas"]).fails(2);
    hints.stderr_has("'release'");
    // It is the command's there.
    let words = pgstencil(&project, &["run", "--bogus", "--", "x", "--json"]).fails(2);
    words.stderr_has("error: ");
    let help = pgstencil(&project, &["--json", "clone", "--help"]).success();
    help.stdout_has("Usage: ");
    let shown = pgstencil(&project, &["config", "show", "--json"]).success();
    assert_eq!(shown.json()["version"], 1);
}

#[test]
fn a_time_to_live_of_nothing_is_told_as_that() {
    let project = Project::with_migrations(server());
    for (ttl, why) in
        [("0s", "must be longer than zero"), ("11y", "is more than ten years"), ("soon", "is not a duration")]
    {
        pgstencil(&project, &["clone", "--ttl", ttl]).fails(2).stderr_has(&format!("`--ttl {ttl}` {why}"));
    }
}
