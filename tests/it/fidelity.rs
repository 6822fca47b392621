//! A clone is what the build made, also where `CREATE DATABASE … TEMPLATE` copies nothing.

use crate::support::hold::goes;
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, Role, eventually, server};

fn clone(project: &Project<'_>) -> Pgstencil {
    Pgstencil::new(project).arg("clone")
}

fn database(url: &str) -> String {
    url.rsplit_once('/').unwrap().1.to_owned()
}

/// The sealed template's database.
fn template(project: &Project<'_>) -> String {
    let sql = format!(
        "select datname from pg_database where datistemplate and datname like 'tpl\\_{}%'",
        project.name()
    );
    server().psql("postgres", &sql)
}

/// Settings, grants and connection limit of a database.
fn properties(database: &str) -> String {
    let sql = format!(
        "select 'limit ' || datconnlimit from pg_database where datname = '{database}'
         union all
         select format('set %s %s', setrole, cfg) from pg_db_role_setting
             join pg_database d on d.oid = setdatabase, unnest(setconfig) cfg where datname = '{database}'
         union all
         select format('grant %s to %s %s', privilege_type, grantee, is_grantable) from pg_database d,
             aclexplode(coalesce(datacl, acldefault('d', datdba))) where datname = '{database}'
         order by 1"
    );
    server().psql("postgres", &sql)
}

fn comment(database: &str) -> String {
    let sql =
        format!("select shobj_description(oid, 'pg_database') from pg_database where datname = '{database}'");
    server().psql("postgres", &sql)
}

#[test]
fn what_create_database_does_not_copy_is_applied_again() {
    let reader = Role::new(server());
    let project = Project::with_migrations(server());
    project.add_migration(
        "0003_schema",
        "create schema app; create table app.things as select 'found' as word;",
    );
    project.build(&Build::Script(format!(
        r#"migrate
           d="\"$PGDATABASE\""
           sql -d postgres <<END
alter database $d set search_path = app, public;
alter database $d set application_name = 'a=b, c''d "e" \\f';
alter database $d set app.tenant = 'x=1';
alter database $d set datestyle = 'German, DMY';
alter database $d set idle_in_transaction_session_timeout = '1ms';
alter database $d set default_transaction_read_only = on;
alter role {0} in database $d set work_mem = '7MB';
alter role {0} in database $d set search_path = "\$user", "odd, name", app;
revoke connect, temporary on database $d from public;
grant connect on database $d to {0} with grant option;
grant create on database $d to {0};
alter database $d connection limit 7;
comment on database $d is 'the builder''s
own words';
END
"#,
        reader.name
    )));
    let names: Vec<_> = (0..2)
        .map(|_| {
            let output = clone(&project).success();
            output.lacks("could not re-apply");
            database(output.line())
        })
        .collect();
    let built = properties(&template(&project));
    assert!(built.contains("limit 7") && built.contains("set 0 search_path=app, public"), "{built}");
    assert_eq!(built.matches("set ").count(), 8, "{built}");
    for name in &names {
        assert_eq!(properties(name), built);
        assert_eq!(server().psql(name, "select word from things"), "found");
        let show = |what| server().psql(name, &format!("select current_setting('{what}')"));
        assert_eq!(show("search_path"), "app, public");
        assert_eq!(show("app.tenant"), "x=1");
        let words = comment(name);
        assert!(words.starts_with("the builder's\nown words\npgstencil clone: app of "), "{words}");
    }
    assert!(comment(&template(&project)).starts_with("the builder's\nown words\npgstencil template: "));
}

#[test]
fn what_a_role_may_not_apply_again_is_reported() {
    let (role, other) = (Role::new(server()), Role::new(server()));
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    project.build(&Build::Script(format!(
        r#"migrate
           d="\"$PGDATABASE\""
           sql -d postgres -c "alter database $d set work_mem = '6MB'"
           sql -d "$ADMIN_URL" -c "alter database $d set app.tenant = 'x'" \
               -c "alter database $d set log_statement = 'all'" \
               -c "alter role {} in database $d set work_mem = '7MB'"
"#,
        other.name
    )));
    let output = clone(&project).env("ADMIN_URL", server().url("postgres")).success();
    for refused in [
        "SET app.tenant = x:".to_owned(),
        "SET log_statement = all:".to_owned(),
        format!("SET work_mem = 7MB for role {}:", other.name),
    ] {
        output
            .stderr_has("warning: could not re-apply properties of the template to the clone\n")
            .stderr_has(&format!("  {refused}"));
        output.stderr_has(&format!("  pgstencil connects as role `{}`", role.name));
    }
    let properties = properties(&database(output.line()));
    assert!(properties.contains("set 0 work_mem=6MB"), "{properties}");
    assert_eq!(properties.matches("set ").count(), 1, "{properties}");
}

#[test]
fn contents_and_statistics_are_the_same() {
    let project = Project::with_migrations(server());
    let extensions = server()
        .psql("postgres", "select name from pg_available_extensions where name in ('hstore', 'pg_trgm')");
    let create: String = extensions.lines().map(|name| format!("create extension {name};\n")).collect();
    project.add_migration("0003_extensions", &format!("select 1;\n{create}"));
    project.add_migration(
        "0004_more",
        "create table big as select n, repeat('x', 100) as t from generate_series(1, 60000) n;
         create index on big (n);
         create table small as select n from generate_series(1, 50) n;
         create unlogged table fleeting as select 1 as n;
         create sequence counter; select setval('counter', 41);
         create materialized view seen as select count(*) as n from small;
         create publication pub for table small;
         select lo_from_bytea(4711, 'large');",
    );
    let output = clone(&project).success();
    let name = database(output.line());
    let ask = |sql: &str| server().psql(&name, sql);
    assert_eq!(ask("select count(*), sum(n) from big"), "60000|1800030000");
    assert_eq!(ask("select n from fleeting"), "1");
    assert_eq!(ask("select nextval('counter')"), "42");
    assert_eq!(ask("select n from seen"), "50");
    assert_eq!(ask("select pubname from pg_publication"), "pub");
    assert_eq!(ask("select convert_from(lo_get(4711), 'UTF8')"), "large");
    let installed = ask("select extname from pg_extension where extname <> 'plpgsql'");
    assert_eq!(installed.lines().count(), extensions.lines().count());

    let statistics = "select count(*) from pg_stats where tablename in ('big', 'small')";
    assert_eq!(ask(statistics), "3");
    assert_eq!(ask("select reltuples from pg_class where relname = 'big'"), "60000");
    // Only large tables are vacuumed: two more files for each are what every clone would pay.
    let map = |table| ask(&format!("select pg_relation_size('{table}', 'vm') > 0"));
    assert_eq!((map("big").as_str(), map("small").as_str()), ("t", "f"));
    // Newer versions leave a few pages at the end empty.
    let all_frozen = "select relallvisible > 0.9 * relpages from pg_class where relname = 'big'";
    assert_eq!(ask(all_frozen), "t");
}

#[test]
fn an_index_that_analyze_cannot_read_is_no_reason_to_fail() {
    let project = Project::with_migrations(server());
    project.add_migration(
        "0003_index",
        "create function choosy(int) returns int language plpgsql immutable as $$
         begin
             if current_setting('application_name') = 'pgstencil' then raise 'not for you'; end if;
             return $1;
         end $$;
         create index on users (choosy(id));",
    );
    let output = clone(&project).success();
    output.stderr_has("warning: could not create the planner's statistics");
    output.stderr_has("not for you");
}

fn owner(database: &str) -> String {
    let sql = format!("select pg_get_userbyid(datdba) from pg_database where datname = '{database}'");
    server().psql("postgres", &sql)
}

/// A build that gives its database away, as Rails does where a superuser creates it.
const GIVE: &str = "migrate; sql -d \"$ADMIN_URL\" -c \"alter database \\\"$PGDATABASE\\\" owner to $OWNER\"";

fn given(project: &Project<'_>, owner: &Role<'_>, args: &[&str]) -> Pgstencil {
    project.build(&Build::Script(GIVE.into()));
    Pgstencil::new(project).args(args).env("OWNER", &owner.name).env("ADMIN_URL", server().url("postgres"))
}

/// Cold, warm and extended clones, for an ordinary role and for a superuser.
#[test]
fn the_owner_is_who_the_build_made_it() {
    let (app, member) = (Role::new(server()), Role::new(server()));
    let grant = format!("grant {} to {}", app.name, member.name);
    server().psql("postgres", &grant);
    for role in [Some(&member), None] {
        let mut project = Project::extending(server(), "rebuild = \"never\"");
        project.append_config("[clone]\nwarm = 1\nwarm_max = 1");
        if let Some(role) = role {
            project.connect_as(role);
        }
        let clone = |outcome: &str| {
            let output = given(&project, &app, &["clone", "--json"]).success();
            output.lacks("could not re-apply");
            let answer = output.json();
            assert_eq!(answer["outcome"], outcome);
            let name = answer["clone"]["name"].as_str().unwrap().to_owned();
            assert_eq!(owner(&name), app.name);
            // What comes with ownership.
            let right = format!("select has_database_privilege('{}', '{name}', 'CREATE')", app.name);
            assert_eq!(server().psql("postgres", &right), "t");
            name
        };
        let first = clone("miss");
        // A template that is used once gets no warm clones.
        clone("hit");
        let warm = || {
            let list = Pgstencil::new(&project).args(["list", "--state", "warm"]);
            !list.success().stdout.is_empty()
        };
        assert!(eventually(PATIENCE, warm));
        clone("hit");
        project.add_migration("0003_items", "create table items ();");
        clone("extended");
        Pgstencil::new(&project).args(["release", &first]).success();
        goes(&project, &first);
    }
}

#[test]
fn a_database_given_to_a_role_that_ours_cannot_act_as_is_no_template() {
    let (mut project, me, app) =
        (Project::with_migrations(server()), Role::new(server()), Role::new(server()));
    project.connect_as(&me);
    let output = given(&project, &app, &["ensure"]).fails(3);
    output.stderr_has(&format!("to role `{}`, so it cannot become a template", app.name));
    output.stderr_has(&format!("GRANT \"{}\" TO \"{}\"", app.name, me.name));
    let grant = format!("grant {} to {}", app.name, me.name);
    server().psql("postgres", &grant);
    given(&project, &app, &["ensure"]).success();
}

/// From 16 on a role may inherit from another one without the right to give it anything.
#[test]
fn an_owner_that_clones_cannot_get_is_told() {
    if server().version_major() < 16 {
        return;
    }
    let (mut project, me, app) =
        (Project::with_migrations(server()), Role::new(server()), Role::new(server()));
    project.connect_as(&me);
    let grant = format!("grant {} to {} with inherit true, set false", app.name, me.name);
    server().psql("postgres", &grant);
    let output = given(&project, &app, &["clone"]).success();
    output.stderr_has(&format!("to the clone\n  OWNER TO {}: ", app.name));
    output.stderr_has(&format!("GRANT \"{}\" TO \"{}\" WITH INHERIT TRUE, SET TRUE", app.name, me.name));
    assert_eq!(owner(&database(output.line())), me.name);
}
