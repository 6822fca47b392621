-- The rows that every test starts with. Applied once, after the migrations.
insert into customers (email, name) values
    ('ada@example.com', 'Ada'), ('grace@example.com', 'Grace'), ('edsger@example.com', 'Edsger');

insert into products (sku, name, cents, stock)
select 'SKU-' || n, 'Product ' || n, 100 + 7 * n, 1000 from generate_series(1, 200) n;

insert into orders (customer_id, status)
select 1 + n % 3, case n % 4 when 0 then 'open' when 1 then 'paid' else 'shipped' end::order_status
from generate_series(1, 500) n;

insert into order_lines (order_id, product_id, quantity)
select o, 1 + (o * 7 + l * 31) % 200, l from generate_series(1, 500) o, generate_series(1, 3) l;
