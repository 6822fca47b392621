#!/bin/sh
# Applies the files that the database of DATABASE_URL does not have yet: all in one psql session, each file
# in one transaction together with the row that records it.
set -eu
cd "$(dirname "$0")"

step() { # NAME FILE
    cat <<SQL
select not exists (select from schema_migrations where name = '$1') as missing \gset
\if :missing
\echo applying $1
begin;
\i $2
insert into schema_migrations (name) values ('$1');
commit;
\endif
SQL
}

{
    echo "set client_min_messages = warning;"
    echo "create table if not exists schema_migrations"
    echo "    (name text primary key, applied_at timestamptz not null default now());"
    for file in migrations/*.sql; do
        step "$(basename "$file" .sql)" "$file"
    done
    step seed seed.sql
} | psql -X -q -v ON_ERROR_STOP=1 -d "$DATABASE_URL"
