//! The config on the command line, and passwords: nowhere but in the answer.

use std::fs;
use std::time::Duration;

use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, Role, eventually, server};

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

#[test]
fn the_config_is_found_upwards_or_named() {
    let project = Project::with_migrations(server());
    project.write("src/deep/er/file", "");
    let below = project.path().join("src/deep/er");
    pgstencil(&project, &["ensure"]).current_dir(&below).success();
    pgstencil(&project, &["run", "--", "pwd"])
        .current_dir(&below)
        .success()
        .stdout(&format!("{}\n", below.display()))
        .stderr_has("hit");
    assert_eq!(project.builds(), 1);

    let file = project.path().join("pgstencil.toml");
    let elsewhere = project.home();
    pgstencil(&project, &["ensure", "--config"])
        .arg(&file)
        .current_dir(&elsewhere)
        .success()
        .stderr_has("hit");
    pgstencil(&project, &["ensure"])
        .env("PGSTENCIL_CONFIG", &file)
        .current_dir(&elsewhere)
        .success()
        .stderr_has("hit");
    // The option wins.
    pgstencil(&project, &["ensure", "--config"])
        .arg(&file)
        .env("PGSTENCIL_CONFIG", "/nonexistent/pgstencil.toml")
        .success();
    pgstencil(&project, &["ensure"])
        .env("PGSTENCIL_CONFIG", "/nonexistent/pgstencil.toml")
        .fails(2)
        .stderr_has("/nonexistent/pgstencil.toml");
}

#[test]
fn root_moves_the_root_of_globs_and_commands() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml");
    project.write("ci/pgstencil.toml", &format!("root = \"..\"\n{config}"));
    fs::remove_file(project.path().join("pgstencil.toml")).unwrap();
    let folder = project.path().join("ci");
    pgstencil(&project, &["ensure"]).current_dir(&folder).success();
    assert_eq!(project.builds(), 1);
    project.write("ci/pgstencil.toml", &format!("root = \"nowhere\"\n{config}"));
    pgstencil(&project, &["ensure"]).current_dir(&folder).fails(2).stderr_has("nowhere");
}

#[test]
fn without_a_config_there_is_one_to_paste() {
    let project = Project::with_migrations(server());
    fs::remove_file(project.path().join("pgstencil.toml")).unwrap();
    for command in [&["ensure"][..], &["clone"], &["run", "--", "true"], &["config", "show"]] {
        pgstencil(&project, command)
            .fails(2)
            .stdout("")
            .stderr_has("no `pgstencil.toml` here or in a directory above")
            .stderr_has("[template.");
    }
    // What the hint says can be pasted as it stands.
    let shown = pgstencil(&project, &["ensure"]).fails(2).stderr;
    let start = shown.find("put this into `pgstencil.toml`:\n").unwrap();
    let pasted = shown[start..].split_once('\n').unwrap().1;
    project.write("pgstencil.toml", pasted);
    pgstencil(&project, &["config", "show"]).success();
    // A directory without a config is enough where no definition is needed.
    fs::remove_file(project.path().join("pgstencil.toml")).unwrap();
    pgstencil(&project, &["release", "no-such-clone"]).fails(6).stderr_has("no-such-clone");
}

#[test]
fn which_template_is_asked_if_there_are_several() {
    let project = Project::with_migrations(server());
    project.append_config("[template.other]\nmigrations = [\"migrations/*.sql\"]\nbuild = \"sh migrate.sh\"");
    for command in [&["ensure"][..], &["clone"], &["run", "--", "true"]] {
        pgstencil(&project, command).fails(2).stderr_has("app").stderr_has("other").stderr_has("-t");
    }
    pgstencil(&project, &["ensure", "-t", "othr"]).fails(2).stderr_has("othr").stderr_has("`other`");
    pgstencil(&project, &["ensure", "-t", "other"]).success();
    pgstencil(&project, &["run", "--template", "app", "--", "true"]).success();
    assert_eq!(project.builds(), 2);
    project.append_config("migrationz = []");
    pgstencil(&project, &["ensure", "-t", "app"]).fails(2).stderr_has("did you mean `migrations`?");
}

#[test]
fn the_server_url_may_come_from_a_variable() {
    let role = Role::new(server());
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml");
    let with_url = |url: &str| {
        let line = format!("[server]\nurl = \"{url}\"\n");
        project.write("pgstencil.toml", &config.replace("[server]\n", &line));
    };
    let run = |args: &[&str]| pgstencil(&project, args).env_remove("PGSTENCIL_SERVER_URL");
    with_url("env:MY_DATABASE");
    run(&["ensure"])
        .fails(2)
        .stderr_has("`MY_DATABASE` is not set")
        .stderr_has("pgstencil.toml")
        .stderr_has("--server-url");
    run(&["ensure"]).env("MY_DATABASE", "").fails(2).stderr_has("MY_DATABASE");
    run(&["ensure"])
        .env("MY_DATABASE", "postgres://u:s3cret@h:x/d")
        .fails(2)
        .stderr_has("MY_DATABASE")
        .lacks("s3cret");
    run(&["ensure"]).env("MY_DATABASE", role.url("postgres")).success();
    run(&["config", "show"]).success().stdout_has("env:MY_DATABASE");

    // The option wins over the variable, and that over the file.
    with_url("postgresql://u:s3cret@127.0.0.1:1/postgres?password=s3cret2");
    for args in [&["config", "show"][..], &["config", "show", "--json"], &["ensure", "-v"]] {
        run(args).run().lacks("s3cret");
    }
    run(&["config", "show"]).success().stdout_has("127.0.0.1:1");
    run(&["ensure"]).fails(3).stderr_has("127.0.0.1:1");
    run(&["ensure"]).env("PGSTENCIL_SERVER_URL", role.url("postgres")).success();
    run(&["ensure", "--server-url"])
        .arg(role.url("postgres"))
        .env("PGSTENCIL_SERVER_URL", "postgresql://u@127.0.0.1:2/postgres")
        .success();
}

/// Every row of every table of the registry, and every comment of a database, as text.
fn all_rows(project: &Project<'_>) -> String {
    let registry = project.registry();
    let tables = server().psql(
        &registry,
        "select format('select to_jsonb(t)::text from %I.%I t', schemaname, tablename) from pg_tables
         where schemaname = 'pgstencil'",
    );
    let mut text = String::new();
    for query in tables.lines() {
        text += &server().psql(&registry, query);
    }
    text + &server().psql("postgres", "select description from pg_shdescription")
}

/// The command lines of all processes but psql's: the build of these projects hands it a URL.
fn command_lines() -> Vec<(i32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).into_owned()))
                .filter(|(_, line)| !line.contains("psql\0"))
        })
        .collect()
}

#[test]
fn the_password_is_nowhere_but_in_the_answer() {
    const MARKED: &str = "S3cret:w/rd%&Öx";
    const ENCODED: &str = "S3cret%3Aw%2Frd%25%26%C3%96x";
    let role = Role::with(server(), "createdb", MARKED);
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    assert!(project.server_url().contains(ENCODED));
    project.append_config(
        "after_clone = \"echo after $PGPASSWORD $DATABASE_URL; test ! -e fail\"\n\
         env_inputs = [\"PGPASSWORD\", \"PGSTENCIL_SERVER_URL\"]\n[template.app.env]\nMINE = \"{url}\"\n\
         [clone]\norphan_grace = \"100ms\"",
    );
    let clean = |text: &str, what: &str| {
        for secret in [MARKED, ENCODED, "S3cret"] {
            assert!(!text.contains(secret), "{secret} in {what}:\n{text}");
        }
    };
    // Returns how many background processes there were.
    let look_at_processes = || {
        let mut seen = 0;
        for (pid, line) in command_lines() {
            if line.contains("pgstencil\0background") {
                seen += 1;
                let env = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                clean(&String::from_utf8_lossy(&env), "a background process");
            }
            assert!(!line.contains("S3cret"), "process {pid}: {line}");
        }
        seen
    };
    let noisy = "echo plain $PGPASSWORD; echo url $DATABASE_URL >&2; echo mine $MINE\n";

    // Failures first: of the build, of after_clone, of the name, of the right.
    project.build(&Build::Script(format!("{noisy}exit 3")));
    for flags in [&["ensure", "-v"][..], &["ensure", "-vv"], &["ensure"], &["clone", "--json"]] {
        let output = pgstencil(&project, flags).fails(4);
        clean(&output.to_string(), "a failed build");
    }
    project.build(&Build::Script(format!("{noisy}migrate\n{noisy}")));
    project.write("fail", "");
    for flags in [&["clone", "-vv"][..], &["run", "--json", "--", "true"]] {
        let output = pgstencil(&project, flags).fails(4);
        clean(&output.to_string(), "a failed after_clone");
    }
    fs::remove_file(project.path().join("fail")).unwrap();
    for args in [
        &["ensure", "-v"][..],
        &["ensure", "--json", "-v"],
        &["list"],
        &["list", "--json"],
        &["release", "nothing"],
        &["release", "nothing", "--json"],
        &["config", "show", "-v"],
        &["run", "-vv", "--", "true"],
        &["run", "--", "false"],
        &["run", "--", "/nonexistent"],
        &["clone", "--name", "postgres"],
        &["clone", "--name", "{branch}-{nonsense}"],
        &["ensure", "-t", "nothing"],
    ] {
        let output = pgstencil(&project, args).run();
        clean(&output.to_string(), "the output");
    }
    let answer = pgstencil(&project, &["clone", "-vv"]).success();
    assert!(answer.line().contains(ENCODED));
    clean(&answer.stderr, "the words beside an answer");
    clean(&all_rows(&project), "the registry");

    // While it builds slowly, and while what it left behind works.
    project.build(&Build::Script(format!("{noisy}sleep 2.5\nmigrate")));
    project.add_migration("0003_more", "create table more (id int);");
    let mut running = pgstencil(&project, &["run", "--", "sleep", "1"]).spawn();
    let (mut looks, mut seen) = (0, 0);
    while !running.wait_timeout(Duration::from_millis(50)) {
        looks += 1;
        seen += look_at_processes();
        let sessions = server().psql(
            "postgres",
            &format!("select query, application_name from pg_stat_activity where usename = '{}'", role.name),
        );
        clean(&sessions, "pg_stat_activity");
        clean(&all_rows(&project), "the registry during a build");
    }
    assert!(looks > 0);
    clean(&running.wait().to_string(), "the output of a slow run");
    // One goes on behind each run, for a moment. Those of other tests are looked at, too.
    let met = eventually(PATIENCE, || {
        pgstencil(&project, &["run", "--", "true"]).success();
        eventually(Duration::from_millis(200), || {
            seen += look_at_processes();
            seen > 0
        })
    });
    assert!(met, "no background process was seen");
}
