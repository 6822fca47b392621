#!/usr/bin/env bash
# Runs the tests of remote stores that need no fault on imitations of real stores: moto and s3rver (S3), azurite (Azure
# Blob Storage), wsgidav (WebDAV). The names of some of them may be given. Not by CI: it installs them from the indexes of
# pip and npm, into STORES_CACHE [target/tmp/stores].
#
# Needs python3 with venv, npm, cargo, and what the tests need.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${STORES_CACHE:-$repository/target/tmp/stores}
work=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    server=
}
trap 'stop; rm -rf "$work"' EXIT
mkdir -p "$cache"

pip() { # PROGRAM PACKAGE...
    [ -x "$cache/python/bin/$1" ] && return
    [ -d "$cache/python" ] || python3 -m venv "$cache/python"
    "$cache/python/bin/pip" -q install "${@:2}"
}
npm_install() { # PROGRAM PACKAGE
    [ -x "$cache/node_modules/.bin/$1" ] && return
    [ -e "$cache/package.json" ] || echo '{}' >"$cache/package.json"
    (cd "$cache" && npm install --silent --no-audit --no-fund "$2")
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
start() { # COMMAND...
    "$@" >"$work/log" 2>&1 &
    server=$!
    for _ in $(seq 300); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/log" >&2
    echo "$1 did not start" >&2
    exit 1
}
run() { # NAME VARIABLE=VALUE...
    echo "== $1"
    (cd "$repository" && env "${@:2}" cargo test --features fetch --test it -- \
        stores::what_one_server_builds stores::of_two_machines)
}

moto() {
    pip moto_server 'moto[server]'
    start "$cache/python/bin/moto_server" -H 127.0.0.1 -p "$port"
    "$cache/python/bin/python3" - "$port" <<'PYTHON'
import boto3, sys
boto3.client("s3", endpoint_url=f"http://127.0.0.1:{sys.argv[1]}", region_name="us-east-1",
             aws_access_key_id="AKIATESTER", aws_secret_access_key="hush-hush").create_bucket(Bucket="templates")
PYTHON
    run moto PGSTENCIL_TEST_STORE="s3://templates/pgstencil/$RANDOM" AWS_ENDPOINT_URL="http://127.0.0.1:$port" \
        AWS_ALLOW_HTTP=true AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=AKIATESTER AWS_SECRET_ACCESS_KEY=hush-hush
}
s3rver() {
    npm_install s3rver s3rver
    start "$cache/node_modules/.bin/s3rver" --directory "$work/s3rver" --address 127.0.0.1 --port "$port" \
        --configure-bucket templates
    # It ignores If-None-Match.
    run s3rver PGSTENCIL_TEST_STORE="s3://templates/pgstencil/$RANDOM" AWS_ENDPOINT_URL="http://127.0.0.1:$port" \
        AWS_ALLOW_HTTP=true AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=S3RVER AWS_SECRET_ACCESS_KEY=S3RVER \
        PGSTENCIL_TEST_STORE_CONDITIONS=no
}
azurite() {
    npm_install azurite-blob azurite
    start "$cache/node_modules/.bin/azurite-blob" --blobHost 127.0.0.1 --blobPort "$port" --inMemoryPersistence \
        --skipApiVersionCheck
    # The account and the key are those that the imitation documents.
    local account=devstoreaccount1
    local key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==
    python3 - "$port" "$account" "$key" <<'PYTHON'
import base64, email.utils, hashlib, hmac, sys, urllib.request
port, account, key = sys.argv[1:]
date = email.utils.formatdate(usegmt=True)
text = f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n/{account}/{account}/templates\nrestype:container"
sign = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
request = urllib.request.Request(f"http://127.0.0.1:{port}/{account}/templates?restype=container", method="PUT", headers={
    "x-ms-date": date, "x-ms-version": "2021-08-06", "Authorization": f"SharedKey {account}:{sign}"})
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
PYTHON
    run azurite PGSTENCIL_TEST_STORE="az://templates/pgstencil/$RANDOM" AZURE_ALLOW_HTTP=true \
        AZURE_STORAGE_ENDPOINT="http://127.0.0.1:$port/$account" AZURE_STORAGE_ACCOUNT_NAME="$account" \
        AZURE_STORAGE_ACCOUNT_KEY="$key"
}
wsgidav() {
    pip wsgidav wsgidav cheroot
    mkdir -p "$work/dav"
    start "$cache/python/bin/wsgidav" --host 127.0.0.1 --port "$port" --root "$work/dav" --auth anonymous
    run wsgidav PGSTENCIL_TEST_STORE="http://127.0.0.1:$port/pgstencil/$RANDOM?allow_http=true"
}

[ $# -gt 0 ] || set -- moto s3rver azurite wsgidav
for name in "$@"; do
    case $name in
        moto | s3rver | azurite | wsgidav) ;;
        *) echo "unknown store: $name" >&2 && exit 2 ;;
    esac
    port=$(free_port)
    "$name"
    stop
done
echo "all of them passed: $*"
