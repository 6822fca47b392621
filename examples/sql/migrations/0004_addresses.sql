create table addresses (
    id bigint generated always as identity primary key,
    customer_id bigint not null references customers on delete cascade,
    street text not null,
    city text not null,
    postcode text not null
);
alter table orders add column ship_to bigint references addresses;
