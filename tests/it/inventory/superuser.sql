-- The kinds that only a superuser can make.
create extension postgres_fdw;
create foreign data wrapper nothing options (debug 'true');
create server far foreign data wrapper postgres_fdw options (host 'far.example', dbname '{database}');
grant usage on foreign server far to {reader};
create user mapping for {reader} server far options (user 'me', password 'very secret');
create user mapping for public server far;
create foreign table app.distant (id integer options (column_name 'key'), name text)
    server far options (schema_name 'public', table_name 'remote');
create function app.guard() returns event_trigger language plpgsql as 'begin end';
create event trigger guarding on ddl_command_end when tag in ('CREATE TABLE', 'DROP TABLE') execute function app.guard();
comment on event trigger guarding is 'guards';
create trusted language plodd handler plpgsql_call_handler;
create aggregate app.middle (float8 order by anyelement) (sfunc = ordered_set_transition, stype = internal,
    finalfunc = percentile_disc_final, finalfunc_extra);
create type app.shell;
create type app.raw;
create function app.raw_in(cstring) returns app.raw language internal immutable strict as 'textin';
create function app.raw_out(app.raw) returns cstring language internal immutable strict as 'textout';
create type app.raw (input = app.raw_in, output = app.raw_out, like = text, category = 'S');
create operator family app.addresses using hash;
create function app.hashed(app.address) returns integer language sql immutable as 'select hashtext($1.street)';
create operator class app.by_street default for type app.address using hash family app.addresses as
    operator 1 app.===, function 1 app.hashed(app.address);
create access method heap2 type table handler heap_tableam_handler;
create table app.other_method (n integer) using heap2;
create text search template app.blunt (lexize = dsimple_lexize, init = dsimple_init);
create text search parser app.parsed (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype);
create publication everything for all tables;
