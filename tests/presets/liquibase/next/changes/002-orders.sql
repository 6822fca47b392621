--liquibase formatted sql
--changeset shop:2
CREATE TABLE orders (id int PRIMARY KEY);
