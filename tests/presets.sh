#!/usr/bin/env bash
# Runs the presets of `init` for real: in a copy of tests/presets/NAME/project it installs the tool as
# tests/presets/NAME/run says, lets `pgstencil init` write the config, and expects `miss`, `hit`, after the next
# migration `extended` (or a `miss`, as expect.toml says), and a `verify` that finds no difference. Those with a
# directory `more` stop at a version: after a full build with its migrations, an edit of the newest one (`edit` in
# expect.toml) leaves a waypoint, and the next edit is built on that.
#
#   tests/presets.sh              all that can be installed here
#   tests/presets.sh --quick      those of CI: pip and npm, a few seconds each
#   tests/presets.sh NAME...
#
# Needs a `pgstencil` on the PATH, or PGSTENCIL. The server is PGSTENCIL_SERVER_URL, or the private server;
# PRESETS_REGISTRY names another registry database. PRESETS_CACHE keeps the installed tools between runs.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/presets" || exit

trees=$PWD
pgstencil=${PGSTENCIL:-pgstencil}
work=$(mktemp -d)
cache=${PRESETS_CACHE:-$work/cache}
mkdir -p "$cache"
export PGSTENCIL_BACKGROUND=off
trap 'rm -rf "$work"' EXIT
quick=(alembic yoyo django knex sequelize node-pg-migrate postgrator db-migrate sql hasura dbmate)

# Prints the directory in which a tool's packages are, and installs them there if need be.
install_tool() {
    local name=$1 kind=$2 project=$3
    shift 3
    local into=$cache/$name
    case $kind in
    pip)
        [ -e "$into/done" ] || {
            python3 -m venv "$into" && "$into/bin/pip" install -q "$@" && touch "$into/done"
        } >&2 || return
        ;;
    npm)
        [ -e "$into/done" ] || {
            mkdir -p "$into" && cp "$project/package.json" "$into" &&
                npm install --prefix "$into" --no-audit --no-fund --silent && touch "$into/done"
        } >&2 || return
        ln -sfn "$into/node_modules" "$project/node_modules"
        ;;
    apt)
        dpkg -s "$@" >/dev/null 2>&1 || {
            export DEBIAN_FRONTEND=noninteractive
            apt-get -q -y --no-install-recommends install "$@"
        } >&2 || return
        ;;
    cargo)
        [ -e "$into/done" ] || {
            cargo install -q --locked --debug --root "$into" "$@" && touch "$into/done"
        } >&2 || return
        ;;
    cargo-run | psql) ;;
    esac
    echo "$into"
}

# Builds in two steps; prints what the second edit is.
two_steps() {
    local edit
    edit=$(sed -n 's/^edit = "\(.*\)"/\1/p' "$1/expect.toml")
    "$pgstencil" evict --all --yes >&2 && cp -R "$1/more/." . &&
        sed -i 's/^build = "/&sleep 2; /' pgstencil.toml || return
    [ "$("$pgstencil" ensure --json | outcome)" = miss ] || return
    for _ in 1 2; do
        echo "-- edited" >>"$edit"
        "$pgstencil" ensure --json | outcome
    done | tr '\n' ' '
    "$pgstencil" list --json | grep -o '"waypoint":true' | wc -l
}

outcome() { sed -n 's/.*"outcome":"\([a-z]*\)".*/\1/p'; }

# Prints a line of the table; fails if an outcome is not the expected one.
try() {
    local name=$1 kind arguments next got
    local tree=$trees/$name project=$work/$name
    mkdir -p "$project"
    cp -R "$tree/project/." "$project"
    read -r kind arguments <"$tree/run"
    next=$(sed -n 's/^next = "\(.*\)"/\1/p' "$tree/expect.toml")
    [ "$next" = full ] && next=miss
    # shellcheck disable=SC2086 # several words
    into=$(set -f; install_tool "$name" "$kind" "$project" $arguments 2>"$project.log") || {
        tail -n 5 "$project.log" >&2
        printf '%-18s %s\n' "$name" "not installed"
        return 1
    }
    cd "$project" || return
    export PATH="$into/bin:$PATH" CARGO_TARGET_DIR=$cache/target-$name
    {
        # shellcheck disable=SC2094 # another file
        "$pgstencil" init && sed -i "1i project = \"preset_$name\"" pgstencil.toml &&
            printf '\n[server]\nregistry = "%s"\n' "${PRESETS_REGISTRY:-pgstencil}" >>pgstencil.toml &&
            "$pgstencil" init --check && "$pgstencil" evict --all --yes # of an earlier run
    } >"$project.log" 2>&1 || got=init
    printf '%-18s' "$name"
    steps=(first:miss again:hit "next:$next" verify:equal)
    [ ! -d "$tree/more" ] || steps+=("waypoint:miss extended 1")
    for step in "${steps[@]}"; do
        if [ -z "${got-}" ]; then
            SECONDS=0
            case $step in
            verify:*) "$pgstencil" verify >>"$project.log" 2>&1 && result=equal || result=different ;;
            waypoint:*) result=$(two_steps "$tree" 2>>"$project.log") ;;
            *)
                case $step in next:*) cp -R "$tree/next/." . ;; esac
                result=$("$pgstencil" ensure --json 2>>"$project.log" | outcome)
                ;;
            esac
            printf ' %s %ds' "${result:-failed}" "$SECONDS"
            [ "$result" = "${step#*:}" ] || got=$step
        fi
    done
    "$pgstencil" evict --all --yes >>"$project.log" 2>&1
    if [ -n "${got-}" ]; then
        printf ' FAILED at %s\n' "$got"
        tail -n 30 "$project.log" >&2
        return 1
    fi
    echo
}

case ${1-} in
--quick) names=("${quick[@]}") ;;
'') mapfile -t names < <(for run in */run; do dirname "$run"; done) ;;
*) names=("$@") ;;
esac

failed=0
for name in "${names[@]}"; do
    if [ "${1-}" = --quick ] && ! command -v npm >/dev/null && grep -q ^npm "$name/run"; then
        printf '%-18s %s\n' "$name" "skipped: npm is not installed"
        continue
    fi
    (try "$name") || failed=$((failed + 1))
done
echo "$((${#names[@]} - failed)) passed, $failed failed"
[ "$failed" = 0 ]
