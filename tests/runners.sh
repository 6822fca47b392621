#!/usr/bin/env bash
# Runs the README's recipes for test runners with the real runners, as far as pip and npm bring them: pytest-xdist,
# jest, vitest, cargo, and go where it is installed. Each test inserts a row and expects to see only its own.
#
# Needs `pgstencil` and `psql` on the PATH. The server is PGSTENCIL_SERVER_URL, or the private server; RUNNERS_REGISTRY
# names another registry database. RUNNERS_CACHE keeps the installed runners between runs.
set -euo pipefail

work=$(mktemp -d)
cache=${RUNNERS_CACHE:-$work/cache}
mkdir -p "$cache" "$work/project/migrations"
trap 'rm -rf "$work"' EXIT
export PGSTENCIL_BACKGROUND=off
cd "$work/project"

echo 'CREATE TABLE seen (who text)' >migrations/0001_seen.sql
cat >pgstencil.toml <<TOML
project = "runners"
[template.app]
migrations = ["migrations/*.sql"]
build = "cat migrations/*.sql | psql -X -q -v ON_ERROR_STOP=1"
[server]
registry = "${RUNNERS_REGISTRY:-pgstencil}"
TOML
pgstencil -q ensure >/dev/null

passed=0
ok() {
    echo "$1 passed"
    passed=$((passed + 1))
}

# What a test does, as a program of its own: exit 1 if another test was in this database.
cat >"$work/seen" <<'SH'
#!/bin/sh
[ "$(psql -X -A -t -q -c "INSERT INTO seen VALUES ('$2'); SELECT count(DISTINCT who) FROM seen" -d "$1")" = 1 ]
SH
chmod +x "$work/seen"
export SEEN="$work/seen"

# --- cargo: two test binaries ---
mkdir -p cargo/tests cargo/src
printf '[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n' >cargo/Cargo.toml
touch cargo/src/lib.rs
for name in a b; do
    cat >cargo/tests/$name.rs <<RUST
#[test]
fn alone() {
    let var = |name| std::env::var(name).unwrap();
    let seen = std::process::Command::new(var("SEEN")).args([var("DATABASE_URL"), "$name".into()]).status();
    assert!(seen.unwrap().success());
}
RUST
done
target=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
(cd cargo && env "CARGO_TARGET_${target}_RUNNER=pgstencil -q run --" CARGO_TARGET_DIR="$cache/target" \
    cargo test --offline -q --tests >"$work/log" 2>&1) || { cat "$work/log" >&2 && exit 1; }
ok cargo

# --- pytest-xdist ---
[ -e "$cache/venv/done" ] || {
    python3 -m venv "$cache/venv" && "$cache/venv/bin/pip" install -q pytest pytest-xdist && touch "$cache/venv/done"
}
mkdir -p py
cat >py/test_seen.py <<'PY'
import os, subprocess, pytest


@pytest.fixture(scope="session")
def url(worker_id):
    return os.environ["PGSTENCIL_URL_" + worker_id[2:]]


@pytest.mark.parametrize("n", range(8))
def test_alone(url, worker_id, n):
    assert url.endswith("_" + worker_id)
    subprocess.run([os.environ["SEEN"], url, worker_id], check=True)
PY
(cd py && PATH="$cache/venv/bin:$PATH" \
    pgstencil -q run --clones 4 --name 'runners_test_gw{n}' -- pytest -q -n 4 >"$work/log" 2>&1) ||
    { cat "$work/log" >&2 && exit 1; }
ok pytest-xdist

# --- jest, vitest ---
if command -v npm >/dev/null; then
    [ -e "$cache/js/done" ] || {
        mkdir -p "$cache/js" && echo '{"private": true}' >"$cache/js/package.json"
        npm install --prefix "$cache/js" --no-audit --no-fund --silent jest@30 vitest@3 && touch "$cache/js/done"
    }
    for runner in jest vitest; do
        mkdir -p $runner && ln -sfn "$cache/js/node_modules" $runner/node_modules
        echo '{"private": true, "type": "commonjs"}' >$runner/package.json
    done
    for n in 1 2 3 4; do
        cat >jest/$n.test.js <<'JS'
const { execFileSync } = require('child_process');
test('alone', () => {
  const id = process.env.JEST_WORKER_ID;
  const url = process.env[`PGSTENCIL_URL_${id - 1}`];
  expect(url.endsWith('_' + id)).toBe(true);
  execFileSync(process.env.SEEN, [url, 'worker ' + id]);
});
JS
        sed -e "s/^const .*/import { execFileSync } from 'child_process';\nimport { test, expect } from 'vitest';/" \
            -e s/JEST_WORKER_ID/VITEST_POOL_ID/ jest/$n.test.js >vitest/$n.test.mjs
    done
    (cd jest && pgstencil -q run --clones 4 --name 'runners_test_{n1}' -- npx jest --maxWorkers 4 >"$work/log" 2>&1) ||
        { cat "$work/log" >&2 && exit 1; }
    ok jest
    (cd vitest &&
        pgstencil -q run --clones 4 --name 'runners_test_{n1}' -- npx vitest run --maxWorkers 4 >"$work/log" 2>&1) ||
        { cat "$work/log" >&2 && exit 1; }
    ok vitest
else
    echo "jest, vitest skipped: npm is not installed"
fi

# --- go: two packages ---
if command -v go >/dev/null; then
    mkdir -p go/a go/b
    printf 'module x\n\ngo 1.20\n' >go/go.mod
    for name in a b; do
        cat >go/$name/x_test.go <<GO
package $name

import ("os"; "os/exec"; "testing")

func TestAlone(t *testing.T) {
	if err := exec.Command(os.Getenv("SEEN"), os.Getenv("DATABASE_URL"), "$name").Run(); err != nil {
		t.Fatal(err)
	}
}
GO
    done
    (cd go && go test -exec 'pgstencil -q run --' ./... >"$work/log" 2>&1) || { cat "$work/log" >&2 && exit 1; }
    ok go
else
    echo "go skipped: not installed"
fi

pgstencil -q evict --all --yes >/dev/null
echo "$passed passed, 0 failed"
