--! Previous: sha1:e5e8c4c4a4b7f5a5b5c5d5e5f5a5b5c5d5e5f5a5
--! Hash: sha1:f5e8c4c4a4b7f5a5b5c5d5e5f5a5b5c5d5e5f5a5

CREATE TABLE orders (id int PRIMARY KEY);
