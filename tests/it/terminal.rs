//! What other people wrote reaches no terminal as it is.

use std::fs;

use serde_json::Value;

use crate::support::cli::Output;
use crate::support::server::{PATIENCE, quote_literal};
use crate::support::{Build, Pgstencil, Project, eventually, server};

/// Colours, a new title, a screen that is cleared by a C1 character, a turned direction, and lines that
/// pretend to be pgstencil's own or a command to a CI system.
const EVIL: &str =
    "\x1b[31mEVIL\x1b]0;owned\x07\u{9b}2J\u{202e}gpj\u{2066}\r\nhint: pwned\n::error::pwned\x08\x7f";

/// The same in JSON of Postgres.
fn evil_json() -> String {
    serde_json::to_string(EVIL).unwrap()
}

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

/// Nothing that a terminal would obey.
#[track_caller]
fn obeys_nothing(text: &str, output: &dyn std::fmt::Display) {
    let bad = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if let Some(c) = text.chars().find(|c| bad(*c)) {
        panic!("{c:?} in {text:?}\n{output}");
    }
}

/// The same, and no line that is not pgstencil's own.
#[track_caller]
fn is_clean(text: &str, output: &dyn std::fmt::Display) {
    obeys_nothing(text, output);
    for line in text.lines() {
        let line = line.trim_start();
        assert!(
            !line.starts_with("hint: pwned") && !line.starts_with("::"),
            "{line:?} begins a line\n{output}"
        );
    }
}

#[track_caller]
fn clean(output: &Output) {
    is_clean(&output.stdout, output);
    is_clean(&output.stderr, output);
}

#[test]
fn a_folders_name_is_shown_and_not_obeyed() {
    let project = Project::with_migrations(server());
    let config = project.read("pgstencil.toml");
    let folder = project.home().join(EVIL);
    fs::create_dir_all(folder.join("migrations")).unwrap();
    for file in ["pgstencil.toml", "migrate.sh", "migrations/0001_users.sql"] {
        fs::copy(project.path().join(file), folder.join(file)).unwrap();
    }
    let there = |args: &[&str]| pgstencil(&project, args).current_dir(&folder);
    let name = format!("named_{}", project.id);
    clean(&there(&["clone", "--name", &name, "-v"]).success());
    let list = pgstencil(&project, &["list"]).success();
    list.stdout_has(r"\x1b[31mEVIL\x1b]0;owned\x07\u{9b}2J\u{202e}gpj\u{2066}\r\nhint: pwned\n");
    // JSON holds the name as it is, in escapes.
    let output = pgstencil(&project, &["list", "--json"]).success();
    clean(&output);
    assert!(output.json()["clones"].to_string().contains("EVIL"));
    assert!(output.stdout.contains(r"\u001b[31mEVIL"), "{output}");

    for args in [&["list"][..], &["clone", "--name", &name], &["doctor"], &["evict", "--dry-run"]] {
        clean(&pgstencil(&project, args).run());
    }
    // Errors name the file.
    fs::write(folder.join("pgstencil.toml"), format!("{config}\nbuld = 1")).unwrap();
    clean(&there(&["ensure"]).fails(2));
    clean(&there(&["ensure", "--json"]).fails(2));
    clean(&there(&["config", "show"]).fails(2));
    // What was typed may come from elsewhere, too.
    for args in [
        &["clone", "--name", EVIL][..],
        &["release", EVIL],
        &["ensure", "-t", EVIL],
        &["explain", "--against", EVIL],
        &["list", "--state", EVIL],
        &["evict", EVIL],
        &["--color", "always", EVIL],
        &["list", "--server-url", EVIL],
        &["list", "--config", EVIL],
    ] {
        let output = pgstencil(&project, args).run();
        assert!(!output.status.success(), "{output}");
        clean(&output);
    }
}

#[test]
fn what_others_wrote_into_the_registry_is_not_obeyed() {
    let project = Project::extending(server(), "extend = \"append\"");
    let mine = format!("mine_{}", project.id);
    pgstencil(&project, &["clone", "--name", &mine]).success();
    let sql = |text: &str| server().psql(&project.registry(), text);
    let (evil, json) = (quote_literal(EVIL), quote_literal(&evil_json()));
    let holder = format!(
        "holder || jsonb_build_object('host', {json}::jsonb, 'user', {json}::jsonb, 'label', {json}::jsonb,
         'worktree', {json}::jsonb, 'branch', {json}::jsonb)"
    );
    sql(&format!("update pgstencil.clone set holder = {holder}"));
    sql(&format!(
        "update pgstencil.template set log_tail = {evil}, settle_failure = {evil}, difference = {evil},
         builder = {}",
        holder.replace("holder ||", "builder ||")
    ));
    // Of another project, with a name of its own: rows like those that are there, but for this.
    let add = |table: &str, other: &str| {
        sql(&format!(
            "insert into pgstencil.{table} overriding system value
             select (jsonb_populate_record(t, jsonb_build_object('project', {json}::jsonb,
                 'definition', {json}::jsonb, {other}))).* from pgstencil.{table} t limit 1"
        ));
    };
    let broken =
        format!("'id', 1000000, 'state', 'broken', 'fingerprint', repeat('a', 64), 'reason', {json}::jsonb");
    add("template", &broken);
    let named =
        format!("'id', 'evil', 'template_id', null, 'fingerprint', repeat('b', 64), 'name', {json}::jsonb");
    add("clone", &named);
    add("event", "'id', 1000000, 'outcome', 'hit'");
    project.add_migration("0003_more", "create table more (id int);");
    for args in [&["list"][..], &["stats"]] {
        let output = pgstencil(&project, args).run();
        assert!(output.stdout.contains(r"\x1b[31mEVIL"), "{output}");
    }
    for args in [
        &["list"][..],
        &["list", "--sort", "size"],
        &["stats"],
        &["explain"],
        &["explain", "-v"],
        &["doctor"],
        &["evict", "--dry-run"],
        &["clone", "--name", &mine],
        &["run", "-v", "--name", &mine, "--", "true"],
        &["run", "--", "true"],
        &["pin"],
        &["unpin"],
        &["pin", "aaaa"],
        &["release", "evil"],
        &["release", &mine],
        &["evict", "aaaa"],
        &["evict"],
        &["doctor", "--fix"],
    ] {
        clean(&pgstencil(&project, args).run());
        let json = pgstencil(&project, &[args[0], "--json"]);
        clean(&json.args(&args[1..]).run());
    }
}

#[test]
fn the_output_of_another_build_is_not_obeyed() {
    let project = Project::with_migrations(server());
    let go = project.path().join("go");
    project.write("evil.txt", EVIL);
    project.build(&Build::Script(
        "cat evil.txt; echo; printf '\\033[32mgreen\\033[0m line\\n'
         until [ -e go ]; do sleep 0.05; done; migrate"
            .into(),
    ));
    let builder = pgstencil(&project, &["ensure", "-v"]).spawn();
    let tail = || {
        server().has_database(&project.registry())
            && project.strings_in_registry().iter().any(|text| text.contains("green line"))
    };
    assert!(eventually(PATIENCE, tail), "{}", builder.stderr_so_far());

    let waiting = pgstencil(&project, &["ensure"]).spawn();
    waiting.wait_for_text("its last output:");
    let terminal = pgstencil(&project, &["ensure", "--color", "never"]).on_terminal(200);
    terminal.wait_for("green line");
    clean(&pgstencil(&project, &["explain"]).success());
    clean(&pgstencil(&project, &["list"]).success());
    fs::write(&go, "").unwrap();
    let waiting = waiting.wait();
    clean(waiting.code(0));
    waiting.stderr_has("\n  | ");
    waiting.stderr_has(r"\x1b]0;owned\x07");
    // A live line is drawn with a sequence of our own, and nobody else's.
    let seen = terminal.finish().raw;
    assert!(seen.contains("\r\x1b[2K"), "{seen:?}");
    is_clean(&seen.replace("\r\x1b[2K", "\n").replace("\r\n", "\n"), &seen);

    // With -v the user's own build has its colours.
    builder.wait().code(0).stderr_has("  \x1b[32mgreen\x1b[0m line\n");
}

#[test]
fn what_a_server_says_is_not_obeyed() {
    let project = Project::with_migrations(server());
    let plain = project.read("pgstencil.toml");
    // A database that is not there, named in the URL.
    let role = server().url_as(&server().user(), &server().password(), EVIL);
    clean(&pgstencil(&project, &["list", "--server-url", &role]).run());
    // What a statement raises.
    let raise = format!("do $$ begin raise exception using message = {}; end $$", { quote_literal(EVIL) });
    project.append_config(&format!("[template.app.after_clone_sql]\napp = {}", toml_string(&raise)));
    let failed = pgstencil(&project, &["clone"]).run();
    assert!(failed.stderr.contains("EVIL"), "{failed}");
    clean(&failed);
    clean(&pgstencil(&project, &["clone", "--json"]).run());
    // The tail of a failed build; its colours are taken away, not shown.
    project.write("pgstencil.toml", &plain);
    project.write("evil.txt", EVIL);
    project.add_migration("0003_more", "create table more (id int);");
    project.build(&Build::Script("cat evil.txt; printf '\\n\\033[31mred\\033[0m line\\n'; exit 3".into()));
    let failed = pgstencil(&project, &["ensure"]).fails(4);
    obeys_nothing(&failed.stderr, &failed);
    failed.stderr_has("red line\n");
    // Colours of ours are.
    let failed = pgstencil(&project, &["ensure", "--color", "always"]).fails(4);
    failed.stderr_has("\x1b[1m\x1b[31merror:\x1b[0m");
    let mut shown = failed.stderr.clone();
    for ours in ["\x1b[1m\x1b[31m", "\x1b[36m", "\x1b[0m"] {
        shown = shown.replace(ours, "");
    }
    obeys_nothing(&shown, &failed);
}

/// A string of TOML, whose escapes are those of JSON.
fn toml_string(text: &str) -> String {
    Value::from(text).to_string().replace('\x7f', "\\u007f")
}

#[test]
fn a_printed_url_is_exact() {
    let project = Project::with_migrations(server());
    let query = "?sslmode=disable&application_name=a\x1b[31m\u{202e}\u{9b}b";
    let url = format!("{}{query}", project.server_url());
    let output = pgstencil(&project, &["clone", "--server-url", &url]).success();
    clean(&output);
    let line = output.line();
    assert!(line.ends_with("application_name=a%1B[31m%E2%80%AE%C2%9Bb"), "{line}");
    let again = pgstencil(&project, &["list", "--server-url", line]);
    again.success();
    let json = pgstencil(&project, &["clone", "--json", "--server-url", &url]).success().json();
    let url = json["clone"]["databases"]["app"]["url"].as_str().unwrap();
    assert!(url.ends_with("%1B[31m%E2%80%AE%C2%9Bb"), "{url}");
}
