//! A new migration that fails: what is shown, and how often everything is built from nothing for it.

use crate::support::cli::Output;
use crate::support::extension::{KEEP, ensure, items, outcome, registry, templates};
use crate::support::{Build, Pgstencil, Project, server};

/// A template, and a new migration that no build gets by.
fn broken() -> Project<'static> {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    items(&project);
    project.build(&Build::Fail);
    project
}

#[track_caller]
fn fails(project: &Project<'_>, args: &[&str], builds: usize) -> Output {
    let before = project.builds();
    let output = Pgstencil::new(project).args(args).fails(4);
    assert_eq!(project.builds() - before, builds, "{output}");
    output.stderr_has("migration 7 is broken");
    output
}

#[test]
fn the_output_of_a_failed_extension_is_shown_before_all_is_built_from_nothing() {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    items(&project);
    project.build(&Build::Script(
        "[ \"$PGSTENCIL_OUTCOME\" = extended ] || exec sleep 300; echo 'migration 3 is broken'; exit 3"
            .into(),
    ));
    let running = Pgstencil::new(&project).arg("ensure").spawn();
    running.wait_for_text("  command: sh migrate.sh\n  last output:\n    migration 3 is broken\n");
}

#[test]
fn what_failed_twice_is_not_built_from_nothing_again_and_again() {
    let project = broken();
    fails(&project, &["ensure"], 2);
    let second = fails(&project, &["ensure"], 1);
    second
        .stderr_has("error: the build command of `app` failed (exit code 3")
        .stderr_has("no full build follows, since one with the same new files failed ")
        .stderr_has("hint: run a full build nevertheless: `--full-build`");
    // Whatever it contains by now; in all three commands.
    project.append("migrations/0003_items.sql", "-- mended?\n");
    fails(&project, &["clone"], 1);
    fails(&project, &["run", "--", "true"], 1);
    for command in
        [&["ensure", "--full-build"][..], &["clone", "--full-build"], &["run", "--full-build", "--", "true"]]
    {
        let insisted = fails(&project, command, 1);
        insisted.stderr_has("building template app");
    }
    // After an hour it is worth another try.
    registry(&project, "update pgstencil.failure set at = at - interval '61 minutes'");
    fails(&project, &["ensure"], 2);
    fails(&project, &["ensure"], 1);
    assert_eq!(templates(&project).len(), 1);
    project.build(&Build::Migrate);
    outcome(&project, "extended");
    assert_eq!(registry(&project, "select count(*) from pgstencil.failure"), "0");
}

#[test]
fn other_files_and_other_people_get_their_own_try() {
    let project = broken();
    fails(&project, &["ensure"], 2);
    let before = project.builds();
    for expected in [2, 3] {
        Pgstencil::new(&project).arg("ensure").env("PGSTENCIL_OWNER", "somebody else").fails(4);
        assert_eq!(project.builds() - before, expected);
    }
    project.add_migration("0004_more", "create table more ();");
    fails(&project, &["ensure"], 2);
    fails(&project, &["ensure"], 1);
}

#[test]
fn a_full_build_extends_nothing_and_uses_what_is_there() {
    let project = Project::extending(server(), KEEP);
    ensure(&project);
    items(&project);
    let full = || Pgstencil::new(&project).args(["ensure", "--full-build", "--json"]).success().json();
    assert_eq!(full()["outcome"], "miss");
    assert_eq!(full()["outcome"], "hit");
}
