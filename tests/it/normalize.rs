//! `normalize`: edits of Python migrations that have no effect build nothing.

use serde_json::json;

use crate::support::extension::outcome;
use crate::support::{Build, Pgstencil, Project, server};

const NORMALIZE: &str = "normalize = [{ files = \"migrations/*.py\", as = \"python\" }]";

/// A project with a migration in Python, which its build command does not read.
fn python(keys: &str) -> Project<'static> {
    let project = Project::extending(server(), &format!("rebuild = \"never\"\n{keys}"));
    let config = project.read("pgstencil.toml");
    let config = config.replace("[\"migrations/*.sql\"]", "[\"migrations/*.sql\", \"migrations/*.py\"]");
    project.write("pgstencil.toml", &config);
    project.write("migrations/0000_first.py", "def up():\n    run('create table t ()')\n");
    project
}

fn fingerprint(project: &Project<'_>) -> String {
    Pgstencil::new(project).arg("ensure").success().line().to_owned()
}

#[test]
fn only_an_edit_with_an_effect_builds() {
    let project = python(NORMALIZE);
    let first = fingerprint(&project);
    project.write(
        "migrations/0000_first.py",
        "# The first.\ndef up():\n  \"\"\"Creates it.\"\"\"\n  run(\n    \"create table t ()\",\n  )\n",
    );
    // Black adds a comma where it breaks the line: a token like others.
    outcome(&project, "miss");
    project.write(
        "migrations/0000_first.py",
        "# The first.\ndef up():\n  \"\"\"Creates it.\"\"\"\n  run(\n    \"create table t ()\"\n  )\n",
    );
    assert_eq!(fingerprint(&project), first);
    assert_eq!(project.builds(), 2);
    let explain = |args: &[&str]| Pgstencil::new(&project).arg("explain").args(args).success();
    explain(&[])
        .stdout_has("\none file differs only in bytes from what it was built with:\n")
        .stdout_has("  equal by its normal form, other bytes: migrations/0000_first.py\n")
        .stdout_has("  normalize     one file as python 1: ");
    explain(&["-v"]).stdout_has(" migrations/0000_first.py (as python 1)\n");
    let answer = explain(&["--json"]).json();
    assert_eq!(
        answer["now"],
        json!({"what": "hit", "provisional": false, "cosmetic": ["migrations/0000_first.py"]})
    );
    assert_eq!(answer["inputs"]["migrations"][0]["normal"]["form"], "python 1");
    // A base, and a comparison, count the file as equal, too.
    project.add_migration("0003_items", "create table items ();");
    let extended = explain(&["--json"]).json();
    assert_eq!(extended["now"]["base"], first);
    assert_eq!(
        extended["against"]["difference"]["migrations"]["cosmetic"],
        json!(["migrations/0000_first.py"])
    );
    outcome(&project, "extended");
    Pgstencil::new(&project).arg("verify").success();
    project.write("migrations/0000_first.py", "def up():\n    run('create table u ()')\n");
    explain(&[]).stdout_has("migration `migrations/0000_first.py` was changed");
    outcome(&project, "miss");
}

#[test]
fn without_the_key_and_without_a_form_bytes_count() {
    let project = python("");
    let bytes = fingerprint(&project);
    project.append("migrations/0000_first.py", "# about it\n");
    assert_ne!(fingerprint(&project), bytes);
    // The same files and other keys: the cache of hashes must not mix them up.
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("rebuild =", &format!("{NORMALIZE}\nrebuild =")));
    let normal = fingerprint(&project);
    project.append("migrations/0000_first.py", "# more about it\n");
    assert_eq!(fingerprint(&project), normal);
    project.write("pgstencil.toml", &config);
    let now = fingerprint(&project);
    assert!(now != normal && now != bytes);
    project.write("pgstencil.toml", &config.replace("rebuild =", &format!("{NORMALIZE}\nrebuild =")));
    assert_eq!(fingerprint(&project), normal);
    project.write("migrations/0000_first.py", "def up(:\n");
    let broken = fingerprint(&project);
    project.append("migrations/0000_first.py", "# about it\n");
    assert_ne!(fingerprint(&project), broken);
}

#[test]
fn a_write_during_the_build_counts_whatever_it_changes() {
    let project = python(NORMALIZE);
    project.build(&Build::Script(
        "[ $(wc -l <builds.log) = 1 ] && echo '# by the build' >>migrations/0000_first.py; migrate".into(),
    ));
    Pgstencil::new(&project)
        .arg("ensure")
        .success()
        .stderr_has("files changed during the build, so it starts over")
        .stderr_has("`migrations/0000_first.py` was written to");
    assert_eq!(project.builds(), 2);
    outcome(&project, "hit");
}

#[test]
fn a_glob_without_an_input_file_is_an_error() {
    let project = python("normalize = [{ files = \"other/*.py\", as = \"python\" }]");
    project.write("other/a.py", "");
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(2)
        .stderr_has("`normalize` of template `app`: glob `other/*.py` matches no input file");
}
