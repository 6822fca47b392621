do $$
begin
    insert into order_lines values (1, 200, 100000);
    raise 'sold more than there is';
exception when check_violation then null;
end
$$;
select stock >= 0 from products where id = 200;
