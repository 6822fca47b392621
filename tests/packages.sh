#!/usr/bin/env bash
# Builds the packages, installs each as a user would, and runs the README's recipes for a database in each test with the
# real runners: pytest with xdist, vitest, jest.
#
# Needs `psql` on the PATH, python3 with venv, cargo, and pip's index; without npm, its part is skipped, and without
# dpkg-deb that of Debian. The server is PGSTENCIL_SERVER_URL, or the private server; PACKAGES_REGISTRY names another
# registry database. PACKAGES_CACHE keeps what was installed between runs. PACKAGES_BUILT names a directory with packages
# that were built before. The rest of the variables is that of examples/packages/build.sh.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
cache=${PACKAGES_CACHE:-$work/cache}
mkdir -p "$cache" "$work/project/migrations"
trap 'rm -rf "$work"' EXIT
export PGSTENCIL_BACKGROUND=off
unset PGSTENCIL_BINARY

passed=0
ok() {
    echo "$1 passed"
    passed=$((passed + 1))
}
fail() { echo "failed: $*" >&2 && exit 1; }
logged() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2 && fail "$*"; }; }
# Runs what must fail, and shows what it printed.
fails() { ! "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2 && fail "$* did not fail"; }; }
said() { grep -q -- "$1" "$work/log" || { cat "$work/log" >&2 && fail "nothing said \`$1\`"; }; }
# The nth block of the README in a language that contains some text.
block() { awk -v lang="$1" -v text="$2" '
    $0 == "```" lang { on = 1; body = ""; next }
    $0 == "```" && on { on = 0; if (index(body, text)) { printf "%s", body; found = 1; exit } }
    on { body = body $0 "\n" }
    END { exit !found }' "$repository/README.md"; }
# What `kept until` printed is a database that is there.
kept() {
    local name
    name=$(sed -n 's/.*pgstencil release \([a-z0-9_]*\)$/\1/p' "$work/log" | head -n 1)
    [ -n "$name" ] || { cat "$work/log" >&2 && fail "no database was kept"; }
    "$bin" release "$name" >/dev/null 2>&1 || fail "$name is not there"
}

built=${PACKAGES_BUILT-}
if [ -z "$built" ]; then
    logged "$repository/examples/packages/build.sh"
    built=${CARGO_TARGET_DIR:-$repository/target}/packages
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml" | head -n 1)

cd "$work/project"
echo 'CREATE TABLE users (name text)' >migrations/0001_users.sql
cat >pgstencil.toml <<TOML
project = "packages"
[template.app]
migrations = ["migrations/*.sql"]
build = "cat migrations/*.sql | psql -X -q -v ON_ERROR_STOP=1"
[server]
registry = "${PACKAGES_REGISTRY:-pgstencil}"
TOML

# --- PyPI ---
tools=(pytest pytest-xdist 'psycopg[binary]' mypy uv)
[ "$(cat "$cache/venv/done" 2>/dev/null)" = "${tools[*]}" ] || {
    python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install -q "${tools[@]}" &&
        echo "${tools[*]}" >"$cache/venv/done"
}
logged "$cache/venv/bin/pip" install -q --force-reinstall --no-index "$built"/pgstencil-"$version"-*.whl
bin=$cache/venv/bin/pgstencil
"$bin" --version | grep -q "^pgstencil $version" || fail "the wheel's binary"
[ "$("$cache/venv/bin/python" -m pgstencil --version)" = "$("$bin" --version)" ] || fail "python -m pgstencil"
[ -s "$cache/venv/share/man/man1/pgstencil-run.1" ] || fail "the wheel has no man pages"
uvx=$("$cache/venv/bin/uvx" --no-cache --offline --from "$built"/pgstencil-"$version"-*.whl pgstencil --version) || fail "uvx"
[ "$uvx" = "$("$bin" --version)" ] || fail "uvx runs another version: $uvx"
logged "$cache/venv/bin/mypy" --strict --python-executable "$cache/venv/bin/python" -p pgstencil
ok wheel

mkdir py
# The recipe, four times, so that a database that two tests share is seen.
{
    echo 'import psycopg, pytest'
    echo '@pytest.mark.parametrize("n", range(4))'
    block python 'def test_orders' | sed 's/(database)/(database, n)/'
    cat <<'PY'
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (1,)


@pytest.mark.parametrize("n", range(4))
def test_worker(worker_database, worker_id, n):
    with psycopg.connect(worker_database.url) as connection:
        connection.execute("INSERT INTO users VALUES (%s)", [worker_id])
        assert connection.execute("SELECT count(DISTINCT name) FROM users").fetchone() == (1,)
PY
} >py/test_recipe.py
for workers in 0 2; do
    logged "$cache/venv/bin/pytest" -q -n $workers py/test_recipe.py
    said '8 passed'
done
cat >py/test_failing.py <<'PY'
def test_failing(database):
    assert database.name == ""
PY
for workers in 0 2; do
    fails "$cache/venv/bin/pytest" -q -n $workers py/test_failing.py
    said 'the database is kept until'
    kept
done
printf 'import pytest\n@pytest.mark.pgstencil("nope")\ndef test_it(database):\n    pass\n' >py/test_wrong.py
fails "$cache/venv/bin/pytest" -q py/test_wrong.py
said 'no template definition `nope`'
ok pytest

# A test run that uses no fixture starts nothing.
printf 'def test_it():\n    pass\n' >py/test_none.py
PGSTENCIL_BINARY=/nowhere logged "$cache/venv/bin/pytest" -q py/test_none.py

# A killed pytest leaves nothing.
cat >py/test_killed.py <<'PY'
import os, signal

def test_killed(database):
    print(database.name, file=open("killed", "w"), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
PY
"$cache/venv/bin/pytest" -q py/test_killed.py >/dev/null 2>&1 || true
name=$(cat killed)
for _ in $(seq 100); do
    "$bin" list --json | grep -q "\"$name\"" || { name="" && break; }
    sleep 0.1
done
[ -z "$name" ] || fail "$name is left behind"
ok 'pytest that is killed'

# --- npm ---
if command -v npm >/dev/null; then
    [ -e "$cache/js/done" ] || {
        mkdir -p "$cache/js" && echo '{"private": true}' >"$cache/js/package.json"
        npm install --prefix "$cache/js" --no-audit --no-fund --silent jest@30 vitest@3 pg @types/pg @types/node \
            typescript@5 && touch "$cache/js/done"
    }
    cp -r "$cache/js" js && cd js
    logged npm install --no-audit --no-fund --no-save --offline "$built/pgstencil-$version.tgz"
    [ "$(npx pgstencil --version)" = "$("$bin" --version)" ] || fail "npx pgstencil"
    [ -s node_modules/pgstencil/man/pgstencil-run.1 ] || fail "the npm package has no man pages"
    ok npm

    cat >connect.cjs <<'JS'
const { Client } = require('pg');
exports.connect = async (url) => {
  const client = new Client(url);
  await client.connect();
  return client;
};
JS
    use="await client.query(\"INSERT INTO users VALUES ('ann')\");
  expect((await client.query('SELECT count(*)::int AS n FROM users')).rows).toEqual([{ n: 1 }]);
  await client.end();"
    recipe() { block js "$1" | sed "s|^\(  const client.*\)|\1\n  $(printf %s "$use" | sed 's/$/\\n/' | tr -d '\n')|"; }
    mkdir vitest jest
    for n in 1 2; do
        {
            echo "import { expect } from 'vitest';"
            echo "import { connect } from '../connect.cjs';"
            recipe "'pgstencil/vitest'"
            recipe "'pgstencil/vitest'" | grep -v '^import'
            echo "test('worker', async ({ workerDatabase }) => { await (await connect(workerDatabase.url)).end(); });"
        } >vitest/$n.test.mjs
        {
            echo "const { connect } = require('../connect.cjs');"
            recipe withDatabase
            recipe withDatabase | grep -v '^const'
            echo "test('worker', async () => {"
            echo "  const { workerDatabase } = require('pgstencil');"
            echo "  await (await connect((await workerDatabase()).url)).end();"
            echo "});"
        } >jest/$n.test.js
    done
    for pool in forks threads vmThreads; do
        logged npx vitest run --dir vitest --pool $pool
        said 'Tests .*6 passed'
    done
    for workers in 1 2; do
        logged npx jest --rootDir jest --maxWorkers $workers
        said 'Tests: .*6 passed'
    done
    printf "import { expect } from 'vitest';\nimport { test } from 'pgstencil/vitest';\n%s\n" \
        "test('bad', async ({ database }) => { expect(database.name).toBe(''); });" >vitest/bad.test.mjs
    fails npx vitest run --dir vitest bad
    said 'the database of test "bad" is kept until'
    kept
    printf "const { withDatabase } = require('pgstencil');\n%s\n" \
        "test('bad', withDatabase('app', async (database) => { expect(database.name).toBe(''); }));" >jest/bad.test.js
    fails npx jest --rootDir jest bad
    said 'the database of test "bad" is kept until'
    kept
    ok 'vitest and jest'

    cat >types.mts <<'TS'
import { acquire, withDatabase, workerDatabase, type Database } from 'pgstencil';
import { test, testWith } from 'pgstencil/vitest';

test('fixture', async ({ database, workerDatabase }) => void (database.url + workerDatabase.name));
testWith('app')('fixture', async ({ database }) => void (await database.keep()));
const wrapped: (n: number) => Promise<string> = withDatabase('app', async (db: Database, n: number) => db.url + n);
export const all = [wrapped, (await acquire('app', { waitMs: 1 })).databases['app'], (await workerDatabase()).url];
TS
    logged npx tsc --noEmit --strict --skipLibCheck --module nodenext --target es2022 types.mts
    ok types
    cd ..
else
    echo "npm, vitest, jest skipped: npm is not installed"
fi

# --- Debian ---
if command -v dpkg-deb >/dev/null; then
    deb=$(echo "$built"/pgstencil_"$version"_*.deb)
    dpkg-deb -x "$deb" root
    [ "$(dpkg-deb -f "$deb" Version)" = "$version" ] || fail "the version of $deb"
    [ "$(root/usr/bin/pgstencil --version)" = "$("$bin" --version)" ] || fail "the binary of $deb"
    for file in man/man1/pgstencil-run.1.gz bash-completion/completions/pgstencil doc/pgstencil/copyright \
        zsh/vendor-completions/_pgstencil fish/vendor_completions.d/pgstencil.fish; do
        [ -s "root/usr/share/$file" ] || fail "$deb lacks $file"
    done
    logged bash -c '. root/usr/share/bash-completion/completions/pgstencil && complete -p pgstencil'
    ok Debian
else
    echo "Debian skipped: dpkg-deb is not installed"
fi

"$bin" -q evict --all --yes >/dev/null
echo "$passed passed, 0 failed"
