//! What an inventory sees, and what it is blind to.

mod alterations;
mod kinds;
mod options;

use pgstencil::ServerUrl;
use pgstencil::internals::Session;
use pgstencil::internals::inventory::{self, Class, Difference, Inventory, Line, Reading};
use pgstencil::internals::{Deadline, Defaults, Endpoint};

use crate::support::{Proxy, Role, block_on, random_id, server};

const ORDINARY: &str = include_str!("ordinary.sql");
const SUPERUSER: &str = include_str!("superuser.sql");
const SETTINGS: &str = include_str!("settings.sql");

/// A database of this test's own, dropped at its end.
struct Database {
    name: String,
}

impl Database {
    /// As the superuser.
    fn new(template: &str) -> Self {
        let name = format!("inv_{}", random_id());
        let create = format!("create database {name} template {template}");
        server().psql("postgres", &create);
        Database { name }
    }

    /// One with everything.
    fn full(reader: &Role<'_>) -> Self {
        let database = Database::new("template0");
        for sql in [ORDINARY, SUPERUSER, SETTINGS] {
            database.run(&database.fill(reader, sql));
        }
        database
    }

    fn run(&self, sql: &str) -> String {
        server().psql(&self.name, sql)
    }

    fn fill(&self, reader: &Role<'_>, sql: &str) -> String {
        sql.replace("{reader}", &reader.name).replace("{database}", &self.name)
    }

    /// Without the name under which it was built.
    fn inventory(&self) -> Inventory {
        let mut found = read(&server().url(&self.name), &self.name);
        found.replace(&self.name, "(own)");
        found
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        server().drop_database(&self.name);
    }
}

fn read(url: &str, database: &str) -> Inventory {
    block_on(async {
        let mut session = open(url, database).await;
        inventory::read(&mut session, &Reading::default()).await.unwrap()
    })
}

async fn open(url: &str, database: &str) -> Session {
    let url = ServerUrl::parse(url).unwrap();
    let endpoint = Endpoint::new(url, &Defaults::default()).unwrap();
    Session::open(&endpoint, database, &Deadline::default()).await.unwrap()
}

fn last<'a>(inventory: &'a Inventory, heading: &str) -> &'a str {
    let line: &Line = inventory.entries[heading].last().unwrap();
    &line.text
}

fn diff(old: &Inventory, new: &Inventory) -> Difference {
    inventory::diff(old, new, "old", "new")
}

/// All of an inventory as text.
fn text(inventory: &Inventory) -> String {
    diff(&Inventory::default(), inventory).to_string()
}

#[test]
fn two_builds_are_equal_and_so_is_a_clone() {
    let reader = Role::new(server());
    let one = Database::full(&reader);
    let first = one.inventory();
    // Oids and what is made of them move on, and no dropped object leaves a trace.
    let two = Database::new("template0");
    two.run("create table gone (n serial primary key); drop table gone; select lo_unlink(lo_create(0))");
    for sql in [ORDINARY, SUPERUSER, SETTINGS] {
        two.run(&two.fill(&reader, sql));
    }
    let second = two.inventory();
    assert_eq!(diff(&first, &second).to_string(), "");

    let all = text(&first);
    for accident in [one.name.as_str(), "very secret", "hush", "RI_Constraint", "pg_toast"] {
        assert!(!all.contains(accident), "{accident} in {all}");
    }
    assert!(first.len() > 60, "{all}");
    // A kind that is forgotten in the fixture would be forgotten by all tests.
    for kind in KINDS {
        assert!(all.contains(&format!("\n+{kind} ")), "no {kind} in {all}");
    }

    let clone = Database::new(&one.name);
    let difference = diff(&first, &clone.inventory());
    assert_eq!(
        difference.to_string(),
        format!(
            "--- old\n+++ new\n@@ schema @@\n \
             server far\n\
             -  option dbname '(own)'\n\
             +  option dbname '{1}'\n\
             @@ settings @@\n \
             database\n\
             -  setting app.jwt_secret hidden (digest dc8331bc)\n\
             -  setting app.self = (own)\n\
             -  setting search_path = app, public\n\
             -  setting work_mem = 7MB for role {0}\n",
            reader.name, one.name
        )
    );
    clone.run(&clone.fill(&reader, SETTINGS));
    let mut third = clone.inventory();
    third.replace(&one.name, "(own)");
    assert_eq!(diff(&first, &third).to_string(), "");
}

const KINDS: &[&str] = &[
    "access method",
    "aggregate",
    "cast",
    "collation",
    "conversion",
    "default privileges",
    "event trigger",
    "extension",
    "foreign table",
    "foreign-data wrapper",
    "function",
    "language",
    "materialized view",
    "operator",
    "operator class",
    "operator family",
    "procedure",
    "publication",
    "schema",
    "sequence",
    "server",
    "statistics object",
    "table",
    "text search configuration",
    "text search dictionary",
    "text search parser",
    "text search template",
    "type",
    "view",
];

#[test]
fn a_dropped_column_leaves_no_trace_but_a_moved_one_does() {
    let (one, two, three) =
        (Database::new("template0"), Database::new("template0"), Database::new("template0"));
    one.run("create table t (a int, b int, c int)");
    two.run("create table t (a int, gone text, b int); alter table t drop column gone, add c int");
    three.run("create table t (a int, b int, c int); alter table t drop column b; alter table t add b int");
    let one = one.inventory();
    assert_eq!(diff(&one, &two.inventory()).to_string(), "");
    assert_eq!(
        diff(&one, &three.inventory()).to_string(),
        "--- old\n+++ new\n@@ schema @@\n table public.t\n\
         +  column 2 c integer\n\
         -  column 3 c integer\n"
    );
}

#[test]
fn an_ordinary_role_reads_what_the_superuser_reads() {
    let (owner, reader) = (Role::new(server()), Role::new(server()));
    let name = format!("inv_{}", random_id());
    let create = format!("create database {name} owner {} template template0", owner.name);
    server().psql("postgres", &create);
    let database = Database { name };
    let sql = database.fill(&reader, ORDINARY);
    block_on(async {
        use sqlx::ConnectOptions as _;
        let options = owner.options(&database.name);
        let mut session = options.connect().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut session).await.unwrap();
    });
    let own = || read(&owner.url(&database.name), &database.name);
    let before = own();
    assert_eq!(diff(&before, &database.inventory()).to_string(), "");

    database.run(
        "create schema closed; create table closed.t as select 1 as n;
         create table app.secret as select 1 as n;
         create table app.shown as select 1 as n, 2 as m;
         alter table app.users force row level security",
    );
    database.run(&format!("grant select (m) on app.shown to {}", owner.name));
    // Default privileges are those of the owner; what the superuser makes has others.
    let difference = diff(&before, &own()).to_string();
    for line in [
        "+table closed.t\n+  column 1 n integer\n+  owner postgres\n+  rows unknown: permission denied\n",
        "+table app.secret\n+  column 1 n integer\n+  owner postgres\n+  rows unknown: permission denied\n",
        "+  rows 1\n",
        "-  rows 12\n+  rows unknown: row level security hides them from this role\n",
        "+  row level security forced\n",
    ] {
        assert!(difference.contains(line), "no {line} in {difference}");
    }
    let as_superuser = diff(&own(), &database.inventory()).to_string();
    assert_eq!(as_superuser.matches("-  rows unknown").count(), 3, "{as_superuser}");
    assert_eq!(as_superuser.matches("\n-").count(), 3, "{as_superuser}");
}

#[test]
fn extensions_are_told_as_a_whole() {
    let database = Database::new("template0");
    database.run("create table settings (name text, value text)");
    let before = database.inventory();
    database.run("create extension hstore; alter extension hstore add table settings");
    let difference = diff(&before, &database.inventory());
    let headings: Vec<_> = difference.changes.iter().map(|c| c.heading.as_str()).collect();
    assert_eq!(headings, ["extension hstore", "table public.settings"], "{difference}");
    assert!(difference.to_string().contains("\n-table public.settings\n"), "{difference}");

    let before = database.inventory();
    database.run(
        "do $$ declare name text; begin
             for name in select a.name from pg_available_extensions a where installed_version is null order by 1 loop
                 begin
                     execute format('create extension %I cascade', name);
                 exception when others then null; -- of another language, or one that must be preloaded
                 end;
             end loop; end $$",
    );
    let difference = diff(&before, &database.inventory());
    assert!(difference.changes.len() >= 20, "{difference}");
    for change in &difference.changes {
        assert!(change.heading.starts_with("extension "), "{difference}");
    }

    // What a migration does to an extension's table is not the extension's.
    let before = database.inventory();
    database.run(
        "insert into settings values ('a', 'b');
         alter table settings add constraint named check (name <> '')",
    );
    assert_eq!(
        diff(&before, &database.inventory()).to_string(),
        "--- old\n+++ new\n@@ schema @@\n+table public.settings\n\
         +  constraint named CHECK ((name <> ''::text))\n+  rows 1\n"
    );
}

#[test]
fn a_subscription_is_told() {
    let database = Database::new("template0");
    let before = database.inventory();
    database.run(
        "create subscription there connection 'host=far.example password=hush' publication one, two
             with (connect = false, enabled = false, slot_name = none)",
    );
    let after = database.inventory();
    database.run("drop subscription there");
    let difference = diff(&before, &after).to_string();
    for line in [
        "@@ schema @@\n+subscription there\n+  disabled to {one,two} owner postgres\n",
        "+  connection hidden (digest ",
        "+  synccommit off\n",
    ] {
        assert!(difference.contains(line), "no {line} in {difference}");
    }
    assert!(!difference.contains("hush"), "{difference}");
}

#[test]
fn settings_of_the_database_do_not_change_how_things_are_told() {
    let sql = "create table t (a date default '2024-02-01', b interval default '1 day 2 hours',
         c timestamptz default '2024-02-01 12:00+00', d bytea default '\\x41ff', e float8 default 0.1::float8 + 0.2);
         create view v as select a from t where c > '2024-02-01 12:00+00'";
    let (one, two) = (Database::new("template0"), Database::new("template0"));
    one.run(sql);
    two.run(sql);
    for setting in [
        "datestyle = 'German, DMY'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Tokyo'",
        "bytea_output = 'escape'",
        "quote_all_identifiers = on",
        "extra_float_digits = -3",
    ] {
        two.run(&format!("alter database {} set {setting}", two.name));
    }
    let difference = diff(&one.inventory(), &two.inventory());
    assert_eq!(difference.changes.len(), 1, "{difference}");
    assert_eq!(difference.changes[0].heading, "database");
}

#[test]
fn the_encoding_of_the_database_is_told() {
    let one = Database::new("template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'");
    let two = Database::new("template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'");
    let difference = diff(&one.inventory(), &two.inventory());
    assert_eq!(difference.classes(), [Class::Schema], "{difference}");
    let text = difference.to_string();
    assert!(text.contains("database\n-  encoding UTF8 "), "{text}");
    assert!(text.contains("lc_collate 'C' lc_ctype 'C'\n+  encoding LATIN1 "), "{text}");
}

#[test]
fn more_tables_than_one_transaction_may_lock() {
    let server =
        crate::support::TestServer::private_with("max_connections = 20\nmax_locks_per_transaction = 10");
    for n in 0..30 {
        let sql = format!(
            "do $$ begin for n in 0 .. 29 loop
                 execute format('create table t_{n}_%s (id int primary key, a int unique, b int unique)', n);
             end loop; end $$"
        );
        server.psql("postgres", &sql);
    }
    server.psql("postgres", "insert into t_3_3 values (1, 1, 1)");
    let found = read(&server.url("postgres"), "postgres");
    assert_eq!(last(&found, "table public.t_3_3"), "rows 1");
    let lock_all = "do $$ declare t text; begin
         for t in select relname from pg_class where relname like 't\\_%' and relkind = 'r'
         loop execute 'select count(*) from ' || t; end loop; end $$";
    assert!(
        server.try_psql("postgres", lock_all).is_err(),
        "the server has locks enough for all tables at once: this proves nothing"
    );
}

#[test]
fn names_that_differ_by_build_can_be_replaced() {
    let database = Database::new("template0");
    let sql = format!("create table t (n int); comment on table t is 'of {0}, not {0}s'", database.name);
    database.run(&sql);
    let mut found = read(&server().url(&database.name), &database.name);
    assert!(text(&found).contains(&database.name));
    found.replace(&database.name, "{app}");
    assert!(text(&found).contains("comment 'of {app}, not {app}s'"), "{}", text(&found));
}

#[test]
fn four_hundred_tables_take_few_round_trips() {
    let database = Database::new("template0");
    for n in (0..400).step_by(100) {
        database.run(&format!(
            "do $$ begin for n in {n} .. {n} + 99 loop
                 execute format('create table t%s (id serial primary key, name text not null default ''x'',
                     a int, b int check (b > 0), c timestamptz default now(), d numeric(10, 2), e jsonb,
                     parent int references t%s)', n, n);
                 execute format('create index on t%s (name); create index on t%s (parent)', n, n);
                 execute format('insert into t%s (name) select ''x'' from generate_series(1, %s)', n, n % 7);
             end loop; end $$"
        ));
    }
    let relay = Proxy::new(server());
    let found = read(&relay.url(server()), &database.name);
    assert_eq!(found.len(), 803, "tables and their sequences, plpgsql, public, the database");
    assert_eq!(last(&found, "table public.t13"), "rows 6");
    // To connect, one for each query, and a few for each batch of tables and sequences: not one for each.
    let trips: usize = relay.round_trips().iter().sum();
    assert!(trips < 80, "{trips}");
}
