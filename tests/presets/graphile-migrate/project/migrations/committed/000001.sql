--! Previous: -
--! Hash: sha1:24943e61783cf7060f01b43304c02e67c84e2766

CREATE TABLE users (id int PRIMARY KEY);
