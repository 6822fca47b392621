//! What decides the template, what changed, and what a command would do; and nothing is written.

use serde_json::{Value, json};

use crate::support::extension::KEEP;
use crate::support::{Build, Pgstencil, Project, server};

fn explain(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).arg("explain").args(args)
}

fn now(project: &Project<'_>) -> Value {
    explain(project, &["--json"]).success().json()["now"].clone()
}

fn ensure(project: &Project<'_>) -> String {
    Pgstencil::new(project)
        .arg("ensure")
        .success()
        .line()
        .to_owned()
}

#[test]
fn without_a_registry_it_makes_none() {
    let project = Project::extending(server(), KEEP);
    assert_eq!(
        now(&project),
        json!({"what": "build", "why": "there is no template of this definition yet"})
    );
    explain(&project, &[])
        .success()
        .stdout_has("a command now would build from nothing: not known yet\n")
        .stdout_has("  migrations    2 files, ");
    assert!(!server().has_database(&project.registry()));
    explain(&project, &["--against", "ab"]).fails(6);
}

#[test]
fn it_says_what_a_command_then_does_and_writes_nothing() {
    let project = Project::extending(server(), KEEP);
    let first = ensure(&project);
    let tables = ["meta", "template", "clone", "database", "event"];
    let dump = || {
        tables.map(|t| {
            server().psql(
                &project.registry(),
                &format!("select x from pgstencil.{t} x order by 1"),
            )
        })
    };
    let before = dump();
    assert_eq!(now(&project), json!({"what": "hit", "provisional": false}));
    project.add_migration("0003_items", "create table items ();");
    assert_eq!(
        now(&project),
        json!({"what": "extend", "base": first, "added": ["migrations/0003_items.sql"]})
    );
    let output = explain(&project, &[]).success();
    let short = &first[..12];
    output
        .stdout_has(&format!("a command now would extend {short} by one migration: not known yet (a build from nothing: about "))
        .stdout_has(&format!("against template {short}, last used "))
        .stdout_has("  migration added: migrations/0003_items.sql\n");
    let answer = explain(&project, &["--json"]).success().json();
    assert_eq!(answer["inputs"]["migrations"].as_array().unwrap().len(), 3);
    assert_eq!(answer["against"]["fingerprint"], first);
    assert_eq!(
        answer["against"]["difference"]["migrations"],
        json!({"added": ["migrations/0003_items.sql"], "changed": [], "removed": []})
    );
    assert!(answer["costs_ms"]["build"].as_f64().unwrap() > 0.0);
    assert_eq!(dump(), before, "explain wrote");
    let fingerprint = ensure(&project);
    assert_eq!(answer["fingerprint"], fingerprint);
}

#[test]
fn an_edited_migration_is_named_as_the_reason() {
    let project = Project::extending(server(), KEEP);
    let first = ensure(&project);
    project.append("migrations/0001_users.sql", "-- edited\n");
    let short = &first[..12];
    assert_eq!(
        now(&project),
        json!({"what": "build", "why": format!("{short}: migration `migrations/0001_users.sql` was changed")})
    );
    explain(&project, &[])
        .success()
        .stdout_has("nothing can be extended: ")
        .stdout_has("  migration changed: migrations/0001_users.sql\n");
}

#[test]
fn variables_lines_and_the_build_command_are_told_without_values() {
    let project = Project::extending(
        server(),
        "after_extend = \"keep\"\nenv_inputs = [\"PGST_TOKEN\"]\n\
         input_lines = [{ file = \"lock\", match = \"^tool==\" }]",
    );
    project.write("lock", "tool==1\nother==1\n");
    Pgstencil::new(&project)
        .arg("ensure")
        .env("PGST_TOKEN", "s3cr3t-1")
        .success();
    project.write("lock", "tool==2\nother==1\n");
    let config = project
        .read("pgstencil.toml")
        .replace("sh migrate.sh", "sh ./migrate.sh");
    project.write("pgstencil.toml", &config);
    let output = explain(&project, &["-v"])
        .env("PGST_TOKEN", "s3cr3t-2")
        .success();
    output
        .stdout_has("  env_inputs    PGST_TOKEN (set)\n")
        .stdout_has("  input_lines   lock /^tool==/: one line\n")
        .stdout_has("  variable differs: PGST_TOKEN\n")
        .stdout_has("  build command: sh migrate.sh -> sh ./migrate.sh\n")
        .stdout_has("  input lines: ")
        .lacks("s3cr3t");
}

#[test]
fn against_takes_any_template_by_its_first_digits() {
    let project = Project::extending(server(), KEEP);
    let first = ensure(&project);
    project.add_migration("0003_items", "create table items ();");
    ensure(&project);
    let answer = explain(&project, &["--json", "--against", &first[..6]])
        .success()
        .json();
    assert_eq!(answer["now"]["what"], "hit");
    assert_eq!(answer["against"]["fingerprint"], first);
    explain(&project, &["--against", "0000000000000000"])
        .fails(6)
        .stderr_has("no other template of this definition begins with");
    // All begin with nothing.
    project.add_migration("0004_more", "create table more ();");
    explain(&project, &["--against", ""])
        .fails(2)
        .stderr_has(&first);
}

#[test]
fn provisional_stale_and_building_are_told() {
    let project = Project::extending(server(), "stale_after = \"7d\"");
    ensure(&project);
    project.add_migration("0003_items", "create table items ();");
    project.build(&Build::Script(
        "migrate; if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then exit 7; fi".into(),
    ));
    ensure(&project);
    let failed = crate::support::eventually(std::time::Duration::from_secs(30), || {
        now(&project)["settle_failure"].is_string()
    });
    assert!(failed);
    assert_eq!(now(&project)["provisional"], true);
    explain(&project, &[])
        .success()
        .stdout_has("is provisional until")
        .stdout_has("the last attempt at that failed: ");
    let registry = project.registry();
    server().psql(
        &registry,
        "update pgstencil.template set fresh_at = fresh_at - interval '8 days'",
    );
    let answer = explain(&project, &["--json"]).success().json();
    assert_eq!(answer["now"]["what"], "build");
    assert!(
        answer["unusable"]
            .as_str()
            .unwrap()
            .contains("`stale_after` is 7d")
    );
    project.build(&Build::Script("migrate; echo nearly there; sleep 4".into()));
    let builder = Pgstencil::new(&project).arg("ensure").spawn();
    let waits = crate::support::eventually(std::time::Duration::from_secs(20), || {
        let now = now(&project);
        now["what"] == "wait" && now["tail"] == "nearly there"
    });
    assert!(waits, "{}", now(&project));
    explain(&project, &[])
        .success()
        .stdout_has("would wait for pid ");
    builder.wait().code(0);
}
