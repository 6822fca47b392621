--liquibase formatted sql
--changeset shop:1
CREATE TABLE users (id int PRIMARY KEY);
