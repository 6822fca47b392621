create table settings (key text primary key, value text);
insert into settings values ('a', '1'), ('b', '2');

-- Foreign keys in a circle, to itself, and to a table with rows.
create table teams (id serial primary key, name text not null unique, leader int);
create table people (id int generated always as identity (start 100 increment 10) primary key,
    team int references teams on delete cascade, boss int references people, setting text references settings,
    doc text, tags text[] default '{}', born date, price numeric(8, 2),
    double numeric generated always as (price * 2) stored, exclude using gist (int4range(id, id + 1) with &&));
alter table teams add foreign key (leader) references people deferrable initially deferred;
create index on people using gin (tags);
create index on people (lower(doc)) where doc is not null;
create index on people using brin (born);
create index on people using hash (price);
alter table people alter doc set storage external;
create statistics people_stats on team, boss from people;

-- Partitions of partitions, and a reference from and to them.
create table events (id bigserial, day date not null, team int references teams, what text, primary key (id, day))
    partition by range (day);
create table events_old partition of events for values from ('2020-01-01') to ('2021-01-01');
create table events_new partition of events for values from ('2021-01-01') to ('2022-01-01') partition by hash (id);
create table events_new_0 partition of events_new for values with (modulus 2, remainder 0);
create table events_new_1 partition of events_new for values with (modulus 2, remainder 1);
create table events_rest partition of events default;
create table notes (event bigint, day date, text text, foreign key (event, day) references events);
-- One partition has a row.
create table half (id int primary key) partition by range (id);
create table half_a partition of half for values from (0) to (10);
create table half_b partition of half for values from (10) to (20);
insert into half values (11);
create table of_half (id int references half);

-- Inheritance: the parent is empty, one child has a row.
create table animals (name text);
create table cats (lives int default 9) inherits (animals);
create table dogs (barks boolean) inherits (animals);
insert into cats values ('Tom');

-- A table with rows refers to an empty one, by nulls only.
create table empty_one (id int primary key);
create table full_one (id int references empty_one);
insert into full_one values (null);

-- A trigger writes elsewhere; a rule does.
create table log (id bigserial, said text, at timestamptz default now());
create function note() returns trigger language plpgsql as
    $$ begin insert into log (said) values (tg_op); return coalesce(new, old); end $$;
create table watched (id int, what text);
create trigger watch after insert or update or delete on watched for each row execute function note();
create table ruled (id int);
create rule also as on insert to ruled do also insert into log (said) values ('rule');

-- TRUNCATE is caught, refused, or not allowed.
create table caught (id int);
create trigger catch before truncate on caught execute function note();
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create table refused (id int);
create trigger refuse before truncate on refused execute function refuse();
create table kept (id int);
revoke truncate on kept from current_user;

create table secret (id int, whose text default current_user);
alter table secret enable row level security, force row level security;
create policy own on secret using (whose = current_user and id < 100);

create unlogged table fleeting (id serial, what text);
create table published (id int primary key);
create publication all_of_it for table published;

create domain positive as int check (value > 0);
create type mood as enum ('good', 'bad');
create table moods (id positive, mood mood);
create table was_full (id serial primary key);
insert into was_full select from generate_series(1, 500);
truncate was_full;
create table deleted (id int);
insert into deleted values (1);
delete from deleted;

create sequence alone start 7 cache 3;
create sequence turned minvalue 1 maxvalue 3 cycle;
create sequence moved;
select nextval('moved'), nextval('moved');
create sequence set_back;
select setval('set_back', 41, false);
create sequence of_two;
create table two (a int default nextval('of_two'), b int default nextval('of_two'));

create materialized view totals as select count(*) from settings;
create view people_of as select p.id, t.name from people p join teams t on t.id = p.team;
select lo_from_bytea(4711, 'large');
