create table products (id bigint generated always as identity primary key, name text not null unique, cents bigint not null);
