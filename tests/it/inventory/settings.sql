-- What is stored with the database and CREATE DATABASE does not copy.
alter database {database} set search_path = app, public;
alter database {database} set app.self = '{database}';
alter database {database} set app.jwt_secret = 'hush';
alter role {reader} in database {database} set work_mem = '7MB';
