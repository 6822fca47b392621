#!/usr/bin/env bash
# Builds the packages of pgstencil, into target/packages:
#
#   build.sh [binary] [wheel] [npm] [deb]      all of them by default
#
# The binary is linked statically with musl where `rustup target add $(uname -m)-unknown-linux-musl` and musl-gcc
# (Debian: musl-tools) are there; it then runs on every Linux. Elsewhere it is an ordinary one, which needs the C library
# of this machine or a newer one. PACKAGES_MUSL=yes makes that an error, PACKAGES_MUSL=no does not try. PACKAGES_PROFILE
# names another cargo profile than `release`. The wheel needs pip, and takes maturin from it; the npm package needs npm,
# and the Debian package dpkg-deb. Each has the version of Cargo.toml, the man pages and, where its kind has a place for
# them, the shell completions.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
cd "$repository"

target_directory=${CARGO_TARGET_DIR:-$repository/target}
out=$target_directory/packages
profile=${PACKAGES_PROFILE:-release}
mkdir -p "$out"

has() { command -v "$1" >/dev/null; }
fail() { echo "error: $*" >&2 && exit 1; }
say() { echo "== $*" >&2; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
host=$(rustc -vV | sed -n 's/^host: //p')
target=$host
musl=$(uname -m)-unknown-linux-musl
if [ "$(uname -s)" = Linux ] && [ "${PACKAGES_MUSL-}" != no ]; then
    if [ -d "$(rustc --print sysroot)/lib/rustlib/$musl" ] && has musl-gcc; then
        target=$musl
    elif [ "${PACKAGES_MUSL-}" = yes ]; then
        fail "a static binary needs musl-gcc, and: rustup target add $musl"
    else
        say "not static: that needs musl-gcc, and: rustup target add $musl"
    fi
fi
folder=$profile
[ "$profile" != dev ] || folder=debug
options=(--locked --profile "$profile" --features fetch)
built=$target_directory/$folder/pgstencil
if [ "$target" != "$host" ]; then
    options+=(--target "$target")
    built=$target_directory/$target/$folder/pgstencil
fi

# Timestamps in the packages are that of the commit, so that the same commit gives the same files.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

binary() {
    say "binary for $target"
    cargo build "${options[@]}" --bin pgstencil
    install -m 755 "$built" "$out/pgstencil"
    if [ "$target" = "$musl" ] && has ldd && ldd "$out/pgstencil" 2>&1 | grep -q '=>'; then
        fail "$out/pgstencil is not static"
    fi
    rm -rf "$out/man" "$out/completions"
    "$out/pgstencil" man --write "$out/man"
    mkdir -p "$out/completions"
    for shell in bash zsh fish; do
        "$out/pgstencil" completions "$shell" >"$out/completions/$shell"
    done
}

# --- PyPI: the command and the pytest plugin ---
wheel() {
    say "wheel"
    local tools=$out/tools python=$here/python
    [ -x "$tools/bin/maturin" ] || { python3 -m venv "$tools" && "$tools/bin/pip" install -q 'maturin>=1.7,<2'; }
    rm -rf "$python/pgstencil.data" "$out"/*.whl
    mkdir -p "$python/pgstencil.data/data/share/man/man1" "$python/pgstencil.data/data/share/bash-completion/completions"
    cp "$out"/man/*.1 "$python/pgstencil.data/data/share/man/man1"
    cp "$out/completions/bash" "$python/pgstencil.data/data/share/bash-completion/completions/pgstencil"
    # A static binary runs beside every C library.
    local tags=()
    [ "$target" != "$musl" ] || tags=(--compatibility manylinux2014 musllinux_1_1)
    (cd "$python" && "$tools/bin/maturin" build "${options[@]}" "${tags[@]}" --out "$out") >&2
    rm -rf "$python/pgstencil.data"
}

# --- npm: the command and fixtures for vitest and jest ---
npm_package() {
    say "npm package"
    local stage=$out/npm
    rm -rf "$stage" "$out"/*.tgz
    mkdir -p "$stage/bin" "$stage/man"
    cp "$here"/npm/*.cjs "$here"/npm/*.mjs "$here"/npm/*.d.ts "$here"/npm/README.md "$stage"
    cp -L "$here/npm/LICENSE" "$stage"
    install -m 755 "$out/pgstencil" "$stage/bin/pgstencil"
    cp "$out"/man/*.1 "$stage/man"
    VERSION=$version node - "$here/npm/package.json" "$stage" <<'JS'
const fs = require('fs');
const [, , from, stage] = process.argv;
const it = JSON.parse(fs.readFileSync(from, 'utf8'));
it.version = process.env.VERSION;
// The binary is for this system only.
it.os = [process.platform];
it.cpu = [process.arch];
it.man = fs.readdirSync(`${stage}/man`).map((name) => `./man/${name}`);
it.files.push('man');
fs.writeFileSync(`${stage}/package.json`, JSON.stringify(it, null, 2) + '\n');
JS
    (cd "$stage" && npm pack --silent --pack-destination "$out") >&2
}

# --- Debian ---
deb() {
    say "Debian package"
    local root=$out/deb needs="" package
    package=$out/pgstencil_${version}_$(dpkg --print-architecture).deb
    rm -rf "$root" "$out"/*.deb
    install -D -m 755 "$out/pgstencil" "$root/usr/bin/pgstencil"
    install -D -m 644 "$out/completions/bash" "$root/usr/share/bash-completion/completions/pgstencil"
    install -D -m 644 "$out/completions/zsh" "$root/usr/share/zsh/vendor-completions/_pgstencil"
    install -D -m 644 "$out/completions/fish" "$root/usr/share/fish/vendor_completions.d/pgstencil.fish"
    install -d "$root/usr/share/man/man1" "$root/usr/share/doc/pgstencil" "$root/DEBIAN"
    for page in "$out"/man/*.1; do
        gzip -9n <"$page" >"$root/usr/share/man/man1/$(basename "$page").gz"
    done
    gzip -9n <README.md >"$root/usr/share/doc/pgstencil/README.md.gz"
    printf 'pgstencil (%s) unstable; urgency=medium\n\n  * Release %s.\n\n -- %s  %s\n' "$version" "$version" \
        "$(maintainer)" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$root/usr/share/doc/pgstencil/changelog.gz"
    {
        printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: pgstencil\n\n'
        printf 'Files: *\nCopyright: %s\nLicense: MIT\n' "$(sed -n 's/^Copyright (c) //p' LICENSE)"
        sed -n '/^Permission/,$p' LICENSE | sed 's/^$/./; s/^/ /'
    } >"$root/usr/share/doc/pgstencil/copyright"
    # The static binary needs no package at all.
    [ "$target" = "$musl" ] || needs="Depends: libc6 (>= $(libc_version)), libgcc-s1"
    {
        echo "Package: pgstencil"
        echo "Version: $version"
        echo "Architecture: $(dpkg --print-architecture)"
        echo "Maintainer: $(maintainer)"
        echo "Installed-Size: $(du -sk --apparent-size --exclude DEBIAN "$root" | cut -f1)"
        [ -z "$needs" ] || echo "$needs"
        echo "Recommends: postgresql"
        echo "Suggests: git, postgresql-client"
        echo "Section: database"
        echo "Priority: optional"
        echo "Description: $(sed -n 's/^description = "\(.*\)"/\1/p' Cargo.toml)"
        echo " pgstencil runs the migrate command of a project once for each set of migrations,"
        echo " and keeps the result as a template database. Every later run of the tests gets"
        echo " a copy of it within milliseconds."
    } >"$root/DEBIAN/control"
    # Files that appear in time order have the time of the commit.
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    chmod -R u=rwX,go=rX "$root"
    dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >&2
}

maintainer() { echo "${DEBFULLNAME:-pgstencil} <${DEBEMAIL:-pgstencil@localhost}>"; }

# The newest version of a symbol that the binary takes from the C library.
libc_version() {
    objdump -T "$out/pgstencil" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -V | tail -n 1
}

[ $# -gt 0 ] || set -- binary wheel npm deb
# The others contain it.
if [[ " $* " != *" binary "* ]]; then
    [ -x "$out/pgstencil" ] || set -- binary "$@"
fi
for package in "$@"; do
    case $package in
    binary) binary ;;
    wheel) wheel ;;
    npm) npm_package ;;
    deb) deb ;;
    *) fail "no such package: $package" ;;
    esac
done
(cd "$out" && ls -l pgstencil ./*.whl ./*.tgz ./*.deb 2>/dev/null) | awk '{ print $NF, $5 }'
