//! A template that cannot be used makes things slower, never wrong.

use std::os::unix::fs::PermissionsExt;

use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::support::server::{PATIENCE, quote_ident};
use crate::support::{Build, Pgstencil, Project, TestServer, eventually, server};

fn clone(project: &Project<'_>) -> Pgstencil {
    Pgstencil::new(project).args(["clone", "--json"])
}

/// The outcome of a clone, after a look at its contents.
#[track_caller]
fn outcome(project: &Project<'_>, output: &crate::support::cli::Output) -> String {
    let answer = output.json();
    let name = answer["clone"]["name"].as_str().unwrap();
    assert_eq!(project.server().psql(name, "select count(*) from users"), "1");
    answer["outcome"].as_str().unwrap().to_owned()
}

/// The sealed templates' databases.
fn templates(project: &Project<'_>) -> Vec<String> {
    let sql =
        format!("select datname from pg_database where datname like 'tpl\\_{}%' order by 1", project.name());
    let names = project.server().psql("postgres", &sql);
    names.lines().map(str::to_owned).collect()
}

fn template(project: &Project<'_>) -> String {
    let mut names = templates(project);
    assert_eq!(names.len(), 1);
    names.remove(0)
}

#[test]
fn a_damaged_template_is_rebuilt_once() {
    let private = TestServer::private();
    let project = Project::with_migrations(&private);
    clone(&project).success();
    let damaged = template(&project);
    let oid = private.psql("postgres", &format!("select oid from pg_database where datname = '{damaged}'"));
    let file = private.dir().join(format!("data/base/{oid}/unreadable"));
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();

    let output = clone(&project).success();
    output
        .stderr_has("warning: template ")
        .stderr_has(&format!(
            "cannot be copied and is discarded\n  could not open file \"base/{oid}/unreadable\": Permission denied\n"
        ));
    assert_eq!(outcome(&project, &output), "miss");
    assert_eq!(project.builds(), 2);
    let output = clone(&project).success();
    assert_eq!(outcome(&project, &output), "hit");
    assert_eq!(project.builds(), 2);
    assert!(eventually(PATIENCE, || templates(&project).len() == 1));
    assert_ne!(template(&project), damaged);
}

#[test]
fn when_no_template_can_be_copied_the_build_runs_on_the_clone() {
    let private = TestServer::private();
    let project = Project::with_migrations(&private);
    // Every database that it builds gets a file that the server cannot read when it copies.
    project.build(&Build::Script(
        r#"migrate
           oid=$(sql -d "$DATABASE_URL" -c 'select oid from pg_database where datname = current_database()')
           sql -d "$DATABASE_URL" -c "comment on database \"$PGDATABASE\" is 'by the builder'" \
               -c "copy (select 1) to program 'cat >base/$oid/unreadable; chmod 0 base/$oid/unreadable'"
           "#
        .into(),
    ));
    let output = clone(&project).arg("--clones=2").success();
    output
        .stderr_has("cannot be copied and is discarded")
        .stderr_has("cannot be copied either")
        .stderr_has("the build command runs directly in the clone");
    assert_eq!(outcome(&project, &output), "fallback");
    // The template, the template again, and once for each clone.
    assert_eq!(project.builds(), 4);
    let answer = output.json();
    let names: Vec<_> =
        answer["clones"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2);
    for name in names {
        let comment =
            format!("select shobj_description(oid, 'pg_database') from pg_database where datname = '{name}'");
        let comment = private.psql("postgres", &comment);
        assert!(comment.starts_with("by the builder\npgstencil clone: "), "{comment}");
    }
    // A clone like any other: it can be used by `run`, and released.
    let output = Pgstencil::new(&project)
        .args(["run", "--", "sh", "-c"])
        .arg("echo $PGSTENCIL_OUTCOME; psql -XAt -d $DATABASE_URL -c 'select count(*) from users'")
        .success();
    output.stdout("fallback\n1\n");
}

#[test]
fn a_template_dropped_or_renamed_by_hand_is_rebuilt() {
    let project = Project::with_migrations(server());
    clone(&project).success();
    server().drop_database(&template(&project));
    let output = clone(&project).success();
    output.stderr_has("can no longer be used and is discarded\n  its database `");
    assert_eq!(outcome(&project, &output), "miss");

    let name = template(&project);
    let renamed = format!("{name}_x");
    server().psql(
        "postgres",
        &format!("alter database {} rename to {}", quote_ident(&name), quote_ident(&renamed)),
    );
    let output = clone(&project).success();
    output.stderr_has("was changed outside pgstencil");
    assert_eq!(outcome(&project, &output), "miss");
    assert_eq!(project.builds(), 3);
    let output = clone(&project).success();
    assert_eq!(outcome(&project, &output), "hit");
}

#[test]
fn a_template_that_met_another_extension_is_rebuilt() {
    let project = Project::with_migrations(server());
    clone(&project).success();
    server().psql(
        &project.registry(),
        r#"update pgstencil.template set built_with = '{"available": {"plpgsql": "0.9"}}'"#,
    );
    let output = clone(&project).success();
    output.stderr_has("extension `plpgsql` had version 0.9 when it was built, and has 1.0 now");
    assert_eq!(outcome(&project, &output), "miss");
    let output = clone(&project).success();
    assert_eq!(outcome(&project, &output), "hit");
    assert_eq!(project.builds(), 2);
}

/// Sits in the template, whose door is closed again behind it, until it is dropped.
async fn sit(project: &Project<'_>) -> PgConnection {
    let name = template(project);
    let door = |open: bool| {
        let ident = quote_ident(&name);
        let alter = format!("alter database {ident} allow_connections {open}");
        project.server().psql("postgres", &alter);
    };
    door(true);
    let server = project.server();
    let options = server.options(&server.user(), &server.password(), &name);
    let options = options.application_name("sitter");
    let sitter = options.connect().await.unwrap();
    door(false);
    sitter
}

#[tokio::test]
async fn somebody_in_the_template_is_waited_for() {
    let project = Project::with_migrations(server());
    clone(&project).success();
    let sitter = sit(&project).await;
    let waits = clone(&project).spawn();
    waits.wait_for_text("waiting, since a session is connected to database `tpl_");
    sitter.close().await.unwrap();
    let output = waits.wait();
    output.code(0);
    output.stderr_has("SELECT pg_terminate_backend(");
    assert_eq!(outcome(&project, &output), "hit");
    assert_eq!(project.builds(), 1);
}

#[tokio::test]
async fn somebody_who_stays_in_the_template_costs_a_rebuild() {
    let project = Project::with_migrations(server());
    clone(&project).success();
    let sitter = sit(&project).await;
    let output = clone(&project).success();
    output.stderr_has("cannot be copied and is discarded");
    assert_eq!(outcome(&project, &output), "miss");
    assert_eq!(project.builds(), 2);
    drop(sitter);
}
