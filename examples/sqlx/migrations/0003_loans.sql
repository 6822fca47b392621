create table loans (
    book_id bigint primary key references books,
    reader text not null,
    due date not null default current_date + 28
);
