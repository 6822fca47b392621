select (select count(*) from orders) = 500;
select (select count(*) from order_lines) = 1500;
