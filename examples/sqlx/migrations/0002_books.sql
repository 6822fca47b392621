create table books (
    id bigint generated always as identity primary key,
    author_id bigint not null references authors,
    title text not null,
    published integer not null
);
create index on books (author_id);
