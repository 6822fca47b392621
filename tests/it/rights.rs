//! What an ordinary role can do, and what it is told where it cannot.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::support::hold::{goes, stays};
use crate::support::server::PATIENCE;
use crate::support::{Build, Pgstencil, Project, Role, TestServer, eventually, server, until_done};

/// What a role needs for everything: nothing but LOGIN and CREATEDB.
fn project_of(role: &Role<'static>) -> Project<'static> {
    let mut project = Project::with_migrations(server());
    project.connect_as(role);
    project.append_config("[clone]\norphan_grace = \"100ms\"\n");
    project
}

fn pgstencil(project: &Project<'_>, args: &[&str]) -> Pgstencil {
    Pgstencil::new(project).args(args)
}

/// The database in a URL that has a query or none.
fn database_of(url: &str) -> &str {
    let path = url.rsplit('/').next().unwrap();
    path.split('?').next().unwrap()
}

fn owner_of(database: &str) -> String {
    server().psql(
        "postgres",
        &format!("select pg_get_userbyid(datdba) from pg_database where datname = '{database}'"),
    )
}

fn sqlstate<T>(result: Result<T, sqlx::Error>) -> Option<String> {
    let error = result.err()?;
    error.as_database_error()?.code().map(|c| c.into_owned())
}

#[tokio::test]
async fn login_and_createdb_are_enough_for_everything() {
    let (role, other) = (Role::new(server()), Role::new(server()));
    let project = project_of(&role);

    pgstencil(&project, &["ensure"]).success();
    assert_eq!(owner_of(&project.registry()), role.name);
    let refused = other.options(&project.registry()).connect().await;
    assert_eq!(sqlstate(refused).as_deref(), Some("42501"));

    let cloned = pgstencil(&project, &["clone"]).success();
    let name = database_of(cloned.line()).to_owned();
    assert_eq!(owner_of(&name), role.name);
    let mut session = role.options(&name).connect().await.unwrap();
    let users: String =
        sqlx::query_scalar("select string_agg(name, ' ') from users").fetch_one(&mut session).await.unwrap();
    assert_eq!(users, "ann");
    session.close().await.unwrap();

    pgstencil(&project, &["run", "--", "psql", "-XAtc"])
        .arg("insert into users values (2, 'bob'); select count(*), current_user from users")
        .success()
        .stdout_has(&format!("2|{}", role.name));
    assert_eq!(project.builds(), 1);

    let list = pgstencil(&project, &["list", "--json"]).success().json();
    assert_eq!(list["templates"].as_array().unwrap().len(), 1);
    assert!(list["clones"].as_array().unwrap().iter().any(|c| c["name"] == name));

    pgstencil(&project, &["release", &name]).success();
    assert!(
        eventually(PATIENCE, || project.databases().len() == 1),
        "only the template stays: {:?}\n{}",
        project.databases(),
        pgstencil(&project, &["list"]).success().stdout
    );

    // One that was killed leaves its clone to the sweeps.
    let mut killed = pgstencil(&project, &["run", "--", "sleep", "60"]).spawn();
    assert!(eventually(PATIENCE, || project.databases().len() == 2));
    std::thread::sleep(Duration::from_millis(300));
    killed.kill9();
    drop(killed);
    let run = || drop(pgstencil(&project, &["run", "--", "true"]).success());
    assert!(
        until_done(run, || project.databases().len() == 1),
        "the sweep drops what is left: {:?}",
        project.databases()
    );
}

#[test]
fn without_createdb_the_right_and_the_grant_are_named() {
    let role = Role::with(server(), "nocreatedb", "secret-word");
    let project = project_of(&role);
    for command in [&["ensure"][..], &["clone"], &["run", "--", "true"]] {
        pgstencil(&project, command)
            .fails(3)
            .stdout("")
            .stderr_has("may not create databases")
            .stderr_has(&format!("ALTER ROLE \"{}\" CREATEDB;", role.name))
            .lacks("secret-word");
    }
    assert!(!server().has_database(&project.registry()));
    // Nothing is there, and reading needs no right.
    pgstencil(&project, &["list"]).success();
}

#[test]
fn a_right_that_is_taken_away_later_is_named_too() {
    let role = Role::new(server());
    let project = project_of(&role);
    pgstencil(&project, &["ensure"]).success();
    let kept = pgstencil(&project, &["clone"]).success();
    let kept = database_of(kept.line()).to_owned();
    let before = project.databases();
    server().psql("postgres", &format!("alter role {} nocreatedb", role.name));

    pgstencil(&project, &["clone"])
        .fails(3)
        .stderr_has("may not create databases")
        .stderr_has(&format!("ALTER ROLE \"{}\" CREATEDB;", role.name));
    project.add_migration("0003_more", "create table more (id int);");
    pgstencil(&project, &["ensure"]).fails(3).stderr_has(&format!("ALTER ROLE \"{}\" CREATEDB;", role.name));
    assert_eq!(project.databases(), before);
    pgstencil(&project, &["release", &kept]).success();

    server().psql("postgres", &format!("alter role {} createdb", role.name));
    pgstencil(&project, &["ensure"]).success();
    assert!(eventually(PATIENCE, || {
        pgstencil(&project, &["ensure"]).success();
        !server().has_database(&kept)
    }));
}

#[test]
fn connect_on_one_maintenance_database_is_enough() {
    let private = TestServer::private();
    let role = Role::with(&private, "createdb", "pw");
    let mut project = Project::with_migrations(&private);
    project.connect_as(&role);
    private.psql("postgres", "revoke connect on database postgres from public");
    private.psql("postgres", "revoke connect on database template1 from public");
    Pgstencil::new(&project)
        .arg("ensure")
        .fails(3)
        .stderr_has("may not connect to database `postgres`")
        .stderr_has(&format!("GRANT CONNECT ON DATABASE \"postgres\" TO \"{}\"", role.name));
    private.psql("postgres", "grant connect on database template1 to public");
    Pgstencil::new(&project).arg("ensure").success();
    // Once the registry is there, nobody needs the others.
    private.psql("postgres", "revoke connect on database template1 from public");
    Pgstencil::new(&project).arg("clone").success();
}

#[test]
fn a_refused_login_is_told_as_that() {
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    let url = |user: &str, password: &str| server().url_as(user, password, "postgres");
    for (user, password) in
        [(role.name.as_str(), "wrong-password"), ("nobody_by_that_name", "wrong-password")]
    {
        project.connect_to(url(user, password));
        pgstencil(&project, &["clone"])
            .fails(3)
            .stdout("")
            .stderr_has(&format!("refuses role `{user}`"))
            .lacks("wrong-password");
    }
    server().psql("postgres", &format!("alter role {} nologin", role.name));
    project.connect_as(&role);
    pgstencil(&project, &["clone"]).fails(3).stderr_has("is not permitted to log in").lacks(&role.password);
}

#[test]
fn a_roles_connection_limit_leaves_nothing_behind() {
    let role = Role::with(server(), "createdb connection limit 1", "pw");
    let project = project_of(&role);
    // The one session is ours; the build command finds none.
    let failed = pgstencil(&project, &["clone"]).run();
    assert!(matches!(failed.status.code(), Some(3 | 4)), "{failed}");
    failed.stderr_has("too many connections for role");
    assert!(eventually(PATIENCE, || project.databases().is_empty()), "{:?}", project.databases());

    server().psql("postgres", &format!("alter role {} connection limit 0", role.name));
    pgstencil(&project, &["clone"])
        .fails(3)
        .stderr_has("no free connection slot")
        .stderr_has("CONNECTION LIMIT");

    server().psql("postgres", &format!("alter role {} connection limit 2", role.name));
    assert!(
        eventually(PATIENCE, || pgstencil(&project, &["clone"]).run().status.success()),
        "two sessions are enough: {}",
        pgstencil(&project, &["clone"]).run()
    );
}

#[test]
fn a_role_with_few_slots_can_leave_all_of_them_to_its_programs() {
    let role = Role::with(server(), "createdb connection limit 3", "pw");
    let project = project_of(&role);
    // As doctor's hint says.
    project.append_config("background = \"off\"\n");
    pgstencil(&project, &["ensure"]).success();
    let doctor = |value: &str| pgstencil(&project, &["doctor"]).env("PGSTENCIL_BACKGROUND", value).run();
    let warned = doctor("auto");
    assert!(warned.stdout.contains("pgstencil's role may have only 3 sessions"), "{warned}");
    let quiet = doctor("off");
    assert!(!quiet.stdout.contains("may have only"), "{quiet}");
    // The command itself takes one slot, the program two.
    let program = "psql -XAtc 'select pg_sleep(0.5)' & psql -XAtc 'select 7' && wait $!";
    let sessions = format!("select count(*) from pg_stat_activity where usename = '{}'", role.name);
    for _ in 0..3 {
        // A session that was closed takes a moment to end.
        assert!(eventually(PATIENCE, || server().psql("postgres", &sessions) == "0"));
        pgstencil(&project, &["run", "--", "sh", "-c", program]).success().stdout_has("7");
    }
}

#[tokio::test]
async fn a_full_server_is_told_as_that() {
    let private = TestServer::private_with("max_connections = 12\nmax_wal_senders = 0");
    let role = Role::with(&private, "createdb", "pw");
    let mut project = Project::with_migrations(&private);
    project.connect_as(&role);
    Pgstencil::new(&project).arg("ensure").success();
    // Its sessions take a moment to end.
    let sessions = format!("select count(*) from pg_stat_activity where usename = '{}'", role.name);
    assert!(eventually(PATIENCE, || private.psql("postgres", &sessions) == "0"));
    let mut held: Vec<PgConnection> = Vec::new();
    while let Ok(session) = role.options("postgres").connect().await {
        held.push(session);
    }
    let before = project.databases();
    Pgstencil::new(&project).arg("clone").fails(3).stdout("").stderr_has("no free connection slot");
    held.pop().unwrap().close().await.unwrap();
    // One slot is enough for a clone.
    assert!(eventually(PATIENCE, || { Pgstencil::new(&project).arg("clone").run().status.success() }));
    drop(held);
    assert_eq!(project.databases().len(), before.len() + 1);
}

#[tokio::test]
async fn background_work_leaves_connection_slots_to_others() {
    // An ordinary role may use 11.
    let private = TestServer::private_with("max_connections = 14\nmax_wal_senders = 0");
    let role = Role::new(&private);
    let mut project = Project::with_migrations(&private);
    project.connect_as(&role);
    project.append_config("\n[clone]\nwarm = 2\n");
    Pgstencil::new(&project).arg("ensure").success();
    let cloned = Pgstencil::new(&project).arg("clone").success();
    let name = cloned.line().rsplit_once('/').unwrap().1.to_owned();
    let of_project = "select count(*) from pgstencil.clone where state = 'warm'";
    let warm = || private.psql(&project.registry(), of_project);
    assert!(eventually(PATIENCE, || warm() == "2"));
    let background = "select count(*) from pg_stat_activity where application_name = 'pgstencil background'";
    let none_at_work = || eventually(PATIENCE, || private.psql("postgres", background) == "0");
    assert!(none_at_work());

    let mut held: Vec<PgConnection> = Vec::new();
    for _ in 0..6 {
        held.push(role.options("postgres").connect().await.unwrap());
    }
    // Five are free. Of those the command takes one for a moment, and leaves something to do.
    let doctor = Pgstencil::new(&project).arg("doctor").run();
    assert!(doctor.stdout.contains("connection slots"), "{doctor}");
    assert!(doctor.stdout.contains("so warm clones and drops wait"), "{doctor}");
    Pgstencil::new(&project).args(["release", &name]).success();
    stays(&project, &name, Duration::from_secs(2));
    // Others get them meanwhile.
    let mut others: Vec<PgConnection> = Vec::new();
    for _ in 0..4 {
        others.push(role.options("postgres").connect().await.unwrap());
    }
    drop((held, others));
    goes(&project, &name);
}

#[test]
fn two_roles_have_a_registry_each_or_a_clear_error() {
    let (first, second) = (Role::new(server()), Role::new(server()));
    let one = project_of(&first);
    pgstencil(&one, &["ensure"]).success();

    let two = project_of(&second);
    let (own, theirs) = (two.registry(), one.registry());
    let config = two.read("pgstencil.toml");
    two.write("pgstencil.toml", &config.replace(&own, &theirs));
    for command in [&["ensure"][..], &["clone"], &["list"], &["release", "x"]] {
        pgstencil(&two, command)
            .fails(3)
            .stderr_has(&format!("registry database `{theirs}` belongs to role `{}`", first.name))
            .stderr_has("[server] registry");
    }
    assert!(!server().has_database(&own));

    two.write("pgstencil.toml", &config);
    pgstencil(&two, &["ensure"]).success();
    pgstencil(&one, &["clone"]).success();
    for (project, clones) in [(&one, 1), (&two, 0)] {
        let list = pgstencil(project, &["list", "--json"]).success().json();
        assert_eq!(list["templates"].as_array().unwrap().len(), 1);
        assert_eq!(list["clones"].as_array().unwrap().len(), clones);
        assert_eq!(list["templates"][0]["project"], project.name());
    }

    // A member of the owner shares its registry, and what it makes belongs to the owner.
    server().psql("postgres", &format!("grant {} to {}", first.name, second.name));
    let mut shared = two;
    shared.write("pgstencil.toml", &config.replace(&own, &theirs));
    let cloned = pgstencil(&shared, &["clone"]).success();
    let clone = database_of(cloned.line()).to_owned();
    assert_eq!(owner_of(&clone), first.name);
    pgstencil(&shared, &["run", "--", "psql", "-XAtc", "select name from users"]).success().stdout("ann\n");
    // The owner sees it, and can end it.
    pgstencil(&one, &["release", "--take", &clone]).success();
    assert!(eventually(PATIENCE, || !server().has_database(&clone)));
    shared.connect_as(&first);
    // The other registry goes with its own project's name.
    server().drop_database(&own);
    for name in server().databases() {
        if owner_of(&name) == second.name {
            server().drop_database(&name);
        }
    }
}

#[test]
fn a_database_that_is_somebodys_own_stays_as_it_is() {
    let (mine, theirs) = (Role::new(server()), Role::new(server()));
    for (owner, code, message) in [(&mine, 2, "is not a pgstencil registry"), (&theirs, 3, "belongs to role")]
    {
        let project = project_of(&mine);
        let registry = project.registry();
        server().psql("postgres", &format!("create database {registry} owner {}", owner.name));
        server().psql(&registry, "create table precious as select 7 as n");
        for command in ["ensure", "clone"] {
            pgstencil(&project, &[command]).fails(code).stderr_has(message).stderr_has("[server] registry");
        }
        assert_eq!(server().psql(&registry, "select n from precious"), "7");
        let schemas = "select count(*) from pg_namespace where nspname = 'pgstencil'";
        assert_eq!(server().psql(&registry, schemas), "0");
        let acl = format!("select datacl is null from pg_database where datname = '{registry}'");
        assert_eq!(server().psql("postgres", &acl), "t");
    }
}

#[test]
fn a_newer_registry_is_left_alone() {
    let role = Role::new(server());
    let project = project_of(&role);
    pgstencil(&project, &["ensure"]).success();
    server().psql(&project.registry(), "update pgstencil.meta set version = 99");
    for command in [&["ensure"][..], &["clone"], &["list"], &["run", "--", "true"]] {
        pgstencil(&project, command).fails(2).stderr_has("its version is 99").stderr_has("newer pgstencil");
    }
    let version = "select version from pgstencil.meta";
    assert_eq!(server().psql(&project.registry(), version), "99");
}

#[test]
fn eight_first_users_get_one_registry_and_one_build() {
    let role = Role::new(server());
    let project = project_of(&role);
    let running: Vec<_> = (0..8).map(|_| pgstencil(&project, &["clone"]).spawn()).collect();
    let mut urls: Vec<String> = running.into_iter().map(|r| r.wait().code(0).line().to_owned()).collect();
    urls.sort();
    urls.dedup();
    assert_eq!(urls.len(), 8);
    assert_eq!(project.builds(), 1);
    assert_eq!(owner_of(&project.registry()), role.name);
}

/// Every setting that could cut a session, a statement or a lock short, or lead names astray. The
/// build command is psql with settings of its own.
#[test]
fn settings_of_the_role_and_of_pgoptions_have_no_effect() {
    let role = Role::new(server());
    let project = project_of(&role);
    let mut calm = "-c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off \
                    -c search_path=public -c idle_in_transaction_session_timeout=0"
        .to_owned();
    if server().version_major() >= 14 {
        calm += " -c idle_session_timeout=0";
    }
    if server().version_major() >= 17 {
        calm += " -c transaction_timeout=0";
    }
    project.build(&Build::Script(format!("export PGOPTIONS='{calm}'\nmigrate\n")));
    let mut settings = vec![
        "statement_timeout = 1",
        "lock_timeout = 1",
        "idle_in_transaction_session_timeout = 1",
        "search_path = evil",
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "standard_conforming_strings = off",
        "client_min_messages = debug1",
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "timezone = 'Asia/Kathmandu'",
    ];
    if server().version_major() >= 14 {
        // Not 1: psql, which is not ours to protect, has to survive until its statement.
        settings.push("idle_session_timeout = 400");
    }
    if server().version_major() >= 17 {
        settings.push("transaction_timeout = 100");
    }
    for setting in settings {
        server().psql("postgres", &format!("alter role {} set {setting}", role.name));
    }
    let hostile = "-c search_path=evil -c statement_timeout=1 -c default_transaction_read_only=on \
                   -c lock_timeout=1 -c idle_in_transaction_session_timeout=1";
    let with = |args: &[&str]| pgstencil(&project, args).env("PGOPTIONS", hostile);
    // Neither what would refuse a session, nor another role.
    for fatal in ["-c nonsense=1", "-c role=pg_monitor"] {
        pgstencil(&project, &["ensure"]).env("PGOPTIONS", fatal).success();
    }
    with(&["ensure"]).success();
    let cloned = with(&["clone", "--ttl", "1h"]).success();
    with(&["run", "--", "sleep", "1.5"]).success().stderr_has("hit");
    let list = with(&["list", "--json"]).success().json();
    let name = database_of(cloned.line());
    let clones = list["clones"].as_array().unwrap();
    let clone = clones.iter().find(|c| c["name"] == name);
    let expires = clone.and_then(|c| c["expires_at"].as_str());
    let expires = expires.unwrap_or_else(|| panic!("{list:#}"));
    assert!(expires.ends_with('Z') && expires.len() == 20, "{expires}");
    with(&["release", name]).success();
    assert!(eventually(PATIENCE, || project.databases().len() == 1));
    // The user's own commands see the role's settings, but not our caller's PGOPTIONS.
    with(&["run", "--", "psql", "-XAtc", "show search_path"]).success().stdout("evil\n");
}

/// `ALTER ROLE x SET role = y`: the sessions are y's from the start, so y's rights count, and y owns
/// what is made.
#[test]
fn a_role_that_becomes_another_works_as_that() {
    let (group, member) = (Role::new(server()), Role::with(server(), "nocreatedb", "pw"));
    server().psql(
        "postgres",
        &format!("grant {0} to {1}; alter role {1} set role = {0}", group.name, member.name),
    );
    let project = project_of(&member);
    pgstencil(&project, &["run", "--", "psql", "-XAtc", "select current_user, session_user"])
        .success()
        .stdout(&format!("{}|{}\n", group.name, member.name));
    assert_eq!(owner_of(&project.registry()), group.name);
    // The two share what there is.
    let mut project = project;
    project.connect_as(&group);
    pgstencil(&project, &["run", "--", "psql", "-XAtc", "select name from users"]).success().stdout("ann\n");
    assert_eq!(project.builds(), 1);

    server().psql("postgres", &format!("alter role {} nocreatedb", group.name));
    project.connect_as(&member);
    pgstencil(&project, &["clone"]).fails(3).stderr_has(&format!("ALTER ROLE \"{}\" CREATEDB;", group.name));
    server().psql("postgres", &format!("alter role {} createdb", group.name));
}

/// An administrator makes the registry for a group. Tables belong to the member that built them, so each member
/// has templates of its own, until their sessions act as the group.
#[test]
fn members_of_a_group_share_its_registry_and_use_only_what_they_may() {
    let [group, ann, bob] = [0; 3].map(|_| Role::new(server()));
    let mut project = Project::extending(server(), "rebuild = \"never\"");
    project.append_config("[clone]\nwarm = 1\nwarm_max = 1");
    admin(&format!("grant {0} to {1}, {2}", group.name, ann.name, bob.name));
    admin(&format!("create database {} owner {}", project.registry(), group.name));
    let ask = |project: &Project<'_>| {
        let output = pgstencil(project, &["run", "--", "psql", "-XAtc", "select name from users"]);
        let output = output.success();
        output.stdout("ann\n");
        output
    };
    let other =
        format!("belongs to role `{}`, and role `{}` does not inherit from that role", ann.name, bob.name);
    for (role, builds) in [(&ann, 1), (&bob, 2), (&ann, 2), (&bob, 2)] {
        project.connect_as(role);
        for again in [false, true] {
            let before = project.builds();
            let told = ask(&project).stderr.contains(&other);
            assert_eq!(project.builds(), builds);
            assert_eq!(told, builds == 2 && before == 1);
            // Of a warm clone, too.
            let warm = || {
                let list = pgstencil(&project, &["list", "--state", "warm"]).success();
                !list.stdout.is_empty()
            };
            // After the first use there is one only where the clone, which was only read, became warm again.
            assert!(!again || eventually(PATIENCE, warm));
        }
    }
    let builders = |project: &Project<'_>| {
        let list = pgstencil(project, &["list", "--json"]).success().json();
        let templates = list["templates"].as_array().unwrap().iter();
        let names = templates.map(|t| t["built_by"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(builders(&project), [&*ann.name, &*bob.name]);
    // Nor is another's template a base. What a superuser meets it may use, if it is of the group, too.
    admin(&format!("grant {} to {}", group.name, server().user()));
    project.add_migration("0003_items", "create table items (id int);");
    project.connect_as(&ann);
    // A process that still makes warm clones would keep the template from being evicted.
    let ensured = |project: &Project<'_>| {
        let ensure = pgstencil(project, &["ensure", "--json"]).env("PGSTENCIL_BACKGROUND", "off");
        ensure.success().json()
    };
    let extended = ensured(&project);
    assert_eq!(extended["outcome"], "extended");
    project.connect_to(server().url("postgres"));
    let hit = ensured(&project);
    assert_eq!(hit["outcome"], "hit");
    // Of several with one fingerprint a name means one's own.
    let fingerprint = hit["fingerprint"].as_str().unwrap();
    project.connect_as(&bob);
    let own = ensured(&project);
    assert_eq!(own["outcome"], "extended");
    let evicted = pgstencil(&project, &["evict", &fingerprint[..12]]).success();
    assert_eq!(builders(&project), [&*ann.name, &*bob.name, &*ann.name], "{evicted}");

    for role in [&ann, &bob] {
        admin(&format!("alter role {} set role = {}", role.name, group.name));
    }
    let builds = project.builds();
    for role in [&ann, &bob] {
        project.connect_as(role);
        ask(&project);
    }
    assert_eq!(project.builds(), builds + 1);
    assert_eq!(builders(&project)[3], group.name);
    project.connect_to(server().url("postgres"));
}

fn admin(sql: &str) {
    server().psql("postgres", sql);
}
