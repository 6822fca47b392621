--! Previous: -
--! Hash: sha1:e5e8c4c4a4b7f5a5b5c5d5e5f5a5b5c5d5e5f5a5

CREATE TABLE users (id int PRIMARY KEY);
