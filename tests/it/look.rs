//! What a person and a script see: standard output is data, standard error is words.

use serde_json::Value;

use crate::support::cli::Output;
use crate::support::{Build, Pgstencil, Project, server};

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

/// The keys of an object, in order.
#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn set_of_two(project: &Project<'_>) {
    project.append_config("databases = [\"main\", \"side\"]");
}

#[test]
fn clone_prints_one_url_and_nothing_else() {
    let project = Project::with_migrations(server());
    for _ in 0..2 {
        let output = pgstencil(&project, &["clone"]).success();
        let url = output.line();
        assert!(url.starts_with("postgresql://"), "{url}");
    }
    // As scripts use it, with pipes that anybody left behind would hold open.
    let script = Pgstencil::with_program(&project, "sh")
        .args(["-c", "url=$(pgstencil clone) && psql -XAt -d \"$url\" -c 'select name from users'"])
        .success();
    script.stdout("ann\n");
}

#[test]
fn a_set_is_a_line_for_each_role() {
    let project = Project::with_migrations(server());
    set_of_two(&project);
    let output = pgstencil(&project, &["clone", "--clones", "2"]).success();
    let lines: Vec<_> = output.stdout.lines().map(|line| line.split_once('=').unwrap()).collect();
    let roles: Vec<_> = lines.iter().map(|(role, _)| *role).collect();
    assert_eq!(roles, ["main", "side", "main", "side"]);
    for (_, url) in lines {
        let name = url.rsplit_once('/').unwrap().1;
        assert_eq!(server().psql(name, "select count(*) from users"), "1");
    }
}

#[test]
fn json_has_exactly_the_documented_keys() {
    let project = Project::with_migrations(server());
    set_of_two(&project);
    let answer = pgstencil(&project, &["ensure", "--json"]).success().json();
    assert_eq!(keys(&answer), ["fingerprint", "outcome", "provisional", "template", "timing_ms", "version"]);
    assert_eq!(answer["outcome"], "miss");
    let fingerprint = answer["fingerprint"].as_str().unwrap().to_owned();

    let output = pgstencil(&project, &["clone", "--json", "--report", "report.json"]).success();
    assert_eq!(project.read("report.json"), output.stdout);
    let answer = output.json();
    assert_eq!(
        keys(&answer),
        ["clone", "fingerprint", "outcome", "provisional", "template", "timing_ms", "version"]
    );
    assert_eq!(answer["version"], 1);
    assert_eq!(answer["template"], "app");
    assert_eq!(answer["fingerprint"], *fingerprint);
    assert_eq!(answer["outcome"], "hit");
    assert_eq!(keys(&answer["timing_ms"]), ["clone", "fingerprint", "template"]);
    let clone = &answer["clone"];
    assert_eq!(keys(clone), ["databases", "expires_at", "id", "name"]);
    assert_eq!(keys(&clone["databases"]), ["main", "side"]);
    let main = &clone["databases"]["main"];
    assert_eq!(keys(main), ["name", "url"]);
    assert_eq!(main["name"], clone["name"]);
    let (name, url) = (main["name"].as_str().unwrap(), main["url"].as_str().unwrap());
    assert!(url.ends_with(&format!("/{name}")), "{url}");
    let expires = clone["expires_at"].as_str().unwrap();
    assert!(expires.ends_with('Z') && expires.contains('T'), "{expires}");

    let list = pgstencil(&project, &["list", "--json"]).success().json();
    assert_eq!(list["version"], 1);
    let template = &list["templates"][0];
    for key in [
        "project",
        "template",
        "fingerprint",
        "state",
        "bytes",
        "created_at",
        "last_used_at",
        "hits",
        "provisional",
        "added",
        "chain",
    ] {
        assert!(!template[key].is_null(), "{key} in {template}");
    }
    let listed = &list["clones"][0];
    for key in ["id", "name", "template", "fingerprint", "state", "holder", "expires_at"] {
        assert!(!listed[key].is_null(), "{key} in {listed}");
    }
    assert_eq!(listed["state"], "leased");
    // A list is for everybody's eyes.
    assert!(!list.to_string().contains(&server().password()));

    let released = pgstencil(&project, &["release", "--json", name]).success().json();
    assert_eq!(released["released"][0], name);
}

/// The `error` object on standard error.
#[track_caller]
fn error(output: &Output) -> Value {
    output.stdout("");
    let answer: Value = match serde_json::from_str(&output.stderr) {
        Ok(answer) => answer,
        Err(e) => panic!("no JSON on stderr: {e}\n{output}"),
    };
    assert_eq!(keys(&answer), ["error", "version"]);
    assert_eq!(keys(&answer["error"]), ["causes", "details", "hints", "kind", "message"]);
    answer["error"].clone()
}

#[test]
fn errors_have_one_shape_and_a_code_for_each_kind() {
    let project = Project::with_migrations(server());
    let unknown = pgstencil(&project, &["release", "nobody"]).fails(6);
    unknown.stdout("").stderr(
        "error: there is no clone `nobody` in this registry\n\n\
         hint: list the clones: `pgstencil list`\n",
    );
    pgstencil(&project, &["clone", "--wat"]).fails(2).stdout("");
    pgstencil(&project, &["wat"]).fails(2).stdout("");
    pgstencil(&project, &["clone", "-q", "-v"]).fails(2);
    pgstencil(&project, &["clone", "-t", "wat"]).fails(2).stderr_has("definitions: app");
    let nowhere = "postgresql://me:hidden-word@127.0.0.1:9/postgres";
    pgstencil(&project, &["clone", "--server-url", nowhere])
        .fails(3)
        .stderr_has("error: ")
        .stderr_has("127.0.0.1:9")
        .stderr_has("\n  caused by: ")
        .stderr_has("\n\nhint: ")
        .lacks("hidden-word");

    server().psql("postgres", &format!("create database taken_{}", project.id));
    let role = crate::support::Role::with(server(), "nocreatedb", "x");
    let missing = role.url("postgres");
    pgstencil(&project, &["clone", "--server-url", &missing])
        .fails(3)
        .lacks(" at line ")
        .lacks("error returned from database");
    let name = format!("--name=taken_{}", project.id);
    pgstencil(&project, &["clone", &name])
        .fails(7)
        .stderr_has(&format!("error: there is a database `taken_{}` already", project.id))
        .stderr_has("is not a clone of this registry");

    project.append_config("biuld = 'x'");
    pgstencil(&project, &["clone"]).fails(2).stderr_has("biuld").stderr_has("`build`");
}

#[test]
fn errors_are_objects_with_json() {
    let project = Project::with_migrations(server());
    let e = error(&pgstencil(&project, &["--json", "release", "nobody"]).fails(6));
    assert_eq!(e["kind"], "not_found");
    assert_eq!(e["message"], "there is no clone `nobody` in this registry");
    assert_eq!(e["hints"].as_array().unwrap().len(), 1);
    let nowhere = "--server-url=postgresql://me:hidden-word@127.0.0.1:9/postgres";
    let output = pgstencil(&project, &["--json", "clone", nowhere]).fails(3);
    output.lacks("hidden-word");
    let e = error(&output);
    assert_eq!(e["kind"], "connect");
    assert!(!e["causes"].as_array().unwrap().is_empty());
    project.build(&Build::Fail);
    // Words about how it goes are lines before it, unless they are not wanted.
    let e = error(&pgstencil(&project, &["--json", "-q", "clone"]).fails(4));
    assert_eq!(e["kind"], "build");
    let details = e["details"].to_string();
    assert!(details.contains("migration 7 is broken"), "{details}");
}

#[test]
fn quiet_is_silent() {
    let project = Project::with_migrations(server());
    for args in [&["clone", "-q"][..], &["ensure", "-q"], &["list", "-q"]] {
        pgstencil(&project, args).success().stderr("");
    }
    pgstencil(&project, &["run", "-q", "--", "true"]).success().stdout("").stderr("");
    // Warnings need it twice, errors are always told.
    project.add_migration("0003_more", "create table more ()");
    project.build(&Build::Edit(u32::try_from(project.builds()).unwrap() + 1));
    let once = pgstencil(&project, &["ensure", "-q"]).success();
    assert!(
        once.stderr.starts_with("warning: files changed")
            && once.stderr.matches("warning: ").count() == 1
            && !once.stderr.contains("built template"),
        "{once}"
    );
    project.add_migration("0004_more", "create table yet_more ()");
    project.build(&Build::Edit(u32::try_from(project.builds()).unwrap() + 1));
    pgstencil(&project, &["ensure", "-qq"]).success().stderr("");
    pgstencil(&project, &["release", "-qq", "nobody"]).fails(6).stderr_has("error: ");
}

#[test]
fn colour_is_for_terminals_and_for_those_who_ask() {
    let project = Project::with_migrations(server());
    let colour = |args: &[&str], vars: &[(&str, &str)]| {
        let mut command = pgstencil(&project, &["release", "nobody"]).args(args);
        for (name, value) in vars {
            command = command.env(name, value);
        }
        command.fails(6).stderr.contains("\x1b[")
    };
    assert!(!colour(&[], &[]));
    assert!(colour(&["--color", "always"], &[("NO_COLOR", "1")]));
    assert!(colour(&[], &[("FORCE_COLOR", "1")]));
    assert!(!colour(&[], &[("FORCE_COLOR", "1"), ("NO_COLOR", "1")]));
    assert!(!colour(&["--color=never"], &[("FORCE_COLOR", "1")]));
}

/// Runs a shell script with `pgstencil` on its path.
fn shell(project: &Project<'_>, script: &str) -> Output {
    Pgstencil::with_program(project, "sh").args(["-c", script]).run()
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let project = Project::with_migrations(server());
    pgstencil(&project, &["clone"]).success();
    shell(&project, "{ pgstencil list; echo $? >code; } | head -c 0").stderr("");
    assert_eq!(project.read("code"), "0\n");
    shell(&project, "{ pgstencil config schema; echo $? >code; } | head -c 0").stderr("");
    assert_eq!(project.read("code"), "0\n");
    // Nor is a closed standard error, which takes the words away and not the code.
    shell(&project, "pgstencil release nobody 2>&-; echo $? >code");
    assert_eq!(project.read("code"), "6\n");
    shell(&project, "{ pgstencil release nobody; echo $? >code; } 2>&1 | head -c 0");
    assert_eq!(project.read("code"), "6\n");
}

#[test]
fn a_terminal_shows_a_live_line() {
    let project = Project::with_migrations(server());
    project.build(&Build::Slow(std::time::Duration::from_secs(1)));
    let plain = pgstencil(&project, &["ensure"]).success();
    plain.stderr_has("building template app (").lacks("\r").lacks("\x1b");

    if !std::path::Path::new("/usr/bin/script").exists() {
        eprintln!("skipped: no script(1) here to make a terminal");
        return;
    }
    project.add_migration("0003_more", "create table more ()");
    let terminal = Pgstencil::with_program(&project, "script")
        .args(["-qec", "pgstencil ensure", "/dev/null"])
        .env("TERM", "xterm")
        .success();
    terminal
        .stdout_has("\r\x1b[2Kbuilding template app (")
        .stdout_has(" of about ")
        .stdout_has("template app (");
    let lines = terminal.stdout.matches("\r\x1b[2Kbuilding").count();
    assert!(lines > 3, "{terminal}");
}

#[test]
fn man_pages_describe_every_command() {
    let project = Project::new(server());
    let man = |args: &[&str]| pgstencil(&project, &["man"]).args(args);
    man(&[]).success().stdout_has(".TH pgstencil 1").stdout_has("7 name taken");
    man(&["server", "start"]).success().stdout_has("pgstencil\\-server\\-start");
    man(&["serv"]).fails(2).stderr_has("there is no command `serv`");
    let directory = project.path().join("pages/man1");
    man(&["--write", directory.to_str().unwrap()]).success().stdout("");
    let help = pgstencil(&project, &["--help"]).success().stdout;
    let commands = help.lines().skip_while(|line| *line != "Databases:");
    let commands = commands.take_while(|line| *line != "Options:").filter_map(|line| line.strip_prefix("  "));
    let mut pages = 0;
    for command in commands.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help") {
        let page = std::fs::read_to_string(directory.join(format!("pgstencil-{command}.1"))).expect(command);
        assert!(page.contains(".SH NOTES"), "{command}: {page}");
        pages += 1;
    }
    assert!(pages > 20, "{help}");
    assert!(!directory.join("pgstencil-background.1").exists());
}

#[test]
fn help_completions_and_config_need_no_server() {
    let project = Project::with_migrations(server());
    let alone = |args: &[&str]| {
        pgstencil(&project, args).env("PGSTENCIL_SERVER_URL", "postgresql://nobody@127.0.0.1:9/x").success()
    };
    for flag in ["-h", "--help"] {
        let help = alone(&[flag]);
        help.stderr("").stdout_has("Exit codes:").stdout_has("7 name taken");
        assert!(help.stdout.lines().all(|l| l.len() <= 120), "{help}");
    }
    for command in ["run", "clone", "ensure", "release", "list", "server", "config"] {
        alone(&[command, "--help"]).stdout_has("--json");
    }
    let version = alone(&["--version"]);
    let line = version.line();
    let known = line.strip_prefix(concat!("pgstencil ", env!("CARGO_PKG_VERSION")));
    let known = known.unwrap_or_else(|| panic!("{version}"));
    // An archive without git has neither commit nor date.
    assert_eq!(known, commit(), "{version}");
    assert_eq!(alone(&["-V"]).line(), line);
    for sh in ["bash", "zsh", "fish"] {
        // Names of presets are completed, too.
        alone(&["completions", sh]).stdout_has("pgstencil").stdout_has("graphile-migrate");
    }
    let schema = alone(&["config", "schema"]).json();
    assert!(schema["properties"]["template"].is_object());
    let show = alone(&["config", "show"]);
    show.stderr("").stdout_has("build_timeout = \"30m\"");
    // What it shows is a config, with the same effect.
    project.write("pgstencil.toml", &show.stdout);
    assert_eq!(alone(&["config", "show"]).stdout, show.stdout);
    alone(&["config", "show", "--json"]).json();
}

/// What git says of the checkout that this was built from: ` (4d753e8a1b2c 2026-11-26)`.
fn commit() -> String {
    let git = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "log", "-1"])
        .args(["--abbrev=12", "--date=short", "--format= (%h %cd)"])
        .output();
    let text = git.map(|output| String::from_utf8(output.stdout).unwrap());
    text.unwrap_or_default().trim_end().to_owned()
}
