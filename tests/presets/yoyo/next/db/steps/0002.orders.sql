-- depends: 0001.users
CREATE TABLE orders (id int PRIMARY KEY);
