-- depends:
CREATE TABLE users (id int PRIMARY KEY);
