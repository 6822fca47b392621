with o as (insert into orders (customer_id) values (1) returning id)
insert into order_lines select id, 1, 5 from o;
select stock = 1000 - 5 - (select sum(quantity) from order_lines l join orders o on o.id = l.order_id
                           where l.product_id = 1 and o.id <= 500) from products where id = 1;
