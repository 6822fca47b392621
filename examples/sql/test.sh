#!/bin/sh
# Runs the tests; under `pgstencil run --shard I/N` the I-th of N parts of them. Each test runs in a
# transaction that is rolled back; every row that it selects must be true.
set -eu
cd "$(dirname "$0")"
shard=${PGSTENCIL_SHARD:-1} shards=${PGSTENCIL_SHARDS:-1}
number=0 ran=0
for file in tests/*.sql; do
    number=$((number + 1))
    [ $((number % shards)) -eq $((shard % shards)) ] || continue
    rows=$(psql -X -q -At -v ON_ERROR_STOP=1 -d "$DATABASE_URL" -c begin -f "$file" -c rollback) || exit 1
    if printf '%s\n' "$rows" | grep -qvx t; then
        echo "FAILED $file" >&2
        exit 1
    fi
    echo "ok $file"
    ran=$((ran + 1))
done
echo "$ran tests passed"
