//! The list of what is compared: each kind of object and property that `pg_dump --create` prints, in two
//! databases that differ in nothing else. A real pg_dump says that it prints it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use pgstencil::internals::inventory::{self, Class, Ignored, Look, Reading, RowComparison, Window};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

use super::{diff, open};
use crate::support::{Role, block_on, random_id, server};

use Class::{Grants, Ids, RowContents, RowCounts, Schema, Sequences, Settings};

/// Since version; what both databases have; what only one, and only the other has; how they differ.
/// `{reader}` is another role, `{database}` the database, `{space}` a tablespace.
type Kind = (u32, &'static str, &'static str, &'static str, &'static [Class]);

const T: &str = "create table t (id int primary key, a text, b int)";
const S: &[Class] = &[Schema];
const G: &[Class] = &[Grants];

const KINDS: &[Kind] = &[
    // The database itself.
    (13, "", "alter database {database} set work_mem = '7MB'", "alter database {database} set work_mem = '8MB'", &[Settings]),
    (13, "", "alter role {reader} in database {database} set work_mem = '7MB'", "", &[Settings]),
    (13, "", "alter database {database} set app.token = 'one'", "alter database {database} set app.token = 'two'", &[Settings]),
    // Schemas.
    (13, "", "create schema s", "", S),
    (13, "create schema s", "alter schema s owner to {reader}", "", G),
    (13, "create schema s", "grant usage on schema s to {reader}", "", G),
    (13, "create schema s", "comment on schema s is 'x'", "comment on schema s is 'y'", S),
    (13, "", "drop schema public", "", S),
    (13, "", "alter schema public owner to {reader}", "", G),
    (13, "", "grant create on schema public to {reader}", "", G),
    (13, "", "comment on schema public is 'x'", "", S),
    // Extensions.
    (13, "", "create extension hstore", "", S),
    (13, "create schema s", "create extension hstore schema s", "create extension hstore schema public", S),
    (13, "create extension hstore", "comment on extension hstore is 'x'", "", S),
    (13, "create extension hstore; create table t (n int)", "alter extension hstore add table t", "", S),
    (13, "create extension hstore", "alter extension hstore drop function hstore_version_diag(hstore)", "", S),
    (13, "create extension hstore", "revoke execute on function akeys(hstore) from public", "", G),
    (13, "create extension hstore", "revoke usage on type hstore from public", "", G),
    (13, "create extension pg_stat_statements", "grant select on pg_stat_statements to {reader}", "", G),
    (13, "create extension pg_stat_statements", "grant select (calls) on pg_stat_statements to {reader}", "", G),
    (13, "create extension postgres_fdw", "grant usage on foreign data wrapper postgres_fdw to {reader}", "", G),
    (13, "create extension hstore; create function f() returns int language sql as 'select 1'",
        "alter function f() depends on extension hstore", "", S),
    (13, "create extension hstore; create table t (n int); create index i on t (n)", "alter index i depends on extension hstore", "", S),
    (13, "create extension hstore; create table t (n int); create function f() returns trigger language plpgsql as 'begin end';
          create trigger g after insert on t for each row execute function f()", "alter trigger g on t depends on extension hstore", "", S),
    (13, "create extension hstore; create materialized view v as select 1 as n", "alter materialized view v depends on extension hstore", "", S),
    (13, "", "drop extension plpgsql", "", S),
    // What initdb made.
    (13, "", "revoke execute on function pg_catalog.pg_sleep(float8) from public", "", G),
    (13, "", "grant select on pg_catalog.pg_authid to {reader}", "", G),
    (13, "", "grant select (subconninfo) on pg_catalog.pg_subscription to {reader}", "", G),
    (13, "", "revoke select on pg_catalog.pg_roles from public", "", G),
    (13, "", "revoke usage on language plpgsql from public", "", G),
    (13, "", "grant create on schema pg_catalog to {reader}", "", G),
    (13, "", "revoke usage on type pg_catalog.json from public", "", G),
    // Enums, domains, composite types, ranges, base types.
    (13, "", "create type e as enum ('a', 'b')", "create type e as enum ('b', 'a')", S),
    (13, "create type e as enum ('a')", "alter type e owner to {reader}", "", G),
    (13, "create type e as enum ('a')", "revoke usage on type e from public", "", G),
    (13, "create type e as enum ('a')", "comment on type e is 'x'", "", S),
    (13, "", "create domain d as text", "create domain d as varchar(3)", S),
    (13, "", "create domain d as text collate \"C\"", "create domain d as text", S),
    (13, "", "create domain d as int default 1", "create domain d as int default 2", S),
    (13, "", "create domain d as int not null", "create domain d as int", S),
    (17, "", "create domain d as int constraint called not null", "create domain d as int not null", S),
    (13, "create domain d as int", "alter domain d add constraint c check (value > 0)", "alter domain d add constraint c check (value > 1)", S),
    (13, "create domain d as int", "alter domain d add constraint c check (value > 0) not valid", "alter domain d add constraint c check (value > 0)", S),
    (13, "create domain d as int constraint c check (value > 0)", "comment on constraint c on domain d is 'x'", "", S),
    (13, "", "create type c as (a int, b text)", "create type c as (a int, b text collate \"C\")", S),
    (13, "create type c as (a int, b text)", "comment on column c.a is 'x'", "", S),
    (13, "", "create type r as range (subtype = float8)", "create type r as range (subtype = float8, subtype_diff = float8mi)", S),
    (14, "", "create type r as range (subtype = float8, multirange_type_name = m)", "create type r as range (subtype = float8, multirange_type_name = n)", S),
    (13, "", "create type s", "", S),
    (13, "create type b; create function b_in(cstring) returns b language internal immutable strict as 'textin';
          create function b_out(b) returns cstring language internal immutable strict as 'textout'",
        "create type b (input = b_in, output = b_out, like = text)", "create type b (input = b_in, output = b_out, like = text, delimiter = ';')", S),
    (13, "create type b; create function b_in(cstring) returns b language internal immutable strict as 'textin';
          create function b_out(b) returns cstring language internal immutable strict as 'textout'",
        "create type b (input = b_in, output = b_out, like = text)", "create type b (input = b_in, output = b_out, like = text, collatable = true)", S),
    // Routines.
    (13, "", "create function f() returns int language sql as 'select 1'", "create function f() returns int language sql as 'select 2'", S),
    (13, "", "create function f(a int default 1) returns int language sql as 'select 1'", "create function f(a int) returns int language sql as 'select 1'", S),
    (13, "", "create function f() returns int language sql cost 5 as 'select 1'", "create function f() returns int language sql as 'select 1'", S),
    (13, "", "create function f() returns int language sql immutable leakproof parallel safe strict security definer as 'select 1'",
        "create function f() returns int language sql as 'select 1'", S),
    (13, "", "create function f() returns setof int language sql rows 5 as 'select 1'", "create function f() returns setof int language sql as 'select 1'", S),
    (13, "", "create function f() returns int language sql set work_mem = '7MB' as 'select 1'", "create function f() returns int language sql as 'select 1'", S),
    (14, "", "create function f() returns int begin atomic select 1; end", "create function f() returns int language sql as 'select 1'", S),
    (13, "", "create procedure p() language sql as 'select 1'", "create procedure p() language sql as 'select 2'", S),
    (13, "create function f() returns int language sql as 'select 1'", "alter function f() owner to {reader}", "", G),
    (13, "create function f() returns int language sql as 'select 1'", "revoke execute on function f() from public", "", G),
    (13, "create function f() returns int language sql as 'select 1'", "comment on function f() is 'x'", "", S),
    (13, "", "create aggregate g (int) (sfunc = int4pl, stype = int)", "create aggregate g (int) (sfunc = int4pl, stype = int, initcond = '0')", S),
    (13, "", "create aggregate g (int) (sfunc = int4pl, stype = int, parallel = safe)", "create aggregate g (int) (sfunc = int4pl, stype = int)", S),
    (13, "", "create aggregate g (int) (sfunc = int4larger, stype = int, sortop = >)", "create aggregate g (int) (sfunc = int4larger, stype = int)", S),
    (13, "", "create aggregate g (int) (sfunc = int4pl, stype = int, combinefunc = int4pl)", "create aggregate g (int) (sfunc = int4pl, stype = int)", S),
    (13, "", "create aggregate g (int) (sfunc = int4pl, stype = int, msfunc = int4pl, minvfunc = int4mi, mstype = int)",
        "create aggregate g (int) (sfunc = int4pl, stype = int)", S),
    (13, "create aggregate g (int) (sfunc = int4pl, stype = int)", "comment on aggregate g (int) is 'x'", "", S),
    // Operators and what belongs to them, casts, transforms, languages, conversions, collations.
    (13, "create function f(int, int) returns bool language sql as 'select true'", "create operator === (function = f, leftarg = int, rightarg = int)",
        "create operator === (function = f, leftarg = int, rightarg = int, commutator = ===)", S),
    (13, "create function f(int, int) returns bool language sql as 'select true'", "create operator === (function = f, leftarg = int, rightarg = int, restrict = eqsel)",
        "create operator === (function = f, leftarg = int, rightarg = int, hashes, merges)", S),
    (13, "create operator family o using btree", "comment on operator family o using btree is 'x'", "", S),
    (13, "create operator family o using hash", "alter operator family o using hash add operator 1 = (int4, int4)", "", S),
    (13, "create operator family o using hash", "alter operator family o using hash add function 1 (int4) hashint4(int4)", "", S),
    (13, "create type e as enum ('a'); create operator family o using hash", "create operator class c default for type e using hash family o as function 1 (e, e) hashenum(anyenum)",
        "create operator class c for type e using hash family o as function 1 (e, e) hashenum(anyenum)", S),
    (13, "create type e as enum ('a'); create operator family o using gist", "create operator class c for type e using gist family o as storage int4",
        "create operator class c for type e using gist family o as storage int8", S),
    (13, "create operator class c for type int4 using hash as operator 1 =, function 1 hashint4(int4)", "alter operator class c using hash owner to {reader}", "", G),
    (13, "create type e as enum ('a')", "create cast (e as int) with inout", "create cast (e as int) with inout as assignment", S),
    (13, "create type e as enum ('a'); create cast (e as int) with inout", "comment on cast (e as int) is 'x'", "", S),
    (13, "", "create transform for int language plpgsql (from sql with function prsd_lextype(internal))", "", S),
    (13, "", "create language l handler plpgsql_call_handler", "create trusted language l handler plpgsql_call_handler", S),
    (13, "create language l handler plpgsql_call_handler", "alter language l owner to {reader}", "", G),
    (13, "create trusted language l handler plpgsql_call_handler", "revoke usage on language l from public", "", G),
    (13, "", "create conversion c for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8", "create default conversion c for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8", S),
    (13, "create conversion c for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8", "comment on conversion c is 'x'", "", S),
    (13, "", "create collation c from \"C\"", "create collation c from \"POSIX\"", S),
    (13, "create collation c from \"C\"", "alter collation c owner to {reader}", "", G),
    (13, "", "create access method a type table handler heap_tableam_handler", "", S),
    (13, "create access method a type table handler heap_tableam_handler", "comment on access method a is 'x'", "", S),
    // Text search.
    (13, "", "create text search dictionary d (template = simple)", "create text search dictionary d (template = simple, stopwords = english)", S),
    (13, "create text search dictionary d (template = simple)", "alter text search dictionary d owner to {reader}", "", G),
    (13, "", "create text search configuration c (copy = simple)", "create text search configuration c (copy = english)", S),
    (13, "create text search configuration c (copy = simple)", "alter text search configuration c drop mapping for url", "", S),
    (13, "create text search configuration c (copy = simple)", "comment on text search configuration c is 'x'", "", S),
    (13, "", "create text search template m (lexize = dsimple_lexize)", "create text search template m (lexize = dsimple_lexize, init = dsimple_init)", S),
    (13, "", "create text search parser p (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype)",
        "create text search parser p (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype, headline = prsd_headline)", S),
    // Tables.
    (13, "", T, "", S),
    (13, "", "create table t (a int, b text)", "create table t (b text, a int)", S),
    (13, "", "create unlogged table t (a int)", "create table t (a int)", S),
    (13, "", "create table t (a int) with (fillfactor = 70)", "create table t (a int)", S),
    (13, "", "create table t (a text) with (toast.autovacuum_enabled = off)", "create table t (a text)", S),
    (13, "create access method h type table handler heap_tableam_handler", "create table t (a int) using h", "create table t (a int)", S),
    (15, "", "create table t (a int) tablespace {space}", "create table t (a int)", S),
    (13, "create type c as (a int)", "create table t of c", "create table t (a int)", S),
    (13, "create table p (a int)", "create table t () inherits (p)", "create table t (a int)", S),
    (13, "create table p (a int)", "create table t (a int) inherits (p)", "create table t () inherits (p)", S),
    (13, "", "create table t (a int) partition by range (a)", "create table t (a int) partition by list (a)", S),
    (13, "create table p (a int) partition by list (a)", "create table t partition of p for values in (1)", "create table t partition of p for values in (2)", S),
    (13, "create table p (a int) partition by list (a)", "create table t partition of p default", "create table t (a int)", S),
    (13, T, "alter table t owner to {reader}", "", G),
    (13, T, "grant select on t to {reader}", "grant insert on t to {reader}", G),
    (13, T, "grant select on t to {reader} with grant option", "grant select on t to {reader}", G),
    (13, T, "grant select (a) on t to {reader}", "grant select (b) on t to {reader}", G),
    (13, T, "revoke delete on t from postgres", "", G),
    (17, T, "grant maintain on t to {reader}", "", G),
    (13, T, "comment on table t is 'x'", "", S),
    (13, T, "comment on column t.a is 'x'", "", S),
    (13, T, "alter table t replica identity full", "", S),
    (13, T, "alter table t replica identity nothing", "", S),
    (13, "create table t (a int not null unique)", "alter table t replica identity using index t_a_key", "", S),
    (13, T, "alter table t enable row level security", "", S),
    (13, "create table t (a int)", "alter table t enable row level security, force row level security", "alter table t enable row level security", S),
    (13, T, "create policy p on t using (b > 0)", "create policy p on t using (b > 1)", S),
    (13, T, "create policy p on t for select using (true)", "create policy p on t for update using (true)", S),
    (13, T, "create policy p on t as restrictive to {reader} with check (b > 0)", "create policy p on t with check (b > 0)", S),
    (13, "create table t (a int); create policy p on t", "comment on policy p on t is 'x'", "", S),
    // Columns.
    (13, "", "create table t (a int default 1)", "create table t (a int default 2)", S),
    (13, "", "create table t (a int not null)", "create table t (a int)", S),
    (18, "", "create table t (a int constraint called not null)", "create table t (a int not null)", S),
    (18, "create table t (a int)", "alter table t add constraint called not null a not valid", "alter table t add constraint called not null a", S),
    (18, "create table t (a int constraint called not null)", "comment on constraint called on t is 'x'", "", S),
    (13, "", "create table t (a text collate \"C\")", "create table t (a text)", S),
    (13, "", "create table t (a int generated always as identity)", "create table t (a int generated by default as identity)", S),
    (13, "", "create table t (a int generated always as identity (start 5))", "create table t (a int generated always as identity)", &[Schema, Sequences]),
    (13, "", "create table t (a int, b int generated always as (a * 2) stored)", "create table t (a int, b int generated always as (a * 3) stored)", S),
    (18, "", "create table t (a int, b int generated always as (a * 2) stored)", "create table t (a int, b int generated always as (a * 2) virtual)", S),
    (13, T, "alter table t alter a set storage external", "", S),
    (14, T, "alter table t alter a set compression pglz", "", S),
    (13, T, "alter table t alter a set statistics 77", "", S),
    (13, T, "alter table t alter a set (n_distinct = 5)", "", S),
    // Constraints.
    (13, "create table t (a int, b int)", "alter table t add constraint c check (a > 0)", "alter table t add constraint c check (a > 1)", S),
    (13, "create table t (a int, b int)", "alter table t add constraint c check (a > 0) not valid", "alter table t add constraint c check (a > 0)", S),
    (13, "create table t (a int, b int)", "alter table t add constraint c check (a > 0) no inherit", "alter table t add constraint c check (a > 0)", S),
    (18, "create table t (a int, b int)", "alter table t add constraint c check (a > 0) not enforced", "alter table t add constraint c check (a > 0)", S),
    (13, "create table t (a int, b int)", "alter table t add constraint c unique (a)", "alter table t add constraint c unique (b)", S),
    (13, "create table t (a int, b int)", "alter table t add constraint c unique (a) include (b)", "alter table t add constraint c unique (a)", S),
    (15, "create table t (a int, b int)", "alter table t add constraint c unique nulls not distinct (a)", "alter table t add constraint c unique (a)", S),
    (13, "create table t (a int, b int)", "alter table t add constraint c unique (a) deferrable initially deferred", "alter table t add constraint c unique (a) deferrable", S),
    (13, "create table t (a int, b int)", "alter table t add constraint c primary key (a) with (fillfactor = 70)", "alter table t add constraint c primary key (a)", S),
    (13, "create table t (a int4range)", "alter table t add constraint c exclude using gist (a with &&)", "alter table t add constraint c exclude using gist (a with =)", S),
    (18, "create extension btree_gist; create table t (a int, b int4range)", "alter table t add constraint c primary key (a, b without overlaps)", "alter table t add constraint c primary key (a, b)", S),
    (13, "create table p (a int primary key); create table t (a int)", "alter table t add constraint c foreign key (a) references p on delete cascade",
        "alter table t add constraint c foreign key (a) references p", S),
    (13, "create table p (a int primary key); create table t (a int)", "alter table t add constraint c foreign key (a) references p deferrable initially deferred",
        "alter table t add constraint c foreign key (a) references p", S),
    (13, "create table t (a int, constraint c check (a > 0))", "comment on constraint c on t is 'x'", "", S),
    // Indexes and statistics.
    (13, T, "create index i on t (a)", "create index i on t (b)", S),
    (13, T, "create unique index i on t (a)", "create index i on t (a)", S),
    (13, T, "create index i on t (a desc nulls last)", "create index i on t (a)", S),
    (13, T, "create index i on t (lower(a)) where b > 0", "create index i on t (lower(a))", S),
    (13, T, "create index i on t using hash (a)", "create index i on t (a)", S),
    (13, T, "create index i on t (a text_pattern_ops)", "create index i on t (a)", S),
    (15, T, "create index i on t (a) tablespace {space}", "create index i on t (a)", S),
    (13, "create table t (a int); create index i on t ((a + 1))", "alter index i alter column 1 set statistics 77", "", S),
    (13, "create table t (a int); create index i on t (a)", "cluster t using i", "", S),
    (13, "create table t (a int); create index i on t (a)", "comment on index i is 'x'", "", S),
    (13, "create table p (a int) partition by list (a); create table q partition of p default; create index j on q (a); create index i on only p (a)",
        "alter index i attach partition j", "", S),
    (13, T, "create statistics s (dependencies) on id, b from t", "create statistics s (ndistinct) on id, b from t", S),
    (14, T, "create statistics s on (b + 1), a from t", "create statistics s on (b + 2), a from t", S),
    (13, "create table t (a int, b int); create statistics s on a, b from t", "alter statistics s set statistics 77", "", S),
    (13, "create table t (a int, b int); create statistics s on a, b from t", "alter statistics s owner to {reader}", "", G),
    (13, "create table t (a int, b int); create statistics s on a, b from t", "comment on statistics s is 'x'", "", S),
    // Triggers and rules.
    (13, "create table t (a int); create function f() returns trigger language plpgsql as 'begin end'", "create trigger g before insert on t for each row execute function f()",
        "create trigger g after insert on t for each row execute function f()", S),
    (13, "create table t (a int); create function f() returns trigger language plpgsql as 'begin end'", "create trigger g after insert on t referencing new table as n execute function f('x')",
        "create trigger g after insert on t execute function f('x')", S),
    (13, "create table t (a int); create function f() returns trigger language plpgsql as 'begin end'; create trigger g before insert on t execute function f()",
        "alter table t disable trigger g", "alter table t enable always trigger g", S),
    (13, "create table t (a int); create function f() returns trigger language plpgsql as 'begin end'; create trigger g before insert on t execute function f()",
        "comment on trigger g on t is 'x'", "", S),
    (13, "create table t (a int)", "create rule r as on insert to t do also select 1", "create rule r as on insert to t do instead select 1", S),
    (13, "create table t (a int); create rule r as on insert to t do also select 1", "alter table t disable rule r", "", S),
    (13, "create table t (a int); create rule r as on insert to t do also select 1", "comment on rule r on t is 'x'", "", S),
    (13, "create function f() returns event_trigger language plpgsql as 'begin end'", "create event trigger g on ddl_command_end execute function f()",
        "create event trigger g on sql_drop execute function f()", S),
    (13, "create function f() returns event_trigger language plpgsql as 'begin end'", "create event trigger g on sql_drop when tag in ('DROP TABLE') execute function f()",
        "create event trigger g on sql_drop execute function f()", S),
    (13, "create function f() returns event_trigger language plpgsql as 'begin end'; create event trigger g on sql_drop execute function f()", "alter event trigger g disable", "", S),
    // Views.
    (13, "", "create view v as select 1 as n", "create view v as select 2 as n", S),
    (13, "", "create view v with (security_barrier) as select 1 as n", "create view v as select 1 as n", S),
    (15, "", "create view v with (security_invoker) as select 1 as n", "create view v as select 1 as n", S),
    (13, "create table t (a int)", "create view v as select a from t where a > 0 with check option", "create view v as select a from t where a > 0", S),
    (13, "create table t (a int); create view v as select a from t", "alter view v alter a set default 5", "", S),
    (13, "create view v as select 1 as n", "alter view v owner to {reader}", "", G),
    (13, "", "create materialized view v as select 1 as n", "create materialized view v as select 2 as n", &[Schema, RowContents]),
    (13, "", "create materialized view v as select 1 as n where false with no data", "create materialized view v as select 1 as n where false", S),
    // Sequences.
    (13, "", "create sequence s increment 2", "create sequence s", S),
    (13, "", "create sequence s as int", "create sequence s maxvalue 2147483647", S),
    (13, "", "create sequence s cycle cache 5", "create sequence s", S),
    (15, "", "create unlogged sequence s", "create sequence s", S),
    (13, "create table t (a int); create sequence s", "alter sequence s owned by t.a", "", S),
    (13, "create sequence s", "grant usage on sequence s to {reader}", "", G),
    (13, "create sequence s", "comment on sequence s is 'x'", "", S),
    (13, "create sequence s", "select nextval('s'), nextval('s')", "select nextval('s')", &[Sequences]),
    (13, "create sequence s", "select setval('s', 5, false)", "select setval('s', 5)", &[Sequences]),
    // Foreign data.
    (13, "", "create foreign data wrapper w", "create foreign data wrapper w options (debug 'true')", S),
    (13, "create extension postgres_fdw", "create foreign data wrapper w handler postgres_fdw_handler", "create foreign data wrapper w validator postgres_fdw_validator", S),
    (13, "create foreign data wrapper w", "alter foreign data wrapper w owner to postgres; grant usage on foreign data wrapper w to {reader}", "", G),
    (13, "create foreign data wrapper w", "create server f type 'x' version '1' foreign data wrapper w", "create server f foreign data wrapper w", S),
    (13, "create foreign data wrapper w", "create server f foreign data wrapper w options (host 'a')", "create server f foreign data wrapper w options (host 'b')", S),
    (13, "create foreign data wrapper w; create server f foreign data wrapper w", "alter server f owner to {reader}", "", G),
    (13, "create foreign data wrapper w; create server f foreign data wrapper w", "grant usage on foreign server f to {reader}", "", G),
    (13, "create foreign data wrapper w; create server f foreign data wrapper w", "comment on server f is 'x'", "", S),
    (13, "create foreign data wrapper w; create server f foreign data wrapper w", "create user mapping for public server f", "create user mapping for {reader} server f", S),
    (13, "create foreign data wrapper w; create server f foreign data wrapper w", "create user mapping for public server f options (password 'x')",
        "create user mapping for public server f options (password 'y')", S),
    (13, "create foreign data wrapper w; create server f foreign data wrapper w", "create foreign table t (a int) server f options (x '1')", "create foreign table t (a int) server f", S),
    (13, "create foreign data wrapper w; create server f foreign data wrapper w", "create foreign table t (a int options (x '1')) server f", "create foreign table t (a int) server f", S),
    // Publications and subscriptions.
    (13, "create table t (a int primary key)", "create publication p for table t", "create publication p", S),
    (13, "", "create publication p for all tables", "create publication p", S),
    (13, "", "create publication p with (publish = 'insert')", "create publication p", S),
    (13, "", "create publication p with (publish_via_partition_root = true)", "create publication p", S),
    (18, "", "create publication p with (publish_generated_columns = stored)", "create publication p", S),
    (15, "create table t (a int primary key, b int)", "create publication p for table t (a)", "create publication p for table t", S),
    (15, "create table t (a int primary key, b int)", "create publication p for table t where (a > 0)", "create publication p for table t", S),
    (15, "", "create publication p for tables in schema public", "create publication p", S),
    (13, "create publication p", "alter publication p owner to postgres; comment on publication p is 'x'", "", S),
    (13, "", "create subscription u connection 'host=a' publication one with (connect = false, slot_name = none, enabled = false)",
        "create subscription u connection 'host=b' publication one with (connect = false, slot_name = none, enabled = false)", S),
    (13, "", "create subscription u connection 'host=a' publication one with (connect = false, slot_name = none, enabled = false, synchronous_commit = on)",
        "create subscription u connection 'host=a' publication one with (connect = false, slot_name = none, enabled = false)", S),
    (14, "", "create subscription u connection 'host=a' publication one with (connect = false, slot_name = none, enabled = false, binary = true)",
        "create subscription u connection 'host=a' publication one with (connect = false, slot_name = none, enabled = false)", S),
    (16, "", "create subscription u connection 'host=a' publication one with (connect = false, slot_name = none, enabled = false, origin = none)",
        "create subscription u connection 'host=a' publication one with (connect = false, slot_name = none, enabled = false)", S),
    // Default privileges.
    (13, "", "alter default privileges grant select on tables to {reader}", "", G),
    (13, "", "alter default privileges in schema public grant usage on sequences to {reader}", "", G),
    (13, "", "alter default privileges for role {reader} revoke execute on functions from public", "", G),
    (18, "", "alter default privileges grant select on large objects to {reader}", "", G),
    // Security labels: no provider is at hand, so they are written as a provider's would be.
    (13, T, "insert into pg_seclabel select 't'::regclass, 'pg_class'::regclass, 0, 'none', 'x'", "", S),
    (13, T, "insert into pg_seclabel select 't'::regclass, 'pg_class'::regclass, 2, 'none', 'x'", "", S),
    // Large objects.
    (13, "", "select lo_create(4242)", "", &[RowCounts]),
    (13, "select lo_create(4242)", "alter large object 4242 owner to {reader}", "", G),
    (13, "select lo_create(4242)", "grant select on large object 4242 to {reader}", "", G),
    (13, "select lo_create(4242)", "comment on large object 4242 is 'x'", "comment on large object 4242 is 'y'", S),
    (13, "select lo_create(4242)", "insert into pg_seclabel select 4242, 'pg_largeobject'::regclass, 0, 'none', 'x'", "", S),
    (13, "", "select lo_from_bytea(4242, 'one')", "select lo_from_bytea(4242, 'two')", &[RowContents]),
    // Rows.
    (13, T, "insert into t values (1, 'a', 1)", "", &[RowCounts]),
    (13, T, "insert into t values (1, 'a', 1)", "insert into t values (1, 'b', 1)", &[RowContents]),
    (13, T, "insert into t values (1, null, 1)", "insert into t values (1, '', 1)", &[RowContents]),
    (13, T, "insert into t values (1, 'a', 1), (2, 'b', 2)", "insert into t values (2, 'a', 1), (1, 'b', 2)", &[Ids]),
    (13, T, "insert into t values (1, 'a', 1), (2, 'b', 2)", "insert into t values (3, 'a', 1), (2, 'c', 2)", &[RowContents, Ids]),
    (13, "create table p (id int primary key, name text); create table t (id int primary key, p int references p)",
        "insert into p values (1, 'a'), (2, 'b'); insert into t values (1, 1)", "insert into p values (2, 'a'), (1, 'b'); insert into t values (1, 2)", &[Ids]),
    (13, "create table p (id int primary key, name text); create table t (id int primary key, p int references p)",
        "insert into p values (1, 'a'), (2, 'b'); insert into t values (1, 1)", "insert into p values (1, 'a'), (2, 'b'); insert into t values (1, 2)", &[RowContents]),
    (13, "create table t (a float8, b interval, c date, d bytea)", "insert into t values (0.1, '1 day', '2020-02-03', 'x')",
        "insert into t values (0.1, '2 days', '2020-02-03', 'x')", &[RowContents]),
    (13, "create unlogged table t (a int)", "insert into t values (1)", "insert into t values (2)", &[RowContents]),
    (13, "create table p (a int) partition by list (a); create table q partition of p default", "insert into p values (1)", "insert into p values (2)", &[RowContents]),
    (13, "create table p (a int); create table t () inherits (p)", "insert into t values (1)", "insert into t values (2)", &[RowContents]),
];

/// What pg_dump does not print of all that is compared.
const NOT_DUMPED: &[&str] = &[
    "drop schema public",
    "drop extension plpgsql",
    // Of a language whose handler initdb made, whether it is trusted.
    "create language l handler plpgsql_call_handler",
];

#[test]
fn each_kind_is_compared() {
    let reader = Role::new(server());
    let space = format!("space_{}", random_id());
    let major = server().version_major();
    if major >= 15 {
        let here = format!("create tablespace {space} location ''");
        block_on(async {
            let mut session = connect("postgres").await;
            for sql in ["set allow_in_place_tablespaces = on", &here] {
                run(&mut session, sql).await.unwrap();
            }
        });
    }
    let wanted: Vec<&Kind> = KINDS.iter().filter(|kind| major >= kind.0).collect();
    let dump = pg_dump();
    if dump.is_none() {
        eprintln!("no pg_dump of this version or a later one: nothing is compared with what it prints");
    }
    let next = Mutex::new(wanted.iter());
    let wrong = Mutex::new(Vec::new());
    let names = (reader.name.as_str(), space.as_str());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                block_on(async {
                    let mut admin = connect("postgres").await;
                    while let Some(kind) = take(&next) {
                        if let Err(why) = check(kind, names, &mut admin, dump.as_ref()).await {
                            let (_, _, one, two, _) = kind;
                            wrong.lock().unwrap().push(format!("{one} / {two}\n{why}"));
                        }
                    }
                });
            });
        }
    });
    if major >= 15 {
        server().psql("postgres", &format!("drop tablespace {space}"));
    }
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} kinds:\n{}", wrong.len(), wanted.len(), wrong.join("\n"));
}

fn take<'a>(next: &Mutex<std::slice::Iter<'_, &'a Kind>>) -> Option<&'a Kind> {
    next.lock().unwrap().next().copied()
}

/// Of the superuser, without a password where the server is the tests' own: many short sessions would spend
/// most of their time on passwords.
fn url(database: &str) -> String {
    let socket = server().socket_url(database);
    socket.unwrap_or_else(|| server().url(database))
}

async fn connect(database: &str) -> PgConnection {
    let options: PgConnectOptions = url(database).parse().unwrap();
    options.disable_statement_logging().connect().await.unwrap()
}

async fn run(session: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    done.execute(session).await.map(|_| ())
}

async fn check(
    (_, base, one, two, classes): &Kind,
    (reader, space): (&str, &str),
    admin: &mut PgConnection,
    dump: Option<&PathBuf>,
) -> Result<(), String> {
    let names = [(); 2].map(|()| format!("inv_{}", random_id()));
    let mut result = Ok(());
    for (name, variant) in names.iter().zip([one, two]) {
        // Half the work of the copy through the WAL.
        let strategy = if server().version_major() >= 15 { "strategy file_copy" } else { "" };
        let create = format!("create database {name} template template0 {strategy}");
        run(admin, &create).await.unwrap();
        let mut session = connect(name).await;
        for sql in [base, variant].into_iter().filter(|sql| !sql.is_empty()) {
            let filled =
                sql.replace("{reader}", reader).replace("{space}", space).replace("{database}", name);
            if let Err(error) = run(&mut session, &filled).await {
                result = Err(format!("{sql}: {error}"));
            }
        }
        session.close().await.unwrap();
    }
    if result.is_ok() {
        result = compare(&names, classes, dump, one).await;
    }
    for name in &names {
        // A subscription keeps its database from being dropped.
        if one.contains("create subscription") {
            let mut session = connect(name).await;
            run(&mut session, "drop subscription u").await.unwrap();
            session.close().await.unwrap();
        }
        run(admin, &format!("drop database {name}")).await.unwrap();
    }
    result
}

async fn compare(
    names: &[String; 2],
    classes: &[Class],
    dump: Option<&PathBuf>,
    sql: &str,
) -> Result<(), String> {
    let (found, text) = differs(names).await;
    if found != classes {
        return Err(format!("{found:?} instead of {classes:?}:\n{text}"));
    }
    if let Some(dump) = dump
        && !NOT_DUMPED.iter().any(|known| sql.contains(known))
        && dumped(dump, &names[0]) == dumped(dump, &names[1])
    {
        return Err("pg_dump prints the same of both".into());
    }
    Ok(())
}

/// The classes in which two databases differ, rows included.
async fn differs(names: &[String; 2]) -> (Vec<Class>, String) {
    let ignored = Ignored::default();
    let reading = Reading { rows: Some(&ignored), ..Reading::default() };
    let mut inventories = Vec::new();
    let mut sessions = Vec::new();
    for name in names {
        let mut session = open(&url(name), name).await;
        let mut found = inventory::read(&mut session, &reading).await.unwrap();
        found.replace(name, "(own)");
        inventories.push(found);
        sessions.push(session);
    }
    let mut difference = diff(&inventories[0], &inventories[1]);
    // A time in which nothing was built.
    let window = Window { since: "1900-01-01 00:00+00".into(), until: "1900-01-02 00:00+00".into() };
    let [old, new] = [0, 1].map(|i| &inventories[i].contents);
    if let Some(mut rows) = RowComparison::new(old, new) {
        for session in &mut sessions {
            rows.find_times(session, &window).await.unwrap();
        }
        let mut looks = [Look::new(), Look::new()];
        let found = loop {
            for (session, look) in sessions.iter_mut().zip(&mut looks) {
                rows.look(session, look).await.unwrap();
            }
            let found = rows.judge(&looks[0], &looks[1]);
            if !rows.follow(&found) {
                break found;
            }
        };
        difference.extend(found.changes);
    }
    for session in sessions {
        session.close().await;
    }
    (difference.classes(), difference.to_string())
}

/// One that is as new as the server, which pg_dump has to be.
fn pg_dump() -> Option<PathBuf> {
    let beside = server().bindir().map(|dir| dir.join("pg_dump"));
    let newest = PathBuf::from("pg_dump");
    beside.into_iter().chain([newest]).find(|program| {
        let output = Command::new(program).arg("--version").output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        let major = text.ok().and_then(|text| {
            let version = text.split(' ').nth(2)?;
            version.split('.').next()?.trim().parse::<u32>().ok()
        });
        major.is_some_and(|major| major >= server().version_major())
    })
}

/// What pg_dump prints, but for what is another one each time.
fn dumped(program: &PathBuf, database: &str) -> Vec<String> {
    let output = Command::new(program)
        .arg("--create")
        .arg(url(database))
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| name == "PATH" || name == "LD_LIBRARY_PATH"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace(database, "(own)");
    // A word against injection, other ones each time.
    let lines = text.lines().filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict"));
    lines.map(str::to_owned).collect()
}

/// Each class has a kind, so that none is forgotten.
#[test]
fn each_class_has_a_kind() {
    let mut count: BTreeMap<Class, usize> = BTreeMap::new();
    for (.., classes) in KINDS {
        for class in *classes {
            *count.entry(*class).or_default() += 1;
        }
    }
    assert_eq!(count.keys().copied().collect::<Vec<_>>(), Class::ALL);
    assert!(KINDS.len() > 200, "{}", KINDS.len());
}
