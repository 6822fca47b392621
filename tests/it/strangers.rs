//! A registry of somebody else: no command runs code in it.
//!
//! The attacker has CREATEDB and nothing else, and creates the registry's database first. What it has
//! prepared notes in a sequence that it ran, which no rollback takes back.

use std::path::Path;
use std::time::Duration;

use pgstencil::{Kind, Stencil};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::support::hold::Held;
use crate::support::{Pgstencil, Project, Proxy, Role, TestServer, block_on, server};

/// Everything that opens a registry, to read or to write.
const COMMANDS: [&[&str]; 15] = [
    &["list"],
    &["list", "--json"],
    &["stats"],
    &["explain"],
    &["evict", "--dry-run"],
    &["doctor"],
    &["ensure"],
    &["clone"],
    &["run", "--", "true"],
    &["verify"],
    &["release", "x"],
    &["evict", "--all", "--yes"],
    &["pin", "0123456789ab"],
    &["doctor", "--fix"],
    &["bench"],
];

const TABLES: [&str; 7] = ["meta", "template", "clone", "database", "event", "project", "measurement"];

/// Notes that it was called by a session of pgstencil's; fit for views, policies and defaults.
const NOTE: &str = "
create sequence public.ran;
grant all on sequence public.ran to public;
create function public.note() returns boolean language plpgsql as $$ begin
  if current_setting('application_name') = 'pgstencil' then perform nextval('public.ran'); end if;
  return true; end $$;
create function public.note_row() returns trigger language plpgsql as $$ begin
  perform public.note(); return new; end $$;
";

/// Somebody with CREATEDB who was first.
struct Squatter<'s> {
    role: Role<'s>,
    server: &'s TestServer,
    registry: String,
}

impl<'s> Squatter<'s> {
    fn new(server: &'s TestServer, registry: &str) -> Self {
        let squatter = Squatter { role: Role::new(server), server, registry: registry.to_owned() };
        squatter.sql("postgres", &format!("create database {registry}"));
        squatter.sql(registry, NOTE);
        squatter
    }

    /// Runs statements as the attacker.
    #[track_caller]
    fn sql(&self, database: &str, sql: &str) {
        run_as(&self.role, database, sql).unwrap_or_else(|e| panic!("{e}: {sql}"));
    }

    /// Views over the function, under the names of our tables. The first one says that the version is ours.
    fn views(&self) {
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/src/registry/schema");
        let versions = Path::new(schema).read_dir().unwrap().count();
        let mut sql = format!(
            "create schema pgstencil; grant usage on schema pgstencil to public;
             create view pgstencil.meta as select {versions} as version where public.note();"
        );
        for table in TABLES.iter().filter(|t| **t != "meta") {
            sql += &format!("create view pgstencil.{table} as select 1 as id where public.note();");
        }
        sql += "grant all on all tables in schema pgstencil to public;";
        self.sql(&self.registry, &sql);
    }

    /// Our own tables, with what runs when they are read or written.
    fn tables(&self) {
        self.sql(&self.registry, &schema());
        let mut sql = "grant usage on schema pgstencil to public;".to_owned();
        for table in TABLES {
            sql += &format!(
                "alter table pgstencil.{table} enable row level security;
                 alter table pgstencil.{table} force row level security;
                 create policy p on pgstencil.{table} using (public.note());
                 create trigger t before insert or update or delete on pgstencil.{table}
                   for each statement execute function public.note_row();
                 create rule r as on update to pgstencil.{table} do also select public.note();
                 alter table pgstencil.{table} add column n boolean default public.note();"
            );
        }
        sql += "grant all on all tables in schema pgstencil to public;
                grant all on all sequences in schema pgstencil to public;";
        self.sql(&self.registry, &sql);
    }

    /// The owner's settings: names that mean something else, and a session that begins as the owner.
    fn settings(&self) {
        let (name, registry) = (&self.role.name, &self.registry);
        self.sql(
            registry,
            "create schema evil; grant usage on schema evil to public;
             create function evil.pg_has_role(name, oid, text) returns boolean language sql as 'select public.note()';
             create function evil.pg_get_userbyid(oid) returns name language sql
               as 'select session_user::name from (select public.note()) n';
             create function evil.same(name, name) returns boolean language sql as 'select public.note()';
             create operator evil.= (leftarg = name, rightarg = name, function = evil.same);
             create table evil.pg_database as select 1 as datdba;",
        );
        for setting in [format!("role = {name}"), "search_path = evil, pg_catalog".into()] {
            let sql = format!("alter database {registry} set {setting}");
            self.sql("postgres", &sql);
        }
    }

    /// An event trigger at the login of everybody; a superuser has to help.
    fn login_trigger(&self) {
        self.sql(
            &self.registry,
            "create function public.at_login() returns event_trigger language plpgsql
               as $$ begin perform public.note(); end $$",
        );
        self.server.psql(
            &self.registry,
            "create event trigger at_login on login execute function public.at_login();
             alter event trigger at_login enable always",
        );
    }

    /// How often something of it ran.
    fn ran(&self) -> String {
        let ran = "select case when is_called then last_value else 0 end from public.ran";
        self.server.psql(&self.registry, ran)
    }

    /// It works: a session that says it is pgstencil's runs it.
    #[track_caller]
    fn fires(&self, victim: &Role<'_>, sql: &str) {
        let _ = run_as(victim, &self.registry, sql);
        assert_ne!(self.ran(), "0", "{sql}");
        self.server.psql(&self.registry, "alter sequence public.ran restart");
    }
}

fn run_as(role: &Role<'_>, database: &str, sql: &str) -> Result<(), sqlx::Error> {
    let options = role.options(database).application_name("pgstencil");
    block_on(async move {
        let mut session = options.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut session).await?;
        session.close().await
    })
}

/// All of our own tables.
fn schema() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/registry/schema");
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    text += &format!("update pgstencil.meta set version = {};", files.len());
    text
}

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

/// Every command refuses the registry by its owner's name, and nothing of it runs.
#[track_caller]
fn refused_by_all(project: &Project<'_>, squatter: &Squatter<'_>) {
    let before = project.databases();
    for command in COMMANDS {
        let done = pgstencil(project, command).run();
        let owner =
            format!("registry database `{}` belongs to role `{}`", squatter.registry, squatter.role.name);
        let said = format!("{}{}", done.stdout, done.stderr);
        assert!(said.contains(&owner), "{done}");
        assert_ne!(done.status.code(), Some(0), "{done}");
        assert_eq!(squatter.ran(), "0", "{done}");
    }
    assert_eq!(project.databases(), before);
}

/// Against both kinds of victims.
fn squat(prepare: impl Fn(&Squatter<'_>), prove: Option<&str>) {
    let ordinary = Role::new(server());
    let mut project = Project::with_migrations(server());
    let squatter = Squatter::new(server(), &project.registry());
    prepare(&squatter);
    if let Some(sql) = prove {
        squatter.fires(&ordinary, sql);
    }
    refused_by_all(&project, &squatter);
    project.connect_as(&ordinary);
    refused_by_all(&project, &squatter);
}

#[test]
fn views_under_the_names_of_our_tables_are_never_read() {
    squat(|s| s.views(), Some("select version from pgstencil.meta"));
}

#[test]
fn triggers_policies_rules_and_defaults_of_a_stranger_never_run() {
    squat(|s| s.tables(), Some("update pgstencil.meta set version = version"));
}

#[test]
fn what_a_stranger_set_for_the_database_leads_nowhere() {
    let prepare = |squatter: &Squatter<'_>| {
        squatter.views();
        squatter.settings();
    };
    squat(prepare, Some("select pg_get_userbyid(10::oid)"));
}

#[test]
fn login_triggers_of_a_stranger_never_run() {
    if server().version_major() < 17 {
        return;
    }
    let prepare = |squatter: &Squatter<'_>| {
        squatter.views();
        squatter.login_trigger();
    };
    squat(prepare, Some("select 1"));
}

/// `template1` notes logins. Its copy is the attacker's, who can change the table that the trigger writes to.
#[test]
fn a_login_trigger_that_every_database_has_is_no_way_in() {
    let private = TestServer::private();
    if private.version_major() < 17 {
        return;
    }
    private.psql(
        "template1",
        "create table public.logins (who name);
         grant insert on public.logins to public;
         create function public.at_login() returns event_trigger language plpgsql
           as $$ begin insert into public.logins values (session_user); end $$;
         create event trigger at_login on login execute function public.at_login()",
    );
    let ordinary = Role::new(&private);
    let mut project = Project::with_migrations(&private);
    let squatter = Squatter::new(&private, &project.registry());
    squatter.sql(
        &squatter.registry,
        "drop table public.logins;
         create table public.logins (who name);
         grant insert on public.logins to public;
         create trigger t before insert on public.logins
           for each row execute function public.note_row()",
    );
    squatter.fires(&ordinary, "select 1");
    refused_by_all(&project, &squatter);
    project.connect_as(&ordinary);
    refused_by_all(&project, &squatter);
}

/// A DBA made the database and let the attacker create schemas in it.
#[test]
fn a_schema_of_a_stranger_in_a_database_of_ours_is_refused() {
    let (superuser, ordinary) = (Role::with(server(), "superuser", "pw"), Role::new(server()));
    for victim in [&superuser, &ordinary] {
        let mut project = Project::with_migrations(server());
        let registry = project.registry();
        let squatter = Squatter { role: Role::new(server()), server: server(), registry: registry.clone() };
        let (owner, name) = (&victim.name, &squatter.role.name);
        server().psql("postgres", &format!("create database {registry} owner {owner}"));
        server().psql("postgres", &format!("grant create on database {registry} to {name}"));
        server().psql(&registry, &format!("grant create on schema public to {name}"));
        squatter.sql(&registry, NOTE);
        squatter.views();
        project.connect_as(victim);
        for command in COMMANDS {
            let done = pgstencil(&project, command).run();
            let said = format!("{}{}", done.stdout, done.stderr);
            assert_ne!(done.status.code(), Some(0), "{done}");
            assert!(said.contains("another role could run code in it"), "{done}");
            assert!(said.contains(&format!("view `pgstencil.meta` belongs to role `{name}`")), "{done}");
            assert_eq!(squatter.ran(), "0", "{done}");
        }
        drop(squatter);
        server().drop_database(&registry);
    }
}

#[test]
fn what_somebody_adds_to_our_tables_is_refused_until_it_is_gone() {
    let (victim, other) = (Role::new(server()), Role::new(server()));
    let mut project = Project::with_migrations(server());
    project.connect_as(&victim);
    pgstencil(&project, &["ensure"]).success();
    let registry = project.registry();
    let squatter = Squatter { role: other, server: server(), registry: registry.clone() };
    let name = &squatter.role.name;
    server().psql("postgres", &format!("grant all on database {registry} to {name}"));
    server().psql(
        &registry,
        &format!(
            "grant create on schema public to {name}; grant usage on schema pgstencil to {name};
             grant trigger on pgstencil.clone to {name}"
        ),
    );
    squatter.sql(&registry, NOTE);
    squatter.sql(
        &registry,
        "create trigger mine before insert on pgstencil.clone
           for each row execute function public.note_row()",
    );
    for command in [&["clone"][..], &["list"], &["ensure"]] {
        pgstencil(&project, command)
            .fails(3)
            .stderr_has(&format!("registry database `{registry}` is not used"))
            .stderr_has("table `pgstencil.clone` has trigger `mine`")
            .stderr_has("hint: drop these objects");
    }
    assert_eq!(squatter.ran(), "0");
    server().psql(&registry, "drop trigger mine on pgstencil.clone");
    pgstencil(&project, &["clone"]).success();

    for (add, what, remove) in [
        (
            "alter table pgstencil.event enable row level security",
            "table `pgstencil.event` has row security",
            "alter table pgstencil.event disable row level security",
        ),
        (
            "create rule mine as on insert to pgstencil.event do also select public.note()",
            "table `pgstencil.event` has rules",
            "drop rule mine on pgstencil.event; vacuum pgstencil.event",
        ),
        (
            "alter table pgstencil.event rename to other; create view pgstencil.event as select * from pgstencil.other",
            "view `pgstencil.event` is not a table",
            "drop view pgstencil.event; alter table pgstencil.other rename to event",
        ),
        (
            &format!("alter table pgstencil.event owner to {name}"),
            &format!("table `pgstencil.event` belongs to role `{name}`"),
            &format!("alter table pgstencil.event owner to {}", victim.name),
        ),
    ] {
        server().psql(&registry, add);
        pgstencil(&project, &["list"]).fails(3).stderr_has(what);
        for statement in remove.split("; ") {
            server().psql(&registry, statement);
        }
        pgstencil(&project, &["list"]).success();
    }
    assert_eq!(squatter.ran(), "0");
}

#[test]
fn a_superuser_uses_a_registry_of_superusers_and_of_roles_that_it_is_a_member_of() {
    let (owner, between) = (Role::new(server()), Role::new(server()));
    let superuser = Role::with(server(), "superuser", "pw");
    let mut project = Project::with_migrations(server());
    project.connect_as(&owner);
    pgstencil(&project, &["ensure"]).success();
    project.connect_as(&superuser);
    let psql = |sql: &str| server().psql("postgres", sql);
    let (a, b, c) = (&owner.name, &between.name, &superuser.name);
    let refused = || {
        pgstencil(&project, &["list"])
            .fails(3)
            .stderr_has(&format!("belongs to role `{a}`"))
            .stderr_has(&format!("GRANT \"{a}\" TO \"{c}\";"))
            .lacks("ALTER ROLE");
    };
    refused();
    psql(&format!("grant {b} to {c}"));
    refused();
    psql(&format!("grant {a} to {b}"));
    let clone = pgstencil(&project, &["clone"]).success();
    let name = clone.line().rsplit('/').next().unwrap();
    let name = name.split('?').next().unwrap();
    let found = format!("select pg_get_userbyid(datdba) from pg_database where datname = '{name}'");
    assert_eq!(psql(&found), *a);
    assert_eq!(project.builds(), 1);

    if server().version_major() >= 16 {
        // Whoever makes a role is a member like this.
        psql(&format!("grant {a} to {b} with inherit false, set false"));
        refused();
        psql(&format!("grant {a} to {b} with inherit true"));
        pgstencil(&project, &["list"]).success();
        psql(&format!("grant {a} to {b} with inherit false, set true"));
        pgstencil(&project, &["list"]).success();
    }
    psql(&format!("revoke {a} from {b}"));
    refused();
    psql(&format!("alter role {a} superuser"));
    pgstencil(&project, &["list"]).success();
}

/// From 16 on whoever makes a role is its member, with ADMIN alone.
#[test]
fn who_made_a_role_does_not_trust_it() {
    let maker = Role::with(server(), "createdb createrole", "pw");
    let made = format!("{}_made", maker.name);
    run_as(&maker, "postgres", &format!("create role {made} login createdb password 'pw'")).unwrap();
    let mut project = Project::with_migrations(server());
    let registry = project.registry();
    server().psql("postgres", &format!("create database {registry} owner {made}"));
    server().psql(&registry, &format!("grant create on schema public to {made}"));
    project.connect_to(server().url_as(&made, "pw", "postgres"));
    pgstencil(&project, &["ensure"]).success();
    project.connect_as(&maker);
    pgstencil(&project, &["list"]).fails(3).stderr_has(&format!("belongs to role `{made}`"));
    for database in project.databases() {
        server().drop_database(&database);
    }
    server().drop_database(&registry);
    server().psql("postgres", &format!("drop role {made}"));
}

/// A session that is kept for the next hand-out asks again whose the registry is.
#[tokio::test]
async fn a_registry_that_changes_hands_is_not_used_any_more() {
    let victim = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&victim);
    pgstencil(&project, &["ensure"]).success();
    let registry = project.registry();
    let file = project.path().join("pgstencil.toml");
    let stencil = Stencil::open(file).server_url(project.server_url()).await.unwrap();
    stencil.database().await.unwrap().release().await.unwrap();

    let squatter = Squatter { role: Role::new(server()), server: server(), registry: registry.clone() };
    let name = &squatter.role.name;
    server().psql("postgres", &format!("alter database {registry} owner to {name}"));
    server().psql(
        &registry,
        &format!(
            "alter schema pgstencil owner to {name}; alter table pgstencil.meta owner to {name};
             grant create on schema public to {name}"
        ),
    );
    squatter.sql(&registry, NOTE);
    squatter.sql("postgres", &format!("grant connect on database {registry} to public"));
    squatter.sql(
        &registry,
        "alter table pgstencil.meta rename to was;
         create view pgstencil.meta as select * from pgstencil.was where public.note();
         grant usage on schema pgstencil to public;
         grant all on pgstencil.meta, pgstencil.was to public",
    );
    squatter.fires(&victim, "select version from pgstencil.meta");
    let error = stencil.database().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Permission, "{error:?}");
    assert_eq!(squatter.ran(), "0");
}

/// The holder of a lease lost its session, and a stranger has the registry's name by then.
#[test]
fn a_lease_is_not_taken_again_from_a_stranger() {
    let victim = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.append_config("[clone]\norphan_grace = \"400ms\"\n");
    project.connect_as(&victim);
    let held = Held::idle(&project, &[]);
    let registry = project.registry();
    server().drop_database(&registry);
    let squatter = Squatter::new(server(), &registry);
    squatter.views();
    // It looks every 100 ms.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(squatter.ran(), "0");
    held.end();
    drop(held);
    assert_eq!(squatter.ran(), "0");
}

/// How a role gets in is found out once; what only reads writes nothing of it.
#[test]
fn an_ordinary_role_connects_twice_at_most_once() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    let proxy = Proxy::new(server());
    let (direct, relay) = (format!("{}:{}", server().host(), server().port()), proxy.url(server()));
    let relay = relay.split('@').nth(1).unwrap().split('/').next().unwrap();
    project.connect_to(role.url("postgres").replace(&direct, relay));
    let known = project.state_dir().join("doors.json");
    pgstencil(&project, &["list"]).success();
    assert!(!known.exists());
    pgstencil(&project, &["ensure"]).success();
    let written = std::fs::read_to_string(&known).unwrap();
    let word = match server().version_major() {
        ..=16 => "before17",
        _ => "owner",
    };
    assert!(written.contains(word), "{written}");
    proxy.reset();
    pgstencil(&project, &["list"]).success();
    assert_eq!(proxy.round_trips().len(), 1);
    std::fs::remove_file(&known).unwrap();
    proxy.reset();
    pgstencil(&project, &["list"]).success();
    assert_eq!(proxy.round_trips().len(), 2);
}
