create view order_totals as
select o.id, o.customer_id, o.status, sum(l.quantity * p.cents) as cents
from orders o
join order_lines l on l.order_id = o.id
join products p on p.id = l.product_id
group by o.id;
