insert into customers (email, name) values ('alan@example.com', 'Alan');
insert into reviews select 1, id, 5, 'good' from customers where name = 'Alan';
delete from customers where name = 'Alan';
select not exists (select from reviews);
