//! Released clones to which nothing was written become warm again; every other one is dropped.

use std::sync::Arc;

use pgstencil::{Lease, Stencil};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use crate::support::extension::registry;
use crate::support::proxy::{Fault, Proxy};
use crate::support::server::{PATIENCE, Stop, TestServer};
use crate::support::{Pgstencil, Project, Role, eventually, eventually_async, server};

/// Something of each kind that a clone can hold.
const CONTENTS: &str = "
    create table items (id serial primary key, name text, price numeric(8, 2));
    insert into items (name, price) select 'item ' || n, n from generate_series(1, 50) n;
    create table empty (id bigint generated always as identity primary key, what text);
    create unlogged table fleeting (what int);
    insert into fleeting values (1);
    create sequence numbers cache 5;
    create materialized view totals as select count(*) from items;
    create view cheap as select * from items where price < 10;
    create function twice(int) returns int language sql as 'select 2 * $1';
    select lo_from_bytea(4711, 'large');
";

fn contents(project: &Project<'_>, keys: &str) {
    fill(project, CONTENTS, keys);
}

fn fill(project: &Project<'_>, sql: &str, keys: &str) {
    project.add_migration("0003_contents", sql);
    project.append_config(&format!("[clone]\nwarm = 1\nwarm_max = 4\n{keys}"));
}

pub(crate) async fn open(project: &Project<'_>) -> Stencil {
    let config = project.path().join("pgstencil.toml");
    Stencil::open(config).server_url(project.server_url()).await.unwrap()
}

/// A clone for each test, and what became of it.
pub(crate) struct Shelf<'s> {
    pub(crate) role: Role<'s>,
    pub(crate) project: Project<'s>,
    pub(crate) stencil: Stencil,
}

impl<'s> Shelf<'s> {
    async fn new(server: &'s TestServer, keys: &str) -> Self {
        Self::with(server, Role::new(server), CONTENTS, keys).await
    }

    pub(crate) async fn with(server: &'s TestServer, role: Role<'s>, sql: &str, keys: &str) -> Self {
        let mut project = Project::with_migrations(server);
        project.connect_as(&role);
        fill(&project, sql, keys);
        let stencil = open(&project).await;
        Shelf { role, project, stencil }
    }

    pub(crate) async fn enter(&self, lease: &Lease) -> PgConnection {
        self.role.options(lease.name()).connect().await.unwrap()
    }

    /// Releases a clone. Whether it is warm again; else it must be gone.
    pub(crate) async fn is_warm_after(&self, lease: Lease) -> bool {
        let name = lease.name().to_owned();
        let oid = self
            .project
            .server()
            .psql("postgres", &format!("select oid from pg_database where datname = '{name}'"));
        lease.release().await.unwrap();
        self.stencil.close().await;
        let state = format!(
            "select c.state || ' ' || (d.name = d.private_name) || ' ' || (p.datname = d.name) || ' ' || p.datallowconn \
             from pgstencil.clone c join pgstencil.database d on d.clone_id = c.id \
             join pg_database p on p.oid = d.oid where d.oid = {oid}"
        );
        match registry(&self.project, &state).as_str() {
            "warm true true false" => true,
            "" => {
                let there = format!("select count(*) from pg_database where oid = {oid}");
                assert_eq!(self.project.server().psql("postgres", &there), "0");
                false
            }
            other => panic!("{other}"),
        }
    }
}

/// Whether this server's counters are a proof.
pub(crate) fn proves(server: &TestServer) -> bool {
    server.version_major() >= 15
}

pub(crate) const READS: [&str; 6] = [
    "select * from items join users using (id), totals, fleeting",
    "explain (analyze) select count(*) from items",
    "select * from pg_indexes; select * from information_schema.columns limit 5; select lo_get(4711)",
    "begin; declare c cursor for select * from items; fetch 3 from c; commit; select twice(2)",
    "set work_mem = '5MB'; deallocate all; prepare q as select 1; listen x; select pg_advisory_lock(1)",
    "update items set price = 0 where false; delete from items where id < 0",
];

/// Autovacuum may analyze the shared catalogs from within a clone, which writes statistics there.
fn tries(clean: bool) -> usize {
    if clean { 3 } else { 1 }
}

/// NAME stands for the database.
const WRITES: [&str; 33] = [
    "insert into empty (what) values ('x')",
    "update items set price = price where id = 3",
    "delete from items where id = 50",
    "begin; insert into users values (7, 'x'); rollback",
    "begin; savepoint s; delete from items; rollback to s; commit",
    "truncate empty",
    "truncate items restart identity",
    "insert into fleeting values (2)",
    "copy fleeting from stdin",
    "select nextval('numbers')",
    "begin; select nextval('numbers'); rollback",
    "select setval('items_id_seq', 1, false)",
    "alter sequence numbers restart",
    "create table more (id int)",
    "begin; create table more (id int); rollback",
    "create temp table t (id int)",
    "create temp table t as select 1 as id; drop table t",
    "comment on table items is 'x'",
    "grant select on items to public",
    "alter default privileges grant select on tables to public",
    "refresh materialized view totals",
    "select lo_create(4712)",
    "select lo_put(4711, 0, 'L')",
    "reindex table items",
    "analyze empty",
    "vacuum items",
    "alter database \"NAME\" set work_mem = '6MB'",
    "alter role current_user in database \"NAME\" set work_mem = '6MB'",
    "grant temporary on database \"NAME\" to current_user with grant option",
    "alter database \"NAME\" connection limit 7",
    "do $$ begin execute format('comment on database %I is %L', current_database(),
       'x' || shobj_description((select oid from pg_database where datname = current_database()), 'pg_database')); end $$",
    "insert into users values (1, 'x') on conflict (id) do update set name = excluded.name",
    "do $$ begin insert into users values (8, 'x'); raise exception 'no'; exception when others then null; end $$",
];

pub(crate) async fn run(session: &mut PgConnection, name: &str, sql: &str) {
    let sql = sql.replace("NAME", name);
    if sql.starts_with("copy") {
        let mut copy = session.copy_in_raw(&sql).await.unwrap();
        copy.send(b"5\n".as_slice()).await.unwrap();
        copy.finish().await.unwrap();
        return;
    }
    session
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())))
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_clones_that_were_only_read_are_warm_again() {
    let shelf = Shelf::new(server(), "").await;
    for (sqls, clean) in [(&READS[..], true), (&WRITES[..], false)] {
        for sql in sqls {
            let mut warm = false;
            for _ in 0..tries(clean) {
                let lease = shelf.stencil.database().await.unwrap();
                let mut session = shelf.enter(&lease).await;
                run(&mut session, lease.name(), sql).await;
                session.close().await.unwrap();
                warm |= shelf.is_warm_after(lease).await;
            }
            assert_eq!(warm, clean && proves(server()), "{sql}");
        }
    }
    // It is handed out, under another name.
    let first = shelf.stencil.database().await.unwrap();
    let name = first.name().to_owned();
    shelf.is_warm_after(first).await;
    let second = shelf.stencil.database().await.unwrap();
    assert_ne!(second.name(), name);
    second.release().await.unwrap();
    shelf.stencil.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_stay_are_ended_and_counted() {
    let shelf = Shelf::new(server(), "").await;
    let lease = shelf.stencil.database().await.unwrap();
    let mut session = shelf.enter(&lease).await;
    run(&mut session, "", "begin; insert into users values (7, 'x')").await;
    assert!(!shelf.is_warm_after(lease).await, "its transaction was open");
    assert!(session.ping().await.is_err());

    let mut warm = false;
    for _ in 0..tries(true) {
        let lease = shelf.stencil.database().await.unwrap();
        let mut session = shelf.enter(&lease).await;
        run(&mut session, "", "begin; select * from users").await;
        warm |= shelf.is_warm_after(lease).await;
        assert!(session.ping().await.is_err());
    }
    assert_eq!(warm, proves(server()));

    // An ordinary role cannot end the session of a superuser, who may write until it leaves.
    let lease = shelf.stencil.database().await.unwrap();
    let oid = format!("select oid from pg_database where datname = '{}'", lease.name());
    let oid = server().psql("postgres", &oid);
    let mut other = server().connect(lease.name()).await;
    lease.release().await.unwrap();
    shelf.stencil.close().await;
    run(&mut other, "", "insert into users values (7, 'x')").await;
    other.close().await.unwrap();
    let gone = async || {
        shelf.stencil.database().await.unwrap().release().await.unwrap();
        shelf.stencil.close().await;
        server().psql("postgres", &format!("select count(*) from pg_database where oid = {oid}")) == "0"
    };
    assert!(eventually_async(PATIENCE, gone).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_that_cannot_be_trusted_are_no_proof() {
    let shelf = Shelf::new(server(), "").await;
    for sql in [
        "select pg_stat_reset()",
        "select pg_stat_reset_single_table_counters('users'::regclass)",
        "insert into users values (7, 'x'); select pg_sleep(0.1); select pg_stat_reset()",
        "create function pg_temp.f() returns int language sql set track_counts = off as 'select 1'",
        "alter role current_user in database \"NAME\" set track_counts = off",
    ] {
        let lease = shelf.stencil.database().await.unwrap();
        let mut session = server().connect(lease.name()).await;
        run(&mut session, lease.name(), sql).await;
        session.close().await.unwrap();
        assert!(!shelf.is_warm_after(lease).await, "{sql}");
    }
    let lease = shelf.stencil.database().await.unwrap();
    let mut session = shelf.enter(&lease).await;
    for sql in [
        "set track_counts = off",
        "select set_config('track_counts', 'off', false)",
        "create function f() returns int language sql set track_counts = off as 'select 1'",
        "alter role current_user set track_counts = off",
        "select pg_stat_reset()",
    ] {
        let refused = session.execute(sqlx::raw_sql(sql)).await;
        assert!(refused.is_err(), "an ordinary role may {sql}");
    }
    session.close().await.unwrap();
    shelf.is_warm_after(lease).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_superusers_clones_are_only_recycled_if_the_config_insists() {
    let mut project = Project::with_migrations(server());
    contents(&project, "");
    let url = server().url("postgres");
    project.connect_to(url);
    for (recycle, expected) in [("auto", false), ("never", false), ("clean", proves(server()))] {
        let config = project.read("pgstencil.toml");
        let lines: Vec<&str> = config.lines().filter(|line| !line.starts_with("recycle")).collect();
        let config = lines.join("\n").replace("warm = 1", &format!("warm = 1\nrecycle = \"{recycle}\""));
        project.write("pgstencil.toml", &config);
        let stencil = open(&project).await;
        let mut warm = false;
        for _ in 0..tries(expected) {
            stencil.database().await.unwrap().release().await.unwrap();
            stencil.close().await;
            warm |= registry(&project, "select count(*) from pgstencil.clone where state = 'warm'") != "0";
        }
        assert_eq!(warm, expected, "{recycle}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_with_hooks_or_of_a_full_shelf_is_dropped() {
    let shelf = Shelf::new(server(), "").await;
    let mut leases = Vec::new();
    for _ in 0..6 {
        leases.push(shelf.stencil.database().await.unwrap());
    }
    for lease in leases {
        lease.release().await.unwrap();
    }
    shelf.stencil.close().await;
    let warm = "select count(*) from pgstencil.clone where state = 'warm'";
    let warm: usize = registry(&shelf.project, warm).parse().unwrap();
    assert!(if proves(server()) { (1..=4).contains(&warm) } else { warm == 0 }, "{warm}");
    assert_eq!(registry(&shelf.project, "select count(*) from pgstencil.clone"), warm.to_string());

    let config = shelf.project.read("pgstencil.toml");
    let hooked = config.replacen("build =", "after_clone_sql = { app = \"select 1\" }\nbuild =", 1);
    let hooked = if hooked == config { format!("{config}\n") } else { hooked };
    shelf.project.write("pgstencil.toml", &hooked);
    let stencil = open(&shelf.project).await;
    let lease = stencil.database().await.unwrap();
    let oid = format!("select oid from pg_database where datname = '{}'", lease.name());
    let oid = server().psql("postgres", &oid);
    lease.release().await.unwrap();
    stencil.close().await;
    assert_eq!(
        server().psql("postgres", &format!("select count(*) from pg_database where oid = {oid}")),
        "0"
    );
}

/// What a crash of the server takes from the counters, it takes from the registry, too.
#[test]
fn after_a_crash_of_the_server_nothing_is_recycled() {
    let server = TestServer::private();
    let project = Project::with_migrations(&server);
    contents(&project, "recycle = \"clean\"");
    let name = |url: &str| url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    for how in [None, Some(Stop::Fast)] {
        let clone = Pgstencil::new(&project).arg("clone").success();
        let clone = name(clone.stdout.trim());
        let oid = server.psql("postgres", &format!("select oid from pg_database where datname = '{clone}'"));
        server.psql(&clone, "insert into users values (7, 'x')");
        server.psql(&clone, "checkpoint");
        match how {
            None => {
                server.kill9();
                server.start();
            }
            Some(how) => server.restart(how),
        }
        Pgstencil::new(&project).args(["release", &clone]).success();
        let gone =
            || server.psql("postgres", &format!("select count(*) from pg_database where oid = {oid}")) == "0";
        assert!(eventually(PATIENCE, gone), "{how:?}");
    }
}

/// Whatever question of the cleanup is the last one, the clone is either warm, as it was created, or still to drop.
#[test]
fn a_cleanup_that_is_cut_off_leaves_a_clone_to_the_next_one() {
    if !proves(server()) {
        return;
    }
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    contents(&project, "");
    Pgstencil::new(&project).arg("ensure").success();
    let proxy = Proxy::new(server());
    project.connect_to(proxy.relayed(server(), project.server_url()));
    let name = |url: &str| url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    for at in (4..=40).step_by(3) {
        let clone = Pgstencil::new(&project).arg("clone").success();
        let clone = name(clone.stdout.trim());
        release_cut_off(&project, &proxy, &clone, at);
    }
}

/// Releases a clone while the relay breaks off at one of the questions, and cleans up. No clone is half recycled then.
pub(crate) fn release_cut_off(project: &Project<'_>, proxy: &Proxy, clone: &str, at: usize) {
    proxy.plan(at, if at.is_multiple_of(2) { Fault::CutBefore } else { Fault::CutAfter });
    Pgstencil::new(project).args(["release", clone]).run();
    let fits = || {
        let released = "select count(*) from pgstencil.clone where state = 'released'";
        registry(project, released) == "0"
    };
    eventually(std::time::Duration::from_secs(3), fits);
    proxy.heal();
    Pgstencil::new(project).arg("evict").success();
    assert!(eventually(PATIENCE, fits), "{at}");
    assert_eq!(registry(project, WRONG), "0", "{at}");
}

impl Shelf<'_> {
    /// Leaves a clone released, which no cleanup has seen: in the state in which a killed program leaves it. Returns its
    /// oid. `sql`: what its holder did.
    pub(crate) async fn leave_released(&self, sql: &str) -> String {
        let lease = self.stencil.database().ttl(std::time::Duration::from_secs(3600)).await.unwrap();
        let mut session = self.enter(&lease).await;
        run(&mut session, lease.name(), sql).await;
        session.close().await.unwrap();
        self.stencil.close().await;
        let oid = self.oid_of(lease.name());
        let name = lease.name();
        registry(
            &self.project,
            &format!("update pgstencil.clone set state = 'released' where name = '{name}'"),
        );
        oid
    }

    pub(crate) fn oid_of(&self, name: &str) -> String {
        self.project
            .server()
            .psql("postgres", &format!("select oid from pg_database where datname = '{name}'"))
    }

    /// Has all clones dropped that nothing holds.
    pub(crate) fn empty(&self) {
        let all = "delete from pgstencil.counted; update pgstencil.clone set state = 'released' where state = 'warm'";
        registry(&self.project, all);
        let gone = || {
            Pgstencil::new(&self.project).arg("evict").success();
            registry(&self.project, "select count(*) from pgstencil.clone where state <> 'leased'") == "0"
        };
        assert!(eventually(PATIENCE, gone));
    }

    /// Requests a clone, and returns its oid; without a session in it.
    pub(crate) async fn take(&self) -> (Lease, String) {
        let lease = self.stencil.database().await.unwrap();
        let oid = self.oid_of(lease.name());
        (lease, oid)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_warm_clone_recycles_a_released_one() {
    let shelf = Shelf::new(server(), "").await;
    let mut again = false;
    for _ in 0..tries(true) {
        let oid = shelf.leave_released("select * from items").await;
        let (lease, taken) = shelf.take().await;
        again |= oid == taken;
        lease.release().await.unwrap();
        shelf.stencil.close().await;
        shelf.empty();
    }
    assert_eq!(again, proves(server()));
    // The sum of the database shows the first; the second is seen only within it.
    for sql in ["insert into empty (what) values ('x')", "select nextval('numbers')"] {
        let oid = shelf.leave_released(sql).await;
        let (lease, taken) = shelf.take().await;
        assert_ne!(oid, taken, "{sql}");
        let counted = format!(
            "select count(*) from pgstencil.database d join pgstencil.counted n using (clone_id) where d.oid = {oid}"
        );
        if sql.contains("nextval") {
            assert_eq!(registry(&shelf.project, &counted), "0", "another request would look again");
        }
        lease.release().await.unwrap();
        shelf.stencil.close().await;
        let there = format!("select count(*) from pg_database where oid = {oid}");
        assert_eq!(server().psql("postgres", &there), "0");
        shelf.empty();
    }
}

/// Two programs with two clients each, and one released clone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_clone_is_recycled_for_one_request_only() {
    let shelf = Shelf::new(server(), "").await;
    let another = open(&shelf.project).await;
    let mut again = 0;
    for _ in 0..6 {
        let oid = shelf.leave_released("select * from items").await;
        let requests = [&shelf.stencil, &another, &shelf.stencil, &another].map(|stencil| async {
            let lease = stencil.database().await.unwrap();
            let oid = shelf.oid_of(lease.name());
            (lease, oid)
        });
        let [a, b, c, d] = requests;
        let leases = tokio::join!(a, b, c, d);
        let leases = [leases.0, leases.1, leases.2, leases.3];
        let oids: std::collections::HashSet<&String> = leases.iter().map(|(_, oid)| oid).collect();
        assert_eq!(oids.len(), 4);
        again += usize::from(oids.contains(&oid));
        for (lease, _) in leases {
            lease.release().await.unwrap();
        }
        shelf.stencil.close().await;
        another.close().await;
        shelf.empty();
    }
    assert!(again > 0 || !proves(server()), "none was recycled");
}

/// Whatever question of a request is the last one, the clone is either warm, as it was created, or still to drop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_cut_off_leaves_a_clone_to_the_cleanup() {
    if !proves(server()) {
        return;
    }
    let shelf = Shelf::new(server(), "").await;
    let lease = shelf.stencil.database().await.unwrap();
    let expected: String = sqlx::query_scalar(SEEN).fetch_one(&mut shelf.enter(&lease).await).await.unwrap();
    lease.release().await.unwrap();
    let proxy = Proxy::new(server());
    let config = shelf.project.path().join("pgstencil.toml");
    let relayed = proxy.relayed(server(), shelf.project.server_url());
    for at in (1..=46).step_by(3) {
        shelf.leave_released("select * from items").await;
        let cut_off = Stencil::open(&config).server_url(&relayed).await.unwrap();
        proxy.plan(at, if at.is_multiple_of(2) { Fault::CutBefore } else { Fault::CutAfter });
        drop(cut_off.database().await);
        proxy.heal();
        cut_off.close().await;
        let (lease, _) = shelf.take().await;
        let mut session = shelf.enter(&lease).await;
        let seen: String = sqlx::query_scalar(SEEN).fetch_one(&mut session).await.unwrap();
        assert_eq!(seen, expected, "{at}");
        session.close().await.unwrap();
        lease.release().await.unwrap();
        let fits = async || {
            shelf.stencil.close().await;
            Pgstencil::new(&shelf.project).arg("evict").success();
            registry(&shelf.project, "select count(*) from pgstencil.clone where state = 'released'") == "0"
        };
        assert!(eventually_async(PATIENCE, fits).await, "{at}");
        assert_eq!(registry(&shelf.project, WRONG), "0", "{at}");
        shelf.empty();
    }
}

/// Warm clones that are not as they should be.
const WRONG: &str = "select count(*) from pgstencil.clone c join pgstencil.database d on d.clone_id = c.id \
     left join pg_database p on p.oid = d.oid \
     where c.state = 'warm' and (p.oid is null or p.datallowconn or p.datname <> d.private_name)";

/// Random reads and writes, from a seed; none may be seen by the next holder. PGSTENCIL_TEST_HANDOUTS sets their number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_holder_sees_what_an_earlier_one_wrote() {
    let number = std::env::var("PGSTENCIL_TEST_HANDOUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(30_u64);
    let shelf = Shelf::new(server(), "").await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64 ^ number;
    let mut next = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    let mut expected: Option<String> = None;
    let mut again = 0;
    for n in 0..number {
        let clients = 1 + next(4);
        let mut leases = Vec::new();
        for _ in 0..clients {
            leases.push(shelf.stencil.database().await.unwrap());
        }
        for lease in &leases {
            let mut session = shelf.enter(lease).await;
            let seen: String = sqlx::query_scalar(SEEN).fetch_one(&mut session).await.unwrap();
            let known = expected.get_or_insert_with(|| seen.clone());
            assert_eq!(*known, seen, "hand-out {n}");
            // To look at a sequence counts as a write.
            if next(3) == 0 {
                let numbers = "select concat(last_value, is_called) from numbers";
                let at: String = sqlx::query_scalar(numbers).fetch_one(&mut session).await.unwrap();
                assert_eq!(at, "1f", "hand-out {n}");
                let items = "select concat(last_value, is_called) from items_id_seq";
                let at: String = sqlx::query_scalar(items).fetch_one(&mut session).await.unwrap();
                assert_eq!(at, "50t", "hand-out {n}");
            }
            for _ in 0..next(3) {
                let sql = match next(3) {
                    0 => WRITES[next(WRITES.len())],
                    _ => READS[next(READS.len())],
                };
                run(&mut session, lease.name(), sql).await;
            }
            if next(2) == 0 {
                session.close().await.unwrap();
            } else {
                drop(session);
            }
        }
        for lease in leases {
            lease.release().await.unwrap();
        }
        if next(4) == 0 {
            shelf.stencil.close().await;
            let warm = registry(&shelf.project, "select count(*) from pgstencil.clone where state = 'warm'");
            again += warm.parse::<usize>().unwrap();
        }
    }
    shelf.stencil.close().await;
    assert!(again > 0 || !proves(server()), "none was recycled");
}

/// The same with eight clients at once, each of which holds one clone at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_clients_see_nothing_of_each_other() {
    let number = std::env::var("PGSTENCIL_TEST_HANDOUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(48_u64);
    let shelf = Arc::new(Shelf::new(server(), "recycle = \"clean\"\n").await);
    let lease = shelf.stencil.database().await.unwrap();
    let expected: String = sqlx::query_scalar(SEEN).fetch_one(&mut shelf.enter(&lease).await).await.unwrap();
    lease.release().await.unwrap();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (shelf, expected) = (Arc::clone(&shelf), expected.clone());
            tokio::spawn(async move {
                let mut seed = 0x9e37_79b9_7f4a_7c15_u64 ^ (number << 8) ^ client;
                let mut next = |below: usize| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    usize::try_from(seed % below as u64).unwrap()
                };
                for n in 0..number.div_ceil(8) {
                    let lease = shelf.stencil.database().await.unwrap();
                    let mut session = shelf.enter(&lease).await;
                    let seen: String = sqlx::query_scalar(SEEN).fetch_one(&mut session).await.unwrap();
                    assert_eq!(expected, seen, "client {client}, hand-out {n}");
                    // Most only read.
                    for _ in 0..next(3) {
                        let sql = match next(6) {
                            0 => WRITES[next(WRITES.len())],
                            _ => READS[next(READS.len())],
                        };
                        run(&mut session, lease.name(), sql).await;
                    }
                    match next(2) {
                        0 => session.close().await.unwrap(),
                        _ => drop(session),
                    }
                    lease.release().await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    shelf.stencil.close().await;
    let others = "select count(*) from pgstencil.clone where state <> 'warm'";
    assert_eq!(registry(&shelf.project, others), "0");
}

/// All that a session can see of a clone's contents but for sequences.
const SEEN: &str = "select md5(concat_ws(';',
    (select string_agg(i::text, ',' order by id) from items i),
    (select string_agg(e::text, ',' order by id) from empty e),
    (select string_agg(u::text, ',' order by id) from users u),
    (select string_agg(o::text, ',' order by id) from orders o),
    (select string_agg(f::text, ',' order by what) from fleeting f),
    (select string_agg(t::text, ',') from totals t),
    (select string_agg(concat(l.loid, encode(l.data, 'hex')), ',' order by l.loid)
       from (select oid as loid, lo_get(oid) as data from pg_largeobject_metadata) l),
    (select string_agg(concat(c.relname, c.relkind, c.relacl, c.relfilenode), ',' order by c.relname)
       from pg_class c where c.relnamespace = 'public'::regnamespace),
    (select count(*) from pg_class), (select count(*) from pg_attribute), (select count(*) from pg_proc),
    (select count(*) from pg_type), (select count(*) from pg_depend), (select count(*) from pg_namespace where nspname !~ '^pg_(toast_)?temp'),
    (select count(*) from pg_default_acl), (select count(*) from pg_description),
    current_setting('work_mem'),
    (select concat(datconnlimit, datacl) from pg_database where datname = current_database()),
    (select string_agg(setconfig::text, ',') from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
      where d.datname = current_database())))";
