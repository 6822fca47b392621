//! `recycle = "wash"`: released clones in which only rows of some tables were written are put right.

use std::time::Instant;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use pgstencil::internals::inventory::{self, Ignored, Inventory, Reading};
use pgstencil::internals::{Deadline, Defaults, Endpoint, Session};
use pgstencil::{ServerUrl, Stencil};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use crate::recycle::{READS, Shelf, open, proves, release_cut_off, run};
use crate::support::extension::registry;
use crate::support::server::{PATIENCE, TestServer};
use crate::support::{Pgstencil, Project, Proxy, Role, eventually, random_id, server};

const CONTENTS: &str = include_str!("wash.sql");
const WASH: &str = "recycle = \"wash\"\n";

/// What is put right. NAME stands for the database.
const WASHED: [&str; 38] = [
    "insert into teams (name) values ('x')",
    "insert into people (price, doc) select n, repeat(md5(n::text), 400) from generate_series(1, 20) n",
    "insert into teams (name) values ('x'); insert into people (team, setting) values (1, 'a'); update teams set leader = 100",
    "insert into people (price) values (1); update people set price = 2; delete from people",
    "begin; insert into teams (name) values ('x'); rollback",
    "begin; insert into people (price) values (1); savepoint s; insert into teams (name) values ('x'); rollback to s; commit",
    "insert into people overriding system value values (7)",
    "insert into events (day, what) values ('2020-05-05', 'a'), ('2021-05-05', 'b'), ('2023-05-05', 'c')",
    "insert into events (day) select '2021-05-05' from generate_series(1, 9); update events set day = '2020-05-05'",
    "insert into events values (1, '2020-05-05'); insert into notes values (1, '2020-05-05', 'x')",
    "insert into events_new_1 (id, day) select n, '2021-05-05' from generate_series(1, 50) n \
        where satisfies_hash_partition('events_new'::regclass, 2, 1, n::bigint)",
    "insert into of_half values (11)",
    "insert into half values (1); insert into of_half values (1)",
    "insert into dogs values ('Rex', true)",
    "insert into watched values (1, 'x'); update watched set what = 'y'; delete from watched",
    "insert into ruled values (1)",
    "insert into secret values (1)",
    "insert into fleeting (what) values ('x')",
    "insert into published values (1); update published set id = 2",
    "insert into moods values (1, 'bad')",
    "insert into was_full default values",
    "insert into two default values",
    "copy moods (id) from stdin",
    "select nextval('alone')",
    "begin; select nextval('alone'); rollback",
    "select nextval('turned'), nextval('turned'), nextval('turned'), nextval('turned')",
    "select nextval('moved'), nextval('set_back')",
    "select setval('moved', 99), setval('set_back', 5, true), setval('alone', 7, false)",
    "select currval('moved') from nextval('moved')",
    "select last_value from alone",
    "select setval('people_id_seq', 100000)",
    "insert into moods values (1, 'bad') on conflict do nothing; select * from people_of",
    "do $$ begin insert into moods values (1, 'bad'); raise exception 'no'; exception when others then null; end $$",
    "with x as (insert into moods values (3, 'good') returning id) insert into was_full select id from x",
    "insert into log (said) select repeat('x', 100) from generate_series(1, 5000)",
    "begin; declare c cursor with hold for select 1; insert into moods values (3, 'good'); commit; notify x",
    "begin; lock table people in access exclusive mode; insert into people (price) values (1); commit",
    "merge into moods m using (values (1)) v (id) on m.id = v.id when not matched then insert values (v.id, 'good')",
];

/// What has the clone dropped.
const DROPPED: [&str; 54] = [
    "insert into settings values ('c', '3')",
    "update settings set value = value",
    "begin; delete from settings; rollback",
    "insert into half values (12)",
    "insert into animals values ('a')",
    "insert into cats values ('b')",
    "insert into empty_one values (1)",
    "insert into caught values (1)",
    "insert into refused values (1)",
    "insert into kept values (1)",
    "insert into deleted values (2)",
    "insert into users values (7, 'x')",
    "truncate log",
    "truncate people, teams, events, notes restart identity",
    "begin; insert into moods values (1, 'bad'); truncate moods; commit",
    "begin; insert into moods values (1, 'bad'); truncate moods; rollback",
    "insert into moods values (1, 'bad'); truncate moods",
    "create table more (id int); drop table more",
    "begin; create table more (id int); insert into more values (1); rollback",
    "create temp table t as select 1 as id",
    "create temp table moods as select 1 as id; insert into moods values (2); drop table moods",
    "insert into moods values (1, 'bad'); alter table moods add column more int",
    "alter table moods rename to humours; alter table humours rename to moods",
    "alter table watched disable trigger watch; insert into watched values (1, 'x')",
    "alter sequence alone restart",
    "alter sequence alone increment 5",
    "alter sequence alone owned by moods.id",
    "alter type mood add value 'fair'",
    "create policy more on secret for insert with check (true)",
    "create index on moods (mood)",
    "insert into moods values (1, 'bad'); create index on moods (mood); drop index moods_mood_idx",
    "reindex table people",
    "insert into moods values (1, 'bad'); analyze moods",
    "analyze moods",
    "vacuum moods",
    "vacuum full moods",
    "cluster people using people_pkey",
    "comment on table moods is 'x'",
    "grant select on moods to public",
    "revoke insert on moods from current_user; grant insert on moods to current_user",
    "alter default privileges grant select on tables to public",
    "refresh materialized view totals",
    "select lo_create(4712)",
    "select lo_put(4711, 0, 'L')",
    "insert into moods values (1, 'bad'); select lo_unlink(4711)",
    "alter database \"NAME\" set work_mem = '6MB'",
    "insert into moods values (1, 'bad'); alter role current_user in database \"NAME\" set work_mem = '6MB'",
    "grant temporary on database \"NAME\" to current_user with grant option",
    "alter publication all_of_it drop table published",
    "alter table published replica identity full",
    "drop statistics people_stats",
    "create function f() returns int language sql as 'select 1'",
    "alter function note() set search_path = public",
    "create schema more; drop schema more",
];

fn endpoint(url: &str) -> Endpoint {
    Endpoint::new(ServerUrl::parse(url).unwrap(), &Defaults::default()).unwrap()
}

/// All of a database that can be compared: the inventory with the contents of all rows, and what the planner knows.
#[derive(PartialEq)]
struct Whole {
    inventory: Inventory,
    planner: String,
}

impl Whole {
    async fn read(server: &TestServer, database: &str) -> Self {
        let endpoint = endpoint(&server.url(database));
        let mut session = Session::open(&endpoint, database, &Deadline::default()).await.unwrap();
        let reading = Reading { veil: "", rows: Some(&Ignored::default()) };
        let inventory = inventory::read(&mut session, &reading).await.unwrap();
        session.close().await;
        let mut session = server.connect(database).await;
        let planner = sqlx::query_scalar(PLANNER).fetch_one(&mut session).await.unwrap();
        session.close().await.unwrap();
        Whole { inventory, planner }
    }

    #[track_caller]
    fn assert_equals(&self, other: &Self, why: &str) {
        let difference = inventory::diff(&self.inventory, &other.inventory, "template", "clone").to_string();
        assert_eq!(difference, "", "{why}");
        assert!(self.inventory.contents == other.inventory.contents, "rows: {why}");
        let (own, others): (Vec<_>, Vec<_>) =
            (self.planner.lines().collect(), other.planner.lines().collect());
        for (own, other) in own.iter().zip(&others) {
            assert_eq!(own, other, "{why}");
        }
        assert_eq!(own.len(), others.len(), "{why}");
    }
}

/// Of each relation its size and the planner's estimates; the planner's statistics; and the catalogs of relations, but
/// for files and transaction ids, which a TRUNCATE renews. No plan depends on the estimates of TOAST tables.
const PLANNER: &str = "select string_agg(l, e'\\n' order by l) from (
    select format('%s: %s bytes', c.oid::regclass, pg_relation_size(c.oid))
      from pg_class c where c.oid >= 16384 and c.relkind in ('r', 'i', 'm', 't', 'S')
    union all
    select format('%s: %s', c.oid::regclass, to_jsonb(c) - 'relfilenode' - 'relfrozenxid' - 'relminmxid'
             - case c.relnamespace when 'pg_toast'::regnamespace then '{relpages,reltuples}' else '{}' end::text[])
      from pg_class c where c.oid >= 16384
    union all
    select 'statistics ' || md5(string_agg(to_jsonb(s)::text, ';' order by starelid, staattnum, stainherit))
      from pg_statistic s where starelid >= 16384
    union all
    select format('column %s', to_jsonb(a)) from pg_attribute a where a.attrelid >= 16384
    union all
    select format('index %s', to_jsonb(i)) from pg_index i where i.indrelid >= 16384
    union all
    select format('constraint %s', to_jsonb(c)) from pg_constraint c where c.oid >= 16384
    union all
    select format('trigger %s', to_jsonb(t)) from pg_trigger t where t.oid >= 16384) l (l)";

/// A copy of the template, made by the superuser.
async fn template_of(project: &Project<'_>) -> Whole {
    let template = registry(
        project,
        "select d.name from pgstencil.database d join pgstencil.template t on t.id = d.template_id where t.state = 'ready'",
    );
    let copy = format!("copy_{}", random_id());
    project.server().psql("postgres", &format!("create database {copy} template \"{template}\""));
    let whole = Whole::read(project.server(), &copy).await;
    project.server().drop_database(&copy);
    whole
}

/// Runs statements in a clone of its own, and returns whether that became warm again. The next clone must equal the
/// template.
async fn is_washed(shelf: &Shelf<'_>, template: &Whole, sql: &str) -> bool {
    let server = shelf.project.server();
    let lease = shelf.stencil.database().await.unwrap();
    let mut session = shelf.enter(&lease).await;
    run(&mut session, lease.name(), sql).await;
    session.close().await.unwrap();
    let warm = shelf.is_warm_after(lease).await;
    if warm {
        let lease = shelf.stencil.database().await.unwrap();
        template.assert_equals(&Whole::read(server, lease.name()).await, sql);
        lease.release().await.unwrap();
        shelf.stencil.close().await;
    }
    warm
}

async fn each_is_right_or_dropped(role: Role<'static>) {
    let one = Shelf::with(server(), role, CONTENTS, WASH).await;
    let first = one.stencil.database().await.unwrap();
    let template = template_of(&one.project).await;
    template.assert_equals(&Whole::read(server(), first.name()).await, "the first one");
    first.release().await.unwrap();
    one.stencil.close().await;
    let merges = |sql: &str| server().version_major() >= 15 || !sql.starts_with("merge");
    for sql in WASHED.into_iter().filter(|sql| merges(sql)) {
        // Autovacuum may have been there.
        let mut warm = false;
        for _ in 0..3 {
            warm = warm || is_washed(&one, &template, sql).await;
        }
        assert_eq!(warm, proves(server()), "{sql}");
    }
    for sql in DROPPED {
        assert!(!is_washed(&one, &template, sql).await, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_is_washed_out_or_the_clone_is_dropped() {
    each_is_right_or_dropped(Role::new(server())).await;
}

/// A superuser may do what no other role may: the config asks for its clones, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_superusers_clones_are_washed_as_well() {
    if !proves(server()) {
        return;
    }
    let role = Role::with(server(), "superuser", &random_id());
    let events = "create function told() returns event_trigger language plpgsql as
            $$ begin insert into public.log (said) values (tg_tag); end $$;
        create event trigger starts on ddl_command_start execute function told();
        create event trigger ends on ddl_command_end execute function told();
        create event trigger rewrites on table_rewrite execute function told();
        create event trigger drops on sql_drop execute function told();
        truncate log restart identity;";
    let shelf = Shelf::with(server(), role, &format!("{CONTENTS}{events}"), WASH).await;
    shelf.stencil.database().await.unwrap().release().await.unwrap();
    let template = template_of(&shelf.project).await;
    for (sql, expected) in [
        (WASHED[2], true),
        (WASHED[8], true),
        ("insert into kept values (1)", true),
        ("set session_replication_role = replica; insert into people (team, price) values (77, 1)", true),
        ("set session_replication_role = replica; insert into caught values (1)", false),
        ("create extension pg_trgm", false),
        ("alter event trigger starts disable; insert into moods values (1, 'bad')", false),
        ("alter table moods set unlogged", false),
    ] {
        let mut warm = false;
        for _ in 0..if expected { 3 } else { 1 } {
            warm = warm || is_washed(&shelf, &template, sql).await;
        }
        assert_eq!(warm, expected, "{sql}");
    }
}

/// Rows that a prepared transaction wrote are rows as others; one that is left is a reason for a drop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_are_seen() {
    let server = TestServer::private_with("max_prepared_transactions = 5\n");
    if !proves(&server) {
        return;
    }
    let shelf = Shelf::with(&server, Role::new(&server), CONTENTS, WASH).await;
    shelf.stencil.database().await.unwrap().release().await.unwrap();
    let template = {
        shelf.stencil.close().await;
        let name = server.psql(
            &shelf.project.registry(),
            "select d.name from pgstencil.database d join pgstencil.template t on t.id = d.template_id where t.state = 'ready'",
        );
        server.psql("postgres", &format!("create database copied template \"{name}\""));
        Whole::read(&server, "copied").await
    };
    for (sql, expected) in [
        ("begin; insert into moods values (1, 'bad'); prepare transaction 'a'; commit prepared 'a'", true),
        ("begin; insert into moods values (1, 'bad'); prepare transaction 'a'; rollback prepared 'a'", true),
        ("begin; update settings set value = value; prepare transaction 'a'; rollback prepared 'a'", false),
        (
            "begin; insert into moods values (1, 'bad'); truncate moods; prepare transaction 'a'; commit prepared 'a'",
            false,
        ),
    ] {
        let mut warm = false;
        // Autovacuum may have been there.
        for _ in 0..if expected { 4 } else { 1 } {
            let lease = shelf.stencil.database().await.unwrap();
            template.assert_equals(&Whole::read(&server, lease.name()).await, sql);
            let oid = format!("select oid from pg_database where datname = '{}'", lease.name());
            let oid = server.psql("postgres", &oid);
            let mut session = shelf.enter(&lease).await;
            for statement in sql.split("; ") {
                run(&mut session, lease.name(), statement).await;
            }
            session.close().await.unwrap();
            lease.release().await.unwrap();
            shelf.stencil.close().await;
            let there = format!("select count(*) from pg_database where oid = {oid}");
            warm |= server.psql("postgres", &there) == "1";
        }
        assert_eq!(warm, expected, "{sql}");
    }
    let lease = shelf.stencil.database().await.unwrap();
    let name = lease.name().to_owned();
    let mut session = shelf.enter(&lease).await;
    run(&mut session, &name, "begin; insert into moods values (1, 'bad'); prepare transaction 'left'").await;
    session.close().await.unwrap();
    lease.release().await.unwrap();
    shelf.stencil.close().await;
    let warm = "select count(*) from pgstencil.clone c join pgstencil.database d on d.clone_id = c.id \
         join pg_prepared_xacts x join pg_database p on p.datname = x.database on p.oid = d.oid where c.state = 'warm'";
    assert_eq!(server.psql(&shelf.project.registry(), warm), "0");
    assert_eq!(server.psql("postgres", "select count(*) from pg_prepared_xacts"), "1");
}

fn name_of(url: &str) -> String {
    url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned()
}

fn oid_of(name: &str) -> String {
    server().psql("postgres", &format!("select oid from pg_database where datname = '{name}'"))
}

/// What a person sees: the database comes back, under another name and as new. It does not with another setting, nor
/// after a hundred times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_gets_a_washed_clone() {
    if !proves(server()) {
        return;
    }
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    project.add_migration("0003_contents", CONTENTS);
    project.append_config(&format!("[clone]\nwarm = 1\n{WASH}"));
    let write = async |name: &str| {
        let mut session = role.options(name).connect().await.unwrap();
        run(
            &mut session,
            name,
            "insert into people (price) values (1); insert into teams (name) values ('x')",
        )
        .await;
        session.close().await.unwrap();
    };
    let clone = || name_of(Pgstencil::new(&project).arg("clone").success().stdout.trim());
    let state = |oid: &str| {
        let sql = "select c.state from pgstencil.clone c join pgstencil.database d on d.clone_id = c.id where d.oid = ";
        registry(&project, &format!("{sql}{oid}"))
    };
    let release = |name: &str, expected: &str| {
        let oid = oid_of(name);
        Pgstencil::new(&project).args(["release", name]).success();
        assert!(eventually(PATIENCE, || state(&oid) == expected), "{}", state(&oid));
        oid
    };
    let mut template = None;
    // There is no room for a clone after all if another one was created meanwhile, and the demand has faded.
    let until = Instant::now() + PATIENCE;
    let (first, oid) = loop {
        let first = clone();
        if template.is_none() {
            template = Some(template_of(&project).await);
        }
        write(&first).await;
        let oid = oid_of(&first);
        Pgstencil::new(&project).args(["release", &first]).success();
        assert!(eventually(PATIENCE, || ["warm", ""].contains(&state(&oid).as_str())), "{}", state(&oid));
        if state(&oid) == "warm" {
            break (first, oid);
        }
        assert!(Instant::now() < until, "no clone was washed");
    };
    let template = template.unwrap();
    assert_eq!(registry(&project, "select sum(washed) from pgstencil.counted"), "1");
    let log =
        std::fs::read_to_string(project.home().join(".cache/pgstencil/background.log")).unwrap_or_default();
    assert!(
        log.is_empty() || log.contains("is warm again, after the rows that were written to it were removed"),
        "{log}"
    );
    // There may be another warm clone, which is older or younger.
    let mut found = false;
    for _ in 0..4 {
        let again = clone();
        assert_ne!(again, first);
        template.assert_equals(&Whole::read(server(), &again).await, "by the command");
        found |= oid_of(&again) == oid;
    }
    assert!(found);

    let config = project.read("pgstencil.toml");
    for (recycle, washed) in [("clean", 0), ("auto", 0), ("never", 0), ("wash", 100)] {
        project.write("pgstencil.toml", &config.replace("\"wash\"", &format!("\"{recycle}\"")));
        let name = clone();
        write(&name).await;
        let of = oid_of(&name);
        let all = format!(
            "update pgstencil.counted n set washed = {washed} from pgstencil.database d where d.clone_id = n.clone_id and d.oid = {of}"
        );
        registry(&project, &all);
        release(&name, "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_set_each_database_is_put_right() {
    if !proves(server()) {
        return;
    }
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    project.append_config("databases = [\"main\", \"side\"]");
    project.write(
        "migrate.sh",
        "for url in \"$PGSTENCIL_URL_MAIN\" \"$PGSTENCIL_URL_SIDE\"; do
           psql -X -q -v ON_ERROR_STOP=1 -d \"$url\" -c 'create table own (id serial); create table full_one (id int); insert into full_one values (1)' || exit 1
         done",
    );
    project.append_config(&format!("[clone]\nwarm = 1\n{WASH}"));
    let stencil: Stencil = open(&project).await;
    for (main, side, expected) in [
        ("insert into own default values", "select 1", true),
        ("select 1", "insert into own default values", true),
        ("insert into own default values", "insert into own default values", true),
        ("insert into own default values", "update full_one set id = 2", false),
    ] {
        let mut warm = false;
        for _ in 0..if expected { 3 } else { 1 } {
            let lease = stencil.database().await.unwrap();
            let names: Vec<String> = lease.databases().map(|database| database.name().to_owned()).collect();
            let oids: Vec<String> = names.iter().map(|name| oid_of(name)).collect();
            for (name, sql) in names.iter().zip([main, side]) {
                let mut session = role.options(name).connect().await.unwrap();
                let seen: String = sqlx::query_scalar("select concat((select count(*) from own), (select last_value from own_id_seq), (select sum(id) from full_one))")
                    .fetch_one(&mut session).await.unwrap();
                assert_eq!(seen, "011", "{main}; {side}");
                run(&mut session, name, sql).await;
                session.close().await.unwrap();
            }
            lease.release().await.unwrap();
            stencil.close().await;
            let there = format!(
                "select count(*) from pgstencil.clone c join pgstencil.database d on d.clone_id = c.id \
                 where c.state = 'warm' and d.oid in ({})",
                oids.join(", ")
            );
            warm |= registry(&project, &there) == "2";
        }
        assert_eq!(warm, expected, "{main}; {side}");
    }
}

/// Whatever question of the cleanup is the last one, the clone is either as its template, or still to drop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cleanup_that_is_cut_off_hands_out_nothing_half_washed() {
    if !proves(server()) {
        return;
    }
    let role = Role::new(server());
    let mut project = Project::with_migrations(server());
    project.connect_as(&role);
    project.add_migration("0003_contents", CONTENTS);
    project.append_config(&format!("[clone]\nwarm = 1\n{WASH}"));
    Pgstencil::new(&project).arg("ensure").success();
    let template = template_of(&project).await;
    let proxy = Proxy::new(server());
    project.connect_to(proxy.relayed(server(), project.server_url()));
    for at in (3..=45).step_by(3) {
        let name = name_of(Pgstencil::new(&project).arg("clone").success().stdout.trim());
        let mut session = role.options(&name).connect().await.unwrap();
        template.assert_equals(&Whole::read(server(), &name).await, &format!("before {at}"));
        run(
            &mut session,
            &name,
            "insert into people (price) values (1); insert into teams (name) values ('x')",
        )
        .await;
        session.close().await.unwrap();
        release_cut_off(&project, &proxy, &name, at);
    }
}

/// Numbers by xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.next(all.len())]
    }
}

/// A query for the contents of all tables, and one for the positions of all sequences.
async fn digests(session: &mut PgConnection) -> (String, String) {
    let parts = |kinds: &str, part: &str| {
        format!(
            "select 'select md5(concat_ws(''/'', ' || string_agg({part}, ', ' order by c.oid) || '))' \
             from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ({kinds})"
        )
    };
    let rows =
        "format('(select string_agg(t::text, '','' order by t::text) from only %s t)', c.oid::regclass)";
    let positions = "format('(select concat(last_value, is_called) from %s)', c.oid::regclass)";
    let mut query = async |sql: String| -> String {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *session).await.unwrap()
    };
    (query(parts("'r', 'm'", rows)).await, query(parts("'S'", positions)).await)
}

/// Random reads and writes of four holders at a time: no holder may see what an earlier one wrote. All rows are
/// compared for each hand-out, and all else for some. A long run, which prints where it is:
///
/// ```console
/// $ PGSTENCIL_TEST_HANDOUTS=100000 cargo test --release --test it -- --nocapture wash::no_holder
/// ```
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_holder_sees_what_an_earlier_one_wrote() {
    let number = std::env::var("PGSTENCIL_TEST_HANDOUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(60_u64);
    let seed = std::env::var("PGSTENCIL_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(number);
    let shelf = Shelf::with(server(), Role::new(server()), CONTENTS, WASH).await;
    shelf.stencil.database().await.unwrap().release().await.unwrap();
    let template = template_of(&shelf.project).await;
    let (begun, recycled, checked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let holder = async |nth: u64| {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed << 3) ^ nth);
        let mut known: Option<[String; 4]> = None;
        let mut seen = HashSet::new();
        while begun.fetch_add(1, Ordering::Relaxed) < number {
            let done = begun.load(Ordering::Relaxed);
            let lease = shelf.stencil.database().await.unwrap();
            let name = lease.name().to_owned();
            let mut session = shelf.enter(&lease).await;
            let oid: i64 =
                sqlx::query_scalar("select oid::int8 from pg_database where datname = current_database()")
                    .fetch_one(&mut session)
                    .await
                    .unwrap();
            recycled.fetch_add(u64::from(!seen.insert(oid)), Ordering::Relaxed);
            let [rows, positions, of_rows, of_positions] = match known.take() {
                Some(known) => known,
                None => {
                    let (rows, positions) = digests(&mut session).await;
                    [rows, positions, String::new(), String::new()]
                }
            };
            let digest = async |session: &mut PgConnection, sql: &str| -> String {
                sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(session).await.unwrap()
            };
            let now = digest(&mut session, &rows).await;
            assert!(of_rows.is_empty() || of_rows == now, "rows at hand-out {done} of {name}");
            // To look at a sequence counts as a change.
            let at = match of_positions.is_empty() || random.next(3) == 0 {
                true => digest(&mut session, &positions).await,
                false => of_positions.clone(),
            };
            assert!(of_positions.is_empty() || of_positions == at, "sequences at hand-out {done} of {name}");
            known = Some([rows, positions, now, at]);
            if random.next(8) == 0 {
                checked.fetch_add(1, Ordering::Relaxed);
                template.assert_equals(
                    &Whole::read(server(), &name).await,
                    &format!("hand-out {done} of {name}"),
                );
            }
            let mut what = Vec::new();
            for _ in 0..random.next(4) {
                let sql = match random.next(24) {
                    0 => random.of(&DROPPED),
                    1..=6 => random.of(&READS[1..2]),
                    _ => random.of(&WASHED),
                };
                what.push(sql);
                // Some need what others have changed.
                let plain = !sql.starts_with("copy") && random.next(2) == 0 && !sql.contains("begin;");
                let sql = match plain && !sql.contains("vacuum") && !sql.contains("cluster") {
                    true => {
                        format!("begin; {sql}; {}", if random.next(3) == 0 { "rollback" } else { "commit" })
                    }
                    false => sql.to_owned(),
                };
                if sql.starts_with("copy") {
                    continue;
                }
                let sql = sql.replace("NAME", &name);
                if sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut session).await.is_err() {
                    let _ = sqlx::raw_sql("rollback").execute(&mut session).await;
                }
            }
            match random.next(2) {
                0 => session.close().await.unwrap(),
                _ => drop(session),
            }
            lease.release().await.unwrap();
            if random.next(3) == 0 {
                shelf.stencil.close().await;
            }
            if done % 500 == 0 {
                println!(
                    "{done} hand-outs, {} of them recycled, {} compared whole",
                    recycled.load(Ordering::Relaxed),
                    checked.load(Ordering::Relaxed)
                );
            }
        }
    };
    tokio::join!(holder(1), holder(2), holder(3), holder(4));
    shelf.stencil.close().await;
    let recycled = recycled.load(Ordering::Relaxed);
    println!(
        "{number} hand-outs, seed {seed}: at least {recycled} of recycled clones, {} compared whole",
        checked.load(Ordering::Relaxed)
    );
    assert!(recycled > 0 || !proves(server()), "none was recycled");
}
