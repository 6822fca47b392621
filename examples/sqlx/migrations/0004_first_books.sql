insert into authors (name) values ('Donald Knuth'), ('Grace Hopper'), ('Edgar Codd');
insert into books (author_id, title, published)
select id, title, published
from (values
    ('Donald Knuth', 'Fundamental Algorithms', 1968),
    ('Grace Hopper', 'Understanding Computers', 1984),
    ('Edgar Codd', 'The Relational Model', 1990)
) as new (name, title, published)
join authors using (name);
