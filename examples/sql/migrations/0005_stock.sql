-- Sold items leave the stock.
create function take_from_stock() returns trigger language plpgsql as $$
begin
    update products set stock = stock - new.quantity where id = new.product_id;
    return new;
end
$$;

create trigger take_from_stock before insert on order_lines
    for each row execute function take_from_stock();
