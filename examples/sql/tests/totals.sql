with o as (insert into orders (customer_id) values (2) returning id)
insert into order_lines select id, 1, 3 from o;
select cents = 3 * 107 from order_totals order by id desc limit 1;
