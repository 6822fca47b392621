insert into products (name, cents) values ('bread', 420), ('milk', 150);
