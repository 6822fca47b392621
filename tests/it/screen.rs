//! What goes to a terminal fits it, from 60 columns on, and stays plain elsewhere.

use crate::support::hold::list;
use crate::support::server::PATIENCE;
use crate::support::terminal::{Shown, plain};
use crate::support::{Build, Pgstencil, Project, eventually, server};

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

#[track_caller]
fn shown(project: &Project<'_>, args: &[&str], columns: u16) -> Shown {
    let shown = pgstencil(project, args).on_terminal(columns).finish();
    println!("{} at {columns} columns: {} lines drawn", args.join(" "), shown.rows);
    shown
}

/// A project with two templates, one extended, a leased clone, one for a day and warm ones.
fn lively() -> Project<'static> {
    let project = Project::extending(server(), "extend = \"append\"\nrebuild = \"never\"");
    pgstencil(&project, &["clone"]).success();
    project.add_migration("0003_items", "create table items (id int);");
    let name = format!("a_long_name_of_a_branch_{}", project.id);
    pgstencil(&project, &["clone", "--ttl", "12h", "--name", &name]).success();
    project.append_config("[clone]\nwarm = 3");
    pgstencil(&project, &["clone", "--ttl", "never"]).success();
    let warm = || {
        let listed = list(&project);
        let clones = listed["clones"].as_array().unwrap();
        clones.iter().filter(|c| c["state"] == "warm").count()
    };
    assert!(eventually(PATIENCE, || warm() == 3), "{} warm", warm());
    project
}

#[test]
fn what_goes_to_a_terminal_fits_it() {
    let project = lively();
    project.add_migration("0004_more", "create table more (id int);");
    for columns in [60, 80, 100, 140] {
        for args in [
            &["list"][..],
            &["list", "-v"],
            &["stats"],
            &["explain"],
            &["doctor"],
            &["evict", "--dry-run"],
            &["paths"],
            &["config", "show", "--help"],
            &["release", "no-such-clone"],
        ] {
            let shown = shown(&project, args, columns);
            assert!(
                shown.widest() <= usize::from(columns),
                "{} columns are too wide for {columns}\n{}",
                shown.widest(),
                shown.text
            );
        }
    }
    // What nobody could do without is there at 60, too.
    let list = shown(&project, &["list"], 60);
    println!("{}", list.text);
    for text in ["CLONE", "STATE", "ENDS", "3 warm", "in 12 h", "never"] {
        assert!(list.text.contains(text), "{text}\n{}", list.text);
    }
    let stats = shown(&project, &["stats"], 60);
    for text in ["HITS", "EXTENSIONS", "MISSES", "FAILED", "SAVED"] {
        assert!(stats.text.contains(text), "{text}\n{}", stats.text);
    }
}

#[test]
fn states_have_colour_on_terminals_and_nowhere_else() {
    let project = lively();
    let list = |env: &[(&str, &str)], kind: &str| {
        let command = pgstencil(&project, &["list"]);
        let command = env.iter().fold(command, |c, (name, value)| c.env(name, value));
        command.on_terminal_of(kind, 120).finish().raw
    };
    let coloured = list(&[], "xterm");
    assert!(coloured.contains("\x1b[32mwarm\x1b[0m"), "{coloured}");
    assert!(coloured.contains("\x1b[32mready\x1b[0m"), "{coloured}");
    for plain in [
        list(&[("NO_COLOR", "1")], "xterm"),
        list(&[], "dumb"),
        pgstencil(&project, &["list"]).success().stdout,
        pgstencil(&project, &["stats"]).success().stdout,
        pgstencil(&project, &["doctor"]).run().stdout,
    ] {
        assert!(!plain.contains('\x1b'), "{plain:?}");
    }
    // In a pipe a row is a line, whatever its width.
    let piped = pgstencil(&project, &["list"]).success();
    let name = format!("a_long_name_of_a_branch_{}", project.id);
    let line = piped.stdout.lines().find(|line| line.starts_with(&name));
    assert!(line.is_some_and(|line| line.ends_with("in 12 h")), "{piped}");
    piped.stdout_has("\n3 warm ");
    // With -v each has a line of its own.
    let each = pgstencil(&project, &["list", "-v"]).success();
    assert_eq!(each.stdout.matches("none yet").count(), 3, "{each}");
}

/// A build of ten migrations that prints the name of each, and a long line.
fn talkative(project: &Project<'_>, first: u32, last: u32) {
    for n in first..=last {
        project.add_migration(&format!("{n:04}_table"), &format!("create table t{n} (id int);"));
    }
    project.build(&Build::Script(format!(
        "migrate
         for n in $(seq {first} {last}); do
             printf 'Applying %04d_table.sql, of which there is a lot to say that no terminal has room for\\n' $n
             sleep 0.12
         done
         until [ -e go ] || [ ! -e pgstencil.toml ]; do sleep 0.05; done; rm -f go"
    )));
}

#[test]
fn a_build_and_an_extension_take_one_live_line() {
    for columns in [60, 80, 140] {
        let project = Project::new(server());
        let config = project.read("pgstencil.toml");
        project.write("pgstencil.toml", &config.replace("\"never\"", "\"append\""));
        for (first, last) in [(1, 10), (11, 13)] {
            talkative(&project, first, last);
            let count = last - first + 1;
            let terminal = pgstencil(&project, &["ensure"]).on_terminal(columns);
            terminal.wait_for(&format!("  {count} of {count} migrations"));
            project.write("go", "");
            let shown = terminal.finish();
            assert_eq!(shown.code, Some(0), "{}", shown.text);
            println!("ensure ({count} migrations) at {columns} columns: {} lines drawn", shown.rows);
            assert!(shown.widest() <= columns.into(), "{:?}", shown.raw);
            // The line is gone, and two or three lines that stay are there.
            assert!(shown.rows <= 5, "{} rows\n{}", shown.rows, shown.text);
            assert!(!shown.text.contains(" of 10 migrations"), "{}", shown.text);
            if columns > 60 {
                assert!(shown.raw.contains("  Applying 00"), "{:?}", shown.raw);
            }
        }
    }
}

#[test]
fn the_live_line_follows_the_window() {
    let project = Project::new(server());
    talkative(&project, 1, 3);
    let mut terminal = pgstencil(&project, &["ensure"]).on_terminal(140);
    terminal.wait_for("3 of 3 migrations");
    terminal.resize(60);
    let before = terminal.seen().len();
    let drawn = || terminal.seen()[before..].matches("\r\x1b[2K").count();
    assert!(eventually(PATIENCE, || drawn() > 10), "{}", terminal.seen());
    let seen = terminal.seen();
    // The first may have been under way.
    let lines: Vec<_> = seen[before..].split("\r\x1b[2K").skip(2).collect();
    for line in lines {
        let line = plain(line);
        assert!(line.chars().count() < 60, "{line:?}");
    }
    project.write("go", "");
    terminal.finish();
}
