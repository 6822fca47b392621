//! What decides the template, what changed, and what a command would do; and nothing is written.

use serde_json::{Value, json};

use crate::support::extension::KEEP;
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, eventually, server};

fn explain(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).arg("explain").args(args)
}

fn now(project: &Project<'_>) -> Value {
    explain(project, &["--json"]).success().json()["now"].clone()
}

fn ensure(project: &Project<'_>) -> String {
    Pgstencil::new(project).arg("ensure").success().line().to_owned()
}

#[test]
fn without_a_registry_it_makes_none() {
    let project = Project::extending(server(), KEEP);
    assert_eq!(now(&project), json!({"what": "build", "why": "there is no template of this definition yet"}));
    explain(&project, &[])
        .success()
        .stdout_has("a command now would run a full build: not known yet\n")
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
        tables
            .map(|t| server().psql(&project.registry(), &format!("select x from pgstencil.{t} x order by 1")))
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
        .stdout_has(&format!(
            "a command now would extend template {short} by one migration: not known yet (a full build: about "
        ))
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
        json!({"what": "build", "why": format!("template {short}: migration `migrations/0001_users.sql` was changed")})
    );
    explain(&project, &[])
        .success()
        .stdout_has("no incremental build is possible: ")
        .stdout_has("  migration changed: migrations/0001_users.sql\n");
}

#[test]
fn variables_lines_and_the_build_command_are_told_without_values() {
    let project = Project::extending(
        server(),
        "rebuild = \"never\"\nenv_inputs = [\"PGST_TOKEN\"]\n\
         input_lines = [{ file = \"lock\", match = \"^tool==\" }]",
    );
    project.write("lock", "tool==1\nother==1\n");
    Pgstencil::new(&project).arg("ensure").env("PGST_TOKEN", "s3cr3t-1").success();
    project.write("lock", "tool==2\nother==1\n");
    let config = project.read("pgstencil.toml").replace("sh migrate.sh", "sh ./migrate.sh");
    project.write("pgstencil.toml", &config);
    let output = explain(&project, &["-v"]).env("PGST_TOKEN", "s3cr3t-2").success();
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
    let answer = explain(&project, &["--json", "--against", &first[..6]]).success().json();
    assert_eq!(answer["now"]["what"], "hit");
    assert_eq!(answer["against"]["fingerprint"], first);
    explain(&project, &["--against", "0000000000000000"])
        .fails(6)
        .stderr_has("no other template of this definition has a fingerprint that begins with");
    // All begin with nothing.
    project.add_migration("0004_more", "create table more ();");
    explain(&project, &["--against", ""]).fails(2).stderr_has(&first);
}

#[test]
fn provisional_stale_and_building_are_told() {
    let project = Project::extending(server(), "rebuild = \"always\"\nstale_after = \"7d\"");
    ensure(&project);
    project.add_migration("0003_items", "create table items ();");
    project.build(&Build::Script("migrate; if [ \"$PGSTENCIL_OUTCOME\" = miss ]; then exit 7; fi".into()));
    ensure(&project);
    let failed = eventually(PATIENCE, || now(&project)["rebuild_failure"].is_string());
    assert!(failed);
    assert_eq!(now(&project)["provisional"], true);
    explain(&project, &[])
        .success()
        .stdout_has("is provisional until")
        .stdout_has("the last full build failed: ");
    let registry = project.registry();
    server().psql(&registry, "update pgstencil.template set fresh_at = fresh_at - interval '8 days'");
    let answer = explain(&project, &["--json"]).success().json();
    assert_eq!(answer["now"]["what"], "build");
    assert!(answer["unusable"].as_str().unwrap().contains("`stale_after` is 7d"));
    project
        .build(&Build::Script("migrate; echo nearly there; while [ ! -e go ]; do sleep 0.05; done".into()));
    let builder = Pgstencil::new(&project).arg("ensure").spawn();
    let waits = eventually(PATIENCE, || {
        let now = now(&project);
        now["what"] == "wait" && now["tail"] == "nearly there"
    });
    assert!(waits, "{}", now(&project));
    explain(&project, &[]).success().stdout_has("would wait for pid ");
    project.write("go", "");
    builder.wait().code(0);
}

#[test]
fn a_serial_build_waits_for_that_of_another_definition_and_says_so() {
    let project = Project::with_migrations(server());
    project
        .build(&Build::Script("migrate; echo nearly there; while [ ! -e go ]; do sleep 0.05; done".into()));
    project.append_config(
        "serial_builds = true\n[template.other]\nmigrations = [\"migrations/*.sql\"]\n\
         build = \"sh migrate.sh\"\nserial_builds = true\n\
         [template.third]\nmigrations = [\"migrations/*.sql\"]\nbuild = \"sh migrate.sh\"",
    );
    let now = |name: &str| explain(&project, &["--json", "-t", name]).success().json()["now"].clone();
    assert_eq!(now("other")["what"], "build");
    let builder = Pgstencil::new(&project).args(["ensure", "-t", "app"]).spawn();
    let waits = eventually(PATIENCE, || {
        let now = now("other");
        now["what"] == "wait" && now["tail"] == "nearly there"
    });
    let other = now("other");
    assert!(waits, "{other}");
    assert_eq!(other["serial"], true);
    assert!(other["builder"].as_str().unwrap().starts_with("the serial build of "), "{other}");
    explain(&project, &["-t", "other"])
        .success()
        .stdout_has("(`serial_builds`)\n")
        .stdout_has("nearly there\n");
    // Its own build is waited for as any other, and a definition without the key waits for none.
    let own = now("app");
    assert_eq!((own["what"].as_str(), own.get("serial")), (Some("wait"), None));
    assert_eq!(now("third")["what"], "build");
    project.write("go", "");
    builder.wait().code(0);
    assert_eq!(now("other")["what"], "build");
}

#[test]
fn all_definitions_are_explained_unless_one_is_named() {
    let project = Project::with_migrations(server());
    project.append_config(
        "[template.other]\nmigrations = [\"migrations/*.sql\"]\nbuild = \"sh migrate.sh\"\nbuild_inputs = false",
    );
    Pgstencil::new(&project).args(["ensure", "-t", "other"]).success();
    let all = explain(&project, &[]).success();
    let parts: Vec<_> = all.stdout.split("[template.").skip(1).collect();
    let [app, other] = parts.as_slice() else {
        panic!("{all}");
    };
    assert!(app.starts_with("app]\na command now would run a full build"), "{all}");
    assert!(other.starts_with("other]\na command now would use the existing template"), "{all}");
    let json = explain(&project, &["--json"]).success().json();
    let names = json["templates"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|t| t["template"].as_str().unwrap()).collect();
    assert_eq!(names, ["app", "other"]);
    let one = explain(&project, &["-t", "other"]).success();
    one.stdout_has("template other, fingerprint ").lacks("[template.");
    assert_eq!(explain(&project, &["-t", "app", "--json"]).success().json()["template"], "app");
    // A template that is named belongs to one.
    explain(&project, &["--against", "ab"]).fails(2).stderr_has("--template NAME");
    // What is wrong with one says nothing of the other.
    let config = project.read("pgstencil.toml");
    let config = config.replacen("migrations/*.sql", "migratons/*.sql", 1);
    project.write("pgstencil.toml", &config);
    explain(&project, &[])
        .fails(2)
        .stderr_has("did you mean `migrations/*.sql`")
        .stdout_has("[template.other]\na command now would use the existing template");
}

#[test]
fn an_extension_by_no_migration_names_the_rerun_inputs_that_differ() {
    let project = Project::extending(
        server(),
        "extend = \"append\"\nrebuild = \"never\"\nrerun_inputs = [\"requirements.lock\"]",
    );
    project.write("requirements.lock", "django==5\n");
    let first = ensure(&project);
    project.write("requirements.lock", "django==6\n");
    let short = &first[..12];
    explain(&project, &[]).success().stdout_has(&format!(
        "a command now would extend template {short}, since `requirements.lock` differs: "
    ));
    assert_eq!(now(&project)["rerun_inputs"], json!(["requirements.lock"]));
    Pgstencil::new(&project)
        .arg("ensure")
        .success()
        .stderr_has(&format!("from {short}, since `requirements.lock` differs in "));
}

#[test]
fn a_file_that_sorts_earlier_gets_the_key_that_extends_all_the_same() {
    let project = Project::extending(server(), "extend = \"append\"\nrebuild = \"never\"");
    ensure(&project);
    project.add_migration("0001_between", "create table between_ (id int);");
    let output = explain(&project, &[]).success();
    output
        .stdout_has("new migration `migrations/0001_between.sql` sorts before `migrations/0002_orders.sql`")
        .stdout_has("\nhint: set `extend = \"always\"` in [template.app] if ");
    assert!(now(&project)["hint"].as_str().unwrap().contains("always"));
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("\"append\"", "\"always\""));
    assert_eq!(now(&project)["what"], "extend");
}

#[test]
fn migrations_are_counted_and_not_their_files() {
    let project = Project::new(server());
    let config = project.read("pgstencil.toml");
    let config = config
        .replace("\"never\"", "\"append\"\nrebuild = \"never\"")
        .replace("migrations/*.sql", "migrations/*/*");
    project.write("pgstencil.toml", &config);
    project.build(&Build::Script(
        "psql -XqAtc 'create table if not exists t ()' -c 'create table \"'$(ls migrations | wc -l)'\" ()'"
            .into(),
    ));
    project.write("migrations/2024-01-01-000000_a/up.sql", "");
    let first = ensure(&project);
    for file in ["up.sql", "down.sql", "metadata.toml"] {
        project.write(&format!("migrations/2024-01-02-000000_b/{file}"), "");
    }
    let short = &first[..12];
    explain(&project, &[]).success().stdout_has(&format!("would extend template {short} by one migration: "));
    let built = Pgstencil::new(&project).arg("ensure").success();
    built.stderr_has(&format!("from {short} by one migration in "));
    let list = Pgstencil::new(&project).arg("list").success();
    list.stdout_has(&format!("{short} + 1\n"));
}

#[test]
fn files_that_are_ignored_behind_a_link_are_told() {
    let project = Project::with_migrations(server());
    let venv = project.home().join("venv/lib/app/migrations");
    std::fs::create_dir_all(&venv).unwrap();
    std::fs::write(venv.join("0001_x.py"), "").unwrap();
    std::os::unix::fs::symlink(project.home().join("venv"), project.path().join(".venv")).unwrap();
    project.write(".gitignore", ".venv\n");
    let config = project.read("pgstencil.toml");
    let config =
        config.replace("[\"migrations/*.sql\"]", "[\"migrations/*.sql\", \".venv/lib/*/migrations/*.py\"]");
    project.write("pgstencil.toml", &config);
    explain(&project, &[]).fails(2).stderr_has(
        "one matching file is ignored: `.venv/lib/app/migrations/0001_x.py` by line `.venv` of `.gitignore`",
    );
}
