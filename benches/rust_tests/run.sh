#!/usr/bin/env bash
# 500 tests (or TESTS) with a database each: `pgstencil::test` against `#[sqlx::test]` under nextest (a process for each test),
# and against raw SQL under `cargo test` with 8 threads. Needs cargo-nextest, and Postgres 15 or later in BINDIR.
#
#     BINDIR=/usr/lib/postgresql/15/bin ROUNDS=3 benches/rust_tests/run.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bindir=${BINDIR:-/usr/lib/postgresql/15/bin}
rounds=${ROUNDS:-3}
export TESTS=${TESTS:-500}
work=$(mktemp -d /dev/shm/rust_tests.XXXXXX)
as() { if [ "$(id -u)" = 0 ]; then su postgres -s /bin/bash -c "$1"; else bash -c "$1"; fi; }
[ "$(id -u)" != 0 ] || chown postgres "$work"
chmod 755 "$work"
port=$((20000 + RANDOM % 10000))
stop() {
    as "$bindir/pg_ctl -D $work/data -m immediate stop >/dev/null" || true
    rm -rf "$work"
}
trap stop EXIT
as "$bindir/initdb -A trust -U postgres --locale=C.UTF-8 $work/data >/dev/null"
as "$bindir/pg_ctl -D $work/data -w -l $work/log -o '-p $port -k $work -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c listen_addresses=127.0.0.1' start >/dev/null"
export PGSTENCIL_SERVER_URL=postgresql://postgres@127.0.0.1:$port/postgres
export DATABASE_URL=$PGSTENCIL_SERVER_URL
export PGSTENCIL_STATE_DIR=$work/state

cargo test --quiet --no-run
# Milliseconds of processor time that the server and its sessions have used, by fields 14 to 17 of proc_pid_stat(5).
server_cpu() {
    awk -v postmaster="$(head -n 1 "$work/data/postmaster.pid")" '
        { own = $1; sub(/^.*\) /, ""); split($0, f, " ") }
        own == postmaster { ticks += f[12] + f[13] + f[14] + f[15] }
        f[2] == postmaster { ticks += f[12] + f[13] }
        END { print ticks * 10 }' /proc/[0-9]*/stat 2>/dev/null
}
# Milliseconds that the harness counts, without cargo's own start; and the server's processor time.
took() {
    local before
    before=$(server_cpu)
    "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    sed -nE 's/.*(finished in|Summary \[) *([0-9.]+)s.*/\2 * 1000 \/ 1/p' "$work/out" | bc | sort -n | tail -n 1 | tr '\n' ' '
    echo $(($(server_cpu) - before))
}
each() { bc <<<"scale=1; $1 / $TESTS"; }
databases() { "$bindir/psql" -XAt "$PGSTENCIL_SERVER_URL" -c "select count(*) from pg_database where datname !~ '^(tpl_|template|postgres|pgstencil)'"; }
drop_theirs() {
    "$bindir/psql" -XAt "$PGSTENCIL_SERVER_URL" -c "select format('drop database if exists %I;', datname) from pg_database where datname like '\_sqlx\_test%'" |
        "$bindir/psql" -Xq "$PGSTENCIL_SERVER_URL" >/dev/null
}
# The template is built before.
cargo nextest run --test ours -E 'test(=t000)' >/dev/null 2>&1
for round in $(seq "$rounds"); do
    echo "round $round, load $(cut -d' ' -f1 /proc/loadavg)"
    read -r ours ours_cpu < <(took cargo nextest run --test ours)
    left=$(databases)
    read -r theirs theirs_cpu < <(took cargo nextest run --test theirs)
    drop_theirs
    echo "  nextest, ms per test: pgstencil $(each "$ours"), sqlx::test $(each "$theirs"), ratio $(bc <<<"scale=2; $ours / $theirs"); processor time of the server $(each "$ours_cpu"), $(each "$theirs_cpu"); $left databases left by pgstencil"
    read -r ours ours_cpu < <(took cargo test --test ours -- --test-threads=8)
    left=$(databases)
    read -r raw raw_cpu < <(took cargo test --test raw -- --ignored)
    echo "  8 threads, ms per test: pgstencil $(each "$ours"), raw SQL $(each "$raw"), throughput $(bc <<<"scale=2; $raw / $ours"); processor time of the server $(each "$ours_cpu"), $(each "$raw_cpu"); $left databases left by pgstencil"
done
