//! Builds that start from a database of the server's own: `from`.

use serde_json::Value;

use crate::support::extension::{database_of, ensure, outcome, registry};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, Role, eventually, server};

fn admin(sql: &str) -> String {
    server().psql("postgres", sql)
}

/// A database of an administrator's, and a project whose builds start from it.
fn project(role: &Role<'static>) -> (Project<'static>, String) {
    let mut project = Project::extending(server(), "rebuild = \"never\"");
    project.connect_as(role);
    let golden = format!("golden_{}", project.id);
    admin(&format!("create database {golden} template template0"));
    server().psql(
        &golden,
        "create schema shared; grant usage on schema shared to public;
         create table shared.countries as select 'at' as code;
         grant select on shared.countries to public;
         create function shared.twice(int) returns int language sql as 'select 2 * $1';
         comment on schema shared is 'by an administrator'",
    );
    admin(&format!("alter database {golden} is_template true"));
    admin(&format!("alter database {golden} set work_mem = '5MB'"));
    project.append_config(&format!("from = \"{golden}\""));
    (project, golden)
}

fn name(answer: &Value) -> String {
    answer["clone"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn clones_hold_what_the_source_holds_and_its_templates_are_private() {
    let role = Role::new(server());
    let (project, golden) = project(&role);
    project.build(&Build::Nothing);
    Pgstencil::new(&project).arg("ensure").fails(4).stderr_has("the build command changed nothing");
    project.build(&Build::Migrate);
    let output = Pgstencil::new(&project).args(["clone", "--json"]);
    let answer = output.success().json();
    let clone = name(&answer);
    let ask = |sql: &str| server().psql(&clone, sql);
    assert_eq!(ask("select shared.twice(21), code from shared.countries"), "42|at");
    assert_eq!(ask("select name from users"), "ann");
    let owners = "select relname, pg_get_userbyid(relowner) from pg_class
        where relname in ('countries', 'users') order by 1";
    let expected = format!("countries|{}\nusers|{}", server().user(), role.name);
    assert_eq!(ask(owners), expected);
    let template = database_of(&project, &answer["fingerprint"]);
    let marked = format!("select datistemplate from pg_database where datname = '{template}'");
    assert_eq!(admin(&marked), "f");
    let doctor = || Pgstencil::new(&project).arg("doctor").success().stdout.clone();
    // Other tests' databases may be in the answer, with `IS_TEMPLATE` of their own.
    let line = format!("database `{template}` of template");
    let told = doctor();
    assert!(!told.contains(&line), "{told}");
    admin(&format!("alter database \"{template}\" is_template true"));
    let told = doctor();
    assert!(told.contains(&line) && told.contains(&golden), "{told}");
    let explained = Pgstencil::new(&project).arg("explain").success();
    explained.stdout_has(&golden);
    // Another source is another template.
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace(&format!("from = \"{golden}\""), ""));
    Pgstencil::new(&project).arg("explain").success().stdout_has(&format!("from: {golden} -> template0"));
    assert_ne!(outcome(&project, "miss")["fingerprint"], answer["fingerprint"]);
}

#[test]
fn a_change_of_the_source_is_seen_when_something_is_built_and_hourly() {
    let role = Role::new(server());
    let (project, golden) = project(&role);
    let change = |n: u32| {
        server().psql(&golden, &format!("create table shared.more_{n} ()"));
    };
    outcome(&project, "miss");
    // As long as it stays the same, what was built from it is a base.
    project.add_migration("0003_items", "create table items ();");
    outcome(&project, "extended");
    change(1);
    // Nobody looks at a hit.
    outcome(&project, "hit");
    project.add_migration("0004_notes", "create table notes ();");
    let output = Pgstencil::new(&project).args(["ensure", "--json"]).success();
    assert_eq!(output.json()["outcome"], "miss");
    output.stderr_has(&format!("database `{golden}`, which its build started from, has changed"));
    outcome(&project, "hit");

    change(2);
    let clone = |outcome: &str| {
        let output = Pgstencil::new(&project).args(["clone", "--json"]).success();
        assert_eq!(output.json()["outcome"], outcome, "{output}");
        output.stderr.clone()
    };
    clone("hit");
    let outdated = || {
        registry(
            &project,
            "select count(*) from pgstencil.template where state = 'ready' and outdated is not null",
        )
    };
    assert_eq!(outdated(), "0");
    registry(&project, "update pgstencil.template set looked_at = now() - interval '61 minutes'");
    clone("hit");
    assert!(eventually(PATIENCE, || outdated() == "1"));
    assert!(clone("miss").contains(", has changed"));
    let rows = "select count(*) from pg_class where relname ~ '^more_'";
    let answer = Pgstencil::new(&project).args(["clone", "--json"]).success().json();
    assert_eq!(server().psql(&name(&answer), rows), "2");
}

/// It cannot be changed then, only replaced.
#[test]
fn a_source_that_lets_nobody_in_is_known_by_its_identity() {
    let role = Role::new(server());
    let (project, golden) = project(&role);
    admin(&format!("alter database {golden} allow_connections false"));
    outcome(&project, "miss");
    project.add_migration("0003_items", "create table items ();");
    outcome(&project, "extended");
    admin(&format!("alter database {golden} is_template false"));
    admin(&format!("drop database {golden}"));
    admin(&format!("create database {golden} template template0 is_template true"));
    project.add_migration("0004_notes", "create table notes ();");
    outcome(&project, "miss");
}

#[test]
fn what_cannot_be_a_source_is_refused() {
    let role = Role::new(server());
    let (project, golden) = project(&role);
    let refuse = |project: &Project<'_>, from: &str, code: i32, words: &str| {
        let config = project.read("pgstencil.toml");
        project.write("pgstencil.toml", &config.replace(&golden, from));
        Pgstencil::new(project).arg("ensure").fails(code).stderr_has(words);
        project.write("pgstencil.toml", &config);
    };
    refuse(&project, "nowhere", 2, "there is no database `nowhere` (`from` of template `app`)");
    let answer = ensure(&project);
    let own = database_of(&project, &answer["fingerprint"]);
    let registry = project.registry();
    for (from, words) in [(&own, "belongs to pgstencil"), (&registry, "belongs to pgstencil")] {
        refuse(&project, from, 2, words);
    }
    admin(&format!("alter database {golden} is_template false"));
    project.add_migration("0003_items", "select 1;");
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace("rebuild = \"never\"", "extend = \"never\""));
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(3)
        .stderr_has(&format!("role \"{}\" may not copy database `{golden}`", role.name))
        .stderr_has(&format!("ALTER DATABASE \"{golden}\" IS_TEMPLATE true;"));
}

/// Whoever may create a function there would be obeyed by a superuser. Others run with their own rights.
#[test]
fn a_superuser_starts_from_no_database_that_everybody_may_change() {
    let role = Role::new(server());
    let (mut project, golden) = project(&role);
    project.connect_to(server().url("postgres"));
    // Before 15 every role may create objects in `public`.
    let revoke =
        format!("revoke create on schema public from public; grant create on schema public to {}", role.name);
    server().psql(&golden, &revoke);
    outcome(&project, "miss");
    project.add_migration("0003_notes", "select 1;");
    server().psql(&golden, "create schema open; grant create on schema open to public");
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(3)
        .stderr_has(&format!("cannot build template `app` from database `{golden}`"))
        .stderr_has("REVOKE CREATE ON SCHEMA \"open\" FROM PUBLIC;");
    server().psql(&golden, "revoke create on schema open from public");
    admin(&format!("grant create on database {golden} to public"));
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(3)
        .stderr_has(&format!("REVOKE CREATE ON DATABASE \"{golden}\" FROM PUBLIC;"));
    let config = project.read("pgstencil.toml");
    let own = format!("{}_2", project.registry());
    project.write("pgstencil.toml", &config.replace(&project.registry(), &own));
    project.connect_as(&role);
    outcome(&project, "miss");
    // It goes with the role, before the project looks for what is left.
    for name in server().databases() {
        let of = format!("select pg_get_userbyid(datdba) from pg_database where datname = '{name}'");
        if name.starts_with("tpl_") && admin(&of) == role.name {
            server().drop_database(&name);
        }
    }
    server().drop_database(&own);
}

#[tokio::test]
async fn who_is_in_the_source_is_told() {
    let role = Role::new(server());
    let (project, golden) = project(&role);
    let options = server().options(&server().user(), &server().password(), &golden);
    let options = options.application_name("visitor");
    let sitter = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let ensure = Pgstencil::new(&project).arg("ensure").spawn();
    ensure.wait_for_text(&format!("database `{golden}` (`from` of template `app`) is in use"));
    sqlx::Connection::close(sitter).await.unwrap();
    ensure.wait().code(0).stderr_has("application `visitor`");
}

#[test]
fn a_refused_extension_points_to_the_key() {
    let extensions = "select name from pg_available_extension_versions
        where superuser and not trusted and name <> 'plpgsql' and requires is null limit 1";
    let name = admin(extensions);
    if name.is_empty() {
        return;
    }
    let role = Role::new(server());
    let (project, golden) = project(&role);
    project.add_migration("0003_extension", &format!("create extension if not exists {name};"));
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(4)
        .stderr_has(&format!("run that CREATE EXTENSION as a superuser in database `{golden}`"))
        .stderr_has(&format!("`from = \"{golden}\"` in [template.app]"));
    server().psql(&golden, &format!("create extension {name}"));
    outcome(&project, "miss");
    let config = project.read("pgstencil.toml");
    project.write("pgstencil.toml", &config.replace(&format!("from = \"{golden}\""), ""));
    Pgstencil::new(&project).arg("ensure").fails(4).stderr_has("`from = \"template1\"` in [template.app]");
}
