//! Each single alteration is seen, under the name of what was altered, and nothing else is.

use pgstencil::internals::inventory::{self, ChangeKind, Reading};
use sqlx::AssertSqlSafe;

use super::{Database, diff, open};
use crate::support::{Role, server};

/// Since version, statement, headings that change, a line of the difference.
type Alteration = (u32, &'static str, &'static [&'static str], &'static str);

const USERS: &[&str] = &["table app.users"];

/// Made one after the other to one database.
const ALTERATIONS: &[Alteration] = &[
    // Columns.
    (13, "alter table app.orders alter amount type numeric(12, 2)", &["table app.orders"], "+  column 4 amount numeric(12,2)"),
    (13, "alter table app.users alter name set default 'somebody'", USERS,
        "+  column 3 name text collate app.plain default 'somebody'::text storage external statistics 50"),
    (13, "alter table app.users alter name drop default", USERS, "+  column 3 name text collate app.plain storage external statistics 50"),
    (13, "alter table app.users alter mood set not null", USERS, "+  column 4 mood app.mood not null default 'ok'::app.mood"),
    (13, "alter table app.users alter name set storage main", USERS, "storage main"),
    (14, "alter table app.orders add packed text compression pglz", &["table app.orders"], "+  column 5 packed text compression pglz"),
    (13, "alter table app.users alter name set statistics -1", USERS, "+  column 3 name text collate app.plain storage main"),
    (13, "alter table app.users alter email reset (n_distinct)", USERS, "+  column 2 email character varying(100) not null"),
    (13, "alter table app.users alter email set (n_distinct_inherited = 5)", USERS, "with (n_distinct_inherited=5)"),
    (13, "alter table app.users alter code set generated always", USERS, "generated always as identity"),
    (13, "alter table app.users alter doubled drop expression", USERS, "+  column 7 doubled integer"),
    (13, "alter table app.users add late text", USERS, "+  column 10 late text"),
    (13, "alter table app.users rename late to later", USERS, "+  column 10 later text"),
    (13, "alter table app.users drop later", USERS, "-  column 10 later text"),
    (13, "alter table app.users alter name type text", USERS, "+  column 3 name text\n"),
    (13, "alter table app.base add inherited text", &["table app.base", "table app.child"], "+  column 4 inherited text inherited"),
    (18, "alter table app.users add thrice int generated always as (id * 3) virtual", USERS,
        "+  column 10 thrice integer generated always as ((id * 3)) virtual"),
    (18, "alter table app.orders add constraint amounts not null amount not valid", &["table app.orders"],
        "+  column 4 amount numeric(12,2) constraint amounts not null not valid"),
    (18, "alter table app.orders validate constraint amounts", &["table app.orders"],
        "+  column 4 amount numeric(12,2) constraint amounts not null"),
    // Tables.
    (13, "create table app.fresh (n int)", &["table app.fresh"], "+  column 1 n integer"),
    (13, "create table app.bare ()", &["table app.bare"], "+  owner postgres"),
    (13, "alter table app.fresh rename to stale", &["table app.fresh", "table app.stale"], "-table app.fresh"),
    (13, "alter table app.stale owner to {reader}", &["table app.stale"], "-  owner postgres"),
    (13, "alter table app.stale set unlogged", &["table app.stale"], "+  unlogged"),
    (13, "alter table app.stale set schema public", &["table app.stale", "table public.stale"], "+table public.stale"),
    (13, "drop table stale", &["table public.stale"], "-table public.stale"),
    (13, "alter table app.users set (fillfactor = 60)", USERS, "+  with (fillfactor=60)"),
    (13, "alter table app.users reset (toast.autovacuum_enabled)", USERS, "-  with (toast.autovacuum_enabled=off)"),
    (13, "alter table app.users replica identity full", USERS, "+  replica identity full"),
    (13, "alter table app.child no inherit app.base", &["table app.child"], "-  inherits app.base"),
    (13, "alter table app.events detach partition app.events_2024; alter table app.events attach partition app.events_2024
              for values from ('2023-01-01') to ('2025-01-01')", &["table app.events_2024"],
        "+  partition of app.events FOR VALUES FROM ('2023-01-01') TO ('2025-01-01')"),
    (13, "alter table app.events detach partition app.events_rest", &["table app.events_rest"], "-  partition of app.events DEFAULT"),
    // Constraints.
    (13, "alter table app.users drop constraint has_at", USERS, "-  comment on constraint has_at 'an address has an @'"),
    (13, "alter table app.users add constraint has_at check (email <> '') not valid", USERS,
        "+  constraint has_at CHECK (((email)::text <> ''::text)) NOT VALID"),
    (13, "alter table app.users validate constraint has_at", USERS, "+  constraint has_at CHECK (((email)::text <> ''::text))"),
    (13, "alter table app.orders alter constraint orders_user_id_fkey not deferrable", &["table app.orders"],
        "+  constraint orders_user_id_fkey FOREIGN KEY (user_id) REFERENCES app.users(id) ON DELETE CASCADE"),
    (13, "alter table app.users rename constraint email_unique to one_email", USERS, "+  constraint one_email UNIQUE (email)"),
    (18, "alter table app.orders alter constraint orders_user_id_fkey not enforced", &["table app.orders"], "NOT ENFORCED"),
    (18, "alter table app.orders alter constraint orders_user_id_fkey enforced", &["table app.orders"], "-  constraint orders_user_id_fkey"),
    (13, "alter domain app.posint add constraint small check (value < 100)", &["type app.posint"], "+  constraint small CHECK ((VALUE < 100))"),
    (13, "alter domain app.posint set default 2", &["type app.posint"], "+  domain over integer default 2 not null"),
    // Indexes.
    (13, "create index users_mood on app.users (mood)", USERS, "+  index users_mood: CREATE INDEX users_mood ON app.users USING btree (mood)"),
    (13, "drop index app.users_mood; create unique index users_mood on app.users (mood, id)", USERS, "CREATE UNIQUE INDEX users_mood"),
    (13, "alter table app.users set without cluster", USERS, "-  index users_pkey: clustered"),
    (13, "alter index app.users_pkey set (fillfactor = 90)", USERS, "+  index users_pkey: with (fillfactor=90)"),
    (13, "alter index app.users_lower alter column 1 set statistics 99", USERS, "statistics of 1: 99"),
    (13, "create index users_words on app.users using gist (to_tsvector('simple', name) tsvector_ops (siglen = 100))", USERS,
        "tsvector_ops (siglen='100')"),
    (13, "create index events_id on only app.events (id)", &["table app.events"], "(id) invalid"),
    (13, "comment on index app.users_lower is null", USERS, "-  comment on index users_lower 'by address'"),
    // Triggers, rules, policies.
    (13, "alter table app.users disable trigger touched", USERS, "EXECUTE FUNCTION app.touch('an argument') disabled"),
    (13, "alter table app.users enable always trigger touched", USERS, "EXECUTE FUNCTION app.touch('an argument') enabled always"),
    (13, "drop trigger switched_off on app.users", USERS, "-  trigger switched_off: "),
    (13, "alter table app.events_2024 disable trigger by_partition", &["table app.events_2024"], "app.touch() disabled"),
    (13, "alter table app.orders disable trigger all", &["table app.orders"], "+  triggers of constraint orders_user_id_fkey disabled"),
    (13, "alter table app.orders disable rule quiet", &["table app.orders"], "DO INSTEAD NOTHING; disabled"),
    (13, "alter policy own on app.users to public", USERS, "+  policy own: permissive for select to public using (((email)::text = CURRENT_USER))"),
    (13, "alter policy narrow on app.users with check (id > 2)", USERS, "with check ((id > 2))"),
    (13, "alter table app.users disable row level security", USERS, "-  row level security enabled"),
    (13, "alter table app.orders force row level security", &["table app.orders"], "+  row level security forced"),
    // Sequences.
    (13, "alter sequence app.counter increment 3", &["sequence app.counter"], "+  as smallint start 10 increment 3 minvalue 1 maxvalue 1000 cache 5 cycle"),
    (13, "alter sequence app.counter owned by app.orders.id", &["sequence app.counter"], "+  owned by app.orders.id"),
    // Routines.
    (13, "create or replace function app.touch() returns trigger language plpgsql as 'begin return old; end'", &["function app.touch()"],
        "+    AS $function$begin return old; end$function$"),
    (13, "alter function app.touch() security definer", &["function app.touch()"], "SECURITY DEFINER"),
    (13, "alter function app.note(integer, text) volatile", &["function app.note(integer,text)"], "+     STRICT"),
    (13, "create function app.note(integer) returns integer language sql as 'select 1'", &["function app.note(integer)"], "+  definition"),
    (13, "create or replace aggregate app.total (integer) (sfunc = int4pl, stype = integer, initcond = '6', parallel = safe)",
        &["aggregate app.total(integer)"], "+  sfunc int4pl stype integer sspace 0 initcond '6'"),
    (13, "create or replace procedure app.work(inout n integer) language sql as 'select n + 2'", &["procedure app.work(integer)"], "select n + 2"),
    (13, "create or replace function app.touch() returns trigger language plpgsql as E'begin\\nreturn old; end'", &["function app.touch()"], "+    AS $function$begin\n+    return old; end"),
    (13, "create or replace function app.touch() returns trigger language plpgsql as E'begin\\r\\nreturn old; end'", &["function app.touch()"], "begin\\r\n"),
    // Views.
    (13, "create or replace view app.grown_up with (security_barrier) as select id, email from app.users where age >= 21
              with local check option", &["view app.grown_up"], ">= 21);"),
    (13, "alter view app.grown_up set (security_barrier = false)", &["view app.grown_up"], "security_barrier=false)"),
    (13, "refresh materialized view app.not_yet", &["materialized view app.not_yet", "materialized view app.not_yet"], "-  not populated"),
    // Types and operators.
    (13, "alter type app.mood rename value 'meh' to 'so so'", &["type app.mood"], "+  label 2 'so so'"),
    (13, "alter type app.mood add value 'mad' before 'sad'", &["type app.mood"], "+  label 1 'mad'"),
    (13, "alter type app.address add attribute country text", &["type app.address"], "+  column 4 country text"),
    (13, "drop cast (app.address as text); create cast (app.address as text) with inout as implicit",
        &["cast (app.address AS pg_catalog.text)"], "+  with inout as implicit"),
    (13, "alter operator app.===(app.address, app.address) set (restrict = eqsel)", &["operator app.===(app.address,app.address)"], "restrict eqsel"),
    (13, "alter operator family app.addresses using hash add function 2 (app.address, app.address) hashint8extended(bigint, bigint)",
        &["operator family app.addresses USING hash"], "+  function 2 (app.address, app.address) hashint8extended(bigint,bigint)"),
    (13, "alter text search configuration app.words drop mapping for url", &["text search configuration app.words"], "-  mapping for url with simple"),
    (13, "alter text search configuration app.words alter mapping for word with simple, app.stems", &["text search configuration app.words"],
        "+  mapping for word with simple, app.stems"),
    (13, "alter text search dictionary app.stems (stopwords = english)", &["text search dictionary app.stems"], "stopwords = 'english'"),
    (13, "alter statistics app.correlated set statistics 77", &["statistics object app.correlated"], " statistics 77"),
    // Rights and comments.
    (13, "grant insert on app.users to {reader}", USERS, "+  grant INSERT to {reader}"),
    (13, "revoke update (name) on app.users from {reader}", USERS, "-  grant UPDATE (name) to {reader} with grant option"),
    (13, "revoke delete on app.orders from postgres", &["table app.orders"], "+  revoke DELETE from postgres"),
    (13, "grant create on schema app to public", &["schema app"], "+  grant CREATE to PUBLIC"),
    (13, "revoke usage on type app.mood from public", &["type app.mood"], "+  revoke USAGE from PUBLIC"),
    (13, "revoke usage on schema public from public", &["schema public"], "-  grant USAGE to PUBLIC"),
    (13, "alter default privileges in schema app grant insert on tables to {reader}",
        &["default privileges for role postgres in schema app on tables"], "+  grant INSERT to {reader}"),
    (13, "comment on table app.users is 'other words'", USERS, "+  comment 'other words'"),
    (13, "comment on column app.users.name is 'called'", USERS, "+  comment on column name 'called'"),
    (13, "comment on function app.note(integer, text) is null", &["function app.note(integer,text)"], "-  comment 'notes'"),
    (13, "comment on schema public is 'other words'", &["schema public"], "+  comment 'other words'"),
    (13, "alter schema app owner to {reader}", &["schema app"], "+  owner {reader}"),
    // The database as a whole.
    (13, "create schema more", &["schema more"], "+schema more"),
    (13, "alter database {database} set work_mem = '9MB'", &["database"], "+  setting work_mem = 9MB"),
    (13, "alter role {reader} in database {database} set work_mem = '8MB'", &["database"], "+  setting work_mem = 8MB for role {reader}"),
    (13, "select lo_create(0)", &["large objects", "large objects"], "+  number 2"),
    (13, "alter default privileges grant execute on functions to public",
        &["default privileges for role postgres on functions"], "-  revoke EXECUTE from PUBLIC"),
    (13, "create extension citext schema app", &["extension citext"], "+  schema app"),
    (13, "alter extension citext set schema public", &["extension citext"], "+  schema public"),
    (13, "alter server far options (set host 'near.example')", &["server far"], "+  option host 'near.example'"),
    (13, "alter user mapping for {reader} server far options (drop password)", &["server far"], "+  user mapping for {reader} options (\"user\" hidden (digest "),
    (13, "alter foreign table app.distant options (set table_name 'other')", &["foreign table app.distant"], "table_name 'other'"),
    (13, "alter publication some_tables drop table app.orders", &["publication some_tables"], "-  table app.orders"),
    (15, "alter publication some_tables set table app.users (id, email) where (id > 5)", &["publication some_tables"],
        "+  table app.users (id, email) where (id > 5)"),
    (15, "create publication by_schema for tables in schema more", &["publication by_schema"], "+  tables in schema more"),
    (13, "alter publication some_tables set (publish = 'insert')", &["publication some_tables"], "+  publishes insert"),
    (13, "alter event trigger guarding disable", &["event trigger guarding"], " disabled"),
    // Rows.
    (13, "insert into app.users (email) values ('one more@x')",
        &["table app.users", "sequence app.users_code_seq", "sequence app.users_id_seq"], "+  rows 13"),
    (13, "insert into app.events values (9, 'uk', '2025-07-07')", &["table app.events_2025_eu"], "+  rows 2"),
    (13, "insert into app.child values (1, now())", &["table app.child"], "+  rows 1"),
    (13, "truncate app.users, app.orders", USERS, "-  rows 13"),
];

#[tokio::test]
async fn every_alteration_is_seen() {
    let reader = Role::new(server());
    let database = Database::full(&reader);
    // One session for each side: a hundred log-ins would take longer than all the rest.
    let mut owner = server().connect(&database.name).await;
    let mut session = open(&server().url(&database.name), &database.name).await;
    let mut before = inventory::read(&mut session, &Reading::default()).await.unwrap();
    let mut wrong = Vec::new();
    for (since, sql, headings, line) in ALTERATIONS {
        if server().version_major() < *since {
            continue;
        }
        let statements = AssertSqlSafe(database.fill(&reader, sql));
        if let Err(e) = sqlx::raw_sql(statements).execute(&mut owner).await {
            panic!("{sql}: {e}");
        }
        let after = inventory::read(&mut session, &Reading::default()).await.unwrap();
        let difference = diff(&before, &after);
        let seen: Vec<_> = difference.changes.iter().map(|c| c.heading.as_str()).collect();
        let text = difference.to_string();
        if seen != *headings || !text.contains(&database.fill(&reader, line)) {
            wrong.push(format!("{sql}\n{headings:?} {line:?}\n{text}"));
        }
        // The other way round is the same news.
        let back = diff(&after, &before);
        assert_eq!(back.changes.len(), difference.changes.len());
        for (there, back) in difference.changes.iter().zip(&back.changes) {
            let kind = match there.kind {
                ChangeKind::Added => ChangeKind::Removed,
                ChangeKind::Removed => ChangeKind::Added,
                ChangeKind::Changed => ChangeKind::Changed,
            };
            assert_eq!((&back.heading, back.kind), (&there.heading, kind));
        }
        before = after;
    }
    assert!(wrong.is_empty(), "{} alterations:\n{}", wrong.len(), wrong.join("\n"));
}
