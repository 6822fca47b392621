# The build command of a test project. `migrate` applies what a database does not have yet, as
# migration tools do; after this head stands what the test wants the build to do (project.rs).
set -eu
cd "$(dirname "$0")"
echo "$$ ${PGDATABASE:-}" >>builds.log
export PGOPTIONS='-c client_min_messages=warning'

sql() { psql -X -q -At -v ON_ERROR_STOP=1 "$@"; }

migrate_one() {
    sql -d "$1" -c 'create table if not exists schema_migrations (name text primary key)'
    applied=$(sql -d "$1" -c 'select name from schema_migrations')
    for file in migrations/*.sql; do
        name=$(basename "$file" .sql)
        printf '%s\n' "$applied" | grep -qxF -e "$name" && continue
        sql -d "$1" --single-transaction -f "$file" -c "insert into schema_migrations values ('$name')"
    done
}

# Every database of the set; the first one by the variable that everybody reads.
migrate() {
    migrate_one "$DATABASE_URL"
    for url in $(env | sed -n 's/^PGSTENCIL_URL_[^=]*=//p'); do
        [ "$url" = "$DATABASE_URL" ] || migrate_one "$url"
    done
}

