create table products (id bigint generated always as identity primary key, name text not null unique, cents bigint not null);
insert into products (name, cents) values ('bread', 420), ('milk', 150);
