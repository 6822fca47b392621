//! Templates that are too old, or no longer fit the server, are rebuilt; serial builds wait for each
//! other; who waits sees what happens.

use serde_json::Value;

use crate::support::extension::database_of;
use crate::support::hold::list;
use crate::support::server::{PATIENCE, Stop, TestServer, quote_ident};
use crate::support::{Build, Pgstencil, Project, eventually, gives_up, server};

fn ensure(project: &Project<'_>) -> (Value, String) {
    let output = Pgstencil::new(project).args(["ensure", "--json"]).success();
    (output.json(), output.stderr.clone())
}

/// Lets all templates be built that long ago.
fn age(project: &Project<'_>, interval: &str) {
    let sql = format!("update pgstencil.template set fresh_at = fresh_at - interval '{interval}'");
    server().psql(&project.registry(), &sql);
}

#[test]
fn an_old_template_is_rebuilt() {
    let project = Project::extending(server(), "rebuild = \"never\"\nstale_after = \"7d\"");
    assert_eq!(ensure(&project).0["outcome"], "miss");
    age(&project, "6 days");
    assert_eq!(ensure(&project).0["outcome"], "hit");
    // What is extended is as old as its base.
    project.add_migration("0003_items", "create table items ();");
    assert_eq!(ensure(&project).0["outcome"], "extended");
    age(&project, "2 days");
    let (answer, said) = ensure(&project);
    assert!(said.contains("`stale_after` is 7d"), "{said}");
    // Nor is the old one of two migrations a base any more.
    assert_eq!(answer["outcome"], "miss");
    assert_eq!(ensure(&project).0["outcome"], "hit");
}

#[test]
fn one_that_becomes_too_old_while_it_is_extended_is_rebuilt() {
    let project = Project::extending(server(), "rebuild = \"never\"\nstale_after = \"7d\"");
    ensure(&project);
    age(&project, "6 days 23:59:50");
    project.build(&Build::Script("migrate; sleep 12".into()));
    project.add_migration("0003_items", "create table items ();");
    let (answer, said) = ensure(&project);
    assert_eq!(answer["outcome"], "miss");
    assert!(said.contains("`stale_after` is 7d"), "{said}");
    assert_eq!(project.builds(), 3);
    assert_eq!(ensure(&project).0["outcome"], "hit");
}

#[test]
fn one_that_no_longer_fits_the_server_is_rebuilt() {
    let project = Project::with_migrations(server());
    project.add_migration("0003_ext", "create extension if not exists plpgsql;");
    ensure(&project);
    // As if an update of the server's packages had brought another version.
    server().psql(
        &project.registry(),
        "update pgstencil.template set built_with = built_with || '{\"available\": {\"plpgsql\": \"0.9\"}}'",
    );
    let (answer, said) = ensure(&project);
    assert_eq!(answer["outcome"], "miss");
    assert!(said.contains("extension `plpgsql` had version 0.9 when it was built"), "{said}");
}

/// Of a set, one of whose databases a person opened and changed. It is no base, either, and is discarded
/// also if the next one to ask takes a warm clone.
#[test]
fn one_that_somebody_opened_is_rebuilt() {
    let project = Project::extending(server(), "rebuild = \"never\"");
    project.append_config("databases = [\"main\", \"side\"]\n[clone]\nwarm = 1");
    let open = |answer: &Value| {
        let databases = database_of(&project, &answer["fingerprint"]);
        let side = databases.lines().nth(1).unwrap().to_owned();
        let alter = format!("alter database {} allow_connections true", quote_ident(&side));
        server().psql("postgres", &alter);
        server().psql(&side, "insert into users values (2, 'mallory')");
        side
    };
    let (answer, _) = ensure(&project);
    let side = open(&answer);
    let (answer, said) = ensure(&project);
    assert_eq!(answer["outcome"], "miss");
    let why = format!("its database `{side}` accepts connections, so its contents may have changed");
    assert!(said.contains(&why), "{said}");
    open(&answer);
    project.add_migration("0003_items", "create table items ();");
    let (answer, said) = ensure(&project);
    assert_eq!(answer["outcome"], "miss");
    assert!(said.contains("can no longer be used and is discarded"), "{said}");
    // A clone makes a warm one behind it.
    Pgstencil::new(&project).arg("clone").success();
    let warm = || {
        let clones = list(&project)["clones"].as_array().unwrap().clone();
        clones.iter().any(|clone| clone["state"] == "warm")
    };
    assert!(crate::support::eventually(PATIENCE, warm));
    open(&answer);
    let clone = Pgstencil::new(&project).args(["clone", "--json"]).success();
    assert_eq!(clone.json()["outcome"], "miss");
    let name = &clone.json()["clone"]["databases"]["side"]["name"];
    let users = server().psql(name.as_str().unwrap(), "select name from users");
    assert_eq!(users, "ann");
}

/// In a set, with a warm clone ahead; a template without rows in unlogged tables outlives the crash.
#[test]
fn one_whose_unlogged_tables_a_crash_emptied_is_rebuilt() {
    let Some(_) = server().bindir() else {
        return;
    };
    let private = TestServer::private();
    let project = Project::with_migrations(&private);
    project.add_migration(
        "0003_cache",
        "create unlogged table cache (id int generated always as identity, word text);
         insert into cache (word) values ('kept');",
    );
    project.append_config(
        "databases = [\"main\", \"side\"]
[template.plain]
migrations = [\"migrations/0001*.sql\"]
build = \"sh plain.sh\"
[clone]
warm = 1
warm_max = 1",
    );
    project.write(
        "plain.sh",
        "psql -qX -v ON_ERROR_STOP=1 \"$DATABASE_URL\" -f migrations/0001_users.sql \\
             -c 'create unlogged table empty (id int generated always as identity)'",
    );
    let clone = |name: &str, outcome: &str| {
        let output = Pgstencil::new(&project).args(["clone", "--json", "-t", name]);
        let answer = output.success().json();
        assert_eq!(answer["outcome"], outcome, "{answer}");
        answer
    };
    let word = |answer: &Value| {
        let name = answer["clone"]["databases"]["side"]["name"].as_str().unwrap();
        private.psql(name, "select word from cache")
    };
    let warm = |count: usize| {
        let there = || {
            let clones = list(&project)["clones"].as_array().unwrap().clone();
            clones.iter().filter(|c| c["state"] == "warm").count() == count
        };
        assert!(crate::support::eventually(PATIENCE, there));
    };
    // Announces that clones will be requested; a template that is used once gets no warm ones.
    let announce = |name: &str| {
        Pgstencil::new(&project).args(["ensure", "-t", name]).success();
    };
    assert_eq!(word(&clone("app", "miss")), "kept");
    clone("plain", "miss");
    announce("app");
    announce("plain");
    warm(2);
    private.restart(Stop::Fast);
    assert_eq!(word(&clone("app", "hit")), "kept");
    warm(2);
    private.psql("postgres", "checkpoint");
    private.restart(Stop::Immediate);
    let told = Pgstencil::new(&project).arg("doctor").success();
    told.stdout_has("lost the rows of its unlogged tables (public.cache");
    let output = Pgstencil::new(&project).args(["explain", "-t", "app"]);
    output.success().stdout_has("Postgres has crashed since it was built");
    clone("plain", "hit");
    assert_eq!(word(&clone("app", "miss")), "kept");
    announce("app");
    warm(2);
    assert_eq!(word(&clone("app", "hit")), "kept");
    private.restart(Stop::Immediate);
    let fixed = Pgstencil::new(&project).args(["doctor", "--fix"]).success();
    fixed.stdout_has("discarded");
    assert_eq!(word(&clone("app", "miss")), "kept");
}

/// Of a collation that the project made, and of one that the server has; also for warm clones, and as a base.
#[test]
fn one_with_collations_of_another_version_is_rebuilt() {
    let icu = "select pg_collation_actual_version(oid) from pg_collation where collname = 'und-x-icu'";
    let version = server().psql("postgres", icu);
    if version.is_empty() {
        return;
    }
    let project = Project::extending(server(), "rebuild = \"never\"");
    project.append_config("[clone]\nwarm = 1");
    project.add_migration(
        "0003_german",
        "create collation german (provider = icu, locale = 'de-DE');
         create table words (word text collate german primary key, other text collate \"sv-x-icu\")",
    );
    let checks = || {
        let doctor = Pgstencil::new(&project).arg("doctor").success();
        let lines = doctor.stdout.lines().map(str::to_owned);
        let ours = lines.filter(|line| line.contains(" collations: "));
        ours.collect::<Vec<_>>().join("\n")
    };
    let clone = |outcome: &str| {
        let output = Pgstencil::new(&project).args(["clone", "--json"]).success();
        assert_eq!(output.json()["outcome"], outcome, "{output}");
        output.stderr.clone()
    };
    clone("miss");
    Pgstencil::new(&project).arg("ensure").success();
    let warm = || {
        let clones = list(&project)["clones"].as_array().unwrap().clone();
        clones.iter().any(|clone| clone["state"] == "warm")
    };
    assert!(crate::support::eventually(PATIENCE, warm));
    assert!(checks().starts_with("ok "), "{}", checks());
    // As if an update of the operating system had brought another library.
    let upgrade = || {
        let sql = format!(
            "update pgstencil.template set built_with =
                 jsonb_set(built_with, '{{collations}}', replace(built_with ->> 'collations', '{version}', '1.0')::jsonb)
             where state = 'ready' returning built_with -> 'collations'"
        );
        server().psql(&project.registry(), &sql)
    };
    let noted = upgrade();
    assert!(noted.contains("sv-x-icu") && noted.contains("de-"), "{noted}");
    let told = checks();
    assert!(told.contains("had version 1.0"), "{told}");
    let told = clone("miss");
    assert!(told.contains(&format!("and has {version}")), "{told}");
    clone("hit");
    upgrade();
    project.add_migration("0004_items", "create table items ();");
    assert!(clone("miss").contains("can no longer be used and is discarded\n  collation `"));
    // Whose note is another from the start gives rise to warnings, which a rebuild would not end.
    project
        .add_migration("0005_note", "update pg_collation set collversion = '0.9' where collname = 'german';");
    clone("extended");
    clone("hit");
    let told = checks();
    assert!(told.contains("german: version 0.9 recorded"), "{told}");
}

#[test]
fn serial_builds_wait_for_each_other() {
    let project = Project::with_migrations(server());
    project.build(&Build::Script(
        "echo start >>order; until [ -e go ]; do sleep 0.05; done; migrate; echo end >>order".into(),
    ));
    project.append_config(
        "serial_builds = true\n[template.other]\nmigrations = [\"migrations/*.sql\"]\n\
         build = \"sh migrate.sh\"\nserial_builds = true",
    );
    let both = ["app", "other"].map(|name| Pgstencil::new(&project).args(["ensure", "-t", name]).spawn());
    let waited = || both.iter().filter(|run| run.stderr_so_far().contains("serial build")).count();
    assert!(eventually(PATIENCE, || waited() == 1 && !project.read("order").is_empty()));
    assert_eq!(project.read("order"), "start\n");
    project.write("go", "");
    let outputs = both.map(|run| run.wait());
    assert_eq!(project.read("order"), "start\nend\nstart\nend\n");
    let waited = outputs.iter().filter(|o| o.code(0).stderr.contains("serial build")).count();
    assert_eq!(waited, 1);
}

#[test]
fn patience_ends_before_a_serial_build() {
    let project = Project::with_migrations(server());
    project.build(&Build::Gate);
    project.append_config(
        "serial_builds = true\n[template.other]\nmigrations = [\"migrations/*.sql\"]\n\
         build = \"sh migrate.sh\"\nserial_builds = true",
    );
    let first = Pgstencil::new(&project).args(["ensure", "-t", "app"]).spawn();
    first.wait_for_text("building");
    let other = |wait: &str| Pgstencil::new(&project).args(["ensure", "-t", "other", "--wait", wait]);
    gives_up(other, "serial build");
    project.write("go", "");
    first.wait().code(0);
}

#[test]
fn who_waits_sees_the_last_lines_and_the_expected_time() {
    let project = Project::with_migrations(server());
    Pgstencil::new(&project).arg("ensure").success();
    project.build(&Build::Script(
        "migrate; echo applying one; echo applying two
         while [ -e pgstencil.toml ] && [ ! -e go ]; do sleep 0.05; done"
            .into(),
    ));
    project.add_migration("0003_items", "create table items ();");
    let builder = Pgstencil::new(&project).arg("ensure").spawn();
    let seen = eventually(PATIENCE, || {
        server()
            .psql(&project.registry(), "select log_tail from pgstencil.template where state = 'building'")
            .contains("applying two")
    });
    assert!(seen);
    let waiting = Pgstencil::new(&project).arg("ensure").spawn();
    waiting.wait_for_text("  | applying one\n  | applying two\n");
    project.write("go", "");
    waiting.wait().code(0).stderr_has("waiting for").stderr_has("(last time: ");
    builder.wait().code(0);
    assert_eq!(list(&project)["templates"].as_array().unwrap().len(), 2);
}
