create table reviews (
    product_id bigint not null references products on delete cascade,
    customer_id bigint not null references customers on delete cascade,
    stars smallint not null check (stars between 1 and 5),
    body text,
    primary key (product_id, customer_id)
);
