create type order_status as enum ('open', 'paid', 'shipped', 'cancelled');

create table orders (
    id bigint generated always as identity primary key,
    customer_id bigint not null references customers,
    status order_status not null default 'open',
    placed_at timestamptz not null default now()
);
create index on orders (customer_id);

create table order_lines (
    order_id bigint not null references orders on delete cascade,
    product_id bigint not null references products,
    quantity integer not null check (quantity > 0),
    primary key (order_id, product_id)
);
