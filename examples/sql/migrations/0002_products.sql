create table products (
    id bigint generated always as identity primary key,
    sku text not null unique,
    name text not null,
    cents integer not null check (cents >= 0),
    stock integer not null default 0 check (stock >= 0)
);
